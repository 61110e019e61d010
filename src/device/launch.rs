//! Starting a kernel: one array of argument pointers, whatever the execution.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ops::Range;

use super::simt::View;
use super::{Buffer, Device, Element, Event, Kernel, Precision, Variants};
use crate::{Error, Result};

const MOST_ARGUMENTS: usize = 32;
/// Blocks that a grid of any GPU may have along x, y and z.
pub(crate) const MOST_BLOCKS: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
const SLOT_BYTES: usize = 8;
const MOST_SLOTS: usize = 64;
/// The types that a buffer's elements can have. A parameter that points to another type points to a struct of words.
const NUMBERS: [&str; 7] = ["float", "bf16", "f16", "uint8_t", "uint32_t", "int32_t", "uint64_t"];

/// A kernel with its grid and, one call each, its arguments in the order of its parameters.
pub(crate) struct Launch<'a> {
    device: &'a Device,
    kernel: Variants,
    grid: [u32; 3],
    given: Box<Given>,
    /// The precision of the first buffer whose type depends on it.
    precision: Option<Precision>,
    flops: u64,
    problem: Option<String>,
}

/// The arguments so far. They are too large to be moved with each of them, and are used again from launch to launch: a
/// training step launches some hundred kernels and allocates nothing.
struct Given {
    slots: [u64; MOST_SLOTS],
    used: usize,
    starts: [u8; MOST_ARGUMENTS],
    arguments: usize,
    /// What kernels call the elements of each argument that is a buffer.
    elements: [&'static str; MOST_ARGUMENTS],
    /// The memory that is read and written, to refuse an output that overlaps something else.
    touched: [View; MOST_ARGUMENTS],
    pointers: usize,
}

impl Default for Given {
    fn default() -> Given {
        Given {
            slots: [0; MOST_SLOTS],
            used: 0,
            starts: [0; MOST_ARGUMENTS],
            arguments: 0,
            elements: [""; MOST_ARGUMENTS],
            touched: [View { start: 0, end: 0, written: false, argument: 0 }; MOST_ARGUMENTS],
            pointers: 0,
        }
    }
}

/// The sum of what was launched so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub launches: u64,
    /// Of the buffers that the launches were given: what the launches move if they read or write each whole and once.
    pub bytes: u64,
    /// Multiplications and additions of their products.
    pub flops: u64,
}

/// What [`Launched`] calls a copy and a zeroing, which are not kernels.
pub const COPY: &str = "copy";
pub const ZERO: &str = "zero";

/// One launch, or a copy between buffers, or a zeroing. [`Traffic`] counts launches alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Launched {
    /// The name of the kernel, [`COPY`] or [`ZERO`].
    pub kernel: &'static str,
    /// Blocks; 0 for a copy or a zeroing.
    pub grid: [u32; 3],
    /// As [`Traffic`] counts them.
    pub bytes: u64,
    pub flops: u64,
    /// The time between the marks before and after it in the device's queue.
    pub seconds: f64,
}

impl Launched {
    /// Not a copy or a zeroing.
    pub fn is_kernel(&self) -> bool {
        self.kernel != COPY && self.kernel != ZERO
    }
}

thread_local! {
    static TRAFFIC: Cell<Traffic> = const { Cell::new(Traffic { launches: 0, bytes: 0, flops: 0 }) };
    static TRACE: RefCell<Option<Vec<(Launched, Event, Event)>>> = const { RefCell::new(None) };
    static TOUCHED: RefCell<Option<Vec<(u64, u64)>>> = const { RefCell::new(None) };
    /// The arguments of the last launch, to be used again.
    static SPARE: Cell<Option<Box<Given>>> = const { Cell::new(None) };
}

