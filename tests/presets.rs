//! The presets: their parameter counts, and that what can be combined trains.

use clap::ValueEnum;
use zgan::data::mixture::Cover;
use zgan::data::{DataInfo, DataSource, ImageShape, Size, Split, mixture};
use zgan::device::{Buffer, Device, Launched, Precision, kernel, trace};
use zgan::gan::{Latents, Metrics, Setup, Trainer, Weights};
use zgan::nn::Arena;
use zgan::settings::{
    Architecture, Blocks, Change, Conditioning, Loss, Preset, Settings, SoftmaxTarget, Training, Update,
};

/// The settings of a preset.
fn preset(name: &str) -> Settings {
    name.parse::<Preset>().unwrap().settings()
}

/// Data of this size, ten classes.
fn data(size: usize, channels: usize) -> DataInfo {
    let digits = DataSource::Mnist10k.open(Split::Train, &Settings::default().data_options()).unwrap();
    DataInfo { shape: ImageShape { height: size, width: size, channels }, ..digits.info() }
}

/// A few steps on noise.
fn train(device: &Device, setup: &Setup, steps: usize) -> Trainer {
    let mut trainer = Trainer::new(device, setup).unwrap();
    let n = trainer.images_per_step();
    let images: Vec<u8> = (0..n * setup.shape.len()).map(|i| (i * 7919 % 251) as u8).collect();
    let labels: Vec<u32> = (0..n).map(|i| (i % setup.classes) as u32).collect();
    for _ in 0..steps {
        trainer.step(&images, &labels).unwrap();
    }
    let metrics = trainer.metrics().unwrap();
    assert!(metrics.grad_norm_d > 0.0 && metrics.grad_norm_g > 0.0, "{metrics:?}");
    assert!(metrics.loss_d.is_finite() && metrics.loss_g.is_finite(), "{metrics:?}");
    trainer
}

/// What a training tells of its health is what its networks have.
#[test]
fn health_is_that_of_the_networks() {
    let device = Device::host(2).unwrap();
    let health = |name: &str, size: usize, change: fn(&mut Setup)| {
        let setup = Setup::new(&preset(name), &data(size, 3)).with(|s| {
            (s.networks.width, s.training.batch, s.training.batch_g) = (8, 4, None);
            (s.training.decay_from, s.training.steps) = (None, 10);
            change(s);
        });
        let trainer = train(&device, &setup, 2);
        let metrics = trainer.metrics().unwrap();
        let names: Vec<&str> = metrics.health.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, setup.health(), "{name}");
        (trainer, metrics)
    };
    let of = |metrics: &Metrics, name: &str| metrics.health.iter().find(|(known, _)| *known == name).unwrap().1;

    // Both parts of the logits are all of them, by D's weights of the last pass, which its spectral norm keeps.
    let (trainer, metrics) = health("sngan-projection-32", 32, |_| ());
    assert_eq!(metrics.health.len(), 8, "{metrics:?}");
    let logits = trainer.logits().unwrap();
    for (side, rows) in [("real", 0..4), ("fake", 4..8)] {
        let mean = logits[rows].iter().sum::<f32>() / 4.0;
        let parts = [format!("r_x_{side}"), format!("r_yx_{side}")].map(|name| of(&metrics, &name));
        assert!((parts[0] + parts[1] - mean).abs() < 1e-4 * mean.abs().max(1.0), "{side}: {parts:?}, {mean}");
        assert!(parts.iter().all(|part| *part != 0.0), "{parts:?}");
    }
    let tensors = trainer.tensors().unwrap();
    // No power iteration finds more than the Frobenius norm, and the largest is that of some weight.
    let norms = tensors.iter().filter(|t| t.name.starts_with("discriminator.") && t.name.ends_with("weight"));
    let most = norms.map(|t| t.values.iter().map(|x| x * x).sum::<f32>().sqrt()).fold(0.0, f32::max);
    assert!((0.01..=most).contains(&of(&metrics, "sigma_d")), "{metrics:?}, {most}");
    assert_eq!(of(&metrics, "lr_d"), trainer.setup().training.lr_d as f32);

    let (trainer, metrics) = health("sagan-64", 64, |s| (s.training.decay_from, s.training.lr_g) = (Some(0), 0.5));
    let gamma = trainer.tensors().unwrap().into_iter().find(|t| t.name == "generator.attention.gamma").unwrap();
    assert_eq!((of(&metrics, "gamma_g"), of(&metrics, "lr_g")), (gamma.values[0], 0.4));
    assert!(of(&metrics, "sigma_g") > 0.0 && of(&metrics, "gamma_g") != 0.0, "{metrics:?}");
    // The hinge loss has the derivative 0 for logits beyond 1 on their side.
    let (trainer, metrics) = health("sngan-projection-32", 32, |s| {
        (s.training.loss, s.networks.pool_factor) = (Loss::Hinge, 1e3);
    });
    let logits = trainer.logits().unwrap();
    let dead = logits[..4].iter().filter(|x| **x >= 1.0).count() + logits[4..].iter().filter(|x| **x <= -1.0).count();
    assert!(dead > 0 && of(&metrics, "dead_logits") == dead as f32 / 8.0, "{logits:?}, {metrics:?}");
}

