//! Block sizes and tiles that are not the built-in ones: what they change and what not, their file, and `zgan tune`.

mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::Random;
use zgan::device::{Buffer, Device, FIELDS, Launched, Products, TileCost, Tuning, embedded_images, trace};
use zgan::instruments::bench::{Caches, Settings};
use zgan::instruments::tune::{self, Line, Request, file};
use zgan::ops::adam::{self, Adam, Buffers};
use zgan::ops::conv::{self, Conv, ConvGradient, Prologue};
use zgan::ops::log_partition::{self, Evaluation};
use zgan::ops::matmul::{self, Linear, OutputGradient};
use zgan::ops::norm::{self, Affine, Batch, Gradients, Shape, Tables};
use zgan::ops::state::{Network, State, StateBuffer};
use zgan::ops::{Activation, elementary};
use zgan::{Error, Result};

/// What an error says of the tiles that there are.
fn expected_tiles(products: Products) -> String {
    let names: Vec<String> = products.sizes().iter().map(|(rows, columns)| format!("{rows}x{columns}")).collect();
    format!("expected tiles of {}", names.join(", "))
}

/// As small as may be: what is one block otherwise is several.
fn odd(device: &Device) -> Tuning {
    Tuning {
        elements: 256,
        logits: 256,
        logit_blocks: 16,
        reduce_blocks: 16,
        rows: 16,
        split_blocks: 64,
        split_pixels: 16,
        winograd_tiles: 1,
        ..device.tuning().clone()
    }
}

fn devices() -> [Device; 2] {
    [Device::host(2).unwrap(), Device::simt(3)]
}

fn upload(device: &Device, len: usize, seed: u64) -> Buffer<f32> {
    device.upload(&Random(seed).normals(len)).unwrap()
}

fn zeros(device: &Device, len: usize) -> Buffer<f32> {
    device.zeros(len).unwrap()
}

type Outputs = Vec<Vec<f32>>;
type Operation = fn(&Device) -> Result<Outputs>;

fn read(outputs: &[&Buffer<f32>]) -> Result<Outputs> {
    outputs.iter().map(|buffer| buffer.read()).collect()
}

fn weight_gradient(device: &Device) -> Result<Outputs> {
    let sizes = Conv { n: 5, h: 8, w: 8, c: 3, k: 7, r: 3, s: 3, pad: [1; 2], stride: 1 };
    let (x, dy) = (upload(device, 5 * 64 * 3, 1), upload(device, 5 * 64 * 7, 2));
    let (dw, db) = (zeros(device, 9 * 3 * 7), zeros(device, 7));
    let output = OutputGradient { dy: &dy, y: None, activation: Activation::Identity, row_scale: None };
    let gradient = ConvGradient { output, pooled: false };
    let workspace = zeros(device, conv::weight_gradient_workspace_len(device, &sizes));
    conv::conv_weight_gradient(sizes, (&dw, Some(&db)), &x, &Prologue::NONE, &gradient, &workspace)?.add()?;
    read(&[&dw, &db])
}

fn normalise(device: &Device) -> Result<Outputs> {
    let (n, side, c) = (3, 5, 9);
    let shape = Shape { n, h: side, w: side, c, upsample: true };
    let len = shape.input_len();
    let (x, dy) = (upload(device, len, 1), upload(device, 4 * len, 2));
    let (gamma, beta) = (upload(device, 2 * c, 3), upload(device, 2 * c, 4));
    let labels = device.upload(&[1u32, 0, 1])?;
    let [mean, rstd] = [zeros(device, c), zeros(device, c)];
    let [scale, shift] = [zeros(device, n * c), zeros(device, n * c)];
    let (y, dx) = (zeros(device, 4 * len), zeros(device, len));
    let [dgamma, dbeta] = [zeros(device, 2 * c), zeros(device, 2 * c)];
    let workspace = zeros(device, norm::workspace_len(device, shape, true));
    let tables = Tables { scale: &scale, shift: &shift };
    let batch = Batch { x: &x, mean: &mean, rstd: &rstd, tables, whole: None };
    let affine = Affine { gamma: &gamma, beta: &beta, labels: Some(&labels) };
    norm::statistics(batch, None, affine, 1e-5, shape, &workspace)?;
    norm::apply(&y, &x, tables, Activation::RELU, shape)?;
    let gradients = Gradients { dx: &dx, accumulate: false, dgamma: &dgamma, dbeta: &dbeta };
    norm::backward(gradients, &dy, batch, affine, Activation::RELU, shape, &workspace)?;
    read(&[&mean, &rstd, &y, &dx, &dgamma, &dbeta])
}

