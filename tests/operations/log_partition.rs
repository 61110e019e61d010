//! `kernels/log_partition.cu` against an f64 loop, central differences, and the promises of its header.

use crate::common::*;
use zgan::device::{Buffer, Device};
use zgan::ops::log_partition::{self, Evaluation, Game};
use zgan::settings::Loss;

struct Reference {
    statistics: [f64; 4],
    seed_d: Vec<f64>,
    seed_g: Vec<f64>,
}

/// Softmax GAN as published, and the others.
fn games(sign: f32) -> [Game; 5] {
    let game = |real_weight, zero_sum| Game { sign, real_weight, zero_sum };
    [sign.into(), game(1.0, true), game(0.1, false), game(0.1, true), game(3.0, true)]
}

fn losses(real: &[f64], fake: &[f64], game: Game) -> (f64, f64) {
    let (sign, w) = (f64::from(game.sign), f64::from(game.real_weight));
    let of = |logits: &[f64], w: f64| -> Vec<(f64, f64)> { logits.iter().map(|x| (sign * x, w)).collect() };
    let all = [of(real, w), of(fake, 1.0)].concat();
    let m = all.iter().fold(f64::NEG_INFINITY, |m, (x, _)| m.max(-x));
    let l = m + all.iter().map(|(x, w)| w * (-x - m).exp()).sum::<f64>().ln();
    let mean = |all: &[(f64, f64)]| all.iter().map(|(x, w)| w * x).sum::<f64>() / all.iter().map(|x| x.1).sum::<f64>();
    let loss_d = mean(&all[..real.len()]) + l;
    (loss_d, if game.zero_sum { -loss_d } else { mean(&all) + l })
}

fn reference(real: &[f32], fake: &[f32], game: impl Into<Game>) -> Reference {
    let (real, fake, game) = (to_f64(real), to_f64(fake), game.into());
    let (n, sign, w) = (real.len() as f64, f64::from(game.sign), f64::from(game.real_weight));
    let k = w * n + fake.len() as f64;
    let (loss_d, loss_g) = losses(&real, &fake, game);
    let l = loss_d - sign * real.iter().sum::<f64>() / n;
    let p = |x: &f64| (-sign * x - l).exp();
    let of_g = |x: &f64| if game.zero_sum { sign * p(x) } else { sign * (1.0 / k - p(x)) };
    Reference {
        statistics: [loss_d, loss_g, real.iter().sum::<f64>() / n, fake.iter().sum::<f64>() / fake.len() as f64],
        seed_d: real.iter().map(|x| sign * (1.0 / n - w * p(x))).chain(fake.iter().map(|x| -sign * p(x))).collect(),
        seed_g: fake.iter().map(of_g).collect(),
    }
}

#[derive(Clone, Copy)]
enum Form {
    Fused,
    OneLaunch,
    TwoLaunches,
    Plain,
}

fn evaluate_as(form: Form, device: &Device, real: &[f32], fake: &[f32], game: impl Into<Game>) -> Evaluation {
    let (k, game) = (real.len() + fake.len(), game.into());
    let out = Evaluation {
        statistics: device.zeros(4).unwrap(),
        seed_d: device.zeros(k).unwrap(),
        seed_g: device.zeros(fake.len()).unwrap(),
    };
    let upload = |x: &[f32]| -> Buffer<f32> { device.upload(x).unwrap() };
    let (real, fake) = (upload(real), upload(fake));
    match form {
        Form::Fused => {
            let workspace = device.zeros(log_partition::workspace_len(device, k)).unwrap();
            log_partition::fused(&out, &real, &fake, game, &workspace).unwrap();
        }
        Form::OneLaunch => log_partition::one_launch(&out, &real, &fake, game).unwrap(),
        Form::TwoLaunches => {
            let workspace = device.zeros(log_partition::two_launches_workspace_len(device, k)).unwrap();
            log_partition::two_launches(&out, &real, &fake, game, &workspace).unwrap();
        }
        Form::Plain => {
            let workspace = device.zeros(log_partition::unfused_workspace_len(device, k)).unwrap();
            log_partition::unfused(&out, &real, &fake, game, &workspace).unwrap();
        }
    }
    out
}

