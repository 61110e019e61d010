//! The projection head in one launch: ReLU, pooling, `w . h + V[y] . h + bias`. And the pooling alone, for other heads.

use super::{expect_len, expect_optional, size32};
use crate::device::{Buffer, Device, Reals, kernel};
use crate::sizes::{product, sum};
use crate::{Error, Result};

/// The label of a sample that has none; any number that is not a class works.
pub const ABSENT: u32 = u32::MAX;

/// Columns that one block sums.
const COLUMNS: usize = 128;

/// What the head is made of. `C` is the length of `w`.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// (C): psi.
    pub w: &'a Reals,
    /// (classes, C): the label embedding.
    pub v: Option<&'a Reals>,
    /// (N). Without labels, and where a label is [`ABSENT`], the logit is psi alone.
    pub labels: Option<&'a Buffer<u32>>,
    /// (1).
    pub bias: Option<&'a Reals>,
    /// What the sum over pixels is multiplied with: 1 for the sum itself, 1 / P for the mean.
    pub pool_factor: f32,
}

/// The gradient with respect to each logit: `df[n] * scale[n]`. What is not given is 1.
#[derive(Clone, Copy, Default)]
pub struct Seeds<'a> {
    /// (N).
    pub df: Option<&'a Reals>,
    /// (N).
    pub scale: Option<&'a Reals>,
}

/// The gradients of a head's parameters; all accumulate.
#[derive(Clone, Copy)]
pub struct Gradients<'a> {
    /// (C).
    pub dw: &'a Reals,
    /// (classes, C).
    pub dv: Option<&'a Reals>,
    /// (1).
    pub dbias: Option<&'a Reals>,
}

#[derive(Clone, Copy)]
struct Sizes {
    n: u32,
    p: u32,
    c: u32,
    classes: u32,
}

impl Sizes {
    fn pixel_ranges(self, device: &Device) -> (u32, u32) {
        let pixels = (device.tuning().elements / self.c as usize).max(1).next_power_of_two() as u32;
        (pixels, self.p.div_ceil(pixels))
    }

    fn column_ranges(self) -> u32 {
        self.c.div_ceil(COLUMNS as u32)
    }
}

/// `x` has `n` samples of `c` channels; its length tells the pixels.
fn sizes(what: &str, n: usize, c: usize, classes: usize, x: &Reals) -> Result<Sizes> {
    let each = product([n, c]);
    if each == 0 || !x.len().is_multiple_of(each) {
        return Err(Error::Shape(format!(
            "{what}: x has {} elements, expected N * P * C with N = {n}, C = {c}, at least one of each",
            x.len()
        )));
    }
    let p = x.len() / each;
    size32(what, product([p, c]))?;
    Ok(Sizes { n: size32(what, n)?, p: p as u32, c: size32(what, c)?, classes: size32(what, classes)? })
}

fn class_count(what: &str, name: &str, rows: Option<&Reals>, c: usize) -> Result<usize> {
    let len = rows.map_or(0, Buffer::len);
    if c == 0 || !len.is_multiple_of(c) {
        return Err(Error::Shape(format!("{what}: {name} has {len} elements, expected classes * C with C = {c}")));
    }
    Ok(len / c)
}

fn check_head(what: &str, head: &Head, n: usize, x: &Reals) -> Result<Sizes> {
    let classes = class_count(what, "V", head.v, head.w.len())?;
    expect_optional(what, "labels", head.labels, n)?;
    expect_optional(what, "bias", head.bias, 1)?;
    sizes(what, n, head.w.len(), classes, x)
}

fn check_seeds(what: &str, seeds: Seeds, n: usize) -> Result<()> {
    expect_optional(what, "df", seeds.df, n)?;
    expect_optional(what, "scale", seeds.scale, n)
}

fn check_gradients(out: Gradients, h: &Reals, labels: Option<&Buffer<u32>>, seeds: Seeds) -> Result<Sizes> {
    let what = "projection backward";
    let classes = class_count(what, "dV", out.dv, out.dw.len())?;
    expect_optional(what, "dbias", out.dbias, 1)?;
    let sizes = sizes(what, h.len() / out.dw.len(), out.dw.len(), classes, h)?;
    let n = sizes.n as usize;
    expect_len(what, "h", h.len(), product([n, out.dw.len()]))?;
    expect_optional(what, "labels", labels, n)?;
    check_seeds(what, seeds, n)?;
    Ok(sizes)
}

