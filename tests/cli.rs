//! The program as it is used: every test runs the built binary in a folder of its own.

#[path = "common/place.rs"]
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use place::{Place, ZGAN, says, text};
use zgan::nn::Fusion;
use zgan::settings::{self, Batches, Change, Images, Judging, Networks, PRESETS, Settings, Training, Written};
use zgan::tensorboard;

impl Place {
    fn command(&self, arguments: &str) -> Command {
        let mut command = self.program(ZGAN);
        command.args(arguments.split_whitespace());
        // A classifier takes longer than all of these trainings.
        if arguments.starts_with("train ") {
            command.arg("--no-eval");
        }
        command
    }

    /// Runs to its end, which must be `code`, and gives everything it wrote.
    #[track_caller]
    fn zgan(&self, arguments: &str, code: i32) -> String {
        self.says(arguments, code, &[])
    }

    /// As [`Place::zgan`]; the output must hold all of `parts`.
    #[track_caller]
    fn says(&self, arguments: &str, code: i32, parts: &[&str]) -> String {
        says(&mut self.command(arguments), &format!("zgan {arguments}"), code, parts)
    }

    /// A short training of few images on the host.
    fn train(&self, arguments: &str) -> String {
        self.zgan(&format!("train --preset softmax-gan --device host --batch 16 {arguments}"), 0)
    }

