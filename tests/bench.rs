//! The tables of `zgan bench`: forms, steps and sizes, and rows that other programs can read.

#[path = "common/stand_in.rs"]
mod stand_in;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use approx::AbsDiffEq;
use zgan::device::{Buffer, Device, Precision, embedded_images};
use zgan::gan::Trainer;
use zgan::instruments::bench::{self, Caches, Ceilings, Form, Problem, Scale, Selection, Settings, Shapes, provenance};
use zgan::ops::peak;
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
        Trainer::plan(&step.setup, 1).unwrap();
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
    for (tiny, option) in [(false, &[][..]), (true, &["--tiny"])] {
        let kinds = ["log_partition", "projection", "norm", "block"];
        let ours = bench::problems(tiny).into_iter().filter(|problem| kinds.contains(&problem.operation));
        let theirs = list(&[&["--parts", "operations"], option].concat());
        assert_eq!(theirs, ours.map(|problem| problem.name()).collect::<Vec<_>>(), "in the order of the table");
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
        let theirs = measured.iter().any(|form| form.form == "libtorch");
        // Its random numbers are others; a block's layers are compared one by one.
        assert!(theirs || ["random", "block"].contains(&problem.operation), "{}", problem.name());
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

/// The aims are in the script that holds the program to them, which adds them to a table as the program prints it.
#[test]
fn every_aim_is_for_something_that_is_measured() {
    let mut names: Vec<String> = bench::problems(false).iter().map(bench::Problem::name).collect();
    names.extend(bench::steps(false).into_iter().map(|step| step.name));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/bench-libtorch");
    let text = std::fs::read_to_string(script).unwrap();
    let aims: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("aim ")).collect();
    assert!(aims.len() > 8, "{aims:?}");
    for aim in &aims {
        let start = aim.split('"').nth(1).unwrap();
        assert!(names.iter().any(|name| name.starts_with(start)), "{start}");
    }
    let table = "| operation | zgan | libtorch |\n|---|---|---|\n| adam with average, 3 | 1 µs | 2 µs (2.00x) |\n\
                 | conv 3x3, a | 1 µs | 1 µs (0.80x) |\n| conv 3x3, b | 1 µs | 1 µs (1.25x) |\n| random 5 | 1 µs |  |\n";
    let mut child = Command::new(script).arg("--aims").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let lines: Vec<&str> = output.lines().collect();
    let expected = [
        "| operation | zgan | libtorch | aim | |",
        "|---|---|---|---|---|",
        "| adam with average, 3 | 1 µs | 2 µs (2.00x) | 1.5 | met |",
        "| conv 3x3, a | 1 µs | 1 µs (0.80x) | | |",
        "| conv 3x3, b | 1 µs | 1 µs (1.25x) | | |",
        "| random 5 | 1 µs |  | | |",
        "| geometric mean of the 2 conv 3x3 | | 1.00 | 1.5 | **missed** |",
    ];
    assert_eq!(lines, expected);
}

/// Reports that nobody measured: an operation in two forms, and a step beside another way to do it.
fn report(fused_us: f64, step_ms: f64) -> serde_json::Value {
    let form = |form: &str, median: f64, spread: f64| {
        serde_json::json!({
            "operation": "norm", "sizes": "5", "precision": "f32", "form": form, "median_us": median, "spread": spread, "turns": 100,
        })
    };
    serde_json::json!({
        "format": 1,
        "device": "host: 2 threads",
        "caches": "cold",
        "peaks_gflops": { "f32": 200.0 },
        "copy_gb_per_s": 20.0,
        "provenance": { "date": "2026-11-30T00:00:00Z", "zgan": "0.1.0", "commit": "abc", "name": "a CPU" },
        "load": { "before": 2.5, "after": 1.0, "busy": true },
        "noisy": ["norm 5, unfused"],
        "operations": [form("fused", fused_us, 0.1), form("unfused", 200.0, 0.5), { "operation": "conv", "error": "left out" }],
        "steps": [{
            "step": "step, ring", "median_ms": step_ms, "spread": 0.05, "turns": 100, "way": "launched",
            "others": [{ "form": "libtorch", "median_ms": 4.0, "spread": 0.05 }],
        }],
    })
}

