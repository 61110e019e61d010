//! Compiles every `kernels/*.cu`, unchanged, for each execution: with the C++ compiler once per instruction set
//! (`host`) and once as coroutines (`simt`), and with NVRTC, where it is found, to cubins and one PTX (`cuda`).
//!
//! Each file is flattened first: our own `#include`s expanded once, with `#line` marks. That text is what every
//! compiler gets, what the binary embeds for compilation at run time, and what decides whether an object is rebuilt.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::ZlibEncoder;

#[path = "src/device/nvrtc.rs"]
#[allow(dead_code)]
mod nvrtc;

/// One way to compile a kernel file with the C++ compiler.
struct Variant {
    name: &'static str,
    flags: &'static [&'static str],
}

const X86_64: &[Variant] = &[
    Variant { name: "base", flags: &["-DZGAN_HOST"] },
    Variant { name: "avx2", flags: &["-DZGAN_HOST", "-mavx2", "-mfma", "-mbmi2", "-mf16c"] },
    Variant {
        name: "avx512",
        flags: &[
            "-DZGAN_HOST",
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mfma",
            "-mbmi2",
            "-mf16c",
            "-mprefer-vector-width=512",
        ],
    },
];
const AARCH64: &[Variant] = &[Variant { name: "neon", flags: &["-DZGAN_HOST"] }];
const OTHER: &[Variant] = &[Variant { name: "base", flags: &["-DZGAN_HOST"] }];
/// Instrumented for the checkers, and with the names of inlined callers in its debug information, for their reports.
const SIMT: Variant = Variant {
    name: "simt",
    flags: &[
        "-DZGAN_SIMT",
        "-O1",
        "-fno-builtin",
        "-fno-inline-functions",
        "-fsanitize=thread",
        "-fsanitize=bounds",
        "-g",
    ],
};

/// No reassociation: a compensated sum must stay one. No traps or errno: they would keep loops scalar.
const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O3",
    "-g1",
    "-fPIC",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fno-stack-protector",
    "-fomit-frame-pointer",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
];

/// What activations are stored as, and products computed in. A kernel file that names some in a line
/// `// Precisions: f32, bf16` becomes a module for each; the others are f32 alone.
const PRECISIONS: [&str; 4] = ["f32", "tf32", "bf16", "f16"];

/// A module: a kernel file, flattened, for one precision, and its kernels.
struct Source {
    module: String,
    precision: &'static str,
    text: String,
    kernels: Vec<KernelLine>,
}

struct KernelLine {
    name: String,
    /// Without the precision; none where the kernel has but one.
    family: Option<String>,
    /// Of each parameter, without `const` and the like: `float*`, `uint32_t`.
    types: Vec<String>,
}

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/device/nvrtc.rs");
    for variable in ["NVRTC_LIB_DIR", "CUDA_HOME", "CUDA_PATH", "LD_LIBRARY_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }

    let sources = read_sources(Path::new("kernels"));
    let variants = match std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => X86_64,
        Ok("aarch64") => AARCH64,
        _ => OTHER,
    };
    // Clippy has a build of its own and links nothing.
    let linted = std::env::var("RUSTC_WORKSPACE_WRAPPER").is_ok_and(|wrapper| wrapper.contains("clippy"));
    if !linted {
        compile_cpp(&sources, variants, &out);
    }
    if std::env::var_os("CARGO_FEATURE_LIBTORCH").is_some() {
        compile_libtorch_peer(!linted);
    }
    let (version, images) = compile_cuda(&sources, &out);
    fs::write(out.join("kernels.rs"), table(&sources, variants, version, &images, &out)).expect("write kernels.rs");
    // Kernels that a test loads call what this crate defines.
    println!("cargo:rustc-link-arg-tests=-rdynamic");
    // The driver that stands in for libcuda has kernels of its own, which are to call its own, not those of the test that
    // loads it. Cargo has no such flag for the library of an example; to programs it does nothing.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-arg=-Wl,-Bsymbolic");
    }
}

