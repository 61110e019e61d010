//! Readers and the loader: what they read, what they refuse and how they say it.

use std::io::Write;
use std::path::Path;

use zgan::data::{DataSource, Dataset, ImageShape, LastBatch, Loader, Split, idx};

fn image_file(magic: u32, count: u32, rows: u32, columns: u32, pixels: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [magic, count, rows, columns].iter().flat_map(|n| n.to_be_bytes()).collect();
    bytes.extend(pixels);
    bytes
}

fn label_file(magic: u32, count: u32, labels: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [magic, count].iter().flat_map(|n| n.to_be_bytes()).collect();
    bytes.extend(labels);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Three images of 2 x 5 with the labels 3, 0, 9.
fn good() -> (Vec<u8>, Vec<u8>) {
    let pixels: Vec<u8> = (0..30).map(|i| i * 8).collect();
    (image_file(0x803, 3, 2, 5, &pixels), label_file(0x801, 3, &[3, 0, 9]))
}

fn folder(images: &[u8], labels: &[u8], ending: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(format!("train-images-idx3-ubyte{ending}")), images).unwrap();
    std::fs::write(folder.path().join(format!("train-labels-idx1-ubyte{ending}")), labels).unwrap();
    folder
}

/// The message of the error, which must hold all of `parts`.
fn refused(result: zgan::Result<impl Sized>, parts: &[&str]) {
    let Err(error) = result else { panic!("accepted; expected an error with {parts:?}") };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn the_embedded_digits() {
    let train = DataSource::Mnist10k.open(Split::Train, 10).unwrap();
    let test = DataSource::Mnist10k.open(Split::Test, 10).unwrap();
    assert_eq!((train.len(), test.len()), (10_000, 2_000));
    assert_eq!(train.shape(), ImageShape { height: 28, width: 28, channels: 1 });
    assert_eq!(train.classes().len(), 10);
    // The first labels of MNIST, as its page shows them.
    assert_eq!((0..8).map(|i| train.label(i)).collect::<Vec<_>>(), [5, 0, 4, 1, 9, 2, 1, 3]);
    assert_eq!((0..8).map(|i| test.label(i)).collect::<Vec<_>>(), [7, 2, 1, 0, 4, 1, 4, 9]);
    let bright = train.image(0).iter().filter(|p| **p > 127).count();
    assert!((50..200).contains(&bright), "a digit covers a part of its image: {bright} of 784 pixels");
    assert_ne!(train.info().crc32, test.info().crc32);
}

#[test]
fn folders_plain_and_packed_read_the_same() {
    let (images, labels) = good();
    let plain = folder(&images, &labels, "");
    let packed = folder(&gzip(&images), &gzip(&labels), ".gz");
    for folder in [&plain, &packed] {
        let data = idx::open(folder.path(), Split::Train, 10).unwrap();
        assert_eq!(data.shape(), ImageShape { height: 2, width: 5, channels: 1 });
        assert_eq!((0..3).map(|i| data.label(i)).collect::<Vec<_>>(), [3, 0, 9]);
        assert_eq!(data.image(1), (10..20).map(|i| i * 8).collect::<Vec<u8>>());
    }
    let data = idx::open(plain.path(), Split::Train, 10).unwrap();
    assert_eq!(data.info(), idx::open(packed.path(), Split::Train, 10).unwrap().info());
    refused(idx::open(plain.path(), Split::Test, 10), &["no t10k-images-idx3-ubyte"]);
    refused(idx::open(Path::new("/nowhere"), Split::Train, 10), &["/nowhere", "train-images-idx3-ubyte"]);
}

#[test]
fn damaged_files_are_refused_with_file_offset_and_numbers() {
    let at = Path::new("some/file");
    let (images, labels) = good();
    let image = |bytes: &[u8]| idx::images(at, bytes);
    let label = |bytes: &[u8]| idx::labels(at, bytes, 10);

    refused(image(&image_file(0x801, 3, 2, 5, &[0; 30])), &["some/file", "offset 0", "0x00000801", "0x00000803"]);
    refused(label(&label_file(0x803, 3, &[0; 3])), &["some/file", "offset 0", "0x00000803", "0x00000801"]);
    // Cut off at every length.
    for len in 0..images.len() {
        refused(image(&images[..len]), &["some/file", "offset"]);
    }
    refused(image(&images[..45]), &["offset 45", "46", "45"]);
    refused(label(&labels[..9]), &["offset 9", "need 11 bytes", "at most 9"]);
    // Longer than the header says.
    let longer = [images.clone(), vec![0; 2]].concat();
    refused(image(&longer), &["offset 46", "need 46 bytes", "there are 48"]);
    refused(label(&label_file(0x801, 3, &[3, 10, 9])), &["offset 9", "label 10", "--classes 10 end at 9"]);
    refused(image(&image_file(0x803, 0, 2, 5, &[])), &["offset 4", "0 images"]);
    refused(image(&image_file(0x803, 3, 0, 5, &[])), &["offset 8", "0 rows"]);
    refused(image(&image_file(0x803, 3, 2, 1 << 20, &[])), &["offset 12", "1048576 columns", "65535"]);
    // A header that promises more than memory has: refused from the size of the file, with nothing allocated.
    refused(image(&image_file(0x803, u32::MAX, 65_535, 65_535, &[0; 30])), &["offset 46", "at most 46"]);
}

#[test]
fn damaged_gzip_is_refused() {
    let at = Path::new("some/file.gz");
    let pixels: Vec<u8> = (0..20_000u32).map(|i| (i * i >> 7) as u8).collect();
    let packed = gzip(&image_file(0x803, 20, 100, 10, &pixels));
    assert_eq!(idx::images(at, &packed).unwrap().pixels, pixels);
    for len in [2, 11, packed.len() / 2, packed.len() - 1] {
        refused(idx::images(at, &packed[..len]), &["some/file.gz", "offset", "(unpacked)"]);
    }
    let mut flipped = packed.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    refused(idx::images(at, &flipped), &["damaged gzip"]);
    // The sum at the end is checked too.
    let mut flipped = packed.clone();
    let last = flipped.len() - 6;
    flipped[last] ^= 1;
    refused(idx::images(at, &flipped), &["damaged gzip"]);
    refused(idx::images(at, &[packed.clone(), b"rubbish".to_vec()].concat()), &["damaged gzip"]);
    refused(idx::images(at, &gzip(&image_file(0x803, 21, 100, 10, &pixels))), &["20016", "21016"]);
    refused(idx::images(at, &gzip(&image_file(0x803, 19, 100, 10, &pixels))), &["offset 19016", "bytes follow"]);
    refused(idx::images(at, &gzip(&image_file(0x803, u32::MAX, 28, 28, &[]))), &["can unpack to at most"]);
}

#[test]
fn counts_that_disagree_are_refused() {
    let (images, _) = good();
    let folder = folder(&images, &label_file(0x801, 2, &[3, 0]), "");
    refused(
        idx::open(folder.path(), Split::Train, 10),
        &["train-labels-idx1-ubyte", "offset 4", "2 labels", "train-images-idx3-ubyte", "3 images"],
    );
}

#[test]
fn sources_have_names() {
    for text in ["mnist-10k", "idx:some/folder"] {
        assert_eq!(text.parse::<DataSource>().unwrap().to_string(), text);
    }
    for text in ["", "mnist", "idx:", "idx", "cifar:x"] {
        let error = text.parse::<DataSource>().unwrap_err();
        assert!(error.contains("mnist-10k") && error.contains("idx:DIR"), "{error}");
    }
}

/// `count` images of one pixel, told apart by label.
fn numbered(count: usize) -> Dataset {
    let shape = ImageShape { height: 1, width: 1, channels: 1 };
    let classes = (0..count).map(|c| c.to_string()).collect();
    Dataset::new("numbered", shape, classes, (0..count).map(|i| i as u8).collect(), (0..count as u32).collect())
        .unwrap()
}

fn batches(data: &Dataset, batch: usize, seed: u64, last: LastBatch, steps: std::ops::Range<u64>) -> Vec<u32> {
    let mut loader = Loader::new(data, batch, seed, last).unwrap();
    let mut all = Vec::new();
    for step in steps {
        let (mut images, mut labels) = (vec![0; batch], vec![0; batch]);
        loader.fill(step, &mut images, &mut labels).unwrap();
        assert!(images.iter().zip(&labels).all(|(i, l)| u32::from(*i) == *l), "images keep their labels");
        all.extend(labels);
    }
    all
}

#[test]
fn every_epoch_is_a_new_permutation() {
    let data = numbered(100);
    let seen = batches(&data, 10, 1, LastBatch::Drop, 0..30);
    let mut orders = std::collections::HashSet::new();
    for epoch in seen.chunks(100) {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert!(orders.insert(epoch.to_vec()), "two epochs have the same order");
    }
    assert!(orders.insert((0..100).collect()), "an epoch is not shuffled");
    assert!(orders.insert(batches(&data, 10, 2, LastBatch::Drop, 0..10)), "two seeds have the same order");
}

#[test]
fn a_batch_follows_from_its_step_alone() {
    let data = numbered(103);
    for last in [LastBatch::Drop, LastBatch::Fill] {
        let through = batches(&data, 10, 5, last, 0..40);
        for start in [1, 9, 10, 11, 25, 39] {
            assert_eq!(batches(&data, 10, 5, last, start..40), through[start as usize * 10..]);
        }
    }
}

#[test]
fn the_last_batch_is_dropped_or_filled() {
    let data = numbered(103);
    let dropped = batches(&data, 10, 1, LastBatch::Drop, 0..10);
    let mut sorted = dropped.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), 100, "an epoch shows no image twice");
    // 103 batches of 10 are ten whole epochs.
    let mut filled = batches(&data, 10, 1, LastBatch::Fill, 0..103);
    let first: std::collections::HashSet<u32> = filled[..103].iter().copied().collect();
    assert_eq!(first.len(), 103);
    filled.sort_unstable();
    assert_eq!(filled, (0..103).flat_map(|i| [i; 10]).collect::<Vec<_>>());
    // A batch as large as the data is one epoch a step.
    assert_eq!(batches(&data, 103, 1, LastBatch::Drop, 0..2).len(), 206);
}

