//! How alike two sets of points are. Each metric says where it is from; where programs differ, it gives the numbers of the one that it
//! names.

use std::ops::Range;

use super::eigen::{self, Matrix, add_products};
use super::numpy::RandomState;
use crate::cores::in_parallel;
use crate::device::{Device, Reals};
use crate::ops::matmul::{self, Linear, OutputGradient};
use crate::sizes::{filled, product};
use crate::{Error, Result};

/// Density and coverage: the neighbourhood of a real point reaches to this one of its nearest neighbours.
pub const NEIGHBOUR: usize = 5;
/// The same for precision and recall.
pub const NEAR: usize = 3;

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

    /// Appends points of the same dimensions.
    pub fn extend(&mut self, dimensions: usize, values: &[f32]) {
        self.dimensions = dimensions;
        self.values.extend_from_slice(values);
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

/// Products of points on a device, a square at a time.
struct Products {
    x: Reals,
    y: Reals,
    out: Reals,
    dimensions: usize,
}

impl Products {
    /// For up to `rows` points with up to `columns` others.
    fn new(device: &Device, rows: usize, columns: usize, dimensions: usize) -> Result<Products> {
        Ok(Products {
            x: device.zeros(product([rows, dimensions]))?,
            y: device.zeros(product([columns, dimensions]))?,
            out: device.zeros(product([rows, columns]))?,
            dimensions,
        })
    }

    /// `x y^T`, of points that are stored one after the other.
    fn of(&self, x: &[f32], y: &[f32]) -> Result<Vec<f32>> {
        let [n, c] = [x, y].map(|points| points.len() / self.dimensions.max(1));
        let (left, right, out) = (self.x.view(0..x.len()), self.y.view(0..y.len()), self.out.view(0..n * c));
        left.write(x)?;
        right.write(y)?;
        let sizes = Linear { n, c, k: self.dimensions };
        matmul::linear_input_gradient(sizes, &out, &OutputGradient::stored(&left), &right)?;
        out.read()
    }
}

/// The squared distances between two sets of points. The device computes them in f32 from products; where such a number may be on the
/// wrong side of a threshold, the distance is computed anew in f64, from differences.
struct Distances<'a> {
    a: &'a Points,
    b: &'a Points,
    /// Both around the middle of `b`, so that less of the products cancels.
    centred: [Vec<f32>; 2],
    /// The squared lengths of those.
    squares: [Vec<f64>; 2],
    products: Products,
}

/// Points that are compared with all others at a time, and as many of those.
const AT_ONCE: [usize; 2] = [256, 4096];

