//! What the networks work on in a step: the whole batch, or, with `--micro-batch`, one part of it after the other, so that
//! activations take less memory.
//!
//! Real images, fakes, their labels and their logits always lie together in the whole batch's memory ([`Whole`]). D sees
//! each sample by itself, so its passes over parts add up to the pass over all: only the loss looks at all logits at once.
//! So there are first the forward passes of all parts, then the loss, then for each part the forward pass again and the
//! backward pass, from its share of the seeds. Batch norm couples the fakes; G is split where it has none, or where each
//! part's own statistics are wanted (`--local-norm`).
//!
//! Where several ranks train together, this is all of a rank's share of the batch ([`Share`](super::share::Share)). Only
//! the losses know the others: every rank gathers the logits of all, and computes the losses and all their seeds.

use std::ops::Range;

use super::classes::ClassLoss;
use super::networks::Latent;
use super::penalty::Penalties;
use super::share::Rows;
use super::workspace::gradient;
use crate::Result;
use crate::device::{Buffer, Reals, Reduction};
use crate::nn::{HeadParts, Network, Value};
use crate::ops::log_partition::Evaluation;

/// Consecutive ranges of at most `most` that are `all` together.
fn chunks(all: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let end = all.end;
    all.step_by(most).map(move |start| start..end.min(start + most))
}

/// What lies in the batch, whatever the parts are.
pub struct Whole {
    /// (N + M, H, W, C): what D sees of real images, then of fakes.
    pub seen: Value,
    /// (N + M, H, W, C): these images themselves, where D sees them changed; else the same memory.
    pub images: Value,
    /// (N + M)
    pub labels: Buffer<u32>,
    /// (N + M, 1, 1, 1)
    pub logits: Value,
    /// (N + M) of all ranks, where there are others.
    pub gathered: Option<Reals>,
}

impl Whole {
    /// The logits of all ranks, the real ones first.
    pub fn all_logits(&self) -> &Reals {
        self.gathered.as_ref().unwrap_or(&self.logits.x)
    }

    /// Gathers the logits of these samples from all ranks, each of which has its share of them. What the others have is
    /// zero here, until all are summed.
    pub fn gather(&self, (real, fake): (Range<usize>, Range<usize>), of_real: &Rows, of_fakes: &Rows) -> Result<()> {
        let Some((all, ranks)) = self.gathered.as_ref().and_then(|all| Some((all, all.device().ranks()?))) else {
            return Ok(());
        };
        let n = of_real.all;
        let judged = all.view(if real.is_empty() { n } else { 0 }..n + of_fakes.all);
        judged.zero()?;
        if !real.is_empty() {
            all.view(of_real.own.clone()).copy_from(&self.logits.rows(&real).x)?;
        }
        all.view(n + of_fakes.own.start..n + of_fakes.own.end).copy_from(&self.logits.rows(&fake).x)?;
        ranks.all_reduce(&judged, Reduction::Sum)
    }
}

/// The losses of a pass of D, and their seeds.
pub struct Judgement {
    /// Of this rank's samples; where there are others, the statistics are `of_all`'s.
    own: Evaluation,
    of_all: Option<Evaluation>,
    /// The fakes that were judged.
    pub fakes: Rows,
}

impl Judgement {
    pub fn new(own: Evaluation, of_all: Option<Evaluation>, fakes: Rows) -> Judgement {
        Judgement { own, of_all, fakes }
    }

    /// Of the samples of all ranks.
    pub fn of_all(&self) -> &Evaluation {
        self.of_all.as_ref().unwrap_or(&self.own)
    }

    /// The seeds in L_D of this rank's real images and fakes.
    pub fn seed_d(&self) -> &Reals {
        &self.own.seed_d
    }

    /// The seeds in L_G of this rank's fakes.
    pub fn seed_g(&self) -> &Reals {
        &self.own.seed_g
    }

