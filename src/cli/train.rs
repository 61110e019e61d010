//! `zgan train`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{ArgMatches, Args};
use zgan::checkpoint::{self, Header, NamedTensor};
use zgan::data::{DataInfo, DataOptions, Dataset, Loader, Split, mixture};
use zgan::device::{Device, DeviceChoice, Precision};
use zgan::eval::inception;
use zgan::eval::judge::Figures;
use zgan::exchange::placed;
use zgan::gan::{Latents, Metrics, Plan, Setup, Trainer, Vitals, Weights};
use zgan::picture::{Picture, square_columns};
use zgan::run::{self, MetricsLog, Run};
use zgan::settings::{Preset, Settings, Training, Written, differences};
use zgan::sizes::{filled, product};
use zgan::tensorboard::Events;
use zgan::{Error, Result, files};

use super::inits::{Beginning, Inits};
use super::judging::{self, Judging};
use super::progress::{Progress, clock};
use super::ranks::{Ranks, Together};
use super::signals::{save_from_now_on, stopped};
use super::{eval, figures, grid, next_command, ranks, say, settings_of, thousands, tuned, unfit};

/// What is not a setting of a run. The settings themselves are the fields of [`Settings`].
#[derive(Args)]
pub struct Train {
    /// Go on with this run, by name or folder, from its newest checkpoint
    #[arg(long, value_name = "RUN", conflicts_with_all = ["run", "force", "config"])]
    resume: Option<String>,
    /// A TOML file of settings, named as the options are; the command line wins
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replace a run that has the same name
    #[arg(long)]
    force: bool,
    /// Only tell the networks, their parameters, the memory, and the first error there would be
    #[arg(long)]
    dry_run: bool,
    /// On a GPU, launch the kernels of a step one by one instead of as one captured graph
    #[arg(long)]
    no_graph: bool,
    /// Do not evaluate the images at the end
    #[arg(long)]
    no_eval: bool,
    #[command(flatten)]
    together: Together,
    #[command(flatten)]
    inits: Inits,
}

/// What is learnt from, and where it is kept.
fn tell_data(settings: &Settings, info: &DataInfo, data: &Dataset, loader: Option<&Loader>) {
    let from = match data.packed() {
        Some(packed) => format!(", packed in {}", packed.display()),
        None if data.is_streamed() => ", streamed from the disk".to_string(),
        None => String::new(),
    };
    say(format!("data    {info}{from}"));
    if let Some(loader) = loader.filter(|loader| loader.images() < data.len()) {
        let (share, images) = (settings.batches.limit_data, thousands(loader.images()));
        say(format!("        limit-data {share}: {images} of them are learnt from"));
    }
    data.notes().iter().for_each(|note| say(format!("        {note}")));
    tell_unreadable(data, say);
}

/// A checkpoint that training goes on from.
struct Start {
    header: Header,
    tensors: Vec<NamedTensor>,
}

impl Train {
    pub fn run(&self, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
        // A run that goes on has its device, unless the command line names another.
        let device = || match matches.get_one::<DeviceChoice>("device") {
            Some(named) => Ok(Some(*named)),
            None => Ok(self.table(runs_dir(matches))?.get("device").and_then(|device| device.as_str()?.parse().ok())),
        };
        self.together.run(device, |ranks| self.run_as(matches, ranks))
    }

