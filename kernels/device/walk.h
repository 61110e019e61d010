// How a thread walks through an operand of a product on a GPU (cuda and simt). A tile is summed in steps along the depth. In each step
// a thread brings the same few pieces of the step's panel: WIDTH elements each, neighbours in memory. All that takes a division
// is computed once, before the first step; from step to step, positions only move on.
//
// A walk has, for piece i of this thread at the present step:
//   there(i)       whether the piece lies inside of the operand; what lies outside counts as zero
//   at(i, start)   its address, where `start` is that of the operand's first element; meaningless where the piece is outside
//   sample(i), channel(i)   of which sample, and from which channel on, the piece is: for the tables by which a source changes it;
//                  some of the tables' where the piece is outside
//   one_sample()   whether all pieces of a step are of the same sample
//   advance()      moves on to the next step
// CHANGED: whether the source changes what it reads. Only such a walk knows samples, and images with half the rows and columns.
#pragma once

// How an operand gets into its panel: copied as it is stored, in pieces; in pieces that are changed on the way; or element by element,
// where its pieces are not whole.
enum class Way { COPIED, CHANGED, BY_ELEMENTS };
template <Way WAY> struct This { static constexpr Way value = WAY; };
// Calls sum(This<way of A>(), This<way of B>()). Each combination is a loop of its own, so that none pays for another.
template <class A, class B, class Sum> DEVICE void by_ways(const A& a, const B& b, Sum sum) {
    constexpr bool LEGACY = !TENSOR_CORES && !PRECISION_F32;  // sm_75
    if (LEGACY || !a.whole()) sum(This<Way::BY_ELEMENTS>(), This<Way::BY_ELEMENTS>());
    else if (!b.whole()) sum(This<Way::CHANGED>(), This<Way::BY_ELEMENTS>());
    else if (B::CHANGES && !b.same()) sum(This<Way::CHANGED>(), This<Way::CHANGED>());
    else if (A::CHANGES && !a.same()) sum(This<Way::CHANGED>(), This<Way::COPIED>());
    else sum(This<Way::COPIED>(), This<Way::COPIED>());
}

// How a thread reads an operand element by element, for a panel of this step along the depth.
template <class Fetch> struct ElementWalk {
    const Fetch& from;
    const uint32_t first_row, end;
    uint32_t k;

    // The element in this row of the panel, and at this depth of it; 0 where there is none.
    MEMBER float at(int row, int depth) const {
        float element = 0.0f;
        if (first_row + row < from.rows && k + depth < end)
            from.load(from.run(first_row + row, k + depth), 1, [&](uint32_t, float v) { element = v; });
        return element;
    }
    MEMBER void advance(int step) { k += step; }
};

template <bool FIRST, class One, class Other> struct OneOf { typedef One Type; };
template <class One, class Other> struct OneOf<false, One, Other> { typedef Other Type; };

// The element `lines` lines of so many elements after `start`. In bytes, so that it is one instruction.
template <class E> DEVICE const E* lines_after(const E* start, uint32_t lines, uint32_t elements) {
    return reinterpret_cast<const E*>(reinterpret_cast<const char*>(start) + multiply_wide(lines, elements * uint32_t(sizeof(E))));
}

