//! The residual blocks of the projection discriminator's paper (its Chainer code), of both networks.

use super::conv::{Conv, ConvOptions, Source, Target};
use super::{Backward, Builder, Forward, Layer, Norm, NormOptions, Tangent, Value};
use crate::Result;
use crate::ops::Activation;
use crate::ops::gradient_penalty::mask;
use crate::ops::resample::{self, Upsampling};

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
        let pooled = if pool { Some(build.value(n, ph, pw, x.c)?) } else { None };
        let shortcut = if has_shortcut {
            let from = pooled.as_ref().unwrap_or(x).clone();
            Some(Conv::new(build, &format!("{name}.shortcut"), ConvOptions::residual(1, x.c, out), &from)?)
        } else {
            None
        };
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

impl Layer for DownBlock {
    fn forward(&self, pass: &Forward) -> Result<()> {
        let [x, h, y] = [&self.x, &self.h, &self.y].map(|value| value.rows(&pass.rows));
        self.conv1.forward(pass, &Source::activated(&x, self.before), &Target::new(&h))?;
        let through = Source::activated(&h, Activation::RELU);
        let Some(shortcut) = &self.shortcut else {
            return self.conv2.forward(pass, &through, &Target { residual: Some(&x.x), ..Target::new(&y) });
        };
        let from = match &self.pooled {
            Some(pooled) => {
                let pooled = pooled.rows(&pass.rows);
                resample::average_pool(&pooled.x, &x.x, x.image())?;
                pooled
            }
            None => x,
        };
        shortcut.forward(pass, &Source::plain(&from), &Target::new(&y))?;
        self.conv2.forward(pass, &through, &Target { pool: self.pool, accumulate: true, ..Target::new(&y) })
    }

    fn backward(&self, pass: &Backward) -> Result<()> {
        let [x, h, y] = [&self.x, &self.h, &self.y].map(|value| value.rows(&pass.rows));
        let out = Target { pool: self.pool, ..Target::new(&y) };
        let through = Source::activated(&h, Activation::RELU);
        self.conv2.backward_parameters(pass, &through, &out)?;
        self.conv2.backward_input(pass, &through, &out, false)?;
        self.conv1.backward_parameters(pass, &Source::activated(&x, self.before), &Target::new(&h))?;
        if let Some(shortcut) = &self.shortcut {
            let from = self.pooled.as_ref().map_or(x, |pooled| pooled.rows(&pass.rows));
            shortcut.backward_parameters(pass, &Source::plain(&from), &Target::new(&y))?;
        }

        let rows = &pass.input_rows;
        if rows.is_empty() {
            return Ok(());
        }
        let [x, h, y] = [&self.x, &self.h, &self.y].map(|value| value.rows(rows));
        let (Some(dx), Some(dy)) = (&x.dx, &y.dx) else { return Ok(()) };
        let into = Source::activated(&x, self.before);
        match (&self.shortcut, &self.pooled) {
            (None, _) => {
                dx.copy_from(dy)?;
                self.conv1.backward_input(pass, &into, &Target::new(&h), true)
            }
            (Some(shortcut), None) => {
                self.conv1.backward_input(pass, &into, &Target::new(&h), false)?;
                shortcut.backward_input(pass, &Source::plain(&x), &Target::new(&y), true)
            }
            (Some(shortcut), Some(pooled)) => {
                let pooled = pooled.rows(rows);
                self.conv1.backward_input(pass, &into, &Target::new(&h), false)?;
                shortcut.backward_input(pass, &Source::plain(&pooled), &Target::new(&y), false)?;
                match &pooled.dx {
                    Some(dpooled) => resample::average_pool_backward(dx, dpooled, x.image(), true),
                    None => Ok(()),
                }
            }
        }
    }