impl Distances<'_> {
    fn new<'a>(device: &Device, a: &'a Points, b: &'a Points) -> Result<Distances<'a>> {
        let d = b.dimensions;
        let mut middle = vec![0.0; d];
        b.rows().for_each(|row| middle.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / b.len() as f64));
        let centred = [a, b].map(|points| -> Result<Vec<f32>> {
            let mut centred = filled("features", points.values.len(), 0.0)?;
            for (to, from) in centred.chunks_exact_mut(d.max(1)).zip(points.rows()) {
                to.iter_mut().zip(from).zip(&middle).for_each(|((to, x), m)| *to = (f64::from(*x) - m) as f32);
            }
            Ok(centred)
        });
        let [a_centred, b_centred] = centred;
        let centred = [a_centred?, b_centred?];
        let squares = [&centred[0], &centred[1]].map(|all| {
            all.chunks_exact(d.max(1)).map(|row| row.iter().map(|x| f64::from(*x).powi(2)).sum()).collect::<Vec<f64>>()
        });
        let products = Products::new(device, AT_ONCE[0].min(a.len()), AT_ONCE[1].min(b.len()), d)?;
        Ok(Distances { a, b, centred, squares, products })
    }

    /// Calls `see` with the number of each point of `a` and its distances to all of `b`, which may be off by the third argument at
    /// most; in parallel, and gives what it gives in order.
    fn each<T: Send>(&self, see: impl Fn(usize, &[f64], &dyn Fn(usize) -> f64) -> T + Sync) -> Result<Vec<T>> {
        let d = self.b.dimensions.max(1);
        let mut all = Vec::with_capacity(self.a.len());
        for (part, x) in self.centred[0].chunks(AT_ONCE[0] * d).enumerate() {
            let (first, rows) = (part * AT_ONCE[0], x.len() / d);
            let mut squares = filled("distances", product([rows, self.b.len()]), 0.0f64)?;
            let mut column = 0;
            for y in self.centred[1].chunks(AT_ONCE[1] * d) {
                let (products, columns) = (self.products.of(x, y)?, y.len() / d);
                for (i, products) in products.chunks_exact(columns).enumerate() {
                    let (row, mine) = (&mut squares[i * self.b.len() + column..], self.squares[0][first + i]);
                    for ((to, xy), theirs) in row.iter_mut().zip(products).zip(&self.squares[1][column..]) {
                        *to = mine + theirs - 2.0 * f64::from(*xy);
                    }
                }
                column += columns;
            }
            let mut results: Vec<Option<T>> = (0..rows).map(|_| None).collect();
            let parts: Vec<_> = squares.chunks_exact(self.b.len()).zip(&mut results).enumerate().collect();
            in_parallel(parts, |(i, (row, result))| {
                let off = |j: usize| self.error(first + i, j);
                *result = Some(see(first + i, row, &off));
            });
            all.extend(results.into_iter().flatten());
        }
        Ok(all)
    }

    /// How far the square of the distance from point `i` of `a` to `j` of `b` may be off: a sum of so many products in f32 errs by less
    /// than this, whatever its order.
    fn error(&self, i: usize, j: usize) -> f64 {
        let unit = (self.b.dimensions + 8) as f64 * f64::from(f32::EPSILON);
        unit * (self.squares[0][i] + self.squares[1][j])
    }

    fn exact(&self, i: usize, j: usize) -> f64 {
        let row = |points: &Points, i: usize| i * points.dimensions..(i + 1) * points.dimensions;
        distance(&self.a.values[row(self.a, i)], &self.b.values[row(self.b, j)])
    }

    /// Which points of `b` are within `reach` of point `i` of `a`: nearer, or as near where `closed`.
    fn within<'s>(
        &'s self,
        i: usize,
        near: &'s [f64],
        off: &'s dyn Fn(usize) -> f64,
        reach: impl Fn(usize) -> f64 + 's,
        closed: bool,
    ) -> impl Iterator<Item = usize> + 's {
        (0..near.len()).filter(move |j| {
            let (reach, off) = (reach(*j), off(*j));
            if near[*j] < reach - off {
                true
            } else if near[*j] > reach + off {
                false
            } else {
                let exact = self.exact(i, *j);
                exact < reach || closed && exact == reach
            }
        })
    }
}

/// The squared distance of each point to the `k`th nearest of the others.
fn reaches(device: &Device, points: &Points, k: usize) -> Result<Vec<f64>> {
    let distances = Distances::new(device, points, points)?;
    distances.each(|i, near, off| {
        let mut order: Vec<f64> = near.iter().enumerate().filter(|(j, _)| *j != i).map(|(j, d)| d + off(j)).collect();
        let (_, most, _) = order.select_nth_unstable_by(k - 1, f64::total_cmp);
        // Whatever is further for certain is not among the k nearest.
        let most = *most;
        let maybe = (0..near.len()).filter(|j| *j != i && near[*j] - off(*j) <= most);
        let mut exact: Vec<f64> = maybe.map(|j| distances.exact(i, j)).collect();
        *exact.select_nth_unstable_by(k - 1, f64::total_cmp).1
    })
}

/// How generated points lie among real ones (Naeem, Oh, Uh, Choi and Yoo, 2020), with the numbers of their package `prdc`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overlap {
    /// The share of the real points that have a generated point nearer than their [`NEIGHBOUR`]th nearest real one.
    pub coverage: f64,
    /// In how many such neighbourhoods a generated point lies on average, divided by [`NEIGHBOUR`]. Points that are drawn as
    /// the real ones are get 1; more is possible.
    pub density: f64,
}

