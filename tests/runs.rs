//! Runs and their files, whatever happened to them: cut off starts, changed logs, files that somebody made up, too little
//! memory, signals. Every test runs the built program in a folder of its own.
#![cfg(unix)]

#[path = "common/place.rs"]
mod place;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use place::{Place, ZGAN, says, text};
use zgan::checkpoint::{Header, NamedTensor, load, save};
use zgan::data::ImageShape;
use zgan::picture::Picture;
use zgan::tensorboard::{Events, START, checksum};

const TRAIN: &str = "train --preset softmax-gan --device host --batch 16 --no-eval";

impl Place {
    /// Runs a line of bash, in which `zgan` is the program.
    fn bash(&self, line: &str) -> Command {
        let mut command = self.program("bash");
        command.args(["-c", &format!("zgan() {{ {ZGAN} \"$@\"; }}; {line}")]);
        command.env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    /// The line must end with `code`, and say all of `parts`.
    #[track_caller]
    fn says(&self, line: &str, code: i32, parts: &[&str]) -> String {
        says(&mut self.bash(line), line, code, parts)
    }

    fn mode(&self, name: &str) -> u32 {
        std::fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    /// Everything in the folder of this name.
    fn names(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(name)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Changes a checkpoint, whose checksum is right again afterwards.
    fn craft(&self, run: &str, step: u64, change: impl FnOnce(&mut Header, &mut Vec<NamedTensor>)) {
        let path = self.checkpoint(run, step);
        let (mut header, mut tensors) = load(&path).unwrap();
        change(&mut header, &mut tensors);
        save(&path, &tensors, &header).unwrap();
    }
}

#[test]
fn files_have_the_mode_that_the_umask_gives() {
    for (umask, mode) in [("022", 0o644), ("077", 0o600), ("002", 0o664)] {
        let place = Place::new();
        place.says(&format!("umask {umask}; zgan {TRAIN} --steps 2 --run a"), 0, &[]);
        for file in ["config.toml", "metrics.csv", "samples/step-000002.png", "checkpoints/step-000002.safetensors"] {
            assert_eq!(place.mode(&format!("runs/a/{file}")), mode, "{file} under umask {umask}");
        }
        assert_eq!(place.names("runs/a/checkpoints"), ["step-000002.safetensors"]);
        assert_eq!(place.names("runs"), ["a"]);
    }
}

#[test]
fn what_killed_programs_left_is_removed_by_the_next_start() {
    let place = Place::new();
    place.says(&format!("zgan {TRAIN} --steps 4 --stop-at 2 --run a"), 0, &[]);
    // No process has such a number.
    for left in ["step-000003.safetensors.4194305.unfinished", "step-000003.safetensors.unfinished", ".tmpAb3dE9"] {
        std::fs::write(place.path(&format!("runs/a/checkpoints/{left}")), "half").unwrap();
    }
    std::fs::create_dir_all(place.path("runs/.zgan-4194305-0.unfinished/samples")).unwrap();
    place.says("zgan train --resume a --no-eval", 0, &[]);
    assert_eq!(place.names("runs/a/checkpoints"), ["step-000002.safetensors", "step-000004.safetensors"]);
    place.says(&format!("zgan {TRAIN} --steps 2 --run b"), 0, &[]);
    assert_eq!(place.names("runs"), ["a", "b"]);
}

/// A limit on the size of files stands for a disk that is full.
#[test]
fn a_start_on_a_full_disk_leaves_nothing_and_replaces_nothing() {
    let place = Place::new();
    let full = |arguments: &str| format!("ulimit -f 0; zgan {TRAIN} --steps 2 {arguments}");
    for arguments in ["--run a", "--run a --force", ""] {
        place.says(&full(arguments), 1, &["toml", "File too large"]);
        assert!(place.names("runs").is_empty(), "{:?}", place.names("runs"));
    }
    place.says(&format!("zgan {TRAIN} --steps 2 --run a"), 0, &[]);
    let before = std::fs::read(place.checkpoint("a", 2)).unwrap();
    place.says(&full("--run a --force"), 1, &["File too large"]);
    assert_eq!(std::fs::read(place.checkpoint("a", 2)).unwrap(), before, "the run is still there");
    assert_eq!(place.names("runs"), ["a"]);
}

#[test]
fn a_run_whose_start_was_cut_off_is_told_and_replaced() {
    let place = Place::new();
    for parts in [&["samples"][..], &["samples", "checkpoints"], &["config.toml.12345.unfinished"]] {
        let _ = std::fs::remove_dir_all(place.path("runs"));
        for part in parts {
            std::fs::create_dir_all(place.path("runs/a").join(part)).unwrap();
        }
        place.says(&format!("zgan {TRAIN} --steps 2 --run a"), 2, &["run a is half made (runs/a)", "--force"]);
        place.says("zgan train --resume a", 2, &["runs/a is half made", "--force"]);
        place.says("zgan sample --run a", 2, &["runs/a is half made"]);
        place.says(&format!("zgan {TRAIN} --steps 2 --run a --force"), 0, &[]);
        place.says("zgan train --resume a --steps 3 --no-eval", 0, &[]);
    }
    // A link to an empty folder, on another disk for instance, is filled.
    std::fs::create_dir(place.path("disk")).unwrap();
    std::os::unix::fs::symlink(place.path("disk"), place.path("runs/linked")).unwrap();
    place.says(&format!("zgan {TRAIN} --steps 2 --run linked"), 0, &[]);
    let left: Vec<_> = place.names("disk").into_iter().filter(|name| !name.starts_with(START)).collect();
    assert_eq!(left, ["checkpoints", "config.toml", "metrics.csv", "samples", "tuning.toml"]);
}

#[test]
fn a_changed_log_stays_and_the_run_goes_on_beside_it() {
    type Change = fn(&str) -> Vec<u8>;
    let changes: [(&str, Change); 9] = [
        ("semicolons", |rows| rows.replace(',', ";").into_bytes()),
        ("UTF-16", |rows| rows.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("a byte order mark", |rows| format!("\u{feff}{rows}").into_bytes()),
        ("the line ends of Windows", |rows| rows.replace('\n', "\r\n").into_bytes()),
        ("a cut last line", |rows| rows.as_bytes()[..rows.len() - 5].to_vec()),
        ("no end of the last line", |rows| rows.trim_end().as_bytes().to_vec()),
        ("no header", |rows| rows.lines().skip(1).map(|row| format!("{row}\n")).collect::<String>().into_bytes()),
        ("a remark", |rows| format!("{rows}# good until here\n").into_bytes()),
        ("another column", |rows| rows.replace('\n', ",mine\n").into_bytes()),
    ];
    let place = Place::new();
    place.says(&format!("zgan {TRAIN} --steps 9 --stop-at 3 --log-every 1 --run first"), 0, &[]);
    for (what, change) in changes {
        let _ = std::fs::remove_dir_all(place.path("runs/a"));
        place.says("cp -r runs/first runs/a", 0, &[]);
        let log = place.path("runs/a/metrics.csv");
        let changed = change(&std::fs::read_to_string(&log).unwrap());
        std::fs::write(&log, &changed).unwrap();
        let parts = ["runs/a/metrics.csv is not as this program wrote it", "runs/a/metrics-2.csv"];
        place.says("zgan train --resume a --no-eval --stop-at 6", 0, &parts);
        let said = place.says("zgan train --resume a --no-eval", 0, &[]);
        assert!(!said.contains("is not as"), "the second log is as it was written: {said}");
        assert_eq!(std::fs::read(&log).unwrap(), changed, "{what}: not a byte is lost");
        let fresh = std::fs::read_to_string(place.path("runs/a/metrics-2.csv")).unwrap();
        let steps: Vec<&str> = fresh.lines().map(|row| row.split(',').next().unwrap()).collect();
        assert_eq!(steps, ["step", "4", "5", "6", "7", "8", "9"], "{what}");
        place.says("zgan info a", 0, &["step 9"]);
    }
    // A folder of that name is no reason to refuse either. --force takes all logs of the run that it replaces.
    std::fs::remove_dir_all(place.path("runs/a")).unwrap();
    place.says("cp -r runs/first runs/a && mv runs/a/metrics.csv old.csv && mkdir runs/a/metrics.csv", 0, &[]);
    place.says("zgan train --resume a --no-eval", 0, &["metrics-2.csv"]);
    // Nor is a pipe.
    place.says("rm -r runs/a && cp -r runs/first runs/a && rm runs/a/metrics.csv && mkfifo runs/a/metrics.csv", 0, &[]);
    place.says("zgan train --resume a --no-eval", 0, &["metrics-2.csv"]);
    place.says("rm runs/a/metrics.csv", 0, &[]);
    place.says(&format!("zgan {TRAIN} --steps 2 --run a --force --tensorboard false"), 0, &[]);
    assert_eq!(place.names("runs/a"), ["checkpoints", "config.toml", "metrics.csv", "samples", "tuning.toml"]);
}

/// The log of a program that did not know all of today's columns goes on with them.
#[test]
fn an_older_log_goes_on_with_more_columns() {
    let place = Place::new();
    place.says(&format!("zgan {TRAIN} --steps 4 --stop-at 2 --log-every 1 --run a"), 0, &[]);
    let log = place.path("runs/a/metrics.csv");
    let whole = std::fs::read_to_string(&log).unwrap();
    // Without lr_d, lr_g and dead_logits, which stand before the last column.
    let cut = |row: &str| {
        let cells: Vec<&str> = row.split(',').collect();
        [&cells[..11], &cells[14..]].concat().join(",") + "\n"
    };
    std::fs::write(&log, whole.lines().map(cut).collect::<String>()).unwrap();
    let said = place.says("zgan train --resume a --no-eval", 0, &[]);
    assert!(!said.contains("is not as"), "{said}");
    let rows: Vec<String> = std::fs::read_to_string(&log).unwrap().lines().map(String::from).collect();
    assert_eq!((rows.len(), rows[0].as_str()), (5, whole.lines().next().unwrap()));
    let old: Vec<&str> = rows[1].split(',').collect();
    let before: Vec<&str> = whole.lines().nth(1).unwrap().split(',').collect();
    assert_eq!((&old[..11], &old[11..14], old[14]), (&before[..11], &["", "", ""][..], before[14]));
    assert!(rows[4].split(',').all(|cell| cell.parse::<f64>().is_ok()), "{}", rows[4]);
    place.says("zgan plot a", 0, &[]);
    assert!(std::fs::read_to_string(place.path("plot.html")).unwrap().contains("<h2>lr_d</h2>"));
}

#[test]
fn checkpoints_that_somebody_made_up_are_refused_at_once() {
    let place = Place::new();
    place.says("zgan train --preset mnist --device host --batch 4 --steps 1 --run a --no-eval", 0, &[]);
    let original = std::fs::read(place.checkpoint("a", 1)).unwrap();
    let file = "runs/a/checkpoints/step-000001.safetensors";
    let limited = "ulimit -v 1500000; zgan sample --run a --device host --threads 1 --out x.png";
    for height in [1 << 62, 1 << 40, 1 << 20, 1 << 15, 28 << 5, 0] {
        std::fs::write(place.checkpoint("a", 1), &original).unwrap();
        place.craft("a", 1, |header, _| header.data.shape.height = height);
        let (code, what) = match height {
            896 => (1, "generator.linear.weight"),
            1..=65_536 => (2, "cannot be built"),
            _ => (1, "its images are"),
        };
        place.says(limited, code, &[file, what]);
        // They are no images of this data either.
        place.says("zgan eval --run a --device host", if code == 2 || height == 896 { 2 } else { 1 }, &[file]);
    }
    for (name, value) in [("latent", i64::MAX), ("width", 1 << 40), ("latent", 60_000)] {
        std::fs::write(place.checkpoint("a", 1), &original).unwrap();
        place.craft("a", 1, |header, _| drop(header.config.insert(name.into(), value.into())));
        place.says(limited, 1, &[file]);
        let said = place.says("ulimit -v 1500000; zgan eval --run a --device host --threads 1", 1, &[file]);
        assert!(!said.contains("memory"), "{name} {value}: {said}");
    }
    std::fs::write(place.checkpoint("a", 1), &original).unwrap();
    place.craft("a", 1, |header, _| drop(header.config.insert("loss".into(), "none".into())));
    for command in ["train --resume a --steps 2", "sample --run a --device host", "eval --run a --device host"] {
        place.says(&format!("zgan {command}"), 1, &[file, "its settings", "`none`", "loss"]);
    }
    // Classes whose names lead elsewhere, or are one name, each have a folder of their own inside the one that is named.
    std::fs::write(place.checkpoint("a", 1), &original).unwrap();
    let names = ["..", ".", "", "../../escaped", "/tmp/escaped", "a", "a", "A", "b\0c", "d"];
    place.craft("a", 1, |header, _| header.data.classes = names.map(String::from).to_vec());
    place.says("zgan sample --run a --device host --count 20 --out deep/out", 0, &["20 images"]);
    assert_eq!(place.names("deep/out").len(), 10);
    assert_eq!(place.names("deep"), ["out"]);
    assert_eq!(place.names("."), ["deep", "runs"]);
}

#[test]
fn what_is_no_file_is_no_checkpoint() {
    let place = Place::new();
    place.says("mkfifo pipe", 0, &[]);
    for file in ["pipe", "/dev/zero", "."] {
        let line = format!("timeout 20 {ZGAN} sample --checkpoint {file} --device host");
        place.says(&line, 1, &[file, "not a file"]);
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_is_named_with_the_older_one() {
    let place = Place::new();
    place.says(&format!("zgan {TRAIN} --steps 9 --stop-at 4 --checkpoint-every 2 --run a"), 0, &[]);
    let (newest, older) = ("step-000004.safetensors", "step-000002.safetensors");
    let (_, tensors) = load(&place.checkpoint("a", 2)).unwrap();
    let first = tensors.iter().find(|t| t.name.starts_with("generator.")).unwrap().name.clone();
    place.craft("a", 4, |_, tensors| tensors.retain(|t| t.name != first));
    place.says("zgan train --resume a", 1, &[newest, older, &first, "is missing"]);
    place.says("zgan sample --run a --device host", 1, &[newest, older, &first, "is missing"]);
    place.craft("a", 4, |_, all| {
        let mut wrong = tensors.iter().find(|t| t.name == first).unwrap().clone();
        wrong.shape.push(1);
        all.push(wrong);
    });
    place.says("zgan train --resume a", 1, &[newest, older, &first, "has shape"]);
    place.says(&format!("rm runs/a/checkpoints/{newest}; zgan train --resume a --no-eval"), 0, &[]);
}

#[test]
fn too_little_memory_is_an_error_with_a_size_and_a_name() {
    let place = Place::new();
    let little = "ulimit -v 1200000; zgan";
    let train = format!("{little} {TRAIN} --threads 1");
    let large = train.replace("--batch 16", "--batch 4000 --latent 65536 --run a");
    place.says(&large, 1, &["GiB", "asked for"]);
    place.says(&format!("{train} --steps 1 --run a"), 0, &[]);
    // Nothing but its first bytes is on the disk.
    place.says("head -c 100 runs/a/checkpoints/*.safetensors > sparse && truncate -s 3G sparse", 0, &[]);
    place.says(&format!("{little} sample --checkpoint sparse --device host"), 1, &["sparse", "3.00 GiB"]);
    place.says("zgan info sparse", 1, &["sparse"]);
    let many =
        format!("{little} sample --run a --device host --threads 1 --count 65536 --interpolate 1024 --out x.png");
    let output = place.bash(&many).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output));
}

/// A folder that is larger than `--data-memory` is decoded once, into a file; where there is no room for it, in each epoch.
#[test]
fn a_full_disk_ends_packing_alone() {
    let place = Place::new();
    images(&place, "images", &["left", "right"], 200);
    let train = "train --preset mnist --device host --threads 1 --width 2 --batch 4 --steps 1 --no-eval --channels 3 \
                 --data folder:images --data-memory 0";
    place.says(&format!("zgan {train} --dry-run"), 0, &["streamed from the disk"]);
    assert_eq!(place.names("images"), ["left", "right"]);
    let begins =
        ["400 images are decoded once into /", "/images/.zgan-images-28x28x3, 0.9 MB; --pack false does without"];
    let ends = ["not packed: /", "/images/.zgan-images-28x28x3: File too large"];
    place.says(&format!("ulimit -f 800; zgan {train} --run full"), 0, &[begins, ends].concat());
    assert_eq!(place.names("images"), ["left", "right"]);
    let packed = [", packed in /", "/images/.zgan-images-28x28x3"];
    place.says(&format!("zgan {train} --run packed"), 0, &[begins, packed].concat());
    let said = place.says("zgan train --resume packed --steps 2 --no-eval", 0, &["packed in /"]);
    assert!(!said.contains("decoded once"), "{said}");
    place.says(&format!("zgan {train} --pack false --run decoded"), 0, &["streamed from the disk"]);
    let saved = |run| load(&place.checkpoint(run, 1)).unwrap().1;
    assert!(saved("full") == saved("packed") && saved("full") == saved("decoded"));
}

/// A grey PNG of zeros, or the beginning of one with more samples.
fn png(path: &std::path::Path, side: usize, depth: u8, colour: u8, rows: usize) {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        let both = [kind, data].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&both);
        bytes.extend([&(data.len() as u32).to_be_bytes(), both.as_slice(), &crc.sum().to_be_bytes()].concat());
    };
    let size = (side as u32).to_be_bytes();
    chunk(b"IHDR", &[size.as_slice(), &size, &[depth, colour, 0, 0, 0]].concat());
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..rows {
        std::io::Write::write_all(&mut packed, &vec![0; 1 + side]).unwrap();
    }
    chunk(b"IDAT", &packed.finish().unwrap());
    chunk(b"IEND", &[]);
    std::fs::write(path, bytes).unwrap();
}

/// A few hundred kilobytes that unpack to 256 MiB, of which two at once would be more than there is; and to 2 GiB.
#[test]
fn pictures_that_unpack_to_gigabytes_take_no_more_memory_than_there_is() {
    const SIDE: usize = 16_384;
    let place = Place::new();
    images(&place, "images", &["left"], 6);
    png(&place.path("images/left/large.png"), SIDE, 8, 0, SIDE);
    assert!(std::fs::metadata(place.path("images/left/large.png")).unwrap().len() < 2_000_000);
    let train =
        format!("ulimit -v 1100000; zgan {ON_IMAGES} --no-eval --threads 2 --steps 1").replace(" --steps 20", "");
    let refused = format!("{SIDE} x {SIDE} pixels, more than --max-pixels 134217728");
    place.says(&format!("{train} --run a"), 1, &["large.png", &refused, "--unreadable skip"]);
    place.says(&format!("{train} --run b --unreadable skip"), 0, &["skipped", "large.png", &refused]);
    let all = "--max-pixels 268435456";
    for copy in ["2", "3"] {
        std::fs::copy(place.path("images/left/large.png"), place.path(&format!("images/left/large{copy}.png")))
            .unwrap();
    }
    place.says(&format!("{train} --run c {all}"), 0, &["data    folder: 9 images"]);
    // 8 bytes a pixel, and nothing of them in the file: it is refused before anything is unpacked, and never skipped.
    png(&place.path("images/left/deep.png"), SIDE, 16, 6, 0);
    for unreadable in ["refuse", "skip"] {
        let parts = ["deep.png", "need 2048 MiB to decode, more than there is", "a smaller --max-pixels"];
        place.says(&format!("{train} --run d {all} --unreadable {unreadable}"), 1, &parts);
    }
}

#[test]
fn settings_that_no_file_can_hold_are_refused_before_anything_is_made() {
    let place = Place::new();
    for option in ["decay-from", "sample-every", "checkpoint-every", "keep-checkpoints", "log-every", "seed", "steps"] {
        let line = format!("zgan {TRAIN} --{option} 18446744073709551615 --run a");
        place.says(&line, 2, &[option, "18446744073709551615"]);
        assert!(!place.path("runs").exists(), "{option}");
    }
}

#[test]
fn the_commands_that_it_prints_work_when_they_are_pasted() {
    let place = Place::new();
    let said =
        place.says(&format!("zgan {TRAIN} --steps 4 --stop-at 2 --runs-dir \"it's (all) here\" --run 'a & b'"), 0, &[]);
    let printed: Vec<&str> = said.lines().filter_map(|line| line.split_once("zgan ").map(|(_, rest)| rest)).collect();
    assert_eq!(printed.len(), 2, "{said}");
    for command in printed {
        let device = if command.starts_with("sample") { "--device host" } else { "--no-eval" };
        place.says(&format!("zgan {command} {device}"), 0, &[]);
    }
    assert!(place.path("grid.png").is_file());
    // A terminal's control characters are written as bash reads them back.
    let folder = r"$'a\x1b\n\\\'b'";
    let said = place.says(&format!("zgan {TRAIN} --steps 2 --stop-at 1 --runs-dir {folder} --run a"), 0, &[]);
    assert!(!said.contains('\x1b'), "{said:?}");
    let command = said.lines().find_map(|line| line.strip_prefix("  zgan ")).unwrap();
    place.says(&format!("zgan {command} --no-eval"), 0, &["step 2/2"]);
    place.says(&format!("zgan {TRAIN} --run $'a\\x1bb'"), 2, &["cannot be a folder's name"]);
}

/// Starts a training whose third step has been told.
fn started(mut command: Command) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("step 3/") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "it ended by itself");
    }
    (child, output)
}

