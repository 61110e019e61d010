//! `kernels/features.cu` against PyTorch, torch-fidelity and Pillow, and against loops in f64.

use crate::common::*;
use zgan::data::ImageShape;
use zgan::device::Device;
use zgan::ops::features::{self, Filter, Pool, Pooling, Resize};
use zgan::ops::resample::Image;

/// The pooled `x`, between channels that must stay as they are.
fn pooled(device: &Device, pool: Pool, x: &[f32], image: Image) -> Vec<f32> {
    let (first, channels) = (2, image.c + 3);
    let pixels = image.n * pool.out(image.h) * pool.out(image.w);
    let y = device.upload(&vec![-7.0; pixels * channels]).unwrap();
    features::pool(pool, &y, &device.upload(x).unwrap(), image, first, channels).unwrap();
    let mut slice = Vec::new();
    for pixel in y.read().unwrap().chunks(channels) {
        assert!(pixel[..first].iter().chain(&pixel[first + image.c..]).all(|value| *value == -7.0));
        slice.extend(&pixel[first..first + image.c]);
    }
    slice
}

#[test]
fn matches_the_programs_that_it_follows() {
    let golden = Golden::open("features");
    on_each_device(|device| {
        for name in golden.names() {
            let parts: Vec<&str> = name.split('.').collect();
            let numbers: Vec<usize> = parts.iter().filter_map(|part| part.parse().ok()).collect();
            match (parts[0], *parts.last().unwrap()) {
                (_, "x") => {}
                ("pool", how) => {
                    let how = match how {
                        "maximum" => Pooling::Maximum,
                        "mean" => Pooling::Mean,
                        _ => Pooling::MeanWithPadding,
                    };
                    let [size, stride, pad] = numbers[..] else { panic!("{name}") };
                    let image = Image { n: 2, h: 7, w: 10, c: 5 };
                    let found = pooled(device, Pool { how, size, stride, pad }, &golden.f32("pool.x"), image);
                    assert!(relative_error(&found, &golden.f64(&name), 1e-30) < 3e-7, "{name}");
                }
                (_, how) => {
                    let filter = match how {
                        "bilinear" => Filter::Bilinear,
                        "from-corner" => Filter::BilinearFromCorner,
                        _ => Filter::Bicubic,
                    };
                    let [h, w, p, q] = numbers[..] else { panic!("{name}") };
                    let image = ImageShape { height: h, width: w, channels: 3 };
                    let x = device.upload(&golden.u8(&format!("resize.{h}.{w}.{p}.{q}.x"))).unwrap();
                    let y = device.zeros(2 * p * q * 3).unwrap();
                    Resize::new(device, image, [p, q, 3], filter, (1.0, 0.0)).unwrap().run(&y, &x).unwrap();
                    let expected = to_f64(&golden.f32(&name));
                    let error = relative_error(&y.read().unwrap(), &expected, 255.0);
                    assert!(error < 1e-6, "{name}: {error:.1e}");
                }
            }
        }
    });
}

/// The pooling by its definition, in f64.
fn reference(pool: Pool, x: &[f32], image: Image) -> Vec<f64> {
    let Image { n, h, w, c } = image;
    let (p, q) = (pool.out(h), pool.out(w));
    let mut y = Vec::new();
    for i in 0..n * p * q * c {
        let (k, column, row, sample) = (i % c, i / c % q, i / c / q % p, i / c / q / p);
        let mut seen = Vec::new();
        for tap in 0..pool.size * pool.size {
            let (y, x_) = (row * pool.stride + tap / pool.size, column * pool.stride + tap % pool.size);
            if y >= pool.pad && x_ >= pool.pad && y - pool.pad < h && x_ - pool.pad < w {
                seen.push(f64::from(x[((sample * h + y - pool.pad) * w + x_ - pool.pad) * c + k]));
            }
        }
        let sum: f64 = seen.iter().sum();
        y.push(match pool.how {
            Pooling::Maximum => seen.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Pooling::Mean => sum / seen.len() as f64,
            Pooling::MeanWithPadding => sum / (pool.size * pool.size) as f64,
        });
    }
    y
}

#[test]
fn pools_windows_of_every_size() {
    on_each_device(|device| {
        for ([n, h, w, c], size, stride, pad) in [
            ([1, 1, 1, 1], 1, 1, 0),
            ([3, 5, 2, 1000], 1, 1, 0),
            ([2, 8, 8, 33], 8, 1, 0),
            ([1, 31, 33, 16], 3, 2, 0),
            ([2, 4, 5, 31], 3, 1, 1),
            ([1, 5, 5, 17], 5, 4, 4),
        ] {
            for how in [Pooling::Maximum, Pooling::Mean, Pooling::MeanWithPadding] {
                let (image, pool) = (Image { n, h, w, c }, Pool { how, size, stride, pad });
                let x = Random((h * 100 + c) as u64).normals(image.elements());
                let (found, expected) = (pooled(device, pool, &x, image), reference(pool, &x, image));
                assert!(relative_error(&found, &expected, 1e-30) < 1e-6, "{pool:?} of {image:?}");
            }
        }
        // A NaN is not lost.
        let nan = [f32::NAN, 1.0, 2.0, 3.0];
        let image = Image { n: 1, h: 2, w: 2, c: 1 };
        assert!(pooled(device, Pool { size: 2, ..Pool::COPY }, &nan, image)[0].is_nan());
    });
}

#[test]
fn grey_images_and_ranges() {
    on_each_device(|device| {
        let image = ImageShape { height: 2, width: 1, channels: 1 };
        let x = device.upload(&[0u8, 255, 51, 102]).unwrap();
        let y = device.zeros(12).unwrap();
        let resize = Resize::new(device, image, [2, 1, 3], Filter::Bilinear, (2.0 / 255.0, -1.0)).unwrap();
        resize.run(&y, &x).unwrap();
        let expected = [-1.0, 1.0, -0.6, -0.2].map(|x: f64| [x; 3]).concat();
        assert_close("grey", &y, &expected, 1e-6);
    });
}

#[test]
fn what_cannot_work_is_refused_with_the_numbers() {
    let device = Device::host(1).unwrap();
    let (x, y) = (device.zeros(12).unwrap(), device.zeros(12).unwrap());
    let image = Image { n: 1, h: 2, w: 2, c: 3 };
    let failed =
        |pool: Pool, first, channels| features::pool(pool, &y, &x, image, first, channels).unwrap_err().to_string();
    assert!(failed(Pool { size: 3, ..Pool::COPY }, 0, 3).contains("expected windows with pixels in them"));
    assert!(failed(Pool { pad: 1, ..Pool::COPY }, 0, 3).contains("expected windows with pixels in them"));
    assert!(failed(Pool { stride: 0, ..Pool::COPY }, 0, 3).contains("expected windows"));
    assert_eq!(failed(Pool::COPY, 1, 3), "pool: 3 channels from 1 on, of 3");
    assert_eq!(failed(Pool::COPY, 0, 4), "pool: y has 12 elements, expected 16");
    let image = ImageShape { height: 2, width: 2, channels: 3 };
    let odd = ImageShape { channels: 2, ..image };
    let error = Resize::new(&device, odd, [2, 2, 3], Filter::Bicubic, (1.0, 0.0)).err().unwrap().to_string();
    assert!(error.contains("expected 1 or 3 channels"), "{error}");
    let resize = Resize::new(&device, image, [2, 2, 3], Filter::Bicubic, (1.0, 0.0)).unwrap();
    let error = resize.run(&y, &device.zeros(11).unwrap()).unwrap_err().to_string();
    assert_eq!(error, "resize: x has 11 elements, expected 12");
}
