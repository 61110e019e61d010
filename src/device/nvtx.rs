//! Ranges with names for profilers such as Nsight Systems, by NVIDIA's tools extension (NVTX): steps, their phases, layers. Off
//! unless [`start`] found the library, which is loaded at run time.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int};
use std::sync::OnceLock;

use libloading::Library;

use crate::{Error, Result};

/// Of the CUDA toolkit, as far as it has one; profilers take its place with one of their own.
const NAMES: [&str; 2] = ["libnvToolsExt.so.1", "libnvToolsExt.so"];

struct Nvtx {
    push: unsafe extern "C" fn(*const c_char) -> c_int,
    pop: unsafe extern "C" fn() -> c_int,
    /// The functions are its own.
    _library: Library,
}

static NVTX: OnceLock<Nvtx> = OnceLock::new();

thread_local! {
    /// Whether a phase is open in the innermost range.
    static PHASE: Cell<bool> = const { Cell::new(false) };
}

/// Loads the library. From then on ranges have names, and nothing is captured as a graph, in which no range would be seen.
pub fn start() -> Result<()> {
    if NVTX.get().is_some() {
        return Ok(());
    }
    let open = |name: &str| -> std::result::Result<Nvtx, libloading::Error> {
        // SAFETY: NVIDIA's library does nothing when it is loaded; both functions are declared as nvToolsExt.h has them.
        unsafe {
            let library = Library::new(name)?;
            let (push, pop) = (*library.get(b"nvtxRangePushA\0")?, *library.get(b"nvtxRangePop\0")?);
            Ok(Nvtx { push, pop, _library: library })
        }
    };
    let [first, second] = NAMES;
    let found = open(first).or_else(|_| open(second));
    let missing =
        |error| format!("nvtx: the loader finds no {first} or {second}; LD_LIBRARY_PATH can name its folder: {error}");
    // Whoever comes second has the same library.
    let _ = NVTX.set(found.map_err(|error| Error::Device(missing(error)))?);
    Ok(())
}

/// Whether ranges have names.
pub fn is_on() -> bool {
    NVTX.get().is_some()
}

fn push(nvtx: &Nvtx, name: &str) {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: the text ends with a zero byte and is copied before the call returns.
    unsafe { (nvtx.push)(name.as_ptr()) };
}

fn pop(nvtx: &Nvtx) {
    // SAFETY: it has no arguments, and ends what was pushed on this thread, if anything.
    unsafe { (nvtx.pop)() };
}

/// A range of the calling thread, which ends where this is dropped.
#[must_use]
pub struct Range {
    open: bool,
    /// Whether a phase was open around it.
    phase: bool,
}

/// Begins a range.
pub fn range(name: impl FnOnce() -> String) -> Range {
    let Some(nvtx) = NVTX.get() else { return Range { open: false, phase: false } };
    push(nvtx, &name());
    Range { open: true, phase: PHASE.replace(false) }
}

/// Begins a phase of the innermost range, and ends the phase before it.
pub fn phase(name: &str) {
    let Some(nvtx) = NVTX.get() else { return };
    if PHASE.replace(true) {
        pop(nvtx);
    }
    push(nvtx, name);
}

impl Drop for Range {
    fn drop(&mut self) {
        let Some(nvtx) = NVTX.get().filter(|_| self.open) else { return };
        if PHASE.replace(self.phase) {
            pop(nvtx);
        }
        pop(nvtx);
    }
}