/// While settings and images are read there is nothing to save: the program ends at once, by itself, and leaves no run. A pipe
/// tells when it has begun, and another one keeps it reading.
#[test]
fn a_signal_before_the_first_step_leaves_nothing() {
    for (signal, ignored) in [("INT", false), ("TERM", false), ("HUP", false), ("USR1", false), ("USR1", true)] {
        let place = Place::new();
        place.says("mkdir cifar && mkfifo settings cifar/data_batch_1.bin", 0, &[]);
        let train = "train --config settings --preset sngan-projection-32 --data cifar10:cifar --device host --run a";
        let trap = if ignored { "trap '' USR1; " } else { "" };
        let mut child = place.bash(&format!("{trap}exec {ZGAN} {train}"));
        let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It opens when the program opens the other end.
        std::fs::write(place.path("settings"), "steps = 1").unwrap();
        let kill = |signal: &str| Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
        assert!(kill(signal).unwrap().success());
        if ignored {
            assert!(kill("TERM").unwrap().success());
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{signal}: {}", text(&output));
        assert_eq!(place.names("."), ["cifar", "settings"], "{signal}");
    }
}

#[test]
fn signals_that_were_ignored_stay_ignored() {
    let place = Place::new();
    let train = format!("{TRAIN} --steps 1000000000 --log-every 1 --checkpoint-every 0 --run");
    let starts = [("nohup", "a", &["HUP"][..]), ("trap '' INT HUP USR1; exec", "b", &["INT", "HUP", "USR1"])];
    for (start, run, ignored) in starts {
        let (mut child, mut output) = started(place.bash(&format!("exec 2>/dev/null; {start} {ZGAN} {train} {run}")));
        // nohup and bash replace themselves by the program or wait for it: the signal goes to the program.
        let own = |id: u32| std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let id = own(child.id()).split_whitespace().next().map_or(child.id(), |child| child.parse().unwrap());
        let kill = |signal: &str| Command::new("kill").args([format!("-{signal}"), id.to_string()]).status().unwrap();
        for signal in ignored {
            assert!(kill(signal).success());
        }
        let mut line = String::new();
        for _ in 0..20 {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "{start}: it ended");
        }
        assert!(line.starts_with("step "), "{start}: {line}");
        assert!(kill("TERM").success());
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
        assert!(rest.contains("interrupted after step"), "{rest}");
    }
}

