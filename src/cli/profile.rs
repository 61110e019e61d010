//! The tables of `zgan check --profile`.

use serde_json::json;
use zgan::device::{Line, Unit};
use zgan::instruments::check::Profiles;

use super::{say, thousands};

/// The ratio of two counts, or a dash where there is none.
fn ratio(a: u64, b: u64) -> String {
    if b == 0 { "-".into() } else { format!("{:.2}", a as f64 / b as f64) }
}

pub fn print(profiles: &Profiles, most_lines: usize) {
    let width = profiles.kernels.keys().map(|name| name.len()).max().unwrap_or(0).max("kernel".len());
    say("sectors: of 32 bytes, per request of a warp to global memory, and the least that its bytes fit into");
    say(
        "conflicts: turns of shared memory lost, per request; moved: those sectors in bytes, by each byte read or written once",
    );
    say(format_args!(
        "{:width$}  {:>7}  {:>8}  {:>7}  {:>6}  {:>6}  {:>9}  {:>9}  {:>8}  {:>8}  {}",
        "kernel",
        "sizes",
        "launches",
        "sectors",
        "least",
        "ratio",
        "conflicts",
        "in all",
        "MB moved",
        "by least",
        "MFLOP"
    ));
    for (name, row) in &profiles.kernels {
        let (global, shared) = (row.profile.global(), row.profile.shared());
        let flops = match row.profile.flops {
            0 => "-".into(),
            flops => format!("{:.1} {}", flops as f64 * 1e-6, Unit::of(name).name()),
        };
        say(format_args!(
            "{name:width$}  {:>7}  {:>8}  {:>7}  {:>6}  {:>6}  {:>9}  {:>9}  {:>8.3}  {:>8}  {flops}",
            if row.aligned { "aligned" } else { "any" },
            thousands(row.profile.launches as usize),
            ratio(global.sectors, global.requests),
            ratio(global.least_sectors, global.requests),
            ratio(global.sectors, global.least_sectors),
            ratio(shared.conflicts(), shared.requests),
            thousands(shared.conflicts() as usize),
            row.profile.moved_bytes() as f64 * 1e-6,
            ratio(row.profile.moved_bytes(), row.profile.least_bytes),
        ));
    }
    let lost = |line: &Line| line.global.sectors - line.global.least_sectors + line.shared.conflicts();
    let mut lines: Vec<_> = profiles
        .kernels
        .iter()
        .flat_map(|(name, row)| row.profile.lines.iter().map(move |line| (*name, line)))
        .collect();
    lines.retain(|(_, line)| lost(line) > 0);
    lines.sort_by_key(|(_, line)| std::cmp::Reverse(lost(line)));
    let shown = lines.len().min(most_lines);
    if shown > 0 {
        say(format_args!("\nthe worst {shown} of {} lines that lose anything", thousands(lines.len())));
        say(format_args!(
            "{:>9}  {:>7}  {:>6}  {:>9}  {:>9}  source",
            "requests", "sectors", "least", "conflicts", "lost"
        ));
    }
    for (name, line) in &lines[..shown] {
        say(format_args!(
            "{:>9}  {:>7}  {:>6}  {:>9}  {:>9}  {}, {name}",
            thousands((line.global.requests + line.shared.requests) as usize),
            ratio(line.global.sectors, line.global.requests),
            ratio(line.global.least_sectors, line.global.requests),
            ratio(line.shared.conflicts(), line.shared.requests),
            thousands(lost(line) as usize),
            line.source,
        ));
    }
    say(format_args!("{} kernels in {:.1} s", profiles.kernels.len(), profiles.time.as_secs_f64()));
}

pub fn as_json(profiles: &Profiles) -> serde_json::Value {
    let line = |line: &Line| {
        json!({
            "source": line.source,
            "global_requests": line.global.requests,
            "sectors": line.global.sectors,
            "least_sectors": line.global.least_sectors,
            "shared_requests": line.shared.requests,
            "wavefronts": line.shared.wavefronts,
            "bank_conflicts": line.shared.conflicts(),
        })
    };
    let kernels = profiles.kernels.iter().map(|(name, row)| {
        let (global, shared) = (row.profile.global(), row.profile.shared());
        json!({
            "kernel": name,
            "cases": row.cases,
            "aligned": row.aligned,
            "launches": row.profile.launches,
            "global_requests": global.requests,
            "sectors": global.sectors,
            "least_sectors": global.least_sectors,
            "shared_requests": shared.requests,
            "wavefronts": shared.wavefronts,
            "bank_conflicts": shared.conflicts(),
            "moved_bytes": row.profile.moved_bytes(),
            "least_bytes": row.profile.least_bytes,
            "flops": row.profile.flops,
            "unit": Unit::of(name).name(),
            "lines": row.profile.lines.iter().map(line).collect::<Vec<_>>(),
        })
    });
    json!({ "kernels": kernels.collect::<Vec<_>>(), "seconds": profiles.time.as_secs_f64() })
}
