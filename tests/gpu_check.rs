//! `scripts/gpu-check` on the driver that stands in for libcuda (`tests/driver`), the archive that it is part of, and the page
//! that `zgan gpu-report` makes of its folders. `scripts/test` makes the archive, and runs all parts of gpu-check from it.

#[path = "common/stand_in.rs"]
mod stand_in;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use zgan::device::embedded_images;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A folder for the results of a check, and one on the path, for programs that stand in for others.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tools")).unwrap();
        Place { folder }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Puts a shell script of this name on the path.
    fn with(self, name: &str, script: &str) -> Place {
        executable(&self.folder.path().join("tools").join(name), script);
        self
    }

    fn command(&self, script: &Path, arguments: &str, stand_in: &str) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(script);
        command
            .args(arguments.split_whitespace())
            .env("PATH", format!("{}:{path}", self.folder.path().join("tools").display()))
            .env("ZGAN", env!("CARGO_BIN_EXE_zgan"))
            .env("ZGAN_CHECK_TESTS", "")
            .env("ZGAN_CHECK_PATIENCE", "4")
            .env("LD_LIBRARY_PATH", stand_in::folder())
            .env("ZGAN_STAND_IN", stand_in);
        command
    }

    /// The exit status, and the report.
    fn check(&self, arguments: &str, stand_in: &str) -> (Option<i32>, String) {
        let script = Path::new(ROOT).join("scripts/gpu-check");
        let output = self.command(&script, arguments, stand_in).arg("--out").arg(self.out()).output().unwrap();
        let report = fs::read_to_string(self.out().join("report.txt"));
        (output.status.code(), report.unwrap_or_else(|_| panic!("{}", said(&output))))
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn executable(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Whether this build can open the stand-in at all; says so where it cannot.
fn has_gpu_code() -> bool {
    let has = !embedded_images().is_empty();
    if !has {
        println!("left out: this build has no GPU code to load (NVRTC was not found)");
    }
    has
}

#[test]
fn a_machine_without_a_gpu_is_told_so() {
    let (status, report) = Place::new().check("", "devices=0");
    assert_eq!(status, Some(1), "{report}");
    assert!(report.starts_with("gpu-check of zgan"), "{report}");
    assert!(report.contains("sees no GPU") && report.contains("left out: there is no GPU to run on"), "{report}");
}

#[test]
fn what_fails_stands_first_and_the_other_parts_run() {
    if !has_gpu_code() {
        return;
    }
    let (status, report) = Place::new().check("--quick", "launch=700");
    assert_eq!(status, Some(1), "{report}");
    let lines: Vec<&str> = report.lines().collect();
    assert!(lines[0].contains("--quick") && lines[1].contains("THE DEVICE IS A STAND-IN"), "{report}");
    let table: Vec<_> = lines[4..].iter().take_while(|line| !line.is_empty()).collect();
    for (line, begin) in table.iter().zip(["steps        FAILED", "training     FAILED"]) {
        assert!(line.starts_with(begin), "{report}");
    }
    for line in ["machine      passed", "operations   -        left out", "benches "] {
        assert!(table.iter().any(|found| found.starts_with(line)), "{line:?} is not in {report}");
    }
    assert!(report.contains("an illegal memory access was encountered"), "{report}");
}

#[test]
fn gpus_that_train_together_are_compared_with_one() {
    if !has_gpu_code() {
        return;
    }
    let (status, report) = Place::new().check("--only ranks --ranks 2", "host,devices=2");
    assert_eq!(status, Some(0), "{report}");
    assert!(report.contains("ranks        passed   20 steps of 4 settings on 2 GPUs are those of one"), "{report}");
    let (status, report) = Place::new().check("--only ranks --ranks 2", "host");
    assert_eq!(status, Some(1), "{report}");
    assert!(report.contains("ranks        FAILED") && report.contains("cuda:1"), "{report}");
}

/// Each tool of another's is called as it should be, and what it prints is kept.
#[test]
fn tools_that_a_machine_has_are_used() {
    if !has_gpu_code() {
        return;
    }
    let place = Place::new()
        .with("nvidia-smi", "echo clocks, by nvidia-smi")
        .with(
            "ncu",
            "echo '==PROF== Connected'; echo '\"ID\",\"Metric Name\"'; echo '\"0\",\"gpu__time_duration.sum\"'",
        )
        .with("python3", "[ \"$1\" = -c ] || echo \"{\\\"steps\\\": [], \\\"asked\\\": \\\"$*\\\"}\"");
    let (status, report) = place.check("--only pytorch,counters", "host");
    assert_eq!(status, Some(0), "{report}");
    assert!(report.contains("clocks, by nvidia-smi"), "{report}");
    let read = |name: &str| fs::read_to_string(place.out().join(name)).unwrap();
    let counters = read("ncu.csv");
    assert!(counters.contains("# --preset mnist\n") && counters.contains("--preset sngan-projection-32"), "{counters}");
    assert_eq!(counters.matches("gpu__time_duration").count(), 2, "{counters}");
    assert!(report.contains("the GPU's counters of 2 launches"), "{report}");
    assert!(read("pytorch.json").contains("pytorch.py --device cuda --json --time-limit"), "{}", read("pytorch.json"));
}

#[test]
fn counters_that_may_not_be_read_are_left_out() {
    if !has_gpu_code() {
        return;
    }
    let place = Place::new().with("ncu", "echo '==ERROR== ERR_NVGPUCTRPERM'; exit 1");
    let (status, report) = place.check("--only counters", "host");
    assert_eq!(status, Some(0), "{report}");
    assert!(report.contains("counters     -        left out: this user may not read the GPU's counters"), "{report}");
}

#[test]
fn an_early_end_leaves_a_report() {
    if !has_gpu_code() {
        return;
    }
    let place = Place::new().with("ncu", "sleep 600");
    let script = Path::new(ROOT).join("scripts/gpu-check");
    let mut command = place.command(&script, "--only counters", "host");
    let mut child = command.arg("--out").arg(place.out()).spawn().unwrap();
    let report = place.out().join("report.txt");
    while !report.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let signal = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(signal.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let report = fs::read_to_string(report).unwrap();
    assert!(report.contains("machine      passed") && report.contains("ended by TERM"), "{report}");
}

/// `scripts/dist` in a repository whose cargo makes a program without GPU code.
#[test]
fn no_archive_without_gpu_code() {
    let place = Place::new().with("cargo", "true");
    let root = place.folder.path().join("root");
    for folder in ["scripts", ".cache/ziglang/0.17.1/ziglang", "target/release", "tests/goldens"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in ["scripts/dist", "scripts/fetch", "Cargo.toml"] {
        fs::copy(Path::new(ROOT).join(file), root.join(file)).unwrap();
    }
    executable(&root.join(".cache/ziglang/0.17.1/ziglang/zig"), "true");
    executable(&root.join("target/release/zgan"), "echo embedded GPU code; echo '  sm_80           1 bytes'");
    let output = place
        .command(&root.join("scripts/dist"), "--arch sm_80,sm_90", "")
        .env("NVRTC_LIB_DIR", "/nowhere")
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("the program that was built has no code for sm_90"), "{}", said(&output));
    assert!(!root.join("target/dist").join("zgan-0.1.0-x86_64-linux-sm_80-sm_90.tar.xz").exists());
}

fn report(arguments: &[&Path], out: &Path) -> Output {
    let zgan =
        Command::new(env!("CARGO_BIN_EXE_zgan")).arg("gpu-report").args(arguments).arg("--out").arg(out).output();
    zgan.unwrap()
}

/// `tests/gpu-report` is a small folder of the form that gpu-check fills, as of the stand-in; its times are made up.
#[test]
fn a_page_has_results_times_and_pictures() {
    let kept = Path::new(ROOT).join("tests/gpu-report");
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("gpu.md");
    let output = report(&[&kept], &out);
    assert!(output.status.success(), "{}", said(&output));
    let page = fs::read_to_string(&out).unwrap();
    for line in [
        "## zgan stand-in",
        "| [zgan stand-in](#zgan-stand-in) | machine, operations, steps, training, benches, pytorch | tuning | counters, sanitizer |",
        "**This device is a stand-in, not a GPU: its figures say nothing of one.**",
        "| tuning | FAILED | not done after 50 s: measuring |",
        "![Digits that this card drew after a training in f32](gpu/zgan-stand-in-f32.png)",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    assert!(place.path().join("gpu/zgan-stand-in-f32.png").is_file());
    assert!(!page.contains("bf16.png"), "{page}");
    // 2 ms beside 4, 3 and 2.5 of PyTorch; and a step that failed.
    let row = page.lines().find(|line| line.starts_with("| step, mnist, width 4, batch 2, simultaneous |")).unwrap();
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    assert_eq!(cells[2..8], ["2.00", "5.00", "4.00", "3.00", "2.50", "0.80"], "{row}");
    assert!(cells[8].parse::<f64>().is_ok_and(|ratio| ratio > 1.0), "{row}");
    assert!(page.contains("| step, softmax-gan, batch 2, simultaneous | out of memory | - |"), "{page}");
}

#[test]
fn folders_that_are_no_reports_are_refused() {
    let kept = Path::new(ROOT).join("tests/gpu-report");
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("gpu.md");
    let other = place.path().join("other");
    fs::create_dir(&other).unwrap();
    let refused = |folders: &[&Path], text: &str| {
        let output = report(folders, &out);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(text), "{text} is not in {}", said(&output));
        assert!(!out.exists());
    };
    refused(&[&other], "other/report.txt: No such file");
    refused(&[&kept, &kept], "are both of zgan stand-in: name one of them");
    fs::write(other.join("report.txt"), "something else\n").unwrap();
    refused(&[&other], "not a report of gpu-check: its first line is \"something else\"");
    fs::copy(kept.join("report.txt"), other.join("report.txt")).unwrap();
    fs::write(other.join("bench.json"), "{\"steps\": [").unwrap();
    refused(&[&other], "bench.json: not JSON");
}
