//! Kernels for a CPU: each module by the C++ compiler, once per instruction set (`host`), and, with the feature `check`, as
//! instrumented coroutines (`simt`) and in every precision.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::source::Module;
use super::store::{Job, Made, Store};

/// One way to compile a module.
pub struct Variant {
    pub name: &'static str,
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
pub const SIMT: Variant = Variant {
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
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
];

/// The instruction sets of the architecture that is built for, from the least to the most capable.
pub fn instruction_sets() -> &'static [Variant] {
    match std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => X86_64,
        Ok("aarch64") => AARCH64,
        _ => OTHER,
    }
}

/// Whether a CPU runs a module in this build.
pub fn is_built(module: &Module, check: bool) -> bool {
    check || module.precision == "f32"
}

/// The symbol of a module's table of entry points, which `src/device/kernels.rs` links to.
pub fn symbol(module: &Module, variant: &Variant) -> String {
    format!("zgan_{}_{}", variant.name, module.name)
}

/// Compiles what is missing and links all of it into the library. For tests that compile kernels of their own, the compiler
/// with its flags for `simt`, and what it was given, are left in `out`.
pub fn compile(modules: &[Module], check: bool, store: &Store, deny_warnings: bool, out: &Path) -> Result<(), String> {
    let mut build = cc::Build::new();
    independent_of_the_profile(&mut build);
    let compiler = build.get_compiler();
    let version = Command::new(compiler.path()).arg("--version").output().map(|output| output.stdout);
    let version = version.unwrap_or_else(|e| panic!("{}: {e}; a C++17 compiler is needed", compiler.path().display()));
    // Where the crate is built for the thread sanitizer (scripts/races), so are the kernels.
    let sanitized = std::env::var("CARGO_CFG_SANITIZE").is_ok_and(|with| with.split(',').any(|one| one == "thread"));
    let mut simt_flags = Vec::new();
    if check {
        // Local variables that nobody has set hold garbage, and the same on every run.
        let garbage = "-ftrivial-auto-var-init=pattern";
        simt_flags.extend(build.is_flag_supported(garbage).unwrap_or(false).then_some(garbage));
        // Reports name lines, not variables: a third of the debug information.
        simt_flags.extend((!compiler.is_like_clang()).then_some("-fno-var-tracking"));
    }
    let command = |variant: Option<&Variant>| {
        let mut command = Command::new(compiler.path());
        command.args(compiler.args()).args(FLAGS);
        if let Some(variant) = variant {
            command.args(variant.flags);
            if sanitized {
                command.arg("-fsanitize=thread");
            }
            if variant.name == SIMT.name {
                command.args(&simt_flags);
            }
        }
        command.args(["-x", "c++", "-c"]);
        command
    };

    let tail = fs::read_to_string("kernels/host/entry.h").expect("kernels/host/entry.h");
    let variants = || instruction_sets().iter().chain(check.then_some(&SIMT));
    let mut jobs = Vec::new();
    let mut add = |stem: String, what: String, seconds: f64, text: String, command: Command| {
        let file = store.path(&stem, &(&text, format!("{command:?}"), &version), "o");
        let make = move |object: &Path| run(&command, &text, object);
        jobs.push(Job { file, beside: None, what, seconds, make: Box::new(make) });
    };
    for module in modules.iter().filter(|module| is_built(module, check)) {
        for variant in variants() {
            let text = translation_unit(module, variant, &tail);
            if variant.name == SIMT.name {
                fs::write(out.join(format!("{}_simt.cpp", module.name)), &text).expect("write the text for simt");
            }
            let seconds = match (module.precision, variant.name) {
                (_, "simt") => 3.0,
                ("f32", _) => 1.5,
                _ => 4.0,
            };
            let (stem, what) =
                (format!("{}_{}", module.name, variant.name), format!("{} for {}", module.name, variant.name));
            add(stem, what, seconds, text, command(Some(variant)));
        }
    }
    // The scheduler in Rust refers to it in every build.
    let text = fs::read_to_string("kernels/host/simt.cpp").expect("kernels/host/simt.cpp");
    let mut callbacks = command(None);
    if sanitized {
        callbacks.arg("-DZGAN_SANITIZED");
    }
    add("callbacks_simt".into(), "callbacks for simt".into(), 1.0, text, callbacks);
    if check {
        let simt = command(Some(&SIMT));
        let words: Vec<_> = [simt.get_program()].into_iter().chain(simt.get_args()).collect();
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        fs::write(out.join("simt.command"), words.join("\n")).expect("write simt.command");
    }
    store.make(&jobs, deny_warnings)?;
    let mut archive = cc::Build::new();
    jobs.iter().for_each(|job| _ = archive.object(&job.file));
    archive.compile("zgan_kernels");
    Ok(())
}

/// All profiles share the objects.
pub fn independent_of_the_profile(build: &mut cc::Build) -> &mut cc::Build {
    build.cpp(true).warnings(false).inherit_rustflags(false).opt_level(3).debug(false).force_frame_pointer(false)
}

/// The module inside a namespace without a name, so that nothing in it can be merged with another instruction set's copy, and
/// its table of entry points behind it.
fn translation_unit(module: &Module, variant: &Variant, tail: &str) -> String {
    let table = symbol(module, variant);
    let mut text = format!("namespace {{\n{}\n#line 1 \"kernels/host/entry.h\"\n{tail}}}\n", module.text);
    let _ = writeln!(text, "extern \"C\" {{ extern const Entry {table}[]; }}\nconst Entry {table}[] = {{");
    for kernel in &module.kernels {
        let _ = writeln!(text, "    ENTRY({}),", kernel.name);
    }
    text.push_str("};\n");
    text
}

fn run(command: &Command, text: &str, object: &Path) -> Result<Made, String> {
    let source: PathBuf = object.with_extension("cpp");
    let fail = |e: std::io::Error| format!("{}: {e}", source.display());
    fs::write(&source, text).map_err(fail)?;
    let mut compile = Command::new(command.get_program());
    compile.args(command.get_args()).arg(&source).arg("-o").arg(object);
    let output = compile.output().map_err(fail)?;
    fs::remove_file(&source).map_err(fail)?;
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(Made { warnings, ..Made::default() }) } else { Err(warnings) }
}
