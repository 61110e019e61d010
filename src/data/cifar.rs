//! CIFAR-10 and CIFAR-100 in their binary form: records of one or two label bytes and 32 x 32 pixels, plane by plane.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::{Dataset, ImageShape, Split};
use crate::{Error, Result};

const SHAPE: ImageShape = ImageShape { height: 32, width: 32, channels: 3 };
const PLANE: usize = 32 * 32;

/// One of the two sets, and how its files are laid out.
pub struct Layout {
    name: &'static str,
    /// The folder that the archive unpacks to.
    folder: &'static str,
    /// The folder and a file of the version for Python, which is not read.
    python: (&'static str, &'static str),
    train: &'static [&'static str],
    test: &'static [&'static str],
    names: &'static str,
    classes: usize,
    /// Bytes before the pixels; the last one is the label.
    labels: usize,
}

pub const CIFAR_10: Layout = Layout {
    name: "cifar10",
    folder: "cifar-10-batches-bin",
    python: ("cifar-10-batches-py", "data_batch_1"),
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: &["test_batch.bin"],
    names: "batches.meta.txt",
    classes: 10,
    labels: 1,
};

pub const CIFAR_100: Layout = Layout {
    name: "cifar100",
    folder: "cifar-100-binary",
    python: ("cifar-100-python", "train"),
    train: &["train.bin"],
    test: &["test.bin"],
    names: "fine_label_names.txt",
    classes: 100,
    labels: 2,
};

pub fn open(layout: &Layout, folder: &Path, split: Split) -> Result<Dataset> {
    let inner = folder.join(layout.folder);
    let folder = if inner.is_dir() { inner } else { folder.to_path_buf() };
    let (python, file) = layout.python;
    let pickled = [folder.clone(), folder.join(python)].into_iter().find(|place| place.join(file).is_file());
    if let Some(place) = pickled.filter(|_| !folder.join(layout.train[0]).exists()) {
        let what = format!(
            "the version for Python; zgan reads the binary version, https://www.cs.toronto.edu/~kriz/{}-binary.tar.gz",
            if layout.classes == 10 { "cifar-10" } else { "cifar-100" }
        );
        return Err(Error::Data { path: place, what });
    }
    let (files, suffix) = if split == Split::Train { (layout.train, "") } else { (layout.test, " test") };
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for file in files {
        read(layout, &folder.join(file), &mut images, &mut labels)?;
    }
    let name = format!("{}{suffix}", layout.name);
    Dataset::new(name, SHAPE, class_names(layout, &folder)?, images, labels)
}

/// Appends the records of a file, read one by one: neither the file nor its images are in memory twice.
fn read(layout: &Layout, path: &PathBuf, images: &mut Vec<u8>, labels: &mut Vec<u32>) -> Result<()> {
    let fail = |what: String| Err(Error::Data { path: path.clone(), what });
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), BufReader::new(file))));
    let (len, mut file) = match opened {
        Ok(opened) => opened,
        Err(error) => return fail(format!("a file of {} was expected: {error}", layout.name)),
    };
    let record = layout.labels + SHAPE.len();
    let left = len % record as u64;
    if len == 0 || left != 0 {
        let at = len - left;
        return fail(format!("offset {at}: the file ends after {left} bytes of a record of {record} ({len} in all)"));
    }
    let count = usize::try_from(len).unwrap_or(usize::MAX) / record;
    if images.try_reserve(count * SHAPE.len()).is_err() || labels.try_reserve(count).is_err() {
        return fail(format!("{count} images of {SHAPE} need {} MiB, more than there is", len >> 20));
    }
    let mut bytes = vec![0; record];
    for i in 0..count {
        file.read_exact(&mut bytes).map_err(Error::io(path))?;
        let label = bytes[layout.labels - 1];
        if usize::from(label) >= layout.classes {
            let at = i * record + layout.labels - 1;
            return fail(format!("offset {at}: label {label}, expected 0 to {}", layout.classes - 1));
        }
        labels.push(u32::from(label));
        let planes = &bytes[layout.labels..];
        images.extend((0..PLANE).flat_map(|p| [planes[p], planes[PLANE + p], planes[2 * PLANE + p]]));
    }
    Ok(())
}

/// The names in the file beside the images; where that is missing, numbers.
fn class_names(layout: &Layout, folder: &Path) -> Result<Vec<String>> {
    let path = folder.join(layout.names);
    let Ok(text) = fs::read_to_string(&path) else { return Ok((0..layout.classes).map(|c| c.to_string()).collect()) };
    let names: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect();
    if names.len() != layout.classes {
        return Err(Error::Data { path, what: format!("{} names, expected {}", names.len(), layout.classes) });
    }
    Ok(names)
}
