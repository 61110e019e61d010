//! The `cuda` execution: an NVIDIA GPU, through cudarc.
//!
//! All work goes to one stream, in order, and the program waits for it only where it reads something back. It is not the
//! default stream, and cudarc's own events are off, so that a stretch of it can be captured as a graph and started again
//! and again with one call ([`graph`]). Meanwhile a second stream copies the next batch ([`feed`]).
//!
//! The machine code is what `build.rs` embedded for this generation of GPUs, or PTX that the driver translates. Where
//! there is neither, NVRTC compiles the embedded sources when the device is opened, and the result is kept in the user's
//! cache folder.

pub mod code;
pub mod driver;
mod facts;
mod faults;
mod feed;
mod graph;
mod nccl;

use std::ffi::c_void;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use cudarc::driver::{CudaContext, CudaEvent as Event, CudaFunction, CudaStream, PinnedHostSlice, result, sys};

use super::buffer::{Memory, size};
use super::kernels::Kernel;
use super::tuning::{CUDA_WORKERS, Kind};
use crate::{Error, Result};
use faults::Faults;
pub(super) use feed::CudaFeed;
pub(super) use graph::{CapturedGraph, CudaEvent};

/// Turing: the first generation that has the instructions which the kernels use.
const OLDEST: (i32, i32) = (7, 5);
/// The least version of `cuDriverGetVersion`: CUDA 12.0, which is driver 525.
const OLDEST_DRIVER: i32 = 12_000;
/// Uploads go through two pinned buffers of this size.
const STAGING_BYTES: usize = 4 << 20;

pub(super) struct Cuda {
    /// `cuda:0 (NVIDIA A100)`: errors begin with it.
    device: String,
    description: String,
    /// What the code was compiled for: `sm_90`.
    target: String,
    name: String,
    /// Multiprocessors.
    workers: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// By module and index. None for a kernel that needs a later generation of GPUs: this one's code does not have it.
    functions: Vec<Vec<Option<CudaFunction>>>,
    staging: Mutex<Staging>,
    /// Whoever queues something holds it to read, a capture holds it to write: what another thread queued during a capture
    /// would be captured too.
    capture: RwLock<()>,
    /// The memory that the captured work uses.
    held: Mutex<Vec<Arc<Memory>>>,
    /// What the thread that captures frees meanwhile: in a graph, it would be freed at each replay.
    freed: Mutex<Vec<(u64, bool)>>,
    faults: Arc<Faults>,
}

/// Pinned memory between the caller's slices and the GPU. The program need not wait for a copy from pinned memory, and the
/// caller may change its slice as soon as `write` returns.
struct Staging {
    slots: [Slot; 2],
    turn: usize,
}

struct Slot {
    memory: PinnedHostSlice<u8>,
    /// Marks the end of the last copy out of this slot.
    copied: Event,
}

/// For `map_err`: an error that says what was asked of the driver, and what it answered.
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

/// The number of GPUs. Makes sure first that there is a driver to ask.
fn count(device: &str) -> Result<usize> {
    driver::open().map_err(|missing| match missing {
        driver::Missing::NoDriver(reason) => Error::NoGpu(format!("{device}: {reason}")),
        driver::Missing::OutOfReach(reason) => Error::Device(format!("{device}: {reason}")),
    })?;
    let visible = || match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(list) => format!(" (CUDA_VISIBLE_DEVICES is {list:?})"),
        Err(_) => String::new(),
    };
    match CudaContext::device_count() {
        Ok(n) if n > 0 => Ok(n as usize),
        Ok(_) | Err(result::DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
            Err(Error::NoGpu(format!("{device}: there is an NVIDIA driver, but it sees no GPU{}", visible())))
        }
        Err(e) => Err(said(device, format!("starting the driver{}", visible()))(e)),
    }
}

/// How many GPUs there are, as far as that can be told.
pub(super) fn visible() -> usize {
    count("cuda").unwrap_or(0)
}

/// The version of CUDA that the driver knows, 12080 for 12.8.
fn driver_version(device: &str) -> Result<i32> {
    let mut version = 0;
    // SAFETY: the pointer is to a live integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(said(device, "asking for the driver's version"))?;
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(Error::Device(format!(
            "{device}: the NVIDIA driver knows CUDA {major}.{minor}; CUDA 12.0 is needed, which is driver 525 or later"
        )));
    }
    Ok(version)
}

