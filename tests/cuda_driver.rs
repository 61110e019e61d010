//! The `cuda` execution on a driver that stands in for libcuda (`tests/driver`): everything but the machine code itself.
//!
//! Each test runs its body in a process of its own that finds the stand-in, with its own settings.

mod common;
#[path = "common/fakes.rs"]
mod fakes;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use common::*;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DriverError, result};
use cudarc::nvrtc::Ptx;
use stand_in::{CHILD, on_stand_in, quietly_on_stand_in, quietly_with};
use zgan::Error;
use zgan::device::cuda::code::{Cache, fitting};
use zgan::device::cuda::driver;
use zgan::device::{Buffer, Device, DeviceChoice, embedded_code, embedded_images, kernel, nvrtc};
use zgan::ops::conv;
use zgan::ops::log_partition::{self, Evaluation};

/// Statistics and both seeds of one batch, as bits.
fn log_partition_bits(device: &Device, n: usize, m: usize) -> [Vec<u32>; 3] {
    let mut random = Random((n * 7919 + m) as u64);
    let out = Evaluation {
        statistics: device.zeros(4).unwrap(),
        seed_d: device.zeros(n + m).unwrap(),
        seed_g: device.zeros(m).unwrap(),
    };
    let workspace = device.zeros(log_partition::workspace_len(device, n + m)).unwrap();
    let (real, fake) = (device.upload(&random.normals(n)).unwrap(), device.upload(&random.normals(m)).unwrap());
    log_partition::fused(&out, &real, &fake, -1.0, &workspace).unwrap();
    [out.statistics, out.seed_d, out.seed_g]
        .map(|buffer: Buffer<f32>| buffer.read().unwrap().into_iter().map(f32::to_bits).collect())
}

fn equal_to_the_bit(cuda: &Device, other: &Device, sizes: &[(usize, usize)]) {
    for &(n, m) in sizes {
        assert_eq!(log_partition_bits(cuda, n, m), log_partition_bits(other, n, m), "{n} + {m}");
    }
}

const SIZES: &[(usize, usize)] = &[(1, 1), (31, 1000), (8192, 8193), (3, 20_000)];

#[test]
fn launches_handed_to_the_host_give_its_bits() {
    quietly_on_stand_in("launches_handed_to_the_host_give_its_bits", "host", || {
        let cuda = Device::cuda(0).unwrap();
        assert_eq!(cuda.execution(), "cuda");
        let expected = "cuda:0: zgan stand-in, host, compute capability 8.0, 1.00 GiB, code for sm_80".to_string();
        assert_eq!(cuda.description(), expected);
        equal_to_the_bit(&cuda, &Device::host(0).unwrap(), SIZES);
    });
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn launches_handed_to_simt_give_its_bits() {
    quietly_on_stand_in("launches_handed_to_simt_give_its_bits", "simt", || {
        equal_to_the_bit(&Device::cuda(0).unwrap(), &Device::simt(0), &SIZES[..3]);
    });
}

#[test]
fn each_embedded_image_is_taken_by_its_generation() {
    let test = "each_embedded_image_is_taken_by_its_generation";
    // The two targets that stand for more than their own capability.
    let mut others = vec![("8.7", "sm_86"), ("10.3", "sm_100"), ("13.0", "compute_80")];
    // A build may embed some targets alone.
    let embedded: Vec<&str> = embedded_images().into_iter().map(|(target, _)| target).collect();
    others.retain(|(_, target)| embedded.contains(target));
    let own = embedded_images().into_iter().filter_map(|(target, _)| {
        let number: u32 = target.strip_prefix("sm_")?.parse().ok()?;
        Some((format!("{}.{}", number / 10, number % 10), target))
    });
    for (capability, target) in own.chain(others.into_iter().map(|(c, t)| (c.to_string(), t))) {
        quietly_on_stand_in(test, &format!("capability={capability}"), || {
            let cuda = Device::cuda(0).unwrap();
            assert!(cuda.description().ends_with(&format!("code for {target}")), "{}", cuda.description());
            equal_to_the_bit(&cuda, &Device::host(0).unwrap(), &SIZES[1..2]);
        });
    }
}

/// Drivers of CUDA 13 need no toolkit, as little as those of 12.
#[test]
fn a_driver_of_cuda_13_takes_the_embedded_code() {
    quietly_on_stand_in("a_driver_of_cuda_13_takes_the_embedded_code", "driver=13000", || {
        equal_to_the_bit(&Device::cuda(0).unwrap(), &Device::host(0).unwrap(), &SIZES[1..2]);
    });
}

/// What a toolkit has for linking, in which every call fails, stands before the driver in the loader's path.
#[test]
fn the_stub_of_a_toolkit_is_passed_over() {
    let test = "the_stub_of_a_toolkit_is_passed_over";
    let place = tempfile::tempdir().unwrap();
    let stubs = ["stubs", "renamed"].map(|name| place.path().join(name));
    if std::env::var_os(CHILD).is_none() {
        fakes::stub_of_libcuda(&stubs[0].join("libcuda.so"));
        fakes::stub_of_libcuda(&stubs[1].join("libcuda.so"));
        fakes::stub_of_libcuda(&stubs[1].join("libcuda.so.1"));
    }
    let path = |folders: &[&Path]| std::env::join_paths(folders).unwrap().into_string().unwrap();
    for (stub, settings) in stubs.iter().zip(["host", "host,devices=1"]) {
        let folders = path(&[stub, &stand_in::folder()]);
        on_stand_in(test, settings, &[("LD_LIBRARY_PATH", &folders)], || {
            if !embedded_images().is_empty() {
                equal_to_the_bit(&Device::cuda(0).unwrap(), &Device::host(0).unwrap(), &SIZES[1..2]);
            }
        });
    }
    on_stand_in(test, "a stub alone", &[("LD_LIBRARY_PATH", &path(&[&stubs[0]]))], || match Device::cuda(0) {
        Err(Error::NoGpu(reason)) if !reason.contains("sees no GPU") => {
            assert!(
                reason.contains("libcuda.so.1 was not found") && reason.contains("stubs/libcuda.so is"),
                "{reason}"
            );
        }
        _ => println!("left out: {test}: this machine has a driver of its own"),
    });
}

/// More than the staging memory holds; the caller changes its slice as soon as `write` returns.
#[test]
fn copies_arrive_whole() {
    for settings in ["host", "pools=0"] {
        quietly_on_stand_in("copies_arrive_whole", settings, || {
            let cuda = Device::cuda(0).unwrap();
            let len = (11 << 20) / 4 + 3;
            let original: Vec<u32> = (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
            let mut values = original.clone();
            let buffer = cuda.zeros::<u32>(len).unwrap();
            assert!(buffer.read().unwrap().iter().all(|x| *x == 0));
            buffer.write(&values).unwrap();
            values.fill(7);
            let copy = cuda.zeros::<u32>(len).unwrap();
            copy.copy_from(&buffer).unwrap();
            buffer.view(5..len - 1).zero().unwrap();
            assert_eq!(copy.read().unwrap(), original);
            drop(copy);
            let left = buffer.read().unwrap();
            assert_eq!((&left[..5], left[len - 1]), (&original[..5], original[len - 1]));
            assert!(left[5..len - 1].iter().all(|x| *x == 0));
            // Empty buffers need no memory.
            let empty = cuda.upload::<u32>(&[]).unwrap();
            assert_eq!(empty.read().unwrap(), [0; 0]);
        });
    }
}

#[test]
fn events_time_what_is_between_them() {
    quietly_on_stand_in("events_time_what_is_between_them", "host", || {
        let cuda = Device::cuda(0).unwrap();
        let start = cuda.event().unwrap();
        log_partition_bits(&cuda, 20_000, 20_000);
        let end = cuda.event().unwrap();
        let time = end.since(&start).unwrap();
        assert!(time > std::time::Duration::ZERO);
        // Backwards there is none.
        assert_eq!(start.since(&end).unwrap(), std::time::Duration::ZERO);
        cuda.synchronize().unwrap();
    });
}

#[test]
fn a_device_serves_several_threads() {
    quietly_on_stand_in("a_device_serves_several_threads", "host", || {
        let (cuda, host) = (Device::cuda(0).unwrap(), Device::host(1).unwrap());
        let expected = log_partition_bits(&host, 1000, 33);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        assert_eq!(log_partition_bits(&cuda, 1000, 33), expected);
                    }
                });
            }
        });
    });
}

