//! What networks can be built, as plain data: a preset names one of these.

use crate::data::Size;
use crate::ops::resample::Upsampling;
use crate::{Error, Result};

/// Two networks that belong together.
#[derive(Clone, Copy, Debug)]
pub enum Architecture {
    Residual(Residual),
    /// Multilayer perceptrons for images, with widths of their own: those of PyTorch-GAN's Softmax GAN.
    ImagePerceptrons,
    /// Multilayer perceptrons with two hidden layers of the base width, for points in the plane.
    PointPerceptrons,
}

/// Residual networks. Their blocks follow from the size of the images, see [`Residual::blocks`].
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    /// Height and width of the images where nobody says otherwise.
    pub size: usize,
    pub widths: Widths,
    /// D: whether the hidden width is that of the output in all blocks. Else it is so in the first block alone, and that
    /// of the input in the others.
    pub hidden_is_output: bool,
    /// D: whether the head has a bias.
    pub head_bias: bool,
    /// The eps of the batch norms.
    pub eps: f32,
    pub upsampling: Upsampling,
    /// G: side of the last convolution's filter.
    pub last: usize,
    /// G: the gain that Glorot's initialisation of that convolution has.
    pub last_gain: f32,
    /// PyTorch's initialisation: in G instead of Glorot's, and of D's biases instead of 0.
    pub pytorch_init: bool,
    /// G: the first layer sees the label too, as this number at the label's place among one number for each class.
    pub label: Option<f32>,
    /// Self-attention in both networks, where images have been halved until their shorter side is at most 32.
    pub attention: bool,
}

/// How wide the blocks are.
#[derive(Clone, Copy, Debug)]
pub enum Widths {
    /// As for ImageNet: the width doubles where the side halves, up to 16 times the base width.
    Doubling,
    /// As for CIFAR: all blocks have one width. D halves the images in all of its blocks but the last two.
    Equal,
    /// As for digits: twice the base width, but at the images.
    Digits,
}

/// The blocks of both networks for one size of images. Widths are multiples of the base width.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// G: height and width of the first tensor, and its width.
    pub bottom: Size,
    pub start: usize,
    /// G: the widths of the blocks, each of which doubles the size.
    pub up: Vec<usize>,
    /// D: the widths of the blocks, and whether each halves the size.
    pub down: Vec<(usize, bool)>,
    /// Height and width of what D pools.
    pub top: Size,
    /// D has self-attention after so many blocks, and G before so many of its last ones.
    pub attention: Option<usize>,
}

/// The least and the greatest shorter side of images, and the greatest side.
const SHORTER: [usize; 2] = [16, 1023];
const MOST: usize = 4096;

impl Residual {
    /// The blocks for images of this size. G doubles its first tensor, whose shorter side is 4 to 7, until it has the size:
    /// twice for 16 to 31 pixels, three times for 32 to 63, and so on. The widths for 28, 32, 48, 64, 128 and 256 pixels are
    /// those of the papers and of their programs, and those for 512 are BigGAN's (Brock et al. 2019); sizes between have the
    /// widths of the next smaller power of two, 48 that of 32. An error says which sizes are near one that cannot be built.
    pub fn blocks(&self, size: Size) -> Result<Blocks> {
        let Some(doublings) = doublings(size) else { return Err(Error::Config(impossible(size))) };
        let n = doublings;
        let halved = |times: usize| Size::new(size.height >> times, size.width >> times);
        let bottom = halved(n);
        let (start, up): (usize, Vec<usize>) = match (self.widths, n) {
            (Widths::Doubling, 6) => (16, vec![16, 8, 8, 4, 2, 1]),
            (Widths::Doubling, 7) => (16, vec![16, 8, 8, 4, 2, 1, 1]),
            (Widths::Doubling, _) => (16.min(1 << n), (0..n).rev().map(|i| 1 << i).collect()),
            (Widths::Equal, _) => (2, vec![2; n]),
            (Widths::Digits, _) => (2, [vec![2; n - 1], vec![1]].concat()),
        };
        let down: Vec<(usize, bool)> = match self.widths {
            Widths::Doubling if n > 4 => up.iter().rev().map(|width| (*width, true)).chain([(16, false)]).collect(),
            Widths::Doubling => {
                // The fifth block, or one before it, halves once more than G doubles, where that comes out even.
                let halvings = n + usize::from(bottom.height % 2 == 0 && bottom.width % 2 == 0);
                (0..5).map(|i| (1 << i, i < halvings)).collect()
            }
            Widths::Equal => (0..=n).map(|i| (1, i + 1 < n)).collect(),
            Widths::Digits => (0..=n).map(|i| (if i == 0 { 1 } else { 2 }, i < n)).collect(),
        };
        let top = halved(down.iter().filter(|(_, halves)| *halves).count());
        let attention = self.attention.then(|| (1..n).find(|i| size.shorter() >> i <= 32).unwrap_or(1));
        Ok(Blocks { bottom, start, up, down, top, attention })
    }
}

/// How often G doubles its first tensor for images of this size. None where the sides do not halve as often, or are too short
/// or too long.
fn doublings(size: Size) -> Option<usize> {
    let fits = (SHORTER[0]..=SHORTER[1]).contains(&size.shorter()) && size.height.max(size.width) <= MOST;
    let n = (size.shorter() / 4).checked_ilog2()? as usize;
    let halves = [size.height, size.width].iter().all(|side| side.is_multiple_of(1 << n));
    (fits && halves).then_some(n)
}

fn impossible(size: Size) -> String {
    let Size { height, width } = size;
    let (longer, shorter) = (height.max(width), size.shorter());
    let [least, most] = SHORTER;
    if shorter < least || shorter > most || longer > MOST {
        return format!(
            "size: {height}x{width} cannot be built: the shorter side must have {least} to {most} pixels, the longer one \
             at most {MOST}"
        );
    }
    let n = (shorter / 4).ilog2();
    // The largest buildable size within it, and the smallest around it; squares beside squares.
    let near = |side: usize, up: bool| {
        let step = 1 << n;
        let range = if up { side..=side + 2 * step } else { side.saturating_sub(2 * step)..=side };
        range.filter(|side| side % 4 == 0).collect::<Vec<_>>()
    };
    let all = |up: bool| {
        let widths = near(width, up);
        let pairs =
            near(height, up).into_iter().flat_map(|h| widths.iter().map(move |w| Size::new(h, *w)).collect::<Vec<_>>());
        let buildable = move |size: &Size| doublings(*size).is_some() && (height != width || size.height == size.width);
        pairs.filter(buildable).collect::<Vec<_>>()
    };
    let within = all(false).into_iter().max_by_key(|size| size.pixels());
    let around = all(true).into_iter().min_by_key(|size| size.pixels());
    let nearest: Vec<String> =
        within.into_iter().chain(around).map(|size| format!("{}x{}", size.height, size.width)).collect();
    format!(
        "size: {height}x{width} cannot be built: G doubles its first tensor {n} times, so both sides must be multiples of \
         {}; {} can",
        1 << n,
        nearest.join(" and ")
    )
}

impl Architecture {
    /// Whether the networks have convolutions.
    pub fn is_convolutional(&self) -> bool {
        matches!(self, Architecture::Residual(_))
    }

    /// Whether samples are points that are drawn on the device, not images.
    pub fn draws_points(&self) -> bool {
        matches!(self, Architecture::PointPerceptrons)
    }
}
