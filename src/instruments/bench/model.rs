//! The least time that a card's published rates allow for what a problem or a step launches there. Nothing is measured.
//!
//! A launch takes at least as long as its products at the rate of the unit that makes them, and as its buffers, each read
//! or written whole and once, at the rate of the memory; and then the time between two kernels. What is still in a cache
//! from the kernel before comes faster than this, everything else in a real kernel makes it slower.

use std::collections::BTreeMap;

use super::cards::{IN_GRAPH, LAUNCHED};
use super::{Card, Problem, StepProblem, Stepper};
use crate::device::{Device, Launched, Unit, trace};
use crate::instruments::record::{Cell, number};
use crate::{Error, Result};

/// Seconds that each limit alone would take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    pub launches: u64,
    pub flops: u64,
    pub bytes: u64,
    pub products: f64,
    pub memory: f64,
    /// Between kernels.
    pub overhead: f64,
    /// Kernel by kernel the longer of products and memory, and what lies between kernels.
    pub least: f64,
}

/// What a form of a problem, or a step, launches.
#[derive(Clone, Debug)]
pub struct Modelled {
    pub name: String,
    /// `fused` and such; of steps, `graph` and `launched`.
    pub form: &'static str,
    pub total: Times,
    /// By kernel, the longest first.
    pub kernels: Vec<(&'static str, Times)>,
}

impl Times {
    /// Of one launch, after which `overhead` seconds pass.
    pub fn of(card: &Card, launched: &Launched, overhead: f64) -> Result<Times> {
        let unit = Unit::of(launched.kernel);
        let rate = card
            .rate(unit)
            .ok_or_else(|| Error::Config(format!("{}: {} has no {}", launched.kernel, card.title, unit.name())))?;
        let (products, memory) = (launched.flops as f64 / rate, launched.bytes as f64 / card.bandwidth);
        let least = products.max(memory) + overhead;
        Ok(Times { launches: 1, flops: launched.flops, bytes: launched.bytes, products, memory, overhead, least })
    }

    pub fn add(&mut self, other: Times) {
        self.launches += other.launches;
        self.flops += other.flops;
        self.bytes += other.bytes;
        self.products += other.products;
        self.memory += other.memory;
        self.overhead += other.overhead;
        self.least += other.least;
    }

    /// The columns of CSV and JSON.
    pub fn record(&self) -> [(&'static str, Cell); 8] {
        [
            ("least_us", number(self.least * 1e6, 4)),
            ("products_us", number(self.products * 1e6, 4)),
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
        match () {
            () if self.overhead >= self.products.max(self.memory) => "launches",
            () if self.products > self.memory => "products",
            () => "memory",
        }
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
fn device(card: &Card) -> Device {
    Device::launches_of_gpu(card.title, card.multiprocessors)
}

/// Each form of a problem, launched kernel by kernel.
pub fn model(card: &Card, problem: &Problem) -> Result<Vec<Modelled>> {
    let forms = (problem.make)(&device(card))?;
    let mut modelled = Vec::new();
    for form in &forms {
        let launched = trace(|| form.run())?;
        // Another library's are not seen.
        if !launched.is_empty() {
            modelled.push(Modelled::of(card, problem.name(), form.name, &launched, LAUNCHED)?);
        }
    }
    Ok(modelled)
}

/// A step as one captured graph, and launched kernel by kernel.
pub fn model_step(card: &Card, problem: &StepProblem) -> Result<Vec<Modelled>> {
    let mut stepper = Stepper::new(&device(card), problem)?;
    let launched = trace(|| stepper.run())?;
    [("graph", IN_GRAPH), ("launched", LAUNCHED)]
        .into_iter()
        .map(|(form, overhead)| Modelled::of(card, problem.name.clone(), form, &launched, overhead))
        .collect()
}
