//! Training in tf32, bf16 and f16 beside f32: gradients, short trainings, the loss scale, and checkpoints.

use zgan::checkpoint::{NamedTensor, Scaling};
use zgan::data::{DataInfo, DataSource, Dataset, ImageShape, Split};
use zgan::device::{Device, Precision};
use zgan::gan::{Metrics, Setup, Trainer};
use zgan::settings::{Conditioning, Loss, PowerIterations, Preset, Settings, Training, Update};

const OTHERS: [Precision; 3] = [Precision::Tf32, Precision::Bf16, Precision::F16];

fn dataset() -> Dataset {
    DataSource::Mnist10k.open(Split::Train, &Settings::default().data_options()).unwrap()
}

fn info(size: usize, channels: usize) -> DataInfo {
    DataInfo { shape: ImageShape { height: size, width: size, channels }, ..dataset().info() }
}

/// The settings of a preset.
fn preset(name: &str) -> Settings {
    name.parse::<Preset>().unwrap().settings()
}

/// The default networks, narrow.
fn small(precision: Precision) -> Setup {
    Setup::new(&preset("mnist"), &info(28, 1)).with(|s| {
        s.networks.width = 8;
        s.networks.latent = 16;
        s.training = Training { precision: precision.into(), batch: 16, steps: 100, ..s.training.clone() };
    })
}

/// Steps on digits, or on noise where images have another shape; how each went.
fn train(trainer: &mut Trainer, steps: usize) -> Vec<Metrics> {
    let (n, shape, classes) = (trainer.images_per_step(), trainer.setup().shape, trainer.setup().classes);
    let points = trainer.setup().draws_points();
    let digits = shape.len() == 784;
    let data = dataset();
    let batch = |step: usize| -> (Vec<u8>, Vec<u32>) {
        if points {
            return (Vec::new(), Vec::new());
        }
        let numbers: Vec<usize> = (0..n).map(|i| (step * n + i) % data.len()).collect();
        if !digits {
            let images = (0..n * shape.len()).map(|i| ((i + step) * 7919 % 251) as u8).collect();
            return (images, (0..n).map(|i| (i % classes) as u32).collect());
        }
        let (mut images, mut labels) = (vec![0; n * 784], vec![0; n]);
        for ((number, image), label) in numbers.iter().zip(images.chunks_mut(784)).zip(&mut labels) {
            *label = data.label(*number);
            data.read(*number, image).unwrap();
        }
        (images, labels)
    };
    let mut all = Vec::new();
    for _ in 0..steps {
        let (images, labels) = batch(trainer.step_number() as usize);
        trainer.step(&images, &labels).unwrap();
        all.push(trainer.metrics().unwrap());
    }
    all
}

