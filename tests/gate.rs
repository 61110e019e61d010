//! The code gate: what is read of kernels' machine code is right, and the kernels are within their budget.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use zgan::device::{Precision, embedded_images, kernel, nvrtc};
use zgan::instruments::gate::{
    self, Budget, Counts, Disassembler, Flow, Instructions, KernelCode, Loop, Multiplier, occupancy, steady_loops,
};

fn zgan(arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Command::new(env!("CARGO_BIN_EXE_zgan")).args(arguments).current_dir(root).output().unwrap()
}

/// Without a disassembler: scripts/test runs the whole gate with one.
fn zgan_uncounted(arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_zgan"));
    command.args(arguments).current_dir(root).env("NVDISASM", "/nowhere").output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether this build has GPU code; without, the command must say how to get it.
fn has_code(test: &str) -> bool {
    if !embedded_images().is_empty() {
        return true;
    }
    println!("left out: {test}: this build has no GPU code (NVRTC was not found)");
    let output = zgan(&["kernels", "--check"]);
    assert!(!output.status.success());
    assert!(
        said(&output).contains("holds no GPU code") && said(&output).contains("NVRTC_LIB_DIR"),
        "{}",
        said(&output)
    );
    false
}

#[test]
fn no_kernel_spills_or_is_over_its_budget() {
    if !has_code("no_kernel_spills_or_is_over_its_budget") {
        return;
    }
    let output = zgan_uncounted(&["kernels", "--check"]);
    assert!(output.status.success(), "{}", said(&output));
    let targets = embedded_images().into_iter().map(|(target, _)| target);
    for what in targets.filter(|target| target.starts_with("sm_")).chain(["within kernels/budget.toml"]) {
        assert!(said(&output).contains(what), "{what:?} is not in {}", said(&output));
    }
}

#[test]
fn a_breach_of_the_budget_is_told_and_renewed() {
    if !has_code("a_breach_of_the_budget_is_told_and_renewed") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("budget.toml");
    let committed = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/budget.toml")).unwrap();
    let line = committed.lines().find(|line| line.starts_with("adam_update_f32")).unwrap();
    let registers: u32 = line.split(['=', ',']).nth(2).unwrap().trim().parse().unwrap();
    let tighter = committed
        .replace(line, "adam_update_f32 = { registers = 3, shared = 4096 }\nno_kernel = { registers = 9, shared = 0 }");
    std::fs::write(&file, tighter).unwrap();

    let check = ["kernels", "--check", "--budget", file.to_str().unwrap()];
    let output = zgan_uncounted(&check);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let more = format!("{registers} registers, {} more than the 3 it may", registers - 3);
    for what in [&more, "no_kernel is in the budget", "zgan kernels --renew-budget"] {
        assert!(said(&output).contains(what), "{what:?} is not in {}", said(&output));
    }
    // A part of the kernels that is not concerned.
    assert!(zgan_uncounted(&[&check[..], &["log_partition"]].concat()).status.success());

    let output = zgan_uncounted(&["kernels", "--renew-budget", "--budget", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), committed);
    assert!(zgan_uncounted(&check).status.success());
}

/// With spills, an array that is indexed at run time, and shared memory of an odd size.
const PLANTED: &str = r#"
extern "C" __global__ void __launch_bounds__(1024, 2) spills(float* y, const float* x) {
    float v[64];
    #pragma unroll
    for (int i = 0; i < 64; i++) v[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
    #pragma unroll
    for (int k = 0; k < 8; k++) {
        float sum = 0;
        #pragma unroll
        for (int i = 0; i < 64; i++) sum += v[i] * v[(i * k + k) % 64];
        y[k * 1024 + threadIdx.x] = sum;
    }
}
extern "C" __global__ void __launch_bounds__(256) indexes(float* y, const float* x, const int* at) {
    float v[64];
    for (int i = 0; i < 64; i++) v[at[i]] = x[i];
    y[threadIdx.x] = v[at[threadIdx.x]];
}
extern "C" __global__ void __launch_bounds__(256) shares(float* y, const float* x) {
    __shared__ float v[257];
    v[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x == 0) v[256] = 1;
    __syncthreads();
    y[threadIdx.x] = v[256 - threadIdx.x];
}
"#;

#[test]
fn planted_spills_arrays_and_shared_memory_are_seen() {
    let Ok(compiler) = nvrtc::Compiler::find() else {
        println!("left out: planted_spills_arrays_and_shared_memory_are_seen: there is no NVRTC here");
        return;
    };
    // One of each way in which cubins are laid out.
    for target in ["sm_75", "sm_90", "sm_120"] {
        let nvrtc::Compiled { code, log, .. } = compiler.compile("planted", PLANTED, target).unwrap();
        let kernels = gate::resources(&code, target[3..].parse().unwrap()).unwrap();
        assert_eq!(kernels.iter().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["indexes", "shares", "spills"]);
        for kernel in &kernels {
            let told = log.kernels.iter().find(|told| told.name == kernel.name).unwrap();
            assert_eq!((kernel.registers, kernel.local), (told.registers, told.stack), "{target}, {}", kernel.name);
            let spilled = (told.spill_stores > 0, told.spill_loads > 0);
            let (local, shared, spills) = match kernel.name.as_str() {
                "indexes" => (kernel.local == 256, 0, false),
                "shares" => (kernel.local == 0, 257 * 4, false),
                _ => (kernel.local >= 4 * (64 - 32), 0, true),
            };
            assert!(local, "{target}, {}: {} bytes of local memory", kernel.name, kernel.local);
            // A multiple of 16 at most above what was asked for.
            assert!((shared..shared + 16).contains(&kernel.shared), "{target}, {}: {}", kernel.name, kernel.shared);
            assert_eq!(spilled, (spills, spills), "{target}, {}", kernel.name);
        }
    }
}

const INSTRUCTIONS: &str = r#"
extern "C" __global__ void tensor(float* y, const float* x) {
    __shared__ __align__(16) float tile[1024];
    unsigned to, a, b, c, d;
    asm volatile("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(to) : "l"(tile));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to + 16 * threadIdx.x), "l"(x + 4 * threadIdx.x));
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(to + 16 * threadIdx.x));
    float m[4] = {0, 0, 0, 0};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%4, %5}, {%0, %1, %2, %3};"
                 : "+f"(m[0]), "+f"(m[1]), "+f"(m[2]), "+f"(m[3]) : "r"(a), "r"(b), "r"(c), "r"(d));
    y[threadIdx.x] = m[0] + m[1] * m[2] * m[3];
}
extern "C" __global__ void vectors(float4* y, const float4* x, float s) {
    const float4 a = x[threadIdx.x];
    y[threadIdx.x] = make_float4(a.x * s + 1.0f, a.y * s + 1.0f, a.z * s + 1.0f, a.w * s + 1.0f);
}
"#;