#[test]
fn parameter_counts_are_the_references() {
    for (name, info, g, d) in [
        ("softmax-gan", data(28, 1), 1_510_032, 533_504),
        ("mnist", data(28, 1), 147_041, 35_792),
        ("sngan-projection-32", data(32, 3), 4_304_387, 1_055_104),
    ] {
        let plan = Trainer::plan(&Setup::new(&preset(name), &info), 1).unwrap();
        assert_eq!((plan.parameters_g, plan.parameters_d), (g, d), "{name}");
    }
}

/// The initialisations of the originals: G's last convolution has gain 1, and the PyTorch port leaves D's biases as PyTorch
/// begins them.
#[test]
fn first_weights_are_the_originals() {
    let device = Device::host(0).unwrap();
    let first = |name: &str, size: usize| {
        let setup = Setup::new(&preset(name), &data(size, 3)).with(|s| s.networks.width = 16);
        let tensors = Trainer::new(&device, &setup).unwrap().tensors().unwrap();
        move |name: &str| {
            let values = &tensors.iter().find(|t| t.name == name).unwrap().values;
            values.iter().fold(0.0f32, |most, x| most.max(x.abs()))
        }
    };
    // U(-b, b) of many numbers nearly reaches b.
    let reaches = |found: f32, bound: f32| assert!(found <= bound && found > 0.9 * bound, "{found} of {bound}");
    let sngan = first("sngan-projection-64", 64);
    reaches(sngan("generator.conv.weight"), (6.0f32 / (9.0 * 16.0 + 9.0 * 3.0)).sqrt());
    reaches(sngan("generator.block4.conv2.weight"), (2.0f32 * 6.0 / (9.0 * 16.0 + 9.0 * 16.0)).sqrt());
    assert_eq!(sngan("discriminator.block2.conv1.bias"), 0.0);
    let port = first("crcrpar-64", 64);
    reaches(port("discriminator.block5.conv2.bias"), 1.0 / (9.0f32 * 128.0).sqrt());
    reaches(port("discriminator.block3.shortcut.bias"), 1.0 / 32.0f32.sqrt());
    assert!(port("discriminator.head.bias") > 0.0 && port("discriminator.head.bias") <= 1.0 / 16.0);
    reaches(port("discriminator.block5.conv2.weight"), (2.0f32 * 6.0 / (9.0 * 128.0 + 9.0 * 256.0)).sqrt());
    reaches(port("generator.block4.conv1.bias"), 1.0 / (9.0f32 * 32.0).sqrt());
}

#[test]
fn every_conditioning_trains_with_every_loss() {
    let device = Device::host(0).unwrap();
    let mnist = Setup::new(&preset("mnist"), &data(28, 1));
    for conditioning in Conditioning::value_variants() {
        for loss in Loss::value_variants() {
            for update in [Update::Simultaneous, Update::Alternating] {
                let setup = mnist.with(|s| {
                    s.networks.conditioning = *conditioning;
                    s.networks.width = 4;
                    s.training.loss = *loss;
                    s.training.update = update;
                    s.training.batch = 5;
                    // At greater rates D soon tells noise from fakes so well that hinge losses have no gradient.
                    (s.training.lr_g, s.training.lr_d) = (1e-3, 1e-3);
                });
                train(&device, &setup, 10);
            }
        }
    }
}

