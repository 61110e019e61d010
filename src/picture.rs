//! Pictures as PNG files: grids of images, and points.

use std::path::Path;

use crate::data::ImageShape;
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

    /// `points` (n, 2) as dark dots over faint circles of `radius` around `centres`, on white; each axis goes from
    /// `-extent` to `extent`, the second one upwards. Points outside are left out.
    pub fn scatter(points: &[f32], centres: &[[f32; 2]], radius: f32, side: usize, extent: f32) -> Picture {
        const PAPER: u8 = 255;
        const CIRCLE: u8 = 208;
        const DOT: u8 = 32;
        let mut pixels = vec![PAPER; side * side];
        let scale = side as f32 / (2.0 * extent);
        let mut dot = |x: f32, y: f32, grey: u8| {
            let (column, line) = (((x + extent) * scale).floor(), ((extent - y) * scale).floor());
            // A NaN counts as outside.
            let inside = |at: f32| at >= 0.0 && at < side as f32;
            if inside(column) && inside(line) {
                pixels[line as usize * side + column as usize] = grey;
            }
        };
        for [x, y] in centres {
            // The dots of a circle are half a pixel apart.
            let steps = (std::f32::consts::TAU * radius * scale * 2.0).ceil().max(8.0) as usize;
            for step in 0..steps {
                let (sine, cosine) = (std::f32::consts::TAU * step as f32 / steps as f32).sin_cos();
                dot(x + radius * cosine, y + radius * sine, CIRCLE);
            }
        }
        points.as_chunks::<2>().0.iter().for_each(|[x, y]| dot(*x, *y, DOT));
        Picture { shape: ImageShape { height: side, width: side, channels: 1 }, pixels }
    }

    /// Writes a PNG file, which is then either whole or not there.
    pub fn save(&self, path: &Path) -> Result<()> {
        files::write_bytes(path, &self.encode().map_err(Error::io(path))?)
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

/// The number of columns with which a grid of `count` images is about square.
pub fn square_columns(count: usize) -> usize {
    (1..=count).find(|c| c * c >= count).unwrap_or(1)
}
