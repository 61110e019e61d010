//! The training step beside PyTorch's in float64, one backward pass of D beside two, and what a step promises.

mod common;

use common::*;
use safetensors::SafeTensors;
use zgan::checkpoint::NamedTensor;
use zgan::config::Config;
use zgan::data::{DataSource, Split};
use zgan::device::Device;
use zgan::gan::{Latents, Preset, Trainer, TrainerOptions, Update, Weights};

const BATCH: usize = 64;
const LATENT: usize = 100;

fn options(update: Update) -> TrainerOptions {
    preset(Preset::SoftmaxGan, update)
}

fn preset(preset: Preset, update: Update) -> TrainerOptions {
    let data = DataSource::Mnist10k.open(Split::Train, 10).unwrap().info();
    let config = Config { update, steps: 10, ..Config::preset(preset) };
    config.trainer_options(&data)
}

/// The start of tests/goldens/softmax_gan_steps.py: weights U(-b, b) with b = 1 / sqrt(C), norms 1 and 0.
fn start(trainer: &Trainer) -> Vec<NamedTensor> {
    let mut tensors = trainer.tensors().unwrap();
    let mut number = 0;
    for tensor in &mut tensors {
        tensor.values.fill(0.0);
        let plain = tensor.name.starts_with("generator.") || tensor.name.starts_with("discriminator.");
        if !plain || tensor.name.contains("running") {
            continue;
        }
        let mut random = Random(1000 + number);
        number += 1;
        if tensor.name.contains("norm") {
            tensor.values.fill(if tensor.name.ends_with("weight") { 1.0 } else { 0.0 });
        } else {
            let c = if let [c, _] = tensor.shape[..] { c } else { inputs(&tensor.name) };
            let bound = (c as f64).powf(-0.5);
            tensor.values.fill_with(|| ((2.0 * random.uniform() - 1.0) * bound) as f32);
        }
    }
    tensors
}

/// C of the layer whose bias this is.
fn inputs(name: &str) -> usize {
    let widths: &[usize] = if name.starts_with("generator") { &[100, 128, 256, 512, 1024] } else { &[784, 512, 256] };
    let number = name.split(['.']).nth(1).unwrap().trim_start_matches("linear");
    widths[number.parse::<usize>().unwrap() - 1]
}

/// The first embedded digits, (count, 28, 28, 1).
fn digits(count: usize) -> Vec<u8> {
    let data = DataSource::Mnist10k.open(Split::Train, 10).unwrap();
    (0..count).flat_map(|i| data.image(i).to_vec()).collect()
}

fn golden() -> Vec<u8> {
    std::fs::read("tests/goldens/softmax_gan_steps.safetensors").unwrap()
}

