//! Networks that judge images, as data: a list of products and poolings, which the kernels of `ops` run without a backward pass.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::data::ImageShape;
use crate::device::{Buffer, Device, Reals};
use crate::ops::Activation;
use crate::ops::conv::{self, Conv, Epilogue, Prologue};
use crate::ops::features::{self, Filter, Pool, Resize};
use crate::ops::resample::Image;
use crate::sizes::product;
use crate::{Error, Result};

/// A tensor of a [`Description`].
pub type Tensor = usize;

/// A convolution, or a linear layer, which is one whose filter is as large as its input. Where a norm with fixed statistics
/// follows, its scale and shift are in the filters and the bias.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    pub name: String,
    /// R, S, C, K.
    pub filter: [usize; 4],
    pub stride: usize,
    /// Of rows, and of columns.
    pub pad: [usize; 2],
    pub relu: bool,
}

impl Product {
    /// C to K channels through a filter of `r` x `s`, then a ReLU, at every pixel; the image stays as large where both are odd.
    pub fn new(name: &str, [r, s]: [usize; 2], k: usize) -> Product {
        Product { name: name.into(), filter: [r, s, 0, k], stride: 1, pad: [r / 2, s / 2], relu: true }
    }

    pub fn stride(self, stride: usize) -> Product {
        Product { stride, ..self }
    }

    pub fn without_padding(self) -> Product {
        Product { pad: [0, 0], ..self }
    }

    pub fn without_relu(self) -> Product {
        Product { relu: false, ..self }
    }
}

/// What one layer does.
pub enum Work {
    Product(Product),
    /// The channels from this one on become what is pooled.
    Pool(Pool, usize),
}

/// A layer: it reads one tensor, and writes another or, where a pooling is joined with others, a part of it.
pub struct Op {
    pub work: Work,
    pub from: Tensor,
    pub to: Tensor,
}

/// The layers of a network, in the order in which they run.
pub struct Description {
    /// H, W, C of each tensor; the first one is the input.
    shapes: Vec<[usize; 3]>,
    ops: Vec<Op>,
}

impl Description {
    /// A network that sees images of this shape, (H, W, C).
    pub fn of(input: [usize; 3]) -> (Description, Tensor) {
        (Description { shapes: vec![input], ops: Vec::new() }, 0)
    }

    fn add(&mut self, shape: [usize; 3], from: Tensor, work: Work) -> Tensor {
        self.shapes.push(shape);
        self.ops.push(Op { work, from, to: self.shapes.len() - 1 });
        self.shapes.len() - 1
    }

    pub fn shape(&self, tensor: Tensor) -> [usize; 3] {
        self.shapes[tensor]
    }

    /// The layers in their order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub fn products(&self) -> impl Iterator<Item = &Product> {
        self.ops.iter().filter_map(|op| match &op.work {
            Work::Product(product) => Some(product),
            Work::Pool(..) => None,
        })
    }

    /// `act(conv(x))`; the number of input channels is that of `x`.
    pub fn product(&mut self, x: Tensor, mut product: Product) -> Tensor {
        product.filter[2] = self.shapes[x][2];
        let sizes = sizes(&product, self.shapes[x], 1);
        self.add([sizes.p(), sizes.q(), sizes.k], x, Work::Product(product))
    }

    /// A linear layer of all numbers of `x`.
    pub fn linear(&mut self, x: Tensor, name: &str, k: usize) -> Tensor {
        let [h, w, _] = self.shapes[x];
        self.product(x, Product::new(name, [h, w], k).without_padding())
    }

    pub fn pool(&mut self, x: Tensor, pool: Pool) -> Tensor {
        let [h, w, c] = self.shapes[x];
        self.add([pool.out(h), pool.out(w), c], x, Work::Pool(pool, 0))
    }

    /// The channels of all `parts` behind one another. A part that was pooled is written into its place at once, the others are
    /// copied there: a product writes whole pixels.
    pub fn join(&mut self, parts: &[Tensor]) -> Tensor {
        let [h, w, _] = self.shapes[parts[0]];
        let channels = parts.iter().map(|part| self.shapes[*part][2]).sum();
        self.shapes.push([h, w, channels]);
        let (to, mut place) = (self.shapes.len() - 1, 0);
        for part in parts {
            match self.ops.iter_mut().find(|op| op.to == *part) {
                Some(Op { work: Work::Pool(_, first), to: pooled, .. }) => (*first, *pooled) = (place, to),
                _ => self.ops.push(Op { work: Work::Pool(Pool::COPY, place), from: *part, to }),
            }
            place += self.shapes[*part][2];
        }
        to
    }

    /// Where each tensor lies, in numbers for each image, and how many there are: memory is used again once the last layer that
    /// reads a tensor has run. `kept` are read when all have run.
    fn places(&self, kept: &[Tensor]) -> (Vec<usize>, usize) {
        let len = |tensor: Tensor| product(self.shapes[tensor]);
        let mut places = vec![None; self.shapes.len()];
        let (mut live, mut end) = (Vec::<Tensor>::new(), 0);
        let last_use = |tensor: Tensor| match kept.contains(&tensor) {
            true => usize::MAX,
            false => self.ops.iter().rposition(|op| op.from == tensor || op.to == tensor).unwrap_or(0),
        };
        let made = std::iter::once((0, 0)).chain(self.ops.iter().map(|op| op.to).enumerate());
        for (now, tensor) in made {
            live.retain(|other| last_use(*other) >= now);
            if places[tensor].is_some() {
                continue;
            }
            let mut taken: Vec<_> = live.iter().filter_map(|t| Some((places[*t]?, len(*t)))).collect();
            taken.sort_unstable();
            let mut place = 0;
            for (start, len_there) in taken {
                if place + len(tensor) <= start {
                    break;
                }
                place = place.max(start + len_there);
            }
            places[tensor] = Some(place);
            live.push(tensor);
            end = end.max(place + len(tensor));
        }
        (places.into_iter().map(Option::unwrap_or_default).collect(), end)
    }
}

