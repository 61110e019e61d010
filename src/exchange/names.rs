//! What PyTorch programs call the tensors of the networks here, and how their numbers lie there: the names of crcrpar's
//! port of the projection discriminator for the residual networks, PyTorch-GAN's for the multilayer perceptrons.

use crate::gan::{Setup, layouts};
use crate::nn::parameters::Entry;
use crate::settings::{Architecture, Blocks, Conditioning, Residual};
use crate::sizes::product;
use crate::{Error, Result};

/// One of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Generator,
    Discriminator,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Generator => "generator",
            Side::Discriminator => "discriminator",
        }
    }

    /// The letter that messages have.
    pub fn letter(self) -> &'static str {
        match self {
            Side::Generator => "G",
            Side::Discriminator => "D",
        }
    }
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Parameter,
    Running,
    /// The vectors of a weight's spectral norm: of its outputs, and of its inputs.
    U,
    V,
}

/// A tensor, as it is called and lies here and there.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// `block1.conv1.weight`, behind the name of the network and a dot.
    pub ours: String,
    pub our_shape: Vec<usize>,
    pub theirs: String,
    pub their_shape: Vec<usize>,
    pub kind: Kind,
    /// Where the numbers of classes lie in it: along this axis of `our_shape`, behind so many others.
    pub classes: Option<(usize, usize)>,
    order: Order,
}

/// Numbers here are an array of `split`; there its axes stand in the order `axes`.
#[derive(Clone, Debug, PartialEq)]
struct Order {
    split: Vec<usize>,
    axes: Vec<usize>,
}

impl Order {
    fn same(shape: &[usize]) -> Order {
        Order { split: shape.to_vec(), axes: (0..shape.len()).collect() }
    }

    /// Of rows behind rows: those of `outer` come first there, and last here.
    fn behind(&self, outer: &Order) -> Order {
        let moved = outer.axes.iter().map(|axis| axis + self.split.len());
        let split = [self.split.clone(), outer.split.clone()].concat();
        Order { axes: moved.chain(self.axes.iter().copied()).collect(), split }
    }

    fn len(&self) -> usize {
        self.split.iter().product()
    }

    /// For each number there, in order, its place here.
    fn places(&self) -> Vec<usize> {
        let mut strides = vec![1; self.split.len()];
        for i in (1..self.split.len()).rev() {
            strides[i - 1] = strides[i] * self.split[i];
        }
        let mut places = vec![0];
        for &axis in &self.axes {
            let along = |place: usize| (0..self.split[axis]).map(move |i| (place, i));
            places = places.into_iter().flat_map(along).map(|(place, i)| place + i * strides[axis]).collect();
        }
        places
    }
}

impl Row {
    /// Numbers as they lie here, in the order that they have there.
    pub fn out(&self, values: &[f32]) -> Vec<f32> {
        self.order.places().into_iter().map(|place| values[place]).collect()
    }

    /// Numbers as they lie there, in the order that they have here.
    pub fn back(&self, values: &[f32]) -> Vec<f32> {
        let mut own = vec![0.0; values.len()];
        self.order.places().into_iter().zip(values).for_each(|(place, value)| own[place] = *value);
        own
    }
}

/// How a weight's inputs and outputs are ordered.
struct Weight {
    inputs: Order,
    outputs: Order,
    their_shape: Vec<usize>,
}

impl Weight {
    fn linear(inputs: Order, outputs: Order) -> Weight {
        Weight { their_shape: vec![outputs.len(), inputs.len()], inputs, outputs }
    }
}

/// The channels of pixels: last here, first there.
fn image(h: usize, w: usize, c: usize) -> Order {
    Order { split: vec![h, w, c], axes: vec![2, 0, 1] }
}

/// What is called or laid out otherwise in a network.
struct Names<'a> {
    setup: &'a Setup,
    side: Side,
    /// Of residual networks.
    blocks: Option<Blocks>,
    /// The number of the last linear layer, of multilayer perceptrons.
    last: usize,
}

