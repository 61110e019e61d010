//! Inception-v3 as FID uses it: the weights of TensorFlow's archive of 2015, under the names of PyTorch's ports. Its poolings differ
//! from those of other Inceptions: means leave padding out, and the last block takes the maximum.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::network::{Description, FeatureNetwork, Look, Product, Tensor};
use crate::checkpoint::NamedTensor;
use crate::device::{Device, Reals};
use crate::exchange::file;
use crate::ops::features::{Filter, Pool, Pooling};
use crate::random::Random;
use crate::{Error, Result};

/// The environment variable that names the file of weights.
pub const VARIABLE: &str = "ZGAN_INCEPTION";

/// How the file of weights is made, with Python.
pub const RECIPE: &str = "\
  pip install torch safetensors
  curl -LO https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth
  python -c 'import torch, safetensors.torch as s; s.save_file({name: t.contiguous() for name, t in torch.load(
    \"pt_inception-2015-12-05-6726825d.pth\", weights_only=True).items()}, \"inception.safetensors\")'";

const SIDE: usize = 299;
const EPS: f64 = 1e-3;

/// The program whose numbers are wanted: they bring images to 299 x 299 in different ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Like {
    /// Bilinear, as PyTorch has it, to [-1, 1]
    #[default]
    PytorchFid,
    /// Bilinear, as TensorFlow 1 has it, to [-1, 1)
    TorchFidelity,
    /// Bicubic, as Pillow has it, to [-1, 1)
    CleanFid,
}

impl Like {
    pub fn name(self) -> &'static str {
        match self {
            Like::PytorchFid => "pytorch-fid",
            Like::TorchFidelity => "torch-fidelity",
            Like::CleanFid => "clean-fid",
        }
    }

    fn look(self) -> Look {
        let tensorflow = (1.0 / 128.0, -1.0);
        match self {
            Like::PytorchFid => Look { filter: Filter::Bilinear, range: (2.0 / 255.0, -1.0) },
            Like::TorchFidelity => Look { filter: Filter::BilinearFromCorner, range: tensorflow },
            Like::CleanFid => Look { filter: Filter::Bicubic, range: tensorflow },
        }
    }
}

const LARGEST: Pool = Pool { how: Pooling::Maximum, size: 3, stride: 2, pad: 0 };
const MEAN: Pool = Pool { how: Pooling::Mean, size: 3, stride: 1, pad: 1 };

/// A block of branches, under its name.
struct Block<'a> {
    net: &'a mut Description,
    name: &'a str,
    x: Tensor,
}

