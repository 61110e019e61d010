//! Inception against pytorch-fid, torch-fidelity and clean-fid, with weights that both sides draw by the same formulas
//! (tests/goldens/inception.py), and networks as data layer by layer.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use crate::common::*;
use crate::ranks::on_ranks;
use zgan::checkpoint::NamedTensor;
use zgan::data::{Dataset, ImageShape};
use zgan::device::Device;
use zgan::eval::inception::{self, Inception, Like, Weights};
use zgan::eval::judge::{Judge, Metric, load_statistics, save_statistics};
use zgan::eval::metrics::{Points, Statistics, frechet};
use zgan::eval::network::{Description, FeatureNetwork, Look, Product};
use zgan::exchange::file;
use zgan::gan::{self, Setup, Trainer};
use zgan::ops::conv::Conv;
use zgan::ops::features::{Filter, Pool, Pooling};
use zgan::settings::Settings;

/// A folder with the file `inception.safetensors`.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let (golden, folder) = (Golden::open("inception"), tempfile::tempdir().unwrap());
    let values = |name: &str, shape: &[usize]| {
        let len = shape.iter().product();
        match name.rsplit_once('.').unwrap().1 {
            "running_mean" | "running_var" => golden.f32(name),
            "bias" => draw(name, len, (0.0, 0.3)),
            _ if shape.len() == 1 => draw(name, len, (1.0, 0.3)),
            _ => draw(name, len, (0.0, (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt())),
        }
    };
    let tensor = |(name, shape): (String, Vec<usize>)| NamedTensor { values: values(&name, &shape), name, shape };
    let tensors: Vec<NamedTensor> = inception::tensors().into_iter().map(tensor).collect();
    file::write(&folder.path().join("inception.safetensors"), &BTreeMap::new(), &tensors, &[]).unwrap();
    folder
});

pub fn weights_file() -> std::path::PathBuf {
    FOLDER.path().join("inception.safetensors")
}

/// As `picture` in the script.
pub fn picture(name: &str, h: usize, w: usize) -> Vec<u8> {
    let squares = draw_below(&format!("{name}.squares"), 5 * 5 * 3, 192);
    let noise = draw_below(&format!("{name}.noise"), h * w * 3, 64);
    let square = |i: usize| squares[((i / 3 / w * 5 / h) * 5 + i / 3 % w * 5 / w) * 3 + i % 3];
    noise.iter().enumerate().map(|(i, noise)| (noise + square(i)) as u8).collect()
}

fn run(
    inception: &Inception,
    device: &Device,
    image: &[u8],
    height: usize,
    width: usize,
) -> (Vec<f32>, Option<Vec<f32>>) {
    let shape = ImageShape { height, width, channels: 3 };
    inception.network().run(&device.upload(image).unwrap(), shape).unwrap();
    (inception.features(1).unwrap(), inception.logits(1).unwrap())
}

#[test]
fn features_are_those_of_the_programs_that_it_follows() {
    let (golden, weights) = (Golden::open("inception"), Weights::find(Some(&weights_file())).unwrap());
    on_fast_devices(|device| {
        for (like, name) in
            [(Like::PytorchFid, "pytorch-fid"), (Like::TorchFidelity, "torch-fidelity"), (Like::CleanFid, "clean-fid")]
        {
            let dimensions = if like == Like::PytorchFid { &inception::DIMENSIONS[..] } else { &[2048] };
            for dimensions in dimensions {
                let inception = Inception::new(device, &weights, *dimensions, like, 2).unwrap();
                for size in [(32, 32), (64, 64), (299, 299), (45, 71)] {
                    let image = format!("{}x{}.1", size.0, size.1);
                    let (features, logits) = run(&inception, device, &picture(&image, size.0, size.1), size.0, size.1);
                    let close = |what: &str, found: &[f32], expected: &str| {
                        let expected = to_f64(&golden.f32(&format!("{image}.{name}.{expected}")));
                        let error = relative_distance(found, &expected, 1e-30);
                        assert!(error < 1e-4, "{image}, {name}, {what}: {error:.1e}");
                    };
                    close("features", &features, &dimensions.to_string());
                    if let Some(logits) = logits.filter(|_| like != Like::CleanFid) {
                        close("logits", &logits, "logits");
                    }
                }
            }
        }
    });
}

