//! The losses of a discriminator whose logits say "real" when high, with the interface of
//! [`log_partition`](super::log_partition): both values and all per-sample seeds in one launch.

use super::log_partition::Evaluation;
use super::{expect_len, size32};
use crate::device::{Buffer, kernel};
use crate::{Error, Result};

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
    /// The standard RaGAN. A logit also acts through its batch's mean; seeds are exact derivatives.
    RelativisticAverage = 5,
}

impl LogitLoss {
    pub const ALL: [LogitLoss; 6] = [
        LogitLoss::Hinge,
        LogitLoss::NonSaturating,
        LogitLoss::Minimax,
        LogitLoss::LeastSquares,
        LogitLoss::Wasserstein,
        LogitLoss::RelativisticAverage,
    ];
}

/// Values and seeds of `loss` for `N` real and `M` fake logits.
pub fn fused(out: &Evaluation, real: &Buffer<f32>, fake: &Buffer<f32>, loss: LogitLoss) -> Result<()> {
    let (n, m) = (real.len(), fake.len());
    if n == 0 || m == 0 {
        return Err(Error::Shape(format!("losses: {n} real and {m} fake logits, at least one of each is needed")));
    }
    expect_len("losses", "statistics", out.statistics.len(), 4)?;
    expect_len("losses", "seed_d", out.seed_d.len(), n + m)?;
    expect_len("losses", "seed_g", out.seed_g.len(), m)?;
    let (n32, m32) = (size32("losses", n + m)? - m as u32, m as u32);
    let launch = real.device().launch(kernel::LOSSES_F32, [1, 1, 1]);
    let launch = launch.output(&out.statistics).output(&out.seed_d).output(&out.seed_g).input(real).input(fake);
    // SAFETY: every length was compared with N and M above.
    unsafe { launch.scalar(loss as u32).scalar(n32).scalar(m32).run() }
}
