//! The other form of a 3x3 convolution, and of its gradients, on a CPU: see `kernels/winograd.cu`. [`super::conv`] checks sizes
//! and lengths, and takes this form where [`Problem::chosen`] says so.

use super::ActivationArgument;
use super::conv::{Conv, ConvGradient, Epilogue, InputEpilogue, PrologueArgument};
use crate::Result;
use crate::device::{Convolution, Device, Launch, Precision, Reals, SCRATCH_BYTES, kernel};
use crate::sizes::product;

/// Channels of a panel, and of the square of channels that a block of the weight gradient has: `PANEL` and `SIDE` in the kernels.
const PANEL: usize = 16;
const SIDE: usize = 64;
/// Pixels of a tile of the output in a row, and points.
const OUTPUTS: usize = 4;
const POINTS: usize = 36;
/// Tiles of a strip: as many as keep the registers full and stay in a core's cache.
const TILES: usize = 24;

/// The mirror of `Tiles` in kernels/winograd.cu.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct TilesArgument {
    /// N, H, W, C, K.
    sizes: [u32; 5],
    across: u32,
    down: u32,
}

/// A convolution that has this form.
#[derive(Clone, Copy)]
pub(super) struct Problem {
    sizes: Conv,
    across: usize,
    down: usize,
}

impl Problem {
    /// None where there is no such form.
    pub fn of(sizes: &Conv) -> Option<Problem> {
        let Conv { h, w, c, k, r, s, pad, stride, .. } = *sizes;
        let form = (r, s, pad, stride) == (3, 3, [1, 1], 1) && c % PANEL == 0 && k % PANEL == 0;
        let problem = Problem { sizes: *sizes, across: w.div_ceil(OUTPUTS), down: h.div_ceil(OUTPUTS) };
        let deepest = c.max(k);
        // Twice, so that a weight gradient's strips have room, too.
        let row = product([POINTS, problem.across, deepest + PANEL]).saturating_mul(2);
        (form && row <= MOST_FLOATS).then_some(problem)
    }

    /// The form for this problem on this device, or None where it is the direct one.
    pub fn chosen(device: &Device, sizes: &Conv, precision: Precision) -> Option<Problem> {
        let (there, pays) = device.winograd();
        let problem = Problem::of(sizes).filter(|_| there && precision == Precision::F32)?;
        match device.tuning().convolution {
            Convolution::Direct => None,
            Convolution::Winograd => Some(problem),
            Convolution::Auto => (pays && problem.pays(device.tuning().winograd_tiles)).then_some(problem),
        }
    }

    /// With few tiles, the work on the filters decides: `zgan tune` measures how many there must be. Where tiles reach far past
    /// the image, the direct form has less to do (docs/benchmarks.md).
    fn pays(&self, least: usize) -> bool {
        let tiles = product([self.sizes.n, self.across, self.down]);
        tiles >= least && tiles * OUTPUTS * OUTPUTS <= 3 * product([self.sizes.n, self.sizes.h, self.sizes.w])
    }

    /// Multiplications and additions between the transforms: what is left of those of the direct form.
    fn flops(&self) -> usize {
        product([2, POINTS, self.sizes.n, self.across, self.down, self.sizes.c, self.sizes.k])
    }

    fn rows(&self) -> usize {
        self.sizes.n * self.down
    }

    /// Rows of tiles in each of the strips that `rows` of them are cut into. Of a few strips, each worker gets as many.
    fn strip(&self, rows: usize, depth: usize, workers: usize) -> usize {
        let room = MOST_FLOATS / product([POINTS, depth + PANEL]);
        let most = (TILES.min(room) / self.across).max(1);
        let strips = rows.div_ceil(most);
        rows.div_ceil(if strips < 4 * workers { strips.next_multiple_of(workers) } else { strips })
    }

    /// Floats of filters from `depth` to `outputs` channels, transformed.
    pub fn filters_len(depth: usize, outputs: usize) -> usize {
        product([POINTS, depth + 1, outputs])
    }

    fn argument(&self) -> TilesArgument {
        let Conv { n, h, w, c, k, .. } = self.sizes;
        TilesArgument {
            sizes: [n, h, w, c, k].map(|size| size as u32),
            across: self.across as u32,
            down: self.down as u32,
        }
    }

    fn transform(&self, to: &Reals, filters: &Reals, turned: bool) -> Result<()> {
        let (c, k) = (self.sizes.c as u32, self.sizes.k as u32);
        let panels = [k, c].map(|channels| channels / PANEL as u32);
        let grid = if turned { [panels[1], panels[0], 1] } else { [panels[0], panels[1], 1] };
        let launch = to.device().launch(kernel::WINOGRAD_FILTERS_F32, grid).output(to).input(filters);
        // SAFETY: the callers compared the lengths of both; the grid covers all channels.
        unsafe { launch.scalar(c).scalar(k).scalar(u32::from(turned)).run() }
    }

