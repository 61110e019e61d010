//! Kernel files that a test compiles for `simt` itself, as build.rs does, and loads.
#![allow(dead_code)]

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What build.rs gave to the compiler for a module: the flattened file, and its table of entry points.
pub fn text(module: &str) -> String {
    std::fs::read_to_string(Path::new(env!("OUT_DIR")).join(format!("{module}_simt.cpp"))).unwrap()
}

/// The compiler with build.rs's own arguments.
fn compiler() -> Command {
    let words = std::fs::read_to_string(Path::new(env!("OUT_DIR")).join("simt.command")).unwrap();
    let mut words = words.lines();
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

/// Compiles to `folder/name.o`, without debug information unless asked: so equal code makes equal files. The compiler's words
/// where it refuses.
pub fn compile(folder: &Path, name: &str, text: &str, debug: bool) -> Result<PathBuf, String> {
    let object = folder.join(format!("{name}.o"));
    // The file's name is in the object.
    let own = folder.join(name);
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("kernels.cpp"), text).unwrap();
    let mut command = compiler();
    command.args(["-w", if debug { "-g1" } else { "-g0" }, "kernels.cpp", "-o"]).arg(&object).current_dir(&own);
    let output = command.output().unwrap();
    if output.status.success() { Ok(object) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// `(file, line)` of the lines that the preprocessor leaves something of.
pub fn active_lines(folder: &Path, text: &str) -> std::collections::HashSet<(String, usize)> {
    let source = folder.join("preprocess.cpp");
    std::fs::write(&source, text).unwrap();
    let output = compiler().arg("-w").arg(&source).args(["-E", "-o", "-"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut file, mut line) = (String::new(), 0);
    let mut active = std::collections::HashSet::new();
    for text in String::from_utf8_lossy(&output.stdout).lines() {
        // # 12 "kernels/adam.cu" 2
        if let Some((number, name)) = text.strip_prefix("# ").and_then(|mark| mark.split_once(' ')) {
            line = number.parse().unwrap();
            file = name.split('"').nth(1).unwrap_or("").to_string();
            continue;
        }
        if !text.trim().is_empty() {
            active.insert((file.clone(), line));
        }
        line += 1;
    }
    active
}

pub fn link(object: &Path) -> PathBuf {
    let library = object.with_extension("so");
    let status =
        Command::new(compiler().get_program()).arg("-shared").arg(object).arg("-o").arg(&library).status().unwrap();
    assert!(status.success(), "linking {}", object.display());
    library
}

/// The module's table in a library, which stays loaded.
pub fn load(library: &Path, module: &str) -> *const c_void {
    // SAFETY: compiled from kernels, without anything that runs at loading but an empty `__tsan_init`.
    let library = Box::leak(Box::new(unsafe { libloading::Library::new(library) }.unwrap()));
    let name = format!("zgan_simt_{module}");
    // SAFETY: build.rs declares the table under this name; only its address is taken.
    unsafe { library.get::<*const c_void>(name.as_bytes()).unwrap().try_as_raw_ptr().unwrap() }
}

/// Makes every kernel of a module's table the one called `probe`.
pub fn all_are_the_probe(text: &str) -> String {
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("ENTRY(")?.strip_suffix("),"));
    names.map(|name| format!("#define {name} probe\n")).collect()
}

/// The table of the module `state` with the kernel `probe` of this text in the place of each of its own. Its lines are those
/// of `kernels/probe.cu`.
pub fn probe(kernels: &str) -> *const c_void {
    let text = text("state");
    let (head, rest) = text.split_once("\nKERNEL(").unwrap();
    let (_, tail) = rest.split_once("#line 1 \"kernels/host/entry.h\"").unwrap();
    let text = format!(
        "{head}\n#line 1 \"kernels/probe.cu\"\n{}\n{}#line 1 \"kernels/host/entry.h\"{tail}",
        kernels.trim_start(),
        all_are_the_probe(tail)
    );
    let folder = tempfile::tempdir().unwrap();
    let object = compile(folder.path(), "probe", &text, true).unwrap();
    // The folder stays: the library's lines are read from its file.
    let table = load(&link(&object), "state");
    std::mem::forget(folder);
    table
}
