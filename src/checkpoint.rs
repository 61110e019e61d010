//! Checkpoints: safetensors files with everything that a training needs to go on.
//!
//! The metadata is one string of JSON ([`Header`]), so that equal states make files that are equal to the byte. It has a
//! CRC-32 of itself and of all tensors, as the format by itself would not notice a flipped bit.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::data::DataInfo;
use crate::device::size;
use crate::sizes::reserved;
use crate::{Error, Result, files};

/// The version of the format. It changes when old programs cannot read new files, or new programs old files. In format 1,
/// which is still read, the vectors of the spectral norm of all weights of a network were one tensor, and the average had no
/// statistics of its own.
pub const FORMAT: u32 = 2;

const OLDEST: u32 = 1;

const KEY: &str = "zgan";

/// No images have more pixels along a side, or more channels, so a header that says so was not written by this program.
const MOST_SIDE: usize = 1 << 16;
const MOST_CHANNELS: usize = 4;

/// A tensor with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// What determines the numbers in a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub format: u32,
    /// How many steps were done.
    pub step: u64,
    /// The settings that change numbers, see [`crate::settings::Settings::numbers`].
    pub config: toml::Table,
    pub data: DataInfo,
    /// Only runs whose losses are scaled have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
}

/// The state of a loss scale that finds its own size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    pub scale: f32,
    /// The steps since the last overflow.
    pub good_steps: u32,
    /// The updates of G and of D, without those that overflowed.
    pub updates: [u32; 2],
}

/// The last member of the metadata's JSON object: the texts before and behind the eight digits of the checksum.
const SEAL: (&str, &str) = (",\"crc32\":\"", "\"}");

pub(crate) fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return Cow::Borrowed(bytemuck::cast_slice(values));
    }
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The CRC-32 of the header's text, and of the name, shape and values of each tensor in the order of the names.
fn checksum(header: &str, tensors: &[NamedTensor]) -> String {
    let mut crc = flate2::Crc::new();
    crc.update(header.as_bytes());
    let mut sorted: Vec<&NamedTensor> = tensors.iter().collect();
    sorted.sort_by_key(|t| &t.name);
    for tensor in sorted {
        crc.update(format!("{}{:?}", tensor.name, tensor.shape).as_bytes());
        crc.update(&little_endian(&tensor.values));
    }
    format!("{:08x}", crc.sum())
}

/// Refuses tensors that have infinity or NaN among their values, and names the first.
fn check_finite(step: u64, tensors: &[NamedTensor]) -> Result<()> {
    match tensors.iter().find(|tensor| tensor.values.iter().any(|x| !x.is_finite())) {
        Some(tensor) => Err(Error::NotFinite { step, what: format!("tensor {} is not finite", tensor.name) }),
        None => Ok(()),
    }
}

/// Writes a checkpoint. What was at `path` before stays there until the new file is whole. [`Error::NotFinite`], and
/// nothing is written, where a tensor has infinity or NaN among its values.
pub fn save(path: &Path, tensors: &[NamedTensor], header: &Header) -> Result<()> {
    let fail = |what: String| Error::Checkpoint { path: path.to_path_buf(), what };
    for tensor in tensors {
        if tensor.shape.iter().product::<usize>() != tensor.values.len() {
            let (name, shape, len) = (&tensor.name, &tensor.shape, tensor.values.len());
            return Err(fail(format!("tensor {name} of shape {shape:?} has {len} values")));
        }
    }
    check_finite(header.step, tensors)?;
    let mut text = serde_json::to_string(header).map_err(|e| fail(e.to_string()))?;
    text.pop(); // the closing brace
    let sealed = format!("{text}{}{}{}", SEAL.0, checksum(&text, tensors), SEAL.1);
    let metadata = Some(HashMap::from([(KEY.to_string(), sealed)]));
    let (mut sorted, mut end): (Vec<&NamedTensor>, usize) = (tensors.iter().collect(), 0);
    sorted.sort_by_key(|t| &t.name);
    let place = |t: &&NamedTensor| {
        let start = end;
        end += size_of_val(t.values.as_slice());
        (t.name.clone(), TensorInfo { dtype: Dtype::F32, shape: t.shape.clone(), data_offsets: (start, end) })
    };
    let places = Metadata::new(metadata, sorted.iter().map(place).collect()).map_err(|e| fail(e.to_string()))?;
    // The format aligns what follows to 8 bytes with spaces.
    let mut begin = serde_json::to_vec(&places).map_err(|e| fail(e.to_string()))?;
    begin.resize(begin.len().next_multiple_of(8), b' ');
    files::write_parts(path, |file| {
        file.write_all(&(begin.len() as u64).to_le_bytes())?;
        file.write_all(&begin)?;
        sorted.iter().try_for_each(|tensor| file.write_all(&little_endian(&tensor.values)))
    })
}

/// The bytes of a file, and of nothing else: a pipe or a device would be waited for, or never end.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>> {
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(Error::Checkpoint { path: path.to_path_buf(), what: "not a file".into() });
    }
    std::fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::OutOfMemory => out_of_memory(path, std::fs::metadata(path).map_or(0, |m| m.len() as usize)),
        _ => Error::io(path)(error),
    })
}

