// The projection head (Miyato and Koyama, cGANs with Projection Discriminator, 2018), and the pooling under every head.
//
//   h[n,c] = factor * sum over p of relu(x[n,p,c])        x (N, P, C), P pixels; factor 1: sum, 1 / P: mean; relu keeps NaN
//   f[n]   = w . h[n] + V[y_n] . h[n] + bias              w (C), V (classes, C), bias (1)
//
//   dx[n,p,c] = (x > 0) * factor * df[n] * (w[c] + V[y_n][c])
//   with g[n] = df[n] * scale[n]:
//   dw[c] += sum over n of g[n] h[n,c]     dV[k,c] += sum over {n: y_n = k} of g[n] h[n,c]     dbias += sum of g
//
// Without labels (a null pointer, or for one sample any number >= classes) f = w . h + bias. A null df or scale counts as 1. Where
// one backward pass of D serves both players, the pass to the data runs with df = 1, and the parameters' with scale = dL_D / df.
// Forward saves h (N, C) and reads x once. dx overwrites and reads x once; parameter gradients accumulate.
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/rows.h"
#include "device/number.h"

PRECISIONS(f32, bf16, f16)

DEVICE float relu(float x) { return at_least(0.0f, x); }

// h of one sample, columns first <= c < last.
CALLED void pool(float* RESTRICT h, const T* RESTRICT x, float factor, uint32_t P, uint32_t C, uint32_t first,
                 uint32_t last) {
    column_sums(first, last, P, Everything(), [&](uint32_t p, auto c) { return relu(x[uint64_t(p) * C + c]); },
                [&](uint32_t c, float sum) { h[c] = factor * sum; });
}

// dx of one sample, pixels first <= p < last.
template <class Slope>
DEVICE void spread(T* RESTRICT dx, const T* RESTRICT x, uint32_t first, uint32_t last, uint32_t C, Slope slope) {
    for_each_element(last - first, C, [&](uint32_t r) {
        const uint64_t at = uint64_t(first + r) * C;
        return [=](uint32_t c) { dx[at + c] = x[at + c] <= 0.0f ? 0.0f : slope(c); };
    });
}

// Grid (N): a block is a sample.
KERNEL(256, 0) PRECISE(projection_forward)(float* RESTRICT f,                // (N)
                                           float* RESTRICT h,                // (N, C)
                                           const T* RESTRICT x,              // (N, P, C)
                                           const float* RESTRICT w,          // (C)
                                           const float* RESTRICT V,          // (classes, C)
                                           const uint32_t* RESTRICT labels,  // (N) or null
                                           const float* RESTRICT bias,       // (1) or null
                                           float factor, uint32_t P, uint32_t C, uint32_t classes) {
    const uint32_t n = blockIdx.x;
    float* const row = h + uint64_t(n) * C;
    pool(row, x + uint64_t(n) * P * C, factor, P, C, 0, C);
    const uint32_t label = labels ? labels[n] : classes;
    float sum[1];
    if (is_class(label, classes)) {  // the same for the whole block
        const float* const v = V + uint64_t(label) * C;
        block_sum(sum, C, [&](auto c, float* value) { value[0] = row[c] * (w[c] + v[c]); });
    } else {
        block_sum(sum, C, [&](auto c, float* value) { value[0] = row[c] * w[c]; });
    }
    if (thread() == 0) f[n] = sum[0] + (bias ? bias[0] : 0.0f);
}

// Grid (N, pixel ranges).
KERNEL(256, 0) PRECISE(projection_input_gradient)(T* RESTRICT dx,                   // (N, P, C)
                                                  const T* RESTRICT x,              // (N, P, C)
                                                  const float* RESTRICT w,          // (C)
                                                  const float* RESTRICT V,          // (classes, C)
                                                  const uint32_t* RESTRICT labels,  // (N) or null
                                                  const float* RESTRICT df,         // (N) or null: 1
                                                  float factor, uint32_t P, uint32_t C, uint32_t classes, uint32_t pixels) {
    const uint32_t n = blockIdx.x, first = blockIdx.y * pixels, last = first + pixels < P ? first + pixels : P;
    const uint64_t sample = uint64_t(n) * P * C;
    const uint32_t label = labels ? labels[n] : classes;
    const float g = factor * (df ? df[n] : 1.0f);
    if (is_class(label, classes)) {
        const float* const v = V + uint64_t(label) * C;
        spread(dx + sample, x + sample, first, last, C, [=](uint32_t c) { return g * (w[c] + v[c]); });
    } else {
        spread(dx + sample, x + sample, first, last, C, [=](uint32_t c) { return g * w[c]; });
    }
}

