// One elementary operation a launch, as an eager framework runs a formula: each reads its operands from memory and
// writes its result there. What fused kernels are compared with, and the way the tests reach device/math.h.
//
//   affine: y = a x + b       exp, log, tanh: y = f(x)       add: y = x1 + x2
//   subtract: y = x - s, s a number in device memory
//   sum, maximum: one number for each block's `chunk` elements; a second launch of one block joins these
//   sine_cosine: of 2 pi u
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"

// f(i) for the block's own of n elements.
template <class Body> DEVICE void each_element(uint32_t n, uint32_t chunk, Body body) {
    const uint32_t first = blockIdx.x * chunk, last = n - first < chunk ? n : first + chunk;
    INDEPENDENT
    for (Index i = Index(first) + thread(); i < last; i += BLOCK) body(i);
}

KERNEL elementary_affine_f32(float* RESTRICT y,       // (n)
                             const float* RESTRICT x, // (n)
                             float a, float b, uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = a * x[i] + b; });
}

KERNEL elementary_exp_f32(float* RESTRICT y,       // (n)
                          const float* RESTRICT x, // (n)
                          uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = exp(x[i]); });
}

KERNEL elementary_log_f32(float* RESTRICT y,       // (n)
                          const float* RESTRICT x, // (n)
                          uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = log(x[i]); });
}

KERNEL elementary_tanh_f32(float* RESTRICT y,       // (n)
                           const float* RESTRICT x, // (n)
                           uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = tanh(x[i]); });
}

KERNEL elementary_sine_cosine_f32(float* RESTRICT sine,    // (n)
                                  float* RESTRICT cosine,  // (n)
                                  const float* RESTRICT u, // (n), in [0, 1)
                                  uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) {
        const SineCosine both = sine_cosine_turns(u[i]);
        sine[i] = both.sine;
        cosine[i] = both.cosine;
    });
}

KERNEL elementary_add_f32(float* RESTRICT y,        // (n)
                          const float* RESTRICT x1, // (n)
                          const float* RESTRICT x2, // (n)
                          uint32_t n, uint32_t chunk) {
    each_element(n, chunk, [=](Index i) { y[i] = x1[i] + x2[i]; });
}

KERNEL elementary_subtract_f32(float* RESTRICT y,       // (n)
                               const float* RESTRICT x, // (n)
                               const float* RESTRICT s, // (1)
                               uint32_t n, uint32_t chunk) {
    const float number = s[0];
    each_element(n, chunk, [=](Index i) { y[i] = x[i] - number; });
}

KERNEL elementary_sum_f32(float* RESTRICT y,       // (gridDim.x)
                          const float* RESTRICT x, // (n)
                          uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk;
    const float* RESTRICT from = x + first;
    float sum[1];
    block_sum(sum, n - first < chunk ? n - first : chunk, [=](Index i, float* v) { v[0] = from[i]; });
    if (thread() == 0) y[blockIdx.x] = sum[0];
}

KERNEL elementary_maximum_f32(float* RESTRICT y,       // (gridDim.x)
                              const float* RESTRICT x, // (n)
                              uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk;
    const float* RESTRICT from = x + first;
    const float most = block_maximum(n - first < chunk ? n - first : chunk, [=](Index i) { return from[i]; });
    if (thread() == 0) y[blockIdx.x] = most;
}
