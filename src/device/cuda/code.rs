//! The machine code of the kernels: what `build.rs` embedded, PTX that the driver translates, or what NVRTC makes here.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, CudaFunction, result, sys};
use cudarc::nvrtc::Ptx;

use super::words;
use crate::device::kernels::{Kernel, kernel};
use crate::device::nvrtc;
use crate::{Error, Result, files};

pub(super) type Functions = Vec<Vec<Option<CudaFunction>>>;

/// The functions of every module, from the best code there is, and what that was made for.
pub(super) fn load(context: &Arc<CudaContext>, device: &str, capability: (i32, i32)) -> Result<(String, Functions)> {
    let embedded: Vec<&str> = kernel::IMAGES.iter().map(|(target, _)| *target).collect();
    let mut refused = Vec::new();
    for target in fitting(&embedded, capability) {
        let Some((_, images)) = kernel::IMAGES.iter().find(|(t, _)| *t == target) else { continue };
        let functions: std::result::Result<Functions, _> =
            images.iter().enumerate().map(|(m, image)| functions(context, m, image.unpack()?)).collect();
        match functions {
            Ok(functions) => return Ok((target.into(), functions)),
            Err(reason) => refused.push(format!("the driver refuses the code for {target}: {reason}")),
        }
    }
    let (major, minor) = capability;
    let why = match refused.is_empty() {
        false => refused.join("; "),
        true if embedded.is_empty() => {
            format!("this binary was built without GPU code, and the GPU is an sm_{major}{minor}")
        }
        true => format!("this binary has no code for sm_{major}{minor}, only for {}", embedded.join(", ")),
    };
    let compiler = nvrtc::Compiler::find().map_err(|reason| {
        Error::Device(format!(
            "{device}: {why}; and it cannot be compiled here: {reason}. Install nvidia-cuda-nvrtc-cu12 from PyPI and set \
             NVRTC_LIB_DIR to its folder nvidia/cuda_nvrtc/lib"
        ))
    })?;
    let target = format!("sm_{major}{minor}");
    let functions = compile(context, &compiler, &target)
        .map_err(|reason| Error::Device(format!("{device}: {why}; compiling it here: {reason}")))?;
    Ok((target, functions))
}

/// Of the embedded targets those that a GPU of this capability can run, the best first: machine code of its own
/// generation, not younger than itself; then PTX, which drivers translate.
fn fitting<'a>(targets: &[&'a str], (major, minor): (i32, i32)) -> Vec<&'a str> {
    // The last digit is the minor number: sm_120 is 12.0.
    let number = |target: &str, prefix: &str| {
        target.strip_prefix(prefix).and_then(|n| n.parse::<i32>().ok()).map(|n| (n / 10, n % 10))
    };
    let mut machine: Vec<_> = targets.iter().filter_map(|t| Some((number(t, "sm_")?, *t))).collect();
    machine.retain(|((a, b), _)| *a == major && *b <= minor);
    let mut ptx: Vec<_> = targets.iter().filter_map(|t| Some((number(t, "compute_")?, *t))).collect();
    ptx.retain(|(c, _)| *c <= (major, minor));
    machine.sort();
    ptx.sort();
    machine.iter().rev().chain(ptx.iter().rev()).map(|(_, target)| *target).collect()
}

/// Loads the image of module `m` and looks its kernels up, once.
fn functions(
    context: &Arc<CudaContext>,
    m: usize,
    image: Vec<u8>,
) -> std::result::Result<Vec<Option<CudaFunction>>, String> {
    let said = |name: &str, e| format!("{name}: {}", words(e));
    let module = &kernel::MODULES[m];
    // `from_binary` passes the bytes on as they are: a cubin, or PTX with the zero that NVRTC ends it with.
    let loaded = context.load_module(Ptx::from_binary(image)).map_err(|e| said(module.name, e))?;
    let function = |kernel: &&Kernel| match loaded.load_function(kernel.name) {
        Ok(function) => Ok(Some(function)),
        Err(result::DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND)) => Ok(None),
        Err(e) => Err(said(kernel.name, e)),
    };
    module.kernels.iter().map(function).collect()
}

