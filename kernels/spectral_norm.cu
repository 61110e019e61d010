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
// A power iteration is one launch, a block per entry, where no matrix is large; else three: products by tiles of rows,
// a block per entry to join them, and the division by tiles. Outputs as columns need one pass over S for both
// products, since both walk its rows: t_i = S_i . u and acc += t_i S_i; then v = t / |t|, M v = acc / |t|.
// Outputs as rows (M v needs all of v) take two. Backward is two launches: dot products by tiles, and the update.
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
    uint32_t first_tile, tiles;
};
// Rows begin .. end of an entry. `Tile` there.
struct Tile { uint32_t entry, begin, end, partial; };

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

// The sum over `tiles` partial rows of `columns`, into the first.
DEVICE void join(float* partials, uint32_t columns, uint32_t tiles) {
    column_sums(0, columns, tiles, Everything(),
                [&](uint32_t r, auto c) { return partials[uint64_t(r) * columns + c]; },
                [&](uint32_t c, float sum) { partials[c] = sum; });
}

// What an entry's tiles give: for outputs as columns v holds t and partials the joined M v |t|, or without iteration
// v is v and partials M v; for outputs as rows partials hold M^T u, or without iteration nothing.
// Writes u, v and sigma[entry].
CALLED void finish(float* RESTRICT sigma, float* RESTRICT u, float* RESTRICT v, float* RESTRICT work,
                   const float* RESTRICT S, const Weight& e, uint32_t iterate) {
    const uint32_t outputs = e.kind == 1 ? e.columns : e.rows, inputs = e.kind == 1 ? e.rows : e.columns;
    float* product = work;  // M v, times `factor`
    float factor = 1.0f;
    if (e.kind == 1) {
        if (iterate) {
            factor = inverse(norm(v, inputs));
            barrier();
            scaled(v, v, factor, inputs);
        }
    } else {
        if (iterate) {
            scaled(v, work, inverse(norm(work, inputs)), inputs);
            barrier();
        }
        product = work + inputs;
        row_dots(product, S, v, outputs, inputs);
        barrier();
    }
    if (iterate) {
        const float length = factor * norm(product, outputs), unit = inverse(length);
        scaled(u, product, factor * unit, outputs);
        if (thread() == 0) *sigma = at_least(EPS, length * length * unit);  // u . M v
    } else {
        float sum[1];
        block_sum(sum, outputs, [&](auto i, float* value) { value[0] = u[i] * product[i]; });
        if (thread() == 0) *sigma = absolute(sum[0]) < EPS ? EPS : sum[0];
    }
}

// The products that need rows begin .. end of S, into `work` (and t into v).
DEVICE void products(float* RESTRICT work, float* RESTRICT v, const float* RESTRICT S, const float* RESTRICT u,
                     const Weight& e, uint32_t begin, uint32_t end, uint32_t iterate) {
    if (e.kind == 1) {
        if (iterate) both_products(v, work, S, u, e.columns, begin, end);
        else weighted_rows(work, S, v, e.columns, begin, end);
    } else if (iterate) {
        weighted_rows(work, S, u, e.columns, begin, end);
    }
}

DEVICE void divide(float* RESTRICT effective, const float* RESTRICT weights, const Weight& e, float sigma, uint32_t begin,
                   uint32_t end) {
    const uint32_t first = e.offset + begin * e.columns, count = (end - begin) * e.columns;
    float* const y = effective + first;
    const float* const x = weights + first;
    const float divisor = e.kind == 0 ? 1.0f : sigma;
    INDEPENDENT
    for (uint32_t i = thread(); i < count; i += BLOCK) y[i] = x[i] / divisor;
}

// Everything in one launch. Grid (entries).
KERNEL(256, 4) spectral_norm_fused_f32(float* RESTRICT effective,        // (parameters)
                                       float* RESTRICT sigma,            // (entries)
                                       float* RESTRICT u,                // (sum of outputs)
                                       float* RESTRICT v,                // (sum of inputs)
                                       float* RESTRICT work,             // (work): columns per tile, at least columns + rows
                                       const float* RESTRICT weights,    // (parameters)
                                       const Weight* RESTRICT entries,   // (entries)
                                       const Tile* RESTRICT tiles,       // (tiles)
                                       uint32_t iterate) {
    const Weight e = entries[blockIdx.x];
    if (e.kind != 0) {
        float* const mine = work + tiles[e.first_tile].partial;
        products(mine, v + e.v, weights + e.offset, u + e.u, e, 0, e.rows, iterate);
        barrier();
        finish(sigma + blockIdx.x, u + e.u, v + e.v, mine, weights + e.offset, e, iterate);
        barrier();
    }
    divide(effective, weights, e, e.kind == 0 ? 1.0f : sigma[blockIdx.x], 0, e.rows);
}

// 1 of 3. Grid (tiles).
KERNEL(256, 0) spectral_norm_products_f32(float* RESTRICT work,            // as above
                                          float* RESTRICT v,               // (sum of inputs)
                                          const float* RESTRICT u,         // (sum of outputs)
                                          const float* RESTRICT weights,   // (parameters)
                                          const Weight* RESTRICT entries,  // (entries)
                                          const Tile* RESTRICT tiles,      // (tiles)
                                          uint32_t iterate) {
    const Tile tile = tiles[blockIdx.x];
    const Weight e = entries[tile.entry];
    if (e.kind != 0)
        products(work + tile.partial, v + e.v, weights + e.offset, u + e.u, e, tile.begin, tile.end, iterate);
}

// 2 of 3. Grid (entries).
KERNEL(256, 4) spectral_norm_finish_f32(float* RESTRICT sigma,           // (entries)
                                        float* RESTRICT u,               // (sum of outputs)
                                        float* RESTRICT v,               // (sum of inputs)
                                        float* RESTRICT work,            // as above
                                        const float* RESTRICT weights,   // (parameters)
                                        const Weight* RESTRICT entries,  // (entries)
                                        const Tile* RESTRICT tiles,      // (tiles)
                                        uint32_t iterate) {
    const Weight e = entries[blockIdx.x];
    if (e.kind != 0) {
        float* const mine = work + tiles[e.first_tile].partial;
        if (e.kind == 1 || iterate) join(mine, e.columns, e.tiles);
        finish(sigma + blockIdx.x, u + e.u, v + e.v, mine, weights + e.offset, e, iterate);
    }
}

// 3 of 3. Grid (tiles).
KERNEL(256, 0) spectral_norm_divide_f32(float* RESTRICT effective,       // (parameters)
                                        const float* RESTRICT sigma,     // (entries)
                                        const float* RESTRICT weights,   // (parameters)
                                        const Weight* RESTRICT entries,  // (entries)
                                        const Tile* RESTRICT tiles) {
    const Tile tile = tiles[blockIdx.x];
    const Weight e = entries[tile.entry];
    divide(effective, weights, e, e.kind == 0 ? 1.0f : sigma[tile.entry], tile.begin, tile.end);
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
