//! Elementary operations, one launch each: what an eager framework composes a formula of.

use super::{expect_len, size32};
use crate::device::{Buffer, Device, Kernel, Launch, kernel};
use crate::{Error, Result};

/// `y` = f(`x`), elementwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    Exp,
    Log,
    Tanh,
}

/// The launch of an elementwise kernel over `y`'s elements, whose operands are pushed by `operands`.
fn elementwise(kernel: &'static Kernel, y: &Buffer<f32>, operands: impl FnOnce(Launch) -> Launch) -> Result<()> {
    let n = size32("elementary", y.len())?;
    let chunk = y.device().tuning().elements as u32;
    let launch = operands(y.device().launch(kernel, [n.div_ceil(chunk), 1, 1]).output(y));
    // SAFETY: the callers compare the operands' lengths with y's, which is n.
    unsafe { launch.scalar(n).scalar(chunk).run() }
}

pub fn function(f: Function, y: &Buffer<f32>, x: &Buffer<f32>) -> Result<()> {
    expect_len("elementary", "x", x.len(), y.len())?;
    let kernel = match f {
        Function::Exp => kernel::ELEMENTARY_EXP_F32,
        Function::Log => kernel::ELEMENTARY_LOG_F32,
        Function::Tanh => kernel::ELEMENTARY_TANH_F32,
    };
    elementwise(kernel, y, |launch| launch.input(x))
}

/// Sine and cosine of 2 pi `u`, `u` in [0, 1).
pub fn sine_cosine(sine: &Buffer<f32>, cosine: &Buffer<f32>, u: &Buffer<f32>) -> Result<()> {
    expect_len("elementary", "cosine", cosine.len(), sine.len())?;
    expect_len("elementary", "u", u.len(), sine.len())?;
    elementwise(kernel::ELEMENTARY_SINE_COSINE_F32, sine, |launch| launch.output(cosine).input(u))
}

/// `y` = a `x` + b.
pub fn affine(y: &Buffer<f32>, x: &Buffer<f32>, a: f32, b: f32) -> Result<()> {
    expect_len("elementary", "x", x.len(), y.len())?;
    elementwise(kernel::ELEMENTARY_AFFINE_F32, y, |launch| launch.input(x).scalar(a).scalar(b))
}

/// `y` = `x` where it is above 0, and `slope` times it elsewhere.
pub fn leaky_relu(y: &Buffer<f32>, x: &Buffer<f32>, slope: f32) -> Result<()> {
    expect_len("elementary", "x", x.len(), y.len())?;
    elementwise(kernel::ELEMENTARY_LEAKY_RELU_F32, y, |launch| launch.input(x).scalar(slope))
}

/// `dx` = `dy` (1 - `y`^2), the backward pass of y = tanh(x).
pub fn tanh_backward(dx: &Buffer<f32>, dy: &Buffer<f32>, y: &Buffer<f32>) -> Result<()> {
    expect_len("elementary", "dy", dy.len(), dx.len())?;
    expect_len("elementary", "y", y.len(), dx.len())?;
    elementwise(kernel::ELEMENTARY_TANH_BACKWARD_F32, dx, |launch| launch.input(dy).input(y))
}

/// `y` (R, C) = `x` (R, C) and `b` (C) added to each of its rows.
pub fn add_columns(y: &Buffer<f32>, x: &Buffer<f32>, b: &Buffer<f32>) -> Result<()> {
    let rows = x.len() / b.len().max(1);
    by_rows(kernel::ELEMENTARY_ADD_COLUMNS_F32, y, x, ("b", b), [rows, b.len()])
}

/// `y` (R, C): each row of `x` (R, C) times its number of `s` (R).
pub fn scale_rows(y: &Buffer<f32>, x: &Buffer<f32>, s: &Buffer<f32>) -> Result<()> {
    let columns = x.len() / s.len().max(1);
    by_rows(kernel::ELEMENTARY_SCALE_ROWS_F32, y, x, ("s", s), [s.len(), columns])
}

