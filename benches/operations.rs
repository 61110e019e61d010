//! The tables of `zgan bench` for criterion: every operation in each of its forms, and the steps of the digits' presets.
//!
//!     cargo bench -- log_partition
//!     cargo bench -- step

use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use zgan::device::{Device, DeviceChoice};
use zgan::instruments::bench::{self, Stepper};

fn operations(c: &mut Criterion) {
    let (device, _) = Device::open(DeviceChoice::Auto, 0).expect("a device");
    println!("{}", device.description());
    for problem in bench::problems(false) {
        let forms = (problem.make)(&device).expect("memory for a problem");
        let mut group: BenchmarkGroup<WallTime> = c.benchmark_group(problem.name());
        group.sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        let mut checked = false;
        for form in &forms {
            group.bench_function(form.name, |b| {
                // Once, and only where criterion's filter wants it.
                if !checked {
                    problem.check(&forms).expect("forms that agree");
                    checked = true;
                }
                b.iter(|| {
                    form.run().expect("a run");
                    device.synchronize().expect("a device that answers");
                });
            });
        }
        group.finish();
    }
}

fn steps(c: &mut Criterion) {
    let (device, _) = Device::open(DeviceChoice::Auto, 0).expect("a device");
    let mut group: BenchmarkGroup<WallTime> = c.benchmark_group("step");
    group.sample_size(20);
    let digits = ["softmax-gan", "mnist"];
    for problem in bench::steps(false).iter().filter(|problem| digits.contains(&problem.setup.preset.name)) {
        let mut stepper = None;
        group.bench_function(&problem.name, |b| {
            let stepper = stepper.get_or_insert_with(|| Stepper::new(&device, problem).expect("finite losses"));
            b.iter(|| {
                stepper.run().expect("a step");
                device.synchronize().expect("a device that answers");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, operations, steps);
criterion_main!(benches);
