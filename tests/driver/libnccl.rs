//! A library that stands in for NCCL, beside the driver that stands in for libcuda: ranks are threads of one process or
//! processes of one machine, which leave what they exchange in files of one folder. Built as `libnccl.so`; a program that
//! looks for `libnccl.so.2` finds it when its folder is in `LD_LIBRARY_PATH`.
//!
//! A collective is done when its turn comes on the stream, or each time that the graph is started which it was captured in.
//! It sums in the order of the ranks. What NCCL refuses is refused, and told on stderr; so is what would make a GPU wait
//! without end or compute nonsense: ranks whose calls differ.
//!
//! The environment variable `ZGAN_STAND_IN_NCCL` is a list of settings, `rank=1,hang=3`:
//!
//!     rank=R       the rank that the following ones are about (1)
//!     init         its ncclCommInitRank fails
//!     call=N       its N-th call of a collective fails
//!     hang=N       its N-th collective never ends
//!     error=N      its N-th collective never ends, and ncclCommGetAsyncError tells of a lost rank
//!     kill=N       its process is killed when the N-th collective begins
//!     version=N    what ncclGetVersion says (22703)
//!     counts       tells for each rank, on stderr, how many collectives of how many bytes it has done

// The functions have NCCL's own names and are all `extern "C"`; what each pointer must be is in its manual.
#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime};

use libloading::Library;

type Handle = usize;

const SUCCESS: c_int = 0;
const SYSTEM: c_int = 2;
const INTERNAL: c_int = 3;
const ARGUMENT: c_int = 4;
const USAGE: c_int = 5;
const REMOTE: c_int = 6;

/// What a collective answers when its turn has come (`libcuda.rs`).
const DONE: c_int = 0;
const WAITS: c_int = 1;

#[derive(Default)]
struct Settings {
    rank: usize,
    init: bool,
    call: Option<u64>,
    hang: Option<u64>,
    error: Option<u64>,
    kill: Option<u64>,
    version: c_int,
    counts: bool,
}

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let list = std::env::var("ZGAN_STAND_IN_NCCL").unwrap_or_default();
    let mut settings = Settings { rank: 1, version: 22_703, ..Settings::default() };
    for setting in list.split(',').filter(|s| !s.is_empty()) {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        let number = || value.parse::<u64>().unwrap_or_else(|e| panic!("ZGAN_STAND_IN_NCCL: {setting}: {e}"));
        match name {
            "rank" => settings.rank = number() as usize,
            "init" => settings.init = true,
            "call" => settings.call = Some(number()),
            "hang" => settings.hang = Some(number()),
            "error" => settings.error = Some(number()),
            "kill" => settings.kill = Some(number()),
            "version" => settings.version = number() as c_int,
            "counts" => settings.counts = true,
            _ => panic!("ZGAN_STAND_IN_NCCL: there is no setting {setting:?}"),
        }
    }
    settings
});

/// What this library asks of the driver's stand-in.
struct Driver {
    current: unsafe extern "C" fn(*mut Handle) -> u32,
    meet: unsafe extern "C" fn(Handle, u64, usize, unsafe extern "C" fn(usize, &mut Handle) -> c_int, usize) -> u32,
}

static DRIVER: LazyLock<Driver> = LazyLock::new(|| {
    // SAFETY: the program that opened this library has opened the driver's stand-in, whose functions have these types.
    unsafe {
        let library = Box::leak(Box::new(Library::new("libcuda.so.1").expect("libcuda.so.1")));
        Driver {
            current: *library.get("cuCtxGetCurrent").expect("a driver"),
            meet: *library.get("zgan_stand_in_meet").expect("the driver that stands in for libcuda"),
        }
    }
});

struct Communicator {
    place: PathBuf,
    rank: usize,
    ranks: usize,
    /// The processes of all ranks.
    processes: Vec<u32>,
    /// Where its last collective was queued.
    stream: Handle,
    calls: u64,
    /// Collectives that are done, and whether this rank's share of the next one is there.
    done: u64,
    arrived: bool,
    bytes: usize,
    /// What ncclCommGetAsyncError says.
    error: c_int,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Sum,
    Max,
    Broadcast(usize),
}

