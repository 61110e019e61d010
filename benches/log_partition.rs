//! Both losses and all gradients of the log-partition: the fused kernel beside the composition of elementary ones.
//! `cargo bench --bench log_partition` prints the comparison, then criterion's own statistics.

mod bandwidth;

use bandwidth::{best, compare, numbers};
use criterion::{BenchmarkId, Criterion, Throughput};
use zgan::device::{Buffer, Device};
use zgan::ops::log_partition::{self, Evaluation};

struct Problem {
    real: Buffer<f32>,
    fake: Buffer<f32>,
    out: Evaluation,
    fused: Buffer<f32>,
    plain: Buffer<f32>,
}

impl Problem {
    fn new(device: &Device, each: usize) -> Problem {
        let zeros = |n: usize| -> Buffer<f32> { device.zeros(n).unwrap() };
        Problem {
            real: numbers(device, each, 1),
            fake: numbers(device, each, 2),
            out: Evaluation { statistics: zeros(4), seed_d: zeros(2 * each), seed_g: zeros(each) },
            fused: zeros(log_partition::workspace_len(device, 2 * each)),
            plain: zeros(log_partition::plain_workspace_len(device, 2 * each)),
        }
    }

    fn run_fused(&self) {
        log_partition::fused(&self.out, &self.real, &self.fake, 1.0, &self.fused).unwrap();
    }

    fn run_plain(&self) {
        log_partition::plain(&self.out, &self.real, &self.fake, 1.0, &self.plain).unwrap();
    }

    /// Both against f64.
    fn check(&self) {
        let (real, fake) = (self.real.read().unwrap(), self.fake.read().unwrap());
        let all = || real.iter().chain(&fake).map(|x| f64::from(*x));
        let lse = all().map(|x| (-x).exp()).sum::<f64>().ln();
        let (n, k) = (real.len() as f64, (real.len() + fake.len()) as f64);
        let loss_d = real.iter().map(|x| f64::from(*x)).sum::<f64>() / n + lse;
        let loss_g = all().sum::<f64>() / k + lse;
        for run in [Problem::run_fused, Problem::run_plain] {
            self.out.seed_d.zero().unwrap();
            run(self);
            let statistics = self.out.statistics.read().unwrap();
            assert!(
                (f64::from(statistics[0]) - loss_d).abs() < 1e-5 && (f64::from(statistics[1]) - loss_g).abs() < 1e-5
            );
            for (i, (x, seed)) in all().zip(self.out.seed_d.read().unwrap()).enumerate() {
                let expected = if i < real.len() { 1.0 / n } else { 0.0 } - (-x - lse).exp();
                assert!((f64::from(seed) - expected).abs() < 4e-6 / n, "seed {i}: {seed}, not {expected}");
            }
        }
    }
}

fn main() {
    let device = bandwidth::device();
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("log_partition");
    for each in [64, 65_536, 1 << 20] {
        let problem = Problem::new(&device, each);
        problem.check();
        // Read each logit, write two gradients of the fake ones and one of the real.
        let bytes = 4 * 5 * each;
        compare(&device, &format!("fused, {each} + {each}"), bytes, bytes, || problem.run_fused());
        let (fused, plain) = (best(&device, || problem.run_fused()), best(&device, || problem.run_plain()));
        println!(
            "{each} + {each}: fused {:.2} us, plain {:.2} us, a factor of {:.1}",
            fused * 1e6,
            plain * 1e6,
            plain / fused
        );
        group.throughput(Throughput::Elements(2 * each as u64));
        let id = |form| BenchmarkId::new(form, format!("{each}+{each}"));
        group.bench_function(id("fused"), |b| b.iter(|| problem.run_fused()));
        group.bench_function(id("plain"), |b| b.iter(|| problem.run_plain()));
    }
    group.finish();
    criterion.final_summary();
}
