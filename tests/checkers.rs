//! The checkers behind `zgan check`, on kernels made to be wrong, and the table of cases on the real ones.

#[path = "common/simt_module.rs"]
mod simt_module;

use std::ffi::c_void;
use std::sync::OnceLock;

use zgan::device::simt::shadow::{Cell, Kind, Order, Past};
use zgan::device::{Buffer, Check, Device, Finding, Seen, kernel};
use zgan::instruments::check::{self, Options};

/// Each `which` is a kernel of its own. `in` and `out` are what the test makes them: as a rule 256 floats.
const PROBE: &str = r#"
struct alignas(16) Sixteen { float value[4]; };
struct Forty { uint32_t word[10]; };
struct __attribute__((packed)) Odd { uint8_t head; float value; };
template <class T> DEVICE void form(void* to, const void* from) { *static_cast<T*>(to) = *static_cast<const T*>(from); }
// Out of line: the compiler must not see that only one element is used.
APART void local(float* out, uint32_t at, uint32_t count) {
    float values[64];
    for (uint32_t i = 0; i < count; i++) values[i] = float(i);
    if (thread() == 0) out[0] = values[at];
}
KERNEL(256, 0) probe(float* out, const float* in, uint32_t which) {
    SHARED(float, numbers, BLOCK);
    const uint32_t t = thread(), warp = t / WARP;
    switch (which) {
    case 0: if (t == 0) form<uint8_t>(out, in); break;
    case 1: if (t == 0) form<uint16_t>(out, in); break;
    case 2: if (t == 0) form<float>(out, in); break;
    case 3: if (t == 0) form<uint64_t>(out, in); break;
    case 4: if (t == 0) form<Sixteen>(out, in); break;
    case 5: if (t == 0) form<Forty>(out, in); break;
    case 6: if (t == 0) form<Odd>(out, in); break;
    case 7: if (t == 0) __builtin_memcpy(out, in, 32); break;
    case 8: if (t == 0) __builtin_memmove(out, in, 12); break;
    case 9: if (t == 0) __builtin_memset(out, 0, 32); break;
    case 10: if (t == 0) atomic_add(reinterpret_cast<uint32_t*>(out), 1); break;
    case 11: if (t == 0) static_cast<volatile float*>(out)[0] = static_cast<const volatile float*>(in)[0]; break;
    case 12: local(out, which, 64); break;
    // What is right
    case 20: numbers[t] = in[t]; barrier(); out[t] = numbers[BLOCK - 1 - t]; break;
    case 21: numbers[t] = in[t]; warp_barrier(); out[t] = numbers[warp * WARP + (t + 1) % WARP]; break;
    case 22: atomic_add(reinterpret_cast<uint32_t*>(out), 1); break;
    case 23: out[t] = shuffle_xor(in[t], 1); break;
    case 24: if (warp == 0) out[t] = shuffle_xor(in[t], 3); break;
    // Races
    case 30: numbers[t] = in[t]; out[t] = numbers[BLOCK - 1 - t]; break;
    case 31: numbers[t] = in[t]; out[t] = numbers[warp * WARP + (t + 1) % WARP]; break;
    case 32: out[0] = 1.0f; break;
    case 33: out[t] = in[t]; break;  // in two blocks
    case 34: if (t == 0) out[0] = 1.0f; else if (t == 200) atomic_add(reinterpret_cast<uint32_t*>(out), 1); break;
    case 35: numbers[t] = in[t]; warp_barrier(); out[t] = numbers[(t + WARP) % BLOCK]; break;
    case 36: if (t < 2) reinterpret_cast<uint8_t*>(out)[t] = 1; break;  // two bytes of one word
    // Memory that nobody has written
    case 40: out[t] = numbers[t]; break;
    case 41: if (t > 0) numbers[t] = in[t]; barrier(); out[t] = numbers[t]; break;
    // Bounds
    case 50: out[t + 1] = 1.0f; break;
    case 51: out[t] = in[int(t) - 1]; break;
    case 52: numbers[t + 1] = 1.0f; break;
    case 53: out[t] = numbers[int(t) - 1]; break;
    case 54: if (t == 5) form<Sixteen>(out + 1, in); break;
    case 55: if (t == 7) *reinterpret_cast<float*>(uint64_t(16)) = 1.0f; break;
    case 56: if (t == 7) out[1 << 24] = 1.0f; break;
    case 57: local(out, 64 + 3, 64); break;
    case 58: local(out, 3, 65); break;
    // Threads that do not come
    case 60: if (t != 3) barrier(); break;
    case 61: if (t < 7) barrier(); else warp_barrier(); break;
    case 62: if (t != 9) warp_barrier(); barrier(); break;
    case 63: if (t % WARP < 16) out[t] = shuffle_xor(in[t], 3); break;
    case 64: if (t == 40) warp_barrier(); else out[t] = shuffle_xor(in[t], 1); break;
    }
}
"#;

