//! Compares the conditional discriminators: each trains for the same steps, from the same seeds, on the same data, and the
//! generators that come out are judged.

use std::fmt::Write;
use std::time::Instant;

use serde::Serialize;

use super::page::{document, table as html_table};
use crate::data::{DataInfo, Dataset, ImageShape, Loader};
use crate::device::Device;
use crate::eval::{self, Classifier, Request};
use crate::gan::{Latents, Metrics, Setup, Trainer, Weights};
use crate::instruments::plot::{Axis, Bar, Chart, bars, escape};
use crate::instruments::record::{self, Cell, number};
use crate::picture::Picture;
use crate::settings::{Conditioning, Settings, Training, name_of};
use crate::{Error, Result};

/// The conditionings that are compared, in the order of the table.
pub const COMPARED: [Conditioning; 4] =
    [Conditioning::Projection, Conditioning::InputConcat, Conditioning::HiddenConcat, Conditioning::AcGan];

/// One training, and how good its generator became. The numbers are missing where the training diverged.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    pub conditioning: Conditioning,
    pub seed: u64,
    pub steps: u64,
    pub parameters_d: usize,
    /// Share of the generated images that a classifier gives their wanted label.
    pub label_accuracy: Option<f64>,
    pub coverage: Option<f64>,
    pub density: Option<f64>,
    pub frechet_distance: Option<f64>,
    /// The time of the training alone.
    pub seconds: f64,
    /// What its generator had learned on the way; the last one has the numbers above.
    pub moments: Vec<Moment>,
    /// Both parts of a projection discriminator's logits on the way. Other discriminators have none.
    pub parts: Vec<Parts>,
}

/// How good a generator is after so many steps.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Moment {
    pub step: u64,
    pub label_accuracy: Option<f64>,
    pub coverage: Option<f64>,
    pub frechet_distance: Option<f64>,
    /// [`PICTURED`] images of each of the first [`ROWS`] classes.
    #[serde(skip)]
    images: Vec<u8>,
}

/// The means of the two parts of the logits, over the real images and over the fakes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Parts {
    pub step: u64,
    pub r_x: [f32; 2],
    pub r_yx: [f32; 2],
}

impl Parts {
    fn of(metrics: &Metrics) -> Option<Parts> {
        let value = |name: &str| metrics.health.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let both = |part: &str| Some([value(&format!("{part}_real"))?, value(&format!("{part}_fake"))?]);
        Some(Parts { step: metrics.step, r_x: both("r_x")?, r_yx: both("r_yx")? })
    }
}

/// How often the metrics of a training are looked at, and of how many such looks one judges the generator too.
const LOOKS: u64 = 40;
const JUDGED: u64 = 5;
/// Images of a class in a picture, and the most classes in it.
const PICTURED: usize = 6;
const ROWS: usize = 10;
/// The most pictures of a training.
const PICTURES: usize = 4;

/// What is compared, and how.
pub struct Comparison<'a> {
    /// The settings of every training, except for the seed and the conditioning.
    pub settings: &'a Settings,
    pub seeds: &'a [u64],
    pub data: &'a Dataset,
    pub classifier: &'a Classifier,
    /// How many generated and how many real images of each class are compared.
    pub per_class: usize,
    pub real_per_class: usize,
}

/// Refuses settings with which one of the trainings could not be done.
pub fn check(settings: &Settings, data: &DataInfo) -> Result<()> {
    if data.vectors {
        return Err(Error::Config(format!("conditioning: {data}, which projection alone can learn from")));
    }
    for conditioning in COMPARED {
        Trainer::plan(&Setup::new(settings, data).with(|s| s.networks.conditioning = conditioning), 1)?;
    }
    Ok(())
}

