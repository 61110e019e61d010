//! The multilayer perceptrons of the `softmax-gan` preset: PyTorch-GAN's, which the Softmax GAN note points at.

use crate::Result;
use crate::nn::{BatchNorm, Builder, Init, Layer, Linear, Network, Value, Widen};
use crate::ops::Activation;

const LEAK: f32 = 0.2;

/// z - 128 - 256 - 512 - 1024 - image, LeakyReLU 0.2, batch norm on the three inner layers (its eps is 0.8), tanh.
/// Writes into `image`.
pub fn generator(build: &mut Builder, widths: &[usize], z: &Value, image: &Value) -> Result<Network> {
    let mut network = Network::default();
    let mut x = z.clone();
    for (i, &width) in widths.iter().enumerate() {
        let name = format!("linear{}", i + 1);
        let normalised = i > 0;
        let y = build.value(x.n, 1, 1, width)?;
        let init = Init::FanIn { fan_in: x.features() };
        let activation = if normalised { Activation::Identity } else { Activation::LeakyRelu(LEAK) };
        network.layers.push(Box::new(Linear::into(build, &name, (&x, &y), true, activation, init)));
        x = y;
        if normalised {
            let norm = BatchNorm::new(build, &format!("norm{}", i + 1), &x, Activation::LeakyRelu(LEAK), 0.8)?;
            x = norm.y.clone();
            network.layers.push(Box::new(norm));
        }
    }
    let init = Init::FanIn { fan_in: x.features() };
    let name = format!("linear{}", widths.len() + 1);
    network.layers.push(Box::new(Linear::into(build, &name, (&x, image), true, Activation::Tanh, init)));
    Ok(network)
}

/// Of the `ring` preset: linear layers and ReLUs, no activation at the end.
pub fn ring_generator(build: &mut Builder, widths: &[usize], z: &Value, point: &Value) -> Result<Network> {
    perceptron(build, widths, 0.0, z, point, true)
}

/// image - 512 - 256 - 1, leaky ReLU. The last layer has no bias: a constant added to all logits changes nothing.
/// The last value is the logits.
pub fn discriminator(build: &mut Builder, widths: &[usize], slope: f32, image: &Value) -> Result<(Network, Value)> {
    let logits = build.exact_value(image.n, 1, 1, 1)?;
    Ok((perceptron(build, widths, slope, image, &logits, false)?, logits))
}

/// Linear layers with leaky ReLUs between them; whether the last one has a bias. It reads f32 where it writes f32.
fn perceptron(
    build: &mut Builder,
    widths: &[usize],
    slope: f32,
    x: &Value,
    y: &Value,
    last_bias: bool,
) -> Result<Network> {
    let mut network = Network::default();
    let mut x = x.clone();
    for (i, &width) in widths.iter().chain(&[y.features()]).enumerate() {
        let last = i == widths.len();
        let out = if last { y.clone() } else { build.value(x.n, 1, 1, width)? };
        if out.x.precision().bytes() != x.x.precision().bytes()
            && let Some(widen) = Widen::new(build, &x)?
        {
            x = widen.output().clone();
            network.layers.push(Box::new(widen));
        }
        let init = Init::FanIn { fan_in: x.features() };
        let activation = if last { Activation::Identity } else { Activation::LeakyRelu(slope) };
        let (name, bias) = (format!("linear{}", i + 1), !last || last_bias);
        network.layers.push(Box::new(Linear::into(build, &name, (&x, &out), bias, activation, init)));
        x = out;
    }
    Ok(network)
}