fn read_sources(folder: &Path) -> Vec<Source> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder kernels/")
        .map(|entry| entry.expect("an entry of kernels/").path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    paths.sort();
    let root = std::env::current_dir().expect("the current folder");
    let mut sources = Vec::new();
    for path in paths {
        let mut text = String::new();
        flatten(&root, &path, &mut text);
        let file = path.file_stem().expect("a file name").to_string_lossy().into_owned();
        let named = text.lines().find_map(|line| line.strip_prefix("// Precisions: ")).unwrap_or("f32");
        let named: Vec<&str> = named.split(", ").collect();
        assert!(named.iter().all(|name| PRECISIONS.contains(name)), "{file}.cu: precisions {named:?}");
        for precision in PRECISIONS.into_iter().filter(|precision| named.contains(precision)) {
            let module = if precision == "f32" { file.clone() } else { format!("{file}_{precision}") };
            let mut kernels = kernel_lines(&text, precision);
            kernels.retain(|kernel| precision == "f32" || kernel.family.is_some());
            sources.push(Source { kernels, module, precision, text: in_precision(&text, precision) });
        }
    }
    sources
}

/// The text with its `_T` kernels named after this precision; others are no kernels but in f32.
fn in_precision(text: &str, precision: &str) -> String {
    let mut all = String::new();
    for name in PRECISIONS {
        let _ = writeln!(all, "#define PRECISION_{} {}", name.to_uppercase(), u8::from(name == precision));
    }
    for line in text.lines() {
        match line.strip_prefix("KERNEL ").and_then(|rest| rest.split_once('(')) {
            Some((name, rest)) => {
                let kernel = name.strip_suffix("_T").map(|family| format!("KERNEL {family}_{precision}"));
                let word = if precision == "f32" { "KERNEL" } else { "DEVICE void" };
                let _ = writeln!(all, "{}({rest}", kernel.unwrap_or_else(|| format!("{word} {name}")));
            }
            None => {
                all.push_str(line);
                all.push('\n');
            }
        }
    }
    all
}

/// Expands `#include "..."` relative to the including file. `#pragma once` becomes an include guard: which copy of a
/// header is compiled depends on the execution.
fn flatten(root: &Path, path: &Path, text: &mut String) {
    let full = root.join(path).canonicalize().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let shown = full.strip_prefix(root).unwrap_or(&full).display().to_string();
    let file = fs::read_to_string(&full).unwrap_or_else(|e| panic!("{shown}: {e}"));
    let once = file.lines().any(|line| line == "#pragma once");
    if once {
        let guard: String = shown.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let _ = writeln!(text, "#ifndef INCLUDED_{guard}\n#define INCLUDED_{guard}");
    }
    let _ = writeln!(text, "#line 1 \"{shown}\"");
    let mut lines = file.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(tiles) = line.strip_prefix("// Tiles: ") {
            let kernel: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "}").collect();
            for tile in tiles.split(", ") {
                let _ = writeln!(text, "#line {} \"{shown}\"\n{}\n}}", number + 2, for_tile(&kernel.join("\n"), tile));
            }
        } else if let Some(name) = line.strip_prefix("#include \"").and_then(|l| l.strip_suffix('"')) {
            flatten(root, &full.with_file_name(name), text);
            let _ = writeln!(text, "#line {} \"{shown}\"", number + 2);
        } else {
            text.push_str(if line == "#pragma once" { "" } else { line });
            text.push('\n');
            // What was left out before it may hold another file, and the mark after that file.
            if ["#el", "#endif"].iter().any(|word| line.starts_with(word)) {
                let _ = writeln!(text, "#line {} \"{shown}\"", number + 2);
            }
        }
    }
    if once {
        text.push_str("#endif\n");
    }
}

/// A product's kernel, written once for tiles of `BM` rows and `BN` columns, for one of them: `128x64`, or `f32 256x16` where only
/// that precision has it.
fn for_tile(kernel: &str, tile: &str) -> String {
    let (precision, size) = tile.split_once(' ').unwrap_or(("T", tile));
    let (rows, columns) = size.split_once('x').unwrap_or_else(|| panic!("// Tiles: {tile:?} is no size like 128x64"));
    assert_eq!(
        kernel.matches("BMxBN_T(").count(),
        1,
        "// Tiles: is for one kernel whose name ends in BMxBN_T:\n{kernel}"
    );
    kernel.replace("BMxBN_T", &format!("BMxBN_{precision}")).replace("BM", rows).replace("BN", columns)
}

