//! What the device can do at most: multiply-adds in registers, and copying memory.

use std::time::{Duration, Instant};

use super::measure::seconds;
use crate::Result;
use crate::device::{Device, Reals};
use crate::ops::{elementary, peak};

/// The ceilings of a device, as [`Ceilings::measure`] finds them.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Multiplications and additions a second, f32.
    pub flops: f64,
    /// Bytes a second that a copy far larger than any cache reads and writes together.
    pub bandwidth: f64,
}

/// Elements of the copy: two buffers of 64 MiB.
const COPIED: usize = 1 << 24;
const STEPS: u32 = 1500;

impl Ceilings {
    /// Takes turns of both for a third of a second, and keeps the fastest of each.
    pub fn measure(device: &Device) -> Result<Ceilings> {
        let chains: Reals = device.zeros(64 * peak::per_block(device))?;
        let [from, to]: [Reals; 2] = [device.zeros(COPIED)?, device.zeros(COPIED)?];
        let (mut product, mut copy) = (f64::INFINITY, f64::INFINITY);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(350) {
            product = product.min(seconds(device, || peak::peak(&chains, STEPS))?);
            copy = copy.min(seconds(device, || elementary::affine(&to, &from, 1.0, 0.0))?);
        }
        Ok(Ceilings {
            flops: 2.0 * chains.len() as f64 * f64::from(STEPS) / product,
            bandwidth: 8.0 * COPIED as f64 / copy,
        })
    }
}
