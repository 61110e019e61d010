//! NumPy's archives of named arrays: pytorch-fid keeps the statistics of a data set in them, and Chainer weights.

use std::io::Write;
use std::path::Path;

use rawzip::{CompressionMethod, ZipArchiveWriter};

use super::npy;
use crate::data::zip::{Entry, Zip};
use crate::{Error, Result, files};

/// An array of `<f8` or `<i8` to be written, as its bytes.
pub struct Named<'a> {
    pub name: &'a str,
    pub descr: &'a str,
    pub shape: &'a [usize],
    pub bytes: Vec<u8>,
}

fn fail(path: &Path, what: String) -> Error {
    Error::Data { path: path.to_path_buf(), what }
}

/// Writes the arrays, not packed. What was at `path` stays until the new file is whole.
pub fn write(path: &Path, arrays: &[Named]) -> Result<()> {
    files::write_parts(path, |file| {
        let mut archive = ZipArchiveWriter::new(file);
        for Named { name, descr, shape, bytes } in arrays {
            let builder = archive.new_file(format!("{name}.npy")).compression_method(CompressionMethod::STORE);
            let (mut entry, config) = builder.start().map_err(std::io::Error::other)?;
            let mut writer = config.wrap(&mut entry);
            writer.write_all(&npy::header(descr, shape))?;
            writer.write_all(bytes)?;
            let (_, output) = writer.finish().map_err(std::io::Error::other)?;
            entry.finish(output).map_err(std::io::Error::other)?;
        }
        archive.finish().map(drop).map_err(std::io::Error::other)
    })
}

/// The most bytes that an array may have.
const MOST: u64 = 1 << 33;

/// The arrays of a file, by their names.
pub fn read(path: &Path) -> Result<Vec<(String, npy::Array)>> {
    let zip = Zip::open(path, "an npz file was expected")?;
    let array = |entry: Entry| {
        let name = entry.path.to_string_lossy().trim_end_matches(".npy").to_string();
        let bytes = zip.read(entry.way, MOST).map_err(|what| fail(path, format!("{name}: {what}")))?;
        Ok((name.clone(), npy::parse(&path.join(name), &bytes)?))
    };
    zip.entries()?.into_iter().map(array).collect()
}
