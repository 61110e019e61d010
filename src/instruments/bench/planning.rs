//! What several cards would need for a step: the model of what a rank launches for its share of it, and the least time of the
//! sums that it exchanges with the others ([`Card::all_reduce`]). Both are those of the trainer itself, on a device that only
//! lists them. Nothing is measured.
//!
//! A rank exchanges nothing while it computes: gradients are complete when they are summed, and the optimiser waits for the
//! sum. So both times add up.

use std::sync::Arc;

use super::cards::IN_GRAPH;
use super::model::device;
use super::{Card, Modelled, StepProblem, Stepper};
use crate::device::{Counting, Launched, trace};
use crate::instruments::record::{Cell, number};
use crate::{Error, Result};

/// The most ranks that are planned for.
pub const MOST_RANKS: usize = 4096;

/// The efficiency below which more ranks are not taken to be worth it.
pub const WORTH: f64 = 0.5;

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
    pub images: usize,
    /// What it exchanges: sums over all ranks, and their bytes.
    pub sums: usize,
    pub bytes: u64,
    /// What that rank computes.
    pub own: f64,
    /// Exchanges: waiting, and moving bytes.
    pub waits: f64,
    pub moves: f64,
    /// What as many ranks would take that exchange nothing and are each as fast as one alone.
    pub ideal: f64,
}

impl Point {
    pub fn step(&self) -> f64 {
        self.own + self.waits + self.moves
    }

    pub fn efficiency(&self) -> f64 {
        self.ideal / self.step()
    }

    /// What costs most of the time beyond the ideal.
    fn why(&self) -> &'static str {
        let costs = [
            (self.own - self.ideal, "with so few images for each, a rank's launches hardly get shorter"),
            (self.waits, "sums wait for their many steps (latency)"),
            (self.moves, "sums move too many bytes (bandwidth)"),
        ];
        costs.into_iter().reduce(|a, b| if b.0 > a.0 { b } else { a }).map_or("", |(_, why)| why)
    }

    /// The share of the time that exchanges take.
    pub fn exchanging(&self) -> f64 {
        (self.waits + self.moves) / self.step()
    }

    /// The columns of CSV and JSON.
    pub fn record(&self) -> [(&'static str, Cell); 11] {
        [
            ("scaling", Cell::Name(self.growth.name().into())),
            ("ranks", Cell::Count(self.ranks as u64)),
            ("images_per_rank", Cell::Count(self.images as u64)),
            ("sums", Cell::Count(self.sums as u64)),
            ("bytes", Cell::Count(self.bytes)),
            ("step_us", number(self.step() * 1e6, 4)),
            ("own_us", number(self.own * 1e6, 4)),
            ("waits_us", number(self.waits * 1e6, 4)),
            ("moves_us", number(self.moves * 1e6, 4)),
            ("exchanging", number(self.exchanging(), 5)),
            ("efficiency", number(self.efficiency(), 5)),
        ]
    }
}

/// Up to how many ranks, in powers of two, the efficiency is at least [`WORTH`].
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub growth: Growth,
    pub ranks: usize,
    /// Why twice as many would be less efficient, or cannot be.
    pub why: String,
}

/// A step on several ranks.
#[derive(Clone, Debug)]
pub struct Planned {
    pub name: String,
    /// The seconds of a step on one rank alone.
    pub alone: f64,
    /// For each growth and each number of ranks that was asked for; or why the trainer refuses so many.
    pub points: Vec<(Growth, usize, std::result::Result<Point, String>)>,
    pub ends: Vec<End>,
}

/// What the first of so many ranks launches in a step, and the bytes of each sum that it exchanges with the others. The setup
/// is that of all of them together.
fn of_rank(card: &Card, problem: &StepProblem, ranks: usize) -> Result<(Vec<Launched>, Vec<usize>)> {
    let counting = Arc::new(Counting::new(ranks));
    let mut stepper = Stepper::new(&device(card).with_ranks(counting.clone()), problem)?;
    let before = counting.bytes().len();
    let launched = trace(|| stepper.run())?;
    Ok((launched, counting.bytes().split_off(before)))
}

/// The least times of a step on each of these numbers of ranks, and where more of them are not worth it.
pub fn plan(card: &Card, problem: &StepProblem, ranks: &[usize]) -> Result<Planned> {
    if let Some(wrong) = ranks.iter().find(|ranks| !(1..=MOST_RANKS).contains(*ranks)) {
        return Err(Error::Config(format!("--ranks {wrong}, expected 1 to {MOST_RANKS}")));
    }
    let mut alone = None;
    let mut point = |growth: Growth, ranks: usize| -> Result<Point> {
        let times = if growth == Growth::Weak { ranks } else { 1 };
        let setup = problem.setup.with(|s| {
            s.training.batch *= times;
            s.training.batch_g = s.training.batch_g.map(|fakes| fakes * times);
        });
        let images = setup.training.batch.div_ceil(ranks);
        let (launched, sums) = of_rank(card, &StepProblem { name: problem.name.clone(), setup }, ranks)?;
        let own = Modelled::of(card, String::new(), "graph", &launched, IN_GRAPH)?.total.least;
        let (mut waits, mut moves) = (0.0, 0.0);
        for bytes in &sums {
            let (waiting, moving) = card.all_reduce(ranks, *bytes as u64);
            (waits, moves) = (waits + waiting, moves + moving);
        }
        // The first one that is asked for is one rank alone.
        let ideal = *alone.get_or_insert(own) / (ranks / times) as f64;
        let bytes = sums.iter().sum::<usize>() as u64;
        Ok(Point { growth, ranks, images, sums: sums.len(), bytes, own, waits, moves, ideal })
    };
    point(Growth::Weak, 1)?;
    let (mut points, mut ends) = (Vec::new(), Vec::new());
    for growth in Growth::ALL {
        for &ranks in ranks {
            points.push((growth, ranks, point(growth, ranks).map_err(|error| error.to_string())));
        }
        // By halves, as more ranks are never more efficient: `many` are too many.
        let (mut end, mut many) = (End { growth, ranks: 1, why: "more were not looked at".into() }, 2 * MOST_RANKS);
        while many > 2 * end.ranks {
            let middle = 1 << (end.ranks.ilog2() + many.ilog2()).div_ceil(2);
            match point(growth, middle) {
                Ok(found) if found.efficiency() >= WORTH => end.ranks = middle,
                Ok(found) => (many, end.why) = (middle, found.why().into()),
                Err(error) => (many, end.why) = (middle, error.to_string()),
            }
        }
        ends.push(end);
    }
    Ok(Planned { name: problem.name.clone(), alone: alone.unwrap_or_default(), points, ends })
}
