//! From f32 to the 16 bits that a step works in, and back.

use super::{elementwise, expect_len};
use crate::Result;
use crate::device::{Buffer, Variants, kernel};

fn convert(kernel: Variants, y: &Buffer<f32>, x: &Buffer<f32>) -> Result<()> {
    expect_len("convert", "x", x.len(), y.len())?;
    let (n, chunk, grid) = elementwise("convert", y)?;
    let launch = y.device().launch(kernel, grid).output(y).input(x);
    // SAFETY: both have n elements, which the grid covers.
    unsafe { launch.scalar(n).scalar(chunk).run() }
}

/// Rounds `x`, in f32, to the nearest numbers of 16 bits, `y`.
pub fn narrow(y: &Buffer<f32>, x: &Buffer<f32>) -> Result<()> {
    convert(kernel::CONVERT_NARROW, y, x)
}

/// The numbers of 16 bits in `x` as f32, in `y`.
pub fn widen(y: &Buffer<f32>, x: &Buffer<f32>) -> Result<()> {
    convert(kernel::CONVERT_WIDEN, y, x)
}
