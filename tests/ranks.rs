//! Ranks that train together are one process with their whole batch, to rounding.

mod common;
#[path = "common/ranks.rs"]
mod ranks;

use std::sync::Arc;

use clap::ValueEnum;
use common::Random;
use ranks::on_ranks;
use zgan::checkpoint::NamedTensor;
use zgan::data::vectors::Vectors;
use zgan::data::{DataInfo, DataSource, ImageShape, Split, mixture};
use zgan::device::{Buffer, Communicator, Device, Precision, Reduction};
use zgan::gan::{Setup, Trainer};
use zgan::nn::Fusion;
use zgan::ops::Activation;
use zgan::ops::log_partition::{self, Evaluation};
use zgan::ops::norm::{self, Affine, Batch, Gradients, Running, Shape, Tables, Whole};
use zgan::settings::{
    Change, Conditioning, LatentDistribution, Loss, PRESETS, PowerIterations, Preset, Settings, SoftmaxTarget, Update,
};

const BATCH: usize = 10;
const STEPS: usize = 10;

fn host() -> Device {
    Device::host(1).unwrap()
}

/// A small training of this preset on images of 16 x 16, where it has images.
fn setup(preset: &str, loss: Loss, conditioning: Conditioning, update: Update) -> Setup {
    let preset: Preset = preset.parse().unwrap();
    let digits = DataSource::Mnist10k.open(Split::Train, &Settings::default().data_options()).unwrap();
    let shape = ImageShape { height: 16, width: 16, channels: 3 };
    Setup::new(&preset.settings(), &DataInfo { shape, ..digits.info() }).with(|s| {
        if s.draws_points() {
            s.shape = mixture::SHAPE;
        }
        s.networks.latent = 12;
        s.networks.width = if s.draws_points() { 32 } else { 4 };
        s.networks.conditioning = conditioning;
        (s.training.loss, s.training.update) = (loss, update);
        (s.training.batch, s.training.batch_g, s.training.n_dis) = (BATCH, None, 1);
        // Where a constant in all logits changes D's loss by nothing (hinge: while they are within it) and G's all the same,
        // Adam's first steps have the sign of a gradient that is rounding alone. A relativistic hinge has a kink for each sample.
        let drifts = matches!(loss, Loss::Hinge | Loss::RelativisticHinge | Loss::Wasserstein | Loss::WassersteinGp);
        let rate = if drifts { 1e-6 } else { 1e-4 };
        (s.training.lr_g, s.training.lr_d, s.training.steps) = (rate, rate, STEPS as u64);
    })
}

/// The images of a step, (n_dis, N, H, W, C), and their labels.
fn images(setup: &Setup, step: usize) -> (Vec<u8>, Vec<u32>) {
    if setup.draws_points() {
        return (Vec::new(), Vec::new());
    }
    let (all, len) = (setup.training.batch * setup.training.n_dis, setup.shape.len());
    let mut random = Random(step as u64 + 1);
    let images = (0..all * len).map(|i| (random.below(64) + 2 * ((i + step) % 90)) as u8).collect();
    (images, (0..all).map(|i| ((i * 7 + step) % setup.labels()) as u32).collect())
}

