//! What the study of fusion rests on: training from separate kernels is the same training, and the page says what ran.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Output};

use approx::AbsDiffEq;
use zgan::device::{Device, kernel_named, kernel_text, nvrtc, traffic};
use zgan::gan::{Setup, Trainer};
use zgan::instruments::plot::{Axis, Bar, Chart, bars, bars_to, curves, short};
use zgan::instruments::{bench, study};
use zgan::nn::Fusion;
use zgan::settings::{Conditioning, Loss, Training, Update};

/// The losses after each of some steps, and the launches and bytes of the last.
fn train(device: &Device, setup: &Setup) -> (Vec<f32>, u64, u64) {
    let mut trainer = Trainer::new(device, setup).unwrap();
    let count = if setup.draws_points() { 0 } else { trainer.images_per_step() };
    let images: Vec<u8> = (0..count * setup.shape.len()).map(|i| (i * 37 % 251) as u8).collect();
    let labels: Vec<u32> = (0..count as u32).map(|i| i % setup.classes as u32).collect();
    let mut losses = Vec::new();
    let mut moved = (0, 0);
    for _ in 0..3 {
        let before = traffic();
        trainer.step(&images, &labels).unwrap();
        let after = traffic();
        moved = (after.launches - before.launches, after.bytes - before.bytes);
        let metrics = trainer.metrics().unwrap();
        losses.extend([metrics.loss_d, metrics.loss_g]);
    }
    (losses, moved.0, moved.1)
}

/// Small steps of every preset under both rules, and what else decides which kernels run.
fn steps() -> Vec<(String, Setup)> {
    let mut all: Vec<_> = bench::steps(true).into_iter().map(|step| (step.name, step.setup)).collect();
    let mnist = |s: &Setup| s.preset.name == "mnist" && s.training.update == Update::Simultaneous;
    let (_, mnist) = all.iter().find(|(_, setup)| mnist(setup)).unwrap();
    let penalised = mnist.with(|s| s.training.loss = Loss::WassersteinGp);
    let classifying = mnist.with(|s| s.networks.conditioning = Conditioning::AcGan);
    // More fakes for G than for D: a second generator, and losses of another size.
    let sizes = mnist.with(|s| {
        s.training = Training { update: Update::Alternating, n_dis: 2, batch_g: Some(5), ..s.training.clone() };
    });
    // As deep as the one of 64 pixels, and slow. (Larger ones are not timed.)
    all.retain(|(_, setup)| setup.preset.name != "sngan-projection-128");
    all.push(("mnist, wasserstein-gp".into(), penalised));
    all.push(("mnist, ac-gan".into(), classifying));
    all.push(("mnist, more fakes for G".into(), sizes));
    all
}

#[test]
fn every_unfused_form_trains_the_same_and_moves_more() {
    let device = Device::host(2).unwrap();
    let mut compared = 0;
    for (name, setup) in steps() {
        let (expected, launches, bytes) = train(&device, &setup);
        for fusion in setup.fusions() {
            let unfused = setup.with(|s| s.training.unfused = vec![fusion]);
            let (losses, more_launches, more_bytes) = train(&device, &unfused);
            for (found, expected) in losses.iter().zip(&expected) {
                let scale = expected.abs().max(1.0);
                assert!(
                    found.abs_diff_eq(expected, 1e-4 * scale),
                    "{name}, unfused {fusion}: {losses:?}, {expected:?}"
                );
            }
            assert!(launches < more_launches && bytes < more_bytes, "{name}, unfused {fusion}: {launches}, {bytes}");
            compared += 1;
        }
        let all = setup.with(|s| s.training.unfused = setup.fusions());
        let (losses, ..) = train(&device, &all);
        for (found, expected) in losses.iter().zip(&expected) {
            assert!(found.abs_diff_eq(expected, 1e-4 * expected.abs().max(1.0)), "{name}: {losses:?}, {expected:?}");
        }
    }
    assert!(compared > 50, "{compared} forms");
}

