//! Where kernels run: one interface over the three executions of the same kernel text.
//!
//! - [`Device::cuda`]: an NVIDIA GPU, through cudarc;
//! - [`Device::host`]: this machine's cores, a block being one thread;
//! - [`Device::simt`]: real thread blocks as coroutines, for checking.
//!
//! A [`Buffer`] is typed memory on a device, and a view of a buffer is a buffer. Operations ([`crate::ops`]) are
//! the only users of `Launch`; nothing above them knows which execution is running.

mod buffer;
mod cuda;
mod host;
mod kernels;
mod launch;
pub mod nvrtc;
mod precision;
mod simt;
mod tuning;

pub use buffer::{Buffer, Element};
pub use kernels::{Kernel, Module, Variants, kernel};
pub(crate) use launch::Launch;
pub use launch::{Traffic, traffic};
pub use precision::Precision;
pub use simt::{Check, Finding, Seen, Tally};
pub use tuning::Tuning;

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use crate::{Error, Result};

/// The GPU targets that this binary holds code for, and its bytes; none where it was built without NVRTC.
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
    /// What the assembler said of each kernel; nothing of PTX.
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

/// A handle on a device; clones share it.
#[derive(Clone)]
pub struct Device(Arc<Backend>);

enum Backend {
    Host(host::Host),
    Simt(simt::Simt),
    Cuda(Box<cuda::Cuda>),
    /// Measures: its buffers have a length and no memory (`crate::nn::Arena`).
    Unbacked,
}

/// What `--device` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first usable GPU, else the host.
    Auto,
    Host,
    Cuda(usize),
    Simt,
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "host" => Ok(DeviceChoice::Host),
            "simt" => Ok(DeviceChoice::Simt),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| format!("no device is called {text:?}; there are auto, host, cuda, cuda:N and simt")),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Host => f.write_str("host"),
            DeviceChoice::Cuda(n) => write!(f, "cuda:{n}"),
            DeviceChoice::Simt => f.write_str("simt"),
        }
    }
}

impl Device {
    /// Opens what `--device` names. `threads` is for the host: 0 takes all cores. The second value says, for
    /// [`DeviceChoice::Auto`], why it is what it is.
    pub fn open(choice: DeviceChoice, threads: usize) -> Result<(Device, Option<String>)> {
        match choice {
            DeviceChoice::Host => Ok((Device::host(threads)?, None)),
            DeviceChoice::Simt => Ok((Device::simt(0), None)),
            DeviceChoice::Cuda(ordinal) => Ok((Device::cuda(ordinal)?, None)),
            DeviceChoice::Auto => match Device::cuda(0) {
                Ok(device) => Ok((device, Some("the first usable GPU".into()))),
                Err(reason) => Ok((Device::host(threads)?, Some(reason.to_string()))),
            },
        }
    }

    /// This machine's cores, `threads` of them (0: all), with the most capable instruction set it has, or the one that
    /// the environment variable `ZGAN_ISA` names.
    pub fn host(threads: usize) -> Result<Device> {
        let isa = std::env::var("ZGAN_ISA").ok();
        Ok(Device(Arc::new(Backend::Host(host::Host::new(threads, isa.as_deref())?))))
    }

    /// As [`Device::host`], with the instruction set named.
    pub fn host_with_isa(threads: usize, isa: &str) -> Result<Device> {
        Ok(Device(Arc::new(Backend::Host(host::Host::new(threads, Some(isa))?))))
    }

