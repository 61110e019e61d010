//! Ranks that are processes, which mpirun or srun started, connected by MPI.
//!
//! Each exchange is one that MPI does not block in: this thread asks again and again whether it is done, naps meanwhile, as
//! ranks may share their cores, and notices when it takes too long. Values go through memory of this process, so that they
//! may lie on any device; a GPU waits for that.

use std::os::raw::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mpi::ffi;
use mpi::request::StaticScope;
use mpi::topology::{Communicator as _, SimpleCommunicator};
use mpi::traits::*;

use super::{Buffer, Communicator, Precision, Reduction, Started};
use crate::{Error, Result};

/// The processes that mpirun or srun started together with this one.
pub struct Mpi {
    rank: usize,
    ranks: usize,
    /// The longest wait for another rank.
    timeout: Option<Duration>,
    /// Nanoseconds of exchanges of values.
    spent: AtomicU64,
    /// MPI may still write to it after an exchange that took too long, so it is never freed. Whoever has it may call MPI.
    memory: &'static Mutex<Memory>,
}

/// What is sent, and what comes back.
#[derive(Default)]
struct Memory {
    own: Vec<f32>,
    all: Vec<f32>,
    number: [u64; 2],
}

/// The most values of one call: MPI counts them in an int.
const AT_ONCE: usize = 1 << 30;
/// What a rank sends to the others when it has waited for too long, and how long it then listens for theirs.
const PRESENT: u8 = 1;
const LISTEN: Duration = Duration::from_secs(2);

static JOINED: AtomicBool = AtomicBool::new(false);

impl Mpi {
    /// Meets the other processes, which must do the same; once in a process. `timeout` is the longest wait for one of them,
    /// later on: without one it is as long as it takes.
    pub fn join(started: Started, timeout: Option<Duration>) -> Result<Mpi> {
        let level = mpi::Threading::Serialized;
        let Some((universe, provided)) = mpi::initialize_with_threading(level) else {
            return Err(Error::Ranks("MPI: this process has joined the others already".into()));
        };
        // Its end would wait for the others, whatever has happened to this process. `leave` does so where all is well.
        std::mem::forget(universe);
        JOINED.store(true, Ordering::SeqCst);
        let world = SimpleCommunicator::world();
        let (rank, ranks) = (world.rank() as usize, world.size() as usize);
        if provided < level {
            return Err(Error::Ranks(format!("MPI: it offers {provided:?} threads, expected {level:?} or more")));
        }
        if ranks != started.ranks {
            let Started { variable, ranks: told, .. } = started;
            return Err(Error::Ranks(format!(
                "{variable} is {told}, but MPI knows {ranks} process{}: mpirun of the MPI that this program was built with \
                 starts them, or srun --mpi=pmix",
                if ranks == 1 { "" } else { "es" }
            )));
        }
        Ok(Mpi { rank, ranks, timeout, spent: AtomicU64::new(0), memory: Box::leak(Box::default()) })
    }

    /// Ends the connection, where there is one; waits for the others.
    pub fn leave() {
        if JOINED.swap(false, Ordering::SeqCst) {
            // SAFETY: MPI is initialised, and no exchange is under way: each waits until it is done, or is an error.
            unsafe { ffi::MPI_Finalize() };
        }
    }

    /// Ends all processes, and this one with `status`; where it has not joined others, this one alone.
    pub fn abort(status: i32) -> ! {
        if JOINED.load(Ordering::SeqCst) {
            SimpleCommunicator::world().abort(status);
        }
        std::process::exit(status)
    }

