//! Adam, batch norm, random numbers and pixels beside the bandwidth of y = x1 + x2, measured in the same turns.
//! `cargo bench --bench elementwise` prints the table, then criterion's own statistics.

mod bandwidth;

use bandwidth::{compare, numbers};
use criterion::Criterion;
use zgan::device::{Buffer, Device};
use zgan::ops::Activation;
use zgan::ops::adam::{self, Adam, Average, Buffers};
use zgan::ops::norm::{self, Affine, Batch, Gradients, Running, Shape, Tables};
use zgan::ops::pixels::{self, Augment};
use zgan::ops::random;
use zgan::ops::state::{Network, State, StateBuffer};

fn state(device: &Device) -> StateBuffer {
    StateBuffer::new(device, &State::new(1, [1e-4, 1e-4], 0, 0)).unwrap()
}

/// The parameters of the `softmax-gan` preset's generator.
fn adam(device: &Device, criterion: &mut Criterion) {
    let n = 1_510_032;
    let zeros = |n: usize| -> Buffer<f32> { device.zeros(n).unwrap() };
    let (parameters, gradient) = (numbers(device, n, 1), numbers(device, n, 2));
    let (m, v, average, norm) = (zeros(n), zeros(n), zeros(n), zeros(1));
    let workspace = zeros(adam::workspace_len(device, n));
    let state = state(device);
    let buffers = Buffers { parameters: &parameters, first_moment: &m, second_moment: &v, gradient: &gradient };
    let settings = Adam { beta1: 0.5, beta2: 0.999, eps: 1e-8 };
    let run = |average: Option<&Average>| {
        adam::update(&buffers, average, &norm, &state, Network::Generator, &settings, &workspace).unwrap();
    };
    run(None);
    // The first step is the learning rate, in the direction of the gradient.
    let (before, after) = (numbers(device, n, 1).read().unwrap(), parameters.read().unwrap());
    for (i, ((before, after), g)) in before.iter().zip(&after).zip(gradient.read().unwrap()).enumerate() {
        assert!(g.abs() < 1e-4 || (before - after - 1e-4 * g.signum()).abs() < 2e-7, "parameter {i}");
    }
    let average = Average { values: &average, decay: 0.995, start: 0 };
    compare(device, "adam, 1,510,032 parameters", 28 * n, 16 * n, || run(None));
    compare(device, "adam with the moving average", 36 * n, 20 * n, || run(Some(&average)));
    criterion.bench_function("adam/1510032", |b| b.iter(|| run(Some(&average))));
}

fn norm(device: &Device, criterion: &mut Criterion, name: &str, shape: Shape, classes: usize) {
    let zeros = |n: usize| -> Buffer<f32> { device.zeros(n).unwrap() };
    let (x, dy) = (numbers(device, shape.input_len(), 1), numbers(device, shape.output_len(), 2));
    let (gamma, beta) = (numbers(device, classes.max(1) * shape.c, 3), numbers(device, classes.max(1) * shape.c, 4));
    let labels: Vec<u32> = (0..shape.n as u32).map(|i| i % classes.max(1) as u32).collect();
    let labels = device.upload(&labels).unwrap();
    let rows = if classes > 0 { shape.n } else { 1 };
    let (scale, shift, mean, rstd) = (zeros(rows * shape.c), zeros(rows * shape.c), zeros(shape.c), zeros(shape.c));
    let (running_mean, running_var) = (zeros(shape.c), zeros(shape.c));
    let (y, dx) = (zeros(shape.output_len()), zeros(shape.input_len()));
    let (dgamma, dbeta) = (zeros(gamma.len()), zeros(gamma.len()));
    let workspace = zeros(norm::workspace_len(device, shape, classes > 0));
    let tables = Tables { scale: &scale, shift: &shift };
    let batch = Batch { x: &x, mean: &mean, rstd: &rstd, tables };
    let affine = Affine { gamma: &gamma, beta: &beta, labels: (classes > 0).then_some(&labels) };
    let running = Running { mean: &running_mean, var: &running_var, momentum: 0.1 };
    let activation = Activation::LeakyRelu(0.2);
    let statistics = || norm::statistics(batch, Some(running), affine, 1e-5, shape, &workspace).unwrap();
    let apply = || norm::apply(&y, &x, tables, activation, shape).unwrap();
    let backward = || {
        let gradients = Gradients { dx: &dx, accumulate: false, dgamma: &dgamma, dbeta: &dbeta };
        norm::backward(gradients, &dy, batch, affine, activation, shape, &workspace).unwrap();
    };
    statistics();
    apply();
    backward();
    // Of a normalised batch, the gradient has no mean: each channel's sums to 0.
    let sum: f64 = dx.read().unwrap().iter().step_by(shape.c).map(|d| f64::from(*d)).sum();
    let size: f64 = dx.read().unwrap().iter().step_by(shape.c).map(|d| f64::from(d.abs())).sum();
    assert!(sum.abs() < 1e-5 * size, "{name}: dx sums to {sum} of {size}");
    let (input, output) = (4 * shape.input_len(), 4 * shape.output_len());
    compare(device, &format!("norm statistics, {name}"), input, input, statistics);
    compare(device, &format!("norm apply, {name}"), input + output, input + output, apply);
    compare(device, &format!("norm backward, {name}"), 3 * input + 2 * output, 2 * input + output, backward);
    criterion.bench_function(&format!("norm/backward/{name}"), |b| b.iter(backward));
}

fn drawn(device: &Device, criterion: &mut Criterion) {
    let n = 64 * 784 * 4;
    let state = state(device);
    let (out, bytes): (Buffer<f32>, Buffer<u8>) = (device.zeros(n).unwrap(), device.zeros(n).unwrap());
    random::normal(&out, &state, 1).unwrap();
    let squares: f64 = out.read().unwrap().iter().map(|x| f64::from(*x).powi(2)).sum();
    assert!((squares / n as f64 - 1.0).abs() < 0.02, "a variance of {}", squares / n as f64);
    compare(device, "random uniform, 200,704", 4 * n, 4 * n, || random::uniform(&out, &state, 1, 0.0, 1.0).unwrap());
    compare(device, "random normal, 200,704", 4 * n, 4 * n, || random::normal(&out, &state, 1).unwrap());
    let shape = [64, 28, 28, 4];
    let load = |augment| pixels::load(&out, &bytes, &state, 1, augment, shape).unwrap();
    load(Augment::default());
    assert!(out.read().unwrap().iter().all(|x| *x == -1.0));
    compare(device, "pixels, 200,704", 5 * n, 5 * n, || load(Augment::default()));
    let augment = Augment { noise: 1.0 / 128.0, flip: true };
    compare(device, "pixels with noise and flips", 5 * n, 5 * n, || load(augment));
    criterion.bench_function("random/normal/200704", |b| b.iter(|| random::normal(&out, &state, 1).unwrap()));
}

fn main() {
    let device = bandwidth::device();
    let mut criterion = Criterion::default().configure_from_args();
    adam(&device, &mut criterion);
    for c in [256, 1024] {
        norm(&device, &mut criterion, &format!("64 x {c}"), Shape::features(64, c), 0);
    }
    let image = |n, h, c, upsample| Shape { n, h, w: h, c, upsample };
    norm(&device, &mut criterion, "64 x 28 x 28 x 16", image(64, 28, 16, false), 10);
    norm(&device, &mut criterion, "64 x 14 x 14 x 32, upsampled", image(64, 14, 32, true), 10);
    norm(&device, &mut criterion, "64 x 16 x 16 x 256", image(64, 16, 256, false), 0);
    drawn(&device, &mut criterion);
    criterion.final_summary();
}
