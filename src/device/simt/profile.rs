//! What the hardware would feel of a kernel's accesses, counted as they are made: sectors of global memory, conflicts
//! between banks of shared memory, bytes moved.
//!
//! A *request* is what the 32 threads of a warp access when they execute an instruction once. Here the threads run one after
//! the other, so a request is put together from them: it is the n-th access of each thread of a warp at one place in the
//! code since the warp last waited together (at a barrier, a warp barrier or a shuffle). So the counts do not depend on
//! the order in which the threads ran.

use std::collections::{BTreeMap, HashMap};

use super::access::{Access, Kind};
use super::report::Lines;
use super::{BLOCK, WARP};

/// What a GPU fetches of global memory at a time, in bytes.
const SECTOR: u64 = 32;
/// Banks of shared memory, of one word each.
const BANKS: u64 = 32;
const WORD: u64 = 4;

/// Requests to global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Global {
    pub requests: u64,
    /// Pieces of 32 bytes, aligned to as many, that the requests touch.
    pub sectors: u64,
    /// How many sectors the bytes of each request would take if they lay side by side.
    pub least_sectors: u64,
}

/// Requests to shared memory. A request of 8 bytes a thread is served for half a warp at a time, one of 16 bytes for a
/// quarter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    pub requests: u64,
    /// Turns that the banks need: in each turn a bank serves one word, to all threads that want that word.
    pub wavefronts: u64,
    /// The turns that would be needed without conflicts.
    pub least_wavefronts: u64,
}

/// A line of source, with the line that it was inlined into: `kernels/device/reduce.h:79 in kernels/adam.cu:66`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pub source: String,
    pub global: Global,
    pub shared: Shared,
}

/// The unit that computes a kernel's products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// The multiply-add units of f32.
    Fma,
    /// Tensor cores with operands of these types.
    Tf32,
    Bf16,
    F16,
}

/// The launches of one kernel, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    pub launches: u64,
    /// Multiplications and additions of its products, as the launches say; [`Unit::of`] tells which unit does them.
    pub flops: u64,
    /// What the launches would move at least: each byte that is read counts once, and each byte that is written once.
    pub least_bytes: u64,
    /// In the order of [`Line::source`].
    pub lines: Vec<Line>,
}

impl Unit {
    /// The unit that the name of a kernel tells.
    pub fn of(kernel: &str) -> Unit {
        let of = |word: &str| kernel.contains(word);
        match () {
            () if of("bf16") => Unit::Bf16,
            () if of("f16") => Unit::F16,
            () if of("tf32") || of("_tensor_") => Unit::Tf32,
            () => Unit::Fma,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Unit::Fma => "fma",
            Unit::Tf32 => "tensor tf32",
            Unit::Bf16 => "tensor bf16",
            Unit::F16 => "tensor f16",
        }
    }
}

impl Global {
    pub fn add(&mut self, other: Global) {
        self.requests += other.requests;
        self.sectors += other.sectors;
        self.least_sectors += other.least_sectors;
    }
}

impl Shared {
    pub fn add(&mut self, other: Shared) {
        self.requests += other.requests;
        self.wavefronts += other.wavefronts;
        self.least_wavefronts += other.least_wavefronts;
    }

    /// Turns that are lost to conflicts.
    pub fn conflicts(&self) -> u64 {
        self.wavefronts - self.least_wavefronts
    }
}

impl Profile {
    pub fn global(&self) -> Global {
        let mut sum = Global::default();
        self.lines.iter().for_each(|line| sum.add(line.global));
        sum
    }

    pub fn shared(&self) -> Shared {
        let mut sum = Shared::default();
        self.lines.iter().for_each(|line| sum.add(line.shared));
        sum
    }

    /// Bytes that move between the multiprocessors and their caches.
    pub fn moved_bytes(&self) -> u64 {
        self.global().sectors * SECTOR
    }

    pub fn add(&mut self, other: &Profile) {
        self.launches += other.launches;
        self.flops += other.flops;
        self.least_bytes += other.least_bytes;
        for line in &other.lines {
            match self.lines.binary_search_by(|known| known.source.cmp(&line.source)) {
                Ok(at) => {
                    self.lines[at].global.add(line.global);
                    self.lines[at].shared.add(line.shared);
                }
                Err(at) => self.lines.insert(at, line.clone()),
            }
        }
    }
}

