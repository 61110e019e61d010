//! What `zgan check --profile` counts: exact numbers of kernels made for it, and what the products' kernels are held to.

#[path = "common/simt_module.rs"]
mod simt_module;

use std::ffi::c_void;
use std::sync::OnceLock;

use zgan::device::{Check, Device, Global, Line, Profile, SharedMemory, Unit, kernel};
use zgan::instruments::check::{self, Profiles};

/// Each `which` is a kernel of its own. `out` and `in` are 8,192 floats, from a multiple of 256 bytes on.
const PROBE: &str = r#"
struct alignas(8) Eight { float value[2]; };
struct alignas(16) Sixteen { float value[4]; };
struct Twelve { float value[3]; };
template <class T> DEVICE void copy(float* out, const float* in, uint32_t to, uint32_t from) {
    reinterpret_cast<T*>(out)[to] = reinterpret_cast<const T*>(in)[from];
}
// What `ldmatrix` reads: the first `lanes` lanes give the address of a row of 16 bytes each.
DEVICE void rows(float* numbers, uint32_t lanes, uint32_t stride) {
    const uint32_t lane = thread() % WARP;
    if (lane < lanes) zgan_simt_warp_access(numbers + lane * stride, 16, false);
    warp_barrier();
}
KERNEL(256, 0) probe(float* out, const float* in, uint32_t which) {
    SHARED(float, numbers, 32 * 36);
    const uint32_t t = thread();
    for (uint32_t i = t; i < 32 * 36; i += BLOCK) numbers[i] = 0.0f;
    barrier();
    switch (which) {
    // Global
    case 0: copy<float>(out, in, t, t); break;
    case 1: copy<float>(out, in, t, 2 * t); break;
    case 2: copy<float>(out, in, t, 32 * t); break;
    case 3: copy<float>(out, in, t, t + 1); break;
    case 4: copy<float>(out, in, t, 0); break;
    case 5: copy<Eight>(out, in, t, t); break;
    case 6: copy<Sixteen>(out, in, t, t); break;
    case 7: copy<uint8_t>(out, in, t, t); break;
    case 8: copy<Twelve>(out, in, t, t); break;
    case 9: if (t % 2 == 0) copy<float>(out, in, t, t); break;
    // The later turns of a loop are other requests, also where some threads leave it early, or a warp waits in between.
    case 10: for (uint32_t i = 0; i < 4 + t % 2; i++) copy<float>(out, in, 256 * i + t, 256 * i + t); break;
    case 11: for (uint32_t i = 0; i < 4; i++) { copy<float>(out, in, 256 * i + t, 256 * i + t); warp_barrier(); } break;
    case 12: atomic_add(reinterpret_cast<uint32_t*>(out), 1); break;
    // Shared
    case 20: numbers[t] = 1.0f; break;
    case 21: numbers[2 * t % 1024] = 1.0f; break;
    case 22: numbers[32 * (t % 32)] = 1.0f; break;
    case 23: numbers[33 * (t % 32)] = 1.0f; break;
    case 24: out[t] = numbers[t / 32]; break;
    case 25: out[t] = numbers[t % 2 * 32]; break;
    case 26: copy<Sixteen>(numbers, numbers, 64 + t % 32, t % 32); break;
    case 27: copy<Sixteen>(numbers, numbers, 64 + t % 32 * 2, t % 32 * 2); break;
    case 28: copy<Eight>(numbers, numbers, 64 + t % 32, t % 32); break;
    case 29: copy<Eight>(numbers, numbers, 64 + t % 32 * 2, t % 32 * 2); break;
    case 30: rows(numbers, 32, 32); break;
    case 31: rows(numbers, 32, 36); break;
    case 32: rows(numbers, 16, 4); break;
    case 33: reinterpret_cast<uint16_t*>(numbers)[t % 32] = 1; break;
    }
}
"#;

fn device(schedule_seed: u64) -> Device {
    static TABLE: OnceLock<usize> = OnceLock::new();
    let table = TABLE.get_or_init(|| simt_module::probe(PROBE) as usize);
    // SAFETY: `simt_module` compiled and loaded the table, and never unloads it.
    unsafe { Device::simt_with_module(schedule_seed, "state", *table as *const c_void).unwrap() }
}

fn launch(device: &Device, which: u32) -> Profile {
    let (out, input) = (device.zeros::<f32>(8192).unwrap(), device.upload(&vec![1.0f32; 8192]).unwrap());
    let (to, from): (u64, u64) = (out.raw_address(), input.raw_address());
    let arguments = [(&raw const to).cast::<c_void>(), (&raw const from).cast(), (&raw const which).cast()];
    // SAFETY: the arguments are the probe's, and it stays inside the buffers; that is checked as well.
    unsafe { device.launch_raw(kernel::STATE_ADVANCE, [1, 1, 1], &arguments) }.unwrap();
    let seen = device.seen();
    assert!(!seen.findings.iter().any(|f| f.check == Check::Memcheck), "{which}: {:?}", seen.findings);
    seen.profiles.get("state_advance").cloned().unwrap_or_default()
}

