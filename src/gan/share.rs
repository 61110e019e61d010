//! What a rank takes of a batch that several ranks train on together.

use std::ops::Range;

use super::setup::Setup;
use crate::device::Device;
use crate::{Error, Result};

/// Rows of one kind, real images or fakes: how many all ranks have together, and which of them are this rank's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    pub all: usize,
    pub own: Range<usize>,
}

impl Rows {
    /// Where there are no other ranks.
    pub fn whole(all: usize) -> Rows {
        Rows { all, own: 0..all }
    }
}

/// What a rank takes of a step; where there are no other ranks, everything.
#[derive(Clone, Debug)]
pub struct Share {
    /// Of the real images, and of the fakes of a D step, which are as many.
    pub of_d: Rows,
    /// Of the fakes of a G step.
    pub of_g: Rows,
}

impl Share {
    /// The share of the rank that this device is, and the setup of a training that would have the share alone.
    pub fn new(device: &Device, setup: &Setup) -> Result<(Share, Setup)> {
        let [batch, batch_g] = [setup.training.batch, setup.training.batch_of_g()];
        let Some(ranks) = device.ranks() else {
            return Ok((Share { of_d: Rows::whole(batch), of_g: Rows::whole(batch_g) }, setup.clone()));
        };
        if let Some((name, all)) =
            [("batch", batch), ("batch-g", batch_g)].into_iter().find(|(_, n)| *n < ranks.ranks())
        {
            let ranks = ranks.ranks();
            return Err(Error::Config(format!(
                "{name} {all} with {ranks} ranks: each takes one image at least; fewer ranks, or --{name} {ranks}, would do"
            )));
        }
        let [of_d, of_g] = [batch, batch_g].map(|all| Rows { all, own: ranks.share(all) });
        let own = setup.with(|s| (s.training.batch, s.training.batch_g) = (of_d.own.len(), Some(of_g.own.len())));
        Ok((Share { of_d, of_g }, own))
    }

    /// Whether a D step has as many fakes as a G step.
    pub fn has_one_kind_of_fakes(&self) -> bool {
        self.of_d.all == self.of_g.all
    }
}
