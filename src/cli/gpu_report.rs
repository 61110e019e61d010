//! `zgan gpu-report`

use std::path::PathBuf;

use clap::Args;
use zgan::instruments::gpu_report;

use super::say;

#[derive(Args)]
pub struct GpuReport {
    /// Folders that gpu-check filled, one of each card
    #[arg(value_name = "FOLDER", required = true)]
    folders: Vec<PathBuf>,
    /// The page in Markdown; pictures go into the folder gpu beside it
    #[arg(long, value_name = "FILE", default_value = "docs/gpu.md")]
    out: PathBuf,
}

impl GpuReport {
    pub fn run(&self) -> anyhow::Result<()> {
        gpu_report::page(&self.folders)?.write(&self.out)?;
        say(format!("page    {}", self.out.display()));
        Ok(())
    }
}