/// The message of an error that the closure must run into, in a process of its own.
#[track_caller]
fn says(error: Option<Error>, parts: &[&str]) {
    let text = error.expect("an error").to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let test = "what_is_missing_is_named";
    let cases: &[(&str, usize, &[&str])] = &[
        ("devices=0", 0, &["cuda:0", "sees no GPU"]),
        ("devices=1", 1, &["cuda:1", "only cuda:0"]),
        ("devices=2", 7, &["cuda:7", "cuda:0 to cuda:1"]),
        ("driver=11040", 0, &["CUDA 11.4", "CUDA 12.0", "525"]),
        ("capability=7.0", 0, &["zgan stand-in", "7.0", "7.5"]),
    ];
    for (settings, ordinal, parts) in cases {
        on_stand_in(test, settings, &[], || says(Device::cuda(*ordinal).err(), parts));
    }
}

/// The error of `--device auto`.
fn auto() -> Option<Error> {
    Device::open(DeviceChoice::Auto, 1).err()
}

#[test]
fn where_there_is_no_gpu_auto_takes_the_host_and_tells_why() {
    let test = "where_there_is_no_gpu_auto_takes_the_host_and_tells_why";
    // A driver without a GPU; GPUs for which there can be no code, whatever is installed.
    let cases =
        [("devices=0", "sees no GPU"), ("capability=7.0", "capability is 7.0"), ("driver=11040,capability=3.5", "3.5")];
    for (settings, why) in cases {
        on_stand_in(test, settings, &[], || {
            let (device, reason) = Device::open(DeviceChoice::Auto, 1).unwrap();
            assert_eq!(device.execution(), "host");
            assert!(reason.unwrap().contains(why));
        });
    }
    on_stand_in(test, "no library", &[("LD_LIBRARY_PATH", "/nowhere")], || {
        if let Err(reason) = Device::cuda(0) {
            // A machine with a driver may still have no GPU.
            let text = reason.to_string();
            assert!(text.contains("libcuda.so.1 was not found") || text.contains("sees no GPU"), "{text}");
        }
    });
}

/// Where no NVRTC is found; what is installed on this machine does not know such a GPU.
const WITHOUT_NVRTC: &[(&str, &str)] = &[
    ("NVRTC_LIB_DIR", ""),
    ("CUDA_HOME", ""),
    ("CUDA_PATH", ""),
    ("VIRTUAL_ENV", ""),
    ("CONDA_PREFIX", ""),
    ("HOME", "/nowhere"),
    ("PATH", "/nowhere"),
];
const WITHOUT_CODE: &str = "capability=13.0,ptx=0";

#[test]
fn where_there_is_a_gpu_auto_does_not_take_the_host() {
    let test = "where_there_is_a_gpu_auto_does_not_take_the_host";
    // Code that the driver does not take, and nothing to compile it with.
    on_stand_in(test, WITHOUT_CODE, WITHOUT_NVRTC, || {
        says(auto(), &["zgan stand-in", "NVRTC", "pip install nvidia-cuda-nvrtc-cu12", "--device host"]);
        says(Device::cuda(0).err(), &["zgan stand-in", "pip install nvidia-cuda-nvrtc-cu12"]);
    });
    on_stand_in(test, &format!("{WITHOUT_CODE},driver=13000"), WITHOUT_NVRTC, || {
        let error = auto().unwrap().to_string();
        assert!(
            error.ends_with("pip install nvidia-cuda-nvrtc; or choose the processor with --device host"),
            "{error}"
        );
    });
    on_stand_in(test, "driver=11040", &[], || says(auto(), &["CUDA 11.4", "driver 525", "--device host"]));
    on_stand_in(test, "mismatch", &[], || says(auto(), &["starting the driver", "DRIVER_MISMATCH", "--device host"]));
}

