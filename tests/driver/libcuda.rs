//! A driver that stands in for libcuda, so that the `cuda` execution of this crate runs where there is no GPU: the
//! context, modules, memory, streams, events and graphs are kept here, and each launch is handed to the `host` or the
//! `simt` execution. Built as `libcuda.so`; a program finds it when its folder is in `LD_LIBRARY_PATH`.
//!
//! What a stream is told to do is done when somebody waits for it, as late as a real driver may, and of other streams only
//! what it waits for: a missing wait shows.
//! What a real driver would refuse, or a GPU would stumble over, is refused with an error, and told on stderr.
//!
//! The environment variable `ZGAN_STAND_IN` is a list of settings, `simt,capability=8.6,allocation=3`:
//!
//!     host | simt        what runs the launches; the device is named after it, so that it has that one's tuning
//!     devices=N          how many there are (1); 0: the driver is there, and no GPU
//!     capability=8.0     of each
//!     memory=BYTES       of each (1 GiB)
//!     l2=BYTES           the cache of each (4 MiB)
//!     workers=132        multiprocessors of each (64)
//!     driver=12080       what cuDriverGetVersion says
//!     mismatch           cuInit fails, as between an update of the driver and the next start of the machine
//!     pools=0            no stream-ordered allocation
//!     ptx=0              refuses PTX, as a driver older than the compiler does
//!     exact=1            takes machine code of its very own capability only
//!     allocation=N       the N-th allocation finds the memory full
//!     pinned=N           the N-th allocation of pinned memory fails
//!     launch=N           the N-th launch runs into an illegal address; those of a graph count each time
//!     fault=KERNEL       each launch of this kernel does
//!     counts             tells at the end, on stderr, how many launches and graphs were started, and how many allocations
//!                        there were, of a pool and apart

// The functions have the driver's own names and are all `extern "C"`; what each pointer must be is in its manual.
#![allow(non_snake_case, clippy::missing_safety_doc)]

mod image;