struct Operation {
    communicator: Handle,
    what: What,
    kind: Kind,
    address: u64,
    bytes: usize,
    /// By which ranks know that they do the same.
    name: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    U64,
    F32,
}

static COMMUNICATORS: LazyLock<Mutex<HashMap<Handle, Communicator>>> = LazyLock::new(Mutex::default);

fn communicators() -> MutexGuard<'static, HashMap<Handle, Communicator>> {
    COMMUNICATORS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Tells what is wrong, and answers with the error that NCCL would give.
fn refuse(error: c_int, what: impl std::fmt::Display) -> c_int {
    eprintln!("stand-in nccl: {what}");
    error
}

impl Communicator {
    fn file(&self, number: u64, rank: usize) -> PathBuf {
        self.place.join(format!("{number}-{rank}"))
    }

    /// Whether the setting of this number is about what this rank does next.
    fn meets(&self, setting: Option<u64>, number: u64) -> bool {
        self.rank == SETTINGS.rank && setting == Some(number)
    }

    fn has_lost_one(&self) -> bool {
        let gone = |(rank, process): (usize, &u32)| {
            let about = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let alive = about.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'));
            !alive && !self.place.join(format!("left-{rank}")).exists()
        };
        self.processes.iter().enumerate().any(gone)
    }

    /// The next collective, once the shares of all ranks are there.
    unsafe fn meet(&mut self, operation: &Operation) -> std::io::Result<Option<c_int>> {
        let Operation { name, what, address, bytes, .. } = operation;
        if !self.arrived {
            // SAFETY: the caller's.
            let own = unsafe { std::slice::from_raw_parts(*address as *const u8, *bytes) };
            let own = if matches!(what, What::Broadcast(root) if *root != self.rank) { &[] } else { own };
            write_whole(&self.file(self.done, self.rank), &[name.as_bytes(), b"\n", own].concat())?;
            self.arrived = true;
        }
        let files: Vec<PathBuf> = (0..self.ranks).map(|rank| self.file(self.done, rank)).collect();
        if !files.iter().all(|file| file.exists()) {
            return Ok(None);
        }
        let mut shares = Vec::new();
        for (rank, file) in files.iter().enumerate() {
            let share = fs::read(file)?;
            let end = share.iter().position(|byte| *byte == b'\n').unwrap_or(0);
            if &share[..end] != name.as_bytes() {
                let (other, number) = (String::from_utf8_lossy(&share[..end]), self.done + 1);
                let what = format!("collective {number}: rank {} has {name}, rank {rank} has {other}", self.rank);
                return Ok(Some(refuse(INTERNAL, what)));
            }
            shares.push(share[end + 1..].to_vec());
        }
        let result = match what {
            What::Broadcast(root) => shares.swap_remove(*root),
            _ => shares.into_iter().reduce(|a, b| reduced(&a, &b, operation)).unwrap_or_default(),
        };
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), *address as *mut u8, *bytes) };
        // Who has come here is done with what was before.
        if self.done > 0 {
            fs::remove_file(self.file(self.done - 1, self.rank))?;
        }
        (self.done, self.arrived, self.bytes) = (self.done + 1, false, self.bytes + bytes);
        Ok(Some(SUCCESS))
    }

    fn leave(self) {
        if SETTINGS.counts {
            eprintln!("stand-in nccl: rank {}: {} collectives of {} bytes", self.rank, self.done, self.bytes);
        }
        let left = |rank: usize| self.place.join(format!("left-{rank}"));
        // Where it fails, the folder stays.
        let _ = fs::write(left(self.rank), "");
        if (0..self.ranks).all(|rank| left(rank).exists()) {
            let _ = fs::remove_dir_all(&self.place);
        }
    }
}

fn reduced(a: &[u8], b: &[u8], operation: &Operation) -> Vec<u8> {
    let sum = operation.what == What::Sum;
    match operation.kind {
        Kind::F32 => {
            let numbers = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect::<Vec<_>>();
            let pairs = numbers(a).into_iter().zip(numbers(b));
            pairs.flat_map(|(a, b)| if sum { a + b } else { a.max(b) }.to_le_bytes()).collect()
        }
        Kind::U64 => {
            let numbers = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|x| u64::from_le_bytes(*x)).collect::<Vec<_>>();
            let pairs = numbers(a).into_iter().zip(numbers(b));
            pairs.flat_map(|(a, b)| if sum { a.wrapping_add(b) } else { a.max(b) }.to_le_bytes()).collect()
        }
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, bytes)?;
    fs::rename(&unfinished, path)
}

