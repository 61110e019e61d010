//! Pictures as PNG files: grids of images, and points, which can be SVG too.

use std::path::Path;

use crate::data::ImageShape;
use crate::data::mixture::EXTENT;
use crate::sizes::filled;
use crate::{Error, Result, files};

/// Pixels between the images of a grid, and around it.
const GAP: usize = 2;
/// The grey of the gaps, which differs from black and from white images.
const GAP_GREY: u8 = 96;

/// An image with one byte (grey) or three bytes (RGB) for each pixel.
pub struct Picture {
    pub shape: ImageShape,
    /// (H, W, C)
    pub pixels: Vec<u8>,
}

impl Picture {
    /// Lays `images` (N, H, W, C) out in rows of `columns` images. What the last row lacks stays grey.
    pub fn grid(images: &[u8], shape: ImageShape, columns: usize) -> Result<Picture> {
        let ImageShape { height, width, channels } = shape;
        let len = shape.len();
        if !matches!(channels, 1 | 3) {
            return Err(Error::Shape(format!("a picture has 1 or 3 channels, these images {channels}")));
        }
        if len == 0 || columns == 0 || images.is_empty() || !images.len().is_multiple_of(len) {
            return Err(Error::Shape(format!(
                "a grid of {columns} columns from {} bytes: images of {height}x{width}x{channels} have {len}",
                images.len()
            )));
        }
        let count = images.len() / len;
        let columns = columns.min(count);
        let rows = count.div_ceil(columns);
        let whole = ImageShape { height: rows * (height + GAP) + GAP, width: columns * (width + GAP) + GAP, channels };
        let mut pixels = filled("a grid of images", whole.len(), GAP_GREY)?;
        for (i, image) in images.chunks_exact(len).enumerate() {
            let (top, left) = (GAP + i / columns * (height + GAP), GAP + i % columns * (width + GAP));
            for (y, line) in image.chunks_exact(width * channels).enumerate() {
                let at = ((top + y) * whole.width + left) * channels;
                pixels[at..at + line.len()].copy_from_slice(line);
            }
        }
        Ok(Picture { shape: whole, pixels })
    }

    /// Writes a PNG file, which is then either whole or not there.
    pub fn save(&self, path: &Path) -> Result<()> {
        files::write_bytes(path, &self.encode().map_err(Error::io(path))?)
    }

    /// A PNG file as an address that holds it, for a page; none in it where a side is too long for one.
    pub fn data_uri(&self) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut uri = String::from("data:image/png;base64,");
        for three in self.encode().unwrap_or_default().chunks(3) {
            let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
            for i in 0..4 {
                let digit = char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize]);
                uri.push(if i > three.len() { '=' } else { digit });
            }
        }
        uri
    }

    /// The bytes of a PNG file.
    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let too_large = |_| std::io::Error::other("a picture's sides are at most 2^32 - 1 pixels");
        let width = u32::try_from(self.shape.width).map_err(too_large)?;
        let height = u32::try_from(self.shape.height).map_err(too_large)?;
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(if self.shape.channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// Points in the plane over those of the data, on white. Each axis goes from `-EXTENT` to `EXTENT` of
/// [`crate::data::mixture`], the second one upwards; points outside are left out.
pub struct Scatter<'a> {
    /// (n, 2)
    pub data: &'a [f32],
    /// (n, 2)
    pub points: &'a [f32],
}

/// The radius of a dot, in the plane, and the share of what is below that it hides.
const DOT: f32 = 0.012;
const OPACITY: f32 = 0.6;
/// The colours of the data and of the points.
const COLOURS: [[u8; 3]; 2] = [[185, 185, 185], [20, 90, 180]];

impl Scatter<'_> {
    fn layers(&self) -> [([u8; 3], Vec<[f32; 2]>); 2] {
        // A NaN counts as outside.
        let inside = |points: &[f32]| -> Vec<[f32; 2]> {
            points.as_chunks::<2>().0.iter().copied().filter(|p| p.iter().all(|x| x.abs() <= EXTENT)).collect()
        };
        [(COLOURS[0], inside(self.data)), (COLOURS[1], inside(self.points))]
    }

    /// `side` pixels wide and high.
    pub fn picture(&self, side: usize) -> Picture {
        let mut pixels = vec![255; 3 * side * side];
        let scale = side as f32 / (2.0 * EXTENT);
        let radius = (DOT * scale).max(1.0);
        for (colour, points) in self.layers() {
            for [x, y] in points {
                let (x, y) = ((x + EXTENT) * scale, (EXTENT - y) * scale);
                let span = |at: f32| (at - radius).max(0.0) as usize..=((at + radius) as usize).min(side - 1);
                for (line, column) in span(y).flat_map(|line| span(x).map(move |column| (line, column))) {
                    let away = (column as f32 + 0.5 - x).hypot(line as f32 + 0.5 - y);
                    // A pixel at the edge is covered in part.
                    let share = OPACITY * (radius + 0.5 - away).clamp(0.0, 1.0);
                    let at = 3 * (line * side + column);
                    for (pixel, colour) in pixels[at..at + 3].iter_mut().zip(colour) {
                        *pixel = (f32::from(*pixel) * (1.0 - share) + f32::from(colour) * share).round() as u8;
                    }
                }
            }
        }
        Picture { shape: ImageShape { height: side, width: side, channels: 3 }, pixels }
    }

    /// A whole SVG image.
    pub fn svg(&self) -> String {
        let side = 2.0 * EXTENT;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-{EXTENT} -{EXTENT} {side} {side}\" role=\"img\">\n\
             <rect x=\"-{EXTENT}\" y=\"-{EXTENT}\" width=\"{side}\" height=\"{side}\" fill=\"#fff\"/>\n"
        );
        for ([r, g, b], points) in self.layers() {
            let dots: String = points.iter().map(|[x, y]| format!("M{x:.3} {:.3}h0", 0.0 - y)).collect();
            svg.push_str(&format!(
                "<path d=\"{dots}\" fill=\"none\" stroke=\"rgb({r} {g} {b})\" stroke-opacity=\"{OPACITY}\" \
                 stroke-width=\"{}\" stroke-linecap=\"round\"/>\n",
                2.0 * DOT
            ));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// The number of columns with which a grid of `count` images is about square.
pub fn square_columns(count: usize) -> usize {
    (1..=count).find(|c| c * c >= count).unwrap_or(1)
}