use std::alloc::Layout;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{LazyLock, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::sys::CUresult::{self, *};
use cudarc::driver::sys::CUstreamCaptureMode;
use zgan::device::{Device, Kernel, kernel_named};

type Answer = Result<(), CUresult>;

/// Handles are numbers; 0 is none, for streams the default one, which this crate does not use: it cannot be captured.
type Handle = usize;

struct Settings {
    execution: String,
    devices: c_int,
    capability: (i32, i32),
    memory: usize,
    l2: usize,
    version: c_int,
    mismatch: bool,
    pools: bool,
    ptx: bool,
    exact: bool,
    failing_allocation: Option<usize>,
    failing_launch: Option<usize>,
    failing_kernel: Option<String>,
    workers: c_int,
    failing_pinned: Option<usize>,
    counts: bool,
}

impl Settings {
    fn from_environment() -> Settings {
        let list = std::env::var("ZGAN_STAND_IN").unwrap_or_default();
        let mut settings = Settings {
            execution: "host".into(),
            devices: 1,
            capability: (8, 0),
            memory: 1 << 30,
            l2: 4 << 20,
            version: 12_080,
            mismatch: false,
            pools: true,
            ptx: true,
            exact: false,
            failing_allocation: None,
            failing_launch: None,
            failing_kernel: None,
            workers: 64,
            failing_pinned: None,
            counts: false,
        };
        for setting in list.split(',').filter(|s| !s.is_empty()) {
            let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
            let number = || value.parse::<usize>().unwrap_or_else(|e| panic!("ZGAN_STAND_IN: {setting}: {e}"));
            match name {
                "host" | "simt" => settings.execution = name.into(),
                "devices" => settings.devices = number() as c_int,
                "capability" => {
                    let (major, minor) = value.split_once('.').expect("capability=MAJOR.MINOR");
                    settings.capability = (major.parse().expect("a number"), minor.parse().expect("a number"));
                }
                "memory" => settings.memory = number(),
                "l2" => settings.l2 = number(),
                "driver" => settings.version = number() as c_int,
                "mismatch" => settings.mismatch = true,
                "pools" => settings.pools = number() != 0,
                "ptx" => settings.ptx = number() != 0,
                "exact" => settings.exact = number() != 0,
                "allocation" => settings.failing_allocation = Some(number()),
                "pinned" => settings.failing_pinned = Some(number()),
                "launch" => settings.failing_launch = Some(number()),
                "fault" => settings.failing_kernel = Some(value.into()),
                "workers" => settings.workers = number() as c_int,
                "counts" => settings.counts = true,
                _ => panic!("ZGAN_STAND_IN: there is no setting {setting:?}"),
            }
        }
        settings
    }
}

struct Allocation {
    device: usize,
    bytes: usize,
    /// False once it is to be freed: work queued before that may still use it.
    live: bool,
}

struct Function {
    kernel: &'static Kernel,
    /// Bytes of each parameter, and whether it is a pointer.
    parameters: Vec<(usize, bool)>,
    most_threads: u32,
    shared: u32,
}

struct Event {
    timing: bool,
    /// Where it was recorded last, how often, and how often its turn has come.
    stream: Handle,
    recorded: u64,
    done: u64,
    time: Option<Instant>,
}

struct Stream {
    device: usize,
    capture: Option<Capture>,
}

/// The work that a stream captures instead of queueing it.
struct Capture {
    work: Vec<Work>,
    mode: CUstreamCaptureMode,
    thread: ThreadId,
}

/// Called when the turn of a collective has come, with what it was queued with, as often as it takes. It answers with 0 when
/// it is done, else with [`WAITS`] and perhaps a stream that it waits for.
type Collective = unsafe extern "C" fn(data: usize, on: &mut Handle) -> c_int;

const WAITS: c_int = 1;

/// What a stream is told to do.
#[derive(Clone)]
enum Work {
    Launch {
        kernel: &'static Kernel,
        grid: [u32; 3],
        arguments: Vec<Vec<u64>>,
        pointers: Vec<u64>,
        fails: bool,
    },
    Fill {
        to: u64,
        value: u8,
        bytes: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Upload {
        to: u64,
        values: Vec<u8>,
    },
    Free {
        address: u64,
    },
    Record {
        event: Handle,
    },
    /// Until the event's turn of that number has come, on the stream where it was recorded.
    Wait {
        event: Handle,
        turn: u64,
        on: Handle,
    },
    /// What NCCL's stand-in does with the same of other streams.
    Meet {
        address: u64,
        bytes: usize,
        call: Collective,
        data: usize,
    },
}

struct Driver {
    settings: Settings,
    initialised: bool,
    retained: usize,
    device: Option<Device>,
    memory: BTreeMap<u64, Allocation>,
    pinned: BTreeMap<u64, usize>,
    streams: HashMap<Handle, Stream>,
    queues: BTreeMap<Handle, VecDeque<Work>>,
    events: HashMap<Handle, Event>,
    graphs: HashMap<Handle, Vec<Work>>,
    modules: HashMap<Handle, Vec<(String, Handle)>>,
    functions: HashMap<Handle, Function>,
    handles: Handle,
    allocations: usize,
    pooled: usize,
    pinnings: usize,
    launches: usize,
    /// Launches that were not of a graph, and graphs.
    direct: usize,
    replays: usize,
    /// After a fault on a GPU every call for it answers with it.
    faults: HashMap<usize, CUresult>,
    /// The streams whose work is being done, each of which waits for the next.
    working: Vec<Handle>,
}

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| {
    Mutex::new(Driver {
        settings: Settings::from_environment(),
        initialised: false,
        retained: 0,
        device: None,
        memory: BTreeMap::new(),
        pinned: BTreeMap::new(),
        streams: HashMap::new(),
        queues: BTreeMap::new(),
        events: HashMap::new(),
        graphs: HashMap::new(),
        modules: HashMap::new(),
        functions: HashMap::new(),
        handles: 0x1000,
        allocations: 0,
        pooled: 0,
        pinnings: 0,
        launches: 0,
        direct: 0,
        replays: 0,
        faults: HashMap::new(),
        working: Vec::new(),
    })
});

thread_local! {
    /// The context that is current for this thread. Device N's is N + 1.
    static CURRENT: Cell<Handle> = const { Cell::new(0) };
}

/// Tells what is wrong, and answers with the error a driver would give.
fn refuse<T>(error: CUresult, what: impl std::fmt::Display) -> Result<T, CUresult> {
    eprintln!("stand-in driver: {what}");
    Err(error)
}

fn call(body: impl FnOnce(&mut Driver) -> Answer) -> CUresult {
    let mut driver = DRIVER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match body(&mut driver) {
        Ok(()) => CUDA_SUCCESS,
        Err(error) => error,
    }
}

/// A call that needs `cuInit`.
fn ready(body: impl FnOnce(&mut Driver) -> Answer) -> CUresult {
    call(|driver| if driver.initialised { body(driver) } else { Err(CUDA_ERROR_NOT_INITIALIZED) })
}

/// A call that needs a context, and that no fault came before.
fn current(body: impl FnOnce(&mut Driver) -> Answer) -> CUresult {
    ready(|driver| match CURRENT.get() {
        0 => refuse(CUDA_ERROR_INVALID_CONTEXT, "a call on a thread that has no current context"),
        _ => driver.fault(here()).and_then(|()| body(driver)),
    })
}

/// A call that waits for the GPU. While a collective waits for ranks that have not been told of it yet, so does the caller,
/// and lets other threads into the driver.
fn waiting(mut body: impl FnMut(&mut Driver) -> Answer) -> CUresult {
    loop {
        match current(&mut body) {
            CUDA_ERROR_NOT_READY => thread::sleep(Duration::from_micros(200)),
            answer => return answer,
        }
    }
}

/// The device whose context is current.
fn here() -> usize {
    CURRENT.get().wrapping_sub(1)
}

/// # Safety
/// `to` is null or points to a `T` that may be overwritten.
unsafe fn give<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return refuse(CUDA_ERROR_INVALID_VALUE, "a null pointer for a result");
    }
    // SAFETY: the caller's.
    unsafe { to.write(value) };
    Ok(())
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 256).expect("a size that can be allocated")
}

impl Driver {
    fn handle(&mut self) -> Handle {
        self.handles += 0x10;
        self.handles
    }

