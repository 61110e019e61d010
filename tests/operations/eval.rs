//! The metrics beside naive f64 references and closed forms, the classifier and its cache, and `zgan eval`.

use std::path::Path;
use std::process::Command;

use crate::common::*;
use approx::AbsDiffEq;
use zgan::data::{DataSource, Dataset, ImageShape, Split};
use zgan::device::Device;
use zgan::eval::eigen::{Matrix, root, symmetric};
use zgan::eval::metrics::{NEIGHBOUR, Points, frechet_distance, overlap};
use zgan::eval::{Cache, Classifier, Real, Request, Training, compare, evaluate};
use zgan::gan::{Setup, Trainer, Weights};
use zgan::settings::Settings;

fn points(dimensions: usize, values: Vec<f32>) -> Points {
    Points { dimensions, values }
}

fn cloud(seed: u64, count: usize, dimensions: usize, shift: f32) -> Points {
    points(dimensions, Random(seed).normals(count * dimensions).into_iter().map(|x| x + shift).collect())
}

/// Coverage and density by sorting whole rows of distances.
fn naive_overlap(real: &Points, generated: &Points) -> (f64, f64) {
    let distance = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().sqrt()
    };
    let (mut covered, mut inside) = (0.0, 0.0);
    for x in real.rows() {
        let mut all: Vec<f64> = real.rows().map(|y| distance(x, y)).collect();
        all.sort_by(f64::total_cmp);
        // The nearest one is the point itself.
        let within = generated.rows().filter(|y| distance(x, y) < all[NEIGHBOUR] + 1e-12).count() as f64;
        covered += within.min(1.0);
        inside += within;
    }
    (covered / real.len() as f64, inside / (NEIGHBOUR * generated.len()) as f64)
}

#[test]
fn coverage_and_density_are_those_of_the_paper() {
    for (dimensions, real, generated, shift) in
        [(1, 31, 33, 0.0), (3, 100, 20, 0.5), (9, 64, 128, 0.2), (17, 6, 1, 0.0)]
    {
        let (x, y) = (cloud(1, real, dimensions, 0.0), cloud(2, generated, dimensions, shift));
        let (found, expected) = (overlap(&x, &y).unwrap(), naive_overlap(&x, &y));
        assert!(found.coverage.abs_diff_eq(&expected.0, 1e-12), "{dimensions}: {found:?}, expected {expected:?}");
        assert!(found.density.abs_diff_eq(&expected.1, 1e-12), "{dimensions}: {found:?}, expected {expected:?}");
        let same = overlap(&x, &x).unwrap();
        assert_eq!(same.coverage, 1.0);
        // Each point lies in its own neighbourhood, and each neighbourhood holds five more.
        assert!((same.density - (NEIGHBOUR + 1) as f64 / NEIGHBOUR as f64).abs() < 1e-12, "{same:?}");
    }
    let (near, far) = (cloud(1, 40, 4, 0.0), cloud(2, 40, 4, 100.0));
    let apart = overlap(&near, &far).unwrap();
    assert_eq!((apart.coverage, apart.density), (0.0, 0.0));
    // One point, drawn over and over where the real ones are dense, covers little.
    let middle = points(4, near.values[..4].repeat(100));
    let collapsed = overlap(&near, &middle).unwrap();
    assert!(collapsed.coverage < 0.7 && collapsed.density > collapsed.coverage, "{collapsed:?}");
    assert_eq!(overlap(&cloud(1, NEIGHBOUR, 4, 0.0), &near), None, "no fifth neighbour");
    assert_eq!(overlap(&near, &points(4, Vec::new())), None);
}

/// Points with exactly this mean and covariance (over n - 1), in the plane.
fn gaussian(mean: [f64; 2], deviations: [f64; 2], angle: f64) -> Points {
    let mut values = Vec::new();
    for (i, deviation) in deviations.iter().enumerate() {
        for sign in [-1.0, 1.0] {
            // Four points, two of them off the mean along each axis: variance 2 a^2 / 3.
            let mut at = [0.0; 2];
            at[i] = sign * deviation * 1.5f64.sqrt();
            values.push((mean[0] + angle.cos() * at[0] - angle.sin() * at[1]) as f32);
            values.push((mean[1] + angle.sin() * at[0] + angle.cos() * at[1]) as f32);
        }
    }
    points(2, values)
}

