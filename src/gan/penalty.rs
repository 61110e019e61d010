//! The gradient penalties of a D step. That of `wasserstein-gp` wants D's gradient at points between real images and
//! fakes to have norm 1. R1 wants it to be 0 at the real images, R2 at the fakes.

use std::ops::Range;

use super::classes::ClassLoss;
use super::player::Player;
use super::setup::Setup;
use super::workspace::{Workspace, gradient};
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
    tangents: Range<usize>,
}

struct Penalty {
    weight: f32,
    /// What the norm of D's gradient is to be.
    norm: f32,
    /// The rows of D's batch where the gradient is taken.
    rows: Range<usize>,
    /// (N): how much of each point between the i-th real image and the i-th fake is real. Such a point has the label of
    /// the real image, for which the fake was drawn too. None where images are penalised as they are.
    share: Option<Reals>,
    norms: Reals,
    /// (2): the penalty, and the mean norm.
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
    /// Rows of D's batch that they take, besides the samples.
    pub fn rows(setup: &Setup) -> usize {
        let [r1, r2, between] = kinds(setup).map(|kind| kind.is_some());
        setup.training.batch * (usize::from(r1 || r2 || between) + usize::from(between))
    }

    /// The columns of what [`Penalties::read`] gives.
    pub fn columns(setup: &Setup) -> impl Iterator<Item = &'static str> {
        kinds(setup).into_iter().flatten().flat_map(|kind| kind.columns)
    }

    /// Their own rows of D's batch begin at `first`. None where there is no penalty.
    pub fn new(setup: &Setup, arena: &mut Arena, discriminator: &Network, first: usize) -> Result<Option<Penalties>> {
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
        let (tangents, between) = (first..first + n, first + n..first + 2 * n);
        let mut all = Vec::new();
        for (kind, rows) in kinds.into_iter().zip([0..n, n..2 * n, between.clone()]) {
            let Some(Kind { weight, norm, .. }) = kind else { continue };
            all.push(Penalty {
                weight: (weight * every as f64) as f32,
                norm,
                share: if rows == between { Some(arena.take(n)?) } else { None },
                rows,
                norms: arena.take(n)?,
                statistics: arena.take(2)?,
            });
        }
        Ok(Some(Penalties { all, scaled: setup.scales_losses(), every, tangents }))
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

    /// The samples whose image gradients the backward pass of D's losses has to leave.
    pub fn samples(&self) -> Range<usize> {
        let penalised = || self.all.iter().filter(|penalty| penalty.share.is_none()).map(|penalty| &penalty.rows);
        let start = penalised().map(|rows| rows.start).min().unwrap_or(0);
        start..penalised().map(|rows| rows.end).max().unwrap_or(0)
    }

    /// Before the first step nothing is known.
    pub fn forget(&self) -> Result<()> {
        self.all.iter().try_for_each(|penalty| penalty.statistics.write(&[f32::NAN; 2]))
    }

    /// Adds their parts to the gradients of D's (normalised) weights, after the backward pass of D's losses. The batch has
    /// N real images, then N fakes. At the points between them the gradients of the logits are 1, or the loss scale; so
    /// they are at the samples, but for a class loss, whose pass started from other numbers.
    pub fn add(&self, w: &Workspace, player: &Player, state: &StateBuffer, stream: u32) -> Result<()> {
        let (network, v) = (&w.discriminator, w.batch.rows(&self.tangents).x);
        for penalty in &self.all {
            let (rows, points) = (&penalty.rows, w.batch.rows(&penalty.rows));
            if let Some(share) = &penalty.share {
                let n = share.len();
                random::uniform(share, state, stream, 0.0, 1.0)?;
                gradient_penalty::mix(&points.x, &w.batch.rows(&(0..n)).x, &w.batch.rows(&(n..2 * n)).x, share)?;
                w.labels.view(rows.clone()).copy_from(&w.labels.view(0..n))?;
                player.forward(network, Mode::Evaluate, rows.clone())?;
                network.backward(&player.signal(rows.clone()))?;
            } else if let Some(classes) = &w.classes {
                self.seed_with_ones(classes, &w.backward_seed, rows, state)?;
                network.backward(&player.signal(rows.clone()))?;
            }
            let out = Direction { v: &v, norms: &penalty.norms, statistics: &penalty.statistics };
            gradient_penalty::direction(out, gradient(&points, "D's batch")?, penalty.weight, penalty.norm, state)?;
            // With a loss scale, that a gradient is not finite shows the scale to be too large, as other gradients do.
            if !self.scaled {
                state::check(state, &penalty.statistics)?;
            }
            network.tangent(&Tangent {
                weights: player.weights(),
                gradients: &player.gradients,
                rows: rows.clone(),
                into: self.tangents.clone(),
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
    /// that it stands for, and the mean norm; NaN before the first.
    pub fn read(&self) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for penalty in &self.all {
            let statistics = penalty.statistics.read()?;
            all.extend([statistics[0] / self.every as f32, statistics[1]]);
        }
        Ok(all)
    }
}
