//! Matrix products and convolutions, and attention.

use super::Shapes;
use crate::Result;
use crate::device::{Buffer, Convolution, Device, Precision, Reals};
use crate::instruments::bench::{Form, Problem, numbers, numbers_in};
use crate::nn::{Arena, Backward, Builder, DownBlock, DownOptions, Forward, Fusion, Layer, Layout, Mode, Value};
use crate::ops::attention::{self, Gradients, Inputs, Shape};
use crate::ops::conv::{self, Conv, ConvGradient, Epilogue, Filters, InputEpilogue, Parts, Prologue};
use crate::ops::matmul::{self, Linear, OutputGradient};
use crate::ops::norm::{self, Tables};
use crate::ops::resample::{self, Image, Upsampling};
use crate::ops::{Activation, elementary};

pub fn problems(shapes: &Shapes) -> Vec<Problem> {
    let mut problems = plain(shapes, Precision::F32);
    problems.extend(shapes.up.iter().map(|&sizes| generator_convolution(sizes)));
    problems.extend(shapes.down.iter().map(|&sizes| discriminator_convolution(sizes)));
    problems.extend(shapes.blocks.iter().map(|&sizes| block(sizes)));
    problems.extend(shapes.attention.iter().map(|&shape| attention(shape)));
    problems
}

/// Every pass of the layers alone, stored and multiplied in this precision.
pub fn plain(shapes: &Shapes, precision: Precision) -> Vec<Problem> {
    let Shapes { linears, convolutions, .. } = shapes;
    let linears =
        linears.iter().flat_map(|&[n, c, k]| Pass::ALL.map(|pass| linear(Linear { n, c, k }, pass, precision)));
    let convolutions =
        convolutions.iter().flat_map(|&sizes| Pass::ALL.map(|pass| convolution(square(sizes), pass, precision)));
    linears.chain(convolutions).collect()
}

/// A 3x3 convolution of N images of H = W pixels, C to K channels.
pub fn square([n, side, c, k]: [usize; 4]) -> Conv {
    Conv { n, h: side, w: side, c, k, r: 3, s: 3, pad: [1; 2], stride: 1 }
}

#[derive(Clone, Copy)]
pub enum Pass {
    Forward,
    InputGradient,
    WeightGradient,
}

impl Pass {
    pub const ALL: [Pass; 3] = [Pass::Forward, Pass::InputGradient, Pass::WeightGradient];

    fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::InputGradient => "input gradient",
            Pass::WeightGradient => "weight gradient",
        }
    }
}

/// A pass of a layer with a bias and a leaky ReLU. The gradients apply the derivative of the ReLU as they read. Only f32 has
/// other forms to compare with.
fn linear(sizes: Linear, pass: Pass, precision: Precision) -> Problem {
    let Linear { n, c, k } = sizes;
    let name = format!("{n} x {c} x {k} {}", pass.name());
    let problem = Problem::new("matmul", name, 1e-5, move |device| {
        let activation = Activation::LeakyRelu(0.2);
        let form = |name, fused: bool| -> Result<Form> {
            let stored = |len: usize, seed: u64| numbers_in(device, precision, len, seed);
            let (x, weight, bias) = (stored(n * c, 1)?, stored(c * k, 2)?, numbers(device, k, 3)?);
            let (y, dy) = (stored(n * k, 4)?, stored(n * k, 5)?);
            let (product, ones) = (device.zeros(n * k)?, device.upload(&vec![1.0f32; k])?);
            let out = match pass {
                Pass::Forward => device.zeros_in(n * k, precision)?,
                Pass::InputGradient => device.zeros_in(n * c, precision)?,
                Pass::WeightGradient => device.zeros(c * k)?,
            };
            Ok(Form::new(name, [out.clone()], move || {
                let gradient = OutputGradient { dy: &dy, y: Some(&y), activation, row_scale: None };
                match pass {
                    Pass::Forward if fused => matmul::linear_forward(sizes, &out, &x, &weight, Some(&bias), activation),
                    Pass::Forward => {
                        matmul::linear_forward(sizes, &product, &x, &weight, None, Activation::Identity)?;
                        let tables = Tables { scale: &ones, shift: &bias };
                        norm::apply(&out, &product, tables, activation, norm::Shape::features(n, k))
                    }
                    Pass::InputGradient => matmul::linear_input_gradient(sizes, &out, &gradient, &weight),
                    Pass::WeightGradient => {
                        out.zero()?;
                        matmul::linear_weight_gradient(sizes, (&out, None), &x, &gradient)
                    }
                }
            }))
        };
        let fused = form("fused", true)?;
        match pass {
            _ if precision != Precision::F32 => Ok(vec![fused]),
            Pass::Forward => forms!(fused, form("unfused", false)?; linear(device, sizes, pass)),
            _ => forms!(fused; linear(device, sizes, pass)),
        }
    });
    Problem { precision, ..problem }
}

