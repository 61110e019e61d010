// A matrix (rows, columns) shared out over blocks, each with some rows of at most COLUMNS columns; what a block does
// element by element, and sums over its rows, one per column. Columns lie next to each other in memory.
//
// On a GPU each thread has one column and strides over the rows; on the host neighbouring columns are the lanes of a vector.
#pragma once
#include "math.h"
#include "reduce.h"

// The same numbers are `columns` in src/device/tuning.rs.
#if defined(ZGAN_HOST)
constexpr uint32_t COLUMNS = 64;
#else
constexpr uint32_t COLUMNS = 16, ROW_LANES = BLOCK / COLUMNS;
#endif

struct Nothing {
    MEMBER void operator()(uint64_t, uint64_t, uint32_t) const {}
};

struct Tile {
    uint64_t row;  // the first
    uint32_t rows;
    uint64_t column;
    uint32_t columns;
};

// The share of a block in a one-dimensional grid. Rows come in groups of `span`, each group in `splits` parts of `chunk` rows, each
// part in tiles of COLUMNS columns. The blocks of one part follow each other, so that they find its rows in the cache.
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
// What one register holds, and all of them. A loop of VECTOR_LANES steps becomes one vector operation; a longer one would
// stay a loop, or be taken apart before it is vectorised.
#if defined(__AVX512F__)
constexpr int VECTOR_LANES = 16, ALL_LANES = 32 * VECTOR_LANES;
#elif defined(__AVX2__)
constexpr int VECTOR_LANES = 8, ALL_LANES = 16 * VECTOR_LANES;
#elif defined(__ARM_NEON)
constexpr int VECTOR_LANES = 4, ALL_LANES = 32 * VECTOR_LANES;
#else
constexpr int VECTOR_LANES = 4, ALL_LANES = 16 * VECTOR_LANES;
#endif
// body(i) for i < COUNT, a power of two.
template <int COUNT, class Body> DEVICE void by_registers(Body body) {
    constexpr int STEP = COUNT < VECTOR_LANES ? COUNT : VECTOR_LANES;
    UNROLL
    for (int i = 0; i < COUNT; i += STEP) {
        INDEPENDENT_FEW
        for (int l = 0; l < STEP; l++) body(i + l);
    }
}

// body(j) for j < count <= COLUMNS.
template <class Body> DEVICE void each_column(uint32_t count, Body body) {
    Index j = 0;
    for (; j + VECTOR_LANES <= count; j += VECTOR_LANES) by_registers<VECTOR_LANES>([&](int l) { body(j + l); });
    if constexpr (VECTOR_LANES > 4)
        for (; j + 4 <= count; j += 4) by_registers<4>([&](int l) { body(j + l); });
    for (; j < count; j++) {
        NOT_VECTORISED;
        body(j);
    }
}

// body(row, column) for every element of the tile, in no order within a row. Before the columns first .. first + count of a row
// comes before_row(row, first, count).
template <class Body, class BeforeRow = Nothing> DEVICE void each(const Tile& tile, Body body, BeforeRow before_row = {}) {
    for (uint64_t row = tile.row; row < tile.row + tile.rows; row++) {
        before_row(row, tile.column, tile.columns);
        each_column(tile.columns, [&](Index j) { body(row, tile.column + j); });
    }
}

// sums[k * COLUMNS + j] = sum over the tile's rows of the k-th value that value(row, column, v) stores in
// v[0 .. K - 1], column = tile.column + j. Every thread sees the sums.
template <int COUNT, int K, class Value, class BeforeRow>
DEVICE void column_sum_of(float* sums, const Tile& tile, uint32_t first, Value value, BeforeRow before_row) {
    float lane[K][COUNT] = {};
    for (uint64_t row = tile.row; row < tile.row + tile.rows; row++) {
        before_row(row, tile.column + first, COUNT);
        by_registers<COUNT>([&](int l) {
            float v[K];
            value(row, tile.column + first + l, v);
            for (int k = 0; k < K; k++) lane[k][l] += v[k];
        });
        NOT_VECTORISED;  // over the rows, whose addresses each cost a division
    }
    for (int k = 0; k < K; k++) by_registers<COUNT>([&](int l) { sums[k * COLUMNS + first + l] = lane[k][l]; });
}
// Reads whole rows of the tile, in the order of memory, where they have COLUMNS columns and the registers hold all their sums;
// otherwise a few columns at a time. FEW says that there are only a few rows, such as those of partial results: the program then
// does without the loops for whole rows and for four columns.
template <int K, bool FEW = false, class Value, class BeforeRow = Nothing>
DEVICE void column_sum(float* sums, const Tile& tile, Value value, BeforeRow before_row = {}) {
    uint32_t first = 0;
    if constexpr (!FEW && K * COLUMNS <= ALL_LANES)
        if (tile.columns == COLUMNS) return column_sum_of<COLUMNS, K>(sums, tile, 0, value, before_row);
    for (; first + LANES <= tile.columns; first += LANES) column_sum_of<LANES, K>(sums, tile, first, value, before_row);
    if constexpr (!FEW)
        for (; first + 4 <= tile.columns; first += 4) column_sum_of<4, K>(sums, tile, first, value, before_row);
    if (first == tile.columns) return;
    for (uint32_t j = first; j < tile.columns; j++)
        for (int k = 0; k < K; k++) sums[k * COLUMNS + j] = 0.0f;
    for (uint64_t row = tile.row; row < tile.row + tile.rows; row++) {
        before_row(row, tile.column + first, tile.columns - first);
        for (uint32_t j = first; j < tile.columns; j++) {
            NOT_VECTORISED;
            float v[K];
            value(row, tile.column + j, v);
            for (int k = 0; k < K; k++) sums[k * COLUMNS + j] += v[k];
        }
    }
}

// body(bucket, row, column) for every element, in the order of the rows within a column. Rows of the same bucket(row) touch the
// same memory, so one thread does all of those.
template <class Bucket, class Body> DEVICE void each_in_order(const Tile& tile, Bucket bucket, Body body) {
    for (uint64_t row = tile.row; row < tile.row + tile.rows; row++) {
        const uint32_t b = bucket(row);
        each_column(tile.columns, [&](Index j) { body(b, row, tile.column + j); });
    }
}
#else
template <class Body> DEVICE void each(const Tile& tile, Body body, Nothing = {}) {
    const uint32_t column = thread() % COLUMNS;
    if (column < tile.columns)
        for (uint32_t row = thread() / COLUMNS; row < tile.rows; row += ROW_LANES) body(tile.row + row, tile.column + column);
}

// Each thread sums its own rows; then a tree joins the threads of a column.
template <int K, bool FEW = false, class Value> DEVICE void column_sum(float* sums, const Tile& tile, Value value, Nothing = {}) {
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
