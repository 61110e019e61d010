//! Files of pictures to images of one size: PNG, JPEG, GIF (its first frame), BMP and WebP, told apart by their first bytes.
//! What is transparent shows white; EXIF's orientation is applied. The largest part of the picture that has the wanted
//! proportions is cut out of its middle and scaled with a triangle filter that covers every pixel (what PIL calls bilinear).

use std::io::{BufRead, Cursor, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, PoisonError};

use super::{ImageShape, bmp, exif, jpeg};
use crate::sizes::filled;

/// The usual limit of pixels, 2^27: 3 bytes a pixel are 384 MiB.
pub const MAX_PIXELS: usize = 1 << 27;
const MAX_SIDE: usize = 1 << 16;
/// Pictures are decoded at the same time as long as they need no more than this together.
const MEMORY: usize = 1 << 30;

/// Why there is no picture.
#[derive(Debug)]
pub enum Fault {
    /// Something is wrong with the file, or it is not read.
    Picture(String),
    /// The machine has too little of something; the file may be a good one.
    Machine(String),
}

impl From<String> for Fault {
    fn from(what: String) -> Fault {
        Fault::Picture(what)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Fault::Picture(what) | Fault::Machine(what)) = self;
        f.write_str(what)
    }
}

/// What decoders may take, shared by all threads that decode.
pub struct Limits {
    /// Pixels of a picture; a file that claims more is refused before anything is allocated.
    pub max_pixels: usize,
    /// Bits of 16-bit samples that are used, 1 to 16.
    pub depth: u32,
    /// Bytes that are in use now.
    used: Mutex<usize>,
    freed: Condvar,
}

impl Limits {
    pub fn new(max_pixels: usize, depth: u32) -> Limits {
        Limits { max_pixels, depth, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// Checks the size of a picture, and waits until there is room to decode it, at so many `bytes` a pixel.
    pub(super) fn picture(&self, width: usize, height: usize, bytes: usize) -> Result<Reserved<'_>, Fault> {
        let pixels = width.saturating_mul(height);
        if pixels == 0 || width > MAX_SIDE || height > MAX_SIDE {
            return Err(format!("{width} x {height} pixels, expected sides of 1 to {MAX_SIDE}").into());
        }
        if pixels > self.max_pixels {
            return Err(format!("{width} x {height} pixels, more than --max-pixels {}", self.max_pixels).into());
        }
        let bytes = pixels.saturating_mul(bytes);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        // A picture that is larger than all the room is decoded alone. Decoders end the program where they get no memory,
        // so it is asked for here first, together with what others may not have allocated yet.
        while *used > 0 && used.saturating_add(bytes) > MEMORY || !Limits::is_there(used.saturating_add(bytes)) {
            if *used == 0 {
                let need = bytes.div_ceil(1 << 20);
                return Err(Fault::Machine(format!(
                    "{width} x {height} pixels need {need} MiB to decode, more than there is; a smaller --max-pixels \
                     refuses such a picture"
                )));
            }
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Ok(Reserved { limits: self, bytes })
    }

    fn is_there(bytes: usize) -> bool {
        Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
    }
}

/// Room that a decoder has until this is dropped.
pub(super) struct Reserved<'a> {
    limits: &'a Limits,
    bytes: usize,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        *self.limits.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.limits.freed.notify_all();
    }
}

/// (H, W) pixels, with the channels of their name.
pub(super) enum Pixels {
    Grey(Vec<u8>),
    GreyAlpha(Vec<u8>),
    Rgb(Vec<u8>),
    Rgba(Vec<u8>),
}

pub(super) struct Decoded {
    pub width: usize,
    pub height: usize,
    pub pixels: Pixels,
    /// EXIF's, 1 to 8.
    pub orientation: u8,
    /// The largest sample, where samples have 16 bits.
    pub deep: Option<u16>,
}

/// As [`read`] with the usual limits, for a file that holds `bytes`.
pub fn image(bytes: &[u8], shape: ImageShape, out: &mut [u8]) -> Result<(), String> {
    read(Cursor::new(bytes), shape, &Limits::new(MAX_PIXELS, 16), out).map(|_| ()).map_err(|fault| fault.to_string())
}

/// Reads the file `input` into `out` (H, W, C). Gives the largest sample of a picture whose samples have 16 bits.
pub fn read(
    input: impl BufRead + Seek,
    shape: ImageShape,
    limits: &Limits,
    out: &mut [u8],
) -> Result<Option<u16>, Fault> {
    let decoded = checked(input, limits)?;
    scale_and_turn(&decoded, shape, out)?;
    Ok(decoded.deep)
}

