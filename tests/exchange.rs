//! Weights in and out: what PyTorch gets from an export, and that weights come back bit by bit.
//!
//! PyTorch's part is done by tests/goldens/exchange.py, which reads the exports of all cases from a folder:
//!
//!     ZGAN_EXCHANGE=/tmp/exchange cargo test --release --features check --test exchange pytorch
//!     python tests/goldens/exchange.py /tmp/exchange

mod common;
#[path = "common/place.rs"]
mod place;
#[path = "common/zip.rs"]
mod zip;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use common::{Golden, draw, draw_below, relative_error, start_of};
use place::{Place, ZGAN, says};
use zgan::checkpoint::{FORMAT, Header, NamedTensor};
use zgan::data::{DataInfo, ImageShape, Size, mixture};
use zgan::device::{Device, kernel, kernel_source};
use zgan::exchange::{ClassMap, Incoming, Newcomers, Side, Source, file, placed, table};
use zgan::gan::{Generator, Setup, Trainer, Weights};
use zgan::settings::{Conditioning, PRESETS, Preset, Update};

const CLASSES: usize = 5;
const LATENT: usize = 8;
const IMAGES: usize = 3;
/// What an export writes, of which goldens have the checksums.
const FILES: [&str; 5] =
    ["generator.safetensors", "discriminator.safetensors", "networks.py", "generator.onnx", "discriminator.onnx"];

struct Case {
    name: String,
    setup: Setup,
    header: Header,
    tensors: Vec<NamedTensor>,
}

fn device() -> Device {
    Device::host(0).unwrap()
}

/// A weight, as a matrix, times a vector of its rows or of its columns, with length 1; in f64 and in one order, so that all
/// machines find the same.
fn product(weight: &NamedTensor, x: &[f32], of_rows: bool) -> Vec<f32> {
    let columns = *weight.shape.last().unwrap();
    let mut sums = vec![0.0; if of_rows { columns } else { weight.values.len() / columns }];
    for (i, row) in weight.values.chunks(columns).enumerate() {
        for (j, w) in row.iter().enumerate() {
            let (from, to) = if of_rows { (i, j) } else { (j, i) };
            sums[to] += f64::from(*w) * f64::from(x[from]);
        }
    }
    let norm = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
    sums.into_iter().map(|x| (x / norm) as f32).collect()
}

/// u and v of a weight's spectral norm after some power iterations.
fn vectors(weight: &NamedTensor) -> [Vec<f32>; 2] {
    let embedding = weight.name.ends_with("embedding");
    let columns = *weight.shape.last().unwrap();
    let outputs = if embedding { weight.values.len() / columns } else { columns };
    let (mut u, mut v) = (vec![1.0; outputs], Vec::new());
    for _ in 0..3 {
        v = product(weight, &u, embedding);
        u = product(weight, &v, !embedding);
    }
    [u, v]
}

impl Case {
    fn new(preset: Preset, conditioning: Option<Conditioning>) -> Case {
        Case::sized(preset, conditioning, None)
    }

    fn sized(preset: Preset, conditioning: Option<Conditioning>, size: Option<Size>) -> Case {
        let mut settings = preset.settings();
        if let Some(conditioning) = conditioning {
            settings.networks.conditioning = conditioning;
        }
        settings.networks.width = if preset.name == "sagan-64" { 8 } else { 4 };
        // The golden is of a ring without an average.
        settings.training.average = if preset.name == "ring" { 0.0 } else { settings.training.average };
        settings.networks.latent = LATENT;
        settings.training.batch = IMAGES;
        settings.training.batch_g = None;
        settings.training.n_dis = 1;
        settings.training.update = Update::Simultaneous;
        settings.batches.noise = 0.0;
        settings.batches.flip = false;
        let classes = (0..CLASSES).map(|class| format!("class {class}")).collect();
        let shape = match size {
            Some(Size { height, width }) => ImageShape { height, width, ..preset.sample },
            None if preset.architecture.draws_points() => mixture::SHAPE,
            None => preset.sample,
        };
        let data = DataInfo { name: "test".into(), images: 10, shape, classes, vectors: false, crc32: String::new() };
        let setup = Setup::new(&settings, &data);
        let config = settings.numbers().unwrap();
        let name = match conditioning {
            Some(_) => format!("{preset}-{}", config["conditioning"].as_str().unwrap()),
            None => preset.to_string(),
        } + &size.map_or(String::new(), |size| format!("-{size}"));
        let mut trainer = Trainer::new(&device(), &setup).unwrap();
        let mut tensors = trainer.tensors().unwrap();
        tensors.extend(trainer.average_statistics().unwrap());
        for tensor in &mut tensors {
            let bounds = match tensor.name.rsplit('.').next().unwrap() {
                _ if tensor.name.starts_with("adam") => continue,
                "u" | "v" => continue,
                "running_mean" => (0.0, 0.3),
                "running_var" => (1.0, 0.4),
                _ => start_of(&tensor.name, &tensor.shape),
            };
            tensor.values = draw(&format!("{name}/{}", tensor.name), tensor.values.len(), bounds);
        }
        let found: HashMap<String, [Vec<f32>; 2]> = tensors
            .iter()
            .filter(|t| !t.name.contains("norm") && t.shape.len() > 1 && !t.name.starts_with("a"))
            .map(|t| (t.name.clone(), vectors(t)))
            .collect();
        for tensor in &mut tensors {
            let (weight, part) = tensor.name.rsplit_once('.').unwrap();
            if let Some(i) = ["u", "v"].iter().position(|name| *name == part) {
                tensor.values.clone_from(&found[weight][i]);
            }
        }
        Case { name, setup, header: Header { format: FORMAT, step: 7, config, data, scaling: None }, tensors }
    }

    fn generator(&self) -> Generator {
        Generator::new(&device(), &self.setup, &self.tensors, Weights::Average).unwrap()
    }

    fn export(&self, folder: &Path, folded: bool) -> Vec<PathBuf> {
        let (setup, header, tensors) = (&self.setup, &self.header, self.tensors.as_slice());
        Source { setup, header, tensors, generator: &self.generator(), folded, onnx: true }.write(folder).unwrap()
    }

    fn same_classes(&self) -> ClassMap {
        ClassMap::new(&[], (None, None), &self.header.data.classes, Newcomers::Mean).unwrap()
    }
}

/// Every preset, and every conditioning.
fn cases() -> Vec<Case> {
    let preset = |name: &str| name.parse::<Preset>().unwrap();
    let mut all: Vec<Case> = PRESETS.iter().map(|preset| Case::new(*preset, None)).collect();
    for (name, conditioning) in [
        ("mnist", Conditioning::None),
        ("mnist", Conditioning::InputConcat),
        ("mnist", Conditioning::HiddenConcat),
        ("mnist", Conditioning::AcGan),
        ("sngan-projection-32", Conditioning::None),
        ("sngan-projection-32", Conditioning::InputConcat),
        ("sngan-projection-64", Conditioning::HiddenConcat),
        ("sngan-projection-32", Conditioning::AcGan),
    ] {
        all.push(Case::new(preset(name), Some(conditioning)));
    }
    for (name, height, width) in
        [("mnist", 16, 24), ("crcrpar-64", 24, 40), ("sagan-64", 48, 32), ("softmax-gan", 8, 12)]
    {
        all.push(Case::sized(preset(name), None, Some(Size::new(height, width))));
    }
    all
}

fn by_name(tensors: &[NamedTensor]) -> BTreeMap<String, NamedTensor> {
    tensors.iter().map(|t| (t.name.clone(), t.clone())).collect()
}

