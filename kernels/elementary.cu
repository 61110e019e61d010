// Elementary operations with a launch each, as an eager framework runs a formula: each reads its operands from memory and writes
// its result there. Fused kernels are compared with these, and the tests reach device/math.h through them.
//
//   affine: y = a x + b       exp, log, tanh, square_root: y = f(x)
//   add: y = x1 + x2          multiply: y = x1 x2              divide: y = x1 / x2
//   subtract: y = x - s, and divide_by: y = x / s, s a number in device memory
//   sum, maximum: each block makes one number of its `chunk` elements; a second launch of one block joins these numbers
//   sine_cosine: of 2 pi u
//   leaky_relu: y = x where x > 0, slope x elsewhere      tanh_backward: dx = dy (1 - y^2)
//   leaky_relu_backward: dx = slope dy where x <= 0, dy elsewhere, also at NaN; x may be the output, whose sign is the input's
//   add_columns: y[r,c] = x[r,c] + b[c]                   scale_rows: y[r,c] = s[r] x[r,c]
//   softmax_rows: y[r,c] = exp(x[r,c] - m) / sum over c of exp(x[r,c] - m), m the row's maximum
//   softmax_rows_backward: dx[r,c] = y[r,c] (dy[r,c] - sum over c of dy[r,c] y[r,c])
// Everything overwrites. Training itself takes leaky_relu_backward, which therefore has a form for each precision.
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/rows.h"
#include "device/number.h"
PRECISIONS(f32, bf16, f16)

// f(i) for the block's own of n elements.
template <class Body> DEVICE void each_element(uint32_t n, uint32_t chunk, Body body) {
    const uint32_t first = blockIdx.x * chunk, last = n - first < chunk ? n : first + chunk;
    INDEPENDENT
    for (Index i = Index(first) + thread(); i < last; i += BLOCK) body(i);
}

KERNEL_ONCE(256, 0) elementary_affine_f32(float* RESTRICT y,       // (n)
                                          const float* RESTRICT x, // (n)
                                          float a, float b, uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = a * x[i] + b; });
}

KERNEL_ONCE(256, 0) elementary_exp_f32(float* RESTRICT y,       // (n)
                                       const float* RESTRICT x, // (n)
                                       uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = exp(x[i]); });
}

KERNEL_ONCE(256, 0) elementary_log_f32(float* RESTRICT y,       // (n)
                                       const float* RESTRICT x, // (n)
                                       uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = log(x[i]); });
}

KERNEL_ONCE(256, 0) elementary_tanh_f32(float* RESTRICT y,       // (n)
                                        const float* RESTRICT x, // (n)
                                        uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = tanh(x[i]); });
}

KERNEL_ONCE(256, 0) elementary_square_root_f32(float* RESTRICT y,       // (n)
                                               const float* RESTRICT x, // (n)
                                               uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = square_root(x[i]); });
}

KERNEL_ONCE(256, 0) elementary_sine_cosine_f32(float* RESTRICT sine,    // (n)
                                               float* RESTRICT cosine,  // (n)
                                               const float* RESTRICT u, // (n), in [0, 1)
                                               uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) {
        const SineCosine both = sine_cosine_turns(u[i]);
        sine[i] = both.sine;
        cosine[i] = both.cosine;
    });
}

KERNEL_ONCE(256, 0) elementary_leaky_relu_f32(float* RESTRICT y,       // (n)
                                              const float* RESTRICT x, // (n)
                                              float slope, uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = x[i] > 0.0f ? x[i] : slope * x[i]; });
}

KERNEL(256, 0) PRECISE(elementary_leaky_relu_backward)(T* RESTRICT dx,       // (n)
                                                       const T* RESTRICT dy, // (n)
                                                       const T* RESTRICT x,  // (n)
                                                       float slope, uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk, count = n - first < chunk ? n - first : chunk;
    const uint64_t at = first;  // a 32-bit sum may wrap, which would keep the loop scalar
    for_each_element(1, count, [&](uint32_t) {
        return [=](uint32_t i) { dx[at + i] = (x[at + i] <= 0.0f ? slope : 1.0f) * dy[at + i]; };
    });
}

KERNEL_ONCE(256, 0) elementary_tanh_backward_f32(float* RESTRICT dx,       // (n)
                                                 const float* RESTRICT dy, // (n)
                                                 const float* RESTRICT y,  // (n)
                                                 uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { dx[i] = dy[i] * (1.0f - y[i] * y[i]); });
}

// row(r)(c) for the block's own `rows` of R rows.
template <class Row> DEVICE void each_row(uint32_t R, uint32_t C, uint32_t rows, Row row) {
    const uint32_t first = blockIdx.x * rows;
    for_each_element(R - first < rows ? R - first : rows, C, [&](uint32_t r) { return row(first + r); });
}

