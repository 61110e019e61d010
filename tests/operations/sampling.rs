//! Drawing from a generator: what an image depends on, the ways between latents and between classes, and the ring.

use crate::common::*;
use zgan::checkpoint::NamedTensor;
use zgan::data::mixture::{Cover, Mixture};
use zgan::data::{DataSource, ImageShape, Split};
use zgan::device::{Buffer, Device};
use zgan::gan::{Generator, Latents, Setup, Trainer, Weights, interpolate};
use zgan::ops::random;
use zgan::ops::state::{State, StateBuffer};
use zgan::picture::Scatter;
use zgan::settings::{LatentDistribution, Loss, Preset};

const LATENT: usize = 100;

/// A preset on digits, with an average.
fn setup(preset: &str) -> Setup {
    let settings = preset.parse::<Preset>().unwrap().settings();
    let data = DataSource::Mnist10k.open(Split::Train, &settings.data_options()).unwrap();
    Setup::new(&settings, &data.info()).with(|s| {
        s.training.batch = 8;
        s.training.steps = 10;
        s.training.average = 0.9;
    })
}

fn digits() -> Setup {
    setup("softmax-gan")
}

/// A trainer after two steps on images of noise, so that its average and its statistics are its own.
fn trained(device: &Device, setup: &Setup) -> Trainer {
    let mut trainer = Trainer::new(device, setup).unwrap();
    let mut random = Random(3);
    for _ in 0..2 {
        let images: Vec<u8> = (0..setup.training.batch * setup.shape.len()).map(|_| random.below(256) as u8).collect();
        let labels: Vec<u32> = (0..setup.training.batch).map(|_| random.below(setup.classes) as u32).collect();
        trainer.step(&images, &labels).unwrap();
    }
    trainer
}

#[test]
fn latents_follow_from_the_seed_and_the_number() {
    let all = Latents::unlabelled(7, 40).draw(&digits().networks).unwrap();
    assert_eq!(all.len(), 40 * LATENT);
    let later = Latents { first: 30, ..Latents::unlabelled(7, 10) }.draw(&digits().networks).unwrap();
    assert!(later == all[30 * LATENT..]);
    assert!(Latents::unlabelled(8, 40).draw(&digits().networks).unwrap() != all);
    let by_class = Latents::by_class(7, &[5, 2], 20);
    assert_eq!((by_class.count, by_class.labels[19], by_class.labels[20]), (40, 5, 2));
    assert!(by_class.draw(&digits().networks).unwrap() == all, "labels change no latent");
}

#[test]
fn truncation_is_a_normal_distribution_cut_off() {
    let draw =
        |truncation| to_f64(&Latents { truncation, ..Latents::unlabelled(1, 2000) }.draw(&digits().networks).unwrap());
    let n = 2000.0 * LATENT as f64;
    for (most, deviation) in [(Some(0.5), 0.2839), (Some(1.5), 0.7425), (None, 1.0)] {
        let z = draw(most);
        let cut = most.map_or(f64::INFINITY, f64::from);
        assert!(z.iter().all(|z| z.abs() <= cut));
        let mean = z.iter().sum::<f64>() / n;
        let found = (z.iter().map(|z| z * z).sum::<f64>() / n).sqrt();
        // Five deviations of each.
        assert!(mean.abs() < 5.0 * deviation / n.sqrt(), "mean {mean} at {most:?}");
        assert!((found - deviation).abs() < 1e-4 + 5.0 * deviation / n.sqrt(), "deviation {found} at {most:?}");
    }
}