fn softmax(device: &Device) -> Result<Outputs> {
    let (n, m) = (600, 500);
    let (real, fake) = (upload(device, n, 1), upload(device, m, 2));
    let out = Evaluation { statistics: zeros(device, 4), seed_d: zeros(device, n + m), seed_g: zeros(device, m) };
    let workspace = zeros(device, log_partition::workspace_len(device, n + m));
    log_partition::fused(&out, &real, &fake, 1.0, &workspace)?;
    read(&[&out.statistics, &out.seed_d, &out.seed_g])
}

fn update(device: &Device) -> Result<Outputs> {
    let n = 5000;
    let (parameters, gradient) = (upload(device, n, 1), upload(device, n, 2));
    let (first_moment, second_moment, norm) = (zeros(device, n), zeros(device, n), zeros(device, 1));
    let workspace = zeros(device, adam::workspace_len(device, n));
    let state = StateBuffer::new(device, &State::new(1, [1e-3; 2], 0, 0))?;
    let buffers = Buffers {
        parameters: &parameters,
        first_moment: &first_moment,
        second_moment: &second_moment,
        gradient: &gradient,
    };
    let settings = Adam { beta1: 0.5, beta2: 0.999, eps: 1e-8 };
    adam::update(&buffers, None, &norm, &state, Network::Generator, &settings, &workspace)?;
    read(&[&parameters, &first_moment, &second_moment, &norm])
}

fn elements(device: &Device) -> Result<Outputs> {
    let n = 3000;
    let (x, y, total, most) = (upload(device, n, 1), zeros(device, n), zeros(device, 1), zeros(device, 1));
    let workspace = zeros(device, elementary::workspace_len(device, n));
    elementary::affine(&y, &x, 2.0, 1.0)?;
    elementary::sum(&total, &y, &workspace)?;
    elementary::maximum(&most, &y, &workspace)?;
    read(&[&y, &total, &most])
}

fn grids(launched: &[Launched]) -> Vec<(&'static str, [u32; 3])> {
    launched.iter().map(|launched| (launched.kernel, launched.grid)).collect()
}

const OPERATIONS: [(&str, Operation); 5] = [
    ("conv weight gradient", weight_gradient),
    ("norm", normalise),
    ("log_partition", softmax),
    ("adam", update),
    ("elementary", elements),
];

/// The ends of what a file may hold, under the checkers of `zgan check`.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn what_is_allowed_makes_no_kernel_wrong() {
    for most in [false, true] {
        let device = Device::simt_checked(5);
        let mut tuning = device.built_in_tuning();
        FIELDS.iter().for_each(|field| (field.set)(&mut tuning, if most { field.most } else { field.least }));
        let tuned = device.with_tuning(tuning).unwrap();
        for (name, operation) in OPERATIONS {
            let (expected, found) = (operation(&device).unwrap(), operation(&tuned).unwrap());
            for (found, expected) in found.iter().zip(&expected) {
                let error = common::relative_error(found, &common::to_f64(expected), 1e-30);
                assert!(error < 1e-5, "{name}: {error:.1e}");
            }
            let seen = device.seen();
            assert!(!seen.kernels.is_empty() && seen.findings.is_empty(), "{name}: {:?}", seen.findings);
        }
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn another_tuning_makes_other_grids_and_the_same_results() {
    for device in devices() {
        let tuned = device.with_tuning(odd(&device)).unwrap();
        assert_eq!((device.tuning(), tuned.tuning()), (&device.built_in_tuning(), &odd(&device)));
        for (name, operation) in OPERATIONS {
            let run = |device: &Device| {
                let mut outputs = Vec::new();
                let launched = trace(|| operation(device).map(|found| outputs = found)).unwrap();
                (grids(&launched), outputs)
            };
            let ((one, expected), (other, found)) = (run(&device), run(&tuned));
            assert_ne!(one, other, "{name} on {}", device.execution());
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let error = common::relative_error(found, &common::to_f64(expected), 1e-30);
                assert!(error < 1e-5, "{name} on {}, output {i}: {error:.1e}", device.execution());
            }
        }
    }
}

