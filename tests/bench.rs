//! The tables of `zgan bench`: forms, steps and sizes, and rows that other programs can read.

#[path = "common/stand_in.rs"]
mod stand_in;

use std::process::Command;
use std::time::Duration;

use approx::AbsDiffEq;
use zgan::device::{Buffer, Device, Precision, embedded_images};
use zgan::gan::Trainer;
use zgan::instruments::bench::{self, Caches, Form, Problem, Scale, Selection, Settings};
use zgan::settings::{PRESETS, Update};

#[test]
fn separate_kernels_launch_and_move_more() {
    let device = Device::host(1).unwrap();
    let settings = Settings { caches: Caches::Warm, time: Duration::ZERO };
    let mut compared = 0;
    for problem in bench::problems(true) {
        let measured = bench::measure(&device, &problem, settings).unwrap();
        if let [fused, unfused, ..] = &measured[..]
            && unfused.form == "unfused"
        {
            assert!(fused.launches < unfused.launches && fused.bytes < unfused.bytes, "{fused:?} {unfused:?}");
            compared += 1;
        }
    }
    assert!(compared >= 6, "{compared} problems with two forms");
}

/// In another precision the same products and steps, named after it, of what is stored in it.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn products_and_steps_run_in_every_precision() {
    let device = Device::host(2).unwrap();
    let settings = Settings { caches: Caches::Warm, time: Duration::ZERO };
    let bytes = |precision: Precision| -> u64 {
        let (problems, name) = (bench::problems_in(precision, true), precision.name());
        let wide = precision == Precision::F32;
        let mut products = problems.iter().filter(|p| p.operation == "matmul" || p.sizes.starts_with("3x3")).peekable();
        assert!(products.peek().is_some());
        let one = |problem: &Problem| {
            assert!(wide || problem.name().ends_with(name), "{}", problem.name());
            let [first, ..] = &bench::measure(&device, problem, settings).unwrap()[..] else { panic!() };
            assert!(first.seconds > 0.0 && first.flops > 0, "{first:?}");
            first.bytes
        };
        products.map(one).sum()
    };
    let [f32, tf32, bf16, f16] = Precision::ALL.map(bytes);
    assert!(f32 == tf32 && bf16 == f16 && 10 * bf16 < 8 * f32, "{f32} {tf32} {bf16} {f16}");

    for precision in [Precision::Tf32, Precision::Bf16, Precision::F16] {
        let steps = bench::steps_in(precision, true);
        assert!(steps.iter().all(|step| step.name.ends_with(precision.name())));
        let step = steps.iter().find(|step| step.name.contains("mnist")).unwrap();
        assert!(bench::measure_step(&device, step, settings).unwrap().seconds > 0.0);
    }
}

#[test]
fn forms_that_disagree_are_not_timed() {
    let device = Device::host(1).unwrap();
    fn form(device: &Device, name: &'static str, values: [f32; 2]) -> Form {
        let y: Buffer<f32> = device.zeros(2).unwrap();
        Form::new(name, [y.clone()], move || y.write(&values))
    }
    let problem = |second: [f32; 2]| {
        let make = move |device: &Device| Ok(vec![form(device, "first", [1.0, 2.0]), form(device, "second", second)]);
        Problem::new("test", "2".into(), 1e-3, make)
    };
    let check = |second| {
        let problem = problem(second);
        problem.check(&(problem.make)(&device).unwrap())
    };
    check([1.001, 2.0]).unwrap();
    let error = check([1.01, 2.0]).unwrap_err().to_string();
    assert!(error.contains("test 2, second: output 0 is 5.0e-3 off"), "{error}");
    let error = check([f32::NAN, 2.0]).unwrap_err().to_string();
    assert!(error.contains("finite"), "{error}");
}