impl Names<'_> {
    fn residual(&self) -> Option<&Residual> {
        match self.setup.architecture() {
            Architecture::Residual(spec) => Some(spec),
            _ => None,
        }
    }

    /// The name there of a layer here.
    fn module(&self, ours: &str) -> String {
        let number = |name: &str| ours.strip_prefix(name).and_then(|n| n.parse::<usize>().ok());
        let Some(blocks) = &self.blocks else {
            let normalised =
                self.side == Side::Generator && matches!(self.setup.architecture(), Architecture::ImagePerceptrons);
            // Behind every linear layer stands an activation; between the two, from the second on, a norm.
            let place = |i: usize| if normalised && i > 1 { 3 * i - 4 } else { 2 * i - 2 };
            let place = number("linear").map(place).or_else(|| number("norm").map(|i| place(i) + 1));
            return place.map_or_else(|| ours.to_string(), |i| format!("model.{i}"));
        };
        let (up, down) = (blocks.up.len(), blocks.down.len());
        if let Some((block, part)) = ours.split_once('.') {
            let name = match part {
                "norm1" => "b1",
                "norm2" => "b2",
                "conv1" => "c1",
                "conv2" => "c2",
                "shortcut" => "c_sc",
                other => other,
            };
            let block = match block.strip_prefix("block").and_then(|n| n.parse::<usize>().ok()) {
                Some(i) if self.side == Side::Generator => format!("block{}", i + 1),
                _ => block.to_string(),
            };
            return format!("{block}.{name}");
        }
        match ours {
            "linear" => "l1".into(),
            "norm" => format!("b{}", up + 2),
            "conv" => format!("conv{}", up + 2),
            "head" => format!("l{}", down + 1),
            "classes" => "l_c".into(),
            other => other.into(),
        }
    }

    /// The name there of a tensor here.
    fn tensor(&self, ours: &str, shape: &[usize]) -> String {
        // The embeddings of the two heads, either of which crcrpar calls so.
        if matches!(ours, "head.embedding" | "embedding") {
            return "l_y.weight".into();
        }
        let (module, part) = ours.rsplit_once('.').unwrap_or(("", ours));
        let part = match (shape.len(), part) {
            (2, "weight") if is_norm(ours) => "weights.weight",
            (2, "bias") if is_norm(ours) => "biases.weight",
            (_, part) => part,
        };
        format!("{}.{part}", self.module(module))
    }

    /// How a weight is laid out, where it has inputs and outputs.
    fn weight(&self, entry: &Entry) -> Option<Weight> {
        let (name, shape) = (entry.name.as_str(), entry.shape.as_slice());
        if is_norm(name) {
            return None;
        }
        let features = self.setup.shape;
        let pixels = || image(features.height, features.width, features.channels);
        match *shape {
            [r, s, c, k] => {
                let outputs = Order::same(&[k]);
                Some(Weight { their_shape: vec![k, c, r, s], inputs: image(r, s, c), outputs })
            }
            [_, _] if name.ends_with("embedding") => None,
            [c, k] => {
                let (mut inputs, mut outputs) = (Order::same(&[c]), Order::same(&[k]));
                match &self.blocks {
                    Some(Blocks { bottom, start, .. }) if name == "linear.weight" => {
                        outputs = image(bottom.height, bottom.width, start * self.setup.networks.width);
                    }
                    Some(_) => {}
                    None if self.side == Side::Generator && name == format!("linear{}.weight", self.last) => {
                        outputs = pixels()
                    }
                    None if self.side == Side::Discriminator && name == "linear1.weight" => inputs = pixels(),
                    None => {}
                }
                Some(Weight::linear(inputs, outputs))
            }
            _ => None,
        }
    }

    fn classes(&self, ours: &str, shape: &[usize]) -> Option<(usize, usize)> {
        let Setup { networks, .. } = self.setup;
        let labelled = self.residual().is_some_and(|spec| spec.label.is_some()) && self.setup.conditional();
        match ours {
            "embedding" | "head.embedding" | "classes.bias" => Some((0, 0)),
            "classes.weight" => Some((1, 0)),
            "linear.weight" if labelled => Some((0, networks.latent)),
            "block1.conv1.weight" | "block1.shortcut.weight"
                if self.side == Side::Discriminator && networks.conditioning == Conditioning::InputConcat =>
            {
                Some((2, self.setup.shape.channels))
            }
            _ if is_norm(ours) && shape.len() == 2 => Some((0, 0)),
            _ => None,
        }
    }
}

