//! Processes that mpirun starts train as one does, and end together. `ZGAN_KILLS` says how many of them are killed.

mod common;
#[path = "common/place.rs"]
mod place;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::Random;
use place::{Place, ZGAN, text};
use zgan::checkpoint::NamedTensor;
use zgan::device::{Communicator, Device, Mpi, Reduction, started};
use zgan::eval::inception;
use zgan::exchange::file;

const TRAIN: &str = "train --preset ring --device host --threads 1 --batch 10 --width 16 --log-every 1 --sample-every 7 \
                     --checkpoint-every 5 --keep-checkpoints 0 --tensorboard false --no-eval";
const STEPS: u64 = 30;
/// Nothing is saved before something happens.
const ENDLESS: &str = "train --preset ring --device host --threads 1 --batch 10 --width 16 --steps 1000000 --log-every 1 \
                       --sample-every 0 --checkpoint-every 0 --tensorboard false --no-eval";

/// Makes the test program one of several ranks.
const A_RANK: &str = "ZGAN_TEST_RANK";

impl Place {
    /// So many processes of a program. Each leaves its number in the file `pid.RANK`.
    fn ranks(&self, ranks: usize, line: &str) -> Command {
        let mut command = self.program("mpirun");
        command.args(["--oversubscribe", "--bind-to", "none", "-np", &ranks.to_string(), "bash", "-c"]);
        command.arg(format!("echo $$ >pid.$OMPI_COMM_WORLD_RANK; exec {line}"));
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command
    }

    fn zgan(&self, ranks: usize, arguments: &str) -> Command {
        match ranks {
            0 => {
                let mut alone = self.program(ZGAN);
                alone.args(arguments.split_whitespace());
                alone
            }
            _ => self.ranks(ranks, &format!("{ZGAN} {arguments}")),
        }
    }

    #[track_caller]
    fn says(&self, ranks: usize, arguments: &str, code: i32, parts: &[&str]) -> String {
        place::says(&mut self.zgan(ranks, arguments), &format!("{ranks} ranks: {arguments}"), code, parts)
    }

    /// Sends a signal to a rank.
    fn signal(&self, rank: usize, signal: &str) {
        let process = self.read(&format!("pid.{rank}"));
        assert!(Command::new("kill").args([signal, process.trim()]).status().unwrap().success());
    }

    /// Starts processes and reads what they say up to a line with this text.
    fn until(&self, mut command: Command, words: &str) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it ended by itself");
        }
        (child, said)
    }

    /// The losses and norms of each step.
    fn numbers(&self, run: &str) -> Vec<Vec<f64>> {
        let log = self.read(&format!("runs/{run}/metrics.csv"));
        let row = |row: &str| {
            let cells: Vec<&str> = row.split(',').collect();
            // Seconds, and images a second, are others each time.
            let numbers = cells.iter().enumerate().filter(|(i, _)| *i != 1 && *i + 1 != cells.len());
            numbers.map(|(_, cell)| cell.parse().unwrap_or(0.0)).collect()
        };
        log.lines().skip(1).map(row).collect()
    }

    #[track_caller]
    fn assert_same_losses(&self, run: &str, other: &str) {
        let (these, those) = (self.numbers(run), self.numbers(other));
        assert_eq!(these.len(), those.len());
        for (these, those) in these.iter().zip(&those) {
            // The step, and the losses.
            for (this, that) in these.iter().zip(those).take(3) {
                assert!((this - that).abs() <= 1e-4 * that.abs().max(0.1), "step {}: {this}, {that}", those[0]);
            }
        }
    }
}

/// What a child says until its end, and its status.
fn ended(mut child: Child, mut said: impl Read) -> (Option<i32>, String) {
    let mut all = String::new();
    said.read_to_string(&mut all).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut all).unwrap();
    (child.wait().unwrap().code(), all)
}

