//! MNIST's IDX format: a magic number, the sizes as big-endian 32-bit numbers, then bytes. Plain or gzipped, which
//! the first two bytes tell.
//!
//! The labels do not say how many classes there are, so a damaged byte would silently be a new class. The caller says
//! how many (`--classes`, 10 as in MNIST itself), and a label beyond these is an error. Labels may begin at 1, as EMNIST's
//! letters do: then the last one is `--classes` itself. A class is called by its label.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{Dataset, ImageShape, Split};
use crate::{Error, Result};

const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;
/// A size above this is a damaged header: no image format has such sides.
const MAX_SIDE: u64 = 65_535;
/// Deflate never packs tighter than this.
const MAX_RATIO: u64 = 1032;

/// Images of a file, (count, H, W).
#[derive(Debug)]
pub struct Images {
    pub count: usize,
    pub height: usize,
    pub width: usize,
    pub pixels: Vec<u8>,
}

/// Reads one split from a folder that holds `train-images-idx3-ubyte` and its three companions, each plain or `.gz`. All
/// names may have a prefix (`emnist-letters-train-images-idx3-ubyte`); of several, `FOLDER/emnist-letters` names one.
pub fn open(folder: &Path, split: Split, classes: usize) -> Result<Dataset> {
    let image_path = find(folder, split, "images", "idx3-ubyte")?;
    let label_path = find(folder, split, "labels", "idx1-ubyte")?;
    let images = with_file(&image_path, read_images)?;
    let labels = with_file(&label_path, |file| read_labels(file, classes))?;
    let name = if split == Split::Train { "idx" } else { "idx test" };
    dataset(name, classes, (&image_path, images), (&label_path, labels))
}

/// The images of a file at `path` that holds `bytes`.
pub fn images(path: &Path, bytes: &[u8]) -> Result<Images> {
    read_images(Source::new(path, bytes.len() as u64, bytes)?)
}

/// The labels of a file at `path` that holds `bytes`; each is below `classes`.
pub fn labels(path: &Path, bytes: &[u8], classes: usize) -> Result<Vec<u8>> {
    read_labels(Source::new(path, bytes.len() as u64, bytes)?, classes)
}

/// Puts both files of a split together.
pub fn dataset(
    name: &str,
    classes: usize,
    (image_path, images): (&Path, Images),
    (label_path, labels): (&Path, Vec<u8>),
) -> Result<Dataset> {
    if images.count != labels.len() {
        return Err(data(
            label_path,
            format!("offset 4: {} labels, but {} has {} images", labels.len(), image_path.display(), images.count),
        ));
    }
    let shape = ImageShape { height: images.height, width: images.width, channels: 1 };
    // One more where labels begin at 1; a class without images is dropped.
    let last = labels.iter().map(|label| usize::from(*label)).max().unwrap_or(0);
    let names = (0..classes.max(last + 1)).map(|c| c.to_string()).collect();
    Dataset::new(name, shape, names, images.pixels, labels.into_iter().map(u32::from).collect())
}

fn data(path: &Path, what: String) -> Error {
    Error::Data { path: path.to_path_buf(), what }
}

