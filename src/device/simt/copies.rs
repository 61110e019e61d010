//! Copies from global to shared memory that a thread asks for and waits for later (`cp.async`).
//!
//! Until the thread waits, a copy may or may not have happened; after the wait it has. Here it happens at the wait and no
//! sooner: until then its destination holds 0xff bytes and counts as memory that nobody wrote. Its source must not change
//! in the meantime.

use std::collections::VecDeque;

use super::access::{Access, Kind};
use super::report::Check;
use super::{Running, allowed, checker, forbid, running};

/// Every copy writes this many bytes.
const BYTES: usize = 16;

struct Copy {
    to: u64,
    from: u64,
    /// What the source held when the copy was asked for.
    value: [u8; BYTES],
    /// How many bytes of the source are copied; the rest of the destination becomes 0.
    used: usize,
    place: u64,
}

/// The copies that one thread has asked for and not waited for.
#[derive(Default)]
pub(super) struct Copies {
    /// Not committed to a group yet.
    open: Vec<Copy>,
    groups: VecDeque<Vec<Copy>>,
}

impl Copies {
    pub fn forget(&mut self) {
        self.open.clear();
        self.groups.clear();
    }
}

/// An access of a copy: all 16 bytes lie at a multiple of 16, even where fewer are read.
fn aligned(thread: usize, address: u64, bytes: usize, kind: Kind, place: u64) -> Access {
    Access { thread, address, bytes: bytes as u64, alignment: BYTES as u64, kind, place }
}

#[unsafe(no_mangle)]
extern "C" fn zgan_simt_copy_at(to: u64, from: u64, used: u64, place: u64) {
    let running = running();
    // SAFETY: alive for the whole launch.
    let thread = unsafe { (*running).current };
    let used = used as usize;
    if used > BYTES {
        let what = format!("an asynchronous copy of {used} bytes, at most {BYTES}");
        // SAFETY: alive for the whole launch; the reference ends before the thread waits.
        if let Some(checker) = unsafe { checker(running) } {
            checker.mistake(Check::Memcheck, thread, to, what.clone(), place);
        }
        return forbid(format!("memcheck: thread {thread}: {what}"), place);
    }
    let ends = [aligned(thread, from, used, Kind::Read, place), aligned(thread, to, BYTES, Kind::Write, place)];
    if !ends.into_iter().all(allowed) {
        return;
    }
    let mut value = [0; BYTES];
    // SAFETY: the checker let both accesses pass, or none is at work and the kernel is trusted as on a GPU.
    unsafe {
        std::ptr::copy_nonoverlapping(from as *const u8, value.as_mut_ptr(), used);
        std::ptr::write_bytes(to as *mut u8, 0xff, BYTES);
        if let Some(checker) = checker(running) {
            checker.poison(to, BYTES as u64);
        }
        (&mut (*running).copies)[thread].open.push(Copy { to, from, value, used, place });
    }
}

#[unsafe(no_mangle)]
extern "C" fn zgan_simt_copies_commit() {
    let running = running();
    // SAFETY: alive for the whole launch; coroutines run one at a time.
    let copies = unsafe { &mut (&mut (*running).copies)[(*running).current] };
    let group = std::mem::take(&mut copies.open);
    copies.groups.push_back(group);
}

/// Returns when all groups but the last `most` have been copied.
#[unsafe(no_mangle)]
extern "C" fn zgan_simt_copies_wait(most: u32) {
    let running = running();
    // SAFETY: alive for the whole launch; coroutines run one at a time, and each reference ends before the next begins.
    unsafe {
        let thread = (*running).current;
        while (&(*running).copies)[thread].groups.len() > most as usize {
            let group = (&mut (*running).copies)[thread].groups.pop_front().unwrap_or_default();
            for copy in group {
                let mut now = [0; BYTES];
                std::ptr::copy_nonoverlapping(copy.from as *const u8, now.as_mut_ptr(), copy.used);
                if let Some(checker) = checker(running).filter(|_| now != copy.value) {
                    let what = "the source of an asynchronous copy changed before it was waited for".into();
                    checker.mistake(Check::Racecheck, thread, copy.from, what, copy.place);
                }
                if !allowed(aligned(thread, copy.to, BYTES, Kind::Write, copy.place)) {
                    return;
                }
                std::ptr::copy_nonoverlapping(copy.value.as_ptr(), copy.to as *mut u8, BYTES);
            }
        }
    }
}

/// Called when a thread has ended: it should have waited for all that it asked for.
pub(super) fn ended(running: *mut Running, thread: usize) {
    // SAFETY: alive for the whole launch; the two references are to different objects.
    unsafe {
        let copies = &(&(*running).copies)[thread];
        let left = copies.groups.iter().flatten().chain(&copies.open);
        let (count, place) = left.fold((0, 0), |(count, _), copy| (count + 1, copy.place));
        if count > 0
            && let Some(checker) = checker(running)
        {
            let what = format!("ended with {count} asynchronous copies that it has not waited for");
            checker.mistake(Check::Synccheck, thread, 0, what, place);
        }
    }
}
