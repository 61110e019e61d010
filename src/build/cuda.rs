//! Kernels for GPUs: each module by NVRTC, where it is found, to machine code per generation and one PTX.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::nvrtc::{Compiled, Compiler, FLAGS, TARGETS};
use super::source::Module;
use super::store::{Job, Made, Store};

/// What the binary embeds.
#[derive(Default)]
pub struct Images {
    /// NVRTC's; none where it was not found.
    pub version: Option<(i32, i32)>,
    /// For each target one file a module, with what the assembler said of its kernels beside it (`.said`).
    pub targets: Vec<(&'static str, Vec<PathBuf>)>,
}

pub fn compile(modules: &[Module], store: &Store, deny_warnings: bool) -> Result<Images, String> {
    let compiler = match Compiler::find() {
        Ok(compiler) => compiler,
        Err(reason) => {
            println!(
                "cargo:warning=no GPU code embedded ({reason}); on a machine with a GPU the binary compiles its kernels when it starts"
            );
            return Ok(Images::default());
        }
    };
    for reason in &compiler.passed_over {
        println!("cargo:warning=passed over: {reason}");
    }
    let asked = asked(std::env::var("ZGAN_CUDA_ARCH_LIST").ok().as_deref())?;
    let (known, warning) = known(&compiler, &asked);
    if let Some(warning) = warning {
        println!("cargo:warning={warning}");
    }
    // PTX is what machine code is made from, so code for sm_80 brings that for compute_80 along.
    let with_code = |ptx: &str| ptx.strip_prefix("compute_").is_some_and(|of| known.contains(&&*format!("sm_{of}")));
    let (mut jobs, mut targets) = (Vec::new(), Vec::new());
    for &target in &known {
        let mut files = Vec::new();
        for module in modules.iter().filter(|module| module.gpu) {
            // Code for sm_80 runs on its successors too. What takes longest to compile, tensor cores' products, have that alone.
            let shared = module.precision != "f32" && matches!(target, "sm_86" | "sm_89") && known.contains(&"sm_80");
            let target = if shared { "sm_80" } else { target };
            let file = |target: &str| {
                let inputs = ("zlib", &module.text, target, compiler.version(), FLAGS);
                store.path(&format!("{}_{target}", module.name), &inputs, "image")
            };
            files.push(file(target));
            if shared || with_code(target) {
                continue;
            }
            let of_ptx = target.replace("sm_", "compute_");
            let with_ptx = of_ptx != target && known.contains(&&*of_ptx);
            let beside = with_ptx.then(|| file(&of_ptx));
            let compiler = &compiler;
            let make = move |path: &Path| {
                let compile = |target| compiler.compile(&module.name, &module.text, target);
                let Compiled { code, mut ptx, log } = compile(target)?;
                if ptx.is_empty() && with_ptx {
                    ptx = compile(&of_ptx)?.ptx;
                }
                let own = if code.is_empty() { &ptx } else { &code };
                let made = packed(own).and_then(|packed| fs::write(path, packed));
                let beside = made.and_then(|()| if with_ptx { packed(&ptx) } else { Ok(Vec::new()) });
                let beside = beside.map_err(|e| format!("{}: {e}", path.display()))?;
                let said = log.kernels.iter().map(|kernel| format!("{kernel}\n")).collect();
                let warnings = match log.warnings.is_empty() {
                    true => String::new(),
                    false => format!("{}.cu for {target}: {}", module.name, log.warnings),
                };
                Ok(Made { said, warnings, beside })
            };
            let seconds = if module.precision == "f32" { 0.7 } else { 1.5 };
            let what = format!("{} for {target}", module.name);
            jobs.push(Job { file: file(target), beside, what, seconds, make: Box::new(make) });
        }
        targets.push((target, files));
    }
    store.make(&jobs, deny_warnings)?;
    Ok(Images { version: Some(compiler.version()), targets })
}

/// Two thirds of machine code with line numbers is text.
fn packed(code: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    packed.write_all(code)?;
    packed.finish()
}

/// The targets that this list names, `sm_80,sm_90`; all where there is no list.
pub fn asked(list: Option<&str>) -> Result<Vec<&'static str>, String> {
    let Some(list) = list else { return Ok(TARGETS.to_vec()) };
    let target = |name: &str| TARGETS.iter().copied().find(|target| *target == name.trim());
    let named = |name| target(name).ok_or(format!("ZGAN_CUDA_ARCH_LIST: {name:?} is none of {}", TARGETS.join(", ")));
    list.split(',').map(named).collect()
}

/// Those of these targets that this compiler makes code for, and a line about the others.
pub fn known(compiler: &Compiler, asked: &[&'static str]) -> (Vec<&'static str>, Option<String>) {
    let (known, unknown): (Vec<_>, Vec<_>) = asked.iter().partition(|target| compiler.knows(target));
    let warning = (!unknown.is_empty()).then(|| {
        let ((major, minor), path) = (compiler.version(), compiler.path.display());
        format!("no GPU code for {} embedded: NVRTC {major}.{minor} ({path}) does not know it", unknown.join(", "))
    });
    (known, warning)
}
