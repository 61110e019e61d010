//! The machine code of the kernels: what `build.rs` embedded, PTX that the driver translates, or what NVRTC makes here.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, result, sys};
use cudarc::nvrtc::Ptx;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::words;
use crate::cores::on_all_cores;
use crate::device::kernels::{Kernel, kernel};
use crate::device::nvrtc;
use crate::{Error, Result, files};

pub(super) type Functions = Vec<Vec<Option<CudaFunction>>>;

/// The functions of every module, from the best code that there is, and the target of that code. `driver` is the version of
/// CUDA that the driver knows.
pub(super) fn load(
    context: &Arc<CudaContext>,
    device: &str,
    capability: (i32, i32),
    driver: i32,
) -> Result<(String, Functions)> {
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
    let target = format!("sm_{major}{minor}");
    let suits = |compiler: &nvrtc::Compiler| {
        let (newest, version) = (driver / 1000, compiler.version());
        match compiler.knows(&target) {
            true if version.0 <= newest => Ok(()),
            true => {
                Err(format!("NVRTC {}.{} is too new for this driver, which knows CUDA {newest}", version.0, version.1))
            }
            false => Err(format!("NVRTC {}.{} does not know {target}", version.0, version.1)),
        }
    };
    let compiler = nvrtc::Compiler::find_suitable(suits).map_err(|reason| {
        let package = if driver < 13_000 { "nvidia-cuda-nvrtc-cu12" } else { "nvidia-cuda-nvrtc" };
        Error::Device(format!(
            "{device}: {why}; and it cannot be compiled here: {reason}. This installs what is missing: pip install {package}"
        ))
    })?;
    let functions = compile(context, &compiler, &target)
        .map_err(|reason| Error::Device(format!("{device}: {why}; compiling it here: {reason}")))?;
    Ok((target, functions))
}

/// Those of the embedded targets that a GPU of this capability can run, the best first: machine code of its own
/// generation, but not for a younger GPU; then PTX, which drivers translate.
pub fn fitting<'a>(targets: &[&'a str], (major, minor): (i32, i32)) -> Vec<&'a str> {
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

/// Loads the image of module `m` and looks up its kernels.
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

/// Every module, as this machine's NVRTC compiles it for `target`. What is in the user's cache folder is not compiled again,
/// and of several processes one compiles while the others wait.
fn compile(
    context: &Arc<CudaContext>,
    compiler: &nvrtc::Compiler,
    target: &str,
) -> std::result::Result<Functions, String> {
    let cache = Cache::open(files::users_cache(), compiler.version(), target);
    let turn = cache.take_turn();
    let mut refused = Vec::new();
    // A kept file that the driver does not accept is made again.
    let kept = |m| match cache.get(m) {
        Ok(image) => functions(context, m, image?).ok(),
        Err(reason) => {
            refused.push(reason);
            None
        }
    };
    let mut loaded: Vec<_> = (0..kernel::MODULES.iter().filter(|module| module.gpu).count()).map(kept).collect();
    if let Some(first) = refused.first() {
        tell(&format!("{} kept files are made again; the first: {first}", refused.len()));
    }
    let missing: Vec<usize> = (0..loaded.len()).filter(|m| loaded[*m].is_none()).collect();
    if missing.is_empty() {
        return Ok(loaded.into_iter().flatten().collect());
    }
    for reason in &compiler.passed_over {
        tell(&format!("passed over: {reason}"));
    }
    let (major, minor) = compiler.version();
    tell(&format!(
        "compiling the kernels for {target} with NVRTC {major}.{minor} ({}), {} files, kept in {}",
        compiler.path.display(),
        missing.len(),
        cache.folder.as_ref().map_or("no place".into(), |folder| folder.display().to_string())
    ));
    // Draws nothing where the standard error is no terminal.
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {eta} left");
    let bar = ProgressBar::new(missing.len() as u64).with_style(style.unwrap_or(ProgressStyle::default_bar()));
    let made = on_all_cores(
        missing.len(),
        || Ok(()),
        |(), at| {
            let module = &kernel::MODULES[missing[at]];
            let image = compiler.compile(module.name, module.source, target)?.code;
            let kept = cache.keep(missing[at], &image);
            bar.inc(1);
            Ok::<_, String>((image, kept.err()))
        },
    );
    bar.finish_and_clear();
    let mut unkept = None;
    for (m, made) in missing.into_iter().zip(made.map_err(|e| e.to_string())?) {
        let (image, error) = made?;
        unkept = unkept.or(error);
        loaded[m] = Some(functions(context, m, image)?);
    }
    if let Some(reason) = unkept {
        tell(&format!("not all of it is kept: {reason}"));
    }
    drop(turn);
    Ok(loaded.into_iter().flatten().collect())
}

