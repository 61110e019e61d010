// Changing the resolution of images (N, H, W, C), and appending a label to them.
//
//   average pool 2x2    y[h,w] = mean of x[2h..2h+1, 2w..2w+1]; an odd last row or column is left out
//                       dx[h,w] = dy[h/2,w/2] / 4
//   max pool 2x2        y = max of the four, the first of equals; saved: which, 0 to 3 as 2 * row + column
//                       dx = dy where it was the one, 0 elsewhere
//   nearest x2          y[h,w] = x[h/2,w/2]                    dx[h,w] = sum of dy[2h..2h+1, 2w..2w+1]
//   bilinear x2         (align_corners = False) in each direction y[2h] = 3/4 x[h] + 1/4 x[h-1],
//                       y[2h+1] = 3/4 x[h] + 1/4 x[h+1], neighbours clamped to the image; dx is its transpose, gathered
//   append planes       y = x and `classes` channels more: 1 in the label's, 0 elsewhere    dx = dy without them
//   append embedding    y = x and E channels more: row `label` of an embedding (classes, E), zeros without a label
//                       dE[k] += sum over {n: y_n = k} of scale[n] * sum over pixels of dy's last E channels
//
// y overwrites; dx overwrites, or accumulates where `accumulate` is 1; dE accumulates. A null `scale` counts as 1. Each output
// element is written once, by one thread, which reads all that goes into it. A block has `pixels` pixels of the output; where
// channels fill whole runs of sixteen bytes, a GPU's thread has one of those at a time.
// Memory traffic: every input and output once; bilinear reads its four neighbours, three of them from cache.
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/rows.h"
#include "device/run.h"

PRECISIONS(f32, bf16, f16)

// out(image, h, w)(at) for the pixels of this block and the channels `at` of each (run.h).
#if defined(ZGAN_HOST)
template <class Out>
DEVICE void for_each_pixel(uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels, Out out) {
    const uint32_t begin = blockIdx.x * pixels, total = N * H * W;
    const uint32_t count = total - begin < pixels ? total - begin : pixels;
    for_each_element(count, C, [&](uint32_t r) {
        const uint32_t pixel = begin + r;
        const auto place = out(pixel / (H * W), pixel / W % H, pixel % W);
        return [=](Index c) { place(One{c}); };
    });
}
template <class Out>
DEVICE void for_each_pixel(bool, uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels, Out out) {
    for_each_pixel(N, H, W, C, pixels, out);
}
#else
// A thread divides to find its first place. From one to its next, BLOCK further on, it adds, as one adds numbers of several digits.
template <class At, class Out>
DEVICE void for_each_place(uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels, Out out) {
    const uint32_t begin = blockIdx.x * pixels, total = N * H * W, runs = C / At::WIDTH;
    const uint32_t count = total - begin < pixels ? total - begin : pixels;
    const uint32_t step = BLOCK / runs, step_h = step / W;
    uint32_t pixel = begin + thread() / runs, c = thread() % runs;
    uint32_t w = pixel % W, h = pixel / W % H, n = pixel / W / H;
    const auto carry = [](uint32_t& digit, uint32_t base, uint32_t& next) {
        if (digit >= base) digit -= base, next++;
    };
    for (uint32_t i = thread(); i < count * runs; i += BLOCK) {
        out(n, h, w)(At{c * At::WIDTH});
        c += BLOCK % runs, w += step % W, h += step_h % H, n += step_h / H;
        carry(c, runs, w), carry(w, W, h), carry(h, H, n);
    }
}
template <class Out>
DEVICE void for_each_pixel(uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels, Out out) {
    for_each_place<One>(N, H, W, C, pixels, out);
}
template <class Out>
DEVICE void for_each_pixel(bool runs, uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels, Out out) {
    if (runs) for_each_place<Run>(N, H, W, C, pixels, out);
    else for_each_place<One>(N, H, W, C, pixels, out);
}
#endif
DEVICE uint64_t at(uint32_t n, uint32_t h, uint32_t w, uint32_t H, uint32_t W, uint32_t C) {
    return ((uint64_t(n) * H + h) * W + w) * C;
}
// Writes d, or adds it.
template <class At, class Value> DEVICE void give(At at, T* dx, uint32_t accumulate, const Value& d) {
    if (accumulate) at.put(dx, at.of([](float before, float d) { return before + d; }, dx, d));
    else at.put(dx, d);
}

