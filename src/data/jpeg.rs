//! JPEG files. The decoder gets a stream that has only what it needs, which [`clean`] makes: so the quirks of cameras and
//! programs (stray bytes between segments, metadata that are damaged, frames of a webcam without Huffman tables) stop
//! nothing, and a file that was cut off is told from a whole one.

use std::io::{BufRead, ErrorKind, Read};

use jpeg_decoder::{Decoder, PixelFormat};

use super::decode::{Decoded, Fault, Limits, Pixels, Reserved};
use super::exif;

const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;

/// The parts of a file that its picture follows from.
struct Clean {
    /// A JPEG stream.
    bytes: Vec<u8>,
    orientation: u8,
}

/// What a frame's header says of the picture.
struct Frame<'a> {
    width: usize,
    height: usize,
    /// Bytes that the data of its scans can have at most.
    most: usize,
    _memory: Reserved<'a>,
}

pub fn decode(input: impl BufRead, limits: &Limits) -> Result<Decoded, Fault> {
    let (Clean { bytes, orientation }, frame) = clean(input, limits)?;
    let (width, height) = (frame.width, frame.height);
    let mut decoder = Decoder::new(bytes.as_slice());
    let pixels = on_this_thread(|| decoder.decode())?.map_err(|e| e.to_string())?;
    let pixels = match decoder.info().map(|info| info.pixel_format) {
        Some(PixelFormat::L8) => Pixels::Grey(pixels),
        Some(PixelFormat::RGB24) => Pixels::Rgb(pixels),
        Some(PixelFormat::CMYK32) => Pixels::Rgb(from_inks(pixels)),
        _ => return Err("a lossless JPEG of more than 8 bits a sample, which is not read".to_string().into()),
    };
    Ok(Decoded { width, height, pixels, orientation, deep: None })
}

/// The decoder would start threads of its own; in a pool that is this thread alone, it starts none.
fn on_this_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Fault> {
    thread_local! {
        static POOL: Result<rayon::ThreadPool, String> = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .use_current_thread()
            .build()
            .map_err(|e| e.to_string());
    }
    POOL.with(|pool| match pool {
        Ok(pool) => Ok(pool.install(work)),
        Err(what) => Err(Fault::Machine(format!("a thread that decodes JPEG files: {what}"))),
    })
}

/// What four inks leave of white light.
fn from_inks(mut pixels: Vec<u8>) -> Vec<u8> {
    let count = pixels.len() / 4;
    for i in 0..count {
        let key = 255 - u32::from(pixels[4 * i + 3]);
        for c in 0..3 {
            pixels[3 * i + c] = (((255 - u32::from(pixels[4 * i + c])) * key + 127) / 255) as u8;
        }
    }
    pixels.truncate(3 * count);
    pixels
}

/// Reads the segments of a file, to its end marker.
struct Walk<R> {
    input: R,
    read: usize,
}

impl<R: BufRead> Walk<R> {
    fn ended(&self, within: &str) -> Fault {
        format!("cut off: the file ends after {} bytes, {within}", self.read).into()
    }

    fn failed(&self, error: std::io::Error, within: &str) -> Fault {
        if error.kind() == ErrorKind::UnexpectedEof { self.ended(within) } else { error.to_string().into() }
    }

    /// The next marker; what stands before it is skipped.
    fn marker(&mut self, within: &str) -> Result<u8, Fault> {
        let mut byte = [0];
        let mut prefix = false;
        loop {
            self.input.read_exact(&mut byte).map_err(|e| self.failed(e, within))?;
            self.read += 1;
            match byte[0] {
                0xff => prefix = true,
                0 => prefix = false,
                marker if prefix => return Ok(marker),
                _ => {}
            }
        }
    }

    /// What follows a marker, without the length that it begins with.
    fn segment(&mut self) -> Result<Vec<u8>, Fault> {
        let within = "in its header";
        let mut len = [0; 2];
        self.input.read_exact(&mut len).map_err(|e| self.failed(e, within))?;
        let len = u16::from_be_bytes(len);
        self.read += 2;
        let Some(rest) = len.checked_sub(2) else {
            return Err(format!("damaged: a segment of {len} bytes at byte {}", self.read - 2).into());
        };
        let mut segment = vec![0; usize::from(rest)];
        self.input.read_exact(&mut segment).map_err(|e| self.failed(e, within))?;
        self.read += segment.len();
        Ok(segment)
    }

