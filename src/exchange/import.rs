//! Weights from other programs and other runs: whose they are, what networks they are of, and what of them a run takes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::export::spread;
use super::file;
use super::names::{self, Kind, Row, Side};
use crate::checkpoint::{self, NamedTensor};
use crate::data::mixture::Mixture;
use crate::data::{ClassNames, ImageShape};
use crate::gan::{Setup, layouts, seeds};
use crate::nn::parameters::Entry;
use crate::settings::{Architecture, Conditioning, Preset, Settings, name_of};
use crate::{Error, Result};

/// Weights of one or both networks, as they were read.
pub struct Incoming {
    path: PathBuf,
    /// Whether the tensors are called and laid out as here.
    own: bool,
    tensors: Vec<NamedTensor>,
    metadata: BTreeMap<String, String>,
    /// What the file says of the settings that it was made with.
    settings: toml::Table,
    /// The names of its classes, where it has them.
    pub class_names: Option<Vec<String>>,
    /// The steps that made the weights, where the file says so.
    pub step: u64,
}

/// What the shapes of a file's tensors say of its networks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub width: Option<usize>,
    pub latent: Option<usize>,
    pub channels: Option<usize>,
    /// None where a network knows no labels.
    pub classes: Option<usize>,
    /// Whether weights come with the vectors of a spectral norm.
    pub spectral: bool,
}

/// What a run takes of such weights: tensors under the names of a checkpoint.
pub struct Taken {
    pub tensors: Vec<NamedTensor>,
    /// Lines that say what was taken, made fresh and left out.
    pub notes: Vec<String>,
}

/// Which class of a file each class of a run goes on from; those without one begin as `newcomers` says.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMap {
    pub from: Vec<Option<usize>>,
    pub newcomers: Newcomers,
}

/// How a class begins that the weights do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Newcomers {
    /// From the mean of the classes that they know
    Mean,
    /// As the classes of a new run do
    Fresh,
}

/// Power iterations for a weight that comes without the vectors of its spectral norm.
const ITERATIONS: usize = 20;