// The pieces of a panel of ROWS by STEP that this thread brings. A line of pieces runs along the depth (ALONG_DEPTH) or along the
// rows; consecutive threads have consecutive pieces of a line. All pieces of a thread have the same place in their lines.
template <bool ALONG_DEPTH, int ROWS_, int STEP_, int WIDTH_> struct Share {
    static constexpr bool ALONG_K = ALONG_DEPTH;
    static constexpr int ROWS = ROWS_, STEP = STEP_, WIDTH = WIDTH_;
    static constexpr int ACROSS = (ALONG_K ? STEP : ROWS) / WIDTH, LINES = ALONG_K ? ROWS : STEP;
    static constexpr int COUNT = (LINES * ACROSS + TILE_THREADS - 1) / TILE_THREADS, LINES_APART = TILE_THREADS / ACROSS;
    static_assert(TILE_THREADS % ACROSS == 0 && (COUNT == 1 || LINES % LINES_APART == 0), "every thread brings COUNT pieces");

    // Of a panel that has fewer pieces than the block has threads, the last threads bring nothing.
    static MEMBER bool brings() { return LINES >= LINES_APART || thread() / ACROSS < LINES; }
    static MEMBER uint32_t line() { return thread() / ACROSS; }
    static MEMBER uint32_t across() { return thread() % ACROSS * WIDTH; }
    static MEMBER uint32_t row() { return ALONG_K ? line() : across(); }
    static MEMBER uint32_t depth() { return ALONG_K ? across() : line(); }
};

// A plain matrix (rows, depth), or (depth, rows) where the share does not run along the depth.
template <class Share> struct MatrixWalk {
    uint32_t row, k, rows, depth, end;

    MEMBER MatrixWalk(uint32_t rows, uint32_t depth, uint32_t first_row, uint32_t k_begin, uint32_t k_end)
        : row(first_row + Share::row()), k(k_begin + Share::depth()), rows(rows), depth(depth), end(k_end) {}
    MEMBER uint32_t row_of(int i) const { return row + (Share::ALONG_K ? i * Share::LINES_APART : 0); }
    MEMBER uint32_t depth_of(int i) const { return k + (Share::ALONG_K ? 0 : i * Share::LINES_APART); }
    MEMBER bool there(int i) const { return row_of(i) < rows && depth_of(i) < end; }
    MEMBER const T* at(int i, const T* start) const {
        return Share::ALONG_K ? lines_after(start + k, row_of(i), depth) : lines_after(start + row, depth_of(i), rows);
    }
    MEMBER uint32_t sample(int i) const { return Share::ALONG_K ? least(row_of(i), rows - 1) : least(depth_of(i), end - 1); }
    MEMBER bool one_sample() const { return false; }
    MEMBER uint32_t channel(int) const { return Share::ALONG_K ? k : row; }
    MEMBER void advance() { k += Share::STEP; }
};

