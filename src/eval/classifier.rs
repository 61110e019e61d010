//! A small classifier. The metrics compare images by its features. It is no [`super::network::Description`], as it is trained here:
//! its layers need their backward passes and batch statistics, and a description would come on top of them.
//!
//! ```text
//! conv3x3 - batch norm - relu - 2x2 average pool     16, 32, 64, ... channels, until 8 pixels or fewer are left
//! linear - batch norm - relu                         the features
//! linear                                             a logit per class
//! ```

use std::ops::Range;

use super::metrics::Points;
use crate::checkpoint::NamedTensor;
use crate::data::{Dataset, ImageShape, LastBatch, Loader, LoaderOptions};
use crate::device::{Buffer, Device, Reals};
use crate::nn::parameters::restore;
use crate::nn::{
    Arena, Backward, BatchNorm, Builder, Conv, ConvOptions, Forward, Init, Layer, Layout, Linear, Mode, Network, Norm,
    NormOptions, Source, Target, Value,
};
use crate::ops::Activation;
use crate::ops::adam::{self, Adam};
use crate::ops::cross_entropy::{self, Evaluation};
use crate::ops::pixels::{self, Augment};
use crate::ops::resample;
use crate::ops::state::{self, Network as Slot, State, StateBuffer};
use crate::random::Random;
use crate::sizes::{filled, product};
use crate::{Error, Result};

const EPS: f32 = 1e-5;
const MOMENTUM: f32 = 0.1;
const ADAM: Adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 };

/// Images are pooled until no side is longer than this.
const LAST_SIDE: usize = 8;

/// How many images go through the classifier at once.
pub(super) const BATCH: usize = 128;

/// How it is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    pub steps: u64,
    pub batch: usize,
    /// The learning rate at the first step; it falls linearly to 0 at the last.
    pub rate: f32,
    /// Images are moved by up to this many pixels in each direction.
    pub shift: usize,
    pub seed: u64,
}

impl Training {
    /// Six epochs, but no fewer than 400 steps and no more than 6,000; of few images no more than 60 epochs.
    pub fn new(images: usize) -> Training {
        let batch = BATCH.min(images);
        let epochs = |count: usize| count.saturating_mul(images).div_ceil(batch.max(1)) as u64;
        let steps = epochs(6).clamp(400, 6000).min(epochs(60));
        Training { steps, batch, rate: 2e-3, shift: 2, seed: 1 }
    }
}

/// y = pool(relu(norm(conv(x)))), or without the pooling.
struct Block {
    name: String,
    conv: Conv,
    norm: Norm,
    x: Value,
    h: Value,
    a: Value,
    pooled: Option<Value>,
}

impl Block {
    fn new(build: &mut Builder, name: &str, x: &Value, out: usize, pool: bool) -> Result<Block> {
        // There is no bias, as the norm would take it away again.
        let conv = ConvOptions { bias: None, ..ConvOptions::pytorch(3, x.c, out) };
        let conv = Conv::new(build, &format!("{name}.conv"), conv, x)?;
        let h = build.value(x.n, x.h, x.w, out)?;
        let norm = NormOptions { eps: EPS, activation: Activation::RELU, conditional: None };
        Ok(Block {
            name: name.to_string(),
            conv,
            norm: Norm::new(build, &format!("{name}.norm"), &h, &norm)?,
            x: x.clone(),
            a: build.value(x.n, x.h, x.w, out)?,
            h,
            pooled: if pool { Some(build.value(x.n, x.h / 2, x.w / 2, out)?) } else { None },
        })
    }
}

impl Layer for Block {
    fn forward(&self, pass: &Forward) -> Result<()> {
        self.conv.forward(pass, &Source::plain(&self.x), &Target::new(&self.h))?;
        self.norm.prepare(pass)?;
        self.norm.apply(&self.a.x)?;
        self.pooled.as_ref().map_or(Ok(()), |y| resample::average_pool(&y.x, &self.a.x, self.a.image()))
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        if let Some(pooled) = &self.pooled {
            let [da, dy] =
                [(&self.a, "its activation"), (pooled, "its output")].map(|(v, what)| v.gradient(&self.name, what));
            resample::average_pool_backward(da?, dy?, self.a.image(), false)?;
        }
        self.norm.backward(pass, &self.a)?;
        self.conv.backward(pass, &Source::plain(&self.x), &Target::new(&self.h), false)
    }

