//! The vectors u and v of spectral norms, of weights in files.

use super::names::{Kind, Row, Side};
use crate::checkpoint::NamedTensor;

/// Power iterations for a weight that comes without the vectors of its spectral norm.
pub const ITERATIONS: usize = 20;

/// The tensors of a checkpoint, with those of format 1 that have the vectors of all weights taken apart.
pub fn spread(tensors: Vec<NamedTensor>, side: Side, rows: &[Row]) -> Vec<NamedTensor> {
    let mut all = Vec::new();
    for tensor in tensors {
        let kind = match tensor.name.strip_prefix(side.name()) {
            Some(".spectral_u") => Kind::U,
            Some(".spectral_v") => Kind::V,
            _ => {
                all.push(tensor);
                continue;
            }
        };
        let mut rest = tensor.values.as_slice();
        for row in rows.iter().filter(|row| row.kind == kind) {
            let (own, behind) = rest.split_at(row.our_shape[0].min(rest.len()));
            let name = format!("{}.{}", side.name(), row.ours);
            all.push(NamedTensor { name, shape: vec![own.len()], values: own.to_vec() });
            rest = behind;
        }
    }
    all
}

/// u' W v, of a weight whose outputs are its columns or, of an embedding, its rows.
pub fn norm(weight: &NamedTensor, u: &[f32], v: &[f32]) -> f64 {
    let columns = columns(weight);
    let (of_rows, of_columns) = if is_embedding(weight) { (u, v) } else { (v, u) };
    let row = |(row, at): (&[f32], &f32)| {
        f64::from(*at) * row.iter().zip(of_columns).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>()
    };
    weight.values.chunks(columns).zip(of_rows).map(row).sum()
}

/// Vectors u and v of a weight's spectral norm, after so many power iterations from `u`; with none, u as it is and its v.
pub fn power(weight: &NamedTensor, u: &[f32], iterations: usize) -> (Vec<f32>, Vec<f32>) {
    let (columns, embedding) = (columns(weight), is_embedding(weight));
    // Of the outputs: rows of an embedding, columns of all others.
    let with = |x: &[f64], rows: bool| -> Vec<f64> {
        let matrix = weight.values.chunks(columns);
        let product = match rows {
            true => {
                let mut sums = vec![0.0; columns];
                for (row, x) in matrix.zip(x) {
                    sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(*w) * x);
                }
                sums
            }
            false => matrix.map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect(),
        };
        let norm = product.iter().map(|x: &f64| x * x).sum::<f64>().sqrt().max(1e-12);
        product.iter().map(|x| x / norm).collect()
    };
    let mut u: Vec<f64> = u.iter().map(|x| f64::from(*x)).collect();
    let mut v = with(&u, embedding);
    for _ in 0..iterations {
        u = with(&v, !embedding);
        v = with(&u, embedding);
    }
    let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
    (narrow(u), narrow(v))
}

fn columns(weight: &NamedTensor) -> usize {
    weight.shape.last().copied().unwrap_or(1).max(1)
}

/// Whose outputs are its rows.
fn is_embedding(weight: &NamedTensor) -> bool {
    weight.name.ends_with("embedding")
}
