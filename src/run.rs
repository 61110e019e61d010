//! Run folders: `runs/NAME/` with `config.toml`, `tuning.toml`, `metrics.csv`, `samples/` and `checkpoints/`.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::eval::judge::Figure;
use crate::files::Staged;
use crate::gan::Metrics;
use crate::instruments::tune;
use crate::settings::{self, Settings};
use crate::{Error, Result, files, tensorboard};

const CONFIG: &str = "config.toml";
const TUNING: &str = "tuning.toml";
const METRICS: &str = "metrics.csv";
const SAMPLES: &str = "samples";
const CHECKPOINTS: &str = "checkpoints";
const BEST: &str = "best.safetensors";
const BEST_VALUE: &str = "best.toml";

/// A run that this process writes to.
pub struct Run {
    folder: PathBuf,
    /// Keeps a second process from writing to the same run.
    _lock: Option<File>,
}

impl Run {
    /// Makes a new run of these settings on this device. It is called `name`, or by the next number and `label`. Where there
    /// is a run of this name already, or what is left of one whose start was cut off, `force` replaces it.
    ///
    /// The folder is built beside its place and renamed, so that it is a whole run from the moment that it is there. A run
    /// that is replaced is emptied first, and is a run without checkpoints until it has the new settings.
    pub fn create(
        runs_dir: &Path,
        name: Option<&str>,
        label: &str,
        force: bool,
        settings: &Settings,
        device: &Device,
    ) -> Result<Run> {
        fs::create_dir_all(runs_dir).map_err(Error::io(runs_dir))?;
        let mut staged = Staged::new(runs_dir)?;
        // It stands for the run while its files are written, so that errors are those of a new run.
        let write = |folder: &Path| {
            for part in [SAMPLES, CHECKPOINTS].map(|part| folder.join(part)) {
                fs::create_dir_all(&part).map_err(Error::io(&part))?;
            }
            save_tuning(folder, device)?;
            save_settings(folder, settings)
        };
        write(staged.path())?;
        let Some(name) = name else {
            let (folder, lock) = put_numbered(runs_dir, label, &mut staged)?;
            return Ok(Run { folder, _lock: lock });
        };
        let folder = new_folder(runs_dir, name, force)?;
        match staged.put(&folder) {
            Ok(lock) => return Ok(Run { folder, _lock: lock }),
            Err(_) if folder.is_dir() => {}
            Err(error) => return Err(Error::io(&folder)(error)),
        }
        let run = Run { _lock: lock(&folder)?, folder };
        // Another process may have made it since.
        new_folder(runs_dir, name, force)?;
        run.clear()?;
        write(&run.folder)?;
        Ok(run)
    }

    /// Gives the error with which [`Run::create`] would fail, if it would. Nothing is left behind.
    pub fn check(runs_dir: &Path, name: Option<&str>, force: bool) -> Result<()> {
        if let Some(name) = name {
            new_folder(runs_dir, name, force)?;
        }
        let there = std::path::absolute(runs_dir).map_err(Error::io(runs_dir))?;
        let there = there.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        // A file without a name: a program that ends right now leaves nothing either.
        tempfile::tempfile_in(there).map(drop).map_err(Error::io(there))
    }

    /// Opens a run that exists, by its name or its folder, to go on with it.
    pub fn open(runs_dir: &Path, name: &str) -> Result<Run> {
        let folder = find(runs_dir, name)?;
        let run = Run { _lock: lock(&folder)?, folder };
        for part in [SAMPLES, CHECKPOINTS] {
            let part = run.folder.join(part);
            fs::create_dir_all(&part).map_err(Error::io(&part))?;
            remove_unfinished(&part);
        }
        remove_unfinished(&run.folder);
        Ok(run)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn save_settings(&self, settings: &Settings) -> Result<()> {
        save_settings(&self.folder, settings)
    }

    /// Saves the block sizes, as the results depend on them.
    pub fn save_tuning(&self, device: &Device) -> Result<()> {
        save_tuning(&self.folder, device)
    }

    pub fn sample_path(&self, step: u64) -> PathBuf {
        self.folder.join(SAMPLES).join(format!("step-{step:06}.png"))
    }

    pub fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.folder.join(CHECKPOINTS).join(format!("step-{step:06}.safetensors"))
    }

