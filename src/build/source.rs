//! Reads kernel files: expands their own `#include`s, repeats products for their tiles, and lists the kernels of each module.
//!
//! What a kernel file declares (`PRECISIONS`, `TILES`, `KERNEL`, `PRECISE`, `TILED`) is explained in
//! `kernels/device/execution.h`. A line `EXECUTIONS(host, simt)` says that no GPU has use of the file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What activations are stored as, and products computed in.
pub const PRECISIONS: [&str; 4] = ["f32", "tf32", "bf16", "f16"];

/// A kernel file, flattened, for one precision: what every compiler gets, what the binary embeds for compilation at run
/// time, and what decides whether compiled code is out of date.
pub struct Module {
    /// `conv`, `conv_bf16`
    pub name: String,
    /// The kernel file's, without its ending.
    pub file: String,
    pub precision: &'static str,
    /// Whether it is compiled for GPUs.
    pub gpu: bool,
    pub text: String,
    pub kernels: Vec<Kernel>,
}

#[derive(Clone)]
pub struct Kernel {
    /// `conv_forward_128x64_bf16`
    pub name: String,
    /// What its forms for other tiles and precisions have in common: `conv_forward`.
    pub family: String,
    /// As the text has it: `TILED(conv_forward)`.
    pub written: String,
    /// Rows and columns.
    pub tile: Option<(usize, usize)>,
    /// Threads of a block.
    pub threads: u32,
    /// Whether each precision of the file has one.
    pub precise: bool,
    /// Name, and type without `const` and the like: `("dx", "float*")`.
    pub parameters: Vec<(String, String)>,
}

/// All modules of the kernel files in `root/folder`, file by file and precision by precision; last come those that GPUs do not
/// have.
pub fn read_all(root: &Path, folder: &Path) -> Vec<Module> {
    let folder = root.join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of the folder").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "cu"));
    paths.sort();
    // Of a folder that is reached through a link, too, names are relative.
    let root = root.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let mut modules: Vec<Module> = paths.iter().flat_map(|path| read(&root, path)).collect();
    modules.sort_by_key(|module| !module.gpu);
    modules
}

/// The modules of one kernel file. Names of files in the text are relative to `root`.
fn read(root: &Path, path: &Path) -> Vec<Module> {
    let mut text = String::new();
    flatten(root, path, &mut text);
    let file = path.file_stem().expect("a file name").to_string_lossy().into_owned();
    let precisions = precisions(&file, &text);
    let gpu = !text.lines().any(|line| line == "EXECUTIONS(host, simt)");
    let module = |precision: &'static str| {
        let (text, kernels) = in_precision(&file, &text, precision, precisions.len() > 1);
        let name = if precision == "f32" { file.clone() } else { format!("{file}_{precision}") };
        Module { name, file: file.clone(), precision, gpu, text, kernels }
    };
    precisions.iter().map(|precision| module(precision)).collect()
}

fn precisions(file: &str, text: &str) -> Vec<&'static str> {
    let Some(list) = text.lines().find_map(|line| line.strip_prefix("PRECISIONS(")?.strip_suffix(')')) else {
        return vec!["f32"];
    };
    let named: BTreeSet<&str> = list.split(',').map(str::trim).collect();
    let unknown: Vec<_> = named.iter().filter(|name| !PRECISIONS.contains(name)).collect();
    assert!(unknown.is_empty(), "{file}.cu: PRECISIONS({list}): {unknown:?}, expected some of {PRECISIONS:?}");
    PRECISIONS.into_iter().filter(|precision| named.contains(precision)).collect()
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
    for (number, line) in file.lines().enumerate() {
        if let Some(name) = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) {
            flatten(root, &full.with_file_name(name), text);
            let _ = writeln!(text, "#line {} \"{shown}\"", number + 2);
            continue;
        }
        text.push_str(if line == "#pragma once" { "" } else { line });
        text.push('\n');
        // What the preprocessor leaves out before this line may hold another file, and the mark after that file.
        if ["#el", "#endif"].iter().any(|word| line.starts_with(word)) {
            let _ = writeln!(text, "#line {} \"{shown}\"", number + 2);
        }
    }
    if once {
        text.push_str("#endif\n");
    }
}

/// Threads of the blocks that multiply a tile: a warp of tensor cores owns a larger part of it than a warp without.
fn tile_threads(precision: &str) -> u32 {
    if precision == "f32" { 256 } else { 128 }
}

