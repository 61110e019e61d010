//! The residual networks: the projection discriminator's own (32, 64 and 128 pixels), its PyTorch port, SAGAN's, and
//! the small ones for digits.

use super::networks::{Discriminator, Latent, latent_inputs};
use super::options::{Conditioning, Pool, Preset, TrainerOptions};
use crate::device::Buffer;
use crate::nn::{
    Attention, Builder, ClassHead, ClassHeadOptions, ConcatLabels, ConvOptions, DownBlock, DownOptions, HeadOptions,
    Init, Layer, Linear, Network, NormOptions, ProjectionHead, ToImage, UpBlock, UpOptions, Value,
};
use crate::ops::Activation;
use crate::ops::resample::Upsampling;
use crate::{Error, Result};

/// What tells one preset's networks from another's. Widths are in channels.
struct Spec {
    /// Height and width of the images.
    size: usize,
    /// G: height and width of the first tensor, and its width.
    bottom: usize,
    start: usize,
    /// G: a block each, which doubles the size; this many channels.
    up: Vec<usize>,
    /// D: a block each; channels, and whether it halves the size.
    down: Vec<(usize, bool)>,
    /// D: hidden width that of the output in all blocks; else in the first one alone, and that of the input after it.
    hidden_is_output: bool,
    head_bias: bool,
    eps: f32,
    upsampling: Upsampling,
    /// G: side of the last convolution's filter, and the convolutions' initialisation.
    last: usize,
    conv_g: fn(usize, usize, usize) -> ConvOptions,
    /// Self-attention after the block of G that makes 32x32, and D's first.
    attention: bool,
}

impl Spec {
    fn of(options: &TrainerOptions) -> Spec {
        let ch = options.width;
        let times = |factors: &[usize]| factors.iter().map(|f| f * ch).collect::<Vec<_>>();
        let sngan = Spec {
            size: 64,
            bottom: 4,
            start: 16 * ch,
            up: times(&[8, 4, 2, 1]),
            down: times(&[1, 2, 4, 8, 16]).into_iter().map(|k| (k, true)).collect(),
            hidden_is_output: false,
            head_bias: true,
            eps: 2e-5,
            upsampling: Upsampling::Nearest,
            last: 3,
            conv_g: ConvOptions::residual,
            attention: false,
        };
        match options.preset {
            Preset::Mnist => Spec {
                size: 28,
                bottom: 7,
                start: 2 * ch,
                up: times(&[2, 1]),
                down: vec![(ch, true), (2 * ch, true), (2 * ch, false)],
                hidden_is_output: true,
                head_bias: false,
                eps: 1e-5,
                ..sngan
            },
            Preset::SnganProjection32 => Spec {
                size: 32,
                start: 2 * ch,
                up: times(&[2, 2, 2]),
                down: vec![(ch, true), (ch, true), (ch, false), (ch, false)],
                head_bias: false,
                ..sngan
            },
            Preset::SnganProjection128 => {
                let mut down = sngan.down.clone();
                down.push((16 * ch, false));
                Spec { size: 128, up: times(&[16, 8, 4, 2, 1]), down, ..sngan }
            }
            Preset::Crcrpar64 => {
                Spec { upsampling: Upsampling::Bilinear, last: 1, eps: 1e-5, conv_g: ConvOptions::pytorch, ..sngan }
            }
            Preset::Sagan64 => Spec { attention: true, ..sngan },
            Preset::SnganProjection64 | Preset::Ring | Preset::SoftmaxGan => sngan,
        }
    }

    fn check(&self, options: &TrainerOptions) -> Result<()> {
        let (shape, size) = (options.shape, self.size);
        if (shape.height, shape.width) != (size, size) {
            return Err(Error::Config(format!(
                "preset {} makes {size}x{size} images, the data has {}x{}",
                options.preset, shape.height, shape.width
            )));
        }
        Ok(())
    }
}

fn glorot(fan_in: usize, fan_out: usize) -> Init {
    Init::GlorotUniform { fan_in, fan_out, gain: 1.0 }
}

