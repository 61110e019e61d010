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
    /// Rows that one block of a kernel over a matrix walks, and its columns (`COLUMNS` in `kernels/device/columns.h`).
    pub rows: usize,
    pub columns: usize,
}

pub(super) static HOST: Tuning =
    Tuning { elements: 8192, logits: 8192, logit_blocks: 1024, reduce_blocks: 1024, rows: 256, columns: 64 };
pub(super) static SIMT: Tuning =
    Tuning { elements: 1024, logits: 8192, logit_blocks: 1024, reduce_blocks: 1024, rows: 256, columns: 16 };
pub(super) static CUDA: Tuning =
    Tuning { elements: 2048, logits: 8192, logit_blocks: 1024, reduce_blocks: 1024, rows: 256, columns: 16 };
