//! Checkpoints come back as they went, and damaged or foreign ones are refused with the reason.

use std::collections::HashMap;
use std::path::Path;

use zgan::Error;
use zgan::checkpoint::{FORMAT, Header, NamedTensor, load, load_finite, save, take};
use zgan::data::{DataSource, Split};
use zgan::settings::Settings;

fn tensor(name: &str, shape: &[usize], first: f32) -> NamedTensor {
    let n = shape.iter().product::<usize>();
    NamedTensor { name: name.into(), shape: shape.into(), values: (0..n).map(|i| first + i as f32 * 0.1).collect() }
}

fn tensors() -> Vec<NamedTensor> {
    let mut odd = tensor("a.odd", &[5], 0.0);
    odd.values = vec![f32::MIN_POSITIVE / 2.0, -0.0, f32::MAX, 1.0 + f32::EPSILON, -3.25];
    vec![tensor("b.weight", &[3, 4], 1.0), odd, tensor("c.empty", &[0, 7], 0.0), tensor("d.one", &[], 2.0)]
}

fn header(step: u64) -> Header {
    let mut settings = Settings::default();
    settings.training.lr_g = 0.1 + 0.2;
    settings.training.seed = i64::MAX as u64;
    let data = DataSource::Mnist10k.open(Split::Test, &Settings::default().data_options()).unwrap().info();
    Header { format: FORMAT, step, config: settings.numbers().unwrap(), data, scaling: None }
}

fn refused(path: &Path, parts: &[&str]) {
    let Err(error) = load(path) else { panic!("accepted; expected an error with {parts:?}") };
    let message = error.to_string();
    for part in parts.iter().chain([&path.to_str().unwrap()]) {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn what_is_saved_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    save(&path, &tensors(), &header(7)).unwrap();
    let (found, loaded) = load(&path).unwrap();
    assert_eq!(found, header(7));
    let mut expected = tensors();
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(loaded, expected);
    let bits = |t: &[NamedTensor]| t.iter().flat_map(|t| &t.values).map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&loaded), bits(&expected), "signed zeros and subnormals too");
    let settings = Settings::new(None, &found.config).unwrap();
    assert_eq!(settings.training.lr_g, 0.1 + 0.2, "to the last bit");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
}

#[test]
fn equal_states_make_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    save(&a, &tensors(), &header(7)).unwrap();
    let mut shuffled = tensors();
    shuffled.rotate_left(1);
    save(&b, &shuffled, &header(7)).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    save(&b, &tensors(), &header(8)).unwrap();
    assert_ne!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    save(&path, &tensors(), &header(7)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        refused(&path, &["cut off"]);
    }
    std::fs::write(&path, [bytes, vec![0]].concat()).unwrap();
    refused(&path, &["cut off, or not"]);
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    save(&path, &tensors(), &header(7)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let padding = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for at in 0..bytes.len() {
        for bit in [0, 3, 7] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(&path, &damaged).unwrap();
            assert!(load(&path).is_err(), "byte {at} of {} (tensors from {padding}), bit {bit}", bytes.len());
        }
    }
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    refused(&path, &["damaged", "checksum"]);
}

#[test]
fn foreign_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let none: Vec<(&str, safetensors::tensor::TensorView)> = Vec::new();
    safetensors::serialize_to_file(none.clone(), None, &path).unwrap();
    refused(&path, &["zgan did not write"]);
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(none.clone(), Some(metadata), &path).unwrap();
    refused(&path, &["zgan did not write"]);
    let metadata = HashMap::from([("zgan".to_string(), "{\"format\": 99}".to_string())]);
    safetensors::serialize_to_file(none.clone(), Some(metadata), &path).unwrap();
    refused(&path, &["format 99", &FORMAT.to_string()]);
    let metadata = HashMap::from([("zgan".to_string(), "{}".to_string())]);
    safetensors::serialize_to_file(none, Some(metadata), &path).unwrap();
    refused(&path, &["damaged", "format"]);
    std::fs::write(&path, "PK\u{3}\u{4} this is a PyTorch file, which is a zip archive").unwrap();
    refused(&path, &["not a safetensors file"]);
    refused(&folder.path().join("nothing"), &["No such file"]);
}

#[test]
fn a_save_that_fails_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    save(&path, &tensors(), &header(7)).unwrap();
    let before = std::fs::read(&path).unwrap();
    let mut bad = tensors();
    bad[0].shape = vec![5, 5];
    let error = save(&path, &bad, &header(8)).unwrap_err().to_string();
    assert!(error.contains("b.weight") && error.contains("[5, 5]") && error.contains("12 values"), "{error}");
    // A folder in the way of the temporary file: the same as a disk that refuses.
    std::fs::create_dir(folder.path().join(format!("x.{}.unfinished", std::process::id()))).unwrap();
    assert!(save(&path, &tensors(), &header(8)).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(save(&folder.path().join("no/such/folder/x"), &tensors(), &header(8)).is_err());
}

#[test]
fn a_tensor_that_is_not_finite_is_never_saved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    save(&path, &tensors(), &header(7)).unwrap();
    let before = std::fs::read(&path).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut tensors = tensors();
        *tensors[0].values.last_mut().unwrap() = bad;
        match save(&path, &tensors, &header(8)) {
            Err(Error::NotFinite { step: 8, what }) => assert_eq!(what, "tensor b.weight is not finite"),
            other => panic!("{bad}: {other:?}"),
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    assert!(load_finite(&path).is_ok());
    // One that an older program saved.
    let old = Path::new("tests/goldens/not_finite.safetensors");
    assert!(load(old).is_ok(), "it is not damaged");
    let error = load_finite(old).unwrap_err().to_string();
    assert!(error.contains("not_finite.safetensors: step 30: tensor") && error.ends_with("is not finite"), "{error}");
}

#[test]
fn tensors_are_matched_by_name_and_shape() {
    let all = tensors();
    let found = take(&all, &[("d.one", &[]), ("a.odd", &[5]), ("b.weight", &[3, 4]), ("c.empty", &[0, 7])]).unwrap();
    assert_eq!(found.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["d.one", "a.odd", "b.weight", "c.empty"]);
    let error = take(&all, &[("a.odd", &[5]), ("b.weight", &[4, 3]), ("e.new", &[2])]).unwrap_err().to_string();
    for part in ["b.weight is [3, 4], expected [4, 3]", "e.new [2] is missing", "c.empty [0, 7] is not part"] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}
