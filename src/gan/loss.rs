//! The losses of the two players, from the logits of a batch to values and per-sample seeds.

use crate::Result;
use crate::device::{Device, Reals};
use crate::nn::Fusion;
use crate::ops::log_partition::{self, Evaluation, Game};
use crate::ops::losses::{self, LogitLoss};
use crate::settings::Loss;

impl Loss {
    /// Floats of workspace that [`Loss::evaluate`] wants for so many logits.
    pub fn workspace_len(self, device: &Device, logits: usize, unfused: &[Fusion]) -> usize {
        match self {
            Loss::Softmax if unfused.contains(&Fusion::LogPartition) => {
                log_partition::unfused_workspace_len(device, logits)
            }
            Loss::Softmax => log_partition::workspace_len(device, logits),
            _ => 0,
        }
    }

    /// Values and seeds, see [`Evaluation`]. `game` is that of the softmax loss.
    pub fn evaluate(
        self,
        out: &Evaluation,
        real: &Reals,
        fake: &Reals,
        game: Game,
        unfused: &[Fusion],
        workspace: &Reals,
    ) -> Result<()> {
        let other = match self {
            Loss::Softmax => {
                let separate = unfused.contains(&Fusion::LogPartition);
                let compute = if separate { log_partition::unfused } else { log_partition::fused };
                let needed = self.workspace_len(real.device(), real.len() + fake.len(), unfused);
                return compute(out, real, fake, game, &workspace.view(0..needed));
            }
            Loss::Hinge => LogitLoss::Hinge,
            Loss::NonSaturating => LogitLoss::NonSaturating,
            Loss::Minimax => LogitLoss::Minimax,
            Loss::LeastSquares => LogitLoss::LeastSquares,
            Loss::Wasserstein | Loss::WassersteinGp => LogitLoss::Wasserstein,
            Loss::RelativisticAverage => LogitLoss::RelativisticAverage,
            Loss::RelativisticHinge => LogitLoss::RelativisticHinge,
        };
        losses::fused(out, real, fake, other)
    }

    /// Whether the generator's loss looks at the real logits.
    pub fn couples_the_batch(self) -> bool {
        matches!(self, Loss::Softmax | Loss::RelativisticAverage | Loss::RelativisticHinge)
    }

    /// What the losses of D and G are compared with where the difference is, or estimates, a KL divergence:
    /// `kernels/log_partition.cu` says which. The losses cannot fall below it, but for G's in a zero-sum game.
    pub fn floors(self, game: Game, real: usize, fake: usize) -> Option<(f64, f64)> {
        let (of_d, all) = ((f64::from(game.real_weight) * real as f64).ln(), game.weight(real, fake).ln());
        (self == Loss::Softmax).then_some((of_d, if game.zero_sum { -all } else { all }))
    }
}
