//! Attention, Adam and spectral normalisation as an eager framework runs them: the forms below the last rungs of their ladders.

use std::cell::Cell;

use crate::Result;
use crate::device::{Buffer, Device, Reals};
use crate::instruments::bench::{Form, numbers};
use crate::ops::Activation;
use crate::ops::adam::{self, Adam, Average, Buffers};
use crate::ops::attention::{self, Gradients, Inputs, Shape};
use crate::ops::conv::accumulate;
use crate::ops::elementary::{
    Function, add, affine, divide, divide_by, function, multiply, scale_rows, softmax_rows, softmax_rows_backward, sum,
    workspace_len,
};
use crate::ops::matmul::{Linear, OutputGradient, linear_forward, linear_input_gradient, linear_weight_gradient};
use crate::ops::spectral_norm::{self, Matrix, Plan};
use crate::ops::state::{Network, State, StateBuffer};

/// `y` (N, K) = `x` (N, C) `w` (C, K).
fn times(y: &Reals, x: &Reals, w: &Reals, [n, c, k]: [usize; 3]) -> Result<()> {
    linear_forward(Linear { n, c, k }, y, x, w, None, Activation::Identity)
}

/// Self-attention, forward and backward. A pass that does not stream has the matrix of all queries and keys in memory, and
/// multiplies an image at a time.
pub fn attention(device: &Device, name: &'static str, shape: Shape, streams: [bool; 2]) -> Result<Form> {
    let Shape { n, l, lk, dk, dv } = shape;
    let numbers = |each: usize, seed: u64| numbers(device, n * each, seed);
    let (q, k, v, d_o) = (numbers(l * dk, 1)?, numbers(lk * dk, 2)?, numbers(lk * dv, 3)?, numbers(l * dv, 4)?);
    let zeros = |each: usize| device.zeros::<f32>(n * each);
    let (o, lse, delta) = (zeros(l * dv)?, zeros(l)?, device.zeros(shape.workspace_len())?);
    let (dq, d_k, d_v) = (zeros(l * dk)?, zeros(lk * dk)?, zeros(lk * dv)?);
    // The scores, and later the gradient of the shares; the shares; the gradient of the scores.
    let matrix = || zeros(if streams[1] { 0 } else { l * lk });
    let (scores, shares, d_scores) = (matrix()?, matrix()?, matrix()?);
    Ok(Form::new(name, [&o, &dq, &d_k, &d_v].map(Buffer::clone), move || {
        let of = |all: &Reals, image: usize| all.view(image * all.len() / n..(image + 1) * all.len() / n);
        let each = |work: &dyn Fn(usize) -> Result<()>| (0..n).try_for_each(work);
        let inputs = Inputs { q: &q, k: &k, v: &v };
        let all_shares = || -> Result<()> {
            let sizes = Linear { n: l, c: lk, k: dk };
            each(&|i| linear_input_gradient(sizes, &of(&scores, i), &OutputGradient::stored(&of(&q, i)), &of(&k, i)))?;
            softmax_rows(&shares, &scores, lk)
        };
        if streams[0] {
            attention::forward(&o, &lse, inputs, shape)?;
        } else {
            all_shares()?;
            each(&|i| times(&of(&o, i), &of(&shares, i), &of(&v, i), [l, lk, dv]))?;
        }
        if streams[1] {
            let gradients = Gradients { dq: &dq, dk: &d_k, dv: &d_v };
            return attention::backward(gradients, &d_o, &o, inputs, &lse, shape, &delta);
        }
        if streams[0] {
            all_shares()?;
        }
        let (by_values, by_keys) = (Linear { n: l, c: lk, k: dv }, Linear { n: l, c: lk, k: dk });
        each(&|i| {
            linear_input_gradient(by_values, &of(&scores, i), &OutputGradient::stored(&of(&d_o, i)), &of(&v, i))
        })?;
        softmax_rows_backward(&d_scores, &scores, &shares, lk)?;
        each(&|i| times(&of(&dq, i), &of(&d_scores, i), &of(&k, i), [l, lk, dk]))?;
        // These products add to what is there.
        d_v.zero()?;
        d_k.zero()?;
        each(&|i| {
            let (to, dy) = (of(&d_v, i), of(&d_o, i));
            linear_weight_gradient(by_values, (&to, None), &of(&shares, i), &OutputGradient::stored(&dy))
        })?;
        each(&|i| {
            let (to, dy) = (of(&d_k, i), of(&q, i));
            linear_weight_gradient(by_keys, (&to, None), &of(&d_scores, i), &OutputGradient::stored(&dy))
        })
    }))
}

