//! What ends a discriminator: its head and the loss.

use super::{Shapes, labels};
use crate::Result;
use crate::device::{Buffer, Device, Reals};
use crate::instruments::bench::{Form, Problem, numbers};
use crate::ops::log_partition::{self, Evaluation};
use crate::ops::losses::{self, LogitLoss};
use crate::ops::projection::{self, Gradients, Head, Seeds};

pub fn problems(shapes: &Shapes) -> Vec<Problem> {
    let mut problems: Vec<Problem> = shapes.logits.iter().map(|&each| log_partition(each)).collect();
    problems.extend(shapes.hinge.iter().map(|&each| hinge(each)));
    problems.extend(shapes.heads.iter().map(|&sizes| head(sizes)));
    problems
}

/// A form that computes both losses and all their gradients from `each` real logits and as many fake ones. `compute` gets
/// the outputs, the real logits, the fake ones, and a workspace of `workspace` numbers.
pub fn loss_form(
    device: &Device,
    each: usize,
    name: &'static str,
    workspace: usize,
    compute: impl Fn(&Evaluation, &Reals, &Reals, &Reals) -> Result<()> + 'static,
) -> Result<Form> {
    let (real, fake, workspace) = (numbers(device, each, 1)?, numbers(device, each, 2)?, device.zeros(workspace)?);
    let out = Evaluation { statistics: device.zeros(4)?, seed_d: device.zeros(2 * each)?, seed_g: device.zeros(each)? };
    let outputs = [&out.statistics, &out.seed_d, &out.seed_g].map(Buffer::clone);
    Ok(Form::new(name, outputs, move || compute(&out, &real, &fake, &workspace)))
}

pub fn log_partition_problem(each: usize, make: impl Fn(&Device) -> Result<Vec<Form>> + 'static) -> Problem {
    Problem::new("log_partition", format!("{each}+{each}"), 1e-5, make)
}

fn log_partition(each: usize) -> Problem {
    log_partition_problem(each, move |device| {
        let (fused, unfused) =
            (log_partition::workspace_len(device, 2 * each), log_partition::unfused_workspace_len(device, 2 * each));
        forms!(
            loss_form(device, each, "fused", fused, |out, real, fake, w| log_partition::fused(out, real, fake, 1.0, w))?,
            loss_form(device, each, "unfused", unfused, |out, real, fake, w| {
                log_partition::unfused(out, real, fake, 1.0, w)
            })?;
            log_partition(device, each)
        )
    })
}

fn hinge(each: usize) -> Problem {
    Problem::new("losses", format!("hinge {each}+{each}"), 1e-5, move |device| {
        let fused =
            loss_form(device, each, "fused", 0, |out, real, fake, _| losses::fused(out, real, fake, LogitLoss::Hinge))?;
        forms!(fused; hinge(device, each))
    })
}

/// The forward pass of a head: it computes the logits (N) and the pooled features (N, C) from the features of the pixels.
/// The last argument is its workspace.
pub type HeadForward = fn(&Reals, &Reals, &Reals, &Head, &Reals) -> Result<()>;

/// A form of the projection head: `forward` with a workspace of `workspace` numbers, then backward to the pixels and to
/// the parameters, fused or from separate kernels.
pub fn head_form(
    device: &Device,
    [n, p, c, classes]: [usize; 4],
    name: &'static str,
    (forward, workspace): (HeadForward, usize),
    backward_fused: bool,
) -> Result<Form> {
    let (x, df) = (numbers(device, n * p * c, 1)?, numbers(device, n, 2)?);
    let (w, v) = (numbers(device, c, 3)?, numbers(device, classes * c, 4)?);
    let labels = labels(device, n, classes as u32)?;
    let zeros = |len: usize| device.zeros::<f32>(len);
    let (f, h, dx, dh) = (zeros(n)?, zeros(n * c)?, zeros(n * p * c)?, zeros(n * c)?);
    let (dw, dv, workspace) = (zeros(c)?, zeros(classes * c)?, zeros(workspace)?);
    Ok(Form::new(name, [&f, &h, &dx, &dw, &dv].map(Buffer::clone), move || {
        let head = Head { w: &w, v: Some(&v), labels: Some(&labels), bias: None, pool_factor: 1.0 };
        let gradients = Gradients { dw: &dw, dv: Some(&dv), dbias: None };
        let seeds = Seeds { df: Some(&df), scale: None };
        // The gradients of the parameters are added to what is there.
        dw.zero()?;
        dv.zero()?;
        forward(&f, &h, &x, &head, &workspace)?;
        if backward_fused {
            projection::input_gradient(&dx, &x, &head, n, Some(&df))?;
            projection::parameter_gradients(gradients, &h, Some(&labels), seeds)
        } else {
            projection::unfused::input_gradient(&dx, &x, &head, n, Some(&df), &dh)?;
            projection::unfused::parameter_gradients(gradients, &h, Some(&labels), seeds)
        }
    }))
}

/// The fused forward pass of a head, which needs no workspace.
pub const HEAD_FUSED: (HeadForward, usize) = (|f, h, x, head, _| projection::forward(f, h, x, head), 0);

pub fn head_problem([n, p, c, classes]: [usize; 4], make: impl Fn(&Device) -> Result<Vec<Form>> + 'static) -> Problem {
    Problem::new("projection", format!("{n} samples of {p} pixels, C {c}, {classes} classes"), 1e-5, make)
}

fn head(sizes: [usize; 4]) -> Problem {
    head_problem(sizes, move |device| {
        let [n, p, c, _] = sizes;
        let unfused: (HeadForward, usize) =
            (projection::unfused::forward, projection::unfused::workspace_len(n * p * c, n));
        forms!(
            head_form(device, sizes, "fused", HEAD_FUSED, true)?,
            head_form(device, sizes, "unfused", unfused, false)?;
            head(device, sizes)
        )
    })
}
