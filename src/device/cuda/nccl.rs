//! Ranks on GPUs, which NCCL connects: `libnccl.so.2`, opened here when it is needed.
//!
//! cudarc has NCCL's types, too. They are not used: there a result is an enum, which may hold no number that a later NCCL adds,
//! and its loader looks for other names, and panics where it finds none.
//!
//! A collective is queued on the device's own stream, so it is captured in a step's graph as a kernel is. If another rank is lost,
//! it never ends. A thread watches over that, and aborts the connection, which ends the collective.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cudarc::driver::CudaContext;
use libloading::Library;

use super::{Cuda, Faults};
use crate::device::meeting::UniqueId;
use crate::device::{Backend, Buffer, Communicator, Device, Meeting, Reduction, nvrtc};
use crate::{Error, Result};

/// `ncclComm_t`, an address.
type Comm = usize;
/// `cudaStream_t`
type Stream = *mut c_void;

/// `ncclUniqueId`, which is passed by value.
#[repr(C)]
struct Id(UniqueId);

// Numbers of `nccl.h`.
const IN_PROGRESS: c_int = 7;
const UINT64: c_int = 5;
const FLOAT32: c_int = 7;
const SUM: c_int = 0;
const MAX: c_int = 2;

/// 2.9, the first whose collectives a graph can hold: 20900, as `ncclGetVersion` writes it.
const OLDEST: c_int = 20_900;

/// Declares `Functions`, the functions of the library, by the names and types that they have in `nccl.h`.
macro_rules! functions {
    ($($name:ident($($type:ty),*) -> $result:ty;)*) => {
        #[allow(non_snake_case)]
        struct Functions {
            $($name: unsafe extern "C" fn($($type),*) -> $result,)*
        }

        impl Functions {
            /// # Safety
            /// `library` must be a libnccl. It must stay loaded as long as the functions are called.
            unsafe fn of(library: &Library) -> std::result::Result<Functions, String> {
                // SAFETY: the caller's; the types are those of `nccl.h`, which no version of NCCL 2 has changed.
                unsafe {
                    Ok(Functions { $($name: *library.get(stringify!($name)).map_err(|_| {
                        concat!("it has no ", stringify!($name))
                    })?,)* })
                }
            }
        }
    };
}

functions! {
    ncclGetVersion(*mut c_int) -> c_int;
    ncclGetErrorString(c_int) -> *const c_char;
    ncclGetUniqueId(*mut Id) -> c_int;
    ncclCommInitRank(*mut Comm, c_int, Id, c_int) -> c_int;
    ncclCommDestroy(Comm) -> c_int;
    ncclCommAbort(Comm) -> c_int;
    ncclCommGetAsyncError(Comm, *mut c_int) -> c_int;
    ncclAllReduce(u64, u64, usize, c_int, c_int, Comm, Stream) -> c_int;
    ncclBroadcast(u64, u64, usize, c_int, c_int, Comm, Stream) -> c_int;
}

impl Functions {
    /// What a function answered; the error has NCCL's own text.
    fn answer(&self, function: &str, number: c_int) -> std::result::Result<(), String> {
        if number == 0 {
            return Ok(());
        }
        // SAFETY: it takes any number, and gives a text that lives as long as the library.
        let text = unsafe { CStr::from_ptr((self.ncclGetErrorString)(number)) };
        Err(format!("{function}: {}", text.to_string_lossy()))
    }
}

/// NCCL, opened once.
fn library() -> Result<&'static Functions> {
    static OPENED: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
    OPENED.get_or_init(find).as_ref().map_err(|why| Error::Ranks(why.clone()))
}

const NAME: &str = "libnccl.so.2";

fn find() -> std::result::Result<Functions, String> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let wheels = nvrtc::packages(Path::new("/"), &variable).into_iter();
    let wheels = wheels.chain(std::iter::once_with(nvrtc::packages_of_python).flatten());
    let paths = wheels.map(|packages| packages.join("nvidia/nccl/lib").join(NAME)).filter(|path| path.exists());
    let mut passed_over = String::new();
    for path in [PathBuf::from(NAME)].into_iter().chain(paths) {
        match open(&path) {
            Ok(Some(functions)) => return Ok(functions),
            Ok(None) => {}
            Err(why) => passed_over = format!("; {} cannot be used: {why}", path.display()),
        }
    }
    Err(format!(
        "several GPUs need NCCL, and {NAME} was not found where the loader looks or among Python's packages{passed_over}. \
         This installs it: pip install nvidia-nccl-cu12"
    ))
}