/// # Safety
/// `data` is that of [`queue`]; the memory of the collective is there.
unsafe extern "C" fn turn(data: usize, on: &mut Handle) -> c_int {
    // SAFETY: the caller's; operations live for ever, as a graph may be started at any time.
    let operation = unsafe { &*(data as *const Operation) };
    let mut all = communicators();
    // Of one that was aborted or destroyed, the kernels end.
    let Some(own) = all.get_mut(&operation.communicator) else { return DONE };
    let number = own.done + 1;
    if own.meets(SETTINGS.kill, number) {
        let _ = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    }
    if own.meets(SETTINGS.error, number) {
        own.error = REMOTE;
    }
    if own.error != SUCCESS || own.meets(SETTINGS.hang, number) {
        return WAITS;
    }
    // SAFETY: the caller's.
    match unsafe { own.meet(operation) } {
        Ok(Some(SUCCESS)) => return DONE,
        Ok(Some(error)) => own.error = error,
        Ok(None) => {
            let (place, done) = (own.place.clone(), own.done);
            // A rank of this process, which this thread can help along.
            let late = |other: &&Communicator| {
                other.place == place && (other.done, other.arrived) < (done, true) && other.stream != 0
            };
            *on = all.values().find(late).map_or(0, |other| other.stream);
        }
        // The folder is gone with the ranks.
        Err(_) => own.error = REMOTE,
    }
    WAITS
}

