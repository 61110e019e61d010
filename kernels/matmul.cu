// The three products of a linear layer, with the activation and the bias fused into them.
//
//   y (N, K)  = act(x W + b)                      x (N, C), W (C, K), b (K) or null; saved: y
//   g[n][k]   = row_scale[n] * dy[n][k] * act'(y[n][k])     the effective output gradient: computed as it is read, never stored
//   dx (N, C) = g W^T                             overwritten
//   dW (C, K) += x^T g                            accumulated
//   db (K)    += sum over n of g[n]               accumulated
//
// W has a row for each input, so that the forward pass and the weight gradient read all operands along rows. row_scale multiplies
// the gradient of each sample by a number of its own (null: 1). dy can then be the gradient of the logits, and row_scale the
// derivative of a loss by each logit, so that one backward pass serves several losses. act' is computed from the output y, which
// may be null where act is the identity. Every element of a result is one chain of additions in a fixed order.
//
// x, y, dy, dx and W are stored in the precision of the module; b, row_scale, dW and db are f32.
#include "device/execution.h"
#include "device/math.h"
#include "device/activation.h"
#include "device/reduce.h"
#include "device/number.h"
#include "device/tile.h"
#include "device/gradient.h"

PRECISIONS(f32, tf32, bf16, f16)

// g as an operand. ALONG_DEPTH: its rows are the samples n, its depth the outputs k; otherwise the other way round.
template <bool ALONG_DEPTH> struct GradientFetch : OutputGradient {
    static constexpr bool ALONG_K = ALONG_DEPTH, PLAIN = false, PATCHED = false, PANELS = false;
    uint32_t rows, depth;

    struct Run { uint64_t at; uint32_t n, count; };
    MEMBER Run run(uint32_t row, uint32_t k) const {
        const uint32_t n = ALONG_K ? row : k, first = ALONG_K ? k : row, K = ALONG_K ? depth : rows;
        return {uint64_t(n) * K + first, n, K - first};
    }
    MEMBER Ahead ahead(uint32_t, uint32_t, uint32_t) const { return {}; }
    template <class Store> MEMBER void load(const Run& run, uint32_t count, Store store) const {
        exact(run.at, run.n, count, [=](uint32_t i, float value) { store(i, factor(value)); });
    }
#if !defined(ZGAN_HOST)
    static constexpr bool CHANGES = true;
    template <class Share, bool CHANGED> using Walk = MatrixWalk<Share>;
    template <class Share, bool CHANGED> MEMBER MatrixWalk<Share> walk(uint32_t first_row, uint32_t k_begin, uint32_t k_end) const {
        return {rows, depth, first_row, k_begin, k_end};
    }
    MEMBER bool whole() const { return OutputGradient::whole() && (ALONG_K ? depth : rows) % PIECE == 0; }
#endif
};
template <bool ALONG_DEPTH> DEVICE GradientFetch<ALONG_DEPTH> gradient(const T* dy, const T* y, const float* row_scale, Activation activation, uint32_t rows, uint32_t depth) {
    return {{dy, y ? y : dy, row_scale, activation, 0}, rows, depth};
}