/// The logits `f` (N) and the pooled features `h` (N, C) of `x` (N, P, C), in one launch.
pub fn forward(f: &Reals, h: &Reals, x: &Reals, head: &Head) -> Result<()> {
    let s = check_head("projection forward", head, f.len(), x)?;
    expect_len("projection forward", "h", h.len(), product([f.len(), head.w.len()]))?;
    let launch = f.device().launch(kernel::PROJECTION_FORWARD, [s.n, 1, 1]);
    let launch = launch.output(f).output(h).input(x).input(head.w);
    let launch = launch.optional(head.v).optional(head.labels).optional(head.bias);
    // SAFETY: `check_head` and the line below it compared every length with N, P, C and classes.
    unsafe { launch.scalar(head.pool_factor).scalar(s.p).scalar(s.c).scalar(s.classes).run() }
}

/// `dx` (N, P, C) overwritten, for `df` (N; 1 without) at the logits.
pub fn input_gradient(dx: &Reals, x: &Reals, head: &Head, n: usize, df: Option<&Reals>) -> Result<()> {
    let what = "projection backward";
    let s = check_head(what, head, n, x)?;
    expect_len(what, "dx", dx.len(), x.len())?;
    check_seeds(what, Seeds { df, scale: None }, n)?;
    let (pixels, ranges) = s.pixel_ranges(dx.device());
    let launch = dx.device().launch(kernel::PROJECTION_INPUT_GRADIENT, [s.n, ranges, 1]);
    let launch = launch.output(dx).input(x).input(head.w).optional(head.v).optional(head.labels).optional(df);
    // SAFETY: every length was compared with N, P, C and classes above.
    unsafe { launch.scalar(head.pool_factor).scalar(s.p).scalar(s.c).scalar(s.classes).scalar(pixels).run() }
}

/// All parameter gradients in one launch, from the `h` (N, C) that forward saved. They accumulate.
pub fn parameter_gradients(out: Gradients, h: &Reals, labels: Option<&Buffer<u32>>, seeds: Seeds) -> Result<()> {
    let s = check_gradients(out, h, labels, seeds)?;
    let labels = labels.filter(|_| s.classes > 0);
    let blocks = if labels.is_some() { 1 + s.n } else { 1 };
    let launch = h.device().launch(kernel::PROJECTION_PARAMETER_GRADIENTS_F32, [blocks, s.column_ranges(), 1]);
    let launch = launch.output(out.dw).optional_output(out.dv).optional_output(out.dbias).input(h);
    let launch = launch.optional(labels).optional(seeds.df).optional(seeds.scale);
    // SAFETY: `check_gradients` compared every length with N, C and classes.
    unsafe { launch.scalar(s.n).scalar(s.c).scalar(s.classes).scalar(COLUMNS as u32).run() }
}

/// `h = pool_factor * sum over pixels of relu(x)`, (N, C) from (N, P, C).
pub fn pool(h: &Reals, x: &Reals, n: usize, pool_factor: f32) -> Result<()> {
    let s = check_pool(h, x, n)?;
    let launch = h.device().launch(kernel::PROJECTION_POOL, [s.n, s.column_ranges(), 1]).output(h).input(x);
    // SAFETY: `check_pool` compared both lengths with N, P and C.
    unsafe { launch.scalar(pool_factor).scalar(s.p).scalar(s.c).scalar(COLUMNS as u32).run() }
}

/// `dx = (x > 0) * pool_factor * dh`, overwritten.
pub fn pool_backward(dx: &Reals, x: &Reals, dh: &Reals, n: usize, pool_factor: f32) -> Result<()> {
    let s = check_pool(dh, x, n)?;
    expect_len("pool backward", "dx", dx.len(), x.len())?;
    let (pixels, ranges) = s.pixel_ranges(dx.device());
    let launch = dx.device().launch(kernel::PROJECTION_POOL_BACKWARD, [s.n, ranges, 1]);
    let launch = launch.output(dx).input(x).input(dh);
    // SAFETY: every length was compared with N, P and C above.
    unsafe { launch.scalar(pool_factor).scalar(s.p).scalar(s.c).scalar(pixels).run() }
}

fn check_pool(h: &Reals, x: &Reals, n: usize) -> Result<Sizes> {
    if n == 0 || !h.len().is_multiple_of(n) {
        return Err(Error::Shape(format!("pool: h has {} elements, expected N * C with N = {n}", h.len())));
    }
    sizes("pool", n, h.len() / n, 0, x)
}

/// The same head from elementary kernels, one launch each: what the fused one is compared with.
pub mod unfused {
    use super::*;

    /// Floats of workspace for `x` (N, P, C) and N samples.
    pub fn workspace_len(x: usize, n: usize) -> usize {
        sum([x, product([2, n])])
    }

