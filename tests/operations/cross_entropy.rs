//! `kernels/cross_entropy.cu` against an f64 loop, central differences of it, and PyTorch.

use crate::common::*;
use zgan::device::{Buffer, Device};
use zgan::ops::cross_entropy::{self, Evaluation, workspace_len};

const ABSENT: u32 = u32::MAX;

/// Loss, how many are right, and the gradient.
fn reference(x: &[f64], labels: &[u32], weight: f64) -> (f64, usize, Vec<f64>) {
    let classes = x.len() / labels.len();
    let scale = weight / labels.len() as f64;
    let (mut loss, mut correct, mut gradient) = (0.0, 0, vec![0.0; x.len()]);
    for ((row, dx), &label) in x.chunks(classes).zip(gradient.chunks_mut(classes)).zip(labels) {
        if label as usize >= classes {
            continue;
        }
        let m = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = m + row.iter().map(|x| (x - m).exp()).sum::<f64>().ln();
        loss += scale * (lse - row[label as usize]);
        correct += usize::from(row.iter().position(|x| *x == m) == Some(label as usize));
        for (k, (d, x)) in dx.iter_mut().zip(row).enumerate() {
            *d = scale * ((x - lse).exp() - f64::from(u8::from(k == label as usize)));
        }
    }
    (loss, correct, gradient)
}

fn evaluate(device: &Device, x: &[f32], labels: &[u32], weight: f32) -> (Buffer<f32>, Buffer<f32>) {
    let nans = |n: usize| device.upload(&vec![f32::NAN; n]).unwrap();
    let (statistics, dx) = (nans(2), nans(x.len()));
    let out = Evaluation { statistics: &statistics, dx: &dx };
    let (x, workspace) = (device.upload(x).unwrap(), nans(workspace_len(labels.len())));
    cross_entropy::evaluate(&out, &x, &device.upload(labels).unwrap(), weight, &workspace).unwrap();
    (statistics, dx)
}

#[track_caller]
fn check(device: &Device, x: &[f32], labels: &[u32], tolerance: f64) {
    let (loss, correct, gradient) = reference(&to_f64(x), labels, f64::from(0.3f32));
    let (statistics, dx) = evaluate(device, x, labels, 0.3);
    assert_close("loss", &statistics.view(0..1), &[loss], tolerance);
    assert_eq!(statistics.read().unwrap()[1], correct as f32);
    assert_close("dx", &dx, &gradient, tolerance);
}

#[test]
fn the_reference_gradient_is_the_derivative_of_its_loss() {
    let x = to_f64(&Random(1).normals(12));
    let labels = [2, ABSENT, 0];
    let expected = central_differences(&x, |x| reference(x, &labels, 0.7).0);
    for (found, expected) in reference(&x, &labels, 0.7).2.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    }
}

#[test]
fn matches_the_reference_at_any_size() {
    on_each_device(|device| {
        for (n, classes) in [(1, 2), (1, 1000), (31, 33), (64, 10), (200, 31), (1000, 3)] {
            let mut random = Random((n + classes) as u64);
            let x: Vec<f32> = random.normals(n * classes).iter().map(|x| 3.0 * x).collect();
            let mut labels: Vec<u32> = (0..n).map(|_| random.below(classes) as u32).collect();
            if n > 1 {
                labels[n / 2] = ABSENT;
            }
            check(device, &x, &labels, 3e-6);
        }
    });
}

#[test]
fn extremes() {
    on_each_device(|device| {
        check(device, &[1e4, 1e4 - 1.0, -1e4], &[1], 1e-6);
        check(device, &[-1e38, 1e38, 0.0], &[0], 1e-6);
        check(device, &[f32::NEG_INFINITY, 2.0, 1.0], &[1], 1e-6);
        // The first of equals counts as the answer.
        check(device, &[5.0, 5.0, 5.0, 5.0], &[0, 1], 1e-6);
        let (statistics, dx) = evaluate(device, &[1.0, 2.0], &[ABSENT], 1.0);
        assert_eq!((statistics.read().unwrap(), dx.read().unwrap()), (vec![0.0; 2], vec![0.0; 2]));
        let (statistics, _) = evaluate(device, &[1.0, f32::NAN, 2.0], &[0], 1.0);
        assert!(statistics.read().unwrap()[0].is_nan());
    });
}

#[test]
fn matches_pytorch() {
    let golden = Golden::open("cross_entropy");
    on_each_device(|device| {
        let (statistics, dx) = evaluate(device, &golden.f32("x"), &golden.labels("labels"), 0.3);
        assert_close("statistics", &statistics, &golden.f64("statistics"), 1e-6);
        assert_close("dx", &dx, &golden.f64("dx"), 1e-6);
    });
}

#[test]
fn refuses_shapes_that_do_not_fit() {
    let device = Device::host(1).unwrap();
    let buffer = |n| device.zeros::<f32>(n).unwrap();
    let (statistics, dx, labels) = (buffer(2), buffer(6), device.zeros::<u32>(2).unwrap());
    let out = Evaluation { statistics: &statistics, dx: &dx };
    let error = cross_entropy::evaluate(&out, &buffer(7), &labels, 1.0, &buffer(4)).unwrap_err().to_string();
    assert_eq!(error, "cross entropy: x has 7 elements, expected N * classes with N = 2");
    assert!(cross_entropy::evaluate(&out, &buffer(8), &labels, 1.0, &buffer(4)).is_err());
}