    /// A launch with a block for each strip, and the rows of tiles of a strip.
    fn strips<'a>(
        &self,
        device: &'a Device,
        kernel: &'static crate::device::Kernel,
        depth: usize,
    ) -> (Launch<'a>, u32) {
        let each = self.strip(self.rows(), depth, device.workers());
        let launch = device.launch(kernel, [self.rows().div_ceil(each) as u32, 1, 1]);
        (launch.product(self.flops()), each as u32)
    }

    /// As [`super::conv::conv_forward`], which has compared all lengths; `room` is of [`Problem::filters_len`].
    pub fn forward(
        &self,
        (y, x): (&Reals, &Reals),
        (filters, room): (&Reals, &Reals),
        scale_shift: Option<(&Reals, &Reals)>,
        prologue: PrologueArgument,
        epilogue: &Epilogue,
    ) -> Result<()> {
        self.transform(room, filters, false)?;
        let (launch, each) = self.strips(y.device(), kernel::WINOGRAD_FORWARD_F32, self.sizes.c);
        let launch = launch.output(y).input(x).optional(scale_shift.map(|t| t.0)).optional(scale_shift.map(|t| t.1));
        let launch = launch.input(room).optional(epilogue.bias).optional(epilogue.residual);
        let launch = launch.scalar(prologue.activation).scalar(prologue.up).scalar(prologue.table_stride);
        let launch = launch.scalar(ActivationArgument::from(epilogue.activation));
        let launch = launch.scalar(u32::from(epilogue.accumulate)).scalar(u32::from(epilogue.pool));
        // SAFETY: the caller compared every length with the sizes; the strips cover all rows of tiles.
        unsafe { launch.scalar(self.argument()).scalar(each).run() }
    }

    /// As [`super::conv::conv_input_gradient`], which has compared all lengths.
    pub fn input_gradient(
        &self,
        dx: &Reals,
        gradient: &ConvGradient,
        (filters, room): (&Reals, &Reals),
        epilogue: &InputEpilogue,
    ) -> Result<()> {
        self.transform(room, filters, true)?;
        let (launch, each) = self.strips(dx.device(), kernel::WINOGRAD_INPUT_GRADIENT_F32, self.sizes.k);
        let launch = launch.output(dx).input(gradient.output.dy).input(room).optional(gradient.output.saved_output());
        let launch = launch.optional(gradient.output.row_scale).optional(epilogue.mask.map(|m| m.0));
        let launch = launch.scalar(ActivationArgument::from(gradient.output.activation));
        let launch = launch.scalar(u32::from(gradient.pooled)).scalar(epilogue.mask.map_or(1.0, |m| m.1));
        let launch = launch.scalar(u32::from(epilogue.accumulate)).scalar(u32::from(epilogue.upsample));
        // SAFETY: as above.
        unsafe { launch.scalar(self.argument()).scalar(each).run() }
    }

    /// Blocks of channels of the weight gradient, across K and across C.
    pub fn blocks(&self) -> [usize; 2] {
        [self.sizes.k, self.sizes.c].map(|channels| channels.div_ceil(SIDE))
    }

    /// As [`super::conv::conv_weight_gradient`], which has compared all lengths. The images go in parts of `images`.
    pub fn weight_gradient(
        &self,
        (dfilters, dbias): (&Reals, Option<&Reals>),
        parts: (usize, Option<&Reals>),
        x: &Reals,
        (scale_shift, prologue): (Option<(&Reals, &Reals)>, PrologueArgument),
        gradient: &ConvGradient,
        images: usize,
    ) -> Result<()> {
        let [across, down] = self.blocks().map(|blocks| blocks as u32);
        let launch = dfilters.device().launch(kernel::WINOGRAD_WEIGHT_GRADIENT_F32, [across, down, parts.0 as u32]);
        let launch = launch.product(self.flops()).output(dfilters).optional_output(dbias);
        let launch = launch.optional_output(parts.1).input(x);
        let launch = launch.optional(scale_shift.map(|t| t.0)).optional(scale_shift.map(|t| t.1));
        let launch = launch.input(gradient.output.dy).optional(gradient.output.saved_output());
        let launch = launch.optional(gradient.output.row_scale);
        let launch = launch.scalar(prologue.activation).scalar(prologue.up).scalar(prologue.table_stride);
        let launch = launch.scalar(ActivationArgument::from(gradient.output.activation));
        let launch = launch.scalar(u32::from(gradient.pooled)).scalar(self.argument()).scalar(images as u32);
        let each = self.strip(images * self.down, SIDE, 1);
        // SAFETY: as above; the grid covers C, K, and in its parts all images.
        unsafe { launch.scalar(each as u32).run() }
    }
}

/// What a strip of pixels may take of a thread's working memory; the rest of that is for sums and for half transformed rows.
const MOST_FLOATS: usize = SCRATCH_BYTES / 4 * 2 / 3;
