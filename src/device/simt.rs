//! The `simt` execution: every thread of a block is a coroutine with a stack of its own, and a barrier or a warp
//! operation hands control to the next one. The C++ side is `kernels/host/simt.h`.
//!
//! A barrier that not all threads reach, or a deadlock, is an error of the launch that names the kernel and block.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Mutex;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::kernels::{Kernel, kernel};
use crate::{Error, Result};

const BLOCK: usize = 256;
const WARP: usize = 32;
const STACK_BYTES: usize = 128 * 1024;

/// The most static shared memory of a block, as on every GPU.
const SHARED_BYTES: usize = 48 * 1024;

pub(super) struct Simt {
    schedule_seed: u64,
    /// One launch at a time; the stacks are used again from block to block.
    stacks: Mutex<Vec<DefaultStack>>,
}

/// Why a thread stopped.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Wait {
    No,
    Barrier,
    Warp,
    Ended,
}

/// The block that runs on this operating-system thread.
struct Running {
    current: usize,
    yielders: [*const Yielder<(), Wait>; BLOCK],
    exchange: [[u64; WARP]; BLOCK / WARP],
    /// Shared arrays: the address of their declaration, and their memory in 16-byte words.
    shared: Vec<(*const c_void, Vec<u128>)>,
    shared_bytes: usize,
    /// How many barriers each warp operation or block barrier of this launch let pass; mixes the schedule.
    releases: u64,
    schedule_seed: u64,
    stacks: Vec<DefaultStack>,
    problem: Option<String>,
}

thread_local! {
    static RUNNING: Cell<*mut Running> = const { Cell::new(std::ptr::null_mut()) };
}

impl Simt {
    pub fn new(schedule_seed: u64) -> Simt {
        Simt { schedule_seed, stacks: Mutex::new(Vec::new()) }
    }

    /// # Safety
    /// As [`super::Launch::run`].
    pub unsafe fn launch(&self, kernel: Kernel, grid: [u32; 3], arguments: &[*const c_void]) -> Result<()> {
        let mut stacks = self.stacks.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while stacks.len() < BLOCK {
            let stack = DefaultStack::new(STACK_BYTES).map_err(|e| {
                Error::Device(format!("simt: no memory for {BLOCK} stacks of {STACK_BYTES} bytes: {e}"))
            })?;
            stacks.push(stack);
        }
        let mut running = Running {
            current: 0,
            yielders: [std::ptr::null(); BLOCK],
            exchange: [[0; WARP]; BLOCK / WARP],
            shared: Vec::new(),
            shared_bytes: 0,
            releases: 0,
            schedule_seed: self.schedule_seed,
            stacks: std::mem::take(&mut *stacks),
            problem: None,
        };
        let entry = kernel::SIMT.entry(kernel);
        let blocks: u32 = grid.iter().product();
        RUNNING.set(&raw mut running);
        for block in 0..blocks {
            // SAFETY: the caller's for the arguments; `running` outlives the call and is reached only through the
            // thread-local pointer while it runs.
            unsafe { entry(arguments.as_ptr(), grid.as_ptr(), block, block + 1) };
            if let Some(problem) = &running.problem {
                running.problem = Some(format!("{}, block {block} of {grid:?}: {problem}", kernel.name));
                break;
            }
        }
        RUNNING.set(std::ptr::null_mut());
        *stacks = running.stacks;
        match running.problem {
            None => Ok(()),
            Some(problem) => Err(Error::Device(format!("simt: {problem}"))),
        }
    }
}

/// The block that runs now. Only called from inside `Simt::launch`.
fn running() -> *mut Running {
    let running = RUNNING.get();
    assert!(!running.is_null(), "a simt kernel runs outside a launch");
    running
}