fn evaluate(device: &Device, real: &[f32], fake: &[f32], game: impl Into<Game>) -> Evaluation {
    evaluate_as(Form::Fused, device, real, fake, game)
}

const SIZES: [(usize, usize); 9] =
    [(1, 1), (1, 31), (33, 1), (64, 64), (31, 1000), (1000, 33), (8000, 191), (8192, 8193), (3, 20_000)];

#[test]
fn all_forms_match_the_reference_at_any_size() {
    on_each_device(|device| {
        for (n, m) in SIZES {
            let forms = [Form::Fused, Form::OneLaunch, Form::TwoLaunches, Form::Plain];
            let mut random = Random((n * 7919 + m) as u64);
            let (real, fake) = (random.normals(n), random.normals(m));
            for game in [games(1.0), games(-1.0)].concat() {
                let expected = reference(&real, &fake, game);
                for form in forms {
                    let out = evaluate_as(form, device, &real, &fake, game);
                    assert_close("statistics", &out.statistics, &expected.statistics, 2e-6);
                    assert_close("seed_d", &out.seed_d, &expected.seed_d, 2e-6);
                    assert_close("seed_g", &out.seed_g, &expected.seed_g, 2e-6);
                }
            }
        }
    });
}

#[test]
fn the_reference_gradients_are_central_differences() {
    let mut random = Random(11);
    for (n, m) in [(1, 1), (3, 5), (7, 2)] {
        for game in [games(1.0), games(-1.0)].concat() {
            let logits = to_f64(&random.normals(n + m));
            let single: Vec<f32> = logits.iter().map(|x| *x as f32).collect();
            let expected = reference(&single[..n], &single[n..], game);
            let d = central_differences(&logits, |x| losses(&x[..n], &x[n..], game).0);
            let g = central_differences(&logits, |x| losses(&x[..n], &x[n..], game).1);
            for (found, expected) in expected.seed_d.iter().zip(&d).chain(expected.seed_g.iter().zip(&g[n..])) {
                assert!((found - expected).abs() < 1e-9, "{found}, by differences {expected}");
            }
        }
    }
}

#[test]
fn matches_pytorch() {
    let golden = Golden::open("log_partition");
    on_each_device(|device| {
        let names = ["", "zero-sum.1.0.", "uniform.0.1.", "zero-sum.0.1.", "zero-sum.3.0."];
        for ((name, game), form) in names.iter().zip(games(1.0)).flat_map(|of| [(of, Form::Fused), (of, Form::Plain)]) {
            let out = evaluate_as(form, device, &golden.f32("real"), &golden.f32("fake"), game);
            let of = |what: &str| golden.f64(&format!("{name}{what}"));
            assert_close("statistics", &out.statistics, &of("statistics"), 1e-6);
            assert_close("seed_d", &out.seed_d, &of("seed_d"), 1e-6);
            assert_close("seed_g", &out.seed_g, &of("seed_g"), 1e-6);
        }
    });
}

/// On a grid of 2^-10 an offset of 1e4 is added without rounding, so nothing but the mean logits may change.
#[test]
fn an_offset_common_to_all_logits_changes_no_bit() {
    on_each_device(|device| {
        for (n, m) in SIZES {
            let mut random = Random(n as u64);
            let grid = |x: Vec<f32>| -> Vec<f32> { x.iter().map(|x| (x * 1024.0).round() / 1024.0).collect() };
            let (real, fake) = (grid(random.normals(n)), grid(random.normals(m)));
            for (game, offset) in games(1.0).into_iter().flat_map(|game| [(game, 1e4), (game, -1e4)]) {
                let base = evaluate(device, &real, &fake, game);
                let moved = |x: &[f32]| -> Vec<f32> { x.iter().map(|x| x + offset).collect() };
                let out = evaluate(device, &moved(&real), &moved(&fake), game);
                assert_eq!(out.seed_d.read().unwrap(), base.seed_d.read().unwrap());
                assert_eq!(out.seed_g.read().unwrap(), base.seed_g.read().unwrap());
                let (found, unmoved) = (out.statistics.read().unwrap(), base.statistics.read().unwrap());
                assert_eq!(found[..2], unmoved[..2], "the losses");
                for i in [2, 3] {
                    assert!((found[i] - (unmoved[i] + offset)).abs() <= 1e-3, "a mean logit is moved by the offset");
                }
            }
        }
    });
}

