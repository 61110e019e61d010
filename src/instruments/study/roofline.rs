//! Every kernel that the table of `zgan bench` runs, between what it moves and what it computes.

use std::time::Instant;

use crate::Result;
use crate::device::{Device, Launched, trace};
use crate::instruments::bench::{Ceilings, Problem, Settings, Sweep, median_and_spread};

/// A kernel within one problem, all its launches together.
#[derive(Clone, Debug)]
pub struct Point {
    pub operation: &'static str,
    /// The problem's.
    pub sizes: String,
    pub kernel: &'static str,
    pub launches: usize,
    pub bytes: u64,
    /// None of a kernel that only moves.
    pub flops: Option<f64>,
    /// Median over the turns.
    pub seconds: f64,
}

impl Point {
    /// Operations for each byte.
    pub fn intensity(&self) -> Option<f64> {
        self.flops.map(|flops| flops / self.bytes as f64)
    }

    pub fn bandwidth(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    /// Of the time that it took, what it would take at the nearer of the two ceilings.
    pub fn share(&self, ceilings: &Ceilings) -> f64 {
        share(self.bytes as f64, self.flops.unwrap_or(0.0), self.seconds, ceilings)
    }
}

/// The time that so many bytes and operations would take at the ceilings, the longer of the two, by the time taken.
pub fn share(bytes: f64, flops: f64, seconds: f64, ceilings: &Ceilings) -> f64 {
    (bytes / ceilings.bandwidth).max(flops / ceilings.flops) / seconds
}

/// Of a kernel without products: additions, multiplications, comparisons for each number that it moves, as its text has
/// them; an exponential or a logarithm counts as 12, a division or a root as one. None where it computes nothing.
/// Products are counted as they are launched.
fn arithmetic(kernel: &str) -> Option<f64> {
    // The longest beginning that fits is taken.
    const COUNTS: &[(&str, f64)] = &[
        ("adam_finish", 2.0),
        ("adam_update", 2.8),
        ("conv_sum_parts", 1.0),
        ("log_partition_one", 8.0),
        ("log_partition_partials", 9.0),
        ("log_partition_seeds", 2.0),
        ("losses_", 4.0),
        ("norm_apply", 1.5),
        ("norm_backward_finish", 2.0),
        ("norm_backward_input", 2.5),
        ("norm_backward_sums", 2.5),
        ("norm_moments", 4.0),
        ("norm_statistics", 4.0),
        ("projection_", 2.0),
        ("spectral_norm_", 1.5),
    ];
    let fitting = COUNTS.iter().filter(|(start, _)| kernel.starts_with(start));
    fitting.max_by_key(|(start, _)| start.len()).map(|(_, count)| *count)
}

/// The kernels of a problem's first form, in the order of their first launches.
pub fn measure(device: &Device, problem: &Problem, settings: Settings) -> Result<Vec<Point>> {
    let forms = (problem.make)(device)?;
    let Some(form) = forms.first() else { return Ok(Vec::new()) };
    let sweep = Sweep::new(device, settings.caches)?;
    form.run()?;
    let mut turns: Vec<Vec<Launched>> = Vec::new();
    let start = Instant::now();
    while turns.len() < 3 || start.elapsed() < settings.time {
        sweep.run(device)?;
        let mut launched = trace(|| form.run())?;
        launched.retain(Launched::is_kernel);
        turns.push(launched);
    }
    let mut points: Vec<Point> = Vec::new();
    for launched in &turns[0] {
        if let Some(known) = points.iter_mut().find(|point| point.kernel == launched.kernel) {
            known.launches += 1;
            known.bytes += launched.bytes;
            known.flops = known.flops.map(|flops| flops + launched.flops as f64);
            continue;
        }
        let (operation, sizes) = (problem.operation, problem.sizes.clone());
        let flops = Some(launched.flops as f64);
        let Launched { kernel, bytes, .. } = *launched;
        points.push(Point { operation, sizes, kernel, launches: 1, bytes, flops, seconds: 0.0 });
    }
    for point in &mut points {
        let of = |turn: &Vec<Launched>| turn.iter().filter(|l| l.kernel == point.kernel).map(|l| l.seconds).sum();
        // A clock that stood still would put a kernel beyond every roof.
        point.seconds = median_and_spread(&mut turns.iter().map(of).collect::<Vec<f64>>()).0.max(1e-9);
        let counted = point.flops.filter(|flops| *flops > 0.0);
        point.flops = counted.or_else(|| Some(arithmetic(point.kernel)? * point.bytes as f64 / 4.0));
    }
    Ok(points)
}
