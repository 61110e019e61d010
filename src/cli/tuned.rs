//! How the commands open a device: with the tuning that `zgan tune` wrote for it, or with one that `ZGAN_TUNING` names.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use clap::Args;
use zgan::Result;
use zgan::device::{Device, DeviceChoice};
use zgan::instruments::tune::file;

use super::ranks::{self, Ranks};

/// The options of a command that say where it runs.
#[derive(Args)]
pub struct Place {
    /// auto, host, cuda, cuda:N or simt
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Threads of the host, 0 for one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
}

impl Place {
    /// Opens the device with the tuning for it.
    pub fn open(&self) -> Result<Device> {
        self.open_of(None)
    }

    /// Opens what it names for one of several ranks, which must have devices of one kind.
    pub fn open_of(&self, ranks: Option<&Ranks>) -> Result<Device> {
        let choice = ranks.map_or(self.device, |ranks| ranks.device(self.device));
        let (device, _) = open(choice, self.threads)?;
        ranks.map_or(Ok(()), |ranks| ranks.devices(&device).map(drop))?;
        Ok(device)
    }
}

const VARIABLE: &str = "ZGAN_TUNING";

/// The tuning that the environment asks for.
enum Asked {
    /// It asks for nothing: the file in the user's cache folder counts, where there is one.
    Nothing,
    Off,
    File(PathBuf),
}

fn asked() -> Asked {
    match std::env::var_os(VARIABLE) {
        None => Asked::Nothing,
        Some(value) if value.is_empty() => Asked::Nothing,
        Some(value) if value == "off" => Asked::Off,
        Some(value) => Asked::File(value.into()),
    }
}

/// As [`Device::open`], with the tuning for the device. The name of the tuning's file goes to the standard error, as the
/// standard output may be read by another program.
pub fn open(choice: DeviceChoice, threads: usize) -> Result<(Device, Option<String>)> {
    let (device, why) = Device::open(choice, threads)?;
    Ok((with_tuning(device)?, why))
}

/// The same for a run that goes on. It keeps its tuning, which is in `file`, so that its numbers are those of a run that was
/// never interrupted. It does not where the environment asks for another tuning, or where it ran on another device before.
/// The last value says whether the run goes on with another tuning than it had.
pub fn reopen(choice: DeviceChoice, threads: usize, file: &Path) -> Result<(Device, Option<String>, bool)> {
    let (device, why) = Device::open(choice, threads)?;
    let built_in = device.built_in_tuning();
    // Runs of older versions of this program have no such file.
    let kept = if file.is_file() { file::read(file) } else { Ok((device.name(), built_in.clone())) };
    let had = match kept {
        Ok((of, had)) if of == device.name() && matches!(asked(), Asked::Nothing) => {
            if had != built_in {
                tell(format!("tuned: {}", file.display()));
            }
            return Ok((device.with_tuning(had)?, why, false));
        }
        Ok((_, had)) => Some(had),
        Err(error) => {
            tell(format!("not tuned as before: {error}"));
            None
        }
    };
    let device = with_tuning(device)?;
    let changed = had.is_none_or(|had| had != *device.tuning());
    Ok((device, why, changed))
}

fn with_tuning(device: Device) -> Result<Device> {
    let (path, found) = match asked() {
        Asked::Off => return Ok(device),
        Asked::File(path) => {
            let found = file::read_for(&path, &device)
                .map_err(|error| zgan::Error::Config(format!("{VARIABLE}: {error}; zgan tune makes one")));
            (path, found?)
        }
        Asked::Nothing => {
            let Some(path) = file::place(&device).filter(|path| path.is_file()) else { return Ok(device) };
            match file::read_for(&path, &device) {
                Ok(found) => (path, found),
                // The file may be older than the program, which must not keep anybody from training.
                Err(error) => {
                    tell(format!("not tuned: {error}; zgan tune makes it anew"));
                    return Ok(device);
                }
            }
        }
    };
    tell(format!("tuned: {}", path.display()));
    device.with_tuning(found)
}

/// Prints a line on the standard error, and each line only once, however many devices are opened.
fn tell(line: String) {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    if ranks::is_silent() {
        return;
    }
    let mut told = TOLD.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !told.contains(&line) {
        super::tell(false, line.clone());
        told.push(line);
    }
}
