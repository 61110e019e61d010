//! The networks of the presets `softmax-gan`, `mnist` and `sngan-projection-*`, from the tensors of a trainer.

use tch::{Kind, Tensor};

use super::logits::projection;
use super::memory::{Spectral, normalise, upsample};
use super::native::leaky_relu;
use super::products::average_pool;
use super::{Torch, filters, leaf};
use crate::checkpoint::NamedTensor;
use crate::gan::Setup;
use crate::settings::{Architecture, Pool};
use crate::{Error, Result};

/// A network's parameters, as `torch.nn` would lay them out, with the names that they have here.
pub struct Parameters {
    names: Vec<String>,
    pub leaves: Vec<Tensor>,
}

impl Parameters {
    /// Those of `tensors` whose name starts with `player.`.
    fn new(torch: Torch, tensors: &[NamedTensor], player: &str) -> Parameters {
        let (mut names, mut leaves) = (Vec::new(), Vec::new());
        for NamedTensor { name, shape, values } in tensors {
            let Some(name) = name.strip_prefix(player).and_then(|rest| rest.strip_prefix('.')) else { continue };
            if name.contains("running") || name.ends_with(".u") || name.ends_with(".v") {
                continue;
            }
            let tensor = torch.tensor(values, shape);
            let table = name.contains("norm") || name.ends_with("embedding");
            names.push(name.to_string());
            leaves.push(leaf(match shape.len() {
                4 => filters(&tensor),
                2 if !table => tensor.tr().contiguous(),
                _ => tensor,
            }));
        }
        Parameters { names, leaves }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    fn at(&self, name: String) -> Result<usize> {
        self.find(&name).ok_or_else(|| Error::Config(format!("libtorch's network wants a tensor {name}")))
    }

    /// Blocks are numbered from 1.
    fn count(&self, what: &str) -> usize {
        (1..).take_while(|i| self.names.iter().any(|name| name.starts_with(&format!("{what}{i}.")))).count()
    }
}

/// Weight and, where it has one, bias of a layer, among a network's tensors.
#[derive(Clone, Copy)]
struct Layer {
    weight: usize,
    bias: Option<usize>,
}

impl Layer {
    fn new(p: &Parameters, name: &str) -> Result<Layer> {
        Ok(Layer { weight: p.at(format!("{name}.weight"))?, bias: p.find(&format!("{name}.bias")) })
    }

    fn linear(self, p: &[Tensor], x: &Tensor) -> Tensor {
        x.linear(&p[self.weight], self.bias.map(|bias| &p[bias]))
    }

    /// A convolution whose output is as wide and high as its input.
    fn conv(self, p: &[Tensor], x: &Tensor) -> Tensor {
        let weight = &p[self.weight];
        x.conv2d(weight, self.bias.map(|bias| &p[bias]), 1, weight.size()[2] / 2, 1, 1)
    }
}

/// A batch norm, conditional or not; `running` has its mean and variance.
struct Norm {
    affine: Layer,
    running: [Tensor; 2],
    eps: f64,
}

impl Norm {
    fn new(p: &Parameters, name: &str, eps: f64) -> Result<Norm> {
        let affine = Layer::new(p, name)?;
        let scale = p.leaves[affine.weight].detach();
        let channels = scale.size()[scale.dim() - 1];
        let options = (Kind::Float, scale.device());
        Ok(Norm { affine, running: [Tensor::zeros(channels, options), Tensor::ones(channels, options)], eps })
    }