#[test]
fn a_step_refuses_to_take_apart_what_it_does_not_have() {
    let device = Device::host(1).unwrap();
    for (_, setup) in steps() {
        for fusion in [Fusion::LogPartition, Fusion::Projection, Fusion::Norm, Fusion::Conv] {
            let made = Trainer::new(&device, &setup.with(|s| s.training.unfused = vec![fusion]));
            match made {
                Ok(_) => assert!(setup.fusions().contains(&fusion)),
                Err(error) => {
                    assert!(!setup.fusions().contains(&fusion));
                    assert!(error.to_string().contains(&format!("unfused {fusion}")), "{error}");
                }
            }
        }
    }
}

/// Runs the program in `folder`.
fn zgan(folder: &Path, arguments: &str, code: i32) -> (String, String) {
    // On another machine scripts/gpu-check says where the program is.
    let program = std::env::var("ZGAN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_zgan").into());
    let mut command = Command::new(program);
    let command = command
        .current_dir(folder)
        .args(arguments.split_whitespace())
        .env("XDG_CACHE_HOME", folder)
        .env("ZGAN_TUNING", "off");
    let Output { status, stdout, stderr } = command.output().unwrap();
    let [out, error] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(status.code(), Some(code), "{arguments}: {out}{error}");
    (out, error)
}

/// What a page must be: every tag closed in its order, nothing fetched, no number that is none. Gives its text without
/// tags.
fn check_page(page: &str) -> String {
    let mut open: Vec<&str> = Vec::new();
    let mut text = String::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a document type");
    while let Some((before, after)) = rest.split_once('<') {
        text.push_str(before);
        let (tag, after) = after.split_once('>').expect("a tag that ends");
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap().trim_end_matches('/');
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "<{tag}>");
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        for attribute in ["src=", "href=", "url("] {
            let fetched = tag.replace("href=\"#", "").replace("src=\"data:image/png;base64,", "");
            assert!(!fetched.contains(attribute), "<{tag}>");
        }
        rest = after;
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
    for wrong in ["http:", "https:", "@import", "<script", "=\"NaN", "=\"inf", "=\"-inf", ">NaN", ">inf"] {
        assert!(!page.contains(wrong), "{wrong}");
    }
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

#[test]
fn the_page_shows_every_rung_and_every_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let (out, _) = zgan(folder.path(), "study --tiny --time 0 --device host --out page.html", 0);
    assert!(out.contains("page    page.html"), "{out}");
    assert!(out.contains("step, mnist, width 4, batch 2, simultaneous: "), "{out}");
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    let text = check_page(&page);
    let device = Device::host(1).unwrap();
    let settings = bench::Settings { caches: bench::Caches::Warm, time: std::time::Duration::ZERO };
    let measured = study::measure(&device, settings, true, &[], &mut |_| {}).unwrap();
    assert_eq!(measured.ladders.len(), 8);
    // Where the contents lead to.
    for part in page.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(page.contains(&format!("<section id=\"{part}\">")), "{part}");
    }
    assert_eq!(page.matches("href=").count(), 10);
    // No text is there twice within a ladder.
    for section in page.split("<section").skip(1).filter(|section| section.contains("<div class=\"rung\">")) {
        let mut texts: Vec<&str> =
            section.split("<pre>").skip(1).map(|rest| rest.split("</pre>").next().unwrap()).collect();
        let all = texts.len();
        texts.sort();
        texts.dedup();
        assert_eq!(all, texts.len(), "{section}");
    }
    assert!(page.contains("<mark>"));
    for step in &measured.steps {
        let [fused, .., apart] = &step.forms[..] else { panic!("{} has no forms", step.name) };
        assert!(fused.name == "everything fused" && apart.name == "everything apart", "{}", step.name);
        for form in &step.forms[1..] {
            assert!(fused.measured.launches < form.measured.launches, "{}: {}", step.name, form.name);
            assert!(form.measured.launches <= apart.measured.launches, "{}: {}", step.name, form.name);
        }
        let title = step.name.strip_prefix("step, ").unwrap();
        assert!(text.contains(&format!("A training step of {title} takes")), "{title}");
        assert!(fused.measured.rivals.iter().any(|rival| rival.name == "two D backwards"), "{title}");
    }
    assert_eq!(measured.steps.len(), 2);
    for ladder in &measured.ladders {
        assert!(ladder.rungs.len() >= 3 && ladder.rungs.len() == ladder.ladder.rungs.len());
        for (rung, named) in ladder.rungs.iter().zip(ladder.ladder.rungs) {
            assert_eq!(rung.measured.form, named.name);
            assert!(text.contains(named.name) && !rung.kernels.is_empty());
            assert!(rung.least.len() == study::MODELLED.len() && rung.least.iter().all(|least| *least > 0.0));
            assert_eq!(rung.kernels.iter().map(|(_, count)| *count as u64).sum::<u64>(), rung.measured.launches);
            for (kernel, _) in &rung.kernels {
                let own = kernel_text(kernel).unwrap();
                let written = kernel_named(kernel).unwrap().written;
                assert!(own.contains(&format!(") {written}(")) && own.ends_with('}'), "{own}");
                assert_eq!(own.lines().filter(|line| line.starts_with("KERNEL")).count(), 1, "{own}");
                assert!(text.contains(&own), "{kernel}");
            }
        }
        let text_of = |rung: &study::MeasuredRung| -> String {
            rung.kernels.iter().map(|(kernel, _)| kernel_text(kernel).unwrap()).collect()
        };
        let texts: HashSet<String> = ladder.rungs.iter().map(text_of).collect();
        assert_eq!(texts.len(), ladder.rungs.len(), "{}: two rungs have one text", ladder.ladder.key);
        let memory: Vec<u64> = ladder.rungs.iter().map(|rung| rung.measured.memory).collect();
        // The matrix of all queries and keys is most of it.
        let saved = if ladder.ladder.key == "attention" { 2 * memory[2] } else { 0 };
        assert!(memory[0] > saved && !memory.contains(&0), "{}: {memory:?}", ladder.ladder.key);
        for pair in ladder.rungs.windows(2) {
            let [below, above] = [&pair[0].measured, &pair[1].measured];
            assert!(below.launches > above.launches && below.bytes > above.bytes, "{below:?} {above:?}");
        }
    }
    let text_of_conv = kernel_text("conv_forward_64x64_f32").unwrap();
    assert!(
        text_of_conv.contains("tiled_matmul<BM, BN>(") && text_of_conv.contains("DEVICE Image image("),
        "{text_of_conv}"
    );
    assert!(!text_of_conv.contains("gradient"), "{text_of_conv}");
    assert_eq!(kernel_text("no_kernel"), None);
    // A dot for each kernel of each problem, which tells its name.
    assert_eq!(page.matches("<circle").count(), measured.kernels.len());
    for problem in bench::problems(true) {
        assert!(measured.kernels.iter().any(|p| p.operation == problem.operation && p.sizes == problem.sizes));
    }
    for point in &measured.kernels {
        assert!(point.seconds > 0.0 && point.bytes > 0 && point.flops.is_none_or(|flops| flops > 0.0), "{point:?}");
        let title = format!("{}, {} {}: ", point.kernel, point.operation, point.sizes);
        assert!(text.contains(&title), "{title}");
    }
}

