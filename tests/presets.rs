//! The presets: their parameter counts, and that what can be combined trains.

use clap::ValueEnum;
use zgan::config::Config;
use zgan::data::{DataInfo, DataSource, ImageShape, Split, ring};
use zgan::device::Device;
use zgan::gan::{Conditioning, Latents, Loss, Preset, Trainer, TrainerOptions, Update, Weights};

/// Data of this size, ten classes.
fn data(size: usize, channels: usize) -> DataInfo {
    let digits = DataSource::Mnist10k.open(Split::Train, &Config::default().data_options()).unwrap();
    DataInfo { shape: ImageShape { height: size, width: size, channels }, ..digits.info() }
}

/// A few steps on noise.
fn train(device: &Device, options: &TrainerOptions, steps: usize) -> Trainer {
    let mut trainer = Trainer::new(device, options).unwrap();
    let n = trainer.images_per_step();
    let images: Vec<u8> = (0..n * options.shape.len()).map(|i| (i * 7919 % 251) as u8).collect();
    let labels: Vec<u32> = (0..n).map(|i| (i % options.classes) as u32).collect();
    for _ in 0..steps {
        trainer.step(&images, &labels).unwrap();
    }
    let metrics = trainer.metrics().unwrap();
    assert!(metrics.grad_norm_d > 0.0 && metrics.grad_norm_g > 0.0, "{metrics:?}");
    assert!(metrics.loss_d.is_finite() && metrics.loss_g.is_finite(), "{metrics:?}");
    trainer
}

#[test]
fn parameter_counts_are_the_references() {
    for (preset, info, g, d) in [
        (Preset::SoftmaxGan, data(28, 1), 1_510_032, 533_504),
        (Preset::Mnist, data(28, 1), 147_041, 35_792),
        (Preset::SnganProjection32, data(32, 3), 4_304_387, 1_055_104),
    ] {
        let plan = Trainer::plan(&Config::preset(preset).trainer_options(&info)).unwrap();
        assert_eq!((plan.parameters_g, plan.parameters_d), (g, d), "{preset}");
    }
}

#[test]
fn every_conditioning_trains_with_every_loss() {
    let device = Device::host(0).unwrap();
    let info = data(28, 1);
    for conditioning in Conditioning::value_variants() {
        for loss in Loss::value_variants() {
            for update in [Update::Simultaneous, Update::Alternating] {
                let preset =
                    Config { conditioning: *conditioning, loss: *loss, update, ..Config::preset(Preset::Mnist) };
                let options = TrainerOptions { batch: 5, batch_g: 5, width: 4, ..preset.trainer_options(&info) };
                train(&device, &options, 10);
            }
        }
    }
}

#[test]
fn every_preset_of_larger_images_trains() {
    let device = Device::host(0).unwrap();
    for (preset, size) in [
        (Preset::SnganProjection32, 32),
        (Preset::SnganProjection64, 64),
        (Preset::Crcrpar64, 64),
        (Preset::Sagan64, 64),
        (Preset::SnganProjection128, 128),
    ] {
        let options = Config::preset(preset).trainer_options(&data(size, 3));
        train(&device, &TrainerOptions { batch: 2, batch_g: 3, width: 4, n_dis: 2, ..options }, 2);
    }
}

/// A step on real thread blocks gives the host's losses, for the networks with convolutions too.
#[test]
fn mnist_on_real_thread_blocks_is_the_hosts() {
    let options = Config::preset(Preset::Mnist).trainer_options(&data(28, 1));
    let options = TrainerOptions { batch: 1, batch_g: 1, width: 2, ..options };
    let [host, simt] = [Device::host(0).unwrap(), Device::simt(5)].map(|d| train(&d, &options, 1).metrics().unwrap());
    for (a, b) in
        [(host.loss_d, simt.loss_d), (host.grad_norm_d, simt.grad_norm_d), (host.grad_norm_g, simt.grad_norm_g)]
    {
        assert!((a - b).abs() <= 1e-3 * a.abs(), "host {a}, simt {b}");
    }
}

#[test]
fn pairs_that_cannot_work_are_refused_with_the_reason() {
    let options = Config::preset(Preset::Mnist).trainer_options(&data(28, 1));
    let refused = |options: &TrainerOptions| Trainer::plan(options).err().unwrap().to_string();
    let message = refused(&TrainerOptions { n_dis: 2, ..options.clone() });
    assert!(message.starts_with("n-dis 2 with update simultaneous"), "{message}");
    let message = refused(&TrainerOptions { batch_g: 32, ..options.clone() });
    assert!(message.starts_with("batch-g 32 with update simultaneous"), "{message}");
    let message = refused(&TrainerOptions { preset: Preset::SnganProjection32, ..options });
    assert_eq!(message, "preset sngan-projection-32 makes 32x32 images, the data has 28x28");
    let sagan = Config { loss: Loss::WassersteinGp, ..Config::preset(Preset::Sagan64) };
    let message = refused(&sagan.trainer_options(&data(64, 3)));
    assert!(message.starts_with("loss wasserstein-gp with preset sagan-64: layer attention of D"), "{message}");
    let labelled = Config { conditioning: Conditioning::AcGan, ..Config::preset(Preset::SoftmaxGan) };
    let message = refused(&labelled.trainer_options(&data(28, 1)));
    assert!(message.starts_with("preset softmax-gan has no networks that know labels"), "{message}");
}

/// With the softmax loss it is 2, and docs/benchmarks.md says what is known of why.
#[test]
fn the_minimax_loss_finds_most_modes_of_the_ring() {
    let device = Device::host(0).unwrap();
    let shape = ring::SHAPE;
    let mut covered = [1, 2, 3].map(|seed| {
        let config = Config { loss: Loss::Minimax, seed, ..Config::preset(Preset::Ring) };
        let info = DataInfo { shape, ..data(1, 1) };
        let mut trainer = Trainer::new(&device, &config.trainer_options(&info)).unwrap();
        for _ in 0..2500 {
            trainer.step(&[], &[]).unwrap();
        }
        let points = trainer.points(Weights::Average, &Latents::unlabelled(seed, ring::POINTS)).unwrap();
        ring::modes_covered(&points)
    });
    covered.sort();
    assert!(covered[1] >= 5, "{covered:?} of 8 modes");
}
