//! How much each kernel may take, which `kernels/budget.toml` lists. A change that makes a kernel take more must say so
//! there.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;

use super::turns::Turns;
use super::{KernelCode, Turn};
use crate::{Error, Result};

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The version of NVRTC that gave out these registers; another version may need more or fewer.
    compiler: String,
    kernels: BTreeMap<String, Allowed>,
    #[serde(default)]
    loops: Turns,
}

/// The most that a kernel may take on any generation of GPUs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Allowed {
    registers: u32,
    /// Bytes of static shared memory of a block.
    shared: u32,
    /// Bytes of local memory of a thread. Any is an exception, and needs a reason.
    #[serde(default)]
    local: u32,
    #[serde(default)]
    reason: String,
}

const HEAD: &str = "\
# What each kernel may take at most, over all generations of GPUs: registers of a thread, bytes of static shared memory of
# a block. `zgan kernels --check` compares, `zgan kernels --renew-budget` writes this file anew. No kernel may use local
# memory, and so none may spill, unless its line says how many bytes (`local`) and why (`reason`), by hand.
# The sections [loops.sm_XX] hold one turn of each product's steady loops: `issued` instructions for so many HMMA or FFMA
# (`products`), `rich` instructions with the parameters for which they are the most, bytes of shared memory that a warp moves,
# loads that a thread has in flight, and parameters loaded again. No such loop may have calls, divisions or branches on what
# it loaded, unless its line says how many, by hand.
";

impl Budget {
    pub fn read(path: &Path) -> Result<Budget> {
        Budget::parse(&crate::files::read_text(path)?, path)
    }

    /// The budget of the kernels that this program was built with.
    pub fn committed() -> Result<&'static Budget> {
        static BUDGET: LazyLock<std::result::Result<Budget, String>> = LazyLock::new(|| {
            let text = include_str!("../../../kernels/budget.toml");
            Budget::parse(text, Path::new("kernels/budget.toml")).map_err(|error| error.to_string())
        });
        BUDGET.as_ref().map_err(|error| Error::Config(error.clone()))
    }

    fn parse(text: &str, path: &Path) -> Result<Budget> {
        let budget: Budget =
            toml::from_str(text).map_err(|e| Error::Config(format!("{}: {}", path.display(), e.message())))?;
        for (kernel, allowed) in &budget.kernels {
            if allowed.local > 0 && allowed.reason.is_empty() {
                let what = format!("{}: {kernel} may use local memory, but for no reason", path.display());
                return Err(Error::Config(what));
            }
        }
        Ok(budget)
    }

    /// A budget of what these kernels take, compiled by this version of NVRTC. The exceptions are those of `older`: no new
    /// ones are made.
    pub fn of(kernels: &[KernelCode], compiler: &str, older: Option<&Budget>) -> Budget {
        let loops = Turns::of(kernels, older.map(|older| &older.loops));
        let mut budget = Budget { compiler: compiler.into(), kernels: BTreeMap::new(), loops };
        for code in kernels {
            let allowed = budget.kernels.entry(code.kernel.clone()).or_default();
            allowed.registers = allowed.registers.max(code.registers);
            allowed.shared = allowed.shared.max(code.shared);
            allowed.local = allowed.local.max(code.local);
        }
        for (kernel, allowed) in &mut budget.kernels {
            let excused = older.and_then(|older| older.kernels.get(kernel)).cloned().unwrap_or_default();
            allowed.local = allowed.local.min(excused.local);
            if allowed.local > 0 {
                allowed.reason = excused.reason;
            }
        }
        budget
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.text()).map_err(Error::io(path))
    }

    fn text(&self) -> String {
        let mut text = format!("{HEAD}compiler = \"{}\"\n\n[kernels]\n", self.compiler);
        for (kernel, Allowed { registers, shared, local, reason }) in &self.kernels {
            let _ = write!(text, "{kernel} = {{ registers = {registers}, shared = {shared}");
            if *local > 0 {
                let reason = toml::Value::String(reason.clone());
                let _ = write!(text, ", local = {local}, reason = {reason}");
            }
            text.push_str(" }\n");
        }
        self.loops.write(&mut text);
        text
    }

    /// One turn of a kernel's steady loop of this name for this generation.
    pub fn turn(&self, arch: &str, kernel: &str, name: &str) -> Option<&Turn> {
        self.loops.get(arch, kernel, name)
    }

    /// What is wrong with these kernels, compiled by this version of NVRTC, a line for each mistake. `all` says that no
    /// kernel is left out, so that the budget must not list more.
    pub fn check(&self, kernels: &[KernelCode], compiler: &str, all: bool) -> Vec<String> {
        let mut problems = Vec::new();
        for code in kernels {
            let KernelCode { kernel, arch, registers, shared, local, spill_stores, spill_loads, .. } = code;
            let Some(allowed) = self.kernels.get(kernel) else {
                problems.push(format!("{kernel} is not in the budget"));
                continue;
            };
            let mut over = |what: &str, found: u32, limit: u32| {
                if found > limit {
                    let more = found - limit;
                    problems.push(format!("{kernel} for {arch}: {found} {what}, {more} more than the {limit} it may"));
                }
            };
            // Another compiler gives out registers differently, which is not the kernel's fault.
            if self.is_of(compiler) {
                over("registers", *registers, allowed.registers);
            }
            over("bytes of shared memory", *shared, allowed.shared);
            over("bytes of local memory", *local, allowed.local);
            // Local memory that is excused may hold spilled registers.
            let spilled = spill_stores + spill_loads;
            if spilled > 0 && *local > allowed.local {
                problems.push(format!(
                    "{kernel} for {arch}: registers ran out, {spill_stores} bytes are spilled and {spill_loads} loaded again"
                ));
            }
        }
        if all {
            let gone = self.kernels.keys().filter(|name| !kernels.iter().any(|code| code.kernel == **name));
            problems.extend(gone.map(|name| format!("{name} is in the budget, and there is no such kernel")));
        }
        problems.dedup();
        // Another compiler schedules differently, as it gives out registers differently.
        if self.is_of(compiler) {
            problems.extend(self.loops.check(kernels, all));
        }
        problems
    }

    /// Whether its registers are those that this version of NVRTC gives out.
    pub fn is_of(&self, compiler: &str) -> bool {
        self.compiler == compiler
    }

    pub fn compiler(&self) -> &str {
        &self.compiler
    }

    /// The kernels that may use local memory: (name, bytes, reason).
    pub fn exceptions(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        let excused = self.kernels.iter().filter(|(_, allowed)| allowed.local > 0);
        excused.map(|(name, allowed)| (name.as_str(), allowed.local, allowed.reason.as_str()))
    }
}
