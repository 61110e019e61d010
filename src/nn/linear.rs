//! y = act(x W + b).

use super::{Backward, Builder, Forward, Init, Layer, Parameter, Tangent, Value};
use crate::Result;
use crate::ops::Activation;
use crate::ops::gradient_penalty::mask;
use crate::ops::matmul::{self, OutputGradient};
use crate::ops::spectral_norm::Outputs;

pub struct Linear {
    name: String,
    weight: Parameter,
    bias: Option<Parameter>,
    activation: Activation,
    x: Value,
    y: Value,
}

impl Linear {
    /// Writes to `y`, which has been placed: the generator's last layer writes into the discriminator's batch.
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
}

impl Layer for Linear {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let bias = self.bias.map(|bias| bias.of(pass.weights));
        let weight = self.weight.of(pass.factors(&self.x.x));
        let (x, y) = (self.x.rows(&pass.rows), self.y.rows(&pass.rows));
        matmul::linear_forward(self.sizes(x.n), &y.x, &x.x, &weight, bias.as_ref(), self.activation)
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let y = self.y.rows(&pass.rows);
        let Some(dy) = &y.dx else { return Ok(()) };
        if let Some(gradients) = pass.gradients {
            let scale = pass.scale_of_parameters();
            let dy = OutputGradient { dy, y: Some(&y.x), activation: self.activation, row_scale: scale.as_ref() };
            let (x, sizes) = (self.x.rows(&pass.rows), self.sizes(pass.rows.len()));
            matmul::linear_weight_gradient(sizes, &self.weight.of(gradients), &x.x, &dy)?;
            if let Some(bias) = self.bias {
                matmul::linear_bias_gradient(sizes, &bias.of(gradients), &dy)?;
            }
        }
        if pass.input_rows.is_empty() {
            return Ok(());
        }
        let (x, y) = (self.x.rows(&pass.input_rows), self.y.rows(&pass.input_rows));
        if let (Some(dx), Some(dy)) = (&x.dx, &y.dx) {
            let scale = pass.scale_of_signal(&pass.input_rows);
            let dy = OutputGradient { dy, y: Some(&y.x), activation: self.activation, row_scale: scale.as_ref() };
            matmul::linear_input_gradient(self.sizes(x.n), dx, &dy, &self.weight.of(pass.factors(dx)))?;
        }
        Ok(())
    }

    fn tangent(&self, pass: &Tangent) -> Result<()> {
        let (x, y, out) = (pass.of(&self.x), pass.of(&self.y), pass.saved(&self.y));
        let (sizes, weight) = (self.sizes(x.n), self.weight.of(pass.factors(&x.x)));
        match self.activation {
            // The output's sign tells the input's.
            Activation::LeakyRelu(slope) => {
                let Some(before_mask) = pass.scratch(&self.y) else { return Ok(()) };
                matmul::linear_forward(sizes, &before_mask.x, &x.x, &weight, None, Activation::Identity)?;
                mask(&y.x, &before_mask.x, &out, slope)?;
            }
            _ => matmul::linear_forward(sizes, &y.x, &x.x, &weight, None, Activation::Identity)?,
        }
        let Some(dy) = &y.dx else { return Ok(()) };
        let dy = OutputGradient { dy, y: Some(&out), activation: self.activation, row_scale: None };
        matmul::linear_weight_gradient(sizes, &self.weight.of(pass.gradients), &x.x, &dy)
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
