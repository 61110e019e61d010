//! Compiled kernels, kept by the hash of what they are made from, in one folder of the target directory that all features,
//! profiles and cargo's commands share: a change of one of those compiles no kernel again.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// What no build has used for this long is removed.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub struct Store {
    folder: PathBuf,
}

/// A file to be made, unless it is there: `<stem>.<hash>.<ending>`, and beside it what its compiler said (`.said`).
pub struct Job<'a> {
    pub file: PathBuf,
    /// A second file, which the same run of the compiler makes.
    pub beside: Option<PathBuf>,
    /// For the line that tells of a build: `norm for avx2`.
    pub what: String,
    /// How long it takes about, in CPU seconds of a middling machine.
    pub seconds: f64,
    pub make: Box<Make<'a>>,
}

/// Writes the file to this path; gives what is to be kept beside it, or the compiler's errors.
type Make<'a> = dyn Fn(&Path) -> Result<Made, String> + Sync + 'a;

#[derive(Default)]
pub struct Made {
    /// Kept as `.said`.
    pub said: String,
    /// Kept as `.warnings` where there are any.
    pub warnings: String,
    /// What is in the job's second file.
    pub beside: Vec<u8>,
}

impl Job<'_> {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.file].into_iter().chain(&self.beside)
    }
}

impl Store {
    /// `kernels` in the target directory, which holds `out`.
    pub fn open(out: &Path) -> Store {
        // Cargo marks its target directory. Without a mark it is `target/PROFILE/build/PACKAGE/out`'s fourth parent.
        let marked = out.ancestors().skip(1).find(|folder| folder.join("CACHEDIR.TAG").exists());
        let target = marked.or(out.ancestors().nth(4)).unwrap_or(out);
        let folder = target.join("kernels");
        fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        Store { folder }
    }

    /// Where what is made from `inputs` is kept.
    pub fn path(&self, stem: &str, inputs: &impl Hash, ending: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        inputs.hash(&mut hasher);
        self.folder.join(format!("{stem}.{:016x}.{ending}", hasher.finish()))
    }

    /// Makes what is missing, on all cores, and says so on the terminal. The error has every message of the jobs that
    /// failed; with `deny_warnings` a warning is a failure, also that of an earlier build.
    pub fn make(&self, jobs: &[Job], deny_warnings: bool) -> Result<(), String> {
        let missing: Vec<&Job> = jobs.iter().filter(|job| !job.files().all(|file| file.exists())).collect();
        tell(&missing);
        let mut failures = in_parallel(&missing, |job| {
            // Renamed when it is whole: another build may want the same file.
            let unfinished =
                |file: &Path| self.folder.join(format!("unfinished.{}.{}", std::process::id(), name(file)));
            let own = unfinished(&job.file);
            let Made { said, warnings, beside } = (job.make)(&own).inspect_err(|_| _ = fs::remove_file(&own))?;
            let keep = || {
                if let Some(file) = &job.beside {
                    fs::write(unfinished(file), beside)?;
                    fs::write(file.with_extension("said"), "")?;
                    fs::rename(unfinished(file), file)?;
                }
                fs::write(job.file.with_extension("said"), said)?;
                if !warnings.is_empty() {
                    fs::write(job.file.with_extension("warnings"), warnings)?;
                }
                fs::rename(&own, &job.file)
            };
            keep().map_err(|e| format!("{}: {e}", job.file.display()))
        });
        for job in jobs.iter().filter(|_| deny_warnings) {
            failures.extend(fs::read_to_string(job.file.with_extension("warnings")));
        }
        if !failures.is_empty() {
            // One mistake fails in every instruction set.
            failures.sort();
            failures.dedup();
            return Err(failures.join("\n"));
        }
        let now = SystemTime::now();
        for file in jobs.iter().flat_map(Job::files) {
            // Only so that it is kept; a folder that may not be written to is no reason to fail.
            let _ = File::options().append(true).open(file).and_then(|file| file.set_modified(now));
        }
        self.remove_old(now);
        Ok(())
    }

    fn remove_old(&self, now: SystemTime) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            // What was said of a file goes with it.
            let main =
                !["said", "warnings"].iter().any(|ending| path.extension().is_some_and(|found| found == *ending));
            let age =
                entry.metadata().and_then(|m| m.modified()).map(|time| now.duration_since(time).unwrap_or_default());
            if main && age.is_ok_and(|age| age > KEPT) {
                for file in [path.clone(), path.with_extension("said"), path.with_extension("warnings")] {
                    let _ = fs::remove_file(file);
                }
            }
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Cargo shows what a build script prints only where it fails, so this goes straight to the terminal, where there is one.
fn tell(missing: &[&Job]) {
    let seconds = missing.iter().map(|job| job.seconds).sum::<f64>() / cores() as f64;
    let Some(first) = missing.first() else { return };
    if let Ok(mut terminal) = File::options().write(true).open("/dev/tty") {
        let others = if missing.len() == 1 { String::new() } else { format!(" and {} more", missing.len() - 1) };
        let what = format!("zgan: compiling kernels ({}{others}), about {:.0} s", first.what, seconds.max(1.0));
        // Cargo's own line of progress is where the cursor stands.
        let _ = writeln!(terminal, "\r\x1b[K{what}");
    }
}

/// Does all jobs on all cores; the messages of those that failed.
fn in_parallel(jobs: &[&Job], run: impl Fn(&Job) -> Result<(), String> + Sync) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(message) = run(job) {
                        failures.lock().expect("no job panics while it holds the lock").push(message);
                    }
                }
            });
        }
    });
    failures.into_inner().expect("all jobs have ended")
}