/// The table of a module whose kernels all are the probe.
fn probe() -> *const c_void {
    static TABLE: OnceLock<usize> = OnceLock::new();
    let table = TABLE.get_or_init(|| simt_module::probe(PROBE) as usize);
    *table as *const c_void
}

fn device(schedule_seed: u64) -> Device {
    // SAFETY: `probe` compiled and loaded the table, and never unloads it.
    unsafe { Device::simt_with_module(schedule_seed, "state", probe()).unwrap() }
}

/// Runs a probe on addresses.
fn launch(device: &Device, which: u32, out: u64, input: u64, blocks: u32) -> Result<(), String> {
    let arguments = [(&raw const out).cast::<c_void>(), (&raw const input).cast(), (&raw const which).cast()];
    // SAFETY: the arguments are the probe's; what it does with the addresses is checked before it is done.
    unsafe { device.launch_raw(kernel::STATE_ADVANCE, [blocks, 1, 1], &arguments) }.map_err(|e| e.to_string())
}

fn address(buffer: &Buffer<f32>) -> u64 {
    buffer.raw_address()
}

/// A probe on two buffers of 256 floats, under several schedules; what the last saw.
fn run_all(which: u32, blocks: u32, judge: impl Fn(&Seen)) -> Seen {
    let mut last = Seen::default();
    for seed in [0, 1, 2, 3] {
        let device = device(seed);
        let (out, input) = (device.zeros::<f32>(256).unwrap(), device.upload(&vec![1.0f32; 256]).unwrap());
        let result = launch(&device, which, address(&out), address(&input), blocks);
        last = device.seen();
        let stops = |f: &Finding| matches!(f.check, Check::Memcheck | Check::Synccheck);
        assert_eq!(result.is_err(), last.findings.iter().any(stops), "{which}: {result:?}, {:?}", last.findings);
        judge(&last);
    }
    last
}

/// A probe that must be found by this checker, whatever the schedule.
#[track_caller]
fn found(which: u32, blocks: u32, check: Check) -> Finding {
    let seen = run_all(which, blocks, |seen| {
        assert!(seen.findings.iter().any(|f| f.check == check), "{which}: {:?}", seen.findings);
    });
    let finding = seen.findings.into_iter().find(|f| f.check == check).unwrap();
    assert_eq!(finding.kernel, "state_advance");
    assert!(finding.source.starts_with("kernels/probe.cu:"), "{finding}");
    finding
}

#[track_caller]
fn clean(which: u32, blocks: u32) -> Seen {
    run_all(which, blocks, |seen| assert!(seen.findings.is_empty(), "{which}: {:?}", seen.findings))
}

/// Each form of access, in bounds: it is counted; past the end of a buffer: it is refused, the read and the write.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn every_form_of_access_reaches_a_callback() {
    for which in 0..=11 {
        let reads = !matches!(which, 9 | 10);
        let device = device(0);
        let out = device.zeros::<f32>(256).unwrap();
        let input = device.upload(&vec![1.0f32; 256]).unwrap();
        launch(&device, which, address(&out), address(&input), 1).unwrap();
        let seen = device.seen();
        assert!(seen.findings.is_empty(), "form {which}: {:?}", seen.findings);
        let accesses = seen.kernels["state_advance"].accesses;
        assert_eq!(accesses, if reads { 2 } else { 1 }, "form {which}");
        for (spoilt, expected) in [(0, if which == 10 { "atomic" } else { "write" }), (1, "read")] {
            if spoilt == 1 && !reads {
                continue;
            }
            let end = |buffer: &Buffer<f32>, spoilt: bool| address(buffer) + if spoilt { 1024 } else { 0 };
            let error = launch(&device, which, end(&out, spoilt == 0), end(&input, spoilt == 1), 1).unwrap_err();
            assert!(error.contains("memcheck"), "form {which}: {error}");
            let seen = device.seen();
            let [finding] = &seen.findings[..] else { panic!("form {which}: {:?}", seen.findings) };
            assert_eq!(finding.check, Check::Memcheck);
            assert!(finding.what.starts_with(expected), "form {which}: {finding}");
        }
    }
}