/// What can be asked of a GPU before it is opened: its name and its compute capability.
fn named(ordinal: usize) -> std::result::Result<(String, (i32, i32)), result::DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let gpu = result::device::get(ordinal as i32)?;
    // SAFETY: the driver gave this handle.
    let capability =
        unsafe { (result::device::get_attribute(gpu, MAJOR)?, result::device::get_attribute(gpu, MINOR)?) };
    Ok((result::device::get_name(gpu)?, capability))
}

impl Cuda {
    pub fn new(ordinal: usize) -> Result<Cuda> {
        let device = format!("cuda:{ordinal}");
        let count = count(&device)?;
        if ordinal >= count {
            let there = if count == 1 { "only cuda:0".into() } else { format!("cuda:0 to cuda:{}", count - 1) };
            return Err(Error::NoGpu(format!("{device}: this machine has {there}")));
        }
        let (name, (major, minor)) = named(ordinal).map_err(said(&device, "asking for its name and capability"))?;
        let device = format!("{device} ({name})");
        if (major, minor) < OLDEST {
            return Err(Error::NoGpu(format!(
                "{device}: its compute capability is {major}.{minor}; {}.{} or later is needed",
                OLDEST.0, OLDEST.1
            )));
        }
        let version = driver_version(&device)?;
        let context = CudaContext::new(ordinal).map_err(said(&device, "opening the device"))?;
        // SAFETY: no memory of cudarc's own is ever made here but what is pinned; what one stream needs of the other is
        // waited for in `feed`.
        unsafe { context.disable_event_tracking() };
        let memory = context.total_mem().map_err(said(&device, "asking for its memory"))?;
        // Only the choice of tiles depends on it, and every tile gives the same bits.
        let multiprocessors = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        let (target, functions) = code::load(&context, &device, (major, minor), version)?;
        let stream = context.new_stream().map_err(said(&device, "making a stream"))?;
        let staging = Mutex::new(Staging { slots: [slot(&context, &device)?, slot(&context, &device)?], turn: 0 });
        Ok(Cuda {
            description: format!(
                "cuda:{ordinal}: {name}, compute capability {major}.{minor}, {}, code for {target}",
                size(memory)
            ),
            workers: multiprocessors.map_or(CUDA_WORKERS, |n| n.max(1) as usize),
            name,
            device,
            target,
            context,
            stream,
            functions,
            staging,
            capture: RwLock::new(()),
            held: Mutex::new(Vec::new()),
            freed: Mutex::new(Vec::new()),
            faults: Arc::new(Faults::new()?),
        })
    }

