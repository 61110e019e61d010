//! What a trainer is built from.

use serde::{Deserialize, Serialize};

/// The order of the two players' updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// Both players move from the same point; one backward pass of D serves both.
    Simultaneous,
    /// D moves first, then G against the new D.
    Alternating,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// The multilayer perceptrons of PyTorch-GAN's Softmax GAN.
    SoftmaxGan,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TrainerOptions {
    pub preset: Preset,
    /// Height, width and channels of an image.
    pub image: [usize; 3],
    pub classes: usize,
    /// Real images a step, and fakes.
    pub batch: usize,
    pub update: Update,
    pub lr_g: f32,
    pub lr_d: f32,
    pub beta1: f64,
    pub beta2: f64,
    /// Numbers in z.
    pub latent: usize,
    /// The decay of the generator's moving average; none without one.
    pub average: Option<f32>,
    /// Updates of G for which the average is a copy.
    pub average_start: u32,
    pub seed: u64,
    /// Steps between which the learning rates fall linearly to 0; never where they are equal.
    pub decay: (u32, u32),
}
