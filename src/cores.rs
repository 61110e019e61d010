//! Work that is spread over the cores of this machine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::Result;

/// The most threads that may be asked for.
pub const MOST_THREADS: usize = 1024;

static SHARERS: AtomicUsize = AtomicUsize::new(1);

/// From now on this process takes its share of the cores, where so many processes have the same ones.
pub fn share_among(processes: usize) {
    SHARERS.store(processes.max(1), Ordering::Relaxed);
}

/// How many threads work where so many were asked for; 0 asks for one a core, or of this process's share of them.
pub fn threads(asked: usize) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, |n| n.get());
    if asked > 0 { asked.min(MOST_THREADS) } else { (all() / SHARERS.load(Ordering::Relaxed)).max(1) }
}

/// `work` for each of the parts, on all cores.
pub fn in_parallel<T: Send>(parts: Vec<T>, work: impl Fn(T) + Sync) {
    let cores = threads(0).min(parts.len());
    let parts = Mutex::new(parts.into_iter());
    let run = || {
        while let Some(part) = { parts.lock().unwrap_or_else(PoisonError::into_inner).next() } {
            work(part);
        }
    };
    std::thread::scope(|scope| {
        // Where the system refuses a thread, the others do its work.
        (1..cores).map_while(|_| std::thread::Builder::new().spawn_scoped(scope, run).ok()).for_each(drop);
        run();
    });
}

/// Calls `one` for the numbers 0 .. count on all cores, and gives the results in order. Each core has what `open` makes,
/// devices for instance, for itself.
pub fn on_all_cores<D, T: Send>(
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
    let cores = threads(0).min(count);
    std::thread::scope(|scope| {
        // This thread works as well. Where the system refuses another one, those that there are do its work.
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let workers: Vec<_> = (1..cores).map_while(start).collect();
        let own = work();
        workers.into_iter().fold(own, |result, worker| match worker.join() {
            Ok(other) => result.and(other),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_values().collect())
}
