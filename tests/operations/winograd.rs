//! `kernels/winograd.cu` beside the direct form of `kernels/conv.cu`: both against f64 loops, whose gradients `conv.rs` compares
//! with central differences.

use super::conv::{LEAKY, Setup, all_passes, evaluate, plain, wide};
use crate::common::*;
use zgan::device::{Buffer, Convolution, Device, Tuning, trace};
use zgan::ops::Activation;

fn rms(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), x| (count + 1, sum + x * x));
    (sum / f64::from(count)).sqrt()
}

/// How many kernels were launched whose names begin so.
fn launched(begin: &str, work: impl FnOnce()) -> usize {
    let list = trace(|| {
        work();
        Ok(())
    });
    list.unwrap().iter().filter(|launched| launched.kernel.starts_with(begin)).count()
}

/// Compares the two forms' errors. In each setup Winograd's may be 4 times the direct form's, or a few roundings; on the average
/// of many setups it is at most 3 times as large, 4 times in the gradient of the filters.
fn check(device: &Device, setups: &[Setup]) {
    let ratios: Vec<[f64; 4]> = setups.iter().map(|setup| compare(device, setup)).collect();
    for (i, most) in [3.0, 3.0, 4.0, 3.0].into_iter().enumerate() {
        let mean = ratios.iter().map(|ratios| ratios[i]).sum::<f64>() / ratios.len() as f64;
        println!("{}: result {i}: {mean:.2} times the direct form's error", device.description());
        assert!(mean <= most, "result {i}: {mean} times the direct form's error, at most {most} are allowed");
    }
}

fn compare(device: &Device, setup: &Setup) -> [f64; 4] {
    let narrow = setup.tensors();
    let t = wide(&narrow);
    let errors = |form| {
        let out = evaluate(&device.with_convolution(form), setup, &narrow);
        let y = out.y.read().unwrap();
        let exact = all_passes(setup, None, &t, &to_f64(&y));
        let error = |found: &Buffer<f32>, exact: &[f64]| {
            let found = found.read().unwrap();
            rms(found.iter().zip(exact).map(|(f, e)| f64::from(*f) - e)) / rms(exact.iter().copied())
        };
        [&out.y, &out.dx, &out.dfilters, &out.dbias].iter().zip(&exact).map(|(f, e)| error(f, e)).collect::<Vec<_>>()
    };
    let (direct, winograd) = (errors(Convolution::Direct), errors(Convolution::Winograd));
    for (i, name) in ["y", "dx", "dfilters", "dbias"].into_iter().enumerate() {
        let most = 4.0 * direct[i].max(2e-7);
        let (found, direct) = (winograd[i], direct[i]);
        assert!(found <= most, "{setup:?} {name}: rms {found:.2e}, at most {most:.2e}; the direct form {direct:.2e}");
    }
    std::array::from_fn(|i| winograd[i] / direct[i])
}

/// Every feature.
fn fused(seen: [usize; 4], k: usize) -> Vec<Setup> {
    let fused = Setup { before: LEAKY, bias: true, row_scale: true, ..plain(seen, k, [3, 3], 1, 1) };
    vec![
        plain(seen, k, [3, 3], 1, 1),
        fused,
        Setup { before: Activation::RELU, ..plain(seen, k, [3, 3], 1, 1) },
        Setup { accumulate: true, ..fused },
        Setup { after: Activation::Tanh, ..fused },
        Setup { after: LEAKY, pool: true, residual: true, ..fused },
        Setup { after: LEAKY, row_scale: false, ..fused },
        Setup { pool: true, accumulate: true, residual: true, ..fused },
        Setup { upsample: true, tables: 1, before: Activation::RELU, ..fused },
        Setup { upsample: true, tables: 2, accumulate: true, ..fused },
        Setup { upsample: true, pool: true, tables: 2, before: LEAKY, after: LEAKY, ..fused },
        Setup { upsample: true, before: Activation::Identity, row_scale: false, ..fused },
    ]
}

#[test]
fn every_feature_is_as_good_as_in_the_direct_form() {
    on_each_device(|device| check(device, &fused([2, 6, 10, 16], 48)));
}

#[test]
fn every_size_is_as_good_as_in_the_direct_form() {
    let squares = (1..=33).map(|side| plain([1 + side % 2, side, 34 - side, 16], 32, [3, 3], 1, 1));
    // Of networks; several blocks of channels, the last one smaller; several parts of the images, the last one smaller.
    let others = [
        ([2, 28, 28, 16], 16),
        ([3, 14, 14, 32], 32),
        ([5, 7, 7, 48], 32),
        ([1, 8, 8, 80], 144),
        ([23, 14, 14, 32], 16),
        ([1, 5, 7, 256], 256),
        ([1, 2, 300, 16], 16),
    ];
    let others =
        others.map(|(seen, k)| Setup { bias: true, before: LEAKY, row_scale: true, ..plain(seen, k, [3, 3], 1, 1) });
    let setups: Vec<Setup> = squares.chain(others).collect();
    on_fast_devices(|device| check(device, &setups));
}

/// Channels that are no multiple of 16 have the direct form, as has every other shape of filters.
#[test]
fn what_has_no_such_form_is_computed_directly() {
    let device = Device::host(1).unwrap().with_convolution(Convolution::Winograd);
    let passes = |setup: Setup| launched("winograd", || _ = evaluate(&device, &setup, &setup.tensors()));
    assert_eq!(passes(plain([1, 6, 6, 16], 48, [3, 3], 1, 1)), 5);
    for (c, k) in [(1, 16), (16, 3), (17, 48)] {
        assert_eq!(passes(plain([1, 6, 6, c], k, [3, 3], 1, 1)), 0);
    }
    assert_eq!(passes(plain([1, 6, 6, 16], 16, [3, 3], 0, 1)), 0);
    assert_eq!(passes(plain([1, 6, 6, 16], 16, [3, 3], 1, 2)), 0);
    assert_eq!(passes(plain([1, 6, 6, 16], 16, [1, 1], 0, 1)), 0);
}

/// By itself, it is taken where vectors are wide, for as many tiles as are worth it, which lie mostly inside of the image.
#[test]
fn auto_takes_the_faster_form() {
    for isa in Device::host_isas() {
        let device = Device::host_with_isa(1, isa).unwrap();
        let passes = |setup: Setup| launched("winograd", || _ = evaluate(&device, &setup, &setup.tensors()));
        let wide = isa.starts_with("avx");
        let few = || plain([7, 8, 8, 16], 16, [3, 3], 1, 1);
        assert_eq!(passes(plain([8, 8, 8, 16], 16, [3, 3], 1, 1)) > 0, wide, "{isa}");
        assert_eq!(passes(few()), 0, "{isa}: few tiles");
        let tuned = Tuning { winograd_tiles: 16, ..device.built_in_tuning() };
        let tuned = device.with_tuning(tuned).unwrap();
        let found = launched("winograd", || _ = evaluate(&tuned, &few(), &few().tensors()));
        assert_eq!(found > 0, wide, "{isa}: as many as a tuning asks for");
        assert_eq!(passes(plain([24, 2, 2, 16], 16, [3, 3], 1, 1)), 0, "{isa}: small images");
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let setup = Setup { before: LEAKY, bias: true, ..plain([20, 14, 14, 16], 80, [3, 3], 1, 1) };
    let t = setup.tensors();
    assert_same_on_any_threads(|device| {
        let out = evaluate(&device.with_convolution(Convolution::Winograd), &setup, &t);
        [out.y, out.dx, out.dfilters, out.dbias]
    });
}