/// A thread's own variables are nobody else's: only the one result is seen.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn local_arrays_pass_unseen() {
    assert_eq!(clean(12, 1).kernels["state_advance"].accesses, 1);
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn what_is_right_is_not_reported() {
    for (which, blocks) in [(20, 1), (21, 1), (22, 3), (23, 1), (24, 1), (33, 1)] {
        clean(which, blocks);
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn races() {
    for (which, blocks) in [(30, 1), (31, 1), (32, 1), (33, 2), (34, 1), (35, 1), (36, 1)] {
        let finding = found(which, blocks, Check::Racecheck);
        let other = finding.other.as_deref().unwrap();
        assert!(other.contains("by thread") && other.contains(" at kernels/probe.cu:"), "{finding}");
        let memory = finding.memory.as_deref().unwrap();
        assert_eq!(memory.contains("shared array numbers"), matches!(which, 30 | 31 | 35), "{finding}");
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn memory_that_nobody_has_written() {
    assert!(found(40, 1, Check::Initcheck).memory.unwrap().contains("shared array numbers"));
    let finding = found(41, 1, Check::Initcheck);
    assert_eq!((finding.thread, finding.times), (0, 1));
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn bounds() {
    for (which, words) in [
        (50, "write of 4 bytes, 4 bytes past the end of a buffer of 1024 bytes"),
        (51, "read of 4 bytes, 4 bytes before a buffer of 1024 bytes"),
        (52, "write of 4 bytes, 4 bytes past the end of shared array numbers of 1024 bytes"),
        (53, "read of 4 bytes, 4 bytes before shared array numbers of 1024 bytes"),
        (54, "misaligned: write of 16 bytes"),
        (55, "write of 4 bytes, a null pointer"),
        (56, "write of 4 bytes, outside every live buffer"),
        (57, "index 67 of an array"),
        (58, "index 64 of an array"),
    ] {
        let finding = found(which, 1, Check::Memcheck);
        assert!(finding.what.starts_with(words), "{which}: {finding}");
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn a_buffer_that_was_freed() {
    let device = device(0);
    let (out, input) = (device.zeros::<f32>(256).unwrap(), device.zeros::<f32>(256).unwrap());
    let gone = address(&out);
    drop(out);
    assert!(launch(&device, 2, gone, address(&input), 1).is_err());
    let findings = device.seen().findings;
    assert!(findings[0].what.ends_with("in a buffer that was freed"), "{findings:?}");
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn threads_that_do_not_come() {
    for which in [60, 61, 62, 63, 64] {
        let finding = found(which, 1, Check::Synccheck);
        assert!(finding.what.starts_with("of 256 threads"), "{finding}");
        assert!(finding.other.is_some_and(|other| other.contains("has ended") || other.contains("waits at kernels/")));
    }
}

/// Every kernel is run by some case, and nothing is found.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn every_kernel_is_checked_and_clean() {
    let options = Options { filter: None, schedule_seeds: vec![0, 1], quick: true };
    let report = check::run_all(&options).unwrap();
    for (case, finding) in &report.findings {
        println!("{finding}\n    in {case}");
    }
    for (case, difference) in &report.differences {
        println!("{difference}\n    in {case}");
    }
    assert!(report.clean());
    let unchecked: Vec<_> = check::kernel_names().filter(|name| !report.kernels.contains_key(name)).collect();
    assert!(unchecked.is_empty(), "no case of src/instruments/check launches {}", unchecked.join(", "));
    for (name, row) in &report.kernels {
        assert!(row.accesses > 0, "no access of {name} was seen");
    }
}

/// Every history of four accesses by a few threads, against the rule applied to all pairs.
#[test]
fn the_two_readers_that_are_kept_are_enough() {
    let order = Order { launch: 2, block: 5 };
    // An earlier block, this block before a barrier, and now: two lanes of a warp and one of another, before and after a
    // warp barrier.
    let mut moments = Vec::new();
    for (interval, threads) in [(3, &[0u8, 1][..]), (5, &[0, 1, 40]), (6, &[0, 1, 40])] {
        for &thread in threads {
            moments.extend([0, 1].map(|warp_interval| (interval, thread, warp_interval)));
        }
    }
    let mut histories = 0;
    for number in 0..moments.len().pow(4) {
        let picked = [0, 1, 2, 3].map(|i| moments[number / moments.len().pow(i) % moments.len()]);
        // Time does not run backwards, in the block and in each warp.
        let backwards = (1..4).any(|j| {
            (0..j).any(|i| {
                let (p, q) = (picked[i], picked[j]);
                p.0 > q.0 || (p.0 == q.0 && p.1 / 32 == q.1 / 32 && p.2 > q.2)
            })
        });
        if backwards {
            continue;
        }
        for kinds in 0..16u32 {
            let access = |(i, (interval, thread, warp_interval)): (usize, (u32, u8, u16))| Past {
                interval,
                place: 0,
                warp_interval,
                thread,
                kind: Kind::of(kinds >> i & 1),
            };
            let history: Vec<Past> = picked.into_iter().enumerate().map(access).collect();
            let mut cell = Cell::default();
            let (mut found, mut expected) = (false, false);
            for (i, &now) in history.iter().enumerate() {
                // What an earlier block does is seen while that block runs.
                let order = if now.interval < order.block { Order { launch: 2, block: 2 } } else { order };
                found |= cell.touch(now, order).is_some();
                expected |= history[..i]
                    .iter()
                    .any(|old| (old.kind.writes() || now.kind.writes()) && old.concurrent(now, order));
            }
            assert_eq!(found, expected, "{picked:?}, writes {kinds:04b}");
            histories += 1;
        }
    }
    assert!(histories > 10_000);
}
