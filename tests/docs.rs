//! README.md and docs/*.md: their commands, run as they stand there but smaller, their options, links and quotations.
//!
//! In these pages an indented block is commands; everything else that is not prose stands in a fenced block. Each command
//! is run by [`smaller`], or is in [`NOT_RUN`] with the reason. One that is in neither fails the test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use zgan::data::{ImageShape, Size, Split};
use zgan::device::{Device, embedded_images};
use zgan::gan::{Setup, Trainer};
use zgan::settings::{PRESETS, Preset};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Commands that are not run, by how they begin, and why. The scripts, tests and features that they name must exist.
const NOT_RUN: &[(&str, &str)] = &[
    ("scripts/", "fetches, builds or measures for minutes"),
    ("cargo build", "cargo cannot run inside its own test"),
    ("cargo test", "cargo cannot run inside its own test"),
    ("cargo bench", "cargo cannot run inside its own test"),
    ("cargo run --release --features libtorch", "needs libtorch"),
    ("eval $(scripts/libtorch)", "fetches libtorch"),
    ("python ", "needs PyTorch"),
    ("tar ", "needs the archive"),
    ("cd zgan-0.1.0-x86_64-linux", "needs the archive"),
    ("./", "needs the archive"),
    ("zgan-0.1.0-x86_64-linux/", "needs the archive"),
    ("nvidia-smi", "needs a driver"),
    ("scp ", "needs a rented machine"),
    ("ssh ", "needs a rented machine"),
    ("zgan eval --run NAME --metrics", "needs the weights of Inception"),
    ("zgan eval --images", "needs the weights of Inception"),
    ("zgan train --data folder:flowers --eval-every", "needs the weights of Inception"),
    ("zgan sample --run NAME --best", "needs a run that was judged"),
    ("tensorboard ", "needs TensorBoard"),
    ("pip ", "fetches packages"),
    ("curl ", "fetches a file"),
    ("apt-get ", "fetches packages"),
    ("mpirun -np 8", "needs several machines"),
    ("zgan gpu-report", "tests/gpu_check.rs makes a page"),
];

/// The numbers that the host has in builds with the feature `check` alone.
const SHORT: [&str; 3] = ["tf32", "bf16", "f16"];

/// A line of a page, by where it stands.
enum Line {
    Prose(String),
    Indented(String),
    /// The language after the fence, and the line.
    Fenced(String, String),
}

struct Page {
    path: PathBuf,
    lines: Vec<Line>,
}

fn pages() -> Vec<Page> {
    let folder = std::fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.push(Path::new(ROOT).join("README.md"));
    paths.sort();
    paths.into_iter().map(|path| Page { lines: lines(&std::fs::read_to_string(&path).unwrap()), path }).collect()
}

fn lines(text: &str) -> Vec<Line> {
    let (mut all, mut fence, mut indented, mut blank) = (Vec::new(), None::<&str>, false, true);
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language) };
            continue;
        }
        // An indented line goes on a paragraph or a list where it does not follow an empty one.
        indented = line.starts_with("    ") && (indented || blank);
        blank = line.trim().is_empty();
        all.push(match fence {
            Some(language) => Line::Fenced(language.into(), line.into()),
            None if indented => Line::Indented(line.trim().into()),
            None => Line::Prose(line.into()),
        });
    }
    all
}

impl Page {
    fn name(&self) -> String {
        self.path.strip_prefix(ROOT).unwrap().display().to_string()
    }

    fn prose(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| if let Line::Prose(text) = line { Some(text.as_str()) } else { None })
    }

    /// Word by word, with comments left out, continued lines joined, and lists of commands taken apart.
    fn commands(&self) -> Vec<Vec<String>> {
        let mut joined = String::new();
        for line in &self.lines {
            let Line::Indented(text) = line else { continue };
            let text = text.split("  #").next().unwrap_or_default().trim_end();
            joined += &text.strip_suffix('\\').map_or(format!("{text}\n"), String::from);
        }
        let commands = joined.lines().flat_map(|line| line.split("; ")).flat_map(|line| line.split(" && "));
        commands.map(words).filter(|words| !words.is_empty()).collect()
    }

    /// What stands between backquotes.
    fn spans(&self) -> Vec<String> {
        let text = self.prose().collect::<Vec<_>>().join("\n");
        text.split('`').skip(1).step_by(2).map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }
}

