//! Pictures as the world has them: files of many forms beside Pillow's pixels, and folders of them.

#[path = "common/zip.rs"]
mod zip;

use std::path::Path;

use zgan::data::{
    DataOptions, DataSource, Dataset, ImageShape, LastBatch, Loader, LoaderOptions, Split, Unreadable, decode, natural,
};
use zgan::picture::Picture;
use zgan::settings::Settings;
use zip::zip;

/// `tests/goldens/decoders.py`: files with the pixels that Pillow makes of them.
struct Golden {
    bytes: Vec<u8>,
}

/// A file, and its pixels (H, W, 3).
struct File {
    name: String,
    bytes: Vec<u8>,
    shape: ImageShape,
    pixels: Vec<u8>,
}

impl Golden {
    fn read() -> Golden {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/decoders.safetensors");
        Golden { bytes: std::fs::read(path).unwrap() }
    }

    fn files(&self) -> Vec<File> {
        let all = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        let names = all.names().into_iter().filter_map(|name| name.strip_prefix("file/"));
        let file = |name: &str| {
            let pixels = all.tensor(&format!("pixels/{}", name.split("--").next().unwrap())).unwrap();
            let [height, width, channels] = *pixels.shape() else { panic!("{name}: no picture") };
            File {
                name: name.to_string(),
                bytes: all.tensor(&format!("file/{name}")).unwrap().data().to_vec(),
                shape: ImageShape { height, width, channels },
                pixels: pixels.data().to_vec(),
            }
        };
        let mut files: Vec<File> = names.map(file).collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    fn file(&self, name: &str) -> Vec<u8> {
        self.files().into_iter().find(|file| file.name == name).unwrap().bytes
    }
}

/// As base64 has them: the file by six bits a digit, and `=` for what lacks at its end.
#[test]
fn a_page_can_hold_a_picture() {
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut ends = std::collections::BTreeSet::new();
    for side in 1..12 {
        let shape = ImageShape { height: side, width: side, channels: 1 };
        let pixels = (0..side * side).map(|i| (i * 37 % 251) as u8).collect();
        let picture = Picture { shape, pixels };
        let uri = picture.data_uri();
        let text = uri.strip_prefix("data:image/png;base64,").unwrap();
        assert_eq!(text.len() % 4, 0);
        let plain = text.trim_end_matches('=');
        ends.insert(text.len() - plain.len());
        let bits: Vec<u8> = plain
            .chars()
            .flat_map(|c| (0..6).rev().map(move |bit| (digits.find(c).unwrap() >> bit & 1) as u8))
            .collect();
        let bytes: Vec<u8> = bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | bit)).collect();
        assert_eq!(bytes, picture.encode().unwrap());
    }
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn every_form_decodes_as_pillow_has_it() {
    let files = Golden::read().files();
    assert!(files.len() > 150, "{}", files.len());
    for File { name, bytes, shape, pixels } in files {
        let mut out = vec![0; shape.len()];
        decode::image(&bytes, shape, &mut out).unwrap_or_else(|error| panic!("{name}: {error}"));
        let differences: Vec<u8> = out.iter().zip(&pixels).map(|(a, b)| a.abs_diff(*b)).collect();
        let worst = differences.iter().copied().max().unwrap();
        let mean = differences.iter().map(|d| f64::from(*d)).sum::<f64>() / out.len() as f64;
        // Transforms are rounded in several ways, and transparency by one.
        let (most, average) = match name.split(' ').next().unwrap() {
            "jpeg" => (6, 0.6),
            "turned" if name.contains("jpeg") => (4, 0.5),
            "webp" if name.contains("lossy") => (2, 0.2),
            _ => (u8::from(name.contains("alpha") || name.contains("clear")), 0.5),
        };
        assert!(worst <= most && mean <= average, "{name}: {worst} at most, {mean} on average");
    }
}

/// The bytes that may be missing at the end: what follows the picture, and what fills the last line of a BMP file.
fn may_lack(name: &str, len: usize) -> usize {
    match name {
        _ if name.contains("trailing") => 13,
        // The first frame is whole long before the end.
        _ if name.contains("of frames") => len,
        _ if name.starts_with("bmp") => 4,
        _ => 0,
    }
}

