//! `zgan eval`, and the line at the end of a training.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;
use zgan::checkpoint::NamedTensor;
use zgan::data::{DataInfo, DataOptions, DataSource, Dataset, Size, Split, mixture};
use zgan::device::Device;
use zgan::eval::inception;
use zgan::eval::judge::{self, Figures};
use zgan::eval::metrics::NEIGHBOUR;
use zgan::eval::{self, Cache, Classifier, Ready, Report, Request, Tested, Training};
use zgan::gan::{Generator, Latents, Setup, Trainer, Weights};
use zgan::settings::Settings;
use zgan::{Error, checkpoint, run};

use super::figures::{Published, USUAL_METRICS};
use super::ranks::{Ranks, Together};
use super::tuned::Place;
use super::{progress, ranks, say, settings_of, tell, thousands, unfit};

/// How many images are drawn of each class, how many real ones of each are compared, and both where there is one class.
const PER_CLASS: usize = 100;
pub(super) const REAL: usize = 500;
const ALONE: usize = 1000;

/// Why no classifier can learn from some images.
fn no_classes(data: &Dataset) -> String {
    let why = if data.vectors().is_some() { "the labels are vectors" } else { "the images are of one class" };
    format!("no label accuracy and no Fréchet distance: {why}, so that no classifier can learn from them")
}

#[derive(Args)]
pub struct Eval {
    /// Evaluate this run, by name or folder: its newest checkpoint
    #[arg(long, value_name = "RUN", required_unless_present_any = ["checkpoint", "images"])]
    run: Option<String>,
    /// Evaluate this checkpoint
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Evaluate the best checkpoint of the run, which --keep-best has kept, and not the newest
    #[arg(long, requires = "run", conflicts_with_all = ["checkpoint", "images"])]
    best: bool,
    /// Evaluate the pictures of this folder, or zip, by the published figures
    #[arg(long, value_name = "DIR", conflicts_with_all = ["run", "checkpoint", "raw_weights", "per_class", "count"])]
    images: Option<PathBuf>,
    /// With --images, crop and scale pictures to this size, as for a training [default: judge them in their own size]
    #[arg(long, value_name = "SIDE|HEIGHTxWIDTH", requires = "images")]
    size: Option<Size>,
    /// Folder of all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs_dir: PathBuf,
    /// Where the images are that it was trained on [default: as the run's config.toml says]
    #[arg(long, value_name = "SOURCE")]
    data: Option<DataSource>,
    /// Draw with G's weights of the last step, not their moving average
    #[arg(long)]
    raw_weights: bool,
    /// Images that are drawn of each class [default: 100; 1000 where there is one class; 2500 points of preset ring]
    #[arg(long, value_name = "IMAGES")]
    per_class: Option<usize>,
    /// All latents follow from this one
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write one object of JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    published: Published,
    #[command(flatten, next_help_heading = "Where it runs")]
    place: Place,
    #[command(flatten, next_help_heading = "Where it runs")]
    together: Together,
}

