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

#[cfg(test)]
mod tests {
    use super::super::Instructions;
    use super::*;

    type Form = (&'static str, Option<(usize, usize)>, Precision);

    fn code(
        (family, tile, precision): Form,
        arch: &'static str,
        registers: u32,
        instructions: Instructions,
    ) -> KernelCode {
        KernelCode {
            module: "m",
            kernel: family.into(),
            family,
            tile,
            precision,
            arch,
            registers,
            spill_stores: 0,
            spill_loads: 0,
            local: 0,
            shared: 0,
            blocks: 2,
            occupancy: 1,
            instructions: Some(instructions),
            loops: Vec::new(),
        }
    }

    #[test]
    fn what_does_not_run_on_tensor_cores_is_told() {
        let good = Instructions { matrix: 64, ldsm: 8, async_copy: 4, ffma: 7, ..Instructions::default() };
        let problems = |form: Form, arch, registers, instructions| {
            let (count, problems) = tensor_problems(&[code(form, arch, registers, instructions)]);
            (count, problems.join("; "))
        };
        let (wide, small) = (Some((128, 64)), Some((64, 64)));
        assert_eq!(problems(("a", wide, Precision::Bf16), "sm_80", 128, good), (1, String::new()));
        let uncounted = KernelCode { instructions: None, ..code(("a", wide, Precision::Bf16), "sm_80", 128, good) };
        assert_eq!(tensor_problems(&[uncounted]), (1, Vec::new()));
        // No product, no tensor cores, or none for this precision.
        let others =
            [(None, Precision::Bf16, "sm_80"), (wide, Precision::F32, "sm_80"), (wide, Precision::Bf16, "sm_75")];
        for (tile, precision, arch) in others {
            assert_eq!(problems(("a", tile, precision), arch, 255, Instructions::default()), (0, String::new()));
        }
        let wrong = |form, arch, registers, instructions, words: &str| {
            let (count, said) = problems(form, arch, registers, instructions);
            assert!(count == 1 && said.contains(words) && !said.contains(';'), "{said:?}");
        };
        let alone = KernelCode { blocks: 1, ..code(("a", wide, Precision::Tf32), "sm_90", 129, good) };
        let (_, said) = tensor_problems(&[alone]);
        assert!(said.len() == 1 && said[0].contains("129 registers a thread"), "{said:?}");
        let half = ("a", small, Precision::F16);
        wrong(half, "sm_75", 200, Instructions { matrix: 0, ..good }, "HMMA");
        wrong(half, "sm_80", 200, Instructions { ffma_beside_matrix: 3, ..good }, "3 FFMA among");
        wrong(half, "sm_80", 200, Instructions { ldsm: 0, ..good }, "LDSM");
        wrong(half, "sm_80", 200, Instructions { async_copy: 0, ..good }, "LDGSTS");
        assert_eq!(problems(half, "sm_75", 200, Instructions { async_copy: 0, ..good }).1, "");
        let turned = Instructions { ldsm: 0, ..good };
        assert_eq!(problems(("a_weight_gradient", small, Precision::Tf32), "sm_80", 9, turned).1, "");
        wrong(("a_weight_gradient", small, Precision::Bf16), "sm_80", 9, turned, "LDSM");
    }
}
