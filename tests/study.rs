//! What the study of fusion rests on: training from separate kernels is the same training, and the page says what ran.

mod common;

use zgan::bench;
use zgan::device::{Device, traffic};
use zgan::gan::{Conditioning, Loss, Preset, Trainer, TrainerOptions, Update};
use zgan::nn::Fusion;

/// The losses after each of some steps, and the launches and bytes of the last.
fn train(device: &Device, options: &TrainerOptions) -> (Vec<f32>, u64, u64) {
    let mut trainer = Trainer::new(device, options).unwrap();
    let count = if options.draws_points() { 0 } else { trainer.images_per_step() };
    let images: Vec<u8> = (0..count * options.shape.len()).map(|i| (i * 37 % 251) as u8).collect();
    let labels: Vec<u32> = (0..count as u32).map(|i| i % options.classes as u32).collect();
    let mut losses = Vec::new();
    let mut moved = (0, 0);
    for _ in 0..4 {
        let before = traffic();
        trainer.step(&images, &labels).unwrap();
        let after = traffic();
        moved = (after.launches - before.launches, after.bytes - before.bytes);
        let metrics = trainer.metrics().unwrap();
        losses.extend([metrics.loss_d, metrics.loss_g]);
    }
    (losses, moved.0, moved.1)
}

/// Small steps of every preset under both rules, and what else decides which kernels run.
fn steps() -> Vec<(String, TrainerOptions)> {
    let mut all: Vec<_> = bench::steps(true).into_iter().map(|step| (step.name, step.options)).collect();
    let (_, mnist) = all.iter().find(|(_, o)| o.preset == Preset::Mnist && o.update == Update::Simultaneous).unwrap();
    let penalised = TrainerOptions { loss: Loss::WassersteinGp, ..mnist.clone() };
    let classifying = TrainerOptions { conditioning: Conditioning::AcGan, ..mnist.clone() };
    // More fakes for G than for D: a second generator, and losses of another size.
    let sizes = TrainerOptions { update: Update::Alternating, n_dis: 2, batch_g: 5, ..mnist.clone() };
    all.push(("mnist, wasserstein-gp".into(), penalised));
    all.push(("mnist, ac-gan".into(), classifying));
    all.push(("mnist, more fakes for G".into(), sizes));
    all
}

#[test]
fn every_unfused_form_trains_the_same_and_moves_more() {
    let device = Device::host(2).unwrap();
    let mut compared = 0;
    for (name, options) in steps() {
        let (expected, launches, bytes) = train(&device, &options);
        for fusion in options.fusions() {
            let unfused = TrainerOptions { unfused: vec![fusion], ..options.clone() };
            let (losses, more_launches, more_bytes) = train(&device, &unfused);
            for (found, expected) in losses.iter().zip(&expected) {
                let scale = expected.abs().max(1.0);
                assert!((found - expected).abs() <= 1e-4 * scale, "{name}, unfused {fusion}: {losses:?}, {expected:?}");
            }
            assert!(launches < more_launches && bytes < more_bytes, "{name}, unfused {fusion}: {launches}, {bytes}");
            compared += 1;
        }
        let all = TrainerOptions { unfused: options.fusions(), ..options.clone() };
        let (losses, ..) = train(&device, &all);
        for (found, expected) in losses.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{name}: {losses:?}, {expected:?}");
        }
    }
    assert!(compared > 60, "{compared} forms");
}

#[test]
fn a_step_refuses_to_take_apart_what_it_does_not_have() {
    let device = Device::host(1).unwrap();
    for (_, options) in steps() {
        for fusion in [Fusion::LogPartition, Fusion::Projection, Fusion::Norm, Fusion::Conv] {
            let made = Trainer::new(&device, &TrainerOptions { unfused: vec![fusion], ..options.clone() });
            match made {
                Ok(_) => assert!(options.fusions().contains(&fusion)),
                Err(error) => {
                    assert!(!options.fusions().contains(&fusion));
                    assert!(error.to_string().contains(&format!("unfused {fusion}")), "{error}");
                }
            }
        }
    }
}
