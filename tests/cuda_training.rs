//! `zgan train --device cuda` on the driver that stands in for libcuda (`tests/driver`).

#[path = "common/stand_in.rs"]
mod stand_in;

use std::path::Path;
use std::process::{Command, Output};

use stand_in::has_code;

/// Trains as `name` in `runs`, in f32 where the arguments name no precision, with the form of convolutions that GPUs have;
/// `settings` are the stand-in's.
fn train(runs: &Path, name: &str, device: &str, settings: &str, arguments: &[&str]) -> Output {
    command(runs, name, device, settings, arguments).output().unwrap()
}

fn command(runs: &Path, name: &str, device: &str, settings: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zgan"));
    command
        .args(["train", "--device", device, "--run", name, "--seed", "3", "--convolution", "direct"])
        .arg("--runs-dir")
        .arg(runs)
        .args(arguments)
        .args(if arguments.contains(&"--precision") { &[][..] } else { &["--precision", "f32"] })
        .env("LD_LIBRARY_PATH", stand_in::folder())
        .env("ZGAN_TUNING", "off")
        .env("ZGAN_STAND_IN", settings);
    command
}

#[track_caller]
fn trained(output: Output) {
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !complaints.contains("stand-in driver:"), "{complaints}");
}

fn checkpoint(runs: &Path, name: &str, step: u32) -> Vec<u8> {
    std::fs::read(runs.join(name).join(format!("checkpoints/step-{step:06}.safetensors"))).unwrap()
}

