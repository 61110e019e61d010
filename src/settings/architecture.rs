//! What networks can be built, as plain data: a preset names one of these.

use crate::ops::resample::Upsampling;

/// Two networks that belong together.
#[derive(Clone, Copy, Debug)]
pub enum Architecture {
    Residual(Residual),
    /// Multilayer perceptrons for images, with widths of their own: those of PyTorch-GAN's Softmax GAN.
    ImagePerceptrons,
    /// Multilayer perceptrons with two hidden layers of the base width, for points in the plane.
    PointPerceptrons,
}

/// Residual networks. Widths are multiples of the base width.
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    /// Height and width of the images.
    pub size: usize,
    /// G: height and width of the first tensor, and its width.
    pub bottom: usize,
    pub start: usize,
    /// G: the widths of the blocks, each of which doubles the size.
    pub up: &'static [usize],
    /// D: the widths of the blocks, and whether each halves the size.
    pub down: &'static [(usize, bool)],
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
    /// Self-attention after the block of G that makes 32x32, and after D's first.
    pub attention: bool,
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
