//! Matrix products and convolutions. Which tile, and so which kernel, a shape gets is `simt`'s choice.

use super::Cases;
use super::tray::Tray;
use crate::Result;
use crate::device::{Buffer, Precision};
use crate::ops::Activation;
use crate::ops::conv::{self, Conv, ConvGradient, Epilogue, InputEpilogue, Prologue};
use crate::ops::matmul::{self, Linear, OutputGradient};

const LEAKY: Activation = Activation::LeakyRelu(0.2);

/// N, C, K: one, odd, around the tiles of 64, 128 and 256, and what needs several steps along the depth.
const LINEAR: [[usize; 3]; 9] = [
    [1, 1, 1],
    [3, 5, 7],
    [31, 33, 17],
    [65, 63, 65],
    [127, 257, 129],
    [130, 40, 64],
    [64, 130, 63],
    [3, 128, 64],
    [128, 256, 9],
];
/// Each tile, in whole tiles; and one of the depth that layers have, beside which a tile's ends are little.
const ALIGNED: [[usize; 3]; 5] = [[64, 64, 64], [128, 64, 64], [128, 128, 128], [128, 256, 64], [128, 512, 128]];

/// An operand that is computed differs between executions in its last bit (one has a fused multiply-add, the other not), and now
/// and then is rounded to the other neighbour.
fn allow_other_operands(t: &mut Tray, computed: bool) {
    if computed {
        t.tolerance += match t.precision() {
            Precision::F32 => 0.0,
            Precision::Tf32 | Precision::F16 => 1e-3,
            Precision::Bf16 => 8e-3,
        };
    }
}

pub fn matmul(cases: &mut Cases) {
    cases.add_large("forward, 300 x 1000 x 520".into(), |t| {
        let sizes = Linear { n: 300, c: 1000, k: 520 };
        let (y, x, weight) = (t.out_values("y", 300 * 520)?, t.values(300 * 1000)?, t.values(1000 * 520)?);
        matmul::linear_forward(sizes, &y, &x, &weight, None, LEAKY)
    });
    let odd = cases.pick(&LINEAR, &[0, 2, 3, 4, 5, 8]).into_iter().map(|sizes| (false, sizes));
    for (aligned, [n, c, k]) in odd.chain(ALIGNED.map(|sizes| (true, sizes))) {
        let sizes = Linear { n, c, k };
        for (activation, fused) in [(Activation::Identity, false), (LEAKY, true), (Activation::Tanh, true)] {
            cases.add_case(format!("forward, {n} x {c} x {k}, {activation:?}"), false, aligned, move |t| {
                let (y, x, weight) = (t.out_values("y", n * k)?, t.values(n * c)?, t.values(c * k)?);
                let bias = t.numbers(k)?;
                matmul::linear_forward(sizes, &y, &x, &weight, fused.then_some(&bias), activation)
            });
            cases.add_case(format!("backward, {n} x {c} x {k}, {activation:?}"), false, aligned, move |t| {
                allow_other_operands(t, fused);
                let (x, weight, dy) = (t.values(n * c)?, t.values(c * k)?, t.values(n * k)?);
                let (y, scale) = (t.values_between(n * k, -1.0, 1.0)?, t.numbers(n)?);
                let (y, row_scale) = (fused.then_some(&y), fused.then_some(&scale));
                let gradient = OutputGradient { dy: &dy, y, activation, row_scale };
                let (dx, dweight, dbias) =
                    (t.out_values("dx", n * c)?, t.update("dweight", c * k)?, t.update("dbias", k)?);
                matmul::linear_input_gradient(sizes, &dx, &gradient, &weight)?;
                matmul::linear_weight_gradient(sizes, &dweight, &x, &gradient)?;
                matmul::linear_bias_gradient(sizes, &dbias, &gradient)
            });
        }
    }
}

/// What is fused around a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Around {
    Nothing,
    /// A table for each sample, bias, residual, activation.
    Everything,
    /// One table for all, upsampled on the way in.
    Upsampled,
    Pooled,
    /// A leaky ReLU on the way in, added to what is there.
    Added,
}

fn name(conv: &Conv, around: Around) -> String {
    let Conv { n, h, w, c, k, r, s, pad, stride } = conv;
    format!("{n} x {h} x {w} x {c} to {k}, {r} x {s}, pad {pad}, stride {stride}, {around:?}")
}

