//! Which tile of a product one block owns. The kernels of `tiled_matmul` carry the size in their name.

use crate::device::{Device, Precision, TileCost, Variants};

/// A kernel for tiles of `rows` by `columns` of C (M, N).
pub(crate) struct Tile {
    pub rows: usize,
    pub columns: usize,
    pub kernel: Variants,
}

/// The tile for an (m, n) product, of those that the device's table has and that there are in this precision: the one whose
/// busiest worker has the least to do, by the table's costs. Every tile gives the same bits.
pub(crate) fn choose<'a>(
    device: &Device,
    precision: Precision,
    workers: usize,
    (tiles, table): (&'a [Tile], &[TileCost]),
    m: usize,
    n: usize,
) -> &'a Tile {
    let cost = |tile: &Tile| {
        // An incomplete tile costs the host what is inside it, and a GPU a whole one. Both operands of a tile are
        // read once: a wide tile needs less of that per product.
        let partial = device.fixed().partial_tiles;
        let size = |rows, columns| rows * columns + 4 * (rows + columns);
        let (full_rows, full_columns) = (m / tile.rows, n / tile.columns);
        let (rest_rows, rest_columns) = (m % tile.rows, n % tile.columns);
        if partial {
            let full = size(tile.rows.min(m), tile.columns.min(n));
            let total = full_rows * full_columns * size(tile.rows, tile.columns)
                + full_columns * size(rest_rows, tile.columns) * usize::from(rest_rows > 0)
                + full_rows * size(tile.rows, rest_columns) * usize::from(rest_columns > 0)
                + size(rest_rows, rest_columns) * usize::from(rest_rows * rest_columns > 0);
            let large = full_rows.max(1) * full_columns.max(1);
            (large.div_ceil(workers) * full).max(total / workers)
        } else {
            let blocks = m.div_ceil(tile.rows) * n.div_ceil(tile.columns);
            blocks.div_ceil(workers) * size(tile.rows, tile.columns)
        }
    };
    let measured = |tile: &Tile| {
        let listed = table.iter().find(|listed| (listed.rows, listed.columns) == (tile.rows, tile.columns))?;
        Some(listed.cost[precision as usize])
    };
    let there = tiles.iter().filter(|tile| tile.is_there(precision));
    let costs = there.filter_map(|tile| Some((tile, measured(tile)? * cost(tile) as f64)));
    // The first of those that cost the same.
    costs.min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(&tiles[0], |(tile, _)| tile)
}

impl Tile {
    pub fn is_there(&self, precision: Precision) -> bool {
        self.kernel.0[precision as usize].is_some()
    }

    /// Columns first: blocks that run at the same time share the rows of A.
    pub fn grid(&self, m: usize, n: usize) -> [u32; 3] {
        [n.div_ceil(self.columns) as u32, m.div_ceil(self.rows) as u32, 1]
    }
}