    fn output(&self) -> &Value {
        self.pooled.as_ref().unwrap_or(&self.a)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// The layers on their buffers, for one size of batch.
struct Layers {
    network: Network,
    bytes: Buffer<u8>,
    x: Value,
    features: Value,
    logits: Value,
}

#[derive(Default)]
struct Layouts {
    parameters: Layout,
    running: Layout,
}

impl Layers {
    fn new(
        device: &Device,
        layouts: &mut Layouts,
        shape: ImageShape,
        classes: usize,
        training: Option<&Training>,
    ) -> Result<Layers> {
        let mut measuring = Arena::measuring(device);
        Layers::build(&mut measuring, layouts, shape, classes, training)?;
        Layers::build(&mut Arena::new(device, measuring.used())?, layouts, shape, classes, training)
    }

    fn build(
        arena: &mut Arena,
        layouts: &mut Layouts,
        shape: ImageShape,
        classes: usize,
        training: Option<&Training>,
    ) -> Result<Layers> {
        let n = training.map_or(BATCH, |training| training.batch);
        let ImageShape { height, width, channels } = shape;
        let Layouts { parameters, running } = layouts;
        let mut build = Builder { gradients: training.is_some(), ..Builder::new(parameters, running, arena) };
        let x = Value { dx: None, ..build.value(n, height, width, channels)? };
        // Images in colour have more to tell, so there are more channels for them.
        let first = if channels == 1 { 16 } else { 32 };
        let mut network = Network::default();
        let mut from = x.clone();
        let mut block = 0;
        loop {
            let pool = from.h.max(from.w) > LAST_SIDE && from.h.min(from.w) > 1;
            let layer = Block::new(&mut build, &format!("block{}", block + 1), &from, first << block.min(3), pool)?;
            from = layer.output().clone();
            network.layers.push(Box::new(layer));
            block += 1;
            if !pool && block >= 3 {
                break;
            }
        }
        let hidden = build.value(n, 1, 1, 4 * first)?;
        let init = |c: &Value| Init::FanIn { fan_in: c.features() };
        let linear = Linear::into(&mut build, "features", (&from, &hidden), false, Activation::Identity, init(&from));
        network.layers.push(Box::new(linear));
        let norm = BatchNorm::new(&mut build, "features.norm", &hidden, Activation::RELU, EPS)?;
        let features = norm.y.clone();
        network.layers.push(Box::new(norm));
        let logits = build.value(n, 1, 1, classes)?;
        let init = init(&features);
        let linear = Linear::into(&mut build, "classes", (&features, &logits), true, Activation::Identity, init);
        network.layers.push(Box::new(linear));
        Ok(Layers { network, bytes: build.arena.take(product([n, shape.len()]))?, x, features, logits })
    }

    /// Takes the bytes through all layers.
    fn forward(&self, state: &StateBuffer, flat: [&Reals; 2], mode: Mode) -> Result<()> {
        let shape = [self.x.n, self.x.h, self.x.w, self.x.c];
        pixels::load(&self.x.x, &self.bytes, None, state, 0, Augment::default(), shape)?;
        let [weights, running] = flat;
        self.network.forward(&Forward { weights: weights.into(), running, mode, rows: 0..self.x.n })
    }
}

/// A trained classifier.
pub struct Classifier {
    shape: ImageShape,
    classes: usize,
    layouts: Layouts,
    state: StateBuffer,
    values: Reals,
    running: Reals,
    layers: Layers,
}

/// What the classifier sees in some images.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// (count)
    pub labels: Vec<u32>,
    /// (count, D)
    pub features: Points,
}

impl Seen {
    /// Appends what was seen of more images.
    fn extend(&mut self, more: Seen) {
        self.labels.extend(more.labels);
        self.features.dimensions = more.features.dimensions;
        self.features.values.extend(more.features.values);
    }
}

impl Classifier {
    /// One whose weights are still to come.
    pub fn new(device: &Device, shape: ImageShape, classes: usize) -> Result<Classifier> {
        if classes < 2 || shape.height < 2 || shape.width < 2 {
            return Err(Error::Config(format!("a classifier needs two classes and images, not {classes} of {shape}")));
        }
        let mut layouts = Layouts::default();
        let layers = Layers::new(device, &mut layouts, shape, classes, None)?;
        Ok(Classifier {
            shape,
            classes,
            state: StateBuffer::new(device, &State::new(0, [0.0; 2], 0, 0))?,
            values: device.zeros(layouts.parameters.len())?,
            running: device.zeros(layouts.running.len())?,
            layers,
            layouts,
        })
    }

