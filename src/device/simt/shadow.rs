//! The four checkers, named as NVIDIA's compute-sanitizer names them. Each word of memory that a kernel may touch has a
//! [`Cell`] beside it: who wrote it last, who has read it, and whether anybody ever wrote it.
//!
//! Time is counted in intervals: a new one begins with every launch, every block and every barrier. Two accesses of one
//! launch are ordered where both are of one block and a barrier lies between them, or where both are of one warp and a
//! warp barrier lies between them. A shuffle orders nothing, and neither does anything between two blocks.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

pub use super::access::Kind;
use super::access::{Access, View};
use super::profile::{Memory, Profile, Profiler};
use super::report::{Check, Raw};
use super::{BLOCK, WARP};
use crate::device::Kernel;

/// Stands for the place of a thread that has ended.
const NOWHERE: u32 = i32::MIN as u32;
/// How many freed buffers are remembered, to tell their memory from memory that never was a buffer.
const MOST_FREED: usize = 1000;
/// An address this far past a buffer is still described by its distance from that buffer.
const NEAR: u64 = 1 << 16;

/// An earlier access, as a cell keeps it.
#[derive(Clone, Copy, Default)]
pub struct Past {
    /// 0: there was none.
    pub interval: u32,
    /// The place in the code, counted from the kernel's entry point.
    pub place: u32,
    pub warp_interval: u16,
    pub thread: u8,
    pub kind: Kind,
}

/// What is kept of the accesses to a word.
#[derive(Clone, Copy, Default)]
pub struct Cell {
    write: Past,
    /// Two readers stand for all: a later write that is not ordered after every reader is not ordered after at least one
    /// of these.
    reads: [Past; 2],
    /// A bit for each byte: whether somebody wrote it.
    written: u8,
}

/// Memory with a cell for every 1 << shift bytes.
pub(super) struct Region {
    start: u64,
    end: u64,
    shift: u32,
    cells: Vec<Cell>,
}

impl Region {
    pub fn new(start: u64, bytes: u64, element_bytes: u64, written: bool) -> Region {
        let shift = element_bytes.clamp(1, 4).ilog2();
        let cell = Cell { written: if written { u8::MAX } else { 0 }, ..Cell::default() };
        Region { start, end: start + bytes, shift, cells: vec![cell; bytes.div_ceil(1 << shift) as usize] }
    }

    fn contains(&self, address: u64, bytes: u64) -> bool {
        self.start <= address && address + bytes <= self.end
    }

    fn mark(&mut self, range: &Range<u64>, written: bool) {
        let (first, end) =
            ((range.start - self.start) >> self.shift, (range.end - self.start).div_ceil(1 << self.shift));
        for cell in &mut self.cells[first as usize..end as usize] {
            cell.written = if written { u8::MAX } else { 0 };
        }
    }
}

/// The launches of one kernel, added up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub launches: u64,
    /// Accesses to buffers and shared arrays.
    pub accesses: u64,
    pub time: Duration,
}

/// Everything that one device checks.
#[derive(Default)]
pub(super) struct Checker {
    /// All buffers, in the order of their addresses.
    live: Vec<Region>,
    freed: Vec<Range<u64>>,
    launch: Launch,
    findings: Vec<Raw>,
    /// The findings by mistake and place: the same mistake at the same place is one finding.
    known: HashMap<(Check, &'static str, u64, u64), usize>,
    tallies: BTreeMap<&'static str, Tally>,
    profiler: Option<Profiler>,
}

#[derive(Default)]
struct Launch {
    kernel: Option<&'static Kernel>,
    grid: [u32; 3],
    entry: u64,
    /// Each with the index of the live region that it is part of.
    views: Vec<(View, usize)>,
    /// What the execution itself gives kernels to read: the block's index and the size of the grid.
    given: Vec<Range<u64>>,
    shared: Vec<(String, Region)>,
    /// The first interval of the launch.
    start: u32,
    /// The first interval and the number of each block that has begun.
    blocks: Vec<(u32, u32)>,
    interval: u32,
    warp_intervals: [u16; BLOCK / WARP],
    accesses: u64,
}

/// Why a thread must not go on: what it was about to do would harm this process.
pub(super) struct Stop(pub String);

impl Checker {
    pub fn allocated(&mut self, address: u64, bytes: u64, element_bytes: u64) {
        self.freed.retain(|freed| freed.end <= address || address + bytes <= freed.start);
        let at = self.live.partition_point(|region| region.start < address);
        self.live.insert(at, Region::new(address, bytes, element_bytes, true));
    }

