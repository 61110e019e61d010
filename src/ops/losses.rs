//! The losses of a discriminator whose logits say "real" when high, with the interface of
//! [`log_partition`](super::log_partition): both values and all per-sample seeds in one launch.

use super::log_partition::Evaluation;
use crate::Result;
use crate::device::{Reals, kernel};

/// The formulas are in `kernels/losses.cu`; the numbers are its codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LogitLoss {
    Hinge = 0,
    /// Softplus for both players.
    NonSaturating = 1,
    /// Goodfellow's original: G minimises mean log(1 - sigmoid(fake)).
    Minimax = 2,
    /// Targets 1 and 0, with the factor 1/2.
    LeastSquares = 3,
    Wasserstein = 4,
    /// The standard RaGAN. A logit also acts through the mean of its batch, and the seeds are the derivatives by both ways.
    RelativisticAverage = 5,
    /// The same with hinges instead of softplus.
    RelativisticHinge = 6,
}

impl LogitLoss {
    pub const ALL: [LogitLoss; 7] = [
        LogitLoss::Hinge,
        LogitLoss::NonSaturating,
        LogitLoss::Minimax,
        LogitLoss::LeastSquares,
        LogitLoss::Wasserstein,
        LogitLoss::RelativisticAverage,
        LogitLoss::RelativisticHinge,
    ];
}

/// Values and seeds of `loss` for `N` real and `M` fake logits.
pub fn fused(out: &Evaluation, real: &Reals, fake: &Reals, loss: LogitLoss) -> Result<()> {
    let [n, m] = out.check("losses", real, fake)?;
    let launch = real.device().launch(kernel::LOSSES_F32, [1, 1, 1]);
    let launch = launch.output(&out.statistics).output(&out.seed_d).output(&out.seed_g).input(real).input(fake);
    // SAFETY: `check` compared every length with N and M.
    unsafe { launch.scalar(loss as u32).scalar(n).scalar(m).run() }
}