#[test]
fn a_part_of_the_study_is_measured_alone() {
    let folder = tempfile::tempdir().unwrap();
    let study = "study --tiny --time 0 --device host --out page.html --json --only";
    let object = |parts: &str| -> serde_json::Value {
        serde_json::from_str(&zgan(folder.path(), &format!("{study} {parts}"), 0).0).unwrap()
    };
    let counts =
        |object: &serde_json::Value| ["steps", "ladders", "kernels"].map(|part| object[part].as_array().unwrap().len());
    let of_block = object("block");
    assert_eq!(counts(&of_block), [0, 1, 0]);
    assert!(of_block["format"] == 1 && of_block["provenance"]["execution"] == "host", "{of_block}");
    let ladder = &of_block["ladders"][0];
    assert!(ladder["ladder"] == "block" && ladder["rungs"].as_array().unwrap().len() == 3, "{ladder}");
    for rung in ladder["rungs"].as_array().unwrap() {
        assert!(rung["median_us"].as_f64() > Some(0.0) && rung["least_us"]["h100"].as_f64() > Some(0.0), "{rung}");
        assert!(!rung["kernels"].as_array().unwrap().is_empty(), "{rung}");
        assert!(rung["memory_bytes"].as_u64() > Some(0), "{rung}");
    }
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(check_page(&page).contains("Residual block of D") && !page.contains("Projection head"));
    assert!(of_block["load"]["busy"].is_boolean() && of_block["noisy"].is_array(), "{of_block}");
    assert_eq!(counts(&object("log-partition,norm")), [0, 3, 0]);
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    let text = check_page(&page);
    for (number, name) in (1..).zip(["formula", "steps", "passes", "once"]) {
        assert!(
            text.contains(&format!("__global__ void log_partition_{name}(")) && text.contains(&format!("\n{number}. "))
        );
    }
    assert!(page.contains("<mark>extern"));
    let (_, error) = zgan(folder.path(), &format!("{study} blocks"), 2);
    assert!(
        error.contains("only: blocks, expected of steps, log-partition, projection, norm, block, attention, adam, spectral, roofline"),
        "{error}"
    );
}

