//! A folder of PNG and JPEG files, with one sub-folder per class, or with the files themselves.
//!
//! Images that fit into `--data-memory` are decoded once, at the start, by all cores. If there are more, they are streamed
//! from the disk while training runs. Both ways give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{DataOptions, Dataset, ImageShape, decode};
use crate::{Error, Result};

/// What becomes of a file that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Unreadable {
    /// The training ends with its name
    Refuse,
    /// It is named, and the next file of its class stands in
    Skip,
}

/// Files in the order of their classes and names; each is decoded when it is asked for.
pub struct Files {
    shape: ImageShape,
    paths: Vec<PathBuf>,
    labels: Vec<u32>,
    /// The files of each class.
    ranges: Vec<Range<usize>>,
    /// Computed from the names and sizes, not from the bytes in the files.
    crc32: String,
    unreadable: Unreadable,
    /// The files that were found unreadable.
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    /// Not told yet, with the reason.
    new: BTreeMap<usize, String>,
    told: std::collections::BTreeSet<usize>,
}

/// Threads that decode.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(16)
}

pub fn open(folder: &Path, options: &DataOptions) -> Result<Dataset> {
    let fail = |path: &Path, what: String| Err(Error::Data { path: path.to_path_buf(), what });
    let shape = ImageShape { height: options.size, width: options.size, channels: options.channels };
    let mut classes = Vec::new();
    for entry in list(folder)? {
        if entry.is_dir() && !images(&entry)?.is_empty() {
            classes.push(entry);
        }
    }
    let flat = images(folder)?;
    let groups = match (classes.is_empty(), flat.is_empty()) {
        (true, true) => return fail(folder, "there is no PNG or JPEG file here, nor in a sub-folder".into()),
        (true, false) => vec![(folder.to_path_buf(), flat)],
        (false, true) => classes.into_iter().map(|c| images(&c).map(|files| (c, files))).collect::<Result<Vec<_>>>()?,
        (false, false) => {
            let what = format!(
                "{} images beside {} sub-folders with images: a class each, or no classes",
                flat.len(),
                classes.len()
            );
            return fail(folder, what);
        }
    };
    let mut crc = flate2::Crc::new();
    let (mut paths, mut labels, mut ranges, mut names) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (label, (class, files)) in groups.into_iter().enumerate() {
        let name = class.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for file in &files {
            let bytes = fs::metadata(file).map_err(Error::io(file))?.len();
            let file = file.file_name().unwrap_or_default().to_string_lossy();
            crc.update(format!("{label}/{file}\0{bytes}\0").as_bytes());
        }
        ranges.push(paths.len()..paths.len() + files.len());
        labels.extend(files.iter().map(|_| label as u32));
        paths.extend(files);
        names.push(name);
    }
    let files = Files {
        shape,
        paths,
        labels: labels.clone(),
        ranges,
        crc32: format!("{:08x}", crc.sum()),
        unreadable: options.unreadable,
        found: Mutex::default(),
    };
    Dataset::from_files("folder", names, labels, files, options.memory)
}

/// What is in a folder, sorted by name; hidden files are left out.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn images(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_image = |path: &PathBuf| {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        matches!(extension.as_str(), "png" | "jpg" | "jpeg") && path.is_file()
    };
    Ok(list(folder)?.into_iter().filter(is_image).collect())
}

impl Files {
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    pub fn crc32(&self) -> &str {
        &self.crc32
    }

    /// Bytes of all images, decoded.
    pub fn bytes(&self) -> usize {
        self.paths.len().saturating_mul(self.shape.len())
    }

    /// Decodes image `index` into `out` (H, W, C).
    pub fn read(&self, index: usize, out: &mut [u8]) -> Result<()> {
        let range = self.ranges[self.labels[index] as usize].clone();
        // The next file of its class stands in for an unreadable one; after the last comes the first.
        for candidate in (index..range.end).chain(range.start..index) {
            match decode::file(&self.paths[candidate], self.shape, out) {
                Ok(()) => return Ok(()),
                Err(what) if self.unreadable == Unreadable::Refuse => {
                    let what = format!("{what}; --unreadable skip would leave it out");
                    return Err(Error::Data { path: self.paths[candidate].clone(), what });
                }
                Err(what) => {
                    let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                    if !found.told.contains(&candidate) {
                        found.new.insert(candidate, what);
                    }
                }
            }
        }
        let folder = self.paths[index].parent().unwrap_or(Path::new("")).to_path_buf();
        Err(Error::Data { path: folder, what: format!("none of its {} images can be read", range.len()) })
    }

    /// `FILE: reason` of each file that was found unreadable since the last call.
    pub fn newly_unreadable(&self) -> Vec<String> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let new = std::mem::take(&mut found.new);
        found.told.extend(new.keys());
        new.into_iter().map(|(i, what)| format!("{}: {what}", self.paths[i].display())).collect()
    }

    /// All images (count, H, W, C), decoded by all cores.
    pub fn read_all(&self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        if all.try_reserve_exact(self.bytes()).is_err() {
            let what = format!("{} images of {} need more memory than there is", self.paths.len(), self.shape);
            return Err(Error::Config(format!("data: {what}; a smaller --data-memory streams them from the disk")));
        }
        all.resize(self.bytes(), 0);
        let next = Mutex::new(all.chunks_exact_mut(self.shape.len()).enumerate());
        // All threads' errors are kept, to tell that of the first file whichever thread met it.
        let failed = AtomicUsize::new(usize::MAX);
        let errors = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..threads() {
                scope.spawn(|| {
                    loop {
                        let taken = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some((index, out)) = taken else { break };
                        if index > failed.load(Ordering::Relaxed) {
                            break;
                        }
                        if let Err(error) = self.read(index, out) {
                            failed.fetch_min(index, Ordering::Relaxed);
                            errors.lock().unwrap_or_else(PoisonError::into_inner).insert(index, error);
                        }
                    }
                });
            }
        });
        match errors.into_inner().unwrap_or_else(PoisonError::into_inner).pop_first() {
            Some((_, error)) => Err(error),
            None => Ok(all),
        }
    }
}
