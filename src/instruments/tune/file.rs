//! The file of a tuning: TOML, with the name of the device that it was measured on.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::device::{Convolution, Device, FIELDS, Precision, TileCost, Tuning};
use crate::{Error, Result, files};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The text of a file with the tuning in force on this device.
pub fn text(device: &Device) -> String {
    let tuning = device.tuning();
    let mut text = format!(
        "# Block sizes, split counts and tiles for {}.\n# zgan tune measures them; ZGAN_TUNING=FILE uses a file like this \
         one, ZGAN_TUNING=off none.\n\nzgan = {}\ndevice = {}\n\n",
        device.description(),
        toml::Value::from(VERSION),
        toml::Value::from(device.name()),
    );
    for field in &FIELDS {
        let _ = writeln!(text, "{} = {}", field.name, (field.get)(tuning));
    }
    text.push_str("\n# What a tile costs beside what its size lets expect; one that is not listed is not used.\n");
    for (name, tiles) in [("linear-tiles", &tuning.linear_tiles), ("conv-tiles", &tuning.conv_tiles)] {
        let _ = writeln!(text, "[{name}]");
        for tile in tiles {
            // A cost of 1 was not measured.
            let told = |(precision, cost): &(&Precision, f64)| **precision == Precision::F32 || *cost != 1.0;
            let costs = Precision::ALL.iter().zip(tile.cost).filter(told);
            let costs: Vec<String> = costs.map(|(precision, cost)| format!("{precision} = {cost:?}")).collect();
            let _ = writeln!(text, "{} = {{ {} }}", tile.name(), costs.join(", "));
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len() + 1);
    text
}

/// Writes the file; it is then either whole or not there.
pub fn write(path: &Path, device: &Device) -> Result<()> {
    files::write_bytes(path, text(device).as_bytes())
}

/// Where the tuning of a device is kept: `$XDG_CACHE_HOME/zgan/tuning/NAME.toml`, or the same below `~/.cache`.
pub fn place(device: &Device) -> Option<PathBuf> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = device.name().chars().map(plain).collect();
    Some(files::users_cache()?.join("tuning").join(format!("{name}.toml")))
}

/// Reads the name of the device and the tuning from a file.
pub fn read(path: &Path) -> Result<(String, Tuning)> {
    let text = crate::files::read_text(path)?;
    parse(&text).map_err(|what| Error::Config(format!("{}: {what}", path.display())))
}

/// Reads the tuning from a file, which must be for this device.
pub fn read_for(path: &Path, device: &Device) -> Result<Tuning> {
    let (of, tuning) = read(path)?;
    if of != device.name() {
        let what = format!("it is for device {of:?}, this one is {:?}", device.name());
        return Err(Error::Config(format!("{}: {what}", path.display())));
    }
    Ok(tuning)
}

/// The name of the device and the tuning in this text. An error names the key, its value and what was expected.
pub fn parse(text: &str) -> std::result::Result<(String, Tuning), String> {
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string().trim().to_string())?;
    let version = take_text(&mut table, "zgan")?;
    fields(table).map_err(|what| match version == VERSION {
        true => what,
        false => format!("{what} (it was written by zgan {version}, this is {VERSION})"),
    })
}

fn take_text(table: &mut toml::Table, key: &str) -> std::result::Result<String, String> {
    match table.remove(key) {
        Some(toml::Value::String(text)) => Ok(text),
        Some(value) => Err(format!("{key}: {value}, expected a text")),
        None => Err(format!("{key} is missing, expected a text")),
    }
}

fn fields(mut table: toml::Table) -> std::result::Result<(String, Tuning), String> {
    let device = take_text(&mut table, "device")?;
    let mut tuning = Tuning {
        elements: 0,
        logits: 0,
        logit_blocks: 0,
        reduce_blocks: 0,
        rows: 0,
        split_blocks: 0,
        split_pixels: 0,
        // Files from before there was this field have it as it is built in.
        winograd_tiles: 32,
        linear_tiles: tiles(&mut table, "linear-tiles")?,
        conv_tiles: tiles(&mut table, "conv-tiles")?,
        forced_tile: None,
        convolution: Convolution::Auto,
    };
    for field in &FIELDS {
        let expected = format!("expected a power of two from {} to {}", field.least, field.most);
        let value = match table.remove(field.name) {
            Some(value) => value,
            None if (field.get)(&tuning) > 0 => continue,
            None => return Err(format!("{} is missing, {expected}", field.name)),
        };
        let number = value.as_integer().and_then(|number| usize::try_from(number).ok());
        (field.set)(&mut tuning, number.ok_or_else(|| format!("{}: {value}, {expected}", field.name))?);
    }
    if let Some((key, value)) = table.iter().next() {
        let there: Vec<&str> = super::fields();
        return Err(format!("{key}: {value}, expected no such key; there are zgan, device, {}", there.join(", ")));
    }
    tuning.check().map_err(|error| error.to_string())?;
    Ok((device, tuning))
}

fn tiles(table: &mut toml::Table, name: &str) -> std::result::Result<Vec<TileCost>, String> {
    let rows = match table.remove(name) {
        Some(toml::Value::Table(rows)) => rows,
        Some(value) => return Err(format!("{name}: {value}, expected a table of tiles")),
        None => return Err(format!("{name} is missing, expected a table of tiles")),
    };
    let tile = |(key, value): (String, toml::Value)| {
        let what = |expected: &str| format!("{name}: {key} = {value}, expected {expected}");
        let size = key.split_once('x').and_then(|(rows, columns)| Some((rows.parse().ok()?, columns.parse().ok()?)));
        let (rows, columns) = size.ok_or_else(|| what("a tile's name, like 128x64"))?;
        let costs = value.as_table().ok_or_else(|| what("its costs, like { f32 = 1.0 }"))?;
        let mut cost = [1.0; 4];
        for (precision, value) in costs {
            let i = Precision::ALL.iter().position(|p| p.name() == precision);
            let i = i.ok_or_else(|| what("costs in f32, tf32, bf16 and f16"))?;
            let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
            cost[i] = number.ok_or_else(|| what("numbers as costs"))?;
        }
        Ok(TileCost { rows, columns, cost })
    };
    let mut tiles: Vec<TileCost> = rows.into_iter().map(tile).collect::<std::result::Result<_, String>>()?;
    // This is the order of the built-in tables, so that equal tables compare as equal.
    tiles.sort_by_key(|tile| std::cmp::Reverse((tile.rows * tile.columns, tile.rows)));
    Ok(tiles)
}
