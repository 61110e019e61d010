//! The `cuda` execution: an NVIDIA GPU, through cudarc.
//!
//! All work goes to one stream of our own, in order, and the program waits for it only where it reads something
//! back. Not the default stream, and no events of cudarc's: a stretch of this stream can be captured as a graph, and
//! started again and again with one call.
//!
//! The machine code is what `build.rs` embedded for this generation of GPUs, or PTX that the driver translates, or
//! else what NVRTC makes of the embedded sources when the device is opened; that is kept in the user's cache folder.

use std::cell::Cell;
use std::ffi::c_void;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use std::time::Duration;

use cudarc::driver::{
    CudaContext, CudaEvent as Event, CudaFunction, CudaGraph, CudaStream, PinnedHostSlice, result, sys,
};
use cudarc::nvrtc::Ptx;

use super::buffer::{Memory, size};
use super::kernels::{Kernel, kernel};
use super::nvrtc;
use super::tuning::{self, Tuning};
use crate::{Error, Result};

/// Threads of a block: `BLOCK` in `kernels/device/cuda.h`.
const BLOCK: u32 = 256;
/// Turing: the first generation with the instructions that the kernels are written for.
const OLDEST: (i32, i32) = (7, 5);
/// What the driver must know, as `cuDriverGetVersion` says it: CUDA 12.0, which is driver 525.
const OLDEST_DRIVER: i32 = 12_000;
/// Uploads pass through two pinned buffers of this size.
const STAGING_BYTES: usize = 4 << 20;

pub(super) struct Cuda {
    /// `cuda:0 (NVIDIA A100)`: how errors begin.
    device: String,
    description: String,
    /// What the running code was made for.
    target: String,
    tuning: &'static Tuning,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// By module and index. None where the code has no such kernel: what needs a later generation is absent.
    functions: Vec<Vec<Option<CudaFunction>>>,
    staging: Mutex<Staging>,
    /// Read by whoever queues something, written by a capture: what another thread queued meanwhile would be captured too.
    capture: RwLock<()>,
    /// What the work that is being captured names.
    held: Mutex<Vec<Arc<Memory>>>,
}

thread_local! {
    /// The device that this thread captures, by its address.
    static CAPTURING: Cell<usize> = const { Cell::new(0) };
}

/// Launches that were captured, to be started as one, and the memory they work on.
pub(super) struct CapturedGraph {
    graph: CudaGraph,
    _memory: Vec<Arc<Memory>>,
}

/// Pinned memory between the caller's slices and the GPU. A copy from pinned memory does not wait for the work that is
/// queued before it, and the caller may change its slice as soon as `write` returns.
struct Staging {
    slots: [Slot; 2],
    turn: usize,
}

struct Slot {
    memory: PinnedHostSlice<u8>,
    /// The last copy out of this slot has ended.
    copied: Event,
}

pub(super) struct CudaEvent {
    device: String,
    event: Event,
}

impl CudaEvent {
    pub fn since(&self, earlier: &CudaEvent) -> Result<Duration> {
        let milliseconds = earlier.event.elapsed_ms(&self.event).map_err(said(&self.device, "timing"))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

/// For `map_err`: what the driver said, to what.
fn said(device: &str, what: impl std::fmt::Display) -> impl FnOnce(result::DriverError) -> Error {
    move |e| Error::Device(format!("{device}: {what}: {}", words(e)))
}

/// `out of memory (CUDA_ERROR_OUT_OF_MEMORY)`
fn words(error: result::DriverError) -> String {
    match (error.error_string(), error.error_name()) {
        (Ok(text), Ok(name)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("CUDA error {}", error.0 as u32),
    }
}

/// The number of GPUs, once it is certain that there is a driver that can be asked.
fn count(device: &str) -> Result<usize> {
    // SAFETY: asks the loader for libcuda; no function of it is called.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device(format!("{device}: there is no NVIDIA driver (libcuda.so.1 was not found)")));
    }
    let mut version = 0;
    // SAFETY: the library is there, and the pointer is to a live integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(said(device, "asking for the driver's version"))?;
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(Error::Device(format!(
            "{device}: the NVIDIA driver knows CUDA {major}.{minor}; CUDA 12.0 is needed, which is driver 525 or later"
        )));
    }
    let visible = || match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(list) => format!(" (CUDA_VISIBLE_DEVICES is {list:?})"),
        Err(_) => String::new(),
    };
    match CudaContext::device_count() {
        Ok(n) if n > 0 => Ok(n as usize),
        Ok(_) | Err(result::DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
            Err(Error::Device(format!("{device}: there is an NVIDIA driver, but it sees no GPU{}", visible())))
        }
        Err(e) => Err(said(device, format!("starting the driver{}", visible()))(e)),
    }
}

