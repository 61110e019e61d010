//! `zgan info`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use zgan::device::{Device, embedded_images, kernel};
use zgan::eval::judge::Figure;
use zgan::exchange::file::Listed;
use zgan::sizes::product;
use zgan::{Error, checkpoint, exchange, run};

use super::{say, thousands};

#[derive(Args)]
pub struct Info {
    /// A checkpoint or another safetensors file, or a run by name or folder
    #[arg(value_name = "FILE|RUN")]
    what: Option<String>,
    /// Folder of all runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs_dir: PathBuf,
    /// Print the name of every kernel, under the file that it is in
    #[arg(long, conflicts_with = "what")]
    kernels: bool,
}

impl Info {
    pub fn run(&self) -> anyhow::Result<()> {
        match &self.what {
            None if self.kernels => tell_kernels(),
            None => self.program(),
            Some(path) if Path::new(path).is_file() => {
                let (tensors, metadata) = exchange::file::list(Path::new(path))?;
                match checkpoint::is_one(&metadata) {
                    true => tell_checkpoint(Path::new(path))?,
                    false => tell_file(&tensors, &metadata),
                }
            }
            Some(name) => tell_run(&run::find(&self.runs_dir, name)?)?,
        }
        Ok(())
    }

    fn program(&self) {
        say(format!("zgan {}", env!("CARGO_PKG_VERSION")));
        say("\ndevices");
        for ordinal in 0.. {
            match Device::cuda(ordinal) {
                Ok(device) => say(format!("  cuda:{ordinal}  {}", device.description())),
                Err(Error::NoGpu(_)) if ordinal > 0 => break,
                Err(Error::NoGpu(reason)) => {
                    say(format!("  cuda    none: {reason}"));
                    break;
                }
                Err(reason) => {
                    say(format!("  cuda    unusable: {reason}"));
                    break;
                }
            }
        }
        match Device::host(0) {
            Ok(device) => say(format!("  host    {}", device.description())),
            Err(reason) => say(format!("  host    none: {reason}")),
        }
        say(format!("          instruction sets: {} (ZGAN_ISA forces one)", Device::host_isas().join(", ")));
        say(format!("  simt    {}", Device::simt(0).description()));

        let families = families();
        let kernels: usize = families.values().map(Vec::len).sum();
        say(format!("\n{kernels} kernels in {} files (--kernels names them)", families.len()));
        let counts: Vec<_> = families.iter().map(|(file, names)| format!("{file:<16} {:>3}", names.len())).collect();
        for row in counts.chunks(4) {
            say(format!("  {}", row.join("   ")));
        }
        say("\nembedded GPU code");
        let images = embedded_images();
        if images.is_empty() {
            say("  none: kernels are compiled when a GPU is opened, which needs NVRTC");
        }
        for (target, bytes) in images {
            say(format!("  {target:<16}{} bytes", thousands(bytes)));
        }
        let runs = run::names(&self.runs_dir);
        if !runs.is_empty() {
            say(format!("\nruns in {}\n  {}", self.runs_dir.display(), runs.join(" ")));
        }
    }
}

/// The names of the kernels of all precisions, by the file of `kernels/` that they are in.
fn families() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut families: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for module in kernel::MODULES {
        families.entry(module.file).or_default().extend(module.kernels.iter().map(|kernel| kernel.name));
    }
    families
}

fn tell_kernels() {
    for (file, names) in families() {
        say(file);
        names.iter().for_each(|name| say(format!("  {name}")));
    }
}

/// A file of another program, or one that was written for others.
fn tell_file(tensors: &[Listed], metadata: &BTreeMap<String, String>) {
    let numbers = tensors.iter().map(|t| product_of(&t.shape)).fold(0, usize::saturating_add);
    say(format!("{} tensors, {} numbers; not a checkpoint of zgan", tensors.len(), thousands(numbers)));
    for (name, value) in metadata {
        say(format!("  {name:<20}{value}"));
    }
    say("\ntensors");
    let width = tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
    for Listed { name, dtype, shape } in tensors {
        say(format!("  {name:<width$}  {dtype:<4} {shape:?}"));
    }
}

fn product_of(shape: &[usize]) -> usize {
    shape.iter().fold(1, |len, side| product([len, *side]))
}

fn tell_checkpoint(path: &Path) -> anyhow::Result<()> {
    let (header, tensors) = checkpoint::load(path)?;
    say(format!("checkpoint after step {} (format {})", header.step, header.format));
    say(format!("data    {}", header.data));
    tell_classes(&header.data.classes);
    say("\nsettings");
    for (name, value) in &header.config {
        say(format!("  {name:<16}{value}"));
    }
    say("\ntensors");
    let width = tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
    for tensor in &tensors {
        say(format!("  {:<width$}  {:?}", tensor.name, tensor.shape));
    }
    let total: usize = tensors.iter().map(|t| t.values.len()).sum();
    say(format!("\n{} tensors, {} numbers", tensors.len(), thousands(total)));
    Ok(())
}

/// The names of the classes, with their numbers where the names are others.
fn tell_classes(names: &[String]) {
    const WIDTH: usize = 100;
    let numbered = names.iter().enumerate().any(|(i, name)| *name != i.to_string());
    let shown = |(i, name): (usize, &String)| if numbered { format!("{i} {name}") } else { name.clone() };
    let mut line = String::from("classes ");
    for (i, name) in names.iter().enumerate().map(shown).enumerate() {
        if line.len() > 8 && line.len() + name.len() > WIDTH {
            say(line.trim_end());
            line = " ".repeat(8);
        }
        line.push_str(&name);
        line.push_str(if i + 1 < names.len() { ", " } else { "" });
    }
    say(line);
}

/// A line of blocks, each as high as its value; of many values the last ones.
fn curve(values: &[f64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const MOST: usize = 60;
    let values = &values[values.len().saturating_sub(MOST)..];
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
    let block = |x: &f64| if high > low { (7.0 * (x - low) / (high - low)).round() as usize } else { 0 };
    values.iter().map(|x| BLOCKS[block(x).min(7)]).collect()
}

fn tell_run(folder: &Path) -> anyhow::Result<()> {
    say(format!("run {}", folder.display()));
    let metrics = std::fs::read_to_string(run::metrics_path(folder)).unwrap_or_default();
    let mut lines = metrics.lines();
    if let (Some(columns), Some(row)) = (lines.next(), lines.last()) {
        let pairs = columns.split(',').zip(row.split(','));
        let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name} {value}")).collect();
        say(format!("last    {}", pairs.join(", ")));
    }
    let columns = run::log(folder).map(|log| log.columns).unwrap_or_default();
    for (name, points) in columns.iter().filter(|(name, _)| Figure::ALL.iter().any(|figure| figure.name() == name)) {
        let values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
        let [first, .., last] = values[..] else { continue };
        say(format!("{name:<8}{}  from {first:.4} to {last:.4}", curve(&values)));
    }
    if let Some(best) = run::best(folder) {
        say(format!(
            "best    {} {:.4} after step {}; sample --best draws from it",
            best.by.name(),
            best.value,
            best.step
        ));
    }
    if let Some((_, picture)) = run::samples(folder)?.pop() {
        say(format!("picture {}", picture.display()));
    }
    match run::checkpoints(folder)?.pop() {
        Some((_, path)) => {
            say(format!("file    {}", path.display()));
            tell_checkpoint(&path)
        }
        None => {
            say("no checkpoint yet");
            Ok(())
        }
    }
}
