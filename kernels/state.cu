// What a training step counts and decides on the device. All but `overflow` run as one block; device/state.h has the fields.
//
//   check:   halted = 1 where any value is infinite or NaN, unless halted already (it never goes back to 0)
//   advance: unless halted, step += 1, then for that step
//            learning_rate = base_rate * clamp((decay_end - step) / (decay_end - decay_start), 0, 1)
//
// Gradients in 16 bits are scaled, so that small ones do not vanish (Micikevicius et al., Mixed Precision Training, 2018):
//
//   seed:     seeds = loss_scale * seeds, or * 1
//   overflow: overflows[network] += 1 for each block that finds a gradient infinite or NaN; the update is then left out
//   settle, before seeds are scaled again and as part of advance: where there was an overflow, the scale is halved;
//             after growth_interval steps in a row without one, it doubles. Below 2^-24 nothing is left to try: halted = 1
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/state.h"

KERNEL(256, 0) state_check_f32(State* RESTRICT state,       // (1)
                               const float* RESTRICT values, // (n)
                               uint32_t n) {
    const float worst = block_maximum(n, [&](Index i) { return absolute(values[i]) < INFINITY ? 0.0f : 1.0f; });
    if (thread() == 0 && worst > 0.0f && state->halted == 0) state->halted = 1;
}

DEVICE void settle(State* state) {
    if (state->growth_interval == 0 || state->overflows[0] + state->overflows[1] == 0) return;
    state->loss_scale *= 0.5f;
    state->overflows[0] = 0;
    state->overflows[1] = 0;
    state->spoilt = 1;
    if (state->loss_scale < 5.9604645e-8f) state->halted = 1;
}

KERNEL(256, 0) state_settle(State* RESTRICT state) {  // (1)
    if (thread() == 0) settle(state);
}

KERNEL(256, 0) state_seed_f32(float* RESTRICT seeds,        // (n)
                              const State* RESTRICT state,  // (1)
                              uint32_t of_one, uint32_t n) {
    const float scale = state->loss_scale;
    INDEPENDENT
    for (uint32_t i = thread(); i < n; i += BLOCK) seeds[i] = of_one ? scale : scale * seeds[i];
}

// Grid (ranges of `chunk` gradients).
KERNEL(256, 0) state_overflow_f32(State* RESTRICT state,           // (1)
                                  const float* RESTRICT gradient,  // (n)
                                  uint32_t network, uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk, count = n - first < chunk ? n - first : chunk;
    const float* RESTRICT g = gradient + first;
    const float worst = block_maximum(count, [=](Index i) { return absolute(g[i]) < INFINITY ? 0.0f : 1.0f; });
    if (thread() == 0 && worst > 0.0f) atomic_add(&state->overflows[network], 1);
}

KERNEL(256, 0) state_advance(State* RESTRICT state) {  // (1)
    if (thread() == 0) settle(state);
    if (thread() == 0 && state->halted == 0) {
        if (state->growth_interval != 0) {
            state->good_steps = state->spoilt != 0 ? 0 : state->good_steps + 1;
            state->spoilt = 0;
            if (state->good_steps == state->growth_interval) {
                state->loss_scale *= 2.0f;
                state->good_steps = 0;
            }
        }
        const uint32_t step = state->step + 1, start = state->decay_start, end = state->decay_end;
        float share = 1.0f;
        if (start < end && step > start) share = step < end ? float(end - step) / float(end - start) : 0.0f;
        state->step = step;
        state->learning_rate[0] = state->base_rate[0] * share;
        state->learning_rate[1] = state->base_rate[1] * share;
    }
}
