// What a training step counts and decides on the device. One block each; the fields are in device/state.h.
//
//   check:   halted = 1 where any value is infinite or NaN (it never goes back to 0)
//   advance: unless halted, step += 1, then for that step
//            learning_rate = base_rate * clamp((decay_end - step) / (decay_end - decay_start), 0, 1)
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/state.h"

KERNEL state_check_f32(State* RESTRICT state,       // (1)
                       const float* RESTRICT values, // (n)
                       uint32_t n) {
    const float worst = block_maximum(n, [&](Index i) { return absolute(values[i]) < INFINITY ? 0.0f : 1.0f; });
    if (thread() == 0 && worst > 0.0f) state->halted = 1;
}

KERNEL state_advance(State* RESTRICT state) {  // (1)
    if (thread() == 0 && state->halted == 0) {
        const uint32_t step = state->step + 1, start = state->decay_start, end = state->decay_end;
        float share = 1.0f;
        if (start < end && step > start) share = step < end ? float(end - step) / float(end - start) : 0.0f;
        state->step = step;
        state->learning_rate[0] = state->base_rate[0] * share;
        state->learning_rate[1] = state->base_rate[1] * share;
    }
}
