//! A NaN is never swallowed: what is computed from one is NaN, and a gradient does not become 0 at one. On every device, and
//! for NaNs of every kind, since GPUs compute another one than CPUs.

use crate::common::*;
use zgan::device::{Buffer, Device, HAS_CHECK, Precision};
use zgan::ops::conv::{self, Conv, ConvGradient, Epilogue, InputEpilogue, Parts, Prologue};
use zgan::ops::cross_entropy;
use zgan::ops::elementary::{self, Function};
use zgan::ops::gradient_penalty::{self, Direction};
use zgan::ops::log_partition::{self, Evaluation};
use zgan::ops::losses::{self, LogitLoss};
use zgan::ops::matmul::{self, Linear, OutputGradient};
use zgan::ops::norm::{self, Affine, Batch, Gradients, Shape, Tables};
use zgan::ops::projection::{self, Head};
use zgan::ops::resample::{self, Image, Upsampling};
use zgan::ops::spectral_norm::{self, Matrix, Outputs, Plan};
use zgan::ops::state::{State, StateBuffer};
use zgan::ops::{Activation, attention};

/// What CPUs compute, with both signs, what GPUs compute, and one with a payload.
fn nans() -> [f32; 4] {
    [0x7fc0_0000, 0xffc0_0000, 0x7fff_ffff, 0x7fc0_0123].map(f32::from_bits)
}

const SIZES: [usize; 5] = [1, 31, 33, 70, 1000];

/// Numbers of both signs with a NaN at one place, at several of them one after the other.
fn with_nan(n: usize, body: impl Fn(&[f32], usize)) {
    let numbers = Random(n as u64).normals(n);
    for (i, nan) in nans().into_iter().enumerate() {
        let at = [0, n / 2, n - 1, n / 3][i];
        let mut numbers = numbers.clone();
        numbers[at] = nan;
        body(&numbers, at);
    }
}

fn read(buffer: &Buffer<f32>) -> Vec<f32> {
    buffer.read().unwrap()
}

fn upload(device: &Device, values: &[f32]) -> Buffer<f32> {
    device.upload(values).unwrap()
}

/// The precisions that this build has.
fn precisions() -> Vec<Precision> {
    Precision::ALL.into_iter().filter(|p| *p == Precision::F32 || HAS_CHECK && p.bytes() == 2).collect()
}

#[track_caller]
fn assert_all_nan(what: &str, values: &[f32]) {
    assert!(values.iter().all(|x| x.is_nan()), "{what}: {values:?}");
}

#[test]
fn functions_sums_and_maxima() {
    on_each_device(|device| {
        for n in SIZES {
            with_nan(n, |x, at| {
                let (x, y) = (upload(device, x), device.zeros::<f32>(n).unwrap());
                for function in [Function::Exp, Function::Log, Function::Tanh] {
                    elementary::function(function, &y, &x).unwrap();
                    assert!(read(&y)[at].is_nan(), "{function:?} of {n} at {at}");
                }
                let workspace = device.zeros(elementary::workspace_len(device, n)).unwrap();
                let one = device.zeros(1).unwrap();
                elementary::maximum(&one, &x, &workspace).unwrap();
                assert!(read(&one)[0].is_nan(), "maximum of {n}, NaN at {at}");
                elementary::sum(&one, &x, &workspace).unwrap();
                assert!(read(&one)[0].is_nan(), "sum of {n}, NaN at {at}");
            });
        }
    });
}

