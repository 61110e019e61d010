//! Conditional batch norm, Adam, spectral normalisation.

use std::cell::RefCell;

use tch::{Kind, Tensor};

use super::native::{Adam, gradients, lerp};
use super::{NHWC, PLAIN, Read, Torch, floats, leaf, read};
use crate::Result;
use crate::device::Device;
use crate::instruments::bench::Form;
use crate::ops::spectral_norm::{Matrix, Outputs};

/// A batch norm without scale and shift of its own, then those of each sample's class. `running` is the mean and the
/// variance.
pub fn normalise(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    labels: &Tensor,
    running: Option<[&Tensor; 2]>,
    eps: f64,
) -> Tensor {
    let [mean, variance] = running.map_or([None, None], |both| both.map(Some));
    let xhat = x.batch_norm(None, None, mean, variance, true, 0.1, eps, true);
    let pick = |table| Tensor::embedding(table, labels, -1, false, false).unsqueeze(-1).unsqueeze(-1);
    pick(beta).addcmul(&xhat, &pick(gamma))
}

/// Nearest upsampling by 2.
pub fn upsample(x: &Tensor) -> Tensor {
    let size = x.size();
    x.upsample_nearest2d([2 * size[2], 2 * size[3]], None, None)
}

pub fn conditional_norm(device: &Device, [n, h, w, c]: [usize; 4], classes: usize) -> Result<Form> {
    let torch = Torch::new(device)?;
    let inputs = [
        leaf(torch.image([n, h, w, c], 1)),
        leaf(torch.numbers(&[classes, c], 3)),
        leaf(torch.numbers(&[classes, c], 4)),
    ];
    let dy = torch.image([n, 2 * h, 2 * w, c], 2);
    let labels = torch.labels((0..n as u32).map(|i| i % classes as u32));
    let reads = vec![read(0, NHWC), read(1, NHWC), read(2, PLAIN), read(3, PLAIN)];
    Ok(torch.form(reads, move || {
        let y = upsample(&normalise(&inputs[0], &inputs[1], &inputs[2], &labels, None, 1e-5).relu_());
        let mut results = gradients(&y, Some(&dy), &inputs, false)?;
        results.insert(0, y);
        Ok(results)
    }))
}

/// Only our form also computes the norm of the gradient.
pub fn adam_with_average(device: &Device, parameters: usize) -> Result<Form> {
    let torch = Torch::new(device)?;
    let [values, gradient] = [1, 2].map(|seed| [torch.numbers(&[parameters], seed)]);
    let adam = Adam::new(&values, 1e-3, [0.5, 0.999]);
    let average = [values[0].zeros_like()];
    let reads = (0..3).map(|i| read(i, PLAIN)).collect();
    Ok(torch.form(reads, move || {
        adam.step(&values, &gradient)?;
        lerp(&average, &values, 1.0 - 0.995)?;
        Ok([&adam.first[0], &adam.second[0], &average[0]].map(Tensor::shallow_clone).into())
    }))
}

/// The normalisation of a weight as in `torch.nn.utils.parametrizations.spectral_norm`, but v is computed before u.
pub struct Spectral {
    u: RefCell<Tensor>,
    v: RefCell<Tensor>,
}

impl Spectral {
    pub fn new(u: Tensor, v: Tensor) -> Spectral {
        Spectral { u: RefCell::new(u), v: RefCell::new(v) }
    }

    /// The weight divided by its largest singular value; `iterate` improves the estimate of that first. Filters are taken as
    /// matrices (K, R S C), which needs no copy as their channels are last in memory.
    pub fn divide(&self, weight: &Tensor, iterate: bool) -> Tensor {
        let matrix = match weight.dim() {
            4 => weight.permute([0, 2, 3, 1]).flatten(1, 3),
            _ => weight.shallow_clone(),
        };
        if iterate {
            tch::no_grad(|| {
                let unit = |x: Tensor| &x / x.norm().clamp_min(1e-12);
                let v = unit(matrix.tr().mv(&self.u.borrow()));
                *self.u.borrow_mut() = unit(matrix.mv(&v));
                *self.v.borrow_mut() = v;
            });
        }
        let sigma = self.u.borrow().dot(&matrix.mv(&self.v.borrow()));
        weight / sigma
    }
}

/// Normalised weights and, by autograd, the gradients of the weights.
pub fn spectral(device: &Device, parameters: usize, matrices: &[Matrix]) -> Result<Form> {
    let torch = Torch::new(device)?;
    let cut = |values: Vec<f32>| -> Vec<Tensor> {
        let each = matrices.iter().map(|m| {
            let stored = torch.tensor(&values[m.offset..m.offset + m.rows * m.columns], &[m.rows, m.columns]);
            if m.outputs == Outputs::Columns { stored.tr().contiguous() } else { stored }
        });
        each.collect()
    };
    let weights: Vec<Tensor> = cut(crate::instruments::bench::values(parameters, 1)).into_iter().map(leaf).collect();
    let seeds = cut(crate::instruments::bench::values(parameters, 3));
    let outputs: i64 = weights.iter().map(|weight| weight.size()[0]).sum();
    let u = torch.numbers(&[outputs as usize], 2);
    let mut from = 0;
    let norms: Vec<Spectral> = weights
        .iter()
        .map(|weight| {
            let (out, into) = weight.size2().unwrap_or_default();
            from += out;
            Spectral::new(u.narrow(0, from - out, out), Tensor::zeros(into, (Kind::Float, torch.device)))
        })
        .collect();
    let count = weights.len();
    let stored: Vec<Outputs> = matrices.iter().map(|m| m.outputs).collect();
    let effective: Read = Box::new(move |results| {
        let each = results[..count].iter().zip(&stored).map(|(result, outputs)| match outputs {
            Outputs::Columns => floats(&result.tr()),
            Outputs::Rows => floats(result),
        });
        each.flatten().collect()
    });
    Ok(torch.form(vec![effective], move || {
        let mut results = Vec::new();
        for (weight, norm) in weights.iter().zip(&norms) {
            results.push(norm.divide(weight, true));
        }
        for i in 0..count {
            let found = gradients(&results[i], Some(&seeds[i]), &weights[i..i + 1], false)?;
            results.extend(found);
        }
        Ok(results)
    }))
}
