//! Data sets: what `--data` names, as bytes, and the loader that hands them to the training step.

mod ahead;
mod bmp;
mod cifar;
mod classes;
pub mod decode;
mod exif;
mod folder;
pub mod idx;
mod jpeg;
mod listing;
mod loader;
pub mod mixture;
mod mnist_10k;
mod packed;
mod size;
pub mod vectors;
pub(crate) mod zip;

pub use ahead::Ahead;
pub use classes::ClassNames;
pub use folder::Unreadable;
pub use listing::natural;
pub use loader::{LastBatch, Loader, LoaderOptions};
use mixture::Mixture;
use packed::Packed;
pub use size::Size;
use vectors::Vectors;

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cores::threads;
use crate::sizes::{filled, product};
use crate::{Error, Result};

/// The size of one image, and its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageShape {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl ImageShape {
    /// Bytes of an image, H * W * C; the largest number there is where these are more.
    pub fn len(self) -> usize {
        product([self.height, self.width, self.channels])
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn size(self) -> Size {
        Size::new(self.height, self.width)
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
    /// Gaussians in the plane.
    Points(Mixture),
    /// A folder in MNIST's IDX format.
    Idx(PathBuf),
    /// A folder of CIFAR's binary files.
    Cifar10(PathBuf),
    Cifar100(PathBuf),
    /// A folder of pictures, one sub-folder per class, or a zip of one.
    Folder(PathBuf),
}

/// What the name of a source does not say.
#[derive(Clone, Debug, PartialEq)]
pub struct DataOptions {
    /// Classes that the labels of IDX files name.
    pub classes: usize,
    /// Of the images of a folder, and their channels, 1 or 3.
    pub size: Size,
    pub channels: usize,
    pub unreadable: Unreadable,
    /// Bytes of decoded images above which a folder is streamed from the disk.
    pub memory: usize,
    /// Whether a streamed folder is read from the file that it was packed into.
    pub pack: bool,
    /// Pixels that a picture may have.
    pub max_pixels: usize,
    /// Bits of 16-bit samples that are used, 1 to 16.
    pub depth: u32,
    /// Threads that decode, 0 for one a core.
    pub threads: usize,
    /// Of a folder: a CSV file of labels that are vectors.
    pub labels: Option<PathBuf>,
    /// The classes of a checkpoint that is gone on from, in its order. They stay, where the images belong to them.
    pub like: Option<Vec<String>>,
}

impl DataOptions {
    /// How many threads decode: at most 16 where nobody says how many.
    fn threads(&self) -> usize {
        if self.threads == 0 { threads(0).min(16) } else { threads(self.threads) }
    }
}

/// The names of the classes that data have, and the number that each of `found` gets. Of `found` (names, and how many images
/// they have) these are the classes with images, in their order; or those of a checkpoint, where all classes with images are
/// among them.
fn settle(found: &[(&str, usize)], like: Option<&[String]>) -> (Vec<String>, Vec<Option<u32>>) {
    let used = || found.iter().filter(|(_, images)| *images > 0).map(|(name, _)| *name);
    let names: Vec<String> = match like {
        Some(like) if used().all(|name| like.iter().any(|known| known == name)) => like.to_vec(),
        _ => used().map(String::from).collect(),
    };
    let numbers: std::collections::HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
    let numbers = found.iter().map(|(name, _)| numbers.get(name).copied()).collect();
    (names, numbers)
}

/// The first few of many names.
fn some_names(names: &[String]) -> String {
    const MOST: usize = 5;
    let more = if names.len() > MOST { format!(" and {} more", names.len() - MOST) } else { String::new() };
    format!("{}{more}", names[..names.len().min(MOST)].join(", "))
}

impl std::str::FromStr for DataSource {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = &home(text)?;
        if let Some(mixture) = Mixture::named(text) {
            return Ok(DataSource::Points(mixture));
        }
        match text.split_once(':') {
            None if text == "mnist-10k" => Ok(DataSource::Mnist10k),
            Some(("idx", folder)) if !folder.is_empty() => Ok(DataSource::Idx(folder.into())),
            Some(("cifar10", folder)) if !folder.is_empty() => Ok(DataSource::Cifar10(folder.into())),
            Some(("cifar100", folder)) if !folder.is_empty() => Ok(DataSource::Cifar100(folder.into())),
            Some(("folder", folder)) if !folder.is_empty() => Ok(DataSource::Folder(folder.into())),
            _ => Err(format!(
                "no data are called {text:?}; there are mnist-10k, idx:DIR, cifar10:DIR, cifar100:DIR, folder:DIR, ring and grid"
            )),
        }
    }
}

