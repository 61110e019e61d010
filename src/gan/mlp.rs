//! The multilayer perceptrons of the `softmax-gan` preset: PyTorch-GAN's, which the Softmax GAN note points at.

use crate::Result;
use crate::nn::{BatchNorm, Builder, Init, Linear, Network, Value};
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

/// image - 512 - 256 - 1, LeakyReLU 0.2. The last layer has no bias: a constant added to all logits changes nothing.
/// The last value is the logits.
pub fn discriminator(build: &mut Builder, widths: &[usize], image: &Value) -> Result<(Network, Value)> {
    let mut network = Network::default();
    let mut x = image.clone();
    for (i, &width) in widths.iter().chain(&[1]).enumerate() {
        let last = i == widths.len();
        let y = build.value(x.n, 1, 1, width)?;
        let init = Init::FanIn { fan_in: x.features() };
        let activation = if last { Activation::Identity } else { Activation::LeakyRelu(LEAK) };
        let name = format!("linear{}", i + 1);
        network.layers.push(Box::new(Linear::into(build, &name, (&x, &y), !last, activation, init)));
        x = y;
    }
    Ok((network, x))
}
