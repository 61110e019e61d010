//! `kernels/pixels.cu`: exact scaling there and back, flips and noise.

use crate::common::*;
use zgan::device::{Buffer, Device, Precision};
use zgan::ops::pixels::{self, Augment};
use zgan::ops::state::{State, StateBuffer};
use zgan::random::philox;

const SHAPES: [[usize; 4]; 6] =
    [[1, 1, 1, 1], [3, 5, 7, 3], [2, 31, 33, 1], [64, 28, 28, 1], [5, 8, 8, 3], [2, 1, 1000, 4]];
const SEED: u64 = 0x1234_5678_9abc;

fn images(n: usize) -> Vec<u8> {
    let mut random = Random(n as u64);
    (0..n).map(|_| random.below(256) as u8).collect()
}

fn load(device: &Device, bytes: &[u8], augment: Augment, shape: [usize; 4], step: u32) -> Vec<f32> {
    let x: Buffer<f32> = device.zeros(bytes.len()).unwrap();
    let state = StateBuffer::new(device, &State { step, ..State::new(SEED, [0.0; 2], 0, 0) }).unwrap();
    pixels::load(&x, &device.upload(bytes).unwrap(), None, &state, 9, augment, shape).unwrap();
    x.read().unwrap()
}

#[test]
fn bytes_survive_the_way_there_and_back() {
    on_each_device(|device| {
        for shape in SHAPES {
            let bytes = images(shape.iter().product());
            let x = load(device, &bytes, Augment::default(), shape, 0);
            let expected: Vec<f32> = bytes.iter().map(|b| f32::from(*b) / 127.5 - 1.0).collect();
            assert_eq!(x, expected);
            let back: Buffer<u8> = device.zeros(bytes.len()).unwrap();
            pixels::store(&back, &device.upload(&x).unwrap()).unwrap();
            assert_eq!(back.read().unwrap(), bytes);
        }
    });
}

#[test]
fn store_rounds_and_clamps() {
    on_each_device(|device| {
        let level = |l: f32| l / 127.5 - 1.0;
        let x = [
            level(0.4),
            level(0.6),
            level(99.4),
            level(99.6),
            -1.5,
            1.5,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            1e30,
        ];
        let bytes: Buffer<u8> = device.zeros(x.len()).unwrap();
        pixels::store(&bytes, &device.upload(&x).unwrap()).unwrap();
        assert_eq!(bytes.read().unwrap(), [0, 1, 99, 100, 0, 255, 255, 0, 0, 255]);
    });
}

#[test]
fn flips_whole_samples_and_noise_is_the_stream() {
    on_each_device(|device| {
        for shape in SHAPES {
            let [n, h, w, c] = shape;
            let bytes = images(n * h * w * c);
            let key = [SEED as u32, (SEED >> 32) as u32];
            let x = load(device, &bytes, Augment { noise: 0.5, flip: true, ..Augment::default() }, shape, 6);
            let unflipped = load(device, &bytes, Augment { noise: 0.5, ..Augment::default() }, shape, 6);
            for (e, (found, unflipped)) in x.iter().zip(unflipped).enumerate() {
                let (sample, row, column, channel) = (e / (h * w * c), e / (w * c) % h, e / c % w, e % c);
                let mirrored = philox([sample as u32, 9, 6, 1], key)[0] >> 31 == 1;
                let source = if mirrored { w - 1 - column } else { column };
                let word = philox([e as u32 / 4, 9, 6, 0], key)[e % 4];
                let noise = 0.5 * ((word >> 8) as f32 / 16_777_216.0);
                let scaled =
                    |column: usize| f32::from(bytes[((sample * h + row) * w + column) * c + channel]) / 127.5 - 1.0;
                assert!((found - (scaled(source) + noise)).abs() < 2e-7, "{shape:?}, element {e}");
                assert!((unflipped - (scaled(column) + noise)).abs() < 2e-7, "{shape:?}, element {e}");
            }
        }
    });
}

/// The same noise as the kernel's, from the seed, stream 9 and step 0.
fn noise(e: usize) -> f32 {
    (philox([e as u32 / 4, 9, 0, 0], [SEED as u32, (SEED >> 32) as u32])[e % 4] >> 8) as f32 / 16_777_216.0
}

/// As pfnet does it: x / 128 - 1 + U(0, 1 / 128), so that D finds no white that is whiter than a saturated tanh.
#[test]
fn with_its_noise_white_stays_within_one() {
    on_each_device(|device| {
        let shape = [10, 20, 10, 1];
        let augment = Augment { noise: 1.0 / 128.0, within: true, ..Augment::default() };
        let bytes: Vec<u8> = (0..2000).map(|i| if i % 2 == 0 { 255 } else { (i % 255) as u8 }).collect();
        for (e, x) in load(device, &bytes, augment, shape, 0).into_iter().enumerate() {
            assert_eq!(x, f32::from(bytes[e]) / 128.0 - 1.0 + noise(e) / 128.0);
        }
        for amplitude in [0.3, 1.0] {
            let x = load(device, &[255; 2000], Augment { noise: amplitude, ..augment }, shape, 0);
            assert!(x.iter().all(|x| *x <= 1.0 && *x >= 1.0 - 1.001 * amplitude), "{amplitude}");
            assert!(x.iter().any(|x| *x > 1.0 - 0.01));
        }
        // The form of older programs, which their runs keep.
        let x = load(device, &[255; 2000], Augment { within: false, ..augment }, shape, 0);
        assert!(x.iter().any(|x| *x > 1.007));
        // Without noise the two are one.
        let plain = |within| load(device, &bytes, Augment { within, ..Augment::default() }, shape, 0);
        assert_eq!(plain(true), plain(false));
    });
}