/// Finds a file of the split. Some mirrors write a dot where the original has a hyphen, and `test` for `t10k`.
fn find(path: &Path, split: Split, what: &str, ending: &str) -> Result<PathBuf> {
    let stems: &[&str] = if split == Split::Train { &["train"] } else { &["t10k", "test"] };
    let plain = format!("{}-{what}-{ending}", stems[0]);
    // The last part of the path may be a prefix of the files' names.
    let (folder, prefix) = match (path.is_dir(), path.parent(), path.file_name()) {
        (false, Some(parent), Some(name)) if parent.is_dir() => (parent, Some(name.to_string_lossy().into_owned())),
        _ => (path, None),
    };
    let entries =
        fs::read_dir(folder).map_err(|error| data(path, format!("a folder with {plain} was expected: {error}")))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let bare = name.strip_suffix(".gz").unwrap_or(&name);
        let rest = bare.strip_suffix(ending).and_then(|rest| rest.strip_suffix(['-', '.']));
        let rest = rest.and_then(|rest| stems.iter().find_map(|stem| rest.strip_suffix(&format!("{stem}-{what}"))));
        let wanted = |rest: &str| match &prefix {
            Some(prefix) => rest.trim_end_matches('-') == prefix,
            None => rest.is_empty() || rest.ends_with(['-', '_', '.']),
        };
        if let Some(rest) = rest.filter(|rest| wanted(rest) && entry.path().is_file()) {
            // A plain name comes before one with a prefix, and an unpacked file before its packed twin.
            found.push((rest.to_string(), name.len() - bare.len(), entry.path()));
        }
    }
    found.sort();
    let mut prefixes: Vec<&str> = found.iter().map(|(rest, ..)| rest.trim_end_matches('-')).collect();
    prefixes.dedup();
    match (prefixes.as_slice(), found.first()) {
        (["", ..] | [_], Some((_, _, file))) => Ok(file.clone()),
        ([], _) | (_, None) if prefix.is_some() => {
            Err(data(path, format!("no such folder, and no file beside it is called so and ends with -{plain}")))
        }
        ([], _) | (_, None) => Err(data(folder, format!("there is no {plain} or {plain}.gz in this folder"))),
        (several, _) => {
            let one = folder.join(several[0]);
            let what = format!("several data sets: {}; idx:{} takes one", several.join(", "), one.display());
            Err(data(folder, what))
        }
    }
}

fn with_file<T>(path: &Path, read: impl FnOnce(Source) -> Result<T>) -> Result<T> {
    let file = File::open(path).map_err(Error::io(path))?;
    let bytes = file.metadata().map_err(Error::io(path))?.len();
    read(Source::new(path, bytes, std::io::BufReader::new(file))?)
}

/// A file's unpacked bytes, in order.
struct Source<'a> {
    path: &'a Path,
    input: Box<dyn Read + 'a>,
    packed: bool,
    /// Bytes of the file, and the most bytes that it can unpack to.
    file_bytes: u64,
    most: u64,
    offset: u64,
}

