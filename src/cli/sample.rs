//! `zgan sample`

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use zgan::checkpoint::{self, Header, NamedTensor};
use zgan::cores::on_all_cores;
use zgan::data::vectors::{self, Vectors};
use zgan::data::{ClassNames, DataInfo, ImageShape, Size, mixture};
use zgan::exchange::{ClassMap, Incoming, Newcomers, Side, latents};
use zgan::gan::{Generator, Latents, Setup, Weights, interpolate};
use zgan::picture::{Picture, square_columns};
use zgan::settings::{Preset, Settings};
use zgan::sizes::{filled, product, reserved};
use zgan::{Error, files, run};

use super::ranks::{Ranks, Together};
use super::tuned::Place;
use super::{grid, progress, ranks, say, settings_of, unfit, writable};

#[derive(Args)]
pub struct Sample {
    /// Draw from this run, by name or folder: its newest checkpoint
    #[arg(long, value_name = "RUN", required_unless_present_any = ["checkpoint", "weights"])]
    run: Option<String>,
    /// Draw from this checkpoint
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    checkpoint: Option<PathBuf>,
    /// Draw with the G of this file: an export, or weights with crcrpar's or PyTorch-GAN's names
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "checkpoint", "raw_weights"])]
    weights: Option<PathBuf>,
    /// The preset of --weights, where the file does not name it
    #[arg(long, value_name = "NAME", requires = "weights", hide_possible_values = true)]
    preset: Option<Preset>,
    /// Draw from the best checkpoint of the run, which --keep-best has kept, and not the newest
    #[arg(long, requires = "run")]
    best: bool,
    /// The size of the images of --weights, where neither the file nor the preset says it
    #[arg(long, value_name = "SIDE|HEIGHTxWIDTH", requires = "weights")]
    size: Option<Size>,
    /// Folder of all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs_dir: PathBuf,
    /// Draw with G's weights of the last step, not their moving average
    #[arg(long)]
    raw_weights: bool,

    /// Only these classes, by name or number [default: all]
    #[arg(long, value_name = "A[,B..]", help_heading = "What is drawn")]
    class: Vec<String>,
    /// Draw for the labels of this CSV file, vectors of the run's classes: an image for each line, or as many as --count says
    #[arg(long, value_name = "FILE.csv", conflicts_with_all = ["class", "interpolate", "morph", "latents", "save_latents"], help_heading = "What is drawn")]
    labels: Option<PathBuf>,
    /// All random numbers follow from this one
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "What is drawn")]
    seed: u64,
    /// Images, in a grid rounded up to full rows [default: 64; 2500 points of preset ring]
    #[arg(long, value_name = "IMAGES", help_heading = "What is drawn")]
    count: Option<usize>,
    /// Truncation: numbers of the latent further from 0 than this are drawn again
    #[arg(long, value_name = "T", help_heading = "What is drawn")]
    trunc: Option<f32>,
    /// Each row goes from one latent to another in this many images, on the great circle through both
    #[arg(long, value_name = "IMAGES", conflicts_with_all = ["morph", "columns"], help_heading = "What is drawn")]
    interpolate: Option<usize>,
    /// Each row goes from class A to class B at one latent, blending the conditional scale and shift
    #[arg(long, value_name = "A:B", conflicts_with = "class", help_heading = "What is drawn")]
    morph: Option<String>,

    /// Draw from the latents, and labels, of this file; --columns still says how the grid is laid out
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "count", "trunc", "interpolate", "morph"], help_heading = "What is drawn")]
    latents: Option<PathBuf>,

    /// A PNG file for a grid, with a row per class; a .safetensors or .npy file for the values themselves, (N, C, H, W) in
    /// [-1, 1]; a folder (any other name) for a PNG file per image, in a folder per class. Points can be an SVG file too
    #[arg(long, value_name = "FILE.png|FILE.npy|DIR", default_value = "grid.png", help_heading = "What is written")]
    out: PathBuf,
    /// A file (.safetensors or .npy) for the latents and labels that are drawn from
    #[arg(long, value_name = "FILE", conflicts_with = "morph", help_heading = "What is written")]
    save_latents: Option<PathBuf>,
    /// Columns of the grid [default: about a square; 8 with --morph]
    #[arg(long, value_name = "N", help_heading = "What is written")]
    columns: Option<usize>,
    /// Write into a folder that has files already
    #[arg(long, help_heading = "What is written")]
    force: bool,

    #[command(flatten, next_help_heading = "Where it runs")]
    place: Place,
    #[command(flatten, next_help_heading = "Where it runs")]
    together: Together,
}

