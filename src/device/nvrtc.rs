//! NVRTC, NVIDIA's run-time compiler. `build.rs` uses it (this file is compiled into it), and so does the program itself
//! where it has no code for the GPU at hand. NVRTC needs neither a GPU nor a driver nor CUDA's headers.

use std::collections::HashSet;
use std::ffi::{CString, OsString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libloading::Library;

/// What the binary embeds: machine code per generation, and one PTX for GPUs that came later.
pub const TARGETS: &[&str] = &["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "compute_80"];

/// The last one makes the assembler write into the log what registers and spills each kernel takes.
pub const FLAGS: &[&str] = &["--std=c++17", "-lineinfo", "-default-device", "--ptxas-options=-v"];

/// Drivers of CUDA 13 take code of 12, but not the other way round.
const NAMES: &[&str] = &["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"];

/// Where Python's packages put NVRTC, in a folder of packages: nvidia-cuda-nvrtc-cu12, and nvidia-cuda-nvrtc from 13 on.
const WHEELS: &[&str] = &["nvidia/cuda_nvrtc/lib", "nvidia/cu13/lib"];

/// What the compiler made of a module.
#[derive(Debug, Default)]
pub struct Compiled {
    /// Machine code; none for `compute_XX`.
    pub code: Vec<u8>,
    /// What machine code is made from: for `sm_XX` the same as for `compute_XX`. None where a compiler keeps it for itself.
    pub ptx: Vec<u8>,
    pub log: Log,
}

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

/// `nvrtcProgram`.
type Program = *mut c_void;

/// Declares `Functions`, the functions of one library, by the names and types that they have in `nvrtc.h`. Each answers with
/// 0, or with the number of an error.
macro_rules! functions {
    ($($name:ident($($type:ty),*);)*) => {
        #[allow(non_snake_case)]
        struct Functions {
            $($name: unsafe extern "C" fn($($type),*) -> c_int,)*
        }

        impl Functions {
            /// # Safety
            /// `library` must be a libnvrtc. It must stay loaded as long as the functions are called.
            unsafe fn of(library: &Library) -> Result<Functions, String> {
                // SAFETY: the caller's; the types are those of `nvrtc.h`, which no version of CUDA 12 or 13 has changed.
                unsafe {
                    Ok(Functions { $($name: *library.get(stringify!($name)).map_err(|_| {
                        concat!("it has no ", stringify!($name))
                    })?,)* })
                }
            }
        }
    };
}

functions! {
    nvrtcVersion(*mut c_int, *mut c_int);
    nvrtcGetNumSupportedArchs(*mut c_int);
    nvrtcGetSupportedArchs(*mut c_int);
    nvrtcCreateProgram(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
    nvrtcCompileProgram(Program, c_int, *const *const c_char);
    nvrtcDestroyProgram(*mut Program);
    nvrtcGetProgramLogSize(Program, *mut usize);
    nvrtcGetProgramLog(Program, *mut c_char);
    nvrtcGetCUBINSize(Program, *mut usize);
    nvrtcGetCUBIN(Program, *mut c_char);
    nvrtcGetPTXSize(Program, *mut usize);
    nvrtcGetPTX(Program, *mut c_char);
}

/// A loaded libnvrtc that works.
pub struct Compiler {
    /// Where it is; a name alone where the loader found it.
    pub path: PathBuf,
    /// What was tried before it, and why it was passed over.
    pub passed_over: Vec<String>,
    version: (i32, i32),
    /// The capabilities that it makes code for: 90 for sm_90.
    capabilities: Vec<c_int>,
    functions: Functions,
    /// Keeps the functions loaded, and what they call.
    _libraries: (Library, Option<Library>),
}

impl Compiler {
    /// The first libnvrtc of [`places`] that works, else one among the packages of the `python3` in `PATH`.
    pub fn find() -> Result<Compiler, String> {
        Compiler::find_suitable(|_| Ok(()))
    }

    /// The first one that `suits` has nothing against.
    pub fn find_suitable(suits: impl Fn(&Compiler) -> Result<(), String>) -> Result<Compiler, String> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let known = places(Path::new("/"), &variable);
        // Asked only where the others do not have it.
        let python = std::iter::once_with(packages_of_python).flatten().flat_map(|packages| wheels(&packages));
        let mut passed_over = Vec::new();
        if let Some(folder) = variable("NVRTC_LIB_DIR").filter(|folder| !known.iter().any(|p| p.starts_with(folder))) {
            passed_over.push(format!("{} (NVRTC_LIB_DIR) has no libnvrtc", Path::new(&folder).display()));
        }
        Compiler::first_of(known.into_iter().chain(python), passed_over, suits)
    }

    /// The first of these libraries that opens, compiles, and suits.
    pub fn first_of(
        candidates: impl IntoIterator<Item = PathBuf>,
        mut passed_over: Vec<String>,
        suits: impl Fn(&Compiler) -> Result<(), String>,
    ) -> Result<Compiler, String> {
        let mut tried = HashSet::new();
        for path in candidates {
            // One file often has several names. The loader's are names alone, of which most lead nowhere.
            let by_path = path.components().count() > 1;
            if by_path && !tried.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                continue;
            }
            let opened = match Compiler::open(&path) {
                Ok(None) if !by_path => continue,
                Ok(None) => Err("the loader cannot open it".into()),
                Ok(Some(compiler)) => suits(&compiler).map(|()| compiler),
                Err(reason) => Err(reason),
            };
            match opened {
                Ok(compiler) => return Ok(Compiler { passed_over, ..compiler }),
                Err(reason) => passed_over.push(format!("{}: {reason}", path.display())),
            }
        }
        let nowhere = "NVRTC was not found in NVRTC_LIB_DIR, a CUDA toolkit, the loader's path or Python's packages";
        Err(match passed_over.is_empty() {
            true => nowhere.into(),
            false => format!("no NVRTC works here ({})", passed_over.join("; ")),
        })
    }

    /// None where the loader does not open it. The error says why it cannot be used.
    fn open(path: &Path) -> Result<Option<Compiler>, String> {
        // SAFETY: libnvrtc's initialisers have no precondition; the path names libnvrtc by its own name.
        let Ok(library) = (unsafe { Library::new(path) }) else { return Ok(None) };
        // SAFETY: it is a libnvrtc by its name, and stays loaded with the `Compiler`.
        let functions = unsafe { Functions::of(&library) }?;
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: the pointers are to live integers, which the functions fill.
        unsafe {
            answer("nvrtcVersion", (functions.nvrtcVersion)(&mut major, &mut minor))?;
            answer("nvrtcGetNumSupportedArchs", (functions.nvrtcGetNumSupportedArchs)(&mut count))?;
        }
        let mut capabilities = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: there is room for as many as it said that there are.
        answer("nvrtcGetSupportedArchs", unsafe { (functions.nvrtcGetSupportedArchs)(capabilities.as_mut_ptr()) })?;
        // What is built into the language is in a second library, which NVRTC opens by its name when it compiles. Some of
        // Python's packages do not tell it that their folder is the place; where one is open already, it takes that.
        let builtins = path.with_file_name(format!("libnvrtc-builtins.so.{major}.{minor}"));
        // SAFETY: that library belongs to libnvrtc, and has no initialisers with a precondition either.
        let builtins = if builtins.is_absolute() { unsafe { Library::new(builtins) }.ok() } else { None };
        let (path, version) = (path.to_path_buf(), (major, minor));
        let _libraries = (library, builtins);
        let compiler = Compiler { path, passed_over: Vec::new(), version, capabilities, functions, _libraries };
        let target = TARGETS.iter().find(|target| compiler.knows(target)).ok_or("it knows none of our GPUs")?;
        compiler.compile("probe", "extern \"C\" __global__ void probe() {}", target)?;
        Ok(Some(compiler))
    }

    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Whether it makes code for this target.
    pub fn knows(&self, target: &str) -> bool {
        let number = target.rsplit('_').next().and_then(|number| number.parse().ok());
        number.is_some_and(|number| self.capabilities.contains(&number))
    }

    /// Compiles for `sm_XX` or `compute_XX`. The error is the compiler's log.
    ///
    /// NVRTC has no option that makes warnings errors. `build.rs` treats them so; a program on somebody's machine, whose
    /// NVRTC may warn of other things, does not.
    pub fn compile(&self, module: &str, source: &str, target: &str) -> Result<Compiled, String> {
        let failed = |message: String| format!("{module}.cu for {target}: {message}");
        let text = |s: &str| CString::new(s).map_err(|_| failed("a zero byte in its text".into()));
        let (source, name) = (text(source)?, text(&format!("{module}.cu"))?);
        let options: Vec<String> =
            FLAGS.iter().map(|flag| flag.to_string()).chain([format!("--gpu-architecture={target}")]).collect();
        let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let f = &self.functions;
        let mut program = std::ptr::null_mut();
        // SAFETY: the texts end with a zero byte and live until the call returns; there are no headers.
        let made = unsafe {
            let none = std::ptr::null();
            (f.nvrtcCreateProgram)(&mut program, source.as_ptr(), name.as_ptr(), 0, none, none)
        };
        answer("nvrtcCreateProgram", made).map_err(failed)?;
        // SAFETY: the program was made above and lives until it is destroyed below. The functions for the size and the
        // content of each output belong together.
        let (compiled, log, outputs) = unsafe {
            let compiled = (f.nvrtcCompileProgram)(program, options.len() as c_int, options.as_ptr());
            let log = output(program, f.nvrtcGetProgramLogSize, f.nvrtcGetProgramLog).unwrap_or_default();
            let ptx = || output(program, f.nvrtcGetPTXSize, f.nvrtcGetPTX);
            let outputs = match (compiled, target.starts_with("sm_")) {
                (0, true) => {
                    output(program, f.nvrtcGetCUBINSize, f.nvrtcGetCUBIN).map(|code| (code, ptx().unwrap_or_default()))
                }
                (0, false) => ptx().map(|ptx| (Vec::new(), ptx)),
                _ => Ok(Default::default()),
            };
            (f.nvrtcDestroyProgram)(&mut program);
            (compiled, log, outputs)
        };
        let log = String::from_utf8_lossy(&log).trim_matches(['\0', '\n', ' ']).to_string();
        match compiled {
            0 => outputs.map(|(code, ptx)| Compiled { code, ptx, log: Log::read(&log) }).map_err(failed),
            _ if log.is_empty() => answer("nvrtcCompileProgram", compiled).map(|()| Default::default()).map_err(failed),
            _ => Err(failed(log)),
        }
    }
}

/// What a function answered.
fn answer(function: &str, number: c_int) -> Result<(), String> {
    if number == 0 { Ok(()) } else { Err(format!("{function} answered with error {number}")) }
}

/// One of the outputs of a program.
///
/// # Safety
/// `program` must be alive; `size` must tell how many bytes `content` writes.
unsafe fn output(
    program: Program,
    size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    content: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
) -> Result<Vec<u8>, String> {
    let mut bytes = 0;
    // SAFETY: the caller's; `bytes` is a live integer.
    answer("the size of NVRTC's output", unsafe { size(program, &mut bytes) })?;
    let mut buffer = vec![0u8; bytes];
    // SAFETY: the caller's; the buffer has the size that NVRTC asked for.
    answer("NVRTC's output", unsafe { content(program, buffer.as_mut_ptr().cast()) })?;
    Ok(buffer)
}

/// The libraries called libnvrtc on a machine with this `root` and these environment variables, in the order in which they
/// are tried. A name alone stands for wherever the loader finds it.
pub fn places(root: &Path, variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let folder = |name: &str| variable(name).map(PathBuf::from);
    let mut found: Vec<PathBuf> = folder("NVRTC_LIB_DIR").iter().flat_map(|folder| libraries(folder)).collect();

    let targets: &[&str] =
        if cfg!(target_arch = "aarch64") { &["sbsa-linux", "aarch64-linux"] } else { &["x86_64-linux"] };
    let in_toolkit = |toolkit: PathBuf| {
        let below = targets.iter().map(|target| format!("targets/{target}/lib"));
        let folders = ["lib64".into(), "lib".into()].into_iter().chain(below);
        folders.flat_map(|folder| libraries(&toolkit.join(folder))).collect::<Vec<_>>()
    };
    // The one that is called `cuda` alone first, then the newest: cuda-12.10 before cuda-12.9.
    let mut toolkits = matching(&root.join("usr/local"), "cuda");
    toolkits.sort_by_key(|path| std::cmp::Reverse(version(path)));
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(folder);
    let conda = folder("CONDA_PREFIX");
    found.extend(named.chain(toolkits).chain([root.join("opt/cuda")]).flat_map(in_toolkit));

    found.extend(NAMES.iter().map(PathBuf::from));

    found.extend(conda.into_iter().flat_map(in_toolkit));
    found.extend(packages(root, variable).iter().flat_map(|packages| wheels(packages)));
    found
}

/// The folders of Python's packages on a machine with this `root` and these environment variables.
pub fn packages(root: &Path, variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let folder = |name: &str| variable(name).map(PathBuf::from);
    let user = folder("HOME").map(|home| home.join(".local"));
    let prefixes = folder("VIRTUAL_ENV").into_iter().chain(folder("CONDA_PREFIX")).chain(user);
    let prefixes = prefixes.chain(["usr/local", "usr"].map(|prefix| root.join(prefix)));
    let pythons = prefixes.flat_map(|prefix| matching(&prefix.join("lib"), "python3"));
    pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages))).collect()
}

