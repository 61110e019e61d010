//! A convolution and its gradients, fused with what comes before and after: see `kernels/conv.cu`. x, y, their gradients,
//! the residual and the filters are stored in one precision, in which the product is; all else is f32.

use super::matmul::OutputGradient;
use super::tile::{choose, grid};
use super::winograd::Problem;
use super::{Activation, ActivationArgument, expect_len, expect_optional, size32};
use crate::device::{Device, MOST_BLOCKS, Precision, Reals, Tile, Tuning, kernel};
use crate::sizes::{product, sum};
use crate::{Error, Result};

/// v (N, H, W, C), filters (R, S, C, K), output pixels P, Q. `h` and `w` are what the filter sees: twice the stored
/// tensor's where the prologue upsamples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub k: usize,
    pub r: usize,
    pub s: usize,
    /// Of rows above and below, and of columns left and right.
    pub pad: [usize; 2],
    /// 1 or 2.
    pub stride: usize,
}

/// What happens to x on the way in: `act(scale * x + shift)`, then nearest x2 upsampling. Padding stays zero.
#[derive(Clone, Copy)]
pub struct Prologue<'a> {
    /// Both (1, C) or both (N, C).
    pub scale_shift: Option<(&'a Reals, &'a Reals)>,
    pub activation: Activation,
    /// x is (N, H / 2, W / 2, C).
    pub upsample: bool,
}

/// What happens to the result: `y = act(pool(z) + bias + residual)`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// (K)
    pub bias: Option<&'a Reals>,
    /// The shape of y.
    pub residual: Option<&'a Reals>,
    pub activation: Activation,
    /// The mean of 2 x 2: y is (N, P / 2, Q / 2, K).
    pub pool: bool,
    /// Adds to y; only without an activation, whose derivative needs y alone.
    pub accumulate: bool,
}

/// The effective output gradient: `unpool(dy * act'(y)) * row_scale`. With `pooled`, dy and y are those of the pooled output.
#[derive(Clone, Copy)]
pub struct ConvGradient<'a> {
    pub output: OutputGradient<'a>,
    pub pooled: bool,
}

/// What happens to the input gradient.
#[derive(Clone, Copy)]
pub struct InputEpilogue<'a> {
    /// The stored x and the slope of a prologue that is a (leaky) ReLU alone: dx is multiplied by its derivative.
    pub mask: Option<(&'a Reals, f32)>,
    /// The prologue upsamples: dx is (N, H / 2, W / 2, C), the sum over the 2 x 2 pixels that one became.
    pub upsample: bool,
    /// Adds to dx.
    pub accumulate: bool,
}

impl<'a> ConvGradient<'a> {
    /// The gradient of the product itself, as it is stored.
    pub fn stored(dy: &'a Reals) -> ConvGradient<'a> {
        ConvGradient { output: OutputGradient::stored(dy), pooled: false }
    }
}

impl Prologue<'_> {
    pub const NONE: Prologue<'static> =
        Prologue { scale_shift: None, activation: Activation::Identity, upsample: false };
}

impl Epilogue<'_> {
    pub const NONE: Epilogue<'static> =
        Epilogue { bias: None, residual: None, activation: Activation::Identity, pool: false, accumulate: false };
}

impl InputEpilogue<'_> {
    pub const NONE: InputEpilogue<'static> = InputEpilogue { mask: None, upsample: false, accumulate: false };
}

/// Filters (R, S, C, K), with room for what a form of the convolution makes of them first
/// ([`forward_workspace_len`]). Without room, it is the direct form.
#[derive(Clone, Copy)]
pub struct Filters<'a> {
    pub values: &'a Reals,
    pub room: Option<&'a Reals>,
}

impl<'a> From<&'a Reals> for Filters<'a> {
    fn from(values: &'a Reals) -> Filters<'a> {
        Filters { values, room: None }
    }
}

