//! BMP files: 1 to 8 bits with a palette, plain or run-length coded, and 16, 24 and 32 bits with or without masks. Small
//! crates read some of these wrongly and fill a file that was cut off with black; `image` reads them, and costs a minute of
//! CPU time to build.

use std::io::{BufRead, ErrorKind, Read};

use super::decode::{Decoded, Fault, Limits, Pixels, buffer};

/// What the headers say.
struct Header {
    width: usize,
    height: usize,
    top_down: bool,
    bits: usize,
    coding: u32,
    /// Of red, green, blue and alpha; 0 for none.
    masks: [u32; 4],
    palette: Vec<[u8; 3]>,
}

const PLAIN: u32 = 0;
const RUNS_OF_8: u32 = 1;
const RUNS_OF_4: u32 = 2;
const MASKS: u32 = 3;
const MASKS_WITH_ALPHA: u32 = 6;

pub fn decode(mut input: impl BufRead, limits: &Limits) -> Result<Decoded, Fault> {
    let header = header(&mut input)?;
    let (width, height) = (header.width, header.height);
    let _memory = limits.picture(width, height, 4)?;
    let with_alpha = header.masks[3] != 0;
    let channels = if with_alpha { 4 } else { 3 };
    let mut pixels = buffer((width * height).checked_mul(channels))?;
    let place = |line: usize| if header.top_down { line } else { height - 1 - line };
    if matches!(header.coding, RUNS_OF_8 | RUNS_OF_4) {
        let indices = runs(&mut input, &header)?;
        for (line, indices) in indices.chunks_exact(width).enumerate() {
            let out = &mut pixels[place(line) * width * 3..][..width * 3];
            out.as_chunks_mut::<3>()
                .0
                .iter_mut()
                .zip(indices)
                .for_each(|(rgb, i)| *rgb = header.colour(usize::from(*i)));
        }
    } else {
        // The bytes that fill the last line up to a multiple of four may be missing.
        let (used, stride) = ((header.bits * width).div_ceil(8), (header.bits * width).div_ceil(32) * 4);
        let mut bytes = vec![0; stride];
        for line in 0..height {
            let len = if line + 1 == height { used } else { stride };
            exact(&mut input, &mut bytes[..len])?;
            header.line(&bytes, &mut pixels[place(line) * width * channels..][..width * channels]);
        }
    }
    if with_alpha && pixels.iter().skip(3).step_by(4).all(|alpha| *alpha == 0) {
        // A program that wrote no alpha: the picture is not wholly transparent.
        pixels.iter_mut().skip(3).step_by(4).for_each(|alpha| *alpha = 255);
    }
    let pixels = if with_alpha { Pixels::Rgba(pixels) } else { Pixels::Rgb(pixels) };
    Ok(Decoded { width, height, pixels, orientation: 1, deep: None })
}

fn exact(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), Fault> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => "cut off: the file ends before its picture does".to_string().into(),
        _ => error.to_string().into(),
    })
}

