//! What times, checks, counts and explains the kernels. Training, drawing and judging need none of it, but for the file of
//! tuned block sizes that [`tune`] reads.
//!
//! - [`bench`]: operations and steps timed beside what the machine can do;
//! - [`check`]: every kernel as thread blocks, under checkers that see each access to memory;
//! - [`gate`]: what the compiler made of the kernels for GPUs, and the most they may take;
//! - [`study`]: what fusion buys, rung by rung, and the page that shows it; [`plot`] draws;
//! - [`record`]: rows as CSV and JSON;
//! - [`tune`]: block sizes and tiles measured for a device, and the file they are kept in.

pub mod bench;
pub mod check;
pub mod gate;
pub mod plot;
pub mod record;
pub mod study;
pub mod tune;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Result;

/// Calls `one` for the numbers 0 .. count on all cores, and gives the results in order. Each core has what `open` makes,
/// devices for instance, for itself.
fn on_all_cores<D, T: Send>(
    count: usize,
    open: impl Fn() -> Result<D> + Sync,
    one: impl Fn(&D, usize) -> T + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    let work = || -> Result<()> {
        let own = open()?;
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return Ok(());
            }
            let result = one(&own, at);
            results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(at, result);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get()).min(count);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_values().collect())
}