impl Incoming {
    /// Reads a file: a checkpoint of this program, or a safetensors file with the names of one that it knows. An error says
    /// what it is instead.
    pub fn read(path: &Path) -> Result<Incoming> {
        let fail = |what: String| Error::Checkpoint { path: path.to_path_buf(), what };
        let (_, metadata) = file::list(path)?;
        if checkpoint::is_one(&metadata) {
            let (header, tensors) = checkpoint::load_finite(path)?;
            let (settings, class_names) = (header.config, Some(header.data.classes));
            let path = path.to_path_buf();
            return Ok(Incoming { path, own: true, tensors, metadata, settings, class_names, step: header.step });
        }
        let contents = file::read(path)?;
        let tensors = as_hooks_name_them(contents.tensors);
        let has = |part: &str| tensors.iter().find(|t| t.name.contains(part)).map(|t| &t.name);
        let last = tensors.iter().find(|t| t.name.starts_with("c5.") || t.name.starts_with("c6.")).map(|t| &t.name);
        let parts = [".embed.weight", ".bn.running_", ".sn_u", ".sn_sigma", "attn."];
        if let Some(name) = parts.iter().find_map(|part| has(part)).or(last) {
            return Err(fail(format!(
                "mimicry's networks, as {name} shows, which are others than the ones here: they upsample bilinearly, their \
                 norms have an eps of 1e-5, and the shortcuts of D see relu(x)"
            )));
        }
        let own = tensors.iter().any(|t| t.name.starts_with("generator.") || t.name.starts_with("discriminator."));
        let known =
            |t: &NamedTensor| ["l1.", "block1.", "block2.", "model."].iter().any(|start| t.name.starts_with(start));
        if !own && !tensors.iter().any(known) {
            let first = tensors
                .first()
                .map_or("it is empty".into(), |t| format!("the first of {} is {}", tensors.len(), t.name));
            return Err(fail(format!(
                "no tensors of zgan, of crcrpar's networks (l1.weight, block1.c1.weight) or of PyTorch-GAN's (model.0.weight); {first}"
            )));
        }
        let mut settings = toml::Table::new();
        for name in Settings::names() {
            if let Some(text) = contents.metadata.get(&name) {
                let value = format!("x = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("x"));
                settings.insert(name, value.unwrap_or_else(|| text.as_str().into()));
            }
        }
        settings.remove("seed");
        let class_names = contents.metadata.get("class-names").and_then(|names| serde_json::from_str(names).ok());
        let step = contents.metadata.get("step").and_then(|step| step.parse().ok()).unwrap_or(0);
        let (path, metadata) = (path.to_path_buf(), contents.metadata);
        Ok(Incoming { path, own, tensors, metadata, settings, class_names, step })
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
        if side == Side::Generator && preset.architecture.is_convolutional() && facts.classes.is_none() {
            found.push(("conditioning", "none".into()));
        }
        for (name, value) in found {
            table.entry(name).or_insert(value);
        }
        Ok(table)
    }

    /// A tensor that belongs to a spectral norm, if there is one.
    fn spectral(&self, side: Side) -> Option<&str> {
        let mine = |t: &&NamedTensor| !self.own || t.name.starts_with(side.name());
        let norms = |t: &&NamedTensor| {
            t.name.ends_with("_orig") || self.own && (t.name.ends_with(".u") || t.name.ends_with(".spectral_u"))
        };
        self.tensors.iter().filter(mine).find(norms).map(|t| t.name.as_str())
    }

    fn find(&self, side: Side, row: &Row) -> Option<&NamedTensor> {
        let name = |name: &str| self.tensors.iter().find(|t| t.name == name);
        if self.own {
            return name(&format!("{}.{}", side.name(), row.ours));
        }
        let plain = row.theirs.trim_end_matches("_orig");
        name(plain).or_else(|| name(&format!("{plain}_orig")))
    }

    /// What the shapes say, of networks of this preset.
    pub fn facts(&self, preset: Preset, side: Side) -> Result<Facts> {
        let settings = preset.settings();
        let size = settings.images.size;
        let shape = ImageShape { height: size, width: size, channels: 3 };
        let shape = if settings.preset.architecture.is_convolutional() { shape } else { preset.sample };
        let setup = Setup {
            mixture: Mixture::Ring,
            preset,
            networks: settings.networks.clone(),
            training: settings.training.clone(),
            batches: settings.batches.clone(),
            shape,
            classes: 2,
        };
        let rows = names::table(&setup, side)?;
        // In the order that they have here: inputs, then outputs.
        let shape = |ours: &str| {
            let found = self.find(side, rows.iter().find(|row| row.ours == ours)?)?;
            let mut shape = found.shape.clone();
            match (self.own, shape.len()) {
                (false, 2) if !ours.contains("norm") && !ours.contains("embedding") => shape.reverse(),
                (false, 4) => shape = [2, 3, 1, 0].map(|i| shape[i]).to_vec(),
                _ => {}
            }
            Some(shape)
        };
        let mut facts = Facts { spectral: self.spectral(side).is_some(), ..Facts::default() };
        match (preset.architecture, side) {
            (Architecture::Residual(spec), Side::Generator) => {
                // A plain norm has one dimension.
                facts.classes = shape("block1.norm1.weight").filter(|shape| shape.len() == 2).map(|shape| shape[0]);
                if let Some([inputs, outputs]) = shape("linear.weight").as_deref() {
                    let marks = if spec.label.is_some() { facts.classes.unwrap_or(0) } else { 0 };
                    facts.latent = inputs.checked_sub(marks);
                    facts.width = Some(outputs / (spec.bottom * spec.bottom * spec.start));
                }
                facts.channels = shape("conv.weight").and_then(|shape| shape.last().copied());
            }
            (Architecture::Residual(spec), Side::Discriminator) => {
                if let Some([_, _, _, outputs]) = shape("block1.conv1.weight").as_deref() {
                    facts.width = Some(outputs / spec.down[0].0);
                }
                let names = match self.own {
                    true => ["discriminator.head.embedding", "discriminator.embedding", "discriminator.classes.bias"],
                    false => ["l_y.weight", "l_y.weight_orig", "l_c.bias"],
                };
                let rows = self.tensors.iter().find(|t| names.contains(&t.name.as_str()));
                facts.classes = rows.and_then(|t| t.shape.first().copied());
            }
            (_, Side::Generator) => {
                facts.latent = shape("linear1.weight").and_then(|shape| shape.first().copied());
                if matches!(preset.architecture, Architecture::PointPerceptrons) {
                    facts.width = shape("linear1.weight").and_then(|shape| shape.get(1).copied());
                }
            }
            (_, Side::Discriminator) => {}
        }
        Ok(facts)
    }

    /// The size of the images that G draws: its file says it, or its preset.
    pub fn shape(&self, preset: Preset, facts: &Facts) -> ImageShape {
        let number = |name: &str| self.metadata.get(name).and_then(|text| text.parse::<usize>().ok());
        let side = match preset.architecture {
            Architecture::Residual(spec) => spec.size,
            _ => number("size").unwrap_or(preset.sample.height),
        };
        let channels = facts.channels.or_else(|| number("channels")).unwrap_or(preset.sample.channels);
        match preset.architecture.draws_points() {
            true => preset.sample,
            false => ImageShape { height: side, width: side, channels },
        }
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
        let fail = |what: String| Error::Checkpoint { path: self.path.clone(), what };
        let facts = self.facts(setup.preset, side)?;
        let networks = &setup.networks;
        for (name, asked, found) in [("width", networks.width, facts.width), ("latent", networks.latent, facts.latent)]
        {
            if let Some(found) = found.filter(|found| *found != asked) {
                let (path, preset) = (self.path.display(), setup.preset);
                return Err(Error::Config(format!("{name}: {asked} asked for, {path} has {found} (preset {preset})")));
            }
        }
        let normalised = if side == Side::Generator { networks.spectral_norm_g } else { networks.spectral_norm };
        let here = names::table(setup, side)?;
        let plain = |name: &&str| self.own || here.iter().any(|row| name.strip_suffix("_orig") == Some(&row.theirs));
        if let Some(name) = self.spectral(side).filter(|_| !normalised).filter(plain) {
            let (option, path) = (spectral_option(side), self.path.display());
            return Err(Error::Config(format!("{option}: false asked for, {path} has weights with a norm ({name})")));
        }
        let known = self.classes(setup, side)?;
        let classes = known.unwrap_or(setup.classes);
        let there = names::table(&setup.with(|s| s.classes = classes), side)?;
        let own = if self.own { spread(self.tensors.clone(), side, &there) } else { Vec::new() };
        let by_name: HashMap<&str, &NamedTensor> =
            if self.own { &own } else { &self.tensors }.iter().map(|t| (t.name.as_str(), t)).collect();

        let (mut found, mut wrong, mut used) = (HashMap::new(), Vec::new(), HashSet::new());
        for row in &there {
            let (name, shape) = if self.own {
                (format!("{}.{}", side.name(), row.ours), &row.our_shape)
            } else {
                (row.theirs.clone(), &row.their_shape)
            };
            let plain = name.strip_suffix("_orig").map(String::from);
            let name = if by_name.contains_key(name.as_str()) {
                name
            } else {
                plain.filter(|plain| by_name.contains_key(plain.as_str())).unwrap_or(name)
            };
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
        let bias = names::last_bias(setup, side).and_then(|name| by_name.get(name));
        if let Some(bias) = bias {
            let blind = setup.training.loss == crate::settings::Loss::Softmax;
            if !blind && bias.values.iter().any(|x| *x != 0.0) {
                let loss = name_of(&setup.training.loss);
                return Err(fail(format!(
                    "{} is {}, and D has no such bias here: loss {loss:?} would notice",
                    bias.name, bias.values[0]
                )));
            }
            used.insert(bias.name.clone());
        }
        // A checkpoint has much besides.
        let mut surplus: Vec<&str> =
            by_name.keys().copied().filter(|name| !self.own && !used.contains(*name)).collect();
        surplus.sort_unstable();
        wrong
            .extend(surplus.iter().map(|name| format!("{name} {:?} is not part of this network", by_name[name].shape)));
        if !wrong.is_empty() {
            let more = wrong.len().saturating_sub(5);
            wrong.truncate(5);
            let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
            let letter = side.letter();
            return Err(fail(format!("not the {letter} of preset {}: {}{rest}", setup.preset, wrong.join("; "))));
        }

        let mut notes = vec![format!("{} of {}: {} tensors", side.letter(), self.path.display(), found.len())];
        let moved = map.from.len() != classes || map.from.iter().enumerate().any(|(i, from)| *from != Some(i));
        let fresh = if moved { first_values(setup, side)? } else { HashMap::new() };
        let mut tensors = Vec::new();
        let mut made = 0;
        for (row, old) in here.iter().zip(&there).filter(|(row, _)| !matches!(row.kind, Kind::U | Kind::V)) {
            let mut values = found.remove(&row.ours).unwrap_or_default();
            let remapped = moved && row.classes.is_some();
            if let Some(axis) = row.classes.filter(|_| moved) {
                let fresh = fresh.get(&row.ours).filter(|_| map.newcomers == Newcomers::Fresh);
                values =
                    remap(&values, &old.our_shape, (axis, classes), &map.from, fresh.map(|values| values.as_slice()));
            }
            let tensor =
                NamedTensor { name: format!("{}.{}", side.name(), row.ours), shape: row.our_shape.clone(), values };
            let vectors = ["u", "v"].map(|part| here.iter().find(|r| r.ours == format!("{}.{part}", row.ours)));
            if let [Some(u_row), Some(v_row)] = vectors {
                let (u, v) = (found.remove(&u_row.ours), found.remove(&v_row.ours));
                let (u, v) = match (u.filter(|u| u.len() == u_row.our_shape[0]), v) {
                    (Some(u), Some(v)) if !remapped => (u, v),
                    (Some(u), _) if !remapped => (u.clone(), power(&tensor, &u, 0).1),
                    (u, _) => {
                        made += 1;
                        power(&tensor, &u.unwrap_or_else(|| vec![1.0; u_row.our_shape[0]]), ITERATIONS)
                    }
                };
                for (row, values) in [(u_row, u), (v_row, v)] {
                    let name = format!("{}.{}", side.name(), row.ours);
                    tensors.push(NamedTensor { name, shape: row.our_shape.clone(), values });
                }
            }
            tensors.push(tensor);
        }
        if made > 0 {
            notes.push(format!(
                "{}: the vectors of {made} spectral norms made by {ITERATIONS} power iterations",
                side.letter()
            ));
        }
        if moved && known.is_some() {
            let fresh: Vec<usize> = (0..map.from.len()).filter(|i| map.from[*i].is_none()).collect();
            let kept: HashSet<usize> = map.from.iter().flatten().copied().collect();
            notes.push(format!(
                "{}: {} of {} classes go on from the {classes} there; {} begin {}, {} of those there are left out",
                side.letter(),
                map.from.len() - fresh.len(),
                map.from.len(),
                fresh.len(),
                if map.newcomers == Newcomers::Mean { "from their mean" } else { "fresh" },
                classes - kept.len()
            ));
        }
        Ok(Taken { tensors, notes })
    }
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

impl ClassMap {
    /// The classes called `here`, of a run, and those of weights that know so many (none where they know no labels), whose
    /// names may be known. `pairs` are the old and the new class of each that goes on, as [`ClassNames`] finds them. Without pairs, equal
    /// names belong together or, where names differ, equal numbers.
    pub fn new(
        pairs: &[(String, String)],
        (there, names): (Option<usize>, Option<&[String]>),
        here: &[String],
        newcomers: Newcomers,
    ) -> Result<ClassMap> {
        let same = (0..here.len()).map(Some).collect();
        let Some(count) = there else { return Ok(ClassMap { from: same, newcomers }) };
        let names: Vec<String> = match names.filter(|names| names.len() == count) {
            Some(names) => names.to_vec(),
            None => (0..count).map(|i| i.to_string()).collect(),
        };
        if pairs.is_empty() && count != here.len() {
            return Err(Error::Config(format!(
                "class-map: the weights know {count} classes, the data has {}; --class-map OLD:NEW,... says which go on",
                here.len()
            )));
        }
        if pairs.is_empty() {
            let by_name: Vec<Option<usize>> = here.iter().map(|new| names.iter().position(|old| old == new)).collect();
            let from = if by_name.iter().all(Option::is_some) { by_name } else { same };
            return Ok(ClassMap { from, newcomers });
        }
        let find = |what: &str, class: &str, names: &[String], known: &ClassNames| {
            known.called(class).map(|number| number as usize).ok_or_else(|| {
                let shown = names.join(", ");
                Error::Config(format!("class-map: no {what} class is called {class:?}; there are {shown}"))
            })
        };
        let (olds, news) = (ClassNames::new(&names), ClassNames::new(here));
        let mut from = vec![None; here.len()];
        for (old, new) in pairs {
            let place = &mut from[find("new", new, here, &news)?];
            if place.replace(find("old", old, &names, &olds)?).is_some() {
                return Err(Error::Config(format!("class-map: class {new} has two that it goes on from")));
            }
        }
        Ok(ClassMap { from, newcomers })
    }
}

/// The names that `torch.nn.utils.spectral_norm` gives, of tensors that have those of its successor, of torch 0.4, or of a
/// network in `nn.DataParallel`.
fn as_hooks_name_them(tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
    let parallel = !tensors.is_empty() && tensors.iter().all(|t| t.name.starts_with("module."));
    let renamed = tensors.into_iter().map(|t| {
        let name = if parallel { t.name.trim_start_matches("module.").to_string() } else { t.name };
        let name = name.replace(".parametrizations.weight.original", ".weight_orig");
        let name = name
            .replace(".parametrizations.weight.0._u", ".weight_u")
            .replace(".parametrizations.weight.0._v", ".weight_v");
        NamedTensor { name, ..t }
    });
    let all: Vec<NamedTensor> = renamed.collect();
    // Beside `weight_orig`, torch 0.4 saved what it had made of it.
    let originals: HashSet<String> =
        all.iter().filter_map(|t| t.name.strip_suffix("_orig").map(String::from)).collect();
    all.into_iter().filter(|t| !originals.contains(&t.name)).collect()
}

/// A tensor of `shape` whose rows along an axis, behind the first few, are of `classes`: as many rows as `from` has, each that
/// of the old class. One without an old class gets its row of `fresh`, which has the new shape, or the mean of all.
fn remap(
    values: &[f32],
    shape: &[usize],
    ((axis, behind), classes): ((usize, usize), usize),
    from: &[Option<usize>],
    fresh: Option<&[f32]>,
) -> Vec<f32> {
    let inner: usize = shape[axis + 1..].iter().product();
    let mut all = Vec::new();
    for rows in values.chunks(inner * (behind + classes)) {
        let (kept, of_classes) = rows.split_at(inner * behind);
        all.extend_from_slice(kept);
        for from in from {
            match (from, fresh) {
                (Some(class), _) => all.extend_from_slice(&of_classes[inner * class..inner * (class + 1)]),
                (None, Some(fresh)) => {
                    // They lie where they go.
                    let at = all.len();
                    all.extend_from_slice(&fresh[at..at + inner]);
                }
                (None, None) => all.extend((0..inner).map(|i| {
                    let sum: f64 = of_classes.iter().skip(i).step_by(inner).map(|x| f64::from(*x)).sum();
                    (sum / classes as f64) as f32
                })),
            }
        }
    }
    all
}

/// Vectors u and v of a weight's spectral norm, after so many power iterations from `u`; with none, u as it is and its v.
fn power(weight: &NamedTensor, u: &[f32], iterations: usize) -> (Vec<f32>, Vec<f32>) {
    let columns = weight.shape.last().copied().unwrap_or(1).max(1);
    let embedding = weight.name.ends_with("embedding");
    // Of the outputs: rows of an embedding, columns of all others.
    let with = |x: &[f64], rows: bool| -> Vec<f64> {
        let matrix = weight.values.chunks(columns);
        let product = match rows {
            true => {
                let mut sums = vec![0.0; columns];
                for (row, x) in matrix.zip(x) {
                    sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(*w) * x);
                }
                sums
            }
            false => matrix.map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect(),
        };
        let norm = product.iter().map(|x: &f64| x * x).sum::<f64>().sqrt().max(1e-12);
        product.iter().map(|x| x / norm).collect()
    };
    let mut u: Vec<f64> = u.iter().map(|x| f64::from(*x)).collect();
    let mut v = with(&u, embedding);
    for _ in 0..iterations {
        u = with(&v, !embedding);
        v = with(&u, embedding);
    }
    let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
    (narrow(u), narrow(v))
}
