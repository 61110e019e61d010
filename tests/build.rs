//! What `build.rs` does with kernel files: what they declare, what is compiled once, and what is said when it fails.
#![allow(dead_code)]

#[path = "../src/build/cuda.rs"]
mod cuda;
#[path = "common/fakes.rs"]
mod fakes;
#[path = "../src/build/host.rs"]
mod host;
#[path = "../src/device/nvrtc.rs"]
mod nvrtc;
#[path = "../src/build/source.rs"]
mod source;
#[path = "../src/build/store.rs"]
mod store;
#[path = "../src/build/table.rs"]
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nvrtc::{Assembled, Log, lines_of};
use source::Module;
use store::{Job, Made, Store};
use zgan::device::{Precision, kernel, kernel_source};

fn modules(root: &Path) -> Vec<Module> {
    source::read_all(root, Path::new("kernels"))
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The constants of a list of modules, as `kernels.rs` has them.
fn constants(modules: &[Module]) -> String {
    let out = tempfile::tempdir().unwrap();
    table::write(modules, true, &cuda::Images::default(), out.path());
    fs::read_to_string(out.path().join("kernels.rs")).unwrap()
}

/// A copy of `kernels/` with one text of one file replaced.
fn with_edit(file: &str, before: &str, after: &str) -> Vec<Module> {
    let copy = tempfile::tempdir().unwrap();
    for folder in ["kernels", "kernels/device", "kernels/host"] {
        fs::create_dir(copy.path().join(folder)).unwrap();
        for entry in fs::read_dir(here().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, copy.path().join(folder).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let path = copy.path().join("kernels").join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(before), "{file} has no {before:?}");
    fs::write(&path, text.replacen(before, after, 1)).unwrap();
    modules(copy.path())
}

/// All Rust code takes tiles from the constants of `kernels.rs`, so that a size in a `TILES` line is all that a new one needs:
/// wrappers choose from it, `zgan tune` times it, tuning files may name it.
#[test]
fn a_tile_is_one_edit() {
    let before = constants(&modules(here()));
    let end = ")\nKERNEL(TILE_THREADS, BLOCKS_OF_TILE(BM, BN)) TILED(linear_forward)";
    let edited = with_edit("matmul.cu", end, &format!(", 96x80, tf32 32x112{end}"));
    let after = constants(&edited);
    let line =
        |rows: usize, columns: usize| format!("    Tile {{ rows: {rows}, columns: {columns}, kernel: Variants([");
    for (rows, columns, forms) in [
        (96, 80, "Some(LINEAR_FORWARD_96X80_F32), Some(LINEAR_FORWARD_96X80_TF32), Some(LINEAR_FORWARD_96X80_BF16), "),
        (32, 112, "None, Some(LINEAR_FORWARD_32X112_TF32), None, None])"),
    ] {
        assert!(!before.contains(&(line(rows, columns) + forms)) && after.contains(&(line(rows, columns) + forms)));
    }
    // In the list of its product alone, the largest first.
    let list = after.split("pub const LINEAR_FORWARD: &[Tile] = &[").nth(1).unwrap().split("];").next().unwrap();
    let sizes: Vec<&str> =
        list.lines().filter_map(|l| Some(l.split_once("rows: ")?.1.split_once(", kernel")?.0)).collect();
    let mut expected: Vec<(usize, usize)> = kernel::LINEAR_FORWARD.iter().map(|t| (t.rows, t.columns)).collect();
    expected.extend([(96, 80), (32, 112)]);
    expected.sort_by_key(|(rows, columns)| std::cmp::Reverse((rows * columns, *rows)));
    let expected: Vec<String> = expected.iter().map(|(rows, columns)| format!("{rows}, columns: {columns}")).collect();
    assert_eq!(sizes, expected);
    // The text of the kernel is there for it, with its own size.
    let f32_module = edited.iter().find(|module| module.name == "matmul").unwrap();
    assert!(f32_module.text.contains("#define BM 96\n#define BN 80\n"));
    assert!(!f32_module.text.contains("#define BM 32\n"));
}

/// A product's kernels are the same in the program and in the text.
#[test]
fn what_kernel_files_declare_reaches_the_program() {
    let read = modules(here());
    assert_eq!(read.len(), kernel::MODULES.len());
    for (module, built) in read.iter().zip(kernel::MODULES) {
        assert_eq!((module.name.as_str(), module.file.as_str()), (built.name, built.file));
        assert_eq!(module.precision, built.precision.name());
        let names: Vec<_> = module.kernels.iter().map(|k| (k.name.as_str(), k.family.as_str(), k.tile)).collect();
        let known: Vec<_> = built.kernels.iter().map(|k| (k.name, k.family, k.tile)).collect();
        assert_eq!(names, known);
    }
    let conv = kernel::CONV_FORWARD.iter().find(|tile| (tile.rows, tile.columns) == (256, 16)).unwrap();
    assert!(conv.kernel.0[Precision::F32 as usize].is_some() && conv.kernel.0[Precision::Bf16 as usize].is_none());
    let dx = kernel::NORM_APPLY.0[Precision::Bf16 as usize].unwrap();
    assert_eq!((dx.parameters[0], dx.types[0]), ("y", "bf16*"));
}

#[test]
fn wrong_declarations_are_told() {
    let refused = |before: &str, after: &str| {
        let panic = std::panic::catch_unwind(|| with_edit("norm.cu", before, after)).err().unwrap();
        *panic.downcast::<String>().unwrap()
    };
    let said = refused("PRECISIONS(f32, bf16, f16)", "PRECISIONS(f32, fp8)");
    assert!(said.contains("norm.cu") && said.contains("fp8") && said.contains("bf16"), "{said}");
    let said = refused("KERNEL_ONCE(256, 0) norm_tables_f32(", "KERNEL(256, 0) norm_tables_f32(");
    assert!(said.contains("norm_tables_f32") && said.contains("KERNEL_ONCE"), "{said}");
    let said = refused("KERNEL(256, 4) PRECISE(norm_apply)(", "TILES(64)\nKERNEL(256, 4) TILED(norm_apply)(");
    assert!(said.contains("TILES(64)") && said.contains("128x64"), "{said}");
}

/// What a build with other features, another profile or another of cargo's commands has made is there for the next one.
#[test]
fn what_was_made_is_not_made_again() {
    let target = tempfile::tempdir().unwrap();
    fs::write(target.path().join("CACHEDIR.TAG"), "").unwrap();
    let made = AtomicUsize::new(0);
    let build = |out: &str, inputs: &str, answer: Result<&str, &str>, deny: bool| {
        let out = target.path().join(out);
        fs::create_dir_all(&out).unwrap();
        let store = Store::open(&out);
        let file = store.path("kernel", &inputs, "o");
        let make = |path: &Path| {
            made.fetch_add(1, Ordering::Relaxed);
            fs::write(path, inputs).unwrap();
            let warnings = answer.map_err(str::to_string)?.to_string();
            Ok(Made { warnings, ..Made::default() })
        };
        let jobs =
            [Job { file: file.clone(), beside: None, what: "a kernel".into(), seconds: 1.0, make: Box::new(make) }];
        (store.make(&jobs, deny).map(|()| fs::read_to_string(&file).unwrap()), made.load(Ordering::Relaxed))
    };
    assert_eq!(build("release/build/a/out", "text", Ok(""), true), (Ok("text".into()), 1));
    assert_eq!(
        build("x86_64-unknown-linux-gnu/debug/build/b/out", "text", Err("not asked"), true),
        (Ok("text".into()), 1)
    );
    assert_eq!(build("release/build/a/out", "changed", Ok("a warning"), false), (Ok("changed".into()), 2));
    // A warning is remembered for those who deny it.
    assert_eq!(build("debug/build/c/out", "changed", Ok(""), true), (Err("a warning".into()), 2));
    // A failure leaves nothing that looks whole.
    assert_eq!(
        build("release/build/a/out", "bad", Err("bad.cu: no such thing"), false).0,
        Err("bad.cu: no such thing".into())
    );
    assert_eq!(build("release/build/a/out", "bad", Ok(""), false), (Ok("bad".into()), 4));
    let kept = fs::read_dir(target.path().join("kernels")).unwrap();
    let unfinished = kept.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with("unfinished"));
    assert_eq!(unfinished.count(), 0);
}

/// The objects that this test program links are all in the folder that builds share.
#[test]
fn the_objects_of_this_build_are_in_the_shared_folder() {
    let out = Path::new(env!("OUT_DIR"));
    let file = Store::open(out).path("any", &0, "o");
    let folder = file.parent().unwrap();
    let archive = fs::read(out.join("libzgan_kernels.a")).unwrap();
    let members = object::read::archive::ArchiveFile::parse(&*archive).unwrap();
    let names: Vec<String> =
        members.members().map(|member| String::from_utf8_lossy(member.unwrap().name()).into_owned()).collect();
    assert!(names.len() >= 19, "{names:?}");
    for name in names {
        assert!(folder.join(&name).exists(), "{name} is not in {}", folder.display());
    }
}

#[test]
fn objects_do_not_depend_on_the_profile() {
    let arguments = |level: u32, debug: bool| {
        let mut build = cc::Build::new();
        build.opt_level(level).debug(debug).target("x86_64-unknown-linux-gnu").host("x86_64-unknown-linux-gnu");
        host::independent_of_the_profile(&mut build).get_compiler().args().to_vec()
    };
    let arguments = [arguments(3, false), arguments(1, true)];
    assert!(!arguments[0].is_empty() && arguments[0] == arguments[1], "{arguments:?}");
}

#[test]
fn nvrtc_is_looked_for_where_people_have_it() {
    let root = tempfile::tempdir().unwrap();
    let targets = if cfg!(target_arch = "aarch64") { "sbsa-linux" } else { "x86_64-linux" };
    // In the order in which they are to be tried.
    let first = [
        "named/libnvrtc.so.12",
        "named/libnvrtc.so.13",
        "home/lib64/libnvrtc.so.13",
        &format!("path/targets/{targets}/lib/libnvrtc.so.12"),
        "usr/local/cuda/lib64/libnvrtc.so",
        "usr/local/cuda-13.0/lib64/libnvrtc.so.13",
        "usr/local/cuda-12.10/lib64/libnvrtc.so.12",
        "usr/local/cuda-12.9/lib/libnvrtc.so.12",
        "opt/cuda/lib64/libnvrtc.so.13",
    ];
    let wheel = "site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12";
    let last = [
        "conda/lib/libnvrtc.so.12",
        &format!("venv/lib/python3.12/{wheel}"),
        "venv/lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13",
        &format!("conda/lib/python3.11/{wheel}"),
        &format!("user/.local/lib/python3.9/{wheel}"),
        "usr/local/lib/python3.11/dist-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        &format!("usr/lib/python3/{wheel}"),
    ];
    let at = |path: &&str| root.path().join(path);
    let (first, last): (Vec<PathBuf>, Vec<PathBuf>) = (first.iter().map(at).collect(), last.iter().map(at).collect());
    for path in first.iter().chain(&last) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let variable = |name: &str| {
        let folder = match name {
            "NVRTC_LIB_DIR" => "named",
            "CUDA_HOME" => "home",
            "CUDA_PATH" => "path",
            "VIRTUAL_ENV" => "venv",
            "CONDA_PREFIX" => "conda",
            "HOME" => "user",
            _ => return None,
        };
        Some(root.path().join(folder).into())
    };
    let loaders = ["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"].map(PathBuf::from);
    let expected: Vec<PathBuf> = first.into_iter().chain(loaders).chain(last).collect();
    assert_eq!(nvrtc::places(root.path(), &variable), expected);
    // Nothing of it is there, and no variable is set.
    assert_eq!(nvrtc::places(&root.path().join("empty"), &|_| None), expected[9..12]);
}

/// A library that does not work is passed over, and named; the one that works is called by its path, whatever else is open.
#[test]
fn the_first_nvrtc_that_works_is_the_one_that_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).join("libnvrtc.so.12");
    fs::create_dir(folder.path().join("text")).unwrap();
    fs::write(at("text"), "no library").unwrap();
    fakes::nvrtc(&at("old"), 12, "80", &["TOO_OLD"]);
    fakes::nvrtc(&at("alone"), 12, "80", &["BUILTINS=\"libnvrtc-builtins.so.12.0\""]);
    fakes::nvrtc(&at("other"), 12, "50,70", &[]);
    fakes::nvrtc(&at("twelve"), 12, "75,80,86,89,90", &[]);
    fakes::nvrtc(&at("thirteen"), 13, "75,80,86,89,90,100,120,130", &["BUILTINS=\"libnvrtc-builtins.so.13.0\""]);
    fakes::builtins(&at("thirteen").with_file_name("libnvrtc-builtins.so.13.0"));

    let names = ["text", "old", "alone", "other", "twelve", "twelve", "thirteen"];
    let find = |suits: &dyn Fn(&nvrtc::Compiler) -> Result<(), String>| {
        let candidates = names.map(at).into_iter().chain(["libnvrtc.so.of.nowhere".into()]);
        nvrtc::Compiler::first_of(candidates, Vec::new(), suits)
    };
    let twelve = find(&|_| Ok(())).unwrap();
    let reasons = ["cannot open", "no nvrtcGetCUBIN", "failed to open libnvrtc-builtins.so.12.0", "none of our GPUs"];
    assert_eq!(twelve.passed_over.len(), reasons.len());
    for ((said, name), reason) in twelve.passed_over.iter().zip(names).zip(reasons) {
        assert!(said.starts_with(&format!("{}: ", at(name).display())) && said.contains(reason), "{said}");
    }
    let suits = |c: &nvrtc::Compiler| if c.knows("sm_130") { Ok(()) } else { Err("it does not know sm_130".into()) };
    let thirteen = find(&suits).unwrap();
    assert_eq!(thirteen.passed_over.len(), 5);
    assert!(thirteen.passed_over[4].ends_with("twelve/libnvrtc.so.12: it does not know sm_130"));
    for (compiler, name, version) in [(&twelve, "twelve", (12, 0)), (&thirteen, "thirteen", (13, 0))] {
        assert_eq!((&compiler.path, compiler.version()), (&at(name), version));
        let code = compiler.compile("any", "", "sm_80").unwrap().code;
        assert_eq!(code, format!("{}\0", at(name).display()).into_bytes());
    }
    let error = find(&|_| Err("not this one".into())).err().unwrap();
    assert!(
        error.contains("text/libnvrtc.so.12: ") && error.contains("thirteen/libnvrtc.so.12: not this one"),
        "{error}"
    );
    let nowhere = nvrtc::Compiler::first_of([PathBuf::from("libnvrtc.so.of.nowhere")], Vec::new(), |_| Ok(()));
    assert!(nowhere.err().unwrap().contains("NVRTC was not found in NVRTC_LIB_DIR"));

    let (known, warning) = cuda::known(&twelve, nvrtc::TARGETS);
    assert_eq!(known, ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "compute_80"]);
    let warning = warning.unwrap();
    assert!(warning.contains("sm_100, sm_120") && warning.contains("NVRTC 12.0"), "{warning}");
    assert_eq!(cuda::known(&thirteen, nvrtc::TARGETS), (nvrtc::TARGETS.to_vec(), None));
}