/// How much of Adam's update is one pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Nothing,
    Update,
    UpdateAndAverage,
}

/// An update with the moving average and the norm of the gradient. Apart, the host counts the updates.
pub fn adam(device: &Device, name: &'static str, n: usize, pass: Pass) -> Result<Form> {
    const RATE: f64 = 1e-3;
    const DECAY: f32 = 0.995;
    const BETAS: [f64; 2] = [0.5, 0.999];
    let settings = Adam { beta1: BETAS[0], beta2: BETAS[1], eps: 1e-8 };
    let zeros = |len: usize| device.zeros::<f32>(len);
    let (values, gradient) = (numbers(device, n, 1)?, numbers(device, n, 2)?);
    let (first, second, average, norm, square) = (zeros(n)?, zeros(n)?, zeros(n)?, zeros(1)?, zeros(1)?);
    let workspace = zeros(adam::workspace_len(device, n).max(workspace_len(device, n)))?;
    let (partials, space) =
        (workspace.view(0..workspace_len(device, n)), workspace.view(0..adam::workspace_len(device, n)));
    let between = || zeros(if pass == Pass::UpdateAndAverage { 0 } else { n });
    let (a, b, squares) = (between()?, between()?, between()?);
    let state = StateBuffer::new(device, &State::new(1, [RATE as f32; 2], 0, 0))?;
    let updates = Cell::new(0);
    Ok(Form::new(name, [&first, &second, &average, &norm].map(Buffer::clone), move || {
        // y = p x + q y
        let mix = |y: &Reals, q: f32, x: &Reals, p: f32| -> Result<()> {
            affine(&a, x, p, 0.0)?;
            affine(&b, y, q, 0.0)?;
            add(y, &a, &b)
        };
        if pass != Pass::Nothing {
            let buffers =
                Buffers { parameters: &values, first_moment: &first, second_moment: &second, gradient: &gradient };
            let kept = Average { values: &average, decay: DECAY, start: 0 };
            let kept = (pass == Pass::UpdateAndAverage).then_some(&kept);
            adam::update(&buffers, kept, &norm, &state, Network::Generator, &settings, &space)?;
        } else {
            updates.set(updates.get() + 1);
            let [corrected1, corrected2] = BETAS.map(|beta| 1.0 - beta.powi(updates.get()));
            multiply(&squares, &gradient, &gradient)?;
            sum(&square, &squares, &partials)?;
            function(Function::SquareRoot, &norm, &square)?;
            mix(&first, BETAS[0] as f32, &gradient, (1.0 - BETAS[0]) as f32)?;
            mix(&second, BETAS[1] as f32, &squares, (1.0 - BETAS[1]) as f32)?;
            function(Function::SquareRoot, &a, &second)?;
            affine(&b, &a, (1.0 / corrected2.sqrt()) as f32, settings.eps)?;
            divide(&a, &first, &b)?;
            affine(&b, &a, (-RATE / corrected1) as f32, 0.0)?;
            accumulate(&values, &b)?;
        }
        if pass != Pass::UpdateAndAverage { mix(&average, DECAY, &values, 1.0 - DECAY) } else { Ok(()) }
    }))
}

