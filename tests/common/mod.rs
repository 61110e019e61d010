//! What the tests of operations share: the devices, random numbers, goldens, comparisons.
#![allow(dead_code)]

mod golden;

#[allow(unused_imports)]
pub use golden::Golden;

use std::sync::LazyLock;

use approx::AbsDiffEq;
use half::{bf16, f16};
use zgan::device::{Buffer, Device, HAS_CHECK, Precision, Products, Tuning};

/// Runs one test body on every device here: each instruction set of the host, `simt` under two schedules, and a GPU
/// where there is one. Which GPU, or that there was none, is printed once per test program. With `ZGAN_TEST_ON=gpu` in
/// the environment it runs on the GPU alone, and there must be one. With `ZGAN_TEST_TILE=128x64` all products take that
/// tile that have it. Without the feature `check` it leaves out `simt`.
pub fn on_each_device(body: impl Fn(&Device)) {
    if gpu_alone() {
        return body(gpu().as_ref().unwrap());
    }
    for isa in Device::host_isas() {
        eprintln!("host, {isa}");
        body(&with_tile(Device::host_with_isa(2, isa).unwrap()));
    }
    for schedule_seed in [0, 7] {
        if HAS_CHECK {
            eprintln!("simt, schedule {schedule_seed}");
            body(&with_tile(Device::simt(schedule_seed)));
        }
    }
    on_gpu(body);
}

/// The same without `simt`, for sizes that take real blocks too long.
pub fn on_fast_devices(body: impl Fn(&Device)) {
    if gpu_alone() {
        return body(gpu().as_ref().unwrap());
    }
    for isa in Device::host_isas() {
        eprintln!("host, {isa}");
        body(&with_tile(Device::host_with_isa(2, isa).unwrap()));
    }
    on_gpu(body);
}

/// Runs the body with every tile that products have in each precision, or only with the one that `ZGAN_TEST_TILE` names, and
/// in the precision that `ZGAN_TEST_PRECISION` names.
/// Which tile a product takes otherwise depends on its size and on the device: on a GPU of 132 multiprocessors, most of
/// what is small enough for a test takes the smallest.
pub fn on_each_tile(device: &Device, products: Products, body: impl Fn(&Device, Precision, [usize; 2])) {
    let only = std::env::var("ZGAN_TEST_PRECISION").ok();
    for precision in Precision::ALL {
        if precision != Precision::F32 && !HAS_CHECK || only.as_ref().is_some_and(|only| *only != precision.to_string())
        {
            continue;
        }
        for (rows, columns) in products.sizes_in(precision) {
            let forced = device.tuning().forced_tile;
            if forced.is_none_or(|forced| forced == (rows, columns)) {
                let forced_tile = Some((rows, columns));
                let tuning = Tuning { forced_tile, ..device.tuning().clone() };
                body(&device.with_tuning(tuning).unwrap(), precision, [rows, columns]);
            }
        }
    }
}

/// With the tile that `ZGAN_TEST_TILE` names, where it names one.
fn with_tile(device: Device) -> Device {
    match std::env::var("ZGAN_TEST_TILE") {
        Ok(name) if !name.is_empty() => {
            let tuning = device.tuning().clone().with_forced_tile(&name);
            device.with_tuning(tuning.unwrap_or_else(|e| panic!("ZGAN_TEST_TILE: {e}"))).unwrap()
        }
        _ => device,
    }
}

fn gpu_alone() -> bool {
    std::env::var("ZGAN_TEST_ON").is_ok_and(|on| on == "gpu")
}

/// The first GPU, opened once for the whole program, or why there is none. Each buffer is an allocation of its own, so that
/// compute-sanitizer sees where it ends.
fn gpu() -> &'static Result<Device, String> {
    static GPU: LazyLock<Result<Device, String>> = LazyLock::new(|| {
        let opened =
            Device::cuda(0).map(|device| with_tile(device.with_red_zones())).map_err(|reason| reason.to_string());
        match &opened {
            Ok(device) => println!("also on {}", device.description()),
            Err(reason) => println!("not run on a GPU: {reason}"),
        }
        opened
    });
    &GPU
}

fn on_gpu(body: impl Fn(&Device)) {
    if let Ok(device) = gpu() {
        body(device);
    }
}

