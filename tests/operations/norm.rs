//! `kernels/norm.cu` against an f64 loop, central differences and PyTorch.

use crate::common::*;
use zgan::device::{Buffer, Device, Precision};
use zgan::ops::Activation;
use zgan::ops::norm::{self, Affine, Batch, Gradients, Running, Shape, Tables};

/// One problem; `labels` is empty where the norm is plain.
#[derive(Clone)]
struct Case {
    shape: Shape,
    activation: Activation,
    eps: f32,
    x: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    labels: Vec<u32>,
    dy: Vec<f32>,
}

impl Case {
    fn new(shape: Shape, activation: Activation, classes: usize, seed: u64) -> Case {
        let mut random = Random(seed);
        let rows = classes.max(1);
        Case {
            shape,
            activation,
            eps: 1e-5,
            x: random.normals(shape.input_len()).iter().map(|x| 3.0 * x + 1.0).collect(),
            gamma: random.normals(rows * shape.c),
            beta: random.normals(rows * shape.c),
            labels: if classes == 0 { vec![] } else { (0..shape.n).map(|_| random.below(classes) as u32).collect() },
            dy: random.normals(shape.output_len()),
        }
    }

    fn label(&self, row: usize) -> usize {
        self.labels.get(row / (self.shape.h * self.shape.w)).map_or(0, |l| *l as usize)
    }

    /// Where row `r` of x goes in y.
    fn outputs(&self, r: usize) -> Vec<usize> {
        let Shape { h, w, upsample, .. } = self.shape;
        if !upsample {
            return vec![r];
        }
        let (n, i, j) = (r / (h * w), r / w % h, r % w);
        (0..4).map(|k| (n * 2 * h + 2 * i + k / 2) * 2 * w + 2 * j + k % 2).collect()
    }
}

fn act(activation: Activation, z: f64) -> (f64, f64) {
    match activation {
        Activation::Identity => (z, 1.0),
        Activation::LeakyRelu(slope) if z > 0.0 => (z, 1.0 + 0.0 * f64::from(slope)),
        Activation::LeakyRelu(slope) => (z * f64::from(slope), f64::from(slope)),
        Activation::Tanh => (z.tanh(), 1.0 - z.tanh().powi(2)),
    }
}

struct Forward {
    mean: Vec<f64>,
    var: Vec<f64>,
    z: Vec<f64>,
    y: Vec<f64>,
}

fn forward(case: &Case, x: &[f64], gamma: &[f64], beta: &[f64]) -> Forward {
    let c = case.shape.c;
    let rows = x.len() / c;
    let mean: Vec<f64> = (0..c).map(|j| (0..rows).map(|r| x[r * c + j]).sum::<f64>() / rows as f64).collect();
    let var: Vec<f64> =
        (0..c).map(|j| (0..rows).map(|r| (x[r * c + j] - mean[j]).powi(2)).sum::<f64>() / rows as f64).collect();
    let (mut z, mut y) = (vec![0.0; x.len()], vec![0.0; case.shape.output_len()]);
    for r in 0..rows {
        for j in 0..c {
            let xhat = (x[r * c + j] - mean[j]) / (var[j] + f64::from(case.eps)).sqrt();
            let k = case.label(r) * c + j;
            z[r * c + j] = gamma[k] * xhat + beta[k];
            case.outputs(r).iter().for_each(|o| y[o * c + j] = act(case.activation, z[r * c + j]).0);
        }
    }
    Forward { mean, var, z, y }
}

struct Backward {
    dx: Vec<f64>,
    dgamma: Vec<f64>,
    dbeta: Vec<f64>,
}

