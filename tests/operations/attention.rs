//! `kernels/attention.cu` against an f64 loop, central differences of it, and PyTorch.

use crate::common::*;
use zgan::device::{Buffer, Device, Precision};
use zgan::ops::attention::{self, Gradients, Inputs, Shape};

struct Forward {
    o: Vec<f64>,
    lse: Vec<f64>,
    /// (N, L, Lk).
    p: Vec<f64>,
}

fn forward(s: Shape, q: &[f64], k: &[f64], v: &[f64]) -> Forward {
    let mut out = Forward { o: vec![0.0; s.n * s.l * s.dv], lse: Vec::new(), p: Vec::new() };
    for row in 0..s.n * s.l {
        let n = row / s.l;
        let scores: Vec<f64> =
            (0..s.lk).map(|j| (0..s.dk).map(|d| q[row * s.dk + d] * k[(n * s.lk + j) * s.dk + d]).sum()).collect();
        let m = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = m + scores.iter().map(|x| (x - m).exp()).sum::<f64>().ln();
        for (j, x) in scores.iter().enumerate() {
            let p = (x - lse).exp();
            for d in 0..s.dv {
                out.o[row * s.dv + d] += p * v[(n * s.lk + j) * s.dv + d];
            }
            out.p.push(p);
        }
        out.lse.push(lse);
    }
    out
}

/// dq, dk, dv.
fn backward(s: Shape, q: &[f64], k: &[f64], v: &[f64], d_o: &[f64]) -> [Vec<f64>; 3] {
    let f = forward(s, q, k, v);
    backward_from(s, [q, k, v, d_o], &f, &f.o, |term| term)
}

/// With another `o` than forward's, as it is once rounded, and the sums of `part` of each term.
fn backward_from(s: Shape, [q, k, v, d_o]: [&[f64]; 4], f: &Forward, o: &[f64], part: fn(f64) -> f64) -> [Vec<f64>; 3] {
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for row in 0..s.n * s.l {
        let n = row / s.l;
        let g = &d_o[row * s.dv..(row + 1) * s.dv];
        let delta: f64 = g.iter().zip(&o[row * s.dv..]).map(|(a, b)| a * b).sum();
        for j in 0..s.lk {
            let (p, key) = (f.p[row * s.lk + j], n * s.lk + j);
            let dp: f64 = g.iter().zip(&v[key * s.dv..]).map(|(a, b)| a * b).sum();
            for d in 0..s.dv {
                dv[key * s.dv + d] += part(p * g[d]);
            }
            for d in 0..s.dk {
                dq[row * s.dk + d] += part(p * (dp - delta) * k[key * s.dk + d]);
                dk[key * s.dk + d] += part(p * (dp - delta) * q[row * s.dk + d]);
            }
        }
    }
    [dq, dk, dv]
}

struct Found {
    o: Buffer<f32>,
    lse: Buffer<f32>,
    gradients: [Buffer<f32>; 3],
}

fn run(device: &Device, s: Shape, q: &[f32], k: &[f32], v: &[f32], d_o: &[f32]) -> Found {
    run_in(Precision::F32, device, s, [q, k, v, d_o])
}

fn run_in(precision: Precision, device: &Device, s: Shape, inputs: [&[f32]; 4]) -> Found {
    let [q, k, v, d_o] = inputs.map(|x| device.upload_in(x, precision).unwrap());
    let nans = |n: usize| device.upload_in(&vec![f32::NAN; n], precision).unwrap();
    let wide = |n: usize| device.upload(&vec![f32::NAN; n]).unwrap();
    let (o, lse, workspace) = (nans(d_o.len()), wide(s.rows()), wide(s.workspace_len()));
    let (dq, dk, dv) = (nans(q.len()), nans(k.len()), nans(v.len()));
    let inputs = Inputs { q: &q, k: &k, v: &v };
    attention::forward(&o, &lse, inputs, s).unwrap();
    let gradients = Gradients { dq: &dq, dk: &dk, dv: &dv };
    attention::backward(gradients, &d_o, &o, inputs, &lse, s, &workspace).unwrap();
    Found { o, lse, gradients: [dq, dk, dv] }
}