    /// Where the checkpoint is that was best so far. It is none of those that are thinned.
    pub fn best_path(&self) -> PathBuf {
        self.folder.join(CHECKPOINTS).join(BEST)
    }

    /// Remembers by which number that checkpoint is the best.
    pub fn save_best(&self, best: &Best) -> Result<()> {
        let text = toml::to_string(best).map_err(|error| Error::Config(error.to_string()))?;
        files::write_bytes(&self.folder.join(CHECKPOINTS).join(BEST_VALUE), text.as_bytes())
    }

    /// Removes the oldest checkpoints beyond the `keep` newest; 0 keeps all.
    pub fn thin_checkpoints(&self, keep: usize) -> Result<()> {
        let all = checkpoints(&self.folder)?;
        let surplus = if keep == 0 { 0 } else { all.len().saturating_sub(keep) };
        for (_, path) in &all[..surplus] {
            fs::remove_file(path).map_err(Error::io(path))?;
        }
        Ok(())
    }

    /// Opens `metrics.csv` to append rows. `more` names the columns that this run has besides those that every run has.
    ///
    /// A log that is as this program wrote it loses its rows after `step`, which will come again. One that somebody has
    /// changed stays as it is, and the rows go on in a fresh file beside it.
    pub fn metrics(&self, step: u64, more: &[&str]) -> Result<MetricsLog> {
        let columns: Vec<&str> = COLUMNS.iter().chain(more).chain(&[LAST_COLUMN]).copied().collect();
        let columns = columns.join(",");
        let number = newest_metrics(&self.folder);
        let mut path = numbered_metrics(&self.folder, number);
        // A pipe would be waited for.
        let is_file = |there: fs::Metadata| if there.is_file() { Ok(()) } else { Err(ErrorKind::InvalidData.into()) };
        let (rows, seconds, changed) = match fs::metadata(&path).and_then(is_file).and_then(|()| fs::read(&path)) {
            Ok(bytes) => match kept_rows(&bytes, &columns, step) {
                Some((rows, seconds)) => (rows, seconds, None),
                None => (String::new(), 0.0, Some(path.clone())),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => (String::new(), 0.0, None),
            // It may be a folder by now, or somebody else's.
            Err(_) => (String::new(), 0.0, Some(path.clone())),
        };
        if changed.is_some() {
            path = numbered_metrics(&self.folder, number + 1);
        }
        files::write_bytes(&path, format!("{columns}\n{rows}").as_bytes())?;
        let file = File::options().append(true).open(&path).map_err(Error::io(&path))?;
        Ok(MetricsLog { file, path, seconds, changed })
    }

    /// Removes what a run wrote from the folder, but for its settings, and nothing else.
    fn clear(&self) -> Result<()> {
        let remove = |path: &Path| match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path)(error)),
            _ => Ok(()),
        };
        for (part, extension) in [(CHECKPOINTS, "safetensors"), (SAMPLES, "png")] {
            for (_, path) in steps(&self.folder.join(part), extension)? {
                remove(&path)?;
            }
            remove_unfinished(&self.folder.join(part));
        }
        for best in [BEST, BEST_VALUE] {
            remove(&self.folder.join(CHECKPOINTS).join(best))?;
        }
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if is_events(&entry.file_name().to_string_lossy()) {
                remove(&entry.path())?;
            }
        }
        for number in 1..=newest_metrics(&self.folder) {
            remove(&numbered_metrics(&self.folder, number))?;
        }
        remove_unfinished(&self.folder);
        Ok(())
    }
}

fn save_settings(folder: &Path, settings: &Settings) -> Result<()> {
    files::write_bytes(&folder.join(CONFIG), settings.to_toml()?.as_bytes())
}

fn save_tuning(folder: &Path, device: &Device) -> Result<()> {
    tune::file::write(&folder.join(TUNING), device)
}

