//! From 16-bit features to f32 ones, where the logits are made.

use super::{Backward, Builder, Forward, Layer, Tangent, Value};
use crate::Result;
use crate::ops::convert;

/// y = x in f32. Without parameters.
pub struct Widen {
    x: Value,
    y: Value,
}

impl Widen {
    /// None where `x` is of 32 bits already.
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
        let (x, y) = (self.x.rows(&pass.input_rows), self.y.rows(&pass.input_rows));
        let (Some(dx), Some(dy)) = (&x.dx, &y.dx) else { return Ok(()) };
        convert::narrow(dx, dy)
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
