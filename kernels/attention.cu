// Self-attention (SAGAN, Zhang et al. 2019) between its 1x1 convolutions, without the L x Lk matrix in memory; and the
// gated residual around it.
//
//   s[i,j] = q_i . k_j (no 1 / sqrt(Dk))    p = softmax over j of s    o_i = sum over j of p[i,j] v_j
//   q (N, L, Dk), k (N, Lk, Dk), v (N, Lk, Dv), o (N, L, Dv); saved: lse[i] = log sum over j of exp(s[i,j])  (N, L)
//
//   delta_i = do_i . o_i            ds[i,j] = p[i,j] (do_i . v_j - delta_i),  p[i,j] = exp(s[i,j] - lse_i) anew
//   dq_i = sum over j of ds[i,j] k_j     dk_j = sum over i of ds[i,j] q_i     dv_j = sum over i of p[i,j] do_i
//
//   y = x + gamma * a     da = gamma * dy     dgamma += sum over n of scale[n] * (dy[n] . a[n])     dx is dy itself
//
// A block owns TILE queries (forward, dq) or TILE keys (dk, dv) and goes through the other side by tiles, so every sum has one
// owner and one order. The softmax is computed as the keys come: where a tile raises the maximum so far, the sums before it are
// scaled down. The first launch of backward computes dq and delta, the second dk and dv from delta. All but dgamma overwrites.
// Sums over tiles grow in the output itself; where that has 16 bits, they grow in the f32 array `sums`, which is null in f32.
// Memory traffic: a block reads the other side's rows once, and its own o, dq, dk or dv once a tile, from cache.
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/rows.h"
#include "device/product.h"
#include "device/number.h"

PRECISIONS(f32, bf16, f16)

constexpr uint32_t TILE = 64;   // rows of both sides
constexpr uint32_t PITCH = 68;  // from row to row of a tile of scores: rows start in different banks
constexpr uint32_t DEPTH = 16;  // columns that are transposed at a time

DEVICE uint32_t at_most(uint32_t n, uint32_t limit) { return n < limit ? n : limit; }

// device/product.h's product, compiled once for each pair of types.
template <class Left, class Right>
CALLED void multiply(float* RESTRICT C, uint32_t c_pitch, const Left* RESTRICT A, uint32_t a_pitch, const Right* RESTRICT B,
                     uint32_t b_pitch, uint32_t rows, uint32_t columns, uint32_t depth, bool accumulate) {
    product(C, c_pitch, A, a_pitch, B, b_pitch, rows, columns, depth, accumulate);
}

// S[a][b] = A_a . B_b for rows of D numbers. Ends with a barrier.
CALLED void scores(float* RESTRICT S, const T* RESTRICT A, const T* RESTRICT B, uint32_t a_rows, uint32_t b_rows, uint32_t D) {
    SHARED(float, transposed, DEPTH * PITCH);
    for (uint32_t d0 = 0; d0 < D; d0 += DEPTH) {
        const uint32_t depth = at_most(D - d0, DEPTH);
        for_each_element(b_rows, depth, [&](uint32_t b) {
            const T* const from = B + uint64_t(b) * D + d0;
            float* const to = transposed + b;
            return [=](uint32_t d) { to[d * PITCH] = from[d]; };
        });
        barrier();
        multiply(S, PITCH, A + d0, D, transposed, PITCH, a_rows, b_rows, depth, d0 > 0);
        barrier();
    }
}

// `growing` is where the sums of an output grow; `settle` copies them to the output, unless they grew there.
DEVICE float* growing(float* output, float*) { return output; }
template <class Stored> DEVICE float* growing(Stored*, float* sums) { return sums; }
DEVICE void settle(float*, const float*, uint32_t) {}
template <class Stored> DEVICE void settle(Stored* RESTRICT output, const float* RESTRICT sums, uint32_t n) {
    for_each_element(1, n, [&](uint32_t) { return [=](uint32_t i) { output[i] = sums[i]; }; });
}

