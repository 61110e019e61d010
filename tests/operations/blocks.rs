//! The residual blocks, self-attention and the end of G: output and all gradients are PyTorch's (tests/goldens/blocks.py).

use crate::common::*;
use zgan::Result;
use zgan::device::{Buffer, Device};
use zgan::nn::{
    Arena, Attention, Backward, Builder, ConvOptions, DownBlock, DownOptions, Forward, Layer, Layout, Mode,
    NormOptions, ToImage, UpBlock, UpOptions, Value,
};
use zgan::ops::Activation;
use zgan::ops::resample::Upsampling;

const N: usize = 3;
const H: usize = 6;
const W: usize = 10;
const CLASSES: usize = 4;
const EPS: f32 = 2e-5;

/// Builds the layer of a case, which reads `x`.
type Make<'a> = &'a dyn Fn(&mut Builder, &Value, &Buffer<u32>) -> Result<Box<dyn Layer>>;

/// A layer with its parameters and its input.
struct Made {
    layer: Box<dyn Layer>,
    layout: Layout,
    running: Buffer<f32>,
    weights: Buffer<f32>,
    x: Value,
}

impl Made {
    /// Everything drawn as in the golden's script; `at` starts all names.
    fn new(device: &Device, at: &str, c: usize, make: Make) -> Made {
        let (mut layout, mut running, mut arena) = (Layout::default(), Layout::default(), Arena::measuring(device));
        let mut bytes = 0;
        loop {
            let (parameters, running_layout) = (&mut layout, &mut running);
            let mut build = Builder::new(parameters, running_layout, &mut arena);
            let x = build.value(N, H, W, c).unwrap();
            let labels = build.arena.take(N).unwrap();
            let layer = make(&mut build, &x, &labels).unwrap();
            if bytes == 0 {
                bytes = arena.used();
                arena = Arena::new(device, bytes).unwrap();
                continue;
            }
            x.x.write(&draw(&format!("{at}x"), x.x.len(), (0.0, 2.0))).unwrap();
            labels.write(&draw_below(&format!("{at}labels"), N, CLASSES)).unwrap();
            let mut values = vec![0.0; layout.len()];
            for entry in layout.entries() {
                let tensor = draw(&format!("{at}{}", entry.name), entry.at.len(), start_of(&entry.name, &entry.shape));
                values[entry.at.offset()..][..tensor.len()].copy_from_slice(&tensor);
            }
            let weights = device.upload(&values).unwrap();
            let running = device.upload(&running.initial_values(0).unwrap()).unwrap();
            return Made { layer, layout, running, weights, x };
        }
    }

    fn forward(&self) {
        let mode = Mode::Train { momentum: 0.1 };
        let (weights, running) = ((&self.weights).into(), &self.running);
        self.layer.forward(&Forward { weights, running, mode, rows: 0..N }).unwrap();
    }
}

/// How a case's per-sample scale enters.
#[derive(PartialEq)]
enum Scaled {
    /// Into the parameters' gradients.
    Parameters,
    /// Into the incoming signal, as for a network's last layer.
    Signal,
    /// Nowhere but in dy, which is scaled beforehand: G's layers, which couple samples.
    Beforehand,
}

