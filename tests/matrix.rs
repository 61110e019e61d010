//! `kernels/device/matrix.h` on `simt`: every instruction against what NVIDIA's PTX manual says of it, written here once more, with
//! numbers that are all different, so that a wrong lane, register, row or half gives a wrong result.

mod common;
#[path = "common/simt_module.rs"]
mod simt_module;

use std::ffi::c_void;
use std::path::Path;
use std::sync::OnceLock;

use common::{Random, operand};
use half::{bf16, f16};
use zgan::device::{Buffer, Check, Device, Precision, kernel};
use zgan::instruments::check;

/// Each `which` is a kernel of its own. All warps do the same; the first one's results are kept.
const PROBE: &str = r#"
template <int N> DEVICE void keep(uint32_t* out, const uint32_t (&r)[N]) {
    if (thread() < WARP)
        for (int i = 0; i < N; i++) out[thread() * 4 + i] = r[i];
}
KERNEL(256, 0) probe(uint32_t* out, const uint32_t* in, uint32_t which) {
    SHARED(Row16, memory, 512);
    const int t = thread(), lane = t % WARP;
    const Row16* rows = reinterpret_cast<const Row16*>(in);
    Row16* kept = reinterpret_cast<Row16*>(out);
    if (which < 4) {
        memory[t] = rows[t];
        barrier();
        const Row16* row = memory + in[1024 + lane];
        uint32_t four[4], two[2];
        if (which == 0) { load_matrices(four, row); keep(out, four); }
        if (which == 1) { load_matrices(two, row); keep(out, two); }
        if (which == 2) { load_matrices_turned(four, row); keep(out, four); }
        if (which == 3) { load_matrices_turned(two, row); keep(out, two); }
        return;
    }
    if (which < 8) {
        const uint32_t* own = in + lane * 10;
        const uint32_t a[4] = {own[0], own[1], own[2], own[3]}, b[2] = {own[4], own[5]};
        float c[4];
        for (int i = 0; i < 4; i++) c[i] = bits_to_float(own[6 + i]);
        if (which == 4) multiply_bf16(c, a, b);
        if (which == 5) multiply_f16(c, a, b);
        if (which == 6) multiply_f16_k8(c, a[0], a[1], b[0]);
        if (which == 7) multiply_tf32(c, a, b);
        const uint32_t bits[4] = {float_to_bits(c[0]), float_to_bits(c[1]), float_to_bits(c[2]), float_to_bits(c[3])};
        keep(out, bits);
        return;
    }
    switch (which) {
    case 10: copy_async(memory + t, rows + t, in[1024 + t]); commit_copies(); wait_copies<0>(); barrier(); kept[t] = memory[(t + 1) % BLOCK]; break;
    case 11: copy_async(memory + t, rows + t, 16); commit_copies(); barrier(); kept[t] = memory[t]; wait_copies<0>(); break;
    case 12: copy_async(memory + t, rows + t, 16); wait_copies<0>(); kept[t] = memory[t]; commit_copies(); wait_copies<0>(); break;
    case 13: case 14:
        copy_async(memory + t, rows + t, 16);
        commit_copies();
        copy_async(memory + BLOCK + t, rows + t, 16);
        commit_copies();
        wait_copies<1>();
        kept[t] = memory[which == 13 ? t : t + BLOCK];
        wait_copies<0>();
        break;
    case 15: copy_async(memory + t, kept + t, 16); commit_copies(); out[4 * t + 1] = 7; wait_copies<0>(); break;
    case 16: copy_async(memory + t, rows + t, 16); commit_copies(); wait_copies<0>(); kept[t] = memory[(t + 1) % BLOCK]; break;
    case 17: copy_async(memory + t, rows + t, 20); commit_copies(); wait_copies<0>(); break;
    case 18: copy_async(memory + t, in + t, 16); commit_copies(); wait_copies<0>(); break;
    case 19: memory[t] = rows[t]; barrier(); kept[t] = memory[(t + 1) % BLOCK]; copy_async(memory + t, rows + t, 16); commit_copies(); wait_copies<0>(); break;
    case 20: copy_async(memory + t, rows + t, 16); commit_copies(); break;
    case 21: {
        uint32_t four[4];
        memory[t] = rows[t];
        barrier();
        if (t != 3) load_matrices(four, memory + lane);
        break;
    }
    case 22: copy_async(memory + 512 + t, rows + t, 16); commit_copies(); wait_copies<0>(); break;
    case 23: copy_async(memory + t, t == 5 ? nullptr : rows + t, t == 5 ? 0 : 16); commit_copies(); wait_copies<0>(); kept[t] = memory[t]; break;
    case 24: store_or_zero(shared_address(memory + t), rows[t].word, t % 3 != 0); barrier(); kept[t] = memory[(t + 1) % BLOCK]; break;
    }
}
"#;

