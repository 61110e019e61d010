//! GANs: the networks of the presets, the losses, and the training step.

mod mlp;
mod options;
mod sampler;
mod trainer;

pub use options::{Latents, Metrics, Plan, Preset, TrainerOptions, Update, Weights};
pub use trainer::Trainer;
