//! `kernels/diffaug.cu` against an f64 loop in the three steps of the original, its transpose, and PyTorch.

use crate::common::*;
use zgan::device::{Buffer, Device};
use zgan::ops::diffaug::{self, Draw, Strengths};
use zgan::ops::state::{State, StateBuffer};
use zgan::random::philox;

const SEED: u64 = 0x0123_4567_89ab_cdef;
const STREAM: u32 = 4;
const STEP: u32 = 9;
const ALL: Strengths = Strengths { colour: 1.0, translation: 1.0, cutout: 1.0 };

fn state(device: &Device) -> StateBuffer {
    StateBuffer::new(device, &State { step: STEP, ..State::new(SEED, [0.0; 2], 0, 0) }).unwrap()
}

/// One image, step after step, as DiffAugment's program does it.
fn changed(x: &[f64], row: u32, of: Strengths, [h, w, c]: [usize; 3]) -> Vec<f64> {
    let words = |purpose| philox([row, STREAM, STEP, purpose], [SEED as u32, (SEED >> 32) as u32]);
    let ([b, s, k, down], [right, top, left, _]) = (words(0), words(1));
    let u = |word: u32| f64::from(word >> 8) / 16_777_216.0;
    let below = |word: u32, n: usize| ((u64::from(word) * n as u64) >> 32) as i64;
    let [colour, translation, cutout] = [of.colour, of.translation, of.cutout].map(f64::from);
    let mut x: Vec<f64> = x.iter().map(|x| x + colour * (u(b) - 0.5)).collect();
    for pixel in x.chunks_mut(c) {
        let mean = pixel.iter().sum::<f64>() / c as f64;
        pixel.iter_mut().for_each(|x| *x = (*x - mean) * (1.0 + colour * (2.0 * u(s) - 1.0)) + mean);
    }
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    x.iter_mut().for_each(|x| *x = (*x - mean) * (1.0 + colour * (u(k) - 0.5)) + mean);
    let shift = |word: u32, side: usize| {
        let most = (0.125 * translation * side as f64 + 0.5).floor() as usize;
        below(word, 2 * most + 1) - most as i64
    };
    let rectangle = |word: u32, side: usize| {
        let long = (0.5 * cutout * side as f64 + 0.5).floor() as i64;
        let first = below(word, side + 1 - (long % 2) as usize) - long / 2;
        first..first + long
    };
    let (down, right, rows, columns) = (shift(down, h), shift(right, w), rectangle(top, h), rectangle(left, w));
    let at = |i: usize| {
        let (row, column, channel) = ((i / c / w) as i64, (i / c % w) as i64, i % c);
        let (from_row, from_column) = (row + down, column + right);
        let outside = !(0..h as i64).contains(&from_row) || !(0..w as i64).contains(&from_column);
        if outside || rows.contains(&row) && columns.contains(&column) {
            return 0.0;
        }
        x[(from_row as usize * w + from_column as usize) * c + channel]
    };
    (0..x.len()).map(at).collect()
}

fn reference(x: &[f64], first: usize, of: Strengths, shape: [usize; 4]) -> Vec<f64> {
    let [n, h, w, c] = shape;
    let images = x.chunks(x.len() / n).zip(first as u32..);
    images.flat_map(|(image, row)| changed(image, row, of, [h, w, c])).collect()
}

const SHAPES: [[usize; 4]; 7] =
    [[1, 1, 1, 1], [3, 1, 31, 2], [5, 33, 7, 3], [33, 8, 8, 3], [2, 31, 33, 1], [4, 28, 28, 1], [2, 64, 40, 5]];

fn parts() -> [Strengths; 5] {
    let none = Strengths::default();
    let [colour, translation] = [Strengths { colour: 1.0, ..none }, Strengths { translation: 1.0, ..none }];
    [
        ALL,
        colour,
        translation,
        Strengths { cutout: 1.0, ..none },
        Strengths { colour: 0.5, translation: 0.6, cutout: 0.3 },
    ]
}

