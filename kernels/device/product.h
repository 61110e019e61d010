// The product of two small matrices by one block, in f32. The operands are read where they lie, in shared memory or in the cache:
// this is for tiles that a kernel makes and uses itself, such as the scores of attention.
#pragma once
#include "math.h"

// C (rows, columns) = A (rows, depth) B (depth, columns), added to C where `accumulate`. Row-major, with pitches.
// A and B may be of 16 bits. No barrier: C is to be read after one, and a thread that accumulates finds what it wrote itself.

#if defined(ZGAN_HOST)
// Vectors of the machine's own width: GCC keeps an accumulator in registers only as one.
typedef float Four __attribute__((vector_size(16)));
#if defined(__AVX512F__)
typedef float Eight __attribute__((vector_size(32)));
typedef float Wide __attribute__((vector_size(64)));
constexpr int WIDE_COUNT = 4;  // 16 accumulators of 32 registers
#elif defined(__AVX2__)
typedef float Wide __attribute__((vector_size(32)));
constexpr int WIDE_COUNT = 2;
#else
typedef Four Wide;
constexpr int WIDE_COUNT = 2;
#endif

// At any alignment: one unaligned move.
template <class V> DEVICE void load(V& value, const float* from) { __builtin_memcpy(&value, from, sizeof(V)); }
template <class V, class Stored> DEVICE void load(V& value, const Stored* from) {
    if constexpr (sizeof(V) == sizeof(float)) {
        value = *from;
    } else {
        float lane[sizeof(V) / sizeof(float)];
        for (uint32_t i = 0; i < sizeof(V) / sizeof(float); i++) lane[i] = from[i];
        load(value, lane);
    }
}
template <class V> DEVICE void store(float* to, const V& value) { __builtin_memcpy(to, &value, sizeof(V)); }

template <class V, int ROWS, int COUNT, class Left, class Right>
DEVICE void product_panel(float* RESTRICT C, uint32_t c_pitch, const Left* RESTRICT A, uint32_t a_pitch,
                          const Right* RESTRICT B, uint32_t b_pitch, uint32_t depth, bool accumulate) {
    constexpr int N = sizeof(V) / sizeof(float);
    V acc[ROWS][COUNT];
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        UNROLL
        for (int j = 0; j < COUNT; j++) {
            if (accumulate) load(acc[r][j], C + r * c_pitch + j * N);
            else acc[r][j] = V{};
        }
    }
    for (uint32_t k = 0; k < depth; k++) {
        V b[COUNT];
        UNROLL
        for (int j = 0; j < COUNT; j++) load(b[j], B + uint64_t(k) * b_pitch + j * N);
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            const float a = A[uint64_t(r) * a_pitch + k];
            UNROLL
            for (int j = 0; j < COUNT; j++) acc[r][j] += a * b[j];
        }
    }
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        UNROLL
        for (int j = 0; j < COUNT; j++) store(C + r * c_pitch + j * N, acc[r][j]);
    }
}

template <int ROWS, class Left, class Right>
DEVICE void product_rows(float* RESTRICT C, uint32_t c_pitch, const Left* RESTRICT A, uint32_t a_pitch,
                         const Right* RESTRICT B, uint32_t b_pitch, uint32_t columns, uint32_t depth, bool accumulate) {
    constexpr uint32_t N = sizeof(Wide) / sizeof(float);
    uint32_t c = 0;
    for (; c + N * WIDE_COUNT <= columns; c += N * WIDE_COUNT)
        product_panel<Wide, ROWS, WIDE_COUNT>(C + c, c_pitch, A, a_pitch, B + c, b_pitch, depth, accumulate);
    for (; c + N <= columns; c += N)
        product_panel<Wide, ROWS, 1>(C + c, c_pitch, A, a_pitch, B + c, b_pitch, depth, accumulate);
#if defined(__AVX512F__)
    for (; c + 8 <= columns; c += 8)
        product_panel<Eight, ROWS, 1>(C + c, c_pitch, A, a_pitch, B + c, b_pitch, depth, accumulate);
#endif
    for (; c + 4 <= columns; c += 4)
        product_panel<Four, ROWS, 1>(C + c, c_pitch, A, a_pitch, B + c, b_pitch, depth, accumulate);
    for (; c < columns; c++)
        product_panel<float, ROWS, 1>(C + c, c_pitch, A, a_pitch, B + c, b_pitch, depth, accumulate);
}

template <class Left, class Right>
DEVICE void product(float* RESTRICT C, uint32_t c_pitch, const Left* RESTRICT A, uint32_t a_pitch,
                    const Right* RESTRICT B, uint32_t b_pitch, uint32_t rows, uint32_t columns, uint32_t depth,
                    bool accumulate) {
    uint32_t r = 0;
    for (; r + 4 <= rows; r += 4)
        product_rows<4>(C + uint64_t(r) * c_pitch, c_pitch, A + uint64_t(r) * a_pitch, a_pitch, B, b_pitch, columns,
                        depth, accumulate);
    for (; r < rows; r++)
        product_rows<1>(C + uint64_t(r) * c_pitch, c_pitch, A + uint64_t(r) * a_pitch, a_pitch, B, b_pitch, columns,
                        depth, accumulate);
}
#else
// 16 x 16 threads, each a 4 x 4 tile of every 64 x 64; neighbouring threads read neighbouring columns of B.
template <class Left, class Right>
DEVICE void product(float* RESTRICT C, uint32_t c_pitch, const Left* RESTRICT A, uint32_t a_pitch,
                    const Right* RESTRICT B, uint32_t b_pitch, uint32_t rows, uint32_t columns, uint32_t depth,
                    bool accumulate) {
    const uint32_t tx = thread() % 16, ty = thread() / 16;
    for (uint32_t r0 = ty; r0 < rows; r0 += 64) {
        for (uint32_t c0 = tx; c0 < columns; c0 += 64) {
            float acc[4][4];
            UNROLL
            for (int i = 0; i < 4; i++) {
                UNROLL
                for (int j = 0; j < 4; j++) {
                    const uint32_t r = r0 + 16 * i, c = c0 + 16 * j;
                    acc[i][j] = accumulate && r < rows && c < columns ? C[uint64_t(r) * c_pitch + c] : 0.0f;
                }
            }
            for (uint32_t k = 0; k < depth; k++) {
                float a[4], b[4];
                UNROLL
                for (int i = 0; i < 4; i++) a[i] = r0 + 16 * i < rows ? float(A[uint64_t(r0 + 16 * i) * a_pitch + k]) : 0.0f;
                UNROLL
                for (int j = 0; j < 4; j++) b[j] = c0 + 16 * j < columns ? float(B[uint64_t(k) * b_pitch + c0 + 16 * j]) : 0.0f;
                UNROLL
                for (int i = 0; i < 4; i++) {
                    UNROLL
                    for (int j = 0; j < 4; j++) acc[i][j] += a[i] * b[j];
                }
            }
            UNROLL
            for (int i = 0; i < 4; i++) {
                UNROLL
                for (int j = 0; j < 4; j++) {
                    const uint32_t r = r0 + 16 * i, c = c0 + 16 * j;
                    if (r < rows && c < columns) C[uint64_t(r) * c_pitch + c] = acc[i][j];
                }
            }
        }
    }
}
#endif
