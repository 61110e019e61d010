// A square of numbers in vectors, transposed in the registers of a CPU.
#pragma once

// Divides both vectors into blocks of STEP lanes, and exchanges the odd blocks of a with the even blocks of b.
template <int STEP, class V> DEVICE void exchange_blocks(V& a, V& b) {
    constexpr int LANES = sizeof(V) / sizeof(float);
    decltype(a < b) low, high;
    UNROLL
    for (int i = 0; i < LANES; i++) {
        low[i] = (i & STEP) ? LANES + i - STEP : i;
        high[i] = (i & STEP) ? LANES + i : i + STEP;
    }
#if defined(__clang__)
    V x, y;
    UNROLL
    for (int i = 0; i < LANES; i++) {
        x[i] = (i & STEP) ? b[i - STEP] : a[i];
        y[i] = (i & STEP) ? b[i] : a[i + STEP];
    }
#else
    const V x = __builtin_shuffle(a, b, low), y = __builtin_shuffle(a, b, high);
#endif
    a = x;
    b = y;
}
// In place, of as many vectors as one has lanes.
template <int STEP = 1, class V, int LANES> DEVICE void transpose(V (&v)[LANES]) {
    if constexpr (STEP < LANES) {
        UNROLL
        for (int i = 0; i < LANES; i++)
            if (!(i & STEP)) exchange_blocks<STEP>(v[i], v[i + STEP]);
        transpose<STEP * 2>(v);
    }
}
