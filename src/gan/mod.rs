//! GANs: the networks of the presets, the losses, and the training step.

mod loss;
mod mlp;
mod networks;
mod options;
mod player;
mod resnet;
mod sampler;
mod trainer;

pub use options::{
    Conditioning, Latents, Loss, Metrics, Plan, Pool, Preset, TrainerOptions, Update, Weights,
};
pub use trainer::Trainer;
