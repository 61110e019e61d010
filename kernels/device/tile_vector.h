// Tiles on the host: one thread, with the machine's own vector registers. Of one operand, called `vectors` here, neighbouring rows
// become the lanes of vectors; of the other, called `rows`, single elements are multiplied with those vectors. A panel of `vectors`
// is packed as (depth, NR) and stays in the first-level cache while all of `rows` is multiplied with it, in micro-tiles of MR x NR.
// The lanes of a vector can be loaded at once only where neighbours in memory are neighbouring rows of `vectors`. Where that is so of
// B, B is `vectors`. Otherwise A is; if it is not so of A either, A is transposed as it is packed, which is less work than to
// transpose B.
#pragma once
#include "transpose.h"

// GCC keeps a local array of these vectors in registers, but not an array of float. They are as wide as a register of the machine:
// GCC makes slow code of wider ones. A micro-tile has MR rows of NV vectors.
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

// The step along the depth: a panel of DEPTH x NR floats fills half of the first-level cache. MOST_ROWS and MOST_VECTORS are the most
// rows of the two operands that a tile has.
constexpr int DEPTH = 192, MOST_ROWS = 256 + 64, MOST_VECTORS = 128;
// The most rows of a tall tile, which a weight gradient of a convolution has. Each step along the depth goes through the sums of
// so many rows by MOST_VECTORS, which therefore have to stay in the second-level cache.
constexpr int MOST_TALL = 1152 + 64;
// How far apart packed rows lie. It is not a power of two: rows at such a distance would all fall into a few sets of the cache.
constexpr int DEPTH_STRIDE = DEPTH + 16, ROWS_STRIDE = MOST_ROWS + 16;

// The longest depth of a product with few columns (multiply_narrow), where each segment is filled up to whole vectors.
constexpr int NARROW_DEPTH = 8192;

DEVICE Vector load_vector(const float* from) { return *reinterpret_cast<const VectorInMemory*>(from); }
DEVICE void store_vector(float* to, Vector value) { *reinterpret_cast<VectorInMemory*>(to) = value; }

// A part of a step along the depth: `run` depths, of which the first lies at `offset`.
struct Segment { uint32_t offset, run; };

// One depth of a micro-tile c (MR, W vectors): adds b times row i's element, which the cursor finds, to c[i].
template <int W, class Cursor> DEVICE void multiply_step(Vector (&c)[MR][W], const float* b, Cursor& cursor) {
    Vector v[W];
    UNROLL
    for (int j = 0; j < W; j++) v[j] = load_vector(b + j * VECTOR);
    UNROLL
    for (int i = 0; i < MR; i++) {
        const float a = cursor.element(i);
        UNROLL
        for (int j = 0; j < W; j++) c[i][j] += a * v[j];
    }
    cursor.advance();
}
// acc (MR, W vectors) += rows times panel (depth, W vectors), or = where `first`; the cursor finds the rows' elements. One piece of
// `ahead` is prefetched at every fourth depth. All together would fill the processor's queue of cache misses, and the products would
// wait.
template <int W, class Cursor> DEVICE void multiply_micro_tile(float* acc, const float* panel, const Segment* segments, uint32_t count, bool first, const Ahead& ahead, Cursor cursor) {
    constexpr int WIDTH = W * VECTOR;
    Vector c[MR][W];
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < W; j++) c[i][j] = first ? Vector{} : load_vector(acc + i * WIDTH + j * VECTOR);
    // Where nothing is ahead, the panel is prefetched, which is in the cache already.
    const float* next = ahead.rows > 0 ? ahead.from : panel;
    const float* const end = ahead.rows > 0 ? ahead.from + ahead.rows * ahead.stride : panel;
    const uint64_t stride = ahead.rows > 0 ? ahead.stride : 0;
    for (const Segment* const last = segments + count; segments < last; segments++) {
        cursor.start(segments->offset);
        uint32_t left = segments->run;
        for (; left >= 4; left -= 4) {
            __builtin_prefetch(next);
            __builtin_prefetch(next + WIDTH - 1);
            next = next + stride < end ? next + stride : next;
            multiply_step(c, panel, cursor);
            multiply_step(c, panel + WIDTH, cursor);
            multiply_step(c, panel + 2 * WIDTH, cursor);
            multiply_step(c, panel + 3 * WIDTH, cursor);
            panel += 4 * WIDTH;
        }
        for (; left > 0; left--, panel += WIDTH) multiply_step(c, panel, cursor);
    }
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < W; j++) store_vector(acc + i * WIDTH + j * VECTOR, c[i][j]);
}
// Begins a function that is compiled on its own, and neither inlined nor adapted to its callers: otherwise GCC would move the look-up
// of a thread-local panel into its loop.
#if defined(__clang__)
#define ALONE static __attribute__((noinline, unused))
#else
#define ALONE static __attribute__((noipa, unused))
#endif
// Finds elements of rows that may lie anywhere, each with its neighbours along the depth next to each other within a segment.
struct RowCursor {
    const float* row[MR];
    uint64_t k;
    MEMBER void start(uint32_t offset) { k = offset; }
    MEMBER float element(int i) const { return row[i][k]; }
    MEMBER void advance() { k++; }
};
template <int W> ALONE void multiply_rows(float* acc, const float* const* rows, const Segment* segments, uint32_t count, const float* panel, bool first, const Ahead& ahead) {
    RowCursor cursor;
    UNROLL
    for (int i = 0; i < MR; i++) cursor.row[i] = rows[i];
    multiply_micro_tile<W>(acc, panel, segments, count, first, ahead, cursor);
}
// Finds elements of rows that lie next to each other; within a segment, each depth lies `stride` floats after the one before.
struct ColumnCursor {
    const float* columns;
    const float* at;
    uint64_t stride;
    MEMBER void start(uint32_t offset) { at = columns + offset; }
    MEMBER float element(int i) const { return at[i]; }
    MEMBER void advance() { at += stride; }
};
template <int W> ALONE void multiply_columns(float* acc, const float* columns, uint64_t stride, const Segment* segments, uint32_t count, const float* panel, bool first, const Ahead& ahead) {
    multiply_micro_tile<W>(acc, panel, segments, count, first, ahead, ColumnCursor{columns, columns, stride});
}