/// For n < 2^31, `n / divisor = (high word of n * multiplier + n) >> shift`, with shift the logarithm of the divisor rounded
/// up and multiplier = 2^32 (2^shift - divisor) / divisor + 1 (Granlund and Montgomery, 1994).
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Divisor {
    divisor: u32,
    multiplier: u32,
    shift: u32,
}

impl Divisor {
    fn new(divisor: u32) -> Divisor {
        let shift = divisor.next_power_of_two().trailing_zeros();
        let multiplier = ((1u64 << 32) * ((1u64 << shift) - u64::from(divisor)) / u64::from(divisor) + 1) as u32;
        Divisor { divisor, multiplier, shift }
    }
}

/// The mirror of `Window` in kernels/device/window.h.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Window {
    /// N, H, W, C of what is seen.
    seen: [u32; 4],
    /// P, Q.
    pixels: [u32; 2],
    /// R, S.
    filter: [u32; 2],
    pad: [i32; 2],
    stride: u32,
    by_windows: u32,
    image: Divisor,
    line: Divisor,
    filter_row: Divisor,
    channels: Divisor,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
pub(super) struct PrologueArgument {
    pub activation: ActivationArgument,
    pub up: u32,
    pub table_stride: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct GradientArgument {
    activation: ActivationArgument,
    pooled: u32,
}

/// `rows` of the grid's blocks add parts up, `per_block` elements each.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::NoUninit)]
struct PartsArgument {
    count: u32,
    len: u32,
    more: u32,
    per_block: u32,
    rows: u32,
}

/// What a weight gradient left to be added up: the sums over parts of the images, each part's filters and behind them its
/// biases. Either [`conv_input_gradient`] adds them, in blocks of its own, or [`Parts::add`] does.
#[must_use = "the gradients are not complete before their parts are added"]
pub struct Parts(Option<Unadded>);

struct Unadded {
    dfilters: Reals,
    dbias: Option<Reals>,
    parts: Reals,
    count: usize,
}

impl Parts {
    /// Nothing to add.
    pub const NONE: Parts = Parts(None);