/// The kernels that a file defines: every `KERNEL name(...)`, in order.
fn kernel_lines(file: &str, precision: &str) -> Vec<KernelLine> {
    let stored = if matches!(precision, "f32" | "tf32") { "float" } else { precision };
    let mut kernels = Vec::new();
    for (at, _) in file.match_indices("\nKERNEL ") {
        let rest = &file[at + "\nKERNEL ".len()..];
        let open = rest.find('(').expect("KERNEL name(");
        let close = rest.find(") {").expect("KERNEL name(...) {");
        // Comments between parameters may hold commas.
        let list: String = rest[open + 1..close].lines().map(|l| l.split("//").next().unwrap_or("")).collect();
        let types = list.split(',').map(|parameter| {
            let words = parameter.replace('*', "* ");
            let kind = words.split_whitespace().find(|word| *word != "const").unwrap_or_default();
            if kind == "T*" { format!("{stored}*") } else { kind.to_string() }
        });
        let types = types.collect();
        let name = rest[..open].trim();
        let family = name.strip_suffix("_T");
        kernels.push(KernelLine {
            name: family.map_or(name.to_string(), |family| format!("{family}_{precision}")),
            family: family.map(str::to_string),
            types,
        });
    }
    kernels
}

fn compile_cpp(sources: &[Source], variants: &[Variant], out: &Path) {
    let mut build = cc::Build::new();
    build.cpp(true).warnings(false).inherit_rustflags(false);
    let compiler = build.get_compiler();
    let mut simt_flags = Vec::new();
    // Local variables that nobody has set hold garbage, and the same on every run.
    let garbage = "-ftrivial-auto-var-init=pattern";
    simt_flags.extend(build.is_flag_supported(garbage).unwrap_or(false).then_some(garbage));
    // Reports name lines, not variables: a third of the debug information.
    simt_flags.extend((!compiler.is_like_clang()).then_some("-fno-var-tracking"));
    let tail = fs::read_to_string("kernels/host/entry.h").expect("kernels/host/entry.h");

    let mut jobs = Vec::new();
    for source in sources {
        for variant in variants.iter().chain([&SIMT]) {
            let mut text = format!("namespace {{\n{}\n#line 1 \"kernels/host/entry.h\"\n{tail}}}\n", source.text);
            let _ = writeln!(text, "extern \"C\" {{ extern const Entry zgan_{}_{}[]; }}", variant.name, source.module);
            let _ = writeln!(text, "const Entry zgan_{}_{}[] = {{", variant.name, source.module);
            for kernel in &source.kernels {
                let _ = writeln!(text, "    ENTRY({}),", kernel.name);
            }
            text.push_str("};\n");
            let stem = out.join(format!("{}_{}", source.module, variant.name));
            let mut command = Command::new(compiler.path());
            command.args(compiler.args()).args(FLAGS).args(variant.flags).arg("-x").arg("c++").arg("-c");
            if variant.name == SIMT.name {
                command.args(&simt_flags);
                // For tests that compile kernels of their own.
                let words: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
                let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
                fs::write(out.join("simt.command"), words.join("\n")).expect("write simt.command");
            }
            jobs.push((stem, text, command));
        }
    }
    let text = fs::read_to_string("kernels/host/simt.cpp").expect("kernels/host/simt.cpp");
    let mut command = Command::new(compiler.path());
    command.args(compiler.args()).args(FLAGS).arg("-x").arg("c++").arg("-c");
    jobs.push((out.join("callbacks_simt"), text, command));
    let objects: Vec<PathBuf> = jobs.iter().map(|(stem, ..)| stem.with_extension("o")).collect();
    in_parallel(jobs.len(), |i| {
        let (stem, text, command) = &jobs[i];
        let object = stem.with_extension("o");
        unless_unchanged(&object, &(text, format!("{command:?}")), || {
            let source = stem.with_extension("cpp");
            fs::write(&source, text).map_err(|e| e.to_string())?;
            let mut run = Command::new(command.get_program());
            run.args(command.get_args()).arg(&source).arg("-o").arg(&object);
            let output =
                run.output().map_err(|e| format!("{}: {e}; a C++17 compiler is needed", compiler.path().display()))?;
            if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
        })
    });
    let mut archive = cc::Build::new();
    for object in &objects {
        archive.object(object);
    }
    archive.compile("zgan_kernels");
}