impl Eval {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        self.together.run(
            || Ok(Some(self.place.device)),
            |ranks| {
                match &self.images {
                    Some(folder) => self.pictures(folder, ranks),
                    None => self.drawn(ranks),
                }?;
                // The first rank may have figures to compute of what all have seen.
                ranks::wait(ranks)?;
                Ok(ExitCode::SUCCESS)
            },
        )
    }

    /// The device, and the same as that of one of the ranks, which look at images together: all of them must have been asked for the
    /// same.
    fn devices(&self, ranks: Option<&Ranks>, weights: Option<&inception::Weights>) -> anyhow::Result<(Device, Device)> {
        let device = self.place.open_of(ranks)?;
        if let Some(ranks) = ranks {
            ranks.same("program", env!("CARGO_PKG_VERSION"))?;
            ranks.same("command line", format!("{:?}", std::env::args_os().skip(1).collect::<Vec<_>>()))?;
            ranks.same("tuning", format!("{:?}", device.tuning()))?;
            ranks.same("weights of Inception", weights.map_or("", |weights| &weights.digest))?;
        }
        Ok((device.clone(), ranks::on(ranks, &device)?))
    }

    /// Judges what a run draws.
    fn drawn(&self, ranks: Option<&Ranks>) -> anyhow::Result<()> {
        self.per_class.map_or(Ok(()), check_per_class)?;
        let published = !self.published.metrics.is_empty();
        let inception = if published { self.published.weights()? } else { None };
        let folder = self.run.as_deref().map(|name| run::find(&self.runs_dir, name)).transpose()?;
        let path = match &self.checkpoint {
            Some(file) => file.clone(),
            None if self.best => run::best_checkpoint(&self.runs_dir, self.run.as_deref().unwrap_or_default())?,
            None => run::newest_checkpoint(&self.runs_dir, self.run.as_deref().unwrap_or_default())?,
        };
        let (header, tensors) = checkpoint::load(&path)?;
        let mut settings = settings_of(&path, &header)?;
        self.find_data(&mut settings, &header.data, folder.as_deref(), &path)?;
        let setup = Setup::new(&settings, &header.data);
        if setup.draws_points() {
            let device = self.place.open_of(ranks)?;
            // A moment's work.
            let first = !ranks::is_silent();
            return if first { self.cover(&device, &path, header.step, &setup, &tensors) } else { Ok(()) };
        }
        check(&header.data)?;
        let (device, shared) = self.devices(ranks, inception.as_ref())?;
        settings.place.threads = self.place.threads;
        let options = DataOptions { like: Some(header.data.classes.clone()), ..settings.data_options() };
        let data = settings.images.data.open(Split::Train, &options)?;
        data.notes().iter().for_each(|note| tell(!self.json, format!("data    {note}")));
        same_images(&path, &header.data, &data.info())?;
        if let Some(ranks) = ranks {
            ranks.same("checkpoint", std::fs::read(&path).map_err(Error::io(&path))?)?;
        }
        let setup = setup.of(&data);
        let unfit = || unfit(&path, "drawn from");
        Trainer::check_tensors(&setup, &tensors).with_context(unfit)?;
        let mut trainer = Trainer::new(&device, &setup)?;
        trainer.restore(header.step, &tensors).with_context(unfit)?;
        drop(tensors);

        let weights = if self.raw_weights { Weights::Raw } else { weights(&settings) };
        if published {
            let (mut figures, count) = (Figures::default(), self.published.count()?);
            if let Some(inception) = inception {
                let judge = self.published.judge(&shared, &inception, &[])?;
                drop(inception);
                let real = self.published.real(&judge, Some((&data, &settings.images.data)), false, !self.json)?;
                tell(!self.json, format!("drawn   {} images go through Inception", thousands(count)));
                let drawn = eval::whole(judge.draw(&mut trainer, weights, self.seed, count, &|| true)?)?;
                // Of what others than the first rank have, which is nothing, this says nothing.
                figures = judge.compare(&drawn, &real, data.classes())?;
            }
            if ranks::is_silent() {
                return Ok(());
            }
            let held_out = eval::held_out(&settings.images.data, &settings.data_options(), &data);
            let generated = || {
                let latents = judge::latents(&setup, self.seed, count);
                if !setup.conditional() || setup.classes < 2 {
                    return Ok(None);
                }
                let images = trainer.sample(weights, &latents)?;
                Dataset::new("generated", data.shape(), data.classes().to_vec(), images, latents.labels).map(Some)
            };
            self.published.add_cas(&mut figures, &device, generated, held_out.as_ref(), !self.json)?;
            tell(!self.json, format!("{} after step {}", path.display(), header.step));
            return self.published.print(&figures, self.json);
        }
        let (classifier, tested, usual, real_per_class) = if data.groups() > 1 {
            let ready = || classifier(&shared, &settings, &data, &|line| tell(!self.json, line));
            let ready = if ranks::is_silent() { None } else { Some(ready()?) };
            ranks::wait(ranks)?;
            let (classifier, tested) = match ready {
                Some(ready) => (ready.classifier, Some(ready.tested)),
                None => (Classifier::new(&shared, data.shape(), data.classes().len())?, None),
            };
            classifier.take_from_first()?;
            (classifier, tested, PER_CLASS, REAL)
        } else {
            tell(!self.json, no_classes(&data));
            (Classifier::untrained(&shared, data.shape())?, None, ALONE, ALONE)
        };
        let per_class = self.per_class.unwrap_or(usual);
        let request = Request { weights, seed: self.seed, per_class, real_per_class };
        let report = eval::evaluate_while(&classifier, &mut trainer, &data, &request, &|| true)?;
        if ranks::is_silent() {
            return Ok(());
        }
        let report = eval::whole(report)?;
        if self.json {
            say(json(&report, &data, tested.as_ref(), header.step)?);
            return Ok(());
        }
        let tested = tested.map_or(String::new(), |tested| format!("; {tested}"));
        say(format!("{} after step {}{tested}", path.display(), header.step));
        table(&report);
        say(summary(&report));
        Ok(())
    }

    /// Judges pictures that another program has drawn, for instance.
    fn pictures(&self, folder: &Path, ranks: Option<&Ranks>) -> anyhow::Result<()> {
        let weights = self.published.weights()?;
        let open = |source: &DataSource, like: Option<Vec<String>>| -> Result<Dataset, Error> {
            let data = source.open(Split::Train, &DataOptions { like, ..self.options(source)? })?;
            data.notes().iter().for_each(|note| tell(!self.json, format!("data    {note}")));
            tell(!self.json, format!("data    {}: {} images", source, thousands(data.len())));
            Ok(data)
        };
        let real = self.data.as_ref().map(|source| open(source, None).map(|data| (data, source))).transpose()?;
        let like = real.as_ref().map(|(data, _)| data.classes().to_vec());
        let images = open(&DataSource::Folder(folder.to_path_buf()), like)?;
        let whole = self.size.is_none();
        let (device, shared) = self.devices(ranks, weights.as_ref())?;
        // Labels of two folders are the same where their classes are.
        let classes = real.as_ref().map(|(data, _)| data.classes()).filter(|classes| *classes == images.classes());
        let classes = classes.unwrap_or_default().to_vec();
        let mut figures = Figures::default();
        if let Some(weights) = weights {
            let judge = self.published.judge(&shared, &weights, &USUAL_METRICS)?;
            drop(weights);
            let real_side = real.as_ref().map(|(data, source)| (data, *source));
            let real_sight = self.published.real(&judge, real_side, whole, !self.json)?;
            tell(!self.json, format!("images  {} go through Inception", thousands(images.len())));
            let seen = eval::whole(judge.look(&images, usize::MAX, whole, false, &|| true)?)?;
            figures = judge.compare(&seen, &real_sight, &classes)?;
        }
        if ranks::is_silent() {
            return Ok(());
        }
        let held_out =
            real.as_ref().and_then(|(data, source)| eval::held_out(source, &self.options(source).ok()?, data));
        let generated = || Ok((classes.len() > 1).then_some(images));
        self.published.add_cas(&mut figures, &device, generated, held_out.as_ref(), !self.json)?;
        self.published.print(&figures, self.json)
    }

    /// How pictures are read that no run says anything about.
    fn options(&self, source: &DataSource) -> Result<DataOptions, Error> {
        let mut settings = Settings::default();
        settings.images.size = self.size.unwrap_or(settings.images.size);
        // Those that are read in their own size need not be kept in another one.
        settings.images.data_memory = if self.size.is_some() { settings.images.data_memory } else { 0 };
        settings.place.threads = self.place.threads;
        settings.images.data = source.clone();
        settings.check()?;
        Ok(settings.data_options())
    }

    /// Says how well the points of a run cover the modes of its data.
    fn cover(
        &self,
        device: &Device,
        path: &Path,
        step: u64,
        setup: &Setup,
        tensors: &[NamedTensor],
    ) -> anyhow::Result<()> {
        let weights = if self.raw_weights { Weights::Raw } else { Weights::Average };
        let generator = Generator::new(device, setup, tensors, weights).with_context(|| unfit(path, "drawn from"))?;
        let latents = Latents::unlabelled(self.seed, self.per_class.unwrap_or(mixture::POINTS));
        let cover = setup.mixture.cover(&generator.values(&latents.draw(&setup.networks)?, &[])?);
        if self.json {
            let mut object = serde_json::to_value(cover)?;
            (object["step"], object["points"]) = (step.into(), latents.count.into());
            say(serde_json::to_string_pretty(&object)?);
        } else {
            say(format!("{} after step {step}, {} points", path.display(), thousands(latents.count)));
            say(format!("modes   {cover}"));
        }
        Ok(())
    }

    /// Sets where the images are: the command line says it, or the run, or they are inside this program.
    fn find_data(
        &self,
        settings: &mut Settings,
        info: &DataInfo,
        folder: Option<&Path>,
        checkpoint: &Path,
    ) -> anyhow::Result<()> {
        // runs/NAME/checkpoints/step-000001.safetensors
        let folder = folder.or_else(|| checkpoint.parent()?.parent());
        let saved = folder.map(run::config_path).filter(|file| file.is_file());
        let saved = saved.map(|file| Settings::read_table(&file)).transpose()?;
        if let Some(saved) = saved {
            let saved = Settings::new(None, &saved)?;
            settings.images = saved.images;
            settings.batches = saved.batches;
        } else if self.data.is_none() && info.name != settings.images.data.to_string() {
            let what =
                format!("{} does not say where its images ({info}) are: --data names them", checkpoint.display());
            return Err(Error::Config(what).into());
        }
        if let Some(data) = &self.data {
            settings.images.data = data.clone().absolute();
        }
        let images = &mut settings.images;
        // A class of numbered labels is called by its label.
        let last = info.classes.iter().filter_map(|name| name.parse().ok()).max().unwrap_or(0usize);
        images.classes = info.classes.len().max(last.saturating_add(1));
        (images.size, images.channels) = (info.shape.size(), info.shape.channels);
        Ok(())
    }
}

