//! Machine code as text, which NVIDIA's `nvdisasm` makes, and the numbers of some instructions in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

/// How often a kernel's code has these instructions, not how often they run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Instructions {
    pub all: u32,
    /// Instructions of the tensor cores: HMMA, IMMA and their like.
    pub matrix: u32,
    /// Copies from global to shared memory that bypass the registers: LDGSTS.
    pub async_copy: u32,
    /// Loads of matrix fragments from shared memory: LDSM.
    pub ldsm: u32,
    /// Loads of 16 bytes.
    pub vector_loads: u32,
    pub ffma: u32,
    /// FFMA in stretches without branches that also have instructions of the tensor cores, which are the inner loops.
    pub ffma_beside_matrix: u32,
    /// Loads from and stores to local memory.
    pub local: u32,
}

/// A disassembler that was found.
pub struct Disassembler {
    program: PathBuf,
}

impl Disassembler {
    /// Looks at the environment variable `NVDISASM`, under `CUDA_HOME` and `CUDA_PATH`, then in `PATH`.
    pub fn find() -> Result<Disassembler, String> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(program) = variable("NVDISASM") {
            let there = program.is_file();
            let missing = format!("NVDISASM names {}, which is no file", program.display());
            return if there { Ok(Disassembler { program }) } else { Err(missing) };
        }
        let roots = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(|root| root.join("bin"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut programs = roots.chain(std::env::split_paths(&path)).map(|folder| folder.join("nvdisasm"));
        programs.find(|program| program.is_file()).map(|program| Disassembler { program }).ok_or_else(|| {
            "nvdisasm was not found in NVDISASM, CUDA_HOME, CUDA_PATH or PATH; nvidia-cuda-nvdisasm on PyPI has it, and \
             NVDISASM may name the file"
                .into()
        })
    }

    /// The code of each kernel of a cubin: (name, text).
    pub fn disassemble(&self, cubin: &[u8]) -> Result<Vec<(String, String)>, String> {
        // The disassembler only reads files.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("zgan-{}-{}.cubin", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let file = std::env::temp_dir().join(name);
        let text =
            std::fs::write(&file, cubin).map_err(|e| format!("{}: {e}", file.display())).and_then(|()| self.run(&file));
        let _ = std::fs::remove_file(&file);
        Ok(kernels(&text?))
    }

    fn run(&self, file: &Path) -> Result<String, String> {
        let program = self.program.display();
        let output = Command::new(&self.program).arg("-c").arg(file).output().map_err(|e| format!("{program}: {e}"))?;
        if !output.status.success() {
            return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The code of each kernel in what `nvdisasm` prints: (name, text). It begins with a line `//---- .text.NAME ----`.
pub fn kernels(text: &str) -> Vec<(String, String)> {
    let mut kernels: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(name) =
            line.strip_prefix("//---").and_then(|l| l.trim_start_matches('-').trim().strip_prefix(".text."))
        {
            kernels.push((name.trim_end_matches('-').trim().into(), String::new()));
        }
        if let Some((_, code)) = kernels.last_mut() {
            code.push_str(line);
            code.push('\n');
        }
    }
    kernels
}

impl Instructions {
    pub fn count(code: &str) -> Instructions {
        let mut count = Instructions::default();
        // The instructions of the stretch that is being read.
        let (mut matrix, mut ffma) = (0, 0);
        for line in code.lines() {
            let ends = line.starts_with(".L_");
            let Some(opcode) = opcode(line) else {
                if ends {
                    count.end_of_stretch(&mut matrix, &mut ffma);
                }
                continue;
            };
            let before = (count.matrix, count.ffma);
            let mut parts = opcode.split('.');
            let name = parts.next().unwrap_or_default();
            count.all += 1;
            // HFMA2.MMA does not count: it is half-precision arithmetic of one lane.
            count.matrix += u32::from(name.ends_with("MMA"));
            count.async_copy += u32::from(name == "LDGSTS");
            count.ldsm += u32::from(name == "LDSM");
            count.vector_loads += u32::from(matches!(name, "LD" | "LDG" | "LDS") && parts.any(|part| part == "128"));
            // From sm_100 on there is FFMA2, which does two at once.
            count.ffma += u32::from(name.starts_with("FFMA"));
            count.local += u32::from(matches!(name, "LDL" | "STL"));
            matrix += count.matrix - before.0;
            ffma += count.ffma - before.1;
            if matches!(name, "BRA" | "BRX" | "EXIT" | "RET" | "CALL" | "BSYNC") {
                count.end_of_stretch(&mut matrix, &mut ffma);
            }
        }
        count.end_of_stretch(&mut matrix, &mut ffma);
        count
    }

    fn end_of_stretch(&mut self, matrix: &mut u32, ffma: &mut u32) {
        if *matrix > 0 {
            self.ffma_beside_matrix += *ffma;
        }
        (*matrix, *ffma) = (0, 0);
    }
}

/// The name of a line's instruction: FADD for `        /*0110*/              @!P0 FADD R3, R3, R4 ;`. Lines that only have
/// bytes of the encoding have none.
fn opcode(line: &str) -> Option<&str> {
    let (_, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    let rest = rest.trim_start();
    let rest = if rest.starts_with('@') { rest.split_once(' ')?.1.trim_start() } else { rest };
    let opcode = rest.split([' ', ';']).next()?;
    opcode.starts_with(|c: char| c.is_ascii_uppercase()).then_some(opcode)
}
