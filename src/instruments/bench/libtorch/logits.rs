//! Losses and heads.

use tch::{Kind, Tensor};

use super::native::gradients;
use super::{NHWC, PLAIN, Read, Torch, leaf, read, scalar};
use crate::device::Device;
use crate::instruments::bench::Form;
use crate::settings::Loss;
use crate::{Error, Result};

pub fn log_partition(device: &Device, each: usize) -> Result<Form> {
    loss(device, each, Loss::Softmax, true)
}

pub fn hinge(device: &Device, each: usize) -> Result<Form> {
    loss(device, each, Loss::Hinge, false)
}

/// L_D and L_G, from `n` real logits with the fake ones behind them.
pub fn losses(loss: Loss, logits: &Tensor, n: i64, real_is_low: bool) -> Result<[Tensor; 2]> {
    let (real, fake) = (logits.narrow(0, 0, n), logits.narrow(0, n, logits.size()[0] - n));
    Ok(match loss {
        Loss::Softmax if real_is_low => {
            let log_z = logits.neg().logsumexp(0, false);
            [real.mean(Kind::Float) + &log_z, logits.mean(Kind::Float) + log_z]
        }
        Loss::Softmax => {
            let log_z = logits.logsumexp(0, false);
            [&log_z - real.mean(Kind::Float), log_z - logits.mean(Kind::Float)]
        }
        Loss::Hinge => {
            let of_d = (1f64 - real).relu_().mean(Kind::Float) + (&fake + 1.0).relu_().mean(Kind::Float);
            [of_d, -fake.mean(Kind::Float)]
        }
        other => {
            return Err(Error::Config(format!("{other:?} is not written in libtorch here: Softmax and Hinge are")));
        }
    })
}

/// Both values, and their gradients by autograd from the logits of one pass of D.
fn loss(device: &Device, each: usize, loss: Loss, real_is_low: bool) -> Result<Form> {
    let torch = Torch::new(device)?;
    let logits = leaf(Tensor::cat(&[torch.numbers(&[each], 1), torch.numbers(&[each], 2)], 0));
    let n = each as i64;
    // L_D and L_G, and the means of the logits, which our kernel gives as well.
    let statistics: Read = Box::new(move |results| {
        let mean = |start| scalar(&results[4].narrow(0, start, n).mean(Kind::Float));
        vec![scalar(&results[0]), scalar(&results[1]), mean(0), mean(n)]
    });
    let of_fakes: Read = Box::new(move |results| super::floats(&results[3].narrow(0, n, n)));
    Ok(torch.form(vec![statistics, read(2, PLAIN), of_fakes], move || {
        let [of_d, of_g] = losses(loss, &logits, n, real_is_low)?;
        let inputs = std::slice::from_ref(&logits);
        let mut seeds = gradients(&of_d, None, inputs, true)?;
        seeds.extend(gradients(&of_g, None, inputs, false)?);
        let mut results = vec![of_d, of_g];
        results.extend(seeds);
        results.push(logits.detach());
        Ok(results)
    }))
}

/// The logits and the pooled features, from features in the order NCHW.
pub fn projection(x: &Tensor, w: &Tensor, v: &Tensor, labels: &Tensor, factor: f64) -> (Tensor, Tensor) {
    let sum = x.relu().sum_dim_intlist([2i64, 3].as_slice(), false, Kind::Float);
    let h = if factor == 1.0 { sum } else { sum * factor };
    let of_label = (Tensor::embedding(v, labels, -1, false, false) * &h).sum_dim_intlist(1, false, Kind::Float);
    (h.linear(w, None::<Tensor>).squeeze_dim(1) + of_label, h)
}

pub fn head(device: &Device, [n, p, c, classes]: [usize; 4]) -> Result<Form> {
    let torch = Torch::new(device)?;
    let inputs =
        [leaf(torch.image([n, p, 1, c], 1)), leaf(torch.numbers(&[1, c], 3)), leaf(torch.numbers(&[classes, c], 4))];
    let df = torch.numbers(&[n], 2);
    let labels = torch.labels((0..n as u32).map(|i| i % classes as u32));
    let reads = vec![read(0, PLAIN), read(1, PLAIN), read(2, NHWC), read(3, PLAIN), read(4, PLAIN)];
    Ok(torch.form(reads, move || {
        let (f, h) = projection(&inputs[0], &inputs[1], &inputs[2], &labels, 1.0);
        let found = gradients(&f, Some(&df), &inputs, false)?;
        let mut results = vec![f, h];
        results.extend(found);
        Ok(results)
    }))
}
