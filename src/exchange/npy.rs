//! NumPy's files, of one array (npy), or of many in a zip (npz).

use std::path::Path;

use half::f16;

use crate::{Error, Result, checkpoint, files};

const MAGIC: &[u8] = b"\x93NUMPY";

fn fail(path: &Path, what: impl Into<String>) -> Error {
    Error::Data { path: path.to_path_buf(), what: what.into() }
}

/// The beginning of an array whose numbers have the type `descr`, such as `<f4`.
pub fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    // A tuple of one number has a comma behind it.
    let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    let sides = if shape.len() > 1 { sides.trim_end_matches(", ") } else { sides.trim_end() };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sides}), }}");
    // The numbers begin at a multiple of 64, behind a line feed.
    let begin = MAGIC.len() + 4;
    let spaces = (begin + header.len() + 1).next_multiple_of(64) - begin - 1;
    header = format!("{header:<spaces$}\n");
    [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat()
}

/// Writes an array whose numbers have the type `descr` and are these bytes.
fn write(path: &Path, descr: &str, shape: &[usize], bytes: &[u8]) -> Result<()> {
    files::write_parts(path, |file| {
        file.write_all(&header(descr, shape))?;
        file.write_all(bytes)
    })
}

pub fn write_f32(path: &Path, shape: &[usize], values: &[f32]) -> Result<()> {
    write(path, "<f4", shape, &checkpoint::little_endian(values))
}

pub fn write_i64(path: &Path, shape: &[usize], values: &[i64]) -> Result<()> {
    write(path, "<i8", shape, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

/// An array of floats (2, 4 or 8 bytes) or of whole numbers.
pub struct Array {
    /// `<f4`, for instance.
    pub descr: String,
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// The array of a file.
pub fn read(path: &Path) -> Result<Array> {
    parse(path, &checkpoint::bytes(path)?)
}

/// The array in the bytes of a file, which errors call `path`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Array> {
    let body = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| fail(path, "not a file of NumPy: it does not begin with \\x93NUMPY"))?;
    let cut = || fail(path, "cut off in its header");
    let (&[version, _], rest) = body.split_first_chunk::<2>().ok_or_else(cut)?;
    let (len, rest) = match version {
        1 => rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
        _ => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
    }
    .ok_or_else(cut)?;
    let (header, data) = rest.split_at_checked(len).ok_or_else(cut)?;
    let header = String::from_utf8_lossy(header);
    let value = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
    let unreadable = || fail(path, format!("its header cannot be read: {}", header.trim()));
    let descr = value("descr").and_then(|rest| rest.split('\'').nth(1)).ok_or_else(unreadable)?;
    if value("fortran_order").is_none_or(|rest| !rest.starts_with("False")) {
        return Err(fail(path, "its first axis runs fastest (fortran_order); numpy.ascontiguousarray turns it round"));
    }
    let sides = value("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).ok_or_else(unreadable)?.0;
    let sides: Option<Vec<usize>> =
        sides.split(',').map(str::trim).filter(|side| !side.is_empty()).map(|side| side.parse().ok()).collect();
    let shape = sides.ok_or_else(unreadable)?;
    fn numbers<const N: usize>(data: &[u8], number: fn([u8; N]) -> f64) -> Vec<f64> {
        data.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
    }
    let (size, values) = match descr {
        "<f2" => (2, numbers(data, |b| f16::from_le_bytes(b).to_f64())),
        "<f4" => (4, numbers(data, |b| f64::from(f32::from_le_bytes(b)))),
        "<f8" => (8, numbers(data, f64::from_le_bytes)),
        "<i4" => (4, numbers(data, |b| f64::from(i32::from_le_bytes(b)))),
        "<i8" => (8, numbers(data, |b| i64::from_le_bytes(b) as f64)),
        "|u1" => (1, numbers(data, |[b]: [u8; 1]| f64::from(b))),
        other => return Err(fail(path, format!("numbers of type {other}, expected <f2, <f4, <f8, <i4, <i8 or |u1"))),
    };
    let count = shape.iter().fold(1usize, |n, side| n.saturating_mul(*side));
    if values.len() != count || data.len() != count.saturating_mul(size) {
        return Err(fail(
            path,
            format!("{} bytes of numbers, expected {count} of {size} bytes for shape {shape:?}", data.len()),
        ));
    }
    Ok(Array { descr: descr.into(), shape, values })
}
