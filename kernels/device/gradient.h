// The effective output gradient of a layer, g[n][i] = row_scale[n] * part * dy[n][i] * act'(y[n][i]), computed as it is read and
// never stored. n is the sample; act' is computed from the output y. `part` is 1/4 where the output is pooled, else 1.
#pragma once
#include "activation.h"
#include "number.h"

struct OutputGradient {
    const T* RESTRICT dy;
    const T* RESTRICT y;  // dy again where act is the identity and the caller gives no y: its values then do not matter
    const float* RESTRICT row_scale;  // null: 1
    Activation activation;
    uint32_t half;  // 1: the output is pooled, and dy has half as many rows and columns

    MEMBER float share(uint32_t n) const { return (row_scale ? row_scale[n] : 1.0f) * (half ? 0.25f : 1.0f); }
    // Calls store(i, g) for the `count` elements from `at` on, which are of sample n. In f32: not yet rounded to what the precision
    // multiplies (`factor` in number.h).
    template <class Store> MEMBER void exact(uint64_t at, uint32_t n, uint32_t count, Store store) const {
        const T* RESTRICT from = dy + at;
        const T* RESTRICT output = y + at;
        const float part = share(n);
        with_derivative(activation, [=](auto derivative) {
            INDEPENDENT_FEW
            for (uint32_t i = 0; i < count; i++) store(i, from[i] * derivative(output[i]) * part);
        });
    }
#if !defined(ZGAN_HOST)
    // For a GPU's products: see tile.h.
    struct Raw { Piece values, output; };
    MEMBER bool whole() const { return aligned(dy) && aligned(y); }
    MEMBER bool same() const { return !row_scale && !half && activation.code == 0; }
    MEMBER const T* start() const { return dy; }
    template <class Walk> MEMBER void read(Raw& raw, const Walk& walk, int i) const { raw = {load_piece(walk.at(i, dy)), load_piece(walk.at(i, y))}; }
    template <class Walk> MEMBER void finish(const Raw& raw, const Walk& walk, int i, float (&v)[PIECE]) const {
        const float part = share(walk.sample(i));
        float output[PIECE];
        unpack(v, raw.values);
        unpack(output, raw.output);
        if constexpr (sizeof(T) == 4) {
            // As with_derivative has it. Both forms are computed, so that no branch depends on what was loaded.
            const bool curved = activation.code == 2;
            UNROLL
            for (int j = 0; j < PIECE; j++) {
                const float of_tanh = 1.0f - output[j] * output[j], of_leaky = output[j] <= 0.0f ? activation.slope : 1.0f;
                v[j] = v[j] * (curved ? of_tanh : of_leaky) * part;
            }
        } else {
            // The compiler finds that itself here, and has no registers for both forms of a piece's eight numbers.
            with_derivative(activation, [&](auto derivative) {
                UNROLL
                for (int j = 0; j < PIECE; j++) v[j] = v[j] * derivative(output[j]) * part;
            });
        }
    }
#endif
};