/// The table of a module whose kernels all are the probe.
fn probe() -> *const c_void {
    static TABLE: OnceLock<usize> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let text = simt_module::text("state");
        let (head, rest) = text.split_once("\nKERNEL(").unwrap();
        let (_, tail) = rest.split_once("#line 1 \"kernels/host/entry.h\"").unwrap();
        let mut middle = String::new();
        for name in ["number", "matrix"] {
            let file = format!("kernels/device/{name}.h");
            let own = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).unwrap();
            let blank = |line: &str| line.starts_with("#include") || line == "#pragma once";
            let own: Vec<&str> = own.lines().map(|line| if blank(line) { "" } else { line }).collect();
            if !head.contains(&format!("#line 1 \"{file}\"")) {
                middle += &format!("\n#line 1 \"{file}\"\n{}\n", own.join("\n"));
            }
        }
        let (probe, all) = (PROBE.trim_start(), simt_module::all_are_the_probe(tail));
        let text = format!(
            "{head}\n{middle}#line 1 \"kernels/probe.cu\"\n{probe}\n{all}#line 1 \"kernels/host/entry.h\"{tail}"
        );
        let folder = tempfile::tempdir().unwrap();
        let object = simt_module::compile(folder.path(), "probe", &text, true).unwrap();
        // The folder stays: the library's lines are read from its file.
        let table = simt_module::load(&simt_module::link(&object), "state") as usize;
        std::mem::forget(folder);
        table
    });
    *table as *const c_void
}

/// Under several schedules: the 1,024 words that it wrote, and what was found.
fn run(which: u32, input: &[u32]) -> (Vec<u32>, Vec<zgan::device::Finding>) {
    let mut last = None;
    for seed in [0, 1, 2] {
        // SAFETY: `probe` compiled and loaded the table, and never unloads it.
        let device = unsafe { Device::simt_with_module(seed, "state", probe()).unwrap() };
        let input: Buffer<u32> = device.upload(input).unwrap();
        let out: Buffer<u32> = device.zeros(1024).unwrap();
        let (to, from) = (out.raw_address(), input.raw_address());
        let arguments = [(&raw const to).cast::<c_void>(), (&raw const from).cast(), (&raw const which).cast()];
        // SAFETY: the arguments are the probe's; what it does with the addresses is checked before it is done.
        let result = unsafe { device.launch_raw(kernel::STATE_ADVANCE, [1, 1, 1], &arguments) };
        let findings = device.seen().findings;
        assert!(result.is_ok() || !findings.is_empty(), "{which}: {result:?}");
        let words: Vec<u32> = out.read().unwrap();
        if let Some((before, earlier)) = last.replace((words.clone(), findings)) {
            assert!(before == words || !earlier.is_empty(), "{which}: schedule {seed} gives other results");
        }
    }
    last.unwrap()
}

fn clean(which: u32, input: &[u32]) -> Vec<u32> {
    let (words, findings) = run(which, input);
    assert!(findings.is_empty(), "{which}: {findings:?}");
    words
}

#[track_caller]
fn found(which: u32, check: Check, words: &str) {
    let (_, findings) = run(which, &(0..1280).collect::<Vec<u32>>());
    let finding = findings.iter().find(|f| f.check == check).unwrap_or_else(|| panic!("{which}: {findings:?}"));
    assert!(finding.what.contains(words), "{which}: {finding}");
    assert!(finding.source.contains("kernels/probe.cu:"), "{which}: {finding}");
}

