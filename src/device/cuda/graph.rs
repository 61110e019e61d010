//! Marks in the device's queue, and stretches of it that are captured as a graph.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaEvent as Event, CudaGraph, sys};

use super::{Cuda, Faults, words};
use crate::device::buffer::Memory;
use crate::{Error, Result};

thread_local! {
    /// The address of the device that this thread captures.
    static CAPTURING: Cell<usize> = const { Cell::new(0) };
}

/// Launches that were captured and are started together, and the memory that they work on.
pub(in crate::device) struct CapturedGraph {
    graph: CudaGraph,
    _memory: Vec<Arc<Memory>>,
}

pub(in crate::device) struct CudaEvent {
    device: String,
    event: Event,
    faults: Arc<Faults>,
}

impl CudaEvent {
    pub fn since(&self, earlier: &CudaEvent) -> Result<Duration> {
        let said = |e| Error::Device(format!("{}: timing: {}{}", self.device, words(e), self.faults.suspects(e)));
        let milliseconds = earlier.event.elapsed_ms(&self.event).map_err(said)?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Cuda {
    pub fn event(&self) -> Result<CudaEvent> {
        let _turn = self.outside_capture("an event")?;
        // The default is an event without timing.
        let event = self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(self.said("event"))?;
        Ok(CudaEvent { device: self.device.clone(), event, faults: self.faults.clone() })
    }

    /// Captures what `work` queues on this device, without doing it.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<CapturedGraph> {
        const HINT: &str = "capturing a step as a graph (--no-graph launches its kernels one by one)";
        drop(self.outside_capture("another capture")?);
        let alone = self.capture.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.context.bind_to_thread().map_err(self.said("an earlier call"))?;
        // In this mode the driver refuses what is unsafe during a capture, such as an allocation, to this thread alone.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(self.said(HINT))?;
        CAPTURING.set(std::ptr::from_ref(self) as usize);
        let done = work();
        CAPTURING.set(0);
        let memory = std::mem::take(&mut *self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        // Whoever frees something waits for the end of the capture.
        drop(alone);
        let freed = std::mem::take(&mut *self.freed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        freed.into_iter().for_each(|(address, apart)| self.free(address, apart));
        // What failed inside is the reason for what the driver says about the whole.
        done?;
        match graph.map_err(self.said(HINT))? {
            Some(graph) => Ok(CapturedGraph { graph, _memory: memory }),
            None => Err(Error::Device(format!("{}: {HINT}: nothing was captured", self.device))),
        }
    }

    pub fn launch_graph(&self, graph: &CapturedGraph) -> Result<()> {
        let _turn = self.bind()?;
        graph.graph.launch().map_err(self.said("launching a captured graph"))?;
        self.faults.launched_graph();
        Ok(())
    }

    /// Called with the memory of everything that is queued: a graph keeps the memory that it works on.
    pub fn hold(&self, memory: &Arc<Memory>) {
        if self.captures() {
            let mut held = self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if !held.iter().any(|known| Arc::ptr_eq(known, memory)) {
                held.push(memory.clone());
            }
        }
    }

    /// Whether this thread is inside `capture`.
    pub(super) fn captures(&self) -> bool {
        CAPTURING.get() == std::ptr::from_ref(self) as usize
    }
}

// SAFETY: the handles belong to no thread, and a graph is not shared: `Graph` is not `Sync`.
unsafe impl Send for CapturedGraph {}
