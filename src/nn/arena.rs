//! One allocation for every activation, gradient and workspace of a training step.

use crate::Result;
use crate::device::{Buffer, Device, Element, Precision, Reals};

/// Hands out parts of one allocation. Shapes are fixed before training starts, so a network is built twice by the same
/// code: first on an arena that only measures, then on one of the measured size.
pub struct Arena {
    device: Device,
    memory: Option<Buffer<u8>>,
    used: usize,
}

/// Parts start at multiples of this many bytes.
const ALIGNMENT: usize = 256;

impl Arena {
    /// An arena that hands out buffers without memory, and counts bytes. It knows the device, as the sizes of some
    /// workspaces depend on its block sizes.
    pub fn measuring(device: &Device) -> Arena {
        Arena { device: device.clone(), memory: None, used: 0 }
    }

    /// An arena of `bytes`, which [`Arena::used`] of a measuring one told.
    pub fn new(device: &Device, bytes: usize) -> Result<Arena> {
        Ok(Arena { device: device.clone(), memory: Some(device.zeros(bytes)?), used: 0 })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes handed out so far.
    pub fn used(&self) -> usize {
        self.used
    }

    /// `len` elements, zero at first.
    pub fn take<T: Element>(&mut self, len: usize) -> Result<Buffer<T>> {
        match self.part(len * size_of::<T>()) {
            Some(part) => Ok(part.cast()),
            None => Device::unbacked().zeros(len),
        }
    }

    /// `len` real numbers, zero at first, stored in this precision.
    pub fn take_in(&mut self, len: usize, precision: Precision) -> Result<Reals> {
        match self.part(len * precision.bytes()) {
            Some(part) => Ok(part.as_reals(precision)),
            None => Device::unbacked().zeros_in(len, precision),
        }
    }

    fn part(&mut self, bytes: usize) -> Option<Buffer<u8>> {
        let start = self.used;
        self.used += bytes.next_multiple_of(ALIGNMENT);
        self.memory.as_ref().map(|memory| memory.view(start..start + bytes))
    }
}