#[track_caller]
fn check(device: &Device, s: Shape, spread: f32, tolerance: f64) {
    let mut random = Random((s.l * 1000 + s.lk) as u64);
    let mut draw = |n: usize| random.normals(n);
    let q: Vec<f32> = draw(s.n * s.l * s.dk).iter().map(|x| spread * x).collect();
    let (k, v, d_o) = (draw(s.n * s.lk * s.dk), draw(s.n * s.lk * s.dv), draw(s.n * s.l * s.dv));
    let found = run(device, s, &q, &k, &v, &d_o);
    let (q, k, v, d_o) = (to_f64(&q), to_f64(&k), to_f64(&v), to_f64(&d_o));
    let expected = forward(s, &q, &k, &v);
    let what = format!("{s:?}");
    assert_close(&format!("o of {what}"), &found.o, &expected.o, tolerance);
    assert_close(&format!("lse of {what}"), &found.lse, &expected.lse, tolerance);
    for ((name, found), expected) in ["dq", "dk", "dv"].iter().zip(&found.gradients).zip(backward(s, &q, &k, &v, &d_o))
    {
        // Of one key the probabilities are 1, and the gradients of the scores rounding noise around 0.
        if s.lk > 1 || *name == "dv" {
            assert_close(&format!("{name} of {what}"), found, &expected, tolerance);
        } else {
            assert!(found.read().unwrap().iter().all(|d| d.abs() < 1e-4), "{name} of {what}");
        }
    }
}

