//! The classifier of a data set, which is trained once and then kept in a file.

use std::path::{Path, PathBuf};

use super::classifier::{BATCH, Classifier, Training};
use crate::checkpoint::{self, FORMAT, Header};
use crate::data::{DataInfo, DataOptions, DataSource, Dataset, Split};
use crate::device::Device;
use crate::{Error, Result, files, random};

/// Grows when the network or its training changes: files of other versions are not used.
const VERSION: u32 = 1;

/// What the names of kept classifiers begin with.
const START: &str = ".zgan-classifier-";

/// The most images that a classifier is tested on.
const TESTED: usize = 10_000;

/// How many images a classifier gave the right label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tested {
    pub right: usize,
    pub images: usize,
    /// Whether these are images that it was not trained on.
    pub held_out: bool,
}

/// A trained classifier, and how good it is.
pub struct Ready {
    pub classifier: Classifier,
    pub tested: Tested,
}

/// The folders in which the classifier of some data may be kept. It is written to the first one that can be written to.
pub struct Cache {
    places: Vec<PathBuf>,
}

impl Cache {
    /// The folder of the data, if there is one, then the user's cache folder.
    pub fn of(source: &DataSource) -> Cache {
        let beside = match source {
            DataSource::Mnist10k | DataSource::Points(_) => None,
            DataSource::Idx(folder)
            | DataSource::Cifar10(folder)
            | DataSource::Cifar100(folder)
            | DataSource::Folder(folder) => Some(folder.clone()),
        };
        // A zip, or a prefix of files' names, is no folder.
        let beside = beside.filter(|folder| folder.is_dir());
        Cache { places: beside.into_iter().chain(files::users_cache()).collect() }
    }

    /// The folders, in the order in which they are tried.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().map(PathBuf::as_path)
    }

    /// This folder alone.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Cache {
        Cache { places: vec![folder.into()] }
    }

    /// The kept classifier of these data, or a new one. `tell` gets a line for people where there is something to say.
    /// `go_on` is asked before each step of a training; there is no classifier where it says no.
    pub fn classifier(
        &self,
        device: &Device,
        data: &Dataset,
        test: Option<&Dataset>,
        training: &Training,
        tell: &mut dyn FnMut(String),
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Ready>> {
        let info = data.info();
        let file = file_name(&info);
        for path in self.places.iter().map(|place| place.join(&file)).filter(|path| path.exists()) {
            match load(device, &path, &info, training) {
                Ok(ready) => return Ok(Some(ready)),
                Err(error @ Error::OutOfMemory { .. }) => return Err(error),
                Err(error) => tell(format!("{error}; the classifier is trained anew")),
            }
        }
        tell(format!("the classifier of {} is trained, {} steps; it will be kept", info.name, training.steps));
        let begun = std::time::Instant::now();
        let Some(classifier) = Classifier::train(device, data, training, go_on)? else { return Ok(None) };
        let seconds = begun.elapsed().as_secs_f64();
        let Some(tested) = tested(&classifier, data, test, go_on)? else { return Ok(None) };
        let kept = match self.save(&classifier, &tested, info, training)? {
            Ok(path) => format!("kept in {}", path.display()),
            Err(reason) => format!("not kept: {reason}"),
        };
        tell(format!("{tested}; trained in {seconds:.1} s, {kept}"));
        Ok(Some(Ready { classifier, tested }))
    }

    /// Keeps a classifier. Gives the file, or the reason why it could not be kept.
    fn save(
        &self,
        classifier: &Classifier,
        tested: &Tested,
        data: DataInfo,
        training: &Training,
    ) -> Result<std::result::Result<PathBuf, String>> {
        let mut config = settings(training);
        for (name, value) in [("right", tested.right), ("tested", tested.images)] {
            config.insert(name.into(), (value as i64).into());
        }
        config.insert("held-out".into(), tested.held_out.into());
        let tensors = classifier.tensors()?;
        let file = file_name(&data);
        let header = Header { format: FORMAT, step: training.steps, config, data, scaling: None };
        let mut reason = "there is no folder for it (neither XDG_CACHE_HOME nor HOME is set)".to_string();
        for place in &self.places {
            let path = place.join(&file);
            let made = std::fs::create_dir_all(place).map_err(Error::io(place));
            files::remove_unfinished(place, START);
            match made.and_then(|()| checkpoint::save(&path, &tensors, &header)) {
                Ok(()) => return Ok(Ok(path)),
                Err(error) => reason = error.to_string(),
            }
        }
        Ok(Err(reason))
    }
}

