// Loops over a row-major matrix, for pooling, for broadcasting and for sums over samples. On the host a row is a plain loop,
// which is vectorised; with real threads, those of a warp read neighbouring columns. Every thread of the block calls these
// functions with the same arguments. A function of a column that is passed to a sum takes the column as `auto`: it has 64 bits on
// the host, since the compiler does not vectorise a loop whose index might wrap.
#pragma once
#include "math.h"
#include "reduce.h"

#if defined(ZGAN_HOST)
// row(r)(c) for every r < rows and c < columns; the calls do not depend on one another.
template <class Row> DEVICE void for_each_element(uint32_t rows, uint32_t columns, Row row) {
    for (uint32_t r = 0; r < rows; r++) {
        auto column = row(r);
        INDEPENDENT
        for (uint32_t c = 0; c < columns; c++) column(c);
    }
}

// WIDTH columns from `c` on, the first `used` of them real.
template <int WIDTH, class Take, class Value, class Store>
DEVICE void column_sums_at(uint64_t c, uint32_t used, uint32_t rows, Take take, Value value, Store store) {
    alignas(64) float sum[WIDTH];
    for (int l = 0; l < WIDTH; l++) sum[l] = 0.0f;
    if (used == WIDTH) {
        for (uint32_t r = 0; r < rows; r++) {
            if (!take(r)) continue;
            INDEPENDENT
            for (int l = 0; l < WIDTH; l++) sum[l] += value(r, c + l);
        }
    } else {
        for (uint32_t r = 0; r < rows; r++) {
            if (!take(r)) continue;
            for (uint32_t l = 0; l < used; l++) sum[l] += value(r, c + l);
        }
    }
    for (uint32_t l = 0; l < used; l++) store(c + l, sum[l]);
}

// store(c, sum over the r < rows that take(r) of value(r, c)) for every first <= c < last, in a fixed order.
// What is stored may be read by the whole block afterwards.
template <class Take, class Value, class Store>
DEVICE void column_sums(uint32_t first, uint32_t last, uint32_t rows, Take take, Value value, Store store) {
    uint64_t c = first;
    for (; c + 64 <= last; c += 64) column_sums_at<64>(c, 64, rows, take, value, store);
    for (; c + 16 <= last; c += 16) column_sums_at<16>(c, 16, rows, take, value, store);
    if (c < last) column_sums_at<16>(c, uint32_t(last - c), rows, take, value, store);
}

// body(r) for every r < rows. With real threads a warp owns a row, and there is no barrier. Inside the body, row_reduce and
// for_each_column share the row out over the lanes of that warp, and a lane gets the same columns in both.
template <class Body> DEVICE void for_each_row(uint32_t rows, Body body) {
    for (uint32_t r = 0; r < rows; r++) body(r);
}
// Vectors of the machine's own width: GCC keeps sums in registers only as one of those.
typedef float Four __attribute__((vector_size(16)));
#if defined(__AVX512F__)
typedef float Wide __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef float Wide __attribute__((vector_size(32)));
#else
typedef Four Wide;
#endif
// What Sum and Maximum do, lane by lane.
template <class V> DEVICE V join_vectors(Sum, const V& a, const V& b) { return a + b; }
template <class V> DEVICE V join_vectors(Maximum, const V& a, const V& b) {
    const V most = a > b ? a : b;
    return a == a ? most : a;
}
// All lanes joined, as join_lanes does it.
template <class Join, class V> DEVICE float join_across(const V& v) {
    if constexpr (sizeof(V) == sizeof(Four)) {
        return Join::join(Join::join(v[0], v[2]), Join::join(v[1], v[3]));
    } else {
        typedef float Half __attribute__((vector_size(sizeof(V) / 2)));
        Half half[2];
        __builtin_memcpy(half, &v, sizeof(V));
        return join_across<Join>(join_vectors(Join(), half[0], half[1]));
    }
}
// As block_reduce, with the same bits. Where a set of lanes takes at most two registers they stay in those, and are joined there,
// which matters for short rows.
template <class Join, class Value> DEVICE float row_reduce(float empty, uint32_t columns, Value value) {
    constexpr int SET = LANES * sizeof(float) / sizeof(Wide);
    if constexpr (SET > 2) {
        float result[1];
        block_reduce<Join>(result, empty, columns, [&](auto c, float* v) { v[0] = value(c); });
        return result[0];
    }
    Wide lanes[2 * SET];  // two sets of LANES
    UNROLL
    for (int j = 0; j < 2 * SET; j++) lanes[j] = Wide{} + empty;
    auto add = [&](Wide* set, Index from, uint32_t count) {
        alignas(64) float lane[LANES];
        __builtin_memcpy(lane, set, sizeof(lane));
        INDEPENDENT_FEW
        for (uint32_t l = 0; l < count; l++) lane[l] = Join::join(lane[l], value(from + l));
        __builtin_memcpy(set, lane, sizeof(lane));
    };
    Index c = 0;
    for (; c + 2 * LANES <= columns; c += 2 * LANES) {
        add(lanes, c, LANES);
        add(lanes + SET, c + LANES, LANES);
    }
    UNROLL
    for (int j = 0; j < SET; j++) lanes[j] = join_vectors(Join(), lanes[j], lanes[j + SET]);
    if (c + LANES <= columns) {
        add(lanes, c, LANES);
        c += LANES;
    }
    if (c < columns) add(lanes, c, columns - c);
    return join_across<Join>(SET == 1 ? lanes[0] : join_vectors(Join(), lanes[0], lanes[SET - 1]));
}
template <class Body> DEVICE void for_each_column(uint32_t columns, Body body) {
    INDEPENDENT
    for (uint32_t c = 0; c < columns; c++) body(c);
}
// True in one lane of each row, which stores what all lanes know.
DEVICE constexpr bool row_leader() { return true; }
#else
template <class Row> DEVICE void for_each_element(uint32_t rows, uint32_t columns, Row row) {
    for (uint32_t i = thread(); i < rows * columns; i += BLOCK) row(i / columns)(i % columns);
}

