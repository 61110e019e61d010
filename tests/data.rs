//! Readers and the loader: what they read, what they refuse and how they say it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use zgan::data::{
    Ahead, DataOptions, DataSource, Dataset, ImageShape, LastBatch, Loader, LoaderOptions, Split, Unreadable, decode,
    idx,
};
use zgan::settings::Settings;

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

fn image(data: &Dataset, index: usize) -> Vec<u8> {
    let mut out = vec![0; data.shape().len()];
    data.read(index, &mut out).unwrap();
    out
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

fn open_idx(folder: &Path, classes: usize) -> zgan::Result<Dataset> {
    let options = DataOptions { classes, ..Settings::default().data_options() };
    DataSource::Idx(folder.to_path_buf()).open(Split::Train, &options)
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
    let train = DataSource::Mnist10k.open(Split::Train, &Settings::default().data_options()).unwrap();
    let test = DataSource::Mnist10k.open(Split::Test, &Settings::default().data_options()).unwrap();
    assert_eq!((train.len(), test.len()), (10_000, 2_000));
    assert_eq!(train.shape(), ImageShape { height: 28, width: 28, channels: 1 });
    assert_eq!(train.classes().len(), 10);
    // The first labels of MNIST, as its page shows them.
    assert_eq!((0..8).map(|i| train.label(i)).collect::<Vec<_>>(), [5, 0, 4, 1, 9, 2, 1, 3]);
    assert_eq!((0..8).map(|i| test.label(i)).collect::<Vec<_>>(), [7, 2, 1, 0, 4, 1, 4, 9]);
    let bright = image(&train, 0).iter().filter(|p| **p > 127).count();
    assert!((50..200).contains(&bright), "a digit covers a part of its image: {bright} of 784 pixels");
    assert_ne!(train.info().crc32, test.info().crc32);
}

#[test]
fn folders_plain_and_packed_read_the_same() {
    let (images, labels) = good();
    let plain = folder(&images, &labels, "");
    let packed = folder(&gzip(&images), &gzip(&labels), ".gz");
    for folder in [&plain, &packed] {
        let data = open_idx(folder.path(), 10).unwrap();
        assert_eq!(data.shape(), ImageShape { height: 2, width: 5, channels: 1 });
        assert_eq!((0..3).map(|i| data.label(i)).collect::<Vec<_>>(), [1, 0, 2]);
        assert_eq!(data.classes(), ["0", "3", "9"], "classes without images are none");
        assert_eq!(image(&data, 1), (10..20).map(|i| i * 8).collect::<Vec<u8>>());
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
    let pixels: Vec<u8> = (0..20_000u32).map(|i| ((i * i) >> 7) as u8).collect();
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
    for text in ["mnist-10k", "idx:some/folder", "cifar10:x", "cifar100:/a/b", "folder:C:\\x"] {
        assert_eq!(text.parse::<DataSource>().unwrap().to_string(), text);
    }
    for text in ["", "mnist", "idx:", "idx", "cifar:x", "folder:"] {
        let error = text.parse::<DataSource>().unwrap_err();
        assert!(error.contains("mnist-10k") && error.contains("idx:DIR") && error.contains("folder:DIR"), "{error}");
    }
}

/// `count` images of one pixel, told apart by label.
fn numbered(count: usize) -> Dataset {
    let shape = ImageShape { height: 1, width: 1, channels: 1 };
    let classes = (0..count).map(|c| c.to_string()).collect();
    Dataset::new("numbered", shape, classes, (0..count).map(|i| i as u8).collect(), (0..count as u32).collect())
        .unwrap()
}

fn options(batch: usize, seed: u64, last: LastBatch) -> LoaderOptions {
    LoaderOptions { batch, seed, share: 1.0, last }
}

fn batches(data: &Dataset, batch: usize, seed: u64, last: LastBatch, steps: std::ops::Range<u64>) -> Vec<u32> {
    let mut loader = Loader::new(data, options(batch, seed, last)).unwrap();
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

/// Of 3, 10 and 100 images of three classes.
#[test]
fn a_share_of_each_class_is_the_same_whatever_the_seed() {
    let shape = ImageShape { height: 1, width: 1, channels: 1 };
    let labels: Vec<u32> = [(0, 3), (1, 10), (2, 100)].iter().flat_map(|(c, n)| vec![*c; *n]).collect();
    let classes = ["a", "b", "c"].map(String::from).to_vec();
    let data = Dataset::new("three", shape, classes, (0..113).collect(), labels).unwrap();
    let epoch = |share: f64, seed: u64, count: usize| {
        let mut loader =
            Loader::new(&data, LoaderOptions { batch: count, seed, share, last: LastBatch::Drop }).unwrap();
        assert_eq!(loader.images(), count);
        let (mut images, mut labels) = (vec![0; count], vec![0; count]);
        loader.fill(0, &mut images, &mut labels).unwrap();
        assert!(images.iter().zip(&labels).all(|(i, l)| data.label(*i as usize) == *l), "images keep their labels");
        let of = [0, 1, 2].map(|class| labels.iter().filter(|label| **label == class).count());
        (images, of)
    };
    let sorted = |mut images: Vec<u8>| {
        images.sort_unstable();
        images
    };
    // 0.3 images are one, 2.5 are three.
    let (tenth, of) = epoch(0.1, 1, 12);
    assert_eq!(of, [1, 1, 10]);
    assert_eq!(epoch(0.25, 1, 29).1, [1, 3, 25]);
    let (other, _) = epoch(0.1, 2, 12);
    assert_ne!(tenth, other, "the order follows the seed");
    let tenth = sorted(tenth);
    assert_eq!(tenth, sorted(other), "the images do not");
    assert_ne!(tenth, sorted([vec![0, 3], (13..23).collect()].concat()), "they are not the first ones");
    let half = sorted(epoch(0.5, 1, 57).0);
    assert!(tenth.iter().all(|image| half.contains(image)), "a smaller share is a part of a larger one");
    assert_eq!(sorted(epoch(1.0, 1, 113).0), (0..113).collect::<Vec<_>>());
    let few = Loader::new(&data, LoaderOptions { batch: 13, seed: 1, share: 0.1, last: LastBatch::Drop });
    refused(few, &["13 images", "have 12 with limit-data 0.1"]);
}

#[test]
fn batches_that_cannot_be_are_refused() {
    let data = numbered(103);
    refused(Loader::new(&data, options(104, 1, LastBatch::Drop)), &["batch", "104", "103", "numbered"]);
    refused(Loader::new(&data, options(0, 1, LastBatch::Drop)), &["batch", "0"]);
    refused(Loader::new(&data, options(104, 1, LastBatch::Fill)), &["--last-batch fill", "--batch 103"]);
    let mut loader = Loader::new(&data, options(10, 1, LastBatch::Drop)).unwrap();
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

/// Files that PIL wrote, and what PIL makes of them: `tests/goldens/pictures.py`.
struct Golden(Vec<u8>);

impl Golden {
    fn read() -> Golden {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/pictures.safetensors");
        Golden(std::fs::read(path).unwrap())
    }

    fn tensor(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let all = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let view = all.tensor(name).unwrap();
        (view.shape().to_vec(), view.data().to_vec())
    }

    fn file(&self, name: &str) -> Vec<u8> {
        self.tensor(&format!("{name}.file")).1
    }
}

/// The largest and the mean difference of two images.
fn difference(a: &[u8], b: &[u8]) -> (u8, f64) {
    assert_eq!(a.len(), b.len());
    let all: Vec<u8> = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).collect();
    (all.iter().copied().max().unwrap(), all.iter().map(|d| f64::from(*d)).sum::<f64>() / all.len() as f64)
}

#[test]
fn pictures_decode_as_pil_has_them() {
    let golden = Golden::read();
    // How far decoders of JPEG may differ: in the rounding of the transform.
    let cases = [
        ("png_rgb", 0, 0.0),
        ("png_grey", 0, 0.0),
        ("png_deep", 0, 0.0),
        ("png_rgba", 1, 0.5),
        ("png_palette", 0, 0.0),
        ("jpeg_444", 4, 0.7),
        ("jpeg_420", 5, 0.7),
        ("jpeg_progressive", 4, 0.7),
        ("jpeg_grey", 2, 0.3),
        ("jpeg_cmyk", 8, 1.5),
    ];
    for (name, most, mean) in cases {
        let file = golden.file(name);
        // The same size: no pixel is scaled.
        for (part, slack) in [("pixels", 0), ("small", 1), ("large", 1)] {
            let (shape, expected) = golden.tensor(&format!("{name}.{part}"));
            let shape = ImageShape { height: shape[0], width: shape[1], channels: shape[2] };
            let mut out = vec![0; shape.len()];
            decode::image(&file, shape, &mut out).unwrap();
            let (worst, average) = difference(&out, &expected);
            assert!(
                worst <= most + slack && average <= mean + 0.5 * f64::from(slack),
                "{name}.{part}: {worst} at most, {average} on average"
            );
        }
    }
}

#[test]
fn channels_are_converted() {
    let golden = Golden::read();
    let grey_shape = ImageShape { height: 31, width: 45, channels: 1 };
    let mut grey = vec![0; grey_shape.len()];
    decode::image(&golden.file("png_rgb"), grey_shape, &mut grey).unwrap();
    assert_eq!(grey, golden.tensor("png_grey.pixels").1, "as PIL's convert(\"L\")");
    let mut colour = vec![0; 3 * grey.len()];
    decode::image(&golden.file("png_grey"), ImageShape { channels: 3, ..grey_shape }, &mut colour).unwrap();
    assert!(colour.chunks(3).zip(&grey).all(|(rgb, grey)| rgb == [*grey; 3]));
}

#[test]
fn damaged_pictures_are_errors_with_reasons() {
    let golden = Golden::read();
    let shape = ImageShape { height: 8, width: 8, channels: 3 };
    let mut out = vec![0; shape.len()];
    for name in ["png_rgb", "png_palette", "jpeg_444", "jpeg_progressive"] {
        let file = golden.file(name);
        decode::image(&file, shape, &mut out).unwrap();
        for part in 0..8 {
            let len = file.len() * part / 8;
            let error = decode::image(&file[..len], shape, &mut out).expect_err(&format!("{name}, {len} bytes"));
            assert!(!error.is_empty());
        }
    }
    assert!(decode::image(b"GIF89a", shape, &mut out).is_err());
    // 4 billion pixels claimed by a header of 33 bytes.
    let mut huge = golden.file("png_rgb");
    huge[16..24].copy_from_slice(&[0, 0, 255, 255, 0, 0, 255, 255]);
    assert!(decode::image(&huge, shape, &mut out).is_err());
    // Whatever bytes there are, it is an error or an image.
    let mut state = 1u64;
    for name in ["png_rgba", "jpeg_420", "jpeg_progressive"] {
        let file = golden.file(name);
        for _ in 0..300 {
            let mut damaged = file.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % damaged.len();
                damaged[at] ^= (state >> 20) as u8;
            }
            let _ = decode::image(&damaged, shape, &mut out);
        }
    }
}

/// `count` pictures in two classes, by class folders; picture `i` is one grey, 10 * i.
fn picture_folder(count: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..count {
        let class = folder.path().join(if i < count / 2 { "cats" } else { "dogs" });
        std::fs::create_dir_all(&class).unwrap();
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 5, 4);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.write_header().unwrap().write_image_data(&[i as u8 * 10; 20]).unwrap();
        std::fs::write(class.join(format!("{i:02}.png")), bytes).unwrap();
    }
    std::fs::write(folder.path().join("cats/notes.txt"), "no image").unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    folder
}

fn folder_options(unreadable: Unreadable, memory: usize) -> DataOptions {
    DataOptions { size: 4.into(), channels: 1, unreadable, memory, ..Settings::default().data_options() }
}

fn open_folder(folder: &Path, unreadable: Unreadable, memory: usize) -> zgan::Result<Dataset> {
    DataSource::Folder(folder.into()).open(Split::Train, &folder_options(unreadable, memory))
}

#[test]
fn a_folder_has_a_class_per_sub_folder() {
    let folder = picture_folder(12);
    let data = open_folder(folder.path(), Unreadable::Refuse, 1 << 20).unwrap();
    assert_eq!(data.classes(), ["cats", "dogs"]);
    assert_eq!((0..12).map(|i| data.label(i)).collect::<Vec<_>>(), [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
    assert!((0..12).all(|i| image(&data, i) == [i as u8 * 10; 16]));
    // Without sub-folders there are no classes to tell apart.
    let flat = open_folder(&folder.path().join("dogs"), Unreadable::Refuse, 1 << 20).unwrap();
    assert_eq!((flat.len(), flat.classes().len()), (6, 1));
    refused(open_folder(&folder.path().join("empty"), Unreadable::Refuse, 0), &["empty", "no PNG or JPEG"]);
    refused(open_folder(Path::new("/nowhere"), Unreadable::Refuse, 0), &["/nowhere"]);
    std::fs::copy(folder.path().join("cats/00.png"), folder.path().join("stray.png")).unwrap();
    refused(open_folder(folder.path(), Unreadable::Refuse, 0), &["1 images", "2 sub-folders"]);
}

#[test]
fn streamed_images_are_those_in_memory() {
    let folder = picture_folder(23);
    let whole = open_folder(folder.path(), Unreadable::Refuse, 1 << 20).unwrap();
    let streamed = open_folder(folder.path(), Unreadable::Refuse, 10).unwrap();
    assert!(streamed.is_streamed() && !whole.is_streamed());
    assert_eq!(whole.info(), streamed.info());
    for last in [LastBatch::Drop, LastBatch::Fill] {
        let options = LoaderOptions { batch: 5, seed: 3, share: 1.0, last };
        let (mut a, mut b) = (Loader::new(&whole, options.clone()).unwrap(), Loader::new(&streamed, options).unwrap());
        // In order, then a jump back and one ahead.
        for step in (0..20).chain([3, 4, 100, 101]) {
            let (mut images, mut labels) = (vec![0; 80], vec![0; 5]);
            let (mut images_b, mut labels_b) = (vec![1; 80], vec![1; 5]);
            a.fill(step, &mut images, &mut labels).unwrap();
            b.fill(step, &mut images_b, &mut labels_b).unwrap();
            assert_eq!((images, labels), (images_b, labels_b), "step {step}");
        }
    }
}

/// What [`Dataset::pack`] says, and all images.
fn packed(folder: &Path, unreadable: Unreadable) -> (Vec<String>, Vec<Vec<u8>>) {
    let data = open_folder(folder, unreadable, 0).unwrap();
    let said = std::sync::Mutex::new(Vec::new());
    data.pack(&|line| said.lock().unwrap().push(line)).unwrap();
    (said.into_inner().unwrap(), (0..data.len()).map(|i| image(&data, i)).collect())
}

fn pack_of(folder: &Path) -> std::path::PathBuf {
    folder.join(".zgan-images-4x4x1")
}

#[test]
fn packed_images_are_those_that_are_decoded() {
    let folder = picture_folder(23);
    let whole = open_folder(folder.path(), Unreadable::Refuse, 1 << 20).unwrap();
    let expected: Vec<Vec<u8>> = (0..23).map(|i| image(&whole, i)).collect();
    let (said, images) = packed(folder.path(), Unreadable::Refuse);
    assert_eq!(images, expected);
    assert!(
        said.len() == 1 && said[0].starts_with("23 images are decoded once into ") && said[0].contains(" MB; "),
        "{said:?}"
    );
    // The file is there for whoever comes next, who needs no picture any more.
    for i in 0..23 {
        let path = folder.path().join(if i < 11 { "cats" } else { "dogs" }).join(format!("{i:02}.png"));
        let (len, time) = (path.metadata().unwrap().len(), path.metadata().unwrap().modified().unwrap());
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(len).unwrap();
        file.set_modified(time).unwrap();
    }
    let data = open_folder(folder.path(), Unreadable::Refuse, 0).unwrap();
    assert_eq!(data.packed(), Some(&*pack_of(folder.path())));
    assert_eq!(data.info(), whole.info());
    assert_eq!(packed(folder.path(), Unreadable::Refuse), (vec![], expected));
    let options = DataOptions { pack: false, ..folder_options(Unreadable::Refuse, 0) };
    assert_eq!(DataSource::Folder(folder.path().into()).open(Split::Train, &options).unwrap().packed(), None);
}

/// A picture whose name and length stay is another one by its time, and so is one that is read otherwise.
#[test]
fn changed_pictures_are_packed_anew() {
    let folder = picture_folder(12);
    packed(folder.path(), Unreadable::Refuse);
    let file = |i: usize| folder.path().join(format!("cats/{i:02}.png"));
    assert_eq!(file(1).metadata().unwrap().len(), file(2).metadata().unwrap().len());
    std::fs::write(file(1), std::fs::read(file(2)).unwrap()).unwrap();
    // Clocks of files may tick slowly.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    std::fs::File::options().write(true).open(file(1)).unwrap().set_modified(later).unwrap();
    assert_eq!(open_folder(folder.path(), Unreadable::Refuse, 0).unwrap().packed(), None);
    let (said, images) = packed(folder.path(), Unreadable::Refuse);
    assert_eq!((said.len(), images[1][0], images[2][0]), (1, 20, 20));
    let deep = DataOptions { depth: 12, ..folder_options(Unreadable::Refuse, 0) };
    assert_eq!(DataSource::Folder(folder.path().into()).open(Split::Train, &deep).unwrap().packed(), None);
    std::fs::remove_file(file(5)).unwrap();
    assert_eq!(packed(folder.path(), Unreadable::Refuse).1.len(), 11);
}

#[test]
fn packed_images_remember_what_was_skipped() {
    let folder = picture_folder(12);
    std::fs::write(folder.path().join("cats/03.png"), "no picture").unwrap();
    // A picture that cannot be read ends the packing, and leaves nothing.
    let refusing = open_folder(folder.path(), Unreadable::Refuse, 0).unwrap();
    refused(refusing.pack(&|_| ()), &["cats/03.png", "neither", "--unreadable skip"]);
    assert!(!pack_of(folder.path()).exists());
    let (_, images) = packed(folder.path(), Unreadable::Skip);
    assert_eq!((images[3][0], images[4][0]), (40, 40));
    let again = open_folder(folder.path(), Unreadable::Skip, 0).unwrap();
    assert!(again.packed().is_some());
    let names = again.newly_unreadable();
    assert!(names.len() == 1 && names[0].contains("cats/03.png: neither"), "{names:?}");
    assert_eq!(open_folder(folder.path(), Unreadable::Refuse, 0).unwrap().packed(), None);
}

/// A file that was cut off or changed at any byte is never taken for good, and costs no training.
#[test]
fn damaged_packs_are_decoded_again() {
    let folder = picture_folder(12);
    let (_, expected) = packed(folder.path(), Unreadable::Refuse);
    let path = pack_of(folder.path());
    let good = std::fs::read(&path).unwrap();
    for len in [0, 11, 12, 100, 12 * 16, good.len() - 1] {
        std::fs::write(&path, &good[..len]).unwrap();
        let (said, images) = packed(folder.path(), Unreadable::Refuse);
        assert!(said.len() == 2 && said[0].contains("damaged") && said[0].contains("packed anew"), "{len}: {said:?}");
        assert_eq!((images, std::fs::read(&path).unwrap()), (expected.clone(), good.clone()));
    }
    for at in [0, 100, 12 * 16, 12 * 16 + 47, good.len() - 15, good.len() - 12, good.len() - 1] {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let data = open_folder(folder.path(), Unreadable::Refuse, 0).unwrap();
        assert_eq!((0..12).map(|i| image(&data, i)).collect::<Vec<_>>(), expected, "byte {at}");
        // That of an image is found when it is read, told once, and no later training reads it.
        assert_eq!(data.packed().is_some(), at < 12 * 16, "byte {at}");
        assert_eq!(data.newly_damaged().is_some(), at < 12 * 16, "byte {at}");
        assert!(data.newly_damaged().is_none());
        assert_eq!(packed(folder.path(), Unreadable::Refuse).1, expected, "byte {at}");
        assert_eq!(std::fs::read(&path).unwrap(), good);
    }
}

#[test]
fn what_a_killed_process_left_is_removed_and_others_are_waited_for() {
    let folder = picture_folder(12);
    // No process has so large a number.
    let left = folder.path().join(".zgan-images-4x4x1.4194305.unfinished");
    std::fs::write(&left, "half").unwrap();
    let held = std::fs::File::open(folder.path()).unwrap();
    held.lock().unwrap();
    std::thread::scope(|scope| {
        let (told, waits) = std::sync::mpsc::channel();
        let waiting = scope.spawn(move || {
            let data = open_folder(folder.path(), Unreadable::Refuse, 0).unwrap();
            data.pack(&|line| told.send(line).unwrap()).unwrap();
            (data.packed().is_some(), left.exists(), folder)
        });
        assert!(waits.recv().unwrap().contains("another process packs images there"));
        held.unlock().unwrap();
        let (there, left, _folder) = waiting.join().unwrap();
        assert!(there && !left);
    });
}

/// What ranks read of their batches makes up the batches.
#[test]
fn shares_of_a_batch_are_parts_of_it() {
    let folder = picture_folder(23);
    for memory in [1 << 20, 10] {
        let data = open_folder(folder.path(), Unreadable::Refuse, memory).unwrap();
        for last in [LastBatch::Drop, LastBatch::Fill] {
            let loader = || Loader::new(&data, options(5, 3, last)).unwrap();
            let mut whole = loader();
            let mut shares = [0..2, 2..4, 4..5].map(|share| (loader().with_share(share.clone()).unwrap(), share));
            for step in (0..10).chain([3, 100]) {
                let (mut images, mut labels) = (vec![0; 80], vec![0; 5]);
                whole.fill(step, &mut images, &mut labels).unwrap();
                for (loader, share) in &mut shares {
                    let (mut own, mut own_labels) = (vec![0; 16 * share.len()], vec![0; share.len()]);
                    loader.fill(step, &mut own, &mut own_labels).unwrap();
                    assert_eq!(own, images[16 * share.start..16 * share.end], "step {step}, {share:?}");
                    assert_eq!(own_labels, labels[share.clone()], "step {step}, {share:?}");
                }
            }
            assert!(loader().with_share(2..6).is_err() && loader().with_share(2..2).is_err());
        }
    }
}

#[test]
fn unreadable_pictures_are_refused_or_skipped_by_name() {
    let folder = picture_folder(12);
    std::fs::write(folder.path().join("cats/03.png"), "no picture").unwrap();
    std::fs::write(folder.path().join("dogs/11.png"), "").unwrap();
    refused(open_folder(folder.path(), Unreadable::Refuse, 1 << 20), &["cats/03.png", "neither", "--unreadable skip"]);
    let whole = open_folder(folder.path(), Unreadable::Skip, 1 << 20).unwrap();
    let streamed = open_folder(folder.path(), Unreadable::Skip, 0).unwrap();
    // The next of the class stands in, around its end.
    for data in [&whole, &streamed] {
        assert_eq!(data.len(), 12);
        assert_eq!((image(data, 3)[0], image(data, 11)[0], image(data, 4)[0]), (40, 60, 40));
        let names = data.newly_unreadable();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[0].contains("cats/03.png: neither") && names[1].contains("dogs/11.png"), "{names:?}");
        image(data, 3);
        assert!(data.newly_unreadable().is_empty(), "each is named once");
    }
    let refusing = open_folder(folder.path(), Unreadable::Refuse, 0).unwrap();
    let options = LoaderOptions { batch: 12, seed: 3, share: 1.0, last: LastBatch::Drop };
    let mut loader = Loader::new(&refusing, options).unwrap();
    refused(loader.fill(0, &mut [0; 192], &mut [0; 12]), &[".png"]);
    for i in 0..6 {
        std::fs::write(folder.path().join(format!("cats/{i:02}.png")), "no picture").unwrap();
    }
    refused(open_folder(folder.path(), Unreadable::Skip, 1 << 20), &["cats", "none of its 6 images"]);
}

/// Files of `records` CIFAR records: labels, then three planes; the pixel of plane c at place p is p * 3 + c + label.
fn cifar(labels: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in labels {
        bytes.extend(*label);
        bytes.extend((0..3).flat_map(|c| (0..1024).map(move |p| (p * 3 + c + usize::from(label[0])) as u8)));
    }
    bytes
}

#[test]
fn cifar_files_are_read_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let open = |source: &str, split| {
        let source: DataSource = format!("{source}:{}", folder.path().display()).parse().unwrap();
        source.open(split, &Settings::default().data_options())
    };
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    for i in 1..=4 {
        write(&format!("data_batch_{i}.bin"), &cifar(&[&[i], &[0]]));
    }
    refused(open("cifar10", Split::Train), &["data_batch_5.bin", "cifar10"]);
    write("data_batch_5.bin", &cifar(&[&[9]]));
    write("test_batch.bin", &cifar(&[&[7]]));
    let data = open("cifar10", Split::Train).unwrap();
    assert_eq!((0..9).map(|i| data.label(i)).collect::<Vec<_>>(), [1, 0, 2, 0, 3, 0, 4, 0, 5]);
    assert_eq!(data.classes(), ["0", "1", "2", "3", "4", "9"]);
    assert!(data.notes()[0].contains("left out 4 classes without images: 5, 6, 7, 8"), "{:?}", data.notes());
    assert_eq!(data.shape(), ImageShape { height: 32, width: 32, channels: 3 });
    assert_eq!(image(&data, 2), (0..3072).map(|i| (i + 2) as u8).collect::<Vec<_>>(), "planes become pixels");
    let test = open("cifar10", Split::Test).unwrap();
    assert_eq!((test.label(0), test.classes()), (0, &["7".to_string()][..]));
    assert!(test.of_classes(data.classes()).is_none(), "no class of the test is among the trained ones");
    write("batches.meta.txt", b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n");
    assert_eq!(open("cifar10", Split::Train).unwrap().classes()[3], "cat");
    write("batches.meta.txt", b"airplane\n");
    refused(open("cifar10", Split::Train), &["batches.meta.txt", "1 names, expected 10"]);
    write("data_batch_2.bin", &cifar(&[&[1], &[10]]));
    refused(open("cifar10", Split::Train), &["data_batch_2.bin", "offset 3073", "label 10", "9"]);
    write("data_batch_2.bin", &cifar(&[&[1], &[1]])[..4000]);
    refused(open("cifar10", Split::Train), &["data_batch_2.bin", "offset 3073", "927", "3073", "4000"]);
    write("data_batch_2.bin", &[]);
    refused(open("cifar10", Split::Train), &["data_batch_2.bin", "offset 0"]);

    // CIFAR-100's second label byte is the fine one; its archive's folder is found inside.
    let inner = folder.path().join("cifar-100-binary");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("train.bin"), cifar(&[&[5, 99], &[200, 3]])).unwrap();
    let data = open("cifar100", Split::Train).unwrap();
    assert_eq!((data.label(0), data.label(1), data.classes()), (1, 0, &["3".to_string(), "99".to_string()][..]));
    assert_eq!(image(&data, 0)[..3], [5, 6, 7]);
    std::fs::write(inner.join("train.bin"), cifar(&[&[5, 100]])).unwrap();
    refused(open("cifar100", Split::Train), &["offset 1", "label 100", "99"]);
}

#[test]
fn the_python_version_of_cifar_is_told_from_the_binary_one() {
    for (source, folder, file) in
        [("cifar10", "cifar-10-batches-py", "data_batch_1"), ("cifar100", "cifar-100-python", "train")]
    {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(folder)).unwrap();
        std::fs::write(root.path().join(folder).join(file), "pickled").unwrap();
        for place in [root.path().to_path_buf(), root.path().join(folder)] {
            let source: DataSource = format!("{source}:{}", place.display()).parse().unwrap();
            let opened = source.open(Split::Train, &Settings::default().data_options());
            refused(opened, &[folder, "Python", "binary version", "binary.tar.gz"]);
        }
    }
}