impl std::fmt::Display for Tested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = 100.0 * self.right as f64 / self.images.max(1) as f64;
        let which = if self.held_out { "held-out images" } else { "of the images it was trained on" };
        write!(f, "classifier {share:.1} % right on {} {which}", self.images)
    }
}

/// The images of `source` that a classifier is tested on because it is not trained on them, if there are any.
pub fn held_out(source: &DataSource, options: &DataOptions, data: &Dataset) -> Option<Dataset> {
    let test = source.open(Split::Test, options).ok()?.of_classes(data.classes())?;
    (test.shape() == data.shape()).then_some(test)
}

pub(super) fn tested(
    classifier: &Classifier,
    data: &Dataset,
    test: Option<&Dataset>,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Tested>> {
    let on = test.unwrap_or(data);
    let indices = some_of((0..on.len()).collect(), TESTED, 0);
    let mut right = 0;
    for indices in indices.chunks(BATCH) {
        if !go_on() {
            return Ok(None);
        }
        right += classifier.right(on, indices)?;
    }
    Ok(Some(Tested { right, images: indices.len(), held_out: test.is_some() }))
}

/// Chooses `most` of these numbers at random.
pub(super) fn some_of(mut from: Vec<usize>, most: usize, stream: u32) -> Vec<usize> {
    if from.len() > most {
        let mut random = random::Random::new(1, stream, 0);
        for i in 0..most {
            let other = i + random.below((from.len() - i) as u32) as usize;
            from.swap(i, other);
        }
        from.truncate(most);
    }
    from
}

fn load(device: &Device, path: &Path, info: &DataInfo, training: &Training) -> Result<Ready> {
    let fail = |what: String| Error::Checkpoint { path: path.to_path_buf(), what };
    let (header, tensors) = checkpoint::load(path)?;
    if header.data != *info {
        return Err(fail("it is of other images".into()));
    }
    let wanted = settings(training);
    let differing = wanted.iter().filter(|(name, value)| header.config.get(*name) != Some(*value));
    let differing: Vec<&str> = differing.map(|(name, _)| name.as_str()).collect();
    if !differing.is_empty() {
        return Err(fail(format!("it was trained otherwise ({})", differing.join(", "))));
    }
    let number = |name: &str| header.config.get(name).and_then(toml::Value::as_integer);
    let counts = number("right").zip(number("tested"));
    let (Some((right, images)), Some(held_out)) = (counts, header.config.get("held-out").and_then(|v| v.as_bool()))
    else {
        return Err(fail("it does not say how good it is".into()));
    };
    let classifier = Classifier::restore(device, info.shape, info.classes.len(), &tensors)
        .map_err(|error| fail(error.to_string()))?;
    Ok(Ready { classifier, tested: Tested { right: right as usize, images: images as usize, held_out } })
}

/// The settings of a training, which a kept classifier must have been trained with.
fn settings(training: &Training) -> toml::Table {
    let Training { steps, batch, rate, shift, seed } = *training;
    toml::Table::from_iter([
        ("classifier".to_string(), toml::Value::from(i64::from(VERSION))),
        ("steps".to_string(), (steps as i64).into()),
        ("batch".to_string(), (batch as i64).into()),
        ("rate".to_string(), f64::from(rate).into()),
        ("shift".to_string(), (shift as i64).into()),
        ("seed".to_string(), (seed as i64).into()),
    ])
}

/// A hidden file, so that a folder of images has nothing else in it to see.
fn file_name(info: &DataInfo) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = info.name.chars().map(plain).collect();
    format!("{START}{VERSION}-{name}-{}-{}.safetensors", info.shape, info.crc32)
}
