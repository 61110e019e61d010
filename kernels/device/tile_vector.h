// Tiles on the host: one thread, the machine's own vector registers. A panel of the operand whose rows become vectors
// (V) is packed as (depth, NR) and stays in the first-level cache while micro-tiles of MR x NR walk down the other
// operand (R), whose elements are broadcast. Only V's layout matters: it must have neighbours along its rows, so the operand
// that has them is chosen as V, and where neither has, the smaller work is to transpose A in registers.
#pragma once

// GCC keeps a local array of these in registers, and no array of float. The lanes are the machine's: a vector
// that is wider than a register is taken apart badly.
#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, MR = 8, NV = 2;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32, MR = 6, NV = 2;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, MR = 8, NV = 2;
#else
constexpr int VECTOR_BYTES = 16, MR = 4, NV = 2;
#endif
typedef float Vector __attribute__((vector_size(VECTOR_BYTES)));
typedef float VectorInMemory __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t Lanes32 __attribute__((vector_size(VECTOR_BYTES)));
constexpr int VECTOR = VECTOR_BYTES / 4, NR = NV * VECTOR;

// The step along the depth: a panel of DEPTH x NR floats fills two thirds of the first-level cache.
constexpr int DEPTH = 256, MOST_ROWS = 128 + MR;
// Rows of a packed panel lie this far apart, not a power of two: those would share a few sets of the cache.
constexpr int DEPTH_STRIDE = DEPTH + 16, ROWS_STRIDE = MOST_ROWS + 16;

DEVICE Vector load_vector(const float* from) { return *reinterpret_cast<const VectorInMemory*>(from); }
DEVICE void store_vector(float* to, Vector value) { *reinterpret_cast<VectorInMemory*>(to) = value; }

// acc (MR, NR) = or += rows[0 .. MR)[0 .. depth) times panel (depth, NR).
[[maybe_unused]] static __attribute__((noinline)) void multiply_rows(float* acc, const float* const* rows, const float* panel, uint32_t depth, bool first) {
    Vector c[MR][NV];
    const float* r[MR];
    UNROLL
    for (int i = 0; i < MR; i++) {
        r[i] = rows[i];
        UNROLL
        for (int j = 0; j < NV; j++) c[i][j] = first ? Vector{} : load_vector(acc + i * NR + j * VECTOR);
    }
    for (uint32_t k = 0; k < depth; k++) {
        Vector b[NV];
        UNROLL
        for (int j = 0; j < NV; j++) b[j] = load_vector(panel + k * NR + j * VECTOR);
        UNROLL
        for (int i = 0; i < MR; i++) {
            const float a = r[i][k];
            UNROLL
            for (int j = 0; j < NV; j++) c[i][j] += a * b[j];
        }
    }
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++) store_vector(acc + i * NR + j * VECTOR, c[i][j]);
}

// The same with neighbouring rows next to each other: element (i, k) is columns[k * stride + i].
[[maybe_unused]] static __attribute__((noinline)) void multiply_columns(float* acc, const float* columns, uint32_t stride, const float* panel, uint32_t depth, bool first) {
    Vector c[MR][NV];
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++) c[i][j] = first ? Vector{} : load_vector(acc + i * NR + j * VECTOR);
    for (uint32_t k = 0; k < depth; k++) {
        Vector b[NV];
        UNROLL
        for (int j = 0; j < NV; j++) b[j] = load_vector(panel + k * NR + j * VECTOR);
        UNROLL
        for (int i = 0; i < MR; i++) {
            const float a = columns[i];
            UNROLL
            for (int j = 0; j < NV; j++) c[i][j] += a * b[j];
        }
        columns += stride;
    }
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++) store_vector(acc + i * NR + j * VECTOR, c[i][j]);
}