DEVICE float seed(const float* df, const float* scale, uint32_t n) {
    return (df ? df[n] : 1.0f) * (scale ? scale[n] : 1.0f);
}

CALLED void weight_gradient(float* RESTRICT dw, const float* RESTRICT h, const float* df, const float* scale, uint32_t N,
                            uint32_t C, uint32_t first, uint32_t last) {
    column_sums(first, last, N, Everything(),
                [&](uint32_t n, auto c) { return seed(df, scale, n) * h[uint64_t(n) * C + c]; },
                [&](uint32_t c, float sum) { dw[c] += sum; });
}

CALLED void bias_gradient(float* dbias, const float* df, const float* scale, uint32_t N) {
    float sum[1];
    block_sum(sum, N, [&](auto n, float* v) { v[0] = seed(df, scale, n); });
    if (thread() == 0) dbias[0] += sum[0];
}

CALLED void class_gradient(float* RESTRICT dV, const float* RESTRICT h, const uint32_t* RESTRICT labels, const float* df,
                           const float* scale, uint32_t N, uint32_t C, uint32_t classes, uint32_t n, uint32_t first,
                           uint32_t last) {
    sums_by_label(n, first, last, labels, N, classes,
                  [&](uint32_t m, auto c) { return seed(df, scale, m) * h[uint64_t(m) * C + c]; },
                  [&](uint32_t label, uint32_t c, float sum) { dV[uint64_t(label) * C + c] += sum; });
}

// Grid (1 + N, column ranges): blocks (0, .) are for w and bias, blocks (1 + n, .) for the label of sample n.
KERNEL_ONCE(256, 4) projection_parameter_gradients_f32(float* RESTRICT dw,               // (C)
                                                       float* RESTRICT dV,               // (classes, C)
                                                       float* RESTRICT dbias,            // (1) or null
                                                       const float* RESTRICT h,          // (N, C)
                                                       const uint32_t* RESTRICT labels,  // (N) or null
                                                       const float* RESTRICT df,         // (N) or null: 1
                                                       const float* RESTRICT scale,      // (N) or null: 1
                                                       uint32_t N, uint32_t C, uint32_t classes, uint32_t columns) {
    const uint32_t first = blockIdx.y * columns, last = first + columns < C ? first + columns : C;
    if (blockIdx.x == 0) {
        weight_gradient(dw, h, df, scale, N, C, first, last);
        if (dbias && blockIdx.y == 0) bias_gradient(dbias, df, scale, N);
    } else if (labels) {
        class_gradient(dV, h, labels, df, scale, N, C, classes, blockIdx.x - 1, first, last);
    }
}

// Pooling alone, for the heads that do something else with h. Grid (N, column ranges).
KERNEL(256, 0) PRECISE(projection_pool)(float* RESTRICT h,        // (N, C)
                                        const T* RESTRICT x,      // (N, P, C)
                                        float factor, uint32_t P, uint32_t C, uint32_t columns) {
    const uint32_t n = blockIdx.x, first = blockIdx.y * columns, last = first + columns < C ? first + columns : C;
    pool(h + uint64_t(n) * C, x + uint64_t(n) * P * C, factor, P, C, first, last);
}

// dx = (x > 0) * factor * dh. Grid (N, pixel ranges).
KERNEL(256, 0) PRECISE(projection_pool_backward)(T* RESTRICT dx,            // (N, P, C)
                                                 const T* RESTRICT x,       // (N, P, C)
                                                 const float* RESTRICT dh,  // (N, C)
                                                 float factor, uint32_t P, uint32_t C, uint32_t pixels) {
    const uint32_t n = blockIdx.x, first = blockIdx.y * pixels, last = first + pixels < P ? first + pixels : P;
    const uint64_t sample = uint64_t(n) * P * C;
    const float* const row = dh + uint64_t(n) * C;
    spread(dx + sample, x + sample, first, last, C, [=](uint32_t c) { return factor * row[c]; });
}

// The same head from elementary kernels, for the study of fusion: relu, pool (its own relu changes nothing then), two
// dot products, their sum; backward, dh, the pool's backward, and a kernel per parameter.

KERNEL_ONCE(256, 0) projection_unfused_relu_f32(float* RESTRICT y,        // (n)
                                                const float* RESTRICT x,  // (n)
                                                uint32_t n, uint32_t chunk) {
    const uint32_t begin = blockIdx.x * chunk, count = n - begin < chunk ? n - begin : chunk;
    for_each_element(1, count, [&](uint32_t) { return [=](uint32_t i) { y[begin + i] = relu(x[begin + i]); }; });
}