    /// The bytes of a run's checkpoint.
    fn saved(&self, run: &str, step: u64) -> Vec<u8> {
        let path = self.checkpoint(run, step);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for name in files(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            all.extend(tree(&path));
        } else {
            all.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    all
}

/// Width and height of a PNG file that decodes.
fn picture(path: &Path) -> (u32, u32) {
    let file = BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    (info.width, info.height)
}

#[test]
fn help_names_every_setting_with_its_default() {
    let place = Place::new();
    place.says("--help", 0, &["train", "sample", "info"]);
    place.says("", 2, &["train", "sample", "info"]);
    place.says("--version", 0, &[env!("CARGO_PKG_VERSION")]);
    let help = place.zgan("train --help", 0);
    for name in Settings::names() {
        assert!(help.contains(&format!("--{name} ")), "{name} is not in the help:\n{help}");
    }
    let line = help.lines().find(|l| l.contains("--lr-g")).unwrap();
    assert!(line.contains("[default: 0.002]"), "{line}");
    place.says("sample --help", 0, &["--seed", "--raw-weights", "[default: 64;"]);
}

/// The names of the settings in a part of the tree.
fn names_of<T: clap::Args>() -> BTreeSet<String> {
    let command = T::augment_args_for_update(clap::Command::new("zgan"));
    command.get_arguments().filter_map(|a| a.get_long()).map(String::from).collect()
}

/// A setting is one field: its key in files, its line of help, and whether numbers depend on it follow from that.
#[test]
fn a_setting_is_one_field() {
    let help = Place::new().zgan("train --help", 0);
    let mut of_numbers = BTreeSet::from(["preset".to_string()]);
    of_numbers.extend([names_of::<Networks>(), names_of::<Training>(), names_of::<Batches>()].into_iter().flatten());
    let others = [names_of::<Images>(), names_of::<settings::Place>(), names_of::<Judging>(), names_of::<Written>()];
    let others: BTreeSet<String> = others.into_iter().flatten().collect();
    assert_eq!(of_numbers.len() + others.len(), Settings::names().len(), "each is in one part of the tree");
    for name in Settings::names() {
        assert!(of_numbers.contains(&name) != others.contains(&name), "{name}");
        let lines = help.lines().filter(|line| line.trim_start().starts_with(&format!("--{name} "))).count();
        assert_eq!(lines, 1, "{name} in the help");
        // No setting is a list of lists: a key that was not read would pass.
        let wrong = toml::Table::from_iter([(name.clone(), vec![vec![1]].into())]);
        assert!(Settings::new(None, &wrong).is_err(), "{name} in a file");
    }
    let mut all = Settings::default();
    all.training.batch_g = Some(1);
    all.training.micro_batch = Some(1);
    all.training.decay_from = Some(1);
    all.training.unfused.push(Fusion::Norm);
    all.batches.diffaug.push(Change::Color);
    assert_eq!(all.numbers().unwrap().into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>(), of_numbers);
}

/// A preset is one entry of the table: the help, files and trainings have it.
#[test]
fn a_preset_is_one_entry() {
    let place = Place::new();
    place.folder_of_noise("noise");
    let help = place.zgan("train --help", 0);
    for preset in PRESETS {
        let (name, shape) = (preset.name, preset.sample);
        assert!(
            help.contains(&format!("  {name} ")) && help.contains(preset.about),
            "{name} is not in the help:\n{help}"
        );
        place.says("train --preset nothing", 2, &[name]);
        let data = match shape.channels {
            3 => "--data folder:noise",
            _ => "",
        };
        // The size of images follows the preset.
        let size = if data.is_empty() { String::new() } else { format!(" images of {shape}") };
        place.says(
            &format!("train --preset {name} --dry-run --device host --width 2 --batch 2 --batch-g 2 {data}"),
            0,
            &["discriminator", name, &size],
        );
        let settings = preset.settings();
        std::fs::write(place.path("saved.toml"), settings.to_toml().unwrap()).unwrap();
        let read = Settings::new(None, &Settings::read_table(&place.path("saved.toml")).unwrap()).unwrap();
        assert_eq!(read, settings);
        assert_eq!(Settings::new(Some(preset), &toml::Table::new()).unwrap(), settings);
    }
}

#[test]
fn the_brief_help_has_the_most_used_options() {
    let place = Place::new();
    let [brief, whole] = ["train -h", "train --help"].map(|arguments| place.zgan(arguments, 0));
    let options = |help: &str| help.lines().filter(|line| line.trim_start().starts_with("--")).count();
    assert!(options(&brief) >= 12 && options(&brief) < 16 && options(&whole) > 50, "{brief}\n{whole}");
    assert!(brief.trim_end().ends_with("zgan train --help"), "{brief}");
    for name in ["preset", "data", "loss", "steps", "batch", "seed", "lr-g", "device", "run", "resume", "config"] {
        assert!(brief.contains(&format!("--{name} ")), "{name} is not in\n{brief}");
    }
    for heading in ["Data:", "Networks:", "Training:", "Where it runs:", "What is written:"] {
        assert!(whole.lines().any(|line| line == heading), "{heading} is not in\n{whole}");
    }
}

/// A library that stands in for NVIDIA's writes down the ranges that it is told of.
#[test]
#[cfg(target_os = "linux")]
fn profilers_are_told_of_steps_phases_and_layers() {
    let place = Place::new();
    let run = |arguments: &str, on: &str| -> (std::process::Output, Option<String>) {
        let mut command = place.command(arguments);
        let output = command.env("ZGAN_NVTX", on).env("LD_LIBRARY_PATH", place.path("")).output().unwrap();
        let ranges = std::fs::read_to_string(place.path("ranges")).ok();
        let _ = std::fs::remove_file(place.path("ranges"));
        (output, ranges)
    };
    let train = "train --steps 2 --batch 2 --width 4 --device host --force --run a";
    let (output, _) = run(&format!("{train} --nvtx"), "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("nvtx: the loader finds no libnvToolsExt.so.1 or libnvToolsExt.so"), "{error}");

    let write = "static void note(const char* text) { FILE* f = fopen(\"ranges\", \"a\"); fprintf(f, \"%s\\n\", text); fclose(f); }";
    let both = "int nvtxRangePushA(const char* name) { note(name); return 0; } int nvtxRangePop(void) { note(\"end\"); return 0; }";
    std::fs::write(place.path("nvtx.c"), format!("#include <stdio.h>\n{write}\n{both}\n")).unwrap();
    let mut compiler = Command::new(std::env::var("CC").unwrap_or("cc".into()));
    compiler.current_dir(place.path("")).args(["-shared", "-fPIC", "-o", "libnvToolsExt.so.1", "nvtx.c"]);
    assert!(compiler.status().unwrap().success());
    let (output, ranges) = run(train, "0");
    assert!(output.status.success() && ranges.is_none(), "{output:?} {ranges:?}");
    for (arguments, on) in [(format!("{train} --nvtx"), ""), (train.to_string(), "1")] {
        let (output, ranges) = run(&arguments, on);
        assert!(output.status.success(), "{output:?}");
        let (mut open, mut seen) = (Vec::new(), Vec::new());
        for line in ranges.unwrap().lines() {
            match line {
                "end" => assert!(open.pop().is_some(), "{seen:?}"),
                name => open.push(name.to_string()),
            }
            seen.push(open.join("/"));
        }
        assert!(open.is_empty(), "{open:?}");
        for path in
            ["step 1/data", "step 2/G forward/block1 forward", "step 2/D backward/head backward", "step 2/optimiser"]
        {
            assert!(seen.iter().any(|seen| seen == path), "{path}: {seen:?}");
        }
    }
}

#[test]
fn wrong_flags_and_values_are_refused() {
    let place = Place::new();
    place.says("train --batchh 3", 2, &["--batchh", "--batch"]);
    place.says("trian", 2, &["train"]);
    place.says("train --batch many", 2, &["many", "--batch"]);
    place.says("train --batch 0", 2, &["batch", "0", "expected 1"]);
    place.says("train --batch -3", 2, &["-3"]);
    place.says("train --batch 10001", 2, &["10001", "10000", "mnist-10k"]);
    place.says("train --steps 0", 2, &["steps: 0, expected 1"]);
    place.says("train --lr-g NaN", 2, &["lr-g", "NaN"]);
    place.says("train --lr-d -0.1", 2, &["lr-d: -0.1"]);
    place.says("train --lr-d=-0.1", 2, &["lr-d: -0.1"]);
    place.says("train --beta1 1", 2, &["beta1: 1", "less than 1"]);
    place.says("train --average 1.5", 2, &["average: 1.5"]);
    place.says("train --latent 0", 2, &["latent: 0"]);
    place.says("train --real-weight 0", 2, &["real-weight: 0, expected 0.001 to 1000"]);
    place.says("train --softmax-target minimax", 2, &["minimax", "uniform, zero-sum"]);
    place.says("train --convolution fft", 2, &["fft", "auto, direct, winograd"]);
    place.says("train --temperature 2", 2, &["--temperature"]);
    place.says("train --r1=-1", 2, &["r1: -1, expected 0"]);
    place.says("train --r2 NaN", 2, &["r2: NaN"]);
    place.says("train --penalty-every 0", 2, &["penalty-every: 0, expected 1"]);
    place.says("train --limit-data 0", 2, &["limit-data: 0, expected more than 0 and at most 1"]);
    place.says("train --limit-data 1.01", 2, &["limit-data: 1.01"]);
    place.says("train --limit-data NaN", 2, &["limit-data: NaN"]);
    place.says("train --preset ring --limit-data 0.5", 2, &["limit-data: 0.5", "points", "expected 1"]);
    place.says("train --batch 11 --limit-data 0.001", 2, &["batch: 11 images", "have 10 with limit-data 0.001"]);
    place.says("train --micro-batch 0", 2, &["micro-batch: 0, expected 1"]);
    place.says("train --local-norm", 2, &["local-norm: without micro-batch there are no parts"]);
    let parts = "train --batch 8 --micro-batch 3 --local-norm --device host --dry-run";
    place.says(parts, 2, &["batch 8 with local-norm and micro-batch 3", "2 would do"]);
    place.says("train --log-every 0", 2, &["log-every: 0"]);
    place.says("train --steps 10 --stop-at 11", 2, &["stop-at: 11, expected 1 to 10"]);
    place.says("train --seed 18446744073709551615", 2, &["seed: 18446744073709551615"]);
    place.says("train --threads 5000", 2, &["threads: 5000"]);
    place.says("train --max-pixels 0", 2, &["max-pixels: 0, expected 1"]);
    place.says("train --depth 17", 2, &["depth: 17, expected 1 to 16"]);
    place.says("train --data folder:~somebody/x", 2, &["~somebody", "another user"]);
    place.says("train --preset nothing", 2, &["nothing", "softmax-gan"]);
    place.says("train --data mnist", 2, &["mnist-10k", "idx:DIR"]);
    place.says("train --device gpu", 2, &["gpu", "cuda", "host"]);
    place.says("train --run ../up", 2, &["../up"]);
    place.says("train --resume nothing", 2, &["nothing", "runs"]);
    place.says("train --resume a --run b", 2, &["--resume", "--run"]);
    for time in ["9223372036854775807", "-1", "NaN", "inf"] {
        place.says(&format!("study --tiny --device host --time={time}"), 2, &["--time", "expected 0 to"]);
    }
    place.says("check --seeds 65537", 2, &["--seeds", "65537"]);
    place.says("sample", 2, &["--run"]);
    place.says("sample --run nothing", 2, &["nothing"]);
    place.says("info nothing", 2, &["nothing"]);
    assert!(!place.path("runs").exists(), "nothing was made");
}

#[test]
fn data_files_that_are_wrong_are_named() {
    let place = Place::new();
    let folder = place.path("digits");
    std::fs::create_dir(&folder).unwrap();
    place.says("train --data idx:digits", 1, &["digits", "train-images-idx3-ubyte"]);
    let header = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
    let images = [header(&[0x803, 4, 28, 28]), vec![7; 4 * 784]].concat();
    std::fs::write(folder.join("train-images-idx3-ubyte"), &images[..1000]).unwrap();
    std::fs::write(folder.join("train-labels-idx1-ubyte"), [header(&[0x801, 4]), vec![0, 1, 2, 12]].concat()).unwrap();
    place.says("train --data idx:digits", 1, &["train-images-idx3-ubyte", "offset 1000", "3152"]);
    std::fs::write(folder.join("train-images-idx3-ubyte"), &images).unwrap();
    place.says("train --data idx:digits", 1, &["train-labels-idx1-ubyte", "offset 11", "label 12"]);
    place.says(
        "train --preset softmax-gan --data idx:digits --classes 13 --batch 4 --steps 2 --device host --run a",
        0,
        &["4 classes", "left out 9 classes without images: 3, 4, 5, 6, 7 and 4 more"],
    );
    // The labels were right: without them on the second try, it is another data set.
    std::fs::write(folder.join("train-labels-idx1-ubyte"), [header(&[0x801, 4]), vec![0, 1, 2, 3]].concat()).unwrap();
    place.says("train --resume a --steps 3", 2, &["other images"]);
}

#[test]
fn a_short_run_leaves_everything() {
    let place = Place::new();
    let said = place.train("--steps 12 --log-every 5 --sample-every 4 --checkpoint-every 6 --run first");
    for part in ["device", "host", "mnist-10k", "10000 images", "parameters", "step 10/12", "step 12/12", "images/s"] {
        assert!(said.contains(part), "{part:?} is missing:\n{said}");
    }
    assert!(said.contains("runs/first/samples/step-000012.png") && said.contains("zgan sample --run first"), "{said}");
    let run = place.path("runs/first");
    let (events, others): (Vec<_>, Vec<_>) =
        files(&run).into_iter().partition(|name| name.starts_with(tensorboard::START));
    assert_eq!(others, ["checkpoints", "config.toml", "metrics.csv", "samples", "tuning.toml"]);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(files(&run.join("samples")), ["step-000004.png", "step-000008.png", "step-000012.png"]);
    assert_eq!(files(&run.join("checkpoints")), ["step-000006.safetensors", "step-000012.safetensors"]);
    let (width, height) = picture(&run.join("samples/step-000012.png"));
    assert!(width == height && width > 8 * 28, "{width} x {height}");
    let metrics = place.read("runs/first/metrics.csv");
    let rows: Vec<Vec<&str>> = metrics.lines().map(|l| l.split(',').collect()).collect();
    let columns = "step,seconds,loss_d,loss_g,kl_d,kl_g,real_logit,fake_logit,grad_norm_d,grad_norm_g,logit_spread,lr_d,lr_g,dead_logits,images_per_second";
    assert_eq!(rows[0].join(","), columns);
    assert_eq!(rows[1..].iter().map(|r| r[0]).collect::<Vec<_>>(), ["5", "10", "12"]);
    for row in &rows[1..] {
        assert_eq!(row.len(), 15);
        assert!(row.iter().all(|field| field.parse::<f64>().unwrap().is_finite()), "{row:?}");
    }
    // What the run used makes the same run again.
    place.zgan("train --config runs/first/config.toml --run again", 0);
    assert_eq!(place.saved("first", 12), place.saved("again", 12));
    assert_eq!(place.read("runs/first/config.toml"), place.read("runs/again/config.toml"));
    place.train("--steps 12 --run other --seed 2");
    assert_ne!(place.saved("first", 12), place.saved("other", 12));
    place.train("--steps 12 --run threads --threads 1");
    assert_eq!(place.saved("first", 12), place.saved("threads", 12), "threads change no number");
}

#[test]
fn an_interrupted_run_ends_as_one_that_went_through() {
    let place = Place::new();
    let every = "--steps 100 --log-every 20 --sample-every 30 --checkpoint-every 0";
    place.train(&format!("{every} --run through"));
    let said = place.train(&format!("{every} --run parts --stop-at 50"));
    assert!(said.contains("zgan train --resume parts"), "{said}");
    assert_eq!(files(&place.path("runs/parts/checkpoints")), ["step-000050.safetensors"]);
    // As if it had gone on a little before a crash.
    let metrics = place.path("runs/parts/metrics.csv");
    let rows = std::fs::read_to_string(&metrics).unwrap();
    std::fs::write(&metrics, format!("{rows}60,1,2,3,4,5,6,7,8,9,10,11,12,13,14\n80,1,2")).unwrap();
    std::fs::write(place.path("runs/parts/checkpoints/step-000060.safetensors.unfinished"), "half").unwrap();
    place.zgan("train --resume parts", 0);
    assert_eq!(place.saved("through", 100), place.saved("parts", 100));
    assert_eq!(files(&place.path("runs/parts/checkpoints")), ["step-000050.safetensors", "step-000100.safetensors"]);
    for step in [30, 60, 90, 100] {
        let picture = |run: &str| std::fs::read(place.path(&format!("runs/{run}/samples/step-{step:06}.png"))).unwrap();
        assert_eq!(picture("through"), picture("parts"), "step {step}");
    }
    // The same rows, but for the times.
    let untimed = |run: &str| -> Vec<String> {
        let metrics = place.read(&format!("runs/{run}/metrics.csv"));
        let cut = |row: &str| {
            let fields: Vec<&str> = row.split(',').collect();
            format!("{},{}", fields[0], fields[2..14].join(","))
        };
        metrics.lines().map(cut).collect()
    };
    assert_eq!(untimed("through").len(), 6);
    assert_eq!(untimed("through"), untimed("parts"));
    let seconds: Vec<f64> = place
        .read("runs/parts/metrics.csv")
        .lines()
        .skip(1)
        .map(|r| r.split(',').nth(1).unwrap().parse().unwrap())
        .collect();
    assert!(seconds.is_sorted(), "the clock goes on: {seconds:?}");

    place.says("train --resume parts", 0, &["at step 100 of 100 already", "--steps"]);
    place.says("train --resume parts --steps 105 --stop-at 103", 0, &["after step 103 of 105"]);
    place.says("train --resume runs/parts", 0, &["steps 103 to 105"]);
}

#[test]
fn several_d_steps_take_several_batches_and_resume_too() {
    let place = Place::new();
    let settings = "--update alternating --n-dis 3 --batch-g 8 --loss hinge --noise 0.01 --flip --average 0.9 \
                    --decay-from 2 --steps 8 --log-every 4 --seed 3";
    let said = place.train(&format!("{settings} --run through"));
    assert!(said.contains("loss D") && !said.contains("KL") && !said.contains("NaN"), "hinge has no floor:\n{said}");
    let metrics = place.read("runs/through/metrics.csv");
    let row: Vec<&str> = metrics.lines().nth(1).unwrap().split(',').collect();
    assert_eq!((row.len(), row[4], row[5]), (15, "", ""), "{metrics}");
    place.train(&format!("{settings} --run parts --stop-at 5"));
    place.zgan("train --resume parts", 0);
    assert_eq!(place.saved("through", 8), place.saved("parts", 8));
    // With rates that fall, a longer training would have been another from the start.
    place.says("train --resume parts --steps 9", 2, &["steps is 8", "9 here", "from step 2 to 0 at step 8"]);
    // G's batch follows D's unless it is given.
    place.train("--steps 2 --run follows");
    let saved = place.read("runs/follows/config.toml");
    assert!(saved.contains("batch = 16\n") && !saved.contains("batch-g"), "{saved}");
    assert!(place.read("runs/parts/config.toml").contains("batch-g = 8\n"));
    let simultaneous = "train --preset softmax-gan --device host --steps 2 --batch-g 32";
    place.says(simultaneous, 2, &["batch-g 32 with update simultaneous", "must be batch, 64"]);
}

/// Loader, flips, noise, averages, power iterations and falling rates: whatever a preset has comes back.
#[test]
fn every_preset_resumes_to_the_same_bits() {
    let place = Place::new();
    place.folder_of_noise("noise");
    for (preset, settings) in [
        ("mnist", "--width 4 --average-from 1 --last-batch fill"),
        ("sngan-projection-32", "--width 4 --data folder:noise --size 32"),
        ("sngan-projection-48", "--width 4 --n-dis 2 --data folder:noise --size 48"),
        ("sngan-projection-64", "--width 4 --n-dis 2 --data folder:noise --size 64"),
        ("sngan-projection-128", "--width 2 --n-dis 2 --batch-g 4 --data folder:noise --size 128"),
        ("sngan-projection-256", "--width 1 --n-dis 1 --batch-g 3 --data folder:noise --size 256"),
        ("crcrpar-64", "--width 4 --n-dis 2 --data folder:noise --size 64"),
        ("sagan-64", "--width 4 --data folder:noise --size 64"),
        ("photos-64", "--width 2 --data folder:noise --size 32"),
        ("photos-128", "--width 1 --penalty-every 2 --data folder:noise"),
        ("ring", ""),
        ("softmax-gan", "--average 0.9"),
    ] {
        // Ten pictures are not a multiple of the batch, so that epochs end within a step.
        let train = format!("train --preset {preset} --device host --batch 3 --steps 5 --log-every 1 {settings}");
        place.zgan(&format!("{train} --run {preset}"), 0);
        place.zgan(&format!("{train} --run {preset}-parts --stop-at 3"), 0);
        place.zgan(&format!("train --resume {preset}-parts"), 0);
        let at = |run: &str, step| place.saved(&format!("{preset}{run}"), step);
        assert!(at("", 5) == at("-parts", 5), "{preset}");
        assert!(at("-parts", 3) != at("-parts", 5), "{preset} moves");
        let picture = |run: &str| std::fs::read(place.path(&format!("runs/{preset}{run}/samples/step-000005.png")));
        assert!(picture("").unwrap() == picture("-parts").unwrap(), "{preset}");
    }
}

#[test]
fn a_resume_keeps_to_the_settings_of_the_run() {
    let place = Place::new();
    // A tenth of the digits, through and in two parts.
    let said = place.train("--steps 70 --limit-data 0.1 --run whole");
    assert!(said.contains("limit-data 0.1: 999 of them are learnt from") && said.contains("10000 images"), "{said}");
    place.train("--steps 70 --limit-data 0.1 --stop-at 65 --run parts");
    place.says("train --resume parts --limit-data 0.2", 2, &["limit-data is 0.1 there, 0.2 here"]);
    place.zgan("train --resume parts", 0);
    assert!(place.saved("whole", 70) == place.saved("parts", 70), "both saw the same images");
    place.train("--steps 10 --stop-at 5 --run a");
    let before = tree(&place.path("runs"));
    place.says("train --resume a --batch 8", 2, &["batch is 16 there, 8 here"]);
    let both = ["lr-d is 0.0002 there, 0.1 here", "seed is 1 there, 9 here"];
    place.says("train --resume a --seed 9 --lr-d 0.1", 2, &both);
    assert_eq!(before, tree(&place.path("runs")), "a refusal changes nothing");
    // What no number depends on may change, and is remembered.
    place.zgan("train --resume a --log-every 1 --threads 1 --keep-checkpoints 1", 0);
    assert!(place.read("runs/a/config.toml").contains("log-every = 1\n"));
    assert_eq!(files(&place.path("runs/a/checkpoints")), ["step-000010.safetensors"]);
}

#[test]
fn damaged_checkpoints_are_refused_and_the_previous_one_serves() {
    let place = Place::new();
    place.train("--steps 20 --stop-at 10 --checkpoint-every 5 --run a");
    let newest = place.path("runs/a/checkpoints/step-000010.safetensors");
    let whole = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &whole[..whole.len() - 100]).unwrap();
    place.says("train --resume a", 1, &["step-000010.safetensors", "cut off", "step-000005.safetensors"]);
    place.says("sample --run a", 1, &["step-000010.safetensors", "cut off"]);
    let mut flipped = whole.clone();
    let end = flipped.len() - 1;
    flipped[end] ^= 0x10;
    std::fs::write(&newest, &flipped).unwrap();
    place.says("train --resume a", 1, &["step-000010.safetensors", "checksum"]);
    std::fs::remove_file(&newest).unwrap();
    place.zgan("train --resume a --stop-at 10 --device host", 0);
    assert_eq!(std::fs::read(&newest).unwrap(), whole);
}

#[test]
fn runs_do_not_overwrite_each_other() {
    let place = Place::new();
    place.train("--steps 2");
    place.train("--steps 2");
    assert_eq!(files(&place.path("runs")), ["00000-softmax-gan", "00001-softmax-gan"]);
    place.train("--steps 4 --checkpoint-every 1 --run a");
    let before = tree(&place.path("runs"));
    place.says("train --steps 2 --run a", 2, &["a is there already", "--force", "--resume a"]);
    assert_eq!(before, tree(&place.path("runs")));
    std::fs::write(place.path("runs/a/notes.txt"), "mine").unwrap();
    place.train("--steps 3 --run a --force");
    assert_eq!(files(&place.path("runs/a/checkpoints")), ["step-000003.safetensors"]);
    assert_eq!(files(&place.path("runs/a/samples")), ["step-000003.png"]);
    assert_eq!(place.read("runs/a/notes.txt"), "mine", "only what a run writes is replaced");
    // A folder that is no run is never written to.
    std::fs::create_dir(place.path("runs/b")).unwrap();
    std::fs::write(place.path("runs/b/thesis.txt"), "mine").unwrap();
    place.says("train --steps 3 --run b --force", 2, &["runs/b", "no run"]);
    assert_eq!(files(&place.path("runs/b")), ["thesis.txt"]);
    place.train("--steps 2 --runs-dir elsewhere --run a");
    place.says("sample --run a --runs-dir elsewhere", 0, &["grid.png"]);
}

#[test]
fn settings_come_from_a_file_and_the_command_line_wins() {
    let place = Place::new();
    let file = |text: &str| std::fs::write(place.path("c.toml"), text).unwrap();
    file(
        "preset = \"softmax-gan\"\nsteps = 3\nbatch = 8\nlr-g = 1e-3\nseed = 4\nrun = \"from-file\"\ndevice = \"host\"\nupdate = \"alternating\"\n",
    );
    place.zgan("train --config c.toml --batch 4", 0);
    let saved = place.read("runs/from-file/config.toml");
    for line in ["steps = 3\n", "batch = 4\n", "lr-g = 0.001\n", "seed = 4\n", "update = \"alternating\"\n"] {
        assert!(saved.contains(line), "{line:?} is not in\n{saved}");
    }
    file("steps = 3\nlr_g = 1e-3\n");
    place.says("train --config c.toml", 2, &["c.toml", "line 2", "lr_g", "did you mean lr-g?"]);
    file("bach = 3\n");
    place.says("train --config c.toml", 2, &["bach", "did you mean batch?"]);
    file("zzzz = 3\n");
    place.says("train --config c.toml", 2, &["zzzz", "there are preset, data"]);
    file("steps = 3\nbatch = \"many\"\n");
    place.says("train --config c.toml", 2, &["c.toml", "line 2", "many"]);
    file("preset = \"nothing\"\n");
    place.says("train --config c.toml", 2, &["nothing", "softmax-gan"]);
    file("batch = 0\n");
    place.says("train --config c.toml", 2, &["batch: 0, expected 1"]);
    file("lr-g = nan\n");
    place.says("train --config c.toml", 2, &["lr-g: NaN"]);
    file(&format!("{} = 1\n", "a".repeat(100_000)));
    let said = place.says("train --config c.toml", 2, &["there is no setting aaa", "more bytes)"]);
    assert!(said.len() < 10_000, "{} bytes", said.len());
    file("steps = \n");
    place.says("train --config c.toml", 2, &["c.toml", "line 1"]);
    place.says("train --config nothing.toml", 1, &["nothing.toml", "No such file"]);
    std::fs::write(place.path("c.toml"), b"steps = 3 # \xff").unwrap();
    place.says("train --config c.toml", 2, &["c.toml", "no text in UTF-8"]);
    place.says("train --config /dev/zero", 2, &["/dev/zero", "more than 4 MiB"]);
}

#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let place = Place::new();
    place.says(
        "train --preset softmax-gan --dry-run --device host",
        0,
        &["settings", "generator", "discriminator", "parameters", "memory", "MiB"],
    );
    assert!(files(&place.path(".")).is_empty());
    place.says("train --dry-run --device host --batch 20000", 2, &["20000"]);
    place.train("--steps 2 --run a");
    let before = tree(&place.path("."));
    place.says(
        "train --preset softmax-gan --dry-run --device host --run a",
        2,
        &["generator", "memory", "a is there already"],
    );
    place.says(
        "train --preset softmax-gan --dry-run --device host --runs-dir /proc/none",
        1,
        &["generator", "error: /proc"],
    );
    place.says("train --dry-run --resume a --batch 3", 2, &["batch is 16 there"]);
    assert_eq!(before, tree(&place.path(".")));
}

#[test]
fn folders_that_cannot_be_written_are_named() {
    let place = Place::new();
    // Not even root can write there.
    place.says("train --preset softmax-gan --steps 2 --device host --runs-dir /proc/none", 1, &["error: /proc"]);
    std::fs::write(place.path("file"), "mine").unwrap();
    place.says("train --preset softmax-gan --steps 2 --device host --runs-dir file", 1, &["error: ", "file"]);
    place.says("train --preset softmax-gan --steps 2 --device host --runs-dir file/deeper", 1, &["error: ", "file"]);
    place.train("--steps 2 --run a");
    place.says("sample --run a --device host --out /proc/none/grid.png", 1, &["error: /proc/none"]);
    place.says("sample --run a --device host --out made/here/grid.png", 0, &["made/here/grid.png"]);
}

/// A limit on the size of files stands for a disk that is full.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_loses_nothing() {
    let place = Place::new();
    place.train("--steps 20 --stop-at 10 --run a");
    let before = tree(&place.path("runs/a/checkpoints"));
    // Also where nobody has seen to it that the signal of a file that is too large is ignored.
    for ignored in ["trap '' XFSZ; ", ""] {
        let limited = format!("{ignored}ulimit -f 1; exec {ZGAN} train --resume a --sample-every 0 --device host");
        let output = Command::new("bash").args(["-c", &limited]).current_dir(place.path(".")).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains("step-000020"), "the file is named: {}", text(&output));
        assert_eq!(before, tree(&place.path("runs/a/checkpoints")));
        assert_eq!(files(&place.path("runs/a/samples")), ["step-000010.png"], "no half of a picture");
    }
    place.zgan("train --resume a", 0);
    place.train("--steps 20 --run b");
    assert_eq!(place.saved("a", 20), place.saved("b", 20));
}

