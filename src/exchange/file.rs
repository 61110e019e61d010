//! Safetensors files of any program, read whole and written so that equal contents make equal bytes.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::{npy, npz};
use crate::checkpoint::{self, NamedTensor};
use crate::{Error, Result, files};

/// What a file says of a tensor in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    pub name: String,
    /// `F32`, for instance.
    pub dtype: String,
    pub shape: Vec<usize>,
}

/// A file's tensors by their names, and its metadata.
pub struct Contents {
    pub metadata: BTreeMap<String, String>,
    pub tensors: Vec<NamedTensor>,
    /// The types that were made f32, such as `BF16`.
    pub converted: Vec<String>,
}

fn fail(path: &Path, what: String) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), what }
}

fn open<T>(path: &Path, read: impl FnOnce(&SafeTensors, BTreeMap<String, String>) -> Result<T>) -> Result<T> {
    let bytes = checkpoint::bytes(path)?;
    if bytes.starts_with(b"PK\x03\x04")
        || bytes.starts_with(b"\x80") && path.extension().is_some_and(|e| e != "safetensors")
    {
        let what = "a pickled file of PyTorch; in Python, safetensors.torch.save_file(torch.load(FILE, map_location=\"cpu\", \
                    weights_only=True), \"weights.safetensors\") makes one that can be read here (of a file that holds more \
                    than one model, name it: torch.load(...)[\"model\"])";
        return Err(fail(path, what.into()));
    }
    let wrong = |e| fail(path, checkpoint::why(&e, &bytes));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(wrong)?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    read(&SafeTensors::deserialize(&bytes).map_err(wrong)?, metadata)
}

/// Whether a file is one of NumPy's, of many arrays.
fn is_npz(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npz"))
}

/// What safetensors files call a type of NumPy's.
fn dtype(descr: &str) -> &str {
    match descr {
        "<f2" => "F16",
        "<f4" => "F32",
        "<f8" => "F64",
        "<i4" => "I32",
        "<i8" => "I64",
        other => other,
    }
}

/// Names, types and shapes of what is in a file, sorted by name, and the file's metadata.
pub fn list(path: &Path) -> Result<(Vec<Listed>, BTreeMap<String, String>)> {
    if is_npz(path) {
        let listed = |(name, array): (String, npy::Array)| Listed {
            name,
            dtype: dtype(&array.descr).into(),
            shape: array.shape,
        };
        let mut tensors: Vec<Listed> = npz::read(path)?.into_iter().map(listed).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        return Ok((tensors, BTreeMap::new()));
    }
    open(path, |all, metadata| {
        let listed = |(name, view): (&str, safetensors::tensor::TensorView)| Listed {
            name: name.into(),
            dtype: format!("{:?}", view.dtype()),
            shape: view.shape().to_vec(),
        };
        let mut tensors: Vec<Listed> = all.iter().map(listed).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((tensors, metadata))
    })
}

/// Whether a tensor counts batches, as the norms of PyTorch and Chainer do, which nothing here needs.
fn counts(name: &str) -> bool {
    name.ends_with("num_batches_tracked") || name.ends_with("/N")
}

/// Reads a file of tensors, sorted by name; what counts batches is left out. Numbers of 16 bits become f32. An error names a
/// tensor of another type, and one with infinity or NaN in it.
pub fn read(path: &Path) -> Result<Contents> {
    let mut contents = Contents { metadata: BTreeMap::new(), tensors: Vec::new(), converted: Vec::new() };
    if is_npz(path) {
        for (name, array) in npz::read(path)?.into_iter().filter(|(name, _)| !counts(name)) {
            let npy::Array { descr, shape, values } = array;
            let values = values.into_iter().map(|x| x as f32).collect();
            contents.add(path, NamedTensor { name, shape, values }, dtype(&descr))?;
        }
    } else {
        open(path, |all, metadata| {
            contents.metadata = metadata;
            for (name, view) in all.iter().filter(|(name, _)| !counts(name)) {
                let (data, shape) = (view.data(), view.shape().to_vec());
                let values = match view.dtype() {
                    Dtype::F32 => numbers_of(data, f32::from_le_bytes),
                    Dtype::F16 => numbers_of(data, |b| f16::from_le_bytes(b).to_f32()),
                    Dtype::BF16 => numbers_of(data, |b| bf16::from_le_bytes(b).to_f32()),
                    _ => Vec::new(),
                };
                contents.add(path, NamedTensor { name: name.into(), shape, values }, &format!("{:?}", view.dtype()))?;
            }
            Ok(())
        })?;
    }
    contents.tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(contents)
}

impl Contents {
    /// Adds a tensor that had this type.
    fn add(&mut self, path: &Path, tensor: NamedTensor, dtype: &str) -> Result<()> {
        let NamedTensor { name, values, .. } = &tensor;
        match dtype {
            "F32" => {}
            "F16" | "BF16" => {
                if !self.converted.iter().any(|known| known == dtype) {
                    self.converted.push(dtype.into());
                }
            }
            _ => {
                let what = format!("tensor {name} is {dtype}, expected F32, F16 or BF16: save it as float32");
                return Err(fail(path, what));
            }
        }
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            return Err(fail(path, format!("tensor {name} is not finite: number {at} of it is {}", values[at])));
        }
        self.tensors.push(tensor);
        Ok(())
    }
}

/// Little-endian numbers.
fn numbers_of<const N: usize, T>(data: &[u8], number: fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}

/// Whole numbers of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<i64>,
}

/// The shape and the numbers of one tensor of a file, of floats or whole numbers; None where no tensor has the name.
pub fn numbers(path: &Path, name: &str) -> Result<Option<(Vec<usize>, Vec<f64>)>> {
    open(path, |all, _| {
        let Ok(view) = all.tensor(name) else { return Ok(None) };
        let values = match view.dtype() {
            Dtype::F32 => numbers_of(view.data(), |b| f64::from(f32::from_le_bytes(b))),
            Dtype::F64 => numbers_of(view.data(), f64::from_le_bytes),
            Dtype::I32 => numbers_of(view.data(), |b| f64::from(i32::from_le_bytes(b))),
            Dtype::I64 => numbers_of(view.data(), |b| i64::from_le_bytes(b) as f64),
            other => return Err(fail(path, format!("tensor {name} is {other:?}, expected F32, F64, I32 or I64"))),
        };
        Ok(Some((view.shape().to_vec(), values)))
    })
}

/// Writes tensors in f32, and whole numbers. What was at `path` stays until the new file is whole.
pub fn write(path: &Path, metadata: &BTreeMap<String, String>, tensors: &[NamedTensor], whole: &[Whole]) -> Result<()> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    let mut place = |name: &str, dtype: &str, shape: &[usize], bytes: usize| {
        let value = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes]});
        end += bytes;
        header.insert(name.into(), value);
    };
    // Those of 8 bytes come first: what is behind them stays aligned.
    whole.iter().for_each(|t| place(&t.name, "I64", &t.shape, size_of_val(t.values.as_slice())));
    tensors.iter().for_each(|t| place(&t.name, "F32", &t.shape, size_of_val(t.values.as_slice())));
    header.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut begin = serde_json::Value::Object(header).to_string().into_bytes();
    begin.resize(begin.len().next_multiple_of(8), b' ');
    files::write_parts(path, |file| {
        file.write_all(&(begin.len() as u64).to_le_bytes())?;
        file.write_all(&begin)?;
        whole.iter().flat_map(|t| &t.values).try_for_each(|x| file.write_all(&x.to_le_bytes()))?;
        tensors.iter().try_for_each(|t| file.write_all(&checkpoint::little_endian(&t.values)))
    })
}
