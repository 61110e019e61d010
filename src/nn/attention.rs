//! Self-attention as SAGAN released it: y = x + gamma * o(x).
//!
//! Query and key have C / 8 channels, the value C / 2; key and value are 2x2 max-pooled; a 1x1 convolution leads back to
//! C; no biases, no 1 / sqrt(d), gamma 0 at the start.

use super::{Backward, Builder, Conv, ConvOptions, Forward, Init, Layer, Parameter, Source, Target, Value};
use crate::Result;
use crate::device::{Buffer, Reals};
use crate::ops::attention::{self, Gradients, Inputs, Shape};
use crate::ops::resample;
use crate::sizes::product;

pub struct Attention {
    name: String,
    query: Conv,
    key: Conv,
    value: Conv,
    out: Conv,
    gamma: Parameter,
    x: Value,
    q: Value,
    k: Pooled,
    v: Pooled,
    /// What attention gives, (N, H, W, C / 2), and the log-sum-exp (N, H W) that its backward pass needs.
    o: Value,
    lse: Reals,
    /// What the last convolution makes of `o`.
    a: Value,
    y: Value,
    workspace: Reals,
    gamma_workspace: Reals,
}

/// A convolution's output and its 2x2 maxima.
struct Pooled {
    full: Value,
    half: Value,
    which: Buffer<u8>,
}

impl Pooled {
    fn new(build: &mut Builder, x: &Value, c: usize) -> Result<Pooled> {
        Ok(Pooled {
            full: build.value(x.n, x.h, x.w, c)?,
            half: build.value(x.n, x.h / 2, x.w / 2, c)?,
            which: build.arena.take(product([x.n, x.h / 2, x.w / 2, c]))?,
        })
    }

    fn rows(&self, rows: &std::ops::Range<usize>) -> Pooled {
        let half = self.half.rows(rows);
        let f = half.features();
        Pooled { full: self.full.rows(rows), which: self.which.view(rows.start * f..rows.end * f), half }
    }
}

/// Queries and keys have `dk` channels, values `dv`.
fn shape(x: &Value, dk: usize, dv: usize) -> Shape {
    Shape { n: x.n, l: product([x.h, x.w]), lk: product([x.h / 2, x.w / 2]), dk, dv }
}

impl Attention {
    pub fn new(
        build: &mut Builder,
        name: &str,
        x: &Value,
        conv: fn(usize, usize, usize) -> ConvOptions,
    ) -> Result<Attention> {
        let (c, few, half) = (x.c, (x.c / 8).max(1), (x.c / 2).max(1));
        let make = |build: &mut Builder, part: &str, c, k, from: &Value| {
            let options = ConvOptions { bias: None, ..conv(1, c, k) };
            Conv::new(build, &format!("{name}.{part}"), options, from)
        };
        let o = build.value(x.n, x.h, x.w, half)?;
        let workspace = shape(x, few, half).workspace_len();
        Ok(Attention {
            query: make(build, "query", c, few, x)?,
            key: make(build, "key", c, few, x)?,
            value: make(build, "value", c, half, x)?,
            out: make(build, "out", half, c, &o)?,
            gamma: build.parameters.tensor(&format!("{name}.gamma"), &[1], Init::Constant(0.0)),
            q: build.value(x.n, x.h, x.w, few)?,
            k: Pooled::new(build, x, few)?,
            v: Pooled::new(build, x, half)?,
            lse: build.arena.take(product([x.n, x.h, x.w]))?,
            a: build.value(x.n, x.h, x.w, c)?,
            y: build.value(x.n, x.h, x.w, c)?,
            workspace: build.arena.take(workspace)?,
            gamma_workspace: build.arena.take(x.n)?,
            name: name.to_string(),
            x: x.clone(),
            o,
        })
    }

    /// The part of the workspace that this many samples take.
    fn workspace(&self, shape: Shape) -> Reals {
        self.workspace.view(0..shape.workspace_len())
    }

    fn pixels(&self, buffer: &Reals, rows: &std::ops::Range<usize>) -> Reals {
        let l = self.x.h * self.x.w;
        buffer.view(rows.start * l..rows.end * l)
    }
}

impl Layer for Attention {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let [x, q, o, a, y] = [&self.x, &self.q, &self.o, &self.a, &self.y].map(|value| value.rows(&pass.rows));
        let [k, v] = [&self.k, &self.v].map(|pooled| pooled.rows(&pass.rows));
        self.query.forward(pass, &Source::plain(&x), &Target::new(&q))?;
        for (conv, pooled) in [(&self.key, &k), (&self.value, &v)] {
            conv.forward(pass, &Source::plain(&x), &Target::new(&pooled.full))?;
            resample::max_pool(&pooled.half.x, &pooled.which, &pooled.full.x, pooled.full.image())?;
        }
        let inputs = Inputs { q: &q.x, k: &k.half.x, v: &v.half.x };
        let shape = shape(&x, q.c, o.c);
        attention::forward(&o.x, &self.pixels(&self.lse, &pass.rows), inputs, shape)?;
        self.out.forward(pass, &Source::plain(&o), &Target::new(&a))?;
        attention::residual(&y.x, &x.x, &a.x, &self.gamma.of(pass.weights.values))
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let [x, q, o, a, y] = [&self.x, &self.q, &self.o, &self.a, &self.y].map(|value| value.rows(&pass.rows));
        let [k, v] = [&self.k, &self.v].map(|pooled| pooled.rows(&pass.rows));
        let name = &self.name;
        let (dx, dy, da) = (x.gradient(name, "x")?, y.gradient(name, "y")?, a.gradient(name, "a")?);
        let (d_o, dq) = (o.gradient(name, "o")?, q.gradient(name, "q")?);
        let (dk, dk_full) = (k.half.gradient(name, "the pooled k")?, k.full.gradient(name, "k")?);
        let (dv, dv_full) = (v.half.gradient(name, "the pooled v")?, v.full.gradient(name, "v")?);
        let dgamma = pass.gradients.map(|gradients| self.gamma.of(gradients));
        let seeds = pass.seeds_of_parameters();
        let (gamma, samples) = (self.gamma.of(pass.weights.values), self.gamma_workspace.view(0..x.n));
        attention::residual_backward(da, dgamma.as_ref(), dy, &a.x, &gamma, seeds.as_ref(), &samples)?;
        self.out.backward(pass, &Source::plain(&o), &Target::new(&a), false)?;
        let inputs = Inputs { q: &q.x, k: &k.half.x, v: &v.half.x };
        let (lse, shape) = (self.pixels(&self.lse, &pass.rows), shape(&x, q.c, o.c));
        attention::backward(Gradients { dq, dk, dv }, d_o, &o.x, inputs, &lse, shape, &self.workspace(shape))?;
        resample::max_pool_backward(dk_full, dk, &k.which, k.full.image(), false)?;
        resample::max_pool_backward(dv_full, dv, &v.which, v.full.image(), false)?;
        dx.copy_from(dy)?;
        let convs = [(&self.query, &q), (&self.key, &k.full), (&self.value, &v.full)];
        convs
            .into_iter()
            .try_for_each(|(conv, value)| conv.backward(pass, &Source::plain(&x), &Target::new(value), true))
    }

    fn output(&self) -> &Value {
        &self.y
    }

    fn name(&self) -> &str {
        &self.name
    }
}