    /// As the only rank, or as one of several.
    fn run_as(&self, matches: &ArgMatches, ranks: Option<&Ranks>) -> anyhow::Result<ExitCode> {
        // All others train alone.
        let writes = ranks.is_none_or(|ranks| ranks.rank() == 0);
        let runs_dir = runs_dir(matches);
        let beginning = self.inits.read(runs_dir)?;
        let mut settings = self.settings(matches, runs_dir, beginning.as_ref())?;
        let steps = settings.training.steps;
        if self.resume.is_none() && !self.dry_run && writes {
            Run::check(settings.runs_dir(), settings.written.run.as_deref(), self.force)?;
        }
        let inception = match settings.judging.eval_every {
            0 => None,
            _ => Some(inception::Weights::find(settings.judging.inception.as_deref())?),
        };
        let newest = self.newest(&settings)?;
        let newest_path = newest.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
        let unfit = || unfit(&newest_path, "gone on from");
        let like = newest.as_ref().map(|(_, start)| start.header.data.classes.clone());
        let options = DataOptions { like, ..settings.data_options() };
        let data = settings.images.data.open(Split::Train, &options)?;
        let info = data.info();
        settings.check_images(info.shape)?;
        let (device, device_lines) = self.open_device(&mut settings, ranks)?;
        let settings = settings;
        let written = &settings.written;
        let setup = Setup::new(&settings, &info).of(&data);
        let start = newest.map(|(path, start)| self.start(&settings, &info, &path, start)).transpose()?;
        if settings.images.pack && !self.dry_run {
            data.pack(&say)?;
        }
        // Points are drawn by the step itself.
        let mut loader = if data.is_drawn() { None } else { Some(Loader::new(&data, settings.loader_options())?) };
        if let Some(ranks) = ranks {
            let share = ranks.share(settings.training.batch)?;
            loader = loader.map(|loader| loader.with_share(share)).transpose()?;
        }
        let plan = Trainer::plan(&setup, ranks.map_or(1, Ranks::ranks))?;
        let begun = beginning.map(|beginning| beginning.take(&setup, &info.classes)).transpose()?;
        device_lines.into_iter().for_each(say);
        tell_data(&settings, &info, &data, loader.as_ref());
        say(format!("G, D    {}, {} parameters", thousands(plan.parameters_g), thousands(plan.parameters_d)));
        for note in begun.iter().flat_map(|(_, notes)| notes) {
            say(format!("weights {note}"));
        }
        if let Some(start) = &start {
            Trainer::check_tensors(&setup, &start.tensors).with_context(unfit)?;
        }
        let numbers = settings.numbers()?;
        if let Some(ranks) = ranks {
            ranks.same("program", env!("CARGO_PKG_VERSION"))?;
            ranks.same("settings", numbers.to_string())?;
            ranks.same("images", format!("{info:?}"))?;
            ranks.same("tuning", format!("{:?}", device.tuning()))?;
            ranks.same("weights of Inception", inception.as_ref().map_or("", |weights| &weights.digest))?;
        }
        let trained_on = ranks::on(ranks, &device)?;
        if self.dry_run {
            let images = loader.as_ref().map_or(0, Loader::images);
            return self.dry_run(&settings, &setup, &trained_on, &plan, (&info, images));
        }
        let mut trainer = new_trainer(&trained_on, &setup, plan.bytes)?;
        trainer.set_graph(!self.no_graph);
        if let Some(start) = start {
            trainer.restore(start.header.step, &start.tensors).with_context(unfit)?;
            start.header.scaling.map_or(Ok(()), |scaling| trainer.restore_scaling(scaling))?;
        }
        if let Some((taken, _)) = begun {
            trainer.restore(0, &placed(trainer.tensors()?, &taken))?;
        }
        let (first, end) = (trainer.step_number(), written.stop_at.unwrap_or(steps));
        if let Some(name) = self.resume.as_ref().filter(|_| first >= end) {
            let more = if first >= steps { "a larger --steps" } else { "a later --stop-at, or none," };
            say(format!("run {name} is at step {first} of {steps} already; {more} goes on"));
            return Ok(ExitCode::SUCCESS);
        }
        save_from_now_on();
        let mut course = Course::new(&settings, &info, loader.as_mut(), end, ranks)?;
        course.check(&trainer)?;
        let judging = || inception.map(|weights| Judging::new(&trained_on, &settings, &data, &weights)).transpose();
        if !writes {
            let judge = judging()?.flatten();
            return Ok(course.follow(&mut trainer, |trainer| {
                judge.as_ref().map_or(Ok(None), |judge| judge.figures(trainer, &settings, &info.classes)).map(drop)
            })?);
        }
        let run = match &self.resume {
            Some(name) => {
                let run = Run::open(settings.runs_dir(), name)?;
                run.save_settings(&settings)?;
                run.save_tuning(&device)?;
                run
            }
            None => {
                let name = written.run.as_deref();
                Run::create(settings.runs_dir(), name, settings.preset.name, self.force, &settings, &device)?
            }
        };
        let figures = settings.judging.figures();
        let own = setup.more_metrics().into_iter().chain(setup.health());
        let columns: Vec<&str> = own.chain(figures.iter().map(|f| f.name())).collect();
        let log = run.metrics(first, &columns)?;
        say(format!("run     {}, steps {first} to {end} of {steps}", run.folder().display()));
        if let Some(changed) = &log.changed {
            let (changed, fresh) = (changed.display(), log.path().display());
            say(format!("        {changed} is not as this program wrote it: it stays as it is, rows go on in {fresh}"));
        }

        let judge = judging()?.flatten();
        let events = settings.written.tensorboard.then(|| Events::create(run.folder(), first)).transpose()?;
        if let Some(events) = &events {
            events.text(first, "settings", &format!("```\n{}```", settings.to_toml()?));
        }
        let (vitals, progress, seconds_before) = (Vitals::default(), Progress::new(first, end), log.seconds);
        let mut session =
            Session { settings, info, numbers, trainer, run, judge, log, events, vitals, progress, seconds_before };
        let ended = course.wait().and_then(|()| session.train(&data, &mut course));
        session.progress.end();
        if let Some(events) = session.events.take() {
            // What is missing there is in metrics.csv.
            let path = events.path().to_path_buf();
            events.finish().unwrap_or_else(|error| say(format!("{} is not whole: {error}", path.display())));
        }
        let ended = match ended {
            Err(error @ Error::NotFinite { .. }) => return Err(error).context(session.last_good()),
            other => other?,
        };
        let time = ended.time;
        let code = session.farewell(ended);
        let again = next_command("eval --run", &session.name(), session.settings.runs_dir());
        let Session { trainer, settings, .. } = &mut session;
        if !self.no_eval && trainer.step_number() >= steps {
            eval::at_end(&device, settings, &data, trainer, &|| !stopped(), time, &again);
        }
        course.wait()?;
        Ok(code)
    }