// The epilogues: what the three products do with finished sums.
struct Forward {
    typedef T Element;
    T* RESTRICT y;
    const float* RESTRICT bias;
    Activation activation;
    uint32_t K;
    static constexpr uint32_t rows = 1;
    static constexpr bool READS = false;
    MEMBER Ahead ahead(uint32_t, uint32_t, uint32_t) const { return {}; }
    MEMBER void store(uint32_t n, uint32_t k, uint32_t count, float* values) const {
        T* RESTRICT to = y + (uint64_t(n) * K + k);
        const float* RESTRICT b = bias + k;
        const bool biased = bias != nullptr;
        with_activation(activation, [=](auto act) {
            if (biased) {
                INDEPENDENT_FEW
                for (uint32_t i = 0; i < count; i++) to[i] = act(values[i] + b[i]);
            } else {
                INDEPENDENT_FEW
                for (uint32_t i = 0; i < count; i++) to[i] = act(values[i]);
            }
        });
    }
#if TENSOR_CORES
    MEMBER bool whole() const { return aligned(y) && aligned(bias) && K % PIECE == 0; }
    MEMBER void store_whole(uint32_t n, uint32_t k, float (&v)[PIECE]) const {
        float b[PIECE] = {};
        if (bias) load_whole(b, bias + k);
        with_activation(activation, [&](auto act) {
            UNROLL
            for (int i = 0; i < PIECE; i++) v[i] = act(v[i] + b[i]);
        });
        ::store_whole(y + (uint64_t(n) * K + k), v);
    }
#endif
};
struct Overwrite {
    typedef T Element;
    T* RESTRICT to;
    uint32_t columns;
    static constexpr uint32_t rows = 1;
    static constexpr bool READS = false;
    MEMBER Ahead ahead(uint32_t, uint32_t, uint32_t) const { return {}; }
    MEMBER void store(uint32_t m, uint32_t n, uint32_t count, float* values) const {
        T* RESTRICT here = to + (uint64_t(m) * columns + n);
        INDEPENDENT_FEW
        for (uint32_t i = 0; i < count; i++) here[i] = values[i];
    }
#if TENSOR_CORES
    MEMBER bool whole() const { return aligned(to) && columns % PIECE == 0; }
    MEMBER void store_whole(uint32_t m, uint32_t n, float (&v)[PIECE]) const { ::store_whole(to + (uint64_t(m) * columns + n), v); }
#endif
};
struct Accumulate {
    typedef float Element;
    float* RESTRICT to;
    uint32_t columns;
    static constexpr uint32_t rows = 1;
    static constexpr bool READS = true;
    MEMBER Ahead ahead(uint32_t m, uint32_t n, uint32_t count) const { return {to + (uint64_t(m) * columns + n), columns, count}; }
    MEMBER void store(uint32_t m, uint32_t n, uint32_t count, float* values) const {
        float* RESTRICT here = to + (uint64_t(m) * columns + n);
        INDEPENDENT_FEW
        for (uint32_t i = 0; i < count; i++) here[i] += values[i];
    }
#if TENSOR_CORES
    MEMBER bool whole() const { return aligned(to) && columns % 4 == 0; }
    MEMBER void store_whole(uint32_t m, uint32_t n, float (&v)[4]) const {
        float* const here = to + (uint64_t(m) * columns + n);
        float before[4];
        load_whole(before, here);
        UNROLL
        for (int i = 0; i < 4; i++) v[i] += before[i];
        ::store_whole(here, v);
    }
#endif
};

TILES(64x64, 128x64, 128x128)
KERNEL(TILE_THREADS, BLOCKS_OF_TILE(BM, BN)) TILED(linear_forward)(T* RESTRICT y,               // (N, K)
                                                          const T* RESTRICT x,         // (N, C)
                                                          const T* RESTRICT weight,    // (C, K)
                                                          const float* RESTRICT bias,  // (K) or null
                                                          Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    tiled_matmul<BM, BN>(MatrixFetch<true>{x, N, C}, MatrixFetch<false>{weight, K, C}, Forward{y, bias, activation, K}, row_of_tiles(), 0, C);
}

TILES(64x64, 128x64, 128x128)
KERNEL(TILE_THREADS, BLOCKS_OF_TILE(BM, BN)) TILED(linear_input_gradient)(T* RESTRICT dx,                   // (N, C)
                                                                 const T* RESTRICT dy,             // (N, K)
                                                                 const T* RESTRICT weight,         // (C, K)
                                                                 const T* RESTRICT y,              // (N, K) or null
                                                                 const float* RESTRICT row_scale,  // (N) or null
                                                                 Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    tiled_matmul<BM, BN>(gradient<true>(dy, y, row_scale, activation, N, K), MatrixFetch<true>{weight, C, K}, Overwrite{dx, C}, row_of_tiles(), 0, K);
}

TILES(64x64, 128x64, 128x128)
// Where there is a dbias, the last row of blocks computes it.
KERNEL(TILE_THREADS, BLOCKS_OF_TILE(BM, BN)) TILED(linear_weight_gradient)(float* RESTRICT dweight,          // (C, K)
                                                                  float* RESTRICT dbias,            // (K) or null
                                                                  const T* RESTRICT x,              // (N, C)
                                                                  const T* RESTRICT dy,             // (N, K)
                                                                  const T* RESTRICT y,              // (N, K) or null
                                                                  const float* RESTRICT row_scale,  // (N) or null
                                                                  Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    const GradientFetch<false> g = gradient<false>(dy, y, row_scale, activation, K, N);
    if (dbias && blockIdx.y == gridDim.y - 1) return sum_columns<BN>(dbias, true, g, blockIdx.x * BN, K, 1, 0, N);
    tiled_matmul<BM, BN>(MatrixFetch<false>{x, C, N}, g, Accumulate{dweight, K}, blockIdx.y, 0, N);
}
