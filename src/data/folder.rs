//! A folder of pictures, with one sub-folder per class, or with the files themselves; or a zip of such a folder.
//!
//! Images that fit into `--data-memory` are decoded once, at the start, by all threads. If there are more, they are streamed
//! from the disk while training runs: decoded, or read from the file that they were packed into. All ways give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use super::decode::{self, Fault, Limits};
use super::listing::{self, Class, Listing, Place};
use super::packed::{self, Facts, Packed};
use super::vectors::Vectors;
use super::zip::Zip;
use super::{DataOptions, Dataset, ImageShape, settle};
use crate::sizes::filled;
use crate::{Error, Result, files};

/// What becomes of a file that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Unreadable {
    /// The training ends with its name
    Refuse,
    /// It is named, and the next file of its class stands in
    Skip,
}

/// What a picture is decoded from.
trait Input: BufRead + Seek {}
impl<T: BufRead + Seek> Input for T {}

/// Files in the order of their classes and paths; each is decoded when it is asked for.
pub struct Files {
    shape: ImageShape,
    places: Vec<Place>,
    zip: Option<Zip>,
    labels: Vec<u32>,
    names: Vec<String>,
    /// The files of each class.
    ranges: Vec<Range<usize>>,
    /// Computed from the names and sizes, not from the bytes in the files.
    crc32: String,
    /// Of the file that they may be packed into, the key and the places.
    key: String,
    packs: Vec<PathBuf>,
    packed: OnceLock<Packed>,
    unreadable: Unreadable,
    threads: usize,
    limits: Limits,
    found: Mutex<Found>,
}

/// What decoding showed of the files.
#[derive(Default)]
struct Found {
    /// Unreadable and not told yet, with the reason.
    new: BTreeMap<usize, String>,
    told: BTreeMap<usize, String>,
    /// Pictures of 16-bit samples that stay below 2^14, and the largest of these samples.
    dark: BTreeSet<usize>,
    largest: u16,
    told_dark: usize,
}

