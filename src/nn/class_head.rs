//! AC-GAN's head: a logit psi(h) and class logits, both linear in the pooled features h.

use super::{Backward, Builder, Forward, Init, Layer, Parameter, Tangent, Value};
use crate::Result;
use crate::ops::Activation;
use crate::ops::gradient_penalty;
use crate::ops::matmul::{self, Linear, OutputGradient};
use crate::ops::projection::{self, Gradients, Head, Seeds};
use crate::ops::spectral_norm::Outputs;

/// Each of its two outputs has seeds of its own, which are not multiples of each other. So a backward pass does not
/// start from ones: it takes the seeds from the `dx` of [`ClassHead::output`] and of [`ClassHead::classes`].
pub struct ClassHead {
    w: Parameter,
    bias: Option<Parameter>,
    class_weight: Parameter,
    class_bias: Parameter,
    pool_factor: f32,
    x: Value,
    h: Value,
    logits: Value,
    classes: Value,
}

pub struct ClassHeadOptions {
    pub classes: usize,
    /// Whether psi has a bias; the class layer always has one.
    pub bias: bool,
    /// What the sum over pixels is multiplied with.
    pub pool_factor: f32,
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
            pool_factor: options.pool_factor,
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
        let (w, bias) = (self.w.of(pass.weights.values), self.bias.map(|bias| bias.of(pass.weights.values)));
        let head = Head { w: &w, v: None, labels: None, bias: bias.as_ref(), pool_factor: self.pool_factor };
        projection::forward(&f.x, &h.x, &x.x, &head)?;
        let (weight, bias) = (self.class_weight.of(pass.weights.values), self.class_bias.of(pass.weights.values));
        let sizes = self.class_layer(x.n);
        matmul::linear_forward(sizes, &classes.x, &h.x, &weight, Some(&bias), Activation::Identity)
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let name = self.name();
        if let Some(gradients) = pass.gradients {
            let [h, f, classes] = [&self.h, &self.logits, &self.classes].map(|value| value.rows(&pass.rows));
            let df = f.gradient(name, "the logits")?;
            let dclasses = OutputGradient::stored(classes.gradient(name, "the class logits")?);
            let (dw, dbias) = (self.w.of(gradients), self.bias.map(|bias| bias.of(gradients)));
            let out = Gradients { dw: &dw, dv: None, dbias: dbias.as_ref() };
            projection::parameter_gradients(out, &h.x, None, Seeds { df: Some(df), scale: None })?;
            let (dweight, dbias) = (self.class_weight.of(gradients), self.class_bias.of(gradients));
            matmul::linear_weight_gradient(self.class_layer(h.n), (&dweight, Some(&dbias)), &h.x, &dclasses)?;
        }
        let Some(dx) = pass.input_gradient(&self.x) else { return Ok(()) };
        let values = [&self.x, &self.h, &self.logits, &self.classes];
        let [x, h, f, classes] = values.map(|value| value.rows(&pass.input_rows));
        let (dh, df) = (h.gradient(name, "the features")?, f.gradient(name, "the logits")?);
        let dclasses = OutputGradient::stored(classes.gradient(name, "the class logits")?);
        matmul::linear_input_gradient(
            self.class_layer(x.n),
            dh,
            &dclasses,
            &self.class_weight.of(pass.weights.values),
        )?;
        // dh += df w: the weight gradient of a layer that sees one sample, with the input df and the signal w.
        let (product, w) = (Linear { n: 1, c: x.n, k: self.x.c }, self.w.of(pass.weights.values));
        matmul::linear_weight_gradient(product, (dh, None), df, &OutputGradient::stored(&w))?;
        projection::pool_backward(&dx, &x.x, dh, x.n, self.pool_factor)
    }

    /// That of psi alone: the penalty is on its logit, and the class logits have no part in it.
    fn tangent(&self, pass: &Tangent) -> Result<()> {
        let [x, h, f] = [&self.x, &self.h, &self.logits].map(|value| pass.of(value));
        gradient_penalty::pool(&h.x, &x.x, &pass.saved(&self.x), x.n, self.pool_factor)?;
        let out = Gradients { dw: &self.w.of(pass.gradients), dv: None, dbias: None };
        let df = f.gradient(self.name(), "the logits")?;
        projection::parameter_gradients(out, &h.x, None, Seeds { df: Some(df), scale: None })
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