    /// Takes the seeds of this rank's samples from those of all; `real` are its real images.
    pub fn take_seeds(&self, real: &Rows) -> Result<()> {
        let Some(all) = &self.of_all else { return Ok(()) };
        let (n, fake) = (real.own.len(), &self.fakes.own);
        self.own.seed_d.view(0..n).copy_from(&all.seed_d.view(real.own.clone()))?;
        let fakes = all.seed_d.view(real.all + fake.start..real.all + fake.end);
        self.own.seed_d.view(n..n + fake.len()).copy_from(&fakes)?;
        self.own.seed_g.copy_from(&all.seed_g.view(fake.clone()))
    }
}

/// D and the rows that it works on: the real images of a part, then its fakes, then the rows of gradient penalties.
pub struct OfD {
    pub network: Network,
    pub images: Value,
    pub labels: Buffer<u32>,
    pub logits: Value,
    pub classes: Option<ClassLoss>,
    /// Of the projection discriminator.
    pub head: Option<HeadParts>,
    pub penalties: Option<Penalties>,
    /// Where the batch is split.
    pub split: Option<Split>,
}

/// What D needs besides where it works on parts.
pub struct Split {
    /// Most real images, and most fakes, of a part.
    pub most: usize,
    /// The seeds in L_D of a part, which lie apart in those of the batch.
    pub seeds: Reals,
    /// The head, with the features and labels of the whole batch. Where labels are vectors there is none.
    pub head: Option<HeadParts>,
}

/// Some samples: where they are among D's rows, and where in the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub number: usize,
    pub real: Range<usize>,
    pub fake: Range<usize>,
    pub real_of_batch: Range<usize>,
    pub fake_of_batch: Range<usize>,
}

impl Part {
    /// All of them among D's rows.
    pub fn rows(&self) -> Range<usize> {
        match (self.real.is_empty(), self.fake.is_empty()) {
            (true, _) => self.fake.clone(),
            (_, true) => self.real.clone(),
            _ => self.real.start..self.fake.end,
        }
    }

    /// Both kinds: where they are among D's rows, and where in the batch.
    fn both(&self) -> [(&Range<usize>, &Range<usize>); 2] {
        [(&self.real, &self.real_of_batch), (&self.fake, &self.fake_of_batch)]
    }
}

impl OfD {
    /// The logits' gradient, which the backward pass starts from. Without a class loss it is 1, or the loss scale,
    /// everywhere, so that one pass serves both players: the derivatives of their losses scale what it leaves, sample by
    /// sample. With a class loss it is, at the real images and the fakes, the derivative of one player's loss at a time.
    pub fn backward_seed(&self) -> Result<&Reals> {
        gradient(&self.logits, "the logits")
    }

    /// The parts of these samples of the batch.
    pub fn parts(&self, real: Range<usize>, fake: Range<usize>) -> Vec<Part> {
        let Some(Split { most, .. }) = &self.split else {
            let [real_of_batch, fake_of_batch] = [real.clone(), fake.clone()];
            return vec![Part { number: 0, real, fake, real_of_batch, fake_of_batch }];
        };
        let mut reals = chunks(real.clone(), *most).fuse();
        let mut fakes = chunks(fake.clone(), *most).fuse();
        let count = real.len().max(fake.len()).div_ceil(*most);
        let part = |number| {
            let real_of_batch = reals.next().unwrap_or(real.end..real.end);
            let fake_of_batch = fakes.next().unwrap_or(fake.end..fake.end);
            let (n, m) = (real_of_batch.len(), fake_of_batch.len());
            Part { number, real: 0..n, fake: n..n + m, real_of_batch, fake_of_batch }
        };
        (0..count).map(part).collect()
    }

    /// Takes images and labels of a part from the batch.
    pub fn take(&self, whole: &Whole, part: &Part) -> Result<()> {
        self.split.as_ref().map_or(Ok(()), |_| {
            part.both().into_iter().try_for_each(|(here, there)| {
                self.images.rows(here).x.copy_from(&whole.seen.rows(there).x)?;
                self.labels.view(here.clone()).copy_from(&whole.labels.view(there.clone()))
            })
        })
    }

