//! What the driver says of a GPU.

use cudarc::driver::sys::{self, CUdevice_attribute};

use super::Cuda;
use crate::Result;
use crate::device::Gpu;

impl Cuda {
    /// What the driver does not tell is 0.
    pub fn facts(&self) -> Gpu {
        let number = |attribute| self.context.attribute(attribute).map_or(0, |n| n.max(0));
        let place = [
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID,
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID,
        ];
        let [domain, bus, slot] = place.map(number);
        let mut version = 0;
        // SAFETY: the driver is there, as the device is open; the pointer is to a live integer.
        let asked = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
        Gpu {
            capability: self.context.compute_capability().unwrap_or_default(),
            multiprocessors: self.workers,
            l2: number(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE) as usize,
            memory: self.context.total_mem().unwrap_or(0),
            cuda: asked.map_or((0, 0), |()| (version / 1000, version % 1000 / 10)),
            bus: format!("{domain:08X}:{bus:02X}:{slot:02X}.0"),
        }
    }

    /// Bytes that may still be allocated.
    pub fn free_memory(&self) -> Result<usize> {
        let _turn = self.outside_capture("a question about memory")?;
        Ok(self.context.mem_get_info().map_err(self.said("asking for free memory"))?.0)
    }
}