/// A player's first moments: after one step a fixed part of the gradient.
fn gradient(trainer: &Trainer, player: &str) -> Vec<f64> {
    let start = format!("adam.m.{player}");
    let tensors = trainer.tensors().unwrap();
    tensors.iter().filter(|t| t.name.starts_with(&start)).flat_map(|t| &t.values).map(|x| f64::from(*x)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// That one step of both networks has f32's gradients: their angle and length. Nothing moves, so that all of a step's
/// gradients are those of the same weights.
fn same_gradients(what: &str, device: &Device, setup: &Setup) {
    let setup = setup.with(|s| {
        s.training.lr_g = 0.0;
        s.training.lr_d = 0.0;
    });
    let run = |precision: Precision| {
        let mut trainer = Trainer::new(device, &setup.with(|s| s.training.precision = precision.into())).unwrap();
        trainer.restore_scaling(Scaling { scale: 256.0, good_steps: 0, updates: [0, 0] }).unwrap();
        let metrics = train(&mut trainer, 1).remove(0);
        (metrics, ["generator", "discriminator"].map(|player| gradient(&trainer, player)))
    };
    let (metrics, expected) = run(Precision::F32);
    for precision in OTHERS {
        let (found_metrics, found) = run(precision);
        // Of bf16's 8 bits the networks leave two or three; ReLUs near 0 take the other side.
        let (least, apart) = if precision == Precision::Bf16 { (0.96, 0.06) } else { (0.997, 0.01) };
        for ((found, expected), player) in found.iter().zip(&expected).zip(["G", "D"]) {
            let lengths = (dot(found, found).sqrt(), dot(expected, expected).sqrt());
            let cosine = dot(found, expected) / (lengths.0 * lengths.1);
            assert!(cosine >= least, "{what}, {precision}: {player}'s gradient, cosine {cosine}");
            let ratio = lengths.0 / lengths.1;
            assert!((ratio - 1.0).abs() <= apart, "{what}, {precision}: {player}'s gradient is {ratio} as long");
            assert!(cosine < 1.0, "{what}, {precision}: not one bit differs: it was not in use");
        }
        for (found, expected) in
            [(found_metrics.loss_d, metrics.loss_d), (found_metrics.grad_norm_d, metrics.grad_norm_d)]
        {
            let off = (found - expected).abs() / expected.abs().max(0.1);
            assert!(off <= 2.0 * apart as f32, "{what}, {precision}: {found}, {expected} in f32");
        }
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn gradients_are_those_of_f32_whatever_is_trained() {
    let device = Device::host(0).unwrap();
    let digits = |loss, conditioning, update| {
        small(Precision::F32).with(|s| {
            s.networks.conditioning = conditioning;
            s.training = Training { loss, update, aux_weight_d: 0.7, aux_weight_g: 0.3, ..s.training.clone() };
        })
    };
    use Conditioning::{AcGan, HiddenConcat, InputConcat, Projection};
    for (loss, conditioning, update) in [
        (Loss::Softmax, Projection, Update::Simultaneous),
        (Loss::Softmax, Projection, Update::Alternating),
        (Loss::Hinge, HiddenConcat, Update::Simultaneous),
        (Loss::NonSaturating, InputConcat, Update::Alternating),
        (Loss::Hinge, AcGan, Update::Simultaneous),
        (Loss::Softmax, AcGan, Update::Alternating),
        (Loss::WassersteinGp, Projection, Update::Alternating),
    ] {
        same_gradients(&format!("{loss:?}, {conditioning:?}"), &device, &digits(loss, conditioning, update));
    }
    for (name, size, n_dis) in [("sngan-projection-32", 32, 2), ("crcrpar-64", 64, 1), ("sagan-64", 64, 1)] {
        let setup = Setup::new(&preset(name), &info(size, 3)).with(|s| {
            s.networks.width = 8;
            s.training = Training { batch: 6, batch_g: Some(8), n_dis, ..s.training.clone() };
        });
        same_gradients(name, &device, &setup);
    }
    let flat = Setup::new(&preset("softmax-gan"), &info(28, 1)).with(|s| s.training.batch = 32);
    same_gradients("softmax-gan", &device, &flat);
    let setup = small(Precision::F32).with(|s| {
        s.networks.sn_policy = PowerIterations::PerForward;
        s.networks.spectral_norm = true;
    });
    same_gradients("spectral norm, per forward", &device, &setup);
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn a_step_on_real_thread_blocks_is_the_hosts() {
    for precision in [Precision::Bf16, Precision::F16] {
        let setup = small(precision).with(|s| {
            s.networks.width = 4;
            s.training.batch = 2;
        });
        let run = |device: &Device| {
            let mut trainer = Trainer::new(device, &setup).unwrap();
            trainer.restore_scaling(Scaling { scale: 256.0, good_steps: 0, updates: [0, 0] }).unwrap();
            let metrics = train(&mut trainer, 1).remove(0);
            (metrics, gradient(&trainer, "generator"))
        };
        let ((host, expected), (simt, found)) = (run(&Device::host(0).unwrap()), run(&Device::simt(3)));
        assert!((host.loss_d - simt.loss_d).abs() < 2e-3, "{precision}: {} and {}", host.loss_d, simt.loss_d);
        let cosine = dot(&found, &expected) / (dot(&found, &found) * dot(&expected, &expected)).sqrt();
        assert!(cosine > 0.99, "{precision}: cosine {cosine}");
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn short_trainings_stay_near_f32() {
    let device = Device::host(0).unwrap();
    let run = |precision, seed| {
        let mut trainer = Trainer::new(&device, &small(precision).with(|s| s.training.seed = seed)).unwrap();
        let metrics = train(&mut trainer, 60);
        let mean = |of: fn(&Metrics) -> f32| metrics[30..].iter().map(of).sum::<f32>() / 30.0;
        [mean(|m| m.kl_d), mean(|m| m.kl_g)]
    };
    let of_f32 = [1, 2, 3].map(|seed| run(Precision::F32, seed));
    for precision in OTHERS {
        let found = run(precision, 1);
        for (i, name) in ["kl_d", "kl_g"].into_iter().enumerate() {
            let (low, high) = of_f32.iter().fold((f32::MAX, 0.0f32), |(low, high), m| (low.min(m[i]), high.max(m[i])));
            let room = (high - low).max(0.1 * high);
            let inside = found[i] >= low - room && found[i] <= high + room;
            assert!(inside, "{precision}: {name} {}, f32 {low} to {high}", found[i]);
        }
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn a_scale_that_is_too_large_is_halved_until_the_gradients_are_finite() {
    let device = Device::host(0).unwrap();
    let mut trainer = Trainer::new(&device, &small(Precision::F16)).unwrap();
    assert_eq!(trainer.scaling().unwrap(), Some(Scaling { scale: 65536.0, good_steps: 0, updates: [0, 0] }));
    let scale = 2f32.powi(40);
    trainer.restore_scaling(Scaling { scale, good_steps: 0, updates: [0, 0] }).unwrap();
    let weights = |trainer: &Trainer| -> Vec<NamedTensor> {
        let tensors = trainer.tensors().unwrap();
        tensors.into_iter().filter(|t| !t.name.contains("running")).collect()
    };
    let before = weights(&trainer);
    let mut skipped = 0;
    loop {
        let metrics = train(&mut trainer, 1).remove(0);
        let now = trainer.scaling().unwrap().unwrap();
        if metrics.grad_norm_d.is_finite() && metrics.grad_norm_g.is_finite() {
            assert_eq!((now.good_steps, now.updates), (1, [1, 1]));
            break;
        }
        skipped += 1;
        assert_eq!(now, Scaling { scale: scale / 2f32.powi(skipped), good_steps: 0, updates: [0, 0] });
        assert!(weights(&trainer) == before, "a step with an overflow moves nothing");
        assert!(skipped < 40, "it never becomes finite");
    }
    assert!(skipped > 10, "2^40 is too large for f16");
    assert!(weights(&trainer) != before);

    // It doubles after 2,000 good steps; these are the last of them.
    let Scaling { scale, updates, .. } = trainer.scaling().unwrap().unwrap();
    trainer.restore_scaling(Scaling { scale: scale / 64.0, good_steps: 1998, updates }).unwrap();
    train(&mut trainer, 1);
    assert_eq!(trainer.scaling().unwrap().unwrap().scale, scale / 64.0);
    train(&mut trainer, 1);
    assert_eq!(trainer.scaling().unwrap().unwrap().scale, scale / 32.0);
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn a_loss_that_is_not_finite_still_stops() {
    let device = Device::host(0).unwrap();
    for precision in OTHERS {
        let mut trainer = Trainer::new(&device, &small(precision)).unwrap();
        train(&mut trainer, 1);
        let mut tensors = trainer.tensors().unwrap();
        let head = tensors.iter_mut().find(|t| t.name == "discriminator.head.weight").unwrap();
        head.values[0] = f32::NAN;
        trainer.restore(1, &tensors).unwrap();
        let images = vec![100; trainer.images_per_step() * 784];
        trainer.step(&images, &vec![0; trainer.images_per_step()]).unwrap();
        let error = trainer.metrics().unwrap_err().to_string();
        assert!(error.contains("discriminator.head.weight"), "{precision}: {error}");
        assert!(error.contains('2'), "{precision}: {error}");
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn checkpoints_have_the_same_tensors_and_go_on_in_any_precision() {
    let device = Device::host(0).unwrap();
    let shapes = |trainer: &Trainer| -> Vec<(String, Vec<usize>)> {
        trainer.tensors().unwrap().into_iter().map(|t| (t.name, t.shape)).collect()
    };
    let mut first = Trainer::new(&device, &small(Precision::F32)).unwrap();
    train(&mut first, 3);
    let tensors = first.tensors().unwrap();
    let last = train(&mut first, 3).pop().unwrap();
    for precision in OTHERS {
        let mut other = Trainer::new(&device, &small(precision)).unwrap();
        assert_eq!(shapes(&other), shapes(&first), "{precision}");
        other.restore(3, &tensors).unwrap();
        // With the weights of the checkpoint, not those that it began with.
        let went = train(&mut other, 3).pop().unwrap();
        assert!((went.kl_d - last.kl_d).abs() < 0.1 * last.kl_d.max(0.5), "{precision}: {went:?}, {last:?} in f32");
        let mut back = Trainer::new(&device, &small(Precision::F32)).unwrap();
        back.restore(6, &other.tensors().unwrap()).unwrap();
        assert!(train(&mut back, 1)[0].kl_d.is_finite(), "{precision}");
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn an_interrupted_training_goes_on_to_the_bit() {
    let device = Device::host(0).unwrap();
    for precision in OTHERS {
        let mut through = Trainer::new(&device, &small(precision)).unwrap();
        // As large as it may be, so that overflows are met on the way.
        through.restore_scaling(Scaling { scale: 2f32.powi(24), good_steps: 0, updates: [0, 0] }).unwrap();
        train(&mut through, 5);
        let (half, scaling) = (through.tensors().unwrap(), through.scaling().unwrap());
        train(&mut through, 12);
        let mut resumed = Trainer::new(&device, &small(precision)).unwrap();
        resumed.restore(5, &half).unwrap();
        scaling.map_or(Ok(()), |scaling| resumed.restore_scaling(scaling)).unwrap();
        train(&mut resumed, 12);
        assert!(resumed.tensors().unwrap() == through.tensors().unwrap(), "{precision}");
        assert_eq!(resumed.scaling().unwrap(), through.scaling().unwrap());
    }
}
