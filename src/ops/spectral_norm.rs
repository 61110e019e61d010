//! Spectral normalisation of all weights of a network in one launch (two where a matrix is large, three where an embedding is).

use super::{expect_len, size32};
use crate::device::{Buffer, Device, Fixed, Reals, kernel};
use crate::sizes::{product, sum};
use crate::{Error, Result};

/// Where the outputs of a stored matrix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// Filters (R, S, C, K), with rows = R * S * C, and linear layers (C, K).
    Columns,
    /// Embeddings (classes, C).
    Rows,
}

/// A weight to normalise: `rows * columns` parameters from `offset` on.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub offset: usize,
    pub rows: usize,
    pub columns: usize,
    pub outputs: Outputs,
}

/// The mirror of `Weight` in `kernels/spectral_norm.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Entry {
    kind: u32,
    offset: u32,
    rows: u32,
    columns: u32,
    u: u32,
    v: u32,
    work: u32,
    first_tile: u32,
    tiles: u32,
}

/// The mirror of `Tile`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Tile {
    entry: u32,
    begin: u32,
    end: u32,
}

/// The tables that the kernels read, made once per network.
pub struct Plan {
    entries: Buffer<u32>,
    tiles: Buffer<u32>,
    entry_count: u32,
    tile_count: u32,
    parameters: usize,
    u: usize,
    v: usize,
    work: usize,
    /// Whether a matrix has several tiles; whether one whose outputs are rows has.
    split: bool,
    split_rows: bool,
    /// For each matrix: the number of its entry, and which part of u and of v belongs to it.
    places: Vec<(usize, std::ops::Range<usize>, std::ops::Range<usize>)>,
}

/// The buffers of a network's normalisation. `u` and `v` persist; `u` starts as any random numbers.
#[derive(Clone, Copy)]
pub struct State<'a> {
    /// ([`Plan::u_len`]).
    pub u: &'a Reals,
    /// ([`Plan::v_len`]).
    pub v: &'a Reals,
    /// ([`Plan::sigma_len`]).
    pub sigma: &'a Reals,
    /// ([`Plan::workspace_len`]).
    pub workspace: &'a Reals,
}

