//! `zgan check`: runs every kernel as real thread blocks under the four checkers, over a table of cases, and compares its
//! results with what the host computes.
//!
//! A case is an operation at one shape, written once and run on any device: it takes its inputs and outputs from a
//! [`Tray`]. Outputs and workspaces start as memory that nobody has written. Whatever the order in which threads run, which
//! a schedule seed decides, the results must have the same bits, and must agree with the host's to rounding.

mod elementwise;
mod images;
mod losses;
mod norm;
mod products;
mod profile;
mod tray;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::cores::on_all_cores;
use crate::device::{Convolution, Device, Finding, HAS_CHECK, Precision, Seen, kernel, needs_check};
use crate::{Error, Result};
pub use profile::{Profiled, Profiles, profile};
use tray::{Output, Tray};

type Run = Box<dyn Fn(&mut Tray) -> Result<()> + Send + Sync>;

/// An operation at one shape.
pub struct Case {
    /// The module's name and what the case is: `matmul: forward, 1 x 31 x 33`.
    pub name: String,
    /// Whether it takes too long for every run of the tests: quick runs leave it out.
    pub large: bool,
    /// Whether every row of every matrix begins at a boundary of a GPU's memory accesses. Only then does a profile show
    /// what the kernels, and not the sizes, make of the memory.
    pub aligned: bool,
    /// The precision of activations and their gradients.
    precision: Precision,
    run: Run,
}

/// The table of cases, which the files of this folder fill.
#[derive(Default)]
struct Cases {
    module: String,
    precision: Precision,
    list: Vec<Case>,
}

impl Cases {
    /// Adds a case, small and not aligned unless the caller says otherwise.
    fn add(&mut self, name: String, run: impl Fn(&mut Tray) -> Result<()> + Send + Sync + 'static) -> &mut Case {
        let name = format!("{}: {name}", self.module);
        let last = self.list.len();
        self.list.push(Case { name, large: false, aligned: false, precision: self.precision, run: Box::new(run) });
        &mut self.list[last]
    }

    /// All of them in f32. The other precisions are the same code on other numbers: they get those at the places `some`.
    fn pick<T: Copy>(&self, all: &[T], some: &[usize]) -> Vec<T> {
        match self.precision {
            Precision::F32 => all.to_vec(),
            _ => some.iter().map(|at| all[*at]).collect(),
        }
    }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Cases::default();
    for (file, fill) in [
        ("adam", elementwise::adam as fn(&mut Cases)),
        ("attention", images::attention),
        ("conv", products::conv),
        ("convert", elementwise::convert),
        ("cross_entropy", losses::cross_entropy),
        ("diffaug", images::diffaug),
        ("elementary", elementwise::elementary),
        ("features", images::features),
        ("gradient_penalty", losses::gradient_penalty),
        ("log_partition", losses::log_partition),
        ("losses", losses::losses),
        ("matmul", products::matmul),
        ("norm", norm::norm),
        ("peak", elementwise::peak),
        ("pixels", elementwise::pixels),
        ("projection", images::projection),
        ("random", elementwise::random),
        ("resample", images::resample),
        ("spectral_norm", norm::spectral_norm),
        ("state", elementwise::state),
        ("winograd", products::winograd),
    ] {
        for module in kernel::MODULES.iter().filter(|module| module.file == file) {
            cases.module = module.name.into();
            cases.precision = module.precision;
            fill(&mut cases);
        }
    }
    // Large cases would show nothing new in another precision.
    cases.list.retain(|case| !case.large || case.precision == Precision::F32);
    cases.list
}

/// What is checked, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Part of the name of a case, or of a kernel.
    pub filter: Option<String>,
    pub schedule_seeds: Vec<u64>,
    /// Whether the large cases are left out.
    pub quick: bool,
}

/// What was seen of one kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub cases: usize,
    pub launches: u64,
    pub accesses: u64,
    /// The findings of the checkers, and the cases with wrong results in which the kernel was launched.
    pub findings: usize,
    pub time: Duration,
}

#[derive(Debug, Default)]
pub struct Report {
    /// By the name of the kernel.
    pub kernels: BTreeMap<&'static str, Row>,
    /// Each finding with the name of the case in which it was seen first.
    pub findings: Vec<(String, Finding)>,
    /// Cases that failed, and results that differ from the host's or between schedules: the case, and what is wrong.
    pub differences: Vec<(String, String)>,
    pub cases: usize,
    pub time: Duration,
}

impl Report {
    pub fn clean(&self) -> bool {
        self.findings.is_empty() && self.differences.is_empty()
    }
}

/// Runs a case on a device: gives what it computed, or why it could not.
fn run(case: &Case, device: &Device) -> Result<Vec<Output>> {
    // The two forms of a convolution have cases of their own.
    let form = if case.name.starts_with("winograd:") { Convolution::Winograd } else { Convolution::Direct };
    let device = &device.with_convolution(form);
    let mut tray = Tray::new(device, &case.name, case.precision);
    (case.run)(&mut tray)?;
    tray.finish()
}

