//! The `simt` execution: every thread of a block is a coroutine with a stack of its own, and at a barrier or a warp
//! operation it hands control to the next thread. The C++ side is `kernels/host/simt.h` and `simt.cpp`.
//!
//! A barrier that not all threads reach, or a deadlock, is an error of the launch, which names the kernel and the block.
//! A device made to check ([`super::Device::simt_checked`]) also sees every access to memory before it happens
//! ([`access`], [`shadow`]) and keeps what it finds ([`report`]).

mod access;
mod copies;
mod profile;
mod report;
pub mod shadow;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::kernels::{HostEntry, Kernel, kernel};
use super::needs_check;
use crate::{Error, Result};
pub(super) use access::View;
use access::{Access, Kind};
use copies::Copies;
pub use profile::{Global, Line, Profile, Shared as SharedMemory, Unit};
pub use report::{Check, Finding};
pub use shadow::Tally;
use shadow::{Checker, Region};

/// The most threads of a block.
const BLOCK: usize = 256;
const WARP: usize = 32;
const STACK_BYTES: usize = 128 * 1024;

/// The most static shared memory of a block, as on every GPU.
const SHARED_BYTES: usize = 48 * 1024;
/// The same of a block of one thread, which only a CPU runs: its arrays play the memory that a core's thread has for itself.
const CORE_BYTES: usize = 2 << 20;
/// The gap between shared arrays, in words of 16 bytes: an access past the end of one does not land in another.
const RED_ZONE: usize = 4096;
const MOST_ARRAYS: usize = 64;

pub(super) struct Simt {
    schedule_seed: u64,
    /// What is made once and used by every launch. The lock also lets only one launch run at a time.
    workshop: Mutex<Workshop>,
    checker: Option<Box<Mutex<Checker>>>,
    /// The number of a module, and another build of its kernels that is used instead of this program's own.
    replaced: Option<(usize, &'static [HostEntry])>,
}

#[derive(Default)]
struct Workshop {
    stacks: Vec<DefaultStack>,
    /// Shared memory, in words of 16 bytes.
    arena: Vec<u128>,
}

/// What a checking device saw since it was last asked.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub findings: Vec<Finding>,
    /// By the name of the kernel.
    pub kernels: BTreeMap<&'static str, Tally>,
    /// By the name of the kernel too; empty unless [`super::Device::profile`] asked for it.
    pub profiles: BTreeMap<&'static str, Profile>,
}

/// Why a thread does not run at the moment.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Wait {
    No,
    Barrier,
    WarpBarrier,
    Shuffle,
    Ended,
    /// A checker forbids it to go on.
    Stopped,
}

/// A shared array of this block: its declaration, and where in the arena it begins.
struct Shared {
    declaration: *const c_char,
    start: usize,
}

/// What each lane of a warp shows to the others, at most 32 bytes; `kernels/host/simt.h` reads it.
type Board = [[u64; 4]; WARP];

/// The block that runs on this operating-system thread.
struct Running {
    /// Of the block that runs, and which of them runs now.
    threads: usize,
    current: usize,
    yielders: [*const Yielder<(), Wait>; BLOCK],
    /// Two boards for each warp, used in turn. All lanes wait once between writing a board and reading it; what the next
    /// operation writes goes to the other board, as some lanes may still be reading this one.
    boards: [[Board; 2]; BLOCK / WARP],
    turn: [usize; BLOCK],
    /// The place in the code where each thread waits.
    places: [u64; BLOCK],
    /// The asynchronous copies of each thread.
    copies: Vec<Copies>,
    shared: Vec<Shared>,
    shared_bytes: usize,
    arena_used: usize,
    /// How often the threads have been let go on in this launch; it mixes the schedule.
    releases: u64,
    schedule_seed: u64,
    block: u32,
    workshop: Workshop,
    checker: *mut Checker,
    problem: Option<String>,
}

thread_local! {
    static RUNNING: Cell<*mut Running> = const { Cell::new(std::ptr::null_mut()) };
}

/// Accesses to `low .. low + span` are not reported: the mirror of `Gate` in `kernels/host/simt.cpp`.
#[repr(C)]
struct Gate {
    low: u64,
    span: u64,
}

unsafe extern "C" {
    /// The gate of the calling operating-system thread.
    fn zgan_simt_gate() -> *mut Gate;
}