impl Cuda {
    pub fn new(ordinal: usize) -> Result<Cuda> {
        let device = format!("cuda:{ordinal}");
        let count = count(&device)?;
        if ordinal >= count {
            let there = if count == 1 { "only cuda:0".into() } else { format!("cuda:0 to cuda:{}", count - 1) };
            return Err(Error::Device(format!("{device}: this machine has {there}")));
        }
        let context = CudaContext::new(ordinal).map_err(said(&device, "opening the device"))?;
        // SAFETY: no memory of cudarc's own is ever made here, and there is one stream.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(said(&device, "asking for its name"))?;
        let device = format!("{device} ({name})");
        let (major, minor) = context.compute_capability().map_err(said(&device, "asking for its capability"))?;
        if (major, minor) < OLDEST {
            return Err(Error::Device(format!(
                "{device}: its compute capability is {major}.{minor}; {}.{} or later is needed",
                OLDEST.0, OLDEST.1
            )));
        }
        let memory = context.total_mem().map_err(said(&device, "asking for its memory"))?;
        let (target, functions) = load(&context, &device, (major, minor))?;
        let stream = context.new_stream().map_err(said(&device, "making a stream"))?;
        let staging = Mutex::new(Staging { slots: [slot(&context, &device)?, slot(&context, &device)?], turn: 0 });
        Ok(Cuda {
            description: format!(
                "cuda:{ordinal}: {name}, compute capability {major}.{minor}, {}, code for {target}",
                size(memory)
            ),
            tuning: tuning::of_gpu(&name),
            device,
            target,
            context,
            stream,
            functions,
            staging,
            capture: RwLock::new(()),
            held: Mutex::new(Vec::new()),
        })
    }

    pub fn description(&self) -> String {
        self.description.clone()
    }