/// What a probe is counted as on the line of its case; under every schedule the same.
fn probe(which: u32) -> (Profile, Line) {
    let mut first: Option<Profile> = None;
    for seed in [0, 1, 2, 3] {
        let device = device(seed);
        device.profile();
        let found = launch(&device, which);
        match &first {
            Some(first) => assert_eq!(&found, first, "{which}, schedule {seed}"),
            None => first = Some(found),
        }
    }
    let profile = first.unwrap();
    let at =
        PROBE.trim_start().lines().position(|line| line.trim().starts_with(&format!("case {which}:"))).unwrap() + 1;
    let own = |line: &&Line| line.source.ends_with(&format!("kernels/probe.cu:{at}"));
    let lines: Vec<&Line> = profile.lines.iter().filter(own).collect();
    let mut sum = Line::default();
    for line in lines {
        sum.global.add(line.global);
        sum.shared.add(line.shared);
    }
    (profile, sum)
}

#[track_caller]
fn global(which: u32, requests: u64, sectors: u64, least_sectors: u64) -> Profile {
    let (profile, line) = probe(which);
    assert_eq!(line.global, Global { requests, sectors, least_sectors }, "{which}");
    assert_eq!(line.shared, SharedMemory::default(), "{which}");
    assert_eq!(profile.moved_bytes(), 32 * sectors);
    assert_eq!(profile.launches, 1);
    profile
}

/// Of the eight warps of a block, each once, unless a case says otherwise.
#[track_caller]
fn shared(which: u32, requests: u64, wavefronts: u64, least_wavefronts: u64) {
    let (_, line) = probe(which);
    assert_eq!(line.shared, SharedMemory { requests, wavefronts, least_wavefronts }, "{which}");
    assert_eq!(line.shared.conflicts(), wavefronts - least_wavefronts);
}