/// One of the processes of `what_ranks_exchange_is_right`, which starts it by mpirun; by itself it is none.
#[test]
fn a_rank() {
    if std::env::var_os(A_RANK).is_none() {
        return;
    }
    let ranks = Mpi::join(started().unwrap(), Some(Duration::from_secs(60))).unwrap();
    let (rank, count) = (ranks.rank(), ranks.ranks());
    let device = Device::host(1).unwrap();
    let mut digest = flate2::Crc::new();
    for len in [0, 1, 7, 1000, 200_001] {
        let of = |rank: usize| -> Vec<f32> {
            let mut random = Random((len + 31 * rank) as u64);
            (0..len).map(|_| random.normal() as f32).collect()
        };
        let all: Vec<Vec<f32>> = (0..count).map(of).collect();
        let buffer = device.upload(&all[rank]).unwrap();
        ranks.all_reduce(&buffer, Reduction::Sum).unwrap();
        let sums = buffer.read().unwrap();
        for (i, sum) in sums.iter().enumerate() {
            let exact: f64 = all.iter().map(|of| f64::from(of[i])).sum();
            assert!((f64::from(*sum) - exact).abs() < 1e-5, "{i} of {len}: {sum}, expected {exact}");
        }
        // The same bits everywhere, and in the next run.
        let mut crc = flate2::Crc::new();
        crc.update(&sums.iter().flat_map(|sum| sum.to_le_bytes()).collect::<Vec<_>>());
        assert_eq!(ranks.gather(crc.sum().into()).unwrap(), vec![u64::from(crc.sum()); count]);
        digest.update(&crc.sum().to_le_bytes());

        buffer.write(&all[rank]).unwrap();
        ranks.all_reduce(&buffer, Reduction::Max).unwrap();
        let largest = |i: usize| all.iter().map(|of| of[i]).fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(buffer.read().unwrap(), (0..len).map(largest).collect::<Vec<_>>());
        for (from, expected) in all.iter().enumerate() {
            buffer.write(&all[rank]).unwrap();
            ranks.broadcast(&buffer, from).unwrap();
            assert_eq!(buffer.read().unwrap(), *expected);
        }
        // What each has apart from the others becomes one array.
        let shared = device.zeros::<f32>(len * count).unwrap();
        shared.view(len * rank..len * (rank + 1)).write(&all[rank]).unwrap();
        ranks.all_reduce(&shared, Reduction::Sum).unwrap();
        assert_eq!(shared.read().unwrap(), all.concat());
    }
    assert_eq!(ranks.agree(u64::MAX - rank as u64).unwrap(), u64::MAX);
    assert_eq!(ranks.gather(100 + rank as u64).unwrap(), (100..100 + count as u64).collect::<Vec<_>>());
    ranks.wait().unwrap();
    if rank == 0 {
        println!("digest {:08x} of {count}.", digest.sum());
    }
    Mpi::leave();
}

#[test]
fn what_ranks_exchange_is_right() {
    let place = Place::new();
    let this = std::env::current_exe().unwrap();
    let run = |ranks| {
        let line = format!("{} --exact a_rank --nocapture", this.display());
        let said = place::says(place.ranks(ranks, &line).env(A_RANK, "1"), &line, 0, &[&format!(" of {ranks}.")]);
        said.lines().find(|line| line.contains("digest")).unwrap().split("digest").nth(1).unwrap().to_string()
    };
    for ranks in [2, 3, 4] {
        assert_eq!(run(ranks), run(ranks));
    }
}

