//! What the products must look like that run on tensor cores: the tiled kernels of a precision other than f32.

use super::KernelCode;
use crate::device::Precision;

/// Whether this is a product for tensor cores, on generations that have them for its precision.
pub(super) fn is_product(tile: Option<(usize, usize)>, precision: Precision) -> bool {
    tile.is_some() && precision != Precision::F32
}

/// Whether a kernel is to run on tensor cores on this generation: sm_75 has them for f16 alone.
fn on_tensor_cores(code: &KernelCode) -> bool {
    is_product(code.tile, code.precision) && (code.arch != "sm_75" || code.precision == Precision::F16)
}

/// How many of these kernels are products for tensor cores, and what is wrong with them, a line each. Instructions are looked at
/// where they were counted.
pub fn tensor_problems(kernels: &[KernelCode]) -> (usize, Vec<String>) {
    let mut problems = Vec::new();
    let products: Vec<&KernelCode> = kernels.iter().filter(|code| on_tensor_cores(code)).collect();
    for code in &products {
        let KernelCode { kernel, family, precision, arch, registers, shared, blocks, .. } = code;
        // While the warps of one block wait, those of another multiply. A multiprocessor of sm_75 has little shared memory.
        if *blocks < 2 && *arch != "sm_75" {
            let takes = format!("{registers} registers a thread and {shared} bytes of shared memory");
            problems.push(format!("{kernel} for {arch}: {takes} let one block in, expected two"));
        }
        let Some(count) = code.instructions else { continue };
        let mut wants = |good: bool, what: &str| {
            if !good {
                problems.push(format!("{kernel} for {arch}: {what}"));
            }
        };
        wants(count.matrix > 0, "no instruction of the tensor cores (HMMA)");
        let beside = count.ffma_beside_matrix;
        wants(beside == 0, &format!("{beside} FFMA among the HMMA of its inner loop"));
        // No instruction turns matrices of 32-bit numbers, which both operands of a weight gradient need.
        let turned = *precision == Precision::Tf32 && family.ends_with("weight_gradient");
        wants(count.ldsm > 0 || turned, "no fragment is loaded by LDSM");
        // All have an operand that may be read as it is.
        wants(count.async_copy > 0 || *arch == "sm_75", "nothing is copied by LDGSTS");
    }
    (products.len(), problems)
}