/// Runs a case on the host and on `simt` devices that check, one for each schedule. Gives what these saw, and what is wrong
/// with the results.
pub fn check(case: &Case, host: &Device, devices: &[(u64, Device)]) -> (Vec<Seen>, Vec<String>) {
    let mut wrong = Vec::new();
    let expected = match run(case, host) {
        Ok(expected) => expected,
        Err(error) => return (Vec::new(), vec![format!("on the host: {error}")]),
    };
    let mut seen = Vec::new();
    let mut first: Option<Vec<Output>> = None;
    for (seed, device) in devices {
        let found = run(case, device);
        seen.push(device.seen());
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                wrong.push(format!("schedule seed {seed}: {error}"));
                break;
            }
        };
        wrong.extend(expected.iter().zip(&found).filter_map(|(expected, found)| {
            found.difference(expected).map(|difference| format!("schedule seed {seed}: {difference}"))
        }));
        match &first {
            None => first = Some(found),
            Some(first) => {
                wrong.extend(
                    first.iter().zip(&found).filter(|(a, b)| !a.same_bits(b)).map(|(_, b)| {
                        format!("{}: schedule seed {seed} gives other bits than {}", b.name, devices[0].0)
                    }),
                )
            }
        }
    }
    (seen, wrong)
}

/// The cases that have the filter in their name, and those of modules that have a kernel with the filter in its name. It is
/// an error where there are none.
fn select<'a>(all: &'a [Case], filter: &str, quick: bool) -> Result<Vec<&'a Case>> {
    let module = |case: &Case| case.name.split(':').next().unwrap_or("").to_string();
    let has_kernel = |module: &str| {
        let kernels = kernel::MODULES.iter().filter(|m| m.name == module).flat_map(|m| m.kernels);
        kernels.into_iter().any(|kernel| kernel.name.contains(filter))
    };
    let wanted = |case: &&Case| !(quick && case.large) && (case.name.contains(filter) || has_kernel(&module(case)));
    let list: Vec<&Case> = all.iter().filter(wanted).collect();
    if list.is_empty() {
        let modules: BTreeSet<String> = all.iter().map(module).collect();
        let modules: Vec<String> = modules.into_iter().collect();
        return Err(Error::Config(format!("no case has {filter:?} in its name; there are {}", modules.join(", "))));
    }
    Ok(list)
}

/// Runs the cases that the options ask for, on all cores. It is an error where there are none.
pub fn run_all(options: &Options) -> Result<Report> {
    if !HAS_CHECK {
        return Err(needs_check("zgan check"));
    }
    let start = Instant::now();
    let all = cases();
    let list = select(&all, options.filter.as_deref().unwrap_or(""), options.quick)?;
    let open = || {
        let devices: Vec<_> = options.schedule_seeds.iter().map(|seed| (*seed, Device::simt_checked(*seed))).collect();
        Ok((Device::host(1)?, devices))
    };
    let results = on_all_cores(list.len(), open, |(host, devices), at| check(list[at], host, devices))?;
    let mut report = Report { cases: list.len(), ..Report::default() };
    for (case, (seen, differences)) in list.iter().zip(results) {
        report.add(&case.name, seen, differences);
    }
    if let Some(filter) = options.filter.as_deref().filter(|filter| kernel_names().any(|name| name.contains(filter))) {
        report.kernels.retain(|name, _| name.contains(filter));
    }
    report.time = start.elapsed();
    Ok(report)
}

/// The name of every kernel there is.
pub fn kernel_names() -> impl Iterator<Item = &'static str> {
    kernel::MODULES.iter().flat_map(|module| module.kernels.iter().map(|kernel| kernel.name))
}

impl Report {
    fn add(&mut self, case: &str, seen: Vec<Seen>, differences: Vec<String>) {
        let mut launched = BTreeSet::new();
        for Seen { findings, kernels, .. } in seen {
            for (name, tally) in kernels {
                let row = self.kernels.entry(name).or_default();
                row.launches += tally.launches;
                row.accesses += tally.accesses;
                row.time += tally.time;
                row.cases += usize::from(launched.insert(name));
            }
            for finding in findings {
                // Another case or another schedule may have met the same mistake.
                let same = |(_, known): &&mut (String, Finding)| {
                    (known.check, known.kernel, &known.source) == (finding.check, finding.kernel, &finding.source)
                };
                match self.findings.iter_mut().find(same) {
                    Some((_, known)) => known.times += finding.times,
                    None => {
                        self.kernels.entry(finding.kernel).or_default().findings += 1;
                        self.findings.push((case.to_string(), finding));
                    }
                }
            }
        }
        if !differences.is_empty() {
            launched.iter().for_each(|name| self.kernels.entry(name).or_default().findings += 1);
        }
        self.differences.extend(differences.into_iter().map(|difference| (case.to_string(), difference)));
    }
}
