//! Whole networks beside PyTorch's (tests/goldens/networks.py): outputs, losses and the gradients of all parameters, at
//! reduced width; and the spectral norm of all weights of a network.

use std::collections::HashMap;

use crate::common::*;
use zgan::checkpoint::NamedTensor;
use zgan::data::{DataSource, ImageShape, Split};
use zgan::device::Device;
use zgan::gan::{Setup, Trainer};
use zgan::ops::spectral_norm::{Matrix, Outputs};
use zgan::settings::{Batches, Conditioning, Networks, Pool, Preset, Settings, SoftmaxTarget, Training, Update};

const CLASSES: usize = 5;
const LATENT: usize = 8;
const SAMPLE: usize = 256;

fn setup(preset: &str, size: usize, width: usize, batch: usize) -> Setup {
    let digits = DataSource::Mnist10k.open(Split::Train, &Settings::default().data_options()).unwrap();
    let channels = if preset == "mnist" { 1 } else { 3 };
    let shape = ImageShape { height: size, width: size, channels };
    let settings = preset.parse::<Preset>().unwrap().settings();
    Setup {
        shape,
        classes: CLASSES,
        networks: Networks { latent: LATENT, width, ..settings.networks.clone() },
        training: Training {
            batch,
            batch_g: None,
            n_dis: 1,
            update: Update::Simultaneous,
            softmax_target: SoftmaxTarget::Uniform,
            decay_from: None,
            ..settings.training.clone()
        },
        batches: Batches { noise: 0.0, flip: false, ..settings.batches.clone() },
        ..Setup::new(&settings, &digits.info())
    }
}

fn mnist() -> Setup {
    setup("mnist", 28, 4, 4)
}

fn of_32() -> Setup {
    setup("sngan-projection-32", 32, 4, 3)
}

/// One step from what the golden's script drew, and all that can be seen of it.
fn check(case: &str, tolerance: f64, setup: &Setup, on: impl Fn(&dyn Fn(&Device))) {
    let golden = Golden::open("networks");
    let at = format!("{case}/{}/", golden.i32(&format!("{case}.seed"))[0]);
    let worst = std::cell::RefCell::new((0.0f64, String::new(), 0.0f64));
    on(&|device| {
        let mut trainer = Trainer::new(device, setup).unwrap();
        let mut tensors = trainer.tensors().unwrap();
        // The script draws the vectors of all weights of a network as one.
        let is_u = |t: &NamedTensor| t.name.ends_with(".u");
        let mut u: HashMap<&str, _> = HashMap::new();
        for player in ["generator", "discriminator"] {
            let own = tensors.iter().filter(|t| t.name.starts_with(player) && is_u(t));
            let len = own.map(|t| t.values.len()).sum();
            u.insert(player, draw(&format!("{at}{player}.spectral_u"), len, (0.0, 1.0)).into_iter());
        }
        for tensor in &mut tensors {
            if is_u(tensor) {
                let all = u.get_mut(tensor.name.split('.').next().unwrap()).unwrap();
                tensor.values = all.take(tensor.values.len()).collect();
                continue;
            }
            let player = tensor.name.starts_with("generator.") || tensor.name.starts_with("discriminator.");
            let bounds = match tensor.name.rsplit('.').next().unwrap() {
                "running_mean" | "running_var" | "v" => continue,
                _ if player => start_of(&tensor.name, &tensor.shape),
                _ => continue,
            };
            tensor.values = draw(&format!("{at}{}", tensor.name), tensor.values.len(), bounds);
        }
        trainer.restore(0, &tensors).unwrap();
        let n = setup.training.batch;
        let images = draw_below(&format!("{at}images"), n * setup.shape.len(), 256);
        let images: Vec<u8> = images.into_iter().map(|byte| byte as u8).collect();
        let latents = draw(&format!("{at}latents"), n * LATENT, (0.0, 1.7));
        let [labels, wanted] = ["labels", "wanted"].map(|name| draw_below(&format!("{at}{name}"), n, CLASSES));
        trainer.step_given(&images, &labels, &latents, &wanted).unwrap();

        let metrics = trainer.metrics().unwrap();
        let mut found = vec![
            ("losses".to_string(), vec![metrics.loss_d, metrics.loss_g]),
            ("fakes".to_string(), trainer.fakes().unwrap()),
            ("logits".to_string(), trainer.logits().unwrap()),
        ];
        for player in [trainer.generator(), trainer.discriminator()] {
            for (entry, gradient) in player.layouts.parameters.read(&player.gradients).unwrap() {
                found.push((format!("gradient.{}.{}", player.name, entry.name), gradient));
            }
        }
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let expect = |name: &str| match name {
            "losses" => golden.f64(&format!("{case}.{name}")),
            _ => to_f64(&golden.f32(&format!("{case}.{name}"))),
        };
        for (name, values) in &found {
            let expected = expect(name);
            let some: Vec<f32> = values.iter().copied().step_by((values.len() / SAMPLE).max(1)).collect();
            // A bias before a batch norm has no gradient; what rounding leaves is small against its filters'.
            let filters = name.strip_suffix(".bias").map(|layer| norm(&expect(&format!("{layer}.weight"))));
            let floor = filters.filter(|f| norm(&expected) < 1e-6 * f).unwrap_or(0.0);
            let mut off = relative_distance(&some, &expected, floor);
            if name.starts_with("gradient") && some.len() < values.len() {
                let [whole, product] = golden.f64(&format!("{case}.{name}.norm_and_product"))[..] else { panic!() };
                let weights = draw(&format!("{case}.{name}"), values.len(), (0.0, 1.0));
                let dot: f64 = values.iter().zip(&weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                off = off.max((dot - product).abs() / whole).max((norm(&to_f64(values)) / whole - 1.0).abs());
            }
            let pytorch = golden.f64(&format!("{case}.{name}.float32"))[0];
            assert!(
                off <= tolerance,
                "{case}, {name}, on {}: {off:.1e}, PyTorch's float32 {pytorch:.1e}",
                device.description()
            );
            let mut worst = worst.borrow_mut();
            if off > worst.0 {
                *worst = (off, format!("{name} on {}", device.description()), pytorch);
            }
        }
        // The eps of G's norms shows where variances are as small.
        for tensor in tensors.iter_mut().filter(|t| t.name.starts_with("generator.linear")) {
            tensor.values.iter_mut().for_each(|x| *x /= 100.0);
        }
        trainer.restore(0, &tensors).unwrap();
        trainer.step_given(&images, &labels, &latents, &wanted).unwrap();
        let fakes = trainer.fakes().unwrap();
        let some: Vec<f32> = fakes.iter().copied().step_by((fakes.len() / SAMPLE).max(1)).collect();
        let off = relative_distance(&some, &expect("faint"), 0.0);
        assert!(off <= tolerance, "{case}, faint fakes, on {}: {off:.1e}", device.description());

        let extra = [".float32", ".norm_and_product", ".seed", ".faint"];
        let own = golden.names().into_iter().filter(|n| n.starts_with(&format!("{case}.")));
        assert_eq!(found.len(), own.filter(|n| !extra.iter().any(|e| n.ends_with(e))).count());
    });
    let (off, name, pytorch) = worst.into_inner();
    println!("{case}: at most {off:.1e} off ({name}; PyTorch's float32 {pytorch:.1e})");
}

#[test]
fn networks_for_28_pixels_are_pytorchs() {
    for (case, conditioning) in [
        ("mnist", Conditioning::Projection),
        ("mnist-hidden-concat", Conditioning::HiddenConcat),
        ("mnist-input-concat", Conditioning::InputConcat),
    ] {
        check(case, 1e-4, &mnist().with(|s| s.networks.conditioning = conditioning), |body| on_fast_devices(body));
    }
}

#[test]
fn networks_for_32_pixels_are_pytorchs() {
    check("sngan-projection-32", 1e-4, &of_32(), |body| on_fast_devices(body));
    for (case, conditioning) in [
        ("sngan-projection-32-hidden-concat", Conditioning::HiddenConcat),
        ("sngan-projection-32-input-concat", Conditioning::InputConcat),
    ] {
        let setup = of_32().with(|s| {
            s.networks = Networks { conditioning, pool: Pool::Mean, pool_factor: 4.0, ..s.networks.clone() };
        });
        check(case, 1e-4, &setup, |body| on_fast_devices(body));
    }
}

#[test]
fn networks_for_64_pixels_are_pytorchs() {
    for (preset, width) in [("sngan-projection-64", 4), ("crcrpar-64", 4), ("sagan-64", 8)] {
        check(preset, 1e-4, &setup(preset, 64, width, 2), |body| on_fast_devices(body));
    }
}

/// On real thread blocks, racecheck and all.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn networks_on_real_thread_blocks_are_pytorchs() {
    check("mnist", 1e-4, &mnist(), |body| body(&Device::simt(7)));
}

