//! Data sets: what `--data` names, in memory as bytes, and the loader that hands them to the training step.

pub mod idx;
mod loader;
mod mnist_10k;

pub use loader::{LastBatch, Loader};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The size of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageShape {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl ImageShape {
    /// Bytes of an image, H * W * C.
    pub fn len(self) -> usize {
        self.height * self.width * self.channels
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for ImageShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

/// The images to learn from, or the held-out ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Test,
}

/// What `--data` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DataSource {
    /// The digits inside this program.
    Mnist10k,
    /// Eight Gaussians on a circle.
    Ring,
    /// A folder in MNIST's IDX format.
    Idx(PathBuf),
}

impl std::str::FromStr for DataSource {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            None if text == "mnist-10k" => Ok(DataSource::Mnist10k),
            None if text == "ring" => Ok(DataSource::Ring),
            Some(("idx", folder)) if !folder.is_empty() => Ok(DataSource::Idx(folder.into())),
            _ => Err(format!("no data are called {text:?}; there are mnist-10k and idx:DIR")),
        }
    }
}

impl TryFrom<String> for DataSource {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl std::fmt::Display for DataSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DataSource::Mnist10k => f.write_str("mnist-10k"),
            DataSource::Ring => f.write_str("ring"),
            DataSource::Idx(folder) => write!(f, "idx:{}", folder.display()),
        }
    }
}

impl From<DataSource> for String {
    fn from(source: DataSource) -> String {
        source.to_string()
    }
}

impl DataSource {
    /// The same source from wherever the program is started next.
    pub fn absolute(self) -> DataSource {
        match self {
            DataSource::Idx(folder) => DataSource::Idx(std::path::absolute(&folder).unwrap_or(folder)),
            other => other,
        }
    }

    /// Reads one split into memory. `classes` is how many classes the labels of IDX files name, which these do not say.
    pub fn open(&self, split: Split, classes: usize) -> Result<Dataset> {
        match self {
            DataSource::Mnist10k => mnist_10k::open(split),
            DataSource::Ring => Err(crate::Error::Config("ring".into())),
            DataSource::Idx(folder) => idx::open(folder, split, classes),
        }
    }
}

/// Images with their labels, in memory.
pub struct Dataset {
    name: String,
    shape: ImageShape,
    classes: Vec<String>,
    /// (count, H, W, C)
    images: Vec<u8>,
    /// (count)
    labels: Vec<u32>,
}

impl Dataset {
    /// `images` (count, H, W, C) with one label each, below the number of `classes`.
    pub fn new(
        name: impl Into<String>,
        shape: ImageShape,
        classes: Vec<String>,
        images: Vec<u8>,
        labels: Vec<u32>,
    ) -> Result<Dataset> {
        let name = name.into();
        if shape.is_empty() || labels.is_empty() || Some(images.len()) != labels.len().checked_mul(shape.len()) {
            return Err(Error::Shape(format!(
                "data {name}: {} bytes, {} labels; images of {shape} have {} bytes",
                images.len(),
                labels.len(),
                shape.len()
            )));
        }
        if let Some(label) = labels.iter().find(|l| **l as usize >= classes.len()) {
            return Err(Error::Shape(format!("data {name}: label {label}, there are {} classes", classes.len())));
        }
        Ok(Dataset { name, shape, classes, images, labels })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    pub fn image(&self, index: usize) -> &[u8] {
        let len = self.shape.len();
        &self.images[index * len..(index + 1) * len]
    }

    pub fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    /// What a checkpoint remembers of the data.
    pub fn info(&self) -> DataInfo {
        let mut crc = flate2::Crc::new();
        crc.update(&self.images);
        for label in &self.labels {
            crc.update(&label.to_le_bytes());
        }
        DataInfo {
            name: self.name.clone(),
            images: self.len(),
            shape: self.shape,
            classes: self.classes.clone(),
            crc32: format!("{:08x}", crc.sum()),
        }
    }
}

/// What a checkpoint remembers of the data: enough to draw from it without them, and to know other data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataInfo {
    pub name: String,
    pub images: usize,
    pub shape: ImageShape,
    pub classes: Vec<String>,
    /// Of all images, then all labels.
    pub crc32: String,
}

impl std::fmt::Display for DataInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} images of {}, {} classes", self.name, self.images, self.shape, self.classes.len())
    }
}