    fn forward(&self, p: &[Tensor], x: &Tensor, labels: &Tensor) -> Tensor {
        let [mean, variance] = &self.running;
        let gamma = &p[self.affine.weight];
        let beta = self.affine.bias.map(|bias| &p[bias]);
        match beta {
            Some(beta) if gamma.dim() == 2 => normalise(x, gamma, beta, labels, Some([mean, variance]), self.eps),
            _ => x.batch_norm(Some(gamma), beta, Some(mean), Some(variance), true, 0.1, self.eps, true),
        }
    }
}

struct Up {
    norms: [Norm; 2],
    /// Those called conv1, conv2 and shortcut.
    convs: [Layer; 3],
}

enum Body {
    /// Layers from z to the image, with LeakyReLU 0.2 between them and tanh at the end.
    Perceptron(Vec<(Layer, Option<Norm>)>),
    Residual {
        linear: Layer,
        side: i64,
        mark: Option<(i64, f64)>,
        blocks: Vec<Up>,
        norm: Norm,
        conv: Layer,
    },
}

pub struct Generator {
    pub parameters: Parameters,
    body: Body,
}

impl Generator {
    pub fn new(torch: Torch, setup: &Setup, tensors: &[NamedTensor]) -> Result<Generator> {
        let p = Parameters::new(torch, tensors, "generator");
        let Architecture::Residual(spec) = setup.architecture() else {
            let layers = (1..=p.count("linear")).map(|i| {
                let norm = format!("norm{i}");
                let norm = p.find(&format!("{norm}.weight")).map(|_| Norm::new(&p, &norm, 0.8)).transpose()?;
                Ok((Layer::new(&p, &format!("linear{i}"))?, norm))
            });
            let body = Body::Perceptron(layers.collect::<Result<_>>()?);
            return Ok(Generator { parameters: p, body });
        };
        let eps = f64::from(spec.eps);
        let blocks = p.count("block");
        let up = |i| {
            let (norm, conv) = (
                |k| Norm::new(&p, &format!("block{i}.norm{k}"), eps),
                |k: &str| Layer::new(&p, &format!("block{i}.{k}")),
            );
            Ok(Up { norms: [norm(1)?, norm(2)?], convs: [conv("conv1")?, conv("conv2")?, conv("shortcut")?] })
        };
        let body = Body::Residual {
            linear: Layer::new(&p, "linear")?,
            side: setup.shape.height as i64 >> blocks,
            mark: spec.label.map(|mark| (setup.classes as i64, f64::from(mark))),
            blocks: (1..=blocks).map(up).collect::<Result<_>>()?,
            norm: Norm::new(&p, "norm", eps)?,
            conv: Layer::new(&p, "conv")?,
        };
        Ok(Generator { parameters: p, body })
    }

    /// Images (M, C, H, W), channels last, or (M, pixels) of a perceptron.
    pub fn forward(&self, z: &Tensor, labels: &Tensor) -> Result<Tensor> {
        let p = &self.parameters.leaves;
        match &self.body {
            Body::Perceptron(layers) => {
                let mut x = z.shallow_clone();
                for (i, (layer, norm)) in layers.iter().enumerate() {
                    x = layer.linear(p, &x);
                    if let Some(norm) = norm {
                        x = norm.forward(p, &x, labels);
                    }
                    x = if i + 1 < layers.len() { leaky_relu(x, 0.2)? } else { x.tanh() };
                }
                Ok(x)
            }
            Body::Residual { linear, side, mark, blocks, norm, conv } => {
                let marked = mark.map(|(classes, mark)| Tensor::cat(&[z, &(labels.one_hot(classes) * mark)], 1));
                let x = linear.linear(p, marked.as_ref().unwrap_or(z));
                let mut x = x.view([z.size()[0], *side, *side, -1]).permute([0, 3, 1, 2]);
                for Up { norms, convs: [conv1, conv2, shortcut] } in blocks {
                    let a = upsample(&norms[0].forward(p, &x, labels).relu_());
                    let b = norms[1].forward(p, &conv1.conv(p, &a), labels).relu_();
                    x = conv2.conv(p, &b) + upsample(&shortcut.conv(p, &x));
                }
                Ok(conv.conv(p, &norm.forward(p, &x, labels).relu_()).tanh())
            }
        }
    }
}

/// A block of D. Its convolutions are called conv1 and conv2; one that pools has a shortcut as well.
struct Down {
    convs: [Layer; 2],
    shortcut: Option<Layer>,
}

enum Judge {
    Perceptron(Vec<Layer>),
    Residual { blocks: Vec<Down>, w: Layer, v: usize, factor: Option<f64> },
}

pub struct Discriminator {
    pub parameters: Parameters,
    /// An entry for each parameter; those without spectral normalisation have none.
    spectral: Vec<Option<Spectral>>,
    body: Judge,
}

impl Discriminator {
    pub fn new(torch: Torch, setup: &Setup, tensors: &[NamedTensor]) -> Result<Discriminator> {
        let p = Parameters::new(torch, tensors, "discriminator");
        let body = if !setup.architecture().is_convolutional() {
            let layers = (1..=p.count("linear")).map(|i| Layer::new(&p, &format!("linear{i}")));
            Judge::Perceptron(layers.collect::<Result<_>>()?)
        } else {
            let down = |i| {
                let conv = |k: &str| Layer::new(&p, &format!("block{i}.{k}"));
                let shortcut = p.find(&format!("block{i}.shortcut.weight")).map(|_| conv("shortcut")).transpose()?;
                Ok(Down { convs: [conv("conv1")?, conv("conv2")?], shortcut })
            };
            let blocks = p.count("block");
            let halvings = setup.shape.height
                >> (1..=blocks).filter(|i| p.find(&format!("block{i}.shortcut.weight")).is_some()).count();
            let factor = setup.networks.pool_factor
                / if setup.networks.pool == Pool::Mean { (halvings * halvings) as f64 } else { 1.0 };
            Judge::Residual {
                blocks: (1..=blocks).map(down).collect::<Result<_>>()?,
                w: Layer::new(&p, "head")?,
                v: p.at("head.embedding".into())?,
                factor: Some(factor).filter(|&factor| factor != 1.0),
            }
        };
        let spectral = spectral(torch, &p, tensors);
        Ok(Discriminator { spectral, parameters: p, body })
    }

