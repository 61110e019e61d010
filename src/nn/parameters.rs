//! Named parts of flat buffers. The optimiser, the average, the zeroing of gradients and the checkpoint each walk one
//! buffer, while each layer sees its own weights in it.

use crate::device::Reals;
use crate::ops::spectral_norm::{Matrix, Outputs};
use crate::random::Random;
use crate::sizes::{copied, filled, product, sum};
use crate::{Error, Result};

/// How a tensor gets its first values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Constant(f32),
    /// U(-b, b) with b = 1 / sqrt(fan_in): PyTorch's default for a linear or convolution layer and its bias.
    FanIn {
        fan_in: usize,
    },
    /// U(-b, b) with b = gain * sqrt(6 / (fan_in + fan_out)): Glorot and Bengio, 2010.
    GlorotUniform {
        fan_in: usize,
        fan_out: usize,
        gain: f32,
    },
    Normal {
        deviation: f32,
    },
}

/// One tensor of a flat buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub init: Init,
    pub at: Parameter,
    /// Where a weight's outputs are, if spectral normalisation applies to it.
    outputs: Option<Outputs>,
}

impl Entry {
    /// The tensor as a matrix, if spectral normalisation applies to it.
    pub fn matrix(&self) -> Option<Matrix> {
        let outputs = self.outputs?;
        let columns = *self.shape.last()?;
        Some(Matrix { offset: self.at.offset, rows: self.at.len / columns, columns, outputs })
    }
}

/// Where a tensor lies in its flat buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    offset: usize,
    len: usize,
}

impl Parameter {
    pub fn offset(self) -> usize {
        self.offset
    }

    pub fn len(self) -> usize {
        self.len
    }

    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The tensor's part of a flat buffer of this layout.
    pub fn of(self, flat: &Reals) -> Reals {
        flat.view(self.offset..self.offset + self.len)
    }
}

/// The tensors of a flat buffer, in order. Each starts at a multiple of 64 bytes; the gaps stay zero.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    entries: Vec<Entry>,
    len: usize,
}

const ALIGNMENT: usize = 16;