/// The system refuses every thread but the first.
#[test]
#[cfg(target_os = "linux")]
fn a_machine_that_refuses_threads_trains_with_those_there_are() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    place.says(&format!("zgan {TRAIN} --steps 3 --threads 2 --run few; chmod -R a+rwX ."), 0, &["2 threads"]);
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    // Root may have any number of threads.
    let user = if root { "setpriv --reuid=64998 --clear-groups" } else { "" };
    let limited = |arguments: &str| format!("exec {user} bash -c 'ulimit -u 1; exec {ZGAN} {arguments}'");
    if !place.bash(&limited("--version")).output().unwrap().status.success() {
        println!("not tested: another user cannot run {ZGAN}");
        return;
    }
    let parts = ["host: 1 thread (the system refused 3)"];
    place.says(&limited(&format!("{TRAIN} --steps 3 --threads 4 --run alone")), 0, &parts);
    let read = |run| std::fs::read(place.checkpoint(run, 3)).unwrap();
    assert!(read("few") == read("alone"));
}

/// A folder of images of 8 x 8 pixels, in which each class has its own half bright.
fn images(place: &Place, name: &str, classes: &[&str], each: usize) {
    let shape = ImageShape { height: 8, width: 8, channels: 1 };
    for (class, folder) in classes.iter().enumerate() {
        std::fs::create_dir_all(place.path(name).join(folder)).unwrap();
        for i in 0..each {
            let grey = |at: usize| {
                if (at % 8 < 4) == (class == 0) { 200 + (at * 7 + i * 13) as u8 % 40 } else { 20 + i as u8 }
            };
            let picture = Picture { shape, pixels: (0..64).map(grey).collect() };
            picture.save(&place.path(name).join(folder).join(format!("{i}.png"))).unwrap();
        }
    }
}

