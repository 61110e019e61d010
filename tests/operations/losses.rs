//! `kernels/losses.cu` against an f64 loop, central differences of it, and PyTorch.

use crate::common::*;
use zgan::device::Device;
use zgan::ops::log_partition::Evaluation;
use zgan::ops::losses::{self, LogitLoss};

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn hinge(x: f64) -> f64 {
    (1.0 + x).max(0.0)
}

fn mean(x: &[f64], f: impl Fn(f64) -> f64) -> f64 {
    x.iter().map(|x| f(*x)).sum::<f64>() / x.len() as f64
}

/// L_D and L_G.
fn values(loss: LogitLoss, real: &[f64], fake: &[f64]) -> (f64, f64) {
    let (r, f) = (mean(real, |x| x), mean(fake, |x| x));
    let softplus_d = mean(real, |x| softplus(-x)) + mean(fake, softplus);
    match loss {
        LogitLoss::Hinge => (mean(real, |x| (1.0 - x).max(0.0)) + mean(fake, |x| (1.0 + x).max(0.0)), -f),
        LogitLoss::NonSaturating => (softplus_d, mean(fake, |x| softplus(-x))),
        LogitLoss::Minimax => (softplus_d, -mean(fake, softplus)),
        LogitLoss::LeastSquares => {
            ((mean(real, |x| (x - 1.0).powi(2)) + mean(fake, |x| x * x)) / 2.0, mean(fake, |x| (x - 1.0).powi(2)) / 2.0)
        }
        LogitLoss::Wasserstein => (f - r, -f),
        LogitLoss::RelativisticAverage => (
            mean(real, |x| softplus(f - x)) + mean(fake, |x| softplus(x - r)),
            mean(real, |x| softplus(x - f)) + mean(fake, |x| softplus(r - x)),
        ),
        LogitLoss::RelativisticHinge => (
            mean(real, |x| hinge(f - x)) + mean(fake, |x| hinge(x - r)),
            mean(real, |x| hinge(x - f)) + mean(fake, |x| hinge(r - x)),
        ),
    }
}

/// Seeds of D and of G, by hand, in f64.
fn seeds(loss: LogitLoss, real: &[f64], fake: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (n, m) = (real.len() as f64, fake.len() as f64);
    let (r, f) = (mean(real, |x| x), mean(fake, |x| x));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (a, b) = (mean(real, |x| sigmoid(f - x)), mean(fake, |x| sigmoid(x - r)));
    let c = mean(real, |x| sigmoid(x - f));
    let active = |x: f64| f64::from(u8::from(x > -1.0));
    let (hard_a, hard_b) = (mean(real, |x| active(f - x)), mean(fake, |x| active(x - r)));
    let hard_c = mean(real, |x| active(x - f));
    let of_real = |x: f64| match loss {
        LogitLoss::Hinge => -f64::from(u8::from(x < 1.0)),
        LogitLoss::NonSaturating | LogitLoss::Minimax => -sigmoid(-x),
        LogitLoss::LeastSquares => x - 1.0,
        LogitLoss::Wasserstein => -1.0,
        LogitLoss::RelativisticAverage => -sigmoid(f - x) - b,
        LogitLoss::RelativisticHinge => -active(f - x) - hard_b,
    };
    let of_fake = |x: f64| match loss {
        LogitLoss::Hinge => (f64::from(u8::from(x > -1.0)), -1.0),
        LogitLoss::NonSaturating => (sigmoid(x), -sigmoid(-x)),
        LogitLoss::Minimax => (sigmoid(x), -sigmoid(x)),
        LogitLoss::LeastSquares => (x, x - 1.0),
        LogitLoss::Wasserstein => (1.0, -1.0),
        LogitLoss::RelativisticAverage => (sigmoid(x - r) + a, -sigmoid(r - x) - c),
        LogitLoss::RelativisticHinge => (active(x - r) + hard_a, -active(r - x) - hard_c),
    };
    let d = real.iter().map(|x| of_real(*x) / n).chain(fake.iter().map(|x| of_fake(*x).0 / m)).collect();
    (d, fake.iter().map(|x| of_fake(*x).1 / m).collect())
}

fn evaluate(device: &Device, real: &[f32], fake: &[f32], loss: LogitLoss) -> Evaluation {
    let out = Evaluation {
        statistics: device.upload(&[f32::NAN; 4]).unwrap(),
        seed_d: device.upload(&vec![f32::NAN; real.len() + fake.len()]).unwrap(),
        seed_g: device.upload(&vec![f32::NAN; fake.len()]).unwrap(),
    };
    losses::fused(&out, &device.upload(real).unwrap(), &device.upload(fake).unwrap(), loss).unwrap();
    out
}

struct Reference {
    statistics: [f64; 4],
    seed_d: Vec<f64>,
    seed_g: Vec<f64>,
}

fn reference(loss: LogitLoss, real: &[f32], fake: &[f32]) -> Reference {
    let (real, fake) = (to_f64(real), to_f64(fake));
    let (d, g) = values(loss, &real, &fake);
    let (seed_d, seed_g) = seeds(loss, &real, &fake);
    Reference { statistics: [d, g, mean(&real, |x| x), mean(&fake, |x| x)], seed_d, seed_g }
}