#[test]
fn the_phases_of_a_step_are_its_whole() {
    let device = Device::host(1).unwrap();
    let settings = Settings { caches: Caches::Warm, time: Duration::ZERO };
    let mut alternating = 0;
    for problem in bench::steps(true) {
        let step = bench::measure_step(&device, &problem, settings).unwrap();
        assert!(step.flops > 0 && step.bytes > 0 && step.launches > 20 && step.memory > 0, "{step:?}");
        let phases: f64 = step.phases.iter().sum();
        assert!(step.phases.iter().all(|&time| time > 0.0) && phases > 0.0, "{step:?}");
        let two = step.rivals.iter().find(|rival| rival.name == "two D backwards");
        assert_eq!(two.is_some_and(|two| two.seconds > 0.0), step.name.ends_with("simultaneous"), "{step:?}");
        alternating += usize::from(step.name.contains("n_dis 5"));
    }
    assert_eq!(alternating, 5);
}

/// Real sizes are those of `zgan train`; small ones are a CPU's; both can be told otherwise.
#[test]
fn a_preset_has_its_own_sizes_and_rule() {
    let names = |preset: &str, scale: Scale, width: Option<usize>, batch: Option<usize>| -> Vec<String> {
        let selection = Selection { presets: vec![preset.parse().unwrap()], scale, width, batch };
        bench::steps_of(&selection, Precision::Bf16).into_iter().map(|step| step.name).collect()
    };
    let sngan = "sngan-projection-32";
    let rule = "alternating, n_dis 5, bf16";
    assert_eq!(
        names(sngan, Scale::Real, None, None),
        [format!("step, {sngan}, width 128, batch 64 (128 fakes), {rule}")]
    );
    assert_eq!(
        names(sngan, Scale::Real, Some(96), Some(32)),
        [format!("step, {sngan}, width 96, batch 32 (64 fakes), {rule}")]
    );
    assert_eq!(
        names(sngan, Scale::Small, None, None),
        [32, 64].map(|width| format!("step, {sngan}, width {width}, batch 32 (64 fakes), {rule}"))
    );
    assert_eq!(names(sngan, Scale::Small, Some(48), None).len(), 1);
    assert_eq!(names("mnist", Scale::Real, None, None), ["step, mnist, width 16, batch 64, simultaneous, bf16"]);

    let all = bench::steps_of(&Selection { scale: Scale::Real, ..Selection::default() }, Precision::F32);
    assert_eq!(all.len(), 2 * PRESETS.len());
    for step in &all {
        let own = step.setup.preset.settings();
        assert_eq!((step.setup.networks.width, step.setup.training.batch), (own.networks.width, own.training.batch));
        Trainer::plan(&step.setup).unwrap();
    }
}

/// `benches/pytorch.py` times the same steps under the same names, and lists them without PyTorch.
#[test]
fn pytorch_has_the_same_steps() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/pytorch.py");
    let Ok(python) = Command::new("python3").arg("--version").output() else {
        println!("left out: there is no python3");
        return;
    };
    assert!(python.status.success());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("torch.py"), "raise SystemExit('a list needs no torch')").unwrap();
    let list = |arguments: &[&str]| -> Vec<String> {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", folder.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        let output = command.args([script, "--list"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect()
    };
    for (device, scale) in [("cuda", Scale::Real), ("cpu", Scale::Small)] {
        let presets = ["mnist", "softmax-gan", "sngan-projection-32", "sngan-projection-64"];
        for (options, width, batch) in [(&[][..], None, None), (&["--width", "24", "--batch", "6"], Some(24), Some(6))]
        {
            let presets = presets.map(|preset| preset.parse().unwrap()).to_vec();
            let selection = Selection { presets, scale, width, batch };
            let of = |precision| bench::steps_of(&selection, precision).into_iter().map(|step| step.name);
            let ours: Vec<String> =
                [Precision::F32, Precision::Tf32, Precision::Bf16].into_iter().flat_map(of).collect();
            let theirs = list(&[&["--device", device, "--precision", "f32,tf32,bf16"], options].concat());
            assert_eq!(theirs, ours, "{device}");
        }
    }
}

