//! The gradient penalties of a D step. That of `wasserstein-gp` wants D's gradient at points between real images and
//! fakes to have norm 1. R1 wants it to be 0 at the real images, R2 at the fakes.

use std::ops::Range;

use super::classes::ClassLoss;
use super::passes::{OfD, Part};
use super::player::Player;
use super::setup::Setup;
use super::share::{Rows, Share};
use super::workspace::gradient;
use crate::device::Reals;
use crate::nn::{Arena, Mode, Network, Tangent};
use crate::ops::gradient_penalty::{self, Direction};
use crate::ops::random;
use crate::ops::state::{self, StateBuffer};
use crate::settings::Loss;
use crate::{Error, Result};

/// All penalties of a run. Their tangents take turns in the same rows.
pub struct Penalties {
    all: Vec<Penalty>,
    scaled: bool,
    /// Steps from one penalty to the next, which weighs so much more.
    every: usize,
    /// The first of the rows of D that are theirs, and the most samples that D takes at a time.
    first: usize,
    most: usize,
    /// Real images of a step.
    real: Rows,
}

/// Where D's gradient is taken.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Real,
    Fake,
    Between,
}

struct Penalty {
    weight: f32,
    /// What the norm of D's gradient is to be.
    norm: f32,
    place: Place,
    /// (N), for all ranks: how much of each point between the i-th real image and the i-th fake is real. Such a point has the label of
    /// the real image, for which the fake was drawn too. None where images are penalised as they are.
    share: Option<Reals>,
    norms: Reals,
    /// (parts, 2): what each part of the batch adds to the penalty, and the mean norm in it.
    statistics: Reals,
}

/// A penalty of a run: the option that asks for it, what leaves it out, the names of its columns, its factor and its norm.
struct Kind {
    option: String,
    without: &'static str,
    columns: [&'static str; 2],
    weight: f64,
    norm: f32,
}

fn kinds(setup: &Setup) -> [Option<Kind>; 3] {
    let training = &setup.training;
    let zero_centred = |name, without, columns, gamma: f64| {
        let option = format!("{name} {gamma}");
        (gamma > 0.0).then_some(Kind { option, without, columns, weight: gamma / 2.0, norm: 0.0 })
    };
    let of_loss = || Kind {
        option: "loss wasserstein-gp".into(),
        without: "--loss wasserstein has no penalty",
        columns: ["gradient_penalty", "gradient_norm"],
        weight: training.gp_weight,
        norm: 1.0,
    };
    [
        zero_centred("r1", "--r1 0 leaves it out", ["r1_penalty", "r1_norm"], training.r1),
        zero_centred("r2", "--r2 0 leaves it out", ["r2_penalty", "r2_norm"], training.r2),
        (training.loss == Loss::WassersteinGp).then(of_loss),
    ]
}

impl Penalties {
    /// Rows of D that they take, besides the samples, where D takes so many real images at a time.
    pub fn rows(setup: &Setup, most: usize) -> usize {
        let [r1, r2, between] = kinds(setup).map(|kind| kind.is_some());
        most * (usize::from(r1 || r2 || between) + usize::from(between))
    }

    /// The columns of what [`Penalties::read`] gives.
    pub fn columns(setup: &Setup) -> impl Iterator<Item = &'static str> {
        kinds(setup).into_iter().flatten().flat_map(|kind| kind.columns)
    }

    /// Their own rows of D begin at `first`. None where there is no penalty.
    pub fn new(
        setup: &Setup,
        share: &Share,
        arena: &mut Arena,
        discriminator: &Network,
        first: usize,
    ) -> Result<Option<Penalties>> {
        let kinds = kinds(setup);
        let Some(kind) = kinds.iter().flatten().next() else { return Ok(None) };
        if let Some(layer) = discriminator.layers.iter().find(|layer| !layer.piecewise_linear()) {
            return Err(Error::Config(format!(
                "{} with preset {}: layer {} of D is not piecewise linear in the image, which the penalty's gradient \
                 is computed by; {}",
                kind.option,
                setup.preset,
                layer.name(),
                kind.without
            )));
        }
        let (n, every) = (setup.training.batch, setup.training.penalty_every);
        let most = setup.part_of_d().unwrap_or(n);
        let mut all = Vec::new();
        for (kind, place) in kinds.into_iter().zip([Place::Real, Place::Fake, Place::Between]) {
            let Some(Kind { weight, norm, .. }) = kind else { continue };
            all.push(Penalty {
                weight: (weight * every as f64) as f32,
                norm,
                share: if place == Place::Between { Some(arena.take(share.of_d.all)?) } else { None },
                place,
                norms: arena.take(most.min(n))?,
                statistics: arena.take(2 * n.div_ceil(most))?,
            });
        }
        Ok(Some(Penalties { all, scaled: setup.scales_losses(), every, first, most, real: share.of_d.clone() }))
    }