impl Block<'_> {
    fn conv(&mut self, x: Tensor, name: &str, filter: [usize; 2], k: usize) -> Tensor {
        self.net.product(x, Product::new(&format!("{}.{name}", self.name), filter, k))
    }

    /// Halves the image.
    fn halving(&mut self, x: Tensor, name: &str, k: usize) -> Tensor {
        let product = Product::new(&format!("{}.{name}", self.name), [3, 3], k);
        self.net.product(x, product.stride(2).without_padding())
    }

    fn pooled(&mut self, pool: Pool, k: usize) -> Tensor {
        let pooled = self.net.pool(self.x, pool);
        self.conv(pooled, "branch_pool", [1, 1], k)
    }

    fn a(mut self, pooled: usize) -> Tensor {
        let x = self.x;
        let one = self.conv(x, "branch1x1", [1, 1], 64);
        let five = self.conv(x, "branch5x5_1", [1, 1], 48);
        let five = self.conv(five, "branch5x5_2", [5, 5], 64);
        let three = self.conv(x, "branch3x3dbl_1", [1, 1], 64);
        let three = self.conv(three, "branch3x3dbl_2", [3, 3], 96);
        let three = self.conv(three, "branch3x3dbl_3", [3, 3], 96);
        let pool = self.pooled(MEAN, pooled);
        self.net.join(&[one, five, three, pool])
    }

    fn b(mut self) -> Tensor {
        let x = self.x;
        let three = self.halving(x, "branch3x3", 384);
        let double = self.conv(x, "branch3x3dbl_1", [1, 1], 64);
        let double = self.conv(double, "branch3x3dbl_2", [3, 3], 96);
        let double = self.halving(double, "branch3x3dbl_3", 96);
        let pool = self.net.pool(x, LARGEST);
        self.net.join(&[three, double, pool])
    }

    fn c(mut self, k: usize) -> Tensor {
        let x = self.x;
        let one = self.conv(x, "branch1x1", [1, 1], 192);
        let seven = self.conv(x, "branch7x7_1", [1, 1], k);
        let seven = self.conv(seven, "branch7x7_2", [1, 7], k);
        let seven = self.conv(seven, "branch7x7_3", [7, 1], 192);
        let double = self.conv(x, "branch7x7dbl_1", [1, 1], k);
        let double = self.conv(double, "branch7x7dbl_2", [7, 1], k);
        let double = self.conv(double, "branch7x7dbl_3", [1, 7], k);
        let double = self.conv(double, "branch7x7dbl_4", [7, 1], k);
        let double = self.conv(double, "branch7x7dbl_5", [1, 7], 192);
        let pool = self.pooled(MEAN, 192);
        self.net.join(&[one, seven, double, pool])
    }

    fn d(mut self) -> Tensor {
        let x = self.x;
        let three = self.conv(x, "branch3x3_1", [1, 1], 192);
        let three = self.halving(three, "branch3x3_2", 320);
        let seven = self.conv(x, "branch7x7x3_1", [1, 1], 192);
        let seven = self.conv(seven, "branch7x7x3_2", [1, 7], 192);
        let seven = self.conv(seven, "branch7x7x3_3", [7, 1], 192);
        let seven = self.halving(seven, "branch7x7x3_4", 192);
        let pool = self.net.pool(x, LARGEST);
        self.net.join(&[three, seven, pool])
    }

    fn e(mut self, pool: Pool) -> Tensor {
        let x = self.x;
        let one = self.conv(x, "branch1x1", [1, 1], 320);
        let three = self.conv(x, "branch3x3_1", [1, 1], 384);
        let a = self.conv(three, "branch3x3_2a", [1, 3], 384);
        let b = self.conv(three, "branch3x3_2b", [3, 1], 384);
        let double = self.conv(x, "branch3x3dbl_1", [1, 1], 448);
        let double = self.conv(double, "branch3x3dbl_2", [3, 3], 384);
        let c = self.conv(double, "branch3x3dbl_3a", [1, 3], 384);
        let d = self.conv(double, "branch3x3dbl_3b", [3, 1], 384);
        let pool = self.pooled(pool, 192);
        self.net.join(&[one, a, b, c, d, pool])
    }
}

