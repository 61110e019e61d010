//! What `train` and `sample` put into one picture.

use zgan::data::ring;
use zgan::gan::{Latents, TrainerOptions};
use zgan::picture::{Picture, square_columns};

/// Images of a grid, where nobody says how many.
pub const COUNT: usize = 64;

/// The latents of a grid of about `count` images, and its columns. Where there are `classes` each has a row; too many
/// for that take turns.
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

/// All classes of a run that draws for labels.
pub fn all_classes(options: &TrainerOptions) -> Vec<u32> {
    (0..if options.conditional() { options.classes as u32 } else { 0 }).collect()
}

/// Points of the ring, the modes under them, and how many of these are covered.
pub fn scatter(points: &[f32]) -> (Picture, String) {
    const SIDE: usize = 400;
    let centres: Vec<[f32; 2]> = (0..ring::MODES).map(ring::centre).collect();
    let picture = Picture::scatter(points, &centres, ring::REACH * ring::DEVIATION, SIDE, 1.25 * ring::RADIUS);
    (picture, format!("modes   {} of {} covered", ring::modes_covered(points), ring::MODES))
}