#[test]
fn frechet_distances_of_gaussians_are_known() {
    let check = |a: &Points, b: &Points, expected: f64| {
        for found in [frechet_distance(a, b).unwrap(), frechet_distance(b, a).unwrap()] {
            assert!((found - expected).abs() < 1e-5 * expected.max(1.0), "{found}, expected {expected}");
        }
    };
    let a = gaussian([0.0, 0.0], [2.0, 1.0], 0.0);
    check(&a, &a, 0.0);
    check(&a, &gaussian([3.0, 4.0], [2.0, 1.0], 0.0), 25.0);
    check(&a, &gaussian([0.0, 1.0], [5.0, 3.0], 0.0), 1.0 + 9.0 + 4.0);
    // Where the covariances do not commute: tr (S1 S2)^(1/2) = sqrt(tr(S1 S2) + 2 sqrt(det S1 S2)).
    let angle: f64 = 0.7;
    let (c, s) = (angle.cos().powi(2), angle.sin().powi(2));
    let trace = 4.0 * (9.0 * c + 0.25 * s) + 9.0 * s + 0.25 * c;
    let shared = (trace + 2.0 * (4.0 * 9.0 * 0.25f64).sqrt()).sqrt();
    check(&a, &gaussian([0.0, 0.0], [3.0, 0.5], angle), 5.0 + 9.25 - 2.0 * shared);
    // Fewer points than dimensions: singular covariances.
    let flat = cloud(3, 10, 64, 0.0);
    assert!(frechet_distance(&flat, &flat).unwrap() < 1e-6);
    assert!(frechet_distance(&flat, &cloud(3, 1, 64, 0.0)).is_err());
    assert!(frechet_distance(&flat, &cloud(3, 10, 65, 0.0)).is_err());
}

#[test]
fn eigenvectors_rebuild_their_matrix() {
    for n in [1, 2, 31, 64] {
        let noise = Random(n as u64).normals(n * n).into_iter().map(f64::from).collect();
        let any = Matrix { n, values: noise };
        let mut transposed = Matrix::zeros(n);
        (0..n * n).for_each(|i| transposed.values[i] = any.at(i % n, i / n));
        let matrix = any.times(&transposed).symmetrised();
        let (values, vectors) = symmetric(&matrix);
        assert!(values.iter().sum::<f64>().abs_diff_eq(&matrix.trace(), 1e-10 * matrix.trace()));
        let half = root(&matrix);
        for (i, (again, given)) in half.times(&half).values.iter().zip(&matrix.values).enumerate() {
            assert!(again.abs_diff_eq(given, 1e-9 * matrix.trace()), "n {n}, {i}: {again}, expected {given}");
        }
        for (value, vector) in values.iter().zip(vectors.values.chunks(n)) {
            for i in 0..n {
                let product: f64 = (0..n).map(|j| matrix.at(i, j) * vector[j]).sum();
                assert!((product - value * vector[i]).abs() < 1e-9 * matrix.trace(), "n {n}");
            }
        }
    }
}

fn digits(split: Split, count: usize) -> Dataset {
    let all = DataSource::Mnist10k.open(split, &Settings::default().data_options()).unwrap();
    let mut images = vec![0; count * all.shape().len()];
    images.chunks_mut(all.shape().len()).enumerate().for_each(|(i, image)| all.read(i, image).unwrap());
    let labels = (0..count).map(|i| all.label(i)).collect();
    Dataset::new("some digits", all.shape(), all.classes().to_vec(), images, labels).unwrap()
}

fn short(steps: u64) -> Training {
    Training { steps, batch: 64, ..Training::new(2000) }
}

/// An epoch of 2,000 digits.
fn trained(device: &Device) -> Classifier {
    Classifier::train(device, &digits(Split::Train, 2000), &short(31), &|| true).unwrap().unwrap()
}