#[test]
fn steps_are_the_hosts_to_the_bit() {
    if !has_code("steps_are_the_hosts_to_the_bit") {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    for (name, steps, arguments) in [
        ("simultaneous", 20, &["--preset", "softmax-gan", "--batch", "16"][..]),
        ("alternating", 20, &["--preset", "softmax-gan", "--batch", "16", "--update", "alternating"]),
        ("mnist", 5, &["--preset", "mnist", "--batch", "8"]),
    ] {
        let count = steps.to_string();
        let arguments = [arguments, &["--steps", &count]].concat();
        let (cuda, host) = (format!("{name}-cuda"), format!("{name}-host"));
        trained(train(runs.path(), &cuda, "cuda", "host", &arguments));
        trained(train(runs.path(), &host, "host", "host", &arguments));
        let same = checkpoint(runs.path(), &cuda, steps) == checkpoint(runs.path(), &host, steps);
        assert!(same, "{name}: the checkpoints differ");
    }
}

/// After the first step, which is launched, each step is one graph, of two that take turns; without, launch by launch, the
/// bits are the same. The batches are copied on a stream of their own, which the stand-in lets be late or early as far as
/// nobody waits: a wait left out would change them.
#[test]
fn fifty_replayed_steps_are_launched_steps_to_the_bit() {
    if !has_code("fifty_replayed_steps_are_launched_steps_to_the_bit") {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    let small = ["--preset", "mnist", "--width", "8", "--batch", "2"];
    let alternating = ["--update", "alternating"];
    for (name, preset, more) in [
        ("perceptrons", &["--preset", "softmax-gan", "--batch", "8"][..], &[][..]),
        ("perceptrons-alternating", &["--preset", "softmax-gan", "--batch", "8"], &alternating),
        ("points-own-fakes", &["--preset", "ring", "--batch", "8"], &["--update", "alternating", "--n-dis", "3"]),
        ("convolutions", &small, &["--noise", "0.1", "--flip"]),
        ("convolutions-alternating", &small, &alternating),
        ("convolutions-own-fakes", &small, &["--update", "alternating", "--n-dis", "2", "--batch-g", "3"]),
        ("classes", &small, &["--conditioning", "ac-gan"]),
        ("points-lazy", &["--preset", "ring", "--batch", "8"], &["--penalty-every", "3"]),
        ("changed", &small, &["--diffaug", "color,translation,cutout", "--update", "alternating", "--n-dis", "2"]),
        ("zero-centred", &small, &["--r1", "1", "--r2", "1", "--penalty-every", "4", "--softmax-target", "zero-sum"]),
        ("parts", &small, &["--micro-batch", "1", "--local-norm"]),
        ("penalty", &small, &["--loss", "wasserstein-gp", "--update", "alternating", "--n-dis", "2"]),
    ] {
        let arguments = [preset, more, &["--steps", "51", "--no-eval"]].concat();
        let (graph, launched) = (format!("{name}-graph"), format!("{name}-launched"));
        let counted = |output: Output| {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            trained(output);
            said.lines().find(|line| line.starts_with("stand-in counts:")).expect("counts").to_string()
        };
        let replayed = counted(train(runs.path(), &graph, "cuda", "host,counts", &arguments));
        assert!(replayed.ends_with(" launches, 50 graphs"), "{name}: {replayed}");
        let arguments = [&arguments[..], &["--no-graph"]].concat();
        let single = counted(train(runs.path(), &launched, "cuda", "host,counts", &arguments));
        assert!(single.ends_with(" launches, 0 graphs"), "{name}: {single}");
        let same = checkpoint(runs.path(), &graph, 51) == checkpoint(runs.path(), &launched, 51);
        assert!(same, "{name}: the checkpoints differ");
    }
}

/// With each launch waited for, nothing is captured. Red zones are allocations apart, and nobody writes there. Neither changes
/// a bit.
#[test]
fn steps_that_are_watched_are_steps_as_ever() {
    if !has_code("steps_that_are_watched_are_steps_as_ever") {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    let small = ["--preset", "mnist", "--width", "4", "--batch", "2", "--steps", "3", "--no-eval"];
    trained(train(runs.path(), "plain", "cuda", "host", &small));
    for (name, variable, expected) in [
        ("waited-for", "ZGAN_SYNC", " launches, 0 graphs"),
        ("red-zones", "ZGAN_REDZONES", "stand-in allocations: 0 of the pool, "),
    ] {
        let output = command(runs.path(), name, "cuda", "host,counts", &small).env(variable, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        trained(output);
        assert!(said.contains(expected), "{name}: {said}");
        assert!(checkpoint(runs.path(), name, 3) == checkpoint(runs.path(), "plain", 3), "{name}: other bits");
    }
    let output = command(runs.path(), "no", "host", "host", &small).env("ZGAN_REDZONES", "on").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("ZGAN_REDZONES: \"on\", expected 1 or 0"));
}

/// The losses of each line of `metrics.csv`.
fn losses(runs: &Path, name: &str) -> Vec<[f64; 2]> {
    let table = std::fs::read_to_string(runs.join(name).join("metrics.csv")).unwrap();
    let head: Vec<&str> = table.lines().next().unwrap().split(',').collect();
    let of = |line: &str| {
        ["loss_d", "loss_g"].map(|column| {
            let place = head.iter().position(|name| *name == column).unwrap();
            line.split(',').nth(place).unwrap().parse().unwrap()
        })
    };
    table.lines().skip(1).map(of).collect()
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn steps_on_real_thread_blocks_are_the_hosts_to_tolerance() {
    if !has_code("steps_on_real_thread_blocks_are_the_hosts_to_tolerance") {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    for (name, steps, preset) in [
        ("ring", 20, &["--preset", "ring", "--batch", "16"][..]),
        // A penalty on gradients draws the two apart sooner.
        ("ring-alternating", 20, &["--preset", "ring", "--batch", "16", "--update", "alternating", "--r1", "0"]),
        ("softmax-gan", 1, &["--preset", "softmax-gan", "--batch", "4"]),
    ] {
        let count = steps.to_string();
        let arguments = [preset, &["--steps", &count, "--log-every", "1", "--no-eval"]].concat();
        let (simt, host) = (format!("{name}-simt"), format!("{name}-host"));
        trained(train(runs.path(), &simt, "cuda", "simt", &arguments));
        trained(train(runs.path(), &host, "host", "host", &arguments));
        let (found, expected) = (losses(runs.path(), &simt), losses(runs.path(), &host));
        assert_eq!((found.len(), expected.len()), (steps, steps));
        // Sums in another order; twenty steps of Adam draw the two apart.
        let worst = found.iter().flatten().zip(expected.iter().flatten());
        let worst = worst.fold(0.0f64, |worst, (f, e)| worst.max((f - e).abs() / e.abs()));
        println!("{name}: {steps} steps, the losses differ by {worst:.1e} at most");
        assert!(worst <= 2e-5, "{name}: {worst:.1e}");
    }
}

/// Whatever the driver reports ends the run with a status that is not 0, and leaves the last checkpoint to go on from.
/// A GPU that is too small for the batch is told so, with the parts that fit, and these do fit.
#[test]
fn too_little_memory_names_the_parts_that_fit() {
    if !has_code("too_little_memory_names_the_parts_that_fit") {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    let large = ["--preset", "mnist", "--width", "4", "--batch", "64", "--steps", "2", "--no-eval"];
    let small = |name: &str, memory: &str, more: &[&str]| {
        train(runs.path(), name, "cuda", &format!("host,memory={memory}"), &[&large[..], more].concat())
    };
    let refused = small("whole", "15000000", &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let parts = said.split("--micro-batch ").nth(1).and_then(|rest| rest.split(' ').next()).expect(&said);
    assert!(said.contains("which is there") && said.contains("asked for"), "{said}");
    trained(small("parts", "15000000", &["--micro-batch", parts]));
    let refused = small("none", "1000000", &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("not even --micro-batch 1 would do"), "{said}");
}

#[test]
fn a_failure_leaves_the_last_checkpoint() {
    if !has_code("a_failure_leaves_the_last_checkpoint") {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    let arguments = ["--preset", "softmax-gan", "--batch", "8", "--steps", "8"];
    trained(train(runs.path(), "whole", "cuda", "host", &arguments));

    let half = [&arguments[..], &["--stop-at", "4"]].concat();
    trained(train(runs.path(), "broken", "cuda", "host", &half));
    let kept = checkpoint(runs.path(), "broken", 4);
    for (settings, part) in [
        ("launch=20", "illegal memory access"),
        // In a graph.
        ("launch=150", "illegal memory access"),
        // In the graph of the other slot.
        ("launch=90", "illegal memory access"),
        // For the second slot of the batches.
        ("pinned=4", "of pinned memory: out of memory"),
        ("allocation=3", "asked for"),
        ("memory=1000000", "asked for"),
        ("devices=0", "sees no GPU"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_zgan"))
            .args(["train", "--device", "cuda", "--resume", "broken", "--runs-dir"])
            .arg(runs.path())
            .env("LD_LIBRARY_PATH", stand_in::folder())
            .env("ZGAN_TUNING", "off")
            .env("ZGAN_STAND_IN", settings)
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{settings}: {complaints}");
        assert!(complaints.contains(part), "{settings}: {complaints}");
        assert!(checkpoint(runs.path(), "broken", 4) == kept, "{settings}: the checkpoint changed");
    }
    let resumed = Command::new(env!("CARGO_BIN_EXE_zgan"))
        .args(["train", "--device", "cuda", "--resume", "broken", "--runs-dir"])
        .arg(runs.path())
        .env("LD_LIBRARY_PATH", stand_in::folder())
        .env("ZGAN_TUNING", "off")
        .env("ZGAN_STAND_IN", "host")
        .output()
        .unwrap();
    trained(resumed);
    assert!(checkpoint(runs.path(), "broken", 8) == checkpoint(runs.path(), "whole", 8), "the resumed run differs");
}

/// `--precision auto` is tf32 on the stand-in, which says that it is a GPU of capability 8.0, and f32 on the host. The run
/// keeps what it was, wherever it goes on; a run from before there was a choice goes on in f32.
#[test]
fn auto_chooses_the_precision_once() {
    if !has_code("auto_chooses_the_precision_once") {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    let small = ["--preset", "softmax-gan", "--batch", "4", "--steps", "2", "--stop-at", "1", "--no-eval"];
    let auto = [&small[..], &["--precision", "auto"]].concat();
    let config = |name: &str| runs.path().join(name).join("config.toml");
    let kept = |name: &str| std::fs::read_to_string(config(name)).unwrap();
    let resume = |name: &str, device: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zgan"));
        command.args(["train", "--device", device, "--stop-at", "2", "--no-eval", "--resume", name, "--runs-dir"]);
        command.arg(runs.path()).env("LD_LIBRARY_PATH", stand_in::folder()).env("ZGAN_TUNING", "off");
        let output = command.env("ZGAN_STAND_IN", "host").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        trained(output);
        said
    };

    let output = train(runs.path(), "gpu", "cuda", "host", &auto);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    trained(output);
    assert!(said.contains("products in tf32") && said.contains("--precision f32"), "{said}");
    assert!(kept("gpu").contains("precision = \"tf32\""), "{}", kept("gpu"));
    trained(train(runs.path(), "cpu", "host", "host", &auto));
    assert!(kept("cpu").contains("precision = \"f32\""), "{}", kept("cpu"));

    assert!(resume("gpu", "host").contains("products in tf32"));
    let older = kept("cpu").replace("precision = \"f32\"\n", "");
    std::fs::write(config("cpu"), older).unwrap();
    let said = resume("cpu", "cuda");
    assert!(said.contains("precision f32: the run is older") && !said.contains("tf32"), "{said}");
    assert!(kept("cpu").contains("precision = \"f32\""), "{}", kept("cpu"));
}
