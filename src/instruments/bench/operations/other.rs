//! What a step does besides: class logits, penalties, resizing, random numbers, bytes, conversions.

use super::{Shapes, labels};
use crate::device::{Buffer, Precision};
use crate::instruments::bench::{Form, Problem, numbers, values};
use crate::ops::cross_entropy::{self, Evaluation};
use crate::ops::gradient_penalty::{self, Direction};
use crate::ops::pixels::{self, Augment};
use crate::ops::resample::{self, Image, Upsampling};
use crate::ops::state::{State, StateBuffer};
use crate::ops::{convert, random};
use crate::sizes::product;

pub fn problems(shapes: &Shapes) -> Vec<Problem> {
    let mut problems: Vec<Problem> = shapes.class_logits.iter().map(|&sizes| class_loss(sizes)).collect();
    problems.extend(shapes.resampled.iter().flat_map(|&sizes| [pooling(sizes), upsampling(sizes)]));
    problems.extend(shapes.images.iter().flat_map(|&sizes| [load(sizes), normals(product(sizes)), penalty(sizes)]));
    problems
}

/// From f32 to 16 bits, as weights are rounded after an update.
pub fn conversions(shapes: &Shapes, precision: Precision) -> Vec<Problem> {
    let all = if precision.bytes() == 2 { &shapes.parameters[..] } else { &[] };
    let one = |&len: &usize| {
        let problem = Problem::new("convert", format!("{len} numbers"), 0.0, move |device| {
            let (x, y) = (numbers(device, len, 1)?, device.zeros_in(len, precision)?);
            Ok(vec![Form::new("fused", [y.clone()], move || convert::narrow(&y, &x))])
        });
        Problem { precision, ..problem }
    };
    all.iter().map(one).collect()
}

/// The loss of class logits, and its gradient.
fn class_loss([n, classes]: [usize; 2]) -> Problem {
    Problem::new("cross_entropy", format!("{n} of {classes} classes"), 1e-4, move |device| {
        let (x, wanted) = (numbers(device, n * classes, 1)?, labels(device, n, classes as u32)?);
        let (statistics, dx) = (device.zeros(2)?, device.zeros(n * classes)?);
        let workspace = device.zeros(cross_entropy::workspace_len(n))?;
        let outputs = [statistics.view(0..1), dx.clone()];
        let fused = Form::new("fused", outputs, move || {
            let out = Evaluation { statistics: &statistics, dx: &dx };
            cross_entropy::evaluate(&out, &x, &wanted, 1.0, &workspace)
        });
        forms!(fused; class_loss(device, [n, classes]))
    })
}

/// The point between each real image and its fake, and the value and the direction of a penalty on D's gradient there.
fn penalty([n, h, w, c]: [usize; 4]) -> Problem {
    let f = h * w * c;
    Problem::new("gradient_penalty", format!("{n} of {h}x{w}x{c}"), 1e-4, move |device| {
        let (real, fake, g) = (numbers(device, n * f, 1)?, numbers(device, n * f, 2)?, numbers(device, n * f, 3)?);
        let share = device.upload(&values(n, 4).iter().map(|x| x.abs()).collect::<Vec<f32>>())?;
        let state = StateBuffer::new(device, &State::new(1, [0.0; 2], 0, 0))?;
        let (mixed, v) = (device.zeros(n * f)?, device.zeros(n * f)?);
        let (norms, statistics) = (device.zeros(n)?, device.zeros(2)?);
        let fused = Form::new("fused", [&mixed, &v, &statistics].map(Buffer::clone), move || {
            gradient_penalty::mix(&mixed, &real, &fake, &share)?;
            let out = Direction { v: &v, norms: &norms, statistics: &statistics };
            gradient_penalty::direction(out, &g, 10.0, 1.0, &state)
        });
        forms!(fused; penalty(device, [n, f]))
    })
}

/// The mean of each 2x2 square, and its backward pass.
fn pooling([n, h, w, c]: [usize; 4]) -> Problem {
    Problem::new("resample", format!("pool: {n} of {h}x{w}, C {c}"), 1e-5, move |device| {
        let (image, small) = (Image { n, h, w, c }, n * (h / 2) * (w / 2) * c);
        let (x, dy) = (numbers(device, image.elements(), 1)?, numbers(device, small, 2)?);
        let (y, dx) = (device.zeros(small)?, device.zeros(image.elements())?);
        let fused = Form::new("fused", [y.clone(), dx.clone()], move || {
            resample::average_pool(&y, &x, image)?;
            resample::average_pool_backward(&dx, &dy, image, false)
        });
        forms!(fused; pooling(device, [n, h, w, c]))
    })
}

/// Nearest upsampling to this height and width, and its backward pass.
fn upsampling([n, h, w, c]: [usize; 4]) -> Problem {
    let (h, w) = (h / 2, w / 2);
    Problem::new("resample", format!("x2: {n} of {h}x{w}, C {c}"), 1e-5, move |device| {
        let (image, large) = (Image { n, h, w, c }, 4 * n * h * w * c);
        let (x, dy) = (numbers(device, image.elements(), 1)?, numbers(device, large, 2)?);
        let (y, dx) = (device.zeros(large)?, device.zeros(image.elements())?);
        let fused = Form::new("fused", [y.clone(), dx.clone()], move || {
            resample::upsample(&y, &x, image, Upsampling::Nearest)?;
            resample::upsample_backward(&dx, &dy, image, Upsampling::Nearest, false)
        });
        forms!(fused; upsampling(device, [n, h, w, c]))
    })
}

/// Bytes of a batch to numbers of [-1, 1].
fn load(shape: [usize; 4]) -> Problem {
    let [n, h, w, c] = shape;
    Problem::new("pixels", format!("{n} of {h}x{w}x{c}"), 1e-6, move |device| {
        let bytes: Vec<u8> = (0..product(shape)).map(|i| (i * i % 251) as u8).collect();
        let (from, x) = (device.upload(&bytes)?, device.zeros(bytes.len())?);
        let state = StateBuffer::new(device, &State::new(1, [0.0; 2], 0, 0))?;
        let fused = Form::new("fused", [x.clone()], move || {
            pixels::load(&x, &from, None, &state, 0, Augment::default(), shape)
        });
        forms!(fused; load(device, &bytes))
    })
}

/// Normal random numbers. Another library has others, so no form stands beside ours.
fn normals(len: usize) -> Problem {
    Problem::new("random", format!("{len} normal"), 0.0, move |device| {
        let out = device.zeros(len)?;
        let state = StateBuffer::new(device, &State::new(1, [0.0; 2], 0, 0))?;
        Ok(vec![Form::new("fused", [out.clone()], move || random::normal(&out, &state, 0))])
    })
}