fn sizes(product: &Product, [h, w, c]: [usize; 3], n: usize) -> Conv {
    let ([r, s, _, k], stride, pad) = (product.filter, product.stride, product.pad);
    Conv { n, h, w, c, k, r, s, pad, stride }
}

/// How bytes become what a network sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    pub filter: Filter,
    /// A byte becomes `range.0 * byte + range.1`.
    pub range: (f32, f32),
}

/// A network on a device, with its weights.
pub struct FeatureNetwork {
    description: Description,
    look: Look,
    most: usize,
    memory: Reals,
    places: Vec<usize>,
    /// Filters (R, S, C, K) and bias (K) of each product.
    weights: Vec<(Reals, Reals)>,
    resizes: RefCell<HashMap<[usize; 3], Resize>>,
}

impl FeatureNetwork {
    /// For up to `most` images at once. `weights` gives filters (R, S, C, K) and bias (K) of a product. `kept` are the tensors that
    /// [`FeatureNetwork::read`] is asked for.
    pub fn new(
        device: &Device,
        description: Description,
        look: Look,
        most: usize,
        kept: &[Tensor],
        mut weights: impl FnMut(&Product) -> Result<(Vec<f32>, Vec<f32>)>,
    ) -> Result<FeatureNetwork> {
        let (places, end) = description.places(kept);
        let mut there = Vec::new();
        for op in &description.ops {
            if let Work::Product(layer) = &op.work {
                let (filters, bias) = weights(layer)?;
                if (filters.len(), bias.len()) != (product(layer.filter), layer.filter[3]) {
                    let (name, filter, found) = (&layer.name, layer.filter, (filters.len(), bias.len()));
                    return Err(Error::Shape(format!("{name}: {found:?} weights, expected a filter of {filter:?}")));
                }
                there.push((device.upload(&filters)?, device.upload(&bias)?));
            }
        }
        let memory = device.zeros(product([most, end]))?;
        Ok(FeatureNetwork { description, look, most, memory, places, weights: there, resizes: RefCell::default() })
    }

    /// The most images that it sees at once.
    pub fn most(&self) -> usize {
        self.most
    }

    pub fn device(&self) -> &Device {
        self.memory.device()
    }

    pub(super) fn part(&self, tensor: Tensor, n: usize) -> Reals {
        let begin = product([self.places[tensor], self.most]);
        self.memory.view(begin..begin + product([n, product(self.description.shapes[tensor])]))
    }

    /// Takes images (N, H, W, C) of this shape through all layers.
    pub fn run(&self, images: &Buffer<u8>, shape: ImageShape) -> Result<()> {
        let n = images.len() / shape.len().max(1);
        if n == 0 || n > self.most || images.len() != product([n, shape.len()]) {
            let (found, most) = (images.len(), self.most);
            return Err(Error::Shape(format!("{found} bytes, expected 1 to {most} images of {shape}")));
        }
        let mut resizes = self.resizes.borrow_mut();
        // A folder of pictures may have thousands of sizes.
        const SIZES: usize = 64;
        if resizes.len() > SIZES {
            resizes.clear();
        }
        let resize = match resizes.entry([shape.height, shape.width, shape.channels]) {
            std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let Look { filter, range } = self.look;
                place.insert(Resize::new(self.device(), shape, self.description.shapes[0], filter, range)?)
            }
        };
        resize.run(&self.part(0, n), images)?;
        let mut weights = self.weights.iter();
        for Op { work, from, to } in &self.description.ops {
            let (x, y) = (self.part(*from, n), self.part(*to, n));
            let [h, w, c] = self.description.shapes[*from];
            match work {
                Work::Pool(pool, first) => {
                    features::pool(*pool, &y, &x, Image { n, h, w, c }, *first, self.description.shapes[*to][2])?
                }
                Work::Product(layer) => {
                    let Some((filters, bias)) = weights.next() else { break };
                    let activation = if layer.relu { Activation::RELU } else { Activation::Identity };
                    let epilogue = Epilogue { bias: Some(bias), activation, ..Epilogue::NONE };
                    let sizes = sizes(layer, [h, w, c], n);
                    conv::conv_forward(sizes, &y, &x, filters, &Prologue::NONE, &epilogue)?;
                }
            }
        }
        Ok(())
    }

    /// What `tensor` is for the first `n` images of the last run, (N, H, W, C).
    pub fn read(&self, tensor: Tensor, n: usize) -> Result<Vec<f32>> {
        self.part(tensor, n).read()
    }
}