#[test]
#[cfg(unix)]
fn ctrl_c_saves_and_says_how_to_go_on() {
    for signal in ["-INT", "-TERM", "-HUP", "-USR1"] {
        let place = Place::new();
        let arguments = "train --preset softmax-gan --device host --batch 16 --steps 1000000000 --checkpoint-every 0 --log-every 1 --run a";
        let mut child = place.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("step 3/") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "it ended by itself");
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
        assert!(rest.contains("interrupted after step") && rest.contains("zgan train --resume a"), "{rest}");
        let saved = files(&place.path("runs/a/checkpoints"));
        let step: u64 = saved[0].trim_start_matches("step-").trim_end_matches(".safetensors").parse().unwrap();
        assert!(step >= 3 && saved.len() == 1, "{saved:?}");
        let said = place.zgan(&format!("train --resume a --stop-at {}", step + 2), 0);
        assert!(said.contains(&format!("steps {step} to {}", step + 2)), "{said}");
        let metrics = place.read("runs/a/metrics.csv");
        let steps: Vec<u64> = metrics.lines().skip(1).map(|r| r.split(',').next().unwrap().parse().unwrap()).collect();
        assert_eq!(steps, (1..=step + 2).collect::<Vec<_>>(), "every step has its row once");
    }
}

#[test]
fn two_programs_do_not_train_one_run() {
    let place = Place::new();
    place.train("--steps 1000000000 --stop-at 2 --run a");
    let mut child = place.command("train --resume a --log-every 1").stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("step 3/") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "it ended by itself");
    }
    let second = place.command("train --resume a").output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(text(&second).contains("another zgan"), "{}", text(&second));
    assert_eq!(second.status.code(), Some(2));
    // The lock ends with the program that held it.
    place.zgan("train --resume a --stop-at 5", 0);
}

