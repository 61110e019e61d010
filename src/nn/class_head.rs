//! AC-GAN's head: a logit psi(h) and class logits, both linear in the pooled features h.

use super::{Backward, Builder, Forward, Init, Layer, Parameter, Tangent, Value};
use crate::Result;
use crate::ops::Activation;
use crate::ops::gradient_penalty;
use crate::ops::matmul::{self, Linear, OutputGradient};
use crate::ops::projection::{self, Gradients, Head, Seeds};
use crate::ops::spectral_norm::Outputs;

/// Its two outputs each have a seed of their own; a backward pass takes both from `dx` of [`ClassHead::output`] and of
/// [`ClassHead::classes`]. There is no scale of either: the seeds are not multiples of each other.
pub struct ClassHead {
    w: Parameter,
    bias: Option<Parameter>,
    class_weight: Parameter,
    class_bias: Parameter,
    factor: f32,
    x: Value,
    h: Value,
    logits: Value,
    classes: Value,
}

pub struct ClassHeadOptions {
    pub classes: usize,
    /// Whether psi has one; the class layer always has.
    pub bias: bool,
    /// On the sum over pixels.
    pub factor: f32,
    pub init: fn(usize, usize) -> Init,
}

impl ClassHead {
    pub fn new(build: &mut Builder, x: &Value, options: &ClassHeadOptions) -> Result<ClassHead> {
        let (c, classes, p) = (x.c, options.classes, &mut *build.parameters);
        Ok(ClassHead {
            w: p.weight("head.weight", &[c, 1], (options.init)(c, 1), Outputs::Columns),
            bias: options.bias.then(|| p.tensor("head.bias", &[1], Init::Constant(0.0))),
            class_weight: p.weight("classes.weight", &[c, classes], (options.init)(c, classes), Outputs::Columns),
            class_bias: p.tensor("classes.bias", &[classes], Init::Constant(0.0)),
            factor: options.factor,
            h: build.exact_value(x.n, 1, 1, c)?,
            logits: build.exact_value(x.n, 1, 1, 1)?,
            classes: build.exact_value(x.n, 1, 1, classes)?,
            x: x.clone(),
        })
    }

    /// The class logits, (N, 1, 1, classes).
    pub fn classes(&self) -> &Value {
        &self.classes
    }

    fn class_layer(&self, n: usize) -> Linear {
        Linear { n, c: self.x.c, k: self.classes.c }
    }
}

impl Layer for ClassHead {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let [x, h, f, classes] = [&self.x, &self.h, &self.logits, &self.classes].map(|value| value.rows(&pass.rows));
        let (w, bias) = (self.w.of(pass.weights), self.bias.map(|bias| bias.of(pass.weights)));
        let head = Head { w: &w, v: None, labels: None, bias: bias.as_ref(), factor: self.factor };
        projection::forward(&f.x, &h.x, &x.x, &head)?;
        let (weight, bias) = (self.class_weight.of(pass.weights), self.class_bias.of(pass.weights));
        let sizes = self.class_layer(x.n);
        matmul::linear_forward(sizes, &classes.x, &h.x, &weight, Some(&bias), Activation::Identity)
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let [x, h, f, classes] = [&self.x, &self.h, &self.logits, &self.classes].map(|value| value.rows(&pass.rows));
        let (Some(dx), Some(dh), Some(df), Some(dclasses)) = (&x.dx, &h.dx, &f.dx, &classes.dx) else { return Ok(()) };
        let sizes = self.class_layer(x.n);
        let gradient = |dy| OutputGradient { dy, y: None, activation: Activation::Identity, row_scale: None };
        if let Some(gradients) = pass.gradients {
            let (dw, dbias) = (self.w.of(gradients), self.bias.map(|bias| bias.of(gradients)));
            let out = Gradients { dw: &dw, dv: None, dbias: dbias.as_ref() };
            projection::backward_parameters(out, &h.x, None, Seeds { df: Some(df), scale: None })?;
            let (dweight, dbias) = (self.class_weight.of(gradients), self.class_bias.of(gradients));
            matmul::linear_weight_gradient(sizes, &dweight, &h.x, &gradient(dclasses))?;
            matmul::linear_bias_gradient(sizes, &dbias, &gradient(dclasses))?;
        }
        matmul::linear_input_gradient(sizes, dh, &gradient(dclasses), &self.class_weight.of(pass.weights))?;
        // dh += df w, as if it were the weight gradient of one sample with input df and signal w.
        let product = Linear { n: 1, c: x.n, k: self.x.c };
        matmul::linear_weight_gradient(product, dh, df, &gradient(&self.w.of(pass.weights)))?;
        projection::pool_backward(dx, &x.x, dh, x.n, self.factor)
    }

    /// Of psi: the penalty is on its logit, and the class logits have no part in that.
    fn tangent(&self, pass: &Tangent) -> Result<()> {
        let [x, h, f] = [&self.x, &self.h, &self.logits].map(|value| pass.of(value));
        gradient_penalty::pool(&h.x, &x.x, &pass.saved(&self.x), x.n, self.factor)?;
        let out = Gradients { dw: &self.w.of(pass.gradients), dv: None, dbias: None };
        projection::backward_parameters(out, &h.x, None, Seeds { df: f.dx.as_ref(), scale: None })
    }

    fn piecewise_linear(&self) -> bool {
        true
    }

    fn output(&self) -> &Value {
        &self.logits
    }

    fn name(&self) -> &str {
        "head"
    }
}
