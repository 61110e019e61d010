// Differentiable augmentation (Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training, 2020): real images and
// fakes are changed alike before D sees them, and the gradient of what D sees goes back to the fakes. Images (N, H, W, C).
//
//   y[h,w,c]  = keep(h, w) colour(x)[h + down, w + right, c], 0 where that lies outside of the image
//   colour(x) = k s x + k (1 - s) m + (1 - k) mu + b      m: mean over c of x[h,w,.], mu: mean of the whole image
//   dx        = k s g + k (1 - s) mean over c of g + (1 - k) mean of g, with g[h + down, w + right, c] = keep(h, w) dy[h,w,c], else 0
//
// Colour is the original's three steps in one, each about a mean that the step before does not change: x + b; (x - m) s + m;
// (x - mu) k + mu. As a map it is its own transpose but for b. Per sample, with u uniform in [0, 1) and strengths of 1 (0: none):
//   b = colour (u - 1/2)     s = 1 + colour (2 u - 1)     k = 1 + colour (u - 1/2)
//   down, right: whole numbers up to H / 8 and W / 8, times the strength, rounded, either way, all equally likely
//   keep: 0 in a rectangle of H / 2 x W / 2, times the strength, rounded, whose middle is any pixel (or, where its side is even,
//         any edge between pixels, those at the ends included), else 1
//
// Random numbers: sample n has row `first` + n, and words 0 to 3 of counter (row, stream, step, 0) for b, s, k, down, words 0 to 2
// of counter (row, stream, step, 1) for right and the rectangle. Backward draws the same again. A block is a sample, which it reads
// twice (once for the mean) and writes once. Both overwrite.
#include "device/execution.h"
#include "device/math.h"
#include "device/number.h"
#include "device/philox.h"
#include "device/reduce.h"
#include "device/rows.h"
#include "device/state.h"

PRECISIONS(f32, bf16, f16)

struct Change {
    float of_value, of_pixel, of_image, brightness;
    int32_t down, right, top, left, height, width;
    MEMBER bool keeps(int32_t h, int32_t w) const { return h < top || h >= top + height || w < left || w >= left + width; }
};

// A whole number from -most to most.
DEVICE int32_t either_way(uint32_t word, uint32_t most) { return int32_t(multiply_high(word, 2 * most + 1)) - int32_t(most); }
DEVICE uint32_t rounded(float x) { return uint32_t(int32_t(x + 0.5f)); }

// Of this block's sample.
DEVICE Change draw(const State* state, uint32_t stream, uint32_t first, float colour, float translation, float cutout, uint32_t H,
                   uint32_t W) {
    const Stream random = open_stream(state, stream);
    const Philox a = random.at(first + blockIdx.x), b = random.at(first + blockIdx.x, 1);
    const float s = 1.0f + colour * (2.0f * to_uniform(a.word[1]) - 1.0f), k = 1.0f + colour * (to_uniform(a.word[2]) - 0.5f);
    const uint32_t height = rounded(0.5f * cutout * float(H)), width = rounded(0.5f * cutout * float(W));
    Change change;
    change.of_value = k * s;
    change.of_pixel = k * (1.0f - s);
    change.of_image = 1.0f - k;
    change.brightness = colour * (to_uniform(a.word[0]) - 0.5f);
    change.down = either_way(a.word[3], rounded(0.125f * translation * float(H)));
    change.right = either_way(b.word[0], rounded(0.125f * translation * float(W)));
    change.top = int32_t(multiply_high(b.word[1], H + 1 - height % 2)) - int32_t(height / 2);
    change.left = int32_t(multiply_high(b.word[2], W + 1 - width % 2)) - int32_t(width / 2);
    change.height = int32_t(height);
    change.width = int32_t(width);
    return change;
}

DEVICE bool inside(int32_t h, int32_t w, uint32_t H, uint32_t W) { return h >= 0 && w >= 0 && uint32_t(h) < H && uint32_t(w) < W; }

