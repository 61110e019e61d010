//! `kernels/projection.cu` against an f64 loop, central differences of it, and PyTorch.

use crate::common::*;
use zgan::device::{Buffer, Device};
use zgan::ops::projection::{self, ABSENT, Gradients, Head, Seeds, unfused};

#[derive(Clone)]
struct Case {
    n: usize,
    p: usize,
    c: usize,
    classes: usize,
    pool_factor: f32,
    x: Vec<f32>,
    w: Vec<f32>,
    v: Vec<f32>,
    labels: Option<Vec<u32>>,
    bias: Option<f32>,
    df: Option<Vec<f32>>,
    scale: Option<Vec<f32>>,
}

impl Case {
    fn new(n: usize, p: usize, c: usize, classes: usize, options: bool) -> Case {
        let mut random = Random((n * 31 + p * 7 + c) as u64);
        // A third of the samples without a label, the others repeat.
        let mut label = |_| if random.below(3) == 0 || classes == 0 { ABSENT } else { random.below(classes) as u32 };
        let labels = (0..n).map(&mut label).collect();
        Case {
            n,
            p,
            c,
            classes,
            pool_factor: 0.7,
            x: random.normals(n * p * c),
            w: random.normals(c),
            v: random.normals(classes * c),
            labels: options.then_some(labels),
            bias: options.then_some(0.3),
            df: options.then(|| random.normals(n)),
            scale: options.then(|| random.normals(n)),
        }
    }

    fn label(&self, n: usize) -> Option<usize> {
        self.labels.as_ref().map(|l| l[n] as usize).filter(|l| *l < self.classes)
    }

    fn df(&self, n: usize) -> f64 {
        self.df.as_ref().map_or(1.0, |df| f64::from(df[n]))
    }

    fn scale(&self, n: usize) -> f64 {
        self.scale.as_ref().map_or(1.0, |scale| f64::from(scale[n]))
    }
}

struct Reference {
    f: Vec<f64>,
    h: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
    dv: Vec<f64>,
    dbias: f64,
}

/// f and h of `case`, at other values of its tensors.
fn forward(case: &Case, x: &[f64], w: &[f64], v: &[f64], bias: f64) -> (Vec<f64>, Vec<f64>) {
    let Case { n, p, c, .. } = *case;
    let mut h = vec![0.0; n * c];
    let mut f = vec![bias; n];
    for i in 0..n {
        for k in 0..c {
            let sum: f64 = (0..p).map(|p_| x[(i * p + p_) * c + k].max(0.0)).sum();
            h[i * c + k] = f64::from(case.pool_factor) * sum;
            f[i] += h[i * c + k] * (w[k] + case.label(i).map_or(0.0, |y| v[y * c + k]));
        }
    }
    (f, h)
}

fn reference(case: &Case) -> Reference {
    let Case { n, p, c, classes, .. } = *case;
    let (x, w, v) = (to_f64(&case.x), to_f64(&case.w), to_f64(&case.v));
    let (f, h) = forward(case, &x, &w, &v, f64::from(case.bias.unwrap_or(0.0)));
    let (mut dx, mut dw, mut dv, mut dbias) = (vec![0.0; n * p * c], vec![0.0; c], vec![0.0; classes * c], 0.0);
    for i in 0..n {
        let g = case.df(i) * case.scale(i);
        dbias += g;
        for k in 0..c {
            let slope = w[k] + case.label(i).map_or(0.0, |y| v[y * c + k]);
            for at in (0..p).map(|p_| (i * p + p_) * c + k) {
                dx[at] = if x[at] > 0.0 { f64::from(case.pool_factor) * case.df(i) * slope } else { 0.0 };
            }
            dw[k] += g * h[i * c + k];
            if let Some(y) = case.label(i) {
                dv[y * c + k] += g * h[i * c + k];
            }
        }
    }
    Reference { f, h, dx, dw, dv, dbias }
}

#[derive(Debug, PartialEq)]
struct Found {
    f: Vec<f32>,
    h: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
    dv: Vec<f32>,
    dbias: Vec<f32>,
}

