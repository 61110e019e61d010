//! The `host` execution: a block is one thread, and blocks are spread over the cores.

use std::cell::{RefCell, UnsafeCell};
use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use super::kernels::{EntryTable, HostEntry, Kernel, kernel};
use super::needs_check;
use crate::cores::{self, MOST_THREADS};
use crate::sizes::reserved;
use crate::{Error, Result};

pub(super) struct Host {
    table: &'static EntryTable,
    pool: Pool,
}

fn available(isa: &str) -> bool {
    #[cfg(target_arch = "x86_64")]
    match isa {
        "avx2" => {
            return is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("f16c");
        }
        "avx512" => {
            return available("avx2")
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
        }
        _ => {}
    }
    matches!(isa, "base" | "neon")
}

/// The tables of the instruction sets that this machine has.
pub(super) fn usable() -> impl Iterator<Item = &'static EntryTable> {
    kernel::HOST.iter().copied().filter(|table| available(table.isa))
}

impl Host {
    pub fn new(threads: usize, isa: Option<&str>) -> Result<Host> {
        let table = match isa {
            None => usable().last(),
            Some(isa) => usable().find(|table| table.isa == isa),
        };
        let table = table.ok_or_else(|| {
            let there: Vec<_> = usable().map(|table| table.isa).collect();
            Error::Device(format!("ZGAN_ISA={}: this machine has {}", isa.unwrap_or("?"), there.join(", ")))
        })?;
        if threads > MOST_THREADS {
            return Err(Error::Device(format!("--threads {threads}: at most {MOST_THREADS}")));
        }
        Ok(Host { table, pool: Pool::new(cores::threads(threads)) })
    }

    pub fn threads(&self) -> usize {
        self.pool.workers.len() + 1
    }

    pub fn name(&self) -> String {
        format!("host {}", self.table.isa)
    }

    /// Whether its vectors have eight numbers or more.
    pub fn has_wide_vectors(&self) -> bool {
        matches!(self.table.isa, "avx2" | "avx512")
    }

    pub fn description(&self) -> String {
        let threads = self.threads();
        let refused = match self.pool.asked {
            asked if asked > threads => format!(" (the system refused {})", asked - threads),
            _ => String::new(),
        };
        format!("host: {threads} thread{}{refused}, {}", if threads == 1 { "" } else { "s" }, self.table.isa)
    }

    /// # Safety
    /// As [`super::Launch::run`], and it is the caller's [`super::Device::turn`].
    pub unsafe fn launch(&self, kernel: &Kernel, grid: [u32; 3], arguments: &[*const c_void]) -> Result<()> {
        let Some(entry) = self.table.entry(kernel) else {
            return Err(needs_check(&format!("precision {} on the host", kernel.precision)));
        };
        SCRATCH.with_borrow_mut(|own| match own.capacity() {
            0 => scratch().map(|memory| *own = memory),
            _ => Ok(()),
        })?;
        let job = Job { entry, arguments: arguments.as_ptr(), grid };
        // SAFETY: the caller's; `run` returns when every block has, so the argument array outlives its use.
        unsafe { self.pool.run(job) };
        Ok(())
    }

    /// Sets `bytes` bytes from `address` on to zero, with all threads: one alone reaches half the memory's speed.
    ///
    /// # Safety
    /// They belong to one live allocation, and it is the caller's [`super::Device::turn`].
    pub unsafe fn zero(&self, address: u64, bytes: usize) {
        let bytes = bytes as u64;
        let arguments: [*const c_void; 2] = [(&raw const address).cast(), (&raw const bytes).cast()];
        let blocks = bytes.div_ceil(CLEARED as u64) as u32;
        let job = Job { entry: clear, arguments: arguments.as_ptr(), grid: [blocks, 1, 1] };
        // SAFETY: the caller's; block b clears the b-th part of the range and no byte beyond it.
        unsafe { self.pool.run(job) };
    }
}

/// Bytes that a block of [`clear`] sets to zero.
const CLEARED: usize = 1 << 17;