const CLOSED: Gate = Gate { low: 0, span: u64::MAX };

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Simt {
    pub fn new(schedule_seed: u64, checked: bool, replaced: Option<(usize, &'static [HostEntry])>) -> Simt {
        let checker = checked.then(Box::default);
        Simt { schedule_seed, workshop: Mutex::default(), checker, replaced }
    }

    pub fn seen(&self) -> Seen {
        let Some(checker) = &self.checker else { return Seen::default() };
        let (findings, kernels, profiles) = lock(checker).take();
        Seen { findings: report::in_words(findings), kernels, profiles }
    }

    /// Tells the checkers of something, where there are any.
    fn tell(&self, what: impl FnOnce(&mut Checker)) {
        if let Some(checker) = &self.checker {
            what(&mut lock(checker));
        }
    }

    /// Counts from now on what the hardware would feel; only a checking device sees it.
    pub fn profile(&self) {
        self.tell(Checker::profile);
    }

    pub fn allocated(&self, address: u64, bytes: usize, element_bytes: usize) {
        self.tell(|checker| checker.allocated(address, bytes as u64, element_bytes as u64));
    }

    pub fn freed(&self, address: u64) {
        self.tell(|checker| checker.freed(address));
    }

    /// The program wrote this memory, or wants it to count as never written.
    pub fn mark(&self, range: Range<u64>, written: bool) {
        self.tell(|checker| checker.mark(range, written));
    }

    /// `views` are the buffers among the arguments, none where they are not known; `flops` those of the kernel's products.
    ///
    /// # Safety
    /// As [`super::Launch::run`].
    pub unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        arguments: &[*const c_void],
        views: &[View],
        flops: u64,
    ) -> Result<()> {
        let mut workshop = lock(&self.workshop);
        while workshop.stacks.len() < BLOCK {
            let stack = DefaultStack::new(STACK_BYTES).map_err(|e| {
                Error::Device(format!("simt: no memory for {BLOCK} stacks of {STACK_BYTES} bytes: {e}"))
            })?;
            workshop.stacks.push(stack);
        }
        if workshop.arena.is_empty() {
            workshop.arena = vec![u128::MAX; CORE_BYTES / 16 + (MOST_ARRAYS + 1) * RED_ZONE];
        }
        let entry = match self.replaced {
            Some((module, entries)) if module == kernel.module => Some(entries[kernel.index]),
            _ => kernel::SIMT.entry(kernel),
        };
        let entry = entry.ok_or_else(|| needs_check("device simt"))?;
        let start = Instant::now();
        let mut checker = self.checker.as_deref().map(lock);
        if let Some(checker) = &mut checker {
            checker.begin(kernel, grid, entry as usize as u64, views);
        }
        let mut running = Running {
            threads: kernel.threads as usize,
            current: 0,
            yielders: [std::ptr::null(); BLOCK],
            boards: [[Board::default(); 2]; BLOCK / WARP],
            turn: [0; BLOCK],
            places: [0; BLOCK],
            copies: std::iter::repeat_with(Copies::default).take(BLOCK).collect(),
            shared: Vec::new(),
            shared_bytes: 0,
            arena_used: 0,
            releases: 0,
            schedule_seed: self.schedule_seed,
            block: 0,
            workshop: std::mem::take(&mut *workshop),
            checker: checker.as_mut().map_or(std::ptr::null_mut(), |checker| &raw mut **checker),
            problem: None,
        };
        let mut blocks: Vec<u32> = (0..grid.iter().product()).collect();
        shuffle(&mut blocks, self.schedule_seed, u64::MAX);
        RUNNING.set(&raw mut running);
        for block in blocks {
            running.block = block;
            // SAFETY: the caller's for the arguments; `running` outlives the call and is reached only through the
            // thread-local pointer while it runs.
            unsafe { entry(arguments.as_ptr(), grid.as_ptr(), block, block + 1) };
            if let Some(problem) = &running.problem {
                running.problem = Some(format!("{}, block {block} of {grid:?}: {problem}", kernel.name));
                break;
            }
        }
        RUNNING.set(std::ptr::null_mut());
        *workshop = running.workshop;
        if let Some(checker) = &mut checker {
            checker.end(start.elapsed(), flops);
        }
        match running.problem {
            None => Ok(()),
            Some(problem) => Err(Error::Device(format!("simt: {problem}"))),
        }
    }
}