#[test]
fn a_reader_that_goes_away_stops_nothing() {
    let place = Place::new();
    for arguments in ["info", "train --preset softmax-gan --steps 5 --log-every 1 --device host --run a"] {
        let mut child = place.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert!(!text(&output).contains("panicked"), "{}", text(&output));
    }
    assert_eq!(files(&place.path("runs/a/checkpoints")), ["step-000005.safetensors"]);
}

#[test]
fn samples_follow_from_run_seed_and_weights() {
    let place = Place::new();
    place.train("--steps 20 --lr-g 0.001 --average 0.9 --checkpoint-every 10 --run a");
    let draw = |arguments: &str| {
        place.zgan(&format!("sample --device host --out x.png {arguments}"), 0);
        std::fs::read(place.path("x.png")).unwrap()
    };
    let one = draw("--run a --seed 7");
    assert!(one == draw("--run a --seed 7"));
    assert!(one == draw("--run runs/a --seed 7"));
    assert!(one == draw("--checkpoint runs/a/checkpoints/step-000020.safetensors --seed 7"));
    assert!(one != draw("--run a --seed 8"));
    assert!(one != draw("--run a --seed 7 --raw-weights"));
    assert!(one != draw("--checkpoint runs/a/checkpoints/step-000010.safetensors --seed 7"));
    draw("--run a --count 5");
    assert_eq!(picture(&place.path("x.png")), (3 * 30 + 2, 2 * 30 + 2));
    draw("--run a --count 1");
    assert_eq!(picture(&place.path("x.png")), (32, 32));
    place.says("sample --run a --count 0", 2, &["count: 0"]);
    assert!(one != draw("--run a --seed 7 --trunc 0.5"));
    draw("--run a --count 5 --columns 5");
    assert_eq!(picture(&place.path("x.png")), (5 * 30 + 2, 32));
    draw("--run a --interpolate 6 --count 12");
    assert_eq!(picture(&place.path("x.png")), (6 * 30 + 2, 2 * 30 + 2));
    for (wrong, parts) in [
        ("--class 3", ["class", "without labels"]),
        ("--morph 1:2", ["morph", "without labels"]),
        ("--trunc 0", ["trunc: 0", "0.01"]),
        ("--trunc NaN", ["trunc: NaN", "0.01"]),
        ("--interpolate 1", ["interpolate: 1", "2 to"]),
        ("--columns 0", ["columns: 0", "1 to"]),
        ("--out here --interpolate 4", ["here", "no PNG file"]),
    ] {
        place.says(&format!("sample --run a {wrong}"), 2, &parts);
    }
}