KERNEL(256, 0) PRECISE(resample_average_forward)(T* RESTRICT y,            // (N, H / 2, W / 2, C)
                                                 const T* RESTRICT x,      // (N, H, W, C)
                                                 uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels) {
    for_each_pixel(in_runs(C, y, x), N, H / 2, W / 2, C, pixels, [&](uint32_t n, uint32_t h, uint32_t w) {
        const T* const top = x + at(n, 2 * h, 2 * w, H, W, C);
        const T* const bottom = top + uint64_t(W) * C;
        T* const to = y + at(n, h, w, H / 2, W / 2, C);
        return [=](auto c) {
            const auto mean = [](float a, float b, float c, float d) { return 0.25f * ((a + b) + (c + d)); };
            c.put(to, c.of(mean, top, top + C, bottom, bottom + C));
        };
    });
}

KERNEL(256, 0) PRECISE(resample_average_backward)(T* RESTRICT dx,            // (N, H, W, C)
                                                  const T* RESTRICT dy,      // (N, H / 2, W / 2, C)
                                                  uint32_t accumulate, uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels) {
    for_each_pixel(in_runs(C, dx, dy), N, H, W, C, pixels, [&](uint32_t n, uint32_t h, uint32_t w) {
        const bool used = h / 2 < H / 2 && w / 2 < W / 2;
        const T* const from = dy + at(n, h / 2, w / 2, H / 2, W / 2, C);
        T* const to = dx + at(n, h, w, H, W, C);
        return [=](auto c) {
            if (used) give(c, to, accumulate, c.of([](float d) { return 0.25f * d; }, from));
            else give(c, to, accumulate, c.of([] { return 0.0f; }));
        };
    });
}

// A NaN exceeds every number, and only a NaN exceeds a NaN: so the maximum of values with a NaN is a NaN.
DEVICE bool exceeds(float x, float best) { return x > best || x != x; }

KERNEL(256, 0) PRECISE(resample_max_forward)(T* RESTRICT y,            // (N, H / 2, W / 2, C)
                                             uint8_t* RESTRICT which,  // (N, H / 2, W / 2, C)
                                             const T* RESTRICT x,      // (N, H, W, C)
                                             uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels) {
    for_each_pixel(N, H / 2, W / 2, C, pixels, [&](uint32_t n, uint32_t h, uint32_t w) {
        const T* const top = x + at(n, 2 * h, 2 * w, H, W, C);
        const T* const bottom = top + uint64_t(W) * C;
        const uint64_t to = at(n, h, w, H / 2, W / 2, C);
        return [=](One one) {
            const Index c = one.column;
            float best = top[c];
            uint32_t place = 0;
            if (exceeds(top[C + c], best)) best = top[C + c], place = 1;
            if (exceeds(bottom[c], best)) best = bottom[c], place = 2;
            if (exceeds(bottom[C + c], best)) best = bottom[C + c], place = 3;
            y[to + c] = best;
            which[to + c] = uint8_t(place);
        };
    });
}

KERNEL(256, 0) PRECISE(resample_max_backward)(T* RESTRICT dx,                 // (N, H, W, C)
                                              const T* RESTRICT dy,           // (N, H / 2, W / 2, C)
                                              const uint8_t* RESTRICT which,  // (N, H / 2, W / 2, C)
                                              uint32_t accumulate, uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels) {
    for_each_pixel(N, H, W, C, pixels, [&](uint32_t n, uint32_t h, uint32_t w) {
        const bool used = h / 2 < H / 2 && w / 2 < W / 2;
        const uint64_t from = used ? at(n, h / 2, w / 2, H / 2, W / 2, C) : 0;
        const uint32_t place = used ? 2 * (h % 2) + w % 2 : 4;
        T* const to = dx + at(n, h, w, H, W, C);
        return [=](One one) {
            const Index c = one.column;
            give(one, to, accumulate, place < 4 && which[from + c] == place ? float(dy[from + c]) : 0.0f);
        };
    });
}

// H and W are the small image's.
KERNEL(256, 0) PRECISE(resample_nearest_forward)(T* RESTRICT y,            // (N, 2 H, 2 W, C)
                                                 const T* RESTRICT x,      // (N, H, W, C)
                                                 uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels) {
    for_each_pixel(in_runs(C, y, x), N, 2 * H, 2 * W, C, pixels, [&](uint32_t n, uint32_t h, uint32_t w) {
        const T* const from = x + at(n, h / 2, w / 2, H, W, C);
        T* const to = y + at(n, h, w, 2 * H, 2 * W, C);
        return [=](auto c) { c.put(to, c.get(from)); };
    });
}