#[test]
fn uniform_latents_fill_a_cube() {
    let mut networks = digits().networks;
    networks.latent_distribution = LatentDistribution::Uniform;
    for (truncation, most) in [(None, 1.0f32), (Some(0.25), 0.25), (Some(2.0), 1.0)] {
        let z = Latents { truncation, ..Latents::unlabelled(1, 200) }.draw(&networks).unwrap();
        let (n, square) = (z.len() as f32, z.iter().map(|z| z * z).sum::<f32>());
        assert!(z.iter().all(|z| z.abs() <= most) && z.iter().any(|z| z.abs() > 0.99 * most));
        assert!((square / n / (most * most) - 1.0 / 3.0).abs() < 0.01, "of {most}: {}", square / n);
        assert!((z.iter().sum::<f32>() / n).abs() < 0.02 * most);
    }
    // The way from corner to corner is straight.
    let straight = interpolate(&[1.0, 1.0], &[1.0, -1.0], 0.25, LatentDistribution::Uniform);
    assert_eq!(straight, [1.0, 0.5]);
    // A trained generator draws from them, and its average's statistics are gathered from them.
    let uniform = digits().with(|s| s.networks = networks.clone());
    let device = Device::host(1).unwrap();
    let images = |setup: &Setup| {
        let mut trainer = trained(&device, setup);
        trainer.sample(Weights::Average, &Latents::unlabelled(1, 4)).unwrap()
    };
    assert_ne!(images(&uniform), images(&digits()));
}

#[test]
fn the_way_between_latents_keeps_to_the_sphere() {
    let z = Latents::unlabelled(1, 2).draw(&digits().networks).unwrap();
    let (a, b) = z.split_at(LATENT);
    assert!(
        interpolate(a, b, 0.0, LatentDistribution::Normal) == a
            && interpolate(a, b, 1.0, LatentDistribution::Normal) == b,
        "both ends are exact"
    );
    let length = |x: &[f32]| to_f64(x).iter().map(|x| x * x).sum::<f64>().sqrt();
    let unit = |x: &[f32]| -> Vec<f32> { x.iter().map(|v| (f64::from(*v) / length(x)) as f32).collect() };
    let (a, b) = (unit(a), unit(b));
    let angle = |x: &[f32], y: &[f32]| to_f64(x).iter().zip(to_f64(y)).map(|(x, y)| x * y).sum::<f64>().min(1.0).acos();
    for i in 0..=8 {
        let t = f64::from(i) / 8.0;
        let x = interpolate(&a, &b, t, LatentDistribution::Normal);
        assert!((length(&x) - 1.0).abs() < 1e-6);
        assert!((angle(&a, &x) - t * angle(&a, &b)).abs() < 1e-3, "equal steps are equal angles");
    }
    // In line with the origin the way is straight.
    assert_eq!(interpolate(&[1.0, 2.0], &[2.0, 4.0], 0.5, LatentDistribution::Normal), [1.5, 3.0]);
    assert_eq!(interpolate(&[0.0, 0.0], &[2.0, 4.0], 0.25, LatentDistribution::Normal), [0.5, 1.0]);
}

#[test]
fn an_image_depends_on_its_own_latent_alone() {
    on_fast_devices(|device| {
        let mut trainer = trained(device, &digits());
        for weights in [Weights::Raw, Weights::Average] {
            let all = trainer.sample(weights, &Latents::unlabelled(3, 130)).unwrap();
            assert_eq!(all.len(), 130 * 784);
            assert!(all.chunks(784).collect::<std::collections::HashSet<_>>().len() == 130, "all differ");
            for (first, count) in [(0, 1), (0, 64), (63, 3), (129, 1)] {
                let latents = Latents { first, ..Latents::unlabelled(3, count) };
                let some = trainer.sample(weights, &latents).unwrap();
                assert!(some == all[first as usize * 784..][..count * 784], "{count} from {first}");
            }
        }
    });
}

#[test]
fn a_generator_alone_draws_as_its_trainer() {
    let device = Device::host(2).unwrap();
    let setup = digits();
    let mut trainer = trained(&device, &setup);
    let latents = Latents::unlabelled(3, 70);
    let z = latents.draw(&digits().networks).unwrap();
    let tensors = trainer.tensors().unwrap();
    let raw = trainer.sample(Weights::Raw, &latents).unwrap();
    let average = trainer.sample(Weights::Average, &latents).unwrap();
    assert!(raw != average);
    assert!(tensors == trainer.tensors().unwrap(), "drawing changes nothing");
    let of = |weights| Generator::new(&device, &setup, &tensors, weights).unwrap().images(&z, &[]).unwrap();
    assert!(raw == of(Weights::Raw));
    assert!(average == of(Weights::Average));
    // Only its own tensors are looked at, and all of them are needed.
    let own: Vec<NamedTensor> = tensors.iter().filter(|t| !t.name.contains("discriminator")).cloned().collect();
    assert!(own.len() < tensors.len() && Generator::new(&device, &setup, &own, Weights::Raw).is_ok());
    let Err(error) = Generator::new(&device, &setup, &own[1..], Weights::Raw) else { panic!("one is missing") };
    assert!(error.to_string().contains(&own[0].name), "{error}");
    let generator = Generator::new(&device, &setup, &own, Weights::Raw).unwrap();
    let error = generator.images(&z[1..], &[]).unwrap_err().to_string();
    assert!(error.contains("6999 numbers, no multiple of 100"), "{error}");
}

