// How the pixels of one tensor, the output, see those of another, the input, through a filter. Products use it to gather their
// operand from the image instead of storing it as a matrix (implicit GEMM). At filter position (r, s), output pixel (p, q) sees input
// pixel (p stride - pad_h + r, q stride - pad_w + s). A tap is a filter position and a channel: (r, s, c).
//
// Output pixels are numbered in the order (n, p, q). With by_windows the order is (n, p / 2, q / 2, p % 2, q % 2), so that four
// numbers in a row are a window of 2 x 2 pixels.
#pragma once

// n / divisor for n < 2^31, without a division. `Divisor` in src/ops/conv.rs has the same fields, and explains the multiplier.
struct Divisor {
    uint32_t divisor, multiplier, shift;
    MEMBER uint32_t quotient(uint32_t n) const { return (multiply_high(n, multiplier) + n) >> shift; }
};

struct Pixel { uint32_t n, p, q; };

// `Window` in src/ops/conv.rs has the same layout.
struct Window {
    uint32_t N, H, W, C;  // the input
    uint32_t P, Q, R, S;
    int32_t pad_h, pad_w;
    uint32_t stride, by_windows;
    Divisor image, line, filter_row, channels;  // by P Q and Q (with by_windows: the windows of an image and of a row), S C, C

    MEMBER uint32_t pixels() const { return N * P * Q; }
    MEMBER uint32_t taps() const { return R * S * C; }
    MEMBER Pixel pixel(uint32_t m) const {
        const uint32_t place = by_windows ? m / 4 : m;
        const uint32_t n = image.quotient(place), in_image = place - n * image.divisor;
        const uint32_t p = line.quotient(in_image), q = in_image - p * line.divisor;
        return by_windows ? Pixel{n, 2 * p + m / 2 % 2, 2 * q + m % 2} : Pixel{n, p, q};
    }
    // The output, of so many channels, each pixel of which sees itself.
    MEMBER Window of_itself(uint32_t channels) const {
        Window own = *this;
        own.H = P, own.W = Q, own.C = channels, own.R = own.S = own.stride = 1, own.pad_h = own.pad_w = 0;
        return own;
    }
    struct Tap { uint32_t r, s, c; };
    MEMBER Tap tap(uint32_t number) const {
        const uint32_t r = filter_row.quotient(number), in_row = number - r * filter_row.divisor, s = channels.quotient(in_row);
        return {r, s, in_row - s * C};
    }
    // The element of the input that a pixel sees through a tap; `inside` is false where there is none, in the padding.
    struct Place { uint32_t n, h, w, c; bool inside; };
    MEMBER Place place(const Pixel& pixel, uint32_t number) const {
        const auto [r, s, c] = tap(number);
        // A negative place, left of or above the image, wraps to a huge number, which is not inside either.
        const uint32_t h = pixel.p * stride + r - uint32_t(pad_h), w = pixel.q * stride + s - uint32_t(pad_w);
        return {pixel.n, h, w, c, h < H && w < W};
    }
};
