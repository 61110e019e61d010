//! What a driver reads in a module's image, a cubin or PTX: what it is for, its kernels and their parameters.

use std::ffi::{CStr, c_char, c_void};

use object::read::elf::{ElfFile64, FileHeader};
use object::{Endianness, Object, ObjectSection};

pub struct Image {
    /// Major and minor number of the capability it was made for.
    pub target: (i32, i32),
    pub ptx: bool,
    pub kernels: Vec<ImageKernel>,
}

pub struct ImageKernel {
    pub name: String,
    /// Bytes of each parameter, in order.
    pub parameters: Vec<usize>,
    pub most_threads: u32,
    /// Bytes of static shared memory, as far as the image tells: PTX does not.
    pub shared: u32,
}

/// # Safety
/// `image` points to a whole cubin, or to PTX that ends with a zero byte.
pub unsafe fn read(image: *const c_void) -> Option<Image> {
    // SAFETY: the caller's; every ELF file begins with 64 bytes of header, which tell where it ends.
    unsafe {
        if std::slice::from_raw_parts(image.cast::<u8>(), 4) != b"\x7fELF" {
            return ptx(CStr::from_ptr(image.cast::<c_char>()).to_str().ok()?);
        }
        let header = std::slice::from_raw_parts(image.cast::<u8>(), 64);
        let number = |at: usize, bytes: usize| {
            header[at..at + bytes].iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
        };
        let end_of_sections = number(0x28, 8) + number(0x3a, 2) * number(0x3c, 2);
        let end_of_segments = number(0x20, 8) + number(0x36, 2) * number(0x38, 2);
        cubin(std::slice::from_raw_parts(image.cast::<u8>(), end_of_sections.max(end_of_segments)))
    }
}

fn capability(number: u32) -> (i32, i32) {
    (number as i32 / 10, number as i32 % 10)
}

fn cubin(bytes: &[u8]) -> Option<Image> {
    let file = ElfFile64::<Endianness>::parse(bytes).ok()?;
    let header = file.elf_header();
    if header.e_machine(Endianness::Little) != object::elf::EM_CUDA {
        return None;
    }
    // The eighth version of NVIDIA's ABI moved the architecture up by a byte.
    let shift = if bytes[8] >= 8 { 8 } else { 0 };
    let target = capability((header.e_flags(Endianness::Little).0 >> shift) & 0xff);
    let mut kernels = Vec::new();
    for section in file.sections() {
        let Some(name) = section.name().ok()?.strip_prefix(".text.") else { continue };
        let about = file.section_by_name(&format!(".nv.info.{name}"))?;
        // From sm_90 on it begins with a kibibyte that the system keeps.
        let reserved = if target >= (9, 0) { 1024 } else { 0 };
        let shared = file.section_by_name(&format!(".nv.shared.{name}")).map_or(0, |shared| shared.size());
        let kernel = attributes(name, about.data().ok()?)?;
        kernels.push(ImageKernel { shared: shared.saturating_sub(reserved) as u32, ..kernel });
    }
    Some(Image { target, ptx: false, kernels })
}

/// A section `.nv.info.NAME` is a list of attributes: format, number, and a value of two bytes or of that many bytes.
fn attributes(name: &str, mut bytes: &[u8]) -> Option<ImageKernel> {
    const WITH_BYTES: u8 = 4;
    const MAX_THREADS: u8 = 0x05;
    const PARAMETER: u8 = 0x17;
    let word = |bytes: &[u8], i: usize| Some(u32::from_le_bytes(bytes.get(i * 4..i * 4 + 4)?.try_into().ok()?));
    let mut parameters = Vec::new();
    let mut most_threads = 1024;
    while let [format, number, low, high, rest @ ..] = bytes {
        let length = if *format == WITH_BYTES { usize::from(u16::from_le_bytes([*low, *high])) } else { 0 };
        let value = rest.get(..length)?;
        match *number {
            MAX_THREADS => most_threads = word(value, 0)? * word(value, 1)? * word(value, 2)?,
            // Index, ordinal and offset, then the size in the upper bits.
            PARAMETER => parameters.push((word(value, 1)? & 0xffff, word(value, 2)? >> 18)),
            _ => {}
        }
        bytes = &rest[length..];
    }
    parameters.sort();
    let parameters = parameters.into_iter().map(|(_, bytes)| bytes as usize).collect();
    Some(ImageKernel { name: name.into(), parameters, most_threads, shared: 0 })
}

fn ptx(text: &str) -> Option<Image> {
    let target = text.lines().find_map(|line| line.strip_prefix(".target sm_"))?;
    let digits: String = target.chars().take_while(char::is_ascii_digit).collect();
    let mut kernels = Vec::new();
    for entry in text.split(".visible .entry ").skip(1) {
        let (name, rest) = entry.split_once('(')?;
        let (list, rest) = rest.split_once(')')?;
        let threads = rest.split_once('{')?.0.lines().find_map(|line| line.trim().strip_prefix(".maxntid "));
        let most_threads = threads.map_or(Some(1024), |list| {
            list.split(',').map(|n| n.trim().parse::<u32>().ok()).try_fold(1, |product, n| Some(product * n?))
        })?;
        let parameters = list.split(',').filter(|p| !p.trim().is_empty()).map(parameter).collect::<Option<_>>()?;
        kernels.push(ImageKernel { name: name.trim().into(), parameters, most_threads, shared: 0 });
    }
    Some(Image { target: capability(digits.parse().ok()?), ptx: true, kernels })
}

/// `.param .u64 name` or `.param .align 8 .b8 name[24]`
fn parameter(text: &str) -> Option<usize> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (kind, name) = (*words.get(words.len().checked_sub(2)?)?, *words.last()?);
    let bits: usize = kind.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
    let elements = match name.split_once('[') {
        Some((_, count)) => count.trim_end_matches(']').parse().ok()?,
        None => 1,
    };
    Some(bits / 8 * elements)
}
