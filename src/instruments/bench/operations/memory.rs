//! Operations whose time is that of the memory: conditional batch norm, DiffAug, Adam, spectral normalisation.

use super::shapes::Normalised;
use super::{Shapes, labels};
use crate::Result;
use crate::device::{Buffer, Device};
use crate::instruments::bench::{Form, Problem, numbers};
use crate::ops::Activation;
use crate::ops::adam::{self, Adam, Average, Buffers};
use crate::ops::diffaug::{self, Draw, Strengths};
use crate::ops::norm::{self, Affine, Batch, Gradients, Shape, Tables};
use crate::ops::projection;
use crate::ops::resample::{self, Image, Upsampling};
use crate::ops::spectral_norm::{self, Plan};
use crate::ops::state::{self, State, StateBuffer};

const CLASSES: usize = 10;

pub fn problems(shapes: &Shapes) -> Vec<Problem> {
    let mut problems: Vec<Problem> = shapes.norms.iter().map(|&sizes| conditional_norm(sizes)).collect();
    problems.extend(shapes.images.iter().map(|&sizes| changes(sizes)));
    problems.extend(shapes.parameters.iter().map(|&parameters| adam_with_average(parameters)));
    problems.extend(shapes.spectral.iter().cloned().map(spectral));
    problems
}

/// What a kernel of the norm does besides normalising.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::instruments) enum NormFusion {
    Nothing,
    Relu,
    ReluAndUpsampling,
}

/// Batch statistics, the scale and shift of each sample's class, ReLU and nearest upsampling by 2; and all gradients.
pub(in crate::instruments) fn norm_problem(
    [n, h, w, c]: [usize; 4],
    make: impl Fn(&Device) -> Result<Vec<Form>> + 'static,
) -> Problem {
    Problem::new("norm", format!("conditional, ReLU, x2: {n} of {h}x{w}, C {c}"), 1e-4, make)
}

fn conditional_norm(sizes: [usize; 4]) -> Problem {
    norm_problem(sizes, move |device| {
        let form = |name, fusion| norm_form(device, sizes, name, fusion);
        let [fused, unfused] = [form("fused", NormFusion::ReluAndUpsampling)?, form("unfused", NormFusion::Nothing)?];
        forms!(fused, unfused; conditional_norm(device, sizes, CLASSES))
    })
}

/// What D sees of images, and the gradient of the images from that of what it saw.
fn changes([n, h, w, c]: [usize; 4]) -> Problem {
    Problem::new("diffaug", format!("color,translation,cutout: {n} of {h}x{w}, C {c}"), 1e-5, move |device| {
        let len = n * h * w * c;
        let (x, dy) = (numbers(device, len, 1)?, numbers(device, len, 2)?);
        let (y, dx) = (device.zeros(len)?, device.zeros(len)?);
        let state = StateBuffer::new(device, &State::new(1, [1e-3; 2], 0, 0))?;
        Ok(vec![Form::new("fused", [&y, &dx].map(Buffer::clone), move || {
            let (strengths, shape) = (Strengths { colour: 1.0, translation: 1.0, cutout: 1.0 }, [n, h, w, c]);
            let draw = Draw { state: &state, stream: 0, first: 0 };
            diffaug::forward(&y, &x, strengths, draw, shape)?;
            diffaug::backward(&dx, &dy, strengths, draw, shape)
        })])
    })
}