/// The product alone, with nothing fused into it, in the form that the device is set to. `name` is the measurement's.
pub fn convolution_alone(
    device: &Device,
    name: &'static str,
    sizes: Conv,
    pass: Pass,
    precision: Precision,
) -> Result<Form> {
    let Conv { n, h, w, c, k, .. } = sizes;
    let stored = |len: usize, seed: u64| numbers_in(device, precision, len, seed);
    let (x, dy, filters) = (stored(n * h * w * c, 1)?, stored(n * h * w * k, 2)?, stored(9 * c * k, 3)?);
    let zeros = |len: usize| device.zeros_in(len, precision);
    let (out, workspace) = match pass {
        Pass::Forward => (zeros(n * h * w * k)?, zeros(conv::forward_workspace_len(device, &sizes))?),
        Pass::InputGradient => (zeros(n * h * w * c)?, zeros(conv::input_gradient_workspace_len(device, &sizes))?),
        Pass::WeightGradient => {
            (device.zeros(9 * c * k)?, device.zeros(conv::weight_gradient_workspace_len(device, &sizes))?)
        }
    };
    Ok(Form::new(name, [out.clone()], move || {
        let gradient = ConvGradient::stored(&dy);
        match pass {
            Pass::Forward => {
                let filters = Filters { values: &filters, room: Some(&workspace) };
                conv::conv_forward(sizes, &out, &x, filters, &Prologue::NONE, &Epilogue::NONE)
            }
            Pass::InputGradient => conv::conv_input_gradient(
                sizes,
                &out,
                &gradient,
                &filters,
                &InputEpilogue::NONE,
                &workspace,
                Parts::NONE,
            ),
            Pass::WeightGradient => {
                out.zero()?;
                conv::conv_weight_gradient(sizes, (&out, None), &x, &Prologue::NONE, &gradient, &workspace)?.add()
            }
        }
    }))
}

pub fn convolution(sizes: Conv, pass: Pass, precision: Precision) -> Problem {
    let Conv { n, h, w, c, k, .. } = sizes;
    let name = format!("3x3, {n} of {h}x{w}, {c} to {k} {}", pass.name());
    let problem = Problem::new("conv", name, 1e-4, move |device| {
        let auto = conv::has_winograd(device, &sizes, precision);
        let ours = convolution_alone(device, if auto { "winograd" } else { "direct" }, sizes, pass, precision)?;
        if precision != Precision::F32 {
            return Ok(vec![ours]);
        }
        let mut all: Vec<Form> = forms!(ours; convolution(device, sizes, pass))?;
        if auto {
            let direct = device.with_convolution(Convolution::Direct);
            all.insert(1, convolution_alone(&direct, "direct", sizes, pass, precision)?);
        }
        Ok(all)
    });
    Problem { precision, ..problem }
}

/// A scale and a shift that change nothing: with them, a kernel of the norm applies an activation alone, or a shift alone.
fn neutral(device: &Device, c: usize) -> Result<[Reals; 2]> {
    Ok([device.upload(&vec![1.0; c])?, device.zeros(c)?])
}

