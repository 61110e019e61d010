//! How a training fares besides its losses: numbers that are read where the metrics wait for the device anyway.

use super::setup::Setup;
use super::step::Step;
use crate::Result;
use crate::device::Reals;
use crate::nn::{HeadParts, Parameter};
use crate::ops::state::State;
use crate::settings::{Architecture, Conditioning};

/// The names of what [`read`] gives of such a run.
pub fn columns(setup: &Setup) -> Vec<&'static str> {
    let networks = &setup.networks;
    let mut names = vec!["lr_d", "lr_g", "dead_logits"];
    names.extend(networks.spectral_norm.then_some("sigma_d"));
    names.extend(networks.spectral_norm_g.then_some("sigma_g"));
    if let Architecture::Residual(spec) = setup.architecture() {
        names.extend(["gamma_d", "gamma_g"].into_iter().filter(|_| spec.attention));
        if networks.conditioning == Conditioning::Projection {
            names.extend(["r_x_real", "r_x_fake", "r_yx_real", "r_yx_fake"]);
        }
    }
    names
}

/// What the samples of this rank add to the means, over the real images and over the fakes that D judged last, of psi(h) and of
/// what the label adds. Waits for the device.
pub(super) fn parts_of_logits(step: &Step) -> Result<[[f32; 2]; 2]> {
    let (w, n) = (&step.workspace, step.setup.training.batch);
    let of_d = &w.discriminator;
    let head = of_d.head_of_batch();
    match head.filter(|_| step.setup.networks.conditioning == Conditioning::Projection) {
        Some(head) => parts(head, step.discriminator.weights().values, [0..n, n..2 * n], step.share.of_d.all),
        // Where D takes parts of a batch whose labels are vectors, those of the others are gone.
        None => Ok([[f32::NAN; 2]; 2]),
    }
}

/// See [`super::Metrics::health`]. `parts` are the means of [`parts_of_logits`]. Waits for the device.
pub(super) fn read(step: &Step, state: &State, parts: [[f32; 2]; 2]) -> Result<Vec<(&'static str, f32)>> {
    let w = &step.workspace;
    let [g, d] = [&step.generator, &step.discriminator];
    let value = |name| -> Result<f32> {
        Ok(match name {
            "lr_g" => state.learning_rate[0],
            "lr_d" => state.learning_rate[1],
            "dead_logits" => {
                let seeds = w.of_d.of_all().seed_d.read()?;
                seeds.iter().filter(|seed| **seed == 0.0).count() as f32 / seeds.len() as f32
            }
            "sigma_g" => g.largest_sigma()?,
            "sigma_d" => d.largest_sigma()?,
            "gamma_g" => g.number("attention.gamma")?,
            "gamma_d" => d.number("attention.gamma")?,
            "r_x_real" => parts[0][0],
            "r_x_fake" => parts[1][0],
            "r_yx_real" => parts[0][1],
            "r_yx_fake" => parts[1][1],
            _ => f32::NAN,
        })
    };
    columns(&step.setup).into_iter().map(|name| Ok((name, value(name)?))).collect()
}

/// What some samples of each side, of so many, add to the means of both parts of the logits, with the flat parameters of D.
fn parts(head: &HeadParts, flat: &Reals, sides: [std::ops::Range<usize>; 2], all: usize) -> Result<[[f32; 2]; 2]> {
    let features = head.features.read()?;
    let read = |at: Option<Parameter>| at.map_or(Ok(Vec::new()), |at| at.of(flat).read());
    let (w, bias) = (read(Some(head.w))?, read(head.bias)?);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let side = |rows: std::ops::Range<usize>| -> Result<[f32; 2]> {
        let labels = head.labels.of(&rows).read()?;
        let v = head.v.as_ref().map_or(Ok(Vec::new()), |v| v.values(flat, &rows).read())?;
        let (count, c) = (all as f64, w.len());
        let bias = bias.first().map_or(0.0, |bias| f64::from(*bias));
        let (mut psi, mut label) = (bias * rows.len() as f64 / count, 0.0);
        for (row, y) in rows.zip(labels) {
            let (h, y) = (&features[row * c..(row + 1) * c], y as usize);
            psi += dot(h, &w) / count;
            label += v.get(y * c..(y + 1) * c).map_or(0.0, |v| dot(h, v)) / count;
        }
        Ok([psi as f32, label as f32])
    };
    let [real, fake] = sides;
    Ok([side(real)?, side(fake)?])
}