    /// Makes a classifier from what [`Classifier::tensors`] gave.
    pub fn restore(device: &Device, shape: ImageShape, classes: usize, tensors: &[NamedTensor]) -> Result<Classifier> {
        let classifier = Classifier::new(device, shape, classes)?;
        let find = |name: &str| {
            let tensor = tensors.iter().find(|tensor| tensor.name == name)?;
            Some((tensor.shape.as_slice(), tensor.values.as_slice()))
        };
        restore(&classifier.layouts.parameters, &classifier.values, "", find)?;
        restore(&classifier.layouts.running, &classifier.running, "", find)?;
        Ok(classifier)
    }

    pub fn device(&self) -> &Device {
        self.values.device()
    }

    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = Vec::new();
        for (layout, flat) in [(&self.layouts.parameters, &self.values), (&self.layouts.running, &self.running)] {
            let named = layout.read(flat)?.into_iter();
            tensors.extend(named.map(|(e, values)| NamedTensor {
                name: e.name.clone(),
                shape: e.shape.clone(),
                values,
            }));
        }
        Ok(tensors)
    }

    /// Trains a classifier. `go_on` is asked before each step; there is no classifier where it says no.
    pub fn train(
        device: &Device,
        data: &Dataset,
        training: &Training,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Classifier>> {
        let (shape, classes, n) = (data.shape(), data.classes().len(), training.batch);
        let mut classifier = Classifier::new(device, shape, classes)?;
        let layers = Layers::new(device, &mut classifier.layouts, shape, classes, Some(training))?;
        let (parameters, running) = (&classifier.layouts.parameters, &classifier.layouts.running);
        classifier.values.write(&parameters.initial_values(training.seed)?)?;
        classifier.running.write(&running.initial_values(training.seed)?)?;
        let len = parameters.len();
        let [gradients, first_moment, second_moment] = [device.zeros(len)?, device.zeros(len)?, device.zeros(len)?];
        let (labels, statistics, norm) = (device.zeros(n)?, device.zeros(2)?, device.zeros(1)?);
        let loss_workspace = device.zeros(cross_entropy::workspace_len(n))?;
        let adam_workspace = device.zeros(adam::workspace_len(device, len))?;
        let end = training.steps as u32;
        let state = StateBuffer::new(device, &State::new(training.seed, [training.rate; 2], 0, end))?;
        let options = LoaderOptions { batch: n, seed: training.seed, share: 1.0, last: LastBatch::Fill };
        let mut loader = Loader::new(data, options)?;
        let (mut bytes, mut wanted) = (filled("a batch of images", product([n, shape.len()]), 0)?, vec![0; n]);
        let mut line = filled("an image", shape.len(), 0)?;
        let dlogits = layers.logits.dx.clone().unwrap_or(device.zeros(n * classes)?);
        for step in 0..training.steps {
            if !go_on() {
                return Ok(None);
            }
            loader.fill(step, &mut bytes, &mut wanted)?;
            let mut random = Random::new(training.seed, 0, step as u32);
            for image in bytes.chunks_exact_mut(shape.len()) {
                move_image(image, &mut line, shape, training.shift, &mut random);
            }
            layers.bytes.write(&bytes)?;
            labels.write(&wanted)?;
            let flat = [&classifier.values, &classifier.running];
            layers.forward(&state, flat, Mode::Train { momentum: MOMENTUM })?;
            let out = Evaluation { statistics: &statistics, dx: &dlogits };
            cross_entropy::evaluate(&out, &layers.logits.x, &labels, 1.0, &loss_workspace)?;
            state::check(&state, &statistics)?;
            gradients.zero()?;
            layers.network.backward(&Backward::of(&classifier.values, Some(&gradients), 0..n))?;
            let buffers = adam::Buffers {
                parameters: &classifier.values,
                first_moment: &first_moment,
                second_moment: &second_moment,
                gradient: &gradients,
            };
            adam::update(&buffers, None, &norm, &state, Slot::Generator, &ADAM, &adam_workspace)?;
            state::advance(&state)?;
        }
        let ended = state.read()?;
        if ended.halted != 0 {
            let what = "the classifier's loss or gradient is not finite".into();
            return Err(Error::NotFinite { step: u64::from(ended.step) + 1, what });
        }
        Ok(Some(classifier))
    }

    /// One that nobody has trained, whose labels mean nothing. Its features are those of random weights, which are known to
    /// do for coverage and density (Naeem, Oh, Uh, Choi and Yoo, 2020).
    pub fn untrained(device: &Device, shape: ImageShape) -> Result<Classifier> {
        let classifier = Classifier::new(device, shape, 2)?;
        classifier.values.write(&classifier.layouts.parameters.initial_values(1)?)?;
        classifier.running.write(&classifier.layouts.running.initial_values(1)?)?;
        Ok(classifier)
    }

    /// Gives all ranks the weights of the first, which alone has been trained or read.
    pub fn take_from_first(&self) -> Result<()> {
        let Some(ranks) = self.device().ranks() else { return Ok(()) };
        ranks.broadcast(&self.values, 0)?;
        ranks.broadcast(&self.running, 0)
    }

    /// What `see` sees of so many images, a batch at a time; the ranks share them out, and the first one gets it. None where `go_on`,
    /// which is asked before each batch, says no.
    pub(super) fn see_parts(
        &self,
        count: usize,
        go_on: &dyn Fn() -> bool,
        mut see: impl FnMut(Range<usize>) -> Result<Seen>,
    ) -> Result<Option<Seen>> {
        let (mut all, d) = (Seen::default(), self.layers.features.c);
        let rows = |part: Range<usize>| {
            let seen = see(part)?;
            let row = |(label, features): (&u32, &[f32])| [&[*label as f32], features].concat();
            Ok(seen.labels.iter().zip(seen.features.rows()).flat_map(row).collect())
        };
        let take = |row: &[f32]| {
            all.labels.push(row[0] as u32);
            all.features.extend(d, &row[1..]);
        };
        Ok(self.device().see_in_turns((count, BATCH, 1 + d), go_on, rows, take)?.then_some(all))
    }

    /// Labels and features of images (count, H, W, C).
    pub fn see(&self, images: &[u8]) -> Result<Seen> {
        let len = self.shape.len();
        if !images.len().is_multiple_of(len) {
            let (found, shape) = (images.len(), self.shape);
            return Err(Error::Shape(format!("classifier: {found} bytes, expected images of {shape}")));
        }
        let mut seen = Seen::default();
        seen.features.dimensions = self.layers.features.c;
        let mut batch = filled("a batch of images", product([BATCH, len]), 0)?;
        for images in images.chunks(BATCH * len) {
            batch[..images.len()].copy_from_slice(images);
            self.layers.bytes.write(&batch)?;
            self.layers.forward(&self.state, [&self.values, &self.running], Mode::Evaluate)?;
            let count = images.len() / len;
            let logits = self.layers.logits.x.view(0..count * self.classes).read()?;
            seen.labels.extend(logits.chunks_exact(self.classes).map(largest));
            seen.features.values.extend(self.layers.features.x.view(0..count * self.layers.features.c).read()?);
        }
        Ok(seen)
    }

    /// As [`Classifier::see`], for images of a data set.
    pub fn see_data(&self, data: &Dataset, indices: &[usize]) -> Result<Seen> {
        let mut seen = Seen::default();
        for indices in indices.chunks(BATCH) {
            let mut images = filled("a batch of images", product([indices.len(), self.shape.len()]), 0)?;
            for (image, index) in images.chunks_exact_mut(self.shape.len()).zip(indices) {
                data.read(*index, image)?;
            }
            seen.extend(self.see(&images)?);
        }
        Ok(seen)
    }

    /// To how many of these images the classifier gives their label.
    pub fn right(&self, data: &Dataset, indices: &[usize]) -> Result<usize> {
        let seen = self.see_data(data, indices)?;
        Ok(seen.labels.iter().zip(indices).filter(|(label, index)| **label == data.label(**index)).count())
    }
}

/// The index of the largest value; of equal ones it is the first.
fn largest(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best as u32
}

/// Moves an image by up to `most` pixels in each direction. The space that becomes free is filled with the pixels of its
/// edge.
fn move_image(image: &mut [u8], from: &mut [u8], shape: ImageShape, most: usize, random: &mut Random) {
    let ImageShape { height, width, channels } = shape;
    let mut draw = || random.below(2 * most as u32 + 1) as isize - most as isize;
    let (down, right) = (draw(), draw());
    from.copy_from_slice(image);
    for y in 0..height {
        let sy = (y as isize - down).clamp(0, height as isize - 1) as usize;
        for x in 0..width {
            let sx = (x as isize - right).clamp(0, width as isize - 1) as usize;
            let (to, from_at) = ((y * width + x) * channels, (sy * width + sx) * channels);
            image[to..to + channels].copy_from_slice(&from[from_at..from_at + channels]);
        }
    }
}
