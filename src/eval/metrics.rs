//! How alike two sets of points are: coverage and density (Naeem et al., 2020), and the Fréchet distance (Heusel et al.,
//! 2017).

use super::eigen::{Matrix, root, symmetric};
use crate::{Error, Result};

/// The neighbourhood of a real point reaches as far as this many nearest neighbours.
pub const NEIGHBOUR: usize = 5;

/// Points of one space, stored one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Points {
    pub dimensions: usize,
    /// (count, dimensions)
    pub values: Vec<f32>,
}

impl Points {
    pub fn len(&self) -> usize {
        self.values.len() / self.dimensions.max(1)
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn rows(&self) -> impl Iterator<Item = &[f32]> + Clone {
        self.values.chunks_exact(self.dimensions.max(1))
    }

    /// The points at these indices.
    pub fn select(&self, indices: impl Iterator<Item = usize>) -> Points {
        let row = |i: usize| &self.values[i * self.dimensions..(i + 1) * self.dimensions];
        Points { dimensions: self.dimensions, values: indices.flat_map(row).copied().collect() }
    }
}

/// The squared distance. It has eight sums, as a loop with a single sum would not be vectorised.
fn distance(x: &[f32], y: &[f32]) -> f64 {
    let (xs, ys) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (x, y) in xs.0.iter().zip(ys.0) {
        for i in 0..8 {
            let d = f64::from(x[i]) - f64::from(y[i]);
            sums[i] += d * d;
        }
    }
    let rest = xs.1.iter().zip(ys.1).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

/// How generated points lie among real ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overlap {
    /// The share of the real points that have a generated point in their neighbourhood, which reaches to the
    /// [`NEIGHBOUR`]th nearest real point.
    pub coverage: f64,
    /// In how many such neighbourhoods a generated point lies on average, divided by [`NEIGHBOUR`]. Points that are drawn as
    /// the real ones are get 1; more is possible.
    pub density: f64,
}

/// The overlap of two sets. There is none where there are too few real points for a neighbourhood, or no generated ones.
pub fn overlap(real: &Points, generated: &Points) -> Option<Overlap> {
    if real.len() <= NEIGHBOUR || generated.is_empty() || real.dimensions != generated.dimensions {
        return None;
    }
    let (mut covered, mut inside) = (0usize, 0usize);
    for (i, x) in real.rows().enumerate() {
        // The distances of the nearest points so far, in order.
        let mut nearest = [f64::INFINITY; NEIGHBOUR];
        for (_, other) in real.rows().enumerate().filter(|(j, _)| *j != i) {
            let d = distance(x, other);
            if d < nearest[NEIGHBOUR - 1] {
                let place = nearest.partition_point(|near| *near <= d);
                nearest[place..].rotate_right(1);
                nearest[place] = d;
            }
        }
        let within = generated.rows().filter(|y| distance(x, y) <= nearest[NEIGHBOUR - 1]).count();
        covered += usize::from(within > 0);
        inside += within;
    }
    let (real, generated) = (real.len() as f64, generated.len() as f64);
    Some(Overlap { coverage: covered as f64 / real, density: inside as f64 / (NEIGHBOUR as f64 * generated) })
}

/// The mean of some points, and their covariance (over n - 1).
fn moments(points: &Points) -> (Vec<f64>, Matrix) {
    let (n, d) = (points.len() as f64, points.dimensions);
    let mut mean = vec![0.0; d];
    for row in points.rows() {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / n);
    }
    let mut covariance = Matrix::zeros(d);
    for row in points.rows() {
        let off: Vec<f64> = row.iter().zip(&mean).map(|(x, mean)| f64::from(*x) - mean).collect();
        for (x, sums) in off.iter().zip(covariance.values.chunks_exact_mut(d)) {
            sums.iter_mut().zip(&off).for_each(|(sum, y)| *sum += x * y / (n - 1.0));
        }
    }
    (mean, covariance)
}

/// The Fréchet distance (squared, as it is usually given) between two Gaussians that have the means and the covariances of
/// the two sets:
///
/// ```text
/// |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)),   tr (S1 S2)^(1/2) = sum of the roots of eig(S1^(1/2) S2 S1^(1/2))
/// ```
///
/// With few points it comes out too large.
pub fn frechet_distance(a: &Points, b: &Points) -> Result<f64> {
    if a.dimensions != b.dimensions || a.len() < 2 || b.len() < 2 {
        let sizes = [a.len(), a.dimensions, b.len(), b.dimensions];
        let what = "expected 2 or more on both sides, and one dimension";
        return Err(Error::Shape(format!(
            "Fréchet distance: {} points of {}, {} of {}; {what}",
            sizes[0], sizes[1], sizes[2], sizes[3]
        )));
    }
    let ((mean_a, cov_a), (mean_b, cov_b)) = (moments(a), moments(b));
    let between: f64 = mean_a.iter().zip(&mean_b).map(|(x, y)| (x - y).powi(2)).sum();
    let half = root(&cov_a);
    let (values, _) = symmetric(&half.times(&cov_b).times(&half).symmetrised());
    let shared: f64 = values.iter().map(|value| value.max(0.0).sqrt()).sum();
    Ok((between + cov_a.trace() + cov_b.trace() - 2.0 * shared).max(0.0))
}