#[test]
fn a_folder_gets_a_file_per_image() {
    let place = Place::new();
    place.train("--steps 2 --run a");
    place.says("sample --run a --device host --count 600 --out many", 0, &["600 images", "many"]);
    let names = files(&place.path("many"));
    assert_eq!((names.len(), names[0].as_str(), names[599].as_str()), (600, "000000.png", "000599.png"));
    assert_eq!(picture(&place.path("many/000599.png")), (28, 28));
    place.says("sample --run a --device host --count 3 --out many", 2, &["many is not empty", "--force"]);
    // Fewer at once: image i is still the same.
    let before = tree(&place.path("many"));
    place.zgan("sample --run a --device host --count 3 --out many --force", 0);
    assert!(before == tree(&place.path("many")));
    place.zgan("sample --run a --device host --count 3 --seed 2 --out many --force", 0);
    assert!(before != tree(&place.path("many")));
}

#[test]
fn the_ring_is_trained_and_drawn() {
    let place = Place::new();
    let train = "train --preset ring --device host --batch 16 --steps 20";
    let parts = ["ring: points, drawn as they are needed", "of 8 covered", "step 20/20"];
    place.says(&format!("{train} --run through"), 0, &parts);
    assert_eq!(picture(&place.path("runs/through/samples/step-000020.png")), (600, 600));
    place.zgan(&format!("{train} --run parts --stop-at 10"), 0);
    place.zgan("train --resume parts", 0);
    assert!(place.saved("through", 20) == place.saved("parts", 20));
    place.says("sample --run parts --device host", 0, &["2500 points after step 20", "of 8 covered"]);
    assert_eq!(picture(&place.path("grid.png")), (600, 600));
    place.says("sample --run parts --device host --out points.svg", 0, &["of 8 covered", "points.svg"]);
    assert!(std::fs::read_to_string(place.path("points.svg")).unwrap().starts_with("<svg xmlns="));
    let said = ["2,500 points", "of 8 covered", "within 3 deviations, KL "];
    place.says("eval --run parts --device host", 0, &said);
    place.says("eval --run parts --device host --json --per-class 10", 0, &["\"modes\": 8", "\"points\": 10"]);
    place.says(&format!("{train} --run grid --data grid"), 0, &["grid: points", "of 25 covered"]);
    place.says("eval --run grid --device host", 0, &["of 25 covered"]);
    place.says("train --preset ring --data mnist-10k", 2, &["preset ring", "mnist-10k"]);
    place.says("train --data ring", 2, &["preset mnist", "ring"]);
    place.says("train --preset ring --conditioning projection", 2, &["ring", "--conditioning none"]);
}

