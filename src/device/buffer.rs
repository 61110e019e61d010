//! Typed memory on a device.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::{Backend, Device, Precision, launch};
use crate::sizes::{filled, reserved};
use crate::{Error, Result};

/// A number that kernels know.
pub trait Element: bytemuck::Pod + Send + Sync + std::fmt::Debug {
    /// What kernels call it.
    const NAME: &str;

    /// The number that these 16 bits stand for in a precision. Only real numbers are stored in 16 bits.
    #[doc(hidden)]
    fn widened(_bits: u16, _precision: Precision) -> Self {
        Self::zeroed()
    }
}
impl Element for f32 {
    const NAME: &str = "float";

    fn widened(bits: u16, precision: Precision) -> f32 {
        precision.widen(bits)
    }
}
impl Element for u8 {
    const NAME: &str = "uint8_t";
}
impl Element for u32 {
    const NAME: &str = "uint32_t";
}
impl Element for i32 {
    const NAME: &str = "int32_t";
}
impl Element for u64 {
    const NAME: &str = "uint64_t";
}

/// Memory on a device, or a part of it. Clones and views share the memory; the last of them frees it.
///
/// Sharing is sound, also between threads: the elements are reached through raw pointers alone, and on a CPU one launch, copy
/// or zeroing at a time touches the memory of a device. So a thread reads what another one has written either whole or not
/// at all. Each launch checks that an operation's output does not overlap what it reads.
///
/// One of real numbers is called [`Reals`].
#[derive(Clone)]
pub struct Buffer<T> {
    memory: Arc<Memory>,
    offset: usize,
    len: usize,
    precision: Precision,
    element: PhantomData<T>,
}

/// Real numbers, which the device stores in the buffer's [`Precision`], f32 or another: `write` rounds to it, and `read`
/// widens to f32.
pub type Reals = Buffer<f32>;

/// What an error calls the memory that a buffer is read into.
const READ: &str = "a copy of what is on a device";

pub(super) struct Memory {
    device: Device,
    /// A pointer on a CPU, a `CUdeviceptr` on a GPU; 0 where it has no bytes.
    address: u64,
    bytes: usize,
}

/// Buffers start at multiples of this many bytes, and so do the parts of an arena.
pub(crate) const ALIGNMENT: usize = 256;

