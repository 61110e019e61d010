//! `kernels/adam.cu` against an f64 loop and PyTorch, over thousands of steps.

use crate::common::*;
use zgan::device::{Buffer, Device};
use zgan::ops::adam::{self, Adam, Average, Buffers};
use zgan::ops::state::{self, Network, State, StateBuffer};

struct Optimiser {
    parameters: Buffer<f32>,
    first_moment: Buffer<f32>,
    second_moment: Buffer<f32>,
    average: Buffer<f32>,
    gradient: Buffer<f32>,
    norm: Buffer<f32>,
    workspace: Buffer<f32>,
    state: StateBuffer,
}

impl Optimiser {
    fn new(device: &Device, start: &[f32], rate: f32) -> Optimiser {
        let n = start.len();
        Optimiser {
            parameters: device.upload(start).unwrap(),
            first_moment: device.zeros(n).unwrap(),
            second_moment: device.zeros(n).unwrap(),
            average: device.zeros(n).unwrap(),
            gradient: device.zeros(n).unwrap(),
            norm: device.zeros(1).unwrap(),
            workspace: device.zeros(adam::workspace_len(device, n)).unwrap(),
            state: StateBuffer::new(device, &State::new(1, [rate, rate], 0, 0)).unwrap(),
        }
    }

    fn update(&self, gradient: &[f32], adam: &Adam, average: Option<(f32, u32)>, network: Network) {
        self.gradient.write(gradient).unwrap();
        let buffers = Buffers {
            parameters: &self.parameters,
            first_moment: &self.first_moment,
            second_moment: &self.second_moment,
            gradient: &self.gradient,
        };
        let average = average.map(|(decay, start)| Average { values: &self.average, decay, start });
        adam::update(&buffers, average.as_ref(), &self.norm, &self.state, network, adam, &self.workspace).unwrap();
    }
}

/// In f64, from the f32 settings that the kernel gets.
struct Reference {
    p: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    average: Vec<f64>,
    t: i32,
}

impl Reference {
    fn new(start: &[f32]) -> Reference {
        let zeros = vec![0.0; start.len()];
        Reference { p: to_f64(start), m: zeros.clone(), v: zeros.clone(), average: zeros, t: 0 }
    }

    fn update(&mut self, gradient: &[f32], adam: &Adam, rate: f64, (decay, start): (f64, i32)) {
        self.t += 1;
        let (c1, c2) = (1.0 - adam.beta1.powi(self.t), 1.0 - adam.beta2.powi(self.t));
        for (i, g) in gradient.iter().map(|g| f64::from(*g)).enumerate() {
            self.m[i] = adam.beta1 * self.m[i] + (1.0 - adam.beta1) * g;
            self.v[i] = adam.beta2 * self.v[i] + (1.0 - adam.beta2) * g * g;
            self.p[i] -= rate * (self.m[i] / c1) / ((self.v[i] / c2).sqrt() + f64::from(adam.eps));
            let decay = if self.t <= start { 0.0 } else { decay };
            self.average[i] = decay * self.average[i] + (1.0 - decay) * self.p[i];
        }
    }
}

#[test]
fn matches_the_reference_at_any_size() {
    on_each_device(|device| {
        for n in [1, 31, 33, 1000, 9001] {
            let mut random = Random(n as u64);
            let start = random.normals(n);
            let adam = Adam { beta1: 0.5, beta2: 0.999, eps: 1e-8 };
            let with = Optimiser::new(device, &start, 0.01);
            let without = Optimiser::new(device, &start, 0.01);
            let mut reference = Reference::new(&start);
            for _ in 0..6 {
                let gradient = random.normals(n);
                with.update(&gradient, &adam, Some((0.9, 3)), Network::Discriminator);
                without.update(&gradient, &adam, None, Network::Discriminator);
                reference.update(&gradient, &adam, f64::from(0.01f32), (f64::from(0.9f32), 3));
                let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                assert_close("norm", &with.norm, &[norm], 1e-6);
                assert_close("parameters", &with.parameters, &reference.p, 3e-6);
                assert_close("first moment", &with.first_moment, &reference.m, 1e-6);
                assert_close("second moment", &with.second_moment, &reference.v, 1e-6);
                assert_close("average", &with.average, &reference.average, 3e-6);
                if reference.t <= 3 {
                    assert_eq!(with.average.read().unwrap(), with.parameters.read().unwrap(), "a copy at first");
                }
                assert_eq!(with.state.read().unwrap().updates, [0, reference.t as u32]);
            }
            assert_eq!(with.parameters.read().unwrap(), without.parameters.read().unwrap());
        }
    });
}