fn header(input: &mut impl Read) -> Result<Header, Fault> {
    let mut file = [0; 18];
    exact(input, &mut file)?;
    let long = |bytes: &[u8], at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let short = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (start, size) = (long(&file, 10) as usize, long(&file, 14) as usize);
    if !(12..=1024).contains(&size) || start > 1 << 20 {
        return Err(format!("damaged: a header of {size} bytes, pixels from byte {start} on").into());
    }
    let mut info = vec![0; size - 4];
    exact(input, &mut info)?;
    let old = size < 16;
    // What an older, shorter header does not have is 0.
    info.resize(info.len().max(120), 0);
    let (width, height, bits) = if old {
        (i32::from(short(&info, 0)), i32::from(short(&info, 2)), short(&info, 6))
    } else {
        (long(&info, 0) as i32, long(&info, 4) as i32, short(&info, 10))
    };
    let (bits, coding) = (usize::from(bits), if old { PLAIN } else { long(&info, 12) });
    let known = match coding {
        PLAIN => matches!(bits, 1 | 2 | 4 | 8 | 16 | 24 | 32),
        RUNS_OF_8 => bits == 8,
        RUNS_OF_4 => bits == 4,
        MASKS | MASKS_WITH_ALPHA => matches!(bits, 16 | 32),
        _ => false,
    };
    if !known || width <= 0 || height == 0 || height == i32::MIN {
        return Err(format!("{width} x {height} pixels of {bits} bits in coding {coding}, which is not read").into());
    }
    let mut at = 14 + size;
    let mut masks = match bits {
        16 => [0x7c00, 0x03e0, 0x001f, 0],
        _ => [0xff_0000, 0xff00, 0xff, 0],
    };
    if matches!(coding, MASKS | MASKS_WITH_ALPHA) {
        let mut after = [0; 16];
        let count = if coding == MASKS { 3 } else { 4 };
        let inside = size >= 52;
        if !inside {
            exact(input, &mut after[..4 * count])?;
            at += 4 * count;
        }
        let bytes = if inside { &info[36..52] } else { &after[..] };
        masks = [0, 4, 8, 12].map(|i| long(bytes, i));
        if inside && size < 56 {
            masks[3] = 0;
        }
    }
    let mut palette = Vec::new();
    if bits <= 8 {
        let (entry, said) = (if old { 3 } else { 4 }, if old { 0 } else { long(&info, 28) as usize });
        let count = if said == 0 || said > 1 << bits { 1 << bits } else { said };
        let count = count.min(start.saturating_sub(at) / entry);
        let mut bytes = vec![0; count * entry];
        exact(input, &mut bytes)?;
        at += bytes.len();
        palette.extend(bytes.chunks_exact(entry).map(|bgr| [bgr[2], bgr[1], bgr[0]]));
    }
    exact(input, &mut vec![0; start.saturating_sub(at)])?;
    let (width, top_down, height) = (width as usize, height < 0, height.unsigned_abs() as usize);
    Ok(Header { width, height, top_down, bits, coding, masks, palette })
}

impl Header {
    /// A colour of the palette; black for one that it does not have.
    fn colour(&self, index: usize) -> [u8; 3] {
        self.palette.get(index).copied().unwrap_or_default()
    }

    /// Turns a line of the file into pixels.
    fn line(&self, bytes: &[u8], out: &mut [u8]) {
        let channels = out.len() / self.width;
        for (x, pixel) in out.chunks_exact_mut(channels).enumerate() {
            if self.bits <= 8 {
                let at = x * self.bits;
                let index = bytes[at / 8] >> (8 - self.bits - at % 8);
                pixel.copy_from_slice(&self.colour(usize::from(index) & ((1 << self.bits) - 1)));
                continue;
            }
            let each = self.bits / 8;
            let value = bytes[x * each..][..each].iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
            for (out, mask) in pixel.iter_mut().zip(self.masks) {
                let most = u64::from(mask.checked_shr(mask.trailing_zeros()).unwrap_or(0)).max(1);
                let part = u64::from((value & mask).checked_shr(mask.trailing_zeros()).unwrap_or(0));
                *out = (part * 255 / most) as u8;
            }
        }
    }
}

/// The indices of a run-length coded picture, from its first line in the file on.
fn runs(input: &mut impl Read, header: &Header) -> Result<Vec<u8>, Fault> {
    let (width, height, half) = (header.width, header.height, header.coding == RUNS_OF_4);
    let mut indices = buffer(Some(width * height))?;
    let (mut x, mut y) = (0, 0);
    let mut put = |x: &mut usize, y: usize, index: u8| {
        if *x < width && y < height {
            indices[y * width + *x] = index;
        }
        *x += 1;
    };
    while y < height {
        let mut pair = [0; 2];
        exact(input, &mut pair)?;
        match pair {
            [0, 0] => (x, y) = (0, y + 1),
            [0, 1] => break,
            [0, 2] => {
                exact(input, &mut pair)?;
                (x, y) = (x + usize::from(pair[0]), y + usize::from(pair[1]));
            }
            [0, count] => {
                // Indices one by one, filled up to an even number of bytes.
                let bytes = if half { usize::from(count).div_ceil(2) } else { usize::from(count) };
                let mut literal = vec![0; bytes.next_multiple_of(2)];
                exact(input, &mut literal)?;
                for i in 0..usize::from(count) {
                    let index = if half { literal[i / 2] >> (4 - i % 2 * 4) & 15 } else { literal[i] };
                    put(&mut x, y, index);
                }
            }
            [count, value] => {
                for i in 0..usize::from(count) {
                    put(&mut x, y, if half { value >> (4 - i % 2 * 4) & 15 } else { value });
                }
            }
        }
    }
    Ok(indices)
}
