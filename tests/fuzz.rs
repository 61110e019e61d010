//! Readers of files that a person, a disk or another program may have changed: whatever the bytes are, they give a value or an
//! error, and never panic. `ZGAN_FUZZ` says how many changed files each reader gets.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::Random;
use zgan::checkpoint::{self, FORMAT, Header, NamedTensor};
use zgan::data::{DataSource, Split};
use zgan::device::Device;
use zgan::exchange::{Incoming, Side, file, latents};
use zgan::run::Run;
use zgan::settings::{Preset, Settings};

fn rounds() -> usize {
    std::env::var("ZGAN_FUZZ").map_or(2000, |text| text.parse().unwrap())
}

/// Some bytes changed, taken away, doubled, or replaced by what readers stumble over.
fn changed(original: &[u8], random: &mut Random) -> Vec<u8> {
    const TRAPS: [&[u8]; 12] = [
        b"-1",
        b"1e999",
        b"nan",
        b"18446744073709551616",
        b"\0",
        b"\xff\xfe",
        b"{",
        b"[[",
        b"\"",
        b"\r\n",
        b",,",
        b"9999999999",
    ];
    let mut bytes = original.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(20)).min(bytes.len());
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            4 => drop(bytes.splice(at..end, TRAPS[random.below(TRAPS.len())].iter().copied())),
            _ => drop(bytes.splice(at..end, (0..end - at).map(|_| 0).collect::<Vec<_>>())),
        }
    }
    bytes
}

fn saved(path: &Path) -> Vec<u8> {
    let data = DataSource::Mnist10k.open(Split::Test, &Settings::default().data_options()).unwrap().info();
    let header =
        Header { format: FORMAT, step: 7, config: Settings::default().numbers().unwrap(), data, scaling: None };
    let tensors =
        ["a.weight", "b.bias"].map(|name| NamedTensor { name: name.into(), shape: vec![2, 3], values: vec![0.5; 6] });
    checkpoint::save(path, &tensors, &header).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let original = saved(&path);
    let mut random = Random(1);
    for round in 0..rounds() {
        let bytes = changed(&original, &mut random);
        std::fs::write(&path, &bytes).unwrap();
        let loaded = checkpoint::load(&path);
        assert!(loaded.is_err() || bytes == original, "round {round}: a changed checkpoint was read");
    }
}

#[test]
fn settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    let original = Settings::default().to_toml().unwrap();
    let mut random = Random(2);
    for _ in 0..rounds() {
        std::fs::write(&path, changed(original.as_bytes(), &mut random)).unwrap();
        let read = Settings::read_table(&path).and_then(|table| Settings::new(None, &table));
        if let Ok(settings) = read.and_then(|settings| settings.check().map(|()| settings)) {
            settings.to_toml().unwrap();
        }
    }
}

#[test]
fn logs() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::host(1).unwrap();
    let settings = Settings::default();
    let run = Run::create(folder.path(), Some("a"), "x", false, &settings, &device).unwrap();
    let path = run.metrics(0, &[]).unwrap().path().to_path_buf();
    let header = std::fs::read_to_string(&path).unwrap();
    let columns = header.split(',').count();
    let row = |step: usize| format!("{step},{}\n", vec!["0.5"; columns - 1].join(","));
    let original = header + &(1..=9).map(row).collect::<String>();
    let mut random = Random(3);
    for round in 0..rounds().min(20_000) {
        let bytes = changed(original.as_bytes(), &mut random);
        std::fs::write(&path, &bytes).unwrap();
        let fresh = path.with_file_name("metrics-2.csv");
        let _ = std::fs::remove_file(&fresh);
        let log = run.metrics(5, &[]).unwrap();
        let now = std::fs::read(&path).unwrap();
        if log.changed.is_some() {
            assert!(now == bytes && log.path() == fresh, "round {round}: a log that was changed has been touched");
            continue;
        }
        // It begins as it did, and what is gone are rows after step 5.
        assert!(bytes.starts_with(&now) || bytes.is_empty(), "round {round}");
        let gone = String::from_utf8_lossy(&bytes[now.len().min(bytes.len())..]).into_owned();
        if let Some(first) = gone.lines().next() {
            let step = first.split(',').next().and_then(|cell| cell.parse::<u64>().ok());
            assert!(step.is_some_and(|step| step > 5), "round {round}: {first:?} was dropped");
        }
    }
}

/// Weights and latents of other programs.
#[test]
fn exchanged_files() {
    let folder = tempfile::tempdir().unwrap();
    let tensor = |name: &str, shape: &[usize]| NamedTensor {
        name: name.into(),
        shape: shape.into(),
        values: vec![0.5; shape.iter().product()],
    };
    let weights = folder.path().join("weights.safetensors");
    let metadata = BTreeMap::from([("preset", "mnist"), ("width", "2")].map(|(k, v)| (k.to_string(), v.to_string())));
    let tensors = [
        tensor("l1.weight", &[98, 3]),
        tensor("block2.b1.weights.weight", &[2, 2]),
        tensor("block1.c1.weight_orig", &[2, 1, 3, 3]),
        tensor("model.0.weight", &[2, 3]),
    ];
    file::write(&weights, &metadata, &tensors, &[]).unwrap();
    let [safetensors, npy] = ["z.safetensors", "z.npy"].map(|name| folder.path().join(name));
    for path in [&safetensors, &npy] {
        latents::write(path, &[0.5; 12], 4, &[0, 1, 2]).unwrap();
    }
    let mut random = Random(5);
    for path in [&weights, &safetensors, &npy] {
        let original = std::fs::read(path).unwrap();
        for _ in 0..rounds() / 10 {
            std::fs::write(path, changed(&original, &mut random)).unwrap();
            // A value or an error.
            let _ = (latents::read(path, 4, 3), file::list(path));
            if let Ok(read) = Incoming::read(path) {
                for preset in ["mnist", "softmax-gan"].map(|name| name.parse::<Preset>().unwrap()) {
                    for side in [Side::Generator, Side::Discriminator] {
                        let Ok(table) = read.settings(preset, side) else { continue };
                        let _ = Settings::new(Some(preset), &table);
                    }
                }
            }
        }
    }
}
