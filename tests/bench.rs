//! The tables of `zgan bench`: forms that agree, on every device, and rows that other programs can read.

mod common;

use std::process::Command;
use std::time::Duration;

use zgan::bench::{self, Caches, Form, Problem, Settings};
use zgan::device::{Buffer, Device};

#[test]
fn the_forms_of_every_problem_agree_on_every_device() {
    common::on_each_device(|device| {
        let settings = Settings { caches: Caches::Warm, time: Duration::ZERO };
        for problem in bench::problems(true) {
            let measured = bench::measure(device, &problem, settings).unwrap();
            assert_eq!(measured.len(), (problem.make)(device).unwrap().len());
            for form in measured {
                assert!(form.seconds > 0.0 && form.launches > 0 && form.bytes > 0, "{}: {form:?}", problem.name());
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
        if let [fused, unfused] = &measured[..] {
            assert!(fused.launches < unfused.launches && fused.bytes < unfused.bytes, "{fused:?} {unfused:?}");
            compared += 1;
        }
    }
    assert!(compared >= 6, "{compared} problems with two forms");
}

#[test]
fn forms_that_disagree_are_not_timed() {
    let device = Device::host(1).unwrap();
    fn form(device: &Device, name: &'static str, values: [f32; 2]) -> Form {
        let y: Buffer<f32> = device.zeros(2).unwrap();
        let outputs = [y.clone()];
        Form::new(name, &outputs.each_ref(), move || y.write(&values))
    }
    let problem = |second: [f32; 2]| Problem {
        operation: "test",
        sizes: "2".into(),
        tolerance: 1e-3,
        make: Box::new(move |device| Ok(vec![form(device, "first", [1.0, 2.0]), form(device, "second", second)])),
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
        alternating += usize::from(step.name.contains("n_dis 5"));
    }
    assert_eq!(alternating, 5);
}

#[test]
fn the_program_prints_a_table_csv_and_json() {
    let run = |arguments: &str, code: i32| -> (String, String) {
        // On another machine scripts/gpu-check says where the program is.
        let zgan = std::env::var("ZGAN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_zgan").into());
        let mut command = Command::new(zgan);
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
    let rows = json["operations"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "{json}");
    assert!(rows.iter().all(|row| row["median_us"].as_f64().unwrap() > 0.0 && row["operation"] == "matmul"), "{json}");

    let (json, _) = run("--json mnist", 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let steps = json["steps"].as_array().unwrap();
    assert_eq!((steps.len(), json["operations"].as_array().unwrap().len()), (2, 0), "{json}");
    assert!(steps.iter().all(|step| step["phases_ms"]["D backward"].as_f64().unwrap() > 0.0), "{json}");

    let (_, error) = run("nonsense", 2);
    assert!(error.contains("\"nonsense\""), "{error}");
}