    pub fn freed(&mut self, address: u64) {
        if let Ok(at) = self.live.binary_search_by_key(&address, |region| region.start) {
            let region = self.live.remove(at);
            if self.freed.len() == MOST_FREED {
                self.freed.remove(0);
            }
            self.freed.push(region.start..region.end);
        }
    }

    /// The program wrote these bytes, or wants them to count as never written.
    pub fn mark(&mut self, range: Range<u64>, written: bool) {
        if let Some(at) = self.find(range.start, range.end - range.start) {
            self.live[at].mark(&range, written);
        }
    }

    fn find(&self, address: u64, bytes: u64) -> Option<usize> {
        let at = self.live.partition_point(|region| region.start <= address).checked_sub(1)?;
        self.live[at].contains(address, bytes).then_some(at)
    }

    pub fn begin(&mut self, kernel: &'static Kernel, grid: [u32; 3], entry: u64, views: &[View]) {
        let region = |view: &View| Some((*view, self.find(view.start, view.end - view.start)?));
        let mut found: Vec<(View, usize)> = views.iter().filter(|v| v.start < v.end).filter_map(region).collect();
        if views.is_empty() {
            // The kernel was not started through `Launch`: its arguments are not known, and may be any of the buffers.
            let all = |(at, region): (usize, &Region)| {
                (View { start: region.start, end: region.end, written: true, argument: usize::MAX }, at)
            };
            found = self.live.iter().enumerate().map(all).collect();
        }
        let interval = self.launch.interval + 1;
        self.launch =
            Launch { kernel: Some(kernel), grid, entry, views: found, start: interval, interval, ..Launch::default() };
    }

    pub fn profile(&mut self) {
        self.profiler.get_or_insert_default();
    }

    pub fn end(&mut self, time: Duration, flops: u64) {
        if let Some(kernel) = self.launch.kernel.take() {
            self.profiler.iter_mut().for_each(|profiler| profiler.end(kernel.name, flops));
            let tally = self.tallies.entry(kernel.name).or_default();
            tally.launches += 1;
            tally.accesses += self.launch.accesses;
            tally.time += time;
        }
    }

    pub fn begin_block(&mut self, block: u32, given: &[Range<u64>]) {
        self.profiler.iter_mut().for_each(Profiler::all_together);
        let launch = &mut self.launch;
        launch.interval += 1;
        launch.blocks.push((launch.interval, block));
        launch.warp_intervals = Default::default();
        launch.shared.clear();
        launch.given = given.to_vec();
    }

    pub fn barrier(&mut self) {
        self.profiler.iter_mut().for_each(Profiler::all_together);
        self.launch.interval += 1;
        self.launch.warp_intervals = Default::default();
    }

    /// All threads of the warp have arrived, at a barrier of theirs or at a shuffle, which orders no memory.
    pub fn together(&mut self, warp: usize, barrier: bool) {
        self.profiler.iter_mut().for_each(|profiler| profiler.together(warp));
        if barrier {
            self.launch.warp_intervals[warp] = self.launch.warp_intervals[warp].saturating_add(1);
        }
    }

    pub fn declare(&mut self, name: String, region: Region) {
        self.launch.shared.push((name, region));
    }

