//! Bytes to activations in [-1, 1], and back for pictures.

use super::state::StateBuffer;
use super::{elementwise, expect_len, size32};
use crate::device::{Buffer, Reals, kernel};
use crate::sizes::product;
use crate::{Error, Result};

/// What is done to training images besides scaling them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augment {
    /// Noise between 0 and this is added to each value.
    pub noise: f32,
    /// Whether values are scaled so that they stay in [-1, 1] with their noise: x = byte / 128 - 1 + U(0, 1 / 128) for a
    /// noise of 1 / 128. Else they are in [-1, 1 + noise].
    pub within: bool,
    /// Half of the images are mirrored left to right.
    pub flip: bool,
    /// Where the images begin in the batch that they are a part of: they get the noise and the flips that they would get in it.
    pub first: usize,
}

/// `x` = `bytes` / 127.5 - 1, both (N, H, W, C), augmented, and rounded once to what `x` is stored as; which images and by
/// how much depends on the seed, the step and `stream` alone. The first `labels` (N) become copies of the second.
pub fn load(
    x: &Reals,
    bytes: &Buffer<u8>,
    labels: Option<(&Buffer<u32>, &Buffer<u32>)>,
    state: &StateBuffer,
    stream: u32,
    augment: Augment,
    [n, h, w, c]: [usize; 4],
) -> Result<()> {
    let len = product([n, h, w, c]);
    expect_len("pixels load", "x", x.len(), len)?;
    expect_len("pixels load", "bytes", bytes.len(), len)?;
    size32("pixels load", len)?;
    for (name, buffer) in labels.iter().flat_map(|(to, from)| [("labels to write", to), ("labels", from)]) {
        expect_len("pixels load", name, buffer.len(), n)?;
    }
    if x.is_empty() {
        return Err(Error::Shape(format!("pixels load: an image of {h} x {w} x {c}, {n} of them, has no elements")));
    }
    let first =
        size32("pixels load", product([augment.first.saturating_add(n), h, w, c])).map(|_| augment.first as u32)?;
    let rows = n * h;
    let half = if augment.within { 255.0 / (2.0 - augment.noise) } else { 127.5 };
    let chunk = (x.device().tuning().elements / (w * c)).max(1);
    let launch = x.device().launch(kernel::PIXELS_LOAD, [rows.div_ceil(chunk) as u32, 1, 1]);
    let launch = launch.output(x).optional_output(labels.map(|(to, _)| to)).input(bytes);
    let launch = launch.optional(labels.map(|(_, from)| from)).input(state.words());
    let launch = launch.scalar(stream).scalar(first).scalar(u32::from(augment.flip)).scalar(half).scalar(augment.noise);
    // SAFETY: both lengths were compared with N * H * W * C, which fits 32 bits, those of the labels with N.
    unsafe { launch.scalar(rows as u32).scalar(h as u32).scalar(w as u32).scalar(c as u32).scalar(chunk as u32).run() }
}

/// The nearest byte of each value of [-1, 1]. Values outside become the nearer end, NaN becomes 0.
pub fn store(bytes: &Buffer<u8>, x: &Reals) -> Result<()> {
    elementwise("pixels store", kernel::PIXELS_STORE, bytes, [("x", x)], |launch| launch)
}
