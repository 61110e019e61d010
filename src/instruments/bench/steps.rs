//! Whole training steps of the presets, and the time that each phase of them takes.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::measure::{Settings, median_and_spread, seconds};
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
    /// Median over the turns.
    pub seconds: f64,
    /// The distance between the quartiles, relative to the median.
    pub spread: f64,
    /// The medians of the phases, in the order of [`Phase::ALL`], of steps whose kernels are launched one by one.
    pub phases: [f64; Phase::ALL.len()],
    pub launches: u64,
    /// What the launches read and wrote, each buffer counted once a launch.
    pub bytes: u64,
    /// Multiplications and additions of the products.
    pub flops: u64,
    /// Device memory of the whole trainer, in bytes.
    pub memory: usize,
    /// Other ways to do the same step.
    pub rivals: Vec<MeasuredRival>,
}

/// Every preset under both update rules. The alternating rule has the preset's own number of D steps. `tiny` makes sizes
/// that only try the program.
pub fn steps(tiny: bool) -> Vec<StepProblem> {
    let mut problems = Vec::new();
    let sizes = PRESETS.iter().flat_map(|preset| preset.timed.iter().map(move |&size| (*preset, size)));
    for (preset, size) in sizes {
        let (width, batch) = if tiny { (4, 2) } else { size };
        for (update, n_dis) in [(Update::Simultaneous, 1), (Update::Alternating, preset.settings().training.n_dis)] {
            let rule = match update {
                Update::Simultaneous => "simultaneous".to_string(),
                Update::Alternating if n_dis == 1 => "alternating".to_string(),
                Update::Alternating => format!("alternating, n_dis {n_dis}"),
            };
            let shown = if preset.architecture.is_convolutional() { format!(" width {width},") } else { String::new() };
            let name = format!("step, {preset},{shown} batch {batch}, {rule}");
            problems.push(StepProblem { name, setup: setup(preset, width, batch, (update, n_dis)) });
        }
    }
    problems
}

/// The steps of [`steps`] in another precision.
pub fn steps_in(precision: Precision, tiny: bool) -> Vec<StepProblem> {
    let with = |StepProblem { name, setup }| StepProblem {
        name: in_precision(name, precision),
        setup: setup.with(|s| s.training.precision = precision),
    };
    steps(tiny).into_iter().map(with).collect()
}

/// A preset's simultaneous step at one size.
pub(super) fn step_of(preset: Preset, width: usize, batch: usize) -> StepProblem {
    let name = format!("step, {preset}, width {width}, batch {batch}, simultaneous");
    StepProblem { name, setup: setup(preset, width, batch, (Update::Simultaneous, 1)) }
}

