// Adam over one flat buffer, with the moving average of the parameters and the gradient's norm in the same pass.
//
//   t = updates + 1
//   m += (1 - beta1) (g - m)            v = beta2 v + (1 - beta2) g^2
//   p -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
//   average = decay average + (1 - decay) p; a copy of p while updates < average_start
//   norm = sqrt(sum g^2); NaN where a new parameter is infinite or NaN
//
// lr, updates, halted and loss_scale are fields of the State. The gradient in memory is g times loss_scale, which is a power of
// two. Where the State is halted, or this gradient has overflowed, only the norm is written. Else the State is halted where the norm
// is infinite or NaN.
//   Adam: A Method for Stochastic Optimization, D. Kingma and J. Ba, 2015; eps stands outside the root, as in PyTorch.
//
// Memory limits the speed: 28 bytes a parameter, 36 with the average. There are two launches: the pass, which leaves one sum of
// squares per block, and one block that joins these and counts the update.
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/state.h"

// 1 - beta^t from ln beta, within 2e-7 of itself also where beta^t is almost 1: a power of beta in f32 would lose 3e-5
// of 1 - 0.999 at the first step. x = t ln beta <= 0; near 0 the Taylor series of 1 - e^x.
DEVICE float one_minus_power(float log_beta, uint32_t t) {
    const float x = float(t) * log_beta;
    float series = 1.0f;
    for (int k = 9; k > 1; k--) series = 1.0f + series * x / float(k);
    return x > -0.4f ? -x * series : 1.0f - exp(x);
}

struct Rates {
    float rate, root_correction, eps, one_minus_beta1, beta2, one_minus_beta2, decay, unscale;
};

// A number, or NaN where `other` is infinite or NaN.
DEVICE float unless_not_finite(float number, float other) { return number + (other - other); }

// One element; returns the new parameter.
DEVICE float adam_step(const Rates& rates, float p, float& m, float& v, float g) {
    m = m + rates.one_minus_beta1 * (g - m);
    v = rates.beta2 * v + rates.one_minus_beta2 * (g * g);
    return p - rates.rate * (m / (square_root(v) * rates.root_correction + rates.eps));
}

DEVICE bool is_left_out(const State* state, uint32_t network) { return state->halted != 0 || state->overflows[network] != 0; }

KERNEL(256, 0) adam_update_f32(float* RESTRICT parameters,        // (n)
                               float* RESTRICT first_moment,      // (n)
                               float* RESTRICT second_moment,     // (n)
                               float* RESTRICT average,           // (n) or null
                               float* RESTRICT partials,          // (gridDim.x): sums of squares of the gradient
                               const float* RESTRICT gradient,    // (n)
                               const State* RESTRICT state,       // (1)
                               uint32_t network,
                               float log_beta1, float one_minus_beta1,
                               float log_beta2, float beta2, float one_minus_beta2,
                               float eps, float average_decay, uint32_t average_start,
                               uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk, count = n - first < chunk ? n - first : chunk;
    const uint32_t updates = state->updates[network];
    Rates rates;
    rates.rate = state->learning_rate[network] / one_minus_power(log_beta1, updates + 1);
    rates.root_correction = 1.0f / square_root(one_minus_power(log_beta2, updates + 1));
    rates.eps = eps;
    rates.one_minus_beta1 = one_minus_beta1;
    rates.beta2 = beta2;
    rates.one_minus_beta2 = one_minus_beta2;
    rates.decay = updates < average_start ? 0.0f : average_decay;
    rates.unscale = 1.0f / state->loss_scale;

    float* RESTRICT p = parameters + first;
    float* RESTRICT m = first_moment + first;
    float* RESTRICT v = second_moment + first;
    const float* RESTRICT g = gradient + first;
    float sum[1];
    if (is_left_out(state, network)) {
        block_sum(sum, count, [=](Index i, float* square) {
            const float of = g[i] * rates.unscale;
            square[0] = of * of;
        });
    } else if (average == nullptr) {
        block_sum(sum, count, [=](Index i, float* square) {
            const float of = g[i] * rates.unscale, updated = adam_step(rates, p[i], m[i], v[i], of);
            p[i] = updated;
            const float checked = unless_not_finite(of, updated);
            square[0] = checked * checked;
        });
    } else {
        float* RESTRICT a = average + first;
        block_sum(sum, count, [=](Index i, float* square) {
            const float of = g[i] * rates.unscale, updated = adam_step(rates, p[i], m[i], v[i], of);
            p[i] = updated;
            a[i] = rates.decay * a[i] + (1.0f - rates.decay) * updated;
            const float checked = unless_not_finite(of, updated);
            square[0] = checked * checked;
        });
    }
    if (thread() == 0) partials[blockIdx.x] = sum[0];
}

KERNEL(256, 0) adam_finish_f32(float* RESTRICT norm,           // (1)
                               State* RESTRICT state,          // (1)
                               const float* RESTRICT partials, // (blocks)
                               uint32_t network, uint32_t blocks) {
    float sum[1];
    block_sum(sum, blocks, [&](Index b, float* square) { square[0] = partials[b]; });
    if (thread() == 0) {
        norm[0] = square_root(sum[0]);
        if (!is_left_out(state, network)) {
            state->updates[network] += 1;
            if (!(sum[0] < INFINITY)) state->halted = 2 + network;
        }
    }
}