#[test]
fn handles_of_one_device_share_it() {
    let device = Device::host(1).unwrap();
    let tuned = device.with_tuning(odd(&device)).unwrap();
    let (x, y) = (upload(&device, 3000, 1), zeros(&tuned, 3000));
    elementary::affine(&y, &x, 1.0, 0.0).unwrap();
    x.copy_from(&y).unwrap();
    assert_eq!(x.read().unwrap(), y.read().unwrap());
    // The workspace of one tuning is of no use to another.
    let (total, workspace) = (zeros(&device, 1), zeros(&device, elementary::workspace_len(&device, 3000)));
    let error = elementary::sum(&total, &y, &workspace).unwrap_err().to_string();
    assert!(error.contains("workspace"), "{error}");
    let other = zeros(&Device::host(1).unwrap(), 3000);
    let error = elementary::affine(&y, &other, 1.0, 0.0).unwrap_err().to_string();
    assert!(error.contains("another device"), "{error}");
}

#[test]
fn the_cheapest_tile_is_chosen() {
    let sizes = Linear { n: 256, c: 256, k: 256 };
    let tiles = [(128, 128), (128, 64), (64, 64)];
    let device = Device::host(2).unwrap();
    let kernel = |tuning: Tuning, forward: bool| {
        let device = device.with_tuning(tuning).unwrap();
        let buffer = || zeros(&device, 256 * 256);
        let (x, weight, y) = (buffer(), buffer(), buffer());
        let gradient = OutputGradient { dy: &y, y: None, activation: Activation::Identity, row_scale: None };
        let launched = trace(|| match forward {
            true => matmul::linear_forward(sizes, &y, &x, &weight, None, Activation::Identity),
            false => matmul::linear_input_gradient(sizes, &x, &gradient, &weight),
        });
        launched.unwrap()[0].kernel
    };
    let listed = |sizes: &[(usize, usize)], cost: &dyn Fn((usize, usize)) -> f64| {
        let tile = |&(rows, columns): &(usize, usize)| {
            let cost = cost((rows, columns));
            // What it costs in other precisions is nothing to f32.
            TileCost { rows, columns, cost: [cost, 1.0, 1.0, 1.0] }
        };
        Tuning { linear_tiles: sizes.iter().map(tile).collect(), ..device.built_in_tuning() }
    };
    for (rows, columns) in tiles {
        let cheap = |size| if size == (rows, columns) { 0.1 } else { 1.0 };
        let (forward, backward) = (kernel(listed(&tiles, &cheap), true), kernel(listed(&tiles, &cheap), false));
        assert_eq!(backward, format!("linear_input_gradient_{rows}x{columns}_f32"));
        assert_eq!(forward, format!("linear_forward_{rows}x{columns}_f32"));
    }
    // What is not listed is not used, however well it would do.
    assert_eq!(kernel(listed(&[(64, 64)], &|_| 1.0), true), "linear_forward_64x64_f32");
    // Of equals the largest; with the built-in costs, by the formula.
    assert_eq!(kernel(device.built_in_tuning(), true), "linear_forward_128x128_f32");
}

#[test]
fn a_tuning_beyond_what_kernels_can_do_is_refused() {
    let device = Device::host(1).unwrap();
    let refused = |change: &dyn Fn(&mut Tuning)| {
        let mut tuning = device.built_in_tuning();
        change(&mut tuning);
        match device.with_tuning(tuning) {
            Err(Error::Config(what)) => what,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("accepted"),
        }
    };
    for field in &FIELDS {
        for value in [0, field.least / 2, field.least + 1, field.most * 2, usize::MAX] {
            // 1 + 1 is a power of two.
            if value.is_power_of_two() && (field.least..=field.most).contains(&value) {
                continue;
            }
            let what = refused(&|tuning| (field.set)(tuning, value));
            let expected =
                format!("{}: {value}, expected a power of two from {} to {}", field.name, field.least, field.most);
            assert_eq!(what, expected);
        }
        for value in [field.least, field.most] {
            let mut tuning = device.built_in_tuning();
            (field.set)(&mut tuning, value);
            assert_eq!((field.get)(device.with_tuning(tuning).unwrap().tuning()), value);
        }
    }
    // One block of the log-partition has no more.
    assert_eq!(FIELDS.iter().find(|field| field.name == "logits").unwrap().most, 8192);
    let tile = |rows, columns| TileCost { rows, columns, cost: [1.0; 4] };
    let what = refused(&|tuning| tuning.conv_tiles = vec![tile(128, 256)]);
    assert!(what.contains(&format!("conv-tiles: 128x256, {}", expected_tiles(Products::Conv))), "{what}");
    assert!(refused(&|tuning| tuning.conv_tiles.clear()).contains("no tile"));
    assert!(refused(&|tuning| tuning.conv_tiles = vec![tile(64, 64), tile(64, 64)]).contains("64x64 twice"));
    for cost in [f64::NAN, 0.0, -1.0, f64::INFINITY] {
        let what = refused(&|tuning| tuning.conv_tiles[0].cost[2] = cost);
        assert!(what.contains(" costs ") && what.contains("in bf16, expected 0.001 to 1000"), "{what}");
    }
}