pub fn open(root: &Path, options: &DataOptions) -> Result<Dataset> {
    let shape = ImageShape { height: options.size.height, width: options.size.width, channels: options.channels };
    // A checkpoint, which may be anybody's, says what is wanted.
    if !matches!(shape.channels, 1 | 3) || shape.is_empty() {
        return Err(Error::Config(format!("images of {shape} are wanted of a folder, which has 1 or 3 channels")));
    }
    let Listing { classes, columns, zip, notes } = listing::list(root, options.labels.as_deref(), options.unreadable)?;
    let found: Vec<(&str, usize)> = classes.iter().map(|class| (class.name.as_str(), class.pictures.len())).collect();
    // Those of one vector stand together, and are classes nowhere else.
    let (names, numbers) = settle(&found, options.like.as_deref().filter(|_| columns.is_none()));
    let mut groups: Vec<(Vec<_>, Vec<f32>)> = names.iter().map(|_| Default::default()).collect();
    for (Class { pictures, vector, .. }, number) in classes.into_iter().zip(numbers) {
        if let Some(number) = number {
            groups[number as usize] = (pictures, vector);
        }
    }
    let (mut crc, mut key) = (flate2::Crc::new(), flate2::Crc::new());
    let (mut places, mut labels, mut ranges, mut vectors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (label, (pictures, vector)) in groups.into_iter().enumerate() {
        let first = places.len();
        crc.update(&vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        for picture in pictures {
            let parts: Vec<_> = picture.path.iter().map(|part| part.to_string_lossy()).collect();
            crc.update(format!("{label}/{}\0{}\0", parts.join("/"), picture.bytes).as_bytes());
            key.update(&picture.modified.to_le_bytes());
            places.push(picture.place);
            labels.push(label as u32);
            vectors.extend_from_slice(&vector);
        }
        ranges.push(first..places.len());
    }
    let files = Files {
        shape,
        places,
        zip,
        labels: labels.clone(),
        names: names.clone(),
        ranges,
        key: format!(
            "{} {shape} {:08x} {:08x} {:?} {} {}",
            packed::VERSION,
            crc.sum(),
            key.sum(),
            options.unreadable,
            options.max_pixels,
            options.depth
        ),
        packs: packed::places(root, shape),
        packed: OnceLock::new(),
        crc32: format!("{:08x}", crc.sum()),
        unreadable: options.unreadable,
        threads: options.threads(),
        limits: Limits::new(options.max_pixels, options.depth),
        found: Mutex::default(),
    };
    let dataset = Dataset::from_files("folder", names, labels, files, options)?;
    let dataset = Dataset { notes, ..dataset };
    Ok(match columns {
        None => dataset,
        Some(classes) => {
            let vectors = Some(Arc::new(Vectors { classes: classes.len(), values: vectors }));
            Dataset { classes, labels: (0..dataset.len() as u32).collect(), vectors, ..dataset }
        }
    })
}

impl Files {
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    pub fn crc32(&self) -> &str {
        &self.crc32
    }

    /// Threads that decode.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Bytes of all images, decoded.
    pub fn bytes(&self) -> usize {
        self.places.len().saturating_mul(self.shape.len())
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the file `index` for what decodes it.
    fn decode<T>(
        &self,
        index: usize,
        decode: impl FnOnce(&mut dyn Input) -> std::result::Result<T, Fault>,
    ) -> std::result::Result<T, Fault> {
        match (&self.places[index], &self.zip) {
            (Place::File(path), _) => {
                let file = File::open(path).map_err(|e| e.to_string())?;
                decode(&mut BufReader::new(file))
            }
            (Place::Zipped(_, way), Some(zip)) => {
                // No picture has more than 8 bytes a pixel, besides some metadata.
                let most = (self.limits.max_pixels as u64).saturating_mul(8).saturating_add(1 << 24);
                decode(&mut Cursor::new(zip.read(*way, most)?))
            }
            (Place::Zipped(..), None) => Err("its archive is not open".to_string().into()),
        }
    }

    fn error(&self, index: usize, what: String) -> Error {
        Error::Data { path: self.places[index].shown().to_string().into(), what }
    }

    /// Decodes image `index` into `out` (H, W, C).
    pub fn read(&self, index: usize, out: &mut [u8]) -> Result<()> {
        if self.packed().is_some_and(|packed| packed.read(index, out)) {
            return Ok(());
        }
        let (candidate, deep) = self.first_that_works(index, |candidate| {
            self.decode(candidate, |input| decode::read(input, self.shape, &self.limits, out))
        })?;
        if let Some(largest) = deep.filter(|largest| (1..1 << 14).contains(largest)) {
            let mut found = self.found();
            found.dark.insert(candidate);
            found.largest = found.largest.max(largest);
        }
        Ok(())
    }

    /// Image `index` in the size that its file has.
    pub fn read_whole(&self, index: usize) -> Result<(ImageShape, Vec<u8>)> {
        let channels = self.shape.channels;
        let decode = |candidate| self.decode(candidate, |input| decode::whole(input, channels, &self.limits));
        self.first_that_works(index, decode).map(|(_, image)| image)
    }

    /// What `decode` makes of the file `index`, or of the one that stands in, and which that is.
    fn first_that_works<T>(
        &self,
        index: usize,
        mut decode: impl FnMut(usize) -> std::result::Result<T, Fault>,
    ) -> Result<(usize, T)> {
        let label = self.labels[index] as usize;
        let range = self.ranges[label].clone();
        // The next file of its class stands in for an unreadable one; after the last comes the first.
        for candidate in (index..range.end).chain(range.start..index) {
            if self.unreadable == Unreadable::Skip && self.is_unreadable(candidate) {
                continue;
            }
            match decode(candidate) {
                Ok(image) => return Ok((candidate, image)),
                // Whether a file is skipped does not depend on the memory that there is.
                Err(Fault::Machine(what)) => return Err(self.error(candidate, what)),
                Err(Fault::Picture(what)) if self.unreadable == Unreadable::Refuse => {
                    return Err(self.error(candidate, format!("{what}; --unreadable skip would leave it out")));
                }
                Err(Fault::Picture(what)) => {
                    self.found().new.insert(candidate, what);
                }
            }
        }
        let (name, n) = (&self.names[label], range.len());
        Err(self.error(index, format!("class {name}: none of its {n} images can be read")))
    }

    fn is_unreadable(&self, index: usize) -> bool {
        let found = self.found();
        found.told.contains_key(&index) || found.new.contains_key(&index)
    }

    /// `FILE: reason` of each file that was found unreadable since the last call.
    pub fn newly_unreadable(&self) -> Vec<String> {
        let mut found = self.found();
        let new = std::mem::take(&mut found.new);
        let lines = new.iter().map(|(i, what)| format!("{}: {what}", self.places[*i].shown())).collect();
        found.told.extend(new);
        lines
    }

    /// A line about pictures that have 16 bits a sample and use fewer, where more were found since the last call.
    pub fn newly_dark(&self) -> Option<String> {
        let mut found = self.found();
        let (count, largest) = (found.dark.len(), found.largest);
        let first = found.dark.first().map(|i| self.places[*i].shown().to_string())?;
        if found.told_dark == count {
            return None;
        }
        found.told_dark = count;
        let bits = u16::BITS - largest.leading_zeros();
        let depth = if self.limits.depth > bits { format!("; --depth {bits} scales them") } else { String::new() };
        (!depth.is_empty()).then(|| {
            format!(
                "{count} of the 16-bit pictures, {first} for one, have no sample above {largest}: nearly black{depth}"
            )
        })
    }

    /// All images (count, H, W, C), decoded by all threads.
    pub fn read_all(&self) -> Result<Vec<u8>> {
        let mut all = filled("images", self.bytes(), 0).map_err(|_| {
            let what = format!("{} images of {} need more memory than there is", self.places.len(), self.shape);
            Error::Config(format!("data: {what}; a smaller --data-memory streams them from the disk"))
        })?;
        let images = all.chunks_exact_mut(self.shape.len()).enumerate();
        packed::on_threads(self.threads, images, |index, image| self.read(index, image))?;
        Ok(all)
    }

    /// Looks for the file that these images were packed into. The error is of a damaged one.
    pub fn find_packed(&self) -> Result<()> {
        for path in &self.packs {
            let Some((packed, facts)) = Packed::open(path, &self.key, self.places.len(), self.shape.len())? else {
                continue;
            };
            let mut found = self.found();
            (found.dark, found.largest) = (facts.dark, facts.largest);
            let new = facts.unreadable.into_iter().filter(|(index, _)| !found.told.contains_key(index)).collect();
            found.new = new;
            drop(self.packed.set(packed));
            break;
        }
        Ok(())
    }

    pub fn packed(&self) -> Option<&Packed> {
        self.packed.get()
    }

    /// Decodes all images into a file, unless there is one, to read them from there from now on. Other processes that want to do the
    /// same wait. Where the file cannot be written, images are decoded as before. An error is of a picture. `tell` gets lines
    /// for people.
    pub fn pack(&self, tell: &dyn Fn(String)) -> Result<()> {
        let mut reason = "there is no folder for them (neither XDG_CACHE_HOME nor HOME is set)".to_string();
        for path in self.packs.iter().filter(|_| self.packed().is_none()) {
            let folder = path.parent().unwrap_or(Path::new("."));
            let made = std::fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder));
            if let Err(error) = made {
                reason = format!("{}: {error}", folder.display());
                continue;
            }
            let _lock = files::lock(folder).or_else(|_| {
                tell(format!("{}: another process packs images there; this one waits for it", folder.display()));
                let folder = File::open(folder)?;
                folder.lock().map(|()| Some(folder))
            });
            self.find_packed().unwrap_or_else(|error| tell(format!("{error}; images are packed anew")));
            if self.packed().is_some() {
                return Ok(());
            }
            packed::remove_unfinished(path);
            let (count, megabytes, file) = (self.places.len(), self.bytes() as f64 * 1e-6, path.display());
            tell(format!("{count} images are decoded once into {file}, {megabytes:.1} MB; --pack false does without"));
            let decode = |put: &(dyn Fn(usize, &[u8]) -> Result<()> + Sync)| {
                packed::on_threads(self.threads, (0..count).map(|index| (index, ())), |index, ()| {
                    let mut image = filled("an image", self.shape.len(), 0)?;
                    self.read(index, &mut image)?;
                    put(index, &image)
                })
            };
            match packed::write(path, count, self.shape.len(), decode, || self.facts()) {
                Ok(()) => return self.find_packed(),
                // Pictures have errors of another kind.
                Err(Error::Io { source, .. }) => reason = format!("{file}: {source}"),
                Err(error) => return Err(error),
            }
            break;
        }
        if self.packed().is_none() {
            tell(format!("not packed: {reason}; images are decoded in each epoch"));
        }
        Ok(())
    }

    fn facts(&self) -> Facts {
        let found = self.found();
        let unreadable = found.new.iter().chain(&found.told).map(|(index, what)| (*index, what.clone())).collect();
        Facts { key: self.key.clone(), unreadable, dark: found.dark.clone(), largest: found.largest }
    }
}
