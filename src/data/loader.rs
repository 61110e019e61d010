//! The order in which training sees the images.
//!
//! Which images a step gets follows from (seed, step) alone, so that a resumed run goes on with exactly the batch it
//! would have had. Each epoch is a fresh permutation of the whole set.

use serde::{Deserialize, Serialize};

use super::Dataset;
use crate::{Error, Result};

/// What becomes of the images at the end of an epoch that do not fill a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LastBatch {
    /// They wait for another epoch's order.
    Drop,
    /// The batch is filled up from the next epoch.
    Fill,
}

pub struct Loader<'a> {
    dataset: &'a Dataset,
    batch: usize,
    seed: u64,
    last: LastBatch,
    /// The epoch that `order` belongs to.
    epoch: Option<u64>,
    order: Vec<u32>,
}

impl<'a> Loader<'a> {
    /// Batches of `batch` images.
    pub fn new(dataset: &'a Dataset, batch: usize, seed: u64, last: LastBatch) -> Result<Loader<'a>> {
        let count = dataset.len();
        if batch == 0 || batch > count {
            return Err(Error::Config(format!("batch: {batch} images, the data ({}) have {count}", dataset.name())));
        }
        if u32::try_from(count).is_err() {
            return Err(Error::Config(format!("data: {count} images, at most {}", u32::MAX)));
        }
        Ok(Loader { dataset, batch, seed, last, epoch: None, order: Vec::new() })
    }

    /// Steps in which every image is seen once (or could have been).
    pub fn steps_per_epoch(&self) -> f64 {
        match self.last {
            LastBatch::Drop => (self.dataset.len() / self.batch) as f64,
            LastBatch::Fill => self.dataset.len() as f64 / self.batch as f64,
        }
    }

    /// Fills `images` (batch, H, W, C) and `labels` (batch) with the batch of this step.
    pub fn fill(&mut self, step: u64, images: &mut [u8], labels: &mut [u32]) -> Result<()> {
        let len = self.dataset.shape().len();
        if images.len() != self.batch * len || labels.len() != self.batch {
            return Err(Error::Shape(format!(
                "loader: room for {} bytes and {} labels, a batch has {} and {}",
                images.len(),
                labels.len(),
                self.batch * len,
                self.batch
            )));
        }
        let count = self.dataset.len() as u64;
        let batch = self.batch as u64;
        let (mut epoch, mut at) = match self.last {
            LastBatch::Drop => (step / (count / batch), step % (count / batch) * batch),
            // 2^64 images are never seen; a product that wraps would only be another order.
            LastBatch::Fill => (step.wrapping_mul(batch) / count, step.wrapping_mul(batch) % count),
        };
        for (image, label) in images.chunks_exact_mut(len).zip(labels) {
            if at == count {
                (epoch, at) = (epoch + 1, 0);
            }
            let index = self.order_of(epoch)[at as usize] as usize;
            image.copy_from_slice(self.dataset.image(index));
            *label = self.dataset.label(index);
            at += 1;
        }
        Ok(())
    }

    fn order_of(&mut self, epoch: u64) -> &[u32] {
        if self.epoch != Some(epoch) {
            permutation(&mut self.order, self.dataset.len(), self.seed, epoch);
            self.epoch = Some(epoch);
        }
        &self.order
    }
}

/// Fisher and Yates' shuffle of 0 .. n, from SplitMix64 started at a place that follows from both numbers.
fn permutation(order: &mut Vec<u32>, n: usize, seed: u64, epoch: u64) {
    order.clear();
    order.extend(0..n as u32);
    let mut state = mix(mix(seed) ^ epoch);
    for i in (1..n).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        // The high half of a product is uniform to n / 2^64.
        let j = (u128::from(mix(state)) * (i as u128 + 1)) >> 64;
        order.swap(i, j as usize);
    }
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