    /// Whether the step after so many is one with penalties.
    pub fn due(&self, steps: u64) -> bool {
        steps.is_multiple_of(self.every as u64)
    }

    pub fn are_lazy(&self) -> bool {
        self.every > 1
    }

    /// Whether points between a real image and a fake are penalised, which are then to be of one class.
    pub fn interpolate(&self) -> bool {
        self.all.iter().any(|penalty| penalty.share.is_some())
    }

    /// The samples of a part whose image gradients the backward pass of D's losses has to leave.
    pub fn samples(&self, part: &Part) -> Range<usize> {
        let penalises = |place| self.all.iter().any(|penalty| penalty.place == place);
        match [penalises(Place::Real), penalises(Place::Fake)] {
            [true, true] => part.rows(),
            [true, false] => part.real.clone(),
            [false, true] => part.fake.clone(),
            [false, false] => 0..0,
        }
    }

    /// Before the first step nothing is known.
    pub fn forget(&self) -> Result<()> {
        self.all.iter().try_for_each(|penalty| penalty.statistics.write(&vec![f32::NAN; penalty.statistics.len()]))
    }

    /// Adds what they have at a part of the batch to the gradients of D's (normalised) weights, after the backward pass of
    /// D's losses. At the points between real images and fakes the gradients of the logits are 1, or the loss scale; so they
    /// are at the samples, but for a class loss, whose pass started from other numbers.
    pub fn add(&self, d: &OfD, part: &Part, player: &Player, state: &StateBuffer, stream: u32) -> Result<()> {
        let n = part.real.len();
        let (tangents, between) = (self.first..self.first + n, self.first + self.most..self.first + self.most + n);
        let (network, v) = (&d.network, d.images.rows(&tangents).x);
        for penalty in &self.all {
            let rows = match penalty.place {
                Place::Real => &part.real,
                Place::Fake => &part.fake,
                Place::Between => &between,
            };
            let points = d.images.rows(rows);
            if let Some(share) = &penalty.share {
                if part.number == 0 {
                    random::uniform(share, state, stream, 0.0, 1.0)?;
                }
                let [real, fake] = [&part.real, &part.fake].map(|rows| d.images.rows(rows).x);
                let (before, of) = (self.real.own.start, &part.real_of_batch);
                gradient_penalty::mix(&points.x, &real, &fake, &share.view(before + of.start..before + of.end))?;
                d.labels.view(rows.clone()).copy_from(&d.labels.view(part.real.clone()))?;
                player.forward(network, Mode::Evaluate, rows.clone())?;
                network.backward(&player.signal(rows.clone()))?;
            } else if let Some(classes) = &d.classes {
                self.seed_with_ones(classes, d.backward_seed()?, rows, state)?;
                network.backward(&player.signal(rows.clone()))?;
            }
            let statistics = penalty.statistics.view(2 * part.number..2 * part.number + 2);
            let out = Direction { v: &v, norms: &penalty.norms.view(0..n), statistics: &statistics };
            let weight = penalty.weight * (n as f32 / self.real.all as f32);
            gradient_penalty::direction(out, gradient(&points, "D's batch")?, weight, penalty.norm, state)?;
            // With a loss scale, that a gradient is not finite shows the scale to be too large, as other gradients do.
            if !self.scaled {
                state::check(state, &statistics)?;
            }
            network.tangent(&Tangent {
                weights: player.weights(),
                gradients: &player.gradients,
                rows: rows.clone(),
                into: tangents.clone(),
            })?;
        }
        Ok(())
    }

    /// The penalty is on the logit alone.
    fn seed_with_ones(
        &self,
        classes: &ClassLoss,
        seeds: &Reals,
        rows: &Range<usize>,
        state: &StateBuffer,
    ) -> Result<()> {
        state::seed(&seeds.view(rows.clone()), state, true)?;
        classes.seeds(rows).zero()
    }

    /// For each of [`Penalties::columns`]: what the last step that had penalties added to D's loss, as a mean over the steps
    /// that it stands for, and the mean norm; NaN before the first. Of several ranks, what this one adds to them.
    pub fn read(&self) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for penalty in &self.all {
            let statistics = penalty.statistics.read()?;
            let penalty: f32 = statistics.iter().step_by(2).sum();
            let samples =
                |part: usize| self.most.min(self.real.own.len() - part * self.most) as f32 / self.real.all as f32;
            let norm: f32 = statistics.iter().skip(1).step_by(2).enumerate().map(|(i, norm)| norm * samples(i)).sum();
            all.extend([penalty / self.every as f32, norm]);
        }
        Ok(all)
    }
}
