//! Symmetric matrices of some thousand rows, in f64: products, factors and eigenvalues. Each result is a sum in a fixed order,
//! whatever the number of threads.

use crate::cores::{in_parallel, threads};
use crate::sizes::{filled, product};
use crate::{Error, Result};

/// A matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f64>,
}

/// Rows that a thread takes at a time, and how much of a product's right side stays in its cache meanwhile.
const ROWS: usize = 32;
const DEPTH: usize = 64;
const WIDTH: usize = 512;

impl Matrix {
    pub fn zeros(rows: usize, columns: usize) -> Result<Matrix> {
        Ok(Matrix { rows, columns, values: filled("a matrix", product([rows, columns]), 0.0)? })
    }

    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    pub fn trace(&self) -> f64 {
        (0..self.rows.min(self.columns)).map(|i| self.values[i * self.columns + i]).sum()
    }

    pub fn transposed(&self) -> Result<Matrix> {
        let mut transposed = Matrix::zeros(self.columns, self.rows)?;
        for (i, row) in self.values.chunks_exact(self.columns.max(1)).enumerate() {
            row.iter().enumerate().for_each(|(j, x)| transposed.values[j * self.rows + i] = *x);
        }
        Ok(transposed)
    }

    pub fn times(&self, other: &Matrix) -> Result<Matrix> {
        if self.columns != other.rows {
            let sizes = [self.rows, self.columns, other.rows, other.columns];
            return Err(Error::Shape(format!("a product of matrices of {sizes:?} rows and columns")));
        }
        let (depth, width) = (self.columns, other.columns);
        let mut result = Matrix::zeros(self.rows, width)?;
        let parts = result.values.chunks_mut((ROWS * width).max(1)).enumerate();
        in_parallel(parts.collect(), |(part, rows): (usize, &mut [f64])| {
            for first in (0..depth).step_by(DEPTH) {
                for column in (0..width).step_by(WIDTH) {
                    for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                        let factors = &self.row(part * ROWS + i)[first..depth.min(first + DEPTH)];
                        let row = &mut row[column..width.min(column + WIDTH)];
                        let at = |k: usize| &other.row(first + k)[column..][..row_len(column, width)];
                        add_products(row, factors, at);
                    }
                }
            }
        });
        Ok(result)
    }
}

fn row_len(column: usize, width: usize) -> usize {
    WIDTH.min(width - column)
}

/// `sums += factors[0] rows(0) + factors[1] rows(1) + ...`, four rows at a time.
pub(super) fn add_products<'a>(sums: &mut [f64], factors: &[f64], rows: impl Fn(usize) -> &'a [f64]) {
    let (fours, rest) = factors.as_chunks::<4>();
    for (i, [a, b, c, d]) in fours.iter().enumerate() {
        let [w, x, y, z] = [0, 1, 2, 3].map(|j| &rows(4 * i + j)[..sums.len()]);
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum += (a * w[j] + b * x[j]) + (c * y[j] + d * z[j]);
        }
    }
    for (i, factor) in rest.iter().enumerate() {
        let row = rows(4 * fours.len() + i);
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x);
    }
}

/// It has eight sums, as a loop with a single one would not be vectorised.
pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    let (xs, ys) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (x, y) in xs.0.iter().zip(ys.0) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f64>() + xs.1.iter().zip(ys.1).map(|(x, y)| x * y).sum::<f64>()
}

/// L (n, rank) with `L L^T` the symmetric `matrix`, which has no negative eigenvalues but by rounding. Each step takes the largest
/// element that is left of the diagonal, until there is nothing but rounding (Higham, 1990): the rank is that of the matrix.
pub fn factor(matrix: &Matrix) -> Result<Matrix> {
    let n = matrix.rows;
    let mut left: Vec<f64> = (0..n).map(|i| matrix.values[i * n + i]).collect();
    let least = left.iter().copied().fold(0.0, f64::max) * n as f64 * f64::EPSILON;
    let mut factor = Matrix::zeros(n, n)?;
    let mut rank = 0;
    for k in 0..n {
        let pivot = (0..n).fold(0, |best, i| if left[i] > left[best] { i } else { best });
        if left[pivot] <= least {
            break;
        }
        let root = left[pivot].sqrt();
        let known = factor.row(pivot)[..k].to_vec();
        let from = matrix.row(pivot);
        let rows = factor.values.chunks_exact_mut(n).zip(&mut left).zip(from);
        for_each_row(rows.collect(), n * k, |((row, left), from)| {
            // What has been taken has nothing left.
            if *left > 0.0 {
                row[k] = (from - dot(&row[..k], &known)) / root;
                *left -= row[k] * row[k];
            }
        });
        factor.values[pivot * n + k] = root;
        left[pivot] = 0.0;
        rank = k + 1;
    }
    let mut narrow = Matrix::zeros(n, rank)?;
    for (to, from) in narrow.values.chunks_exact_mut(rank.max(1)).zip(factor.values.chunks_exact(n.max(1))) {
        to.copy_from_slice(&from[..rank]);
    }
    Ok(narrow)
}

