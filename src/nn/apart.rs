//! A convolution with what surrounds it in kernels of their own: what an eager framework runs.

use super::conv::{Source, Target};
use super::{Builder, Fusion, Value};
use crate::Result;
use crate::device::Buffer;
use crate::ops::conv::{self, Conv, ConvGradient, Epilogue, InputEpilogue, Prologue};
use crate::ops::matmul::OutputGradient;
use crate::ops::resample::{self, Image};
use crate::ops::{Activation, elementary, gradient_penalty};

/// Which of a convolution's surroundings are apart, and room for what then goes through memory.
pub struct Apart {
    reading: bool,
    writing: bool,
    /// (N, H, W, C): the activated input, kept from the forward pass for the gradient of the filters.
    read: Buffer<f32>,
    /// (N, H, W, C) twice: the gradient of what is read, on its way to that of what is stored.
    inputs: [Buffer<f32>; 2],
    /// (N, H, W, K) twice: the product on its way to the output; the output's gradient on its way to the product's.
    outputs: [Buffer<f32>; 2],
}

impl Apart {
    /// None where everything is fused. Filters from `seen` to `k` channels.
    pub fn new(build: &mut Builder, seen: &Value, k: usize) -> Result<Option<Apart>> {
        let apart = |part| build.unfused.contains(&part) || build.unfused.contains(&Fusion::Conv);
        let (reading, writing) = (apart(Fusion::ConvReading), apart(Fusion::ConvWriting));
        if !reading && !writing {
            return Ok(None);
        }
        let (input, output) = (seen.n * seen.features(), seen.n * seen.h * seen.w * k);
        let of = |wanted: bool, len: usize| if wanted { len } else { 0 };
        let backward = build.gradients;
        Ok(Some(Apart {
            reading,
            writing,
            read: build.arena.take(of(reading, input))?,
            inputs: [build.arena.take(of(backward, input))?, build.arena.take(of(backward, input))?],
            outputs: [build.arena.take(of(writing, output))?, build.arena.take(of(writing, output))?],
        }))
    }

    /// An activation alone is taken apart here; a norm's is the norm's.
    fn activates(&self, from: &Source) -> bool {
        self.reading && from.norm.is_none() && from.activation != Activation::Identity
    }

    /// The rows of the activated input that start with sample `first`.
    fn read(&self, sizes: &Conv, first: usize) -> Buffer<f32> {
        let each = sizes.h * sizes.w * sizes.c;
        self.read.view(first * each..(first + sizes.n) * each)
    }

    /// `first` is the number of the first sample of these rows.
    pub fn forward(
        &self,
        sizes: Conv,
        (filters, bias): (&Buffer<f32>, Option<&Buffer<f32>>),
        from: &Source,
        to: &Target,
        first: usize,
    ) -> Result<()> {
        let read;
        let (x, prologue) = match from.activation {
            Activation::LeakyRelu(slope) if self.activates(from) => {
                read = self.read(&sizes, first);
                elementary::leaky_relu(&read, from.x, slope)?;
                (&read, Prologue::NONE)
            }
            _ => (from.x, from.prologue()),
        };
        let Target { y, residual, activation, pool, accumulate } = *to;
        if !self.writing {
            let epilogue = Epilogue { bias, residual, activation, pool, accumulate };
            return conv::conv_forward(sizes, &y.x, x, filters, &prologue, &epilogue);
        }
        // Each stage but the last writes into the scratch that the one before did not.
        let mut left = [bias.is_some(), pool, residual.is_some(), activation != Activation::Identity, accumulate]
            .iter()
            .filter(|stage| **stage)
            .count();
        let (mut turn, len) = (0, sizes.output_len(false));
        let mut next = |len: usize| {
            let to = if left == 0 { y.x.clone() } else { self.outputs[turn % 2].view(0..len) };
            (left, turn) = (left.saturating_sub(1), turn + 1);
            to
        };
        let mut z = next(len);
        conv::conv_forward(sizes, &z, x, filters, &prologue, &Epilogue::NONE)?;
        let mut stage = |len: usize, run: &dyn Fn(&Buffer<f32>, &Buffer<f32>) -> Result<()>| -> Result<()> {
            let to = next(len);
            run(&to, &z)?;
            z = to;
            Ok(())
        };
        if let Some(bias) = bias {
            stage(len, &|to, z| elementary::add_columns(to, z, bias))?;
        }
        if pool {
            let image = Image { n: sizes.n, h: sizes.p(), w: sizes.q(), c: sizes.k };
            stage(y.x.len(), &|to, z| resample::average_pool(to, z, image))?;
        }
        if let Some(residual) = residual {
            stage(y.x.len(), &|to, z| elementary::add(to, z, residual))?;
        }
        match activation {
            Activation::Identity => {}
            Activation::LeakyRelu(slope) => stage(y.x.len(), &|to, z| elementary::leaky_relu(to, z, slope))?,
            Activation::Tanh => {
                stage(y.x.len(), &|to, z| elementary::function(elementary::Function::Tanh, to, z))?;
            }
        }
        if accumulate { stage(y.x.len(), &|to, z| conv::accumulate(to, z)) } else { Ok(()) }
    }