    /// Appends the data of a scan to `out`, which may grow to `most` bytes, and gives the marker behind it.
    fn scan(&mut self, out: &mut Vec<u8>, most: usize) -> Result<u8, Fault> {
        let within = "in the picture, whose end marker is missing";
        loop {
            let room = most.saturating_sub(out.len()) as u64;
            self.read += self.input.by_ref().take(room).read_until(0xff, out).map_err(|e| self.failed(e, within))?;
            if out.len() >= most {
                return Err(format!("damaged: more than {most} bytes for so few pixels").into());
            }
            if out.last() != Some(&0xff) {
                return Err(self.ended(within));
            }
            let mut byte = [0xff];
            while byte[0] == 0xff {
                self.input.read_exact(&mut byte).map_err(|e| self.failed(e, within))?;
                self.read += 1;
            }
            // A zero makes 0xff a byte of data; restart markers belong to the data as well.
            if !matches!(byte[0], 0 | 0xd0..=0xd7) {
                out.pop();
                return Ok(byte[0]);
            }
            out.push(byte[0]);
        }
    }
}

fn clean<'a>(input: impl BufRead, limits: &'a Limits) -> Result<(Clean, Frame<'a>), Fault> {
    let mut walk = Walk { input, read: 0 };
    let mut out = vec![0xff, 0xd8];
    // The decoder takes the usual Huffman tables for those that are missing when this segment is there.
    out.extend(*b"\xff\xe0\0\x10AVI1\0\0\0\0\0\0\0\0\0\0");
    let (mut orientation, mut frame, mut scans) = (1, None, 0);
    let mut next = None;
    loop {
        let within = if scans == 0 { "in its header" } else { "before its end marker" };
        let marker = match next.take() {
            Some(marker) => marker,
            None => walk.marker(within)?,
        };
        let wanted = match marker {
            EOI if scans == 0 => return Err("there is no picture in it".to_string().into()),
            EOI => break,
            // Markers without a segment, and bytes that are no marker.
            0x01..=0xbf | 0xd0..=0xd8 => continue,
            // Tables, frames and scans.
            0xc0..=0xcf | SOS..=0xdf => true,
            _ => false,
        };
        let segment = walk.segment()?;
        match marker {
            0xe1 if segment.starts_with(b"Exif\0\0") && orientation == 1 => {
                orientation = exif::orientation(&segment[6..]);
            }
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) && segment.len() >= 6 && frame.is_none() => {
                let number = |at: usize| usize::from(u16::from_be_bytes([segment[at], segment[at + 1]]));
                let (width, height, components) = (number(3), number(1), usize::from(segment[5]).clamp(1, 4));
                // Planes and pixels, a byte each, of progressive files two more bytes for each coefficient; and the file.
                let memory = limits.picture(width, height, 4 * components + 2)?;
                let most = (width * height).saturating_mul(2 * components).saturating_add(1 << 20);
                frame = Some(Frame { width, height, most, _memory: memory });
            }
            _ => {}
        }
        let names_colours = match marker {
            0xe0 => segment.starts_with(b"JFIF\0") && segment.len() >= 14,
            0xee => segment.starts_with(b"Adobe") && segment.len() >= 12,
            _ => false,
        };
        if wanted || names_colours {
            out.extend([0xff, marker]);
            out.extend((segment.len() as u16 + 2).to_be_bytes());
            out.extend(&segment);
        }
        if marker == SOS {
            scans += 1;
            let frame = frame.as_ref().ok_or_else(|| Fault::from("a scan before its frame".to_string()))?;
            next = Some(walk.scan(&mut out, frame.most)?);
            // Ones are what a scan is filled up with, and no Huffman code: a decoder that needs more data than there are
            // meets an error here. By itself it would take zeros, and draw a grey half.
            out.extend([0xff, 0].repeat(8));
        }
    }
    out.extend([0xff, EOI]);
    let frame = frame.ok_or_else(|| Fault::from("there is no frame in it".to_string()))?;
    Ok((Clean { bytes: out, orientation }, frame))
}
