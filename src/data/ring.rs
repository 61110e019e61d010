//! Eight Gaussians on a circle: the data of the `ring` preset, and how many of them some points cover.

use super::ImageShape;

/// The shape of a point, as if it were an image.
pub const SHAPE: ImageShape = ImageShape { height: 1, width: 1, channels: 2 };

/// These three are as in `kernels/random.cu`.
pub const MODES: usize = 8;
pub const RADIUS: f32 = 2.0;
pub const DEVIATION: f32 = 0.02;

/// Points that are drawn to count the modes.
pub const POINTS: usize = 2500;

/// A point belongs to a mode when it lies within this many deviations of its centre.
pub const REACH: f32 = 3.0;

pub fn centre(mode: usize) -> [f32; 2] {
    let (sine, cosine) = (std::f64::consts::TAU * mode as f64 / MODES as f64).sin_cos();
    [RADIUS * cosine as f32, RADIUS * sine as f32]
}

/// Modes that at least 1 % of `points` (n, 2) belong to.
pub fn modes_covered(points: &[f32]) -> usize {
    let near = |[x, y]: [f32; 2]| {
        let (points, _) = points.as_chunks::<2>();
        points.iter().filter(|p| (p[0] - x).hypot(p[1] - y) <= REACH * DEVIATION).count()
    };
    (0..MODES).filter(|mode| near(centre(*mode)) * 200 >= points.len().max(1)).count()
}