#[test]
fn a_file_gives_back_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    for device in devices() {
        let mut tuning = odd(&device);
        tuning.conv_tiles = vec![TileCost { rows: 64, columns: 64, cost: [0.1 + 0.2, 1.0, 1e3, 1e-3] }];
        for tuning in [tuning, device.built_in_tuning()] {
            file::write(&path, &device.with_tuning(tuning.clone()).unwrap()).unwrap();
            assert_eq!(file::read(&path).unwrap(), (device.name(), tuning.clone()));
            assert_eq!(file::read_for(&path, &device).unwrap(), tuning);
        }
    }
    let error = file::read_for(&path, &Device::host(1).unwrap()).unwrap_err().to_string();
    assert!(error.contains("a.toml: it is for device \"simt\", this one is \"host"), "{error}");
    // No result depends on the number of threads, so a tuning does not.
    assert_eq!(Device::host(1).unwrap().name(), Device::host(2).unwrap().name());
    let error = file::read(&folder.path().join("b.toml")).unwrap_err().to_string();
    assert!(error.contains("b.toml"), "{error}");
}

#[test]
fn a_broken_file_is_told_by_key_and_value() {
    let whole = file::text(&Device::host(1).unwrap());
    let (_, tuning) = file::parse(&whole).unwrap();
    // A run from before there was this field.
    assert_eq!(file::parse(&whole.replace("winograd-tiles = 32\n", "")).unwrap().1, tuning);
    let says = |from: &str, to: &str, parts: &[&str]| {
        let text = whole.replacen(from, to, 1);
        assert_ne!(text, whole, "{from}");
        let what = file::parse(&text).unwrap_err();
        for part in parts {
            assert!(what.contains(part), "{to:?} says {what:?}, not {part:?}");
        }
    };
    says("elements = 8192", "elements = 3000", &["elements: 3000, expected a power of two from 256"]);
    says("elements = 8192", "elements = -1", &["elements: -1, expected a power of two"]);
    says("elements = 8192", "elements = \"many\"", &["elements: \"many\", expected a power of two"]);
    says("logits = 8192", "logits = 16384", &["logits: 16384", "to 8192"]);
    says("rows = 256\n", "", &["rows is missing, expected a power of two from 16 to 4096"]);
    says("rows = 256\n", "rows = 256\nrumble = 3\n", &["rumble: 3, expected no such key", "split-blocks"]);
    says("[conv-tiles]", "[conv-tile]", &["conv-tiles is missing"]);
    says("128x64", "96x96", &["linear-tiles: 96x96", &expected_tiles(Products::Linear)]);
    says("128x64", "wide", &["linear-tiles: wide = ", "a tile's name, like 128x64"]);
    says("f32 = 1.0", "f32 = -1.0", &["linear-tiles: 128x128 costs -1 in f32"]);
    says("f32 = 1.0", "f32 = \"low\"", &["128x128", "\"low\"", "expected numbers"]);
    says("f32 = 1.0", "f64 = 1.0", &["128x128", "f64", "expected costs in f32, tf32, bf16 and f16"]);
    says("device = ", "devise = ", &["device is missing"]);
    says("device = ", "device = 3 #", &["device: 3, expected a text"]);
    says("elements = ", "elements ", &["elements 8192"]);
    // An older program's file says so.
    let old = whole.replace("zgan = \"", "zgan = \"0.0.").replace("rows = 256\n", "");
    let what = file::parse(&old).unwrap_err();
    assert!(what.contains("rows is missing") && what.contains("written by zgan 0.0."), "{what}");
    // What changed nothing about the fields is no reason.
    assert!(file::parse(&whole.replace("zgan = \"", "zgan = \"0.0.")).is_ok());
}