/// What a rank knows after its steps.
#[derive(Clone)]
struct Trained {
    /// Of each step, everything that is reported.
    metrics: Vec<Vec<(&'static str, f32)>>,
    before: Vec<NamedTensor>,
    after: Vec<NamedTensor>,
}

fn train(device: &Device, setup: &Setup) -> Trained {
    let mut trainer = Trainer::new(device, setup).unwrap();
    let (share, all, len) = (trainer.share(), setup.training.batch, setup.shape.len());
    let before = trainer.tensors().unwrap();
    let step = |step| {
        let (images, labels) = images(setup, step);
        let own = |i: usize| i * all + share.start..i * all + share.end;
        let batches = if labels.is_empty() { 0 } else { setup.training.n_dis };
        let images: Vec<u8> =
            (0..batches).flat_map(|i| &images[own(i).start * len..own(i).end * len]).copied().collect();
        let labels: Vec<u32> = (0..batches).flat_map(|i| &labels[own(i)]).copied().collect();
        trainer.step(&images, &labels).unwrap();
        let metrics = trainer.metrics().unwrap();
        metrics.named().into_iter().chain(metrics.more).chain(metrics.health).collect()
    };
    let metrics = (0..setup.training.steps as usize).map(step).collect();
    Trained { metrics, before, after: trainer.tensors().unwrap() }
}

/// The bits of everything.
fn bits(trained: &Trained) -> Vec<u32> {
    let numbers = trained.metrics.iter().flatten().map(|(_, x)| x.to_bits());
    numbers.chain(trained.after.iter().flat_map(|t| &t.values).map(|x| x.to_bits())).collect()
}

/// What a training of shares may be off.
#[derive(Clone, Copy)]
struct Allowed {
    /// Of the losses, relative, or of 1 where they are smaller; other numbers may be off a hundred times as much, as a ReLU that
    /// takes the other side moves gradients.
    losses: f32,
    /// Of a tensor, relative to its way.
    tensors: f64,
}

const ROUNDING: Allowed = Allowed { losses: 1e-5, tensors: 0.05 };

/// Whether the loss looks at differences of logits alone, so that a constant in all of them is anything.
fn is_of_differences(loss: Loss) -> bool {
    use Loss::*;
    matches!(loss, Softmax | Wasserstein | WassersteinGp | RelativisticAverage | RelativisticHinge)
}

/// Whether this tensor's gradient is zero by construction, so that it is rounding alone, which Adam makes steps of: a bias before
/// a batch norm, or a constant in all logits where only their differences count, as the bias of a unit before the pooling is
/// where it is active for all samples.
fn without_gradient(setup: &Setup, name: &str) -> bool {
    let before_norm = ["conv1.bias", "conv2.bias", "shortcut.bias", "linear2.bias", "linear3.bias", "linear4.bias"];
    let of_g =
        !setup.draws_points() && name.contains("generator.") && before_norm.iter().any(|end| name.ends_with(end));
    let constant =
        ["head.bias", "block5.conv2.bias", "block5.shortcut.bias"].map(|name| format!("discriminator.{name}"));
    of_g || is_of_differences(setup.training.loss) && constant.iter().any(|end| name.ends_with(end))
}

/// Whether such a constant is in this number.
fn has_constant(setup: &Setup, trained: &Trained, column: &str) -> bool {
    let biased = trained.before.iter().any(|t| t.name == "discriminator.head.bias");
    let columns = ["real_logit", "fake_logit", "r_x_real", "r_x_fake"];
    biased && is_of_differences(setup.training.loss) && columns.contains(&column)
}

/// Of a parameter, its average or its moments: which numbers have a gradient that is more than rounding beside the largest of the
/// network. (Where a unit is active for all samples, its bias is a constant in all logits.)
fn has_gradient(trained: &Trained, name: &str) -> Option<Vec<bool>> {
    let name = ["adam.m.", "adam.v.", "average."].iter().fold(name, |name, start| name.trim_start_matches(start));
    let network = name.split('.').next()?;
    let of_network = |t: &&NamedTensor| t.name.starts_with(&format!("adam.v.{network}"));
    let most = trained.after.iter().filter(of_network).flat_map(|t| &t.values).fold(0.0_f32, |most, x| most.max(*x));
    let moment = trained.after.iter().find(|t| t.name == format!("adam.v.{name}"))?;
    Some(moment.values.iter().map(|x| x.sqrt() > 1e-4 * most.sqrt()).collect())
}

fn compare(name: &str, setup: &Setup, found: &Trained, whole: &Trained, allowed: Allowed) {
    for (step, (own, of_one)) in found.metrics.iter().zip(&whole.metrics).enumerate() {
        assert_eq!(own.len(), of_one.len(), "{name}");
        for ((column, a), (_, b)) in own.iter().zip(of_one) {
            // Where one process takes parts of the batch, it does not know the means of both parts of the logits.
            if has_constant(setup, whole, column) || b.is_nan() && column.starts_with("r_") {
                continue;
            }
            let is_loss = ["loss_d", "loss_g", "kl_d", "kl_g"].contains(column);
            let most = if is_loss { allowed.losses } else { 100.0 * allowed.losses } * b.abs().max(1.0);
            let close = (a - b).abs() <= most || a.is_nan() && b.is_nan();
            assert!(close, "{name}: {column} of step {}: {a}, of one process {b}", step + 1);
        }
    }
    let mut worst = (0.0, "");
    for ((found, whole_tensor), before) in found.after.iter().zip(&whole.after).zip(&whole.before) {
        let counts = has_gradient(whole, &found.name);
        let length = |values: &mut dyn Iterator<Item = f32>| {
            let counted = values.enumerate().filter(|(i, _)| counts.as_ref().is_none_or(|counts| counts[*i]));
            counted.map(|(_, x)| f64::from(x).powi(2)).sum::<f64>().sqrt()
        };
        let distance =
            |a: &NamedTensor, b: &NamedTensor| length(&mut a.values.iter().zip(&b.values).map(|(a, b)| a - b));
        let (off, way) = (distance(found, whole_tensor), distance(whole_tensor, before));
        let rounding = 1e-6 * length(&mut found.values.iter().copied());
        if off > rounding && off / way > worst.0 && !without_gradient(setup, &found.name) {
            worst = (off / way, &found.name);
        }
    }
    println!("{name}: {:.1e} of its way, {}", worst.0, worst.1);
    assert!(worst.0 <= allowed.tensors, "{name}: {} is {:.1e} of its way off", worst.1, worst.0);
}

/// That so many ranks are one process.
fn check(name: &str, setup: &Setup, ranks: usize, allowed: Allowed) -> [Trained; 2] {
    let name = format!("{name}, {ranks} ranks");
    let whole = train(&host(), setup);
    let mut all = on_ranks(ranks, host, |device, _| train(device, setup));
    for (rank, other) in all.iter().enumerate() {
        assert!(bits(other) == bits(&all[0]), "{name}: rank {rank} is not as the first");
    }
    compare(&name, setup, &all[0], &whole, allowed);
    [all.swap_remove(0), whole]
}

/// Every two of preset, loss, conditioning and update rule, but for a penalty with self-attention, which is refused.
#[test]
fn ranks_are_one_process() {
    use Conditioning::*;
    use Loss::*;
    let conditionings = [Projection, None, InputConcat, HiddenConcat, AcGan];
    let residual = ["mnist", "sngan-projection-32", "crcrpar-64", "sagan-64", "photos-64"];
    let rule = |i: usize| if i.is_multiple_of(2) { Update::Simultaneous } else { Update::Alternating };
    for (j, &loss) in Loss::value_variants().iter().enumerate() {
        for (i, preset) in residual.into_iter().enumerate() {
            if preset == "sagan-64" && loss == WassersteinGp {
                continue;
            }
            let conditioning = conditionings[(i + j) % 5];
            let setup = setup(preset, loss, conditioning, rule(i + j)).with(|s| {
                if s.preset.name == "sagan-64" {
                    s.training.r1 = 0.0
                }
            });
            check(&format!("{preset}, {loss:?}, {conditioning:?}"), &setup, 2 + (i + j) % 3, ROUNDING);
        }
        for (i, preset) in ["ring", "softmax-gan"].into_iter().enumerate() {
            check(&format!("{preset}, {loss:?}"), &setup(preset, loss, None, rule(i + j)), 2 + (i + j) % 3, ROUNDING);
        }
    }
}

/// What is not one of those four.
#[test]
fn ranks_are_one_process_with_everything_else() {
    use Conditioning::*;
    use Loss::*;
    use Update::*;
    let small = |loss, conditioning, update| setup("mnist", loss, conditioning, update);
    let fakes = |s: &mut Setup| (s.training.n_dis, s.training.batch_g) = (2, Some(BATCH + 1));
    let vectors = Vectors { classes: 10, values: Random(3).normals(230) };
    let cases = [
        ("fakes of G", small(Softmax, Projection, Alternating).with(fakes)),
        ("fakes of G, D once", small(Hinge, Projection, Alternating).with(|s| s.training.batch_g = Some(BATCH - 1))),
        ("fakes of G, AC-GAN", small(RelativisticHinge, AcGan, Alternating).with(fakes)),
        (
            "zero-sum, lazy R1 and R2",
            small(Softmax, Projection, Simultaneous).with(|s| {
                (s.training.r1, s.training.r2, s.training.penalty_every) = (2.0, 1.0, 3);
                (s.training.real_weight, s.training.softmax_target) = (0.5, SoftmaxTarget::ZeroSum);
            }),
        ),
        ("penalty", small(WassersteinGp, AcGan, Alternating).with(|s| s.training.n_dis = 3)),
        (
            "what images and D see",
            small(Softmax, Projection, Alternating).with(|s| {
                (s.batches.noise, s.batches.flip) = (1.0 / 128.0, true);
                s.batches.diffaug = vec![Change::Color, Change::Translation, Change::Cutout];
                s.networks.latent_distribution = LatentDistribution::Uniform;
            }),
        ),
        (
            "spectral norm",
            small(Hinge, InputConcat, Alternating).with(|s| {
                (s.networks.spectral_norm, s.networks.spectral_norm_g) = (true, true);
                s.networks.sn_policy = PowerIterations::PerForward;
            }),
        ),
        ("frozen blocks", small(Softmax, None, Simultaneous).with(|s| s.training.freeze_d = 1)),
        (
            "average",
            small(Softmax, Projection, Simultaneous).with(|s| (s.training.average, s.training.average_from) = (0.9, 2)),
        ),
        ("vectors", small(Softmax, Projection, Simultaneous).with(|s| s.vectors = Some(Arc::new(vectors.clone())))),
        ("unfused", small(Softmax, Projection, Simultaneous).with(|s| s.training.unfused = s.fusions())),
        ("parts", small(Softmax, Projection, Simultaneous).with(|s| s.training.micro_batch = Some(3))),
        ("parts, hinge", small(Hinge, AcGan, Alternating).with(|s| s.training.micro_batch = Some(3)).with(fakes)),
        ("parts, penalty", small(WassersteinGp, Projection, Alternating).with(|s| s.training.micro_batch = Some(3))),
        ("parts of points", setup("ring", Softmax, None, Simultaneous).with(|s| s.training.micro_batch = Some(2))),
    ];
    assert!(cases.iter().any(|(_, setup)| setup.training.unfused.contains(&Fusion::Norm)));
    for (name, setup) in cases {
        for ranks in [2, 3, 4] {
            check(name, &setup, ranks, ROUNDING);
        }
    }
}

/// What is stored in 16 bits is rounded the other way where a statistic differs in its last bits. An overflow of any rank counts
/// on all.
#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn ranks_in_sixteen_bits_are_one_process() {
    let loose = Allowed { losses: 0.01, tensors: 0.5 };
    for precision in [Precision::Bf16, Precision::F16] {
        let setup = setup("mnist", Loss::Softmax, Conditioning::Projection, Update::Alternating);
        let setup = setup.with(|s| s.training.precision = precision.into());
        check(&precision.to_string(), &setup, 3, loose);
    }
}

