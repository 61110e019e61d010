//! `kernels/peak.cu`: the chains are computed, all of them, and to their end.

use crate::common::*;
use zgan::device::Buffer;
use zgan::ops::peak;

#[test]
fn every_chain_is_run_to_its_end() {
    on_each_device(|device| {
        let per_block = peak::per_block(device);
        let out: Buffer<f32> = device.zeros(3 * per_block).unwrap();
        for steps in [0, 1, 5] {
            peak::peak(&out, steps).unwrap();
            let expected: Vec<f64> =
                (0..out.len()).map(|i| (0..steps).fold((i % per_block % 7) as f64, |x, _| 0.5 * x + 1.0)).collect();
            assert_close("out", &out, &expected, 1e-6);
        }
        let error = peak::peak(&out.view(0..per_block - 1), 1).unwrap_err().to_string();
        assert!(error.contains(&format!("multiple of {per_block}")), "{error}");
    });
}