#[test]
fn every_preset_of_larger_images_trains() {
    let device = Device::host(0).unwrap();
    for (name, size) in [
        ("sngan-projection-32", 32),
        ("sngan-projection-64", 64),
        ("crcrpar-64", 64),
        ("sagan-64", 64),
        ("sngan-projection-48", 48),
        ("sngan-projection-128", 128),
        ("sngan-projection-256", 256),
        ("photos-64", 64),
        ("photos-128", 128),
    ] {
        let setup = Setup::new(&preset(name), &data(size, 3)).with(|s| {
            s.networks.width = 4;
            s.training.batch = 2;
            if s.training.update == Update::Alternating {
                s.training = Training { batch_g: Some(3), n_dis: 2, ..s.training.clone() };
            }
        });
        train(&device, &setup, 2);
    }
}

/// What a preset's networks have for images of this size, as `(bottom, start, up, down, top)`.
fn blocks(preset: &str, size: Size) -> String {
    let Architecture::Residual(networks) = preset.parse::<Preset>().unwrap().architecture else { unreachable!() };
    match networks.blocks(size) {
        Ok(Blocks { bottom, start, up, down, top, .. }) => {
            let down = down.iter().map(|(width, halves)| format!("{width}{}", if *halves { "/" } else { "" }));
            format!("{bottom} {start} {up:?} [{}] {top}", down.collect::<Vec<_>>().join(", "))
        }
        Err(error) => error.to_string(),
    }
}

/// The tables of the papers and programs, and how they go on.
#[test]
fn blocks_follow_from_the_size() {
    for (preset, size, expected) in [
        ("mnist", 28.into(), "7 2 [2, 1] [1/, 2/, 2] 7"),
        ("mnist", 32.into(), "4 2 [2, 2, 1] [1/, 2/, 2/, 2] 4"),
        ("sngan-projection-32", 32.into(), "4 2 [2, 2, 2] [1/, 1/, 1, 1] 8"),
        ("sngan-projection-48", 48.into(), "6 8 [4, 2, 1] [1/, 2/, 4/, 8/, 16] 3"),
        ("sngan-projection-64", 64.into(), "4 16 [8, 4, 2, 1] [1/, 2/, 4/, 8/, 16/] 2"),
        ("crcrpar-64", 64.into(), "4 16 [8, 4, 2, 1] [1/, 2/, 4/, 8/, 16/] 2"),
        ("sngan-projection-128", 128.into(), "4 16 [16, 8, 4, 2, 1] [1/, 2/, 4/, 8/, 16/, 16] 4"),
        ("sngan-projection-256", 256.into(), "4 16 [16, 8, 8, 4, 2, 1] [1/, 2/, 4/, 8/, 8/, 16/, 16] 4"),
        ("sngan-projection-64", 512.into(), "4 16 [16, 8, 8, 4, 2, 1, 1] [1/, 1/, 2/, 4/, 8/, 8/, 16/, 16] 4"),
        ("sngan-projection-64", Size::new(48, 80), "6x10 8 [4, 2, 1] [1/, 2/, 4/, 8/, 16] 3x5"),
        ("sngan-projection-64", Size::new(80, 64), "5x4 16 [8, 4, 2, 1] [1/, 2/, 4/, 8/, 16] 5x4"),
        ("sngan-projection-64", Size::new(16, 64), "4x16 4 [2, 1] [1/, 2/, 4/, 8, 16] 2x8"),
        ("sngan-projection-64", 50.into(), "be multiples of 8; 48x48 and 56x56 can"),
        ("sngan-projection-64", Size::new(50, 80), "50x80 cannot be built: G doubles its first tensor 3 times"),
        ("sngan-projection-64", Size::new(50, 80), "48x80 and 56x80 can"),
        ("sngan-projection-64", Size::new(60, 72), "56x72 and 64x80 can"),
        ("sngan-projection-64", 1000.into(), "be multiples of 128; 896x896 can"),
        ("sngan-projection-64", Size::new(12, 64), "the shorter side must have 16 to 1023 pixels"),
        ("sngan-projection-64", Size::new(64, 1 << 40), "the longer one at most 4096"),
    ] {
        let found = blocks(preset, size);
        assert!(found.contains(expected), "{preset}, {size}: {found}");
    }
    // A preset's name says no more than where its settings come from: at one size, all of a family are the same.
    let of = |preset: &str| [48, 64, 128, 256].map(|side| blocks(preset, side.into()));
    assert_eq!(of("sngan-projection-48"), of("sngan-projection-256"));
    // Self-attention sees images whose shorter side has at most 32 pixels, in both networks.
    let Architecture::Residual(sagan) = "sagan-64".parse::<Preset>().unwrap().architecture else { unreachable!() };
    let attention = [28, 48, 64, 96, 128, 256].map(|side| sagan.blocks(side.into()).unwrap().attention.unwrap());
    assert_eq!(attention, [1, 1, 1, 2, 2, 3]);
}