#[test]
#[cfg_attr(not(feature = "check"), ignore = "needs --features check")]
fn ranks_on_real_thread_blocks_are_one_process() {
    let setup = setup("mnist", Loss::Softmax, Conditioning::Projection, Update::Simultaneous);
    let setup = setup.with(|s| (s.training.steps, s.training.batch, s.networks.width) = (1, 3, 2));
    let simt = || Device::simt(7);
    let all = on_ranks(2, simt, |device, _| train(device, &setup));
    compare("simt", &setup, &all[1], &train(&simt(), &setup), ROUNDING);
}

#[test]
fn the_bits_of_ranks_are_always_the_same() {
    let setup = setup("mnist", Loss::Softmax, Conditioning::Projection, Update::Simultaneous);
    let alone = bits(&train(&host(), &setup));
    for ranks in 1..=4 {
        let run = || on_ranks(ranks, host, |device, _| bits(&train(device, &setup))).swap_remove(0);
        let first = run();
        assert!(first == run(), "{ranks} ranks");
        assert_eq!(first == alone, ranks == 1, "{ranks} ranks");
    }
}

/// The fakes of each rank have statistics of their own, as parts of one process have.
#[test]
fn with_local_norm_ranks_are_parts() {
    let parts = |part| {
        setup("mnist", Loss::Softmax, Conditioning::Projection, Update::Simultaneous).with(|s| {
            (s.training.local_norm, s.training.micro_batch) = (true, part);
        })
    };
    let whole = train(&host(), &parts(Some(BATCH / 2)));
    let all = on_ranks(2, host, |device, connection| {
        let trained = train(device, &parts(None));
        let statistics = parts(None).with(|s| s.training.local_norm = false);
        let exchanged = Trainer::exchanged(&statistics, 2).unwrap();
        assert!(connection.calls().len() < STEPS * exchanged.len(), "the norms exchange nothing");
        trained
    });
    assert!(bits(&all[0]) == bits(&all[1]));
    // The parts of one process move its running statistics one after the other.
    let without_running = |trained: &Trained| {
        let kept = |all: &[NamedTensor]| all.iter().filter(|t| !t.name.contains("running")).cloned().collect();
        Trained { before: kept(&trained.before), after: kept(&trained.after), ..trained.clone() }
    };
    compare("local norm", &parts(None), &without_running(&all[0]), &without_running(&whole), ROUNDING);
    let error = Trainer::new(&host(), &parts(None)).err().unwrap().to_string();
    assert!(error.contains("local-norm: without micro-batch"), "{error}");
}

