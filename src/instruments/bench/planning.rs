//! What several cards would need for a step: the model of each rank's share of it, and the least time of what the ranks
//! exchange ([`Card::all_reduce`]). Nothing is measured.
//!
//! A rank exchanges nothing while it computes: gradients are complete when they are summed, and the optimiser waits for the
//! sum. So both times add up.

use std::collections::BTreeMap;

use super::cards::IN_GRAPH;
use super::model::launches_of_step;
use super::{Card, Modelled, StepProblem};
use crate::device::Launched;
use crate::gan::{Setup, Trainer};
use crate::instruments::record::{Cell, number};
use crate::settings::{Training, Update};
use crate::{Error, Result};

/// The most ranks that are planned for.
pub const MOST_RANKS: usize = 65_536;

/// The efficiency below which more ranks are not taken to be worth it.
pub const WORTH: f64 = 0.5;

/// Sums over all ranks, of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    pub what: &'static str,
    /// The bytes of each sum of a step.
    pub sums: Vec<u64>,
}

impl Exchange {
    pub fn bytes(&self) -> u64 {
        self.sums.iter().sum()
    }
}

/// How many images ranks have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// The ranks share one batch out.
    Strong,
    /// Each rank has a batch of its own.
    Weak,
}

impl Growth {
    pub const ALL: [Growth; 2] = [Growth::Strong, Growth::Weak];

    pub fn name(self) -> &'static str {
        match self {
            Growth::Strong => "strong",
            Growth::Weak => "weak",
        }
    }
}

/// The least times of a step on so many ranks, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub growth: Growth,
    pub ranks: usize,
    /// Real images of the rank that has most.
    pub batch: usize,
    /// What that rank computes.
    pub own: f64,
    /// Exchanges: waiting, and moving bytes.
    pub waits: f64,
    pub moves: f64,
    /// The images a second, divided by what as many ranks would do if none had to wait, and each were as fast as one alone.
    pub efficiency: f64,
}

impl Point {
    pub fn step(&self) -> f64 {
        self.own + self.waits + self.moves
    }

    /// The share of the time that exchanges take.
    pub fn exchanging(&self) -> f64 {
        (self.waits + self.moves) / self.step()
    }

    /// The columns of CSV and JSON.
    pub fn record(&self) -> [(&'static str, Cell); 9] {
        [
            ("scaling", Cell::Name(self.growth.name().into())),
            ("ranks", Cell::Count(self.ranks as u64)),
            ("images_per_rank", Cell::Count(self.batch as u64)),
            ("step_us", number(self.step() * 1e6, 4)),
            ("own_us", number(self.own * 1e6, 4)),
            ("waits_us", number(self.waits * 1e6, 4)),
            ("moves_us", number(self.moves * 1e6, 4)),
            ("exchanging", number(self.exchanging(), 5)),
            ("efficiency", number(self.efficiency, 5)),
        ]
    }
}

/// Up to how many ranks, in powers of two, the efficiency is at least a half.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub growth: Growth,
    pub ranks: usize,
    /// Why twice as many would be less efficient.
    pub why: &'static str,
}

/// A step on several ranks.
#[derive(Clone, Debug)]
pub struct Planned {
    pub name: String,
    /// What ranks that share the batch out exchange in a step.
    pub exchanges: Vec<Exchange>,
    /// The seconds of a step on one rank alone.
    pub alone: f64,
    /// Where ranks have images to share.
    pub points: Vec<Point>,
    pub ends: Vec<End>,
}

/// What ranks exchange in a step that launches this: sums of f32 values over all ranks.
pub fn exchanges(setup: &Setup, launched: &[Launched]) -> Result<Vec<Exchange>> {
    let plan = Trainer::plan(setup)?;
    let floats = |count: usize| 4 * count as u64;
    let count = |kernel: &str| launched.iter().filter(|launched| launched.kernel.starts_with(kernel)).count();
    let Training { batch, n_dis, update, .. } = setup.training;
    let (of_d, m_g) = (if update == Update::Simultaneous { 1 } else { n_dis }, setup.training.batch_of_g());
    let mut gradients = vec![floats(plan.parameters_d); of_d];
    gradients.push(floats(plan.parameters_g));
    // The losses see all real logits, and those of their fakes; under the alternating rule those of G's step come first.
    let mut logits = vec![floats(batch + m_g)];
    logits.extend((0..of_d).filter(|_| update == Update::Alternating).map(|_| floats(2 * batch)));
    // Of AC-GAN's classes and of gradient penalties: losses, norms and what is counted.
    let means = vec![floats(4); count("state_check").saturating_sub(logits.len())];
    // Of each channel: count, mean and sum of squares forward; two sums backward.
    let norms = |kernel: &str, values: usize| -> Vec<u64> {
        let passes = count(kernel) / plan.norms.len().max(1);
        (0..passes).flat_map(|_| plan.norms.iter().map(|channels| floats(values * channels))).collect()
    };
    let all = [
        ("gradients", gradients),
        ("logits", logits),
        ("means", means),
        ("norms forward", norms("norm_statistics", 3)),
        ("norms backward", norms("norm_backward_finish", 2)),
    ];
    Ok(all.into_iter().filter(|(_, sums)| !sums.is_empty()).map(|(what, sums)| Exchange { what, sums }).collect())
}