#[track_caller]
fn compare(what: &str, out: &Evaluation, expected: &Reference, tolerance: f64) {
    assert_close(&format!("{what}: statistics"), &out.statistics, &expected.statistics, tolerance);
    assert_close(&format!("{what}: seed_d"), &out.seed_d, &expected.seed_d, tolerance);
    assert_close(&format!("{what}: seed_g"), &out.seed_g, &expected.seed_g, tolerance);
}

#[track_caller]
fn check(device: &Device, real: &[f32], fake: &[f32], loss: LogitLoss, tolerance: f64) {
    let what = format!("{loss:?}, {} + {}", real.len(), fake.len());
    compare(&what, &evaluate(device, real, fake, loss), &reference(loss, real, fake), tolerance);
}

#[test]
fn the_reference_seeds_are_the_derivatives_of_the_values() {
    let mut random = Random(3);
    let (real, fake) = (to_f64(&random.normals(5)), to_f64(&random.normals(4)));
    for loss in LogitLoss::ALL {
        let (seed_d, seed_g) = seeds(loss, &real, &fake);
        let both: Vec<f64> = real.iter().chain(&fake).copied().collect();
        let d = central_differences(&both, |x| values(loss, &x[..5], &x[5..]).0);
        let g = central_differences(&fake, |x| values(loss, &real, x).1);
        for (found, expected) in seed_d.iter().chain(&seed_g).zip(d.iter().chain(&g)) {
            assert!((found - expected).abs() < 1e-9, "{loss:?}: {found} is not {expected}");
        }
    }
}

#[test]
fn matches_the_reference_at_any_size() {
    on_each_device(|device| {
        for (n, m) in [(1, 1), (1, 31), (33, 1), (64, 64), (31, 1000), (1000, 33)] {
            let mut random = Random((n * 7919 + m) as u64);
            let real: Vec<f32> = random.normals(n).iter().map(|x| 2.0 * x + 0.5).collect();
            let fake: Vec<f32> = random.normals(m).iter().map(|x| 2.0 * x - 0.5).collect();
            for loss in LogitLoss::ALL {
                check(device, &real, &fake, loss, 2e-6);
            }
        }
    });
}

#[test]
fn millions_of_logits_keep_their_digits() {
    let mut random = Random(5);
    let real: Vec<f32> = (0..3_000_000).map(|_| random.uniform() as f32 + 3.0).collect();
    let fake: Vec<f32> = (0..2_000_001).map(|_| random.uniform() as f32 - 3.0).collect();
    for loss in [LogitLoss::NonSaturating, LogitLoss::RelativisticAverage] {
        let expected = reference(loss, &real, &fake);
        on_fast_devices(|device| compare("millions", &evaluate(device, &real, &fake, loss), &expected, 1.5e-6));
    }
}

#[test]
fn extreme_logits_stay_finite_and_right() {
    on_each_device(|device| {
        for (real, fake) in [
            (vec![200.0, 90.0, -1e4], vec![-200.0, 1e4]),
            (vec![1e4], vec![-1e4]),
            (vec![-1e4], vec![1e4, 1e4]),
            (vec![0.0, -0.0], vec![0.0]),
        ] {
            for loss in LogitLoss::ALL {
                check(device, &real, &fake, loss, 1e-6);
            }
        }
        // Where a player has won, its last bits of gradient are still there.
        let out = evaluate(device, &[60.0], &[-60.0], LogitLoss::NonSaturating);
        let expected = (-60.0f64).exp();
        for seed in out.seed_d.read().unwrap() {
            assert!((f64::from(seed.abs()) / expected - 1.0).abs() < 1e-5, "{seed:e}");
        }
    });
}

#[test]
fn matches_pytorch() {
    let golden = Golden::open("losses");
    let (real, fake) = (golden.f32("real"), golden.f32("fake"));
    let names: [&str; LogitLoss::ALL.len()] = [
        "hinge",
        "non_saturating",
        "minimax",
        "least_squares",
        "wasserstein",
        "relativistic_average",
        "relativistic_hinge",
    ];
    on_each_device(|device| {
        for (loss, name) in LogitLoss::ALL.into_iter().zip(names) {
            let out = evaluate(device, &real, &fake, loss);
            assert_close(name, &out.statistics, &golden.f64(&format!("{name}.statistics")), 1e-6);
            assert_close(name, &out.seed_d, &golden.f64(&format!("{name}.seed_d")), 1e-6);
            assert_close(name, &out.seed_g, &golden.f64(&format!("{name}.seed_g")), 1e-6);
        }
    });
}

#[test]
fn refuses_shapes_that_do_not_fit() {
    let device = Device::host(1).unwrap();
    let buffer = |n| device.zeros::<f32>(n).unwrap();
    let out = Evaluation { statistics: buffer(4), seed_d: buffer(3), seed_g: buffer(2) };
    let error = losses::fused(&out, &buffer(2), &buffer(2), LogitLoss::Hinge).unwrap_err().to_string();
    assert_eq!(error, "losses: seed_d has 3 elements, expected 4");
    assert!(losses::fused(&out, &buffer(0), &buffer(2), LogitLoss::Hinge).is_err());
}