#[test]
fn activations_and_gradients_through_them() {
    on_each_device(|device| {
        for n in SIZES {
            with_nan(n, |x, at| {
                let ones = vec![1.5; n];
                for slope in [0.0, 0.2] {
                    let y = device.zeros(n).unwrap();
                    elementary::leaky_relu(&y, &upload(device, x), slope).unwrap();
                    assert!(read(&y)[at].is_nan());
                    for precision in precisions() {
                        let up = |values: &[f32]| device.upload_in(values, precision).unwrap();
                        let dx = up(&vec![0.0; n]);
                        elementary::leaky_relu_backward(&dx, &up(&ones), &up(x), slope).unwrap();
                        assert_eq!(read(&dx)[at], 1.5, "a gradient at a NaN stays, {precision}");
                        elementary::leaky_relu_backward(&dx, &up(x), &up(&ones), slope).unwrap();
                        assert!(read(&dx)[at].is_nan(), "a gradient that is NaN, {precision}");
                    }
                }
            });
        }
    });
}

#[test]
fn linear_layers_and_convolutions_with_an_activation() {
    on_each_device(|device| {
        for activation in [Activation::RELU, Activation::LeakyRelu(0.2), Activation::Tanh] {
            for precision in precisions() {
                let up = |values: &[f32]| device.upload_in(values, precision).unwrap();
                // Channels that fill no piece of 16 bytes, and that do.
                for (nan, (c, k)) in nans().into_iter().zip([(5, 33), (8, 40)].into_iter().cycle()) {
                    let sizes = Linear { n: 3, c, k };
                    let mut x = Random(1).normals(3 * c);
                    x[c + 2] = nan;
                    let weight = Random(2).normals(c * k);
                    let y = up(&vec![0.0; 3 * k]);
                    matmul::linear_forward(sizes, &y, &up(&x), &up(&weight), None, activation).unwrap();
                    assert_all_nan("linear", &read(&y)[k..2 * k]);

                    // Backward through the activation of a value that is NaN: whatever comes, it is not 0.
                    let mut value = Random(3).normals(3 * k);
                    value[k..2 * k].fill(nan);
                    let (dx, dy, value) = (up(&vec![0.0; 3 * c]), up(&vec![1.0; 3 * k]), up(&value));
                    let gradient = OutputGradient { dy: &dy, y: Some(&value), activation, row_scale: None };
                    matmul::linear_input_gradient(sizes, &dx, &gradient, &up(&weight)).unwrap();
                    assert!(read(&dx)[c..2 * c].iter().all(|x| *x != 0.0), "{activation:?}: {:?}", read(&dx));

                    // A convolution that activates what it reads, and masks its gradient by that.
                    let sizes = Conv { n: 2, h: 4, w: 6, c, k, r: 3, s: 3, pad: [1; 2], stride: 1 };
                    let mut x = Random(4).normals(2 * 24 * c);
                    x[24 * c..25 * c].fill(nan);
                    let (x, filters) = (up(&x), up(&Random(5).normals(9 * c * k)));
                    let y = up(&vec![0.0; 2 * 24 * k]);
                    let before = if activation == Activation::Tanh { Activation::RELU } else { activation };
                    let prologue = Prologue { activation: before, ..Prologue::NONE };
                    conv::conv_forward(sizes, &y, &x, &filters, &prologue, &Epilogue::NONE).unwrap();
                    assert_all_nan("convolution", &read(&y)[24 * k..25 * k]);
                    let (dx, dy) = (up(&vec![0.0; 2 * 24 * c]), up(&vec![1.0; 2 * 24 * k]));
                    let into = InputEpilogue { mask: Some((&x, 0.0)), ..InputEpilogue::NONE };
                    let workspace = up(&vec![0.0; conv::input_gradient_workspace_len(device, &sizes)]);
                    let gradient = ConvGradient::stored(&dy);
                    conv::conv_input_gradient(sizes, &dx, &gradient, &filters, &into, &workspace, Parts::NONE).unwrap();
                    assert!(read(&dx)[24 * c..25 * c].iter().all(|x| *x != 0.0), "masked by a NaN");
                }
            }
        }
    });
}