/// Two gigabytes that take no room on the disk.
#[test]
fn a_sparse_file_of_cifar_is_refused_by_its_size() {
    let root = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(root.path().join("data_batch_1.bin")).unwrap();
    file.set_len(2 << 30).unwrap();
    let source = DataSource::Cifar10(root.path().to_path_buf());
    refused(source.open(Split::Train, &Settings::default().data_options()), &["data_batch_1.bin", "2147483648 in all"]);
}

#[test]
fn labels_from_one_and_prefixes_are_understood() {
    let labels = label_file(0x801, 3, &[1, 2, 3]);
    let (images, _) = good();
    let write = |root: &Path, name: &str, bytes: &[u8]| std::fs::write(root.join(name), bytes).unwrap();
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "emnist-letters-train-images-idx3-ubyte.gz", &gzip(&images));
    write(root.path(), "emnist-letters-train-labels-idx1-ubyte.gz", &gzip(&labels));
    for classes in [3, 4, 10] {
        let data = open_idx(root.path(), classes).unwrap();
        assert_eq!((data.classes(), data.label(0)), (&["1", "2", "3"].map(String::from)[..], 0), "{classes}");
    }
    refused(open_idx(root.path(), 2), &["label 2", "--classes 2 end at 1", "from 1 to 3", "--classes 3"]);
    // Of two data sets in one folder, the prefix names one.
    write(root.path(), "emnist-digits-train-images-idx3-ubyte", &images);
    write(root.path(), "emnist-digits-train-labels-idx1-ubyte", &label_file(0x801, 3, &[0, 1, 0]));
    refused(open_idx(root.path(), 10), &["several data sets", "emnist-digits, emnist-letters", "takes one"]);
    assert_eq!(open_idx(&root.path().join("emnist-digits"), 10).unwrap().classes(), ["0", "1"]);
    assert_eq!(open_idx(&root.path().join("emnist-letters"), 3).unwrap().classes().len(), 3);
    refused(open_idx(&root.path().join("emnist"), 10), &["emnist", "no such folder"]);
}