/// The block that runs now. To be called from inside `Simt::launch` alone.
fn running() -> *mut Running {
    let running = RUNNING.get();
    assert!(!running.is_null(), "a simt kernel runs outside a launch");
    running
}

/// Stops the calling coroutine.
fn wait(reason: Wait, place: u64) {
    let running = running();
    // SAFETY: `running` is alive for the whole launch, and the yielder of the current coroutine for as long as its
    // body runs. No reference into `running` is kept across the switch.
    unsafe {
        (*running).places[(*running).current] = place;
        let yielder = (*running).yielders[(*running).current];
        (*yielder).suspend(reason);
    }
}

#[unsafe(no_mangle)]
extern "C" fn zgan_simt_thread() -> u32 {
    // SAFETY: alive for the whole launch.
    unsafe { (*running()).current as u32 }
}

#[unsafe(no_mangle)]
extern "C" fn zgan_simt_wait(reason: u32, place: u64) {
    wait(if reason == 1 { Wait::Barrier } else { Wait::WarpBarrier }, place);
}

/// Puts `bytes` bytes of the calling lane on its warp's board, waits for the other lanes, and gives the board.
#[unsafe(no_mangle)]
extern "C" fn zgan_simt_show_at(value: *const c_void, bytes: u64, place: u64) -> *const Board {
    let running = running();
    // SAFETY: alive for the whole launch, and no reference to it is kept; the warp's number is below BLOCK / WARP, and
    // kernels/host/simt.h shows at most 32 bytes of the lane's own.
    let (thread, turn) = unsafe {
        let thread = (*running).current;
        let turn = (*running).turn[thread];
        (*running).turn[thread] ^= 1;
        let slot = &raw mut (*running).boards[thread / WARP][turn][thread % WARP];
        std::ptr::copy_nonoverlapping(value.cast::<u8>(), slot.cast::<u8>(), (bytes as usize).min(size_of_val(&*slot)));
        (thread, turn)
    };
    wait(Wait::Shuffle, place);
    // SAFETY: as above.
    unsafe { &raw const (*running).boards[thread / WARP][turn] }
}

#[unsafe(no_mangle)]
extern "C" fn zgan_simt_exchange_at(value: u64, from: i32, place: u64) -> u64 {
    let board = zgan_simt_show_at((&raw const value).cast(), 8, place);
    let own = zgan_simt_thread() as usize % WARP;
    let from = usize::try_from(from).ok().filter(|from| *from < WARP).unwrap_or(own);
    // SAFETY: a board of this launch, which no lane writes before all have waited once more.
    unsafe { (*board)[from][0] }
}

/// The checker, where one is at work.
///
/// # Safety
/// The reference must be gone before the coroutine is switched.
unsafe fn checker<'a>(running: *mut Running) -> Option<&'a mut Checker> {
    // SAFETY: `running` is alive for the whole launch, which holds the checker's lock; coroutines run one at a time.
    unsafe { (*running).checker.as_mut() }
}

/// Ends the launch with this problem; the calling thread goes no further.
fn forbid(problem: String, place: u64) {
    // SAFETY: alive for the whole launch.
    unsafe { (*running()).problem = Some(problem) };
    wait(Wait::Stopped, place);
}

/// Shows the checkers an access before it happens; false where the thread must not go on.
fn allowed(access: Access) -> bool {
    // SAFETY: alive for the whole launch; the reference ends before the thread waits.
    let stop = unsafe { checker(running()) }.and_then(|checker| checker.access(access).err());
    let Some(stop) = stop else { return true };
    forbid(stop.0, access.place);
    false
}

/// Called before an access to anything but the calling thread's own stack.
#[unsafe(no_mangle)]
extern "C" fn zgan_simt_access(address: u64, bytes: u64, alignment: u64, kind: u32, place: u64) {
    let thread = zgan_simt_thread() as usize;
    allowed(Access { thread, address, bytes, alignment, kind: Kind::of(kind), place });
}

