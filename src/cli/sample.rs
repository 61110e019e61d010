//! `zgan sample`

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use zgan::checkpoint::{self, Header};
use zgan::config::{Config, nearest};
use zgan::data::{ImageShape, ring};
use zgan::device::DeviceChoice;
use zgan::gan::{Generator, Latents, TrainerOptions, Weights, interpolate};
use zgan::picture::Picture;
use zgan::{Error, run};

use super::{grid, say, tuned};

#[derive(Args)]
pub struct Sample {
    /// Draw from this run, by name or folder: its newest checkpoint
    #[arg(long, value_name = "RUN", required_unless_present = "checkpoint")]
    run: Option<String>,
    /// Draw from this checkpoint
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    checkpoint: Option<PathBuf>,
    /// Folder of all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs_dir: PathBuf,
    /// Draw with G's weights of the last step, not their moving average
    #[arg(long)]
    raw_weights: bool,

    /// Only these classes, by name or number [default: all]
    #[arg(long, value_name = "A[,B..]", value_delimiter = ',', help_heading = "What is drawn")]
    class: Vec<String>,
    /// All random numbers follow from this one
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "What is drawn")]
    seed: u64,
    /// Images, in a grid rounded up to full rows [default: 64; 2500 points of a ring]
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

    /// A PNG file for a grid, with a row per class; a folder (any other name) for a PNG file per image, in a folder per
    /// class
    #[arg(long, value_name = "FILE.png|DIR", default_value = "grid.png", help_heading = "What is written")]
    out: PathBuf,
    /// Columns of the grid [default: about a square; 8 with --morph]
    #[arg(long, value_name = "N", help_heading = "What is written")]
    columns: Option<usize>,
    /// Write into a folder that has files already
    #[arg(long, help_heading = "What is written")]
    force: bool,

    /// auto, host, cuda, cuda:N or simt
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto, help_heading = "Where it runs")]
    device: DeviceChoice,
    /// Threads of the host, 0 for one a core
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Where it runs")]
    threads: usize,
}

/// Most images of a grid, and of a folder.
const GRID: usize = 1 << 16;
const FOLDER: usize = 10_000_000;

/// Images of a folder that are in memory at once.
const AT_ONCE: usize = 512;