KERNEL(256, 0) PRECISE(resample_nearest_backward)(T* RESTRICT dx,            // (N, H, W, C)
                                                  const T* RESTRICT dy,      // (N, 2 H, 2 W, C)
                                                  uint32_t accumulate, uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels) {
    for_each_pixel(in_runs(C, dx, dy), N, H, W, C, pixels, [&](uint32_t n, uint32_t h, uint32_t w) {
        const T* const top = dy + at(n, 2 * h, 2 * w, 2 * H, 2 * W, C);
        const T* const bottom = top + uint64_t(2 * W) * C;
        T* const to = dx + at(n, h, w, H, W, C);
        return [=](auto c) {
            const auto sum = [](float a, float b, float c, float d) { return (a + b) + (c + d); };
            give(c, to, accumulate, c.of(sum, top, top + C, bottom, bottom + C));
        };
    });
}

// The two places that output i of 2 n reads, 3/4 and 1/4; the same one at the edge.
struct Pair { uint32_t near, far; };
DEVICE Pair sources(uint32_t i, uint32_t n) {
    const uint32_t near = i / 2;
    if (i % 2 == 0) return {near, near > 0 ? near - 1 : 0};
    return {near, near + 1 < n ? near + 1 : near};
}

KERNEL(256, 0) PRECISE(resample_bilinear_forward)(T* RESTRICT y,            // (N, 2 H, 2 W, C)
                                                  const T* RESTRICT x,      // (N, H, W, C)
                                                  uint32_t N, uint32_t H, uint32_t W, uint32_t C, uint32_t pixels) {
    for_each_pixel(in_runs(C, y, x), N, 2 * H, 2 * W, C, pixels, [&](uint32_t n, uint32_t h, uint32_t w) {
        const Pair row = sources(h, H), column = sources(w, W);
        const T* const a = x + at(n, row.near, column.near, H, W, C);
        const T* const b = x + at(n, row.near, column.far, H, W, C);
        const T* const c = x + at(n, row.far, column.near, H, W, C);
        const T* const d = x + at(n, row.far, column.far, H, W, C);
        T* const to = y + at(n, h, w, 2 * H, 2 * W, C);
        return [=](auto channels) {
            channels.put(to, channels.of([](float a, float b, float c, float d) {
                return 0.75f * (0.75f * a + 0.25f * b) + 0.25f * (0.75f * c + 0.25f * d);
            }, a, b, c, d));
        };
    });
}

// The outputs first .. first + 3 that read input i of n, and their weights; 0 for those that do not exist.
// Inside, input i is near to outputs 2 i and 2 i + 1, and far from 2 i - 1 and 2 i + 2; at an edge it is both.
struct Taps { uint32_t place[4]; float weight[4]; };
DEVICE Taps taps(uint32_t i, uint32_t n) {
    const bool first = i == 0, last = i + 1 == n;
    return {{first ? 0 : 2 * i - 1, 2 * i, 2 * i + 1, last ? 2 * i + 1 : 2 * i + 2},
            {first ? 0.0f : 0.25f, first ? 1.0f : 0.75f, last ? 1.0f : 0.75f, last ? 0.0f : 0.25f}};
}

KERNEL(256, 0) PRECISE(resample_bilinear_backward)(T* RESTRICT dx,            // (N, H, W, C)
                                                   const T* RESTRICT dy,      // (N, 2 H, 2 W, C)
                                                   uint32_t accumulate, uint32_t N, uint32_t H, uint32_t W, uint32_t C,
                                                   uint32_t pixels) {
    for_each_pixel(N, H, W, C, pixels, [&](uint32_t n, uint32_t h, uint32_t w) {
        const Taps rows = taps(h, H), columns = taps(w, W);
        const T* const image = dy + at(n, 0, 0, 2 * H, 2 * W, C);
        T* const to = dx + at(n, h, w, H, W, C);
        return [=](One one) {
            float sum = 0.0f;
            UNROLL
            for (int i = 0; i < 4; i++) {
                const T* const row = image + uint64_t(rows.place[i]) * 2 * W * C;
                float part = 0.0f;
                UNROLL
                for (int j = 0; j < 4; j++) part += columns.weight[j] * row[uint64_t(columns.place[j]) * C + one.column];
                sum += rows.weight[i] * part;
            }
            give(one, to, accumulate, sum);
        };
    });
}

