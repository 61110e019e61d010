//! Batch norm, plain or class-conditional.

use super::{Backward, Builder, ClassRows, Forward, Fusion, Init, Labels, Layer, Mode, Parameter, Value};
use crate::device::{Buffer, Reals};
use crate::ops::norm::{self, Affine, Batch, Gradients, Running, Shape, Tables, Whole};
use crate::ops::{Activation, elementary};
use crate::sizes::product;
use crate::{Error, Result};

/// The statistics and tables of a batch norm, and its backward pass. The layer that owns it applies it: either
/// [`BatchNorm`], or a convolution that reads its input through the tables. An unfused norm has its values in memory,
/// before and after the activation.
pub struct Norm {
    /// For messages: `block1.norm2`.
    name: String,
    gamma: ClassRows,
    beta: ClassRows,
    running_mean: Parameter,
    running_var: Parameter,
    /// (N), where each label has a scale and a shift of its own.
    labels: Option<Labels>,
    eps: f32,
    activation: Activation,
    x: Value,
    mean: Reals,
    rstd: Reals,
    /// (S, C), S = N with labels, else 1.
    scale: Reals,
    shift: Reals,
    workspace: Reals,
    /// Of a rank's share of a batch: the samples of all ranks, and room for the moments of each.
    whole: Option<(usize, Reals)>,
    /// Of an unfused norm: the normalised value before its activation, and its gradient.
    unfused: Option<Value>,
}

/// What a norm is made of.
#[derive(Clone)]
pub struct NormOptions {
    pub eps: f32,
    pub activation: Activation,
    /// The labels (N) and the number of classes of a conditional one.
    pub conditional: Option<(Labels, usize)>,
}

impl Norm {
    pub fn new(build: &mut Builder, name: &str, x: &Value, options: &NormOptions) -> Result<Norm> {
        let (c, NormOptions { eps, activation, conditional }) = (x.c, options.clone());
        let (shape, rows) = match &conditional {
            Some((_, classes)) => (vec![*classes, c], x.n),
            None => (vec![c], 1),
        };
        let of = Shape { n: x.n, h: x.h, w: x.w, c, upsample: false };
        let workspace = norm::workspace_len(build.arena.device(), of, conditional.is_some());
        let labels = conditional.map(|(labels, _)| labels);
        let gamma = build.parameters.tensor(&format!("{name}.weight"), &shape, Init::Constant(1.0));
        let beta = build.parameters.tensor(&format!("{name}.bias"), &shape, Init::Constant(0.0));
        Ok(Norm {
            name: name.to_string(),
            gamma: ClassRows::new(build, gamma, labels.as_ref(), c)?,
            beta: ClassRows::new(build, beta, labels.as_ref(), c)?,
            running_mean: build.running.tensor(&format!("{name}.running_mean"), &[c], Init::Constant(0.0)),
            running_var: build.running.tensor(&format!("{name}.running_var"), &[c], Init::Constant(1.0)),
            labels,
            eps,
            activation,
            x: x.clone(),
            mean: build.arena.take(c)?,
            rstd: build.arena.take(c)?,
            scale: build.arena.take(product([rows, c]))?,
            shift: build.arena.take(product([rows, c]))?,
            workspace: build.arena.take(workspace)?,
            whole: match (build.whole, build.arena.device().ranks().map(|ranks| ranks.ranks())) {
                (Some(samples), Some(ranks)) => Some((samples, build.arena.take(product([3, ranks, c]))?)),
                _ => None,
            },
            unfused: if build.unfused.contains(&Fusion::Norm) { Some(build.value(x.n, x.h, x.w, c)?) } else { None },
        })
    }

    /// Whether the normalised value is stored, and read by what comes next as it is.
    pub fn is_unfused(&self) -> bool {
        self.unfused.is_some()
    }

