//! The device's own ceiling for products: multiply-adds that touch no memory.

use crate::device::{Device, Precision, Reals, kernel};
use crate::{Error, Result};

/// Runs `steps` dependent steps in each of the `out.len()` chains, a multiple of [`per_block`], on the units that multiply
/// in the precision of `out`. `out[i]` gets the end of the chain that starts from `(i mod per_block) mod 7`. A step is
/// `x -> 0.5 x + 1` in f32, and `x -> x + 1` in the others, as [`depth`] multiply-adds.
pub fn peak(out: &Reals, steps: u32) -> Result<()> {
    let per_block = per_block(out.device());
    if out.is_empty() || !out.len().is_multiple_of(per_block) {
        return Err(Error::Shape(format!("peak: out has {} elements, expected a multiple of {per_block}", out.len())));
    }
    let grid = [(out.len() / per_block) as u32, 1, 1];
    let launch = out.device().launch(kernel::PEAK, grid);
    // SAFETY: the grid has `per_block` elements of `out` for each block.
    unsafe { launch.output(out).scalar(steps).scalar(per_block as u32).run() }
}

/// Chains of one block.
pub fn per_block(device: &Device) -> usize {
    device.fixed().peak_chains
}

/// The blocks of a measurement: eight for each multiprocessor, so that none runs out of work before the others, and enough for
/// many threads of a CPU.
pub fn blocks(device: &Device) -> usize {
    (8 * device.workers()).max(64)
}

/// Multiply-adds of a chain in one step: in other precisions than f32, the depth of one instruction of the tensor cores.
pub fn depth(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 1,
        Precision::Tf32 => 8,
        Precision::Bf16 | Precision::F16 => 16,
    }
}