const ON_IMAGES: &str =
    "train --preset softmax-gan --device host --batch 4 --size 8 --channels 1 --data folder:images --steps 20";

#[test]
fn an_evaluation_that_nobody_asked_for_is_short() {
    let place = Place::new();
    images(&place, "images", &["left", "right"], 6);
    let parts = ["is trained, 60 steps", "classifier", "coverage", "Fréchet distance"];
    place.says(&format!("zgan {ON_IMAGES} --run a"), 0, &parts);
    // Without labels there is still something to tell, and a reason for what there is not.
    images(&place, "images", &["left"], 40);
    place.says("rm -r images/right", 0, &[]);
    let said = place.says(&format!("zgan {ON_IMAGES} --run b"), 0, &["of one class", "coverage ", "random weights"]);
    assert!(!said.contains("label accuracy 1") && !said.contains("is trained,"), "{said}");
}

#[test]
fn images_of_one_class_are_judged_without_labels() {
    let place = Place::new();
    images(&place, "images", &["left"], 40);
    place.says(&format!("zgan {ON_IMAGES} --no-eval --run a"), 0, &[]);
    let parts =
        ["of one class", "step 20\ncoverage ", "density ", "by the features of random weights (1,000 generated, 40"];
    let said = place.says("zgan eval --run a --device host", 0, &parts);
    assert!(!said.contains("label accuracy 1") && !said.contains("classifier 1"), "{said}");
    let output = place.bash("zgan eval --run a --device host --per-class 50 --json 2>/dev/null").output().unwrap();
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&object["generated"], &object["real"]), (&50.into(), &40.into()));
    assert!(object["coverage"].is_number() && object["density"].is_number(), "{object}");
    for missing in ["label-accuracy", "frechet-distance", "classifier"] {
        assert!(object[missing].is_null(), "{object}");
    }
    assert!(object["left-out"].as_str().unwrap().contains("of one class"), "{object}");
    let many = format!("zgan eval --run a --device host --threads {}", usize::MAX);
    place.says(&many, 1, &["--threads 18446744073709551615: at most 1024"]);
    // Networks that know labels, of which there is one; and too few images for anything.
    place.says("rm images/left/??.png images/left/[5-9].png", 0, &[]);
    let train = "train --preset mnist --device host --width 2 --batch 4 --steps 1 --channels 1 --data folder:images";
    place.says(&format!("zgan {train} --no-eval --run b"), 0, &[]);
    place.says("zgan eval --run b --device host", 0, &["of one class", "too few images", "(1,000 generated, 5 real)"]);
    let images = "train --preset softmax-gan --device host --batch 4 --steps 1 --size 3 --data folder:images";
    place.says(&format!("zgan {images} --run c"), 0, &["not evaluated: images of 3x3x3 are too small"]);
    place.says("zgan eval --run c --device host", 2, &["images of 3x3x3 are too small"]);
    place.says("zgan train --preset ring --device host --batch 4 --steps 1 --run d", 0, &[]);
    place.says("zgan eval --run d --device host", 0, &["of 8 covered"]);
}

