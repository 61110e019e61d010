//! `kernels/resample.cu` against an f64 loop, its transpose, and PyTorch.

use crate::common::*;
use zgan::device::{Buffer, Device};
use zgan::ops::resample::{self, Image, Upsampling};

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Average,
    Max,
    Nearest,
    Bilinear,
}

const ALL: [How; 4] = [How::Average, How::Max, How::Nearest, How::Bilinear];

impl How {
    fn out(self, image: Image) -> Image {
        if matches!(self, How::Average | How::Max) { image.halved() } else { image.doubled() }
    }
}

/// The inputs that output `i` of a doubling of `n` reads, with their weights.
fn lines(i: usize, n: usize) -> [(usize, f64); 2] {
    let at = (i as f64 + 0.5) / 2.0 - 0.5;
    let (low, share) = (at.floor(), at - at.floor());
    let clamp = |x: f64| x.clamp(0.0, n as f64 - 1.0) as usize;
    [(clamp(low), 1.0 - share), (clamp(low + 1.0), share)]
}

fn reference(how: How, x: &[f64], image: Image) -> Vec<f64> {
    let Image { n, h, w, c } = image;
    let at = |i: usize, y: usize, x_: usize, k: usize| x[((i * h + y) * w + x_) * c + k];
    let out = how.out(image);
    let mut result = Vec::new();
    for i in 0..n {
        for y in 0..out.h {
            for x in 0..out.w {
                for k in 0..c {
                    let square = |dy: usize, dx: usize| at(i, 2 * y + dy, 2 * x + dx, k);
                    result.push(match how {
                        How::Average => (square(0, 0) + square(0, 1) + square(1, 0) + square(1, 1)) / 4.0,
                        How::Max => square(0, 0).max(square(0, 1)).max(square(1, 0)).max(square(1, 1)),
                        How::Nearest => at(i, y / 2, x / 2, k),
                        How::Bilinear => lines(y, h)
                            .into_iter()
                            .flat_map(|(row, a)| lines(x, w).map(|(column, b)| a * b * at(i, row, column, k)))
                            .sum(),
                    });
                }
            }
        }
    }
    result
}

fn forward(device: &Device, how: How, x: &Buffer<f32>, image: Image) -> (Buffer<f32>, Buffer<u8>) {
    let len = how.out(image).elements();
    let y = device.upload_in(&vec![f32::NAN; len], x.precision()).unwrap();
    let which = device.zeros(len).unwrap();
    match how {
        How::Average => resample::average_pool(&y, x, image),
        How::Max => resample::max_pool(&y, &which, x, image),
        How::Nearest => resample::upsample(&y, x, image, Upsampling::Nearest),
        How::Bilinear => resample::upsample(&y, x, image, Upsampling::Bilinear),
    }
    .unwrap();
    (y, which)
}

fn backward(how: How, dx: &Buffer<f32>, dy: &Buffer<f32>, which: &Buffer<u8>, image: Image, accumulate: bool) {
    match how {
        How::Average => resample::average_pool_backward(dx, dy, image, accumulate),
        How::Max => resample::max_pool_backward(dx, dy, which, image, accumulate),
        How::Nearest => resample::upsample_backward(dx, dy, image, Upsampling::Nearest, accumulate),
        How::Bilinear => resample::upsample_backward(dx, dy, image, Upsampling::Bilinear, accumulate),
    }
    .unwrap();
}

