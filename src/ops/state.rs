//! What a training step keeps on the device: its number, the seed, the learning rates, how many updates were done.

use super::{reduction, size32};
use crate::Result;
use crate::device::{Buffer, Device, Reals, kernel};

/// The mirror of `State` in `kernels/device/state.h`. Index 0 is the generator, 1 the discriminator.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct State {
    /// Steps done.
    pub step: u32,
    /// Not 0 once something was not finite: nothing is updated any more, `step` stays. See [`State::halted_by`].
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
    /// What the seeds of the backward passes are multiplied with, and so all gradients: a power of two.
    pub loss_scale: f32,
    /// The loss scale doubles after this many good steps; where this is 0, it stays as it is.
    pub growth_interval: u32,
    /// Steps in a row without an overflow.
    pub good_steps: u32,
    /// Of each network: 0 where its gradients are finite under the present scale.
    pub overflows: [u32; 2],
    /// 1 where there was an overflow in this step.
    pub spoilt: u32,
}

/// Whose parameters an update is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Generator = 0,
    Discriminator = 1,
}

impl State {
    /// The state before the first step. `base_rate` has the generator's rate and the discriminator's.
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
            loss_scale: 1.0,
            growth_interval: 0,
            good_steps: 0,
            overflows: [0, 0],
            spoilt: 0,
        }
    }

    /// The network that halted the training: the norm of its gradient was not finite, or a parameter after its update. None
    /// where it was a loss, or gradients that overflow at every loss scale.
    pub fn halted_by(&self) -> Option<Network> {
        match self.halted {
            2 => Some(Network::Generator),
            3 => Some(Network::Discriminator),
            _ => None,
        }
    }

    /// The same with a loss scale that finds its own size, for gradients in f16; the numbers are PyTorch's.
    pub fn scaled(self) -> State {
        State { loss_scale: 65536.0, growth_interval: 2000, ..self }
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
pub fn check(state: &StateBuffer, values: &Reals) -> Result<()> {
    let n = size32("state check", values.len())?;
    let launch = values.device().launch(kernel::STATE_CHECK_F32, [1, 1, 1]).output(state.words()).input(values);
    // SAFETY: a StateBuffer has the words of one State; `values` has n elements.
    unsafe { launch.scalar(n).run() }
}

/// To be called before seeds are scaled: halves the loss scale where a gradient has overflowed since the last call.
pub fn settle(state: &StateBuffer) -> Result<()> {
    let launch = state.words().device().launch(kernel::STATE_SETTLE, [1, 1, 1]).output(state.words());
    // SAFETY: a StateBuffer has the words of one State.
    unsafe { launch.run() }
}

/// Multiplies `seeds` with the loss scale or, with `of_one`, sets them to it.
pub fn seed(seeds: &Reals, state: &StateBuffer, of_one: bool) -> Result<()> {
    let n = size32("state seed", seeds.len())?;
    let launch = seeds.device().launch(kernel::STATE_SEED_F32, [1, 1, 1]).output(seeds).input(state.words());
    // SAFETY: a StateBuffer has the words of one State; `seeds` has n elements.
    unsafe { launch.scalar(u32::from(of_one)).scalar(n).run() }
}

/// Notes whether a network's gradient is infinite or NaN: then its next update is left out, and the loss scale halved.
pub fn overflow(state: &StateBuffer, gradient: &Reals, network: Network) -> Result<()> {
    let (n, device) = (size32("state overflow", gradient.len())?, gradient.device());
    let (chunk, blocks) = reduction(device, gradient.len());
    let launch = device.launch(kernel::STATE_OVERFLOW_F32, [blocks as u32, 1, 1]).output(state.words());
    // SAFETY: as above; the grid covers the n elements of `gradient`.
    unsafe { launch.input(gradient).scalar(network as u32).scalar(n).scalar(chunk as u32).run() }
}

/// Ends a step, unless halted: counts it, and sets the learning rates of the next.
pub fn advance(state: &StateBuffer) -> Result<()> {
    let launch = state.words().device().launch(kernel::STATE_ADVANCE, [1, 1, 1]).output(state.words());
    // SAFETY: a StateBuffer has the words of one State.
    unsafe { launch.run() }
}