#[test]
fn info_tells_about_the_program_runs_and_checkpoints() {
    let place = Place::new();
    place.says("info", 0, &["host", "simt", "cuda", "log_partition", "instruction sets"]);
    let info = place.zgan("info", 0);
    assert!(info.lines().count() <= 24 && info.lines().all(|line| line.len() < 120), "{info}");
    place.says("info --kernels", 0, &["\nlog_partition\n", "\n  log_partition_one_f32\n"]);
    place.train("--steps 4 --run a");
    place.says("info a", 0, &["after step 4", "seed", "mnist-10k", "loss_d", "tensors", "step-000004.png"]);
    place.says("info runs/a/checkpoints/step-000004.safetensors", 0, &["after step 4", "batch", "16"]);
    std::fs::write(place.path("x.bin"), "no checkpoint").unwrap();
    place.says("info x.bin", 1, &["x.bin", "not a safetensors file"]);
}

#[test]
fn a_training_that_diverges_keeps_its_last_good_checkpoint() {
    let place = Place::new();
    let every = "train --preset softmax-gan --device host --batch 16 --steps 300 --log-every 10";
    place.says(&format!("{every} --lr-g 1e9 --lr-d 1e9 --run a"), 1, &["diverged", "step ", "smaller --lr-g"]);
    assert!(files(&place.path("runs/a/checkpoints")).is_empty());
    // No file holds a number that is not finite.
    assert!(!place.read("runs/a/metrics.csv").to_lowercase().contains("nan"));
}