#[test]
fn what_ranks_cannot_do_is_refused() {
    let small = setup("mnist", Loss::Softmax, Conditioning::Projection, Update::Alternating);
    let error = |setup: &Setup| {
        on_ranks(3, host, |device, _| Trainer::new(device, setup).err().unwrap().to_string()).swap_remove(0)
    };
    let few = error(&small.with(|s| s.training.batch = 2));
    assert!(few.contains("batch 2 with 3 ranks") && few.contains("--batch 3"), "{few}");
    let few = error(&small.with(|s| s.training.batch_g = Some(1)));
    assert!(few.contains("batch-g 1 with 3 ranks"), "{few}");
    let parts = error(&small.with(|s| (s.training.micro_batch, s.training.local_norm) = (Some(2), true)));
    assert!(parts.contains("batch 3 of a rank with local-norm and micro-batch 2"), "{parts}");
}

/// What is not finite on one rank ends all.
#[test]
fn a_rank_that_is_not_finite_halts_all() {
    for conditioning in [Conditioning::Projection, Conditioning::AcGan] {
        let setup = setup("mnist", Loss::Hinge, conditioning, Update::Simultaneous);
        let ended = on_ranks(3, host, |device, connection| {
            let mut trainer = Trainer::new(device, &setup).unwrap();
            let mut latents = Random(1).normals(BATCH * 12);
            // Of a fake of the second rank.
            latents[5 * 12] = f32::NAN;
            let share = trainer.share();
            let (images, labels) = images(&setup, 0);
            let images = &images[share.start * 768..share.end * 768];
            trainer.step_given(images, &labels[share], &latents, &[1; BATCH]).unwrap();
            let error = trainer.metrics().unwrap_err().to_string();
            let weights = trainer.tensors().unwrap();
            assert!(
                weights.iter().filter(|t| !t.name.contains("running")).all(|t| t.values.iter().all(|x| x.is_finite()))
            );
            (connection.rank(), error)
        });
        ended.iter().for_each(|(rank, error)| assert!(error.contains("finite"), "rank {rank}: {error}"));
    }
}