/// Removes from a run's folder, or a part of it, what a program that was killed left behind. Versions until 0.1 made their
/// checkpoints as `.tmpXXXXXX`.
fn remove_unfinished(folder: &Path) {
    files::remove_unfinished(folder, "");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.len() == 10 && name.starts_with(".tmp") && name.bytes().skip(4).all(|b| b.is_ascii_alphanumeric()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// `metrics.csv`, `metrics-2.csv` and so on.
fn numbered_metrics(folder: &Path, number: u64) -> PathBuf {
    if number < 2 { folder.join(METRICS) } else { folder.join(format!("metrics-{number}.csv")) }
}

/// The number of the last of them, of those that follow each other.
fn newest_metrics(folder: &Path) -> u64 {
    let there = |number: &u64| fs::symlink_metadata(numbered_metrics(folder, *number)).is_ok();
    (2..).take_while(there).last().unwrap_or(1)
}

/// The rows of a log up to `step`, and the seconds in the last of them. None where the log is not as [`MetricsLog`] writes it
/// and a row might be lost: other columns, something that is no number, a last line that is cut off. What comes after `step`
/// may be cut off, as a crash may have done that.
fn kept_rows(bytes: &[u8], columns: &str, step: u64) -> Option<(String, f64)> {
    if bytes.is_empty() {
        return Some((String::new(), 0.0));
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let text = text.strip_prefix(columns)?.strip_prefix('\n')?;
    let (mut kept, mut seconds, mut last, mut after) = (0, 0.0, None, false);
    for row in text.split_inclusive('\n') {
        let mut cells = row.trim_end_matches('\n').split(',');
        let whole = row.ends_with('\n') && cells.clone().count() == columns.split(',').count();
        let number = cells.next().and_then(|cell| cell.parse::<u64>().ok()).filter(|_| row.contains(','));
        after |= number.is_some_and(|number| number > step);
        if after && !whole {
            // Nothing but the beginning of a row can come last without the end of its line.
            return (!row.ends_with('\n')).then(|| (text[..kept].to_string(), seconds));
        }
        let numbers = cells.clone().all(|cell| cell.is_empty() || cell.parse::<f64>().is_ok());
        if !whole || !numbers || number <= last {
            return None;
        }
        last = number;
        if !after {
            kept += row.len();
            seconds = cells.next().and_then(|cell| cell.parse().ok()).unwrap_or(seconds);
        }
    }
    Some((text[..kept].to_string(), seconds))
}

/// The columns that every run has. Those of its own come behind them.
const COLUMNS: &[&str] = &[
    "step",
    "seconds",
    "loss_d",
    "loss_g",
    "kl_d",
    "kl_g",
    "real_logit",
    "fake_logit",
    "grad_norm_d",
    "grad_norm_g",
    "logit_spread",
];
const LAST_COLUMN: &str = "images_per_second";

/// A log's columns by their names: the steps, and the values of each column that has numbers, with the places of their rows.
pub struct Log {
    pub steps: Vec<f64>,
    /// Name, then the points (step, value).
    pub columns: Vec<(String, Vec<(f64, f64)>)>,
}

/// The newest log of a run's folder. Rows that are cut off are left out.
pub fn log(folder: &Path) -> Result<Log> {
    let path = metrics_path(folder);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let rows: Vec<Vec<&str>> =
        lines.map(|row| row.split(',').collect()).filter(|r: &Vec<_>| r.len() == names.len()).collect();
    let steps: Vec<f64> = rows.iter().map(|row| row[0].parse().unwrap_or(f64::NAN)).collect();
    let column = |(place, name): (usize, &&str)| {
        let points = rows.iter().zip(&steps).filter_map(|(row, step)| Some((*step, row[place].parse().ok()?)));
        (name.to_string(), points.filter(|(x, y)| x.is_finite() && f64::is_finite(*y)).collect())
    };
    let columns = names.iter().enumerate().skip(1).map(column);
    Ok(Log { columns: columns.filter(|(_, points): &(_, Vec<_>)| !points.is_empty()).collect(), steps })
}

/// The open `metrics.csv`.
pub struct MetricsLog {
    file: File,
    path: PathBuf,
    /// The seconds that the training took until now.
    pub seconds: f64,
    /// The log before it, which somebody has changed, and which therefore stays as it is.
    pub changed: Option<PathBuf>,
}

impl MetricsLog {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a row in a single write. `figures` are the last of the columns that [`Run::metrics`] was given.
    pub fn append(&mut self, m: &Metrics, figures: &[Option<f64>], seconds: f64, images_per_second: f64) -> Result<()> {
        // A number that the loss does not have is an empty field.
        let cell = |x: f32| if x.is_nan() { String::new() } else { x.to_string() };
        let figures = figures.iter().map(|figure| figure.map_or(f32::NAN, |figure| figure as f32));
        let cells = m.named().into_iter().map(|m| m.1).chain(m.more.iter().map(|m| m.1)).chain(figures);
        let cells: Vec<String> = cells.map(cell).collect();
        let row = format!("{},{seconds:.3},{},{images_per_second:.1}\n", m.step, cells.join(","));
        let before = self.file.metadata().map(|metadata| metadata.len());
        self.file.write_all(row.as_bytes()).map_err(|error| {
            // A full disk may have taken a part of it.
            let _ = before.and_then(|len| self.file.set_len(len));
            Error::io(&self.path)(error)
        })
    }
}

/// The folder of the run that has this name or this path.
pub fn find(runs_dir: &Path, name: &str) -> Result<PathBuf> {
    let folders = [runs_dir.join(name), PathBuf::from(name)];
    if let Some(folder) = folders.iter().find(|folder| folder.join(CONFIG).is_file()) {
        return Ok(folder.clone());
    }
    if let Some(folder) = folders.iter().find(|folder| is_half_made(folder)) {
        let shown = folder.display();
        return Err(Error::Config(format!(
            "{shown} is half made: its start was cut off; train --run NAME --force replaces it"
        )));
    }
    let all = names(runs_dir);
    let there = match settings::nearest(name, &all) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None if all.is_empty() => "there are none".to_string(),
        None => format!("there are {}", all.join(", ")),
    };
    Err(Error::Config(format!("no run is called {name} in {}; {there}", runs_dir.display())))
}

/// The names of all runs.
pub fn names(runs_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(runs_dir).into_iter().flatten().flatten();
    let runs = entries.filter(|entry| entry.path().join(CONFIG).is_file());
    let names = runs.map(|entry| entry.file_name().to_string_lossy().into_owned());
    // One that is being built is hidden.
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

pub fn config_path(folder: &Path) -> PathBuf {
    folder.join(CONFIG)
}

pub fn tuning_path(folder: &Path) -> PathBuf {
    folder.join(TUNING)
}

/// The log that rows go to; earlier ones lie beside it.
pub fn metrics_path(folder: &Path) -> PathBuf {
    numbered_metrics(folder, newest_metrics(folder))
}

/// The checkpoints of a run, from the oldest to the newest, with their steps.
pub fn checkpoints(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    steps(&folder.join(CHECKPOINTS), "safetensors")
}

/// The newest checkpoint of the run of this name or path.
pub fn newest_checkpoint(runs_dir: &Path, name: &str) -> Result<PathBuf> {
    let newest = checkpoints(&find(runs_dir, name)?)?.pop();
    newest.map(|(_, path)| path).ok_or_else(|| Error::Config(format!("run {name} has no checkpoint yet")))
}

/// The best checkpoint so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Best {
    /// What it is the best by.
    pub by: Figure,
    pub value: f64,
    pub step: u64,
}

/// The best checkpoint of a run's folder. None where there is none, or where its file cannot be read.
pub fn best(folder: &Path) -> Option<Best> {
    let folder = folder.join(CHECKPOINTS);
    let text = fs::read_to_string(folder.join(BEST_VALUE)).ok()?;
    toml::from_str(&text).ok().filter(|_| folder.join(BEST).is_file())
}

/// The best checkpoint of the run of this name or path.
pub fn best_checkpoint(runs_dir: &Path, name: &str) -> Result<PathBuf> {
    let path = find(runs_dir, name)?.join(CHECKPOINTS).join(BEST);
    let missing = || format!("run {name} has no best checkpoint; train --eval-every STEPS --keep-best fid keeps one");
    if path.is_file() { Ok(path) } else { Err(Error::Config(missing())) }
}

/// The newest of the checkpoints that lie beside this one and are older.
pub fn older_checkpoint(path: &Path) -> Option<PathBuf> {
    let beside = steps(path.parent()?, "safetensors").ok()?;
    beside.into_iter().map(|(_, other)| other).take_while(|other| other != path).last()
}

/// The pictures of a run, from the oldest to the newest, with their steps.
pub fn samples(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    steps(&folder.join(SAMPLES), "png")
}

/// The files `step-NNNNNN.extension` in a folder, by their steps.
fn steps(folder: &Path, extension: &str) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number =
            name.strip_prefix("step-").and_then(|n| n.strip_suffix(extension)).and_then(|n| n.strip_suffix('.'));
        if let Some(step) = number.and_then(|n| n.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The folder for a new run of this name, if there may be one.
fn new_folder(runs_dir: &Path, name: &str, force: bool) -> Result<PathBuf> {
    let plain = !name.starts_with(['.', '-']) && !name.contains(|c: char| matches!(c, '/' | '\\') || c.is_control());
    if !plain || name.is_empty() {
        return Err(Error::Config(format!(
            "run: {name:?} cannot be a folder's name; --runs-dir says where the folder is made"
        )));
    }
    let folder = runs_dir.join(name);
    let empty = match fs::read_dir(&folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(error) => return Err(Error::io(&folder)(error)),
    };
    let is_run = folder.join(CONFIG).is_file();
    let half_made = is_half_made(&folder);
    if empty || (force && (is_run || half_made)) {
        return Ok(folder);
    }
    let shown = folder.display();
    Err(Error::Config(if is_run {
        format!("run {name} is there already ({shown}): --resume {name} goes on with it, --force replaces it")
    } else if half_made {
        format!("run {name} is half made ({shown}): its start was cut off; --force replaces it")
    } else {
        format!("{shown} is there already, and is no run: choose another --run")
    }))
}

/// Whether a file is one of those that TensorBoard reads.
fn is_events(name: &str) -> bool {
    name.starts_with(tensorboard::START)
}

/// Whether a folder has no settings, and nothing but what a run of this program makes: its start, or its replacement, was cut
/// off.
fn is_half_made(folder: &Path) -> bool {
    let known = |name: &str| {
        [SAMPLES, CHECKPOINTS, TUNING, METRICS].contains(&name)
            || is_events(name)
            || name.strip_suffix(".unfinished").is_some()
    };
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    !names.is_empty() && names.iter().all(|name| known(name))
}

/// Puts it at `00000-label`, `00001-label` and so on, with the number after the highest one there is.
fn put_numbered(runs_dir: &Path, label: &str, staged: &mut Staged) -> Result<(PathBuf, Option<File>)> {
    let number = |name: String| name.split('-').next().and_then(|n| n.parse::<u64>().ok());
    let entries = fs::read_dir(runs_dir).map_err(Error::io(runs_dir))?;
    let highest = entries.flatten().filter_map(|e| number(e.file_name().to_string_lossy().into_owned())).max();
    let mut next = highest.map_or(0, |n| n.saturating_add(1));
    loop {
        let folder = runs_dir.join(format!("{next:05}-{label}"));
        let there = || fs::symlink_metadata(&folder).is_ok();
        if !there() {
            match staged.put(&folder) {
                Ok(lock) => return Ok((folder, lock)),
                // Another process was faster.
                Err(_) if there() => {}
                Err(error) => return Err(Error::io(&folder)(error)),
            }
        }
        next = next.checked_add(1).ok_or_else(|| Error::Config(format!("{}: --run gives a name", folder.display())))?;
    }
}

/// Locks a run's folder for this process. On a system that cannot lock folders, the run is not locked.
fn lock(folder: &Path) -> Result<Option<File>> {
    files::lock(folder).map_err(|_| Error::Config(format!("{}: another zgan is training this run", folder.display())))
}