/// What `body` launches, copies and zeroes on the calling thread, in order. Waits for the device.
pub fn trace(body: impl FnOnce() -> Result<()>) -> Result<Vec<Launched>> {
    TRACE.set(Some(Vec::new()));
    let done = body();
    let seen = TRACE.take().unwrap_or_default();
    done?;
    let timed = |(launched, start, end): (Launched, Event, Event)| -> Result<Launched> {
        Ok(Launched { seconds: end.since(&start)?.as_secs_f64(), ..launched })
    };
    seen.into_iter().map(timed).collect()
}

/// The bytes of all memory that the launches of `body` on the calling thread are given, each byte once.
pub fn memory(body: impl FnOnce() -> Result<()>) -> Result<u64> {
    TOUCHED.set(Some(Vec::new()));
    let done = body();
    let mut ranges = TOUCHED.take().unwrap_or_default();
    done?;
    ranges.sort_unstable();
    let (mut bytes, mut reached) = (0, 0);
    for (start, end) in ranges {
        bytes += end.saturating_sub(start.max(reached));
        reached = reached.max(end);
    }
    Ok(bytes)
}

/// Does `work`, which [`trace`] sees.
pub(super) fn traced(
    device: &Device,
    (kernel, grid): (&'static str, [u32; 3]),
    bytes: u64,
    flops: u64,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if TRACE.with_borrow(Option::is_none) {
        return work();
    }
    let start = device.event()?;
    work()?;
    let end = device.event()?;
    TRACE.with_borrow_mut(|seen| {
        if let Some(seen) = seen {
            seen.push((Launched { kernel, grid, bytes, flops, seconds: 0.0 }, start, end));
        }
    });
    Ok(())
}

/// What the calling thread has launched, on all devices.
pub fn traffic() -> Traffic {
    TRAFFIC.get()
}

impl<'a> Launch<'a> {
    pub(super) fn new(device: &'a Device, kernel: Variants, grid: [u32; 3]) -> Self {
        let mut given = SPARE.take().unwrap_or_default();
        (given.used, given.arguments, given.pointers) = (0, 0, 0);
        Launch { device, kernel, grid, given, precision: None, flops: 0, problem: None }
    }

    /// Says that the kernel is a product of this many multiplications and additions.
    pub fn product(mut self, flops: usize) -> Self {
        self.flops = flops as u64;
        self
    }

    /// A buffer that the kernel writes, and may read.
    pub fn output<T: Element>(self, buffer: &Buffer<T>) -> Self {
        self.pointer(buffer, true)
    }

    /// A buffer that the kernel reads.
    pub fn input<T: Element>(self, buffer: &Buffer<T>) -> Self {
        self.pointer(buffer, false)
    }

    /// A buffer that the kernel reads, or a null pointer.
    pub fn optional<T: Element>(self, buffer: Option<&Buffer<T>>) -> Self {
        match buffer {
            Some(buffer) => self.input(buffer),
            None => self.scalar(0u64),
        }
    }

    /// A buffer that the kernel writes, or a null pointer.
    pub fn optional_output<T: Element>(self, buffer: Option<&Buffer<T>>) -> Self {
        match buffer {
            Some(buffer) => self.output(buffer),
            None => self.scalar(0u64),
        }
    }

    /// A number, or a `#[repr(C)]` struct of numbers, passed by value.
    pub fn scalar<S: bytemuck::NoUninit>(mut self, value: S) -> Self {
        self.argument(bytemuck::bytes_of(&value), "");
        self
    }

    /// `element` is what kernels call the elements of a buffer, of which `bytes` are the address; of no buffer it is empty.
    fn argument(&mut self, bytes: &[u8], element: &'static str) {
        let given = &mut *self.given;
        let slots = bytes.len().div_ceil(SLOT_BYTES).max(1);
        if given.used + slots > MOST_SLOTS || given.arguments == MOST_ARGUMENTS {
            self.problem = Some(format!("more than {MOST_ARGUMENTS} arguments or {MOST_SLOTS} words of them"));
            return;
        }
        let to = &mut given.slots[given.used..given.used + slots];
        bytemuck::cast_slice_mut(to)[..bytes.len()].copy_from_slice(bytes);
        given.starts[given.arguments] = given.used as u8;
        given.elements[given.arguments] = element;
        given.used += slots;
        given.arguments += 1;
    }

    fn pointer<T: Element>(mut self, buffer: &Buffer<T>, written: bool) -> Self {
        let given = &mut *self.given;
        let argument = given.arguments;
        if !buffer.device().same(self.device) {
            self.problem = Some(format!("argument {argument} is on another device"));
        }
        buffer.hold();
        let Range { start, end } = buffer.byte_range();
        for view in &given.touched[..given.pointers] {
            if start < view.end && view.start < end && (written || view.written) {
                self.problem = Some(format!("argument {argument} overlaps an earlier one that is written"));
            }
        }
        if self.precision.is_none() && self.kernel.stored(argument) {
            self.precision = Some(buffer.precision());
        }
        if given.pointers < MOST_ARGUMENTS {
            given.touched[given.pointers] = View { start, end, written, argument };
            given.pointers += 1;
        }
        self.argument(bytemuck::bytes_of(&buffer.address()), buffer.stored_type());
        self
    }

    /// Starts the kernel. An empty grid is no launch.
    ///
    /// # Safety
    /// The arguments must have the types of the kernel's parameters, in order, and each buffer the length that the
    /// kernel's header comment gives for the sizes passed. (Their number, device, overlap and the types of the buffers'
    /// elements are checked here.)
    pub unsafe fn run(self) -> Result<()> {
        let kernel = self.kernel.choose(self.precision.unwrap_or_default()).map_err(Error::Device)?;
        let Kernel { name, types, .. } = kernel;
        if let Some(problem) = self.problem {
            return Err(Error::Device(format!("{name}: {problem}")));
        }
        let given = self.given;
        if given.arguments != types.len() {
            let (takes, given) = (types.len(), given.arguments);
            return Err(Error::Device(format!("{name} takes {takes} arguments, was given {given}")));
        }
        for (i, (element, kind)) in given.elements.iter().zip(*types).enumerate() {
            let expected = kind.trim_end_matches('*');
            if !element.is_empty() && *element != expected && NUMBERS.contains(&expected) {
                return Err(Error::Device(format!(
                    "{name}: argument {i} is a buffer of {element}, expected {expected}"
                )));
            }
        }
        let blocks = self.grid.iter().try_fold(1u32, |product, &n| product.checked_mul(n));
        match blocks {
            Some(0) => return Ok(()),
            Some(_) if self.grid.iter().zip(MOST_BLOCKS).all(|(n, most)| *n <= most) => {}
            _ => {
                let grid = self.grid;
                return Err(Error::Device(format!("{name}: a grid of {grid:?} blocks, at most {MOST_BLOCKS:?}")));
            }
        }
        let mut pointers = [std::ptr::null::<c_void>(); MOST_ARGUMENTS];
        for (pointer, &start) in pointers.iter_mut().zip(&given.starts[..given.arguments]) {
            *pointer = (&raw const given.slots[start as usize]).cast();
        }
        let (pointers, touched) = (&pointers[..given.arguments], &given.touched[..given.pointers]);
        let bytes = touched.iter().map(|view| view.end - view.start).sum::<u64>();
        TOUCHED.with_borrow_mut(|all| {
            all.iter_mut().for_each(|all| all.extend(touched.iter().map(|view| (view.start, view.end))));
        });
        let Traffic { launches, bytes: before, flops } = TRAFFIC.get();
        TRAFFIC.set(Traffic { launches: launches + 1, bytes: before + bytes, flops: flops + self.flops });
        let done = traced(self.device, (name, self.grid), bytes, self.flops, || {
            // SAFETY: the caller vouches for types and lengths; the count was compared with the kernel's.
            unsafe { self.device.start(kernel, self.grid, pointers, touched, self.flops) }
        });
        SPARE.set(Some(given));
        done
    }
}