#[test]
fn norms() {
    on_each_device(|device| {
        for precision in precisions() {
            let up = |values: &[f32]| device.upload_in(values, precision).unwrap();
            for (n, c) in [(3, 5), (40, 33), (1000, 2)] {
                // Infinity among finite numbers, which makes NaN of the deviations from the mean, is a way to lose one too.
                for bad in nans().into_iter().chain([f32::INFINITY]) {
                    let shape = Shape::features(n, c);
                    let mut x = Random(7).normals(n * c);
                    x[(n / 2) * c + 1] = bad;
                    let x = up(&x);
                    let f32s = |len: usize, value: f32| upload(device, &vec![value; len]);
                    let (gamma, beta, mean, rstd) = (f32s(c, 1.0), f32s(c, 0.0), f32s(c, 0.0), f32s(c, 0.0));
                    let (scale, shift) = (f32s(c, 0.0), f32s(c, 0.0));
                    let tables = Tables { scale: &scale, shift: &shift };
                    let batch = Batch { x: &x, mean: &mean, rstd: &rstd, tables, whole: None };
                    let affine = Affine { gamma: &gamma, beta: &beta, labels: None };
                    let workspace = f32s(norm::workspace_len(device, shape, false), 0.0);
                    norm::statistics(batch, None, affine, 1e-5, shape, &workspace).unwrap();
                    assert!(read(&rstd)[1].is_nan() && !read(&rstd)[0].is_nan(), "{bad} of {n} x {c} in {precision}");
                    let y = up(&vec![0.0; n * c]);
                    norm::apply(&y, &x, tables, Activation::RELU, shape).unwrap();
                    assert!(read(&y).chunks(c).all(|row| row[1].is_nan() && !row[0].is_nan()));
                    let (dx, dy) = (up(&vec![0.0; n * c]), up(&vec![1.0; n * c]));
                    let (dgamma, dbeta) = (f32s(c, 0.0), f32s(c, 0.0));
                    let out = Gradients { dx: &dx, accumulate: false, dgamma: &dgamma, dbeta: &dbeta };
                    norm::backward(out, &dy, batch, affine, Activation::RELU, shape, &workspace).unwrap();
                    assert!(read(&dx).chunks(c).all(|row| row[1].is_nan()) && read(&dgamma)[1].is_nan());
                    assert!(read(&dbeta)[1] != 0.0);
                }
            }
        }
    });
}

#[test]
fn the_projection_head_and_the_penaltys_pooling() {
    on_each_device(|device| {
        for precision in precisions() {
            let up = |values: &[f32]| device.upload_in(values, precision).unwrap();
            for c in [5, 33, 130] {
                for nan in nans() {
                    let (n, p) = (3, 7);
                    let mut x = Random(9).normals(n * p * c);
                    let at = (p + 2) * c + 1;
                    x[at] = nan;
                    let x = up(&x);
                    let w = upload(device, &vec![1.0; c]);
                    let head = Head { w: &w, v: None, labels: None, bias: None, pool_factor: 0.5 };
                    let (f, h) = (device.zeros(n).unwrap(), device.zeros(n * c).unwrap());
                    projection::forward(&f, &h, &x, &head).unwrap();
                    assert!(read(&f)[1].is_nan() && read(&h)[c + 1].is_nan() && !read(&f)[0].is_nan());
                    projection::pool(&h, &x, n, 0.5).unwrap();
                    assert!(read(&h)[c + 1].is_nan() && !read(&h)[c].is_nan());
                    let dx = up(&vec![0.0; n * p * c]);
                    projection::input_gradient(&dx, &x, &head, n, None).unwrap();
                    assert_eq!(read(&dx)[at], 0.5, "the gradient at a NaN stays");
                    projection::pool_backward(&dx, &x, &upload(device, &vec![1.0; n * c]), n, 0.5).unwrap();
                    assert_eq!(read(&dx)[at], 0.5, "the gradient at a NaN stays");
                    gradient_penalty::pool(&h, &up(&vec![1.0; n * p * c]), &x, n, 0.5).unwrap();
                    assert!(read(&h)[c + 1] >= 0.5, "the tangent at a NaN stays");
                    gradient_penalty::pool(&h, &x, &up(&vec![1.0; n * p * c]), n, 0.5).unwrap();
                    assert!(read(&h)[c + 1].is_nan());

                    let state = StateBuffer::new(device, &State::new(1, [0.0; 2], 0, 0)).unwrap();
                    let (norms, statistics) = (device.zeros(n).unwrap(), device.zeros(2).unwrap());
                    let out = Direction { v: &dx, norms: &norms, statistics: &statistics };
                    gradient_penalty::direction(out, &x, 10.0, 1.0, &state).unwrap();
                    assert_all_nan("statistics of a penalty", &read(&statistics));
                    assert_all_nan("direction", &read(&dx)[p * c..2 * p * c]);
                }
            }
        }
        let head_is_apart = |nan: f32| {
            let x = upload(device, &[1.0, nan, -1.0, 2.0]);
            let w = upload(device, &[1.0, 1.0]);
            let head = Head { w: &w, v: None, labels: None, bias: None, pool_factor: 1.0 };
            let (f, h) = (device.zeros(2).unwrap(), device.zeros(4).unwrap());
            let workspace = device.zeros(projection::unfused::workspace_len(4, 2)).unwrap();
            projection::unfused::forward(&f, &h, &x, &head, &workspace).unwrap();
            assert!(read(&f)[0].is_nan() && read(&f)[1] == 2.0);
        };
        nans().into_iter().for_each(head_is_apart);
    });
}