/// Runs the blocks `first .. last` of [`Host::zero`]. The arguments are the address and the number of bytes.
///
/// # Safety
/// As [`Host::zero`].
unsafe extern "C" fn clear(arguments: *const *const c_void, _grid: *const u32, first: u32, last: u32) {
    // SAFETY: `Host::zero` passes these two.
    let (address, bytes) = unsafe { (*(*arguments).cast::<u64>(), *(*arguments.add(1)).cast::<u64>() as usize) };
    let (begin, end) = (first as usize * CLEARED, bytes.min(last as usize * CLEARED));
    // SAFETY: the caller's; begin < end <= bytes.
    unsafe { std::ptr::write_bytes((address as *mut u8).add(begin), 0, end - begin) };
}

thread_local! {
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// The most working memory of a kernel. A thread has it before it runs one, as there is no error inside a kernel.
pub(crate) const SCRATCH_BYTES: usize = 6 << 20;

fn scratch() -> Result<Vec<Line>> {
    reserved("the working memory of a thread", SCRATCH_BYTES / size_of::<Line>())
}

/// A cache line, for its alignment.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

/// Memory for the block that runs on the calling thread; the next block gets the same. `kernels/host/one_thread.h` says
/// what kernels may expect of it.
#[unsafe(no_mangle)]
extern "C" fn zgan_host_scratch(bytes: u64) -> *mut c_void {
    SCRATCH.with_borrow_mut(|scratch| {
        let there = scratch.capacity() * size_of::<Line>();
        // It ends the program, in the first test that runs such a kernel.
        assert!(bytes <= there as u64, "a kernel needs {bytes} bytes of working memory, and has {there}");
        scratch.as_mut_ptr().cast()
    })
}

#[derive(Clone, Copy)]
struct Job {
    entry: HostEntry,
    arguments: *const *const c_void,
    grid: [u32; 3],
}

impl Job {
    fn blocks(&self) -> u32 {
        self.grid.iter().product()
    }
}

/// Threads that share the blocks of one launch at a time. Launches come every few microseconds, so an idle worker
/// spins for a while before it sleeps, and the launching thread works too.
///
/// Each thread has a share of its own, a run of neighbouring blocks, and helps the others once that is done. So, from
/// launch to launch, a core tends to come back to the part of a tensor that is still in its cache.
struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// How many threads were wanted, the launching one among them.
    asked: usize,
}

/// Has a cache line to itself, so that threads which write it do not slow down those that use its neighbours.
#[repr(align(64))]
struct Lonely<T>(T);

struct Shared {
    /// Odd while a job is open. Each launch adds two.
    turn: AtomicU64,
    job: UnsafeCell<Job>,
    /// The next block of each thread's share that nobody has taken.
    next: Box<[Lonely<AtomicU32>]>,
    /// How many blocks are taken at a time.
    stride: AtomicU32,
    /// Workers that may be reading `job` or running a block of it.
    inside: AtomicUsize,
    asleep: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
}

// SAFETY: `job` is written only while the turn is even and `inside` is zero (`Pool::run`), and read only by a worker
// that counts itself inside and then finds the turn odd; everything else is atomic.
unsafe impl Sync for Shared {}
// SAFETY: the pointers in `job` are used only while the launch that owns them waits.
unsafe impl Send for Shared {}

/// Rounds of the spin loop before a worker sleeps: about 50 microseconds.
const SPINS: u32 = 2000;

