//! A page of what `scripts/gpu-check` found, one section a card, from the folders that it filled.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::bench::{self, Card, Scale, Selection};
use crate::{Error, Result, files};

/// Pictures in a folder: the file, and what it shows.
const PICTURES: [(&str, &str); 2] = [("f32.png", "f32"), ("bf16.png", "bf16")];

/// What one folder holds.
struct Checked {
    card: String,
    /// The first line of the report: program, card, date, seconds.
    title: String,
    stand_in: bool,
    parts: Vec<Part>,
    /// The objects of `zgan bench --json` and `benches/pytorch.py --json`; null where the part did not come to them.
    bench: Value,
    pytorch: Value,
    folder: PathBuf,
}

/// A line of the report's table.
struct Part {
    name: String,
    result: String,
    said: String,
}

/// The page, and the pictures that belong beside it: where each lies, and its name below the page's folder.
pub struct Page {
    pub text: String,
    pub pictures: Vec<(PathBuf, String)>,
}

/// Makes the page. A folder without a report, and two folders of one card, are errors.
pub fn page(folders: &[PathBuf]) -> Result<Page> {
    let mut checked: Vec<Checked> = folders.iter().map(|folder| Checked::read(folder)).collect::<Result<_>>()?;
    checked.sort_by(|a, b| a.card.cmp(&b.card));
    if let Some(pair) = checked.windows(2).find(|pair| pair[0].card == pair[1].card) {
        let [a, b] = [&pair[0], &pair[1]].map(|checked| checked.folder.display());
        return Err(Error::Config(format!("{a} and {b} are both of {}: name one of them", pair[0].card)));
    }
    let mut text = String::from(
        "# On GPUs\n\n\
         What `gpu-check` found, on one card after the other. [First steps on a GPU](first-gpu.md) says how to run it, and \
         where to send what it fills.\n\n",
    );
    text += &table(&["card", "passed", "failed", "left out"], checked.iter().map(Checked::summary));
    let mut pictures = Vec::new();
    for checked in &checked {
        text += &checked.section(&mut pictures)?;
    }
    Ok(Page { text, pictures })
}

impl Page {
    /// Writes the page to `out`, and its pictures beside it.
    pub fn write(&self, out: &Path) -> Result<()> {
        let beside = out.parent().unwrap_or(out);
        for (picture, name) in &self.pictures {
            let to = beside.join(name);
            let folder = to.parent().unwrap_or(beside);
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
            let bytes = fs::read(picture).map_err(Error::io(picture))?;
            files::write_bytes(&to, &bytes)?;
        }
        files::write_bytes(out, self.text.as_bytes())
    }
}

/// A table in Markdown.
fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let heads = line(heads.iter().map(|head| head.to_string()).collect()) + &"|---".repeat(heads.len()) + "|\n";
    rows.fold(heads, |text, row| text + &line(row.iter().map(|cell| cell.replace('|', "\\|")).collect()))
}

/// A number of a table, or a dash.
fn shown(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") })
}

impl Checked {
    fn read(folder: &Path) -> Result<Checked> {
        let path = folder.join("report.txt");
        let fail = |what: String| Error::Config(format!("{}: {what}", path.display()));
        let report = fs::read_to_string(&path).map_err(|e| fail(format!("{e}; gpu-check fills such a folder")))?;
        let title = report.lines().next().unwrap_or_default().to_string();
        let named = title.strip_prefix("gpu-check of ").and_then(|rest| rest.split_once(" on ")?.1.split_once(", "));
        let Some((card, _)) = named else {
            return Err(fail(format!("not a report of gpu-check: its first line is {title:?}")));
        };
        let parts: Vec<Part> =
            report.lines().take_while(|line| !line.starts_with("===")).filter_map(Part::read).collect();
        if parts.is_empty() {
            return Err(fail("no part of gpu-check has a line in it".into()));
        }
        Ok(Checked {
            card: card.to_string(),
            stand_in: report.lines().nth(1).is_some_and(|line| line.contains("STAND-IN")),
            parts,
            bench: json(&folder.join("bench.json"))?,
            pytorch: json(&folder.join("pytorch.json"))?,
            folder: folder.to_path_buf(),
            title,
        })
    }

    fn summary(&self) -> Vec<String> {
        let names = |result: &str| {
            let names: Vec<_> = self.parts.iter().filter(|p| p.result == result).map(|p| p.name.as_str()).collect();
            if names.is_empty() { "-".to_string() } else { names.join(", ") }
        };
        vec![format!("[{}](#{})", self.card, anchor(&self.card)), names("passed"), names("FAILED"), names("-")]
    }

