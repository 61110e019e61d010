//! Whole training steps of the presets, and the time that each phase of them takes.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::measure::{Settings, median_and_spread, seconds};
use super::report::noisy;
use super::rivals::{self, MeasuredRival, settle};
use super::{Ceilings, in_precision};
use crate::Result;
use crate::data::{DataInfo, ImageShape};
use crate::device::{Device, Precision, traffic};
use crate::gan::{Phase, Setup, Trainer};
use crate::instruments::record::{self, Cell, number};
use crate::nn::Fusion;
use crate::settings::{PRESETS, Preset, Training, Update};

/// A preset under one update rule.
pub struct StepProblem {
    pub name: String,
    pub setup: Setup,
}

impl StepProblem {
    /// The grey images of a step, and their labels.
    pub(super) fn batch(&self, trainer: &Trainer) -> (Vec<u8>, Vec<u32>) {
        let labelled = if self.setup.draws_points() { 0 } else { trainer.images_per_step() };
        let ImageShape { height, width, channels } = self.setup.shape;
        let labels = (0..labelled as u32).map(|i| i % self.setup.classes.max(1) as u32).collect();
        (vec![128; labelled * height * width * channels], labels)
    }

    /// What it is, for other programs.
    pub fn record(&self) -> Vec<(&'static str, Cell)> {
        let (networks, training) = (&self.setup.networks, &self.setup.training);
        let has_width = self.setup.architecture().is_convolutional() || self.setup.draws_points();
        let unfused: Vec<String> = training.unfused.iter().map(|part| part.to_string()).collect();
        vec![
            ("preset", Cell::Name(self.setup.preset.name.into())),
            ("update", Cell::Name(format!("{:?}", training.update).to_lowercase())),
            ("n_dis", Cell::Count(training.n_dis as u64)),
            ("width", if has_width { Cell::Count(networks.width as u64) } else { Cell::Number(None, 0) }),
            ("batch", Cell::Count(training.batch as u64)),
            ("batch_g", Cell::Count(training.batch_of_g() as u64)),
            ("precision", Cell::Name(training.precision().name().into())),
            ("unfused", Cell::Name(unfused.join(" "))),
        ]
    }

    /// The same step with `parts` from separate kernels. Parts that the step does not have are left out; there is no such
    /// step where none is left.
    pub fn unfused(&self, parts: &[Fusion]) -> Option<StepProblem> {
        let there = self.setup.fusions();
        let unfused: Vec<Fusion> = parts.iter().copied().filter(|part| there.contains(part)).collect();
        let names: Vec<String> = unfused.iter().map(|part| part.to_string()).collect();
        let name = format!("{}, unfused {}", self.name, names.join(" "));
        (!unfused.is_empty()).then(|| StepProblem { name, setup: self.setup.with(|s| s.training.unfused = unfused) })
    }
}

#[derive(Clone, Debug)]
pub struct MeasuredStep {
    pub name: String,
    /// What [`StepProblem::record`] says of it.
    problem: Vec<(&'static str, Cell)>,
    pub precision: Precision,
    /// Whether a step was one captured graph, as on a GPU; else its kernels were launched one by one.
    pub graph: bool,
    /// Median over the turns, of one step.
    pub seconds: f64,
    /// The distance between the quartiles, relative to the median.
    pub spread: f64,
    pub turns: usize,
    /// Steps that a turn times together.
    pub steps_per_turn: usize,
    /// The median and the spread where its kernels are launched one by one.
    pub launched: (f64, f64),
    /// The medians of the phases, in the order of [`Phase::ALL`], of steps whose kernels are launched one by one.
    pub phases: [f64; Phase::ALL.len()],
    pub launches: u64,
    /// What the launches read and wrote, each buffer counted once a launch.
    pub bytes: u64,
    /// Multiplications and additions of the products.
    pub flops: u64,
    /// Device memory of the whole trainer, in bytes.
    pub memory: usize,
    /// Where several ranks do it together: how many, and the share of its time that the first one spends in exchanges with the
    /// others, waiting for them included (median over the turns).
    pub exchanging: Option<(usize, f64)>,
    /// Other ways to do the same step.
    pub rivals: Vec<MeasuredRival>,
}

/// At what sizes steps are timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Sizes that only try the program.
    Tiny,
    /// A CPU does a step within seconds.
    #[default]
    Small,
    /// Those that a preset trains with.
    Real,
}

impl Scale {
    /// What suits this device.
    pub fn of(device: &Device) -> Scale {
        if device.gpu().is_some() { Scale::Real } else { Scale::Small }
    }
}

