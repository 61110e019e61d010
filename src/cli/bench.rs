//! `zgan bench`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use zgan::data::DataSource;
use zgan::device::{Device, Precision};
use zgan::instruments::bench::{
    self, Caches, CardChoice, Ceilings, Compared, Failure, Problem, Report, Row, Scale, Selection, Settings, Shapes,
    StepProblem, Timed,
};
use zgan::instruments::record::{self, Cell};
use zgan::nn::Fusion;
use zgan::settings::{PRESETS, Preset};
use zgan::{Error, files};

use super::ranks::{self, Ranks};
use super::tuned::Place;
use super::{loading, model, say, scaling, tell};

/// Of what is timed, one part alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Only {
    Operations,
    Steps,
}

#[derive(Args)]
pub struct Bench {
    /// Only what is called so, or else what has one of these texts in its name: an operation with its sizes, or "step" with
    /// a preset; --list prints all names
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    #[command(flatten)]
    pub place: Place,
    /// Time operations alone, or steps alone
    #[arg(long, value_name = "operations|steps", hide_possible_values = true, conflicts_with = "scaling")]
    only: Option<Only>,
    /// Time nothing, and print the names of what would be timed
    #[arg(long, conflicts_with_all = ["model", "scaling"])]
    list: bool,
    /// Time the products of layers, and the steps, in these: f32, tf32, bf16, f16
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "f32", conflicts_with_all = ["unfused", "scaling"])]
    pub precision: Vec<Precision>,
    /// Time the step of these presets alone, each by its own update rule
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', conflicts_with = "scaling")]
    pub preset: Vec<Preset>,
    /// Time the operations at the sizes that they have in a step of this preset
    #[arg(long, value_name = "NAME", conflicts_with = "scaling")]
    shapes: Option<Preset>,
    /// Width of the networks of --preset or --shapes [default: the preset's on a GPU, a small one on the CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096))]
    width: Option<u64>,
    /// Images of a batch [default: likewise]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    batch: Option<u64>,
    /// Time steps also with these from separate kernels, each beside its fused form
    #[arg(long, value_name = "WHAT,...", value_delimiter = ',')]
    unfused: Vec<Fusion>,
    #[command(flatten)]
    pub timing: Timing,
    /// Begin nothing more after so many seconds, and list what is left out
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["model", "scaling"])]
    time_limit: Option<f64>,
    /// Do not time anything: tell the least time that the published rates of a card allow: h100, rtx4090 and others, or
    /// auto for that of this machine
    #[arg(long, value_name = "CARD")]
    model: Option<CardChoice>,
    /// With --model: time it on the device as well, and tell both
    #[arg(long = "measure", requires = "model")]
    pub and_measure: bool,
    /// Time the loader instead, on the pictures of folder:DIR, beside the step of --preset; the text `data` does it on pictures that
    /// are made for it
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["model", "scaling", "baseline", "markdown", "only", "shapes", "list"])]
    pub data: Option<DataSource>,
    /// With --model: what the step of each preset would take on so many cards, and where more of them are not worth it
    #[arg(long, value_name = "N,...", value_delimiter = ',', requires = "model", conflicts_with_all = ["and_measure", "only", "shapes"])]
    pub ranks: Vec<usize>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
    /// Also write CSV into this folder, a file for each table
    #[arg(long, value_name = "DIR")]
    csv: Option<PathBuf>,
    /// Also draw how many times as long as ours the other forms take, into this SVG file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "scaling", "list"])]
    chart: Option<PathBuf>,
    /// Print tables in Markdown instead
    #[arg(long, conflicts_with_all = ["json", "model", "scaling"])]
    markdown: bool,
    /// Compare with an earlier --json, in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["markdown", "model", "scaling"])]
    baseline: Option<PathBuf>,
    /// Show the times of PyTorch in the same table: a file that benches/pytorch.py --json printed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "scaling"])]
    beside: Option<PathBuf>,
    /// With --baseline: the exit status is 1 where something takes longer by more than this, and not by chance
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = percent, requires = "baseline")]
    worse: f64,
    /// Step time against batch, width and threads instead, with the exponents of power laws that fit
    #[arg(long)]
    scaling: bool,
}