#[test]
fn a_scale_of_the_gradient_changes_nothing_and_an_overflow_leaves_all_as_it_is() {
    on_each_device(|device| {
        for n in [1, 33, 9001] {
            let mut random = Random(n as u64);
            let (start, adam) = (random.normals(n), Adam { beta1: 0.5, beta2: 0.999, eps: 1e-8 });
            let [plain, scaled] = [(); 2].map(|()| Optimiser::new(device, &start, 0.01));
            scaled.state.write(&State { loss_scale: 4096.0, ..scaled.state.read().unwrap() }).unwrap();
            let all = |o: &Optimiser| {
                [&o.parameters, &o.first_moment, &o.second_moment, &o.average].map(|b| b.read().unwrap())
            };
            for _ in 0..3 {
                let gradient = random.normals(n);
                plain.update(&gradient, &adam, Some((0.9, 1)), Network::Generator);
                let larger: Vec<f32> = gradient.iter().map(|g| 4096.0 * g).collect();
                scaled.update(&larger, &adam, Some((0.9, 1)), Network::Generator);
                assert_eq!(all(&plain), all(&scaled));
                assert_eq!(plain.norm.read().unwrap(), scaled.norm.read().unwrap());
            }
            let before = (all(&scaled), scaled.state.read().unwrap());
            let mut gradient = random.normals(n);
            gradient[n / 2] = f32::NEG_INFINITY;
            scaled.gradient.write(&gradient).unwrap();
            state::overflow(&scaled.state, &scaled.gradient, Network::Generator).unwrap();
            scaled.update(&gradient, &adam, Some((0.9, 1)), Network::Generator);
            let after = scaled.state.read().unwrap();
            assert_eq!((all(&scaled), after.updates), (before.0, before.1.updates));
            assert_eq!((after.overflows[0] > 0, after.overflows[1]), (true, 0));
            // The other network's update is none of its business.
            scaled.update(&random.normals(n), &adam, None, Network::Discriminator);
            assert_eq!(scaled.state.read().unwrap().updates, [3, 1]);
        }
    });
}

#[test]
fn follows_pytorch_for_five_thousand_steps() {
    let golden = Golden::open("adam");
    let (start, gradients) = (golden.f32("start"), golden.f32("gradients"));
    let n = start.len();
    on_fast_devices(|device| {
        for (name, beta1, beta2) in [("a", 0.5, 0.999), ("b", 0.0, 0.9)] {
            let adam = Adam { beta1, beta2, eps: 1e-8 };
            let (exact, theirs) = (golden.f64(&format!("{name}_f64")), golden.f32(&format!("{name}_f32")));
            let optimiser = Optimiser::new(device, &start, 2e-4);
            let mut row = 0;
            for t in 1..=5000 {
                let at = (t - 1) % 61 * n;
                optimiser.update(&gradients[at..at + n], &adam, None, Network::Generator);
                if ![1, 2, 3, 10, 100, 1000, 5000].contains(&t) {
                    continue;
                }
                let found = optimiser.parameters.read().unwrap();
                for i in 0..n {
                    let exact = exact[row * n + i];
                    let (ours, theirs) =
                        ((f64::from(found[i]) - exact).abs(), (f64::from(theirs[row * n + i]) - exact).abs());
                    // Each step rounds the parameter once; PyTorch's float32 is no better.
                    let ulp = exact.abs().max(0.1) * 6e-8;
                    let allowed = 2.0 * theirs + ulp * (t as f64).sqrt();
                    assert!(ours <= allowed, "{name}, step {t}, parameter {i}: off by {ours:e}, PyTorch by {theirs:e}");
                }
                row += 1;
            }
        }
    });
}

/// From zero moments, the size of the first step is the learning rate, whatever the gradient's size: the correction
/// 1 / (1 - beta^t) must be right where beta^t is almost 1.
#[test]
fn the_bias_correction_is_precise_at_every_step() {
    on_fast_devices(|device| {
        for beta in [0.0, 0.5, 0.9, 0.999, 0.9999] {
            for t in [1u32, 2, 3, 7, 100, 399, 401, 1000, 5000, 100_000] {
                let adam = Adam { beta1: beta, beta2: 0.0, eps: 0.0 };
                let optimiser = Optimiser::new(device, &[0.0], 1.0);
                let mut state = optimiser.state.read().unwrap();
                state.updates = [t - 1, 0];
                optimiser.state.write(&state).unwrap();
                optimiser.first_moment.write(&[1.0]).unwrap();
                optimiser.update(&[1.0], &adam, None, Network::Generator);
                let expected = -1.0 / (1.0 - beta.powi(t as i32));
                let found = f64::from(optimiser.parameters.read().unwrap()[0]);
                assert!((found / expected - 1.0).abs() < 4e-7, "beta {beta}, t {t}: {found}, expected {expected}");
            }
        }
    });
}