fn queue(
    communicator: Handle,
    what: What,
    (send, receive): (u64, u64),
    count: usize,
    kind: c_int,
    stream: Handle,
) -> c_int {
    let (kind, size, kind_name) = match kind {
        5 => (Kind::U64, 8, "u64"),
        7 => (Kind::F32, 4, "f32"),
        _ => return refuse(ARGUMENT, format!("type {kind} is not known here")),
    };
    if send != receive {
        return refuse(ARGUMENT, "two buffers, where only a collective in place is known here");
    }
    let mut all = communicators();
    let Some(own) = all.get_mut(&communicator) else {
        return refuse(ARGUMENT, format!("there is no communicator {communicator:#x}"));
    };
    own.calls += 1;
    if own.meets(SETTINGS.call, own.calls) {
        return SYSTEM;
    }
    let name = match what {
        What::Sum => "all-reduce (sum)".to_string(),
        What::Max => "all-reduce (max)".to_string(),
        What::Broadcast(root) if root < own.ranks => format!("broadcast from {root}"),
        What::Broadcast(root) => return refuse(ARGUMENT, format!("a broadcast from {root} of {} ranks", own.ranks)),
    };
    own.stream = stream;
    // The driver calls `turn` while nobody else may be in it.
    drop(all);
    let (name, bytes) = (format!("{name} of {count} {kind_name}"), count * size);
    let operation = Box::leak(Box::new(Operation { communicator, what, kind, address: receive, bytes, name }));
    // SAFETY: the operation lives for ever.
    match unsafe { (DRIVER.meet)(stream, receive, bytes, turn, std::ptr::from_ref(operation) as usize) } {
        0 => SUCCESS,
        error => refuse(ARGUMENT, format!("{}: the driver answers with {error}", operation.name)),
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId([u8; 128]);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller's.
    unsafe { version.write(SETTINGS.version) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetErrorString(error: c_int) -> *const c_char {
    let text = match error {
        SUCCESS => c"no error",
        SYSTEM => c"unhandled system error",
        INTERNAL => c"internal error",
        ARGUMENT => c"invalid argument",
        USAGE => c"invalid usage",
        REMOTE => c"remote process exited or there was a network error",
        _ => c"unknown result code",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> c_int {
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
    let place = std::env::temp_dir().join(format!("zgan-nccl-{}-{now}", std::process::id()));
    let mut bytes = [0; 128];
    let text = place.to_string_lossy().into_owned().into_bytes();
    if text.len() >= bytes.len() || fs::create_dir(&place).is_err() {
        return refuse(SYSTEM, format!("the folder {} cannot be made", place.display()));
    }
    bytes[..text.len()].copy_from_slice(&text);
    // SAFETY: the caller's.
    unsafe { id.write(UniqueId(bytes)) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(communicator: *mut Handle, ranks: c_int, id: UniqueId, rank: c_int) -> c_int {
    if ranks < 1 || !(0..ranks).contains(&rank) {
        return refuse(ARGUMENT, format!("rank {rank} of {ranks}"));
    }
    let (rank, ranks) = (rank as usize, ranks as usize);
    if SETTINGS.init && rank == SETTINGS.rank {
        return SYSTEM;
    }
    let mut context = 0;
    // SAFETY: the pointer is to a live integer.
    if unsafe { (DRIVER.current)(&mut context) } != 0 || context == 0 {
        return refuse(USAGE, "a thread that has no current context makes a communicator");
    }
    let place = CStr::from_bytes_until_nul(&id.0).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    let place = PathBuf::from(place);
    let file = |rank: usize| place.join(format!("rank-{rank}"));
    let about = format!("{ranks} {} {}", std::process::id(), context - 1);
    if file(rank).exists() {
        return refuse(USAGE, format!("rank {rank} is there twice"));
    }
    if write_whole(&file(rank), about.as_bytes()).is_err() {
        return refuse(SYSTEM, format!("{} is no id that ranks meet under now", place.display()));
    }
    let (mut processes, mut devices) = (Vec::new(), Vec::new());
    for other in 0..ranks {
        let text = loop {
            match fs::read_to_string(file(other)) {
                Ok(text) => break text,
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        };
        let numbers: Vec<u32> = text.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [of, process, device] = numbers[..] else { return INTERNAL };
        if of as usize != ranks {
            return refuse(ARGUMENT, format!("rank {rank} counts {ranks} ranks, rank {other} counts {of}"));
        }
        if let Some(first) = devices.iter().position(|known| *known == device) {
            return refuse(USAGE, format!("rank {first} and rank {other} are both on device {device}"));
        }
        processes.push(process);
        devices.push(device);
    }
    let new = Communicator {
        place,
        rank,
        ranks,
        processes,
        stream: 0,
        calls: 0,
        done: 0,
        arrived: false,
        bytes: 0,
        error: SUCCESS,
    };
    static HANDLES: AtomicUsize = AtomicUsize::new(0x1000);
    let handle = HANDLES.fetch_add(0x10, Ordering::Relaxed);
    communicators().insert(handle, new);
    // SAFETY: the caller's.
    unsafe { communicator.write(handle) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetAsyncError(communicator: Handle, error: *mut c_int) -> c_int {
    let mut all = communicators();
    let Some(own) = all.get_mut(&communicator) else { return ARGUMENT };
    if own.error == SUCCESS && own.has_lost_one() {
        own.error = REMOTE;
    }
    // SAFETY: the caller's.
    unsafe { error.write(own.error) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommAbort(communicator: Handle) -> c_int {
    let removed = communicators().remove(&communicator);
    removed.map_or(ARGUMENT, |own| {
        own.leave();
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommDestroy(communicator: Handle) -> c_int {
    // SAFETY: nothing is asked of the caller.
    unsafe { ncclCommAbort(communicator) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclAllReduce(
    send: u64,
    receive: u64,
    count: usize,
    kind: c_int,
    operation: c_int,
    communicator: Handle,
    stream: Handle,
) -> c_int {
    let what = match operation {
        0 => What::Sum,
        2 => What::Max,
        _ => return refuse(ARGUMENT, format!("operation {operation} is not known here")),
    };
    queue(communicator, what, (send, receive), count, kind, stream)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclBroadcast(
    send: u64,
    receive: u64,
    count: usize,
    kind: c_int,
    root: c_int,
    communicator: Handle,
    stream: Handle,
) -> c_int {
    queue(communicator, What::Broadcast(root.max(0) as usize), (send, receive), count, kind, stream)
}