/// Its layers up to the features of so many dimensions, of which there are those of pytorch-fid: 64, 192, 768 and 2048. With 2048 there
/// are logits too.
pub fn describe(dimensions: usize) -> (Description, Tensor, Option<Tensor>) {
    let (mut net, x) = Description::of([SIDE, SIDE, 3]);
    let mean = |net: &mut Description, x: Tensor| {
        net.pool(x, Pool { how: Pooling::Mean, size: net.shape(x)[0], stride: 1, pad: 0 })
    };
    let x = net.product(x, Product::new("Conv2d_1a_3x3", [3, 3], 32).stride(2).without_padding());
    let x = net.product(x, Product::new("Conv2d_2a_3x3", [3, 3], 32).without_padding());
    let x = net.product(x, Product::new("Conv2d_2b_3x3", [3, 3], 64));
    let x = net.pool(x, LARGEST);
    if dimensions == 64 {
        let features = mean(&mut net, x);
        return (net, features, None);
    }
    let x = net.product(x, Product::new("Conv2d_3b_1x1", [1, 1], 80));
    let x = net.product(x, Product::new("Conv2d_4a_3x3", [3, 3], 192).without_padding());
    let mut x = net.pool(x, LARGEST);
    if dimensions == 192 {
        let features = mean(&mut net, x);
        return (net, features, None);
    }
    for (name, pooled) in [("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)] {
        x = Block { net: &mut net, name, x }.a(pooled);
    }
    x = Block { net: &mut net, name: "Mixed_6a", x }.b();
    for (name, k) in [("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)] {
        x = Block { net: &mut net, name, x }.c(k);
    }
    if dimensions == 768 {
        let features = mean(&mut net, x);
        return (net, features, None);
    }
    x = Block { net: &mut net, name: "Mixed_7a", x }.d();
    x = Block { net: &mut net, name: "Mixed_7b", x }.e(MEAN);
    x = Block { net: &mut net, name: "Mixed_7c", x }.e(Pool { how: Pooling::Maximum, ..MEAN });
    let features = mean(&mut net, x);
    let logits = net.product(features, Product::new("fc", [1, 1], LOGITS).without_relu());
    (net, features, Some(logits))
}

/// How many classes Inception knows.
pub const LOGITS: usize = 1008;

/// The dimensions that features may have.
pub const DIMENSIONS: [usize; 4] = [64, 192, 768, 2048];

/// Names and shapes of all tensors that a file of weights has.
pub fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    for Product { name, filter: [r, s, c, k], relu, .. } in describe(2048).0.products() {
        if *relu {
            tensors.push((format!("{name}.conv.weight"), vec![*k, *c, *r, *s]));
            let parts = ["weight", "bias", "running_mean", "running_var"];
            tensors.extend(parts.map(|part| (format!("{name}.bn.{part}"), vec![*k])));
        } else {
            tensors.extend([(format!("{name}.weight"), vec![*k, *c]), (format!("{name}.bias"), vec![*k])]);
        }
    }
    tensors
}

/// A file of weights.
pub struct Weights {
    path: PathBuf,
    tensors: Vec<NamedTensor>,
    /// The first 16 digits of the SHA-256 of all numbers.
    pub digest: String,
}

impl Weights {
    /// Reads the file that the command line names, or else the environment. All that a network of 2048 features needs must be there.
    pub fn find(named: Option<&Path>) -> Result<Weights> {
        let variable = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let Some(path) = named.map(Path::to_path_buf).or(variable) else {
            return Err(Error::Config(format!(
                "there are no weights of Inception: --inception FILE, or {VARIABLE}, names the file, which this makes\n{RECIPE}"
            )));
        };
        if !path.is_file() {
            let path = path.display();
            return Err(Error::Config(format!("inception: there is no file {path}; this makes one\n{RECIPE}")));
        }
        let tensors = file::read(&path)?.tensors;
        let mut digest = Sha256::new();
        for tensor in &tensors {
            digest.update(&tensor.name);
            digest.update(crate::checkpoint::little_endian(&tensor.values));
        }
        let digest = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let weights = Weights { path, tensors, digest };
        for (name, shape) in self::tensors() {
            let found = &weights.tensor(&name)?.shape;
            if *found != shape {
                return Err(weights.unfit(format!("{name} is {found:?}, expected {shape:?}")));
            }
        }
        Ok(weights)
    }

    fn unfit(&self, what: String) -> Error {
        Error::Checkpoint { path: self.path.clone(), what: format!("no weights of FID's Inception: {what}") }
    }

    fn tensor(&self, name: &str) -> Result<&NamedTensor> {
        let place = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name));
        place.map(|place| &self.tensors[place]).map_err(|_| self.unfit(format!("there is no tensor {name}")))
    }

    /// Filters (R, S, C, K) and bias (K) of a product, with its norm in them. The last layer has its weights alone: Inception scores
    /// are computed without its bias, in the first program for them and in all since.
    fn of(&self, product: &Product) -> Result<(Vec<f32>, Vec<f32>)> {
        let ([r, s, c, k], name) = (product.filter, &product.name);
        if !product.relu {
            let weight = self.tensor(&format!("{name}.weight"))?;
            return Ok((turned(&weight.values, [r, s, c, k], |_| 1.0), vec![0.0; k]));
        }
        let weight = &self.tensor(&format!("{name}.conv.weight"))?.values;
        let norm = |part: &str| self.tensor(&format!("{name}.bn.{part}")).map(|tensor| &tensor.values);
        let (gamma, beta, mean, variance) =
            (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
        let scale = |k: usize| f64::from(gamma[k]) / (f64::from(variance[k]) + EPS).sqrt();
        let bias = (0..k).map(|k| (f64::from(beta[k]) - f64::from(mean[k]) * scale(k)) as f32).collect();
        Ok((turned(weight, [r, s, c, k], scale), bias))
    }
}

