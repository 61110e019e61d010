// Spectral normalisation of all weights of a network together (Miyato et al. 2018).
//
//   M (outputs, inputs) is a weight as the formulas see it, u (outputs) and v (inputs) its persistent vectors.
//   v = M^T u / max(|M^T u|, eps)     u = M v / max(|M v|, eps)     sigma = u^T M v     effective = M / sigma
//   With G = dL / d effective, u and v constant:     dL/dM = (G - <G, effective> u v^T) / sigma
//
// Without iteration (evaluation) u and v stay and sigma = u^T M v, as in PyTorch; so both belong in a checkpoint.
// eps = 1e-12; sigma is kept away from 0 by as much, so that a matrix of zeros stays one.
//
// A weight is stored row-major, rows by columns, in one flat buffer of parameters. Filters (R, S, C, K) and linear layers (C, K)
// have their outputs as columns: the stored matrix S is M^T. Embeddings (classes, C) have them as rows: S = M. Stretches of parameters
// between the normalised weights are entries too, and are copied, so that `effective` holds all parameters.
//
// A large matrix is shared out over tiles of rows, a block each. The first launch computes the tiles' products. In the last one
// every block of a matrix joins them, finds sigma by itself, and divides its tile: that reads little, and saves a launch. A matrix of
// one tile has no part in the first launch: its block of the last one does everything. So a network of small matrices takes one
// launch, any other two, and three where outputs as rows are more than one tile.
//
// Outputs as columns need one pass over S for both products, since both walk its rows: t_i = S_i . u and acc += t_i S_i;
// then v = t / |t|, M v = acc / |t|. Outputs as rows (M v needs all of v) take two. Backward is two launches: dot products by
// tiles, and the update.
//
// effective, sigma, u, v overwrite; backward changes the gradient in place.
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/rows.h"

constexpr float EPS = 1e-12f;

// `Entry` in src/ops/spectral_norm.rs is the same structure in Rust.
struct Weight {
    uint32_t kind;           // 0 copied, 1 outputs are columns, 2 outputs are rows
    uint32_t offset;         // of the stored matrix in the flat buffers
    uint32_t rows, columns;  // as stored; a copied stretch has one column
    uint32_t u, v;           // offsets of its u and v
    uint32_t work;           // offset in `work` of rows floats, then a row of `columns` floats for each tile, then, where there
                             // are several tiles, as many rows for their joined sums
    uint32_t first_tile, tiles;
};
// Rows begin .. end of an entry. `Tile` there.
struct Tile { uint32_t entry, begin, end; };

// Rows that are read twice in a row: once for their dot products, once, from cache, for their sum.
constexpr uint32_t STRIP = WARPS > 1 ? 4 * WARPS : 8;

// dots (rows) = S x; to be read after a barrier.
CALLED void row_dots(float* RESTRICT dots, const float* RESTRICT S, const float* RESTRICT x, uint32_t rows,
                     uint32_t columns) {
    for_each_row(rows, [&](uint32_t r) {
        const float* const row = S + uint64_t(r) * columns;
        const float sum = row_sum(columns, [&](auto c) { return row[c] * x[c]; });
        if (row_leader()) dots[r] = sum;
    });
}

// Outputs as columns: t (rows, unnormalised) and acc (columns) += sum of t_i S_i over rows begin .. end.
CALLED void both_products(float* RESTRICT t, float* RESTRICT acc, const float* RESTRICT S, const float* RESTRICT u,
                          uint32_t columns, uint32_t begin, uint32_t end) {
    for_each_element(1, columns, [&](uint32_t) { return [=](uint32_t c) { acc[c] = 0.0f; }; });
    for (uint32_t first = begin; first < end; first += STRIP) {
        const uint32_t count = end - first < STRIP ? end - first : STRIP;
        const float* const strip = S + uint64_t(first) * columns;
        float* const dots = t + first;
        row_dots(dots, strip, u, count, columns);
        barrier();
        column_sums(0, columns, count, Everything(),
                    [&](uint32_t r, auto c) { return dots[r] * strip[uint64_t(r) * columns + c]; },
                    [&](uint32_t c, float sum) { acc[c] += sum; });
    }
}

// result (columns) = sum over rows begin .. end of a_r S_r.
CALLED void weighted_rows(float* RESTRICT result, const float* RESTRICT S, const float* RESTRICT a, uint32_t columns,
                          uint32_t begin, uint32_t end) {
    const float* const rows = S + uint64_t(begin) * columns;
    column_sums(0, columns, end - begin, Everything(),
                [&](uint32_t r, auto c) { return a[begin + r] * rows[uint64_t(r) * columns + c]; },
                [&](uint32_t c, float sum) { result[c] = sum; });
}

