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

// The step along the depth: a panel of DEPTH x NR floats fills a third of the first-level cache.
constexpr int DEPTH = 128, MOST_ROWS = 256 + MR, MOST_VECTORS = 128;
// Rows of a packed panel lie this far apart, not a power of two: those would share a few sets of the cache.
constexpr int DEPTH_STRIDE = DEPTH + 16, ROWS_STRIDE = MOST_ROWS + 16;

DEVICE Vector load_vector(const float* from) { return *reinterpret_cast<const VectorInMemory*>(from); }
DEVICE void store_vector(float* to, Vector value) { *reinterpret_cast<VectorInMemory*>(to) = value; }

// One step along the depth of a micro-tile c (MR, NR): the i-th row's element times b (NR).
template <class Element> DEVICE void multiply_step(Vector (&c)[MR][NV], const float* b, Element element) {
    Vector v[NV];
    UNROLL
    for (int j = 0; j < NV; j++) v[j] = load_vector(b + j * VECTOR);
    UNROLL
    for (int i = 0; i < MR; i++) {
        const float a = element(i);
        UNROLL
        for (int j = 0; j < NV; j++) c[i][j] += a * v[j];
    }
}
// acc (MR, NR) = or += rows times panel (depth, NR); element(k, i) is the i-th row's at depth k. A piece of `ahead` is
// asked for every fourth step: in a burst they would fill the queue of outstanding misses, and the products would wait.
template <class Element> DEVICE void multiply_micro_tile(float* acc, const float* panel, uint64_t depth, bool first, const Ahead& ahead, Element element) {
    Vector c[MR][NV];
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++) c[i][j] = first ? Vector{} : load_vector(acc + i * NR + j * VECTOR);
    // Nothing ahead: the panel itself, which is there already.
    const float* next = ahead.rows > 0 ? ahead.from : panel;
    const float* const end = ahead.rows > 0 ? ahead.from + ahead.rows * ahead.stride : panel;
    const uint64_t stride = ahead.rows > 0 ? ahead.stride : 0;
    uint64_t k = 0;
    for (; k + 4 <= depth; k += 4) {
        __builtin_prefetch(next);
        __builtin_prefetch(next + NR - 1);
        next = next + stride < end ? next + stride : next;
        multiply_step(c, panel, [&](int i) { return element(k, i); });
        multiply_step(c, panel + NR, [&](int i) { return element(k + 1, i); });
        multiply_step(c, panel + 2 * NR, [&](int i) { return element(k + 2, i); });
        multiply_step(c, panel + 3 * NR, [&](int i) { return element(k + 3, i); });
        panel += 4 * NR;
    }
    for (; k < depth; k++, panel += NR) multiply_step(c, panel, [&](int i) { return element(k, i); });
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++) store_vector(acc + i * NR + j * VECTOR, c[i][j]);
}
// A function on its own, as it stands: GCC would move the look-up of a thread-local panel into its loop.
#if defined(__clang__)
#define ALONE [[maybe_unused]] static __attribute__((noinline))
#else
#define ALONE [[maybe_unused]] static __attribute__((noipa))
#endif
// Rows anywhere, each contiguous along the depth.
ALONE void multiply_rows(float* acc, const float* const* rows, const float* panel, uint64_t depth, bool first, const Ahead& ahead) {
    const float* r[MR];
    UNROLL
    for (int i = 0; i < MR; i++) r[i] = rows[i];
    multiply_micro_tile(acc, panel, depth, first, ahead, [&](uint64_t k, int i) { return r[i][k]; });
}
// Rows next to each other: element (i, k) is columns[k * ROWS_STRIDE + i].
ALONE void multiply_columns(float* acc, const float* columns, const float* panel, uint64_t depth, bool first, const Ahead& ahead) {
    multiply_micro_tile(acc, panel, depth, first, ahead, [=](uint64_t k, int i) { return columns[k * ROWS_STRIDE + i]; });
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
ALONE void transpose_square(float* to, uint32_t to_stride, const float* from, uint32_t from_stride) {
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
        if (run.count >= count) {  // `count` is a constant of most callers: no loop is left
            float* RESTRICT here = to;
            fetch.load(run, count, [=](uint32_t i, float value) { here[i] = value; });
            return;
        }
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

// A finished micro-tile to the epilogue, row by row; `rows` and `width` of it are inside C.
template <class Epilogue>
DEVICE void finish_rows(const Epilogue& epilogue, const float* acc, uint32_t m, uint32_t rows, uint32_t n, uint32_t width) {
    if (width == NR)
        for (uint32_t i = 0; i < rows; i++) epilogue.store(m + i, n, NR, acc + i * NR);
    else
        for (uint32_t i = 0; i < rows; i++) epilogue.store(m + i, n, width, acc + i * NR);
}
// A finished panel (rows, NR) whose rows are columns of C.
template <class Epilogue>
DEVICE void finish_columns(const Epilogue& epilogue, const float* acc, uint32_t n, uint32_t rows, uint32_t m, uint32_t width) {
    for (uint32_t i = 0; i < rows; i += VECTOR) {
        for (uint32_t j = 0; j < width; j += VECTOR) {
            alignas(64) float turned[VECTOR * VECTOR];
            transpose_square(turned, VECTOR, acc + i * NR + j, NR);
            const uint32_t some = least(VECTOR, width - j);
            if (rows - i >= VECTOR)
                for (uint32_t x = 0; x < some; x++) epilogue.store(m + j + x, n + i, VECTOR, turned + x * VECTOR);
            else
                for (uint32_t x = 0; x < some; x++) epilogue.store(m + j + x, n + i, rows - i, turned + x * VECTOR);
        }
    }
}

// Scratch of the block that runs on this thread.
constexpr int larger_of(int a, int b) { return a > b ? a : b; }
alignas(64) static thread_local float panels[DEPTH * (MOST_VECTORS + NR)], tile[(MOST_ROWS + VECTOR) * (MOST_VECTORS + NR)];
alignas(64) static thread_local float packed[larger_of(DEPTH * ROWS_STRIDE, MOST_ROWS * DEPTH_STRIDE)];

// The rows of a micro-tile, where they lie if nothing happens to them on the way: past the last, the last again.
template <class Rows> DEVICE void row_pointers(const float* (&pointers)[MR], const Rows& rows, uint32_t r, uint32_t first, uint32_t end, uint32_t k) {
    for (uint32_t x = 0; x < MR; x++) {
        if constexpr (Rows::PLAIN) pointers[x] = rows.run(least(first + x, end - 1), k).values;
        else pointers[x] = packed + (first - r + x) * DEPTH_STRIDE;
    }
}

// C rows r .. r_end, columns v .. v_end. A panel is packed, used by all micro-tiles at once, and gone; while it is
// used, the next is on its way from memory. Not a template of the tile size, so that all sizes share the code.
template <class Rows, class Vectors, class Epilogue>
static __attribute__((noinline)) void multiply_tile(const Rows& rows, const Vectors& vectors, const Epilogue& epilogue, uint32_t r, uint32_t r_end, uint32_t v, uint32_t v_end, uint32_t k, uint32_t k_end) {
    const bool one_step = k_end - k <= DEPTH;
    const uint32_t micro_tiles = (r_end - r + MR - 1) / MR;
    uint32_t at = k;
    do {
        const uint32_t depth = least(DEPTH, k_end - at);
        const bool first = at == k, last = at + depth == k_end;
        if constexpr (Rows::ALONG_K && !Rows::PLAIN)
            for (uint32_t i = r; i < r_end; i++) copy_elements(packed + (i - r) * DEPTH_STRIDE, rows, i, at, depth);
        if constexpr (!Rows::ALONG_K)
            for (uint32_t i = 0; i < depth; i++) copy_elements(packed + i * ROWS_STRIDE, rows, r, at + i, r_end - r);
        for (uint32_t j = v, p = 0; j < v_end; j += NR, p++) {
            pack_panel(panels, vectors, j, v_end, at, depth);
            const bool next_step = j + NR >= v_end;
            const uint32_t next_v = next_step ? v : j + NR, next_k = next_step ? at + depth : at;
            const uint32_t next_depth = least(DEPTH, k_end - next_k);
            for (uint32_t i = r, q = 0; i < r_end; i += MR, q++) {
                // What is wanted next: on the last step what the epilogue adds to, else this micro-tile's share of the next panel.
                const uint32_t from = next_depth * q / micro_tiles, to = next_depth * (q + 1) / micro_tiles;
                const Ahead ahead = last && Epilogue::READS ? epilogue.ahead(i + MR, j, MR) : vectors.ahead(next_v, next_k + from, to - from);
                float* acc = tile + (one_step ? 0 : p * micro_tiles + q) * (MR * NR);
                if constexpr (Rows::ALONG_K) {
                    const float* pointers[MR];
                    row_pointers(pointers, rows, r, i, r_end, at);
                    multiply_rows(acc, pointers, panels, depth, first, ahead);
                } else {
                    multiply_columns(acc, packed + (i - r), panels, depth, first, ahead);
                }
                if (last) finish_rows(epilogue, acc, i, least(MR, r_end - i), j, least(NR, v_end - j));
            }
        }
        at += depth;
    } while (at < k_end);
}

// C rows v .. v_end, columns r .. r_end: the transposed product, for a B whose neighbours in memory lie along the depth. All of A's
// part is packed, transposed, for each step; B's rows pass by once.
template <class Rows, class Vectors, class Epilogue>
static __attribute__((noinline)) void multiply_transposed(const Rows& rows, const Vectors& vectors, const Epilogue& epilogue, uint32_t r, uint32_t r_end, uint32_t v, uint32_t v_end, uint32_t k, uint32_t k_end) {
    const uint32_t micro_tiles = (r_end - r + MR - 1) / MR;
    for (uint32_t at = k; at < k_end; at += DEPTH) {
        const uint32_t depth = least(DEPTH, k_end - at);
        if constexpr (!Rows::PLAIN)
            for (uint32_t i = r; i < r_end; i++) copy_elements(packed + (i - r) * DEPTH_STRIDE, rows, i, at, depth);
        for (uint32_t j = v, p = 0; j < v_end; j += NR, p++) pack_panel(panels + p * (DEPTH * NR), vectors, j, v_end, at, depth);
        for (uint32_t i = r, q = 0; i < r_end; i += MR, q++) {
            const float* pointers[MR];
            row_pointers(pointers, rows, r, i, r_end, at);
            for (uint32_t j = v, p = 0; j < v_end; j += NR, p++)
                multiply_rows(tile + (p * micro_tiles + q) * (MR * NR), pointers, panels + p * (DEPTH * NR), depth, at == k, Ahead{});
        }
    }
    for (uint32_t j = v, p = 0; j < v_end; j += NR, p++)
        finish_columns(epilogue, tile + p * micro_tiles * (MR * NR), r, r_end - r, j, least(NR, v_end - j));
}

template <int BM, int BN, class A, class B, class Epilogue>
DEVICE void tiled_matmul(const A& a, const B& b, const Epilogue& epilogue) {
    const uint32_t m = blockIdx.y * BM, n = blockIdx.x * BN;
    const uint32_t m_end = least(m + BM, a.rows), n_end = least(n + BN, b.rows);
    static_assert((B::ALONG_K ? BN : BM) <= MOST_ROWS && (B::ALONG_K ? BM : BN) <= MOST_VECTORS, "the scratch is this large");
    if constexpr (B::ALONG_K) multiply_transposed(b, a, epilogue, n, n_end, m, m_end, 0, a.depth);
    else multiply_tile(a, b, epilogue, m, m_end, n, n_end, 0, a.depth);
}