#[test]
fn every_loss_of_a_logit_that_is_nan() {
    on_each_device(|device| {
        for (n, m) in [(1, 1), (31, 33), (64, 64)] {
            for (i, nan) in nans().into_iter().enumerate() {
                let mut logits = Random(3).normals(n + m);
                // Among the real ones, and among the fakes.
                let at = if i % 2 == 0 { n / 2 } else { n + m / 3 };
                logits[at] = nan;
                let (real, fake) = (upload(device, &logits[..n]), upload(device, &logits[n..]));
                let of = |what: &str, seeds_are_nan: bool, compute: &dyn Fn(&Evaluation)| {
                    let zeros = |len: usize| device.zeros(len).unwrap();
                    let out = Evaluation { statistics: zeros(4), seed_d: zeros(n + m), seed_g: zeros(m) };
                    compute(&out);
                    let (statistics, seeds) = (read(&out.statistics), read(&out.seed_d));
                    assert!(statistics[0].is_nan(), "{what}: {statistics:?}");
                    assert!(statistics[if at < n { 2 } else { 3 }].is_nan(), "{what}: {statistics:?}");
                    assert!(seeds[at] != 0.0 && (seeds[at].is_nan() || !seeds_are_nan), "{what}: {}", seeds[at]);
                };
                for loss in LogitLoss::ALL {
                    let piecewise =
                        matches!(loss, LogitLoss::Hinge | LogitLoss::Wasserstein | LogitLoss::RelativisticHinge);
                    let compute = |out: &Evaluation| losses::fused(out, &real, &fake, loss).unwrap();
                    of(&format!("{loss:?}"), !piecewise, &compute);
                }
                for sign in [1.0, -1.0] {
                    let zeros = |len: usize| device.zeros(len).unwrap();
                    of("softmax", true, &|out| log_partition::one_launch(out, &real, &fake, sign).unwrap());
                    let two = zeros(log_partition::two_launches_workspace_len(device, n + m));
                    of("softmax in two", true, &|out| {
                        log_partition::two_launches(out, &real, &fake, sign, &two).unwrap();
                    });
                    let apart = zeros(log_partition::unfused_workspace_len(device, n + m));
                    of("softmax apart", true, &|out| {
                        log_partition::unfused(out, &real, &fake, sign, &apart).unwrap();
                    });
                }
            }
        }
    });
}