/// A power iteration, the division by what it finds, and the correction of the gradient, of weights whose outputs are columns.
/// Apart, a matrix at a time.
pub fn spectral(
    device: &Device,
    name: &'static str,
    (parameters, matrices): (usize, Vec<Matrix>),
    [forward_fused, backward_fused]: [bool; 2],
) -> Result<Form> {
    let plan = Plan::new(device, parameters, &matrices)?;
    let (weights, u, dy) =
        (numbers(device, parameters, 1)?, numbers(device, plan.u_len(), 2)?, numbers(device, parameters, 3)?);
    let zeros = |len: usize| device.zeros::<f32>(len);
    let (v, sigma, workspace) = (zeros(plan.v_len())?, zeros(plan.sigma_len())?, zeros(plan.workspace_len())?);
    let (effective, gradient) = (zeros(parameters)?, zeros(parameters)?);
    let most = matrices.iter().map(|matrix| matrix.rows * matrix.columns).max().unwrap_or(0);
    let between = || zeros(if forward_fused { 0 } else { most });
    let (a, b, c) = (between()?, zeros(if backward_fused { 0 } else { most })?, between()?);
    let (partials, ones) = (zeros(workspace_len(device, most))?, zeros(2)?);
    let partials_of = move |len: usize, device: &Device| partials.view(0..workspace_len(device, len));
    Ok(Form::new(name, [effective.clone(), gradient.clone()], move || {
        let state = spectral_norm::State { u: &u, v: &v, sigma: &sigma, workspace: &workspace };
        let [one, other] = [ones.view(0..1), ones.view(1..2)];
        let dot = |to: &Reals, x: &Reals, y: &Reals| -> Result<()> {
            let products = c.view(0..x.len());
            multiply(&products, x, y)?;
            sum(to, &products, &partials_of(x.len(), x.device()))
        };
        let unit = |y: &Reals, x: &Reals| -> Result<()> {
            dot(&one, x, x)?;
            function(Function::SquareRoot, &other, &one)?;
            divide_by(y, x, &other)
        };
        let each = |work: &dyn Fn(&Matrix, [Reals; 3]) -> Result<()>| {
            matrices.iter().enumerate().try_for_each(|(i, matrix)| {
                let place = plan.sigma_of(i);
                work(matrix, [u.view(plan.u_of(i)), v.view(plan.v_of(i)), sigma.view(place..place + 1)])
            })
        };
        let part = |of: &Reals, matrix: &Matrix| of.view(matrix.offset..matrix.offset + matrix.rows * matrix.columns);
        if forward_fused {
            spectral_norm::forward(&plan, &effective, &weights, state, true)?;
        } else {
            each(&|matrix, [u, v, sigma]| {
                let (rows, columns, weight) = (matrix.rows, matrix.columns, part(&weights, matrix));
                let (across, along) = (a.view(0..rows), a.view(0..columns));
                times(&across, &weight, &u, [rows, columns, 1])?;
                unit(&v, &across)?;
                times(&along, &v, &weight, [1, rows, columns])?;
                unit(&u, &along)?;
                dot(&sigma, &u, &along)?;
                divide_by(&part(&effective, matrix), &weight, &sigma)
            })?;
        }
        // It is corrected in place.
        gradient.copy_from(&dy)?;
        if backward_fused {
            return spectral_norm::backward(&plan, &gradient, &effective, state);
        }
        each(&|matrix, [u, v, sigma]| {
            let (rows, columns, gradient) = (matrix.rows, matrix.columns, part(&gradient, matrix));
            let (outer, sum) = (a.view(0..gradient.len()), b.view(0..gradient.len()));
            dot(&one, &gradient, &part(&effective, matrix))?;
            affine(&other, &one, -1.0, 0.0)?;
            let scaled = c.view(0..rows);
            scale_rows(&scaled, &v, &other)?;
            times(&outer, &scaled, &u, [rows, 1, columns])?;
            add(&sum, &gradient, &outer)?;
            divide_by(&gradient, &sum, &sigma)
        })
    }))
}
