//! How the time of a step grows with batch and width, and falls with threads.

use std::time::Instant;

use super::measure::{Settings, seconds};
use super::rivals::{MeasuredRival, Rival, settle};
use super::steps::step_of;
use super::{StepProblem, Stepper};
use crate::Result;
use crate::device::Device;
use crate::settings::Preset;

/// A preset's simultaneous step at several sizes.
pub struct Scaling {
    pub name: String,
    /// What grows: the batch or the width.
    pub axis: &'static str,
    pub sizes: Vec<usize>,
    problem: Box<dyn Fn(usize) -> StepProblem>,
}

/// Both presets for digits with growing batches, and sngan-projection-32 with growing widths at a batch of 8. `tiny` makes
/// all of them small.
pub fn scalings(tiny: bool) -> Result<Vec<Scaling>> {
    let batches = |preset: Preset, width: usize| Scaling {
        name: format!("{preset} against batch"),
        axis: "batch",
        sizes: if tiny { vec![2, 4] } else { vec![16, 32, 64, 128, 256, 512] },
        problem: Box::new(move |batch| step_of(preset, width, batch)),
    };
    let (preset, batch): (Preset, _) = ("sngan-projection-32".parse()?, if tiny { 2 } else { 8 });
    let widths = Scaling {
        name: format!("{preset}, batch {batch}, against width"),
        axis: "width",
        sizes: if tiny { vec![4, 8] } else { vec![32, 48, 64, 96, 128] },
        problem: Box::new(move |width| step_of(preset, width, batch)),
    };
    Ok(vec![batches("softmax-gan".parse()?, 0), batches("mnist".parse()?, if tiny { 4 } else { 16 }), widths])
}

impl Scaling {
    /// Times our step and, where another library is built in, its step as well, in turns. Ours is the first result.
    pub fn measure(&self, device: &Device, size: usize, settings: Settings) -> Result<Vec<MeasuredRival>> {
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
        Ok(forms.iter().zip(&mut times).map(|(form, times)| MeasuredRival::of(form, times)).collect())
    }
}

/// The exponent b of the power law `seconds = a size^b` that fits the logarithms of the points best. One point has none.
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let (mx, my) = (logs.iter().map(|p| p.0).sum::<f64>() / n, logs.iter().map(|p| p.1).sum::<f64>() / n);
    let squares: f64 = logs.iter().map(|p| (p.0 - mx).powi(2)).sum();
    (squares > 0.0).then(|| logs.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum::<f64>() / squares)
}
