//! NVRTC, NVIDIA's run-time compiler. `build.rs` uses it (this file is compiled into it), and so does the program itself
//! where it has no code for the GPU at hand. NVRTC needs neither a GPU nor a driver nor CUDA's headers.

use std::ffi::{CStr, CString};
use std::path::PathBuf;

use cudarc::nvrtc::{result, sys};
use libloading::Library;

/// What the binary embeds: machine code per generation, and one PTX for GPUs that came later.
pub const TARGETS: &[&str] = &["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "compute_80"];

/// The last one makes the assembler write into the log what registers and spills each kernel takes.
pub const FLAGS: &[&str] = &["--std=c++17", "-lineinfo", "-default-device", "--ptxas-options=-v"];

const NAMES: &[&str] = &["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"];

/// What the compiler said.
#[derive(Debug, Default, PartialEq)]
pub struct Log {
    pub warnings: String,
    /// What the assembler said of each kernel; empty where the output is PTX.
    pub kernels: Vec<Assembled>,
}

/// What a kernel takes, from the assembler's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembled {
    pub name: String,
    pub registers: u32,
    /// Bytes of local memory of each thread, and how many are stored and loaded there because registers ran out. Functions
    /// that the kernel calls are included.
    pub stack: u32,
    pub spill_stores: u32,
    pub spill_loads: u32,
}

/// A loaded libnvrtc.
pub struct Compiler {
    version: (i32, i32),
    /// Kept open for cudarc, which looks a library up by its name alone: one that is open already is found wherever it
    /// lies.
    _library: Library,
}

impl Compiler {
    /// Looks in `NVRTC_LIB_DIR`, under `CUDA_HOME` and `CUDA_PATH`, then where the loader looks.
    pub fn find() -> Result<Compiler, String> {
        let folder = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut folders: Vec<PathBuf> = folder("NVRTC_LIB_DIR").into_iter().collect();
        for root in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(folder) {
            folders.extend(["lib64", "lib", "targets/x86_64-linux/lib"].map(|d| root.join(d)));
        }
        let known = folders.iter().flat_map(|folder| NAMES.iter().map(move |name| folder.join(name)));
        let candidates = known.filter(|path| path.exists()).chain(NAMES.iter().map(PathBuf::from));
        for path in candidates {
            // SAFETY: libnvrtc's initialisers have no precondition; the path names libnvrtc by its own name.
            let Ok(library) = (unsafe { Library::new(&path) }) else { continue };
            // SAFETY: asks the loader whether the library can be opened; no function of it is called.
            if !unsafe { sys::is_culib_present() } {
                return Err(format!("{} was opened, but its functions were not found", path.display()));
            }
            let (mut major, mut minor) = (0, 0);
            // SAFETY: both pointers are to live integers, which the function fills.
            unsafe { sys::nvrtcVersion(&mut major, &mut minor) }
                .result()
                .map_err(|e| format!("nvrtcVersion: {e:?}"))?;
            return Ok(Compiler { version: (major, minor), _library: library });
        }
        Err("libnvrtc not found in NVRTC_LIB_DIR, CUDA_HOME, CUDA_PATH or the loader's path".into())
    }

    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Machine code for `sm_XX`, PTX for `compute_XX`, and the log. The error is the compiler's log.
    ///
    /// NVRTC has no option that makes warnings errors. `build.rs` treats them so; a program on somebody's machine, whose
    /// NVRTC may warn of other things, does not.
    pub fn compile(&self, module: &str, source: &str, target: &str) -> Result<(Vec<u8>, Log), String> {
        let text = |s: &str| CString::new(s).map_err(|_| format!("{module}: a zero byte in its text"));
        let program = result::create_program(&text(source)?, Some(&text(&format!("{module}.cu"))?))
            .map_err(|e| format!("{module}: nvrtcCreateProgram: {e:?}"))?;
        let mut options: Vec<String> = FLAGS.iter().map(|f| f.to_string()).collect();
        options.push(format!("--gpu-architecture={target}"));
        // SAFETY: `program` was made above and lives until it is destroyed below.
        let compiled = unsafe { result::compile_program(program, &options) };
        // SAFETY: `program` is alive, and NVRTC ends its log with a zero byte.
        let log = unsafe { result::get_program_log(program).map(|log| CStr::from_ptr(log.as_ptr()).to_owned()) };
        let log = log.map(|log| log.to_string_lossy().trim().to_string()).unwrap_or_default();
        let code = match compiled {
            Err(error) if log.is_empty() => Err(format!("{error:?}")),
            Err(_) => Err(log),
            // SAFETY: `program` is alive and was compiled for this kind of output.
            Ok(()) => unsafe { output(program, target.starts_with("sm_")) }
                .map(|code| (code, Log::read(&log)))
                .map_err(|e| format!("{e:?}")),
        };
        // SAFETY: `program` is alive and not used again.
        let _ = unsafe { result::destroy_program(program) };
        code.map_err(|message| format!("{module}.cu for {target}: {message}"))
    }
}