#[test]
fn the_reference_gradients_are_central_differences() {
    let s = Shape { n: 2, l: 3, lk: 4, dk: 2, dv: 3 };
    let mut random = Random(9);
    let mut draw = |n: usize| to_f64(&random.normals(n));
    let (q, k, v, d_o) = (draw(12), draw(16), draw(24), draw(18));
    let dot = |f: Forward| f.o.iter().zip(&d_o).map(|(a, b)| a * b).sum::<f64>();
    let expected = [
        central_differences(&q, |q| dot(forward(s, q, &k, &v))),
        central_differences(&k, |k| dot(forward(s, &q, k, &v))),
        central_differences(&v, |v| dot(forward(s, &q, &k, v))),
    ];
    for (found, expected) in backward(s, &q, &k, &v, &d_o).concat().iter().zip(expected.concat()) {
        assert!((found - expected).abs() < 1e-8, "{found} is not {expected}");
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn in_16_bits_it_is_as_good_as_rounding_the_result() {
    on_each_device(|device| {
        for precision in NARROW {
            for (n, l, lk, dk, dv) in [(1, 1, 31, 3, 5), (3, 33, 2, 8, 32), (1, 65, 130, 8, 33), (1, 100, 70, 31, 7)] {
                let s = Shape { n, l, lk, dk, dv };
                let mut random = Random((l * 1000 + lk) as u64);
                let mut draw = |n: usize| rounded(&random.normals(n), precision);
                let (q, k) = (draw(n * l * dk), draw(n * lk * dk));
                let (v, d_o) = (draw(n * lk * dv), draw(n * l * dv));
                let found = run_in(precision, device, s, [&q, &k, &v, &d_o]);
                let [q, k, v, d_o] = [&q, &k, &v, &d_o].map(|x| to_f64(x));
                let expected = forward(s, &q, &k, &v);
                // Tensor cores multiply probabilities, and gradients of scores, that are rounded to 16 bits: each is off by
                // at most `unit` of itself, and a sum by as much of its terms' sizes.
                let unit = if precision == Precision::Bf16 { 1.0 / 256.0 } else { 1.0 / 2048.0 };
                let largest = |sums: &[f64]| sums.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                let rounding = |sizes: &[f64]| if device.execution() == "host" { 0.0 } else { unit * largest(sizes) };
                let sizes = forward(s, &q, &k, &v.iter().map(|x| x.abs()).collect::<Vec<_>>()).o;
                assert_as_good("o", &found.o, &expected.o, 1e-5 + rounding(&sizes));
                assert_close("lse", &found.lse, &expected.lse, 1e-5);
                let (inputs, o) = ([&q[..], &k, &v, &d_o], to_f64(&found.o.read().unwrap()));
                let gradients = backward_from(s, inputs, &expected, &o, |term| term);
                let sizes = backward_from(s, inputs, &expected, &o, f64::abs);
                for (i, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
                    let allowed = 1e-5 * largest(&gradients[i]).max(1.0) + rounding(&sizes[i]);
                    assert_as_good(&format!("{name} of {s:?}"), &found.gradients[i], &gradients[i], allowed);
                }
            }

            let (n, each, gamma) = (3, 1025, -1.5f32);
            let mut random = Random(each as u64);
            let [x, a, dy] = [(); 3].map(|()| rounded(&random.normals(n * each), precision));
            let upload = |x: &[f32]| device.upload_in(x, precision).unwrap();
            let (y, da) = (upload(&vec![f32::NAN; n * each]), upload(&vec![f32::NAN; n * each]));
            let (gamma_buffer, dgamma) = (device.upload(&[gamma]).unwrap(), device.upload(&[0.5]).unwrap());
            attention::residual(&y, &upload(&x), &upload(&a), &gamma_buffer).unwrap();
            let workspace = device.zeros(n).unwrap();
            let (of_dy, of_a) = (upload(&dy), upload(&a));
            attention::residual_backward(&da, Some(&dgamma), &of_dy, &of_a, &gamma_buffer, None, &workspace).unwrap();
            let (x, a, dy, g) = (to_f64(&x), to_f64(&a), to_f64(&dy), f64::from(gamma));
            assert_as_good("y", &y, &x.iter().zip(&a).map(|(x, a)| x + g * a).collect::<Vec<_>>(), 1e-6);
            assert_as_good("da", &da, &dy.iter().map(|d| g * d).collect::<Vec<_>>(), 1e-6);
            let sum: f64 = dy.iter().zip(&a).map(|(d, a)| d * a).sum();
            assert!((f64::from(dgamma.read().unwrap()[0]) - 0.5 - sum).abs() < 3e-3, "dgamma");
        }
    });
}

#[test]
fn matches_the_reference_at_any_size() {
    on_each_device(|device| {
        for (n, l, lk, dk, dv) in [
            (1, 1, 1, 1, 1),
            (1, 1, 31, 3, 5),
            (3, 33, 1, 8, 32),
            (2, 64, 64, 16, 16),
            (1, 65, 130, 8, 33),
            (1, 100, 70, 31, 7),
            (1, 3, 200, 128, 512),
        ] {
            check(device, Shape { n, l, lk, dk, dv }, 1.0, 1e-5);
        }
    });
}

#[test]
fn the_size_of_sagan() {
    on_fast_devices(|device| check(device, Shape { n: 2, l: 1024, lk: 256, dk: 8, dv: 32 }, 1.0, 1e-5));
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let s = Shape { n: 3, l: 130, lk: 70, dk: 9, dv: 20 };
    let mut random = Random(30);
    let mut draw = |n: usize| random.normals(n);
    let (q, k, v, d_o) =
        (draw(s.n * s.l * s.dk), draw(s.n * s.lk * s.dk), draw(s.n * s.lk * s.dv), draw(s.n * s.l * s.dv));
    let bits = |threads: usize| {
        let found = run(&Device::host(threads).unwrap(), s, &q, &k, &v, &d_o);
        [&found.o, &found.lse].into_iter().chain(&found.gradients).map(|b| b.read().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bits(1), bits(3));
}

#[test]
fn large_scores_stay_finite_and_right() {
    // Scores of some hundreds: e^s overflows, and the softmax is nearly one key each.
    on_each_device(|device| check(device, Shape { n: 1, l: 40, lk: 150, dk: 4, dv: 6 }, 100.0, 1e-3));
}

#[test]
fn matches_pytorch() {
    let golden = Golden::open("attention");
    let (q, v) = (golden.shape("q"), golden.shape("v"));
    let s = Shape { n: q[0], l: q[1], lk: v[1], dk: q[2], dv: v[2] };
    let d_o: Vec<f32> = golden.f64("d_o").iter().map(|x| *x as f32).collect();
    on_each_device(|device| {
        let found = run(device, s, &golden.f32("q"), &golden.f32("k"), &golden.f32("v"), &d_o);
        assert_close("o", &found.o, &golden.f64("o"), 2e-6);
        assert_close("lse", &found.lse, &golden.f64("lse"), 2e-6);
        for (name, found) in ["dq", "dk", "dv"].iter().zip(&found.gradients) {
            assert_close(name, found, &golden.f64(name), 5e-6);
        }
        let upload = |name: &str| device.upload(&golden.f32(name)).unwrap();
        let (x, gamma, dy) = (upload("x"), upload("gamma"), upload("dy"));
        let (y, da, dgamma) =
            (device.zeros(x.len()).unwrap(), device.zeros(x.len()).unwrap(), device.zeros(1).unwrap());
        attention::residual(&y, &x, &found.o, &gamma).unwrap();
        let workspace = device.zeros(s.n).unwrap();
        attention::residual_backward(&da, Some(&dgamma), &dy, &found.o, &gamma, None, &workspace).unwrap();
        assert_close("y", &y, &golden.f64("y"), 2e-6);
        assert_close("da", &da, &golden.f64("d_o"), 2e-6);
        assert_close("dgamma", &dgamma, &golden.f64("dgamma"), 5e-6);
    });
}

#[test]
fn the_residual_at_any_size() {
    on_each_device(|device| {
        for (n, each) in [(1, 1), (3, 31), (33, 100), (2, 5000)] {
            let mut random = Random(each as u64);
            let mut draw = |n: usize| random.normals(n);
            let (x, a, dy, scale) = (draw(n * each), draw(n * each), draw(n * each), draw(n));
            let upload = |x: &[f32]| device.upload(x).unwrap();
            let (y, da) = (upload(&vec![f32::NAN; n * each]), upload(&vec![f32::NAN; n * each]));
            let (bx, ba, bdy, bscale) = (upload(&x), upload(&a), upload(&dy), upload(&scale));
            let workspace = upload(&vec![f32::NAN; n]);
            for gamma in [0.0f32, -1.5] {
                let dgamma = upload(&[0.5]);
                attention::residual(&y, &bx, &ba, &upload(&[gamma])).unwrap();
                attention::residual_backward(
                    &da,
                    Some(&dgamma),
                    &bdy,
                    &ba,
                    &upload(&[gamma]),
                    Some(&bscale),
                    &workspace,
                )
                .unwrap();
                let g = f64::from(gamma);
                let expected: Vec<f64> = x.iter().zip(&a).map(|(x, a)| f64::from(*x) + g * f64::from(*a)).collect();
                assert_close("y", &y, &expected, 1e-6);
                assert_close("da", &da, &dy.iter().map(|d| g * f64::from(*d)).collect::<Vec<_>>(), 1e-6);
                let sum: f64 =
                    (0..n * each).map(|i| f64::from(scale[i / each]) * f64::from(dy[i]) * f64::from(a[i])).sum();
                let error = (f64::from(dgamma.read().unwrap()[0]) - 0.5 - sum).abs();
                assert!(error < 1e-6 * (n * each) as f64, "dgamma is off by {error}");
                if gamma == 0.0 {
                    assert_eq!(y.read().unwrap(), x, "with gamma 0 it is the identity");
                }
            }
        }
    });
}

#[test]
fn refuses_shapes_that_do_not_fit() {
    let device = Device::host(1).unwrap();
    let buffer = |n| device.zeros::<f32>(n).unwrap();
    let shape = Shape { n: 1, l: 4, lk: 2, dk: 3, dv: 5 };
    let (q, k, v) = (buffer(12), buffer(6), buffer(11));
    let inputs = Inputs { q: &q, k: &k, v: &v };
    let error = attention::forward(&buffer(20), &buffer(4), inputs, shape).unwrap_err().to_string();
    assert_eq!(error, "attention forward: v has 11 elements, expected 10");
    let none = Shape { lk: 0, ..shape };
    assert!(attention::forward(&buffer(20), &buffer(4), inputs, none).is_err());
}