/// Every module as this machine's NVRTC compiles it for `target`, by several threads; what the user's cache folder has
/// is not compiled again.
fn compile(
    context: &Arc<CudaContext>,
    compiler: &nvrtc::Compiler,
    target: &str,
) -> std::result::Result<Functions, String> {
    let cache = Cache::new(compiler.version(), target);
    let compiled = |m: usize| {
        let module = &kernel::MODULES[m];
        let (image, _) = compiler.compile(module.name, module.source, target)?;
        cache.keep(m, &image);
        functions(context, m, image)
    };
    // A kept file that the driver does not take is made again.
    let one = |m: usize| match cache.get(m).map(|image| functions(context, m, image)) {
        Some(Ok(functions)) => Ok(functions),
        _ => compiled(m),
    };
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let m = next.fetch_add(1, Ordering::Relaxed);
                    if m >= kernel::MODULES.len() {
                        return;
                    }
                    let result = one(m);
                    done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((m, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_by_key(|(m, _)| *m);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Machine code that was compiled on this machine: `$XDG_CACHE_HOME/zgan` or `~/.cache/zgan`. Without a place to
/// write to, each start compiles again.
struct Cache {
    folder: Option<PathBuf>,
    version: (i32, i32),
    target: String,
}

impl Cache {
    fn new(version: (i32, i32), target: &str) -> Cache {
        Cache { folder: files::users_cache(), version, target: target.into() }
    }

    /// The name tells a module's text, target and compiler: a file never has to be replaced.
    fn path(&self, m: usize) -> Option<PathBuf> {
        let module = &kernel::MODULES[m];
        let mut hasher = DefaultHasher::new();
        (module.source, &self.target, self.version, nvrtc::FLAGS).hash(&mut hasher);
        let name = format!("{}_{}_{:016x}.cubin", module.name, self.target, hasher.finish());
        self.folder.as_ref().map(|folder| folder.join(name))
    }

    fn get(&self, m: usize) -> Option<Vec<u8>> {
        std::fs::read(self.path(m)?).ok()
    }

    /// Written under another name first: another process never reads half a file.
    fn keep(&self, m: usize, image: &[u8]) {
        let (Some(folder), Some(path)) = (&self.folder, self.path(m)) else { return };
        let unfinished = path.with_extension(format!("{}", std::process::id()));
        let kept = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&unfinished, image))
            .and_then(|()| std::fs::rename(&unfinished, &path));
        if kept.is_err() {
            let _ = std::fs::remove_file(&unfinished);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_fits_its_own_generation_and_ptx_what_came_later() {
        let all = nvrtc::TARGETS;
        assert_eq!(fitting(all, (7, 5)), ["sm_75"]);
        assert_eq!(fitting(all, (8, 0)), ["sm_80", "compute_80"]);
        assert_eq!(fitting(all, (8, 7)), ["sm_86", "sm_80", "compute_80"]);
        assert_eq!(fitting(all, (8, 9)), ["sm_89", "sm_86", "sm_80", "compute_80"]);
        assert_eq!(fitting(all, (10, 3)), ["sm_100", "compute_80"]);
        assert_eq!(fitting(all, (12, 1)), ["sm_120", "compute_80"]);
        assert_eq!(fitting(all, (13, 0)), ["compute_80"]);
        assert_eq!(fitting(&["sm_90"], (8, 0)), [""; 0]);
        assert_eq!(fitting(&[], (8, 0)), [""; 0]);
    }

    #[test]
    fn a_cached_module_is_named_after_all_that_it_was_made_from() {
        let cache = |version, target: &str| Cache { folder: Some("/c".into()), version, target: target.into() };
        let name = cache((12, 9), "sm_87").path(0);
        assert_eq!(name, cache((12, 9), "sm_87").path(0));
        assert_ne!(name, cache((12, 8), "sm_87").path(0));
        assert_ne!(name, cache((12, 9), "sm_90").path(0));
    }
}