/// A small generator for test data (SplitMix64).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number in 0 .. n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal() as f32).collect()
    }
}

/// The seed of what is called `name`: FNV-1a. Goldens of whole networks store no inputs; tests/goldens/resnet.py draws
/// the same ones by the same formulas.
pub fn seed_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// U(middle - bound, middle + bound).
pub fn draw(name: &str, len: usize, (middle, bound): (f64, f64)) -> Vec<f32> {
    let mut random = Random(seed_of(name));
    (0..len).map(|_| (middle + (2.0 * random.uniform() - 1.0) * bound) as f32).collect()
}

/// Whole numbers in 0 .. n.
pub fn draw_below(name: &str, len: usize, n: usize) -> Vec<u32> {
    let mut random = Random(seed_of(name));
    (0..len).map(|_| (random.uniform() * n as f64) as u32).collect()
}

/// Middle and bound of a parameter of a residual network, as `start` in tests/goldens/resnet.py.
pub fn start_of(name: &str, shape: &[usize]) -> (f64, f64) {
    let has = |start: &str| name.split('.').any(|part| part.starts_with(start));
    match *shape {
        _ if has("norm") => (if name.ends_with("weight") { 1.0 } else { 0.0 }, 0.3),
        _ if name.ends_with("gamma") => (0.7, 0.2),
        _ if has("head") => (0.0, 0.25),
        [r, s, c, _] => (0.0, (3.0 / (r * s * c) as f64).sqrt()),
        [c, _] => (0.0, (3.0 / c as f64).sqrt()),
        _ => (0.0, 0.1),
    }
}

/// ||found - expected|| / ||expected||, or over `floor` where that is larger.
pub fn relative_distance(found: &[f32], expected: &[f64], floor: f64) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |of: &mut dyn Iterator<Item = f64>| of.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut found.iter().zip(expected).map(|(f, e)| f64::from(*f) - e));
    off / norm(&mut expected.iter().copied()).max(floor)
}

/// The largest absolute difference over the largest absolute expected value (at least `floor`).
pub fn relative_error(found: &[f32], expected: &[f64], floor: f64) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(floor, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).fold(0.0f64, |m, (f, e)| {
        let d = (f64::from(*f) - e).abs();
        if d.is_nan() { f64::INFINITY } else { m.max(d) }
    });
    worst / scale
}

/// The nearest number that a buffer of this precision can hold.
pub fn stored(precision: Precision, x: f32) -> f32 {
    match precision {
        Precision::F32 | Precision::Tf32 => x,
        Precision::Bf16 => bf16::from_f32(x).to_f32(),
        Precision::F16 => f16::from_f32(x).to_f32(),
    }
}

/// The nearest number that a product in this precision can have as an operand; in tf32 ties go away from zero.
pub fn operand(precision: Precision, x: f32) -> f32 {
    match precision {
        Precision::Tf32 if x.is_finite() => f32::from_bits((x.to_bits() + 0x1000) & 0xffff_e000),
        _ => stored(precision, x),
    }
}

/// How far sums of so many products may be from what is exact because tensor cores round them toward zero, relative to the
/// largest of them.
///
/// A tensor core adds four products or more to a sum at once (Fasi, Higham, Mikaitis and Pranesh, 2021, and Khattak
/// and Mikaitis, 2025, measured V100 to B200): the products are exact; all terms are aligned to the largest of them, and what
/// lies below its last bit, or on newer cores a bit or two below that, is cut off; so is what the result has more than f32. With u =
/// 2^-23, a unit in the last place of a number that is 1, the result loses less than 1 u of the sum, always toward zero, so that
/// the losses of all steps add up, and the sum itself may lose as much again where a product is larger than it. The products lose
/// up to 1 u each, but have both signs, so that this does not add up. That makes 2 u for each four products, K * 2^-24 together:
/// as much as K sums in f32 may lose that are all rounded the same way, while a plain loop, whose roundings have both signs,
/// loses about sqrt(K) * 2^-25.
pub fn cut_off(depth: usize) -> f64 {
    depth.next_multiple_of(4) as f64 / f64::from(1 << 24)
}

