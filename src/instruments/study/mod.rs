//! The study of what fusion buys: ladders from naive to fused, and every kernel under the roofs of the machine.

pub mod conditioning;
mod ladders;
pub mod modes;
pub mod page;
mod roofline;

pub use ladders::{Ladder, Rung, ladders};
pub use page::page;
pub use roofline::{Point, share};

use std::path::Path;

use crate::device::{Device, Launched, trace};
use crate::instruments::bench::{self, Ceilings, Measured, Settings};
use crate::{Result, files};

/// What was measured on one device in one run.
pub struct Study {
    pub device: String,
    pub settings: Settings,
    pub ceilings: Ceilings,
    pub ladders: Vec<MeasuredLadder>,
    pub kernels: Vec<Point>,
}

pub struct MeasuredLadder {
    pub ladder: Ladder,
    pub rungs: Vec<MeasuredRung>,
}

pub struct MeasuredRung {
    pub measured: Measured,
    /// The kernels that it launches, in the order of their first launches, and how often it launches each.
    pub kernels: Vec<(&'static str, usize)>,
}

/// Measures everything. Before the rungs of a ladder are timed, it checks that they compute the same. `tell` gets a line for
/// people when a part is done.
pub fn measure(device: &Device, settings: Settings, tiny: bool, tell: &mut dyn FnMut(String)) -> Result<Study> {
    let ceilings = Ceilings::measure(device, &[])?;
    let mut measured = Vec::new();
    // All rungs share this time, and a median needs more than a few runs of each.
    let long = Settings { time: settings.time.saturating_mul(4), ..settings };
    for ladder in ladders(tiny) {
        let forms = bench::measure(device, &ladder.problem, long)?;
        let mut rungs = Vec::new();
        for (form, measured) in (ladder.problem.make)(device)?.iter().zip(forms) {
            let mut kernels: Vec<(&'static str, usize)> = Vec::new();
            for launched in trace(|| form.run())?.into_iter().filter(Launched::is_kernel) {
                match kernels.iter_mut().find(|(kernel, _)| *kernel == launched.kernel) {
                    Some((_, count)) => *count += 1,
                    None => kernels.push((launched.kernel, 1)),
                }
            }
            rungs.push(MeasuredRung { measured, kernels });
        }
        let times: Vec<String> = rungs.iter().map(|rung| format!("{:.1}", rung.measured.seconds * 1e6)).collect();
        tell(format!("{}: {} us", ladder.problem.name(), times.join(", ")));
        measured.push(MeasuredLadder { ladder, rungs });
    }
    let mut kernels = Vec::new();
    let problems = bench::problems(tiny);
    for problem in &problems {
        kernels.extend(roofline::measure(device, problem, settings)?);
    }
    tell(format!("{} kernels of {} problems", kernels.len(), problems.len()));
    Ok(Study { device: device.description(), settings, ceilings, ladders: measured, kernels })
}

/// Writes a page; the file is then either whole or not there.
pub fn write(path: &Path, page: &str) -> Result<()> {
    files::write_bytes(path, page.as_bytes())
}