#[test]
fn the_average_draws_with_statistics_of_its_own() {
    let device = Device::host(2).unwrap();
    let setup = digits();
    let mut trainer = trained(&device, &setup);
    let latents = Latents::unlabelled(3, 20);
    let before = trainer.sample(Weights::Average, &latents).unwrap();
    let mut tensors = trainer.tensors().unwrap();
    let running: Vec<&mut NamedTensor> = tensors.iter_mut().filter(|t| t.name.contains("running_var")).collect();
    assert!(!running.is_empty());
    running.into_iter().for_each(|t| t.values.fill(100.0));
    trainer.restore(2, &tensors).unwrap();
    assert!(before == trainer.sample(Weights::Average, &latents).unwrap(), "those of training play no part");
}

#[test]
fn points_are_those_of_the_formula() {
    on_each_device(|device| {
        for (mixture, n) in Mixture::ALL.into_iter().flat_map(|mixture| [1, 2, 31, 1000, 5001].map(|n| (mixture, n))) {
            let (seed, stream, step) = (0x0123_4567_89ab_cdef, 2, 9);
            let state = State { step, ..State::new(seed, [0.0; 2], 0, 0) };
            let out: Buffer<f32> = device.zeros(2 * n).unwrap();
            random::points(&out, mixture, &StateBuffer::new(device, &state).unwrap(), stream).unwrap();
            let mut philox = zgan::random::Random::new(seed, stream, step);
            for (i, found) in out.read().unwrap().chunks(2).enumerate() {
                let noise = philox.normals();
                let centre = mixture.centre(philox.below(mixture.modes() as u32) as usize);
                philox.word();
                for k in 0..2 {
                    let expected = centre[k] + mixture.deviation() * noise[k];
                    assert!((found[k] - expected).abs() < 1e-6, "point {i} of {n}: {}, {expected}", found[k]);
                }
            }
        }
        let odd: Buffer<f32> = device.zeros(3).unwrap();
        let state = StateBuffer::new(device, &State::new(0, [0.0; 2], 0, 0)).unwrap();
        assert!(random::points(&odd, Mixture::Ring, &state, 0).unwrap_err().to_string().contains("3 elements"));
    });
}

#[test]
fn the_data_cover_their_modes_evenly() {
    let device = Device::host(2).unwrap();
    let n = 80_000;
    for mixture in Mixture::ALL {
        let out: Buffer<f32> = device.zeros(2 * n).unwrap();
        let state = StateBuffer::new(&device, &State::new(5, [0.0; 2], 0, 0)).unwrap();
        random::points(&out, mixture, &state, 0).unwrap();
        let points = out.read().unwrap();
        let (cover, modes) = (mixture.cover(&points), mixture.modes() as f64);
        assert_eq!(cover.covered, mixture.modes());
        // A normal point of two dimensions lies further away than three deviations with probability exp(-9/2).
        assert!((cover.near - (1.0 - (-4.5f64).exp())).abs() < 1e-3 && cover.kl < 1e-3, "{cover:?}");
        for [x, y] in mixture.centres() {
            let away = |p: &[f32]| f64::from((p[0] - x).hypot(p[1] - y));
            let near: Vec<f64> = points.chunks(2).map(away).filter(|r| *r < 0.5).collect();
            // Five deviations of a mode's share; the mean square of a distance is twice the variance.
            let count = near.len() as f64;
            let expected = n as f64 / modes;
            assert!((count - expected).abs() < 5.0 * (expected * (1.0 - 1.0 / modes)).sqrt(), "{count} at {x}, {y}");
            let square = near.iter().map(|r| r * r).sum::<f64>() / count;
            let ratio = square / (2.0 * f64::from(mixture.deviation()).powi(2));
            assert!((ratio - 1.0).abs() < 5.0 / count.sqrt(), "at {x}, {y}: {ratio}");
        }
    }
}

