//! Elementary operations, one launch each: what an eager framework puts a formula together from.

use super::{elementwise, expect_len, reduction, size32};
use crate::device::{Device, Kernel, Reals, kernel};
use crate::sizes::product;
use crate::{Error, Result};

/// How errors begin.
const WHAT: &str = "elementary";

/// `y` = f(`x`), elementwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    Exp,
    Log,
    Tanh,
    SquareRoot,
}

pub fn function(f: Function, y: &Reals, x: &Reals) -> Result<()> {
    let kernel = match f {
        Function::Exp => kernel::ELEMENTARY_EXP_F32,
        Function::Log => kernel::ELEMENTARY_LOG_F32,
        Function::Tanh => kernel::ELEMENTARY_TANH_F32,
        Function::SquareRoot => kernel::ELEMENTARY_SQUARE_ROOT_F32,
    };
    elementwise(WHAT, kernel, y, [("x", x)], |launch| launch)
}

/// Sine and cosine of 2 pi `u`, `u` in [0, 1).
pub fn sine_cosine(sine: &Reals, cosine: &Reals, u: &Reals) -> Result<()> {
    expect_len(WHAT, "cosine", cosine.len(), sine.len())?;
    expect_len(WHAT, "u", u.len(), sine.len())?;
    elementwise(WHAT, kernel::ELEMENTARY_SINE_COSINE_F32, sine, [], |launch| launch.output(cosine).input(u))
}

/// `y` = a `x` + b.
pub fn affine(y: &Reals, x: &Reals, a: f32, b: f32) -> Result<()> {
    elementwise(WHAT, kernel::ELEMENTARY_AFFINE_F32, y, [("x", x)], |launch| launch.scalar(a).scalar(b))
}

/// `y` = `x` where it is above 0, and `slope` times it elsewhere.
pub fn leaky_relu(y: &Reals, x: &Reals, slope: f32) -> Result<()> {
    elementwise(WHAT, kernel::ELEMENTARY_LEAKY_RELU_F32, y, [("x", x)], |launch| launch.scalar(slope))
}

/// `dx` = `dy` where `x` is above 0, and `slope` times it elsewhere: the backward pass of [`leaky_relu`]. `x` may be the
/// output instead, which has the same sign. Tangents go through the same mask, forward.
pub fn leaky_relu_backward(dx: &Reals, dy: &Reals, x: &Reals, slope: f32) -> Result<()> {
    elementwise(WHAT, kernel::ELEMENTARY_LEAKY_RELU_BACKWARD, dx, [("dy", dy), ("x", x)], |launch| launch.scalar(slope))
}

/// `dx` = `dy` (1 - `y`^2), the backward pass of y = tanh(x).
pub fn tanh_backward(dx: &Reals, dy: &Reals, y: &Reals) -> Result<()> {
    elementwise(WHAT, kernel::ELEMENTARY_TANH_BACKWARD_F32, dx, [("dy", dy), ("y", y)], |launch| launch)
}

/// `y` (R, C) = `x` (R, C) with `b` (C) added to each of its rows.
pub fn add_columns(y: &Reals, x: &Reals, b: &Reals) -> Result<()> {
    let rows = x.len() / b.len().max(1);
    by_rows(kernel::ELEMENTARY_ADD_COLUMNS_F32, y, x, ("b", b), [rows, b.len()])
}

/// `y` (R, C): each row of `x` (R, C) times its number of `s` (R).
pub fn scale_rows(y: &Reals, x: &Reals, s: &Reals) -> Result<()> {
    let columns = x.len() / s.len().max(1);
    by_rows(kernel::ELEMENTARY_SCALE_ROWS_F32, y, x, ("s", s), [s.len(), columns])
}

/// Launches a kernel over the rows of `x` (R, C), with a vector that has a number for each row or for each column.
fn by_rows(
    kernel: &'static Kernel,
    y: &Reals,
    x: &Reals,
    (name, vector): (&str, &Reals),
    [rows, columns]: [usize; 2],
) -> Result<()> {
    if x.is_empty() || product([rows, columns]) != x.len() {
        let (found, len) = (x.len(), vector.len());
        return Err(Error::Shape(format!("{WHAT}: x has {found} elements, expected R * C with {len} in {name}")));
    }
    expect_len(WHAT, "y", y.len(), x.len())?;
    let each = (y.device().tuning().elements / columns).max(1);
    let launch = y.device().launch(kernel, [rows.div_ceil(each) as u32, 1, 1]).output(y).input(x).input(vector);
    // SAFETY: x and y have R * C elements, the vector R or C, compared above.
    unsafe { launch.scalar(size32(WHAT, rows)?).scalar(size32(WHAT, columns)?).scalar(each as u32).run() }
}