// Here P = H * W pixels an image.
KERNEL(256, 0) PRECISE(resample_append_planes)(T* RESTRICT y,                    // (N, P, C + classes)
                                               const T* RESTRICT x,              // (N, P, C)
                                               const uint32_t* RESTRICT labels,  // (N)
                                               float mark, uint32_t N, uint32_t P, uint32_t C, uint32_t classes, uint32_t pixels) {
    for_each_pixel(N, P, 1, C + classes, pixels, [&](uint32_t n, uint32_t p, uint32_t) {
        const uint32_t label = labels[n];
        const T* const from = x + at(n, p, 0, P, 1, C);
        T* const to = y + at(n, p, 0, P, 1, C + classes);
        return [=](One one) {
            const Index c = one.column;
            to[c] = c < C ? float(from[c]) : (c - C == label ? mark : 0.0f);
        };
    });
}

KERNEL(256, 0) PRECISE(resample_append_embedding)(T* RESTRICT y,                    // (N, P, C + E)
                                                  const T* RESTRICT x,              // (N, P, C)
                                                  const float* RESTRICT embedding,  // (classes, E)
                                                  const uint32_t* RESTRICT labels,  // (N)
                                                  uint32_t N, uint32_t P, uint32_t C, uint32_t E, uint32_t classes, uint32_t pixels) {
    for_each_pixel(N, P, 1, C + E, pixels, [&](uint32_t n, uint32_t p, uint32_t) {
        const bool present = is_class(labels[n], classes);
        const float* const row = embedding + (present ? uint64_t(labels[n]) * E : 0);
        const T* const from = x + at(n, p, 0, P, 1, C);
        T* const to = y + at(n, p, 0, P, 1, C + E);
        return [=](One one) {
            const Index c = one.column;
            to[c] = c < C ? float(from[c]) : (present ? row[c - C] : 0.0f);
        };
    });
}

// dx = the first C of dy's C + E channels.
KERNEL(256, 0) PRECISE(resample_drop)(T* RESTRICT dx,            // (N, P, C)
                                      const T* RESTRICT dy,      // (N, P, C + E)
                                      uint32_t accumulate, uint32_t N, uint32_t P, uint32_t C, uint32_t E, uint32_t pixels) {
    for_each_pixel(N, P, 1, C, pixels, [&](uint32_t n, uint32_t p, uint32_t) {
        const T* const from = dy + at(n, p, 0, P, 1, C + E);
        T* const to = dx + at(n, p, 0, P, 1, C);
        return [=](One one) { give(one, to, accumulate, one.get(from)); };
    });
}

// 1 of 2 for dE: sums over the pixels of each sample. Grid (N).
KERNEL(256, 0) PRECISE(resample_embedding_pixels)(float* RESTRICT sums,      // (N, E)
                                                  const T* RESTRICT dy,      // (N, P, C + E)
                                                  uint32_t P, uint32_t C, uint32_t E) {
    const T* const image = dy + uint64_t(blockIdx.x) * P * (C + E) + C;
    float* const to = sums + uint64_t(blockIdx.x) * E;
    column_sums(0, E, P, Everything(), [&](uint32_t p, auto e) { return image[uint64_t(p) * (C + E) + e]; },
                [&](uint32_t e, float sum) { to[e] = sum; });
}

// 2 of 2: sums over the samples of a label. Grid (N).
KERNEL_ONCE(256, 0) resample_embedding_backward_f32(float* RESTRICT dE,               // (classes, E)
                                                    const float* RESTRICT sums,       // (N, E)
                                                    const uint32_t* RESTRICT labels,  // (N)
                                                    const float* RESTRICT scale,      // (N) or null: 1
                                                    uint32_t N, uint32_t E, uint32_t classes) {
    sums_by_label(blockIdx.x, 0, E, labels, N, classes,
                  [&](uint32_t n, auto e) { return (scale ? scale[n] : 1.0f) * sums[uint64_t(n) * E + e]; },
                  [&](uint32_t label, uint32_t e, float sum) { dE[uint64_t(label) * E + e] += sum; });
}