#[test]
fn images_are_seen_the_same_alone_and_beside_others() {
    let weights = Weights::find(Some(&weights_file())).unwrap();
    let device = Device::host(0).unwrap();
    let inception = Inception::new(&device, &weights, 192, Like::PytorchFid, 3).unwrap();
    let (a, b) = (picture("a", 20, 30), picture("b", 20, 30));
    let alone = run(&inception, &device, &b, 20, 30).0;
    let shape = ImageShape { height: 20, width: 30, channels: 3 };
    inception.network().run(&device.upload(&[a, b].concat()).unwrap(), shape).unwrap();
    assert_eq!(inception.features(2).unwrap()[192..], alone);
    let error = inception.network().run(&device.zeros(4 * shape.len()).unwrap(), shape).unwrap_err().to_string();
    assert!(error.contains("expected 1 to 3 images of 20x30x3"), "{error}");
}

#[test]
fn weights_are_checked_by_name_and_shape() {
    let missing = Weights::find(Some(Path::new("/nowhere.safetensors"))).err().unwrap().to_string();
    assert!(missing.contains("there is no file /nowhere.safetensors") && missing.contains("pt_inception-2015-12-05"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let write = |change: &dyn Fn(&str, &mut Vec<usize>) -> bool| {
        let mut tensors = Vec::new();
        for (name, mut shape) in inception::tensors() {
            if change(&name, &mut shape) {
                let values = vec![0.0; shape.iter().product()];
                tensors.push(NamedTensor { name, shape, values });
            }
        }
        file::write(&path, &BTreeMap::new(), &tensors, &[]).unwrap();
        Weights::find(Some(&path)).err().unwrap().to_string()
    };
    let error = write(&|name, _| name != "Mixed_7c.branch_pool.bn.running_var");
    assert!(error.contains("there is no tensor Mixed_7c.branch_pool.bn.running_var"), "{error}");
    let error = write(&|name, shape| {
        if name == "fc.weight" {
            shape[0] = 1000;
        }
        true
    });
    assert!(error.contains("fc.weight is [1000, 2048], expected [1008, 2048]"), "{error}");
}

/// Each kind of layer, and tensors whose memory is used again, beside loops in f64.
#[test]
fn networks_as_data_are_their_layers() {
    const N: usize = 3;
    let (mut net, x) = Description::of([7, 9, 3]);
    let a = net.product(x, Product::new("a", [1, 7], 5));
    let b = net.product(a, Product::new("b", [3, 3], 4).stride(2).without_padding());
    let pooled = Pool { how: Pooling::Mean, size: 3, stride: 1, pad: 1 };
    let c = net.pool(b, pooled);
    let d = net.product(b, Product::new("d", [3, 1], 2));
    let joined = net.join(&[d, c]);
    let e = net.linear(joined, "e", 6);
    let f = net.product(e, Product::new("f", [1, 1], 2).without_relu());
    let weight = |product: &Product| {
        let [r, s, c, k] = product.filter;
        (draw(&product.name, r * s * c * k, (0.0, 0.5)), draw(&format!("{}.bias", product.name), k, (0.0, 0.5)))
    };
    let products: BTreeMap<String, Product> = net.products().map(|p| (p.name.clone(), p.clone())).collect();
    let bytes: Vec<u8> = draw_below("bytes", N * 7 * 9 * 3, 256).iter().map(|b| *b as u8).collect();

    let conv = |name: &str, x: &[f64], [h, w]: [usize; 2]| -> Vec<f64> {
        let (product, (filters, bias)) = (&products[name], weight(&products[name]));
        let [r, s, c, k] = product.filter;
        let sizes = Conv { n: N, h, w, c, k, r, s, pad: product.pad, stride: product.stride };
        let (p, q) = (sizes.p(), sizes.q());
        let mut y = Vec::new();
        for i in 0..N * p * q * k {
            let (out, column, row, sample) = (i % k, i / k % q, i / k / q % p, i / k / q / p);
            let mut sum = f64::from(bias[out]);
            for tap in 0..r * s * c {
                let (ch, v, u) = (tap % c, tap / c % s, tap / c / s);
                let (yy, xx) = (row * sizes.stride + u, column * sizes.stride + v);
                if yy >= sizes.pad[0] && xx >= sizes.pad[1] && yy - sizes.pad[0] < h && xx - sizes.pad[1] < w {
                    let at = ((sample * h + yy - sizes.pad[0]) * w + xx - sizes.pad[1]) * c + ch;
                    sum += x[at] * f64::from(filters[tap * k + out]);
                }
            }
            y.push(if product.relu { sum.max(0.0) } else { sum });
        }
        y
    };
    let x64: Vec<f64> = bytes.iter().map(|byte| f64::from(*byte) / 127.5 - 1.0).collect();
    let b64 = conv("b", &conv("a", &x64, [7, 9]), [3 + 4, 9]);
    let d64 = conv("d", &b64, [3, 4]);
    let mut joined64 = Vec::new();
    for pixel in 0..N * 12 {
        let (q, p, sample) = (pixel % 4, pixel / 4 % 3, pixel / 12);
        joined64.extend(&d64[pixel * 2..pixel * 2 + 2]);
        for channel in 0..4 {
            let near = |at: usize, side: usize| at.saturating_sub(1)..(at + 2).min(side);
            let window = near(p, 3).flat_map(|p| near(q, 4).map(move |q| ((sample * 3 + p) * 4 + q) * 4 + channel));
            let values: Vec<f64> = window.map(|at| b64[at]).collect();
            joined64.push(values.iter().sum::<f64>() / values.len() as f64);
        }
    }
    let e64 = conv("e", &joined64, [3, 4]);
    let f64_ = conv("f", &e64, [1, 1]);

    let rebuild = || {
        let (mut net, x) = Description::of([7, 9, 3]);
        let a = net.product(x, Product::new("a", [1, 7], 5));
        let b = net.product(a, Product::new("b", [3, 3], 4).stride(2).without_padding());
        let (c, d) = (net.pool(b, pooled), net.product(b, Product::new("d", [3, 1], 2)));
        let joined = net.join(&[d, c]);
        let e = net.linear(joined, "e", 6);
        net.product(e, Product::new("f", [1, 1], 2).without_relu());
        net
    };
    on_each_device(|device| {
        let look = Look { filter: Filter::Bilinear, range: (2.0 / 255.0, -1.0) };
        let network = FeatureNetwork::new(device, rebuild(), look, N + 1, &[e, f], |p| Ok(weight(p))).unwrap();
        let shape = ImageShape { height: 7, width: 9, channels: 3 };
        network.run(&device.upload(&bytes).unwrap(), shape).unwrap();
        for (what, tensor, expected) in [("e", e, &e64), ("f", f, &f64_)] {
            assert!(relative_error(&network.read(tensor, N).unwrap(), expected, 1e-30) < 1e-5, "{what}");
        }
    });
    let look = Look { filter: Filter::Bilinear, range: (1.0, 0.0) };
    let none = FeatureNetwork::new(&Device::host(1).unwrap(), net, look, 1, &[f], |_| Ok((vec![0.0], vec![])));
    assert!(none.err().unwrap().to_string().contains("a: (1, 0) weights, expected a filter of [1, 7, 3, 5]"));
}

/// Runs the program in this folder, and gives what it printed.
fn zgan(place: &Path, arguments: &str, code: i32) -> (String, String) {
    // scripts/gpu-check runs this test where cargo does not.
    let zgan = std::env::var("ZGAN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_zgan").into());
    let mut command = Command::new(zgan);
    command.env("ZGAN_TUNING", "off").env_remove("ZGAN_INCEPTION").env("XDG_CACHE_HOME", place.join("cache"));
    let output = command.args(arguments.split_whitespace()).current_dir(place).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "zgan {arguments}\n{out}{err}");
    (out, err)
}