// Exchanges, between two vectors, the odd blocks of STEP lanes of the first with the even ones of the second.
template <int STEP> DEVICE void exchange_blocks(Vector& a, Vector& b) {
    Lanes32 low, high;
    UNROLL
    for (int i = 0; i < VECTOR; i++) {
        low[i] = (i & STEP) ? VECTOR + i - STEP : i;
        high[i] = (i & STEP) ? VECTOR + i : i + STEP;
    }
#if defined(__clang__)
    Vector x, y;
    UNROLL
    for (int i = 0; i < VECTOR; i++) {
        x[i] = (i & STEP) ? b[i - STEP] : a[i];
        y[i] = (i & STEP) ? b[i] : a[i + STEP];
    }
#else
    const Vector x = __builtin_shuffle(a, b, low), y = __builtin_shuffle(a, b, high);
#endif
    a = x;
    b = y;
}
template <int STEP> DEVICE void transpose_round(Vector (&v)[VECTOR]) {
    if constexpr (STEP < VECTOR) {
        UNROLL
        for (int i = 0; i < VECTOR; i++)
            if (!(i & STEP)) exchange_blocks<STEP>(v[i], v[i + STEP]);
        transpose_round<STEP * 2>(v);
    }
}
// to[j * to_stride + i] = from[i * from_stride + j] for i, j < VECTOR.
[[maybe_unused]] static __attribute__((noinline)) void transpose_square(float* to, uint32_t to_stride, const float* from, uint32_t from_stride) {
    Vector v[VECTOR];
    UNROLL
    for (int i = 0; i < VECTOR; i++) v[i] = load_vector(from + i * from_stride);
    transpose_round<1>(v);
    UNROLL
    for (int i = 0; i < VECTOR; i++) store_vector(to + i * to_stride, v[i]);
}

// to[0 .. count) = the elements from (row, k) on along the operand's own direction, by runs.
template <class Fetch> DEVICE void copy_elements(float* to, const Fetch& fetch, uint32_t row, uint32_t k, uint32_t count) {
    while (count > 0) {
        const typename Fetch::Run run = fetch.run(row, k);
        const uint32_t n = least(run.count, count);
        float* RESTRICT here = to;
        fetch.load(run, n, [=](uint32_t i, float value) { here[i] = value; });
        to += n;
        count -= n;
        (Fetch::ALONG_K ? k : row) += n;
    }
}

// panel (depth, NR): rows v .. v + NR of the operand, zeros past its last.
template <class Fetch> DEVICE void pack_panel(float* panel, const Fetch& fetch, uint32_t v, uint32_t last, uint32_t k, uint32_t depth) {
    const uint32_t width = least(NR, last - v);
    if constexpr (Fetch::ALONG_K) {
        alignas(64) float square[NR * VECTOR];
        for (uint32_t i = width * VECTOR; i < NR * VECTOR; i++) square[i] = 0.0f;
        for (uint32_t at = 0; at < depth; at += VECTOR) {
            const uint32_t some = least(VECTOR, depth - at);
            for (uint32_t i = 0; i < width; i++) {
                if (some == VECTOR) copy_elements(square + i * VECTOR, fetch, v + i, k + at, VECTOR);
                else copy_elements(square + i * VECTOR, fetch, v + i, k + at, some);
            }
            // What is left in `square` beyond `some` lands beyond `depth`: the panel has room up to DEPTH.
            for (int j = 0; j < NV; j++) transpose_square(panel + at * NR + j * VECTOR, NR, square + j * VECTOR * VECTOR, VECTOR);
        }
    } else if (width == NR) {
        for (uint32_t i = 0; i < depth; i++) copy_elements(panel + i * NR, fetch, v, k + i, NR);
    } else {
        for (uint32_t i = 0; i < depth; i++) {
            copy_elements(panel + i * NR, fetch, v, k + i, width);
            for (uint32_t j = width; j < NR; j++) panel[i * NR + j] = 0.0f;
        }
    }
}