    /// `dfilters += parts[0] + parts[1] + ...`, in order, and dbias likewise, in a launch of its own.
    pub fn add(self) -> Result<()> {
        let Some(unadded) = self.0 else { return Ok(()) };
        let (argument, blocks) = unadded.argument()?;
        let launch = unadded.dfilters.device().launch(kernel::CONV_SUM_PARTS_F32, [blocks, 1, 1]);
        let launch = launch.output(&unadded.dfilters).optional_output(unadded.dbias.as_ref());
        let launch = launch.input(&unadded.parts).scalar(argument);
        // SAFETY: whoever made the parts compared their length with `count` times that of both gradients; the grid covers
        // both.
        unsafe { launch.run() }
    }
}

impl Unadded {
    /// What kernels are told, for no rows of blocks yet; and how many blocks it takes.
    fn argument(&self) -> Result<(PartsArgument, u32)> {
        let (len, more) = (self.dfilters.len(), self.dbias.as_ref().map_or(0, |dbias| dbias.len()));
        let all = size32("parts of a gradient", sum([len, more]))?;
        // As much to read as for blocks of other kernels, but work for each of a block's threads.
        let per_block = (self.dfilters.device().tuning().elements / self.count).max(256) as u32;
        let argument =
            PartsArgument { count: self.count as u32, len: len as u32, more: more as u32, per_block, rows: 0 };
        Ok((argument, all.div_ceil(per_block)))
    }
}

/// Rows, and columns, that one block turns of a filter's tap: `SIDE` in `conv_flip_filters`.
const FLIPPED_TILE: u32 = 32;

/// The tile of an (m, n) product whose operands are stored as `operand` is.
fn conv_tile(operand: &Reals, tiles: &'static [Tile], m: usize, n: usize) -> &'static Tile {
    let device = operand.device();
    choose(device, operand.precision(), device.workers(), tiles, &device.tuning().conv_tiles, m, n)
}

impl Conv {
    /// Rows of the output, before pooling.
    pub fn p(&self) -> usize {
        sum([self.h, product([2, self.pad[0]])]).saturating_sub(self.r) / self.stride.max(1) + 1
    }

    /// Columns of the output, before pooling.
    pub fn q(&self) -> usize {
        sum([self.w, product([2, self.pad[1]])]).saturating_sub(self.s) / self.stride.max(1) + 1
    }

    fn filters(&self) -> usize {
        product([self.r, self.s, self.c, self.k])
    }

    fn input_len(&self, upsample: bool) -> usize {
        product([self.n, self.h, self.w, self.c]) / if upsample { 4 } else { 1 }
    }

    /// Multiplications and additions of each of the three passes.
    pub fn flops(&self) -> usize {
        product([2, self.n, self.p(), self.q(), self.r, self.s, self.c, self.k])
    }

    /// Elements of y.
    pub fn output_len(&self, pool: bool) -> usize {
        product([self.n, self.p(), self.q(), self.k]) / if pool { 4 } else { 1 }
    }

    /// Refuses what the kernels cannot do. Pixels and taps count in 31 bits.
    fn check(&self, what: &str, upsample: bool, pool: bool) -> Result<()> {
        let Conv { n, h, w, c, k, r, s, pad, stride } = *self;
        if [n, h, w, c, k, r, s].contains(&0) {
            return Err(Error::Shape(format!("{what}: {self:?}, no size may be 0")));
        }
        if !matches!(stride, 1 | 2) {
            return Err(Error::Shape(format!("{what}: a stride of {stride}, expected 1 or 2")));
        }
        let most = i32::MAX as usize;
        if pad.iter().any(|pad| *pad > most / 4) || h > most || w > most {
            return Err(Error::Shape(format!("{what}: {self:?}, at most {most} pixels or taps")));
        }
        if h + 2 * pad[0] < r || w + 2 * pad[1] < s {
            let [rows, columns] = pad;
            let what = format!("{what}: a filter of {r} x {s} on {h} x {w} pixels padded by {rows} and {columns}");
            return Err(Error::Shape(what));
        }
        if upsample && !(h.is_multiple_of(2) && w.is_multiple_of(2)) {
            return Err(Error::Shape(format!("{what}: upsampled to {h} x {w}, expected even numbers")));
        }
        let (p, q) = (self.p(), self.q());
        if pool && !(p.is_multiple_of(2) && q.is_multiple_of(2)) {
            return Err(Error::Shape(format!("{what}: pooling {p} x {q} pixels, expected even numbers")));
        }
        if [[n, h, w], [n, p, q], [r, s, c], [r, s, k]].into_iter().any(|sizes| product(sizes) > most)
            || self.filters() > most
        {
            return Err(Error::Shape(format!("{what}: {self:?}, at most {most} pixels or taps")));
        }
        Ok(())
    }

    /// How output pixels look at v.
    fn window(&self, by_windows: bool) -> Window {
        let pad = self.pad.map(|pad| pad as i32);
        Window::new([self.n, self.h, self.w, self.c], [self.p(), self.q()], [self.r, self.s], pad, by_windows)
            .with_stride(self.stride)
    }

    /// How pixels of v look at the output's gradient, through the turned filters.
    fn input_gradient_window(&self, by_windows: bool) -> Window {
        let pad = |filter: usize, pad: usize| filter as i32 - 1 - pad as i32;
        let pads = [pad(self.r, self.pad[0]), pad(self.s, self.pad[1])];
        let seen = [self.n, self.p(), self.q(), self.k];
        Window::new(seen, [self.h, self.w], [self.r, self.s], pads, by_windows)
    }

    /// How a weight gradient of this many blocks is split: the images of one part, and the number of parts. The sums depend
    /// on it, so the number of threads must not enter.
    fn split(&self, device: &Device, tiles: usize) -> (usize, usize) {
        let tuning = device.tuning();
        let pixels = product([self.n, self.p(), self.q()]);
        let parts = (tuning.split_blocks / tiles).min(pixels / tuning.split_pixels).clamp(1, self.n);
        let images = self.n.div_ceil(parts);
        (images, self.n.div_ceil(images))
    }

    fn weight_gradient_tile(&self, device: &Device, precision: Precision) -> &'static Tile {
        let Tuning { split_blocks, conv_tiles, .. } = device.tuning();
        let (m, n) = (product([self.r, self.s, self.c]), self.k);
        choose(device, precision, *split_blocks, kernel::CONV_WEIGHT_GRADIENT, conv_tiles, m, n)
    }

    /// The tiles across K, and across the taps. More than the grid's y takes are refused, as z is for the parts.
    fn weight_gradient_grid(&self, device: &Device, precision: Precision) -> [u32; 2] {
        let [x, y, z] = grid(self.weight_gradient_tile(device, precision), product([self.r, self.s, self.c]), self.k);
        [x, if device.fixed().all_taps { 1 } else { y * z }]
    }

    /// The same in all precisions, so that the workspace has one length.
    fn weight_gradient_split(&self, device: &Device) -> (usize, usize) {
        let [x, y] = self.weight_gradient_grid(device, Precision::F32);
        self.split(device, x as usize * y as usize)
    }

    /// The same of Winograd's form.
    fn winograd_split(&self, device: &Device, problem: &Problem) -> (usize, usize) {
        let [x, y] = problem.blocks();
        self.split(device, x * y)
    }
}

impl Window {
    fn new(seen: [usize; 4], pixels: [usize; 2], filter: [usize; 2], pad: [i32; 2], by_windows: bool) -> Window {
        let seen = seen.map(|size| size as u32);
        let ([p, q], [r, s]) = (pixels.map(|size| size as u32), filter.map(|size| size as u32));
        let windows = |size: u32| if by_windows { size / 2 } else { size };
        Window {
            seen,
            pixels: [p, q],
            filter: [r, s],
            pad,
            stride: 1,
            by_windows: u32::from(by_windows),
            image: Divisor::new(windows(p) * windows(q)),
            line: Divisor::new(windows(q)),
            filter_row: Divisor::new(s * seen[3]),
            channels: Divisor::new(seen[3]),
        }
    }