/// Pictures of 32 x 32 as the script makes them, in a folder: those of `b` are darker.
fn write_pictures(folder: &Path, side: &str, count: usize) {
    std::fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        let mut image = picture(&format!("{side}.{i}"), 32, 32);
        image.iter_mut().for_each(|byte| *byte /= if side == "a" { 1 } else { 2 });
        let file = std::fs::File::create(folder.join(format!("{side}{i:03}.png"))).unwrap();
        let mut encoder = png::Encoder::new(file, 32, 32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header().unwrap().write_image_data(&image).unwrap();
    }
}

#[test]
fn two_folders_are_as_far_apart_as_pytorch_fid_says() {
    let (place, golden) = (tempfile::tempdir().unwrap(), Golden::open("inception"));
    for side in ["a", "b"] {
        write_pictures(&place.path().join(side), side, 100);
        write_pictures(&place.path().join(format!("few-{side}")), side, 12);
    }
    let weights = format!("--inception {} --device host", weights_file().display());
    let json = |arguments: &str| -> serde_json::Value {
        let (out, _) = zgan(place.path(), &format!("eval {arguments} {weights} --json"), 0);
        serde_json::from_str(&out).unwrap()
    };
    let near = |found: &serde_json::Value, expected: f64, tolerance: f64| {
        let found = found.as_f64().unwrap();
        assert!((found - expected).abs() <= tolerance * expected, "{found}, expected {expected}");
    };
    let expected = golden.f64("fid.64")[0];
    let report = json("--images b --data folder:a --metrics fid --dims 64 --save-stats a.npz");
    near(&report["fid"], expected, 1e-3);
    assert_eq!(
        (&report["generated"], &report["real"], &report["fid-as"]),
        (&100.into(), &100.into(), &"pytorch-fid".into())
    );
    // The statistics are pytorch-fid's, in the file and in the cache.
    let statistics = load_statistics(&place.path().join("a.npz")).unwrap();
    let covariance = statistics.covariance().unwrap();
    for (found, name) in [(&statistics.mean, "mu.64"), (&covariance.values, "sigma.64")] {
        let found: Vec<f32> = found.iter().map(|x| *x as f32).collect();
        assert!(relative_distance(&found, &golden.f64(name), 1e-30) < 1e-4, "{name}");
    }
    let kept = std::fs::read_dir(place.path().join("a")).unwrap().map(|entry| entry.unwrap().file_name());
    let kept: Vec<_> = kept.filter(|name| name.to_string_lossy().starts_with(".zgan-inception-folder-whole")).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    near(&json("--images b --data folder:a --metrics fid --dims 64")["fid"], expected, 1e-3);
    let report = json("--images b --stats a.npz --metrics fid,kid --dims 64");
    near(&report["fid"], expected, 1e-3);
    assert_eq!(report["left-out"][0], "kid: of the real images there are statistics alone");
    let (_, error) = zgan(place.path(), &format!("eval --images b --stats a.npz {weights}"), 1);
    assert!(error.contains("statistics of 64 dimensions, expected 2048"), "{error}");

    let report = json("--images few-b --data folder:few-a --metrics fid,kid,is,pr,dc,ifid");
    near(&report["fid"], golden.f64("fid.2048")[0], 1e-3);
    for name in ["kid", "inception-score"] {
        assert!(report[name]["mean"].as_f64().unwrap().is_finite(), "{name}");
    }
    for name in ["precision", "recall", "density", "coverage"] {
        assert!(report[name].as_f64().unwrap() >= 0.0, "{name}");
    }
    assert_eq!(report["left-out"], serde_json::json!(["ifid: it needs labels of two classes or more on both sides"]));
    // Two folders of the same classes have a distance for each class.
    for side in ["a", "b"] {
        for class in ["one", "two"] {
            write_pictures(&place.path().join(format!("classes-{side}/{class}")), side, 3);
        }
    }
    let (said, _) =
        zgan(place.path(), &format!("eval --images classes-b --data folder:classes-a --metrics ifid {weights}"), 0);
    assert!(said.contains("one") && said.contains("two") && said.contains("ifid "), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.ends_with("(6 generated, 6 real); as pytorch-fid"), "{said}");
    // A folder beside itself, cropped and scaled as for a training.
    let report = json("--images few-a --data folder:few-a --size 16 --metrics fid --dims 64 --fid-as clean-fid");
    assert!(report["fid"].as_f64().unwrap() < 1e-6, "{report}");

    let (_, error) = zgan(place.path(), "eval --images a --data folder:b", 2);
    assert!(error.contains("--inception FILE, or ZGAN_INCEPTION") && error.contains("save_file"), "{error}");
    let (_, error) = zgan(place.path(), &format!("eval --images a {weights}"), 2);
    assert!(error.contains("--data or --stats"), "{error}");
    // Two folders have no held-out images.
    let (said, _) =
        zgan(place.path(), "eval --images classes-b --data folder:classes-a --metrics cas --device host", 0);
    assert!(said.contains("left out cas: the data have no held-out images"), "{said}");
    let (_, error) =
        zgan(place.path(), &format!("eval --images a --data folder:b --metrics is --dims 64 {weights}"), 2);
    assert!(error.contains("is needs the logits"), "{error}");
    let (_, error) = zgan(place.path(), &format!("eval --run a --metrics fid50k --count 9 {weights}"), 2);
    assert!(error.contains("fid50k is of 50,000 images"), "{error}");
    assert!(
        zgan(place.path(), &format!("eval --images a --data folder:b --dims 65 {weights}"), 2).1.contains("dims: 65")
    );
}

