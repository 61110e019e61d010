//! The residual blocks of the projection discriminator's paper (its Chainer code), of both networks.

use super::{Backward, Builder, Conv, ConvOptions, Forward, Layer, Norm, NormOptions, Source, Tangent, Target, Value};
use crate::Result;
use crate::ops::conv::Parts;
use crate::ops::resample::{self, Upsampling};
use crate::ops::{Activation, elementary};
use crate::sizes::product;

/// A block of D:
///
/// ```text
/// h = conv1(relu(x))      y = pool(conv2(relu(h))) + shortcut(pool(x))
/// ```
///
/// The first block of a network has no relu before conv1. The shortcut is a 1x1 convolution, or the identity where
/// widths are equal and nothing is pooled. (The original pools after the 1x1 convolution in all but the first block:
/// the same numbers, at four times the work.)
pub struct DownBlock {
    name: String,
    before: Activation,
    pool: bool,
    conv1: Conv,
    conv2: Conv,
    shortcut: Option<Conv>,
    x: Value,
    /// The pooled input, where the shortcut sees it.
    pooled: Option<Value>,
    h: Value,
    y: Value,
}

pub struct DownOptions {
    pub hidden: usize,
    pub out: usize,
    pub pool: bool,
    pub first: bool,
}

impl DownBlock {
    pub fn new(build: &mut Builder, name: &str, x: &Value, options: &DownOptions) -> Result<DownBlock> {
        let DownOptions { hidden, out, pool, first } = *options;
        let (n, h, w) = (x.n, x.h, x.w);
        let (ph, pw) = if pool { (h / 2, w / 2) } else { (h, w) };
        let has_shortcut = pool || out != x.c;
        let conv1 = Conv::new(build, &format!("{name}.conv1"), ConvOptions::residual(3, x.c, hidden), x)?;
        let h = build.value(n, h, w, hidden)?;
        let conv2 = Conv::new(build, &format!("{name}.conv2"), ConvOptions::residual(3, hidden, out), &h)?;
        let pooled = pool.then(|| build.value(n, ph, pw, x.c)).transpose()?;
        let (from, options) = (pooled.as_ref().unwrap_or(x), ConvOptions::residual(1, x.c, out));
        let shortcut =
            has_shortcut.then(|| Conv::new(build, &format!("{name}.shortcut"), options, from)).transpose()?;
        Ok(DownBlock {
            name: name.to_string(),
            before: if first { Activation::Identity } else { Activation::RELU },
            pool,
            conv1,
            conv2,
            shortcut,
            x: x.clone(),
            pooled,
            h,
            y: build.value(n, ph, pw, out)?,
        })
    }
}

impl DownBlock {
    /// Writes y from x and from what conv2 reads, each convolution by `run`. `pooled` is where the pooled input goes.
    fn join(
        &self,
        [x, y]: [&Value; 2],
        pooled: Option<Value>,
        from_h: &Source,
        run: impl Fn(&Conv, &Source, &Target) -> Result<()>,
    ) -> Result<()> {
        let Some(shortcut) = &self.shortcut else {
            return run(&self.conv2, from_h, &Target { residual: Some(&x.x), ..Target::new(y) });
        };
        if let Some(pooled) = &pooled {
            resample::average_pool(&pooled.x, &x.x, x.image())?;
        }
        run(shortcut, &Source::plain(pooled.as_ref().unwrap_or(x)), &Target::new(y))?;
        run(&self.conv2, from_h, &Target { pool: self.pool, accumulate: true, ..Target::new(y) })
    }
}

impl Layer for DownBlock {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let [x, h, y] = [&self.x, &self.h, &self.y].map(|value| value.rows(&pass.rows));
        self.conv1.forward(pass, &Source::activated(&x, self.before), &Target::new(&h))?;
        let pooled = self.pooled.as_ref().map(|pooled| pooled.rows(&pass.rows));
        let from_h = Source::activated(&h, Activation::RELU);
        self.join([&x, &y], pooled, &from_h, |conv, from, to| conv.forward(pass, from, to))
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let [x, h, y] = [&self.x, &self.h, &self.y].map(|value| value.rows(&pass.rows));
        let to_y = Target { pool: self.pool, ..Target::new(&y) };
        self.conv2.backward(pass, &Source::activated(&h, Activation::RELU), &to_y, false)?;
        let left = self.conv1.parameter_gradients(pass, &Source::activated(&x, self.before), &Target::new(&h))?;
        let left_of_shortcut = match &self.shortcut {
            Some(shortcut) => {
                let from = self.pooled.as_ref().map_or(x, |pooled| pooled.rows(&pass.rows));
                shortcut.parameter_gradients(pass, &Source::plain(&from), &Target::new(&y))?
            }
            None => Parts::NONE,
        };