fn numbers(file: &SafeTensors, name: &str) -> Vec<f64> {
    let data = file.tensor(name).unwrap();
    data.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// A bias before a batch norm moves nothing: its gradient is zero but for rounding.
fn has_no_gradient(name: &str) -> bool {
    ["generator.linear2.bias", "generator.linear3.bias", "generator.linear4.bias"].contains(&name)
}

fn ten_steps(device: &Device, update: Update, rule: &str) {
    let bytes = golden();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut trainer = Trainer::new(device, &options(update)).unwrap();
    let begin = start(&trainer);
    trainer.restore(0, &begin).unwrap();
    let digits = digits(10 * BATCH);
    let losses = numbers(&file, &format!("{rule}.losses"));
    for step in 0..10 {
        let images = &digits[step * BATCH * 784..(step + 1) * BATCH * 784];
        let z = Random(5000 + step as u64).normals(BATCH * LATENT);
        trainer.step_given(images, &[0; BATCH], &z, &[0; BATCH]).unwrap();
        let metrics = trainer.metrics().unwrap();
        for (name, found, expected) in
            [("loss_d", metrics.loss_d, losses[2 * step]), ("loss_g", metrics.loss_g, losses[2 * step + 1])]
        {
            let error = (f64::from(found) - expected).abs() / expected.abs();
            assert!(error <= 1e-5, "{rule} step {step} {name}: {found}, PyTorch {expected}, {error:.1e} apart");
        }
    }
    let end = trainer.tensors().unwrap();
    let mut compared = 0;
    for (b, e) in begin.iter().zip(&end) {
        if file.tensor(&format!("{rule}.{}", e.name)).is_err() || has_no_gradient(&e.name) {
            continue;
        }
        compared += 1;
        let expected = numbers(&file, &format!("{rule}.{}", e.name));
        let pytorch = numbers(&file, &format!("{rule}.{}.float32", e.name))[0];
        let stride = (e.values.len() / 512).max(1);
        let pick = |values: &[f32]| -> Vec<f64> { values.iter().step_by(stride).map(|x| f64::from(*x)).collect() };
        let (from, to) = (pick(&b.values), pick(&e.values));
        assert_eq!(to.len(), expected.len());
        let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
        let off = distance(&to, &expected) / distance(&from, &expected);
        println!("{rule} {}: {off:.2e} of the way off, PyTorch in float32 {pytorch:.2e}", e.name);
        assert!(off <= (2.0 * pytorch).min(0.05), "{rule} {}: {off:.2e} of the way off", e.name);
    }
    assert_eq!(compared, 18);
}

#[test]
fn ten_simultaneous_steps_are_pytorchs() {
    on_fast_devices(|device| ten_steps(device, Update::Simultaneous, "simultaneous"));
}

#[test]
fn ten_alternating_steps_are_pytorchs() {
    on_fast_devices(|device| ten_steps(device, Update::Alternating, "alternating"));
}

#[test]
fn a_step_on_real_thread_blocks_is_the_hosts() {
    let images: Vec<u8> = digits(4);
    let small = TrainerOptions { batch: 4, batch_g: 4, ..options(Update::Simultaneous) };
    let run = |device: &Device| {
        let mut trainer = Trainer::new(device, &small).unwrap();
        trainer.step(&images, &[0; 4]).unwrap();
        (trainer.metrics().unwrap(), trainer.tensors().unwrap())
    };
    let (host, host_tensors) = run(&Device::host(0).unwrap());
    let (simt, simt_tensors) = run(&Device::simt(3));
    for (a, b) in [(host.loss_d, simt.loss_d), (host.loss_g, simt.loss_g), (host.grad_norm_g, simt.grad_norm_g)] {
        assert!((a - b).abs() <= 1e-5 * a.abs(), "host {a}, simt {b}");
    }
    for (a, b) in host_tensors.iter().zip(&simt_tensors).filter(|(a, _)| a.name.starts_with("adam.m.discriminator")) {
        let error = relative_error(&b.values, &to_f64(&a.values), 1e-12);
        assert!(error <= 1e-4, "{}: {error:.1e}", a.name);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let digits = digits(10 * BATCH);
    let run = |threads| {
        let mut trainer = Trainer::new(&Device::host(threads).unwrap(), &options(Update::Simultaneous)).unwrap();
        for step in 0..3 {
            trainer.step(&digits[step * BATCH * 784..(step + 1) * BATCH * 784], &[0; BATCH]).unwrap();
        }
        (trainer.tensors().unwrap(), trainer.sample(Weights::Raw, &Latents::unlabelled(3, 70)).unwrap())
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn a_loss_that_is_not_finite_names_the_step_and_the_tensor() {
    let digits = digits(10 * BATCH);
    let mut trainer = Trainer::new(&Device::host(1).unwrap(), &options(Update::Simultaneous)).unwrap();
    let images = &digits[..BATCH * 784];
    trainer.step(images, &[0; BATCH]).unwrap();
    trainer.metrics().unwrap();
    let mut tensors = trainer.tensors().unwrap();
    let weight = tensors.iter_mut().find(|t| t.name == "discriminator.linear2.weight").unwrap();
    weight.values[17] = f32::NAN;
    trainer.restore(1, &tensors).unwrap();
    for _ in 0..3 {
        trainer.step(images, &[0; BATCH]).unwrap();
    }
    let message = trainer.metrics().unwrap_err().to_string();
    assert_eq!(message, "step 2: discriminator.linear2.weight is not finite");
    // Nothing else was touched by the steps after it.
    let after = trainer.tensors().unwrap();
    for (a, b) in after.iter().zip(&tensors).filter(|(a, _)| !a.name.contains("running")) {
        assert!(a.name == "discriminator.linear2.weight" || a == b, "{} moved", a.name);
    }
}