/// Parameter gradients start at 0.5, to see that they accumulate.
fn run(device: &Device, case: &Case, fused: bool) -> Found {
    let upload = |x: &[f32]| device.upload(x).unwrap();
    let nans = |n: usize| upload(&vec![f32::NAN; n]);
    let (x, w, v) = (upload(&case.x), upload(&case.w), upload(&case.v));
    let labels = case.labels.as_ref().map(|l| device.upload(l).unwrap());
    let bias = case.bias.map(|b| upload(&[b]));
    let (df, scale) = (case.df.as_deref().map(upload), case.scale.as_deref().map(upload));
    let head = Head { w: &w, v: Some(&v), labels: labels.as_ref(), bias: bias.as_ref(), pool_factor: case.pool_factor };
    let (f, h, dx) = (nans(case.n), nans(case.n * case.c), nans(case.x.len()));
    let halves = |n: usize| upload(&vec![0.5; n]);
    let (dw, dv, dbias) = (halves(case.c), halves(case.v.len()), halves(1));
    let gradients = Gradients { dw: &dw, dv: Some(&dv), dbias: Some(&dbias) };
    let seeds = Seeds { df: df.as_ref(), scale: scale.as_ref() };
    if fused {
        projection::forward(&f, &h, &x, &head).unwrap();
        projection::input_gradient(&dx, &x, &head, case.n, df.as_ref()).unwrap();
        projection::parameter_gradients(gradients, &h, labels.as_ref(), seeds).unwrap();
    } else {
        let workspace = nans(unfused::workspace_len(case.x.len(), case.n));
        unfused::forward_pooled(&f, &h, &x, &head, &nans(2 * case.n)).unwrap();
        let pooled = [&f, &h].map(|b| b.read().unwrap());
        unfused::forward(&f, &h, &x, &head, &workspace).unwrap();
        assert_eq!([&f, &h].map(|b| b.read().unwrap()), pooled);
        unfused::input_gradient(&dx, &x, &head, case.n, df.as_ref(), &nans(case.n * case.c)).unwrap();
        unfused::parameter_gradients(gradients, &h, labels.as_ref(), seeds).unwrap();
    }
    let read = |b: &Buffer<f32>| b.read().unwrap();
    Found { f: read(&f), h: read(&h), dx: read(&dx), dw: read(&dw), dv: read(&dv), dbias: read(&dbias) }
}

#[track_caller]
fn check(what: &str, found: &Found, expected: &Reference, tolerance: f64) {
    let half = |x: &[f64]| x.iter().map(|x| x + 0.5).collect::<Vec<_>>();
    for (name, found, expected) in [
        ("f", &found.f, &expected.f),
        ("h", &found.h, &expected.h),
        ("dx", &found.dx, &expected.dx),
        ("dw", &found.dw, &half(&expected.dw)),
        ("dV", &found.dv, &half(&expected.dv)),
        ("dbias", &found.dbias, &half(&[expected.dbias])),
    ] {
        let error = relative_error(found, expected, 1e-30);
        assert!(error <= tolerance, "{what}: {name}: relative error {error:.3e}, at most {tolerance:.1e} allowed");
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn in_16_bits_it_is_as_good_as_rounding_the_result() {
    on_each_device(|device| {
        for precision in NARROW {
            for (n, p, c, classes) in [(1, 1, 1, 1), (5, 7, 31, 3), (3, 49, 33, 2)] {
                let mut case = Case::new(n, p, c, classes, true);
                case.x = rounded(&case.x, precision);
                let expected = reference(&case);
                let upload = |x: &[f32]| device.upload(x).unwrap();
                let (x, w, v) = (device.upload_in(&case.x, precision).unwrap(), upload(&case.w), upload(&case.v));
                let labels = device.upload(case.labels.as_ref().unwrap()).unwrap();
                let (bias, df) = (upload(&[case.bias.unwrap()]), upload(case.df.as_ref().unwrap()));
                let pool_factor = case.pool_factor;
                let head = Head { w: &w, v: Some(&v), labels: Some(&labels), bias: Some(&bias), pool_factor };
                let (f, h) = (upload(&vec![f32::NAN; n]), upload(&vec![f32::NAN; n * c]));
                let dx = device.upload_in(&vec![f32::NAN; case.x.len()], precision).unwrap();
                projection::forward(&f, &h, &x, &head).unwrap();
                assert_close("f", &f, &expected.f, 1e-5);
                assert_close("h", &h, &expected.h, 1e-6);
                projection::input_gradient(&dx, &x, &head, n, Some(&df)).unwrap();
                assert_as_good("dx", &dx, &expected.dx, 1e-6);

                let h = upload(&vec![f32::NAN; n * c]);
                projection::pool(&h, &x, n, pool_factor).unwrap();
                assert_close("pooled", &h, &expected.h, 1e-6);
                let dh = Random(c as u64).normals(n * c);
                projection::pool_backward(&dx, &x, &upload(&dh), n, pool_factor).unwrap();
                let slope = |at: usize| f64::from(pool_factor) * f64::from(dh[at / (p * c) * c + at % c]);
                let of = |(at, x): (usize, &f32)| if *x > 0.0 { slope(at) } else { 0.0 };
                assert_as_good("pool's dx", &dx, &case.x.iter().enumerate().map(of).collect::<Vec<_>>(), 1e-6);
            }
        }
    });
}

#[test]
fn the_reference_gradients_are_central_differences() {
    let mut case = Case::new(4, 3, 5, 2, true);
    case.labels = Some(vec![1, ABSENT, 1, 0]);
    let expected = reference(&case);
    let (x, w, v) = (to_f64(&case.x), to_f64(&case.w), to_f64(&case.v));
    let sum = |scaled: bool, x: &[f64], w: &[f64], v: &[f64], bias: f64| -> f64 {
        let (f, _) = forward(&case, x, w, v, bias);
        f.iter().enumerate().map(|(n, f)| f * case.df(n) * if scaled { case.scale(n) } else { 1.0 }).sum()
    };
    let close = |found: &[f64], expected: &[f64]| {
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-7, "{f} is not {e}");
        }
    };
    close(&expected.dx, &central_differences(&x, |x| sum(false, x, &w, &v, 0.3)));
    close(&expected.dw, &central_differences(&w, |w| sum(true, &x, w, &v, 0.3)));
    close(&expected.dv, &central_differences(&v, |v| sum(true, &x, &w, v, 0.3)));
    close(&[expected.dbias], &central_differences(&[0.3], |b| sum(true, &x, &w, &v, b[0])));
}

