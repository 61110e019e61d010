//! `kernels/gradient_penalty.cu` against f64 loops and central differences, and the penalty's gradients by tangents
//! against PyTorch's double backward.

use crate::common::*;
use zgan::device::{Buffer, Device};
use zgan::nn::{
    Arena, Attention, Backward, Builder, ClassHead, ClassHeadOptions, ConcatLabels, ConvOptions, DownBlock,
    DownOptions, Forward, HeadOptions, Init, Layer, Layout, Linear, Mode, Network, ProjectionHead, Tangent, Value,
};
use zgan::ops::Activation;
use zgan::ops::gradient_penalty::{self, Direction};
use zgan::ops::state::{State, StateBuffer};

const WEIGHT: f32 = 10.0;
/// What the norms are to be: that of Wasserstein GANs, and that of R1 and R2.
const WANTED: [f32; 2] = [1.0, 0.0];

fn norms(g: &[f64], n: usize) -> Vec<f64> {
    g.chunks(g.len() / n).map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt()).collect()
}

fn penalty(g: &[f64], n: usize, wanted: f32) -> f64 {
    f64::from(WEIGHT) / n as f64 * norms(g, n).iter().map(|norm| (norm - f64::from(wanted)).powi(2)).sum::<f64>()
}

fn direction(g: &[f64], n: usize, wanted: f32) -> Vec<f64> {
    let (rows, wanted) = (g.chunks(g.len() / n).zip(norms(g, n)), f64::from(wanted));
    let factor = |norm: f64| if norm > 0.0 { 2.0 * f64::from(WEIGHT) / n as f64 * (norm - wanted) / norm } else { 0.0 };
    rows.flat_map(|(row, norm)| row.iter().map(move |x| factor(norm) * x)).collect()
}

fn state(device: &Device) -> StateBuffer {
    StateBuffer::new(device, &State::new(1, [0.0; 2], 0, 0)).unwrap()
}

fn nans(device: &Device, n: usize) -> Buffer<f32> {
    device.upload(&vec![f32::NAN; n]).unwrap()
}

/// v, the norms and the statistics.
fn run(device: &Device, g: &[f32], n: usize, wanted: f32) -> [Buffer<f32>; 3] {
    let [v, norms, statistics] = [g.len(), n, 2].map(|len| nans(device, len));
    let out = Direction { v: &v, norms: &norms, statistics: &statistics };
    gradient_penalty::direction(out, &device.upload(g).unwrap(), WEIGHT, wanted, &state(device)).unwrap();
    [v, norms, statistics]
}

#[test]
fn the_reference_direction_is_the_derivative_of_the_penalty() {
    let g = to_f64(&Random(1).normals(12));
    for wanted in WANTED {
        for (found, expected) in direction(&g, 3, wanted).iter().zip(central_differences(&g, |g| penalty(g, 3, wanted)))
        {
            assert!((found - expected).abs() < 1e-7, "{found} is not {expected}");
        }
    }
}

