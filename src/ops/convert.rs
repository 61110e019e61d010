//! From f32 to the 16 bits that a step works in, and back.

use super::elementwise;
use crate::Result;
use crate::device::{Reals, kernel};

/// Rounds `x`, in f32, to the nearest numbers of 16 bits, `y`.
pub fn narrow(y: &Reals, x: &Reals) -> Result<()> {
    elementwise("convert", kernel::CONVERT_NARROW, y, [("x", x)], |launch| launch)
}

/// The numbers of 16 bits in `x` as f32, in `y`.
pub fn widen(y: &Reals, x: &Reals) -> Result<()> {
    elementwise("convert", kernel::CONVERT_WIDEN, y, [("x", x)], |launch| launch)
}
