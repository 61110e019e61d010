//! The three products of a linear layer, its bias and activation fused in. x, y, their gradients and the weight are stored in one
//! precision, in which the product is; all else is f32.

use super::tile::{choose, grid};
use super::{Activation, ActivationArgument, expect_len, expect_optional, size32};
use crate::device::{Reals, Tile, kernel};
use crate::sizes::product;
use crate::{Error, Result};

/// x (N, C), weight (C, K), y (N, K).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    pub n: usize,
    pub c: usize,
    pub k: usize,
}

/// The effective output gradient, computed as it is read: `dy * act'(y) * row_scale`.
#[derive(Clone, Copy)]
pub struct OutputGradient<'a> {
    /// (N, K)
    pub dy: &'a Reals,
    /// (N, K): the layer's output; needed unless the activation is the identity.
    pub y: Option<&'a Reals>,
    pub activation: Activation,
    /// (N): what each sample's rows are multiplied with.
    pub row_scale: Option<&'a Reals>,
}

/// The tile of an (m, n) product whose operands are stored as `operand` is.
fn linear_tile(operand: &Reals, tiles: &'static [Tile], m: usize, n: usize) -> &'static Tile {
    let device = operand.device();
    choose(device, operand.precision(), device.workers(), tiles, &device.tuning().linear_tiles, m, n)
}

/// `y = act(x W + bias)`.
pub fn linear_forward(
    sizes: Linear,
    y: &Reals,
    x: &Reals,
    weight: &Reals,
    bias: Option<&Reals>,
    activation: Activation,
) -> Result<()> {
    let what = "linear forward";
    let [n, c, k] = sizes.check(what)?;
    expect_len(what, "y (N, K)", y.len(), product([sizes.n, sizes.k]))?;
    expect_len(what, "x (N, C)", x.len(), product([sizes.n, sizes.c]))?;
    expect_len(what, "weight (C, K)", weight.len(), product([sizes.c, sizes.k]))?;
    expect_optional(what, "bias (K)", bias, sizes.k)?;
    let tile = linear_tile(y, kernel::LINEAR_FORWARD, sizes.n, sizes.k);
    let launch = y.device().launch(tile.kernel, grid(tile, sizes.n, sizes.k)).product(sizes.flops());
    let launch = launch.output(y).input(x).input(weight).optional(bias).scalar(ActivationArgument::from(activation));
    // SAFETY: every length was compared with N, C and K above; the grid covers (N, K).
    unsafe { launch.scalar(n).scalar(c).scalar(k).run() }
}

/// `dx = g W^T`, overwritten.
pub fn linear_input_gradient(sizes: Linear, dx: &Reals, gradient: &OutputGradient, weight: &Reals) -> Result<()> {
    let what = "linear input gradient";
    let [n, c, k] = sizes.check(what)?;
    gradient.check(what, sizes.n, product([sizes.n, sizes.k]))?;
    expect_len(what, "dx (N, C)", dx.len(), product([sizes.n, sizes.c]))?;
    expect_len(what, "weight (C, K)", weight.len(), product([sizes.c, sizes.k]))?;
    let tile = linear_tile(dx, kernel::LINEAR_INPUT_GRADIENT, sizes.n, sizes.c);
    let launch = dx.device().launch(tile.kernel, grid(tile, sizes.n, sizes.c)).product(sizes.flops());
    let launch = launch.output(dx).input(gradient.dy).input(weight).optional(gradient.saved_output());
    let launch = launch.optional(gradient.row_scale).scalar(ActivationArgument::from(gradient.activation));
    // SAFETY: every length was compared with N, C and K above; the grid covers (N, C).
    unsafe { launch.scalar(n).scalar(c).scalar(k).run() }
}

/// `dW += x^T g` and, where there is one, `db += sum over the batch of g`.
pub fn linear_weight_gradient(
    sizes: Linear,
    (dweight, dbias): (&Reals, Option<&Reals>),
    x: &Reals,
    gradient: &OutputGradient,
) -> Result<()> {
    let what = "linear weight gradient";
    let [n, c, k] = sizes.check(what)?;
    gradient.check(what, sizes.n, product([sizes.n, sizes.k]))?;
    expect_len(what, "dweight (C, K)", dweight.len(), product([sizes.c, sizes.k]))?;
    expect_optional(what, "dbias (K)", dbias, sizes.k)?;
    expect_len(what, "x (N, C)", x.len(), product([sizes.n, sizes.c]))?;
    let tile = linear_tile(x, kernel::LINEAR_WEIGHT_GRADIENT, sizes.c, sizes.k);
    // Of more rows of tiles than the grid's y takes, with one more for the bias, the launch is refused.
    let [across, down, layers] = grid(tile, sizes.c, sizes.k);
    let grid = [across, down * layers + u32::from(dbias.is_some()), 1];
    let launch = dweight.device().launch(tile.kernel, grid).product(sizes.flops());
    let launch =
        launch.output(dweight).optional_output(dbias).input(x).input(gradient.dy).optional(gradient.saved_output());
    let launch = launch.optional(gradient.row_scale).scalar(ActivationArgument::from(gradient.activation));
    // SAFETY: every length was compared with N, C and K above; the grid covers (C, K), with one more row for the bias.
    unsafe { launch.scalar(n).scalar(c).scalar(k).run() }
}

impl Linear {
    /// Multiplications and additions of each of the three products.
    pub fn flops(&self) -> usize {
        product([2, self.n, self.c, self.k])
    }

    fn check(self, what: &str) -> Result<[u32; 3]> {
        if self.n == 0 || self.c == 0 || self.k == 0 {
            return Err(Error::Shape(format!("{what}: N={} C={} K={}, none may be 0", self.n, self.c, self.k)));
        }
        Ok([size32(what, self.n)?, size32(what, self.c)?, size32(what, self.k)?])
    }
}

impl<'a> OutputGradient<'a> {
    /// `dy` as it is stored: no activation came after the product, and no scale is wanted.
    pub fn stored(dy: &'a Reals) -> OutputGradient<'a> {
        OutputGradient { dy, y: None, activation: Activation::Identity, row_scale: None }
    }

    /// Compares the lengths with `rows` samples and `len` elements.
    pub(super) fn check(&self, what: &str, rows: usize, len: usize) -> Result<()> {
        expect_len(what, "dy", self.dy.len(), len)?;
        if self.activation != Activation::Identity && self.y.is_none() {
            return Err(Error::Shape(format!("{what}: the derivative of {:?} needs the output y", self.activation)));
        }
        expect_optional(what, "y", self.saved_output(), len)?;
        expect_optional(what, "row_scale", self.row_scale, rows)
    }

    /// y, where the derivative of the activation needs it.
    pub(super) fn saved_output(&self) -> Option<&'a Reals> {
        self.y.filter(|_| self.activation != Activation::Identity)
    }
}