/// None where the loader does not open it.
fn open(path: &Path) -> std::result::Result<Option<Functions>, String> {
    // SAFETY: libnccl's initialisers have no precondition; the path names libnccl by its own name.
    let Ok(library) = (unsafe { Library::new(path) }) else { return Ok(None) };
    // SAFETY: it is a libnccl by its name, and stays loaded for ever: it has threads of its own.
    let functions = unsafe { Functions::of(Box::leak(Box::new(library))) }?;
    let mut version = 0;
    // SAFETY: the pointer is to a live integer.
    functions.answer("ncclGetVersion", unsafe { (functions.ncclGetVersion)(&mut version) })?;
    match version < OLDEST {
        true => Err(format!("its version is {version}, and {OLDEST} is needed")),
        false => Ok(Some(functions)),
    }
}

fn unique_id() -> Result<UniqueId> {
    let (functions, mut id) = (library()?, Id([0; 128]));
    // SAFETY: the pointer is to a live `ncclUniqueId`.
    let got = functions.answer("ncclGetUniqueId", unsafe { (functions.ncclGetUniqueId)(&mut id) });
    got.map(|()| id.0).map_err(Error::Ranks)
}

impl Meeting {
    /// For ranks that are threads of this process, one for each. A rank that waits longer than `timeout` for the others takes
    /// them to be lost. An error where there is no NCCL.
    pub fn of_threads(ranks: usize, timeout: Duration) -> Result<Vec<Meeting>> {
        Ok(Meeting::in_a_room(ranks, unique_id()?, timeout))
    }

    /// For a rank that is a process, `rank` of `ranks`, which all see the same `file`, on a shared disk for instance. It is made
    /// afresh at each start, and removed when all of them have come. Waits for them.
    pub fn of_processes(file: &Path, rank: usize, ranks: usize, timeout: Duration) -> Result<Meeting> {
        library()?;
        Meeting::at_file(file, (rank, ranks), timeout, unique_id)
    }

    /// For ranks that something else connects already, MPI for instance.
    pub fn over(others: Arc<dyn Communicator>, timeout: Duration) -> Result<Meeting> {
        library()?;
        Meeting::through(others, timeout, unique_id)
    }
}

impl Device {
    /// Connects this GPU with those of the other ranks by NCCL: for [`Device::with_ranks`]. Each rank has a GPU of its own.
    /// Waits for all of them.
    pub fn connect(&self, meeting: Meeting) -> Result<Arc<dyn Communicator>> {
        Ok(Arc::new(Nccl::new(self, meeting)?))
    }
}

/// The connection of one rank.
struct Nccl {
    link: Arc<Link>,
    /// One number, for [`Communicator::agree`].
    number: Buffer<u64>,
    watch: Option<JoinHandle<()>>,
    device: Device,
}

/// What the rank shares with the thread that watches over it.
struct Link {
    functions: &'static Functions,
    context: Arc<CudaContext>,
    faults: Arc<Faults>,
    meeting: Meeting,
    /// None once the connection is given up.
    comm: Mutex<Option<Comm>>,
    ended: AtomicBool,
    /// While another rank works alone, this one waits for it however long it takes.
    patient: AtomicBool,
}