/// Which steps are timed.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Each by its own update rule. Where none is named, all presets under both.
    pub presets: Vec<Preset>,
    pub scale: Scale,
    /// Instead of those of the scale.
    pub width: Option<usize>,
    pub batch: Option<usize>,
}

/// Every preset under both update rules. The alternating rule has the preset's own number of D steps. `tiny` makes sizes
/// that only try the program.
pub fn steps(tiny: bool) -> Vec<StepProblem> {
    steps_in(Precision::F32, tiny)
}

/// The steps of [`steps`] in another precision.
pub fn steps_in(precision: Precision, tiny: bool) -> Vec<StepProblem> {
    let scale = if tiny { Scale::Tiny } else { Scale::Small };
    steps_of(&Selection { scale, ..Selection::default() }, precision)
}

/// The steps that are selected.
pub fn steps_of(selection: &Selection, precision: Precision) -> Vec<StepProblem> {
    let named = !selection.presets.is_empty();
    let presets = if named { &selection.presets[..] } else { &PRESETS };
    let mut problems: Vec<StepProblem> = Vec::new();
    for &preset in presets {
        let own = preset.settings();
        let rules = match own.training.update {
            update if named => vec![update],
            _ => vec![Update::Simultaneous, Update::Alternating],
        };
        let timed = if named && preset.timed.is_empty() { &[(8, 2)] } else { preset.timed };
        let sizes = match selection.scale {
            Scale::Tiny => vec![(4, 2); timed.len()],
            Scale::Small => timed.to_vec(),
            Scale::Real => vec![(own.networks.width, own.training.batch)],
        };
        for (width, batch) in sizes {
            let (width, batch) = (selection.width.unwrap_or(width), selection.batch.unwrap_or(batch));
            for &update in &rules {
                // For each real image, as many fakes as the preset has for it; in tables of small sizes, one.
                let several = update == Update::Alternating && (named || selection.scale == Scale::Real);
                let fakes = if several { batch * own.training.batch_of_g() / own.training.batch } else { batch };
                let n_dis = if update == Update::Simultaneous { 1 } else { own.training.n_dis };
                let setup = setup(preset, width, (batch, fakes), (update, n_dis));
                let problem = named_after(setup.with(|s| s.training.precision = precision.into()));
                // Two small sizes may have become one.
                if !named || problems.iter().all(|other| other.name != problem.name) {
                    problems.push(problem);
                }
            }
        }
    }
    problems
}

fn named_after(setup: Setup) -> StepProblem {
    let (preset, training) = (setup.preset, &setup.training);
    let width = if setup.architecture().is_convolutional() {
        format!(" width {},", setup.networks.width)
    } else {
        String::new()
    };
    let fakes = match training.batch_of_g() {
        fakes if fakes == training.batch => String::new(),
        fakes => format!(" ({fakes} fakes)"),
    };
    let rule = match (training.update, training.n_dis) {
        (Update::Simultaneous, _) => "simultaneous".to_string(),
        (Update::Alternating, 1) => "alternating".to_string(),
        (Update::Alternating, n_dis) => format!("alternating, n_dis {n_dis}"),
    };
    let name = format!("step, {preset},{width} batch {}{fakes}, {rule}", training.batch);
    StepProblem { name: in_precision(name, training.precision()), setup }
}

/// A preset's simultaneous step at one size.
pub fn step_of(preset: Preset, width: usize, batch: usize) -> StepProblem {
    named_after(setup(preset, width, (batch, batch), (Update::Simultaneous, 1)))
}

/// A preset at one size under one rule, with ten classes of what it is timed on.
fn setup(preset: Preset, width: usize, (batch, fakes): (usize, usize), (update, n_dis): (Update, usize)) -> Setup {
    let classes = (0..10).map(|class| class.to_string()).collect();
    let (name, shape) = ("grey".into(), preset.sample);
    let data = DataInfo { name, images: 1, shape, classes, vectors: false, crc32: String::new() };
    Setup::new(&preset.settings(), &data).with(|s| {
        s.networks.width = width;
        let batch_g = (fakes != batch).then_some(fakes);
        s.training = Training { batch, batch_g, update, n_dis, ..s.training.clone() };
    })
}

/// A trainer with grey images for its steps. It has done two steps that nobody timed.
pub struct Stepper {
    trainer: Trainer,
    images: Vec<u8>,
    labels: Vec<u32>,
}

impl Stepper {
    pub fn new(device: &Device, problem: &StepProblem) -> Result<Stepper> {
        let trainer = Trainer::new(device, &problem.setup)?;
        let (images, labels) = problem.batch(&trainer);
        let mut stepper = Stepper { trainer, images, labels };
        stepper.run()?;
        stepper.run()?;
        // Numbers that are not finite would make another step than a training has.
        stepper.trainer.metrics()?;
        Ok(stepper)
    }

