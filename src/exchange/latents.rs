//! Latents and drawn values in files: safetensors with `latents` (N, latent), `labels` (N) and `images` (N, C, H, W), or
//! NumPy's, of one array each, the labels in `NAME.labels.npy` beside `NAME.npy`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::file::{self, Whole};
use super::npy;
use crate::checkpoint::NamedTensor;
use crate::data::ImageShape;
use crate::sizes::reserved;
use crate::{Error, Result};

/// What is drawn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// (N, latent)
    pub z: Vec<f32>,
    pub count: usize,
    /// (N)
    pub labels: Option<Vec<u32>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Safetensors,
    Npy,
}

fn format(option: &str, path: &Path) -> Result<Format> {
    match path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).as_deref() {
        Some("safetensors") => Ok(Format::Safetensors),
        Some("npy") => Ok(Format::Npy),
        _ => Err(Error::Config(format!(
            "{option}: {}, expected a name that ends in .safetensors or .npy",
            path.display()
        ))),
    }
}

/// Whether a file of this name has values and no picture.
pub fn is_values(path: &Path) -> bool {
    format("out", path).is_ok()
}

/// An error unless latents can be in a file of this name.
pub fn check(option: &str, path: &Path) -> Result<()> {
    format(option, path).map(|_| ())
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("labels.npy")
}

/// Writes latents (N, `latent`) and, where there are any, labels (N).
pub fn write(path: &Path, z: &[f32], latent: usize, labels: &[u32]) -> Result<()> {
    let shape = vec![z.len() / latent, latent];
    let whole: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
    match format("save-latents", path)? {
        Format::Safetensors => {
            let tensors = [NamedTensor { name: "latents".into(), shape, values: z.to_vec() }];
            let labels = Whole { name: "labels".into(), shape: vec![whole.len()], values: whole };
            let labels = if labels.values.is_empty() { Vec::new() } else { vec![labels] };
            file::write(path, &BTreeMap::new(), &tensors, &labels)
        }
        Format::Npy => {
            npy::write_f32(path, &shape, z)?;
            if whole.is_empty() { Ok(()) } else { npy::write_i64(&beside(path), &[whole.len()], &whole) }
        }
    }
}

/// Writes drawn values (N, H, W, C) as `images` (N, C, H, W), or points as they are, (N, 2).
pub fn write_images(path: &Path, values: Vec<f32>, shape: ImageShape) -> Result<()> {
    let ImageShape { height, width, channels } = shape;
    let count = values.len() / shape.len().max(1);
    let sides = if height * width == 1 { vec![count, channels] } else { vec![count, channels, height, width] };
    let mut planes = reserved("drawn images", values.len())?;
    for image in values.chunks(shape.len().max(1)) {
        (0..channels).for_each(|c| planes.extend(image.iter().skip(c).step_by(channels)));
    }
    match format("out", path)? {
        Format::Safetensors => file::write(
            path,
            &BTreeMap::new(),
            &[NamedTensor { name: "images".into(), shape: sides, values: planes }],
            &[],
        ),
        Format::Npy => npy::write_f32(path, &sides, &planes),
    }
}

/// Reads latents of so many numbers each and, where there are any, labels below `classes`.
pub fn read(path: &Path, latent: usize, classes: usize) -> Result<Given> {
    let fail = |what: String| Error::Data { path: path.to_path_buf(), what };
    let (z, labels) = match format("latents", path)? {
        Format::Safetensors => {
            let z = file::numbers(path, "latents")?;
            let z = z.ok_or_else(|| fail("it has no tensor latents".into()))?;
            (z, file::numbers(path, "labels")?)
        }
        Format::Npy => {
            let labels = beside(path);
            let read = |path: &Path| npy::read(path).map(|array| (array.shape, array.values));
            (read(path)?, if labels.is_file() { Some(read(&labels)?) } else { None })
        }
    };
    let (shape, z) = z;
    let [count, _] = shape[..] else { return Err(fail(format!("latents is {shape:?}, expected [N, {latent}]"))) };
    if shape[1] != latent || count == 0 {
        return Err(fail(format!("latents is {shape:?}, expected [N, {latent}] with N of 1 or more")));
    }
    if let Some(at) = z.iter().position(|x| !(*x as f32).is_finite()) {
        return Err(fail(format!("latents: number {} of row {} is {}", at % latent, at / latent, z[at])));
    }
    let labels = labels.map(|(shape, labels)| {
        if shape != [count] {
            return Err(fail(format!("labels is {shape:?}, expected [{count}], as many as there are latents")));
        }
        let label = |(row, x): (usize, &f64)| match *x {
            x if x.fract() == 0.0 && x >= 0.0 && x < classes as f64 => Ok(x as u32),
            x => Err(fail(format!("labels: {x} in row {row}, there are {classes} classes"))),
        };
        labels.iter().enumerate().map(label).collect::<Result<Vec<u32>>>()
    });
    Ok(Given { z: z.iter().map(|x| *x as f32).collect(), count, labels: labels.transpose()? })
}