/// What is stored in 16 bits is the nearest number to what f32 gives: it is rounded once.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn sixteen_bits_are_rounded_once() {
    on_each_device(|device| {
        let shape = [4, 5, 7, 3];
        let bytes = images(shape.iter().product());
        for within in [true, false] {
            for flip in [false, true] {
                for amplitude in [0.0, 1.0 / 128.0, 0.3] {
                    let augment = Augment { noise: amplitude, flip, within, first: 0 };
                    let exact = load(device, &bytes, augment, shape, 0);
                    for precision in [Precision::Bf16, Precision::F16] {
                        let x = device.upload_in(&vec![f32::NAN; bytes.len()], precision).unwrap();
                        let state = StateBuffer::new(device, &State::new(SEED, [0.0; 2], 0, 0)).unwrap();
                        pixels::load(&x, &device.upload(&bytes).unwrap(), None, &state, 9, augment, shape).unwrap();
                        assert_eq!(x.read().unwrap(), rounded(&exact, precision), "{precision}, {augment:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn about_half_of_the_samples_are_flipped_each_step_others() {
    let device = Device::host(1).unwrap();
    let bytes: Vec<u8> = (0..1000).flat_map(|_| [0, 255]).collect();
    let flips = |step| -> Vec<bool> {
        load(&device, &bytes, Augment { flip: true, ..Augment::default() }, [1000, 1, 2, 1], step)
            .chunks(2)
            .map(|p| p[0] > p[1])
            .collect()
    };
    let (first, second) = (flips(1), flips(2));
    for flips in [&first, &second] {
        let count = flips.iter().filter(|f| **f).count();
        assert!((437..563).contains(&count), "{count} of 1000"); // four deviations
    }
    let differ = first.iter().zip(&second).filter(|(a, b)| a != b).count();
    assert!((437..563).contains(&differ), "{differ} of 1000");
}

/// The share of a batch that a rank loads gets the noise and the flips of its place in the batch.
#[test]
fn a_part_of_a_batch_is_as_in_the_whole() {
    on_each_device(|device| {
        for [n, h, w, c] in SHAPES.into_iter().filter(|shape| shape[0] > 1) {
            let (bytes, len) = (images(n * h * w * c), h * w * c);
            for noise in [0.0, 1.0 / 128.0] {
                let augment = Augment { noise, flip: true, ..Augment::default() };
                let whole = load(device, &bytes, augment, [n, h, w, c], 6);
                for first in [1, n - 1] {
                    let part = Augment { first, ..augment };
                    let part = load(device, &bytes[first * len..], part, [n - first, h, w, c], 6);
                    assert_eq!(part, whole[first * len..], "from {first} on of {n} images of {h} x {w} x {c}");
                }
            }
        }
    });
}

#[test]
fn labels_come_with_their_images() {
    on_each_device(|device| {
        for n in [1, 300] {
            let state = StateBuffer::new(device, &State::new(1, [0.0; 2], 0, 0)).unwrap();
            let x: Buffer<f32> = device.zeros(n * 6).unwrap();
            let (to, from): (Buffer<u32>, Vec<u32>) = (device.zeros(n).unwrap(), (5..5 + n as u32).collect());
            let (bytes, labels) = (device.upload(&images(n * 6)).unwrap(), device.upload(&from).unwrap());
            let both = Some((&to, &labels));
            pixels::load(&x, &bytes, both, &state, 9, Augment::default(), [n, 3, 2, 1]).unwrap();
            assert_eq!(to.read().unwrap(), from);
        }
    });
}

#[test]
fn refuses_what_does_not_fit() {
    let device = Device::host(1).unwrap();
    let state = StateBuffer::new(&device, &State::new(1, [0.0; 2], 0, 0)).unwrap();
    let (x, bytes): (Buffer<f32>, Buffer<u8>) = (device.zeros(12).unwrap(), device.zeros(11).unwrap());
    let error = pixels::load(&x, &bytes, None, &state, 0, Augment::default(), [1, 2, 2, 3]).unwrap_err().to_string();
    assert_eq!(error, "pixels load: bytes has 11 elements, expected 12");
    let (bytes, labels): (Buffer<u8>, Buffer<u32>) = (device.zeros(12).unwrap(), device.zeros(2).unwrap());
    let error = pixels::load(&x, &bytes, Some((&labels, &labels)), &state, 0, Augment::default(), [1, 2, 2, 3]);
    assert_eq!(error.unwrap_err().to_string(), "pixels load: labels to write has 2 elements, expected 1");
}