// to[j * to_stride + i] = from[i * from_stride + j] for i, j < VECTOR.
ALONE void transpose_square(float* to, uint32_t to_stride, const float* from, uint32_t from_stride) {
    Vector v[VECTOR];
    UNROLL
    for (int i = 0; i < VECTOR; i++) v[i] = load_vector(from + i * from_stride);
    transpose(v);
    UNROLL
    for (int i = 0; i < VECTOR; i++) store_vector(to + i * to_stride, v[i]);
}

// to[0 .. count) = the elements from (row, k) on, along the depth (ALONG_K) or along the rows, one run after the other.
template <class Fetch> DEVICE void copy_runs(float* to, const Fetch& fetch, uint32_t row, uint32_t k, uint32_t count) {
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
template <class Fetch> static __attribute__((noinline)) void copy_any(float* to, const Fetch& fetch, uint32_t row, uint32_t k, uint32_t count) {
    copy_runs(to, fetch, row, k, count);
}
// The same for a count that is a constant where it is called. As a rule the elements are one run, and the compiler leaves no loop.
template <class Fetch> DEVICE void copy_elements(float* to, const Fetch& fetch, uint32_t row, uint32_t k, uint32_t count) {
    const typename Fetch::Run run = fetch.run(row, k);
    if (run.count < count) return copy_any(to, fetch, row, k, count);
    float* RESTRICT here = to;
    fetch.load(run, count, [=](uint32_t i, float value) { here[i] = value; });
}

// Packs the operand's rows from v on, at depths k .. k + depth, into panel (depth, W vectors), with zeros from row `last` on.
template <int W, class Fetch> DEVICE void pack_panel(float* panel, const Fetch& fetch, uint32_t v, uint32_t last, uint32_t k, uint32_t depth) {
    constexpr uint32_t WIDTH = W * VECTOR;
    const uint32_t width = least(WIDTH, last - v);
    if constexpr (Fetch::PANELS) {
        fetch.template panel<WIDTH>(panel, v, width, k, depth);
    } else if constexpr (Fetch::ALONG_K) {
        alignas(64) float square[WIDTH * VECTOR];
        for (uint32_t i = width * VECTOR; i < WIDTH * VECTOR; i++) square[i] = 0.0f;
        for (uint32_t at = 0; at < depth; at += VECTOR) {
            const uint32_t some = least(VECTOR, depth - at);
            for (uint32_t i = 0; i < width; i++) {
                if (some == VECTOR) copy_elements(square + i * VECTOR, fetch, v + i, k + at, VECTOR);
                else copy_any(square + i * VECTOR, fetch, v + i, k + at, some);
            }
            // What `square` still holds beyond `some` lands beyond `depth`, where nobody reads it: the panel has room up to DEPTH.
            for (int j = 0; j < W; j++) transpose_square(panel + at * WIDTH + j * VECTOR, WIDTH, square + j * VECTOR * VECTOR, VECTOR);
        }
    } else if (width == WIDTH) {
        for (uint32_t i = 0; i < depth; i++) copy_elements(panel + i * WIDTH, fetch, v, k + i, WIDTH);
    } else {
        for (uint32_t i = 0; i < depth; i++) {
            copy_any(panel + i * WIDTH, fetch, v, k + i, width);
            for (uint32_t j = width; j < WIDTH; j++) panel[i * WIDTH + j] = 0.0f;
        }
    }
}

// Gives finished rows of acc (rows, W vectors) to the epilogue, or the sums of each four of them where it wants those.
template <int W, class Epilogue>
DEVICE void finish_rows(const Epilogue& epilogue, float* acc, uint32_t m, uint32_t rows, uint32_t n, uint32_t width) {
    constexpr uint32_t WIDTH = W * VECTOR;
    const uint32_t sums = rows / epilogue.rows;
    if (epilogue.rows == 4) {
        for (uint32_t i = 0; i < sums; i++) {
            const float* values = acc + 4 * i * WIDTH;
            float* sum = acc + i * WIDTH;  // overwrites only values that have been read
            INDEPENDENT_FEW
            for (uint32_t j = 0; j < WIDTH; j++) sum[j] = (values[j] + values[WIDTH + j]) + (values[2 * WIDTH + j] + values[3 * WIDTH + j]);
        }
    }
    m /= epilogue.rows;
    if (width == WIDTH)
        for (uint32_t i = 0; i < sums; i++) epilogue.store(m + i, n, WIDTH, acc + i * WIDTH);
    else
        for (uint32_t i = 0; i < sums; i++) epilogue.store(m + i, n, width, acc + i * WIDTH);
}
// Gives a finished panel (rows, NR) of a transposed product, whose rows are columns of C, to the epilogue.
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

// Working memory of the block that runs on this thread. The patch, which is what a tile sees of an image (window.h), is to stay in the
// second-level cache.
constexpr int larger_of(int a, int b) { return a > b ? a : b; }
constexpr int PATCH_FLOATS = 128 * 1024;
struct Scratch {
    alignas(64) float panels[DEPTH * (MOST_VECTORS + NR)];
    alignas(64) float tile[(MOST_TALL + VECTOR) * (MOST_VECTORS + NR)];
    alignas(64) float packed[larger_of(DEPTH * ROWS_STRIDE, MOST_ROWS * DEPTH_STRIDE)];
    alignas(64) float patch[PATCH_FLOATS + 64];
};
DEVICE Scratch& scratch() { return *static_cast<Scratch*>(zgan_host_scratch(sizeof(Scratch))); }

// acc[i] = the sum of row i's elements times `weights`, for VECTOR rows. Each segment has whole vectors of weights; elements of a row
// past the end of a segment count as zero, whatever lies there.
ALONE void multiply_dots(float* acc, const float* patch, const uint32_t* row, const Segment* segments, uint32_t count, const float* weights) {
    alignas(64) float square[VECTOR * VECTOR];
    constexpr int AT_ONCE = VECTOR < 8 ? VECTOR : 8;
    for (int first = 0; first < VECTOR; first += AT_ONCE) {
        Vector sum[AT_ONCE] = {};
        const float* w = weights;
        for (uint32_t s = 0; s < count; s++) {
            const float* from = patch + segments[s].offset;
            uint32_t left = segments[s].run;
            for (; left >= VECTOR; left -= VECTOR, from += VECTOR, w += VECTOR) {
                UNROLL
                for (int i = 0; i < AT_ONCE; i++) sum[i] += load_vector(from + row[first + i]) * load_vector(w);
            }
            if (left == 0) continue;
            Lanes32 inside;
            for (int j = 0; j < VECTOR; j++) inside[j] = j < int(left) ? -1 : 0;
            UNROLL
            for (int i = 0; i < AT_ONCE; i++) sum[i] += Vector(Lanes32(load_vector(from + row[first + i])) & inside) * load_vector(w);
            w += VECTOR;
        }
        UNROLL
        for (int i = 0; i < AT_ONCE; i++) store_vector(square + (first + i) * VECTOR, sum[i]);
    }
    transpose_square(square, VECTOR, square, VECTOR);
    for (int width = VECTOR / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) store_vector(square + i * VECTOR, load_vector(square + i * VECTOR) + load_vector(square + (i + width) * VECTOR));
    store_vector(acc, load_vector(square));
}

// Computes C at rows r .. r_end and columns v .. v_end for so few columns that vectors of them would be mostly empty: the lanes run
// along the depth instead. The patch is filled already; offset[i] is where row r + i begins in it.
template <class Rows, class Vectors, class Epilogue>
static __attribute__((noinline)) void multiply_narrow(Scratch& own, const uint32_t* offset, const Rows& rows, const Vectors& vectors, const Epilogue& epilogue, uint32_t r, uint32_t r_end, uint32_t v, uint32_t v_end, uint32_t k, uint32_t k_end) {
    Segment segments[DEPTH + 2];
    const uint32_t count = rows.segments(segments, k, k_end - k), columns = v_end - v;
    // A C of one column is one run of memory.
    const bool flat = vectors.rows == 1 && epilogue.rows == 1;
    uint32_t padded = 0;
    for (uint32_t s = 0, at = k; s < count; s++) {
        for (uint32_t x = 0; x < segments[s].run; x++, at++) {
            float weight[VECTOR];
            copy_any(weight, vectors, v, at, columns);
            for (uint32_t j = 0; j < columns; j++) own.packed[j * NARROW_DEPTH + padded + x] = weight[j];
        }
        const uint32_t end = (padded + segments[s].run + VECTOR - 1) / VECTOR * VECTOR;
        for (uint32_t x = padded + segments[s].run; x < end; x++)
            for (uint32_t j = 0; j < columns; j++) own.packed[j * NARROW_DEPTH + x] = 0.0f;
        padded = end;
    }
    for (uint32_t i = 0; i < r_end - r; i += VECTOR) {
        for (uint32_t j = 0; j < columns; j++) {
            alignas(64) float sums[VECTOR];
            multiply_dots(sums, own.patch, offset + i, segments, count, own.packed + j * NARROW_DEPTH);
            if (flat) store_vector(own.tile + i, load_vector(sums));
            else for (uint32_t x = 0; x < VECTOR; x++) own.tile[(i + x) * VECTOR + j] = sums[x];
        }
    }
    if (flat) return epilogue.store(r, 0, r_end - r, own.tile);
    finish_rows<1>(epilogue, own.tile, r, r_end - r, v, columns);
}

// Computes C at rows r .. r_end and columns v .. v_end, over depths k .. k_end. A panel is packed, used by one micro-tile after the
// other, and not kept; while it is used, what the next one is packed from is prefetched. The tile's size is not a template argument,
// so that all sizes share the code.
template <int W, class Rows, class Vectors, class Epilogue>
static __attribute__((noinline)) void multiply_tile(const Rows& rows, const Vectors& vectors, const Epilogue& epilogue, uint32_t r, uint32_t r_end, uint32_t v, uint32_t v_end, uint32_t k, uint32_t k_end) {
    constexpr uint32_t WIDTH = W * VECTOR;
    Scratch& own = scratch();
    float* const panels = own.panels;
    float* const packed = own.packed;
    [[maybe_unused]] float* const patch = own.patch;
    // Steps of equal length: a short last one would load and store all sums for little work.
    const uint32_t steps = (k_end - k + DEPTH - 1) / DEPTH, step = ((k_end - k + steps - 1) / steps + 3) / 4 * 4;
    const bool one_step = steps == 1;
    // Where each row begins in the patch. Entries past the last row repeat it, and their sums are dropped.
    uint32_t offset[MOST_ROWS];
    bool patched = false;
    if constexpr (Rows::PATCHED) patched = rows.fits(Rows::ALONG_K ? r_end - r : step, r_end - r, PATCH_FLOATS);
    auto rows_at = [&](uint32_t i) {
        uint32_t some = least(MR, r_end - i);
        if constexpr (Rows::PATCHED && !Rows::ALONG_K) if (patched) some = least(some, rows.neighbours(i));
        return some;
    };
    uint32_t micro_tiles = 0;
    for (uint32_t i = r; i < r_end; i += rows_at(i)) micro_tiles++;
    if (micro_tiles * MR > (Rows::ALONG_K ? MOST_ROWS : MOST_TALL)) {
        patched = false;
        micro_tiles = (r_end - r + MR - 1) / MR;
    }
    if constexpr (!Rows::ALONG_K) {
        // Without a patch, all rows of a tall tile cannot be packed at once: it is done in parts.
        constexpr uint32_t SOME = 256;
        if (!patched && r_end - r > MOST_ROWS) {
            for (; r < r_end; r += SOME) multiply_tile<W>(rows, vectors, epilogue, r, least(r + SOME, r_end), v, v_end, k, k_end);
            return;
        }
    }
    if constexpr (Rows::PATCHED && Rows::ALONG_K) {
        if (patched) {
            rows.stage(patch, r, r_end);
            rows.places(offset, r, r_end, VECTOR);
            // By the columns of C, not by those of this tile, so that the size of tiles changes no result.
            const uint32_t lines = rows.window.R;
            if (vectors.rows < VECTOR / 4 && lines <= DEPTH && k_end - k + lines * VECTOR <= NARROW_DEPTH && k == 0 && k_end == rows.depth)
                return multiply_narrow(own, offset, rows, vectors, epilogue, r, r_end, v, v_end, k, k_end);
        }
    }
    uint32_t at = k;
    do {
        const uint32_t depth = least(step, k_end - at);
        const bool first = at == k, last = at + depth == k_end;
        Segment segments[DEPTH + 2] = {{0, depth}};
        uint32_t count = 1;
        if constexpr (Rows::PATCHED) {
            if (patched) {
                if constexpr (!Rows::ALONG_K) rows.stage(patch, at, at + depth);
                count = rows.segments(segments, at, depth);
            }
        }
        if (!Rows::PLAIN && !patched) {
            if constexpr (Rows::ALONG_K)
                for (uint32_t i = r; i < r_end; i++) copy_any(packed + (i - r) * DEPTH_STRIDE, rows, i, at, depth);
            else
                for (uint32_t i = 0; i < depth; i++) copy_any(packed + i * ROWS_STRIDE, rows, r, at + i, r_end - r);
        }
        if constexpr (Rows::PLAIN && !Rows::ALONG_K)
            for (uint32_t i = 0; i < depth; i++) copy_any(packed + i * ROWS_STRIDE, rows, r, at + i, r_end - r);
        for (uint32_t j = v, p = 0; j < v_end; j += WIDTH, p++) {
            pack_panel<W>(panels, vectors, j, v_end, at, depth);
            const bool next_step = j + WIDTH >= v_end;
            const uint32_t next_v = next_step ? v : j + WIDTH, next_k = next_step ? at + depth : at;
            const uint32_t next_depth = least(step, k_end - next_k);
            float* const sums = own.tile + (one_step ? 0 : p * micro_tiles * (MR * WIDTH));
            for (uint32_t i = r, q = 0; i < r_end; q++) {
                const uint32_t some = rows_at(i);
                // What is prefetched: in the last step what the epilogue adds to, otherwise this micro-tile's share of what the next
                // panel is packed from.
                const uint32_t from = next_depth * q / micro_tiles, to = next_depth * (q + 1) / micro_tiles;
                const Ahead ahead = last && Epilogue::READS ? epilogue.ahead(i + some, j, MR) : vectors.ahead(next_v, next_k + from, to - from);
                float* acc = sums + (one_step && epilogue.rows == 1 ? 0 : q * (MR * WIDTH));
                if constexpr (Rows::ALONG_K) {
                    const float* pointers[MR];
                    for (uint32_t x = 0; x < MR; x++) {
                        if constexpr (Rows::PLAIN) pointers[x] = rows.run(least(i + x, r_end - 1), at).values;
                        else if (patched) pointers[x] = patch + offset[i - r + x];
                        else pointers[x] = packed + (i - r + x) * DEPTH_STRIDE;
                    }
                    multiply_rows<W>(acc, pointers, segments, count, panels, first, ahead);
                } else {
                    const float* columns = packed + (i - r);
                    uint64_t stride = ROWS_STRIDE;
                    if constexpr (Rows::PATCHED) {
                        if (patched) {
                            columns = patch + rows.place(i);
                            stride = rows.step();
                        }
                    }
                    multiply_columns<W>(acc, columns, stride, segments, count, panels, first, ahead);
                }
                if (last && epilogue.rows == 1) finish_rows<W>(epilogue, acc, i, some, j, least(WIDTH, v_end - j));
                i += some;
            }
            // Four rows that are summed to one may lie in two micro-tiles. These follow each other in memory: all are finished at once.
            if (last && epilogue.rows != 1) finish_rows<W>(epilogue, sums, r, r_end - r, j, least(WIDTH, v_end - j));
        }
        at += depth;
    } while (at < k_end);
}

// Computes C at rows v .. v_end and columns r .. r_end as a transposed product, for a B whose neighbours in memory lie along the
// depth: `rows` is B, `vectors` is A. In each step along the depth, all that the tile needs of A is packed, and then B is gone through
// once.
template <class Rows, class Vectors, class Epilogue>
static __attribute__((noinline)) void multiply_transposed(const Rows& rows, const Vectors& vectors, const Epilogue& epilogue, uint32_t r, uint32_t r_end, uint32_t v, uint32_t v_end, uint32_t k, uint32_t k_end) {
    static_assert(Epilogue::rows == 1, "nobody has asked for more");
    Scratch& own = scratch();
    float* const panels = own.panels;
    float* const tile = own.tile;
    const uint32_t micro_tiles = (r_end - r + MR - 1) / MR;
    for (uint32_t at = k; at < k_end; at += DEPTH) {
        const uint32_t depth = least(DEPTH, k_end - at);
        const Segment whole = {0, depth};
        for (uint32_t j = v, p = 0; j < v_end; j += NR, p++) pack_panel<NV>(panels + p * (DEPTH * NR), vectors, j, v_end, at, depth);
        for (uint32_t i = r, q = 0; i < r_end; i += MR, q++) {
            const float* pointers[MR];
            for (uint32_t x = 0; x < MR; x++) {
                const uint32_t row = least(i + x, r_end - 1);
                if constexpr (Rows::PLAIN) pointers[x] = rows.run(row, at).values;
                else {
                    copy_any(own.packed + x * DEPTH_STRIDE, rows, row, at, depth);
                    pointers[x] = own.packed + x * DEPTH_STRIDE;
                }
            }
            for (uint32_t j = v, p = 0; j < v_end; j += NR, p++)
                multiply_rows<NV>(tile + (p * micro_tiles + q) * (MR * NR), pointers, &whole, 1, panels + p * (DEPTH * NR), at == k, Ahead{});
        }
    }
    for (uint32_t j = v, p = 0; j < v_end; j += NR, p++)
        finish_columns(epilogue, tile + p * micro_tiles * (MR * NR), r, r_end - r, j, least(NR, v_end - j));
}

// The tile of C in row `tile_row` of tiles and column blockIdx.x, summed over depths k .. k_end. In the weight gradient of a
// convolution (rows of A are taps, read from a patch), a block does all rows of C (`all_taps` in src/device/tuning.rs): B is then
// packed once for at most 1,152 rows, not once for each tile.
template <int BM, int BN, class A, class B, class Epilogue>
DEVICE void tiled_matmul(const A& a, const B& b, const Epilogue& epilogue, uint32_t tile_row, uint32_t k, uint32_t k_end) {
    const uint32_t m = tile_row * BM, n = blockIdx.x * BN;
    if (m >= a.rows) return;
    const uint32_t m_end = least(m + BM, a.rows), n_end = least(n + BN, b.rows);
    if constexpr (A::PATCHED && !A::ALONG_K) {
        const uint32_t parts = (a.rows + 1151) / 1152, each = ((a.rows + parts - 1) / parts + 7) / 8 * 8;
        for (uint32_t r = 0; r < a.rows; r += each)
            multiply_tile<(BN > VECTOR || !PRECISION_F32 ? NV : 1)>(a, b, epilogue, r, least(r + each, a.rows), n, n_end, k, k_end);
        return;
    }
    static_assert((B::ALONG_K ? BN : BM) + MR <= MOST_ROWS && (B::ALONG_K ? BM : BN) <= MOST_VECTORS, "the scratch is this large");
    if constexpr (B::ALONG_K) multiply_transposed(b, a, epilogue, n, n_end, m, m_end, k, k_end);
    else multiply_tile<(BN > VECTOR || !PRECISION_F32 ? NV : 1)>(a, b, epilogue, m, m_end, n, n_end, k, k_end);
}
