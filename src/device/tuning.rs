//! Block sizes and split counts: the wrappers in `ops/` derive their grids from a table of these. Results depend on the
//! table, never on the number of threads or multiprocessors.
//!
//! Each execution has its own table built in; `zgan tune` measures a better one for a device, and
//! [`super::Device::with_tuning`] puts it in force.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::{Precision, Tile, kernel};
use crate::{Error, Result};

/// What may be chosen freely, within the bounds of [`FIELDS`] and among the tiles that have kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuning {
    /// Elements that one block of an elementwise kernel walks.
    pub elements: usize,
    /// The most logits of one block of the log-partition, and the most blocks that it is split over.
    pub logits: usize,
    pub logit_blocks: usize,
    /// The most blocks that a reduction over a flat buffer is split over.
    pub reduce_blocks: usize,
    /// Rows that one block of a kernel over a matrix walks.
    pub rows: usize,
    /// Blocks that the weight gradient of a convolution is split into, and the fewest pixels of one block.
    pub split_blocks: usize,
    pub split_pixels: usize,
    /// The fewest tiles of 4x4 pixels for which a convolution has Winograd's form, where it has the choice.
    pub winograd_tiles: usize,
    /// The tiles that matrix products and wide convolutions choose from.
    pub linear_tiles: Vec<TileCost>,
    pub conv_tiles: Vec<TileCost>,
    /// Rows and columns of the tile that every product takes which has a kernel for it, whatever it costs. For tests; in no
    /// file.
    pub forced_tile: Option<(usize, usize)>,
    /// Which form of a convolution is taken. A run's own choice; in no file.
    pub convolution: Convolution,
}

/// How a CPU computes convolutions in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Convolution {
    /// Winograd's form where it is faster, else the direct one
    #[default]
    Auto,
    /// The sums as they are written
    Direct,
    /// Winograd's form wherever there is one: 3x3, and channels in multiples of 16. A quarter of the multiplications, twice the
    /// rounding error
    Winograd,
}

/// A tile of a product that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TileCost {
    pub rows: usize,
    pub columns: usize,
    /// For each [`Precision`]: the time that the tile takes, divided by the time that its size alone would suggest
    /// (`ops/tile.rs`). Only the ratios between tiles matter.
    pub cost: [f64; 4],
}

/// A number of [`Tuning`], by its name. All are powers of two.
pub struct Field {
    pub name: &'static str,
    pub least: usize,
    pub most: usize,
    pub get: fn(&Tuning) -> usize,
    pub set: fn(&mut Tuning, usize),
}

macro_rules! field {
    ($name:literal, $field:ident, $least:expr, $most:expr) => {
        Field { name: $name, least: $least, most: $most, get: |t| t.$field, set: |t, value| t.$field = value }
    };
}

/// The bounds are the limits of kernels and grids: chunks of a flat buffer fit 32 bits, a block of the log-partition has at
/// most 8,192 logits, a grid at most 65,535 parts of a gradient.
pub const FIELDS: [Field; 8] = [
    field!("elements", elements, 256, 1 << 20),
    field!("logits", logits, 256, 8192),
    field!("logit-blocks", logit_blocks, 16, 1 << 16),
    field!("reduce-blocks", reduce_blocks, 16, 1 << 16),
    field!("rows", rows, 16, 4096),
    field!("split-blocks", split_blocks, 1, 4096),
    field!("split-pixels", split_pixels, 16, 1 << 20),
    field!("winograd-tiles", winograd_tiles, 1, 1 << 20),
];

/// Products that choose from one list of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// Matrix products.
    Linear,
    /// Convolutions.
    Conv,
}

/// Columns of the narrowest tile that costs decide about. A narrower one is for products that have no more columns than it.
pub(crate) const LEAST_COLUMNS: usize = 64;

impl Products {
    pub const ALL: [Products; 2] = [Products::Linear, Products::Conv];