/// The most images that a grid, and a folder, may have.
const GRID: usize = 1 << 16;
const FOLDER: usize = 10_000_000;

/// How many images of a folder are in memory at once.
const AT_ONCE: usize = 512;

impl Sample {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        self.together.run(|| Ok(Some(self.place.device)), |ranks| self.run_as(ranks).map(|()| ExitCode::SUCCESS))
    }

    /// As the only rank, or as one of several, each of which draws some of the images.
    fn run_as(&self, ranks: Option<&Ranks>) -> anyhow::Result<()> {
        let values = latents::is_values(&self.out);
        let is = |kind: &str| self.out.extension().is_some_and(|e| e.eq_ignore_ascii_case(kind));
        let grid = values || is("png") || is("svg");
        self.check(grid)?;
        if grid {
            ranks::alone("zgan sample of one file")?;
        }
        let name = self.run.as_deref().unwrap_or_default();
        let path = match self.checkpoint.as_ref().or(self.weights.as_ref()) {
            Some(file) => file.clone(),
            None if self.best => run::best_checkpoint(&self.runs_dir, name)?,
            None => run::newest_checkpoint(&self.runs_dir, name)?,
        };
        let (header, tensors, mut setup) = match &self.weights {
            Some(file) => foreign(file, self.preset, self.size)?,
            None => {
                let (header, tensors) = checkpoint::load(&path)?;
                let setup = Setup::new(&settings_of(&path, &header)?, &header.data);
                (header, tensors, setup)
            }
        };
        if let Some(file) = &self.labels {
            setup.vectors = Some(wanted(file, &setup, &header.data.classes)?);
        }
        let job = Job { sample: self, ranks, classes: self.classes(&setup, &header.data.classes)?, header, setup };
        if is("svg") && !job.setup.draws_points() {
            let out = self.out.display();
            return Err(
                Error::Config(format!("out: {out}: an SVG file shows the points of preset ring, not images")).into()
            );
        }
        let ends = self.morph.as_deref().map(|morph| job.ends(morph)).transpose()?;
        if grid {
            writable("out", &self.out)?
        } else if !ranks::is_silent() {
            self.prepare_folder()?
        }
        let device = self.place.open_of(ranks)?;
        let weights = if self.raw_weights { Weights::Raw } else { Weights::Average };
        let mut generator =
            Generator::new(&device, &job.setup, &tensors, weights).with_context(|| unfit(&path, "drawn from"))?;
        drop(tensors);
        match ends {
            _ if !grid && !job.setup.draws_points() => job.folder(&generator),
            Some(ends) => job.morph(&mut generator, ends),
            None => job.draw(&generator, job.chosen()?),
        }
    }

    fn check(&self, grid: bool) -> Result<(), Error> {
        let within = |name: &str, value: Option<usize>, least: usize, most: usize| match value {
            Some(value) if !(least..=most).contains(&value) => {
                Err(Error::Config(format!("{name}: {value}, expected {least} to {most}")))
            }
            _ => Ok(()),
        };
        within("count", self.count, 1, if grid { GRID } else { FOLDER })?;
        within("columns", self.columns, 1, 1024)?;
        within("interpolate", self.interpolate, 2, 1024)?;
        // NaN is refused too. With less than 0.01, nearly every number would have to be drawn again.
        if let Some(most) = self.trunc.filter(|most| !(*most >= 0.01 && *most <= 100.0)) {
            return Err(Error::Config(format!("trunc: {most}, expected 0.01 to 100")));
        }
        let of_a_grid = self.interpolate.is_some() || self.morph.is_some() || self.columns.is_some();
        if !grid && of_a_grid {
            let what = format!(
                "out: {} is no PNG file, and --interpolate, --morph and --columns draw a grid",
                self.out.display()
            );
            return Err(Error::Config(what));
        }
        if latents::is_values(&self.out) && self.morph.is_some() {
            return Err(Error::Config(format!("out: --morph draws a grid, not the values of {}", self.out.display())));
        }
        for (option, path) in [("latents", &self.latents), ("save-latents", &self.save_latents)] {
            if let Some(path) = path {
                latents::check(option, path)?;
            }
        }
        Ok(())
    }

    /// The wanted classes. They are all of them where none is named, and none for a run that does not know labels.
    fn classes(&self, setup: &Setup, names: &[String]) -> Result<Vec<u32>, Error> {
        if self.class.is_empty() {
            return Ok(grid::all_classes(setup));
        }
        knows_labels("class", setup)?;
        let known = ClassNames::new(names);
        let found: Vec<Vec<u32>> = self.class.iter().map(|text| known.find_all(text)).collect::<Result<_, _>>()?;
        Ok(found.concat())
    }

    fn prepare_folder(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.out).map_err(Error::io(&self.out))?;
        let mut entries = std::fs::read_dir(&self.out).map_err(Error::io(&self.out))?;
        if entries.next().is_some() && !self.force {
            let what = format!("out: {} is not empty; --force writes into it all the same", self.out.display());
            return Err(Error::Config(what).into());
        }
        Ok(())
    }
}