#[test]
fn a_mode_is_covered_by_one_in_a_hundred() {
    let at = |mode: usize, off: f32| {
        let [x, y] = Mixture::Ring.centre(mode);
        [x + off, y]
    };
    let nowhere = [0.0, 0.0];
    let cover = |points: Vec<[f32; 2]>| Mixture::Ring.cover(points.as_flattened());
    assert_eq!((cover(Vec::new()).covered, cover(Vec::new()).kl), (0, 0.0));
    assert_eq!(cover(vec![nowhere; 2500]).covered, 0);
    assert_eq!(cover(vec![[f32::NAN; 2]; 2500]).near, 0.0);
    let few = |near: usize, off: f32| cover([vec![at(3, off); near], vec![nowhere; 2500 - near]].concat()).covered;
    assert_eq!([few(24, 0.0), few(25, 0.0), few(25, 0.059), few(25, 0.061)], [0, 1, 1, 0]);
    let each: Vec<[f32; 2]> = (0..800).map(|i| at(i % 8, 0.01)).collect();
    assert_eq!(cover(each), Cover { covered: 8, modes: 8, near: 1.0, kl: 0.0 });
    let two: Vec<[f32; 2]> = (0..800).map(|i| at(i % 2, 0.0)).collect();
    assert!((cover(two).kl - 4f64.ln()).abs() < 1e-12, "two modes of eight");
}

#[test]
fn a_scatter_plot_shows_points_over_the_data() {
    let [data, points] = [&[1.25, 1.25][..], &[0.0, 0.0, 9.0, 9.0, f32::NAN, 0.0]];
    let scatter = Scatter { data, points };
    let picture = scatter.picture(500);
    let at = |column: usize, line: usize| picture.pixels[3 * (line * 500 + column)..][..3].to_vec();
    assert_eq!((at(0, 0), at(375, 375)), (vec![255; 3], vec![255; 3]), "up is up");
    let [of_data, of_points] = [at(375, 125), at(250, 250)];
    assert!(of_data[0] == of_data[2] && of_data[0] < 230, "grey: {of_data:?}");
    assert!(of_points[2] > of_points[0], "blue: {of_points:?}");
    let coloured = picture.pixels.chunks(3).filter(|pixel| **pixel != [255; 3]).count();
    assert!((2..60).contains(&coloured), "points outside are left out: {coloured}");
    let svg = scatter.svg();
    assert!(svg.contains("M1.250 -1.250h0") && svg.contains("M0.000 0.000h0") && !svg.contains("NaN"), "{svg}");
    assert_eq!(svg.matches("h0").count(), 2);
}

#[test]
fn the_step_of_the_ring_takes_no_images() {
    let settings = "ring".parse::<Preset>().unwrap().settings();
    let data = settings.images.data.open(Split::Train, &settings.data_options()).unwrap();
    let setup = Setup::new(&settings, &data.info()).with(|s| s.training.batch = 8);
    on_each_device(|device| {
        let mut trainer = Trainer::new(device, &setup).unwrap();
        assert!(trainer.step(&[0; 16], &[0; 8]).unwrap_err().to_string().contains("0 bytes and 0 labels"));
        trainer.step(&[], &[]).unwrap();
        assert!(trainer.metrics().unwrap().loss_d.is_finite());
        let points = trainer.points(Weights::Raw, &Latents::unlabelled(1, 70)).unwrap();
        assert!(points.len() == 140 && points.iter().all(|x| x.is_finite()));
    });
    assert!(data.is_drawn() && setup.training.loss == Loss::Softmax);
    let images = Setup { shape: digits().shape, ..setup };
    let Err(error) = Trainer::new(&Device::host(1).unwrap(), &images) else { panic!("accepted") };
    assert!(error.to_string().contains("--data ring"), "{error}");
}