// Grid (N, tiles of queries).
KERNEL(256, 0) PRECISE(attention_forward)(T* RESTRICT o,            // (N, L, Dv)
                                          float* RESTRICT lse,      // (N, L)
                                          float* RESTRICT sums,     // (N, L, Dv) or null
                                          const T* RESTRICT q,      // (N, L, Dk)
                                          const T* RESTRICT k,      // (N, Lk, Dk)
                                          const T* RESTRICT v,      // (N, Lk, Dv)
                                          uint32_t L, uint32_t Lk, uint32_t Dk, uint32_t Dv) {
    SHARED(float, S, TILE * PITCH);
    SHARED(float, maximum, TILE);
    SHARED(float, sum, TILE);
    const uint32_t n = blockIdx.x, first = blockIdx.y * TILE, rows = at_most(L - first, TILE);
    const uint64_t query = uint64_t(n) * L + first, keys = uint64_t(n) * Lk;
    float* const out = growing(o, sums) + query * Dv;
    for (uint32_t key = 0; key < Lk; key += TILE) {
        const uint32_t count = at_most(Lk - key, TILE);
        scores(S, q + query * Dk, k + (keys + key) * Dk, rows, count, Dk);
        for_each_row(rows, [&](uint32_t r) {
            float* const row = S + r * PITCH;
            const float before = key > 0 ? maximum[r] : -INFINITY;
            const float m = larger(before, row_maximum(count, [&](auto j) { return row[j]; }));
            const float total = row_sum(count, [&](auto j) { return row[j] = exp(row[j] - m); });
            const float fade = exp(before - m);
            float* const to = out + uint64_t(r) * Dv;
            if (key > 0 && !(m <= before)) for_each_column(Dv, [&](uint32_t d) { to[d] *= fade; });
            warp_barrier();
            if (row_leader()) {
                sum[r] = key > 0 ? sum[r] * fade + total : total;
                maximum[r] = m;
            }
        });
        barrier();
        multiply(out, Dv, S, PITCH, v + (keys + key) * Dv, Dv, rows, Dv, count, key > 0);
        barrier();
    }
    for_each_row(rows, [&](uint32_t r) {
        const float* const from = out + uint64_t(r) * Dv;
        T* const to = o + (query + r) * Dv;
        const float total = sum[r];
        for_each_column(Dv, [&](uint32_t d) { to[d] = from[d] / total; });
        if (row_leader()) lse[query + r] = maximum[r] + log(total);
    });
}

// 1 of 2. Grid (N, tiles of queries).
KERNEL(256, 4) PRECISE(attention_backward_queries)(T* RESTRICT dq,                // (N, L, Dk)
                                                   float* RESTRICT delta,         // (N, L)
                                                   float* RESTRICT sums,          // (N, L, Dk) or null
                                                   const T* RESTRICT d_o,         // (N, L, Dv)
                                                   const T* RESTRICT o,           // (N, L, Dv)
                                                   const T* RESTRICT q,           // (N, L, Dk)
                                                   const T* RESTRICT k,           // (N, Lk, Dk)
                                                   const T* RESTRICT v,           // (N, Lk, Dv)
                                                   const float* RESTRICT lse,     // (N, L)
                                                   uint32_t L, uint32_t Lk, uint32_t Dk, uint32_t Dv) {
    SHARED(float, S, TILE * PITCH);
    SHARED(float, G, TILE * PITCH);
    const uint32_t n = blockIdx.x, first = blockIdx.y * TILE, rows = at_most(L - first, TILE);
    const uint64_t query = uint64_t(n) * L + first, keys = uint64_t(n) * Lk;
    const T* const g = d_o + query * Dv;
    float* const to = growing(dq, sums) + query * Dk;
    for_each_row(rows, [&](uint32_t r) {
        const T* const a = g + uint64_t(r) * Dv;
        const T* const b = o + (query + r) * Dv;
        const float dot = row_sum(Dv, [&](auto d) { return a[d] * b[d]; });
        if (row_leader()) delta[query + r] = dot;
    });
    barrier();
    for (uint32_t key = 0; key < Lk; key += TILE) {
        const uint32_t count = at_most(Lk - key, TILE);
        const T* const k_tile = k + (keys + key) * Dk;
        scores(S, q + query * Dk, k_tile, rows, count, Dk);
        scores(G, g, v + (keys + key) * Dv, rows, count, Dv);
        for_each_row(rows, [&](uint32_t r) {
            float* RESTRICT const s = S + r * PITCH;
            const float* RESTRICT const dp = G + r * PITCH;
            const float l = lse[query + r], d = delta[query + r];
            for_each_column(count, [&](uint32_t j) { s[j] = exp(s[j] - l) * (dp[j] - d); });
        });
        barrier();
        multiply(to, Dk, S, PITCH, k_tile, Dk, rows, Dk, count, key > 0);
        barrier();
    }
    settle(dq + query * Dk, to, rows * Dk);
}

