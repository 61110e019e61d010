//! Which networks a preset has.

use super::options::{Preset, TrainerOptions};
use super::{mlp, resnet};
use crate::Result;
use crate::device::Buffer;
use crate::nn::{Builder, Network, Value};

/// What a generator starts from.
#[derive(Clone)]
pub struct Latent {
    /// (M, latent); a preset that feeds the label in has one more number per class.
    pub z: Value,
    /// (M)
    pub labels: Buffer<u32>,
}

/// Numbers that the generator's first layer sees, and at what value the label's number stands among them.
pub fn latent_inputs(options: &TrainerOptions) -> (usize, Option<f32>) {
    match options.preset {
        Preset::Mnist if options.conditional() => (options.latent + options.classes, Some(2.0)),
        _ => (options.latent, None),
    }
}

/// The generator, from latents into `image`.
pub fn generator(options: &TrainerOptions, build: &mut Builder, from: &Latent, image: &Value) -> Result<Network> {
    match options.preset {
        Preset::SoftmaxGan => mlp::generator(build, &[128, 256, 512, 1024], &from.z, image),
        Preset::Ring => mlp::ring_generator(build, &[options.width; 2], &from.z, image),
        _ => resnet::generator(options, build, from, image),
    }
}

/// A discriminator and its outputs.
pub struct Discriminator {
    pub network: Network,
    pub logits: Value,
    /// AC-GAN's class logits.
    pub classes: Option<Value>,
}

/// The discriminator of images and their labels.
pub fn discriminator(
    options: &TrainerOptions,
    build: &mut Builder,
    image: &Value,
    labels: &Buffer<u32>,
) -> Result<Discriminator> {
    let (network, logits) = match options.preset {
        Preset::SoftmaxGan => mlp::discriminator(build, &[512, 256], 0.2, image)?,
        Preset::Ring => mlp::discriminator(build, &[options.width; 2], 0.0, image)?,
        _ => return resnet::discriminator(options, build, image, labels),
    };
    Ok(Discriminator { network, logits, classes: None })
}

/// Whether a low logit of D means real.
pub fn real_is_low(options: &TrainerOptions) -> bool {
    matches!(options.preset, Preset::SoftmaxGan) && matches!(options.loss, super::Loss::Softmax)
}
