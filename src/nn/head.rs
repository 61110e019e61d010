//! The projection discriminator's head: f = V[y] . h + w . h, h the pooled features.

use super::{Backward, Builder, Forward, Fusion, Init, Layer, Parameter, Tangent, Value};
use crate::Result;
use crate::device::Buffer;
use crate::ops::gradient_penalty;
use crate::ops::projection::{self, Gradients, Head, Seeds};
use crate::ops::spectral_norm::Outputs;

pub struct ProjectionHead {
    name: String,
    w: Parameter,
    /// The label embedding; without it the head is unconditional.
    v: Option<Parameter>,
    bias: Option<Parameter>,
    labels: Buffer<u32>,
    factor: f32,
    x: Value,
    h: Buffer<f32>,
    logits: Value,
    /// Workspaces of the forward and of the backward pass from separate kernels.
    apart: Option<[Buffer<f32>; 2]>,
}

/// What a head is made of.
pub struct HeadOptions<'a> {
    /// (N)
    pub labels: &'a Buffer<u32>,
    /// 0: no embedding.
    pub classes: usize,
    pub bias: bool,
    /// On the sum over pixels.
    pub factor: f32,
    pub init: fn(usize, usize) -> Init,
}

impl ProjectionHead {
    pub fn new(build: &mut Builder, name: &str, x: &Value, options: &HeadOptions) -> Result<ProjectionHead> {
        let (c, classes, p) = (x.c, options.classes, &mut *build.parameters);
        let apart = build.unfused.contains(&Fusion::Projection);
        let workspaces = [projection::plain::workspace_len(x.n * x.features(), x.n), x.n * c];
        Ok(ProjectionHead {
            name: name.to_string(),
            w: p.weight(&format!("{name}.weight"), &[c, 1], (options.init)(c, 1), Outputs::Columns),
            v: (classes > 0).then(|| {
                p.weight(&format!("{name}.embedding"), &[classes, c], (options.init)(classes, c), Outputs::Rows)
            }),
            bias: options.bias.then(|| p.tensor(&format!("{name}.bias"), &[1], Init::Constant(0.0))),
            labels: options.labels.clone(),
            factor: options.factor,
            h: build.arena.take(x.n * c)?,
            apart: match workspaces.map(|len| apart.then(|| build.arena.take(len))) {
                [Some(forward), Some(backward)] => Some([forward?, backward?]),
                _ => None,
            },
            logits: build.exact_value(x.n, 1, 1, 1)?,
            x: x.clone(),
        })
    }

    fn features(&self, rows: &std::ops::Range<usize>) -> Buffer<f32> {
        self.h.view(rows.start * self.x.c..rows.end * self.x.c)
    }
}

impl Layer for ProjectionHead {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let weights = [Some(self.w), self.v, self.bias].map(|p| p.map(|p| p.of(pass.weights)));
        let [Some(w), v, bias] = &weights else { return Ok(()) };
        let labels = self.labels.view(pass.rows.clone());
        let head = Head { w, v: v.as_ref(), labels: Some(&labels), bias: bias.as_ref(), factor: self.factor };
        let (x, logits) = (self.x.rows(&pass.rows), self.logits.rows(&pass.rows));
        let h = self.features(&pass.rows);
        if let Some([workspace, _]) = &self.apart {
            let workspace = workspace.view(0..projection::plain::workspace_len(x.x.len(), x.n));
            return projection::plain::forward(&logits.x, &h, &x.x, &head, &workspace);
        }
        projection::forward(&logits.x, &h, &x.x, &head)
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let logits = self.logits.rows(&pass.rows);
        let df = logits.dx.as_ref();
        let labels = self.labels.view(pass.rows.clone());
        if let Some(gradients) = pass.gradients {
            let out = [Some(self.w), self.v, self.bias].map(|p| p.map(|p| p.of(gradients)));
            let [Some(dw), dv, dbias] = &out else { return Ok(()) };
            let scale = pass.scale_of_parameters();
            let out = Gradients { dw, dv: dv.as_ref(), dbias: dbias.as_ref() };
            let seeds = Seeds { df, scale: scale.as_ref() };
            let backward = match self.apart {
                Some(_) => projection::plain::backward_parameters,
                None => projection::backward_parameters,
            };
            backward(out, &self.features(&pass.rows), Some(&labels), seeds)?;
        }
        let x = self.x.rows(&pass.rows);
        let Some(dx) = &x.dx else { return Ok(()) };
        let (w, v) = (self.w.of(pass.weights), self.v.map(|v| v.of(pass.weights)));
        let head = Head { w: &w, v: v.as_ref(), labels: Some(&labels), bias: None, factor: self.factor };
        if let Some([_, dh]) = &self.apart {
            let dh = dh.view(0..x.n * x.c);
            return projection::plain::backward_data(dx, &x.x, &head, x.n, df, &dh);
        }
        projection::backward_data(dx, &x.x, &head, x.n, df)
    }

    /// Nothing follows the logits: their own tangent is not needed.
    fn tangent(&self, pass: &Tangent) -> Result<()> {
        let (x, h, logits) = (pass.of(&self.x), self.features(&pass.into), self.logits.rows(&pass.rows));
        gradient_penalty::pool(&h, &x.x, &pass.saved(&self.x), x.n, self.factor)?;
        let (dw, dv) = (self.w.of(pass.gradients), self.v.map(|v| v.of(pass.gradients)));
        let out = Gradients { dw: &dw, dv: dv.as_ref(), dbias: None };
        let labels = self.labels.view(pass.rows.clone());
        projection::backward_parameters(out, &h, Some(&labels), Seeds { df: logits.dx.as_ref(), scale: None })
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