fn comparable(real: &Points, generated: &Points, least: [usize; 2]) -> bool {
    real.len() >= least[0] && generated.len() >= least[1] && real.dimensions == generated.dimensions
}

/// The overlap of two sets. There is none where there are too few real points for a neighbourhood, or no generated ones.
pub fn overlap(device: &Device, real: &Points, generated: &Points) -> Result<Option<Overlap>> {
    if !comparable(real, generated, [NEIGHBOUR + 1, 1]) {
        return Ok(None);
    }
    let reaches = reaches(device, real, NEIGHBOUR)?;
    let distances = Distances::new(device, real, generated)?;
    let inside = distances.each(|i, near, off| distances.within(i, near, off, |_| reaches[i], false).count())?;
    let covered = inside.iter().filter(|inside| **inside > 0).count();
    let (all, inside) = (real.len() as f64, inside.iter().sum::<usize>() as f64);
    Ok(Some(Overlap { coverage: covered as f64 / all, density: inside / (NEIGHBOUR * generated.len()) as f64 }))
}

/// Improved precision and recall (Kynkäänniemi, Karras, Laine, Lehtinen and Aila, 2019), with the numbers of torch-fidelity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// The share of generated points that are at most as far from some real point as its [`NEAR`]th nearest real one.
    pub precision: f64,
    /// The share of real points that are so near to a generated one.
    pub recall: f64,
}

/// None where there are too few points for neighbourhoods.
pub fn precision_recall(device: &Device, real: &Points, generated: &Points) -> Result<Option<PrecisionRecall>> {
    if !comparable(real, generated, [NEAR + 1, NEAR + 1]) {
        return Ok(None);
    }
    // The share of `points` that lie in a neighbourhood of `of`.
    let share = |of: &Points, points: &Points| -> Result<f64> {
        let reaches = reaches(device, of, NEAR)?;
        let distances = Distances::new(device, points, of)?;
        let inside =
            distances.each(|i, near, off| distances.within(i, near, off, |j| reaches[j], true).next().is_some())?;
        Ok(inside.iter().filter(|inside| **inside).count() as f64 / points.len() as f64)
    };
    Ok(Some(PrecisionRecall { precision: share(real, generated)?, recall: share(generated, real)? }))
}

/// A mean over parts, and how far they are from it: the root of their mean square difference.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Spread {
    pub mean: f64,
    pub deviation: f64,
}

impl Spread {
    fn of(parts: &[f64]) -> Spread {
        let mean = parts.iter().sum::<f64>() / parts.len() as f64;
        let square = parts.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / parts.len() as f64;
        Spread { mean, deviation: square.sqrt() }
    }
}

/// The seed by which torch-fidelity chooses.
const SEED: u32 = 2020;
const SUBSETS: usize = 100;
/// The points of each subset, or as many as there are.
pub const SUBSET: usize = 1000;
const SPLITS: usize = 10;

/// Kernel distance (Bińkowski, Sutherland, Arbel and Gretton, 2018): the unbiased squared maximum mean discrepancy with the kernel
/// `(x y / d + 1)^3`, of 100 subsets of so many points on each side (fewer where there are fewer), which are those of torch-fidelity. None where there are
/// less than 2 points.
pub fn kernel_distance(device: &Device, generated: &Points, real: &Points, subset: usize) -> Result<Option<Spread>> {
    let size = subset.min(generated.len()).min(real.len());
    if size < 2 || generated.dimensions != real.dimensions {
        return Ok(None);
    }
    let (products, mut random) = (Products::new(device, size, size, real.dimensions)?, RandomState::new(SEED));
    let mut parts = Vec::with_capacity(SUBSETS);
    for _ in 0..SUBSETS {
        let mut choose = |from: &Points| {
            let order = random.permutation(from.len());
            from.select(order[..size].iter().copied())
        };
        let (x, y) = (choose(generated), choose(real));
        let sum = |a: &Points, b: &Points, diagonal: bool| -> Result<f64> {
            let products = products.of(&a.values, &b.values)?;
            let kernel = |xy: &f32| (f64::from(*xy) / a.dimensions as f64 + 1.0).powi(3);
            let row = |(i, row): (usize, &[f32])| {
                row.iter().map(kernel).sum::<f64>() - if diagonal { 0.0 } else { kernel(&row[i]) }
            };
            Ok(products.chunks_exact(size).enumerate().map(row).sum())
        };
        let m = size as f64;
        let own = sum(&x, &x, false)? + sum(&y, &y, false)?;
        parts.push(own / (m * (m - 1.0)) - 2.0 * sum(&x, &y, true)? / (m * m));
    }
    Ok(Some(Spread::of(&parts)))
}

