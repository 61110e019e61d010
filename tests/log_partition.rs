//! `kernels/log_partition.cu` against an f64 loop, central differences, and the promises of its header.

mod common;

use common::*;
use zgan::device::{Buffer, Device};
use zgan::ops::log_partition::{self, Evaluation};

struct Reference {
    statistics: [f64; 4],
    seed_d: Vec<f64>,
    seed_g: Vec<f64>,
}

fn losses(real: &[f64], fake: &[f64], sign: f64) -> (f64, f64) {
    let all: Vec<f64> = real.iter().chain(fake).map(|x| sign * x).collect();
    let m = all.iter().fold(f64::NEG_INFINITY, |m, x| m.max(-x));
    let l = m + all.iter().map(|x| (-x - m).exp()).sum::<f64>().ln();
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    (mean(&all[..real.len()]) + l, mean(&all) + l)
}

fn reference(real: &[f32], fake: &[f32], sign: f64) -> Reference {
    let (real, fake) = (to_f64(real), to_f64(fake));
    let (n, k) = (real.len() as f64, (real.len() + fake.len()) as f64);
    let (loss_d, loss_g) = losses(&real, &fake, sign);
    let l = loss_d - sign * real.iter().sum::<f64>() / n;
    let p = |x: &f64| (-sign * x - l).exp();
    Reference {
        statistics: [loss_d, loss_g, real.iter().sum::<f64>() / n, fake.iter().sum::<f64>() / fake.len() as f64],
        seed_d: real.iter().map(|x| sign * (1.0 / n - p(x))).chain(fake.iter().map(|x| -sign * p(x))).collect(),
        seed_g: fake.iter().map(|x| sign * (1.0 / k - p(x))).collect(),
    }
}

fn evaluate(device: &Device, real: &[f32], fake: &[f32], sign: f32) -> Evaluation {
    let out = Evaluation {
        statistics: device.zeros(4).unwrap(),
        seed_d: device.zeros(real.len() + fake.len()).unwrap(),
        seed_g: device.zeros(fake.len()).unwrap(),
    };
    let workspace = device.zeros(log_partition::workspace_len(device, real.len() + fake.len())).unwrap();
    let upload = |x: &[f32]| -> Buffer<f32> { device.upload(x).unwrap() };
    log_partition::fused(&out, &upload(real), &upload(fake), sign, &workspace).unwrap();
    out
}

#[test]
fn matches_the_reference_at_any_size() {
    on_each_device(|device| {
        for (n, m) in
            [(1, 1), (1, 31), (33, 1), (64, 64), (31, 1000), (1000, 33), (8000, 191), (8192, 8193), (3, 20_000)]
        {
            for sign in [1.0, -1.0] {
                let mut random = Random((n * 7919 + m) as u64);
                let (real, fake) = (random.normals(n), random.normals(m));
                let expected = reference(&real, &fake, f64::from(sign));
                let out = evaluate(device, &real, &fake, sign);
                assert_close("statistics", &out.statistics, &expected.statistics, 2e-6);
                assert_close("seed_d", &out.seed_d, &expected.seed_d, 2e-6);
                assert_close("seed_g", &out.seed_g, &expected.seed_g, 2e-6);
            }
        }
    });
}
