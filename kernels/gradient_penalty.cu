// Gradient penalties, and what a tangent needs besides the kernels of the layers it passes.
//
//   g (N, F)  the gradient of D's logit with respect to images x of F numbers; in memory it is times the State's loss_scale
//   P         = weight / N * sum over n of (|g[n]| - norm)^2
//   v[n]      = dP/dg[n] = weight / N * 2 (|g[n]| - norm) / |g[n]| * g[n]       0 where |g[n]| is 0, as in PyTorch
//
// Of Wasserstein GANs (Gulrajani et al., Improved Training of Wasserstein GANs, 2017): norm 1, at points between images,
//
//   x[n] = xhat[n] = fake[n] + share[n] (real[n] - fake[n])     share (N) in [0, 1)
//
// R1 and R2 (Mescheder et al., Which Training Methods for GANs do actually Converge?, 2018): norm 0 and half their factor
// as weight, at the real images and at the fakes.
//
// The gradient of P with respect to D's weights needs no second derivative. D's logit is piecewise linear in x: with
// the masks of its (leaky) ReLUs held, g is a product of the layers' matrices, and for each weight W of a layer
//
//   dP/dW = t (x) delta      delta: the backward signal of seed 1 at the layer's output, which gave g
//                            t: v pushed forward through the same layers and masks, without biases, at its input
//
// A (leaky) ReLU masks t as it masks a gradient: that is elementary.cu's leaky_relu_backward.
//
//   pool      h[n,c] = factor * sum over p of (x[n,p,c] > 0) t[n,p,c]     the tangent of projection.cu's pooling
//
// All outputs overwrite. Memory traffic: every input and output once, but the direction, which reads g twice.
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/rows.h"
#include "device/state.h"
#include "device/number.h"

PRECISIONS(f32, bf16, f16)

// Grid (N, ranges of `chunk` numbers).
KERNEL(256, 0) PRECISE(gradient_penalty_mix)(T* RESTRICT mixed,            // (N, F)
                                             const T* RESTRICT real,       // (N, F)
                                             const T* RESTRICT fake,       // (N, F)
                                             const float* RESTRICT share,  // (N)
                                             uint32_t F, uint32_t chunk) {
    const uint32_t first = blockIdx.y * chunk, count = F - first < chunk ? F - first : chunk;
    const uint64_t at = uint64_t(blockIdx.x) * F + first;
    const float s = share[blockIdx.x];
    for_each_element(1, count, [&](uint32_t) {
        return [=](uint32_t i) { mixed[at + i] = fake[at + i] + s * (real[at + i] - fake[at + i]); };
    });
}

// Grid (N): a block is a sample.
KERNEL(256, 0) PRECISE(gradient_penalty_direction)(T* RESTRICT v,            // (N, F)
                                                   float* RESTRICT norms,    // (N): |g|
                                                   const T* RESTRICT g,      // (N, F)
                                                   const State* RESTRICT state,  // (1)
                                                   float scale,              // weight / N
                                                   float target,             // norm
                                                   uint32_t F) {
    const uint64_t at = uint64_t(blockIdx.x) * F;
    const T* const from = g + at;
    float sum[1];
    block_sum(sum, F, [&](auto i, float* value) { value[0] = from[i] * from[i]; });
    const float unscale = 1.0f / state->loss_scale, norm = square_root(sum[0]) * unscale;
    const float factor = norm == 0.0f ? 0.0f : 2.0f * scale * (norm - target) / norm * unscale;
    for_each_element(1, F, [&](uint32_t) { return [=](uint32_t i) { v[at + i] = factor * from[i]; }; });
    if (thread() == 0) norms[blockIdx.x] = norm;
}

// Grid (1).
KERNEL_ONCE(256, 0) gradient_penalty_sum_f32(float* RESTRICT statistics,   // (2): P, the mean norm
                                             const float* RESTRICT norms,  // (N)
                                             float scale,                  // weight / N
                                             float target,                 // norm
                                             uint32_t N) {
    float sums[2];
    block_sum(sums, N, [&](auto n, float* value) {
        const float off = norms[n] - target;
        value[0] = off * off;
        value[1] = norms[n];
    });
    if (thread() == 0) {
        statistics[0] = scale * sums[0];
        statistics[1] = sums[1] / float(N);
    }
}

// Grid (N, column ranges).
KERNEL(256, 0) PRECISE(gradient_penalty_pool)(float* RESTRICT h,        // (N, C)
                                              const T* RESTRICT t,      // (N, P, C)
                                              const T* RESTRICT x,      // (N, P, C)
                                              float factor, uint32_t P, uint32_t C, uint32_t columns) {
    const uint32_t first = blockIdx.y * columns, last = first + columns < C ? first + columns : C;
    const T* const tangent = t + uint64_t(blockIdx.x) * P * C;
    const T* const mask = x + uint64_t(blockIdx.x) * P * C;
    float* const to = h + uint64_t(blockIdx.x) * C;
    column_sums(first, last, P, Everything(),
                [&](uint32_t p, auto c) {
                    const uint64_t at = uint64_t(p) * C + c;
                    return mask[at] <= 0.0f ? 0.0f : float(tangent[at]);
                },
                [&](uint32_t c, float sum) { to[c] = factor * sum; });
}
