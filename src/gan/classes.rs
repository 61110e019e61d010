//! AC-GAN's class loss (Odena et al., 2017): the cross entropy of the labels, of real images and of fakes, which both
//! players want small. D learns from both, `aux-weight-d (CE(real, label) + CE(fake, wanted label))`; G moves the fakes
//! alone: `aux-weight-g CE(fake, wanted label)`.

use std::ops::Range;

use super::setup::Setup;
use super::workspace::gradient;
use crate::Result;
use crate::device::{Buffer, Reals};
use crate::nn::{Arena, Value};
use crate::ops::cross_entropy::{self, Evaluation};
use crate::ops::state::{self, StateBuffer};

pub struct ClassLoss {
    pub logits: Value,
    /// The gradient of the class logits, which the next backward pass starts from.
    seeds: Reals,
    labels: Buffer<u32>,
    weight_d: f32,
    weight_g: f32,
    /// Of the last D step, on real images and on fakes, and of the last G step: the weighted loss, and how many were
    /// right.
    real: Reals,
    fake: Reals,
    of_g: Reals,
    workspace: Reals,
}

impl ClassLoss {
    pub fn new(setup: &Setup, arena: &mut Arena, logits: Value, labels: &Buffer<u32>) -> Result<ClassLoss> {
        let training = &setup.training;
        let most = training.batch.max(training.batch_of_g());
        Ok(ClassLoss {
            seeds: gradient(&logits, "the class logits")?.clone(),
            logits,
            labels: labels.clone(),
            weight_d: training.aux_weight_d as f32,
            weight_g: training.aux_weight_g as f32,
            real: arena.take(2)?,
            fake: arena.take(2)?,
            of_g: arena.take(2)?,
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

    fn evaluate(&self, statistics: &Reals, weight: f32, rows: Range<usize>, state: &StateBuffer) -> Result<()> {
        let logits = self.logits.rows(&rows).x;
        let workspace = self.workspace.view(0..cross_entropy::workspace_len(rows.len()));
        let out = Evaluation { statistics, dx: &self.seeds(&rows) };
        cross_entropy::evaluate(&out, &logits, &self.labels.view(rows), weight, &workspace)?;
        state::check(state, statistics)
    }

    /// Seeds D's backward pass.
    pub fn seed_d(&self, real: Range<usize>, fake: Range<usize>, state: &StateBuffer) -> Result<()> {
        self.evaluate(&self.real, self.weight_d, real, state)?;
        self.evaluate(&self.fake, self.weight_d, fake, state)
    }

    /// Seeds the pass that takes the signal to G.
    pub fn seed_g(&self, fake: Range<usize>, state: &StateBuffer) -> Result<()> {
        self.evaluate(&self.of_g, self.weight_g, fake, state)
    }

    /// What the last step added to the losses of D and G.
    pub fn read(&self) -> Result<[f32; 2]> {
        Ok([self.real.read()?[0] + self.fake.read()?[0], self.of_g.read()?[0]])
    }
}
