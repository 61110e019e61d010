//! Grids of images as PNG files.

use std::path::Path;

use crate::data::ImageShape;
use crate::{Error, Result, files};

/// Pixels between the images of a grid, and around it.
const GAP: usize = 2;
/// Their grey: told apart from black and from white images.
const GAP_GREY: u8 = 96;

/// An image of one (grey) or three (RGB) bytes a pixel.
pub struct Picture {
    pub shape: ImageShape,
    /// (H, W, C)
    pub pixels: Vec<u8>,
}

impl Picture {
    /// Lays `images` (N, H, W, C) out in rows of `columns`; a last row that is not full stays grey.
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
        let mut pixels = vec![GAP_GREY; whole.len()];
        for (i, image) in images.chunks_exact(len).enumerate() {
            let (top, left) = (GAP + i / columns * (height + GAP), GAP + i % columns * (width + GAP));
            for (y, line) in image.chunks_exact(width * channels).enumerate() {
                let at = ((top + y) * whole.width + left) * channels;
                pixels[at..at + line.len()].copy_from_slice(line);
            }
        }
        Ok(Picture { shape: whole, pixels })
    }

    /// Writes a PNG file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        files::write_bytes(path, &self.encode().map_err(Error::io(path))?)
    }

    fn encode(&self) -> std::io::Result<Vec<u8>> {
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

/// Columns of a grid of `count` images that is about square.
pub fn square_columns(count: usize) -> usize {
    (1..=count).find(|c| c * c >= count).unwrap_or(1)
}