impl Comparison<'_> {
    /// Trains with each conditioning from each seed. `tell` gets a line after each training.
    pub fn run(&self, device: &Device, tell: &mut dyn FnMut(String)) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for conditioning in COMPARED {
            for &seed in self.seeds {
                let mut settings = self.settings.clone();
                settings.networks.conditioning = conditioning;
                settings.training.seed = seed;
                let outcome = self.train(device, &settings)?;
                tell(line(&outcome));
                outcomes.push(outcome);
            }
        }
        Ok(outcomes)
    }

    fn train(&self, device: &Device, settings: &Settings) -> Result<Outcome> {
        let info = self.data.info();
        let setup = Setup::new(settings, &info);
        let parameters_d = Trainer::plan(&setup, 1)?.parameters_d;
        let mut trainer = Trainer::new(device, &setup)?;
        let mut loader = Loader::new(self.data, settings.loader_options())?;
        let Training { batch, n_dis, steps, seed, .. } = settings.training;
        let each = batch * info.shape.len();
        let mut images = vec![0; n_dis * each];
        let mut labels = vec![0; n_dis * batch];
        let mut outcome = Outcome {
            conditioning: settings.networks.conditioning,
            seed,
            steps,
            parameters_d,
            label_accuracy: None,
            coverage: None,
            density: None,
            frechet_distance: None,
            seconds: 0.0,
            moments: Vec::new(),
            parts: Vec::new(),
        };
        let weights = if settings.training.average > 0.0 { Weights::Average } else { Weights::Raw };
        let (per_class, real_per_class) = (self.per_class, self.real_per_class);
        // All generators draw from the same latents.
        let request = Request { weights, seed: 1, per_class, real_per_class };
        let rows: Vec<u32> = (0..setup.classes.min(ROWS) as u32).collect();
        let mut due = false;
        for look in 1..=LOOKS {
            due |= look % JUDGED == 0;
            let until = steps * look / LOOKS;
            if until == trainer.step_number() {
                continue;
            }
            let begun = Instant::now();
            while trainer.step_number() < until {
                let first = trainer.step_number() * n_dis as u64;
                let batches = images.chunks_exact_mut(each).zip(labels.chunks_exact_mut(batch));
                for (number, (images, labels)) in (first..).zip(batches) {
                    loader.fill(number, images, labels)?;
                }
                trainer.step(&images, &labels)?;
            }
            let metrics = trainer.metrics();
            outcome.seconds += begun.elapsed().as_secs_f64();
            match metrics {
                // A training that diverges is a result too, and the others go on.
                Err(Error::NotFinite { .. }) => return Ok(outcome),
                metrics => outcome.parts.extend(Parts::of(&metrics?)),
            }
            if !std::mem::take(&mut due) {
                continue;
            }
            let report = eval::evaluate(self.classifier, &mut trainer, self.data, &request)?;
            let images = trainer.sample(weights, &Latents::by_class(1, &rows, PICTURED))?;
            let (label_accuracy, coverage) = (report.label_accuracy, report.coverage);
            let frechet_distance = report.frechet_distance;
            outcome.moments.push(Moment { step: until, label_accuracy, coverage, frechet_distance, images });
            if until == steps {
                (outcome.label_accuracy, outcome.coverage) = (label_accuracy, coverage);
                (outcome.frechet_distance, outcome.density) = (frechet_distance, report.density);
            }
        }
        Ok(outcome)
    }
}

fn line(outcome: &Outcome) -> String {
    let (name, seed, seconds) = (name_of(&outcome.conditioning), outcome.seed, outcome.seconds);
    match (outcome.label_accuracy, outcome.coverage) {
        (Some(accuracy), Some(coverage)) => {
            format!("{name}, seed {seed}: {:.1} %, coverage {coverage:.2}, {seconds:.0} s", 100.0 * accuracy)
        }
        (Some(accuracy), None) => format!("{name}, seed {seed}: {:.1} %, {seconds:.0} s", 100.0 * accuracy),
        _ => format!("{name}, seed {seed}: diverged"),
    }
}

/// The mean, the least and the greatest number over the seeds that did not diverge; none where all did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub mean: f64,
    pub least: f64,
    pub greatest: f64,
}

/// A conditioning over all seeds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    pub conditioning: Conditioning,
    pub parameters_d: usize,
    pub seeds: usize,
    pub diverged: usize,
    pub label_accuracy: Option<Spread>,
    pub coverage: Option<Spread>,
    pub density: Option<Spread>,
    pub frechet_distance: Option<Spread>,
    pub seconds: Option<Spread>,
}

fn spread(values: impl Iterator<Item = Option<f64>>) -> Option<Spread> {
    let values: Vec<f64> = values.flatten().collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (!values.is_empty()).then_some(Spread { mean, least, greatest })
}

pub fn summaries(outcomes: &[Outcome]) -> Vec<Summary> {
    let of = |conditioning| {
        let mine: Vec<&Outcome> = outcomes.iter().filter(|o| o.conditioning == conditioning).collect();
        let first = mine.first()?;
        let over = |part: fn(&Outcome) -> Option<f64>| spread(mine.iter().map(|outcome| part(outcome)));
        Some(Summary {
            conditioning,
            parameters_d: first.parameters_d,
            seeds: mine.len(),
            diverged: mine.iter().filter(|outcome| outcome.frechet_distance.is_none()).count(),
            label_accuracy: over(|o| o.label_accuracy),
            coverage: over(|o| o.coverage),
            density: over(|o| o.density),
            frechet_distance: over(|o| o.frechet_distance),
            seconds: over(|o| Some(o.seconds)),
        })
    };
    COMPARED.into_iter().filter_map(of).collect()
}