CALLED float norm(const float* RESTRICT x, uint32_t n) {
    float sum[1];
    block_sum(sum, n, [&](auto i, float* v) { v[0] = x[i] * x[i]; });
    return square_root(sum[0]);
}

// y = x * scale; may be in place.
DEVICE void scaled(float* y, const float* x, float scale, uint32_t n) {
    INDEPENDENT
    for (uint32_t i = thread(); i < n; i += BLOCK) y[i] = x[i] * scale;
}

DEVICE float inverse(float length) { return 1.0f / at_least(EPS, length); }

// What the kernels compute in `work` for an entry: a number for each row, and for each column.
struct Sums {
    float* along;   // t, or M v where outputs are rows
    float* across;  // M v |t|, or M^T u where outputs are rows: this tile's part
    float* joined;  // the sum of all tiles' parts, for this tile alone
};
DEVICE Sums sums_of(float* work, const Weight& e, uint32_t tile) {
    float* const along = work + e.work;
    float* const across = along + e.rows + uint64_t(tile) * e.columns;
    return {along, across, e.tiles == 1 ? across : across + uint64_t(e.tiles) * e.columns};
}

// The products that need rows begin .. end of S.
DEVICE void products(const Sums& sums, const float* RESTRICT S, const float* RESTRICT u, const float* RESTRICT v,
                     const Weight& e, uint32_t begin, uint32_t end, uint32_t iterate) {
    if (e.kind == 1) {
        if (iterate) both_products(sums.along, sums.across, S, u, e.columns, begin, end);
        else weighted_rows(sums.across, S, v, e.columns, begin, end);
    } else if (iterate) {
        weighted_rows(sums.across, S, u, e.columns, begin, end);
    }
}

// The joined sum of all tiles' parts.
DEVICE void join(const Sums& sums, const float* RESTRICT work, const Weight& e) {
    if (e.tiles == 1) return;
    const float* const parts = work + e.work + e.rows;
    column_sums(0, e.columns, e.tiles, Everything(),
                [&](uint32_t r, auto c) { return parts[uint64_t(r) * e.columns + c]; },
                [&](uint32_t c, float sum) { sums.joined[c] = sum; });
}

// Outputs as rows: M v for rows begin .. end.
DEVICE void second_product(const Sums& sums, const float* RESTRICT S, const float* RESTRICT v, const Weight& e, uint32_t begin,
                           uint32_t end) {
    row_dots(sums.along + begin, S + uint64_t(begin) * e.columns, v, end - begin, e.columns);
}

// sigma of an entry, from the sums over all its rows. Where `writes`, u and v too, if they change.
CALLED float finish(float* RESTRICT u, float* RESTRICT v, const Sums& sums, const float* RESTRICT S, const Weight& e,
                    uint32_t iterate, bool writes) {
    const uint32_t outputs = e.kind == 1 ? e.columns : e.rows, inputs = e.kind == 1 ? e.rows : e.columns;
    const float* const into = e.kind == 1 ? sums.along : sums.joined;     // M^T u
    const float* const product = e.kind == 1 ? sums.joined : sums.along;  // M v, times `factor`
    float factor = 1.0f;
    if (iterate) {
        const float unit = inverse(norm(into, inputs));
        if (writes) scaled(v, into, unit, inputs);
        if (e.kind == 1) factor = unit;
    }
    if (e.kind == 2 && e.tiles == 1) {
        barrier();
        second_product(sums, S, v, e, 0, e.rows);
        barrier();
    }
    if (iterate) {
        const float length = factor * norm(product, outputs), unit = inverse(length);
        if (writes) scaled(u, product, factor * unit, outputs);
        return at_least(EPS, length * length * unit);  // u . M v
    }
    float sum[1];
    block_sum(sum, outputs, [&](auto i, float* value) { value[0] = u[i] * product[i]; });
    return absolute(sum[0]) < EPS ? EPS : sum[0];
}

// The products of matrices of several tiles. Grid (tiles).
KERNEL(256, 0) spectral_norm_products_f32(float* RESTRICT work,            // (work)
                                          const float* RESTRICT u,         // (sum of outputs)
                                          const float* RESTRICT v,         // (sum of inputs)
                                          const float* RESTRICT weights,   // (parameters)
                                          const Weight* RESTRICT entries,  // (entries)
                                          const Tile* RESTRICT tiles,      // (tiles)
                                          uint32_t iterate) {
    const Tile tile = tiles[blockIdx.x];
    const Weight e = entries[tile.entry];
    const Sums sums = sums_of(work, e, blockIdx.x - e.first_tile);
    if (e.kind != 0 && e.tiles > 1) products(sums, weights + e.offset, u + e.u, v + e.v, e, tile.begin, tile.end, iterate);
}

