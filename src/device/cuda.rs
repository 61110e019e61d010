//! The `cuda` execution: an NVIDIA GPU through cudarc.
use super::Kernel;
use crate::{Error, Result};
use std::ffi::c_void;
use std::time::Duration;
pub(super) struct Cuda {}
pub(super) struct CudaEvent {}
impl CudaEvent {
    pub fn since(&self, _: &CudaEvent) -> Result<Duration> {
        Err(no())
    }
}
fn no() -> Error {
    Error::Device("cuda: no driver".into())
}
impl Cuda {
    pub fn new(_ordinal: usize) -> Result<Cuda> {
        Err(no())
    }
    pub fn description(&self) -> String {
        String::new()
    }
    pub fn synchronize(&self) -> Result<()> {
        Err(no())
    }
    pub fn event(&self) -> Result<CudaEvent> {
        Err(no())
    }
    pub fn zeros(&self, _bytes: usize) -> Result<u64> {
        Err(no())
    }
    pub fn free(&self, _address: u64) {}
    pub fn write(&self, _address: u64, _values: &[u8]) -> Result<()> {
        Err(no())
    }
    pub fn read(&self, _address: u64, _values: &mut [u8]) -> Result<()> {
        Err(no())
    }
    pub fn copy(&self, _to: u64, _from: u64, _bytes: usize) -> Result<()> {
        Err(no())
    }
    pub fn zero(&self, _address: u64, _bytes: usize) -> Result<()> {
        Err(no())
    }
    /// # Safety
    /// As [`super::Launch::run`].
    pub unsafe fn launch(&self, _k: Kernel, _g: [u32; 3], _a: &[*const c_void]) -> Result<()> {
        Err(no())
    }
}