/// Reads the file `input` as it is, with so many channels, 1 or 3.
pub fn whole(input: impl BufRead + Seek, channels: usize, limits: &Limits) -> Result<(ImageShape, Vec<u8>), Fault> {
    let decoded = checked(input, limits)?;
    let (height, width) = (decoded.height, decoded.width);
    let turned = decoded.orientation > 4;
    let (height, width) = if turned { (width, height) } else { (height, width) };
    let shape = ImageShape { height, width, channels };
    let mut out = buffer(Some(shape.len()))?;
    scale_and_turn(&decoded, shape, &mut out)?;
    Ok((shape, out))
}

fn checked(input: impl BufRead + Seek, limits: &Limits) -> Result<Decoded, Fault> {
    // Decoders are others' work, and files can be anything. A panic in one is an error of that file.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode(input, limits)))
        .unwrap_or_else(|_| Err("its decoder failed (it panicked)".to_string().into()))?;
    let (expected, found) = (decoded.width * decoded.height * decoded.pixels.channels(), decoded.pixels.bytes().len());
    if found != expected {
        return Err(format!("{found} bytes where {} x {} pixels have {expected}", decoded.width, decoded.height).into());
    }
    Ok(decoded)
}

fn decode(mut input: impl BufRead + Seek, limits: &Limits) -> Result<Decoded, Fault> {
    let start = input.fill_buf().map_err(|e| e.to_string())?;
    let is = |magic: &[u8]| start.starts_with(magic);
    if is(b"\x89PNG") {
        png(input, limits)
    } else if is(&[0xff, 0xd8]) {
        jpeg::decode(input, limits)
    } else if is(b"GIF8") {
        gif(input, limits)
    } else if is(b"BM") {
        bmp::decode(input, limits)
    } else if is(b"RIFF") && start.get(8..12) == Some(b"WEBP") {
        webp(input, limits)
    } else if start.is_empty() {
        Err("the file is empty".to_string().into())
    } else {
        let shown = &start[..start.len().min(4)];
        Err(format!("neither PNG nor JPEG, GIF, BMP or WebP: it begins with {shown:02x?}").into())
    }
}

/// An error of a decoder.
fn fault(error: impl std::fmt::Display) -> Fault {
    Fault::Picture(error.to_string())
}

/// Room for decoded pixels, which [`Limits::picture`] has made sure of.
pub(super) fn buffer(len: Option<usize>) -> Result<Vec<u8>, Fault> {
    let pixels = len.and_then(|len| filled("pixels", len, 0).ok());
    pixels.ok_or(Fault::Machine("more pixels than memory holds".into()))
}

fn png(input: impl BufRead + Seek, limits: &Limits) -> Result<Decoded, Fault> {
    let mut decoder = png::Decoder::new(input);
    decoder.set_transformations(png::Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(fault)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let (colour, depth) = reader.output_color_type();
    let deep = depth == png::BitDepth::Sixteen;
    let _memory = limits.picture(width, height, colour.samples() * if deep { 2 } else { 1 })?;
    let mut pixels = buffer(reader.output_buffer_size())?;
    let info = reader.next_frame(&mut pixels).map_err(fault)?;
    // Read on to the end, where the last checksums are.
    reader.finish().map_err(fault)?;
    pixels.truncate(info.buffer_size());
    let deep = deep.then(|| to_bytes(&mut pixels, limits.depth));
    let pixels = match colour {
        png::ColorType::Grayscale => Pixels::Grey(pixels),
        png::ColorType::Rgb => Pixels::Rgb(pixels),
        png::ColorType::GrayscaleAlpha => Pixels::GreyAlpha(pixels),
        png::ColorType::Rgba => Pixels::Rgba(pixels),
        png::ColorType::Indexed => return Err(fault("a palette that was not expanded")),
    };
    let orientation = reader.info().exif_metadata.as_ref().map_or(1, |exif| exif::orientation(exif));
    Ok(Decoded { width, height, pixels, orientation, deep })
}

/// Scales big-endian samples of 16 bits, of which `depth` are used, to bytes. Gives the largest sample.
fn to_bytes(pixels: &mut Vec<u8>, depth: u32) -> u16 {
    let (most, mut largest) = ((1u32 << depth) - 1, 0);
    for i in 0..pixels.len() / 2 {
        let sample = u16::from_be_bytes([pixels[2 * i], pixels[2 * i + 1]]);
        largest = largest.max(sample);
        pixels[i] = ((u32::from(sample) * 255 + most / 2) / most).min(255) as u8;
    }
    pixels.truncate(pixels.len() / 2);
    largest
}

/// The first frame, at its place on the canvas.
fn gif(input: impl BufRead, limits: &Limits) -> Result<Decoded, Fault> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    let most = NonZeroU64::new(4 * limits.max_pixels as u64).unwrap_or(NonZeroU64::MAX);
    options.set_memory_limit(gif::MemoryLimit::Bytes(most));
    let mut decoder = options.read_info(input).map_err(fault)?;
    let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let _memory = limits.picture(width, height, 8)?;
    let mut pixels = buffer((width * height).checked_mul(4))?;
    let frame = decoder.read_next_frame().map_err(fault)?.ok_or_else(|| fault("there is no frame in it"))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (across, wide) = (usize::from(frame.width).min(width.saturating_sub(left)), usize::from(frame.width).max(1));
    for (y, line) in
        frame.buffer.chunks_exact(4 * wide).enumerate().take(if across > 0 { height.saturating_sub(top) } else { 0 })
    {
        pixels[4 * ((top + y) * width + left)..][..4 * across].copy_from_slice(&line[..4 * across]);
    }
    // Another frame, or the end marker.
    decoder.next_frame_info().map_err(fault)?;
    Ok(Decoded { width, height, pixels: Pixels::Rgba(pixels), orientation: 1, deep: None })
}

