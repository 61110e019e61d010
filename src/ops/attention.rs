//! Self-attention with a streaming softmax, forward and backward, and the gated residual around it.
//!
//! The 1x1 convolutions that make query, key and value, and the one after, are the caller's, as is the pooling of key
//! and value ([`resample::max_pool`](super::resample::max_pool)).

use super::{elementwise, expect_len, expect_optional, size32};
use crate::device::{Device, Reals, kernel};
use crate::sizes::{product, sum};
use crate::{Error, Result};

/// The mirrors of `TILE` in `kernels/device/product.h`, and of `OF_K` and `OF_V` in `kernels/attention.cu`.
const TILE: u32 = 64;
const OF_K: u32 = 64;
const OF_V: u32 = 128;

/// How many blocks share out the columns of a sum, of which a GPU's block has `most`.
fn parts(device: &Device, columns: u32, most: u32) -> u32 {
    if device.fixed().sums_in_registers { columns.div_ceil(most) } else { 1 }
}

/// `n` images of `l` queries and `lk` keys; queries and keys have `dk` numbers, values `dv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub n: usize,
    pub l: usize,
    pub lk: usize,
    pub dk: usize,
    pub dv: usize,
}

impl Shape {
    /// Compares all lengths that both passes have, and `more`.
    fn check(
        self,
        what: &str,
        [o, lse]: [&Reals; 2],
        Inputs { q, k, v }: Inputs,
        more: &[(&str, usize, usize)],
    ) -> Result<[u32; 5]> {
        let Shape { n, l, lk, dk, dv } = self;
        if [n, l, lk, dk, dv].contains(&0) {
            return Err(Error::Shape(format!("{what}: {self:?} has a dimension of 0")));
        }
        let common = [
            ("o", o.len(), self.outputs()),
            ("lse", lse.len(), self.rows()),
            ("q", q.len(), self.queries()),
            ("k", k.len(), self.keys()),
            ("v", v.len(), self.values()),
        ];
        for (name, found, expected) in more.iter().chain(&common) {
            expect_len(what, name, *found, *expected)?;
        }
        Ok([size32(what, n)?, size32(what, l)?, size32(what, lk)?, size32(what, dk)?, size32(what, dv)?])
    }

    fn queries(self) -> usize {
        product([self.n, self.l, self.dk])
    }

    fn keys(self) -> usize {
        product([self.n, self.lk, self.dk])
    }

    fn values(self) -> usize {
        product([self.n, self.lk, self.dv])
    }

    fn outputs(self) -> usize {
        product([self.n, self.l, self.dv])
    }

    /// Multiplications and additions of this many products over the width of the keys, and over that of the values.
    fn flops(self, keys: usize, values: usize) -> usize {
        product([2, self.n, self.l, self.lk, sum([product([keys, self.dk]), product([values, self.dv])])])
    }

    /// Elements of `lse`: one for each query.
    pub fn rows(self) -> usize {
        product([self.n, self.l])
    }

    /// Workspace of [`backward`], in floats.
    pub fn workspace_len(self) -> usize {
        self.rows()
    }
}

/// Query, key and value.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// (N, L, Dk).
    pub q: &'a Reals,
    /// (N, Lk, Dk).
    pub k: &'a Reals,
    /// (N, Lk, Dv).
    pub v: &'a Reals,
}

/// `o` (N, L, Dv), and `lse` (N, L) for the backward pass.
pub fn forward(o: &Reals, lse: &Reals, inputs: Inputs, shape: Shape) -> Result<()> {
    let Inputs { q, k, v } = inputs;
    let [n, l, lk, dk, dv] = shape.check("attention forward", [o, lse], inputs, &[])?;
    let grid = [n, l.div_ceil(TILE), parts(o.device(), dv, OF_V)];
    let launch = o.device().launch(kernel::ATTENTION_FORWARD, grid).product(shape.flops(1, 1));
    let launch = launch.output(o).output(lse).input(q).input(k).input(v);
    // SAFETY: `check` compared every length with the shape.
    unsafe { launch.scalar(l).scalar(lk).scalar(dk).scalar(dv).run() }
}

/// The gradients of the inputs, shaped as they are; all overwrite.
#[derive(Clone, Copy)]
pub struct Gradients<'a> {
    pub dq: &'a Reals,
    pub dk: &'a Reals,
    pub dv: &'a Reals,
}