/// Refuses to draw no images of a class, or more than memory has room for.
pub(super) fn check_per_class(images: usize) -> Result<(), Error> {
    if (1..=1 << 16).contains(&images) {
        return Ok(());
    }
    Err(Error::Config(format!("per-class: {images}, expected 1 to {}", 1 << 16)))
}

/// The weights of G that draw the images which are judged.
pub(super) fn weights(settings: &Settings) -> Weights {
    if settings.training.average > 0.0 { Weights::Average } else { Weights::Raw }
}

/// Refuses a checkpoint of other images than those that are here.
pub(super) fn same_images(checkpoint: &Path, there: &DataInfo, here: &DataInfo) -> Result<(), Error> {
    if there == here {
        return Ok(());
    }
    let (path, crcs) = (checkpoint.display(), [&there.crc32, &here.crc32]);
    let mut what = format!("{path} is of other images: {there}, CRC {} there; {here}, CRC {} here", crcs[0], crcs[1]);
    let missing = |of: &DataInfo, from: &DataInfo| {
        of.classes.iter().filter(|name| !from.classes.contains(name)).cloned().collect::<Vec<_>>()
    };
    for (names, place) in [(missing(there, here), "there"), (missing(here, there), "here")] {
        if !names.is_empty() {
            what.push_str(&format!("; only {place}: class {}", names.join(", ")));
        }
    }
    Err(Error::Config(what))
}