#[test]
fn planted_instructions_are_counted() {
    let (compiler, disassembler) = match (nvrtc::Compiler::find(), Disassembler::find()) {
        (Ok(compiler), Ok(disassembler)) => (compiler, disassembler),
        (compiler, disassembler) => {
            let reason = compiler.err().or(disassembler.err()).unwrap();
            println!("left out: planted_instructions_are_counted: {reason}");
            return;
        }
    };
    for target in ["sm_80", "sm_90", "sm_120"] {
        let code = compiler.compile("planted", INSTRUCTIONS, target).unwrap().code;
        let mut kernels = disassembler.disassemble(&code).unwrap();
        kernels.sort();
        let count = |name: &str| Instructions::count(&kernels.iter().find(|(kernel, _)| kernel == name).unwrap().1);
        let Instructions { matrix, async_copy, ldsm, vector_loads, local, .. } = count("tensor");
        assert_eq!([matrix, async_copy, ldsm, vector_loads, local], [1, 1, 1, 0, 0], "{target}");
        let Instructions { matrix, async_copy, ldsm, vector_loads, ffma, .. } = count("vectors");
        assert_eq!([matrix, async_copy, ldsm, vector_loads], [0, 0, 0, 1], "{target}");
        assert!((2..=4).contains(&ffma), "{target}: {ffma}");
    }
}