/// What draws from a file that is no checkpoint: a header as a checkpoint has one, tensors, and the setup of the networks.
fn foreign(
    path: &Path,
    preset: Option<Preset>,
    size: Option<Size>,
) -> Result<(Header, Vec<NamedTensor>, Setup), Error> {
    let file = Incoming::read(path)?;
    let preset = preset.or(file.preset()).ok_or_else(|| {
        let path = path.display();
        Error::Config(format!("preset: {path} does not say of which its networks are; --preset names it"))
    })?;
    let mut settings = Settings::new(Some(preset), &file.settings(preset, Side::Generator)?)?;
    // The file has one set of weights.
    settings.training.average = 0.0;
    settings.check()?;
    let facts = file.facts(preset, Side::Generator)?;
    let numbers = || (0..facts.classes.unwrap_or(1)).map(|class| class.to_string()).collect();
    let classes = file.class_names.clone().filter(|names| facts.classes.is_none_or(|n| n == names.len()));
    let shape = file.shape(preset, &facts);
    let Size { height, width } = size.unwrap_or(shape.size());
    let data = DataInfo {
        name: path.display().to_string(),
        images: 0,
        shape: ImageShape { height, width, ..shape },
        classes: classes.unwrap_or_else(numbers),
        vectors: false,
        crc32: String::new(),
    };
    let setup = Setup::new(&settings, &data);
    let same = ClassMap::new(&[], (None, None), &data.classes, Newcomers::Mean)?;
    let tensors = file.take(&setup, Side::Generator, &same)?.tensors;
    let header =
        Header { format: checkpoint::FORMAT, step: file.step, config: settings.numbers()?, data, scaling: None };
    Ok((header, tensors, setup))
}

/// The vectors of a CSV file, for a run of these classes.
fn wanted(path: &Path, setup: &Setup, classes: &[String]) -> Result<Arc<Vectors>, Error> {
    knows_labels("labels", setup)?;
    let fail = |what: String| Error::Data { path: path.to_path_buf(), what };
    let table = vectors::read(path)?;
    if table.classes != classes {
        let [there, here] = [classes, &table.classes].map(|names| names.join(", "));
        return Err(fail(format!("its columns are {here}; expected the run's classes in their order, {there}")));
    }
    if table.lines.is_empty() {
        return Err(fail("there is no line of labels".into()));
    }
    if let Some(line) = table.lines.iter().find(|line| !line.is_labelled()) {
        return Err(fail(format!("{}: no labels, which an image is drawn for", line.at)));
    }
    let values = table.lines.into_iter().flat_map(|line| line.vector).collect();
    Ok(Arc::new(Vectors { classes: classes.len(), values }))
}