/// The least times of a step on each of these numbers of ranks, and where more of them are not worth it.
pub fn plan(card: &Card, problem: &StepProblem, ranks: &[usize]) -> Result<Planned> {
    if let Some(wrong) = ranks.iter().find(|ranks| !(1..=MOST_RANKS).contains(*ranks)) {
        return Err(Error::Config(format!("--ranks {wrong}, expected 1 to {MOST_RANKS}")));
    }
    let launched = launches_of_step(card, problem)?;
    let exchanges = exchanges(&problem.setup, &launched)?;
    let own = |launched: &[Launched]| -> Result<f64> {
        Ok(Modelled::of(card, String::new(), "graph", launched, IN_GRAPH)?.total.least)
    };
    let (alone, batch) = (own(&launched)?, problem.setup.training.batch);
    let mut times = BTreeMap::from([(batch, alone)]);
    let mut point = |growth: Growth, ranks: usize| -> Result<Option<Point>> {
        let images = if growth == Growth::Strong { batch.div_ceil(ranks) } else { batch };
        if growth == Growth::Strong && ranks > batch {
            return Ok(None);
        }
        let own = match times.get(&images) {
            Some(own) => *own,
            None => {
                let setup = problem.setup.with(|s| {
                    s.training.batch = images;
                    s.training.batch_g = s.training.batch_g.map(|fakes| fakes.div_ceil(ranks));
                });
                let own = own(&launches_of_step(card, &StepProblem { name: problem.name.clone(), setup })?)?;
                times.insert(images, own);
                own
            }
        };
        let (mut waits, mut moves) = (0.0, 0.0);
        for exchange in &exchanges {
            let times = if exchange.what == "logits" && growth == Growth::Weak { ranks as u64 } else { 1 };
            for bytes in &exchange.sums {
                let (wait, moving) = card.all_reduce(ranks, times * bytes);
                (waits, moves) = (waits + wait, moves + moving);
            }
        }
        let ideal = if growth == Growth::Strong { alone / ranks as f64 } else { alone };
        let efficiency = ideal / (own + waits + moves);
        Ok(Some(Point { growth, ranks, batch: images, own, waits, moves, efficiency }))
    };
    let (mut points, mut ends) = (Vec::new(), Vec::new());
    for growth in Growth::ALL {
        for &ranks in ranks {
            points.extend(point(growth, ranks)?);
        }
        let mut end = End { growth, ranks: 1, why: "more were not looked at" };
        while end.ranks < MOST_RANKS {
            let ranks = 2 * end.ranks;
            let Some(found) = point(growth, ranks)? else {
                end.why = "there are no more images in the batch";
                break;
            };
            if found.efficiency < WORTH {
                end.why = why(&found, alone);
                break;
            }
            end.ranks = ranks;
        }
        ends.push(end);
    }
    Ok(Planned { name: problem.name.clone(), exchanges, alone, points, ends })
}

/// What costs most of the time that a step takes beyond its share of one rank's.
fn why(point: &Point, alone: f64) -> &'static str {
    let ideal = if point.growth == Growth::Strong { alone / point.ranks as f64 } else { alone };
    let costs = [
        (point.own - ideal, "with so few images, a rank's launches take little less time than with more"),
        (point.waits, "exchanges wait for their many steps (latency)"),
        (point.moves, "exchanges move too many bytes (bandwidth)"),
    ];
    costs.into_iter().reduce(|a, b| if b.0 > a.0 { b } else { a }).map_or("", |(_, why)| why)
}