/// IDX files of a data set that is named by the prefix of its files, which leaves the user's cache as the only place.
#[test]
fn a_cache_that_cannot_be_written_stops_nothing() {
    let place = Place::new();
    let header = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
    let pixels = (0..8 * 64).map(|i| if (i % 8 < 4) == (i / 64 % 2 == 0) { 200 } else { 20 }).collect();
    std::fs::write(place.path("x-train-images-idx3-ubyte"), [header(&[0x803, 8, 8, 8]), pixels].concat()).unwrap();
    let labels = (0..8).map(|i| i % 2).collect();
    std::fs::write(place.path("x-train-labels-idx1-ubyte"), [header(&[0x801, 8]), labels].concat()).unwrap();
    let train =
        format!("{TRAIN} --batch 4 --steps 2 --data idx:x").replace(" --no-eval", "").replace(" --batch 16", "");
    // Not even root can write there; and a file is no folder.
    std::fs::write(place.path("file"), "mine").unwrap();
    for (cache, run) in [("/proc/none", "a"), ("$PWD/file/deeper", "b")] {
        let parts = ["not kept: ", "Fréchet distance"];
        place.says(&format!("export XDG_CACHE_HOME={cache}; zgan {train} --run {run}"), 0, &parts);
    }
    place.says(
        &format!("unset HOME XDG_CACHE_HOME; zgan {train} --run c"),
        0,
        &["not kept: there is no folder for it"],
    );
    place.says("XDG_CACHE_HOME=/proc/none; export XDG_CACHE_HOME; zgan info", 0, &["host"]);
}

