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
// body(row, column) for every element of the tile, in no order.
template <class Body> DEVICE void each(const Tile& tile, Body body) {
    for (uint64_t row = tile.row; row < tile.row + tile.rows; row++) {
        uint32_t group = 0;
        for (; group + LANES <= tile.columns; group += LANES) {
            INDEPENDENT
            for (int l = 0; l < LANES; l++) body(row, tile.column + group + l);
        }
        for (; group < tile.columns; group++) body(row, tile.column + group);
    }
}

// sums[k * COLUMNS + j] = sum over the tile's rows of the k-th value that value(row, column, v) stores in
// v[0 .. K - 1], column = tile.column + j. Every thread sees the sums.
template <int GROUPS, int WIDTH, int K, class Value> DEVICE void column_sum_of(float* sums, const Tile& tile, uint32_t first, Value value) {
    float lane[GROUPS][K][WIDTH] = {};
    for (uint64_t row = tile.row; row < tile.row + tile.rows; row++) {
        UNROLL
        for (int group = 0; group < GROUPS; group++) {
            INDEPENDENT
            for (int l = 0; l < WIDTH; l++) {
                float v[K];
                value(row, tile.column + first + group * WIDTH + l, v);
                for (int k = 0; k < K; k++) lane[group][k][l] += v[k];
            }
        }
    }
    for (int group = 0; group < GROUPS; group++)
        for (int k = 0; k < K; k++)
            for (int l = 0; l < WIDTH; l++) sums[k * COLUMNS + first + group * WIDTH + l] = lane[group][k][l];
}
// Rows whole where they fill the tile: memory likes neighbours.
template <int K, class Value> DEVICE void column_sum(float* sums, const Tile& tile, Value value) {
    uint32_t first = 0;
    if (tile.columns == COLUMNS) return column_sum_of<COLUMNS / LANES, LANES, K>(sums, tile, 0, value);
    for (; first + LANES <= tile.columns; first += LANES) column_sum_of<1, LANES, K>(sums, tile, first, value);
    for (; first < tile.columns; first++) column_sum_of<1, 1, K>(sums, tile, first, value);
}

// body(j) for j < count <= COLUMNS.
template <class Body> DEVICE void each_column(uint32_t count, Body body) {
    INDEPENDENT
    for (uint32_t j = 0; j < count; j++) body(j);
}

// body(bucket, row, column) for every element, in the order of the rows within a column; bucket(row) says which rows
// touch the same memory, so that one thread does those.
template <class Bucket, class Body> DEVICE void each_in_order(const Tile& tile, Bucket bucket, Body body) {
    for (uint64_t row = tile.row; row < tile.row + tile.rows; row++) {
        const uint32_t b = bucket(row);
        INDEPENDENT
        for (uint32_t j = 0; j < tile.columns; j++) body(b, row, tile.column + j);
    }
}
#else
template <class Body> DEVICE void each(const Tile& tile, Body body) {
    const uint32_t column = thread() % COLUMNS;
    if (column < tile.columns)
        for (uint32_t row = thread() / COLUMNS; row < tile.rows; row += ROW_LANES) body(tile.row + row, tile.column + column);
}

// Each thread its rows, then a tree over the threads of a column.
template <int K, class Value> DEVICE void column_sum(float* sums, const Tile& tile, Value value) {
    SHARED(float, lanes, K * BLOCK);
    float sum[K] = {};
    each(tile, [&](uint64_t row, uint64_t column) {
        float v[K];
        value(row, column, v);
        for (int k = 0; k < K; k++) sum[k] += v[k];
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
