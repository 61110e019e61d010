//! `kernels/spectral_norm.cu` against an f64 loop, central differences, PyTorch, and the true largest singular value.

use crate::common::*;
use zgan::device::{Buffer, Device};
use zgan::ops::spectral_norm::{self, Matrix, Outputs, Plan, State};

struct Run {
    plan: Plan,
    effective: Buffer<f32>,
    weights: Buffer<f32>,
    u: Buffer<f32>,
    v: Buffer<f32>,
    sigma: Buffer<f32>,
    workspace: Buffer<f32>,
}

impl Run {
    fn new(device: &Device, weights: &[f32], matrices: &[Matrix], u: &[f32]) -> Run {
        let plan = Plan::new(device, weights.len(), matrices).unwrap();
        let nans = |n: usize| device.upload(&vec![f32::NAN; n]).unwrap();
        Run {
            effective: nans(weights.len()),
            weights: device.upload(weights).unwrap(),
            u: device.upload(u).unwrap(),
            v: nans(plan.v_len()),
            sigma: nans(plan.sigma_len()),
            workspace: nans(plan.workspace_len()),
            plan,
        }
    }

    fn state(&self) -> State<'_> {
        State { u: &self.u, v: &self.v, sigma: &self.sigma, workspace: &self.workspace }
    }

    fn forward(&self, iterate: bool) {
        spectral_norm::forward(&self.plan, &self.effective, &self.weights, self.state(), iterate).unwrap();
    }
}

fn normalized(x: Vec<f64>) -> Vec<f64> {
    let length = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    x.iter().map(|x| x / length).collect()
}

/// M (outputs, inputs) of a stored matrix.
fn as_formula(matrix: &Matrix, weights: &[f64]) -> Vec<Vec<f64>> {
    let at = |r: usize, c: usize| weights[matrix.offset + r * matrix.columns + c];
    match matrix.outputs {
        Outputs::Rows => (0..matrix.rows).map(|r| (0..matrix.columns).map(|c| at(r, c)).collect()).collect(),
        Outputs::Columns => (0..matrix.columns).map(|c| (0..matrix.rows).map(|r| at(r, c)).collect()).collect(),
    }
}

fn times(m: &[Vec<f64>], v: &[f64]) -> Vec<f64> {
    m.iter().map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum()).collect()
}