impl Layout {
    /// The place of this tensor: that of the tensor of this name, if there is one, or else a new one. So a second network
    /// that is built by the same code, with another batch for sampling, shares the weights of the first.
    pub fn tensor(&mut self, name: &str, shape: &[usize], init: Init) -> Parameter {
        if let Some(entry) = self.entries.iter().find(|e| e.name == name) {
            assert_eq!(entry.shape, shape, "{name} was laid out with another shape");
            return entry.at;
        }
        let len = shape.iter().fold(1, |len, side| product([len, *side]));
        let at = Parameter { offset: self.len, len };
        self.entries.push(Entry { name: name.to_string(), shape: shape.to_vec(), init, at, outputs: None });
        self.len = sum([self.len, len.checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX)]);
        at
    }

    /// A weight: as [`Layout::tensor`], and spectral normalisation applies to it.
    pub fn weight(&mut self, name: &str, shape: &[usize], init: Init, outputs: Outputs) -> Parameter {
        let at = self.tensor(name, shape, init);
        self.entries.iter_mut().filter(|e| e.at == at).for_each(|e| e.outputs = Some(outputs));
        at
    }

    /// The tensor of this name at a place that something else has settled, behind those that there are.
    pub fn placed(&mut self, name: &str, place: std::ops::Range<usize>) {
        let at = Parameter { offset: place.start, len: place.len() };
        let (name, shape, init) = (name.to_string(), vec![place.len()], Init::Constant(0.0));
        self.entries.push(Entry { name, shape, init, at, outputs: None });
        self.len = self.len.max(place.end);
    }

    /// Gives all biases the first values that PyTorch gives them: [`Init::FanIn`] of the weight of their layer.
    pub fn start_biases_as_pytorch(&mut self) {
        let fan_in = |weight: &Entry| weight.at.len / weight.shape.last().copied().unwrap_or(1).max(1);
        let weights = self.entries.iter().filter_map(|e| Some((e.name.strip_suffix("weight")?.to_string(), fan_in(e))));
        let inputs: std::collections::HashMap<String, usize> = weights.collect();
        for entry in &mut self.entries {
            if let Some(fan_in) = entry.name.strip_suffix("bias").and_then(|layer| inputs.get(layer)) {
                entry.init = Init::FanIn { fan_in: *fan_in };
            }
        }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Elements of the flat buffer, gaps included.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Numbers that are trained or kept; gaps are not counted.
    pub fn count(&self) -> usize {
        self.entries.iter().fold(0, |count, e| sum([count, e.at.len]))
    }

    /// First values for all tensors. Tensor number i draws from stream i of `seed`, so its values do not depend on the
    /// other tensors.
    pub fn initial_values(&self, seed: u64) -> Result<Vec<f32>> {
        let mut values = filled("the parameters", self.len, 0.0)?;
        for (i, entry) in self.entries.iter().enumerate() {
            let mut random = Random::new(seed, i as u32, 0);
            let part = &mut values[entry.at.offset..entry.at.offset + entry.at.len];
            let bound = match entry.init {
                Init::Constant(value) => {
                    part.fill(value);
                    continue;
                }
                Init::Normal { deviation } => {
                    random.fill_normal(part, deviation);
                    continue;
                }
                Init::FanIn { fan_in } => 1.0 / (fan_in as f32).sqrt(),
                Init::GlorotUniform { fan_in, fan_out, gain } => gain * (6.0 / (fan_in + fan_out) as f32).sqrt(),
            };
            random.fill_uniform(part, -bound, bound);
        }
        Ok(values)
    }

    /// Reads the tensors of a flat buffer.
    pub fn read(&self, flat: &Reals) -> Result<Vec<(&Entry, Vec<f32>)>> {
        let values = flat.read()?;
        let part = |e: &Entry| copied("a copy of the parameters", &values[e.at.offset..e.at.offset + e.at.len]);
        self.entries.iter().map(|e| Ok((e, part(e)?))).collect()
    }
}

/// The name of the first tensor with a value that is not finite.
pub fn first_not_finite(layout: &Layout, flat: &Reals) -> Result<Option<String>> {
    let bad = |values: &[f32]| values.iter().any(|x| !x.is_finite());
    Ok(layout.read(flat)?.into_iter().find(|(_, values)| bad(values)).map(|(entry, _)| entry.name.clone()))
}

/// An error unless `find`, which is asked for `prefix` and a tensor's name, has each tensor of a layout with its shape.
pub fn check<'a>(layout: &Layout, prefix: &str, find: impl Fn(&str) -> Option<(&'a [usize], &'a [f32])>) -> Result<()> {
    for entry in layout.entries() {
        let name = format!("{prefix}{}", entry.name);
        let (shape, tensor) = find(&name).ok_or_else(|| Error::Shape(format!("tensor {name} is missing")))?;
        if shape != entry.shape || tensor.len() != entry.at.len {
            return Err(Error::Shape(format!("tensor {name} has shape {shape:?}, expected {:?}", entry.shape)));
        }
    }
    Ok(())
}

/// Copies all tensors of a layout, which [`check`] has found, into a flat buffer.
pub fn restore<'a>(
    layout: &Layout,
    flat: &Reals,
    prefix: &str,
    find: impl Fn(&str) -> Option<(&'a [usize], &'a [f32])>,
) -> Result<()> {
    check(layout, prefix, &find)?;
    // The buffer may end with its last tensor, without the gap that a layout leaves there.
    let mut values = filled("the parameters", flat.len(), 0.0)?;
    for entry in layout.entries() {
        if let Some((_, tensor)) = find(&format!("{prefix}{}", entry.name)) {
            values[entry.at.offset..entry.at.offset + entry.at.len].copy_from_slice(tensor);
        }
    }
    flat.write(&values)
}