fn same_bits(what: &str, found: &[NamedTensor], expected: &[NamedTensor]) {
    let (found, expected) = (by_name(found), by_name(expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, tensor) in &found {
        let bits = |t: &NamedTensor| t.values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(tensor.shape, expected[name].shape, "{what}, {name}");
        assert!(bits(tensor) == bits(&expected[name]), "{what}, {name}");
    }
}

#[test]
fn what_is_exported_comes_back_bit_by_bit() {
    let folder = tempfile::tempdir().unwrap();
    for case in cases() {
        let files = case.export(folder.path(), false);
        let start = Trainer::new(&device(), &case.setup).unwrap();
        let mut taken = Vec::new();
        for (side, file) in [(Side::Generator, &files[0]), (Side::Discriminator, &files[1])] {
            let read = Incoming::read(file).unwrap();
            assert_eq!((read.preset(), read.step), (Some(case.setup.preset), 7), "{}", case.name);
            let settings = read.settings(case.setup.preset, side).unwrap();
            assert_eq!(settings["width"].as_integer(), Some(case.setup.networks.width as i64), "{}", case.name);
            assert_eq!(settings["conditioning"], case.header.config["conditioning"], "{}", case.name);
            if case.setup.architecture().is_convolutional() {
                let size = case.setup.shape.size().to_string();
                assert_eq!(settings["size"].as_str(), Some(size.as_str()), "{}", case.name);
            }
            taken.extend(read.take(&case.setup, side, &case.same_classes()).unwrap().tensors);
        }
        let discriminator = case.tensors.iter().filter(|t| t.name.starts_with("discriminator."));
        let expected: Vec<NamedTensor> =
            case.generator().tensors().unwrap().into_iter().chain(discriminator.cloned()).collect();
        same_bits(&case.name, &taken, &expected);
        // All of it is a run's start, and the average a copy.
        let begin = placed(start.tensors().unwrap(), &taken);
        let copied: Vec<NamedTensor> = begin
            .iter()
            .filter(|t| !t.name.starts_with("adam."))
            .map(|t| NamedTensor { name: t.name.trim_start_matches("average.").into(), ..t.clone() })
            .collect();
        same_bits(&case.name, &copied, &expected);
        let mut trainer = start;
        trainer.restore(0, &begin).unwrap();
    }
}

/// The networks' own names, of each tensor of G and of D, as the originals' `state_dict` has them.
#[test]
fn names_and_shapes_are_the_originals() {
    let list = |preset: &str, conditioning: Conditioning, side: Side| -> Vec<String> {
        let case = Case::new(preset.parse().unwrap(), Some(conditioning));
        let setup = case.setup.with(|s| (s.networks.width, s.networks.latent) = (64, 128));
        let mut rows: Vec<String> =
            table(&setup, side).unwrap().iter().map(|row| format!("{} {:?}", row.theirs, row.their_shape)).collect();
        rows.sort();
        rows
    };
    let expect = |found: Vec<String>, mut expected: Vec<String>| {
        expected.sort();
        assert_eq!(found, expected);
    };
    // crcrpar's SNResNetProjectionDiscriminator(64, 5) and ResNetGenerator(64, 128, 4, num_classes=5).
    let (projection, none) = (Conditioning::Projection, Conditioning::None);
    let normalised = |name: &str, shape: &[usize], v: usize| {
        [
            format!("{name}.weight_orig {shape:?}"),
            format!("{name}.weight_u [{}]", shape[0]),
            format!("{name}.weight_v [{v}]"),
        ]
    };
    let discriminator = |widths: &[usize], halves: usize, bias: bool| {
        let (mut all, mut c) = (Vec::new(), 3);
        for (i, &k) in widths.iter().enumerate() {
            let (block, hidden) = (format!("block{}", i + 1), if i == 0 { k } else { c });
            all.extend(normalised(&format!("{block}.c1"), &[hidden, c, 3, 3], 9 * c));
            all.extend(normalised(&format!("{block}.c2"), &[k, hidden, 3, 3], 9 * hidden));
            all.extend([format!("{block}.c1.bias [{hidden}]"), format!("{block}.c2.bias [{k}]")]);
            if i < halves || c != k {
                all.extend(normalised(&format!("{block}.c_sc"), &[k, c, 1, 1], c));
                all.push(format!("{block}.c_sc.bias [{k}]"));
            }
            c = k;
        }
        let last = format!("l{}", widths.len() + 1);
        all.extend(normalised(&last, &[1, c], c));
        all.extend(bias.then(|| format!("{last}.bias [1]")));
        (all, c)
    };
    let (mut expected, c) = discriminator(&[64, 128, 256, 512, 1024], 5, true);
    expect(list("crcrpar-64", none, Side::Discriminator), expected.clone());
    expected.extend(normalised("l_y", &[CLASSES, c], c));
    expect(list("crcrpar-64", projection, Side::Discriminator), expected.clone());
    expect(list("sngan-projection-64", projection, Side::Discriminator), expected);
    let (mut expected, c) = discriminator(&[64, 64, 64, 64], 2, false);
    expected.extend(normalised("l_y", &[CLASSES, c], c));
    expect(list("sngan-projection-32", projection, Side::Discriminator), expected);
    let (mut expected, c) = discriminator(&[64, 128, 256, 512, 1024, 1024], 5, true);
    expected.extend(normalised("l_y", &[CLASSES, c], c));
    expect(list("sngan-projection-128", projection, Side::Discriminator), expected);

    let generator = |start: usize, widths: &[usize], last: usize, conditional: bool| {
        let (mut all, mut c) =
            (vec![format!("l1.weight [{}, 128]", 16 * start), format!("l1.bias [{}]", 16 * start)], start);
        for (i, &k) in widths.iter().enumerate() {
            let block = format!("block{}", i + 2);
            for (norm, c) in [("b1", c), ("b2", k)] {
                let parts = match conditional {
                    true => [format!("weights.weight [{CLASSES}, {c}]"), format!("biases.weight [{CLASSES}, {c}]")],
                    false => [format!("weight [{c}]"), format!("bias [{c}]")],
                };
                let running = ["running_mean", "running_var"].map(|name| format!("{name} [{c}]"));
                all.extend(parts.into_iter().chain(running).map(|part| format!("{block}.{norm}.{part}")));
            }
            for (conv, k, c, r) in [("c1", k, c, 3), ("c2", k, k, 3), ("c_sc", k, c, 1)] {
                all.extend([format!("{block}.{conv}.weight {:?}", [k, c, r, r]), format!("{block}.{conv}.bias [{k}]")]);
            }
            c = k;
        }
        let n = widths.len() + 2;
        for part in ["weight", "bias", "running_mean", "running_var"] {
            all.push(format!("b{n}.{part} [{c}]"));
        }
        all.extend([format!("conv{n}.weight {:?}", [3, c, last, last]), format!("conv{n}.bias [3]")]);
        all
    };
    expect(list("crcrpar-64", projection, Side::Generator), generator(1024, &[512, 256, 128, 64], 1, true));
    expect(list("crcrpar-64", none, Side::Generator), generator(1024, &[512, 256, 128, 64], 1, false));
    expect(list("sngan-projection-64", projection, Side::Generator), generator(1024, &[512, 256, 128, 64], 3, true));
    expect(list("sngan-projection-32", projection, Side::Generator), generator(128, &[128, 128, 128], 3, true));
    let of_128 = generator(1024, &[1024, 512, 256, 128, 64], 3, true);
    expect(list("sngan-projection-128", projection, Side::Generator), of_128);

    // PyTorch-GAN's softmax_gan.py, with a latent of 128.
    let mut expected = Vec::new();
    for (i, c, k) in [(0, 128, 128), (2, 128, 256), (5, 256, 512), (8, 512, 1024), (11, 1024, 784)] {
        expected.extend([format!("model.{i}.weight [{k}, {c}]"), format!("model.{i}.bias [{k}]")]);
    }
    for (i, c) in [(3, 256), (6, 512), (9, 1024)] {
        let parts = ["weight", "bias", "running_mean", "running_var"];
        expected.extend(parts.map(|part| format!("model.{i}.{part} [{c}]")));
    }
    expect(list("softmax-gan", none, Side::Generator), expected);
    let expected =
        ["model.0.weight [512, 784]", "model.0.bias [512]", "model.2.weight [256, 512]", "model.2.bias [256]"];
    let expected = expected.into_iter().chain(["model.4.weight [1, 256]"]).map(String::from).collect();
    expect(list("softmax-gan", none, Side::Discriminator), expected);
}

/// PyTorch's images and logits (tests/goldens/exchange.py) are the ones here, from the files that are written here.
#[test]
fn pytorch_draws_and_judges_the_same() {
    let kept = std::env::var("ZGAN_EXCHANGE").ok().map(PathBuf::from);
    let temporary = tempfile::tempdir().unwrap();
    let golden = kept.is_none().then(|| Golden::open("exchange"));
    for case in cases() {
        let (name, setup) = (&case.name, &case.setup);
        let folder = kept.as_deref().unwrap_or(temporary.path()).join(name);
        case.export(&folder, false);
        let len = IMAGES * setup.shape.len();
        let z = draw(&format!("{name}/latents"), IMAGES * LATENT, (0.0, 1.7));
        let [labels, wanted] = ["labels", "wanted"].map(|part| draw_below(&format!("{name}/{part}"), IMAGES, CLASSES));
        let bytes: Vec<u8> = draw_below(&format!("{name}/images"), len, 256).into_iter().map(|x| x as u8).collect();
        let floats = |labels: &[u32]| labels.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        let ImageShape { height, width, channels } = setup.shape;
        let inputs = [
            ("latents", vec![IMAGES, LATENT], z.clone()),
            ("labels", vec![IMAGES], floats(&labels)),
            ("wanted", vec![IMAGES], floats(&wanted)),
            ("images", vec![IMAGES, height, width, channels], bytes.iter().map(|byte| f32::from(*byte)).collect()),
        ];
        let inputs = inputs.map(|(name, shape, values)| NamedTensor { name: name.into(), shape, values });
        file::write(&folder.join("inputs.safetensors"), &BTreeMap::new(), &inputs, &[]).unwrap();
        let Some(golden) = &golden else { continue };

        // What PyTorch read is what is written now.
        for (part, file) in FILES.iter().enumerate() {
            let mut crc = flate2::Crc::new();
            crc.update(&std::fs::read(folder.join(file)).unwrap());
            let expected = golden.i32(&format!("{name}.crc"))[part] as u32;
            assert_eq!(
                crc.sum(),
                expected,
                "{name}: {file} has changed; tests/goldens/exchange.py writes the golden anew"
            );
        }
        let drawn = case.generator().values(&z, if setup.conditional() { &wanted } else { &[] }).unwrap();
        let some: Vec<f32> = drawn.iter().copied().step_by((drawn.len() / 500).max(1)).collect();
        let error = relative_error(&some, &golden.f64(&format!("{name}.drawn")), 1.0);
        assert!(error < 4e-6, "{name}: drawn {error:.1e}");
        if setup.draws_points() {
            continue;
        }
        // D sees real images first, as they are.
        let setup = &setup.with(|s| s.batches.diffaug.clear());
        let mut trainer = Trainer::new(&device(), setup).unwrap();
        let own: Vec<NamedTensor> = case
            .tensors
            .iter()
            .filter(|t| !(t.name.starts_with("average.") && t.name.contains("running")))
            .cloned()
            .collect();
        trainer.restore(0, &own).unwrap();
        trainer.step_given(&bytes, &labels, &z, &wanted).unwrap();
        let logits = &trainer.logits().unwrap()[..IMAGES];
        let error = relative_error(logits, &golden.f64(&format!("{name}.logits")), 1e-3);
        assert!(error < 1e-5, "{name}: logits {error:.1e}");
    }
}

/// A file of tensors, changed by `change`.
fn changed(folder: &Path, from: &Path, change: impl FnOnce(&mut Vec<NamedTensor>)) -> PathBuf {
    let contents = file::read(from).unwrap();
    let mut tensors = contents.tensors;
    change(&mut tensors);
    let path = folder.join("changed.safetensors");
    file::write(&path, &BTreeMap::new(), &tensors, &[]).unwrap();
    path
}

#[test]
fn files_of_other_torch_versions_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let case = Case::new("crcrpar-64".parse().unwrap(), None);
    let files = case.export(folder.path(), false);
    let take = |path: &Path| {
        let read = Incoming::read(path).unwrap();
        let settings = read.settings(case.setup.preset, Side::Discriminator).unwrap();
        assert_eq!((settings["width"].as_integer(), settings["spectral-norm"].as_bool()), (Some(4), Some(true)));
        read.take(&case.setup, Side::Discriminator, &case.same_classes()).unwrap()
    };
    let expected: Vec<NamedTensor> =
        case.tensors.iter().filter(|t| t.name.starts_with("discriminator.")).cloned().collect();
    // The parametrisations, of a network in DataParallel.
    let path = changed(folder.path(), &files[1], |all| {
        for tensor in all {
            let name = tensor.name.replace(".weight_orig", ".parametrizations.weight.original");
            let name = name.replace(".weight_u", ".parametrizations.weight.0._u");
            tensor.name = format!("module.{}", name.replace(".weight_v", ".parametrizations.weight.0._v"));
        }
    });
    same_bits("parametrisations", &take(&path).tensors, &expected);
    // torch 0.4: `weight` beside `weight_orig`, no v.
    let path = changed(folder.path(), &files[1], |all| {
        all.retain(|t| !t.name.ends_with("_v"));
        let made =
            all.iter().filter_map(|t| Some(NamedTensor { name: t.name.strip_suffix("_orig")?.into(), ..t.clone() }));
        all.extend(made.collect::<Vec<_>>());
    });
    for (name, found) in by_name(&take(&path).tensors) {
        let all = by_name(&expected);
        let Some(weight) = name.strip_suffix(".v") else {
            assert!(found.values == all[&name].values, "{name}");
            continue;
        };
        let v = product(&all[weight], &all[&format!("{weight}.u")].values, weight.ends_with("embedding"));
        let v: Vec<f64> = v.iter().map(|x| f64::from(*x)).collect();
        assert!(relative_error(&found.values, &v, 1e-9) < 1e-6, "{name}");
    }
    // Weights that are divided already: their norms are found, and are near 1.
    let folded = tempfile::tempdir().unwrap();
    let files = case.export(folded.path(), true);
    let read = Incoming::read(&files[1]).unwrap();
    let taken = read.take(&case.setup, Side::Discriminator, &case.same_classes()).unwrap();
    assert!(taken.notes[1].contains("made by 20 power iterations"), "{:?}", taken.notes);
    assert_eq!(taken.tensors.len(), expected.len());
}