    /// The device, and the lines that tell about it. A resumed run has the tuning that it began with. Precision `auto`
    /// becomes that of the device.
    fn open_device(&self, settings: &mut Settings, ranks: Option<&Ranks>) -> anyhow::Result<(Device, Vec<String>)> {
        let place = &settings.place;
        let choice = ranks.map_or(place.device, |ranks| ranks.device(place.device));
        let (device, why, retuned) = match &self.resume {
            Some(name) => {
                let file = run::tuning_path(&run::find(settings.runs_dir(), name)?);
                tuned::reopen(choice, place.threads, &file)?
            }
            None => {
                let (device, why) = tuned::open(choice, place.threads)?;
                (device, why, false)
            }
        };
        let (chosen, precision) = (settings.training.precision, settings.training.precision.on(&device));
        device.check_precision(precision)?;
        settings.training.precision = precision.into();
        let mut lines = vec![format!("device  {}", device.description())];
        lines.extend(ranks.map(|ranks| ranks.devices(&device)).transpose()?.into_iter().flatten());
        lines.extend(why.map(|why| format!("        auto: {why}")));
        if retuned {
            lines.push(
                "        with another tuning than the run had: its bits will not be those of one that went through"
                    .into(),
            );
        }
        if precision != Precision::F32 {
            let exact = if chosen == precision.into() { "" } else { " (auto; --precision f32 is more exact)" };
            lines.push(format!("        activations and products in {precision}, weights in f32{exact}"));
        }
        Ok((device, lines))
    }

    /// The settings of the run that is resumed, or of a file.
    fn table(&self, runs_dir: &Path) -> Result<toml::Table> {
        match (&self.resume, &self.config) {
            (Some(name), _) => Settings::read_table(&run::config_path(&run::find(runs_dir, name)?)),
            (None, Some(file)) => Settings::read_table(file),
            (None, None) => Ok(toml::Table::new()),
        }
    }

    /// The preset, or the run that is resumed, or a file; then the command line.
    fn settings(
        &self,
        matches: &ArgMatches,
        runs_dir: &Path,
        beginning: Option<&Beginning>,
    ) -> anyhow::Result<Settings> {
        let mut table = self.table(runs_dir)?;
        if self.resume.is_some() && !table.contains_key("precision") {
            say("precision f32: the run is older than this setting");
        }
        let preset = matches.get_one::<Preset>("preset").copied();
        if let Some(beginning) = beginning {
            let named = table.get("preset").and_then(|name| name.as_str()?.parse().ok());
            for (name, value) in beginning.settings(preset.or(named))? {
                table.entry(name).or_insert(value);
            }
        }
        let mut settings = Settings::with_arguments(preset, &table, Some(matches))?;
        settings.images.data = settings.images.data.absolute();
        settings.images.data.check_text()?;
        if let Some(Ok(labels)) = settings.images.labels.as_ref().map(std::path::absolute) {
            settings.images.labels = Some(labels);
        }
        settings.check()?;
        if self.resume.is_none() {
            settings.check_decay()?;
        }
        // What a file cannot hold is refused before anything is made.
        settings.to_toml()?;
        Ok(settings)
    }

