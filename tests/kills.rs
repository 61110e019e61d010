//! A training that is killed at any moment, again and again, goes on and ends as one that went through. `ZGAN_KILLS` says how
//! many kills there are.
#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::Random;

const STEPS: u64 = 60;

fn zgan(folder: &Path, arguments: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zgan"));
    command.args(arguments.split_whitespace()).current_dir(folder).env("ZGAN_TUNING", "off");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_training_that_is_killed_at_any_moment_goes_on() {
    let kills: usize = std::env::var("ZGAN_KILLS").map_or(10, |text| text.parse().unwrap());
    let seed = std::env::var("ZGAN_SEED").map_or(1, |text| text.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let train = format!(
        "train --preset ring --device host --threads 1 --batch 16 --width 16 --steps {STEPS} --log-every 1 \
         --sample-every 7 --checkpoint-every 5 --no-eval"
    );
    let begun = std::time::Instant::now();
    assert_eq!(ended(zgan(folder, &format!("{train} --run through"))).0, Some(0));
    let whole = begun.elapsed();
    let last =
        |run: &str| std::fs::read(folder.join(format!("runs/{run}/checkpoints/step-{STEPS:06}.safetensors"))).unwrap();
    let expected = last("through");

    let mut random = Random(seed);
    let mut done = 0;
    while done < kills {
        // A run that is there is replaced, every other time before it has begun anew.
        let mut arguments = format!("{train} --run a --force");
        for _ in 0..6 {
            let mut child = zgan(folder, &arguments);
            std::thread::sleep(Duration::from_secs_f64(random.uniform() * 1.1 * whole.as_secs_f64()));
            child.kill().unwrap();
            let (code, said) = ended(child);
            assert!(matches!(code, None | Some(0)), "{said}");
            done += 1;
            let (code, said) = ended(zgan(folder, "train --resume a --stop-at 1 --no-eval"));
            match code {
                // Something is saved.
                Some(0) => arguments = "train --resume a --no-eval".into(),
                // It was killed before its first checkpoint, or before it was a run.
                _ if said.contains("has no checkpoint to go on from") || said.contains("no run is called a") => {}
                _ => panic!("after a kill: {said}"),
            }
            // What is there is a run, whole.
            for name in names(&folder.join("runs")) {
                let run = folder.join("runs").join(&name);
                assert!(name.starts_with(".zgan-") || run.join("config.toml").is_file(), "{name} is half made");
            }
        }
        let (code, said) = ended(zgan(folder, &arguments));
        assert_eq!(code, Some(0), "{said}");
        assert!(last("a") == expected, "other bits after {done} kills");
        let log = std::fs::read_to_string(folder.join("runs/a/metrics.csv")).unwrap();
        let steps: Vec<u64> = log.lines().skip(1).map(|row| row.split(',').next().unwrap().parse().unwrap()).collect();
        assert_eq!(steps, (1..=STEPS).collect::<Vec<_>>());
        // Besides, each session leaves its own events.
        let left = names(&folder.join("runs/a")).into_iter().filter(|name| !name.starts_with("events.out.tfevents."));
        let expected = ["checkpoints", "config.toml", "metrics.csv", "samples", "tuning.toml"];
        assert!(left.clone().eq(expected), "{:?}", left.collect::<Vec<_>>());
        for part in ["checkpoints", "samples"] {
            let part = names(&folder.join("runs/a").join(part));
            assert!(part.iter().all(|name| name.starts_with("step-")), "{part:?}");
        }
        // What was left beside it goes with the next new run.
        let next = train.replace(&format!("--steps {STEPS}"), "--steps 1");
        assert_eq!(ended(zgan(folder, &format!("{next} --run next --force"))).0, Some(0));
        assert_eq!(names(&folder.join("runs")), ["a", "next", "through"]);
    }
}
