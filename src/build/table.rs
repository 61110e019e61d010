//! Writes `kernels.rs`, the Rust side of the kernels: a constant for each kernel and each family of them, the modules with
//! their text, the tables of entry points, and the code for GPUs. `src/device/kernels.rs` includes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::cuda::Images;
use super::host::{self, SIMT, Variant};
use super::source::{Kernel, Module, PRECISIONS};

pub fn write(modules: &[Module], check: bool, images: &Images, out: &Path) {
    let mut text = String::from("// Written by build.rs from kernels/*.cu.\n");
    constants(modules, &mut text);
    families(modules, &mut text);
    list_modules(modules, out, &mut text);
    let instruction_sets = host::instruction_sets();
    for variant in instruction_sets.iter().chain([&SIMT]) {
        let simt = variant.name == SIMT.name;
        entries(modules, variant, |module| if simt { check } else { host::is_built(module, check) }, &mut text);
    }
    let names: Vec<String> = instruction_sets.iter().map(|v| format!("&{}", v.name.to_uppercase())).collect();
    let _ = writeln!(
        text,
        "/// From the least to the most capable instruction set.\npub(in crate::device) static HOST: &[&EntryTable] = &[{}];",
        names.join(", ")
    );
    embedded(images, &mut text);
    fs::write(out.join("kernels.rs"), text).expect("write kernels.rs");
}

/// `CONV_FORWARD_128X64_BF16`, a kernel.
fn constants(modules: &[Module], text: &mut String) {
    for (m, module) in modules.iter().enumerate() {
        for (k, kernel) in module.kernels.iter().enumerate() {
            let Kernel { name, family, written, tile, threads, parameters, .. } = kernel;
            let (names, types): (Vec<_>, Vec<_>) = parameters.iter().cloned().unzip();
            let _ = writeln!(
                text,
                "pub const {}: &Kernel = &Kernel {{ module: {m}, index: {k}, name: {name:?}, family: {family:?}, \
                 written: {written:?}, tile: {tile:?}, threads: {threads}, precision: {}, types: &{types:?}, parameters: &{names:?} }};",
                name.to_uppercase(),
                precision(module.precision),
            );
        }
    }
}

fn precision(name: &str) -> String {
    format!("Precision::{}{}", name[..1].to_uppercase(), &name[1..])
}

/// Of each tile, the constants' names by precision.
type Forms = BTreeMap<Option<(usize, usize)>, [Option<String>; 4]>;

/// `NORM_APPLY`, a kernel in each precision; `CONV_FORWARD`, that for each tile, the largest first.
fn families(modules: &[Module], text: &mut String) {
    let mut families: BTreeMap<&str, Forms> = BTreeMap::new();
    for module in modules {
        let at = PRECISIONS.iter().position(|name| *name == module.precision).expect("a precision of the list");
        for kernel in module.kernels.iter().filter(|kernel| kernel.precise) {
            let forms = families.entry(&kernel.family).or_default().entry(kernel.tile).or_default();
            forms[at] = Some(kernel.name.to_uppercase());
        }
    }
    for (family, tiles) in families {
        let variants = |forms: &[Option<String>; 4]| {
            let forms =
                forms.each_ref().map(|form| form.as_ref().map_or("None".into(), |name| format!("Some({name})")));
            format!("Variants([{}])", forms.join(", "))
        };
        let name = family.to_uppercase();
        if let Some(forms) = tiles.get(&None) {
            let _ = writeln!(text, "pub const {name}: Variants = {};", variants(forms));
            continue;
        }
        let mut sizes: Vec<(usize, usize)> = tiles.keys().flatten().copied().collect();
        sizes.sort_by_key(|(rows, columns)| std::cmp::Reverse((rows * columns, *rows)));
        let _ = writeln!(text, "pub const {name}: &[Tile] = &[");
        for (rows, columns) in sizes {
            let kernel = variants(&tiles[&Some((rows, columns))]);
            let _ = writeln!(text, "    Tile {{ rows: {rows}, columns: {columns}, kernel: {kernel} }},");
        }
        text.push_str("];\n");
    }
}

fn list_modules(modules: &[Module], out: &Path, text: &mut String) {
    text.push_str("pub static MODULES: &[Module] = &[\n");
    for module in modules {
        let names: Vec<String> = module.kernels.iter().map(|kernel| kernel.name.to_uppercase()).collect();
        let path = out.join(format!("{}.flat.cu", module.name));
        fs::write(&path, &module.text).expect("write a flattened kernel file");
        let _ = writeln!(
            text,
            "    Module {{ name: {:?}, file: {:?}, precision: {}, gpu: {}, source: include_str!({path:?}), kernels: &[{}] }},",
            module.name,
            module.file,
            precision(module.precision),
            module.gpu,
            names.join(", ")
        );
    }
    text.push_str("];\n");
}

/// The tables that `host.rs` links, as one; of a module that this build leaves out an empty one.
fn entries(modules: &[Module], variant: &Variant, built: impl Fn(&Module) -> bool, text: &mut String) {
    let table = variant.name.to_uppercase();
    let of = |module: &Module| format!("{table}_{}", module.name.to_uppercase());
    text.push_str("unsafe extern \"C\" {\n");
    for module in modules.iter().filter(|module| built(module)) {
        let (symbol, length) = (host::symbol(module, variant), module.kernels.len());
        let _ = writeln!(text, "    #[link_name = {symbol:?}] static {}: [HostEntry; {length}];", of(module));
    }
    let _ = writeln!(
        text,
        "}}\npub(in crate::device) static {table}: EntryTable = EntryTable {{ isa: {:?}, modules: &[",
        variant.name
    );
    for module in modules {
        if built(module) {
            text.push_str("    // SAFETY: build.rs made this array of this length from the same list.\n");
            let _ = writeln!(text, "    unsafe {{ &{} }},", of(module));
        } else {
            text.push_str("    &[],\n");
        }
    }
    text.push_str("] };\n");
}

fn embedded(images: &Images, text: &mut String) {
    let _ = writeln!(text, "pub(in crate::device) const NVRTC: Option<(i32, i32)> = {:?};", images.version);
    text.push_str("/// Code for GPUs: (target, one image per module).\n");
    text.push_str("pub(in crate::device) static IMAGES: &[(&str, &[Image])] = &[\n");
    for (target, files) in &images.targets {
        let _ = writeln!(text, "    ({target:?}, &[");
        for file in files {
            let said = file.with_extension("said");
            let _ = writeln!(
                text,
                "        Image {{ packed: include_bytes!({file:?}), assembled: include_str!({said:?}) }},"
            );
        }
        text.push_str("    ]),\n");
    }
    text.push_str("];\n");
}
