//! GANs: the networks of the presets, the losses, and the training step.

mod mlp;
mod options;
mod sampler;
mod trainer;

pub use options::{
    Conditioning, Latents, Loss, Metrics, Plan, Pool, Preset, TrainerOptions, Update, Weights,
};
pub use trainer::Trainer;