#[test]
fn without_code_for_the_gpu_a_training_ends_before_it_begins() {
    let place = tempfile::tempdir().unwrap();
    let zgan = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zgan"));
        command.args(arguments).current_dir(place.path()).env("LD_LIBRARY_PATH", stand_in::folder());
        command.env("ZGAN_STAND_IN", WITHOUT_CODE).envs(WITHOUT_NVRTC.iter().copied()).output().unwrap()
    };
    let output = zgan(&["train", "--steps", "1", "--batch", "2", "--no-eval"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("pip install") && error.contains("--device host"), "{error}");
    assert!(!place.path().join("runs").exists());
    let output = zgan(&["info"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("  cuda    unusable: cuda:0 (zgan stand-in"));
}

/// An NVRTC that cannot be used for this GPU is passed over; one among Python's packages is found.
#[test]
fn an_nvrtc_for_this_gpu_and_driver_is_looked_for() {
    let test = "an_nvrtc_for_this_gpu_and_driver_is_looked_for";
    let place = tempfile::tempdir().unwrap();
    let at = |path: &str| place.path().join(path).to_str().unwrap().to_string();
    if std::env::var_os(CHILD).is_none() {
        fakes::nvrtc(Path::new(&at("old/libnvrtc.so.12")), 12, "80,90", &[]);
        fakes::nvrtc(Path::new(&at("packages/nvidia/cu13/lib/libnvrtc.so.13")), 13, "80,90,130", &[]);
        let python = format!("#!/bin/sh\necho\necho {}\n", at("packages"));
        std::fs::create_dir(at("bin")).unwrap();
        std::fs::write(at("bin/python3"), python).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(at("bin/python3"), executable).unwrap();
    }
    let (old, bin) = (at("old"), at("bin"));
    let variables: Vec<_> = WITHOUT_NVRTC.iter().copied().chain([("NVRTC_LIB_DIR", &*old), ("PATH", &*bin)]).collect();
    on_stand_in(test, WITHOUT_CODE, &variables, || {
        let passed = ["old/libnvrtc.so.12: NVRTC 12.0 does not know sm_130", "NVRTC 13.0 is too new for this driver"];
        says(auto(), &passed);
    });
    // What it makes is no code for a GPU.
    on_stand_in(test, &format!("{WITHOUT_CODE},driver=13000"), &variables, || {
        says(auto(), &["compiling it here", "device kernel image is invalid", "--device host"]);
    });
}

#[test]
fn a_full_memory_is_told_with_its_size() {
    quietly_on_stand_in("a_full_memory_is_told_with_its_size", "memory=1048576", || {
        let cuda = Device::cuda(0).unwrap();
        let half = cuda.zeros::<f32>(131_072).unwrap();
        let error = cuda.zeros::<f32>(131_073).err();
        assert!(matches!(error, Some(Error::OutOfMemory { .. })), "{error:?}");
        says(error, &["cuda:0 (zgan stand-in, host)", "512.0 KiB asked for", "512.0 KiB of 1.0 MiB free"]);
        // What was there is whole, and what is freed can be had again.
        assert_eq!(half.read().unwrap(), [0.0; 131_072]);
        drop(half);
        cuda.zeros::<f32>(262_144).unwrap();
    });
    quietly_on_stand_in("a_full_memory_is_told_with_its_size", "allocation=2,pools=0", || {
        let cuda = Device::cuda(0).unwrap();
        let _first = cuda.zeros::<f32>(8).unwrap();
        assert!(matches!(cuda.zeros::<f32>(8), Err(Error::OutOfMemory { .. })));
        cuda.zeros::<f32>(8).unwrap();
    });
}

/// A fault on a GPU is told by a later call, and by every call after that.
#[test]
fn a_fault_is_told_and_nothing_hangs() {
    quietly_on_stand_in("a_fault_is_told_and_nothing_hangs", "launch=2", || {
        let cuda = Device::cuda(0).unwrap();
        let expected = log_partition_bits(&Device::host(1).unwrap(), 64, 64);
        assert_eq!(log_partition_bits(&cuda, 64, 64), expected);
        let logits: Buffer<f32> = cuda.upload(&[0.5; 64]).unwrap();
        let out = Evaluation {
            statistics: cuda.zeros(4).unwrap(),
            seed_d: cuda.zeros(96).unwrap(),
            seed_g: cuda.zeros(32).unwrap(),
        };
        let workspace = cuda.zeros(0).unwrap();
        log_partition::fused(&out, &logits, &logits.view(0..32), 1.0, &workspace).unwrap();
        says(out.statistics.read().err(), &["cuda:0 (zgan stand-in, host)", "illegal memory access"]);
        says(cuda.synchronize().err(), &["illegal memory access"]);
        says(cuda.zeros::<f32>(8).err(), &["illegal memory access"]);
    });
}

/// Launches `log_partition_one_f32`, and after it `more` times `conv_sum_parts_f32`.
fn launch_one_and(device: &Device, more: usize) -> Result<Buffer<f32>, Error> {
    let logits: Buffer<f32> = device.upload(&[0.5; 64])?;
    let [statistics, seed_d, seed_g] = [4, 64 + 32, 32].map(|len| device.zeros(len).unwrap());
    let out = Evaluation { statistics, seed_d, seed_g };
    log_partition::fused(&out, &logits, &logits.view(0..32), 1.0, &device.zeros(0)?)?;
    for _ in 0..more {
        conv::accumulate(&out.seed_g, &logits.view(0..32))?;
    }
    Ok(out.seed_g)
}

/// Of a fault in a kernel the driver tells with a later call; the error names the kernels that it may come from.
#[test]
fn a_fault_is_told_with_the_kernels_that_it_may_come_from() {
    let test = "a_fault_is_told_with_the_kernels_that_it_may_come_from";
    let (first, then) = ("log_partition_one_f32", "conv_sum_parts_f32");
    let hint = " (ZGAN_SYNC=1 waits for each launch, and so names the kernel)";
    let one = format!("; it comes from the one launch since the device was last waited for: {first}{hint}");
    let three = format!("; it comes from one of these launches, the last first: {then}, {then}, {first}{hint}");
    let many = format!("; it comes from one of 12 launches, the last of them first: {}{hint}", [then; 8].join(", "));
    for (i, (more, expected)) in [(0, one), (2, three), (11, many)].into_iter().enumerate() {
        // Each in a process of its own, which its settings tell apart.
        quietly_on_stand_in(test, &format!("fault={first},memory={}", 1_000_000 + i), || {
            let cuda = Device::cuda(0).unwrap();
            // What was waited for is not suspected.
            let known: Buffer<f32> = cuda.upload(&[1.0; 8]).unwrap();
            conv::accumulate(&cuda.zeros(8).unwrap(), &known).unwrap();
            cuda.synchronize().unwrap();
            let left = launch_one_and(&cuda, more).unwrap();
            says(left.read().err(), &["copying 128 B from the device: an illegal memory access", &expected]);
            says(cuda.synchronize().err(), &["waiting: an illegal memory access", &expected]);
        });
    }
    // An error that is no kernel's suspects none.
    quietly_on_stand_in(test, "memory=4096", || {
        let cuda = Device::cuda(0).unwrap();
        let error = cuda.zeros::<f32>(1 << 20).err().unwrap().to_string();
        assert!(!error.contains("launch"), "{error}");
    });
}

/// With `ZGAN_SYNC=1` it is told by the launch itself, and nothing is captured.
#[test]
fn a_launch_that_is_waited_for_tells_its_own_fault() {
    let test = "a_launch_that_is_waited_for_tells_its_own_fault";
    let synchronous = [("ZGAN_SYNC", "1")];
    quietly_with(test, "fault=conv_sum_parts_f32", &synchronous, || {
        let cuda = Device::cuda(0).unwrap();
        let error = launch_one_and(&cuda, 1).err().unwrap().to_string();
        let expected = "cuda:0 (zgan stand-in, host): conv_sum_parts_f32 of [1, 1, 1] blocks: an illegal memory access was \
                        encountered (CUDA_ERROR_ILLEGAL_ADDRESS)";
        assert_eq!(error, expected);
    });
    quietly_with(test, "host", &synchronous, || {
        let cuda = Device::cuda(0).unwrap();
        assert!(cuda.capture(|| panic!("is not called")).unwrap().is_none());
    });
    quietly_with(test, "simt", &[("ZGAN_SYNC", "yes")], || {
        says(Device::cuda(0).err(), &["ZGAN_SYNC: \"yes\", expected 1 or 0"]);
    });
}

/// With red zones no buffer is a part of the driver's pool: a tool that checks accesses sees where each ends.
#[test]
fn buffers_with_red_zones_are_allocated_apart() {
    let test = "buffers_with_red_zones_are_allocated_apart";
    let said = quietly_with(test, "counts", &[], || {
        let cuda = Device::cuda(0).unwrap();
        let apart = cuda.with_red_zones();
        equal_to_the_bit(&apart, &Device::host(0).unwrap(), &SIZES[..1]);
        drop(cuda.zeros::<f32>(8).unwrap());
        drop([apart.zeros::<f32>(8).unwrap(), apart.zeros(8).unwrap()]);
    });
    // Statistics, two seeds, no workspace, real and fake logits; and the last two.
    assert!(said.is_none_or(|said| said.contains("stand-in allocations: 1 of the pool, 7 apart")));
}

/// Where nothing embedded fits, the sources are compiled for the card, once. The compiler is one that has the embedded code of
/// 8.0 for each of them and calls it that of 8.7: NVIDIA's needs minutes for all of them, and has made them for the build.
#[test]
fn code_is_compiled_and_kept_where_none_fits() {
    let test = "code_is_compiled_and_kept_where_none_fits";
    if !stand_in::has_code(test) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    if std::env::var_os(CHILD).is_none() {
        std::fs::create_dir(at("made")).unwrap();
        for mut image in embedded_code().unwrap().into_iter().filter(|image| image.target == "sm_80") {
            // The architecture, a byte of an ELF header's flags. The eighth version of NVIDIA's ABI moved it.
            let byte = 0x30 + usize::from(image.code[8] >= 8);
            assert_eq!(std::mem::replace(&mut image.code[byte], 87), 80);
            std::fs::write(at("made").join(format!("{}.cu", image.module.name)), image.code).unwrap();
        }
        let made = format!("MADE=\"{}\"", at("made").display());
        fakes::nvrtc(&at("nvrtc/libnvrtc.so.12"), 12, "80,87", &[&made]);
    }
    let (compiler, kept) = (at("nvrtc"), place.path());
    let variables = [("NVRTC_LIB_DIR", compiler.to_str().unwrap()), ("XDG_CACHE_HOME", kept.to_str().unwrap())];
    let open = || {
        let cuda = Device::cuda(0).unwrap();
        assert!(cuda.description().ends_with("code for sm_87"), "{}", cuda.description());
        equal_to_the_bit(&cuda, &Device::host(0).unwrap(), &SIZES[..2]);
    };
    // Two processes at once. Each has the settings in an order of its own, by which its body is told from the other's.
    let orders = ["capability=8.7,exact=1,ptx=0", "exact=1,capability=8.7,ptx=0"];
    let run = |settings: &str| on_stand_in(test, settings, &variables, open);
    let told = match std::env::var_os(CHILD) {
        None => std::thread::scope(|scope| {
            orders.map(|settings| scope.spawn(|| run(settings))).map(|process| process.join().unwrap().unwrap())
        }),
        Some(_) => orders.map(|settings| run(settings).unwrap_or_default()),
    };
    let folder = place.path().join("zgan/kernels");
    let modules = kernel::MODULES.iter().filter(|module| module.gpu).count();
    let line = format!("{modules} files, kept in {}", folder.display());
    if std::env::var_os(CHILD).is_none() {
        let compiled = told.iter().filter(|told| told.contains(&line)).count();
        assert_eq!((compiled, told.concat().matches("compiling").count()), (1, 1), "{told:?}");
    }
    on_stand_in(test, "ptx=0,exact=1,capability=8.7", &variables, || {
        let folder = PathBuf::from(std::env::var_os("XDG_CACHE_HOME").unwrap()).join("zgan/kernels");
        let kept = || -> Vec<(PathBuf, SystemTime)> {
            let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
            let kept = entries.filter(|entry| entry.file_name() != "lock");
            kept.map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap())).collect()
        };
        let first = kept();
        assert_eq!(first.len(), modules);
        assert!(first.iter().all(|(path, _)| path.extension().is_some_and(|e| e == "cubin")), "{first:?}");
        open();
        assert_eq!(kept(), first);
        // A file that was changed is made again.
        let whole = std::fs::read(&first[0].0).unwrap();
        std::fs::write(&first[0].0, &whole[..100]).unwrap();
        open();
        assert_eq!(std::fs::read(&first[0].0).unwrap(), whole);
    });
}