// psi[n] = w . h[n]. Grid (N).
KERNEL_ONCE(256, 0) projection_unfused_psi_f32(float* RESTRICT psi,      // (N)
                                               const float* RESTRICT h,  // (N, C)
                                               const float* RESTRICT w,  // (C)
                                               uint32_t C) {
    const float* const row = h + uint64_t(blockIdx.x) * C;
    float sum[1];
    block_sum(sum, C, [&](auto c, float* v) { v[0] = row[c] * w[c]; });
    if (thread() == 0) psi[blockIdx.x] = sum[0];
}

// inner[n] = V[y_n] . h[n], 0 without a label. Grid (N).
KERNEL_ONCE(256, 0) projection_unfused_class_f32(float* RESTRICT inner,            // (N)
                                                 const float* RESTRICT h,          // (N, C)
                                                 const float* RESTRICT V,          // (classes, C)
                                                 const uint32_t* RESTRICT labels,  // (N) or null
                                                 uint32_t C, uint32_t classes) {
    const uint32_t label = labels ? labels[blockIdx.x] : classes;
    const float* const row = h + uint64_t(blockIdx.x) * C;
    const float* const v = is_class(label, classes) ? V + uint64_t(label) * C : V;
    float sum[1];
    block_sum(sum, is_class(label, classes) ? C : 0, [&](auto c, float* value) { value[0] = row[c] * v[c]; });
    if (thread() == 0) inner[blockIdx.x] = sum[0];
}

KERNEL_ONCE(256, 0) projection_unfused_add_f32(float* RESTRICT f,            // (N)
                                               const float* RESTRICT psi,    // (N)
                                               const float* RESTRICT inner,  // (N)
                                               const float* RESTRICT bias,   // (1) or null
                                               uint32_t N) {
    const float b = bias ? bias[0] : 0.0f;
    for_each_element(1, N, [&](uint32_t) { return [=](uint32_t n) { f[n] = psi[n] + inner[n] + b; }; });
}

// dh[n,c] = df[n] (w[c] + V[y_n][c]). Grid (N).
KERNEL_ONCE(256, 0) projection_unfused_dh_f32(float* RESTRICT dh,               // (N, C)
                                              const float* RESTRICT w,          // (C)
                                              const float* RESTRICT V,          // (classes, C)
                                              const uint32_t* RESTRICT labels,  // (N) or null
                                              const float* RESTRICT df,         // (N) or null: 1
                                              uint32_t C, uint32_t classes) {
    const uint32_t n = blockIdx.x, label = labels ? labels[n] : classes;
    const bool present = is_class(label, classes);
    const float* const v = present ? V + uint64_t(label) * C : w;
    const float g = df ? df[n] : 1.0f, share = present ? 1.0f : 0.0f;
    float* const row = dh + uint64_t(n) * C;
    for_each_element(1, C, [&](uint32_t) { return [=](uint32_t c) { row[c] = g * (w[c] + share * v[c]); }; });
}

KERNEL_ONCE(256, 0) projection_unfused_weight_f32(float* RESTRICT dw,           // (C)
                                                  const float* RESTRICT h,      // (N, C)
                                                  const float* RESTRICT df,     // (N) or null: 1
                                                  const float* RESTRICT scale,  // (N) or null: 1
                                                  uint32_t N, uint32_t C) {
    weight_gradient(dw, h, df, scale, N, C, 0, C);
}

KERNEL_ONCE(256, 0) projection_unfused_bias_f32(float* RESTRICT dbias,        // (1)
                                                const float* RESTRICT df,     // (N) or null: 1
                                                const float* RESTRICT scale,  // (N) or null: 1
                                                uint32_t N) {
    bias_gradient(dbias, df, scale, N);
}

// Grid (N).
KERNEL_ONCE(256, 0) projection_unfused_rows_f32(float* RESTRICT dV,               // (classes, C)
                                                const float* RESTRICT h,          // (N, C)
                                                const uint32_t* RESTRICT labels,  // (N)
                                                const float* RESTRICT df,         // (N) or null: 1
                                                const float* RESTRICT scale,      // (N) or null: 1
                                                uint32_t N, uint32_t C, uint32_t classes) {
    class_gradient(dV, h, labels, df, scale, N, C, classes, blockIdx.x, 0, C);
}