    fn with_stride(mut self, stride: usize) -> Window {
        self.stride = stride as u32;
        self
    }
}

/// What kernels are told of a prologue. From sample to sample the scale and shift tables advance by C, or by 0 where there
/// is one row for all.
fn prologue_argument(what: &str, sizes: &Conv, prologue: &Prologue) -> Result<PrologueArgument> {
    // A GPU takes the larger of x and slope * x.
    if !matches!(prologue.activation, Activation::Identity | Activation::LeakyRelu(0.0..=1.0)) {
        let expected = "expected Identity or LeakyRelu with a slope from 0 to 1";
        return Err(Error::Shape(format!("{what}: {:?} before a convolution, {expected}", prologue.activation)));
    }
    let mut table_stride = 0;
    if let Some((scale, shift)) = prologue.scale_shift {
        if scale.len() != sizes.c {
            expect_len(what, "scale (1 or N, C)", scale.len(), product([sizes.n, sizes.c]))?;
            size32("scale (N, C)", scale.len())?;
            table_stride = sizes.c as u32;
        }
        expect_len(what, "shift (as scale)", shift.len(), scale.len())?;
    }
    Ok(PrologueArgument { activation: prologue.activation.into(), up: u32::from(prologue.upsample), table_stride })
}

/// Whether a convolution that is stored in this precision takes Winograd's form on this device.
pub fn has_winograd(device: &Device, sizes: &Conv, precision: Precision) -> bool {
    Problem::chosen(device, sizes, precision).is_some()
}

/// The room that [`conv_forward`] wants beside its filters, in floats.
pub fn forward_workspace_len(device: &Device, sizes: &Conv) -> usize {
    Problem::chosen(device, sizes, Precision::F32).map_or(0, |_| Problem::filters_len(sizes.c, sizes.k))
}

/// `y = act(pool(conv(v)) + bias + residual)`, or added to y.
pub fn conv_forward<'a>(
    sizes: Conv,
    y: &Reals,
    x: &Reals,
    filters: impl Into<Filters<'a>>,
    prologue: &Prologue,
    epilogue: &Epilogue,
) -> Result<()> {
    let what = "conv forward";
    let Filters { values: filters, room } = filters.into();
    sizes.check(what, prologue.upsample, epilogue.pool)?;
    let output = sizes.output_len(epilogue.pool);
    expect_len(what, "y", y.len(), output)?;
    expect_len(what, "x", x.len(), sizes.input_len(prologue.upsample))?;
    expect_len(what, "filters (R, S, C, K)", filters.len(), sizes.filters())?;
    expect_optional(what, "bias (K)", epilogue.bias, sizes.k)?;
    expect_optional(what, "residual (as y)", epilogue.residual, output)?;
    if epilogue.accumulate && epilogue.activation != Activation::Identity {
        return Err(Error::Shape(format!("{what}: {:?} and accumulating, expected Identity", epilogue.activation)));
    }
    let argument = prologue_argument(what, &sizes, prologue)?;
    let device = y.device();
    if let Some(room) = room {
        expect_len(what, "workspace", room.len(), forward_workspace_len(device, &sizes))?;
        if let Some(problem) = Problem::chosen(device, &sizes, x.precision()) {
            return problem.forward((y, x), (filters, room), prologue.scale_shift, argument, epilogue);
        }
    }
    let pixels = product([sizes.n, sizes.p(), sizes.q()]);
    let tile = conv_tile(y, kernel::CONV_FORWARD, pixels, sizes.k);
    let launch = device.launch(tile.kernel, grid(tile, pixels, sizes.k)).product(sizes.flops()).output(y).input(x);
    let launch = launch.optional(prologue.scale_shift.map(|t| t.0)).optional(prologue.scale_shift.map(|t| t.1));
    let launch = launch.input(filters).optional(epilogue.bias).optional(epilogue.residual).scalar(argument);
    let launch = launch.scalar(ActivationArgument::from(epilogue.activation)).scalar(u32::from(epilogue.accumulate));
    // SAFETY: every length was compared with the sizes above, which fit the kernel's numbers; the grid covers y.
    unsafe { launch.scalar(sizes.window(epilogue.pool)).scalar(size32(what, sizes.k)?).run() }
}