/// As a shell takes a command apart that has no single quotes and no backslashes.
fn words(command: &str) -> Vec<String> {
    let quoted = command.split('"').enumerate();
    quoted
        .flat_map(|(i, part)| match i % 2 {
            0 => part.split_whitespace().map(String::from).collect(),
            _ => vec![part.to_string()],
        })
        .collect()
}

/// Takes `NAME=value` off the beginning of a command.
fn environment(words: &mut Vec<String>) -> Vec<(String, String)> {
    let assignment = |word: &String| {
        let (name, value) = word.split_once('=')?;
        name.chars()
            .all(|c| c == '_' || c.is_ascii_uppercase() || c.is_ascii_digit())
            .then(|| (name.to_string(), value.to_string()))
    };
    let found: Vec<_> = words.iter().map_while(assignment).collect();
    words.drain(..found.len());
    found
}

fn has(words: &[String], word: &str) -> bool {
    words.iter().any(|w| w == word)
}

/// Gives an option this value, whether the command has the option or not.
fn set(words: &mut Vec<String>, option: &str, value: &str) {
    match words.iter().position(|word| word == option) {
        Some(at) => words[at + 1] = value.into(),
        None => words.extend([option.into(), value.into()]),
    }
}

/// A run, data of every kind, and settings, as the pages' commands call them or [`smaller`] does.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let path = |name: &str| place.0.path().join(name);
        let noise = |bytes: usize, seed: usize| (0..bytes).map(|i| ((i * 31 + seed * 7919) % 251) as u8).collect();
        let images: Vec<Vec<u8>> = (0..20).map(|i| noise(3 * 64 * 64, i)).collect();

        let header = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
        let (mut pixels, mut labels) = (header(&[0x803, 20, 28, 28]), header(&[0x801, 20]));
        let mut records = Vec::new();
        for (i, image) in images.iter().enumerate() {
            let class = (i % 10) as u8;
            pixels.extend(&image[..28 * 28]);
            labels.push(class);
            records.push(class);
            records.extend(&image[..3 * 32 * 32]);
            let folder = path("flowers").join(["rose", "tulip"][i % 2]);
            std::fs::create_dir_all(&folder).unwrap();
            let file = std::fs::File::create(folder.join(format!("{i}.png"))).unwrap();
            let mut encoder = png::Encoder::new(file, 64, 64);
            encoder.set_color(png::ColorType::Rgb);
            encoder.write_header().unwrap().write_image_data(image).unwrap();
        }
        let csv = "image,red,white,wild\nrose/0.png,1,0,0\nrose/2.png,0.5,0.5,0\ntulip/1.png,0,1,1\ntulip/3.png,,,\n";
        std::fs::write(path("flowers.csv"), csv).unwrap();
        let wanted = (0..10).map(|class| format!(",{class}")).collect::<String>();
        std::fs::write(path("wanted.csv"), format!("image{wanted}\na,1,0,0,0,0,0,0,0,0,0\nb,0,1,0.5,0,0,0,0,0,0,0\n"))
            .unwrap();
        std::fs::create_dir(path("digits")).unwrap();
        std::fs::write(path("digits/train-images-idx3-ubyte"), pixels).unwrap();
        std::fs::write(path("digits/train-labels-idx1-ubyte"), labels).unwrap();
        std::fs::create_dir(path("cifar-10-batches-bin")).unwrap();
        for batch in 1..=5 {
            std::fs::write(path("cifar-10-batches-bin").join(format!("data_batch_{batch}.bin")), &records).unwrap();
        }
        let names: Vec<String> = (0..10).map(|class| format!("{class}\n")).collect();
        std::fs::write(path("cifar-10-batches-bin/batches.meta.txt"), names.concat()).unwrap();
        let before = r#"{ "format": 1, "operations": [{ "operation": "norm", "sizes": "conditional, ReLU, x2: 3 of 4x4, C 5",
            "precision": "f32", "form": "fused", "median_us": 1e9, "spread": 0.0, "turns": 3 }] }"#;
        std::fs::write(path("before.json"), before).unwrap();
        std::fs::write(path("small.toml"), "data = \"idx:digits\"\nwidth = 4\nbatch = 4\nsteps = 2\n").unwrap();

        let output = place.zgan(&words("train --config small.toml --run small --device host --no-eval"), &[]);
        assert!(output.status.success(), "{}", said(&output));
        place
    }

    fn zgan(&self, words: &[String], environment: &[(String, String)]) -> Output {
        self.started_by(Command::new(env!("CARGO_BIN_EXE_zgan")), words, environment)
    }

    fn started_by(&self, mut command: Command, words: &[String], environment: &[(String, String)]) -> Output {
        command.current_dir(self.0.path()).stdin(Stdio::null()).args(words);
        // What somebody measured on this machine is nothing to this test, nor may it leave anything there.
        command.env("ZGAN_TUNING", "off").env("XDG_CACHE_HOME", self.0.path().join("cache"));
        command.envs(environment.iter().cloned()).output().unwrap()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What zgan is asked in a [`Place`], so that it takes no time; `None` for a command without a rule. With `--help` at its
/// end a command is only read, and refused where it has an option or a value that does not exist.
fn smaller(mut words: Vec<String>) -> Option<Vec<String>> {
    for word in &mut words {
        *word = word.replace("NAME", "small").replace("FILE.toml", "small.toml").replace("MORE", "3");
    }
    let second = words.get(1).cloned().unwrap_or_default();
    if has(&words, "--help") || has(&words, "-h") {
        return Some(words);
    }
    let host = |words: &mut Vec<String>| {
        if !has(words, "--device") {
            set(words, "--device", "host");
        }
    };
    // What a command prints goes into a file, of which a made-up one is there.
    if let Some(at) = words.iter().position(|word| word == ">") {
        words.truncate(at);
    }
    match words.first()?.as_str() {
        "info" | "plot" => (),
        // Only a program that was built with NVRTC has machine code, and what reads it may not be here.
        "kernels" if embedded_images().is_empty() || has(&words, "--sass") || has(&words, "--loops") => {
            words.push("--help".into());
        }
        // There may be no GPU here: tests/nccl.rs has trainings on several.
        "train" if words.iter().any(|word| word.starts_with("cuda")) => words.push("--help".into()),
        "kernels" => {
            // Of one small file alone: what takes minutes is disassembling all of them.
            if !has(&words, "--source") && !has(&words, "--ptx") {
                words.retain(|word| word != "conv_forward" && word != "log_partition");
                words.insert(1, "adam".into());
            }
            set(&mut words, "--budget", &format!("{ROOT}/kernels/budget.toml"));
        }
        "train" => {
            host(&mut words);
            words.push("--no-eval".into());
            if !has(&words, "--resume") {
                set(&mut words, "--steps", "2");
                set(&mut words, "--batch", "2");
                if has(&words, "--stop-at") {
                    set(&mut words, "--stop-at", "1");
                }
                if !has(&words, "softmax-gan") && !has(&words, "ring") {
                    let width = if has(&words, "simt") { "1" } else { "4" };
                    set(&mut words, "--width", width);
                }
            }
        }
        "export" => host(&mut words),
        "sample" => {
            host(&mut words);
            if has(&words, "--count") {
                set(&mut words, "--count", "8");
            }
        }
        "eval" => {
            host(&mut words);
            set(&mut words, "--per-class", "1");
        }
        "study" if second == "conditioning" => {
            host(&mut words);
            for (option, value) in
                [("--steps", "1"), ("--seeds", "1"), ("--per-class", "1"), ("--config", "small.toml")]
            {
                set(&mut words, option, value);
            }
        }
        "study" if second == "modes" => {
            host(&mut words);
            set(&mut words, "--steps", "2");
            set(&mut words, "--seeds", "1");
        }
        // One needs a library of NVIDIA's, the other a file that PyTorch wrote.
        "bench" if has(&words, "--nvtx") || has(&words, "--beside") => words.push("--help".into()),
        "bench" | "study" | "tune" => {
            host(&mut words);
            set(&mut words, "--time", "0");
            words.push("--tiny".into());
            if words[0] == "tune" && !has(&words, "--output") && !has(&words, "--dry-run") {
                words.push("--dry-run".into());
            }
            for (option, value) in [("--width", "4"), ("--batch", "2")] {
                if has(&words, option) {
                    set(&mut words, option, value);
                }
            }
            if has(&words, "--shapes") {
                set(&mut words, "--shapes", "mnist");
            }
            // All operations take long.
            if words[0] == "bench" && second.is_empty() {
                words.push("log_partition".into());
            }
            // The steps have other sizes here.
            if second.starts_with("step, ") {
                words[1] = second.split(", ").take(2).collect::<Vec<_>>().join(", ");
            }
        }
        "check" => {
            // The cheapest kernels.
            match second.as_str() {
                "" => words.push("cross_entropy".into()),
                option if option.starts_with('-') => words.insert(1, "cross_entropy".into()),
                _ => words[1] = "cross_entropy".into(),
            }
            if !has(&words, "--profile") {
                set(&mut words, "--seeds", "1");
            }
        }
        _ => return None,
    }
    Some(words)
}

/// Whether a command that is not run names things that exist.
fn names_what_exists(words: &[String]) -> Result<(), String> {
    let manifest: toml::Table = toml::from_str(include_str!("../Cargo.toml")).unwrap();
    let there = |path: String| match Path::new(ROOT).join(&path).exists() {
        true => Ok(()),
        false => Err(format!("there is no {path}")),
    };
    for pair in words.windows(2) {
        match (pair[0].as_str(), &pair[1]) {
            ("--test", name) => {
                there(format!("tests/{name}/main.rs")).or_else(|_| there(format!("tests/{name}.rs")))?
            }
            ("--bench", name) => there(format!("benches/{name}.rs"))?,
            ("--features", name) if manifest["features"].get(name).is_none() => {
                return Err(format!("there is no feature {name}"));
            }
            ("python", script) if script.ends_with(".py") => there(script.clone())?,
            _ => (),
        }
    }
    if let Some(script) = words[0].strip_prefix("scripts/") {
        let output = Command::new("test").args(["-x", &format!("{ROOT}/scripts/{script}")]).status().unwrap();
        return if output.success() { Ok(()) } else { Err(format!("scripts/{script} is no program")) };
    }
    Ok(())
}

/// Runs a command of a page, or says what is wrong with it.
fn try_out(place: &Place, command: &[String]) -> Result<(), String> {
    let mut words = command.to_vec();
    let mut variables = environment(&mut words);
    for (name, value) in &mut variables {
        *value = value.replace("NAME", "small");
        if name == "ZGAN_ISA" {
            *value = Device::host_isas()[0].to_string();
        }
    }
    names_what_exists(&words)?;
    let text = words.join(" ");
    if NOT_RUN.iter().any(|(start, _)| text.starts_with(start)) {
        return Ok(());
    }
    let (mut featured, mut mpirun) = (false, None);
    if text.starts_with("cargo run --release ") {
        let own = words.iter().position(|word| word == "--").ok_or("no -- before zgan's own arguments")?;
        featured = has(&words[..own], "--features");
        words.drain(..=own);
    } else if words[0] == "zgan" {
        words.remove(0);
    } else if let ("mpirun", Some(at)) = (words[0].as_str(), words.iter().position(|word| word == "zgan")) {
        mpirun = Some(words.drain(..=at).collect::<Vec<_>>());
    } else {
        return Err("no rule says how to run it: see NOT_RUN".into());
    }
    featured |= words.iter().flat_map(|word| word.split(',')).any(|word| SHORT.contains(&word));
    let mut words = smaller(words).ok_or("no rule says how to run it: see smaller")?;
    if featured && !cfg!(feature = "check") {
        words.push("--help".into());
    }
    let output = match mpirun {
        Some(mpirun) if cfg!(feature = "mpi") => {
            let mut command = Command::new("mpirun");
            command.args(["--allow-run-as-root", "--oversubscribe"]).args(&mpirun[1..mpirun.len() - 1]);
            // An image for each process.
            if words[0] == "train" && !has(&words, "--resume") {
                set(&mut words, "--batch", "4");
            }
            command.arg(env!("CARGO_BIN_EXE_zgan"));
            place.started_by(command, &words, &variables)
        }
        Some(_) => {
            words.push("--help".into());
            place.zgan(&words, &variables)
        }
        None => place.zgan(&words, &variables),
    };
    if output.status.success() { Ok(()) } else { Err(format!("zgan {}\n{}", words.join(" "), said(&output))) }
}

#[test]
fn every_command_runs() {
    let pages = pages();
    let next = AtomicUsize::new(0);
    // The commands of a page in their order, as some need what others have left.
    let try_some = || {
        let (place, mut tried, mut wrong) = (Place::new(), BTreeSet::new(), Vec::new());
        while let Some(page) = pages.get(next.fetch_add(1, Ordering::Relaxed)) {
            for command in page.commands() {
                if tried.insert(command.clone())
                    && let Err(what) = try_out(&place, &command)
                {
                    wrong.push(format!("{}: {}\n{what}", page.name(), command.join(" ")));
                }
            }
        }
        wrong
    };
    // Most commands keep one core busy.
    let wrong = std::thread::scope(|scope| {
        let other = scope.spawn(try_some);
        let mut wrong = try_some();
        wrong.extend(other.join().unwrap());
        wrong
    });
    let commands: BTreeSet<_> = pages.iter().flat_map(Page::commands).collect();
    assert!(commands.len() > 60, "{} commands were found", commands.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_page_opens_with_a_command() {
    for page in pages() {
        let opens = page.lines.iter().find(|line| match line {
            Line::Indented(_) => true,
            Line::Prose(text) => text.starts_with("## "),
            Line::Fenced(..) => false,
        });
        assert!(matches!(opens, Some(Line::Indented(_))), "{}", page.name());
    }
}

/// `zgan train --seed 2` in prose names a command and an option that exist, `--seed` alone an option of some command.
#[test]
fn options_that_prose_names_exist() {
    let place = Place::new();
    let mut helps = BTreeMap::new();
    for command in [
        "train",
        "sample",
        "export",
        "eval",
        "bench",
        "tune",
        "study",
        "study conditioning",
        "study modes",
        "info",
        "plot",
        "kernels",
        "check",
        "gpu-report",
    ] {
        helps.insert(command, said(&place.zgan(&words(&format!("{command} --help")), &[])));
    }
    let knows =
        |help: &str, option: &str| help.split(|c: char| !(c == '-' || c.is_alphanumeric())).any(|w| w == option);
    // Options of scripts stand in the scripts; those of cargo are few.
    let scripts = std::fs::read_dir(Path::new(ROOT).join("scripts")).unwrap();
    let scripts: String = scripts.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let others = format!("{scripts} --features --release");
    for page in pages() {
        for span in page.spans() {
            let mut words = words(&span);
            environment(&mut words);
            let options = words.iter().filter(|word| word.starts_with("--") && word.len() > 2);
            let options = options.map(|word| word.split('=').next().unwrap_or_default());
            let help = match words.first().map(String::as_str) {
                Some("zgan") if words.len() > 1 => {
                    let two = words.iter().skip(1).take(2).cloned().collect::<Vec<_>>().join(" ");
                    let help = helps.get(two.as_str()).or_else(|| helps.get(words[1].as_str()));
                    help.unwrap_or_else(|| panic!("{}: `{span}` is no command", page.name())).clone()
                }
                Some(first) if first.starts_with("--") => helps.values().cloned().collect::<String>() + &others,
                _ => continue,
            };
            for option in options {
                assert!(knows(&help, option), "{}: `{span}` has {option}, which does not exist", page.name());
            }
        }
    }
}

/// As GitHub makes the name of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        // Code has brackets of its own.
        let text: String = page.prose().collect::<Vec<_>>().join("\n").split('`').step_by(2).collect();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or_default()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.path.clone() } else { page.path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: there is no {link}", page.name());
            if !heading.is_empty() {
                let target = lines(&std::fs::read_to_string(&target).unwrap());
                let found = target.iter().any(|line| matches!(line, Line::Prose(text) if anchor(text) == heading));
                assert!(found, "{}: {link} names no heading there", page.name());
            }
        }
    }
}

