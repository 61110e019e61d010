//! The convolutions of the presets, beside the machine's multiply-add peak measured in the same run. `cargo bench --bench
//! conv` prints the table, then criterion's own statistics. Operations count as if nothing were padding.

mod common;

use common::{Peak, compare, numbers};
use criterion::{Criterion, Throughput};
use zgan::device::{Buffer, Device};
use zgan::ops::Activation;
use zgan::ops::conv::{self, Conv, ConvGradient, Epilogue, InputEpilogue, Prologue};
use zgan::ops::matmul::OutputGradient;

/// What is fused in.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Relu before, bias after.
    Plain,
    /// And the output pooled.
    Pool,
    /// Scale and shift per sample, relu and upsampling before.
    Up,
    /// Tanh after.
    Tanh,
}

/// (batch, size of the square that the filter sees, C, K, filter, kind).
const LAYERS: &[(usize, usize, usize, usize, usize, Kind)] = &[
    // The small preset: discriminator, generator.
    (128, 28, 1, 16, 3, Kind::Plain),
    (128, 28, 16, 16, 3, Kind::Pool),
    (128, 14, 16, 32, 3, Kind::Plain),
    (128, 14, 32, 32, 3, Kind::Pool),
    (128, 7, 32, 32, 3, Kind::Plain),
    (128, 14, 16, 32, 1, Kind::Pool),
    (64, 14, 32, 32, 3, Kind::Up),
    (64, 14, 32, 32, 3, Kind::Plain),
    (64, 28, 32, 16, 3, Kind::Up),
    (64, 28, 16, 16, 3, Kind::Plain),
    (64, 28, 16, 1, 3, Kind::Tanh),
    // The wide ones.
    (32, 32, 64, 64, 3, Kind::Plain),
    (32, 16, 128, 128, 3, Kind::Plain),
    (32, 16, 64, 128, 3, Kind::Plain),
    (32, 8, 256, 256, 3, Kind::Plain),
    (8, 32, 256, 256, 3, Kind::Up),
];

struct Layer {
    name: String,
    sizes: Conv,
    kind: Kind,
    x: Buffer<f32>,
    scale: Buffer<f32>,
    shift: Buffer<f32>,
    filters: Buffer<f32>,
    bias: Buffer<f32>,
    y: Buffer<f32>,
    dy: Buffer<f32>,
    dx: Buffer<f32>,
    dfilters: Buffer<f32>,
    workspaces: [Buffer<f32>; 2],
}

impl Layer {
    fn new(device: &Device, &(n, size, c, k, filter, kind): &(usize, usize, usize, usize, usize, Kind)) -> Layer {
        let sizes = Conv { n, h: size, w: size, c, k, r: filter, s: filter, pad: filter / 2, stride: 1 };
        let input = n * size * size * c / if kind == Kind::Up { 4 } else { 1 };
        let output = n * size * size * k / if kind == Kind::Pool { 4 } else { 1 };
        let what = match kind {
            Kind::Plain => "",
            Kind::Pool => ", pooled",
            Kind::Up => ", upsampled",
            Kind::Tanh => ", tanh",
        };
        Layer {
            name: format!("{filter}x{filter} {n} x {size}x{size} x {c} -> {k}{what}"),
            sizes,
            kind,
            x: numbers(device, input, 1),
            scale: numbers(device, n * c, 2),
            shift: numbers(device, n * c, 3),
            filters: numbers(device, filter * filter * c * k, 4),
            bias: numbers(device, k, 5),
            y: device.zeros(output).unwrap(),
            dy: numbers(device, output, 6),
            dx: device.zeros(input).unwrap(),
            dfilters: device.zeros(filter * filter * c * k).unwrap(),
            workspaces: [
                device.zeros(conv::input_gradient_workspace_len(&sizes)).unwrap(),
                device.zeros(conv::weight_gradient_workspace_len(device, &sizes)).unwrap(),
            ],
        }
    }

    fn flops(&self) -> f64 {
        let Conv { n, h, w, c, k, r, s, .. } = self.sizes;
        2.0 * (n * h * w * c * k * r * s) as f64
    }