/// `x` (R, C) and a vector, one of whose dimensions its length is.
fn by_rows(
    kernel: &'static Kernel,
    y: &Buffer<f32>,
    x: &Buffer<f32>,
    (name, vector): (&str, &Buffer<f32>),
    [rows, columns]: [usize; 2],
) -> Result<()> {
    let what = "elementary";
    if x.is_empty() || rows * columns != x.len() {
        let (found, len) = (x.len(), vector.len());
        return Err(Error::Shape(format!("{what}: x has {found} elements, expected R * C with {len} in {name}")));
    }
    expect_len(what, "y", y.len(), x.len())?;
    let each = (y.device().tuning().elements / columns).max(1);
    let launch = y.device().launch(kernel, [rows.div_ceil(each) as u32, 1, 1]).output(y).input(x).input(vector);
    // SAFETY: x and y have R * C elements, the vector R or C, compared above.
    unsafe { launch.scalar(size32(what, rows)?).scalar(size32(what, columns)?).scalar(each as u32).run() }
}

/// `y` = `x1` + `x2`.
pub fn add(y: &Buffer<f32>, x1: &Buffer<f32>, x2: &Buffer<f32>) -> Result<()> {
    expect_len("elementary", "x1", x1.len(), y.len())?;
    expect_len("elementary", "x2", x2.len(), y.len())?;
    elementwise(kernel::ELEMENTARY_ADD_F32, y, |launch| launch.input(x1).input(x2))
}

/// `y` = `x` - `s`, a single number.
pub fn subtract(y: &Buffer<f32>, x: &Buffer<f32>, s: &Buffer<f32>) -> Result<()> {
    expect_len("elementary", "x", x.len(), y.len())?;
    expect_len("elementary", "s", s.len(), 1)?;
    elementwise(kernel::ELEMENTARY_SUBTRACT_F32, y, |launch| launch.input(x).input(s))
}

/// Elements per block and blocks of a reduction.
fn split(device: &Device, n: usize) -> (usize, usize) {
    let tuning = device.tuning();
    let chunk = tuning.elements.max(n.div_ceil(tuning.reduce_blocks)).next_power_of_two();
    (chunk, n.div_ceil(chunk))
}

/// Workspace of [`sum`] and [`maximum`] in floats.
pub fn workspace_len(device: &Device, n: usize) -> usize {
    split(device, n).1
}

fn reduce(kernel: &'static Kernel, y: &Buffer<f32>, x: &Buffer<f32>, workspace: &Buffer<f32>) -> Result<()> {
    expect_len("elementary", "y", y.len(), 1)?;
    let n = size32("elementary", x.len())?;
    let (chunk, blocks) = split(x.device(), x.len());
    expect_len("elementary", "workspace", workspace.len(), blocks)?;
    let launch = x.device().launch(kernel, [blocks as u32, 1, 1]).output(workspace).input(x);
    // SAFETY: `x` has n elements, the workspace one per block.
    unsafe { launch.scalar(n).scalar(chunk as u32).run()? };
    let launch = x.device().launch(kernel, [1, 1, 1]).output(y).input(workspace);
    // SAFETY: one block, which writes one element, reads the workspace.
    unsafe { launch.scalar(blocks as u32).scalar(blocks as u32).run() }
}

/// `y` (1) = the sum of `x`. Two launches. `workspace` has [`workspace_len`] floats.
pub fn sum(y: &Buffer<f32>, x: &Buffer<f32>, workspace: &Buffer<f32>) -> Result<()> {
    reduce(kernel::ELEMENTARY_SUM_F32, y, x, workspace)
}

/// `y` (1) = the largest of `x`. Two launches. `workspace` has [`workspace_len`] floats.
pub fn maximum(y: &Buffer<f32>, x: &Buffer<f32>, workspace: &Buffer<f32>) -> Result<()> {
    reduce(kernel::ELEMENTARY_MAXIMUM_F32, y, x, workspace)
}