/// Ranks share the images out. The first one has what one process has, to the bit, and the others have nothing.
#[test]
fn ranks_look_at_images_as_one_process_does() {
    let weights = Weights::find(Some(&weights_file())).unwrap();
    let shape = ImageShape { height: 16, width: 16, channels: 3 };
    let (count, classes) = (33, ["one", "two"].map(String::from).to_vec());
    let images = draw_below("noise", count * shape.len(), 256).into_iter().map(|byte| byte as u8).collect();
    let data = Dataset::new("noise", shape, classes, images, (0..count as u32).map(|i| i % 2).collect()).unwrap();
    let setup = Setup::new(&Settings::default(), &data.info()).with(|s| s.networks.width = 4);
    let host = || Device::host(1).unwrap();
    let figures = |device: &Device| {
        use Metric::*;
        let judge = Judge::new(device, &weights, &[Fid, Kid, Pr, Dc, Ifid], 64, Like::PytorchFid, 20).unwrap();
        // It draws the same with a share of the batch.
        let mut trainer = Trainer::new(device, &setup).unwrap();
        let real = judge.look(&data, usize::MAX, false, true, &|| true).unwrap().unwrap();
        let drawn = judge.draw(&mut trainer, gan::Weights::Raw, 1, 65, &|| true).unwrap().unwrap();
        // Where one of them is told to stop, all do.
        if let Some(ranks) = device.ranks() {
            assert!(judge.look(&data, usize::MAX, false, true, &|| ranks.rank() == 0).unwrap().is_none());
        }
        judge.compare(&drawn, &real, data.classes()).unwrap()
    };
    let (alone, all) = (figures(&host()), on_ranks(2, host, |device, _| figures(device)));
    assert_eq!((alone.generated, alone.real, alone.intra_fids.len()), (65, 33, 2));
    assert_eq!(format!("{:?}", all[0]), format!("{alone:?}"));
    assert_eq!((all[1].generated, all[1].fid), (0, None));
}