    /// From now on D has two backward passes, see [`Trainer::set_two_backwards`].
    pub(super) fn set_two_backwards(&mut self) {
        self.trainer.set_two_backwards(true);
    }

    pub fn run(&mut self) -> Result<()> {
        self.trainer.step(&self.images, &self.labels)
    }

    /// Does a step whose kernels are launched one by one.
    fn run_launched(&mut self) -> Result<()> {
        self.trainer.step_launched(&self.images, &self.labels)
    }

    /// Does a step, and gives the seconds that each phase took.
    fn phases(&mut self) -> Result<[f64; Phase::ALL.len()]> {
        Ok(self.trainer.time_step(&self.images, &self.labels)?.map(|time| time.as_secs_f64()))
    }
}

/// Times in turns whole steps, steps phase by phase, and other ways to do them. On a GPU a turn is many steps in a row, so
/// that what the CPU does for the first of them does not count. Ranks that share the batch out take as many turns.
pub fn measure_step(device: &Device, problem: &StepProblem, settings: Settings) -> Result<MeasuredStep> {
    let mut stepper = Stepper::new(device, problem)?;
    let before = traffic();
    stepper.phases()?;
    let after = traffic();
    let mut phases = vec![Vec::new(); Phase::ALL.len()];
    let (mut times, mut launched) = (Vec::new(), Vec::new());
    let mut rivals = rivals::rivals(device, problem)?;
    let mut of_rivals = vec![Vec::new(); rivals.len()];
    let graph = device.gpu().is_some();
    let steps_per_turn = match graph {
        true => {
            device.agree(settings.steps_per_turn(seconds(device, || stepper.run())?, 2 + rivals.len()) as u64)? as usize
        }
        false => 1,
    };
    let turn = |step: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        Ok(seconds(device, || (0..steps_per_turn).try_for_each(|_| step()))? / steps_per_turn as f64)
    };
    let spent = || device.ranks().and_then(|ranks| Some((ranks.ranks(), ranks.spent()?)));
    let mut shares = Vec::new();
    settle(true);
    let start = Instant::now();
    while device.any_rank(times.len() < 3 || start.elapsed() < settings.time)? {
        let before = spent();
        times.push(turn(&mut || stepper.run())?);
        let spent = spent().zip(before).map(|((_, after), (_, before))| (after - before).as_secs_f64());
        shares.extend(spent.map(|spent| spent / (times[times.len() - 1] * steps_per_turn as f64)));
        if graph {
            launched.push(turn(&mut || stepper.run_launched())?);
        }
        for (times, time) in phases.iter_mut().zip(stepper.phases()?) {
            times.push(time);
        }
        for (rival, times) in rivals.iter_mut().zip(&mut of_rivals) {
            settle(false);
            times.push(turn(&mut || rival.run())?);
            settle(rival.foreign);
        }
    }
    let rivals = rivals.iter().zip(&mut of_rivals).map(|(rival, times)| MeasuredRival::of(rival, times));
    let (seconds, spread) = median_and_spread(&mut times);
    Ok(MeasuredStep {
        name: problem.name.clone(),
        problem: problem.record(),
        precision: problem.setup.training.precision(),
        graph,
        seconds,
        spread,
        turns: times.len(),
        steps_per_turn,
        launched: if graph { median_and_spread(&mut launched) } else { (seconds, spread) },
        phases: std::array::from_fn(|i| median_and_spread(&mut phases[i]).0),
        launches: after.launches - before.launches,
        bytes: after.bytes - before.bytes,
        flops: after.flops - before.flops,
        memory: Trainer::plan(&problem.setup, device.ranks().map_or(1, |ranks| ranks.ranks()))?.bytes,
        exchanging: spent().map(|(ranks, _)| (ranks, median_and_spread(&mut shares).0)),
        rivals: rivals.collect(),
    })
}

/// The heading of [`MeasuredStep::row`].
pub fn step_heading() -> String {
    let phases: String = Phase::ALL.iter().map(|phase| format!("{:>11}", phase.name())).collect();
    format!(
        "{:>9} {:>6}{phases} {:>8} {:>7} {:>8} {:>8} {:>9}",
        "median ms", "+-", "GFLOP/s", "of peak", "launches", "GB moved", "memory MB"
    )
}

impl MeasuredStep {
    fn rate(&self) -> f64 {
        self.flops as f64 / self.seconds
    }