#[test]
fn two_backward_passes_of_d_are_the_same_step() {
    let device = Device::host(2).unwrap();
    let mut compared = 0;
    for problem in bench::steps(true) {
        let setup = &problem.setup;
        if setup.training.update != Update::Simultaneous || setup.draws_points() {
            continue;
        }
        let (shape, batch) = (setup.shape, setup.training.batch);
        let images: Vec<u8> =
            (0..batch * shape.height * shape.width * shape.channels).map(|i| (i * 37 % 251) as u8).collect();
        let labels: Vec<u32> = (0..batch as u32).collect();
        let run = |two: bool| {
            let mut trainer = Trainer::new(&device, setup).unwrap();
            trainer.set_two_backwards(two);
            for _ in 0..3 {
                trainer.step(&images, &labels).unwrap();
            }
            let metrics = trainer.metrics().unwrap();
            [metrics.loss_d, metrics.loss_g, metrics.grad_norm_d, metrics.grad_norm_g]
        };
        for (one, two) in run(false).into_iter().zip(run(true)) {
            assert!(one.abs_diff_eq(&two, 1e-4 * one.abs().max(1.0)), "{}: {one} and {two}", problem.name);
        }
        compared += 1;
    }
    assert_eq!(compared, 8);
}

#[test]
fn a_power_law_is_found_again() {
    let points: Vec<(f64, f64)> = [16.0, 32.0, 128.0, 512.0].map(|x: f64| (x, 3e-4 * x.powf(0.8))).into();
    approx::assert_abs_diff_eq!(bench::exponent(&points).unwrap(), 0.8, epsilon = 1e-9);
    assert_eq!(bench::exponent(&points[..1]), None);
}

/// Timing a problem or a step checks every form of it against the first.
#[cfg(feature = "libtorch")]
#[test]
fn libtorch_agrees_with_every_operation_and_step() {
    let device = Device::host(2).unwrap();
    let settings = Settings { caches: Caches::Warm, time: Duration::ZERO };
    for problem in bench::problems(true) {
        let measured = bench::measure(&device, &problem, settings).unwrap();
        assert!(measured.iter().any(|form| form.form == "libtorch"), "{}", problem.name());
    }
    let mut ways = Vec::new();
    for problem in bench::steps(true) {
        let step = bench::measure_step(&device, &problem, settings).unwrap();
        let found = step.rivals.iter().filter(|rival| rival.name.starts_with("libtorch")).count();
        ways.push((problem.setup.preset.name, found));
    }
    let count = |preset| ways.iter().filter(|(of, _)| *of == preset).map(|(_, found)| found).sum::<usize>();
    assert_eq!(["softmax-gan", "mnist", "sngan-projection-32"].map(count), [3, 2, 4]);
}

#[cfg(feature = "libtorch")]
#[test]
fn every_aim_is_for_something_that_is_measured() {
    let mut names: Vec<String> = bench::problems(false).iter().map(bench::Problem::name).collect();
    names.extend(bench::steps(false).into_iter().map(|step| step.name));
    for start in bench::libtorch::aimed_at() {
        assert!(names.iter().any(|name| name.starts_with(start)), "{start}");
    }
}

/// `zgan bench` with these arguments, on the stand-in driver with these settings: what it prints, and its exit code. A
/// program of the name nvidia-smi answers for one card.
fn bench_on_stand_in(settings: &str, arguments: &str) -> (serde_json::Value, String, i32) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("nvidia-smi");
    std::fs::write(&program, "#!/bin/sh\necho '00000000:65:00.0, 580.65.06, 1755, 1980, 2619, [N/A]'\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_zgan"))
        .envs([("ZGAN_TUNING", "off"), ("ZGAN_STAND_IN", settings), ("PATH", path.as_str())])
        .env("LD_LIBRARY_PATH", stand_in::folder())
        .args(["bench", "--device", "cuda", "--json"])
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let json = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{error}"));
    assert!(!error.contains("stand-in driver:"), "{error}");
    (json, error, output.status.code().unwrap())
}

