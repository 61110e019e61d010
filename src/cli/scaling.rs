//! `zgan bench --scaling`

use zgan::device::DeviceChoice;
use zgan::instruments::bench::{Settings, Timed, exponent, sweeps};

use super::bench::Bench;
use super::{say, tuned};

/// A sweep's points: thread count, size, forms.
type Points = Vec<(usize, usize, Vec<Timed>)>;

pub fn run(bench: &Bench, settings: Settings) -> anyhow::Result<()> {
    let for_people = !bench.json && !bench.csv;
    let (host, _) = tuned::open(bench.device, bench.threads)?;
    let threads = if host.execution() == "host" { thread_counts(bench.threads) } else { vec![0] };
    let mut sweeps = sweeps(bench.tiny)?;
    sweeps.retain(|sweep| bench.filter.as_ref().is_none_or(|text| sweep.name.contains(text.as_str())));
    if sweeps.is_empty() {
        let filter = bench.filter.as_deref().unwrap_or_default();
        return Err(zgan::Error::Config(format!("no sweep of --scaling is called {filter:?}")).into());
    }
    let mut all = Vec::new();
    if bench.csv {
        say("sweep,axis,size,threads,form,median_ms,spread");
    }
    for sweep in &sweeps {
        let axis = sweep.axis.name();
        let mut points = Points::new();
        for &threads in &threads {
            let choice = if threads > 0 { DeviceChoice::Host } else { bench.device };
            let (device, _) = tuned::open(choice, threads)?;
            if for_people {
                say(format!("{}: {}, ms a step", sweep.name, device.description()));
            }
            for &size in &sweep.sizes {
                let forms = sweep.measure(&device, size, settings)?;
                if for_people {
                    say(line(axis, size, &forms));
                }
                if bench.csv {
                    for Timed { form, seconds, spread } in &forms {
                        let (name, ms) = (&sweep.name, seconds * 1e3);
                        say(format!("\"{name}\",{axis},{size},{threads},{form},{ms:.5},{spread:.4}"));
                    }
                }
                points.push((threads, size, forms));
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
        say(serde_json::to_string_pretty(&serde_json::json!({ "device": host.description(), "sweeps": all }))?);
    }
    Ok(())
}

/// 1, 2, 4 and so on up to all cores, or up to what was asked for.
fn thread_counts(asked: usize) -> Vec<usize> {
    let all = if asked > 0 { asked } else { std::thread::available_parallelism().map_or(1, |n| n.get()) };
    let mut counts: Vec<usize> = (0..).map(|i| 1 << i).take_while(|&n| n < all).collect();
    counts.push(all);
    counts
}

fn line(axis: &str, size: usize, forms: &[Timed]) -> String {
    let times: Vec<String> =
        forms.iter().map(|f| format!("{} {:>9.2} ± {:>2.0} %", f.form, f.seconds * 1e3, 100.0 * f.spread)).collect();
    let ratio = match forms {
        [ours, theirs] => format!("   {:.2} times", theirs.seconds / ours.seconds),
        _ => String::new(),
    };
    format!("  {axis} {size:>4}   {}{ratio}", times.join("   "))
}

/// Each form's exponent in the size, at this number of threads.
fn fits(points: &Points, threads: usize) -> Vec<(&'static str, f64)> {
    by_form(points, |(n, size, _)| (*n == threads).then_some(*size as f64), |_| 0.0)
}

/// Each form's exponent in the number of threads: every size's times relative to its mean, in logarithms.
fn thread_fits(points: &Points) -> Vec<(&'static str, f64)> {
    by_form(points, |(n, ..)| Some(*n as f64), |size| size as f64)
}

/// Fits the times of each form against `x` of a point, where it has one. Points of one `group` are first brought to a
/// geometric mean of 1.
fn by_form(
    points: &Points,
    x: impl Fn(&(usize, usize, Vec<Timed>)) -> Option<f64>,
    group: impl Fn(usize) -> f64,
) -> Vec<(&'static str, f64)> {
    let Some((_, _, first)) = points.first() else { return Vec::new() };
    let fit = |form: &'static str| {
        let found: Vec<(f64, f64, f64)> = points
            .iter()
            .filter_map(|point| {
                let seconds = point.2.iter().find(|timed| timed.form == form)?.seconds;
                Some((group(point.1), x(point)?, seconds))
            })
            .collect();
        let relative: Vec<(f64, f64)> = found
            .iter()
            .map(|&(of, x, seconds)| {
                let same: Vec<f64> = found.iter().filter(|p| p.0 == of).map(|p| p.2.ln()).collect();
                (x, seconds / (same.iter().sum::<f64>() / same.len() as f64).exp())
            })
            .collect();
        Some((form, exponent(&relative)?))
    };
    first.iter().filter_map(|timed| fit(timed.form)).collect()
}

fn json(name: &str, axis: &str, points: &Points, threads: &[usize]) -> serde_json::Value {
    let fit = |(form, exponent): (&'static str, f64)| serde_json::json!({ "form": form, "exponent": exponent });
    let times = points.iter().flat_map(|(threads, size, forms)| {
        forms.iter().map(move |f| {
            serde_json::json!({
                "threads": threads, "size": size, "form": f.form, "median_ms": f.seconds * 1e3, "spread": f.spread,
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
