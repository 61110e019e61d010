//! `kernels/device/number.h`: 16-bit numbers as kernels read and write them, through the way of pixels to bytes and back.

use crate::common::*;
use half::{bf16, f16};
use zgan::device::{Buffer, Precision};
use zgan::ops::Activation;
use zgan::ops::matmul::{self, Linear, OutputGradient};
use zgan::ops::pixels::{self, Augment};
use zgan::ops::state::{State, StateBuffer};

/// What kernels write is what the crate `half` rounds to: images hold the values between -1 and 1, the noise all others.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn kernels_round_as_the_host_does() {
    on_each_device(|device| {
        for precision in [Precision::Bf16, Precision::F16] {
            for noise in [0.0f32, 1e-7, 3e-5, 1.0, 3e4, 1e5, 3e38] {
                let shape = [3, 16, 16, 1];
                let bytes: Vec<u8> = (0..768).map(|i| i as u8).collect();
                let state = StateBuffer::new(device, &State::new(5, [0.0; 2], 0, 0)).unwrap();
                let (wide, narrow): (Buffer<f32>, Buffer<f32>) =
                    (device.zeros(768).unwrap(), device.zeros_in(768, precision).unwrap());
                let from = device.upload(&bytes).unwrap();
                for x in [&wide, &narrow] {
                    pixels::load(x, &from, None, &state, 1, Augment::default(), shape).unwrap();
                }
                let round = |x: f32| match precision {
                    Precision::Bf16 => bf16::from_f32(x).to_f32(),
                    _ => f16::from_f32(x).to_f32(),
                };
                let plain = wide.read().unwrap();
                let plainly_rounded = narrow.read().unwrap();
                for x in [&wide, &narrow] {
                    pixels::load(x, &from, None, &state, 1, Augment { noise, ..Augment::default() }, shape).unwrap();
                }
                let (wide, narrow) = (wide.read().unwrap(), narrow.read().unwrap());
                assert_eq!(plainly_rounded, plain.into_iter().map(round).collect::<Vec<_>>(), "{precision}");
                assert_eq!(narrow, wide.into_iter().map(round).collect::<Vec<_>>(), "{precision}, noise {noise}");
            }
        }
    });
}

/// Every one of the 65,536 patterns, read by a kernel and turned into a byte.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn kernels_read_every_pattern() {
    on_each_device(|device| {
        for precision in [Precision::Bf16, Precision::F16] {
            let values: Vec<f32> = (0..=u16::MAX)
                .map(|bits| match precision {
                    Precision::Bf16 => bf16::from_bits(bits).to_f32(),
                    _ => f16::from_bits(bits).to_f32(),
                })
                .collect();
            let x = device.upload_in(&values, precision).unwrap();
            let bytes: Buffer<u8> = device.zeros(values.len()).unwrap();
            pixels::store(&bytes, &x).unwrap();
            let wide: Buffer<u8> = device.zeros(values.len()).unwrap();
            pixels::store(&wide, &device.upload(&values).unwrap()).unwrap();
            assert!(bytes.read().unwrap() == wide.read().unwrap(), "{precision}");
        }
    });
}

#[test]
fn precisions_do_not_mix() {
    let device = zgan::device::Device::host(1).unwrap();
    let half: Buffer<f32> = device.zeros_in(4, Precision::F16).unwrap();
    let whole: Buffer<f32> = device.zeros(4).unwrap();
    let error = half.copy_from(&whole).unwrap_err().to_string();
    assert!(error.contains("copy: from f32 to f16"), "{error}");
    half.write(&[0.1, 65_520.0, -1e-8, 1.0]).unwrap();
    assert_eq!(half.read().unwrap(), [0.1, 65_520.0, -1e-8, 1.0].map(|x| f16::from_f32(x).to_f32()));
    assert_eq!(half.view(3..4).read().unwrap(), [1.0]);
}

/// What a product multiplies is a computed number rounded once: here dy * scale, which the weight gradient of one sample
/// with x = 1 gives back as it is.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn operands_are_rounded_as_the_host_does() {
    on_each_device(|device| {
        let sizes = Linear { n: 1, c: 1, k: 2048 };
        for precision in [Precision::Tf32, Precision::Bf16, Precision::F16] {
            let dy: Vec<f32> = (0..sizes.k).map(|i| stored(precision, (i as f32 - 1023.3) / 511.7)).collect();
            let (from, x) = (device.upload_in(&dy, precision).unwrap(), device.upload_in(&[1.0], precision).unwrap());
            for scale in [1.0f32, 1.0 / 3.0, 7e-5, 3.1e-8, 1e-30, 33_333.3, 1e8, f32::MAX, f32::NAN] {
                let row_scale = device.upload(&[scale]).unwrap();
                let dweight: Buffer<f32> = device.zeros(sizes.k).unwrap();
                let activation = Activation::Identity;
                let gradient = OutputGradient { dy: &from, y: None, activation, row_scale: Some(&row_scale) };
                matmul::linear_weight_gradient(sizes, (&dweight, None), &x, &gradient).unwrap();
                for (dy, found) in dy.iter().zip(dweight.read().unwrap()) {
                    let expected = operand(precision, dy * scale);
                    let same = found == expected || found.is_nan() && expected.is_nan();
                    assert!(same, "{precision}: {dy} * {scale} as an operand is {found:e}, expected {expected:e}");
                }
            }
        }
    });
}