    /// What a convolution reads of `x`, after the activation. Only its gradient has memory, unless the norm is unfused.
    pub fn activated(&self, build: &mut Builder) -> Result<Value> {
        let Value { n, h, w, c, .. } = self.x;
        if self.is_unfused() { build.value(n, h, w, c) } else { build.gradient_only(&self.x) }
    }

    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// What the normalised value is: `act(scale x + shift)`.
    pub fn tables(&self) -> Tables<'_> {
        Tables { scale: &self.scale, shift: &self.shift }
    }

    fn batch(&self) -> Batch<'_> {
        let whole = self.whole.as_ref().map(|(samples, moments)| Whole { samples: *samples, moments });
        Batch { x: &self.x.x, mean: &self.mean, rstd: &self.rstd, tables: self.tables(), whole }
    }

    fn shape(&self) -> Shape {
        Shape { n: self.x.n, h: self.x.h, w: self.x.w, c: self.x.c, upsample: false }
    }

    /// Of gamma and beta, for all samples.
    fn affine(&self, weights: &Reals) -> (Reals, Reals, Option<Buffer<u32>>) {
        let all = 0..self.x.n;
        let labels = self.labels.as_ref().map(|labels| labels.of(&all));
        (self.gamma.values(weights, &all), self.beta.values(weights, &all), labels)
    }

    /// Fills the tables.
    pub fn prepare(&self, pass: &Forward) -> Result<()> {
        [&self.gamma, &self.beta].into_iter().try_for_each(|rows| rows.mix(pass.weights.values, &(0..self.x.n)))?;
        let (gamma, beta, labels) = self.affine(pass.weights.values);
        let (mean, var) = (self.running_mean.of(pass.running), self.running_var.of(pass.running));
        let affine = Affine { gamma: &gamma, beta: &beta, labels: labels.as_ref() };
        match pass.mode {
            Mode::Train { momentum } => norm::statistics(
                self.batch(),
                Some(Running { mean: &mean, var: &var, momentum }),
                affine,
                self.eps,
                self.shape(),
                &self.workspace,
            ),
            Mode::Evaluate => {
                let running = Running { mean: &mean, var: &var, momentum: 0.0 };
                norm::running_tables(self.tables(), running, affine, self.eps, self.shape())
            }
        }
    }

    /// [`Norm::prepare`]; an unfused norm also stores the values of [`Norm::activated`].
    pub fn forward(&self, pass: &Forward, activated: &Value) -> Result<()> {
        self.prepare(pass)?;
        if self.is_unfused() { self.apply(&activated.x) } else { Ok(()) }
    }

    /// Stores the normalised and activated value in `y`.
    pub fn apply(&self, y: &Reals) -> Result<()> {
        let (x, tables, shape) = (&self.x.x, self.tables(), self.shape());
        match (&self.unfused, self.activation) {
            (Some(z), Activation::LeakyRelu(slope)) => {
                norm::apply(&z.x, x, tables, Activation::Identity, shape)?;
                elementary::leaky_relu(y, &z.x, slope)
            }
            _ => norm::apply(y, x, tables, self.activation, shape),
        }
    }

    /// From the gradient of the activated value `y`: adds to the gradients of the parameters, and overwrites that of the
    /// input. There is no pass for the signal alone.
    pub fn backward(&self, pass: &Backward, y: &Value) -> Result<()> {
        let gradients = pass.gradients.ok_or_else(|| {
            Error::Shape(format!("layer {}: a pass without parameter gradients cannot go through a norm", self.name))
        })?;
        let (dx, dy) = (self.x.gradient(&self.name, "its input")?, y.gradient(&self.name, "its output")?);
        let (all, (gamma, beta, labels)) = (0..self.x.n, self.affine(pass.weights.values));
        let (dgamma, dbeta) = (self.gamma.gradient(gradients, &all)?, self.beta.gradient(gradients, &all)?);
        let affine = Affine { gamma: &gamma, beta: &beta, labels: labels.as_ref() };
        let (dz, activation) = match (&self.unfused, self.activation) {
            (Some(z), Activation::LeakyRelu(slope)) => {
                let dz = z.gradient(&self.name, "its normalised value")?;
                elementary::leaky_relu_backward(dz, dy, &z.x, slope)?;
                (dz, Activation::Identity)
            }
            (_, activation) => (dy, activation),
        };
        norm::backward(
            Gradients { dx, accumulate: false, dgamma: &dgamma, dbeta: &dbeta },
            dz,
            self.batch(),
            affine,
            activation,
            self.shape(),
            &self.workspace,
        )?;
        [&self.gamma, &self.beta].into_iter().try_for_each(|rows| rows.add_gradient(gradients, &all))
    }
}

/// Batch norm and the activation after it, as a layer of its own.
pub struct BatchNorm {
    name: String,
    norm: Norm,
    pub y: Value,
}

impl BatchNorm {
    pub fn new(build: &mut Builder, name: &str, x: &Value, activation: Activation, eps: f32) -> Result<BatchNorm> {
        let options = NormOptions { eps, activation, conditional: None };
        let norm = Norm::new(build, name, x, &options)?;
        Ok(BatchNorm { name: name.to_string(), norm, y: build.value(x.n, x.h, x.w, x.c)? })
    }
}

impl Layer for BatchNorm {
    fn forward(&self, pass: &Forward) -> Result<()> {
        self.norm.prepare(pass)?;
        self.norm.apply(&self.y.x)
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        self.norm.backward(pass, &self.y)
    }

    fn output(&self) -> &Value {
        &self.y
    }

    fn name(&self) -> &str {
        &self.name
    }
}