/// What the comparison with libtorch needs beyond the crate tch, and where programs find that libtorch.
fn compile_libtorch_peer(compile: bool) {
    const FILE: &str = "src/instruments/bench/libtorch/native.cpp";
    println!("cargo:rerun-if-changed={FILE}");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = std::env::var_os("LIBTORCH").map(PathBuf::from) else {
        eprintln!("the feature libtorch needs LIBTORCH, the folder of a libtorch 2.13: eval \"$(scripts/libtorch)\"");
        std::process::exit(1);
    };
    if compile {
        let include = libtorch.join("include");
        let mut build = cc::Build::new();
        build.cpp(true).std("c++20").warnings(false).debug(false).file(FILE);
        build.include(&include).include(include.join("torch/csrc/api/include")).compile("zgan_libtorch");
    }
    let lib = libtorch.join("lib").display().to_string();
    println!("cargo:rustc-link-search=native={lib}");
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    // Found without LD_LIBRARY_PATH, its own dependencies too; and linked though nothing names a symbol of it, for its
    // CUDA half registers itself when it is loaded.
    for argument in [&format!("-Wl,-rpath,{lib}"), "-Wl,--disable-new-dtags", "-Wl,--no-as-needed", "-ltorch"] {
        println!("cargo:rustc-link-arg={argument}");
    }
}

type Images = Vec<(String, Vec<PathBuf>)>;

/// NVRTC's version, and `(architecture, one file per source)`; nothing where NVRTC was not found.
fn compile_cuda(sources: &[Source], out: &Path) -> (Option<(i32, i32)>, Images) {
    let compiler = match nvrtc::Compiler::find() {
        Ok(compiler) => compiler,
        Err(reason) => {
            println!(
                "cargo:warning=no GPU code embedded ({reason}); on a machine with a GPU the binary compiles its kernels when it starts"
            );
            return (None, Vec::new());
        }
    };
    let targets = nvrtc::TARGETS;
    // Code for sm_80 runs on its successors too. What takes longest to compile, tensor cores' products, have that alone.
    let shared = |target: &str, source: &Source| source.precision != "f32" && matches!(target, "sm_86" | "sm_89");
    let file = |target: &str, source: &Source| {
        let target = if shared(target, source) { "sm_80" } else { target };
        out.join(format!("{}_{target}.image", source.module))
    };
    in_parallel(sources.len() * targets.len(), |i| {
        let (source, target) = (&sources[i / targets.len()], targets[i % targets.len()]);
        if shared(target, source) {
            return Ok(());
        }
        let image = file(target, source);
        unless_unchanged(&image, &("zlib", &source.text, target, compiler.version(), nvrtc::FLAGS), || {
            let (code, log) = compiler.compile(&source.module, &source.text, target)?;
            if !log.warnings.is_empty() {
                return Err(format!("{}.cu for {target}: warnings are errors here\n{}", source.module, log.warnings));
            }
            let assembled: String = log.kernels.iter().map(|kernel| format!("{kernel}\n")).collect();
            fs::write(image.with_extension("assembled"), assembled).map_err(|e| e.to_string())?;
            // Two thirds of machine code with line numbers is text.
            let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
            packed.write_all(&code).and_then(|()| fs::write(&image, packed.finish()?)).map_err(|e| e.to_string())
        })
    });
    let images = targets.iter().map(|t| (t.to_string(), sources.iter().map(|s| file(t, s)).collect())).collect();
    (Some(compiler.version()), images)
}

/// Runs `job` for 0 .. n on all cores; the build ends with every message of those that failed.
fn in_parallel(n: usize, job: impl Fn(usize) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        break;
                    }
                    if let Err(message) = job(i) {
                        failures.lock().expect("no job panics while it holds the lock").push(message);
                    }
                }
            });
        }
    });
    let mut failures: Vec<String> = failures.into_inner().expect("all jobs have ended");
    if !failures.is_empty() {
        // One mistake fails in every instruction set.
        failures.sort();
        failures.dedup();
        eprintln!("{}", failures.join("\n"));
        std::process::exit(1);
    }
}