/// Called where an index lies outside a local array.
#[unsafe(no_mangle)]
extern "C" fn zgan_simt_out_of_bounds(index: u64, place: u64) {
    let (thread, what) =
        (zgan_simt_thread() as usize, format!("index {} of an array that has no such element", index as i64));
    // SAFETY: alive for the whole launch; the reference ends before the thread waits.
    if let Some(checker) = unsafe { checker(running()) } {
        checker.mistake(Check::Memcheck, thread, 0, what.clone(), place);
    }
    forbid(format!("memcheck: thread {thread}: {what}"), place);
}

#[unsafe(no_mangle)]
extern "C" fn zgan_simt_shared(declaration: *const c_char, bytes: u64, element_bytes: u64) -> *mut c_void {
    // SAFETY: alive for the whole launch, and no other reference to it exists: coroutines run one at a time.
    let running = unsafe { &mut *running() };
    if let Some(shared) = running.shared.iter().find(|shared| shared.declaration == declaration) {
        return (&raw mut running.workshop.arena[shared.start]).cast();
    }
    running.shared_bytes += bytes as usize;
    let most = if running.threads == 1 { CORE_BYTES } else { SHARED_BYTES };
    if running.shared_bytes > most || running.shared.len() == MOST_ARRAYS {
        running.problem = Some(format!(
            "{} bytes of shared memory in {} arrays, at most {most} in {MOST_ARRAYS}",
            running.shared_bytes,
            running.shared.len() + 1
        ));
        wait(Wait::Stopped, 0);
    }
    let words = (bytes as usize).div_ceil(16);
    let start = running.arena_used + RED_ZONE;
    running.arena_used = start + words;
    running.shared.push(Shared { declaration, start });
    running.workshop.arena[start..start + words].fill(u128::MAX);
    let address = &raw mut running.workshop.arena[start];
    // SAFETY: the checker is another object than `running`.
    if let Some(checker) = unsafe { running.checker.as_mut() } {
        // SAFETY: kernels/host/simt.h passes the name of the array.
        let name = unsafe { CStr::from_ptr(declaration) }.to_string_lossy().into_owned();
        checker.declare(name, Region::new(address as u64, bytes, element_bytes, false));
    }
    address.cast()
}

#[derive(Clone, Copy)]
struct Body {
    function: extern "C" fn(*mut c_void),
    closure: *mut c_void,
}

/// `block_index` and `grid_size` are the kernel's blockIdx and gridDim, three numbers each.
#[unsafe(no_mangle)]
extern "C" fn zgan_simt_run_block(
    function: extern "C" fn(*mut c_void),
    closure: *mut c_void,
    block_index: *const c_void,
    grid_size: *const c_void,
) {
    let running = running();
    let body = Body { function, closure };
    // SAFETY: alive for the whole launch; borrowed only between switches. The gate is this operating-system thread's.
    let (mut stacks, gate, checks) = unsafe {
        (*running).shared.clear();
        (*running).copies.iter_mut().for_each(Copies::forget);
        (*running).shared_bytes = 0;
        (*running).arena_used = 0;
        let given = [block_index, grid_size].map(|pointer| pointer as u64..pointer as u64 + 12);
        let block = (*running).block;
        let checks = checker(running).map(|checker| checker.begin_block(block, &given)).is_some();
        (std::mem::take(&mut (*running).workshop.stacks), zgan_simt_gate(), checks)
    };
    // SAFETY: alive for the whole launch.
    let count = unsafe { (*running).threads };
    let spare = stacks.split_off(count);
    let own: Vec<Gate> = stacks
        .iter()
        .map(|stack| {
            let (low, high) = (stack.limit().get() as u64, stack.base().get() as u64);
            Gate { low, span: high - low }
        })
        .collect();
    let mut threads: Vec<Coroutine<(), Wait, (), DefaultStack>> = stacks
        .into_iter()
        .enumerate()
        .map(|(thread, stack)| {
            Coroutine::with_stack(stack, move |yielder: &Yielder<(), Wait>, ()| {
                // SAFETY: alive for the whole launch, as is the closure that the C++ side keeps on its stack.
                unsafe { (*running).yielders[thread] = yielder };
                (body.function)(body.closure);
            })
        })
        .collect();
    let mut waits = vec![Wait::No; count];
    let mut order: Vec<usize> = (0..count).collect();
    'block: loop {
        // SAFETY: alive for the whole launch.
        unsafe { shuffle(&mut order, (*running).schedule_seed, (*running).releases) };
        for &thread in &order {
            if waits[thread] != Wait::No {
                continue;
            }
            // SAFETY: alive for the whole launch; no reference is held across the switch.
            unsafe {
                (*running).current = thread;
                if checks {
                    gate.write(Gate { ..own[thread] });
                }
            }
            waits[thread] = match threads[thread].resume(()) {
                CoroutineResult::Yield(reason) => reason,
                CoroutineResult::Return(()) => Wait::Ended,
            };
            if waits[thread] == Wait::Ended {
                copies::ended(running, thread);
            }
            if waits[thread] == Wait::Stopped {
                break 'block;
            }
        }
        // SAFETY: alive for the whole launch.
        unsafe { (*running).releases += 1 };
        if waits.iter().all(|w| *w == Wait::Ended) {
            break;
        }
        // SAFETY: the reference is gone before the next switch.
        let (places, mut checker) = unsafe { ((*running).places, checker(running)) };
        if !release(&mut waits, checker.as_deref_mut()) {
            let what = stuck(&waits);
            if let Some(checker) = checker {
                report_stuck(checker, &waits, &places, what.clone());
            }
            // SAFETY: alive for the whole launch.
            unsafe { (*running).problem = Some(format!("synccheck: {what}")) };
            break;
        }
    }
    // SAFETY: this thread's own.
    unsafe { gate.write(CLOSED) };
    let stacks = threads
        .into_iter()
        .map(|mut thread| {
            if !thread.done() {
                // SAFETY: kernels own nothing that needs a destructor.
                unsafe { thread.force_reset() };
            }
            thread.into_stack()
        })
        .chain(spare)
        .collect();
    // SAFETY: alive for the whole launch.
    unsafe { (*running).workshop.stacks = stacks };
}

