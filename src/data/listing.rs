//! Finds the pictures of a folder, or of a zip of one, and sorts them into classes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::vectors::{self, Line, Table};
use super::zip::{Way, Zip};
use super::{Unreadable, some_names};
use crate::text::plain;
use crate::{Error, Result};

/// The endings of files that are read, in small letters. What is in a file is told by its first bytes.
const ENDINGS: &[&str] = &["png", "apng", "jpg", "jpeg", "jpe", "jfif", "jif", "jfi", "gif", "bmp", "dib", "webp"];

/// What the parts of a data set are called, of which none is a class.
const PARTS: &[&str] = &["train", "training", "test", "testing", "val", "valid", "validation"];

/// StyleGAN's file of labels.
const LABELS: &str = "dataset.json";

/// Where a picture is.
pub enum Place {
    File(PathBuf),
    Zipped(PathBuf, Way),
}

impl Place {
    pub fn shown(&self) -> std::path::Display<'_> {
        let (Place::File(path) | Place::Zipped(path, _)) = self;
        path.display()
    }
}

pub struct Picture {
    pub place: Place,
    /// Relative to the folder of its class.
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
    /// When the file, or the archive that it is in, was changed last, in nanoseconds since 1970; 0 where nobody knows.
    pub modified: u64,
}

/// The pictures of a class, in the order of their paths; or those that have the same vector for a label.
pub struct Class {
    pub name: String,
    pub pictures: Vec<Picture>,
    /// Empty where labels are classes.
    pub vector: Vec<f32>,
}

/// What was found.
pub struct Listing {
    pub classes: Vec<Class>,
    /// Where labels are vectors: the names of the classes that their numbers are of.
    pub columns: Option<Vec<String>>,
    /// The open archive, where the pictures are in one.
    pub zip: Option<Zip>,
    /// A line for each kind of thing that is there and not used.
    pub notes: Vec<String>,
}

/// What a walk over all files finds.
#[derive(Default)]
struct Found {
    pictures: Vec<Picture>,
    /// Of files that are not read: how many have each ending.
    others: BTreeMap<String, usize>,
    /// Links to nothing, links back to a folder that they are in, and what is neither file nor folder.
    dangling: Vec<PathBuf>,
    circles: Vec<PathBuf>,
    special: Vec<PathBuf>,
    /// Folders at the top.
    folders: Vec<PathBuf>,
    labels: Option<Vec<u8>>,
}

/// `csv` is a file of labels, which no `dataset.json` is read beside.
pub fn list(root: &Path, csv: Option<&Path>, unreadable: Unreadable) -> Result<Listing> {
    let (mut found, zip) = if root.is_file() {
        let zip = Zip::open(root, "a folder of images was expected, or a zip of one")?;
        (in_zip(&zip, root)?, Some(zip))
    } else {
        let mut found = Found::default();
        walk(root, Path::new(""), &mut Vec::new(), &mut found)?;
        (found, None)
    };
    if let Some(link) = found.dangling.first().filter(|_| unreadable == Unreadable::Refuse) {
        let to = fs::read_link(root.join(link)).unwrap_or_default();
        let what = format!("a link to {}, which is not there; --unreadable skip would leave it out", to.display());
        return Err(Error::Data { path: root.join(link), what });
    }
    found.pictures.sort_by(|a, b| a.path.cmp(&b.path));
    if csv.is_some() {
        found.labels = None;
    }
    let mut notes = found.notes();
    if found.pictures.is_empty() {
        let mut what = "there is no PNG or JPEG file here, nor GIF, BMP or WebP, nor in a sub-folder".to_string();
        notes.iter().for_each(|note| what.push_str(&format!("; {note}")));
        return Err(Error::Data { path: root.to_path_buf(), what });
    }
    let labels = match (csv, found.labels.take()) {
        (Some(csv), _) => Some(Labels { path: csv.into(), of: Of::Vectors(vectors::read(csv)?) }),
        (None, Some(bytes)) => Labels::read(&root.join(LABELS), &bytes)?.or_else(|| {
            notes.push(format!("left out {LABELS}: there are no labels in it"));
            None
        }),
        (None, None) => None,
    };
    let (classes, columns) = match labels {
        Some(labels) => labels.classes(found.pictures, root, &mut notes)?,
        None => (by_folder(found.pictures, root, &mut notes)?, None),
    };
    Ok(Listing { classes, columns, zip, notes })
}

