//! What the products must look like that run on tensor cores: the kernels of a precision other than f32 that have a tile's
//! size in their names.

use super::KernelCode;

/// The registers that let two blocks of 256 threads into a multiprocessor.
const REGISTERS_OF_TWO: u32 = 128;

/// Whether the kernel of this name is a product for tensor cores, on generations that have them for its precision.
pub(super) fn is_product(kernel: &str) -> bool {
    let mut words = kernel.rsplit('_');
    let precision = words.next().unwrap_or_default();
    let tile = words.next().and_then(|word| word.split_once('x'));
    let tile = tile.is_some_and(|(rows, columns)| rows.parse::<u32>().is_ok() && columns.parse::<u32>().is_ok());
    tile && matches!(precision, "f16" | "bf16" | "tf32")
}

/// Whether a kernel is to run on tensor cores on this generation: sm_75 has them for f16 alone.
fn on_tensor_cores(code: &KernelCode) -> bool {
    is_product(&code.kernel) && (code.arch != "sm_75" || code.kernel.ends_with("_f16"))
}

/// How many of these kernels are products for tensor cores, and what is wrong with them, a line each. Instructions are looked at
/// where they were counted.
pub fn tensor_problems(kernels: &[KernelCode]) -> (usize, Vec<String>) {
    let mut problems = Vec::new();
    let products: Vec<&KernelCode> = kernels.iter().filter(|code| on_tensor_cores(code)).collect();
    for code in &products {
        let KernelCode { kernel, arch, registers, .. } = code;
        if kernel.contains("128x64") && *registers > REGISTERS_OF_TWO {
            problems.push(format!(
                "{kernel} for {arch}: {registers} registers, two blocks need at most {REGISTERS_OF_TWO}"
            ));
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
        let turned = kernel.ends_with("_tf32") && kernel.contains("weight_gradient");
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

    fn code(kernel: &str, arch: &'static str, registers: u32, instructions: Option<Instructions>) -> KernelCode {
        KernelCode {
            module: "m",
            kernel: kernel.into(),
            arch,
            registers,
            spill_stores: 0,
            spill_loads: 0,
            local: 0,
            shared: 0,
            blocks: 1,
            occupancy: 1,
            instructions,
        }
    }

    #[test]
    fn what_does_not_run_on_tensor_cores_is_told() {
        let good = Instructions { matrix: 64, ldsm: 8, async_copy: 4, ffma: 7, ..Instructions::default() };
        let problems = |kernel, arch, registers, instructions| {
            let (count, problems) = tensor_problems(&[code(kernel, arch, registers, instructions)]);
            (count, problems.join("; "))
        };
        assert_eq!(problems("a_128x64_bf16", "sm_80", 128, Some(good)), (1, String::new()));
        assert_eq!(problems("a_128x64_bf16", "sm_80", 128, None), (1, String::new()));
        // No product, no tensor cores, or none for this precision.
        for (kernel, arch) in [("a_bias_bf16", "sm_80"), ("a_128x64_f32", "sm_80"), ("a_128x64_bf16", "sm_75")] {
            assert_eq!(problems(kernel, arch, 255, Some(Instructions::default())), (0, String::new()));
        }
        let wrong = |kernel, arch, registers, instructions, words: &str| {
            let (count, said) = problems(kernel, arch, registers, Some(instructions));
            assert!(count == 1 && said.contains(words) && !said.contains(';'), "{said:?}");
        };
        wrong("a_128x64_tf32", "sm_90", 129, good, "129 registers, two blocks need at most 128");
        wrong("a_64x64_f16", "sm_75", 200, Instructions { matrix: 0, ..good }, "HMMA");
        wrong("a_64x64_f16", "sm_80", 200, Instructions { ffma_beside_matrix: 3, ..good }, "3 FFMA among");
        wrong("a_64x64_f16", "sm_80", 200, Instructions { ldsm: 0, ..good }, "LDSM");
        wrong("a_64x64_f16", "sm_80", 200, Instructions { async_copy: 0, ..good }, "LDGSTS");
        assert_eq!(problems("a_64x64_f16", "sm_75", 200, Some(Instructions { async_copy: 0, ..good })).1, "");
        let turned = Instructions { ldsm: 0, ..good };
        assert_eq!(problems("weight_gradient_64x64_tf32", "sm_80", 9, Some(turned)).1, "");
        wrong("weight_gradient_64x64_bf16", "sm_80", 9, turned, "LDSM");
    }
}
