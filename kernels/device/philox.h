// Philox4x32-10, a counter-based generator: four random words from a counter and a key, no state between calls.
//   Parallel Random Numbers: As Easy as 1, 2, 3, J. Salmon et al., 2011. The same in Rust: src/random.rs.
//
// A counter is (index, stream, step, purpose): each use of random numbers has a stream of its own, and each step new numbers.
#pragma once
#include "state.h"

struct Philox { uint32_t word[4]; };

DEVICE Philox philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
    UNROLL
    for (int round = 0; round < 10; round++) {
        const uint32_t high0 = multiply_high(0xd2511f53u, c0), low0 = 0xd2511f53u * c0;
        const uint32_t high1 = multiply_high(0xcd9e8d57u, c2), low1 = 0xcd9e8d57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return {{c0, c1, c2, c3}};
}

// In [0, 1), a multiple of 2^-24, exact. (Through a signed conversion, which every vector unit has.)
DEVICE float to_uniform(uint32_t word) { return float(int32_t(word >> 8)) * 5.96046448e-8f; }

// What a kernel draws from in this step.
struct Stream {
    uint32_t stream, step, k0, k1;
    MEMBER Philox at(uint32_t index, uint32_t purpose = 0) const { return philox(index, stream, step, purpose, k0, k1); }
};
DEVICE Stream open_stream(const State* state, uint32_t stream) {
    return {stream, state->step, state->seed[0], state->seed[1]};
}

// write(e, word) for the elements e of [first, last); element e has word e % 4 of counter e / 4, so what it gets does
// not depend on how elements are shared out. Whole counters go through a loop that vectorises.
template <class Write> DEVICE void each_word(Stream stream, uint32_t first, uint32_t last, Write write) {
    const uint32_t whole_first = (first + 3) / 4, whole_last = last / 4;
    INDEPENDENT
    for (uint32_t index = whole_first + thread(); index < whole_last; index += BLOCK) {
        const Philox random = stream.at(index);
        write(4 * index + 0, random.word[0]);
        write(4 * index + 1, random.word[1]);
        write(4 * index + 2, random.word[2]);
        write(4 * index + 3, random.word[3]);
    }
    // At most three elements lie before the first whole counter, and three after the last; no element is written twice.
    const uint32_t before = 4 * whole_first < last ? 4 * whole_first : last;
    for (uint32_t e = first + thread(); e < before; e += BLOCK) write(e, stream.at(e / 4).word[e % 4]);
    const uint32_t after = 4 * whole_last > before ? 4 * whole_last : before;
    for (uint32_t e = after + thread(); e < last; e += BLOCK) write(e, stream.at(e / 4).word[e % 4]);
}