/// As [`Picture::modified`].
fn modified(file: &fs::Metadata) -> u64 {
    let since = file.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_nanos() as u64)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "__MACOSX"
}

/// Adds what is in the folder `root`/`inside`, at any depth. `above` are the folders that it is in, with links resolved.
fn walk(root: &Path, inside: &Path, above: &mut Vec<PathBuf>, found: &mut Found) -> Result<()> {
    let folder = root.join(inside);
    let real = fs::canonicalize(&folder).map_err(Error::io(&folder))?;
    if above.contains(&real) {
        found.circles.push(inside.to_path_buf());
        return Ok(());
    }
    above.push(real);
    for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
        let entry = entry.map_err(Error::io(&folder))?;
        if is_hidden(&entry.file_name()) {
            continue;
        }
        let (path, inside) = (entry.path(), inside.join(entry.file_name()));
        match fs::metadata(&path) {
            Ok(kind) if kind.is_dir() => {
                if above.len() == 1 {
                    found.folders.push(inside.clone());
                }
                walk(root, &inside, above, found)?;
            }
            Ok(kind) if kind.is_file() => {
                if inside == Path::new(LABELS) {
                    found.labels = Some(fs::read(&path).map_err(Error::io(&path))?);
                }
                found.file(inside, (kind.len(), modified(&kind)), Place::File(path));
            }
            Ok(_) => found.special.push(inside),
            Err(_) if fs::read_link(&path).is_ok() => found.dangling.push(inside),
            Err(error) => return Err(Error::io(&path)(error)),
        }
    }
    above.pop();
    Ok(())
}

fn in_zip(zip: &Zip, root: &Path) -> Result<Found> {
    let mut found = Found::default();
    let changed = fs::metadata(root).map_or(0, |archive| modified(&archive));
    let mut entries = zip.entries()?;
    // A zip of a folder has everything in that folder.
    let is_labels = |path: &Path| path.ends_with(LABELS) && path.components().count() == 2;
    let top = entries.iter().find(|e| is_labels(&e.path)).and_then(|e| e.path.parent().map(Path::to_path_buf));
    if let Some(top) = top.filter(|top| entries.iter().all(|e| e.path.starts_with(top))) {
        for entry in &mut entries {
            entry.path = entry.path.strip_prefix(&top).unwrap_or(&entry.path).to_path_buf();
        }
    }
    for entry in entries {
        if entry.path.components().any(|part| is_hidden(part.as_os_str())) {
            continue;
        }
        if entry.path == Path::new(LABELS) {
            found.labels = Some(zip.read(entry.way, 1 << 30).map_err(|what| Error::Data { path: root.into(), what })?);
        }
        let place = Place::Zipped(root.join(&entry.path), entry.way);
        found.file(entry.path, (entry.bytes, changed), place);
    }
    Ok(found)
}

impl Found {
    fn file(&mut self, path: PathBuf, (bytes, modified): (u64, u64), place: Place) {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        match ending {
            Some(ending) if ENDINGS.contains(&ending.as_str()) => {
                self.pictures.push(Picture { place, path, bytes, modified });
            }
            Some(ending) => *self.others.entry(format!(".{ending}")).or_default() += 1,
            None => *self.others.entry("without an ending".into()).or_default() += 1,
        }
    }

    /// A line for each kind of thing that is not used.
    fn notes(&mut self) -> Vec<String> {
        if self.labels.is_some() {
            // It is used; where it is the only file of its ending, nothing else is left out.
            let json = self.others.get_mut(".json").map(|n| std::mem::take(n) - 1).unwrap_or(0);
            self.others.retain(|_, n| *n > 0);
            if json > 0 {
                self.others.insert(".json".into(), json);
            }
        }
        let mut notes = Vec::new();
        let others: usize = self.others.values().sum();
        if others > 0 {
            let each: Vec<String> = self.others.iter().map(|(ending, n)| format!("{n} {ending}")).collect();
            notes.push(format!("left out {}: {}", count(others, "file"), some_names(&each)));
        }
        let top = |path: &Path| path.components().next().map(|part| PathBuf::from(part.as_os_str()));
        let used: std::collections::BTreeSet<_> = self.pictures.iter().filter_map(|p| top(&p.path)).collect();
        self.folders.sort();
        let empty: Vec<PathBuf> = self.folders.iter().filter(|folder| !used.contains(*folder)).cloned().collect();
        for (paths, what) in [
            (&self.dangling, "link to nothing"),
            (&self.circles, "link back to a folder around it"),
            (&self.special, "thing that is neither file nor folder"),
            (&empty, "sub-folder without images"),
        ] {
            if !paths.is_empty() {
                let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
                notes.push(format!("left out {}: {}", count(names.len(), what), some_names(&names)));
            }
        }
        notes
    }
}