#[test]
fn a_file_that_was_cut_off_is_an_error_at_every_length() {
    let (eoi, mut tried) = ([0xff, 0xd9], 0);
    for File { name, bytes, shape, .. } in Golden::read().files() {
        let mut out = vec![0; shape.len()];
        let end = bytes.len() - may_lack(&name, bytes.len());
        for len in (0..end).step_by(7).chain(end.saturating_sub(10)..end) {
            assert!(decode::image(&bytes[..len], shape, &mut out).is_err(), "{name}: {len} of {} bytes", bytes.len());
            tried += 1;
        }
        // Programs for damaged cards put the end marker there.
        if name.starts_with("jpeg") && may_lack(&name, 0) == 0 && !name.contains("progressive") {
            for len in [end - 60, end - 40, end - 20] {
                let mended = [&bytes[..len], &eoi].concat();
                assert!(decode::image(&mended, shape, &mut out).is_err(), "{name}: {len} bytes and an end marker");
            }
        }
    }
    assert!(tried > 10_000, "{tried}");
}

#[test]
fn damaged_files_are_errors_or_pictures() {
    let mut state = 1u64;
    for File { name, bytes, shape, .. } in Golden::read().files() {
        let mut out = vec![0; shape.len()];
        for _ in 0..40 {
            let mut damaged = bytes.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % damaged.len();
                damaged[at] ^= (state >> 20) as u8;
            }
            if let Err(error) = decode::image(&damaged, shape, &mut out) {
                assert!(!error.is_empty() && !error.contains("panicked"), "{name}: {error}");
            }
        }
    }
}

#[test]
fn what_is_not_read_is_refused_with_the_reason() {
    let shape = ImageShape { height: 4, width: 4, channels: 3 };
    let refused = |bytes: &[u8], parts: &[&str]| {
        let error = decode::image(bytes, shape, &mut [0; 48]).unwrap_err();
        parts.iter().for_each(|part| assert!(error.contains(part), "{error:?} does not say {part:?}"));
    };
    let golden = Golden::read();
    refused(b"", &["empty"]);
    refused(b"II\x2a\0 a TIFF file", &["neither PNG nor JPEG", "49"]);
    refused(b"<html>", &["neither"]);
    let jpeg = golden.file("jpeg grey--one scan");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let with = |at: usize, byte: u8| {
        let mut other = jpeg.clone();
        other[at] = byte;
        other
    };
    refused(&with(frame + 4, 12), &["12"]);
    refused(&with(frame + 1, 0xc9), &["rithmetic"]);
    refused(&with(frame + 1, 0xc5), &["ierarchical"]);
    // Heights and widths that would take gigabytes: refused before anything is allocated.
    let mut huge = golden.file("bmp rgb--plain");
    huge[18..26].copy_from_slice(&[0, 0x40, 0, 0, 0, 0x40, 0, 0]);
    refused(&huge, &["16384 x 16384 pixels", "--max-pixels"]);
    let mut huge = jpeg.clone();
    huge[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    refused(&huge, &["65535 x 65535 pixels", "--max-pixels"]);
}

#[test]
fn pictures_have_one_channel_or_three() {
    let root = tree(&[("1.png", grey(1))]);
    for (size, channels) in [(8, 0), (8, 2), (8, 4), (8, usize::MAX), (0, 3)] {
        let what = format!("images of {size}x{size}x{channels} are wanted");
        refused(
            open(root.path(), &DataOptions { size: size.into(), channels, ..options() }),
            &[&what, "1 or 3 channels"],
        );
    }
}

fn options() -> DataOptions {
    DataOptions { size: 8.into(), threads: 2, ..Settings::default().data_options() }
}

fn open(folder: &Path, options: &DataOptions) -> zgan::Result<Dataset> {
    DataSource::Folder(folder.to_path_buf()).open(Split::Train, options)
}

fn refused(result: zgan::Result<impl Sized>, parts: &[&str]) {
    let Err(error) = result else { panic!("accepted; expected an error with {parts:?}") };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

fn said(data: &Dataset, parts: &[&str]) {
    let notes = data.notes().join("\n");
    for part in parts {
        assert!(notes.contains(part), "{notes:?} does not say {part:?}");
    }
}

/// A grey picture, one for each file.
fn grey(value: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 3, 3);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&[value; 9]).unwrap();
    bytes
}

