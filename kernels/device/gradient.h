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
    template <class Walk> MEMBER void read(Raw& raw, const Walk& walk, int i) const {
        load_where(walk.there(i), raw.values, walk.at(i, dy));
        load_where(walk.there(i), raw.output, walk.at(i, y));
    }
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
    // 1: all pieces times one number. 2: the derivative of a ReLU, leaky or not, alone.
    template <class Walk> MEMBER uint32_t manner(const Walk& walk) const {
        if (activation.code == 0) return !row_scale || walk.one_sample();
        return activation.code == 1 && !row_scale && !half ? 2 : 0;
    }
    template <class Walk, class Body> MEMBER void with_scale(const Walk& walk, Body body) const {
        const float part = share(walk.sample(0));
        body([&](const auto& raw, int) {
            float v[PIECE];
            unpack(v, raw.values);
            UNROLL
            for (int j = 0; j < PIECE; j++) v[j] *= part;
            return pack(v);
        });
    }
    template <class Walk, class Body> MEMBER void with_change(uint32_t manner, const Walk& walk, Body body) const {
        if (manner == 1) {
            with_scale(walk, body);
        } else if (manner == 2) {
            body([&](const Raw& raw, int) {
                float v[PIECE];
                unpack(v, raw.values);
                slope_by_sign(v, raw.output, activation.slope);
                return pack(v);
            });
        } else {
            body([&](const Raw& raw, int i) { return finished(*this, raw, walk, i); });
        }
    }
#endif
};

#if !defined(ZGAN_HOST)
struct OfSample {
    uint32_t n;
    MEMBER uint32_t sample(int) const { return n; }
};
#endif
// to[k], or what is added to it where `accumulate` is set, = the sum of g over samples begin .. end, of `pixels` rows of K columns each,
// for the columns k = first .. first + COLUMNS that there are. The threads are those of a tile's block. g is not pooled.
template <uint32_t COLUMNS>
DEVICE void sum_columns(float* RESTRICT to, bool accumulate, const OutputGradient& g, uint32_t first, uint32_t K, uint32_t pixels, uint32_t begin, uint32_t end) {
#if defined(ZGAN_HOST)
    constexpr uint32_t AT_ONCE = 16;
    for (uint32_t k = first; k < least(first + COLUMNS, K); k += AT_ONCE) {
        const uint32_t width = least(AT_ONCE, K - k);
        float sums[AT_ONCE] = {};
        for (uint32_t n = begin; n < end; n++) {
            if (width == AT_ONCE)
                for (uint32_t p = 0; p < pixels; p++) g.exact((uint64_t(n) * pixels + p) * K + k, n, AT_ONCE, [&](uint32_t i, float value) { sums[i] += value; });
            else
                for (uint32_t p = 0; p < pixels; p++) g.exact((uint64_t(n) * pixels + p) * K + k, n, width, [&](uint32_t i, float value) { sums[i] += value; });
        }
        for (uint32_t i = 0; i < width; i++) to[k + i] = (accumulate ? to[k + i] : 0.0f) + sums[i];
    }
#else
    // A warp sums two pieces of columns at a time. Its lanes share out the rows, and a tree joins their sums. So the order of the sum
    // does not depend on the size of the tile.
    const bool whole = g.whole() && K % PIECE == 0;
    const uint32_t lane = thread() % WARP;
    ROLLED
    for (uint32_t piece = thread() / WARP * 2; piece < COLUMNS / PIECE; piece += TILE_THREADS / WARP * 2) {
        const uint32_t k = first + (piece + lane % 2) * PIECE, last = k < K ? end * pixels : 0;
        float sums[PIECE] = {};
        if (whole) {
            UNROLL_FOUR
            for (uint32_t row = begin * pixels + lane / 2; row < last; row += WARP / 2) {
                const uint64_t at = uint64_t(row) * K + k;
                float v[PIECE];
                g.finish({load_piece(g.dy + at), load_piece(g.y + at)}, OfSample{row / pixels}, 0, v);
                UNROLL
                for (int i = 0; i < PIECE; i++) sums[i] += v[i];
            }
        } else {
            ROLLED
            for (uint32_t row = begin * pixels + lane / 2; row < last; row += WARP / 2)
                UNROLL
                for (int i = 0; i < PIECE; i++)
                    if (k + i < K) g.exact(uint64_t(row) * K + k + i, row / pixels, 1, [&](uint32_t, float value) { sums[i] += value; });
        }
        UNROLL
        for (int i = 0; i < PIECE; i++) {
            for (int mask = 2; mask < WARP; mask *= 2) sums[i] += shuffle_xor(sums[i], mask);
            if (lane < 2 && k + i < K) to[k + i] = (accumulate ? to[k + i] : 0.0f) + sums[i];
        }
    }
#endif
}
