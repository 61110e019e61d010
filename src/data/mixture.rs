//! Gaussians in the plane: the data of preset `ring`, and how well some points cover them.

use super::ImageShape;
use crate::random::Random;

/// The shape of a point, as if it were an image.
pub const SHAPE: ImageShape = ImageShape { height: 1, width: 1, channels: 2 };

/// Points that are drawn to count the modes.
pub const POINTS: usize = 2500;

/// A point belongs to a mode when it lies within this many deviations of its centre.
pub const REACH: f32 = 3.0;

/// Each axis of a picture goes from minus this to this.
pub const EXTENT: f32 = 2.5;

/// Gaussians that are all equally likely. The numbers are those of `kernels/random.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixture {
    /// Eight on a circle of radius 2, of deviation 0.02.
    Ring,
    /// 5 x 5 at a distance of 1, of deviation 0.05.
    Grid,
}

impl Mixture {
    pub const ALL: [Mixture; 2] = [Mixture::Ring, Mixture::Grid];

    /// What `--data` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Mixture::Ring => "ring",
            Mixture::Grid => "grid",
        }
    }

    pub fn named(name: &str) -> Option<Mixture> {
        Mixture::ALL.into_iter().find(|mixture| mixture.name() == name)
    }

    pub fn modes(self) -> usize {
        match self {
            Mixture::Ring => 8,
            Mixture::Grid => 25,
        }
    }

    pub fn deviation(self) -> f32 {
        match self {
            Mixture::Ring => 0.02,
            Mixture::Grid => 0.05,
        }
    }

    pub fn centre(self, mode: usize) -> [f32; 2] {
        match self {
            Mixture::Ring => {
                let (sine, cosine) = (std::f64::consts::TAU * mode as f64 / 8.0).sin_cos();
                [2.0 * cosine as f32, 2.0 * sine as f32]
            }
            Mixture::Grid => [(mode % 5) as f32 - 2.0, (mode / 5) as f32 - 2.0],
        }
    }

    pub fn centres(self) -> impl Iterator<Item = [f32; 2]> {
        (0..self.modes()).map(move |mode| self.centre(mode))
    }

    /// Draws `count` points of the data themselves, (count, 2), for a picture.
    pub fn draw(self, seed: u64, count: usize) -> Vec<f32> {
        let mut random = Random::new(seed, 0, 0);
        let mut point = || {
            let noise = random.normals();
            let centre = self.centre(random.below(self.modes() as u32) as usize);
            random.word();
            [0, 1].map(|k| centre[k] + self.deviation() * noise[k])
        };
        (0..count).flat_map(|_| point()).collect()
    }

    /// How well `points` (n, 2) cover the modes.
    pub fn cover(self, points: &[f32]) -> Cover {
        let (points, _) = points.as_chunks::<2>();
        let (mut near, mut nearest) = (vec![0usize; self.modes()], vec![0usize; self.modes()]);
        for [x, y] in points {
            let distances = self.centres().map(|[cx, cy]| (x - cx).hypot(y - cy));
            let least = distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
            if let Some((mode, distance)) = least.filter(|(_, distance)| !distance.is_nan()) {
                nearest[mode] += 1;
                near[mode] += usize::from(distance <= REACH * self.deviation());
            }
        }
        let all = points.len().max(1) as f64;
        let shares = nearest.iter().map(|count| *count as f64 / all).filter(|share| *share > 0.0);
        Cover {
            covered: near.iter().filter(|count| **count * 100 >= points.len().max(1)).count(),
            modes: self.modes(),
            near: near.iter().sum::<usize>() as f64 / all,
            kl: shares.map(|share| share * (share * self.modes() as f64).ln()).sum(),
        }
    }
}

/// How well points cover the modes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cover {
    /// Modes that at least 1 % of the points belong to.
    pub covered: usize,
    pub modes: usize,
    /// Share of the points that belong to a mode.
    pub near: f64,
    /// The KL divergence of the modes' shares, each point counted at its nearest centre, from equal ones: 0 where all modes
    /// have as many points, and the logarithm of the number of modes where one has all.
    pub kl: f64,
}

impl std::fmt::Display for Cover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cover { covered, modes, near, kl } = self;
        let (near, reach) = (100.0 * near, REACH);
        write!(f, "{covered} of {modes} covered, {near:.1} % of the points within {reach} deviations, KL {kl:.3}")
    }
}