    pub fn tuning(&self) -> &'static Tuning {
        self.tuning
    }

    pub fn synchronize(&self) -> Result<()> {
        let _turn = self.outside_capture("waiting")?;
        self.stream.synchronize().map_err(self.said("waiting"))
    }

    pub fn event(&self) -> Result<CudaEvent> {
        let _turn = self.outside_capture("an event")?;
        // The default is an event without timing.
        let event = self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(self.said("event"))?;
        Ok(CudaEvent { device: self.device.clone(), event })
    }

    pub fn zeros(&self, bytes: usize) -> Result<u64> {
        let turn = self.outside_capture("an allocation")?;
        // SAFETY: the context is current and the stream its own; what is allocated is written below before it is read.
        let address = unsafe {
            if self.context.has_async_alloc() {
                result::malloc_async(self.stream.cu_stream(), bytes)
            } else {
                result::malloc_sync(bytes)
            }
        };
        let address = match address {
            Ok(address) => address,
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => return Err(self.full(bytes)),
            Err(e) => return Err(self.said(format!("allocating {}", size(bytes)))(e)),
        };
        drop(turn);
        self.zero(address, bytes).inspect_err(|_| self.free(address))?;
        Ok(address)
    }

    /// Frees what `zeros` gave, after the work that is queued now. What fails is told by the next call.
    pub fn free(&self, address: u64) {
        self.context.record_err(self.context.bind_to_thread());
        // SAFETY: `zeros` allocated it, in this way, and its one owner frees it once.
        self.context.record_err(unsafe {
            if self.context.has_async_alloc() {
                result::free_async(address, self.stream.cu_stream())
            } else {
                result::free_sync(address)
            }
        });
    }

    /// Returns as soon as `values` may change; the GPU may still be busy with what was queued before.
    pub fn write(&self, address: u64, values: &[u8]) -> Result<()> {
        let _turn = self.outside_capture("a copy from the host")?;
        let mut staging = self.staging.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut to = address;
        for part in values.chunks(STAGING_BYTES) {
            staging.turn = 1 - staging.turn;
            let turn = staging.turn;
            let Slot { memory, copied } = &mut staging.slots[turn];
            // SAFETY: the part is no longer than the slot. Nothing reads the slot while it is filled: `synchronize`
            // waited for the last copy out of it (it returns at once where there was none). The caller's range on
            // the device is inside a live allocation (`Buffer::write`).
            let copy = copied.synchronize().and_then(|()| memory.as_mut_ptr()).and_then(|pinned| unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), pinned, part.len());
                sys::cuMemcpyHtoDAsync_v2(to, pinned.cast(), part.len(), self.stream.cu_stream()).result()?;
                copied.record(&self.stream)
            });
            copy.map_err(self.said(format!("copying {} to the device", size(values.len()))))?;
            to += part.len() as u64;
        }
        Ok(())
    }

    /// Waits for all work queued so far.
    pub fn read(&self, address: u64, values: &mut [u8]) -> Result<()> {
        let _turn = self.outside_capture("a copy to the host")?;
        let bytes = values.len();
        // SAFETY: the range on the device is inside a live allocation (`Buffer::read_into`), and `values` stays
        // borrowed until the copy has ended.
        let copied = unsafe { result::memcpy_dtoh_async(values, address, self.stream.cu_stream()) };
        copied
            .and_then(|()| self.stream.synchronize())
            .map_err(self.said(format!("copying {} from the device", size(bytes))))
    }

    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        let _turn = self.bind()?;
        // SAFETY: both ranges are inside live allocations (`Buffer::copy_from`).
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(self.said(format!("copying {}", size(bytes))))
    }

    pub fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        let _turn = self.bind()?;
        // SAFETY: the range is inside a live allocation (`Buffer::zero`, `zeros`).
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(self.said(format!("zeroing {}", size(bytes))))
    }

    /// # Safety
    /// As [`super::Launch::run`].
    pub unsafe fn launch(&self, kernel: Kernel, grid: [u32; 3], arguments: &[*const c_void]) -> Result<()> {
        let Some(function) = &self.functions[kernel.module][kernel.index] else {
            return Err(Error::Device(format!(
                "{}: {} is not in the code for {}: it needs a later generation",
                self.device, kernel.name, self.target
            )));
        };
        let _turn = self.bind()?;
        // SAFETY: the caller's for the arguments, which the driver copies before it returns; the module of the
        // function lives as long as `self`.
        let launched = unsafe {
            sys::cuLaunchKernel(
                function.cu_function(),
                grid[0],
                grid[1],
                grid[2],
                BLOCK,
                1,
                1,
                0,
                self.stream.cu_stream(),
                arguments.as_ptr().cast_mut().cast(),
                std::ptr::null_mut(),
            )
        };
        launched.result().map_err(self.said(format!("{} of {grid:?} blocks", kernel.name)))
    }

    /// Captures what `work` queues here, without doing it.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<CapturedGraph> {
        const HINT: &str = "capturing a step as a graph (--no-graph launches its kernels one by one)";
        drop(self.outside_capture("another capture")?);
        let _alone = self.capture.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.context.bind_to_thread().map_err(self.said("an earlier call"))?;
        // Of this thread: what is unsafe during a capture, such as an allocation, the driver refuses to it alone.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(self.said(HINT))?;
        CAPTURING.set(std::ptr::from_ref(self) as usize);
        let done = work();
        CAPTURING.set(0);
        let memory = std::mem::take(&mut *self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        // What failed inside is the reason for what the driver says of the whole.
        done?;
        match graph.map_err(self.said(HINT))? {
            Some(graph) => Ok(CapturedGraph { graph, _memory: memory }),
            None => Err(Error::Device(format!("{}: {HINT}: nothing was captured", self.device))),
        }
    }

    pub fn launch_graph(&self, graph: &CapturedGraph) -> Result<()> {
        let _turn = self.bind()?;
        graph.graph.launch().map_err(self.said("launching a captured graph"))
    }

    /// The driver's calls act on the context of the calling thread. What is returned is held while something is queued.
    fn bind(&self) -> Result<Option<RwLockReadGuard<'_, ()>>> {
        let turn = || self.capture.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let turn = if self.captures() { None } else { Some(turn()) };
        self.context.bind_to_thread().map_err(self.said("an earlier call"))?;
        Ok(turn)
    }

    /// Called with the memory of everything that is queued: a graph keeps what it works on.
    pub fn hold(&self, memory: &Arc<Memory>) {
        if self.captures() {
            let mut held = self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if !held.iter().any(|known| Arc::ptr_eq(known, memory)) {
                held.push(memory.clone());
            }
        }
    }

    /// Whether this thread is within `capture`.
    fn captures(&self) -> bool {
        CAPTURING.get() == std::ptr::from_ref(self) as usize
    }

    /// As `bind`, for what cannot be done again by a graph.
    fn outside_capture(&self, what: &str) -> Result<Option<RwLockReadGuard<'_, ()>>> {
        if self.captures() {
            return Err(Error::Device(format!("{}: {what} while a graph is captured", self.device)));
        }
        self.bind()
    }

    fn said(&self, what: impl std::fmt::Display) -> impl FnOnce(result::DriverError) -> Error {
        said(&self.device, what)
    }

    fn full(&self, bytes: usize) -> Error {
        let free = match self.context.mem_get_info() {
            Ok((free, total)) => format!("{} of {}", size(free), size(total)),
            Err(_) => "less".into(),
        };
        Error::OutOfMemory { device: self.device.clone(), asked: size(bytes), free }
    }
}

