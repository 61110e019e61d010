//! `kernels/matmul.cu` against f64 loops, central differences of them, and PyTorch.

use crate::common::*;
use zgan::device::{Buffer, Device, Precision, Products, Tuning, kernel};
use zgan::ops::Activation;
use zgan::ops::matmul::{self, Linear, OutputGradient};

const ACTIVATIONS: [Activation; 4] =
    [Activation::Identity, Activation::LeakyRelu(0.2), Activation::RELU, Activation::Tanh];

fn act(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::LeakyRelu(slope) => x * if x > 0.0 { 1.0 } else { f64::from(slope) },
        Activation::Tanh => x.tanh(),
    }
}

fn derivative(activation: Activation, y: f64) -> f64 {
    match activation {
        Activation::Identity => 1.0,
        Activation::LeakyRelu(slope) => {
            if y > 0.0 {
                1.0
            } else {
                f64::from(slope)
            }
        }
        Activation::Tanh => 1.0 - y * y,
    }
}

fn forward(s: Linear, x: &[f64], weight: &[f64], bias: &[f64], activation: Activation) -> Vec<f64> {
    let mut y = vec![0.0; s.n * s.k];
    for n in 0..s.n {
        let row = &mut y[n * s.k..(n + 1) * s.k];
        row.copy_from_slice(bias);
        for c in 0..s.c {
            for (y, w) in row.iter_mut().zip(&weight[c * s.k..]) {
                *y += x[n * s.c + c] * w;
            }
        }
        row.iter_mut().for_each(|y| *y = act(activation, *y));
    }
    y
}

struct Gradients {
    dx: Vec<f64>,
    dweight: Vec<f64>,
    dbias: Vec<f64>,
}

fn backward(
    s: Linear,
    x: &[f64],
    weight: &[f64],
    y: &[f64],
    dy: &[f64],
    row_scale: &[f64],
    activation: Activation,
) -> Gradients {
    let mut out = Gradients { dx: vec![0.0; s.n * s.c], dweight: vec![0.0; s.c * s.k], dbias: vec![0.0; s.k] };
    for n in 0..s.n {
        let at = n * s.k..(n + 1) * s.k;
        let g: Vec<f64> =
            dy[at.clone()].iter().zip(&y[at]).map(|(d, y)| d * derivative(activation, *y) * row_scale[n]).collect();
        out.dbias.iter_mut().zip(&g).for_each(|(b, g)| *b += g);
        for c in 0..s.c {
            let w = &weight[c * s.k..(c + 1) * s.k];
            out.dx[n * s.c + c] = w.iter().zip(&g).map(|(w, g)| w * g).sum();
            let dw = &mut out.dweight[c * s.k..(c + 1) * s.k];
            dw.iter_mut().zip(&g).for_each(|(d, g)| *d += x[n * s.c + c] * g);
        }
    }
    out
}

struct Case {
    sizes: Linear,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
    row_scale: Vec<f32>,
}

fn case(n: usize, c: usize, k: usize) -> Case {
    let mut random = Random((n * 1_000_003 + c * 1009 + k) as u64);
    let scale = |v: Vec<f32>, s: f32| -> Vec<f32> { v.into_iter().map(|x| x * s).collect() };
    Case {
        sizes: Linear { n, c, k },
        x: random.normals(n * c),
        weight: scale(random.normals(c * k), 1.0 / (c as f32).sqrt()),
        bias: random.normals(k),
        dy: random.normals(n * k),
        row_scale: random.normals(n),
    }
}

struct Results {
    y: Buffer<f32>,
    dx: Buffer<f32>,
    dweight: Buffer<f32>,
    dbias: Buffer<f32>,
}

fn evaluate(device: &Device, case: &Case, activation: Activation, with_scale: bool, start: f32) -> Results {
    evaluate_in(device, Precision::F32, case, activation, with_scale, start)
}