fn shown(spread: Option<Spread>, factor: f64, digits: usize) -> String {
    let Some(Spread { mean, least, greatest }) = spread else { return "-".into() };
    let [mean, least, greatest] = [mean, least, greatest].map(|value| format!("{:.digits$}", factor * value));
    if least == greatest { mean } else { format!("{mean} ({least} to {greatest})") }
}

const COLUMNS: [&str; 7] =
    ["D", "parameters", "label accuracy, %", "coverage", "density", "Fréchet distance", "seconds"];

fn cells(summary: &Summary) -> [String; 7] {
    let diverged = if summary.diverged > 0 { format!(", {} diverged", summary.diverged) } else { String::new() };
    [
        format!("{}{diverged}", name_of(&summary.conditioning)),
        summary.parameters_d.to_string(),
        shown(summary.label_accuracy, 100.0, 1),
        shown(summary.coverage, 1.0, 3),
        shown(summary.density, 1.0, 2),
        shown(summary.frechet_distance, 1.0, 2),
        shown(summary.seconds, 1.0, 0),
    ]
}

/// The table for people: a line for each conditioning, with the means over the seeds and their ranges.
pub fn table(outcomes: &[Outcome]) -> String {
    let rows: Vec<[String; 7]> =
        [COLUMNS.map(String::from)].into_iter().chain(summaries(outcomes).iter().map(cells)).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A line for each training, under a header.
pub fn csv(outcomes: &[Outcome]) -> String {
    let row = |o: &Outcome| {
        [
            ("conditioning", Cell::Name(name_of(&o.conditioning))),
            ("seed", Cell::Count(o.seed)),
            ("steps", Cell::Count(o.steps)),
            ("parameters_d", Cell::Count(o.parameters_d as u64)),
            ("label_accuracy", Cell::Number(o.label_accuracy, 5)),
            ("coverage", Cell::Number(o.coverage, 5)),
            ("density", Cell::Number(o.density, 5)),
            ("frechet_distance", Cell::Number(o.frechet_distance, 5)),
            ("seconds", number(o.seconds, 2)),
        ]
    };
    record::csv(&outcomes.iter().map(row).collect::<Vec<_>>())
}

/// A chart of a number over the steps: for each conditioning the mean over the seeds, and their range as a band. Seeds that
/// diverged do not count from there on.
fn over_steps(name: &'static str, outcomes: &[Outcome], value: impl Fn(&Moment) -> Option<f64>) -> String {
    let at = |conditioning, step| {
        let mine = outcomes.iter().filter(|outcome| outcome.conditioning == conditioning);
        spread(mine.map(|o| o.moments.iter().find(|moment| moment.step == step).and_then(&value)))
    };
    let mut steps: Vec<u64> = outcomes.iter().flat_map(|o| o.moments.iter().map(|moment| moment.step)).collect();
    steps.sort_unstable();
    steps.dedup();
    let curves = COMPARED.map(|conditioning| -> Vec<(f64, Spread)> {
        steps.iter().filter_map(|step| Some((*step as f64, at(conditioning, *step)?))).collect()
    });
    let ends = curves.iter().flatten().flat_map(|(_, spread)| [spread.least, spread.greatest]);
    let mut chart = Chart::new(name, Axis::even("step", steps.iter().map(|step| *step as f64)), Axis::even("", ends));
    for (series, curve) in curves.iter().enumerate() {
        let band: Vec<_> = curve.iter().map(|(step, spread)| (*step, spread.least, spread.greatest)).collect();
        chart.band(&band, series);
        chart.line(&curve.iter().map(|(step, spread)| (*step, spread.mean)).collect::<Vec<_>>(), series);
    }
    format!("<h3>{name}</h3>\n<div class=\"wide\">{}</div>\n", chart.svg())
}

fn legend(names: [String; 4]) -> String {
    let one = |(i, name)| format!("<span><i class=\"s{i}\"></i>{}</span>\n", escape(name));
    let all: String = names.iter().map(String::as_str).enumerate().map(one).collect();
    format!("<div class=\"legend\">\n{all}</div>\n")
}

/// Both parts of the logits over the steps, in the mean over the seeds.
fn parts_over_steps(body: &mut String, outcomes: &[Outcome]) {
    let all: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.parts.is_empty()).collect();
    let Some(longest) = all.iter().max_by_key(|outcome| outcome.parts.len()) else { return };
    let curve = |of: fn(&Parts) -> f32| -> Vec<(f64, f64)> {
        let mean = |i: usize| {
            spread(
                all.iter()
                    .map(|outcome| outcome.parts.get(i).map(|parts| f64::from(of(parts))).filter(|x| x.is_finite())),
            )
        };
        let steps = longest.parts.iter().enumerate();
        steps.filter_map(|(i, parts)| Some((parts.step as f64, mean(i)?.mean))).collect()
    };
    let curves = [curve(|p| p.r_x[0]), curve(|p| p.r_x[1]), curve(|p| p.r_yx[0]), curve(|p| p.r_yx[1])];
    let name = "Both parts of the projection logit";
    let points = || curves.iter().flatten();
    let mut chart = Chart::new(name, Axis::even("step", points().map(|p| p.0)), Axis::even("", points().map(|p| p.1)));
    for (series, curve) in curves.iter().enumerate() {
        chart.line(curve, series);
    }
    let _ = write!(
        body,
        "<section><h2>{name}</h2>\n<p>The logit is r(x) + r(y|x): how real an image looks, and how much it looks as its label \
         says. These are the means over a batch of real images and over the fakes, and over the seeds. Where the two curves \
         of a part meet, D no longer tells by it what is real.</p>\n{}<div class=\"wide\">{}</div></section>\n",
        legend(["r(x), real", "r(x), fakes", "r(y|x), real", "r(y|x), fakes"].map(String::from)),
        chart.svg()
    );
}