    /// The newest checkpoint of the run that is resumed.
    fn newest(&self, settings: &Settings) -> anyhow::Result<Option<(PathBuf, Start)>> {
        let Some(name) = &self.resume else { return Ok(None) };
        let folder = run::find(settings.runs_dir(), name)?;
        let mut all = run::checkpoints(&folder)?;
        let Some((_, path)) = all.pop() else {
            let what = format!("run {name} has no checkpoint to go on from; --run {name} --force begins it anew");
            return Err(Error::Config(what).into());
        };
        let (header, tensors) = match checkpoint::load_finite(&path) {
            Err(error) => {
                return match all.iter().rev().find(|(_, older)| checkpoint::load_finite(older).is_ok()) {
                    Some((_, older)) => {
                        let what = format!("remove {} to go on from {}", path.display(), older.display());
                        Err(error).context(what)
                    }
                    None => Err(error.into()),
                };
            }
            Ok(loaded) => loaded,
        };
        Ok(Some((path, Start { header, tensors })))
    }

    /// The checkpoint, if it is of these settings and images.
    fn start(&self, settings: &Settings, info: &DataInfo, path: &Path, start: Start) -> anyhow::Result<Start> {
        let Start { header, .. } = &start;
        let mut numbers = settings.numbers()?;
        if let Some(steps) = header.config.get("steps").filter(|steps| Some(*steps) != numbers.get("steps")) {
            if let Some(from) = settings.training.decay_from {
                if header.step > from {
                    let what = format!(
                        "steps is {steps} in {}, {} here: its learning rates fall from step {from} to 0 at step \
                         {steps}, and it is at step {}, so its length is fixed",
                        path.display(),
                        settings.training.steps,
                        header.step
                    );
                    return Err(Error::Config(what).into());
                }
                // A run of an older program may have rates that never fall. It may stay so.
                if steps.as_integer().is_some_and(|steps| steps as u64 > from) {
                    settings.check_decay()?;
                }
            }
            // No rate until now depends on the length of the training: the run may be made longer.
            numbers.insert("steps".into(), steps.clone());
        }
        // Settings that are younger than the checkpoint have their preset's value there.
        let mut there = settings_of(path, header)?.numbers()?;
        // What is kept is f32: a run may go on in another precision.
        numbers.remove("precision");
        there.remove("precision");
        let differing = differences(&there, &numbers);
        if !differing.is_empty() {
            let what = format!("{} is of other settings: {}", path.display(), differing.join("; "));
            return Err(Error::Config(what).into());
        }
        eval::same_images(path, &header.data, info)?;
        Ok(start)
    }

    fn dry_run(
        &self,
        settings: &Settings,
        setup: &Setup,
        device: &Device,
        plan: &Plan,
        (info, images): (&DataInfo, usize),
    ) -> anyhow::Result<ExitCode> {
        say("\nsettings");
        for (name, value) in effective(settings, info)? {
            say(format!("  {name:<18}{value}"));
        }
        say(format!("\ngenerator, {} parameters\n{}", thousands(plan.parameters_g), plan.generator.trim_end()));
        say(format!("\ndiscriminator, {} parameters\n{}", thousands(plan.parameters_d), plan.discriminator.trim_end()));
        let (ranks, which) = (ranks_of(device), if device.ranks().is_some() { "each" } else { "the" });
        say(format!("\nmemory  {} on {which} device", mebibytes(plan.bytes)));
        let parts = Trainer::plans_in_parts(setup, ranks).take(3).collect::<Result<Vec<_>>>()?;
        let parts: Vec<_> =
            parts.iter().map(|(part, bytes)| format!("{} in parts of {part}", mebibytes(*bytes))).collect();
        if !parts.is_empty() {
            say(format!("        with --micro-batch: {}", parts.join(", ")));
        }
        // Whether it fits shows only when it is asked for.
        let mut trainer = new_trainer(device, setup, plan.bytes)?;
        // It would take `simt` minutes.
        if device.execution() != "simt" {
            let (each, of) = time_of_a_step(&mut trainer, settings, info, device)?;
            forecast(settings, images, settings.training.steps, each).into_iter().for_each(say);
            if let Some(images) = of {
                let batch = settings.training.batch;
                say(format!("        measured with a batch of {images} and not {batch}, whose steps take long here"));
            }
        }
        if self.resume.is_none() && !ranks::is_silent() {
            Run::check(settings.runs_dir(), settings.written.run.as_deref(), self.force)?;
        }
        say("nothing is wrong; without --dry-run this would train");
        Ok(ExitCode::SUCCESS)
    }
}

fn runs_dir(matches: &ArgMatches) -> &Path {
    matches.get_one::<PathBuf>("runs_dir").map_or(Path::new("runs"), PathBuf::as_path)
}

