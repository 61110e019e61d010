//! Batch norm over features, plain and class-conditional, with the activation after it and nearest upsampling.

use super::{Activation, expect_len, size32};
use crate::device::{Buffer, Communicator, Device, Launch, Reals, Reduction, Variants, kernel};
use crate::sizes::{product, sum};
use crate::{Error, Result};

/// What is normalised: (N, H, W, C), H = W = 1 in a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    /// The output is (N, 2 H, 2 W, C), every pixel repeated 2 x 2.
    pub upsample: bool,
}

impl Shape {
    /// N samples of C features.
    pub fn features(n: usize, c: usize) -> Shape {
        Shape { n, h: 1, w: 1, c, upsample: false }
    }

    pub fn input_len(&self) -> usize {
        product([self.rows(), self.c])
    }

    pub fn output_len(&self) -> usize {
        product([self.input_len(), if self.upsample { 4 } else { 1 }])
    }

    fn rows(&self) -> usize {
        product([self.n, self.h, self.w])
    }

    fn check(&self) -> Result<()> {
        if self.input_len() == 0 {
            let Shape { n, h, w, c, .. } = self;
            return Err(Error::Shape(format!("norm: {n} x {h} x {w} x {c} values, at least one of each is needed")));
        }
        size32("norm", self.output_len())?;
        Ok(())
    }

    fn width(&self) -> u32 {
        if self.upsample { self.w as u32 } else { 0 }
    }
}

/// What [`apply`] takes, and a convolution that normalises what it reads: z = scale x + shift. There is one row, or one
/// per sample where there are labels.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// (S, C)
    pub scale: &'a Reals,
    /// (S, C)
    pub shift: &'a Reals,
}

/// A batch and what [`statistics`] makes of it, which [`backward`] needs again.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// (N, H, W, C)
    pub x: &'a Reals,
    /// (C)
    pub mean: &'a Reals,
    /// (C): 1 / sqrt(variance + eps)
    pub rstd: &'a Reals,
    pub tables: Tables<'a>,
    /// Where it is a rank's share of a batch, and the statistics are those of the whole.
    pub whole: Option<Whole<'a>>,
}

/// The batch of all ranks together, of which each normalises its share ([`Communicator::share`]). Calls are then collective.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// Samples of all ranks.
    pub samples: usize,
    /// (3, ranks, C): room for the moments of each rank's share.
    pub moments: &'a Reals,
}

impl<'a> Batch<'a> {
    /// The whole that it is a share of, and who has the other shares.
    fn ranks(&self) -> Option<(Whole<'a>, &'a dyn Communicator)> {
        self.whole.zip(self.x.device().ranks())
    }

    fn check(&self, table_rows: usize, shape: Shape) -> Result<()> {
        shape.check()?;
        if let Some((Whole { samples, moments }, ranks)) = self.ranks() {
            expect_len("norm", "samples of this rank", shape.n, ranks.share(samples).len())?;
            expect_len("norm", "moments", moments.len(), product([3, ranks.ranks(), shape.c]))?;
            size32("norm", product([samples, shape.h, shape.w]))?;
        }
        expect_len("norm", "x", self.x.len(), shape.input_len())?;
        expect_len("norm", "mean", self.mean.len(), shape.c)?;
        expect_len("norm", "rstd", self.rstd.len(), shape.c)?;
        check_tables(self.tables, table_rows, shape)
    }
}

/// The learnt scale and shift: (C), or, with a label (N) for each sample, (classes, C).
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    pub gamma: &'a Reals,
    pub beta: &'a Reals,
    pub labels: Option<&'a Buffer<u32>>,
}

/// Running statistics (C), and how far a batch moves them: `1 / k` at the k-th batch makes plain averages.
#[derive(Clone, Copy, Debug)]
pub struct Running<'a> {
    pub mean: &'a Reals,
    pub var: &'a Reals,
    pub momentum: f32,
}

impl Running<'_> {
    fn check(&self, shape: Shape) -> Result<()> {
        expect_len("norm", "running mean", self.mean.len(), shape.c)?;
        expect_len("norm", "running var", self.var.len(), shape.c)
    }
}