/// A read and a write of each warp: 16 requests. The write of floats is 4 sectors a warp.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn sectors_of_global_memory() {
    assert_eq!(global(0, 16, 64, 64).least_bytes, 2 * 1024);
    global(1, 16, 8 * (8 + 4), 64);
    global(2, 16, 8 * (32 + 4), 64);
    // One float off: a sector more.
    global(3, 16, 8 * (5 + 4), 64);
    assert_eq!(global(4, 16, 8 * (1 + 4), 8 * (1 + 4)).least_bytes, 4 + 1024);
    global(5, 16, 8 * (8 + 8), 8 * (8 + 8));
    global(6, 16, 8 * (16 + 16), 8 * (16 + 16));
    global(7, 16, 8 * 2, 8 * 2);
    // Three instructions each way, of which each touches all twelve sectors.
    assert_eq!(global(8, 48, 8 * 6 * 12, 8 * 6 * 4).least_bytes, 2 * 3 * 1024);
    global(9, 16, 8 * (4 + 4), 8 * (2 + 2));
    global(12, 8, 8, 8);
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn turns_of_a_loop_are_requests_of_their_own() {
    let profile = global(10, 8 * 5 * 2, 8 * 5 * 2 * 4, 8 * 2 * (4 * 4 + 2));
    assert_eq!(profile.least_bytes, 2 * 4 * (4 * 256 + 128));
    global(11, 8 * 4 * 2, 8 * 4 * 2 * 4, 8 * 4 * 2 * 4);
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn conflicts_between_banks() {
    shared(20, 8, 8, 8);
    shared(21, 8, 8 * 2, 8);
    shared(22, 8, 8 * 32, 8);
    shared(23, 8, 8, 8);
    // One word for all; two words of one bank.
    shared(24, 8, 8, 8);
    shared(25, 8, 8 * 2, 8);
    // Read and written: 16 bytes a thread in four turns, 8 in two.
    shared(26, 16, 16 * 4, 16 * 4);
    shared(27, 16, 16 * 8, 16 * 4);
    shared(28, 16, 16 * 2, 16 * 2);
    shared(29, 16, 16 * 4, 16 * 2);
    shared(33, 8, 8, 8);
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn rows_that_a_warp_reads_together() {
    shared(30, 8, 8 * 32, 8 * 4);
    shared(31, 8, 8 * 4, 8 * 4);
    shared(32, 8, 8 * 2, 8 * 2);
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn nothing_is_counted_unless_asked() {
    assert_eq!(launch(&device(0), 0), Profile::default());
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn real_kernels_are_counted_the_same_under_every_schedule() {
    for filter in ["norm_backward_sums", "log_partition"] {
        let first = check::profile(filter, 0, false).unwrap().kernels;
        assert!(!first.is_empty());
        assert_eq!(first, check::profile(filter, 5, false).unwrap().kernels, "{filter}");
    }
}

#[test]
fn the_name_of_a_kernel_tells_its_unit() {
    for (name, unit) in [
        ("conv_forward_f32_64x64", Unit::Fma),
        ("linear_forward_tensor_bf16_128x64", Unit::Bf16),
        ("conv_forward_f16_64x64", Unit::F16),
        ("conv_forward_tf32_64x64", Unit::Tf32),
    ] {
        assert_eq!(Unit::of(name), unit, "{name}");
    }
}

/// `kernels/device/tile_fma.h:32 in ...`: the text of that line; nothing where the place is not known.
fn text_of(line: &Line) -> String {
    let place = line.source.split(" in ").next().unwrap();
    let Some((file, number)) = place.rsplit_once(':') else { return String::new() };
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let number = number.parse::<usize>().unwrap_or(0);
    text.lines().nth(number.wrapping_sub(1)).unwrap_or_default().to_string()
}

/// Cases of whole tiles alone: linear layers, convolutions with nothing around them, and with everything.
const PRODUCTS: [&str; 3] = ["linear_", "Nothing", "Everything"];

fn products() -> &'static [Profiles; 3] {
    static PROFILES: OnceLock<[Profiles; 3]> = OnceLock::new();
    PROFILES.get_or_init(|| PRODUCTS.map(|filter| check::profile(filter, 0, true).unwrap()))
}

/// At most a tenth above the least sectors. With everything, a third: a table of f32 beside 16-bit numbers is read in two
/// halves of 32 bytes a thread, each of which touches all its sectors.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn tensor_cores_keep_to_sectors() {
    // Three passes with three tiles each, in three precisions; weight gradients of the wider tiles are in one case.
    for ((filter, profiles), (percent, kernels)) in
        PRODUCTS.iter().zip(products()).zip([(110, 27), (110, 27), (133, 21)])
    {
        let mut count = 0;
        let products = profiles.kernels.iter().filter(|(_, row)| row.profile.flops > 0);
        for (name, row) in products.filter(|(name, _)| Unit::of(name) != Unit::Fma) {
            count += 1;
            let mut all = Global::default();
            row.profile.lines.iter().for_each(|line| all.add(line.global));
            let Global { sectors, least_sectors, .. } = all;
            assert!(100 * sectors <= percent * least_sectors, "{filter}: {name}: {sectors} sectors of {least_sectors}");
        }
        assert_eq!(count, kernels, "{filter}: kernels for tensor cores");
    }
}

/// Products of whole tiles have no bank conflict on any line. The multiply-adds' read plain matrices with a tenth above the least
/// sectors (they write more: a thread has four neighbours, and writes them one by one).
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn the_products_keep_to_banks() {
    let (mut tensor, mut reads) = (0, 0);
    for profiles in products() {
        for (name, row) in profiles.kernels.iter().filter(|(_, row)| row.profile.flops > 0) {
            let lines = &row.profile.lines;
            if let Some(line) = lines.iter().find(|line| line.shared.conflicts() > 0) {
                panic!("{name}: {} bank conflicts at {}: {}", line.shared.conflicts(), line.source, text_of(line));
            }
            if Unit::of(name) != Unit::Fma {
                tensor += 1;
            } else if name.starts_with("linear_") {
                let plain =
                    lines.iter().filter(|line| text_of(line).contains("FourWords words") && line.global.sectors > 0);
                for line in plain.inspect(|_| reads += 1) {
                    assert!(10 * line.global.sectors <= 11 * line.global.least_sectors, "{name}: {line:?}");
                }
            }
        }
    }
    assert!(tensor >= 75 && reads >= 9, "{tensor} kernels for tensor cores, {reads} lines that read matrices");
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn the_program_prints_a_table_and_json() {
    let run = |arguments: &[&str], code: i32| {
        let zgan =
            std::process::Command::new(env!("CARGO_BIN_EXE_zgan")).arg("check").args(arguments).output().unwrap();
        assert_eq!(zgan.status.code(), Some(code), "{}", String::from_utf8_lossy(&zgan.stderr));
        String::from_utf8(zgan.stdout).unwrap()
    };
    let table = run(&["--profile", "random_uniform", "--lines", "2"], 0);
    // Four neighbours a thread, written one by one.
    assert!(table.contains("\nrandom_uniform_f32 ") && table.contains("kernels/random.cu:"), "{table}");
    assert!(table.contains("\nthe worst ") && !table.contains("random_normal"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&run(&["--profile", "state_check", "--json"], 0)).unwrap();
    let [kernel] = &json["kernels"].as_array().unwrap()[..] else { panic!("{json}") };
    assert_eq!((kernel["kernel"].as_str(), kernel["unit"].as_str()), (Some("state_check_f32"), Some("fma")));
    let number = |name: &str| kernel[name].as_u64().unwrap();
    assert!(number("sectors") >= number("least_sectors") && number("least_sectors") > 0, "{json}");
    assert!(number("wavefronts") == number("shared_requests") && number("bank_conflicts") == 0, "{json}");
    let lines = kernel["lines"].as_array().unwrap();
    assert_eq!(lines.iter().map(|line| line["sectors"].as_u64().unwrap()).sum::<u64>(), number("sectors"));
    run(&["--profile", "--quick"], 2);
    run(&["--profile", "nonsense"], 2);
}