/// Refuses data that a classifier cannot tell anything about.
pub(super) fn check(info: &DataInfo) -> Result<(), Error> {
    let what = if info.images == 0 {
        "there are no images: points".to_string()
    } else if info.shape.height.min(info.shape.width) < 4 {
        format!("images of {} are too small to be judged: 4 pixels a side are the least", info.shape)
    } else {
        return Ok(());
    };
    Err(Error::Config(what))
}

/// How far the training of a classifier is: a bar on a terminal, else a line now and then. And whether it goes on.
struct Watch<'a> {
    tell: &'a dyn Fn(String),
    go_on: &'a dyn Fn() -> bool,
    /// The longest time that it may take altogether.
    budget: Option<Duration>,
    begun: Instant,
    /// Steps of the training.
    steps: u64,
    done: Cell<u64>,
    told: Cell<Instant>,
    late: Cell<bool>,
    bar: RefCell<Option<ProgressBar>>,
}

impl<'a> Watch<'a> {
    fn new(tell: &'a dyn Fn(String), go_on: &'a dyn Fn() -> bool, budget: Option<Duration>, steps: u64) -> Watch<'a> {
        let now = Instant::now();
        let (done, late, bar) = Default::default();
        Watch { tell, go_on, budget, begun: now, steps, done, told: Cell::new(now), late, bar }
    }

    /// Before each step of the training, and between parts of the test that follows it.
    fn step(&self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(10);
        let (done, elapsed) = (self.done.get(), self.begun.elapsed());
        self.done.set(done + 1);
        if done == 0 && progress::on_a_terminal() {
            *self.bar.borrow_mut() =
                Some(progress::bar(self.steps, "{bar:24} {pos}/{len}  the classifier  {eta} left"));
        }
        match &*self.bar.borrow() {
            Some(bar) if done < self.steps => bar.set_position(done),
            Some(bar) => bar.finish_and_clear(),
            None if done < self.steps && self.told.get().elapsed() > PATIENCE => {
                (self.tell)(format!("the classifier is at step {done} of {}", self.steps));
                self.told.set(Instant::now());
            }
            None => {}
        }
        // What it will take is known after some steps.
        let whole = elapsed.mul_f64(self.steps as f64 / done.clamp(1, self.steps.max(1)) as f64);
        self.goes_on(if done >= 5 { whole } else { elapsed })
    }

    fn goes_on(&self, time: Duration) -> bool {
        self.late.set(self.late.get() || self.budget.is_some_and(|budget| time > budget));
        let goes_on = !self.late.get() && (self.go_on)();
        if let Some(bar) = self.bar.borrow().as_ref().filter(|_| !goes_on) {
            bar.finish_and_clear();
        }
        goes_on
    }
}