fn check(case: &str, c: usize, scaled: &Scaled, make: Make) {
    let golden = Golden::open("blocks");
    let at = format!("{case}/{}/", golden.i32(&format!("{case}.seed"))[0]);
    let expect = |name: &str| to_f64(&golden.f32(&format!("{case}.{name}")));
    let worst = std::cell::Cell::new(0.0f64);
    on_each_device(|device| {
        let close = |name: &str, found: &[f32], expected: &[f64], floor: f64| {
            let error = relative_distance(found, expected, floor);
            worst.set(worst.get().max(error));
            assert!(error <= 5e-6, "{case}, {name}, on {}: {error:.1e}", device.description());
        };
        let made = Made::new(device, &at, c, make);
        made.forward();
        let y = made.layer.output();
        close("y", &y.x.read().unwrap(), &expect("y"), 0.0);

        let scale = draw(&format!("{at}scale"), N, (0.0, 1.0));
        let mut dy = draw(&format!("{at}dy"), y.x.len(), (0.0, 1.0));
        if *scaled == Scaled::Beforehand {
            let each = y.features();
            dy.iter_mut().enumerate().for_each(|(i, d)| *d *= scale[i / each]);
        }
        y.dx.as_ref().unwrap().write(&dy).unwrap();
        let scale = device.upload(&scale).unwrap();
        let dx = made.x.dx.as_ref().unwrap();
        dx.write(&vec![f32::NAN; dx.len()]).unwrap();
        // What is there already is added to.
        let before = 0.5;
        let gradients = device.upload(&vec![before; made.layout.len()]).unwrap();
        let pass = Backward {
            parameter_seeds: (*scaled == Scaled::Parameters).then_some(&scale),
            signal_seeds: (*scaled == Scaled::Signal).then_some(&scale),
            ..Backward::of(&made.weights, Some(&gradients), 0..N)
        };
        made.layer.backward(&pass).unwrap();
        let expected_dx = expect("dx");
        close("dx", &dx.read().unwrap(), &expected_dx, 0.0);
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        for (entry, found) in made.layout.read(&gradients).unwrap() {
            let expected = expect(&format!("gradient.{}", entry.name));
            let found: Vec<f32> = found.iter().map(|x| x - before).collect();
            // A bias before a batch norm has no gradient; what rounding leaves is small against its filters'.
            let filters =
                entry.name.strip_suffix(".bias").map(|layer| norm(&expect(&format!("gradient.{layer}.weight"))));
            close(&entry.name, &found, &expected, filters.filter(|_| norm(&expected) < 1e-3).unwrap_or(0.0));
        }

        if *scaled == Scaled::Parameters {
            // Nobody's parameters, and the input of some samples.
            made.x.dx.as_ref().unwrap().write(&vec![f32::NAN; dx.len()]).unwrap();
            let some = Backward { gradients: None, parameter_seeds: None, rows: 1..N, input_rows: 2..N, ..pass };
            made.layer.backward(&some).unwrap();
            let (found, f) = (dx.read().unwrap(), made.x.features());
            close("dx of the last sample", &found[2 * f..], &expected_dx[2 * f..], 0.0);
            assert!(found[..f].iter().all(|x| x.is_nan()), "{case}: the first sample's gradient was written");
        }
    });
    println!("{case}: at most {:.1e} off", worst.get());
}

fn down(c: usize, options: DownOptions) -> impl Fn(&mut Builder, &Value, &Buffer<u32>) -> Result<Box<dyn Layer>> {
    move |build, x, _| {
        assert_eq!(x.c, c);
        Ok(Box::new(DownBlock::new(build, "block", x, &options)?))
    }
}

#[test]
fn the_blocks_of_d_are_pytorchs() {
    for (case, c, hidden, out, pool, first) in [
        ("down_first", 3, 7, 7, true, true),
        ("down", 5, 5, 7, true, false),
        ("down_wide", 5, 7, 7, true, false),
        ("kept_identity", 5, 5, 5, false, false),
        ("kept_shortcut", 5, 5, 7, false, false),
    ] {
        check(case, c, &Scaled::Parameters, &down(c, DownOptions { hidden, out, pool, first }));
    }
}

fn conditional(labels: &Buffer<u32>) -> NormOptions {
    NormOptions { eps: EPS, activation: Activation::RELU, conditional: Some((labels.into(), CLASSES)) }
}