fn sum(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x)).sum()
}

#[test]
fn the_gradients_sum_to_what_they_must() {
    on_each_device(|device| {
        for (n, m) in SIZES {
            let mut random = Random(m as u64);
            let (real, fake) = (random.normals(n), random.normals(m));
            for game in games(1.0) {
                let out = evaluate(device, &real, &fake, game);
                let (seed_d, seed_g) = (out.seed_d.read().unwrap(), out.seed_g.read().unwrap());
                assert!(sum(&seed_d).abs() < 1e-6, "{n} + {m}: D's sum to {}", sum(&seed_d));
                let q = -sum(&seed_d[n..]);
                let expected = if game.zero_sum { q } else { m as f64 / game.weight(n, m) - q };
                let found = sum(&seed_g);
                assert!((found - expected).abs() < 1e-6, "{n} + {m}, {game:?}: G's sum to {found}, not {expected}");
            }
        }
    });
}

#[test]
fn at_equal_logits_both_losses_are_the_logarithm_of_their_weight() {
    on_each_device(|device| {
        for (n, m) in SIZES {
            for (game, logit) in games(1.0).iter().flat_map(|game| [0.0, 20.0, -88.0, 1e4].map(|x| (*game, x))) {
                let statistics = evaluate(device, &vec![logit; n], &vec![logit; m], game).statistics.read().unwrap();
                let expected = game.weight(n, m).ln();
                let (_, floor_g) = Loss::Softmax.floors(game, n, m).unwrap();
                assert!((f64::from(statistics[1]) - floor_g).abs() < 1e-6, "{n} + {m}, {game:?}: kl_g is 0");
                for loss in &statistics[..2] {
                    let error = (f64::from(loss.abs()) - expected).abs();
                    assert!(error < 1e-6, "{n} + {m} logits of {logit}: {loss}, not {expected}");
                }
            }
        }
    });
}

#[test]
fn sixteen_million_logits() {
    let (n, m) = (1 << 23, (1 << 23) + 3);
    let mut random = Random(1);
    let values: Vec<f32> = (0..4096).map(|_| random.normal() as f32 * 2.0 + 30.0).collect();
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| values[random.below(4096)]).collect() };
    let (real, fake) = (draw(n), draw(m));
    let expected = reference(&real, &fake, 1.0);
    on_fast_devices(|device| {
        let out = evaluate(device, &real, &fake, 1.0);
        assert_close("statistics", &out.statistics, &expected.statistics, 1e-6);
        assert_close("seed_d", &out.seed_d, &expected.seed_d, 2e-6);
        assert_close("seed_g", &out.seed_g, &expected.seed_g, 2e-6);
        let d = sum(&out.seed_d.read().unwrap());
        assert!(d.abs() < 1e-6, "D's gradients sum to {d}");
    });
}

