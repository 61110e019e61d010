//! Run folders: `runs/NAME/` with `config.toml`, `tuning.toml`, `metrics.csv`, `samples/` and `checkpoints/`.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::device::Device;
use crate::gan::Metrics;
use crate::instruments::tune;
use crate::settings::{self, Settings};
use crate::{Error, Result, files};

const CONFIG: &str = "config.toml";
const TUNING: &str = "tuning.toml";
const METRICS: &str = "metrics.csv";
const SAMPLES: &str = "samples";
const CHECKPOINTS: &str = "checkpoints";

/// A run that this process writes to.
pub struct Run {
    folder: PathBuf,
    /// Keeps a second process from writing to the same run.
    _lock: Option<File>,
}

impl Run {
    /// Makes the folder of a new run. It is called `name`, or by the next number and `label`. Where there is a run of this
    /// name already, `force` replaces it.
    pub fn create(runs_dir: &Path, name: Option<&str>, label: &str, force: bool) -> Result<Run> {
        fs::create_dir_all(runs_dir).map_err(Error::io(runs_dir))?;
        let folder = match name {
            Some(name) => {
                let folder = new_folder(runs_dir, name, force)?;
                fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
                folder
            }
            None => numbered_folder(runs_dir, label)?,
        };
        let run = Run { _lock: lock(&folder)?, folder };
        run.clear()?;
        for part in [SAMPLES, CHECKPOINTS] {
            let part = run.folder.join(part);
            fs::create_dir_all(&part).map_err(Error::io(&part))?;
        }
        Ok(run)
    }

    /// Gives the error with which [`Run::create`] would fail, if it would. Nothing is left behind.
    pub fn check(runs_dir: &Path, name: Option<&str>, force: bool) -> Result<()> {
        if let Some(name) = name {
            new_folder(runs_dir, name, force)?;
        }
        let there = std::path::absolute(runs_dir).map_err(Error::io(runs_dir))?;
        let there = there.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        let probe = there.join(format!(".zgan-{}", std::process::id()));
        fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).map_err(Error::io(there))
    }

    /// Opens a run that exists, by its name or its folder, to go on with it.
    pub fn open(runs_dir: &Path, name: &str) -> Result<Run> {
        let folder = find(runs_dir, name)?;
        let run = Run { _lock: lock(&folder)?, folder };
        for part in [SAMPLES, CHECKPOINTS] {
            let part = run.folder.join(part);
            fs::create_dir_all(&part).map_err(Error::io(&part))?;
            files::remove_unfinished(&part);
        }
        files::remove_unfinished(&run.folder);
        Ok(run)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn save_settings(&self, settings: &Settings) -> Result<()> {
        files::write_bytes(&self.folder.join(CONFIG), settings.to_toml()?.as_bytes())
    }

    /// Saves the block sizes, as the results depend on them.
    pub fn save_tuning(&self, device: &Device) -> Result<()> {
        tune::file::write(&self.folder.join(TUNING), device)
    }

    pub fn sample_path(&self, step: u64) -> PathBuf {
        self.folder.join(SAMPLES).join(format!("step-{step:06}.png"))
    }

    pub fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.folder.join(CHECKPOINTS).join(format!("step-{step:06}.safetensors"))
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

    /// Opens `metrics.csv` to append rows, and drops those after `step`. The second value is the seconds that the training
    /// took until then. `more` names the columns that this run has besides those that every run has.
    pub fn metrics(&self, step: u64, more: &[&str]) -> Result<(MetricsLog, f64)> {
        let path = self.folder.join(METRICS);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io(&path)(error)),
        };
        let columns: Vec<&str> = COLUMNS.iter().chain(more).chain(&[LAST_COLUMN]).copied().collect();
        let mut kept = format!("{}\n", columns.join(","));
        let mut seconds = 0.0;
        for row in text.lines().skip(1) {
            let fields: Vec<&str> = row.split(',').collect();
            // A crash may have cut off the last row, which then has fewer fields.
            if fields.len() != columns.len() || fields[0].parse::<u64>().map_or(true, |s| s > step) {
                break;
            }
            seconds = fields[1].parse().unwrap_or(seconds);
            kept.push_str(row);
            kept.push('\n');
        }
        files::write_bytes(&path, kept.as_bytes())?;
        let file = File::options().append(true).open(&path).map_err(Error::io(&path))?;
        Ok((MetricsLog { file, path }, seconds))
    }

    /// Removes what a run wrote from the folder, and nothing else.
    fn clear(&self) -> Result<()> {
        let remove = |path: &Path| match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path)(error)),
            _ => Ok(()),
        };
        for file in [CONFIG, TUNING, METRICS] {
            remove(&self.folder.join(file))?;
        }
        for (part, extension) in [(SAMPLES, "png"), (CHECKPOINTS, "safetensors")] {
            for (_, path) in steps(&self.folder.join(part), extension)? {
                remove(&path)?;
            }
            files::remove_unfinished(&self.folder.join(part));
        }
        Ok(())
    }
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