impl Plan {
    /// For a flat buffer of `parameters`, with `matrices` in the order of their offsets. Parameters outside the matrices
    /// are copied as they are.
    pub fn new(device: &Device, parameters: usize, matrices: &[Matrix]) -> Result<Plan> {
        size32("spectral norm: parameters", parameters)?;
        let (mut entries, mut tiles, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let (mut u, mut v, mut work, mut end) = (0, 0, 0, 0);
        let (mut split, mut split_rows) = (false, false);
        let Fixed { alone, tile, .. } = *device.fixed();
        let mut add = |kind: u32, matrix: Matrix, u: usize, v: usize| {
            let Matrix { offset, rows, columns, .. } = matrix;
            let step = match kind {
                0 => tile,
                _ if rows * columns <= alone => rows,
                // Each block reads its tile, and a row of sums for each tile: both are small where there are as many rows in
                // a tile as there are tiles.
                _ => (tile / columns).max(1 << rows.isqrt().ilog2()),
            };
            let (first_tile, count) = (tiles.len() as u32, rows.div_ceil(step));
            tiles.extend((0..rows).step_by(step).map(|begin| Tile {
                entry: entries.len() as u32,
                begin: begin as u32,
                end: rows.min(begin + step) as u32,
            }));
            entries.push(Entry {
                kind,
                offset: offset as u32,
                rows: rows as u32,
                columns: columns as u32,
                u: u as u32,
                v: v as u32,
                work: work as u32,
                first_tile,
                tiles: count as u32,
            });
            if kind != 0 {
                work = sum([work, rows, product([columns, count, if count > 1 { 2 } else { 1 }])]);
                split |= count > 1;
                split_rows |= count > 1 && kind == 2;
            }
            entries.len() - 1
        };
        let copied = |offset, rows| Matrix { offset, rows, columns: 1, outputs: Outputs::Rows };
        for matrix in matrices {
            let Matrix { offset, rows, columns, outputs } = *matrix;
            let len = rows.checked_mul(columns).filter(|len| *len > 0);
            let fits = len.and_then(|len| offset.checked_add(len)).filter(|last| *last <= parameters);
            let (Some(last), true) = (fits, offset >= end) else {
                return Err(Error::Shape(format!(
                    "spectral norm: {rows} x {columns} at {offset} of {parameters} parameters, the one before ends at {end}"
                )));
            };
            if offset > end {
                add(0, copied(end, offset - end), 0, 0);
            }
            let (kind, out, into) = match outputs {
                Outputs::Columns => (1, columns, rows),
                Outputs::Rows => (2, rows, columns),
            };
            let entry = add(kind, *matrix, u, v);
            places.push((entry, u..u + out, v..v + into));
            (u, v, end) = (u + out, v + into, last);
        }
        if end < parameters {
            add(0, copied(end, parameters - end), 0, 0);
        }
        size32("spectral norm: workspace", work)?;
        Ok(Plan {
            entry_count: size32("spectral norm", entries.len())?,
            tile_count: size32("spectral norm", tiles.len())?,
            work: work.max(tiles.len()),
            entries: device.upload(bytemuck::cast_slice(&entries))?,
            tiles: device.upload(bytemuck::cast_slice(&tiles))?,
            parameters,
            u,
            v,
            split,
            split_rows,
            places,
        })
    }

    pub fn u_len(&self) -> usize {
        self.u
    }

    pub fn v_len(&self) -> usize {
        self.v
    }

    pub fn sigma_len(&self) -> usize {
        self.entry_count as usize
    }

    pub fn workspace_len(&self) -> usize {
        self.work
    }

    /// Where in `u` the vector of the `i`-th matrix is.
    pub fn u_of(&self, i: usize) -> std::ops::Range<usize> {
        self.places[i].1.clone()
    }

    /// Where in `v` the vector of the `i`-th matrix is.
    pub fn v_of(&self, i: usize) -> std::ops::Range<usize> {
        self.places[i].2.clone()
    }

    /// Where in `sigma` the value of the `i`-th matrix is.
    pub fn sigma_of(&self, i: usize) -> usize {
        self.places[i].0
    }

    fn check(&self, flat: [(&str, &Reals); 2], state: State) -> Result<()> {
        for (name, buffer) in flat {
            expect_len("spectral norm", name, buffer.len(), self.parameters)?;
        }
        expect_len("spectral norm", "u", state.u.len(), self.u)?;
        expect_len("spectral norm", "v", state.v.len(), self.v)?;
        expect_len("spectral norm", "sigma", state.sigma.len(), self.sigma_len())?;
        expect_len("spectral norm", "workspace", state.workspace.len(), self.work)
    }
}

/// Fills `effective` with all parameters, each matrix divided by its sigma. With `iterate`, one power iteration comes
/// first; without, `u` and `v` stay as they are.
pub fn forward(plan: &Plan, effective: &Reals, weights: &Reals, state: State, iterate: bool) -> Result<()> {
    plan.check([("effective", effective), ("weights", weights)], state)?;
    let device = weights.device();
    let (grid, iterate) = ([plan.tile_count, 1, 1], u32::from(iterate));
    if plan.split {
        let launch = device.launch(kernel::SPECTRAL_NORM_PRODUCTS_F32, grid).output(state.workspace);
        let launch = launch.input(state.u).input(state.v).input(weights).input(&plan.entries).input(&plan.tiles);
        // SAFETY: `check` compared every length with the plan's, whose tables stay inside them; here and below.
        unsafe { launch.scalar(iterate).run()? };
    }
    if plan.split_rows {
        let launch = device.launch(kernel::SPECTRAL_NORM_SECOND_PRODUCTS_F32, grid).output(state.workspace);
        let launch = launch.input(state.v).input(weights).input(&plan.entries).input(&plan.tiles);
        // SAFETY: as above.
        unsafe { launch.scalar(iterate).run()? };
    }
    let launch = device.launch(kernel::SPECTRAL_NORM_F32, grid).output(effective).output(state.sigma);
    let launch = launch.output(state.u).output(state.v).output(state.workspace).input(weights);
    // SAFETY: as above.
    unsafe { launch.input(&plan.entries).input(&plan.tiles).scalar(iterate).run() }
}

/// Turns `gradient` from dL / d effective into dL / d weights, in place. To be called once, when all contributions are in
/// it. `effective` and `state` are as the last [`forward`] left them.
pub fn backward(plan: &Plan, gradient: &Reals, effective: &Reals, state: State) -> Result<()> {
    plan.check([("gradient", gradient), ("effective", effective)], state)?;
    let (device, grid) = (gradient.device(), [plan.tile_count, 1, 1]);
    let dots = state.workspace.view(0..plan.tile_count as usize);
    let launch = device.launch(kernel::SPECTRAL_NORM_DOTS_F32, grid).output(&dots);
    let launch = launch.input(gradient).input(effective).input(&plan.entries).input(&plan.tiles);
    // SAFETY: as in `forward`; the plan's workspace holds at least one float per tile.
    unsafe { launch.run()? };
    let launch = device.launch(kernel::SPECTRAL_NORM_BACKWARD_F32, grid).output(gradient);
    let launch = launch.input(&dots).input(state.sigma).input(state.u).input(state.v);
    // SAFETY: as above.
    unsafe { launch.input(&plan.entries).input(&plan.tiles).run() }
}