#[test]
fn a_busy_machine_is_said_and_refused_where_asked() {
    assert!(bench::check_idle(None).is_ok() && bench::check_idle(Some(0.7)).is_ok());
    let error = bench::check_idle(Some(1.26)).unwrap_err().to_string();
    assert_eq!(error, "strict: the machine is busy, with a load of 1.3, expected at most 0.7");
    let device = Device::host(1).unwrap();
    let settings = bench::Settings { caches: bench::Caches::Warm, time: std::time::Duration::ZERO };
    let mut study = study::measure(&device, settings, true, &["log-partition".into()], &mut |_| {}).unwrap();
    study.load = serde_json::json!({ "before": 1.5, "after": 0.1, "busy": true });
    let page = study::page(&study);
    assert!(
        page.contains(
            "<h1>What fusion buys</h1>\n<p><mark>THE MACHINE WAS BUSY, these times say little: load 1.5 before"
        )
    );
    for rung in study.ladders.iter_mut().flat_map(|ladder| &mut ladder.rungs) {
        rung.measured.spread = 0.1;
    }
    study.ladders[0].rungs[1].measured.spread = 0.31;
    let object = study::json(&study);
    assert_eq!(object["noisy"], serde_json::json!(["log_partition 5+5, two launches"]));
    assert_eq!(object["load"]["before"], 1.5);

    let folder = tempfile::tempdir().unwrap();
    let strict = |code| zgan(folder.path(), "study --tiny --time 0 --device host --only norm --strict", code);
    // The load changes slowly; where it is near the limit, either is right.
    match bench::load() {
        Some(load) if load > 0.9 => {
            let (out, error) = strict(1);
            assert!(
                out.is_empty() && error.lines().count() == 1 && error.contains("the machine is busy"),
                "{out}{error}"
            );
            assert!(!folder.path().join("study.html").exists());
        }
        Some(load) if load > 0.5 => {}
        _ => drop(strict(0)),
    }
}

/// `kernels/study/log_partition.cu` by itself: what it computes, with system threads as a block's, and that GPUs can have it.
#[test]
fn the_standalone_kernels_compute_the_log_partition() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("standalone");
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{command:?}: {said}");
    };
    run(Command::new(std::env::var("CXX").unwrap_or("c++".into()))
        .args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-O1", "-pthread", "-o"])
        .arg(&program)
        .arg(root.join("tests/c/standalone.cpp")));
    run(&mut Command::new(program));
    let Ok(compiler) = nvrtc::Compiler::find() else {
        println!("left out: there is no NVRTC");
        return;
    };
    let text = std::fs::read_to_string(root.join("kernels/study/log_partition.cu")).unwrap();
    let compiled = compiler.compile("log_partition", &text, "compute_80").unwrap();
    assert_eq!(compiled.log.warnings, "");
    let ptx = String::from_utf8_lossy(&compiled.ptx).into_owned();
    for name in ["formula", "steps", "passes", "once"] {
        assert!(ptx.contains(&format!(".entry log_partition_{name}(")), "{name}");
    }
}