fn transposed_times(m: &[Vec<f64>], u: &[f64]) -> Vec<f64> {
    (0..m[0].len()).map(|i| m.iter().zip(u).map(|(row, u)| row[i] * u).sum()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// After `iterations`: u, v, sigma.
fn reference(m: &[Vec<f64>], u: &[f64], iterations: usize) -> (Vec<f64>, Vec<f64>, f64) {
    let (mut u, mut v) = (u.to_vec(), Vec::new());
    for _ in 0..iterations {
        v = normalized(transposed_times(m, &u));
        u = normalized(times(m, &v));
    }
    let sigma = dot(&u, &times(m, &v));
    (u, v, sigma)
}

/// Filters, linear layers and embeddings with parameters between and around them that are not normalised.
fn network(sizes: &[(usize, usize, Outputs)], seed: u64) -> (Vec<f32>, Vec<Matrix>, Vec<f32>) {
    let (mut offset, mut matrices, mut u) = (3, Vec::new(), 0);
    for (i, &(rows, columns, outputs)) in sizes.iter().enumerate() {
        matrices.push(Matrix { offset, rows, columns, outputs });
        offset += rows * columns + 5 * (i % 2); // some touch
        u += if outputs == Outputs::Rows { rows } else { columns };
    }
    let mut random = Random(seed);
    (random.normals(offset + 2), matrices, random.normals(u))
}

fn check(device: &Device, sizes: &[(usize, usize, Outputs)]) {
    let (weights, matrices, u) = network(sizes, 11);
    let run = Run::new(device, &weights, &matrices, &u);
    for _ in 0..5 {
        run.forward(true);
    }
    let w = to_f64(&weights);
    let mut random = Random(12);
    let g = random.normals(weights.len());
    let gradient = device.upload(&g).unwrap();
    spectral_norm::backward(&run.plan, &gradient, &run.effective, run.state()).unwrap();
    let (mut effective, mut dw) = (w.clone(), to_f64(&g));
    for (i, matrix) in matrices.iter().enumerate() {
        let m = as_formula(matrix, &w);
        let (u_i, v_i, sigma) = reference(&m, &to_f64(&u[run.plan.u_of(i)]), 5);
        assert_close("u", &run.u.view(run.plan.u_of(i)), &u_i, 2e-5);
        assert_close("v", &run.v.view(run.plan.v_of(i)), &v_i, 2e-5);
        let at = run.plan.sigma_of(i);
        assert_close("sigma", &run.sigma.view(at..at + 1), &[sigma], 2e-6);
        let range = matrix.offset..matrix.offset + matrix.rows * matrix.columns;
        let inner = dot(&dw[range.clone()], &w[range.clone()]) / sigma;
        for (j, k) in range.enumerate() {
            let (r, c) = (j / matrix.columns, j % matrix.columns);
            let uv = if matrix.outputs == Outputs::Rows { u_i[r] * v_i[c] } else { u_i[c] * v_i[r] };
            effective[k] /= sigma;
            dw[k] = (dw[k] - inner * uv) / sigma;
        }
    }
    assert_close("effective", &run.effective, &effective, 2e-6);
    assert_close("gradient", &gradient, &dw, 1e-5);
    // What is between the matrices is copied to the bit.
    let (found, gradient) = (run.effective.read().unwrap(), gradient.read().unwrap());
    assert_eq!(found[..3], weights[..3]);
    assert_eq!(found[found.len() - 2..], weights[found.len() - 2..]);
    assert_eq!(gradient[..3], g[..3]);
}

#[test]
fn five_iterations_match_the_reference() {
    use Outputs::{Columns, Rows};
    on_each_device(|device| {
        check(device, &[(1, 1, Columns), (1, 1, Rows)]);
        check(device, &[(27, 16, Columns), (144, 33, Columns), (31, 1, Columns), (1, 31, Rows), (10, 70, Rows)]);
        check(device, &[(1000, 3, Rows), (3, 1000, Columns), (3, 1000, Rows), (1000, 3, Columns), (129, 257, Columns)]);
    });
}

#[test]
fn large_matrices_are_split_over_blocks() {
    use Outputs::{Columns, Rows};
    on_each_device(|device| check(device, &[(700, 400, Columns), (5, 7, Columns), (300, 500, Rows), (9, 4, Rows)]));
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (weights, matrices, u) = network(&[(700, 400, Outputs::Columns), (300, 500, Outputs::Rows)], 31);
    let bits = |threads: usize| {
        let device = Device::host(threads).unwrap();
        let run = Run::new(&device, &weights, &matrices, &u);
        run.forward(true);
        let gradient = device.upload(&weights).unwrap();
        spectral_norm::backward(&run.plan, &gradient, &run.effective, run.state()).unwrap();
        (run.effective.read().unwrap(), run.u.read().unwrap(), gradient.read().unwrap())
    };
    assert_eq!(bits(1), bits(3));
}

#[test]
fn the_gradient_is_the_derivative_with_u_and_v_constant() {
    let (weights, matrices, u) = network(&[(6, 4, Outputs::Columns)], 5);
    let device = Device::host(1).unwrap();
    let run = Run::new(&device, &weights, &matrices, &u);
    run.forward(true);
    let range = 3..27;
    let g = Random(6).normals(weights.len());
    let gradient = device.upload(&g).unwrap();
    spectral_norm::backward(&run.plan, &gradient, &run.effective, run.state()).unwrap();
    let (u, v) = (to_f64(&run.u.read().unwrap()), to_f64(&run.v.read().unwrap()));
    let expected = central_differences(&to_f64(&weights[range.clone()]), |w| {
        let at_zero = Matrix { offset: 0, ..matrices[0] };
        let sigma = dot(&u, &times(&as_formula(&at_zero, w), &v));
        dot(w, &to_f64(&g[range.clone()])) / sigma
    });
    assert_close("gradient", &gradient.view(range), &expected, 2e-6);
}

/// The largest singular value, by a thousand steps of the power method on M M^T from several starts.
fn largest_singular_value(m: &[Vec<f64>]) -> f64 {
    (0..3u64)
        .map(|seed| {
            let start: Vec<f64> = to_f64(&Random(seed + 100).normals(m.len()));
            reference(m, &start, 1000).2
        })
        .fold(0.0, f64::max)
}

#[test]
fn after_200_iterations_the_largest_singular_value_is_1() {
    let sizes = [(72, 16, Outputs::Columns), (40, 33, Outputs::Columns), (10, 24, Outputs::Rows)];
    let (weights, matrices, u) = network(&sizes, 21);
    on_each_device(|device| {
        let run = Run::new(device, &weights, &matrices, &u);
        for _ in 0..200 {
            run.forward(true);
        }
        let effective = to_f64(&run.effective.read().unwrap());
        for matrix in &matrices {
            let largest = largest_singular_value(&as_formula(matrix, &effective));
            assert!((largest - 1.0).abs() < 0.01, "{matrix:?}: {largest}");
        }
    });
}

#[test]
fn a_matrix_of_zeros_stays_one() {
    on_each_device(|device| {
        let matrices = [Matrix { offset: 0, rows: 4, columns: 3, outputs: Outputs::Columns }];
        let run = Run::new(device, &[0.0; 12], &matrices, &[1.0, 2.0, 3.0]);
        for iterate in [true, false] {
            run.forward(iterate);
            assert_eq!(run.effective.read().unwrap(), [0.0; 12]);
        }
    });
}

#[test]
fn matches_pytorch() {
    let golden = Golden::open("spectral_norm");
    for (name, outputs) in [("conv", Outputs::Columns), ("linear", Outputs::Columns), ("embedding", Outputs::Rows)] {
        let shape = golden.shape(&format!("{name}.weight"));
        let (columns, len) = (shape[shape.len() - 1], shape.iter().product::<usize>());
        let matrices = [Matrix { offset: 0, rows: len / columns, columns, outputs }];
        let get = |what: &str| golden.f32(&format!("{name}.{what}"));
        let expect = |what: &str| golden.f64(&format!("{name}.{what}"));
        on_each_device(|device| {
            let run = Run::new(device, &get("weight"), &matrices, &get("u"));
            for _ in 0..5 {
                run.forward(true);
            }
            assert_close(name, &run.effective, &expect("effective"), 3e-6);
            assert_close(name, &run.u, &expect("u5"), 3e-6);
            let gradient = device.upload(&get("g")).unwrap();
            spectral_norm::backward(&run.plan, &gradient, &run.effective, run.state()).unwrap();
            assert_close(name, &gradient, &expect("dw"), 3e-6);
            run.weights.write(&get("changed")).unwrap();
            run.forward(false);
            assert_close(name, &run.effective, &expect("evaluated"), 3e-6);
            assert_close(name, &run.u, &expect("u5"), 3e-6);
        });
    }
}

#[test]
fn refuses_matrices_that_overlap_or_stick_out() {
    let device = Device::host(1).unwrap();
    let matrix = |offset, rows, columns| Matrix { offset, rows, columns, outputs: Outputs::Columns };
    let error = Plan::new(&device, 20, &[matrix(0, 3, 4), matrix(11, 2, 2)]).err().unwrap().to_string();
    assert_eq!(error, "spectral norm: 2 x 2 at 11 of 20 parameters, the one before ends at 12");
    assert!(Plan::new(&device, 11, &[matrix(0, 3, 4)]).is_err());
    assert!(Plan::new(&device, 11, &[matrix(0, 0, 4)]).is_err());
    let plan = Plan::new(&device, 12, &[matrix(0, 3, 4)]).unwrap();
    let buffer = |n| device.zeros::<f32>(n).unwrap();
    let (u, v, sigma, workspace) = (buffer(3), buffer(3), buffer(1), buffer(plan.workspace_len()));
    let state = State { u: &u, v: &v, sigma: &sigma, workspace: &workspace };
    let error = spectral_norm::forward(&plan, &buffer(12), &buffer(12), state, true).unwrap_err().to_string();
    assert_eq!(error, "spectral norm: u has 3 elements, expected 4");
}
