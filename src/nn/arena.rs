//! One allocation for every activation, gradient and workspace of a training step.

use std::panic::Location;

use crate::device::{Buffer, Device, Element, Precision, Reals, size};
use crate::sizes::{product, sum};
use crate::{Error, Result};

/// Hands out parts of one allocation. Shapes are fixed before training starts, so a network is built twice by the same
/// code: first on an arena that only measures, then on one of the measured size.
pub struct Arena {
    device: Device,
    memory: Option<Buffer<u8>>,
    used: usize,
    /// With red zones: the parts, in order.
    parts: Vec<Part>,
}

struct Part {
    start: usize,
    bytes: usize,
    /// The line of the program that asked for it.
    of: &'static Location<'static>,
}

/// Parts start at multiples of this many bytes. A red zone has as many, and what is left to such a multiple behind a part.
const ALIGNMENT: usize = 256;
/// What red zones are filled with: small numbers, as a NaN would stay one whatever is added to it.
const ZONE: u8 = 0xa5;

impl Arena {
    /// An arena that hands out buffers without memory, and counts bytes. It knows the device, as the sizes of some
    /// workspaces depend on its block sizes.
    pub fn measuring(device: &Device) -> Arena {
        Arena { device: device.clone(), memory: None, used: 0, parts: Vec::new() }
    }

    /// An arena of `bytes`, which [`Arena::used`] of a measuring one told. On a device with red zones
    /// ([`Device::with_red_zones`]) there is one behind each part, which [`Arena::check`] looks at, and parts that nobody
    /// has written hold NaNs.
    pub fn new(device: &Device, bytes: usize) -> Result<Arena> {
        let memory = if device.has_red_zones() { device.unwritten(bytes)? } else { device.zeros(bytes)? };
        Ok(Arena { memory: Some(memory), ..Arena::measuring(device) })
    }

    /// An error where something was written between the parts of an arena with red zones. It names the part before that.
    /// Waits for the device.
    pub fn check(&self) -> Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let ends = self.parts.iter().skip(1).map(|next| next.start).chain([self.used]);
        for (i, (Part { start, bytes, of }, end)) in self.parts.iter().zip(ends).enumerate() {
            let zone = memory.view(start + bytes..end).read()?;
            if let Some(at) = zone.iter().position(|byte| *byte != ZONE) {
                let last = zone.iter().rposition(|byte| *byte != ZONE).unwrap_or(at);
                return Err(Error::Device(format!(
                    "red zone: bytes {at} to {last} behind a part of the arena were written: part {i} of {}, {}, taken in \
                     {}:{}",
                    self.parts.len(),
                    size(*bytes),
                    of.file(),
                    of.line()
                )));
            }
        }
        Ok(())
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes handed out so far.
    pub fn used(&self) -> usize {
        self.used
    }

    /// `len` elements. They are zero at first, but nobody may count on that: with red zones they are not.
    #[track_caller]
    pub fn take<T: Element>(&mut self, len: usize) -> Result<Buffer<T>> {
        match self.part(product([len, size_of::<T>()]))? {
            Some(part) => Ok(part.cast()),
            None => Device::unbacked().zeros(len),
        }
    }

    /// The same for real numbers stored in this precision.
    #[track_caller]
    pub fn take_in(&mut self, len: usize, precision: Precision) -> Result<Reals> {
        match self.part(product([len, precision.bytes()]))? {
            Some(part) => Ok(part.as_reals(precision)),
            None => Device::unbacked().zeros_in(len, precision),
        }
    }

    #[track_caller]
    fn part(&mut self, bytes: usize) -> Result<Option<Buffer<u8>>> {
        let start = self.used;
        let zone = if self.device.has_red_zones() { ALIGNMENT } else { 0 };
        let end = sum([start, bytes, ALIGNMENT - 1, zone]);
        if end == usize::MAX {
            return Err(Error::Shape("the networks and their batches are more than memory can hold".into()));
        }
        self.used = end / ALIGNMENT * ALIGNMENT;
        if zone > 0 {
            self.parts.push(Part { start, bytes, of: Location::caller() });
            if let Some(memory) = &self.memory {
                let zone = memory.view(start + bytes..self.used);
                zone.write(&vec![ZONE; zone.len()])?;
            }
        }
        Ok(self.memory.as_ref().map(|memory| memory.view(start..start + bytes)))
    }
}