        let Some(dx) = pass.input_gradient(&self.x) else {
            left.add()?;
            return left_of_shortcut.add();
        };
        let [x, h, y] = [&self.x, &self.h, &self.y].map(|value| value.rows(&pass.input_rows));
        let (from_x, to_h, to_y) = (Source::activated(&x, self.before), Target::new(&h), Target::new(&y));
        let Some(shortcut) = &self.shortcut else {
            dx.copy_from(y.gradient(&self.name, "its output")?)?;
            return self.conv1.input_gradient(pass, &from_x, &to_h, true, left);
        };
        self.conv1.input_gradient(pass, &from_x, &to_h, false, left)?;
        let Some(pooled) = &self.pooled else {
            return shortcut.input_gradient(pass, &Source::plain(&x), &to_y, true, left_of_shortcut);
        };
        let pooled = pooled.rows(&pass.input_rows);
        shortcut.input_gradient(pass, &Source::plain(&pooled), &to_y, false, left_of_shortcut)?;
        resample::average_pool_backward(&dx, pooled.gradient(&self.name, "its pooled input")?, x.image(), true)
    }

    fn tangent(&self, pass: &Tangent) -> Result<()> {
        let [x, h, y] = [&self.x, &self.h, &self.y].map(|value| pass.of(value));
        let masked;
        let into = match self.before {
            Activation::LeakyRelu(slope) => {
                masked = pass.scratch(&self.name, &self.x)?;
                elementary::leaky_relu_backward(&masked.x, &x.x, &pass.saved(&self.x), slope)?;
                &masked
            }
            _ => &x,
        };
        let before_mask = pass.scratch(&self.name, &self.h)?;
        self.conv1.tangent(pass, &Source::plain(into), &Target::new(&before_mask))?;
        elementary::leaky_relu_backward(&h.x, &before_mask.x, &pass.saved(&self.h), 0.0)?;
        let pooled = self.pooled.as_ref().map(|pooled| pass.of(pooled));
        self.join([&x, &y], pooled, &Source::plain(&h), |conv, from, to| conv.tangent(pass, from, to))
    }

    fn piecewise_linear(&self) -> bool {
        true
    }

    fn output(&self) -> &Value {
        &self.y
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// A block of G, which doubles height and width:
///
/// ```text
/// h = conv1(up(relu(norm1(x))))      y = conv2(relu(norm2(h))) + up(shortcut(x))
/// ```
///
/// The hidden width is that of the output. Nearest upsampling happens as conv1 reads its input. Bilinear upsampling, and
/// any after an unfused norm, writes a tensor of its own. (The shortcut's 1x1 convolution gives the same numbers before
/// the upsampling as after it.)
pub struct UpBlock {
    name: String,
    norm1: Norm,
    norm2: Norm,
    conv1: Conv,
    conv2: Conv,
    shortcut: Conv,
    upsampling: Upsampling,
    x: Value,
    /// relu(norm1(x)), and what upsampling makes of it for conv1; where upsampling is a kernel of its own.
    upsampled: Option<[Value; 2]>,
    /// relu(norm1(x)) as conv1 computes it while it reads: only its gradient has memory.
    a1: Value,
    h: Value,
    a2: Value,
    /// The shortcut before upsampling.
    s: Value,
    y: Value,
}

#[derive(Clone)]
pub struct UpOptions {
    pub out: usize,
    pub norm: NormOptions,
    pub upsampling: Upsampling,
    /// The convolutions' initialisation.
    pub conv: fn(usize, usize, usize) -> ConvOptions,
}

impl UpBlock {
    pub fn new(build: &mut Builder, name: &str, x: &Value, options: &UpOptions) -> Result<UpBlock> {
        let UpOptions { out, norm, upsampling, conv } = options.clone();
        let (n, c, h2, w2) = (x.n, x.c, product([2, x.h]), product([2, x.w]));
        let at = |part: &str| format!("{name}.{part}");
        let norm1 = Norm::new(build, &at("norm1"), x, &norm)?;
        let a1 = build.gradient_only(x)?;
        let upsampled = if upsampling == Upsampling::Bilinear || norm1.is_unfused() {
            Some([build.value(n, x.h, x.w, c)?, build.value(n, h2, w2, c)?])
        } else {
            None
        };
        let conv1 = Conv::new(build, &at("conv1"), conv(3, c, out), &Value { h: h2, w: w2, ..x.clone() })?;
        let h = build.value(n, h2, w2, out)?;
        let norm2 = Norm::new(build, &at("norm2"), &h, &norm)?;
        let a2 = norm2.activated(build)?;
        let conv2 = Conv::new(build, &at("conv2"), conv(3, out, out), &h)?;
        let shortcut = Conv::new(build, &at("shortcut"), conv(1, c, out), x)?;
        Ok(UpBlock {
            name: name.to_string(),
            norm1,
            norm2,
            conv1,
            conv2,
            shortcut,
            upsampling,
            x: x.clone(),
            upsampled,
            a1,
            h,
            a2,
            s: build.value(n, x.h, x.w, out)?,
            y: build.value(n, h2, w2, out)?,
        })
    }

    /// What conv1 reads.
    fn conv1_source(&self) -> Source<'_> {
        match &self.upsampled {
            Some([_, up]) => Source::plain(up),
            None => Source::normalised(&self.a1, &self.x, &self.norm1, true),
        }
    }

    fn conv2_source(&self) -> Source<'_> {
        Source::normalised(&self.a2, &self.h, &self.norm2, false)
    }
}