    pub fn forward(f: &Reals, h: &Reals, x: &Reals, head: &Head, workspace: &Reals) -> Result<()> {
        let what = "projection forward, unfused";
        expect_len(what, "workspace", workspace.len(), workspace_len(x.len(), f.len()))?;
        let y = workspace.view(0..x.len());
        let device = f.device();
        let (elements, count) = (device.tuning().elements as u32, size32(what, x.len())?);
        let launch = device.launch(kernel::PROJECTION_UNFUSED_RELU_F32, [count.div_ceil(elements), 1, 1]);
        // SAFETY: both hold `count` elements.
        unsafe { launch.output(&y).input(x).scalar(count).scalar(elements).run()? };
        // The ReLU in the pooling changes nothing after this one.
        forward_pooled(f, h, &y, head, &workspace.view(x.len()..workspace.len()))
    }

    /// [`forward`] with the ReLU in the pooling. `workspace` has 2 N floats.
    pub fn forward_pooled(f: &Reals, h: &Reals, x: &Reals, head: &Head, workspace: &Reals) -> Result<()> {
        let what = "projection forward, pooled";
        let s = check_head(what, head, f.len(), x)?;
        expect_len(what, "h", h.len(), product([f.len(), head.w.len()]))?;
        expect_len(what, "workspace", workspace.len(), product([2, f.len()]))?;
        pool(h, x, f.len(), head.pool_factor)?;
        products(f, h, head, s, workspace)
    }

    /// Both inner products and their sum, from lengths that the callers compared. `workspace` has 2 N floats.
    fn products(f: &Reals, h: &Reals, head: &Head, s: Sizes, workspace: &Reals) -> Result<()> {
        let (device, n) = (f.device(), f.len());
        let (psi, inner) = (workspace.view(0..n), workspace.view(n..2 * n));
        let launch = device.launch(kernel::PROJECTION_UNFUSED_PSI_F32, [s.n, 1, 1]);
        // SAFETY: the callers compared the lengths with N, C and classes, here and below.
        unsafe { launch.output(&psi).input(h).input(head.w).scalar(s.c).run()? };
        let launch = device.launch(kernel::PROJECTION_UNFUSED_CLASS_F32, [s.n, 1, 1]);
        let launch = launch.output(&inner).input(h).optional(head.v).optional(head.labels);
        // SAFETY: as above.
        unsafe { launch.scalar(s.c).scalar(s.classes).run()? };
        let launch = device.launch(kernel::PROJECTION_UNFUSED_ADD_F32, [1, 1, 1]);
        // SAFETY: as above.
        unsafe { launch.output(f).input(&psi).input(&inner).optional(head.bias).scalar(s.n).run() }
    }

    /// `workspace` has N * C floats, for dh.
    pub fn input_gradient(
        dx: &Reals,
        x: &Reals,
        head: &Head,
        n: usize,
        df: Option<&Reals>,
        workspace: &Reals,
    ) -> Result<()> {
        let what = "projection backward, unfused";
        let s = check_head(what, head, n, x)?;
        check_seeds(what, Seeds { df, scale: None }, n)?;
        expect_len(what, "workspace", workspace.len(), product([n, head.w.len()]))?;
        let launch = dx.device().launch(kernel::PROJECTION_UNFUSED_DH_F32, [s.n, 1, 1]);
        let launch = launch.output(workspace).input(head.w).optional(head.v).optional(head.labels).optional(df);
        // SAFETY: every length was compared with N, C and classes above.
        unsafe { launch.scalar(s.c).scalar(s.classes).run()? };
        pool_backward(dx, x, workspace, n, head.pool_factor)
    }

    pub fn parameter_gradients(out: Gradients, h: &Reals, labels: Option<&Buffer<u32>>, seeds: Seeds) -> Result<()> {
        let s = check_gradients(out, h, labels, seeds)?;
        let device = h.device();
        let launch = device.launch(kernel::PROJECTION_UNFUSED_WEIGHT_F32, [1, 1, 1]);
        let launch = launch.output(out.dw).input(h).optional(seeds.df).optional(seeds.scale);
        // SAFETY: `check_gradients` compared every length with N, C and classes, here and below.
        unsafe { launch.scalar(s.n).scalar(s.c).run()? };
        if let Some(dbias) = out.dbias {
            let launch = device.launch(kernel::PROJECTION_UNFUSED_BIAS_F32, [1, 1, 1]);
            // SAFETY: as above.
            unsafe { launch.output(dbias).optional(seeds.df).optional(seeds.scale).scalar(s.n).run()? };
        }
        let (Some(dv), Some(labels)) = (out.dv, labels) else { return Ok(()) };
        let launch = device.launch(kernel::PROJECTION_UNFUSED_ROWS_F32, [s.n, 1, 1]);
        let launch = launch.output(dv).input(h).input(labels).optional(seeds.df).optional(seeds.scale);
        // SAFETY: as above.
        unsafe { launch.scalar(s.n).scalar(s.c).scalar(s.classes).run() }
    }
}