fn backward(case: &Case) -> Backward {
    let (x, gamma, beta, dy) = (to_f64(&case.x), to_f64(&case.gamma), to_f64(&case.beta), to_f64(&case.dy));
    let f = forward(case, &x, &gamma, &beta);
    let c = case.shape.c;
    let rows = x.len() / c;
    let mut out = Backward { dx: vec![0.0; x.len()], dgamma: vec![0.0; gamma.len()], dbeta: vec![0.0; gamma.len()] };
    for j in 0..c {
        let rstd = 1.0 / (f.var[j] + f64::from(case.eps)).sqrt();
        let xhat = |r: usize| (x[r * c + j] - f.mean[j]) * rstd;
        let g = |r: usize| {
            act(case.activation, f.z[r * c + j]).1 * case.outputs(r).iter().map(|o| dy[o * c + j]).sum::<f64>()
        };
        let (mut sum, mut weighted) = (0.0, 0.0);
        for r in 0..rows {
            let k = case.label(r) * c + j;
            out.dbeta[k] += g(r);
            out.dgamma[k] += g(r) * xhat(r);
            sum += gamma[k] * g(r);
            weighted += gamma[k] * g(r) * xhat(r);
        }
        for r in 0..rows {
            let k = case.label(r) * c + j;
            out.dx[r * c + j] = rstd * (gamma[k] * g(r) - (sum + xhat(r) * weighted) / rows as f64);
        }
    }
    out
}

/// Everything on the device.
struct Found {
    mean: Buffer<f32>,
    rstd: Buffer<f32>,
    scale: Buffer<f32>,
    shift: Buffer<f32>,
    running_mean: Buffer<f32>,
    running_var: Buffer<f32>,
    y: Buffer<f32>,
    dx: Buffer<f32>,
    dgamma: Buffer<f32>,
    dbeta: Buffer<f32>,
}

const MOMENTUM: f32 = 0.25;

/// Gradients start from `before` where they accumulate.
fn run(device: &Device, case: &Case, before: f32, accumulate: bool) -> Found {
    run_in(Precision::F32, device, case, before, accumulate)
}

/// With activations and their gradients in this precision.
fn run_in(precision: Precision, device: &Device, case: &Case, before: f32, accumulate: bool) -> Found {
    let shape = case.shape;
    let zeros = |n: usize| -> Buffer<f32> { device.zeros(n).unwrap() };
    let filled = |n: usize, value: f32| -> Buffer<f32> { device.upload(&vec![value; n]).unwrap() };
    let values = |x: &[f32]| device.upload_in(x, precision).unwrap();
    let rows = if case.labels.is_empty() { 1 } else { shape.n };
    let found = Found {
        mean: zeros(shape.c),
        rstd: zeros(shape.c),
        scale: zeros(rows * shape.c),
        shift: zeros(rows * shape.c),
        running_mean: zeros(shape.c),
        running_var: filled(shape.c, 1.0),
        y: values(&vec![f32::NAN; shape.output_len()]),
        dx: values(&vec![if accumulate { before } else { f32::NAN }; shape.input_len()]),
        dgamma: filled(case.gamma.len(), before),
        dbeta: filled(case.gamma.len(), before),
    };
    let x = values(&case.x);
    let (gamma, beta) = (device.upload(&case.gamma).unwrap(), device.upload(&case.beta).unwrap());
    let labels = device.upload(&case.labels).unwrap();
    let affine = Affine { gamma: &gamma, beta: &beta, labels: (!case.labels.is_empty()).then_some(&labels) };
    let tables = Tables { scale: &found.scale, shift: &found.shift };
    let batch = Batch { x: &x, mean: &found.mean, rstd: &found.rstd, tables, whole: None };
    let running = Running { mean: &found.running_mean, var: &found.running_var, momentum: MOMENTUM };
    let workspace = filled(norm::workspace_len(device, shape, affine.labels.is_some()), f32::NAN);
    norm::statistics(batch, Some(running), affine, case.eps, shape, &workspace).unwrap();
    norm::apply(&found.y, &x, tables, case.activation, shape).unwrap();
    let gradients = Gradients { dx: &found.dx, accumulate, dgamma: &found.dgamma, dbeta: &found.dbeta };
    let dy = values(&case.dy);
    norm::backward(gradients, &dy, batch, affine, case.activation, shape, &workspace).unwrap();
    found
}

fn image(n: usize, h: usize, w: usize, c: usize, upsample: bool) -> Shape {
    Shape { n, h, w, c, upsample }
}