#[test]
fn classes_are_drawn_by_name_or_number() {
    let place = Place::new();
    place.zgan("train --preset mnist --device host --batch 4 --steps 1 --run a", 0);
    // A row per class: 10 of 7 images.
    assert_eq!(picture(&place.path("runs/a/samples/step-000001.png")), (7 * 30 + 2, 10 * 30 + 2));
    let size = |arguments: &str| {
        place.zgan(&format!("sample --run a --device host --out x.png {arguments}"), 0);
        picture(&place.path("x.png"))
    };
    assert_eq!(size("--class 3,7 --count 6"), (3 * 30 + 2, 2 * 30 + 2));
    assert_eq!(size("--class 3 --columns 4"), (4 * 30 + 2, 32));
    assert_eq!(size("--interpolate 3"), (3 * 30 + 2, 10 * 30 + 2));
    assert_eq!(size("--morph 1:7 --count 10 --columns 5"), (5 * 30 + 2, 2 * 30 + 2));
    for (wrong, parts) in [
        ("--class 3,11", ["no class is called 11", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"]),
        ("--morph 1:cat", ["no class is called cat", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"]),
        ("--morph 1", ["morph", "A:B"]),
        ("--out many --morph 1:2", ["many", "no PNG file"]),
    ] {
        place.says(&format!("sample --run a {wrong}"), 2, &parts);
    }
    place.zgan("sample --run a --device host --class 3,7 --count 5 --out many", 0);
    assert_eq!(files(&place.path("many")), ["3", "7"]);
    assert_eq!(files(&place.path("many/3")), ["000000.png", "000001.png", "000002.png"]);
    assert_eq!(files(&place.path("many/7")), ["000000.png", "000001.png"]);
}

/// Grey pictures in classes 1 to 12.
fn numbered_classes(place: &Path) {
    for class in 1..=12u8 {
        std::fs::create_dir_all(place.join(class.to_string())).unwrap();
        let file = std::fs::File::create(place.join(format!("{class}/0.png"))).unwrap();
        let mut encoder = png::Encoder::new(file, 3, 3);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.write_header().unwrap().write_image_data(&[class; 9]).unwrap();
    }
}

const ON_NUMBERS: &str = "train --preset mnist --device host --width 2 --batch 4 --data folder:numbers --channels 1";

#[test]
fn names_that_are_numbers_are_names() {
    let place = Place::new();
    numbered_classes(&place.path("numbers"));
    std::fs::write(place.path("numbers/notes.txt"), "mine").unwrap();
    let parts = ["12 images of 28x28x1, 12 classes", "left out 1 file: 1 .txt"];
    place.says(&format!("{ON_NUMBERS} --steps 1 --run a"), 0, &parts);
    place.says("info a", 0, &["classes 0 1, 1 2, 2 3, 3 4,"]);
    let rows: String = (1..=12).map(|class| format!("row {class}: {class}\n")).collect();
    assert_eq!(place.read("runs/a/samples/rows.txt"), rows);
    // It is written once; and again where somebody has changed it.
    let file = || std::fs::metadata(place.path("runs/a/samples/rows.txt")).unwrap().modified().unwrap();
    let before = file();
    place.zgan("train --resume a --steps 3 --sample-every 1", 0);
    assert_eq!(file(), before);
    std::fs::write(place.path("runs/a/samples/rows.txt"), "changed").unwrap();
    place.zgan("train --resume a --steps 4", 0);
    assert_eq!(place.read("runs/a/samples/rows.txt"), rows);
    let sample = |arguments: &str, code: i32, parts: &[&str]| {
        place.says(&format!("sample --run a --device host {arguments}"), code, parts);
    };
    sample("--class 0", 2, &["no class is called 0", "there are 1, 2, 3"]);
    sample("--class 2,13", 2, &["no class is called 13"]);
    sample("--class 10,2 --columns 3 --out x.png", 0, &["6 images", "x.rows.txt"]);
    assert_eq!(place.read("x.rows.txt"), "row 1: 10\nrow 2: 2\n");
    // A class that is named twice has one folder, and as many files as are counted.
    sample("--class 5,5 --count 4 --out many", 0, &["4 images"]);
    assert_eq!(files(&place.path("many")), ["5"]);
    assert_eq!(files(&place.path("many/5")).len(), 4);
}

/// The limit does not hold for root, so another user runs the program there.
#[test]
#[cfg(target_os = "linux")]
fn without_a_thread_to_decode_a_training_goes_on() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let place = Place::new();
    numbered_classes(&place.path("numbers"));
    std::fs::set_permissions(place.path("."), std::fs::Permissions::from_mode(0o777)).unwrap();
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let user = if root { "setpriv --reuid=64999 --clear-groups" } else { "" };
    let run = |arguments: &str| {
        let limited = format!("exec {user} bash -c 'ulimit -u 1; exec {ZGAN} {arguments}'");
        Command::new("bash").args(["-c", &limited]).current_dir(place.path(".")).output().unwrap()
    };
    if !run("--version").status.success() {
        println!("not tested: another user cannot run {ZGAN}");
        return;
    }
    for memory in [0, 1] {
        let output =
            run(&format!("{ON_NUMBERS} --threads 1 --steps 2 --no-eval --data-memory {memory} --run r{memory}"));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
    assert_eq!(place.saved("r0", 2), place.saved("r1", 2));
    let output = run("sample --run r0 --device host --threads 1 --count 3 --out many");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(tree(&place.path("many")).len(), 3);
}

/// Names from a disk, a checkpoint and a file of settings that could make a terminal do things.
/// Attributes of pictures, from a file: trained on, gone on with, drawn for, and left out where a class is asked for.
#[test]
fn labels_may_be_vectors() {
    let place = Place::new();
    place.folder_of_noise("noise");
    let line = |i: usize| match i {
        7 => String::new(),
        8 => "bee/8.png,,,\n".into(),
        i => format!("{}/{i}.png,{},0.5,{}\n", ["ant", "bee"][i % 2], i % 3, i / 5),
    };
    let labels = format!("image,red,big,old\n{}", (0..10).map(line).collect::<String>());
    std::fs::write(place.path("labels.csv"), labels.replace("bee/8", "ant/8")).unwrap();
    let run = "--preset photos-64 --width 2 --size 32 --batch 3 --device host --data folder:noise --labels labels.csv";
    let train = format!("train {run} --steps 6");
    place.says(
        &format!("{train} --run whole"),
        0,
        &["labels are vectors of 3 classes", "2 images without labels: ant/8.png, bee/7.png"],
    );
    place.zgan(&format!("{train} --stop-at 4 --run parts"), 0);
    place.zgan("train --resume parts", 0);
    assert!(place.saved("whole", 6) == place.saved("parts", 6));
    assert!(!place.path("runs/whole/samples/rows.txt").exists(), "rows of the picture are no classes");
    let says_where = std::fs::canonicalize(place.path("labels.csv")).unwrap();
    assert!(place.read("runs/whole/config.toml").contains(&format!("labels = {says_where:?}")));
    // Drawing: of one class each, or for the labels of a file.
    place.says("sample --run whole --device host --out classes.png", 0, &["66 images", "classes.rows.txt"]);
    place.says("sample --run whole --device host --class old --count 2 --out old.npy", 0, &["2 images"]);
    let wanted = "image,red,big,old\na,0,0,1\nb,1,0.5,1\n";
    std::fs::write(place.path("wanted.csv"), wanted).unwrap();
    place.says("sample --run whole --device host --labels wanted.csv --out wanted.npy", 0, &["2 images"]);
    let values = |name: &str| std::fs::read(place.path(name)).unwrap();
    let (old, both) = (values("old.npy"), values("wanted.npy"));
    let half = |bytes: &[u8]| bytes[bytes.len() - 2 * 3 * 32 * 32 * 4..][..3 * 32 * 32 * 4].to_vec();
    let numbers =
        |bytes: Vec<u8>| -> Vec<f32> { bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect() };
    let (old, first) = (numbers(half(&old)), numbers(half(&both)));
    assert!(old.iter().zip(&first).all(|(a, b)| (a - b).abs() < 1e-4), "one alone is that class");
    place.says("sample --run whole --device host --labels wanted.csv --count 5 --out five", 0, &["5 images"]);
    assert_eq!(files(&place.path("five")), ["000000.png", "000001.png", "000002.png", "000003.png", "000004.png"]);
    place.says("sample --run whole --device host --labels wanted.csv --count 3", 0, &["3 images", "grid.png"]);
    assert!(!place.path("grid.rows.txt").exists());
    place.says("sample --run whole --labels wanted.csv --class red", 2, &["--class"]);
    for (text, part) in [
        (wanted.replace("red", "blue"), "its columns are blue, big, old; expected the run's classes in their order"),
        (wanted.replace("0,0,1", "0,0,0"), "line 2: no labels"),
        ("image,red,big,old\n".into(), "no line of labels"),
    ] {
        std::fs::write(place.path("wrong.csv"), text).unwrap();
        place.says("sample --run whole --device host --labels wrong.csv", 1, &["wrong.csv", part]);
    }
    let left_out = "no label accuracy and no Fréchet distance: the labels are vectors";
    place.says("eval --run whole --device host --per-class 20", 0, &[left_out, "20 generated, 10 real"]);
    place.says("eval --run whole --device host --per-class 20 --json", 0, &[left_out]);
    // What cannot be.
    place.says(&format!("{train} --conditioning ac-gan"), 2, &["conditioning ac-gan", "--conditioning projection"]);
    place.zgan(&format!("{train} --conditioning none --run none"), 0);
    place.says("sample --run none --device host --labels wanted.csv", 2, &["labels: the run draws without labels"]);
    place.says("train --labels labels.csv", 2, &["labels.csv goes with images of folder:DIR, not with mnist-10k"]);
    std::fs::write(place.path("labels.csv"), labels.replace("bee/8", "ant/8").replace(",0.5,", ",0.25,")).unwrap();
    place.says("train --resume parts --steps 8", 2, &["other images"]);
}

#[test]
fn control_characters_reach_no_terminal() {
    let place = Place::new();
    numbered_classes(&place.path("numbers"));
    std::fs::rename(place.path("numbers/1"), place.path("numbers/a\n\x1b[31mb")).unwrap();
    std::fs::write(place.path("numbers/2/\x1b[2J.png"), "no picture").unwrap();
    let silent = |arguments: &str, code: i32, parts: &[&str]| {
        let said = place.says(arguments, code, parts);
        assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{arguments}: {said:?}");
    };
    silent(&format!("{ON_NUMBERS} --steps 1 --run a"), 1, &["\\x1b[2J.png"]);
    silent(&format!("{ON_NUMBERS} --steps 1 --run a --unreadable skip"), 0, &["skipped", "\\x1b[2J.png"]);
    let name = "a\\x0a\\x1b[31mb";
    assert!(place.read("runs/a/samples/rows.txt").ends_with(&format!("row 12: {name}\n")));
    silent("info a", 0, &[name]);
    silent("sample --run a --device host --class nothing", 2, &[name]);
    silent(&format!("sample --run a --device host --count 1 --class {name}"), 0, &["1 images"]);
    let path = place.path("runs/a/checkpoints/step-000001.safetensors");
    let (mut header, tensors) = zgan::checkpoint::load(&path).unwrap();
    header.data.classes[11] = "a\n\x1b[31mb".into();
    zgan::checkpoint::save(&path, &tensors, &header).unwrap();
    silent("info a", 0, &["\\x1b[31mb"]);
    silent("sample --run a --device host --columns 1", 0, &["12 images"]);
    assert!(place.read("grid.rows.txt").ends_with(&format!("row 12: {name}\n")));
    std::fs::write(place.path("c.toml"), "steps = 1 # \x1b[31m").unwrap();
    silent("train --config c.toml", 2, &["c.toml", "\\x1b[31m"]);
}

#[test]
fn a_run_keeps_the_order_of_its_classes() {
    let place = Place::new();
    numbered_classes(&place.path("numbers"));
    place.zgan(&format!("{ON_NUMBERS} --steps 2 --stop-at 1 --run a"), 0);
    // As a program wrote it that sorted names by their bytes.
    let path = place.path("runs/a/checkpoints/step-000001.safetensors");
    let (mut header, tensors) = zgan::checkpoint::load(&path).unwrap();
    let mut like: Vec<String> = (1..=12).map(|class| class.to_string()).collect();
    like.sort();
    let settings = Settings::default();
    let options = zgan::data::DataOptions { size: 28.into(), channels: 1, like: Some(like), ..settings.data_options() };
    let data = zgan::data::DataSource::Folder(place.path("numbers"));
    header.data = data.open(zgan::data::Split::Train, &options).unwrap().info();
    zgan::checkpoint::save(&path, &tensors, &header).unwrap();
    place.zgan("train --resume a", 0);
    place.says("info a", 0, &["after step 2", "classes 0 1, 1 10, 2 11, 3 12, 4 2,"]);
    std::fs::rename(place.path("numbers/12"), place.path("numbers/13")).unwrap();
    place.says("train --resume a --steps 3", 2, &["other images", "only there: class 12", "only here: class 13"]);
}

#[test]
fn a_folder_for_each_class_whatever_its_name() {
    let place = Place::new();
    place.zgan("train --preset mnist --device host --width 2 --batch 4 --steps 1 --run a", 0);
    let (mut header, tensors) =
        zgan::checkpoint::load(&place.path("runs/a/checkpoints/step-000001.safetensors")).unwrap();
    let names = ["..", "..", "a/b", "a_b", "a\\b", "A_B", "", ".hidden", "x,y", "../../up"];
    header.data.classes = names.map(String::from).to_vec();
    zgan::checkpoint::save(&place.path("crafted.safetensors"), &tensors, &header).unwrap();
    place.says("sample --checkpoint crafted.safetensors --device host --count 20 --out many/deep", 0, &["20 images"]);
    let folders = files(&place.path("many/deep"));
    assert_eq!(folders.len(), 10, "{folders:?}");
    assert!(folders.contains(&"a_b".into()) && !folders.contains(&"a_b-5".into()), "{folders:?}");
    assert!(folders.iter().all(|folder| files(&place.path("many/deep").join(folder)).len() == 2));
    assert_eq!(files(&place.path("many")), ["deep"]);
    let class = |class: &str, code: i32, parts: &[&str]| {
        let command = "sample --checkpoint crafted.safetensors --device host --columns 2 --out x.png --class";
        place.says(&format!("{command} {class}"), code, parts);
    };
    class("x,y,.hidden", 0, &["4 images"]);
    assert_eq!(place.read("x.rows.txt"), "row 1: x,y\nrow 2: .hidden\n");
    class("3,x,y,8", 0, &["6 images"]);
    class("..", 2, &["2 classes are called .."]);
    class("x", 2, &["no class is called x"]);
    class("10", 2, &["no class is called 10"]);
    // Names within names: each way to read this but one ends at its last part, and there are more ways than can be tried.
    header.data.classes[..3].clone_from_slice(&["p", "p,p", "q"].map(String::from));
    zgan::checkpoint::save(&place.path("crafted.safetensors"), &tensors, &header).unwrap();
    let many = "p,".repeat(5000);
    class(&format!("{many}q"), 0, &["10002 images"]);
    class(&format!("{many}r"), 2, &["no class is called r"]);
    class("p,p,q", 0, &["6 images"]);
    class("p,p", 0, &["2 images"]);
    assert_eq!(place.read("x.rows.txt"), "row 1: p,p\n");
}
