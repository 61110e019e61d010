//! Tangents: the derivative of an input gradient in one direction, without second derivatives.
//!
//! Where a network is piecewise linear in its input, its gradient g with respect to that input is a product of the
//! layers' matrices, with the masks of the (leaky) ReLUs between them. So for a direction v, the derivative of v . g by
//! a layer's weight is the product of two vectors. One is the backward signal at the layer's output, which was computed
//! on the way to g. The other is the tangent: v pushed forward to the layer's input through the same masks, without the
//! biases.
//!
//! A tangent needs the same tensors as a sample, so tangents are rows of the batch like samples.

use std::ops::Range;

use super::{PassWeights, Value};
use crate::Result;
use crate::device::Reals;

/// What a tangent is pushed forward with, after a forward and a backward pass of `rows`.
pub struct Tangent<'a> {
    pub weights: PassWeights<'a>,
    /// Flat, as the parameters; added to.
    pub gradients: &'a Reals,
    /// The samples, whose activations decide the masks and whose gradients are the backward signal.
    pub rows: Range<usize>,
    /// As many rows, which hold the tangents. Those of the network's input are given; the others are computed. The
    /// gradients of these rows are free for what is stored on the way.
    pub into: Range<usize>,
}

impl Tangent<'_> {
    /// The tangent of a value, and the backward signal of the samples that it belongs to.
    pub(super) fn of(&self, value: &Value) -> Value {
        Value { dx: value.rows(&self.rows).dx, ..value.rows(&self.into) }
    }

    /// What the samples' forward pass left.
    pub(super) fn saved(&self, value: &Value) -> Reals {
        value.rows(&self.rows).x
    }

    /// As [`Tangent::of`], on other memory: for the tangent before (or after) a mask of this layer.
    pub(super) fn scratch(&self, layer: &str, value: &Value) -> Result<Value> {
        let x = value.rows(&self.into).gradient(layer, "a value whose tangent is masked")?.clone();
        Ok(Value { x, ..self.of(value) })
    }
}
