//! What the device can do at most: multiply-adds in registers, and copying memory.

use std::time::{Duration, Instant};

use super::measure::{far_larger_than_caches, seconds};
use crate::Result;
use crate::device::{Device, Precision, Reals};
use crate::ops::{elementary, peak};

/// The ceilings of a device, as [`Ceilings::measure`] finds them.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Multiplications and additions a second, f32.
    pub flops: f64,
    /// The same by the units that multiply in each [`Precision`], where it was measured.
    pub peaks: [Option<f64>; Precision::ALL.len()],
    /// Bytes a second that a copy far larger than any cache reads and writes together.
    pub bandwidth: f64,
    /// Bytes of what it copied.
    pub copied: usize,
}

/// Bytes of each of the two buffers of the copy, at least.
const COPIED: usize = 64 << 20;
/// A launch takes at least this many seconds, so that starting it does not count.
const LAUNCH: f64 = 1e-3;

/// Chains of multiply-adds that keep every multiprocessor busy.
struct Chains {
    precision: Precision,
    out: Reals,
    steps: u32,
    /// Of the fastest launch.
    seconds: f64,
}

impl Chains {
    fn new(device: &Device, precision: Precision) -> Result<Chains> {
        let out = device.zeros_in(peak::blocks(device) * peak::per_block(device), precision)?;
        let mut chains = Chains { precision, out, steps: 256, seconds: f64::INFINITY };
        while chains.run(device)? < LAUNCH && chains.steps < 1 << 22 {
            chains.steps *= 2;
        }
        chains.seconds = f64::INFINITY;
        Ok(chains)
    }

    fn run(&mut self, device: &Device) -> Result<f64> {
        let time = seconds(device, || peak::peak(&self.out, self.steps))?;
        self.seconds = self.seconds.min(time);
        Ok(time)
    }

    fn rate(&self) -> f64 {
        let products = self.out.len() as f64 * f64::from(self.steps) * peak::depth(self.precision) as f64;
        2.0 * products / self.seconds
    }
}

impl Ceilings {
    /// Takes turns of everything for a third of a second, and keeps the fastest of each: f32 and these precisions.
    pub fn measure(device: &Device, precisions: &[Precision]) -> Result<Ceilings> {
        let wanted = |precision: &Precision| *precision == Precision::F32 || precisions.contains(precision);
        let chains = Precision::ALL.into_iter().filter(wanted).map(|precision| Chains::new(device, precision));
        let mut chains = chains.collect::<Result<Vec<Chains>>>()?;
        let copied = far_larger_than_caches(device, COPIED)?;
        let [from, to]: [Reals; 2] = [device.zeros(copied / 4)?, device.zeros(copied / 4)?];
        let mut copy = f64::INFINITY;
        let start = Instant::now();
        while copy.is_infinite() || start.elapsed() < Duration::from_millis(350) {
            for chains in &mut chains {
                chains.run(device)?;
            }
            copy = copy.min(seconds(device, || elementary::affine(&to, &from, 1.0, 0.0))?);
        }
        let peaks = Precision::ALL.map(|of| chains.iter().find(|chains| chains.precision == of).map(Chains::rate));
        Ok(Ceilings { flops: chains[0].rate(), peaks, bandwidth: 2.0 * copied as f64 / copy, copied })
    }

    /// Multiplications and additions a second in this precision: those of f32 where its own were not measured.
    pub fn peak(&self, precision: Precision) -> f64 {
        self.peaks[precision as usize].unwrap_or(self.flops)
    }

    /// What is wrong with a rate that is above the peak of its precision, as none can be.
    pub fn exceeded(&self, precision: Precision, rate: f64) -> Option<String> {
        let (found, peak) = (rate * 1e-9, self.peak(precision) * 1e-9);
        let what = "of this run's multiply-adds: one of both was timed wrongly";
        (found > peak).then(|| format!("{found:.1} GFLOP/s in {precision}, more than the {peak:.1} {what}"))
    }

    /// The share of the copy that so many bytes a second are. None where they are more: then they come from a cache.
    pub fn of_copy(&self, rate: f64) -> Option<f64> {
        Some(rate / self.bandwidth).filter(|share| *share <= 1.0)
    }

    /// The precisions that were measured, each with its multiplications and additions a second.
    pub fn peaks(&self) -> impl Iterator<Item = (Precision, f64)> {
        Precision::ALL.into_iter().zip(self.peaks).filter_map(|(precision, peak)| Some((precision, peak?)))
    }
}