// 2 of 2. Grid (N, tiles of keys). S and G are transposed here: rows are keys.
KERNEL(256, 0) PRECISE(attention_backward_keys)(T* RESTRICT dk,                // (N, Lk, Dk)
                                                T* RESTRICT dv,                // (N, Lk, Dv)
                                                float* RESTRICT sums,          // (N, Lk, Dk), then (N, Lk, Dv); or null
                                                const T* RESTRICT d_o,         // (N, L, Dv)
                                                const T* RESTRICT q,           // (N, L, Dk)
                                                const T* RESTRICT k,           // (N, Lk, Dk)
                                                const T* RESTRICT v,           // (N, Lk, Dv)
                                                const float* RESTRICT lse,     // (N, L)
                                                const float* RESTRICT delta,   // (N, L)
                                                uint32_t L, uint32_t Lk, uint32_t Dk, uint32_t Dv) {
    SHARED(float, S, TILE * PITCH);
    SHARED(float, G, TILE * PITCH);
    const uint32_t n = blockIdx.x, first = blockIdx.y * TILE, rows = at_most(Lk - first, TILE);
    const uint64_t key = uint64_t(n) * Lk + first;
    float* const to_k = growing(dk, sums) + key * Dk;
    float* const to_v = growing(dv, sums + uint64_t(gridDim.x) * Lk * Dk) + key * Dv;
    for (uint32_t start = 0; start < L; start += TILE) {
        const uint32_t count = at_most(L - start, TILE);
        const uint64_t query = uint64_t(n) * L + start;
        const T* const g = d_o + query * Dv;
        scores(S, k + key * Dk, q + query * Dk, rows, count, Dk);
        scores(G, v + key * Dv, g, rows, count, Dv);
        for_each_row(rows, [&](uint32_t r) {
            float* RESTRICT const p = S + r * PITCH;
            float* RESTRICT const ds = G + r * PITCH;
            const float* const l = lse + query;
            const float* const d = delta + query;
            for_each_column(count, [&](uint32_t i) {
                p[i] = exp(p[i] - l[i]);
                ds[i] = p[i] * (ds[i] - d[i]);
            });
        });
        barrier();
        multiply(to_v, Dv, S, PITCH, g, Dv, rows, Dv, count, start > 0);
        multiply(to_k, Dk, G, PITCH, q + query * Dk, Dk, rows, Dk, count, start > 0);
        barrier();
    }
    settle(dk + key * Dk, to_k, rows * Dk);
    settle(dv + key * Dv, to_v, rows * Dv);
}

KERNEL(256, 0) PRECISE(attention_residual_forward)(T* RESTRICT y,                // (n)
                                                   const T* RESTRICT x,          // (n)
                                                   const T* RESTRICT a,          // (n)
                                                   const float* RESTRICT gamma,  // (1)
                                                   uint32_t n, uint32_t chunk) {
    const uint32_t begin = blockIdx.x * chunk, end = begin + at_most(n - begin, chunk);
    const float g = gamma[0];
    INDEPENDENT
    for (uint32_t i = begin + thread(); i < end; i += BLOCK) y[i] = x[i] + g * a[i];
}

// Grid (N): da of a sample, and its dot product with a.
KERNEL(256, 0) PRECISE(attention_residual_backward)(T* RESTRICT da,               // (N, E)
                                                    float* RESTRICT dots,         // (N)
                                                    const T* RESTRICT dy,         // (N, E)
                                                    const T* RESTRICT a,          // (N, E)
                                                    const float* RESTRICT gamma,  // (1)
                                                    uint32_t E) {
    const uint64_t sample = uint64_t(blockIdx.x) * E;
    T* const to = da + sample;
    const T* const d = dy + sample;
    const T* const of = a + sample;
    const float g = gamma[0];
    float sum[1];
    block_sum(sum, E, [&](auto i, float* value) {
        to[i] = g * d[i];
        value[0] = d[i] * of[i];
    });
    if (thread() == 0) dots[blockIdx.x] = sum[0];
}

// Grid (1).
KERNEL_ONCE(256, 0) attention_gamma_backward_f32(float* RESTRICT dgamma,       // (1)
                                                 const float* RESTRICT dots,   // (N)
                                                 const float* RESTRICT scale,  // (N) or null: 1
                                                 uint32_t N) {
    float sum[1];
    block_sum(sum, N, [&](auto n, float* value) { value[0] = (scale ? scale[n] : 1.0f) * dots[n]; });
    if (thread() == 0) dgamma[0] += sum[0];
}