#[test]
fn forward_and_backward_match_the_reference_at_any_size() {
    on_each_device(|device| {
        for (shape, of) in SHAPES.iter().flat_map(|shape| parts().map(|of| (*shape, of))) {
            let (len, first) = (shape.iter().product::<usize>(), 7);
            let mut random = Random(len as u64);
            let (x, dy) = (random.normals(len), random.normals(len));
            let state = state(device);
            let draw = Draw { state: &state, stream: STREAM, first };
            let [y, dx]: [Buffer<f32>; 2] = [(); 2].map(|()| device.upload(&vec![f32::NAN; len]).unwrap());
            diffaug::forward(&y, &device.upload(&x).unwrap(), of, draw, shape).unwrap();
            let expected = reference(&to_f64(&x), first, of, shape);
            assert_close(&format!("{shape:?} {of:?} y"), &y, &expected, 1e-5);
            diffaug::backward(&dx, &device.upload(&dy).unwrap(), of, draw, shape).unwrap();
            // An affine map: dy . (f(x + v) - f(x)) = dx . v, for any v.
            let (dx, v) = (to_f64(&dx.read().unwrap()), to_f64(&random.normals(len)));
            let moved: Vec<f64> = x.iter().zip(&v).map(|(x, v)| f64::from(*x) + v).collect();
            let differences = reference(&moved, first, of, shape).into_iter().zip(&expected).map(|(a, b)| a - b);
            let along: f64 = differences.zip(&dy).map(|(d, dy)| d * f64::from(*dy)).sum();
            let found: f64 = dx.iter().zip(&v).map(|(dx, v)| dx * v).sum();
            assert!(
                (along - found).abs() <= 1e-5 * (len as f64).sqrt().max(along.abs()),
                "{shape:?}: {found}, {along}"
            );
        }
    });
}

#[test]
fn the_gradient_is_that_of_central_differences() {
    on_each_device(|device| {
        let (shape, state) = ([2, 5, 4, 3], state(device));
        let (x, dy) = (Random(1).normals(120), Random(2).normals(120));
        let dx = device.zeros(120).unwrap();
        let draw = Draw { state: &state, stream: STREAM, first: 0 };
        diffaug::backward(&dx, &device.upload(&dy).unwrap(), ALL, draw, shape).unwrap();
        let loss = |x: &[f64]| reference(x, 0, ALL, shape).iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum();
        assert_close("dx", &dx, &central_differences(&to_f64(&x), loss), 1e-5);
    });
}

#[test]
fn without_strength_nothing_changes() {
    on_each_device(|device| {
        let (shape, state) = ([3, 9, 8, 3], state(device));
        let x = Random(3).normals(3 * 9 * 8 * 3);
        let [y, from] = [device.zeros(x.len()).unwrap(), device.upload(&x).unwrap()];
        let draw = Draw { state: &state, stream: STREAM, first: 0 };
        for pass in [diffaug::forward, diffaug::backward] {
            pass(&y, &from, Strengths::default(), draw, shape).unwrap();
            assert_eq!(y.read().unwrap(), x);
        }
    });
}

/// Of `random` numbers that PyTorch drew: tests/goldens/diffaug.py tells which words make them.
#[test]
fn matches_pytorch() {
    let golden = Golden::open("diffaug");
    on_each_device(|device| {
        let shape = [6, 12, 10, 3];
        let state = StateBuffer::new(device, &State { step: 3, ..State::new(1, [0.0; 2], 0, 0) }).unwrap();
        let draw = Draw { state: &state, stream: STREAM, first: 5 };
        let [y, dx]: [Buffer<f32>; 2] = [(); 2].map(|()| device.zeros(shape.iter().product()).unwrap());
        diffaug::forward(&y, &device.upload(&golden.f32("x")).unwrap(), ALL, draw, shape).unwrap();
        diffaug::backward(&dx, &device.upload(&golden.f32("dy")).unwrap(), ALL, draw, shape).unwrap();
        assert_close("y", &y, &golden.f64("y"), 1e-6);
        assert_close("dx", &dx, &golden.f64("dx"), 1e-6);
    });
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn in_16_bits_it_is_as_good_as_rounding_the_result() {
    on_each_device(|device| {
        for precision in NARROW {
            let (shape, state) = ([3, 16, 9, 3], state(device));
            let x = rounded(&Random(4).normals(shape.iter().product()), precision);
            let y = device.zeros_in(x.len(), precision).unwrap();
            let draw = Draw { state: &state, stream: STREAM, first: 2 };
            diffaug::forward(&y, &device.upload_in(&x, precision).unwrap(), ALL, draw, shape).unwrap();
            assert_as_good("y", &y, &reference(&to_f64(&x), 2, ALL, shape), 1e-6);
        }
    });
}

#[test]
fn refuses_what_does_not_fit() {
    let device = Device::host(1).unwrap();
    let (state, buffer) = (state(&device), |n: usize| -> Buffer<f32> { device.zeros(n).unwrap() });
    let draw = Draw { state: &state, stream: 0, first: 0 };
    let error = |y, x, of, shape| diffaug::forward(&buffer(y), &buffer(x), of, draw, shape).unwrap_err().to_string();
    assert_eq!(error(11, 12, ALL, [1, 2, 2, 3]), "diffaug forward: y has 11 elements, expected 12");
    assert_eq!(error(12, 13, ALL, [1, 2, 2, 3]), "diffaug forward: x has 13 elements, expected 12");
    assert!(error(12, 12, ALL, [0, 2, 2, 3]).contains("0 of them"));
    let strong = Strengths { cutout: 2.5, ..ALL };
    assert!(error(12, 12, strong, [1, 2, 2, 3]).contains("expected strengths from 0 to 1"));
}
