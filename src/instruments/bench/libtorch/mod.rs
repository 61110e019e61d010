//! The operations and training steps of the tables in libtorch, which the feature `libtorch` builds in. They are written
//! the way a good user of PyTorch writes them, checked against ours, and timed in turns with ours in one process.
//!
//! Both do the same: the same sizes in f32 on as many threads, with activations and filters in memory as libtorch likes
//! them best (channels last). libtorch uses `logsumexp` and the fused Adam, differentiates only what a loss asks for, and
//! drops gradients instead of clearing them. Forward and backward go through autograd where those of a step would, and
//! otherwise call the passes directly. Inputs are on the device from the start. Where a choice had to be made, it favours
//! libtorch: its Adam does not measure the gradient, its images are floats already, and no Python is involved.
//!
//! On a GPU, cuDNN may search for its fastest convolutions (`cudnn.benchmark`), and every run waits for the device. There
//! is no captured graph, as tch has no call for that. The part for GPUs has never run.
//!
//! `native.rs` is the one place outside `src/device/` and `src/ops/` that says `unsafe`, because tch lacks some calls. The
//! calls that tch has panic when libtorch refuses. Shapes are fixed here, so that would be a mistake in these files, or a
//! lack of memory.

mod logits;
mod memory;
mod native;
mod networks;
mod other;
mod products;
mod steps;

use std::cell::RefCell;
use std::rc::Rc;

pub use logits::{head, hinge, log_partition};
pub use memory::{adam_with_average, conditional_norm, spectral};
pub use other::{class_loss, inception, load, penalty, pooling, upsampling};
pub use products::{attention, convolution, discriminator_convolution, generator_convolution, linear};
pub use steps::{reference_step, step};

use tch::{Kind, Tensor};

use super::{Form, Output, values};
use crate::device::Device;
use crate::{Error, Result};

/// The name of the forms that libtorch computes.
pub const NAME: &str = "libtorch";
/// The name of the step as the Softmax GAN of PyTorch-GAN does it.
const REFERENCE: &str = "libtorch, the reference's way";

/// Where libtorch runs.
#[derive(Clone, Copy)]
struct Torch {
    device: tch::Device,
}

impl Torch {
    /// The place beside one of our devices, with as many threads.
    fn new(device: &Device) -> Result<Torch> {
        if device.execution() != "cuda" {
            tch::set_num_threads(device.workers() as i32);
            return Ok(Torch { device: tch::Device::Cpu });
        }
        if !tch::Cuda::is_available() {
            let what = "this libtorch finds no GPU: build with LIBTORCH set to one that has CUDA";
            return Err(Error::Device(what.into()));
        }
        tch::Cuda::cudnn_set_benchmark(true);
        Ok(Torch { device: tch::Device::Cuda(0) })
    }

    /// The same numbers that our forms start from.
    fn numbers(self, shape: &[usize], seed: u64) -> Tensor {
        self.tensor(&values(shape.iter().product(), seed), shape)
    }

    fn tensor(self, values: &[f32], shape: &[usize]) -> Tensor {
        let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        Tensor::from_slice(values).view(shape.as_slice()).to_device(self.device)
    }

    /// An image (N, H, W, C) as libtorch sees it: (N, C, H, W), with the channels last in memory.
    fn image(self, shape: [usize; 4], seed: u64) -> Tensor {
        self.numbers(&shape, seed).permute([0, 3, 1, 2])
    }

    /// Filters (R, S, C, K) as libtorch sees them: (K, C, R, S), with the channels last in memory.
    fn filters(self, shape: [usize; 4], seed: u64) -> Tensor {
        filters(&self.numbers(&shape, seed))
    }

    fn labels(self, labels: impl Iterator<Item = u32>) -> Tensor {
        let labels: Vec<i64> = labels.map(i64::from).collect();
        Tensor::from_slice(&labels).to_device(self.device)
    }

    fn wait(self) {
        if let tch::Device::Cuda(ordinal) = self.device {
            tch::Cuda::synchronize(ordinal as i64);
        }
    }

    /// A form that `run` computes; each of `reads` finds one output among what it returns.
    fn form(self, reads: Vec<Read>, run: impl Fn() -> Result<Vec<Tensor>> + 'static) -> Form {
        let slot = Rc::new(RefCell::new(Vec::new()));
        let outputs = reads.into_iter().map(|read| {
            let slot = slot.clone();
            Output::Read(Box::new(move || read(&slot.borrow())))
        });
        let outputs = outputs.collect();
        let run = move || {
            let results = run()?;
            self.wait();
            *slot.borrow_mut() = results;
            Ok(())
        };
        Form { name: NAME, run: Box::new(run), outputs }
    }
}

fn filters(rsck: &Tensor) -> Tensor {
    rsck.permute([3, 0, 1, 2]).contiguous().permute([0, 3, 1, 2])
}

/// Makes the tensor an input whose gradient is wanted.
fn leaf(tensor: Tensor) -> Tensor {
    tensor.set_requires_grad(true)
}

type Read = Box<dyn Fn(&[Tensor]) -> Vec<f32>>;

/// How the dimensions of a tensor of libtorch must be permuted to stand in the order that ours have.
const PLAIN: &[i64] = &[];
const NHWC: &[i64] = &[0, 2, 3, 1];
const RSCK: &[i64] = &[2, 3, 1, 0];
const TURNED: &[i64] = &[1, 0];

/// Reads result `i` in the order that our buffers have.
fn read(i: usize, order: &'static [i64]) -> Read {
    Box::new(move |results| {
        floats(&if order.is_empty() { results[i].shallow_clone() } else { results[i].permute(order) })
    })
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.numel()];
    tensor.to_device(tch::Device::Cpu).contiguous().copy_data(&mut values, tensor.numel());
    values
}

/// One line that says which libtorch this is, and which of its settings may differ from run to run.
pub fn description(device: &Device) -> Result<String> {
    let torch = Torch::new(device)?;
    let threads = tch::get_num_threads();
    Ok(match torch.device {
        tch::Device::Cuda(_) => {
            let (products, convolutions) = native::tf32();
            let on = |on| if on { "on" } else { "off" };
            format!(
                "libtorch 2.13 (tch 0.26) on the GPU: cudnn.benchmark on, TF32 {} in products and {} in convolutions, no graph",
                on(products),
                on(convolutions)
            )
        }
        _ => format!("libtorch 2.13 (tch 0.26) on the CPU, {threads} threads"),
    })
}

/// A scalar's value.
fn scalar(tensor: &Tensor) -> f32 {
    tensor.to_kind(Kind::Float).double_value(&[]) as f32
}