    /// Checks an access before it happens.
    pub fn access(&mut self, access: Access) -> Result<(), Stop> {
        let Access { thread, address, bytes, alignment, kind, place } = access;
        if bytes == 0 {
            return Ok(());
        }
        let launch = &mut self.launch;
        launch.accesses += 1;
        let block_start = launch.blocks.last().map_or(launch.start, |block| block.0);
        if !address.is_multiple_of(alignment) {
            let what = format!("misaligned: {access} at an address that is not a multiple of {alignment}");
            return Err(self.stop(access, what));
        }
        let allows = |view: &View| access.within(view.start, view.end) && (view.written || !kind.writes());
        let (region, buffer) = match launch.views.iter().find(|(view, _)| allows(view)) {
            Some((_, at)) => (&mut self.live[*at], Some(*at)),
            None => match launch.shared.iter_mut().find(|(_, region)| region.contains(address, bytes)) {
                Some((_, region)) => (region, None),
                None => {
                    if !kind.writes() && launch.given.iter().any(|given| access.within(given.start, given.end)) {
                        launch.accesses -= 1;
                        return Ok(());
                    }
                    return Err(self.stop(access, access.to_string()));
                }
            },
        };
        let offset = address - region.start;
        if let Some(profiler) = &mut self.profiler {
            let memory = match buffer {
                Some(buffer) => Memory::Global { buffer, bytes: region.end - region.start, offset },
                None => Memory::Shared { offset },
            };
            profiler.access(access, memory);
        }
        let now = Past {
            interval: launch.interval,
            place: place.wrapping_sub(launch.entry) as u32,
            warp_interval: launch.warp_intervals[thread / WARP],
            thread: thread as u8,
            kind,
        };
        let order = Order { launch: launch.start, block: block_start };
        let unit = 1u64 << region.shift;
        let (mut unwritten, mut race) = (None, None);
        for index in offset >> region.shift..=(offset + bytes - 1) >> region.shift {
            let cell = &mut region.cells[index as usize];
            let first = offset.saturating_sub(index * unit).min(unit);
            let last = (offset + bytes - index * unit).min(unit);
            let mask = (((1u32 << last) - 1) & !((1u32 << first) - 1)) as u8;
            if kind.reads() && cell.written & mask != mask {
                unwritten.get_or_insert(region.start + index * unit);
                cell.written |= mask;
            }
            if kind.writes() {
                cell.written |= mask;
            }
            if let Some(other) = cell.touch(now, order) {
                race.get_or_insert((region.start + index * unit, other));
            }
        }
        if let Some(at) = unwritten {
            let what = format!("{access} of memory that nobody has written");
            self.report(Check::Initcheck, thread, at, what, place, None);
        }
        if let Some((at, other)) = race {
            self.report(Check::Racecheck, thread, at, access.to_string(), place, Some(other));
        }
        Ok(())
    }

    /// A copy to these bytes of shared memory is on its way: they no longer count as written.
    pub fn poison(&mut self, address: u64, bytes: u64) {
        let region = self.launch.shared.iter_mut().find(|(_, region)| region.contains(address, bytes));
        if let Some((_, region)) = region {
            region.mark(&(address..address + bytes), false);
        }
    }

    /// Enters a mistake that the execution itself has noticed. `address` is 0 where there is none.
    pub fn mistake(&mut self, check: Check, thread: usize, address: u64, what: String, place: u64) {
        self.report(check, thread, address, what, place, None);
    }

    /// Threads wait for ever: `thread` at `place`, for others that never come. `other` is one of those, and where it is
    /// (0 where it has ended).
    pub fn stuck(&mut self, thread: usize, place: u64, what: String, other: Option<(usize, u64)>) {
        let other = other.map(|(thread, place)| Past {
            interval: self.launch.interval,
            place: if place == 0 { NOWHERE } else { place.wrapping_sub(self.launch.entry) as u32 },
            thread: thread as u8,
            ..Past::default()
        });
        self.report(Check::Synccheck, thread, 0, what, place, other);
    }

    fn stop(&mut self, access: Access, what: String) -> Stop {
        let what = format!("{what}, {}", self.outside(access));
        self.report(Check::Memcheck, access.thread, access.address, what.clone(), access.place, None);
        Stop(format!("memcheck: thread {}: {what}", access.thread))
    }

    fn report(&mut self, check: Check, thread: usize, address: u64, what: String, place: u64, other: Option<Past>) {
        let Some(kernel) = self.launch.kernel else { return };
        let other = other.map(|other| {
            let place =
                if other.place == NOWHERE { 0 } else { self.launch.entry.wrapping_add(other.place as i32 as u64) };
            (self.block_of(other.interval), u32::from(other.thread), other.kind, place)
        });
        let key = (check, kernel.name, place, other.map_or(0, |other| other.3));
        if let Some(&known) = self.known.get(&key) {
            self.findings[known].times += 1;
            return;
        }
        self.known.insert(key, self.findings.len());
        let memory = if address == 0 { None } else { self.describe_memory(address) };
        let (grid, block) = (self.launch.grid, self.block_of(self.launch.interval));
        self.findings.push(Raw {
            check,
            kernel,
            grid,
            block,
            thread: thread as u32,
            what,
            memory,
            place,
            other,
            times: 1,
        });
    }

    fn block_of(&self, interval: u32) -> u32 {
        let at = self.launch.blocks.partition_point(|(start, _)| *start <= interval);
        at.checked_sub(1).map_or(0, |at| self.launch.blocks[at].1)
    }