/// A preset at one size under one rule, with ten classes of what it is timed on.
fn setup(preset: Preset, width: usize, batch: usize, (update, n_dis): (Update, usize)) -> Setup {
    let classes = (0..10).map(|class| class.to_string()).collect();
    let data = DataInfo { name: "grey".into(), images: 1, shape: preset.sample, classes, crc32: String::new() };
    Setup::new(&preset.settings(), &data).with(|s| {
        s.networks.width = width;
        s.training = Training { batch, batch_g: None, update, n_dis, ..s.training.clone() };
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

    /// Does a step, and gives the seconds that each phase took.
    fn phases(&mut self) -> Result<[f64; Phase::ALL.len()]> {
        Ok(self.trainer.time_step(&self.images, &self.labels)?.map(|time| time.as_secs_f64()))
    }
}

/// Times in turns whole steps, steps phase by phase, and other ways to do them.
pub fn measure_step(device: &Device, problem: &StepProblem, settings: Settings) -> Result<MeasuredStep> {
    let mut stepper = Stepper::new(device, problem)?;
    let before = traffic();
    stepper.phases()?;
    let after = traffic();
    let mut phases = vec![Vec::new(); Phase::ALL.len()];
    let mut times = Vec::new();
    let mut rivals = rivals::rivals(device, problem)?;
    let mut of_rivals = vec![Vec::new(); rivals.len()];
    settle(true);
    let start = Instant::now();
    while times.len() < 3 || start.elapsed() < settings.time {
        times.push(seconds(device, || stepper.run())?);
        for (times, time) in phases.iter_mut().zip(stepper.phases()?) {
            times.push(time);
        }
        for (rival, times) in rivals.iter_mut().zip(&mut of_rivals) {
            settle(false);
            times.push(seconds(device, || rival.run())?);
            settle(rival.foreign);
        }
    }
    let rivals = rivals.iter().zip(&mut of_rivals).map(|(rival, times)| MeasuredRival::of(rival, times));
    let (seconds, spread) = median_and_spread(&mut times);
    Ok(MeasuredStep {
        name: problem.name.clone(),
        seconds,
        spread,
        phases: std::array::from_fn(|i| median_and_spread(&mut phases[i]).0),
        launches: after.launches - before.launches,
        bytes: after.bytes - before.bytes,
        flops: after.flops - before.flops,
        memory: Trainer::plan(&problem.setup)?.bytes,
        rivals: rivals.collect(),
    })
}

/// The heading of [`MeasuredStep::row`].
pub fn step_heading() -> String {
    let phases: String = Phase::ALL.iter().map(|phase| format!("{:>11}", phase.name())).collect();
    format!(
        "{:>9} {:>5}{phases} {:>8} {:>7} {:>8} {:>8} {:>9}",
        "median ms", "+-", "GFLOP/s", "of peak", "launches", "GB moved", "memory MB"
    )
}

impl MeasuredStep {
    fn rate(&self) -> f64 {
        self.flops as f64 / self.seconds
    }

    /// The name, the times in milliseconds, and a line for each other way with its time divided by ours.
    pub fn row(&self, ceilings: &Ceilings) -> String {
        let rivals: String = self
            .rivals
            .iter()
            .map(|rival| {
                let (time, spread, ratio) = (rival.seconds * 1e3, 100.0 * rival.spread, rival.seconds / self.seconds);
                format!("\n{time:>9.2} {spread:>3.0} %   {}: {ratio:.2} times", rival.name)
            })
            .collect();
        let phases: String = self.phases.iter().map(|time| format!("{:>11.2}", time * 1e3)).collect();
        format!(
            "{}\n{:>9.2} {:>3.0} %{phases} {:>8.1} {:>5.0} % {:>8} {:>8.3} {:>9.1}{rivals}",
            self.name,
            self.seconds * 1e3,
            100.0 * self.spread,
            self.rate() * 1e-9,
            100.0 * self.rate() / ceilings.flops,
            self.launches,
            self.bytes as f64 * 1e-9,
            self.memory as f64 * 1e-6
        )
    }

    /// The columns that CSV and JSON share.
    fn record(&self, ceilings: &Ceilings) -> [(&'static str, Cell); 9] {
        [
            ("step", Cell::Text(self.name.clone())),
            ("median_ms", number(self.seconds * 1e3, 5)),
            ("spread", number(self.spread, 4)),
            ("gflops", number(self.rate() * 1e-9, 3)),
            ("of_peak", number(self.rate() / ceilings.flops, 4)),
            ("launches", Cell::Count(self.launches)),
            ("bytes", Cell::Count(self.bytes)),
            ("flops", Cell::Count(self.flops)),
            ("memory_bytes", Cell::Count(self.memory as u64)),
        ]
    }

    /// The columns of CSV, which also have one for each phase, and one for the other ways: `name: milliseconds; ...`.
    pub(super) fn csv_record(&self, ceilings: &Ceilings) -> Vec<(String, Cell)> {
        let mut columns: Vec<_> = self.record(ceilings).map(|(name, cell)| (name.to_string(), cell)).into();
        let phases = Phase::ALL.iter().zip(self.phases);
        let phases = phases.map(|(phase, time)| (phase.name().replace(' ', "_") + "_ms", number(time * 1e3, 5)));
        columns.splice(3..3, phases);
        let rivals: Vec<String> = self.rivals.iter().map(|r| format!("{}: {:.5}", r.name, r.seconds * 1e3)).collect();
        columns.push(("others_ms".into(), Cell::Text(rivals.join("; "))));
        columns
    }

    pub(super) fn json(&self, ceilings: &Ceilings) -> Map<String, Value> {
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
