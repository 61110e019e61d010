//! Compares losses by the modes that a generator of points covers: each trains the same networks for the same steps from the
//! same seeds. Beside it stand the weights with which each loss pulls fakes towards places that lack them, as
//! `docs/softmax-gan.md` derives them.

use std::fmt::Write;
use std::time::Instant;

use serde::Serialize;

use super::page::{document, table as html_table};
use crate::data::DataInfo;
use crate::data::mixture::{self, Cover};
use crate::device::Device;
use crate::gan::{Latents, Setup, Trainer, Weights};
use crate::instruments::plot::{self, Curve, curves, escape};
use crate::instruments::record::{self, Cell, number};
use crate::picture::Scatter;
use crate::settings::{Loss, Settings, SoftmaxTarget, Training};
use crate::{Error, Result};

/// What is compared.
pub struct Contender {
    pub name: &'static str,
    loss: Loss,
    target: SoftmaxTarget,
    real_weight: f64,
    r1: f64,
    /// The weight h of the pull at u, the generator's density by the data's, with D at its optimum. R1 keeps D from that.
    pull: fn(f64) -> f64,
    /// The same, as a formula.
    formula: &'static str,
}

const PUBLISHED: Contender = Contender {
    name: "softmax, uniform (as published)",
    loss: Loss::Softmax,
    target: SoftmaxTarget::Uniform,
    real_weight: 1.0,
    r1: 0.0,
    pull: |u| u * (u - 1.0) / (2.0 * (1.0 + u).powi(2)),
    formula: "u (u - 1) / 2 (1 + u)^2",
};
const ZERO_SUM: Contender = Contender {
    name: "softmax, zero-sum",
    target: SoftmaxTarget::ZeroSum,
    pull: |u| u / (1.0 + u).powi(2),
    formula: "u / (1 + u)^2",
    ..PUBLISHED
};

/// In the order of the table.
pub const CONTENDERS: [Contender; 6] = [
    PUBLISHED,
    Contender {
        name: "non-saturating",
        loss: Loss::NonSaturating,
        pull: |u| u / (1.0 + u),
        formula: "u / (1 + u)",
        ..PUBLISHED
    },
    Contender { name: "minimax", loss: Loss::Minimax, pull: |u| 1.0 / (1.0 + u), formula: "1 / (1 + u)", ..PUBLISHED },
    ZERO_SUM,
    Contender {
        name: "softmax, zero-sum, real weight 0.1",
        real_weight: 0.1,
        pull: |u| u / (0.1 + u).powi(2),
        formula: "u / (0.1 + u)^2",
        ..ZERO_SUM
    },
    Contender { name: "softmax, zero-sum, R1 0.1", r1: 0.1, ..ZERO_SUM },
];

/// One training. Where it diverged, the moments end before.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    pub loss: &'static str,
    pub seed: u64,
    /// The time of the training alone.
    pub seconds: f64,
    pub moments: Vec<Moment>,
}

/// How well the points cover the modes after so many steps.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    pub step: u64,
    #[serde(flatten)]
    pub cover: Cover,
    /// The first points, for a picture.
    #[serde(skip)]
    points: Vec<f32>,
}

/// How often a training is looked at.
const MOMENTS: u64 = 20;
/// The moments that are drawn, and the points of a picture.
const DRAWN: [u64; 4] = [1, 4, 10, MOMENTS];
const PICTURED: usize = 600;

impl Outcome {
    fn last(&self) -> Option<&Cover> {
        self.moments.last().map(|moment| &moment.cover)
    }
}