/// `1 file`, `2 files`, `2 links to nothing`.
fn count(n: usize, what: &str) -> String {
    let (first, rest) = what.split_once(' ').map_or((what, String::new()), |(first, rest)| (first, format!(" {rest}")));
    format!("{n} {first}{}{rest}", if n == 1 { "" } else { "s" })
}

/// A class for each folder at the top, with all that is below it; or one class of the files that are there themselves.
fn by_folder(pictures: Vec<Picture>, root: &Path, notes: &mut Vec<String>) -> Result<Vec<Class>> {
    let mut folders: BTreeMap<PathBuf, Vec<Picture>> = BTreeMap::new();
    let mut flat = Vec::new();
    for mut picture in pictures {
        let mut parts = picture.path.components();
        match (parts.next(), parts.as_path()) {
            (Some(top), rest) if rest != Path::new("") => {
                let top = PathBuf::from(top.as_os_str());
                picture.path = rest.to_path_buf();
                folders.entry(top).or_default().push(picture);
            }
            _ => flat.push(picture),
        }
    }
    if folders.is_empty() {
        return Ok(vec![one_class(root, flat)]);
    }
    if !flat.is_empty() {
        let what = format!(
            "{} images beside {} sub-folders with images: a class each, or no classes",
            flat.len(),
            folders.len()
        );
        return Err(Error::Data { path: root.to_path_buf(), what });
    }
    if let [(only, pictures)] = folders.iter().collect::<Vec<_>>().as_slice() {
        let parts: std::collections::BTreeSet<_> = pictures.iter().filter_map(|p| p.path.parent()).collect();
        if parts.len() > 1 {
            let (only, inner, n) = (only.display(), root.join(only), parts.len());
            notes.push(format!("{only} is one class; folder:{} takes its {n} sub-folders as classes", inner.display()));
        }
    }
    let is_part = |folder: &PathBuf| PARTS.iter().any(|part| folder.as_os_str().eq_ignore_ascii_case(part));
    if folders.keys().all(is_part) {
        let names: Vec<String> = folders.keys().map(|folder| folder.display().to_string()).collect();
        let (names, one) = (some_names(&names), root.join(&names[0]));
        notes.push(format!("{names}: read as classes; folder:{} reads one of them alone", one.display()));
    }
    let is_shard = |(i, folder): (usize, &PathBuf)| folder.as_os_str() == format!("{i:05}").as_str();
    if folders.len() > 1 && folders.keys().enumerate().all(is_shard) {
        let what = "folders 00000, 00001, ... are read as classes; of shards, --conditioning none knows no classes";
        notes.push(format!("{what}, and a {LABELS} has the labels"));
    }
    let mut classes: Vec<(PathBuf, Vec<Picture>)> = folders.into_iter().collect();
    classes.sort_by(|(a, _), (b, _)| natural(&a.to_string_lossy(), &b.to_string_lossy()).then(a.cmp(b)));
    let mut named: Vec<Class> = Vec::with_capacity(classes.len());
    let mut taken = std::collections::HashSet::new();
    for (folder, pictures) in classes {
        let mut name = name_of(folder.as_os_str());
        while !taken.insert(name.clone()) {
            name.push('+');
        }
        named.push(Class { name, pictures, vector: Vec::new() });
    }
    Ok(named)
}

fn one_class(root: &Path, pictures: Vec<Picture>) -> Class {
    Class { name: name_of(root.file_name().unwrap_or_default()), pictures, vector: Vec::new() }
}

