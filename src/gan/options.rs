//! What a trainer is made from and what it tells: plain data.

use serde::{Deserialize, Serialize};

use crate::data::ImageShape;

/// Networks and settings that belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Multilayer perceptrons and the softmax loss
    #[default]
    SoftmaxGan,
}

impl std::fmt::Display for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Preset::SoftmaxGan => "softmax-gan",
        })
    }
}

impl Preset {
    /// Whether images are drawn for a wanted label.
    pub fn conditional(self) -> bool {
        match self {
            Preset::SoftmaxGan => false,
        }
    }
}

/// Who moves when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// Both players at once, from one backward pass of D
    Simultaneous,
    /// D first, then G against the new D
    Alternating,
}

/// Everything that a trainer is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerOptions {
    pub preset: Preset,
    pub shape: ImageShape,
    pub classes: usize,
    pub batch: usize,
    pub steps: u64,
    pub seed: u64,
    pub update: Update,
    pub lr_g: f32,
    pub lr_d: f32,
    pub beta1: f32,
    pub beta2: f32,
    /// Dimension of z.
    pub latent: usize,
    /// Decay of the moving average of G's parameters a step.
    pub average: f32,
}

/// What a trainer would be: for a dry run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A table of layers.
    pub generator: String,
    pub discriminator: String,
    pub parameters_g: usize,
    pub parameters_d: usize,
    /// Device memory.
    pub bytes: usize,
}

/// How a step went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    pub step: u64,
    pub loss_d: f32,
    pub loss_g: f32,
    /// The losses less their floors.
    pub kl_d: f32,
    pub kl_g: f32,
    /// Batch means.
    pub real_logit: f32,
    pub fake_logit: f32,
    pub grad_norm_d: f32,
    pub grad_norm_g: f32,
}

/// Which of G's weights draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Their moving average.
    Average,
    /// As the last step left them.
    Raw,
}

/// What is drawn: image `i` depends on the seed, `i` and its label alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Latents {
    pub seed: u64,
    pub count: usize,
    /// One per image; empty where the networks know no labels.
    pub labels: Vec<u32>,
}

impl Latents {
    pub fn unlabelled(seed: u64, count: usize) -> Latents {
        Latents { seed, count, labels: Vec::new() }
    }

    /// `each` images of each class, class by class.
    pub fn by_class(seed: u64, classes: &[u32], each: usize) -> Latents {
        let labels: Vec<u32> = classes.iter().flat_map(|class| std::iter::repeat_n(*class, each)).collect();
        Latents { seed, count: labels.len(), labels }
    }
}
