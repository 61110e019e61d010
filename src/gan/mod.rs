//! Generators, discriminators and the training step.

mod options;
mod trainer;

pub use options::{Latents, Metrics, Plan, Preset, TrainerOptions, Update, Weights};
pub use trainer::Trainer;