#[test]
fn cross_entropy_and_attention() {
    on_each_device(|device| {
        for nan in nans() {
            for classes in [2, 33, 100] {
                let mut x = Random(5).normals(3 * classes);
                x[classes + classes / 2] = nan;
                let (statistics, dx) = (device.zeros(2).unwrap(), device.zeros(3 * classes).unwrap());
                let out = cross_entropy::Evaluation { statistics: &statistics, dx: &dx };
                let labels = device.upload(&[0, classes as u32 / 2, 1]).unwrap();
                let workspace = device.zeros(cross_entropy::workspace_len(3)).unwrap();
                cross_entropy::evaluate(&out, &upload(device, &x), &labels, 1.0, &workspace).unwrap();
                assert!(read(&statistics)[0].is_nan());
                assert_all_nan("the class logits' gradient", &read(&dx)[classes..2 * classes]);
            }
            for precision in precisions() {
                let up = |values: &[f32]| device.upload_in(values, precision).unwrap();
                // The key is in the second tile of keys, so that there are sums from before it.
                let shape = attention::Shape { n: 1, l: 5, lk: 70, dk: 3, dv: 4 };
                let mut k = Random(6).normals(70 * 3);
                k[65 * 3] = nan;
                let (q, k, v) = (up(&Random(7).normals(15)), up(&k), up(&Random(8).normals(280)));
                let (o, lse) = (up(&[0.0; 20]), device.zeros(5).unwrap());
                let inputs = attention::Inputs { q: &q, k: &k, v: &v };
                attention::forward(&o, &lse, inputs, shape).unwrap();
                assert_all_nan("attention", &[read(&o), read(&lse)].concat());
            }
        }
    });
}

#[test]
fn pooling_and_upsampling() {
    on_each_device(|device| {
        for precision in precisions() {
            for nan in nans() {
                for at in [0, 1, 6, 7] {
                    let image = Image { n: 1, h: 2, w: 6, c: 1 };
                    let mut x = [1.0, -1.0, 2.0, 3.0, -2.0, 0.5, 1.0, 4.0, -1.0, 0.0, 1.0, 2.0];
                    x[at] = nan;
                    let x = device.upload_in(&x, precision).unwrap();
                    let y = device.upload_in(&[0.0; 3], precision).unwrap();
                    resample::average_pool(&y, &x, image).unwrap();
                    assert!(read(&y)[0].is_nan() && !read(&y)[1].is_nan());
                    resample::max_pool(&y, &device.zeros(3).unwrap(), &x, image).unwrap();
                    assert!(read(&y)[0].is_nan() && !read(&y)[1].is_nan());
                    for how in [Upsampling::Nearest, Upsampling::Bilinear] {
                        let y = device.upload_in(&[0.0; 48], precision).unwrap();
                        resample::upsample(&y, &x, image, how).unwrap();
                        let (row, column) = (at / 6, at % 6);
                        assert!(read(&y)[2 * row * 12 + 2 * column].is_nan());
                    }
                }
            }
        }
    });
}

#[test]
fn spectral_norms() {
    on_each_device(|device| {
        for (rows, columns, outputs) in [(33, 5, Outputs::Columns), (5, 33, Outputs::Rows)] {
            for nan in nans() {
                let mut weights = Random(2).normals(rows * columns);
                weights[7] = nan;
                let matrix = Matrix { offset: 0, rows, columns, outputs };
                let plan = Plan::new(device, weights.len(), &[matrix]).unwrap();
                let u = upload(device, &Random(3).normals(plan.u_len()));
                let zeros = |len: usize| device.zeros(len).unwrap();
                let (v, sigma) = (zeros(plan.v_len()), zeros(plan.sigma_len()));
                let (workspace, effective) = (zeros(plan.workspace_len()), zeros(weights.len()));
                let state = spectral_norm::State { u: &u, v: &v, sigma: &sigma, workspace: &workspace };
                spectral_norm::forward(&plan, &effective, &upload(device, &weights), state, true).unwrap();
                assert_all_nan("weights over their norm", &read(&effective));
            }
        }
    });
}
