//! Operations on images other than convolutions: attention, the projection head, pooling and upsampling.

use super::Cases;
use crate::data::ImageShape;
use crate::device::Precision;
use crate::ops::attention::{self, Gradients, Inputs, Shape};
use crate::ops::diffaug::{self, Draw, Strengths};
use crate::ops::features::{self, Filter, Pool, Pooling, Resize};
use crate::ops::projection::{self, Head, Seeds};
use crate::ops::resample::{self, Image, Upsampling};

pub fn attention(cases: &mut Cases) {
    let shapes = [
        [1, 1, 1, 1, 1],
        [2, 5, 3, 7, 9],
        [1, 64, 64, 16, 16],
        [2, 65, 63, 5, 33],
        [1, 130, 33, 17, 65],
        [2, 33, 130, 5, 31],
        [1, 70, 40, 72, 136],
        [1, 1024, 256, 8, 32],
    ];
    for [n, l, lk, dk, dv] in cases.pick(&shapes, &[1, 3, 5, 6]) {
        let shape = Shape { n, l, lk, dk, dv };
        let case = cases.add(format!("forward and backward, {shape:?}"), move |t| {
            // Tensor cores multiply rounded probabilities, which the host does not round.
            t.tolerance = match t.precision() {
                Precision::Bf16 => 1.0 / 32.0,
                Precision::F16 => 1.0 / 256.0,
                _ => 1e-4,
            };
            let (q, k, v) = (t.values(n * l * dk)?, t.values(n * lk * dk)?, t.values(n * lk * dv)?);
            let (o, lse, d_o) = (t.out_values("o", n * l * dv)?, t.out("lse", n * l)?, t.values(n * l * dv)?);
            let workspace = t.scratch(shape.workspace_len())?;
            let inputs = Inputs { q: &q, k: &k, v: &v };
            attention::forward(&o, &lse, inputs, shape)?;
            let out = Gradients {
                dq: &t.out_values("dq", n * l * dk)?,
                dk: &t.out_values("dk", n * lk * dk)?,
                dv: &t.out_values("dv", n * lk * dv)?,
            };
            attention::backward(out, &d_o, &o, inputs, &lse, shape, &workspace)
        });
        case.large = l > 1000;
    }
    for (n, each) in cases.pick(&[(1, 1), (3, 31), (2, 1025), (300, 5)], &[1, 2]) {
        for scaled in [false, true] {
            cases.add(format!("residual, {n} x {each}, scale {scaled}"), move |t| {
                let (y, x, a) = (t.out_values("y", n * each)?, t.values(n * each)?, t.values(n * each)?);
                let (gamma, scale, dy) = (t.numbers(1)?, t.numbers(n)?, t.values(n * each)?);
                attention::residual(&y, &x, &a, &gamma)?;
                let (da, dgamma) = (t.out_values("da", n * each)?, t.update("dgamma", 1)?);
                let workspace = t.scratch(n)?;
                // The gradient of gamma is a sum of many numbers around 0, which loses digits.
                t.tolerance = 1e-3;
                let scale = scaled.then_some(&scale);
                attention::residual_backward(&da, Some(&dgamma), &dy, &a, &gamma, scale, &workspace)
            });
        }
    }
}

pub fn features(cases: &mut Cases) {
    for filter in [Filter::Bilinear, Filter::BilinearFromCorner, Filter::Bicubic] {
        for ([n, height, width, channels], to) in
            [([1, 1, 1, 1], [1, 1, 1]), ([2, 5, 7, 3], [9, 8, 3]), ([1, 33, 20, 1], [7, 31, 3])]
        {
            let from = ImageShape { height, width, channels };
            cases.add(format!("resize, {filter:?}, {n} x {from} to {to:?}"), move |t| {
                let (x, y) = (t.bytes(n * from.len())?, t.out("y", n * to[0] * to[1] * to[2])?);
                Resize::new(t.device(), from, to, filter, (2.0 / 255.0, -1.0))?.run(&y, &x)
            });
        }
    }
    for ([n, h, w, c], size, stride, pad) in [
        ([1, 1, 1, 1], 1, 1, 0),
        ([2, 5, 7, 33], 1, 1, 0),
        ([2, 5, 7, 33], 3, 1, 1),
        ([3, 9, 8, 16], 3, 2, 0),
        ([1, 6, 5, 270], 4, 3, 2),
        ([2, 8, 8, 40], 8, 1, 0),
    ] {
        for how in [Pooling::Maximum, Pooling::Mean, Pooling::MeanWithPadding] {
            let (image, pool) = (Image { n, h, w, c }, Pool { how, size, stride, pad });
            cases.add(format!("{pool:?}, {n} x {h} x {w} x {c}"), move |t| {
                // Channels on both sides of the slice stay as they are.
                let (first, channels) = (3, c + 5);
                let x = t.numbers(image.elements())?;
                let y = t.update("y", n * pool.out(h) * pool.out(w) * channels)?;
                features::pool(pool, &y, &x, image, first, channels)
            });
        }
    }
}