impl Affine<'_> {
    /// Rows of the tables, and classes.
    fn check(&self, shape: Shape) -> Result<(usize, usize)> {
        expect_len("norm", "beta", self.beta.len(), self.gamma.len())?;
        let Some(labels) = self.labels else {
            expect_len("norm", "gamma", self.gamma.len(), shape.c)?;
            return Ok((1, 1));
        };
        expect_len("norm", "labels", labels.len(), shape.n)?;
        let len = self.gamma.len();
        if len == 0 || !len.is_multiple_of(shape.c.max(1)) {
            return Err(Error::Shape(format!("norm: gamma has {len} elements, expected classes * {}", shape.c)));
        }
        Ok((shape.n, len / shape.c.max(1)))
    }
}

/// How blocks share the rows: each of `groups` groups of `span` rows has `splits` blocks of `chunk` rows.
struct Split {
    groups: usize,
    span: usize,
    chunk: usize,
    splits: usize,
    tiles: usize,
}

impl Split {
    /// `groups` is 1 or, where each sample has its own row of the tables, the number of samples.
    fn new(device: &Device, shape: Shape, groups: usize) -> Split {
        let tuning = device.tuning();
        let span = shape.rows() / groups;
        let (chunk, splits) = (tuning.rows, span.div_ceil(tuning.rows));
        Split { groups, span, chunk, splits, tiles: shape.c.div_ceil(device.fixed().columns) }
    }

    fn parts(&self) -> usize {
        product([self.groups, self.splits])
    }

    fn grid(&self) -> [u32; 3] {
        [(self.parts() * self.tiles) as u32, 1, 1]
    }
}

/// Workspace of `statistics` and of `backward`, in floats.
pub fn workspace_len(device: &Device, shape: Shape, conditional: bool) -> usize {
    let split = Split::new(device, shape, if conditional { shape.n } else { 1 });
    let moments = Split::new(device, shape, 1).splits;
    product([shape.c, sum([product([2, split.parts()]), 2]).max(product([3, moments]))])
}

fn check_tables(tables: Tables, rows: usize, shape: Shape) -> Result<()> {
    expect_len("norm", "scale", tables.scale.len(), product([rows, shape.c]))?;
    expect_len("norm", "shift", tables.shift.len(), product([rows, shape.c]))
}

/// The batch's mean and deviation, the tables that follow from them, and, where given, the running statistics moved
/// towards them. One launch up to 256 rows, two above; of a rank's share of a batch, one more and a sum over the ranks.
/// `workspace` has [`workspace_len`] floats.
pub fn statistics(
    batch: Batch,
    running: Option<Running>,
    affine: Affine,
    eps: f32,
    shape: Shape,
    workspace: &Reals,
) -> Result<()> {
    let (table_rows, _) = affine.check(shape)?;
    batch.check(table_rows, shape)?;
    running.map_or(Ok(()), |running| running.check(shape))?;
    let x = batch.x;
    let device = x.device();
    expect_len("norm", "workspace", workspace.len(), workspace_len(device, shape, affine.labels.is_some()))?;
    if let Some((whole, ranks)) = batch.ranks() {
        return statistics_of_ranks(batch, (whole, ranks), running, affine, eps, shape, workspace);
    }
    let split = Split::new(device, shape, 1);
    let one = split.splits == 1;
    if !one {
        let launch = device.launch(kernel::NORM_MOMENTS, split.grid()).output(workspace).input(x);
        let launch = launch.scalar(shape.rows() as u32).scalar(shape.c as u32);
        // SAFETY: `x` has R * C elements; the workspace holds three rows per split.
        unsafe { launch.scalar(split.chunk as u32).scalar(split.splits as u32).run()? };
    }
    if one {
        let launch = finishing(kernel::NORM_STATISTICS_ONE, batch, x, running, affine, (eps, shape.rows()), shape)?;
        // SAFETY: every length was compared above; labels beyond the classes are clamped by the kernel.
        return unsafe { launch.run() };
    }
    let launch =
        finishing(kernel::NORM_STATISTICS_MANY_F32, batch, workspace, running, affine, (eps, shape.rows()), shape)?;
    let others = split.splits - 1;
    let launch = launch.scalar(split.chunk as u32).scalar((shape.rows() - others * split.chunk) as u32);
    // SAFETY: as above; the workspace holds three rows per split.
    unsafe { launch.scalar(others as u32).scalar(split.splits as u32).run() }
}

