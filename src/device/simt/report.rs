//! What the checkers found, in words, with source lines from this program's debug information.

use std::collections::HashMap;

use addr2line::Loader;

use super::shadow::kind_name;
use crate::device::Kernel;

/// Which checker, by the name that compute-sanitizer gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Check {
    /// An access outside every argument and shared array, or not aligned.
    Memcheck,
    /// A read of memory that nobody has written.
    Initcheck,
    /// Two threads, the same memory, at least one write, and nothing that orders them.
    Racecheck,
    /// A barrier or an operation of a full warp that not all threads reach.
    Synccheck,
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Check::Memcheck => "memcheck",
            Check::Initcheck => "initcheck",
            Check::Racecheck => "racecheck",
            Check::Synccheck => "synccheck",
        })
    }
}

/// One mistake of a kernel, at one place in its source.
#[derive(Clone, Debug)]
pub struct Finding {
    pub check: Check,
    pub kernel: &'static str,
    /// (x, y, z) in the grid.
    pub block: [u32; 3],
    pub thread: u32,
    /// `kernels/device/reduce.h:81 in kernels/adam.cu:66`; empty where there is no debug information.
    pub source: String,
    /// `write of 4 bytes`
    pub what: String,
    /// `byte 32 of shared array warps`, `byte 128 of x`
    pub memory: Option<String>,
    /// The access it collides with: `read by thread 3 of block [0, 0, 0] at kernels/device/reduce.h:85`
    pub other: Option<String>,
    /// How often it was seen.
    pub times: u64,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Finding { check, kernel, block, thread, source, what, .. } = self;
        write!(f, "{check}: {kernel}, block {block:?}, thread {thread}")?;
        if !source.is_empty() {
            write!(f, ", {source}")?;
        }
        write!(f, ": {what}")?;
        if let Some(memory) = &self.memory {
            write!(f, ", {memory}")?;
        }
        if let Some(other) = &self.other {
            write!(f, "; {other}")?;
        }
        if self.times > 1 {
            write!(f, " ({} times)", self.times)?;
        }
        Ok(())
    }
}

/// A finding as it is kept while kernels run: places are addresses of code.
pub(super) struct Raw {
    pub check: Check,
    pub kernel: &'static Kernel,
    pub grid: [u32; 3],
    pub block: u32,
    pub thread: u32,
    pub what: String,
    pub memory: Option<String>,
    pub place: u64,
    /// (block, thread, kind, place)
    pub other: Option<(u32, u32, u32, u64)>,
    pub times: u64,
}

pub(super) fn in_words(raw: Vec<Raw>) -> Vec<Finding> {
    let mut lines = Lines::default();
    raw.into_iter()
        .map(|raw| {
            let index = |block: u32| {
                let [x, y, _] = raw.grid.map(|n| n.max(1));
                [block % x, block / x % y, block / x / y]
            };
            let other = raw.other.map(|(block, thread, kind, place)| {
                let line = lines.of(place);
                let at = if line.is_empty() { String::new() } else { format!(" at {line}") };
                match raw.check {
                    Check::Synccheck if line.is_empty() => format!("thread {thread} has ended"),
                    Check::Synccheck => format!("thread {thread} waits{at}"),
                    _ => format!("{} by thread {thread} of block {:?}{at}", kind_name(kind), index(block)),
                }
            });
            Finding {
                check: raw.check,
                kernel: raw.kernel.name,
                block: index(raw.block),
                thread: raw.thread,
                source: lines.of(raw.place),
                what: raw.what,
                memory: raw.memory,
                other,
                times: raw.times,
            }
        })
        .collect()
}

/// Source lines of code addresses. The file that a piece of code was loaded from is what `/proc/self/maps` says; where there
/// is none, there are no lines.
#[derive(Default)]
pub(super) struct Lines {
    maps: Option<String>,
    loaders: HashMap<String, Option<Loader>>,
}

impl Lines {
    /// Of the call that returns to `place`.
    pub fn of(&mut self, place: u64) -> String {
        if place == 0 {
            return String::new();
        }
        let maps = self.maps.get_or_insert_with(|| std::fs::read_to_string("/proc/self/maps").unwrap_or_default());
        let Some((file, base)) = file_of(maps, place) else { return String::new() };
        let loader = self.loaders.entry(file.clone()).or_insert_with(|| Loader::new(&file).ok());
        let probe = place - 1 - base;
        loader.as_ref().map_or(String::new(), |loader| frames(loader, probe))
    }
}

/// The line in question, and the kernel's own that it was inlined into: `kernels/device/reduce.h:79 in kernels/adam.cu:66`.
fn frames(loader: &Loader, probe: u64) -> String {
    let Ok(mut frames) = loader.find_frames(probe) else { return String::new() };
    let mut lines = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        if let Some(location) = frame.location {
            let file = location.file.unwrap_or("?");
            // The compiler writes names relative to the folder it ran in.
            let file = file.rfind("kernels/").map_or(file, |at| &file[at..]);
            lines.push(format!("{file}:{}", location.line.unwrap_or(0)));
        }
    }
    // Barriers and shuffles are inlined into what calls them, and kernels into the table's entry.
    let kernels: Vec<_> = lines.iter().filter(|line| !line.starts_with("kernels/host/")).collect();
    match kernels[..] {
        [] => lines.into_iter().next().unwrap_or_default(),
        [line] => line.clone(),
        [line, .., outer] => format!("{line} in {outer}"),
    }
}

/// The file that `place` was loaded from, and the address of its first byte.
fn file_of(maps: &str, place: u64) -> Option<(String, u64)> {
    let mut base = (String::new(), 0);
    for line in maps.lines() {
        // 55d0a000-55d0b000 r-xp 00001000 08:01 1234    /path
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
        let path = fields.skip(2).collect::<Vec<_>>().join(" ");
        if offset == 0 {
            base = (path.clone(), start);
        }
        if (start..end).contains(&place) {
            return (base.0 == path && !path.is_empty()).then_some(base);
        }
    }
    None
}
