//! NVRTC, NVIDIA's run-time compiler: used by `build.rs` (this file is compiled into it) and, where nothing was
//! embedded for the GPU at hand, by the program itself. It needs neither a GPU nor a driver nor CUDA's headers.

use std::ffi::{CStr, CString};
use std::path::PathBuf;

use cudarc::nvrtc::{result, sys};
use libloading::Library;

/// What the binary embeds: machine code per generation, and one PTX for GPUs that came later.
pub const TARGETS: &[&str] = &["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "compute_80"];

pub const FLAGS: &[&str] = &["--std=c++17", "-lineinfo", "-default-device"];

const NAMES: &[&str] = &["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"];

/// A loaded libnvrtc.
pub struct Compiler {
    version: (i32, i32),
    /// cudarc finds libraries by name alone; one that is open already is found, wherever it lies.
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

    /// Machine code for `sm_XX`, PTX for `compute_XX`, and the warnings. The error is the compiler's log.
    ///
    /// NVRTC has no option that makes warnings errors: `build.rs` does; a program on somebody's machine, whose NVRTC
    /// may warn of other things, does not.
    pub fn compile(&self, module: &str, source: &str, target: &str) -> Result<(Vec<u8>, String), String> {
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
                .map(|code| (code, log))
                .map_err(|e| format!("{e:?}")),
        };
        // SAFETY: `program` is alive and not used again.
        let _ = unsafe { result::destroy_program(program) };
        code.map_err(|message| format!("{module}.cu for {target}: {message}"))
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
