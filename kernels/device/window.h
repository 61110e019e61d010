// How the pixels of one tensor, the output, see those of another, the input, through a filter. Products use it to gather their
// operand from the image instead of storing it as a matrix (implicit GEMM). At filter position (r, s), output pixel (p, q) sees input
// pixel (p stride - pad_h + r, q stride - pad_w + s). Where `spread` is 1, input pixels count as lying two apart, with zeros between
// them, which is how the input gradient of a stride of 2 sees its input. A tap is a filter position and a channel: (r, s, c).
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
    uint32_t N, H, W, C;  // the input; H and W as it is stored, without the zeros of `spread`
    uint32_t P, Q, R, S;
    int32_t pad_h, pad_w;
    uint32_t stride, spread, by_windows;
    Divisor image, line, filter_row, channels;  // by P Q and Q (with by_windows: the windows of an image and of a row), S C, C

    MEMBER uint32_t pixels() const { return N * P * Q; }
    MEMBER uint32_t taps() const { return R * S * C; }
    MEMBER Pixel pixel(uint32_t m) const {
        const uint32_t place = by_windows ? m / 4 : m;
        const uint32_t n = image.quotient(place), in_image = place - n * image.divisor;
        const uint32_t p = line.quotient(in_image), q = in_image - p * line.divisor;
        return by_windows ? Pixel{n, 2 * p + m / 2 % 2, 2 * q + m % 2} : Pixel{n, p, q};
    }
    // The element of the input that a pixel sees through a tap; `inside` is false where there is none: in the padding, and between
    // pixels that are spread.
    struct Place { uint32_t n, h, w, c; bool inside; };
    MEMBER Place place(const Pixel& pixel, uint32_t tap) const {
        const uint32_t r = filter_row.quotient(tap), in_row = tap - r * filter_row.divisor;
        const uint32_t s = channels.quotient(in_row), c = in_row - s * C;
        // A negative place, left of or above the image, wraps to a huge number, which is not inside either.
        const uint32_t h = pixel.p * stride + r - uint32_t(pad_h), w = pixel.q * stride + s - uint32_t(pad_w);
        const uint32_t between = (1u << spread) - 1;
        const bool inside = h < H << spread && w < W << spread && ((h | w) & between) == 0;
        return {pixel.n, h >> spread, w >> spread, c, inside};
    }
};