/// The classifier of these images: the kept one, or one that is trained now.
pub(super) fn classifier(
    device: &Device,
    settings: &Settings,
    data: &Dataset,
    tell: &dyn Fn(String),
) -> Result<Ready, Error> {
    let training = Training::new(data.len());
    let watch = Watch::new(tell, &|| true, None, training.steps);
    let ready = ready(device, settings, data, &training, &watch)?;
    eval::whole(ready)
}

fn ready(
    device: &Device,
    settings: &Settings,
    data: &Dataset,
    training: &Training,
    watch: &Watch,
) -> Result<Option<Ready>, Error> {
    let test = eval::held_out(&settings.images.data, &settings.data_options(), data);
    let cache = Cache::of(&settings.images.data);
    cache.classifier(device, data, test.as_ref(), training, &mut |line| (watch.tell)(line), &|| watch.step())
}

/// The time that the evaluation at the end of a training may take where that has taken less.
const SHORT: Duration = Duration::from_secs(120);

/// The summary at the end of a training that took `time`; nobody has asked for it, so it does not take longer than that.
/// `again` is the command that evaluates without such a limit. Everything is saved by then, so an error here is only told.
pub fn at_end(
    device: &Device,
    settings: &Settings,
    data: &Dataset,
    trainer: &mut Trainer,
    go_on: &dyn Fn() -> bool,
    time: Duration,
    again: &str,
) {
    // `simt` is for checking, and would take hours. Of points it has been told how many modes they cover.
    if device.execution() == "simt" || data.is_drawn() {
        return;
    }
    let info = data.info();
    let training = Training::new(data.len());
    let tell = |line: String| say(line);
    let budget = time.max(SHORT);
    let watch = Watch::new(&tell, go_on, Some(budget), training.steps);
    let (weights, seed) = (weights(settings), settings.training.seed);
    let mut evaluate = |classifier: &Classifier, per_class, real_per_class| {
        let request = Request { weights, seed, per_class, real_per_class };
        eval::evaluate_while(classifier, trainer, data, &request, &|| watch.goes_on(watch.begun.elapsed()))
    };
    let evaluated = if let Err(error) = check(&info) {
        Err(error)
    } else if data.groups() > 1 {
        let ready = ready(device, settings, data, &training, &watch);
        ready.and_then(|ready| ready.map_or(Ok(None), |ready| evaluate(&ready.classifier, PER_CLASS, REAL)))
    } else {
        say(no_classes(data));
        Classifier::untrained(device, info.shape).and_then(|classifier| evaluate(&classifier, ALONE, ALONE))
    };
    match evaluated {
        Ok(Some(report)) => say(summary(&report)),
        Ok(None) if watch.late.get() => {
            let longer = if budget == time {
                "longer than the training".into()
            } else {
                format!("more than {}", progress::clock(budget))
            };
            say(format!("not evaluated: it would take {longer}; this does it\n  {again}"));
        }
        Ok(None) => say(format!("not evaluated: interrupted; this does it later\n  {again}")),
        Err(error) => say(format!("not evaluated: {error}")),
    }
}