    fn prologue(&self) -> Prologue<'_> {
        let up = self.kind == Kind::Up;
        let activation = Activation::RELU;
        Prologue { scale_shift: up.then_some((&self.scale, &self.shift)), activation, upsample: up }
    }

    fn activation(&self) -> Activation {
        if self.kind == Kind::Tanh { Activation::Tanh } else { Activation::Identity }
    }

    fn gradient(&self) -> ConvGradient<'_> {
        let output = OutputGradient { dy: &self.dy, y: Some(&self.y), activation: self.activation(), row_scale: None };
        ConvGradient { output, pooled: self.kind == Kind::Pool }
    }

    fn forward(&self) {
        let activation = self.activation();
        let epilogue = Epilogue { bias: Some(&self.bias), activation, pool: self.kind == Kind::Pool, ..Epilogue::NONE };
        conv::conv_forward(self.sizes, &self.y, &self.x, &self.filters, &self.prologue(), &epilogue).unwrap();
    }

    fn input_gradient(&self) {
        let up = self.kind == Kind::Up;
        let epilogue = InputEpilogue { mask: (!up).then_some((&self.x, 0.0)), upsample: up, accumulate: false };
        let workspace = &self.workspaces[0];
        conv::conv_input_gradient(self.sizes, &self.dx, &self.gradient(), &self.filters, &epilogue, workspace).unwrap();
    }

    fn weight_gradient(&self) {
        let (gradient, workspace) = (self.gradient(), &self.workspaces[1]);
        conv::conv_weight_gradient(self.sizes, &self.dfilters, &self.x, &self.prologue(), &gradient, workspace)
            .unwrap();
    }

    /// By the identity `<z, g> = <v, dv> = <w, dw>`, which holds for the three passes of one linear map; `z` is y without
    /// bias, `<v, dv>` is `<x, dx>` where the prologue is a relu. The tests compare element by element.
    fn check(&self) {
        self.forward();
        if self.kind == Kind::Tanh {
            return;
        }
        self.input_gradient();
        self.dfilters.zero().unwrap();
        self.weight_gradient();
        let read = |b: &Buffer<f32>| -> Vec<f64> { b.read().unwrap().into_iter().map(f64::from).collect() };
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let (y, dy, bias) = (read(&self.y), read(&self.dy), read(&self.bias));
        let z: Vec<f64> = y.iter().enumerate().map(|(i, y)| y - bias[i % self.sizes.k]).collect();
        let (expected, size) = (dot(&z, &dy), dot(&z, &z).sqrt() * dot(&dy, &dy).sqrt());
        let by_filters = dot(&read(&self.filters), &read(&self.dfilters));
        assert!(
            (by_filters - expected).abs() < 1e-5 * size,
            "{}: <w, dw> = {by_filters}, <z, g> = {expected}",
            self.name
        );
        if self.kind != Kind::Up {
            let by_input = dot(&read(&self.x), &read(&self.dx));
            assert!(
                (by_input - expected).abs() < 1e-5 * size,
                "{}: <x, dx> = {by_input}, <z, g> = {expected}",
                self.name
            );
        }
    }
}

fn main() {
    let device = common::device();
    println!("{}", device.description());
    let peak = Peak::new(&device);
    let only = std::env::var("ZGAN_BENCH_ONLY").unwrap_or_default();
    let layers: Vec<Layer> = LAYERS.iter().map(|l| Layer::new(&device, l)).filter(|l| l.name.contains(&only)).collect();
    for layer in &layers {
        layer.check();
        let name = |pass| format!("{}, {pass}", layer.name);
        compare(&device, &peak, &name("forward"), layer.flops(), || layer.forward());
        compare(&device, &peak, &name("dx"), layer.flops(), || layer.input_gradient());
        compare(&device, &peak, &name("dw"), layer.flops(), || layer.weight_gradient());
    }

    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let mut group = criterion.benchmark_group("conv");
    for layer in &layers {
        group.throughput(Throughput::Elements(layer.flops() as u64));
        group.bench_function(format!("{}, forward", layer.name), |bencher| bencher.iter(|| layer.forward()));
    }
    group.finish();
    criterion.final_summary();
}