#[test]
fn a_build_may_have_code_for_some_generations_alone() {
    assert_eq!(cuda::asked(None).unwrap(), nvrtc::TARGETS);
    assert_eq!(cuda::asked(Some("sm_90, compute_80")).unwrap(), ["sm_90", "compute_80"]);
    let error = cuda::asked(Some("sm_90,hopper")).unwrap_err();
    assert!(error.starts_with("ZGAN_CUDA_ARCH_LIST: \"hopper\" is none of sm_75, sm_80"), "{error}");
    assert!(cuda::asked(Some("")).is_err());
}

/// What `zgan kernels --source` prints: by itself, it is the kernel.
#[test]
fn the_text_of_one_kernel_compiles_for_gpus() {
    let Ok(compiler) = nvrtc::Compiler::find() else {
        println!("left out: the_text_of_one_kernel_compiles_for_gpus: there is no NVRTC here");
        return;
    };
    for name in ["log_partition_one_f32", "projection_forward_f32"] {
        let source = kernel_source(name).unwrap_or_else(|| panic!("no kernel is called {name}"));
        let [compiled, ptx] = ["sm_80", "compute_80"].map(|target| compiler.compile(name, &source, target).unwrap());
        assert!(ptx.code.is_empty() && compiled.ptx == ptx.ptx, "the build takes both from one run of the compiler");
        let found: Vec<&str> = compiled.log.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(found, [name]);
    }
}