/// Makes `file` again only where what it is made from has changed since it was made.
fn unless_unchanged(file: &Path, inputs: &impl Hash, make: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    let stamp = format!("{:016x}", hasher.finish());
    let stamp_file = file.with_extension("stamp");
    if file.exists() && fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    let _ = fs::remove_file(&stamp_file);
    make()?;
    fs::write(&stamp_file, stamp).map_err(|e| e.to_string())
}

/// The Rust side: a constant per kernel, the entry tables, the sources and images.
fn table(
    sources: &[Source],
    variants: &[Variant],
    nvrtc: Option<(i32, i32)>,
    images: &[(String, Vec<PathBuf>)],
    out: &Path,
) -> String {
    let mut text = String::from("// Written by build.rs from kernels/*.cu.\n");
    for (m, source) in sources.iter().enumerate() {
        let path = out.join(format!("{}.flat.cu", source.module));
        fs::write(&path, &source.text).expect("write a flattened source");
        for (k, kernel) in source.kernels.iter().enumerate() {
            let _ = writeln!(
                text,
                "pub const {}: Kernel = Kernel {{ module: {m}, index: {k}, name: {:?}, types: &{:?} }};",
                kernel.name.to_uppercase(),
                kernel.name,
                kernel.types
            );
        }
    }
    let families: BTreeSet<&String> =
        sources.iter().flat_map(|s| &s.kernels).filter_map(|k| k.family.as_ref()).collect();
    for family in families {
        let there = |precision: &str| {
            let name = format!("{family}_{precision}");
            let found = sources.iter().flat_map(|s| &s.kernels).any(|kernel| kernel.name == name);
            if found { format!("Some({})", name.to_uppercase()) } else { "None".to_string() }
        };
        let _ = writeln!(
            text,
            "pub const {}: Variants = Variants([{}]);",
            family.to_uppercase(),
            PRECISIONS.map(there).join(", ")
        );
    }
    text.push_str("pub static MODULES: &[Module] = &[\n");
    for source in sources {
        let names: Vec<String> = source.kernels.iter().map(|k| k.name.to_uppercase()).collect();
        let path = out.join(format!("{}.flat.cu", source.module));
        let _ = writeln!(
            text,
            "    Module {{ name: {:?}, source: include_str!({path:?}), kernels: &[{}] }},",
            source.module,
            names.join(", ")
        );
    }
    text.push_str("];\n");
    for variant in variants.iter().chain([&SIMT]) {
        text.push_str("unsafe extern \"C\" {\n");
        for source in sources {
            let _ = writeln!(
                text,
                "    #[link_name = \"zgan_{0}_{1}\"] static {2}_{3}: [HostEntry; {4}];",
                variant.name,
                source.module,
                variant.name.to_uppercase(),
                source.module.to_uppercase(),
                source.kernels.len()
            );
        }
        text.push_str("}\n");
        let _ = writeln!(
            text,
            "pub(in crate::device) static {}: EntryTable = EntryTable {{ isa: {:?}, modules: &[",
            variant.name.to_uppercase(),
            variant.name
        );
        for source in sources {
            let _ = writeln!(
                text,
                "    // SAFETY: build.rs made this array of this length from the same list.\n    unsafe {{ &{}_{} }},",
                variant.name.to_uppercase(),
                source.module.to_uppercase()
            );
        }
        text.push_str("] };\n");
    }
    let names: Vec<String> = variants.iter().map(|v| format!("&{}", v.name.to_uppercase())).collect();
    let _ = writeln!(
        text,
        "/// From the least to the most capable instruction set.\npub(in crate::device) static HOST: &[&EntryTable] = &[{}];",
        names.join(", ")
    );
    let _ = writeln!(text, "pub(in crate::device) const NVRTC: Option<(i32, i32)> = {nvrtc:?};");
    text.push_str(
        "/// Code for GPUs: (target, one image per module).\npub(in crate::device) static IMAGES: &[(&str, &[Image])] = &[\n",
    );
    for (target, files) in images {
        let _ = writeln!(text, "    ({target:?}, &[");
        for file in files {
            let assembled = file.with_extension("assembled");
            let _ = writeln!(
                text,
                "        Image {{ packed: include_bytes!({file:?}), assembled: include_str!({assembled:?}) }},"
            );
        }
        text.push_str("    ]),\n");
    }
    text.push_str("];\n");
    text
}