// An image through a window: rows are pixels (n, p, q), the depth is taps (r, s, c). A piece lies within one filter position; its
// row sees that position at `pixel` + r W + s. `seen` has a bit for each filter position: whether that lies inside of the image.
constexpr uint32_t SEEN = 32;  // the most filter positions; the bits of those after the last one are shifted out, or not set
template <class Share, bool CHANGED> struct PixelRowsWalk {
    const Window& window;
    const uint32_t half, stored_w;  // 1: the image has half as many rows and columns as the window sees; its columns
    int32_t pixel[Share::COUNT];    // as it is stored
    uint32_t seen[Share::COUNT];
    uint32_t of[Share::COUNT];  // where CHANGED: 4 n + 2 (1 if the first row that is seen is odd) + (1 if the first column is)
    uint32_t c, r, s, bit;      // of this thread's pieces: channel, row and column of the filter, and the bit r S + s
    uint32_t shift, odd;        // r W + s, as it is stored; like `of`, whether r and s are odd
    const Window::Tap step;     // how many rows, columns and channels of the filter a step is
    const uint32_t step_position;
    const int32_t step_shift;

    MEMBER PixelRowsWalk(const Window& window, uint32_t half, uint32_t first_row, uint32_t k_begin)
        : window(window), half(half), stored_w(window.W >> half), step(window.tap(Share::STEP)), step_position(step.r * window.S + step.s), step_shift(int32_t(step.r * window.W + step.s)) {
        const Window::Tap tap = window.tap(k_begin + Share::depth());
        c = tap.c;
        r = tap.r;
        s = tap.s;
        bit = 1u << (r * window.S + s);
        if constexpr (CHANGED) settle();
        else shift = r * window.W + s;
        UNROLL
        for (int i = 0; i < Share::COUNT; i++) {
            const uint32_t m = first_row + Share::row() + i * Share::LINES_APART;
            const Pixel at = window.pixel(m);
            const int32_t top = int32_t(at.p * window.stride) - window.pad_h, left = int32_t(at.q * window.stride) - window.pad_w;
            const bool inside = m < window.pixels() && Share::brings();
            seen[i] = 0;
            for (uint32_t y = 0; inside && y < window.R; y++) {
                for (uint32_t x = 0; x < window.S; x++)
                    seen[i] |= uint32_t(uint32_t(top + y) < window.H && uint32_t(left + x) < window.W) << (y * window.S + x);
            }
            if constexpr (CHANGED) {
                pixel[i] = (int32_t(at.n * (window.H >> half)) + (top >> half)) * int32_t(stored_w) + (left >> half);
                of[i] = inside ? 4 * at.n + 2 * (top & half) + (left & half) : 0;
            } else {
                pixel[i] = (int32_t(at.n * window.H) + top) * int32_t(window.W) + left;
            }
        }
    }
    MEMBER bool there(int i) const { return seen[i] & bit; }
    MEMBER void settle() {
        shift = (r >> half) * stored_w + (s >> half);
        odd = 2 * r + s % 2;
    }
    MEMBER const T* at(int i, const T* start) const {
        uint32_t place = uint32_t(pixel[i]) + shift;
        if constexpr (CHANGED) {
            // Of two odd numbers, half of the sum is one more than the sum of their halves.
            const uint32_t more = of[i] & odd & 3;
            place += more / 2 * stored_w + more % 2;
        }
        return lines_after(start + c, place, window.C);
    }
    MEMBER uint32_t sample(int i) const { return of[i] / 4; }
    MEMBER bool one_sample() const { return window.P * window.Q % Share::ROWS == 0; }
    MEMBER uint32_t channel(int) const { return c; }
    MEMBER void advance() {
        c += step.c;
        const bool more = c >= window.C;
        c -= more ? window.C : 0;
        s += step.s + more;
        const bool below = s >= window.S;
        s -= below ? window.S : 0;
        r += step.r + below;
        if constexpr (CHANGED) settle();
        else shift += step_shift + more + (below ? int32_t(window.W - window.S) : 0);
        bit <<= step_position + more;
    }
};

