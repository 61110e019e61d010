//! What the build made of `kernels/`: objects that the linker cannot mix up, every kernel in every table, and code for
//! every GPU target.

use std::collections::BTreeMap;
use std::path::Path;

use object::read::archive::ArchiveFile;
use object::{Object, ObjectSymbol};
use zgan::device::{Buffer, Device, HAS_CHECK, Precision, kernel, nvrtc};
use zgan::ops::log_partition::{self, Evaluation};

/// `(object file, its bytes)` of the archive that the library links.
fn objects() -> Vec<(String, Vec<u8>)> {
    let archive = std::fs::read(Path::new(env!("OUT_DIR")).join("libzgan_kernels.a")).unwrap();
    let members = ArchiveFile::parse(&*archive).unwrap();
    members
        .members()
        .map(|member| {
            let member = member.unwrap();
            let name = String::from_utf8_lossy(member.name()).into_owned();
            (name, member.data(&*archive).unwrap().to_vec())
        })
        .collect()
}

/// The linker keeps one of several weak symbols of a name, whichever comes first: AVX-512 code would run on a machine
/// that has none. And what a kernel calls must be in its own object: a call into the C library's mathematics neither
/// vectorises nor agrees with the GPU.
#[test]
fn objects_share_nothing() {
    // What compilers call by themselves, thread-local storage, and what src/device gives: tiles' scratch on the host, and
    // the scheduler and the checkers of `simt`.
    let allowed =
        ["memcpy", "memmove", "memset", "memcmp", "__tls_get_addr", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"];
    let mut problems = Vec::new();
    for (file, bytes) in &objects() {
        for symbol in object::File::parse(&**bytes).unwrap().symbols() {
            let name = symbol.name().unwrap();
            if symbol.is_weak() {
                problems.push(format!("{file}: {name} is weak"));
            } else if symbol.is_undefined() {
                let given: &[_] = if file.contains("_simt.") {
                    &["zgan_simt_", "__tsan_", "__ubsan_handle_out_of_bounds"]
                } else {
                    &["zgan_host_"]
                };
                if !(name.is_empty() || given.iter().any(|given| name.starts_with(given)) || allowed.contains(&name)) {
                    problems.push(format!("{file}: {name} is not defined in it"));
                }
            } else if symbol.is_global()
                && symbol.is_definition()
                && !(name.starts_with("zgan_") || file.contains("callbacks_simt."))
            {
                problems.push(format!("{file}: {name} is visible to other objects"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// An entry of a table is one function pointer; a table is a symbol `zgan_<instruction set>_<module>`.
#[test]
fn every_kernel_is_in_every_table() {
    let mut tables = BTreeMap::new();
    for (_, bytes) in &objects() {
        for symbol in object::File::parse(&**bytes).unwrap().symbols() {
            if symbol.is_definition() && symbol.is_global() {
                tables.insert(symbol.name().unwrap().to_string(), symbol.size() as usize / size_of::<usize>());
            }
        }
    }
    let isas = Device::host_isas();
    assert!(!isas.is_empty());
    for isa in isas.into_iter().chain(HAS_CHECK.then_some("simt")) {
        for module in kernel::MODULES.iter().filter(|module| HAS_CHECK || module.precision == Precision::F32) {
            assert!(!module.kernels.is_empty(), "{} has no kernel", module.name);
            let found = tables.get(&format!("zgan_{isa}_{}", module.name));
            assert_eq!(found, Some(&module.kernels.len()), "{} for {isa}", module.name);
        }
    }
}

#[test]
fn each_instruction_set_runs() {
    let isas = Device::host_isas();
    println!("this machine has {}", isas.join(", "));
    for isa in isas {
        let device = Device::host_with_isa(1, isa).unwrap();
        assert!(device.description().ends_with(isa), "{} is not {isa}", device.description());
        let out = Evaluation {
            statistics: device.zeros(4).unwrap(),
            seed_d: device.zeros(5).unwrap(),
            seed_g: device.zeros(3).unwrap(),
        };
        let (real, fake): (Buffer<f32>, _) = (device.upload(&[2.0; 2]).unwrap(), device.upload(&[2.0; 3]).unwrap());
        let workspace = device.zeros(log_partition::workspace_len(&device, 5)).unwrap();
        log_partition::fused(&out, &real, &fake, 1.0, &workspace).unwrap();
        // At equal logits both losses are ln (N + M).
        let losses = &out.statistics.read().unwrap()[..2];
        assert!(losses.iter().all(|loss| (loss - 5f32.ln()).abs() < 1e-6), "{isa}: {losses:?}");
    }
}

#[test]
fn the_gpu_targets_that_were_asked_for_are_embedded_where_nvrtc_was_found() {
    let embedded: Vec<&str> = zgan::device::embedded_images().iter().map(|(target, _)| *target).collect();
    if embedded.is_empty() {
        println!("left out: this build embeds no GPU code (NVRTC was not found)");
        // Then the build did not look where this process does, or there is none.
        let folder = std::env::var_os("NVRTC_LIB_DIR").filter(|folder| !folder.is_empty());
        assert!(folder.is_none(), "NVRTC_LIB_DIR is {folder:?}, and nothing was embedded");
        return;
    }
    match std::env::var("ZGAN_CUDA_ARCH_LIST") {
        Ok(asked) => assert_eq!(embedded.join(","), asked),
        Err(_) => assert_eq!(embedded, nvrtc::TARGETS),
    }
    println!("embedded: {}", embedded.join(", "));
}