/// A convolution of G: scale and shift of each sample, ReLU, nearest upsampling by 2, 3x3, bias.
fn generator_convolution([n, side, c, k]: [usize; 4]) -> Problem {
    let sizes = square([n, 2 * side, c, k]);
    let name = format!("G: norm, ReLU, x2, 3x3, bias: {n} of {side}x{side}, {c} to {k}");
    Problem::new("conv", name, 1e-4, move |device| {
        let small = n * side * side * c;
        let form = |name, fused: bool| -> Result<Form> {
            let (x, filters, bias) =
                (numbers(device, small, 1)?, numbers(device, 9 * c * k, 2)?, numbers(device, k, 3)?);
            let (scale, shift) = (numbers(device, n * c, 4)?, numbers(device, n * c, 5)?);
            let zeros = |len: usize| device.zeros::<f32>(len);
            let (z, a, up) = (zeros(small)?, zeros(small)?, zeros(4 * small)?);
            let (product, y) = (zeros(sizes.output_len(false))?, zeros(sizes.output_len(false))?);
            let ([ones, none], [many, _]) = (neutral(device, c)?, neutral(device, k)?);
            let room = device.zeros(conv::forward_workspace_len(device, &sizes))?;
            Ok(Form::new(name, [y.clone()], move || {
                let filters = Filters { values: &filters, room: Some(&room) };
                let tables = Tables { scale: &scale, shift: &shift };
                if fused {
                    let scale_shift = Some((&scale, &shift));
                    let prologue = Prologue { scale_shift, activation: Activation::RELU, upsample: true };
                    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::NONE };
                    return conv::conv_forward(sizes, &y, &x, filters, &prologue, &epilogue);
                }
                let shape = norm::Shape { n, h: side, w: side, c, upsample: false };
                norm::apply(&z, &x, tables, Activation::Identity, shape)?;
                norm::apply(&a, &z, Tables { scale: &ones, shift: &none }, Activation::RELU, shape)?;
                resample::upsample(&up, &a, Image { n, h: side, w: side, c }, Upsampling::Nearest)?;
                conv::conv_forward(sizes, &product, &up, filters, &Prologue::NONE, &Epilogue::NONE)?;
                let wide = norm::Shape { n, h: sizes.h, w: sizes.w, c: k, upsample: false };
                norm::apply(&y, &product, Tables { scale: &many, shift: &bias }, Activation::Identity, wide)
            }))
        };
        forms!(
            form("fused", true)?,
            form("unfused", false)?;
            generator_convolution(device, [n, side, c, k])
        )
    })
}

/// A convolution of D: ReLU, 3x3, bias, 2x2 average pooling, residual.
fn discriminator_convolution([n, side, c, k]: [usize; 4]) -> Problem {
    let sizes = square([n, side, c, k]);
    let name = format!("D: ReLU, 3x3, bias, pool, residual: {n} of {side}x{side}, {c} to {k}");
    Problem::new("conv", name, 1e-4, move |device| {
        let form = |name, fused: bool| -> Result<Form> {
            let x = numbers(device, n * side * side * c, 1)?;
            let (filters, bias) = (numbers(device, 9 * c * k, 2)?, numbers(device, k, 3)?);
            let (whole, pooled) = (sizes.output_len(false), sizes.output_len(true));
            let residual = numbers(device, pooled, 4)?;
            let zeros = |len: usize| device.zeros::<f32>(len);
            let (a, product, biased) = (zeros(x.len())?, zeros(whole)?, zeros(whole)?);
            let (mean, y) = (zeros(pooled)?, zeros(pooled)?);
            let ([ones, none], [many, _]) = (neutral(device, c)?, neutral(device, k)?);
            let room = device.zeros(conv::forward_workspace_len(device, &sizes))?;
            Ok(Form::new(name, [y.clone()], move || {
                let filters = Filters { values: &filters, room: Some(&room) };
                if fused {
                    let prologue = Prologue { scale_shift: None, activation: Activation::RELU, upsample: false };
                    let epilogue =
                        Epilogue { bias: Some(&bias), residual: Some(&residual), pool: true, ..Epilogue::NONE };
                    return conv::conv_forward(sizes, &y, &x, filters, &prologue, &epilogue);
                }
                let shape = |c: usize| norm::Shape { n, h: side, w: side, c, upsample: false };
                norm::apply(&a, &x, Tables { scale: &ones, shift: &none }, Activation::RELU, shape(c))?;
                conv::conv_forward(sizes, &product, &a, filters, &Prologue::NONE, &Epilogue::NONE)?;
                let tables = Tables { scale: &many, shift: &bias };
                norm::apply(&biased, &product, tables, Activation::Identity, shape(k))?;
                resample::average_pool(&mean, &biased, Image { n, h: side, w: side, c: k })?;
                elementary::add(&y, &mean, &residual)
            }))
        };
        forms!(
            form("fused", true)?,
            form("unfused", false)?;
            discriminator_convolution(device, [n, side, c, k])
        )
    })
}

