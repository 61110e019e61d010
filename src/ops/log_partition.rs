//! The log-partition of Softmax GAN: both losses and all per-sample seeds from one softmax over the batch.

use super::{expect_len, size32};
use crate::device::{Buffer, Device, kernel};
use crate::{Error, Result};

/// What every loss gives for a batch of `N` real and `M` fake logits.
pub struct Evaluation {
    /// (4): L_D, L_G, mean real logit, mean fake logit.
    pub statistics: Buffer<f32>,
    /// (N + M): dL_D / d logit, the real ones first.
    pub seed_d: Buffer<f32>,
    /// (M): dL_G / d fake logit.
    pub seed_g: Buffer<f32>,
}

/// Workspace of the two-launch form, in floats.
pub fn workspace_len(device: &Device, logits: usize) -> usize {
    let (chunk, blocks) = split(device, logits);
    debug_assert!(chunk * blocks >= logits);
    if blocks > 1 { 4 * blocks } else { 0 }
}

/// Logits per block and blocks.
fn split(device: &Device, logits: usize) -> (usize, usize) {
    let tuning = device.tuning();
    let chunk = tuning.logits.max(logits.div_ceil(tuning.logit_blocks)).next_power_of_two();
    (chunk, logits.div_ceil(chunk))
}

/// One launch up to 8,192 logits, two above. `sign` is 1 where a low logit means real (Softmax GAN's own), -1 where
/// a high one does (a projection head). `workspace` has [`workspace_len`] floats.
pub fn fused(
    out: &Evaluation,
    real: &Buffer<f32>,
    fake: &Buffer<f32>,
    sign: f32,
    workspace: &Buffer<f32>,
) -> Result<()> {
    let (n, m) = check(out, real, fake)?;
    let device = real.device();
    let (chunk, blocks) = split(device, n + m);
    let (n32, m32) = (size32("log_partition", n + m)? - m as u32, m as u32);
    if blocks == 1 {
        let launch = device.launch(kernel::LOG_PARTITION_ONE_F32, [1, 1, 1]);
        let launch = launch.output(&out.statistics).output(&out.seed_d).output(&out.seed_g).input(real).input(fake);
        // SAFETY: `check` compared every length with N and M.
        return unsafe { launch.scalar(sign).scalar(n32).scalar(m32).run() };
    }
    expect_len("log_partition", "workspace", workspace.len(), 4 * blocks)?;
    let grid = [blocks as u32, 1, 1];
    let launch = device.launch(kernel::LOG_PARTITION_PARTIALS_F32, grid);
    let launch = launch.output(workspace).output(&out.seed_d).input(real).input(fake);
    // SAFETY: `check` compared every length with N and M; the workspace holds four floats per block.
    unsafe { launch.scalar(sign).scalar(n32).scalar(m32).scalar(chunk as u32).run()? };
    let launch = device.launch(kernel::LOG_PARTITION_SEEDS_F32, grid);
    let launch = launch.output(&out.statistics).output(&out.seed_d).output(&out.seed_g).input(workspace);
    // SAFETY: as above.
    unsafe { launch.scalar(sign).scalar(n32).scalar(m32).scalar(chunk as u32).run() }
}

fn check(out: &Evaluation, real: &Buffer<f32>, fake: &Buffer<f32>) -> Result<(usize, usize)> {
    let (n, m) = (real.len(), fake.len());
    if n == 0 || m == 0 {
        return Err(Error::Shape(format!(
            "log_partition: {n} real and {m} fake logits, at least one of each is needed"
        )));
    }
    expect_len("log_partition", "statistics", out.statistics.len(), 4)?;
    expect_len("log_partition", "seed_d", out.seed_d.len(), n + m)?;
    expect_len("log_partition", "seed_g", out.seed_g.len(), m)?;
    Ok((n, m))
}