/// A share of a text like `5%` or `5`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
    let number = number.filter(|number| (0.0..=1e6).contains(number));
    number.map(|number| number / 100.0).ok_or_else(|| format!("{text:?}, expected a percentage such as 5%"))
}

/// The options of a command that times operations.
#[derive(Args)]
pub struct Timing {
    /// Let each run find in the caches what the run before left there
    #[arg(long)]
    warm: bool,
    /// Seconds for each problem
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    time: f64,
    /// Sizes that only try the program; their times say nothing
    #[arg(long)]
    pub tiny: bool,
}

impl Timing {
    pub fn settings(&self) -> Result<Settings, Error> {
        let caches = if self.warm { Caches::Warm } else { Caches::Cold };
        Ok(Settings { caches, time: seconds(self.time)? })
    }
}

/// The value of `--time`.
pub fn seconds(time: f64) -> Result<Duration, Error> {
    duration("--time", time)
}

fn duration(option: &str, time: f64) -> Result<Duration, Error> {
    const MOST: f64 = 1e9;
    // Neither a negative number nor NaN is one.
    let duration = Duration::try_from_secs_f64(time).ok().filter(|_| time <= MOST);
    duration.ok_or_else(|| Error::Config(format!("{option} {time}: a number of seconds, expected 0 to {MOST}")))
}

impl Bench {
    pub fn run(&self) -> anyhow::Result<()> {
        let settings = self.timing.settings()?;
        for (option, there) in [("width", self.width.is_some()), ("batch", self.batch.is_some())] {
            if there && self.preset.is_empty() && self.shapes.is_none() && self.ranks.is_empty() {
                return Err(Error::Config(format!("--{option} is of a network: --preset or --shapes names it")).into());
            }
        }
        let loads = self.data.is_some() || self.texts == ["data"];
        if self.scaling || self.model.is_some() || loads {
            ranks::alone(OTHERS)?;
        }
        match self.model {
            _ if self.scaling => scaling::run(self, settings),
            Some(card) => model::run(self, card, settings),
            None if loads => loading::run(self, settings),
            None => self.measure(settings),
        }
    }

    /// Keeps what the texts select of all, by their names. A text that is a whole name selects that one alone. One that selects
    /// nothing is an error that says what there is.
    pub fn select<T>(&self, all: Vec<T>, name: impl Fn(&T) -> String) -> Result<Vec<T>, Error> {
        let names: Vec<String> = all.iter().map(name).collect();
        let mut chosen = vec![self.texts.is_empty(); all.len()];
        for text in &self.texts {
            let exact = names.contains(text);
            let fits = |name: &String| if exact { name == text } else { name.contains(text.as_str()) };
            if !names.iter().any(fits) {
                // What names begin with: an operation, or "step, PRESET".
                let mut kinds: Vec<String> = Vec::new();
                for name in &names {
                    let words = if name.starts_with("step, ") { 2 } else { 1 };
                    let kind: Vec<&str> = name.split(' ').take(words).collect();
                    let kind = kind.join(" ").trim_end_matches(',').to_string();
                    if !kinds.contains(&kind) {
                        kinds.push(kind);
                    }
                }
                let what = format!("nothing is called {text:?}; there are {}; --list has all names", kinds.join("; "));
                return Err(Error::Config(what));
            }
            chosen.iter_mut().zip(&names).for_each(|(chosen, name)| *chosen |= fits(name));
        }
        Ok(all.into_iter().zip(chosen).filter_map(|(one, chosen)| chosen.then_some(one)).collect())
    }

