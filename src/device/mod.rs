//! Where kernels run: one interface over the three executions of the same kernel text.
//!
//! - [`Device::cuda`]: an NVIDIA GPU, through cudarc;
//! - [`Device::host`]: this machine's cores, a block being one thread;
//! - [`Device::simt`]: real thread blocks as coroutines, for checking.
//!
//! A [`Buffer`] is typed memory on a device, and a view of a buffer is a buffer. Operations ([`crate::ops`]) are
//! the only users of `Launch`; nothing above them knows which execution is running.

mod buffer;
pub mod cuda;
mod host;
mod kernels;
mod launch;
mod meeting;
#[cfg(feature = "mpi")]
mod mpi;
pub mod nvrtc;
pub mod nvtx;
mod precision;
mod ranks;
pub mod simt;
mod started;
mod tuning;

pub(crate) use buffer::size;
pub use buffer::{Buffer, Element, Reals};
pub(crate) use host::SCRATCH_BYTES;
pub use kernels::{Kernel, Module, Tile, Variants, kernel, kernel_named, kernel_source, kernel_text};
pub use launch::{COPY, Launched, Traffic, ZERO, memory, trace, traffic};
pub(crate) use launch::{Launch, MOST_BLOCKS};
pub use meeting::Meeting;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use precision::Precision;
pub(crate) use ranks::Counting;
pub use ranks::{Communicator, Reduction};
pub use simt::{Check, Finding, Global, Line, Profile, Seen, SharedMemory, Tally, Unit};
pub use started::{Started, started};
pub(crate) use tuning::Fixed;
pub(crate) use tuning::LEAST_COLUMNS;
pub use tuning::{Convolution, FIELDS, Field, Products, TileCost, Tuning};

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::sizes::{filled, product};
use crate::{Error, Result};
use tuning::Kind;

/// The GPU targets that this binary holds code for, and the bytes of that code. There are none where it was built without
/// NVRTC.
pub fn embedded_images() -> Vec<(&'static str, usize)> {
    kernel::IMAGES.iter().map(|(target, images)| (*target, images.iter().map(|i| i.packed_len()).sum())).collect()
}

/// The version of NVRTC that made the embedded code.
pub fn embedded_compiler() -> Option<(i32, i32)> {
    kernel::NVRTC
}

/// A module's code for one GPU target, as the binary holds it.
pub struct EmbeddedImage {
    pub target: &'static str,
    pub module: &'static Module,
    /// A cubin, or PTX.
    pub code: Vec<u8>,
    /// What the assembler said of each kernel. PTX has not been assembled yet, so it has none.
    pub assembled: Vec<nvrtc::Assembled>,
}

/// All embedded code, unpacked, target by target.
pub fn embedded_code() -> std::result::Result<Vec<EmbeddedImage>, String> {
    let images = kernel::IMAGES.iter().flat_map(|(target, images)| {
        let modules = kernel::MODULES.iter();
        modules.zip(*images).map(|(module, image)| (*target, module, image))
    });
    let unpacked = |(target, module, image): (&'static str, &'static Module, &kernels::Image)| {
        let assembled = image.assembled.lines().filter_map(nvrtc::Assembled::parse).collect();
        Ok(EmbeddedImage { target, module, code: image.unpack()?, assembled })
    };
    images.map(unpacked).collect()
}

impl Unbacked {
    fn allocate(&self, bytes: usize) -> u64 {
        let bytes = bytes.checked_next_multiple_of(buffer::ALIGNMENT).unwrap_or(usize::MAX);
        self.next.fetch_add(bytes as u64, Ordering::Relaxed)
    }
}

/// Whether this variable of the environment, of those that help to find mistakes, is 1. Without it, or where it is empty or
/// 0, it is not.
fn switched_on(variable: &str) -> Result<bool> {
    match std::env::var_os(variable) {
        None => Ok(false),
        Some(value) if value.is_empty() || value == "0" => Ok(false),
        Some(value) if value == "1" => Ok(true),
        Some(value) => Err(Error::Config(format!("{variable}: {value:?}, expected 1 or 0"))),
    }
}

