//! Networks as ONNX files, which runtimes of many languages draw with. The few messages of the format that they need are
//! encoded here; <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto> has the numbers of their fields.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::names::Side;
use crate::checkpoint::{NamedTensor, little_endian};
use crate::data::Size;
use crate::gan::Setup;
use crate::ops::resample::Upsampling;
use crate::settings::{Architecture, Blocks, Conditioning, Pool, Residual};
use crate::sizes::product;
use crate::{Error, Result, files};

/// The version of the operators, and of the format that came with it.
const OPSET: u64 = 17;
const IR: u64 = 8;

const FLOAT: u64 = 1;
const UINT8: u64 = 2;
const INT64: u64 = 7;

/// A protobuf message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut x: u64) {
        while x >= 0x80 {
            self.0.push(x as u8 | 0x80);
            x >>= 7;
        }
        self.0.push(x as u8);
    }

    fn number(mut self, field: u64, x: u64) -> Message {
        self.varint(field << 3);
        self.varint(x);
        self
    }

    fn float(mut self, field: u64, x: f32) -> Message {
        self.varint(field << 3 | 5);
        self.0.extend(x.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Message {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, field: u64, text: &str) -> Message {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u64, message: &Message) -> Message {
        self.bytes(field, &message.0)
    }
}

enum Attribute<'a> {
    Int(&'a str, u64),
    Ints(&'a str, &'a [u64]),
    Float(&'a str, f32),
    Text(&'a str, &'a str),
}

impl Attribute<'_> {
    fn message(&self) -> Message {
        let named = |name: &str| Message::default().text(1, name);
        // The last field is the type.
        match self {
            Attribute::Int(name, x) => named(name).number(3, *x).number(20, 2),
            Attribute::Ints(name, all) => all.iter().fold(named(name), |m, x| m.number(8, *x)).number(20, 7),
            Attribute::Float(name, x) => named(name).float(2, *x).number(20, 1),
            Attribute::Text(name, text) => named(name).text(4, text).number(20, 3),
        }
    }
}

/// A tensor that goes in or comes out; None is the batch.
fn value(name: &str, kind: u64, shape: &[Option<usize>]) -> Message {
    let shape = shape.iter().fold(Message::default(), |message, side| {
        let side = match side {
            Some(side) => Message::default().number(1, *side as u64),
            None => Message::default().text(2, "batch"),
        };
        message.message(1, &side)
    });
    let tensor = Message::default().number(1, kind).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

/// A graph that is being built. What nodes give is called by their number.
struct Graph<'a> {
    nodes: Vec<Message>,
    initializers: BTreeMap<String, Message>,
    /// Under their names in PyTorch, with its layouts.
    weights: HashMap<&'a str, &'a NamedTensor>,
}

impl Graph<'_> {
    fn node(&mut self, op: &str, inputs: &[&str], attributes: &[Attribute]) -> String {
        let name = format!("{}_{}", op.to_lowercase(), self.nodes.len());
        self.named(op, inputs, &name, attributes);
        name
    }

    fn named(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[Attribute]) {
        let node = inputs.iter().fold(Message::default(), |m, input| m.text(1, input));
        let node = node.text(2, output).text(3, output).text(4, op);
        self.nodes.push(attributes.iter().fold(node, |m, attribute| m.message(5, &attribute.message())));
    }

    fn found(&self, name: &str) -> Result<&NamedTensor> {
        self.weights.get(name).copied().ok_or_else(|| Error::Shape(format!("tensor {name} is missing")))
    }

    fn tensor(&mut self, name: &str, kind: u64, shape: &[usize], bytes: &[u8]) -> String {
        let dims = shape.iter().fold(Message::default(), |m, side| m.number(1, *side as u64));
        self.initializers.insert(name.into(), dims.number(2, kind).text(8, name).bytes(9, bytes));
        name.into()
    }

    fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        self.tensor(name, FLOAT, shape, &little_endian(values))
    }

    fn ints(&mut self, name: &str, values: &[i64]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(name, INT64, &[values.len()], &bytes)
    }

    fn weight(&mut self, name: &str) -> Result<String> {
        let NamedTensor { shape, values, .. } = self.found(name)?.clone();
        Ok(self.floats(name, &shape, &values))
    }

    /// With rows for classes, as planes that one label takes one of.
    fn planes(&mut self, name: &str, labels: &str) -> Result<String> {
        let NamedTensor { shape, values, .. } = self.found(name)?.clone();
        let planes = self.floats(name, &[&shape[..], &[1, 1]].concat(), &values);
        Ok(self.node("Gather", &[&planes, labels], &[]))
    }

    fn has(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    fn relu(&mut self, x: &str) -> String {
        self.node("Relu", &[x], &[])
    }

    fn add(&mut self, a: &str, b: &str) -> String {
        self.node("Add", &[a, b], &[])
    }

    fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.ints(&format!("{x}.shape"), shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    fn linear(&mut self, layer: &str, x: &str) -> Result<String> {
        let weight = self.weight(&format!("{layer}.weight"))?;
        let mut inputs = vec![x.to_string(), weight];
        let bias = format!("{layer}.bias");
        if self.has(&bias) {
            inputs.push(self.weight(&bias)?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        Ok(self.node("Gemm", &inputs, &[Attribute::Int("transB", 1)]))
    }

    fn conv(&mut self, layer: &str, x: &str) -> Result<String> {
        let weight = self.weight(&format!("{layer}.weight"))?;
        let pad = (self.found(&format!("{layer}.weight"))?.shape[2] / 2) as u64;
        let mut inputs = vec![x.to_string(), weight];
        let bias = format!("{layer}.bias");
        if self.has(&bias) {
            inputs.push(self.weight(&bias)?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        Ok(self.node("Conv", &inputs, &[Attribute::Ints("pads", &[pad; 4])]))
    }

    /// A batch norm with its statistics folded into a scale and a shift, of each class where it has such; `sides` axes of
    /// pixels follow.
    fn norm(&mut self, layer: &str, x: &str, labels: &str, eps: f32, sides: usize) -> Result<String> {
        let conditional = self.has(&format!("{layer}.weights.weight"));
        let names = if conditional { ["weights.weight", "biases.weight"] } else { ["weight", "bias"] };
        let [gamma, beta, mean, var] = [names[0], names[1], "running_mean", "running_var"]
            .map(|part| self.found(&format!("{layer}.{part}")).cloned());
        let (gamma, beta, mean, var) = (gamma?, beta?, mean?.values, var?.values);
        let channels = mean.len();
        let (mut scale, mut shift) = (Vec::new(), Vec::new());
        for (i, (gamma, beta)) in gamma.values.iter().zip(&beta.values).enumerate() {
            let c = i % channels;
            let of_class = f64::from(*gamma) / (f64::from(var[c]) + f64::from(eps)).sqrt();
            scale.push(of_class as f32);
            shift.push((f64::from(*beta) - f64::from(mean[c]) * of_class) as f32);
        }
        let shape = [&gamma.shape[..], &vec![1; sides]].concat();
        let mut y = x.to_string();
        for (op, part, values) in [("Mul", "scale", scale), ("Add", "shift", shift)] {
            let mut table = self.floats(&format!("{layer}.{part}"), &shape, &values);
            if conditional {
                table = self.node("Gather", &[&table, labels], &[]);
            }
            y = self.node(op, &[&y, &table], &[]);
        }
        Ok(y)
    }

    fn upsample(&mut self, x: &str, upsampling: Upsampling) -> String {
        let scales = self.floats("scales", &[4], &[1.0, 1.0, 2.0, 2.0]);
        let (mode, at) = match upsampling {
            Upsampling::Nearest => ("nearest", "asymmetric"),
            Upsampling::Bilinear => ("linear", "half_pixel"),
        };
        let attributes = [
            Attribute::Text("mode", mode),
            Attribute::Text("coordinate_transformation_mode", at),
            Attribute::Text("nearest_mode", "floor"),
        ];
        self.node("Resize", &[x, "", &scales], &attributes)
    }

    fn pool(&mut self, op: &str, x: &str) -> String {
        self.node(op, &[x], &[Attribute::Ints("kernel_shape", &[2, 2]), Attribute::Ints("strides", &[2, 2])])
    }

    /// Self-attention over the pixels of an image.
    fn attention(&mut self, x: &str, size: Size) -> Result<String> {
        let parts = ["query", "key", "value"]
            .map(|part| self.found(&format!("attention.{part}.weight")).map(|t| t.shape[0] as i64));
        let [few, _, half] = parts;
        let (few, half, pixels, pooled) = (few?, half?, size.pixels() as i64, (size.pixels() / 4) as i64);
        let q = self.conv("attention.query", x)?;
        let q = self.reshape(&q, &[-1, few, pixels]);
        let q = self.node("Transpose", &[&q], &[Attribute::Ints("perm", &[0, 2, 1])]);
        let mut of = |name: &str, channels: i64| {
            let full = self.conv(name, x)?;
            let half = self.pool("MaxPool", &full);
            Ok::<_, Error>(self.reshape(&half, &[-1, channels, pooled]))
        };
        let (k, v) = (of("attention.key", few)?, of("attention.value", half)?);
        let scores = self.node("MatMul", &[&q, &k], &[]);
        let shares = self.node("Softmax", &[&scores], &[]);
        let shares = self.node("Transpose", &[&shares], &[Attribute::Ints("perm", &[0, 2, 1])]);
        let o = self.node("MatMul", &[&v, &shares], &[]);
        let o = self.reshape(&o, &[-1, half, size.height as i64, size.width as i64]);
        let (o, gamma) = (self.conv("attention.out", &o)?, self.weight("attention.gamma")?);
        let o = self.node("Mul", &[&o, &gamma], &[]);
        Ok(self.add(x, &o))
    }
}

/// Writes a network. `tensors` are those of its PyTorch file, with weights divided by their spectral norms.
pub fn write(
    path: &Path,
    setup: &Setup,
    side: Side,
    tensors: &[NamedTensor],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let weights = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut graph = Graph { nodes: Vec::new(), initializers: BTreeMap::new(), weights };
    let ends = match (setup.architecture(), side) {
        (Architecture::Residual(spec), Side::Generator) => generator(&mut graph, setup, spec, &setup.blocks(spec)?)?,
        (Architecture::Residual(spec), Side::Discriminator) => discriminator(&mut graph, setup, &setup.blocks(spec)?)?,
        (_, side) => perceptron(&mut graph, setup, side)?,
    };
    let mut message = Message::default();
    message = graph.nodes.iter().fold(message, |m, node| m.message(1, node)).text(2, side.name());
    message = graph.initializers.values().fold(message, |m, tensor| m.message(5, tensor));
    message = ends.inputs.iter().fold(message, |m, input| m.message(11, input));
    message = ends.outputs.iter().fold(message, |m, output| m.message(12, output));
    let opset = Message::default().text(1, "").number(2, OPSET);
    let model = Message::default().number(1, IR).text(2, "zgan").text(3, env!("CARGO_PKG_VERSION"));
    let model = model.message(7, &message).message(8, &opset);
    let entry =
        |m: Message, (key, value): (&String, &String)| m.message(14, &Message::default().text(1, key).text(2, value));
    files::write_bytes(path, &metadata.iter().fold(model, entry).0)
}

/// What goes into a graph and comes out.
struct Ends {
    inputs: Vec<Message>,
    outputs: Vec<Message>,
}

fn inputs(setup: &Setup, name: &str, sides: &[usize]) -> Vec<Message> {
    let shape: Vec<Option<usize>> = [None].into_iter().chain(sides.iter().map(|side| Some(*side))).collect();
    let labels = setup.conditional().then(|| value("labels", INT64, &[None]));
    [value(name, FLOAT, &shape)].into_iter().chain(labels).collect()
}

/// The values, and what they are as bytes, pixel by pixel.
fn pictures(graph: &mut Graph, setup: &Setup) -> Vec<Message> {
    let shape = setup.shape;
    let sides = [None, Some(shape.channels), Some(shape.height), Some(shape.width)];
    let images = value("images", FLOAT, &sides);
    if setup.draws_points() {
        return vec![images];
    }
    let mut x = "images".to_string();
    for (op, name, number) in [("Add", "one", 1.0), ("Mul", "half", 127.5), ("Add", "round", 0.5)] {
        let number = graph.floats(&format!("bytes.{name}"), &[], &[number]);
        x = graph.node(op, &[&x, &number], &[]);
    }
    let (least, most) = (graph.floats("bytes.least", &[], &[0.0]), graph.floats("bytes.most", &[], &[255.0]));
    x = graph.node("Clip", &[&x, &least, &most], &[]);
    x = graph.node("Floor", &[&x], &[]);
    x = graph.node("Cast", &[&x], &[Attribute::Int("to", UINT8)]);
    graph.named("Transpose", &[&x], "bytes", &[Attribute::Ints("perm", &[0, 2, 3, 1])]);
    let sides = [None, Some(shape.height), Some(shape.width), Some(shape.channels)];
    vec![images, value("bytes", UINT8, &sides)]
}

fn generator(graph: &mut Graph, setup: &Setup, spec: &Residual, blocks: &Blocks) -> Result<Ends> {
    let latent = setup.networks.latent;
    let labels = "labels";
    let (bottom, start) = (blocks.bottom, product([blocks.start, setup.networks.width]) as i64);
    let mut x = match spec.label.filter(|_| setup.conditional()) {
        // What the label adds is a row of a table.
        Some(mark) => {
            let NamedTensor { shape, values, .. } = graph.found("l1.weight")?.clone();
            let (outputs, inputs) = (shape[0], shape[1]);
            let bias = graph.found("l1.bias")?.values.clone();
            let of_z: Vec<f32> = values.chunks(inputs).flat_map(|row| row[..latent].to_vec()).collect();
            let row = |class: usize| {
                let column = values.chunks(inputs).map(move |row| row[latent + class]);
                column.zip(&bias).map(move |(w, b)| mark * w + b).collect::<Vec<f32>>()
            };
            let table: Vec<f32> = (0..setup.classes).flat_map(row).collect();
            let weight = graph.floats("l1.weight", &[outputs, latent], &of_z);
            let table = graph.floats("l1.labels", &[setup.classes, outputs], &table);
            let table = graph.node("Gather", &[&table, labels], &[]);
            graph.node("Gemm", &["latents", &weight, &table], &[Attribute::Int("transB", 1)])
        }
        None => graph.linear("l1", "latents")?,
    };
    x = graph.reshape(&x, &[-1, start, bottom.height as i64, bottom.width as i64]);
    let mut size = bottom;
    for i in 2..blocks.up.len() + 2 {
        let block = format!("block{i}");
        let mut h = graph.norm(&format!("{block}.b1"), &x, labels, spec.eps, 2)?;
        h = graph.relu(&h);
        h = graph.upsample(&h, spec.upsampling);
        h = graph.conv(&format!("{block}.c1"), &h)?;
        h = graph.norm(&format!("{block}.b2"), &h, labels, spec.eps, 2)?;
        h = graph.relu(&h);
        h = graph.conv(&format!("{block}.c2"), &h)?;
        // A convolution of single pixels commutes with upsampling.
        let mut shortcut = graph.conv(&format!("{block}.c_sc"), &x)?;
        shortcut = graph.upsample(&shortcut, spec.upsampling);
        x = graph.add(&h, &shortcut);
        size = Size::new(2 * size.height, 2 * size.width);
        if blocks.attention.is_some_and(|last| i + last == blocks.up.len() + 1) {
            x = graph.attention(&x, size)?;
        }
    }
    let last = blocks.up.len() + 2;
    x = graph.norm(&format!("b{last}"), &x, labels, spec.eps, 2)?;
    x = graph.relu(&x);
    x = graph.conv(&format!("conv{last}"), &x)?;
    graph.named("Tanh", &[&x], "images", &[]);
    Ok(Ends { inputs: inputs(setup, "latents", &[latent]), outputs: pictures(graph, setup) })
}

fn discriminator(graph: &mut Graph, setup: &Setup, blocks: &Blocks) -> Result<Ends> {
    let (conditioning, shape) = (setup.networks.conditioning, setup.shape);
    let (mut x, mut size) = ("images".to_string(), shape.size());
    // The label's planes behind the channels of x.
    let concat = |graph: &mut Graph, x: &str, planes: &str, size: Size| {
        let size = graph.ints(&format!("{planes}.size"), &[1, 1, size.height as i64, size.width as i64]);
        let planes = graph.node("Expand", &[planes, &size], &[]);
        graph.node("Concat", &[x, &planes], &[Attribute::Int("axis", 1)])
    };
    if conditioning == Conditioning::InputConcat {
        let k = setup.classes;
        let one_hot: Vec<f32> = (0..k * k).map(|i| if i / k == i % k { 1.0 } else { 0.0 }).collect();
        let table = graph.floats("one_hot", &[k, k, 1, 1], &one_hot);
        let planes = graph.node("Gather", &[&table, "labels"], &[]);
        x = concat(graph, &x, &planes, size);
    }
    for (i, (_, halves)) in blocks.down.iter().enumerate() {
        let block = format!("block{}", i + 1);
        let mut h = if i == 0 { x.clone() } else { graph.relu(&x) };
        h = graph.conv(&format!("{block}.c1"), &h)?;
        h = graph.relu(&h);
        h = graph.conv(&format!("{block}.c2"), &h)?;
        if *halves {
            (h, x) = (graph.pool("AveragePool", &h), graph.pool("AveragePool", &x));
            size = Size::new(size.height / 2, size.width / 2);
        }
        if graph.has(&format!("{block}.c_sc.weight")) {
            x = graph.conv(&format!("{block}.c_sc"), &x)?;
        }
        x = graph.add(&h, &x);
        if blocks.attention == Some(i + 1) {
            x = graph.attention(&x, size)?;
        }
        if conditioning == Conditioning::HiddenConcat && i == 2.min(blocks.down.len() - 2) {
            let planes = graph.planes("l_y.weight", "labels")?;
            x = concat(graph, &x, &planes, size);
        }
    }
    let factor = match setup.networks.pool {
        Pool::Sum => setup.networks.pool_factor,
        Pool::Mean => setup.networks.pool_factor / size.pixels() as f64,
    };
    let keep_none = [Attribute::Int("keepdims", 0)];
    x = graph.relu(&x);
    let (axes, factor) = (graph.ints("pixels", &[2, 3]), graph.floats("factor", &[], &[factor as f32]));
    x = graph.node("ReduceSum", &[&x, &axes], &keep_none);
    let h = graph.node("Mul", &[&x, &factor], &[]);
    let logits = graph.linear(&format!("l{}", blocks.down.len() + 1), &h)?;
    let flat = graph.ints("flat", &[-1]);
    let mut outputs = vec![value("logits", FLOAT, &[None])];
    match conditioning {
        Conditioning::Projection => {
            let table = graph.weight("l_y.weight")?;
            let rows = graph.node("Gather", &[&table, "labels"], &[]);
            let products = graph.node("Mul", &[&h, &rows], &[]);
            let axis = graph.ints("features", &[1]);
            let agreement = graph.node("ReduceSum", &[&products, &axis], &keep_none);
            let logits = graph.node("Reshape", &[&logits, &flat], &[]);
            graph.named("Add", &[&logits, &agreement], "logits", &[]);
        }
        _ => graph.named("Reshape", &[&logits, &flat], "logits", &[]),
    }
    if conditioning == Conditioning::AcGan {
        let classes = graph.linear("l_c", &h)?;
        graph.named("Identity", &[&classes], "class_logits", &[]);
        outputs.push(value("class_logits", FLOAT, &[None, Some(setup.classes)]));
    }
    let labelled = !matches!(conditioning, Conditioning::None | Conditioning::AcGan);
    let mut inputs = inputs(setup, "images", &[shape.channels, shape.height, shape.width]);
    inputs.truncate(if labelled { 2 } else { 1 });
    Ok(Ends { inputs, outputs })
}

/// Linear layers with activations and, in G of images, norms between them.
fn perceptron(graph: &mut Graph, setup: &Setup, side: Side) -> Result<Ends> {
    let of_images = matches!(setup.architecture(), Architecture::ImagePerceptrons);
    let normalised = of_images && side == Side::Generator;
    let slope = if of_images { 0.2 } else { 0.0 };
    let shape = setup.shape;
    let pixels = [shape.channels, shape.height, shape.width];
    let (input, sides) = match side {
        Side::Generator => ("latents", vec![setup.networks.latent]),
        Side::Discriminator => ("images", pixels.to_vec()),
    };
    let mut x = input.to_string();
    if side == Side::Discriminator {
        x = graph.reshape(&x, &[-1, shape.len() as i64]);
    }
    // By their places among the layers of the other program.
    let mut layers: Vec<usize> = graph
        .weights
        .iter()
        .filter(|(_, t)| t.shape.len() == 2)
        .filter_map(|(name, _)| name.split('.').nth(1)?.parse().ok())
        .collect();
    layers.sort_unstable();
    for (i, layer) in layers.iter().enumerate() {
        x = graph.linear(&format!("model.{layer}"), &x)?;
        if i + 1 == layers.len() {
            break;
        }
        if normalised && i > 0 {
            x = graph.norm(&format!("model.{}", layer + 1), &x, "", 0.8, 0)?;
        }
        x = graph.node("LeakyRelu", &[&x], &[Attribute::Float("alpha", slope)]);
    }
    if side == Side::Discriminator {
        let flat = graph.ints("flat", &[-1]);
        graph.named("Reshape", &[&x, &flat], "logits", &[]);
        return Ok(Ends { inputs: inputs(setup, input, &sides), outputs: vec![value("logits", FLOAT, &[None])] });
    }
    if normalised {
        x = graph.node("Tanh", &[&x], &[]);
    }
    let size: Vec<i64> = [-1].into_iter().chain(pixels.iter().map(|side| *side as i64)).collect();
    let size = graph.ints("size", &size);
    graph.named("Reshape", &[&x, &size], "images", &[]);
    Ok(Ends { inputs: inputs(setup, input, &sides), outputs: pictures(graph, setup) })
}
