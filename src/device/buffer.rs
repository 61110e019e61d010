//! Typed memory on a device.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::{Backend, Device, launch};
use crate::{Error, Result};

/// A number that kernels know.
pub trait Element: bytemuck::Pod + Send + Sync + std::fmt::Debug {}
impl Element for f32 {}
impl Element for u8 {}
impl Element for u32 {}
impl Element for i32 {}
impl Element for u64 {}

/// Memory on a device, or a part of it: clones and views share it, the last one frees it.
///
/// The elements are reached through raw pointers alone, so sharing is sound; that an operation's output does not
/// overlap what it reads is checked at each launch.
#[derive(Clone)]
pub struct Buffer<T> {
    memory: Arc<Memory>,
    offset: usize,
    len: usize,
    element: PhantomData<T>,
}

pub(super) struct Memory {
    device: Device,
    /// A pointer on a CPU, a `CUdeviceptr` on a GPU; 0 where it has no bytes.
    address: u64,
    bytes: usize,
}

/// Buffers start at multiples of this, in bytes; the arenas keep it.
pub(crate) const ALIGNMENT: usize = 256;

impl Memory {
    fn zeros(device: &Device, bytes: usize, element_bytes: usize) -> Result<Memory> {
        let address = match &*device.0 {
            _ if bytes == 0 => 0,
            Backend::Host(_) => host_zeros(bytes)?,
            Backend::Simt(simt) => {
                let address = host_zeros(bytes)?;
                simt.allocated(address, bytes, element_bytes);
                address
            }
            Backend::Cuda(cuda) => cuda.zeros(bytes)?,
            Backend::Unbacked(unbacked) => unbacked.allocate(bytes),
        };
        Ok(Memory { device: device.clone(), address, bytes })
    }
}

fn layout(bytes: usize) -> Result<std::alloc::Layout> {
    std::alloc::Layout::from_size_align(bytes, ALIGNMENT)
        .map_err(|_| Error::Device(format!("host: a buffer of {bytes} bytes is more than memory can hold")))
}

fn host_zeros(bytes: usize) -> Result<u64> {
    // SAFETY: the size is not zero, `zeros` saw to that.
    let pointer = unsafe { std::alloc::alloc_zeroed(layout(bytes)?) };
    if pointer.is_null() {
        return Err(Error::OutOfMemory { device: "host".into(), asked: size(bytes), free: "less".into() });
    }
    Ok(pointer as u64)
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        if let Backend::Simt(simt) = &*self.device.0 {
            simt.freed(self.address);
        }
        match &*self.device.0 {
            Backend::Host(_) | Backend::Simt(_) => {
                if let Ok(layout) = layout(self.bytes) {
                    // SAFETY: `host_zeros` allocated it with this layout, and nobody else frees it.
                    unsafe { std::alloc::dealloc(self.address as *mut u8, layout) };
                }
            }
            Backend::Cuda(cuda) => cuda.free(self.address),
            Backend::Unbacked(_) => {}
        }
    }
}

/// Bytes for people: `1.5 MiB`.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