// Each warp reads WARP columns at a time, of every WARPS-th row.
template <class Take, class Value, class Store>
DEVICE void column_sums(uint32_t first, uint32_t last, uint32_t rows, Take take, Value value, Store store) {
    SHARED(float, sums, BLOCK);
    const int lane = thread() % WARP, warp = thread() / WARP;
    for (uint32_t begin = first; begin < last; begin += WARP) {
        const uint32_t c = begin + lane;
        float sum = 0.0f;
        if (c < last)
            for (uint32_t r = warp; r < rows; r += WARPS)
                if (take(r)) sum += value(r, c);
        sums[thread()] = sum;
        barrier();
        if (warp == 0 && c < last) {
            for (int w = 1; w < WARPS; w++) sum += sums[w * WARP + lane];
            store(c, sum);
        }
        barrier();  // the array may be used again, and what was stored be read
    }
}

template <class Body> DEVICE void for_each_row(uint32_t rows, Body body) {
    for (uint32_t r = thread() / WARP; r < rows; r += WARPS) body(r);
}
template <class Join, class Value> DEVICE float row_reduce(float empty, uint32_t columns, Value value) {
    float result = empty;
    for (uint32_t c = thread() % WARP; c < columns; c += WARP) result = Join::join(result, value(c));
    for (int mask = WARP / 2; mask > 0; mask /= 2) result = Join::join(result, shuffle_xor(result, mask));
    return result;
}
template <class Body> DEVICE void for_each_column(uint32_t columns, Body body) {
    for (uint32_t c = thread() % WARP; c < columns; c += WARP) body(c);
}
DEVICE bool row_leader() { return thread() % WARP == 0; }
#endif

template <class Value> DEVICE float row_sum(uint32_t columns, Value value) { return row_reduce<Sum>(0.0f, columns, value); }
template <class Value> DEVICE float row_maximum(uint32_t columns, Value value) {
    return row_reduce<Maximum>(-INFINITY, columns, value);
}

struct Everything {
    MEMBER bool operator()(uint32_t) const { return true; }
};

// A sample without a label: any number that is not a class, as a rule 0xffffffff.
DEVICE bool is_class(uint32_t label, uint32_t classes) { return label < classes; }

// Sums over samples of the same label, without float atomics and without a pass per class: block n owns the label of
// sample n when no earlier sample has it, and joins all samples from n on that do, in order.
// The owner calls add(label, c, sum) for each column; the other blocks do nothing.
template <class Value, class Add>
DEVICE void sums_by_label(uint32_t n, uint32_t first, uint32_t last, const uint32_t* RESTRICT labels, uint32_t N,
                          uint32_t classes, Value value, Add add) {
    const uint32_t label = labels[n];
    bool owner = is_class(label, classes);
    for (uint32_t earlier = 0; earlier < n; earlier++) owner = owner && labels[earlier] != label;
    if (owner)  // the same for the whole block
        column_sums(first, last, N - n, [&](uint32_t r) { return labels[n + r] == label; },
                    [&](uint32_t r, auto c) { return value(n + r, c); },
                    [&](uint32_t c, float sum) { add(label, c, sum); });
}