fn webp(mut input: impl BufRead + Seek, limits: &Limits) -> Result<Decoded, Fault> {
    // The decoder would take zeros for what was cut off, but the file begins with its own length.
    let mut start = [0; 8];
    input.read_exact(&mut start).map_err(fault)?;
    let said = 8 + u64::from(u32::from_le_bytes([start[4], start[5], start[6], start[7]]));
    let len = input.seek(SeekFrom::End(0)).map_err(fault)?;
    if len < said {
        return Err(format!("cut off: the file ends after {len} bytes of {said}").into());
    }
    input.rewind().map_err(fault)?;
    let mut decoder = image_webp::WebPDecoder::new(input).map_err(fault)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    let _memory = limits.picture(width, height, 12)?;
    let mut pixels = buffer(decoder.output_buffer_size())?;
    decoder.read_image(&mut pixels).map_err(fault)?;
    let pixels = if decoder.has_alpha() { Pixels::Rgba(pixels) } else { Pixels::Rgb(pixels) };
    let orientation = decoder.exif_metadata().ok().flatten().map_or(1, |exif| exif::orientation(&exif));
    Ok(Decoded { width, height, pixels, orientation, deep: None })
}

impl Pixels {
    fn channels(&self) -> usize {
        match self {
            Pixels::Grey(_) => 1,
            Pixels::GreyAlpha(_) => 2,
            Pixels::Rgb(_) => 3,
            Pixels::Rgba(_) => 4,
        }
    }

    fn bytes(&self) -> &[u8] {
        let (Pixels::Grey(bytes) | Pixels::GreyAlpha(bytes) | Pixels::Rgb(bytes) | Pixels::Rgba(bytes)) = self;
        bytes
    }
}

/// A line of `from` with 1 or 3 channels, in `out`.
fn convert_line(from: &Pixels, at: usize, width: usize, channels: usize, out: &mut [u8]) {
    let source = &from.bytes()[at * width * from.channels()..][..width * from.channels()];
    // What is transparent shows a white background.
    let blend = |value: u8, alpha: u8| {
        let alpha = u32::from(alpha);
        ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let mut put = |i: usize, [r, g, b]: [u8; 3]| match channels {
        1 => out[i] = luma(r, g, b),
        _ => out[3 * i..][..3].copy_from_slice(&[r, g, b]),
    };
    match from {
        Pixels::Grey(_) => source.iter().enumerate().for_each(|(i, grey)| put(i, [*grey; 3])),
        Pixels::GreyAlpha(_) => {
            source.as_chunks::<2>().0.iter().enumerate().for_each(|(i, [grey, a])| put(i, [blend(*grey, *a); 3]));
        }
        Pixels::Rgb(_) => source.as_chunks::<3>().0.iter().enumerate().for_each(|(i, rgb)| put(i, *rgb)),
        Pixels::Rgba(_) => {
            let opaque = |[r, g, b, a]: &[u8; 4]| [*r, *g, *b].map(|value| blend(value, *a));
            source.as_chunks::<4>().0.iter().enumerate().for_each(|(i, rgba)| put(i, opaque(rgba)));
        }
    }
}

/// Luma of ITU-R BT.601, in 16 bits. A grey stays as it is.
fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
}

