//! The products of the `softmax-gan` preset's linear layers, beside the machine's multiply-add peak measured in the
//! same run. `cargo bench --bench matmul` prints the table, then criterion's own statistics.

mod common;

use common::{Peak, compare, numbers};
use criterion::{Criterion, Throughput};
use zgan::device::{Buffer, Device};
use zgan::ops::Activation;
use zgan::ops::matmul::{self, Linear, OutputGradient};

/// Generator at batch 64, discriminator at 64 real and 64 fake samples.
const LAYERS: [(usize, usize, usize); 8] = [
    (64, 100, 128),
    (64, 128, 256),
    (64, 256, 512),
    (64, 512, 1024),
    (64, 1024, 784),
    (128, 784, 512),
    (128, 512, 256),
    (128, 256, 1),
];

struct Layer {
    sizes: Linear,
    x: Buffer<f32>,
    weight: Buffer<f32>,
    bias: Buffer<f32>,
    y: Buffer<f32>,
    dy: Buffer<f32>,
    dx: Buffer<f32>,
    dweight: Buffer<f32>,
}

const ACTIVATION: Activation = Activation::LeakyRelu(0.2);

impl Layer {
    fn new(device: &Device, (n, c, k): (usize, usize, usize)) -> Layer {
        Layer {
            sizes: Linear { n, c, k },
            x: numbers(device, n * c, 1),
            weight: numbers(device, c * k, 2),
            bias: numbers(device, k, 3),
            y: device.zeros(n * k).unwrap(),
            dy: numbers(device, n * k, 4),
            dx: device.zeros(n * c).unwrap(),
            dweight: device.zeros(c * k).unwrap(),
        }
    }

    fn flops(&self) -> f64 {
        2.0 * (self.sizes.n * self.sizes.c * self.sizes.k) as f64
    }

    fn forward(&self) {
        matmul::linear_forward(self.sizes, &self.y, &self.x, &self.weight, Some(&self.bias), ACTIVATION).unwrap();
    }

    fn gradient(&self) -> OutputGradient<'_> {
        OutputGradient { dy: &self.dy, y: Some(&self.y), activation: ACTIVATION, row_scale: None }
    }

    fn input_gradient(&self) {
        matmul::linear_input_gradient(self.sizes, &self.dx, &self.gradient(), &self.weight).unwrap();
    }

    fn weight_gradient(&self) {
        matmul::linear_weight_gradient(self.sizes, &self.dweight, &self.x, &self.gradient()).unwrap();
    }

    /// Every product beside an f64 loop, at some elements.
    fn check(&self) {
        let Linear { n, c, k } = self.sizes;
        self.forward();
        self.input_gradient();
        self.dweight.zero().unwrap();
        self.weight_gradient();
        let read = |b: &Buffer<f32>| -> Vec<f64> { b.read().unwrap().into_iter().map(f64::from).collect() };
        let (x, w, b, y) = (read(&self.x), read(&self.weight), read(&self.bias), read(&self.y));
        let (dy, dx, dw) = (read(&self.dy), read(&self.dx), read(&self.dweight));
        let g: Vec<f64> = dy.iter().zip(&y).map(|(d, y)| if *y > 0.0 { *d } else { 0.2f32 as f64 * d }).collect();
        for i in 0..100 {
            let (a, e, f) = (i * 7 % n, i * 13 % c, i * 29 % k);
            let sum: f64 = b[f] + (0..c).map(|j| x[a * c + j] * w[j * k + f]).sum::<f64>();
            let sum = if sum > 0.0 { sum } else { 0.2f32 as f64 * sum };
            assert!((y[a * k + f] - sum).abs() < 1e-4, "y[{a}][{f}] = {}, expected {sum}", y[a * k + f]);
            let sum: f64 = (0..k).map(|j| g[a * k + j] * w[e * k + j]).sum();
            assert!((dx[a * c + e] - sum).abs() < 1e-4, "dx[{a}][{e}] = {}, expected {sum}", dx[a * c + e]);
            let sum: f64 = (0..n).map(|j| x[j * c + e] * g[j * k + f]).sum();
            assert!((dw[e * k + f] - sum).abs() < 1e-4, "dW[{e}][{f}] = {}, expected {sum}", dw[e * k + f]);
        }
    }
}

fn main() {
    let device = common::device();
    println!("{}", device.description());
    let layers = LAYERS.map(|sizes| Layer::new(&device, sizes));
    let peak = Peak::new(&device);
    for layer in &layers {
        layer.check();
        let Linear { n, c, k } = layer.sizes;
        let name = |product| format!("{n} x {c} -> {k}, {product}");
        compare(&device, &peak, &name("forward"), layer.flops(), || layer.forward());
        compare(&device, &peak, &name("input gradient"), layer.flops(), || layer.input_gradient());
        compare(&device, &peak, &name("weight gradient"), layer.flops(), || layer.weight_gradient());
    }
    let all = || layers.iter().for_each(|l| (l.forward(), l.input_gradient(), l.weight_gradient()).0);
    let flops = layers.iter().map(|l| 3.0 * l.flops()).sum();
    compare(&device, &peak, "all of them, one after the other", flops, all);

    let mut criterion = Criterion::default().configure_from_args().sample_size(20);
    let mut group = criterion.benchmark_group("matmul");
    group.throughput(Throughput::Elements(flops as u64));
    group.bench_function("softmax-gan, all products", |bencher| bencher.iter(all));
    group.finish();
    criterion.final_summary();
}