fn forward(t: &mut Tray, sizes: Conv, around: Around) -> Result<()> {
    allow_other_operands(t, around != Around::Nothing);
    let Conv { n, h, w, c, k, r, s, .. } = sizes;
    let (upsample, pool) = (around == Around::Upsampled, around == Around::Pooled);
    let output = n * sizes.p() * sizes.q() * k / if pool { 4 } else { 1 };
    let y = t.either_values("y", output, around == Around::Added)?;
    let (x, filters) = (t.values(n * h * w * c / if upsample { 4 } else { 1 })?, t.values(r * s * c * k)?);
    let tables = if around == Around::Everything { n } else { 1 };
    let (scale, shift) = (t.numbers(tables * c)?, t.numbers(tables * c)?);
    let (bias, residual) = (t.numbers(k)?, t.values(output)?);
    let prologue = match around {
        Around::Nothing | Around::Pooled => Prologue::NONE,
        Around::Added => Prologue { activation: LEAKY, ..Prologue::NONE },
        _ => Prologue { scale_shift: Some((&scale, &shift)), activation: Activation::RELU, upsample },
    };
    let epilogue = match around {
        Around::Everything => {
            Epilogue { bias: Some(&bias), residual: Some(&residual), activation: Activation::Tanh, ..Epilogue::NONE }
        }
        Around::Pooled => Epilogue { bias: Some(&bias), residual: Some(&residual), pool, ..Epilogue::NONE },
        Around::Added => Epilogue { accumulate: true, ..Epilogue::NONE },
        _ => Epilogue::NONE,
    };
    conv::conv_forward(sizes, &y, &x, &filters, &prologue, &epilogue)
}

fn backward(t: &mut Tray, sizes: Conv, around: Around, parts: &[char]) -> Result<()> {
    allow_other_operands(t, around != Around::Nothing);
    let Conv { n, h, w, c, k, r, s, .. } = sizes;
    let (upsample, pooled) = (around == Around::Upsampled, around == Around::Pooled);
    let output = n * sizes.p() * sizes.q() * k / if pooled { 4 } else { 1 };
    let input = n * h * w * c / if upsample { 4 } else { 1 };
    let (x, filters, dy) = (t.values(input)?, t.values(r * s * c * k)?, t.values(output)?);
    let (y, row_scale) = (t.values_between(output, -1.0, 1.0)?, t.numbers(n)?);
    let tables = if around == Around::Everything { n } else { 1 };
    let (scale, shift) = (t.numbers(tables * c)?, t.numbers(tables * c)?);
    let output: OutputGradient = match around {
        Around::Nothing | Around::Pooled => {
            OutputGradient { dy: &dy, y: None, activation: Activation::Identity, row_scale: None }
        }
        _ => OutputGradient { dy: &dy, y: Some(&y), activation: LEAKY, row_scale: Some(&row_scale) },
    };
    let gradient = ConvGradient { output, pooled };
    if parts.contains(&'x') {
        let dx = t.either_values("dx", input, around == Around::Added)?;
        let mask = matches!(around, Around::Everything | Around::Added).then_some((&x, 0.2));
        let epilogue = InputEpilogue { mask, upsample, accumulate: around == Around::Added };
        let workspace = t.scratch_values(conv::input_gradient_workspace_len(&sizes))?;
        conv::conv_input_gradient(sizes, &dx, &gradient, &filters, &epilogue, &workspace)?;
    }
    if parts.contains(&'w') {
        let prologue = match around {
            Around::Nothing | Around::Pooled => Prologue::NONE,
            Around::Added => Prologue { activation: LEAKY, ..Prologue::NONE },
            _ => Prologue { scale_shift: Some((&scale, &shift)), activation: Activation::RELU, upsample },
        };
        let dfilters: Buffer<f32> = t.update("dfilters", r * s * c * k)?;
        let workspace = t.scratch(conv::weight_gradient_workspace_len(t.device(), &sizes))?;
        conv::conv_weight_gradient(sizes, &dfilters, &x, &prologue, &gradient, &workspace)?;
    }
    if parts.contains(&'b') {
        let dbias = t.update("dbias", k)?;
        let workspace = t.scratch(conv::bias_gradient_workspace_len(t.device(), &sizes))?;
        conv::conv_bias_gradient(sizes, &dbias, &gradient, &workspace)?;
    }
    Ok(())
}