    /// The instruction sets that this machine can run, from the least to the most capable.
    pub fn host_isas() -> Vec<&'static str> {
        host::usable().map(|table| table.isa).collect()
    }

    /// Thread blocks as coroutines; `schedule_seed` shuffles the order in which the threads of a block run, 0 leaves it.
    pub fn simt(schedule_seed: u64) -> Device {
        Device(Arc::new(Backend::Simt(simt::Simt::new(schedule_seed, false, None))))
    }

    /// The same under the four checkers of `zgan check`: [`Device::seen`] tells what they found. Slow.
    pub fn simt_checked(schedule_seed: u64) -> Device {
        Device(Arc::new(Backend::Simt(simt::Simt::new(schedule_seed, true, None))))
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
        Ok(Device(Arc::new(Backend::Simt(simt::Simt::new(schedule_seed, true, Some((index, entries)))))))
    }

    /// What a checking device has seen since it was made, or last asked.
    pub fn seen(&self) -> Seen {
        match &*self.0 {
            Backend::Simt(simt) => simt.seen(),
            _ => Seen::default(),
        }
    }

    /// The GPU of this number.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        Ok(Device(Arc::new(Backend::Cuda(Box::new(cuda::Cuda::new(ordinal)?)))))
    }

    pub(crate) fn unbacked() -> Device {
        Device(Arc::new(Backend::Unbacked))
    }

    /// One line for people: the execution and what it runs on.
    pub fn description(&self) -> String {
        match &*self.0 {
            Backend::Host(host) => host.description(),
            Backend::Simt(_) => "simt: thread blocks of 256 coroutines, for checking".into(),
            Backend::Cuda(cuda) => cuda.description(),
            Backend::Unbacked => "no device".into(),
        }
    }

    /// `host`, `simt`, `cuda` or `none`.
    pub fn execution(&self) -> &'static str {
        match &*self.0 {
            Backend::Host(_) => "host",
            Backend::Simt(_) => "simt",
            Backend::Cuda(_) => "cuda",
            Backend::Unbacked => "none",
        }
    }

    /// The block sizes and split counts of this device.
    pub fn tuning(&self) -> &'static Tuning {
        match &*self.0 {
            Backend::Host(_) | Backend::Unbacked => &tuning::HOST,
            Backend::Simt(_) => &tuning::SIMT,
            Backend::Cuda(cuda) => cuda.tuning(),
        }
    }

    /// How many blocks run at the same time, roughly: what tile sizes are balanced for.
    pub(crate) fn workers(&self) -> usize {
        match &*self.0 {
            Backend::Host(host) => host.threads(),
            Backend::Simt(_) | Backend::Unbacked => 1,
            Backend::Cuda(_) => tuning::CUDA_WORKERS,
        }
    }

    /// A new buffer of zeros.
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        Buffer::zeros(self, len, Precision::F32)
    }

    /// A new buffer of zeros, stored in this precision.
    pub fn zeros_in(&self, len: usize, precision: Precision) -> Result<Buffer<f32>> {
        Buffer::zeros(self, len, precision)
    }

    /// A new buffer with these values, rounded to this precision.
    pub fn upload_in(&self, values: &[f32], precision: Precision) -> Result<Buffer<f32>> {
        let buffer = Buffer::zeros(self, values.len(), precision)?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// A new buffer that counts as never written: each of its bytes is 0xff, which makes a float not a number.
    pub(crate) fn unwritten_in(&self, len: usize, precision: Precision) -> Result<Buffer<f32>> {
        let bytes = self.unwritten::<u8>(len * precision.bytes())?;
        Ok(bytes.as_reals(precision))
    }

    /// The same of other numbers.
    pub(crate) fn unwritten<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let buffer = Buffer::zeros(self, len, Precision::F32)?;
        buffer.write(&vec![bytemuck::pod_read_unaligned(&[0xff; 16][..size_of::<T>()]); len])?;
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
        match &*self.0 {
            Backend::Cuda(cuda) => cuda.synchronize(),
            _ => Ok(()),
        }
    }

    /// Captures what `work` queues on this device, without doing it; None where everything is launched directly, on all
    /// devices but GPUs. `work` may launch kernels, copy between buffers and zero them. It may not allocate, wait, or
    /// copy from or to the host. The graph keeps the memory that it works on.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Option<Graph>> {
        match &*self.0 {
            Backend::Cuda(cuda) => Ok(Some(Graph { graph: cuda.capture(work)?, device: self.clone() })),
            _ => Ok(None),
        }
    }

    /// A mark in the device's queue, for timing.
    pub fn event(&self) -> Result<Event> {
        match &*self.0 {
            Backend::Cuda(cuda) => Ok(Event(Mark::Cuda(cuda.event()?))),
            _ => Ok(Event(Mark::Host(std::time::Instant::now()))),
        }
    }

    pub(crate) fn launch(&self, kernel: impl Into<Variants>, grid: [u32; 3]) -> Launch<'_> {
        Launch::new(self, kernel.into(), grid)
    }

    /// Starts a kernel with the array of argument pointers that `cuLaunchKernel` takes, past the checks of `Launch`:
    /// what a driver that stands in for a GPU's has in its hands (`tests/driver`).
    ///
    /// # Safety
    /// As `Launch::run`, and there must be as many arguments as the kernel has parameters, and blocks in the grid.
    #[doc(hidden)]
    pub unsafe fn launch_raw(&self, kernel: Kernel, grid: [u32; 3], arguments: &[*const c_void]) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.start(kernel, grid, arguments, &[]) }
    }

    /// `views`: the buffers among the arguments, for the checkers.
    ///
    /// # Safety
    /// As [`Device::launch_raw`].
    unsafe fn start(
        &self,
        kernel: Kernel,
        grid: [u32; 3],
        arguments: &[*const c_void],
        views: &[simt::View],
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe {
            match &*self.0 {
                Backend::Host(host) => host.launch(kernel, grid, arguments),
                Backend::Simt(simt) => simt.launch(kernel, grid, arguments, views),
                Backend::Cuda(cuda) => cuda.launch(kernel, grid, arguments),
                Backend::Unbacked => Ok(()),
            }
        }
    }

    /// Tells the device of memory that is named by what is about to be queued.
    fn hold(&self, memory: &Arc<buffer::Memory>) {
        if let Backend::Cuda(cuda) = &*self.0 {
            cuda.hold(memory);
        }
    }

    pub(crate) fn same(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Work that was captured ([`Device::capture`]), to be done again and again at the price of one launch.
pub struct Graph {
    graph: cuda::CapturedGraph,
    device: Device,
}

impl Graph {
    pub fn launch(&self) -> Result<()> {
        match &*self.device.0 {
            Backend::Cuda(cuda) => cuda.launch_graph(&self.graph),
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