/// How often the thread that watches looks.
const PAUSE: Duration = Duration::from_millis(50);
/// How long an abort may take, until the process ends without it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Nccl {
    fn new(device: &Device, meeting: Meeting) -> Result<Nccl> {
        let cuda = cuda(device)?;
        let (functions, context) = (library()?, cuda.context.clone());
        let number = device.zeros(1)?;
        let comm = connect(functions, &context, &meeting)?;
        let (comm, faults) = (Mutex::new(Some(comm)), cuda.faults.clone());
        let (ended, patient) = (AtomicBool::new(false), AtomicBool::new(false));
        let link = Arc::new(Link { functions, context, faults, meeting, comm, ended, patient });
        let watched = link.clone();
        let watch = thread::Builder::new().name("zgan-nccl".into()).spawn(move || watched.watch());
        let watch = watch.map_err(|error| Error::Ranks(format!("starting a thread that watches NCCL: {error}")))?;
        Ok(Nccl { link, number, watch: Some(watch), device: device.clone() })
    }

    /// Queues a collective on the device's stream.
    fn queue<T: super::super::Element>(
        &self,
        name: &str,
        values: &Buffer<T>,
        call: impl FnOnce(&Functions, Comm, Stream) -> c_int,
    ) -> Result<()> {
        let cuda = cuda(&self.device)?;
        if !values.device().same(&self.device) || values.stored_type() != T::NAME {
            return Err(Error::Device(format!("{name}: {values:?} in {} on another device", values.precision())));
        }
        if values.is_empty() {
            return Ok(());
        }
        values.hold();
        let _turn = cuda.bind()?;
        let comm = self.link.comm();
        let Some(comm) = *comm else { return Err(Error::Ranks("the connection of the ranks was given up".into())) };
        // NCCL may connect ranks in their first collective, and wait for them.
        let mut answer = 0;
        let call = || {
            answer = call(self.link.functions, comm, cuda.stream.cu_stream().cast());
            Ok(())
        };
        cuda.faults.watched(call).map_err(cuda.said(name))?;
        self.link.functions.answer(name, answer).map_err(|why| Error::Ranks(self.link.meeting.named(why)))
    }
}

fn cuda(device: &Device) -> Result<&Cuda> {
    match &*device.backend {
        Backend::Cuda(cuda) => Ok(cuda),
        _ => Err(Error::Config(format!("NCCL connects GPUs, not device {}", device.execution()))),
    }
}

/// Joins the other ranks. NCCL waits for them without end, so a thread waits for NCCL, and is left behind where they do not come.
fn connect(functions: &'static Functions, context: &Arc<CudaContext>, meeting: &Meeting) -> Result<Comm> {
    let (sender, receiver) = mpsc::channel();
    let (context, id) = (context.clone(), Id(meeting.id));
    let (rank, ranks) = (meeting.rank as c_int, meeting.ranks as c_int);
    let join = move || {
        let mut comm = 0;
        let bound = context.bind_to_thread().map_err(super::words);
        // SAFETY: the pointer is to a live `ncclComm_t`; the GPU's context is the thread's.
        let call = |()| {
            functions.answer("ncclCommInitRank", unsafe { (functions.ncclCommInitRank)(&mut comm, ranks, id, rank) })
        };
        let joined = bound.and_then(call).map(|()| comm);
        // The rank may have given up.
        let _ = sender.send(joined);
    };
    let named = |why: String| Error::Ranks(meeting.named(why));
    thread::Builder::new().spawn(join).map_err(|error| named(format!("starting a thread: {error}")))?;
    let begun = Instant::now();
    loop {
        match receiver.recv_timeout(PAUSE) {
            Ok(joined) => return joined.map_err(named),
            Err(_) => match meeting.failure() {
                Some(why) => return Err(Error::Ranks(why)),
                None if begun.elapsed() > meeting.timeout => return Err(named(meeting.silence())),
                None => {}
            },
        }
    }
}

impl Link {
    fn comm(&self) -> MutexGuard<'_, Option<Comm>> {
        self.comm.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Until the connection ends: gives it up where a rank failed, or does not answer.
    fn watch(&self) {
        while !self.ended.load(Ordering::SeqCst) {
            if let Some(why) = self.trouble() {
                return self.give_up(&why);
            }
            thread::park_timeout(self.meeting.pause());
        }
    }