/// Refuses an option that names classes where the run does not know labels.
fn knows_labels(option: &str, setup: &Setup) -> Result<(), Error> {
    if setup.conditional() {
        return Ok(());
    }
    let preset = setup.preset;
    Err(Error::Config(format!("{option}: the run draws without labels (preset {preset}, conditioning none)")))
}

/// A folder's name for each of these classes. All differ, and none leads out of the folder that they are in.
fn folder_names(classes: &[u32], names: &[String]) -> Vec<String> {
    let mut taken = HashSet::new();
    let plain = |class: &u32| {
        let name = names.get(*class as usize).map_or("", String::as_str);
        let name: String =
            name.chars().map(|c| if matches!(c, '/' | '\\') || c.is_control() { '_' } else { c }).collect();
        if name.is_empty() || name.starts_with('.') { format!("_{name}") } else { name }
    };
    // Names that stay as they are come first, so that no other class takes them.
    let mut all: Vec<(usize, String)> = classes.iter().map(plain).enumerate().collect();
    all.sort_by_key(|(i, name)| (names.get(classes[*i] as usize) != Some(name), *i));
    for (_, name) in &mut all {
        let first = name.clone();
        let mut n = 2;
        while !taken.insert(name.to_lowercase()) {
            *name = format!("{first}-{n}");
            n += 1;
        }
    }
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, name)| name).collect()
}

/// What is to be drawn, from a checkpoint that has been read.
struct Job<'a> {
    sample: &'a Sample,
    ranks: Option<&'a Ranks>,
    header: Header,
    setup: Setup,
    /// The wanted classes, or the numbers of the wanted vectors; empty where the networks know no labels.
    classes: Vec<u32>,
}

