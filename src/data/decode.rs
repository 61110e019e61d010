//! PNG and JPEG files to images of one size. The largest part of the picture that has the wanted proportions is cut out of
//! its middle and scaled with a triangle filter that covers every pixel (what PIL calls bilinear).

use std::path::Path;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::ImageShape;

/// A file that claims more pixels than this is taken for damaged before anything is allocated.
const MAX_PIXELS: usize = 1 << 28;
const MAX_SIDE: usize = 1 << 16;

/// Decoded, (H, W, C) with C 1 or 3.
struct Decoded {
    shape: ImageShape,
    pixels: Vec<u8>,
}

/// Reads the file at `path` into `out` (H, W, C). The error says what is wrong with it.
pub fn file(path: &Path, shape: ImageShape, out: &mut [u8]) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    image(&bytes, shape, out)
}

/// As [`file`], for a file that holds `bytes`.
pub fn image(bytes: &[u8], shape: ImageShape, out: &mut [u8]) -> Result<(), String> {
    let decoded = if bytes.starts_with(b"\x89PNG") {
        png(bytes)?
    } else if bytes.starts_with(&[0xff, 0xd8]) {
        jpeg(bytes)?
    } else {
        return Err(format!("neither PNG nor JPEG: it begins with {:02x?}", &bytes[..bytes.len().min(4)]));
    };
    crop_and_scale(&with_channels(decoded, shape.channels), shape, out);
    Ok(())
}

fn check_size(width: usize, height: usize) -> Result<(), String> {
    if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS {
        return Err(format!("{width} x {height} pixels, expected 1 to {MAX_PIXELS}"));
    }
    Ok(())
}

fn png(bytes: &[u8]) -> Result<Decoded, String> {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(|e| e.to_string())?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check_size(width, height)?;
    let size = reader.output_buffer_size().ok_or("more pixels than memory holds")?;
    let mut pixels = vec![0; size];
    let info = reader.next_frame(&mut pixels).map_err(|e| e.to_string())?;
    // Read on to the end, where the last checksums are.
    reader.finish().map_err(|e| e.to_string())?;
    pixels.truncate(info.buffer_size());
    let shape = |channels| ImageShape { height, width, channels };
    match info.color_type {
        png::ColorType::Grayscale => Ok(Decoded { shape: shape(1), pixels }),
        png::ColorType::Rgb => Ok(Decoded { shape: shape(3), pixels }),
        png::ColorType::GrayscaleAlpha => Ok(Decoded { shape: shape(1), pixels: on_white::<2>(&pixels) }),
        png::ColorType::Rgba => Ok(Decoded { shape: shape(3), pixels: on_white::<4>(&pixels) }),
        png::ColorType::Indexed => Err("a palette that was not expanded".into()),
    }
}

/// What is transparent shows a white background.
fn on_white<const C: usize>(pixels: &[u8]) -> Vec<u8> {
    let mut opaque = Vec::with_capacity(pixels.len() / C * (C - 1));
    for pixel in pixels.as_chunks::<C>().0 {
        let alpha = u32::from(pixel[C - 1]);
        let blend = |value: &u8| ((u32::from(*value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        opaque.extend(pixel[..C - 1].iter().map(blend));
    }
    opaque
}

fn jpeg(bytes: &[u8]) -> Result<Decoded, String> {
    // Strict: a file that was cut off is an error, not a picture with a grey half.
    let options = DecoderOptions::default().set_strict_mode(true).set_max_width(MAX_SIDE).set_max_height(MAX_SIDE);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| e.to_string())?;
    let info = decoder.info().ok_or("it has no header")?;
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    check_size(width, height)?;
    let (space, channels) = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => (ColorSpace::Luma, 1),
        _ => (ColorSpace::RGB, 3),
    };
    decoder.set_options(options.jpeg_set_out_colorspace(space));
    let pixels = decoder.decode().map_err(|e| e.to_string())?;
    let shape = ImageShape { height, width, channels };
    if pixels.len() != shape.len() {
        return Err(format!("{} bytes where {shape} has {}", pixels.len(), shape.len()));
    }
    Ok(Decoded { shape, pixels })
}

fn with_channels(decoded: Decoded, channels: usize) -> Decoded {
    let shape = ImageShape { channels, ..decoded.shape };
    let pixels = match (decoded.shape.channels, channels) {
        (1, 3) => decoded.pixels.iter().flat_map(|grey| [*grey; 3]).collect(),
        // Luma of ITU-R BT.601, in 16 bits.
        (3, 1) => {
            let luma = |p: &[u8; 3]| {
                (u32::from(p[0]) * 19_595 + u32::from(p[1]) * 38_470 + u32::from(p[2]) * 7_471 + 0x8000) >> 16
            };
            decoded.pixels.as_chunks::<3>().0.iter().map(|p| luma(p) as u8).collect()
        }
        _ => decoded.pixels,
    };
    Decoded { shape, pixels }
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

fn crop_and_scale(from: &Decoded, shape: ImageShape, out: &mut [u8]) {
    let (width, height, channels) = (from.shape.width, from.shape.height, shape.channels);
    // The largest part of the wanted proportions, in the middle.
    let zoom = (width as f64 / shape.width as f64).min(height as f64 / shape.height as f64);
    let (w, h) = (shape.width as f64 * zoom, shape.height as f64 * zoom);
    let across = taps((width as f64 - w) / 2.0, w, width, shape.width);
    let down = taps((height as f64 - h) / 2.0, h, height, shape.height);

    // First along the rows, of those lines alone that the second pass, along the columns, will read.
    let top = down.first().map_or(0, |t| t.first);
    let bottom = down.last().map_or(0, |t| t.first + t.weights.len());
    let mut narrow = vec![0.0f32; (bottom - top) * shape.width * channels];
    for (y, line) in narrow.chunks_exact_mut(shape.width * channels).enumerate() {
        let source = &from.pixels[(top + y) * width * channels..][..width * channels];
        for (pixel, taps) in line.chunks_exact_mut(channels).zip(&across) {
            for (weight, source) in taps.weights.iter().zip(source[taps.first * channels..].chunks_exact(channels)) {
                for (sum, value) in pixel.iter_mut().zip(source) {
                    *sum += weight * f32::from(*value);
                }
            }
        }
    }
    let mut sums = vec![0.0f32; shape.width * channels];
    for (line, taps) in out.chunks_exact_mut(shape.width * channels).zip(&down) {
        sums.fill(0.0);
        for (weight, source) in taps.weights.iter().zip(narrow[(taps.first - top) * sums.len()..].chunks(sums.len())) {
            for (sum, value) in sums.iter_mut().zip(source) {
                *sum += weight * value;
            }
        }
        for (byte, sum) in line.iter_mut().zip(&sums) {
            *byte = (sum + 0.5) as u8;
        }
    }
}
