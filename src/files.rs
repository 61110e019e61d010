//! Writing files so that they are either whole or not there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The ending of a file's name while it is being written.
const UNFINISHED: &str = ".unfinished";

/// `write` makes the file under a temporary name beside `path`; then it is synced and renamed. If anything fails, a full
/// disk for instance, what was at `path` before is still there, and nothing else is left behind.
pub fn write_atomically(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(UNFINISHED);
    let unfinished = path.with_file_name(name);
    let result = write(&unfinished)
        .and_then(|()| File::open(&unfinished).and_then(|file| file.sync_all()).map_err(Error::io(path)))
        .and_then(|()| fs::rename(&unfinished, path).map_err(Error::io(path)));
    if result.is_err() {
        // The error to report is the first one.
        let _ = fs::remove_file(&unfinished);
        return result;
    }
    sync_folder(path);
    Ok(())
}

/// As [`write_atomically`], for bytes in memory.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |unfinished| fs::write(unfinished, bytes).map_err(Error::io(path)))
}

/// Makes sure that a rename in this file's folder survives a power cut. Not every file system can do that. The file itself
/// is synced already, so it is no error where it cannot.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// The user's cache folder: `$XDG_CACHE_HOME/zgan`, or else `~/.cache/zgan`.
pub fn users_cache() -> Option<PathBuf> {
    // The specification of these folders says that relative paths are to be ignored.
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("zgan"))
}

/// Removes from `folder` the unfinished files of a program that was killed.
pub fn remove_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
