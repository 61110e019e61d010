//! The log-partition of Softmax GAN: both losses and all per-sample seeds from one softmax over the batch.

use super::{elementary, expect_len, size32};
use crate::device::{Device, Reals, kernel};
use crate::sizes::{product, sum};
use crate::{Error, Result};

/// What every loss gives for a batch of `N` real and `M` fake logits.
pub struct Evaluation {
    /// (4): L_D, L_G, mean real logit, mean fake logit.
    pub statistics: Reals,
    /// (N + M): dL_D / d logit, the real ones first.
    pub seed_d: Reals,
    /// (M): dL_G / d fake logit.
    pub seed_g: Reals,
}

impl Evaluation {
    /// Compares all lengths; gives N and M.
    pub(super) fn check(&self, what: &str, real: &Reals, fake: &Reals) -> Result<[u32; 2]> {
        let (n, m) = (real.len(), fake.len());
        if n == 0 || m == 0 {
            return Err(Error::Shape(format!("{what}: {n} real and {m} fake logits, at least one of each is needed")));
        }
        expect_len(what, "statistics", self.statistics.len(), 4)?;
        expect_len(what, "seed_d", self.seed_d.len(), n + m)?;
        expect_len(what, "seed_g", self.seed_g.len(), m)?;
        Ok([size32(what, n + m)? - m as u32, m as u32])
    }
}

/// What is played: all but the logits that the losses depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Game {
    /// 1 where a low logit means real (Softmax GAN's own), -1 where a high one does (a projection head).
    pub sign: f32,
    /// What a real sample weighs in the softmax; a fake weighs 1.
    pub real_weight: f32,
    /// Whether G's loss is D's with the other sign, instead of Softmax GAN's own.
    pub zero_sum: bool,
}

impl Game {
    /// The weight of all samples: what the softmax sums to where all logits are 0.
    pub fn weight(&self, real: usize, fake: usize) -> f64 {
        f64::from(self.real_weight) * real as f64 + fake as f64
    }
}

/// Softmax GAN as published, with this sign.
impl From<f32> for Game {
    fn from(sign: f32) -> Game {
        Game { sign, real_weight: 1.0, zero_sum: false }
    }
}

/// Workspace of [`fused`], in floats.
pub fn workspace_len(device: &Device, logits: usize) -> usize {
    let (chunk, blocks) = split(device, logits);
    debug_assert!(product([chunk, blocks]) >= logits);
    if blocks > 1 { product([4, blocks]) } else { 0 }
}

/// How [`fused`] shares the logits: those of one block, and the number of blocks.
fn split(device: &Device, logits: usize) -> (usize, usize) {
    let most = device.tuning().logits;
    if logits <= most { (most, 1) } else { split_two(device, logits) }
}

/// How [`two_launches`] does. Each of many blocks has half the logits that a single one would take, so that they are
/// still in the nearest cache when they are read again.
fn split_two(device: &Device, logits: usize) -> (usize, usize) {
    let tuning = device.tuning();
    let chunk = (tuning.logits / 2).max(logits.div_ceil(tuning.logit_blocks)).next_power_of_two();
    (chunk, logits.div_ceil(chunk))
}

/// One launch up to 8,192 logits, two above. `game` may be the sign alone. `workspace` has [`workspace_len`] floats.
pub fn fused(out: &Evaluation, real: &Reals, fake: &Reals, game: impl Into<Game>, workspace: &Reals) -> Result<()> {
    let (_, blocks) = split(real.device(), real.len() + fake.len());
    if blocks == 1 { one_launch(out, real, fake, game) } else { two_launches(out, real, fake, game, workspace) }
}

/// One block, whatever the number of logits.
pub fn one_launch(out: &Evaluation, real: &Reals, fake: &Reals, game: impl Into<Game>) -> Result<()> {
    let [n, m] = out.check("log_partition", real, fake)?;
    let game = game.into();
    let all = game.weight(real.len(), fake.len()) as f32;
    let launch = real.device().launch(kernel::LOG_PARTITION_ONE_F32, [1, 1, 1]);
    let launch = launch.output(&out.statistics).output(&out.seed_d).output(&out.seed_g).input(real).input(fake);
    let launch = launch.scalar(game.sign).scalar(game.real_weight).scalar(all).scalar(u32::from(game.zero_sum));
    // SAFETY: `check` compared every length with N and M.
    unsafe { launch.scalar(n).scalar(m).run() }
}

/// Workspace of [`two_launches`], in floats.
pub fn two_launches_workspace_len(device: &Device, logits: usize) -> usize {
    product([4, split_two(device, logits).1])
}