#[test]
fn what_cannot_be_written_is_refused_before_it_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (_, error) = zgan(folder.path(), "study --out /proc/none/page.html", 1);
    assert!(error.contains("/proc/none"), "{error}");
    let (_, error) = zgan(folder.path(), "study --out .", 2);
    assert!(error.contains("is a folder"), "{error}");
    let (_, error) = zgan(folder.path(), "bench --tiny --unfused nonsense", 2);
    for known in ["log-partition", "projection", "norm", "conv"] {
        assert!(error.contains(known), "{error}");
    }
    let (_, error) = zgan(folder.path(), "train --preset ring --data ring --unfused norm", 2);
    assert!(error.contains("unfused norm"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn bench_times_a_step_beside_its_unfused_form() {
    let folder = tempfile::tempdir().unwrap();
    let (out, _) =
        zgan(folder.path(), "bench step, --tiny --time 0 --device host --json --unfused norm,log-partition", 0);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let steps = json["steps"].as_array().unwrap();
    let named = |name: &str| steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("{name}: {out}"));
    let fused = named("step, mnist, width 4, batch 2, simultaneous");
    let unfused = named("step, mnist, width 4, batch 2, simultaneous, unfused norm log-partition");
    for count in ["launches", "bytes"] {
        assert!(fused[count].as_u64() < unfused[count].as_u64(), "{fused} {unfused}");
    }
    // What a step does not have is left out.
    named("step, sngan-projection-32, width 4, batch 2, simultaneous, unfused norm");
    assert!(
        steps.iter().all(|step| !step["step"].as_str().unwrap().contains("ring, batch 2, simultaneous, unfused norm"))
    );
}

#[test]
fn a_run_remembers_what_it_ran_apart() {
    let folder = tempfile::tempdir().unwrap();
    let train = "train --steps 2 --batch 4 --width 4 --device host --no-eval";
    zgan(folder.path(), &format!("{train} --unfused norm,conv --stop-at 1 --run a"), 0);
    let config = std::fs::read_to_string(folder.path().join("runs/a/config.toml")).unwrap();
    assert!(config.contains("unfused = [\"norm\", \"conv\"]"), "{config}");
    zgan(folder.path(), "train --resume a --no-eval", 0);
    let (_, error) = zgan(folder.path(), "train --resume a --no-eval --steps 3 --unfused log-partition", 2);
    assert!(error.contains("unfused is"), "{error}");
}

#[test]
fn conditioning_is_compared_for_each_seed() {
    let folder = tempfile::tempdir().unwrap();
    // 28 x 28 images of three classes, each class a band of its own.
    let count = 30u32;
    let header = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
    let mut images = header(&[0x803, count, 28, 28]);
    let mut labels = header(&[0x801, count]);
    for i in 0..count {
        let class = i % 3;
        images.extend((0..784u32).map(|p| if p / 28 / 10 == class { (200 + (i * 7 + p) % 50) as u8 } else { 0 }));
        labels.push(class as u8);
    }
    let digits = folder.path().join("digits");
    std::fs::create_dir(&digits).unwrap();
    std::fs::write(digits.join("train-images-idx3-ubyte"), images).unwrap();
    std::fs::write(digits.join("train-labels-idx1-ubyte"), labels).unwrap();
    std::fs::write(folder.path().join("small.toml"), "batch = 4\nwidth = 4\nclasses = 3\n").unwrap();
    let run =
        "study conditioning --config small.toml --data idx:digits --steps 2 --seeds 1,2 --per-class 6 --device host";
    let (out, _) = zgan(folder.path(), &format!("{run} --out page.html"), 0);
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    let text = check_page(&page);
    for name in ["projection", "input-concat", "hidden-concat", "ac-gan"] {
        assert!(out.contains(&format!("\n{name}, seed 2: ")) && out.contains(&format!("\n{name} ")), "{out}");
        assert!(text.contains(name), "{text}");
    }

    // At both steps: a picture of each, a curve and the range of the seeds, and what the projection's logits are made of.
    assert_eq!(page.matches("<img ").count(), 4 * 2);
    assert_eq!(page.matches(" band\"").count(), 3 * 4);
    assert_eq!(page.matches(" curve\"").count(), 3 * 4 + 4);
    assert!(text.contains("r(y|x), fakes") && text.contains("step 2: "), "{text}");

    let (out, _) = zgan(folder.path(), &format!("{run} --csv"), 0);
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split(',').collect()).collect();
    assert!(rows.len() == 9 && rows.iter().all(|row| row.len() == 9), "{out}");
    let (out, _) = zgan(folder.path(), &format!("{run} --json"), 0);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    for training in json["trainings"].as_array().unwrap() {
        let moments = training["moments"].as_array().unwrap();
        assert_eq!([&moments[0]["step"], &moments[1]["step"]], [1, 2]);
        assert_eq!(moments[1]["label-accuracy"], training["label-accuracy"]);
        let parts = training["parts"].as_array().unwrap();
        assert_eq!(parts.len(), if training["conditioning"] == "projection" { 2 } else { 0 }, "{training}");
        for part in parts {
            let [r_x, r_yx] = [&part["r-x"], &part["r-yx"]].map(|both| both.as_array().unwrap().len());
            assert!(r_x == 2 && r_yx == 2 && part["r-yx"][1].as_f64().unwrap() != 0.0, "{part}");
        }
    }
    let (summary, trainings) = (json["summary"].as_array().unwrap(), json["trainings"].as_array().unwrap());
    assert_eq!((summary.len(), trainings.len()), (4, 8), "{out}");
    for (of_summary, pair) in summary.iter().zip(trainings.chunks(2)) {
        assert_eq!(of_summary["conditioning"], pair[0]["conditioning"]);
        let accuracy = |training: &serde_json::Value| training["label-accuracy"].as_f64().unwrap();
        let mean = of_summary["label-accuracy"]["mean"].as_f64().unwrap();
        assert!(mean.abs_diff_eq(&((accuracy(&pair[0]) + accuracy(&pair[1])) / 2.0), 1e-12), "{of_summary}");
    }
    // The same seeds give the same numbers, so the two outputs agree.
    let csv: f64 = rows[1][4].parse().unwrap();
    assert!((csv - trainings[0]["label-accuracy"].as_f64().unwrap()).abs() < 1e-5);
    let (_, error) = zgan(folder.path(), "study conditioning --preset softmax-gan --steps 1", 2);
    assert!(error.contains("no networks that know labels"), "{error}");
}

