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
// Memory traffic: a block reads the other side's rows once, and writes its own o, dq, dk or dv once. A GPU's block has at most
// 64 or 128 columns of those; where there are more, several blocks compute the same scores.
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/rows.h"
#include "device/number.h"
#include "device/product.h"

PRECISIONS(f32, bf16, f16)

// Columns of dq and dk, and of o and dv, that a GPU's block has; the same numbers are in src/ops/attention.rs.
constexpr uint32_t OF_K = 64, OF_V = 128;

// Grid (N, tiles of queries, columns of o).
KERNEL(256, 2) PRECISE(attention_forward)(T* RESTRICT o,            // (N, L, Dv)
                                          float* RESTRICT lse,      // (N, L)
                                          const T* RESTRICT q,      // (N, L, Dk)
                                          const T* RESTRICT k,      // (N, Lk, Dk)
                                          const T* RESTRICT v,      // (N, Lk, Dv)
                                          uint32_t L, uint32_t Lk, uint32_t Dk, uint32_t Dv) {
    SHARED(float, S, TILE * PITCH);
    SHARED(float, maximum, TILE);
    SHARED(float, sum, TILE);
    SHARED(float, fade, TILE);
    const uint32_t n = blockIdx.x, first = blockIdx.y * TILE, rows = at_most(L - first, TILE);
    const uint64_t query = uint64_t(n) * L + first, keys = uint64_t(n) * Lk;
    Growing<OF_V> out(rows, Dv, room(TILE * Dv));
    for (uint32_t key = 0; key < Lk; key += TILE) {
        const uint32_t count = at_most(Lk - key, TILE);
        scores(S, q + query * Dk, k + (keys + key) * Dk, rows, count, Dk);
        for_each_row(rows, [&](uint32_t r) {
            float* const row = S + r * PITCH;
            const float before = key > 0 ? maximum[r] : -INFINITY;
            const float m = larger(before, row_maximum(count, [&](auto j) { return row[j]; }));
            const float total = row_sum(count, [&](auto j) { return row[j] = exp(row[j] - m); });
            warp_barrier();
            if (row_leader()) {
                fade[r] = key > 0 && !(m <= before) ? exp(before - m) : 1.0f;
                sum[r] = key > 0 ? sum[r] * fade[r] + total : total;
                maximum[r] = m;
            }
        });
        barrier();
        out.scale(fade);
        out.add(S, v + (keys + key) * Dv, count);
    }
    out.each([&](uint32_t r, auto d, float value) { o[(query + r) * Dv + d] = value / sum[r]; });
    if (blockIdx.z == 0)
        for_each_row(rows, [&](uint32_t r) {
            if (row_leader()) lse[query + r] = maximum[r] + log(sum[r]);
        });
}

// 1 of 2. Grid (N, tiles of queries, columns of dq).
KERNEL(256, 2) PRECISE(attention_backward_queries)(T* RESTRICT dq,                // (N, L, Dk)
                                                   float* RESTRICT delta,         // (N, L)
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
    SHARED(float, dots, TILE);
    Growing<OF_K> out(rows, Dk, room(TILE * Dk));
    for_each_row(rows, [&](uint32_t r) {
        const T* const a = g + uint64_t(r) * Dv;
        const T* const b = o + (query + r) * Dv;
        const float dot = row_sum(Dv, [&](auto d) { return a[d] * b[d]; });
        if (row_leader()) {
            dots[r] = dot;
            if (blockIdx.z == 0) delta[query + r] = dot;
        }
    });
    for (uint32_t key = 0; key < Lk; key += TILE) {
        const uint32_t count = at_most(Lk - key, TILE);
        const T* const k_tile = k + (keys + key) * Dk;
        scores(S, q + query * Dk, k_tile, rows, count, Dk);
        scores(G, g, v + (keys + key) * Dv, rows, count, Dv);
        for_each_row(rows, [&](uint32_t r) {
            float* RESTRICT const s = S + r * PITCH;
            const float* RESTRICT const dp = G + r * PITCH;
            const float l = lse[query + r], d = dots[r];
            for_each_column(count, [&](uint32_t j) { s[j] = exp(s[j] - l) * (dp[j] - d); });
        });
        barrier();
        out.add(S, k_tile, count);
    }
    out.each([&](uint32_t r, auto d, float value) { dq[(query + r) * Dk + d] = value; });
}

// 2 of 2. Grid (N, tiles of keys, columns of dk and dv). S and G are transposed here: rows are keys.
KERNEL(256, 2) PRECISE(attention_backward_keys)(T* RESTRICT dk,                // (N, Lk, Dk)
                                                T* RESTRICT dv,                // (N, Lk, Dv)
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
    float* const memory = room(TILE * (Dk + Dv));
    Growing<OF_K> of_k(rows, Dk, memory);
    Growing<OF_V> of_v(rows, Dv, memory + TILE * Dk);
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
        of_v.add(S, g, count);
        of_k.add(G, q + query * Dk, count);
    }
    of_k.each([&](uint32_t r, auto d, float value) { dk[(key + r) * Dk + d] = value; });
    of_v.each([&](uint32_t r, auto d, float value) { dv[(key + r) * Dv + d] = value; });
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
