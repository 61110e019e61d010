//! What a training step keeps on the device: its number, the seed, the learning rates, how many updates were done.

use super::size32;
use crate::Result;
use crate::device::{Buffer, Device, kernel};

/// The mirror of `State` in `kernels/device/state.h`. Index 0 is the generator, 1 the discriminator.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct State {
    /// Steps done.
    pub step: u32,
    /// 1 once a loss was not finite: nothing is updated any more, `step` stays.
    pub halted: u32,
    /// Low and high word.
    pub seed: [u32; 2],
    /// Of the current step.
    pub learning_rate: [f32; 2],
    pub base_rate: [f32; 2],
    /// The rates fall linearly to 0 between these steps; never where they are equal.
    pub decay_start: u32,
    pub decay_end: u32,
    /// Adam updates done.
    pub updates: [u32; 2],
}

/// Whose parameters an update is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Generator = 0,
    Discriminator = 1,
}

impl State {
    /// Before the first step. `base_rate` is the generator's and the discriminator's.
    pub fn new(seed: u64, base_rate: [f32; 2], decay_start: u32, decay_end: u32) -> State {
        State {
            step: 0,
            halted: 0,
            seed: [seed as u32, (seed >> 32) as u32],
            learning_rate: base_rate, // step 0 is never past decay_start
            base_rate,
            decay_start,
            decay_end,
            updates: [0, 0],
        }
    }
}

/// [`State`] on a device.
#[derive(Clone, Debug)]
pub struct StateBuffer(Buffer<u32>);

/// Words of [`State`].
const WORDS: usize = size_of::<State>() / 4;

impl StateBuffer {
    pub fn new(device: &Device, state: &State) -> Result<StateBuffer> {
        let buffer = StateBuffer(device.zeros(WORDS)?);
        buffer.write(state)?;
        Ok(buffer)
    }

    pub fn write(&self, state: &State) -> Result<()> {
        self.0.write(bytemuck::cast_slice(std::slice::from_ref(state)))
    }

    /// Waits for the device.
    pub fn read(&self) -> Result<State> {
        let mut words = [0; WORDS];
        self.0.read_into(&mut words)?;
        Ok(bytemuck::cast(words))
    }

    pub(crate) fn words(&self) -> &Buffer<u32> {
        &self.0
    }
}

/// Halts the training where one of `values` is infinite or NaN.
pub fn check(state: &StateBuffer, values: &Buffer<f32>) -> Result<()> {
    let n = size32("state check", values.len())?;
    let launch = values.device().launch(kernel::STATE_CHECK_F32, [1, 1, 1]).output(state.words()).input(values);
    // SAFETY: a StateBuffer has the words of one State; `values` has n elements.
    unsafe { launch.scalar(n).run() }
}

/// Ends a step, unless halted: counts it, and sets the learning rates of the next.
pub fn advance(state: &StateBuffer) -> Result<()> {
    let launch = state.words().device().launch(kernel::STATE_ADVANCE, [1, 1, 1]).output(state.words());
    // SAFETY: a StateBuffer has the words of one State.
    unsafe { launch.run() }
}
