//! Layers: parameters, saved activations, forward and backward side by side.
//!
//! A layer is built for one batch size, on buffers that are placed once ([`Arena`]). Its forward pass reads its input
//! [`Value`] and writes its output's; its backward pass reads the gradient of the output, *adds* to the gradients of
//! the layer's parameters and *overwrites* the gradient of its input. A network is a list of layers; its backward pass
//! walks the list in reverse.
//!
//! Only the input of a network may be without a gradient, where nobody asks for it: the first layer then leaves that
//! one out. Everywhere else a missing gradient is an error ([`Value::gradient`]): the network was built for forward
//! passes alone.

mod arena;
mod attention;
mod class_head;
mod conv;
mod endpoints;
mod fusion;
mod head;
mod labels;
mod linear;
mod norm;
pub mod parameters;
mod residual;
mod tangent;
mod unfused;
mod vectors;
mod widen;

use std::ops::Range;

pub use arena::Arena;
pub use attention::Attention;
pub use class_head::{ClassHead, ClassHeadOptions};
pub(crate) use conv::Conv;
pub use conv::ConvOptions;
pub(crate) use endpoints::{Source, Target};
pub use fusion::Fusion;
pub use head::{HeadOptions, HeadParts, ProjectionHead};
pub use labels::ConcatLabels;
pub use linear::Linear;
pub use norm::{BatchNorm, Norm, NormOptions};
pub use parameters::{Init, Layout, Parameter};
pub use residual::{DownBlock, DownOptions, ToImage, UpBlock, UpOptions};
pub use tangent::Tangent;
pub use vectors::{ClassRows, Labels};
pub use widen::Widen;

use crate::device::{Precision, Reals, nvtx};
use crate::ops::resample::Image;
use crate::sizes::product;
use crate::{Error, Result};

/// A tensor between two layers, (N, H, W, C) or, for linear layers, (N, 1, 1, C).
#[derive(Clone)]
pub struct Value {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    /// (N, H, W, C)
    pub x: Reals,
    /// The gradient with respect to `x`, of the same shape. Of a discriminator's logits it holds 1 for each sample (or
    /// the loss scale) instead, where [`Backward`] is to bring the loss's own derivative in: its `parameter_seeds` and
    /// `signal_seeds`.
    pub dx: Option<Reals>,
}

impl Value {
    /// Numbers per sample.
    pub fn features(&self) -> usize {
        product([self.h, self.w, self.c])
    }

    /// The gradient of the value that a layer calls `name`, which its backward pass cannot do without.
    pub fn gradient(&self, layer: &str, name: &str) -> Result<&Reals> {
        let missing =
            || format!("layer {layer}: there is no gradient of {name}; it was built for forward passes alone");
        self.dx.as_ref().ok_or_else(|| Error::Shape(missing()))
    }

    /// The shape, as the operations on pixels take it.
    pub(crate) fn image(&self) -> Image {
        Image { n: self.n, h: self.h, w: self.w, c: self.c }
    }

    /// Some of the samples.
    pub fn rows(&self, rows: &Range<usize>) -> Value {
        let f = self.features();
        let part = |buffer: &Reals| buffer.view(rows.start * f..rows.end * f);
        Value { n: rows.len(), x: part(&self.x), dx: self.dx.as_ref().map(part), ..*self }
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

/// The parameters of a pass, flat: as they are, their average, or their spectrally normalised form.
#[derive(Clone, Copy)]
pub struct PassWeights<'a> {
    pub values: &'a Reals,
    /// `values` rounded to the precision of 16-bit activations, for the products with those. None where activations
    /// have 32 bits.
    pub rounded: Option<&'a Reals>,
}

impl<'a> From<&'a Reals> for PassWeights<'a> {
    fn from(values: &'a Reals) -> PassWeights<'a> {
        PassWeights { values, rounded: None }
    }
}

impl<'a> PassWeights<'a> {
    /// Those that a product with `x`, or with its gradient, takes.
    pub fn for_products_with(&self, x: &Reals) -> &'a Reals {
        self.rounded.filter(|_| x.precision().bytes() == 2).unwrap_or(self.values)
    }
}

/// What a forward pass is run with.
pub struct Forward<'a> {
    pub weights: PassWeights<'a>,
    /// Flat: running statistics.
    pub running: &'a Reals,
    pub mode: Mode,
    /// The samples that take part. A layer that couples samples takes them all.
    pub rows: Range<usize>,
}

/// What a backward pass is run with.
pub struct Backward<'a> {
    pub weights: PassWeights<'a>,
    /// Flat, as the parameters; none where only the signal is wanted.
    pub gradients: Option<&'a Reals>,
    /// (N): D's seeds, the derivative of its loss by each logit, where the backward signal itself starts from ones.
    /// They multiply each sample's part in every parameter gradient and nothing else, so that the same signal can go on
    /// to G, whose loss has other seeds.
    pub parameter_seeds: Option<&'a Reals>,
    /// (N): G's seeds, in G's own pass: they multiply each sample's incoming signal, at the last layer of the network.
    pub signal_seeds: Option<&'a Reals>,
    /// The samples that take part.
    pub rows: Range<usize>,
    /// The samples whose input gradient is wanted; empty where it is wanted of none.
    pub input_rows: Range<usize>,
}

