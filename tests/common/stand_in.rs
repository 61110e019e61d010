//! Where the driver that stands in for libcuda was built.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The folder of `libcuda.so`, which drivers call `libcuda.so.1`. `cargo test` builds it; `cargo test --test NAME` does not.
pub fn folder() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
    let age = |path: &Path| path.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let built = age(&folder.join("libcuda.so"));
    let made_from = [
        PathBuf::from(env!("OUT_DIR")).join("libzgan_kernels.a"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver/libcuda.rs"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver/image.rs"),
    ];
    for source in &made_from {
        let build = "cargo build --release --features check --example cuda";
        assert!(age(source) <= built, "the stand-in driver is older than {}: run `{build}`", source.display());
    }
    // Another test may have made it.
    let _ = std::os::unix::fs::symlink("libcuda.so", folder.join("libcuda.so.1"));
    folder
}