/// The same where the products of this device in this precision may be those of tensor cores.
pub fn cut_off_on(device: &Device, precision: Precision, depth: usize) -> f64 {
    if device.execution() == "cuda" && precision != Precision::F32 { cut_off(depth) } else { 0.0 }
}

/// That `found` is at most twice as far from what is exact as `naive` is, of which a rounding of what is stored, and of sums in
/// f32, is allowed anyhow; and what is `cut_off` besides. All three in the order of one tensor.
pub fn at_most_twice(what: &str, stored: Precision, found: &[f32], exact: &[f64], naive: &[f64], cut_off: f64) {
    let naive: Vec<f32> = naive.iter().map(|x| *x as f32).collect();
    let unit = match stored {
        Precision::F32 | Precision::Tf32 => 1e-6,
        Precision::Bf16 => 1.0 / 512.0,
        Precision::F16 => 1.0 / 4096.0,
    };
    let error = relative_error(found, exact, 1e-30);
    let allowed = 2.0 * relative_error(&naive, exact, 1e-30).max(unit) + cut_off;
    assert!(error <= allowed, "{what}: relative error {error:.3e}, {allowed:.3e} allowed");
}

/// That no element is further from what is expected than `tolerance` times the largest value that is expected.
#[track_caller]
pub fn assert_close(name: &str, found: &Buffer<f32>, expected: &[f64], tolerance: f64) {
    let found = found.read().unwrap();
    assert_eq!(found.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(1e-30, |most, x| x.abs().max(most));
    let close = to_f64(&found).abs_diff_eq(expected, tolerance * scale);
    let error = relative_error(&found, expected, 1e-30);
    assert!(close, "{name}: relative error {error:.3e}, at most {tolerance:.1e} allowed");
}

/// The precisions that take 16 bits.
pub const NARROW: [Precision; 2] = [Precision::Bf16, Precision::F16];

/// The nearest numbers that a buffer of this precision can hold.
pub fn rounded(values: &[f32], precision: Precision) -> Vec<f32> {
    values.iter().map(|x| stored(precision, *x)).collect()
}

/// At most twice as far off as the naive version in the buffer's precision: the exact result, rounded. `floor` is allowed
/// besides, for what f32 makes of it on the way.
#[track_caller]
pub fn assert_as_good(name: &str, found: &Buffer<f32>, exact: &[f64], floor: f64) {
    let (precision, found) = (found.precision(), found.read().unwrap());
    assert_eq!(found.len(), exact.len(), "{name}");
    let worst = |values: &mut dyn Iterator<Item = f32>| {
        values.zip(exact).fold(0.0f64, |worst, (value, exact)| {
            let off = (f64::from(value) - exact).abs();
            if off.is_nan() { f64::INFINITY } else { worst.max(off) }
        })
    };
    let naive = worst(&mut exact.iter().map(|x| stored(precision, *x as f32)));
    let error = worst(&mut found.into_iter());
    let allowed = 2.0 * naive + floor;
    assert!(error <= allowed, "{name} in {precision}: off by {error:.3e}, {naive:.3e} when only rounded");
}

/// The bits of these results, to compare them exactly.
pub fn bits<const N: usize>(results: [Buffer<f32>; N]) -> [Vec<u32>; N] {
    results.map(|buffer| buffer.read().unwrap().iter().map(|x| x.to_bits()).collect())
}

/// That this has the same bits however many threads the host has, which decide how work is divided.
pub fn assert_same_on_any_threads<const N: usize>(evaluate: impl Fn(&Device) -> [Buffer<f32>; N]) {
    for isa in Device::host_isas() {
        let on = |threads: usize| bits(evaluate(&Device::host_with_isa(threads, isa).unwrap()));
        let one = on(1);
        for threads in [2, 3, 7] {
            assert!(on(threads) == one, "{isa}: {threads} threads give other bits than one");
        }
    }
}

pub fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// Central differences of `function` at `x`, one coordinate at a time, in f64.
pub fn central_differences(x: &[f64], function: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut at = x.to_vec();
    (0..x.len())
        .map(|i| {
            let h = 1e-5 * x[i].abs().max(1.0);
            at[i] = x[i] + h;
            let above = function(&at);
            at[i] = x[i] - h;
            let below = function(&at);
            at[i] = x[i];
            (above - below) / (2.0 * h)
        })
        .collect()
}