fn is_norm(ours: &str) -> bool {
    ours.rsplit('.').nth(1).is_some_and(|layer| layer.starts_with("norm"))
}

/// Every tensor of a network of these settings, in the order that it has here. A weight that is divided by its spectral norm
/// is called `weight_orig` there.
pub fn table(setup: &Setup, side: Side) -> Result<Vec<Row>> {
    let players = layouts(setup)?;
    let (layouts, normalised) = match side {
        Side::Generator => (players.generator, setup.networks.spectral_norm_g),
        Side::Discriminator => (players.discriminator, setup.networks.spectral_norm),
    };
    let entries = layouts.parameters.entries();
    let last = entries.iter().filter(|e| e.name.starts_with("linear") && e.name.ends_with(".weight")).count();
    let blocks = match setup.architecture() {
        Architecture::Residual(networks) => Some(setup.blocks(networks)?),
        _ => None,
    };
    let names = Names { setup, side, blocks, last };
    let mut rows = Vec::new();
    for (kind, entry) in
        entries.iter().map(|e| (Kind::Parameter, e)).chain(layouts.running.entries().iter().map(|e| (Kind::Running, e)))
    {
        let theirs = names.tensor(&entry.name, &entry.shape);
        let weight = if kind == Kind::Parameter { names.weight(entry) } else { None };
        let order = match &weight {
            Some(weight) => weight.inputs.behind(&weight.outputs),
            // A bias is ordered as the outputs of its weight.
            None if entry.name.ends_with(".bias") => entries
                .iter()
                .find(|e| entry.name.strip_suffix("bias").is_some_and(|layer| e.name == format!("{layer}weight")))
                .and_then(|e| names.weight(e))
                .map_or_else(|| Order::same(&entry.shape), |weight| weight.outputs),
            None => Order::same(&entry.shape),
        };
        let spectral = entry.matrix().filter(|_| normalised);
        let row = |kind, ours: String, our_shape: Vec<usize>, theirs: String, their_shape: Vec<usize>, order: Order| {
            let classes = if kind == Kind::Parameter { names.classes(&ours, &our_shape) } else { None };
            Row { ours, our_shape, theirs, their_shape, kind, classes, order }
        };
        let their_shape = weight.as_ref().map_or_else(|| entry.shape.clone(), |weight| weight.their_shape.clone());
        let suffix = if spectral.is_some() { "_orig" } else { "" };
        rows.push(row(kind, entry.name.clone(), entry.shape.clone(), format!("{theirs}{suffix}"), their_shape, order));
        if spectral.is_none() {
            continue;
        }
        let (u, v) = match weight {
            Some(weight) => (weight.outputs, weight.inputs),
            None => (Order::same(&entry.shape[..1]), Order::same(&entry.shape[1..])),
        };
        for (kind, part, order) in [(Kind::U, "u", u), (Kind::V, "v", v)] {
            let (ours, len) = (format!("{}.{part}", entry.name), order.len());
            rows.push(row(kind, ours, vec![len], format!("{theirs}_{part}"), vec![len], order));
        }
    }
    let wrong = rows.iter().find(|row| product([row.order.len()]) != row.our_shape.iter().product::<usize>());
    match wrong {
        Some(row) => {
            Err(Error::Shape(format!("{} of shape {:?} has no place in other programs", row.ours, row.our_shape)))
        }
        None => Ok(rows),
    }
}

/// What PyTorch-GAN's discriminator has and the ones here have not: the bias of its last layer, which is one number.
pub fn last_bias(setup: &Setup, side: Side) -> Option<&'static str> {
    (side == Side::Discriminator && !setup.architecture().is_convolutional()).then_some("model.4.bias")
}