    pub fn selection(&self, presets: Vec<Preset>, scale: Scale) -> Selection {
        let scale = if self.timing.tiny { Scale::Tiny } else { scale };
        let number = |n: Option<u64>| n.map(|n| n as usize);
        Selection { presets, scale, width: number(self.width), batch: number(self.batch) }
    }

    /// The step of each preset that is named, or of all, at the size that it trains with.
    pub fn steps(&self) -> Result<Vec<StepProblem>, Error> {
        let presets = if self.preset.is_empty() { PRESETS.to_vec() } else { self.preset.clone() };
        let selection = self.selection(presets, Scale::Real);
        let steps = self.precision.iter().flat_map(|&precision| bench::steps_of(&selection, precision));
        self.select(steps.collect(), |step| step.name.clone())
    }

    /// Operations and steps to time, with steps at this scale, unless all sizes are to be tiny. Where presets are named, only
    /// steps are; with --shapes, only operations.
    pub fn problems(&self, scale: Scale) -> Result<(Vec<Problem>, Vec<StepProblem>), Error> {
        let selection = |presets| self.selection(presets, scale);
        let mut all: Vec<Either> = Vec::new();
        if let Some(preset) = self.shapes.filter(|_| self.only != Some(Only::Steps)) {
            // Of several small sizes, the largest.
            if let Some(step) = bench::steps_of(&selection(vec![preset]), Precision::F32).pop() {
                let shapes = Shapes::of(&step.setup)?;
                let operations = self.precision.iter().flat_map(|&precision| bench::problems_of(precision, &shapes));
                all.extend(operations.map(Either::Operation));
            }
        } else if self.preset.is_empty() && self.only != Some(Only::Steps) {
            let operations =
                self.precision.iter().flat_map(|&precision| bench::problems_in(precision, self.timing.tiny));
            all.extend(operations.map(Either::Operation));
        }
        if self.only != Some(Only::Operations) && (self.shapes.is_none() || !self.preset.is_empty()) {
            let selection = selection(self.preset.clone());
            let steps = self.precision.iter().flat_map(|&precision| bench::steps_of(&selection, precision));
            all.extend(steps.map(|step| Either::Step(Box::new(step))));
        }
        let (mut operations, mut steps) = (Vec::new(), Vec::new());
        for one in self.select(all, Either::name)? {
            match one {
                Either::Operation(problem) => operations.push(problem),
                Either::Step(problem) => steps.push(*problem),
            }
        }
        Ok((operations, steps))
    }

    /// Writes tables, and where their figures come from, into the folder that --csv names.
    pub fn write_csv(&self, tables: &[(&str, String)], provenance: &serde_json::Value) -> Result<(), Error> {
        let Some(folder) = &self.csv else { return Ok(()) };
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let text = |value: &serde_json::Value| value.as_str().map_or(value.to_string(), String::from);
        let fields = provenance.as_object().into_iter().flatten();
        let field =
            |(name, value): (&String, &_)| [("field", Cell::Name(name.clone())), ("value", Cell::Text(text(value)))];
        let fields: Vec<_> = fields.map(field).collect();
        for (name, text) in
            tables.iter().map(|(name, text)| (*name, text)).chain([("provenance", &record::csv(&fields))])
        {
            let path = folder.join(format!("{name}.csv"));
            files::write_bytes(&path, text.as_bytes())?;
            tell(!self.json && !self.markdown, format!("written {}", path.display()));
        }
        Ok(())
    }

