// A matrix (rows, columns) shared out over blocks, each with some rows of at most COLUMNS columns; what a block does
// element by element, and sums over its rows, one per column. Columns lie next to each other in memory.
//
// On the GPU a thread keeps one column and strides over the rows; on the host the columns are the vector lanes.
#pragma once
#include "math.h"
#include "reduce.h"

// The mirror of `columns` in src/device/tuning.rs.
#if defined(ZGAN_HOST)
constexpr uint32_t COLUMNS = 64;
#else
constexpr uint32_t COLUMNS = 16, ROW_LANES = BLOCK / COLUMNS;
#endif

struct Tile {
    uint64_t row;  // the first
    uint32_t rows;
    uint64_t column;
    uint32_t columns;
};

// What a block of a one-dimensional grid has: `splits` parts of `chunk` rows for each group of `span` rows, each part in
// tiles of COLUMNS columns. The tiles of one part are neighbours, so that rows are read from memory once.
struct GroupTile {
    uint32_t group, part, parts;
    Tile tile;
};
DEVICE GroupTile group_tile(uint32_t span, uint32_t chunk, uint32_t splits, uint32_t columns) {
    const uint32_t tiles = (columns + COLUMNS - 1) / COLUMNS;
    const uint32_t part = blockIdx.x / tiles, column = blockIdx.x % tiles * COLUMNS;
    const uint32_t group = part / splits, first = part % splits * chunk;
    return {group, part, gridDim.x / tiles,
            {uint64_t(group) * span + first, span - first < chunk ? span - first : chunk, column,
             columns - column < COLUMNS ? columns - column : COLUMNS}};
}

#if defined(ZGAN_HOST)
// body(j) for j < count <= COLUMNS.
template <class Body> DEVICE void each_column(uint32_t count, Body body) {
    Index j = 0;
    for (; j + LANES <= count; j += LANES) {
        INDEPENDENT_FEW
        for (int l = 0; l < LANES; l++) body(j + l);
    }
    for (; j < count; j++) {
        NOT_VECTORISED;
        body(j);
    }
}

// row(r)(column) for every element of the tile, in no order.
template <class Row> DEVICE void each(const Tile& tile, Row row) {
    for (uint64_t r = tile.row; r < tile.row + tile.rows; r++) {
        const auto body = row(r);
        each_column(tile.columns, [&](Index j) { body(tile.column + j); });
    }
}

// sums[k * COLUMNS + j] = sum over the tile's rows of the k-th value that row(r)(column, v) stores in v[0 .. K - 1],
// column = tile.column + j. Every thread sees the sums.
template <int GROUPS, int K, class Row> DEVICE void column_sum_of(float* sums, const Tile& tile, uint32_t first, Row row) {
    float lane[GROUPS][K][LANES] = {};
    for (uint64_t r = tile.row; r < tile.row + tile.rows; r++) {
        const auto value = row(r);
        UNROLL
        for (int group = 0; group < GROUPS; group++) {
            INDEPENDENT_FEW
            for (int l = 0; l < LANES; l++) {
                float v[K];
                value(tile.column + first + group * LANES + l, v);
                for (int k = 0; k < K; k++) lane[group][k][l] += v[k];
            }
        }
    }
    for (int group = 0; group < GROUPS; group++)
        for (int k = 0; k < K; k++) {
            INDEPENDENT_FEW
            for (int l = 0; l < LANES; l++) sums[k * COLUMNS + first + group * LANES + l] = lane[group][k][l];
        }
}
// Rows whole where they fill the tile: memory likes neighbours.
template <int K, class Row> DEVICE void column_sum(float* sums, const Tile& tile, Row row) {
    uint32_t first = 0;
    if (tile.columns == COLUMNS) return column_sum_of<COLUMNS / LANES, K>(sums, tile, 0, row);
    for (; first + LANES <= tile.columns; first += LANES) column_sum_of<1, K>(sums, tile, first, row);
    for (uint32_t j = first; j < tile.columns; j++)
        for (int k = 0; k < K; k++) sums[k * COLUMNS + j] = 0.0f;
    for (uint64_t r = tile.row; first < tile.columns && r < tile.row + tile.rows; r++) {
        const auto value = row(r);
        for (uint32_t j = first; j < tile.columns; j++) {
            NOT_VECTORISED;
            float v[K];
            value(tile.column + j, v);
            for (int k = 0; k < K; k++) sums[k * COLUMNS + j] += v[k];
        }
    }
}

// The same functions of a row and a column as row(r)(column), but computed for a whole row of the tile before the first
// is asked for: where they cost much more than a place in the cache, the loops that ask for them are then compiled once.
template <class Row> DEVICE auto tabulated(const Tile& tile, Row row) {
    const uint64_t first = tile.column;
    const uint32_t count = tile.columns;
    return [=](uint64_t r) {
        SHARED(float, values, COLUMNS);
        const auto value = row(r);
        each_column(count, [&](Index j) { values[j] = value(first + j); });
        const float* const from = values;
        return [=](uint64_t column) { return from[column - first]; };
    };
}

// body(bucket, row, column) for every element, in the order of the rows within a column; bucket(row) says which rows
// touch the same memory, so that one thread does those.
template <class Bucket, class Body> DEVICE void each_in_order(const Tile& tile, Bucket bucket, Body body) {
    for (uint64_t row = tile.row; row < tile.row + tile.rows; row++) {
        const uint32_t b = bucket(row);
        each_column(tile.columns, [&](Index j) { body(b, row, tile.column + j); });
    }
}
#else
template <class Row> DEVICE void each(const Tile& tile, Row row) {
    const uint32_t column = thread() % COLUMNS;
    if (column < tile.columns)
        for (uint32_t r = thread() / COLUMNS; r < tile.rows; r += ROW_LANES) row(tile.row + r)(tile.column + column);
}

// Each thread its rows, then a tree over the threads of a column.
template <int K, class Row> DEVICE void column_sum(float* sums, const Tile& tile, Row row) {
    SHARED(float, lanes, K * BLOCK);
    float sum[K] = {};
    each(tile, [&](uint64_t r) {
        const auto value = row(r);
        return [=, &sum](uint64_t column) {
            float v[K];
            value(column, v);
            for (int k = 0; k < K; k++) sum[k] += v[k];
        };
    });
    for (int k = 0; k < K; k++) lanes[k * BLOCK + thread()] = sum[k];
    barrier();
    for (int half = BLOCK / 2; half >= int(COLUMNS); half /= 2) {
        if (thread() < half)
            for (int k = 0; k < K; k++) lanes[k * BLOCK + thread()] += lanes[k * BLOCK + thread() + half];
        barrier();
    }
    if (thread() < int(COLUMNS))
        for (int k = 0; k < K; k++) sums[k * COLUMNS + thread()] = lanes[k * BLOCK + thread()];
    barrier();
}

template <class Body> DEVICE void each_column(uint32_t count, Body body) {
    if (uint32_t(thread()) < count) body(uint32_t(thread()));
}

template <class Bucket, class Body> DEVICE void each_in_order(const Tile& tile, Bucket bucket, Body body) {
    const uint32_t column = thread() % COLUMNS, lane = thread() / COLUMNS;
    if (column < tile.columns)
        for (uint64_t row = tile.row; row < tile.row + tile.rows; row++) {
            const uint32_t b = bucket(row);
            if (b % ROW_LANES == lane) body(b, row, tile.column + column);
        }
}
#endif
