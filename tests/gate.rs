//! The code gate: what is read of kernels' machine code is right, and the kernels are within their budget.

use std::path::Path;
use std::process::{Command, Output};

use zgan::device::{embedded_images, kernel, nvrtc};
use zgan::instruments::gate::{self, Budget, Disassembler, Instructions};

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
        let (code, log) = compiler.compile("planted", PLANTED, target).unwrap();
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
        let (code, _) = compiler.compile("planted", INSTRUCTIONS, target).unwrap();
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
