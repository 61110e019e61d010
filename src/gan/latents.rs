//! What images are drawn from: latents, labels, and the way from one latent to another.

use crate::Result;
use crate::device::Reals;
use crate::ops::random;
use crate::ops::state::StateBuffer;
use crate::random::Random;
use crate::settings::{LatentDistribution, Networks};
use crate::sizes::{filled, product};

/// Each use of random numbers in a training step has its own stream of the seed; the D steps of one training step are
/// [`STREAMS`] apart.
pub(crate) const LATENTS: u32 = 0;
pub(crate) const LABELS: u32 = 1;
/// Noise and flips of real images, or the points that are drawn instead of them.
pub(super) const PIXELS: u32 = 2;
/// How much of each point of a gradient penalty is real.
pub(super) const SHARES: u32 = 3;
/// How what D sees is changed.
pub(super) const CHANGES: u32 = 4;
pub(crate) const STREAMS: u32 = 8;

/// A stream of the seed that neither initial weights nor training draw from.
const STREAM: u32 = u32::MAX - 1;

/// What is drawn: image `first + i` depends on the seed, its number and its label alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Latents {
    pub seed: u64,
    /// The number of the first image.
    pub first: u32,
    pub count: usize,
    /// One per image; empty where the networks know no labels.
    pub labels: Vec<u32>,
    /// Numbers further from 0 than this are drawn again.
    pub truncation: Option<f32>,
}

impl Latents {
    pub fn unlabelled(seed: u64, count: usize) -> Latents {
        Latents { seed, first: 0, count, labels: Vec::new(), truncation: None }
    }

    /// `each` images of each class, class by class.
    pub fn by_class(seed: u64, classes: &[u32], each: usize) -> Latents {
        let labels: Vec<u32> = classes.iter().flat_map(|class| std::iter::repeat_n(*class, each)).collect();
        Latents { count: labels.len(), labels, ..Latents::unlabelled(seed, 0) }
    }

    /// `count` images of all of so many labels, as many of each but for one, in their order.
    pub fn spread(seed: u64, count: usize, labels: usize) -> Latents {
        let labels = (0..count).map(|i| (i as u128 * labels as u128 / count as u128) as u32).collect();
        Latents { count, labels, ..Latents::unlabelled(seed, 0) }
    }

    /// (count, latent), from these networks' distribution, truncated where that is wanted.
    pub fn draw(&self, networks: &Networks) -> Result<Vec<f32>> {
        let latent = networks.latent;
        let mut z = filled("latents", product([self.count, latent]), 0.0)?;
        for (number, z) in (self.first..).zip(z.chunks_exact_mut(latent.max(1))) {
            let mut random = Random::new(self.seed, STREAM, number);
            match (networks.latent_distribution, self.truncation) {
                (LatentDistribution::Normal, None) => random.fill_normal(z, 1.0),
                (LatentDistribution::Normal, Some(most)) => {
                    let normals = std::iter::repeat_with(|| random.normals()).flatten();
                    let near = normals.filter(|x| x.abs() <= most);
                    z.iter_mut().zip(near).for_each(|(z, x)| *z = x);
                }
                // What is left when numbers further away are drawn again is uniform too.
                (LatentDistribution::Uniform, most) => {
                    let most = most.unwrap_or(1.0).min(1.0);
                    random.fill_uniform(z, -most, most);
                }
            }
        }
        Ok(z)
    }
}

/// The latents (N, latent) of a training step, on the device.
pub(super) fn draw(z: &Reals, state: &StateBuffer, stream: u32, distribution: LatentDistribution) -> Result<()> {
    match distribution {
        LatentDistribution::Normal => random::normal(z, state, stream),
        LatentDistribution::Uniform => random::uniform(z, state, stream, -1.0, 1.0),
    }
}

/// From `a` (t = 0) to `b` (t = 1) on the great circle through both, both ends exact. Latents of many dimensions lie
/// near a sphere; the middle of the straight way is a point that no generator has seen. Where the ends are (almost) in
/// line with the origin there is no such circle, and the way is straight; so it is between uniform latents, which fill a cube.
pub fn interpolate(a: &[f32], b: &[f32], t: f64, distribution: LatentDistribution) -> Vec<f32> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let angle = cosine.clamp(-1.0, 1.0).acos();
    let (of_a, of_b) = if distribution == LatentDistribution::Normal && angle.sin() > 1e-6 {
        (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin())
    } else {
        (1.0 - t, t)
    };
    a.iter().zip(b).map(|(a, b)| (of_a * f64::from(*a) + of_b * f64::from(*b)) as f32).collect()
}
