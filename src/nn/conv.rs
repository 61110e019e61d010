//! A convolution, with what is fused into its reading and its writing.

use super::unfused::UnfusedConv;
use super::{Backward, Builder, Forward, Init, Parameter, Source, Tangent, Target, Value};
use crate::Result;
use crate::device::Reals;
use crate::ops::conv::{self, ConvGradient, Epilogue, Filters, InputEpilogue, Parts, Prologue};
use crate::ops::spectral_norm::Outputs;
use crate::sizes::product;

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
        let init = Init::GlorotUniform { fan_in: product([r, r, c]), fan_out: product([r, r, k]), gain };
        ConvOptions { r, c, k, init, bias: Some(Init::Constant(0.0)) }
    }

    /// PyTorch's default.
    pub fn pytorch(r: usize, c: usize, k: usize) -> ConvOptions {
        let init = Init::FanIn { fan_in: product([r, r, c]) };
        ConvOptions { r, c, k, init, bias: Some(init) }
    }

    /// The convolution of `n` samples in which the filters see `h` x `w` pixels.
    fn sizes(&self, n: usize, h: usize, w: usize) -> conv::Conv {
        let ConvOptions { r, c, k, .. } = *self;
        conv::Conv { n, h, w, c, k, r, s: r, pad: [r / 2; 2], stride: 1 }
    }
}

/// A convolution's parameters and the workspaces of its gradients.
pub struct Conv {
    /// For messages: `block1.conv2`.
    name: String,
    options: ConvOptions,
    weight: Parameter,
    bias: Option<Parameter>,
    /// Room for what is made of the filters, to multiply by.
    made: Reals,
    parts: Reals,
    unfused: Option<UnfusedConv>,
}

impl Conv {
    /// `seen` has the number of samples, the height and the width that the filters see.
    pub fn new(build: &mut Builder, name: &str, options: ConvOptions, seen: &Value) -> Result<Conv> {
        let ConvOptions { r, c, k, init, bias } = options;
        let weight = build.parameters.weight(&format!("{name}.weight"), &[r, r, c, k], init, Outputs::Columns);
        let bias = bias.map(|init| build.parameters.tensor(&format!("{name}.bias"), &[k], init));
        let [mut made, mut parts] = [0; 2];
        let device = build.arena.device();
        // A pass over some of the samples may split its work otherwise than one over all, and need more.
        for n in 1..=seen.n {
            let sizes = options.sizes(n, seen.h, seen.w);
            made = made.max(conv::forward_workspace_len(device, &sizes));
            if build.gradients {
                made = made.max(conv::input_gradient_workspace_len(device, &sizes));
                parts = parts.max(conv::weight_gradient_workspace_len(device, &sizes));
            }
        }
        Ok(Conv {
            name: name.to_string(),
            options,
            weight,
            bias,
            made: build.arena.take_in(made, build.precision)?,
            parts: build.arena.take(parts)?,
            unfused: UnfusedConv::new(build, seen, k)?,
        })
    }

    fn sizes(&self, from: &Source) -> conv::Conv {
        self.options.sizes(from.n, from.h, from.w)
    }

    pub fn forward(&self, pass: &Forward, from: &Source, to: &Target) -> Result<()> {
        let bias = self.bias.map(|bias| bias.of(pass.weights.values));
        self.apply(&self.weight.of(pass.weights.for_products_with(from.x)), bias.as_ref(), from, to, pass.rows.start)
    }

    /// `first` is the number of the first sample.
    fn apply(&self, weight: &Reals, bias: Option<&Reals>, from: &Source, to: &Target, first: usize) -> Result<()> {
        let sizes = self.sizes(from);
        let room = self.made.view(0..conv::forward_workspace_len(to.y.x.device(), &sizes));
        let weight = Filters { values: weight, room: Some(&room) };
        if let Some(unfused) = &self.unfused {
            return unfused.forward(sizes, (weight, bias), from, to, first);
        }
        let Target { residual, activation, pool, accumulate, .. } = *to;
        let epilogue = Epilogue { bias, residual, activation, pool, accumulate };
        conv::conv_forward(sizes, &to.y.x, from.x, weight, &from.prologue(), &epilogue)
    }