impl<'a> Backward<'a> {
    /// A pass without seeds, which also wants the input gradients of all its samples.
    pub fn of(weights: impl Into<PassWeights<'a>>, gradients: Option<&'a Reals>, rows: Range<usize>) -> Backward<'a> {
        let (weights, input_rows) = (weights.into(), rows.clone());
        Backward { weights, gradients, parameter_seeds: None, signal_seeds: None, rows, input_rows }
    }

    /// What each sample's part in a layer's parameter gradients is multiplied with.
    pub fn seeds_of_parameters(&self) -> Option<Reals> {
        self.signal_seeds.or(self.parameter_seeds).map(|seeds| seeds.view(self.rows.clone()))
    }

    /// What the incoming signal of these samples is multiplied with.
    pub fn seeds_of_signal(&self, rows: &Range<usize>) -> Option<Reals> {
        self.signal_seeds.map(|seeds| seeds.view(rows.clone()))
    }

    /// The gradient of a layer's input `x`, of the samples of `input_rows`. None where nobody asks for it: there are no
    /// such samples, or `x` is the input of the network and was placed without a gradient.
    pub fn input_gradient(&self, x: &Value) -> Option<Reals> {
        if self.input_rows.is_empty() { None } else { x.rows(&self.input_rows).dx }
    }
}

/// A step of a network.
pub trait Layer: Send {
    fn forward(&self, pass: &Forward) -> Result<()>;

    fn backward(&self, pass: &Backward) -> Result<()>;

    /// From the tangent of the input to that of the output; adds its part to the parameters' gradients, see
    /// [`Tangent`]. Only for layers that are [`Layer::piecewise_linear`].
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
    /// How many of the first layers do not learn: backward passes leave out the gradients of their parameters.
    pub frozen: usize,
}

impl Network {
    pub fn forward(&self, pass: &Forward) -> Result<()> {
        self.layers.iter().try_for_each(|layer| {
            let _range = nvtx::range(|| format!("{} forward", layer.name()));
            layer.forward(pass)
        })
    }

    /// The list of the forward pass reversed. Only the last layer sees the signal's seeds, and only the first one the
    /// choice of input rows: the layers between them pass the signal of all rows on. Where no signal is wanted at the input,
    /// the pass ends at the lowest layer that learns.
    pub fn backward(&self, pass: &Backward) -> Result<()> {
        let last = self.layers.len() - 1;
        let first = if pass.input_rows.is_empty() { self.frozen.min(last) } else { 0 };
        for (i, layer) in self.layers.iter().enumerate().skip(first).rev() {
            let _range = nvtx::range(|| format!("{} backward", layer.name()));
            layer.backward(&Backward {
                gradients: pass.gradients.filter(|_| i >= self.frozen),
                signal_seeds: pass.signal_seeds.filter(|_| i == last),
                rows: pass.rows.clone(),
                input_rows: if i == first { pass.input_rows.clone() } else { pass.rows.clone() },
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
    /// Whether a backward pass will be run, and so whether values have gradients.
    pub gradients: bool,
    /// The fusions that the network does without: their parts are run as separate kernels.
    pub unfused: &'a [Fusion],
    /// The precision of activations and their gradients. Statistics, tables, partial sums and logits are always f32.
    pub precision: Precision,
    /// Of a rank's share of a batch, whose norms take the statistics of the whole: the samples of all ranks.
    pub whole: Option<usize>,
}

impl<'a> Builder<'a> {
    /// For layers that will be trained, in f32, with every fusion.
    pub fn new(parameters: &'a mut Layout, running: &'a mut Layout, arena: &'a mut Arena) -> Builder<'a> {
        Builder { parameters, running, arena, gradients: true, unfused: &[], precision: Precision::F32, whole: None }
    }

    #[track_caller]
    pub fn value(&mut self, n: usize, h: usize, w: usize, c: usize) -> Result<Value> {
        self.value_in(self.precision, [n, h, w, c])
    }

    /// A value in f32, whatever the precision is: what losses read, and the pooled features that they are made of.
    #[track_caller]
    pub fn exact_value(&mut self, n: usize, h: usize, w: usize, c: usize) -> Result<Value> {
        self.value_in(Precision::F32, [n, h, w, c])
    }

    #[track_caller]
    fn value_in(&mut self, precision: Precision, [n, h, w, c]: [usize; 4]) -> Result<Value> {
        let len = product([n, h, w, c]);
        let dx = self.gradient(len, precision)?;
        Ok(Value { n, h, w, c, x: self.arena.take_in(len, precision)?, dx })
    }

    /// A value of the shape of `like` that nobody stores: whoever reads it computes it from `like`, whose `x` it has.
    /// Its gradient has memory of its own.
    #[track_caller]
    pub fn gradient_only(&mut self, like: &Value) -> Result<Value> {
        Ok(Value { dx: self.gradient(product([like.n, like.features()]), self.precision)?, ..like.clone() })
    }

    #[track_caller]
    fn gradient(&mut self, len: usize, precision: Precision) -> Result<Option<Reals>> {
        if self.gradients { self.arena.take_in(len, precision).map(Some) } else { Ok(None) }
    }
}