/// All gradients from `d_o` (N, L, Dv). `o` and `lse` are those of [`forward`]; `delta`, a workspace,
/// has [`Shape::workspace_len`] floats.
pub fn backward(
    out: Gradients,
    d_o: &Reals,
    o: &Reals,
    inputs: Inputs,
    lse: &Reals,
    shape: Shape,
    delta: &Reals,
) -> Result<()> {
    let Inputs { q, k, v } = inputs;
    let more = [
        ("dq", out.dq.len(), shape.queries()),
        ("dk", out.dk.len(), shape.keys()),
        ("dv", out.dv.len(), shape.values()),
        ("d_o", d_o.len(), shape.outputs()),
        ("workspace", delta.len(), shape.workspace_len()),
    ];
    let [n, l, lk, dk, dv] = shape.check("attention backward", [o, lse], inputs, &more)?;
    let device = o.device();
    let (of_k, of_v) = (parts(device, dk, OF_K), parts(device, dv, OF_V));
    let launch = device.launch(kernel::ATTENTION_BACKWARD_QUERIES, [n, l.div_ceil(TILE), of_k]);
    let launch = launch.product(shape.flops(2, 1)).output(out.dq).output(delta);
    let launch = launch.input(d_o).input(o).input(q).input(k).input(v).input(lse);
    // SAFETY: `check` compared every length with the shape; here and below.
    unsafe { launch.scalar(l).scalar(lk).scalar(dk).scalar(dv).run()? };
    let launch = device.launch(kernel::ATTENTION_BACKWARD_KEYS, [n, lk.div_ceil(TILE), of_k.max(of_v)]);
    let launch = launch.product(shape.flops(2, 2)).output(out.dk).output(out.dv);
    let launch = launch.input(d_o).input(q).input(k).input(v).input(lse).input(delta);
    // SAFETY: as above.
    unsafe { launch.scalar(l).scalar(lk).scalar(dk).scalar(dv).run() }
}

/// `y = x + gamma * a`; `gamma` (1) on the device.
pub fn residual(y: &Reals, x: &Reals, a: &Reals, gamma: &Reals) -> Result<()> {
    let what = "attention residual";
    expect_len(what, "gamma", gamma.len(), 1)?;
    elementwise(what, kernel::ATTENTION_RESIDUAL_FORWARD, y, [("x", x), ("a", a)], |launch| launch.input(gamma))
}

/// `da = gamma * dy`, overwritten, and `dgamma += sum over n of scale[n] * (dy[n] . a[n])`; without a `scale` (N) that is
/// 1. (`dx` is `dy` itself.) `workspace` has N floats, which tells the number of samples.
pub fn residual_backward(
    da: &Reals,
    dgamma: Option<&Reals>,
    dy: &Reals,
    a: &Reals,
    gamma: &Reals,
    scale: Option<&Reals>,
    workspace: &Reals,
) -> Result<()> {
    let (what, n) = ("attention residual backward", workspace.len());
    if n == 0 || !dy.len().is_multiple_of(n) {
        return Err(Error::Shape(format!("{what}: dy has {} elements, expected a multiple of N = {n}", dy.len())));
    }
    expect_len(what, "da", da.len(), dy.len())?;
    expect_len(what, "a", a.len(), dy.len())?;
    expect_len(what, "gamma", gamma.len(), 1)?;
    expect_optional(what, "scale", scale, n)?;
    let (n32, each) = (size32(what, n)?, size32(what, dy.len() / n)?);
    let launch = dy.device().launch(kernel::ATTENTION_RESIDUAL_BACKWARD, [n32, 1, 1]);
    let launch = launch.output(da).output(workspace).input(dy).input(a).input(gamma);
    // SAFETY: the lengths were compared above; here and below.
    unsafe { launch.scalar(each).run()? };
    let Some(dgamma) = dgamma else { return Ok(()) };
    expect_len(what, "dgamma", dgamma.len(), 1)?;
    let launch = dy.device().launch(kernel::ATTENTION_GAMMA_BACKWARD_F32, [1, 1, 1]);
    // SAFETY: as above.
    unsafe { launch.output(dgamma).input(workspace).optional(scale).scalar(n32).run() }
}