// SAFETY: the handles belong to no thread, and a graph is not shared: `Graph` is not `Sync`.
unsafe impl Send for CapturedGraph {}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Queued copies may still read the pinned memory.
        self.context.record_err(self.stream.synchronize());
    }
}

fn slot(context: &Arc<CudaContext>, device: &str) -> Result<Slot> {
    // SAFETY: every byte is written before it is read (`Cuda::write`). No flags: write-combined memory is slow to fill
    // in parts.
    let memory = unsafe { context.alloc_pinned_with_flags::<u8>(STAGING_BYTES, 0) };
    let memory = memory.map_err(said(device, format!("allocating {} of pinned memory", size(STAGING_BYTES))))?;
    let copied = context.new_event(None).map_err(said(device, "making an event"))?;
    Ok(Slot { memory, copied })
}

type Functions = Vec<Vec<Option<CudaFunction>>>;

/// The functions of every module, from the best code there is, and what that was made for.
fn load(context: &Arc<CudaContext>, device: &str, capability: (i32, i32)) -> Result<(String, Functions)> {
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
    let function = |kernel: &Kernel| match loaded.load_function(kernel.name) {
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
        let path = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = path("XDG_CACHE_HOME").or_else(|| path("HOME").map(|home| home.join(".cache")));
        Cache { folder: folder.map(|folder| folder.join("zgan")), version, target: target.into() }
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