    /// All memory begins as NaNs: nobody may rely on zeros that he did not write.
    fn allocate(&mut self, bytes: usize) -> Result<u64, CUresult> {
        self.outside_captures("an allocation")?;
        if bytes == 0 {
            return refuse(CUDA_ERROR_INVALID_VALUE, "an allocation of no bytes");
        }
        self.allocations += 1;
        if self.settings.failing_allocation == Some(self.allocations) || bytes > self.settings.memory - self.used() {
            return Err(CUDA_ERROR_OUT_OF_MEMORY);
        }
        // SAFETY: the size is not 0; `release` frees it with the same layout.
        let address = unsafe {
            let pointer = std::alloc::alloc(layout(bytes));
            assert!(!pointer.is_null(), "the stand-in driver has no memory for {bytes} bytes");
            pointer.write_bytes(0xff, bytes);
            pointer as u64
        };
        self.memory.insert(address, Allocation { device: here(), bytes, live: true });
        Ok(address)
    }

    /// Bytes of the current device.
    fn used(&self) -> usize {
        self.memory.values().filter(|a| a.live && a.device == here()).map(|a| a.bytes).sum()
    }

    fn fault(&self, device: usize) -> Answer {
        self.faults.get(&device).map_or(Ok(()), |fault| Err(*fault))
    }

    fn retire(&mut self, address: u64) -> Answer {
        match self.memory.get_mut(&address) {
            Some(allocation) if allocation.live => {
                allocation.live = false;
                Ok(())
            }
            Some(_) => refuse(CUDA_ERROR_INVALID_VALUE, format!("{address:#x} is freed twice")),
            None => refuse(CUDA_ERROR_INVALID_VALUE, format!("{address:#x} is freed, and was never allocated")),
        }
    }

    fn release(&mut self, address: u64) {
        if let Some(allocation) = self.memory.remove(&address) {
            // SAFETY: `allocate` made it with this layout; nothing that is queued later may name it.
            unsafe {
                (address as *mut u8).write_bytes(0xff, allocation.bytes);
                std::alloc::dealloc(address as *mut u8, layout(allocation.bytes));
            }
        }
    }

    /// The range lies inside one live allocation of the current device.
    fn check(&self, what: &str, address: u64, bytes: usize) -> Answer {
        let Some((start, allocation)) = self.memory.range(..=address).next_back() else {
            return refuse(CUDA_ERROR_INVALID_VALUE, format!("{what}: {address:#x} is not device memory"));
        };
        let offset = (address - start) as usize;
        if offset > allocation.bytes {
            return refuse(CUDA_ERROR_INVALID_VALUE, format!("{what}: {address:#x} is not device memory"));
        }
        if !allocation.live {
            return refuse(CUDA_ERROR_INVALID_VALUE, format!("{what}: {address:#x} is in memory that was freed"));
        }
        if allocation.device != here() {
            let (of, here) = (allocation.device, here());
            return refuse(CUDA_ERROR_INVALID_VALUE, format!("{what}: memory of device {of} on device {here}"));
        }
        if bytes > allocation.bytes - offset {
            let room = allocation.bytes - offset;
            return refuse(CUDA_ERROR_INVALID_VALUE, format!("{what}: {bytes} bytes where {room} are left"));
        }
        Ok(())
    }