#[test]
fn several_processes_train_as_one_does() {
    let place = Place::new();
    place.says(0, &format!("{TRAIN} --steps {STEPS} --run alone"), 0, &[]);
    for ranks in 1..=4 {
        let said = place.says(ranks, &format!("{TRAIN} --steps {STEPS} --run r{ranks}"), 0, &["host: 1 thread"]);
        if ranks > 1 {
            let last = ranks - 1;
            assert!(said.contains(&format!("ranks   {ranks}\n        ranks 0 to {last}: host: 1 thread")), "{said}");
        }
        // One of them speaks and writes.
        assert_eq!(said.matches("step 7/30").count(), 1, "{said}");
        place.assert_same_losses(&format!("r{ranks}"), "alone");
        let files = |run: &str| {
            let mut names = Vec::new();
            for folder in ["", "samples", "checkpoints"] {
                let entries = std::fs::read_dir(place.path(&format!("runs/{run}/{folder}"))).unwrap();
                names.extend(entries.map(|entry| entry.unwrap().file_name()));
            }
            names.sort();
            names
        };
        assert_eq!(files(&format!("r{ranks}")), files("alone"));
        assert_eq!(place.read(&format!("runs/r{ranks}/config.toml")), place.read("runs/alone/config.toml"));
    }
    // Another number of processes goes on, and one alone as well.
    for (run, before, after) in [("a", 2, 3), ("b", 3, 0), ("c", 0, 2)] {
        place.says(before, &format!("{TRAIN} --steps {STEPS} --stop-at 10 --run {run}"), 0, &["stopped after step 10"]);
        place.says(after, &format!("train --resume {run} --threads 1 --no-eval"), 0, &["steps 10 to 30 of 30"]);
        place.assert_same_losses(run, "alone");
    }
    // The same number of processes, the same bits.
    place.says(3, &format!("{TRAIN} --steps {STEPS} --run again"), 0, &[]);
    let bits = |run: &str| std::fs::read(place.checkpoint(run, STEPS)).unwrap();
    assert!(bits("again") == bits("r3"));
}

#[test]
fn images_of_a_folder_are_drawn_by_several_processes() {
    let place = Place::new();
    let train = "train --preset softmax-gan --device host --threads 1 --batch 5 --steps 2 --run a --no-eval";
    place.says(2, train, 0, &["trained in"]);
    for (ranks, out) in [(0, "alone"), (2, "two")] {
        let sample = format!("sample --run a --device host --threads 1 --count 1030 --out {out}");
        let said = place.says(ranks, &sample, 0, &["1030 images after step 2"]);
        assert_eq!(said.matches("1030 images").count(), 1, "{said}");
    }
    assert!(place.program("diff").args(["-r", "alone", "two"]).status().unwrap().success());
    place.says(2, "sample --run a --device host", 2, &["zgan sample of one file is the work of one process"]);
}

#[test]
fn several_processes_judge_as_one_does() {
    let place = Place::new();
    place.folder_of_noise("noise");
    let train =
        "train --preset mnist --data folder:noise --size 16 --width 2 --batch 4 --device host --threads 1 --steps 1";
    place.says(0, &format!("{train} --no-eval --run a"), 0, &[]);
    let eval = "eval --run a --device host --threads 1 --per-class 200 --json";
    // One of them trains the classifier, and keeps it.
    let first = place.says(3, eval, 0, &["it will be kept", "\"generated\": 400"]);
    assert_eq!(first.matches("it will be kept").count(), 1, "{first}");
    let told = |ranks| String::from_utf8(place.zgan(ranks, eval).output().unwrap().stdout).unwrap();
    assert!(first.contains(&told(0)) && told(2) == told(0), "{first}");
    let seeds = format!("{ZGAN} {eval} --seed $OMPI_COMM_WORLD_RANK");
    place::says(&mut place.ranks(2, &seeds), &seeds, 1, &["rank 1 has not the same command line as rank 0"]);
}

/// Weights of Inception by chance.
fn inception_weights() -> Vec<NamedTensor> {
    let mut random = Random(1);
    let mut tensor = |(name, shape): (String, Vec<usize>)| {
        let reach = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
        let one = name.ends_with("weight") || name.ends_with("running_var");
        let mut value = || match shape.len() {
            1 => f32::from(u8::from(one)),
            _ => ((2.0 * random.uniform() - 1.0) * reach) as f32,
        };
        let values = (0..shape.iter().product()).map(|_| value()).collect();
        NamedTensor { name, shape, values }
    };
    inception::tensors().into_iter().map(&mut tensor).collect()
}

