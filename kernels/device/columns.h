// A matrix (rows, columns) shared out over blocks, each with some rows of at most COLUMNS columns; what a block does
// element by element, and sums over its rows, one per column. Columns lie next to each other in memory.
//
// On a GPU each thread has one column, or a run of them, and strides over the rows; on the host neighbouring columns are the lanes
// of a vector.
#pragma once
#include "math.h"
#include "reduce.h"
#include "run.h"

// The same numbers are `columns` in src/device/tuning.rs.
#if defined(ZGAN_HOST)
constexpr uint32_t COLUMNS = 64;
#else
constexpr uint32_t COLUMNS = 16;
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

// The same for the columns `at` of run.h, here one at a time. put(row, at, value(row, at)) for every element of the tile:
template <class Value, class Put, class BeforeRow = Nothing>
DEVICE void each_run(const Tile& tile, bool, Value value, Put put, BeforeRow before_row = {}) {
    each(tile, [&](uint64_t row, uint64_t c) { put(row, One{c}, value(row, One{c})); }, before_row);
}
// The k-th value that value(row, at, v) stores in v[k].
template <int K, class Value, class BeforeRow = Nothing>
DEVICE void column_sum_runs(float* sums, const Tile& tile, bool, Value value, BeforeRow before_row = {}) {
    column_sum<K>(sums, tile, [&](uint64_t row, uint64_t c, float* v) { value(row, One{c}, v); }, before_row);
}
#else
// The share of a thread: its columns, and the first row and the step from row to row.
template <class At> struct Share {
    static constexpr uint32_t PLACES = COLUMNS / At::WIDTH, STEP = BLOCK / PLACES;
    const uint32_t column = thread() % PLACES * At::WIDTH, row = thread() / PLACES;
};
template <class At, class Body> DEVICE void each_at(const Tile& tile, Body body) {
    const Share<At> own;
    if (own.column < tile.columns) {
        UNROLL_FOUR
        for (uint32_t row = own.row; row < tile.rows; row += own.STEP) body(tile.row + row, At{Index(tile.column + own.column)});
    }
}
template <class Body> DEVICE void each(const Tile& tile, Body body, Nothing = {}) {
    each_at<One>(tile, [&](uint64_t row, One at) { body(row, at.column); });
}

// put(row, at, value(row, at)) for every element of the tile. What several values are computed from is loaded before the first of
// them is stored: compilers do not move a load up over a store.
template <class At, class Value, class Put> DEVICE void put_at(const Tile& tile, Value value, Put put) {
    constexpr uint32_t AT_ONCE = At::WIDTH > 1 ? 16 / At::WIDTH : 1;
    const Share<At> own;
    const At at = {Index(tile.column + own.column)};
    if (own.column >= tile.columns) return;
    uint32_t row = own.row;
    for (; row + (AT_ONCE - 1) * own.STEP < tile.rows; row += AT_ONCE * own.STEP) {
        typename At::Value v[AT_ONCE];
        UNROLL
        for (uint32_t i = 0; i < AT_ONCE; i++) v[i] = value(tile.row + row + i * own.STEP, at);
        UNROLL
        for (uint32_t i = 0; i < AT_ONCE; i++) put(tile.row + row + i * own.STEP, at, v[i]);
    }
    for (; row < tile.rows; row += own.STEP) put(tile.row + row, at, value(tile.row + row, at));
}
// `at` is a run of columns where that is possible, else one column.
template <class Value, class Put> DEVICE void each_run(const Tile& tile, bool runs, Value value, Put put, Nothing = {}) {
    if (runs) put_at<Run>(tile, value, put);
    else put_at<One>(tile, value, put);
}

// Each thread sums its own rows; then a tree joins the threads of a warp that have the same columns. parts[warp][k][column].
template <class At, int K, class Value> DEVICE void warp_sums(float* parts, const Tile& tile, Value value) {
    constexpr uint32_t PLACES = COLUMNS / At::WIDTH;
    typename At::Value sum[K] = {};
    each_at<At>(tile, [&](uint64_t row, At at) {
        typename At::Value v[K];
        value(row, at, v);
        for (int k = 0; k < K; k++) sum[k] = at.of([](float a, float b) { return a + b; }, sum[k], v[k]);
    });
    for (int k = 0; k < K; k++) {
        UNROLL
        for (uint32_t i = 0; i < At::WIDTH; i++) {
            float joined = At::lane(sum[k], i);
            for (int mask = PLACES; mask < WARP; mask *= 2) joined += shuffle_xor(joined, mask);
            if (thread() % WARP < int(PLACES))
                parts[(thread() / WARP * K + k) * COLUMNS + thread() % PLACES * At::WIDTH + i] = joined;
        }
    }
}
template <int K> DEVICE void join_warps(float* sums, const float* parts) {
    barrier();
    if (thread() < int(K * COLUMNS)) {
        float sum = 0.0f;
        for (int w = 0; w < WARPS; w++) sum += parts[w * K * COLUMNS + thread()];
        sums[thread()] = sum;
    }
    barrier();
}
template <int K, class Value>
DEVICE void column_sum_runs(float* sums, const Tile& tile, bool runs, Value value, Nothing = {}) {
    SHARED(float, parts, WARPS * K * COLUMNS);
    if (runs) warp_sums<Run, K>(parts, tile, value);
    else warp_sums<One, K>(parts, tile, value);
    join_warps<K>(sums, parts);
}
template <int K, bool FEW = false, class Value> DEVICE void column_sum(float* sums, const Tile& tile, Value value, Nothing = {}) {
    SHARED(float, parts, WARPS * K * COLUMNS);
    warp_sums<One, K>(parts, tile, [&](uint64_t row, One at, float* v) { value(row, at.column, v); });
    join_warps<K>(sums, parts);
}

template <class Body> DEVICE void each_column(uint32_t count, Body body) {
    if (uint32_t(thread()) < count) body(uint32_t(thread()));
}
#endif
