//! Symmetric matrices of a few hundred rows, in f64.

/// A square matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    pub n: usize,
    pub values: Vec<f64>,
}

impl Matrix {
    pub fn zeros(n: usize) -> Matrix {
        Matrix { n, values: vec![0.0; n * n] }
    }

    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.n + column]
    }

    pub fn trace(&self) -> f64 {
        (0..self.n).map(|i| self.at(i, i)).sum()
    }

    pub fn times(&self, other: &Matrix) -> Matrix {
        let n = self.n;
        let mut product = Matrix::zeros(n);
        for i in 0..n {
            let row = &mut product.values[i * n..(i + 1) * n];
            for k in 0..n {
                let factor = self.at(i, k);
                row.iter_mut().zip(&other.values[k * n..(k + 1) * n]).for_each(|(sum, x)| *sum += factor * x);
            }
        }
        product
    }

    /// The mean of this matrix and its transpose, which evens out what rounding made unequal.
    pub fn symmetrised(mut self) -> Matrix {
        for i in 0..self.n {
            for j in 0..i {
                let mean = 0.5 * (self.at(i, j) + self.at(j, i));
                self.values[i * self.n + j] = mean;
                self.values[j * self.n + i] = mean;
            }
        }
        self
    }
}

/// The most sweeps of Jacobi's method. It converges quadratically, so that even ten are rarely needed.
const SWEEPS: usize = 50;

/// The eigenvalues of a symmetric matrix, and its eigenvectors as the rows of the second value. This is Jacobi's cyclic
/// method: each rotation makes one pair of elements off the diagonal zero.
pub fn symmetric(matrix: &Matrix) -> (Vec<f64>, Matrix) {
    let n = matrix.n;
    let mut a = matrix.clone();
    let mut vectors = Matrix::zeros(n);
    (0..n).for_each(|i| vectors.values[i * n + i] = 1.0);
    let all: f64 = a.values.iter().map(|x| x * x).sum();
    for _ in 0..SWEEPS {
        let outside: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a.at(i, j).powi(2)).sum();
        if outside <= 1e-30 * all || outside.is_nan() {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a.at(p, q);
                if apq == 0.0 {
                    continue;
                }
                // The tangent of the smaller of the two angles that do so.
                let theta = (a.at(q, q) - a.at(p, p)) / (2.0 * apq);
                let t = 1.0f64.copysign(theta) / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let rotation = (c, t * c);
                rotate_rows(&mut a, p, q, rotation);
                rotate_columns(&mut a, p, q, rotation);
                rotate_rows(&mut vectors, p, q, rotation);
            }
        }
    }
    ((0..n).map(|i| a.at(i, i)).collect(), vectors)
}

fn rotate_rows(a: &mut Matrix, p: usize, q: usize, (c, s): (f64, f64)) {
    let (above, below) = a.values.split_at_mut(q * a.n);
    for (x, y) in above[p * a.n..(p + 1) * a.n].iter_mut().zip(below) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

fn rotate_columns(a: &mut Matrix, p: usize, q: usize, (c, s): (f64, f64)) {
    for row in a.values.chunks_exact_mut(a.n) {
        (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
    }
}

/// The square root of a symmetric matrix that has no negative eigenvalues. Those that are negative by rounding count as 0.
pub fn root(matrix: &Matrix) -> Matrix {
    let n = matrix.n;
    let (values, vectors) = symmetric(matrix);
    let mut root = Matrix::zeros(n);
    for (value, vector) in values.iter().zip(vectors.values.chunks_exact(n.max(1))) {
        let scale = value.max(0.0).sqrt();
        for (x, row) in vector.iter().zip(root.values.chunks_exact_mut(n)) {
            row.iter_mut().zip(vector).for_each(|(sum, y)| *sum += scale * x * y);
        }
    }
    root
}