/// The launch that ends in statistics, from `x` or from partial moments, of so many rows.
fn finishing<'a>(
    kernel: impl Into<Variants>,
    batch: Batch<'a>,
    from: &'a Reals,
    running: Option<Running<'a>>,
    affine: Affine<'a>,
    (eps, all): (f32, usize),
    shape: Shape,
) -> Result<Launch<'a>> {
    let (rows, classes) = affine.check(shape)?;
    let device = batch.x.device();
    let tiles = Split::new(device, shape, 1).tiles;
    let launch = device.launch(kernel, [tiles as u32, 1, 1]).output(batch.tables.scale).output(batch.tables.shift);
    let launch = launch.output(batch.mean).output(batch.rstd);
    let launch = launch.optional_output(running.map(|r| r.mean)).optional_output(running.map(|r| r.var)).input(from);
    let launch = launch.input(affine.gamma).input(affine.beta).optional(affine.labels);
    let launch = launch.scalar(eps).scalar(running.map_or(0.0, |r| r.momentum)).scalar(all as u32);
    Ok(launch.scalar(rows as u32).scalar(shape.c as u32).scalar(classes as u32))
}

/// The same of the batch that `batch` is a share of. What other ranks have of the moments is zero here, until they are summed.
fn statistics_of_ranks(
    batch: Batch,
    (Whole { samples, moments }, ranks): (Whole, &dyn Communicator),
    running: Option<Running>,
    affine: Affine,
    eps: f32,
    shape: Shape,
    workspace: &Reals,
) -> Result<()> {
    let (c, count, pixels) = (shape.c, ranks.ranks(), product([shape.h, shape.w]));
    let of_rank = |kind: usize| moments.view((kind * count + ranks.rank()) * c..(kind * count + ranks.rank() + 1) * c);
    let [mean, squares] = [of_rank(0), of_rank(1)];
    moments.zero()?;
    // From 0, a running variance goes all the way to sum / (R - 1), R - 1 times: that is the sum. The running mean is of no use.
    let share = Running { mean: batch.mean, var: &squares, momentum: (shape.rows() - 1) as f32 };
    statistics(Batch { mean: &mean, whole: None, ..batch }, Some(share), affine, eps, shape, workspace)?;
    ranks.all_reduce(&moments.view(0..2 * count * c), Reduction::Sum)?;
    let of_all = (eps, product([samples, pixels]));
    let launch = finishing(kernel::NORM_STATISTICS_MANY_F32, batch, moments, running, affine, of_all, shape)?;
    let (larger, rest) = (samples % count, samples / count * pixels);
    // SAFETY: lengths were compared by `statistics`; there are three rows of moments for each rank.
    unsafe {
        launch.scalar((rest + pixels) as u32).scalar(rest as u32).scalar(larger as u32).scalar(count as u32).run()
    }
}

/// The tables from running statistics, for evaluation.
pub fn running_tables(tables: Tables, running: Running, affine: Affine, eps: f32, shape: Shape) -> Result<()> {
    shape.check()?;
    let (rows, classes) = affine.check(shape)?;
    check_tables(tables, rows, shape)?;
    running.check(shape)?;
    let device = tables.scale.device();
    let grid = [Split::new(device, shape, 1).tiles as u32, 1, 1];
    let launch = device.launch(kernel::NORM_TABLES_F32, grid).output(tables.scale).output(tables.shift);
    let launch = launch.input(running.mean).input(running.var);
    let launch = launch.input(affine.gamma).input(affine.beta).optional(affine.labels);
    let launch = launch.scalar(eps).scalar(rows as u32).scalar(shape.c as u32).scalar(classes as u32);
    // SAFETY: every length was compared above; labels beyond the classes are clamped by the kernel.
    unsafe { launch.run() }
}

/// Rows of the tables: 1 or N.
fn table_rows(tables: Tables, shape: Shape) -> Result<usize> {
    let rows = if tables.scale.len() == shape.c { 1 } else { shape.n };
    check_tables(tables, rows, shape)?;
    Ok(rows)
}

