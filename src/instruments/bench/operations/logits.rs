//! What ends a discriminator: its head and the loss.

#[cfg(feature = "libtorch")]
use super::super::libtorch;
use super::super::{Form, Problem, numbers};
use super::labels;
use crate::Result;
use crate::device::{Buffer, Device, Precision};
use crate::ops::log_partition::{self, Evaluation};
use crate::ops::losses::{self, LogitLoss};
use crate::ops::projection::{self, Gradients, Head, Seeds};

pub fn problems(tiny: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let logits: &[usize] = if tiny { &[5] } else { &[64, 256, 65_536] };
    for &each in logits {
        problems.push(log_partition(each));
    }
    let each = if tiny { 5 } else { 64 };
    problems.push(hinge(each));
    // mnist; sngan-projection-32 at width 64, batch 32; sngan-projection-64 at batch 8.
    let heads: &[[usize; 4]] =
        if tiny { &[[4, 6, 8, 3]] } else { &[[128, 49, 32, 10], [64, 64, 64, 10], [16, 4, 1024, 1000]] };
    for &sizes in heads {
        problems.push(head(sizes));
    }
    problems
}

fn evaluation(device: &Device, each: usize) -> Result<Evaluation> {
    Ok(Evaluation { statistics: device.zeros(4)?, seed_d: device.zeros(2 * each)?, seed_g: device.zeros(each)? })
}

/// Both losses and all their gradients.
fn log_partition(each: usize) -> Problem {
    Problem {
        operation: "log_partition",
        precision: Precision::F32,
        sizes: format!("{each}+{each}"),
        tolerance: 1e-5,
        make: Box::new(move |device| {
            let form = |name, fused: bool| -> Result<Form> {
                let (real, fake) = (numbers(device, each, 1)?, numbers(device, each, 2)?);
                let out = evaluation(device, each)?;
                let len = if fused { log_partition::workspace_len } else { log_partition::unfused_workspace_len };
                let workspace: Buffer<f32> = device.zeros(len(device, 2 * each))?;
                let outputs = [out.statistics.clone(), out.seed_d.clone(), out.seed_g.clone()];
                let compute = if fused { log_partition::fused } else { log_partition::unfused };
                Ok(Form::new(name, &outputs.each_ref(), move || compute(&out, &real, &fake, 1.0, &workspace)))
            };
            Ok(vec![
                form("fused", true)?,
                form("unfused", false)?,
                #[cfg(feature = "libtorch")]
                libtorch::log_partition(device, each)?,
            ])
        }),
    }
}

fn hinge(each: usize) -> Problem {
    Problem {
        operation: "losses",
        precision: Precision::F32,
        sizes: format!("hinge {each}+{each}"),
        tolerance: 1e-5,
        make: Box::new(move |device| {
            let (real, fake) = (numbers(device, each, 1)?, numbers(device, each, 2)?);
            let out = evaluation(device, each)?;
            let outputs = [out.statistics.clone(), out.seed_d.clone(), out.seed_g.clone()];
            let fused =
                Form::new("fused", &outputs.each_ref(), move || losses::fused(&out, &real, &fake, LogitLoss::Hinge));
            Ok(vec![
                fused,
                #[cfg(feature = "libtorch")]
                libtorch::hinge(device, each)?,
            ])
        }),
    }
}

/// Forward, backward to the pixels, backward to the parameters.
fn head([n, p, c, classes]: [usize; 4]) -> Problem {
    Problem {
        operation: "projection",
        precision: Precision::F32,
        sizes: format!("{n} samples of {p} pixels, C {c}, {classes} classes"),
        tolerance: 1e-5,
        make: Box::new(move |device| {
            let form = |name, fused: bool| -> Result<Form> {
                let (x, df) = (numbers(device, n * p * c, 1)?, numbers(device, n, 2)?);
                let (w, v) = (numbers(device, c, 3)?, numbers(device, classes * c, 4)?);
                let labels = labels(device, n, classes as u32)?;
                let [f, h, dx, dw, dv]: [Buffer<f32>; 5] = [
                    device.zeros(n)?,
                    device.zeros(n * c)?,
                    device.zeros(n * p * c)?,
                    device.zeros(c)?,
                    device.zeros(classes * c)?,
                ];
                let workspace: Buffer<f32> = device.zeros(projection::unfused::workspace_len(x.len(), n))?;
                let dh: Buffer<f32> = device.zeros(n * c)?;
                let outputs = [&f, &h, &dx, &dw, &dv].map(Buffer::clone);
                Ok(Form::new(name, &outputs.each_ref(), move || {
                    let head = Head { w: &w, v: Some(&v), labels: Some(&labels), bias: None, pool_factor: 1.0 };
                    let gradients = Gradients { dw: &dw, dv: Some(&dv), dbias: None };
                    let seeds = Seeds { df: Some(&df), scale: None };
                    // The parameters' gradients accumulate.
                    dw.zero()?;
                    dv.zero()?;
                    if fused {
                        projection::forward(&f, &h, &x, &head)?;
                        projection::input_gradient(&dx, &x, &head, n, Some(&df))?;
                        projection::parameter_gradients(gradients, &h, Some(&labels), seeds)
                    } else {
                        projection::unfused::forward(&f, &h, &x, &head, &workspace)?;
                        projection::unfused::input_gradient(&dx, &x, &head, n, Some(&df), &dh)?;
                        projection::unfused::parameter_gradients(gradients, &h, Some(&labels), seeds)
                    }
                }))
            };
            Ok(vec![
                form("fused", true)?,
                form("unfused", false)?,
                #[cfg(feature = "libtorch")]
                libtorch::head(device, [n, p, c, classes])?,
            ])
        }),
    }
}
