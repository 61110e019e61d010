//! What safe code may do with the library never reaches memory that is not its own: sizes whose product is too large for a
//! number, and buffers that two threads share.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use zgan::data::{DataOptions, DataSource, ImageShape, Loader, Split};
use zgan::device::{Buffer, Device, HAS_CHECK, Reals};
use zgan::gan::{Setup, Trainer};
use zgan::nn::Arena;
use zgan::ops::resample::{self, Image, Upsampling};
use zgan::ops::state::{State, StateBuffer};
use zgan::ops::{attention, matmul, norm, pixels, projection};
use zgan::picture::Picture;
use zgan::settings::Preset;
use zgan::sizes::{product, reserved, sum};

/// Times 2 and 6 it wraps around to 4.
const WRAPS: usize = 0xaaaa_aaaa_aaaa_aaab;

fn reals(device: &Device, len: usize) -> Reals {
    device.zeros(len).unwrap()
}

#[test]
fn what_is_too_large_is_the_largest_number() {
    assert_eq!(product([3, 4, 5]), 60);
    assert_eq!(product([WRAPS, 2, 6]), usize::MAX);
    assert_eq!(product([usize::MAX, 2, 0]), 0);
    assert_eq!(product([]), 1);
    assert_eq!(sum([usize::MAX - 1, 2]), usize::MAX);
    assert_eq!(sum([2, 3]), 5);
}

#[test]
fn too_much_memory_is_an_error_with_its_size_and_name() {
    let error = reserved::<f32>("the weights", usize::MAX / 8).unwrap_err().to_string();
    assert_eq!(error, "the weights: 8589934592.00 GiB of memory asked for, more than there is");
    assert!(reserved::<f32>("the weights", usize::MAX).is_err());
}

#[test]
fn sizes_whose_product_wraps_around_are_refused() {
    let device = Device::host(1).unwrap();
    let of = |len: usize| reals(&device, len);
    let image = Image { n: WRAPS, h: 2, w: 6, c: 1 };
    assert_eq!(image.elements(), usize::MAX);
    let which: Buffer<u8> = device.zeros(1).unwrap();
    let labels: Buffer<u32> = device.zeros(1).unwrap();
    let refuse = |what: &str, result: zgan::Result<()>| assert!(result.is_err(), "{what} was done");
    // Half of 6 is 3, and so the output has 1 element, if products wrap.
    refuse("average_pool", resample::average_pool(&of(1), &of(4), image));
    refuse("average_pool_backward", resample::average_pool_backward(&of(4), &of(1), image, false));
    refuse("max_pool", resample::max_pool(&of(1), &which, &of(4), image));
    refuse("max_pool_backward", resample::max_pool_backward(&of(4), &of(1), &which, image, false));
    let small = Image { h: 1, w: 3, ..image };
    for how in [Upsampling::Nearest, Upsampling::Bilinear] {
        refuse("upsample", resample::upsample(&of(4), &of(1), small, how));
        refuse("upsample_backward", resample::upsample_backward(&of(1), &of(4), small, how, false));
    }
    refuse("concat_labels", resample::concat_labels(&of(2), &of(1), &labels, small, 1, 1.0));
    refuse("concat_labels", resample::concat_labels(&of(1), &of(1), &labels, small, usize::MAX, 1.0));
    refuse("concat_backward", resample::concat_backward(&of(1), &of(2), small, 1, false));

    let state = StateBuffer::new(&device, &State::new(1, [0.0; 2], 0, 0)).unwrap();
    let bytes: Buffer<u8> = device.zeros(4).unwrap();
    refuse("pixels load", pixels::load(&of(4), &bytes, None, &state, 0, Default::default(), [WRAPS, 2, 6, 1]));

    let shape = norm::Shape { n: WRAPS, h: 2, w: 6, c: 1, upsample: false };
    assert_eq!(shape.input_len(), usize::MAX);
    let (scale, shift) = (of(1), of(1));
    let tables = norm::Tables { scale: &scale, shift: &shift };
    refuse("norm", norm::apply(&of(4), &of(4), tables, zgan::ops::Activation::Identity, shape));

    // N = 2^62 + 1 times C = 4 is 4.
    let (w, n) = (of(4), (1 << 62) + 1);
    let head = projection::Head { w: &w, v: None, labels: None, bias: None, pool_factor: 1.0 };
    refuse("projection", projection::input_gradient(&of(4), &of(4), &head, n, None));
    refuse("pool", projection::pool(&of(4), &of(4), usize::MAX / 4 + 1, 1.0));

    let sizes = matmul::Linear { n: WRAPS, c: 2, k: 6 };
    refuse("linear", matmul::linear_forward(sizes, &of(2), &of(2), &of(12), None, zgan::ops::Activation::Identity));

    let shape = attention::Shape { n: WRAPS, l: 2, lk: 2, dk: 6, dv: 6 };
    let inputs = attention::Inputs { q: &of(4), k: &of(4), v: &of(4) };
    refuse("attention", attention::forward(&of(4), &of(2), inputs, shape));

    assert_eq!(ImageShape { height: WRAPS, width: 2, channels: 6 }.len(), usize::MAX);
    let mut arena = Arena::measuring(&device);
    let mut taken = arena.take::<f32>(1 << 62).and_then(|_| arena.take::<f32>(1 << 62));
    for _ in 0..3 {
        taken = taken.and_then(|_| arena.take::<f32>((1 << 62) - 1));
    }
    assert!(taken.is_err(), "an arena counts {} bytes", arena.used());
    assert!(device.zeros::<f32>(usize::MAX).is_err());
    assert!(device.zeros::<f32>(1 << 60).is_err());
}