/// Files with their contents; the folders that they are in are made.
fn tree(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    root
}

/// The labels and greys of all images, in order.
fn contents(data: &Dataset) -> Vec<(u32, u8)> {
    let image = |i: usize| {
        let mut out = vec![0; data.shape().len()];
        data.read(i, &mut out).unwrap();
        (data.label(i), out[0])
    };
    (0..data.len()).map(image).collect()
}

#[test]
fn classes_are_read_at_any_depth_and_counted_naturally() {
    let root = tree(&[
        ("10/b.png", grey(1)),
        ("2/images/deep/er/a.PNG", grey(2)),
        ("2/a.png", grey(3)),
        ("1/x.apng", grey(4)),
        ("a2/x.png", grey(5)),
        ("a10/x.png", grey(6)),
        ("2/boxes.txt", b"text".to_vec()),
    ]);
    let data = open(root.path(), &options()).unwrap();
    assert_eq!(data.classes(), ["1", "2", "10", "a2", "a10"]);
    assert_eq!(contents(&data), [(0, 4), (1, 3), (1, 2), (2, 1), (3, 5), (4, 6)]);
    said(&data, &["left out 1 file: 1 .txt"]);
    let mut names = ["b", "img12", "img2", "010", "9", "a", "99999999999999999999998", "99999999999999999999999"];
    names.sort_by(|a, b| natural(a, b));
    assert_eq!(names, ["9", "010", "99999999999999999999998", "99999999999999999999999", "a", "b", "img2", "img12"]);
}

/// An older program sorted names by their bytes. What it trained goes on with its own numbers.
#[test]
fn the_order_of_a_checkpoint_stays() {
    let root = tree(&[("2/a.png", grey(2)), ("10/a.png", grey(10))]);
    let like = |names: &[&str]| DataOptions { like: Some(names.iter().map(|n| n.to_string()).collect()), ..options() };
    let old = open(root.path(), &like(&["10", "2"])).unwrap();
    assert_eq!((old.classes(), contents(&old)), (&["10".into(), "2".into()][..], vec![(0, 10), (1, 2)]));
    let new = open(root.path(), &options()).unwrap();
    assert_eq!((new.classes(), contents(&new)), (&["2".into(), "10".into()][..], vec![(0, 2), (1, 10)]));
    assert_ne!(old.info(), new.info());
    // Other classes are other data, whose own order counts.
    assert_eq!(open(root.path(), &like(&["10", "3"])).unwrap().classes(), ["2", "10"]);
}

