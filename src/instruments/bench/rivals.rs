//! Other ways to do a step, timed in turns with the trainer's own.

use std::time::Duration;

use super::{StepProblem, Stepper};
use crate::Result;
use crate::device::Device;
use crate::gan::{Conditioning, Update};

/// A way to do a step that computes what the trainer's own does.
pub struct Rival {
    pub name: &'static str,
    /// Of another library, whose threads go on looking for work when it is done.
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

/// Of one rival.
#[derive(Clone, Debug)]
pub struct MeasuredRival {
    pub name: &'static str,
    /// Median over the turns.
    pub seconds: f64,
    /// Distance of the quartiles, relative to the median.
    pub spread: f64,
}

/// The name of the trainer's step with two backward passes of D.
pub const TWO_BACKWARDS: &str = "two D backwards";

/// Two backward passes of D in place of the one, where there is one; and another library's steps.
pub fn rivals(device: &Device, problem: &StepProblem) -> Result<Vec<Rival>> {
    let options = &problem.options;
    let mut rivals = Vec::new();
    // Those with unfused parts are beside the same step already.
    if !problem.options.unfused.is_empty() {
        return Ok(rivals);
    }
    if options.update == Update::Simultaneous && options.conditioning != Conditioning::AcGan {
        let mut stepper = Stepper::new(device, problem)?;
        stepper.set_two_backwards();
        rivals.push(Rival::new(TWO_BACKWARDS, false, move || stepper.run()));
    }
    // Its steps are f32.
    #[cfg(feature = "libtorch")]
    if options.precision == crate::device::Precision::F32 {
        rivals.extend(super::libtorch::step(device, problem)?);
        rivals.extend(super::libtorch::reference_step(device, problem)?);
    }
    for rival in &mut rivals {
        rival.run()?;
    }
    Ok(rivals)
}

/// Lets the threads of what ran last fall asleep, so that they do not take the next one's cores: ours look for work for
/// some 50 microseconds, OpenMP's for some 10 milliseconds.
pub(super) fn settle(foreign: bool) {
    std::thread::sleep(Duration::from_millis(if foreign { 20 } else { 1 }));
}