#[test]
fn batches_that_cannot_be_are_refused() {
    let data = numbered(103);
    refused(Loader::new(&data, 104, 1, LastBatch::Drop), &["batch", "104", "103", "numbered"]);
    refused(Loader::new(&data, 0, 1, LastBatch::Drop), &["batch", "0"]);
    let mut loader = Loader::new(&data, 10, 1, LastBatch::Drop).unwrap();
    refused(loader.fill(0, &mut [0; 9], &mut [0; 10]), &["9 bytes", "10"]);
}

/// The first and second place of a short shuffle are uniform over many seeds: chi-squared with 19 degrees of freedom
/// is below 50 with probability 0.9998.
#[test]
fn shuffles_are_uniform() {
    let data = numbered(5);
    let mut counts = [0.0f64; 25];
    for seed in 0..20_000 {
        let order = batches(&data, 5, seed, LastBatch::Drop, 0..1);
        counts[(order[0] * 5 + order[1]) as usize] += 1.0;
    }
    let pairs: Vec<f64> = (0..25).filter(|i| i / 5 != i % 5).map(|i| counts[i]).collect();
    let chi: f64 = pairs.iter().map(|c| (c - 1000.0).powi(2) / 1000.0).sum();
    assert!(chi < 50.0, "{chi}: {pairs:?}");
}
