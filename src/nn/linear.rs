//! y = act(x W + b).

use super::{Backward, Builder, Forward, Init, Layer, Parameter, Tangent, Value};
use crate::Result;
use crate::device::Reals;
use crate::ops::matmul::{self, OutputGradient};
use crate::ops::spectral_norm::Outputs;
use crate::ops::{Activation, elementary};

pub struct Linear {
    name: String,
    weight: Parameter,
    bias: Option<Parameter>,
    activation: Activation,
    x: Value,
    y: Value,
}

impl Linear {
    /// Writes to `y`, which has its place already: the generator's last layer writes into the discriminator's batch.
    pub fn into(
        build: &mut Builder,
        name: &str,
        (x, y): (&Value, &Value),
        bias: bool,
        activation: Activation,
        init: Init,
    ) -> Linear {
        let (c, k) = (x.features(), y.features());
        let bias_init = if matches!(init, Init::FanIn { .. }) { init } else { Init::Constant(0.0) };
        Linear {
            name: name.to_string(),
            weight: build.parameters.weight(&format!("{name}.weight"), &[c, k], init, Outputs::Columns),
            bias: bias.then(|| build.parameters.tensor(&format!("{name}.bias"), &[k], bias_init)),
            activation,
            x: x.clone(),
            y: y.clone(),
        }
    }

    fn sizes(&self, n: usize) -> matmul::Linear {
        matmul::Linear { n, c: self.x.features(), k: self.y.features() }
    }

    /// The gradient of some rows of the output, before the activation; `out` is what they are.
    fn output_gradient<'a>(
        &self,
        y: &'a Value,
        out: &'a Reals,
        seeds: Option<&'a Reals>,
    ) -> Result<OutputGradient<'a>> {
        let dy = y.gradient(&self.name, "its output")?;
        Ok(OutputGradient { dy, y: Some(out), activation: self.activation, row_scale: seeds })
    }
}

impl Layer for Linear {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let bias = self.bias.map(|bias| bias.of(pass.weights.values));
        let weight = self.weight.of(pass.weights.for_products_with(&self.x.x));
        let (x, y) = (self.x.rows(&pass.rows), self.y.rows(&pass.rows));
        matmul::linear_forward(self.sizes(x.n), &y.x, &x.x, &weight, bias.as_ref(), self.activation)
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        if let Some(gradients) = pass.gradients {
            let ([x, y], seeds) = ([&self.x, &self.y].map(|v| v.rows(&pass.rows)), pass.seeds_of_parameters());
            let (dy, sizes) = (self.output_gradient(&y, &y.x, seeds.as_ref())?, self.sizes(x.n));
            let (dweight, dbias) = (self.weight.of(gradients), self.bias.map(|bias| bias.of(gradients)));
            matmul::linear_weight_gradient(sizes, (&dweight, dbias.as_ref()), &x.x, &dy)?;
        }
        let Some(dx) = pass.input_gradient(&self.x) else { return Ok(()) };
        let (y, seeds) = (self.y.rows(&pass.input_rows), pass.seeds_of_signal(&pass.input_rows));
        let dy = self.output_gradient(&y, &y.x, seeds.as_ref())?;
        matmul::linear_input_gradient(self.sizes(y.n), &dx, &dy, &self.weight.of(pass.weights.for_products_with(&dx)))
    }

    fn tangent(&self, pass: &Tangent) -> Result<()> {
        let (x, y, out) = (pass.of(&self.x), pass.of(&self.y), pass.saved(&self.y));
        let (sizes, weight) = (self.sizes(x.n), self.weight.of(pass.weights.for_products_with(&x.x)));
        match self.activation {
            // The sign of the output tells that of the input.
            Activation::LeakyRelu(slope) => {
                let before_mask = pass.scratch(&self.name, &self.y)?;
                matmul::linear_forward(sizes, &before_mask.x, &x.x, &weight, None, Activation::Identity)?;
                elementary::leaky_relu_backward(&y.x, &before_mask.x, &out, slope)?;
            }
            _ => matmul::linear_forward(sizes, &y.x, &x.x, &weight, None, Activation::Identity)?,
        }
        let dy = self.output_gradient(&y, &out, None)?;
        matmul::linear_weight_gradient(sizes, (&self.weight.of(pass.gradients), None), &x.x, &dy)
    }

    fn piecewise_linear(&self) -> bool {
        self.activation != Activation::Tanh
    }

    fn output(&self) -> &Value {
        &self.y
    }

    fn name(&self) -> &str {
        &self.name
    }
}
