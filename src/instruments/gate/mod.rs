//! The code gate: what the compiler made of the kernels for each generation of GPUs. No GPU is needed to know that.
//!
//! Registers, local and shared memory are read from the embedded cubins, spills from the assembler's log, which the build
//! keeps beside them, and instructions from the output of `nvdisasm`, where it is installed: all of a kernel's, and those of
//! one turn of a product's steady loops. [`Budget`] says how much each kernel may take.

mod budget;
mod choices;
mod cubin;
mod flow;
mod loops;
mod occupancy;
mod sass;
mod tensor;
mod turns;

use serde::Serialize;

pub use budget::Budget;
pub use cubin::{Resources, kernels as resources};
pub use flow::Flow;
pub use loops::{Counts, Loop, Multiplier, steady_loops};
pub use occupancy::{Occupancy, occupancy};
pub use sass::{Disassembler, Instructions, kernels as listings};
pub use tensor::tensor_problems;
pub use turns::Turn;

use crate::cores::on_all_cores;
use crate::device::{EmbeddedImage, Precision, embedded_code, kernel_named};
use crate::{Error, Result};

/// What one kernel takes on one generation of GPUs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelCode {
    pub module: &'static str,
    pub kernel: String,
    /// Its family, tile and precision, see [`crate::device::Kernel`].
    pub family: &'static str,
    pub tile: Option<(usize, usize)>,
    pub precision: Precision,
    /// The generation, as `sm_90`.
    pub arch: &'static str,
    pub registers: u32,
    /// Bytes that a thread stores and loads because registers ran out.
    pub spill_stores: u32,
    pub spill_loads: u32,
    /// Bytes of local memory of a thread: spilled registers, and arrays that registers cannot hold.
    pub local: u32,
    /// Bytes of shared memory of a block.
    pub shared: u32,
    /// How many blocks a multiprocessor holds at a time, and their share of its warps in percent.
    pub blocks: u32,
    pub occupancy: u32,
    /// None where they were not counted.
    pub instructions: Option<Instructions>,
    /// The steady loops of a product; none where they were not counted.
    pub loops: Vec<Loop>,
}

/// The generations whose loops are counted, unless one is named.
pub const LOOPS_OF: [&str; 2] = ["sm_80", "sm_90"];

