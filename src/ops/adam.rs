//! Adam over a flat buffer, with the moving average and the gradient's norm in the same pass.

use super::state::{Network, StateBuffer};
use super::{expect_len, reduction, size32};
use crate::device::{Device, Reals, kernel};
use crate::{Error, Result};

/// The settings of an optimiser. The learning rate is the [`super::state::State`]'s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    pub beta1: f64,
    pub beta2: f64,
    /// Added outside the root, as in PyTorch.
    pub eps: f32,
}

/// One network's flat buffers, all of one length.
pub struct Buffers<'a> {
    pub parameters: &'a Reals,
    pub first_moment: &'a Reals,
    pub second_moment: &'a Reals,
    pub gradient: &'a Reals,
}

/// A moving average of the parameters; a copy of them for the first `start` updates.
pub struct Average<'a> {
    pub values: &'a Reals,
    pub decay: f32,
    pub start: u32,
}

/// Workspace in floats.
pub fn workspace_len(device: &Device, parameters: usize) -> usize {
    reduction(device, parameters).1
}

/// One update, which `state` counts. `norm` (1) gets the gradient's Euclidean norm, or NaN where a new parameter is not
/// finite; a norm that is not finite halts `state`. Where `state` is halted already, nothing but `norm` changes.
/// `workspace` has [`workspace_len`] floats.
pub fn update(
    buffers: &Buffers,
    average: Option<&Average>,
    norm: &Reals,
    state: &StateBuffer,
    network: Network,
    adam: &Adam,
    workspace: &Reals,
) -> Result<()> {
    let n = buffers.parameters.len();
    let n32 = size32("adam", n)?;
    let device = buffers.parameters.device();
    let (chunk, blocks) = reduction(device, n);
    for (name, buffer) in [
        ("first_moment", buffers.first_moment),
        ("second_moment", buffers.second_moment),
        ("gradient", buffers.gradient),
        ("average", average.map_or(buffers.gradient, |average| average.values)),
    ] {
        expect_len("adam", name, buffer.len(), n)?;
    }
    expect_len("adam", "norm", norm.len(), 1)?;
    expect_len("adam", "workspace", workspace.len(), blocks)?;
    for (name, beta) in [("beta1", adam.beta1), ("beta2", adam.beta2)] {
        if !(0.0..1.0).contains(&beta) {
            return Err(Error::Config(format!("adam: {name} is {beta}, expected 0 or more and less than 1")));
        }
    }
    let launch = device.launch(kernel::ADAM_UPDATE_F32, [blocks as u32, 1, 1]);
    let launch = launch.output(buffers.parameters).output(buffers.first_moment).output(buffers.second_moment);
    let launch = launch.optional_output(average.map(|average| average.values)).output(workspace);
    let launch = launch.input(buffers.gradient).input(state.words()).scalar(network as u32);
    let launch = launch.scalar(adam.beta1.ln() as f32).scalar((1.0 - adam.beta1) as f32);
    let launch = launch.scalar(adam.beta2.ln() as f32).scalar(adam.beta2 as f32).scalar((1.0 - adam.beta2) as f32);
    let (decay, start) = average.map_or((0.0, 0), |average| (average.decay, average.start));
    let launch = launch.scalar(adam.eps).scalar(decay).scalar(start).scalar(n32).scalar(chunk as u32);
    // SAFETY: every buffer was compared with n, the workspace with the number of blocks.
    unsafe { launch.run()? };
    let launch = device.launch(kernel::ADAM_FINISH_F32, [1, 1, 1]).output(norm).output(state.words()).input(workspace);
    // SAFETY: `norm` has one element, the workspace one per block.
    unsafe { launch.scalar(network as u32).scalar(blocks as u32).run() }
}