/// The table of docs/many-gpus.md is what four ranks exchange in a step of each preset, on images of ten classes.
#[test]
fn what_ranks_exchange_is_as_the_page_says() {
    let row = |preset: &Preset| {
        let settings = preset.settings();
        let data = settings.images.data.open(Split::Train, &settings.data_options()).unwrap();
        let mut info = data.info();
        if preset.architecture.is_convolutional() && preset.name != "mnist" {
            let Size { height, width } = settings.images.size;
            info.shape = ImageShape { height, width, channels: 3 };
        }
        let bytes = Trainer::exchanged(&Setup::new(&settings, &info), 4).unwrap();
        let all: usize = bytes.iter().sum();
        format!("| `{}` | {} | {:.2} |", preset.name, bytes.len(), all as f64 * 1e-6)
    };
    let rows: Vec<String> = PRESETS.iter().map(row).collect();
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/many-gpus.md")).unwrap();
    assert!(page.contains(&rows.join("\n")), "expected\n{}", rows.join("\n"));
}

/// Code in these pages is quoted from the kernels as they are.
#[test]
fn quoted_code_is_in_the_kernels() {
    let files = std::fs::read_dir(Path::new(ROOT).join("kernels")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap());
    let there: BTreeSet<String> = files.flat_map(|text| text.lines().map(String::from).collect::<Vec<_>>()).collect();
    for page in pages() {
        for line in &page.lines {
            if let Line::Fenced(language, text) = line {
                assert!(language != "cpp" || text.is_empty() || there.contains(text), "{}: {text}", page.name());
            }
        }
    }
}