/// `y` = `x1` + `x2`.
pub fn add(y: &Reals, x1: &Reals, x2: &Reals) -> Result<()> {
    elementwise(WHAT, kernel::ELEMENTARY_ADD_F32, y, [("x1", x1), ("x2", x2)], |launch| launch)
}

/// `y` = `x1` `x2`, elementwise.
pub fn multiply(y: &Reals, x1: &Reals, x2: &Reals) -> Result<()> {
    elementwise(WHAT, kernel::ELEMENTARY_MULTIPLY_F32, y, [("x1", x1), ("x2", x2)], |launch| launch)
}

/// `y` = `x1` / `x2`, elementwise.
pub fn divide(y: &Reals, x1: &Reals, x2: &Reals) -> Result<()> {
    elementwise(WHAT, kernel::ELEMENTARY_DIVIDE_F32, y, [("x1", x1), ("x2", x2)], |launch| launch)
}

/// `y` = `x` / `s`, a single number.
pub fn divide_by(y: &Reals, x: &Reals, s: &Reals) -> Result<()> {
    expect_len(WHAT, "s", s.len(), 1)?;
    elementwise(WHAT, kernel::ELEMENTARY_DIVIDE_BY_F32, y, [("x", x)], |launch| launch.input(s))
}

/// `y` (R, C): the softmax of each row of `x` (R, C), of `columns` numbers.
pub fn softmax_rows(y: &Reals, x: &Reals, columns: usize) -> Result<()> {
    whole_rows(kernel::ELEMENTARY_SOFTMAX_ROWS_F32, y, [("x", x)], columns)
}

/// `dx` (R, C) from `dy` (R, C): the backward pass of [`softmax_rows`], which gave `y` (R, C).
pub fn softmax_rows_backward(dx: &Reals, dy: &Reals, y: &Reals, columns: usize) -> Result<()> {
    whole_rows(kernel::ELEMENTARY_SOFTMAX_ROWS_BACKWARD_F32, dx, [("dy", dy), ("y", y)], columns)
}

/// Launches a kernel with a block for each row.
fn whole_rows<const N: usize>(
    kernel: &'static Kernel,
    y: &Reals,
    inputs: [(&str, &Reals); N],
    columns: usize,
) -> Result<()> {
    if columns == 0 || !y.len().is_multiple_of(columns) {
        let len = y.len();
        return Err(Error::Shape(format!("{WHAT}: {len} elements, expected a multiple of {columns} in a row")));
    }
    let mut launch = y.device().launch(kernel, [size32(WHAT, y.len() / columns)?, 1, 1]).output(y);
    for (name, input) in inputs {
        expect_len(WHAT, name, input.len(), y.len())?;
        launch = launch.input(input);
    }
    // SAFETY: all have R * C elements, and the grid has R blocks.
    unsafe { launch.scalar(size32(WHAT, columns)?).run() }
}

/// `y` = `x` - `s`, a single number.
pub fn subtract(y: &Reals, x: &Reals, s: &Reals) -> Result<()> {
    expect_len(WHAT, "s", s.len(), 1)?;
    elementwise(WHAT, kernel::ELEMENTARY_SUBTRACT_F32, y, [("x", x)], |launch| launch.input(s))
}

/// Workspace of [`sum`] and [`maximum`] in floats.
pub fn workspace_len(device: &Device, n: usize) -> usize {
    reduction(device, n).1
}

fn reduce(kernel: &'static Kernel, y: &Reals, x: &Reals, workspace: &Reals) -> Result<()> {
    expect_len(WHAT, "y", y.len(), 1)?;
    let n = size32(WHAT, x.len())?;
    let (chunk, blocks) = reduction(x.device(), x.len());
    expect_len(WHAT, "workspace", workspace.len(), blocks)?;
    let launch = x.device().launch(kernel, [blocks as u32, 1, 1]).output(workspace).input(x);
    // SAFETY: `x` has n elements, the workspace one per block.
    unsafe { launch.scalar(n).scalar(chunk as u32).run()? };
    let launch = x.device().launch(kernel, [1, 1, 1]).output(y).input(workspace);
    // SAFETY: one block, which writes one element, reads the workspace.
    unsafe { launch.scalar(blocks as u32).scalar(blocks as u32).run() }
}

/// `y` (1) = the sum of `x`. Two launches. `workspace` has [`workspace_len`] floats.
pub fn sum(y: &Reals, x: &Reals, workspace: &Reals) -> Result<()> {
    reduce(kernel::ELEMENTARY_SUM_F32, y, x, workspace)
}

/// `y` (1) = the largest of `x`. Two launches. `workspace` has [`workspace_len`] floats.
pub fn maximum(y: &Reals, x: &Reals, workspace: &Reals) -> Result<()> {
    reduce(kernel::ELEMENTARY_MAXIMUM_F32, y, x, workspace)
}
