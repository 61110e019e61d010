//! Softmax cross-entropy of class logits: the mean loss, its gradient, and how many were right.

use super::{expect_len, size32};
use crate::device::{Buffer, Reals, kernel};
use crate::sizes::product;
use crate::{Error, Result};

/// Rows that one block takes.
const ROWS: u32 = 64;

/// Floats of workspace for `n` samples.
pub fn workspace_len(n: usize) -> usize {
    product([2, n])
}

/// What comes out; all of it overwrites.
pub struct Evaluation<'a> {
    /// (2): `weight` times the mean loss, and the number of samples whose largest logit is their label.
    pub statistics: &'a Reals,
    /// (N, classes): the gradient of the first.
    pub dx: &'a Reals,
}

/// For logits `x` (N, classes) and `labels` (N). `workspace` has [`workspace_len`] floats.
pub fn evaluate(out: &Evaluation, x: &Reals, labels: &Buffer<u32>, weight: f32, workspace: &Reals) -> Result<()> {
    let (what, n) = ("cross entropy", labels.len());
    if n == 0 || x.is_empty() || !x.len().is_multiple_of(n) {
        return Err(Error::Shape(format!("{what}: x has {} elements, expected N * classes with N = {n}", x.len())));
    }
    expect_len(what, "statistics", out.statistics.len(), 2)?;
    expect_len(what, "dx", out.dx.len(), x.len())?;
    expect_len(what, "workspace", workspace.len(), workspace_len(n))?;
    let (n32, classes, scale) = (size32(what, n)?, size32(what, x.len() / n)?, weight / n as f32);
    let (losses, correct) = (workspace.view(0..n), workspace.view(n..2 * n));
    let device = x.device();
    let launch = device.launch(kernel::CROSS_ENTROPY_ROWS_F32, [n32.div_ceil(ROWS), 1, 1]);
    let launch = launch.output(out.dx).output(&losses).output(&correct).input(x).input(labels);
    // SAFETY: every length was compared with N and classes above; here and below.
    unsafe { launch.scalar(scale).scalar(n32).scalar(classes).scalar(ROWS).run()? };
    let launch = device.launch(kernel::CROSS_ENTROPY_SUM_F32, [1, 1, 1]);
    // SAFETY: as above.
    unsafe { launch.output(out.statistics).input(&losses).input(&correct).scalar(scale).scalar(n32).run() }
}
