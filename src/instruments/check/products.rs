//! Matrix products and convolutions. The table of tiles of `simt` decides which tile, and so which kernel, a shape gets.

use super::{Case, Cases, Tray};
use crate::Result;
use crate::device::{Precision, Reals};
use crate::ops::Activation;
use crate::ops::conv::{self, Conv, ConvGradient, Epilogue, Filters, InputEpilogue, Parts, Prologue};
use crate::ops::matmul::{self, Linear, OutputGradient};

const LEAKY: Activation = Activation::LeakyRelu(0.2);

/// N, C, K: ones, odd numbers, numbers around the tiles of 64, 128 and 256, and depths that take several steps.
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
/// Shapes of whole tiles, for each tile; the last is as deep as layers are, so that the ends of a tile cost little.
const ALIGNED: [[usize; 3]; 5] = [[64, 64, 64], [128, 64, 64], [128, 128, 128], [128, 256, 64], [128, 512, 128]];

/// Allows larger differences where the operands of a product are themselves computed. Their last bits differ between
/// executions, of which one has fused multiply-adds and the other not, and so they are now and then rounded to different
/// neighbours in the product's precision.
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
    let large = cases.add("forward, 300 x 1000 x 520".into(), |t| {
        let sizes = Linear { n: 300, c: 1000, k: 520 };
        let (y, x, weight) = (t.out_values("y", 300 * 520)?, t.values(300 * 1000)?, t.values(1000 * 520)?);
        matmul::linear_forward(sizes, &y, &x, &weight, None, LEAKY)
    });
    large.large = true;
    let odd = cases.pick(&LINEAR, &[0, 2, 3, 4, 5, 8]).into_iter().map(|sizes| (false, sizes));
    for (aligned, [n, c, k]) in odd.chain(ALIGNED.map(|sizes| (true, sizes))) {
        let sizes = Linear { n, c, k };
        for (activation, fused) in [(Activation::Identity, false), (LEAKY, true), (Activation::Tanh, true)] {
            let forward = cases.add(format!("forward, {n} x {c} x {k}, {activation:?}"), move |t| {
                let (y, x, weight) = (t.out_values("y", n * k)?, t.values(n * c)?, t.values(c * k)?);
                let bias = t.numbers(k)?;
                matmul::linear_forward(sizes, &y, &x, &weight, fused.then_some(&bias), activation)
            });
            forward.aligned = aligned;
            let backward = cases.add(format!("backward, {n} x {c} x {k}, {activation:?}"), move |t| {
                allow_other_operands(t, fused);
                let (x, weight, dy) = (t.values(n * c)?, t.values(c * k)?, t.values(n * k)?);
                let (y, scale) = (t.values_between(n * k, -1.0, 1.0)?, t.numbers(n)?);
                let (y, row_scale) = (fused.then_some(&y), fused.then_some(&scale));
                let gradient = OutputGradient { dy: &dy, y, activation, row_scale };
                let (dx, dweight, dbias) =
                    (t.out_values("dx", n * c)?, t.update("dweight", c * k)?, t.update("dbias", k)?);
                matmul::linear_input_gradient(sizes, &dx, &gradient, &weight)?;
                matmul::linear_weight_gradient(sizes, (&dweight, fused.then_some(&dbias)), &x, &gradient)
            });
            backward.aligned = aligned;
        }
    }
}

/// What is fused around a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Around {
    Nothing,
    /// Scale and shift for each sample; bias, residual and activation.
    Everything,
    /// One scale and shift for all samples; the input is upsampled as it is read.
    Upsampled,
    Pooled,
    /// A leaky ReLU as the input is read; the result is added to what is there.
    Added,
}

fn name(conv: &Conv, around: Around) -> String {
    let Conv { n, h, w, c, k, r, s, pad, stride } = conv;
    let pad = if pad[0] == pad[1] { pad[0].to_string() } else { format!("{} and {}", pad[0], pad[1]) };
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
    let room = t.scratch(conv::forward_workspace_len(t.device(), &sizes))?;
    conv::conv_forward(sizes, &y, &x, Filters { values: &filters, room: Some(&room) }, &prologue, &epilogue)
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
        Around::Nothing | Around::Pooled => OutputGradient::stored(&dy),
        _ => OutputGradient { dy: &dy, y: Some(&y), activation: LEAKY, row_scale: Some(&row_scale) },
    };
    let gradient = ConvGradient { output, pooled };
    let mut left = Parts::NONE;
    if parts.contains(&'w') {
        let prologue = match around {
            Around::Nothing | Around::Pooled => Prologue::NONE,
            Around::Added => Prologue { activation: LEAKY, ..Prologue::NONE },
            _ => Prologue { scale_shift: Some((&scale, &shift)), activation: Activation::RELU, upsample },
        };
        let dfilters: Reals = t.update("dfilters", r * s * c * k)?;
        let dbias = if parts.contains(&'b') { Some(t.update("dbias", k)?) } else { None };
        let workspace = t.scratch(conv::weight_gradient_workspace_len(t.device(), &sizes))?;
        left = conv::conv_weight_gradient(sizes, (&dfilters, dbias.as_ref()), &x, &prologue, &gradient, &workspace)?;
    }
    if !parts.contains(&'x') {
        return left.add();
    }
    let dx = t.either_values("dx", input, around == Around::Added)?;
    let mask = matches!(around, Around::Everything | Around::Added).then_some((&x, 0.2));
    let epilogue = InputEpilogue { mask, upsample, accumulate: around == Around::Added };
    let workspace = t.scratch_values(conv::input_gradient_workspace_len(t.device(), &sizes))?;
    conv::conv_input_gradient(sizes, &dx, &gradient, &filters, &epilogue, &workspace, left)
}