impl Layer for UpBlock {
    fn forward(&self, pass: &Forward) -> Result<()> {
        self.norm1.prepare(pass)?;
        if let Some([activated, up]) = &self.upsampled {
            self.norm1.apply(&activated.x)?;
            resample::upsample(&up.x, &activated.x, activated.image(), self.upsampling)?;
        }
        self.conv1.forward(pass, &self.conv1_source(), &Target::new(&self.h))?;
        self.norm2.forward(pass, &self.a2)?;
        self.shortcut.forward(pass, &Source::plain(&self.x), &Target::new(&self.s))?;
        resample::upsample(&self.y.x, &self.s.x, self.s.image(), self.upsampling)?;
        self.conv2.forward(pass, &self.conv2_source(), &Target { accumulate: true, ..Target::new(&self.y) })
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let (dy, ds) = (self.y.gradient(&self.name, "its output")?, self.s.gradient(&self.name, "its shortcut")?);
        self.conv2.backward(pass, &self.conv2_source(), &Target::new(&self.y), false)?;
        self.norm2.backward(pass, &self.a2)?;
        self.conv1.backward(pass, &self.conv1_source(), &Target::new(&self.h), false)?;
        match &self.upsampled {
            Some([activated, up]) => {
                let dactivated = activated.gradient(&self.name, "its activated input")?;
                let dup = up.gradient(&self.name, "its upsampled input")?;
                resample::upsample_backward(dactivated, dup, activated.image(), self.upsampling, false)?;
                self.norm1.backward(pass, activated)?;
            }
            None => self.norm1.backward(pass, &self.a1)?,
        }
        resample::upsample_backward(ds, dy, self.s.image(), self.upsampling, false)?;
        self.shortcut.backward(pass, &Source::plain(&self.x), &Target::new(&self.s), true)
    }

    fn output(&self) -> &Value {
        &self.y
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// The end of G: y = tanh(conv(relu(norm(x)))).
pub struct ToImage {
    name: String,
    norm: Norm,
    conv: Conv,
    x: Value,
    a: Value,
    y: Value,
}

impl ToImage {
    /// Writes into `y`. Parameters are called `norm` and `conv`, without a prefix.
    pub fn into(
        build: &mut Builder,
        (x, y): (&Value, &Value),
        norm: &NormOptions,
        conv: ConvOptions,
    ) -> Result<ToImage> {
        let norm = Norm::new(build, "norm", x, norm)?;
        Ok(ToImage {
            name: "conv".to_string(),
            a: norm.activated(build)?,
            conv: Conv::new(build, "conv", conv, x)?,
            norm,
            x: x.clone(),
            y: y.clone(),
        })
    }
}

impl Layer for ToImage {
    fn forward(&self, pass: &Forward) -> Result<()> {
        self.norm.forward(pass, &self.a)?;
        let from = Source::normalised(&self.a, &self.x, &self.norm, false);
        self.conv.forward(pass, &from, &Target { activation: Activation::Tanh, ..Target::new(&self.y) })
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let from = Source::normalised(&self.a, &self.x, &self.norm, false);
        let to = Target { activation: Activation::Tanh, ..Target::new(&self.y) };
        self.conv.backward(pass, &from, &to, false)?;
        self.norm.backward(pass, &self.a)
    }

    fn output(&self) -> &Value {
        &self.y
    }

    fn name(&self) -> &str {
        &self.name
    }
}