/// One thread writes a buffer through a clone, another one reads it through a view, and a third one works on it in launches:
/// what is read is what one of them has written, whole.
#[test]
fn threads_that_share_a_buffer_see_whole_writes() {
    const LEN: usize = 1 << 16;
    let mut devices = vec![Device::host(1).unwrap(), Device::host(3).unwrap()];
    if HAS_CHECK {
        devices.push(Device::simt(0));
    }
    for device in devices {
        let rounds = if device.execution() == "simt" { 20 } else { 1000 };
        let buffer: Buffer<u32> = device.zeros(LEN).unwrap();
        let source: Buffer<u32> = device.upload(&vec![7; LEN]).unwrap();
        let (writer, cleared, copied, view) = (buffer.clone(), buffer.clone(), buffer.clone(), buffer.view(0..LEN));
        drop(buffer);
        std::thread::scope(|scope| {
            scope.spawn(move || (1..=rounds).for_each(|round| writer.write(&vec![round; LEN]).unwrap()));
            scope.spawn(move || (0..rounds).for_each(|_| cleared.zero().unwrap()));
            scope.spawn(move || (0..rounds).for_each(|_| copied.copy_from(&source).unwrap()));
            scope.spawn(move || {
                for _ in 0..rounds {
                    let seen = view.read().unwrap();
                    assert!(seen.iter().all(|x| *x == seen[0]), "a read between two halves of a write");
                }
            });
        });
    }
}

/// Two threads launch kernels on the same buffers.
#[test]
fn launches_of_two_threads_take_turns() {
    let device = Device::host(2).unwrap();
    let image = Image { n: 1, h: 256, w: 256, c: 1 };
    let (y, x) = (reals(&device, image.elements() / 4), reals(&device, image.elements()));
    let read = y.clone();
    std::thread::scope(|scope| {
        let (also_x, also_y) = (x.clone(), y.view(0..y.len()));
        scope.spawn(move || {
            for round in 0..300 {
                also_x.write(&vec![round as f32; also_x.len()]).unwrap();
                resample::average_pool(&also_y, &also_x, image).unwrap();
            }
        });
        scope.spawn(move || {
            for _ in 0..300 {
                resample::average_pool(&y, &x, image).unwrap();
                let seen = read.read().unwrap();
                assert!(seen.iter().all(|v| *v == seen[0]), "half of one launch and half of another");
            }
        });
    });
}

/// Threads that decode, a trainer that launches on several threads, and a reader of its weights, all at once.
#[test]
fn threads_that_decode_train_and_read_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let shape = ImageShape { height: 8, width: 8, channels: 1 };
    for i in 0..12u8 {
        let class = folder.path().join(if i % 2 == 0 { "even" } else { "odd" });
        std::fs::create_dir_all(&class).unwrap();
        Picture { shape, pixels: vec![20 * i; 64] }.save(&class.join(format!("{i}.png"))).unwrap();
    }
    let mut settings = Preset::from_str("mnist").unwrap().settings();
    (settings.images.size, settings.images.channels, settings.networks.width, settings.training.batch) =
        (28.into(), 1, 2, 4);
    let trained = |memory: usize| {
        let options = DataOptions { memory, threads: 3, ..settings.data_options() };
        let data = DataSource::Folder(folder.path().into()).open(Split::Train, &options).unwrap();
        let mut loader = Loader::new(&data, settings.loader_options()).unwrap();
        let device = Device::host(3).unwrap();
        let setup = Setup::new(&settings, &data.info());
        let mut trainer = Trainer::new(&device, &setup).unwrap();
        let weights = trainer.generator().values.clone();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert!(weights.read().unwrap().iter().all(|x| x.is_finite()));
                }
            });
            let (mut images, mut labels) = (vec![0; 4 * data.shape().len()], vec![0; 4]);
            for step in 0..6 {
                loader.fill(step, &mut images, &mut labels).unwrap();
                trainer.step(&images, &labels).unwrap();
            }
            over.store(true, Ordering::Relaxed);
        });
        weights.read().unwrap()
    };
    assert!(trained(0) == trained(1 << 30), "streamed, and decoded at once");
}

/// In a process of its own, which has no memory left when it launches its first kernel.
#[test]
#[cfg(target_os = "linux")]
fn a_launch_without_memory_for_its_thread_is_an_error() {
    const CHILD: &str = "ZGAN_WITHOUT_MEMORY";
    if std::env::var_os(CHILD).is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        // With one arena, malloc has nothing in reserve that it could give.
        let alone = alone.env("MALLOC_ARENA_MAX", "1").env(CHILD, "1");
        let test = "a_launch_without_memory_for_its_thread_is_an_error";
        let output = alone.args(["--exact", test, "--nocapture"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}{error}");
        return print!("{said}");
    }
    let device = Device::host(1).unwrap();
    let [x, w, y] = [4, 4, 4].map(|len| reals(&device, len));
    let launch = || {
        let sizes = matmul::Linear { n: 2, c: 2, k: 2 };
        matmul::linear_forward(sizes, &y, &x, &w, None, zgan::ops::Activation::Identity)
    };
    let limit = |bytes: &str| {
        let own = std::process::id().to_string();
        let set = std::process::Command::new("prlimit").args([&format!("--as={bytes}:"), "--pid", &own]).status();
        set.is_ok_and(|status| status.success())
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB"));
    let there = 1024 * size.unwrap().parse::<usize>().unwrap();
    if !limit(&(there + (1 << 20)).to_string()) {
        return println!("not tested: there is no prlimit");
    }
    let refused = launch();
    assert!(limit("unlimited"));
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("working memory of a thread: 6.0 MiB") && error.contains("asked for"), "{error}");
    launch().unwrap();
}
