//! What one turn of each product's steady loops may issue, by generation: the sections `[loops.sm_XX]` of the budget.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;

use super::{KernelCode, Loop};

/// One turn of a loop.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// HMMA, or FFMA where there are none of them; and all instructions that a warp issues.
    pub products: u32,
    pub issued: u32,
    /// All instructions with the parameters for which the most are issued; 0 where that is no other number.
    #[serde(default)]
    pub rich: u32,
    /// Bytes of shared memory that a warp reads and writes.
    #[serde(default)]
    pub shared: u32,
    /// Loads and copies from global memory that a thread waits for together, at least.
    #[serde(default)]
    pub in_flight: u32,
    /// Parameters that are loaded into registers again.
    #[serde(default)]
    pub reloads: u32,
    /// What must not be in such a loop. Any is an exception, which is written by hand.
    #[serde(default)]
    pub calls: u32,
    #[serde(default)]
    pub divisions: u32,
    #[serde(default)]
    pub data_branches: u32,
}

/// By generation, kernel and name of the loop.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub(super) struct Turns(BTreeMap<String, BTreeMap<String, BTreeMap<String, Turn>>>);

/// The loop that takes one element after the other is for odd sizes, and may take its time.
const UNLIMITED: &str = "elements";

impl Turn {
    pub fn of(counted: &Loop) -> Turn {
        let lean = &counted.lean;
        Turn {
            products: lean.products(counted.multiplier),
            issued: lean.issued,
            rich: if counted.rich.issued > lean.issued { counted.rich.issued } else { 0 },
            shared: lean.shared,
            in_flight: lean.in_flight,
            reloads: lean.reloads,
            calls: lean.calls,
            divisions: lean.divisions,
            data_branches: lean.data_branches,
        }
    }

    /// Instructions for each multiplication.
    pub fn per_product(&self) -> f64 {
        ratio(self.issued, self.products)
    }

    /// With at most the exceptions of an older budget.
    fn excused(self, older: Option<&Turn>) -> Turn {
        let older = older.copied().unwrap_or_default();
        Turn {
            calls: self.calls.min(older.calls),
            divisions: self.divisions.min(older.divisions),
            data_branches: self.data_branches.min(older.data_branches),
            ..self
        }
    }

    /// What is wrong with a turn where this one is allowed.
    fn problems(&self, found: &Turn, unit: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let most = |turn: &Turn| turn.issued.max(turn.rich);
        for (what, issued, allowed) in [
            ("", found.issued, self.issued),
            (" with the parameters for which they are the most", most(found), most(self)),
        ] {
            if u64::from(issued) * u64::from(self.products) > u64::from(allowed) * u64::from(found.products) {
                let (per, most) = (ratio(issued, found.products), ratio(allowed, self.products));
                let more = per - most;
                problems.push(format!(
                    "{per:.2} instructions for each {unit}{what}, {more:.2} more than the {most:.2} it may"
                ));
                break;
            }
        }
        if found.in_flight < self.in_flight {
            let (found, least) = (found.in_flight, self.in_flight);
            problems.push(format!("{found} loads in flight, fewer than the {least} that there were"));
        }
        for (what, found, most) in [
            ("parameters loaded into registers again", found.reloads, self.reloads),
            ("calls", found.calls, self.calls),
            ("divisions (IMAD.HI)", found.divisions, self.divisions),
            ("branches on what was loaded", found.data_branches, self.data_branches),
        ] {
            if found > most {
                problems.push(format!("{found} {what}, {} more than the {most} it may", found - most));
            }
        }
        problems
    }
}

fn ratio(a: u32, b: u32) -> f64 {
    f64::from(a) / f64::from(b)
}

/// The loops of a kernel that are limited. Of several with one name it is the one that issues the most.
fn limited(code: &KernelCode) -> BTreeMap<&'static str, (Turn, &Loop)> {
    let mut turns: BTreeMap<&str, (Turn, &Loop)> = BTreeMap::new();
    for counted in code.loops.iter().filter(|counted| counted.name != UNLIMITED) {
        let turn = Turn::of(counted);
        let known = turns.get(counted.name);
        if known.is_none_or(|(known, _)| known.per_product() < turn.per_product()) {
            turns.insert(counted.name, (turn, counted));
        }
    }
    turns
}

impl Turns {
    /// Those of these kernels; of generations whose loops were not counted, those of `older`. The exceptions are those of
    /// `older`: no new ones are made.
    pub fn of(kernels: &[KernelCode], older: Option<&Turns>) -> Turns {
        let mut turns = Turns::default();
        for code in kernels.iter().filter(|code| !code.loops.is_empty()) {
            let loops = limited(code).into_iter().map(|(name, (turn, _))| {
                let excused = older.and_then(|older| older.get(code.arch, &code.kernel, name));
                (name.to_string(), turn.excused(excused))
            });
            turns.0.entry(code.arch.into()).or_default().insert(code.kernel.clone(), loops.collect());
        }
        for (arch, kernels) in older.iter().flat_map(|older| &older.0) {
            turns.0.entry(arch.clone()).or_insert_with(|| kernels.clone());
        }
        turns
    }

    pub fn get(&self, arch: &str, kernel: &str, name: &str) -> Option<&Turn> {
        self.0.get(arch)?.get(kernel)?.get(name)
    }

    /// What is wrong with the loops of these kernels, a line for each mistake. `all` says that no kernel is left out.
    pub fn check(&self, kernels: &[KernelCode], all: bool) -> Vec<String> {
        let mut problems = Vec::new();
        let counted = || kernels.iter().filter(|code| !code.loops.is_empty());
        for code in counted() {
            for (name, (found, counted)) in limited(code) {
                let whose = format!("{} for {}, {name} loop", code.kernel, code.arch);
                match self.get(code.arch, &code.kernel, name) {
                    None => problems.push(format!("{whose}: it is not in the budget")),
                    Some(allowed) => {
                        let found = allowed.problems(&found, counted.multiplier.name());
                        problems.extend(found.into_iter().map(|problem| format!("{whose}: {problem}")));
                    }
                }
            }
        }
        for (arch, loops) in self.0.iter().filter(|(arch, _)| all && counted().any(|code| code.arch == **arch)) {
            for (kernel, names) in loops {
                let there = counted().find(|code| code.arch == arch && code.kernel == *kernel).map(limited);
                let gone =
                    names.keys().filter(|name| !there.as_ref().is_some_and(|there| there.contains_key(&***name)));
                problems.extend(gone.map(|name| {
                    format!("{kernel} for {arch}, {name} loop: it is in the budget, and there is no such loop")
                }));
            }
        }
        problems
    }

    pub fn write(&self, text: &mut String) {
        for (arch, kernels) in &self.0 {
            let _ = writeln!(text, "\n[loops.{arch}]");
            for (kernel, loops) in kernels {
                for (name, turn) in loops {
                    let Turn { products, issued, .. } = turn;
                    let _ = write!(text, "{kernel}.{name} = {{ products = {products}, issued = {issued}");
                    let Turn { rich, shared, in_flight, reloads, calls, divisions, data_branches, .. } = *turn;
                    for (name, count) in [
                        ("rich", rich),
                        ("shared", shared),
                        ("in_flight", in_flight),
                        ("reloads", reloads),
                        ("calls", calls),
                        ("divisions", divisions),
                        ("data_branches", data_branches),
                    ] {
                        if count > 0 {
                            let _ = write!(text, ", {name} = {count}");
                        }
                    }
                    text.push_str(" }\n");
                }
            }
        }
    }
}
