//! Whole training steps of the presets for digits, on the host or, where there is one, on a GPU.
//!
//!     cargo bench --bench step

use criterion::{Criterion, criterion_group, criterion_main};
use zgan::config::Config;
use zgan::data::Split;
use zgan::device::{Device, DeviceChoice};
use zgan::gan::{Preset, Trainer, Update};

fn steps(c: &mut Criterion) {
    let (device, _) = Device::open(DeviceChoice::Auto, 0).expect("a device");
    println!("{}", device.description());
    let mut group = c.benchmark_group("step");
    group.sample_size(20);
    for preset in [Preset::SoftmaxGan, Preset::Mnist] {
        for update in [Update::Simultaneous, Update::Alternating] {
            let config = Config { update, ..Config::preset(preset) };
            let data = config.data.open(Split::Train, &config.data_options()).expect("the embedded digits");
            let mut trainer = Trainer::new(&device, &config.trainer_options(&data.info())).expect("a trainer");
            let (mut images, labels) = (vec![0; config.batch * 784], vec![3; config.batch]);
            for (i, image) in images.chunks_mut(784).enumerate() {
                data.read(i, image).expect("an embedded digit");
            }
            // The numbers are compared with PyTorch's in tests/training.rs; here, that they are numbers.
            trainer.step(&images, &labels).expect("a step");
            trainer.metrics().expect("finite losses");
            group.bench_function(format!("{preset}, {update:?}, batch {}", config.batch), |b| {
                b.iter(|| {
                    trainer.step(&images, &labels).expect("a step");
                    device.synchronize().expect("a device that answers");
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