impl Memory {
    fn zeros(device: &Device, bytes: usize, element_bytes: usize) -> Result<Memory> {
        let address = match &*device.backend {
            _ if bytes == 0 => 0,
            Backend::Host(_) => host_zeros(bytes)?,
            Backend::Simt(simt) => {
                let address = host_zeros(bytes)?;
                simt.allocated(address, bytes, element_bytes);
                address
            }
            Backend::Cuda(cuda) => cuda.zeros(bytes, device.red_zones)?,
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
        if let Backend::Simt(simt) = &*self.device.backend {
            simt.freed(self.address);
        }
        match &*self.device.backend {
            Backend::Host(_) | Backend::Simt(_) => {
                if let Ok(layout) = layout(self.bytes) {
                    // SAFETY: `host_zeros` allocated it with this layout, and nobody else frees it.
                    unsafe { std::alloc::dealloc(self.address as *mut u8, layout) };
                }
            }
            Backend::Cuda(cuda) => cuda.free(self.address, self.device.red_zones),
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

fn element_bytes<T>(precision: Precision) -> usize {
    if precision == Precision::F32 { size_of::<T>() } else { precision.bytes() }
}

impl<T: Element> Buffer<T> {
    /// A precision other than f32 is for real numbers alone.
    pub(super) fn zeros(device: &Device, len: usize, precision: Precision) -> Result<Buffer<T>> {
        let each = element_bytes::<T>(precision);
        let bytes = len.checked_mul(each).ok_or_else(|| {
            Error::Device(format!("{}: a buffer of {len} elements is more than memory can hold", device.execution()))
        })?;
        let memory = Arc::new(Memory::zeros(device, bytes, each)?);
        Ok(Buffer { memory, offset: 0, len, precision, element: PhantomData })
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

    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What kernels call the type of an element.
    pub(super) fn stored_type(&self) -> &'static str {
        if self.precision == Precision::F32 { T::NAME } else { self.precision.stored_type() }
    }

    fn element_bytes(&self) -> usize {
        element_bytes::<T>(self.precision)
    }

    /// A part of this buffer, which shares its memory. Panics where the range is not inside the buffer: ranges come from
    /// the program's own arithmetic, never from a user.
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
            precision: self.precision,
            element: PhantomData,
        }
    }

    /// The bytes of a part, seen as another type of element. Panics where the part's bytes do not divide evenly.
    pub fn cast<U: Element>(&self) -> Buffer<U> {
        let (start, bytes) = (self.offset * self.element_bytes(), self.len * self.element_bytes());
        assert!(
            start.is_multiple_of(size_of::<U>()) && bytes.is_multiple_of(size_of::<U>()),
            "{bytes} bytes at {start} as elements of {} bytes",
            size_of::<U>()
        );
        Buffer {
            memory: self.memory.clone(),
            offset: start / size_of::<U>(),
            len: bytes / size_of::<U>(),
            precision: Precision::F32,
            element: PhantomData,
        }
    }

    /// The bytes of a part, seen as real numbers in this precision. Panics where they do not divide evenly.
    pub fn as_reals(&self, precision: Precision) -> Reals {
        let bytes = self.cast::<u8>();
        let each = precision.bytes();
        assert!(
            bytes.offset.is_multiple_of(each) && bytes.len.is_multiple_of(each),
            "{} bytes at {} as numbers of {each} bytes",
            bytes.len,
            bytes.offset
        );
        let (offset, len) = (bytes.offset / each, bytes.len / each);
        Buffer { memory: bytes.memory, offset, len, precision, element: PhantomData }
    }

    /// To be called before something is queued that works on this buffer.
    pub(super) fn hold(&self) {
        self.memory.device.hold(&self.memory);
    }

    /// For tests that launch kernels past the wrappers.
    #[doc(hidden)]
    pub fn raw_address(&self) -> u64 {
        self.address()
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address + (self.offset * self.element_bytes()) as u64
    }

    pub(super) fn byte_range(&self) -> Range<u64> {
        self.address()..self.address() + (self.len * self.element_bytes()) as u64
    }

    /// For the checkers of `simt`: this memory has been written, or is to count as never written.
    pub(super) fn mark(&self, written: bool) {
        if let Backend::Simt(simt) = &*self.memory.device.backend {
            simt.mark(self.byte_range(), written);
        }
    }

    /// Copies `values` here; the lengths must agree.
    pub fn write(&self, values: &[T]) -> Result<()> {
        self.expect_len("write", values.len())?;
        match self.precision.bytes() {
            2 => {
                let real: &[f32] = bytemuck::cast_slice(values);
                let mut bits = reserved("numbers of 16 bits on their way to a device", real.len())?;
                bits.extend(real.iter().map(|x| self.precision.narrow(*x)));
                self.write_bytes(bytemuck::cast_slice(&bits))
            }
            _ => self.write_bytes(bytemuck::cast_slice(values)),
        }
    }

    /// `bytes` are those of all elements.
    fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        assert_eq!(bytes.len(), self.len * self.element_bytes(), "the bytes of all elements");
        self.mark(true);
        match &*self.memory.device.backend {
            _ if self.len == 0 => Ok(()),
            Backend::Host(_) | Backend::Simt(_) => {
                let _turn = self.memory.device.turn();
                // SAFETY: so many bytes at `address` lie inside the live allocation (`view`, `cast`), and nothing else
                // touches it during this turn; a slice that the caller borrows cannot overlap memory that is never lent
                // as a slice.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address() as *mut u8, bytes.len()) };
                Ok(())
            }
            Backend::Cuda(cuda) => cuda.write(self.address(), bytes),
            Backend::Unbacked(_) => Ok(()),
        }
    }

    /// Copies what is here into `values`; the lengths must agree. Waits for the device.
    pub fn read_into(&self, values: &mut [T]) -> Result<()> {
        self.expect_len("read", values.len())?;
        if self.precision.bytes() == size_of::<f32>() {
            return self.read_bytes(bytemuck::cast_slice_mut(values));
        }
        let mut bits = filled(READ, self.len, 0u16)?;
        self.read_bytes(bytemuck::cast_slice_mut(&mut bits))?;
        values.iter_mut().zip(bits).for_each(|(value, bits)| *value = T::widened(bits, self.precision));
        Ok(())
    }

    /// `bytes` are those of all elements.
    fn read_bytes(&self, bytes: &mut [u8]) -> Result<()> {
        assert_eq!(bytes.len(), self.len * self.element_bytes(), "the bytes of all elements");
        match &*self.memory.device.backend {
            _ if self.len == 0 => Ok(()),
            Backend::Host(_) | Backend::Simt(_) => {
                let _turn = self.memory.device.turn();
                // SAFETY: as in `write_bytes`; the destination is borrowed exclusively.
                unsafe { std::ptr::copy_nonoverlapping(self.address() as *const u8, bytes.as_mut_ptr(), bytes.len()) };
                Ok(())
            }
            Backend::Cuda(cuda) => cuda.read(self.address(), bytes),
            Backend::Unbacked(_) => Ok(()),
        }
    }

    /// A copy of what is here. Waits for the device.
    pub fn read(&self) -> Result<Vec<T>> {
        let mut values = filled(READ, self.len, T::zeroed())?;
        self.read_into(&mut values)?;
        Ok(values)
    }

    /// Copies `source` here, on the device; the lengths must agree.
    pub fn copy_from(&self, source: &Buffer<T>) -> Result<()> {
        self.expect_len("copy", source.len)?;
        if !self.memory.device.same(&source.memory.device) {
            return Err(Error::Device("copy: the two buffers are on different devices".into()));
        }
        if self.precision.stored_type() != source.precision.stored_type() {
            return Err(Error::Device(format!("copy: from {} to {}", source.precision, self.precision)));
        }
        self.mark(true);
        let bytes = self.len * self.element_bytes();
        self.hold();
        source.hold();
        launch::traced(self.device(), (launch::COPY, [0; 3]), 2 * bytes as u64, 0, || {
            match &*self.memory.device.backend {
                _ if bytes == 0 => Ok(()),
                Backend::Host(_) | Backend::Simt(_) => {
                    let _turn = self.memory.device.turn();
                    // SAFETY: both ranges lie inside live allocations, which nothing else touches during this turn; `copy`
                    // allows them to overlap.
                    unsafe { std::ptr::copy(source.address() as *const u8, self.address() as *mut u8, bytes) };
                    Ok(())
                }
                Backend::Cuda(cuda) => cuda.copy(self.address(), source.address(), bytes),
                Backend::Unbacked(_) => Ok(()),
            }
        })
    }

    /// Sets every byte to zero.
    pub fn zero(&self) -> Result<()> {
        self.mark(true);
        let bytes = self.len * self.element_bytes();
        self.hold();
        launch::traced(self.device(), (launch::ZERO, [0; 3]), bytes as u64, 0, || match &*self.memory.device.backend {
            _ if bytes == 0 => Ok(()),
            Backend::Host(host) => {
                let _turn = self.memory.device.turn();
                // SAFETY: the range lies inside the live allocation, which nothing else touches during this turn.
                unsafe { host.zero(self.address(), bytes) };
                Ok(())
            }
            Backend::Simt(_) => {
                let _turn = self.memory.device.turn();
                // SAFETY: as above.
                unsafe { std::ptr::write_bytes(self.address() as *mut u8, 0, bytes) };
                Ok(())
            }
            Backend::Cuda(cuda) => cuda.zero(self.address(), bytes),
            Backend::Unbacked(_) => Ok(()),
        })
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