fn check(device: &Device, case: &Case, tolerance: f64) {
    let exact = forward(case, &to_f64(&case.x), &to_f64(&case.gamma), &to_f64(&case.beta));
    let gradients = backward(case);
    let found = run(device, case, 2.0, false);
    let rows = case.x.len() / case.shape.c;
    let m = f64::from(MOMENTUM);
    let unbiased = rows as f64 / (rows.max(2) - 1) as f64;
    let rstd: Vec<f64> = exact.var.iter().map(|v| 1.0 / (v + f64::from(case.eps)).sqrt()).collect();
    assert_close("mean", &found.mean, &exact.mean, tolerance);
    assert_close("rstd", &found.rstd, &rstd, tolerance);
    let running: Vec<f64> = exact.mean.iter().map(|x| m * x).collect();
    assert_close("running mean", &found.running_mean, &running, tolerance);
    let running: Vec<f64> = exact.var.iter().map(|v| 1.0 - m + m * v * unbiased).collect();
    assert_close("running var", &found.running_var, &running, tolerance);
    assert_close("y", &found.y, &exact.y, tolerance);
    // dx is what is left of scale * g after its projections are taken off: of two rows, next to nothing.
    let floor = rstd.iter().fold(0.0f64, |m, r| m.max(*r));
    let error = relative_error(&found.dx.read().unwrap(), &gradients.dx, floor);
    assert!(error <= 2.0 * tolerance, "dx: relative error {error:.3e}");
    let on_two = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| 2.0 + x).collect() };
    assert_close("dgamma", &found.dgamma, &on_two(&gradients.dgamma), tolerance);
    assert_close("dbeta", &found.dbeta, &on_two(&gradients.dbeta), tolerance);
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn in_16_bits_it_is_as_good_as_rounding_the_result() {
    on_each_device(|device| {
        for precision in NARROW {
            for (shape, activation, classes) in [
                (Shape::features(2, 1), Activation::Tanh, 0),
                (Shape::features(31, 33), Activation::LeakyRelu(0.2), 0),
                (Shape::features(1000, 3), Activation::Identity, 0),
                (image(3, 5, 7, 16, true), Activation::RELU, 5),
                (image(4, 14, 20, 17, false), Activation::Tanh, 3),
            ] {
                let mut case = Case::new(shape, activation, classes, 3);
                (case.x, case.dy) = (rounded(&case.x, precision), rounded(&case.dy, precision));
                let exact = forward(&case, &to_f64(&case.x), &to_f64(&case.gamma), &to_f64(&case.beta));
                let gradients = backward(&case);
                let rstd: Vec<f64> = exact.var.iter().map(|v| 1.0 / (v + f64::from(case.eps)).sqrt()).collect();
                let floor = 1e-5 * rstd.iter().fold(1.0f64, |m, r| m.max(*r));
                for (accumulate, before) in [(false, 2.0), (true, 0.25)] {
                    let found = run_in(precision, device, &case, before, accumulate);
                    assert_close("mean", &found.mean, &exact.mean, 4e-6);
                    assert_close("rstd", &found.rstd, &rstd, 4e-6);
                    assert_as_good("y", &found.y, &exact.y, 1e-5);
                    let added = if accumulate { f64::from(before) } else { 0.0 };
                    let dx: Vec<f64> = gradients.dx.iter().map(|d| added + d).collect();
                    assert_as_good("dx", &found.dx, &dx, floor);
                    let after = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| f64::from(before) + x).collect() };
                    assert_close("dgamma", &found.dgamma, &after(&gradients.dgamma), 4e-6);
                    assert_close("dbeta", &found.dbeta, &after(&gradients.dbeta), 4e-6);
                }
            }
        }
    });
}

#[test]
fn matches_the_reference_at_any_size() {
    let leaky = Activation::LeakyRelu(0.2);
    on_each_device(|device| {
        for (shape, activation, classes) in [
            (Shape::features(2, 1), Activation::Tanh, 0),
            (Shape::features(31, 33), leaky, 0),
            (Shape::features(64, 128), leaky, 0),
            (Shape::features(1000, 3), Activation::Identity, 0),
            (Shape::features(33, 17), Activation::RELU, 5),
            (image(3, 5, 7, 16, false), leaky, 0),
            (image(3, 5, 7, 16, true), Activation::RELU, 0),
            (image(7, 7, 7, 32, true), Activation::RELU, 10),
            (image(4, 14, 20, 16, true), Activation::Tanh, 3),
            (image(2, 31, 9, 5, false), Activation::Tanh, 2),
            (image(1, 1, 1000, 66, false), Activation::RELU, 1),
        ] {
            check(device, &Case::new(shape, activation, classes, shape.input_len() as u64), 4e-6);
        }
    });
}

