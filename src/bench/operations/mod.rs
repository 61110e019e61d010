//! The operations at the sizes of the presets.

mod logits;
mod memory;
mod products;

#[cfg(feature = "libtorch")]
pub(super) use products::Pass;

use super::Problem;
use crate::Result;
use crate::device::{Buffer, Device};

/// All problems, in the order of the table. `tiny` shrinks them to sizes that only try the program.
pub fn problems(tiny: bool) -> Vec<Problem> {
    let mut problems = logits::problems(tiny);
    problems.extend(memory::problems(tiny));
    problems.extend(products::problems(tiny));
    problems
}

/// Labels 0 .. classes, over and over.
fn labels(device: &Device, n: usize, classes: u32) -> Result<Buffer<u32>> {
    device.upload(&(0..n as u32).map(|i| i % classes).collect::<Vec<u32>>())
}
