//! What is fused is what its parts give one after the other, each by its own kernel: normalise, activate, upsample,
//! convolve, pool, add, activate, and all of it backwards. (The fused log-partition and the fused projection head are
//! compared with their plain forms in the tests named after them.)

use crate::common::*;
use zgan::device::{Buffer, Device};
use zgan::ops::conv::{self, Conv, ConvGradient, Epilogue, InputEpilogue, Prologue};
use zgan::ops::elementary::{self, Function};
use zgan::ops::matmul::OutputGradient;
use zgan::ops::norm::{self, Affine, Batch, Gradients, Shape, Tables};
use zgan::ops::resample::{self, Image, Upsampling};
use zgan::ops::{Activation, norm::workspace_len};

const N: usize = 3;
const CLASSES: usize = 4;

struct Given<'a> {
    device: &'a Device,
    random: Random,
}

impl Given<'_> {
    fn normal(&mut self, len: usize) -> Buffer<f32> {
        self.device.upload(&self.random.normals(len)).unwrap()
    }

    /// Where a kernel writes over everything.
    fn empty(&self, len: usize) -> Buffer<f32> {
        self.device.upload(&vec![f32::NAN; len]).unwrap()
    }

    fn zeros(&self, len: usize) -> Buffer<f32> {
        self.device.zeros(len).unwrap()
    }
}

#[track_caller]
fn same(what: &str, fused: &Buffer<f32>, parts: &Buffer<f32>) {
    let error = relative_distance(&fused.read().unwrap(), &to_f64(&parts.read().unwrap()), 1e-30);
    assert!(error <= 2e-6, "{what} on {}: {error:.1e}", fused.device().description());
}

/// `x` through a ReLU, by a kernel that does nothing else: tables of ones and zeros.
fn relu(given: &Given, x: &Buffer<f32>, image: Image) -> Buffer<f32> {
    let Image { n, h, w, c } = image;
    let (scale, shift) = (given.device.upload(&vec![1.0; c]).unwrap(), given.zeros(c));
    let y = given.empty(x.len());
    let tables = Tables { scale: &scale, shift: &shift };
    norm::apply(&y, x, tables, Activation::RELU, Shape { n, h, w, c, upsample: false }).unwrap();
    y
}

/// The signal where `y`, the ReLU's output, is positive.
fn relu_backward(given: &Given, dy: &Buffer<f32>, y: &Buffer<f32>) -> Buffer<f32> {
    let (dy, y) = (dy.read().unwrap(), y.read().unwrap());
    let dx: Vec<f32> = dy.iter().zip(&y).map(|(d, y)| if *y > 0.0 { *d } else { 0.0 }).collect();
    given.device.upload(&dx).unwrap()
}

/// Class-conditional batch norm, ReLU and upsampling.
#[test]
fn norm_activation_and_upsampling() {
    on_each_device(|device| {
        for (h, w, c) in [(1, 1, 1), (3, 5, 7), (8, 8, 33)] {
            let given = &mut Given { device, random: Random(c as u64) };
            let image = Image { n: N, h, w, c };
            let plain = Shape { n: N, h, w, c, upsample: false };
            let fused = Shape { upsample: true, ..plain };
            let (x, dy) = (given.normal(image.elements()), given.normal(4 * image.elements()));
            let (gamma, beta) = (given.normal(CLASSES * c), given.normal(CLASSES * c));
            let labels = device.upload(&[2, 0, 2]).unwrap();
            let affine = Affine { gamma: &gamma, beta: &beta, labels: Some(&labels) };
            let (mean, rstd) = (given.empty(c), given.empty(c));
            let (scale, shift) = (given.empty(N * c), given.empty(N * c));
            let tables = Tables { scale: &scale, shift: &shift };
            let batch = || Batch { x: &x, mean: &mean, rstd: &rstd, tables, whole: None };
            let workspace = given.empty(workspace_len(device, plain, true));
            norm::statistics(batch(), None, affine, 1e-5, plain, &workspace).unwrap();

            let together = given.empty(4 * image.elements());
            norm::apply(&together, &x, tables, Activation::RELU, fused).unwrap();
            let normal = given.empty(image.elements());
            norm::apply(&normal, &x, tables, Activation::Identity, plain).unwrap();
            let active = relu(given, &normal, image);
            let parts = given.empty(4 * image.elements());
            resample::upsample(&parts, &active, image, Upsampling::Nearest).unwrap();
            same("y", &together, &parts);

            let backward = |dy: &Buffer<f32>, activation, shape| {
                let out = [given.empty(image.elements()), given.zeros(CLASSES * c), given.zeros(CLASSES * c)];
                let [dx, dgamma, dbeta] = &out;
                let gradients = Gradients { dx, accumulate: false, dgamma, dbeta };
                norm::backward(gradients, dy, batch(), affine, activation, shape, &workspace).unwrap();
                out
            };
            let together = backward(&dy, Activation::RELU, fused);
            let dactive = given.empty(image.elements());
            resample::upsample_backward(&dactive, &dy, image, Upsampling::Nearest, false).unwrap();
            let parts = backward(&relu_backward(given, &dactive, &active), Activation::Identity, plain);
            for (name, (a, b)) in ["dx", "dgamma", "dbeta"].into_iter().zip(together.iter().zip(&parts)) {
                same(name, a, b);
            }
        }
    });
}