// An image through a window the other way round: rows are taps (r, s, c), the depth is pixels (n, p, q). A thread has one filter
// position; each of its pieces moves on from pixel to pixel.
template <class Share, bool CHANGED> struct TapRowsWalk {
    const Window& window;
    const uint32_t half, stored_h, stored_w;
    uint32_t c, k, end;
    int32_t h_end, w_end;  // one past what the last row, and column, of pixels sees through the filter position
    int32_t h[Share::COUNT], w[Share::COUNT];
    uint32_t place[Share::COUNT];  // (n H + h) W + w; where CHANGED: n
    // How many images, and pixels of v down, right and in all, a step is. How far it is from the end of a row to the next one, and
    // from the end of an image.
    uint32_t images;
    int32_t down, right, in_all, line, image;

    // `r`, `s` and `c` are the tap of this thread's row; `inside`: it is one of the operand's.
    MEMBER TapRowsWalk(const Window& window, uint32_t half, bool inside, uint32_t r, uint32_t s, uint32_t c, uint32_t k_begin, uint32_t k_end)
        : window(window), half(half), stored_h(window.H >> half), stored_w(window.W >> half), c(c), k(k_begin + Share::depth()), end(inside ? k_end : 0) {
        h_end = int32_t(window.P * window.stride + r) - window.pad_h;
        w_end = int32_t(window.Q * window.stride + s) - window.pad_w;
        const Pixel step = window.pixel(Share::STEP);
        images = step.n;
        down = int32_t(step.p * window.stride);
        right = int32_t(step.q * window.stride);
        in_all = (int32_t(images * window.H) + down) * int32_t(window.W) + right;
        line = int32_t(window.Q * window.stride);
        image = int32_t(window.P * window.stride);
        UNROLL
        for (int i = 0; i < Share::COUNT; i++) {
            const Pixel at = window.pixel(k + i * Share::LINES_APART);
            h[i] = int32_t(at.p * window.stride + r) - window.pad_h;
            w[i] = int32_t(at.q * window.stride + s) - window.pad_w;
            place[i] = CHANGED ? at.n : (at.n * window.H + h[i]) * window.W + w[i];
        }
    }
    MEMBER bool there(int i) const {
        return uint32_t(h[i]) < window.H && uint32_t(w[i]) < window.W && k + i * Share::LINES_APART < end;
    }
    MEMBER const T* at(int i, const T* start) const {
        if constexpr (CHANGED) {
            const uint32_t line = place[i] * stored_h + (uint32_t(h[i]) >> half);
            return lines_after(start + c, line * stored_w + (uint32_t(w[i]) >> half), window.C);
        } else {
            return lines_after(start + c, place[i], window.C);
        }
    }
    MEMBER uint32_t sample(int i) const { return least(place[i], window.N - 1); }
    MEMBER bool one_sample() const { return window.P * window.Q % Share::STEP == 0; }
    MEMBER uint32_t channel(int) const { return c; }
    MEMBER void advance() {
        k += Share::STEP;
        UNROLL
        for (int i = 0; i < Share::COUNT; i++) {
            w[i] += right;
            const bool below = w[i] >= w_end;
            w[i] -= below ? line : 0;
            h[i] += down + (below ? int32_t(window.stride) : 0);
            const bool next = h[i] >= h_end;
            h[i] -= next ? image : 0;
            if constexpr (CHANGED) {
                place[i] += images + next;
            } else {
                place[i] += uint32_t(in_all + (below ? int32_t(window.stride * window.W) - line : 0) + (next ? (int32_t(window.H) - image) * int32_t(window.W) : 0));
            }
        }
    }
};

// Filters as the input gradient of a convolution reads them (TurnedFilters in kernels/conv.cu): rows are the channels c, the depth
// is taps (r, s, k). Filter positions follow each other from the last one down; below the first one lies nothing. Instead of a row
// that the operand does not have, its last one is read: nothing is stored of what that is multiplied to.
template <class Share> struct TurnedWalk {
    uint32_t offset, len;          // of piece 0, in elements, and of what lies past the last one; so far below the first one, too
    uint32_t piece[Share::COUNT];  // from piece 0
    uint32_t k, within;            // a step from k < `within` stays in its filter position
    uint32_t step_k, next_k;       // what k changes by in such a step, and in one to the next position
    uint32_t step, next;           // what `offset` changes by

    MEMBER TurnedWalk(uint32_t rows, uint32_t depth, const Divisor& channels, uint32_t first_row, uint32_t k_begin) : len(depth * rows) {
        const uint32_t K = channels.divisor, tap = k_begin + Share::depth(), before = channels.quotient(tap);
        const uint32_t c = least(first_row + Share::row(), rows - 1), step_position = channels.quotient(Share::STEP);
        k = tap - before * K;
        offset = ((channels.quotient(depth) - 1 - before) * rows + c) * K + k;
        step_k = Share::STEP - step_position * K;
        next_k = step_k - K;
        within = K - step_k;
        step = step_k - step_position * rows * K;
        next = step - (rows + 1) * K;
        UNROLL
        for (int i = 0; i < Share::COUNT; i++) piece[i] = (least(first_row + Share::row() + i * Share::LINES_APART, rows - 1) - c) * K;
    }
    MEMBER bool there(int) const { return offset < len; }
    MEMBER const T* at(int i, const T* start) const { return lines_after(start, offset + piece[i], 1); }
    MEMBER void advance() {
        const bool stays = k < within;
        offset += stays ? step : next;
        k += stays ? step_k : next_k;
    }
};
