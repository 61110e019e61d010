//! AC-GAN's class loss (Odena et al., 2017): the cross entropy of the labels, of real images and of fakes, which both
//! players want small. D learns from both, `aux-weight-d (CE(real, label) + CE(fake, wanted label))`; G moves the fakes
//! alone: `aux-weight-g CE(fake, wanted label)`.

use std::ops::Range;

use super::passes::Part;
use super::setup::Setup;
use super::share::Share;
use super::workspace::gradient;
use crate::device::{Buffer, Reals};
use crate::nn::{Arena, Value};
use crate::ops::cross_entropy::{self, Evaluation};
use crate::ops::state::{self, StateBuffer};
use crate::{Error, Result};

pub struct ClassLoss {
    pub logits: Value,
    /// The gradient of the class logits, which the next backward pass starts from.
    seeds: Reals,
    labels: Buffer<u32>,
    weight_d: f32,
    weight_g: f32,
    /// Real images of a D step, and fakes of a G step, of all ranks.
    batch: [usize; 2],
    /// Of the last D step, on real images and on fakes, and of the last G step: (parts, 2), for each part of the batch what
    /// it adds to the weighted loss, and how many were right.
    real: Reals,
    fake: Reals,
    of_g: Reals,
    workspace: Reals,
}

impl ClassLoss {
    pub fn new(
        setup: &Setup,
        share: &Share,
        arena: &mut Arena,
        logits: Value,
        labels: &Buffer<u32>,
    ) -> Result<ClassLoss> {
        let training = &setup.training;
        let own = [training.batch, training.batch_of_g()];
        let most = own[0].max(own[1]);
        let [of_d, of_g] = own.map(|all| 2 * setup.part_of_d().map_or(1, |part| all.div_ceil(part)));
        Ok(ClassLoss {
            seeds: gradient(&logits, "the class logits")?.clone(),
            logits,
            labels: labels.clone(),
            weight_d: training.aux_weight_d as f32,
            weight_g: training.aux_weight_g as f32,
            batch: [share.of_d.all, share.of_g.all],
            real: arena.take(of_d)?,
            fake: arena.take(of_d)?,
            of_g: arena.take(of_g)?,
            workspace: arena.take(cross_entropy::workspace_len(most))?,
        })
    }

    /// What the backward pass of these samples starts from.
    pub fn seeds(&self, rows: &Range<usize>) -> Reals {
        let classes = self.logits.features();
        self.seeds.view(rows.start * classes..rows.end * classes)
    }

    pub fn zero_seeds(&self) -> Result<()> {
        self.seeds.zero()
    }

    /// `rows` are some of `all` samples.
    fn evaluate(
        &self,
        (statistics, part): (&Reals, &Part),
        (weight, all): (f32, usize),
        rows: &Range<usize>,
        state: &StateBuffer,
    ) -> Result<()> {
        let statistics = statistics.view(2 * part.number..2 * part.number + 2);
        let logits = self.logits.rows(rows).x;
        let workspace = self.workspace.view(0..cross_entropy::workspace_len(rows.len()));
        let out = Evaluation { statistics: &statistics, dx: &self.seeds(rows) };
        let weight = weight * (rows.len() as f32 / all as f32);
        cross_entropy::evaluate(&out, &logits, &self.labels.view(rows.clone()), weight, &workspace)?;
        state::check(state, &statistics)
    }

    /// Seeds D's backward pass of a part.
    pub fn seed_d(&self, part: &Part, state: &StateBuffer) -> Result<()> {
        let weight = (self.weight_d, self.batch[0]);
        self.evaluate((&self.real, part), weight, &part.real, state)?;
        self.evaluate((&self.fake, part), weight, &part.fake, state)
    }

    /// Seeds the pass that takes the signal at a part's fakes to G.
    pub fn seed_g(&self, part: &Part, state: &StateBuffer) -> Result<()> {
        self.evaluate((&self.of_g, part), (self.weight_g, self.batch[1]), &part.fake, state)
    }

    /// What the last step added to the losses of D and G, by this rank's samples.
    pub fn read(&self) -> Result<[f32; 2]> {
        let loss = |of: &Reals| Ok::<f32, Error>(of.read()?.iter().step_by(2).sum());
        Ok([loss(&self.real)? + loss(&self.fake)?, loss(&self.of_g)?])
    }
}
