//! Which tile of a product one block owns.

use crate::device::{Device, LEAST_COLUMNS, MOST_BLOCKS, Precision, Tile, TileCost};

/// Chooses the tile for an (m, n) product among those that have a kernel in this precision. A narrow product takes the
/// narrowest tile that holds all its columns. Any other takes, of the tiles in the table, the one whose busiest worker has
/// the least to do, by the table's costs. A tile that is forced comes first. Every tile gives the same bits.
pub(crate) fn choose(
    device: &Device,
    precision: Precision,
    workers: usize,
    tiles: &'static [Tile],
    table: &[TileCost],
    m: usize,
    n: usize,
) -> &'static Tile {
    let there = || tiles.iter().filter(|tile| is_there(tile, precision));
    let forced = device.tuning().forced_tile;
    if let Some(tile) = there().find(|tile| Some((tile.rows, tile.columns)) == forced) {
        return tile;
    }
    let narrow = there().filter(|tile| tile.columns < LEAST_COLUMNS && n <= tile.columns);
    if let Some(tile) = narrow.min_by_key(|tile| tile.columns) {
        return tile;
    }
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
    let costs = there().filter_map(|tile| Some((tile, measured(tile)? * cost(tile) as f64)));
    // The first of those that cost the same.
    costs.min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(&tiles[0], |(tile, _)| tile)
}

fn is_there(tile: &Tile, precision: Precision) -> bool {
    tile.kernel.0[precision as usize].is_some()
}

/// The blocks of an (m, n) product, a tile each. Columns first: blocks that run at the same time share the rows of A. Rows of
/// tiles that y does not take lie along z, as `row_of_tiles` in kernels/device/tile.h has them; m and n fit 32 bits.
pub(crate) fn grid(tile: &Tile, m: usize, n: usize) -> [u32; 3] {
    let (rows, columns) = (m.div_ceil(tile.rows) as u32, n.div_ceil(tile.columns) as u32);
    let layers = rows.div_ceil(MOST_BLOCKS[1]);
    [columns, rows.div_ceil(layers), layers]
}