/// In D's step, the pass ends at the lowest block that learns, and G's signal goes on to the images. What learns has the
/// gradients that it has without frozen blocks.
#[test]
fn gradients_of_frozen_blocks_are_not_computed() {
    let device = Device::host(0).unwrap();
    for (name, side, channels, freeze_d) in [
        ("mnist", 28, 1, 2),
        ("sngan-projection-32", 32, 3, 3),
        ("sngan-projection-32", 32, 3, 4),
        ("sagan-64", 64, 3, 1),
        ("softmax-gan", 28, 1, 1),
    ] {
        let setup = Setup::new(&preset(name), &data(side, channels)).with(|s| {
            s.networks.width = 8;
            // D stays, so that G meets the same one.
            s.training = Training { batch: 2, batch_g: None, n_dis: 1, lr_d: 0.0, ..s.training.clone() };
        });
        let images: Vec<u8> = (0..2 * setup.shape.len()).map(|i| (i * 7919 % 251) as u8).collect();
        let [all, frozen] = [0, freeze_d].map(|freeze_d| {
            let mut trainer = Trainer::new(&device, &setup.with(|s| s.training.freeze_d = freeze_d)).unwrap();
            let launched = trace(|| trainer.step(&images, &[3, 7])).unwrap();
            let players = [trainer.generator(), trainer.discriminator()];
            let gradients = players.map(|player| player.gradients.read().unwrap());
            let count = |part: &str| launched.iter().filter(|launch| launch.kernel.contains(part)).count();
            (gradients, count("weight_gradient"), count("input_gradient"))
        });
        let ([g, d], weights, inputs) = all;
        let ([frozen_g, frozen_d], frozen_weights, frozen_inputs) = frozen;
        assert!(g == frozen_g, "{name}, {freeze_d}: G learns otherwise");
        let first = d.iter().zip(&frozen_d).rposition(|(a, b)| a != b).unwrap() + 1;
        assert!(frozen_d[..first].iter().all(|x| *x == 0.0), "{name}, {freeze_d}");
        assert!(frozen_d[first..].iter().any(|x| *x != 0.0), "{name}, {freeze_d}");
        assert!(frozen_weights < weights, "{name}, {freeze_d}: {frozen_weights} of {weights}");
        // A simultaneous step takes G's signal to the images in the same pass.
        let ends = setup.training.update == Update::Alternating;
        assert_eq!(frozen_inputs < inputs, ends, "{name}, {freeze_d}: {frozen_inputs} of {inputs}");
    }
}

/// With red zones in the arena, and NaNs in what nobody has written, a step gives the same numbers, and writes nothing between.
#[test]
fn red_zones_change_nothing() {
    let device = Device::host(0).unwrap();
    for (name, size, channels) in
        [("softmax-gan", 28, 1), ("mnist", 28, 1), ("sngan-projection-32", 32, 3), ("sagan-64", 64, 3)]
    {
        let setup = Setup::new(&preset(name), &data(size, channels)).with(|s| {
            s.networks.width = 4;
            s.training.batch = 3;
            s.training.batch_g = None;
        });
        let [plain, zones] = [device.clone(), device.with_red_zones()].map(|d| train(&d, &setup, 2).tensors().unwrap());
        for (a, b) in plain.iter().zip(&zones) {
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&a.values) == bits(&b.values), "{name}: {}", a.name);
        }
    }
}

