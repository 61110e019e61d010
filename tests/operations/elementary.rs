//! `kernels/elementary.cu`, and through it `kernels/device/math.h` against f64, in units in the last place: the bounds in
//! its comments.

use crate::common::*;
use zgan::device::{Buffer, Device};
use zgan::ops::elementary::{self, Function};

/// Every `stride`-th float between two positive ones.
fn floats(first: f32, last: f32, stride: usize) -> Vec<f32> {
    (first.to_bits()..=last.to_bits()).step_by(stride).map(f32::from_bits).collect()
}

fn apply(device: &Device, f: Function, x: &[f32]) -> Vec<f32> {
    let y: Buffer<f32> = device.zeros(x.len()).unwrap();
    elementary::function(f, &y, &device.upload(x).unwrap()).unwrap();
    y.read().unwrap()
}

/// The distance to the exact result in units in the last place of the nearest float (of a subnormal: 2^-149).
fn ulps(found: f32, exact: f64) -> f64 {
    let exponent = (exact.abs() as f32).max(f32::MIN_POSITIVE).log2().floor() as i32;
    let exponent = if exact.abs() < 2.0f64.powi(exponent) { exponent - 1 } else { exponent };
    (f64::from(found) - exact).abs() / 2.0f64.powi(exponent.max(-126) - 23)
}

/// The worst of all, in ulp, where the exact result is a normal number.
fn worst(x: &[f32], found: &[f32], exact: impl Fn(f64) -> f64) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    for (x, found) in x.iter().zip(found) {
        let error = ulps(*found, exact(f64::from(*x)));
        if error > worst.0 || error.is_nan() {
            worst = (error, *x);
        }
    }
    worst
}

#[track_caller]
fn assert_within(device: &Device, f: Function, x: &[f32], exact: fn(f64) -> f64, bound: f64) {
    let (error, at) = worst(x, &apply(device, f, x), exact);
    assert!(error <= bound, "{f:?}: {error:.3} ulp at {at:e}, at most {bound}");
    eprintln!("{f:?}: {error:.3} ulp at {at:e}");
}

/// Few enough for `simt` where the device is that.
fn stride(device: &Device, full: usize) -> usize {
    if device.execution() == "simt" { full * 5003 } else { full }
}

#[test]
fn exp_is_within_its_bound() {
    on_each_device(|device| {
        let stride = stride(device, 97);
        let mut x = floats(1e-10, 88.7228, stride);
        x.extend(floats(1e-10, 87.3365, stride).iter().map(|x| -x));
        assert_within(device, Function::Exp, &x, f64::exp, EXP);
        // What would be subnormal is 0.
        let x: Vec<f32> = floats(87.3366, 110.0, stride).iter().map(|x| -x).collect();
        assert!(apply(device, Function::Exp, &x).iter().all(|y| *y == 0.0));
        let special = [0.0, -0.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -87.34, 88.73, 1000.0, -1e30];
        let y = apply(device, Function::Exp, &special);
        assert_eq!(y[..4], [1.0, 1.0, 0.0, f32::INFINITY]);
        assert!(y[4].is_nan());
        assert_eq!(y[5..], [0.0, f32::INFINITY, f32::INFINITY, 0.0]);
    });
}

#[test]
fn log_is_within_its_bound() {
    on_each_device(|device| {
        let x = floats(f32::MIN_POSITIVE, f32::MAX, stride(device, 211));
        assert_within(device, Function::Log, &x, f64::ln, LOG);
        let x = floats(0.5, 2.0, stride(device, 3));
        assert_within(device, Function::Log, &x, f64::ln, LOG);
        let special = [0.0, -0.0, 1.0, f32::INFINITY, -1.0, f32::NEG_INFINITY, f32::NAN];
        let y = apply(device, Function::Log, &special);
        assert_eq!(y[..4], [f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, f32::INFINITY]);
        assert!(y[4..].iter().all(|y| y.is_nan()));
        let subnormal = apply(device, Function::Log, &[1e-45])[0];
        assert!((f64::from(subnormal) - 1e-45f32.ln() as f64).abs() < 16.0);
    });
}

