//! A convolution without its fusions: what surrounds the product runs in kernels of its own, as in an eager framework.

use super::{Builder, Fusion, Source, Target, Value};
use crate::Result;
use crate::device::Reals;
use crate::ops::conv::{self, Conv, ConvGradient, Epilogue, Filters, InputEpilogue, Parts, Prologue};
use crate::ops::matmul::OutputGradient;
use crate::ops::resample::{self, Image};
use crate::ops::{Activation, elementary};
use crate::sizes::product;

/// Which of the fusions a convolution does without, and room for what then goes through memory.
pub struct UnfusedConv {
    /// The activation before the product is a kernel of its own.
    reading: bool,
    /// So is everything that comes after the product.
    writing: bool,
    /// (N, H, W, C): the activated input, kept from the forward pass for the gradient of the filters.
    read: Reals,
    /// (N, H, W, C) twice: the gradient of what the product reads, on its way to the gradient of what is stored.
    inputs: [Reals; 2],
    /// (N, H, W, K) twice: the product on its way to the output; and the output's gradient on its way to the product's.
    outputs: [Reals; 2],
}

impl UnfusedConv {
    /// For filters from `seen` to `k` channels; None where everything is fused.
    pub fn new(build: &mut Builder, seen: &Value, k: usize) -> Result<Option<UnfusedConv>> {
        let without = |part| build.unfused.contains(&part) || build.unfused.contains(&Fusion::Conv);
        let (reading, writing) = (without(Fusion::ConvReading), without(Fusion::ConvWriting));
        if !reading && !writing {
            return Ok(None);
        }
        let (input, output) = (product([seen.n, seen.features()]), product([seen.n, seen.h, seen.w, k]));
        let of = |wanted: bool, len: usize| if wanted { len } else { 0 };
        let backward = build.gradients;
        Ok(Some(UnfusedConv {
            reading,
            writing,
            read: build.arena.take(of(reading, input))?,
            inputs: [build.arena.take(of(backward, input))?, build.arena.take(of(backward, input))?],
            outputs: [build.arena.take(of(writing, output))?, build.arena.take(of(writing, output))?],
        }))
    }

    /// Where the activated input of the rows from sample `first` on is stored. None where the product reads `from` as
    /// it is: there is no activation, it is fused, or it belongs to a norm, which [`Fusion::Norm`] is for.
    pub fn stored_input(&self, sizes: &Conv, from: &Source, first: usize) -> Option<Reals> {
        let each = sizes.h * sizes.w * sizes.c;
        let stored = self.reading && from.mask().is_some();
        stored.then(|| self.read.view(first * each..(first + sizes.n) * each))
    }

    /// `first` is the number of the first sample of these rows.
    pub fn forward(
        &self,
        sizes: Conv,
        (filters, bias): (Filters, Option<&Reals>),
        from: &Source,
        to: &Target,
        first: usize,
    ) -> Result<()> {
        let stored = self.stored_input(&sizes, from, first);
        let (x, prologue) = match (&stored, from.mask()) {
            (Some(stored), Some((x, slope))) => {
                elementary::leaky_relu(stored, x, slope)?;
                (stored, Prologue::NONE)
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
        let mut chain = Chain { buffers: &self.outputs, turn: 0, last: Some((before_last, &y.x)) };
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

    /// The gradient of the product: the output's, through the activation, spread over the pooled pixels, times each
    /// sample's seed. None where the products compute all that as they read.
    pub fn product_gradient(&self, sizes: &Conv, fused: ConvGradient) -> Result<Option<Reals>> {
        if !self.writing {
            return Ok(None);
        }
        let ConvGradient { output: OutputGradient { dy, y, activation, row_scale }, pooled } = fused;
        // The products read what the last stage wrote, in either buffer.
        let mut chain = Chain { buffers: &self.outputs, turn: 0, last: None };
        let mut g = dy.clone();
        if let (Some(y), true) = (y, activation != Activation::Identity) {
            let to = chain.next(g.len());
            match activation {
                Activation::LeakyRelu(slope) => elementary::leaky_relu_backward(&to, &g, y, slope)?,
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
        Ok(Some(g))
    }

    /// The gradient of what is stored: that of what the product reads, summed where it was upsampled, through the
    /// activation.
    pub fn input_gradient(
        &self,
        sizes: Conv,
        (dx, from): (&Reals, &Source),
        gradient: ConvGradient,
        filters: &Reals,
        accumulate: bool,
        room: &Reals,
    ) -> Result<()> {
        let stored = self.product_gradient(&sizes, gradient)?;
        let gradient = stored.as_ref().map_or(gradient, ConvGradient::stored);
        // The ReLU's derivative and the addition are the product's own work where they are fused.
        let unfused_mask = from.mask().filter(|_| self.reading);
        let separately = accumulate && (self.writing || unfused_mask.is_some());
        let epilogue = InputEpilogue {
            mask: from.mask().filter(|_| !self.reading),
            upsample: from.upsample,
            accumulate: accumulate && !separately,
        };
        let [first, second] = &self.inputs;
        let mut g = if unfused_mask.is_some() || separately { first.view(0..dx.len()) } else { dx.clone() };
        conv::conv_input_gradient(sizes, &g, &gradient, filters, &epilogue, room, Parts::NONE)?;
        if let Some((x, slope)) = unfused_mask {
            let to = if separately { second.view(0..dx.len()) } else { dx.clone() };
            elementary::leaky_relu_backward(&to, &g, x, slope)?;
            g = to;
        }
        if separately { conv::accumulate(dx, &g) } else { Ok(()) }
    }
}

/// Where the stages of a chain write: the last one to its own place, the others into two buffers in turn.
struct Chain<'a> {
    buffers: &'a [Reals; 2],
    turn: usize,
    /// How many stages come before the last, and where that one writes.
    last: Option<(usize, &'a Reals)>,
}

impl Chain<'_> {
    /// The next stage's output, of `len` elements: never where the stage before it wrote.
    fn next(&mut self, len: usize) -> Reals {
        self.turn += 1;
        match self.last {
            Some((before, last)) if self.turn > before => last.clone(),
            _ => self.buffers[self.turn % 2].view(0..len),
        }
    }
}

/// The product's output, before pooling.
fn output_image(sizes: &Conv) -> Image {
    Image { n: sizes.n, h: sizes.p(), w: sizes.q(), c: sizes.k }
}