    /// The calling thread does what it may not do while a stream captures: each thread during a `GLOBAL` capture, that
    /// which began it during one of `THREAD_LOCAL`, none during one of `RELAXED`.
    fn outside_captures(&self, what: &str) -> Answer {
        let captures = self.streams.values().filter_map(|stream| stream.capture.as_ref());
        let refused = captures.into_iter().any(|capture| match capture.mode {
            CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL => true,
            CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL => capture.thread == thread::current().id(),
            CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED => false,
        });
        match refused {
            true => refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, format!("{what} while a stream captures")),
            false => Ok(()),
        }
    }

    fn queue(&mut self, stream: Handle, mut work: Work) -> Answer {
        match self.streams.get_mut(&stream) {
            None => refuse(CUDA_ERROR_INVALID_HANDLE, format!("there is no stream {stream:#x}")),
            Some(Stream { device, .. }) if *device != here() => {
                refuse(CUDA_ERROR_INVALID_HANDLE, format!("a stream of device {device} on device {}", here()))
            }
            Some(Stream { capture: None, .. }) => {
                if let Work::Launch { kernel, fails, .. } = &mut work {
                    self.launches += 1;
                    *fails = self.settings.failing_launch == Some(self.launches)
                        || self.settings.failing_kernel.as_deref() == Some(kernel.name);
                }
                self.queues.entry(stream).or_default().push_back(work);
                Ok(())
            }
            Some(Stream { capture: Some(captured), .. }) => match work {
                Work::Free { .. } | Work::Record { .. } | Work::Wait { .. } => {
                    refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "an event or a free while the stream captures")
                }
                work => {
                    captured.work.push(work);
                    Ok(())
                }
            },
        }
    }

    /// What a graph works on must still be there when it is started again: a GPU would stumble over it.
    fn check_again(&self, work: &Work) -> Answer {
        match work {
            Work::Launch { kernel, pointers, .. } => {
                pointers.iter().try_for_each(|p| self.check(&format!("{} of a graph", kernel.name), *p, 0))
            }
            Work::Fill { to, bytes, .. } => self.check("memset of a graph", *to, *bytes),
            Work::Upload { to, values } => self.check("copy of a graph", *to, values.len()),
            Work::Meet { address, bytes, .. } => self.check("collective of a graph", *address, *bytes),
            // One side may be pinned memory.
            Work::Copy { to, from, bytes } => [to, from]
                .into_iter()
                .filter(|address| {
                    self.pinned.range(..=**address).next_back().is_none_or(|(s, n)| **address >= s + *n as u64)
                })
                .try_for_each(|address| self.check("copy of a graph", *address, *bytes)),
            Work::Free { .. } | Work::Record { .. } | Work::Wait { .. } => Ok(()),
        }
    }

    /// Does everything that is queued for the current device.
    fn wait(&mut self) -> Answer {
        self.outside_captures("a wait")?;
        let own = |(stream, known): (&Handle, &Stream)| (known.device == here()).then_some(*stream);
        let mut streams: Vec<Handle> = self.streams.iter().filter_map(own).collect();
        streams.sort();
        streams.into_iter().try_for_each(|stream| self.run(stream, None))?;
        self.fault(here())
    }

    /// Does what `stream` was told, all of it or up to the event's turn.
    fn wait_for(&mut self, stream: Handle, until: Option<(Handle, u64)>) -> Answer {
        self.outside_captures("a wait")?;
        if self.streams.get(&stream).is_some_and(|stream| stream.capture.is_some()) {
            return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a wait for a stream that captures");
        }
        self.run(stream, until)?;
        self.fault(here())
    }

    /// The error says that a collective waits for what another thread has not queued yet.
    fn run(&mut self, stream: Handle, until: Option<(Handle, u64)>) -> Answer {
        while !until.is_some_and(|until| self.has_come(until)) && !self.is_idle(stream) {
            if !self.step(stream) {
                return Err(CUDA_ERROR_NOT_READY);
            }
        }
        Ok(())
    }

    fn has_come(&self, (event, turn): (Handle, u64)) -> bool {
        self.events.get(&event).is_some_and(|event| event.done >= turn)
    }

    fn is_idle(&self, stream: Handle) -> bool {
        self.queues.get(&stream).is_none_or(VecDeque::is_empty)
    }

    /// Does what comes next on `stream`, or on one that it waits for. False where neither can go on.
    fn step(&mut self, stream: Handle) -> bool {
        // What it waits for, if anything.
        let on = match self.queues.get(&stream).and_then(VecDeque::front) {
            None => return false,
            Some(&Work::Wait { event, turn, on }) => (!self.has_come((event, turn)) && !self.is_idle(on)).then_some(on),
            Some(&Work::Meet { call, data, .. }) => {
                let mut on = 0;
                // SAFETY: `zgan_stand_in_meet`'s caller's.
                (unsafe { call(data, &mut on) } == WAITS).then_some(on)
            }
            Some(_) => None,
        };
        if let Some(on) = on {
            if on == stream || self.working.contains(&on) {
                return false;
            }
            self.working.push(stream);
            let done = self.step(on);
            self.working.pop();
            return done;
        }
        let Some(work) = self.queues.get_mut(&stream).and_then(VecDeque::pop_front) else { return false };
        if let Err(fault) = self.work(work) {
            let device = self.streams.get(&stream).map_or(0, |stream| stream.device);
            self.faults.insert(device, fault);
            let streams = &self.streams;
            self.queues.retain(|stream, _| streams.get(stream).is_some_and(|stream| stream.device != device));
        }
        true
    }

    /// Inside an allocation, though perhaps one that is to be freed.
    fn is_there(&self, address: u64) -> bool {
        let found = self.memory.range(..=address).next_back();
        found.is_some_and(|(start, allocation)| address < start + allocation.bytes as u64)
    }

    fn work(&mut self, work: Work) -> Answer {
        // Another stream may have freed it since.
        let gone = match &work {
            Work::Fill { to, .. } | Work::Upload { to, .. } => !self.is_there(*to),
            Work::Copy { to, from, .. } => !self.is_there(*to) && !self.is_there(*from),
            _ => false,
        };
        if gone {
            return refuse(CUDA_ERROR_ILLEGAL_ADDRESS, "a copy or memset whose memory another stream has freed");
        }
        // SAFETY: every range was checked to be live when the work was queued, and memory that was freed since is
        // released by work that comes later; host memory is the caller's to keep until he has waited.
        unsafe {
            match work {
                Work::Launch { fails: true, .. } => return Err(CUDA_ERROR_ILLEGAL_ADDRESS),
                Work::Launch { kernel, grid, arguments, .. } => {
                    let pointers: Vec<*const c_void> = arguments.iter().map(|a| a.as_ptr().cast()).collect();
                    let device = self.device.as_ref().expect("a context is current");
                    if let Err(e) = device.launch_raw(kernel, grid, &pointers) {
                        return refuse(CUDA_ERROR_LAUNCH_FAILED, e);
                    }
                }
                Work::Fill { to, value, bytes } => (to as *mut u8).write_bytes(value, bytes),
                Work::Copy { to, from, bytes } => std::ptr::copy(from as *const u8, to as *mut u8, bytes),
                Work::Upload { to, values } => (to as *mut u8).copy_from(values.as_ptr(), values.len()),
                Work::Free { address } => self.release(address),
                Work::Record { event } => {
                    if let Some(event) = self.events.get_mut(&event) {
                        event.done += 1;
                        event.time = Some(Instant::now());
                    }
                }
                Work::Wait { .. } | Work::Meet { .. } => {}
            }
        }
        Ok(())
    }

    fn load(&mut self, image: image::Image) -> Result<Handle, CUresult> {
        let (major, minor) = self.settings.capability;
        if image.ptx && !self.settings.ptx {
            return Err(CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        }
        let fits = match image.ptx {
            true => image.target <= (major, minor),
            false if self.settings.exact => image.target == (major, minor),
            false => image.target.0 == major && image.target.1 <= minor,
        };
        if !fits {
            return Err(if image.ptx { CUDA_ERROR_INVALID_PTX } else { CUDA_ERROR_NO_BINARY_FOR_GPU });
        }
        let mut list = Vec::new();
        for found in image.kernels {
            let name = &found.name;
            let Some(kernel) = kernel_named(name) else {
                return refuse(CUDA_ERROR_INVALID_IMAGE, format!("{name}: no such kernel on the host"));
            };
            let pointers: Vec<bool> = kernel.types.iter().map(|kind| kind.ends_with('*')).collect();
            if pointers.len() != found.parameters.len() {
                let (gpu, host) = (found.parameters.len(), pointers.len());
                return refuse(CUDA_ERROR_INVALID_IMAGE, format!("{name}: {gpu} parameters on the GPU, {host} here"));
            }
            let function = Function {
                kernel,
                parameters: found.parameters.into_iter().zip(pointers).collect(),
                most_threads: found.most_threads,
                shared: found.shared,
            };
            let handle = self.handle();
            self.functions.insert(handle, function);
            list.push((found.name, handle));
        }
        let handle = self.handle();
        self.modules.insert(handle, list);
        Ok(handle)
    }

    /// # Safety
    /// `arguments` points to as many pointers as the function has parameters, each to a value of the parameter's type.
    unsafe fn launch(
        &mut self,
        function: Handle,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        stream: Handle,
        arguments: *const *const c_void,
    ) -> Answer {
        let Some(Function { kernel, parameters, most_threads, shared: own }) = self.functions.get(&function) else {
            return refuse(CUDA_ERROR_INVALID_HANDLE, format!("there is no function {function:#x}"));
        };
        let name = kernel.name;
        let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
        if threads == 0 || threads > u64::from(*most_threads) {
            let what = format!("{name}: {block:?} threads, where it was compiled for at most {most_threads}");
            return refuse(CUDA_ERROR_INVALID_VALUE, what);
        }
        if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65_535 || grid[2] > 65_535 {
            return refuse(CUDA_ERROR_INVALID_VALUE, format!("{name}: a grid of {grid:?}"));
        }
        if shared + own > 48 * 1024 {
            let what = format!("{name}: {shared} bytes of dynamic and {own} of static shared memory are too much");
            return refuse(CUDA_ERROR_INVALID_VALUE, what);
        }
        if block != [kernel.threads, 1, 1] || shared != 0 {
            let what = format!("{name}: {block:?} threads and {shared} bytes of shared memory cannot be run here");
            return refuse(CUDA_ERROR_NOT_SUPPORTED, what);
        }
        if arguments.is_null() && !parameters.is_empty() {
            return refuse(CUDA_ERROR_INVALID_VALUE, format!("{name}: no arguments, it takes {}", parameters.len()));
        }
        let (mut values, mut pointers) = (Vec::new(), Vec::new());
        for (i, &(bytes, pointer)) in parameters.iter().enumerate() {
            // SAFETY: the caller's.
            let argument = unsafe { *arguments.add(i) };
            if argument.is_null() {
                let what = format!("{name}: {i} arguments, it takes {}", parameters.len());
                return refuse(CUDA_ERROR_INVALID_VALUE, what);
            }
            let mut words = vec![0u64; bytes.div_ceil(8)];
            // SAFETY: the caller's; the words have room for that many bytes.
            unsafe { std::ptr::copy_nonoverlapping(argument.cast::<u8>(), words.as_mut_ptr().cast::<u8>(), bytes) };
            // A null pointer stands for an argument that is left out.
            if pointer && words[0] != 0 && self.check(&format!("{name}, argument {i}"), words[0], 0).is_err() {
                self.faults.insert(here(), CUDA_ERROR_ILLEGAL_ADDRESS);
                return Err(CUDA_ERROR_ILLEGAL_ADDRESS);
            }
            if pointer && words[0] != 0 {
                pointers.push(words[0]);
            }
            values.push(words);
        }
        let kernel = *kernel;
        self.direct += usize::from(matches!(self.streams.get(&stream), Some(Stream { capture: None, .. })));
        self.queue(stream, Work::Launch { kernel, grid, arguments: values, pointers, fails: false })
    }

    /// What was not given back by the time the last user of the context leaves.
    fn left(&self) -> String {
        let live = self.memory.values().filter(|a| a.live).map(|a| a.bytes).sum();
        let counts = [
            (live, "bytes of memory"),
            (self.pinned.len(), "pinned buffers"),
            (self.streams.len(), "streams"),
            (self.events.len(), "events"),
            (self.graphs.len(), "graphs"),
            (self.modules.len(), "modules"),
        ];
        let left: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        left.join(", ")
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(_flags: c_uint) -> CUresult {
    call(|driver| {
        if driver.settings.mismatch {
            return Err(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);
        }
        if driver.settings.devices == 0 {
            return Err(CUDA_ERROR_NO_DEVICE);
        }
        driver.initialised = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    // SAFETY: the caller's.
    call(|driver| unsafe { give(version, driver.settings.version) })
}

/// NVRTC looks for the driver by itself, and asks for tables that no manual describes. There are none here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetExportTable(table: *mut *const c_void, _id: *const c_void) -> CUresult {
    // SAFETY: the caller's.
    call(|_| unsafe { give(table, std::ptr::null()) }.and(Err(CUDA_ERROR_NOT_SUPPORTED)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: u32, text: *mut *const c_char) -> CUresult {
    // SAFETY: the caller's.
    call(|_| unsafe { give(text, words(error).0.as_ptr()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: u32, text: *mut *const c_char) -> CUresult {
    // SAFETY: the caller's.
    call(|_| unsafe { give(text, words(error).1.as_ptr()) })
}

fn words(error: u32) -> (&'static CStr, &'static CStr) {
    const WORDS: &[(CUresult, &CStr, &CStr)] = &[
        (CUDA_ERROR_INVALID_VALUE, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        (CUDA_ERROR_OUT_OF_MEMORY, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        (CUDA_ERROR_NOT_INITIALIZED, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
        (CUDA_ERROR_NO_DEVICE, c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
        (CUDA_ERROR_INVALID_DEVICE, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        (CUDA_ERROR_INVALID_IMAGE, c"CUDA_ERROR_INVALID_IMAGE", c"device kernel image is invalid"),
        (CUDA_ERROR_INVALID_CONTEXT, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        (CUDA_ERROR_NO_BINARY_FOR_GPU, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image for this device"),
        (CUDA_ERROR_INVALID_PTX, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
        (CUDA_ERROR_UNSUPPORTED_PTX_VERSION, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"PTX of an unsupported toolchain"),
        (CUDA_ERROR_INVALID_HANDLE, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
        (CUDA_ERROR_NOT_FOUND, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        (CUDA_ERROR_NOT_READY, c"CUDA_ERROR_NOT_READY", c"device not ready"),
        (CUDA_ERROR_ILLEGAL_ADDRESS, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
        (CUDA_ERROR_LAUNCH_FAILED, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
        (CUDA_ERROR_NOT_SUPPORTED, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
        (
            CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
            c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            c"system has unsupported display driver / cuda driver combination",
        ),
        (
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
            c"operation not permitted when stream is capturing",
        ),
    ];
    let found = WORDS.iter().find(|(known, ..)| *known as u32 == error);
    found.map_or((c"CUDA_ERROR_UNKNOWN", c"unknown error"), |(_, name, text)| (*name, *text))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    // SAFETY: the caller's.
    ready(|driver| unsafe { give(count, driver.settings.devices) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> CUresult {
    ready(|driver| {
        if ordinal < 0 || ordinal >= driver.settings.devices {
            return Err(CUDA_ERROR_INVALID_DEVICE);
        }
        // SAFETY: the caller's.
        unsafe { give(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) -> CUresult {
    ready(|driver| {
        let text = format!("zgan stand-in, {}\0", driver.settings.execution);
        assert!(text.len() <= length as usize);
        // SAFETY: the caller's; the name and its end fit.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), text.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: u32, device: c_int) -> CUresult {
    ready(|driver| {
        const MAJOR: u32 = Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as u32;
        const MINOR: u32 = Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as u32;
        const POOLS: u32 = Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED as u32;
        const L2: u32 = Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE as u32;
        const PCI_BUS: u32 = Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID as u32;
        const PCI_DEVICE: u32 = Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID as u32;
        const PCI_DOMAIN: u32 = Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID as u32;
        const MULTIPROCESSORS: u32 = Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as u32;
        let answer = match attribute {
            MULTIPROCESSORS => driver.settings.workers,
            MAJOR => driver.settings.capability.0,
            MINOR => driver.settings.capability.1,
            POOLS => c_int::from(driver.settings.pools),
            L2 => driver.settings.l2 as c_int,
            PCI_BUS => 0x65 + device,
            PCI_DEVICE | PCI_DOMAIN => 0,
            _ => return refuse(CUDA_ERROR_INVALID_VALUE, format!("attribute {attribute} is not known here")),
        };
        // SAFETY: the caller's.
        unsafe { give(value, answer) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> CUresult {
    // SAFETY: the caller's.
    ready(|driver| unsafe { give(bytes, driver.settings.memory) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> CUresult {
    ready(|driver| {
        if driver.device.is_none() {
            let opened = match driver.settings.execution.as_str() {
                "simt" => Ok(Device::simt(0)),
                _ => Device::host(0),
            };
            driver.device = Some(opened.or_else(|e| refuse(CUDA_ERROR_NOT_SUPPORTED, e))?);
        }
        driver.retained += 1;
        // SAFETY: the caller's.
        unsafe { give(context, device as Handle + 1) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> CUresult {
    ready(|driver| {
        driver.retained -= 1;
        if driver.retained == 0 && !driver.left().is_empty() && driver.faults.is_empty() {
            return refuse(CUDA_ERROR_INVALID_VALUE, format!("not given back: {}", driver.left()));
        }
        if driver.retained == 0 && driver.settings.counts {
            let (pooled, apart) = (driver.pooled, driver.allocations - driver.pooled);
            eprintln!("stand-in allocations: {pooled} of the pool, {apart} apart");
            eprintln!("stand-in counts: {} launches, {} graphs", driver.direct, driver.replays);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut Handle) -> CUresult {
    // SAFETY: the caller's.
    ready(|_| unsafe { give(context, CURRENT.get()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(context: Handle) -> CUresult {
    ready(|_| {
        CURRENT.set(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize() -> CUresult {
    waiting(Driver::wait)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, _flags: c_uint) -> CUresult {
    current(|driver| {
        let handle = driver.handle();
        driver.streams.insert(handle, Stream { device: here(), capture: None });
        // SAFETY: the caller's.
        unsafe { give(stream, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: Handle) -> CUresult {
    waiting(|driver| {
        driver.wait()?;
        driver.queues.remove(&stream);
        driver.streams.remove(&stream).map_or(Err(CUDA_ERROR_INVALID_HANDLE), |_| Ok(()))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: Handle) -> CUresult {
    waiting(|driver| driver.wait_for(stream, None))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) -> CUresult {
    current(|driver| match driver.events.get(&event) {
        None => refuse(CUDA_ERROR_INVALID_HANDLE, format!("there is no event {event:#x}")),
        // One that was never recorded has nothing to wait for.
        Some(Event { recorded: 0, .. }) => Ok(()),
        Some(&Event { recorded: turn, stream: on, .. }) => driver.queue(stream, Work::Wait { event, turn, on }),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: CUstreamCaptureMode) -> CUresult {
    current(|driver| match driver.streams.get_mut(&stream) {
        Some(Stream { capture: capture @ None, .. }) => {
            *capture = Some(Capture { work: Vec::new(), mode, thread: thread::current().id() });
            Ok(())
        }
        _ => refuse(CUDA_ERROR_INVALID_VALUE, "a capture begins on no stream, or on one that captures"),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> CUresult {
    current(|driver| match driver.streams.get_mut(&stream).and_then(|stream| stream.capture.take()) {
        Some(captured) => {
            let handle = driver.handle();
            driver.graphs.insert(handle, captured.work);
            // SAFETY: the caller's.
            unsafe { give(graph, handle) }
        }
        None => refuse(CUDA_ERROR_INVALID_VALUE, "a capture ends that did not begin"),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(made: *mut Handle, graph: Handle, _flags: u64) -> CUresult {
    current(|driver| match driver.graphs.get(&graph).cloned() {
        Some(work) => {
            let handle = driver.handle();
            driver.graphs.insert(handle, work);
            // SAFETY: the caller's.
            unsafe { give(made, handle) }
        }
        None => refuse(CUDA_ERROR_INVALID_HANDLE, format!("there is no graph {graph:#x}")),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(graph: Handle, stream: Handle) -> CUresult {
    current(|driver| match driver.graphs.get(&graph).cloned() {
        Some(work) => {
            work.iter().try_for_each(|work| driver.check_again(work))?;
            driver.replays += 1;
            work.into_iter().try_for_each(|work| driver.queue(stream, work))
        }
        None => refuse(CUDA_ERROR_INVALID_HANDLE, format!("there is no graph {graph:#x}")),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(graph: Handle) -> CUresult {
    current(|driver| driver.graphs.remove(&graph).map_or(Err(CUDA_ERROR_INVALID_HANDLE), |_| Ok(())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: Handle) -> CUresult {
    current(|driver| driver.graphs.remove(&graph).map_or(Err(CUDA_ERROR_INVALID_HANDLE), |_| Ok(())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut Handle, flags: c_uint) -> CUresult {
    const DISABLE_TIMING: c_uint = 2;
    current(|driver| {
        let handle = driver.handle();
        let new = Event { timing: flags & DISABLE_TIMING == 0, stream: 0, recorded: 0, done: 0, time: None };
        driver.events.insert(handle, new);
        // SAFETY: the caller's.
        unsafe { give(event, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: Handle) -> CUresult {
    current(|driver| driver.events.remove(&event).map_or(Err(CUDA_ERROR_INVALID_HANDLE), |_| Ok(())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> CUresult {
    current(|driver| {
        let Some(known) = driver.events.get_mut(&event) else {
            return refuse(CUDA_ERROR_INVALID_HANDLE, format!("there is no event {event:#x}"));
        };
        (known.stream, known.recorded, known.time) = (stream, known.recorded + 1, None);
        driver.queue(stream, Work::Record { event })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(event: Handle) -> CUresult {
    waiting(|driver| match driver.events.get(&event) {
        None => refuse(CUDA_ERROR_INVALID_HANDLE, format!("there is no event {event:#x}")),
        Some(&Event { stream, recorded, done, .. }) if done < recorded => {
            driver.wait_for(stream, Some((event, recorded)))
        }
        Some(_) => Ok(()),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) -> CUresult {
    current(|driver| {
        let (Some(start), Some(end)) = (driver.events.get(&start), driver.events.get(&end)) else {
            return refuse(CUDA_ERROR_INVALID_HANDLE, "the time between events that are not there");
        };
        if !(start.timing && end.timing && start.recorded > 0 && end.recorded > 0) {
            return refuse(CUDA_ERROR_INVALID_HANDLE, "the time between events without timing, or never recorded");
        }
        if start.done < start.recorded || end.done < end.recorded {
            return Err(CUDA_ERROR_NOT_READY);
        }
        let (Some(start), Some(end)) = (start.time, end.time) else { return Err(CUDA_ERROR_NOT_READY) };
        // SAFETY: the caller's.
        unsafe { give(milliseconds, end.duration_since(start).as_secs_f32() * 1e3) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Handle) -> CUresult {
    current(|driver| {
        if !driver.settings.pools {
            return refuse(CUDA_ERROR_NOT_SUPPORTED, "this device has no memory pools");
        }
        if !driver.streams.contains_key(&stream) {
            return refuse(CUDA_ERROR_INVALID_HANDLE, format!("there is no stream {stream:#x}"));
        }
        let allocated = driver.allocate(bytes)?;
        driver.pooled += 1;
        // SAFETY: the caller's.
        unsafe { give(address, allocated) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> CUresult {
    current(|driver| {
        let allocated = driver.allocate(bytes)?;
        // SAFETY: the caller's.
        unsafe { give(address, allocated) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeAsync(address: u64, stream: Handle) -> CUresult {
    current(|driver| {
        driver.retire(address)?;
        driver.queue(stream, Work::Free { address })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(address: u64) -> CUresult {
    waiting(|driver| {
        driver.wait()?;
        driver.retire(address)?;
        driver.release(address);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    current(|driver| {
        // SAFETY: the caller's.
        unsafe {
            give(free, driver.settings.memory - driver.used())?;
            give(total, driver.settings.memory)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(pointer: *mut u64, bytes: usize, _flags: c_uint) -> CUresult {
    current(|driver| {
        driver.outside_captures("an allocation")?;
        driver.pinnings += 1;
        if driver.settings.failing_pinned == Some(driver.pinnings) {
            return Err(CUDA_ERROR_OUT_OF_MEMORY);
        }
        // SAFETY: no caller asks for 0 bytes; `cuMemFreeHost` frees it with the same layout.
        let memory = unsafe {
            let memory = std::alloc::alloc(layout(bytes));
            memory.write_bytes(0xff, bytes);
            memory
        };
        driver.pinned.insert(memory as u64, bytes);
        // SAFETY: the caller's.
        unsafe { give(pointer, memory as u64) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(pointer: u64) -> CUresult {
    current(|driver| match driver.pinned.remove(&pointer) {
        // SAFETY: `cuMemHostAlloc` made it with this layout.
        Some(bytes) => unsafe {
            std::alloc::dealloc(pointer as *mut u8, layout(bytes));
            Ok(())
        },
        None => refuse(CUDA_ERROR_INVALID_VALUE, "pinned memory is freed that was never allocated"),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(address: u64, value: u8, bytes: usize, stream: Handle) -> CUresult {
    current(|driver| {
        driver.check("memset", address, bytes)?;
        driver.queue(stream, Work::Fill { to: address, value, bytes })
    })
}

/// From pinned memory the copy is made when its turn comes; from other memory the driver takes the bytes at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> CUresult {
    current(|driver| {
        driver.check("copy to the device", to, bytes)?;
        let pinned = driver.pinned.range(..=from).next_back();
        let pinned = pinned.is_some_and(|(start, length)| from + bytes as u64 <= start + *length as u64);
        let work = match pinned {
            true => Work::Copy { to, from, bytes },
            // SAFETY: the caller's.
            false => {
                Work::Upload { to, values: unsafe { std::slice::from_raw_parts(from as *const u8, bytes) }.into() }
            }
        };
        driver.queue(stream, work)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> CUresult {
    current(|driver| {
        driver.check("copy from the device", from, bytes)?;
        driver.queue(stream, Work::Copy { to, from, bytes })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> CUresult {
    current(|driver| {
        driver.check("copy, destination", to, bytes)?;
        driver.check("copy, source", from, bytes)?;
        driver.queue(stream, Work::Copy { to, from, bytes })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> CUresult {
    current(|driver| {
        // SAFETY: the caller's.
        let Some(image) = (unsafe { image::read(image) }) else {
            return refuse(CUDA_ERROR_INVALID_IMAGE, "an image that is neither a cubin nor PTX");
        };
        let handle = driver.load(image)?;
        // SAFETY: the caller's.
        unsafe { give(module, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: Handle) -> CUresult {
    current(|driver| match driver.modules.remove(&module) {
        Some(list) => {
            for (_, function) in list {
                driver.functions.remove(&function);
            }
            Ok(())
        }
        None => refuse(CUDA_ERROR_INVALID_HANDLE, format!("there is no module {module:#x}")),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> CUresult {
    current(|driver| {
        let list = driver.modules.get(&module).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
        // SAFETY: the caller's: a string that ends with a zero.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let (_, handle) = list.iter().find(|(known, _)| *known == name).ok_or(CUDA_ERROR_NOT_FOUND)?;
        // SAFETY: the caller's.
        unsafe { give(function, *handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: Handle,
    arguments: *const *const c_void,
    extra: *const *const c_void,
) -> CUresult {
    current(|driver| {
        if !extra.is_null() {
            return refuse(CUDA_ERROR_NOT_SUPPORTED, "arguments in a buffer of their own");
        }
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        // SAFETY: the caller's.
        unsafe { driver.launch(function, grid, block, shared, stream, arguments) }
    })
}

/// For the library that stands in for NCCL (`libnccl.rs`): queues a collective on `bytes` bytes of the current device.
///
/// # Safety
/// `call` may be called with `data` whenever, by whichever thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zgan_stand_in_meet(
    stream: Handle,
    address: u64,
    bytes: usize,
    call: Collective,
    data: usize,
) -> CUresult {
    current(|driver| {
        driver.check("collective", address, bytes)?;
        driver.queue(stream, Work::Meet { address, bytes, call, data })
    })
}