/// `y` = activation(scale `x` + shift), upsampled where the shape says so.
pub fn apply(y: &Reals, x: &Reals, tables: Tables, activation: Activation, shape: Shape) -> Result<()> {
    shape.check()?;
    expect_len("norm", "x", x.len(), shape.input_len())?;
    expect_len("norm", "y", y.len(), shape.output_len())?;
    let split = Split::new(x.device(), shape, table_rows(tables, shape)?);
    let (code, slope) = activation.code();
    let launch = x.device().launch(kernel::NORM_APPLY, split.grid());
    let launch = launch.output(y).input(x).input(tables.scale).input(tables.shift).scalar(code).scalar(slope);
    let launch = launch.scalar(split.span as u32).scalar(shape.c as u32).scalar(split.chunk as u32);
    // SAFETY: every length was compared above.
    unsafe { launch.scalar(split.splits as u32).scalar(shape.width()).run() }
}

/// What [`backward`] writes.
pub struct Gradients<'a> {
    /// (N, H, W, C); overwritten, or added to where `accumulate` is set.
    pub dx: &'a Reals,
    pub accumulate: bool,
    /// As gamma; added to.
    pub dgamma: &'a Reals,
    /// As beta; added to.
    pub dbeta: &'a Reals,
}

/// All gradients from `dy`, that of [`apply`]'s output. Three launches, and of a rank's share of a batch a sum over the ranks,
/// whose gradients of gamma and beta are those of their own shares. `workspace` has [`workspace_len`] floats.
pub fn backward(
    gradients: Gradients,
    dy: &Reals,
    batch: Batch,
    affine: Affine,
    activation: Activation,
    shape: Shape,
    workspace: &Reals,
) -> Result<()> {
    let (rows, classes) = affine.check(shape)?;
    batch.check(rows, shape)?;
    let Batch { x, mean, rstd, tables, .. } = batch;
    let Affine { gamma, labels, .. } = affine;
    expect_len("norm backward", "dy", dy.len(), shape.output_len())?;
    expect_len("norm backward", "dx", gradients.dx.len(), shape.input_len())?;
    expect_len("norm backward", "dgamma", gradients.dgamma.len(), gamma.len())?;
    expect_len("norm backward", "dbeta", gradients.dbeta.len(), gamma.len())?;
    let device = x.device();
    expect_len("norm backward", "workspace", workspace.len(), workspace_len(device, shape, labels.is_some()))?;
    let split = Split::new(device, shape, rows);
    let partials = workspace.view(0..2 * shape.c * split.parts());
    let coefficients = workspace.view(partials.len()..partials.len() + 2 * shape.c);
    let (code, slope) = activation.code();

    let launch = device.launch(kernel::NORM_BACKWARD_SUMS, split.grid()).output(&partials).input(dy).input(x);
    let launch = launch.input(mean).input(rstd).input(tables.scale).input(tables.shift);
    let launch = launch.scalar(code).scalar(slope).scalar(split.span as u32).scalar(shape.c as u32);
    // SAFETY: every length was compared above.
    unsafe { launch.scalar(split.chunk as u32).scalar(split.splits as u32).scalar(shape.width()).run()? };

    let launch = device.launch(kernel::NORM_BACKWARD_FINISH_F32, [(split.groups * split.tiles) as u32, 1, 1]);
    let launch = launch.output(gradients.dgamma).output(gradients.dbeta).output(&coefficients).input(&partials);
    let launch = launch.input(rstd).input(gamma).optional(labels);
    let all = batch.ranks().map_or(shape.n, |(whole, _)| whole.samples);
    let launch = launch.scalar(product([all, shape.h, shape.w]) as u32).scalar(shape.c as u32).scalar(classes as u32);
    // SAFETY: as above; labels beyond the classes are clamped by the kernel.
    unsafe { launch.scalar(split.parts() as u32).scalar(split.splits as u32).run()? };
    if let Some((_, ranks)) = batch.ranks() {
        ranks.all_reduce(&coefficients, Reduction::Sum)?;
    }

    let launch = device.launch(kernel::NORM_INPUT_GRADIENT, split.grid()).output(gradients.dx).input(dy).input(x);
    let launch = launch.input(mean).input(rstd).input(tables.scale).input(tables.shift);
    let launch = launch.input(&coefficients).scalar(code).scalar(slope).scalar(u32::from(gradients.accumulate));
    let launch = launch.scalar(split.span as u32).scalar(shape.c as u32).scalar(split.chunk as u32);
    // SAFETY: as above.
    unsafe { launch.scalar(split.splits as u32).scalar(shape.width()).run() }
}
