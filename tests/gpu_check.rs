//! `scripts/gpu-check` on the driver that stands in for libcuda (`tests/driver`): what it says where something is wrong.
//! `scripts/test` runs it whole.

#[path = "common/stand_in.rs"]
mod stand_in;

use std::path::Path;
use std::process::Command;

use zgan::device::embedded_images;

/// The exit status, and the report.
fn gpu_check(settings: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.txt");
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu-check"))
        .arg("--report")
        .arg(&report)
        .env("ZGAN", env!("CARGO_BIN_EXE_zgan"))
        .env("ZGAN_CHECK_TESTS", "")
        .env("LD_LIBRARY_PATH", stand_in::folder())
        .env("ZGAN_STAND_IN", settings)
        .output()
        .unwrap();
    (output.status.code(), std::fs::read_to_string(report).unwrap())
}

#[test]
fn a_machine_without_a_gpu_is_told_so() {
    let (status, report) = gpu_check("devices=0");
    assert_eq!(status, Some(1), "{report}");
    assert!(report.contains("sees no GPU") && report.contains("left out: there is no GPU to run on"), "{report}");
}

#[test]
fn parts_that_fail_are_named_and_the_others_run() {
    if embedded_images().is_empty() {
        println!("left out: this build has no GPU code to load (NVRTC was not found)");
        return;
    }
    let (status, report) = gpu_check("launch=700");
    assert_eq!(status, Some(1), "{report}");
    assert!(report.contains("THE DEVICE IS A STAND-IN"), "{report}");
    for line in [
        "machine      passed",
        "operations   -        left out",
        "steps        FAILED   status 1",
        "graph        FAILED",
    ] {
        assert!(report.lines().any(|found| found.starts_with(line)), "{line:?} is not in {report}");
    }
    assert!(report.contains("an illegal memory access was encountered"), "{report}");
}