#[test]
fn an_epoch_of_few_digits_is_far_better_than_chance() {
    let device = Device::host(0).unwrap();
    let (classifier, test) = (trained(&device), digits(Split::Test, 500));
    let all: Vec<usize> = (0..test.len()).collect();
    let right = classifier.right(&test, &all).unwrap();
    assert!(right > 350, "{right} of 500");

    // An image is seen the same alone, and beside others.
    let mut images = vec![0; 3 * test.shape().len()];
    images.chunks_mut(test.shape().len()).zip(&all).for_each(|(image, i)| test.read(*i, image).unwrap());
    let (three, one) = (classifier.see(&images).unwrap(), classifier.see(&images[2 * 784..]).unwrap());
    assert_eq!((three.labels.len(), three.labels[2]), (3, one.labels[0]));
    assert_eq!(three.features.values[2 * three.features.dimensions..], one.features.values);
    assert!(classifier.see(&images[1..]).is_err());

    // Held-out digits as if they were generated, right and wrong ones.
    let train = digits(Split::Train, 2000);
    let real = Real::new(&classifier, &train, 50).unwrap();
    let seen = classifier.see_data(&test, &all).unwrap();
    let labels: Vec<u32> = all.iter().map(|i| test.label(*i)).collect();
    let report = compare(&seen, Some(&labels), &real, test.classes()).unwrap();
    assert_eq!((report.generated, report.real), (500, 500));
    assert_eq!(report.label_accuracy, Some(right as f64 / 500.0));
    assert!(report.coverage.unwrap() > 0.5, "{report:?}");
    let others: Vec<u32> = labels.iter().map(|label| (label + 1) % 10).collect();
    let wrong = compare(&seen, Some(&others), &real, test.classes()).unwrap();
    assert!(wrong.label_accuracy.unwrap() < 0.2 && wrong.coverage.unwrap() < 0.5 * report.coverage.unwrap());
    assert_eq!(wrong.frechet_distance, report.frechet_distance, "it knows no labels");
    let unlabelled = compare(&seen, None, &real, test.classes()).unwrap();
    assert_eq!(unlabelled.label_accuracy, None);
    assert_eq!(unlabelled.classes.iter().map(|class| class.labelled).sum::<usize>(), 500);
    assert!(unlabelled.coverage.unwrap() >= report.coverage.unwrap() - 0.1, "{unlabelled:?}");
    assert!(compare(&seen, Some(&labels[1..]), &real, test.classes()).is_err());

    // A generator that knows nothing draws what is no digit.
    let setup = Setup::new(&Settings::default(), &train.info());
    let mut trainer = Trainer::new(&device, &setup).unwrap();
    let request = Request { weights: Weights::Raw, seed: 1, per_class: 3, real_per_class: 20 };
    let report = evaluate(&classifier, &mut trainer, &train, &request).unwrap();
    assert_eq!((report.generated, report.real, report.classes.len()), (30, 200, 10));
    assert!(report.classes.iter().all(|class| class.generated == 3 && class.real == 20));
    assert!(report.label_accuracy.unwrap() < 0.5 && report.coverage.unwrap() < 0.2, "{report:?}");
}

/// Bright upper halves, bright lower halves, and noise: 8x8.
fn halves(count: usize) -> Dataset {
    let mut random = Random(4);
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for i in 0..count {
        let class = i % 3;
        labels.push(class as u32);
        images.extend((0..64).map(|p| {
            let bright = if class == 2 { random.below(2) == 0 } else { (p < 32) == (class == 0) };
            random.below(100) as u8 + if bright { 150 } else { 0 }
        }));
    }
    let classes = ["upper", "lower", "noise"].map(String::from).to_vec();
    Dataset::new("halves", ImageShape { height: 8, width: 8, channels: 1 }, classes, images, labels).unwrap()
}

