//! NumPy's archives of named arrays, as pytorch-fid keeps the statistics of a data set in them.

use std::io::Write;
use std::path::Path;

use rawzip::{CompressionMethod, ZipArchiveWriter};

use super::npy;
use crate::data::zip::Zip;
use crate::{Error, Result, files};

/// A named array of `<f8` or `<i8`, as its bytes.
pub struct Array<'a> {
    pub name: &'a str,
    pub descr: &'a str,
    pub shape: &'a [usize],
    pub bytes: Vec<u8>,
}

fn fail(path: &Path, what: String) -> Error {
    Error::Data { path: path.to_path_buf(), what }
}

/// Writes the arrays, not packed. What was at `path` stays until the new file is whole.
pub fn write(path: &Path, arrays: &[Array]) -> Result<()> {
    files::write_parts(path, |file| {
        let mut archive = ZipArchiveWriter::new(file);
        for Array { name, descr, shape, bytes } in arrays {
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

/// The shape and the numbers of one array; None where the archive has none of this name.
pub fn read(path: &Path, name: &str) -> Result<Option<(Vec<usize>, Vec<f64>)>> {
    let zip = Zip::open(path)?;
    let wanted = format!("{name}.npy");
    let entry = zip.entries()?.into_iter().find(|entry| entry.path == Path::new(&wanted));
    let Some(entry) = entry else { return Ok(None) };
    let bytes = zip.read(entry.way, 1 << 32).map_err(|what| fail(path, format!("{name}: {what}")))?;
    npy::parse(path, &bytes).map(Some)
}