    /// The key of its list: `linear-tiles`.
    pub fn key(self) -> &'static str {
        match self {
            Products::Linear => "linear-tiles",
            Products::Conv => "conv-tiles",
        }
    }

    /// The tiles of each product: those that its kernel file names.
    fn tiles(self) -> [&'static [Tile]; 3] {
        match self {
            Products::Linear => [kernel::LINEAR_FORWARD, kernel::LINEAR_INPUT_GRADIENT, kernel::LINEAR_WEIGHT_GRADIENT],
            Products::Conv => [kernel::CONV_FORWARD, kernel::CONV_INPUT_GRADIENT, kernel::CONV_WEIGHT_GRADIENT],
        }
    }

    /// Rows and columns of the tiles that costs decide about, the largest first.
    pub fn sizes(self) -> Vec<(usize, usize)> {
        self.sizes_where(|tile| tile.columns >= LEAST_COLUMNS)
    }

    /// Those of all tiles that a product has a kernel for in this precision.
    pub fn sizes_in(self, precision: Precision) -> Vec<(usize, usize)> {
        self.sizes_where(|tile| tile.kernel.0[precision as usize].is_some())
    }

    fn sizes_where(self, wanted: impl Fn(&Tile) -> bool) -> Vec<(usize, usize)> {
        let all = self.tiles().into_iter().flatten().filter(|tile| wanted(tile));
        let mut sizes: Vec<(usize, usize)> = all.map(|tile| (tile.rows, tile.columns)).collect();
        sizes.sort_by_key(|&(rows, columns)| Reverse((rows * columns, rows)));
        sizes.dedup();
        sizes
    }

    /// Whether each of the products has a kernel for this tile.
    pub fn all_have(self, (rows, columns): (usize, usize)) -> bool {
        self.tiles().iter().all(|tiles| tiles.iter().any(|tile| (tile.rows, tile.columns) == (rows, columns)))
    }

    pub fn list(self, tuning: &mut Tuning) -> &mut Vec<TileCost> {
        match self {
            Products::Linear => &mut tuning.linear_tiles,
            Products::Conv => &mut tuning.conv_tiles,
        }
    }

    /// All tiles at the same cost.
    fn costs(self) -> Vec<TileCost> {
        self.sizes().into_iter().map(|(rows, columns)| TileCost { rows, columns, cost: [1.0; 4] }).collect()
    }
}

impl TileCost {
    /// `128x64`
    pub fn name(&self) -> String {
        format!("{}x{}", self.rows, self.columns)
    }
}

impl Tuning {
    /// The same with the tile of this name for every product that has it: `128x64`. The error names those that there are.
    pub fn with_forced_tile(self, name: &str) -> Result<Tuning> {
        let mut all: Vec<_> = Products::ALL.into_iter().flat_map(|products| products.sizes_where(|_| true)).collect();
        all.sort_by_key(|&(rows, columns)| Reverse((rows * columns, rows)));
        all.dedup();
        let named = |(rows, columns): &(usize, usize)| format!("{rows}x{columns}");
        match all.iter().find(|tile| named(tile) == name) {
            Some(tile) => Ok(Tuning { forced_tile: Some(*tile), ..self }),
            None => {
                let there: Vec<String> = all.iter().map(named).collect();
                Err(Error::Config(format!("no product has tiles of {name:?}; there are {}", there.join(", "))))
            }
        }
    }

    /// The error names the first thing that is not allowed, with its value and what would be allowed.
    pub fn check(&self) -> Result<()> {
        for Field { name, least, most, get, .. } in &FIELDS {
            let value = get(self);
            if !value.is_power_of_two() || !(*least..=*most).contains(&value) {
                let allowed = format!("a power of two from {least} to {most}");
                return Err(Error::Config(format!("{name}: {value}, expected {allowed}")));
            }
        }
        for (products, tiles) in [(Products::Linear, &self.linear_tiles), (Products::Conv, &self.conv_tiles)] {
            let all = products.sizes();
            let wrong = |what: String| Err(Error::Config(format!("{}: {what}", products.key())));
            for (i, tile) in tiles.iter().enumerate() {
                let (size, shown) = ((tile.rows, tile.columns), tile.name());
                if !all.contains(&size) {
                    let there: Vec<String> = all.iter().map(|(rows, columns)| format!("{rows}x{columns}")).collect();
                    return wrong(format!("{shown}, expected tiles of {}", there.join(", ")));
                }
                if tiles[..i].iter().any(|other| (other.rows, other.columns) == size) {
                    return wrong(format!("{shown} twice, expected each tile once"));
                }
                for (precision, cost) in Precision::ALL.iter().zip(tile.cost) {
                    // Written so that NaN is refused too.
                    if !(1e-3..=1e3).contains(&cost) {
                        return wrong(format!("{shown} costs {cost} in {precision}, expected 0.001 to 1000"));
                    }
                }
            }
            if !tiles.iter().any(|tile| products.all_have((tile.rows, tile.columns))) {
                let (rows, columns) = all[all.len() - 1];
                return wrong(format!("no tile that all products have, expected at least {rows}x{columns}"));
            }
        }
        Ok(())
    }
}