    fn measure(&self, settings: Settings) -> anyhow::Result<()> {
        let (begun, load) = (Instant::now(), bench::load());
        let limit = self.time_limit.map(|limit| duration("--time-limit", limit)).transpose()?;
        let before = self.baseline.as_deref().map(|path| read("baseline", path, bench::times)).transpose()?;
        // That it is a report at all is seen before minutes are spent.
        let check = |object: &serde_json::Value| bench::beside(object, &[]).map(|_| object.clone());
        let rival = self.beside.as_deref().map(|path| read("beside", path, check)).transpose()?;
        let ranks = Ranks::join(PATIENCE, None)?;
        let device = ranks::on(ranks.as_ref(), &self.place.open_of(ranks.as_ref())?)?;
        let (problems, steps) = self.all(&device)?;
        if !problems.is_empty() {
            ranks::alone(OTHERS)?;
        }
        if self.list {
            problems.iter().for_each(|problem| say(problem.name()));
            steps.iter().for_each(|step| say(&step.name));
            return Ok(());
        }
        self.precision.iter().try_for_each(|&precision| device.check_precision(precision))?;
        let for_people = !self.json && !self.markdown;
        let ceilings = Ceilings::measure(&device, &self.precision)?;
        let (rows, measured, failures) = (Vec::new(), Vec::new(), Vec::new());
        let mut report = Report { device: &device, settings, ceilings, rows, steps: measured, failures, load };
        if for_people {
            bench::provenance_lines(&bench::json(&report)?).into_iter().for_each(say);
            #[cfg(feature = "libtorch")]
            say(bench::libtorch::description(&device)?);
        }
        let late = || limit.is_some_and(|limit| begun.elapsed() >= limit);
        let in_time = || match device.any_rank(late()) {
            Ok(false) => Ok(()),
            Ok(true) => Err(LEFT_OUT.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let failed = |failure: Failure, failures: &mut Vec<Failure>| {
            if for_people {
                say(format!("{}: {}", failure.name, failure.error));
            }
            failures.push(failure);
        };
        for problem in &problems {
            let measured = || {
                let forms = bench::measure(&device, problem, settings).map_err(|error| error.to_string())?;
                let row = Row::new(problem, forms);
                row.exceeded(&ceilings).map_or(Ok(row), Err)
            };
            match in_time().and_then(|()| measured()) {
                Ok(row) => {
                    if for_people {
                        if report.rows.is_empty() {
                            say(bench::heading());
                        }
                        say(bench::table(&row, &ceilings));
                    }
                    report.rows.push(row);
                }
                Err(error) => failed(Failure::of_operation(problem, error), &mut report.failures),
            }
        }
        for problem in &steps {
            let measured = || {
                let step = bench::measure_step(&device, problem, settings).map_err(|error| error.to_string())?;
                step.exceeded(&ceilings).map_or(Ok(step), Err)
            };
            match in_time().and_then(|()| measured()) {
                Ok(step) => {
                    if for_people {
                        if report.steps.is_empty() {
                            say(bench::step_heading());
                        }
                        say(step.row(&ceilings));
                    }
                    report.steps.push(step);
                }
                Err(error) => failed(Failure::of_step(problem, error), &mut report.failures),
            }
        }
        if ranks::is_silent() {
            return Ok(());
        }
        let failures: Vec<&Failure> = report.failures.iter().filter(|failure| failure.error != LEFT_OUT).collect();
        self.tell_all(&report, before.as_deref(), rival.as_ref())?;
        if let Some(first) = failures.first() {
            let (count, all) = (failures.len(), problems.len() + steps.len());
            let what = format!("{count} of {all} were not timed; the first, {}: {}", first.name, first.error);
            return Err(Error::Check(what).into());
        }
        Ok(())
    }

    /// What is told when all is timed. An error where something got worse than before.
    fn tell_all(
        &self,
        report: &Report,
        before: Option<&[Timed]>,
        rival: Option<&serde_json::Value>,
    ) -> anyhow::Result<()> {
        let mut object = bench::json(report)?;
        let (times, for_people) = (bench::times(&object)?, !self.json && !self.markdown);
        let compared = before.map(|before| bench::compare(&times, before));
        if let Some((all, means)) = &compared {
            object["baseline"] = bench::comparison_json(all, means, self.worse);
        }
        let theirs = rival.map(|rival| bench::beside(rival, &times)).transpose()?.unwrap_or_default();
        if rival.is_some() && theirs.is_empty() {
            return Err(Error::Config("beside: it has nothing of what was timed now".into()).into());
        }
        if let Some(rival) = rival {
            object["beside"] = serde_json::json!({
                "provenance": rival["provenance"],
                "caches": rival["caches"],
                "rows": theirs.iter().map(Timed::json).collect::<Vec<_>>(),
            });
        }
        let together = [&times[..], &theirs].concat();
        if self.json {
            say(serde_json::to_string_pretty(&object)?);
        } else if self.markdown {
            say(bench::markdown(&object, &together).trim_end());
        } else if rival.is_some() {
            say(bench::tables(&together).trim_end());
        }
        if for_people && rival.is_none() {
            let means = bench::means_table(&bench::means_of_forms(&times));
            means.lines().skip(1).for_each(say);
        }
        if let Some((all, means)) = compared.as_ref().filter(|_| for_people) {
            say(bench::comparison_table(all, means, self.worse));
        }
        let mut provenance = object["provenance"].clone();
        for name in ["caches", "time_s", "load"] {
            provenance[name] = object[name].clone();
        }
        self.write_csv(&bench::csv(report), &provenance)?;
        if let Some(path) = &self.chart {
            let from = &bench::provenance_lines(&object)[0];
            files::write_bytes(path, bench::chart(&together, from).as_bytes())?;
            tell(!self.json && !self.markdown, format!("written {}", path.display()));
        }
        bench::busy(&object).into_iter().for_each(|line| tell(for_people, line));
        let Some((all, _)) = &compared else { return Ok(()) };
        if all.is_empty() {
            return Err(Error::Config("baseline: it has nothing of what was timed now".into()).into());
        }
        let worse: Vec<&Compared> = all.iter().filter(|compared| compared.worse(self.worse)).collect();
        let Some(first) = worse.iter().max_by(|a, b| a.ratio.total_cmp(&b.ratio)) else { return Ok(()) };
        let (count, Timed { name, form, .. }) = (worse.len(), &first.timed);
        let (limit, ratio) = (100.0 * self.worse, first.ratio);
        let what = format!(
            "{count} of {} take longer than in the baseline by more than {limit} %; most of all {name}, {form}: {ratio:.2} times",
            all.len()
        );
        Err(Error::Check(what).into())
    }

    /// What is to be timed on this device, each step followed by its form from separate kernels where one is asked for.
    fn all(&self, device: &Device) -> Result<(Vec<Problem>, Vec<StepProblem>), Error> {
        let (problems, steps) = self.problems(Scale::of(device))?;
        let both = steps.into_iter().flat_map(|problem| {
            let unfused = problem.unfused(&self.unfused);
            [Some(problem), unfused]
        });
        Ok((problems, both.flatten().collect()))
    }
}

/// What several processes do not time together.
const OTHERS: &str = "zgan bench of other things than steps";

/// The longest wait for another process, in seconds.
const PATIENCE: u64 = 600;

/// The error of what did not begin in time, which is none of the run.
const LEFT_OUT: &str = "left out: the time limit had come";

/// An operation or a step.
enum Either {
    Operation(Problem),
    Step(Box<StepProblem>),
}

impl Either {
    fn name(&self) -> String {
        match self {
            Either::Operation(problem) => problem.name(),
            Either::Step(problem) => problem.name.clone(),
        }
    }
}

/// What `find` finds in the JSON of a file that this option names.
fn read<T>(option: &str, path: &Path, find: impl Fn(&serde_json::Value) -> Result<T, Error>) -> Result<T, Error> {
    let fail = |what: String| Error::Config(format!("{option}: {}: {what}", path.display()));
    let text = files::read_text(path)?;
    let object = serde_json::from_str(&text).map_err(|error| fail(format!("not JSON: {error}")))?;
    find(&object).map_err(|error| fail(error.to_string()))
}