/// Whether this build has the feature `check`: the execution `simt`, and the host's kernels in other precisions than f32.
pub const HAS_CHECK: bool = cfg!(feature = "check");

/// The error of a build without the feature `check` where it is needed.
pub fn needs_check(what: &str) -> Error {
    Error::Config(format!("{what} is not in this build; this one has it: cargo run --release --features check -- ..."))
}

/// A handle on a device, with the block sizes that hold for it. Clones share both.
#[derive(Clone)]
pub struct Device {
    backend: Arc<Backend>,
    tuning: Arc<Tuning>,
    /// What this machine's own memory is touched under, see [`Device::turn`].
    turn: Arc<Mutex<()>>,
    red_zones: bool,
    ranks: Option<Arc<dyn Communicator>>,
}

/// What the driver says of a GPU. 0 stands for what it does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub capability: (i32, i32),
    pub multiprocessors: usize,
    /// Bytes of the cache that all multiprocessors share.
    pub l2: usize,
    /// Bytes.
    pub memory: usize,
    /// The latest CUDA that the driver knows.
    pub cuda: (i32, i32),
    /// Its place on the bus, as nvidia-smi writes it: `00000000:65:00.0`.
    pub bus: String,
}

enum Backend {
    Host(host::Host),
    Simt(simt::Simt),
    Cuda(Box<cuda::Cuda>),
    /// Buffers have a length and an address, but no memory behind them. It is for measuring how much memory something takes
    /// (`crate::nn::Arena`), and for listing what it launches.
    Unbacked(Unbacked),
}

struct Unbacked {
    kind: Kind,
    workers: usize,
    /// The next free address. None is given twice, so that two buffers never overlap.
    next: AtomicU64,
}

impl Backend {
    fn kind(&self) -> Kind {
        match self {
            Backend::Host(_) => Kind::Host,
            Backend::Simt(_) => Kind::Simt,
            Backend::Cuda(cuda) => cuda.kind(),
            Backend::Unbacked(unbacked) => unbacked.kind,
        }
    }
}

/// What `--device` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU; the host where there is none. A GPU that does not work is an error.
    Auto,
    Host,
    Cuda(usize),
    /// The GPUs whose bits are set, as far as there are any: a rank on each.
    Several(u64),
    Simt,
}

impl DeviceChoice {
    /// The numbers of the GPUs, where this may name several.
    pub fn gpus(self) -> Option<Vec<usize>> {
        let DeviceChoice::Several(which) = self else { return None };
        let there = if which == u64::MAX { cuda::visible() } else { usize::MAX };
        Some((0..there.min(64)).filter(|gpu| which >> gpu & 1 == 1).collect())
    }

