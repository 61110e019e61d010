//! Resizing of bytes, and pooling of any window into a slice of channels, for networks that judge images: see
//! `kernels/features.cu`. All in f32.

use super::resample::Image;
use super::{expect_len, size32};
use crate::data::ImageShape;
use crate::device::{Buffer, Device, Reals, kernel};
use crate::sizes::{product, sum};
use crate::{Error, Result};

/// How an image is brought to another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Of the two nearest pixels, whose middles lie at i + 1/2: PyTorch, `align_corners=False`.
    Bilinear,
    /// Of the two nearest pixels, whose middles lie at i: TensorFlow 1.
    BilinearFromCorner,
    /// Keys' cubic (a = -1/2), as wide as the pixels that become one: Pillow.
    Bicubic,
}

/// The weights of the pixels of one axis that each pixel of the result is made of.
struct Taps {
    first: Buffer<u32>,
    weights: Reals,
    each: usize,
}

impl Filter {
    /// The first of the `from` pixels that each of `to` pixels is made of, and the weights from it on, as many for each.
    fn taps(self, from: usize, to: usize) -> (Vec<u32>, Vec<f32>, usize) {
        let scale = from as f64 / to as f64;
        let spread = scale.max(1.0);
        let weights = |i: usize| -> (usize, Vec<f64>) {
            match self {
                Filter::Bicubic => {
                    let middle = (i as f64 + 0.5) * scale;
                    let first = (middle - 2.0 * spread + 0.5).max(0.0) as usize;
                    let last = ((middle + 2.0 * spread + 0.5) as usize).min(from);
                    let all: Vec<f64> = (first..last).map(|x| cubic((x as f64 - middle + 0.5) / spread)).collect();
                    let whole: f64 = all.iter().sum();
                    (first, all.iter().map(|weight| weight / whole).collect())
                }
                _ => {
                    // Both programs compute the place in f32.
                    let scale = scale as f32;
                    let at = match self {
                        Filter::Bilinear => (scale * (i as f32 + 0.5) - 0.5).max(0.0),
                        _ => scale * i as f32,
                    };
                    let first = (at as usize).min(from - 1);
                    let share = if first + 1 < from { f64::from(at - first as f32) } else { 0.0 };
                    (first, vec![1.0 - share, share])
                }
            }
        };
        let all: Vec<(usize, Vec<f64>)> = (0..to).map(weights).collect();
        let each = all.iter().map(|(_, weights)| weights.len()).max().unwrap_or(1).min(from);
        let (mut starts, mut values) = (Vec::with_capacity(to), vec![0.0; product([to, each])]);
        for ((first, weights), to) in all.iter().zip(values.chunks_exact_mut(each)) {
            // All read as many pixels: at the end, some before the first, with a weight of 0.
            let start = (*first).min(from - each);
            starts.push(start as u32);
            let there = weights.iter().take(from - first);
            to[first - start..].iter_mut().zip(there).for_each(|(to, weight)| *to = *weight as f32);
        }
        (starts, values, each)
    }
}

fn cubic(x: f64) -> f64 {
    let x = x.abs();
    match x {
        0.0..1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        1.0..2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    }
}

/// Brings bytes (N, H, W, C) to numbers (N, P, Q, K). Images have 1 or 3 channels, and K is as C, or 3 where C is 1.
pub struct Resize {
    from: ImageShape,
    to: [usize; 3],
    rows: Taps,
    columns: Taps,
    range: (f32, f32),
}

impl Resize {
    /// From images of this shape to `to`, which is (P, Q, K). A byte becomes `range.0 * byte + range.1`.
    pub fn new(device: &Device, from: ImageShape, to: [usize; 3], filter: Filter, range: (f32, f32)) -> Result<Resize> {
        if !matches!((from.channels, to[2]), (1, 1 | 3) | (3, 3)) || from.is_empty() || to.contains(&0) {
            let expected = "expected 1 or 3 channels, and no size of 0";
            return Err(Error::Shape(format!("resize: images of {from} to {to:?}, {expected}")));
        }
        let taps = |from: usize, to: usize| -> Result<Taps> {
            size32("resize", from.max(to))?;
            let (first, weights, each) = filter.taps(from, to);
            Ok(Taps { first: device.upload(&first)?, weights: device.upload(&weights)?, each })
        };
        Ok(Resize { from, to, rows: taps(from.height, to[0])?, columns: taps(from.width, to[1])?, range })
    }