    fn trouble(&self) -> Option<String> {
        if let Some(why) = self.meeting.failure() {
            return Some(why);
        }
        let own = |why: String| {
            self.meeting.fail(&why);
            Some(self.meeting.failure().unwrap_or_else(|| self.meeting.named(&why)))
        };
        if self.faults.waited() > self.meeting.timeout && !self.patient.load(Ordering::SeqCst) {
            return own(self.meeting.silence());
        }
        // The rank itself holds it while it calls NCCL.
        let comm = self.comm.try_lock().ok()?;
        let mut error = 0;
        // SAFETY: the communicator is alive as long as it is here, and it is locked until the end of this function.
        let asked = unsafe { (self.functions.ncclCommGetAsyncError)((*comm)?, &mut error) };
        let error = if asked == 0 { error } else { asked };
        if error == IN_PROGRESS { None } else { own(self.functions.answer("a collective", error).err()?) }
    }

    /// Ends all collectives. What the program waits for, and whatever it asks of the device from now on, is an error. If the
    /// program does not even come back from its wait, the process ends.
    fn give_up(&self, why: &str) {
        self.faults.lose(why);
        let begun = Instant::now();
        loop {
            if let Ok(mut comm) = self.comm.try_lock() {
                if let Some(comm) = comm.take() {
                    // The GPU's context may be gone already.
                    let _ = self.context.bind_to_thread();
                    // SAFETY: the communicator is alive, and nobody finds it any more.
                    unsafe { (self.functions.ncclCommAbort)(comm) };
                }
                if self.faults.waited() == Duration::ZERO {
                    return;
                }
            }
            if begun.elapsed() > PATIENCE {
                eprintln!("error: {why}; and NCCL does not come back");
                std::process::exit(1);
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.link.meeting.rank
    }

    fn ranks(&self) -> usize {
        self.link.meeting.ranks
    }

    fn all_reduce(&self, values: &Buffer<f32>, reduction: Reduction) -> Result<()> {
        let (at, len) = (values.address(), values.len());
        let operation = match reduction {
            Reduction::Sum => SUM,
            Reduction::Max => MAX,
        };
        // SAFETY: so many floats lie inside the live allocation (`Buffer`), which the graph holds where one is captured, and
        // which is otherwise freed in the order of the same stream.
        self.queue("ncclAllReduce", values, |nccl, comm, stream| unsafe {
            (nccl.ncclAllReduce)(at, at, len, FLOAT32, operation, comm, stream)
        })
    }

    fn broadcast(&self, values: &Buffer<f32>, from: usize) -> Result<()> {
        let (at, len) = (values.address(), values.len());
        // SAFETY: as in `all_reduce`; NCCL refuses a rank that there is not.
        self.queue("ncclBroadcast", values, |nccl, comm, stream| unsafe {
            (nccl.ncclBroadcast)(at, at, len, FLOAT32, from as c_int, comm, stream)
        })
    }

    /// Threads of one process agree without their GPUs, which need not be waited for then.
    fn agree(&self, number: u64) -> Result<u64> {
        if let Some(agreed) = self.link.meeting.agree(number, false) {
            return agreed;
        }
        self.number.write(&[number])?;
        let at = self.number.address();
        // SAFETY: the one number is in the live allocation.
        self.queue("ncclAllReduce", &self.number, |nccl, comm, stream| unsafe {
            (nccl.ncclAllReduce)(at, at, 1, UINT64, MAX, comm, stream)
        })?;
        Ok(self.number.read()?[0])
    }

    fn wait(&self) -> Result<()> {
        if let Some(agreed) = self.link.meeting.agree(0, true) {
            return agreed.map(drop);
        }
        self.link.patient.store(true, Ordering::SeqCst);
        let waited = self.agree(0);
        self.link.patient.store(false, Ordering::SeqCst);
        waited.map(drop)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // While it is still watched over. Where it fails, the connection was given up.
        let failed = self.link.meeting.failure().is_some() || self.device.synchronize().is_err();
        self.link.ended.store(true, Ordering::SeqCst);
        if let Some(watch) = self.watch.take() {
            watch.thread().unpark();
            let _ = watch.join();
        }
        if let Some(comm) = self.link.comm().take() {
            let functions = self.link.functions;
            // SAFETY: the communicator is alive, and nobody finds it any more; no collective is under way where it is destroyed.
            unsafe { if failed { (functions.ncclCommAbort)(comm) } else { (functions.ncclCommDestroy)(comm) } };
        }
    }
}