    /// What this names for the `local`-th of the ranks on a machine: a GPU each, in their order, from the named one on. Where
    /// there are fewer GPUs, or where the starter shows each rank a single one, they begin again.
    pub fn of_rank(self, local: usize) -> DeviceChoice {
        if let Some(gpus) = self.gpus() {
            return gpus.get(local).map_or(self, |gpu| DeviceChoice::Cuda(*gpu));
        }
        match (self, cuda::visible()) {
            (DeviceChoice::Auto, gpus) if gpus > 0 && local > 0 => DeviceChoice::Cuda(local % gpus),
            (DeviceChoice::Cuda(first), gpus) if first < gpus => DeviceChoice::Cuda((first + local) % gpus),
            (choice, _) => choice,
        }
    }
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "host" => Ok(DeviceChoice::Host),
            "simt" => Ok(DeviceChoice::Simt),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "cuda:all" => Ok(DeviceChoice::Several(u64::MAX)),
            _ => {
                let unknown = || {
                    format!(
                        "no device is called {text:?}; there are auto, host, cuda, cuda:N, cuda:N,N,..., cuda:all and simt"
                    )
                };
                let list = text.strip_prefix("cuda:").ok_or_else(unknown)?.split(',');
                let numbers = list.map(|n| n.parse::<usize>().ok()).collect::<Option<Vec<_>>>().ok_or_else(unknown)?;
                if let [one] = numbers[..] {
                    return Ok(DeviceChoice::Cuda(one));
                }
                let mut which = 0u64;
                for gpu in numbers {
                    let bit =
                        1u64.checked_shl(gpu as u32).ok_or_else(|| format!("{text}: the last one can be cuda:63"))?;
                    if which & bit != 0 {
                        return Err(format!("{text}: cuda:{gpu} is there twice; each rank has a GPU of its own"));
                    }
                    which |= bit;
                }
                Ok(DeviceChoice::Several(which))
            }
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Host => f.write_str("host"),
            DeviceChoice::Cuda(n) => write!(f, "cuda:{n}"),
            DeviceChoice::Several(u64::MAX) => f.write_str("cuda:all"),
            DeviceChoice::Several(which) => {
                let gpus: Vec<_> = (0..64).filter(|gpu| which >> gpu & 1 == 1).map(|gpu| gpu.to_string()).collect();
                write!(f, "cuda:{}", gpus.join(","))
            }
            DeviceChoice::Simt => f.write_str("simt"),
        }
    }
}

impl Device {
    /// Opens what `--device` names. `threads` is for the host: 0 takes all cores. The second value says why
    /// [`DeviceChoice::Auto`] chose this device. With `ZGAN_REDZONES=1` in the environment it has red zones
    /// ([`Device::with_red_zones`]).
    pub fn open(choice: DeviceChoice, threads: usize) -> Result<(Device, Option<String>)> {
        let red_zones = switched_on("ZGAN_REDZONES")?;
        let (device, why) = Device::open_plain(choice, threads)?;
        Ok((Device { red_zones, ..device }, why))
    }

    fn open_plain(choice: DeviceChoice, threads: usize) -> Result<(Device, Option<String>)> {
        match choice {
            DeviceChoice::Host => Ok((Device::host(threads)?, None)),
            DeviceChoice::Simt if !HAS_CHECK => Err(needs_check("device simt")),
            DeviceChoice::Simt => Ok((Device::simt(0), None)),
            DeviceChoice::Cuda(ordinal) => Ok((Device::cuda(ordinal)?, None)),
            DeviceChoice::Several(_) => match choice.gpus().unwrap_or_default()[..] {
                [] => Ok((Device::cuda(0)?, None)),
                [one] => Ok((Device::cuda(one)?, None)),
                _ => Err(Error::Config(format!(
                    "device {choice}: several GPUs are for zgan train, sample and eval; one of them is cuda:0"
                ))),
            },
            DeviceChoice::Auto => match Device::cuda(0) {
                Ok(device) => Ok((device, Some("the first GPU".into()))),
                Err(Error::NoGpu(reason)) => Ok((Device::host(threads)?, Some(reason))),
                // There is a GPU, and its owner did not ask for the processor.
                Err(reason) => Err(Error::Device(format!("{reason}; or choose the processor with --device host"))),
            },
        }
    }

    /// `threads` of this machine's cores (0: all), with the most capable instruction set that it has or the one that the
    /// environment variable `ZGAN_ISA` names.
    pub fn host(threads: usize) -> Result<Device> {
        let isa = std::env::var("ZGAN_ISA").ok();
        Ok(Device::of(Backend::Host(host::Host::new(threads, isa.as_deref())?)))
    }

    /// As [`Device::host`], with the instruction set of this name.
    pub fn host_with_isa(threads: usize, isa: &str) -> Result<Device> {
        Ok(Device::of(Backend::Host(host::Host::new(threads, Some(isa))?)))
    }

