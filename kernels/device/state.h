// What changes from one training step to the next. It lies on the device, so that a step that was captured as a CUDA graph can
// be replayed as it is. `State` in src/ops/state.rs is the same structure in Rust. Index 0 is the generator, 1 the discriminator.
#pragma once

struct State {
    uint32_t step;             // steps done
    uint32_t halted;           // not 0 once something was not finite: nothing is updated any more, `step` stays. 1: a loss, or
                               // gradients at every loss scale; 2 + a network: the norm of its gradient, or a new parameter
    uint32_t seed[2];          // the run's seed, low and high word
    float learning_rate[2];    // of the current step
    float base_rate[2];
    uint32_t decay_start, decay_end;  // linear decay to 0 between these steps; none where they are equal
    uint32_t updates[2];       // Adam updates done
    float loss_scale;          // on the seeds of the backward passes, and so on all gradients; a power of two
    uint32_t growth_interval;  // steps after which it doubles; 0: it stays as it is
    uint32_t good_steps;       // in a row, without an overflow
    uint32_t overflows[2];     // 0: the network's gradients are finite under the scale now
    uint32_t spoilt;           // 1: there was an overflow in this step
};
