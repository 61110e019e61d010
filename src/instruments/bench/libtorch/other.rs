//! Class logits, penalties, resizing, bytes, and Inception.

use std::collections::BTreeMap;

use tch::{Kind, Reduction, Tensor};

use super::memory::upsample;
use super::native::gradients;
use super::products::average_pool;
use super::{NHWC, PLAIN, Torch, filters, leaf, read};
use crate::Result;
use crate::data::ImageShape;
use crate::device::Device;
use crate::eval::inception;
use crate::eval::network::{Op, Work};
use crate::instruments::bench::{Form, values};
use crate::ops::features::{Pool, Pooling};

pub fn class_loss(device: &Device, [n, classes]: [usize; 2]) -> Result<Form> {
    let torch = Torch::new(device)?;
    let x = [leaf(torch.numbers(&[n, classes], 1))];
    let labels = torch.labels((0..n as u32).map(|i| i % classes as u32));
    Ok(torch.form(vec![read(0, PLAIN), read(1, PLAIN)], move || {
        let loss = x[0].cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0);
        let mut results = gradients(&loss, None, &x, false)?;
        results.insert(0, loss);
        Ok(results)
    }))
}

/// The points between images, the penalty with the weight 10, and by autograd its direction.
pub fn penalty(device: &Device, [n, f]: [usize; 2]) -> Result<Form> {
    let torch = Torch::new(device)?;
    let [real, fake] = [1, 2].map(|seed| torch.numbers(&[n, f], seed));
    let g = [leaf(torch.numbers(&[n, f], 3))];
    let share: Vec<f32> = values(n, 4).iter().map(|x| x.abs()).collect();
    let share = torch.tensor(&share, &[n, 1]);
    Ok(torch.form(vec![read(0, PLAIN), read(1, PLAIN), read(2, PLAIN)], move || {
        let mixed = fake.lerp_tensor(&real, &share);
        let norms = g[0].norm_scalaropt_dim(2, 1, false);
        let penalty = (&norms - 1.0).square().mean(Kind::Float) * 10.0;
        let v = gradients(&penalty, None, &g, false)?.swap_remove(0);
        Ok(vec![mixed, v, Tensor::stack(&[penalty, norms.mean(Kind::Float)], 0)])
    }))
}

pub fn pooling(device: &Device, [n, h, w, c]: [usize; 4]) -> Result<Form> {
    resampling(device, [n, h, w, c], [n, h / 2, w / 2, c], average_pool)
}

pub fn upsampling(device: &Device, [n, h, w, c]: [usize; 4]) -> Result<Form> {
    resampling(device, [n, h, w, c], [n, 2 * h, 2 * w, c], upsample)
}

fn resampling(device: &Device, from: [usize; 4], to: [usize; 4], resample: fn(&Tensor) -> Tensor) -> Result<Form> {
    let torch = Torch::new(device)?;
    let (x, dy) = ([leaf(torch.image(from, 1))], torch.image(to, 2));
    Ok(torch.form(vec![read(0, NHWC), read(1, NHWC)], move || {
        let y = resample(&x[0]);
        let mut results = gradients(&y, Some(&dy), &x, false)?;
        results.insert(0, y);
        Ok(results)
    }))
}

pub fn load(device: &Device, bytes: &[u8]) -> Result<Form> {
    let torch = Torch::new(device)?;
    let bytes = Tensor::from_slice(bytes).to_device(torch.device);
    Ok(torch.form(vec![read(0, PLAIN)], move || Ok(vec![bytes.to_kind(Kind::Float) / 127.5 - 1.0])))
}

/// Inception with the same weights, from bytes to features. Its norms are in its filters, as they are in ours.
pub fn inception(device: &Device, bytes: &[u8], shape: ImageShape) -> Result<Form> {
    let torch = Torch::new(device)?;
    let (description, features, _) = inception::describe(2048);
    let ImageShape { height, width, channels } = shape;
    let sizes = [(bytes.len() / shape.len()) as i64, height as i64, width as i64, channels as i64];
    let bytes = Tensor::from_slice(bytes).view(sizes).to_device(torch.device).permute([0, 3, 1, 2]);
    let mut weights = Vec::new();
    for product in description.products() {
        let (all, bias) = inception::untrained_weights(product)?;
        weights.push((filters(&torch.tensor(&all, &product.filter)), torch.tensor(&bias, &[bias.len()])));
    }
    Ok(torch.form(vec![read(0, PLAIN)], move || {
        let side = description.shape(0)[0] as i64;
        let x = bytes.to_kind(Kind::Float).upsample_bilinear2d([side, side], false, None, None) * (2.0 / 255.0) - 1.0;
        let (mut tensors, mut weights) = (BTreeMap::from([(0, x)]), weights.iter());
        // Of each tensor that is joined, by the first channel.
        let mut parts: BTreeMap<usize, BTreeMap<usize, Tensor>> = BTreeMap::new();
        for Op { work, from, to } in description.ops() {
            let x = &tensors[from];
            let y = match work {
                Work::Pool(Pool::COPY, _) => x.shallow_clone(),
                Work::Pool(Pool { how, size, stride, pad }, _) => {
                    let [size, stride, pad] = [*size, *stride, *pad].map(|n| [n as i64; 2]);
                    match how {
                        Pooling::Maximum => x.max_pool2d(size, stride, pad, [1, 1], false),
                        how => x.avg_pool2d(size, stride, pad, false, *how == Pooling::MeanWithPadding, None),
                    }
                }
                Work::Product(product) => {
                    let Some((filters, bias)) = weights.next() else { break };
                    let (stride, pad) = ([product.stride as i64; 2], product.pad.map(|n| n as i64));
                    let mut y = x.conv2d(filters, Some(bias), stride, pad, [1, 1], 1);
                    if product.relu { y.relu_() } else { y }
                }
            };
            // What is joined has more channels than each of its parts.
            let channels = |tensor: &Tensor| tensor.size()[1] as usize;
            let wanted = description.shape(*to)[2];
            let first = if let Work::Pool(_, first) = work { *first } else { 0 };
            let parts = parts.entry(*to).or_default();
            parts.insert(first, y);
            if parts.values().map(channels).sum::<usize>() == wanted {
                let parts: Vec<&Tensor> = parts.values().collect();
                let whole = if let [one] = parts[..] { one.shallow_clone() } else { Tensor::cat(&parts, 1) };
                tensors.insert(*to, whole);
            }
        }
        Ok(vec![tensors.remove(&features).unwrap_or_default()])
    }))
}