pub fn projection(cases: &mut Cases) {
    const CLASSES: usize = 4;
    for (n, p, c) in cases.pick(&[(1, 1, 1), (3, 7, 31), (5, 16, 129), (2, 1100, 3), (33, 4, 33)], &[1, 3]) {
        for (unfused, labelled) in [(false, false), (false, true), (true, false), (true, true)] {
            // The head from separate kernels serves comparisons alone, and exists in f32 alone.
            if unfused && cases.precision != Precision::F32 {
                continue;
            }
            cases.add(format!("{n} x {p} x {c}, unfused {unfused}, labels {labelled}"), move |t| {
                t.tolerance = 1e-4;
                let (x, w, v) = (t.values(n * p * c)?, t.numbers(c)?, t.numbers(CLASSES * c)?);
                let (labels, bias, df) = (t.labels(n, CLASSES)?, t.numbers(1)?, t.numbers(n)?);
                let scale = t.numbers(n)?;
                let labels = labelled.then_some(&labels);
                let bias = labelled.then_some(&bias);
                let head = Head { w: &w, v: labelled.then_some(&v), labels, bias, pool_factor: 0.5 };
                let (f, h, dx) = (t.out("f", n)?, t.out("h", n * c)?, t.out_values("dx", n * p * c)?);
                let (dw, dv, dbias) = (t.update("dw", c)?, t.update("dv", CLASSES * c)?, t.update("dbias", 1)?);
                let out =
                    projection::Gradients { dw: &dw, dv: labelled.then_some(&dv), dbias: labelled.then_some(&dbias) };
                let seeds = if labelled { Seeds { df: Some(&df), scale: Some(&scale) } } else { Seeds::default() };
                let work = t.scratch(projection::unfused::workspace_len(n * p * c, n))?;
                let dh = t.scratch(n * c)?;
                if unfused {
                    projection::unfused::forward(&f, &h, &x, &head, &work)?;
                    projection::unfused::input_gradient(&dx, &x, &head, n, seeds.df, &dh)?;
                    projection::unfused::parameter_gradients(out, &h, labels, seeds)
                } else {
                    projection::forward(&f, &h, &x, &head)?;
                    projection::input_gradient(&dx, &x, &head, n, seeds.df)?;
                    projection::parameter_gradients(out, &h, labels, seeds)
                }
            });
        }
        cases.add(format!("pool, {n} x {p} x {c}"), move |t| {
            let (x, h, dx) = (t.values(n * p * c)?, t.out("h", n * c)?, t.out_values("dx", n * p * c)?);
            projection::pool(&h, &x, n, 0.25)?;
            let dh = t.numbers(n * c)?;
            projection::pool_backward(&dx, &x, &dh, n, 0.25)
        });
    }
}

pub fn resample(cases: &mut Cases) {
    const CLASSES: usize = 3;
    let shapes = [[1, 2, 2, 1], [2, 5, 7, 3], [3, 6, 4, 17], [1, 9, 8, 40], [1, 2, 3, 1030]];
    for [n, h, w, c] in cases.pick(&shapes, &[1, 4]) {
        let image = Image { n, h, w, c };
        let (full, half) = (image.elements(), image.halved().elements());
        for accumulate in [false, true] {
            cases.add(format!("pool, {n} x {h} x {w} x {c}, accumulate {accumulate}"), move |t| {
                let (x, y, dy) = (t.values(full)?, t.out_values("average", half)?, t.values(half)?);
                resample::average_pool(&y, &x, image)?;
                let dx = t.either_values("d average", full, accumulate)?;
                resample::average_pool_backward(&dx, &dy, image, accumulate)?;
                let (y, which) = (t.out_values("maximum", half)?, t.out_bytes("which", half)?);
                resample::max_pool(&y, &which, &x, image)?;
                let dx = t.either_values("d maximum", full, accumulate)?;
                resample::max_pool_backward(&dx, &dy, &which, image, accumulate)
            });
            for how in [Upsampling::Nearest, Upsampling::Bilinear] {
                cases.add(format!("{how:?}, {n} x {h} x {w} x {c}, accumulate {accumulate}"), move |t| {
                    let (x, y, dy) = (t.values(full)?, t.out_values("y", 4 * full)?, t.values(4 * full)?);
                    resample::upsample(&y, &x, image, how)?;
                    let dx = t.either_values("dx", full, accumulate)?;
                    resample::upsample_backward(&dx, &dy, image, how, accumulate)
                });
            }
            let width = 1 + c / 2;
            cases.add(format!("concat, {n} x {h} x {w} x {c}, accumulate {accumulate}"), move |t| {
                let (x, labels, table) = (t.values(full)?, t.labels(n, CLASSES)?, t.numbers(CLASSES * width)?);
                let (pixels, wide) = (n * h * w, n * h * w * (c + width));
                resample::concat_labels(
                    &t.out_values("planes", pixels * (c + CLASSES))?,
                    &x,
                    &labels,
                    image,
                    CLASSES,
                    2.0,
                )?;
                resample::concat_embedding(&t.out_values("embedded", wide)?, &x, &table, &labels, image, width)?;
                let (dy, scale, workspace) = (t.values(wide)?, t.numbers(n)?, t.scratch(n * width)?);
                let dx = t.either_values("dx", full, accumulate)?;
                resample::concat_backward(&dx, &dy, image, width, accumulate)?;
                let (to, scale) = (t.update("dembedding", CLASSES * width)?, accumulate.then_some(&scale));
                resample::concat_embedding_backward(&to, &dy, &labels, scale, image, width, &workspace)
            });
        }
    }
}

pub fn diffaug(cases: &mut Cases) {
    for shape in cases.pick(&[[1, 1, 1, 1], [3, 5, 7, 3], [2, 31, 33, 1], [5, 8, 8, 3]], &[1, 3]) {
        let len = shape.iter().product();
        for strengths in [Strengths { colour: 1.0, translation: 1.0, cutout: 1.0 }, Strengths::default()] {
            cases.add(format!("{shape:?}, {strengths:?}"), move |t| {
                let (y, dx, state) = (t.out_values("y", len)?, t.out_values("dx", len)?, t.state()?);
                let draw = Draw { state: &state, stream: 4, first: 2 };
                diffaug::forward(&y, &t.values(len)?, strengths, draw, shape)?;
                diffaug::backward(&dx, &t.values(len)?, strengths, draw, shape)
            });
        }
    }
}