/// A checkpoint of classes some of which have no images keeps them, and its images are the same ones.
#[test]
fn classes_of_a_checkpoint_stay() {
    let (images, labels) = good();
    let root = folder(&images, &labels, "");
    let like: Vec<String> = (0..10).map(|class| class.to_string()).collect();
    let options = DataOptions { like: Some(like.clone()), ..Settings::default().data_options() };
    let data = DataSource::Idx(root.path().to_path_buf()).open(Split::Train, &options).unwrap();
    assert_eq!(data.classes(), like);
    assert_eq!((0..3).map(|i| data.label(i)).collect::<Vec<_>>(), [3, 0, 9]);
    let few = data.of_classes(&["9".to_string(), "0".to_string()]).unwrap();
    assert_eq!((few.label(0), few.label(1), few.len()), (1, 0, 2));
    assert_eq!((image(&few, 0)[0], image(&few, 1)[0]), (80, 160));
}

#[test]
fn a_thread_that_panics_is_an_error_and_goes_on() {
    let read: Arc<dyn Fn(usize) -> zgan::Result<Vec<u8>> + Send + Sync> =
        Arc::new(|index| if index == 3 { panic!("as was asked for") } else { Ok(vec![index as u8]) });
    for threads in [1, 3] {
        let mut ahead = Ahead::new(threads, &read).unwrap();
        let mut batch = |step: u64| {
            let mut images = [0; 2];
            ahead.fill(step, &mut images, |step| vec![2 * step as u32, 2 * step as u32 + 1]).map(|()| images)
        };
        assert_eq!(batch(0).unwrap(), [0, 1]);
        assert!(batch(1).unwrap_err().to_string().contains("panicked"));
        assert_eq!(batch(2).unwrap(), [4, 5]);
    }
    // No thread is left behind, whose copy of `read` would count.
    assert_eq!(Arc::strong_count(&read), 1);
    assert!(Ahead::new(0, &read).is_none());
}