/// Stops the calling coroutine.
fn wait(reason: Wait) {
    let running = running();
    // SAFETY: `running` is alive for the whole launch, and the yielder of the current coroutine for as long as its
    // body runs. No reference into `running` is kept across the switch.
    unsafe {
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
extern "C" fn zgan_simt_barrier() {
    wait(Wait::Barrier);
}

#[unsafe(no_mangle)]
extern "C" fn zgan_simt_warp_barrier() {
    wait(Wait::Warp);
}

#[unsafe(no_mangle)]
extern "C" fn zgan_simt_exchange() -> *mut u64 {
    let running = running();
    // SAFETY: alive for the whole launch; the warp's number is below BLOCK / WARP.
    unsafe { (&raw mut (*running).exchange[(*running).current / WARP]).cast() }
}

#[unsafe(no_mangle)]
extern "C" fn zgan_simt_shared(declaration: *const c_void, bytes: u64) -> *mut c_void {
    // SAFETY: alive for the whole launch, and no other reference to it exists: coroutines run one at a time.
    let running = unsafe { &mut *running() };
    if let Some((_, memory)) = running.shared.iter_mut().find(|(d, _)| *d == declaration) {
        return memory.as_mut_ptr().cast();
    }
    running.shared_bytes += bytes as usize;
    if running.shared_bytes > SHARED_BYTES {
        running.problem = Some(format!("{} bytes of shared memory, at most {SHARED_BYTES}", running.shared_bytes));
    }
    running.shared.push((declaration, vec![u128::MAX; (bytes as usize).div_ceil(16)]));
    match running.shared.last_mut() {
        Some((_, memory)) => memory.as_mut_ptr().cast(),
        None => std::ptr::null_mut(),
    }
}

#[derive(Clone, Copy)]
struct Body {
    function: extern "C" fn(*mut c_void),
    closure: *mut c_void,
}

#[unsafe(no_mangle)]
extern "C" fn zgan_simt_run_block(function: extern "C" fn(*mut c_void), closure: *mut c_void) {
    let running = running();
    let body = Body { function, closure };
    // SAFETY: alive for the whole launch; borrowed only between switches.
    let stacks = unsafe {
        (*running).shared.clear();
        (*running).shared_bytes = 0;
        std::mem::take(&mut (*running).stacks)
    };
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
    let mut waits = [Wait::No; BLOCK];
    let mut order: Vec<usize> = (0..BLOCK).collect();
    loop {
        // SAFETY: alive for the whole launch.
        unsafe { shuffle(&mut order, (*running).schedule_seed, (*running).releases) };
        for &thread in &order {
            if waits[thread] != Wait::No {
                continue;
            }
            // SAFETY: alive for the whole launch; no reference is held across the switch.
            unsafe { (*running).current = thread };
            waits[thread] = match threads[thread].resume(()) {
                CoroutineResult::Yield(reason) => reason,
                CoroutineResult::Return(()) => Wait::Ended,
            };
        }
        // SAFETY: alive for the whole launch.
        unsafe { (*running).releases += 1 };
        if waits.iter().all(|w| *w == Wait::Ended) {
            break;
        }
        if !release(&mut waits) {
            // SAFETY: alive for the whole launch.
            unsafe { (*running).problem = Some(stuck(&waits)) };
            break;
        }
    }
    let stacks = threads
        .into_iter()
        .map(|mut thread| {
            if thread.started() && !thread.done() {
                // SAFETY: kernels own nothing that needs a destructor.
                unsafe { thread.force_reset() };
            }
            thread.into_stack()
        })
        .collect();
    // SAFETY: alive for the whole launch.
    unsafe { (*running).stacks = stacks };
}

/// Lets the threads go on that have all arrived; false where none may.
fn release(waits: &mut [Wait; BLOCK]) -> bool {
    if waits.iter().all(|w| *w == Wait::Barrier) {
        waits.fill(Wait::No);
        return true;
    }
    let mut any = false;
    for warp in waits.chunks_mut(WARP) {
        if warp.iter().all(|w| *w == Wait::Warp) {
            warp.fill(Wait::No);
            any = true;
        }
    }
    any
}

fn stuck(waits: &[Wait; BLOCK]) -> String {
    let count = |wait| waits.iter().filter(|w| **w == wait).count();
    format!(
        "synccheck: of {BLOCK} threads {} wait at a barrier, {} at a warp operation, and {} have ended",
        count(Wait::Barrier),
        count(Wait::Warp),
        count(Wait::Ended)
    )
}

/// A permutation that follows from the seed and the round; seed 0 keeps the order.
fn shuffle(order: &mut [usize], seed: u64, round: u64) {
    if seed == 0 {
        return;
    }
    let mut state = seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for i in (1..order.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
}