/// `scripts/libtorch --cuda` with a PyTorch that is none: libraries that say whether there is a GPU, and a Python that tells
/// where they are.
#[test]
#[cfg(target_os = "linux")]
fn a_libtorch_with_cuda_is_taken_where_programs_see_a_gpu_through_it() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let header = at("torch/include/torch/csrc/api/include/torch/torch.h");
    fs::create_dir_all(header.parent().unwrap()).unwrap();
    fs::create_dir_all(at("torch/lib")).unwrap();
    fs::write(header, "").unwrap();
    let sees = "#include <cstdlib>\nnamespace torch { namespace cuda { bool is_available() { return std::getenv(\"SEES\"); } } }\n";
    for (name, text) in [("torch_cpu", sees), ("c10", ""), ("torch", "")] {
        fs::write(at("lib.cpp"), text).unwrap();
        let mut compiler = Command::new(std::env::var("CXX").unwrap_or("c++".into()));
        compiler.args(["-shared", "-fPIC", "-o"]).arg(at(&format!("torch/lib/lib{name}.so"))).arg(at("lib.cpp"));
        assert!(compiler.status().unwrap().success());
    }
    fs::write(at("python"), "#!/bin/sh\necho \"$FOUND $HERE/torch\"\n").unwrap();
    fs::set_permissions(at("python"), fs::Permissions::from_mode(0o755)).unwrap();
    let run = |version: &str, sees: bool| {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/libtorch"));
        command.arg("--cuda").env_remove("LIBTORCH").env_remove("SEES");
        command.env("ZGAN_PYTHON", at("python")).env("FOUND", version).env("HERE", folder.path());
        if sees {
            command.env("SEES", "1");
        }
        let output = command.output().unwrap();
        let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.success(), out, error)
    };
    let (taken, out, error) = run("2.13.0", true);
    assert!(taken, "{error}");
    assert_eq!(out, format!("export LIBTORCH={}\n", at("torch").display()));
    for (version, sees, why) in [("2.12.1", true, "is 2.12.1, expected 2.13.0"), ("2.13.0", false, "sees no GPU")] {
        let (taken, out, error) = run(version, sees);
        assert!(!taken && out.is_empty() && error.contains(why), "{out}{error}");
    }
}