/// `SOURCE:~/FOLDER` with the user's folder for `~`, which a shell does not put there within a word.
fn home(text: &str) -> std::result::Result<String, String> {
    let Some((kind, path)) = text.split_once(':') else { return Ok(text.into()) };
    match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => match std::env::var("HOME") {
            Ok(home) if !home.is_empty() => Ok(format!("{kind}:{home}{rest}")),
            _ => Err(format!("{text:?}: HOME does not say what ~ is; write the whole path")),
        },
        Some(_) => {
            Err(format!("{text:?}: the folder of another user; write the whole path, or ./~ for a folder called so"))
        }
        None => Ok(text.into()),
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
            DataSource::Points(mixture) => f.write_str(mixture.name()),
            DataSource::Idx(folder) => write!(f, "idx:{}", folder.display()),
            DataSource::Cifar10(folder) => write!(f, "cifar10:{}", folder.display()),
            DataSource::Cifar100(folder) => write!(f, "cifar100:{}", folder.display()),
            DataSource::Folder(folder) => write!(f, "folder:{}", folder.display()),
        }
    }
}

impl From<DataSource> for String {
    fn from(source: DataSource) -> String {
        source.to_string()
    }
}

impl DataSource {
    /// The same source with an absolute path, for a program that is started in another folder next time.
    pub fn absolute(mut self) -> DataSource {
        use DataSource::{Cifar10, Cifar100, Folder, Idx};
        if let Idx(folder) | Cifar10(folder) | Cifar100(folder) | Folder(folder) = &mut self
            && let Ok(absolute) = std::path::absolute(&folder)
        {
            *folder = absolute;
        }
        self
    }

    /// Refuses a path that is no text: a run's settings, which are text, could not say where its images are.
    pub fn check_text(&self) -> Result<()> {
        use DataSource::{Cifar10, Cifar100, Folder, Idx};
        match self {
            Idx(folder) | Cifar10(folder) | Cifar100(folder) | Folder(folder) if folder.to_str().is_none() => {
                let what =
                    "a path that is not UTF-8, which a run cannot remember: rename it, or make a link to it".into();
                Err(Error::Data { path: folder.clone(), what })
            }
            _ => Ok(()),
        }
    }

    pub fn open(&self, split: Split, options: &DataOptions) -> Result<Dataset> {
        match self {
            DataSource::Mnist10k => mnist_10k::open(split),
            DataSource::Points(mixture) => Ok(Dataset::drawn(mixture.name(), mixture::SHAPE)),
            DataSource::Idx(folder) => Ok(idx::open(folder, split, options.classes)?.settled(options)),
            DataSource::Cifar10(folder) => Ok(cifar::open(&cifar::CIFAR_10, folder, split)?.settled(options)),
            DataSource::Cifar100(folder) => Ok(cifar::open(&cifar::CIFAR_100, folder, split)?.settled(options)),
            DataSource::Folder(folder) if split == Split::Train => folder::open(folder, options),
            DataSource::Folder(folder) => {
                let what = "a folder of images has no held-out ones".to_string();
                Err(Error::Data { path: folder.clone(), what })
            }
        }
    }
}

/// Images with their labels.
pub struct Dataset {
    name: String,
    shape: ImageShape,
    classes: Vec<String>,
    images: Images,
    /// (count): classes; or, where labels are vectors, the numbers of the images.
    labels: Vec<u32>,
    vectors: Option<Arc<Vectors>>,
    /// Of a folder: its files.
    files: Option<Arc<folder::Files>>,
    /// Lines about what is there and not used.
    notes: Vec<String>,
}