/// Workspace of [`conv_input_gradient`], in elements: the turned filters, stored as the filters are, on devices that do not
/// turn them as they read them; or transformed.
pub fn input_gradient_workspace_len(device: &Device, sizes: &Conv) -> usize {
    match Problem::chosen(device, sizes, Precision::F32) {
        Some(_) => Problem::filters_len(sizes.k, sizes.c),
        None if device.fixed().turns_filters => sizes.filters(),
        None => 0,
    }
}

/// `flipped[r][s][k][c] = filters[R - 1 - r][S - 1 - s][c][k]`.
pub fn flip_filters(sizes: &Conv, flipped: &Reals, filters: &Reals) -> Result<()> {
    let what = "conv flip filters";
    sizes.check(what, false, false)?;
    expect_len(what, "flipped", flipped.len(), sizes.filters())?;
    expect_len(what, "filters (R, S, C, K)", filters.len(), sizes.filters())?;
    let (c, k, taps) = (size32(what, sizes.c)?, size32(what, sizes.k)?, size32(what, product([sizes.r, sizes.s]))?);
    let tiles = [k.div_ceil(FLIPPED_TILE), c.div_ceil(FLIPPED_TILE), taps];
    let launch = flipped.device().launch(kernel::CONV_FLIP_FILTERS, tiles);
    let launch = launch.output(flipped).input(filters).scalar(taps).scalar(c).scalar(k);
    // SAFETY: both have R * S * C * K elements, compared above; the grid covers K, C and R * S.
    unsafe { launch.run() }
}