/// On a GPU: real sizes, graphs and launches, one peak for each precision, a copy far larger than the cache.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn a_gpu_is_timed_as_one() {
    if embedded_images().is_empty() {
        println!("left out: this build has no GPU code to load (NVRTC was not found)");
        return;
    }
    let (json, said, code) =
        bench_on_stand_in("host,counts,l2=50331648", "--tiny --time 0 --precision f32,bf16 matmul");
    assert_eq!((code, &json["format"], &json["copied_bytes"]), (0, &1.into(), &(4 * 50331648).into()), "{json}");
    let rows = json["operations"].as_array().unwrap();
    let bf16 = rows.iter().filter(|row| row["precision"] == "bf16").count();
    assert!(bf16 == 3 && rows.len() > 6, "{json}");
    assert!(json["peaks_gflops"]["bf16"].as_f64().unwrap() > 0.0, "{json}");
    for row in rows.iter().filter(|row| row["gflops"].is_f64()) {
        let peak = row["gflops"].as_f64().unwrap() / row["of_peak"].as_f64().unwrap();
        let own = json["peaks_gflops"][row["precision"].as_str().unwrap()].as_f64().unwrap();
        approx::assert_relative_eq!(peak, own, max_relative = 1e-6);
    }
    // Each row: three turns, one graph of sweeps and one of sweeps and runs.
    let graphs: usize = said.split(" graphs").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(graphs, 3 * 2 * rows.len(), "{said}");
    let from = &json["provenance"];
    let expected = serde_json::json!({ "sm": 1755, "sm_max": 1980, "memory": 2619, "memory_max": null });
    assert_eq!((&from["clocks_mhz"], &from["driver"]), (&expected, &"580.65.06".into()), "{from}");
    assert!(from["stand_in"] == true && from["execution"] == "cuda" && from["capability"] == "8.0", "{from}");
    assert!(from["l2_bytes"] == 50331648 && from["cuda_driver"] == "12.8" && from["isa"].is_null(), "{from}");
    assert!(from["command"][1] == "bench" && from["zgan"] == env!("CARGO_PKG_VERSION"), "{from}");
    let date = from["date"].as_str().unwrap();
    assert!(date.len() == 20 && date.starts_with("20") && date.ends_with('Z'), "{date}");

    let (json, ..) = bench_on_stand_in("host", "--tiny --time 0 --preset mnist --width 5 --batch 3");
    let step = &json["steps"][0];
    assert!(step["way"] == "graph" && step["launched_ms"].as_f64().unwrap() > 0.0, "{step}");
    assert!(step["preset"] == "mnist" && step["width"] == 5 && step["batch"] == 3 && step["batch_g"] == 3, "{step}");
    assert!(step["update"] == "simultaneous" && step["precision"] == "f32" && step["unfused"] == "", "{step}");
    assert_eq!((json["steps"].as_array().unwrap().len(), json["operations"].as_array().unwrap().len()), (1, 0));

    // Nothing begins where there is no time; it is listed, and no error.
    let (json, _, code) = bench_on_stand_in("host", "--time-limit 0 --preset sngan-projection-32,softmax-gan");
    let steps = json["steps"].as_array().unwrap();
    assert!(code == 0 && steps.iter().all(|step| step["error"].as_str().unwrap().starts_with("left out")), "{json}");
    assert!(steps[0]["width"] == 128 && steps[0]["batch"] == 64 && steps[0]["batch_g"] == 128, "{json}");
    assert!(steps[1]["width"].is_null() && steps[1]["step"] == "step, softmax-gan, batch 64, simultaneous", "{json}");
}