/// The loops of a real kernel, which the budget and the model know: they are counted, printed and limited.
#[test]
fn steady_loops_are_counted_and_held() {
    let kernel = "conv_forward_128x64_bf16";
    if !has_code("steady_loops_are_counted_and_held") {
        return;
    }
    if let Err(reason) = Disassembler::find() {
        println!("left out: steady_loops_are_counted_and_held: {reason}");
        let output = zgan(&["kernels", "--loops", kernel]);
        assert!(!output.status.success() && said(&output).contains("nvdisasm"), "{}", said(&output));
        return;
    }
    let output = zgan(&["kernels", "--loops", kernel, "--arch", "sm_90", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let lean = &rows[0]["loops"][0];
    assert_eq!((&rows[0]["kernel"], &lean["name"]), (&kernel.into(), &"lean".into()), "{rows}");
    let turn = Budget::committed().unwrap().turn("sm_90", kernel, "lean").unwrap();
    let count = |what: &str| lean["lean"][what].as_u64().unwrap();
    assert_eq!([count("mma"), count("issued")], [turn.products, turn.issued].map(u64::from));
    assert!(count("ldsm") > 0 && count("ldgsts") > 0 && count("barriers") > 0, "{lean}");

    let table = said(&zgan(&["kernels", "--loops", kernel]));
    for what in ["| kernel, sm_80 ", "| kernel, sm_90 ", " rtx4090 |", " h100 |", "percent of the HMMA's"] {
        assert!(table.contains(what), "{what:?} is not in {table}");
    }

    // One instruction less than there are.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("budget.toml");
    let committed = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/budget.toml")).unwrap();
    let section = committed.find("[loops.sm_90]").unwrap();
    let issued = |issued: u32| format!("issued = {issued}");
    let line = committed[section..].lines().find(|line| line.starts_with(&format!("{kernel}.lean"))).unwrap();
    let tighter = line.replace(&issued(turn.issued), &issued(turn.issued - 1));
    std::fs::write(&file, committed[..section].to_string() + &committed[section..].replace(line, &tighter)).unwrap();
    let output = zgan(&["kernels", "--check", kernel, "--budget", file.to_str().unwrap()]);
    let breach = format!("{kernel} for sm_90, lean loop: ");
    assert!(!output.status.success() && said(&output).contains(&breach), "{}", said(&output));
    assert!(said(&output).contains("one breach of"), "{}", said(&output));
}

#[test]
fn code_is_printed() {
    if !has_code("code_is_printed") {
        return;
    }
    let output = zgan(&["kernels", "--ptx", "adam_finish_f32"]);
    let text = said(&output);
    assert!(output.status.success() && text.contains(".target sm_80"), "{text}");
    assert_eq!(text.matches(".entry").count(), 1, "{text}");
    assert!(
        text.contains(".visible .entry adam_finish_f32(") && text.contains("ret;") && text.trim_end().ends_with('}')
    );

    let output = zgan(&["kernels", "--ptx", "adam_finnish_f32"]);
    assert!(said(&output).contains("is adam_finish_f32 meant?"), "{}", said(&output));
    let output = zgan(&["kernels", "adam", "--arch", "sm_70"]);
    assert!(said(&output).contains("no code for sm_70, only for sm_75"), "{}", said(&output));
    assert!(said(&zgan(&["kernels", "nothing_is_called_so"])).contains("nothing_is_called_so"));

    let output = zgan(&["kernels", "adam", "--arch", "sm_90", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let adam = kernel::MODULES.iter().find(|m| m.name == "adam").unwrap();
    assert_eq!(rows.as_array().unwrap().len(), adam.kernels.len());
    assert!(rows[0]["registers"].as_u64().unwrap() > 0 && rows[0]["arch"] == "sm_90");

    let (sass, table) =
        (zgan(&["kernels", "--sass", "adam_finish_f32", "--arch", "sm_90"]), zgan(&["kernels", "adam"]));
    assert!(table.status.success());
    match Disassembler::find() {
        Ok(_) => {
            assert!(said(&sass).contains(".text.adam_finish_f32") && said(&sass).contains("EXIT"), "{}", said(&sass));
            assert!(rows[0]["instructions"]["all"].as_u64().unwrap() > 10);
            assert!(!said(&table).contains("no instructions"), "{}", said(&table));
        }
        Err(_) => {
            println!("left out: the machine code as text: there is no nvdisasm here");
            assert!(!sass.status.success() && said(&sass).contains("nvidia-cuda-nvdisasm"), "{}", said(&sass));
            assert!(said(&table).contains("no instructions: nvdisasm was not found"), "{}", said(&table));
        }
    }
}

/// What a kernel takes that is in nobody's way.
fn code(kernel: &str, arch: &'static str) -> KernelCode {
    KernelCode {
        module: "m",
        kernel: kernel.into(),
        family: "k",
        tile: None,
        precision: Precision::F32,
        arch,
        registers: 0,
        spill_stores: 0,
        spill_loads: 0,
        local: 0,
        shared: 0,
        blocks: 2,
        occupancy: 1,
        instructions: None,
        loops: Vec::new(),
    }
}

#[test]
fn what_is_over_budget_is_told_with_how_much() {
    let code = |kernel: &str, arch, [registers, shared, local]: [u32; 3]| {
        let (spill_stores, spill_loads) = (local / 2, local / 2);
        KernelCode { registers, shared, local, spill_stores, spill_loads, ..code(kernel, arch) }
    };
    let before = [code("a", "sm_80", [32, 64, 0]), code("a", "sm_90", [30, 128, 0]), code("b", "sm_80", [8, 0, 0])];
    let budget = Budget::of(&before, "12.9", None);
    assert_eq!(budget.check(&before, "12.9", true), [""; 0]);

    let more = [code("a", "sm_80", [35, 64, 0]), code("a", "sm_90", [30, 144, 8]), code("c", "sm_80", [8, 0, 0])];
    let expected = [
        "a for sm_80: 35 registers, 3 more than the 32 it may",
        "a for sm_90: 144 bytes of shared memory, 16 more than the 128 it may",
        "a for sm_90: 8 bytes of local memory, 8 more than the 0 it may",
        "a for sm_90: registers ran out, 4 bytes are spilled and 4 loaded again",
        "c is not in the budget",
        "b is in the budget, and there is no such kernel",
    ];
    assert_eq!(budget.check(&more, "12.9", true), expected);
    // Only a part of the kernels; and the registers of another compiler.
    assert_eq!(budget.check(&more[..1], "12.9", false), expected[..1]);
    assert_eq!(budget.check(&more[..1], "12.4", false), [""; 0]);
    assert_eq!(budget.check(&more[1..2], "12.4", false), expected[1..4]);
}

#[test]
fn exceptions_are_written_by_hand_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("budget.toml");
    let spilling =
        [KernelCode { registers: 32, shared: 64, local: 16, spill_stores: 8, spill_loads: 8, ..code("a", "sm_80") }];
    // Writing the budget anew excuses nothing.
    let budget = Budget::of(&spilling, "12.9", None);
    assert_eq!(budget.check(&spilling, "12.9", true).len(), 2);
    budget.write(&path).unwrap();
    assert_eq!(Budget::read(&path).unwrap(), budget);

    let line = "a = { registers = 32, shared = 64, local = 24, reason = \"it is \\\"small\\\"\" }";
    let text = |line: &str| format!("compiler = \"12.9\"\n[kernels]\n{line}\n");
    std::fs::write(&path, text(line)).unwrap();
    let excusing = Budget::read(&path).unwrap();
    assert_eq!(excusing.check(&spilling, "12.9", true), [""; 0]);
    let renewed = Budget::of(&spilling, "12.9", Some(&excusing));
    renewed.write(&path).unwrap();
    assert_eq!(Budget::read(&path).unwrap(), renewed);
    assert_eq!(renewed.exceptions().collect::<Vec<_>>(), [("a", 16, "it is \"small\"")]);

    std::fs::write(&path, text("a = { registers = 32, shared = 64, local = 24 }")).unwrap();
    assert!(Budget::read(&path).unwrap_err().to_string().contains("for no reason"));
    std::fs::write(&path, text("a = { regs = 32 }")).unwrap();
    assert!(Budget::read(&path).unwrap_err().to_string().contains("budget.toml"));
}

#[test]
fn what_is_no_cubin_is_told() {
    for file in
        [&b""[..], b"\x7fELF\x02\x01", b"\x7fELF\x02\x01 and then only text, though rather long text, to the end"]
    {
        assert!(gate::resources(file, 90).is_err());
    }
}

/// The expected numbers are from NVIDIA's occupancy calculator, for 256 threads.
#[test]
fn blocks_of_a_multiprocessor() {
    let found = |arch, registers, shared| occupancy(arch, 256, registers, shared).map(|o| (o.blocks, o.percent));
    // Few registers and no shared memory: the warps are the limit.
    assert_eq!(found(75, 32, 0), Some((4, 100)));
    assert_eq!(found(80, 32, 0), Some((8, 100)));
    assert_eq!(found(86, 40, 0), Some((6, 100)));
    // Registers: 33 count as 40, 128 let two blocks in, 129 count as 136 and let one.
    assert_eq!(found(80, 33, 0), Some((6, 75)));
    assert_eq!(found(90, 128, 0), Some((2, 25)));
    assert_eq!(found(90, 129, 0), Some((1, 12)));
    assert_eq!(found(120, 255, 0), Some((1, 16)));
    // Shared memory, with the kibibyte that the system takes from sm_80 on.
    assert_eq!(found(75, 32, 32 * 1024), Some((2, 50)));
    assert_eq!(found(86, 32, 32 * 1024), Some((3, 50)));
    assert_eq!(found(80, 32, 40 * 1024), Some((4, 50)));
    assert_eq!(found(70, 32, 0), None);
    for target in nvrtc::TARGETS.iter().filter_map(|target| target.strip_prefix("sm_")) {
        assert!(found(target.parse().unwrap(), 32, 0).is_some(), "sm_{target}");
    }
}

#[test]
fn instructions_are_counted_by_their_names() {
    let text = "\t.headerflags\t@\"EF_CUDA_SM80\"\n\
        //--------------------- .text.one     --------------------------\n\
        one:\n\
        .text.one:\n        /*0000*/                   MOV R1, c[0x0][0x28] ;\n        \
        /*0010*/                   HFMA2.MMA R3, -RZ, RZ, 0, 0 ;\n        \
        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;\n        \
        /*0030*/              @!P0 LDG.E.128.CONSTANT R4, [R2.64] ;\n        \
        /*0040*/               @P1 LDG.E.CONSTANT R4, [R2.64] ;\n        \
        /*0050*/                   LDS.128 R4, [R2] ;\n        \
        /*0060*/                   LDGSTS.E.BYPASS.128 [R5], [R2.64] ;\n        \
        /*0070*/                   LDSM.16.M88.4 R4, [R2] ;\n.L_x_1:\n        \
        /*0080*/                   FFMA R3, R3, R4, R5 ;\n        \
        /*0088*/                   HMMA.1688.F32.TF32 R4, R8, R12, R4 ;\n        \
        /*008a*/               @P0 BRA `(.L_x_1) ;\n        \
        /*008c*/                   FFMA R3, R3, R4, R5 ;\n        \
        /*0090*/                   STL [R1], R0 ;\n\
        //--------------------- .text.two --------------------------\n        \
        /*0000*/                   FFMA.FTZ R3, R3, R4, R5 ;\n        \
        /*0010*/                   EXIT ;\n";
    let kernels = gate::listings(text);
    assert_eq!(kernels.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    let first = Instructions {
        all: 13,
        matrix: 2,
        async_copy: 1,
        ldsm: 1,
        vector_loads: 2,
        ffma: 2,
        ffma_beside_matrix: 1,
        local: 1,
    };
    assert_eq!(Instructions::count(&kernels[0].1), first);
    assert_eq!(Instructions::count(&kernels[1].1), Instructions { all: 2, ffma: 1, ..Instructions::default() });
}

#[test]
fn what_does_not_run_on_tensor_cores_is_told() {
    type Form = (&'static str, Option<(usize, usize)>, Precision);
    let code = |(family, tile, precision): Form, arch, registers, instructions| {
        let instructions = Some(instructions);
        KernelCode { family, tile, precision, registers, instructions, ..code(family, arch) }
    };
    let good = Instructions { matrix: 64, ldsm: 8, async_copy: 4, ffma: 7, ..Instructions::default() };
    let problems = |form: Form, arch, registers, instructions| {
        let (count, problems) = gate::tensor_problems(&[code(form, arch, registers, instructions)]);
        (count, problems.join("; "))
    };
    let (wide, small) = (Some((128, 64)), Some((64, 64)));
    assert_eq!(problems(("a", wide, Precision::Bf16), "sm_80", 128, good), (1, String::new()));
    let uncounted = KernelCode { instructions: None, ..code(("a", wide, Precision::Bf16), "sm_80", 128, good) };
    assert_eq!(gate::tensor_problems(&[uncounted]), (1, Vec::new()));
    // No product, no tensor cores, or none for this precision.
    let others = [(None, Precision::Bf16, "sm_80"), (wide, Precision::F32, "sm_80"), (wide, Precision::Bf16, "sm_75")];
    for (tile, precision, arch) in others {
        assert_eq!(problems(("a", tile, precision), arch, 255, Instructions::default()), (0, String::new()));
    }
    let wrong = |form, arch, registers, instructions, words: &str| {
        let (count, said) = problems(form, arch, registers, instructions);
        assert!(count == 1 && said.contains(words) && !said.contains(';'), "{said:?}");
    };
    let alone = KernelCode { blocks: 1, ..code(("a", wide, Precision::Tf32), "sm_90", 129, good) };
    let (_, said) = gate::tensor_problems(&[alone]);
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

fn names(of: &[impl ToString]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

#[test]
fn what_an_instruction_reads_and_writes() {
    let both = |text: &str, writes: &[&str], reads: &[&str]| {
        let line = format!("        /*0010*/              {text} ;");
        let flow = Flow::read(&line);
        let one = &flow.code[0];
        assert_eq!((names(&one.writes), names(&one.reads)), (names(writes), names(reads)), "{text}");
    };
    both("@!P0 IADD3 R3, P1, R3.reuse, UR4, RZ", &["R3", "P1"], &["R3", "UR4", "P0"]);
    both("LDG.E.128.CONSTANT R4, desc[UR6][R2.64+0x10]", &["R4", "R5", "R6", "R7"], &["UR6", "R2"]);
    both("HMMA.16816.F32.BF16 R4, R8, R12, R4", &["R4", "R5", "R6", "R7"], &["R8", "R12", "R4"]);
    both("ISETP.GE.AND P0, PT, R3, c[0x0][0x160], PT", &["P0"], &["R3"]);
    both("PLOP3.LUT P2, P3, P0, P1, PT, 0x80, 0x0", &["P2", "P3"], &["P0", "P1"]);
    both("LDGSTS.E.BYPASS.128 [R5+UR4], [R2.64], P1", &[], &["R5", "UR4", "R2", "P1"]);
    both("CS2R R8, SRZ", &["R8", "R9"], &[]);
    both("S2R R0, SR_TID.X", &["R0"], &[]);
}

#[test]
fn loops_are_found_and_their_edges() {
    // Block 0, a loop of the blocks 1 to 4 around a loop of block 2 alone, and the end.
    let text = "        /*0000*/ MOV R1, RZ ;\n.L_x_0:\n        /*0010*/ MOV R2, RZ ;\n.L_x_1:\n        \
        /*0020*/ @P0 BRA `(.L_x_1) ;\n        /*0030*/ BRA P1, `(.L_x_2) ;\n        /*0040*/ NOP ;\n.L_x_2:\n        \
        /*0050*/ @!P2 BRA `(.L_x_0) ;\n        /*0060*/ EXIT ;\n        /*0070*/ BRA `(.L_x_3) ;\n.L_x_3:\n";
    let flow = Flow::read(text);
    assert_eq!(flow.next, [vec![1], vec![2], vec![2, 3], vec![5, 4], vec![5], vec![1, 6], vec![], vec![]]);
    assert_eq!(flow.fork[3], Some([5, 4]));
    let all = (0..flow.blocks()).collect();
    let loops = |of: &BTreeSet<usize>, cut: &BTreeSet<usize>| -> Vec<Vec<usize>> {
        let loops = flow.components(of, cut).into_iter().filter(|(_, again)| *again);
        loops.map(|(blocks, _)| blocks.into_iter().collect()).collect()
    };
    let outer = loops(&all, &BTreeSet::new());
    assert_eq!(outer, [vec![1, 2, 3, 4, 5]]);
    let outer: BTreeSet<usize> = outer[0].iter().copied().collect();
    assert_eq!(flow.entries(&outer), [1].into());
    assert_eq!(loops(&outer, &[1].into()), [vec![2]]);
}

/// A loop as a product has it, whose label is `.L_x_` and this letter, with something more.
fn product(letter: &str, more: &[&str]) -> Vec<String> {
    let head = [
        format!(".L_x_{letter}:"),
        "DEPBAR.LE SB0, 0x1".into(),
        "BAR.SYNC.DEFER_BLOCKING 0x0".into(),
        "LDSM.16.M88.4 R8, [R2]".into(),
    ];
    let tail = [
        "HMMA.16816.F32.BF16 R16, R8, R12, R16".into(),
        "HMMA.16816.F32.BF16 R20, R8, R14, R20".into(),
        "@P1 LDGSTS.E.BYPASS.128 [R3], [R4.64]".into(),
        "LDGDEPBAR".into(),
        "IADD3 R0, R0, 0x1, RZ".into(),
        "ISETP.GE.AND P0, PT, R0, c[0x0][0x160], PT".into(),
        format!("@!P0 BRA `(.L_x_{letter})"),
    ];
    head.into_iter().chain(more.iter().map(|line| line.to_string())).chain(tail).collect()
}

/// The loops in a listing of these lines, which are instructions and labels, with an end.
fn counted(lines: &[String]) -> Vec<Loop> {
    let line = |line: &str| match line.strip_suffix(':') {
        Some(_) => format!("{line}\n"),
        None => format!("        /*0010*/                   {line} ;\n"),
    };
    steady_loops(&lines.iter().map(String::as_str).chain(["EXIT"]).map(line).collect::<String>())
}

#[test]
fn one_loop_is_counted_by_kinds() {
    let more =
        ["@!PT LDS RZ, [RZ]", "LDC R5, c[0x0][0x200]", "@P2 MOV R6, c[0x0][0x208]", "IMAD.HI.U32 R7, R5, R6, RZ"];
    let loops = counted(&product("1", &more));
    let lean = Counts {
        issued: 14,
        mma: 2,
        ldsm: 1,
        lds: 1,
        ldgsts: 1,
        integer: 3,
        moves: 1,
        branches: 1,
        barriers: 1,
        other: 3,
        divisions: 1,
        reloads: 2,
        // The load of nothing moves nothing.
        shared: 2 * 512,
        in_flight: 2,
        ..Counts::default()
    };
    assert_eq!(loops, [Loop { name: "lean", multiplier: Multiplier::Mma, lean, rich: lean, guessed: false }]);
}

#[test]
fn an_inner_loop_counts_as_often_as_it_is_passed() {
    let fma = "FFMA R1, R2, R3, R1";
    let inner = |end: &str| -> Vec<String> {
        let head = [".L_x_0:", "STS.128 [R9], R4", "BAR.SYNC 0x0", "MOV R7, 0x2", ".L_x_1:", "LDS.128 R4, [R8]"];
        let tail = ["IADD3 R7, R7, 0x2, RZ", end, "@P0 BRA `(.L_x_1)", "@P1 BRA `(.L_x_0)"];
        head.into_iter().chain([fma; 32]).chain(tail).map(String::from).collect()
    };
    let known = &counted(&inner("ISETP.NE.AND P0, PT, R7, 0xa, PT"))[..];
    let [Loop { multiplier: Multiplier::Ffma, lean, guessed: false, .. }] = known else { panic!("{known:?}") };
    assert_eq!((lean.ffma, lean.lds, lean.sts, lean.issued), (4 * 32, 4, 1, 3 + 4 * 36 + 1));
    let unknown = &counted(&inner("ISETP.NE.AND P0, PT, R7, R6, PT"))[..];
    assert!(matches!(unknown, [Loop { guessed: true, lean: Counts { ffma: 32, .. }, .. }]), "{unknown:?}");
}

#[test]
fn of_several_loops_each_has_its_name() {
    let rolled = [".L_x_4:", "LDG.E R5, [R4.64]", "STS [R3], R5", "@P3 BRA `(.L_x_4)"];
    let changed = ["LDG.E.128 R24, [R4.64]", "HFMA2.BF16 R5, R24, R5, R5", "STS [R3], R5"];
    let mut both = product("4", &["LDG.E.128 R24, [R4.64]", "STS [R3], R24", "STS [R3], R25"]);
    both.retain(|line| !line.contains("LDGSTS"));
    let mut rolled = product("1", &rolled);
    // It issues less than the lean one where its own loop is left out.
    rolled.retain(|line| !line.contains("LDGSTS") && !line.contains("IADD3"));
    let all = [rolled, product("2", &changed), product("3", &[]), both].concat();
    // A loop around them, as of a kernel that goes from tile to tile.
    let persistent = [&[".L_x_0:".to_string(), "NOP".into()][..], &all, &["@P4 BRA `(.L_x_0)".to_string()]].concat();
    for lines in [all, persistent] {
        let loops = counted(&lines);
        let found: Vec<_> = loops.iter().map(|l| (l.name, l.lean.issued, l.lean.sts)).collect();
        // One turn of the loop that takes element after element stands for all of its turns.
        assert_eq!(found, [("lean", 10, 0), ("both", 12, 2), ("changed", 13, 1), ("elements", 11, 1)]);
    }
}

#[test]
fn what_parameters_decide_goes_the_cheap_way_and_the_dear_one() {
    let of = |condition: &str| {
        let more = [condition, "@P2 BRA `(.L_x_5)", "FMUL R5, R5, R6", "FMUL R6, R5, R6", ".L_x_5:"];
        let loops = counted(&product("1", &more));
        (loops[0].lean.issued, loops[0].rich.issued)
    };
    assert_eq!(of("ISETP.NE.AND P2, PT, RZ, c[0x0][0x170], PT"), (12, 14));
    // The turn decides, or the thread.
    assert_eq!(of("ISETP.NE.AND P2, PT, R0, c[0x0][0x170], PT"), (14, 14));
    assert_eq!(of("S2R R6, SR_TID.X"), (12, 14));
    // A far jump.
    let far = ["ISETP.NE.AND P2, PT, R0, RZ, PT", "@P2 CALL.REL.NOINC `(.L_x_5)", "FMUL R5, R5, R6", ".L_x_5:"];
    let loops = counted(&product("1", &far));
    assert_eq!((loops[0].lean.issued, loops[0].lean.calls), (13, 0));
}

#[test]
fn a_branch_on_what_was_loaded_lets_one_load_be_in_flight() {
    let load = |at: usize| format!("LDG.E R{at}, [R4.64]");
    let test = |at: usize| format!("FSETP.GT.AND P2, PT, R{at}, RZ, PT");
    let store = |at: usize| format!("STS [R3], R{at}");
    let apart: Vec<String> = (0..4).flat_map(|i| [load(40 + i), test(40 + i), store(40 + i)]).collect();
    let together: Vec<String> = (0..4).map(|i| load(40 + i)).chain((0..4).map(|i| store(40 + i))).collect();
    let lean = |lines: &[String]| {
        let branch = ["@P2 BRA `(.L_x_5)".to_string(), "FMUL R40, R40, R40".into(), ".L_x_5:".into()];
        let lines = [lines, &branch].concat();
        let more: Vec<&str> = lines.iter().map(String::as_str).collect();
        // Without the copies.
        let mut all = product("1", &more);
        all.retain(|line| !line.contains("LDGSTS"));
        counted(&all)[0].lean
    };
    let (apart, together) = (lean(&apart), lean(&together));
    assert_eq!((apart.in_flight, apart.data_branches), (1, 1));
    assert_eq!((together.in_flight, together.data_branches), (4, 0));
}

/// A kernel with the loop of a product, with something more.
fn looping(more: &[&str]) -> KernelCode {
    KernelCode { loops: counted(&product("1", more)), ..code("k_64x64_bf16", "sm_90") }
}

#[test]
fn what_a_steady_loop_must_not_have_is_refused() {
    let budget = |kernels: &[KernelCode]| Budget::of(kernels, "12.9", None);
    let check = |budget: &Budget, kernel: KernelCode| budget.check(&[kernel], "12.9", true);
    let turns = budget(&[looping(&["IADD3 R5, R5, R6, RZ"])]);
    assert_eq!(check(&turns, looping(&["IADD3 R5, R5, R6, RZ"])), [""; 0]);
    assert_eq!(check(&turns, looping(&[])), [""; 0]);
    // Only where a parameter is not 0.
    let more = ["ISETP.NE.AND P2, PT, RZ, c[0x0][0x170], PT", "@!P2 BRA `(.L_x_5)", "NOP", "NOP", ".L_x_5:"];
    let with = budget(&[looping(&more)]);
    assert_eq!(with.turn("sm_90", "k_64x64_bf16", "lean").map(|turn| (turn.issued, turn.rich)), Some((12, 14)));
    assert_eq!(check(&with, looping(&more)), [""; 0]);
    let said = check(&with, looping(&[&more[..2], &["NOP"], &more[2..]].concat()));
    let what =
        "7.50 instructions for each HMMA with the parameters for which they are the most, 0.50 more than the 7.00";
    assert!(said.len() == 1 && said[0].contains(what), "{said:?}");
    for (planted, what) in [
        (&["CALL.REL.NOINC `($k$tanh)"][..], "1 calls, 1 more than the 0 it may"),
        (&["IMAD.HI.U32 R5, R6, R7, RZ"], "1 divisions (IMAD.HI), 1 more than the 0 it may"),
        (&["LDC R5, c[0x0][0x210]"], "1 parameters loaded into registers again, 1 more than the 0 it may"),
        (&["MOV R5, c[0x0][0x210]"], "1 parameters loaded into registers again, 1 more than the 0 it may"),
        (&["MOV R5, R6", "MOV R7, R6"], "6.00 instructions for each HMMA, 0.50 more than the 5.50 it may"),
        (&["DEPBAR.LE SB0, 0x0"], "1 loads in flight, fewer than the 2 that there were"),
    ] {
        assert_eq!(check(&turns, looping(planted)), [format!("k_64x64_bf16 for sm_90, lean loop: {what}")]);
    }
    let on_data = ["LDS R5, [R6]", "ISETP.EQ.AND P2, PT, R5, RZ, PT", "@P2 BRA `(.L_x_5)", "NOP", ".L_x_5:"];
    let said = check(&turns, looping(&on_data));
    assert!(said.iter().any(|said| said.contains("1 branches on what was loaded")), "{said:?}");
}

#[test]
fn exceptions_of_loops_are_kept_and_none_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("budget.toml");
    let dividing = [looping(&["IMAD.HI.U32 R5, R6, R7, RZ"])];
    let budget = Budget::of(&dividing, "12.9", None);
    assert_eq!(budget.check(&dividing, "12.9", true).len(), 1);
    budget.write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let line = "k_64x64_bf16.lean = { products = 2, issued = 11, shared = 1024, in_flight = 2";
    assert!(text.ends_with(&format!("\n\n[loops.sm_90]\n{line} }}\n")), "{text}");
    std::fs::write(&path, text.replace(line, &format!("{line}, divisions = 3"))).unwrap();
    let excusing = Budget::read(&path).unwrap();
    assert_eq!(excusing.check(&dividing, "12.9", true), [""; 0]);
    let renewed = Budget::of(&dividing, "12.9", Some(&excusing));
    assert_eq!(renewed.turn("sm_90", "k_64x64_bf16", "lean").unwrap().divisions, 1);

    // What is gone, what is new, and what was not counted.
    let gone = Budget::of(&[], "12.9", Some(&budget));
    let turn = |budget: &Budget| budget.turn("sm_90", "k_64x64_bf16", "lean").copied();
    assert!(turn(&gone).is_some() && turn(&gone) == turn(&budget));
    assert_eq!(gone.check(&[], "12.9", true), [""; 0]);
    let other = [KernelCode { kernel: "j".into(), ..looping(&[]) }];
    let expected = [
        "j is not in the budget",
        "k_64x64_bf16 is in the budget, and there is no such kernel",
        "j for sm_90, lean loop: it is not in the budget",
        "k_64x64_bf16 for sm_90, lean loop: it is in the budget, and there is no such loop",
    ];
    assert_eq!(budget.check(&other, "12.9", true), expected);
    assert_eq!(budget.check(&other, "12.9", false), [expected[0], expected[2]]);
}