/// A residual block of D that pools, forward and backward, of N images of H = W pixels, C to K channels.
pub fn block_problem([n, side, c, k]: [usize; 4], make: impl Fn(&Device) -> Result<Vec<Form>> + 'static) -> Problem {
    Problem::new("block", format!("D: {n} of {side}x{side}, {c} to {k}, pooled"), 1e-4, make)
}

fn block(sizes: [usize; 4]) -> Problem {
    block_problem(sizes, move |device| {
        Ok(vec![block_form(device, "fused", sizes, &[])?, block_form(device, "unfused", sizes, &[Fusion::Conv])?])
    })
}

/// A form that runs a block of D, with everything that the block works on.
pub fn block_form(
    device: &Device,
    name: &'static str,
    [n, side, c, k]: [usize; 4],
    unfused: &'static [Fusion],
) -> Result<Form> {
    let build = |arena: &mut Arena, layout: &mut Layout| -> Result<(Value, DownBlock)> {
        let mut running = Layout::default();
        let mut build = Builder { unfused, ..Builder::new(layout, &mut running, arena) };
        let x = build.value(n, side, side, c)?;
        let options = DownOptions { hidden: k, out: k, pool: true, first: false };
        let block = DownBlock::new(&mut build, "block", &x, &options)?;
        Ok((x, block))
    };
    let mut measuring = Arena::measuring(device);
    build(&mut measuring, &mut Layout::default())?;
    let mut layout = Layout::default();
    let (x, block) = build(&mut Arena::new(device, measuring.used())?, &mut layout)?;
    let weights = device.upload(&layout.initial_values(1)?)?;
    let gradients: Reals = device.zeros(weights.len())?;
    let running: Reals = device.zeros(0)?;
    x.x.copy_from(&numbers(device, x.x.len(), 2)?)?;
    let dy = numbers(device, block.output().x.len(), 3)?;
    let mut outputs = vec![block.output().x.clone(), gradients.clone()];
    outputs.extend(x.dx.clone());
    if let Some(there) = &block.output().dx {
        there.copy_from(&dy)?;
    }
    Ok(Form::new(name, outputs, move || {
        // The gradients are added to what is there.
        gradients.zero()?;
        let mode = Mode::Train { momentum: 0.1 };
        block.forward(&Forward { weights: (&weights).into(), running: &running, mode, rows: 0..n })?;
        block.backward(&Backward::of(&weights, Some(&gradients), 0..n))
    }))
}

/// Self-attention, forward and backward.
fn attention(shape: Shape) -> Problem {
    let Shape { n, l, lk, dk, dv } = shape;
    let name = format!("{n} of {l} queries, {lk} keys, {dk} and {dv} wide");
    Problem::new("attention", name, 1e-4, move |device| {
        let (q, k, v) =
            (numbers(device, n * l * dk, 1)?, numbers(device, n * lk * dk, 2)?, numbers(device, n * lk * dv, 3)?);
        let zeros = |len: usize| device.zeros::<f32>(len);
        let (o, lse, d_o) = (zeros(n * l * dv)?, zeros(n * l)?, numbers(device, n * l * dv, 4)?);
        let (dq, d_k, d_v) = (zeros(n * l * dk)?, zeros(n * lk * dk)?, zeros(n * lk * dv)?);
        let workspace = zeros(shape.workspace_len())?;
        let streaming = Form::new("fused", [&o, &dq, &d_k, &d_v].map(Buffer::clone), move || {
            let inputs = Inputs { q: &q, k: &k, v: &v };
            attention::forward(&o, &lse, inputs, shape)?;
            let gradients = Gradients { dq: &dq, dk: &d_k, dv: &d_v };
            attention::backward(gradients, &d_o, &o, inputs, &lse, shape, &workspace)
        });
        forms!(streaming; attention(device, shape))
    })
}