/// An instruction: a place in the code, and what it does there. A copy of many bytes counts as several instructions,
/// one for each `piece`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Site {
    place: u64,
    piece: u32,
    kind: Kind,
    width: u8,
    shared: bool,
}

/// The addresses of one request; a bit for each thread that takes part.
struct Request {
    lanes: u32,
    addresses: [u64; WARP],
}

/// What a warp has executed of one instruction since it last waited together.
#[derive(Default)]
struct Pending {
    requests: Vec<Request>,
    /// How often each thread has executed it.
    turns: [u32; WARP],
}

/// A bit for each byte of a buffer.
struct Touched {
    read: Vec<u64>,
    written: Vec<u64>,
}

#[derive(Default)]
struct Raw {
    launches: u64,
    flops: u64,
    least_bytes: u64,
    /// By the place in the code.
    places: HashMap<u64, (Global, Shared)>,
}

/// Counts what it is told; `shadow` knows which memory an access belongs to.
#[derive(Default)]
pub(super) struct Profiler {
    kernels: BTreeMap<&'static str, Raw>,
    // The others are of the launch that runs now.
    sites: Vec<(Site, Global, Shared)>,
    index: HashMap<Site, usize>,
    /// By the number of the warp, then by the number of the site.
    pending: [Vec<Pending>; BLOCK / WARP],
    /// By the number of the live buffer.
    touched: HashMap<usize, Touched>,
}

/// Where an access goes.
#[derive(Clone, Copy)]
pub(super) enum Memory {
    /// The buffer's number, its length, and where in it.
    Global { buffer: usize, bytes: u64, offset: u64 },
    /// Where in the array, whose first word lies in bank 0.
    Shared { offset: u64 },
}

impl Profiler {
    pub fn access(&mut self, access: Access, memory: Memory) {
        let Access { address, bytes, alignment, kind, .. } = access;
        let (start, shared) = match memory {
            Memory::Global { buffer, bytes: len, offset } => {
                self.touch(buffer, len, offset, bytes, kind);
                (address, false)
            }
            Memory::Shared { offset } => (offset, true),
        };
        // An access that is not known to be aligned, or is longer than the 16 bytes that one instruction can move, takes
        // several instructions.
        let width = match bytes {
            1 | 2 | 4 | 8 | 16 if alignment == bytes => bytes,
            _ if bytes.is_multiple_of(WORD) && address.is_multiple_of(WORD) => WORD,
            _ => 1,
        };
        for piece in 0..bytes / width {
            let site = Site { place: access.place, piece: piece as u32, kind, width: width as u8, shared };
            self.enter(access.thread, site, start + piece * width);
        }
    }

    fn enter(&mut self, thread: usize, site: Site, address: u64) {
        let at = *self.index.entry(site).or_insert_with(|| {
            self.sites.push((site, Global::default(), Shared::default()));
            self.sites.len() - 1
        });
        let warp = &mut self.pending[thread / WARP];
        if warp.len() <= at {
            warp.resize_with(at + 1, Pending::default);
        }
        let (pending, lane) = (&mut warp[at], thread % WARP);
        let turn = pending.turns[lane] as usize;
        pending.turns[lane] += 1;
        if pending.requests.len() == turn {
            pending.requests.push(Request { lanes: 0, addresses: [0; WARP] });
        }
        pending.requests[turn].lanes |= 1 << lane;
        pending.requests[turn].addresses[lane] = address;
    }

    fn touch(&mut self, buffer: usize, len: u64, offset: u64, bytes: u64, kind: Kind) {
        let words = len.div_ceil(64) as usize;
        let touched =
            self.touched.entry(buffer).or_insert_with(|| Touched { read: vec![0; words], written: vec![0; words] });
        let set = |bits: &mut Vec<u64>| {
            let (mut at, end) = (offset, offset + bytes);
            while at < end {
                let (low, count) = (at % 64, (end - at).min(64 - at % 64));
                bits[(at / 64) as usize] |= (u64::MAX >> (64 - count)) << low;
                at += count;
            }
        };
        if kind.reads() {
            set(&mut touched.read);
        }
        if kind.writes() {
            set(&mut touched.written);
        }
    }