/// Lets those threads go on that have waited for each other and have all arrived; false where there are none.
fn release(waits: &mut [Wait], mut checker: Option<&mut Checker>) -> bool {
    if waits.iter().all(|w| *w == Wait::Barrier) {
        waits.fill(Wait::No);
        if let Some(checker) = checker {
            checker.barrier();
        }
        return true;
    }
    let mut any = false;
    for (number, warp) in waits.chunks_mut(WARP).enumerate() {
        let reason = warp[0];
        if matches!(reason, Wait::WarpBarrier | Wait::Shuffle) && warp.iter().all(|w| *w == reason) {
            warp.fill(Wait::No);
            any = true;
            if let Some(checker) = checker.as_deref_mut() {
                checker.together(number, reason == Wait::WarpBarrier);
            }
        }
    }
    any
}

fn stuck(waits: &[Wait]) -> String {
    let count = |wait| waits.iter().filter(|w| **w == wait).count();
    format!(
        "of {} threads {} wait at a barrier, {} at a warp's, {} at a shuffle, and {} have ended",
        waits.len(),
        count(Wait::Barrier),
        count(Wait::WarpBarrier),
        count(Wait::Shuffle),
        count(Wait::Ended)
    )
}

/// Reports a thread that waits, and one that will not come: one of the same warp where the thread waits for its warp.
fn report_stuck(checker: &mut Checker, waits: &[Wait], places: &[u64; BLOCK], what: String) {
    let waits_in_warp = |wait: &Wait| matches!(wait, Wait::WarpBarrier | Wait::Shuffle);
    let waiting = waits.iter().position(waits_in_warp).or(waits.iter().position(|wait| *wait == Wait::Barrier));
    let Some(waiting) = waiting else { return };
    let warp = waiting / WARP * WARP;
    let among = if waits_in_warp(&waits[waiting]) { warp..warp + WARP } else { 0..waits.len() };
    let absent = among.into_iter().find(|thread| waits[*thread] != waits[waiting]);
    let other = absent.map(|thread| (thread, if waits[thread] == Wait::Ended { 0 } else { places[thread] }));
    checker.stuck(waiting, places[waiting], what, other);
}

/// Puts `order` into an order that follows from the seed and the round; seed 0 leaves it as it is.
fn shuffle<T>(order: &mut [T], seed: u64, round: u64) {
    if seed == 0 {
        return;
    }
    let mut state = seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for i in (1..order.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
}
