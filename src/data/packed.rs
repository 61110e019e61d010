//! The images that a folder's pictures were decoded to, in a file: each picture is decoded once, for all epochs, runs and
//! processes that read it.
//!
//! The file has the images, (count, H, W, C) bytes; then the CRC-32 of each, in four little-endian bytes; then [`Facts`] as
//! JSON; then the length of that JSON, in eight bytes, and the CRC-32 of all that follows the images, in four.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::ImageShape;
use crate::sizes::filled;
use crate::{Error, Result, files};

/// Grows when the same pictures become other bytes: files of other versions are not used.
pub const VERSION: u32 = 1;

/// What the names of these files begin with. They are hidden, so that a folder of pictures has nothing else in it to see.
const START: &str = ".zgan-images-";

/// Of the end of the file: a length and a CRC-32.
const END: usize = 12;
/// More text than this is in none.
const MOST_TEXT: u64 = 1 << 26;

/// What images are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Follows from all that determines the images: the pictures' names, sizes and times, and how they are decoded.
    pub key: String,
    /// What decoding showed: the unreadable pictures, with the reason; those that are nearly black, and their largest sample.
    pub unreadable: BTreeMap<usize, String>,
    pub dark: BTreeSet<usize>,
    pub largest: u16,
}

/// An open file. It stays as it is for who has it open when another takes its place.
pub struct Packed {
    path: PathBuf,
    file: File,
    /// Bytes of an image.
    len: usize,
    crcs: Vec<u32>,
    /// Once an image was found damaged, nothing more is read from the file.
    damaged: AtomicBool,
    told: AtomicBool,
}

/// Where the images of the pictures in `root` may lie, for images of this shape: in the folder itself, or else in the user's cache.
pub fn places(root: &Path, shape: ImageShape) -> Vec<PathBuf> {
    let beside = root.is_dir().then(|| root.join(format!("{START}{shape}")));
    let cache = files::users_cache().map(|cache| {
        let mut crc = flate2::Crc::new();
        crc.update(std::path::absolute(root).unwrap_or_default().as_os_str().as_encoded_bytes());
        cache.join(format!("{START}{shape}-{:08x}", crc.sum()))
    });
    beside.into_iter().chain(cache).collect()
}

impl Packed {
    /// The file at `path`, where it has so many images of `len` bytes with this key. Nothing where there is none, or one of
    /// other images. The error says what is wrong with it.
    pub fn open(path: &Path, key: &str, count: usize, len: usize) -> Result<Option<(Packed, Facts)>> {
        let Ok(file) = File::open(path) else { return Ok(None) };
        let fail = |what: &str| Error::Data { path: path.into(), what: format!("damaged: {what}") };
        let read = |at: u64, bytes: &mut [u8]| file.read_exact_at(bytes, at).map_err(Error::io(path));
        let end = file.metadata().map_err(Error::io(path))?.len().checked_sub(END as u64);
        let end = end.ok_or_else(|| fail("cut off"))?;
        let mut json = [0; 8];
        let mut crc = [0; 4];
        read(end, &mut json)?;
        read(end + 8, &mut crc)?;
        let json = u64::from_le_bytes(json);
        if json > end.min(MOST_TEXT) {
            return Err(fail("cut off"));
        }
        let mut text = filled("a list of images", json as usize, 0)?;
        read(end - json, &mut text)?;
        let facts: Facts = serde_json::from_slice(&text).map_err(|_| fail("it does not say what it has"))?;
        if facts.key != key {
            return Ok(None);
        }
        if facts.unreadable.keys().chain(&facts.dark).any(|index| *index >= count) {
            return Err(fail("it tells of images that it does not have"));
        }
        let images = (count * len) as u64;
        if end - json != images + 4 * count as u64 {
            return Err(fail("its images have another length"));
        }
        let mut crcs = filled("checksums of images", 4 * count, 0)?;
        read(images, &mut crcs)?;
        if crc32(&[&crcs, &text]) != u32::from_le_bytes(crc) {
            return Err(fail("another checksum"));
        }
        let crcs = crcs.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let (path, damaged, told) = (path.to_path_buf(), AtomicBool::new(false), AtomicBool::new(false));
        Ok(Some((Packed { path, file, len, crcs, damaged, told }, facts)))
    }

    /// Reads image `index` into `out`. It cannot where the image is damaged, or was before.
    pub fn read(&self, index: usize, out: &mut [u8]) -> bool {
        if self.damaged.load(Ordering::Relaxed) {
            return false;
        }
        let read = self.file.read_exact_at(out, (index * self.len) as u64);
        let whole = read.is_ok() && crc32(&[out]) == self.crcs[index];
        if !whole && !self.damaged.swap(true, Ordering::Relaxed) {
            // So that it is packed anew.
            let _ = std::fs::remove_file(&self.path);
        }
        whole
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A line about damage, once.
    pub fn newly_damaged(&self) -> Option<String> {
        let new = self.damaged.load(Ordering::Relaxed) && !self.told.swap(true, Ordering::Relaxed);
        new.then(|| {
            let path = self.path.display();
            format!(
                "{path} was damaged and is removed: pictures are decoded again, and packed anew by the next training"
            )
        })
    }
}

/// Writes a file that is either whole or not there. `images` is given what takes an image of a number, from any thread;
/// `facts` are asked for after it.
pub fn write(
    path: &Path,
    count: usize,
    len: usize,
    images: impl FnOnce(&(dyn Fn(usize, &[u8]) -> Result<()> + Sync)) -> Result<()>,
    facts: impl FnOnce() -> Facts,
) -> Result<()> {
    files::write_atomically(path, |unfinished| {
        let file = File::create(unfinished).map_err(Error::io(path))?;
        let crcs: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
        images(&|index, image| {
            crcs[index].store(crc32(&[image]), Ordering::Relaxed);
            file.write_all_at(image, (index * len) as u64).map_err(Error::io(path))
        })?;
        let crcs: Vec<u8> = crcs.into_iter().flat_map(|crc| crc.into_inner().to_le_bytes()).collect();
        let text = serde_json::to_vec(&facts()).map_err(std::io::Error::from).map_err(Error::io(path))?;
        let end = [&crcs[..], &text, &(text.len() as u64).to_le_bytes(), &crc32(&[&crcs, &text]).to_le_bytes()];
        file.write_all_at(&end.concat(), (count * len) as u64).map_err(Error::io(path))
    })
}

/// Removes what a process that was killed has left beside `path`.
pub fn remove_unfinished(path: &Path) {
    if let Some(folder) = path.parent() {
        files::remove_unfinished(folder, START);
    }
}

fn crc32(parts: &[&[u8]]) -> u32 {
    let mut crc = flate2::Crc::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.sum()
}

/// What goes on in the order of numbers, on several threads: the error of the first one that fails, whichever thread met it.
pub fn on_threads<T: Send>(
    threads: usize,
    all: impl Iterator<Item = (usize, T)> + Send,
    work: impl Fn(usize, T) -> Result<()> + Sync,
) -> Result<()> {
    let (next, failed) = (Mutex::new(all), Mutex::new(None::<(usize, Error)>));
    let lock = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        loop {
            let taken = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((index, item)) = taken else { break };
            if lock().as_ref().is_some_and(|(first, _)| *first < index) {
                break;
            }
            if let Err(error) = work(index, item) {
                let mut failed = lock();
                if failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    *failed = Some((index, error));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system refuses a thread, the others do its work.
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |(_, error)| Err(error))
}
