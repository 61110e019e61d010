//! Labels that are vectors. A parameter with a row per class, of which a sample otherwise takes the row of its class, becomes one
//! with a row per sample, which mixes the rows in the proportions of the sample's vector. The kernels then see label i at sample i:
//!
//! ```text
//! mixed (N, width) = C (N, classes) rows (classes, width)        drows += C^T dmixed
//! ```

use std::ops::Range;
use std::sync::Arc;

use super::{Arena, Backward, Builder, Forward, Layer, Parameter, Tangent, Value};
use crate::Result;
use crate::data::vectors::Vectors;
use crate::device::{Buffer, Reals};
use crate::ops::matmul::{self, Linear, OutputGradient};
use crate::ops::{Activation, resample};
use crate::sizes::product;

/// The labels of some samples.
#[derive(Clone)]
pub struct Labels {
    /// (N): the class of each; or, with vectors, the number of its vector among all.
    pub numbers: Buffer<u32>,
    chosen: Option<Chosen>,
}

#[derive(Clone)]
struct Chosen {
    all: Arc<Vectors>,
    /// (count, classes): `all`.
    table: Reals,
    /// (N, classes): those of the samples.
    of_samples: Reals,
    /// (N): 0, 1, 2, ...
    order: Buffer<u32>,
}

impl Labels {
    pub fn new(arena: &mut Arena, numbers: &Buffer<u32>, vectors: Option<Arc<Vectors>>) -> Result<Labels> {
        let chosen = match vectors {
            None => None,
            Some(all) => Some(Chosen {
                table: arena.device().upload(&all.values)?,
                of_samples: arena.take(product([numbers.len(), all.classes]))?,
                order: arena.device().upload(&(0..numbers.len() as u32).collect::<Vec<_>>())?,
                all,
            }),
        };
        Ok(Labels { numbers: numbers.clone(), chosen })
    }

    /// What kernels are told of these samples, to pick rows of [`ClassRows::values`].
    pub fn of(&self, rows: &Range<usize>) -> Buffer<u32> {
        match &self.chosen {
            None => self.numbers.view(rows.clone()),
            Some(chosen) => chosen.order.view(0..rows.len()),
        }
    }

    /// The layer before those that have [`ClassRows`], where labels are vectors. It hands `x` on as it is.
    pub fn look_up(&self, x: &Value) -> Option<Box<dyn Layer>> {
        let (numbers, chosen) = (self.numbers.clone(), self.chosen.clone()?);
        Some(Box::new(LookUp { numbers, chosen, x: x.clone() }))
    }

    /// (count, classes): all vectors times `factor`, where labels are vectors.
    pub fn times(&self, factor: f32) -> Result<Option<Reals>> {
        let scaled = |chosen: &Chosen| {
            let values: Vec<f32> = chosen.all.values.iter().map(|x| factor * x).collect();
            chosen.table.device().upload(&values)
        };
        self.chosen.as_ref().map(scaled).transpose()
    }
}

/// Of classes.
impl From<&Buffer<u32>> for Labels {
    fn from(numbers: &Buffer<u32>) -> Labels {
        Labels { numbers: numbers.clone(), chosen: None }
    }
}

/// Finds the vectors of the samples.
struct LookUp {
    numbers: Buffer<u32>,
    chosen: Chosen,
    x: Value,
}

impl Layer for LookUp {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let Chosen { all, table, of_samples, .. } = &self.chosen;
        let to = of_samples.view(pass.rows.start * all.classes..pass.rows.end * all.classes);
        resample::rows(&to, table, &self.numbers.view(pass.rows.clone()), all.classes)
    }

    fn backward(&self, _pass: &Backward) -> Result<()> {
        Ok(())
    }

    fn tangent(&self, _pass: &Tangent) -> Result<()> {
        Ok(())
    }

    fn piecewise_linear(&self) -> bool {
        true
    }

    fn output(&self) -> &Value {
        &self.x
    }

    fn name(&self) -> &str {
        "vectors"
    }
}

/// A parameter that has a row for each class; without labels, one row for all samples.
#[derive(Clone)]
pub struct ClassRows {
    parameter: Parameter,
    mixed: Option<Mixed>,
}

#[derive(Clone)]
struct Mixed {
    vectors: Chosen,
    width: usize,
    /// (N, width)
    rows: Reals,
    /// (N, width), where there are backward passes.
    gradient: Option<Reals>,
}

impl ClassRows {
    /// `parameter` has rows of `width` numbers.
    pub fn new(build: &mut Builder, parameter: Parameter, labels: Option<&Labels>, width: usize) -> Result<ClassRows> {
        let mixed = match labels.and_then(|labels| labels.chosen.clone()) {
            None => None,
            Some(vectors) => {
                let len = product([vectors.order.len(), width]);
                let gradient = if build.gradients { Some(build.arena.take(len)?) } else { None };
                Some(Mixed { vectors, width, rows: build.arena.take(len)?, gradient })
            }
        };
        Ok(ClassRows { parameter, mixed })
    }

    /// Mixes the rows for these samples, where labels are vectors. Before [`ClassRows::values`] of a forward pass.
    pub fn mix(&self, weights: &Reals, rows: &Range<usize>) -> Result<()> {
        let Some(mixed) = &self.mixed else { return Ok(()) };
        let (to, vectors) = (mixed.part(&mixed.rows, rows), mixed.vectors_of(rows));
        let weight = self.parameter.of(weights);
        matmul::linear_forward(mixed.sizes(rows), &to, &vectors, &weight, None, Activation::Identity)
    }

    /// The rows that [`Labels::of`] these samples picks from.
    pub fn values(&self, weights: &Reals, rows: &Range<usize>) -> Reals {
        self.mixed.as_ref().map_or(self.parameter.of(weights), |mixed| mixed.part(&mixed.rows, rows))
    }

    /// Where kernels add the gradient of [`ClassRows::values`] to.
    pub fn gradient(&self, gradients: &Reals, rows: &Range<usize>) -> Result<Reals> {
        match self.mixed.as_ref().and_then(|mixed| Some((mixed, mixed.gradient.as_ref()?))) {
            None => Ok(self.parameter.of(gradients)),
            Some((mixed, gradient)) => {
                let part = mixed.part(gradient, rows);
                part.zero()?;
                Ok(part)
            }
        }
    }

    /// Adds what kernels have left there to the parameter's gradient.
    pub fn add_gradient(&self, gradients: &Reals, rows: &Range<usize>) -> Result<()> {
        let Some((mixed, gradient)) = self.mixed.as_ref().and_then(|mixed| Some((mixed, mixed.gradient.as_ref()?)))
        else {
            return Ok(());
        };
        let (dy, vectors) = (mixed.part(gradient, rows), mixed.vectors_of(rows));
        let dy = OutputGradient { dy: &dy, y: None, activation: Activation::Identity, row_scale: None };
        matmul::linear_weight_gradient(mixed.sizes(rows), (&self.parameter.of(gradients), None), &vectors, &dy)
    }
}

impl Mixed {
    fn part(&self, of: &Reals, rows: &Range<usize>) -> Reals {
        of.view(rows.start * self.width..rows.end * self.width)
    }

    fn vectors_of(&self, rows: &Range<usize>) -> Reals {
        let classes = self.vectors.all.classes;
        self.vectors.of_samples.view(rows.start * classes..rows.end * classes)
    }

    fn sizes(&self, rows: &Range<usize>) -> Linear {
        Linear { n: rows.len(), c: self.vectors.all.classes, k: self.width }
    }
}
