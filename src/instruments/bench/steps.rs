//! Whole training steps of the presets, and the time that each phase of them takes.

use std::time::Instant;

use super::measure::{Settings, median_and_spread, seconds};
use super::rivals::{self, MeasuredRival, settle};
use super::{Ceilings, in_precision};
use crate::Result;
use crate::config::Config;
use crate::data::{DataInfo, ImageShape};
use crate::device::{Device, Precision, traffic};
use crate::gan::{Phase, Preset, Trainer, TrainerOptions, Update};
use crate::nn::Fusion;

/// A preset under one update rule.
pub struct StepProblem {
    pub name: String,
    pub options: TrainerOptions,
}

impl StepProblem {
    /// Grey images for a step, and their labels.
    pub(super) fn batch(&self, trainer: &Trainer) -> (Vec<u8>, Vec<u32>) {
        let labelled = if self.options.draws_points() { 0 } else { trainer.images_per_step() };
        let ImageShape { height, width, channels } = self.options.shape;
        let labels = (0..labelled as u32).map(|i| i % self.options.classes.max(1) as u32).collect();
        (vec![128; labelled * height * width * channels], labels)
    }

    /// The same step with those of `parts` from separate kernels that it has; none where it has none.
    pub fn unfused(&self, parts: &[Fusion]) -> Option<StepProblem> {
        let there = self.options.fusions();
        let unfused: Vec<Fusion> = parts.iter().copied().filter(|part| there.contains(part)).collect();
        let names: Vec<String> = unfused.iter().map(|part| part.to_string()).collect();
        let name = format!("{}, unfused {}", self.name, names.join(" "));
        (!unfused.is_empty()).then(|| StepProblem { name, options: TrainerOptions { unfused, ..self.options.clone() } })
    }
}

#[derive(Clone, Debug)]
pub struct MeasuredStep {
    pub name: String,
    /// Median over the turns.
    pub seconds: f64,
    /// Distance of the quartiles, relative to the median.
    pub spread: f64,
    /// Medians, in the order of [`Phase::ALL`], of steps launched kernel by kernel.
    pub phases: [f64; Phase::ALL.len()],
    pub launches: u64,
    /// That the launches read and wrote, each buffer once a launch.
    pub bytes: u64,
    /// Multiplications and additions of the products.
    pub flops: u64,
    /// Device memory of the whole trainer, in bytes.
    pub memory: usize,
    /// Other ways to do the same step.
    pub rivals: Vec<MeasuredRival>,
}

/// Presets, widths and batches. Those of 64 and 128 pixels are narrowed, so that a CPU does a step within seconds.
const PRESETS: [(Preset, usize, usize); 9] = [
    (Preset::SoftmaxGan, 0, 64),
    (Preset::Ring, 128, 256),
    (Preset::Mnist, 16, 64),
    (Preset::SnganProjection32, 32, 32),
    (Preset::SnganProjection32, 64, 32),
    (Preset::SnganProjection64, 16, 8),
    (Preset::SnganProjection128, 16, 4),
    (Preset::Crcrpar64, 16, 8),
    (Preset::Sagan64, 16, 8),
];

/// Every preset under both rules; the alternating one with the preset's own number of D steps. `tiny` shrinks them to
/// sizes that only try the program.
pub fn steps(tiny: bool) -> Vec<StepProblem> {
    let mut problems = Vec::new();
    for (preset, width, batch) in PRESETS {
        let (width, batch) = if tiny { (4, 2) } else { (width, batch) };
        let config = Config { width, batch, batch_g: None, ..Config::preset(preset) };
        for (update, n_dis) in [(Update::Simultaneous, 1), (Update::Alternating, config.n_dis)] {
            let options = Config { update, n_dis, ..config.clone() }.trainer_options(&data(preset));
            let rule = match update {
                Update::Simultaneous => "simultaneous".to_string(),
                Update::Alternating if n_dis == 1 => "alternating".to_string(),
                Update::Alternating => format!("alternating, n_dis {n_dis}"),
            };
            let width = match preset {
                Preset::SoftmaxGan | Preset::Ring => String::new(),
                _ => format!(" width {width},"),
            };
            problems.push(StepProblem { name: format!("step, {preset},{width} batch {batch}, {rule}"), options });
        }
    }
    problems
}

/// The same in another precision.
pub fn steps_in(precision: Precision, tiny: bool) -> Vec<StepProblem> {
    let with = |StepProblem { name, options }| StepProblem {
        name: in_precision(name, precision),
        options: TrainerOptions { precision, ..options },
    };
    steps(tiny).into_iter().map(with).collect()
}

/// A preset's simultaneous step at one size.
pub(super) fn step_of(preset: Preset, width: usize, batch: usize) -> StepProblem {
    let base = Config::preset(preset);
    let config = Config { width, batch, batch_g: None, update: Update::Simultaneous, n_dis: 1, ..base };
    let name = format!("step, {preset}, width {width}, batch {batch}, simultaneous");
    StepProblem { name, options: config.trainer_options(&data(preset)) }
}