impl Pool {
    fn new(threads: usize) -> Pool {
        unsafe extern "C" fn nothing(_: *const *const c_void, _: *const u32, _: u32, _: u32) {}
        let shared = Arc::new(Shared {
            turn: AtomicU64::new(0),
            job: UnsafeCell::new(Job { entry: nothing, arguments: std::ptr::null(), grid: [0; 3] }),
            next: (0..threads).map(|_| Lonely(AtomicU32::new(0))).collect(),
            stride: AtomicU32::new(1),
            inside: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let start = |i: usize| {
            let (shared, own) = (shared.clone(), scratch().ok()?);
            let work = move || {
                SCRATCH.set(own);
                shared.work(i);
            };
            std::thread::Builder::new().name(format!("zgan-{i}")).spawn(work).ok()
        };
        // Where the system refuses a thread, or its memory, those that there are take its share: whoever is done helps the others.
        let workers = (1..threads).map_while(start).collect();
        Pool { shared, workers, asked: threads }
    }

    /// Runs all blocks of `job`, and returns when they have ended.
    ///
    /// # Safety
    /// As [`super::Launch::run`]; and one call at a time, which [`super::Device::turn`] sees to.
    unsafe fn run(&self, job: Job) {
        let blocks = job.blocks();
        if blocks == 1 || self.workers.is_empty() {
            // SAFETY: the caller's.
            unsafe { (job.entry)(job.arguments, job.grid.as_ptr(), 0, blocks) };
            return;
        }
        let shared = &*self.shared;
        // SAFETY: one launch at a time is the caller's; the turn is even and nobody is inside: the last launch saw to both
        // before it returned.
        unsafe { *shared.job.get() = job };
        for (thread, next) in shared.next.iter().enumerate() {
            next.0.store(shared.share(blocks, thread).start, SeqCst);
        }
        shared.stride.store((blocks / (16 * (self.workers.len() as u32 + 1))).max(1), SeqCst);
        shared.turn.fetch_add(1, SeqCst);
        if shared.asleep.load(SeqCst) > 0 {
            let _sleep = shared.sleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            shared.wake.notify_all();
        }
        // SAFETY: the caller's.
        unsafe { shared.take_blocks(&job, 0) };
        shared.turn.fetch_add(1, SeqCst);
        let mut spins = 0;
        while shared.inside.load(SeqCst) > 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Shared {
    /// A thread's part of the blocks.
    fn share(&self, blocks: u32, thread: usize) -> Range<u32> {
        let bound = |i: usize| (u64::from(blocks) * i as u64 / self.next.len() as u64) as u32;
        bound(thread)..bound(thread + 1)
    }

    /// Runs blocks of this thread's own share first, then of the others'.
    ///
    /// # Safety
    /// As [`super::Launch::run`], for `job`.
    unsafe fn take_blocks(&self, job: &Job, thread: usize) {
        let (blocks, stride, threads) = (job.blocks(), self.stride.load(SeqCst), self.next.len());
        for owner in (thread..threads).chain(0..thread) {
            let end = self.share(blocks, owner).end;
            loop {
                let first = self.next[owner].0.fetch_add(stride, SeqCst);
                if first >= end {
                    break;
                }
                // SAFETY: the caller's; each block is taken once.
                unsafe { (job.entry)(job.arguments, job.grid.as_ptr(), first, end.min(first.saturating_add(stride))) };
            }
        }
    }

    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            let mut spins = 0;
            loop {
                let turn = self.turn.load(SeqCst);
                if turn % 2 == 1 && turn != seen {
                    seen = turn;
                    break;
                }
                if self.stop.load(SeqCst) {
                    return;
                }
                spins += 1;
                if spins < SPINS {
                    std::hint::spin_loop();
                } else {
                    self.doze(seen);
                    spins = 0;
                }
            }
            self.inside.fetch_add(1, SeqCst);
            if self.turn.load(SeqCst) == seen {
                // SAFETY: counted inside and the turn still open, so `Pool::run` waits for this thread before it
                // returns: the job and its arguments are alive.
                unsafe {
                    let job = *self.job.get();
                    self.take_blocks(&job, thread);
                }
            }
            self.inside.fetch_sub(1, SeqCst);
        }
    }

    /// Sleeps until a turn is open that this thread has not seen.
    fn doze(&self, seen: u64) {
        let mut guard = self.sleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.asleep.fetch_add(1, SeqCst);
        loop {
            let turn = self.turn.load(SeqCst);
            if (turn % 2 == 1 && turn != seen) || self.stop.load(SeqCst) {
                break;
            }
            guard = self.wake.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.asleep.fetch_sub(1, SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        {
            let _sleep = self.shared.sleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