    /// Gives a part's logits to the batch, and the features that they are made of.
    pub fn give_logits(&self, whole: &Whole, part: &Part) -> Result<()> {
        self.split.as_ref().map_or(Ok(()), |split| {
            part.both().into_iter().try_for_each(|(here, there)| {
                if let (Some(from), Some(to)) = (&self.head, &split.head) {
                    let c = from.features.len() / self.images.n;
                    let of = |features: &Reals, rows: &Range<usize>| features.view(rows.start * c..rows.end * c);
                    of(&to.features, there).copy_from(&of(&from.features, here))?;
                }
                whole.logits.rows(there).x.copy_from(&self.logits.rows(here).x)
            })
        })
    }

    /// The head with the whole batch, where there is one.
    pub fn head_of_batch(&self) -> Option<&HeadParts> {
        self.split.as_ref().map_or(self.head.as_ref(), |split| split.head.as_ref())
    }

    /// Gives the gradient at a part's fakes to the batch.
    pub fn give_signal(&self, whole: &Whole, part: &Part) -> Result<()> {
        self.split.as_ref().map_or(Ok(()), |_| {
            let (here, there) = (self.images.rows(&part.fake), whole.seen.rows(&part.fake_of_batch));
            gradient(&there, "what D sees")?.copy_from(gradient(&here, "D's images")?)
        })
    }

    /// Of the seeds (N + M) of the batch, those of a part, each at its row.
    pub fn seeds<'a>(&'a self, of_batch: &'a Reals, part: &Part) -> Result<&'a Reals> {
        let Some(Split { seeds, .. }) = &self.split else { return Ok(of_batch) };
        for (here, there) in part.both() {
            seeds.view(here.clone()).copy_from(&of_batch.view(there.clone()))?;
        }
        Ok(seeds)
    }
}

/// G and the fakes of a step.
pub struct OfG {
    pub network: Network,
    /// Of all fakes.
    pub latent: Latent,
    /// What the network reads and writes, where that is a part of the fakes.
    pub part: Option<(Latent, Value)>,
    /// Which of the fakes of all ranks they are.
    pub rows: Rows,
    /// The latents of all ranks, of which `latent` has the share, and, where there are others, the labels.
    pub all: (Reals, Option<Buffer<u32>>),
}

impl OfG {
    /// Where the labels of all ranks' fakes are drawn to.
    pub fn drawn_labels(&self) -> &Buffer<u32> {
        self.all.1.as_ref().unwrap_or(&self.latent.labels.numbers)
    }

    /// Takes this rank's labels from those of all.
    pub fn take_labels(&self) -> Result<()> {
        let Some(labels) = &self.all.1 else { return Ok(()) };
        self.latent.labels.numbers.copy_from(&labels.view(self.rows.own.clone()))
    }

    /// The parts of the fakes, which begin at row `first` of the batch: where they are among the network's rows, and where
    /// among the fakes.
    pub fn parts(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let split = self.part.is_some();
        let most = self.part.as_ref().map_or(self.latent.z.n, |(latent, _)| latent.z.n);
        chunks(0..self.latent.z.n, most).map(move |of| (if split { 0..of.len() } else { of.clone() }, of))
    }

    /// Takes latents and labels of a part.
    pub fn take(&self, here: &Range<usize>, of: &Range<usize>) -> Result<()> {
        let Some((latent, _)) = &self.part else { return Ok(()) };
        latent.z.rows(here).x.copy_from(&self.latent.z.rows(of).x)?;
        latent.labels.numbers.view(here.clone()).copy_from(&self.latent.labels.numbers.view(of.clone()))
    }

    /// Gives the fakes of a part to those of the batch.
    pub fn give(&self, fakes: &Value, here: &Range<usize>, of: &Range<usize>) -> Result<()> {
        let Some((_, images)) = &self.part else { return Ok(()) };
        fakes.rows(of).x.copy_from(&images.rows(here).x)
    }

    /// Takes the gradient at the fakes of a part.
    pub fn take_signal(&self, fakes: &Value, here: &Range<usize>, of: &Range<usize>) -> Result<()> {
        let Some((_, images)) = &self.part else { return Ok(()) };
        gradient(&images.rows(here), "a part of the fakes")?.copy_from(gradient(&fakes.rows(of), "the fakes")?)
    }
}
