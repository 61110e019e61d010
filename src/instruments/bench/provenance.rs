//! Where figures come from: the machine, the program, and when.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::device::{Device, embedded_compiler};

/// The machine as it is now, the program, and the command line; docs/timing.md has the fields. Without a device, those of
/// one are left out.
pub fn provenance(device: Option<&Device>) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut all = json!({
        "date": date(now),
        "command": std::env::args().collect::<Vec<_>>(),
        "zgan": env!("CARGO_PKG_VERSION"),
        "commit": commit(),
        "nvrtc": embedded_compiler().map(version),
        "libtorch": cfg!(feature = "libtorch").then_some("2.13 (tch 0.26)"),
    });
    if let (Some(device), Some(fields)) = (device, all.as_object_mut()) {
        fields.extend(of_device(device));
    }
    all
}

/// How many processes were running or waiting for a core, as a mean over the last minute. None where the system does not tell.
pub fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

fn of_device(device: &Device) -> Map<String, Value> {
    let (gpu, name) = (device.gpu(), device.name());
    // What the driver does not tell is 0.
    let count = |n: Option<usize>| n.filter(|n| *n > 0);
    let isa = name.strip_prefix("host ");
    let asked = gpu.as_ref().and_then(|gpu| nvidia_smi(&gpu.bus)).unwrap_or_default();
    let fields = json!({
        "execution": device.execution(),
        "stand_in": name.starts_with("zgan stand-in"),
        "name": if gpu.is_some() { Some(name.clone()) } else { cpu() },
        "capability": gpu.as_ref().map(|gpu| version(gpu.capability)),
        "multiprocessors": count(gpu.as_ref().map(|gpu| gpu.multiprocessors)),
        "l2_bytes": count(gpu.as_ref().map(|gpu| gpu.l2)),
        "memory_bytes": count(gpu.as_ref().map(|gpu| gpu.memory)),
        "cuda_driver": gpu.as_ref().map(|gpu| version(gpu.cuda)),
        "driver": asked.driver,
        "clocks_mhz": asked.clocks,
        "threads": isa.map(|_| device.workers()),
        "isa": isa,
    });
    if let Value::Object(fields) = fields { fields } else { Map::new() }
}

fn version((major, minor): (i32, i32)) -> String {
    format!("{major}.{minor}")
}

/// `2026-11-23T02:57:10Z`, of the time since 1970.
pub fn date(since: Duration) -> String {
    let (mut days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{year}-{:02}-{:02}T{hours:02}:{minutes:02}:{:02}Z", month + 1, days + 1, seconds % 60)
}

/// The commit that the environment named when this was built, else that of the folder it was built from, as it is now.
fn commit() -> Option<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ask = || {
        // Else git would look in the folders above, which may be of something else.
        let there = folder.join(".git").exists().then_some(folder)?;
        said(Command::new("git").arg("-C").arg(there).args([
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ]))
    };
    option_env!("ZGAN_COMMIT").filter(|commit| !commit.is_empty()).map(String::from).or_else(ask)
}

/// What a program says, where it is there and succeeds.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
    (!text.is_empty()).then_some(text)
}

/// The CPU, as Linux names it.
fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// What nvidia-smi says of one GPU.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    /// The version of the driver, and the fields of `clocks_mhz` (docs/timing.md).
    pub driver: Option<String>,
    pub clocks: Option<Map<String, Value>>,
}

/// The fields that nvidia-smi is asked for after the place on the bus and the version of the driver, and their names here.
const CLOCKS: [(&str, &str); 4] = [
    ("clocks.current.sm", "sm"),
    ("clocks.max.sm", "sm_max"),
    ("clocks.current.memory", "memory"),
    ("clocks.max.memory", "memory_max"),
];

fn nvidia_smi(bus: &str) -> Option<Asked> {
    let clocks = CLOCKS.map(|(asked, _)| asked).join(",");
    let query = format!("--query-gpu=pci.bus_id,driver_version,{clocks}");
    let said = said(Command::new("nvidia-smi").args([query.as_str(), "--format=csv,noheader,nounits"]))?;
    read(&said, bus)
}

/// The line of the GPU at this place. In some virtual machines nvidia-smi sees another place than the driver: the only GPU
/// that there is must be the one.
pub fn read(said: &str, bus: &str) -> Option<Asked> {
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split(',').map(str::trim).collect()).collect();
    let own = lines.iter().find(|fields| fields[0].eq_ignore_ascii_case(bus));
    let fields = own.or(if let [only] = &lines[..] { Some(only) } else { None })?;
    // `[N/A]` where the card does not tell.
    let megahertz = |at: usize| fields.get(2 + at).and_then(|text| text.parse::<u32>().ok());
    let clocks = CLOCKS.iter().enumerate().map(|(at, (_, name))| (name.to_string(), megahertz(at).into()));
    Some(Asked { driver: fields.get(1).map(|text| text.to_string()), clocks: Some(clocks.collect()) })
}
