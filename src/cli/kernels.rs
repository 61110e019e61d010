//! `zgan kernels`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use zgan::Error;
use zgan::device::{embedded_compiler, kernel_source};
use zgan::instruments::gate::{self, Budget, Count, Disassembler, KernelCode};

use super::{loops, say};

#[derive(Args)]
pub struct Kernels {
    /// Only kernels whose name, or whose file's name, contains this
    #[arg(value_name = "FILTER", default_value = "", hide_default_value = true)]
    filter: String,
    /// Only this generation of GPUs [default for --sass: sm_80]
    #[arg(long, value_name = "sm_XX")]
    arch: Option<String>,
    /// Print as JSON, for other programs
    #[arg(long)]
    json: bool,
    /// Print a kernel as CUDA C++ that needs nothing else: its file, with what it includes, without the file's other kernels
    #[arg(long, value_name = "NAME", conflicts_with_all = ["filter", "arch", "json", "ptx", "sass", "check"])]
    source: Option<String>,
    /// Print the PTX of a kernel
    #[arg(long, value_name = "NAME", conflicts_with_all = ["filter", "arch", "json"])]
    ptx: Option<String>,
    /// Print the machine code of a kernel, or of all kernels of a file
    #[arg(long, value_name = "NAME", conflicts_with_all = ["filter", "json", "ptx"])]
    sass: Option<String>,
    /// Print what one turn of each product's steady loops issues [default for --arch: sm_80 and sm_90]
    #[arg(long, conflicts_with_all = ["ptx", "sass"])]
    loops: bool,
    /// Fail on spills, on local memory, on what is over the budget, on loops that issue more than they may, and on products
    /// that leave tensor cores idle
    #[arg(long, conflicts_with_all = ["json", "ptx", "sass", "loops"])]
    check: bool,
    /// Write the budget anew from what the kernels take now
    #[arg(long, conflicts_with_all = ["filter", "arch", "json", "ptx", "sass", "loops", "check"])]
    renew_budget: bool,
    /// The budget's file
    #[arg(long, value_name = "FILE", default_value = "kernels/budget.toml")]
    budget: PathBuf,
}

