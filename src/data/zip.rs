//! Reads the files of a zip, plain or deflated, from any number of threads.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::DeflateDecoder;
use rawzip::{CompressionMethod, FileReader, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipArchiveEntryWayfinder};

use crate::sizes::reserved;
use crate::{Error, Result};

pub struct Zip {
    path: PathBuf,
    archive: ZipArchive<FileReader>,
}

/// Where a file is in the archive, and how it is packed.
#[derive(Clone, Copy)]
pub struct Way {
    at: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
}

/// A file of the archive.
pub struct Entry {
    pub path: PathBuf,
    /// Bytes of the file, unpacked.
    pub bytes: u64,
    pub way: Way,
}

impl Zip {
    /// Opens an archive. An error begins with what was `expected`.
    pub fn open(path: &Path, expected: &str) -> Result<Zip> {
        let file = File::open(path).map_err(Error::io(path))?;
        let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
        let archive = ZipArchive::from_file(file, &mut buffer).map_err(|error| {
            let what = format!("{expected}; this file is no zip: {error}");
            Error::Data { path: path.to_path_buf(), what }
        })?;
        Ok(Zip { path: path.to_path_buf(), archive })
    }

    /// The files in the archive, those alone whose paths stay inside it.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let fail = |error: rawzip::Error| Error::Data { path: self.path.clone(), what: format!("damaged: {error}") };
        let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
        let mut entries = self.archive.entries(&mut buffer);
        let mut all = Vec::new();
        while let Some(entry) = entries.next_entry().map_err(fail)? {
            let Ok(path) = entry.file_path().try_normalize() else { continue };
            if !entry.is_dir() {
                let way = Way { at: entry.wayfinder(), method: entry.compression_method() };
                all.push(Entry { path: path.as_str().into(), bytes: entry.uncompressed_size_hint(), way });
            }
        }
        Ok(all)
    }

    /// The bytes of a file, at most `most`. The error says what is wrong.
    pub fn read(&self, way: Way, most: u64) -> std::result::Result<Vec<u8>, String> {
        let said = way.at.uncompressed_size_hint();
        let too_large = || format!("{said} bytes, expected at most {most}");
        let room = usize::try_from(said).ok().filter(|_| said <= most).ok_or_else(too_large)?;
        let mut bytes = reserved("a file of a zip", room).map_err(|_| too_large())?;
        let entry = self.archive.get_entry(way.at).map_err(|e| e.to_string())?;
        let packed: Box<dyn Read> = match way.method {
            CompressionMethod::STORE => Box::new(entry.reader()),
            CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(entry.reader())),
            other => return Err(format!("packed by {other}, expected a zip of plain or deflated files")),
        };
        // It ends with an error where size or checksum are not those of the archive.
        entry.verifying_reader(packed).take(most).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes)
    }
}