/// Inception score (Salimans, Goodfellow, Zaremba, Cheung, Radford and Chen, 2016): the exponential of the mean divergence of each image's
/// classes from those of all, in 10 parts of an order that is torch-fidelity's. None of fewer images than parts.
pub fn inception_score(logits: &Points) -> Option<Spread> {
    let n = logits.len();
    if n < SPLITS {
        return None;
    }
    let logs: Vec<Vec<f64>> = logits
        .select(RandomState::new(SEED).permutation(n).into_iter())
        .rows()
        .map(|row| {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
            row.iter().map(|x| f64::from(*x) - f64::from(most) - sum.ln()).collect()
        })
        .collect();
    let part = |i: usize| {
        let part = &logs[i * n / SPLITS..(i + 1) * n / SPLITS];
        let mut mean = vec![0.0; logits.dimensions];
        part.iter().for_each(|row| mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.exp() / part.len() as f64));
        let divergence = |row: &Vec<f64>| row.iter().zip(&mean).map(|(x, q)| x.exp() * (x - q.ln())).sum::<f64>();
        (part.iter().map(divergence).sum::<f64>() / part.len() as f64).exp()
    };
    Some(Spread::of(&(0..SPLITS).map(part).collect::<Vec<f64>>()))
}

/// The mean of points and their covariance, of which points are added a few at a time.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// 0 of those from a file that does not say it.
    pub count: usize,
    pub mean: Vec<f64>,
    /// Over the upper triangle: the sum of the products of what is off the mean.
    sums: Matrix,
    /// Points that are not in the sums yet.
    waiting: Vec<f32>,
}

/// Points that are added to the sums at once.
const WAIT: usize = 256;

impl Statistics {
    pub fn new(dimensions: usize) -> Result<Statistics> {
        let (mean, sums) = (vec![0.0; dimensions], Matrix::zeros(dimensions, dimensions)?);
        Ok(Statistics { count: 0, mean, sums, waiting: Vec::new() })
    }

    pub fn of(points: &Points) -> Result<Statistics> {
        let mut statistics = Statistics::new(points.dimensions)?;
        statistics.add(&points.values);
        Ok(statistics.finished())
    }

    /// From a mean, and a covariance (over n - 1) that is stored row by row.
    pub fn known(count: usize, mean: Vec<f64>, mut covariance: Vec<f64>) -> Result<Statistics> {
        let d = mean.len();
        if covariance.len() != product([d, d]) {
            return Err(Error::Shape(format!("{} numbers of a covariance of {d} dimensions", covariance.len())));
        }
        covariance.iter_mut().for_each(|x| *x *= count.saturating_sub(1).max(1) as f64);
        let sums = Matrix { rows: d, columns: d, values: covariance };
        Ok(Statistics { count, mean, sums, waiting: Vec::new() })
    }

    /// Adds points that are stored one after the other.
    pub fn add(&mut self, points: &[f32]) {
        let all = WAIT * self.mean.len();
        for part in points.chunks(all.max(1)) {
            self.waiting.extend_from_slice(part);
            if self.waiting.len() >= all {
                self.flush();
            }
        }
    }