/// `work` for each of the rows, on all cores where there are enough numbers to be worth it.
fn for_each_row<T: Send>(rows: Vec<T>, numbers: usize, work: impl Fn(T) + Sync) {
    const LITTLE: usize = 1 << 16;
    if numbers < LITTLE {
        return rows.into_iter().for_each(work);
    }
    let each = rows.len().div_ceil(4 * threads(0));
    let mut rows = rows.into_iter();
    let part = || Some(rows.by_ref().take(each).collect::<Vec<T>>()).filter(|part| !part.is_empty());
    in_parallel(std::iter::from_fn(part).collect(), |part| part.into_iter().for_each(&work));
}

/// The eigenvalues of a symmetric matrix, in no order. Householder's reflections make it tridiagonal; then the implicit QL method
/// finds its eigenvalues (Wilkinson and Reinsch, 1971, tred1 and imtql1).
pub fn eigenvalues(mut matrix: Matrix) -> Result<Vec<f64>> {
    let n = matrix.rows;
    if n != matrix.columns || matrix.values.iter().any(|x| !x.is_finite()) {
        return Err(Error::Shape(format!("eigenvalues of {n} x {} numbers, finite ones", matrix.columns)));
    }
    let (mut diagonal, mut off) = (vec![0.0; n], vec![0.0; n]);
    // What the step before has found: A becomes A - v w^T - w v^T in the pass over A that the next step makes anyway.
    let (mut v, mut w) = (vec![0.0; n], vec![0.0; n]);
    for k in 0..n {
        // The row k of the matrix that is left, A[k..][k..].
        let row = &mut matrix.values[k * n..(k + 1) * n];
        for j in k..n {
            row[j] -= v[k] * w[j] + w[k] * v[j];
        }
        diagonal[k] = row[k];
        if k + 1 == n {
            break;
        }
        let x = &row[k + 1..];
        let norm = dot(x, x).sqrt();
        let alpha = if x[0] > 0.0 { -norm } else { norm };
        off[k] = alpha;
        let mut next = vec![0.0; n];
        next[k + 1..].copy_from_slice(x);
        next[k + 1] -= alpha;
        // u = x - alpha e; H = 1 - u u^T / h with h = u^T u / 2.
        let h = norm * norm - alpha * x[0];
        let (begin, m) = (k + 1, n - k - 1);
        let mut p = vec![0.0; n];
        let rows = matrix.values[begin * n..].chunks_exact_mut(n).zip(&mut p[begin..]).zip(begin..);
        let (old_v, old_w, u) = (&v, &w, &next);
        for_each_row(rows.collect(), m * m, |((row, p), i)| {
            let (row, vi, wi) = (&mut row[begin..], old_v[i], old_w[i]);
            for ((a, w), v) in row.iter_mut().zip(&old_w[begin..]).zip(&old_v[begin..]) {
                *a -= vi * w + wi * v;
            }
            *p = dot(row, &u[begin..]);
        });
        if h > 0.0 {
            p.iter_mut().for_each(|p| *p /= h);
            let share = dot(&p, &next) / (2.0 * h);
            p.iter_mut().zip(&next).for_each(|(p, u)| *p -= share * u);
        } else {
            // There is nothing to reflect.
            p.fill(0.0);
        }
        (v, w) = (next, p);
    }
    tridiagonal(diagonal, off)
}

/// The eigenvalues of the matrix with this diagonal, and `off[i]` between i and i + 1.
fn tridiagonal(mut d: Vec<f64>, mut e: Vec<f64>) -> Result<Vec<f64>> {
    const ITERATIONS: usize = 60;
    let n = d.len();
    for l in 0..n {
        let mut iterations = 0;
        loop {
            let small = |m: usize| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs());
            let m = (l..n - 1).find(|m| small(*m)).unwrap_or(n - 1);
            if m == l {
                break;
            }
            iterations += 1;
            if iterations > ITERATIONS {
                return Err(Error::Check("the eigenvalues of a matrix do not converge".into()));
            }
            let g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let r = g.hypot(1.0);
            let mut g = d[m] - d[l] + e[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut split = false;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    split = true;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
            }
            if !split {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    Ok(d)
}

/// The trace of `(A B)^(1/2)` for symmetric matrices without negative eigenvalues: with A = L L^T, the eigenvalues of A B are those of
/// the symmetric L^T B L, and as many zeros as A has.
pub fn trace_of_root_of_product(a: &Matrix, b: &Matrix) -> Result<f64> {
    let factor = factor(a)?;
    if factor.columns == 0 {
        return Ok(0.0);
    }
    let product = factor.transposed()?.times(&b.times(&factor)?)?;
    Ok(eigenvalues(product)?.into_iter().map(|value| value.max(0.0).sqrt()).sum())
}
