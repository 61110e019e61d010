//! Every operation at the sizes of the presets, in each of its forms: the table of `zgan bench`, for criterion.
//!
//!     cargo bench --bench operations -- log_partition

use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use zgan::bench;
use zgan::device::{Device, DeviceChoice};

fn operations(c: &mut Criterion) {
    let (device, _) = Device::open(DeviceChoice::Auto, 0).expect("a device");
    println!("{}", device.description());
    for make in bench::problems(false) {
        let problem = make(&device).expect("memory for a problem");
        let mut group: BenchmarkGroup<WallTime> = c.benchmark_group(problem.name());
        group.sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        for form in &problem.forms {
            let mut checked = false;
            group.bench_function(form.name, |b| {
                // Once, and only where criterion's filter wants it.
                if !checked {
                    problem.check().expect("forms that agree");
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

criterion_group!(benches, operations);
criterion_main!(benches);