    /// The gradient of the product: through the activation, spread over the pooled pixels, times each sample's scale.
    fn gradient<'a>(&'a self, sizes: &Conv, fused: ConvGradient<'a>) -> Result<Gradient<'a>> {
        if !self.writing {
            return Ok(Gradient::Fused(fused));
        }
        let ConvGradient { output: OutputGradient { dy, y, activation, row_scale }, pooled } = fused;
        let mut g = dy.clone();
        let mut turn = 0;
        let mut next = |len: usize| {
            turn += 1;
            self.outputs[turn % 2].view(0..len)
        };
        match (activation, y) {
            (Activation::LeakyRelu(slope), Some(y)) => {
                let to = next(g.len());
                gradient_penalty::mask(&to, &g, y, slope)?;
                g = to;
            }
            (Activation::Tanh, Some(y)) => {
                let to = next(g.len());
                elementary::tanh_backward(&to, &g, y)?;
                g = to;
            }
            _ => {}
        }
        if pooled {
            let to = next(sizes.output_len(false));
            let image = Image { n: sizes.n, h: sizes.p(), w: sizes.q(), c: sizes.k };
            resample::average_pool_backward(&to, &g, image, false)?;
            g = to;
        }
        if let Some(scale) = row_scale {
            let to = next(g.len());
            elementary::scale_rows(&to, &g, scale)?;
            g = to;
        }
        Ok(Gradient::Product(g))
    }

    /// Adds to the gradients of the filters and the bias.
    pub fn backward_parameters(
        &self,
        sizes: Conv,
        (dfilters, filter_parts): (&Buffer<f32>, &Buffer<f32>),
        bias: Option<(&Buffer<f32>, &Buffer<f32>)>,
        from: &Source,
        gradient: ConvGradient,
        first: usize,
    ) -> Result<()> {
        let gradient = self.gradient(&sizes, gradient)?;
        let gradient = gradient.plain();
        if self.activates(from) {
            let read = self.read(&sizes, first);
            conv::conv_weight_gradient(sizes, dfilters, &read, &Prologue::NONE, &gradient, filter_parts)?;
        } else {
            conv::conv_weight_gradient(sizes, dfilters, from.x, &from.prologue(), &gradient, filter_parts)?;
        }
        let Some((dbias, parts)) = bias else { return Ok(()) };
        conv::conv_bias_gradient(sizes, dbias, &gradient, parts)
    }

    /// The gradient of what is stored: of the product's input, summed where that was upsampled, through the activation.
    pub fn backward_input(
        &self,
        sizes: Conv,
        (dx, from): (&Buffer<f32>, &Source),
        gradient: ConvGradient,
        filters: &Buffer<f32>,
        accumulate: bool,
        flipped: &Buffer<f32>,
    ) -> Result<()> {
        let gradient = self.gradient(&sizes, gradient)?;
        let gradient = gradient.plain();
        let mask = match (from.norm, from.activation) {
            (None, Activation::LeakyRelu(slope)) => Some((from.x, slope)),
            _ => None,
        };
        let apart = mask.filter(|_| self.reading);
        let fused = if apart.is_some() { None } else { mask };
        let separately = self.writing && accumulate;
        let mut g = if apart.is_some() || separately { self.inputs[0].view(0..dx.len()) } else { dx.clone() };
        let epilogue = InputEpilogue {
            mask: fused,
            upsample: from.upsample,
            accumulate: accumulate && !separately && apart.is_none(),
        };
        conv::conv_input_gradient(sizes, &g, &gradient, filters, &epilogue, flipped)?;
        if let Some((x, slope)) = apart {
            let to = if accumulate { self.inputs[1].view(0..dx.len()) } else { dx.clone() };
            gradient_penalty::mask(&to, &g, x, slope)?;
            g = to;
        }
        if accumulate && (apart.is_some() || separately) { conv::accumulate(dx, &g) } else { Ok(()) }
    }
}

/// The gradient that the products take.
enum Gradient<'a> {
    Fused(ConvGradient<'a>),
    Product(Buffer<f32>),
}

impl Gradient<'_> {
    fn plain(&self) -> ConvGradient<'_> {
        match self {
            Gradient::Fused(gradient) => *gradient,
            Gradient::Product(dy) => {
                let output = OutputGradient { dy, y: None, activation: Activation::Identity, row_scale: None };
                ConvGradient { output, pooled: false }
            }
        }
    }
}
