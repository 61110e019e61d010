//! Tangents: the gradient of a gradient's direction without second derivatives.
//!
//! Where a network is piecewise linear in its input, its gradient g with respect to that input is a product of the
//! layers' matrices, with the masks of the (leaky) ReLUs between them. So for a direction v the derivative of v . g by
//! a layer's weight is the product of two vectors: the backward signal at the layer's output, which was computed on the
//! way to g, and v pushed forward to the layer's input through the same masks, without the biases.
//!
//! A tangent needs the tensors that a sample needs, so tangents are rows of the batch like samples.

use std::ops::Range;

use super::Value;
use crate::device::Buffer;

/// What a tangent is pushed forward with, after a forward and a backward pass of `rows`.
pub struct Tangent<'a> {
    pub weights: &'a Buffer<f32>,
    /// As of a forward pass.
    pub factors: Option<&'a Buffer<f32>>,
    /// Flat, as the parameters; accumulate.
    pub gradients: &'a Buffer<f32>,
    /// The samples, whose activations decide the masks and whose gradients are the backward signal.
    pub rows: Range<usize>,
    /// As many rows that hold the tangents: of the network's input it is given. Their gradients are scratch.
    pub into: Range<usize>,
}

impl<'a> Tangent<'a> {
    /// What a product with `x` multiplies with.
    pub(super) fn factors(&self, x: &Buffer<f32>) -> &'a Buffer<f32> {
        super::factors(self.weights, self.factors, x)
    }

    /// The tangent of a value, and the backward signal of the samples that it belongs to.
    pub(super) fn of(&self, value: &Value) -> Value {
        Value { dx: value.rows(&self.rows).dx, ..value.rows(&self.into) }
    }

    /// What the samples' forward pass left.
    pub(super) fn saved(&self, value: &Value) -> Buffer<f32> {
        value.rows(&self.rows).x
    }

    /// As [`Tangent::of`], on memory for a tangent before or after a mask.
    pub(super) fn scratch(&self, value: &Value) -> Option<Value> {
        let (x, of) = (value.rows(&self.into).dx?, self.of(value));
        Some(Value { x, ..of })
    }
}
