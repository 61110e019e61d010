//! The residual networks: the projection discriminator's own, its PyTorch port, SAGAN's, and the small ones for digits.

use super::networks::{Discriminator, Latent, latent_inputs};
use super::setup::Setup;
use crate::Result;
use crate::nn::{
    Attention, Builder, ClassHead, ClassHeadOptions, ConcatLabels, ConvOptions, DownBlock, DownOptions, HeadOptions,
    Init, Labels, Layer, Layout, Linear, Network, NormOptions, ProjectionHead, ToImage, UpBlock, UpOptions, Value,
};
use crate::ops::Activation;
use crate::settings::{Conditioning, Networks, Pool, Residual};

fn glorot(fan_in: usize, fan_out: usize) -> Init {
    Init::GlorotUniform { fan_in, fan_out, gain: 1.0 }
}

/// A linear layer to the smallest tensor, blocks that double it, and the image.
pub fn generator(spec: &Residual, setup: &Setup, build: &mut Builder, from: &Latent, image: &Value) -> Result<Network> {
    let (blocks, width) = (setup.blocks(spec)?, setup.networks.width);
    let conv_g = if spec.pytorch_init { ConvOptions::pytorch } else { ConvOptions::residual };
    let mut network = Network::default();
    let conditional = setup.conditional().then(|| (from.labels.clone(), setup.classes));
    let norm = NormOptions { eps: spec.eps, activation: Activation::RELU, conditional };

    let mut x = from.z.clone();
    if setup.conditional() {
        network.layers.extend(from.labels.look_up(&x));
    }
    if let (_, Some(mark)) = latent_inputs(setup) {
        let concat = ConcatLabels::new(build, &x, &from.labels, setup.classes, mark)?;
        x = concat.y.clone();
        network.layers.push(Box::new(concat));
    }
    let first = build.value(x.n, blocks.bottom.height, blocks.bottom.width, blocks.start * width)?;
    let init = if spec.pytorch_init { Init::FanIn { fan_in: x.c } } else { glorot(x.c, first.features()) };
    network.layers.push(Box::new(Linear::into(build, "linear", (&x, &first), true, Activation::Identity, init)));
    x = first;
    for (i, factor) in blocks.up.iter().enumerate() {
        let out = factor * width;
        let options = UpOptions { out, norm: norm.clone(), upsampling: spec.upsampling, conv: conv_g };
        let block = UpBlock::new(build, &format!("block{}", i + 1), &x, &options)?;
        x = block.output().clone();
        network.layers.push(Box::new(block));
        if blocks.attention.is_some_and(|last| i + 1 + last == blocks.up.len()) {
            let attention = Attention::new(build, "attention", &x, conv_g)?;
            x = attention.output().clone();
            network.layers.push(Box::new(attention));
        }
    }
    let norm = NormOptions { conditional: None, ..norm };
    let mut conv = conv_g(spec.last, x.c, image.c);
    if let Init::GlorotUniform { gain, .. } = &mut conv.init {
        *gain = spec.last_gain;
    }
    network.layers.push(Box::new(ToImage::into(build, (&x, image), &norm, conv)?));
    Ok(network)
}

/// Numbers of a label's embedding beside the features of a hidden layer.
const EMBEDDING: usize = 128;

/// Blocks that halve the image, and the head.
pub fn discriminator(
    spec: &Residual,
    setup: &Setup,
    build: &mut Builder,
    image: &Value,
    labels: &Labels,
) -> Result<Discriminator> {
    let blocks = setup.blocks(spec)?;
    let Networks { conditioning, width, pool, pool_factor, .. } = setup.networks;
    let mut network = Network::default();
    let mut x = image.clone();
    // What is laid out below is all that D has.
    let settle = |parameters: &mut Layout| {
        if spec.pytorch_init {
            parameters.start_biases_as_pytorch();
        }
    };
    if conditioning == Conditioning::InputConcat {
        let concat = ConcatLabels::new(build, &x, labels, setup.classes, 1.0)?;
        x = concat.y.clone();
        network.layers.push(Box::new(concat));
    }
    for (i, &(factor, pool)) in blocks.down.iter().enumerate() {
        let (first, out) = (i == 0, factor * width);
        let hidden = if first || spec.hidden_is_output { out } else { x.c };
        let block = DownOptions { hidden, out, pool, first };
        let block = DownBlock::new(build, &format!("block{}", i + 1), &x, &block)?;
        x = block.output().clone();
        network.layers.push(Box::new(block));
        if blocks.attention == Some(i + 1) {
            let attention = Attention::new(build, "attention", &x, ConvOptions::residual)?;
            x = attention.output().clone();
            network.layers.push(Box::new(attention));
        }
        if conditioning == Conditioning::HiddenConcat && i == 2.min(blocks.down.len() - 2) {
            let (classes, init) = (setup.classes, glorot(setup.classes, EMBEDDING));
            let concat = ConcatLabels::embedding(build, &x, labels, (classes, EMBEDDING), init)?;
            x = concat.y.clone();
            network.layers.push(Box::new(concat));
        }
    }
    let pool_factor = match pool {
        Pool::Sum => pool_factor as f32,
        Pool::Mean => pool_factor as f32 / (x.h * x.w) as f32,
    };
    if conditioning == Conditioning::AcGan {
        let head = ClassHeadOptions { classes: setup.classes, bias: spec.head_bias, pool_factor, init: glorot };
        let head = ClassHead::new(build, &x, &head)?;
        let (logits, classes) = (head.output().clone(), Some(head.classes().clone()));
        network.layers.push(Box::new(head));
        settle(build.parameters);
        return Ok(Discriminator { network, logits, classes, head: None });
    }
    let classes = if conditioning == Conditioning::Projection { setup.classes } else { 0 };
    network.layers.extend(labels.look_up(&x));
    let head = HeadOptions { labels, classes, bias: spec.head_bias, pool_factor, init: glorot };
    let head = ProjectionHead::new(build, "head", &x, &head)?;
    let (logits, parts) = (head.output().clone(), Some(head.parts()));
    network.layers.push(Box::new(head));
    settle(build.parameters);
    Ok(Discriminator { network, logits, classes: None, head: parts })
}
