//! What the benches of products share: the FMA peak beside which a product is measured, and the table.
#![allow(dead_code)]

use std::time::{Duration, Instant};

use zgan::device::{Buffer, Device, DeviceChoice};
use zgan::ops::peak;

/// What `--device auto` takes; on the host with as many threads as `ZGAN_BENCH_THREADS` says, else one per core.
pub fn device() -> Device {
    let threads = std::env::var("ZGAN_BENCH_THREADS").map_or(0, |n| n.parse().unwrap());
    Device::open(DeviceChoice::Auto, threads).unwrap().0
}

/// Multiply-adds in registers, on every core at once.
pub struct Peak {
    out: Buffer<f32>,
    steps: u32,
}

impl Peak {
    pub fn new(device: &Device) -> Peak {
        let out = device.zeros(64 * peak::per_block(device)).unwrap();
        Peak { out, steps: 1500 }
    }

    fn run(&self) {
        peak::peak(&self.out, self.steps).unwrap();
    }

    fn flops(&self) -> f64 {
        2.0 * self.out.len() as f64 * f64::from(self.steps)
    }
}

fn seconds(device: &Device, mut body: impl FnMut()) -> f64 {
    let start = Instant::now();
    body();
    device.synchronize().unwrap();
    start.elapsed().as_secs_f64()
}

/// Runs the product and the peak in turns, a third of a millisecond each, and prints the best rate and, of all turns,
/// the upper quartile of their ratio to the peak just before: that holds on a machine whose clock and neighbours change.
/// Returns the ratio.
pub fn compare(device: &Device, peak: &Peak, name: &str, flops: f64, mut product: impl FnMut()) -> f64 {
    product();
    let repeat = (3e-4 / seconds(device, &mut product)).clamp(1.0, 1000.0) as usize;
    let (mut best, mut ratios) = (f64::INFINITY, Vec::new());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        let ceiling = peak.flops() / seconds(device, || peak.run());
        let time = seconds(device, || (0..repeat).for_each(|_| product())) / repeat as f64;
        best = best.min(time);
        ratios.push(flops / time / ceiling);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() * 3 / 4];
    println!(
        "{name:<52} {:>9.1} us {:>8.1} GFLOP/s {:>5.1} % of the peak",
        best * 1e6,
        flops / best * 1e-9,
        100.0 * ratio
    );
    ratio
}

/// The same numbers on every run, between -1 and 1.
pub fn numbers(device: &Device, len: usize, seed: u64) -> Buffer<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    device.upload(&values).unwrap()
}