impl Kernels {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(kernel) = &self.source {
            let text = kernel_source(kernel).ok_or_else(|| {
                Error::Config(format!("source: no kernel is called {kernel}; zgan info --kernels names them"))
            })?;
            say(text.trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        let disassembler = Disassembler::find();
        if let Some(kernel) = &self.ptx {
            say(gate::ptx(kernel)?.trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(kernel) = &self.sass {
            let arch = self.arch.as_deref().unwrap_or("sm_80");
            let disassembler = disassembler.map_err(anyhow::Error::msg)?;
            say(gate::sass(kernel, arch, &disassembler)?.trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        if self.loops {
            let disassembler = disassembler.map_err(anyhow::Error::msg)?;
            return loops::run(&self.filter, self.arch.as_deref(), self.json, &disassembler);
        }
        let count = match &disassembler {
            Ok(disassembler) if self.check || self.renew_budget => Count::Products(disassembler),
            Ok(disassembler) => Count::All(disassembler),
            _ => Count::Nothing,
        };
        let kernels = gate::kernels(&self.filter, self.arch.as_deref(), count)?;
        if self.check {
            return self.check(&kernels, disassembler.err());
        }
        if self.renew_budget {
            return self.renew(&kernels, disassembler.err());
        }
        if self.json {
            say(serde_json::to_string_pretty(&kernels)?);
            return Ok(ExitCode::SUCCESS);
        }
        table(&kernels);
        say(
            "\nregs, spill (bytes stored + loaded) and local memory are a thread's; shared is a block's static memory; blocks of",
        );
        say(
            "256 threads that a multiprocessor holds, and their share of its warps; then how many instructions the code has:",
        );
        say("matrix (HMMA, IMMA), asynchronous copies (LDGSTS), LDSM, 16-byte loads, FFMA");
        if let Err(reason) = disassembler {
            say(format!("no instructions: {reason}"));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn check(&self, kernels: &[KernelCode], uncounted: Option<String>) -> anyhow::Result<ExitCode> {
        let (budget, file) = (Budget::read(&self.budget)?, self.budget.display());
        let compiler = compiler();
        let problems = budget.check(kernels, &compiler, self.filter.is_empty());
        if !budget.is_of(&compiler) {
            let made = budget.compiler();
            say(format!(
                "registers and loops were not compared: {file} is for NVRTC {made}, this code was made by {compiler}"
            ));
        }
        if !problems.is_empty() {
            bail!(
                "{} of {file}:\n  {}\nif that is meant: zgan kernels --renew-budget (an exception for local memory, with its \
                 reason, or for what no steady loop may have, is written by hand)",
                if problems.len() == 1 { "one breach".into() } else { format!("{} breaches", problems.len()) },
                problems.join("\n  ")
            );
        }
        let (products, problems) = gate::tensor_problems(kernels);
        if !problems.is_empty() {
            bail!("products that do not use tensor cores as they should:\n  {}", problems.join("\n  "));
        }
        let mut names: Vec<&str> = kernels.iter().map(|code| code.kernel.as_str()).collect();
        names.dedup();
        let mut archs: Vec<&str> = kernels.iter().map(|code| code.arch).collect();
        archs.sort_by_key(|arch| (arch.len(), *arch));
        archs.dedup();
        let excused: Vec<_> = budget.exceptions().filter(|(kernel, ..)| names.contains(kernel)).collect();
        let but = if excused.is_empty() { "" } else { ", but for" };
        say(format!(
            "{} kernels for {} are within {file}; none spills or uses local memory{but}",
            names.len(),
            archs.join(", ")
        ));
        let loops: usize = kernels.iter().map(|code| code.loops.len()).sum();
        if loops > 0 {
            say(format!("{loops} steady loops for {} issue no more than they may", gate::LOOPS_OF.join(" and ")));
        }
        match uncounted {
            _ if products == 0 => {}
            None => say(format!(
                "{products} products run on tensor cores: HMMA and no FFMA in the inner loop, LDSM, LDGSTS from sm_80 on, and \
                 room for two blocks"
            )),
            Some(reason) => say(format!("{products} products for tensor cores, by their registers alone: {reason}")),
        }
        for (kernel, bytes, reason) in excused {
            say(format!("  {kernel}, {bytes} bytes: {reason}"));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn renew(&self, kernels: &[KernelCode], uncounted: Option<String>) -> anyhow::Result<ExitCode> {
        let older = if self.budget.exists() { Some(Budget::read(&self.budget)?) } else { None };
        let compiler = compiler();
        let budget = Budget::of(kernels, &compiler, older.as_ref());
        let before = older.map(|older| older.check(kernels, &compiler, true)).unwrap_or_default();
        budget.write(&self.budget)?;
        for line in before {
            say(format!("was: {line}"));
        }
        say(format!("{} is written anew", self.budget.display()));
        if let Some(reason) = uncounted {
            say(format!("its loops are those that it had: {reason}"));
        }
        let left = budget.check(kernels, &compiler, true);
        if !left.is_empty() {
            bail!("what no budget excuses:\n  {}", left.join("\n  "));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `12.9`
fn compiler() -> String {
    embedded_compiler().map_or("none".into(), |(major, minor)| format!("{major}.{minor}"))
}

fn table(kernels: &[KernelCode]) {
    let width = kernels.iter().map(|code| code.kernel.len()).max().unwrap_or(0).max("kernel".len());
    let line = |cells: [&str; 12]| {
        let [kernel, arch, rest @ ..] = cells;
        let widths = [4, 6, 5, 6, 11, 6, 5, 5, 6, 5];
        let rest: String = rest.iter().zip(widths).map(|(cell, width)| format!(" {cell:>width$}")).collect();
        say(format!("{kernel:<width$} {arch:<6}{rest}"));
    };
    line(["kernel", "arch", "regs", "spill", "local", "shared", "blocks", "matrix", "copy", "ldsm", "16byte", "ffma"]);
    for code in kernels {
        let counts = code.instructions.map(|i| [i.matrix, i.async_copy, i.ldsm, i.vector_loads, i.ffma]);
        let counts = counts.map_or([const { String::new() }; 5].map(|_| "-".into()), |c| c.map(|n| n.to_string()));
        line([
            &code.kernel,
            code.arch,
            &code.registers.to_string(),
            &(code.spill_stores + code.spill_loads).to_string(),
            &code.local.to_string(),
            &code.shared.to_string(),
            &format!("{} ({} %)", code.blocks, code.occupancy),
            &counts[0],
            &counts[1],
            &counts[2],
            &counts[3],
            &counts[4],
        ]);
    }
}