/// The open `metrics.csv`.
pub struct MetricsLog {
    file: File,
    path: PathBuf,
}

impl MetricsLog {
    /// Appends a row in a single write.
    pub fn append(&mut self, m: &Metrics, seconds: f64, images_per_second: f64) -> Result<()> {
        let numbers = [
            m.loss_d,
            m.loss_g,
            m.kl_d,
            m.kl_g,
            m.real_logit,
            m.fake_logit,
            m.grad_norm_d,
            m.grad_norm_g,
            m.logit_spread,
        ];
        // A number that the loss does not have is an empty field.
        let cell = |x: f32| if x.is_nan() { String::new() } else { x.to_string() };
        let cells: Vec<String> = numbers.into_iter().chain(m.more.iter().map(|m| m.1)).map(cell).collect();
        let row = format!("{},{seconds:.3},{},{images_per_second:.1}\n", m.step, cells.join(","));
        self.file.write_all(row.as_bytes()).map_err(Error::io(&self.path))
    }
}

/// The folder of the run that has this name or this path.
pub fn find(runs_dir: &Path, name: &str) -> Result<PathBuf> {
    for folder in [runs_dir.join(name), PathBuf::from(name)] {
        if folder.join(CONFIG).is_file() {
            return Ok(folder);
        }
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
    let mut names: Vec<String> = runs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub fn config_path(folder: &Path) -> PathBuf {
    folder.join(CONFIG)
}

pub fn tuning_path(folder: &Path) -> PathBuf {
    folder.join(TUNING)
}

pub fn metrics_path(folder: &Path) -> PathBuf {
    folder.join(METRICS)
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
    let plain = !name.is_empty() && !name.starts_with(['.', '-']) && !name.contains(['/', '\\', '\0']);
    if !plain {
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
    if empty || (force && is_run) {
        return Ok(folder);
    }
    let shown = folder.display();
    Err(Error::Config(if is_run {
        format!("run {name} is there already ({shown}): --resume {name} goes on with it, --force replaces it")
    } else {
        format!("{shown} is there already, and is no run: choose another --run")
    }))
}

/// Makes the folder `00000-label`, `00001-label` and so on, with the number after the highest one there is.
fn numbered_folder(runs_dir: &Path, label: &str) -> Result<PathBuf> {
    let number = |name: String| name.split('-').next().and_then(|n| n.parse::<u64>().ok());
    let entries = fs::read_dir(runs_dir).map_err(Error::io(runs_dir))?;
    let highest = entries.flatten().filter_map(|e| number(e.file_name().to_string_lossy().into_owned())).max();
    let mut next = highest.map_or(0, |n| n.saturating_add(1));
    loop {
        let folder = runs_dir.join(format!("{next:05}-{label}"));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            // Another process was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => next += 1,
            Err(error) => return Err(Error::io(&folder)(error)),
        }
    }
}

/// Locks a run's folder for this process. On a system that cannot lock folders, the run is not locked.
fn lock(folder: &Path) -> Result<Option<File>> {
    let Ok(file) = File::open(folder) else { return Ok(None) };
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => {
            Err(Error::Config(format!("{}: another zgan is training this run", folder.display())))
        }
        _ => Ok(Some(file)),
    }
}
