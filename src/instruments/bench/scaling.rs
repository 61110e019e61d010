//! How the time of a step grows with batch and width, and falls with threads.

use std::time::Instant;

use super::measure::{Settings, median_and_spread, seconds};
use super::rivals::{Rival, settle};
use super::steps::step_of;
use super::{StepProblem, Stepper};
use crate::Result;
use crate::device::Device;
use crate::settings::Preset;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Batch,
    Width,
}

impl Axis {
    pub fn name(self) -> &'static str {
        match self {
            Axis::Batch => "batch",
            Axis::Width => "width",
        }
    }
}

/// A preset's simultaneous step at several sizes.
pub struct Sweep {
    pub name: String,
    pub axis: Axis,
    pub sizes: Vec<usize>,
    problem: Box<dyn Fn(usize) -> StepProblem>,
}

/// One form of a step at one size.
#[derive(Clone, Debug)]
pub struct Timed {
    pub form: &'static str,
    /// Median over the turns.
    pub seconds: f64,
    /// Distance of the quartiles, relative to the median.
    pub spread: f64,
}

/// The two digits' presets against the batch, and the wide one against its width at a batch of 8. `tiny` shrinks all.
pub fn sweeps(tiny: bool) -> Result<Vec<Sweep>> {
    let batches = |preset: Preset, width: usize| Sweep {
        name: format!("{preset} against batch"),
        axis: Axis::Batch,
        sizes: if tiny { vec![2, 4] } else { vec![16, 32, 64, 128, 256, 512] },
        problem: Box::new(move |batch| step_of(preset, width, batch)),
    };
    let (preset, batch): (Preset, _) = ("sngan-projection-32".parse()?, if tiny { 2 } else { 8 });
    let widths = Sweep {
        name: format!("{preset}, batch {batch}, against width"),
        axis: Axis::Width,
        sizes: if tiny { vec![4, 8] } else { vec![32, 48, 64, 96, 128] },
        problem: Box::new(move |width| step_of(preset, width, batch)),
    };
    Ok(vec![batches("softmax-gan".parse()?, 0), batches("mnist".parse()?, if tiny { 4 } else { 16 }), widths])
}

impl Sweep {
    /// Our step first, then another library's, in turns.
    pub fn measure(&self, device: &Device, size: usize, settings: Settings) -> Result<Vec<Timed>> {
        let problem = (self.problem)(size);
        let mut stepper = Stepper::new(device, &problem)?;
        let ours = Rival::new("zgan", false, move || stepper.run());
        #[cfg(feature = "libtorch")]
        let theirs = super::libtorch::step(device, &problem)?;
        #[cfg(not(feature = "libtorch"))]
        let theirs = None;
        let mut forms: Vec<Rival> = [ours].into_iter().chain(theirs).collect();
        forms.iter_mut().try_for_each(Rival::run)?;
        let mut times = vec![Vec::new(); forms.len()];
        let alone = forms.len() == 1;
        let start = Instant::now();
        let mut before = true;
        while times[0].len() < 3 || start.elapsed() < settings.time {
            for (form, times) in forms.iter_mut().zip(&mut times) {
                if !alone {
                    settle(before);
                    before = form.foreign;
                }
                times.push(seconds(device, || form.run())?);
            }
        }
        let timed = forms.iter().zip(&mut times).map(|(form, times)| {
            let (seconds, spread) = median_and_spread(times);
            Timed { form: form.name, seconds, spread }
        });
        Ok(timed.collect())
    }
}

/// The exponent b of the power law `seconds = a size^b` that fits best in logarithms; none of a single point.
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let (mx, my) = (logs.iter().map(|p| p.0).sum::<f64>() / n, logs.iter().map(|p| p.1).sum::<f64>() / n);
    let squares: f64 = logs.iter().map(|p| (p.0 - mx).powi(2)).sum();
    (squares > 0.0).then(|| logs.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum::<f64>() / squares)
}
