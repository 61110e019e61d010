//! `kernels/peak.cu`: the chains are computed, all of them, and to their end.

use crate::common::*;
use zgan::device::{HAS_CHECK, Precision};
use zgan::ops::peak;

#[test]
fn every_chain_is_run_to_its_end() {
    on_each_device(|device| {
        let per_block = peak::per_block(device);
        for precision in Precision::ALL {
            if device.execution() == "host" && precision != Precision::F32 && !HAS_CHECK {
                continue;
            }
            let out = device.zeros_in(3 * per_block, precision).unwrap();
            // Whatever unit does it, and however many products it takes, these sums are exact.
            let next = |x: f64| if precision == Precision::F32 { 0.5 * x + 1.0 } else { x + 1.0 };
            for steps in [0, 1, 5] {
                peak::peak(&out, steps).unwrap();
                let first = |i: usize| (i % per_block % 7) as f64;
                let expected: Vec<f64> = (0..out.len()).map(|i| (0..steps).fold(first(i), |x, _| next(x))).collect();
                assert_close("out", &out, &expected, 1e-6);
            }
            let error = peak::peak(&out.view(0..per_block - 1), 1).unwrap_err().to_string();
            assert!(error.contains(&format!("multiple of {per_block}")), "{error}");
        }
    });
}