#[test]
fn every_device_trains_the_same_classifier() {
    let (data, training) = (halves(12), Training { steps: 3, batch: 5, ..Training::new(12) });
    let train = |device: &Device| Classifier::train(device, &data, &training, &|| true).unwrap().unwrap();
    let expected = train(&Device::host(1).unwrap()).tensors().unwrap();
    on_each_device(|device| {
        let classifier = train(device);
        for (found, expected) in classifier.tensors().unwrap().iter().zip(&expected) {
            assert_eq!((&found.name, &found.shape), (&expected.name, &expected.shape));
            // Adam makes whole steps of gradients that are nearly zero, so single numbers may differ by more.
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let mut pairs = found.values.iter().zip(&expected.values).map(|(x, y)| x - y);
            let error = norm(&mut pairs) / norm(&mut expected.values.iter().copied()).max(1e-3);
            assert!(error < 1e-2, "{}: relative error {error:.1e}", found.name);
        }
        let tensors = classifier.tensors().unwrap();
        let again = Classifier::restore(device, data.shape(), 3, &tensors).unwrap();
        assert_eq!(again.tensors().unwrap(), tensors);
    });
    assert_eq!(train(&Device::host(2).unwrap()).tensors().unwrap(), expected, "for any number of threads");
}

#[test]
fn a_classifier_is_kept_and_a_damaged_one_replaced() {
    let place = tempfile::tempdir().unwrap();
    let (device, data) = (Device::host(0).unwrap(), halves(30));
    let training = Training { steps: 30, ..Training::new(30) };
    let ready = |data: &Dataset, training: &Training| {
        let mut said = Vec::new();
        let cache = Cache::in_folder(place.path().join("new"));
        let ready = cache.classifier(&device, data, None, training, &mut |line| said.push(line), &|| true).unwrap();
        (ready.unwrap(), said.join("\n"))
    };
    let (first, said) = ready(&data, &training);
    assert!(said.contains("is trained, 30 steps") && said.contains("kept in"), "{said}");
    assert!(first.tested.right > 20 && first.tested.images == 30 && !first.tested.held_out, "{said}");
    let path = std::fs::read_dir(place.path().join("new")).unwrap().next().unwrap().unwrap().path();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with(".zgan-classifier-") && name.contains("halves-8x8x1"), "{name}");
    let whole = std::fs::read(&path).unwrap();

    let (second, said) = ready(&data, &training);
    assert_eq!(said, "", "nothing is trained");
    assert_eq!(second.tested, first.tested);
    assert_eq!(second.classifier.tensors().unwrap(), first.classifier.tensors().unwrap());
    let images = &(0..64).collect::<Vec<u8>>();
    let see = |ready: &zgan::eval::Ready| ready.classifier.see(images).unwrap().features;
    assert_eq!(see(&second), see(&first));

    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (damaged, reason) in [(&flipped[..], "checksum"), (&whole[..whole.len() - 1], "cut off"), (&[], "cut off")] {
        std::fs::write(&path, damaged).unwrap();
        let (_, said) = ready(&data, &training);
        assert!(said.contains(reason) && said.contains("trained anew") && said.contains("kept in"), "{said}");
        assert!(std::fs::read(&path).unwrap() == whole, "the same bits again");
    }
    let (_, said) = ready(&data, &Training { steps: 31, ..training });
    assert!(said.contains("trained otherwise (steps)"), "{said}");
    let (_, said) = ready(&halves(33), &training);
    assert!(said.contains("is trained") && !said.contains("anew"), "other images have a file of their own: {said}");

    // A training that is ended leaves nothing.
    let elsewhere = place.path().join("ended");
    let ended = Cache::in_folder(&elsewhere).classifier(&device, &data, None, &training, &mut |_| {}, &|| false);
    assert!(ended.unwrap().is_none() && !elsewhere.exists());
    // Where it cannot be kept, it serves all the same.
    let mut said = String::new();
    let nowhere = Cache::in_folder("/proc/none");
    let ready = nowhere.classifier(&device, &data, None, &training, &mut |line| said = line, &|| true).unwrap();
    assert!(ready.is_some() && said.contains("not kept: /proc/none"), "{said}");
}