/// What the first seed of each conditioning draws after the same steps.
fn pictures(body: &mut String, outcomes: &[Outcome], shape: ImageShape) {
    body.push_str(
        "<section><h2>What each taught its generator</h2>\n<p>The same latents after the same steps, from the first seed; a row \
         is a class.</p>\n",
    );
    for conditioning in COMPARED {
        let Some(outcome) = outcomes.iter().find(|outcome| outcome.conditioning == conditioning) else { continue };
        let _ = write!(body, "<h3>{}</h3>\n<div class=\"charts\">\n", name_of(&conditioning));
        // The last moment, and those evenly before it.
        let apart = outcome.moments.len().div_ceil(PICTURES).max(1);
        let shown: Vec<&Moment> = outcome.moments.iter().rev().step_by(apart).collect();
        for Moment { step, label_accuracy, images, .. } in shown.into_iter().rev() {
            let Ok(picture) = Picture::grid(images, shape, PICTURED) else { continue };
            let right = label_accuracy.map_or(String::new(), |share| format!(": {:.0} %", 100.0 * share));
            let _ = writeln!(
                body,
                "<figure><img alt=\"images after {step} steps\" src=\"{}\"/><figcaption>step {step}{right}</figcaption></figure>",
                picture.data_uri(),
            );
        }
        body.push_str("</div>\n");
    }
    body.push_str("</section>\n");
}

/// A page with the table, label accuracy and coverage as bars and over the steps, what the generators draw, and both parts of
/// the projection's logits. `shape` is that of the images.
pub fn page(device: &str, settings: &Settings, shape: ImageShape, outcomes: &[Outcome]) -> String {
    let summaries = summaries(outcomes);
    let bar = |summary: &Summary, spread: Option<Spread>, factor: f64, digits: usize| Bar {
        label: name_of(&summary.conditioning),
        value: spread.map_or(0.0, |spread| factor * spread.mean),
        shown: shown(spread, factor, digits),
        range: spread.map(|spread| (factor * spread.least, factor * spread.greatest)),
    };
    let accuracy: Vec<Bar> = summaries.iter().map(|s| bar(s, s.label_accuracy, 100.0, 1)).collect();
    let coverage: Vec<Bar> = summaries.iter().map(|s| bar(s, s.coverage, 1.0, 3)).collect();
    let mut seeds: Vec<String> = outcomes.iter().map(|o| o.seed.to_string()).collect();
    seeds.sort();
    seeds.dedup();
    let mut body = format!(
        "<header><h1>Four discriminators that know labels</h1>\n\
         <p>Preset {}, {} steps each from the same seeds ({}), on {}. Means over the seeds, with the least and the \
         greatest. A classifier that was trained apart says whether an image carries its wanted label; coverage is the \
         share of real images that have a generated one of their class nearby.</p></header>\n\
         <section><div class=\"charts\">{}{}</div>\n\
         {}</section>\n",
        settings.preset,
        settings.training.steps,
        seeds.join(", "),
        escape(device),
        bars("Label accuracy, %", &accuracy),
        bars("Coverage", &coverage),
        html_table(COLUMNS, summaries.iter().map(cells)),
    );
    let _ = write!(
        body,
        "<section><h2>Over the steps</h2>\n<p>Lines are means over the seeds, bands their ranges.</p>\n{}{}{}{}</section>\n",
        legend(COMPARED.map(|conditioning| name_of(&conditioning))),
        over_steps("Label accuracy, %", outcomes, |moment| moment.label_accuracy.map(|share| 100.0 * share)),
        over_steps("Coverage", outcomes, |moment| moment.coverage),
        over_steps("Fréchet distance", outcomes, |moment| moment.frechet_distance),
    );
    pictures(&mut body, outcomes, shape);
    parts_over_steps(&mut body, outcomes);
    document("zgan: four discriminators that know labels", &body)
}