    /// Calls come one at a time: MPI is told so.
    fn memory(&self) -> Result<MutexGuard<'static, Memory>> {
        let busy = || Error::Ranks("MPI: an exchange before this one is not done, or took too long".into());
        self.memory.try_lock().map_err(|_| busy())
    }

    /// Begins an exchange, which fills in its request, and waits until it is done. Where that takes longer than `limit`, the
    /// memory stays locked, and MPI's.
    ///
    /// # Safety
    /// The exchange touches nothing but `memory`.
    unsafe fn exchange(
        &self,
        mut memory: MutexGuard<'static, Memory>,
        limit: Option<Duration>,
        what: impl Fn() -> String,
        begin: impl FnOnce(&mut Memory, *mut ffi::MPI_Request) -> c_int,
    ) -> Result<MutexGuard<'static, Memory>> {
        // SAFETY: a constant of the library.
        let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
        // An error of MPI's own ends all processes.
        begin(&mut memory, &mut request);
        let begun = Instant::now();
        loop {
            let mut done = 0;
            // SAFETY: the request is the one that was just begun, or null.
            unsafe { ffi::MPI_Test(&mut request, &mut done, ffi::RSMPI_STATUS_IGNORE) };
            if done != 0 {
                return Ok(memory);
            }
            let waited = begun.elapsed();
            if let Some(limit) = limit.filter(|limit| waited > *limit) {
                std::mem::forget(memory);
                return Err(self.late(&what(), limit));
            }
            nap(waited);
        }
    }

    /// The error of an exchange that took too long. Whoever waits tells the others so, and names those of whom it hears
    /// nothing.
    fn late(&self, what: &str, limit: Duration) -> Error {
        const TAG: i32 = 7;
        static WORD: [u8; 1] = [PRESENT];
        let world = SimpleCommunicator::world();
        for rank in (0..self.ranks).filter(|rank| *rank != self.rank) {
            // The process ends before long, and nobody need know when it has been sent.
            std::mem::forget(world.process_at_rank(rank as i32).immediate_send_with_tag(StaticScope, &WORD[..], TAG));
        }
        let mut silent: Vec<usize> = (0..self.ranks).filter(|rank| *rank != self.rank).collect();
        let begun = Instant::now();
        while begun.elapsed() < LISTEN && !silent.is_empty() {
            match world.any_process().immediate_matched_probe_with_tag(TAG) {
                Some((message, _)) => {
                    let (_, status) = message.matched_receive::<u8>();
                    silent.retain(|rank| *rank != status.source_rank() as usize);
                }
                None => nap(begun.elapsed()),
            }
        }
        let who = match &silent[..] {
            [] => "not all ranks have".to_string(),
            [one] => format!("rank {one} has"),
            [most @ .., last] => {
                let most: Vec<_> = most.iter().map(|rank| rank.to_string()).collect();
                format!("ranks {} and {last} have", most.join(", "))
            }
        };
        let (not, seconds) = (if silent.is_empty() { "" } else { "not " }, limit.as_secs());
        Error::Ranks(format!("{who} {not}come to {what} within {seconds} seconds (--timeout)"))
    }

    /// Counts an exchange of values that has ended.
    fn spend(&self, begun: Instant) -> Result<()> {
        self.spent.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn agree_within(&self, number: u64, limit: Option<Duration>) -> Result<u64> {
        let (memory, what) = (self.memory()?, || "the end of its part".into());
        // SAFETY: both numbers are the memory's.
        let memory = unsafe {
            self.exchange(memory, limit, what, |memory, request| {
                memory.number = [number, 0];
                let [own, all] = &mut memory.number;
                let (own, all) = ((&raw const *own).cast(), (&raw mut *all).cast());
                let (max, world) = (ffi::RSMPI_MAX, ffi::RSMPI_COMM_WORLD);
                ffi::MPI_Iallreduce(own, all, 1, ffi::RSMPI_UINT64_T, max, world, request)
            })?
        };
        Ok(memory.number[1])
    }
}

/// Lets others have the core: for a moment, or for a small part of the time that has been waited.
fn nap(waited: Duration) {
    match waited / 20 {
        short if short < Duration::from_micros(100) => std::thread::yield_now(),
        nap => std::thread::sleep(nap.min(Duration::from_millis(5))),
    }
}

/// Values are exchanged as they are in memory.
fn stored_in_f32(values: &Buffer<f32>) -> Result<()> {
    match values.precision() {
        Precision::F32 => Ok(()),
        other => Err(Error::Shape(format!("MPI: values stored in {other}, expected {}", Precision::F32))),
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn all_reduce(&self, values: &Buffer<f32>, reduction: Reduction) -> Result<()> {
        stored_in_f32(values)?;
        let (begun, len, mut memory) = (Instant::now(), values.len(), self.memory()?);
        memory.own.resize(len, 0.0);
        memory.all.resize(len, 0.0);
        values.read_into(&mut memory.own)?;
        for first in (0..len).step_by(AT_ONCE) {
            let (count, what) = (AT_ONCE.min(len - first), || format!("a sum of {len} values"));
            // SAFETY: so many values from `first` on lie inside both arrays of the memory.
            memory = unsafe {
                self.exchange(memory, self.timeout, what, |memory, request| {
                    let (own, all) = (memory.own[first..].as_ptr().cast(), memory.all[first..].as_mut_ptr().cast());
                    let by = if reduction == Reduction::Sum { ffi::RSMPI_SUM } else { ffi::RSMPI_MAX };
                    ffi::MPI_Iallreduce(own, all, count as i32, ffi::RSMPI_FLOAT, by, ffi::RSMPI_COMM_WORLD, request)
                })?
            };
        }
        values.write(&memory.all)?;
        self.spend(begun)
    }

    fn broadcast(&self, values: &Buffer<f32>, from: usize) -> Result<()> {
        stored_in_f32(values)?;
        let (begun, len, mut memory) = (Instant::now(), values.len(), self.memory()?);
        memory.all.resize(len, 0.0);
        if from == self.rank {
            values.read_into(&mut memory.all)?;
        }
        for first in (0..len).step_by(AT_ONCE) {
            let (count, what) = (AT_ONCE.min(len - first), || format!("{len} values of rank {from}"));
            // SAFETY: so many values from `first` on lie inside the array of the memory.
            memory = unsafe {
                self.exchange(memory, self.timeout, what, |memory, request| {
                    let (all, world) = (memory.all[first..].as_mut_ptr().cast(), ffi::RSMPI_COMM_WORLD);
                    ffi::MPI_Ibcast(all, count as i32, ffi::RSMPI_FLOAT, from as i32, world, request)
                })?
            };
        }
        if from != self.rank {
            values.write(&memory.all)?;
        }
        self.spend(begun)
    }

    fn agree(&self, number: u64) -> Result<u64> {
        self.agree_within(number, self.timeout)
    }

    fn wait(&self) -> Result<()> {
        self.agree_within(0, None).map(drop)
    }

    fn spent(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.spent.load(Ordering::Relaxed)))
    }
}