    fn tangent(&self, pass: &Tangent) -> Result<()> {
        let [x, h, y] = [&self.x, &self.h, &self.y].map(|value| pass.of(value));
        let [Some(masked), Some(before_mask)] = [&self.x, &self.h].map(|value| pass.scratch(value)) else {
            return Ok(());
        };
        let into = match self.before {
            Activation::LeakyRelu(slope) => {
                mask(&masked.x, &x.x, &pass.saved(&self.x), slope)?;
                &masked
            }
            _ => &x,
        };
        self.conv1.tangent(pass, &Source::plain(into), &Target::new(&before_mask))?;
        mask(&h.x, &before_mask.x, &pass.saved(&self.h), 0.0)?;
        let through = Source::plain(&h);
        let Some(shortcut) = &self.shortcut else {
            return self.conv2.tangent(pass, &through, &Target { residual: Some(&x.x), ..Target::new(&y) });
        };
        let from = match &self.pooled {
            Some(pooled) => {
                let pooled = pass.of(pooled);
                resample::average_pool(&pooled.x, &x.x, x.image())?;
                pooled
            }
            None => x,
        };
        shortcut.tangent(pass, &Source::plain(&from), &Target::new(&y))?;
        self.conv2.tangent(pass, &through, &Target { pool: self.pool, accumulate: true, ..Target::new(&y) })
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
/// with the hidden width that of the output. Nearest upsampling happens as conv1 reads its input; bilinear, or after a
/// norm that is run apart, it is a tensor of its own. (The shortcut's 1x1 convolution before the upsampling gives the same numbers as after it.)
pub struct UpBlock {
    name: String,
    norm1: Norm,
    norm2: Norm,
    conv1: Conv,
    conv2: Conv,
    shortcut: Conv,
    upsampling: Upsampling,
    x: Value,
    /// relu(norm1(x)) and what conv1 sees of it, where upsampling is a kernel.
    upsampled: Option<[Value; 2]>,
    /// relu(norm1(x)) as conv1 reads it: only its gradient has memory.
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
        let (n, c, h2, w2) = (x.n, x.c, 2 * x.h, 2 * x.w);
        let at = |part: &str| format!("{name}.{part}");
        let norm1 = Norm::new(build, &at("norm1"), x, &norm)?;
        let a1 = build.gradient_only(x)?;
        let upsampled = if upsampling == Upsampling::Bilinear || norm1.is_apart() {
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
        let (Some(dy), Some(ds)) = (&self.y.dx, &self.s.dx) else { return Ok(()) };
        let (to_h, to_y, to_s) = (Target::new(&self.h), Target::new(&self.y), Target::new(&self.s));
        self.conv2.backward_parameters(pass, &self.conv2_source(), &to_y)?;
        self.conv2.backward_input(pass, &self.conv2_source(), &to_y, false)?;
        self.norm2.backward(pass, &self.a2)?;

        self.conv1.backward_parameters(pass, &self.conv1_source(), &to_h)?;
        self.conv1.backward_input(pass, &self.conv1_source(), &to_h, false)?;
        match &self.upsampled {
            Some([activated, up]) => {
                if let (Some(dactivated), Some(dup)) = (&activated.dx, &up.dx) {
                    resample::upsample_backward(dactivated, dup, activated.image(), self.upsampling, false)?;
                }
                self.norm1.backward(pass, activated)?;
            }
            None => self.norm1.backward(pass, &self.a1)?,
        }

        resample::upsample_backward(ds, dy, self.s.image(), self.upsampling, false)?;
        let from = Source::plain(&self.x);
        self.shortcut.backward_parameters(pass, &from, &to_s)?;
        self.shortcut.backward_input(pass, &from, &to_s, true)
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
        self.conv.backward_parameters(pass, &from, &to)?;
        self.conv.backward_input(pass, &from, &to, false)?;
        self.norm.backward(pass, &self.a)
    }

    fn output(&self) -> &Value {
        &self.y
    }

    fn name(&self) -> &str {
        &self.name
    }
}