#[test]
fn what_is_left_out_is_counted() {
    let jpeg = Golden::read().file("jpeg grey--one scan");
    let root = tree(&[
        ("a/1.jfif", jpeg.clone()),
        ("a/2.JPE", jpeg.clone()),
        ("a/3.tif", b"II".to_vec()),
        ("a/4.TIF", b"II".to_vec()),
        ("a/README", b"text".to_vec()),
        ("b/deep/1.jpeg", jpeg),
        ("b/.hidden.png", b"no picture".to_vec()),
        ("__MACOSX/a/._1.jpg", b"no picture".to_vec()),
        ("c/x.heic", b"".to_vec()),
    ]);
    let data = open(root.path(), &options()).unwrap();
    assert_eq!((data.len(), data.classes().len()), (3, 2));
    said(&data, &["left out 4 files: 1 .heic, 2 .tif, 1 without an ending", "left out 1 sub-folder without images: c"]);
    let none = tree(&[("a/1.tif", b"II".to_vec())]);
    refused(open(none.path(), &options()), &["no PNG or JPEG", "1 .tif"]);
    // One folder too high.
    let root = tree(&[("train/a/1.png", grey(1)), ("val/a/1.png", grey(1))]);
    said(&open(root.path(), &options()).unwrap(), &["train, val: read as classes", "train reads one of them alone"]);
    let root = tree(&[("train/a/1.png", grey(1)), ("train/b/1.png", grey(1))]);
    said(&open(root.path(), &options()).unwrap(), &["train is one class", "takes its 2 sub-folders as classes"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_once_and_dangling_ones_told() {
    use std::os::unix::fs::symlink;
    let root = tree(&[("a/1.png", grey(1))]);
    let elsewhere = tree(&[("1.png", grey(9))]);
    symlink(elsewhere.path(), root.path().join("b")).unwrap();
    symlink(root.path(), root.path().join("a/round")).unwrap();
    let data = open(root.path(), &options()).unwrap();
    assert_eq!(contents(&data), [(0, 1), (1, 9)]);
    said(&data, &["left out 1 link back to a folder around it: a/round"]);
    symlink("/nowhere/x.png", root.path().join("a/2.png")).unwrap();
    refused(open(root.path(), &options()), &["a/2.png", "a link to /nowhere/x.png", "--unreadable skip"]);
    let skip = DataOptions { unreadable: Unreadable::Skip, ..options() };
    let data = open(root.path(), &skip).unwrap();
    assert_eq!(data.len(), 2);
    said(&data, &["left out 1 link to nothing: a/2.png"]);
}

/// Linux allows any bytes in a name.
#[cfg(target_os = "linux")]
#[test]
fn names_that_are_no_text_stay_apart() {
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().unwrap();
    for (i, name) in [&b"x\xff"[..], b"x\xfe", b"x\\xff"].into_iter().enumerate() {
        let class = root.path().join(std::ffi::OsStr::from_bytes(name));
        std::fs::create_dir(&class).unwrap();
        std::fs::write(class.join(std::ffi::OsStr::from_bytes(b"\xfa.png")), grey(i as u8)).unwrap();
    }
    let data = open(root.path(), &options()).unwrap();
    let names: std::collections::HashSet<&String> = data.classes().iter().collect();
    assert_eq!((names.len(), data.len()), (3, 3), "{names:?}");
    let path = root.path().join(std::ffi::OsStr::from_bytes(b"x\xff"));
    refused(DataSource::Folder(path).check_text(), &["not UTF-8"]);
}

/// A data set as StyleGAN's tools write it.
fn stylegan(labels: &str) -> Vec<(&'static str, Vec<u8>)> {
    let image = |i: u8| grey(10 * i);
    vec![
        ("00000/img00000000.png", image(0)),
        ("00000/img00000001.png", image(1)),
        ("00001/img00000002.png", image(2)),
        ("dataset.json", format!("{{\"labels\": {labels}}}").into_bytes()),
    ]
}

const LABELS: &str =
    r#"[["00000/img00000000.png", 10], ["00001\\img00000002.png", 2], ["00000/img00000001.png", 2.0]]"#;

#[test]
fn labels_of_a_dataset_json_are_read() {
    let root = tree(&stylegan(LABELS));
    let data = open(root.path(), &options()).unwrap();
    assert_eq!(data.classes(), ["2", "10"]);
    assert_eq!(contents(&data), [(0, 10), (0, 20), (1, 0)]);
    said(&data, &["9 labels below 10 without images"]);
    assert!(!data.notes().join(" ").contains("left out"), "{:?}", data.notes());
    // Without labels, the shards are no classes either.
    let root = tree(&stylegan("null"));
    let data = open(root.path(), &options()).unwrap();
    assert_eq!((data.len(), data.classes().len()), (3, 1));
    let root = tree(&stylegan(r#"[["00000/img00000000.png", 0], ["00009/gone.png", 1]]"#));
    let data = open(root.path(), &options()).unwrap();
    assert_eq!(data.len(), 1);
    said(&data, &["left out 2 images without a label", "00000/img00000001.png", "labels of 1 file", "00009/gone.png"]);
    for (labels, part) in [
        (r#"[["00000/img00000000.png", -1]]"#, "labels[0]"),
        ("7", "expected a list"),
        (r#"[["x.png", 1]]"#, "none of its labels"),
        (r#"[["x.png", 1], ["./x.png", 2]]"#, "labels[1]: 2 for x.png, which has label 1 already"),
        ("[", "no JSON"),
    ] {
        refused(open(tree(&stylegan(labels)).path(), &options()), &["dataset.json", part]);
    }
    let root = tree(&stylegan("0")[..3]);
    said(&open(root.path(), &options()).unwrap(), &["00000, 00001, ... are read as classes", "dataset.json"]);
    // Another program's file of that name.
    let root = tree(&[("a/1.png", grey(1)), ("b/1.png", grey(2)), ("dataset.json", b"{}".to_vec())]);
    let data = open(root.path(), &options()).unwrap();
    assert_eq!(data.classes(), ["a", "b"]);
    said(&data, &["left out dataset.json: there are no labels in it"]);
    let marked = b"\xef\xbb\xbf{\"labels\": [[\"1.png\", 3]]}".to_vec();
    let root = tree(&[("1.png", grey(1)), ("dataset.json", marked)]);
    assert_eq!(open(root.path(), &options()).unwrap().classes(), ["3"]);
}

/// What the loader gives for each image: the pixel that tells it, and its vector.
fn vectors(data: &Dataset) -> Vec<(u8, Vec<f32>)> {
    let all = data.vectors().unwrap();
    let row = |label: usize| all.values[label * all.classes..][..all.classes].to_vec();
    contents(data).into_iter().map(|(label, pixel)| (pixel, row(label as usize))).collect()
}

#[test]
fn labels_of_a_dataset_json_may_be_vectors() {
    let labels = r#"[["00000/img00000000.png", [0, 1.5]], ["./00001/img00000002.png", [0, 1.5]], ["00000/img00000001.png", null]]"#;
    let data = open(tree(&stylegan(labels)).path(), &options()).unwrap();
    assert_eq!(data.classes(), ["0", "1"]);
    // Equal vectors stand together.
    assert_eq!(vectors(&data), [(10, vec![0.0, 0.0]), (0, vec![0.0, 1.5]), (20, vec![0.0, 1.5])]);
    said(&data, &["1 image without labels: 00000/img00000001.png"]);
    assert!(data.info().vectors && data.info().to_string().ends_with("labels are vectors of 2 classes"));
    // Another number is other data.
    let other = open(tree(&stylegan(&labels.replace("1.5", "1.25"))).path(), &options()).unwrap();
    assert_ne!(other.info(), data.info());
    for (labels, part) in [
        (r#"[["x.png", [1, 0]], ["y.png", 1]]"#, r#"labels[1] is not ["FILE", [2 NUMBERS]] or ["FILE", null]"#),
        (r#"[["x.png", [1, 0]], ["y.png", [1]]]"#, "labels[1] is not"),
        (r#"[["x.png", [1, "a"]]]"#, "labels[0] is not"),
        (r#"[["x.png", []]]"#, "labels[0] is not"),
        (r#"[["x.png", [1, 0]], ["x.png", [0, 1]]]"#, "labels[1]: other labels for x.png than labels[0] has"),
        (r#"[["x.png", [1, 0]]]"#, "none of its labels is of one of the 3 images here"),
        (r#"[["00000/img00000000.png", [0, 0]]]"#, "none of its labels"),
    ] {
        refused(open(tree(&stylegan(labels)).path(), &options()), &["dataset.json", part]);
    }
}

#[test]
fn a_csv_file_has_labels_that_are_vectors() {
    let root = tree(&stylegan("0"));
    let with = |text: &str| {
        let csv = root.path().join("labels.csv");
        std::fs::write(&csv, text).unwrap();
        open(root.path(), &DataOptions { labels: Some(csv), ..options() })
    };
    // As a spreadsheet writes it. What dataset.json says is nothing then.
    let text = "\u{feff}image,\"tall, thin\", red \r\n00000\\img00000001.png,1, -0.5\r\n\"./00000/img00000000.png\",,\r\n\r\ngone.png,1,1\r\n";
    let data = with(text).unwrap();
    assert_eq!(data.classes(), ["tall, thin", "red"]);
    assert_eq!(vectors(&data), [(0, vec![0.0, 0.0]), (20, vec![0.0, 0.0]), (10, vec![1.0, -0.5])]);
    said(
        &data,
        &[
            "2 images without labels: 00000/img00000000.png, 00001/img00000002.png",
            "labels.csv has labels of 1 file that are not here: gone.png",
            "1 .csv, 1 .json",
        ],
    );
    for (text, part) in [
        ("", "labels.csv: empty; expected a line that names its columns"),
        ("image\n", "line 1: expected the name of a column of pictures"),
        ("image,a,,b\n", "line 1: expected"),
        ("image,a,b,a\n", "line 1: two columns are called a"),
        ("image,a,b\nx.png,1\n", "line 2: 2 fields, expected a picture's name and 2 numbers"),
        ("image,a,b\n\n,1,2\n", "line 3: 3 fields, expected a picture's name"),
        ("image,a,b\nx.png,1,yes\n", r#"line 2, column b: "yes", expected a number"#),
        ("image,a,b\nx.png,,1\n", r#"line 2, column a: "", expected a number"#),
        ("image,a,b\nx.png,inf,1\n", r#"line 2, column a: "inf""#),
        ("image,a\n\"x.png,1\n", "line 2: a quotation mark that does not end"),
        ("image,a\nx.png,1\nx.png,2\n", "line 3: other labels for x.png than line 2 has"),
        ("image,a\nx.png,1\n", "none of its labels is of one of the 3 images here"),
    ] {
        refused(with(text), &["labels.csv", part]);
    }
    refused(open(root.path(), &DataOptions { labels: Some("gone.csv".into()), ..options() }), &["gone.csv"]);
}

/// Of files that cannot be read: another one with the same labels stands in.
#[test]
fn a_picture_that_stands_in_has_the_same_vector() {
    let labels = r#"[["1.png", [1, 0]], ["2.png", [0, 1]], ["3.png", [1, 0]]]"#;
    let json = format!("{{\"labels\": {labels}}}").into_bytes();
    let root = tree(&[("1.png", b"nothing".to_vec()), ("2.png", grey(2)), ("3.png", grey(3)), ("dataset.json", json)]);
    let data = open(root.path(), &DataOptions { unreadable: Unreadable::Skip, ..options() }).unwrap();
    assert_eq!(vectors(&data), [(2, vec![0.0, 1.0]), (3, vec![1.0, 0.0]), (3, vec![1.0, 0.0])]);
}

#[test]
fn a_zip_is_read_as_its_folder() {
    let root = tree(&stylegan(LABELS));
    let expected = open(root.path(), &options()).unwrap();
    for (deflated, within) in [(false, ""), (true, ""), (true, "data/")] {
        let files: Vec<(String, Vec<u8>)> =
            stylegan(LABELS).into_iter().map(|(name, bytes)| (format!("{within}{name}"), bytes)).collect();
        let path = root.path().join("data.zip");
        let bytes = zip(&files, deflated);
        std::fs::write(&path, &bytes).unwrap();
        for memory in [0, 1 << 20] {
            let data = open(&path, &DataOptions { memory, ..options() }).unwrap();
            assert_eq!((contents(&data), data.info()), (contents(&expected), expected.info()));
        }
        // A byte of a picture: its sum is checked.
        let mut damaged = bytes.clone();
        let at = if deflated { 80 } else { 100 };
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        refused(open(&path, &options()), &["data.zip"]);
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        refused(open(&path, &options()), &["data.zip", "no zip"]);
    }
}

#[test]
fn folders_of_each_kind_of_file_are_read() {
    let golden = Golden::read();
    for name in ["jpeg 420--short app14", "gif--plain", "webp lossy 90", "bmp palette--runs", "png palette 2--plain"] {
        let root = tree(&[]);
        for (i, ending) in ["jpg", "png", "webp"].into_iter().enumerate() {
            // What a file is, its bytes tell, not its ending.
            std::fs::write(root.path().join(format!("{i}.{ending}")), golden.file(name)).unwrap();
        }
        let data = open(root.path(), &options()).unwrap();
        assert_eq!((data.len(), contents(&data)[0]), (3, contents(&data)[2]), "{name}");
    }
}

/// A picture whose samples have 16 bits.
fn deep(samples: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, samples.len() as u32, 1);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    let samples: Vec<u8> = samples.iter().flat_map(|sample| sample.to_be_bytes()).collect();
    encoder.write_header().unwrap().write_image_data(&samples).unwrap();
    bytes
}

#[test]
fn samples_of_sixteen_bits_are_scaled_and_dark_ones_told() {
    let root = tree(&[("a.png", deep(&[4095])), ("b.png", deep(&[65_535]))]);
    let read = |depth| {
        let data = open(root.path(), &DataOptions { channels: 1, depth, ..options() }).unwrap();
        (contents(&data)[0].1, data.newly_dark())
    };
    let (value, told) = read(16);
    assert_eq!(value, 16, "4095 of 65535");
    let told = told.unwrap();
    assert!(told.contains("1 of the 16-bit pictures") && told.contains("a.png") && told.contains("4095"), "{told}");
    assert!(told.contains("--depth 12"), "{told}");
    assert_eq!(read(12), (255, None));
    // Rounded, not cut off: 32,896 of 65,535 are 128.0, and 32,767 are 127.5.
    let root = tree(&[("a.png", deep(&[32_767])), ("b.png", deep(&[32_896])), ("c.png", deep(&[383]))]);
    let data = open(root.path(), &DataOptions { channels: 1, ..options() }).unwrap();
    assert_eq!(contents(&data).iter().map(|(_, value)| *value).collect::<Vec<_>>(), [127, 128, 1]);
}

#[test]
fn too_many_pixels_are_refused_or_skipped_with_the_option() {
    let root = tree(&[("a.png", grey(1)), ("b.png", deep(&[0; 10]))]);
    let most = |max_pixels, unreadable| open(root.path(), &DataOptions { max_pixels, unreadable, ..options() });
    refused(most(9, Unreadable::Refuse), &["b.png", "10 x 1 pixels", "--max-pixels 9"]);
    assert_eq!(most(10, Unreadable::Refuse).unwrap().len(), 2);
    let data = most(9, Unreadable::Skip).unwrap();
    assert_eq!(contents(&data), [(0, 1), (0, 1)]);
    assert!(data.newly_unreadable()[0].contains("--max-pixels 9"));
}

#[test]
fn a_tilde_is_the_users_folder() {
    let home = std::env::var("HOME").unwrap();
    assert_eq!("folder:~/x y".parse(), Ok(DataSource::Folder(format!("{home}/x y").into())));
    assert_eq!("idx:~".parse(), Ok(DataSource::Idx(home.into())));
    assert!("folder:~other/x".parse::<DataSource>().unwrap_err().contains("another user"));
    assert_eq!("folder:./~/x".parse(), Ok(DataSource::Folder("./~/x".into())));
    assert_eq!("folder:a~/x".parse(), Ok(DataSource::Folder("a~/x".into())));
}

/// Gigabytes that take no room on the disk: only the part is read that tells what is wrong.
#[test]
fn a_sparse_file_is_not_read_to_its_end() {
    let jpeg = Golden::read().file("jpeg grey--one scan");
    let scan = jpeg.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    for (start, part) in [(&[][..], "neither PNG nor JPEG"), (&jpeg[..scan + 12], "for so few pixels")] {
        let root = tree(&[("a.jpg", start.to_vec())]);
        std::fs::File::options().write(true).open(root.path().join("a.jpg")).unwrap().set_len(1 << 40).unwrap();
        refused(open(root.path(), &options()), &["a.jpg", part]);
    }
}

/// Threads have the name of what they do.
#[cfg(target_os = "linux")]
#[test]
fn as_many_threads_decode_as_are_asked_for() {
    let decoders = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("decode-")).count()
    };
    let jpeg = Golden::read().file("jpeg 420--one scan");
    let root = tree(&[("a.jpg", jpeg.clone()), ("b.jpg", jpeg)]);
    for threads in [1, 3] {
        let data = open(root.path(), &DataOptions { memory: 0, threads, ..options() }).unwrap();
        let mut loader =
            Loader::new(&data, LoaderOptions { batch: 2, seed: 1, share: 1.0, last: LastBatch::Drop }).unwrap();
        loader.fill(0, &mut [0; 384], &mut [0; 2]).unwrap();
        // A thread takes its name when it begins.
        while decoders() < threads {
            std::thread::yield_now();
        }
        assert_eq!(decoders(), threads);
    }
    // They end with the loader, which waits for them.
    while decoders() > 0 {
        std::thread::yield_now();
    }
}
