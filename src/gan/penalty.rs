//! The gradient penalty of a D step: D's gradient at points between real images and fakes is to have norm 1.

use std::ops::Range;

use super::player::Player;
use super::setup::Setup;
use super::workspace::gradient;
use crate::device::{Buffer, Reals};
use crate::nn::{Arena, Mode, Network, Tangent, Value};
use crate::ops::gradient_penalty::{self, Direction};
use crate::ops::random;
use crate::ops::state::{self, StateBuffer};
use crate::{Error, Result};

/// Point i lies between the i-th real image and the i-th fake, and has the label of the real one, for which the fake
/// was drawn too.
pub struct GradientPenalty {
    weight: f32,
    scaled: bool,
    /// (N): how much of each point is real.
    share: Reals,
    norms: Reals,
    /// (2): the penalty, and the mean norm.
    statistics: Reals,
    /// The rows of D's batch that hold the points, and their tangents.
    points: Range<usize>,
    tangents: Range<usize>,
}

impl GradientPenalty {
    /// Rows of D's batch that it takes, besides the samples.
    pub fn rows(setup: &Setup) -> usize {
        if setup.training.loss.is_penalised() { 2 * setup.training.batch } else { 0 }
    }

    /// On the rows of D's batch from `first` on. None where the loss has no penalty.
    pub fn new(
        setup: &Setup,
        arena: &mut Arena,
        discriminator: &Network,
        first: usize,
    ) -> Result<Option<GradientPenalty>> {
        if !setup.training.loss.is_penalised() {
            return Ok(None);
        }
        if let Some(layer) = discriminator.layers.iter().find(|layer| !layer.piecewise_linear()) {
            return Err(Error::Config(format!(
                "loss wasserstein-gp with preset {}: layer {} of D is not piecewise linear in the image, which the \
                 penalty's gradient is computed by; --loss wasserstein has no penalty",
                setup.preset,
                layer.name()
            )));
        }
        let n = setup.training.batch;
        Ok(Some(GradientPenalty {
            weight: setup.training.gp_weight as f32,
            scaled: setup.scales_losses(),
            share: arena.take(n)?,
            norms: arena.take(n)?,
            statistics: arena.take(2)?,
            points: first..first + n,
            tangents: first + n..first + 2 * n,
        }))
    }

    /// Adds its part to the gradients of D's (normalised) weights. `batch` has N real images, then N fakes; the logits'
    /// gradients at the points are 1, or the loss scale.
    pub fn add(
        &self,
        network: &Network,
        player: &Player,
        batch: &Value,
        labels: &Buffer<u32>,
        state: &StateBuffer,
        stream: u32,
    ) -> Result<()> {
        let n = self.share.len();
        let [real, fake] = [0..n, n..2 * n].map(|rows| batch.rows(&rows).x);
        let (points, v) = (batch.rows(&self.points), batch.rows(&self.tangents).x);
        random::uniform(&self.share, state, stream, 0.0, 1.0)?;
        gradient_penalty::mix(&points.x, &real, &fake, &self.share)?;
        labels.view(self.points.clone()).copy_from(&labels.view(0..n))?;
        player.forward(network, Mode::Evaluate, self.points.clone())?;
        network.backward(&player.signal(self.points.clone()))?;
        let g = gradient(&points, "D's batch")?;
        let out = Direction { v: &v, norms: &self.norms, statistics: &self.statistics };
        gradient_penalty::direction(out, g, self.weight, state)?;
        // With a loss scale, that g is not finite shows the scale to be too large, as other gradients do.
        if !self.scaled {
            state::check(state, &self.statistics)?;
        }
        network.tangent(&Tangent {
            weights: player.weights(),
            gradients: &player.gradients,
            rows: self.points.clone(),
            into: self.tangents.clone(),
        })
    }

    /// What the last D step added to D's loss, and the mean norm.
    pub fn read(&self) -> Result<[f32; 2]> {
        let statistics = self.statistics.read()?;
        Ok([statistics[0], statistics[1]])
    }
}