#[test]
fn a_signal_ends_the_evaluation_and_the_run_is_whole() {
    let place = Place::new();
    let train = format!("exec {ZGAN} train --device host --batch 4 --steps 2 --run a --width 4");
    let mut child = place.bash(&train).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (mut said, mut line) = (String::new(), String::new());
    while !line.contains("is trained, ") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "it ended by itself: {said}");
        said.push_str(&line);
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(rest.contains("not evaluated: interrupted") && rest.contains("zgan eval --run a"), "{rest}");
    assert!(place.checkpoint("a", 2).is_file());
    assert!(!place.path("cache").exists(), "half a classifier is not kept");
}

#[test]
fn how_long_it_takes_and_how_often_images_are_seen_is_told() {
    let place = Place::new();
    images(&place, "images", &["left", "right"], 6);
    // 20 steps of 4 of 12 images.
    let parts = [
        "time    about 0:0",
        "for 20 steps; each of 12 images is seen 6.7 times",
        "\n  classes           2\n",
        "size              8\n",
    ];
    place.says(&format!("zgan {ON_IMAGES} --dry-run"), 0, &parts);
    let often = ON_IMAGES.replace("--steps 20", "--steps 1600");
    place.says(&format!("zgan {often} --dry-run"), 0, &["is seen 533.3 times", "warning: ", "--steps 1500"]);
    let long = ON_IMAGES.replace("--steps 20", "--steps 4000000000");
    place.says(&format!("zgan {long} --dry-run"), 0, &[" days for 4,000,000,000 steps", "more than a week"]);
    place.says(
        &format!("zgan {ON_IMAGES} --no-eval --run a"),
        0,
        &["for 10 steps; each of 12 images is seen 6.7 times"],
    );
    let said = place.says("zgan train --preset ring --device host --steps 12 --run r --no-eval", 0, &["time    about"]);
    assert!(!said.contains("is seen"), "{said}");
    // 200,000 images a step: as much as a small batch lets expect, for nobody waits for that.
    let large = "train --preset softmax-gan --device host --batch 10000 --update alternating --n-dis 20 --dry-run";
    let parts = ["time    about", "each of 10,000 images is seen", "measured with a batch of 2 and not 10000"];
    place.says(&format!("zgan {large}"), 0, &parts);
    let said = place.says(&format!("zgan {ON_IMAGES} --dry-run"), 0, &[]);
    assert!(!said.contains("measured with"), "{said}");
}