#[test]
fn the_reference_gradients_are_central_differences() {
    for (shape, classes) in [(Shape::features(9, 3), 0), (image(3, 2, 3, 2, true), 2), (image(2, 3, 2, 3, false), 0)] {
        for activation in [Activation::Tanh, Activation::LeakyRelu(0.2)] {
            let case = Case::new(shape, activation, classes, 5);
            let (x, gamma, beta, dy) = (to_f64(&case.x), to_f64(&case.gamma), to_f64(&case.beta), to_f64(&case.dy));
            let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
                forward(&case, x, gamma, beta).y.iter().zip(&dy).map(|(y, d)| y * d).sum()
            };
            let gradients = backward(&case);
            for (name, found, expected) in [
                ("dx", &gradients.dx, central_differences(&x, |x| loss(x, &gamma, &beta))),
                ("dgamma", &gradients.dgamma, central_differences(&gamma, |gamma| loss(&x, gamma, &beta))),
                ("dbeta", &gradients.dbeta, central_differences(&beta, |beta| loss(&x, &gamma, beta))),
            ] {
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-7, "{name}: {found}, by differences {expected}");
                }
            }
        }
    }
}

#[test]
fn matches_pytorch() {
    let golden = Golden::open("norm");
    let plain = Case {
        shape: Shape::features(33, 7),
        activation: Activation::LeakyRelu(0.2),
        eps: 0.8,
        labels: vec![],
        x: golden.f32("plain_x"),
        gamma: golden.f32("plain_gamma"),
        beta: golden.f32("plain_beta"),
        dy: golden.f32("plain_dy"),
    };
    let conditional = Case {
        shape: image(6, 3, 5, 4, true),
        activation: Activation::RELU,
        eps: 1e-5,
        labels: golden.u32("conditional_labels"),
        x: golden.f32("conditional_x"),
        gamma: golden.f32("conditional_gamma"),
        beta: golden.f32("conditional_beta"),
        dy: golden.f32("conditional_dy"),
    };
    on_each_device(|device| {
        for (name, case) in [("plain", &plain), ("conditional", &conditional)] {
            let found = run(device, case, 0.0, false);
            for (tensor, found) in
                [("y", &found.y), ("dx", &found.dx), ("dgamma", &found.dgamma), ("dbeta", &found.dbeta)]
            {
                let tensor = format!("{name}_{tensor}");
                assert_close(&tensor, found, &to_f64(&golden.f32(&tensor)), 2e-6);
            }
        }
        // PyTorch's momentum is 0.1 from running statistics of 0 and 1; ours here is MOMENTUM.
        let found = run(device, &plain, 0.0, false);
        let moved = f64::from(MOMENTUM) / 0.1;
        let mean: Vec<f64> = golden.f32("plain_running_mean").iter().map(|m| f64::from(*m) * moved).collect();
        let var: Vec<f64> =
            golden.f32("plain_running_var").iter().map(|v| 1.0 + (f64::from(*v) - 1.0) * moved).collect();
        assert_close("running mean", &found.running_mean, &mean, 2e-6);
        assert_close("running var", &found.running_var, &var, 2e-6);
    });
}

/// 1e4 is added to numbers on a grid of 2^-9: nothing is lost before the kernel, and nothing may be lost in it.
#[test]
fn an_offset_does_not_destroy_the_variance() {
    on_each_device(|device| {
        for shape in [Shape::features(64, 17), image(3, 20, 20, 17, false)] {
            let mut case = Case::new(shape, Activation::Identity, 0, 8);
            case.x =
                Random(8).normals(shape.input_len()).iter().map(|x| (x * 0.5 * 512.0).round() / 512.0 + 1e4).collect();
            let exact = forward(&case, &to_f64(&case.x), &to_f64(&case.gamma), &to_f64(&case.beta));
            let found = run(device, &case, 0.0, false);
            let rstd: Vec<f64> = exact.var.iter().map(|v| 1.0 / (v + f64::from(case.eps)).sqrt()).collect();
            assert_close("mean", &found.mean, &exact.mean, 1e-7);
            assert_close("rstd", &found.rstd, &rstd, 2e-6);
        }
    });
}