fn data(preset: Preset) -> DataInfo {
    let image = |side, channels| ImageShape { height: side, width: side, channels };
    let shape = match preset {
        Preset::SoftmaxGan | Preset::Mnist => image(28, 1),
        Preset::SnganProjection32 => image(32, 3),
        Preset::SnganProjection64 | Preset::Crcrpar64 | Preset::Sagan64 => image(64, 3),
        Preset::SnganProjection128 => image(128, 3),
        Preset::Ring => crate::data::ring::SHAPE,
    };
    let classes = (0..10).map(|class| class.to_string()).collect();
    DataInfo { name: "grey".into(), images: 1, shape, classes, crc32: String::new() }
}

/// A trainer with grey images for its steps, after some steps that nobody times.
pub struct Stepper {
    trainer: Trainer,
    images: Vec<u8>,
    labels: Vec<u32>,
}

impl Stepper {
    pub fn new(device: &Device, problem: &StepProblem) -> Result<Stepper> {
        let trainer = Trainer::new(device, &problem.options)?;
        let (images, labels) = problem.batch(&trainer);
        let mut stepper = Stepper { trainer, images, labels };
        stepper.run()?;
        stepper.run()?;
        // A step of numbers that are not finite is no step.
        stepper.trainer.metrics()?;
        Ok(stepper)
    }

    /// D's backward pass from now on twice, see [`Trainer::set_two_backwards`].
    pub(super) fn set_two_backwards(&mut self) {
        self.trainer.set_two_backwards(true);
    }

    pub fn run(&mut self) -> Result<()> {
        self.trainer.step(&self.images, &self.labels)
    }

    /// Of each phase, in seconds.
    fn phases(&mut self) -> Result<[f64; Phase::ALL.len()]> {
        Ok(self.trainer.time_step(&self.images, &self.labels)?.map(|time| time.as_secs_f64()))
    }
}

/// Times whole steps, steps phase by phase, and other ways to do them, in turns.
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
    let rivals = rivals.iter().zip(&mut of_rivals).map(|(rival, times)| {
        let (seconds, spread) = median_and_spread(times);
        MeasuredRival { name: rival.name, seconds, spread }
    });
    let (seconds, spread) = median_and_spread(&mut times);
    Ok(MeasuredStep {
        name: problem.name.clone(),
        seconds,
        spread,
        phases: std::array::from_fn(|i| median_and_spread(&mut phases[i]).0),
        launches: after.launches - before.launches,
        bytes: after.bytes - before.bytes,
        flops: after.flops - before.flops,
        memory: Trainer::plan(&problem.options)?.bytes,
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

    /// The name, times in milliseconds, and a line for each other way, with its time by ours.
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

    pub fn json(&self, ceilings: &Ceilings) -> serde_json::Value {
        let phases: serde_json::Map<String, serde_json::Value> = Phase::ALL
            .iter()
            .zip(self.phases)
            .map(|(phase, time)| (phase.name().into(), (time * 1e3).into()))
            .collect();
        serde_json::json!({
            "step": self.name,
            "median_ms": self.seconds * 1e3,
            "spread": self.spread,
            "phases_ms": phases,
            "gflops": self.rate() * 1e-9,
            "of_peak": self.rate() / ceilings.flops,
            "launches": self.launches,
            "bytes": self.bytes,
            "flops": self.flops,
            "memory_bytes": self.memory,
            "others": self.rivals.iter().map(|rival| serde_json::json!({
                "form": rival.name,
                "median_ms": rival.seconds * 1e3,
                "spread": rival.spread,
                "ratio": rival.seconds / self.seconds,
            })).collect::<Vec<_>>(),
        })
    }

    /// As the header `step,median_ms,spread,` then the phases, `gflops,of_peak,launches,bytes,flops,memory_bytes`,
    /// and the other ways as `name: milliseconds; ...`.
    pub fn csv(&self, ceilings: &Ceilings) -> String {
        let phases: String = self.phases.iter().map(|time| format!("{:.5},", time * 1e3)).collect();
        let rivals: Vec<String> = self.rivals.iter().map(|r| format!("{}: {:.5}", r.name, r.seconds * 1e3)).collect();
        format!(
            "\"{}\",{:.5},{:.4},{phases}{:.3},{:.4},{},{},{},{},\"{}\"",
            self.name,
            self.seconds * 1e3,
            self.spread,
            self.rate() * 1e-9,
            self.rate() / ceilings.flops,
            self.launches,
            self.bytes,
            self.flops,
            self.memory,
            rivals.join("; ")
        )
    }

    pub fn csv_header() -> String {
        let phases: String = Phase::ALL.iter().map(|phase| format!("{}_ms,", phase.name().replace(' ', "_"))).collect();
        format!("step,median_ms,spread,{phases}gflops,of_peak,launches,bytes,flops,memory_bytes,others_ms")
    }
}
