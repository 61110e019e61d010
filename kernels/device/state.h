// What a training step keeps on the device, so that a captured step is replayed without patching anything.
// The mirror of `State` in src/ops/state.rs. Index 0 is the generator, 1 the discriminator.
#pragma once

struct State {
    uint32_t step;             // steps done
    uint32_t halted;           // 1 once a loss was not finite: nothing is updated any more, `step` stays
    uint32_t seed[2];          // the run's seed, low and high word
    float learning_rate[2];    // of the current step
    float base_rate[2];
    uint32_t decay_start, decay_end;  // linear decay to 0 between these steps; none where they are equal
    uint32_t updates[2];       // Adam updates done
};