/// A line on the standard error, as the standard output may be read by another program.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Machine code that was compiled on this machine, in `kernels` in the user's cache folder. It runs in whoever loads it, so
/// it is taken only where nobody else can have written it. Where it cannot be kept, each start compiles again.
pub struct Cache {
    folder: Option<PathBuf>,
    version: (i32, i32),
    target: String,
}

impl Cache {
    /// The cache of code that this version of NVRTC makes for this target.
    pub fn open(users_cache: Option<PathBuf>, version: (i32, i32), target: &str) -> Cache {
        let folder = users_cache.map(|cache| cache.join("kernels")).filter(|folder| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            let usable = made.and_then(|()| folder.metadata()).and_then(|metadata| own(&metadata));
            usable
                .inspect_err(|reason| tell(&format!("no compiled kernels are kept in {}: {reason}", folder.display())))
                .is_ok()
        });
        Cache { folder, version, target: target.into() }
    }

    /// Waits until no other process compiles for this folder, and keeps others from it until the result is dropped. Clears
    /// away what a process left that did not live to finish a file.
    pub fn take_turn(&self) -> Option<File> {
        let folder = self.folder.as_ref()?;
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join("lock")).ok()?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            tell("another process compiles the kernels; waiting for it");
        }
        // Where the file system has no locks, two processes may do the same work.
        lock.lock().ok()?;
        files::remove_unfinished(folder, "");
        Some(lock)
    }

    /// Of all that a module's code is made from.
    fn key(&self, m: usize) -> [u8; 32] {
        let (major, minor) = self.version;
        let mut hash = Sha256::new();
        for part in [kernel::MODULES[m].source, &self.target, &format!("{major}.{minor}")].iter().chain(nvrtc::FLAGS) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// The file of module `m`; none where nothing can be kept.
    pub fn path(&self, m: usize) -> Option<PathBuf> {
        let key: String = self.key(m).iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.folder.as_ref()?.join(format!("{}_{}_{key}.cubin", kernel::MODULES[m].name, self.target)))
    }

    /// What the file of module `m` begins with: a hash of its key and of its code.
    fn seal(&self, m: usize, image: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.key(m)).chain_update(image).finalize().into()
    }

    /// The code of module `m`; none where it is not kept. The error says why the file that is there is not used.
    pub fn get(&self, m: usize) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.path(m).filter(|path| path.exists()) else { return Ok(None) };
        let read = || {
            let mut file = File::open(&path)?;
            own(&file.metadata()?)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            match bytes.split_first_chunk() {
                Some((seal, image)) if *seal == self.seal(m, image) => Ok(image.to_vec()),
                _ => Err(io::Error::other("it is not as it was written")),
            }
        };
        read().map(Some).map_err(Error::io(&path))
    }

    /// Writes the file of module `m`.
    pub fn keep(&self, m: usize, image: &[u8]) -> Result<()> {
        let Some(path) = self.path(m) else { return Ok(()) };
        let write = |unfinished: &Path| {
            // One of somebody else would stay his.
            let _ = fs::remove_file(unfinished);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished)?;
            file.write_all(&self.seal(m, image)).and_then(|()| file.write_all(image))
        };
        files::write_atomically(&path, |unfinished| write(unfinished).map_err(Error::io(&path)))
    }
}

/// An error unless a file or folder is this user's and nobody else may write to it.
fn own(metadata: &fs::Metadata) -> io::Result<()> {
    unsafe extern "C" {
        safe fn geteuid() -> u32;
    }
    match (metadata.uid(), metadata.mode()) {
        (owner, _) if owner != geteuid() => Err(io::Error::other(format!("it belongs to the user of number {owner}"))),
        (_, mode) if mode & 0o022 != 0 => {
            Err(io::Error::other(format!("others may write to it (mode {:o})", mode & 0o7777)))
        }
        _ => Ok(()),
    }
}
