// Sums and maxima over a block, in a fixed order. Every thread of the block calls them, and every thread gets the result.
#pragma once
#include "math.h"

// The type of an index. On the host it is as wide as a pointer: 32-bit sums may wrap, so the compiler could not rely on elements
// i and i + 1 being neighbours, and would not vectorise.
#if defined(ZGAN_HOST)
typedef uint64_t Index;
#else
typedef uint32_t Index;
#endif

struct Sum {
    static MEMBER float join(float a, float b) { return a + b; }
};
struct Maximum {
    static MEMBER float join(float a, float b) { return larger(a, b); }
};

#if defined(ZGAN_HOST)
// One thread sums in LANES independent lanes, which the compiler keeps in vector registers, and joins them pairwise at the end.
// (It may not reorder a float sum by itself, and -fassociative-math, which would let it, undoes compensated sums.)
constexpr int LANES = 16;
template <class Join> CALLED float join_lanes(float* lane) {
    UNROLL
    for (int width = LANES / 2; width > 0; width /= 2) {
        INDEPENDENT
        for (int l = 0; l < width; l++) lane[l] = Join::join(lane[l], lane[l + width]);
    }
    return lane[0];
}
template <class Join, int K> struct Lanes {
    float lane[K][LANES];
    MEMBER void fill(float value) { for (int k = 0; k < K; k++) for (int l = 0; l < LANES; l++) lane[k][l] = value; }
    template <class Value> MEMBER void add(Index i, const Value& value) {
        INDEPENDENT_FEW
        for (int l = 0; l < LANES; l++) {
            float v[K];
            value(i + l, v);
            for (int k = 0; k < K; k++) lane[k][l] = Join::join(lane[k][l], v[k]);
        }
    }
    MEMBER void finish(float (&result)[K]) {
        for (int k = 0; k < K; k++) result[k] = join_lanes<Join>(lane[k]);
    }
};

// result[k] = join over i < n of the k-th value that value(i, v) stores in v[0 .. K - 1]; `empty` where n is 0.
template <class Join, int K, class Value> DEVICE void block_reduce(float (&result)[K], float empty, uint32_t n, Value value) {
    Lanes<Join, K> lanes;
    lanes.fill(empty);
    Index i = 0;
    if (K == 1) {
        // Two sets of lanes, joined at the end: with one, each addition would wait for the one before it.
        Lanes<Join, K> second;
        second.fill(empty);
        for (; i + 2 * LANES <= n; i += 2 * LANES) {
            lanes.add(i, value);
            second.add(i + LANES, value);
        }
        for (int l = 0; l < LANES; l++) lanes.lane[0][l] = Join::join(lanes.lane[0][l], second.lane[0][l]);
    }
    for (; i + LANES <= n; i += LANES) lanes.add(i, value);
    for (int l = 0; i < n; i++, l++) {
        float v[K];
        value(i, v);
        for (int k = 0; k < K; k++) lanes.lane[k][l] = Join::join(lanes.lane[k][l], v[k]);
    }
    lanes.finish(result);
}
#else
// Each thread joins the values of its stride; then a tree joins the lanes of each warp, then a tree the warps.
template <class Join, int K, class Value> DEVICE void block_reduce(float (&result)[K], float empty, uint32_t n, Value value) {
    for (int k = 0; k < K; k++) result[k] = empty;
    for (uint32_t i = thread(); i < n; i += BLOCK) {
        float v[K];
        value(i, v);
        for (int k = 0; k < K; k++) result[k] = Join::join(result[k], v[k]);
    }
    SHARED(float, warps, K * WARPS);
    for (int k = 0; k < K; k++) {
        for (int mask = WARP / 2; mask > 0; mask /= 2) result[k] = Join::join(result[k], shuffle_xor(result[k], mask));
        if (thread() % WARP == 0) warps[k * WARPS + thread() / WARP] = result[k];
    }
    barrier();
    for (int k = 0; k < K; k++) {
        float joined[WARPS];
        for (int w = 0; w < WARPS; w++) joined[w] = warps[k * WARPS + w];
        for (int width = WARPS / 2; width > 0; width /= 2)
            for (int w = 0; w < width; w++) joined[w] = Join::join(joined[w], joined[w + width]);
        result[k] = joined[0];
    }
    barrier();  // the array may be used again at once
}
#endif

template <int K, class Value> DEVICE void block_sum(float (&result)[K], uint32_t n, Value value) {
    block_reduce<Sum>(result, 0.0f, n, value);
}
// The largest value(i), i < n; -infinity where n is 0.
template <class Value> DEVICE float block_maximum(uint32_t n, Value value) {
    float result[1];
    block_reduce<Maximum>(result, -INFINITY, n, [&](Index i, float* v) { v[0] = value(i); });
    return result[0];
}
