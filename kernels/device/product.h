// Products of tiles of at most TILE rows by one block, summed in f32: what attention is made of.
//   scores(S, A, B, ...)  S = A B^T, a tile in shared memory, for rows of A and B of D numbers
//   Growing<COLUMNS>      the sum of S Z over several tiles S, for rows of Z of D numbers
//
// On the host operands are read where they lie, and sums grow in memory. A GPU's block copies operands to shared memory, filled with
// zeros, so that its inner loops have no bounds, and sums grow in registers: at most COLUMNS of them, the grid's z tells which.
// In 16 bits, S too is rounded to those for S Z where tensor cores multiply.
#pragma once
#include "math.h"
#include "rows.h"
#include "number.h"

constexpr uint32_t TILE = 64;

DEVICE uint32_t at_most(uint32_t n, uint32_t limit) { return n < limit ? n : limit; }

#if defined(ZGAN_HOST)
#include "transpose.h"

constexpr uint32_t PITCH = 80;  // from row to row of S: whole cache lines, and no power of two of them

// C (rows, columns) = A (rows, depth) B (depth, columns), added to C where `accumulate`. Row-major, with pitches.
// A and B may be of 16 bits. Panels have six rows of WIDE_COUNT vectors: 24 sums in 32 registers, or 12 in 16.
#if defined(__AVX512F__)
typedef float Eight __attribute__((vector_size(32)));
constexpr int WIDE_COUNT = 4;
#else
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
CALLED void product(float* RESTRICT C, uint32_t c_pitch, const Left* RESTRICT A, uint32_t a_pitch,
                    const Right* RESTRICT B, uint32_t b_pitch, uint32_t rows, uint32_t columns, uint32_t depth,
                    bool accumulate) {
    uint32_t r = 0;
    for (; r + 6 <= rows; r += 6)
        product_rows<6>(C + uint64_t(r) * c_pitch, c_pitch, A + uint64_t(r) * a_pitch, a_pitch, B, b_pitch, columns,
                        depth, accumulate);
    for (; r + 4 <= rows; r += 4)
        product_rows<4>(C + uint64_t(r) * c_pitch, c_pitch, A + uint64_t(r) * a_pitch, a_pitch, B, b_pitch, columns,
                        depth, accumulate);
    for (; r < rows; r++)
        product_rows<1>(C + uint64_t(r) * c_pitch, c_pitch, A + uint64_t(r) * a_pitch, a_pitch, B, b_pitch, columns,
                        depth, accumulate);
}

// to[j * PITCH + i] = from[i * pitch + j] for i, j < 4.
DEVICE void transpose_four(float* to, const T* from, uint32_t pitch) {
    Four v[4];
    UNROLL
    for (uint32_t i = 0; i < 4; i++) load(v[i], from + uint64_t(i) * pitch);
    transpose(v);
    UNROLL
    for (uint32_t i = 0; i < 4; i++) store(to + i * PITCH, v[i]);
}

CALLED void scores(float* RESTRICT S, const T* RESTRICT A, const T* RESTRICT B, uint32_t a_rows, uint32_t b_rows, uint32_t D) {
    constexpr uint32_t DEPTH = 32;  // columns that are transposed at a time
    SHARED(float, transposed, DEPTH * PITCH);
    for (uint32_t d0 = 0; d0 < D; d0 += DEPTH) {
        const uint32_t depth = at_most(D - d0, DEPTH);
        for (uint32_t b = 0; b < b_rows;) {
            const uint32_t some = b_rows - b >= 4 ? 4 : 1, fast = some == 4 ? depth / 4 * 4 : 0;
            const T* const from = B + uint64_t(b) * D + d0;
            for (uint32_t d = 0; d < fast; d += 4) transpose_four(transposed + d * PITCH + b, from + d, D);
            for (uint32_t d = fast; d < depth; d++)
                for (uint32_t i = 0; i < some; i++) transposed[d * PITCH + b + i] = from[uint64_t(i) * D + d];
            b += some;
        }
        product(S, PITCH, A + d0, D, transposed, PITCH, a_rows, b_rows, depth, d0 > 0);
    }
}

