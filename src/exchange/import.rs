//! Weights from other programs and other runs: whose they are, what networks they are of, and what of them a run takes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::classes::{ClassMap, Newcomers, remap};
use super::names::{self, Kind, Row, Side};
use super::spectral::{self, ITERATIONS};
use super::{Facts, families, file};
use crate::checkpoint::{self, NamedTensor};
use crate::data::{ImageShape, Size};
use crate::gan::{Setup, layouts, seeds};
use crate::nn::parameters::Entry;
use crate::settings::{Conditioning, Loss, Preset, Settings, name_of};
use crate::{Error, Result};

/// Weights of one or both networks, as they were read.
pub struct Incoming {
    path: PathBuf,
    /// Whether the tensors are called and laid out as here.
    pub(super) own: bool,
    pub(super) tensors: Vec<NamedTensor>,
    metadata: BTreeMap<String, String>,
    /// What the file says of the settings that it was made with.
    settings: toml::Table,
    /// The size of the images, where the file says so.
    pub(super) size: Option<Size>,
    /// The types that its numbers had, where they were made f32.
    converted: Vec<String>,
    /// The names of its classes, where it has them.
    pub class_names: Option<Vec<String>>,
    /// The steps that made the weights, where the file says so.
    pub step: u64,
}

/// What a run takes of such weights: tensors under the names of a checkpoint.
pub struct Taken {
    pub tensors: Vec<NamedTensor>,
    /// Lines that say what was taken, made fresh and left out.
    pub notes: Vec<String>,
}

