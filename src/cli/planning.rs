//! `zgan bench --model CARD --ranks N,...`

use serde_json::json;
use zgan::device::Device;
use zgan::instruments::bench::{self, Card, Growth, IN_A_MACHINE, LinkKind, Planned, Point, WORTH};
use zgan::instruments::record::{self, Cell};

use super::bench::Bench;
use super::{say, thousands};

pub fn run(asked: &Bench, card: &Card, device: Option<&Device>) -> anyhow::Result<()> {
    let steps = asked.steps()?;
    let plans = steps.iter().map(|step| bench::plan(card, step, &asked.ranks)).collect::<Result<Vec<_>, _>>()?;
    match asked.json {
        true => say(serde_json::to_string_pretty(&as_json(card, device, &plans))?),
        false => print(card, &plans),
    }
    let rows = plans.iter().flat_map(|plan| {
        plan.points.iter().flat_map(|(_, _, point)| point).map(|point| {
            let name = ("problem", Cell::Text(plan.name.clone()));
            [name].into_iter().chain(point.record()).collect::<Vec<_>>()
        })
    });
    let table = record::csv(&rows.collect::<Vec<_>>());
    Ok(asked.write_csv(&[("ranks", table)], &bench::provenance(device))?)
}

fn print(card: &Card, plans: &[Planned]) {
    let kind = if card.link.kind == LinkKind::NvLink { "NVLink" } else { "PCIe" };
    say(format_args!(
        "A MODEL, nothing of it is measured: ranks with an {} each, {IN_A_MACHINE} in a machine, joined by {kind} at {:.0} GB/s a \
         direction, and by 400 Gb/s for each card between machines",
        card.title,
        card.link.bandwidth * 1e-9
    ));
    say("strong: all ranks share the batch out; weak: each has a batch of its own");
    for plan in plans {
        say(format_args!("{}: {:.1} us on one card", plan.name, plan.alone * 1e6));
        say(format_args!(
            "  {:<8}{:>7}{:>8}{:>7}{:>12}{:>12}{:>12}{:>10}{:>10}{:>12}{:>12}",
            "", "ranks", "images", "sums", "MB", "step, us", "launches", "waits", "moves", "exchanging", "efficiency"
        ));
        for (growth, ranks, found) in &plan.points {
            match found {
                Ok(point) => say(line(point)),
                Err(refused) => say(format_args!("  {:<8}{ranks:>7}  {refused}", growth.name())),
            }
        }
        for end in &plan.ends {
            let (growth, percent) = (end.growth.name(), 100.0 * WORTH);
            say(format_args!(
                "  {growth}: efficiency {percent:.0} % or more up to {} ranks; {}",
                thousands(end.ranks),
                end.why
            ));
        }
    }
}

fn line(point: &Point) -> String {
    format!(
        "  {:<8}{:>7}{:>8}{:>7}{:>12.3}{:>12.1}{:>12.1}{:>10.1}{:>10.1}{:>10.0} %{:>10.0} %",
        point.growth.name(),
        point.ranks,
        point.images,
        point.sums,
        point.bytes as f64 * 1e-6,
        point.step() * 1e6,
        point.own * 1e6,
        point.waits * 1e6,
        point.moves * 1e6,
        100.0 * point.exchanging(),
        100.0 * point.efficiency()
    )
}

fn as_json(card: &Card, device: Option<&Device>, plans: &[Planned]) -> serde_json::Value {
    let point = |(growth, ranks, found): &(Growth, usize, Result<Point, String>)| match found {
        Ok(point) => record::json(&point.record()).into(),
        Err(refused) => json!({ "scaling": growth.name(), "ranks": ranks, "refused": refused }),
    };
    let plan = |plan: &Planned| {
        let ends =
            plan.ends.iter().map(|end| json!({ "scaling": end.growth.name(), "ranks": end.ranks, "why": end.why }));
        json!({
            "problem": plan.name,
            "alone_us": plan.alone * 1e6,
            "points": plan.points.iter().map(point).collect::<Vec<_>>(),
            "ends": ends.collect::<Vec<_>>(),
        })
    };
    json!({
        "model": card.name,
        "card": card.title,
        "link_gb_per_s": card.link.bandwidth * 1e-9,
        "measured_on_the_card": false,
        "provenance": bench::provenance(device),
        "problems": plans.iter().map(plan).collect::<Vec<_>>(),
    })
}