template <uint32_t COLUMNS> struct Growing {
    const uint32_t rows, D;
    float* const sums;  // (rows, D)
    bool started;
    // `room` has TILE * D floats.
    MEMBER Growing(uint32_t rows, uint32_t D, float* room) : rows(rows), D(D), sums(room), started(false) {}
    MEMBER void add(const float* S, const T* Z, uint32_t count) {
        product(sums, D, S, PITCH, Z, D, rows, D, count, started);
        started = true;
    }
    // The sums so far times `by` of their row.
    MEMBER void scale(const float* by) {
        for (uint32_t r = 0; r < rows; r++) {
            float* const row = sums + uint64_t(r) * D;
            const float factor = by[r];
            if (factor != 1.0f) for_each_column(D, [&](uint64_t d) { row[d] *= factor; });
        }
    }
    // put(row, column, sum) for all of them.
    template <class Put> MEMBER void each(Put put) const {
        for (uint32_t r = 0; r < rows; r++) {
            const float* const row = sums + uint64_t(r) * D;
            for_each_column(D, [&](uint64_t d) { put(r, d, row[d]); });
        }
    }
};
// Memory for sums that grow.
DEVICE float* room(uint32_t floats) { return static_cast<float*>(zgan_host_scratch(uint64_t(floats) * sizeof(float))); }
#else
#include "matrix.h"
#include "piece.h"

constexpr uint32_t PITCH = 72;  // rows start in different banks

#if (PRECISION_BF16 || PRECISION_F16) && (!defined(__CUDACC_RTC__) || __CUDA_ARCH__ >= 800)
#define TENSOR_CORES 1
typedef T Operand;
constexpr uint32_t DEPTH = 32;
#else
#define TENSOR_CORES 0
typedef float Operand;
constexpr uint32_t DEPTH = 16;
#endif
constexpr uint32_t PAD = 16 / sizeof(Operand), DEPTH_PITCH = DEPTH + PAD;
constexpr uint32_t Z_ROWS = TENSOR_CORES ? TILE : TILE / 2, Z_PITCH = TILE + PAD;

// Shared memory for operands: DEPTH columns of A and of B, or Z_ROWS rows of Z.
DEVICE Operand* operands() {
    SHARED(Operand, staged, 2 * TILE * DEPTH_PITCH);
    static_assert(Z_ROWS * Z_PITCH <= 2 * TILE * DEPTH_PITCH, "has room for either");
    return staged;
}
// A thread's share of ROWS x COLUMNS numbers on their way to shared memory, zeros beyond rows and columns. Loading and storing are
// apart, so that loads are in flight meanwhile.
template <uint32_t ROWS, uint32_t COLUMNS> struct Moved {
    static constexpr uint32_t PIECES = COLUMNS / PIECE, SHARE = (ROWS * PIECES + BLOCK - 1) / BLOCK;
    Piece piece[SHARE];
    // `from` has rows of D numbers.
    MEMBER void load(const T* RESTRICT from, uint32_t D, uint32_t rows, uint32_t columns) {
        const bool whole = D % PIECE == 0 && aligned(from);
        UNROLL
        for (uint32_t i = 0; i < SHARE; i++) {
            const uint32_t r = row(i);
            const T* const at = from + uint64_t(r) * D + column(i);
            const uint32_t count = r < rows && column(i) < columns ? columns - column(i) : 0;
            if (whole) {
                piece[i] = Piece{};
                if (count > 0) piece[i] = load_piece(at);
            } else {
                float v[PIECE];
                UNROLL
                for (uint32_t j = 0; j < PIECE; j++) v[j] = j < count ? float(at[j]) : 0.0f;
                piece[i] = pack(v);
            }
        }
    }
    MEMBER void store(Operand* to, uint32_t pitch) const {
        UNROLL
        for (uint32_t i = 0; i < SHARE; i++) {
            if (SHARE * BLOCK != ROWS * PIECES && row(i) >= ROWS) break;
            Operand* const at = to + row(i) * pitch + column(i);
            if constexpr (sizeof(Operand) == sizeof(T)) {
                store_piece(at, piece[i]);
            } else {
                float v[PIECE];
                unpack(v, piece[i]);
                UNROLL
                for (int j = 0; j < PIECE; j++) at[j] = v[j];
            }
        }
    }
    static MEMBER uint32_t row(uint32_t i) { return (i * BLOCK + thread()) / PIECES; }
    static MEMBER uint32_t column(uint32_t) { return thread() % PIECES * PIECE; }
};