/// Whose kernels run. Grids depend on it, besides the sizes of what is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Host,
    Simt,
    Cuda,
}

/// What is fixed when the kernels are compiled.
#[derive(Debug)]
pub(crate) struct Fixed {
    /// Whether a tile that reaches past the edge of a matrix costs only what lies inside.
    pub partial_tiles: bool,
    /// Columns that one block of a kernel over a matrix walks (`COLUMNS` in `kernels/device/columns.h`).
    pub columns: usize,
    /// Whether one block of a weight gradient of a convolution sums all taps, not a tile of them.
    pub all_taps: bool,
    /// Whether the input gradient of a convolution reads filters that were turned around before.
    pub turns_filters: bool,
    /// Elements of the largest matrix that one block normalises by its spectrum, and of a tile of a larger one.
    pub alone: usize,
    pub tile: usize,
    /// Whether the sums of attention grow in registers, which hold only some columns of them.
    pub sums_in_registers: bool,
    /// Chains of multiply-adds in one block of the peak measurement.
    pub peak_chains: usize,
}

static HOST: Fixed = Fixed {
    partial_tiles: true,
    columns: 64,
    all_taps: true,
    turns_filters: true,
    alone: 1 << 18,
    tile: 1 << 16,
    sums_in_registers: false,
    peak_chains: 12 * 16,
};
static BLOCKS: Fixed = Fixed {
    partial_tiles: false,
    columns: 16,
    all_taps: false,
    turns_filters: false,
    alone: 1 << 12,
    tile: 1 << 12,
    sums_in_registers: true,
    peak_chains: 16 * 256,
};

fn without(mut tiles: Vec<TileCost>, size: (usize, usize)) -> Vec<TileCost> {
    tiles.retain(|tile| (tile.rows, tile.columns) != size);
    tiles
}

impl Kind {
    /// The kind of the GPU of this name. A driver that stands in for a GPU runs the kernels of another execution, which its
    /// name tells.
    pub fn of_gpu(name: &str) -> Kind {
        match name {
            "zgan stand-in, host" => Kind::Host,
            "zgan stand-in, simt" => Kind::Simt,
            _ => Kind::Cuda,
        }
    }

    pub fn fixed(self) -> &'static Fixed {
        if self == Kind::Host { &HOST } else { &BLOCKS }
    }

    /// The table that is built in.
    pub fn tuning(self) -> Tuning {
        match self {
            Kind::Host => Tuning {
                elements: 8192,
                logits: 8192,
                logit_blocks: 1024,
                reduce_blocks: 1024,
                rows: 256,
                split_blocks: 8,
                split_pixels: 1024,
                winograd_tiles: 32,
                linear_tiles: Products::Linear.costs(),
                conv_tiles: without(Products::Conv.costs(), (128, 64)),
                forced_tile: None,
                convolution: Convolution::Auto,
            },
            Kind::Simt | Kind::Cuda => Tuning {
                elements: 2048,
                logits: 8192,
                logit_blocks: 1024,
                reduce_blocks: 1024,
                rows: 256,
                split_blocks: 128,
                split_pixels: 256,
                winograd_tiles: 32,
                linear_tiles: Products::Linear.costs(),
                conv_tiles: Products::Conv.costs(),
                forced_tile: None,
                convolution: Convolution::Auto,
            },
        }
    }
}

/// Multiprocessors of a middling GPU, to choose tiles by where the driver does not tell.
pub(super) const CUDA_WORKERS: usize = 64;
