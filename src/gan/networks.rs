//! The networks of each architecture.

use super::setup::Setup;
use super::{mlp, resnet};
use crate::Result;
use crate::nn::{Builder, HeadParts, Labels, Network, Value};
use crate::settings::Architecture;

/// What a generator starts from.
#[derive(Clone)]
pub struct Latent {
    /// (M, latent)
    pub z: Value,
    /// (M)
    pub labels: Labels,
}

/// Numbers that the generator's first layer sees, and at what value the label's number stands among them, where it does.
pub fn latent_inputs(setup: &Setup) -> (usize, Option<f32>) {
    let latent = setup.networks.latent;
    match setup.architecture() {
        Architecture::Residual(spec) if setup.conditional() && spec.label.is_some() => {
            (latent + setup.classes, spec.label)
        }
        _ => (latent, None),
    }
}

/// The generator, from latents into `image`.
pub fn generator(setup: &Setup, build: &mut Builder, from: &Latent, image: &Value) -> Result<Network> {
    match setup.architecture() {
        Architecture::Residual(spec) => resnet::generator(spec, setup, build, from, image),
        Architecture::ImagePerceptrons => mlp::generator(build, &[128, 256, 512, 1024], &from.z, image),
        Architecture::PointPerceptrons => mlp::ring_generator(build, &[setup.networks.width; 2], &from.z, image),
    }
}

/// A discriminator and its outputs.
pub struct Discriminator {
    pub network: Network,
    pub logits: Value,
    /// AC-GAN's class logits.
    pub classes: Option<Value>,
    /// Of the projection discriminator.
    pub head: Option<HeadParts>,
}

/// The discriminator of images and their labels.
pub fn discriminator(setup: &Setup, build: &mut Builder, image: &Value, labels: &Labels) -> Result<Discriminator> {
    let (network, logits) = match setup.architecture() {
        Architecture::Residual(spec) => return resnet::discriminator(spec, setup, build, image, labels),
        Architecture::ImagePerceptrons => mlp::discriminator(build, &[512, 256], 0.2, image)?,
        Architecture::PointPerceptrons => mlp::discriminator(build, &[setup.networks.width; 2], 0.0, image)?,
    };
    Ok(Discriminator { network, logits, classes: None, head: None })
}
