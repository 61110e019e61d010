//! GANs: the networks of the presets, the losses, and the training step.

mod mlp;
mod options;
mod sampler;
mod trainer;

pub use options::{Preset, TrainerOptions, Update};
pub use sampler::{Latents, Weights};
pub use trainer::{Metrics, NamedTensor, Plan, Trainer};