/// A folder's name as text. Bytes that are no text, and control characters, become `\xNN`, so that two names stay two.
fn name_of(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        text.push_str(&plain(chunk.valid(), &[]));
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// The order in which people count: `2` before `10`, `img9` before `img10`. Names that differ in leading zeros alone, or not
/// at all, are equal.
pub fn natural(a: &str, b: &str) -> Ordering {
    /// Splits a number off, or a piece without digits. Numbers come without leading zeros.
    fn piece(text: &str) -> (&str, &str, bool) {
        let digits = text.starts_with(|c: char| c.is_ascii_digit());
        let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
        (&text[..end], &text[end..], digits)
    }
    let (mut a, mut b) = (a, b);
    while !a.is_empty() && !b.is_empty() {
        let ((part_a, rest_a, digits_a), (part_b, rest_b, digits_b)) = (piece(a), piece(b));
        let order = if digits_a && digits_b {
            let (x, y) = (part_a.trim_start_matches('0'), part_b.trim_start_matches('0'));
            x.len().cmp(&y.len()).then(x.cmp(y))
        } else {
            part_a.cmp(part_b)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    a.len().cmp(&b.len())
}

/// A file of labels: one for StyleGAN, or a CSV file.
struct Labels {
    path: PathBuf,
    of: Of,
}

enum Of {
    /// The data set has no labels.
    Nothing,
    /// The class for a picture's path, with `/` between its parts.
    Numbers(BTreeMap<String, u64>),
    Vectors(Table),
}

/// A picture's path as files of labels have it.
fn key(path: &Path) -> String {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The same of what a file of labels has.
fn key_of(file: &str) -> String {
    file.replace('\\', "/").trim_start_matches("./").to_string()
}

impl Labels {
    /// Nothing where the file is another program's.
    fn read(path: &Path, bytes: &[u8]) -> Result<Option<Labels>> {
        let fail = |what: String| Error::Data { path: path.to_path_buf(), what };
        // Some programs of Windows put a mark at the beginning.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| fail(format!("no JSON: {e}")))?;
        let Some(labels) = json.get("labels") else { return Ok(None) };
        if labels.is_null() {
            return Ok(Some(Labels { path: path.to_path_buf(), of: Of::Nothing }));
        }
        let list = labels.as_array().ok_or_else(|| fail("labels: expected a list, or null".into()))?;
        // The first vector says how long all are.
        let classes = list.iter().find_map(|pair| pair.get(1)?.as_array()).map(Vec::len);
        if let Some(classes) = classes {
            let lines = list.iter().enumerate().map(|(at, pair)| {
                let what = || {
                    format!("labels[{at}] is not [\"FILE\", [{classes} NUMBERS]] or [\"FILE\", null], as others are")
                };
                vector(at, pair, classes).ok_or_else(|| fail(what()))
            });
            let lines = lines.collect::<Result<_>>()?;
            let classes = (0..classes).map(|class| class.to_string()).collect();
            return Ok(Some(Labels { path: path.to_path_buf(), of: Of::Vectors(Table { classes, lines }) }));
        }
        let wrong = |at: usize| {
            fail(format!("labels[{at}] is not [\"FILE\", NUMBER]: zgan reads numbers of classes, or vectors for all"))
        };
        let mut of = BTreeMap::new();
        for (at, pair) in list.iter().enumerate() {
            let (file, label) = (pair.get(0).and_then(|v| v.as_str()), pair.get(1));
            let whole = |v: &serde_json::Value| {
                v.as_u64()
                    .or_else(|| v.as_f64().filter(|x| x.fract() == 0.0 && (0.0..1e15).contains(x)).map(|x| x as u64))
            };
            let (Some(file), Some(label)) = (file.map(key_of), label.and_then(whole)) else { return Err(wrong(at)) };
            if let Some(other) = of.get(&file).filter(|other| **other != label) {
                return Err(fail(format!("labels[{at}]: {label} for {file}, which has label {other} already")));
            }
            of.insert(file, label);
        }
        Ok(Some(Labels { path: path.to_path_buf(), of: Of::Numbers(of) }))
    }

    /// The pictures by their labels, and, where these are vectors, what their numbers are of.
    fn classes(
        self,
        pictures: Vec<Picture>,
        root: &Path,
        notes: &mut Vec<String>,
    ) -> Result<(Vec<Class>, Option<Vec<String>>)> {
        match self.of {
            Of::Nothing => Ok((vec![one_class(root, pictures)], None)),
            Of::Numbers(of) => Ok((by_number(&self.path, of, pictures, notes)?, None)),
            Of::Vectors(table) => {
                let columns = table.classes.clone();
                Ok((by_vector(&self.path, table, pictures, notes)?, Some(columns)))
            }
        }
    }
}

/// `["FILE", [0, 1, 0.5]]`, or `null` for no labels.
fn vector(at: usize, pair: &serde_json::Value, classes: usize) -> Option<Line> {
    let number = |value: &serde_json::Value| value.as_f64().map(|x| x as f32 + 0.0).filter(|x| x.is_finite());
    let vector: Vec<f32> = match pair.get(1)? {
        serde_json::Value::Null => vec![0.0; classes],
        label => label.as_array()?.iter().map(number).collect::<Option<_>>()?,
    };
    let file = pair.get(0)?.as_str()?.to_string();
    (vector.len() == classes && classes > 0).then(|| Line { at: format!("labels[{at}]"), file, vector })
}

fn by_number(
    path: &Path,
    mut of: BTreeMap<String, u64>,
    pictures: Vec<Picture>,
    notes: &mut Vec<String>,
) -> Result<Vec<Class>> {
    let mut classes: BTreeMap<u64, Vec<Picture>> = BTreeMap::new();
    let mut unlabelled = Vec::new();
    for picture in pictures {
        match of.remove(&key(&picture.path)) {
            Some(label) => classes.entry(label).or_default().push(picture),
            None => unlabelled.push(picture.path.display().to_string()),
        }
    }
    if classes.is_empty() {
        return Err(of_none(path, unlabelled.len()));
    }
    if !unlabelled.is_empty() {
        let (n, names) = (count(unlabelled.len(), "image"), some_names(&unlabelled));
        notes.push(format!("left out {n} without a label in {LABELS}: {names}"));
    }
    notes.extend(absent(path, of.keys()));
    let most = classes.keys().next_back().copied().unwrap_or(0);
    let missing = (most + 1).saturating_sub(classes.len() as u64);
    if missing > 0 {
        notes.push(format!("{} below {most} without images: no class", count(missing as usize, "label")));
    }
    let class = |(label, pictures): (u64, _)| Class { name: label.to_string(), pictures, vector: Vec::new() };
    Ok(classes.into_iter().map(class).collect())
}

/// The pictures that have the same vector are a class here. One that the table does not have, or has without labels, has zeros.
fn by_vector(path: &Path, table: Table, pictures: Vec<Picture>, notes: &mut Vec<String>) -> Result<Vec<Class>> {
    let mut of: BTreeMap<String, Line> = BTreeMap::new();
    for line in table.lines {
        let file = key_of(&line.file);
        if let Some(other) = of.get(&file).filter(|other| other.vector != line.vector) {
            let what = format!("{}: other labels for {file} than {} has", line.at, other.at);
            return Err(Error::Data { path: path.into(), what });
        }
        of.insert(file, line);
    }
    let mut classes: BTreeMap<Vec<u32>, Class> = BTreeMap::new();
    let (mut unlabelled, mut all) = (Vec::new(), 0);
    for picture in pictures {
        let line = of.remove(&key(&picture.path)).filter(Line::is_labelled);
        all += 1;
        if line.is_none() {
            unlabelled.push(picture.path.display().to_string());
        }
        let vector = line.map_or(vec![0.0; table.classes.len()], |line| line.vector);
        let bits = vector.iter().map(|x| x.to_bits()).collect();
        let name = format!("{vector:?}");
        classes.entry(bits).or_insert(Class { name, pictures: Vec::new(), vector }).pictures.push(picture);
    }
    if unlabelled.len() == all {
        return Err(of_none(path, all));
    }
    if !unlabelled.is_empty() {
        notes.push(format!("{} without labels: {}", count(unlabelled.len(), "image"), some_names(&unlabelled)));
    }
    notes.extend(absent(path, of.keys()));
    Ok(classes.into_values().collect())
}

fn of_none(path: &Path, images: usize) -> Error {
    Error::Data { path: path.into(), what: format!("none of its labels is of one of the {images} images here") }
}

/// A line about labels of files that are not here.
fn absent<'a>(path: &Path, files: impl ExactSizeIterator<Item = &'a String>) -> Option<String> {
    let (n, labels) = (files.len(), path.file_name().unwrap_or_default().display());
    let names: Vec<String> = files.take(5).cloned().collect();
    (n > 0).then(|| format!("{labels} has labels of {} that are not here: {}", count(n, "file"), names.join(", ")))
}