// The operand that is gathered. ALONG_DEPTH: its rows are pixels, its depth taps, and neighbours in memory are the channels of one
// filter position; otherwise rows are taps and the depth pixels. The source gives
//   load(n, h, w, c, count, store)         calls store(i, value of channel c + i) for i < count
//   load_line(to, n, h, columns, apart)    writes the first pixels of row h, each `apart` floats after the one before
//   and what tile.h asks for tensor cores, with (n, h, w, c), or (n, c) in `finish`, in place of a run
template <bool ALONG_DEPTH, class Source> struct WindowFetch {
    static constexpr bool ALONG_K = ALONG_DEPTH, PLAIN = false, PATCHED = true, PANELS = false;
    Source source;
    Window window;
    uint32_t rows, depth;

    struct Run { Window::Place place; uint32_t count; };
    MEMBER Run run(uint32_t row, uint32_t k) const {
        const Window::Place place = window.place(window.pixel(ALONG_K ? row : k), ALONG_K ? k : row);
        return {place, window.C - place.c};
    }
    template <class Store> MEMBER void load(const Run& run, uint32_t count, Store store) const {
        const Window::Place at = run.place;
        if (at.inside) source.load(at.n, at.h, at.w, at.c, count, store);
        else for (uint32_t i = 0; i < count; i++) store(i, 0.0f);
    }
    MEMBER Ahead ahead(uint32_t, uint32_t, uint32_t) const { return {}; }

#if TENSOR_CORES
    typedef typename Source::Raw Raw;
    MEMBER bool whole() const { return source.whole(); }
    MEMBER bool same() const { return source.same(); }
    MEMBER const T* start() const { return source.start(); }
    MEMBER const T* place(const Run& run) const {
        return run.place.inside ? source.place(run.place.n, run.place.h, run.place.w, run.place.c) : nullptr;
    }
    MEMBER Raw raw(const Run& run) const { return source.raw(run.place.n, run.place.h, run.place.w, run.place.c); }
    MEMBER void finish(const Raw& raw, const Run& run, float (&v)[PIECE]) const { source.finish(raw, run.place.n, run.place.c, v); }
#endif
#if defined(ZGAN_HOST)
    // The patch is a copy of all that a range of output pixels sees: lines of the input, as the source changes them, with zeros for
    // padding and spread. In it, the S C taps of a filter row that a pixel sees lie next to each other, and what the next pixel of
    // the row sees begins step() floats further on.
    MEMBER uint32_t step() const { return window.stride * window.C; }
    MEMBER uint32_t line_floats() const { return ((window.Q - 1) * window.stride + window.S) * window.C; }
    MEMBER uint32_t lines(uint32_t rows_of_pixels) const { return (rows_of_pixels - 1) * window.stride + window.R; }

    // Whether a patch is to be used: what any `count` consecutive pixels see has at most `most` floats, no padding is negative, and
    // the copy pays. Where rows are taps, it pays from two filter positions on among the `used` rows of a tile.
    MEMBER bool fits(uint32_t count, uint32_t used, uint32_t most) const {
        if (!ALONG_K && used < 2 * window.C) return false;
        const uint64_t images = count / (window.P * window.Q) + 2, more = window.by_windows ? 4 : 2;
        const uint64_t rows_of_pixels = least(count / window.Q + more, images < 3 ? 2 * window.P : 0xffffffffu);
        const uint64_t line = (uint64_t(window.Q - 1) * window.stride + window.S) * window.C;
        const uint64_t lines = rows_of_pixels * window.stride + images * window.R;
        return window.pad_h >= 0 && window.pad_w >= 0 && line <= most && lines * line <= most;
    }
    // Where in the patch that begins with pixel `first` lies what `pixel` sees, in floats. "Where a pixel begins", below, means this.
    MEMBER uint32_t begin(const Pixel& first, const Pixel& pixel) const {
        const uint32_t line = pixel.n == first.n ? (pixel.p - first.p) * window.stride
                                                 : lines(window.P - first.p) + (pixel.n - first.n - 1) * lines(window.P) + pixel.p * window.stride;
        return line * line_floats() + pixel.q * step();
    }
    // Fills the patch for the pixels begin_pixel .. end_pixel.
    void stage(float* patch, uint32_t begin_pixel, uint32_t end_pixel) const {
        const Pixel first = window.pixel(begin_pixel), last = window.pixel(end_pixel - 1);
        const uint32_t C = window.C, floats = line_floats(), left = least(uint32_t(window.pad_w) * C, floats);
        const uint32_t apart = C << window.spread;
        float* to = patch;
        for (uint32_t n = first.n; n <= last.n; n++) {
            const uint32_t p = n == first.n ? first.p : 0, p_end = n == last.n ? last.p + 1 : window.P;
            for (uint32_t line = 0; line < lines(p_end - p); line++, to += floats) {
                const uint32_t h = p * window.stride + line - uint32_t(window.pad_h);
                const bool there = h < window.H << window.spread && (h & ((1u << window.spread) - 1)) == 0;
                // How many whole pixels the line has room for.
                const uint32_t columns = !there ? 0 : least(window.W, (floats - left + apart - C) / apart);
                if (columns == 0 || window.spread) {
                    for (uint32_t i = 0; i < floats; i++) to[i] = 0.0f;
                } else {
                    for (uint32_t i = 0; i < left; i++) to[i] = 0.0f;
                    for (uint32_t i = left + columns * C; i < floats; i++) to[i] = 0.0f;
                }
                if (columns > 0) source.load_line(to + left, n, h >> window.spread, columns, apart);
            }
        }
    }
    // place[i] = where pixel first + i begins, up to pixel `end`; then the last one again, `more` times.
    void places(uint32_t* place, uint32_t first, uint32_t end, uint32_t more) const {
        const Pixel origin = window.pixel(first);
        uint32_t i = 0;
        for (uint32_t m = first; m < end;) {
            // A row of pixels, or of windows, at a time.
            const Pixel at = window.pixel(m);
            const uint32_t base = begin(origin, at), below = window.stride * line_floats();
            const uint32_t count = least(end - m, window.by_windows ? (window.Q - at.q) * 2 : window.Q - at.q);
            if (window.by_windows)
                for (uint32_t x = 0; x < count; x++) place[i + x] = base + (x / 4 * 2 + x % 2) * step() + x / 2 % 2 * below;
            else
                for (uint32_t x = 0; x < count; x++) place[i + x] = base + x * step();
            i += count;
            m += count;
        }
        for (uint32_t x = 0; x < more; x++) place[i + x] = place[i - 1];
    }
    // Divides depths k .. k + depth into segments, each within one line of the patch, and returns their number. ALONG_K: depths are
    // taps, and offsets count from where a pixel begins. Otherwise they are pixels, and offsets count from the start of the patch.
    MEMBER uint32_t segments(Segment* segment, uint32_t k, uint32_t depth) const {
        uint32_t count = 0;
        const Pixel origin = window.pixel(ALONG_K ? 0 : k);
        for (const uint32_t end = k + depth; k < end; count++) {
            uint32_t offset, run;
            if constexpr (ALONG_K) {
                const uint32_t r = window.filter_row.quotient(k), in_row = k - r * window.filter_row.divisor;
                offset = r * line_floats() + in_row;
                run = window.filter_row.divisor - in_row;
            } else {
                const Pixel at = window.pixel(k);
                offset = begin(origin, at);
                run = window.Q - at.q;
            }
            segment[count] = {offset, least(run, end - k)};
            k += segment[count].run;
        }
        return count;
    }
    // Not ALONG_K: where tap `row` lies, relative to where a pixel begins; and how many taps lie in a row from it on, with itself.
    MEMBER uint32_t place(uint32_t row) const {
        const uint32_t r = window.filter_row.quotient(row);
        return r * line_floats() + (row - r * window.filter_row.divisor);
    }
    MEMBER uint32_t neighbours(uint32_t row) const {
        const uint32_t r = window.filter_row.quotient(row);
        return (r + 1) * window.filter_row.divisor - row;
    }
#endif
};
