//! The projection discriminator's head: f = V[y] . h + w . h, h the pooled features.

use super::{Backward, Builder, ClassRows, Forward, Fusion, Init, Labels, Layer, Parameter, Tangent, Value};
use crate::Result;
use crate::device::Reals;
use crate::ops::gradient_penalty;
use crate::ops::projection::{self, Gradients, Head, Seeds};
use crate::ops::spectral_norm::Outputs;
use crate::sizes::product;

pub struct ProjectionHead {
    name: String,
    w: Parameter,
    /// The label embedding; without it the head is unconditional.
    v: Option<ClassRows>,
    bias: Option<Parameter>,
    labels: Labels,
    pool_factor: f32,
    x: Value,
    h: Reals,
    logits: Value,
    /// Of an unfused head: the workspaces of its forward and of its backward pass.
    unfused: Option<[Reals; 2]>,
}

/// What a head is made of.
pub struct HeadOptions<'a> {
    /// (N)
    pub labels: &'a Labels,
    /// 0: no embedding.
    pub classes: usize,
    pub bias: bool,
    /// What the sum over pixels is multiplied with.
    pub pool_factor: f32,
    pub init: fn(usize, usize) -> Init,
}

/// What the logits of a head are made of.
#[derive(Clone)]
pub struct HeadParts {
    /// (N, C): the pooled features of the last pass.
    pub features: Reals,
    /// (N)
    pub labels: Labels,
    pub w: Parameter,
    pub v: Option<ClassRows>,
    pub bias: Option<Parameter>,
}

impl ProjectionHead {
    pub fn new(build: &mut Builder, name: &str, x: &Value, options: &HeadOptions) -> Result<ProjectionHead> {
        let (c, classes, p) = (x.c, options.classes, &mut *build.parameters);
        let w = p.weight(&format!("{name}.weight"), &[c, 1], (options.init)(c, 1), Outputs::Columns);
        let v = (classes > 0)
            .then(|| p.weight(&format!("{name}.embedding"), &[classes, c], (options.init)(classes, c), Outputs::Rows));
        let bias = options.bias.then(|| p.tensor(&format!("{name}.bias"), &[1], Init::Constant(0.0)));
        let unfused = build.unfused.contains(&Fusion::Projection);
        let forward = projection::unfused::workspace_len(product([x.n, x.features()]), x.n);
        Ok(ProjectionHead {
            name: name.to_string(),
            w,
            v: v.map(|v| ClassRows::new(build, v, Some(options.labels), c)).transpose()?,
            bias,
            labels: options.labels.clone(),
            pool_factor: options.pool_factor,
            h: build.arena.take(product([x.n, c]))?,
            unfused: if unfused {
                Some([build.arena.take(forward)?, build.arena.take(product([x.n, c]))?])
            } else {
                None
            },
            logits: build.exact_value(x.n, 1, 1, 1)?,
            x: x.clone(),
        })
    }

    /// What its logits are made of.
    pub fn parts(&self) -> HeadParts {
        HeadParts {
            features: self.h.clone(),
            labels: self.labels.clone(),
            w: self.w,
            v: self.v.clone(),
            bias: self.bias,
        }
    }

    fn features(&self, rows: &std::ops::Range<usize>) -> Reals {
        self.h.view(rows.start * self.x.c..rows.end * self.x.c)
    }
}

impl Layer for ProjectionHead {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let weights = pass.weights.values;
        let (w, bias) = (self.w.of(weights), self.bias.map(|bias| bias.of(weights)));
        self.v.as_ref().map_or(Ok(()), |v| v.mix(weights, &pass.rows))?;
        let v = self.v.as_ref().map(|v| v.values(weights, &pass.rows));
        let labels = self.labels.of(&pass.rows);
        let pool_factor = self.pool_factor;
        let head = Head { w: &w, v: v.as_ref(), labels: Some(&labels), bias: bias.as_ref(), pool_factor };
        let (x, logits) = (self.x.rows(&pass.rows), self.logits.rows(&pass.rows));
        let h = self.features(&pass.rows);
        if let Some([workspace, _]) = &self.unfused {
            let workspace = workspace.view(0..projection::unfused::workspace_len(x.x.len(), x.n));
            return projection::unfused::forward(&logits.x, &h, &x.x, &head, &workspace);
        }
        projection::forward(&logits.x, &h, &x.x, &head)
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        if let Some(gradients) = pass.gradients {
            let (logits, labels) = (self.logits.rows(&pass.rows), self.labels.of(&pass.rows));
            let (dw, dbias) = (self.w.of(gradients), self.bias.map(|bias| bias.of(gradients)));
            let dv = self.v.as_ref().map(|v| v.gradient(gradients, &pass.rows)).transpose()?;
            let out = Gradients { dw: &dw, dv: dv.as_ref(), dbias: dbias.as_ref() };
            let (df, seeds) = (logits.gradient(&self.name, "the logits")?, pass.seeds_of_parameters());
            let seeds = Seeds { df: Some(df), scale: seeds.as_ref() };
            let parameter_gradients = match self.unfused {
                Some(_) => projection::unfused::parameter_gradients,
                None => projection::parameter_gradients,
            };
            parameter_gradients(out, &self.features(&pass.rows), Some(&labels), seeds)?;
            self.v.as_ref().map_or(Ok(()), |v| v.add_gradient(gradients, &pass.rows))?;
        }
        let Some(dx) = pass.input_gradient(&self.x) else { return Ok(()) };
        let rows = &pass.input_rows;
        let (x, logits, labels) = (self.x.rows(rows), self.logits.rows(rows), self.labels.of(rows));
        let df = Some(logits.gradient(&self.name, "the logits")?);
        let (w, v) = (self.w.of(pass.weights.values), self.v.as_ref().map(|v| v.values(pass.weights.values, rows)));
        let pool_factor = self.pool_factor;
        let head = Head { w: &w, v: v.as_ref(), labels: Some(&labels), bias: None, pool_factor };
        match &self.unfused {
            Some([_, dh]) => projection::unfused::input_gradient(&dx, &x.x, &head, x.n, df, &dh.view(0..x.n * x.c)),
            None => projection::input_gradient(&dx, &x.x, &head, x.n, df),
        }
    }

    /// Nothing follows the logits: their own tangent is not needed.
    fn tangent(&self, pass: &Tangent) -> Result<()> {
        let (x, h, logits) = (pass.of(&self.x), self.features(&pass.into), self.logits.rows(&pass.rows));
        gradient_penalty::pool(&h, &x.x, &pass.saved(&self.x), x.n, self.pool_factor)?;
        let dv = self.v.as_ref().map(|v| v.gradient(pass.gradients, &pass.rows)).transpose()?;
        let out = Gradients { dw: &self.w.of(pass.gradients), dv: dv.as_ref(), dbias: None };
        let (df, labels) = (logits.gradient(&self.name, "the logits")?, self.labels.of(&pass.rows));
        projection::parameter_gradients(out, &h, Some(&labels), Seeds { df: Some(df), scale: None })?;
        self.v.as_ref().map_or(Ok(()), |v| v.add_gradient(pass.gradients, &pass.rows))
    }

    fn piecewise_linear(&self) -> bool {
        true
    }

    fn output(&self) -> &Value {
        &self.logits
    }

    fn name(&self) -> &str {
        &self.name
    }
}
