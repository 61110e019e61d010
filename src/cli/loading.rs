//! `zgan bench data`: the images a second that the loader delivers from pictures, beside what a training step takes.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use zgan::data::{DataOptions, DataSource, Dataset, ImageShape, LastBatch, Loader, LoaderOptions, Split};
use zgan::instruments::bench::{self, Scale, Settings};
use zgan::instruments::record::{self, number};
use zgan::picture::Picture;
use zgan::settings::Preset;
use zgan::{Error, settings};

use super::bench::Bench;
use super::say;

/// What is timed where nobody names one.
const PRESET: &str = "photos-64";

pub fn run(asked: &Bench, timing: Settings) -> anyhow::Result<()> {
    let device = asked.place.open()?;
    let presets = if asked.preset.is_empty() { vec![PRESET.parse::<Preset>()?] } else { asked.preset.clone() };
    let steps = bench::steps_of(&asked.selection(presets, Scale::of(&device)), asked.precision[0]);
    if let Some(step) = steps.iter().find(|step| step.setup.draws_points()) {
        return Err(
            Error::Config(format!("--preset {}: it draws points, and loads no images", step.setup.preset)).into()
        );
    }
    let made = tempfile::tempdir()?;
    let (source, what) = match &asked.data {
        Some(source @ DataSource::Folder(_)) => (source.clone(), source.to_string()),
        Some(other) => {
            return Err(
                Error::Config(format!("--data {other}: only pictures, of folder:DIR, are decoded and packed")).into()
            );
        }
        None => {
            let (count, side) = if asked.timing.tiny { (8, 40) } else { (256, 256) };
            make(made.path(), count, side)?;
            (DataSource::Folder(made.path().into()), format!("{count} PNG pictures of {side}x{side}, made for this"))
        }
    };
    if !asked.json {
        say(format!("{what}; steps on {}", device.description()));
        say(format!("{:<70}{:>12}{:>12}{:>12}", "images a second", "decoded", "packed", "step takes"));
    }
    let mut rows = Vec::new();
    for step in &steps {
        let ImageShape { channels, .. } = step.setup.shape;
        let options = DataOptions {
            size: step.setup.shape.size(),
            channels,
            memory: 0,
            pack: false,
            ..settings::Settings {
                place: settings::Place { threads: asked.place.threads, ..Default::default() },
                ..Default::default()
            }
            .data_options()
        };
        let batch = step.setup.training.batch;
        let decoded = delivered(&source.open(Split::Train, &options)?, batch, timing.time)?;
        let data = source.open(Split::Train, &DataOptions { pack: true, ..options })?;
        data.pack(&|_| ())?;
        let packed = data.packed().map(|_| delivered(&data, batch, timing.time)).transpose()?;
        let needed = (batch * step.setup.training.n_dis) as f64 / bench::measure_step(&device, step, timing)?.seconds;
        if !asked.json {
            let packed = packed.map_or("-".to_string(), |rate| format!("{rate:.0}"));
            say(format!("{:<70}{decoded:>12.0}{packed:>12}{needed:>12.0}", step.name));
        }
        rows.push(vec![
            ("step", record::Cell::Text(step.name.clone())),
            ("decoded_per_s", number(decoded, 1)),
            ("packed_per_s", record::Cell::Number(packed, 1)),
            ("needed_per_s", number(needed, 1)),
        ]);
    }
    if asked.json {
        let rows: Vec<_> = rows.iter().map(|row| record::json(row)).collect();
        let object = json!({ "pictures": what, "provenance": bench::provenance(Some(&device)), "steps": rows });
        say(serde_json::to_string_pretty(&object)?);
    }
    Ok(asked.write_csv(&[("data", record::csv(&rows))], &bench::provenance(Some(&device)))?)
}

/// The images a second of batches that nobody trains on.
fn delivered(data: &Dataset, batch: usize, time: Duration) -> Result<f64, Error> {
    let batch = batch.min(data.len());
    let options = LoaderOptions { batch, seed: 1, share: 1.0, last: LastBatch::Fill };
    let mut loader = Loader::new(data, options)?;
    let (mut images, mut labels) = (vec![0; batch * data.shape().len()], vec![0; batch]);
    loader.fill(0, &mut images, &mut labels)?;
    let begun = Instant::now();
    let mut number = 0;
    // What was decoded ahead before the clock began is none of it.
    while number < 4 || begun.elapsed() < time {
        number += 1;
        loader.fill(number, &mut images, &mut labels)?;
    }
    Ok(number as f64 * batch as f64 / begun.elapsed().as_secs_f64())
}

/// Pictures of waves, with a little noise as cameras have it.
fn make(folder: &Path, count: usize, side: usize) -> anyhow::Result<()> {
    let shape = ImageShape { height: side, width: side, channels: 3 };
    for number in 0..count {
        let mut state = number as u32;
        let pixel = |at: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (y, x, c) = (at / (3 * side), at / 3 % side, at % 3);
            let wave = ((x * (number + 1) + y * (c + 3)) as f32 / side as f32).sin();
            (120.0 + 100.0 * wave + (state >> 28) as f32) as u8
        };
        let pixels = (0..shape.len()).map(pixel).collect();
        Picture { shape, pixels }.save(&folder.join(format!("{number:03}.png")))?;
    }
    Ok(())
}