    fn section(&self, pictures: &mut Vec<(PathBuf, String)>) -> Result<String> {
        let mut text = format!("\n## {}\n\n{}.\n", self.card, self.title);
        if self.stand_in {
            text += "\n**This device is a stand-in, not a GPU: its figures say nothing of one.**\n";
        }
        let from = &self.bench["provenance"];
        let of = |field: &Value| match field {
            Value::Null => "unknown".to_string(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if !from.is_null() {
            let clocks = &from["clocks_mhz"];
            text += &format!(
                "\nDriver {}, CUDA {}, kernels by NVRTC {}; {} multiprocessors at {} of {} MHz, memory at {} of {} MHz; commit {}.\n",
                of(&from["driver"]),
                of(&from["cuda_driver"]),
                of(&from["nvrtc"]),
                of(&from["multiprocessors"]),
                of(&clocks["sm"]),
                of(&clocks["sm_max"]),
                of(&clocks["memory"]),
                of(&clocks["memory_max"]),
                of(&from["commit"]),
            );
        }
        text.push('\n');
        let parts = self.parts.iter().map(|part| vec![part.name.clone(), part.result.clone(), part.said.clone()]);
        text += &table(&["part", "", "what it says"], parts);
        text += &self.steps()?;
        for (file, what) in PICTURES {
            let path = self.folder.join(file);
            if path.is_file() {
                let name = format!("gpu/{}-{file}", anchor(&self.card));
                text += &format!("\n![Digits that this card drew after a training in {what}]({name})\n");
                pictures.push((path, name));
            }
        }
        Ok(text)
    }

    /// The times of steps, beside PyTorch's and the least that the card's published rates allow.
    fn steps(&self) -> Result<String> {
        let Some(steps) = self.bench["steps"].as_array() else { return Ok(String::new()) };
        let card = self.bench["provenance"]["name"].as_str().and_then(Card::called);
        let none = Vec::new();
        let theirs = self.pytorch["steps"].as_array().unwrap_or(&none);
        let mut rows = Vec::new();
        for step in steps {
            let name = step["step"].as_str().unwrap_or_default();
            let Some(ours) = step["median_ms"].as_f64() else {
                let error = step["error"].as_str().unwrap_or("no figure");
                rows.push([&[name.to_string(), error.to_string()], &vec!["-".to_string(); 6][..]].concat());
                continue;
            };
            let form = |form: &str| {
                let found = theirs.iter().find(|their| their["step"] == step["step"] && their["form"] == form);
                found.and_then(|their| their["median_ms"].as_f64())
            };
            let forms = ["eager", "graph", "compile"].map(form);
            let best = forms.iter().flatten().copied().reduce(f64::min);
            let mut row = vec![name.to_string(), shown(Some(ours)), shown(step["launched_ms"].as_f64())];
            row.extend(forms.map(shown));
            row.push(shown(best.map(|best| ours / best)));
            row.push(shown(card.and_then(|card| least(card, step)).map(|least| ours / least)));
            rows.push(row);
        }
        let heads = ["ms", "graph", "launched", "PyTorch eager", "graph", "compile", "ours / its best", "ours / least"];
        let mut text = format!("\n{}", table(&heads, rows.into_iter()));
        if let Some(card) = card {
            text += &format!(
                "\nThe last column compares with the least time that the published rates of an {} allow (`zgan bench --model`): \
                 the memory that each kernel touches, its multiplications, and the time between kernels.\n",
                card.title
            );
        }
        if self.pytorch.is_null() {
            text += "\nPyTorch was not timed there.\n";
        }
        Ok(text)
    }
}

/// The least milliseconds of the step that a record of `zgan bench --json` names, as one graph.
fn least(card: &Card, step: &Value) -> Option<f64> {
    let size = |field: &str| step[field].as_u64().map(|n| n as usize);
    let selection = Selection {
        presets: vec![step["preset"].as_str()?.parse().ok()?],
        scale: Scale::Real,
        width: size("width"),
        batch: size("batch"),
    };
    let precision = step["precision"].as_str()?.parse().ok()?;
    let problem = bench::steps_of(&selection, precision).into_iter().find(|problem| step["step"] == problem.name)?;
    let modelled = bench::model_step(card, &problem).ok()?;
    modelled.iter().find(|modelled| modelled.form == "graph").map(|modelled| modelled.total.least * 1e3)
}

/// As a heading's anchor, and as a part of a file's name.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

impl Part {
    /// `operations   passed   756 tests ...`
    fn read(line: &str) -> Option<Part> {
        let (name, rest) = line.split_once(' ')?;
        let (result, said) = rest.trim_start().split_once(' ')?;
        let known = ["passed", "FAILED", "-"].contains(&result);
        known.then(|| Part { name: name.into(), result: result.into(), said: said.trim().into() })
    }
}

/// The object in this file. Null where there is no such file, or an empty one: its part of gpu-check ended before.
fn json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).map_err(|e| Error::Config(format!("{}: not JSON: {e}", path.display())))
}