impl Sample {
    pub fn run(&self) -> anyhow::Result<()> {
        let grid = self.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
        self.check(grid)?;
        let path = self.path()?;
        let (header, tensors) = checkpoint::load(&path)?;
        let config = Config::new(None, &header.config)?;
        let options = config.trainer_options(&header.data);
        let job = Job { sample: self, classes: self.classes(&options, &header.data.classes)?, header, options };
        let ends = self.morph.as_deref().map(|morph| job.ends(morph)).transpose()?;
        if !grid {
            self.prepare_folder()?;
        }
        let (device, _) = tuned::open(self.device, self.threads)?;
        let weights = if self.raw_weights { Weights::Raw } else { Weights::Average };
        let mut generator = Generator::new(&device, &job.options, &tensors, weights)
            .with_context(|| format!("{} cannot be drawn from", path.display()))?;
        drop(tensors);
        if job.options.draws_points() {
            return job.scatter(&generator);
        }
        match (ends, self.interpolate) {
            _ if !grid => job.folder(&generator),
            (Some(ends), _) => job.morph(&mut generator, ends),
            (None, Some(columns)) => job.interpolate(&generator, columns),
            (None, None) => job.grid(&generator),
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
        // Written so that NaN fails. Below, nearly all numbers would be drawn in vain.
        if let Some(most) = self.trunc.filter(|most| !(*most >= 0.01 && *most <= 100.0)) {
            return Err(Error::Config(format!("trunc: {most}, expected 0.01 to 100")));
        }
        if !grid && (self.interpolate.is_some() || self.morph.is_some() || self.columns.is_some()) {
            let what = format!(
                "out: {} is no PNG file, and --interpolate, --morph and --columns draw a grid",
                self.out.display()
            );
            return Err(Error::Config(what));
        }
        Ok(())
    }

    fn path(&self) -> Result<PathBuf, Error> {
        if let Some(file) = &self.checkpoint {
            return Ok(file.clone());
        }
        let name = self.run.as_deref().unwrap_or_default();
        let newest = run::checkpoints(&run::find(&self.runs_dir, name)?)?.pop();
        newest.map(|(_, path)| path).ok_or_else(|| Error::Config(format!("run {name} has no checkpoint yet")))
    }

    /// The wanted classes, all where none is named; none of a run that does not know labels.
    fn classes(&self, options: &TrainerOptions, names: &[String]) -> Result<Vec<u32>, Error> {
        if self.class.is_empty() {
            return Ok(grid::all_classes(options));
        }
        if !options.conditional() {
            let what = format!("class: the run draws without labels (preset {}, conditioning none)", options.preset);
            return Err(Error::Config(what));
        }
        self.class.iter().map(|class| find_class(class, names)).collect()
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

/// A class by its name or its number.
fn find_class(class: &str, names: &[String]) -> Result<u32, Error> {
    let number = || class.parse().ok().filter(|number| *number < names.len());
    if let Some(found) = names.iter().position(|name| name == class).or_else(number) {
        return Ok(found as u32);
    }
    const MOST: usize = 100;
    let there = match nearest(class, names) {
        Some(name) => format!("did you mean {name}? "),
        None => String::new(),
    };
    let shown = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(MOST);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Error::Config(format!("no class is called {class}; {there}there are {shown}{more}")))
}

/// What is drawn, from a checkpoint that has been read.
struct Job<'a> {
    sample: &'a Sample,
    header: Header,
    options: TrainerOptions,
    /// The wanted ones; empty where the networks know no labels.
    classes: Vec<u32>,
}

impl Job<'_> {
    /// The two classes of `A:B`. A name may have a colon too.
    fn ends(&self, morph: &str) -> Result<[u32; 2], Error> {
        if !self.options.conditional() {
            let preset = self.options.preset;
            return Err(Error::Config(format!(
                "morph: the run draws without labels (preset {preset}, conditioning none)"
            )));
        }
        let names = &self.header.data.classes;
        let mut wrong = Error::Config(format!("morph: {morph:?}, expected two classes, as A:B"));
        for (at, _) in morph.match_indices(':') {
            match (find_class(&morph[..at], names), find_class(&morph[at + 1..], names)) {
                (Ok(from), Ok(to)) => return Ok([from, to]),
                (Err(error), _) | (_, Err(error)) => wrong = error,
            }
        }
        Err(wrong)
    }

    fn latents(&self, first: usize, labels: Vec<u32>, count: usize) -> Latents {
        let Sample { seed, trunc, .. } = *self.sample;
        Latents { seed, first: first as u32, count, labels, truncation: trunc }
    }

    fn save(&self, images: &[u8], columns: usize) -> anyhow::Result<()> {
        Picture::grid(images, self.options.shape, columns)?.save(&self.sample.out)?;
        let count = images.len() / self.options.shape.len();
        say(format!("{count} images after step {}: {}", self.header.step, self.sample.out.display()));
        Ok(())
    }

    fn grid(&self, generator: &Generator) -> anyhow::Result<()> {
        let count = self.sample.count.unwrap_or(grid::COUNT);
        let (layout, columns) = grid::layout(&self.classes, self.sample.seed, count, self.sample.columns);
        if layout.count > GRID {
            return Err(Error::Config(format!("columns: a grid of {} images, at most {GRID}", layout.count)).into());
        }
        let latents = Latents { truncation: self.sample.trunc, ..layout };
        self.save(&generator.images(&latents.draw(self.options.latent), &latents.labels)?, columns)
    }

    /// Rows for `columns` images each: as many as make `--count`, else one a class, else 8.
    fn rows(&self, columns: usize) -> usize {
        let usual = if self.classes.is_empty() { 8 } else { self.classes.len() };
        self.sample.count.map_or(usual, |count| count.div_ceil(columns))
    }

    /// Row r goes from latent 2r to latent 2r + 1.
    fn interpolate(&self, generator: &Generator, columns: usize) -> anyhow::Result<()> {
        let (rows, latent) = (self.rows(columns), self.options.latent);
        let ends = self.latents(0, Vec::new(), 2 * rows).draw(latent);
        let mut z = Vec::with_capacity(rows * columns * latent);
        for ends in ends.chunks_exact(2 * latent) {
            for column in 0..columns {
                let t = column as f64 / (columns - 1) as f64;
                z.extend(interpolate(&ends[..latent], &ends[latent..], t));
            }
        }
        let classes = self.classes.iter().cycle().take(rows);
        let labels: Vec<u32> = classes.flat_map(|class| std::iter::repeat_n(*class, columns)).collect();
        self.save(&generator.images(&z, &labels)?, columns)
    }

