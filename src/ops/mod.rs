//! One typed wrapper per file of `kernels/`, of the same name: it checks shapes, computes the grid and launches.
//! Nothing else knows a block size. Only this folder and [`crate::device`] say `unsafe`, and, behind a feature,
//! `src/instruments/bench/libtorch/native.rs`, which calls another library.

pub mod adam;
pub mod attention;
pub mod conv;
pub mod convert;
pub mod cross_entropy;
pub mod diffaug;
pub mod elementary;
pub mod features;
pub mod gradient_penalty;
pub mod log_partition;
pub mod losses;
pub mod matmul;
pub mod norm;
pub mod peak;
pub mod pixels;
pub mod projection;
pub mod random;
pub mod resample;
pub mod spectral_norm;
pub mod state;
mod tile;
mod winograd;

use crate::device::{Buffer, Device, Element, Launch, Reals, Variants};
use crate::{Error, Result};

/// What is applied to a layer's output, or to a normalised value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    Identity,
    /// With this slope below zero: 0 is the plain ReLU. It is not negative, so that the output has the input's sign.
    LeakyRelu(f32),
    Tanh,
}

impl Activation {
    pub const RELU: Activation = Activation::LeakyRelu(0.0);

    /// As kernels take it: a code (0 identity, 1 leaky ReLU, 2 tanh) and the slope.
    pub(crate) fn code(self) -> (u32, f32) {
        match self {
            Activation::Identity => (0, 1.0),
            Activation::LeakyRelu(slope) => (1, slope),
            Activation::Tanh => (2, 0.0),
        }
    }
}

/// The mirror of `Activation` in kernels/device/activation.h.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub(crate) struct ActivationArgument {
    code: u32,
    slope: f32,
}

impl From<Activation> for ActivationArgument {
    fn from(activation: Activation) -> Self {
        let (code, slope) = activation.code();
        ActivationArgument { code, slope }
    }
}

/// `what: name has 3 elements, expected N * C = 4`, unless they agree.
pub(crate) fn expect_len(what: &str, name: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape(format!("{what}: {name} has {found} elements, expected {expected}")))
}

/// The same for what may be left out.
pub(crate) fn expect_optional<T: Element>(what: &str, name: &str, found: Option<&Buffer<T>>, len: usize) -> Result<()> {
    found.map_or(Ok(()), |found| expect_len(what, name, found.len(), len))
}

/// Launches a kernel that goes through `y` and its `inputs`, of as many elements, one by one. `more` pushes what the kernel
/// takes between these and its last two numbers.
fn elementwise<T: Element, const N: usize>(
    what: &str,
    kernel: impl Into<Variants>,
    y: &Buffer<T>,
    inputs: [(&str, &Reals); N],
    more: impl FnOnce(Launch) -> Launch,
) -> Result<()> {
    let (n, chunk) = (size32(what, y.len())?, y.device().tuning().elements as u32);
    let mut launch = y.device().launch(kernel, [n.div_ceil(chunk), 1, 1]).output(y);
    for (name, input) in inputs {
        expect_len(what, name, input.len(), y.len())?;
        launch = launch.input(input);
    }
    // SAFETY: y and all inputs have n elements, which the grid covers; the callers check what they push besides.
    unsafe { more(launch).scalar(n).scalar(chunk).run() }
}

/// How blocks share a reduction over `n` elements: the elements of one block, and the number of blocks.
fn reduction(device: &Device, n: usize) -> (usize, usize) {
    let tuning = device.tuning();
    let chunk = tuning.elements.max(n.div_ceil(tuning.reduce_blocks)).next_power_of_two();
    (chunk, n.div_ceil(chunk))
}

/// Sizes travel to kernels as 32-bit numbers.
pub(crate) fn size32(what: &str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::Shape(format!("{what}: {n} elements, at most {}", u32::MAX)))
}