/// The code of `kernels/log_partition.cu` for this target.
fn log_partition_code(target: &str) -> Ptx {
    let module = kernel::MODULES.iter().find(|m| m.name == "log_partition").unwrap();
    let compiled = nvrtc::Compiler::find().unwrap().compile(module.name, module.source, target).unwrap();
    Ptx::from_binary(if compiled.code.is_empty() { compiled.ptx } else { compiled.code })
}

/// The stand-in itself: what a driver would refuse, it refuses, and tells why.
#[test]
fn what_a_driver_refuses_is_refused() {
    let test = "what_a_driver_refuses_is_refused";
    if nvrtc::Compiler::find().is_err() {
        println!("left out: {test}: there is no NVRTC here");
        return;
    }
    let told = on_stand_in(test, "host", &[], || {
        #[track_caller]
        fn refused<T>(answer: Result<T, DriverError>, with: CUresult) {
            assert_eq!(answer.map(|_| ()), Err(DriverError(with)));
        }
        let context = CudaContext::new(0).unwrap();
        // SAFETY: no memory of cudarc's own is made.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let queue = stream.cu_stream();

        refused(context.load_module(log_partition_code("sm_90")), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        refused(context.load_module(log_partition_code("compute_90")), CUresult::CUDA_ERROR_INVALID_PTX);
        refused(context.load_module(Ptx::from_src("no code")), CUresult::CUDA_ERROR_INVALID_IMAGE);
        let module = context.load_module(log_partition_code("sm_80")).unwrap();
        refused(module.load_function("no_such_kernel"), CUresult::CUDA_ERROR_NOT_FOUND);
        let function = module.load_function("log_partition_one_f32").unwrap();
        // With dynamic shared memory, and only the first of the arguments; the others are null.
        let launch_with = |threads: u32, shared: u32, pointer: u64, given: usize| {
            let (one, two, zero, n) = (1.0f32, 2.0f32, 0u32, 1u32);
            let mut arguments: [*const std::ffi::c_void; 11] = [
                (&raw const pointer).cast(),
                (&raw const pointer).cast(),
                (&raw const pointer).cast(),
                (&raw const pointer).cast(),
                (&raw const pointer).cast(),
                (&raw const one).cast(),
                (&raw const one).cast(),
                (&raw const two).cast(),
                (&raw const zero).cast(),
                (&raw const n).cast(),
                (&raw const n).cast(),
            ];
            arguments[given..].fill(std::ptr::null());
            let arguments = arguments.as_ptr().cast_mut().cast();
            // SAFETY: eleven arguments of the kernel's types; the launches that are not refused are never run.
            unsafe {
                let (f, none) = (function.cu_function(), std::ptr::null_mut());
                sys::cuLaunchKernel(f, 1, 1, 1, threads, 1, 1, shared, queue, arguments, none).result()
            }
        };
        let launch = |threads, pointer| launch_with(threads, 0, pointer, 11);

        // Kernels that are not those of the host.
        let compiled = |text: &str| {
            let code = nvrtc::Compiler::find().unwrap().compile("planted", text, "sm_80").unwrap().code;
            context.load_module(Ptx::from_binary(code))
        };
        let fewer = "extern \"C\" __global__ void log_partition_one_f32(float* x) { x[0] = 1; }";
        refused(compiled(fewer), CUresult::CUDA_ERROR_INVALID_IMAGE);
        refused(compiled(&fewer.replace("log_partition_one_f32", "unknown")), CUresult::CUDA_ERROR_INVALID_IMAGE);
        // SAFETY: what is refused is not run; a function that is none is what is asked about.
        refused(
            unsafe {
                let (no_function, none) = (std::ptr::without_provenance_mut(0x77), std::ptr::null_mut());
                sys::cuLaunchKernel(no_function, 1, 1, 1, 256, 1, 1, 0, queue, none, none).result()
            },
            CUresult::CUDA_ERROR_INVALID_HANDLE,
        );

        // SAFETY: the ranges that are not refused are inside what was allocated.
        unsafe {
            let memory = result::malloc_async(queue, 1024).unwrap();
            result::memset_d8_async(memory, 1, 1024, queue).unwrap();
            let mut room = [0u8; 1025];
            refused(result::memcpy_htod_async(memory, &room, queue), CUresult::CUDA_ERROR_INVALID_VALUE);
            refused(
                result::memcpy_dtoh_async(&mut room[..2], memory + 1023, queue),
                CUresult::CUDA_ERROR_INVALID_VALUE,
            );
            refused(result::memcpy_dtoh_async(&mut room, 4096, queue), CUresult::CUDA_ERROR_INVALID_VALUE);
            refused(
                result::memset_d8_async(memory, 0, 1024, std::ptr::null_mut()),
                CUresult::CUDA_ERROR_INVALID_HANDLE,
            );
            refused(result::malloc_async(queue, 2 << 30), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
            refused(launch(257, memory), CUresult::CUDA_ERROR_INVALID_VALUE);
            refused(launch(128, memory), CUresult::CUDA_ERROR_NOT_SUPPORTED);
            refused(launch_with(256, 49 << 10, memory, 11), CUresult::CUDA_ERROR_INVALID_VALUE);
            // Together with the kernel's own it is more than 48 KiB.
            refused(launch_with(256, 48 << 10, memory, 11), CUresult::CUDA_ERROR_INVALID_VALUE);
            refused(launch_with(256, 0, memory, 7), CUresult::CUDA_ERROR_INVALID_VALUE);

            stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
            refused(result::malloc_async(queue, 16), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            refused(result::malloc_host(16, 0), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            refused(stream.synchronize(), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            result::memset_d8_async(memory, 0, 8, queue).unwrap();
            let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
            graph.launch().unwrap();

            result::free_async(memory, queue).unwrap();
            refused(result::free_async(memory, queue), CUresult::CUDA_ERROR_INVALID_VALUE);
            refused(result::memset_d8_async(memory, 0, 8, queue), CUresult::CUDA_ERROR_INVALID_VALUE);
            // What it works on is gone.
            refused(graph.launch(), CUresult::CUDA_ERROR_INVALID_VALUE);
            refused(launch(256, memory), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
            // As on a GPU, nothing goes after that.
            refused(stream.synchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        }
    });
    let Some(told) = told else { return };
    for what in ["1025 bytes where 1024 are left", "2 bytes where 1 are left", "not device memory", "freed twice"] {
        assert!(told.contains(what), "{what:?} is not in {told}");
    }
    for what in ["memory that was freed", "[257, 1, 1] threads", "an allocation while a stream captures"] {
        assert!(told.contains(what), "{what:?} is not in {told}");
    }
    for what in ["1 parameters on the GPU, 11 here", "unknown: no such kernel", "7 arguments, it takes 11"] {
        assert!(told.contains(what), "{what:?} is not in {told}");
    }
    for what in ["there is no function 0x77", "bytes of dynamic and 1", "memset of a graph"] {
        assert!(told.contains(what), "{what:?} is not in {told}");
    }
}

/// A capture is its own thread's: others allocate, copy and wait meanwhile, unless it forbids that to everyone.
#[test]
fn other_threads_work_while_one_captures() {
    let test = "other_threads_work_while_one_captures";
    let told = on_stand_in(test, "host", &[], || {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: no memory of cudarc's own is made.
        unsafe { context.disable_event_tracking() };
        let (stream, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let elsewhere = || -> Result<Vec<f32>, DriverError> {
            std::thread::scope(|scope| {
                let work = || {
                    context.bind_to_thread()?;
                    let queue = other.cu_stream();
                    let mut found = vec![0.0; 4];
                    // SAFETY: sixteen bytes are copied to and from as many, which live until the stream was waited for.
                    unsafe {
                        let memory = result::malloc_async(queue, 16)?;
                        result::memcpy_htod_async(memory, &[1.0f32, 2.0, 3.0, 4.0], queue)?;
                        result::memcpy_dtoh_async(&mut found, memory, queue)?;
                        other.synchronize()?;
                        result::free_async(memory, queue)?;
                    }
                    assert_eq!(stream.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
                    Ok(found)
                };
                scope.spawn(work).join().unwrap()
            })
        };
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        assert_eq!(elsewhere().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        drop(stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap());
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        assert_eq!(elsewhere().unwrap_err().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        drop(stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap());
    });
    let Some(told) = told else { return };
    for what in ["a wait for a stream that captures", "an allocation while a stream captures"] {
        assert!(told.contains(what), "{what:?} is not in {told}");
    }
}

/// What is captured runs at each replay, on what is in memory then, and not while it is captured.
#[test]
fn a_captured_graph_is_replayed() {
    let test = "a_captured_graph_is_replayed";
    if nvrtc::Compiler::find().is_err() {
        println!("left out: {test}: there is no NVRTC here");
        return;
    }
    let told = on_stand_in(test, "host", &[], || {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: no memory of cudarc's own is made.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let queue = stream.cu_stream();
        let module = context.load_module(log_partition_code("sm_80")).unwrap();
        let function = module.load_function("log_partition_one_f32").unwrap();
        // SAFETY: one allocation of 64 floats; the kernel gets four, two, one, one and one of them, which do not
        // overlap; `found` lives until the stream was waited for.
        unsafe {
            let memory = result::malloc_async(queue, 256).unwrap();
            let read = |found: &mut [f32; 4]| {
                result::memcpy_dtoh_async(found, memory, queue).unwrap();
                stream.synchronize().unwrap();
            };
            result::memset_d8_async(memory, 0, 256, queue).unwrap();
            stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
            let pointers = [memory, memory + 16, memory + 24, memory + 28, memory + 32];
            let (one, two, zero, n) = (1.0f32, 2.0f32, 0u32, 1u32);
            let mut arguments: Vec<*mut std::ffi::c_void> =
                pointers.iter().map(|p| std::ptr::from_ref(p).cast_mut().cast()).collect();
            arguments.extend([&one, &one, &two].map(|number| std::ptr::from_ref(number).cast_mut().cast()));
            arguments.extend([&zero, &n, &n].map(|number| std::ptr::from_ref(number).cast_mut().cast()));
            result::launch_kernel(function.cu_function(), (1, 1, 1), (256, 1, 1), 0, queue, &mut arguments).unwrap();
            let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
            let mut found = [9.0; 4];
            read(&mut found);
            assert_eq!(found, [0.0; 4]);
            for logits in [[0.5f32, 2.0], [-1.0, 3.0]] {
                result::memcpy_htod_async(memory + 28, &logits, queue).unwrap();
                graph.launch().unwrap();
                read(&mut found);
                assert_eq!(found[2..], logits);
                let loss_d = f64::from(logits[0]) + logits.iter().map(|x| f64::from(-x).exp()).sum::<f64>().ln();
                assert!((f64::from(found[0]) - loss_d).abs() < 1e-6, "{} for {loss_d}", found[0]);
            }
            result::free_async(memory, queue).unwrap();
        }
    });
    assert!(told.is_none_or(|told| !told.contains("stand-in driver:")));
}

/// What our own device captures: it works on what is in memory at each launch, keeps that memory, and has in it what
/// this thread queued meanwhile, and nothing else.
#[test]
fn a_device_captures_what_one_thread_queues() {
    quietly_on_stand_in("a_device_captures_what_one_thread_queues", "host", || {
        let cuda = Device::cuda(0).unwrap();
        let (from, to, other) =
            (cuda.upload(&[1.0f32; 8]).unwrap(), cuda.zeros(8).unwrap(), cuda.upload(&[5.0f32; 8]).unwrap());
        let mut beside = None;
        let graph = cuda.capture(|| {
            let theirs = other.clone();
            beside = Some(std::thread::spawn(move || theirs.zero().unwrap()));
            // Long enough for that thread to queue its work, if nothing held it back.
            std::thread::sleep(std::time::Duration::from_millis(50));
            to.copy_from(&from)
        });
        let graph = graph.unwrap().expect("a GPU captures");
        beside.unwrap().join().unwrap();
        assert_eq!((to.read().unwrap(), other.read().unwrap()), (vec![0.0; 8], vec![0.0; 8]));
        other.write(&[6.0; 8]).unwrap();
        from.write(&[2.0; 8]).unwrap();
        drop(from);
        graph.launch().unwrap();
        assert_eq!((to.read().unwrap(), other.read().unwrap()), (vec![2.0; 8], vec![6.0; 8]));
        // Others have nothing to capture.
        assert!(Device::host(1).unwrap().capture(|| panic!("is not called")).unwrap().is_none());
    });
}

/// A buffer that is dropped while a graph is captured is not freed in the graph: by another thread after the capture, by the
/// one that captures at its end.
#[test]
fn what_is_dropped_during_a_capture_is_freed_after_it() {
    quietly_on_stand_in("what_is_dropped_during_a_capture_is_freed_after_it", "host", || {
        let cuda = Device::cuda(0).unwrap();
        let [from, to]: [Buffer<f32>; 2] = [[1.0; 8], [0.0; 8]].map(|values| cuda.upload(&values).unwrap());
        for fails in [false, true] {
            let (theirs, ours): (Buffer<f32>, Buffer<f32>) = (cuda.zeros(8).unwrap(), cuda.zeros(8).unwrap());
            let mut beside = None;
            let graph = cuda.capture(|| {
                beside = Some(std::thread::spawn(move || drop(theirs)));
                // Long enough for that thread to free it, if nothing held it back.
                std::thread::sleep(std::time::Duration::from_millis(50));
                to.copy_from(&from)?;
                drop(ours);
                if fails { Err(Error::Device("planted".into())) } else { Ok(()) }
            });
            assert_eq!(graph.is_err(), fails);
            beside.unwrap().join().unwrap();
            for _ in 0..2 {
                graph.iter().flatten().for_each(|graph| graph.launch().unwrap());
                cuda.synchronize().unwrap();
            }
            assert_eq!(to.read().unwrap(), [1.0; 8]);
        }
    });
}

#[test]
fn what_a_graph_cannot_do_again_is_refused_while_it_is_captured() {
    quietly_on_stand_in("what_a_graph_cannot_do_again_is_refused_while_it_is_captured", "host", || {
        let cuda = Device::cuda(0).unwrap();
        let buffer: Buffer<f32> = cuda.upload(&[1.0; 8]).unwrap();
        let during = ["cuda:0 (zgan stand-in, host): ", " while a graph is captured"];
        says(cuda.capture(|| cuda.zeros::<f32>(8).map(drop)).err(), &[&during[..], &["an allocation"]].concat());
        says(cuda.capture(|| buffer.write(&[2.0; 8])).err(), &[&during[..], &["from the host"]].concat());
        says(cuda.capture(|| buffer.read().map(drop)).err(), &[&during[..], &["to the host"]].concat());
        says(cuda.capture(|| cuda.synchronize()).err(), &[&during[..], &["waiting"]].concat());
        says(cuda.capture(|| cuda.event().map(drop)).err(), &[&during[..], &["an event"]].concat());
        says(cuda.capture(|| cuda.capture(|| Ok(())).map(drop)).err(), &[&during[..], &["another capture"]].concat());
        // The device is none the worse for it.
        assert_eq!(buffer.read().unwrap(), [1.0; 8]);
        equal_to_the_bit(&cuda, &Device::host(0).unwrap(), &SIZES[..1]);
    });
}

/// Streams go their own ways: what one does not wait for is late, what it waits for is not.
#[test]
fn a_stream_waits_for_another_only_where_it_is_told_to() {
    let told = on_stand_in("a_stream_waits_for_another_only_where_it_is_told_to", "host", &[], || {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: no memory of cudarc's own is made.
        unsafe { context.disable_event_tracking() };
        let (stream, copies) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let event = context.new_event(None).unwrap();
        // SAFETY: the ranges are inside what was allocated; `found` lives until the stream was waited for, and nothing is
        // queued when the memory is freed.
        unsafe {
            let memory = result::malloc_async(stream.cu_stream(), 4).unwrap();
            let read = || {
                let mut found = [0u8; 4];
                result::memcpy_dtoh_async(&mut found, memory, stream.cu_stream()).unwrap();
                stream.synchronize().unwrap();
                found
            };
            result::memset_d8_async(memory, 1, 4, stream.cu_stream()).unwrap();
            assert_eq!(read(), [1; 4]);
            result::memset_d8_async(memory, 2, 4, copies.cu_stream()).unwrap();
            assert_eq!(read(), [1; 4]);
            event.record(&copies).unwrap();
            // What comes after the event is not waited for.
            result::memset_d8_async(memory, 3, 4, copies.cu_stream()).unwrap();
            stream.wait(&event).unwrap();
            assert_eq!(read(), [2; 4]);
            event.synchronize().unwrap();
            assert_eq!(read(), [2; 4]);
            // Both ways: the copies wait for the reading, the host for the copies.
            let mut late = [0u8; 4];
            result::memcpy_dtoh_async(&mut late, memory, stream.cu_stream()).unwrap();
            event.record(&stream).unwrap();
            copies.wait(&event).unwrap();
            result::memset_d8_async(memory, 4, 4, copies.cu_stream()).unwrap();
            copies.synchronize().unwrap();
            // The 3 was queued before the reading, which did not wait for it.
            assert_eq!((late, read()), ([3; 4], [4; 4]));
            result::free_async(memory, stream.cu_stream()).unwrap();
            stream.synchronize().unwrap();
        }
    });
    assert!(told.is_none_or(|told| !told.contains("stand-in driver:")));
}

#[test]
fn the_drivers_own_name_comes_first_and_wsls_place_is_known() {
    let root = tempfile::tempdir().unwrap();
    let folders = ["cuda/stubs", "mine", "usr/lib/wsl/lib", "usr/lib64"].map(|folder| root.path().join(folder));
    for (folder, name) in folders.iter().zip(["libcuda.so", "libcuda.so.1", "libcuda.so.1", "libcuda.so.1"]) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(name), "").unwrap();
    }
    let listed = std::env::join_paths([&folders[0], &folders[1], Path::new("")]).unwrap();
    let own = |folder: usize| folders[folder].join("libcuda.so.1");
    let expected = ["libcuda.so.1".into(), own(1), own(2), own(3), "libcuda.so".into()];
    assert_eq!(driver::places(root.path(), Some(listed)), expected);
}

#[test]
fn code_fits_its_own_generation_and_ptx_what_came_later() {
    let all = nvrtc::TARGETS;
    assert_eq!(fitting(all, (7, 5)), ["sm_75"]);
    assert_eq!(fitting(all, (8, 0)), ["sm_80", "compute_80"]);
    assert_eq!(fitting(all, (8, 7)), ["sm_86", "sm_80", "compute_80"]);
    assert_eq!(fitting(all, (8, 9)), ["sm_89", "sm_86", "sm_80", "compute_80"]);
    assert_eq!(fitting(all, (10, 3)), ["sm_100", "compute_80"]);
    assert_eq!(fitting(all, (12, 1)), ["sm_120", "compute_80"]);
    assert_eq!(fitting(all, (13, 0)), ["compute_80"]);
    assert_eq!(fitting(&["sm_90"], (8, 0)), [""; 0]);
    assert_eq!(fitting(&[], (8, 0)), [""; 0]);
}

/// A cache in a folder of its own, with code of module 0 in it.
fn filled() -> (tempfile::TempDir, Cache, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::open(Some(place.path().into()), (12, 9), "sm_87");
    cache.keep(0, b"code").unwrap();
    assert_eq!(cache.get(0).unwrap().as_deref(), Some(&b"code"[..]));
    let path = cache.path(0).unwrap();
    (place, cache, path)
}

#[test]
fn a_cached_module_is_named_after_all_that_it_was_made_from() {
    let (place, cache, _) = filled();
    let other = |version, target| Cache::open(Some(place.path().into()), version, target);
    assert_eq!(cache.path(0), other((12, 9), "sm_87").path(0));
    for other in [other((12, 8), "sm_87"), other((12, 9), "sm_90")] {
        assert_ne!(cache.path(0), other.path(0));
        assert!(other.get(0).unwrap().is_none());
    }
    assert!(cache.get(1).unwrap().is_none());
}

#[test]
fn a_cached_module_that_was_changed_is_not_used() {
    let (_place, cache, path) = filled();
    let whole = fs::read(&path).unwrap();
    // Each byte of hash and code; cut off anywhere; and the whole file of another module.
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        assert!(cache.get(0).is_err(), "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(cache.get(0).is_err(), "cut to {at} bytes");
    }
    fs::write(&path, &whole).unwrap();
    assert!(cache.get(0).is_ok());
    fs::rename(&path, cache.path(1).unwrap()).unwrap();
    assert!(cache.get(1).is_err());
}

#[test]
fn what_others_can_write_is_not_used() {
    let (place, cache, path) = filled();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    for writable in [0o620, 0o602] {
        set(&path, writable);
        assert!(cache.get(0).unwrap_err().to_string().contains("others may write"));
    }
    // It is made again with the right mode.
    cache.keep(0, b"code").unwrap();
    assert!(cache.get(0).is_ok());
    set(path.parent().unwrap(), 0o777);
    assert_eq!(Cache::open(Some(place.path().into()), (12, 9), "sm_87").path(0), None);
    // Only root may give a file away.
    if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
        assert!(cache.get(0).unwrap_err().to_string().contains("belongs to the user of number 12345"));
    }
}

#[test]
fn one_process_at_a_time_fills_the_cache_and_clears_what_the_dead_left() {
    let (_place, cache, path) = filled();
    let left = path.with_file_name("left.cubin.unfinished");
    fs::write(&left, "half").unwrap();
    let turn = cache.take_turn().unwrap();
    assert!(!left.exists() && path.exists());
    let lock = File::open(path.with_file_name("lock")).unwrap();
    assert!(lock.try_lock().is_err());
    drop(turn);
    lock.try_lock().unwrap();
}
