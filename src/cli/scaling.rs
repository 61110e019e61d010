//! `zgan bench --scaling`

use zgan::cores::threads;
use zgan::device::DeviceChoice;
use zgan::instruments::bench::{MeasuredRival, Settings, exponent, provenance, scalings};

use super::bench::Bench;
use super::{say, tuned};

/// The times of a step of one size on so many threads, in each of its forms.
struct Point {
    threads: usize,
    size: usize,
    forms: Vec<MeasuredRival>,
}

impl Point {
    fn seconds(&self, form: &str) -> Option<f64> {
        self.forms.iter().find(|timed| timed.name == form).map(|timed| timed.seconds)
    }
}

pub fn run(bench: &Bench, settings: Settings) -> anyhow::Result<()> {
    let for_people = !bench.json;
    let host = bench.place.open()?;
    let threads = if host.execution() == "host" { thread_counts(bench.place.threads) } else { vec![0] };
    let sweeps = bench.select(scalings(bench.timing.tiny)?, |sweep| sweep.name.clone())?;
    let mut all = Vec::new();
    let mut csv = "sweep,axis,size,threads,form,median_ms,spread\n".to_string();
    for sweep in &sweeps {
        let axis = sweep.axis;
        let mut points = Vec::new();
        for &threads in &threads {
            let choice = if threads > 0 { DeviceChoice::Host } else { bench.place.device };
            let (device, _) = tuned::open(choice, threads)?;
            if for_people {
                say(format!("{}: {}, ms a step", sweep.name, device.description()));
            }
            for &size in &sweep.sizes {
                let forms = sweep.measure(&device, size, settings)?;
                if for_people {
                    say(line(axis, size, &forms));
                }
                for MeasuredRival { name: form, seconds, spread } in &forms {
                    let (name, ms) = (&sweep.name, seconds * 1e3);
                    csv += &format!("\"{name}\",{axis},{size},{threads},{form},{ms:.5},{spread:.4}\n");
                }
                points.push(Point { threads, size, forms });
            }
            if for_people {
                let fits = fits(&points, threads);
                let fits: Vec<String> = fits.iter().map(|(form, b)| format!("{form} as {axis}^{b:.2}")).collect();
                say(format!("  grows: {}", fits.join(", ")));
            }
        }
        if for_people && threads.len() > 1 {
            let fits = thread_fits(&points);
            let fits: Vec<String> = fits.iter().map(|(form, b)| format!("{form} as threads^{b:.2}")).collect();
            say(format!("  over all sizes: {}", fits.join(", ")));
        }
        all.push(json(sweep.name.as_str(), axis, &points, &threads));
    }
    if bench.json {
        say(serde_json::to_string_pretty(&serde_json::json!({
            "device": host.description(),
            "provenance": provenance(Some(&host)),
            "sweeps": all,
        }))?);
    }
    Ok(bench.write_csv(&[("scaling", csv)], &provenance(Some(&host)))?)
}

/// 1, 2, 4 and so on, up to the number that was asked for or to all cores.
fn thread_counts(asked: usize) -> Vec<usize> {
    let all = threads(asked);
    let mut counts: Vec<usize> = (0..).map(|i| 1 << i).take_while(|&n| n < all).collect();
    counts.push(all);
    counts
}

fn line(axis: &str, size: usize, forms: &[MeasuredRival]) -> String {
    let times: Vec<String> =
        forms.iter().map(|f| format!("{} {:>9.2} ± {:>2.0} %", f.name, f.seconds * 1e3, 100.0 * f.spread)).collect();
    let ratio = match forms {
        [ours, theirs] => format!("   {:.2} times", theirs.seconds / ours.seconds),
        _ => String::new(),
    };
    format!("  {axis} {size:>4}   {}{ratio}", times.join("   "))
}

/// Each form's exponent in the size, at this number of threads.
fn fits(points: &[Point], threads: usize) -> Vec<(&'static str, f64)> {
    by_form(points, |form| {
        let own = points.iter().filter(|point| point.threads == threads);
        own.filter_map(|point| Some((point.size as f64, point.seconds(form)?))).collect()
    })
}

/// Each form's exponent in the number of threads, over all sizes: the times of each size are first divided by their
/// geometric mean.
fn thread_fits(points: &[Point]) -> Vec<(&'static str, f64)> {
    by_form(points, |form| {
        let relative = |point: &Point| {
            let same = points.iter().filter(|other| other.size == point.size);
            let logs: Vec<f64> = same.filter_map(|other| Some(other.seconds(form)?.ln())).collect();
            let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
            Some((point.threads as f64, point.seconds(form)? / mean))
        };
        points.iter().filter_map(relative).collect()
    })
}

/// The exponent that fits the pairs of each form, where there is one.
fn by_form(points: &[Point], pairs: impl Fn(&str) -> Vec<(f64, f64)>) -> Vec<(&'static str, f64)> {
    let forms = points.first().into_iter().flat_map(|point| &point.forms);
    forms.filter_map(|form| Some((form.name, exponent(&pairs(form.name))?))).collect()
}

fn json(name: &str, axis: &str, points: &[Point], threads: &[usize]) -> serde_json::Value {
    let fit = |(form, exponent): (&'static str, f64)| serde_json::json!({ "form": form, "exponent": exponent });
    let times = points.iter().flat_map(|Point { threads, size, forms }| {
        forms.iter().map(move |f| {
            serde_json::json!({
                "threads": threads, "size": size, "form": f.name, "median_ms": f.seconds * 1e3, "spread": f.spread,
            })
        })
    });
    let in_size: Vec<_> = threads
        .iter()
        .map(|&n| serde_json::json!({ "threads": n, "fits": fits(points, n).into_iter().map(fit).collect::<Vec<_>>() }))
        .collect();
    serde_json::json!({
        "sweep": name,
        "axis": axis,
        "points": times.collect::<Vec<_>>(),
        "exponents": in_size,
        "in_threads": thread_fits(points).into_iter().map(fit).collect::<Vec<_>>(),
    })
}
