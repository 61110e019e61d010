//! Times the forms of a problem in turns.

use std::time::{Duration, Instant};

use super::rivals::settle;
use super::{Form, Problem};
use crate::Result;
use crate::device::{Device, Graph, Reals, memory, traffic};
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
    /// Runs that a turn times together.
    pub runs_per_turn: usize,
    /// Of one run, as are the bytes and the products.
    pub launches: u64,
    /// What its launches read and wrote, each buffer counted once a launch; 0 for another library.
    pub bytes: u64,
    /// Bytes of all that its launches read and wrote, each byte once; 0 for another library.
    pub memory: u64,
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
/// The same on a GPU, where the start of a graph takes some ten microseconds. A turn has no more runs than these, with warm
/// caches and with cold ones: each run is a part of the graph.
const TURN_OF_GPU: f64 = 1e-3;
const MOST_WARM: f64 = 500.0;
const MOST_COLD: f64 = 20.0;
/// Bytes of each of the two buffers of a sweep, at least: both together push everything else out of a core's own cache.
const SWEPT: usize = 32 << 20;

/// Bytes of a buffer of which two, that are copied one to the other, leave nothing else in the caches: at least `least`, and
/// four times the cache of a GPU, but no more than a quarter of its memory that is free.
pub(super) fn far_larger_than_caches(device: &Device, least: usize) -> Result<usize> {
    let cache = device.gpu().map_or(0, |gpu| gpu.l2);
    let free = device.free_memory()?.unwrap_or(usize::MAX);
    Ok(least.max(4 * cache).min(free / 4).next_multiple_of(size_of::<f32>()))
}

/// Two buffers of which one is copied to the other before a run, so that the caches hold nothing of the problem. There are
/// none where the caches may be warm.
pub(crate) struct Sweep(Option<[Reals; 2]>);

impl Sweep {
    pub(crate) fn new(device: &Device, caches: Caches) -> Result<Sweep> {
        let buffer = || -> Result<Reals> { device.zeros(far_larger_than_caches(device, SWEPT)? / size_of::<f32>()) };
        Ok(Sweep(match caches {
            Caches::Warm => None,
            Caches::Cold => Some([buffer()?, buffer()?]),
        }))
    }

    /// Queues the copy. A GPU is then busy while what comes next is queued, so that no time passes there between two marks
    /// but that of the work.
    pub(crate) fn run(&self) -> Result<()> {
        let Some([to, from]) = &self.0 else { return Ok(()) };
        elementary::affine(to, from, 1.0, 0.0)
    }
}

/// How a turn of a form is timed.
enum Turn {
    /// So many runs, one after the other.
    Runs(usize),
    /// On a GPU: so many runs as one graph, since a short kernel is done before the CPU has launched the next. Where the
    /// caches are to be cold, there is a sweep before each, and a graph of the sweeps alone, whose time does not count.
    Graphs { runs: usize, all: Graph, sweeps: Option<Graph> },
}

impl Settings {
    /// Runs of a form that takes `once` seconds by itself, in one graph.
    pub fn runs_of_graph(self, once: f64) -> usize {
        let most = if self.caches == Caches::Cold { MOST_COLD } else { MOST_WARM };
        (self.time.as_secs_f64().min(TURN_OF_GPU) / once).clamp(1.0, most) as usize
    }

    /// Steps that a turn times together on a GPU, so that three turns of so many ways to do a step, of `once` seconds, end
    /// within the time that is set: at most 100.
    pub fn steps_per_turn(self, once: f64, ways: usize) -> usize {
        (self.time.as_secs_f64() / (3 * ways) as f64 / once).clamp(1.0, 100.0) as usize
    }
}

impl Turn {
    /// `once` is the time that a first run took.
    fn new(device: &Device, form: &Form, sweep: &Sweep, once: f64, settings: Settings) -> Result<Turn> {
        let cold = settings.caches == Caches::Cold;
        if device.gpu().is_none() || form.foreign() {
            return Ok(Turn::Runs(if cold { 1 } else { (TURN / once).clamp(1.0, 10_000.0) as usize }));
        }
        let runs = settings.runs_of_graph(once);
        let graph = |work: &dyn Fn() -> Result<()>| device.capture(|| (0..runs).try_for_each(|_| work()));
        let all = graph(&|| sweep.run().and_then(|()| form.run()))?;
        let sweeps = if cold { graph(&|| sweep.run())? } else { None };
        Ok(all.map_or(Turn::Runs(1), |all| Turn::Graphs { runs, all, sweeps }))
    }

    fn runs(&self) -> usize {
        let (Turn::Runs(runs) | Turn::Graphs { runs, .. }) = self;
        *runs
    }

    /// The seconds that one run takes. Where another library takes turns, `foreign` says whether it was its turn before: its
    /// threads are to sleep when ours sweep, and all forms begin alike, a moment after that.
    fn seconds(&self, device: &Device, form: &Form, sweep: &Sweep, foreign: Option<bool>) -> Result<f64> {
        let time = match self {
            Turn::Runs(runs) => {
                if foreign == Some(true) {
                    settle(true);
                }
                sweep.run()?;
                if foreign.is_some() {
                    settle(false);
                }
                seconds(device, || (0..*runs).try_for_each(|_| form.run()))?
            }
            Turn::Graphs { all, sweeps, .. } => {
                // The GPU is busy while what is timed is queued.
                if sweeps.is_some() {
                    sweep.run()?
                } else {
                    all.launch()?
                }
                let start = device.event()?;
                sweeps.as_ref().map_or(Ok(()), Graph::launch)?;
                let middle = device.event()?;
                all.launch()?;
                let end = device.event()?;
                let time = end.since(&middle)?.as_secs_f64() - middle.since(&start)?.as_secs_f64();
                // Sweeps vary, so that what takes much less may seem to take no time.
                time.max(1e-9)
            }
        };
        Ok(time / self.runs() as f64)
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
    let mut turns = Vec::new();
    let mut measured = Vec::new();
    for form in forms {
        let before = traffic();
        let mut once = 0.0;
        let memory = memory(|| seconds(device, || form.run()).map(|seconds| once = seconds))?;
        let after = traffic();
        turns.push(Turn::new(device, form, &sweep, once, settings)?);
        measured.push(Measured {
            form: form.name,
            seconds: 0.0,
            spread: 0.0,
            turns: 0,
            runs_per_turn: turns[turns.len() - 1].runs(),
            launches: after.launches - before.launches,
            bytes: after.bytes - before.bytes,
            memory,
            flops: after.flops - before.flops,
        });
    }
    let mut times = vec![Vec::new(); forms.len()];
    let mut before = true;
    let foreign = forms.iter().any(Form::foreign);
    let start = Instant::now();
    while times[0].len() < 3 || start.elapsed() < settings.time {
        for ((form, turn), times) in forms.iter().zip(&turns).zip(&mut times) {
            times.push(turn.seconds(device, form, &sweep, foreign.then_some(before))?);
            before = form.foreign();
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