pub fn conv(cases: &mut Cases) {
    use Around::*;
    let square = |n, h, c, k, r, pad| Conv { n, h, w: h, c, k, r, s: r, pad, stride: 1 };
    let shapes = [
        square(1, 1, 1, 1, 1, 0),
        Conv { n: 2, h: 5, w: 7, c: 3, k: 5, r: 3, s: 3, pad: 1, stride: 2 },
        Conv { n: 1, h: 9, w: 4, c: 5, k: 17, r: 5, s: 1, pad: 2, stride: 1 },
        square(3, 8, 16, 16, 3, 1),
        square(2, 8, 17, 33, 3, 1),
        square(2, 12, 65, 31, 3, 1),
        square(1, 6, 66, 70, 3, 1),
        square(1, 12, 9, 128, 3, 1),
    ];
    for sizes in cases.pick(&shapes, &[0, 1, 3, 4, 6]) {
        let even = [sizes.h, sizes.w, sizes.p(), sizes.q()].iter().all(|n| n.is_multiple_of(2));
        for around in [Nothing, Everything, Added, Upsampled, Pooled] {
            if matches!(around, Upsampled | Pooled) && !even {
                continue;
            }
            cases.add(format!("forward, {}", name(&sizes, around)), move |t| forward(t, sizes, around));
            cases.add(format!("backward, {}", name(&sizes, around)), move |t| {
                backward(t, sizes, around, &['x', 'w', 'b'])
            });
        }
    }
    // Whole tiles of each width.
    for (images, channels) in [(2, 16), (2, 32), (1, 64), (2, 64), (2, 128)] {
        let sizes = square(images, 8, channels, channels, 3, 1);
        for around in [Nothing, Everything] {
            let both =
                move |t: &mut Tray| forward(t, sizes, around).and_then(|()| backward(t, sizes, around, &['x', 'w']));
            cases.add_aligned(format!("both ways, {}", name(&sizes, around)), both);
        }
    }
    // Tiles of 128 x 128, weight gradients in several parts, and the one so large that it gets such tiles.
    let wide = square(2, 8, 128, 128, 3, 1);
    for around in [Everything, Pooled] {
        cases.add(format!("forward, {}", name(&wide, around)), move |t| forward(t, wide, around));
    }
    let large = square(8, 16, 64, 130, 3, 1);
    cases.add_large(format!("forward, {}", name(&large, Pooled)), move |t| forward(t, large, Pooled));
    cases.add_large(format!("backward, {}", name(&large, Pooled)), move |t| {
        backward(t, large, Pooled, &['x', 'w', 'b'])
    });
    let tile = square(2, 8, 128, 9, 3, 1);
    cases.add(format!("input gradient, {}", name(&tile, Everything)), move |t| backward(t, tile, Everything, &['x']));
    // Whole pieces of 16 bytes on all sides, and tiles of 128 x 64.
    let whole = square(2, 8, 24, 72, 3, 1);
    for around in [Nothing, Everything, Added, Upsampled, Pooled] {
        cases.add(format!("forward, {}", name(&whole, around)), move |t| forward(t, whole, around));
        cases.add(format!("backward, {}", name(&whole, around)), move |t| backward(t, whole, around, &['x', 'w', 'b']));
    }
    let tall = square(2, 8, 64, 64, 1, 0);
    cases.add(format!("backward, {}", name(&tall, Everything)), move |t| backward(t, tall, Everything, &['x', 'w']));
    cases.add(format!("forward, {}", name(&tall, Everything)), move |t| forward(t, tall, Everything));
    let parts = square(8, 12, 10, 12, 3, 1);
    cases.add(format!("weight gradient, {}", name(&parts, Added)), move |t| backward(t, parts, Added, &['w', 'b']));
    // So many tiles that larger ones are chosen.
    for (c, k) in [(1024, 576), (1280, 1280)] {
        let huge = square(1, 2, c, k, 1, 0);
        cases.add_aligned(format!("weight gradient, {}", name(&huge, Nothing)), move |t| {
            backward(t, huge, Nothing, &['w'])
        });
    }
    let bias = square(5, 4, 3, 300, 1, 0);
    cases.add(format!("backward, {}", name(&bias, Added)), move |t| backward(t, bias, Added, &['x', 'b']));
}