#[test]
fn a_logit_that_is_not_a_number_is_not_hidden() {
    on_each_device(|device| {
        for (n, m) in [(1, 1), (64, 64), (20_000, 5)] {
            for (at_real, at_fake) in [(Some(n / 2), None), (None, Some(m - 1)), (Some(0), Some(0))] {
                for (game, form) in games(1.0).into_iter().flat_map(|g| [(g, Form::Fused), (g, Form::Plain)]) {
                    let mut random = Random(2);
                    let (mut real, mut fake) = (random.normals(n), random.normals(m));
                    at_real.into_iter().for_each(|i| real[i] = f32::NAN);
                    at_fake.into_iter().for_each(|i| fake[i] = f32::NAN);
                    let out = evaluate_as(form, device, &real, &fake, game);
                    let statistics = out.statistics.read().unwrap();
                    assert!(statistics[0].is_nan() && statistics[1].is_nan(), "{n} + {m}: {statistics:?}");
                }
            }
        }
    });
}

/// What `kl_d` and `kl_g` are of: KL divergences from the targets of the players, and the bound of one from below.
#[test]
fn above_their_floors_the_losses_are_divergences() {
    let mut random = Random(4);
    let (real, fake) = (to_f64(&random.normals(7)), to_f64(&random.normals(5)));
    for game in games(1.0) {
        let (loss_d, loss_g) = losses(&real, &fake, game);
        let (floor_d, floor_g) = Loss::Softmax.floors(game, 7, 5).unwrap();
        let (w, all) = (f64::from(game.real_weight), game.weight(7, 5));
        let sum = w * real.iter().map(|a| (-a).exp()).sum::<f64>() + fake.iter().map(|b| (-b).exp()).sum::<f64>();
        let of_real = real.iter().map(|a| w * (-a).exp() / sum);
        let p: Vec<f64> = of_real.chain(fake.iter().map(|b| (-b).exp() / sum)).collect();
        let from = |target: &dyn Fn(usize) -> f64| -> f64 {
            p.iter().enumerate().filter(|(i, _)| target(*i) > 0.0).map(|(i, p)| target(i) * (target(i) / p).ln()).sum()
        };
        let kl_d = from(&|i| if i < 7 { 1.0 / 7.0 } else { 0.0 });
        assert!((loss_d - floor_d - kl_d).abs() < 1e-12, "{game:?}: D");
        // Donsker and Varadhan's bound of KL(q || mixture), with -a and -b as the function.
        let bound = -real.iter().sum::<f64>() / 7.0 - (sum / all).ln();
        let kl_g = if game.zero_sum { bound } else { from(&|i| if i < 7 { w / all } else { 1.0 / all }) };
        assert!((loss_g - floor_g - kl_g).abs() < 1e-12, "{game:?}: G");
    }
}

/// Fakes so unlikely that their share underflows: it is 0, and nothing is divided by it.
#[test]
fn shares_that_underflow_are_zero() {
    on_each_device(|device| {
        for (n, m) in [(3, 4), (10_000, 3)] {
            let real = vec![-100.0; n];
            let fake = vec![200.0; m];
            let out = evaluate(device, &real, &fake, 1.0);
            let expected = reference(&real, &fake, 1.0);
            assert_close("statistics", &out.statistics, &expected.statistics, 1e-6);
            assert_eq!(out.seed_d.read().unwrap()[n..], vec![0.0; m]);
            assert_eq!(out.seed_g.read().unwrap(), vec![1.0 / (n + m) as f32; m]);
            assert!(out.seed_d.read().unwrap()[..n].iter().all(|d| d.abs() < 1e-7), "1 / N - 1 / N");
        }
    });
}

#[test]
fn refuses_what_does_not_fit() {
    let device = Device::host(1).unwrap();
    let zeros = |n: usize| -> Buffer<f32> { device.zeros(n).unwrap() };
    let out = Evaluation { statistics: zeros(4), seed_d: zeros(5), seed_g: zeros(3) };
    let none = zeros(0);
    let error = |n, m| log_partition::fused(&out, &zeros(n), &zeros(m), 1.0, &none).unwrap_err().to_string();
    assert_eq!(error(0, 3), "log_partition: 0 real and 3 fake logits, at least one of each is needed");
    assert_eq!(error(3, 3), "log_partition: seed_d has 5 elements, expected 6");
}