    /// The weights for [`Discriminator::forward`]: the parameters, of which those with spectral normalisation are divided by
    /// their norm. `iterate` asks for a power iteration before that.
    pub fn weights(&self, iterate: bool) -> Vec<Tensor> {
        let pairs = self.parameters.leaves.iter().zip(&self.spectral);
        pairs.map(|(leaf, s)| s.as_ref().map_or_else(|| leaf.shallow_clone(), |s| s.divide(leaf, iterate))).collect()
    }

    /// Logits (N).
    pub fn forward(&self, p: &[Tensor], images: &Tensor, labels: &Tensor) -> Result<Tensor> {
        match &self.body {
            Judge::Perceptron(layers) => {
                let mut x = images.shallow_clone();
                for (i, layer) in layers.iter().enumerate() {
                    x = layer.linear(p, &x);
                    if i + 1 < layers.len() {
                        x = leaky_relu(x, 0.2)?;
                    }
                }
                Ok(x.squeeze_dim(1))
            }
            Judge::Residual { blocks, w, v, factor } => {
                let mut x = images.shallow_clone();
                for (i, Down { convs: [conv1, conv2], shortcut }) in blocks.iter().enumerate() {
                    let h = if i == 0 { conv1.conv(p, &x) } else { conv1.conv(p, &x.relu()) }.relu_();
                    let h = conv2.conv(p, &h);
                    x = match shortcut {
                        Some(shortcut) => average_pool(&h) + shortcut.conv(p, &average_pool(&x)),
                        None => h + x,
                    };
                }
                let f = projection(&x, &p[w.weight], &p[*v], labels, factor.unwrap_or(1.0)).0;
                Ok(w.bias.map_or_else(|| f.shallow_clone(), |bias| &f + &p[bias]))
            }
        }
    }
}

/// The vectors u and v of each weight.
fn spectral(torch: Torch, p: &Parameters, tensors: &[NamedTensor]) -> Vec<Option<Spectral>> {
    let vector = |name: String| {
        let found = tensors.iter().find(|tensor| tensor.name == format!("discriminator.{name}"))?;
        Some(torch.tensor(&found.values, &[found.values.len()]))
    };
    let of = |name: &String| Some(Spectral::new(vector(format!("{name}.u"))?, vector(format!("{name}.v"))?));
    p.names.iter().map(of).collect()
}