#[test]
fn tuning_ends_with_one_that_is_allowed() {
    let device = Device::host(2).unwrap();
    let settings = Settings { caches: Caches::Warm, time: Duration::ZERO };
    let mut lines = Vec::new();
    let request = Request { settings, tiny: true, filter: None };
    let found = tune::tune(&device, &request, &mut |line| lines.push(line)).unwrap();
    found.check().unwrap();
    for field in tune::fields() {
        let of = |line: &&Line| match line {
            Line::Cost { family, .. } => *family == field,
            Line::Trial(trial) => trial.field == field && trial.ratio > 0.0 && trial.problems > 0,
            Line::Untried { field: of, .. } => *of == field,
        };
        assert!(lines.iter().any(|line| of(&line)), "{field}: {lines:?}");
    }
    let tiles: usize = Products::ALL.iter().map(|products| products.sizes().len()).sum();
    assert_eq!(lines.iter().filter(|line| matches!(line, Line::Cost { cost, .. } if *cost > 0.0)).count(), tiles);
    let trial = |line: &Line| matches!(line, Line::Trial(trial) if trial.field == "elements");
    assert!(lines.iter().any(trial), "{lines:?}");

    let refused = |device: &Device, filter| {
        let request = Request { settings, tiny: true, filter };
        tune::tune(device, &request, &mut |_| {}).unwrap_err().to_string()
    };
    assert!(refused(&Device::simt(0), None).contains("simt checks kernels"));
    let error = refused(&device, Some("wibble"));
    assert!(error.contains("\"wibble\"; there are linear-tiles, conv-tiles, elements"), "{error}");
}

/// Runs the program in `folder`, where its cache is too, and gives what it wrote.
fn zgan(folder: &Path, tuning: &str, arguments: &str, code: i32) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zgan"));
    command.args(arguments.split_whitespace()).current_dir(folder).env("XDG_CACHE_HOME", folder.join("cache"));
    command.env("ZGAN_TUNING", tuning).env("ZGAN_STAND_IN", "host");
    if arguments.contains("--device cuda") {
        command.env("LD_LIBRARY_PATH", stand_in::folder());
    }
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "ZGAN_TUNING={tuning} zgan {arguments}\n{text}");
    assert!(!text.contains("panicked") && !text.contains("stand-in driver:"), "{text}");
    text
}

const TRAIN: &str = "train --preset ring --steps 2 --batch 8 --no-eval --device";

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn the_program_writes_a_file_that_training_uses() {
    let place = tempfile::tempdir().unwrap();
    let run = |tuning: &str, arguments: &str, code: i32| zgan(place.path(), tuning, arguments, code);
    let said = run("", "tune --tiny --time 0 --device host --output a.toml", 0);
    assert!(said.contains("written a.toml") && said.contains("elements"), "{said}");
    let said = run("a.toml", &format!("{TRAIN} host --run a"), 0);
    assert!(said.contains("tuned: a.toml\n"), "{said}");
    let text = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap();
    assert_eq!(text("runs/a/tuning.toml"), text("a.toml"));
    assert!(!run("off", &format!("{TRAIN} host --run b"), 0).contains("tuned"));

    let before = text("a.toml");
    let said = run("", "tune elements --tiny --time 0 --device host --output a.toml --dry-run", 0);
    assert!(said.contains("nothing is written") && !said.contains("split-blocks"), "{said}");
    assert_eq!(text("a.toml"), before);
    run("", "tune --tiny --time 0 --device host --dry-run", 0);
    assert!(!place.path().join("cache").exists(), "--dry-run leaves no folder either");
    assert!(run("", "tune --tiny --time 0 --device host", 2).contains("--tiny"));
    assert!(run("", "tune --device simt --dry-run", 2).contains("simt checks kernels"));
    assert!(run("", "tune wibble --device host --dry-run", 2).contains("wibble"));
    assert!(run("", "tune --device host --output /proc/no/a.toml", 1).contains("/proc/no"));
    assert!(run("", "tune --device host --time=-1", 2).contains("--time"));

    // A file that is named must be right.
    assert!(run("b.toml", &format!("{TRAIN} host"), 2).contains("ZGAN_TUNING: b.toml: "));
    std::fs::write(place.path().join("b.toml"), before.replace("rows = ", "rows = 1")).unwrap();
    let said = run("b.toml", &format!("{TRAIN} host"), 2);
    assert!(said.contains("b.toml: rows: 1") && said.contains("expected a power of two"), "{said}");

    // The one in the cache folder is found, and left out where it is not.
    let kept = place.path().join("cache/zgan/tuning");
    std::fs::create_dir_all(&kept).unwrap();
    let kept = kept.join(format!("{}.toml", Device::host(1).unwrap().name().replace(' ', "-")));
    std::fs::write(&kept, &before).unwrap();
    let line = format!("tuned: {}\n", kept.display());
    for command in [format!("{TRAIN} host --run c"), "sample --run a --device host".into()] {
        assert!(run("", &command, 0).contains(&line));
    }
    let json = "bench --tiny --time 0 --device host --json hinge";
    assert!(run("", json, 0).contains(&line));
    std::fs::write(&kept, before.replace("rows = ", "rows = 1")).unwrap();
    let said = run("", &format!("{TRAIN} host --run d"), 0);
    assert!(said.contains("not tuned: ") && said.contains("rows: 1") && said.contains("zgan tune"), "{said}");
}