#[test]
fn losses_are_compared_by_the_modes_that_they_cover() {
    let folder = tempfile::tempdir().unwrap();
    let study = "study modes --steps 20 --seeds 1,2 --device host --data grid";
    let (json, _) = zgan(folder.path(), &format!("{study} --json --out a.html"), 0);
    let object: serde_json::Value = serde_json::from_str(&json).unwrap();
    let trainings = object["trainings"].as_array().unwrap();
    assert_eq!((trainings.len(), &object["data"]), (12, &"grid".into()));
    for (training, seed) in trainings.iter().zip([1, 2].into_iter().cycle()) {
        let moments = training["moments"].as_array().unwrap();
        assert!(training["seed"] == seed && moments.len() == 20, "{training}");
        assert!(moments.last().unwrap()["step"] == 20 && moments[0]["modes"] == 25, "{training}");
    }
    // Each loss trains to other points.
    let last = |training: &serde_json::Value| training["moments"][19].to_string();
    let mut ends: Vec<String> = trainings.iter().map(last).collect();
    ends.sort();
    ends.dedup();
    assert!(ends.len() > 6, "{ends:?}");
    let (csv, _) = zgan(folder.path(), &format!("{study} --csv --out b.html"), 0);
    assert_eq!(csv.lines().count(), 1 + 12 * 20, "{csv}");
    assert!(csv.starts_with("loss,seed,step,covered,near,kl\n\"softmax, uniform (as published)\",1,1,"), "{csv}");
    let page = std::fs::read_to_string(folder.path().join("a.html")).unwrap();
    assert_eq!(page.matches("<figure>").count(), 6 * 4);
    assert_eq!(page.matches("curve\"").count(), 6 + 5);
    assert!(page.contains("seeds (1, 2)") && page.contains("of 25</figcaption>") && !page.contains("NaN"));
    let (_, error) = zgan(folder.path(), "study modes --data mnist-10k", 2);
    assert!(error.contains("preset ring cannot learn from data mnist-10k"), "{error}");
}