/// A kernel that is told of more elements than its output has is found, and the part of the arena behind which it wrote named.
#[test]
fn what_is_written_behind_a_part_of_the_arena_is_found() {
    let device = Device::host(1).unwrap().with_red_zones();
    let mut arena = Arena::measuring(&device);
    let parts = |arena: &mut Arena| -> (Buffer<f32>, Buffer<f32>, Buffer<f32>) {
        (arena.take(100).unwrap(), arena.take(64).unwrap(), arena.take(3).unwrap())
    };
    parts(&mut arena);
    let mut arena = Arena::new(&device, arena.used()).unwrap();
    let (from, to, last) = parts(&mut arena);
    assert!(last.read().unwrap()[2].is_nan());
    from.write(&[1.0; 100]).unwrap();
    to.zero().unwrap();
    last.zero().unwrap();
    arena.check().unwrap();
    let launch = |len: u32| {
        // One part of `len` floats, none behind them, all of them one block's.
        let (pointers, left) = ([to.raw_address(), 0, from.raw_address()], [1u32, len, 0, len, 0]);
        let arguments: [*const std::ffi::c_void; 4] = [
            (&raw const pointers[0]).cast(),
            (&raw const pointers[1]).cast(),
            (&raw const pointers[2]).cast(),
            (&raw const left).cast(),
        ];
        // SAFETY: the kernel's arguments; so many floats behind `to` lie in the arena's memory.
        unsafe { device.launch_raw(kernel::CONV_SUM_PARTS_F32, [1, 1, 1], &arguments) }.unwrap();
    };
    launch(64);
    arena.check().unwrap();
    to.zero().unwrap();
    launch(65);
    let error = arena.check().unwrap_err().to_string();
    let expected =
        "bytes 0 to 3 behind a part of the arena were written: part 1 of 3, 256 B, taken in tests/presets.rs:";
    assert!(error.contains(expected), "{error}");
}

/// The grids of the largest networks' steps, none of which a GPU takes more than [2^31 - 1, 65535, 65535] blocks of.
#[test]
fn large_batches_have_grids_that_a_gpu_takes() {
    let mut layers = 0;
    for (name, size, batch) in [
        ("sngan-projection-32", 32, 1024),
        ("sngan-projection-64", 64, 1024),
        ("crcrpar-64", 64, 1024),
        ("sagan-64", 64, 1024),
        ("sngan-projection-128", 128, 256),
        ("sngan-projection-128", 128, 1024),
    ] {
        for precision in Precision::ALL {
            let setup = Setup::new(&preset(name), &data(size, 3)).with(|s| {
                s.training.batch = batch;
                s.training.n_dis = 1;
                s.training.precision = precision.into();
            });
            let device = Device::launches_of_gpu("NVIDIA H200", 132);
            let mut trainer = Trainer::new(&device, &setup).unwrap();
            let images = vec![0; trainer.images_per_step() * setup.shape.len()];
            let labels = vec![0; trainer.images_per_step()];
            let launched = trace(|| trainer.step(&images, &labels)).unwrap();
            for Launched { kernel, grid, .. } in launched {
                let most = [i32::MAX as u32, 65_535, 65_535];
                assert!(
                    grid.iter().zip(most).all(|(n, most)| *n <= most),
                    "{name}, batch {batch}: {kernel} of {grid:?}"
                );
                layers = layers.max(if kernel.starts_with("conv_forward") { grid[2] } else { 0 });
            }
        }
    }
    assert!(layers > 1, "no product had more rows of tiles than y takes");
}

/// A step on real thread blocks gives the host's losses, for the networks with convolutions too.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn mnist_on_real_thread_blocks_is_the_hosts() {
    let setup = Setup::new(&preset("mnist"), &data(28, 1)).with(|s| {
        s.networks.width = 2;
        s.training.batch = 1;
    });
    let [host, simt] = [Device::host(0).unwrap(), Device::simt(5)].map(|d| train(&d, &setup, 1).metrics().unwrap());
    for (a, b) in
        [(host.loss_d, simt.loss_d), (host.grad_norm_d, simt.grad_norm_d), (host.grad_norm_g, simt.grad_norm_g)]
    {
        assert!((a - b).abs() <= 1e-3 * a.abs(), "host {a}, simt {b}");
    }
}