/// From (K, C, R, S) to (R, S, C, K), each K times its scale.
fn turned(weight: &[f32], [r, s, c, k]: [usize; 4], scale: impl Fn(usize) -> f64) -> Vec<f32> {
    let mut turned = vec![0.0; weight.len()];
    for (out, filter) in weight.chunks_exact((r * s * c).max(1)).enumerate() {
        let scale = scale(out);
        for (at, value) in filter.iter().enumerate() {
            let (channel, tap) = (at / (r * s), at % (r * s));
            turned[(tap * c + channel) * k + out] = (scale * f64::from(*value)) as f32;
        }
    }
    turned
}

/// Filters (R, S, C, K) and bias (K) by chance, of a size that keeps the sizes of the activations.
pub fn untrained_weights(product: &Product) -> Result<(Vec<f32>, Vec<f32>)> {
    let [r, s, c, k] = product.filter;
    let reach = (6.0 / (r * s * c) as f32).sqrt();
    let mut filters = vec![0.0; r * s * c * k];
    Random::new(1, 0, 0).fill_uniform(&mut filters, -reach, reach);
    Ok((filters, vec![0.0; k]))
}

/// Inception on a device.
pub struct Inception {
    network: FeatureNetwork,
    features: Tensor,
    logits: Option<Tensor>,
}

impl Inception {
    /// For up to `most` images at once, with features of so many [`DIMENSIONS`].
    pub fn new(device: &Device, weights: &Weights, dimensions: usize, like: Like, most: usize) -> Result<Inception> {
        if !DIMENSIONS.contains(&dimensions) {
            return Err(Error::Config(format!("dims: {dimensions}, expected one of {DIMENSIONS:?}")));
        }
        let (description, features, logits) = describe(dimensions);
        let kept: Vec<Tensor> = std::iter::once(features).chain(logits).collect();
        let network =
            FeatureNetwork::new(device, description, like.look(), most, &kept, |product| weights.of(product))?;
        Ok(Inception { network, features, logits })
    }

    /// One that nobody has trained, for timing: features of 2,048 dimensions from weights by chance.
    pub fn untrained(device: &Device, most: usize) -> Result<Inception> {
        let (description, features, logits) = describe(2048);
        let look = Like::PytorchFid.look();
        let network = FeatureNetwork::new(device, description, look, most, &[features], untrained_weights)?;
        Ok(Inception { network, features, logits })
    }

    /// The features where they lie on the device.
    pub fn features_on_device(&self, n: usize) -> Reals {
        self.network.part(self.features, n)
    }

    pub fn network(&self) -> &FeatureNetwork {
        &self.network
    }

    /// (N, dimensions), of the images of the last run.
    pub fn features(&self, n: usize) -> Result<Vec<f32>> {
        self.network.read(self.features, n)
    }

    /// (N, [`LOGITS`]), without the bias of the last layer; there are none where the features are not the last ones.
    pub fn logits(&self, n: usize) -> Result<Option<Vec<f32>>> {
        self.logits.map(|logits| self.network.read(logits, n)).transpose()
    }
}