#[test]
fn matches_the_reference_and_its_central_differences() {
    on_each_device(|device| {
        for (n, h, w, c) in [(1, 1, 1, 1), (2, 2, 4, 3), (1, 5, 3, 33), (3, 31, 1, 2), (2, 1, 33, 1), (1, 2, 2, 100)] {
            let image = Image { n, h, w, c };
            let mut random = Random((h * 100 + w) as u64);
            let values = random.normals(image.elements());
            let x = device.upload(&values).unwrap();
            for how in ALL {
                let what = format!("{how:?} of {image:?}");
                let (y, which) = forward(device, how, &x, image);
                assert_close(&what, &y, &reference(how, &to_f64(&values), image), 1e-6);
                let dy = random.normals(how.out(image).elements());
                let expected = central_differences(&to_f64(&values), |x| {
                    reference(how, x, image).iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum()
                });
                let dy = device.upload(&dy).unwrap();
                let dx = device.upload(&vec![f32::NAN; values.len()]).unwrap();
                backward(how, &dx, &dy, &which, image, false);
                assert_close(&what, &dx, &expected, 2e-6);
                backward(how, &dx, &dy, &which, image, true);
                let twice: Vec<f64> = expected.iter().map(|d| 2.0 * d).collect();
                assert_close(&what, &dx, &twice, 2e-6);
            }
        }
    });
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn in_16_bits_it_is_as_good_as_rounding_the_result() {
    on_each_device(|device| {
        for precision in NARROW {
            for (n, h, w, c) in [(1, 1, 1, 1), (2, 5, 4, 3), (1, 3, 7, 33), (3, 6, 2, 17)] {
                let image = Image { n, h, w, c };
                let mut random = Random((h * 100 + c) as u64);
                let values = rounded(&random.normals(image.elements()), precision);
                let x = device.upload_in(&values, precision).unwrap();
                for how in ALL {
                    let (y, which) = forward(device, how, &x, image);
                    assert_as_good(&format!("{how:?}"), &y, &reference(how, &to_f64(&values), image), 1e-6);
                    let dy = rounded(&random.normals(how.out(image).elements()), precision);
                    // Rounded numbers may be equal; the first of a square counts as the largest.
                    let place = |i: usize| 2 * (i / (w * c) % h % 2) + i / c % w % 2;
                    let apart: Vec<f64> =
                        values.iter().enumerate().map(|(i, x)| f64::from(*x) - 5e-5 * place(i) as f64).collect();
                    let expected = central_differences(&apart, |x| {
                        reference(how, x, image).iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum()
                    });
                    let dy = device.upload_in(&dy, precision).unwrap();
                    let dx = device.upload_in(&vec![0.5; values.len()], precision).unwrap();
                    for (accumulate, before) in [(true, 0.5), (false, 0.0)] {
                        backward(how, &dx, &dy, &which, image, accumulate);
                        let expected: Vec<f64> = expected.iter().map(|d| before + d).collect();
                        assert_as_good(&format!("gradient of {how:?}"), &dx, &expected, 1e-6);
                    }
                }
                // Labels beside it: what is copied stays as it is, the embedding is rounded.
                let labels: Vec<u32> = (0..n as u32).map(|i| if i == 1 { u32::MAX } else { i % 2 }).collect();
                let (width, classes) = (5, 2);
                let embedding = random.normals(classes * width);
                let (rows, device_labels) = (device.upload(&embedding).unwrap(), device.upload(&labels).unwrap());
                let nans = |c: usize| device.upload_in(&vec![f32::NAN; n * h * w * c], precision).unwrap();
                let (planes, beside) = (nans(c + classes), nans(c + width));
                resample::concat_labels(&planes, &x, &device_labels, image, classes, 2.0).unwrap();
                resample::concat_embedding(&beside, &x, &rows, &device_labels, image, width).unwrap();
                let (mut of_planes, mut of_beside) = (Vec::new(), Vec::new());
                for (at, pixel) in values.chunks(c).enumerate() {
                    let label = labels[at / (h * w)] as usize;
                    of_planes.extend(pixel);
                    of_planes.extend((0..classes).map(|k| if k == label { 2.0 } else { 0.0 }));
                    of_beside.extend(pixel);
                    let row = embedding.chunks(width).nth(label).map_or(vec![0.0; width], <[f32]>::to_vec);
                    of_beside.extend(rounded(&row, precision));
                }
                assert_eq!(planes.read().unwrap(), of_planes);
                assert_eq!(beside.read().unwrap(), of_beside);
                let (dx, sums) = (nans(c), device.zeros(n * width).unwrap());
                resample::concat_backward(&dx, &beside, image, width, false).unwrap();
                assert_eq!(dx.read().unwrap(), values);
                let gradient = device.zeros(classes * width).unwrap();
                resample::concat_embedding_backward(&gradient, &beside, &device_labels, None, image, width, &sums)
                    .unwrap();
                let mut expected = vec![0.0; classes * width];
                for (at, pixel) in of_beside.chunks(c + width).enumerate() {
                    let label = labels[at / (h * w)] as usize;
                    for e in (0..width).filter(|_| label < classes) {
                        expected[label * width + e] += f64::from(pixel[c + e]);
                    }
                }
                assert_close("embedding", &gradient, &expected, 2e-6);
            }
        }
    });
}

#[test]
fn many_blocks() {
    on_each_device(|device| {
        let image = Image { n: 3, h: 34, w: 31, c: 9 };
        let values = Random(8).normals(image.elements());
        let x = device.upload(&values).unwrap();
        for how in ALL {
            let (y, which) = forward(device, how, &x, image);
            assert_close(&format!("{how:?}"), &y, &reference(how, &to_f64(&values), image), 1e-6);
            // <A x, A x> = <x, A^T A x>, for these maps are linear (the maximum is at a given x).
            let dx = device.zeros(values.len()).unwrap();
            backward(how, &dx, &y, &which, image, false);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let (y, dx) = (y.read().unwrap(), dx.read().unwrap());
            let (left, right) = (dot(&y, &y), dot(&values, &dx));
            assert!((left / right - 1.0).abs() < 1e-5, "{how:?}: {left} is not {right}");
        }
    });
}

#[test]
fn the_maximum_takes_the_first_of_equals_and_any_nan() {
    on_each_device(|device| {
        let image = Image { n: 1, h: 2, w: 4, c: 1 };
        let x = device.upload(&[7.0f32, 7.0, f32::NEG_INFINITY, 1.0, 7.0, 7.0, f32::NAN, 2.0]).unwrap();
        let (y, which) = forward(device, How::Max, &x, image);
        let y = y.read().unwrap();
        assert!(y[0] == 7.0 && y[1].is_nan(), "{y:?}");
        assert_eq!(which.read().unwrap(), [0, 2]);
    });
}

#[test]
fn matches_pytorch() {
    let golden = Golden::open("resample");
    let shape = golden.shape("x");
    let image = Image { n: shape[0], h: shape[1], w: shape[2], c: shape[3] };
    on_each_device(|device| {
        let x = device.upload(&golden.f32("x")).unwrap();
        for (how, name) in ALL.into_iter().zip(["average", "max", "nearest", "bilinear"]) {
            let (y, which) = forward(device, how, &x, image);
            assert_close(name, &y, &golden.f64(&format!("{name}.y")), 1e-6);
            let (dx, dy) = (device.zeros(x.len()).unwrap(), device.upload(&golden.f32(&format!("{name}.dy"))).unwrap());
            backward(how, &dx, &dy, &which, image, false);
            assert_close(name, &dx, &golden.f64(&format!("{name}.dx")), 1e-6);
        }
    });
}

#[test]
fn labels_are_appended_as_planes_and_as_embeddings() {
    on_each_device(|device| {
        for (n, h, w, c, classes, width) in [(1, 1, 1, 1, 1, 1), (5, 3, 2, 3, 4, 33), (33, 2, 31, 17, 2, 128)] {
            let image = Image { n, h, w, c };
            let (p, mut random) = (h * w, Random((n + c) as u64));
            let x = random.normals(image.elements());
            // The last sample has no label.
            let labels: Vec<u32> =
                (0..n).map(|i| if i + 1 == n && n > 1 { u32::MAX } else { random.below(classes) as u32 }).collect();
            let embedding = random.normals(classes * width);
            let (buffer, device_labels) = (device.upload(&x).unwrap(), device.upload(&labels).unwrap());

            let y = device.upload(&vec![f32::NAN; n * p * (c + classes)]).unwrap();
            resample::concat_labels(&y, &buffer, &device_labels, image, classes, 2.0).unwrap();
            for (at, row) in y.read().unwrap().chunks(c + classes).enumerate() {
                assert_eq!(row[..c], x[at * c..(at + 1) * c]);
                for (k, plane) in row[c..].iter().enumerate() {
                    assert_eq!(*plane, if labels[at / p] as usize == k { 2.0 } else { 0.0 });
                }
            }
            let dx = device.upload(&vec![1.0f32; x.len()]).unwrap();
            resample::concat_backward(&dx, &y, image, classes, true).unwrap();
            assert_eq!(dx.read().unwrap(), x.iter().map(|x| 1.0 + x).collect::<Vec<_>>());

            let y = device.upload(&vec![f32::NAN; n * p * (c + width)]).unwrap();
            let rows = device.upload(&embedding).unwrap();
            resample::concat_embedding(&y, &buffer, &rows, &device_labels, image, width).unwrap();
            for (at, row) in y.read().unwrap().chunks(c + width).enumerate() {
                let label = labels[at / p] as usize;
                assert_eq!(row[..c], x[at * c..(at + 1) * c]);
                match embedding.chunks(width).nth(label) {
                    Some(expected) => assert_eq!(&row[c..], expected),
                    None => assert_eq!(&row[c..], vec![0.0; width]),
                }
            }
            resample::concat_backward(&dx, &y, image, width, false).unwrap();
            assert_eq!(dx.read().unwrap(), x);

            // The gradient of the embedding, onto what is there, with and without a factor per sample.
            let dy = random.normals(n * p * (c + width));
            let factors = random.normals(n);
            let dy_buffer = device.upload(&dy).unwrap();
            let factor_buffer = device.upload(&factors).unwrap();
            for scale in [None, Some(&factor_buffer)] {
                let mut expected = vec![0.5f64; classes * width];
                for (at, row) in dy.chunks(c + width).enumerate() {
                    let factor = scale.map_or(1.0, |_| f64::from(factors[at / p]));
                    if (labels[at / p] as usize) < classes {
                        for e in 0..width {
                            expected[labels[at / p] as usize * width + e] += factor * f64::from(row[c + e]);
                        }
                    }
                }
                let gradient = device.upload(&vec![0.5f32; classes * width]).unwrap();
                let workspace = device.upload(&vec![f32::NAN; n * width]).unwrap();
                let labels = &device_labels;
                resample::concat_embedding_backward(&gradient, &dy_buffer, labels, scale, image, width, &workspace)
                    .unwrap();
                assert_close("embedding", &gradient, &expected, 2e-6);
            }
        }
    });
}

#[test]
fn refuses_shapes_that_do_not_fit() {
    let device = Device::host(1).unwrap();
    let buffer = |n| device.zeros::<f32>(n).unwrap();
    let image = Image { n: 1, h: 4, w: 4, c: 2 };
    let error = resample::average_pool(&buffer(9), &buffer(32), image).unwrap_err().to_string();
    assert_eq!(error, "average pool: y has 9 elements, expected 8");
    assert!(resample::upsample(&buffer(128), &buffer(31), image, Upsampling::Nearest).is_err());
    assert!(resample::max_pool(&buffer(8), &device.zeros(7).unwrap(), &buffer(32), image).is_err());
}
