//! Gradient penalties: points to take one at, its value and its direction, and the pooling of a tangent. The
//! formulas are in `kernels/gradient_penalty.cu`.

use super::state::StateBuffer;
use super::{expect_len, size32};
use crate::device::{Reals, kernel};
use crate::sizes::product;
use crate::{Error, Result};

/// Columns that one block sums.
const COLUMNS: u32 = 128;

/// What [`direction`] gives; all of it overwrites.
#[derive(Clone, Copy)]
pub struct Direction<'a> {
    /// (N, F): the gradient of the penalty with respect to `g`.
    pub v: &'a Reals,
    /// (N): the norms of the rows of `g`.
    pub norms: &'a Reals,
    /// (2): the penalty, and the mean norm.
    pub statistics: &'a Reals,
}

/// How many elements each of `n` rows has, at least one.
fn features(what: &str, name: &str, len: usize, n: usize) -> Result<usize> {
    if n == 0 || len == 0 || !len.is_multiple_of(n) {
        return Err(Error::Shape(format!("{what}: {name} has {len} elements, expected N * F with N = {n}")));
    }
    Ok(len / n)
}

/// `mixed` (N, F): row n is `share[n]` of the way from `fake` to `real`.
pub fn mix(mixed: &Reals, real: &Reals, fake: &Reals, share: &Reals) -> Result<()> {
    let (what, n) = ("mix", share.len());
    let f = features(what, "mixed", mixed.len(), n)?;
    expect_len(what, "real", real.len(), mixed.len())?;
    expect_len(what, "fake", fake.len(), mixed.len())?;
    let (n, f, chunk) = (size32(what, n)?, size32(what, f)?, mixed.device().tuning().elements as u32);
    let launch = mixed.device().launch(kernel::GRADIENT_PENALTY_MIX, [n, f.div_ceil(chunk), 1]);
    let launch = launch.output(mixed).input(real).input(fake).input(share);
    // SAFETY: every length was compared with N * F and N above; the grid covers (N, F).
    unsafe { launch.scalar(f).scalar(chunk).run() }
}

/// The penalty `weight / N * sum (|g| - norm)^2` of `g` (N, F), and its gradient; `g` is times the state's loss scale.
pub fn direction(out: Direction, g: &Reals, weight: f32, norm: f32, state: &StateBuffer) -> Result<()> {
    let (what, n) = ("gradient penalty", out.norms.len());
    let f = size32(what, features(what, "g", g.len(), n)?)?;
    expect_len(what, "v", out.v.len(), g.len())?;
    expect_len(what, "statistics", out.statistics.len(), 2)?;
    let (n32, scale, device) = (size32(what, n)?, weight / n as f32, g.device());
    let launch = device.launch(kernel::GRADIENT_PENALTY_DIRECTION, [n32, 1, 1]);
    // SAFETY: every length was compared with N * F and N above; here and below.
    unsafe {
        let launch = launch.output(out.v).output(out.norms).input(g).input(state.words());
        launch.scalar(scale).scalar(norm).scalar(f).run()?
    };
    let launch = device.launch(kernel::GRADIENT_PENALTY_SUM_F32, [1, 1, 1]);
    // SAFETY: as above.
    unsafe { launch.output(out.statistics).input(out.norms).scalar(scale).scalar(norm).scalar(n32).run() }
}

/// `h` (N, C) `= pool_factor * sum over p of (x > 0) t`, of `x` and `t` (N, P, C).
pub fn pool(h: &Reals, t: &Reals, x: &Reals, n: usize, pool_factor: f32) -> Result<()> {
    let what = "pool of tangents";
    let c = features(what, "h", h.len(), n)?;
    if t.is_empty() || !t.len().is_multiple_of(product([n, c])) {
        let found = t.len();
        return Err(Error::Shape(format!("{what}: t has {found} elements, expected N * P * C with N = {n}, C = {c}")));
    }
    expect_len(what, "x", x.len(), t.len())?;
    let p = size32(what, t.len() / n)? / c as u32;
    let (n, c) = (size32(what, n)?, c as u32);
    let launch = h.device().launch(kernel::GRADIENT_PENALTY_POOL, [n, c.div_ceil(COLUMNS), 1]);
    // SAFETY: every length was compared with N, P and C above; the grid covers (N, C).
    unsafe { launch.output(h).input(t).input(x).scalar(pool_factor).scalar(p).scalar(c).scalar(COLUMNS).run() }
}
