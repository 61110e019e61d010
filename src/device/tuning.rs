//! Block sizes and split counts, one table keyed by device: what the wrappers in `ops/` derive their grids from.
//! Sizes are powers of two. Results depend on them, never on the number of threads or multiprocessors.

#[derive(Debug)]
pub struct Tuning {
    /// Elements that one block of an elementwise kernel walks.
    pub elements: usize,
    /// Logits that one block of the log-partition sees at most, and the most blocks it is split over.
    pub logits: usize,
    pub logit_blocks: usize,
    /// Blocks that a reduction over a flat buffer is split over at most.
    pub reduce_blocks: usize,
    /// Whether a tile that sticks out of the matrix costs only what is inside.
    pub partial_tiles: bool,
    /// The tiles, (rows, columns), that matrix products and wide convolutions choose from.
    pub linear_tiles: &'static [(usize, usize)],
    pub conv_tiles: &'static [(usize, usize)],
    /// Rows that one block of a kernel over a matrix walks, and its columns (`COLUMNS` in `kernels/device/columns.h`).
    pub rows: usize,
    pub columns: usize,
    /// Blocks that a weight gradient of a convolution is split into, and the fewest pixels of one.
    pub split_blocks: usize,
    pub split_pixels: usize,
    /// Columns that one block of a bias gradient sums.
    pub bias_columns: usize,
    /// Chains of multiply-adds in one block of the peak measurement.
    pub peak_chains: usize,
}

pub(super) static HOST: Tuning = Tuning {
    linear_tiles: &[(128, 256), (128, 128), (128, 64), (64, 64)],
    conv_tiles: &[(128, 128), (64, 64)],
    elements: 8192,
    logits: 8192,
    logit_blocks: 1024,
    reduce_blocks: 1024,
    rows: 256,
    columns: 64,
    partial_tiles: true,
    split_blocks: 8,
    split_pixels: 512,
    bias_columns: 64,
    peak_chains: 12 * 16,
};
pub(super) static SIMT: Tuning = Tuning {
    linear_tiles: &[(128, 256), (128, 128), (128, 64), (64, 64)],
    conv_tiles: &[(128, 128), (128, 64), (64, 64)],
    elements: 2048,
    logits: 8192,
    logit_blocks: 1024,
    reduce_blocks: 1024,
    rows: 256,
    columns: 16,
    partial_tiles: false,
    split_blocks: 128,
    split_pixels: 256,
    bias_columns: 256,
    peak_chains: 16 * 256,
};
static CUDA: Tuning = Tuning {
    linear_tiles: &[(128, 256), (128, 128), (128, 64), (64, 64)],
    conv_tiles: &[(128, 128), (128, 64), (64, 64)],
    elements: 2048,
    logits: 8192,
    logit_blocks: 1024,
    reduce_blocks: 1024,
    rows: 256,
    columns: 16,
    partial_tiles: false,
    split_blocks: 128,
    split_pixels: 256,
    bias_columns: 256,
    peak_chains: 16 * 256,
};

/// Multiprocessors of a middling GPU: enough to choose a tile by.
pub(super) const CUDA_WORKERS: usize = 64;

/// For the GPU of this name. A driver that stands in for one runs kernels as another execution does, and is named so.
pub(super) fn of_gpu(name: &str) -> &'static Tuning {
    match name {
        "zgan stand-in, host" => &HOST,
        "zgan stand-in, simt" => &SIMT,
        _ => &CUDA,
    }
}
