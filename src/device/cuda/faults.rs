//! Which kernel the driver's error may come from. A GPU runs kernels later than they are launched, so that a fault in one of
//! them is told by whatever call comes next.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult::*;

use crate::Result;
use crate::device::kernels::{Kernel, kernel};
use crate::device::switched_on;

/// Names that an error lists at most.
const KEPT: usize = 8;
/// Stands for a captured graph among the kernels.
const GRAPH: usize = usize::MAX;

/// What was launched lately.
#[derive(Default)]
pub(super) struct Faults {
    /// Whether each launch is waited for (`ZGAN_SYNC=1`), so that its error is its own kernel's.
    pub synchronous: bool,
    launched: AtomicUsize,
    /// How many launches have ended without an error.
    ended: AtomicUsize,
    /// The last launches, each at its number modulo `KEPT`: a module, and in the lower 16 bits a kernel of it.
    last: [AtomicUsize; KEPT],
    /// Since when the program has been waiting for the device.
    waits: Mutex<Option<Instant>>,
    /// Why nothing more can come of this device: it is one of several ranks, and their connection is lost.
    lost: OnceLock<String>,
}

impl Faults {
    pub fn new() -> Result<Faults> {
        Ok(Faults { synchronous: switched_on("ZGAN_SYNC")?, ..Faults::default() })
    }

    /// The driver has taken this launch.
    pub fn launched(&self, kernel: &Kernel) {
        self.note(kernel.module << 16 | kernel.index);
    }

    pub fn launched_graph(&self) {
        self.note(GRAPH);
    }

    fn note(&self, what: usize) {
        let turn = self.launched.fetch_add(1, Ordering::Relaxed);
        self.last[turn % KEPT].store(what, Ordering::Relaxed);
    }

    /// Waits for all work by `wait`.
    pub fn waiting(
        &self,
        wait: impl FnOnce() -> std::result::Result<(), DriverError>,
    ) -> std::result::Result<(), DriverError> {
        let launched = self.launched.load(Ordering::Relaxed);
        self.watched(wait)?;
        self.ended.fetch_max(launched, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for some of the work by `wait`. Where the connection with other ranks is lost meanwhile, what it waited for is not
    /// what it should be.
    pub fn watched(
        &self,
        wait: impl FnOnce() -> std::result::Result<(), DriverError>,
    ) -> std::result::Result<(), DriverError> {
        self.begun().get_or_insert_with(Instant::now);
        let waited = wait();
        *self.begun() = None;
        if self.lost().is_some() { Err(DriverError(CUDA_ERROR_UNKNOWN)) } else { waited }
    }

    fn begun(&self) -> MutexGuard<'_, Option<Instant>> {
        self.waits.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How long the program has been waiting for the device by now.
    pub fn waited(&self) -> Duration {
        self.begun().map_or(Duration::ZERO, |begun| begun.elapsed())
    }

    /// From now on whatever is asked of the device is an error that says why.
    pub fn lose(&self, why: &str) {
        let _ = self.lost.set(why.into());
    }

    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// What to add to an error of the driver: after a fault in a kernel, those that it may have been in.
    pub fn suspects(&self, error: DriverError) -> String {
        let in_a_kernel = matches!(
            error.0,
            CUDA_ERROR_ILLEGAL_ADDRESS
                | CUDA_ERROR_MISALIGNED_ADDRESS
                | CUDA_ERROR_INVALID_ADDRESS_SPACE
                | CUDA_ERROR_INVALID_PC
                | CUDA_ERROR_ILLEGAL_INSTRUCTION
                | CUDA_ERROR_HARDWARE_STACK_ERROR
                | CUDA_ERROR_ASSERT
                | CUDA_ERROR_LAUNCH_TIMEOUT
                | CUDA_ERROR_LAUNCH_FAILED
        );
        let (launched, ended) = (self.launched.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed));
        if !in_a_kernel || launched == ended {
            return String::new();
        }
        let name = |turn: usize| match self.last[turn % KEPT].load(Ordering::Relaxed) {
            GRAPH => "a captured graph",
            kernel => kernel::MODULES[kernel >> 16].kernels[kernel & 0xffff].name,
        };
        let shown: Vec<&str> = (ended.max(launched.saturating_sub(KEPT))..launched).rev().map(name).collect();
        let all = launched - ended;
        let which = match all {
            1 => format!("the one launch since the device was last waited for: {}", shown[0]),
            _ if all <= KEPT => format!("one of these launches, the last first: {}", shown.join(", ")),
            _ => format!("one of {all} launches, the last of them first: {}", shown.join(", ")),
        };
        let hint = "ZGAN_SYNC=1 waits for each launch, and so names the kernel";
        if self.synchronous { String::new() } else { format!("; it comes from {which} ({hint})") }
    }
}
