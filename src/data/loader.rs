//! The order in which training sees the images.
//!
//! Which images are in a batch follows from the seed and the batch's number alone, so a resumed run goes on with exactly
//! the batch that it would have had. Each epoch is a new permutation of the whole set.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Dataset;
use super::ahead::Ahead;
use crate::{Error, Result};

/// What happens to the last images of an epoch where they do not fill a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LastBatch {
    /// They wait for another epoch's order
    Drop,
    /// The batch is filled up from the next epoch
    Fill,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Images in a batch.
    pub batch: usize,
    pub seed: u64,
    /// The share of the images of each class that is learnt from, more than 0 and at most 1.
    pub share: f64,
    pub last: LastBatch,
}

pub struct Loader<'a> {
    dataset: &'a Dataset,
    options: LoaderOptions,
    order: Order,
    /// Which images of each batch are read.
    share: Range<usize>,
    /// Decodes the next batches, where images are streamed.
    ahead: Option<Ahead>,
    /// The images of the current batch.
    indices: Vec<u32>,
}

/// The order of the epoch that was asked for last.
struct Order {
    /// Images that are learnt from.
    count: usize,
    /// Which they are, where they are not all.
    chosen: Option<Vec<u32>>,
    epoch: Option<u64>,
    order: Vec<u32>,
}

impl<'a> Loader<'a> {
    pub fn new(dataset: &'a Dataset, options: LoaderOptions) -> Result<Loader<'a>> {
        if u32::try_from(dataset.len()).is_err() {
            return Err(Error::Config(format!("data: {} images, at most {}", dataset.len(), u32::MAX)));
        }
        let chosen = (options.share < 1.0).then(|| chosen(dataset, options.share));
        let (count, batch) = (chosen.as_ref().map_or(dataset.len(), Vec::len), options.batch);
        if batch == 0 || batch > count {
            let few = match options.last {
                LastBatch::Drop => "",
                LastBatch::Fill => "; --last-batch fill adds images of the next epoch alone",
            };
            let limit = if options.share < 1.0 { format!(" with limit-data {}", options.share) } else { String::new() };
            let what = format!("batch: {batch} images, the data ({}) have {count}{limit}", dataset.name());
            return Err(Error::Config(format!("{what}{few}; --batch {count}, or a smaller one, trains")));
        }
        // Without a thread that decodes ahead, each batch is decoded when it is asked for.
        let ahead = dataset.streamed_files().and_then(|files| {
            let of_files = files.clone();
            let read: Arc<super::ahead::Read> = Arc::new(move |index| {
                let mut image = vec![0; of_files.shape().len()];
                of_files.read(index, &mut image).map(|()| image)
            });
            Ahead::new(files.threads(), &read)
        });
        let order = Order { count, chosen, epoch: None, order: Vec::new() };
        Ok(Loader { dataset, share: 0..batch, options, order, ahead, indices: Vec::new() })
    }

    /// The same that reads no more of each batch than these images, a rank's share ([`crate::gan::Trainer::share`]).
    pub fn with_share(self, share: Range<usize>) -> Result<Loader<'a>> {
        let batch = self.options.batch;
        if share.is_empty() || share.end > batch {
            return Err(Error::Shape(format!("loader: images {share:?} of a batch of {batch}")));
        }
        Ok(Loader { share, ..self })
    }

    /// Images that are learnt from.
    pub fn images(&self) -> usize {
        self.order.count
    }

    /// Fills `images` (batch, H, W, C) and `labels` (batch) with the batch of this number, or with the share of it.
    pub fn fill(&mut self, number: u64, images: &mut [u8], labels: &mut [u32]) -> Result<()> {
        let (shape, batch) = (self.dataset.shape(), self.share.len());
        if images.len() != batch * shape.len() || labels.len() != batch {
            return Err(Error::Shape(format!(
                "loader: room for {} bytes and {} labels, a batch has {} and {batch}",
                images.len(),
                labels.len(),
                batch * shape.len()
            )));
        }
        self.order.batch(number, &self.options, &self.share, &mut self.indices);
        for (label, index) in labels.iter_mut().zip(&self.indices) {
            *label = self.dataset.label(*index as usize);
        }
        match &mut self.ahead {
            None => {
                for (image, index) in images.chunks_exact_mut(shape.len()).zip(&self.indices) {
                    self.dataset.read(*index as usize, image)?;
                }
            }
            Some(ahead) => ahead.fill(number, images, |number| {
                let mut indices = Vec::with_capacity(batch);
                self.order.batch(number, &self.options, &self.share, &mut indices);
                indices
            })?,
        }
        Ok(())
    }
}

impl Order {
    /// Which images make up a share of a batch.
    fn batch(&mut self, number: u64, options: &LoaderOptions, share: &Range<usize>, indices: &mut Vec<u32>) {
        let (count, batch) = (self.count as u64, options.batch as u64);
        let (mut epoch, mut at) = match options.last {
            LastBatch::Drop => (number / (count / batch), number % (count / batch) * batch),
            // No training sees 2^64 images, and a product that wrapped would only give another order.
            LastBatch::Fill => (number.wrapping_mul(batch) / count, number.wrapping_mul(batch) % count),
        };
        indices.clear();
        for place in 0..options.batch {
            if at == count {
                (epoch, at) = (epoch + 1, 0);
            }
            if self.epoch != Some(epoch) {
                permutation(&mut self.order, self.count, options.seed, epoch);
                self.epoch = Some(epoch);
            }
            if share.contains(&place) {
                let index = self.order[at as usize];
                indices.push(self.chosen.as_ref().map_or(index, |chosen| chosen[index as usize]));
            }
            at += 1;
        }
    }
}

/// The images that are learnt from where a share of each class is: rounded, and at least one. They do not depend on the seed, so
/// that runs differ in nothing else, and a smaller share is a part of a larger one.
fn chosen(dataset: &Dataset, share: f64) -> Vec<u32> {
    const SEED: u64 = 0;
    let mut by_class = vec![Vec::new(); dataset.groups()];
    (0..dataset.len()).for_each(|index| by_class[dataset.group(index) as usize].push(index as u32));
    let (mut all, mut order) = (Vec::new(), Vec::new());
    for (of_class, class) in by_class.iter().zip(0..) {
        let count = (share * of_class.len() as f64).round().max(1.0) as usize;
        permutation(&mut order, of_class.len(), SEED, class);
        all.extend(order.iter().take(count).map(|i| of_class[*i as usize]));
    }
    all.sort_unstable();
    all
}

/// Fisher and Yates' shuffle of 0 .. n. The random numbers are SplitMix64's, whose start follows from seed and epoch.
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