#[test]
fn another_program_is_not_waited_for_without_end() {
    let (short, long) = (Duration::ZERO, Duration::from_secs(60));
    let lines = |script: &str, patience| lines_of(Command::new("sh").args(["-c", script]), patience);
    assert_eq!(lines("echo a; echo b c", long), ["a", "b c"]);
    assert_eq!(lines("echo a; exec sleep 1000", short), [""; 0]);
    assert_eq!(lines_of(&mut Command::new("/no/such/program"), long), [""; 0]);
}

#[test]
fn the_assemblers_words_are_told_from_warnings() {
    let log = Log::read(
        "k.cu(3): warning #177-D: variable \"x\" was declared but never referenced\n\
         ptxas info    : 12 bytes gmem\n\
         ptxas info    : Compiling entry function 'first' for 'sm_90'\n\
         ptxas info    : Function properties for first\n\
         ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
         ptxas info    : Used 18 registers, used 1 barriers, 32 bytes smem\n\
         ptxas info    : Compile time = 86.973 ms\n\
         ptxas info    : Compiling entry function 'second' for 'sm_90'\n\
         ptxas info    : Function properties for second\n\
         ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
         ptxas info    : Used 255 registers, used 0 barriers\n\
         ptxas info    : Function properties for called_by_it\n\
         ptxas         .     4 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n\
         ptxas warning : something",
    );
    assert!(log.warnings.starts_with("k.cu(3): warning") && log.warnings.ends_with("ptxas warning : something"));
    assert_eq!(log.warnings.lines().count(), 2);
    let kernel = |name: &str, [registers, stack, spill_stores, spill_loads]: [u32; 4]| Assembled {
        name: name.into(),
        registers,
        stack,
        spill_stores,
        spill_loads,
    };
    assert_eq!(log.kernels, [kernel("first", [18, 0, 0, 0]), kernel("second", [255, 20, 12, 16])]);
    for kernel in &log.kernels {
        assert_eq!(Assembled::parse(&kernel.to_string()).as_ref(), Some(kernel));
    }
    assert_eq!(Log::read(""), Log::default());
}
