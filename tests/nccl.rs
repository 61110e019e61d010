//! Several GPUs: collectives through the library that stands in for NCCL, on the driver that stands in for libcuda
//! (`tests/driver`).
//!
//! Most tests run their body in a process of its own that finds both, with its own settings; a rank is a thread there.

#[path = "common/place.rs"]
mod place;
#[allow(dead_code)]
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use place::Place;
use stand_in::{has_code, on_stand_in, quietly_with};
use zgan::checkpoint::{self, NamedTensor};
use zgan::device::{Communicator, Device, Meeting, Reduction, Started};
use zgan::{Error, Result};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(1);

/// What `body` gives on each of the first GPUs, as many as there are ranks. Each is told of it before any connection ends.
fn on_gpus<T: Send>(ranks: usize, timeout: Duration, body: impl Fn(&Device) -> Result<T> + Sync) -> Vec<Result<T>> {
    let (meetings, all) = (Meeting::of_threads(ranks, timeout).unwrap(), Barrier::new(ranks));
    let rank = |meeting: Meeting| {
        let device = Device::cuda(meeting.rank).and_then(|gpu| Ok(gpu.with_ranks(gpu.connect(meeting.clone())?)));
        let result = device.as_ref().map_err(|e| Error::Ranks(e.to_string())).and_then(&body);
        if let Err(error) = &result {
            meeting.fail(error);
        }
        all.wait();
        result
    };
    thread::scope(|scope| {
        let ranks: Vec<_> = meetings.into_iter().map(|meeting| scope.spawn(|| rank(meeting))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The message of each rank.
fn errors<T>(results: Vec<Result<T>>) -> Vec<String> {
    results.into_iter().map(|result| result.err().expect("an error").to_string()).collect()
}

#[test]
fn collectives_are_right() {
    for ranks in [2, 4] {
        let settings = format!("devices={ranks}");
        let told = quietly_with("collectives_are_right", &settings, &[("ZGAN_STAND_IN_NCCL", "counts")], || {
            let bits = on_gpus(ranks, LONG, |gpu| {
                let link = gpu.ranks().unwrap();
                assert_eq!(link.ranks(), ranks);
                let own = |i: usize| (i * (link.rank() + 1)) as f32 / 3.0 - 5.0;
                let values = gpu.upload(&(0..1000).map(own).collect::<Vec<_>>())?;
                let part = values.view(3..998);
                link.all_reduce(&part, Reduction::Sum)?;
                link.all_reduce(&values.view(0..2), Reduction::Max)?;
                link.broadcast(&values.view(998..999), ranks - 1)?;
                link.all_reduce(&values.view(1000..1000), Reduction::Sum)?;
                let found = values.read()?;
                let sum = |i: usize| (1..=ranks).map(|rank| (i * rank) as f32 / 3.0 - 5.0).sum();
                let last = |i: usize| (i * ranks) as f32 / 3.0 - 5.0;
                let expected = [vec![last(0), last(1), own(2)], (3..998).map(sum).collect(), vec![last(998), own(999)]];
                assert_eq!(found, expected.concat());
                assert_eq!(link.agree(10 + link.rank() as u64)?, 9 + ranks as u64);
                assert_eq!(link.agree(u64::MAX - link.rank() as u64)?, u64::MAX);
                Ok(part.read()?.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            });
            let bits: Vec<_> = bits.into_iter().map(Result::unwrap).collect();
            assert!(bits.iter().all(|other| *other == bits[0]));
        });
        for rank in 0..ranks {
            let line = format!("stand-in nccl: rank {rank}: 3 collectives of 3992 bytes");
            assert!(told.as_ref().is_none_or(|told| told.contains(&line)), "{told:?}");
        }
    }
}

/// As a step is: captured once, and started again and again; nothing is done meanwhile that nobody waits for.
#[test]
fn collectives_of_a_graph_are_done_at_each_replay() {
    quietly_with("collectives_of_a_graph_are_done_at_each_replay", "devices=2", &[], || {
        let found = on_gpus(2, LONG, |gpu| {
            let link = gpu.ranks().unwrap();
            let (sum, own) = (gpu.zeros::<f32>(2)?, gpu.upload(&[1.0, 10.0f32 * link.rank() as f32])?);
            let graph = gpu.capture(|| {
                link.all_reduce(&sum, Reduction::Sum)?;
                // Each replay begins from what the one before left.
                sum.view(1..2).copy_from(&own.view(1..2))
            })?;
            sum.write(&[1.0, 5.0])?;
            let graph = graph.unwrap();
            for _ in 0..3 {
                graph.launch()?;
            }
            // One rank is late.
            if link.rank() == 1 {
                thread::sleep(Duration::from_millis(30));
            }
            sum.read()
        });
        let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
        assert_eq!(found, [[8.0, 0.0], [8.0, 10.0]]);
    });
}

#[test]
fn what_nccl_refuses_is_told() {
    let test = "what_nccl_refuses_is_told";
    let said = on_stand_in(test, "devices=2", &[], || {
        let all = errors(on_gpus(2, LONG, |gpu| {
            let link = gpu.ranks().unwrap();
            let values = gpu.zeros::<f32>(7)?;
            link.all_reduce(&values.view(0..5 + link.rank()), Reduction::Sum)?;
            values.read()
        }));
        assert!(
            all.iter().all(|error| *error == all[0] && error.contains(": a collective: internal error")),
            "{all:?}"
        );
        let all = errors(on_gpus(2, LONG, |gpu| {
            let link = gpu.ranks().unwrap();
            let values = Device::cuda(1 - link.rank())?.zeros::<f32>(7)?;
            link.all_reduce(&values, Reduction::Sum)
        }));
        assert!(all.iter().all(|error| error.contains("on another device")), "{all:?}");
        let all = errors(on_gpus(2, LONG, |gpu| gpu.ranks().unwrap().broadcast(&gpu.zeros(1)?, 2)));
        // Both are refused. What the first of them met is what both say.
        assert!(all.iter().all(|error| error.ends_with(" of 2: ncclBroadcast: invalid argument")), "{all:?}");
        let host = Device::host(1).unwrap().connect(Meeting::of_threads(1, LONG).unwrap().remove(0));
        assert_eq!(host.err().unwrap().to_string(), "NCCL connects GPUs, not device host");
        // One GPU twice.
        let all = thread::scope(|scope| {
            let join = |meeting| scope.spawn(|| Device::cuda(0).unwrap().connect(meeting));
            let joins: Vec<_> = Meeting::of_threads(2, LONG).unwrap().into_iter().map(join).collect();
            errors(joins.into_iter().map(|join| join.join().unwrap()).collect())
        });
        assert!(all.iter().all(|error| error.ends_with(" of 2: ncclCommInitRank: invalid usage")), "{all:?}");
    });
    for part in [
        "collective 1: rank 0 has all-reduce (sum) of 5 f32, rank 1 has all-reduce (sum) of 6 f32",
        "a broadcast from 2 of 2 ranks",
        "rank 0 and rank 1 are both on device 0",
    ] {
        assert!(said.as_ref().is_none_or(|said| said.contains(part)), "{part}: {said:?}");
    }
}

/// As MPI does: it brings NCCL's id to all, and they agree through it.
#[test]
fn what_connects_ranks_already_lets_their_gpus_meet() {
    quietly_with("what_connects_ranks_already_lets_their_gpus_meet", "devices=3", &[], || {
        let sums = ranks::on_ranks(
            3,
            || Device::host(1).unwrap(),
            |_, others| {
                let gpu = Device::cuda(others.rank()).unwrap();
                let link = gpu.connect(Meeting::over(Arc::new(others.clone()), LONG).unwrap()).unwrap();
                let values = gpu.upload(&[1.0 + link.rank() as f32]).unwrap();
                link.all_reduce(&values, Reduction::Sum).unwrap();
                assert_eq!(link.agree(link.rank() as u64).unwrap(), 2);
                link.wait().unwrap();
                values.read().unwrap()
            },
        );
        assert_eq!(sums, [[6.0]; 3]);
    });
}

/// Whatever becomes of one rank, all of them end, and each says what it was.
#[test]
fn a_rank_that_fails_ends_all() {
    let test = "a_rank_that_fails_ends_all";
    for (nccl, why) in [
        ("init", "rank 1 of 3: ncclCommInitRank: unhandled system error"),
        ("rank=2,call=2", "rank 2 of 3: ncclAllReduce: unhandled system error"),
        ("rank=0,error=3", "rank 0 of 3: a collective: remote process exited or there was a network error"),
        ("hang=4", ": no answer from the other ranks within 1 seconds"),
    ] {
        let patience = if nccl.starts_with("hang") { SHORT } else { LONG };
        // The settings of the driver tell these processes apart.
        on_stand_in(test, &format!("devices=3,workers={}", nccl.len()), &[("ZGAN_STAND_IN_NCCL", nccl)], || {
            let all = errors(on_gpus(3, patience, |gpu| {
                let (link, values) = (gpu.ranks().unwrap(), gpu.upload(&[1.0; 100])?);
                let graph = gpu.capture(|| link.all_reduce(&values, Reduction::Sum))?;
                for _ in 0..5 {
                    link.all_reduce(&values, Reduction::Sum)?;
                    graph.as_ref().unwrap().launch()?;
                }
                values.read()
            }));
            assert!(all.iter().all(|error| error.contains(why)), "{nccl}: {all:?}");
        });
    }
    // A rank fails by itself, while the others wait for it.
    on_stand_in(test, "devices=3", &[], || {
        let all = errors(on_gpus(3, LONG, |gpu| {
            let (link, values) = (gpu.ranks().unwrap(), gpu.upload(&[1.0; 100])?);
            if link.rank() == 1 {
                return Err(Error::Config("no data".into()));
            }
            link.all_reduce(&values, Reduction::Sum)?;
            if link.rank() == 0 { link.agree(0).map(|_| Vec::new()) } else { values.read() }
        }));
        assert_eq!(all, ["rank 1 of 3: no data", "no data", "rank 1 of 3: no data"]);
    });
}

/// `zgan train` of a small run on so many stand-in GPUs, with settings for what stands in for NCCL.
fn zgan(runs: &Path, name: &str, device: &str, nccl: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zgan"));
    command.args(["train", "--device", device, "--run", name, "--seed", "3", "--precision", "f32", "--log-every", "1"]);
    command.args(["--checkpoint-every", "1", "--keep-checkpoints", "0", "--no-eval", "--batch", "10", "--runs-dir"]);
    command.arg(runs).args(arguments).env("LD_LIBRARY_PATH", stand_in::folder()).env("ZGAN_TUNING", "off");
    command.env("ZGAN_STAND_IN", "devices=4").env("ZGAN_STAND_IN_NCCL", nccl);
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn trained(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = said(&output);
    assert!(output.status.success() && !said.contains("stand-in driver:"), "{command:?}: {said}");
    said
}

/// The tensors of a run after a step.
fn tensors(runs: &Path, name: &str, step: u32) -> Vec<NamedTensor> {
    checkpoint::load_finite(&checkpoint_of(runs, name, step)).unwrap().1
}

fn checkpoint_of(runs: &Path, name: &str, step: u32) -> std::path::PathBuf {
    runs.join(name).join(format!("checkpoints/step-{step:06}.safetensors"))
}

/// Both losses of each step.
fn losses(runs: &Path, name: &str) -> Vec<f64> {
    let table = std::fs::read_to_string(runs.join(name).join("metrics.csv")).unwrap();
    let head: Vec<&str> = table.lines().next().unwrap().split(',').collect();
    let at = ["loss_d", "loss_g"].map(|column| head.iter().position(|name| *name == column).unwrap());
    let of = |line: &str| at.map(|at| line.split(',').nth(at).unwrap().parse::<f64>().unwrap());
    table.lines().skip(1).flat_map(of).collect()
}

/// Losses to 1e-5; the distance of each tensor to 5 % of its way, but for those whose gradient is zero but for rounding: a
/// bias before a batch norm, and a constant in all logits where only their differences count.
#[track_caller]
fn same(runs: &Path, name: &str, of_one: &str) {
    let (found, expected) = (losses(runs, name), losses(runs, of_one));
    assert_eq!((found.len(), expected.len()), (20, 20), "{name}");
    let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max);
    assert!(off <= 1e-5, "{name}: the losses are {off:.1e} off: {found:?}, {expected:?}");
    let distance = |a: &NamedTensor, b: &NamedTensor| {
        a.values.iter().zip(&b.values).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    let before_norm = ["conv1.bias", "conv2.bias", "shortcut.bias"];
    let of_g = |name: &str| name.contains("generator.") && before_norm.iter().any(|end| name.ends_with(end));
    let without_gradient = |name: &str| of_g(name) || name.ends_with("discriminator.head.bias");
    let (before, expected) = (tensors(runs, of_one, 1), tensors(runs, of_one, 10));
    for ((found, expected), before) in tensors(runs, name, 10).iter().zip(&expected).zip(&before) {
        // A running mean begins at 0, and is most of the way there after the first step.
        let nothing = NamedTensor { values: vec![0.0; before.values.len()], ..before.clone() };
        let before = if found.name.ends_with("running_mean") { &nothing } else { before };
        let (off, way) = (distance(found, expected), distance(expected, before));
        let rounding = 1e-6 * expected.values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let fine = off <= (0.05 * way).max(rounding) || without_gradient(&found.name);
        assert!(fine, "{name}: {} is {off:.1e} off, its way is {way:.1e}", found.name);
    }
}

#[test]
fn several_gpus_train_as_one_does() {
    if !has_code("several_gpus_train_as_one_does") {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path();
    let small = ["--preset", "mnist", "--width", "4", "--steps", "10", "--lr-g", "1e-4", "--lr-d", "1e-4"];
    for (case, more) in [
        ("softmax", &["--noise", "0.1", "--flip"][..]),
        ("hinge", &["--loss", "hinge", "--update", "alternating", "--n-dis", "2", "--conditioning", "ac-gan"]),
        ("penalty", &["--loss", "wasserstein-gp", "--update", "alternating", "--micro-batch", "2"]),
    ] {
        let arguments = [&small[..], more].concat();
        let one = format!("{case}-1");
        trained(zgan(runs, &one, "cuda", "", &arguments));
        for (gpus, device) in [(2, "cuda:1,3"), (4, "cuda:all")] {
            let [graph, launched] = ["graph", "launched"].map(|way| format!("{case}-{gpus}-{way}"));
            let told = trained(zgan(runs, &graph, device, "counts", &arguments));
            assert!(told.contains(&format!("ranks   {gpus}\n")) && told.contains("rank 1: "), "{told}");
            assert_eq!(told.matches("step 7/10").count(), 1, "one rank speaks: {told}");
            same(runs, &graph, &one);
            if gpus == 2 {
                trained(zgan(runs, &launched, device, "", &[&arguments[..], &["--no-graph"]].concat()));
                let bits = |name: &str| std::fs::read(checkpoint_of(runs, name, 10)).unwrap();
                // Of each step, the weights are those of all ranks: one that reads another one's late has other bits.
                assert!(bits(&graph) == bits(&launched), "{case}: a graph and launches differ");
            }
        }
    }
    // Another number of GPUs goes on, and one alone.
    let begun = [&small[..], &["--noise", "0.1", "--flip", "--stop-at", "5"]].concat();
    trained(zgan(runs, "resumed", "cuda:all", "", &begun));
    let resume = |device: &str, end: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zgan"));
        command.args(["train", "--resume", "resumed", "--device", device, "--stop-at", end, "--no-eval", "--runs-dir"]);
        command.arg(runs).env("LD_LIBRARY_PATH", stand_in::folder()).env("ZGAN_TUNING", "off");
        trained({
            command.env("ZGAN_STAND_IN", "devices=2");
            command
        });
    };
    resume("cuda:all", "7");
    resume("cuda:0", "10");
    same(runs, "resumed", "softmax-1");
}

/// Each of so many processes, as torchrun starts them.
fn processes(ranks: usize, command: impl Fn(usize) -> Command) -> Vec<Output> {
    let start = |rank: usize| {
        let mut command = command(rank);
        command
            .envs([("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", ranks)].map(|(name, n)| (name, n.to_string())));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..ranks).map(start).collect();
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

#[test]
fn processes_that_meet_at_a_file_train_as_threads_do() {
    if !has_code("processes_that_meet_at_a_file_train_as_threads_do") {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path();
    let file = runs.join("meet");
    let small = ["--preset", "mnist", "--width", "4", "--steps", "4", "--rendezvous", file.to_str().unwrap()];
    trained(zgan(runs, "threads", "cuda:0,1", "", &small[..6]));
    // From an earlier start, which nobody ended.
    for left in ["meet", "meet.rank-1", "meet.failed"] {
        std::fs::write(runs.join(left), "0123456789abcdef").unwrap();
    }
    let all = processes(2, |_| zgan(runs, "processes", "cuda", "counts", &small));
    let told: Vec<_> = all.iter().map(said).collect();
    assert!(all.iter().all(|output| output.status.success()), "{told:?}");
    assert!(told[0].contains("ranks   2\n") && all[1].stdout.is_empty(), "{told:?}");
    let bits = |name: &str| std::fs::read(checkpoint_of(runs, name, 4)).unwrap();
    assert!(bits("threads") == bits("processes"));
    assert!(
        std::fs::read_dir(runs).unwrap().all(|left| !left.unwrap().file_name().to_string_lossy().starts_with("meet"))
    );

    // One of them is killed in the midst of a step; one cannot read its images, and says so to the others.
    let all = processes(2, |_| zgan(runs, "killed", "cuda", "kill=40", &small));
    assert!(all[0].status.code() == Some(1) && all[1].status.code().is_none(), "{all:?}");
    let told = String::from_utf8_lossy(&all[0].stderr).into_owned();
    assert!(told.contains("error: rank 0 of 2: ") && told.contains("remote process exited"), "{told}");
    let data = |rank: usize| if rank == 1 { ["--data", "idx:nowhere"] } else { ["--data", "mnist-10k"] };
    let all = processes(2, |rank| zgan(runs, "failed", "cuda", "", &[&small[..], &data(rank)].concat()));
    let told: Vec<_> = all.iter().map(said).collect();
    assert!(all.iter().all(|output| output.status.code() == Some(1)), "{told:?}");
    assert!(told[0].contains("error: rank 0 of 2: rank 1 of 2: ") && told[0].contains("nowhere"), "{told:?}");
    assert!(!runs.join("failed").exists());
    // What has to be known of each.
    let output = zgan(runs, "alone", "cuda", "", &small).output().unwrap();
    assert!(said(&output).contains("RANK and WORLD_SIZE"), "{}", said(&output));
    let mut command = zgan(runs, "alone", "cuda", "", &small);
    let output = command.env("RANK", "1").env("WORLD_SIZE", "2").output().unwrap();
    assert!(said(&output).contains("LOCAL_RANK or SLURM_LOCALID"), "{}", said(&output));
    assert_eq!(output.status.code(), Some(2));
}

/// Drawing and judging is shared out by the GPUs of a process, and by processes with a GPU each.
#[test]
fn several_gpus_draw_and_judge_as_one_does() {
    if !has_code("several_gpus_draw_and_judge_as_one_does") {
        return;
    }
    let place = Place::new();
    place.folder_of_noise("noise");
    let zgan = |words: &str| {
        let mut command = place.program(place::ZGAN);
        command.args(words.split_whitespace()).env("LD_LIBRARY_PATH", stand_in::folder());
        command.env("ZGAN_STAND_IN", "devices=3");
        command
    };
    let train = "train --preset mnist --data folder:noise --size 16 --width 2 --batch 4 --steps 1 --no-eval --run a";
    trained(zgan(&format!("{train} --device cuda --precision f32")));
    let eval = |device: &str| format!("eval --run a --per-class 150 --json --device {device}");
    let told = |output: Output| String::from_utf8(output.stdout).unwrap();
    // Later it has a classifier already.
    trained(zgan(&eval("cuda")));
    let report = told(zgan(&eval("cuda")).output().unwrap());
    assert_eq!(told(zgan(&eval("cuda:all")).output().unwrap()), report);
    let all = processes(2, |_| zgan(&(eval("cuda") + " --rendezvous meet")));
    assert_eq!(all.into_iter().map(told).collect::<Vec<_>>(), [report, String::new()]);
    for (device, out) in [("cuda", "alone"), ("cuda:0,2", "two")] {
        trained(zgan(&format!("sample --run a --count 520 --device {device} --out {out}")));
    }
    assert!(place.program("diff").args(["-r", "alone", "two"]).status().unwrap().success());
}

/// One line says which rank it was and why, and the last checkpoint is whole.
#[test]
fn a_gpu_that_fails_ends_the_training() {
    if !has_code("a_gpu_that_fails_ends_the_training") {
        return;
    }
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path();
    let small = ["--preset", "ring", "--width", "8", "--steps", "10", "--force"];
    for (driver, nccl, why) in [
        ("devices=2", "rank=0,call=9", "error: rank 0 of 2: ncclAllReduce: unhandled system error"),
        ("devices=2", "error=20", "rank 1 of 2: a collective: remote process exited or there was a network error"),
        ("devices=2", "hang=20", "no answer from the other ranks within 1 seconds"),
        ("devices=2,launch=300", "", "illegal memory access"),
        ("devices=2,allocation=2", "", "asked for"),
    ] {
        let patience = if nccl.starts_with("hang") { "1" } else { "60" };
        let mut command = zgan(runs, "a", "cuda:all", nccl, &[&small[..], &["--timeout", patience]].concat());
        let output = command.env("ZGAN_STAND_IN", driver).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{nccl}: {told}");
        assert!(told.contains(why) && told.matches("error: ").count() == 1, "{driver} {nccl}: {told}");
        let saved = zgan::run::checkpoints(&runs.join("a")).unwrap_or_default();
        assert!(saved.iter().all(|(_, path)| checkpoint::load_finite(path).is_ok()), "{nccl}");
    }
    // Numbers that are not finite are so for all.
    let diverging = [&small[..], &["--lr-g", "1e9", "--lr-d", "1e9", "--r1", "0"]].concat();
    let output = zgan(runs, "a", "cuda:all", "", &diverging).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("the training diverged") && told.matches("error: ").count() == 1, "{told}");
    // A signal makes all of them finish the step, and save once.
    let endless = ["--preset", "ring", "--width", "8", "--steps", "1000000", "--force"];
    let child =
        zgan(runs, "a", "cuda:all", "", &endless).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while std::fs::read_to_string(runs.join("a/metrics.csv")).unwrap_or_default().lines().count() < 5 {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-USR1", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert_eq!(said(&output).matches("saved; go on with").count(), 1, "{}", said(&output));
}

#[test]
fn without_nccl_it_says_what_to_install_and_python_s_package_is_found() {
    if !has_code("without_nccl_it_says_what_to_install_and_python_s_package_is_found") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (driver, packages) = (place.path().join("driver"), place.path().join("venv/lib/python3.11/site-packages"));
    let wheel = packages.join("nvidia/nccl/lib");
    for (folder, library, name) in [(&driver, "libcuda.so", "libcuda.so.1"), (&wheel, "libnccl.so", "libnccl.so.2")] {
        std::fs::create_dir_all(folder).unwrap();
        std::os::unix::fs::symlink(stand_in::folder().join(library), folder.join(name)).unwrap();
    }
    let run = |venv: &Path, nccl: &str| {
        let mut command =
            zgan(place.path(), "a", "cuda:all", nccl, &["--preset", "ring", "--width", "8", "--steps", "1"]);
        command
            .env("LD_LIBRARY_PATH", &driver)
            .env("VIRTUAL_ENV", venv)
            .env("CONDA_PREFIX", "")
            .env("HOME", "/nowhere");
        command.env("PATH", "/nowhere").output().unwrap()
    };
    let output = run(Path::new("/nowhere"), "");
    if output.status.success() {
        return println!("left out: this machine has NCCL");
    }
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("libnccl.so.2 was not found") && told.contains("pip install nvidia-nccl-cu12"), "{told}");
    let old = run(&place.path().join("venv"), "version=2804");
    assert!(said(&old).contains("cannot be used: its version is 2804, and 20900 is needed"), "{}", said(&old));
    let found = run(&place.path().join("venv"), "");
    assert!(found.status.success(), "{}", said(&found));
    // Several GPUs are not for all commands, and each of them is there once.
    for (command, device, why) in [
        ("bench", "cuda:all", "several GPUs are for zgan train, sample and eval; one of them is cuda:0"),
        ("train", "cuda:0,0", "cuda:0 is there twice"),
        ("train", "cuda:0,x", "cuda:N,N,..."),
        ("train", "cuda:0,64", "the last one can be cuda:63"),
        ("train", "cuda:0,7", "cuda:0 to cuda:3"),
    ] {
        let mut zgan = Command::new(env!("CARGO_BIN_EXE_zgan"));
        zgan.args([command, "--device", device]).env("LD_LIBRARY_PATH", stand_in::folder());
        let output = zgan.env("ZGAN_STAND_IN", "devices=4").current_dir(place.path()).output().unwrap();
        assert!(!output.status.success() && said(&output).contains(why), "{device}: {}", said(&output));
    }
}

/// An id, as NCCL makes them.
fn id(seed: u8) -> [u8; 128] {
    std::array::from_fn(|i| (i as u8).wrapping_mul(seed))
}

#[test]
fn ranks_meet_at_a_file_whatever_an_earlier_start_left() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meet");
    // An answer of a rank 0 that is gone, numbers of ranks that nobody answered, and a failure.
    let old = ["00\n-\n0123456789abcdef\n0123456789abcdef", "0123456789abcdef", "no\nnumber", "rank 1: no memory"];
    for (name, text) in ["meet", "meet.rank-1", "meet.rank-2", "meet.failed"].into_iter().zip(old) {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let meet = |rank| Meeting::at_file(&file, (rank, 3), LONG, || Ok(id(7))).unwrap();
    let meetings: Vec<Meeting> = thread::scope(|scope| {
        let ranks = [0, 1, 2].map(|rank| scope.spawn(move || meet(rank)));
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert!(meetings.iter().all(|meeting| (meeting.id, meeting.failure()) == (id(7), None)));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [""; 0]);
    meetings[1].fail("no memory");
    meetings[0].fail("the other one is gone");
    assert_eq!(meetings[0].failure().as_deref(), Some("rank 1 of 3: no memory"));
}

#[test]
fn who_does_not_come_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meet");
    let meet = |rank, timeout| Meeting::at_file(&file, rank, timeout, || Ok(id(7)));
    let error = |rank, timeout| meet(rank, timeout).err().unwrap().to_string();
    let missing = error((0, 3), Duration::ZERO);
    assert!(missing.ends_with("did not come within 0 seconds: 1, 2"), "{missing}");
    let missing = error((1, 3), Duration::ZERO);
    assert!(missing.ends_with("rank 0 did not come within 0 seconds"), "{missing}");
    thread::scope(|scope| {
        scope.spawn(|| meet((0, 2), LONG).unwrap());
        let other = error((1, 3), LONG);
        assert!(other.ends_with("rank 0 counts 2 ranks, rank 1 3"), "{other}");
    });
}

#[test]
fn threads_agree_on_the_largest_number_or_hear_of_a_failure() {
    let meetings = Meeting::in_a_room(3, id(1), LONG);
    thread::scope(|scope| {
        for meeting in &meetings {
            scope.spawn(|| {
                for turn in 0..100 {
                    let agreed = meeting.agree(turn * 10 + meeting.rank as u64, turn % 2 == 0).unwrap().unwrap();
                    assert_eq!(agreed, turn * 10 + 2);
                }
                if meeting.rank == 1 {
                    return meeting.fail("no memory");
                }
                let error = meeting.agree(0, true).unwrap().unwrap_err().to_string();
                assert_eq!(error, "rank 1 of 3: no memory");
            });
        }
    });
    let meetings = Meeting::in_a_room(2, id(1), Duration::ZERO);
    let error = meetings[0].agree(0, false).unwrap().unwrap_err().to_string();
    assert_eq!(error, "rank 0 of 2: no answer from the other ranks within 0 seconds");
    assert_eq!(meetings[1].failure(), Some(error));
}

#[test]
fn the_environment_says_which_of_how_many() {
    let of = |environment: &[(&str, usize)]| {
        let value = |name: &str| environment.iter().find(|(there, _)| *there == name).map(|(_, value)| *value);
        Started::among(&value).map(|s| (s.rank, s.ranks, s.local, s.variable))
    };
    let open_mpi = [("OMPI_COMM_WORLD_SIZE", 4), ("OMPI_COMM_WORLD_RANK", 3), ("OMPI_COMM_WORLD_LOCAL_RANK", 1)];
    assert_eq!(of(&open_mpi), Some((3, 4, Some(1), "OMPI_COMM_WORLD_SIZE")));
    assert_eq!(of(&[("WORLD_SIZE", 2), ("RANK", 0)]), Some((0, 2, None, "WORLD_SIZE")));
    assert_eq!(of(&[("SLURM_NTASKS", 8), ("SLURM_PROCID", 7)]), Some((7, 8, None, "SLURM_NTASKS")));
    // A single process, or the shell of a job.
    for alone in [vec![], vec![("WORLD_SIZE", 1), ("RANK", 0)], vec![("SLURM_NTASKS", 8)], vec![("RANK", 3)]] {
        assert_eq!(of(&alone), None);
    }
    // mpirun and srun say of their processes what the job around them does not know; torchrun's are more than srun's.
    let job = [("SLURM_NTASKS", 8), ("SLURM_PROCID", 0)];
    assert_eq!(of(&[&job[..], &[("OMPI_COMM_WORLD_SIZE", 1), ("OMPI_COMM_WORLD_RANK", 0)]].concat()), None);
    assert_eq!(of(&[&job[..], &[("SLURM_STEP_NUM_TASKS", 1)]].concat()), None);
    let both = of(&[&job[..], &[("WORLD_SIZE", 16), ("RANK", 9)]].concat());
    assert_eq!(both, Some((9, 16, None, "WORLD_SIZE")));
    let one = of(&[&job[..], &[("WORLD_SIZE", 1), ("RANK", 0)]].concat());
    assert_eq!(one, Some((0, 8, None, "SLURM_NTASKS")));
}
