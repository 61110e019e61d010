//! A batch in parts is the whole batch, to rounding: `--micro-batch`.

use crate::common::*;
use zgan::data::{DataSource, Dataset, Split, mixture};
use zgan::device::{Convolution, Device};
use zgan::gan::{Setup, Trainer};
use zgan::settings::{Change, Conditioning, Loss, PowerIterations, Preset, Settings, SoftmaxTarget, Update};

const BATCH: usize = 8;

fn dataset() -> Dataset {
    DataSource::Mnist10k.open(Split::Train, &Settings::default().data_options()).unwrap()
}

fn setup(preset: &str, conditioning: Conditioning, loss: Loss, update: Update) -> Setup {
    let preset: Preset = preset.parse().unwrap();
    let info = dataset().info();
    Setup::new(&preset.settings(), &info).with(|s| {
        if s.draws_points() {
            s.shape = mixture::SHAPE;
        }
        s.networks.conditioning = conditioning;
        s.networks.latent = 12;
        if preset.architecture.is_convolutional() {
            s.networks.width = 4;
        }
        (s.training.loss, s.training.update) = (loss, update);
        (s.training.batch, s.training.batch_g, s.training.n_dis) = (BATCH, None, 1);
        // Adam's first steps have the sign of a gradient, also of one that is rounding alone. Small ones stay near.
        (s.training.lr_g, s.training.lr_d, s.training.steps) = (1e-6, 1e-6, 10);
    })
}

fn images(setup: &Setup, step: usize) -> (Vec<u8>, Vec<u32>) {
    if setup.draws_points() {
        return (Vec::new(), Vec::new());
    }
    let (data, all) = (dataset(), setup.training.batch * setup.training.n_dis);
    let mut images = vec![0; all * 784];
    for (i, image) in images.chunks_mut(784).enumerate() {
        data.read(step * all + i, image).unwrap();
    }
    (images, (0..all).map(|i| data.label(step * all + i)).collect())
}

/// What three steps compute: everything that is reported, and the means of the gradients, which Adam keeps.
fn trained(device: &Device, setup: &Setup) -> Vec<(String, Vec<f32>)> {
    let mut trainer = Trainer::new(device, setup).unwrap();
    let mut all = Vec::new();
    for step in 0..3 {
        let (images, labels) = images(setup, step);
        trainer.step(&images, &labels).unwrap();
        let metrics = trainer.metrics().unwrap();
        let more = metrics.more.iter().chain(&metrics.health).map(|m| m.1);
        all.push((
            format!("metrics of step {}", step + 1),
            metrics.named().map(|m| m.1).into_iter().chain(more).collect(),
        ));
        all.push((format!("logits of step {}", step + 1), trainer.logits().unwrap()));
    }
    all.push(("fakes".into(), trainer.fakes().unwrap()));
    let kept = trainer.tensors().unwrap().into_iter();
    all.extend(kept.filter(|t| !t.name.starts_with("adam.v")).map(|t| (t.name, t.values)));
    all
}

fn compare(name: &str, parts: &[(String, Vec<f32>)], whole: &[(String, Vec<f32>)]) {
    assert_eq!(parts.len(), whole.len(), "{name}");
    // A gradient that is zero by construction (of a bias before a batch norm, of a constant in all logits) is rounding
    // alone, which is judged beside the largest gradient of its network.
    let scale = |prefix: &str| {
        let all = whole.iter().filter(|(name, _)| name.starts_with(prefix)).flat_map(|(_, values)| values);
        all.fold(0.0_f32, |most, x| most.max(x.abs()))
    };
    let scales = ["adam.m.generator", "adam.m.discriminator"].map(|prefix| (prefix, scale(prefix)));
    for ((what, a), (_, b)) in parts.iter().zip(whole) {
        let of_network =
            scales.iter().find(|(prefix, _)| what.starts_with(prefix)).map_or(0.0, |(_, most)| 0.01 * most);
        // Weights whose gradient is rounding alone move by a learning rate, up or down.
        let is_weight = ["generator.", "discriminator.", "average."].iter().any(|prefix| what.starts_with(prefix));
        let of_network = if is_weight { 0.2 } else { of_network };
        let most = b.iter().filter(|x| x.is_finite()).fold(of_network.max(1e-6), |most, x| most.max(x.abs()));
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!(
                (a - b).abs() <= 5e-5 * most || (a.is_nan() && b.is_nan()),
                "{name}: {what}, element {i}: in parts {a}, whole {b}, at most {most}"
            );
        }
    }
}

