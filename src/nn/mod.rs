//! Layers: parameters, saved activations, forward and backward side by side.
//!
//! A layer is built for one batch size, on buffers that are placed once ([`Arena`]). Its forward reads its input
//! [`Value`] and writes its output's; its backward reads the output's gradient, *adds* to the gradients of its
//! parameters and *overwrites* the gradient of its input. A network is a list of layers; its backward walks it in
//! reverse.

mod apart;
mod arena;
mod attention;
mod class_head;
mod conv;
mod fusion;
mod head;
mod labels;
mod linear;
mod norm;
pub mod parameters;
mod residual;
mod tangent;
mod widen;

use std::ops::Range;

pub use arena::Arena;
pub use attention::Attention;
pub use class_head::{ClassHead, ClassHeadOptions};
pub use conv::ConvOptions;
pub(crate) use conv::{Conv, Source, Target};
pub use fusion::Fusion;
pub use head::{HeadOptions, ProjectionHead};
pub use labels::{ConcatEmbedding, ConcatLabels};
pub use linear::Linear;
pub use norm::{BatchNorm, Norm, NormOptions};
pub use parameters::{Init, Layout, Parameter};
pub use residual::{DownBlock, DownOptions, ToImage, UpBlock, UpOptions};
pub use tangent::Tangent;
pub use widen::Widen;

use crate::device::{Buffer, Precision};
use crate::ops::resample::Image;
use crate::{Error, Result};

/// A tensor between two layers, (N, H, W, C) or, for linear layers, (N, 1, 1, C).
#[derive(Clone)]
pub struct Value {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    /// (N, H, W, C)
    pub x: Buffer<f32>,
    /// The gradient with respect to `x`, of the same shape; none where nobody asks for it.
    pub dx: Option<Buffer<f32>>,
}

impl Value {
    /// Numbers per sample.
    pub fn features(&self) -> usize {
        self.h * self.w * self.c
    }

    /// The shape, as the operations on pixels take it.
    pub(crate) fn image(&self) -> Image {
        Image { n: self.n, h: self.h, w: self.w, c: self.c }
    }

    /// Some of the samples.
    pub fn rows(&self, rows: &Range<usize>) -> Value {
        let f = self.features();
        let part = |buffer: &Buffer<f32>| buffer.view(rows.start * f..rows.end * f);
        Value { n: rows.len(), x: part(&self.x), dx: self.dx.as_ref().map(part), ..*self }
    }

    /// The same numbers under another shape per sample.
    pub fn reshaped(&self, h: usize, w: usize, c: usize) -> Value {
        assert_eq!(self.features(), h * w * c, "a reshape keeps the number of features");
        Value { h, w, c, ..self.clone() }
    }
}

/// Whether batch statistics come from the batch or from the running ones.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mode {
    /// From the batch; the running statistics follow with this momentum.
    Train {
        momentum: f32,
    },
    Evaluate,
}

/// What a forward pass is run with.
pub struct Forward<'a> {
    /// Flat: the parameters, their average, or their spectrally normalised form.
    pub weights: &'a Buffer<f32>,
    /// `weights` as products with 16-bit activations take them, rounded to that precision; none where there are no such.
    pub factors: Option<&'a Buffer<f32>>,
    /// Flat: running statistics.
    pub running: &'a Buffer<f32>,
    pub mode: Mode,
    /// The samples that take part. A layer that couples samples takes them all.
    pub rows: Range<usize>,
}

impl<'a> Forward<'a> {
    /// What a product with `x` multiplies with.
    pub fn factors(&self, x: &Buffer<f32>) -> &'a Buffer<f32> {
        factors(self.weights, self.factors, x)
    }
}

fn factors<'a>(weights: &'a Buffer<f32>, rounded: Option<&'a Buffer<f32>>, x: &Buffer<f32>) -> &'a Buffer<f32> {
    rounded.filter(|_| x.precision().bytes() == 2).unwrap_or(weights)
}

/// What a backward pass is run with.
pub struct Backward<'a> {
    pub weights: &'a Buffer<f32>,
    /// `weights` as products with 16-bit activations take them, rounded to that precision; none where there are no such.
    pub factors: Option<&'a Buffer<f32>>,
    /// Flat, as the parameters; none where only the signal is wanted.
    pub gradients: Option<&'a Buffer<f32>>,
    /// (N): multiplies each sample's part in every parameter gradient, and nothing else. With it one pass with seed 1
    /// serves both players.
    pub parameter_scale: Option<&'a Buffer<f32>>,
    /// (N): multiplies each sample's incoming signal; for the last layer of a network alone.
    pub signal_scale: Option<&'a Buffer<f32>>,
    /// The samples that take part.
    pub rows: Range<usize>,
    /// The samples whose input gradient is wanted; none where the range is empty.
    pub input_rows: Range<usize>,
}