#[test]
fn a_run_goes_on_with_the_tuning_it_began_with() {
    let place = tempfile::tempdir().unwrap();
    let run = |tuning: &str, arguments: &str| zgan(place.path(), tuning, arguments, 0);
    let host = Device::host(1).unwrap();
    std::fs::write(place.path().join("odd.toml"), file::text(&host.with_tuning(odd(&host)).unwrap())).unwrap();
    let train = "train --preset mnist --width 8 --batch 8 --steps 4 --seed 3 --no-eval --device host --run";
    let checkpoint = |name: &str| {
        let path: PathBuf = ["runs", name, "checkpoints/step-000004.safetensors"].iter().collect();
        std::fs::read(place.path().join(path)).unwrap()
    };
    run("odd.toml", &format!("{train} through"));
    run("off", &format!("{train} built-in"));
    assert_ne!(checkpoint("through"), checkpoint("built-in"), "it makes no difference");
    for threads in [1, 2] {
        run("odd.toml", &format!("{train} parts --stop-at 2 --force --threads 1"));
        let said = run("", &format!("train --resume parts --no-eval --threads {threads}"));
        assert!(said.contains("tuned: runs/parts/tuning.toml") && !said.contains("another tuning"), "{said}");
        assert_eq!(checkpoint("through"), checkpoint("parts"));
    }
    run("odd.toml", &format!("{train} parts --stop-at 2 --force"));
    assert!(run("off", "train --resume parts --no-eval").contains("another tuning than the run had"));
    run("off", &format!("{train} parts --stop-at 2 --force"));
    assert!(run("odd.toml", "train --resume parts --no-eval").contains("another tuning than the run had"));
    // A run of a program that did not write it had the built-in one.
    run("off", &format!("{train} parts --stop-at 2 --force"));
    std::fs::remove_file(place.path().join("runs/parts/tuning.toml")).unwrap();
    assert!(!run("", "train --resume parts --no-eval").contains("tun"));
    assert_eq!(checkpoint("built-in"), checkpoint("parts"));
    // The same run again, from what it left.
    run("runs/through/tuning.toml", "train --config runs/through/config.toml --run again --no-eval");
    assert_eq!(checkpoint("through"), checkpoint("again"));
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn the_program_tunes_a_gpu() {
    if embedded_images().is_empty() {
        println!("left out: the_program_tunes_a_gpu: this build has no GPU code to load (NVRTC was not found)");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let run = |tuning: &str, arguments: &str, code: i32| zgan(place.path(), tuning, arguments, code);
    let said = run("", "tune --tiny --time 0 --device cuda --output gpu.toml", 0);
    // Every precision has its costs.
    for precision in ["f32", "tf32", "bf16", "f16"] {
        assert!(said.contains(&format!("128x64 {precision:>12}")), "{precision}: {said}");
    }
    let (device, _) = file::read(&place.path().join("gpu.toml")).unwrap();
    assert_eq!(device, "zgan stand-in, host");
    assert!(run("gpu.toml", &format!("{TRAIN} cuda --run a"), 0).contains("tuned: gpu.toml\n"));
    let said = run("gpu.toml", &format!("{TRAIN} host --run b"), 2);
    assert!(said.contains("it is for device \"zgan stand-in, host\", this one is \"host"), "{said}");
}