/// `dx = mask * dv`, summed over 2 x 2 where x was upsampled; or added to dx. For a stride of 1. Adds `left` up, too.
pub fn conv_input_gradient(
    sizes: Conv,
    dx: &Reals,
    gradient: &ConvGradient,
    filters: &Reals,
    epilogue: &InputEpilogue,
    workspace: &Reals,
    left: Parts,
) -> Result<()> {
    let what = "conv input gradient";
    sizes.check(what, epilogue.upsample, gradient.pooled)?;
    if sizes.stride != 1 {
        return Err(Error::Shape(format!("{what}: a stride of {}, expected 1", sizes.stride)));
    }
    let input = sizes.input_len(epilogue.upsample);
    gradient.output.check(what, sizes.n, sizes.output_len(gradient.pooled))?;
    expect_len(what, "dx", dx.len(), input)?;
    expect_len(what, "filters (R, S, C, K)", filters.len(), sizes.filters())?;
    let device = dx.device();
    expect_len(what, "workspace", workspace.len(), input_gradient_workspace_len(device, &sizes))?;
    expect_optional(what, "x (as dx)", epilogue.mask.map(|mask| mask.0), input)?;
    if epilogue.mask.is_some() && epilogue.upsample {
        return Err(Error::Shape(format!("{what}: a mask on an upsampled input, expected one of the two")));
    }
    let c = size32(what, sizes.c)?;
    if let Some(problem) = Problem::chosen(device, &sizes, dx.precision()) {
        left.add()?;
        return problem.input_gradient(dx, gradient, (filters, workspace), epilogue);
    }
    let filters = &if device.fixed().turns_filters {
        let turned = workspace.view(0..sizes.filters());
        flip_filters(&sizes, &turned, filters)?;
        turned
    } else {
        filters.clone()
    };
    let pixels = product([sizes.n, sizes.h, sizes.w]);
    let tile = conv_tile(dx, kernel::CONV_INPUT_GRADIENT, pixels, sizes.c);
    let argument =
        GradientArgument { activation: gradient.output.activation.into(), pooled: u32::from(gradient.pooled) };
    let mut grid = grid(tile, pixels, sizes.c);
    let (mut parts, mut unadded) = (PartsArgument::default(), None);
    if let Parts(Some(left)) = left {
        let (argument, blocks) = left.argument()?;
        let rows = blocks.div_ceil(grid[0]);
        // Rows of blocks that lie over the grid's y and z leave no place for more.
        if grid[2] == 1 && grid[1] + rows <= MOST_BLOCKS[1] {
            grid[1] += rows;
            parts = PartsArgument { rows, ..argument };
            unadded = Some(left);
        } else {
            Parts(Some(left)).add()?;
        }
    }
    let launch = device.launch(tile.kernel, grid).product(sizes.flops()).output(dx);
    let launch = launch.optional_output(unadded.as_ref().map(|left| &left.dfilters));
    let launch = launch.optional_output(unadded.as_ref().and_then(|left| left.dbias.as_ref()));
    let launch = launch.input(gradient.output.dy).input(filters).optional(gradient.output.saved_output());
    let launch = launch.optional(gradient.output.row_scale).optional(epilogue.mask.map(|m| m.0));
    let launch = launch.optional(unadded.as_ref().map(|left| &left.parts)).scalar(argument);
    let launch = launch.scalar(epilogue.mask.map_or(1.0, |m| m.1)).scalar(u32::from(epilogue.accumulate));
    // SAFETY: every length was compared with the sizes above, which fit the kernel's numbers, and those of the parts when
    // they were made; the grid covers N * H * W by C, and the parts in rows of their own.
    unsafe { launch.scalar(parts).scalar(sizes.input_gradient_window(epilogue.upsample)).scalar(c).run() }
}

