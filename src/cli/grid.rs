//! The layout of the pictures that `train` and `sample` draw.

use std::path::Path;

use zgan::data::mixture::{self, Mixture};
use zgan::gan::{Latents, Setup};
use zgan::picture::{Picture, Scatter, square_columns};
use zgan::text::plain;
use zgan::{Result, files};

/// The images of a grid where nobody says how many there are to be.
pub const COUNT: usize = 64;

/// The latents of a grid of about `count` images, and the number of its columns. Each of the `classes` has a row; where
/// there are too many for that, they take turns.
pub fn layout(classes: &[u32], seed: u64, count: usize, columns: Option<usize>) -> (Latents, usize) {
    if classes.is_empty() {
        return (Latents::unlabelled(seed, count), columns.unwrap_or_else(|| square_columns(count)));
    }
    let each = columns.unwrap_or_else(|| count.div_ceil(classes.len()));
    if columns.is_some() || classes.len() == 1 || 2 * classes.len() <= count {
        return (Latents::by_class(seed, classes, each), each);
    }
    let labels = classes.iter().cycle().take(count).copied().collect();
    (Latents { count, labels, ..Latents::unlabelled(seed, 0) }, square_columns(count))
}

/// All labels of a run that draws images for labels; none of another.
pub fn all_classes(setup: &Setup) -> Vec<u32> {
    (0..if setup.conditional() { setup.labels() as u32 } else { 0 }).collect()
}

/// Writes a picture of points over those of the data, as SVG where the file's name ends so, and else as PNG. Gives a line
/// that says how well they cover the modes.
pub fn scatter(points: &[f32], mixture: Mixture, path: &Path) -> Result<String> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
        let data = &mixture.draw(0, mixture::POINTS);
        files::write_bytes(path, Scatter { data, points }.svg().as_bytes())?;
    } else {
        of_points(points, mixture).save(path)?;
    }
    Ok(modes(points, mixture))
}

/// The points, with some of their mixture behind them.
pub fn of_points(points: &[f32], mixture: Mixture) -> Picture {
    const SIDE: usize = 600;
    Scatter { data: &mixture.draw(0, mixture::POINTS), points }.picture(SIDE)
}

/// A line about how well the points cover the mixture.
pub fn modes(points: &[f32], mixture: Mixture) -> String {
    format!("modes   {}", mixture.cover(points))
}

/// The file beside the pictures of a run that says what is in their rows.
pub const LEGEND: &str = "rows.txt";

/// A line for each row of a grid: the names of the classes of its images, which have these labels.
pub fn legend(labels: &[u32], columns: usize, names: &[String]) -> Option<String> {
    let row = |(row, labels): (usize, &[u32])| {
        let mut of_row: Vec<&str> =
            labels.iter().map(|label| names.get(*label as usize).map_or("?", String::as_str)).collect();
        of_row.dedup();
        format!("row {}: {}\n", row + 1, plain(&of_row.join(", "), &[]))
    };
    (!labels.is_empty()).then(|| labels.chunks(columns.max(1)).enumerate().map(row).collect())
}