/// The messages of an event file, up to where it is cut off.
fn messages(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut all, mut rest) = (Vec::new(), bytes);
    while let Some((len, behind)) = rest.split_first_chunk::<8>() {
        let len = u64::from_le_bytes(*len) as usize;
        let Some(message) = behind.get(4..4 + len).filter(|_| behind.len() >= len + 8) else { break };
        all.push(message);
        rest = &behind[len + 8..];
    }
    all
}

#[test]
fn event_files_take_the_bytes_and_checksums_of_the_format() {
    // The vectors of RFC 3720, masked: 32 bytes of 0 have 0x8a9136aa, "123456789" has 0xe3069283.
    let masked = |crc: u32| crc.rotate_right(15).wrapping_add(0xa282_ead8);
    assert_eq!(checksum(&[0; 32]), masked(0x8a91_36aa));
    assert_eq!(checksum(b"123456789"), masked(0xe306_9283));

    let place = Place::new();
    let events = Events::create(&place.path(""), 0).unwrap();
    let file = events.path().to_path_buf();
    events.scalars(300, [("ab", 1.0)]);
    events.finish().unwrap();
    let bytes = std::fs::read(file).unwrap();
    // Behind the version and the start of a session.
    let message = messages(&bytes)[2];
    let (time, rest) = message.split_at(9);
    assert_eq!(time[0], 0x09);
    assert_eq!(rest[..5], [0x10, 0xac, 0x02, 0x2a, 11]);
    assert_eq!(rest[5..], [0x0a, 9, 0x0a, 2, b'a', b'b', 0x15, 0, 0, 0x80, 0x3f]);
    let record = &bytes[bytes.len() - message.len() - 16..];
    let crc = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
    assert_eq!((crc(8), crc(12 + message.len())), (checksum(&record[..8]), checksum(message)));
}

