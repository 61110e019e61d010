//! `zgan kernels --loops`

use std::process::ExitCode;

use zgan::device::Unit;
use zgan::instruments::bench::{CARDS, Card};
use zgan::instruments::gate::{self, Count, Disassembler, KernelCode, Loop, Turn};

use super::say;

/// The cards whose shares are printed, where the table is of their generation.
const CARDS_OF: [&str; 3] = ["a100", "rtx4090", "h100"];

pub fn run(filter: &str, arch: Option<&str>, json: bool, disassembler: &Disassembler) -> anyhow::Result<ExitCode> {
    let archs = arch.map_or(gate::LOOPS_OF.to_vec(), |arch| vec![arch]);
    let mut all = Vec::new();
    for arch in archs {
        let mut kernels = gate::kernels(filter, Some(arch), Count::Loops(disassembler))?;
        kernels.retain(|code| !code.loops.is_empty());
        if !json {
            table(arch, &kernels);
        }
        all.extend(kernels);
    }
    if json {
        say(serde_json::to_string_pretty(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    say(
        "One turn of each steady loop, far from a matrix's edges. MMA: HMMA or FFMA; per: instructions issued for each; rich: the\n\
         same with the parameters for which the most is issued; div: IMAD.HI; reload: parameters loaded again; data: branches on\n\
         what was loaded; flight: loads that a thread has in flight; cards: the most that issue slots and shared memory leave, in\n\
         percent of the HMMA's or FFMA's own peak. A loop with a ? has inner loops of unknown length, which are counted once.",
    );
    Ok(ExitCode::SUCCESS)
}

/// A table in Markdown, with columns of equal widths.
fn table(arch: &str, kernels: &[KernelCode]) {
    let cards: Vec<&Card> = CARDS_OF.iter().filter_map(|name| CARDS.iter().find(|card| card.name == *name)).collect();
    let cards: Vec<&Card> = cards.into_iter().filter(|card| card.multiprocessor.loops == Some(arch)).collect();
    let head = "kernel loop unit MMA issued per rich LDSM LDS LDGSTS LDG STS int unif move float bra bar oth div reload data \
                flight regs smem blk";
    let mut rows: Vec<Vec<String>> = vec![head.split(' ').map(String::from).collect()];
    rows[0][0] = format!("kernel, {arch}");
    rows[0].extend(cards.iter().map(|card| card.name.to_string()));
    rows.extend(kernels.iter().flat_map(|code| code.loops.iter().map(|counted| row(code, counted, &cards))));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |cells: &[String]| {
        let cell = |(at, cell): (usize, &String)| match (at < 3, widths[at]) {
            (true, width) => format!("{cell:<width$}"),
            (false, width) => format!("{cell:>width$}"),
        };
        say(format!("| {} |", cells.iter().enumerate().map(cell).collect::<Vec<_>>().join(" | ")));
    };
    line(&rows[0]);
    let rule = |(at, width): (usize, &usize)| "-".repeat(width + 1) + if at < 3 { "-" } else { ":" };
    say(format!("|{}|", widths.iter().enumerate().map(rule).collect::<Vec<_>>().join("|")));
    rows[1..].iter().for_each(|row| line(row));
    say("");
}

fn row(code: &KernelCode, counted: &Loop, cards: &[&Card]) -> Vec<String> {
    let Loop { name, multiplier, lean, rich, guessed } = counted;
    let per = |of: &gate::Counts| format!("{:.2}", f64::from(of.issued) / f64::from(of.products(*multiplier)));
    let mut cells = vec![code.kernel.clone(), name.to_string(), multiplier.name().into()];
    cells.extend([lean.products(*multiplier), lean.issued].map(|count| count.to_string()));
    cells.extend([per(lean), per(rich)]);
    let float = lean.float + if lean.mma > 0 { lean.ffma } else { 0 };
    let counts = [
        lean.ldsm,
        lean.lds,
        lean.ldgsts,
        lean.ldg,
        lean.sts,
        lean.integer,
        lean.uniform,
        lean.moves,
        float,
        lean.branches,
        lean.barriers,
        lean.other,
        lean.divisions,
        lean.reloads,
        lean.data_branches,
        lean.in_flight,
        code.registers,
        code.shared,
        code.blocks,
    ];
    cells.extend(counts.map(|count| count.to_string()));
    let turn = Turn::of(counted);
    cells.extend(cards.iter().map(|card| {
        let share = |share: Option<f64>| share.map_or("-".into(), |share| format!("{share:.0}"));
        card.slowed(Unit::of(&code.kernel), &turn).shares().map(share).join("/")
    }));
    if *guessed {
        cells[1] += "?";
    }
    cells
}
