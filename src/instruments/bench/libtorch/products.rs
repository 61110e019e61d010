//! Matrix products, convolutions, attention.

use tch::{Kind, Tensor};

use super::memory::upsample;
use super::native::{convolution_gradient, gradients, leaky_relu};
use super::{NHWC, PLAIN, RSCK, TURNED, Torch, leaf, read};
use crate::Result;
use crate::device::Device;
use crate::instruments::bench::Form;
use crate::instruments::bench::operations::products::Pass;
use crate::ops::attention::Shape;
use crate::ops::conv::Conv;
use crate::ops::matmul::Linear;

/// A pass of a layer with a bias and a leaky ReLU.
pub fn linear(device: &Device, Linear { n, c, k }: Linear, pass: Pass) -> Result<Form> {
    let torch = Torch::new(device)?;
    let (x, weight, bias) =
        (torch.numbers(&[n, c], 1), torch.numbers(&[c, k], 2).tr().contiguous(), torch.numbers(&[k], 3));
    let (y, dy) = (torch.numbers(&[n, k], 4), torch.numbers(&[n, k], 5));
    let order = if matches!(pass, Pass::WeightGradient) { TURNED } else { PLAIN };
    Ok(torch.form(vec![read(0, order)], move || {
        let through = || y.leaky_relu_backward(&dy, 0.2, true);
        Ok(vec![match pass {
            Pass::Forward => leaky_relu(x.linear(&weight, Some(&bias)), 0.2)?,
            Pass::InputGradient => through().mm(&weight),
            Pass::WeightGradient => through().tr().mm(&x),
        }])
    }))
}

fn conv3x3(x: &Tensor, filters: &Tensor, bias: Option<&Tensor>) -> Tensor {
    x.conv2d(filters, bias, 1, 1, 1, 1)
}

pub fn convolution(device: &Device, Conv { n, h, w, c, k, .. }: Conv, pass: Pass) -> Result<Form> {
    let torch = Torch::new(device)?;
    let (x, dy) = (torch.image([n, h, w, c], 1), torch.image([n, h, w, k], 2));
    let filters = torch.filters([3, 3, c, k], 3);
    let order = if matches!(pass, Pass::WeightGradient) { RSCK } else { NHWC };
    Ok(torch.form(vec![read(0, order)], move || {
        Ok(vec![match pass {
            Pass::Forward => conv3x3(&x, &filters, None),
            Pass::InputGradient => convolution_gradient(&dy, &x, &filters, false)?,
            Pass::WeightGradient => convolution_gradient(&dy, &x, &filters, true)?,
        }])
    }))
}

/// Scale and shift of each sample, ReLU, nearest upsampling by 2, 3x3, bias.
pub fn generator_convolution(device: &Device, [n, side, c, k]: [usize; 4]) -> Result<Form> {
    let torch = Torch::new(device)?;
    let (x, filters, bias) =
        (torch.image([n, side, side, c], 1), torch.filters([3, 3, c, k], 2), torch.numbers(&[k], 3));
    let (scale, shift) = (torch.image([n, 1, 1, c], 4), torch.image([n, 1, 1, c], 5));
    Ok(torch.form(vec![read(0, NHWC)], move || {
        Ok(vec![conv3x3(&upsample(&shift.addcmul(&x, &scale).relu_()), &filters, Some(&bias))])
    }))
}

/// ReLU, 3x3, bias, 2x2 average pool, residual.
pub fn discriminator_convolution(device: &Device, [n, side, c, k]: [usize; 4]) -> Result<Form> {
    let torch = Torch::new(device)?;
    let (x, filters, bias) =
        (torch.image([n, side, side, c], 1), torch.filters([3, 3, c, k], 2), torch.numbers(&[k], 3));
    let residual = torch.image([n, side / 2, side / 2, k], 4);
    Ok(torch.form(vec![read(0, NHWC)], move || {
        Ok(vec![average_pool(&conv3x3(&x.relu(), &filters, Some(&bias))) + &residual])
    }))
}

/// Average pooling of 2x2 pixels.
pub fn average_pool(x: &Tensor) -> Tensor {
    x.avg_pool2d(2, 2, 0, false, true, None)
}

/// Self-attention, forward and, by autograd, backward. `scaled_dot_product_attention` is no help, as it has no fused form
/// for keys and values of different widths.
pub fn attention(device: &Device, Shape { n, l, lk, dk, dv }: Shape) -> Result<Form> {
    let torch = Torch::new(device)?;
    let inputs = [
        leaf(torch.numbers(&[n, l, dk], 1)),
        leaf(torch.numbers(&[n, lk, dk], 2)),
        leaf(torch.numbers(&[n, lk, dv], 3)),
    ];
    let d_o = torch.numbers(&[n, l, dv], 4);
    Ok(torch.form((0..4).map(|i| read(i, PLAIN)).collect(), move || {
        let [q, k, v] = &inputs;
        let o = q.bmm(&k.transpose(1, 2)).softmax(-1, Kind::Float).bmm(v);
        let mut results = gradients(&o, Some(&d_o), &inputs, false)?;
        results.insert(0, o);
        Ok(results)
    }))
}
