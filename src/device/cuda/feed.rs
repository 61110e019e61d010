//! Copies the next batch while the device works on this one. There are two slots, each with pinned memory and buffers of
//! its own, and a second stream for the copies.
//!
//! Events keep three things in order. The host fills a slot's pinned memory after the copy out of it two steps ago has
//! ended (`arrived`). The copy overwrites a slot's buffers after the step that read them has ended (`taken`). A step reads
//! them after the copy has ended (`arrived` again).

use std::sync::Arc;

use cudarc::driver::{CudaEvent as Event, CudaStream, PinnedHostSlice, sys};

use super::{Cuda, pinned, said};
use crate::Result;
use crate::device::buffer::size;

pub(in crate::device) struct CudaFeed {
    device: String,
    stream: Arc<CudaStream>,
    slots: Vec<Slot>,
}

struct Slot {
    memory: PinnedHostSlice<u8>,
    /// The end of this slot's last copy, on the stream of the copies.
    arrived: Event,
    /// The end of the last work that reads what was copied, on the device's own stream.
    taken: Event,
}

impl Cuda {
    /// Slots of `bytes` bytes. The buffers to be filled must exist already: their zeroing is waited for.
    pub fn feed(&self, slots: usize, bytes: usize) -> Result<CudaFeed> {
        let _turn = self.outside_capture("a feed")?;
        let stream = self.context.new_stream().map_err(self.said("making a stream"))?;
        let slot = || {
            let event = || self.context.new_event(None).map_err(self.said("making an event"));
            let (arrived, taken) = (event()?, event()?);
            taken.record(&self.stream).map_err(self.said("an event"))?;
            Ok(Slot { memory: pinned(&self.context, &self.device, bytes.max(1))?, arrived, taken })
        };
        let slots = (0..slots).map(|_| slot()).collect::<Result<_>>()?;
        Ok(CudaFeed { device: self.device.clone(), stream, slots })
    }

    /// What is queued from now on reads what the slot was filled with.
    pub fn begin_feed(&self, feed: &CudaFeed, slot: usize) -> Result<()> {
        let _turn = self.outside_capture("waiting for a feed")?;
        self.stream.wait(&feed.slots[slot].arrived).map_err(self.said("waiting for a copy"))
    }

    /// Nothing that is queued from now on reads the slot, until it is filled again.
    pub fn end_feed(&self, feed: &CudaFeed, slot: usize) -> Result<()> {
        let _turn = self.outside_capture("an event")?;
        feed.slots[slot].taken.record(&self.stream).map_err(self.said("an event"))
    }

    /// Copies each part to its address on the device. Returns as soon as the caller may change the parts.
    pub fn fill_feed(&self, feed: &mut CudaFeed, slot: usize, parts: &[(u64, &[u8])]) -> Result<()> {
        let _turn = self.outside_capture("a copy from the host")?;
        let CudaFeed { stream, slots, .. } = feed;
        let Slot { memory, arrived, taken } = &mut slots[slot];
        let bytes: usize = parts.iter().map(|(_, values)| values.len()).sum();
        assert!(bytes <= memory.len(), "{bytes} bytes into a slot of {}", memory.len());
        let mut copy = || {
            self.faults.watched(|| arrived.synchronize())?;
            stream.wait(taken)?;
            let mut pinned = memory.as_mut_ptr()?;
            for (to, values) in parts.iter().filter(|(_, values)| !values.is_empty()) {
                // SAFETY: all parts together fit into the slot, which nothing reads: `arrived` was waited for. The range
                // on the device is inside a live allocation (`Feed::fill`) that nothing else uses until `begin_feed`.
                unsafe {
                    std::ptr::copy_nonoverlapping(values.as_ptr(), pinned, values.len());
                    sys::cuMemcpyHtoDAsync_v2(*to, pinned.cast(), values.len(), stream.cu_stream()).result()?;
                    pinned = pinned.add(values.len());
                }
            }
            arrived.record(stream)
        };
        copy().map_err(self.said(format!("copying {} to the device", size(bytes))))
    }
}

impl Drop for CudaFeed {
    fn drop(&mut self) {
        // Queued copies may still read the pinned memory, and write to buffers that are freed after this.
        let waited = self.stream.synchronize().map_err(said(&self.device, "waiting"));
        drop(waited);
    }
}
