//! Other ways to do a training step, which are timed in turns with the trainer's own.

use std::time::Duration;

use super::{StepProblem, Stepper, median_and_spread};
use crate::Result;
use crate::device::Device;
use crate::settings::{Conditioning, Update};

/// A way to do a step that computes what the trainer's own does.
pub struct Rival {
    pub name: &'static str,
    /// Whether another library does it, whose threads go on looking for work when the step is done.
    pub foreign: bool,
    run: Box<dyn FnMut() -> Result<()>>,
}

impl Rival {
    pub fn new(name: &'static str, foreign: bool, run: impl FnMut() -> Result<()> + 'static) -> Rival {
        Rival { name, foreign, run: Box::new(run) }
    }

    pub fn run(&mut self) -> Result<()> {
        (self.run)()
    }
}

/// What was measured of one way to do a step.
#[derive(Clone, Debug)]
pub struct MeasuredRival {
    pub name: &'static str,
    /// Median over the turns.
    pub seconds: f64,
    /// The distance between the quartiles, relative to the median.
    pub spread: f64,
}

impl MeasuredRival {
    /// Sums up the times of all turns.
    pub fn of(rival: &Rival, times: &mut [f64]) -> MeasuredRival {
        let (seconds, spread) = median_and_spread(times);
        MeasuredRival { name: rival.name, seconds, spread }
    }
}

/// The name of the trainer's step with two backward passes of D.
pub const TWO_BACKWARDS: &str = "two D backwards";

/// The step with two backward passes of D, where the trainer makes do with one; and the steps of another library.
pub fn rivals(device: &Device, problem: &StepProblem) -> Result<Vec<Rival>> {
    let (networks, training) = (&problem.setup.networks, &problem.setup.training);
    let mut rivals = Vec::new();
    // A step with separate kernels stands below the same step fused, which has been timed beside these.
    if !training.unfused.is_empty() {
        return Ok(rivals);
    }
    if training.update == Update::Simultaneous && networks.conditioning != Conditioning::AcGan {
        let mut stepper = Stepper::new(device, problem)?;
        stepper.set_two_backwards();
        rivals.push(Rival::new(TWO_BACKWARDS, false, move || stepper.run()));
    }
    // The steps of libtorch are written in f32 alone.
    #[cfg(feature = "libtorch")]
    if training.precision() == crate::device::Precision::F32 {
        rivals.extend(super::libtorch::step(device, problem)?);
        rivals.extend(super::libtorch::reference_step(device, problem)?);
    }
    rivals.iter_mut().try_for_each(Rival::run)?;
    Ok(rivals)
}

/// Waits until the threads of what ran last sleep, so that they leave the cores to what runs next. Ours look for work for
/// some 50 microseconds before they sleep; those of another library, by OpenMP, for some 10 milliseconds.
pub(super) fn settle(foreign: bool) {
    std::thread::sleep(Duration::from_millis(if foreign { 20 } else { 1 }));
}