/// Forward and all gradients; parameter gradients start from `start`, the others from NaN.
fn evaluate_in(
    device: &Device,
    precision: Precision,
    case: &Case,
    activation: Activation,
    with_scale: bool,
    start: f32,
) -> Results {
    let s = case.sizes;
    let up = |x: &[f32]| -> Buffer<f32> { device.upload(x).unwrap() };
    let narrow = |x: &[f32]| -> Buffer<f32> { device.upload_in(x, precision).unwrap() };
    let filled = |len: usize, value: f32| -> Buffer<f32> { device.upload(&vec![value; len]).unwrap() };
    let (x, weight, bias, dy) = (narrow(&case.x), narrow(&case.weight), up(&case.bias), narrow(&case.dy));
    let row_scale = up(&case.row_scale);
    let out = Results {
        y: narrow(&vec![f32::NAN; s.n * s.k]),
        dx: narrow(&vec![f32::NAN; s.n * s.c]),
        dweight: filled(s.c * s.k, start),
        dbias: filled(s.k, start),
    };
    matmul::linear_forward(s, &out.y, &x, &weight, Some(&bias), activation).unwrap();
    let y = (activation != Activation::Identity).then_some(&out.y);
    let gradient = OutputGradient { dy: &dy, y, activation, row_scale: with_scale.then_some(&row_scale) };
    matmul::linear_input_gradient(s, &out.dx, &gradient, &weight).unwrap();
    matmul::linear_weight_gradient(s, (&out.dweight, Some(&out.dbias)), &x, &gradient).unwrap();
    out
}

fn check(device: &Device, n: usize, c: usize, k: usize, activation: Activation, with_scale: bool) {
    let case = case(n, c, k);
    let start = 0.5;
    let out = evaluate(device, &case, activation, with_scale, start);
    let (x, weight) = (to_f64(&case.x), to_f64(&case.weight));
    let y = forward(case.sizes, &x, &weight, &to_f64(&case.bias), activation);
    let what = format!("{n}x{c}x{k} {activation:?}");
    // A chain of additions as long as the depth errs like the square root of it, in units of its terms.
    let close = |name: &str, found: &Buffer<f32>, expected: &[f64], depth: usize, term: f64| {
        let floor = term * (depth as f64).sqrt();
        let error = relative_error(&found.read().unwrap(), expected, floor);
        let tolerance = 4e-7 * (depth as f64).sqrt().max(4.0);
        assert!(error <= tolerance, "{what} {name}: relative error {error:.3e}, at most {tolerance:.1e} allowed");
    };
    let weight_size = 1.0 / (c as f64).sqrt();
    close("y", &out.y, &y, c, weight_size);
    // The derivative is taken from the output as it was rounded, as the kernel does.
    let y = to_f64(&out.y.read().unwrap());
    let scale = if with_scale { to_f64(&case.row_scale) } else { vec![1.0; n] };
    let mut expected = backward(case.sizes, &x, &weight, &y, &to_f64(&case.dy), &scale, activation);
    expected.dweight.iter_mut().chain(&mut expected.dbias).for_each(|d| *d += f64::from(start));
    close("dx", &out.dx, &expected.dx, k, weight_size);
    close("dweight", &out.dweight, &expected.dweight, n, 1.0);
    close("dbias", &out.dbias, &expected.dbias, n, 1.0);
}

#[test]
fn matches_the_reference_at_any_size() {
    on_each_device(|device| {
        let sizes = [
            (1, 1, 1),
            (1, 31, 33),
            (33, 1, 31),
            (31, 33, 1),
            (64, 64, 64),
            (65, 130, 70),
            (7, 300, 9),
            (130, 17, 129),
        ];
        for (i, (n, c, k)) in sizes.into_iter().enumerate() {
            check(device, n, c, k, ACTIVATIONS[i % 4], i % 2 == 0);
        }
    });
}

/// C (m, n) = A (m, k) B (k, n) as a plain loop gives it in a precision.
fn naive_product(
    precision: Precision,
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut c = vec![0.0f32; m * n];
    for i in 0..m {
        for d in 0..k {
            let a = operand(precision, a(i, d) as f32);
            for j in 0..n {
                c[i * n + j] += a * operand(precision, b(d, j) as f32);
            }
        }
    }
    to_f64(&c)
}