fn ranks_of(device: &Device) -> usize {
    device.ranks().map_or(1, |ranks| ranks.ranks())
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

/// A trainer, which is planned to take so many bytes. Where the device has too little memory, the error names the largest parts
/// of the batch that fit.
fn new_trainer(device: &Device, setup: &Setup, bytes: usize) -> anyhow::Result<Trainer> {
    let free = device.free_memory()?.unwrap_or(usize::MAX);
    let error = match Trainer::new(device, setup) {
        Ok(trainer) if bytes <= free => return Ok(trainer),
        // What draws pictures would not find room.
        Ok(_) => Error::OutOfMemory { device: device.name(), asked: mebibytes(bytes), free: mebibytes(free) },
        Err(error @ Error::OutOfMemory { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    for plan in Trainer::plans_in_parts(setup, ranks_of(device)) {
        let (part, bytes) = plan?;
        if bytes <= free {
            return Err(error).context(format!("--micro-batch {part} takes {}, which is there", mebibytes(bytes)));
        }
    }
    Err(error).context("not even --micro-batch 1 would do; a smaller --width or --batch takes less")
}

/// The settings as they turn out to be: what the images themselves decide is as they have it.
fn effective(settings: &Settings, info: &DataInfo) -> Result<toml::Table> {
    let mut table = settings.table()?;
    if info.images > 0 {
        for (name, value) in [("classes", info.classes.len()), ("channels", info.shape.channels)] {
            table.insert(name.into(), (value as i64).into());
        }
        let size = toml::Value::try_from(info.shape.size()).map_err(|e| Error::Config(e.to_string()))?;
        table.insert("size".into(), size);
    }
    Ok(table)
}

/// The longest that `--dry-run` looks at steps.
const LOOK: Duration = Duration::from_secs(2);

/// The time that a step takes, found by some on black images. Where one takes long, it is what one of a small batch lets
/// expect, whose number of images comes second.
fn time_of_a_step(
    trainer: &mut Trainer,
    settings: &Settings,
    info: &DataInfo,
    device: &Device,
) -> Result<(Duration, Option<usize>)> {
    const MOST: u32 = 5;
    let Training { batch, batch_g, .. } = settings.training;
    let ranks = ranks_of(device);
    let few = ranks.max(2);
    if batch > few {
        let mut small = settings.clone();
        small.training.batch = few;
        small.training.batch_g = batch_g.map(|images| (images * few / batch).max(ranks));
        let vectors = trainer.setup().vectors.clone();
        let mut trainer = Trainer::new(device, &Setup { vectors, ..Setup::new(&small, info) })?;
        let mut each = time_of_steps(&mut trainer, info, device, 1)?;
        // The first one may have loaded code.
        if each < LOOK {
            each = time_of_steps(&mut trainer, info, device, 1)?;
        }
        let whole = each.mul_f64(batch as f64 / few as f64);
        if whole > LOOK {
            return Ok((whole, Some(few)));
        }
    }
    time_of_steps(trainer, info, device, 1)?;
    Ok((time_of_steps(trainer, info, device, MOST)?, None))
}

/// The time of each of up to `most` steps, that of the slowest rank.
fn time_of_steps(trainer: &mut Trainer, info: &DataInfo, device: &Device, most: u32) -> Result<Duration> {
    let count = if info.images > 0 { trainer.images_per_step() } else { 0 };
    let images = filled("the batches of a step", product([count, info.shape.len()]), 0)?;
    let labels = filled("the labels of a step", count, 0)?;
    let (begun, mut steps) = (Instant::now(), 0);
    while steps < most && (steps == 0 || device.any_rank(begun.elapsed() < LOOK)?) {
        trainer.step(&images, &labels).and_then(|()| device.synchronize())?;
        steps += 1;
    }
    Ok(Duration::from_nanos(device.agree((begun.elapsed() / steps).as_nanos() as u64)?))
}

/// How long `steps` steps will take, where one takes `each`, and how often the whole training sees each of `images`.
fn forecast(settings: &Settings, images: usize, steps: u64, each: Duration) -> Vec<String> {
    const WEEK: f64 = 7.0 * 24.0 * 3600.0;
    const PASSES: f64 = 500.0;
    let Training { batch, n_dis, steps: all, .. } = settings.training;
    let seconds = each.as_secs_f64() * steps as f64;
    let time = match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds < 2.0 * 24.0 * 3600.0 => clock(time),
        _ => format!("{:.0} days", seconds / (24.0 * 3600.0)),
    };
    let mut lines = vec![format!("time    about {time} for {} steps", thousands(steps as usize))];
    if seconds > WEEK {
        lines.push("        warning: that is more than a week; fewer --steps, or smaller networks, take less".into());
    }
    if images > 0 {
        let passes = all as f64 * product([batch, n_dis]) as f64 / images as f64;
        lines[0].push_str(&format!("; each of {} images is seen {passes:.1} times", thousands(images)));
        if passes > PASSES {
            let most = PASSES * images as f64 / product([batch, n_dis]).max(1) as f64;
            let what = format!("each image is seen more than {PASSES} times, and D may know them by heart");
            lines.push(format!("        warning: {what}; --steps {most:.0} or more images avoid that"));
        }
    }
    lines
}

/// Names the files that were skipped since the last time, the first few of many.
fn tell_unreadable(data: &Dataset, tell: impl Fn(String)) {
    const MOST: usize = 10;
    let files = data.newly_unreadable();
    for file in files.iter().take(MOST) {
        tell(format!("skipped {file}"));
    }
    if files.len() > MOST {
        tell(format!("skipped {} more files", files.len() - MOST));
    }
    data.newly_dark().into_iter().chain(data.newly_damaged()).for_each(tell);
}

/// How a training ended, all of it saved.
struct Ended {
    picture: PathBuf,
    interrupted: bool,
    time: Duration,
}

/// After so many steps it is known how long the others will take.
const FIRST_STEPS: u64 = 10;

/// The way of a training to its last step, which all ranks go together.
struct Course<'a, 'b> {
    loader: Option<&'a mut Loader<'b>>,
    images: Vec<u8>,
    labels: Vec<u32>,
    /// Images of this rank.
    batch: usize,
    n_dis: usize,
    written: Written,
    eval_every: u64,
    end: u64,
    /// The length of the whole training.
    steps: u64,
    ranks: Option<&'a Ranks>,
}

/// What is to be done after a step, all of it by the rank that writes. Every rank has the same.
struct Due {
    step: u64,
    row: bool,
    draw: bool,
    save: bool,
    judge: bool,
    last: bool,
    interrupted: bool,
    /// Where anything is due. So the numbers are known to be finite before anything is written.
    metrics: Option<Metrics>,
}

impl<'a, 'b> Course<'a, 'b> {
    fn new(
        settings: &Settings,
        info: &DataInfo,
        loader: Option<&'a mut Loader<'b>>,
        end: u64,
        ranks: Option<&'a Ranks>,
    ) -> Result<Course<'a, 'b>> {
        let Training { batch, n_dis, steps, .. } = settings.training;
        let batch = ranks.map_or(Ok(batch), |ranks| Ok::<_, Error>(ranks.share(batch)?.len()))?;
        let count = if loader.is_some() { product([batch, n_dis]) } else { 0 };
        Ok(Course {
            images: filled("the batches of a step", product([count, info.shape.len()]), 0)?,
            labels: filled("the labels of a step", count, 0)?,
            loader,
            batch,
            n_dis,
            written: settings.written.clone(),
            eval_every: settings.judging.eval_every,
            end,
            steps,
            ranks,
        })
    }

    /// The next step.
    fn next(&mut self, trainer: &mut Trainer) -> Result<Due> {
        let first = trainer.step_number() * self.n_dis as u64;
        if let Some(loader) = &mut self.loader {
            let len = self.images.len() / self.n_dis;
            let images = self.images.chunks_exact_mut(len);
            for (number, (images, labels)) in (first..).zip(images.zip(self.labels.chunks_exact_mut(self.batch))) {
                loader.fill(number, images, labels)?;
            }
        }
        trainer.step(&self.images, &self.labels)?;
        let step = trainer.step_number();
        let interrupted = trainer.generator().values.device().any_rank(stopped())?;
        let due = |every: u64| every > 0 && step.is_multiple_of(every);
        let last = step >= self.end || interrupted;
        let whole = step == self.steps;
        // An interruption leaves no row of its own: a resumed run has the rows of one that went through.
        let row = due(self.written.log_every) || whole;
        let draw = last || due(self.written.sample_every);
        let save = last || due(self.written.checkpoint_every);
        let judge = self.eval_every > 0 && !interrupted && (due(self.eval_every) || whole);
        let metrics = if row || draw || save || judge { Some(trainer.metrics()?) } else { None };
        if save {
            self.check(trainer)?;
        }
        Ok(Due { step, row, draw, save, judge, last, interrupted, metrics })
    }

    /// An error unless all ranks have the same weights.
    fn check(&self, trainer: &Trainer) -> Result<()> {
        let Some(ranks) = self.ranks else { return Ok(()) };
        let players = [("weights of G", trainer.generator()), ("weights of D", trainer.discriminator())];
        players
            .into_iter()
            .try_for_each(|(what, player)| ranks.same(what, bytemuck::cast_slice(&player.values.read()?)))
    }

    /// Waits for what another rank does alone.
    fn wait(&self) -> Result<()> {
        ranks::wait(self.ranks)
    }

    /// All of the way, for a rank that writes nothing, and judges its part of the images.
    fn follow(&mut self, trainer: &mut Trainer, judge: impl Fn(&mut Trainer) -> Result<()>) -> Result<ExitCode> {
        self.wait()?;
        loop {
            let due = self.next(trainer)?;
            if due.judge {
                judge(trainer)?;
            }
            if due.metrics.is_some() {
                self.wait()?;
            }
            if due.last {
                // The images may be judged now.
                self.wait()?;
                return Ok(code(due.interrupted && due.step < self.steps));
            }
        }
    }
}

/// A training that was interrupted ends with a status of its own.
fn code(interrupted: bool) -> ExitCode {
    if interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS }
}

/// A training under way.
struct Session {
    settings: Settings,
    info: DataInfo,
    numbers: toml::Table,
    trainer: Trainer,
    run: Run,
    judge: Option<Judging>,
    log: MetricsLog,
    events: Option<Events>,
    vitals: Vitals,
    progress: Progress,
    seconds_before: f64,
}

impl Session {
    fn train(&mut self, data: &Dataset, course: &mut Course) -> Result<Ended> {
        let (begin, begun) = (self.trainer.step_number(), Instant::now());
        let (mut logged, mut warm) = ((begin, begun), None);
        loop {
            let due = course.next(&mut self.trainer)?;
            self.progress.step(due.step);
            match warm {
                _ if due.step > begin + FIRST_STEPS => {}
                // The first step may load code, and is left out.
                None => warm = Some(self.now()?),
                Some(warm) if due.step == begin + FIRST_STEPS && !due.last => {
                    let each = self.now()?.duration_since(warm) / (FIRST_STEPS as u32 - 1);
                    let images = course.loader.as_ref().map_or(0, |loader| loader.images());
                    let lines = forecast(&self.settings, images, course.end - due.step, each);
                    lines.iter().for_each(|line| self.progress.note(line));
                }
                Some(_) => {}
            }
            let Some(metrics) = &due.metrics else { continue };
            let paused = Instant::now();
            let figures = if due.judge { self.judge(due.step)? } else { None };
            logged.1 += paused.elapsed();
            if due.row || figures.is_some() {
                self.log(metrics, figures.as_ref(), begun, &mut logged)?;
                tell_unreadable(data, |line| self.progress.note(&line));
            }
            let paused = Instant::now();
            // First what cannot be made again.
            if due.save {
                self.save(due.step)?;
            }
            let picture = if due.draw { Some(self.draw(due.step)?) } else { None };
            course.wait()?;
            if let Some(picture) = picture.filter(|_| due.last) {
                return Ok(Ended { picture, interrupted: due.interrupted, time: begun.elapsed() });
            }
            // Images per second are the training's alone.
            logged.1 += paused.elapsed();
        }
    }

    /// The time when the device has done everything so far.
    fn now(&self) -> Result<Instant> {
        self.trainer.generator().values.device().synchronize()?;
        Ok(Instant::now())
    }

    /// Draws images and compares them with real ones; keeps the weights where they are the best so far. None where the training was
    /// interrupted meanwhile.
    fn judge(&mut self, step: u64) -> Result<Option<Figures>> {
        let Some(judge) = &self.judge else { return Ok(None) };
        let figures = judge.figures(&mut self.trainer, &self.settings, &self.info.classes)?;
        let Some(figures) = figures else { return Ok(None) };
        self.progress.note(&format!("step {step}: {}", figures::line(&figures)));
        figures.left_out.iter().for_each(|line| self.progress.note(&format!("left out {line}")));
        if let Some(best) = judging::best(&self.settings, &figures, step, self.run.folder()) {
            self.save_to(&self.run.best_path(), step)?;
            self.run.save_best(&best)?;
        }
        Ok(Some(figures))
    }

    fn log(
        &mut self,
        metrics: &Metrics,
        figures: Option<&Figures>,
        begun: Instant,
        logged: &mut (u64, Instant),
    ) -> Result<()> {
        let now = Instant::now();
        let Training { batch, n_dis, .. } = self.settings.training;
        let images = (metrics.step - logged.0) * product([batch, n_dis]) as u64;
        let images_per_second = images as f64 / now.duration_since(logged.1).as_secs_f64().max(1e-9);
        *logged = (metrics.step, now);
        let seconds = self.seconds_before + now.duration_since(begun).as_secs_f64();
        let all = self.settings.judging.figures();
        let figures: Vec<_> = all.iter().map(|figure| figures.and_then(|figures| figures.get(*figure))).collect();
        self.log.append(metrics, &figures, seconds, images_per_second)?;
        if let Some(events) = &self.events {
            let figures = all.iter().zip(&figures);
            let figures = figures.filter_map(|(figure, value)| Some((figure.name(), (*value)? as f32)));
            let rate = ("images_per_second", images_per_second as f32);
            let own = metrics.more.iter().chain(&metrics.health).copied();
            let named = metrics.named().into_iter().chain(own).chain(figures).chain([rate]);
            events.scalars(metrics.step, named);
        }
        self.progress.metrics(metrics, images_per_second);
        let before = self.vitals.dead();
        self.vitals.look(metrics);
        self.vitals.dead().iter().filter(|line| !before.contains(line)).for_each(|line| self.progress.note(line));
        Ok(())
    }

    /// A grid, or points, from latents that stay the same for the whole run.
    fn draw(&mut self, step: u64) -> Result<PathBuf> {
        let (path, seed) = (self.run.sample_path(step), self.settings.training.seed);
        if self.trainer.setup().draws_points() {
            let points = self.trainer.points(Weights::Average, &Latents::unlabelled(seed, mixture::POINTS))?;
            let mixture = self.trainer.setup().mixture;
            self.save_picture(&grid::of_points(&points, mixture), &path, step)?;
            self.progress.note(&grid::modes(&points, mixture));
            return Ok(path);
        }
        let setup = self.trainer.setup();
        let (latents, columns) = match &setup.vectors {
            Some(_) => (Latents::spread(seed, grid::COUNT, setup.labels()), square_columns(grid::COUNT)),
            None => grid::layout(&grid::all_classes(setup), seed, grid::COUNT, None),
        };
        // A row is one class, or has nothing in common.
        let labels = if setup.vectors.is_some() { Vec::new() } else { latents.labels.clone() };
        let images = self.trainer.sample(Weights::Average, &latents)?;
        self.save_picture(&Picture::grid(&images, self.info.shape, columns)?, &path, step)?;
        if let Some(legend) = grid::legend(&labels, columns, &self.info.classes) {
            let file = path.with_file_name(grid::LEGEND);
            // All pictures of a run have the same rows.
            if !file.is_file() || std::fs::read(&file).ok().as_deref() != Some(legend.as_bytes()) {
                files::write_bytes(&file, legend.as_bytes())?;
            }
        }
        Ok(path)
    }

    fn save_picture(&self, picture: &Picture, path: &Path, step: u64) -> Result<()> {
        let bytes = picture.encode().map_err(Error::io(path))?;
        files::write_bytes(path, &bytes)?;
        if let Some(events) = &self.events {
            events.image(step, "samples", picture.shape, &bytes);
        }
        Ok(())
    }

    fn save(&mut self, step: u64) -> Result<()> {
        self.save_to(&self.run.checkpoint_path(step), step)?;
        self.run.thin_checkpoints(self.settings.written.keep_checkpoints)
    }

    fn save_to(&mut self, path: &Path, step: u64) -> Result<()> {
        let (config, data) = (self.numbers.clone(), self.info.clone());
        let header = Header { format: checkpoint::FORMAT, step, config, data, scaling: self.trainer.scaling()? };
        let mut tensors = self.trainer.tensors()?;
        tensors.extend(self.trainer.average_statistics()?);
        checkpoint::save(path, &tensors, &header)
    }

    fn name(&self) -> String {
        self.run.folder().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn last_good(&self) -> String {
        let all = run::checkpoints(self.run.folder()).unwrap_or_default();
        match all.iter().rev().find(|(_, path)| checkpoint::load_finite(path).is_ok()) {
            Some((_, path)) => format!("the training diverged; the last good checkpoint is {}", path.display()),
            None => "the training diverged before its first good checkpoint".into(),
        }
    }

    fn farewell(&self, ended: Ended) -> ExitCode {
        let (step, steps, name) = (self.trainer.step_number(), self.settings.training.steps, self.name());
        let runs_dir = self.settings.runs_dir();
        if step < steps {
            let how = if ended.interrupted { "interrupted" } else { "stopped" };
            say(format!("{how} after step {step} of {steps}, saved; go on with"));
            say(format!("  {}", next_command("train --resume", &name, runs_dir)));
        } else {
            say(format!("trained in {}", clock(ended.time)));
        }
        self.vitals.dead().into_iter().for_each(say);
        say(format!("picture {}", ended.picture.display()));
        say(format!("try     {} --seed 7 --out grid.png", next_command("sample --run", &name, runs_dir)));
        code(ended.interrupted && step < steps)
    }
}