    /// Row r is latent r; column c is that share of the way.
    fn morph(&self, generator: &mut Generator, ends: [u32; 2]) -> anyhow::Result<()> {
        let columns = self.sample.columns.unwrap_or(8);
        let rows = self.sample.count.map_or(8, |count| count.div_ceil(columns));
        let z = self.latents(0, Vec::new(), rows).draw(self.options.latent);
        let len = self.options.shape.len();
        let mut images = vec![0; rows * columns * len];
        for column in 0..columns {
            let t = column as f32 / (columns.max(2) - 1) as f32;
            let drawn = generator.morph(&z, ends, t)?;
            for (row, image) in drawn.chunks_exact(len).enumerate() {
                let at = (row * columns + column) * len;
                images[at..at + len].copy_from_slice(image);
            }
        }
        self.save(&images, columns)
    }

    /// A file per image: the classes take turns, `DIR/CLASS/000000.png` is the first of its class.
    fn folder(&self, generator: &Generator) -> anyhow::Result<()> {
        let (out, count) = (&self.sample.out, self.sample.count.unwrap_or(grid::COUNT));
        let turns = self.classes.len().max(1);
        let folder = |class: u32| out.join(self.header.data.classes[class as usize].replace(['/', '\\'], "_"));
        let folders: Vec<PathBuf> =
            if self.classes.is_empty() { vec![out.clone()] } else { self.classes.iter().map(|c| folder(*c)).collect() };
        for folder in &folders {
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let bar = ProgressBar::new(count as u64);
        let template = "{bar:24} {pos}/{len} images  {eta} left";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()));
        for first in (0..count).step_by(AT_ONCE) {
            let n = AT_ONCE.min(count - first);
            let labels = self.classes.iter().cycle().skip(first % turns).take(n).copied().collect();
            let latents = self.latents(first, labels, n);
            let images = generator.images(&latents.draw(self.options.latent), &latents.labels)?;
            let path = |i: usize| folders[(first + i) % turns].join(format!("{:06}.png", (first + i) / turns));
            write_files(&images, self.options.shape, &path)?;
            bar.inc(n as u64);
        }
        bar.finish_and_clear();
        say(format!("{count} images after step {}: {}", self.header.step, out.display()));
        Ok(())
    }

    fn scatter(&self, generator: &Generator) -> anyhow::Result<()> {
        if self.sample.interpolate.is_some() || self.sample.out.is_dir() {
            return Err(Error::Config("preset ring draws points: one picture, and no --interpolate".into()).into());
        }
        let latents = self.latents(0, Vec::new(), self.sample.count.unwrap_or(ring::POINTS));
        let points = generator.values(&latents.draw(self.options.latent), &[])?;
        let (picture, modes) = grid::scatter(&points);
        picture.save(&self.sample.out)?;
        say(modes);
        say(format!("{} points after step {}: {}", latents.count, self.header.step, self.sample.out.display()));
        Ok(())
    }
}

/// Encodes and writes on all cores. Files of a set that can be drawn again need no syncing, which would take longer
/// than all the rest.
fn write_files(images: &[u8], shape: ImageShape, path: &(impl Fn(usize) -> PathBuf + Sync)) -> Result<(), Error> {
    let write = |i: usize, image: &[u8]| {
        let (path, picture) = (path(i), Picture { shape, pixels: image.to_vec() });
        picture.encode().and_then(|bytes| std::fs::write(&path, bytes)).map_err(Error::io(&path))
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let each = (images.len() / shape.len()).div_ceil(threads).max(1);
    let work = |(part, images): (usize, &[u8])| {
        let mut numbered = images.chunks_exact(shape.len()).enumerate();
        numbered.try_for_each(|(i, image)| write(part * each + i, image))
    };
    std::thread::scope(|scope| {
        let work = &work;
        let parts = images.chunks(each * shape.len()).enumerate();
        let workers: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let results = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| Err(Error::Device("host: a thread that writes images has ended".into())))
        });
        results.collect::<Result<(), Error>>()
    })
}
