//! `kernels/random.cu` and `src/random.rs`: Random123's vectors, equal numbers on every device, and distributions.

use crate::common::*;
use zgan::data::mixture::Mixture;
use zgan::device::{Buffer, Device};
use zgan::ops::random;
use zgan::ops::state::{State, StateBuffer};
use zgan::random::{Random as Philox, philox};

const SEED: u64 = 0x0123_4567_89ab_cdef;

fn state(device: &Device, seed: u64, step: u32) -> StateBuffer {
    StateBuffer::new(device, &State { step, ..State::new(seed, [0.0; 2], 0, 0) }).unwrap()
}

/// From Random123's file kat_vectors.
#[test]
fn philox_gives_the_published_words() {
    let all = u32::MAX;
    assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(philox([all; 4], [all; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    assert_eq!(
        philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}

#[test]
fn uniforms_and_labels_are_the_words_at_any_size() {
    on_each_device(|device| {
        for n in [1, 2, 3, 4, 5, 31, 33, 1000, 8195] {
            let (stream, step) = (7, 5);
            let state = state(device, SEED, step);
            let out: Buffer<f32> = device.zeros(n).unwrap();
            random::uniform(&out, &state, stream, 0.0, 1.0).unwrap();
            let mut philox = Philox::new(SEED, stream, step);
            let expected: Vec<f32> = (0..n).map(|_| philox.uniform()).collect();
            assert_eq!(out.read().unwrap(), expected);

            random::uniform(&out, &state, stream, -3.0, -1.0).unwrap();
            let expected: Vec<f64> = expected.iter().map(|u| -3.0 + 2.0 * f64::from(*u)).collect();
            assert_close("uniform from -3 to -1", &out, &expected, 1e-7);

            let out: Buffer<u32> = device.zeros(n).unwrap();
            random::labels(&out, &state, stream, 10).unwrap();
            let mut philox = Philox::new(SEED, stream, step);
            let expected: Vec<u32> = (0..n).map(|_| philox.below(10)).collect();
            assert_eq!(out.read().unwrap(), expected);
        }
    });
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn in_16_bits_they_are_the_same_numbers_rounded() {
    on_each_device(|device| {
        for precision in NARROW {
            for n in [2, 6, 1000, 8194] {
                let state = state(device, SEED, 4);
                let [wide, points] = [n; 2].map(|n| device.zeros::<f32>(n).unwrap());
                let [narrow, narrow_points] = [n; 2].map(|n| device.zeros_in(n, precision).unwrap());
                random::normal(&wide, &state, 3).unwrap();
                random::normal(&narrow, &state, 3).unwrap();
                assert_eq!(narrow.read().unwrap(), rounded(&wide.read().unwrap(), precision));
                random::uniform(&wide, &state, 3, -1.0, 1.0).unwrap();
                random::uniform(&narrow, &state, 3, -1.0, 1.0).unwrap();
                assert_eq!(narrow.read().unwrap(), rounded(&wide.read().unwrap(), precision));
                for mixture in Mixture::ALL {
                    random::points(&points, mixture, &state, 3).unwrap();
                    random::points(&narrow_points, mixture, &state, 3).unwrap();
                    assert_eq!(narrow_points.read().unwrap(), rounded(&points.read().unwrap(), precision));
                }
            }
        }
    });
}

#[test]
fn normals_match_the_formula_at_any_size() {
    on_each_device(|device| {
        for n in [1, 2, 3, 5, 33, 1000, 8195] {
            let out: Buffer<f32> = device.zeros(n).unwrap();
            random::normal(&out, &state(device, SEED, 2), 1).unwrap();
            let mut philox = Philox::new(SEED, 1, 2);
            let expected: Vec<f64> = (0..n.div_ceil(2)).flat_map(|_| philox.normals()).take(n).map(f64::from).collect();
            for (i, (found, expected)) in out.read().unwrap().iter().zip(&expected).enumerate() {
                let error = (f64::from(*found) - expected).abs();
                assert!(error < 3e-6, "{i} of {n}: {found}, expected {expected}");
            }
        }
    });
}

#[test]
fn seed_stream_and_step_each_change_all_numbers() {
    let device = Device::host(1).unwrap();
    let draw = |seed, step, stream| {
        let out: Buffer<f32> = device.zeros(1000).unwrap();
        random::uniform(&out, &state(&device, seed, step), stream, 0.0, 1.0).unwrap();
        out.read().unwrap()
    };
    let base = draw(SEED, 1, 1);
    assert_eq!(base, draw(SEED, 1, 1));
    for other in [draw(SEED + 1, 1, 1), draw(SEED + (1 << 32), 1, 1), draw(SEED, 2, 1), draw(SEED, 1, 2)] {
        assert!(base.iter().zip(&other).filter(|(a, b)| a == b).count() < 3);
    }
}

#[test]
fn the_distributions_are_right() {
    let n = 1 << 20;
    on_fast_devices(|device| {
        let state = state(device, 3, 1);
        let out: Buffer<f32> = device.zeros(n).unwrap();
        random::normal(&out, &state, 0).unwrap();
        let x = to_f64(&out.read().unwrap());
        let moment = |k: i32| x.iter().map(|x| x.powi(k)).sum::<f64>() / n as f64;
        // Four deviations of each mean: sqrt(1, 2, 15, 96 / n) * 4.
        let root = (n as f64).sqrt();
        for (k, expected, deviation) in
            [(1, 0.0, 1.0), (2, 1.0, 2.0f64.sqrt()), (3, 0.0, 15.0f64.sqrt()), (4, 3.0, 96.0f64.sqrt())]
        {
            assert!((moment(k) - expected).abs() < 4.0 * deviation / root, "moment {k}: {}", moment(k));
        }
        let product: f64 = x.chunks(2).map(|p| p[0] * p[1]).sum::<f64>() / (n / 2) as f64;
        assert!(product.abs() < 4.0 / (n as f64 / 2.0).sqrt(), "the two of a pair are correlated: {product}");
        let beyond = x.iter().filter(|x| x.abs() > 3.0).count() as f64 / n as f64;
        assert!((beyond - 0.0027).abs() < 4.0 * (0.0027 / n as f64).sqrt(), "beyond three deviations: {beyond}");

        let labels: Buffer<u32> = device.zeros(n).unwrap();
        random::labels(&labels, &state, 0, 10).unwrap();
        let mut counts = [0.0; 10];
        labels.read().unwrap().iter().for_each(|l| counts[*l as usize] += 1.0);
        let chi2: f64 = counts.iter().map(|c| (c - n as f64 / 10.0).powi(2) / (n as f64 / 10.0)).sum();
        assert!(chi2 < 27.9, "chi squared of 9 degrees: {chi2}"); // one in a thousand
        assert!(random::labels(&labels, &state, 0, 0).is_err());
    });
}

#[test]
fn the_cpu_fills_as_asked() {
    let mut x = vec![0.0; 100_001];
    Philox::new(1, 2, 0).fill_normal(&mut x, 0.02);
    let variance = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
    assert!((variance.sqrt() / 0.02 - 1.0).abs() < 0.01);
    Philox::new(1, 2, 0).fill_uniform(&mut x, -0.5, 0.25);
    assert!(x.iter().all(|x| (-0.5..=0.25).contains(x)));
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
    assert!((mean + 0.125).abs() < 0.005);
}