// A thread's share of a tile of TILE x TILE sums, 16 numbers, and what it adds to them.
struct Share {
    float sum[16];
#if TENSOR_CORES
    // Warps 4 x 2, each of 16 rows and 32 columns in four tiles of 8.
    static MEMBER uint32_t row(int i) { return thread() / WARP / 2 * 16 + thread() % WARP / 4 + i % 4 / 2 * 8; }
    static MEMBER uint32_t column(int i) { return first_column() + i / 4 * 8 + thread() % 4 * 2 + i % 2; }
    static MEMBER uint32_t score_column(int i) { return column(i); }
    static MEMBER uint32_t first_row() { return thread() / WARP / 2 * 16; }
    static MEMBER uint32_t first_column() { return thread() / WARP % 2 * 32; }
    MEMBER void multiply(int tile, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        const uint32_t b[2] = {b0, b1};
        float(&c)[4] = *reinterpret_cast<float(*)[4]>(sum + 4 * tile);
#if PRECISION_BF16
        multiply_bf16(c, a, b);
#else
        multiply_f16(c, a, b);
#endif
    }
    // += A B^T
    MEMBER void add_scores(const Operand* A, const Operand* B) {
        const uint32_t lane = thread() % WARP;
        UNROLL
        for (uint32_t k = 0; k < DEPTH; k += 16) {
            uint32_t a[4];
            load_matrices(a, shared_address(A + (first_row() + lane % 16) * DEPTH_PITCH + k + lane / 16 * 8));
            UNROLL
            for (uint32_t pair = 0; pair < 2; pair++) {
                uint32_t b[4];
                load_matrices(b, shared_address(B + (first_column() + pair * 16 + lane / 16 * 8 + lane % 8) * DEPTH_PITCH + k + lane / 8 % 2 * 8));
                multiply(2 * pair, a, b[0], b[1]);
                multiply(2 * pair + 1, a, b[2], b[3]);
            }
        }
    }
    // += S Z
    MEMBER void add_product(const float* S, const Operand* Z) {
        const uint32_t lane = thread() % WARP;
        UNROLL
        for (uint32_t k = 0; k < Z_ROWS; k += 16) {
            const float* const from = S + (first_row() + lane / 4) * PITCH + k + lane % 4 * 2;
            uint32_t a[4];
            UNROLL
            for (uint32_t i = 0; i < 4; i++) {
                const float* const two = from + i % 2 * 8 * PITCH + i / 2 * 8;
                a[i] = ::pair(two[0], two[1]);
            }
            UNROLL
            for (uint32_t pair = 0; pair < 2; pair++) {
                uint32_t b[4];
                load_matrices_turned(b, shared_address(Z + (k + lane % 16) * Z_PITCH + first_column() + pair * 16 + lane / 16 * 8));
                multiply(2 * pair, a, b[0], b[1]);
                multiply(2 * pair + 1, a, b[2], b[3]);
            }
        }
    }
#else
    // 16 x 16 threads, each with four neighbouring rows. Of scores it has every 16th column, of sums four neighbouring ones: so
    // the threads of a warp read different banks of B and of Z.
    static MEMBER uint32_t row(int i) { return thread() / 16 * 4 + i / 4; }
    static MEMBER uint32_t column(int i) { return thread() % 16 * 4 + i % 4; }
    static MEMBER uint32_t score_column(int i) { return thread() % 16 + i % 4 * 16; }
    MEMBER void add_scores(const Operand* A, const Operand* B) {
        ROLLED
        for (uint32_t k = 0; k < DEPTH; k += 4) {
            float a[4][4], b[4][4];
            UNROLL
            for (int i = 0; i < 4; i++) {
                load_whole(a[i], A + row(4 * i) * DEPTH_PITCH + k);
                load_whole(b[i], B + score_column(i) * DEPTH_PITCH + k);
            }
            UNROLL
            for (int i = 0; i < 64; i++) sum[i / 4] += a[i / 16][i % 4] * b[i / 4 % 4][i % 4];
        }
    }
    MEMBER void add_product(const float* S, const Operand* Z) {
        ROLLED
        for (uint32_t k = 0; k < Z_ROWS; k += 4) {
            float a[4][4], z[4][4];
            UNROLL
            for (int i = 0; i < 4; i++) {
                load_whole(a[i], S + row(4 * i) * PITCH + k);
                load_whole(z[i], Z + (k + i) * Z_PITCH + column(0));
            }
            UNROLL
            for (int i = 0; i < 64; i++) sum[i % 16] += a[i % 16 / 4][i / 16] * z[i / 16][i % 4];
        }
    }
#endif
};

