//! The ranks that train one pair of networks together, and what they exchange: processes on one machine or several, or
//! threads of one process with a GPU each.
//!
//! A [`Device`] of a rank carries its [`Communicator`] ([`Device::with_ranks`]); a device without one is the only rank. All
//! calls are collective: each rank makes the same ones, in the same order, on as many values. What ranks have in uneven
//! shares they gather by a sum over arrays of the whole length that are zero outside their own share, which is exact.

use std::sync::Arc;

use super::{Buffer, Device};
use crate::Result;

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

    /// Waits for all others, however long it takes: for where one of them works alone meanwhile.
    fn wait(&self) -> Result<()> {
        self.agree(0).map(drop)
    }

    /// The numbers of all ranks, in their order. Waits for all of them.
    fn gather(&self, number: u64) -> Result<Vec<u64>> {
        let of = |rank| self.agree(if rank == self.rank() { number } else { 0 });
        (0..self.ranks()).map(of).collect()
    }
}

impl Device {
    /// The same device as that of one of several ranks.
    pub fn with_ranks(&self, ranks: Arc<dyn Communicator>) -> Device {
        Device { ranks: Some(ranks), ..self.clone() }
    }

    /// The connection with the other ranks; None where this is the only one.
    pub fn ranks(&self) -> Option<&dyn Communicator> {
        self.ranks.as_deref()
    }
}