KERNEL_ONCE(256, 0) elementary_add_columns_f32(float* RESTRICT y,       // (R, C)
                                               const float* RESTRICT x, // (R, C)
                                               const float* RESTRICT b, // (C)
                                               uint32_t R, uint32_t C, uint32_t rows) {
    each_row(R, C, rows, [=](uint32_t r) {
        const uint64_t at = uint64_t(r) * C;
        return [=](uint32_t c) { y[at + c] = x[at + c] + b[c]; };
    });
}

KERNEL_ONCE(256, 0) elementary_scale_rows_f32(float* RESTRICT y,       // (R, C)
                                              const float* RESTRICT x, // (R, C)
                                              const float* RESTRICT s, // (R)
                                              uint32_t R, uint32_t C, uint32_t rows) {
    each_row(R, C, rows, [=](uint32_t r) {
        const uint64_t at = uint64_t(r) * C;
        const float scale = s[r];
        return [=](uint32_t c) { y[at + c] = scale * x[at + c]; };
    });
}

KERNEL_ONCE(256, 0) elementary_add_f32(float* RESTRICT y,        // (n)
                                       const float* RESTRICT x1, // (n)
                                       const float* RESTRICT x2, // (n)
                                       uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = x1[i] + x2[i]; });
}

KERNEL_ONCE(256, 0) elementary_multiply_f32(float* RESTRICT y,        // (n)
                                            const float* RESTRICT x1, // (n)
                                            const float* RESTRICT x2, // (n)
                                            uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = x1[i] * x2[i]; });
}

KERNEL_ONCE(256, 0) elementary_divide_f32(float* RESTRICT y,        // (n)
                                          const float* RESTRICT x1, // (n)
                                          const float* RESTRICT x2, // (n)
                                          uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = x1[i] / x2[i]; });
}

KERNEL_ONCE(256, 0) elementary_divide_by_f32(float* RESTRICT y,       // (n)
                                             const float* RESTRICT x, // (n)
                                             const float* RESTRICT s, // (1)
                                             uint32_t n, uint32_t chunk) {
    const float number = s[0];
    each_element(n, chunk, [=](Index i) { y[i] = x[i] / number; });
}

KERNEL_ONCE(256, 0) elementary_subtract_f32(float* RESTRICT y,       // (n)
                                            const float* RESTRICT x, // (n)
                                            const float* RESTRICT s, // (1)
                                            uint32_t n, uint32_t chunk) {
    const float number = s[0];
    each_element(n, chunk, [=](Index i) { y[i] = x[i] - number; });
}

KERNEL_ONCE(256, 0) elementary_sum_f32(float* RESTRICT y,       // (gridDim.x)
                                       const float* RESTRICT x, // (n)
                                       uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk;
    const float* RESTRICT from = x + first;
    float sum[1];
    block_sum(sum, n - first < chunk ? n - first : chunk, [=](Index i, float* v) { v[0] = from[i]; });
    if (thread() == 0) y[blockIdx.x] = sum[0];
}

KERNEL_ONCE(256, 0) elementary_maximum_f32(float* RESTRICT y,       // (gridDim.x)
                                           const float* RESTRICT x, // (n)
                                           uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk;
    const float* RESTRICT from = x + first;
    const float most = block_maximum(n - first < chunk ? n - first : chunk, [=](Index i) { return from[i]; });
    if (thread() == 0) y[blockIdx.x] = most;
}

// Grid (R).
KERNEL_ONCE(256, 0) elementary_softmax_rows_f32(float* RESTRICT y,       // (R, C)
                                                const float* RESTRICT x, // (R, C)
                                                uint32_t C) {
    float* RESTRICT to = y + uint64_t(blockIdx.x) * C;
    const float* RESTRICT from = x + uint64_t(blockIdx.x) * C;
    const float most = block_maximum(C, [=](Index c) { return from[c]; });
    float sum[1];
    block_sum(sum, C, [=](Index c, float* v) { v[0] = to[c] = exp(from[c] - most); });
    const float share = 1.0f / sum[0];
    INDEPENDENT
    for (Index c = thread(); c < C; c += BLOCK) to[c] *= share;
}

// Grid (R).
KERNEL_ONCE(256, 0) elementary_softmax_rows_backward_f32(float* RESTRICT dx,       // (R, C)
                                                         const float* RESTRICT dy, // (R, C)
                                                         const float* RESTRICT y,  // (R, C)
                                                         uint32_t C) {
    const uint64_t at = uint64_t(blockIdx.x) * C;
    float* RESTRICT to = dx + at;
    const float* RESTRICT from = dy + at;
    const float* RESTRICT of = y + at;
    float dot[1];
    block_sum(dot, C, [=](Index c, float* v) { v[0] = from[c] * of[c]; });
    INDEPENDENT
    for (Index c = thread(); c < C; c += BLOCK) to[c] = of[c] * (from[c] - dot[0]);
}