// Ends with a barrier.
DEVICE void scores(float* S, const T* RESTRICT A, const T* RESTRICT B, uint32_t a_rows, uint32_t b_rows, uint32_t D) {
    Operand *const a = operands(), *const b = a + TILE * DEPTH_PITCH;
    Share share = {};
    Moved<TILE, DEPTH> of_a, of_b;
    of_a.load(A, D, a_rows, D);
    of_b.load(B, D, b_rows, D);
    for (uint32_t d = DEPTH;; d += DEPTH) {
        of_a.store(a, DEPTH_PITCH);
        of_b.store(b, DEPTH_PITCH);
        barrier();
        if (d < D) {
            of_a.load(A + d, D, a_rows, D - d);
            of_b.load(B + d, D, b_rows, D - d);
        }
        share.add_scores(a, b);
        barrier();
        if (d >= D) break;
    }
    UNROLL
    for (int i = 0; i < 16; i++) S[Share::row(i) * PITCH + Share::score_column(i)] = share.sum[i];
    barrier();
}

template <uint32_t COLUMNS> struct Growing {
    const uint32_t rows, D, first, columns;
    Share share[COLUMNS / TILE];
    MEMBER Growing(uint32_t rows, uint32_t D, float*)
        : rows(rows), D(D), first(at_most(blockIdx.z * COLUMNS, D)), columns(at_most(D - first, COLUMNS)), share{} {}
    // Ends with a barrier.
    MEMBER void add(const float* S, const T* RESTRICT Z, uint32_t count) {
        Operand* const z = operands();
        UNROLL
        for (uint32_t i = 0; i < COLUMNS / TILE; i++) {
            if (i * TILE >= columns) break;
            for (uint32_t k = 0; k < count; k += Z_ROWS) {
                Moved<Z_ROWS, TILE> of_z;
                of_z.load(Z + uint64_t(k) * D + first + i * TILE, D, count - k, columns - i * TILE);
                of_z.store(z, Z_PITCH);
                barrier();
                share[i].add_product(S + k, z);
                barrier();
            }
        }
    }
    MEMBER void scale(const float* by) {
        UNROLL
        for (int i = 0; i < 16; i++) {
            UNROLL
            for (uint32_t j = 0; j < COLUMNS / TILE; j++)
                if (Share::row(i) < rows) share[j].sum[i] *= by[Share::row(i)];
        }
    }
    template <class Put> MEMBER void each(Put put) const {
        UNROLL
        for (uint32_t j = 0; j < COLUMNS / TILE; j++) {
            UNROLL
            for (int i = 0; i < 16; i++) {
                const uint32_t row = Share::row(i), column = j * TILE + Share::column(i);
                if (row < rows && column < columns) put(row, first + column, share[j].sum[i]);
            }
        }
    }
};
DEVICE float* room(uint32_t) { return nullptr; }
#endif
