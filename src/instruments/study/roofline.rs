//! What every kernel of the table of `zgan bench` moves and computes, and the time that it takes.

use std::time::Instant;

use crate::Result;
use crate::device::{Device, Launched, trace};
use crate::instruments::bench::{Ceilings, Problem, Settings, Sweep, median_and_spread};

/// A kernel of one problem; all its launches count together.
#[derive(Clone, Debug)]
pub struct Point {
    pub operation: &'static str,
    /// The sizes of the problem.
    pub sizes: String,
    pub kernel: &'static str,
    pub launches: usize,
    pub bytes: u64,
    /// Operations; none where the kernel only moves data.
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

    /// The time that the machine would need at its ceilings, as a share of the time that the kernel took.
    pub fn share(&self, ceilings: &Ceilings) -> f64 {
        share(self.bytes as f64, self.flops.unwrap_or(0.0), self.seconds, ceilings)
    }
}

/// The time that so many bytes or so many operations would take at the ceilings, whichever is longer, as a share of
/// `seconds`.
pub fn share(bytes: f64, flops: f64, seconds: f64, ceilings: &Ceilings) -> f64 {
    (bytes / ceilings.bandwidth).max(flops / ceilings.flops) / seconds
}

/// The operations of a kernel without products, for each number that it moves: its additions, multiplications and
/// comparisons, counted in its text. An exponential or a logarithm counts as 12, a division or a root as one. There are none
/// for a kernel that computes nothing. (The operations of products are counted when they are launched.)
fn arithmetic(kernel: &str) -> Option<f64> {
    // Where several of these begin the kernel's name, the longest one counts.
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
        ("norm_input_gradient", 2.5),
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
        sweep.run()?;
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
        // A clock may show the same time before and after a short kernel, and no kernel takes no time.
        point.seconds = median_and_spread(&mut turns.iter().map(of).collect::<Vec<f64>>()).0.max(1e-9);
        let counted = point.flops.filter(|flops| *flops > 0.0);
        point.flops = counted.or_else(|| Some(arithmetic(point.kernel)? * point.bytes as f64 / 4.0));
    }
    Ok(points)
}
