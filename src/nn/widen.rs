//! From 16-bit features to features in f32, which the logits are made of.

use super::{Backward, Builder, Forward, Layer, Tangent, Value};
use crate::Result;
use crate::ops::convert;

/// y = x in f32. Without parameters.
pub struct Widen {
    x: Value,
    y: Value,
}

impl Widen {
    /// None where `x` has 32 bits already.
    pub fn new(build: &mut Builder, x: &Value) -> Result<Option<Widen>> {
        if x.x.precision().bytes() == 4 {
            return Ok(None);
        }
        Ok(Some(Widen { y: build.exact_value(x.n, x.h, x.w, x.c)?, x: x.clone() }))
    }
}

impl Layer for Widen {
    fn forward(&self, pass: &Forward) -> Result<()> {
        convert::widen(&self.y.rows(&pass.rows).x, &self.x.rows(&pass.rows).x)
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let Some(dx) = pass.input_gradient(&self.x) else { return Ok(()) };
        convert::narrow(&dx, self.y.rows(&pass.input_rows).gradient(self.name(), "its output")?)
    }

    fn tangent(&self, pass: &Tangent) -> Result<()> {
        convert::widen(&pass.of(&self.y).x, &pass.of(&self.x).x)
    }

    fn piecewise_linear(&self) -> bool {
        true
    }

    fn output(&self) -> &Value {
        &self.y
    }

    fn name(&self) -> &str {
        "features"
    }
}