/// The plan of what is exchanged is what is exchanged.
#[test]
fn the_bytes_of_a_step_are_known_before() {
    for preset in PRESETS.iter().filter(|preset| preset.settings().images.size.shorter() <= 64) {
        let setup = setup(
            preset.name,
            preset.settings().training.loss,
            preset.settings().networks.conditioning,
            preset.settings().training.update,
        );
        let setup = setup.with(|s| {
            (s.training.batch_g, s.training.n_dis) =
                (preset.settings().training.batch_g.map(|_| 2 * BATCH), preset.settings().training.n_dis)
        });
        let exchanged = Trainer::exchanged(&setup, 2).unwrap();
        let calls = on_ranks(2, host, |device, connection| {
            let mut trainer = Trainer::new(device, &setup).unwrap();
            let count = if setup.draws_points() { 0 } else { trainer.images_per_step() };
            trainer.step(&vec![7; count * setup.shape.len()], &vec![0; count]).unwrap();
            connection.calls()
        });
        assert_eq!(exchanged, calls[1].iter().map(|(_, values)| 4 * values).collect::<Vec<_>>(), "{}", preset.name);
        // The gradients of both networks, once an update each, and the logits of each judgement.
        let plan = Trainer::plan(&setup, 1).unwrap();
        let gradients = 4 * (plan.parameters_g + setup.training.n_dis * plan.parameters_d);
        assert!(exchanged.contains(&(8 * BATCH)) && exchanged.iter().sum::<usize>() > gradients, "{}", preset.name);
        println!("{}: {} times, {} bytes", preset.name, exchanged.len(), exchanged.iter().sum::<usize>());
    }
}