/// Rows lie anywhere in memory: the lanes' places are shuffled.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn matrices_are_loaded_as_the_manual_says() {
    let mut random = Random(5);
    let half = |byte: usize| byte as u16 ^ 0x5a00; // the 16-bit number at 2 * `byte`
    let mut places: Vec<u32> = (0..256).collect();
    (1..256).rev().for_each(|i| places.swap(i, random.below(i + 1)));
    let mut input: Vec<u32> =
        (0..1024).map(|word| u32::from(half(2 * word)) | u32::from(half(2 * word + 1)) << 16).collect();
    input.extend(&places[..32]);
    // Element (row, column) of matrix i.
    let element = |i: usize, row: usize, column: usize| half(places[8 * i + row] as usize * 8 + column);
    for (which, count, turned) in [(0, 4, false), (1, 2, false), (2, 4, true), (3, 2, true)] {
        let found = clean(which, &input);
        for lane in 0..32 {
            for i in 0..count {
                let (row, column) = (lane / 4, 2 * (lane % 4));
                let pair =
                    [0, 1].map(|x| if turned { element(i, column + x, row) } else { element(i, row, column + x) });
                let expected = u32::from(pair[0]) | u32::from(pair[1]) << 16;
                assert_eq!(found[lane * 4 + i], expected, "form {which}, lane {lane}, register {i}");
            }
        }
    }
}

/// (row, column) of element `e` of a lane's part of A, B and C: the manual's formulas.
fn of_a(bits: usize, lane: usize, e: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    match bits {
        16 => (group + e / 2 % 2 * 8, thread * 2 + (e & 1) + if e < 4 { 0 } else { 8 }),
        _ => (group + e % 2 * 8, thread + if e < 2 { 0 } else { 4 }),
    }
}

fn of_b(bits: usize, lane: usize, e: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    match bits {
        16 => (thread * 2 + (e & 1) + if e < 2 { 0 } else { 8 }, group),
        _ => (thread + 4 * e, group),
    }
}