#[test]
fn images_are_judged_during_a_training_by_several_processes() {
    let place = Place::new();
    place.folder_of_noise("noise");
    // Two of its pictures do.
    for i in 2..10 {
        std::fs::remove_file(place.path(&format!("noise/{}/{i}.png", ["ant", "bee"][i % 2]))).unwrap();
    }
    file::write(&place.path("inception.safetensors"), &BTreeMap::new(), &inception_weights(), &[]).unwrap();
    let judging = "--inception inception.safetensors --eval-every 1 --eval-images 2 --eval-metrics fid --keep-best fid";
    let train = "train --preset softmax-gan --data folder:noise --size 8 --batch 2 --steps 1 --device host --threads 1";
    let parts = ["real    2 images go through Inception", "step 1: fid ", "(2 generated, 2 real)"];
    let said = place.says(2, &format!("{train} {judging} --no-eval --run a"), 0, &parts);
    assert!(said.matches("step 1: fid ").count() == 1, "{said}");
    assert!(place.path("runs/a/checkpoints/best.safetensors").is_file());
}

#[test]
fn several_processes_say_what_they_would_take_and_time_a_step() {
    let place = Place::new();
    let said = place.says(2, &format!("{TRAIN} --dry-run"), 0, &[" MiB on each device", "nothing is wrong"]);
    assert_eq!(said.matches("nothing is wrong").count(), 1, "{said}");
    let bytes = |ranks| {
        let said =
            place.says(ranks, "train --preset softmax-gan --device host --threads 1 --dry-run", 0, &["time    about"]);
        let line = said.lines().find_map(|line| line.strip_prefix("memory  ")).unwrap();
        line.split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(bytes(3) < bytes(0), "a share takes less");
    let bench = "bench --device host --threads 1 --tiny --time 0";
    let said = place.says(2, &format!("{bench} --preset ring"), 0, &[" % ", "of it in exchanges between 2 ranks"]);
    assert_eq!(said.matches("\nstep, ring").count(), 1, "{said}");
    let said = place.says(2, &format!("{bench} --preset ring --json"), 0, &["\"ranks\": 2"]);
    let share = said.split("\"exchanging\": ").nth(1).unwrap().split([',', '\n']).next().unwrap();
    assert!((0.0..1.0).contains(&share.parse::<f64>().unwrap()), "{share}");
    for other in ["matmul", "--model h100"] {
        let parts = ["zgan bench of other things than steps is the work of one process"];
        place.says(2, &format!("{bench} {other}"), 2, &parts);
    }
}

#[test]
fn the_end_of_one_is_the_end_of_all() {
    let place = Place::new();
    let endless = |run: &str| format!("{ENDLESS} --run {run}");
    // Different settings, or images that one of them does not have.
    let line = format!("{ZGAN} {} --seed $((5 + OMPI_COMM_WORLD_RANK / 2))", endless("a"));
    let said = place::says(&mut place.ranks(3, &line), &line, 1, &["rank 2 has not the same settings as rank 0"]);
    assert!(said.contains("error: rank 0 of 3: ") && !place.path("runs").exists(), "{said}");
    let line = format!("{ZGAN} train --device host --threads 1 --data idx:$OMPI_COMM_WORLD_RANK --batch 2");
    let said = place::says(&mut place.ranks(2, &line), &line, 1, &["error: rank 0 of 2: ", "/0: no such folder"]);
    assert_eq!(said.matches("error: rank").count(), 1, "{said}");
    // All of them see that the numbers are not finite. One says so.
    let said = place.says(3, &format!("{} --lr-g 1e9 --lr-d 1e9", endless("b")), 1, &["the training diverged"]);
    assert_eq!(said.matches("error: rank 0 of 3: ").count(), said.matches("error: ").count(), "{said}");
    // What several processes do not share out.
    place.says(2, "info", 2, &["zgan info is the work of one process, not of several"]);

    // One that stands still.
    let (child, said) = place.until(place.zgan(3, &format!("{} --timeout 3", endless("c"))), "step 20/");
    place.signal(1, "-STOP");
    let (code, said) = ended(child, said);
    assert!(code != Some(0) && said.contains("error: rank 0 of 3: rank 1 has not come to "), "{code:?}: {said}");
    // One that is gone.
    let (child, said) = place.until(place.zgan(3, &endless("d")), "step 20/");
    place.signal(2, "-KILL");
    let (code, said) = ended(child, said);
    assert!(code != Some(0), "{said}");
}

#[test]
fn a_signal_to_one_makes_all_save() {
    let place = Place::new();
    for (rank, signal) in [(0, "-INT"), (1, "-USR1"), (2, "-TERM")] {
        let (child, said) = place.until(place.zgan(3, &format!("{ENDLESS} --run a --force")), "step 20/");
        place.signal(rank, signal);
        let (code, said) = ended(child, said);
        assert_eq!(code, Some(130), "{said}");
        assert_eq!(said.matches("saved; go on with").count(), 1, "{said}");
        let saved = std::fs::read_dir(place.path("runs/a/checkpoints")).unwrap().count();
        assert_eq!(saved, 1);
        place.says(2, "train --resume a --stop-at 1 --no-eval", 0, &["is at step"]);
    }
}

#[test]
fn whichever_process_is_killed_and_whenever_the_run_goes_on() {
    let kills: usize = std::env::var("ZGAN_KILLS").map_or(5, |text| text.parse().unwrap());
    let mut random = Random(std::env::var("ZGAN_SEED").map_or(1, |text| text.parse().unwrap()));
    let place = Place::new();
    let train = format!("{TRAIN} --steps {STEPS}");
    let mut whole = Duration::ZERO;
    for ranks in 2..=3 {
        let begun = std::time::Instant::now();
        place.says(ranks, &format!("{train} --run through{ranks}"), 0, &[]);
        whole = begun.elapsed();
    }
    for _ in 0..kills {
        let ranks = 2 + random.below(2);
        // What the last one left was saved by other numbers of processes.
        let _ = std::fs::remove_dir_all(place.path("runs/a"));
        let _ = std::fs::remove_file(place.path("pid.0"));
        let victim = random.below(ranks);
        let mut command = place.zgan(ranks, &format!("{train} --run a"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let at = Duration::from_secs_f64(random.uniform() * 1.1 * whole.as_secs_f64());
        std::thread::sleep(at);
        // It may not have begun, or be at its end.
        let process = std::fs::read_to_string(place.path(&format!("pid.{victim}"))).unwrap_or_default();
        let _ = Command::new("kill").args(["-KILL", process.trim()]).stderr(Stdio::null()).status();
        let output = child.wait_with_output().unwrap();
        // What is saved is what a training that nobody disturbs saves.
        let saved = zgan::run::checkpoints(&place.path("runs/a")).unwrap_or_default();
        for (step, path) in &saved {
            let undisturbed = std::fs::read(place.checkpoint(&format!("through{ranks}"), *step)).unwrap();
            assert!(std::fs::read(path).unwrap() == undisturbed, "step {step} of {ranks} ranks, killed after {at:?}");
        }
        if saved.is_empty() {
            assert!(!output.status.success(), "{}", text(&output));
            continue;
        }
        let (last, others) = (saved[saved.len() - 1].0, [3, 2][ranks - 2]);
        let parts = if last == STEPS { "is at step 30 of 30 already" } else { "trained in" };
        place.says(others, "train --resume a --threads 1 --no-eval", 0, &[parts]);
        place.assert_same_losses("a", "through2");
    }
}