fn add_forward(cases: &mut Cases, sizes: Conv, around: Around) -> &mut Case {
    cases.add(format!("forward, {}", name(&sizes, around)), move |t| forward(t, sizes, around))
}

/// `parts` names the gradients: x of the input, w of the weights, b of the bias.
fn add_backward<'a>(cases: &'a mut Cases, sizes: Conv, around: Around, parts: &'static [char]) -> &'a mut Case {
    let what = match parts {
        ['x'] => "input gradient",
        ['w', ..] => "weight gradient",
        _ => "backward",
    };
    cases.add(format!("{what}, {}", name(&sizes, around)), move |t| backward(t, sizes, around, parts))
}

pub fn conv(cases: &mut Cases) {
    use Around::*;
    const ALL: [Around; 5] = [Nothing, Everything, Added, Upsampled, Pooled];
    const PARTS: &[char] = &['x', 'w', 'b'];
    let square = |n, h, c, k, r, pad| Conv { n, h, w: h, c, k, r, s: r, pad: [pad; 2], stride: 1 };
    let shapes = [
        square(1, 1, 1, 1, 1, 0),
        Conv { n: 2, h: 5, w: 7, c: 3, k: 5, r: 3, s: 3, pad: [1; 2], stride: 2 },
        Conv { n: 1, h: 9, w: 4, c: 5, k: 17, r: 5, s: 1, pad: [2, 0], stride: 1 },
        square(3, 8, 16, 16, 3, 1),
        square(2, 8, 17, 33, 3, 1),
        square(2, 12, 65, 31, 3, 1),
        square(1, 6, 66, 70, 3, 1),
        square(1, 12, 9, 128, 3, 1),
    ];
    for sizes in cases.pick(&shapes, &[0, 1, 3, 4, 6]) {
        let even = [sizes.h, sizes.w, sizes.p(), sizes.q()].iter().all(|n| n.is_multiple_of(2));
        for around in ALL.into_iter().filter(|around| even || !matches!(around, Upsampled | Pooled)) {
            add_forward(cases, sizes, around);
            // Nothing needs the input gradient of a stride of 2.
            add_backward(cases, sizes, around, if sizes.stride == 1 { PARTS } else { &['w', 'b'] });
        }
    }
    // Whole tiles of each width.
    for (images, channels) in [(2, 16), (2, 32), (1, 64), (2, 64), (2, 128)] {
        let sizes = square(images, 8, channels, channels, 3, 1);
        for around in [Nothing, Everything] {
            let both =
                move |t: &mut Tray| forward(t, sizes, around).and_then(|()| backward(t, sizes, around, &['x', 'w']));
            cases.add(format!("both ways, {}", name(&sizes, around)), both).aligned = true;
        }
    }
    // Tiles of 128 x 128 for some passes; and a shape so large that all passes get them, with weight gradients in parts.
    for around in [Everything, Pooled] {
        add_forward(cases, square(2, 8, 128, 128, 3, 1), around);
    }
    let large = square(8, 16, 64, 130, 3, 1);
    add_forward(cases, large, Pooled).large = true;
    add_backward(cases, large, Pooled, PARTS).large = true;
    add_backward(cases, square(2, 8, 128, 9, 3, 1), Everything, &['x']);
    // Channels in whole pieces of 16 bytes on both sides, and tiles of 128 x 64.
    for around in ALL {
        add_forward(cases, square(2, 8, 24, 72, 3, 1), around);
        add_backward(cases, square(2, 8, 24, 72, 3, 1), around, PARTS);
    }
    let tall = square(2, 8, 64, 64, 1, 0);
    add_backward(cases, tall, Everything, &['x', 'w']);
    add_forward(cases, tall, Everything);
    add_backward(cases, square(8, 12, 10, 12, 3, 1), Added, &['w', 'b']);
    // Weights so large that larger tiles are chosen for them.
    for (c, k) in [(1024, 576), (1280, 1280)] {
        add_backward(cases, square(1, 2, c, k, 1, 0), Nothing, &['w']).aligned = true;
    }
    add_backward(cases, square(5, 4, 3, 300, 1, 0), Added, PARTS);
    // The host's alone, as GPUs turn filters while they read them.
    for (c, k) in [(1, 1), (33, 31), (70, 40)] {
        cases.add(format!("flip filters, 3x3, {c} to {k}"), move |t| {
            let (flipped, filters) = (t.out_values("flipped", 9 * c * k)?, t.values(9 * c * k)?);
            conv::flip_filters(&square(1, 3, c, k, 3, 1), &flipped, &filters)
        });
    }
}

/// Images of whole tiles and of parts of tiles, several strips, several blocks of channels and several parts of the images.
pub fn winograd(cases: &mut Cases) {
    use Around::*;
    let square = |n, h, w, c, k| Conv { n, h, w, c, k, r: 3, s: 3, pad: [1; 2], stride: 1 };
    for around in [Nothing, Everything, Added, Upsampled, Pooled] {
        for sizes in [square(2, 6, 10, 16, 32), square(1, 8, 4, 48, 16)] {
            add_forward(cases, sizes, around);
            add_backward(cases, sizes, around, &['x', 'w', 'b']);
        }
    }
    add_forward(cases, square(7, 5, 7, 16, 16), Nothing);
    add_backward(cases, square(1, 4, 4, 80, 16), Nothing, &['w']);
    add_backward(cases, square(2, 32, 34, 16, 16), Nothing, &['w', 'b']);
}