impl Incoming {
    /// Reads a file: a checkpoint of this program, or a safetensors or npz file with the names of one that it knows. An error
    /// says what it is instead.
    pub fn read(path: &Path) -> Result<Incoming> {
        if checkpoint::is_one(&file::list(path)?.1) {
            let (header, tensors) = checkpoint::load_finite(path)?;
            return Ok(Incoming {
                path: path.to_path_buf(),
                own: true,
                tensors,
                metadata: BTreeMap::new(),
                size: Some(header.data.shape.size()),
                converted: Vec::new(),
                class_names: Some(header.data.classes),
                step: header.step,
                settings: header.config,
            });
        }
        let file::Contents { metadata, tensors, converted } = file::read(path)?;
        let fail = |what| Error::Checkpoint { path: path.to_path_buf(), what };
        let (own, tensors) = families::recognise(tensors).map_err(fail)?;
        let mut settings = toml::Table::new();
        for name in Settings::names() {
            if let Some(text) = metadata.get(&name) {
                let value = format!("x = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("x"));
                settings.insert(name, value.unwrap_or_else(|| text.as_str().into()));
            }
        }
        settings.remove("seed");
        Ok(Incoming {
            path: path.to_path_buf(),
            own,
            tensors,
            settings,
            size: metadata.get("size").and_then(|size| size.parse().ok()),
            converted,
            class_names: metadata.get("class-names").and_then(|names| serde_json::from_str(names).ok()),
            step: metadata.get("step").and_then(|step| step.parse().ok()).unwrap_or(0),
            metadata,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The preset that the file names.
    pub fn preset(&self) -> Option<Preset> {
        self.settings.get("preset")?.as_str()?.parse().ok()
    }

    /// The settings of its networks, of this preset: those that the file names, and what shapes and names tell.
    pub fn settings(&self, preset: Preset, side: Side) -> Result<toml::Table> {
        let all = toml::Table::try_from(Settings::default().networks).map_err(|e| Error::Config(e.to_string()))?;
        let mut table = self.settings.clone();
        table.retain(|name, _| all.contains_key(name));
        let facts = self.facts(preset, side)?;
        let mut found: Vec<(&str, toml::Value)> = Vec::new();
        found.extend(facts.width.map(|width| ("width", (width as i64).into())));
        found.extend(facts.latent.map(|latent| ("latent", (latent as i64).into())));
        if facts.spectral {
            found.push((spectral_option(side), true.into()));
        }
        if preset.architecture.is_convolutional() {
            found.extend(facts.size.map(|size| ("size", size.to_string().into())));
            if side == Side::Generator && facts.classes.is_none() {
                found.push(("conditioning", "none".into()));
            }
        }
        for (name, value) in found {
            table.entry(name).or_insert(value);
        }
        Ok(table)
    }

    /// A tensor that belongs to a spectral norm, if there is one.
    pub(super) fn spectral(&self, side: Side) -> Option<&str> {
        let mine = |t: &&NamedTensor| !self.own || t.name.starts_with(side.name());
        let norms = |t: &&NamedTensor| {
            t.name.ends_with("_orig") || self.own && (t.name.ends_with(".u") || t.name.ends_with(".spectral_u"))
        };
        self.tensors.iter().filter(mine).find(norms).map(|t| t.name.as_str())
    }

    pub(super) fn find(&self, side: Side, row: &Row) -> Option<&NamedTensor> {
        let name = |name: &str| self.tensors.iter().find(|t| t.name == name);
        if self.own {
            return name(&format!("{}.{}", side.name(), row.ours));
        }
        let plain = row.theirs.trim_end_matches("_orig");
        name(plain).or_else(|| name(&format!("{plain}_orig")))
    }

    /// The size of the images that G draws: its file says it, or its preset.
    pub fn shape(&self, preset: Preset, facts: &Facts) -> ImageShape {
        if preset.architecture.draws_points() {
            return preset.sample;
        }
        let channels = self.metadata.get("channels").and_then(|text| text.parse().ok());
        let channels = facts.channels.or(channels).unwrap_or(preset.sample.channels);
        let Size { height, width } = facts.size.unwrap_or(preset.sample.size());
        ImageShape { height, width, channels }
    }

    /// The number of classes that the weights know, as networks of this setup.
    pub fn classes(&self, setup: &Setup, side: Side) -> Result<Option<usize>> {
        let classes = self.facts(setup.preset, side)?.classes;
        if side == Side::Generator || setup.networks.conditioning != Conditioning::InputConcat {
            return Ok(classes);
        }
        // There is a plane for each class behind the channels.
        let row = names::table(setup, side)?.into_iter().find(|row| row.ours == "block1.conv1.weight");
        let inputs = row.and_then(|row| self.find(side, &row)).and_then(|t| t.shape.get(if self.own { 2 } else { 1 }));
        Ok(inputs.and_then(|inputs| inputs.checked_sub(setup.shape.channels)))
    }

    /// What a network of this setup takes. An error names every tensor that is missing, is too much, or has another shape,
    /// and settings that contradict the file.
    pub fn take(&self, setup: &Setup, side: Side, map: &ClassMap) -> Result<Taken> {
        let here = names::table(setup, side)?;
        self.agrees(setup, side, &here)?;
        let known = self.classes(setup, side)?;
        let classes = known.unwrap_or(setup.classes);
        let there = names::table(&setup.with(|s| s.classes = classes), side)?;
        let found = self.values(setup, side, &there)?;
        let converted = match self.converted.join(" and ") {
            types if types.is_empty() => types,
            types => format!(", made F32 from {types}"),
        };
        let letter = side.letter();
        let mut notes = vec![format!("{letter} of {}: {} tensors{converted}", self.path.display(), found.len())];
        let moved = map.from.len() != classes || map.from.iter().enumerate().any(|(i, from)| *from != Some(i));
        let fresh = if moved { first_values(setup, side)? } else { HashMap::new() };
        let change = ClassChange { map, classes, moved, fresh };
        let (tensors, made) = place(side, (&here, &there), found, &change);
        if made > 0 {
            notes.push(format!("{letter}: the vectors of {made} spectral norms made by {ITERATIONS} power iterations"));
        }
        if moved && known.is_some() {
            notes.push(format!("{letter}: {}", change.told()));
        }
        Ok(Taken { tensors, notes })
    }

    /// An error where settings contradict the file.
    fn agrees(&self, setup: &Setup, side: Side, here: &[Row]) -> Result<()> {
        let (facts, networks, path) = (self.facts(setup.preset, side)?, &setup.networks, self.path.display());
        let other = |name: &str, asked: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
            Err(Error::Config(format!("{name}: {asked} asked for, {path} has {found} (preset {})", setup.preset)))
        };
        for (name, asked, found) in [("width", networks.width, facts.width), ("latent", networks.latent, facts.latent)]
        {
            if let Some(found) = found.filter(|found| *found != asked) {
                return other(name, &asked, &found);
            }
        }
        // The weights of D are the same for all sizes with as many blocks.
        let of_images = side == Side::Generator && !setup.draws_points();
        if let Some(found) = facts.size.filter(|found| of_images && *found != setup.shape.size()) {
            return other("size", &setup.shape.size(), &found);
        }
        let normalised = if side == Side::Generator { networks.spectral_norm_g } else { networks.spectral_norm };
        let weight = |name: &&str| self.own || here.iter().any(|row| name.strip_suffix("_orig") == Some(&row.theirs));
        if let Some(name) = self.spectral(side).filter(|_| !normalised).filter(weight) {
            let option = spectral_option(side);
            return Err(Error::Config(format!("{option}: false asked for, {path} has weights with a norm ({name})")));
        }
        Ok(())
    }

    /// The values of the tensors of a network with these rows, in the order that they have here, under the names here; those
    /// of spectral norms may be missing. An error names all tensors that do not fit.
    fn values(&self, setup: &Setup, side: Side, rows: &[Row]) -> Result<HashMap<String, Vec<f32>>> {
        let own = if self.own { spectral::spread(self.tensors.clone(), side, rows) } else { Vec::new() };
        let all = if self.own { &own } else { &self.tensors };
        let by_name: HashMap<&str, &NamedTensor> = all.iter().map(|t| (t.name.as_str(), t)).collect();
        let (mut found, mut wrong, mut used) = (HashMap::new(), Vec::new(), HashSet::new());
        for row in rows {
            let (name, shape) = match self.own {
                true => (format!("{}.{}", side.name(), row.ours), &row.our_shape),
                false => (row.theirs.clone(), &row.their_shape),
            };
            // Weights may come without a norm.
            let plain = name
                .strip_suffix("_orig")
                .filter(|plain| !by_name.contains_key(name.as_str()) && by_name.contains_key(plain));
            let name = plain.map_or(name.clone(), String::from);
            match by_name.get(name.as_str()) {
                None if matches!(row.kind, Kind::U | Kind::V) => {}
                None => wrong.push(format!("{name} {shape:?} is missing")),
                Some(tensor) if tensor.shape != *shape => {
                    wrong.push(format!("{name} is {:?}, expected {shape:?}", tensor.shape));
                }
                Some(tensor) => {
                    let values = if self.own { tensor.values.clone() } else { row.back(&tensor.values) };
                    found.insert(row.ours.clone(), values);
                }
            }
            used.insert(name);
        }
        if let Some(bias) = names::last_bias(setup, side).and_then(|name| by_name.get(name)) {
            self.may_lack(bias, setup.training.loss)?;
            used.insert(bias.name.clone());
        }
        // A checkpoint has much besides.
        let mut surplus: Vec<&str> =
            by_name.keys().copied().filter(|name| !self.own && !used.contains(*name)).collect();
        surplus.sort_unstable();
        wrong
            .extend(surplus.iter().map(|name| format!("{name} {:?} is not part of this network", by_name[name].shape)));
        if wrong.is_empty() { Ok(found) } else { Err(self.fail(misfits(wrong, setup, side))) }
    }

    /// An error unless D judges the same without its last bias.
    fn may_lack(&self, bias: &NamedTensor, loss: Loss) -> Result<()> {
        if loss == Loss::Softmax || bias.values.iter().all(|x| *x == 0.0) {
            return Ok(());
        }
        let (name, value, loss) = (&bias.name, bias.values[0], name_of(&loss));
        Err(self.fail(format!("{name} is {value}, and D has no such bias here: loss {loss:?} would notice")))
    }

    fn fail(&self, what: String) -> Error {
        Error::Checkpoint { path: self.path.clone(), what }
    }
}

/// A message with the first few tensors that do not fit.
fn misfits(mut wrong: Vec<String>, setup: &Setup, side: Side) -> String {
    let more = wrong.len().saturating_sub(5);
    wrong.truncate(5);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("not the {} of preset {}: {}{rest}", side.letter(), setup.preset, wrong.join("; "))
}

/// How the classes of the weights become those of a run.
struct ClassChange<'a> {
    map: &'a ClassMap,
    /// How many the weights know.
    classes: usize,
    /// Whether anything changes.
    moved: bool,
    /// What a new run's parameters begin with, for classes that begin so.
    fresh: HashMap<String, Vec<f32>>,
}

impl ClassChange<'_> {
    /// The values of a tensor that has a row for each class, with the rows of the run's classes.
    fn values(&self, row: &Row, old: &Row, values: Vec<f32>) -> Vec<f32> {
        let Some(axis) = row.classes.filter(|_| self.moved) else { return values };
        let fresh = self.fresh.get(&row.ours).filter(|_| self.map.newcomers == Newcomers::Fresh);
        remap(&values, &old.our_shape, (axis, self.classes), &self.map.from, fresh.map(Vec::as_slice))
    }

    fn told(&self) -> String {
        let from = &self.map.from;
        let kept: HashSet<usize> = from.iter().flatten().copied().collect();
        let fresh = from.iter().filter(|old| old.is_none()).count();
        format!(
            "{} of {} classes go on from the {} there; {fresh} begin {}, {} of those there are left out",
            from.len() - fresh,
            from.len(),
            self.classes,
            if self.map.newcomers == Newcomers::Mean { "from their mean" } else { "fresh" },
            self.classes - kept.len()
        )
    }
}

/// The tensors of a run with the rows `here`, from the values of weights with the rows `there`; and for how many weights the
/// vectors of a spectral norm had to be made.
fn place(
    side: Side,
    (here, there): (&[Row], &[Row]),
    mut found: HashMap<String, Vec<f32>>,
    change: &ClassChange,
) -> (Vec<NamedTensor>, usize) {
    let named = |row: &Row, values| NamedTensor {
        name: format!("{}.{}", side.name(), row.ours),
        shape: row.our_shape.clone(),
        values,
    };
    let (mut tensors, mut made) = (Vec::new(), 0);
    for (row, old) in here.iter().zip(there).filter(|(row, _)| !matches!(row.kind, Kind::U | Kind::V)) {
        let tensor = named(row, change.values(row, old, found.remove(&row.ours).unwrap_or_default()));
        let vectors = ["u", "v"].map(|part| here.iter().find(|r| r.ours == format!("{}.{part}", row.ours)));
        if let [Some(u_row), Some(v_row)] = vectors {
            let remapped = change.moved && row.classes.is_some();
            let (u, v) = (found.remove(&u_row.ours), found.remove(&v_row.ours));
            let (u, v) = match (u.filter(|u| u.len() == u_row.our_shape[0]), v) {
                (Some(u), Some(v)) if !remapped => (u, v),
                (Some(u), _) if !remapped => (u.clone(), spectral::power(&tensor, &u, 0).1),
                (u, _) => {
                    made += 1;
                    spectral::power(&tensor, &u.unwrap_or_else(|| vec![1.0; u_row.our_shape[0]]), ITERATIONS)
                }
            };
            tensors.extend([named(u_row, u), named(v_row, v)]);
        }
        tensors.push(tensor);
    }
    (tensors, made)
}

fn spectral_option(side: Side) -> &'static str {
    if side == Side::Generator { "spectral-norm-g" } else { "spectral-norm" }
}

/// The values that a new run's parameters begin with.
fn first_values(setup: &Setup, side: Side) -> Result<HashMap<String, Vec<f32>>> {
    let (players, [seed_g, seed_d]) = (layouts(setup)?, seeds(setup));
    let (layout, seed) = match side {
        Side::Generator => (players.generator.parameters, seed_g),
        Side::Discriminator => (players.discriminator.parameters, seed_d),
    };
    let values = layout.initial_values(seed)?;
    let part = |e: &Entry| (e.name.clone(), values[e.at.offset()..e.at.offset() + e.at.len()].to_vec());
    Ok(layout.entries().iter().map(part).collect())
}

/// The tensors of a run at its start, with those that it takes in their places. G's average is a copy of its weights.
pub fn placed(mut start: Vec<NamedTensor>, taken: &[NamedTensor]) -> Vec<NamedTensor> {
    let by_name: HashMap<&str, &NamedTensor> = taken.iter().map(|t| (t.name.as_str(), t)).collect();
    for tensor in &mut start {
        if let Some(found) = by_name.get(tensor.name.trim_start_matches("average.")) {
            tensor.values.clone_from(&found.values);
        }
    }
    start
}