    /// The same with all points in it.
    pub fn finished(mut self) -> Statistics {
        self.flush();
        self
    }

    /// Adds what waits (Chan, Golub and LeVeque, 1983).
    fn flush(&mut self) {
        let d = self.mean.len();
        let waiting = std::mem::take(&mut self.waiting);
        let n = waiting.len() / d.max(1);
        if n == 0 {
            return;
        }
        let mut mean = vec![0.0; d];
        for row in waiting.chunks_exact(d) {
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / n as f64);
        }
        // What is off the mean of these points, and how far that is from the one before, as if it were one more point.
        let (before, now) = (self.count as f64, n as f64);
        let weight = (before * now / (before + now)).sqrt();
        let mut off: Vec<f64> = Vec::with_capacity((n + 1) * d);
        waiting.chunks_exact(d).for_each(|row| off.extend(row.iter().zip(&mean).map(|(x, m)| f64::from(*x) - m)));
        off.extend(mean.iter().zip(&self.mean).map(|(m, old)| weight * (m - old)));
        let rows: Vec<_> = self.sums.values.chunks_mut(d * ROWS_AT_ONCE).enumerate().collect();
        in_parallel(rows, |(part, rows)| {
            for first in (0..=n).step_by(POINTS_AT_ONCE) {
                let points: Range<usize> = first..(n + 1).min(first + POINTS_AT_ONCE);
                for (i, row) in rows.chunks_exact_mut(d).enumerate() {
                    let i = part * ROWS_AT_ONCE + i;
                    let factors: Vec<f64> = points.clone().map(|point| off[point * d + i]).collect();
                    add_products(&mut row[i..], &factors, |k| &off[(first + k) * d + i..(first + k + 1) * d]);
                }
            }
        });
        self.mean.iter_mut().zip(&mean).for_each(|(old, m)| *old += (m - *old) * now / (before + now));
        self.count += n;
    }

    /// (D, D), over n - 1.
    pub fn covariance(&self) -> Result<Matrix> {
        let d = self.mean.len();
        let mut covariance = Matrix::zeros(d, d)?;
        let over = self.count.saturating_sub(1).max(1) as f64;
        for i in 0..d {
            for j in i..d {
                let value = self.sums.values[i * d + j] / over;
                (covariance.values[i * d + j], covariance.values[j * d + i]) = (value, value);
            }
        }
        Ok(covariance)
    }
}

const ROWS_AT_ONCE: usize = 16;
const POINTS_AT_ONCE: usize = 32;

/// The Fréchet distance (squared, as it is usually given) between two Gaussians that have these means and covariances (Heusel, Ramsauer,
/// Unterthiner, Nessler and Hochreiter, 2017):
///
/// ```text
/// |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))
/// ```
///
/// With few points it comes out too large.
pub fn frechet(a: &Statistics, b: &Statistics) -> Result<f64> {
    if a.mean.len() != b.mean.len() || a.count == 1 || b.count == 1 {
        let sizes = [a.count, a.mean.len(), b.count, b.mean.len()];
        let what = "expected 2 or more on both sides, and one dimension";
        return Err(Error::Shape(format!(
            "Fréchet distance: {} points of {}, {} of {}; {what}",
            sizes[0], sizes[1], sizes[2], sizes[3]
        )));
    }
    let between: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (x - y).powi(2)).sum();
    // The fewer points, the lower the rank.
    let (fewer, more) = if a.count.wrapping_sub(1) <= b.count.wrapping_sub(1) { (a, b) } else { (b, a) };
    let (fewer, more) = (fewer.covariance()?, more.covariance()?);
    let shared = eigen::trace_of_root_of_product(&fewer, &more)?;
    Ok((between + fewer.trace() + more.trace() - 2.0 * shared).max(0.0))
}

/// The Fréchet distance between two sets of points.
pub fn frechet_distance(a: &Points, b: &Points) -> Result<f64> {
    frechet(&Statistics::of(a)?, &Statistics::of(b)?)
}