/// Preset `mnist` with a generator of some training.
fn conditional(device: &Device) -> (Setup, Vec<NamedTensor>) {
    let setup = setup("mnist").with(|s| s.training.average_from = 0);
    let tensors = trained(device, &setup).tensors().unwrap();
    (setup, tensors)
}

#[test]
fn a_morph_goes_from_one_class_to_the_other() {
    let device = Device::host(2).unwrap();
    let (setup, mut tensors) = conditional(&device);
    // Norms that tell the classes apart more than two steps can.
    let mut random = Random(5);
    let norms = tensors.iter_mut().filter(|t| t.name.starts_with("generator.") && t.shape[0] == 10);
    let mut count = 0;
    norms.for_each(|t| {
        count += 1;
        t.values.iter_mut().for_each(|x| *x += 0.3 * random.normal() as f32);
    });
    assert_eq!(count, 8, "scale and shift of two norms in two blocks");
    let latents = Latents::by_class(3, &[4], 70);
    let z = latents.draw(&setup.networks).unwrap();
    for weights in [Weights::Raw, Weights::Average] {
        let mut generator = Generator::new(&device, &setup, &tensors, weights).unwrap();
        let of = |class: u32| generator.images(&z, &[class; 70]).unwrap();
        let (four, nine, three) = (of(4), of(9), of(3));
        assert!(four != nine && nine != three);
        assert!(four == generator.morph(&z, [4, 9], 0.0).unwrap(), "{weights:?}: at 0 the first class");
        assert!(nine == generator.morph(&z, [4, 9], 1.0).unwrap(), "{weights:?}: at 1 the second");
        let half = generator.morph(&z, [4, 9], 0.5).unwrap();
        assert!(half != four && half != nine);
        assert!(three == generator.images(&z, &[3; 70]).unwrap(), "the weights themselves stay");
        let error = generator.morph(&z, [4, 10], 0.5).unwrap_err().to_string();
        assert!(error.contains("label 10, there are 10 classes"), "{error}");
    }
}

/// Where the weights that draw are normalised ones, and only norms know the label.
#[test]
fn a_morph_through_normalised_weights_ends_at_the_classes() {
    let device = Device::host(2).unwrap();
    let setup = setup("sagan-64").with(|s| {
        s.shape = ImageShape { height: 64, width: 64, channels: 3 };
        s.networks.width = 4;
        s.training.batch = 2;
        s.training.average = 0.999;
    });
    let mut tensors = trained(&device, &setup).tensors().unwrap();
    let mut random = Random(5);
    for norm in tensors.iter_mut().filter(|t| t.name.starts_with("generator.block") && t.name.contains("norm")) {
        norm.values.iter_mut().for_each(|x| *x += 0.3 * random.normal() as f32);
    }
    let z = Latents::by_class(3, &[4], 2).draw(&setup.networks).unwrap();
    let mut generator = Generator::new(&device, &setup, &tensors, Weights::Raw).unwrap();
    let of = |class: u32| generator.images(&z, &[class; 2]).unwrap();
    let (four, nine) = (of(4), of(9));
    assert!(four != nine);
    assert!(four == generator.morph(&z, [4, 9], 0.0).unwrap() && nine == generator.morph(&z, [4, 9], 1.0).unwrap());
}

#[test]
fn a_class_conditional_run_wants_a_label_for_each_image() {
    let device = Device::host(2).unwrap();
    let (setup, tensors) = conditional(&device);
    let generator = Generator::new(&device, &setup, &tensors, Weights::Average).unwrap();
    let z = Latents::unlabelled(3, 3).draw(&setup.networks).unwrap();
    let fails = |labels: &[u32]| generator.images(&z, labels).unwrap_err().to_string();
    assert!(fails(&[]).contains("0 labels for 3 images"));
    assert!(fails(&[1, 2, 10]).contains("label 10, there are 10 classes"));
    // An image does not depend on its neighbours' labels.
    let both = |labels: &[u32]| generator.images(&z, labels).unwrap();
    assert!(both(&[1, 2, 3])[784..1568] == both(&[4, 2, 5])[784..1568]);
    assert!(both(&[1, 2, 3])[..784] != both(&[4, 2, 5])[..784]);
}