    /// The instruction sets that this machine can run, from the least to the most capable.
    pub fn host_isas() -> Vec<&'static str> {
        host::usable().map(|table| table.isa).collect()
    }

    /// Thread blocks as coroutines. `schedule_seed` shuffles the order in which the threads of a block run; 0 keeps it.
    pub fn simt(schedule_seed: u64) -> Device {
        Device::of(Backend::Simt(simt::Simt::new(schedule_seed, false, None)))
    }

    /// The same under the four checkers of `zgan check`: [`Device::seen`] tells what they found. Slow.
    pub fn simt_checked(schedule_seed: u64) -> Device {
        Device::of(Backend::Simt(simt::Simt::new(schedule_seed, true, None)))
    }

    /// The same with another build of one file's kernels (`tests/planted_defects.rs`).
    ///
    /// # Safety
    /// `entries` must be the table that a build of this module's kernels for `simt` defines, and stay loaded.
    #[doc(hidden)]
    pub unsafe fn simt_with_module(schedule_seed: u64, module: &str, entries: *const c_void) -> Result<Device> {
        let found = kernel::MODULES.iter().position(|m| m.name == module);
        let index = found.ok_or_else(|| Error::Device(format!("simt: there is no kernel file {module}")))?;
        // SAFETY: the caller's; the table has an entry for each kernel of the file.
        let entries = unsafe { std::slice::from_raw_parts(entries.cast(), kernel::MODULES[index].kernels.len()) };
        Ok(Device::of(Backend::Simt(simt::Simt::new(schedule_seed, true, Some((index, entries))))))
    }

    /// Makes a checking device count, from now on, what a GPU's memory would feel of each kernel: [`Seen::profiles`].
    pub fn profile(&self) {
        if let Backend::Simt(simt) = &*self.backend {
            simt.profile();
        }
    }

    /// What a checking device has seen since it was made, or last asked.
    pub fn seen(&self) -> Seen {
        match &*self.backend {
            Backend::Simt(simt) => simt.seen(),
            _ => Seen::default(),
        }
    }

    /// The GPU of this number.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        Ok(Device::of(Backend::Cuda(Box::new(cuda::Cuda::new(ordinal)?))))
    }

    pub(crate) fn unbacked() -> Device {
        Device::without_memory(Kind::Host, 1)
    }

    /// Stands for a GPU of this name with this many multiprocessors, where only the launches matter that it would be given
    /// ([`trace`]). They do nothing, and whatever is read back is 0.
    pub fn launches_of_gpu(name: &str, multiprocessors: usize) -> Device {
        Device::without_memory(Kind::of_gpu(name), multiprocessors)
    }

    fn without_memory(kind: Kind, workers: usize) -> Device {
        Device::of(Backend::Unbacked(Unbacked { kind, workers, next: AtomicU64::new(buffer::ALIGNMENT as u64) }))
    }

    fn of(backend: Backend) -> Device {
        let tuning = Arc::new(backend.kind().tuning());
        Device { backend: Arc::new(backend), tuning, turn: Arc::default(), red_zones: false, ranks: None }
    }

    /// The same device with other block sizes. They hold for operations on buffers that this handle allocates; an
    /// operation's workspace must come from the same handle as its buffers.
    pub fn with_tuning(&self, tuning: Tuning) -> Result<Device> {
        tuning.check()?;
        Ok(Device { tuning: Arc::new(tuning), ..self.clone() })
    }

    /// The same device with this form of convolutions, where it has a choice.
    pub fn with_convolution(&self, convolution: Convolution) -> Device {
        Device { tuning: Arc::new(Tuning { convolution, ..self.tuning().clone() }), ..self.clone() }
    }

    /// Whether convolutions have Winograd's form here, and whether it is the faster one as a rule.
    pub(crate) fn winograd(&self) -> (bool, bool) {
        match &*self.backend {
            Backend::Host(host) => (true, host.has_wide_vectors()),
            Backend::Simt(_) => (true, false),
            Backend::Cuda(_) => (false, false),
            Backend::Unbacked(unbacked) => (unbacked.kind == Kind::Host, unbacked.kind == Kind::Host),
        }
    }

    /// The same device for finding accesses to memory that is not theirs: an arena that is made for this handle leaves red
    /// zones between its parts, and fills the parts with NaNs ([`crate::nn::Arena::check`]). A buffer that this handle
    /// allocates on a GPU is an allocation of its own, not a part of the driver's pool.
    pub fn with_red_zones(&self) -> Device {
        Device { red_zones: true, ..self.clone() }
    }

    pub(crate) fn has_red_zones(&self) -> bool {
        self.red_zones
    }

    /// One line for people: the execution and what it runs on.
    pub fn description(&self) -> String {
        match &*self.backend {
            Backend::Host(host) => host.description(),
            Backend::Simt(_) => "simt: thread blocks of 256 coroutines, for checking".into(),
            Backend::Cuda(cuda) => cuda.description(),
            Backend::Unbacked(_) => "no device".into(),
        }
    }

    /// `host`, `simt`, `cuda` or `none`.
    pub fn execution(&self) -> &'static str {
        match &*self.backend {
            Backend::Host(_) => "host",
            Backend::Simt(_) => "simt",
            Backend::Cuda(_) => "cuda",
            Backend::Unbacked(_) => "none",
        }
    }

    /// The name that a tuning is kept under: that of the GPU, or `host` with the instruction set. The number of threads is
    /// not in it, as no result depends on that.
    pub fn name(&self) -> String {
        match &*self.backend {
            Backend::Host(host) => host.name(),
            Backend::Cuda(cuda) => cuda.name().into(),
            Backend::Simt(_) | Backend::Unbacked(_) => self.execution().into(),
        }
    }

    /// What the driver says of the GPU; None on everything else.
    pub fn gpu(&self) -> Option<Gpu> {
        if let Backend::Cuda(cuda) = &*self.backend { Some(cuda.facts()) } else { None }
    }

    /// Bytes of the GPU's memory that may still be allocated; None on everything else.
    pub fn free_memory(&self) -> Result<Option<usize>> {
        if let Backend::Cuda(cuda) = &*self.backend { cuda.free_memory().map(Some) } else { Ok(None) }
    }

    /// An error unless this build has kernels of this precision for the device; of a GPU, its modules tell later.
    pub fn check_precision(&self, precision: Precision) -> Result<()> {
        match &*self.backend {
            Backend::Host(_) if precision != Precision::F32 && !HAS_CHECK => {
                Err(needs_check(&format!("precision {precision} on the host, where --precision f32 always is,")))
            }
            _ => Ok(()),
        }
    }

    /// The block sizes and split counts that hold for this handle.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// The ones that hold where nothing was measured.
    pub fn built_in_tuning(&self) -> Tuning {
        self.backend.kind().tuning()
    }

    pub(crate) fn fixed(&self) -> &'static Fixed {
        self.backend.kind().fixed()
    }

    /// Roughly how many blocks run at the same time. The choice of tiles depends on it.
    pub(crate) fn workers(&self) -> usize {
        match &*self.backend {
            Backend::Host(host) => host.threads(),
            Backend::Simt(_) => 1,
            Backend::Unbacked(unbacked) => unbacked.workers,
            Backend::Cuda(cuda) => cuda.workers(),
        }
    }

    /// A new buffer of zeros.
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        Buffer::zeros(self, len, Precision::F32)
    }

    /// A new buffer of zeros, stored in this precision.
    pub fn zeros_in(&self, len: usize, precision: Precision) -> Result<Reals> {
        Buffer::zeros(self, len, precision)
    }

    /// A new buffer with these values, rounded to this precision.
    pub fn upload_in(&self, values: &[f32], precision: Precision) -> Result<Reals> {
        let buffer = Buffer::zeros(self, values.len(), precision)?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// A new buffer that counts as never written: each of its bytes is 0xff, which makes a float not a number.
    pub(crate) fn unwritten_in(&self, len: usize, precision: Precision) -> Result<Reals> {
        let bytes = self.unwritten::<u8>(product([len, precision.bytes()]))?;
        Ok(bytes.as_reals(precision))
    }

    /// The same for other types of elements.
    pub(crate) fn unwritten<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let buffer = Buffer::zeros(self, len, Precision::F32)?;
        let value = bytemuck::pod_read_unaligned(&[0xff; 16][..size_of::<T>()]);
        buffer.write(&filled("what fills unwritten memory", len, value)?)?;
        buffer.mark(false);
        Ok(buffer)
    }

    /// A new buffer with these values.
    pub fn upload<T: Element>(&self, values: &[T]) -> Result<Buffer<T>> {
        let buffer = Buffer::zeros(self, values.len(), Precision::F32)?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// Waits until everything launched so far has ended.
    pub fn synchronize(&self) -> Result<()> {
        match &*self.backend {
            Backend::Cuda(cuda) => cuda.synchronize(),
            _ => Ok(()),
        }
    }

    /// Captures what `work` queues on this device, without doing it. None on everything but a GPU, where work is done as it
    /// is launched. `work` may launch kernels, copy between buffers and zero them. It may not allocate, wait, or copy from
    /// or to the host. The graph keeps the memory that it works on alive. With `ZGAN_SYNC=1`, which waits for each launch,
    /// and with [`nvtx`], which names launches, nothing is captured.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Option<Graph>> {
        match &*self.backend {
            Backend::Cuda(cuda) if !cuda.waits_for_launches() && !nvtx::is_on() => {
                Ok(Some(Graph { graph: cuda.capture(work)?, device: self.clone() }))
            }
            _ => Ok(None),
        }
    }

    /// How many batches may be on the device at a time, the one that it works on among them.
    pub(crate) fn input_slots(&self) -> usize {
        if let Backend::Cuda(_) = &*self.backend { 2 } else { 1 }
    }

    /// Makes what copies batches of `bytes` bytes into buffers that exist already.
    pub(crate) fn feed(&self, bytes: usize) -> Result<Feed> {
        let copies = match &*self.backend {
            Backend::Cuda(cuda) => Some(cuda.feed(self.input_slots(), bytes)?),
            _ => None,
        };
        Ok(Feed { copies, device: self.clone() })
    }

    /// A mark in the device's queue, for timing.
    pub fn event(&self) -> Result<Event> {
        match &*self.backend {
            Backend::Cuda(cuda) => Ok(Event(Mark::Cuda(cuda.event()?))),
            _ => Ok(Event(Mark::Host(std::time::Instant::now()))),
        }
    }

    pub(crate) fn launch(&self, kernel: impl Into<Variants>, grid: [u32; 3]) -> Launch<'_> {
        Launch::new(self, kernel.into(), grid)
    }

    /// Starts a kernel with the array of argument pointers that `cuLaunchKernel` takes, without the checks of `Launch`. For
    /// the driver that stands in for a GPU's (`tests/driver`), which has nothing else.
    ///
    /// # Safety
    /// As `Launch::run`, and there must be as many arguments as the kernel has parameters, and blocks in the grid.
    #[doc(hidden)]
    pub unsafe fn launch_raw(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        arguments: &[*const c_void],
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.start(kernel, grid, arguments, &[], 0) }
    }

    /// `views`, the buffers among the arguments, and `flops`, those of the kernel's products, are for the checkers.
    ///
    /// # Safety
    /// As [`Device::launch_raw`].
    unsafe fn start(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        arguments: &[*const c_void],
        views: &[simt::View],
        flops: u64,
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe {
            match &*self.backend {
                Backend::Host(host) => {
                    let _turn = self.turn();
                    host.launch(kernel, grid, arguments)
                }
                Backend::Simt(simt) => {
                    let _turn = self.turn();
                    simt.launch(kernel, grid, arguments, views, flops)
                }
                Backend::Cuda(cuda) => cuda.launch(kernel, grid, arguments),
                Backend::Unbacked(_) => Ok(()),
            }
        }
    }

    /// Held while something reads or writes this machine's own memory of the device: a launch, a copy, a zeroing. Handles
    /// and buffers may be shared between threads, and without it two of them could touch the same bytes at the same time. A
    /// GPU has its queue for that.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Tells the device about memory that the work to be queued next uses.
    fn hold(&self, memory: &Arc<buffer::Memory>) {
        if let Backend::Cuda(cuda) = &*self.backend {
            cuda.hold(memory);
        }
    }

    pub(crate) fn same(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.backend, &other.backend)
    }
}

