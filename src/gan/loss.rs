//! The losses of the two players, from the logits of a batch to values and per-sample seeds.

use crate::Result;
use crate::device::{Device, Reals};
use crate::nn::Fusion;
use crate::ops::log_partition::{self, Evaluation};
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

    /// Values and seeds, see [`Evaluation`]. `real_is_low` says what D's logits mean.
    pub fn evaluate(
        self,
        out: &Evaluation,
        real: &Reals,
        fake: &Reals,
        real_is_low: bool,
        unfused: &[Fusion],
        workspace: &Reals,
    ) -> Result<()> {
        let other = match self {
            Loss::Softmax => {
                let sign = if real_is_low { 1.0 } else { -1.0 };
                let separate = unfused.contains(&Fusion::LogPartition);
                let compute = if separate { log_partition::unfused } else { log_partition::fused };
                let needed = self.workspace_len(real.device(), real.len() + fake.len(), unfused);
                return compute(out, real, fake, sign, &workspace.view(0..needed));
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

    /// Whether D's loss has a gradient penalty.
    pub fn is_penalised(self) -> bool {
        self == Loss::WassersteinGp
    }

    /// Whether the generator's loss looks at the real logits.
    pub fn couples_the_batch(self) -> bool {
        matches!(self, Loss::Softmax | Loss::RelativisticAverage | Loss::RelativisticHinge)
    }

    /// The values that the losses of D and G cannot fall below, where they are KL divergences above it.
    pub fn floors(self, real: usize, fake: usize) -> Option<(f64, f64)> {
        (self == Loss::Softmax).then(|| ((real as f64).ln(), ((real + fake) as f64).ln()))
    }
}
