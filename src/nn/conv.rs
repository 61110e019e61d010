//! A convolution with what is fused into its reading and its writing.

use super::apart::Apart;
use super::{Backward, Builder, Forward, Init, Norm, Parameter, Tangent, Value};
use crate::Result;
use crate::device::Buffer;
use crate::ops::Activation;
use crate::ops::conv::{self, ConvGradient, Epilogue, InputEpilogue, Prologue};
use crate::ops::matmul::OutputGradient;
use crate::ops::spectral_norm::Outputs;

/// Filters (R, R, C, K), padding R / 2, stride 1: the output has the input's height and width.
#[derive(Clone, Copy)]
pub struct ConvOptions {
    pub r: usize,
    pub c: usize,
    pub k: usize,
    pub init: Init,
    pub bias: Option<Init>,
}

impl ConvOptions {
    /// Glorot uniform, gain sqrt 2 on 3x3 and 1 on 1x1; bias 0.
    pub fn residual(r: usize, c: usize, k: usize) -> ConvOptions {
        let gain = if r == 1 { 1.0 } else { std::f32::consts::SQRT_2 };
        let init = Init::GlorotUniform { fan_in: r * r * c, fan_out: r * r * k, gain };
        ConvOptions { r, c, k, init, bias: Some(Init::Constant(0.0)) }
    }

    /// PyTorch's default.
    pub fn pytorch(r: usize, c: usize, k: usize) -> ConvOptions {
        let init = Init::FanIn { fan_in: r * r * c };
        ConvOptions { r, c, k, init, bias: Some(init) }
    }
}

/// What a convolution reads: `act(x)` or, through a norm's tables, `act(scale x + shift)`, upsampled where wanted.
pub struct Source<'a> {
    pub(super) x: &'a Buffer<f32>,
    /// Where the gradient of what is read goes: the one of `x` itself, or, through a norm, that of the normalised value.
    dx: Option<&'a Buffer<f32>>,
    pub(super) norm: Option<&'a Norm>,
    pub(super) activation: Activation,
    pub(super) upsample: bool,
    n: usize,
    h: usize,
    w: usize,
}

impl<'a> Source<'a> {
    pub fn plain(x: &'a Value) -> Source<'a> {
        Source::activated(x, Activation::Identity)
    }

    /// A ReLU or nothing; the gradient is that of `x`, before it.
    pub fn activated(x: &'a Value, activation: Activation) -> Source<'a> {
        let Value { n, h, w, .. } = *x;
        Source { x: &x.x, dx: x.dx.as_ref(), norm: None, activation, upsample: false, n, h, w }
    }

    /// `x` through a norm and its activation; the gradient is that of `activated`, after them, summed over the pixels
    /// that one became. Of a norm that is run apart, `activated` holds the values (and upsampling is not done here).
    pub fn normalised(activated: &'a Value, x: &'a Value, norm: &'a Norm, upsample: bool) -> Source<'a> {
        if norm.is_apart() {
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
            h: scale * x.h,
            w: scale * x.w,
        }
    }

    pub(super) fn prologue(&self) -> Prologue<'_> {
        let scale_shift = self.norm.map(|norm| (norm.tables().scale, norm.tables().shift));
        Prologue { scale_shift, activation: self.activation, upsample: self.upsample }
    }
}

/// What a convolution writes: `y = act(pool(z) + bias + residual)`, or added to `y`.
pub struct Target<'a> {
    pub y: &'a Value,
    pub residual: Option<&'a Buffer<f32>>,
    pub activation: Activation,
    pub pool: bool,
    pub accumulate: bool,
}

impl<'a> Target<'a> {
    pub fn new(y: &'a Value) -> Target<'a> {
        Target { y, residual: None, activation: Activation::Identity, pool: false, accumulate: false }
    }

    /// The effective output gradient, times `scale` per sample.
    fn gradient<'b>(&'b self, dy: &'b Buffer<f32>, scale: Option<&'b Buffer<f32>>) -> ConvGradient<'b> {
        let output = OutputGradient { dy, y: Some(&self.y.x), activation: self.activation, row_scale: scale };
        ConvGradient { output, pooled: self.pool }
    }
}

/// A convolution's parameters and the workspaces of its gradients.
pub struct Conv {
    r: usize,
    c: usize,
    k: usize,
    weight: Parameter,
    bias: Option<Parameter>,
    flipped: Buffer<f32>,
    weight_parts: Buffer<f32>,
    bias_parts: Buffer<f32>,
    apart: Option<Apart>,
}

impl Conv {
    /// `seen` has the number of samples, the height and the width that the filter sees.
    pub fn new(build: &mut Builder, name: &str, options: ConvOptions, seen: &Value) -> Result<Conv> {
        let ConvOptions { r, c, k, init, bias } = options;
        let weight = build.parameters.weight(&format!("{name}.weight"), &[r, r, c, k], init, Outputs::Columns);
        let bias = bias.map(|init| build.parameters.tensor(&format!("{name}.bias"), &[k], init));
        let mut workspaces = [0; 3];
        if build.gradients {
            let device = build.arena.device();
            // Some of the samples may take another split than all of them.
            for n in 1..=seen.n {
                let sizes = conv::Conv { n, h: seen.h, w: seen.w, c, k, r, s: r, pad: r / 2, stride: 1 };
                let needed = [
                    conv::input_gradient_workspace_len(&sizes),
                    conv::weight_gradient_workspace_len(device, &sizes),
                    conv::bias_gradient_workspace_len(device, &sizes),
                ];
                workspaces = std::array::from_fn(|i| workspaces[i].max(needed[i]));
            }
        }
        let [flipped, weight_parts, bias_parts] = workspaces;
        Ok(Conv {
            r,
            c,
            k,
            weight,
            bias,
            flipped: build.arena.take_in(flipped, build.precision)?,
            weight_parts: build.arena.take(weight_parts)?,
            bias_parts: build.arena.take(bias_parts)?,
            apart: Apart::new(build, seen, k)?,
        })
    }