#[test]
fn event_files_hold_numbers_pictures_and_settings_and_a_plot_shows_them() {
    let place = Place::new();
    let events = |run: &str| {
        let names = place.names(&format!("runs/{run}"));
        let files = names.into_iter().filter(|name| name.starts_with("events.out.tfevents."));
        files.map(|name| std::fs::read(place.path(&format!("runs/{run}/{name}"))).unwrap()).collect::<Vec<_>>()
    };
    let has = |message: &[u8], text: &str| message.windows(text.len()).any(|part| part == text.as_bytes());
    place.says(&format!("zgan {TRAIN} --steps 4 --stop-at 2 --log-every 1 --run a"), 0, &[]);
    let [first] = &events("a")[..] else { panic!("one event file") };
    let all = messages(first);
    // The version, the start, the settings, two rows and a picture.
    assert_eq!(all.len(), 6);
    assert!(has(all[0], "brain.Event:2") && has(all[2], "preset = \"softmax-gan\""));
    assert_eq!(
        all.iter().filter(|message| has(message, "dead_logits") && has(message, "images_per_second")).count(),
        2
    );
    assert_eq!(all.iter().filter(|message| has(message, "samples") && has(message, "PNG")).count(), 1);
    assert_eq!(messages(&first[..first.len() - 1]).len(), 5, "what was cut off is the last record alone");
    // A run that goes on begins another file, and one that replaces it removes both.
    place.says("zgan train --resume a --no-eval", 0, &[]);
    assert_eq!(events("a").len(), 2);
    place.says(&format!("zgan {TRAIN} --steps 3 --log-every 1 --run a --force --tensorboard false"), 0, &[]);
    assert!(events("a").is_empty());

    place.says(&format!("zgan {TRAIN} --steps 3 --log-every 1 --seed 2 --run b"), 0, &[]);
    place.says("zgan plot a b --out out/plot.html", 0, &["written out/plot.html"]);
    let page = std::fs::read_to_string(place.path("out/plot.html")).unwrap();
    for part in [
        "<h2>loss_d</h2>",
        "<h2>grad_norm_g</h2>",
        "class=\"s0 curve\"",
        "class=\"s1 curve\"",
        ">a</span>",
        ">b</span>",
    ] {
        assert!(page.contains(part), "{part}");
    }
    place.says("zgan plot c", 2, &["no run is called c"]);
    place.says("zgan plot", 2, &["RUN"]);
}