#[test]
fn made_up_reports_are_summed_up_and_compared() {
    let now = bench::times(&report(100.0, 2.0)).unwrap();
    assert_eq!(now.len(), 4);
    let means: Vec<_> = bench::means_of_forms(&now).into_iter().map(|m| (m.kind, m.form, m.ratio, m.count)).collect();
    let expected =
        [("norm", "unfused", 2.0), ("step", "libtorch", 2.0), ("all", "unfused", 2.0), ("all", "libtorch", 2.0)];
    for ((kind, form, ratio, count), expected) in means.into_iter().zip(expected) {
        assert_eq!((kind.as_str(), form.as_str(), count), (expected.0, expected.1, 1));
        approx::assert_relative_eq!(ratio, expected.2, max_relative = 1e-12);
    }
    let golden = "host: 2 threads, a CPU, 2026-11-30T00:00:00Z, zgan 0.1.0 at abc\n\
        ceilings of this run: multiply-adds, GFLOP/s: 200.0 in f32; a copy, 20.0 GB/s; caches cold\n\
        THE MACHINE WAS BUSY, these times say little: load 2.5 before; 1 spread over 30 %: norm 5, unfused\n\
        \n| operation | zgan | unfused | libtorch |\n|---|---|---|---|\n\
        | norm 5 | 100.0 µs ± 10 % | 200.0 µs ± 50 % (2.00x) |  |\n\
        \n| step | zgan | unfused | libtorch |\n|---|---|---|---|\n\
        | step, ring | 2.00 ms ± 5 % |  | 4.00 ms ± 5 % (2.00x) |\n\
        \n| geometric mean | of | form | times as long |\n|---|---|---|---|\n\
        | norm | 1 | unfused | 2.00 |\n| step | 1 | libtorch | 2.00 |\n| all | 1 | unfused | 2.00 |\n| all | 1 | libtorch | 2.00 |\n";
    assert_eq!(bench::markdown(&report(100.0, 2.0), &now), golden);
    // Twice as long lies right of as long, in a row for each kind.
    let chart = bench::chart(&now, "<b>");
    let dots: Vec<&str> = chart.lines().filter(|line| line.contains("<title>")).collect();
    let found = |attribute: &str| -> Vec<f64> {
        dots.iter()
            .map(|dot| dot.split(attribute).nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect()
    };
    let even =
        chart.split("<line class=\"axis\" x1=\"").nth(1).unwrap().split('"').next().unwrap().parse::<f64>().unwrap();
    let (x, y) = (found(" cx=\""), found(" cy=\""));
    assert!(dots.len() == 2 && x[0] == x[1] && x[0] > even + 10.0 && y[0] != y[1], "{chart}");
    assert!(
        chart.contains("norm 5, unfused: 2.00x") && chart.contains(">step, ring<") && chart.contains("&lt;b&gt;"),
        "{chart}"
    );

    // 1 % is within the noise of a step, and 20 % is not; what is faster is not worse.
    let verdict = |fused: f64, step: f64, share: f64| -> Vec<(bool, bool)> {
        let (all, _) = bench::compare(&bench::times(&report(fused, step)).unwrap(), &now);
        all.iter().map(|compared| (compared.significant(), compared.worse(share))).collect()
    };
    let same = (false, false);
    assert_eq!(verdict(100.0, 2.0, 0.05), [same; 4]);
    assert_eq!(verdict(120.0, 2.01, 0.05), [(true, true), same, same, same]);
    assert_eq!(verdict(120.0, 2.01, 0.5), [(true, false), same, same, same]);
    assert_eq!(verdict(80.0, 2.4, 0.05), [(true, false), same, (true, true), same]);
    let (all, means) = bench::compare(&bench::times(&report(120.0, 1.5)).unwrap(), &now);
    let table = bench::comparison_table(&all, &means, 0.05);
    assert!(table.contains("      100.00       120.00   1.200 worse norm 5, fused\n"), "{table}");
    assert!(table.ends_with("\ngeometric mean of 2 all: now / before 0.949"), "{table}");
    let error = bench::times(&serde_json::json!({ "format": 1, "operations": [{ "form": "fused" }] })).unwrap_err();
    assert!(error.to_string().contains("no number"), "{error}");
}

#[test]
fn pytorchs_times_stand_in_the_same_table() {
    let ours = bench::times(&report(100.0, 2.0)).unwrap();
    let theirs = |memory: serde_json::Value| {
        serde_json::json!({
            "format": 1,
            "provenance": { "torch": "2.13.0" },
            "caches": "warm",
            "operations": [
                { "operation": "norm", "sizes": "5", "precision": "f32", "form": "eager", "median_us": 300.0, "spread": 0.1,
                  "turns": 9, "memory_bytes": memory, "error": null },
                { "operation": "norm", "sizes": "6", "precision": "f32", "form": "eager", "median_us": 1.0, "spread": 0.1,
                  "turns": 9, "memory_bytes": memory, "error": null },
                { "operation": "norm", "sizes": "5", "precision": "f32", "form": "graph", "error": "only a GPU has graphs" },
            ],
            "steps": [{ "step": "step, ring", "form": "compile", "median_ms": 3.0, "spread": 0.2, "turns": 9,
                        "memory_bytes": memory, "error": null }],
        })
    };
    let table = |memory: serde_json::Value| -> String {
        let found = bench::beside(&theirs(memory), &ours).unwrap();
        assert_eq!(found.len(), 2, "what failed, and what is not ours, is left out");
        bench::tables(&[&ours[..], &found].concat())
    };
    let golden = "\n| operation | zgan | unfused | libtorch | PyTorch eager | PyTorch compile |\n|---|---|---|---|---|---|\n\
        | norm 5 | 100.0 µs ± 10 % | 200.0 µs ± 50 % (2.00x) |  | 300.0 µs ± 10 % (3.00x), 2.5 MB |  |\n\
        \n| step | zgan | unfused | libtorch | PyTorch eager | PyTorch compile |\n|---|---|---|---|---|---|\n\
        | step, ring | 2.00 ms ± 5 % |  | 4.00 ms ± 5 % (2.00x) |  | 3.00 ms ± 20 % (1.50x), 2.5 MB |\n";
    let found = table(2_500_000.into());
    assert!(found.starts_with(golden), "{found}");
    assert!(found.ends_with("| all | 1 | PyTorch compile | 1.50 |\n"), "{found}");
    assert!(!table(serde_json::Value::Null).contains("MB"));

    let folder = tempfile::tempdir().unwrap();
    let run = |report: &serde_json::Value, more: &str, code: i32| -> [String; 2] {
        std::fs::write(folder.path().join("pytorch.json"), report.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_zgan"));
        command.args(["bench", "norm", "--tiny", "--time", "0", "--device", "host", "--beside", "pytorch.json"]);
        let output = command.args(more.split_whitespace()).current_dir(folder.path()).output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(output.status.code(), Some(code), "{said:?}");
        said
    };
    let [_, error] = run(&theirs(0.into()), "", 2);
    assert!(error.contains("beside: it has nothing of what was timed now"), "{error}");
    let mut tiny = theirs(0.into());
    tiny["operations"][0]["sizes"] = "conditional, ReLU, x2: 3 of 4x4, C 5".into();
    let [table, _] = run(&tiny, "", 0);
    assert!(table.contains("\n| operation | zgan | unfused |") && table.contains("| 300.0 µs ± 10 % ("), "{table}");
    assert_eq!(table.matches("geometric mean").count(), 1, "{table}");
    let object: serde_json::Value = serde_json::from_str(&run(&tiny, "--json", 0)[0]).unwrap();
    let beside = &object["beside"];
    assert!(beside["provenance"]["torch"] == "2.13.0" && beside["caches"] == "warm", "{beside}");
    assert!(beside["rows"][0]["form"] == "PyTorch eager" && beside["rows"].as_array().unwrap().len() == 1, "{beside}");
    assert!(object["operations"][0]["memory_bytes"].as_u64() > Some(0), "{object}");
    tiny["format"] = 7.into();
    let [_, error] = run(&tiny, "", 2);
    assert!(error.contains("beside: pytorch.json: its format is 7"), "{error}");
}

/// The sizes of a preset's step are those of its networks.
#[test]
fn shapes_are_those_of_the_networks() {
    let shapes = |preset: &str, scale: Scale| {
        let selection = Selection { presets: vec![preset.parse().unwrap()], scale, ..Selection::default() };
        Shapes::of(&bench::steps_of(&selection, Precision::F32)[0].setup).unwrap()
    };
    let mnist = shapes("mnist", Scale::Real);
    assert_eq!(mnist.parameters, [147_041, 35_792]);
    assert_eq!((mnist.heads, mnist.norms), (vec![[128, 49, 32, 10]], vec![[64, 7, 7, 32], [64, 14, 14, 32]]));
    assert_eq!(
        (mnist.up, mnist.down),
        (vec![[64, 7, 32, 32], [64, 14, 32, 16]], vec![[128, 28, 16, 16], [128, 14, 32, 32]])
    );
    let sagan = shapes("sagan-64", Scale::Real);
    assert_eq!(sagan.attention.iter().map(|shape| (shape.l, shape.lk)).collect::<Vec<_>>(), [(1024, 256); 2]);
    assert_eq!(shapes("softmax-gan", Scale::Real).linears[0], [64, 100, 128]);
    let device = Device::host(2).unwrap();
    for preset in PRESETS {
        let shapes = shapes(preset.name, Scale::Tiny);
        for problem in bench::problems_of(Precision::F32, &shapes)
            .iter()
            .filter(|p| preset.sample.height <= 32 || p.operation != "conv")
        {
            problem.check(&(problem.make)(&device).unwrap()).unwrap();
        }
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
    assert_eq!((&json["format"], &json["copied_bytes"]), (&1.into(), &(4 * 50331648).into()), "{json}");
    let rows = json["operations"].as_array().unwrap();
    // Beside other work, sweeps may take longer alone than with what is timed, so that this seems to take no time.
    let wrong = |error: &str| error.ends_with("one of both was timed wrongly");
    let failed: Vec<&str> = rows.iter().filter_map(|row| row["error"].as_str()).collect();
    assert!(failed.iter().all(|error| wrong(error)) && code == i32::from(!failed.is_empty()), "{code}: {json}");
    let bf16 = rows.iter().filter(|row| row["precision"] == "bf16").count();
    assert!(bf16 == 3 && rows.len() >= 6, "{json}");
    assert!(json["peaks_gflops"]["bf16"].as_f64().unwrap() > 0.0, "{json}");
    for row in rows.iter().filter(|row| row["gflops"].is_f64()) {
        let peak = row["gflops"].as_f64().unwrap() / row["of_peak"].as_f64().unwrap();
        let own = json["peaks_gflops"][row["precision"].as_str().unwrap()].as_f64().unwrap();
        approx::assert_relative_eq!(peak, own, max_relative = 1e-6);
    }
    // Each of seven forms: three turns, one graph of sweeps and one of sweeps and runs.
    let graphs: usize = said.split(" graphs").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(graphs, 3 * 2 * 7, "{said}");
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

    let folder = tempfile::tempdir().unwrap();
    let (said, _) = run(&format!("--csv {}", folder.path().display()), 0);
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let (operations, steps, from) = (read("operations.csv"), read("steps.csv"), read("provenance.csv"));
    let columns = "operation,sizes,precision,form,median_us,spread,gflops,of_peak,gb_per_s,of_copy,launches,bytes,ratio_to_first_form";
    assert!(operations.lines().count() > 15 && operations.lines().next() == Some(columns), "{operations}");
    let columns = "step,median_ms,spread,data_ms,G_forward_ms,D_forward_ms,D_backward_ms,G_backward_ms,optimiser_ms,gflops,of_peak,launches,\
                   bytes,flops,memory_bytes,way,turns,steps_per_turn,launched_ms,launched_spread,preset,update,n_dis,width,batch,batch_g,\
                   precision,unfused,others_ms";
    assert!(steps.starts_with(columns) && steps.contains("\n\"step, ring, batch 2, simultaneous\","), "{steps}");
    assert!(from.starts_with("field,value\n") && from.contains("\nexecution,\"host\"\n"), "{from}");
    assert!(from.contains("\ncaches,\"cold\"\n") && from.contains("\nload,"), "{from}");
    assert!(said.contains("written ") && said.contains("\ngeometric mean of "), "{said}");

    let (json, _) = run("--json matmul", 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let keys = |object: &serde_json::Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    let all = "caches copied_bytes copy_gb_per_s device format geometric_means load noisy operations peak_gflops peaks_gflops \
               provenance steps time_s";
    assert_eq!(keys(&json), all);
    let row = "bytes form gb_per_s gflops launches median_us memory_bytes of_copy of_peak operation precision ratio_to_first_form \
               runs_per_turn sizes spread turns";
    assert_eq!(keys(&json["operations"][0]), row);
    assert!(keys(&json["load"]) == "after before busy" && json["geometric_means"][0]["form"] == "unfused", "{json}");
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
    run(&format!("--scaling softmax-gan --threads 1 --csv {}", folder.path().display()), 0);
    let csv = read("scaling.csv");
    assert!(csv.contains("\"softmax-gan against batch\",batch,4,1,zgan,"), "{csv}");
    run("--scaling nonsense", 2);

    let chart = folder.path().join("chart.svg");
    let (markdown, _) = run(&format!("--markdown hinge log_partition --chart {}", chart.display()), 0);
    assert!(std::fs::read_to_string(chart).unwrap().contains("log_partition 5+5, unfused"));
    let heading =
        if cfg!(feature = "libtorch") { "libtorch 2.13" } else { "\n| operation | zgan | unfused |\n|---|---|---|\n" };
    assert!(markdown.contains(heading) && markdown.contains("\n| losses hinge 5+5 | "), "{markdown}");

    // A text that is a whole name selects that one alone; others, what holds them.
    let list = |arguments: &str| -> Vec<String> {
        run(&format!("--list {arguments}"), 0).0.lines().map(String::from).collect()
    };
    assert_eq!(list("log_partition hinge"), ["log_partition 5+5", "losses hinge 5+5"]);
    assert_eq!(list("mnist --preset mnist --unfused norm").len(), 2);
    assert_eq!(run("--list step,", 0).0.lines().count(), list("--only steps").len());
    assert!(list("").contains(&"matmul 5 x 7 x 9 forward".into()));
    let of_sagan = list("--shapes sagan-64 attention --batch 3");
    assert_eq!(
        of_sagan,
        ["attention 3 of 1024 queries, 256 keys, 1 and 4 wide", "attention 6 of 1024 queries, 256 keys, 1 and 2 wide"]
    );
    assert!(list("--only operations").iter().all(|name| !name.starts_with("step")));
    let (_, error) = run("conv nonsense", 2);
    assert!(error.contains("nothing is called \"nonsense\"; there are log_partition; losses; "), "{error}");
    assert!(error.contains("step, mnist") && error.contains("--list"), "{error}");
    assert!(run("--width 4", 2).1.contains("--preset or --shapes"));

    // An earlier report, as it is, and as if all had been a hundred times as fast.
    let (earlier, _) = run("--json log_partition", 0);
    let mut object: serde_json::Value = serde_json::from_str(&earlier).unwrap();
    for row in object["operations"].as_array_mut().unwrap() {
        row["median_us"] = 1e6.into();
        row["spread"] = 0.0.into();
    }
    let write = |object: &serde_json::Value| std::fs::write(folder.path().join("a.json"), object.to_string()).unwrap();
    let compare = format!("log_partition --baseline {}", folder.path().join("a.json").display());
    write(&object);
    let (said, _) = run(&compare, 0);
    assert!(said.contains("geometric mean of 1 log_partition: now / before 0.0"), "{said}");
    object["operations"].as_array_mut().unwrap().iter_mut().for_each(|row| row["median_us"] = 1.0.into());
    write(&object);
    let (said, error) = run(&format!("{compare} --worse 10%"), 1);
    assert!(said.contains(" worse log_partition 5+5, fused"), "{said}");
    assert!(error.contains("take longer than in the baseline by more than 10 %"), "{error}");
    let (json, _) = run(&format!("{compare} --json --worse 1e5"), 0);
    assert!(json.contains("\"worse_past\": 1000.0"), "{json}");
    assert!(run(&format!("{compare} --worse many"), 2).1.contains("a percentage"));
    object["format"] = 2.into();
    write(&object);
    assert!(run(&compare, 2).1.contains("its format is 2, expected 1"));
}

/// What the loader delivers stands beside what a step takes; the pictures are made, or are those of a folder.
#[test]
fn the_loader_is_timed_beside_the_step() {
    let run = |arguments: &[&str], code: i32| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zgan"));
        command.env("ZGAN_TUNING", "off").args(["bench", "--tiny", "--device", "host", "--time", "0"]);
        let output = command.args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, error) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{out}{error}");
        (out, error)
    };
    let (table, _) = run(&["data"], 0);
    assert!(
        table.contains("8 PNG pictures of 40x40, made for this") && table.contains("\nstep, photos-64, "),
        "{table}"
    );
    let folder = tempfile::tempdir().unwrap();
    let shape = zgan::data::ImageShape { height: 9, width: 9, channels: 1 };
    for i in 0..5 {
        let picture = zgan::picture::Picture { shape, pixels: vec![i; 81] };
        picture.save(&folder.path().join(format!("{i}.png"))).unwrap();
    }
    let source = format!("folder:{}", folder.path().display());
    let (json, _) = run(&["--data", &source, "--preset", "mnist,sagan-64", "--json"], 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let steps = json["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2, "{json}");
    for step in steps {
        for rate in ["decoded_per_s", "packed_per_s", "needed_per_s"] {
            assert!(step[rate].as_f64().unwrap() > 0.0, "{json}");
        }
    }
    assert!(
        folder.path().join(".zgan-images-28x28x1").is_file() && folder.path().join(".zgan-images-64x64x3").is_file()
    );
    let (_, error) = run(&["--data", "mnist-10k"], 2);
    assert!(error.contains("--data mnist-10k: only pictures, of folder:DIR"), "{error}");
    let (_, error) = run(&["data", "--preset", "ring"], 2);
    assert!(error.contains("--preset ring: it draws points"), "{error}");
}

#[test]
fn dates_are_those_of_the_calendar() {
    let of = |seconds| provenance::date(Duration::from_secs(seconds));
    assert_eq!(of(0), "1970-01-01T00:00:00Z");
    assert_eq!(of(951_782_399), "2000-02-28T23:59:59Z");
    assert_eq!(of(951_782_400), "2000-02-29T00:00:00Z");
    assert_eq!(of(1_798_761_599), "2026-12-31T23:59:59Z");
    assert_eq!(of(4_107_542_400), "2100-03-01T00:00:00Z");
}

#[test]
fn nvidia_smi_is_read_for_the_right_card() {
    let two =
        "00000000:17:00.0, 580.65.06, 1980, 1980, 2619, 2619\n00000000:65:00.0, 580.65.06, 345, 1980, [N/A], 3201";
    let read = provenance::read;
    let clocks = |bus: &str| read(two, bus).unwrap().clocks.unwrap();
    let expected = serde_json::json!({ "sm": 345, "sm_max": 1980, "memory": null, "memory_max": 3201 });
    assert_eq!(serde_json::Value::Object(clocks("00000000:65:00.0")), expected);
    assert_eq!(clocks("00000000:17:00.0")["sm"], 1980);
    assert_eq!(read(two, "00000000:99:00.0"), None);
    let one = two.lines().next().unwrap();
    assert_eq!(read(one, "00000000:00:00.0").unwrap().driver.as_deref(), Some("580.65.06"));
    assert_eq!(read("No devices were found", "00000000:17:00.0").map(|asked| asked.driver), Some(None));
}

#[test]
fn no_rate_is_above_the_ceiling() {
    let ceilings = Ceilings { flops: 2e11, peaks: [Some(2e11), None, None, Some(1e12)], bandwidth: 1e10, copied: 1 };
    let exceeded = ceilings.exceeded(Precision::F32, 3e11).unwrap();
    assert!(exceeded.starts_with("300.0 GFLOP/s in f32, more than the 200.0 of this run's"), "{exceeded}");
    assert_eq!(ceilings.exceeded(Precision::F32, 2e11), None);
    assert_eq!(ceilings.exceeded(Precision::ALL[3], 9e11), None);
    assert_eq!((ceilings.of_copy(5e9), ceilings.of_copy(2e10)), (Some(0.5), None));
}

/// With 132 multiprocessors no block may be too few for any of them.
#[test]
fn every_multiprocessor_has_several_blocks() {
    let gpu = |multiprocessors| peak::blocks(&Device::launches_of_gpu("NVIDIA H200", multiprocessors));
    assert_eq!((gpu(132), gpu(40)), (8 * 132, 8 * 40));
}

/// A kernel of 2 us that takes 8 by itself is timed 125 times or more in a row, one of 5 ms alone.
#[test]
fn short_kernels_share_a_graph() {
    let of = |once, caches, time| Settings { caches, time: Duration::from_millis(time) }.runs_of_graph(once);
    assert_eq!(of(8e-6, Caches::Warm, 500), 125);
    assert_eq!(of(1e-9, Caches::Warm, 500), 500);
    assert_eq!(of(8e-6, Caches::Cold, 500), 20);
    assert_eq!([Caches::Warm, Caches::Cold].map(|caches| of(5e-3, caches, 500)), [1, 1]);
    assert_eq!(of(8e-6, Caches::Cold, 0), 1);
}

#[test]
fn a_turn_has_a_hundred_steps_where_there_is_time() {
    let settings = Settings { caches: Caches::Cold, time: Duration::from_secs(1) };
    let of = |once, ways| settings.steps_per_turn(once, ways);
    assert_eq!([of(2e-4, 2), of(5e-3, 2), of(5e-3, 3), of(10.0, 2)], [100, 33, 22, 1]);
}
