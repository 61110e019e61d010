//! Batch norm and spectral norm.

use super::Cases;
use crate::device::Precision;
use crate::ops::Activation;
use crate::ops::norm::{self, Affine, Batch, Gradients, Running, Shape, Tables};
use crate::ops::spectral_norm::{self, Matrix, Outputs, Plan, State};

const CLASSES: usize = 3;

/// Statistics of numbers whose offset is so much larger than their deviation that rounding the mean matters.
fn offset(cases: &mut Cases, shape: Shape) {
    let (n, c) = (shape.n, shape.c);
    cases.add(format!("statistics, {n} x {c}, offset"), move |t| {
        t.tolerance = 1e-3;
        let x: Vec<f32> = t.numbers(n * c)?.read()?.iter().map(|x| x + 4e6).collect();
        let x = t.device().upload(&x)?;
        let (mean, rstd) = (t.out("mean", c)?, t.out("rstd", c)?);
        let (scale, shift) = (t.scratch(c)?, t.scratch(c)?);
        let affine = Affine { gamma: &t.numbers(c)?, beta: &t.numbers(c)?, labels: None };
        let batch =
            Batch { x: &x, mean: &mean, rstd: &rstd, tables: Tables { scale: &scale, shift: &shift }, whole: None };
        let workspace = t.scratch(norm::workspace_len(t.device(), shape, false))?;
        norm::statistics(batch, None, affine, 1e-5, shape, &workspace)
    });
}

pub fn norm(cases: &mut Cases) {
    let image = |n, h, w, c| Shape { n, h, w, c, upsample: false };
    let shapes = [
        Shape::features(1, 1),
        Shape::features(5, 17),
        Shape::features(200, 15),
        Shape::features(257, 15),
        image(3, 5, 7, 16),
        image(2, 16, 17, 33),
        Shape { upsample: true, ..image(3, 3, 5, 9) },
        Shape { upsample: true, ..image(1, 20, 14, 16) },
    ];
    let large = Shape { upsample: true, ..image(16, 16, 16, 64) };
    let shapes: Vec<Shape> = cases.pick(&shapes, &[1, 3, 6]);
    for shape in shapes.into_iter().chain([large]) {
        let Shape { n, h, w, c, upsample } = shape;
        if shape.n > 100 && cases.precision == Precision::F32 {
            offset(cases, shape);
        }
        for conditional in [false, true] {
            let rows = if conditional { n } else { 1 };
            let classes = if conditional { CLASSES } else { 1 };
            let what = format!("{n} x {h} x {w} x {c}, upsample {upsample}, conditional {conditional}");
            let case = cases.add(format!("forward, {what}"), move |t| {
                t.tolerance = 1e-4;
                let (x, y) = (t.values(shape.input_len())?, t.out_values("y", shape.output_len())?);
                let (mean, rstd) = (t.out("mean", c)?, t.out("rstd", c)?);
                let (scale, shift) = (t.out("scale", rows * c)?, t.out("shift", rows * c)?);
                let (gamma, beta) = (t.numbers(classes * c)?, t.numbers(classes * c)?);
                let labels = t.below(n, classes + 1)?; // one too many: it counts as the last
                let var = t.uniforms(c, 0.5, 1.0)?;
                t.compare("running variance", &var);
                let running = Running { mean: &t.update("running mean", c)?, var: &var, momentum: 0.1 };
                let affine = Affine { gamma: &gamma, beta: &beta, labels: conditional.then_some(&labels) };
                let tables = Tables { scale: &scale, shift: &shift };
                let batch = Batch { x: &x, mean: &mean, rstd: &rstd, tables, whole: None };
                let workspace = t.scratch(norm::workspace_len(t.device(), shape, conditional))?;
                norm::statistics(batch, Some(running), affine, 1e-5, shape, &workspace)?;
                norm::apply(&y, &x, tables, Activation::LeakyRelu(0.2), shape)?;
                let (scale, shift) = (t.out("running scale", rows * c)?, t.out("running shift", rows * c)?);
                let tables = Tables { scale: &scale, shift: &shift };
                norm::running_tables(tables, running, affine, 1e-5, shape)?;
                norm::apply(&t.out_values("running y", shape.output_len())?, &x, tables, Activation::Tanh, shape)
            });
            case.large = shape == large;
            for accumulate in [false, true] {
                let name = format!("backward, {what}, accumulate {accumulate}");
                let case = cases.add(name, move |t| {
                    t.tolerance = 1e-4;
                    let (x, dy) = (t.values(shape.input_len())?, t.values(shape.output_len())?);
                    let (mean, rstd) = (t.numbers(c)?, t.uniforms(c, 0.5, 2.0)?);
                    let (scale, shift) = (t.numbers(rows * c)?, t.numbers(rows * c)?);
                    let (gamma, beta) = (t.numbers(classes * c)?, t.numbers(classes * c)?);
                    let labels = t.below(n, classes + 1)?;
                    let affine = Affine { gamma: &gamma, beta: &beta, labels: conditional.then_some(&labels) };
                    let tables = Tables { scale: &scale, shift: &shift };
                    let batch = Batch { x: &x, mean: &mean, rstd: &rstd, tables, whole: None };
                    let workspace = t.scratch(norm::workspace_len(t.device(), shape, conditional))?;
                    let gradients = Gradients {
                        dx: &t.either_values("dx", shape.input_len(), accumulate)?,
                        accumulate,
                        dgamma: &t.update("dgamma", classes * c)?,
                        dbeta: &t.update("dbeta", classes * c)?,
                    };
                    let activation = if accumulate { Activation::Tanh } else { Activation::LeakyRelu(0.2) };
                    norm::backward(gradients, &dy, batch, affine, activation, shape, &workspace)
                });
                case.large = shape == large;
            }
        }
    }
}

pub fn spectral_norm(cases: &mut Cases) {
    let matrix = |offset, rows, columns, outputs| Matrix { offset, rows, columns, outputs };
    use Outputs::{Columns, Rows};
    let plans = [
        ("one number", 1, vec![matrix(0, 1, 1, Columns)]),
        ("odd", 400, vec![matrix(3, 9, 17, Columns), matrix(160, 5, 33, Rows), matrix(330, 1, 31, Columns)]),
        ("two", 9000, vec![matrix(0, 72, 64, Columns), matrix(4700, 33, 129, Rows)]),
        ("past one block", 300_000, vec![matrix(5, 1030, 257, Columns), matrix(264_800, 257, 130, Rows)]),
    ];
    for (name, parameters, matrices) in plans {
        for iterate in [false, true] {
            let matrices = matrices.clone();
            cases.add(format!("{name}, iterate {iterate}"), move |t| {
                (t.tolerance, t.scale) = (1e-4, 1e-2);
                let plan = Plan::new(t.device(), parameters, &matrices)?;
                let (weights, effective) = (t.numbers(parameters)?, t.out("effective", parameters)?);
                let (u, v) = (t.update("u", plan.u_len())?, t.update("v", plan.v_len())?);
                // Stretches of the parameters that are no matrix have a sigma too, which must stay as it is.
                let sigma = t.update("sigma", plan.sigma_len())?;
                let workspace = t.scratch(plan.workspace_len())?;
                let state = State { u: &u, v: &v, sigma: &sigma, workspace: &workspace };
                spectral_norm::forward(&plan, &effective, &weights, state, iterate)?;
                let gradient = t.update("gradient", parameters)?;
                spectral_norm::backward(&plan, &gradient, &effective, state)
            });
        }
    }
}