/// The text for one precision, with a product's kernel repeated for its tiles, and the kernels in it.
fn in_precision(file: &str, text: &str, precision: &str, several: bool) -> (String, Vec<Kernel>) {
    let mut all = format!("#define PRECISION {precision}\n#define TILE_THREADS {}\n", tile_threads(precision));
    for name in PRECISIONS {
        let _ = writeln!(all, "#define PRECISION_{} {}", name.to_uppercase(), u8::from(name == precision));
    }
    let mut kernels = Vec::new();
    // Where the present line stands in a file, for the marks of repeated text.
    let (mut number, mut shown) = (0, "");
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some((at, name)) = line.strip_prefix("#line ").and_then(|mark| mark.split_once(' ')) {
            (number, shown) = (at.parse().unwrap_or(1) - 1, name);
        } else {
            number += 1;
        }
        if let Some(list) = line.strip_prefix("TILES(") {
            let list = list.strip_suffix(')').unwrap_or_else(|| panic!("{file}.cu: {line}, expected one line"));
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "}").collect();
            let body = format!("{}\n}}\n", body.join("\n"));
            for (rows, columns) in tiles(file, list, precision) {
                let first = number + 1;
                let _ = write!(all, "#define BM {rows}\n#define BN {columns}\n#line {first} {shown}\n{body}");
                all.push_str("#undef BM\n#undef BN\n");
                let mut found = kernels_of(file, &body, precision, several, Some((rows, columns)));
                assert_eq!(found.len(), 1, "{file}.cu: TILES({list}) is for the one kernel below it");
                kernels.append(&mut found);
            }
            number += body.lines().count();
            let _ = writeln!(all, "#line {} {shown}", number + 1);
        } else {
            all.push_str(line);
            all.push('\n');
        }
    }
    let mut others = kernels_of(file, &all, precision, several, None);
    others.retain(|kernel| !kernel.written.starts_with("TILED("));
    kernels.append(&mut others);
    (all, kernels)
}

/// `64x64, f32 256x32`: those of this precision.
fn tiles(file: &str, list: &str, precision: &str) -> Vec<(usize, usize)> {
    let mut sizes = Vec::new();
    for tile in list.split(',').map(str::trim) {
        let (only, size) = tile.split_once(' ').unwrap_or((precision, tile));
        let parsed = size.split_once('x').and_then(|(rows, columns)| Some((rows.parse().ok()?, columns.parse().ok()?)));
        let size = parsed.unwrap_or_else(|| panic!("{file}.cu: TILES({list}): {tile:?}, expected a size like 128x64"));
        if only == precision {
            sizes.push(size);
        }
    }
    sizes
}

/// Every `KERNEL(threads, blocks) name(...) {` of a text that this precision has.
fn kernels_of(file: &str, text: &str, precision: &str, several: bool, tile: Option<(usize, usize)>) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    let text = format!("\n{text}");
    for (at, word) in text.match_indices("\nKERNEL") {
        let rest = &text[at + word.len()..];
        let once = rest.starts_with("_ONCE(");
        if !once && !rest.starts_with('(') {
            continue;
        }
        let head = rest.lines().next().unwrap_or_default();
        let wrong = |what: &str| -> ! { panic!("{file}.cu: KERNEL{head}: {what}") };
        let Some(end) = end_of_list(rest) else { wrong("expected KERNEL(threads, blocks) name(") };
        let threads = rest[rest.find('(').expect("a list") + 1..end].split(',').next().unwrap_or_default();
        let threads = if threads == "TILE_THREADS" { tile_threads(precision) } else { threads.parse().unwrap_or(0) };
        if threads == 0 {
            wrong("expected KERNEL(threads, blocks), with a number of threads or TILE_THREADS");
        }
        let rest = rest[end..].trim_start();
        let wrapped = ["PRECISE(", "TILED("].iter().any(|wrapper| rest.starts_with(wrapper));
        let open = if wrapped { end_of_list(rest) } else { rest.find('(') };
        let Some(open) = open else { wrong("expected a name after it") };
        let Some(close) = rest[open..].find(") {") else { wrong("expected name(...) {") };
        let written = &rest[..open];
        if several && wrapped == once {
            wrong("in a file of several precisions, expected PRECISE(name), or KERNEL_ONCE for a kernel of f32 alone");
        }
        if once && precision != "f32" {
            continue;
        }
        let family = written.split_once('(').map_or(written, |(_, name)| name.trim_end_matches(')'));
        let name = match (wrapped, tile) {
            (true, Some((rows, columns))) => format!("{family}_{rows}x{columns}_{precision}"),
            (true, None) => format!("{family}_{precision}"),
            _ => family.to_string(),
        };
        let parameters = parameters(&rest[open + 1..open + close], precision);
        kernels.push(Kernel {
            name,
            family: family.to_string(),
            written: written.to_string(),
            tile,
            threads,
            precise: wrapped,
            parameters,
        });
    }
    kernels
}

/// Behind the parenthesis that closes the first one of the text.
fn end_of_list(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' if depth == 1 => return Some(at + 1),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Name and type of each: `const T* RESTRICT x` is `("x", "float*")` where T is that.
fn parameters(list: &str, precision: &str) -> Vec<(String, String)> {
    let stored = if matches!(precision, "f32" | "tf32") { "float" } else { precision };
    // Comments between parameters may hold commas.
    let list: String = list.lines().map(|line| line.split("//").next().unwrap_or("")).collect();
    let parameter = |parameter: &str| {
        let words = parameter.replace('*', "* ");
        let kind = words.split_whitespace().find(|word| *word != "const").unwrap_or_default();
        let kind = if kind == "T*" { format!("{stored}*") } else { kind.to_string() };
        (words.split_whitespace().last().unwrap_or_default().to_string(), kind)
    };
    list.split(',').map(parameter).collect()
}