impl<'a> Source<'a> {
    fn new(path: &'a Path, file_bytes: u64, mut input: impl Read + 'a) -> Result<Source<'a>> {
        let mut first = Vec::with_capacity(2);
        input.by_ref().take(2).read_to_end(&mut first).map_err(Error::io(path))?;
        if first.len() < 2 {
            return Err(data(path, format!("offset 0: the file has {file_bytes} bytes, its header alone needs 8")));
        }
        let packed = first == [0x1f, 0x8b];
        let whole = std::io::Cursor::new(first).chain(input);
        Ok(Source {
            path,
            input: if packed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) },
            packed,
            file_bytes,
            most: if packed { file_bytes.saturating_mul(MAX_RATIO) } else { file_bytes },
            offset: 0,
        })
    }

    fn error(&self, offset: u64, what: String) -> Error {
        data(self.path, format!("offset {offset}{}: {what}", if self.packed { " (unpacked)" } else { "" }))
    }

    fn number(&mut self, meaning: &str) -> Result<u32> {
        let mut bytes = Vec::with_capacity(4);
        self.fill(&mut bytes, 4)?;
        match <[u8; 4]>::try_from(bytes.as_slice()) {
            Ok(bytes) => Ok(u32::from_be_bytes(bytes)),
            Err(_) => Err(self.error(self.offset, format!("the file ends, 4 bytes expected here ({meaning})"))),
        }
    }

    /// Appends up to `n` bytes; fewer where the file ends.
    fn fill(&mut self, bytes: &mut Vec<u8>, n: u64) -> Result<()> {
        let before = bytes.len();
        let read = self.input.by_ref().take(n).read_to_end(bytes);
        self.offset += (bytes.len() - before) as u64;
        match read {
            Ok(_) => Ok(()),
            Err(error) if self.packed => Err(self.error(
                self.offset,
                format!("damaged gzip after this many bytes, of a file of {}: {error}", self.file_bytes),
            )),
            Err(source) => Err(Error::Io { path: self.path.to_path_buf(), source }),
        }
    }

    fn magic(&mut self, expected: u32, meaning: &str) -> Result<()> {
        let found = self.number("the magic number")?;
        if found == expected {
            return Ok(());
        }
        Err(self.error(0, format!("magic number 0x{found:08x}, expected 0x{expected:08x} ({meaning})")))
    }

    /// A size from the header, 1 to `most`.
    fn size(&mut self, meaning: &str, most: u64) -> Result<u64> {
        let at = self.offset;
        let found = u64::from(self.number(meaning)?);
        if found == 0 || found > most {
            return Err(self.error(at, format!("{found} {meaning}, expected 1 to {most}")));
        }
        Ok(found)
    }

    /// Everything after the header, which promises `expected` bytes. No memory is allocated for a promise that the file
    /// cannot keep.
    fn rest(&mut self, expected: u64, promise: &str) -> Result<Vec<u8>> {
        let header = self.offset;
        if expected > self.most.saturating_sub(header) {
            let (has, can) = (self.file_bytes, if self.packed { "can unpack to" } else { "holds" });
            return Err(self.error(
                has.min(self.most),
                format!(
                    "the file ends: {promise} need {} bytes, and a file of {has} {can} at most {}",
                    header + expected,
                    self.most
                ),
            ));
        }
        let mut bytes = Vec::new();
        let reserved = usize::try_from(expected).ok().map(|n| bytes.try_reserve_exact(n.saturating_add(1)));
        if !matches!(reserved, Some(Ok(()))) {
            return Err(self.error(header, format!("{promise} need {expected} bytes, more than memory has")));
        }
        // One byte more than promised: it shows whether something follows that should not, and makes the decoder come to
        // the file's checksum.
        self.fill(&mut bytes, expected.saturating_add(1))?;
        let found = bytes.len() as u64;
        if found < expected {
            return Err(self.error(
                self.offset,
                format!("the file ends: {promise} need {} bytes, there are {}", header + expected, self.offset),
            ));
        }
        if found > expected {
            let there = if self.packed { "more".to_string() } else { self.file_bytes.to_string() };
            return Err(self.error(
                header + expected,
                format!("bytes follow the last one: {promise} need {} bytes, there are {there}", header + expected),
            ));
        }
        Ok(bytes)
    }
}

fn read_images(mut source: Source) -> Result<Images> {
    source.magic(IMAGES, "images")?;
    let count = source.size("images", u64::from(u32::MAX))?;
    let height = source.size("rows", MAX_SIDE)?;
    let width = source.size("columns", MAX_SIDE)?;
    // Below 2^64: 32 + 16 + 16 bits.
    let pixels = source.rest(count * height * width, &format!("{count} images of {height}x{width}"))?;
    Ok(Images { count: count as usize, height: height as usize, width: width as usize, pixels })
}

fn read_labels(mut source: Source, classes: usize) -> Result<Vec<u8>> {
    source.magic(LABELS, "labels")?;
    let count = source.size("labels", u64::from(u32::MAX))?;
    let header = source.offset;
    let labels = source.rest(count, &format!("{count} labels"))?;
    let (least, most) = (labels.iter().copied().min().unwrap_or(0), labels.iter().copied().max().unwrap_or(0));
    let from_one = least == 1 && usize::from(most) == classes;
    match labels.iter().position(|label| usize::from(*label) >= classes) {
        Some(i) if !from_one => {
            let all = usize::from(most) + usize::from(least != 1);
            let what = format!(
                "label {}, but --classes {classes} end at {}; the labels go from {least} to {most}, --classes {all} takes them",
                labels[i],
                classes - 1
            );
            Err(source.error(header + i as u64, what))
        }
        _ => Ok(labels),
    }
}
