//! What `zgan bench` and the benches of criterion time: every operation at the sizes of the presets, in each of its
//! forms, beside what the machine can do at most, measured in the same run.
//!
//! A [`Problem`] is an operation at one size; its [`Form`]s (fused; from separate kernels; another library's) compute
//! the same, which is checked before anything is timed. They are timed in turns, so that noise meets all of them.

mod cards;
mod ceilings;
#[cfg(feature = "libtorch")]
pub mod libtorch;
mod measure;
mod model;
pub(in crate::instruments) mod operations;
mod report;
mod rivals;
mod scaling;
mod steps;

pub use cards::{CARDS, Card};
pub use ceilings::Ceilings;
pub use measure::{Caches, Measured, Settings, measure};
pub(crate) use measure::{Sweep, median_and_spread, time};
pub use model::{Modelled, Times, model, model_step};
pub use operations::{problems, problems_in};
pub use report::{Row, csv, heading, json, table};
pub use rivals::MeasuredRival;
pub use scaling::{Scaling, exponent, scalings};
pub use steps::{MeasuredStep, StepProblem, Stepper, measure_step, step_heading, steps, steps_in};

use crate::device::{Buffer, Device, Precision};
use crate::random::Random;
use crate::{Error, Result};

/// An operation at one size.
pub struct Problem {
    /// As `kernels/` calls it.
    pub operation: &'static str,
    pub sizes: String,
    /// What its operands are stored as, and its products computed in.
    pub precision: Precision,
    /// Largest difference between two forms' outputs, relative to the largest value of the output.
    pub tolerance: f32,
    /// Its forms, with their buffers: made when they are to run, so that memory holds one problem at a time. The first is
    /// the one that training runs.
    pub make: Make,
}

pub type Make = Box<dyn Fn(&Device) -> Result<Vec<Form>>>;

type Run = Box<dyn Fn() -> Result<()>>;

/// One way to compute a problem.
pub struct Form {
    pub name: &'static str,
    run: Run,
    /// What the forms must agree on, in the same order in each.
    outputs: Vec<Output>,
}

/// Something that a form wrote.
pub enum Output {
    Buffer(Buffer<f32>),
    /// Of another library.
    Read(Box<dyn Fn() -> Vec<f32>>),
}

impl Form {
    /// `outputs` are clones of the buffers that `run` writes to and keeps.
    pub fn new(
        name: &'static str,
        outputs: impl IntoIterator<Item = Buffer<f32>>,
        run: impl Fn() -> Result<()> + 'static,
    ) -> Form {
        Form { name, run: Box::new(run), outputs: outputs.into_iter().map(Output::Buffer).collect() }
    }

    pub fn run(&self) -> Result<()> {
        (self.run)()
    }

    /// Whether it is another library's.
    fn foreign(&self) -> bool {
        matches!(self.outputs.first(), Some(Output::Read(_)))
    }

    /// Runs once, from outputs of zero, and reads them.
    fn results(&self) -> Result<Vec<Vec<f32>>> {
        for output in &self.outputs {
            if let Output::Buffer(buffer) = output {
                buffer.zero()?;
            }
        }
        self.run()?;
        self.outputs
            .iter()
            .map(|output| match output {
                Output::Buffer(buffer) => buffer.read(),
                Output::Read(read) => Ok(read()),
            })
            .collect()
    }
}

impl Problem {
    /// In f32.
    pub fn new(
        operation: &'static str,
        sizes: String,
        tolerance: f32,
        make: impl Fn(&Device) -> Result<Vec<Form>> + 'static,
    ) -> Problem {
        Problem { operation, sizes, precision: Precision::F32, tolerance, make: Box::new(make) }
    }

    /// `operation sizes`, what a filter is compared with; and the precision, where it is not f32.
    pub fn name(&self) -> String {
        in_precision(format!("{} {}", self.operation, self.sizes), self.precision)
    }

    /// That all forms compute the same, and numbers.
    pub fn check(&self, forms: &[Form]) -> Result<()> {
        let mut first: Option<Vec<Vec<f32>>> = None;
        for form in forms {
            let results = form.results()?;
            let wrong = |what: String| Error::Check(format!("{}, {}: {what}", self.name(), form.name));
            if results.iter().flatten().any(|x| !x.is_finite()) {
                return Err(wrong("not every result is a finite number".into()));
            }
            let Some(expected) = &first else {
                first = Some(results);
                continue;
            };
            for (i, (found, expected)) in results.iter().zip(expected).enumerate() {
                let difference = distance(found, expected);
                let off = difference.is_nan() || difference > self.tolerance;
                if off && !(form.foreign() && all_but_a_few_agree(found, expected)) {
                    let tolerance = self.tolerance;
                    return Err(wrong(format!(
                        "output {i} is {difference:.1e} off the first form's, more than {tolerance:.0e}"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// A name, with the precision where it does not go without saying.
fn in_precision(name: String, precision: Precision) -> String {
    if precision == Precision::F32 { name } else { format!("{name}, {precision}") }
}

/// The largest difference, relative to the largest value; NaN where the lengths differ.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    if found.len() != expected.len() {
        return f32::NAN;
    }
    let scale = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let difference = found.iter().zip(expected).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    if difference == 0.0 { 0.0 } else { difference / scale }
}

/// Of many values: that they agree but for some as there are where a ReLU's input lies within rounding of 0. One of a
/// million, and another library takes its other side.
fn all_but_a_few_agree(found: &[f32], expected: &[f32]) -> bool {
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let off = squares(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    found.len() == expected.len() && found.len() > 1000 && off <= 1e-4 * squares(&mut expected.iter().copied())
}

/// The same numbers on every run, between -1 and 1.
pub fn numbers(device: &Device, len: usize, seed: u64) -> Result<Buffer<f32>> {
    numbers_in(device, Precision::F32, len, seed)
}

/// The same, stored in this precision.
pub(crate) fn numbers_in(device: &Device, precision: Precision, len: usize, seed: u64) -> Result<Buffer<f32>> {
    device.upload_in(&values(len, seed), precision)
}

fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Random::new(seed, 0, 0).fill_uniform(&mut values, -1.0, 1.0);
    values
}
