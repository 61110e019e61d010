//! Differentiable augmentation: images are changed before D sees them, and the gradient goes back through the change.

use super::state::StateBuffer;
use super::{expect_len, size32};
use crate::device::{Reals, Variants, kernel};
use crate::sizes::product;
use crate::{Error, Result};

/// How strongly images are changed; 1 is the original's, 0 leaves a part out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Strengths {
    /// Brightness, saturation and contrast.
    pub colour: f32,
    pub translation: f32,
    pub cutout: f32,
}

/// Which random numbers: samples have the rows from `first` on of a stream of the state's seed and step.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    pub state: &'a StateBuffer,
    pub stream: u32,
    pub first: usize,
}

/// `y` = `x` changed, both (N, H, W, C).
pub fn forward(y: &Reals, x: &Reals, of: Strengths, draw: Draw, shape: [usize; 4]) -> Result<()> {
    run("diffaug forward", kernel::DIFFAUG_FORWARD, [("y", y), ("x", x)], of, draw, shape)
}

/// `dx` from `dy`, for the same draw.
pub fn backward(dx: &Reals, dy: &Reals, of: Strengths, draw: Draw, shape: [usize; 4]) -> Result<()> {
    run("diffaug backward", kernel::DIFFAUG_BACKWARD, [("dx", dx), ("dy", dy)], of, draw, shape)
}

fn run(
    what: &str,
    kernel: Variants,
    [(to_name, to), (from_name, from)]: [(&str, &Reals); 2],
    of: Strengths,
    draw: Draw,
    [n, h, w, c]: [usize; 4],
) -> Result<()> {
    if product([n, h, w, c]) == 0 {
        return Err(Error::Shape(format!("{what}: images of {h}x{w}x{c}, {n} of them")));
    }
    expect_len(what, to_name, to.len(), product([n, h, w, c]))?;
    expect_len(what, from_name, from.len(), to.len())?;
    let Strengths { colour, translation, cutout } = of;
    if ![colour, translation, cutout].iter().all(|strength| (0.0..=1.0).contains(strength)) {
        return Err(Error::Shape(format!("{what}: {of:?}, expected strengths from 0 to 1")));
    }
    size32(what, to.len())?;
    let first = size32(what, draw.first + n)? - n as u32;
    let launch = to.device().launch(kernel, [n as u32, 1, 1]).output(to).input(from).input(draw.state.words());
    let launch = launch.scalar(draw.stream).scalar(first).scalar(colour).scalar(translation).scalar(cutout);
    // SAFETY: both lengths were compared with N * H * W * C; a StateBuffer has the words of one State; strengths up to 1 keep
    // the rectangle no larger than the image.
    unsafe { launch.scalar(h as u32).scalar(w as u32).scalar(c as u32).run() }
}