    fn describe_memory(&self, address: u64) -> Option<String> {
        if let Some((name, region)) = self.launch.shared.iter().find(|(_, region)| region.contains(address, 1)) {
            return Some(format!("byte {} of shared array {name}", address - region.start));
        }
        let (view, _) = self.launch.views.iter().find(|(view, _)| view.start <= address && address < view.end)?;
        Some(format!("byte {} of {}", address - view.start, self.argument_name(view)))
    }

    fn argument_name(&self, view: &View) -> String {
        match self.launch.kernel {
            Some(kernel) => kernel.parameters.get(view.argument).copied().unwrap_or("a buffer").into(),
            None => "a buffer".into(),
        }
    }

    /// Describes where an access goes that lies in nothing the kernel may touch in this way.
    fn outside(&self, access: Access) -> String {
        let address = access.address;
        if address < NEAR {
            return "a null pointer".into();
        }
        let launch = &self.launch;
        if let Some((view, _)) = launch.views.iter().find(|(view, _)| access.within(view.start, view.end)) {
            return format!(
                "byte {} of {}, which the kernel is to read only",
                address - view.start,
                self.argument_name(view)
            );
        }
        if self.freed.iter().any(|freed| freed.start <= address && address < freed.end) {
            return "in a buffer that was freed".into();
        }
        let shared = launch.shared.iter().map(|(name, r)| (r.start, r.end, format!("shared array {name}")));
        let views = launch.views.iter().map(|(v, _)| (v.start, v.end, self.argument_name(v)));
        let distance = |start: u64, end: u64| start.saturating_sub(address).max(access.end().saturating_sub(end));
        if let Some((start, end, name)) = shared.chain(views).min_by_key(|(start, end, _)| distance(*start, *end))
            && distance(start, end) < NEAR
        {
            return if address < start {
                format!("{} bytes before {name} of {} bytes", start - address, end - start)
            } else {
                format!("{} bytes past the end of {name} of {} bytes", access.end() - end, end - start)
            };
        }
        "outside every live buffer".into()
    }

    pub fn take(&mut self) -> (Vec<Raw>, BTreeMap<&'static str, Tally>, BTreeMap<&'static str, Profile>) {
        self.known.clear();
        let profiles = self.profiler.as_mut().map(Profiler::take).unwrap_or_default();
        (std::mem::take(&mut self.findings), std::mem::take(&mut self.tallies), profiles)
    }
}

/// The first interval of this launch and of this block.
#[derive(Clone, Copy)]
pub struct Order {
    pub launch: u32,
    pub block: u32,
}

impl Past {
    fn warp(self) -> usize {
        usize::from(self.thread) / WARP
    }

    /// Whether nothing puts this earlier access before `now`.
    pub fn concurrent(self, now: Past, order: Order) -> bool {
        if self.interval < order.block {
            return self.interval >= order.launch;
        }
        self.interval == now.interval
            && self.thread != now.thread
            && (self.warp() != now.warp() || self.warp_interval == now.warp_interval)
    }
}

impl Cell {
    /// Enters an access; returns the earlier one that it races with, if any.
    pub fn touch(&mut self, now: Past, order: Order) -> Option<Past> {
        let both_atomic = now.kind == Kind::Atomic && self.write.kind == Kind::Atomic;
        let mut race = (!both_atomic && self.write.concurrent(now, order)).then_some(self.write);
        if now.kind == Kind::Read {
            self.read(now, order);
        } else {
            race = race.or(self.reads.into_iter().find(|read| read.concurrent(now, order)));
            self.write = now;
        }
        race
    }

    /// Keeps the readers that stand for all. A reader of another block does so alone; within a block, two readers of
    /// different warps do; within a warp, two lanes that have read since its last barrier.
    fn read(&mut self, now: Past, order: Order) {
        let [first, second] = self.reads;
        let other_block = first.interval >= order.launch && first.interval < order.block;
        let together = |read: Past| read.interval == now.interval;
        if other_block {
            return;
        }
        if !together(first) || first.thread == now.thread {
            self.reads[0] = now;
            if !together(second) {
                self.reads[1] = Past::default();
            }
        } else if first.warp() != now.warp() {
            self.reads[1] = now;
        } else if first.warp_interval != now.warp_interval {
            self.reads[0] = now;
        } else if !together(second) || second.warp() == now.warp() {
            self.reads[1] = now;
        }
    }
}
