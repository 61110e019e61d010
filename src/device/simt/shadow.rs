//! The four checkers, named as NVIDIA's compute-sanitizer names them. Each word of memory that a kernel may touch has a
//! [`Cell`] beside it: who wrote it last, who has read it, and whether anybody ever wrote it.
//!
//! Time is counted in intervals: a new one begins with every launch, every block and every barrier. Two accesses of one
//! launch are ordered when they are of one block and a barrier lies between them, or a warp barrier where both are of one
//! warp. A shuffle orders nothing, and blocks are never ordered.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use super::profile::{self, Profile, Profiler};
use super::report::{Check, Raw};
use super::{BLOCK, WARP};
use crate::device::Kernel;

/// Kinds of access, as in `kernels/host/simt.cpp`.
pub(super) const READ: u32 = 0;
pub(super) const WRITE: u32 = 1;
pub(super) const ATOMIC: u32 = 2;

/// The place of a thread that has ended.
const NOWHERE: u32 = i32::MIN as u32;
/// Freed buffers that are remembered, to tell them from memory that never was one.
const MOST_FREED: usize = 1000;
/// How far past a buffer an address is still said to be past that buffer.
const NEAR: u64 = 1 << 16;

#[derive(Clone, Copy, Default)]
pub(super) struct Access {
    /// 0: there was none.
    interval: u32,
    /// Of the code, from the kernel's entry point on.
    place: u32,
    warp_interval: u16,
    thread: u8,
    kind: u8,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    write: Access,
    /// Two readers, so chosen that a later write which is not ordered after all readers is not ordered after one of these.
    reads: [Access; 2],
    /// A bit for each byte that somebody wrote.
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

/// A buffer as an argument of the launch: what of it the kernel may read, and perhaps write.
#[derive(Clone, Copy)]
pub(in crate::device) struct View {
    pub start: u64,
    pub end: u64,
    pub written: bool,
    pub argument: usize,
}

/// What launches of one kernel came to.
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
    /// In the order of their addresses.
    live: Vec<Region>,
    freed: Vec<Range<u64>>,
    launch: Launch,
    findings: Vec<Raw>,
    /// The same mistake at the same place is one finding.
    known: HashMap<(Check, &'static str, u64, u64), usize>,
    tallies: BTreeMap<&'static str, Tally>,
    profiler: Option<Profiler>,
}

#[derive(Default)]
struct Launch {
    kernel: Option<&'static Kernel>,
    grid: [u32; 3],
    entry: u64,
    /// With the index of the live region.
    views: Vec<(View, usize)>,
    /// What the execution itself gives to kernels to read.
    given: Vec<Range<u64>>,
    shared: Vec<(String, Region)>,
    /// The first interval of the launch, and of each block.
    start: u32,
    blocks: Vec<(u32, u32)>,
    interval: u32,
    warp_intervals: [u16; BLOCK / WARP],
    accesses: u64,
}

/// A thread must not go on: what it was about to do would harm this process.
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
        let mut found: Vec<(View, usize)> = Vec::new();
        for view in views.iter().filter(|view| view.start < view.end) {
            found.extend(self.find(view.start, view.end - view.start).map(|at| (*view, at)));
        }
        if views.is_empty() {
            // Started past `Launch`: every buffer may be meant.
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
            if let Some(profiler) = &mut self.profiler {
                profiler.end(kernel.name, flops);
            }
            let tally = self.tallies.entry(kernel.name).or_default();
            tally.launches += 1;
            tally.accesses += self.launch.accesses;
            tally.time += time;
        }
    }

    pub fn begin_block(&mut self, block: u32, given: &[Range<u64>]) {
        if let Some(profiler) = &mut self.profiler {
            profiler.all_together();
        }
        let launch = &mut self.launch;
        launch.interval += 1;
        launch.blocks.push((launch.interval, block));
        launch.warp_intervals = Default::default();
        launch.shared.clear();
        launch.given = given.to_vec();
    }

    pub fn barrier(&mut self) {
        if let Some(profiler) = &mut self.profiler {
            profiler.all_together();
        }
        self.launch.interval += 1;
        self.launch.warp_intervals = Default::default();
    }

    /// All threads of the warp have arrived, at a barrier of theirs or at a shuffle, which orders no memory.
    pub fn together(&mut self, warp: usize, barrier: bool) {
        if let Some(profiler) = &mut self.profiler {
            profiler.together(warp);
        }
        if barrier {
            self.launch.warp_intervals[warp] = self.launch.warp_intervals[warp].saturating_add(1);
        }
    }

    pub fn declare(&mut self, name: String, region: Region) {
        self.launch.shared.push((name, region));
    }

    /// Checks one access, before it happens.
    pub fn access(
        &mut self,
        thread: usize,
        address: u64,
        bytes: u64,
        alignment: u64,
        kind: u32,
        place: u64,
    ) -> Result<(), Stop> {
        if bytes == 0 {
            return Ok(());
        }
        let launch = &mut self.launch;
        launch.accesses += 1;
        let block_start = launch.blocks.last().map_or(launch.start, |block| block.0);
        if !address.is_multiple_of(alignment) {
            let what =
                format!("misaligned: {} at an address that is not a multiple of {alignment}", describe(kind, bytes));
            return Err(self.stop(thread, address, bytes, what, place));
        }
        let view = launch
            .views
            .iter()
            .find(|(view, _)| view.start <= address && address + bytes <= view.end && (view.written || kind == READ));
        let (region, buffer) = match view {
            Some((_, at)) => (&mut self.live[*at], Some(*at)),
            None => match launch.shared.iter_mut().find(|(_, region)| region.contains(address, bytes)) {
                Some((_, region)) => (region, None),
                None => {
                    let within = |given: &Range<u64>| given.start <= address && address + bytes <= given.end;
                    if kind == READ && launch.given.iter().any(within) {
                        launch.accesses -= 1;
                        return Ok(());
                    }
                    return Err(self.stop(thread, address, bytes, describe(kind, bytes), place));
                }
            },
        };
        if let Some(profiler) = &mut self.profiler {
            let offset = address - region.start;
            let memory = match buffer {
                Some(buffer) => profile::Memory::Global { buffer, bytes: region.end - region.start, offset },
                None => profile::Memory::Shared { offset },
            };
            profiler.access(profile::Access { thread, address, bytes, alignment, kind, place }, memory);
        }
        let now = Access {
            interval: launch.interval,
            place: place.wrapping_sub(launch.entry) as u32,
            warp_interval: launch.warp_intervals[thread / WARP],
            thread: thread as u8,
            kind: kind as u8,
        };
        let order = Order { launch: launch.start, block: block_start };
        let (offset, unit) = (address - region.start, 1u64 << region.shift);
        let (mut unwritten, mut race) = (None, None);
        for index in offset >> region.shift..=(offset + bytes - 1) >> region.shift {
            let cell = &mut region.cells[index as usize];
            let first = offset.saturating_sub(index * unit).min(unit);
            let last = (offset + bytes - index * unit).min(unit);
            let mask = (((1u32 << last) - 1) & !((1u32 << first) - 1)) as u8;
            if kind != WRITE && cell.written & mask != mask {
                unwritten.get_or_insert(region.start + index * unit);
                cell.written |= mask;
            }
            if kind != READ {
                cell.written |= mask;
            }
            if let Some(other) = cell.touch(now, order) {
                race.get_or_insert((region.start + index * unit, other));
            }
        }
        if let Some(at) = unwritten {
            let what = format!("{} of memory that nobody has written", describe(kind, bytes));
            self.report(Check::Initcheck, thread, at, what, place, None);
        }
        if let Some((at, other)) = race {
            self.report(Check::Racecheck, thread, at, describe(kind, bytes), place, Some(other));
        }
        Ok(())
    }

    /// These bytes of shared memory are no longer what somebody wrote: a copy to them is on its way.
    pub fn poison(&mut self, address: u64, bytes: u64) {
        let region = self.launch.shared.iter_mut().find(|(_, region)| region.contains(address, bytes));
        if let Some((_, region)) = region {
            region.mark(&(address..address + bytes), false);
        }
    }

    /// A mistake with copies to shared memory that were asked for at `place`.
    pub fn copy_mistaken(&mut self, check: Check, thread: usize, address: u64, what: String, place: u64) {
        self.report(check, thread, address, what, place, None);
    }

    pub fn out_of_bounds(&mut self, thread: usize, what: String, place: u64) {
        self.report(Check::Memcheck, thread, 0, what, place, None);
    }

    /// Threads that wait for ever; the other is where one of those stands that do not come.
    pub fn stuck(&mut self, thread: usize, place: u64, what: String, other: Option<(usize, u64)>) {
        let other = other.map(|(thread, place)| Access {
            interval: self.launch.interval,
            place: if place == 0 { NOWHERE } else { place.wrapping_sub(self.launch.entry) as u32 },
            thread: thread as u8,
            ..Access::default()
        });
        self.report(Check::Synccheck, thread, 0, what, place, other);
    }

    fn stop(&mut self, thread: usize, address: u64, bytes: u64, what: String, place: u64) -> Stop {
        let what = format!("{what}, {}", self.outside(address, bytes));
        self.report(Check::Memcheck, thread, address, what.clone(), place, None);
        Stop(format!("memcheck: thread {thread}: {what}"))
    }

    fn report(&mut self, check: Check, thread: usize, address: u64, what: String, place: u64, other: Option<Access>) {
        let Some(kernel) = self.launch.kernel else { return };
        let other = other.map(|other| {
            let place =
                if other.place == NOWHERE { 0 } else { self.launch.entry.wrapping_add(other.place as i32 as u64) };
            (self.block_of(other.interval), u32::from(other.thread), u32::from(other.kind), place)
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
            Some(kernel) => kernel.parameters.get(view.argument).map_or("a buffer", |(name, _)| name).into(),
            None => "a buffer".into(),
        }
    }

    /// What an address is that lies in nothing the kernel may touch this way.
    fn outside(&self, address: u64, bytes: u64) -> String {
        if address < NEAR {
            return "a null pointer".into();
        }
        let launch = &self.launch;
        if let Some((view, _)) = launch.views.iter().find(|(v, _)| v.start <= address && address + bytes <= v.end) {
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
        let distance = |start: u64, end: u64| start.saturating_sub(address).max((address + bytes).saturating_sub(end));
        if let Some((start, end, name)) = shared.chain(views).min_by_key(|(start, end, _)| distance(*start, *end))
            && distance(start, end) < NEAR
        {
            return if address < start {
                format!("{} bytes before {name} of {} bytes", start - address, end - start)
            } else {
                format!("{} bytes past the end of {name} of {} bytes", address + bytes - end, end - start)
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

pub(super) fn kind_name(kind: u32) -> &'static str {
    ["read", "write", "atomic operation"][kind.min(ATOMIC) as usize]
}

fn describe(kind: u32, bytes: u64) -> String {
    format!("{} of {bytes} byte{}", kind_name(kind), if bytes == 1 { "" } else { "s" })
}

/// The first interval of this launch and of this block.
#[derive(Clone, Copy)]
struct Order {
    launch: u32,
    block: u32,
}

impl Access {
    fn warp(self) -> usize {
        usize::from(self.thread) / WARP
    }

    /// Whether nothing puts this earlier access before `now`.
    fn concurrent(self, now: Access, order: Order) -> bool {
        if self.interval < order.block {
            return self.interval >= order.launch;
        }
        self.interval == now.interval
            && self.thread != now.thread
            && (self.warp() != now.warp() || self.warp_interval == now.warp_interval)
    }
}

impl Cell {
    /// Enters an access; the earlier one that it races with, if any.
    fn touch(&mut self, now: Access, order: Order) -> Option<Access> {
        let both_atomic = u32::from(now.kind) == ATOMIC && u32::from(self.write.kind) == ATOMIC;
        let mut race = (!both_atomic && self.write.concurrent(now, order)).then_some(self.write);
        if u32::from(now.kind) == READ {
            self.read(now, order);
        } else {
            race = race.or(self.reads.into_iter().find(|read| read.concurrent(now, order)));
            self.write = now;
        }
        race
    }

    /// A reader of another block stands for all. Within a block, one of another warp does; within a warp, one of another
    /// lane since the last warp barrier.
    fn read(&mut self, now: Access, order: Order) {
        let [first, second] = self.reads;
        let other_block = first.interval >= order.launch && first.interval < order.block;
        let together = |read: Access| read.interval == now.interval;
        if other_block {
            return;
        }
        if !together(first) || first.thread == now.thread {
            self.reads[0] = now;
            if !together(second) {
                self.reads[1] = Access::default();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn access(kind: u32, interval: u32, thread: u8, warp_interval: u16) -> Access {
        Access { interval, place: 0, warp_interval, thread, kind: kind as u8 }
    }

    /// Every history of four accesses by a few threads, against the rule applied to all pairs.
    #[test]
    fn the_two_readers_that_are_kept_are_enough() {
        let order = Order { launch: 2, block: 5 };
        // An earlier block, this block before a barrier, and now: two lanes of a warp and one of another, before and after a
        // warp barrier.
        let mut moments = Vec::new();
        for (interval, threads) in [(3, &[0u8, 1][..]), (5, &[0, 1, 40]), (6, &[0, 1, 40])] {
            for &thread in threads {
                for warp_interval in [0, 1] {
                    moments.push((interval, thread, warp_interval));
                }
            }
        }
        let mut histories = 0;
        let mut all = Vec::new();
        for a in 0..moments.len() {
            for b in 0..moments.len() {
                for c in 0..moments.len() {
                    for d in 0..moments.len() {
                        all.push([a, b, c, d]);
                    }
                }
            }
        }
        for picks in all {
            // Time does not run backwards, in the block and in each warp.
            let picked = picks.map(|i| moments[i]);
            let backwards = (1..4).any(|j| {
                (0..j).any(|i| {
                    let (p, q) = (picked[i], picked[j]);
                    p.0 > q.0 || (p.0 == q.0 && p.1 / 32 == q.1 / 32 && p.2 > q.2)
                })
            });
            if backwards {
                continue;
            }
            for kinds in 0..16u32 {
                let history: Vec<Access> =
                    picked.iter().enumerate().map(|(i, m)| access(kinds >> i & 1, m.0, m.1, m.2)).collect();
                let mut cell = Cell::default();
                let mut found = false;
                let mut expected = false;
                for (i, &now) in history.iter().enumerate() {
                    // What an earlier block does is seen while that block runs.
                    let order = if now.interval < order.block { Order { launch: 2, block: 2 } } else { order };
                    found |= cell.touch(now, order).is_some();
                    expected |= history[..i].iter().any(|old| {
                        (u32::from(old.kind) == WRITE || u32::from(now.kind) == WRITE) && old.concurrent(now, order)
                    });
                }
                assert_eq!(found, expected, "{picked:?}, writes {kinds:04b}");
                histories += 1;
            }
        }
        assert!(histories > 10_000);
    }
}
