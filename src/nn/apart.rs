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
        let stages = [bias.is_some(), pool, residual.is_some(), activation != Activation::Identity, accumulate];
        let before_last = stages.iter().filter(|stage| **stage).count();
        let mut chain = Chain { rooms: &self.outputs, turn: 0, last: Some((before_last, &y.x)) };
        let (len, out) = (sizes.output_len(false), y.x.len());
        let mut z = chain.next(len);
        conv::conv_forward(sizes, &z, x, filters, &prologue, &Epilogue::NONE)?;
        if let Some(bias) = bias {
            let to = chain.next(len);
            elementary::add_columns(&to, &z, bias)?;
            z = to;
        }
        if pool {
            let to = chain.next(out);
            resample::average_pool(&to, &z, output_image(&sizes))?;
            z = to;
        }
        if let Some(residual) = residual {
            let to = chain.next(out);
            elementary::add(&to, &z, residual)?;
            z = to;
        }
        if activation != Activation::Identity {
            let to = chain.next(out);
            match activation {
                Activation::LeakyRelu(slope) => elementary::leaky_relu(&to, &z, slope)?,
                _ => elementary::function(elementary::Function::Tanh, &to, &z)?,
            }
            z = to;
        }
        if accumulate { conv::accumulate(&y.x, &z) } else { Ok(()) }
    }

    /// The gradient of the product: through the activation, spread over the pooled pixels, times each sample's scale.
    fn gradient<'a>(&'a self, sizes: &Conv, fused: ConvGradient<'a>) -> Result<Gradient<'a>> {
        if !self.writing {
            return Ok(Gradient::Fused(fused));
        }
        let ConvGradient { output: OutputGradient { dy, y, activation, row_scale }, pooled } = fused;
        // The products read what the last stage wrote, in either room.
        let mut chain = Chain { rooms: &self.outputs, turn: 0, last: None };
        let mut g = dy.clone();
        if let (Some(y), true) = (y, activation != Activation::Identity) {
            let to = chain.next(g.len());
            match activation {
                Activation::LeakyRelu(slope) => gradient_penalty::mask(&to, &g, y, slope)?,
                _ => elementary::tanh_backward(&to, &g, y)?,
            }
            g = to;
        }
        if pooled {
            let to = chain.next(sizes.output_len(false));
            resample::average_pool_backward(&to, &g, output_image(sizes), false)?;
            g = to;
        }
        if let Some(scale) = row_scale {
            let to = chain.next(g.len());
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

/// Where the stages of a chain write: into two rooms in turn, but the last.
struct Chain<'a> {
    rooms: &'a [Buffer<f32>; 2],
    turn: usize,
    /// How many stages come before the last, and where it writes.
    last: Option<(usize, &'a Buffer<f32>)>,
}

impl Chain<'_> {
    /// The next stage's output, of `len` elements: not where the stage before it wrote.
    fn next(&mut self, len: usize) -> Buffer<f32> {
        self.turn += 1;
        match self.last {
            Some((before, last)) if self.turn > before => last.clone(),
            _ => self.rooms[self.turn % 2].view(0..len),
        }
    }
}

/// Before pooling.
fn output_image(sizes: &Conv) -> Image {
    Image { n: sizes.n, h: sizes.p(), w: sizes.q(), c: sizes.k }
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
