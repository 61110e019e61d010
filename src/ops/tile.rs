//! Which tile of a product one block owns. The kernels of `tiled_matmul` carry the size in their name.

use crate::device::{Device, Kernel};

/// A kernel for tiles of `rows` by `columns` of C (M, N).
pub(crate) struct Tile {
    pub rows: usize,
    pub columns: usize,
    pub kernel: Kernel,
}

/// The tile for an (m, n) product: the one whose busiest worker has the least to do, where an incomplete tile costs
/// the host what is inside it, and a GPU a whole one. Every tile gives the same bits.
pub(crate) fn choose<'a>(device: &Device, tiles: &'a [Tile], m: usize, n: usize) -> &'a Tile {
    let workers = device.workers();
    let cost = |tile: &Tile| {
        let blocks = m.div_ceil(tile.rows) * n.div_ceil(tile.columns);
        let (rows, columns) = if device.tuning().partial_tiles {
            (tile.rows.min(m), tile.columns.min(n))
        } else {
            (tile.rows, tile.columns)
        };
        // Both operands are read once a tile: a wide tile needs less of that per product.
        let tile_cost = rows * columns + 4 * (rows + columns);
        blocks.div_ceil(workers) * tile_cost
    };
    let mut best = &tiles[0];
    for tile in &tiles[1..] {
        if cost(tile) < cost(best) {
            best = tile;
        }
    }
    best
}

impl Tile {
    /// Columns first: blocks that run at the same time share the rows of A.
    pub fn grid(&self, m: usize, n: usize) -> [u32; 3] {
        [n.div_ceil(self.columns) as u32, m.div_ceil(self.rows) as u32, 1]
    }
}
