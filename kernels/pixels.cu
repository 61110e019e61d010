// Between bytes and activations, both (N, H, W, C).
//
//   load:  x = byte / half - 1, of a sample mirrored left to right with probability 1/2 where `flip` is set,
//          plus amplitude u, u uniform in [0, 1) where amplitude is not 0; computed in f32, and rounded once to 16 bits.
//          half = 127.5 takes white to 1 and, with noise, beyond; 255 / (2 - amplitude) takes white with its noise to 1
//   store: byte = (x + 1) 127.5, rounded, 0 below and 255 above; 0 where x is NaN
//
// load also copies the labels of the images, where there are any.
//
// Random numbers: element e of x has word e % 4 of counter (e / 4, stream, step, 0), the flip of sample n the highest
// bit of counter (n, stream, step, 1); x is the part of a larger batch that begins at its sample `sample`, whose elements and samples
// these are. A block of `load` walks `chunk` rows of W C elements.
#include "device/execution.h"
#include "device/number.h"
#include "device/philox.h"
#include "device/state.h"

PRECISIONS(f32, bf16, f16)

DEVICE float level(uint8_t byte) { return float(int32_t(byte)); }

KERNEL(256, 0) PRECISE(pixels_load)(T* RESTRICT x,                   // (N, H, W, C)
                                      uint32_t* RESTRICT labels,     // (N) or null
                                      const uint8_t* RESTRICT bytes, // (N, H, W, C)
                                      const uint32_t* RESTRICT labels_from,  // (N) or null
                                      const State* RESTRICT state,   // (1)
                                      uint32_t stream, uint32_t sample, uint32_t flip, float half, float amplitude,
                                      uint32_t rows, uint32_t H, uint32_t W, uint32_t C, uint32_t chunk) {
    const Stream random = open_stream(state, stream);
    const uint32_t first = blockIdx.x * chunk, last = rows - first < chunk ? rows : first + chunk, row_length = W * C;
    if (labels && blockIdx.x == 0) {
        INDEPENDENT
        for (uint32_t n = thread(); n < rows / H; n += BLOCK) labels[n] = labels_from[n];
    }
    // Where noise follows, bytes are stored as they are, which every type of x does exactly.
    const bool noisy = amplitude != 0.0f;
    const auto value = [=](uint8_t byte) { return noisy ? level(byte) : level(byte) / half - 1.0f; };
    for (uint32_t row = first; row < last; row++) {
        T* RESTRICT to = x + uint64_t(row) * row_length;
        const uint8_t* RESTRICT from = bytes + uint64_t(row) * row_length;
        if (flip != 0 && random.at(sample + row / H, 1).word[0] >> 31 != 0) {
            uint32_t w = thread() / C, c = thread() % C;
            for (uint32_t i = thread(); i < row_length; i += BLOCK) {
                to[i] = value(from[(W - 1 - w) * C + c]);
                w += BLOCK / C;
                c += BLOCK % C;
                if (c >= C) {
                    c -= C;
                    w++;
                }
            }
        } else {
            INDEPENDENT
            for (uint32_t i = thread(); i < row_length; i += BLOCK) to[i] = value(from[i]);
        }
    }
    if (noisy) {
        barrier();
        const uint32_t before = sample * H * row_length;
        each_word(random, before + first * row_length, before + last * row_length, [=](uint32_t e, uint32_t word) {
            const float clean = float(x[e - before]) / half - 1.0f;
            x[e - before] = clean + amplitude * to_uniform(word);
        });
    }
}

KERNEL(256, 0) PRECISE(pixels_store)(uint8_t* RESTRICT bytes,  // (n)
                                     const T* RESTRICT x,      // (n)
                                     uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk, last = n - first < chunk ? n : first + chunk;
    INDEPENDENT
    for (uint32_t i = first + thread(); i < last; i += BLOCK) {
        float level = (float(x[i]) + 1.0f) * 127.5f + 0.5f;
        level = level > 0.0f ? level : 0.0f;
        level = level < 255.0f ? level : 255.0f;
        bytes[i] = uint8_t(int32_t(level));
    }
}