    fn sizes(&self, from: &Source) -> conv::Conv {
        let Conv { r, c, k, .. } = *self;
        conv::Conv { n: from.n, h: from.h, w: from.w, c, k, r, s: r, pad: r / 2, stride: 1 }
    }

    pub fn forward(&self, pass: &Forward, from: &Source, to: &Target) -> Result<()> {
        let bias = self.bias.map(|bias| bias.of(pass.weights));
        self.apply(&self.weight.of(pass.factors(from.x)), bias.as_ref(), from, to, pass.rows.start)
    }

    /// `first` is the number of the first sample.
    fn apply(
        &self,
        weight: &Buffer<f32>,
        bias: Option<&Buffer<f32>>,
        from: &Source,
        to: &Target,
        first: usize,
    ) -> Result<()> {
        if let Some(apart) = &self.apart {
            return apart.forward(self.sizes(from), (weight, bias), from, to, first);
        }
        let Target { residual, activation, pool, accumulate, .. } = *to;
        let epilogue = Epilogue { bias, residual, activation, pool, accumulate };
        conv::conv_forward(self.sizes(from), &to.y.x, from.x, weight, &from.prologue(), &epilogue)
    }

    /// From the tangent of what is read to that of what is written; a bias has none. Adds to the gradient of the
    /// filters, with the backward signal in `to`.
    pub fn tangent(&self, pass: &Tangent, from: &Source, to: &Target) -> Result<()> {
        self.apply(&self.weight.of(pass.factors(from.x)), None, from, to, pass.into.start)?;
        to.y.dx.as_ref().map_or(Ok(()), |dy| self.filters_gradient(pass.gradients, from, &to.gradient(dy, None)))
    }

    fn filters_gradient(&self, gradients: &Buffer<f32>, from: &Source, gradient: &ConvGradient) -> Result<()> {
        let (sizes, device) = (self.sizes(from), gradients.device());
        let parts = self.weight_parts.view(0..conv::weight_gradient_workspace_len(device, &sizes));
        let (dfilters, prologue) = (self.weight.of(gradients), from.prologue());
        conv::conv_weight_gradient(sizes, &dfilters, from.x, &prologue, gradient, &parts)
    }

    /// Adds to the gradients of the filters and the bias, where they are wanted. `from` and `to` are the pass's rows.
    pub fn backward_parameters(&self, pass: &Backward, from: &Source, to: &Target) -> Result<()> {
        let (Some(gradients), Some(dy)) = (pass.gradients, &to.y.dx) else { return Ok(()) };
        let (sizes, device) = (self.sizes(from), dy.device());
        let scale = pass.scale_of_parameters();
        let gradient = to.gradient(dy, scale.as_ref());
        let bias_parts = self.bias_parts.view(0..conv::bias_gradient_workspace_len(device, &sizes));
        let dbias = self.bias.map(|bias| bias.of(gradients));
        if let Some(apart) = &self.apart {
            let parts = self.weight_parts.view(0..conv::weight_gradient_workspace_len(device, &sizes));
            let filters = (&self.weight.of(gradients), &parts);
            let bias = dbias.as_ref().map(|dbias| (dbias, &bias_parts));
            return apart.backward_parameters(sizes, filters, bias, from, gradient, pass.rows.start);
        }
        self.filters_gradient(gradients, from, &gradient)?;
        dbias.map_or(Ok(()), |dbias| conv::conv_bias_gradient(sizes, &dbias, &gradient, &bias_parts))
    }

    /// The gradient of what was read, or of what a ReLU read; overwritten or added.
    pub fn backward_input(&self, pass: &Backward, from: &Source, to: &Target, accumulate: bool) -> Result<()> {
        let (Some(dx), Some(dy)) = (from.dx, &to.y.dx) else { return Ok(()) };
        let scale = pass.scale_of_signal(&(0..from.n));
        if let Some(apart) = &self.apart {
            let (gradient, filters) = (to.gradient(dy, scale.as_ref()), self.weight.of(pass.weights));
            return apart.backward_input(self.sizes(from), (dx, from), gradient, &filters, accumulate, &self.flipped);
        }
        let mask = match (from.norm, from.activation) {
            (None, Activation::LeakyRelu(slope)) => Some((from.x, slope)),
            _ => None,
        };
        conv::conv_input_gradient(
            self.sizes(from),
            dx,
            &to.gradient(dy, scale.as_ref()),
            &self.weight.of(pass.factors(dx)),
            &InputEpilogue { mask, upsample: from.upsample, accumulate },
            &self.flipped,
        )
    }
}