#[test]
fn value_and_direction_match_the_reference_at_any_size() {
    on_each_device(|device| {
        for (n, f) in [(1, 1), (1, 31), (33, 2), (31, 33), (3, 1000), (2, 20_000), (1000, 3)] {
            for wanted in WANTED {
                let g = Random((n * f) as u64).normals(n * f);
                let exact = to_f64(&g);
                let [v, found, statistics] = run(device, &g, n, wanted);
                assert_close("v", &v, &direction(&exact, n, wanted), 1e-5);
                assert_close("norms", &found, &norms(&exact, n), 1e-6);
                let mean = norms(&exact, n).iter().sum::<f64>() / n as f64;
                assert_close("penalty", &statistics.view(0..1), &[penalty(&exact, n, wanted)], 1e-5);
                assert_close("mean norm", &statistics.view(1..2), &[mean], 1e-6);
            }
        }
    });
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn in_16_bits_and_scaled_it_is_as_good_as_rounding_the_result() {
    on_each_device(|device| {
        for precision in NARROW {
            let (n, p, c, scale) = (3, 7, 31, 64.0f32);
            let len = n * p * c;
            let mut random = Random(5);
            let mut draw = |n: usize| rounded(&random.normals(n), precision);
            let (g, x, t, share) = (draw(len), draw(len), draw(len), [0.0f32, 0.3, 1.0]);
            let upload = |x: &[f32]| device.upload_in(x, precision).unwrap();
            let out = || upload(&vec![f32::NAN; len]);
            let state =
                StateBuffer::new(device, &State { loss_scale: scale, ..State::new(1, [0.0; 2], 0, 0) }).unwrap();
            let (v, found, statistics) = (out(), nans(device, n), nans(device, 2));
            let scaled: Vec<f32> = g.iter().map(|g| g * scale).collect();
            let to = Direction { v: &v, norms: &found, statistics: &statistics };
            gradient_penalty::direction(to, &upload(&scaled), WEIGHT, 1.0, &state).unwrap();
            assert_as_good("v", &v, &direction(&to_f64(&g), n, 1.0), 1e-6);
            assert_close("norms", &found, &norms(&to_f64(&g), n), 1e-6);
            assert_close("penalty", &statistics.view(0..1), &[penalty(&to_f64(&g), n, 1.0)], 1e-5);

            let (mixed, pooled) = (out(), nans(device, n * c));
            gradient_penalty::mix(&mixed, &upload(&x), &upload(&t), &device.upload(&share).unwrap()).unwrap();
            let (x, t) = (to_f64(&x), to_f64(&t));
            let of = |i: usize| t[i] + f64::from(share[i / (p * c)]) * (x[i] - t[i]);
            assert_as_good("mixed", &mixed, &(0..len).map(of).collect::<Vec<_>>(), 1e-6);
            let upload = |x: &[f64]| upload(&x.iter().map(|x| *x as f32).collect::<Vec<_>>());
            gradient_penalty::pool(&pooled, &upload(&t), &upload(&x), n, 0.5).unwrap();
            let mut expected = vec![0.0; n * c];
            for i in (0..len).filter(|i| x[*i] > 0.0) {
                expected[i / (p * c) * c + i % c] += 0.5 * t[i];
            }
            assert_close("pooled", &pooled, &expected, 1e-5);
        }
    });
}

#[test]
fn extremes() {
    on_each_device(|device| {
        // No direction is the way away from 0: none is taken, as in PyTorch.
        let [v, found, statistics] = run(device, &[0.0, 0.0, 0.6, 0.8], 2, 1.0);
        assert_eq!((v.read().unwrap()[..2].to_vec(), found.read().unwrap()[0]), (vec![0.0; 2], 0.0));
        assert_close("penalty of norms 0 and 1", &statistics.view(0..1), &[5.0], 1e-6);
        assert_close("v at norm 1", &v.view(2..4), &[0.0; 2], f64::INFINITY);
        let [v, ..] = run(device, &[3e18, -4e18], 1, 1.0);
        assert_close("large", &v, &[0.6 * 1e20, -0.8 * 1e20], 1e-5);
        for bad in [f32::NAN, f32::INFINITY] {
            let [.., statistics] = run(device, &[1.0, bad, 1.0, 1.0], 2, 1.0);
            assert!(!statistics.read().unwrap()[0].is_finite());
        }
    });
}

#[test]
fn mixes_and_pools_match_the_reference() {
    on_each_device(|device| {
        for (n, p, c) in [(1, 1, 1), (3, 31, 33), (5, 49, 32), (2, 7, 1000), (33, 4, 130)] {
            let (len, mut random) = (n * p * c, Random((n + p + c) as u64));
            let (t, x) = (random.normals(len), random.normals(len));
            let share: Vec<f32> = (0..n).map(|_| random.uniform() as f32).collect();
            let [a, b, s] = [&t, &x, &share].map(|values| device.upload(values).unwrap());

            let mixed = nans(device, len);
            gradient_penalty::mix(&mixed, &a, &b, &s).unwrap();
            let at = |i: usize| (f64::from(t[i]), f64::from(x[i]), f64::from(share[i / (p * c)]));
            let expected: Vec<f64> = (0..len).map(at).map(|(t, x, s)| s * t + (1.0 - s) * x).collect();
            assert_close("mixed", &mixed, &expected, 1e-6);

            let h = nans(device, n * c);
            gradient_penalty::pool(&h, &a, &b, n, 0.5).unwrap();
            let mut expected = vec![0.0; n * c];
            for i in (0..len).filter(|i| x[*i] > 0.0) {
                expected[i / (p * c) * c + i % c] += 0.5 * f64::from(t[i]);
            }
            assert_close("pooled", &h, &expected, 1e-5);
        }
    });
}

#[test]
fn refuses_shapes_that_do_not_fit() {
    let device = Device::host(1).unwrap();
    let buffer = |n| device.zeros::<f32>(n).unwrap();
    let (v, norms, statistics) = (buffer(6), buffer(2), buffer(2));
    let out = Direction { v: &v, norms: &norms, statistics: &statistics };
    let message = gradient_penalty::direction(out, &buffer(7), 1.0, 1.0, &state(&device)).unwrap_err().to_string();
    assert_eq!(message, "gradient penalty: g has 7 elements, expected N * F with N = 2");
    assert!(gradient_penalty::direction(out, &buffer(8), 1.0, 1.0, &state(&device)).is_err());
    assert!(gradient_penalty::mix(&buffer(6), &buffer(6), &buffer(5), &buffer(2)).is_err());
    assert!(gradient_penalty::pool(&buffer(4), &buffer(12), &buffer(11), 2, 1.0).is_err());
    assert!(gradient_penalty::pool(&buffer(4), &buffer(11), &buffer(11), 2, 1.0).is_err());
}

const N: usize = 4;
const SIDE: usize = 8;
const CHANNELS: usize = 2;
const CLASSES: usize = 5;
/// A row that has nothing to do with it, the points, their tangents.
const POINTS: std::ops::Range<usize> = 1..1 + N;
const TANGENTS: std::ops::Range<usize> = 1 + N..1 + 2 * N;

/// A discriminator of the golden: its input, its layers, its logits.
fn build(kind: &str, build: &mut Builder, labels: &Buffer<u32>) -> (Value, Network, Value) {
    let rows = TANGENTS.end;
    let mut network = Network::default();
    let input = build.value(rows, SIDE, SIDE, CHANNELS).unwrap();
    let mut x = input.clone();
    if kind == "perceptron" {
        for (i, k) in [9, 7, 1].into_iter().enumerate() {
            let y = build.value(rows, 1, 1, k).unwrap();
            let activation = if i < 2 { Activation::LeakyRelu(0.2) } else { Activation::Identity };
            let init = Init::FanIn { fan_in: 1 };
            let layer = Linear::into(build, &format!("linear{}", i + 1), (&x, &y), true, activation, init);
            network.layers.push(Box::new(layer));
            x = y;
        }
        return (input, network, x);
    }
    if kind == "concat" {
        let concat = ConcatLabels::new(build, &x, &labels.into(), CLASSES, 1.0).unwrap();
        x = concat.y.clone();
        network.layers.push(Box::new(concat));
    }
    for (i, (hidden, out, pool)) in [(4, 4, true), (4, 6, true), (6, 6, false)].into_iter().enumerate() {
        let options = DownOptions { hidden, out, pool, first: i == 0 };
        let block = DownBlock::new(build, &format!("block{}", i + 1), &x, &options).unwrap();
        x = block.output().clone();
        network.layers.push(Box::new(block));
        if kind == "concat" && i == 0 {
            let concat = ConcatLabels::embedding(build, &x, &labels.into(), (CLASSES, 3), Init::Constant(0.0)).unwrap();
            x = concat.y.clone();
            network.layers.push(Box::new(concat));
        }
    }
    let init = |_, _| Init::Constant(0.0);
    let head: Box<dyn Layer> = if kind == "ac-gan" {
        let options = ClassHeadOptions { classes: CLASSES, bias: true, pool_factor: 0.5, init };
        let head = ClassHead::new(build, &x, &options).unwrap();
        // As a training does: the penalty is not on the class logits.
        head.classes().dx.as_ref().unwrap().zero().unwrap();
        Box::new(head)
    } else {
        let classes = if kind == "projection" { CLASSES } else { 0 };
        let options = HeadOptions { labels: &labels.into(), classes, bias: true, pool_factor: 0.5, init };
        Box::new(ProjectionHead::new(build, "head", &x, &options).unwrap())
    };
    let logits = head.output().clone();
    network.layers.push(head);
    (input, network, logits)
}

/// Plain, with a projection head, with both kinds of concatenation, with AC-GAN's head (whose penalty is that of the
/// plain one: its class layer has no part in it), and a leaky perceptron.
#[test]
fn gradients_of_discriminators_match_pytorchs_double_backward() {
    let golden = Golden::open("gradient_penalty");
    for (kind, wanted) in
        ["plain", "projection", "concat", "ac-gan", "perceptron"].iter().flat_map(|k| WANTED.map(|w| (*k, w)))
    {
        let theirs = if kind == "ac-gan" { "plain" } else { kind };
        let of = if wanted == 0.0 { "zero-centred." } else { "" };
        on_each_device(|device| {
            let (mut parameters, mut running) = (Layout::default(), Layout::default());
            let mut arena = Arena::new(device, 1 << 20).unwrap();
            let labels = device.zeros(TANGENTS.end).unwrap();
            labels.view(POINTS).write(&golden.labels("labels")).unwrap();
            let mut builder = Builder::new(&mut parameters, &mut running, &mut arena);
            let (input, network, logits) = build(kind, &mut builder, &labels);
            let weights = device.zeros::<f32>(parameters.len()).unwrap();
            let ours = |name: &str| kind == "ac-gan" && name.starts_with("classes.");
            for entry in parameters.entries() {
                let values = if ours(&entry.name) {
                    Random(9).normals(entry.at.len())
                } else {
                    golden.f32(&format!("{theirs}.{}", entry.name))
                };
                entry.at.of(&weights).write(&values).unwrap();
            }
            // What is there before stays: gradients accumulate, whatever the tangents find in their rows.
            let gradients = device.upload(&vec![0.5; parameters.len()]).unwrap();
            let none = device.zeros(0).unwrap();
            input.rows(&POINTS).x.write(&golden.f32("x")).unwrap();
            logits.rows(&POINTS).dx.unwrap().write(&[1.0; N]).unwrap();

            let mode = Mode::Evaluate;
            network.forward(&Forward { weights: (&weights).into(), running: &none, mode, rows: POINTS }).unwrap();
            network.backward(&Backward::of(&weights, None, POINTS)).unwrap();
            let g = input.rows(&POINTS).dx.unwrap();
            assert_close("g", &g, &golden.f64(&format!("{theirs}.g")), 1e-5);
            let (norms, statistics) = (nans(device, N), nans(device, 2));
            let v = input.rows(&TANGENTS).x;
            let out = Direction { v: &v, norms: &norms, statistics: &statistics };
            gradient_penalty::direction(out, &g, WEIGHT, wanted, &state(device)).unwrap();
            assert_close("statistics", &statistics, &golden.f64(&format!("{of}{theirs}.statistics")), 1e-5);
            assert!(network.layers.iter().all(|layer| layer.piecewise_linear()));
            network
                .tangent(&Tangent { weights: (&weights).into(), gradients: &gradients, rows: POINTS, into: TANGENTS })
                .unwrap();
            for entry in parameters.entries() {
                let found: Vec<f32> = entry.at.of(&gradients).read().unwrap().iter().map(|x| x - 0.5).collect();
                let expected = if ours(&entry.name) {
                    vec![0.0; entry.at.len()]
                } else {
                    golden.f64(&format!("{of}{theirs}.d.{}", entry.name))
                };
                let error = relative_error(&found, &expected, 1.0);
                assert!(error <= 1e-5, "{kind}, {}: {error:.1e}", entry.name);
                let still = entry.name.ends_with("bias") || entry.name == "embedding" || ours(&entry.name);
                assert_eq!(expected.iter().all(|x| *x == 0.0), still, "{kind}, {}", entry.name);
            }
        });
    }
}

#[test]
fn attention_and_tanh_have_no_tangent() {
    let device = Device::host(1).unwrap();
    let (mut parameters, mut running) = (Layout::default(), Layout::default());
    let mut arena = Arena::new(&device, 1 << 20).unwrap();
    let (parameters, running) = (&mut parameters, &mut running);
    let mut build = Builder::new(parameters, running, &mut arena);
    let x = build.value(2, 4, 4, 8).unwrap();
    let attention = Attention::new(&mut build, "attention", &x, ConvOptions::residual).unwrap();
    assert!(!attention.piecewise_linear());
    let weights = device.zeros(build.parameters.len()).unwrap();
    let pass = Tangent { weights: (&weights).into(), gradients: &weights, rows: 0..1, into: 1..2 };
    let message = attention.tangent(&pass).unwrap_err().to_string();
    assert_eq!(message, "layer attention is not piecewise linear: it has no tangent here");
    let y = build.value(2, 1, 1, 3).unwrap();
    let init = Init::Constant(0.0);
    assert!(!Linear::into(&mut build, "tanh", (&x, &y), true, Activation::Tanh, init).piecewise_linear());
}
