//! Times the forms of a problem in turns.

use std::time::{Duration, Instant};

use super::rivals::settle;
use super::{Form, Problem};
use crate::Result;
use crate::device::{Device, Reals, traffic};
use crate::ops::elementary;

/// What lies in the caches when a run starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caches {
    /// Nothing that belongs to the problem: other memory was read and written in between.
    Cold,
    /// Whatever the previous run left there.
    Warm,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub caches: Caches,
    /// How long all forms of a problem are timed together. Each form has three turns even where that takes longer.
    pub time: Duration,
}

/// What was measured of one form.
#[derive(Clone, Debug)]
pub struct Measured {
    pub form: &'static str,
    /// Median over the turns.
    pub seconds: f64,
    /// The distance between the quartiles, relative to the median.
    pub spread: f64,
    pub turns: usize,
    pub launches: u64,
    /// What its launches read and wrote, each buffer counted once a launch; 0 for another library.
    pub bytes: u64,
    /// Multiplications and additions of its products; 0 where it has none, and for another library.
    pub flops: u64,
}

/// Time between two marks in the device's queue, for one run of `body`.
pub(super) fn seconds(device: &Device, body: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = device.event()?;
    body()?;
    Ok(device.event()?.since(&start)?.as_secs_f64())
}

/// A turn of a warm measurement repeats its form until it lasts this many seconds, as reading a clock takes some 30
/// nanoseconds by itself.
const TURN: f64 = 1e-4;
/// 32 MiB a buffer: two of them push everything else out of a core's own cache.
const SWEPT: usize = 1 << 23;

/// Two buffers of which one is copied to the other before a run, so that the caches hold nothing of the problem. There are
/// none where the caches may be warm.
pub(crate) struct Sweep(Option<[Reals; 2]>);

impl Sweep {
    pub(crate) fn new(device: &Device, caches: Caches) -> Result<Sweep> {
        Ok(Sweep(match caches {
            Caches::Warm => None,
            Caches::Cold => Some([device.zeros(SWEPT)?, device.zeros(SWEPT)?]),
        }))
    }

    pub(crate) fn run(&self, device: &Device) -> Result<()> {
        let Some([to, from]) = &self.0 else { return Ok(()) };
        elementary::affine(to, from, 1.0, 0.0)?;
        device.synchronize()
    }
}

/// Makes the forms, checks them against each other, then times them in turns.
pub fn measure(device: &Device, problem: &Problem, settings: Settings) -> Result<Vec<Measured>> {
    let forms = (problem.make)(device)?;
    problem.check(&forms)?;
    time(device, &forms, settings)
}

/// Times forms in turns.
pub(crate) fn time(device: &Device, forms: &[Form], settings: Settings) -> Result<Vec<Measured>> {
    let sweep = Sweep::new(device, settings.caches)?;
    let mut repeats = Vec::new();
    let mut measured = Vec::new();
    for form in forms {
        let before = traffic();
        let once = seconds(device, || form.run())?;
        let after = traffic();
        repeats.push(match settings.caches {
            Caches::Cold => 1,
            Caches::Warm => (TURN / once).clamp(1.0, 10_000.0) as usize,
        });
        measured.push(Measured {
            form: form.name,
            seconds: 0.0,
            spread: 0.0,
            turns: 0,
            launches: after.launches - before.launches,
            bytes: after.bytes - before.bytes,
            flops: after.flops - before.flops,
        });
    }
    let mut times = vec![Vec::new(); forms.len()];
    let mut before = true;
    let foreign = forms.iter().any(Form::foreign);
    let start = Instant::now();
    while times[0].len() < 3 || start.elapsed() < settings.time {
        for ((form, &repeat), times) in forms.iter().zip(&repeats).zip(&mut times) {
            sweep.run(device)?;
            if foreign {
                settle(before);
                before = form.foreign();
            }
            let time = seconds(device, || (0..repeat).try_for_each(|_| form.run()))?;
            times.push(time / repeat as f64);
        }
    }
    for (measured, times) in measured.iter_mut().zip(&mut times) {
        (measured.seconds, measured.spread) = median_and_spread(times);
        measured.turns = times.len();
    }
    Ok(measured)
}

/// The median, and the distance between the quartiles relative to it.
pub(crate) fn median_and_spread(times: &mut [f64]) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |quarter: usize| times[(times.len() - 1) * quarter / 4];
    (at(2), (at(3) - at(1)) / at(2))
}