/// What norms and losses gather: everybody's numbers at their places.
fn gathered(device: &Device, ranks: &dyn Communicator, all: &[f32]) -> Buffer<f32> {
    let (share, buffer) = (ranks.share(all.len()), device.zeros(all.len()).unwrap());
    buffer.view(share.clone()).write(&all[share]).unwrap();
    ranks.all_reduce(&buffer, Reduction::Sum).unwrap();
    buffer
}

/// The losses of so many logits over four ranks have the bits that they have in one process.
fn same_losses(logits: &[f32], check: fn(&[f32])) {
    let n = logits.len() / 2;
    let evaluate = |device: &Device, logits: Buffer<f32>| {
        let workspace = device.zeros(log_partition::workspace_len(device, 2 * n)).unwrap();
        let out = Evaluation {
            statistics: device.zeros(4).unwrap(),
            seed_d: device.zeros(2 * n).unwrap(),
            seed_g: device.zeros(n).unwrap(),
        };
        log_partition::fused(&out, &logits.view(0..n), &logits.view(n..2 * n), -1.0, &workspace).unwrap();
        let read = |values: &Buffer<f32>| values.read().unwrap();
        let results = [read(&out.statistics), read(&out.seed_d), read(&out.seed_g)].concat();
        check(&results);
        results
    };
    let device = host();
    let whole = evaluate(&device, device.upload(logits).unwrap());
    let all = on_ranks(4, host, |device, ranks| evaluate(device, gathered(device, ranks, logits)) == whole);
    assert_eq!(all, [true; 4]);
}

#[test]
fn one_softmax_is_over_the_logits_of_all_ranks() {
    let normals = |n: usize| Random(9).normals(n);
    // 2^24 with all of the processor's memory and time.
    let n = if std::env::var("ZGAN_SWEEP").is_ok_and(|sweep| sweep == "all") { 1 << 24 } else { 1 << 20 };
    let finite = |values: &[f32]| assert!(values.iter().all(|x| x.is_finite()));
    same_losses(&normals(n), finite);
    // One rank's logits are as far off as f32 goes.
    let mut extreme = normals(1 << 10);
    extreme[..256].iter_mut().for_each(|x| *x *= 1e37);
    same_losses(&extreme, |values| assert!(values.iter().skip(4).all(|x| x.is_finite())));
    // To the last rank, all of whose fakes have the probability 0.
    let mut nothing = normals(1 << 10);
    nothing[768..].iter_mut().for_each(|x| *x -= 1000.0);
    same_losses(&nothing, |values| assert!(values[4 + 768..4 + 1024].iter().all(|x| *x == 0.0)));
}