    /// The threads of this warp have all arrived.
    pub fn together(&mut self, warp: usize) {
        for (pending, (site, global, shared)) in self.pending[warp].iter_mut().zip(&mut self.sites) {
            for request in pending.requests.drain(..) {
                if site.shared {
                    shared.add(request.shared(site.width))
                } else {
                    global.add(request.global(site.width))
                }
            }
            pending.turns = [0; WARP];
        }
    }

    pub fn all_together(&mut self) {
        (0..BLOCK / WARP).for_each(|warp| self.together(warp));
    }

    /// The launch has ended, or was stopped.
    pub fn end(&mut self, kernel: &'static str, flops: u64) {
        self.all_together();
        let raw = self.kernels.entry(kernel).or_default();
        raw.launches += 1;
        raw.flops += flops;
        let ones = |bits: &[u64]| bits.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        raw.least_bytes += self.touched.drain().map(|(_, t)| ones(&t.read) + ones(&t.written)).sum::<u64>();
        for (site, global, shared) in self.sites.drain(..) {
            let place = raw.places.entry(site.place).or_default();
            place.0.add(global);
            place.1.add(shared);
        }
        self.index.clear();
        self.pending.iter_mut().for_each(Vec::clear);
    }

    pub fn take(&mut self) -> BTreeMap<&'static str, Profile> {
        let mut lines = Lines::default();
        let mut profile = |raw: Raw| {
            // Several places in the code may belong to one line.
            let mut by_line: BTreeMap<String, Line> = BTreeMap::new();
            for (place, (global, shared)) in raw.places {
                let source = lines.of(place);
                let line = by_line.entry(source.clone()).or_insert_with(|| Line { source, ..Line::default() });
                line.global.add(global);
                line.shared.add(shared);
            }
            let lines = by_line.into_values().collect();
            Profile { launches: raw.launches, flops: raw.flops, least_bytes: raw.least_bytes, lines }
        };
        std::mem::take(&mut self.kernels).into_iter().map(|(name, raw)| (name, profile(raw))).collect()
    }
}

impl Request {
    /// The addresses of the threads in `lanes` that take part, in order.
    fn sorted(&self, lanes: std::ops::Range<usize>) -> impl Iterator<Item = u64> {
        let mut addresses = [0; WARP];
        let mut count = 0;
        for lane in lanes.filter(|lane| self.lanes >> lane & 1 == 1) {
            addresses[count] = self.addresses[lane];
            count += 1;
        }
        addresses[..count].sort_unstable();
        addresses.into_iter().take(count)
    }

    fn global(&self, width: u8) -> Global {
        let width = u64::from(width);
        let (mut sectors, mut bytes) = (0, 0);
        // The first sector and the first byte that no earlier thread has asked for.
        let (mut next_sector, mut next_byte) = (0, 0);
        for address in self.sorted(0..WARP) {
            let end = address + width;
            let last = (end - 1) / SECTOR;
            let first = (address / SECTOR).max(next_sector);
            sectors += (last + 1).saturating_sub(first);
            next_sector = next_sector.max(last + 1);
            bytes += end.saturating_sub(address.max(next_byte));
            next_byte = next_byte.max(end);
        }
        Global { requests: 1, sectors, least_sectors: bytes.div_ceil(SECTOR) }
    }

    fn shared(&self, width: u8) -> Shared {
        let width = u64::from(width);
        let at_once = WARP / (width / WORD).max(1) as usize;
        let mut shared = Shared { requests: 1, ..Shared::default() };
        for phase in 0..WARP / at_once {
            let mut words = [0u64; BANKS as usize];
            let mut next_word = 0;
            for address in self.sorted(phase * at_once..(phase + 1) * at_once) {
                let last = (address + width - 1) / WORD;
                for word in (address / WORD).max(next_word)..=last {
                    words[(word % BANKS) as usize] += 1;
                }
                next_word = next_word.max(last + 1);
            }
            let most = words.into_iter().max().unwrap_or(0);
            shared.wavefronts += most;
            shared.least_wavefronts += most.min(1);
        }
        shared
    }
}