/// A form of [`norm_problem`].
pub(in crate::instruments) fn norm_form(
    device: &Device,
    [n, h, w, c]: [usize; 4],
    name: &'static str,
    fusion: NormFusion,
) -> Result<Form> {
    let shape = Shape { n, h, w, c, upsample: fusion == NormFusion::ReluAndUpsampling };
    let (small, large) = (n * h * w * c, 4 * n * h * w * c);
    let (x, dy) = (numbers(device, small, 1)?, numbers(device, large, 2)?);
    let (gamma, beta) = (numbers(device, CLASSES * c, 3)?, numbers(device, CLASSES * c, 4)?);
    let labels = labels(device, n, CLASSES as u32)?;
    let zeros = |len: usize| device.zeros::<f32>(len);
    let (mean, rstd, scale, shift) = (zeros(c)?, zeros(c)?, zeros(n * c)?, zeros(n * c)?);
    let (y, dx, dgamma, dbeta) = (zeros(large)?, zeros(small)?, zeros(CLASSES * c)?, zeros(CLASSES * c)?);
    let workspace = zeros(norm::workspace_len(device, shape, true))?;
    // The separate kernels write what is normalised, what the ReLU makes of it, and the gradients of both.
    let [z, a, da, dz] = [zeros(small)?, zeros(small)?, zeros(small)?, zeros(small)?];
    let (ones, none) = (device.upload(&vec![1.0f32; c])?, zeros(c)?);
    Ok(Form::new(name, [&y, &dx, &dgamma, &dbeta].map(Buffer::clone), move || {
        let tables = Tables { scale: &scale, shift: &shift };
        let batch = Batch { x: &x, mean: &mean, rstd: &rstd, tables, whole: None };
        let affine = Affine { gamma: &gamma, beta: &beta, labels: Some(&labels) };
        let gradients = Gradients { dx: &dx, accumulate: false, dgamma: &dgamma, dbeta: &dbeta };
        // The gradients of the parameters are added to what is there.
        dgamma.zero()?;
        dbeta.zero()?;
        norm::statistics(batch, None, affine, 1e-5, shape, &workspace)?;
        let image = Image { n, h, w, c };
        if fusion == NormFusion::ReluAndUpsampling {
            norm::apply(&y, &x, tables, Activation::RELU, shape)?;
            return norm::backward(gradients, &dy, batch, affine, Activation::RELU, shape, &workspace);
        }
        if fusion == NormFusion::Relu {
            norm::apply(&a, &x, tables, Activation::RELU, shape)?;
            resample::upsample(&y, &a, image, Upsampling::Nearest)?;
            resample::upsample_backward(&da, &dy, image, Upsampling::Nearest, false)?;
            return norm::backward(gradients, &da, batch, affine, Activation::RELU, shape, &workspace);
        }
        norm::apply(&z, &x, tables, Activation::Identity, shape)?;
        norm::apply(&a, &z, Tables { scale: &ones, shift: &none }, Activation::RELU, shape)?;
        resample::upsample(&y, &a, image, Upsampling::Nearest)?;
        resample::upsample_backward(&da, &dy, image, Upsampling::Nearest, false)?;
        // For samples of one pixel, the backward pass of the pooling is that of a ReLU.
        projection::pool_backward(&dz, &z, &da, n * h * w, 1.0)?;
        norm::backward(gradients, &dz, batch, affine, Activation::Identity, shape, &workspace)
    }))
}

/// An update with the moving average and the norm of the gradient.
fn adam_with_average(parameters: usize) -> Problem {
    Problem::new("adam", format!("with average, {parameters} parameters"), 1e-5, move |device| {
        let [values, gradient] = [numbers(device, parameters, 1)?, numbers(device, parameters, 2)?];
        let zeros = |len: usize| device.zeros::<f32>(len);
        let (first, second, average, norm) = (zeros(parameters)?, zeros(parameters)?, zeros(parameters)?, zeros(1)?);
        let workspace = zeros(adam::workspace_len(device, parameters))?;
        let state = StateBuffer::new(device, &State::new(1, [1e-3; 2], 0, 0))?;
        let settings = Adam { beta1: 0.5, beta2: 0.999, eps: 1e-8 };
        // A comparison sets the outputs to 0 first, which is also what these start from in a training.
        let fused = Form::new("fused", [&first, &second, &average].map(Buffer::clone), move || {
            let buffers =
                Buffers { parameters: &values, first_moment: &first, second_moment: &second, gradient: &gradient };
            let average = Average { values: &average, decay: 0.995, start: 0 };
            let generator = state::Network::Generator;
            adam::update(&buffers, Some(&average), &norm, &state, generator, &settings, &workspace)
        });
        forms!(fused; adam_with_average(device, parameters))
    })
}

/// A power iteration, the division by what it finds, and the correction of the gradient.
fn spectral(Normalised { name, parameters, matrices }: Normalised) -> Problem {
    let sizes = format!("{name}, {parameters} parameters");
    Problem::new("spectral_norm", sizes, 1e-4, move |device| {
        let plan = Plan::new(device, parameters, &matrices)?;
        let weights = numbers(device, parameters, 1)?;
        let u = numbers(device, plan.u_len(), 2)?;
        let zeros = |len: usize| device.zeros::<f32>(len);
        let (v, sigma, workspace) = (zeros(plan.v_len())?, zeros(plan.sigma_len())?, zeros(plan.workspace_len())?);
        let (effective, gradient) = (zeros(parameters)?, numbers(device, parameters, 3)?);
        let fused = Form::new("fused", [effective.clone()], move || {
            let state = spectral_norm::State { u: &u, v: &v, sigma: &sigma, workspace: &workspace };
            spectral_norm::forward(&plan, &effective, &weights, state, true)?;
            spectral_norm::backward(&plan, &gradient, &effective, state)
        });
        forms!(fused; spectral(device, parameters, &matrices))
    })
}