impl Job<'_> {
    /// The two classes of `A:B`. The name of a class may have a colon as well, so every one is tried.
    fn ends(&self, morph: &str) -> Result<[u32; 2], Error> {
        knows_labels("morph", &self.setup)?;
        let known = ClassNames::new(&self.header.data.classes);
        let parts = || morph.match_indices(':').map(|(at, _)| [&morph[..at], &morph[at + 1..]]);
        let found = parts().find_map(|[from, to]| Some([known.called(from)?, known.called(to)?]));
        found.map_or_else(
            || match parts().next_back() {
                Some([from, to]) => Ok([known.find(from)?, known.find(to)?]),
                None => Err(Error::Config(format!("morph: {morph:?}, expected two classes, as A:B"))),
            },
            Ok,
        )
    }

    fn latents(&self, first: usize, labels: Vec<u32>, count: usize) -> Latents {
        let Sample { seed, trunc, .. } = *self.sample;
        Latents { seed, first: first as u32, count, labels, truncation: trunc }
    }

    /// Writes a grid, and beside it a file that says of which class each row is; `labels` are those of the images.
    fn save(&self, images: &[u8], columns: usize, labels: &[u32]) -> anyhow::Result<()> {
        let out = &self.sample.out;
        Picture::grid(images, self.setup.shape, columns)?.save(out)?;
        let labels = if self.setup.vectors.is_some() { &[] } else { labels };
        if let Some(legend) = grid::legend(labels, columns, &self.header.data.classes) {
            let path = out.with_extension(grid::LEGEND);
            files::write_bytes(&path, legend.as_bytes())?;
            say(format!("the classes of its rows: {}", path.display()));
        }
        let count = images.len() / self.setup.shape.len();
        say(format!("{count} images after step {}: {}", self.header.step, self.sample.out.display()));
        Ok(())
    }

    /// Latents, labels, and the columns of a grid of them: those of a file, or drawn ones.
    fn chosen(&self) -> anyhow::Result<(Vec<f32>, Vec<u32>, usize)> {
        let (sample, networks, points) = (self.sample, &self.setup.networks, self.setup.draws_points());
        if points && sample.interpolate.is_some() {
            return Err(Error::Config("preset ring draws points: one picture, and no --interpolate".into()).into());
        }
        if let Some(path) = &sample.latents {
            let given = latents::read(path, networks.latent, self.setup.classes)?;
            let turns = || self.classes.iter().copied().cycle().take(given.count).collect();
            let labels = given.labels.filter(|_| self.setup.conditional()).unwrap_or_else(turns);
            return Ok((given.z, labels, sample.columns.unwrap_or_else(|| square_columns(given.count))));
        }
        if let Some(columns) = sample.interpolate {
            let (z, labels) = self.ways(columns)?;
            return Ok((z, labels, columns));
        }
        if sample.labels.is_some() {
            let count = sample.count.unwrap_or(self.classes.len());
            let labels = self.classes.iter().copied().cycle().take(count).collect();
            let latents = self.latents(0, labels, count);
            let columns = sample.columns.unwrap_or_else(|| square_columns(count));
            return Ok((latents.draw(networks)?, latents.labels, columns));
        }
        let usual = if points { mixture::POINTS } else { grid::COUNT };
        let (layout, columns) = grid::layout(&self.classes, sample.seed, sample.count.unwrap_or(usual), sample.columns);
        if layout.count > GRID {
            return Err(Error::Config(format!("columns: a grid of {} images, at most {GRID}", layout.count)).into());
        }
        let latents = Latents { truncation: sample.trunc, ..layout };
        Ok((latents.draw(networks)?, latents.labels, columns))
    }

    /// Draws from these latents: a grid, a picture of points, or the values themselves.
    fn draw(&self, generator: &Generator, (z, labels, columns): (Vec<f32>, Vec<u32>, usize)) -> anyhow::Result<()> {
        let (sample, step) = (self.sample, self.header.step);
        let points = self.setup.draws_points();
        if let Some(path) = &sample.save_latents {
            writable("save-latents", path)?;
            latents::write(path, &z, self.setup.networks.latent, &labels)?;
            say(format!("latents: {}", path.display()));
        }
        let (count, out) = (z.len() / self.setup.networks.latent, &sample.out);
        let what = if points { "points" } else { "images" };
        if latents::is_values(out) {
            latents::write_images(out, generator.values(&z, &labels)?, self.setup.shape)?;
            say(format!("the values of {count} {what} after step {step}: {}", out.display()));
            return Ok(());
        }
        if !points {
            return self.save(&generator.images(&z, &labels)?, columns, &labels);
        }
        if out.is_dir() {
            return Err(Error::Config("preset ring draws points: one picture, and no folder".into()).into());
        }
        say(grid::scatter(&generator.values(&z, &[])?, self.setup.mixture, out)?);
        say(format!("{count} points after step {step}: {}", out.display()));
        Ok(())
    }

    /// The rows of a grid of so many columns: as many as `--count` needs, or one for each class, or 8.
    fn rows(&self, columns: usize) -> usize {
        let usual = if self.classes.is_empty() { 8 } else { self.classes.len() };
        self.sample.count.map_or(usual, |count| count.div_ceil(columns))
    }

    /// Latents and labels of a grid whose row r goes from latent 2r to latent 2r + 1.
    fn ways(&self, columns: usize) -> anyhow::Result<(Vec<f32>, Vec<u32>)> {
        let (rows, latent) = (self.rows(columns), self.setup.networks.latent);
        let ends = self.latents(0, Vec::new(), 2 * rows).draw(&self.setup.networks)?;
        let mut z = reserved("latents", product([rows, columns, latent]))?;
        for ends in ends.chunks_exact(2 * latent) {
            for column in 0..columns {
                let t = column as f64 / (columns - 1) as f64;
                z.extend(interpolate(&ends[..latent], &ends[latent..], t, self.setup.networks.latent_distribution));
            }
        }
        let classes = self.classes.iter().cycle().take(rows);
        Ok((z, classes.flat_map(|class| std::iter::repeat_n(*class, columns)).collect()))
    }

    /// Draws a grid whose row r has latent r; the columns go from one class to the other.
    fn morph(&self, generator: &mut Generator, ends: [u32; 2]) -> anyhow::Result<()> {
        let columns = self.sample.columns.unwrap_or(8);
        let rows = self.sample.count.map_or(8, |count| count.div_ceil(columns));
        let z = self.latents(0, Vec::new(), rows).draw(&self.setup.networks)?;
        let len = self.setup.shape.len();
        let mut images = filled("a grid of images", product([rows, columns, len]), 0)?;
        for column in 0..columns {
            let t = column as f32 / (columns.max(2) - 1) as f32;
            let drawn = generator.morph(&z, ends, t)?;
            for (row, image) in drawn.chunks_exact(len).enumerate() {
                let at = (row * columns + column) * len;
                images[at..at + len].copy_from_slice(image);
            }
        }
        self.save(&images, columns, &[])
    }

    /// Writes a file for each image. The classes take turns; `DIR/CLASS/000000.png` is the first image of its class. Images for vectors
    /// are in one folder.
    fn folder(&self, generator: &Generator) -> anyhow::Result<()> {
        if self.sample.latents.is_some() || self.sample.save_latents.is_some() {
            let what = "out: --latents and --save-latents go with a grid, or with a file of values, not with a folder";
            return Err(Error::Config(what.into()).into());
        }
        let vectors = self.setup.vectors.is_some();
        let usual = if vectors { self.classes.len() } else { grid::COUNT };
        let (out, count) = (&self.sample.out, self.sample.count.unwrap_or(usual));
        // A class that is named twice has one folder.
        let mut seen = HashSet::new();
        let classes: Vec<u32> = self.classes.iter().copied().filter(|class| seen.insert(*class)).collect();
        let turns = if vectors { 1 } else { classes.len().max(1) };
        let folders: Vec<PathBuf> = match vectors || classes.is_empty() {
            true => vec![out.clone()],
            false => folder_names(&classes, &self.header.data.classes).iter().map(|name| out.join(name)).collect(),
        };
        for folder in &folders {
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let bar = progress::bar(count as u64, "{bar:24} {pos}/{len} images  {eta} left");
        let (rank, ranks) = self.ranks.map_or((0, 1), |ranks| (ranks.rank(), ranks.ranks()));
        for first in (0..count).step_by(AT_ONCE).skip(rank).step_by(ranks) {
            let n = AT_ONCE.min(count - first);
            let labels = classes.iter().cycle().skip(first % classes.len().max(1)).take(n).copied().collect();
            let latents = self.latents(first, labels, n);
            let images = generator.images(&latents.draw(&self.setup.networks)?, &latents.labels)?;
            let path = |i: usize| folders[(first + i) % turns].join(format!("{:06}.png", (first + i) / turns));
            write_files(&images, self.setup.shape, &path)?;
            bar.inc((n * ranks) as u64);
        }
        bar.finish_and_clear();
        ranks::wait(self.ranks)?;
        say(format!("{count} images after step {}: {}", self.header.step, out.display()));
        Ok(())
    }
}

/// Encodes and writes on all cores. The files are not synced to the disk, which would take longer than all the rest: they
/// can be drawn again.
fn write_files(images: &[u8], shape: ImageShape, path: &(impl Fn(usize) -> PathBuf + Sync)) -> Result<(), Error> {
    let images: Vec<&[u8]> = images.chunks_exact(shape.len()).collect();
    let write = |(): &(), i: usize| {
        let (path, picture) = (path(i), Picture { shape, pixels: images[i].to_vec() });
        picture.encode().and_then(|bytes| std::fs::write(&path, bytes)).map_err(Error::io(&path))
    };
    on_all_cores(images.len(), || Ok(()), write)?.into_iter().collect()
}