/// A folder in MNIST's format.
fn write_idx(folder: &Path, data: &Dataset) {
    let count = data.len() as u32;
    let header = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let mut images = header(&[0x803, count, 8, 8]);
    let mut labels = header(&[0x801, count]);
    let mut image = [0; 64];
    for i in 0..data.len() {
        data.read(i, &mut image).unwrap();
        images.extend(image);
        labels.push(data.label(i) as u8);
    }
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("train-images-idx3-ubyte"), images).unwrap();
    std::fs::write(folder.join("train-labels-idx1-ubyte"), labels).unwrap();
}

#[test]
fn the_program_evaluates_at_the_end_and_when_asked() {
    let place = tempfile::tempdir().unwrap();
    let zgan = |arguments: &str, code: i32| {
        // scripts/gpu-check runs this test where cargo does not.
        let zgan = std::env::var("ZGAN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_zgan").into());
        let mut command = Command::new(zgan);
        command.env("ZGAN_TUNING", "off");
        let output = command.args(arguments.split_whitespace()).current_dir(place.path()).output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "zgan {arguments}\n{out}{err}");
        (out, err)
    };
    write_idx(&place.path().join("halves"), &halves(30));
    let train =
        "train --preset softmax-gan --data idx:halves --classes 3 --batch 8 --batch-g 8 --steps 3 --device host";
    let (said, _) = zgan(&format!("{train} --run quiet --no-eval"), 0);
    assert!(!said.contains("coverage"), "{said}");
    let (said, _) = zgan(&format!("{train} --run a"), 0);
    assert!(said.contains("is trained, 60 steps") && said.contains("halves/.zgan-classifier-"), "{said}");
    let line = said.lines().last().unwrap();
    assert!(line.starts_with("coverage ") && line.contains("(300 generated, 30 real)"), "{said}");

    let (said, _) = zgan("eval --run a --device host --seed 1", 0);
    assert!(!said.contains("is trained, 60 steps"), "it is kept: {said}");
    assert_eq!(said.lines().last(), Some(line), "{said}");
    assert!(said.contains("labelled") && said.contains("after step 3; classifier 100.0 %"), "{said}");
    let checkpoint = "runs/a/checkpoints/step-000003.safetensors";
    let (said, _) = zgan(&format!("eval --checkpoint {checkpoint} --device host --per-class 4 --json"), 0);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&report["generated"], &report["real"], &report["step"]), (&12.into(), &30.into(), &3.into()));
    assert_eq!((report["classes"].as_array().unwrap().len(), &report["label-accuracy"]), (3, &serde_json::Value::Null));
    assert_eq!((&report["classifier"]["held-out"], &report["classifier"]["images"]), (&false.into(), &30.into()));

    // Away from its run, a checkpoint does not know where its images are.
    std::fs::copy(place.path().join(checkpoint), place.path().join("alone.safetensors")).unwrap();
    let (_, error) = zgan("eval --checkpoint alone.safetensors --device host", 2);
    assert!(error.contains("--data"), "{error}");
    zgan("eval --checkpoint alone.safetensors --device host --per-class 2 --data idx:halves", 0);
    write_idx(&place.path().join("more"), &halves(33));
    let (_, error) = zgan("eval --run a --device host --data idx:more", 2);
    assert!(error.contains("other images") && error.contains("CRC"), "{error}");
    assert!(zgan("eval", 2).1.contains("--run"));
    assert!(zgan("eval --run b", 2).1.contains("no run is called b"));
    assert!(zgan("eval --run a --per-class 0", 2).1.contains("per-class: 0, expected 1"));
}

#[test]
fn one_class_cannot_be_told_apart() {
    let one =
        Dataset::new("one", ImageShape { height: 8, width: 8, channels: 1 }, vec!["a".into()], vec![0; 64], vec![0]);
    let error = Classifier::train(&Device::host(1).unwrap(), &one.unwrap(), &short(1), &|| true).err().unwrap();
    assert!(error.to_string().contains("two classes"), "{error}");
}
