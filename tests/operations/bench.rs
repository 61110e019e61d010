//! The tables of `zgan bench`: forms that agree, on every device, and rows that other programs can read.

use std::process::Command;
use std::time::Duration;

use approx::AbsDiffEq;
use zgan::device::{Buffer, Device, Precision};
use zgan::gan::Trainer;
use zgan::instruments::bench::{self, Caches, Form, Problem, Settings};
use zgan::settings::Update;

#[test]
fn the_forms_of_every_problem_agree_on_every_device() {
    crate::common::on_each_device(|device| {
        let settings = Settings { caches: Caches::Warm, time: Duration::ZERO };
        for problem in bench::problems(true) {
            let measured = bench::measure(device, &problem, settings).unwrap();
            assert_eq!(measured.len(), (problem.make)(device).unwrap().len());
            for form in measured {
                let counted = form.launches > 0 && form.bytes > 0;
                assert!(form.seconds > 0.0 && (counted || form.form == "libtorch"), "{}: {form:?}", problem.name());
            }
        }
    });
}

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
    assert!(table.contains("ceilings of this run") && table.contains("\nlog_partition, 5+5\nfused "), "{table}");
    assert!(!table.contains("matmul"), "{table}");

    let (csv, _) = run("--csv", 0);
    let columns = csv.lines().next().unwrap().split(',').count();
    assert!(csv.lines().count() > 15 && columns == 12, "{csv}");
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
