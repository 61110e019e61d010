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

#[cfg(test)]
mod tests {
    use super::super::loops::tests::{listing, product};
    use super::super::steady_loops;
    use super::*;

    fn code(more: &[&str]) -> KernelCode {
        let lines = product("1", more);
        let text = listing(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        KernelCode {
            module: "m",
            kernel: "k_64x64_bf16".into(),
            family: "k",
            tile: Some((64, 64)),
            precision: crate::device::Precision::Bf16,
            arch: "sm_90",
            registers: 0,
            spill_stores: 0,
            spill_loads: 0,
            local: 0,
            shared: 0,
            blocks: 1,
            occupancy: 1,
            instructions: None,
            loops: steady_loops(&text),
        }
    }

    #[test]
    fn what_a_steady_loop_must_not_have_is_refused() {
        let good = [code(&["IADD3 R5, R5, R6, RZ"])];
        let turns = Turns::of(&good, None);
        assert_eq!(turns.check(&good, true), [""; 0]);
        assert_eq!(turns.check(&[code(&[])], true), [""; 0]);
        // Only where a parameter is not 0.
        let more = ["ISETP.NE.AND P2, PT, RZ, c[0x0][0x170], PT", "@!P2 BRA `(.L_x_5)", "NOP", "NOP", ".L_x_5:"];
        let branching = [code(&more)];
        let with = Turns::of(&branching, None);
        assert_eq!(with.get("sm_90", "k_64x64_bf16", "lean").map(|turn| (turn.issued, turn.rich)), Some((12, 14)));
        assert_eq!(with.check(&branching, true), [""; 0]);
        let said = with.check(&[code(&[&more[..2], &["NOP"], &more[2..]].concat())], true);
        let what =
            "7.50 instructions for each HMMA with the parameters for which they are the most, 0.50 more than the 7.00";
        assert!(said.len() == 1 && said[0].contains(what), "{said:?}");
        for (planted, what) in [
            (&["CALL.REL.NOINC `($k$tanh)"][..], "1 calls, 1 more than the 0 it may"),
            (&["IMAD.HI.U32 R5, R6, R7, RZ"], "1 divisions (IMAD.HI), 1 more than the 0 it may"),
            (&["LDC R5, c[0x0][0x210]"], "1 parameters loaded into registers again, 1 more than the 0 it may"),
            (&["MOV R5, c[0x0][0x210]"], "1 parameters loaded into registers again, 1 more than the 0 it may"),
            (&["MOV R5, R6", "MOV R7, R6"], "6.00 instructions for each HMMA, 0.50 more than the 5.50 it may"),
            (&["DEPBAR.LE SB0, 0x0"], "1 loads in flight, fewer than the 2 that there were"),
        ] {
            let said = turns.check(&[code(planted)], true);
            assert_eq!(said, [format!("k_64x64_bf16 for sm_90, lean loop: {what}")]);
        }
        let on_data = code(&["LDS R5, [R6]", "ISETP.EQ.AND P2, PT, R5, RZ, PT", "@P2 BRA `(.L_x_5)", "NOP", ".L_x_5:"]);
        assert!(turns.check(&[on_data], true).iter().any(|said| said.contains("1 branches on what was loaded")));
    }

    #[test]
    fn exceptions_are_kept_and_none_is_made() {
        let dividing = [code(&["IMAD.HI.U32 R5, R6, R7, RZ"])];
        let turns = Turns::of(&dividing, None);
        assert_eq!(turns.check(&dividing, true).len(), 1);
        let mut text = String::new();
        turns.write(&mut text);
        let line = "k_64x64_bf16.lean = { products = 2, issued = 11, shared = 1024, in_flight = 2";
        assert_eq!(text, format!("\n[loops.sm_90]\n{line} }}\n"));

        #[derive(Deserialize)]
        struct File {
            loops: Turns,
        }
        let by_hand = text.replace(" }", ", divisions = 3 }");
        let excusing = toml::from_str::<File>(&by_hand).unwrap().loops;
        assert_eq!(excusing.check(&dividing, true), [""; 0]);
        let renewed = Turns::of(&dividing, Some(&excusing));
        assert_eq!(renewed.get("sm_90", "k_64x64_bf16", "lean").unwrap().divisions, 1);

        // What is gone, what is new, and what was not counted.
        let gone = Turns::of(&[], Some(&turns));
        assert_eq!(gone, turns);
        assert_eq!(gone.check(&[], true), [""; 0]);
        let other = [KernelCode { kernel: "j".into(), ..code(&[]) }];
        let said = turns.check(&other, true);
        let expected = [
            "j for sm_90, lean loop: it is not in the budget",
            "k_64x64_bf16 for sm_90, lean loop: it is in the budget, and there is no such loop",
        ];
        assert_eq!(said, expected);
        assert_eq!(turns.check(&other, false), expected[..1]);
    }
}
