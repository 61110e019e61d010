//! Random numbers on the device, which keeps the seed and the step number that they follow from.

use super::state::StateBuffer;
use super::{elementwise, size32};
use crate::data::mixture::Mixture;
use crate::device::{Buffer, Reals, kernel};
use crate::{Error, Result};

/// Uniform between `low` and `high`. The numbers depend on the seed, the step and `stream` alone.
pub fn uniform(out: &Reals, state: &StateBuffer, stream: u32, low: f32, high: f32) -> Result<()> {
    elementwise("random", kernel::RANDOM_UNIFORM, out, [], |launch| {
        launch.input(state.words()).scalar(stream).scalar(low).scalar(high)
    })
}

/// Normal, mean 0 and deviation 1.
pub fn normal(out: &Reals, state: &StateBuffer, stream: u32) -> Result<()> {
    elementwise("random", kernel::RANDOM_NORMAL, out, [], |launch| launch.input(state.words()).scalar(stream))
}

/// Points (n, 2) of a mixture of Gaussians.
pub fn points(out: &Reals, mixture: Mixture, state: &StateBuffer, stream: u32) -> Result<()> {
    if !out.len().is_multiple_of(2) {
        return Err(Error::Shape(format!("random points: out has {} elements, points have 2", out.len())));
    }
    let kernel = match mixture {
        Mixture::Ring => kernel::RANDOM_RING,
        Mixture::Grid => kernel::RANDOM_GRID,
    };
    let n = size32("random points", out.len())? / 2;
    let chunk = (out.device().tuning().elements / 2).max(1) as u32;
    let launch = out.device().launch(kernel, [n.div_ceil(chunk), 1, 1]);
    // SAFETY: `out` has 2 n elements; a StateBuffer has the words of one State.
    unsafe { launch.output(out).input(state.words()).scalar(stream).scalar(n).scalar(chunk).run() }
}

/// Labels from 0 to `classes` - 1, all equally likely.
pub fn labels(out: &Buffer<u32>, state: &StateBuffer, stream: u32, classes: u32) -> Result<()> {
    if classes == 0 {
        return Err(Error::Shape("random labels: 0 classes, at least one is needed".into()));
    }
    elementwise("random", kernel::RANDOM_LABELS, out, [], |launch| {
        launch.input(state.words()).scalar(stream).scalar(classes)
    })
}
