//! Labels that are vectors: beside the formula in float64, beside classes, and without labels.

use std::sync::Arc;

use crate::common::*;
use zgan::data::vectors::Vectors;
use zgan::data::{DataInfo, ImageShape};
use zgan::device::{Buffer, Device};
use zgan::gan::{Generator, Latents, Setup, Trainer, Weights};
use zgan::nn::{
    Arena, Backward, Builder, ConvOptions, Forward, HeadOptions, Init, Labels, Layer, Layout, Mode, Network,
    NormOptions, ProjectionHead, UpBlock, UpOptions, Value,
};
use zgan::ops::Activation;
use zgan::ops::resample::{self, Upsampling};
use zgan::settings::{Preset, Update};

const CLASSES: usize = 3;
/// Of samples.
const N: usize = 5;
const C: usize = 7;

/// Several labels, soft ones, a negative one, one alone, and none.
const VECTORS: [f32; 6 * CLASSES] =
    [1.0, 1.0, 0.0, 0.2, 0.3, 0.5, 0.0, -1.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 9.0, 9.0, 9.0];
/// Which of them each sample has; the last one is nobody's.
const NUMBERS: [u32; N] = [3, 0, 4, 2, 1];

fn vectors() -> Arc<Vectors> {
    Arc::new(Vectors { classes: CLASSES, values: VECTORS.to_vec() })
}

/// The vector of a sample.
fn of(sample: usize) -> [f64; CLASSES] {
    std::array::from_fn(|k| f64::from(VECTORS[NUMBERS[sample] as usize * CLASSES + k]))
}

/// A layer on an input (N, 2, 2, C), with drawn weights.
struct Made {
    network: Network,
    layout: Layout,
    running: Buffer<f32>,
    weights: Buffer<f32>,
    x: Value,
    y: Value,
}

impl Made {
    fn new(
        device: &Device,
        (numbers, vectors): (&[u32], Option<Arc<Vectors>>),
        make: &dyn Fn(&mut Builder, &Value, &Labels) -> Box<dyn Layer>,
    ) -> Made {
        let (mut layout, mut running) = (Layout::default(), Layout::default());
        let mut arena = Arena::new(device, 1 << 18).unwrap();
        let mut build = Builder::new(&mut layout, &mut running, &mut arena);
        let x = build.value(N, 2, 2, C).unwrap();
        let labels = Labels::new(build.arena, &device.upload(numbers).unwrap(), vectors).unwrap();
        let mut network = Network::default();
        network.layers.extend(labels.look_up(&x));
        let layer = make(&mut build, &x, &labels);
        let y = layer.output().clone();
        network.layers.push(layer);
        let (weights, running) = (device.zeros(layout.len()).unwrap(), running.initial_values(0).unwrap());
        for entry in layout.entries() {
            let values = draw(&entry.name, entry.at.len(), (0.0, 1.0));
            entry.at.of(&weights).write(&values).unwrap();
        }
        x.x.write(&draw("x", x.x.len(), (0.0, 1.0))).unwrap();
        Made { network, layout, running: device.upload(&running).unwrap(), weights, x, y }
    }

    fn named(&self, of: &Buffer<f32>, name: &str) -> Buffer<f32> {
        self.layout.entries().iter().find(|entry| entry.name == name).unwrap().at.of(of)
    }

    /// Gradients of the parameters, which add to 0.5 everywhere.
    fn passes(&self) -> Buffer<f32> {
        let mode = Mode::Train { momentum: 0.1 };
        let weights = (&self.weights).into();
        self.network.forward(&Forward { weights, running: &self.running, mode, rows: 0..N }).unwrap();
        self.y.dx.as_ref().unwrap().write(&draw("dy", self.y.x.len(), (0.0, 1.0))).unwrap();
        let gradients = self.weights.device().upload(&vec![0.5; self.layout.len()]).unwrap();
        self.network.backward(&Backward::of(&self.weights, Some(&gradients), 0..N)).unwrap();
        gradients
    }
}

