//! Between f32 and the 16 bits that a step works in.

use super::{expect_len, size32};
use crate::Result;
use crate::device::{Buffer, Variants, kernel};

fn convert(kernel: Variants, y: &Buffer<f32>, x: &Buffer<f32>) -> Result<()> {
    expect_len("convert", "x", x.len(), y.len())?;
    let (n, chunk) = (size32("convert", y.len())?, y.device().tuning().elements as u32);
    let launch = y.device().launch(kernel, [n.div_ceil(chunk), 1, 1]).output(y).input(x);
    // SAFETY: both have n elements, which the grid covers.
    unsafe { launch.scalar(n).scalar(chunk).run() }
}

/// `y`, of 16 bits, is `x`, of f32, rounded to the nearest.
pub fn narrow(y: &Buffer<f32>, x: &Buffer<f32>) -> Result<()> {
    convert(kernel::CONVERT_NARROW, y, x)
}

/// `y`, of f32, is `x`, of 16 bits.
pub fn widen(y: &Buffer<f32>, x: &Buffer<f32>) -> Result<()> {
    convert(kernel::CONVERT_WIDEN, y, x)
}
