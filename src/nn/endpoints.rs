//! What a convolution reads and what it writes, with everything that is computed on the way in and on the way out.

use super::{Norm, Value};
use crate::device::Reals;
use crate::ops::Activation;
use crate::ops::conv::{ConvGradient, Prologue};
use crate::ops::matmul::OutputGradient;
use crate::sizes::product;

/// What a convolution reads: `act(x)` or, through a norm's tables, `act(scale x + shift)`, upsampled where wanted.
pub struct Source<'a> {
    pub(super) x: &'a Reals,
    /// Where the gradient of what is read goes: to that of `x` itself or, through a norm, to that of the normalised
    /// value. None where `x` is a network's input and nobody asks for its gradient.
    pub(super) dx: Option<&'a Reals>,
    pub(super) norm: Option<&'a Norm>,
    pub(super) activation: Activation,
    pub(super) upsample: bool,
    pub(super) n: usize,
    pub(super) h: usize,
    pub(super) w: usize,
}

impl<'a> Source<'a> {
    /// `x` as it is stored.
    pub fn plain(x: &'a Value) -> Source<'a> {
        Source::activated(x, Activation::Identity)
    }

    /// `x` through a ReLU, or as it is. The gradient is that of `x` before the ReLU.
    pub fn activated(x: &'a Value, activation: Activation) -> Source<'a> {
        let Value { n, h, w, .. } = *x;
        Source { x: &x.x, dx: x.dx.as_ref(), norm: None, activation, upsample: false, n, h, w }
    }

    /// `x` through a norm and its activation. The gradient is that of `activated`, which comes after both, summed over
    /// the pixels that one pixel was repeated to. An unfused norm has stored its values in `activated`; they are read
    /// from there, and upsampling is not done here.
    pub fn normalised(activated: &'a Value, x: &'a Value, norm: &'a Norm, upsample: bool) -> Source<'a> {
        if norm.is_unfused() {
            return Source::plain(activated);
        }
        let scale = if upsample { 2 } else { 1 };
        Source {
            x: &x.x,
            dx: activated.dx.as_ref(),
            norm: Some(norm),
            activation: norm.activation(),
            upsample,
            n: x.n,
            h: product([scale, x.h]),
            w: product([scale, x.w]),
        }
    }

    pub(super) fn prologue(&self) -> Prologue<'_> {
        let scale_shift = self.norm.map(|norm| (norm.tables().scale, norm.tables().shift));
        Prologue { scale_shift, activation: self.activation, upsample: self.upsample }
    }

    /// What decides the derivative of a (leaky) ReLU that nothing but this convolution applies: its input, and its
    /// slope below zero. The activation of a norm is not here: the norm's own backward pass takes its derivative.
    pub(super) fn mask(&self) -> Option<(&'a Reals, f32)> {
        match (self.norm, self.activation) {
            (None, Activation::LeakyRelu(slope)) => Some((self.x, slope)),
            _ => None,
        }
    }
}

/// What a convolution writes: `y = act(pool(z) + bias + residual)`, where z is the product, or the same added to `y`.
pub struct Target<'a> {
    pub y: &'a Value,
    pub residual: Option<&'a Reals>,
    pub activation: Activation,
    pub pool: bool,
    pub accumulate: bool,
}

impl<'a> Target<'a> {
    pub fn new(y: &'a Value) -> Target<'a> {
        Target { y, residual: None, activation: Activation::Identity, pool: false, accumulate: false }
    }

    /// From `dy`, the gradient of the product's output, times the sample's number in `seeds`.
    pub(super) fn gradient<'b>(&'b self, dy: &'b Reals, seeds: Option<&'b Reals>) -> ConvGradient<'b> {
        let output = OutputGradient { dy, y: Some(&self.y.x), activation: self.activation, row_scale: seeds };
        ConvGradient { output, pooled: self.pool }
    }
}