impl<'a> Backward<'a> {
    /// What a product with `x`, or its gradient, multiplies with.
    pub fn factors(&self, x: &Buffer<f32>) -> &'a Buffer<f32> {
        factors(self.weights, self.factors, x)
    }

    /// The scale of a layer's parameter gradients.
    pub fn scale_of_parameters(&self) -> Option<Buffer<f32>> {
        self.signal_scale.or(self.parameter_scale).map(|scale| scale.view(self.rows.clone()))
    }

    /// The scale of the signal, for these samples.
    pub fn scale_of_signal(&self, rows: &Range<usize>) -> Option<Buffer<f32>> {
        self.signal_scale.map(|scale| scale.view(rows.clone()))
    }
}

/// A step of a network.
pub trait Layer: Send {
    fn forward(&self, pass: &Forward) -> Result<()>;

    fn backward(&self, pass: &Backward) -> Result<()>;

    /// Pushes a tangent on and adds its part of the parameters' gradients, see [`Tangent`]. Only for layers that are
    /// [`Layer::piecewise_linear`].
    fn tangent(&self, _pass: &Tangent) -> Result<()> {
        Err(Error::Config(format!("layer {} is not piecewise linear: it has no tangent here", self.name())))
    }

    /// Whether the output is piecewise linear in the input, sample by sample.
    fn piecewise_linear(&self) -> bool {
        false
    }

    fn output(&self) -> &Value;

    /// For tables and messages: `block1.linear`.
    fn name(&self) -> &str;
}

/// A list of layers, each reading the output of the one before.
#[derive(Default)]
pub struct Network {
    pub layers: Vec<Box<dyn Layer>>,
}

impl Network {
    pub fn forward(&self, pass: &Forward) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.forward(pass))
    }

    /// The forward's list reversed. Only the last layer sees the signal's scale, only the first one the choice of
    /// input rows.
    pub fn backward(&self, pass: &Backward) -> Result<()> {
        let last = self.layers.len() - 1;
        for (i, layer) in self.layers.iter().enumerate().rev() {
            layer.backward(&Backward {
                signal_scale: pass.signal_scale.filter(|_| i == last),
                rows: pass.rows.clone(),
                input_rows: if i == 0 { pass.input_rows.clone() } else { pass.rows.clone() },
                ..*pass
            })?;
        }
        Ok(())
    }

    /// Pushes a tangent through all layers.
    pub fn tangent(&self, pass: &Tangent) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.tangent(pass))
    }
}

/// Where layers get their parameters and buffers from while a network is built.
pub struct Builder<'a> {
    pub parameters: &'a mut Layout,
    pub running: &'a mut Layout,
    pub arena: &'a mut Arena,
    /// Whether a backward pass will be run.
    pub gradients: bool,
    /// What is run from separate kernels instead of fused ones.
    pub unfused: &'a [Fusion],
    /// Of activations and their gradients. Statistics, tables, parts of sums and logits are f32 whatever it is.
    pub precision: Precision,
}

impl<'a> Builder<'a> {
    /// Of layers that will be trained, in f32 and with all that is fused.
    pub fn new(parameters: &'a mut Layout, running: &'a mut Layout, arena: &'a mut Arena) -> Builder<'a> {
        Builder { parameters, running, arena, gradients: true, unfused: &[], precision: Precision::F32 }
    }

    pub fn value(&mut self, n: usize, h: usize, w: usize, c: usize) -> Result<Value> {
        self.value_in(self.precision, [n, h, w, c])
    }

    /// In f32 whatever the precision is: what losses read, and the pooled features that it is made of.
    pub fn exact_value(&mut self, n: usize, h: usize, w: usize, c: usize) -> Result<Value> {
        self.value_in(Precision::F32, [n, h, w, c])
    }

    fn value_in(&mut self, precision: Precision, [n, h, w, c]: [usize; 4]) -> Result<Value> {
        let len = n * h * w * c;
        let dx = if self.gradients { Some(self.arena.take_in(len, precision)?) } else { None };
        Ok(Value { n, h, w, c, x: self.arena.take_in(len, precision)?, dx })
    }

    /// A tensor of the shape of `like` that nobody stores: whoever reads it computes it from `like`. Its gradient has
    /// memory, its `x` is that of `like`.
    pub fn gradient_only(&mut self, like: &Value) -> Result<Value> {
        let len = like.n * like.features();
        let dx = if self.gradients { Some(self.arena.take_in(len, self.precision)?) } else { None };
        Ok(Value { dx, ..like.clone() })
    }
}