/// A convolution's bare product, and the three gradients of it.
struct Bare<'a, 'b> {
    given: &'a Given<'b>,
    sizes: Conv,
}

impl Bare<'_, '_> {
    fn forward(&self, seen: &Buffer<f32>, filters: &Buffer<f32>) -> Buffer<f32> {
        let z = self.given.empty(self.sizes.n * self.sizes.p() * self.sizes.q() * self.sizes.k);
        conv::conv_forward(self.sizes, &z, seen, filters, &Prologue::NONE, &Epilogue::NONE).unwrap();
        z
    }

    fn backward(&self, dz: &Buffer<f32>, seen: &Buffer<f32>, filters: &Buffer<f32>) -> [Buffer<f32>; 3] {
        let output = OutputGradient { dy: dz, y: None, activation: Activation::Identity, row_scale: None };
        let gradient = ConvGradient { output, pooled: false };
        gradients(self.given, self.sizes, &gradient, filters, (seen, &Prologue::NONE), &InputEpilogue::NONE)
    }
}

/// Of the input, the filters and the bias.
fn gradients(
    given: &Given,
    sizes: Conv,
    gradient: &ConvGradient,
    filters: &Buffer<f32>,
    (x, prologue): (&Buffer<f32>, &Prologue),
    into: &InputEpilogue,
) -> [Buffer<f32>; 3] {
    let out = [given.empty(x.len()), given.zeros(filters.len()), given.zeros(sizes.k)];
    let [dx, dfilters, dbias] = &out;
    let workspace = given.empty(conv::weight_gradient_workspace_len(given.device, &sizes));
    let left = conv::conv_weight_gradient(sizes, (dfilters, Some(dbias)), x, prologue, gradient, &workspace).unwrap();
    let workspace = given.empty(conv::input_gradient_workspace_len(given.device, &sizes));
    conv::conv_input_gradient(sizes, dx, gradient, filters, into, &workspace, left).unwrap();
    out
}

const CHANNELS: [(usize, usize); 4] = [(3, 8), (16, 16), (33, 5), (64, 64)];

/// As in D: y = pool(conv(relu(x))) + bias + residual.
#[test]
fn activation_convolution_pool_bias_and_residual() {
    on_each_device(|device| {
        for (c, k) in CHANNELS {
            let given = &mut Given { device, random: Random(c as u64) };
            let (h, w) = (6, 10);
            let sizes = Conv { n: N, h, w, c, k, r: 3, s: 3, pad: [1; 2], stride: 1 };
            let (seen, whole) = (Image { n: N, h, w, c }, Image { n: N, h, w, c: k });
            let half = whole.halved();
            let (x, filters, bias) = (given.normal(seen.elements()), given.normal(9 * c * k), given.normal(k));
            let (residual, dy) = (given.normal(half.elements()), given.normal(half.elements()));
            let scale = given.normal(N);

            let y = given.empty(half.elements());
            let prologue = Prologue { activation: Activation::RELU, ..Prologue::NONE };
            let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual), pool: true, ..Epilogue::NONE };
            conv::conv_forward(sizes, &y, &x, &filters, &prologue, &epilogue).unwrap();

            let active = relu(given, &x, seen);
            let bare = Bare { given, sizes };
            let pooled = given.empty(half.elements());
            resample::average_pool(&pooled, &bare.forward(&active, &filters), whole).unwrap();
            let biases: Vec<f32> = bias.read().unwrap().into_iter().cycle().take(half.elements()).collect();
            let parts = [given.empty(half.elements()), given.empty(half.elements())];
            elementary::add(&parts[0], &pooled, &device.upload(&biases).unwrap()).unwrap();
            elementary::add(&parts[1], &parts[0], &residual).unwrap();
            same("y", &y, &parts[1]);

            let output =
                OutputGradient { dy: &dy, y: Some(&y), activation: Activation::Identity, row_scale: Some(&scale) };
            let gradient = ConvGradient { output, pooled: true };
            let into = InputEpilogue { mask: Some((&x, 0.0)), ..InputEpilogue::NONE };
            let fused = gradients(given, sizes, &gradient, &filters, (&x, &prologue), &into);
            let (scales, f) = (scale.read().unwrap(), half.elements() / N);
            let scaled: Vec<f32> = dy.read().unwrap().iter().enumerate().map(|(i, d)| d * scales[i / f]).collect();
            let dz = given.empty(whole.elements());
            resample::average_pool_backward(&dz, &device.upload(&scaled).unwrap(), whole, false).unwrap();
            let [dactive, dfilters, dbias] = bare.backward(&dz, &active, &filters);
            same("dx", &fused[0], &relu_backward(given, &dactive, &active));
            same("dfilters", &fused[1], &dfilters);
            // The bias is added after the pooling: to each sum of four the bare one counts a quarter four times.
            same("dbias", &fused[2], &dbias);
        }
    });
}

