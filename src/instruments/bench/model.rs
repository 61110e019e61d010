//! The least time that a card's published rates allow for what a problem or a step launches there. Nothing is measured.
//!
//! A launch takes at least as long as the card needs for its products; as its multiprocessors need to issue all instructions
//! of the loop that multiplies, and to move what that loop reads and writes in shared memory, which the code gate counted
//! ([`Budget`]); and as the memory needs to read or write each of its buffers once. The longest of them counts; the time
//! between two kernels comes on top. Data that is still in a cache from the kernel before arrives sooner than this.
//! Everything else in a real kernel makes it slower.

use std::collections::BTreeMap;

use super::cards::{IN_GRAPH, LAUNCHED};
use super::{Card, Problem, StepProblem, Stepper};
use crate::device::{Device, Launched, Unit, trace};
use crate::instruments::gate::Budget;
use crate::instruments::record::{Cell, number};
use crate::{Error, Result};

/// The seconds that each limit alone would take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    pub launches: u64,
    pub flops: u64,
    pub bytes: u64,
    pub products: f64,
    /// The issue slots and the shared memory of all multiprocessors; 0 for a kernel whose loops are not counted.
    pub issue: f64,
    pub shared: f64,
    pub memory: f64,
    /// The time between kernels.
    pub overhead: f64,
    /// The sum over all kernels of the longest of products, issue, shared and memory, and of the time between kernels.
    pub least: f64,
}

/// The times of what a form of a problem, or a step, launches.
#[derive(Clone, Debug)]
pub struct Modelled {
    pub name: String,
    /// The name of the form; a step has the forms `graph` and `launched`.
    pub form: &'static str,
    pub total: Times,
    /// The times of each kernel; the one that takes longest comes first.
    pub kernels: Vec<(&'static str, Times)>,
}

impl Times {
    /// The times of one launch, after which `overhead` seconds pass.
    pub fn of(card: &Card, launched: &Launched, overhead: f64) -> Result<Times> {
        let unit = Unit::of(launched.kernel);
        let rate = card
            .rate(unit)
            .ok_or_else(|| Error::Config(format!("{}: {} has no {}", launched.kernel, card.title, unit.name())))?;
        let budget = Budget::committed()?;
        let turn = card.multiprocessor.loops.and_then(|arch| budget.turn(arch, launched.kernel, "lean"));
        let slowed = turn.map(|turn| card.slowed(unit, turn));
        let (at_rate, memory) = (launched.flops as f64 / rate, launched.bytes as f64 / card.bandwidth);
        let times = Times {
            launches: 1,
            flops: launched.flops,
            bytes: launched.bytes,
            products: at_rate * slowed.map_or(1.0, |slowed| slowed.products),
            issue: at_rate * slowed.map_or(0.0, |slowed| slowed.issue),
            shared: at_rate * slowed.and_then(|slowed| slowed.shared).unwrap_or(0.0),
            memory,
            overhead,
            least: 0.0,
        };
        let (_, longest) = times.longest();
        Ok(Times { least: longest + overhead, ..times })
    }

    pub fn add(&mut self, other: Times) {
        self.launches += other.launches;
        self.flops += other.flops;
        self.bytes += other.bytes;
        self.products += other.products;
        self.issue += other.issue;
        self.shared += other.shared;
        self.memory += other.memory;
        self.overhead += other.overhead;
        self.least += other.least;
    }

    /// The columns of CSV and JSON.
    pub fn record(&self) -> [(&'static str, Cell); 10] {
        [
            ("least_us", number(self.least * 1e6, 4)),
            ("products_us", number(self.products * 1e6, 4)),
            ("issue_us", number(self.issue * 1e6, 4)),
            ("shared_us", number(self.shared * 1e6, 4)),
            ("memory_us", number(self.memory * 1e6, 4)),
            ("between_us", number(self.overhead * 1e6, 4)),
            ("launches", Cell::Count(self.launches)),
            ("flops", Cell::Count(self.flops)),
            ("bytes", Cell::Count(self.bytes)),
            ("bound", Cell::Name(self.bound().into())),
        ]
    }

    /// The limit that takes longest.
    pub fn bound(&self) -> &'static str {
        let (longest, time) = self.longest();
        if self.overhead >= time { "launches" } else { longest }
    }

    /// The limit of the kernels themselves that takes longest, and its time.
    fn longest(&self) -> (&'static str, f64) {
        let limits =
            [("memory", self.memory), ("products", self.products), ("issue", self.issue), ("shared", self.shared)];
        limits.into_iter().reduce(|a, b| if b.1 > a.1 { b } else { a }).unwrap_or(("memory", 0.0))
    }
}

impl Modelled {
    pub fn of(card: &Card, name: String, form: &'static str, launched: &[Launched], overhead: f64) -> Result<Modelled> {
        let mut total = Times::default();
        let mut kernels: BTreeMap<&'static str, Times> = BTreeMap::new();
        for launched in launched {
            let times = Times::of(card, launched, overhead)?;
            total.add(times);
            kernels.entry(launched.kernel).or_default().add(times);
        }
        let mut kernels: Vec<_> = kernels.into_iter().collect();
        kernels.sort_by(|(_, a), (_, b)| b.least.total_cmp(&a.least));
        Ok(Modelled { name, form, total, kernels })
    }
}

/// A device that launches as this card would.
pub(super) fn device(card: &Card) -> Device {
    Device::launches_of_gpu(card.title, card.multiprocessors)
}

/// The times of each form of a problem, whose kernels are launched one by one.
pub fn model(card: &Card, problem: &Problem) -> Result<Vec<Modelled>> {
    let forms = (problem.make)(&device(card))?;
    let mut modelled = Vec::new();
    for form in &forms {
        let launched = trace(|| form.run())?;
        // The launches of another library cannot be seen.
        if !launched.is_empty() {
            modelled.push(Modelled::of(card, problem.name(), form.name, &launched, LAUNCHED)?);
        }
    }
    Ok(modelled)
}

/// The times of a step as one captured graph, and of the same step with its kernels launched one by one.
pub fn model_step(card: &Card, problem: &StepProblem) -> Result<Vec<Modelled>> {
    let mut stepper = Stepper::new(&device(card), problem)?;
    let launched = trace(|| stepper.run())?;
    [("graph", IN_GRAPH), ("launched", LAUNCHED)]
        .into_iter()
        .map(|(form, overhead)| Modelled::of(card, problem.name.clone(), form, &launched, overhead))
        .collect()
}