/// `name registers stack spill_stores spill_loads`
impl std::fmt::Display for Assembled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Assembled { name, registers, stack, spill_stores, spill_loads } = self;
        write!(f, "{name} {registers} {stack} {spill_stores} {spill_loads}")
    }
}

impl Assembled {
    /// Reads what [`Display`](std::fmt::Display) writes.
    pub fn parse(line: &str) -> Option<Assembled> {
        let mut words = line.split(' ');
        let name = words.next()?.to_string();
        let mut number = || words.next()?.parse().ok();
        Some(Assembled {
            name,
            registers: number()?,
            stack: number()?,
            spill_stores: number()?,
            spill_loads: number()?,
        })
    }
}

impl Log {
    /// The assembler's lines begin with `ptxas info`, or with `ptxas` and a dot where they continue the line before. All
    /// other lines are warnings.
    fn read(text: &str) -> Log {
        let (mut warnings, mut kernels) = (Vec::new(), Vec::<Assembled>::new());
        for line in text.lines() {
            let Some(said) =
                line.strip_prefix("ptxas info    : ").or_else(|| line.strip_prefix("ptxas         .     "))
            else {
                warnings.push(line);
                continue;
            };
            if let Some(rest) = said.strip_prefix("Compiling entry function '") {
                let name = rest.split('\'').next().unwrap_or_default().to_string();
                kernels.push(Assembled { name, ..Assembled::default() });
            }
            let Some(kernel) = kernels.last_mut() else { continue };
            let number = |text: &str, before: &str, after: &str| -> Option<u32> {
                text.split_once(after)?.0.rsplit(before).next()?.trim().parse().ok()
            };
            if let Some(registers) = number(said, "Used ", " registers") {
                kernel.registers = registers;
            }
            if let Some(stack) = number(said, ",", " bytes stack frame") {
                kernel.stack += stack;
                kernel.spill_stores += number(said, ",", " bytes spill stores").unwrap_or(0);
                kernel.spill_loads += number(said, ",", " bytes spill loads").unwrap_or(0);
            }
        }
        Log { warnings: warnings.join("\n").trim().to_string(), kernels }
    }
}

/// The cubin or the PTX of a compiled program.
///
/// # Safety
/// `program` must be alive and compiled for the kind asked for.
unsafe fn output(program: sys::nvrtcProgram, cubin: bool) -> Result<Vec<u8>, result::NvrtcError> {
    let mut size = 0;
    // SAFETY: the caller's; `size` is a live integer, and the buffer has the size that NVRTC asked for.
    unsafe {
        if cubin {
            sys::nvrtcGetCUBINSize(program, &mut size).result()?;
            let mut code = vec![0u8; size];
            sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
            Ok(code)
        } else {
            sys::nvrtcGetPTXSize(program, &mut size).result()?;
            let mut code = vec![0u8; size];
            sys::nvrtcGetPTX(program, code.as_mut_ptr().cast()).result()?;
            Ok(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assemblers_words_are_told_from_warnings() {
        let log = Log::read(
            "k.cu(3): warning #177-D: variable \"x\" was declared but never referenced\n\
             ptxas info    : 12 bytes gmem\n\
             ptxas info    : Compiling entry function 'first' for 'sm_90'\n\
             ptxas info    : Function properties for first\n\
             ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
             ptxas info    : Used 18 registers, used 1 barriers, 32 bytes smem\n\
             ptxas info    : Compile time = 86.973 ms\n\
             ptxas info    : Compiling entry function 'second' for 'sm_90'\n\
             ptxas info    : Function properties for second\n\
             ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
             ptxas info    : Used 255 registers, used 0 barriers\n\
             ptxas info    : Function properties for called_by_it\n\
             ptxas         .     4 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n\
             ptxas warning : something",
        );
        assert!(log.warnings.starts_with("k.cu(3): warning") && log.warnings.ends_with("ptxas warning : something"));
        assert_eq!(log.warnings.lines().count(), 2);
        let kernel = |name: &str, [registers, stack, spill_stores, spill_loads]: [u32; 4]| Assembled {
            name: name.into(),
            registers,
            stack,
            spill_stores,
            spill_loads,
        };
        assert_eq!(log.kernels, [kernel("first", [18, 0, 0, 0]), kernel("second", [255, 20, 12, 16])]);
        for kernel in &log.kernels {
            assert_eq!(Assembled::parse(&kernel.to_string()).as_ref(), Some(kernel));
        }
        assert_eq!(Log::read(""), Log::default());
    }
}