/// Those that the `python3` in `PATH` looks for its packages in. It starts a process.
pub fn packages_of_python() -> Vec<PathBuf> {
    let paths = lines_of(Command::new("python3").args(["-c", "import sys; print(*sys.path, sep='\\n')"]), PATIENCE);
    paths.into_iter().map(PathBuf::from).filter(|path| path.is_absolute()).collect()
}

/// The libraries of NVRTC's packages in a folder of Python's packages.
fn wheels(packages: &Path) -> Vec<PathBuf> {
    WHEELS.iter().flat_map(|wheel| libraries(&packages.join(wheel))).collect()
}

/// The libraries called libnvrtc in a folder.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    NAMES.iter().map(|name| folder.join(name)).filter(|path| path.exists()).collect()
}

/// What is in a folder and begins with `start`, in the order of the names.
fn matching(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start)).map(|e| e.path()).collect();
    paths.sort();
    paths
}

/// The numbers in the name of a toolkit's folder, `[12, 9]` for `cuda-12.9`. `cuda` itself counts as the newest.
fn version(toolkit: &Path) -> Vec<u32> {
    let name = toolkit.file_name().unwrap_or_default().to_string_lossy();
    match name.strip_prefix("cuda-") {
        Some(numbers) => numbers.split('.').map_while(|number| number.parse().ok()).collect(),
        None => vec![u32::MAX],
    }
}

/// How long another program may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The lines that a program prints; none where it fails, or does not end in time.
pub fn lines_of(command: &mut Command, patience: Duration) -> Vec<String> {
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = started else { return Vec::new() };
    let begun = Instant::now();
    // It prints less than a pipe holds, so it need not be read before it ends.
    while let Ok(None) = child.try_wait() {
        if begun.elapsed() > patience {
            let _ = child.kill().and_then(|()| child.wait());
            return Vec::new();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = child.wait_with_output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).lines().map(String::from).collect()
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
    pub fn read(text: &str) -> Log {
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
