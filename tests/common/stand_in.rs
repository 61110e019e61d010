//! Where the driver that stands in for libcuda was built, and processes in which tests run on it.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use zgan::device::embedded_images;

/// The folder of `libcuda.so`, which drivers call `libcuda.so.1`, and of what stands in for NCCL. `cargo test` builds them;
/// `cargo test --test NAME` does not.
pub fn folder() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
    let age = |path: &Path| path.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let own = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver").join(name);
    let kernels = PathBuf::from(env!("OUT_DIR")).join("libzgan_kernels.a");
    for (library, name, sources) in [
        ("libcuda.so", "libcuda.so.1", &[kernels, own("libcuda.rs"), own("image.rs")][..]),
        ("libnccl.so", "libnccl.so.2", &[own("libnccl.rs")]),
    ] {
        let built = age(&folder.join(library));
        for source in sources {
            let build = "cargo build --release --features check --examples";
            assert!(age(source) <= built, "{library} is older than {}: run `{build}`", source.display());
        }
        // Another test may have made it.
        let _ = std::os::unix::fs::symlink(library, folder.join(name));
    }
    folder
}

/// Set in the processes in which tests run their bodies.
pub const CHILD: &str = "ZGAN_STAND_IN_TEST";

/// Runs `body` in a process of its own on the stand-in with these settings, and returns what it said on stderr; None
/// in that process itself. `test` is the name of the calling test.
pub fn on_stand_in(test: &str, settings: &str, variables: &[(&str, &str)], body: impl FnOnce()) -> Option<String> {
    if std::env::var(CHILD).is_ok_and(|of| of == format!("{test} {settings}")) {
        body();
        println!("stand-in: {test} is done");
        return None;
    }
    if std::env::var_os(CHILD).is_some() {
        return None;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder())
        .env("ZGAN_STAND_IN", settings)
        .env(CHILD, format!("{test} {settings}"))
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} with {settings}: {}\n{said}\n{complained}", output.status);
    assert!(said.contains(&format!("stand-in: {test} is done")), "the body of {test} did not run\n{said}");
    Some(complained.into_owned())
}

/// The same, where the driver must find nothing to complain about; left out where the build has no GPU code.
pub fn quietly_on_stand_in(test: &str, settings: &str, body: impl FnOnce()) {
    quietly_with(test, settings, &[], body);
}

/// The same with these environment variables. Returns what was said on stderr, as `on_stand_in` does.
pub fn quietly_with(test: &str, settings: &str, variables: &[(&str, &str)], body: impl FnOnce()) -> Option<String> {
    if embedded_images().is_empty() {
        println!("left out: {test}: this build has no GPU code to load (NVRTC was not found)");
        return None;
    }
    let said = on_stand_in(test, settings, variables, body)?;
    assert!(!said.contains("stand-in driver:"), "{said}");
    Some(said)
}

/// Whether this build has code for the stand-in to load; says so where it has none.
pub fn has_code(test: &str) -> bool {
    let has = !embedded_images().is_empty();
    if !has {
        println!("left out: {test}: this build has no GPU code to load (NVRTC was not found)");
    }
    has
}