#[test]
fn pairs_that_cannot_work_are_refused_with_the_reason() {
    let setup = Setup::new(&preset("mnist"), &data(28, 1));
    let refused = |setup: &Setup| Trainer::plan(setup, 1).err().unwrap().to_string();
    let message = refused(&setup.with(|s| s.training.n_dis = 2));
    assert!(message.starts_with("n-dis 2 with update simultaneous"), "{message}");
    let message = refused(&setup.with(|s| s.training.batch_g = Some(32)));
    assert!(message.starts_with("batch-g 32 with update simultaneous"), "{message}");
    let message = refused(&setup.with(|s| s.shape.width = 30));
    assert!(message.starts_with("size: 28x30 cannot be built: G doubles its first tensor 2 times"), "{message}");
    let sagan = Setup::new(&preset("sagan-64"), &data(64, 3));
    let message = refused(&sagan.with(|s| s.training.loss = Loss::WassersteinGp));
    assert!(message.starts_with("loss wasserstein-gp with preset sagan-64: layer attention of D"), "{message}");
    let points = Setup::new(&preset("ring"), &DataInfo { shape: mixture::SHAPE, ..data(1, 1) });
    let message = refused(&points.with(|s| s.batches.diffaug = vec![Change::Cutout]));
    assert_eq!(message, "diffaug with preset ring: it changes images, and these are points");
    let message = refused(&sagan.with(|s| s.training.r1 = 0.1));
    assert!(message.starts_with("r1 0.1 with preset sagan-64: layer attention of D is not piecewise"), "{message}");
    assert!(message.ends_with("--r1 0 leaves it out"), "{message}");
    let unlabelled = Setup::new(&preset("softmax-gan"), &data(28, 1));
    let message = refused(&unlabelled.with(|s| s.networks.conditioning = Conditioning::AcGan));
    assert!(message.starts_with("preset softmax-gan has no networks that know labels"), "{message}");
}

/// How well the averaged weights cover the ring after the steps of the preset.
fn ring(device: &Device, seed: u64, change: impl FnOnce(&mut Setup)) -> Cover {
    let info = DataInfo { shape: mixture::SHAPE, name: "ring".into(), ..data(1, 1) };
    let setup = Setup::new(&preset("ring"), &info).with(|s| s.training.seed = seed).with(change);
    let mut trainer = Trainer::new(device, &setup).unwrap();
    for _ in 0..setup.training.steps {
        trainer.step(&[], &[]).unwrap();
    }
    let points = trainer.points(Weights::Average, &Latents::unlabelled(seed, mixture::POINTS)).unwrap();
    setup.mixture.cover(&points)
}

/// Seed 1, and with `ZGAN_SEEDS=all` the seeds 1 to 5.
#[test]
fn the_ring_is_covered_with_the_softmax_loss() {
    let device = Device::host(0).unwrap();
    let all = std::env::var("ZGAN_SEEDS").is_ok_and(|seeds| seeds == "all");
    for seed in 1..=if all { 5 } else { 1 } {
        // Half of the length is enough to cover all; the rest makes the modes narrower.
        let cover = ring(&device, seed, |s| s.training.steps = if all { s.training.steps } else { 2500 });
        assert!(cover.covered == 8 && cover.near > 0.5 && cover.kl < 0.1, "seed {seed}: {cover}");
    }
}

/// Softmax GAN as published pulls too little where few fakes are: docs/softmax-gan.md.
#[test]
fn as_published_the_softmax_loss_covers_a_part_of_the_ring() {
    let published = |s: &mut Setup| {
        s.training.softmax_target = SoftmaxTarget::Uniform;
        s.training.r1 = 0.0;
        s.training.steps = 2000;
    };
    let cover = ring(&Device::host(0).unwrap(), 1, published);
    assert!(cover.covered <= 4, "{cover}");
}