#[test]
fn matches_the_reference_at_any_size_fused_and_unfused() {
    on_each_device(|device| {
        for (n, p, c, classes) in
            [(1, 1, 1, 1), (2, 49, 32, 10), (31, 1, 33, 3), (33, 7, 31, 100), (3, 5, 1000, 2), (64, 2, 130, 10)]
        {
            for options in [false, true] {
                let case = Case::new(n, p, c, classes, options);
                let expected = reference(&case);
                for fused in [true, false] {
                    let what = format!("{n} x {p} x {c}, {classes} classes, options {options}, fused {fused}");
                    check(&what, &run(device, &case, fused), &expected, 3e-6);
                }
            }
        }
    });
}

#[test]
fn works_without_an_embedding_and_pools_alone() {
    on_each_device(|device| {
        let case = Case { labels: None, ..Case::new(5, 6, 35, 0, true) };
        let expected = reference(&case);
        check("no embedding", &run(device, &case, true), &expected, 3e-6);
        let (x, h) = (device.upload(&case.x).unwrap(), device.zeros(5 * 35).unwrap());
        projection::pool(&h, &x, 5, case.pool_factor).unwrap();
        assert_close("h", &h, &expected.h, 1e-6);
    });
}

#[test]
fn matches_pytorch() {
    let golden = Golden::open("projection");
    let shape = golden.shape("x");
    let case = Case {
        n: shape[0],
        p: shape[1] * shape[2],
        c: shape[3],
        classes: golden.shape("V")[0],
        pool_factor: 1.0,
        x: golden.f32("x"),
        w: golden.f32("w"),
        v: golden.f32("V"),
        labels: Some(golden.labels("labels")),
        bias: Some(golden.f32("bias")[0]),
        df: Some(golden.f32("df")),
        scale: None,
    };
    let expected = Reference {
        f: golden.f64("f"),
        h: golden.f64("h"),
        dx: golden.f64("dx"),
        dw: golden.f64("dw"),
        dv: golden.f64("dV"),
        dbias: golden.f64("dbias")[0],
    };
    on_each_device(|device| check("golden", &run(device, &case, true), &expected, 2e-6));
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let case = Case::new(64, 16, 200, 10, true);
    let one = run(&Device::host(1).unwrap(), &case, true);
    let three = run(&Device::host(3).unwrap(), &case, true);
    assert_eq!(one, three);
}

#[test]
fn refuses_shapes_that_do_not_fit() {
    let device = Device::host(1).unwrap();
    let buffer = |n| device.zeros::<f32>(n).unwrap();
    let (w, v, labels) = (buffer(3), buffer(6), device.zeros::<u32>(2).unwrap());
    let head = Head { w: &w, v: Some(&v), labels: Some(&labels), bias: None, pool_factor: 1.0 };
    let error = projection::forward(&buffer(2), &buffer(6), &buffer(13), &head).unwrap_err().to_string();
    assert_eq!(
        error,
        "projection forward: x has 13 elements, expected N * P * C with N = 2, C = 3, at least one of each"
    );
    let error = projection::forward(&buffer(3), &buffer(9), &buffer(9), &head).unwrap_err().to_string();
    assert_eq!(error, "projection forward: labels has 2 elements, expected 3");
    assert!(projection::forward(&buffer(2), &buffer(7), &buffer(6), &head).is_err());
}