/// A line like `label accuracy 97.7 %  coverage 0.41  density 0.62  Fréchet distance 21.3 (1,000 generated, 5,000 real)`
fn summary(report: &Report) -> String {
    let mut parts = Vec::new();
    parts.extend(report.label_accuracy.map(|share| format!("label accuracy {:.1} %", 100.0 * share)));
    parts.extend(report.coverage.map(|share| format!("coverage {share:.2}")));
    parts.extend(report.density.map(|density| format!("density {density:.2}")));
    parts.extend(report.frechet_distance.map(|distance| format!("Fréchet distance {distance:.2}")));
    if parts.is_empty() {
        parts.push(format!("too few images to compare: {} real ones are the least", NEIGHBOUR + 1));
    }
    let untrained = if report.classes.is_empty() { ", by the features of random weights" } else { "" };
    let (generated, real) = (thousands(report.generated), thousands(report.real));
    format!("{}{untrained} ({generated} generated, {real} real)", parts.join("  "))
}

fn table(report: &Report) {
    if report.classes.is_empty() {
        return;
    }
    let longest = report.classes.iter().map(|class| class.name.chars().count()).max().unwrap_or(0);
    let width = longest.clamp(5, 24);
    let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.2}"));
    if report.label_accuracy.is_none() {
        say(format!("{:<width$}  labelled", "class"));
        for class in &report.classes {
            say(format!("{:<width$}  {:>8}", class.name, thousands(class.labelled)));
        }
        return;
    }
    say(format!("{:<width$}  accuracy  coverage  density  generated  real", "class"));
    for class in &report.classes {
        let accuracy = class.label_accuracy.map_or("-".to_string(), |share| format!("{:.1} %", 100.0 * share));
        let (coverage, density) = (number(class.coverage), number(class.density));
        let (generated, real) = (thousands(class.generated), thousands(class.real));
        let name = &class.name;
        say(format!("{name:<width$}  {accuracy:>8}  {coverage:>8}  {density:>7}  {generated:>9}  {real:>4}"));
    }
}

fn json(report: &Report, data: &Dataset, classifier: Option<&Tested>, step: u64) -> anyhow::Result<String> {
    let mut object = serde_json::to_value(report)?;
    object["step"] = step.into();
    if classifier.is_none() {
        object["left-out"] = no_classes(data).into();
    }
    object["classifier"] = serde_json::to_value(classifier)?;
    Ok(serde_json::to_string_pretty(&object)?)
}