fn of_c(lane: usize, e: usize) -> (usize, usize) {
    ((lane >> 2) + if e < 2 { 0 } else { 8 }, (lane % 4) * 2 + (e & 1))
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn products_are_as_the_manual_says() {
    for (which, precision, depth) in
        [(4, Precision::Bf16, 16), (5, Precision::F16, 16), (6, Precision::F16, 8), (7, Precision::Tf32, 8)]
    {
        let mut random = Random(which);
        let mut numbers = |n| -> Vec<f32> { random.normals(n).iter().map(|x| operand(precision, *x)).collect() };
        let (a, b, c) = (numbers(16 * depth), numbers(depth * 8), numbers(16 * 8));
        let bits = if precision == Precision::Tf32 { 32 } else { 16 };
        let word = |values: &[f32]| match precision {
            Precision::Bf16 => {
                u32::from(bf16::from_f32(values[0]).to_bits()) | u32::from(bf16::from_f32(values[1]).to_bits()) << 16
            }
            Precision::F16 => {
                u32::from(f16::from_f32(values[0]).to_bits()) | u32::from(f16::from_f32(values[1]).to_bits()) << 16
            }
            _ => values[0].to_bits(),
        };
        let each = 32 / bits;
        let mut input = vec![0u32; 1280];
        for lane in 0..32 {
            let at = |e: usize, (row, column): (usize, usize), of: &[f32], width: usize| (e, of[row * width + column]);
            let own_a: Vec<f32> = (0..16 * depth / 32).map(|e| at(e, of_a(bits, lane, e), &a, depth).1).collect();
            let own_b: Vec<f32> = (0..depth * 8 / 32).map(|e| at(e, of_b(bits, lane, e), &b, 8).1).collect();
            own_a.chunks(each).enumerate().for_each(|(i, values)| input[lane * 10 + i] = word(values));
            own_b.chunks(each).enumerate().for_each(|(i, values)| input[lane * 10 + 4 + i] = word(values));
            (0..4).for_each(|e| input[lane * 10 + 6 + e] = at(e, of_c(lane, e), &c, 8).1.to_bits());
        }
        let found = clean(which as u32, &input);
        for lane in 0..32 {
            for e in 0..4 {
                let (row, column) = of_c(lane, e);
                let sum: f64 = (0..depth).map(|k| f64::from(a[row * depth + k]) * f64::from(b[k * 8 + column])).sum();
                let (found, expected) = (f32::from_bits(found[lane * 4 + e]), sum + f64::from(c[row * 8 + column]));
                let off = (f64::from(found) - expected).abs();
                assert!(off < 2e-6, "{precision}, depth {depth}, ({row}, {column}): {found}, expected {expected}");
            }
        }
        if precision == Precision::Tf32 {
            input[4 * 10] |= 1;
            let found = clean(which as u32, &input);
            let spoilt: Vec<usize> = (0..128).filter(|i| f32::from_bits(found[*i]).is_nan()).collect();
            // Lane 4 holds element (1, 0) of A: all of row 1 has it.
            assert_eq!(spoilt, [16, 17, 20, 21, 24, 25, 28, 29], "an operand that nobody rounded goes unseen");
        }
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn copies_come_at_their_wait_and_not_before() {
    let mut input: Vec<u32> = (0..1280).collect();
    let used: Vec<u32> = (0..256).map(|i| i % 17).collect();
    input[1024..].copy_from_slice(&used);
    let found = clean(10, &input);
    for t in 0..256 {
        let from = (t + 1) % 256;
        let bytes: Vec<u8> = (0..4).flat_map(|i| input[4 * from + i].to_le_bytes()).collect();
        let expected: Vec<u8> =
            bytes.iter().enumerate().map(|(i, b)| if i < used[from] as usize { *b } else { 0 }).collect();
        let words: Vec<u8> = found[4 * t..4 * t + 4].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(words, expected, "thread {t}, {} bytes", used[from]);
    }
    let plain: Vec<u32> = (0..1280).collect();
    assert_eq!(clean(13, &plain), plain[..1024]);
    let stored = clean(24, &plain);
    let piece = |i: usize| (i / 4 + 1) % 256;
    assert!((0..1024).all(|i| stored[i] == if piece(i) % 3 == 0 { 0 } else { plain[4 * piece(i) + i % 4] }));
    // Nothing is read where nothing is used.
    let zeroed = clean(23, &plain);
    assert!((0..1024).all(|i| zeroed[i] == if i / 4 == 5 { 0 } else { plain[i] }));
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn what_is_wrong_with_copies_is_found() {
    for which in [11, 12, 14] {
        found(which, Check::Initcheck, "memory that nobody has written");
    }
    found(15, Check::Racecheck, "source of an asynchronous copy changed");
    found(16, Check::Racecheck, "");
    found(17, Check::Memcheck, "20 bytes, at most 16");
    found(18, Check::Memcheck, "misaligned");
    found(19, Check::Racecheck, "write of 16 bytes");
    found(20, Check::Synccheck, "has not waited for");
    found(21, Check::Synccheck, "of 256 threads");
    found(22, Check::Memcheck, "past the end of shared array memory");
}

/// What sm_75 runs, which has no copies past the registers and products of half the depth: the products' cases in f16, of
/// convolutions every third.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn the_tiles_of_sm_75_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let on_sm_75 = |module: &str, step: usize| {
        let text = simt_module::text(module);
        assert!(text.contains("#if !defined(ASYNC_COPIES)"), "{module} does not ask whether there are such copies");
        let text = format!("#define ASYNC_COPIES 0\n{text}");
        let object = simt_module::compile(folder.path(), module, &text, false).unwrap();
        let table = simt_module::load(&simt_module::link(&object), module);
        // SAFETY: the table of this module, which stays loaded.
        let device = unsafe { Device::simt_with_module(1, module, table).unwrap() };
        let (host, devices) = (Device::host(1).unwrap(), [(1, device)]);
        let mut cases = check::cases();
        cases.retain(|case| !case.large && case.name.split(':').next() == Some(module));
        assert!(cases.len() > 20, "{} cases of {module}", cases.len());
        for case in cases.iter().step_by(step) {
            let (seen, differences) = check::check(case, &host, &devices);
            assert!(differences.is_empty(), "{}: {differences:?}", case.name);
            for seen in seen {
                assert!(seen.findings.is_empty(), "{}: {:?}", case.name, seen.findings);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| on_sm_75("matmul_f16", 1));
        scope.spawn(|| on_sm_75("conv_f16", 3));
    });
}
