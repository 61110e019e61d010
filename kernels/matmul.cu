// The three products of a linear layer, activation and bias fused in.
//
//   y (N, K)  = act(x W + b)                      x (N, C), W (C, K), b (K) or null; saved: y
//   g[n][k]   = row_scale[n] * dy[n][k] * act'(y[n][k])     the effective output gradient: computed as it is read, never stored
//   dx (N, C) = g W^T                             overwritten
//   dW (C, K) += x^T g                            accumulated
//   db (K)    += sum over n of g[n]               accumulated
//
// W is input-major, so that the forward pass and the weight gradient read everything along rows. row_scale is the
// per-sample seed (null: 1): the gradient of one loss or another from one backward pass. act' is taken from the output
// y; y may be null where act is the identity. Every element is one chain of additions in order.
#include "device/execution.h"
#include "device/math.h"
#include "device/activation.h"
#include "device/reduce.h"
#include "device/tile.h"

// g as rows n by depth k (ALONG_DEPTH), or as rows k by depth n.
template <bool ALONG_DEPTH> struct GradientFetch {
    static constexpr bool ALONG_K = ALONG_DEPTH, PLAIN = false, PATCHED = false, PANELS = false;
    const float* RESTRICT dy;
    const float* RESTRICT y;  // dy where nobody looks at it
    const float* RESTRICT row_scale;
    Activation activation;
    uint32_t rows, depth;

    struct Run { const float* dy; const float* y; float scale; uint32_t count; };
    MEMBER Run run(uint32_t row, uint32_t k) const {
        const uint32_t n = ALONG_K ? row : k, first = ALONG_K ? k : row, K = ALONG_K ? depth : rows;
        const uint64_t at = uint64_t(n) * K + first;
        return {dy + at, y + at, row_scale ? row_scale[n] : 1.0f, K - first};
    }
    MEMBER Ahead ahead(uint32_t, uint32_t, uint32_t) const { return {}; }
    template <class Store> MEMBER void load(const Run& run, uint32_t count, Store store) const {
        const float* RESTRICT from = run.dy;
        const float* RESTRICT output = run.y;
        const float scale = run.scale;
        with_derivative(activation, [=](auto derivative) {
            INDEPENDENT_FEW
            for (uint32_t i = 0; i < count; i++) store(i, from[i] * derivative(output[i]) * scale);
        });
    }
};
template <bool ALONG_DEPTH> DEVICE GradientFetch<ALONG_DEPTH> gradient(const float* dy, const float* y, const float* row_scale, Activation activation, uint32_t rows, uint32_t depth) {
    return {dy, y ? y : dy, row_scale, activation, rows, depth};
}

