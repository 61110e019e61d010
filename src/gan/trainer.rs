//! STAND-IN, replaced by the real trainer: it has the interface, no networks, and a state that every byte and setting
//! moves.

use super::{Latents, Metrics, Plan, TrainerOptions, Weights};
use crate::checkpoint::{NamedTensor, take};
use crate::device::Device;
use crate::{Error, Result};

pub struct Trainer {
    options: TrainerOptions,
    step: u64,
    state: Vec<f32>,
}

impl Trainer {
    pub fn new(_device: &Device, options: &TrainerOptions) -> Result<Trainer> {
        Trainer::plan(options)?;
        let state = (0..64).map(|i| ((options.seed as usize * 31 + i * 7) % 101) as f32 / 101.0).collect();
        Ok(Trainer { options: options.clone(), step: 0, state })
    }

    pub fn plan(options: &TrainerOptions) -> Result<Plan> {
        Ok(Plan {
            generator: format!("stand-in {} -> {}", options.latent, options.shape),
            discriminator: format!("stand-in {} -> 1", options.shape),
            parameters_g: 64,
            parameters_d: 64,
            bytes: 4096,
        })
    }

    pub fn step(&mut self, images: &[u8], labels: &[u32]) -> Result<()> {
        let n = self.state.len();
        for (i, byte) in images.iter().enumerate() {
            let x = f32::from(*byte) / 255.0 - self.state[i % n];
            self.state[(i + 1) % n] +=
                self.options.lr_g * x + self.options.lr_d * labels[i % labels.len()] as f32 * 0.1;
        }
        self.step += 1;
        Ok(())
    }

    pub fn metrics(&mut self) -> Result<Metrics> {
        if let Some(i) = self.state.iter().position(|x| !x.is_finite() || x.abs() > 1e6) {
            return Err(Error::NotFinite { step: self.step, what: format!("state[{i}] is not finite") });
        }
        let mean = self.state.iter().sum::<f32>() / self.state.len() as f32;
        Ok(Metrics { step: self.step, loss_d: mean, loss_g: 1.0 - mean, ..Metrics::default() })
    }

    pub fn step_number(&self) -> u64 {
        self.step
    }

    pub fn sample(&mut self, weights: Weights, latents: &Latents) -> Result<Vec<u8>> {
        let scale = if weights == Weights::Average { 255.0 } else { 200.0 };
        let shift = latents.seed as usize % 64;
        let len = self.options.shape.len();
        let image = |n: usize| (0..len).map(move |i| (i * 13 + n * 5 + shift) % 64);
        Ok((0..latents.count).flat_map(image).map(|i| (self.state[i] * scale) as u8).collect())
    }

    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        Ok(vec![NamedTensor { name: "state".into(), shape: vec![8, 8], values: self.state.clone() }])
    }

    pub fn restore(&mut self, step: u64, tensors: &[NamedTensor]) -> Result<()> {
        let mut found = take(tensors, &[("state", &[8, 8])])?;
        self.state = found.remove(0).values.clone();
        self.step = step;
        Ok(())
    }
}