#[test]
fn one_row_has_no_variance_and_no_gradient() {
    on_each_device(|device| {
        let case = Case::new(Shape::features(1, 33), Activation::Identity, 0, 4);
        let found = run(device, &case, 0.0, false);
        // xhat is 0 to the rounding of scale x, and the scale is gamma / sqrt(eps).
        assert_close("y", &found.y, &to_f64(&case.beta), 2e-4);
        assert_eq!(found.running_var.read().unwrap(), vec![1.0 - MOMENTUM; 33]);
        let scale = 1.0 / f64::from(case.eps).sqrt();
        assert!(found.dx.read().unwrap().iter().all(|d| f64::from(d.abs()) < 1e-5 * scale), "no more than rounding");
        assert_close("dbeta", &found.dbeta, &to_f64(&case.dy), 1e-7);
        assert_eq!(found.dgamma.read().unwrap(), vec![0.0; 33]);
    });
}

#[test]
fn dx_accumulates_where_asked() {
    on_each_device(|device| {
        let case = Case::new(image(2, 3, 5, 20, true), Activation::RELU, 3, 6);
        let (alone, added) = (run(device, &case, 0.0, false), run(device, &case, 5.0, true));
        let expected: Vec<f64> = alone.dx.read().unwrap().iter().map(|d| f64::from(*d) + 5.0).collect();
        assert_close("dx", &added.dx, &expected, 1e-6);
    });
}

#[test]
fn evaluation_uses_the_running_statistics() {
    on_each_device(|device| {
        for classes in [0, 3] {
            let case = Case::new(image(5, 3, 3, 19, false), Activation::Identity, classes, 9);
            let (gamma, beta) = (device.upload(&case.gamma).unwrap(), device.upload(&case.beta).unwrap());
            let labels = device.upload(&case.labels).unwrap();
            let affine = Affine { gamma: &gamma, beta: &beta, labels: (classes > 0).then_some(&labels) };
            let mut random = Random(1);
            let mean = random.normals(19);
            let var: Vec<f32> = random.normals(19).iter().map(|v| v * v).collect();
            let (mean_buffer, var_buffer) = (device.upload(&mean).unwrap(), device.upload(&var).unwrap());
            let running = Running { mean: &mean_buffer, var: &var_buffer, momentum: 0.0 };
            let rows = if classes > 0 { 5 } else { 1 };
            let (scale, shift) = (device.zeros(rows * 19).unwrap(), device.zeros(rows * 19).unwrap());
            norm::running_tables(Tables { scale: &scale, shift: &shift }, running, affine, 1e-5, case.shape).unwrap();
            for row in 0..rows {
                let label = case.labels.get(row).map_or(0, |l| *l as usize);
                let (mut slopes, mut offsets) = (vec![], vec![]);
                for j in 0..19 {
                    let slope = f64::from(case.gamma[label * 19 + j]) / (f64::from(var[j]) + 1e-5).sqrt();
                    slopes.push(slope);
                    offsets.push(f64::from(case.beta[label * 19 + j]) - f64::from(mean[j]) * slope);
                }
                assert_close("scale", &scale.view(row * 19..(row + 1) * 19), &slopes, 1e-6);
                assert_close("shift", &shift.view(row * 19..(row + 1) * 19), &offsets, 1e-6);
            }
        }
    });
}

#[test]
fn refuses_what_does_not_fit() {
    let device = Device::host(1).unwrap();
    let zeros = |n: usize| -> Buffer<f32> { device.zeros(n).unwrap() };
    let (two, six, eight) = (zeros(2), zeros(6), zeros(8));
    let tables = Tables { scale: &two, shift: &two };
    let shape = Shape::features(3, 2);
    let error = norm::apply(&six, &eight, tables, Activation::Identity, shape).unwrap_err().to_string();
    assert_eq!(error, "norm: x has 8 elements, expected 6");
    let labels: Buffer<u32> = device.zeros(2).unwrap();
    let affine = Affine { gamma: &six, beta: &six, labels: Some(&labels) };
    let running = Running { mean: &two, var: &two, momentum: 0.0 };
    let error = norm::running_tables(tables, running, affine, 1e-5, shape).unwrap_err().to_string();
    assert_eq!(error, "norm: labels has 2 elements, expected 3");
    let error = norm::apply(&two, &two, tables, Activation::Identity, Shape::features(0, 2)).unwrap_err().to_string();
    assert_eq!(error, "norm: 0 x 1 x 1 x 2 values, at least one of each is needed");
}