#[test]
fn tanh_is_within_its_bound_and_odd() {
    on_each_device(|device| {
        let x = floats(1e-30, 20.0, stride(device, 101));
        assert_within(device, Function::Tanh, &x, f64::tanh, TANH);
        let negative: Vec<f32> = x.iter().map(|x| -x).collect();
        let (y, minus_y) = (apply(device, Function::Tanh, &x), apply(device, Function::Tanh, &negative));
        assert!(y.iter().zip(&minus_y).all(|(a, b)| *a == -b));
        let y = apply(device, Function::Tanh, &[0.0, 1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
        assert_eq!(y[..4], [0.0, 1.0, 1.0, -1.0]);
        assert!(y[4].is_nan());
    });
}

#[test]
fn sine_and_cosine_are_within_their_bound() {
    on_each_device(|device| {
        // Every number that a random turn can be: multiples of 2^-24.
        let u: Vec<f32> = (0..1u32 << 24).step_by(stride(device, 3)).map(|i| i as f32 / 16_777_216.0).collect();
        let (sine, cosine): (Buffer<f32>, Buffer<f32>) =
            (device.zeros(u.len()).unwrap(), device.zeros(u.len()).unwrap());
        elementary::sine_cosine(&sine, &cosine, &device.upload(&u).unwrap()).unwrap();
        let turn = |u: &f32| std::f64::consts::TAU * f64::from(*u);
        let mut worst = 0.0f64;
        for ((u, s), c) in u.iter().zip(sine.read().unwrap()).zip(cosine.read().unwrap()) {
            worst = worst.max((f64::from(s) - turn(u).sin()).abs()).max((f64::from(c) - turn(u).cos()).abs());
        }
        eprintln!("sine and cosine: {worst:e}");
        assert!(worst <= SINE_COSINE, "{worst:e}, at most {SINE_COSINE:e}");
    });
}

/// As math.h states them.
const EXP: f64 = 1.2;
const LOG: f64 = 0.84;
const TANH: f64 = 1.37;
const SINE_COSINE: f64 = 1.1e-7;

#[test]
fn sums_maxima_and_arithmetic_are_exact_where_the_numbers_are() {
    on_each_device(|device| {
        for n in [1, 31, 33, 1000, 20_001] {
            let mut random = Random(n as u64);
            // Small whole numbers: every sum is exact in any order.
            let mut whole = || -> Vec<f32> { (0..n).map(|_| random.below(64) as f32 - 32.0).collect() };
            let (a, b) = (whole(), whole());
            let (x1, x2) = (device.upload(&a).unwrap(), device.upload(&b).unwrap());
            let y: Buffer<f32> = device.zeros(n).unwrap();
            let one: Buffer<f32> = device.zeros(1).unwrap();
            let workspace = device.zeros(elementary::workspace_len(device, n)).unwrap();
            elementary::add(&y, &x1, &x2).unwrap();
            assert_eq!(y.read().unwrap(), a.iter().zip(&b).map(|(a, b)| a + b).collect::<Vec<_>>());
            elementary::affine(&y, &x1, 2.0, -3.0).unwrap();
            assert_eq!(y.read().unwrap(), a.iter().map(|a| 2.0 * a - 3.0).collect::<Vec<_>>());
            elementary::maximum(&one, &x1, &workspace).unwrap();
            assert_eq!(one.read().unwrap(), [a.iter().copied().fold(f32::NEG_INFINITY, f32::max)]);
            elementary::sum(&one, &x1, &workspace).unwrap();
            let sum: f32 = a.iter().sum();
            assert_eq!(one.read().unwrap(), [sum]);
            elementary::subtract(&y, &x1, &one).unwrap();
            assert_eq!(y.read().unwrap(), a.iter().map(|a| a - sum).collect::<Vec<_>>());
        }
    });
}

#[test]
fn the_parts_of_layers_are_their_formulas() {
    on_each_device(|device| {
        for [rows, columns] in [[1, 1], [31, 33], [1000, 1], [1, 1000], [3, 2050]] {
            let len = rows * columns;
            let mut random = Random(len as u64);
            let mut upload = |n: usize| {
                let values = random.normals(n);
                (device.upload(&values).unwrap(), values)
            };
            let ((x_there, x), (dy_there, dy)) = (upload(len), upload(len));
            let ((b_there, b), (s_there, s)) = (upload(columns), upload(rows));
            let y: Buffer<f32> = device.zeros(len).unwrap();
            let assert_is = |what: &str, formula: &dyn Fn(usize) -> f64| {
                for (i, found) in y.read().unwrap().into_iter().enumerate() {
                    let expected = formula(i);
                    let error = (f64::from(found) - expected).abs();
                    assert!(
                        error <= 2e-7 * (1.0 + expected.abs()),
                        "{what}, {rows} x {columns}, {i}: {found}, {expected}"
                    );
                }
            };
            let at = |values: &[f32], i: usize| f64::from(values[i]);
            elementary::leaky_relu(&y, &x_there, 0.25).unwrap();
            assert_is("leaky ReLU", &|i| at(&x, i) * if x[i] > 0.0 { 1.0 } else { 0.25 });
            let outputs: Vec<f32> = x.iter().map(|x| x.tanh()).collect();
            elementary::tanh_backward(&y, &dy_there, &device.upload(&outputs).unwrap()).unwrap();
            assert_is("tanh backward", &|i| at(&dy, i) * (1.0 - at(&outputs, i).powi(2)));
            elementary::add_columns(&y, &x_there, &b_there).unwrap();
            assert_is("add columns", &|i| at(&x, i) + at(&b, i % columns));
            elementary::scale_rows(&y, &x_there, &s_there).unwrap();
            assert_is("scale rows", &|i| at(&x, i) * at(&s, i / columns));
            elementary::multiply(&y, &x_there, &dy_there).unwrap();
            assert_is("multiply", &|i| at(&x, i) * at(&dy, i));
            elementary::divide(&y, &dy_there, &x_there).unwrap();
            assert_is("divide", &|i| at(&dy, i) / at(&x, i));
            elementary::divide_by(&y, &x_there, &s_there.view(0..1)).unwrap();
            assert_is("divide by", &|i| at(&x, i) / at(&s, 0));
            // Rows far from 0 as well.
            let far: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + 300.0 * (i / columns) as f32).collect();
            let of_rows = |f: &dyn Fn(std::ops::Range<usize>) -> f64| -> Vec<f64> {
                (0..rows).map(|r| f(r * columns..(r + 1) * columns)).collect()
            };
            let most = of_rows(&|row| far[row].iter().copied().fold(f32::NEG_INFINITY, f32::max).into());
            let exp = |i: usize| (at(&far, i) - most[i / columns]).exp();
            let sums = of_rows(&|row| row.map(exp).sum());
            let share = |i: usize| exp(i) / sums[i / columns];
            elementary::softmax_rows(&y, &device.upload(&far).unwrap(), columns).unwrap();
            assert_is("softmax", &share);
            let shares = device.upload(&y.read().unwrap()).unwrap();
            elementary::softmax_rows_backward(&y, &dy_there, &shares, columns).unwrap();
            let dots = of_rows(&|row| row.map(|i| at(&dy, i) * share(i)).sum());
            assert_is("softmax backward", &|i| share(i) * (at(&dy, i) - dots[i / columns]));
        }
        let [two, three]: [Buffer<f32>; 2] = [device.zeros(2).unwrap(), device.zeros(3).unwrap()];
        let error = elementary::add_columns(&three, &three, &two).unwrap_err().to_string();
        assert!(error.contains("x has 3 elements, expected R * C with 2 in b"), "{error}");
        let error = elementary::scale_rows(&two, &three, &three).unwrap_err().to_string();
        assert!(error.contains("y has 2 elements, expected 3"), "{error}");
        let error = elementary::softmax_rows(&three, &three, 2).unwrap_err().to_string();
        assert!(error.contains("3 elements, expected a multiple of 2"), "{error}");
        assert!(elementary::softmax_rows_backward(&three, &two, &three, 3).is_err());
        assert!(elementary::divide_by(&three, &three, &two).is_err());
        let squares = device.upload(&[0.0, 1.0, 2.0, 1e-38, 3e38]).unwrap();
        let roots: Buffer<f32> = device.zeros(5).unwrap();
        elementary::function(Function::SquareRoot, &roots, &squares).unwrap();
        assert_eq!(roots.read().unwrap(), squares.read().unwrap().iter().map(|x| x.sqrt()).collect::<Vec<_>>());
    });
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn the_leaky_relus_backward_pass_is_a_mask_in_every_precision() {
    on_each_device(|device| {
        for n in [1, 33, 3069, 7840, 14_000] {
            let mut random = Random(n as u64);
            let (dy, x) = (random.normals(n), random.normals(n));
            for slope in [0.0, 0.2] {
                let expected = |dy: &[f32], x: &[f32]| -> Vec<f64> {
                    let one = |(dy, x): (&f32, &f32)| f64::from(*dy) * if *x > 0.0 { 1.0 } else { f64::from(slope) };
                    dy.iter().zip(x).map(one).collect()
                };
                let dx = device.upload(&vec![f32::NAN; n]).unwrap();
                let there = [&dy, &x].map(|values| device.upload(values).unwrap());
                elementary::leaky_relu_backward(&dx, &there[0], &there[1], slope).unwrap();
                assert_close("f32", &dx, &expected(&dy, &x), 1e-7);
                for precision in NARROW {
                    let (dy, x) = (rounded(&dy, precision), rounded(&x, precision));
                    let upload = |values: &[f32]| device.upload_in(values, precision).unwrap();
                    let dx = upload(&vec![f32::NAN; n]);
                    elementary::leaky_relu_backward(&dx, &upload(&dy), &upload(&x), slope).unwrap();
                    assert_as_good(precision.name(), &dx, &expected(&dy, &x), 1e-6);
                }
            }
        }
    });
    let device = Device::host(1).unwrap();
    let buffer = |n| device.zeros::<f32>(n).unwrap();
    assert!(elementary::leaky_relu_backward(&buffer(6), &buffer(6), &buffer(5), 0.0).is_err());
}