/// Work that was captured ([`Device::capture`]) and can be done again and again at the price of one launch.
pub struct Graph {
    graph: cuda::CapturedGraph,
    device: Device,
}

impl Graph {
    pub fn launch(&self) -> Result<()> {
        match &*self.device.backend {
            Backend::Cuda(cuda) => cuda.launch_graph(&self.graph),
            _ => Ok(()),
        }
    }
}

/// Fills the buffers of [`Device::input_slots`] slots in turn. On a GPU one slot is filled while the device still works on
/// the other. The order is [`Feed::fill`], [`Feed::begin`], the work that reads the slot, [`Feed::end`].
pub(crate) struct Feed {
    /// Dropped first: it waits for copies that are under way.
    copies: Option<cuda::CudaFeed>,
    device: Device,
}

impl Feed {
    /// Copies these values to the buffers of a slot, once the work that read them is done. The caller may change the values
    /// when this returns.
    pub fn fill<A: Element, B: Element>(
        &mut self,
        slot: usize,
        (a, a_values): (&Buffer<A>, &[A]),
        (b, b_values): (&Buffer<B>, &[B]),
    ) -> Result<()> {
        let Some(copies) = &mut self.copies else { return a.write(a_values).and_then(|()| b.write(b_values)) };
        a.expect_len("write", a_values.len())?;
        b.expect_len("write", b_values.len())?;
        let parts = [(a.address(), bytemuck::cast_slice(a_values)), (b.address(), bytemuck::cast_slice(b_values))];
        match &*self.device.backend {
            Backend::Cuda(cuda) => cuda.fill_feed(copies, slot, &parts),
            _ => Ok(()),
        }
    }

    /// What is launched from now on reads what the slot was filled with.
    pub fn begin(&self, slot: usize) -> Result<()> {
        match (&*self.device.backend, &self.copies) {
            (Backend::Cuda(cuda), Some(copies)) => cuda.begin_feed(copies, slot),
            _ => Ok(()),
        }
    }

    /// Nothing that is launched from now on reads the slot, until it is filled again.
    pub fn end(&self, slot: usize) -> Result<()> {
        match (&*self.device.backend, &self.copies) {
            (Backend::Cuda(cuda), Some(copies)) => cuda.end_feed(copies, slot),
            _ => Ok(()),
        }
    }
}

/// A moment in a device's queue.
pub struct Event(Mark);

enum Mark {
    Host(std::time::Instant),
    Cuda(cuda::CudaEvent),
}

impl Event {
    /// The time from `earlier` to this event; waits for both.
    pub fn since(&self, earlier: &Event) -> Result<Duration> {
        match (&self.0, &earlier.0) {
            (Mark::Host(end), Mark::Host(start)) => Ok(end.duration_since(*start)),
            (Mark::Cuda(end), Mark::Cuda(start)) => end.since(start),
            _ => Err(Error::Device("two events of different devices have no time between them".into())),
        }
    }
}
