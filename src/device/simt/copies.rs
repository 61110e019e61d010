//! Copies from global to shared memory that a thread asks for and waits for later (`cp.async`).
//!
//! Until its wait a copy may not have happened, and at its wait it has. Here it happens at the wait, no sooner: before, its
//! destination holds 0xff bytes and counts as memory that nobody wrote. Its source must not change meanwhile.

use std::collections::VecDeque;

use super::report::Check;
use super::shadow::{READ, WRITE};
use super::{Running, Wait, checker, running, wait};

/// Of a destination, always.
const BYTES: usize = 16;

struct Copy {
    to: u64,
    from: u64,
    /// What was there when the copy was asked for, and how many bytes of it are copied; zeros follow.
    value: [u8; BYTES],
    used: usize,
    place: u64,
}

/// Of one thread.
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

/// What the checkers are to see of a copy; false where the thread may not go on.
fn access(thread: usize, (address, bytes, alignment): (u64, usize, u64), kind: u32, place: u64) -> bool {
    let running = running();
    // SAFETY: alive for the whole launch; the reference ends before the thread waits.
    let Some(checker) = (unsafe { checker(running) }) else { return true };
    let Err(stop) = checker.access(thread, address, bytes as u64, alignment, kind, place) else { return true };
    // SAFETY: alive for the whole launch.
    unsafe { (*running).problem = Some(stop.0) };
    wait(Wait::Stopped, place);
    false
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
        unsafe {
            if let Some(checker) = checker(running) {
                checker.copy_mistaken(Check::Memcheck, thread, to, what.clone(), place);
            }
            (*running).problem = Some(format!("memcheck: thread {thread}: {what}"));
        }
        return wait(Wait::Stopped, place);
    }
    // Both addresses are multiples of 16, also where less is read.
    if !access(thread, (from, used, BYTES as u64), READ, place)
        || !access(thread, (to, BYTES, BYTES as u64), WRITE, place)
    {
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

/// Returns when at most `most` of the groups last committed may still be on their way.
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
                    checker.copy_mistaken(Check::Racecheck, thread, copy.from, what, copy.place);
                }
                if !access(thread, (copy.to, BYTES, BYTES as u64), WRITE, copy.place) {
                    return;
                }
                std::ptr::copy_nonoverlapping(copy.value.as_ptr(), copy.to as *mut u8, BYTES);
            }
        }
    }
}

/// A thread has ended: all that it asked for should have come.
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
            checker.copy_mistaken(Check::Synccheck, thread, 0, what, place);
        }
    }
}
