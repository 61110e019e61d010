//! Compiles every `kernels/*.cu`, unchanged, for each execution: with the C++ compiler once per instruction set (`host`) and,
//! with the feature `check`, as coroutines (`simt`); with NVRTC, where it is found, to cubins and one PTX (`cuda`).
//!
//! `src/build/` has a file for each part of that; no other code of the crate uses it.

#[path = "src/build/cuda.rs"]
mod cuda;
#[path = "src/build/host.rs"]
mod host;
#[path = "src/build/libtorch.rs"]
mod libtorch;
#[path = "src/device/nvrtc.rs"]
#[allow(dead_code)]
mod nvrtc;
#[path = "src/build/source.rs"]
mod source;
#[path = "src/build/store.rs"]
mod store;
#[path = "src/build/table.rs"]
mod table;

use std::path::{Path, PathBuf};

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for path in ["kernels", "build.rs", "src/build", "src/device/nvrtc.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let places = ["NVRTC_LIB_DIR", "CUDA_HOME", "CUDA_PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"];
    for variable in places.into_iter().chain(["ZGAN_CUDA_ARCH_LIST", "ZGAN_DENY_WARNINGS", "MPICC"]) {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if std::env::var_os("CARGO_FEATURE_MPI").is_some() {
        find_mpi();
    }
    let check = std::env::var_os("CARGO_FEATURE_CHECK").is_some();
    // Set where the project tests itself (scripts/test): a newer compiler's new warning is to break nobody's build.
    let deny_warnings = std::env::var_os("ZGAN_DENY_WARNINGS").is_some();
    // Clippy links nothing and runs nothing.
    let linted = std::env::var("RUSTC_WORKSPACE_WRAPPER").is_ok_and(|wrapper| wrapper.contains("clippy"));

    let modules = source::read_all(Path::new("."), Path::new("kernels"));
    let mut images = cuda::Images::default();
    if !linted {
        let store = store::Store::open(&out);
        let compiled = host::compile(&modules, check, &store, deny_warnings, &out);
        images = compiled.and_then(|()| cuda::compile(&modules, &store, deny_warnings)).unwrap_or_else(|errors| {
            eprintln!("{errors}");
            std::process::exit(1);
        });
    }
    if std::env::var_os("CARGO_FEATURE_LIBTORCH").is_some() {
        libtorch::compile(linted);
    }
    table::write(&modules, check, &images, &out);
    // Kernels that a test loads call what this crate defines.
    println!("cargo:rustc-link-arg-tests=-rdynamic");
    // The driver that stands in for libcuda has kernels of its own, which are to call its own, not those of the test that
    // loads it. Cargo has no such flag for the library of an example; to programs it does nothing.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-arg=-Wl,-Bsymbolic");
    }
}

/// Ends the build where there is no MPI, with what is to be installed. The crate `mpi`, which is built meanwhile, tells much
/// about where it has looked.
fn find_mpi() {
    let named = ["MPI_PKG_CONFIG", "CRAY_MPICH_DIR"].into_iter().any(|variable| std::env::var_os(variable).is_some());
    let mpicc = std::env::var_os("MPICC").unwrap_or("mpicc".into());
    if !named && std::process::Command::new(&mpicc).arg("-show").output().is_err() {
        eprintln!(
            "the feature mpi needs MPI, and there is no {}: apt-get install libopenmpi-dev openmpi-bin libclang-dev",
            mpicc.display()
        );
        std::process::exit(1);
    }
}