/// Trains with each loss from each seed. `tell` gets a line after each training.
pub fn run(
    device: &Device,
    settings: &Settings,
    info: &DataInfo,
    seeds: &[u64],
    tell: &mut dyn FnMut(String),
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for contender in &CONTENDERS {
        for &seed in seeds {
            let Contender { loss, target, real_weight, r1, .. } = *contender;
            let training =
                Training { loss, softmax_target: target, real_weight, r1, seed, ..settings.training.clone() };
            let setup = Setup::new(settings, info).with(|s| s.training = training);
            let outcome = train(device, contender.name, &setup)?;
            let cover = outcome.last().map_or("diverged".into(), Cover::to_string);
            tell(format!("{}, seed {seed}: {cover}, {:.0} s", contender.name, outcome.seconds));
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

fn train(device: &Device, loss: &'static str, setup: &Setup) -> Result<Outcome> {
    let Training { steps, seed, .. } = setup.training;
    let mut trainer = Trainer::new(device, setup)?;
    let mut outcome = Outcome { loss, seed, seconds: 0.0, moments: Vec::new() };
    for moment in 1..=MOMENTS {
        let begun = Instant::now();
        let step = steps * moment / MOMENTS;
        while trainer.step_number() < step {
            trainer.step(&[], &[])?;
        }
        match trainer.metrics() {
            // A training that diverges is a result too, and the others go on.
            Err(Error::NotFinite { .. }) => break,
            metrics => metrics.map(drop)?,
        }
        outcome.seconds += begun.elapsed().as_secs_f64();
        let mut points = trainer.points(Weights::Average, &Latents::unlabelled(1, mixture::POINTS))?;
        let cover = setup.mixture.cover(&points);
        points.truncate(2 * PICTURED);
        outcome.moments.push(Moment { step, cover, points });
    }
    Ok(outcome)
}

const COLUMNS: [&str; 6] = ["loss", "h", "modes covered", "within 3 deviations, %", "KL", "seconds"];

/// A loss over all seeds: its row.
fn row(contender: &Contender, outcomes: &[Outcome]) -> [String; 6] {
    let mine: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.loss == contender.name).collect();
    let each = |part: &dyn Fn(&Cover) -> String| -> String {
        mine.iter().map(|outcome| outcome.last().map_or("-".into(), part)).collect::<Vec<_>>().join(", ")
    };
    let seconds = mine.iter().map(|outcome| outcome.seconds).sum::<f64>() / mine.len().max(1) as f64;
    [
        contender.name.to_string(),
        contender.formula.to_string(),
        each(&|cover| cover.covered.to_string()),
        each(&|cover| format!("{:.0}", 100.0 * cover.near)),
        each(&|cover| format!("{:.2}", cover.kl)),
        format!("{seconds:.0}"),
    ]
}

/// The table for people: a line for each loss, with a number for each seed.
pub fn table(outcomes: &[Outcome]) -> String {
    let rows: Vec<[String; 6]> =
        [COLUMNS.map(String::from)].into_iter().chain(CONTENDERS.iter().map(|c| row(c, outcomes))).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let line = |row: &[String; 6]| {
        let cells = row.iter().enumerate().map(|(i, cell)| format!("{cell:<width$}", width = width(i)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A line for each training and each moment, under a header.
pub fn csv(outcomes: &[Outcome]) -> String {
    let row = |(outcome, moment): (&Outcome, &Moment)| {
        let Cover { covered, near, kl, .. } = moment.cover;
        [
            ("loss", Cell::Text(outcome.loss.to_string())),
            ("seed", Cell::Count(outcome.seed)),
            ("step", Cell::Count(moment.step)),
            ("covered", Cell::Count(covered as u64)),
            ("near", number(near, 5)),
            ("kl", number(kl, 5)),
        ]
    };
    let all = outcomes.iter().flat_map(|outcome| outcome.moments.iter().map(move |moment| (outcome, moment)));
    record::csv(&all.map(row).collect::<Vec<_>>())
}

/// The mean over the seeds of the modes covered, at each moment that all of them reached.
fn modes_over_steps(contender: &Contender, outcomes: &[Outcome]) -> Vec<(f64, f64)> {
    let mine: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.loss == contender.name).collect();
    let least = mine.iter().map(|outcome| outcome.moments.len()).min().unwrap_or(0);
    let at = |i: usize| {
        let covered = mine.iter().map(|outcome| outcome.moments[i].cover.covered as f64).sum::<f64>();
        (mine[0].moments[i].step as f64, covered / mine.len() as f64)
    };
    (0..least).map(at).collect()
}

/// A page with the points over time, the modes over the steps, and why.
pub fn page(device: &str, settings: &Settings, info: &DataInfo, outcomes: &[Outcome]) -> String {
    let setup = Setup::new(settings, info);
    let of_each = outcomes.len() / CONTENDERS.len();
    let seeds: Vec<String> = outcomes.iter().take(of_each).map(|outcome| outcome.seed.to_string()).collect();
    let legend: String = CONTENDERS
        .iter()
        .enumerate()
        .map(|(i, c)| format!("<span><i class=\"s{}\"></i>{}</span>\n", i % plot::SERIES, escape(c.name)))
        .collect();
    let over_steps: Vec<Curve> = CONTENDERS.iter().map(|c| modes_over_steps(c, outcomes)).collect();
    // Of the last one D is not at its optimum.
    let at = |c: &Contender| -> Curve {
        (0..=80).map(|i| 10f64.powf(f64::from(i) / 20.0 - 2.0)).map(|u| (u, (c.pull)(u))).collect()
    };
    let pulls: Vec<Curve> = CONTENDERS.iter().filter(|c| c.r1 == 0.0).map(at).collect();
    let mut body = format!(
        "<header><h1>Why some losses cover every mode</h1>\n<p>Preset {}, data {}, {} steps each from the same seeds ({}), \
         on {}. Averaged weights draw; a mode counts as covered when at least 1 % of {} points lie within {} deviations of \
         its centre.</p></header>\n<section>\n{}\n<h2>Modes over the steps</h2>\n<p>Means over the seeds.</p>\n\
         <div class=\"legend\">\n{legend}</div>\n<div class=\"wide\">{}</div></section>\n",
        settings.preset,
        escape(&info.name),
        settings.training.steps,
        seeds.join(", "),
        escape(device),
        mixture::POINTS,
        mixture::REACH,
        html_table(COLUMNS, CONTENDERS.iter().map(|contender| row(contender, outcomes))),
        curves(
            "Modes over the steps",
            ("steps", false),
            ("modes covered", (0.0, setup.mixture.modes() as f64)),
            &over_steps
        ),
    );
    let _ = write!(
        body,
        "<section><h2>Why: how strongly a loss pulls where fakes are few</h2>\n\
         <p>Let q be the density of the data, p that of the generator, u = p / q. With D at its optimum, each of these \
         losses moves a fake along the gradient of ln(q / p), and it moves it with a weight h(u) of its own. In the \
         softmax over the batch, with a real sample weighing e:</p>\n\
         <p class=\"formula\">D at its optimum: exp(-D) = c / (e + u), so grad D = u / (e + u) grad ln u<br/>\
         zero-sum: dL/db = q_j = 1 / M (e + u)<br/>\
         uniform: dL/db = 1/K - q_j, and 1/K = 1 / M (1 + e)<br/>\
         h(u) = M dL/db u / (e + u)</p>\n\
         <p>h(u) = u f''(u) names the f-divergence that the generator descends, and where h is large decides what it \
         mends first. A mode that is missed has u near 0: there the published loss has a negative weight, and pushes \
         fakes away from it. It is no divergence at all: its f is not convex below u = 1. The non-saturating loss pulls \
         with a weight that vanishes with u. The zero-sum loss pulls as strongly at u as at 1 / u; a smaller weight of \
         the real samples moves that balance towards modes that lack fakes. R1 keeps D smooth instead, so that its \
         gradient points towards missed modes from afar.</p>\n\
         <div class=\"legend\">\n{legend}</div>\n<div class=\"wide\">{}</div></section>\n\
         <section><h2>Points over time</h2>\n<p>Seed {}: {PICTURED} points of the generator (blue) over as many of the data \
         (grey).</p>\n",
        curves("h(u)", ("u = p / q", true), ("h(u)", (-0.15, 1.1)), &pulls),
        seeds.first().map_or("", String::as_str),
    );
    let data = setup.mixture.draw(0, PICTURED);
    for contender in &CONTENDERS {
        let Some(outcome) = outcomes.iter().find(|outcome| outcome.loss == contender.name) else { continue };
        let _ = write!(body, "<h3>{}</h3>\n<div class=\"charts\">\n", escape(contender.name));
        for moment in DRAWN.iter().filter_map(|moment| outcome.moments.get(*moment as usize - 1)) {
            let Moment { step, cover, points } = moment;
            let svg = Scatter { data: &data, points }.svg();
            let (covered, of) = (cover.covered, cover.modes);
            let _ = writeln!(body, "<figure>{svg}<figcaption>step {step}: {covered} of {of}</figcaption></figure>");
        }
        body.push_str("</div>\n");
    }
    body.push_str("</section>\n");
    document("zgan: why some losses cover every mode", &body)
}