/// The kernels whose instructions are counted. Counting those of all kernels takes minutes.
#[derive(Clone, Copy)]
pub enum Count<'a> {
    Nothing,
    /// The kernels that [`tensor_problems`] looks at, and of generations that run the same code only one; and the loops of
    /// [`LOOPS_OF`].
    Products(&'a Disassembler),
    /// The loops of products.
    Loops(&'a Disassembler),
    /// All instructions, no loops.
    All(&'a Disassembler),
}

impl<'a> Count<'a> {
    fn of(self, image: &EmbeddedImage) -> Option<&'a Disassembler> {
        match self {
            Count::Nothing => None,
            Count::All(disassembler) => Some(disassembler),
            Count::Loops(disassembler) => has_loops(image).then_some(disassembler),
            Count::Products(disassembler) => {
                let own = !matches!(image.target, "sm_86" | "sm_89");
                let products =
                    image.module.kernels.iter().any(|kernel| tensor::is_product(kernel.tile, kernel.precision));
                (own && products || self.of_loops(image)).then_some(disassembler)
            }
        }
    }

    /// Whether the steady loops of this image are counted.
    fn of_loops(self, image: &EmbeddedImage) -> bool {
        match self {
            Count::Loops(_) => has_loops(image),
            Count::Products(_) => has_loops(image) && LOOPS_OF.contains(&image.target),
            _ => false,
        }
    }
}

/// Whether it may have steady loops: those of products, and of attention.
fn has_loops(image: &EmbeddedImage) -> bool {
    image.module.kernels.iter().any(|kernel| kernel.tile.is_some() || kernel.family.starts_with("attention_"))
}

/// The kernels whose name or file contains `filter`, for `arch` alone or for all generations.
pub fn kernels(filter: &str, arch: Option<&str>, count: Count) -> Result<Vec<KernelCode>> {
    let images = machine_code(arch)?;
    let wanted = |image: &&EmbeddedImage| {
        image.module.name.contains(filter) || image.module.kernels.iter().any(|k| k.name.contains(filter))
    };
    let images: Vec<&EmbeddedImage> = images.iter().filter(wanted).collect();
    // Disassembling a large module takes a second.
    let one = |(): &(), at: usize| of_image(images[at], filter, count);
    let rows = on_all_cores(images.len(), || Ok(()), one)?;
    let mut rows: Vec<KernelCode> = rows.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    if rows.is_empty() {
        return Err(Error::Config(format!("no kernel's name contains {filter:?}; zgan info --kernels has them all")));
    }
    rows.sort_by(|a, b| (a.module, &a.kernel, number(a.arch)).cmp(&(b.module, &b.kernel, number(b.arch))));
    Ok(rows)
}

fn of_image(image: &EmbeddedImage, filter: &str, count: Count) -> Result<Vec<KernelCode>> {
    let arch = number(image.target);
    let said = |what: String| Error::Device(format!("{}.cu for {}: {what}", image.module.name, image.target));
    let code = count.of(image).map(|d| d.disassemble(&image.code)).transpose().map_err(said)?;
    let mut rows = Vec::new();
    for Resources { name, registers, local, shared } in resources(&image.code, arch).map_err(said)? {
        if !(name.contains(filter) || image.module.name.contains(filter)) {
            continue;
        }
        let Some(known) = kernel_named(&name) else { return Err(said(format!("{name} is no kernel of this build"))) };
        let Some(assembled) = image.assembled.iter().find(|kernel| kernel.name == name) else {
            return Err(said(format!("the assembler's log does not tell of {name}")));
        };
        if (assembled.registers, assembled.stack) != (registers, local) {
            return Err(said(format!(
                "{name}: {registers} registers and {local} bytes of local memory in the code, {} and {} in the log",
                assembled.registers, assembled.stack
            )));
        }
        let Some(Occupancy { blocks, percent }) = occupancy(arch, known.threads, registers, shared) else {
            return Err(said("its limits are not known here".into()));
        };
        let text = code.as_ref().map(|code| {
            let own = code.iter().find(|(kernel, _)| *kernel == name);
            own.map(|(_, text)| text.as_str()).unwrap_or_default()
        });
        let instructions = text.map(Instructions::count);
        let product = known.tile.is_some() || instructions.is_some_and(|count| count.matrix > 0);
        let loops = if product && count.of_loops(image) { text.map(steady_loops) } else { None };
        rows.push(KernelCode {
            module: image.module.name,
            kernel: name,
            family: known.family,
            tile: known.tile,
            precision: known.precision,
            arch: image.target,
            registers,
            spill_stores: assembled.spill_stores,
            spill_loads: assembled.spill_loads,
            local,
            shared,
            blocks,
            occupancy: percent,
            instructions,
            loops: loops.unwrap_or_default(),
        });
    }
    Ok(rows)
}

/// The machine code of a kernel for `arch`, or that of all kernels of a module.
pub fn sass(kernel: &str, arch: &str, disassembler: &Disassembler) -> Result<String> {
    let mut images = machine_code(Some(arch))?;
    let module = images.iter().position(|image| image.module.name == kernel);
    let image = module.map(|at| images.swap_remove(at)).map_or_else(|| image_of(kernel, images), Ok)?;
    let code = disassembler.disassemble(&image.code).map_err(Error::Device)?;
    if module.is_some() {
        return Ok(code.into_iter().map(|(_, text)| text).collect());
    }
    let own = code.into_iter().find(|(name, _)| name == kernel).map(|(_, text)| text);
    own.ok_or_else(|| Error::Config(format!("{kernel} is not in the code for {arch}: it needs a later generation")))
}

/// The PTX of a kernel.
pub fn ptx(kernel: &str) -> Result<String> {
    let images = embedded()?.into_iter().filter(|image| image.target.starts_with("compute_")).collect();
    let image = image_of(kernel, images)?;
    let text = String::from_utf8_lossy(&image.code);
    let own = text.split(".visible .entry ").skip(1).find(|entry| entry.split('(').next() == Some(kernel));
    let body = own.and_then(|entry| Some(&entry[..entry.find("\n}")? + 2]));
    let target = text.lines().filter(|line| line.starts_with(".version") || line.starts_with(".target"));
    let head: Vec<&str> = target.collect();
    body.map(|body| format!("{}\n\n.visible .entry {body}\n", head.join("\n")))
        .ok_or_else(|| Error::Config(format!("{kernel} is not in the PTX for {}", image.target)))
}

fn embedded() -> Result<Vec<EmbeddedImage>> {
    let images = embedded_code().map_err(Error::Device)?;
    if images.is_empty() {
        return Err(Error::Config(
            "this binary holds no GPU code: NVRTC was not found when it was built. Install nvidia-cuda-nvrtc-cu12 from \
             PyPI, set NVRTC_LIB_DIR to its folder nvidia/cuda_nvrtc/lib, and build again (scripts/test does that)"
                .into(),
        ));
    }
    Ok(images)
}

/// The cubins for `arch`, or for all generations.
fn machine_code(arch: Option<&str>) -> Result<Vec<EmbeddedImage>> {
    let mut images = embedded()?;
    images.retain(|image| image.target.starts_with("sm_"));
    let Some(arch) = arch else { return Ok(images) };
    let mut there: Vec<&str> = images.iter().map(|image| image.target).collect();
    there.dedup();
    if !there.contains(&arch) {
        return Err(Error::Config(format!("there is no code for {arch}, only for {}", there.join(", "))));
    }
    images.retain(|image| image.target == arch);
    Ok(images)
}

/// The image of the module that this kernel is in.
fn image_of(kernel: &str, images: Vec<EmbeddedImage>) -> Result<EmbeddedImage> {
    let names = || images.iter().flat_map(|image| image.module.kernels).map(|k| k.name);
    let near = |name: &&str| (strsim::jaro_winkler(kernel, name) * 1e6) as u64;
    let nearest = names().max_by_key(near).unwrap_or_default();
    let found = images.into_iter().find(|image| image.module.kernels.iter().any(|k| k.name == kernel));
    found.ok_or_else(|| Error::Config(format!("no kernel is called {kernel:?}; is {nearest} meant?")))
}

/// The number of a target: 90 for `sm_90`.
fn number(target: &str) -> u32 {
    target.split_once('_').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}