#[test]
fn a_batch_in_parts_is_the_whole_batch() {
    use Conditioning::*;
    use Loss::*;
    use Update::*;
    let small = |conditioning, loss, update| setup("mnist", conditioning, loss, update);
    let diffaug = vec![Change::Color, Change::Translation, Change::Cutout];
    let more_fakes = |s: &mut Setup| {
        s.training.n_dis = 2;
        s.training.batch_g = Some(BATCH + 3);
    };
    let cases = [
        ("softmax", small(Projection, Softmax, Simultaneous)),
        ("softmax, alternating", small(Projection, Softmax, Alternating)),
        ("softmax, fewer fakes of G", small(InputConcat, Softmax, Alternating).with(|s| s.training.batch_g = Some(3))),
        ("softmax, more fakes of G", small(HiddenConcat, Softmax, Alternating).with(more_fakes)),
        (
            "zero-sum, R1, R2",
            small(Projection, Softmax, Simultaneous).with(|s| {
                (s.training.r1, s.training.r2) = (2.0, 1.0);
                (s.training.real_weight, s.training.softmax_target) = (0.5, SoftmaxTarget::ZeroSum);
            }),
        ),
        ("AC-GAN", small(AcGan, Softmax, Simultaneous)),
        (
            "AC-GAN, R1, more fakes of G",
            small(AcGan, Hinge, Alternating).with(more_fakes).with(|s| s.training.r1 = 2.0),
        ),
        ("AC-GAN, penalty", small(AcGan, WassersteinGp, Simultaneous)),
        ("penalty", small(Projection, WassersteinGp, Alternating).with(|s| s.training.n_dis = 2)),
        ("DiffAug", small(Projection, Softmax, Simultaneous).with(|s| s.batches.diffaug = diffaug.clone())),
        (
            "DiffAug, hinge, R2",
            small(Projection, Hinge, Alternating).with(|s| {
                s.batches.diffaug = diffaug.clone();
                s.training.r2 = 1.0;
            }),
        ),
        (
            "spectral norm",
            small(Projection, RelativisticAverage, Alternating).with(|s| {
                (s.networks.spectral_norm, s.networks.spectral_norm_g) = (true, true);
                s.networks.sn_policy = PowerIterations::PerForward;
            }),
        ),
        ("frozen blocks", small(None, RelativisticHinge, Simultaneous).with(|s| s.training.freeze_d = 1)),
        ("hinge", small(Projection, Hinge, Simultaneous)),
        ("perceptrons", setup("softmax-gan", None, Softmax, Alternating)),
        ("points", setup("ring", None, Softmax, Simultaneous).with(more_of_points)),
        ("minimax", small(Projection, Minimax, Simultaneous)),
        ("least squares", small(Projection, LeastSquares, Alternating)),
        ("Wasserstein", small(None, Wasserstein, Alternating)),
    ];
    let device = Device::host(2).unwrap();
    for (name, setup) in cases {
        let whole = trained(&device, &setup);
        for part in [3, 4] {
            compare(
                &format!("{name}, parts of {part}"),
                &trained(&device, &setup.with(|s| s.training.micro_batch = Some(part))),
                &whole,
            );
        }
        // No part is as large as that: nothing is split, to the bit.
        let one = setup.with(|s| s.training.micro_batch = Some(BATCH + 3));
        for ((what, a), (_, b)) in trained(&device, &one).iter().zip(&whole) {
            let same = a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()));
            assert!(same, "{name}: {what}");
        }
    }
}

/// G of the ring preset has no batch norm, so that it is split too.
fn more_of_points(s: &mut Setup) {
    s.training.r1 = 0.1;
}

#[test]
fn parts_take_less_memory() {
    let bytes = |preset: &str, part, local_norm| {
        let setup = setup(preset, Conditioning::Projection, Loss::Hinge, Update::Alternating).with(|s| {
            s.training.batch = 64;
            (s.training.micro_batch, s.training.local_norm) = (part, local_norm);
            // Transformed filters take as much room for a few images as for many.
            s.training.convolution = Convolution::Direct;
        });
        Trainer::plan(&setup, 1).unwrap().bytes
    };
    let [whole, parts, both] =
        [(None, false), (Some(8), false), (Some(8), true)].map(|(part, local)| bytes("mnist", part, local));
    assert!(
        4 * parts < 3 * whole && 4 * both < 3 * parts,
        "{whole} whole, {parts} in parts of 8, {both} with G in parts"
    );
}

/// After a step whose fakes are these of eight that are the same for all; with local norm, in parts of four.
fn stepped(loss: Loss, rows: std::ops::Range<usize>, local: bool) -> Trainer {
    let setup = setup("mnist", Conditioning::Projection, loss, Update::Simultaneous).with(|s| {
        s.training.batch = rows.len();
        (s.training.micro_batch, s.training.local_norm) = (local.then_some(4), local);
    });
    let mut trainer = Trainer::new(&Device::host(2).unwrap(), &setup).unwrap();
    let latents = Random(5).normals(BATCH * 12)[12 * rows.start..12 * rows.end].to_vec();
    let wanted: Vec<u32> = rows.map(|row| row as u32).collect();
    let (images, labels) = images(&setup, 0);
    trainer.step_given(&images, &labels, &latents, &wanted).unwrap();
    trainer
}

/// With statistics of its own, a part of the fakes is what it would be alone.
#[test]
fn with_local_norm_a_part_of_the_fakes_stands_alone() {
    let of = |rows, local| stepped(Loss::Softmax, rows, local).fakes().unwrap();
    let [all, first, second] = [of(0..8, true), of(0..4, false), of(4..8, false)];
    assert_eq!(all, [first, second].concat());
    assert_ne!(all, of(0..8, false));
}

/// The gradients of G are those of its parts, which have statistics of their own: the mean of what the parts' would be alone,
/// where the loss looks at each fake by itself.
#[test]
fn with_local_norm_the_gradients_of_g_are_those_of_its_parts() {
    let of = |rows, local| {
        let kept = stepped(Loss::Wasserstein, rows, local).tensors().unwrap().into_iter();
        kept.filter(|t| t.name.starts_with("adam.m.generator")).map(|t| (t.name, t.values)).collect::<Vec<_>>()
    };
    let [all, first, second] = [of(0..8, true), of(0..4, false), of(4..8, false)];
    let mean = first
        .iter()
        .zip(&second)
        .map(|((name, a), (_, b))| (name.clone(), a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect()));
    compare("parts of G", &all, &mean.collect::<Vec<_>>());
}

#[test]
fn parts_of_g_are_of_one_size() {
    let setup = setup("mnist", Conditioning::Projection, Loss::Softmax, Update::Simultaneous).with(|s| {
        (s.training.micro_batch, s.training.local_norm) = (Some(3), true);
    });
    let error = Trainer::plan(&setup, 1).unwrap_err().to_string();
    assert!(error.contains("batch 8 with local-norm and micro-batch 3") && error.contains("2 would do"), "{error}");
}