fn head(classes: usize) -> impl Fn(&mut Builder, &Value, &Labels) -> Box<dyn Layer> {
    move |build, x, labels| {
        let init = |_, _| Init::Constant(0.0);
        let options = HeadOptions { labels, classes, bias: true, pool_factor: 0.5, init };
        Box::new(ProjectionHead::new(build, "head", x, &options).unwrap())
    }
}

fn block(classes: usize) -> impl Fn(&mut Builder, &Value, &Labels) -> Box<dyn Layer> {
    move |build, x, labels| {
        let norm =
            NormOptions { eps: 1e-5, activation: Activation::RELU, conditional: Some((labels.clone(), classes)) };
        let options = UpOptions { out: 6, norm, upsampling: Upsampling::Nearest, conv: ConvOptions::residual };
        Box::new(UpBlock::new(build, "block", x, &options).unwrap())
    }
}

#[test]
fn rows_of_a_table_are_found() {
    on_each_device(|device| {
        let table = device.upload(&VECTORS).unwrap();
        let y = device.upload(&[f32::NAN; 4 * CLASSES]).unwrap();
        resample::rows(&y, &table, &device.upload(&[5u32, 0, 6, u32::MAX]).unwrap(), CLASSES).unwrap();
        assert_eq!(y.read().unwrap(), [9.0, 9.0, 9.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let short = resample::rows(&y, &table, &device.upload(&[0u32; 3]).unwrap(), CLASSES);
        assert!(short.unwrap_err().to_string().starts_with("rows: y has 12 elements"));
    });
}

/// f = w . h + c^T V h + b, and dV = sum over n of c_n (df_n h_n)^T.
#[test]
fn the_head_computes_c_v_h() {
    on_each_device(|device| {
        let made = Made::new(device, (&NUMBERS, Some(vectors())), &head(CLASSES));
        let gradients = made.passes();
        let read = |of: &Buffer<f32>, name: &str| to_f64(&made.named(of, name).read().unwrap());
        let [w, v, b] = ["head.weight", "head.embedding", "head.bias"].map(|name| read(&made.weights, name));
        let (x, df) = (to_f64(&made.x.x.read().unwrap()), to_f64(&draw("dy", N, (0.0, 1.0))));
        let h = |n: usize, k: usize| 0.5 * (0..4).map(|p| x[(n * 4 + p) * C + k].max(0.0)).sum::<f64>();
        let direction = |n: usize, k: usize| w[k] + (0..CLASSES).map(|c| of(n)[c] * v[c * C + k]).sum::<f64>();
        let f: Vec<f64> = (0..N).map(|n| b[0] + (0..C).map(|k| direction(n, k) * h(n, k)).sum::<f64>()).collect();
        assert_close("f", &made.y.x, &f, 1e-5);
        let dv = |i: usize| 0.5 + (0..N).map(|n| of(n)[i / C] * df[n] * h(n, i % C)).sum::<f64>();
        let expected: Vec<f64> = (0..CLASSES * C).map(dv).collect();
        assert_close("dV", &made.named(&gradients, "head.embedding"), &expected, 1e-5);
        let dx = |i: usize| {
            let (n, k) = (i / (4 * C), i % C);
            if x[i] > 0.0 { 0.5 * df[n] * direction(n, k) } else { 0.0 }
        };
        let expected: Vec<f64> = (0..x.len()).map(dx).collect();
        assert_close("dx", made.x.dx.as_ref().unwrap(), &expected, 1e-5);
    });
}

/// Beside classes of which each sample has one of its own, with the rows that its vector mixes.
#[test]
fn a_conditional_norm_mixes_its_rows() {
    on_each_device(|device| {
        let mixed = Made::new(device, (&NUMBERS, Some(vectors())), &block(CLASSES));
        let apart = Made::new(device, (&[0, 1, 2, 3, 4], None), &block(N));
        let read = |of: &Buffer<f32>| to_f64(&of.read().unwrap());
        let is_table = |name: &str| name.contains(".norm");
        for entry in apart.layout.entries() {
            let rows = mixed.named(&mixed.weights, &entry.name);
            let to = entry.at.of(&apart.weights);
            if !is_table(&entry.name) {
                to.copy_from(&rows).unwrap();
                continue;
            }
            let (rows, width) = (read(&rows), entry.shape[1]);
            let mix =
                |i: usize| (0..CLASSES).map(|c| of(i / width)[c] * rows[c * width + i % width]).sum::<f64>() as f32;
            to.write(&(0..N * width).map(mix).collect::<Vec<_>>()).unwrap();
        }
        let [of_mixed, of_apart] = [&mixed, &apart].map(Made::passes);
        assert_close("y", &mixed.y.x, &read(&apart.y.x), 1e-5);
        assert_close("dx", mixed.x.dx.as_ref().unwrap(), &read(apart.x.dx.as_ref().unwrap()), 1e-4);
        for entry in mixed.layout.entries() {
            let (found, each) = (entry.at.of(&of_mixed), read(&apart.named(&of_apart, &entry.name)));
            let expected = if is_table(&entry.name) {
                let width = entry.shape[1];
                let sum = |i: usize| {
                    0.5 + (0..N).map(|n| of(n)[i / width] * (each[n * width + i % width] - 0.5)).sum::<f64>()
                };
                (0..entry.at.len()).map(sum).collect()
            } else {
                each
            };
            assert_close(&entry.name, &found, &expected, 1e-4);
        }
    });
}

#[test]
fn zeros_meet_psi_alone() {
    on_each_device(|device| {
        let zeros = Arc::new(Vectors { classes: CLASSES, values: vec![0.0; 6 * CLASSES] });
        let made = Made::new(device, (&NUMBERS, Some(zeros)), &head(CLASSES));
        let psi = Made::new(device, (&NUMBERS, None), &head(0));
        let [of_made, _] = [&made, &psi].map(Made::passes);
        let expected = to_f64(&psi.y.x.read().unwrap());
        assert_close("f", &made.y.x, &expected, 1e-6);
        assert_close("dx", made.x.dx.as_ref().unwrap(), &to_f64(&psi.x.dx.as_ref().unwrap().read().unwrap()), 1e-6);
        assert_eq!(made.named(&of_made, "head.embedding").read().unwrap(), [0.5; CLASSES * C], "no row learns");
    });
}

/// For an image without labels, fakes are drawn with those of another image.
#[test]
fn fakes_have_labels() {
    let values = vec![0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.0, 2.0];
    let of_fakes = Vectors { classes: 2, values }.of_fakes();
    assert_eq!(of_fakes.count(), 7);
    assert_eq!(of_fakes.values, [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.0, 2.0]);
}

fn setup(preset: &str, side: usize, update: Update) -> Setup {
    let shape = ImageShape { height: side, width: side, channels: 3 };
    let classes = (0..CLASSES).map(|class| class.to_string()).collect();
    let data = DataInfo { name: "drawn".into(), images: 4, shape, classes, vectors: false, crc32: String::new() };
    Setup::new(&preset.parse::<Preset>().unwrap().settings(), &data).with(|s| {
        s.networks.width = 4;
        (s.training.batch, s.training.batch_g, s.training.n_dis, s.training.update) = (4, None, 1, update);
        (s.training.r1, s.training.average_from) = (1.0, 0);
        (s.training.lr_g, s.training.lr_d) = (1e-3, 1e-3);
    })
}

/// Weights after some steps, and images drawn with them.
fn trained(setup: &Setup) -> (Vec<(String, Vec<f32>)>, Vec<u8>) {
    let device = Device::host(1).unwrap();
    let mut trainer = Trainer::new(&device, setup).unwrap();
    let len = 4 * setup.shape.len();
    for step in 0..3 {
        let images: Vec<u8> = (0..len).map(|i| ((i * 7 + step * 31) % 256) as u8).collect();
        let z = Random(step as u64).normals(4 * setup.networks.latent);
        trainer.step_given(&images, &[0, 2, 1, 2], &z, &[1, 1, 2, 0]).unwrap();
    }
    trainer.metrics().unwrap();
    let latents = Latents { labels: vec![0, 1, 2, 1], ..Latents::unlabelled(1, 4) };
    let drawn = trainer.sample(Weights::Raw, &latents).unwrap();
    let tensors = trainer.tensors().unwrap().into_iter().map(|t| (t.name, t.values)).collect();
    (tensors, drawn)
}

#[test]
fn one_hot_vectors_are_classes() {
    let one_hot = (0..CLASSES * CLASSES).map(|i| if i / CLASSES == i % CLASSES { 1.0 } else { 0.0 }).collect();
    let one_hot = Arc::new(Vectors { classes: CLASSES, values: one_hot });
    for (preset, side, update, part) in [
        ("sngan-projection-32", 32, Update::Alternating, None),
        ("photos-64", 32, Update::Simultaneous, None),
        // G's first layer sees the label here.
        ("mnist", 28, Update::Simultaneous, None),
        ("mnist", 28, Update::Simultaneous, Some(2)),
    ] {
        let classes = setup(preset, side, update).with(|s| {
            (s.training.micro_batch, s.training.local_norm) = (part, part.is_some());
        });
        let vectors = classes.with(|s| s.vectors = Some(one_hot.clone()));
        let [(classes, pictures), (vectors, of_vectors)] = [&classes, &vectors].map(trained);
        for ((name, expected), (_, found)) in classes.iter().zip(&vectors) {
            // Adam's first steps have a length of their own, whatever a gradient near 0 is.
            let error = relative_error(found, &to_f64(expected), 1e-2);
            assert!(error <= 2e-3, "{preset}, {name}: {error:.1e}");
        }
        let most = pictures.iter().zip(&of_vectors).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(most <= 1, "{preset}: pictures differ by {most}");
    }
}

/// A generator draws for any vectors, of a run that knew classes too.
#[test]
fn a_generator_draws_mixtures() {
    let device = Device::host(1).unwrap();
    let setup = setup("sngan-projection-32", 32, Update::Simultaneous);
    let mut tensors = Trainer::new(&device, &setup).unwrap().tensors().unwrap();
    for tensor in tensors.iter_mut().filter(|t| t.name.contains(".norm") && t.shape.len() == 2) {
        tensor.values = draw(&tensor.name, tensor.values.len(), (0.5, 0.5));
    }
    let z = Random(3).normals(3 * setup.networks.latent);
    let half = Arc::new(Vectors { classes: CLASSES, values: [1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 1.0].to_vec() });
    let mixed = setup.with(|s| s.vectors = Some(half));
    let mixed = Generator::new(&device, &mixed, &tensors, Weights::Raw).unwrap().images(&z, &[0, 1, 2]).unwrap();
    let mut plain = Generator::new(&device, &setup, &tensors, Weights::Raw).unwrap();
    let len = setup.shape.len();
    let near = |found: &[u8], expected: &[u8]| found.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= 1);
    let of_classes = plain.images(&z, &[0, 1, 2]).unwrap();
    assert!(near(&mixed[..len], &of_classes[..len]) && near(&mixed[2 * len..], &of_classes[2 * len..]));
    let latent = setup.networks.latent;
    let between = plain.morph(&z[latent..2 * latent], [1, 2], 0.5).unwrap();
    assert!(near(&mixed[len..2 * len], &between), "half of each is the middle of the way");
    assert!(!near(&between, &of_classes[len..2 * len]));
}