/// What fails is told, and the rest is timed.
#[test]
fn what_does_not_fit_is_a_line() {
    if embedded_images().is_empty() {
        println!("left out: this build has no GPU code to load (NVRTC was not found)");
        return;
    }
    let settings = format!("host,memory={}", 32 << 20);
    let (json, said, code) = bench_on_stand_in(&settings, "--tiny --time 0 --preset softmax-gan,ring");
    assert!(json["copied_bytes"].as_u64().unwrap() <= 8 << 20, "{json}");
    let [ring, softmax] = &json["steps"].as_array().unwrap()[..] else { panic!("{json}") };
    assert!(ring["preset"] == "ring" && ring["median_ms"].as_f64().unwrap() > 0.0, "{json}");
    assert!(softmax["preset"] == "softmax-gan" && softmax["error"].as_str().unwrap().contains("asked for"), "{json}");
    assert!(code == 1 && said.contains("1 of 2 were not timed"), "{code}: {said}");
}

#[test]
fn the_program_prints_a_table_csv_and_json() {
    let run = |arguments: &str, code: i32| -> (String, String) {
        // On another machine scripts/gpu-check says where the program is.
        let zgan = std::env::var("ZGAN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_zgan").into());
        let mut command = Command::new(zgan);
        command.env("ZGAN_TUNING", "off");
        let output = command.args(["bench", "--tiny", "--time", "0", "--device", "host"]);
        let output = output.args(arguments.split_whitespace()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, error) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{out}{error}");
        (out, error)
    };
    let (table, _) = run("log_partition", 0);
    assert!(
        table.contains("ceilings of this run: multiply-adds, GFLOP/s: ") && table.contains(" in f32; a copy, "),
        "{table}"
    );
    assert!(table.contains("\nlog_partition, 5+5\nfused "), "{table}");
    assert!(!table.contains("matmul"), "{table}");

    let (csv, _) = run("--csv", 0);
    let columns = csv.lines().next().unwrap().split(',').count();
    assert!(csv.lines().count() > 15 && columns == 13, "{csv}");
    assert!(csv.contains("\nstep,median_ms,") && csv.contains("\n\"step, ring, batch 2, simultaneous\","), "{csv}");

    let (json, _) = run("--json matmul", 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut rows = json["operations"].as_array().unwrap().clone();
    rows.retain(|row| row["form"] != "libtorch");
    assert_eq!(rows.len(), 4, "{json}");
    assert!(rows.iter().all(|row| row["median_us"].as_f64().unwrap() > 0.0 && row["operation"] == "matmul"), "{json}");

    let (json, _) = run("--json mnist", 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let steps = json["steps"].as_array().unwrap();
    assert_eq!((steps.len(), json["operations"].as_array().unwrap().len()), (2, 0), "{json}");
    assert!(steps.iter().all(|step| step["phases_ms"]["D backward"].as_f64().unwrap() > 0.0), "{json}");

    let (table, _) = run("--scaling mnist --threads 2", 0);
    assert!(table.contains("batch    2   zgan") && table.contains("zgan as batch^"), "{table}");
    assert!(table.contains("zgan as threads^") && !table.contains("width"), "{table}");
    let (json, _) = run("--scaling width --json --threads 1", 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let fit = &json["sweeps"][0]["exponents"][0]["fits"][0];
    assert!(fit["form"] == "zgan" && fit["exponent"].is_f64(), "{json}");
    let (csv, _) = run("--scaling softmax-gan --csv --threads 1", 0);
    assert!(csv.contains("\"softmax-gan against batch\",batch,4,1,zgan,"), "{csv}");
    run("--scaling nonsense", 2);

    if cfg!(feature = "libtorch") {
        let (markdown, _) = run("--markdown hinge", 0);
        assert!(markdown.contains("libtorch 2.13") && markdown.contains("\n| losses hinge 5+5 | "), "{markdown}");
    }

    let (_, error) = run("nonsense", 2);
    assert!(error.contains("\"nonsense\""), "{error}");
}
