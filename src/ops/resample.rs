//! Pooling and upsampling of images (N, H, W, C), and labels appended to them as channels.
//!
//! Backward overwrites, or adds where `accumulate` says so.

use super::{expect_len, expect_optional, size32};
use crate::device::{Buffer, Launch, Reals, Variants, kernel};
use crate::sizes::{product, sum};
use crate::{Error, Result};

/// The shape of the input of a pooling, or of an upsampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

impl Image {
    pub fn elements(self) -> usize {
        product([self.n, self.h, self.w, self.c])
    }

    fn pixels(self) -> usize {
        product([self.n, self.h, self.w])
    }

    /// After a 2x2 pooling: an odd last row or column is left out.
    pub fn halved(self) -> Image {
        Image { h: self.h / 2, w: self.w / 2, ..self }
    }

    pub fn doubled(self) -> Image {
        Image { h: product([2, self.h]), w: product([2, self.w]), ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upsampling {
    Nearest,
    /// align_corners = False.
    Bilinear,
}

/// A launch whose blocks walk the pixels of `to`, its first output, which has the shape `walked`; and the pixels of one
/// block.
fn walk<'a>(what: &str, kernel: impl Into<Variants>, to: &'a Reals, walked: Image) -> Result<(Launch<'a>, u32)> {
    let each = (to.device().tuning().elements / walked.c.max(1)).max(1) as u32;
    let blocks = size32(what, walked.pixels())?.div_ceil(each);
    Ok((to.device().launch(kernel, [blocks, 1, 1]).output(to), each))
}

fn check(what: &str, image: Image, tensors: &[(&str, usize, Image)]) -> Result<()> {
    if image.c == 0 {
        return Err(Error::Shape(format!("{what}: an image without channels")));
    }
    size32(what, image.c)?;
    for (name, found, expected) in tensors {
        expect_len(what, name, *found, expected.elements())?;
        size32(what, expected.pixels())?;
    }
    Ok(())
}

/// From `image` to `out`, whose pixels the blocks walk.
fn forward(what: &str, kernel: Variants, y: &Reals, x: &Reals, image: Image, out: Image) -> Result<()> {
    check(what, image, &[("y", y.len(), out), ("x", x.len(), image)])?;
    let (launch, pixels) = walk(what, kernel, y, out)?;
    let launch = launch.input(x).scalar(image.n as u32);
    // SAFETY: `check` compared both lengths with the shapes; each dimension is at most the length.
    unsafe { launch.scalar(image.h as u32).scalar(image.w as u32).scalar(image.c as u32).scalar(pixels).run() }
}

fn backward(
    what: &str,
    kernel: Variants,
    dx: &Reals,
    dy: &Reals,
    image: Image,
    out: Image,
    accumulate: bool,
) -> Result<()> {
    check(what, image, &[("dx", dx.len(), image), ("dy", dy.len(), out)])?;
    let (launch, pixels) = walk(what, kernel, dx, image)?;
    let launch = launch
        .input(dy)
        .scalar(u32::from(accumulate))
        .scalar(image.n as u32)
        .scalar(image.h as u32)
        .scalar(image.w as u32);
    // SAFETY: as in `forward`.
    unsafe { launch.scalar(image.c as u32).scalar(pixels).run() }
}

/// `y` (N, H / 2, W / 2, C): the mean of each 2x2 square of `x`.
pub fn average_pool(y: &Reals, x: &Reals, image: Image) -> Result<()> {
    forward("average pool", kernel::RESAMPLE_AVERAGE_FORWARD, y, x, image, image.halved())
}

pub fn average_pool_backward(dx: &Reals, dy: &Reals, image: Image, accumulate: bool) -> Result<()> {
    let kernel = kernel::RESAMPLE_AVERAGE_BACKWARD;
    backward("average pool backward", kernel, dx, dy, image, image.halved(), accumulate)
}

/// `y` and `which` (N, H / 2, W / 2, C): the maximum of each 2x2 square of `x`, and its place.
pub fn max_pool(y: &Reals, which: &Buffer<u8>, x: &Reals, image: Image) -> Result<()> {
    let (what, out) = ("max pool", image.halved());
    check(what, image, &[("y", y.len(), out), ("which", which.len(), out), ("x", x.len(), image)])?;
    let (launch, pixels) = walk(what, kernel::RESAMPLE_MAX_FORWARD, y, out)?;
    let launch = launch.output(which).input(x).scalar(image.n as u32);
    // SAFETY: `check` compared every length with the shapes.
    unsafe { launch.scalar(image.h as u32).scalar(image.w as u32).scalar(image.c as u32).scalar(pixels).run() }
}

pub fn max_pool_backward(dx: &Reals, dy: &Reals, which: &Buffer<u8>, image: Image, accumulate: bool) -> Result<()> {
    let (what, out) = ("max pool backward", image.halved());
    check(what, image, &[("dx", dx.len(), image), ("dy", dy.len(), out), ("which", which.len(), out)])?;
    let (launch, pixels) = walk(what, kernel::RESAMPLE_MAX_BACKWARD, dx, image)?;
    let launch =
        launch.input(dy).input(which).scalar(u32::from(accumulate)).scalar(image.n as u32).scalar(image.h as u32);
    // SAFETY: `check` compared every length with the shapes.
    unsafe { launch.scalar(image.w as u32).scalar(image.c as u32).scalar(pixels).run() }
}

/// `y` (N, 2 H, 2 W, C).
pub fn upsample(y: &Reals, x: &Reals, image: Image, how: Upsampling) -> Result<()> {
    let kernel = match how {
        Upsampling::Nearest => kernel::RESAMPLE_NEAREST_FORWARD,
        Upsampling::Bilinear => kernel::RESAMPLE_BILINEAR_FORWARD,
    };
    forward("upsample", kernel, y, x, image, image.doubled())
}

pub fn upsample_backward(dx: &Reals, dy: &Reals, image: Image, how: Upsampling, accumulate: bool) -> Result<()> {
    let kernel = match how {
        Upsampling::Nearest => kernel::RESAMPLE_NEAREST_BACKWARD,
        Upsampling::Bilinear => kernel::RESAMPLE_BILINEAR_BACKWARD,
    };
    backward("upsample backward", kernel, dx, dy, image, image.doubled(), accumulate)
}

/// `y` (N, H, W, C + classes): `x` and one plane per class, `mark` in the label's and 0 in the others.
pub fn concat_labels(
    y: &Reals,
    x: &Reals,
    labels: &Buffer<u32>,
    image: Image,
    classes: usize,
    mark: f32,
) -> Result<()> {
    let (what, out) = ("concat labels", Image { c: sum([image.c, classes]), ..image });
    check(what, image, &[("y", y.len(), out), ("x", x.len(), image)])?;
    expect_len(what, "labels", labels.len(), image.n)?;
    let p = size32(what, product([image.h, image.w]))?;
    let (launch, pixels) = walk(what, kernel::RESAMPLE_APPEND_PLANES, y, out)?;
    let launch = launch.input(x).input(labels).scalar(mark).scalar(image.n as u32).scalar(p).scalar(image.c as u32);
    // SAFETY: every length was compared with the shapes above.
    unsafe { launch.scalar(size32(what, classes)?).scalar(pixels).run() }
}

/// `y` (N, H, W, C + E): `x` and the label's row of `embedding` (classes, E) at every pixel.
pub fn concat_embedding(
    y: &Reals,
    x: &Reals,
    embedding: &Reals,
    labels: &Buffer<u32>,
    image: Image,
    width: usize,
) -> Result<()> {
    let (what, out) = ("concat embedding", Image { c: sum([image.c, width]), ..image });
    check(what, image, &[("y", y.len(), out), ("x", x.len(), image)])?;
    expect_len(what, "labels", labels.len(), image.n)?;
    let classes = classes(what, "embedding", embedding.len(), width)?;
    let (launch, pixels) = walk(what, kernel::RESAMPLE_APPEND_EMBEDDING, y, out)?;
    let launch = launch.input(x).input(embedding).input(labels);
    let launch = launch.scalar(image.n as u32).scalar(size32(what, product([image.h, image.w]))?);
    // SAFETY: every length was compared with the shapes above.
    unsafe { launch.scalar(image.c as u32).scalar(width as u32).scalar(classes).scalar(pixels).run() }
}

/// `y` (N, E): the row of `table` (rows, E) of each label; zeros for one beyond them.
pub fn rows(y: &Reals, table: &Reals, labels: &Buffer<u32>, width: usize) -> Result<()> {
    let what = "rows";
    let image = Image { n: labels.len(), h: 1, w: 1, c: width };
    check(what, image, &[("y", y.len(), image)])?;
    let count = classes(what, "table", table.len(), width)?;
    let (launch, pixels) = walk(what, kernel::RESAMPLE_APPEND_EMBEDDING, y, image)?;
    // Appended to images without channels, of which nothing is read.
    let launch = launch.input(table).input(table).input(labels).scalar(image.n as u32).scalar(1u32).scalar(0u32);
    // SAFETY: `check` and `classes` compared every length with the shapes.
    unsafe { launch.scalar(width as u32).scalar(count).scalar(pixels).run() }
}

fn classes(what: &str, name: &str, len: usize, width: usize) -> Result<u32> {
    if width == 0 || !len.is_multiple_of(width) {
        return Err(Error::Shape(format!("{what}: {name} has {len} elements, expected classes * E with E = {width}")));
    }
    size32(what, width)?;
    size32(what, len / width)
}

/// The gradient of either `concat` with respect to the image: `dx` (N, H, W, C), the first channels of `dy`
/// (N, H, W, C + appended).
pub fn concat_backward(dx: &Reals, dy: &Reals, image: Image, appended: usize, accumulate: bool) -> Result<()> {
    let (what, out) = ("concat backward", Image { c: sum([image.c, appended]), ..image });
    check(what, image, &[("dx", dx.len(), image), ("dy", dy.len(), out)])?;
    let (launch, pixels) = walk(what, kernel::RESAMPLE_DROP, dx, image)?;
    let launch = launch.input(dy).scalar(u32::from(accumulate));
    let launch =
        launch.scalar(image.n as u32).scalar(size32(what, product([image.h, image.w]))?).scalar(image.c as u32);
    // SAFETY: `check` compared both lengths with the shapes.
    unsafe { launch.scalar(size32(what, appended)?).scalar(pixels).run() }
}

/// Adds to each row of `dembedding` (classes, E) the last E channels of `dy`, summed over the pixels and over the samples
/// of that label, each sample times its `scale` (N; 1 without). `workspace` has N * E floats.
pub fn concat_embedding_backward(
    dembedding: &Reals,
    dy: &Reals,
    labels: &Buffer<u32>,
    scale: Option<&Reals>,
    image: Image,
    width: usize,
    workspace: &Reals,
) -> Result<()> {
    let what = "concat embedding backward";
    check(what, image, &[("dy", dy.len(), Image { c: sum([image.c, width]), ..image })])?;
    expect_len(what, "labels", labels.len(), image.n)?;
    expect_len(what, "workspace", workspace.len(), product([image.n, width]))?;
    expect_optional(what, "scale", scale, image.n)?;
    let classes = classes(what, "dembedding", dembedding.len(), width)?;
    let (n, p) = (size32(what, image.n)?, size32(what, product([image.h, image.w]))?);
    let device = dy.device();
    let launch = device.launch(kernel::RESAMPLE_EMBEDDING_PIXELS, [n, 1, 1]).output(workspace).input(dy);
    // SAFETY: every length was compared with the shapes above; here and below.
    unsafe { launch.scalar(p).scalar(image.c as u32).scalar(width as u32).run()? };
    let launch = device.launch(kernel::RESAMPLE_EMBEDDING_BACKWARD_F32, [n, 1, 1]);
    let launch = launch.output(dembedding).input(workspace).input(labels).optional(scale);
    // SAFETY: as above.
    unsafe { launch.scalar(n).scalar(width as u32).scalar(classes).run() }
}