    /// What is wrong where it multiplies faster than the machine can.
    pub fn exceeded(&self, ceilings: &Ceilings) -> Option<String> {
        ceilings.exceeded(self.precision, self.rate())
    }

    /// The name, the times in milliseconds, and a line for each other way with its time divided by ours.
    pub fn row(&self, ceilings: &Ceilings) -> String {
        let other = |name: &str, seconds: f64, spread: f64| {
            let (time, spread, ratio) = (seconds * 1e3, 100.0 * spread, seconds / self.seconds);
            format!("\n{time:>9.2} {spread:>3.0} %   {name}: {ratio:.2} times")
        };
        let (seconds, spread) = self.launched;
        let mut rivals = if self.graph { other("launched one by one", seconds, spread) } else { String::new() };
        rivals.extend(self.rivals.iter().map(|rival| other(rival.name, rival.seconds, rival.spread)));
        rivals.extend(self.exchanging.map(|(ranks, share)| {
            let share = 100.0 * share;
            format!("\n{share:>9.0} %        of it in exchanges between {ranks} ranks, waiting included")
        }));
        let phases: String = self.phases.iter().map(|time| format!("{:>11.2}", time * 1e3)).collect();
        format!(
            "{}\n{:>9.2} {:>3.0} %{}{phases} {:>8.1} {:>5.0} % {:>8} {:>8.3} {:>9.1}{rivals}",
            self.name,
            self.seconds * 1e3,
            100.0 * self.spread,
            noisy(self.spread),
            self.rate() * 1e-9,
            100.0 * self.rate() / ceilings.peak(self.precision),
            self.launches,
            self.bytes as f64 * 1e-9,
            self.memory as f64 * 1e-6
        )
    }

    /// The columns that CSV and JSON share.
    fn record(&self, ceilings: &Ceilings) -> Vec<(&'static str, Cell)> {
        let mut columns = vec![
            ("step", Cell::Text(self.name.clone())),
            ("median_ms", number(self.seconds * 1e3, 5)),
            ("spread", number(self.spread, 4)),
            ("gflops", number(self.rate() * 1e-9, 3)),
            ("of_peak", number(self.rate() / ceilings.peak(self.precision), 4)),
            ("launches", Cell::Count(self.launches)),
            ("bytes", Cell::Count(self.bytes)),
            ("flops", Cell::Count(self.flops)),
            ("memory_bytes", Cell::Count(self.memory as u64)),
            ("way", Cell::Name(if self.graph { "graph" } else { "launched" }.into())),
            ("turns", Cell::Count(self.turns as u64)),
            ("steps_per_turn", Cell::Count(self.steps_per_turn as u64)),
            ("launched_ms", number(self.launched.0 * 1e3, 5)),
            ("launched_spread", number(self.launched.1, 4)),
        ];
        if let Some((ranks, share)) = self.exchanging {
            columns.extend([("ranks", Cell::Count(ranks as u64)), ("exchanging", number(share, 4))]);
        }
        columns.extend(self.problem.iter().cloned());
        columns
    }

    /// The columns of CSV, which also have one for each phase, and one for the other ways: `name: milliseconds; ...`.
    pub(super) fn csv_record(&self, ceilings: &Ceilings) -> Vec<(String, Cell)> {
        let record = self.record(ceilings).into_iter();
        let mut columns: Vec<_> = record.map(|(name, cell)| (name.to_string(), cell)).collect();
        let phases = Phase::ALL.iter().zip(self.phases);
        let phases = phases.map(|(phase, time)| (phase.name().replace(' ', "_") + "_ms", number(time * 1e3, 5)));
        columns.splice(3..3, phases);
        let rivals: Vec<String> = self.rivals.iter().map(|r| format!("{}: {:.5}", r.name, r.seconds * 1e3)).collect();
        columns.push(("others_ms".into(), Cell::Text(rivals.join("; "))));
        columns
    }

    /// The columns of CSV, the phases and the other ways as one object.
    pub fn json(&self, ceilings: &Ceilings) -> Map<String, Value> {
        let phases = Phase::ALL.iter().zip(self.phases);
        let phases: Map<_, _> = phases.map(|(phase, time)| (phase.name().into(), (time * 1e3).into())).collect();
        let rivals = self.rivals.iter().map(|rival| {
            json!({
                "form": rival.name,
                "median_ms": rival.seconds * 1e3,
                "spread": rival.spread,
                "ratio": rival.seconds / self.seconds,
            })
        });
        let mut object = record::json(&self.record(ceilings));
        object.insert("phases_ms".into(), phases.into());
        object.insert("others".into(), rivals.collect());
        object
    }
}