#[test]
fn a_halted_state_changes_nothing() {
    on_each_device(|device| {
        let start = Random(3).normals(500);
        let optimiser = Optimiser::new(device, &start, 0.1);
        let mut state = optimiser.state.read().unwrap();
        state.halted = 1;
        optimiser.state.write(&state).unwrap();
        let adam = Adam { beta1: 0.5, beta2: 0.999, eps: 1e-8 };
        optimiser.update(&vec![f32::NAN; 500], &adam, Some((0.9, 3)), Network::Generator);
        assert_eq!(optimiser.parameters.read().unwrap(), start);
        for zero in [&optimiser.first_moment, &optimiser.second_moment, &optimiser.average] {
            assert_eq!(zero.read().unwrap(), vec![0.0; 500]);
        }
        assert_eq!(optimiser.state.read().unwrap(), state);
        assert!(optimiser.norm.read().unwrap()[0].is_nan());
    });
}

#[test]
fn a_norm_or_a_weight_that_is_not_finite_halts() {
    on_each_device(|device| {
        let adam = Adam { beta1: 0.5, beta2: 0.999, eps: 1e-8 };
        let halted = |start: &[f32], gradients: &[f32], rate, average, network| {
            let optimiser = Optimiser::new(device, start, rate);
            optimiser.update(gradients, &adam, average, network);
            let (state, norm) = (optimiser.state.read().unwrap(), optimiser.norm.read().unwrap()[0]);
            assert_eq!(norm.is_finite(), state.halted == 0, "{norm}");
            state.halted_by()
        };
        for n in [1, 33, 1000, 20_001] {
            for average in [None, Some((0.9, 0))] {
                let (start, good) = (Random(3).normals(n), Random(4).normals(n));
                for network in [Network::Generator, Network::Discriminator] {
                    assert_eq!(halted(&start, &good, 1e9, average, network), None, "{n} finite numbers");
                    // The square of the last overflows, as the second moment does.
                    for bad in [f32::NAN, f32::INFINITY, 1e20] {
                        let mut gradients = good.clone();
                        gradients[n - 1] = bad;
                        assert_eq!(halted(&start, &gradients, 0.1, average, network), Some(network), "{bad} of {n}");
                    }
                    // The gradient is finite, the weight is not any more.
                    let mut start = start.clone();
                    start[n / 2] = f32::MAX;
                    let mut gradients = good.clone();
                    gradients[n / 2] = -1.0;
                    assert_eq!(halted(&start, &gradients, 1e38, average, network), Some(network), "a weight of {n}");
                }
            }
        }
        // In 16 bits a gradient that overflows is noted before, and left out: the loss scale is halved, nothing halts.
        let optimiser = Optimiser::new(device, &[1.0], 0.1);
        let noted = State { overflows: [1, 0], ..optimiser.state.read().unwrap() };
        optimiser.state.write(&noted).unwrap();
        optimiser.update(&[f32::INFINITY], &adam, None, Network::Generator);
        assert_eq!(optimiser.state.read().unwrap(), noted);
    });
}

#[test]
fn refuses_what_does_not_fit() {
    let device = Device::host(1).unwrap();
    let optimiser = Optimiser::new(&device, &[1.0, 2.0], 0.1);
    let short = device.zeros(1).unwrap();
    let buffers = Buffers {
        parameters: &optimiser.parameters,
        first_moment: &optimiser.first_moment,
        second_moment: &short,
        gradient: &optimiser.gradient,
    };
    let adam = |beta2| Adam { beta1: 0.5, beta2, eps: 1e-8 };
    let run = |buffers: &Buffers, adam: &Adam| {
        let (norm, workspace) = (&optimiser.norm, &optimiser.workspace);
        adam::update(buffers, None, norm, &optimiser.state, Network::Generator, adam, workspace)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(run(&buffers, &adam(0.9)), "adam: second_moment has 1 elements, expected 2");
    let buffers = Buffers { second_moment: &optimiser.second_moment, ..buffers };
    assert_eq!(run(&buffers, &adam(1.0)), "adam: beta2 is 1, expected 0 or more and less than 1");
}