    /// `y` (N, P, Q, K) of the bytes `x` (N, H, W, C).
    pub fn run(&self, y: &Reals, x: &Buffer<u8>) -> Result<()> {
        let (what, [p, q, k]) = ("resize", self.to);
        let n = x.len().div_ceil(self.from.len());
        expect_len(what, "x", x.len(), product([n, self.from.len()]))?;
        expect_len(what, "y", y.len(), product([n, p, q, k]))?;
        size32(what, x.len())?;
        size32(what, y.len())?;
        let pixels = (y.device().tuning().elements / k).max(1);
        let blocks = (n * p * q).div_ceil(pixels) as u32;
        let launch = y.device().launch(kernel::FEATURES_RESIZE_F32, [blocks, 1, 1]).output(y).input(x);
        let launch = launch.input(&self.rows.first).input(&self.rows.weights);
        let launch = launch.input(&self.columns.first).input(&self.columns.weights);
        let launch = launch.scalar(self.range.0).scalar(self.range.1);
        let ImageShape { height, width, channels } = self.from;
        let sizes = [n, height, width, channels, p, q, k, self.rows.each, self.columns.each, pixels];
        let launch = sizes.iter().fold(launch, |launch, size| launch.scalar(*size as u32));
        // SAFETY: both lengths were compared with the sizes, which fit 32 bits; `taps` made as many starts and weights as P and Q
        // ask for, each with its last pixel within H and W; the grid covers y.
        unsafe { launch.run() }
    }
}

/// What a pooling makes of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    Maximum,
    /// Of the pixels that exist.
    Mean,
    /// Of the whole window, whose padding is 0.
    MeanWithPadding,
}

/// A square window that moves over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    pub how: Pooling,
    pub size: usize,
    pub stride: usize,
    pub pad: usize,
}

impl Pool {
    /// A window of one pixel: the same again.
    pub const COPY: Pool = Pool { how: Pooling::Maximum, size: 1, stride: 1, pad: 0 };

    /// Rows or columns of the result, of so many; 0 where the window does not fit.
    pub fn out(&self, side: usize) -> usize {
        let padded = sum([side, product([2, self.pad])]);
        if padded < self.size { 0 } else { (padded - self.size) / self.stride.max(1) + 1 }
    }
}

/// `y` (N, P, Q, K), of which it writes the channels from `first` on, as many as `x` (N, H, W, C) has.
pub fn pool(pool: Pool, y: &Reals, x: &Reals, image: Image, first: usize, channels: usize) -> Result<()> {
    let (what, Image { n, h, w, c }) = ("pool", image);
    let Pool { how, size, stride, pad } = pool;
    let (p, q) = (pool.out(h), pool.out(w));
    // A window that lies in the padding alone would have no pixels.
    if size == 0 || stride == 0 || pad >= size || [n, c, p, q].contains(&0) {
        return Err(Error::Shape(format!("{what}: {pool:?} on {image:?}, expected windows with pixels in them")));
    }
    if sum([first, c]) > channels {
        return Err(Error::Shape(format!("{what}: {c} channels from {first} on, of {channels}")));
    }
    expect_len(what, "y", y.len(), product([n, p, q, channels]))?;
    expect_len(what, "x", x.len(), image.elements())?;
    size32(what, product([n, p, q]))?;
    // Where a window ends is counted in 32 bits.
    size32(what, sum([h, w, product([2, size]), product([2, stride])]))?;
    let pixels = (y.device().tuning().elements / c).max(1) as u32;
    let blocks = ((n * p * q) as u32).div_ceil(pixels);
    let launch = y.device().launch(kernel::FEATURES_POOL_F32, [blocks, 1, 1]).output(y).input(x);
    let launch = launch.scalar(u32::from(how == Pooling::Maximum)).scalar(u32::from(how == Pooling::MeanWithPadding));
    let numbers = [size, stride, pad, first, n, h, w, c, p, q, size32(what, channels)? as usize];
    let launch = numbers.iter().fold(launch, |launch, number| launch.scalar(*number as u32));
    // SAFETY: both lengths were compared with the sizes above, which fit 32 bits; the windows begin within the padded image; the
    // grid covers the pixels of y.
    unsafe { launch.scalar(pixels).run() }
}