/// Every product errs at most twice as much as a plain loop in the same precision does.
fn check_in(device: &Device, precision: Precision, [n, c, k]: [usize; 3], activation: Activation, with_scale: bool) {
    let mut case = case(n, c, k);
    for values in [&mut case.x, &mut case.weight, &mut case.dy] {
        values.iter_mut().for_each(|x| *x = stored(precision, *x));
    }
    let start = 0.5;
    let out = evaluate_in(device, precision, &case, activation, with_scale, start);
    let [x, weight, bias, dy] = [&case.x, &case.weight, &case.bias, &case.dy].map(|v| to_f64(v));
    let what = |name: &str| format!("{n}x{c}x{k} {activation:?} {precision} {name}");
    let close = |name: &str, stored: Precision, depth: usize, found: &Buffer<f32>, exact: &[f64], naive: &[f64]| {
        let cut_off = cut_off_on(device, precision, depth);
        at_most_twice(&what(name), stored, &found.read().unwrap(), exact, naive, cut_off);
    };
    let as_stored =
        |values: Vec<f64>| -> Vec<f64> { values.into_iter().map(|v| f64::from(stored(precision, v as f32))).collect() };
    let y = forward(case.sizes, &x, &weight, &bias, activation);
    let z = naive_product(precision, [n, k, c], |i, d| x[i * c + d], |d, j| weight[d * k + j]);
    let naive = as_stored(z.iter().enumerate().map(|(i, z)| act(activation, z + bias[i % k])).collect());
    close("y", precision, c, &out.y, &y, &naive);
    let y = to_f64(&out.y.read().unwrap());
    let scale = if with_scale { to_f64(&case.row_scale) } else { vec![1.0; n] };
    let mut exact = backward(case.sizes, &x, &weight, &y, &dy, &scale, activation);
    exact.dweight.iter_mut().chain(&mut exact.dbias).for_each(|d| *d += f64::from(start));
    let g: Vec<f64> = (0..n * k).map(|i| dy[i] * derivative(activation, y[i]) * scale[i / k]).collect();
    let naive = as_stored(naive_product(precision, [n, c, k], |i, d| g[i * k + d], |d, j| weight[j * k + d]));
    close("dx", precision, k, &out.dx, &exact.dx, &naive);
    let mut naive = naive_product(precision, [c, k, n], |i, d| x[d * c + i], |d, j| g[d * k + j]);
    naive.iter_mut().for_each(|d| *d += f64::from(start));
    close("dweight", Precision::F32, n, &out.dweight, &exact.dweight, &naive);
    close("dbias", Precision::F32, 0, &out.dbias, &exact.dbias, &exact.dbias);
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn every_precision_errs_as_plain_loops_do() {
    let sizes = [
        [1, 1, 1],
        [7, 8, 15],
        [8, 15, 17],
        [15, 17, 64],
        [17, 64, 129],
        [64, 129, 255],
        [129, 255, 1],
        [255, 1, 7],
        [1, 7, 8],
        [64, 64, 64],
        [129, 64, 8],
        [8, 128, 64],
        [255, 129, 255],
        [130, 256, 136],
    ];
    on_each_device(|device| {
        for precision in [Precision::Tf32, Precision::Bf16, Precision::F16] {
            for (i, size) in sizes.into_iter().enumerate() {
                check_in(device, precision, size, ACTIVATIONS[i % 4], i % 2 == 0);
            }
        }
    });
}

/// With edges that no tile divides, and with pieces of 16 bytes, several tiles each way.
#[test]
fn every_tile_of_every_precision_gives_the_product() {
    on_each_device(|device| {
        on_each_tile(device, Products::Linear, |device, precision, [rows, columns]| {
            let (m, n) = (rows + 8, columns + 8);
            for size in [[m, m.max(n), n], [m - 5, m.max(n) - 7, n - 3]] {
                match precision {
                    Precision::F32 => check(device, size[0], size[1], size[2], Activation::LeakyRelu(0.2), true),
                    _ => check_in(device, precision, size, Activation::LeakyRelu(0.2), true),
                }
            }
        });
    });
}

/// More rows of tiles than a grid's y takes go on along z. Here y takes two of three, so that the last block has nothing to do.
#[test]
fn rows_of_tiles_go_on_along_z() {
    on_each_device(|device| {
        on_each_tile(device, Products::Linear, |device, precision, [rows, columns]| {
            let tile = kernel::LINEAR_FORWARD.iter().find(|tile| [tile.rows, tile.columns] == [rows, columns]);
            let Some(kernel) = tile.and_then(|tile| tile.kernel.0[precision as usize]) else { return };
            let (n, c, k) = (2 * rows + 3, 16, 16);
            let case = case(n, c, k);
            let narrow = |values: &[f32]| device.upload_in(values, precision).unwrap();
            let (x, weight) = (narrow(&case.x), narrow(&case.weight));
            let [y, expected] = [n * k, n * k].map(|len| device.zeros_in(len, precision).unwrap());
            matmul::linear_forward(case.sizes, &expected, &x, &weight, None, Activation::Identity).unwrap();
            // y, x, weight, no bias; the identity, a leaky ReLU of slope 1; N, C, K.
            let pointers = [y.raw_address(), x.raw_address(), weight.raw_address(), 0];
            let (activation, sizes) = ([0, 1f32.to_bits()], [n, c, k].map(|size| size as u32));
            let pointers = pointers.iter().map(|p| std::ptr::from_ref(p).cast());
            let sizes = sizes.iter().map(|s| std::ptr::from_ref(s).cast());
            let arguments: Vec<*const std::ffi::c_void> =
                pointers.chain([activation.as_ptr().cast()]).chain(sizes).collect();
            // SAFETY: the kernel's arguments; the grid has all of its tiles.
            unsafe { device.launch_raw(kernel, [1, 2, 2], &arguments) }.unwrap();
            let (y, expected) = (y.read().unwrap(), expected.read().unwrap());
            let differs = (0..n * k).find(|i| y[*i] != expected[*i]);
            assert!(
                differs.is_none(),
                "{}: element {differs:?}, {:?}",
                kernel.name,
                differs.map(|i| (y[i], expected[i]))
            );
        });
    });
}

#[test]
fn more_rows_of_tiles_than_a_grid_has_along_y() {
    on_fast_devices(|device| {
        let tuning = Tuning { forced_tile: Some((64, 64)), ..device.tuning().clone() };
        let device = device.with_tuning(tuning).unwrap();
        let n = 65_536 * 64 + 1;
        let x: Vec<f32> = (0..n).map(|i| (i % 8191) as f32).collect();
        let (x, weight, y) = (device.upload(&x).unwrap(), device.upload(&[2.0]).unwrap(), device.zeros(n).unwrap());
        matmul::linear_forward(Linear { n, c: 1, k: 1 }, &y, &x, &weight, None, Activation::Identity).unwrap();
        assert!(y.read().unwrap().iter().enumerate().all(|(i, y)| *y == 2.0 * (i % 8191) as f32));
    });
}

#[test]
fn a_tile_that_no_product_has_is_refused() {
    let tuning = Device::host(1).unwrap().built_in_tuning();
    let error = tuning.clone().with_forced_tile("96x64").unwrap_err().to_string();
    assert!(error.starts_with("no product has tiles of \"96x64\"; there are "), "{error}");
    assert!(error.contains("256x32, 128x64, 256x16") && error.ends_with(", 64x64"), "{error}");
    assert_eq!(tuning.with_forced_tile("128x64").unwrap().forced_tile, Some((128, 64)));
}

/// A sum of products as a tensor core has it, four at once, with `extra` bits below those of f32.
fn cut_off_sum(products: &[f64], extra: i32) -> f64 {
    // x without what lies below 2^place.
    let cut = |x: f64, place: i32| (x * 2f64.powi(-place)).trunc() * 2f64.powi(place);
    let exponent = |x: f64| if x == 0.0 { -126 } else { (x.to_bits() >> 52 & 0x7ff) as i32 - 1023 };
    products.chunks(4).fold(0.0, |sum, four| {
        let largest = four.iter().chain([&sum]).map(|x| exponent(*x)).max().unwrap();
        let aligned: f64 = four.iter().chain([&sum]).map(|x| cut(*x, largest - 23 - extra)).sum();
        cut(aligned, exponent(aligned) - 23)
    })
}

/// What `cut_off` allows on a GPU is enough for sums like a tensor core's, of any generation. What is allowed elsewhere is not.
#[test]
fn the_tolerance_on_a_gpu_covers_sums_that_are_cut_off() {
    let mut beyond = Vec::new();
    for (m, k, n) in [(130, 256, 136), (64, 1024, 64), (8, 8192, 40), (64, 8, 64), (256, 3, 10)] {
        let mut random = Random((m * k + n) as u64);
        let [a, b] = [m * k, k * n].map(|len| -> Vec<f64> {
            random.normals(len).iter().map(|x| f64::from(operand(Precision::Tf32, *x))).collect()
        });
        let naive = naive_product(Precision::Tf32, [m, n, k], |i, d| a[i * k + d], |d, j| b[d * n + j]);
        let products = |i: usize| (0..k).map(|d| a[i / n * k + d] * b[d * n + i % n]).collect::<Vec<_>>();
        let exact: Vec<f64> = (0..m * n).map(|i| products(i).iter().sum()).collect();
        let naive: Vec<f32> = naive.iter().map(|x| *x as f32).collect();
        let elsewhere = 2.0 * relative_error(&naive, &exact, 1e-30).max(1e-6);
        for extra in [0, 1, 2] {
            let found: Vec<f32> = (0..m * n).map(|i| cut_off_sum(&products(i), extra) as f32).collect();
            let error = relative_error(&found, &exact, 1e-30);
            println!(
                "{m} x {k} x {n}, {extra} extra bits: {error:.2e}, elsewhere {elsewhere:.2e}, {:.2e} more",
                cut_off(k)
            );
            assert!(error <= elsewhere + cut_off(k), "{m} x {k} x {n}, {extra} bits: {error:.3e}");
            if error > elsewhere {
                beyond.push((m, k, n, extra));
            }
        }
    }
    // The largest case of `every_precision_errs_as_plain_loops_do`, K = 256, comes to three quarters of that.
    assert!(beyond.contains(&(64, 1024, 64, 1)), "{beyond:?}");
}

#[test]
fn precisions_do_not_mix() {
    let device = Device::host(1).unwrap();
    let s = Linear { n: 2, c: 3, k: 4 };
    let (y, x) = (device.zeros_in(8, Precision::Bf16).unwrap(), device.zeros_in(6, Precision::Bf16).unwrap());
    let weight: Buffer<f32> = device.zeros(12).unwrap();
    let error = matmul::linear_forward(s, &y, &x, &weight, None, Activation::RELU).unwrap_err().to_string();
    assert!(error.contains("a buffer of float, expected bf16"), "{error}");
}

#[test]
fn matches_the_reference_at_the_sizes_of_networks() {
    on_fast_devices(|device| {
        for (n, c, k) in
            [(64, 100, 128), (64, 1024, 784), (128, 784, 512), (128, 256, 1), (1000, 33, 31), (3, 1000, 999)]
        {
            for activation in ACTIVATIONS {
                check(device, n, c, k, activation, true);
            }
        }
    });
}

#[test]
fn the_reference_gradient_is_the_slope_of_the_reference() {
    for activation in ACTIVATIONS {
        let case = case(3, 5, 4);
        let (x, weight, bias) = (to_f64(&case.x), to_f64(&case.weight), to_f64(&case.bias));
        let (dy, scale) = (to_f64(&case.dy), to_f64(&case.row_scale));
        let loss = |x: &[f64], weight: &[f64], bias: &[f64]| -> f64 {
            let y = forward(case.sizes, x, weight, bias, activation);
            y.iter().enumerate().map(|(i, y)| y * dy[i] * scale[i / 4]).sum()
        };
        let y = forward(case.sizes, &x, &weight, &bias, activation);
        let found = backward(case.sizes, &x, &weight, &y, &dy, &scale, activation);
        let close = |name: &str, found: &[f64], slope: &[f64]| {
            for (f, s) in found.iter().zip(slope) {
                assert!((f - s).abs() < 1e-7, "{activation:?} {name}: {f} beside a slope of {s}");
            }
        };
        close("dx", &found.dx, &central_differences(&x, |x| loss(x, &weight, &bias)));
        close("dweight", &found.dweight, &central_differences(&weight, |w| loss(&x, w, &bias)));
        close("dbias", &found.dbias, &central_differences(&bias, |b| loss(&x, &weight, b)));
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let case = case(130, 300, 260);
    assert_same_on_any_threads(|device| {
        let out = evaluate(device, &case, Activation::Tanh, true, 0.0);
        [out.y, out.dx, out.dweight, out.dbias]
    });
}

#[test]
fn matches_pytorch() {
    let file = include_bytes!("../goldens/matmul.safetensors");
    let golden = safetensors::SafeTensors::deserialize(file).unwrap();
    let tensor = |name: &str| -> Vec<f32> {
        let bytes = golden.tensor(name).unwrap().data();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    on_each_device(|device| {
        for (name, activation) in [("leaky", Activation::LeakyRelu(0.2)), ("tanh", Activation::Tanh)] {
            let case = Case {
                sizes: Linear { n: 5, c: 19, k: 7 },
                x: tensor("x"),
                weight: tensor("weight"),
                bias: tensor("bias"),
                dy: tensor("dy"),
                row_scale: tensor("row_scale"),
            };
            let out = evaluate(device, &case, activation, true, 0.0);
            for (part, found) in [("y", &out.y), ("dx", &out.dx), ("dweight", &out.dweight), ("dbias", &out.dbias)] {
                let name = format!("{name}.{part}");
                assert_close(&name, found, &to_f64(&tensor(&name)), 2e-6);
            }
        }
    });
}

#[test]
fn extremes_pass_through() {
    on_each_device(|device| {
        let s = Linear { n: 2, c: 2, k: 3 };
        let up = |x: &[f32]| -> Buffer<f32> { device.upload(x).unwrap() };
        let y: Buffer<f32> = device.zeros(6).unwrap();
        let weight = up(&[1.0, 2.0, -1.0, 0.0, 0.0, 0.0]);
        // A non-finite input touches its own row alone.
        let x = up(&[f32::INFINITY, 1.0, 3.0, -4.0]);
        matmul::linear_forward(s, &y, &x, &weight, None, Activation::LeakyRelu(0.5)).unwrap();
        assert_eq!(y.read().unwrap(), [f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY, 3.0, 6.0, -1.5]);
        matmul::linear_forward(s, &y, &x, &weight, None, Activation::Tanh).unwrap();
        assert_eq!(y.read().unwrap()[..3], [1.0, 1.0, -1.0]);
        let x = up(&[f32::NAN, 1.0, 0.0, -0.0]);
        matmul::linear_forward(s, &y, &x, &weight, None, Activation::Identity).unwrap();
        let y = y.read().unwrap();
        assert!(y[..3].iter().all(|y| y.is_nan()) && y[3..] == [0.0; 3], "{y:?}");
    });
}

#[test]
fn wrong_shapes_are_refused_with_the_numbers() {
    let device = Device::host(1).unwrap();
    let zeros = |len| -> Buffer<f32> { device.zeros(len).unwrap() };
    let s = Linear { n: 2, c: 3, k: 4 };
    let message = |result: zgan::Result<()>| result.unwrap_err().to_string();
    let forward = |y, x, w, b| {
        message(matmul::linear_forward(s, &zeros(y), &zeros(x), &zeros(w), Some(&zeros(b)), Activation::RELU))
    };
    assert_eq!(forward(7, 6, 12, 4), "linear forward: y (N, K) has 7 elements, expected 8");
    assert_eq!(forward(8, 5, 12, 4), "linear forward: x (N, C) has 5 elements, expected 6");
    assert_eq!(forward(8, 6, 11, 4), "linear forward: weight (C, K) has 11 elements, expected 12");
    assert_eq!(forward(8, 6, 12, 3), "linear forward: bias (K) has 3 elements, expected 4");
    let (dy, y, scale) = (zeros(8), zeros(7), zeros(3));
    let gradient = |y, row_scale, activation| OutputGradient { dy: &dy, y, activation, row_scale };
    let backward = |g: OutputGradient, bias| {
        message(matmul::linear_weight_gradient(s, (&zeros(12), Some(&zeros(bias))), &zeros(6), &g))
    };
    let found = backward(gradient(None, None, Activation::Identity), 3);
    assert_eq!(found, "linear weight gradient: dbias (K) has 3 elements, expected 4");
    assert!(backward(gradient(None, None, Activation::Tanh), 4).contains("needs the output y"));
    assert!(backward(gradient(Some(&y), None, Activation::Tanh), 4).contains("y has 7 elements, expected 8"));
    assert!(
        backward(gradient(None, Some(&scale), Activation::Identity), 4)
            .contains("row_scale has 3 elements, expected 2")
    );
    let empty = Linear { n: 0, c: 3, k: 4 };
    let found = message(matmul::linear_forward(empty, &zeros(0), &zeros(0), &zeros(12), None, Activation::RELU));
    assert!(found.contains("N=0"), "{found}");
}
