//! The layout of the pictures that `train` and `sample` draw.

use zgan::data::ring;
use zgan::gan::{Latents, Setup};
use zgan::picture::{Picture, square_columns};
use zgan::text::plain;

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

/// All classes of a run that draws images for labels; none of another.
pub fn all_classes(setup: &Setup) -> Vec<u32> {
    (0..if setup.conditional() { setup.classes as u32 } else { 0 }).collect()
}

/// A picture of points of the ring over its modes, and a line that says how many modes are covered.
pub fn scatter(points: &[f32]) -> (Picture, String) {
    const SIDE: usize = 400;
    let centres: Vec<[f32; 2]> = (0..ring::MODES).map(ring::centre).collect();
    let picture = Picture::scatter(points, &centres, ring::REACH * ring::DEVIATION, SIDE, 1.25 * ring::RADIUS);
    (picture, format!("modes   {} of {} covered", ring::modes_covered(points), ring::MODES))
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
