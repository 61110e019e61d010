//! Which libcuda is the driver.
//!
//! cudarc opens `libcuda.so` before all other names. Where a CUDA toolkit's folder `stubs` is on the loader's path, that is a
//! library to link with, of which every call fails. The driver itself is called `libcuda.so.1`. It is opened here, and cudarc
//! is led to it.

use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUresult};
use libloading::Library;

/// Where drivers are installed, for a loader that does not look there or finds a stub first; WSL's place is the first.
const FOLDERS: &[&str] = &[
    "usr/lib/wsl/lib",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "run/opengl-driver/lib",
];

#[derive(Clone)]
pub(super) enum Missing {
    /// This machine has no driver.
    NoDriver(String),
    /// It has one that cudarc cannot be led to.
    OutOfReach(String),
}

/// Opens the driver, once.
pub(super) fn open() -> Result<(), Missing> {
    static OPENED: OnceLock<Result<(), Missing>> = OnceLock::new();
    OPENED.get_or_init(|| find(places(Path::new("/"), std::env::var_os("LD_LIBRARY_PATH")))).clone()
}

/// The names and paths that the driver may have, in order. A stub may stand before the driver in the list of folders, which
/// the loader reads only up to the first that fits.
pub fn places(root: &Path, listed: Option<OsString>) -> Vec<PathBuf> {
    let listed: Vec<PathBuf> =
        listed.iter().flat_map(std::env::split_paths).filter(|path| path.is_absolute()).collect();
    let folders = listed.into_iter().chain(FOLDERS.iter().map(|folder| root.join(folder)));
    let paths = folders.map(|folder| folder.join("libcuda.so.1")).filter(|path| path.exists());
    ["libcuda.so.1".into()].into_iter().chain(paths).chain(["libcuda.so".into()]).collect()
}

fn find(places: Vec<PathBuf>) -> Result<(), Missing> {
    let mut stub = None;
    for place in places {
        // SAFETY: libcuda's initialisers have no precondition; the path names libcuda by its own name.
        let Ok(library) = (unsafe { Library::new(&place) }) else { continue };
        // SAFETY: it is a libcuda by its name; this is the function's type.
        let Ok(init) = (unsafe { library.get::<unsafe extern "C" fn(u32) -> u32>("cuInit") }) else { continue };
        // SAFETY: may be called at any time, any number of times. What else goes wrong is told where cudarc calls it.
        if unsafe { init(0) } != CUresult::CUDA_ERROR_STUB_LIBRARY as u32 {
            return lead_cudarc_to(library);
        }
        stub = stub.or(Some(loader::path_of(init_of(&library)).unwrap_or(place)));
    }
    let stub = stub.map(|path| format!("; {} is only a CUDA toolkit's stub", path.display())).unwrap_or_default();
    Err(Missing::NoDriver(format!("there is no NVIDIA driver (libcuda.so.1 was not found{stub})")))
}

/// Makes cudarc find this library, which stays open. It looks for one when its first function is called.
fn lead_cudarc_to(library: Library) -> Result<(), Missing> {
    let ours = init_of(&library);
    let path = loader::path_of(ours).unwrap_or_default();
    // SAFETY: as in `find`.
    let named = unsafe { Library::new("libcuda.so") }.ok();
    let other = named.as_ref().map(|library| (init_of(library), loader::path_of(init_of(library))));
    drop(named);
    let mut led = false;
    // SAFETY: asks the loader for a libcuda, as in `find`, and only where there is one for cudarc's own handle on it.
    let mut lead = || led = unsafe { sys::is_culib_present() && init_of(sys::culib()) == ours };
    // Without another libcuda.so, cudarc comes to libcuda.so.1, which is open already.
    if other.as_ref().is_none_or(|(init, _)| *init == ours) {
        std::mem::forget(library);
        lead();
    } else {
        loader::with_name(library, c"libcuda.so", lead);
    }
    if led {
        return Ok(());
    }
    let other = other.and_then(|(_, path)| path).unwrap_or("libcuda.so".into());
    Err(Missing::OutOfReach(format!(
        "the NVIDIA driver is {}, but {} is found before it: take its folder out of LD_LIBRARY_PATH",
        path.display(),
        other.display()
    )))
}

/// The address of the function that every libcuda has.
fn init_of(library: &Library) -> Option<*mut c_void> {
    // SAFETY: only the address of the function is taken.
    unsafe { library.get::<*mut c_void>("cuInit").ok()?.try_as_raw_ptr() }
}

/// What the loader knows of libraries.
#[cfg(target_os = "linux")]
mod loader {
    use super::*;

    /// The beginning of `struct link_map`, the loader's record of a library (`link.h`).
    #[repr(C)]
    struct LinkMap {
        base: *mut c_void,
        name: *const c_char,
    }

    /// `Dl_info`.
    #[repr(C)]
    struct Info {
        file: *const c_char,
        rest: [*const c_void; 3],
    }

    const RTLD_DI_LINKMAP: c_int = 2;

    unsafe extern "C" {
        fn dlinfo(handle: *mut c_void, request: c_int, to: *mut c_void) -> c_int;
        fn dladdr(address: *const c_void, info: *mut Info) -> c_int;
    }

    /// The file of the library that has a function at this address.
    pub fn path_of(address: Option<*mut c_void>) -> Option<PathBuf> {
        let mut info = Info { file: std::ptr::null(), rest: [std::ptr::null(); 3] };
        // SAFETY: the address is only compared with where libraries are; the answer fits into `info`.
        let found = unsafe { dladdr(address?, &mut info) } != 0 && !info.file.is_null();
        // SAFETY: the loader's text, which lives as long as the library, and ends with a zero byte.
        found.then(|| unsafe { CStr::from_ptr(info.file) }.to_string_lossy().into_owned().into())
    }

    /// Does `work` while whoever asks the loader for a library of this name gets this one, as the loader takes one that is
    /// open already if the name is its own. The library stays open.
    pub fn with_name(library: Library, name: &'static CStr, work: impl FnOnce()) {
        let handle = libloading::os::unix::Library::from(library).into_raw();
        let mut map: *mut LinkMap = std::ptr::null_mut();
        // SAFETY: the handle is open; the request writes one pointer to `map`.
        if unsafe { dlinfo(handle, RTLD_DI_LINKMAP, (&raw mut map).cast()) } != 0 {
            return;
        }
        // SAFETY: the record of a library that stays open. Both names live as long as they stand in it. The record is the
        // loader's own, but it reads a name only to compare and print it, and one pointer is written at once.
        unsafe {
            let own = (*map).name;
            (&raw mut (*map).name).write_volatile(name.as_ptr());
            work();
            (&raw mut (*map).name).write_volatile(own);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod loader {
    use super::*;

    pub fn path_of(_: Option<*mut c_void>) -> Option<PathBuf> {
        None
    }

    pub fn with_name(library: Library, _: &'static CStr, work: impl FnOnce()) {
        std::mem::forget(library);
        work();
    }
}