// A finished micro-tile to the epilogue, by rows of C. `first_r` and `first_v` are its place, `rows` and `width` what is inside C.
template <bool SWAPPED, class Epilogue>
DEVICE void finish(const Epilogue& epilogue, const float* acc, uint32_t first_r, uint32_t rows, uint32_t first_v, uint32_t width) {
    if constexpr (!SWAPPED) {
        if (width == NR)
            for (uint32_t i = 0; i < rows; i++) epilogue.store(first_r + i, first_v, NR, acc + i * NR);
        else
            for (uint32_t i = 0; i < rows; i++) epilogue.store(first_r + i, first_v, width, acc + i * NR);
    } else {
        for (uint32_t j = 0; j < width; j++) {
            float turned[MR];
            for (int i = 0; i < MR; i++) turned[i] = acc[i * NR + j];
            if (rows == MR) epilogue.store(first_v + j, first_r, MR, turned);
            else epilogue.store(first_v + j, first_r, rows, turned);
        }
    }
}

// Scratch of the block that runs on this thread.
constexpr int larger_of(int a, int b) { return a > b ? a : b; }
alignas(64) static thread_local float panel[DEPTH * NR], tile[MOST_ROWS * (MOST_ROWS + NR)];
alignas(64) static thread_local float packed[larger_of(DEPTH * ROWS_STRIDE, MOST_ROWS * DEPTH_STRIDE)];

// Rows r .. r_end of one operand times rows v .. v_end of the other, over the whole depth. SWAPPED: the first are the
// columns of C, the second its rows. Not a template of the tile size, so that all sizes share the code.
template <bool SWAPPED, class Rows, class Vectors, class Epilogue>
static __attribute__((noinline)) void multiply_tile(const Rows& rows, const Vectors& vectors, const Epilogue& epilogue, uint32_t r, uint32_t r_end, uint32_t v, uint32_t v_end, uint32_t k, uint32_t k_end) {
    const bool one_step = k_end - k <= DEPTH;
    const uint32_t micro_tiles = (r_end - r + MR - 1) / MR;

    uint32_t at = k;
    do {
        const uint32_t depth = least(DEPTH, k_end - at);
        const bool first = at == k, last = at + depth == k_end;
        if constexpr (Rows::ALONG_K)
            for (uint32_t i = r; i < r_end; i++) copy_elements(packed + (i - r) * DEPTH_STRIDE, rows, i, at, depth);
        else
            for (uint32_t i = 0; i < depth; i++) copy_elements(packed + i * ROWS_STRIDE, rows, r, at + i, r_end - r);
        for (uint32_t j = v, p = 0; j < v_end; j += NR, p++) {
            pack_panel(panel, vectors, j, v_end, at, depth);
            for (uint32_t i = r, q = 0; i < r_end; i += MR, q++) {
                float* acc = tile + (one_step ? 0 : p * micro_tiles + q) * (MR * NR);
                if constexpr (Rows::ALONG_K) {
                    // Rows past the last are read and their sums dropped: old values, or zeros.
                    const float* pointers[MR];
                    for (int x = 0; x < MR; x++) pointers[x] = packed + (i - r + x) * DEPTH_STRIDE;
                    multiply_rows(acc, pointers, panel, depth, first);
                } else {
                    multiply_columns(acc, packed + (i - r), ROWS_STRIDE, panel, depth, first);
                }
                if (last) finish<SWAPPED>(epilogue, acc, i, least(MR, r_end - i), j, least(NR, v_end - j));
            }
        }
        at += depth;
    } while (at < k_end);
}

template <int BM, int BN, class A, class B, class Epilogue>
DEVICE void tiled_matmul(const A& a, const B& b, const Epilogue& epilogue) {
    static_assert(BM <= 128 && BN <= 128, "the scratch of multiply_tile is this large");
    const uint32_t m = blockIdx.y * BM, n = blockIdx.x * BN;
    const uint32_t m_end = least(m + BM, a.rows), n_end = least(n + BN, b.rows);
    if constexpr (B::ALONG_K) multiply_tile<true>(b, a, epilogue, n, n_end, m, m_end, 0, a.depth);
    else multiply_tile<false>(a, b, epilogue, m, m_end, n, n_end, 0, a.depth);
}