    pub fn description(&self) -> String {
        self.description.clone()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> Kind {
        Kind::of_gpu(&self.name)
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    pub fn synchronize(&self) -> Result<()> {
        let _turn = self.outside_capture("waiting")?;
        self.faults.waiting(|| self.stream.synchronize()).map_err(self.said("waiting"))
    }

    /// Memory from the driver's pool, or `apart`: an allocation of its own, as tools that check accesses want it.
    pub fn zeros(&self, bytes: usize, apart: bool) -> Result<u64> {
        let turn = self.outside_capture("an allocation")?;
        // SAFETY: the context is current and the stream its own; what is allocated is written below before it is read.
        let address = unsafe {
            if self.pools(apart) {
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
        self.zero(address, bytes).inspect_err(|_| self.free(address, apart))?;
        Ok(address)
    }

    fn pools(&self, apart: bool) -> bool {
        !apart && self.context.has_async_alloc()
    }

    /// Frees what `zeros` gave, after the work that is queued now and outside of any graph. The next call reports what
    /// fails here.
    pub fn free(&self, address: u64, apart: bool) {
        if self.captures() {
            return self.freed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((address, apart));
        }
        let _turn = self.capture.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.context.record_err(self.context.bind_to_thread());
        // SAFETY: `zeros` allocated it, in this way, and its one owner frees it once.
        self.context.record_err(unsafe {
            if self.pools(apart) {
                result::free_async(address, self.stream.cu_stream())
            } else {
                result::free_sync(address)
            }
        });
    }

    /// Returns as soon as the caller may change `values`; the GPU may still be busy with what was queued before.
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
            let copy = self.faults.watched(|| copied.synchronize()).and_then(|()| memory.as_mut_ptr()).and_then(
                |pinned| unsafe {
                    std::ptr::copy_nonoverlapping(part.as_ptr(), pinned, part.len());
                    sys::cuMemcpyHtoDAsync_v2(to, pinned.cast(), part.len(), self.stream.cu_stream()).result()?;
                    copied.record(&self.stream)
                },
            );
            copy.map_err(self.said(format!("copying {} to the device", size(values.len()))))?;
            to += part.len() as u64;
        }
        Ok(())
    }

    /// Waits for all work that was queued so far.
    pub fn read(&self, address: u64, values: &mut [u8]) -> Result<()> {
        let _turn = self.outside_capture("a copy to the host")?;
        let bytes = values.len();
        // SAFETY: the range on the device is inside a live allocation (`Buffer::read_into`), and `values` stays
        // borrowed until the copy has ended.
        let copied = unsafe { result::memcpy_dtoh_async(values, address, self.stream.cu_stream()) };
        copied
            .and_then(|()| self.faults.waiting(|| self.stream.synchronize()))
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
    pub unsafe fn launch(&self, kernel: &Kernel, grid: [u32; 3], arguments: &[*const c_void]) -> Result<()> {
        let Some(function) = self.functions.get(kernel.module).and_then(|functions| functions[kernel.index].as_ref())
        else {
            return Err(Error::Device(format!(
                "{}: {} is not in the code for {}: it needs a later generation, or a CPU",
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
                kernel.threads,
                1,
                1,
                0,
                self.stream.cu_stream(),
                arguments.as_ptr().cast_mut().cast(),
                std::ptr::null_mut(),
            )
        };
        let what = format_args!("{} of {grid:?} blocks", kernel.name);
        launched.result().map_err(self.said(what))?;
        if self.captures() {
            return Ok(());
        }
        self.faults.launched(kernel);
        match self.waits_for_launches() {
            true => self.faults.waiting(|| self.stream.synchronize()).map_err(self.said(what)),
            false => Ok(()),
        }
    }

    /// Whether each launch is waited for (`ZGAN_SYNC=1`).
    pub fn waits_for_launches(&self) -> bool {
        self.faults.synchronous
    }

    /// Makes the context that of the calling thread, as the driver's calls want it. The caller holds what is returned while
    /// it queues something.
    fn bind(&self) -> Result<Option<RwLockReadGuard<'_, ()>>> {
        let turn = || self.capture.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let turn = if self.captures() { None } else { Some(turn()) };
        if let Some(why) = self.faults.lost() {
            return Err(Error::Ranks(why.into()));
        }
        self.context.bind_to_thread().map_err(self.said("an earlier call"))?;
        Ok(turn)
    }

    /// As `bind`, for what a graph cannot do again.
    fn outside_capture(&self, what: &str) -> Result<Option<RwLockReadGuard<'_, ()>>> {
        if self.captures() {
            return Err(Error::Device(format!("{}: {what} while a graph is captured", self.device)));
        }
        self.bind()
    }

    fn said(&self, what: impl std::fmt::Display) -> impl FnOnce(result::DriverError) -> Error {
        move |e| match self.faults.lost() {
            Some(why) => Error::Ranks(why.into()),
            None => Error::Device(format!("{}: {what}: {}{}", self.device, words(e), self.faults.suspects(e))),
        }
    }

    fn full(&self, bytes: usize) -> Error {
        let free = match self.context.mem_get_info() {
            Ok((free, total)) => format!("{} of {}", size(free), size(total)),
            Err(_) => "less".into(),
        };
        Error::OutOfMemory { device: self.device.clone(), asked: size(bytes), free }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Queued copies may still read the pinned memory.
        self.context.record_err(self.stream.synchronize());
    }
}

fn slot(context: &Arc<CudaContext>, device: &str) -> Result<Slot> {
    let copied = context.new_event(None).map_err(said(device, "making an event"))?;
    Ok(Slot { memory: pinned(context, device, STAGING_BYTES)?, copied })
}

/// Every byte of the memory must be written before it is read.
fn pinned(context: &Arc<CudaContext>, device: &str, bytes: usize) -> Result<PinnedHostSlice<u8>> {
    // SAFETY: the callers' (`Cuda::write`, `CudaFeed::fill`). No flags: write-combined memory is slow to fill in parts.
    let memory = unsafe { context.alloc_pinned_with_flags::<u8>(bytes, 0) };
    memory.map_err(said(device, format!("allocating {} of pinned memory", size(bytes))))
}