/// Many blocks share the logits: the first launch computes their sums, the second joins these and computes the gradients.
pub fn two_launches(
    out: &Evaluation,
    real: &Reals,
    fake: &Reals,
    game: impl Into<Game>,
    workspace: &Reals,
) -> Result<()> {
    let [n, m] = out.check("log_partition", real, fake)?;
    let (device, game) = (real.device(), game.into());
    let all = game.weight(real.len(), fake.len()) as f32;
    let (chunk, blocks) = split_two(device, real.len() + fake.len());
    expect_len("log_partition", "workspace", workspace.len(), product([4, blocks]))?;
    let grid = [blocks as u32, 1, 1];
    let launch = device.launch(kernel::LOG_PARTITION_PARTIALS_F32, grid);
    let launch = launch.output(workspace).output(&out.seed_d).input(real).input(fake);
    // SAFETY: `check` compared every length with N and M; the workspace holds four floats per block.
    unsafe { launch.scalar(game.sign).scalar(game.real_weight).scalar(n).scalar(m).scalar(chunk as u32).run()? };
    let launch = device.launch(kernel::LOG_PARTITION_SEEDS_F32, grid);
    let launch = launch.output(&out.statistics).output(&out.seed_d).output(&out.seed_g).input(workspace);
    let launch = launch.scalar(game.sign).scalar(game.real_weight).scalar(all).scalar(u32::from(game.zero_sum));
    // SAFETY: as above.
    unsafe { launch.scalar(n).scalar(m).scalar(chunk as u32).run() }
}

/// Workspace of [`unfused`], in floats: six buffers with a number for each logit, the partial results of a reduction, and
/// ten single numbers.
pub fn unfused_workspace_len(device: &Device, logits: usize) -> usize {
    sum([product([6, logits]), elementary::workspace_len(device, logits), 10])
}

/// The same from elementary kernels: every step is a launch that reads from memory and writes to memory. They run in the
/// order of a careful program in an eager framework (logsumexp about the maximum; its gradient exp(y - logsumexp), once
/// for both losses). What fusion buys is the difference to [`fused`]. `workspace` has [`unfused_workspace_len`] floats.
pub fn unfused(out: &Evaluation, real: &Reals, fake: &Reals, game: impl Into<Game>, workspace: &Reals) -> Result<()> {
    use elementary::{Function, add, affine, function, maximum, subtract, sum};
    out.check("log_partition", real, fake)?;
    let game = game.into();
    let Game { sign, real_weight, zero_sum } = game;
    let (n, m) = (real.len(), fake.len());
    let k = n + m;
    let partials_len = elementary::workspace_len(real.device(), k);
    expect_len("log_partition", "workspace", workspace.len(), unfused_workspace_len(real.device(), k))?;
    let [joined, negated, deviations, exponentials, logarithms, shares] =
        std::array::from_fn(|i| workspace.view(i * k..(i + 1) * k));
    let scratch = workspace.view(6 * k..6 * k + partials_len);
    let partials = |len: usize| scratch.view(0..elementary::workspace_len(real.device(), len));
    let numbers = workspace.view(6 * k + partials_len..workspace.len());
    let [most, total, entropy, sum_real, sum_fake, sum_all, mean_real, mean_fake, mean_all, offset] =
        std::array::from_fn(|i| numbers.view(i..i + 1));
    let statistic = |i: usize| out.statistics.view(i..i + 1);

    // y = -sign cat(real, fake), real ones plus the logarithm of their weight; logsumexp(y) = max + ln sum exp(y - max)
    let heavier = real_weight.ln();
    affine(&joined.view(0..n), real, 1.0, -sign * heavier)?;
    affine(&joined.view(n..k), fake, 1.0, 0.0)?;
    affine(&negated, &joined, -sign, 0.0)?;
    maximum(&most, &negated, &partials(k))?;
    subtract(&deviations, &negated, &most)?;
    function(Function::Exp, &exponentials, &deviations)?;
    sum(&total, &exponentials, &partials(k))?;
    function(Function::Log, &entropy, &total)?;
    // losses: minus the mean of y - max, plus ln sum
    sum(&sum_real, &deviations.view(0..n), &partials(n))?;
    sum(&sum_fake, &deviations.view(n..k), &partials(m))?;
    affine(&mean_real, &sum_real, -1.0 / n as f32, heavier)?;
    affine(&mean_fake, &sum_fake, -1.0 / m as f32, 0.0)?;
    add(&statistic(0), &mean_real, &entropy)?;
    let all = game.weight(n, m) as f32;
    if zero_sum {
        affine(&statistic(1), &statistic(0), -1.0, 0.0)?;
    } else {
        let weighted = if real_weight == 1.0 { &sum_real } else { &total };
        if real_weight != 1.0 {
            affine(weighted, &mean_real, -real_weight * n as f32, 0.0)?;
        }
        add(&sum_all, weighted, &sum_fake)?;
        affine(&mean_all, &sum_all, -1.0 / all, 0.0)?;
        add(&statistic(1), &mean_all, &entropy)?;
    }
    // backward: the gradient of logsumexp, exp(y - logsumexp(y)), then that of each loss
    subtract(&logarithms, &deviations, &entropy)?;
    function(Function::Exp, &shares, &logarithms)?;
    affine(&out.seed_d.view(0..n), &shares.view(0..n), -sign, sign / n as f32)?;
    affine(&out.seed_d.view(n..k), &shares.view(n..k), -sign, 0.0)?;
    let (of_p, share) = if zero_sum { (sign, 0.0) } else { (-sign, sign / all) };
    affine(&out.seed_g, &shares.view(n..k), of_p, share)?;
    // mean logits: sign (mean (x + max) - max)
    affine(&offset, &most, -sign, 0.0)?;
    affine(&sum_real, &mean_real, sign, 0.0)?;
    affine(&sum_fake, &mean_fake, sign, 0.0)?;
    add(&statistic(2), &sum_real, &offset)?;
    add(&statistic(3), &sum_fake, &offset)
}
