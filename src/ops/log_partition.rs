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

/// One launch up to 8,192 logits, two above. `sign` is 1 where a low logit means real (Softmax GAN's own), -1 where
/// a high one does (a projection head). `workspace` has [`workspace_len`] floats.
pub fn fused(out: &Evaluation, real: &Reals, fake: &Reals, sign: f32, workspace: &Reals) -> Result<()> {
    let (_, blocks) = split(real.device(), real.len() + fake.len());
    if blocks == 1 { one_launch(out, real, fake, sign) } else { two_launches(out, real, fake, sign, workspace) }
}

/// One block, whatever the number of logits.
pub fn one_launch(out: &Evaluation, real: &Reals, fake: &Reals, sign: f32) -> Result<()> {
    let [n, m] = out.check("log_partition", real, fake)?;
    let launch = real.device().launch(kernel::LOG_PARTITION_ONE_F32, [1, 1, 1]);
    let launch = launch.output(&out.statistics).output(&out.seed_d).output(&out.seed_g).input(real).input(fake);
    // SAFETY: `check` compared every length with N and M.
    unsafe { launch.scalar(sign).scalar(n).scalar(m).run() }
}

/// Workspace of [`two_launches`], in floats.
pub fn two_launches_workspace_len(device: &Device, logits: usize) -> usize {
    product([4, split_two(device, logits).1])
}

/// Many blocks share the logits: the first launch computes their sums, the second joins these and computes the gradients.
pub fn two_launches(out: &Evaluation, real: &Reals, fake: &Reals, sign: f32, workspace: &Reals) -> Result<()> {
    let [n, m] = out.check("log_partition", real, fake)?;
    let device = real.device();
    let (chunk, blocks) = split_two(device, real.len() + fake.len());
    expect_len("log_partition", "workspace", workspace.len(), product([4, blocks]))?;
    let grid = [blocks as u32, 1, 1];
    let launch = device.launch(kernel::LOG_PARTITION_PARTIALS_F32, grid);
    let launch = launch.output(workspace).output(&out.seed_d).input(real).input(fake);
    // SAFETY: `check` compared every length with N and M; the workspace holds four floats per block.
    unsafe { launch.scalar(sign).scalar(n).scalar(m).scalar(chunk as u32).run()? };
    let launch = device.launch(kernel::LOG_PARTITION_SEEDS_F32, grid);
    let launch = launch.output(&out.statistics).output(&out.seed_d).output(&out.seed_g).input(workspace);
    // SAFETY: as above.
    unsafe { launch.scalar(sign).scalar(n).scalar(m).scalar(chunk as u32).run() }
}

/// Workspace of [`unfused`], in floats: six buffers with a number for each logit, the partial results of a reduction, and
/// ten single numbers.
pub fn unfused_workspace_len(device: &Device, logits: usize) -> usize {
    sum([product([6, logits]), elementary::workspace_len(device, logits), 10])
}

/// The same from elementary kernels: every step is a launch that reads from memory and writes to memory. They run in the
/// order of a careful program in an eager framework (logsumexp about the maximum; its gradient exp(y - logsumexp), once
/// for both losses). What fusion buys is the difference to [`fused`]. `workspace` has [`unfused_workspace_len`] floats.
pub fn unfused(out: &Evaluation, real: &Reals, fake: &Reals, sign: f32, workspace: &Reals) -> Result<()> {
    use elementary::{Function, add, affine, function, maximum, subtract, sum};
    out.check("log_partition", real, fake)?;
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

    // y = -sign cat(real, fake); logsumexp(y) = max + ln sum exp(y - max)
    affine(&joined.view(0..n), real, 1.0, 0.0)?;
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
    add(&sum_all, &sum_real, &sum_fake)?;
    affine(&mean_real, &sum_real, -1.0 / n as f32, 0.0)?;
    affine(&mean_fake, &sum_fake, -1.0 / m as f32, 0.0)?;
    affine(&mean_all, &sum_all, -1.0 / k as f32, 0.0)?;
    add(&statistic(0), &mean_real, &entropy)?;
    add(&statistic(1), &mean_all, &entropy)?;
    // backward: the gradient of logsumexp, exp(y - logsumexp(y)), then that of each loss
    subtract(&logarithms, &deviations, &entropy)?;
    function(Function::Exp, &shares, &logarithms)?;
    affine(&out.seed_d.view(0..n), &shares.view(0..n), -sign, sign / n as f32)?;
    affine(&out.seed_d.view(n..k), &shares.view(n..k), -sign, 0.0)?;
    affine(&out.seed_g, &shares.view(n..k), -sign, sign / k as f32)?;
    // mean logits: sign (mean (x + max) - max)
    affine(&offset, &most, -sign, 0.0)?;
    affine(&sum_real, &mean_real, sign, 0.0)?;
    affine(&sum_fake, &mean_fake, sign, 0.0)?;
    add(&statistic(2), &sum_real, &offset)?;
    add(&statistic(3), &sum_fake, &offset)
}