// Their second product, where outputs are rows. Every block takes v from the first one. Grid (tiles).
KERNEL(256, 0) spectral_norm_second_products_f32(float* RESTRICT work,            // (work)
                                                 const float* RESTRICT v,         // (sum of inputs)
                                                 const float* RESTRICT weights,   // (parameters)
                                                 const Weight* RESTRICT entries,  // (entries)
                                                 const Tile* RESTRICT tiles,      // (tiles)
                                                 uint32_t iterate) {
    const Tile tile = tiles[blockIdx.x];
    const Weight e = entries[tile.entry];
    if (e.kind == 2 && e.tiles > 1) {
        const Sums sums = sums_of(work, e, blockIdx.x - e.first_tile);
        const float* from = v + e.v;
        if (iterate) {
            join(sums, work, e);
            scaled(sums.joined, sums.joined, inverse(norm(sums.joined, e.columns)), e.columns);
            barrier();
            from = sums.joined;
        }
        second_product(sums, weights + e.offset, from, e, tile.begin, tile.end);
    }
}

// What is left, see above. Grid (tiles).
KERNEL(256, 3) spectral_norm_f32(float* RESTRICT effective,        // (parameters)
                                 float* RESTRICT sigma,            // (entries)
                                 float* RESTRICT u,                // (sum of outputs)
                                 float* RESTRICT v,                // (sum of inputs)
                                 float* RESTRICT work,             // (work)
                                 const float* RESTRICT weights,    // (parameters)
                                 const Weight* RESTRICT entries,   // (entries)
                                 const Tile* RESTRICT tiles,       // (tiles)
                                 uint32_t iterate) {
    const Tile tile = tiles[blockIdx.x];
    const Weight e = entries[tile.entry];
    float divisor = 1.0f;
    if (e.kind != 0) {
        const Sums sums = sums_of(work, e, blockIdx.x - e.first_tile);
        const float* const S = weights + e.offset;
        const bool first = tile.begin == 0;
        if (e.tiles == 1) {
            products(sums, S, u + e.u, v + e.v, e, 0, e.rows, iterate);
            barrier();
        } else if (e.kind == 1 || iterate) {
            join(sums, work, e);
        }
        divisor = finish(u + e.u, v + e.v, sums, S, e, iterate, first);
        if (first && thread() == 0) sigma[tile.entry] = divisor;
    }
    const uint32_t start = e.offset + tile.begin * e.columns, count = (tile.end - tile.begin) * e.columns;
    float* const y = effective + start;
    const float* const x = weights + start;
    INDEPENDENT
    for (uint32_t i = thread(); i < count; i += BLOCK) y[i] = x[i] / divisor;
}

// 1 of 2: <G, effective> of a tile. Grid (tiles).
KERNEL(256, 0) spectral_norm_dots_f32(float* RESTRICT dots,            // (tiles)
                                      const float* RESTRICT gradient,  // (parameters)
                                      const float* RESTRICT effective, // (parameters)
                                      const Weight* RESTRICT entries,  // (entries)
                                      const Tile* RESTRICT tiles) {
    const Tile tile = tiles[blockIdx.x];
    const Weight e = entries[tile.entry];
    const uint32_t first = e.offset + tile.begin * e.columns, count = (tile.end - tile.begin) * e.columns;
    const float* const g = gradient + first;
    const float* const w = effective + first;
    float sum[1];
    block_sum(sum, e.kind == 0 ? 0 : count, [&](auto i, float* value) { value[0] = g[i] * w[i]; });
    if (thread() == 0) dots[blockIdx.x] = sum[0];
}

// 2 of 2. Grid (tiles).
KERNEL(256, 0) spectral_norm_backward_f32(float* RESTRICT gradient,        // (parameters)
                                          const float* RESTRICT dots,      // (tiles)
                                          const float* RESTRICT sigma,     // (entries)
                                          const float* RESTRICT u,         // (sum of outputs)
                                          const float* RESTRICT v,         // (sum of inputs)
                                          const Weight* RESTRICT entries,  // (entries)
                                          const Tile* RESTRICT tiles) {
    const Tile tile = tiles[blockIdx.x];
    const Weight e = entries[tile.entry];
    if (e.kind != 0) {
        float dot[1];
        block_sum(dot, e.tiles, [&](auto i, float* value) { value[0] = dots[e.first_tile + i]; });
        const float d = dot[0], s = sigma[tile.entry];
        const float* const by_row = e.kind == 1 ? v + e.v : u + e.u;
        const float* const by_column = e.kind == 1 ? u + e.u : v + e.v;
        float* const g = gradient + e.offset + tile.begin * e.columns;
        for_each_element(tile.end - tile.begin, e.columns, [&](uint32_t r) {
            const float scale = d * by_row[tile.begin + r];
            float* const row = g + r * e.columns;
            return [=](uint32_t c) { row[c] = (row[c] - scale * by_column[c]) / s; };
        });
    }
}