/// Workspace of [`conv_weight_gradient`] with a bias, in floats: the gradients of each part of the images, where there is
/// more than one.
pub fn weight_gradient_workspace_len(device: &Device, sizes: &Conv) -> usize {
    let (_, direct) = sizes.weight_gradient_split(device);
    // Other precisions have the direct form, and the same workspace.
    let problem = Problem::chosen(device, sizes, Precision::F32);
    let parts = problem.map_or(direct, |problem| direct.max(sizes.winograd_split(device, &problem).1));
    if parts > 1 { product([parts, sum([sizes.filters(), sizes.k])]) } else { 0 }
}

/// `dw += v^T g` and, where there is one, `db += g`, summed over all pixels, once the parts are added that it returns. They
/// lie in `workspace`.
pub fn conv_weight_gradient(
    sizes: Conv,
    (dfilters, dbias): (&Reals, Option<&Reals>),
    x: &Reals,
    prologue: &Prologue,
    gradient: &ConvGradient,
    workspace: &Reals,
) -> Result<Parts> {
    let what = "conv weight gradient";
    sizes.check(what, prologue.upsample, gradient.pooled)?;
    gradient.output.check(what, sizes.n, sizes.output_len(gradient.pooled))?;
    expect_len(what, "dfilters (R, S, C, K)", dfilters.len(), sizes.filters())?;
    expect_optional(what, "dbias (K)", dbias, sizes.k)?;
    expect_len(what, "x", x.len(), sizes.input_len(prologue.upsample))?;
    let argument = prologue_argument(what, &sizes, prologue)?;
    let device = dfilters.device();
    expect_len(what, "workspace", workspace.len(), weight_gradient_workspace_len(device, &sizes))?;
    let problem = Problem::chosen(device, &sizes, x.precision());
    let (images, parts) = match &problem {
        Some(problem) => sizes.winograd_split(device, problem),
        None => sizes.weight_gradient_split(device),
    };
    let unadded = || {
        let used = product([parts, sum([sizes.filters(), dbias.map_or(0, |dbias| dbias.len())])]);
        Unadded { dfilters: dfilters.clone(), dbias: dbias.cloned(), parts: workspace.view(0..used), count: parts }
    };
    let unadded = (parts > 1).then(unadded);
    if let Some(problem) = problem {
        let parts = (parts, unadded.as_ref().map(|unadded| &unadded.parts));
        let into = (dfilters, dbias);
        problem.weight_gradient(into, parts, x, (prologue.scale_shift, argument), gradient, images)?;
        return Ok(Parts(unadded));
    }
    let tile = sizes.weight_gradient_tile(device, x.precision());
    let [across, down] = sizes.weight_gradient_grid(device, x.precision());
    let dy = GradientArgument { activation: gradient.output.activation.into(), pooled: u32::from(gradient.pooled) };
    let grid = [across, down + u32::from(dbias.is_some()), parts as u32];
    let launch = device.launch(tile.kernel, grid).product(sizes.flops()).output(dfilters).optional_output(dbias);
    let launch = launch.optional_output((parts > 1).then_some(workspace)).input(x);
    let launch = launch.optional(prologue.scale_shift.map(|t| t.0)).optional(prologue.scale_shift.map(|t| t.1));
    let launch = launch.input(gradient.output.dy).optional(gradient.output.saved_output());
    let launch = launch.optional(gradient.output.row_scale).scalar(argument).scalar(dy);
    let launch = launch.scalar(sizes.window(false)).scalar(size32(what, sizes.k)?).scalar(images as u32);
    // SAFETY: every length was compared with the sizes above, which fit the kernel's numbers; the grid covers R * S * C by
    // K, with one more row for the bias, and its parts all images.
    unsafe { launch.run()? };
    Ok(Parts(unadded))
}

/// `to += from`, in a launch of its own.
pub fn accumulate(to: &Reals, from: &Reals) -> Result<()> {
    expect_len("accumulate", "from", from.len(), to.len())?;
    Parts(Some(Unadded { dfilters: to.clone(), dbias: None, parts: from.clone(), count: 1 })).add()
}