/// For one output pixel: the first source pixel that it depends on, and the weights of the pixels from there on.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// The triangle filter that scales a stretch of `length` pixels, from `start` on, to `out` pixels. There are `available`
/// pixels to read.
fn taps(start: f64, length: f64, available: usize, out: usize) -> Vec<Taps> {
    let scale = length / out as f64;
    let support = scale.max(1.0);
    let tap = |i: usize| {
        let centre = start + (i as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(available).max(first + 1);
        let weight = |x: usize| (1.0 - ((x as f64 + 0.5 - centre) / support).abs()).max(0.0);
        let sum: f64 = (first..end).map(weight).sum();
        Taps { first, weights: (first..end).map(|x| (weight(x) / sum) as f32).collect() }
    };
    (0..out).map(tap).collect()
}

fn scale_and_turn(from: &Decoded, shape: ImageShape, out: &mut [u8]) -> Result<(), Fault> {
    if from.orientation == 1 {
        return crop_and_scale(from, shape, out);
    }
    // The part in the middle is the middle of the turned picture as well, so the small image is turned.
    let turned = from.orientation > 4;
    let (h, w) = if turned { (shape.width, shape.height) } else { (shape.height, shape.width) };
    let mut upright = buffer(Some(shape.len()))?;
    crop_and_scale(from, ImageShape { height: h, width: w, ..shape }, &mut upright)?;
    for (i, pixel) in out.chunks_exact_mut(shape.channels).enumerate() {
        let (y, x) = (i / shape.width, i % shape.width);
        let (y, x) = match from.orientation {
            2 => (y, w - 1 - x),
            3 => (h - 1 - y, w - 1 - x),
            4 => (h - 1 - y, x),
            5 => (x, y),
            6 => (h - 1 - x, y),
            7 => (h - 1 - x, w - 1 - y),
            8 => (x, w - 1 - y),
            _ => (y, x),
        };
        pixel.copy_from_slice(&upright[(y * w + x) * shape.channels..][..shape.channels]);
    }
    Ok(())
}

fn crop_and_scale(from: &Decoded, shape: ImageShape, out: &mut [u8]) -> Result<(), Fault> {
    let (width, height, channels) = (from.width, from.height, shape.channels);
    // The largest part of the wanted proportions, in the middle.
    let zoom = (width as f64 / shape.width as f64).min(height as f64 / shape.height as f64);
    let (w, h) = (shape.width as f64 * zoom, shape.height as f64 * zoom);
    let across = taps((width as f64 - w) / 2.0, w, width, shape.width);
    let down = taps((height as f64 - h) / 2.0, h, height, shape.height);

    // Line by line of the picture: scaled along the line, then added to all lines of the image that depend on it.
    let len = shape.width * channels;
    let sums = filled("an image", shape.len(), 0.0f32);
    let mut sums = sums.map_err(|_| Fault::Machine(format!("an image of {shape} needs more memory than there is")))?;
    let (mut source, mut narrow) = (vec![0; width * channels], vec![0.0f32; len]);
    let top = down.first().map_or(0, |taps| taps.first);
    let bottom = down.iter().map(|taps| taps.first + taps.weights.len()).max().unwrap_or(0);
    let mut first = 0;
    for y in top..bottom {
        convert_line(&from.pixels, y, width, channels, &mut source);
        narrow.fill(0.0);
        for (pixel, taps) in narrow.chunks_exact_mut(channels).zip(&across) {
            for (weight, source) in taps.weights.iter().zip(source[taps.first * channels..].chunks_exact(channels)) {
                for (sum, value) in pixel.iter_mut().zip(source) {
                    *sum += weight * f32::from(*value);
                }
            }
        }
        while first < down.len() && down[first].first + down[first].weights.len() <= y {
            first += 1;
        }
        for (taps, sums) in down.iter().zip(sums.chunks_exact_mut(len)).skip(first).take_while(|(t, _)| t.first <= y) {
            if let Some(weight) = taps.weights.get(y - taps.first) {
                sums.iter_mut().zip(&narrow).for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }
    out.iter_mut().zip(&sums).for_each(|(byte, sum)| *byte = (sum + 0.5) as u8);
    Ok(())
}
