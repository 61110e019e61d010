//! Writing files so that they are either whole or not there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The ending of a file's name while it is being written.
const UNFINISHED: &str = ".unfinished";

/// `write` makes the file under a temporary name beside `path`; then it is synced and renamed. If anything fails, a full
/// disk for instance, what was at `path` before is still there, and nothing else is left behind.
pub fn write_atomically(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    // Another process may be writing the same file, of a cache for instance.
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}{UNFINISHED}", std::process::id()));
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

/// As [`write_atomically`], for what `write` writes part by part. The file has the mode that the umask gives.
pub fn write_parts(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    write_atomically(path, |unfinished| {
        let file = File::create(unfinished).map_err(Error::io(path))?;
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        write(&mut writer).and_then(|()| writer.flush()).map_err(Error::io(path))
    })
}

/// As [`write_atomically`], for bytes in memory.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |unfinished| fs::write(unfinished, bytes).map_err(Error::io(path)))
}

/// The text of a file that people write by hand, or the like: one that has more, a device for instance, is an error.
pub fn read_text(path: &Path) -> Result<String> {
    const MOST: u64 = 4 << 20;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes));
    read.map_err(Error::io(path))?;
    let fail = |what: &str| Error::Config(format!("{}: {what}", path.display()));
    if bytes.len() as u64 > MOST {
        return Err(fail("more than 4 MiB, expected a text that somebody has written"));
    }
    String::from_utf8(bytes).map_err(|_| fail("no text in UTF-8"))
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

/// Removes from `folder` the unfinished files of programs that were killed, whose names begin with `start`.
pub fn remove_unfinished(folder: &Path, start: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(start) && name.strip_suffix(UNFINISHED).is_some_and(|name| !is_being_written(name)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a name ends with the number of another process, which is still there. Only Linux tells.
fn is_being_written(name: &str) -> bool {
    let process = name.rsplit('.').next().and_then(|number| number.parse::<u32>().ok());
    process.is_some_and(|id| id != std::process::id() && Path::new("/proc").join(id.to_string()).exists())
}

/// Locks a folder for this process, until the file is closed. On a system that cannot lock folders there is nothing to hold.
/// The error says that another process holds it.
pub fn lock(folder: &Path) -> std::result::Result<Option<File>, fs::TryLockError> {
    let Ok(file) = File::open(folder) else { return Ok(None) };
    match file.try_lock() {
        Err(busy @ fs::TryLockError::WouldBlock) => Err(busy),
        _ => Ok(Some(file)),
    }
}

/// A hidden folder that is to become another one, built beside its place so that a rename puts it there whole. It is
/// removed where that does not happen; that of a process that was killed is removed by the next one.
pub struct Staged {
    path: PathBuf,
    /// While it is held, no other process takes the folder for one that was left behind.
    lock: Option<File>,
    placed: bool,
}

const STAGED: &str = ".zgan-";

impl Staged {
    /// In the folder `parent`, which exists.
    pub fn new(parent: &Path) -> Result<Staged> {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            if name.starts_with(STAGED)
                && name.ends_with(UNFINISHED)
                && let Ok(Some(_held)) = lock(&path)
            {
                let _ = fs::remove_dir_all(path);
            }
        }
        for number in 0u64.. {
            let path = parent.join(format!("{STAGED}{}-{number}{UNFINISHED}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(Error::io(&path))?,
            }
            // Another process may have taken it for one that was left behind just before it was locked.
            if let Ok(lock) = lock(&path)
                && path.is_dir()
            {
                return Ok(Staged { path, lock, placed: false });
            }
        }
        Err(Error::Check("more folders than there are numbers".into()))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames it to `place`, where there is nothing or an empty folder, and gives its lock.
    pub fn put(&mut self, place: &Path) -> io::Result<Option<File>> {
        fs::rename(&self.path, place)?;
        self.placed = true;
        sync_folder(place);
        Ok(self.lock.take())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