enum Images {
    /// (count, H, W, C)
    Memory(Vec<u8>),
    /// Each is decoded when it is asked for.
    Streamed(Arc<folder::Files>),
    /// There are none: the training step draws its own points.
    Drawn,
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
        Ok(Dataset {
            name,
            shape,
            classes,
            images: Images::Memory(images),
            labels,
            files: None,
            notes: Vec::new(),
            vectors: None,
        })
    }

    /// There is nothing to read: the training step draws the points that it learns from.
    fn drawn(name: &str, shape: ImageShape) -> Dataset {
        let classes = vec![name.into()];
        let (images, labels, notes) = (Images::Drawn, Vec::new(), Vec::new());
        Dataset { name: name.into(), shape, classes, images, labels, files: None, notes, vectors: None }
    }

    /// Decodes all files where that takes at most `options.memory` bytes, and streams them otherwise.
    fn from_files(
        name: &str,
        classes: Vec<String>,
        labels: Vec<u32>,
        files: folder::Files,
        options: &DataOptions,
    ) -> Result<Dataset> {
        let (shape, files) = (files.shape(), Arc::new(files));
        if files.bytes() > options.memory {
            if options.pack {
                // Who packs them says that a file is damaged.
                let _ = files.find_packed();
            }
            let images = Images::Streamed(files.clone());
            let (name, notes) = (name.into(), Vec::new());
            return Ok(Dataset { name, shape, classes, images, labels, files: Some(files), notes, vectors: None });
        }
        let dataset = Dataset::new(name, shape, classes, files.read_all()?, labels)?;
        Ok(Dataset { files: Some(files), ..dataset })
    }

    /// The same without the classes that have no images, or with those of the checkpoint that is gone on from.
    fn settled(mut self, options: &DataOptions) -> Dataset {
        let mut counts = vec![0; self.classes.len()];
        self.labels.iter().for_each(|label| counts[*label as usize] += 1);
        let found: Vec<(&str, usize)> = self.classes.iter().map(String::as_str).zip(counts).collect();
        let empty: Vec<String> = found.iter().filter(|(_, n)| *n == 0).map(|(name, _)| name.to_string()).collect();
        let (names, numbers) = settle(&found, options.like.as_deref());
        self.labels.iter_mut().for_each(|label| *label = numbers[*label as usize].unwrap_or(0));
        if !empty.is_empty() && names.len() < self.classes.len() {
            let es = if empty.len() == 1 { "" } else { "es" };
            self.notes.push(format!("left out {} class{es} without images: {}", empty.len(), some_names(&empty)));
        }
        self.classes = names;
        self
    }

    /// The images of these classes alone, numbered as in `classes`. Nothing where there are none.
    pub fn of_classes(mut self, classes: &[String]) -> Option<Dataset> {
        let numbers: std::collections::HashMap<&String, u32> = classes.iter().zip(0..).collect();
        let numbers: Vec<Option<u32>> = self.classes.iter().map(|name| numbers.get(name).copied()).collect();
        let labels = self.labels.iter().map(|label| numbers[*label as usize]);
        let (Images::Memory(images), len) = (&mut self.images, self.shape.len()) else { return None };
        let mut kept = Vec::with_capacity(self.labels.len());
        for (i, label) in labels.enumerate() {
            if let Some(label) = label {
                images.copy_within(i * len..(i + 1) * len, kept.len() * len);
                kept.push(label);
            }
        }
        images.truncate(kept.len() * len);
        (self.labels, self.classes) = (kept, classes.to_vec());
        (!self.labels.is_empty()).then_some(self)
    }

    /// Lines about what is there and not used.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A line about pictures that are darker than their files can be, where more of them were found since the last call.
    pub fn newly_dark(&self) -> Option<String> {
        self.files.as_ref().and_then(|files| files.newly_dark())
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

    /// Reads image `index` into `out` (H, W, C).
    pub fn read(&self, index: usize, out: &mut [u8]) -> Result<()> {
        match &self.images {
            Images::Memory(images) => {
                let len = self.shape.len();
                out.copy_from_slice(&images[index * len..(index + 1) * len]);
                Ok(())
            }
            Images::Streamed(files) => files.read(index, out),
            Images::Drawn => Err(Error::Shape(format!("data {}: there are no images", self.name))),
        }
    }

    /// Image `index` in the size that its file has, where it is from a file of its own.
    pub fn read_whole(&self, index: usize) -> Result<(ImageShape, Vec<u8>)> {
        if let Some(files) = &self.files {
            return files.read_whole(index);
        }
        let mut image = filled("an image", self.shape.len(), 0)?;
        self.read(index, &mut image)?;
        Ok((self.shape, image))
    }

    /// Whether images are decoded as they are needed.
    pub fn is_streamed(&self) -> bool {
        matches!(self.images, Images::Streamed(_))
    }

    /// Packs images that are streamed into a file, unless they are, and reads them from there from now on.
    pub fn pack(&self, tell: &dyn Fn(String)) -> Result<()> {
        self.streamed_files().map_or(Ok(()), |files| files.pack(tell))
    }

    /// The file that images are read from, where they were packed into one.
    pub fn packed(&self) -> Option<&std::path::Path> {
        self.streamed_files().and_then(|files| files.packed()).map(Packed::path)
    }

    /// A line about the file of packed images, once it was found damaged.
    pub fn newly_damaged(&self) -> Option<String> {
        self.streamed_files().and_then(|files| files.packed()).and_then(Packed::newly_damaged)
    }

    /// Whether there are no images, because the training step draws its own points.
    pub fn is_drawn(&self) -> bool {
        matches!(self.images, Images::Drawn)
    }

    fn streamed_files(&self) -> Option<&Arc<folder::Files>> {
        match &self.images {
            Images::Memory(_) | Images::Drawn => None,
            Images::Streamed(files) => Some(files),
        }
    }

    /// `FILE: reason` of each file that was found unreadable, and skipped, since the last call.
    pub fn newly_unreadable(&self) -> Vec<String> {
        self.files.as_ref().map(|files| files.newly_unreadable()).unwrap_or_default()
    }

    /// What the training step is given for an image: its class, or the number of its vector.
    pub fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    /// The labels, where they are vectors with a number for each class.
    pub fn vectors(&self) -> Option<&Arc<Vectors>> {
        self.vectors.as_ref()
    }

    /// The classes that each image has one of; one for all where labels are vectors.
    pub fn groups(&self) -> usize {
        if self.vectors.is_some() { 1 } else { self.classes.len() }
    }

    /// Which of [`Dataset::groups`] an image is in.
    pub fn group(&self, index: usize) -> u32 {
        if self.vectors.is_some() { 0 } else { self.labels[index] }
    }

    /// For a checkpoint.
    pub fn info(&self) -> DataInfo {
        let crc32 = match (&self.files, &self.images) {
            (Some(files), _) | (None, Images::Streamed(files)) => files.crc32().to_string(),
            (None, Images::Drawn) => String::new(),
            (None, Images::Memory(images)) => {
                let mut crc = flate2::Crc::new();
                crc.update(images);
                self.labels.iter().for_each(|label| crc.update(&label.to_le_bytes()));
                format!("{:08x}", crc.sum())
            }
        };
        let (name, classes) = (self.name.clone(), self.classes.clone());
        DataInfo { name, images: self.len(), shape: self.shape, classes, vectors: self.vectors.is_some(), crc32 }
    }
}

/// What a checkpoint remembers of the data: enough to draw images without them, and to recognise other data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataInfo {
    pub name: String,
    pub images: usize,
    pub shape: ImageShape,
    pub classes: Vec<String>,
    /// Whether a label is a vector of a number for each class, and not one of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub vectors: bool,
    /// Over all images and then all labels; for a folder, over the names and sizes of its files, and their vectors.
    pub crc32: String,
}

impl std::fmt::Display for DataInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.images == 0 {
            return write!(f, "{}: points, drawn as they are needed", self.name);
        }
        let (classes, es) = (self.classes.len(), if self.classes.len() == 1 { "" } else { "es" });
        let vectors = if self.vectors { "labels are vectors of " } else { "" };
        write!(f, "{}: {} images of {}, {vectors}{classes} class{es}", self.name, self.images, self.shape)
    }
}
