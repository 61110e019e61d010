//! The ranks that train one pair of networks together, and what they exchange: processes on one machine or several, or
//! threads of one process with a GPU each.
//!
//! A [`Device`] of a rank carries its [`Communicator`] ([`Device::with_ranks`]); a device without one is the only rank. All
//! calls are collective: each rank makes the same ones, in the same order, on as many values. What ranks have in uneven
//! shares they gather by a sum over arrays of the whole length that are zero outside their own share, which is exact.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Buffer, Device};
use crate::Result;
use crate::sizes::product;

/// What becomes of the ranks' values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    Sum,
    Max,
}

/// A connection of one rank with all others.
pub trait Communicator: Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn ranks(&self) -> usize;

    /// Replaces the values of each rank by their sum or maximum over all ranks, with the same bits everywhere, in the order
    /// of the device's queue. The buffer is stored in f32.
    fn all_reduce(&self, values: &Buffer<f32>, reduction: Reduction) -> Result<()>;

    /// Replaces the values of each rank by those of one, in the order of the device's queue. The buffer is stored in f32.
    fn broadcast(&self, values: &Buffer<f32>, from: usize) -> Result<()>;

    /// The largest of the numbers that the ranks give. Waits for all of them.
    fn agree(&self, number: u64) -> Result<u64>;

    /// The time that this rank has spent in exchanges of values so far, waiting for others included; None where the device does them
    /// by itself, in its own time.
    fn spent(&self) -> Option<Duration> {
        None
    }

    /// Waits for all others, however long it takes: for where one of them works alone meanwhile.
    fn wait(&self) -> Result<()> {
        self.agree(0).map(drop)
    }

    /// The numbers of all ranks, in their order. Waits for all of them.
    fn gather(&self, number: u64) -> Result<Vec<u64>> {
        let of = |rank| self.agree(if rank == self.rank() { number } else { 0 });
        (0..self.ranks()).map(of).collect()
    }

    /// Of so many rows, those that this rank takes: consecutive, and as many as the other ranks, but that the first ranks
    /// have one more where they do not divide evenly.
    fn share(&self, rows: usize) -> Range<usize> {
        let start = |rank: usize| rank * (rows / self.ranks()) + rank.min(rows % self.ranks());
        start(self.rank())..start(self.rank() + 1)
    }
}

impl Device {
    /// The same device as that of one of several ranks, or of the only one.
    pub fn with_ranks(&self, ranks: Arc<dyn Communicator>) -> Device {
        Device { ranks: (ranks.ranks() > 1).then_some(ranks), ..self.clone() }
    }

    /// The connection with the other ranks; None where this is the only one.
    pub fn ranks(&self) -> Option<&dyn Communicator> {
        self.ranks.as_deref()
    }

    /// The largest of the numbers that the ranks give.
    pub fn agree(&self, number: u64) -> Result<u64> {
        self.ranks().map_or(Ok(number), |ranks| ranks.agree(number))
    }

    /// Whether this rank says so, or any of the others.
    pub fn any_rank(&self, here: bool) -> Result<bool> {
        Ok(self.agree(here.into())? > 0)
    }

    /// Looks at `count` things in parts of `at_once`, at which the ranks take turns. `see` gives a row of `width` numbers for each
    /// thing of a part, and `take` gets all rows in the order of the things, on the first rank alone. False where some rank's
    /// `go_on`, which is asked before each turn, said no.
    pub fn see_in_turns(
        &self,
        (count, at_once, width): (usize, usize, usize),
        go_on: &dyn Fn() -> bool,
        mut see: impl FnMut(Range<usize>) -> Result<Vec<f32>>,
        mut take: impl FnMut(&[f32]),
    ) -> Result<bool> {
        let (rank, turn) = self.ranks().map_or((0, at_once), |ranks| (ranks.rank(), at_once * ranks.ranks()));
        for first in (0..count).step_by(turn) {
            if self.any_rank(!go_on())? {
                return Ok(false);
            }
            let end = count.min(first + turn);
            let start = end.min(first + rank * at_once);
            let own = start..end.min(start + at_once);
            let mut rows = if own.is_empty() { Vec::new() } else { see(own.clone())? };
            if let Some(ranks) = self.ranks() {
                let all = self.zeros(product([end - first, width]))?;
                all.view((own.start - first) * width..(own.end - first) * width).write(&rows)?;
                ranks.all_reduce(&all, Reduction::Sum)?;
                rows = if rank == 0 { all.read()? } else { Vec::new() };
            }
            rows.chunks_exact(width).for_each(&mut take);
        }
        Ok(true)
    }
}

/// Stands for the first of so many ranks where only the sizes matter of what it would exchange.
pub(crate) struct Counting {
    ranks: usize,
    bytes: Mutex<Vec<usize>>,
}

impl Counting {
    pub fn new(ranks: usize) -> Counting {
        Counting { ranks, bytes: Mutex::default() }
    }

    /// Of each collective so far.
    pub fn bytes(&self) -> Vec<usize> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, values: &Buffer<f32>) -> Result<()> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).push(size_of::<f32>() * values.len());
        Ok(())
    }
}

impl Communicator for Counting {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn all_reduce(&self, values: &Buffer<f32>, _: Reduction) -> Result<()> {
        self.count(values)
    }

    fn broadcast(&self, values: &Buffer<f32>, _: usize) -> Result<()> {
        self.count(values)
    }

    fn agree(&self, number: u64) -> Result<u64> {
        Ok(number)
    }
}