impl<T: Element> Buffer<T> {
    pub(super) fn zeros(device: &Device, len: usize) -> Result<Buffer<T>> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| {
            Error::Device(format!("{}: a buffer of {len} elements is more than memory can hold", device.execution()))
        })?;
        let memory = Arc::new(Memory::zeros(device, bytes, size_of::<T>())?);
        Ok(Buffer { memory, offset: 0, len, element: PhantomData })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn device(&self) -> &Device {
        &self.memory.device
    }

    /// A part of this buffer, sharing its memory. Panics where the range is not inside: that is the caller's
    /// arithmetic, never a user's input.
    pub fn view(&self, range: Range<usize>) -> Buffer<T> {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "view {}..{} of a buffer of {}",
            range.start,
            range.end,
            self.len
        );
        Buffer {
            memory: self.memory.clone(),
            offset: self.offset + range.start,
            len: range.end - range.start,
            element: PhantomData,
        }
    }

    /// The bytes of a part, seen as another type of element. Panics where the part's bytes do not divide evenly.
    pub fn cast<U: Element>(&self) -> Buffer<U> {
        let (start, bytes) = (self.offset * size_of::<T>(), self.len * size_of::<T>());
        assert!(
            start.is_multiple_of(size_of::<U>()) && bytes.is_multiple_of(size_of::<U>()),
            "{bytes} bytes at {start} as elements of {} bytes",
            size_of::<U>()
        );
        Buffer {
            memory: self.memory.clone(),
            offset: start / size_of::<U>(),
            len: bytes / size_of::<U>(),
            element: PhantomData,
        }
    }

    /// Before something is queued that works on this buffer.
    pub(super) fn hold(&self) {
        self.memory.device.hold(&self.memory);
    }

    /// For tests that launch kernels past the wrappers.
    #[doc(hidden)]
    pub fn raw_address(&self) -> u64 {
        self.address()
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address + (self.offset * size_of::<T>()) as u64
    }

    pub(super) fn byte_range(&self) -> Range<u64> {
        self.address()..self.address() + (self.len * size_of::<T>()) as u64
    }

    /// For the checkers of `simt`: this memory has been written, or is to count as never written.
    pub(super) fn mark(&self, written: bool) {
        if let Backend::Simt(simt) = &*self.memory.device.0 {
            simt.mark(self.byte_range(), written);
        }
    }

    /// Copies `values` here; the lengths must agree.
    pub fn write(&self, values: &[T]) -> Result<()> {
        self.expect_len("write", values.len())?;
        self.mark(true);
        match &*self.memory.device.0 {
            _ if self.len == 0 => Ok(()),
            // SAFETY: `len` elements at `address` lie inside the live allocation (`view`, `cast`); a slice that the
            // caller borrows cannot overlap memory that is never lent as a slice.
            Backend::Host(_) | Backend::Simt(_) => unsafe {
                std::ptr::copy_nonoverlapping(values.as_ptr(), self.address() as *mut T, self.len);
                Ok(())
            },
            Backend::Cuda(cuda) => cuda.write(self.address(), bytemuck::cast_slice(values)),
            Backend::Unbacked(_) => Ok(()),
        }
    }

    /// Copies what is here into `values`; the lengths must agree. Waits for the device.
    pub fn read_into(&self, values: &mut [T]) -> Result<()> {
        self.expect_len("read", values.len())?;
        match &*self.memory.device.0 {
            _ if self.len == 0 => Ok(()),
            // SAFETY: as in `write`; the destination is borrowed exclusively.
            Backend::Host(_) | Backend::Simt(_) => unsafe {
                std::ptr::copy_nonoverlapping(self.address() as *const T, values.as_mut_ptr(), self.len);
                Ok(())
            },
            Backend::Cuda(cuda) => cuda.read(self.address(), bytemuck::cast_slice_mut(values)),
            Backend::Unbacked(_) => Ok(()),
        }
    }

    /// A copy of what is here. Waits for the device.
    pub fn read(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.len];
        self.read_into(&mut values)?;
        Ok(values)
    }

    /// Copies `source` here, on the device; the lengths must agree.
    pub fn copy_from(&self, source: &Buffer<T>) -> Result<()> {
        self.expect_len("copy", source.len)?;
        if !self.memory.device.same(&source.memory.device) {
            return Err(Error::Device("copy: the two buffers are on different devices".into()));
        }
        self.mark(true);
        let bytes = self.len * size_of::<T>();
        self.hold();
        source.hold();
        launch::recorded("copy", 2 * bytes as u64, 0);
        match &*self.memory.device.0 {
            _ if bytes == 0 => Ok(()),
            // SAFETY: both ranges lie inside live allocations; `copy` allows them to overlap.
            Backend::Host(_) | Backend::Simt(_) => unsafe {
                std::ptr::copy(source.address() as *const u8, self.address() as *mut u8, bytes);
                Ok(())
            },
            Backend::Cuda(cuda) => cuda.copy(self.address(), source.address(), bytes),
            Backend::Unbacked(_) => Ok(()),
        }
    }

    /// Sets every byte to zero.
    pub fn zero(&self) -> Result<()> {
        self.mark(true);
        let bytes = self.len * size_of::<T>();
        self.hold();
        launch::recorded("zero", bytes as u64, 0);
        match &*self.memory.device.0 {
            _ if bytes == 0 => Ok(()),
            // SAFETY: the range lies inside the live allocation.
            Backend::Host(host) => unsafe {
                host.zero(self.address(), bytes);
                Ok(())
            },
            // SAFETY: as above.
            Backend::Simt(_) => unsafe {
                std::ptr::write_bytes(self.address() as *mut u8, 0, bytes);
                Ok(())
            },
            Backend::Cuda(cuda) => cuda.zero(self.address(), bytes),
            Backend::Unbacked(_) => Ok(()),
        }
    }

    pub(super) fn expect_len(&self, verb: &str, len: usize) -> Result<()> {
        if len == self.len {
            return Ok(());
        }
        Err(Error::Shape(format!("{verb}: the buffer has {} elements, the other side {len}", self.len)))
    }
}

impl<T: Element> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer<{}>({} on {})", std::any::type_name::<T>(), self.len, self.device().execution())
    }
}
