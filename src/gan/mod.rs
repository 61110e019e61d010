//! GANs: the networks of the presets, the losses, and the training step.

mod classes;
mod latents;
mod loss;
mod mlp;
pub(crate) mod networks;
mod options;
mod penalty;
mod player;
mod resnet;
mod sampler;
pub(crate) mod step;
mod trainer;
mod workspace;

pub use latents::{Latents, interpolate};
pub use options::{Conditioning, Loss, Metrics, Plan, Pool, PowerIterations, Preset, TrainerOptions, Update, Weights};
pub use sampler::Generator;
pub use step::Phase;
pub use trainer::Trainer;
