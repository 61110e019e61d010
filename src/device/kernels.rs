//! The kernels that `build.rs` found, compiled and listed.

use std::collections::BTreeSet;
use std::io::Read;

use flate2::read::ZlibDecoder;

use super::Precision;

/// A kernel: its place in the entry tables, and what `build.rs` knows of it. The constants are in [`kernel`].
///
/// What a launch looks at comes first, in one line of the cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Kernel {
    pub(super) module: usize,
    pub(super) index: usize,
    /// In GPU code: `conv_forward_128x64_bf16`.
    pub name: &'static str,
    /// Of its parameters: `float*`, `uint32_t`, the name of a struct.
    pub types: &'static [&'static str],
    /// The names of its parameters: `dx`.
    pub parameters: &'static [&'static str],
    /// What its forms for other tiles and precisions have in common: `conv_forward`.
    pub family: &'static str,
    /// As its file has it: `TILED(conv_forward)`.
    pub written: &'static str,
    /// Rows and columns of the part of a product that a block computes.
    pub tile: Option<(usize, usize)>,
    /// Threads of a block on a GPU.
    pub threads: u32,
    pub precision: Precision,
}

/// A kernel as it is in each [`Precision`], in that order.
#[derive(Clone, Copy, Debug)]
pub struct Variants(pub [Option<&'static Kernel>; 4]);

/// A product's kernel for tiles of `rows` by `columns`.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    pub rows: usize,
    pub columns: usize,
    pub kernel: Variants,
}

impl From<&'static Kernel> for Variants {
    fn from(kernel: &'static Kernel) -> Variants {
        Variants([Some(kernel), None, None, None])
    }
}

impl Variants {
    /// The one for this precision, or the reason why there is none.
    pub(super) fn choose(&self, precision: Precision) -> std::result::Result<&'static Kernel, String> {
        let Variants(all) = self;
        let fallback = if precision == Precision::Tf32 { all[Precision::F32 as usize] } else { None };
        all[precision as usize].or(fallback).ok_or_else(|| {
            let name = all.iter().flatten().next().map_or("a kernel", |kernel| kernel.name);
            format!("{name} has no form for {precision}")
        })
    }

    /// Whether this parameter is of the type that the precision decides.
    pub(super) fn stored(&self, parameter: usize) -> bool {
        let types = self.0.iter().flatten().map(|kernel| kernel.types.get(parameter));
        let mut types = types.skip_while(|kind| kind.is_none());
        let first = types.next();
        types.any(|other| Some(other) != first)
    }
}

/// A kernel file for one precision.
pub struct Module {
    /// `conv`, `conv_bf16`
    pub name: &'static str,
    /// `conv`
    pub file: &'static str,
    pub precision: Precision,
    /// Whether GPUs have it. Those that they do not have are the last in the list.
    pub gpu: bool,
    /// Its text with our includes expanded: what NVRTC gets at run time.
    pub source: &'static str,
    pub kernels: &'static [&'static Kernel],
}

/// The kernel that GPU code calls so.
pub fn kernel_named(name: &str) -> Option<&'static Kernel> {
    kernel::MODULES.iter().flat_map(|module| module.kernels).find(|kernel| kernel.name == name).copied()
}

/// A kernel's text, after the functions of its file that it calls, each with the comment above it; without those of the
/// device library.
pub fn kernel_text(name: &str) -> Option<String> {
    let Kernel { module, written, .. } = kernel_named(name)?;
    let module = &kernel::MODULES[*module];
    // Where the file itself goes on after the last header.
    let own = module.source.rsplit_once(".h\"\n").map_or(module.source, |(_, rest)| rest);
    let own = own.split_once("\n#line ").map_or(own, |(_, rest)| rest);
    let own: String = own.split_inclusive('\n').filter(|line| !line.starts_with("#line ")).collect();
    let own = own.as_str();
    let kernel = definition(own, own[..own.find(&format!(") {written}("))?].rfind("KERNEL")?)?;
    let before_a_list = kernel.split(['(', '<']);
    let called: BTreeSet<&str> =
        before_a_list.filter_map(|text| text.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next()).collect();
    let mut text = String::new();
    for (start, line) in own.match_indices("\nDEVICE ").map(|(at, _)| (at + 1, &own[at + 1..])) {
        let function = line.split('(').next().and_then(|head| head.rsplit([' ', '*', '&']).next()).unwrap_or("");
        if called.contains(function)
            && let Some(definition) = definition(own, start)
        {
            text.push_str(definition);
            text.push_str("\n\n");
        }
    }
    text.push_str(kernel);
    Some(text)
}

/// The whole text that a kernel is compiled from by NVRTC: its file with the device library in it, without the other kernels of
/// the file.
pub fn kernel_source(name: &str) -> Option<String> {
    let Kernel { module, written, .. } = kernel_named(name)?;
    let module = &kernel::MODULES[*module];
    let mut rest = module.source;
    let mut text = String::new();
    while let Some(head) = rest.find("\nKERNEL").map(|at| at + 1) {
        let signature = &rest[head..];
        let whole = definition(rest, head)?;
        let end = head - above(rest, head) + whole.len();
        let own = signature[..signature.find('{')?].contains(&format!(") {written}("));
        text.push_str(&rest[..if own { end } else { head - above(rest, head) }]);
        rest = &rest[end..];
    }
    text.push_str(rest);
    Some(text)
}

/// The length of the comment above a function.
fn above(source: &str, head: usize) -> usize {
    let above = source[..head].split_inclusive('\n').rev();
    above.take_while(|line| line.starts_with("//") || line.starts_with("template")).map(str::len).sum()
}

/// The function whose first line starts at `head`, from the comment above it to its last brace.
fn definition(source: &str, head: usize) -> Option<&str> {
    let first = head - above(source, head);
    let mut depth = 0;
    for (i, character) in source[head..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(&source[first..=head + i]),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Code of a module for one GPU target.
pub(super) struct Image {
    /// A cubin or PTX, packed with zlib.
    packed: &'static [u8],
    /// What the assembler said, a line per kernel (`nvrtc::Assembled`); empty for PTX.
    pub assembled: &'static str,
}

impl Image {
    pub fn packed_len(&self) -> usize {
        self.packed.len()
    }

    pub fn unpack(&self) -> Result<Vec<u8>, String> {
        let mut code = Vec::new();
        ZlibDecoder::new(self.packed).read_to_end(&mut code).map(|_| code).map_err(|e| e.to_string())
    }
}

/// How blocks of a kernel are run on a CPU: the mirror of `Entry` in `kernels/host/entry.h`. The argument array is
/// the one that `cuLaunchKernel` takes; `grid` points to three numbers; blocks `first .. last` of the grid are run.
pub(super) type HostEntry =
    unsafe extern "C" fn(arguments: *const *const std::ffi::c_void, grid: *const u32, first: u32, last: u32);

/// All kernels as one instruction set has them; a module that the build left out has no entries.
pub(super) struct EntryTable {
    pub isa: &'static str,
    pub modules: &'static [&'static [HostEntry]],
}

impl EntryTable {
    pub fn entry(&self, kernel: &Kernel) -> Option<HostEntry> {
        self.modules[kernel.module].get(kernel.index).copied()
    }
}

/// One constant per kernel, the name in capitals: a misspelt one does not compile.
pub mod kernel {
    use super::{EntryTable, HostEntry, Image, Kernel, Module, Precision, Tile, Variants};
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}
