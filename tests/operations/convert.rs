//! `kernels/convert.cu`: to 16 bits as the crate `half` rounds, and back without loss.

use crate::common::*;
use zgan::device::{Buffer, Device, Precision};
use zgan::ops::convert;

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn narrows_as_the_crate_half_and_widens_exactly() {
    on_each_device(|device| {
        for precision in NARROW {
            for n in [1, 31, 33, 1000, 5003] {
                let mut values = Random(n as u64).normals(n);
                let extremes = [0.0, -0.0, 65_504.0, 65_519.9, 65_520.0, -1e38, f32::INFINITY, 6e-8, 2.9e-8, 1e-40];
                // Both ties: to the even neighbour below, and above.
                let ties = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0];
                values.iter_mut().skip(n / 2).zip(extremes.into_iter().chain(ties)).for_each(|(to, x)| *to = x);
                let narrow = device.zeros_in(n, precision).unwrap();
                convert::narrow(&narrow, &device.upload(&values).unwrap()).unwrap();
                let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                let expected = bits(rounded(&values, precision));
                assert_eq!(bits(narrow.read().unwrap()), expected, "{precision}");
                let wide = device.upload(&vec![f32::NAN; n]).unwrap();
                convert::widen(&wide, &narrow).unwrap();
                assert_eq!(bits(wide.read().unwrap()), expected, "{precision}");
                convert::narrow(&narrow, &device.upload(&vec![f32::NAN; n]).unwrap()).unwrap();
                assert!(narrow.read().unwrap().iter().all(|x| x.is_nan()), "{precision}");
            }
        }
    });
}

#[test]
fn refuses_what_does_not_fit() {
    let device = Device::host(1).unwrap();
    let (wide, narrow): (Buffer<f32>, _) = (device.zeros(3).unwrap(), device.zeros_in(4, Precision::Bf16).unwrap());
    let error = convert::narrow(&narrow, &wide).unwrap_err().to_string();
    assert_eq!(error, "convert: x has 3 elements, expected 4");
    let error = convert::narrow(&wide, &wide.view(0..3)).unwrap_err().to_string();
    assert!(error.contains("f32"), "{error}");
}