/// Makes all tensors of a file bf16 or f16.
fn in_16_bits(path: &Path, bf16: bool) {
    let bytes = std::fs::read(path).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let narrow = |b: &[u8]| {
        let x = f32::from_le_bytes(b.try_into().unwrap());
        if bf16 { half::bf16::from_f32(x).to_le_bytes() } else { half::f16::from_f32(x).to_le_bytes() }
    };
    let dtype = if bf16 { safetensors::Dtype::BF16 } else { safetensors::Dtype::F16 };
    let all: Vec<_> = all.iter().collect();
    let data: Vec<Vec<u8>> = all.iter().map(|(_, view)| view.data().chunks(4).flat_map(narrow).collect()).collect();
    let views = all.iter().zip(&data).map(|((name, view), data)| {
        (*name, safetensors::tensor::TensorView::new(dtype, view.shape().to_vec(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

#[test]
fn numbers_of_16_bits_are_taken_as_f32() {
    let folder = tempfile::tempdir().unwrap();
    let case = Case::new("mnist".parse().unwrap(), None);
    let files = case.export(folder.path(), false);
    let take =
        |path: &Path| Incoming::read(path).unwrap().take(&case.setup, Side::Generator, &case.same_classes()).unwrap();
    let exact = by_name(&take(&files[0]).tensors);
    for (bf16, told) in [(true, ", made F32 from BF16"), (false, ", made F32 from F16")] {
        let path = changed(folder.path(), &files[0], |_| ());
        in_16_bits(&path, bf16);
        let taken = take(&path);
        assert!(taken.notes[0].ends_with(told), "{:?}", taken.notes);
        for tensor in taken.tensors {
            let round =
                |x: &f32| if bf16 { half::bf16::from_f32(*x).to_f32() } else { half::f16::from_f32(*x).to_f32() };
            let expected: Vec<f32> = exact[&tensor.name].values.iter().map(round).collect();
            assert!(tensor.values == expected, "{}", tensor.name);
        }
    }
}

/// Files by their names.
type Arrays = Vec<(String, Vec<u8>)>;

/// As `numpy.save` writes an array.
fn npy(descr: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}\n", sides.trim_end());
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// What pfnet's Chainer program calls a tensor that is called `name` in crcrpar's, of G with its last convolution called `last`,
/// or of D.
fn pfnets_name(name: &str, last: &str) -> String {
    let name = name.replace("_orig", "");
    let name = match name.rsplit_once('.').unwrap() {
        (layer, "weight_u") => format!("{layer}.u"),
        (layer, "running_mean") => format!("{layer}.avg_mean"),
        (layer, "running_var") => format!("{layer}.avg_var"),
        (norm, "weight") if norm.ends_with("weights") => format!("{}gammas.W", norm.strip_suffix("weights").unwrap()),
        (norm, "weight") if norm.ends_with("biases") => format!("{}betas.W", norm.strip_suffix("biases").unwrap()),
        (norm, part) if norm.rsplit('.').next().unwrap().starts_with('b') => {
            format!("{norm}.{}", if part == "weight" { "gamma" } else { "beta" })
        }
        (layer, part) => format!("{layer}.{}", if part == "weight" { "W" } else { "b" }),
    };
    let name = match name.strip_prefix("conv") {
        Some(rest) => format!("{last}{}", &rest[1..]),
        None => name,
    };
    name.replace('.', "/")
}

/// Snapshots of the projection discriminator's own program, in Chainer.
#[test]
fn chainers_snapshots_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for (preset, last, conditioning) in [
        ("sngan-projection-32", "c5", Conditioning::Projection),
        ("sngan-projection-64", "l6", Conditioning::Projection),
        ("sngan-projection-64", "l6", Conditioning::None),
        ("sngan-projection-128", "l7", Conditioning::Projection),
    ] {
        let case = Case::new(preset.parse().unwrap(), Some(conditioning));
        let files = case.export(folder.path(), false);
        for (side, from) in [(Side::Generator, &files[0]), (Side::Discriminator, &files[1])] {
            let mut arrays = Arrays::new();
            for tensor in file::read(from).unwrap().tensors.into_iter().filter(|t| !t.name.ends_with("_v")) {
                let name = pfnets_name(&tensor.name, last);
                let shape = if name.ends_with("/u") { vec![1, tensor.shape[0]] } else { tensor.shape };
                let data: Vec<u8> = tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect();
                arrays.push((format!("{name}.npy"), npy("<f4", &shape, &data)));
                if let Some(norm) = name.strip_suffix("avg_var") {
                    arrays.push((format!("{norm}N.npy"), npy("<i8", &[], &[7, 0, 0, 0, 0, 0, 0, 0])));
                }
            }
            let path = folder.path().join("snapshot.npz");
            std::fs::write(&path, zip::zip(&arrays, true)).unwrap();
            let read = Incoming::read(&path).unwrap();
            let settings = read.settings(case.setup.preset, side).unwrap();
            assert_eq!(settings["width"].as_integer(), Some(4), "{preset}, {side:?}");
            let spectral = settings.get("spectral-norm").and_then(|value| value.as_bool());
            assert_eq!(spectral, (side == Side::Discriminator).then_some(true), "{preset}");
            let taken = read.take(&case.setup, side, &case.same_classes()).unwrap();
            assert_eq!(taken.notes.len(), 1, "{:?}", taken.notes);
            let of_discriminator = || case.tensors.iter().filter(|t| t.name.starts_with("discriminator."));
            let expected = match side {
                Side::Generator => case.generator().tensors().unwrap(),
                Side::Discriminator => of_discriminator().cloned().collect(),
            };
            // v follows from u.
            let without_v =
                |all: &[NamedTensor]| all.iter().filter(|t| !t.name.ends_with(".v")).cloned().collect::<Vec<_>>();
            same_bits(preset, &without_v(&taken.tensors), &without_v(&expected));
            let all = by_name(&taken.tensors);
            for (name, tensor) in all.iter().filter(|(name, _)| name.ends_with(".v")) {
                let weight = &all[name.strip_suffix(".v").unwrap()];
                let v = product(weight, &all[&format!("{}.u", weight.name)].values, weight.name.ends_with("embedding"));
                let v: Vec<f64> = v.iter().map(|x| f64::from(*x)).collect();
                assert!(relative_error(&tensor.values, &v, 1e-9) < 1e-6, "{name}");
            }
            // One without a layer, one with an array too many, and one with NaN in it.
            let refused = |change: &dyn Fn(&mut Arrays), part: &str| {
                let mut arrays = arrays.clone();
                change(&mut arrays);
                std::fs::write(&path, zip::zip(&arrays, false)).unwrap();
                let error = Incoming::read(&path).and_then(|file| file.take(&case.setup, side, &case.same_classes()));
                let message = error.err().unwrap().to_string();
                assert!(message.contains(part) && message.contains("snapshot.npz"), "{message}");
            };
            let (layer, there) = match side {
                Side::Generator => ("l1", "l1.bias"),
                Side::Discriminator => ("block2/c1", "block2.c1.bias"),
            };
            let bias = format!("{layer}/b.npy");
            refused(&|all| all.retain(|(name, _)| *name != bias), &format!("{there} ["));
            refused(&|all| all.push(("l9/b.npy".into(), npy("<f4", &[1], &[0; 4]))), "l9.bias [1] is not part of");
            refused(
                &|all| all.iter_mut().find(|(name, _)| *name == bias).unwrap().1 = npy("<f4", &[1], &[0xff; 4]),
                &format!("tensor {layer}/b is not finite: number 0 of it is NaN"),
            );
        }
    }
    let path = folder.path().join("snapshot.npz");
    std::fs::write(&path, b"no zip").unwrap();
    let message = Incoming::read(&path).err().unwrap().to_string();
    assert!(message.contains("an npz file was expected; this file is no zip"), "{message}");
}

/// Images of another size than the preset's, higher or wider: from pictures to a run, which goes on to the same bits, and out
/// and in again.
#[test]
fn other_sizes_train_resume_and_go_out() {
    let place = Place::new();
    place.folder_of_noise("noise");
    let small =
        "--device host --batch 3 --n-dis 1 --no-eval --log-every 1 --sample-every 0 --width 8 --data folder:noise";
    for (preset, size, bottom) in [("sagan-64", "24x40", "6x10"), ("crcrpar-64", "40x32", "5x4")] {
        let train = format!("train --preset {preset} {small} --size {size} --steps 3");
        let told = run(&place, &format!("{train} --dry-run"), 0, &[&format!("size              \"{size}\"")]);
        let (h, w) = bottom.split_once('x').unwrap();
        let outputs = h.parse::<usize>().unwrap() * w.parse::<usize>().unwrap();
        let start = if preset == "sagan-64" { 4 * 8 } else { 8 * 8 };
        assert!(told.contains(&format!("128 x {}", outputs * start)), "{told}");
        run(&place, &format!("{train} --run whole-{preset}"), 0, &[&format!("images of {size}x3")]);
        run(&place, &format!("{train} --run {preset} --stop-at 2"), 0, &[]);
        run(&place, &format!("train --resume {preset} --no-eval"), 0, &[]);
        let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
        let [whole, parts] = [format!("whole-{preset}"), preset.to_string()]
            .map(|run| zgan::checkpoint::load(&place.checkpoint(&run, 3)).unwrap());
        assert_eq!(whole.0.data.shape.size(), size.parse().unwrap());
        same_bits(preset, &whole.1, &parts.1);
        run(&place, &format!("export --run {preset} --out {preset} --onnx --device host"), 0, &["generator.onnx"]);
        let weights = format!("{preset}/generator.safetensors");
        run(&place, &format!("sample --run {preset} --count 6 --out a.npy --device host"), 0, &[]);
        run(&place, &format!("sample --weights {weights} --count 6 --out b.npy --device host"), 0, &[]);
        assert!(bytes("a.npy") == bytes("b.npy"), "{preset}");
        // A file of another program does not say it.
        changed(place.0.path(), &place.path(&weights), |_| ());
        let foreign = format!("sample --weights changed.safetensors --preset {preset} --count 6 --device host");
        run(&place, &format!("{foreign} --size {size} --out b.npy"), 0, &[]);
        assert!(bytes("a.npy") == bytes("b.npy"), "{preset}");
        // The size is the file's, and a run of another one cannot begin with its G.
        let init = format!("train --preset {preset} {small} --steps 1 --init-g {weights}");
        let told = run(&place, &format!("{init} --run again-{preset}"), 0, &[&format!("images of {size}x3")]);
        assert!(told.contains("D: no file"), "{told}");
        let asked = format!("{init} --size 32 --dry-run");
        run(&place, &asked, 2, &["size: 32 asked for", &format!("has {size} (preset {preset})")]);
        run(&place, &format!("eval --run {preset} --device host --per-class 2"), 0, &[]);
    }
    let train = format!("train --preset sngan-projection-64 {small} --steps 1");
    run(&place, &format!("{train} --size 50x80"), 2, &["size: 50x80 cannot be built", "48x80 and 56x80 can"]);
    run(&place, &format!("{train} --size 50by80"), 2, &["50by80", "expected a side in pixels, or HEIGHTxWIDTH"]);
    let digits = "train --preset sngan-projection-64 --device host --steps 1 --data mnist-10k";
    run(&place, digits, 2, &["makes 64x64 images, the data has 28x28; --size 28 builds networks for these"]);
    run(&place, &format!("{digits} --size 28 --width 4 --n-dis 1 --batch 2 --no-eval"), 0, &[]);
    std::fs::write(place.path("run.toml"), "size = \"24x40\"\n").unwrap();
    run(&place, &format!("{train} --config run.toml --dry-run"), 0, &["size              \"24x40\""]);
    std::fs::write(place.path("run.toml"), "size = -3\n").unwrap();
    run(&place, &format!("{train} --config run.toml"), 2, &["run.toml", "a side in pixels"]);
}

/// Files of other programs say no size: blocks and the first layer tell it, of square images.
#[test]
fn the_size_follows_from_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    for (preset, side) in [("crcrpar-64", 96), ("mnist", 20), ("sngan-projection-48", 48)] {
        let case = Case::sized(preset.parse().unwrap(), None, Some(Size::from(side)));
        let file = changed(folder.path(), &case.export(folder.path(), false)[0], |_| ());
        let facts = Incoming::read(&file).unwrap().facts(case.setup.preset, Side::Generator).unwrap();
        assert_eq!((facts.size, facts.width), (Some(Size::from(side)), Some(4)), "{preset}");
        assert_eq!((facts.latent, facts.classes), (Some(LATENT), Some(CLASSES)), "{preset}");
    }
}

#[test]
fn files_that_do_not_fit_are_refused_with_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let case = Case::new("crcrpar-64".parse().unwrap(), None);
    let files = case.export(folder.path(), false);
    let refused = |path: &Path, side: Side, parts: &[&str]| {
        let taken = Incoming::read(path).and_then(|file| file.take(&case.setup, side, &case.same_classes()));
        let message = taken.err().unwrap_or_else(|| panic!("taken; expected an error with {parts:?}")).to_string();
        for part in parts.iter().chain([&path.to_str().unwrap()]) {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    };
    let (g, d) = (&files[0], &files[1]);
    let path = changed(folder.path(), g, |all| all.retain(|t| t.name != "block3.c1.weight"));
    refused(&path, Side::Generator, &["block3.c1.weight [16, 32, 3, 3] is missing"]);
    let path = changed(folder.path(), g, |all| all[0].name = "block9.c1.bias".into());
    refused(&path, Side::Generator, &["block9.c1.bias", "is not part of this network"]);
    let path = changed(folder.path(), d, |all| {
        let tensor = all.iter_mut().find(|t| t.name == "block2.c2.weight_orig").unwrap();
        tensor.shape.swap(0, 1);
    });
    refused(&path, Side::Discriminator, &["block2.c2.weight_orig is [4, 8, 3, 3], expected [8, 4, 3, 3]"]);
    refused(d, Side::Generator, &["not the G of preset crcrpar-64", "l1.weight [1024, 8] is missing", "and"]);
    let path = changed(folder.path(), g, |all| {
        all.iter_mut().find(|t| t.name == "l1.bias").unwrap().values[5] = f32::NAN;
    });
    refused(&path, Side::Generator, &["tensor l1.bias is not finite: number 5 of it is NaN"]);
    let path = folder.path().join("other.safetensors");
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F64, vec![4], &[0; 32]).unwrap();
    safetensors::serialize_to_file([("l1.bias", view)], None, &path).unwrap();
    refused(&path, Side::Generator, &["tensor l1.bias is F64, expected F32, F16 or BF16"]);
    let path = changed(folder.path(), g, |all| {
        all.iter_mut().find(|t| t.name == "l1.bias").unwrap().values[5] = f32::NAN;
    });
    in_16_bits(&path, true);
    refused(&path, Side::Generator, &["tensor l1.bias is not finite: number 5 of it is NaN"]);
    let path = changed(folder.path(), g, |all| all[0].name = "block2.b1.embed.weight".into());
    refused(&path, Side::Generator, &["mimicry", "bilinear", "eps of 1e-5", "relu(x)"]);
    let path = changed(folder.path(), g, |all| all[0].name = "c6.weight".into());
    refused(&path, Side::Generator, &["mimicry", "c6.weight"]);
    let path = changed(folder.path(), g, |all| all.iter_mut().for_each(|t| t.name = format!("other.{}", t.name)));
    refused(&path, Side::Generator, &["no tensors of zgan, of crcrpar's networks", "the first of"]);
    let path = folder.path().join("model.pth");
    std::fs::write(&path, b"PK\x03\x04 and so on").unwrap();
    refused(&path, Side::Generator, &["a pickled file of PyTorch", "save_file(torch.load("]);
    // Settings that contradict the file, with both numbers.
    let contradicts = |change: fn(&mut Setup), parts: &[&str]| {
        let message = Incoming::read(g).unwrap().take(&case.setup.with(change), Side::Generator, &case.same_classes());
        let message = message.err().unwrap().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    contradicts(|s| s.networks.width = 16, &["width: 16 asked for,", "has 4"]);
    contradicts(|s| s.networks.latent = 9, &["latent: 9 asked for,", "has 8"]);
    contradicts(|s| s.shape.width = 80, &["size: 64x80 asked for,", "has 64 (preset crcrpar-64)"]);
    let without = case.setup.with(|s| s.networks.spectral_norm = false);
    let message = Incoming::read(d).unwrap().take(&without, Side::Discriminator, &case.same_classes());
    let message = message.err().unwrap().to_string();
    assert!(
        message.contains("spectral-norm: false asked for") && message.contains("block1.c1.weight_orig"),
        "{message}"
    );
    // PyTorch-GAN's last bias, which only a softmax is blind to.
    let perceptrons = Case::new("softmax-gan".parse().unwrap(), None);
    let files = perceptrons.export(folder.path(), false);
    let path = changed(folder.path(), &files[1], |all| {
        all.iter_mut().find(|t| t.name == "model.4.bias").unwrap().values[0] = 0.5;
    });
    let file = Incoming::read(&path).unwrap();
    file.take(&perceptrons.setup, Side::Discriminator, &perceptrons.same_classes()).unwrap();
    let hinge = perceptrons.setup.with(|s| s.training.loss = zgan::settings::Loss::Hinge);
    let message = file.take(&hinge, Side::Discriminator, &perceptrons.same_classes()).err().unwrap().to_string();
    assert!(message.contains("model.4.bias is 0.5") && message.contains("hinge"), "{message}");
}

/// A transposition alone loads without a word: the pixels of `linear.weight` are moved too.
#[test]
fn the_first_layer_has_channels_before_pixels() {
    let case = Case::new("mnist".parse().unwrap(), None);
    let rows = table(&case.setup, Side::Generator).unwrap();
    let row = rows.iter().find(|row| row.ours == "linear.weight").unwrap();
    // z x (7, 7, 8), here numbered by latent, row, column and channel.
    let (inputs, c) = (LATENT + CLASSES, 8);
    let number = |z: usize, y: usize, x: usize, k: usize| (((z * 7 + y) * 7 + x) * c + k) as f32;
    let here: Vec<f32> = (0..inputs * 49 * c).map(|i| i as f32).collect();
    let there = row.out(&here);
    assert_eq!(row.their_shape, [49 * c, inputs]);
    for (k, y, x, z) in [(0, 0, 0, 3), (5, 0, 1, 2), (7, 3, 0, 0), (2, 6, 4, 12)] {
        assert_eq!(there[((k * 7 + y) * 7 + x) * inputs + z], number(z, y, x, k));
    }
    assert_eq!(row.back(&there), here);
}

#[test]
fn classes_go_on_as_the_map_says() {
    let folder = tempfile::tempdir().unwrap();
    for (name, conditioning) in [
        ("mnist", Conditioning::Projection),
        ("mnist", Conditioning::InputConcat),
        ("sngan-projection-32", Conditioning::AcGan),
        ("sngan-projection-64", Conditioning::HiddenConcat),
    ] {
        let case = Case::new(name.parse().unwrap(), Some(conditioning));
        let files = case.export(folder.path(), false);
        let setup = case.setup.with(|s| s.classes = 3);
        let here: Vec<String> = ["x", "y", "class 1"].map(String::from).to_vec();
        let pairs = [("class 4", "y"), ("2", "class 1")].map(|(old, new)| (old.to_string(), new.to_string()));
        for (side, path) in [(Side::Generator, &files[0]), (Side::Discriminator, &files[1])] {
            let read = Incoming::read(path).unwrap();
            let there = (read.classes(&setup, side).unwrap(), read.class_names.as_deref());
            assert_eq!(there.0, Some(CLASSES), "{name}");
            let message = ClassMap::new(&[], there, &here, Newcomers::Mean).err().unwrap().to_string();
            assert!(message.contains("know 5 classes, the data has 3"), "{message}");
            let map = ClassMap::new(&pairs, there, &here, Newcomers::Mean).unwrap();
            assert_eq!(map.from, [None, Some(4), Some(2)]);
            let fresh = ClassMap { newcomers: Newcomers::Fresh, ..map.clone() };
            let [taken, fresh] = [map, fresh].map(|map| by_name(&read.take(&setup, side, &map).unwrap().tensors));
            let before = match side {
                Side::Generator => by_name(&case.generator().tensors().unwrap()),
                Side::Discriminator => by_name(&case.tensors),
            };
            let mut moved = 0;
            for row in table(&setup, side).unwrap() {
                let full = format!("{}.{}", side.name(), row.ours);
                let (new, old) = (&taken[&full], &before[&full]);
                assert_eq!(new.shape, row.our_shape);
                let Some((axis, behind)) = row.classes else { continue };
                moved += 1;
                let inner: usize = row.our_shape[axis + 1..].iter().product();
                let rows = |t: &NamedTensor| t.shape[axis];
                let at = |t: &NamedTensor, outer: usize, row: usize| {
                    let from = (outer * rows(t) + row) * inner;
                    t.values[from..from + inner].to_vec()
                };
                for outer in 0..row.our_shape[..axis].iter().product() {
                    assert_eq!(at(new, outer, behind + 1), at(old, outer, behind + 4), "{full}");
                    assert_eq!(at(new, outer, behind + 2), at(old, outer, behind + 2), "{full}");
                    for (i, x) in at(new, outer, behind).iter().enumerate() {
                        let mean = (0..CLASSES).map(|k| at(old, outer, behind + k)[i]).sum::<f32>() / CLASSES as f32;
                        assert!((x - mean).abs() < 1e-6, "{full}");
                    }
                    assert!(behind == 0 || at(new, outer, 0) == at(old, outer, 0), "{full}");
                    let begun = &fresh[&full];
                    assert_eq!(at(begun, outer, behind + 1), at(old, outer, behind + 4), "{full}");
                    // A new run's norms begin with 1 and 0.
                    if full.contains("norm") {
                        let expected = if full.ends_with("weight") { 1.0 } else { 0.0 };
                        assert!(at(begun, outer, behind).iter().all(|x| *x == expected), "{full}");
                    }
                }
            }
            assert!(moved > 0, "{name}, {side:?}");
            let trainer = Trainer::new(&device(), &setup).unwrap();
            let all: Vec<NamedTensor> = taken.values().cloned().collect();
            placed(trainer.tensors().unwrap(), &all).iter().for_each(|t| {
                assert_eq!(t.values.len(), t.shape.iter().product::<usize>(), "{}", t.name);
            });
        }
    }
    let here = ["b", "a"].map(String::from);
    let names = ["a", "b"].map(String::from);
    let map = |pairs: &[(String, String)]| ClassMap::new(pairs, (Some(2), Some(&names)), &here, Newcomers::Mean);
    assert_eq!(map(&[]).unwrap().from, [Some(1), Some(0)], "equal names belong together");
    let pair = |old: &str, new: &str| (old.to_string(), new.to_string());
    for (pairs, part) in [
        (vec![pair("c", "a")], "no old class is called \"c\"; there are a, b"),
        (vec![pair("a", "2")], "no new class is called \"2\""),
        (vec![pair("a", "b"), pair("b", "b")], "class b has two"),
    ] {
        let message = map(&pairs).err().unwrap().to_string();
        assert!(message.contains(part), "{message}");
    }
    // Where names are numbers, a number is a name.
    let numbers = ["5", "6"].map(String::from);
    let map = |old| ClassMap::new(&[pair(old, "a")], (Some(2), Some(&numbers)), &here, Newcomers::Mean);
    assert_eq!(map("6").unwrap().from, [None, Some(1)]);
    assert!(map("1").unwrap_err().to_string().contains("no old class is called \"1\"; there are 5, 6"));
}

/// Checkpoints of format 1 had the vectors of all weights in one tensor, and no statistics of the average; files to draw from
/// need neither moments nor D.
#[test]
fn checkpoints_of_format_1_are_read() {
    for name in ["sagan-64", "mnist"] {
        let case = Case::new(name.parse().unwrap(), None);
        let mut trainer = Trainer::new(&device(), &case.setup).unwrap();
        let plain: Vec<NamedTensor> = case
            .tensors
            .iter()
            .filter(|t| !(t.name.starts_with("average.") && t.name.contains("running")))
            .cloned()
            .collect();
        trainer.restore(7, &plain).unwrap();
        let statistics = trainer.average_statistics().unwrap();
        assert!(!statistics.is_empty(), "{name}");
        let mut old: Vec<NamedTensor> =
            plain.iter().filter(|t| !t.name.ends_with(".u") && !t.name.ends_with(".v")).cloned().collect();
        for side in ["generator", "discriminator"] {
            for part in ["u", "v"] {
                let own = plain.iter().filter(|t| t.name.starts_with(side) && t.name.ends_with(&format!(".{part}")));
                let values: Vec<f32> = own.flat_map(|t| t.values.clone()).collect();
                if !values.is_empty() {
                    old.push(NamedTensor {
                        name: format!("{side}.spectral_{part}"),
                        shape: vec![values.len()],
                        values,
                    });
                }
            }
        }
        assert_eq!(old.iter().any(|t| t.name.contains("spectral")), name == "sagan-64");
        let mut again = Trainer::new(&device(), &case.setup).unwrap();
        again.restore(7, &old).unwrap();
        same_bits(name, &again.tensors().unwrap(), &plain);
        same_bits(name, &again.average_statistics().unwrap(), &statistics);
        // An export of it is that of a checkpoint of format 2.
        let [one, two] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let new = [plain.clone(), statistics.clone()].concat();
        let [first, second] = [(&one, old.clone()), (&two, new.clone())].map(|(folder, tensors)| {
            Case { tensors, name: name.into(), setup: case.setup.clone(), header: case.header.clone() }
                .export(folder.path(), false)
        });
        for (a, b) in first.iter().zip(&second) {
            assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "{name}: {}", a.display());
        }
        // What draws is small.
        let drawing: Vec<NamedTensor> =
            new.into_iter().filter(|t| t.name.starts_with("generator.") || t.name.starts_with("average.")).collect();
        let z = draw("z", 2 * LATENT, (0.0, 1.7));
        let images = |tensors: &[NamedTensor]| {
            Generator::new(&device(), &case.setup, tensors, Weights::Average).unwrap().images(&z, &[1, 2]).unwrap()
        };
        assert!(images(&drawing) == images(&old), "{name}");
        // The statistics in the file are the ones that draw.
        let mut other = drawing.clone();
        let variance = other.iter_mut().find(|t| t.name == "average.generator.norm.running_var").unwrap();
        variance.values.iter_mut().for_each(|x| *x *= 100.0);
        assert!(images(&other) != images(&old), "{name}");
    }
    let mut short = Case::new("sagan-64".parse().unwrap(), None);
    short.tensors.retain(|t| !t.name.ends_with(".u"));
    short.tensors.push(NamedTensor { name: "generator.spectral_u".into(), shape: vec![3], values: vec![0.0; 3] });
    let message = Generator::new(&device(), &short.setup, &short.tensors, Weights::Raw).err().unwrap().to_string();
    assert!(message.contains("tensor generator.spectral_u has shape [3], expected ["), "{message}");
}

fn run(place: &Place, arguments: &str, code: i32, parts: &[&str]) -> String {
    let mut command = place.program(ZGAN);
    command.args(arguments.split_whitespace());
    says(&mut command, &format!("zgan {arguments}"), code, parts)
}

#[test]
fn a_run_goes_out_and_comes_back_on_the_command_line() {
    let place = Place::new();
    let small = "--device host --batch 8 --no-eval --log-every 1 --sample-every 0";
    run(&place, &format!("train {small} --width 4 --steps 2 --run first"), 0, &[]);
    run(&place, "export --run first --out out --device host", 0, &["generator.safetensors", "networks.py"]);
    run(
        &place,
        "info out/generator.safetensors",
        0,
        &["preset", "mnist", "l1.weight", "F32", "I64", "b1.weights.weight"],
    );
    run(&place, "info out/discriminator.safetensors", 0, &["block1.c1.weight", "not a checkpoint"]);
    // What draws from the file draws the same.
    run(&place, "sample --run first --count 20 --seed 3 --out a.png --device host", 0, &[]);
    run(
        &place,
        "sample --weights out/generator.safetensors --count 20 --seed 3 --out b.png --device host",
        0,
        &["after step 2"],
    );
    let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(bytes("a.png") == bytes("b.png"));
    run(&place, "export --run first --out raw --raw-weights --device host", 0, &[]);
    assert!(bytes("out/generator.safetensors") != bytes("raw/generator.safetensors"));
    assert!(bytes("out/discriminator.safetensors") == bytes("raw/discriminator.safetensors"));
    run(&place, "export --run first --out a.png --device host", 2, &["a.png is a file"]);

    // A run begins with them: its networks are the file's, and the preset too.
    let told = run(
        &place,
        &format!(
            "train {small} --steps 1 --lr-g 0 --lr-d 0 --run second --init-g raw/generator.safetensors --init-d raw/discriminator.safetensors"
        ),
        0,
        &["weights G of raw/generator.safetensors: ", "weights D of raw/discriminator.safetensors: "],
    );
    assert!(!told.contains("left out"), "{told}");
    let tensors = |name: &str, step| by_name(&zgan::checkpoint::load(&place.checkpoint(name, step)).unwrap().1);
    let (first, second) = (tensors("first", 2), tensors("second", 1));
    for (name, tensor) in &second {
        if name.starts_with("generator.") && !name.contains("running") || name.starts_with("discriminator.") {
            assert!(tensor.values == first[name].values, "{name}");
        }
    }
    assert!(second["average.generator.linear.bias"].values == second["generator.linear.bias"].values);
    run(
        &place,
        &format!("train {small} --steps 1 --width 8 --init-g raw/generator.safetensors"),
        2,
        &["width: 8 asked for", "has 4"],
    );
    run(&place, &format!("train {small} --steps 1 --class-map 1:2"), 2, &["class-map: needs weights"]);
    run(
        &place,
        &format!("train {small} --steps 1 --init-from first --class-map 1"),
        2,
        &["expected two classes, as OLD:NEW"],
    );
    run(&place, &format!("train {small} --steps 1 --init-from nothing"), 2, &["no run is called nothing"]);

    // Only G, and classes in another order; D's lowest block stays as it began.
    let told = run(
        &place,
        &format!(
            "train {small} --steps 1 --run third --init-from first --class-map 0:1,1:0 --new-classes fresh --freeze-d 1"
        ),
        0,
        &["2 of 10 classes go on from the 10 there; 8 begin fresh, 8 of those there are left out"],
    );
    assert!(told.contains("weights D of"), "{told}");
    let third = tensors("third", 1);
    for (name, tensor) in &third {
        if name.starts_with("discriminator.") {
            assert_eq!(tensor.values == first[name].values, name.contains("block1"), "{name}");
        }
        if name.starts_with("adam.m.discriminator.block1") {
            assert!(tensor.values.iter().all(|x| *x == 0.0), "{name}");
        }
    }
    run(&place, &format!("train {small} --steps 2 --resume third"), 0, &[]);
    run(&place, &format!("train {small} --steps 1 --freeze-d 4"), 2, &["freeze-d: 4, D of preset mnist has 3 blocks"]);
    run(&place, "train --resume third --init-from first", 2, &["cannot be used with"]);
    run(&place, "sample --weights a.png --out c.png", 1, &["not a safetensors file"]);

    run(
        &place,
        "export --run first --out onnx --onnx --device host",
        0,
        &["wrote onnx/generator.onnx", "discriminator.onnx"],
    );
    run(&place, &format!("train {small} --preset softmax-gan --steps 1 --run fourth"), 0, &[]);
    run(&place, "export --checkpoint runs/fourth/checkpoints/step-000001.safetensors --out mlp --device host", 0, &[]);
    run(&place, "sample --run fourth --seed 3 --out a.png --device host", 0, &[]);
    run(&place, "sample --weights mlp/generator.safetensors --seed 3 --out b.png --device host", 0, &[]);
    assert!(bytes("a.png") == bytes("b.png"));
    let told = run(&place, &format!("train {small} --steps 1 --init-g mlp/generator.safetensors --run fifth"), 0, &[]);
    assert!(told.contains("D: no file, so it begins as that of a new run"), "{told}");
}

#[test]
fn latents_go_out_and_in() {
    let place = Place::new();
    let small = "--device host --batch 8 --no-eval --log-every 1 --sample-every 0";
    run(&place, &format!("train {small} --width 4 --latent 6 --steps 1 --run a"), 0, &[]);
    let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
    let sample = |arguments: &str, code: i32, parts: &[&str]| {
        run(&place, &format!("sample --run a --device host {arguments}"), code, parts)
    };
    for kind in ["safetensors", "npy"] {
        sample(&format!("--seed 5 --count 30 --out a.png --save-latents z.{kind}"), 0, &["latents: z."]);
        sample(&format!("--latents z.{kind} --columns 3 --out b.png"), 0, &["30 images"]);
        assert!(bytes("a.png") == bytes("b.png"), "{kind}");
        sample(&format!("--latents z.{kind} --out x.{kind}"), 0, &["the values of 30 images after step 1: x."]);
        sample(&format!("--seed 5 --count 30 --out y.{kind}"), 0, &[]);
        assert!(bytes(&format!("x.{kind}")) == bytes(&format!("y.{kind}")), "{kind}");
    }
    let (listed, _) = file::list(&place.path("z.safetensors")).unwrap();
    let shown: Vec<String> = listed.iter().map(|t| format!("{} {} {:?}", t.name, t.dtype, t.shape)).collect();
    assert_eq!(shown, ["labels I64 [30]", "latents F32 [30, 6]"]);
    // NumPy's format 1.0, as its documentation has it.
    let array = bytes("z.npy");
    let (begin, data) = array.split_at(128);
    assert!(
        begin.starts_with(b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (30, 6), }")
    );
    assert!(begin.ends_with(b" \n") && data.len() == 4 * 30 * 6);
    assert!(bytes("z.labels.npy").windows(14).any(|part| part == b"'shape': (30,)"));
    // The values are what pictures are made of, channels first.
    let images = bytes("x.npy");
    let values: Vec<f32> = images[128..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values.len(), 30 * 28 * 28);
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(place.path("a.png")).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let width = reader.next_frame(&mut pixels).unwrap().width as usize;
    // The fifth image is the second of the second row; 2 pixels lie between images.
    for (y, x) in [(0, 0), (13, 5), (27, 27)] {
        let level = (values[4 * 784 + y * 28 + x] + 1.0) * 127.5;
        let pixel = f32::from(pixels[(2 + 30 + y) * width + 2 + 30 + x]);
        assert!((level - pixel).abs() <= 0.5 + 1e-3, "{level} {pixel}");
    }
    // Without labels, classes take turns as --class says.
    std::fs::remove_file(place.path("z.labels.npy")).unwrap();
    sample("--latents z.npy --class 3 --out c.npy", 0, &[]);
    assert!(bytes("c.npy") != bytes("x.npy"));

    sample("--latents z.npy --seed 3 --out b.png", 2, &["cannot be used with"]);
    sample("--latents z.txt --out b.png", 2, &["latents: z.txt, expected a name that ends in .safetensors or .npy"]);
    sample("--latents z.npy --out folder", 2, &["not with a folder"]);
    sample("--morph 1:2 --out b.npy", 2, &["--morph draws a grid"]);
    let write = |shape: &[usize], values: Vec<f32>, labels: Option<Vec<i64>>| {
        let z = [NamedTensor { name: "latents".into(), shape: shape.into(), values }];
        let labels = labels.map(|values| file::Whole { name: "labels".into(), shape: vec![values.len()], values });
        file::write(&place.path("w.safetensors"), &BTreeMap::new(), &z, labels.as_slice()).unwrap();
    };
    for (shape, labels, value, part) in [
        (vec![2, 5], None, 0.0, "latents is [2, 5], expected [N, 6]"),
        (vec![12], None, 0.0, "latents is [12], expected [N, 6]"),
        (vec![2, 6], Some(vec![1]), 0.0, "labels is [1], expected [2]"),
        (vec![2, 6], Some(vec![1, 10]), 0.0, "labels: 10 in row 1, there are 10 classes"),
        (vec![2, 6], Some(vec![-1, 1]), 0.0, "labels: -1 in row 0"),
        (vec![2, 6], None, f32::NAN, "latents: number 0 of row 0 is NaN"),
    ] {
        write(&shape, vec![value; shape.iter().product()], labels);
        sample("--latents w.safetensors --out b.png", 1, &[part]);
    }
    for (bytes, part) in [
        (&b"PK"[..], "not a file of NumPy"),
        (b"\x93NUMPY\x01\x00\xff\x00{", "cut off in its header"),
        (b"\x93NUMPY\x01\x00\x02\x00{}", "its header cannot be read"),
        (b"\x93NUMPY\x01\x00\x3b\x00{'descr': '<f4', 'fortran_order': True, 'shape': (1, 6), } ", "fortran_order"),
        (
            b"\x93NUMPY\x01\x00\x3c\x00{'descr': '<c8', 'fortran_order': False, 'shape': (1, 6), } ",
            "numbers of type <c8",
        ),
        (
            b"\x93NUMPY\x01\x00\x3c\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 6), } ",
            "0 bytes of numbers",
        ),
    ] {
        std::fs::write(place.path("w.npy"), bytes).unwrap();
        sample("--latents w.npy --out b.png", 1, &[part]);
    }
}

/// What `zgan kernels --source` prints is a file by itself, with the kernel that was asked for and no other one.
#[test]
fn a_kernels_source_stands_by_itself() {
    let open = |text: &str| text.matches('{').count() as i64 - text.matches('}').count() as i64;
    for module in kernel::MODULES {
        let lines: HashSet<&str> = module.source.lines().collect();
        for one in module.kernels {
            let text = kernel_source(one.name).unwrap();
            assert!(!text.contains("#include \""), "{}", one.name);
            let heads = text.match_indices("\nKERNEL").map(|(at, _)| &text[at..at + text[at..].find('{').unwrap()]);
            let heads: Vec<&str> = heads.collect();
            assert!(!heads.is_empty(), "{}", one.name);
            assert!(heads.iter().all(|head| head.contains(&format!(") {}(", one.written))), "{}: {heads:?}", one.name);
            // But for other kernels, it is what NVRTC compiles.
            assert!(text.lines().all(|line| lines.contains(line)), "{}", one.name);
            assert_eq!(open(&text), open(module.source), "{}", one.name);
        }
    }
    assert_eq!(kernel_source("nothing"), None);
    let place = Place::new();
    run(&place, "kernels --source log_partition_one_f32", 0, &["log_partition_one_f32", "S = w sum over real"]);
    run(&place, "kernels --source nothing", 2, &["no kernel is called nothing; zgan info --kernels names them"]);
}