/// Reads a checkpoint. It refuses files that are damaged, cut off, or not from this program.
pub fn load(path: &Path) -> Result<(Header, Vec<NamedTensor>)> {
    let fail = |what: String| Error::Checkpoint { path: path.to_path_buf(), what };
    let bytes = bytes(path)?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| fail(why(&e, &bytes)))?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or_else(|| {
        let count = metadata.tensors().len();
        fail(format!("a safetensors file ({count} tensors) that zgan did not write: it has no \"{KEY}\" metadata"))
    })?;
    // The version comes first, as everything else depends on it.
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    match serde_json::from_str(text) {
        Ok(Version { format: OLDEST..=FORMAT }) => {}
        Ok(Version { format }) => {
            return Err(fail(format!("checkpoint format {format}, this program reads {OLDEST} to {FORMAT}")));
        }
        Err(error) => return Err(fail(format!("damaged: its metadata cannot be read: {error}"))),
    }
    let unreadable = |error: &dyn std::fmt::Display| fail(format!("damaged: its metadata cannot be read: {error}"));
    let header: Header = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let (body, crc) = text.rsplit_once(SEAL.0).ok_or_else(|| unreadable(&"it has no checksum"))?;

    let all = SafeTensors::deserialize(&bytes).map_err(|e| fail(why(&e, &bytes)))?;
    let mut tensors = Vec::with_capacity(all.len());
    for (name, view) in all.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(fail(format!("tensor {name} is {:?}, expected F32", view.dtype())));
        }
        let numbers = view.data().as_chunks::<4>().0;
        let mut values = reserved(name, numbers.len()).map_err(|_| out_of_memory(path, bytes.len()))?;
        values.extend(numbers.iter().map(|b| f32::from_le_bytes(*b)));
        tensors.push(NamedTensor { name: name.to_string(), shape: view.shape().to_vec(), values });
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let found = checksum(body, &tensors);
    let written = crc.trim_end_matches(SEAL.1);
    if found != written {
        return Err(fail(format!("damaged: its checksum is {found}, it was written with {written}")));
    }
    let shape = header.data.shape;
    if shape.height.max(shape.width) > MOST_SIDE || shape.channels > MOST_CHANNELS || shape.is_empty() {
        let most = format!("at most {MOST_SIDE} x {MOST_SIDE} of {MOST_CHANNELS} channels");
        return Err(fail(format!("its images are {shape}, expected {most}, and none of them 0")));
    }
    Ok((header, tensors))
}

/// [`load`], of what training can go on from: refuses tensors that are not finite, which older programs saved.
pub fn load_finite(path: &Path) -> Result<(Header, Vec<NamedTensor>)> {
    let (header, tensors) = load(path)?;
    let fail = |error: Error| Error::Checkpoint { path: path.to_path_buf(), what: error.to_string() };
    check_finite(header.step, &tensors).map_err(fail)?;
    Ok((header, tensors))
}

/// Whether a file of this metadata is a checkpoint, of whatever format.
pub fn is_one(metadata: &std::collections::BTreeMap<String, String>) -> bool {
    metadata.contains_key(KEY)
}

fn out_of_memory(path: &Path, bytes: usize) -> Error {
    Error::Memory { what: path.display().to_string(), asked: size(bytes) }
}

/// What the reader's error means, with the sizes where a file was cut off.
pub(crate) fn why(error: &SafeTensorError, bytes: &[u8]) -> String {
    let len = bytes.len();
    match error {
        SafeTensorError::HeaderTooSmall => format!("cut off: {len} bytes, a header needs 8"),
        SafeTensorError::InvalidHeaderLength | SafeTensorError::MetadataIncompleteBuffer => {
            format!(
                "cut off, or not a safetensors file: the header speaks of more or fewer than the {len} bytes there are"
            )
        }
        SafeTensorError::HeaderTooLarge => {
            format!("not a safetensors file: {len} bytes that do not begin with a header")
        }
        other => format!("damaged, or not a safetensors file: {other}"),
    }
}

/// The tensors of these names and shapes, in this order. It is an error where there are others, and where one is missing
/// or has another shape; the error names them.
pub fn take<'a>(tensors: &'a [NamedTensor], expected: &[(&str, &[usize])]) -> Result<Vec<&'a NamedTensor>> {
    let by_name: HashMap<&str, &NamedTensor> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut found = Vec::with_capacity(expected.len());
    let mut wrong = Vec::new();
    for (name, shape) in expected {
        match by_name.get(name) {
            None => wrong.push(format!("{name} {shape:?} is missing")),
            Some(tensor) if tensor.shape != *shape => {
                wrong.push(format!("{name} is {:?}, expected {shape:?}", tensor.shape));
            }
            Some(tensor) => found.push(*tensor),
        }
    }
    let known: std::collections::HashSet<&str> = expected.iter().map(|(name, _)| *name).collect();
    let extra = tensors.iter().filter(|t| !known.contains(t.name.as_str()));
    wrong.extend(extra.map(|t| format!("{} {:?} is not part of these networks", t.name, t.shape)));
    if wrong.is_empty() {
        return Ok(found);
    }
    let more = wrong.len().saturating_sub(5);
    wrong.truncate(5);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(Error::Shape(format!("checkpoint: {}{rest}", wrong.join("; "))))
}