    /// From the tangent of what is read to the tangent of what is written; a bias has no part in it. Adds to the
    /// gradient of the filters, with the backward signal in `to`.
    pub fn tangent(&self, pass: &Tangent, from: &Source, to: &Target) -> Result<()> {
        self.apply(&self.weight.of(pass.weights.for_products_with(from.x)), None, from, to, pass.into.start)?;
        let gradient = to.gradient(to.y.gradient(&self.name, "its output")?, None);
        self.weight_gradient(pass.gradients, self.sizes(from), (from.x, &from.prologue()), &gradient, None)?.add()
    }

    fn weight_gradient(
        &self,
        gradients: &Reals,
        sizes: conv::Conv,
        (x, prologue): (&Reals, &Prologue),
        gradient: &ConvGradient,
        dbias: Option<&Reals>,
    ) -> Result<Parts> {
        let parts = self.parts.view(0..conv::weight_gradient_workspace_len(gradients.device(), &sizes));
        conv::conv_weight_gradient(sizes, (&self.weight.of(gradients), dbias), x, prologue, gradient, &parts)
    }

    /// All gradients of one set of rows. That of the input is overwritten or added to.
    pub fn backward(&self, pass: &Backward, from: &Source, to: &Target, accumulate: bool) -> Result<()> {
        let left = self.parameter_gradients(pass, from, to)?;
        self.input_gradient(pass, from, to, accumulate, left)
    }

    /// Adds to the gradients of the filters and the bias, but for the parts that it returns. `from` and `to` are the pass's
    /// rows.
    pub fn parameter_gradients(&self, pass: &Backward, from: &Source, to: &Target) -> Result<Parts> {
        // A pass without them is for the signal alone.
        let Some(gradients) = pass.gradients else { return Ok(Parts::NONE) };
        let (sizes, seeds) = (self.sizes(from), pass.seeds_of_parameters());
        let gradient = to.gradient(to.y.gradient(&self.name, "its output")?, seeds.as_ref());
        let (stored_gradient, stored_input) = match &self.unfused {
            Some(unfused) => {
                (unfused.product_gradient(&sizes, gradient)?, unfused.stored_input(&sizes, from, pass.rows.start))
            }
            None => (None, None),
        };
        let gradient = stored_gradient.as_ref().map_or(gradient, ConvGradient::stored);
        let input = stored_input.as_ref().map_or((from.x, from.prologue()), |stored| (stored, Prologue::NONE));
        let dbias = self.bias.map(|bias| bias.of(gradients));
        self.weight_gradient(gradients, sizes, (input.0, &input.1), &gradient, dbias.as_ref())
    }

    /// The gradient of what was read or, where that went through a ReLU, of the ReLU's input; overwritten or added to. Adds
    /// the parts that [`Conv::parameter_gradients`] left.
    pub fn input_gradient(
        &self,
        pass: &Backward,
        from: &Source,
        to: &Target,
        accumulate: bool,
        left: Parts,
    ) -> Result<()> {
        // A network's input, whose gradient nobody asks for.
        let Some(dx) = from.dx else { return left.add() };
        let (sizes, seeds) = (self.sizes(from), pass.seeds_of_signal(&(0..from.n)));
        let gradient = to.gradient(to.y.gradient(&self.name, "its output")?, seeds.as_ref());
        let filters = self.weight.of(pass.weights.for_products_with(dx));
        let room = self.made.view(0..conv::input_gradient_workspace_len(dx.device(), &sizes));
        if let Some(unfused) = &self.unfused {
            left.add()?;
            return unfused.input_gradient(sizes, (dx, from), gradient, &filters, accumulate, &room);
        }
        let epilogue = InputEpilogue { mask: from.mask(), upsample: from.upsample, accumulate };
        conv::conv_input_gradient(sizes, dx, &gradient, &filters, &epilogue, &room, left)
    }
}
