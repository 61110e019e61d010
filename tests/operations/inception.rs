//! Inception against pytorch-fid, torch-fidelity and clean-fid, with weights that both sides draw by the same formulas
//! (tests/goldens/inception.py), and networks as data layer by layer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use crate::common::*;
use zgan::checkpoint::NamedTensor;
use zgan::data::ImageShape;
use zgan::device::Device;
use zgan::eval::inception::{self, Inception, Like, Weights};
use zgan::eval::network::{Description, FeatureNetwork, Look, Product};
use zgan::exchange::file;
use zgan::ops::conv::Conv;
use zgan::ops::features::{Filter, Pool, Pooling};

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