/// The largest singular value, by the power method in float64.
fn largest_singular_value(matrix: &Matrix, weights: &[f32]) -> f64 {
    let Matrix { offset, rows, columns, .. } = *matrix;
    let at = |r: usize, c: usize| f64::from(weights[offset + r * columns + c]);
    let mut v: Vec<f64> = to_f64(&Random(offset as u64).normals(columns));
    let mut sigma = 0.0;
    for _ in 0..1000 {
        let u: Vec<f64> = (0..rows).map(|r| (0..columns).map(|c| at(r, c) * v[c]).sum()).collect();
        let norm = u.iter().map(|x| x * x).sum::<f64>().sqrt();
        v = (0..columns).map(|c| (0..rows).map(|r| at(r, c) * u[r]).sum::<f64>() / norm).collect();
        let before = std::mem::replace(&mut sigma, v.iter().map(|x| x * x).sum::<f64>().sqrt());
        if (sigma - before).abs() < 1e-9 * sigma {
            break;
        }
        v.iter_mut().for_each(|x| *x /= sigma);
    }
    sigma
}

/// Every weight that is to be normalised is, in both networks: filters, linear layers, embeddings, heads, attention.
#[test]
fn frozen_weights_reach_norm_1_in_200_iterations() {
    let hidden = of_32().with(|s| s.networks.conditioning = Conditioning::HiddenConcat);
    for (setup, wanted) in [(setup("sagan-64", 64, 8, 2), [18, 21]), (hidden, [0, 13])] {
        on_fast_devices(|device| {
            let trainer = Trainer::new(device, &setup).unwrap();
            for (player, wanted) in [trainer.generator(), trainer.discriminator()].into_iter().zip(wanted) {
                for _ in 0..200 {
                    player.normalise(true).unwrap();
                }
                let (weights, raw) = (player.weights().values.read().unwrap(), player.values.read().unwrap());
                let mut count = 0;
                for entry in player.layouts.parameters.entries() {
                    let Some(matrix) = entry.matrix().filter(|_| wanted > 0) else { continue };
                    let name = format!("{}.{}, {:?}", player.name, entry.name, entry.shape);
                    assert_eq!(matrix.outputs == Outputs::Rows, entry.name.ends_with("embedding"), "{name}");
                    let [of_raw, found] = [&raw, &weights].map(|w| largest_singular_value(&matrix, w));
                    assert!((found - 1.0).abs() < 0.01, "{name}: {found}, {of_raw} before");
                    count += 1;
                }
                assert_eq!(count, wanted, "{}", player.name);
            }
        });
    }
}