#[test]
fn statistics_of_numpy_are_read_and_damaged_ones_refused() {
    let known = load_statistics(Path::new("tests/goldens/statistics.npz")).unwrap();
    assert_eq!((known.count, known.mean.as_slice()), (0, &[0.5, -2.0][..]));
    assert_eq!(known.covariance().unwrap().values, [2.0, 0.25, 0.25, 1.0]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.npz");
    let mine = Statistics::of(&Points { dimensions: 2, values: Random(3).normals(40) }).unwrap();
    save_statistics(&path, &mine).unwrap();
    let again = load_statistics(&path).unwrap();
    assert_eq!((again.count, &again.mean), (20, &mine.mean));
    assert!(frechet(&again, &mine).unwrap() < 1e-12);
    let bytes = std::fs::read(&path).unwrap();
    for cut in [bytes.len() / 2, bytes.len() - 30] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert!(load_statistics(&path).is_err());
    }
    let middle = bytes.windows(2).position(|w| w == b"mu").unwrap() + 140;
    let mut flipped = bytes.clone();
    flipped[middle] ^= 4;
    std::fs::write(&path, &flipped).unwrap();
    assert!(load_statistics(&path).is_err(), "the checksum of the archive tells");
}

#[test]
fn a_training_is_judged_and_its_best_checkpoint_kept() {
    let place = tempfile::tempdir().unwrap();
    for class in ["one", "two"] {
        write_pictures(&place.path().join("data").join(class), if class == "one" { "a" } else { "b" }, 4);
    }
    let train = "train --preset softmax-gan --data folder:data --size 8 --batch 4 --batch-g 4 --steps 4 --device host \
                 --no-eval --eval-every 2 --eval-images 6 --keep-best precision --eval-metrics fid,pr --run a";
    let (_, error) = zgan(place.path(), train, 2);
    assert!(error.contains("--inception FILE, or ZGAN_INCEPTION"), "{error}");
    assert!(!place.path().join("runs/a").exists(), "it is refused before anything is made");
    let (_, error) = zgan(place.path(), "train --keep-best fid --steps 1", 2);
    assert!(error.contains("keep-best: fid, which is only known with --eval-every"), "{error}");
    let (_, error) = zgan(place.path(), "train --preset ring --data ring --eval-every 1", 2);
    assert!(error.contains("points are not judged"), "{error}");

    let (said, _) = zgan(place.path(), &format!("{train} --inception {}", weights_file().display()), 0);
    assert!(said.contains("step 2: fid ") && said.contains("(6 generated, 8 real)"), "{said}");
    let metrics = std::fs::read_to_string(place.path().join("runs/a/metrics.csv")).unwrap();
    let header = metrics.lines().next().unwrap();
    assert!(header.ends_with("fid,precision,recall,images_per_second"), "{header}");
    let column = header.split(',').position(|name| name == "fid").unwrap();
    let fids: Vec<f64> =
        metrics.lines().skip(1).map(|row| row.split(',').nth(column).unwrap().parse().unwrap()).collect();
    assert_eq!(fids.len(), 2, "{metrics}");
    let best = place.path().join("runs/a/checkpoints/best.safetensors");
    assert!(best.is_file());
    let (said, _) = zgan(place.path(), "info a", 0);
    assert!(said.contains("best    precision") && said.contains("fid     "), "{said}");
    zgan(place.path(), "sample --run a --best --count 4 --out best.png --device host", 0);
    // The number that the training told is what eval tells.
    let weights = format!("--inception {} --device host", weights_file().display());
    let (out, _) = zgan(place.path(), &format!("eval --run a --metrics fid --count 6 --json {weights}"), 0);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let (found, told) = (report["fid"].as_f64().unwrap(), fids[1]);
    assert!((found - told).abs() < 1e-4 * told, "{found}, the training said {told}");
    // Going on keeps what was best, and a run that replaces it does not.
    zgan(place.path(), "train --resume a --steps 5 --stop-at 5 --eval-every 0 --keep-best", 2);
    let plain = train.replace("--keep-best precision", "").replace("--eval-every 2", "--eval-every 0");
    zgan(place.path(), &format!("{plain} --force"), 0);
    assert!(!best.exists());
    let (_, error) = zgan(place.path(), "sample --run a --best --device host", 2);
    assert!(error.contains("has no best checkpoint"), "{error}");
}