/// As in G: y = tanh(conv(up(relu(scale x + shift))) + bias), tables per sample.
#[test]
fn tables_upsampling_convolution_and_tanh() {
    on_each_device(|device| {
        for (c, k) in CHANNELS {
            let given = &mut Given { device, random: Random(c as u64) };
            let from = Image { n: N, h: 3, w: 5, c };
            let (seen, to) = (from.doubled(), Image { c: k, ..from.doubled() });
            let sizes = Conv { n: N, h: seen.h, w: seen.w, c, k, r: 3, s: 3, pad: [1; 2], stride: 1 };
            let (x, bias, dy) = (given.normal(from.elements()), given.normal(k), given.normal(to.elements()));
            let (scale, shift) = (given.normal(N * c), given.normal(N * c));
            // Small, so that tanh is not flat.
            let filters: Vec<f32> =
                given.random.normals(9 * c * k).iter().map(|f| 0.3 * f / (c as f32).sqrt()).collect();
            let filters = device.upload(&filters).unwrap();

            let y = given.empty(to.elements());
            let prologue =
                Prologue { scale_shift: Some((&scale, &shift)), activation: Activation::RELU, upsample: true };
            let epilogue = Epilogue { bias: Some(&bias), activation: Activation::Tanh, ..Epilogue::NONE };
            conv::conv_forward(sizes, &y, &x, &filters, &prologue, &epilogue).unwrap();

            let shape = Shape { n: N, h: from.h, w: from.w, c, upsample: false };
            let (normal, up) = (given.empty(from.elements()), given.empty(seen.elements()));
            norm::apply(&normal, &x, Tables { scale: &scale, shift: &shift }, Activation::Identity, shape).unwrap();
            resample::upsample(&up, &relu(given, &normal, from), from, Upsampling::Nearest).unwrap();
            let bare = Bare { given, sizes };
            let z = bare.forward(&up, &filters);
            let biases: Vec<f32> = bias.read().unwrap().into_iter().cycle().take(to.elements()).collect();
            let parts = [given.empty(to.elements()), given.empty(to.elements())];
            elementary::add(&parts[0], &z, &device.upload(&biases).unwrap()).unwrap();
            elementary::function(Function::Tanh, &parts[1], &parts[0]).unwrap();
            same("y", &y, &parts[1]);

            let output = OutputGradient { dy: &dy, y: Some(&y), activation: Activation::Tanh, row_scale: None };
            let gradient = ConvGradient { output, pooled: false };
            let into = InputEpilogue { upsample: true, ..InputEpilogue::NONE };
            let fused = gradients(given, sizes, &gradient, &filters, (&x, &prologue), &into);
            let dz: Vec<f32> =
                dy.read().unwrap().iter().zip(y.read().unwrap()).map(|(d, y)| d * (1.0 - y * y)).collect();
            let [dup, dfilters, dbias] = bare.backward(&device.upload(&dz).unwrap(), &up, &filters);
            let dactive = given.empty(from.elements());
            resample::upsample_backward(&dactive, &dup, from, Upsampling::Nearest, false).unwrap();
            same("gradient before the upsampling", &fused[0], &dactive);
            same("dfilters", &fused[1], &dfilters);
            same("dbias", &fused[2], &dbias);
        }
    });
}
