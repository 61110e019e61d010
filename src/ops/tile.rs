//! Which tile of a product one block owns.

use crate::device::{Device, LEAST_COLUMNS, Precision, Tile, TileCost};

/// The tile for an (m, n) product in this precision, of those that there are. A
/// narrow product takes the narrowest tile that holds all its columns; another one the tile of the table whose busiest
/// worker has the least to do, by the table's costs. Every tile gives the same bits.
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

/// Columns first: blocks that run at the same time share the rows of A.
pub(crate) fn grid(tile: &Tile, m: usize, n: usize) -> [u32; 3] {
    [n.div_ceil(tile.columns) as u32, m.div_ceil(tile.rows) as u32, 1]
}
