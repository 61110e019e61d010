//! What the benches of memory-bound operations share: the bandwidth beside which an operation is measured.
#![allow(dead_code)]

use std::time::{Duration, Instant};

use zgan::device::{Buffer, Device, DeviceChoice};
use zgan::ops::elementary;

/// What `--device auto` takes; on the host with as many threads as `ZGAN_BENCH_THREADS` says, else one per core.
pub fn device() -> Device {
    let threads = std::env::var("ZGAN_BENCH_THREADS").map_or(0, |n| n.parse().unwrap());
    let device = Device::open(DeviceChoice::Auto, threads).unwrap().0;
    println!("{}", device.description());
    device
}

/// Of one run, repeated for a third of a millisecond.
pub fn seconds(device: &Device, mut body: impl FnMut()) -> f64 {
    let mut time = |repeat: usize| {
        let start = Instant::now();
        (0..repeat).for_each(|_| body());
        device.synchronize().unwrap();
        start.elapsed().as_secs_f64() / repeat as f64
    };
    let repeat = (3e-4 / time(1)).clamp(1.0, 1000.0) as usize;
    time(repeat)
}

/// The best of many turns.
pub fn best(device: &Device, mut body: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_millis(300) {
        best = best.min(seconds(device, &mut body));
    }
    best
}

/// y = x1 + x2 over buffers that hold as much together as the operation it is compared with, so that both live in the
/// same level of the memory.
struct Triad([Buffer<f32>; 3]);

impl Triad {
    fn new(device: &Device, bytes: usize) -> Triad {
        Triad(std::array::from_fn(|_| device.zeros((bytes / 12).max(1)).unwrap()))
    }

    fn run(&self) {
        elementary::add(&self.0[0], &self.0[1], &self.0[2]).unwrap();
    }

    fn bytes(&self) -> f64 {
        12.0 * self.0[0].len() as f64
    }
}

/// Runs the operation, which moves `bytes` of a working set of `held`, and the triad in turns; prints the best rate and
/// the upper quartile of their ratio in the same turn. Returns the ratio.
pub fn compare(device: &Device, name: &str, bytes: usize, held: usize, mut operation: impl FnMut()) -> f64 {
    let triad = Triad::new(device, held);
    let (mut fastest, mut ratios) = (f64::INFINITY, Vec::new());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(400) {
        let ceiling = triad.bytes() / seconds(device, || triad.run());
        let time = seconds(device, &mut operation);
        fastest = fastest.min(time);
        ratios.push(bytes as f64 / time / ceiling);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() * 3 / 4];
    let rate = bytes as f64 / fastest * 1e-9;
    println!("{name:<44} {:>9.2} us {rate:>7.1} GB/s {:>5.0} % of a triad's", fastest * 1e6, 100.0 * ratio);
    ratio
}

/// The same numbers on every run, between -1 and 1.
pub fn numbers(device: &Device, len: usize, seed: u64) -> Buffer<f32> {
    let mut values = vec![0.0; len];
    zgan::random::Random::new(seed, 0, 0).fill_uniform(&mut values, -1.0, 1.0);
    device.upload(&values).unwrap()
}