#[test]
fn the_blocks_of_g_are_pytorchs() {
    for (case, upsampling) in [("up_nearest", Upsampling::Nearest), ("up_bilinear", Upsampling::Bilinear)] {
        check(case, 7, &Scaled::Beforehand, &|build, x, labels| {
            let options = UpOptions { out: 5, norm: conditional(labels), upsampling, conv: ConvOptions::residual };
            Ok(Box::new(UpBlock::new(build, "block", x, &options)?))
        });
    }
}

#[test]
fn the_end_of_g_is_pytorchs() {
    for (case, r) in [("to_image", 3), ("to_image_1x1", 1)] {
        check(case, 5, &Scaled::Signal, &|build, x, labels| {
            let y = build.value(N, H, W, 3)?;
            let norm = NormOptions { conditional: None, ..conditional(labels) };
            Ok(Box::new(ToImage::into(build, (x, &y), &norm, ConvOptions::residual(r, 5, 3))?))
        });
    }
}

fn attention(build: &mut Builder, x: &Value, _: &Buffer<u32>) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Attention::new(build, "block", x, ConvOptions::residual)?))
}

#[test]
fn attention_with_its_convolutions_is_pytorchs() {
    check("attention", 16, &Scaled::Parameters, &attention);
}

/// At gamma 0, where training starts: y is x, the signal passes as it is, no filter learns, and gamma does.
#[test]
fn attention_with_gamma_0_is_the_identity() {
    on_each_device(|device| {
        let made = Made::new(device, "identity/", 16, &attention);
        let gamma = made.layout.entries().iter().find(|e| e.name == "block.gamma").unwrap().at;
        made.weights.view(gamma.offset()..gamma.offset() + 1).write(&[0.0]).unwrap();
        made.forward();
        let y = made.layer.output();
        assert_eq!(y.x.read().unwrap(), made.x.x.read().unwrap());
        let dy = draw("identity/dy", y.x.len(), (0.0, 1.0));
        y.dx.as_ref().unwrap().write(&dy).unwrap();
        let gradients = device.zeros(made.layout.len()).unwrap();
        made.layer.backward(&Backward::of(&made.weights, Some(&gradients), 0..N)).unwrap();
        assert_eq!(made.x.dx.as_ref().unwrap().read().unwrap(), dy);
        for (entry, gradient) in made.layout.read(&gradients).unwrap() {
            let still = gradient.iter().all(|g| *g == 0.0);
            assert_eq!(still, entry.name != "block.gamma", "{}", entry.name);
        }
    });
}

/// A network that was built for forward passes alone says so, with the layer's name and the value's, when it is to go back.
#[test]
fn a_missing_gradient_is_named() {
    let device = Device::host(1).unwrap();
    let (mut parameters, mut running) = (Layout::default(), Layout::default());
    let mut arena = Arena::new(&device, 1 << 20).unwrap();
    let mut build = Builder { gradients: false, ..Builder::new(&mut parameters, &mut running, &mut arena) };
    let x = build.value(N, H, W, 16).unwrap();
    let norm = NormOptions { eps: EPS, activation: Activation::RELU, conditional: None };
    let up = UpOptions { out: 5, norm, upsampling: Upsampling::Nearest, conv: ConvOptions::residual };
    let down = DownOptions { hidden: 5, out: 5, pool: true, first: true };
    let layers: [(Box<dyn Layer>, &str); 3] = [
        (Box::new(DownBlock::new(&mut build, "down", &x, &down).unwrap()), "layer down.conv2: there is no gradient of"),
        (Box::new(UpBlock::new(&mut build, "up", &x, &up).unwrap()), "layer up: there is no gradient of its output"),
        (Box::new(Attention::new(&mut build, "look", &x, up.conv).unwrap()), "layer look: there is no gradient of x"),
    ];
    let weights = device.zeros(build.parameters.len()).unwrap();
    let gradients = device.zeros(weights.len()).unwrap();
    for (layer, expected) in layers {
        let message = layer.backward(&Backward::of(&weights, Some(&gradients), 0..N)).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
}