struct Forward {
    float* RESTRICT y;
    const float* RESTRICT bias;
    Activation activation;
    uint32_t K;
    static constexpr uint32_t rows = 1;
    static constexpr bool READS = false;
    MEMBER Ahead ahead(uint32_t, uint32_t, uint32_t) const { return {}; }
    MEMBER void store(uint32_t n, uint32_t k, uint32_t count, float* values) const {
        float* RESTRICT to = y + (uint64_t(n) * K + k);
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
};
struct Overwrite {
    float* RESTRICT to;
    uint32_t columns;
    static constexpr uint32_t rows = 1;
    static constexpr bool READS = false;
    MEMBER Ahead ahead(uint32_t, uint32_t, uint32_t) const { return {}; }
    MEMBER void store(uint32_t m, uint32_t n, uint32_t count, float* values) const {
        float* RESTRICT here = to + (uint64_t(m) * columns + n);
        INDEPENDENT_FEW
        for (uint32_t i = 0; i < count; i++) here[i] = values[i];
    }
};
struct Accumulate {
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
};

template <int BM, int BN>
DEVICE void forward(float* y, const float* x, const float* weight, const float* bias, Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    tiled_matmul<BM, BN>(MatrixFetch<true>{x, N, C}, MatrixFetch<false>{weight, K, C}, Forward{y, bias, activation, K}, 0, C);
}
template <int BM, int BN>
DEVICE void input_gradient(float* dx, const float* dy, const float* weight, const float* y, const float* row_scale, Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    tiled_matmul<BM, BN>(gradient<true>(dy, y, row_scale, activation, N, K), MatrixFetch<true>{weight, C, K}, Overwrite{dx, C}, 0, K);
}
template <int BM, int BN>
DEVICE void weight_gradient(float* dweight, const float* x, const float* dy, const float* y, const float* row_scale, Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    tiled_matmul<BM, BN>(MatrixFetch<false>{x, C, N}, gradient<false>(dy, y, row_scale, activation, K, N), Accumulate{dweight, K}, 0, N);
}

KERNEL linear_forward_f32_64x64(float* RESTRICT y,             // (N, K)
                                  const float* RESTRICT x,       // (N, C)
                                  const float* RESTRICT weight,  // (C, K)
                                  const float* RESTRICT bias,    // (K) or null
                                  Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    forward<64, 64>(y, x, weight, bias, activation, N, C, K);
}
KERNEL linear_forward_f32_128x64(float* RESTRICT y,             // (N, K)
                                  const float* RESTRICT x,       // (N, C)
                                  const float* RESTRICT weight,  // (C, K)
                                  const float* RESTRICT bias,    // (K) or null
                                  Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    forward<128, 64>(y, x, weight, bias, activation, N, C, K);
}
KERNEL linear_forward_f32_128x128(float* RESTRICT y,             // (N, K)
                                  const float* RESTRICT x,       // (N, C)
                                  const float* RESTRICT weight,  // (C, K)
                                  const float* RESTRICT bias,    // (K) or null
                                  Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    forward<128, 128>(y, x, weight, bias, activation, N, C, K);
}

KERNEL linear_input_gradient_f32_64x64(float* RESTRICT dx,               // (N, C)
                                         const float* RESTRICT dy,         // (N, K)
                                         const float* RESTRICT weight,     // (C, K)
                                         const float* RESTRICT y,          // (N, K) or null
                                         const float* RESTRICT row_scale,  // (N) or null
                                         Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    input_gradient<64, 64>(dx, dy, weight, y, row_scale, activation, N, C, K);
}
KERNEL linear_input_gradient_f32_128x64(float* RESTRICT dx,               // (N, C)
                                         const float* RESTRICT dy,         // (N, K)
                                         const float* RESTRICT weight,     // (C, K)
                                         const float* RESTRICT y,          // (N, K) or null
                                         const float* RESTRICT row_scale,  // (N) or null
                                         Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    input_gradient<128, 64>(dx, dy, weight, y, row_scale, activation, N, C, K);
}
KERNEL linear_input_gradient_f32_128x128(float* RESTRICT dx,               // (N, C)
                                         const float* RESTRICT dy,         // (N, K)
                                         const float* RESTRICT weight,     // (C, K)
                                         const float* RESTRICT y,          // (N, K) or null
                                         const float* RESTRICT row_scale,  // (N) or null
                                         Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    input_gradient<128, 128>(dx, dy, weight, y, row_scale, activation, N, C, K);
}
KERNEL linear_input_gradient_f32_128x256(float* RESTRICT dx,               // (N, C)
                                         const float* RESTRICT dy,         // (N, K)
                                         const float* RESTRICT weight,     // (C, K)
                                         const float* RESTRICT y,          // (N, K) or null
                                         const float* RESTRICT row_scale,  // (N) or null
                                         Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    input_gradient<128, 256>(dx, dy, weight, y, row_scale, activation, N, C, K);
}

KERNEL linear_weight_gradient_f32_64x64(float* RESTRICT dweight,          // (C, K)
                                          const float* RESTRICT x,          // (N, C)
                                          const float* RESTRICT dy,         // (N, K)
                                          const float* RESTRICT y,          // (N, K) or null
                                          const float* RESTRICT row_scale,  // (N) or null
                                          Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    weight_gradient<64, 64>(dweight, x, dy, y, row_scale, activation, N, C, K);
}
KERNEL linear_weight_gradient_f32_128x64(float* RESTRICT dweight,          // (C, K)
                                          const float* RESTRICT x,          // (N, C)
                                          const float* RESTRICT dy,         // (N, K)
                                          const float* RESTRICT y,          // (N, K) or null
                                          const float* RESTRICT row_scale,  // (N) or null
                                          Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    weight_gradient<128, 64>(dweight, x, dy, y, row_scale, activation, N, C, K);
}
KERNEL linear_weight_gradient_f32_128x128(float* RESTRICT dweight,          // (C, K)
                                          const float* RESTRICT x,          // (N, C)
                                          const float* RESTRICT dy,         // (N, K)
                                          const float* RESTRICT y,          // (N, K) or null
                                          const float* RESTRICT row_scale,  // (N) or null
                                          Activation activation, uint32_t N, uint32_t C, uint32_t K) {
    weight_gradient<128, 128>(dweight, x, dy, y, row_scale, activation, N, C, K);
}

// A block sums `columns` of them: neighbours in memory side by side, rows in order.
KERNEL linear_bias_gradient_f32(float* RESTRICT dbias,            // (K)
                                const float* RESTRICT dy,         // (N, K)
                                const float* RESTRICT y,          // (N, K) or null
                                const float* RESTRICT row_scale,  // (N) or null
                                Activation activation, uint32_t N, uint32_t K, uint32_t columns) {
    const GradientFetch<false> g = gradient<false>(dy, y, row_scale, activation, K, N);
    const uint32_t first = blockIdx.x * columns, count = least(columns, K - first);
    constexpr int AT_ONCE = BLOCK == 1 ? 64 : 1;
    for (uint32_t j = thread() * AT_ONCE; j < count; j += BLOCK * AT_ONCE) {
        const uint32_t width = least(AT_ONCE, count - j);
        float sums[AT_ONCE] = {};
        if (width == AT_ONCE)
            for (uint32_t n = 0; n < N; n++) g.load(g.run(first + j, n), AT_ONCE, [&](uint32_t i, float value) { sums[i] += value; });
        else
            for (uint32_t n = 0; n < N; n++) g.load(g.run(first + j, n), width, [&](uint32_t i, float value) { sums[i] += value; });
        for (uint32_t i = 0; i < width; i++) dbias[first + j + i] += sums[i];
    }
}