/// A linear layer to the smallest tensor, blocks that double it, and the image.
pub fn generator(options: &TrainerOptions, build: &mut Builder, from: &Latent, image: &Value) -> Result<Network> {
    let spec = Spec::of(options);
    spec.check(options)?;
    let mut network = Network::default();
    let conditional = options.conditional().then(|| (from.labels.clone(), options.classes));
    let norm = NormOptions { eps: spec.eps, activation: Activation::RELU, conditional };

    let mut x = from.z.clone();
    if let (_, Some(mark)) = latent_inputs(options) {
        let concat = ConcatLabels::new(build, &x, &from.labels, options.classes, mark)?;
        x = concat.y.clone();
        network.layers.push(Box::new(concat));
    }
    let first = build.value(x.n, spec.bottom, spec.bottom, spec.start)?;
    let init = match options.preset {
        Preset::Crcrpar64 => Init::FanIn { fan_in: x.c },
        _ => glorot(x.c, first.features()),
    };
    network.layers.push(Box::new(Linear::into(build, "linear", (&x, &first), true, Activation::Identity, init)));
    x = first;
    for (i, &out) in spec.up.iter().enumerate() {
        let options = UpOptions { out, norm: norm.clone(), upsampling: spec.upsampling, conv: spec.conv_g };
        let block = UpBlock::new(build, &format!("block{}", i + 1), &x, &options)?;
        x = block.output().clone();
        network.layers.push(Box::new(block));
        if spec.attention && x.h == 32 {
            let attention = Attention::new(build, "attention", &x, spec.conv_g)?;
            x = attention.output().clone();
            network.layers.push(Box::new(attention));
        }
    }
    let norm = NormOptions { conditional: None, ..norm };
    let conv = (spec.conv_g)(spec.last, x.c, image.c);
    network.layers.push(Box::new(ToImage::into(build, (&x, image), &norm, conv)?));
    Ok(network)
}

/// Numbers of a label's embedding beside the features of a hidden layer.
const EMBEDDING: usize = 128;

/// Blocks that halve the image, and the head.
pub fn discriminator(
    options: &TrainerOptions,
    build: &mut Builder,
    image: &Value,
    labels: &Buffer<u32>,
) -> Result<Discriminator> {
    let spec = Spec::of(options);
    spec.check(options)?;
    let mut network = Network::default();
    let mut x = image.clone();
    if options.conditioning == Conditioning::InputConcat {
        let concat = ConcatLabels::new(build, &x, labels, options.classes, 1.0)?;
        x = concat.y.clone();
        network.layers.push(Box::new(concat));
    }
    for (i, &(out, pool)) in spec.down.iter().enumerate() {
        let first = i == 0;
        let hidden = if first || spec.hidden_is_output { out } else { x.c };
        let block = DownOptions { hidden, out, pool, first };
        let block = DownBlock::new(build, &format!("block{}", i + 1), &x, &block)?;
        x = block.output().clone();
        network.layers.push(Box::new(block));
        if spec.attention && first {
            let attention = Attention::new(build, "attention", &x, ConvOptions::residual)?;
            x = attention.output().clone();
            network.layers.push(Box::new(attention));
        }
        if options.conditioning == Conditioning::HiddenConcat && i == 2.min(spec.down.len() - 2) {
            let (classes, init) = (options.classes, glorot(options.classes, EMBEDDING));
            let concat = ConcatLabels::embedding(build, &x, labels, (classes, EMBEDDING), init)?;
            x = concat.y.clone();
            network.layers.push(Box::new(concat));
        }
    }
    let pool_factor = match options.pool {
        Pool::Sum => options.pool_factor,
        Pool::Mean => options.pool_factor / (x.h * x.w) as f32,
    };
    if options.conditioning == Conditioning::AcGan {
        let head = ClassHeadOptions { classes: options.classes, bias: spec.head_bias, pool_factor, init: glorot };
        let head = ClassHead::new(build, &x, &head)?;
        let (logits, classes) = (head.output().clone(), Some(head.classes().clone()));
        network.layers.push(Box::new(head));
        return Ok(Discriminator { network, logits, classes });
    }
    let classes = if options.conditioning == Conditioning::Projection { options.classes } else { 0 };
    let head = HeadOptions { labels, classes, bias: spec.head_bias, pool_factor, init: glorot };
    let head = ProjectionHead::new(build, "head", &x, &head)?;
    let logits = head.output().clone();
    network.layers.push(Box::new(head));
    Ok(Discriminator { network, logits, classes: None })
}
