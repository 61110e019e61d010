// WindowFetch: the operand of a convolution, gathered from an image through a window (see window.h).
#pragma once
#include "window.h"

// The operand that is gathered. ALONG_DEPTH: its rows are pixels, its depth taps, and neighbours in memory are the channels of one
// filter position; otherwise rows are taps and the depth pixels. The source gives
//   load(n, h, w, c, count, store)         calls store(i, value of channel c + i) for i < count
//   load_line(to, n, h, columns)           writes the first pixels of row h, one after the other
//   half                                   for GPUs: 1 where the source has half as many rows and columns as the window sees
//   and what else tile.h asks for GPUs, but for the walk
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

#if !defined(ZGAN_HOST)
    static constexpr bool CHANGES = true;
    template <class Share, bool CHANGED> using Walk = typename OneOf<ALONG_K, PixelRowsWalk<Share, CHANGED>, TapRowsWalk<Share, CHANGED>>::Type;
    template <class Share, bool CHANGED> MEMBER Walk<Share, CHANGED> walk(uint32_t first_row, uint32_t k_begin, uint32_t k_end) const {
        if constexpr (ALONG_K) {
            return {window, source.half, first_row, k_begin};
        } else {
            const Window::Tap tap = window.tap(first_row + Share::row());
            return {window, source.half, first_row + Share::row() < rows && Share::brings(), tap.r, tap.s, tap.c, k_begin, k_end};
        }
    }
    typedef typename Source::Raw Raw;
    MEMBER bool whole() const { return source.whole() && (!ALONG_K || window.R * window.S <= SEEN); }
    MEMBER bool same() const { return source.same(); }
    MEMBER const T* start() const { return source.start(); }
    template <class Walk> MEMBER void read(Raw& raw, const Walk& walk, int i) const { source.read(raw, walk, i); }
    template <class Walk> MEMBER void finish(const Raw& raw, const Walk& walk, int i, float (&v)[PIECE]) const { source.finish(raw, walk, i, v); }
    template <class Walk> MEMBER uint32_t manner(const Walk& walk) const { return source.manner(walk); }
    template <class Walk, class Body> MEMBER void with_change(uint32_t manner, const Walk& walk, Body body) const { source.with_change(manner, walk, body); }
#endif
#if defined(ZGAN_HOST)
    // The patch is a copy of all that a range of output pixels sees: lines of the input, as the source changes them, with zeros for
    // padding. In it, the S C taps of a filter row that a pixel sees lie next to each other, and what the next pixel of
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
        float* to = patch;
        for (uint32_t n = first.n; n <= last.n; n++) {
            const uint32_t p = n == first.n ? first.p : 0, p_end = n == last.n ? last.p + 1 : window.P;
            for (uint32_t line = 0; line < lines(p_end - p); line++, to += floats) {
                const uint32_t h = p * window.stride + line - uint32_t(window.pad_h);
                const bool there = h < window.H;
                // How many whole pixels the line has room for.
                const uint32_t columns = !there ? 0 : least(window.W, (floats - left) / C);
                if (columns == 0) {
                    for (uint32_t i = 0; i < floats; i++) to[i] = 0.0f;
                } else {
                    for (uint32_t i = 0; i < left; i++) to[i] = 0.0f;
                    for (uint32_t i = left + columns * C; i < floats; i++) to[i] = 0.0f;
                }
                if (columns > 0) source.load_line(to + left, n, h, columns);
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