/// The numbers along the axes of a chart with this axis both ways: first those from left to right, then those upwards.
fn names(axis: &Axis) -> Vec<String> {
    let svg = Chart::new("test", axis.clone(), axis.clone()).svg();
    let soft = svg.lines().filter_map(|line| line.strip_prefix("<text class=\"soft\""));
    soft.map(|rest| rest.split(['>', '<']).nth(1).unwrap().to_string()).collect()
}

/// The middle of a dot in a chart with this axis both ways. The axes go from 64 to 744 and, upwards, from 414 to 14.
fn dot(axis: &Axis, point: (f64, f64)) -> String {
    let mut chart = Chart::new("test", axis.clone(), axis.clone());
    chart.point(point, 0, "a < b");
    let svg = chart.svg();
    assert!(svg.contains("<title>a &lt; b</title>"), "{svg}");
    svg.split("dot\" ").nth(1).unwrap().split(" r=").next().unwrap().to_string()
}

#[test]
fn axes_enclose_what_they_show() {
    let axis = Axis::around("x", [0.03, 700.0, f64::NAN, 0.0]);
    assert!((axis.low() - 0.02).abs() < 1e-12 && (axis.high() - 1000.0).abs() < 1e-9, "{axis:?}");
    // A long axis has room for the powers of ten alone.
    assert_eq!(names(&axis), ["0.1", "1", "10", "100", "1000"].repeat(2));
    assert_eq!(names(&Axis::around("x", [0.6, 18.0])), ["0.5", "1", "2", "5", "10", "20"].repeat(2));
    assert_eq!(names(&Axis::around("x", [0.012, 0.04])), ["0.01", "0.02", "0.05"].repeat(2));
    assert_eq!(names(&Axis::around("x", [1100.0, 1500.0])), ["500", "1000", "2000"].repeat(2));
    assert_eq!(dot(&axis, (axis.low(), axis.high())), "cx=\"64.0\" cy=\"14.0\"");
    assert_eq!(dot(&axis, (20f64.sqrt(), axis.low())), "cx=\"404.0\" cy=\"414.0\"");
}

#[test]
fn even_axes_have_round_ticks() {
    let axis = Axis::even("x", [-0.3, 11.0, f64::NAN]);
    assert_eq!((axis.low(), axis.high()), (-2.0, 12.0), "{axis:?}");
    assert_eq!(names(&axis), ["-2", "0", "2", "4", "6", "8", "10", "12"].repeat(2));
    assert_eq!(dot(&axis, (-2.0, 5.0)), "cx=\"64.0\" cy=\"214.0\"");
    let flat = Axis::even("x", [3.0, 3.0]);
    assert!(flat.low() <= 3.0 && flat.high() > 3.0, "{flat:?}");
    assert_eq!(Axis::even("x", []).low(), 0.0);
    let fine = names(&Axis::even("x", [0.001, 0.0035]));
    assert_eq!(fine[..2], ["0.0010", "0.0015"]);
}

#[test]
fn curves_go_from_end_to_end() {
    let svg = curves("test", ("x", true), ("y", (0.0, 2.0)), &[vec![(0.01, 0.0), (1.0, 1.0), (100.0, 9.0)]]);
    assert!(svg.contains("\"64.0,414.0 404.0,214.0 744.0,14.0\""), "{svg}");
}

#[test]
fn the_longest_bar_fills_its_chart() {
    let bar = |value| Bar { label: "a".into(), value, shown: "1".into(), range: None };
    let svg = bars("test", &[bar(2.0), bar(4.0)]);
    assert!(svg.contains("width=\"132.0\"") && svg.contains("width=\"264.0\""), "{svg}");
    let svg = bars_to("test", 8.0, &[bar(2.0), bar(9.0)]);
    assert!(svg.contains("width=\"66.0\"") && svg.contains("width=\"264.0\""), "{svg}");
}

#[test]
fn numbers_are_short() {
    let numbers = [12345.6, 99.96, 12.34, 1.234, 0.1234, 0.01234];
    assert_eq!(numbers.map(short), ["12346", "100", "12.3", "1.23", "0.123", "0.0123"]);
}
