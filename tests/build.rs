//! What `build.rs` does with kernel files: what they declare, what is compiled once, and what is said when it fails.
#![allow(dead_code)]

#[path = "../src/build/cuda.rs"]
mod cuda;
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
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use source::Module;
use store::{Job, Made, Store};
use zgan::device::{Precision, kernel};

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
    let tiles = "TILES(64x64, 128x64, 128x128)\nKERNEL(256, BLOCKS_OF_TILE(BM, BN)) TILED(linear_forward)";
    let edited = with_edit("matmul.cu", tiles, &tiles.replace("128x128", "128x128, 256x64, tf32 32x128"));
    let after = constants(&edited);
    let line =
        |rows: usize, columns: usize| format!("    Tile {{ rows: {rows}, columns: {columns}, kernel: Variants([");
    for (rows, columns, forms) in [
        (
            256,
            64,
            "Some(LINEAR_FORWARD_256X64_F32), Some(LINEAR_FORWARD_256X64_TF32), Some(LINEAR_FORWARD_256X64_BF16), ",
        ),
        (32, 128, "None, Some(LINEAR_FORWARD_32X128_TF32), None, None])"),
    ] {
        assert!(!before.contains(&(line(rows, columns) + forms)) && after.contains(&(line(rows, columns) + forms)));
    }
    // In the list of its product alone, the largest first.
    let list = after.split("pub const LINEAR_FORWARD: &[Tile] = &[").nth(1).unwrap().split("];").next().unwrap();
    let sizes: Vec<&str> =
        list.lines().filter_map(|l| Some(l.split_once("rows: ")?.1.split_once(", kernel")?.0)).collect();
    assert_eq!(
        sizes,
        ["256, columns: 64", "128, columns: 128", "128, columns: 64", "64, columns: 64", "32, columns: 128"]
    );
    // The text of the kernel is there for it, with its own size.
    let f32_module = edited.iter().find(|module| module.name == "matmul").unwrap();
    assert!(f32_module.text.contains("#define BM 256\n#define BN 64\n"));
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
    let said = refused("KERNEL(256, 0) PRECISE(norm_apply)(", "TILES(64)\nKERNEL(256, 0) TILED(norm_apply)(");
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
        let jobs = [Job { file: file.clone(), what: "a kernel".into(), seconds: 1.0, make: Box::new(make) }];
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