/// Shares of a batch are normalised as the whole, whose mean is far from 0; forward and backward.
#[test]
fn norms_take_the_statistics_of_all_ranks() {
    const C: usize = 5;
    for (n, h, labelled) in [(10, 3, true), (10, 3, false), (7, 1, false), (9, 20, true)] {
        let mut random = Random(n as u64);
        let len = h * h * C;
        let x: Vec<f32> = random.normals(n * len).iter().map(|x| 300.0 + x).collect();
        let (dy, gamma, beta) = (random.normals(n * len), random.normals(3 * C), random.normals(3 * C));
        let labels: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
        let run = |device: &Device, ranks: Option<&dyn Communicator>| -> [Vec<f32>; 7] {
            let share = ranks.map_or(0..n, |ranks| ranks.share(n));
            let shape = Shape { n: share.len(), h, w: h, c: C, upsample: false };
            let own = share.start * len..share.end * len;
            let up = |values: &[f32]| device.upload(values).unwrap();
            let zeros = |len: usize| -> Buffer<f32> { device.zeros(len).unwrap() };
            let (x, dy) = (up(&x[own.clone()]), up(&dy[own.clone()]));
            let classes = if labelled { 3 } else { 1 };
            let (gamma, beta) = (up(&gamma[..classes * C]), up(&beta[..classes * C]));
            let labels = device.upload(&labels[share.clone()]).unwrap();
            let affine = Affine { gamma: &gamma, beta: &beta, labels: labelled.then_some(&labels) };
            let rows = if labelled { share.len() } else { 1 };
            let [mean, rstd, running_mean, running_var] = std::array::from_fn(|_| zeros(C));
            let [scale, shift] = std::array::from_fn(|_| zeros(rows * C));
            let moments = zeros(3 * ranks.map_or(1, |ranks| ranks.ranks()) * C);
            let tables = Tables { scale: &scale, shift: &shift };
            let whole = Some(Whole { samples: n, moments: &moments });
            let batch = Batch { x: &x, mean: &mean, rstd: &rstd, tables, whole };
            let workspace = zeros(norm::workspace_len(device, shape, labelled));
            let running = Running { mean: &running_mean, var: &running_var, momentum: 0.1 };
            norm::statistics(batch, Some(running), affine, 1e-5, shape, &workspace).unwrap();
            let [dx, y] = std::array::from_fn(|_| zeros(own.len()));
            let [dgamma, dbeta] = std::array::from_fn(|_| zeros(classes * C));
            norm::apply(&y, &x, tables, Activation::RELU, shape).unwrap();
            let gradients = Gradients { dx: &dx, accumulate: false, dgamma: &dgamma, dbeta: &dbeta };
            norm::backward(gradients, &dy, batch, affine, Activation::RELU, shape, &workspace).unwrap();
            if let Some(ranks) = ranks {
                [&dgamma, &dbeta].into_iter().for_each(|sum| ranks.all_reduce(sum, Reduction::Sum).unwrap());
            }
            [mean, running_mean, running_var, dgamma, dbeta, y, dx].map(|values| values.read().unwrap())
        };
        let whole = run(&host(), None);
        let all = on_ranks(3, host, |device, ranks| run(device, Some(ranks)));
        for (i, whole) in whole.iter().enumerate() {
            // The last two are each rank's own rows.
            let found: Vec<f32> =
                if i < 5 { all[1][i].clone() } else { all.iter().flat_map(|r| r[i].clone()).collect() };
            assert_eq!(found.len(), whole.len());
            let most = whole.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            for (a, b) in found.iter().zip(whole) {
                assert!(
                    (a - b).abs() <= 1e-4 * most,
                    "{n} images of {h}, labels {labelled}, number {i}: {a}, whole {b}"
                );
            }
        }
    }
}
