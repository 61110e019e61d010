//! What `zgan bench` and the benches of criterion time: every operation at the sizes of the presets, in each of its
//! forms. The most that the machine can do is measured in the same run, and set beside them.
//!
//! A [`Problem`] is an operation at one size. Its [`Form`]s (fused; from separate kernels; another library's) compute the
//! same, which is checked before anything is timed. They are timed in turns, so that noise meets all of them alike.

mod cards;
mod ceilings;
mod chart;
mod compare;
#[cfg(feature = "libtorch")]
pub mod libtorch;
mod measure;
mod model;
pub(in crate::instruments) mod operations;
mod planning;
pub mod provenance;
mod report;
mod rivals;
mod scaling;
mod steps;

pub use cards::{CARDS, Card, CardChoice, IN_A_MACHINE, Link, LinkKind, Multiprocessor, Slowed};
pub use ceilings::Ceilings;
pub use chart::chart;
pub(crate) use compare::NOISY;
pub use compare::{
    Compared, Mean, Timed, beside, busy, compare, comparison_json, comparison_table, markdown, means_of_forms,
    means_table, provenance_lines, tables, times,
};
pub use measure::{Caches, Measured, Settings, measure};
pub(crate) use measure::{Sweep, median_and_spread, time};
pub use model::{Modelled, Times, model, model_step};
pub use operations::{Shapes, problems, problems_in, problems_of};
pub use planning::{End, Growth, MOST_RANKS, Planned, Point, WORTH, plan};
pub use provenance::{load, provenance};
pub use report::{Failure, Report, Row, check_idle, csv, heading, json, load_json, table};
pub use rivals::MeasuredRival;
pub use scaling::{Scaling, exponent, scalings};
pub use steps::{
    MeasuredStep, Scale, Selection, StepProblem, Stepper, measure_step, step_heading, step_of, steps, steps_in,
    steps_of,
};

use crate::device::{Device, Precision, Reals};
use crate::random::Random;
use crate::{Error, Result};

/// An operation at one size.
pub struct Problem {
    /// The name of its file in `kernels/`.
    pub operation: &'static str,
    pub sizes: String,
    /// The precision that its operands are stored in and its products computed in.
    pub precision: Precision,
    /// The largest difference that is allowed between the outputs of two forms, relative to the largest value of an output.
    pub tolerance: f32,
    /// Makes its forms with their buffers. This happens when they are to run, so that memory holds one problem at a time.
    /// The first form is the one that training runs.
    pub make: Make,
}

pub type Make = Box<dyn Fn(&Device) -> Result<Vec<Form>>>;

type Run = Box<dyn Fn() -> Result<()>>;

/// One way to compute a problem.
pub struct Form {
    pub name: &'static str,
    run: Run,
    /// What the forms must agree on; every form has its outputs in the same order.
    outputs: Vec<Output>,
}

/// Something that a form wrote.
pub enum Output {
    Buffer(Reals),
    /// A tensor of another library, read by this function.
    Read(Box<dyn Fn() -> Vec<f32>>),
}

impl Form {
    /// `outputs` are clones of the buffers that `run` writes to and keeps.
    pub fn new(
        name: &'static str,
        outputs: impl IntoIterator<Item = Reals>,
        run: impl Fn() -> Result<()> + 'static,
    ) -> Form {
        Form { name, run: Box::new(run), outputs: outputs.into_iter().map(Output::Buffer).collect() }
    }

    pub fn run(&self) -> Result<()> {
        (self.run)()
    }

    /// Whether another library computes it.
    fn foreign(&self) -> bool {
        matches!(self.outputs.first(), Some(Output::Read(_)))
    }

    /// Sets the outputs to zero, runs once, and reads them.
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
    /// A problem in f32.
    pub fn new(
        operation: &'static str,
        sizes: String,
        tolerance: f32,
        make: impl Fn(&Device) -> Result<Vec<Form>> + 'static,
    ) -> Problem {
        Problem { operation, sizes, precision: Precision::F32, tolerance, make: Box::new(make) }
    }

    /// The operation, its sizes, and the precision where it is not f32: the text that a filter is looked for in.
    pub fn name(&self) -> String {
        in_precision(format!("{} {}", self.operation, self.sizes), self.precision)
    }

    /// An error where a form computes something else than the first one, or anything that is no finite number.
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

/// A name with the precision behind it, unless that is f32.
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

/// Whether many values agree but for a few. Where the input of a ReLU is 0 but for rounding, another library may find it on
/// the other side of 0, and the gradient there is another one. About one value of a million is such a case.
fn all_but_a_few_agree(found: &[f32], expected: &[f32]) -> bool {
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let off = squares(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    found.len() == expected.len() && found.len() > 1000 && off <= 1e-4 * squares(&mut expected.iter().copied())
}

/// Numbers between -1 and 1, the same ones in every run.
pub fn numbers(device: &Device, len: usize, seed: u64) -> Result<Reals> {
    numbers_in(device, Precision::F32, len, seed)
}

/// Such numbers, stored in this precision.
pub(crate) fn numbers_in(device: &Device, precision: Precision, len: usize, seed: u64) -> Result<Reals> {
    device.upload_in(&values(len, seed), precision)
}

fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Random::new(seed, 0, 0).fill_uniform(&mut values, -1.0, 1.0);
    values
}
