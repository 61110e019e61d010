// What networks that judge images need besides products: resizing of bytes, and pooling of any window into a slice of channels.
//
//   resize   y[n,p,q,k] = scale clip(v) + offset,   v = sum over i of a[p,i] (sum over j of b[q,j] x[n, rows[p] + i, columns[q] + j, k])
//            with x the bytes as numbers from 0 to 255. An image of one channel gives the same to all K of y.
//            a and b have R and S weights for each row and column of y; the host makes them, as each way of resizing has them.
//            clip keeps v within 0 and 255. The sum over j is rounded to f32 before the sum over i, as resizing in two passes does.
//   pool     y[n,p,q,first + c] = the maximum, or the mean, of x[n, p stride - pad + i, q stride - pad + j, c] over i, j < size,
//            of the pixels that exist. A mean divides by their number, or by size^2 where padding counts.
//            y has K channels, of which others are left as they are: so branches are joined. A window of one pixel copies x.
//
// y overwrites. Each element is written once, by one thread, which adds in the order of i, then j. A block has `pixels` pixels of y.
// Memory traffic: y once; x once, and again from cache where windows overlap.
#include "device/execution.h"
#include "device/math.h"

DEVICE uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

KERNEL(256, 0) features_resize_f32(float* RESTRICT y,               // (N, P, Q, K)
                                   const uint8_t* RESTRICT x,       // (N, H, W, C)
                                   const uint32_t* RESTRICT rows,   // (P): + R is at most H
                                   const float* RESTRICT a,         // (P, R)
                                   const uint32_t* RESTRICT columns,  // (Q): + S is at most W
                                   const float* RESTRICT b,         // (Q, S)
                                   float scale, float offset, uint32_t N, uint32_t H, uint32_t W, uint32_t C,
                                   uint32_t P, uint32_t Q, uint32_t K, uint32_t R, uint32_t S, uint32_t pixels) {
    const uint32_t begin = blockIdx.x * pixels, count = least(N * P * Q - begin, pixels);
    for (uint32_t e = thread(); e < K * count; e += BLOCK) {
        const uint32_t pixel = begin + e / K, k = C == 1 ? 0 : e % K;
        const uint32_t q = pixel % Q, p = pixel / Q % P, n = pixel / Q / P;
        const uint8_t* const from = x + ((uint64_t(n) * H + rows[p]) * W + columns[q]) * C + k;
        float sum = 0.0f;
        for (uint32_t i = 0; i < R; i++) {
            float line = 0.0f;
            for (uint32_t j = 0; j < S; j++) line += b[uint64_t(q) * S + j] * float(int32_t(from[(uint64_t(i) * W + j) * C]));
            sum += a[uint64_t(p) * R + i] * line;
        }
        sum = sum > 0.0f ? sum : 0.0f;
        sum = sum < 255.0f ? sum : 255.0f;
        y[uint64_t(pixel) * K + e % K] = scale * sum + offset;
    }
}

// Channels that a thread takes at a time: as many as a vector of the host has, or one.
constexpr uint32_t AT_ONCE = BLOCK == 1 ? 16 : 1;

// The pixels h0 <= h < h1, w0 <= w < w1 of one image, of which `from` points to the first channel wanted; `width` of them.
// join(l, x) for each.
template <class Width, class Join>
DEVICE void for_each_in_window(const float* RESTRICT from, uint32_t h0, uint32_t h1, uint32_t w0, uint32_t w1, uint32_t W, uint32_t C,
                               Width width, Join join) {
    for (uint32_t h = h0; h < h1; h++)
        for (uint32_t w = w0; w < w1; w++) {
            const float* RESTRICT here = from + (uint64_t(h) * W + w) * C;
            INDEPENDENT_FEW
            for (uint32_t l = 0; l < width(); l++) join(l, here[l]);
        }
}

// A NaN exceeds every number: the maximum of values with a NaN is a NaN.
DEVICE float larger_or_nan(float best, float x) { return x > best || x != x ? x : best; }

KERNEL(256, 0) features_pool_f32(float* RESTRICT y,          // (N, P, Q, K)
                                 const float* RESTRICT x,    // (N, H, W, C)
                                 uint32_t maximum, uint32_t padding_counts, uint32_t size, uint32_t stride, uint32_t pad, uint32_t first,
                                 uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t P, uint32_t Q, uint32_t K, uint32_t pixels) {
    const uint32_t begin = blockIdx.x * pixels, count = least(N * P * Q - begin, pixels);
    const uint32_t groups = (C + AT_ONCE - 1) / AT_ONCE;
    for (uint32_t e = thread(); e < count * groups; e += BLOCK) {
        const uint32_t pixel = begin + e / groups, c = e % groups * AT_ONCE, width = least(C - c, AT_ONCE);
        const uint32_t q = pixel % Q, p = pixel / Q % P, n = pixel / Q / P;
        const uint32_t top = p * stride, left = q * stride;
        const uint32_t h0 = top > pad ? top - pad : 0, h1 = least(top + size - pad, H);
        const uint32_t w0 = left > pad ? left - pad : 0, w1 = least(left + size - pad, W);
        const float* const from = x + uint64_t(n) * H * W * C + c;
        float value[AT_ONCE];
        for (uint32_t l = 0; l < AT_ONCE; l++) value[l] = maximum ? -INFINITY : 0.0f;
        const auto join = [&](auto width) {
            if (maximum) for_each_in_window(from, h0, h1, w0, w1, W, C, width, [&](uint32_t l, float x) { value[l] = larger_or_nan(value[l], x); });
            else for_each_in_window(from, h0, h1, w0, w1, W, C, width, [&](uint32_t l, float x) { value[l] += x; });
        };
        if (width == AT_ONCE) join([] { return AT_ONCE; });
        else join([=] { return width; });
        const float share = maximum ? 1.0f : 1.0f / float(padding_counts ? size * size : (h1 - h0) * (w1 - w0));
        float* const to = y + uint64_t(pixel) * K + first + c;
        for (uint32_t l = 0; l < width; l++) to[l] = maximum ? value[l] : value[l] * share;
    }
}
