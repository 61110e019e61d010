//! GANs: the networks, the losses, and the training step.

mod classes;
mod health;
pub(crate) mod latents;
mod loss;
mod mlp;
mod networks;
mod passes;
mod penalty;
mod player;
mod resnet;
mod sampler;
mod setup;
mod share;
mod step;
mod trainer;
mod vitals;
mod workspace;

pub use latents::{Latents, interpolate};
pub use sampler::Generator;
pub use setup::{Metrics, Plan, Setup, Weights};
pub use step::Phase;
pub use trainer::Trainer;
pub(crate) use trainer::{layouts, seeds};
pub use vitals::Vitals;