template <class N> DEVICE float channel_mean(const N* RESTRICT pixel, uint32_t C) {
    float sum = 0.0f;
    for (uint32_t c = 0; c < C; c++) sum += pixel[c];
    return sum / float(C);
}

// Grid (N).
KERNEL(256, 0) PRECISE(diffaug_forward)(T* RESTRICT y,                // (N, H, W, C)
                                        const T* RESTRICT x,          // (N, H, W, C)
                                        const State* RESTRICT state,  // (1)
                                        uint32_t stream, uint32_t first, float colour, float translation, float cutout,
                                        uint32_t H, uint32_t W, uint32_t C) {
    const uint32_t len = H * W * C;
    const T* const from = x + uint64_t(blockIdx.x) * len;
    T* const to = y + uint64_t(blockIdx.x) * len;
    const Change change = draw(state, stream, first, colour, translation, cutout, H, W);
    float sum[1];
    block_sum(sum, len, [&](auto i, float* v) { v[0] = from[i]; });
    const float constant = change.of_image * (sum[0] / float(len)) + change.brightness;
    for_each_element(H, W, [&](uint32_t h) {
        return [=](uint32_t w) {
            T* const pixel = to + (h * W + w) * C;
            const int32_t source_h = int32_t(h) + change.down, source_w = int32_t(w) + change.right;
            if (!inside(source_h, source_w, H, W) || !change.keeps(int32_t(h), int32_t(w))) {
                for (uint32_t c = 0; c < C; c++) pixel[c] = 0.0f;
                return;
            }
            const T* const source = from + (uint32_t(source_h) * W + uint32_t(source_w)) * C;
            const float rest = change.of_pixel * channel_mean(source, C) + constant;
            for (uint32_t c = 0; c < C; c++) pixel[c] = change.of_value * source[c] + rest;
        };
    });
}

// Grid (N).
KERNEL(256, 0) PRECISE(diffaug_backward)(T* RESTRICT dx,               // (N, H, W, C)
                                         const T* RESTRICT dy,         // (N, H, W, C)
                                         const State* RESTRICT state,  // (1)
                                         uint32_t stream, uint32_t first, float colour, float translation, float cutout,
                                         uint32_t H, uint32_t W, uint32_t C) {
    const uint32_t len = H * W * C;
    const T* const from = dy + uint64_t(blockIdx.x) * len;
    T* const to = dx + uint64_t(blockIdx.x) * len;
    const Change change = draw(state, stream, first, colour, translation, cutout, H, W);
    // Whether what D saw at (h, w) came from the image.
    const auto seen = [=](int32_t h, int32_t w) { return inside(h + change.down, w + change.right, H, W) && change.keeps(h, w); };
    float sum[1];
    block_sum(sum, H * W, [&](auto i, float* v) {
        const int32_t h = int32_t(uint32_t(i) / W), w = int32_t(uint32_t(i) % W);
        v[0] = seen(h, w) ? channel_mean(from + uint32_t(i) * C, C) : 0.0f;
    });
    const float constant = change.of_image * (sum[0] / float(H * W));
    for_each_element(H, W, [&](uint32_t h) {
        return [=](uint32_t w) {
            T* const pixel = to + (h * W + w) * C;
            const int32_t seen_h = int32_t(h) - change.down, seen_w = int32_t(w) - change.right;
            if (!inside(seen_h, seen_w, H, W) || !seen(seen_h, seen_w)) {
                for (uint32_t c = 0; c < C; c++) pixel[c] = constant;
                return;
            }
            const T* const signal = from + (uint32_t(seen_h) * W + uint32_t(seen_w)) * C;
            const float rest = change.of_pixel * channel_mean(signal, C) + constant;
            for (uint32_t c = 0; c < C; c++) pixel[c] = change.of_value * signal[c] + rest;
        };
    });
}
