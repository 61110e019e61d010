// Convolution as a matrix product (implicit GEMM). The left operand has a row for each output pixel and a column for each tap
// (r, s, c) of the filter. It is never stored: a tile reads the pixels that its rows and taps need straight from the image.
//
//   x (N, H, W, C), filters w (R, S, C, K), y (N, P, Q, K), all row-major; P = (H + 2 pad - R) / stride + 1, Q likewise
//   v[n][h][w][c] = act_x(scale[n][c] x[n][h][w][c] + shift[n][c])     the prologue. scale and shift are (1 or N, C); null: 1 and 0.
//                   Where it upsamples, x is (N, H / 2, W / 2, C), and v at (h, w) takes x at (h / 2, w / 2), rounded down.
//   z[n][p][q][k] = sum over r, s, c of v[n][p stride - pad + r][q stride - pad + s][c] w[r][s][c][k]     v is 0 outside
//   y = act(pool(z) + b + residual)     pool: the mean of each 2 x 2 pixels, or no change.
//                   Where it pools, y and the residual are (N, P / 2, Q / 2, K).
//
//   g[n][p][q][k] = row_scale[n] * unpool(dy * act'(y))     the gradient by z: the effective output gradient.
//                   unpool: a quarter of a pooled pixel's gradient goes to each of its 2 x 2 pixels. row_scale null: 1.
//   dv (N, H, W, C) = sum over r, s, k of g[n][p][q][k] w[r][s][c][k], with p = h + pad - r and q = w + pad - s, for a stride
//                   of 1. Each element of dv gathers its terms from g, through filters that are turned around, so that the
//                   order of the sum is fixed. On a GPU they are turned as they are read (TurnedFilters), on the host before
//                   (conv_flip_filters).
//   dx = mask * dv  mask: act_x'(x), from the stored x, where the prologue is a (leaky) ReLU and nothing else; otherwise 1.
//                   Where the prologue upsamples, there is no mask, and dx (N, H / 2, W / 2, C) is the sum of dv over each 2 x 2.
//   dw (R, S, C, K) += sum over n, p, q of v g     The images are split into parts, and the sums of the parts added in order.
//   db (K) += sum over n, p, q of g                likewise, by blocks of the same launch
//
// x, y, dy, dx, the residual and the filters are stored in the precision of the module. b, scale, shift, row_scale, dw, db and all
// parts are f32.
//
// y and dx are overwritten, or added to where `accumulate` is set. Each element of a result is one chain of additions in a fixed
// order; each element of dw and db is one such chain for each part.
#include "device/execution.h"
#include "device/math.h"
#include "device/activation.h"
#include "device/number.h"
#include "device/tile.h"
#include "device/gradient.h"
#include "device/gather.h"

PRECISIONS(f32, tf32, bf16, f16)

// v, computed from x as it is read.
struct Image {
    const T* RESTRICT x;
    const float* RESTRICT scale;
    const float* RESTRICT shift;
    Activation activation;
    uint32_t H, W, C;      // the sizes of v
    uint32_t half;         // 1: x has half as many rows and columns
    uint32_t table_stride; // C where each sample has its own scale, else 0

    // Host only: writes the first `columns` pixels of v's row h, one after the other. The activation is chosen once for the row,
    // outside the loops.
    MEMBER void load_line(float* to, uint32_t n, uint32_t h, uint32_t columns) const {
        const T* from = x + (uint64_t(n) * (H >> half) + (h >> half)) * (W >> half) * C;
        const float* RESTRICT a = scale + uint64_t(n) * table_stride;
        const float* RESTRICT b = shift + uint64_t(n) * table_stride;
        const uint32_t each = C, halved = half;
        const bool scaled = scale != nullptr;
        with_activation(activation, [=](auto act) {
            if (!scaled && !halved) {
                by_vectors(columns * each, [=](uint64_t i) { to[i] = factor(act(from[i])); });
            } else if (scaled) {
                for (uint32_t w = 0; w < columns; w++) {
                    const T* RESTRICT pixel = from + (w >> halved) * each;
                    float* RESTRICT here = to + w * each;
                    by_vectors(each, [=](uint64_t i) { here[i] = factor(act(pixel[i] * a[i] + b[i])); });
                }
            } else {
                for (uint32_t w = 0; w < columns; w++) {
                    const T* RESTRICT pixel = from + (w >> halved) * each;
                    float* RESTRICT here = to + w * each;
                    by_vectors(each, [=](uint64_t i) { here[i] = factor(act(pixel[i])); });
                }
            }
        });
    }
    template <class Store> MEMBER void load(uint32_t n, uint32_t h, uint32_t w, uint32_t c, uint32_t count, Store store) const {
        const T* RESTRICT from = x + (((uint64_t(n) * (H >> half) + (h >> half)) * (W >> half) + (w >> half)) * C + c);
        const float* RESTRICT a = scale + (uint64_t(n) * table_stride + c);
        const float* RESTRICT b = shift + (uint64_t(n) * table_stride + c);
        const bool scaled = scale != nullptr;
        with_activation(activation, [=](auto act) {
            if (scaled) {
                INDEPENDENT_FEW
                for (uint32_t i = 0; i < count; i++) store(i, factor(act(from[i] * a[i] + b[i])));
            } else {
                INDEPENDENT_FEW
                for (uint32_t i = 0; i < count; i++) store(i, factor(act(from[i])));
            }
        });
    }
#if !defined(ZGAN_HOST)
    typedef RawPiece Raw;
    MEMBER bool whole() const { return aligned(x) && aligned(scale) && aligned(shift) && C % PIECE == 0; }
    MEMBER bool same() const { return !scale && !half && activation.code == 0; }
    MEMBER const T* start() const { return x; }
    template <class Walk> MEMBER void read(Raw& raw, const Walk& walk, int i) const { load_where(walk.there(i), raw.values, walk.at(i, x)); }
    template <class Walk> MEMBER void finish(const Raw& raw, const Walk& walk, int i, float (&v)[PIECE]) const {
        unpack(v, raw.values);
        if (scale) {
            float a[PIECE], b[PIECE];
            const uint32_t at = walk.sample(i) * table_stride + walk.channel(i);
            load_whole(a, scale + at);
            load_whole(b, shift + at);
            UNROLL
            for (int j = 0; j < PIECE; j++) v[j] = v[j] * a[j] + b[j];
        }
        UNROLL
        for (int j = 0; j < PIECE; j++) v[j] = leaky_relu(v[j], activation.slope);
    }
    // 1: a ReLU behind a scale and a shift that are the same for all pieces.
    template <class Walk> MEMBER uint32_t manner(const Walk& walk) const {
        return scale && activation.slope == 0.0f && (table_stride == 0 || walk.one_sample());
    }
    template <class Walk, class Body> MEMBER void with_change(uint32_t manner, const Walk& walk, Body body) const {
        if (manner == 1) {
            const uint32_t at = walk.sample(0) * table_stride + walk.channel(0);
            float a[PIECE], b[PIECE];
            load_whole(a, scale + at);
            load_whole(b, shift + at);
            body([&](const Raw& raw, int) {
                float v[PIECE];
                unpack(v, raw.values);
                UNROLL
                for (int j = 0; j < PIECE; j++) v[j] = v[j] * a[j] + b[j];
                return pack<true>(v);
            });
        } else {
            body([&](const Raw& raw, int i) { return finished(*this, raw, walk, i); });
        }
    }
#endif
};

// g, computed from dy and y as it is read.
struct Gradient : OutputGradient {
    uint32_t P, Q, K;

    // Host only: writes g for `columns` pixels of row p from q on, each `apart` floats after the one before: width() channels from
    // k on. `width` is a function, so that the compiler knows a width that is constant.
    template <class Width> MEMBER void load_pixels(float* to, uint32_t n, uint32_t p, uint32_t q, uint32_t k, uint32_t columns, uint32_t apart, Width width) const {
        const uint64_t at = index(n, p, 0, k);
        const T* from = dy + at;
        const T* output = y + at;
        const float part = share(n);
        const uint32_t each = K, halved = half;
        with_derivative(activation, [=](auto derivative) {
            for (uint32_t w = 0; w < columns; w++) {
                const T* RESTRICT d = from + ((q + w) >> halved) * each;
                const T* RESTRICT o = output + ((q + w) >> halved) * each;
                float* RESTRICT here = to + w * apart;
                by_vectors(width(), [=](uint64_t i) { here[i] = factor(d[i] * derivative(o[i]) * part); });
            }
        });
    }
    MEMBER void load_line(float* to, uint32_t n, uint32_t p, uint32_t columns) const {
        const uint32_t each = K;
        load_pixels(to, n, p, 0, 0, columns, each, [=] { return each; });
    }
    template <class Store> MEMBER void load(uint32_t n, uint32_t p, uint32_t q, uint32_t k, uint32_t count, Store store) const {
        exact(index(n, p, q, k), n, count, [=](uint32_t i, float value) { store(i, factor(value)); });
    }
    MEMBER uint64_t index(uint32_t n, uint32_t p, uint32_t q, uint32_t k) const {
        return ((uint64_t(n) * (P >> half) + (p >> half)) * (Q >> half) + (q >> half)) * K + k;
    }
#if !defined(ZGAN_HOST)
    MEMBER bool whole() const { return OutputGradient::whole() && K % PIECE == 0; }
#endif
};

// g as the right operand of the weight gradient: its columns are the channels k, its depth the pixels (n, p, q).
struct GradientColumns {
    static constexpr bool ALONG_K = false, PLAIN = false, PATCHED = false, PANELS = true;
    Gradient gradient;
    Window window;
    uint32_t rows, depth;

    // Host only: packs columns v .. v + width at depths k .. k + count into a panel (count, WIDTH), one row of the image after the
    // other. Columns of the panel from `width` on become zero.
    template <uint32_t WIDTH> void panel(float* to, uint32_t v, uint32_t width, uint32_t k, uint32_t count) const {
        while (count > 0) {
            const Pixel at = window.pixel(k);
            const uint32_t some = least(window.Q - at.q, count);
            if (width == WIDTH) gradient.load_pixels(to, at.n, at.p, at.q, v, some, WIDTH, [] { return WIDTH; });
            else gradient.load_pixels(to, at.n, at.p, at.q, v, some, WIDTH, [=] { return width; });
            for (uint32_t i = 0; width < WIDTH && i < some; i++)
                for (uint32_t j = width; j < WIDTH; j++) to[i * WIDTH + j] = 0.0f;
            to += some * WIDTH;
            k += some;
            count -= some;
        }
    }

    struct Run { Pixel pixel; uint32_t k, count; };
    MEMBER Run run(uint32_t row, uint32_t k) const { return {window.pixel(k), row, rows - row}; }
    template <class Store> MEMBER void load(const Run& run, uint32_t count, Store store) const {
        gradient.load(run.pixel.n, run.pixel.p, run.pixel.q, run.k, count, store);
    }
#if !defined(ZGAN_HOST)
    static constexpr bool CHANGES = true;
    // As they are stored, the gradients of all pixels are a matrix. Otherwise they are an image, each pixel of which sees itself.
    template <class Share, bool CHANGED> using Walk = typename OneOf<CHANGED, TapRowsWalk<Share, true>, MatrixWalk<Share>>::Type;
    template <class Share, bool CHANGED> MEMBER Walk<Share, CHANGED> walk(uint32_t first_row, uint32_t k_begin, uint32_t k_end) const {
        if constexpr (CHANGED) return {window, gradient.half, first_row + Share::row() < rows && Share::brings(), 0, 0, first_row + Share::row(), k_begin, k_end};
        else return {rows, depth, first_row, k_begin, k_end};
    }
    typedef RawPiece Raw;
    MEMBER bool whole() const { return gradient.whole(); }
    MEMBER bool same() const { return gradient.same(); }
    MEMBER const T* start() const { return gradient.start(); }
    // y is read late: there are no registers to keep it in while a tile is multiplied.
    template <class Walk> MEMBER void read(Raw& raw, const Walk& walk, int i) const { load_where(walk.there(i), raw.values, walk.at(i, gradient.dy)); }
    template <class Walk> MEMBER void finish(const Raw& raw, const Walk& walk, int i, float (&v)[PIECE]) const {
        Piece output = raw.values;
        if (gradient.activation.code != 0 && walk.there(i)) output = load_piece(walk.at(i, gradient.y));
        gradient.finish({raw.values, output}, walk, i, v);
    }
    template <class Walk> MEMBER uint32_t manner(const Walk& walk) const { return gradient.activation.code == 0 && gradient.manner(walk) == 1; }
    template <class Walk, class Body> MEMBER void with_change(uint32_t manner, const Walk& walk, Body body) const {
        if (manner == 1) gradient.with_scale(walk, body);
        else body([&](const Raw& raw, int i) { return finished(*this, raw, walk, i); });
    }
#endif
    MEMBER Ahead ahead(uint32_t, uint32_t, uint32_t) const { return {}; }
};

#if !defined(ZGAN_HOST)
// The filters as the input gradient reads them. Its columns are the channels c of v, its depth the taps (r, s, k), and element
// (c, (r, s, k)) is w[R - 1 - r][S - 1 - s][c][k].
struct TurnedFilters {
    static constexpr bool ALONG_K = true, PLAIN = false, PATCHED = false, PANELS = false, CHANGES = false;
    const T* RESTRICT filters;
    uint32_t rows, depth;
    Divisor channels;  // K

    struct Run { const T* values; uint32_t count; };
    MEMBER Run run(uint32_t c, uint32_t tap) const {
        const uint32_t position = channels.quotient(tap), K = channels.divisor, k = tap - position * K;
        return {filters + (uint64_t(depth / K - 1 - position) * rows + c) * K + k, K - k};
    }
    template <class Store> MEMBER void load(const Run& run, uint32_t count, Store store) const {
        for (uint32_t i = 0; i < count; i++) store(i, factor(run.values[i]));
    }
    template <class Share, bool CHANGED> using Walk = TurnedWalk<Share>;
    template <class Share, bool CHANGED> MEMBER TurnedWalk<Share> walk(uint32_t first_row, uint32_t k_begin, uint32_t) const {
        return {rows, depth, channels, first_row, k_begin};
    }
    typedef RawPiece Raw;
    MEMBER bool whole() const { return aligned(filters) && channels.divisor % PIECE == 0; }
    MEMBER bool same() const { return true; }
    MEMBER const T* start() const { return filters; }
};
#endif

// The epilogue of the forward pass: makes y of the finished sums.
struct Output {
    typedef T Element;
    static constexpr bool READS = false;
    T* RESTRICT y;
    const float* RESTRICT bias;
    const T* RESTRICT residual;
    Activation activation;
    uint32_t K, accumulate;
    uint32_t rows;  // of z, in one of y: 4 where it pools, else 1

    MEMBER Ahead ahead(uint32_t, uint32_t, uint32_t) const { return {}; }
    // Each step has a plain loop of its own. Of a single loop, the compiler would make a copy for every combination of steps.
    MEMBER void store(uint32_t m, uint32_t k, uint32_t count, float* values) const {
        const uint64_t at = uint64_t(m) * K + k;
        T* RESTRICT to = y + at;
        const float* RESTRICT b = bias + k;
        const T* RESTRICT more = residual + at;
        float* RESTRICT v = values;
        if (rows > 1) {
            INDEPENDENT_FEW
            for (uint32_t i = 0; i < count; i++) v[i] *= 0.25f;
        }
        if (bias && K == 1) {
            const float same = b[0];
            INDEPENDENT_FEW
            for (uint32_t i = 0; i < count; i++) v[i] += same;
        } else if (bias) {
            INDEPENDENT_FEW
            for (uint32_t i = 0; i < count; i++) v[i] += b[i];
        }
        if (residual) {
            INDEPENDENT_FEW
            for (uint32_t i = 0; i < count; i++) v[i] += more[i];
        }
        with_activation(activation, [=](auto act) {
            INDEPENDENT_FEW
            for (uint32_t i = 0; i < count; i++) v[i] = act(v[i]);
        });
        if (accumulate) {
            INDEPENDENT_FEW
            for (uint32_t i = 0; i < count; i++) v[i] += to[i];
        }
        INDEPENDENT_FEW
        for (uint32_t i = 0; i < count; i++) to[i] = v[i];
    }
#if TENSOR_CORES
    MEMBER bool whole() const { return aligned(y) && aligned(bias) && aligned(residual) && K % PIECE == 0; }
    MEMBER void store_whole(uint32_t m, uint32_t k, float (&v)[PIECE]) const {
        const uint64_t at = uint64_t(m) * K + k;
        float more[PIECE];
        if (rows > 1) {
            UNROLL
            for (int i = 0; i < PIECE; i++) v[i] *= 0.25f;
        }
        if (bias) {
            load_whole(more, bias + k);
            UNROLL
            for (int i = 0; i < PIECE; i++) v[i] += more[i];
        }
        if (residual) {
            load_whole(more, residual + at);
            UNROLL
            for (int i = 0; i < PIECE; i++) v[i] += more[i];
        }
        with_activation(activation, [&](auto act) {
            UNROLL
            for (int i = 0; i < PIECE; i++) v[i] = act(v[i]);
        });
        if (accumulate) {
            load_whole(more, y + at);
            UNROLL
            for (int i = 0; i < PIECE; i++) v[i] += more[i];
        }
        ::store_whole(y + at, v);
    }
#endif
};

// The epilogue of the input gradient: makes dx of the finished sums.
struct InputOutput {
    typedef T Element;
    static constexpr bool READS = false;
    T* RESTRICT dx;
    const T* RESTRICT x;  // null where the mask is 1
    float slope;          // of the mask where x <= 0
    uint32_t C, accumulate;
    uint32_t rows;  // of dv, in one of dx: 4 where the prologue upsamples, else 1

    MEMBER Ahead ahead(uint32_t, uint32_t, uint32_t) const { return {}; }
    MEMBER void store(uint32_t m, uint32_t c, uint32_t count, float* values) const {
        const uint64_t at = uint64_t(m) * C + c;
        T* RESTRICT to = dx + at;
        const T* RESTRICT before = x + at;
        float* RESTRICT v = values;
        const float below = slope;
        if (x) {
            INDEPENDENT_FEW
            for (uint32_t i = 0; i < count; i++) v[i] *= before[i] <= 0.0f ? below : 1.0f;
        }
        if (accumulate) {
            INDEPENDENT_FEW
            for (uint32_t i = 0; i < count; i++) v[i] += to[i];
        }
        INDEPENDENT_FEW
        for (uint32_t i = 0; i < count; i++) to[i] = v[i];
    }
#if TENSOR_CORES
    MEMBER bool whole() const { return aligned(dx) && aligned(x) && C % PIECE == 0; }
    MEMBER void store_whole(uint32_t m, uint32_t c, float (&v)[PIECE]) const {
        const uint64_t at = uint64_t(m) * C + c;
        float before[PIECE];
        if (x) {
            load_whole(before, x + at);
            UNROLL
            for (int i = 0; i < PIECE; i++) v[i] *= before[i] <= 0.0f ? slope : 1.0f;
        }
        if (accumulate) {
            load_whole(before, dx + at);
            UNROLL
            for (int i = 0; i < PIECE; i++) v[i] += before[i];
        }
        ::store_whole(dx + at, v);
    }
#endif
};

// The epilogue of the weight gradient: adds to dw, or writes the part that the images of this block sum to.
struct FilterOutput {
    typedef float Element;
    static constexpr uint32_t rows = 1;
    static constexpr bool READS = true;
    float* RESTRICT to;
    uint32_t K, accumulate;

    MEMBER Ahead ahead(uint32_t m, uint32_t k, uint32_t count) const { return {to + (uint64_t(m) * K + k), K, count}; }
    MEMBER void store(uint32_t m, uint32_t k, uint32_t count, float* values) const {
        float* RESTRICT here = to + (uint64_t(m) * K + k);
        float* RESTRICT v = values;
        if (accumulate) {
            INDEPENDENT_FEW
            for (uint32_t i = 0; i < count; i++) v[i] += here[i];
        }
        INDEPENDENT_FEW
        for (uint32_t i = 0; i < count; i++) here[i] = v[i];
    }
#if TENSOR_CORES
    MEMBER bool whole() const { return aligned(to) && K % 4 == 0; }
    MEMBER void store_whole(uint32_t m, uint32_t k, float (&v)[4]) const {
        float* const here = to + (uint64_t(m) * K + k);
        if (accumulate) {
            float before[4];
            load_whole(before, here);
            UNROLL
            for (int i = 0; i < 4; i++) v[i] += before[i];
        }
        ::store_whole(here, v);
    }
#endif
};

// The structs of the same names in src/ops/conv.rs have the same fields in the same order.
struct PrologueArgument { Activation activation; uint32_t up, table_stride; };
struct GradientArgument { Activation activation; uint32_t pooled; };
// `rows` of the grid's blocks add parts up, `per_block` elements each.
struct PartsArgument { uint32_t count, len, more, per_block, rows; };

// The parts that a weight gradient leaves to be added up: in each part one of dw, and behind it one of db.
struct PartSums {
    float* RESTRICT dweight;       // (len)
    float* RESTRICT dbias;         // (more); may be null where that is 0
    const float* RESTRICT parts;   // (count, len + more)
    PartsArgument sizes;

    // dweight[i] += parts[0][i] + parts[1][i] + ..., in order, and then dbias likewise: the share of block `block`, which has so
    // many threads.
    template <int THREADS> MEMBER void add(uint32_t block) const {
        const uint32_t len = sizes.len, begin = block * sizes.per_block, end = least(begin + sizes.per_block, len + sizes.more);
        add<THREADS>(dweight, parts, begin, least(end, len));
        add<THREADS>(dbias, parts + len, begin > len ? begin - len : 0, end > len ? end - len : 0);
    }
    template <int THREADS> MEMBER void add(float* RESTRICT to, const float* RESTRICT from, uint32_t begin, uint32_t end) const {
        const uint32_t count = sizes.count, apart = sizes.len + sizes.more;
        INDEPENDENT
        for (uint32_t i = begin + thread(); i < end; i += THREADS) {
            float sum = from[i];
            for (uint32_t part = 1; part < count; part++) sum += from[uint64_t(part) * apart + i];
            to[i] += sum;
        }
    }
};


DEVICE Image image(const T* x, const float* scale, const float* shift, const PrologueArgument& prologue, const Window& window) {
    return {x, scale, shift, prologue.activation, window.H, window.W, window.C, prologue.up, prologue.table_stride};
}

// The narrowest tile names 4 blocks: with 0, the assembler makes it spill a register.
TILES(64x64, 128x64, 128x128, f32 256x32, f32 256x16)
KERNEL(TILE_THREADS, BLOCKS_OF_TILE(BM, BN)) TILED(conv_forward)(
    T* RESTRICT y,                // (N, P, Q, K); where it pools, with half of P and Q
    const T* RESTRICT x,          // (N, H, W, C); where the prologue upsamples, with half of H and W
    const float* RESTRICT scale,  // (1 or N, C) or null
    const float* RESTRICT shift,  // (1 or N, C) or null
    const T* RESTRICT filters,    // (R, S, C, K)
    const float* RESTRICT bias,   // (K) or null
    const T* RESTRICT residual,   // as y, or null
    PrologueArgument prologue, Activation activation, uint32_t accumulate, Window window, uint32_t K) {
    const WindowFetch<true, Image> a{image(x, scale, shift, prologue, window), window, window.pixels(), window.taps()};
    const MatrixFetch<false> b{filters, K, window.taps()};
    tiled_matmul<BM, BN>(a, b, Output{y, bias, residual, activation, K, accumulate, window.by_windows ? 4u : 1u}, row_of_tiles(), 0, window.taps());
}

TILES(64x64, 128x64, 128x128, f32 256x32, f32 256x16)
// Here `window` tells how the pixels of v see those of g: its H, W and C are P, Q and K of the forward pass, its P and Q are H and
// W. `C` is the number of channels of v. The first `parts.rows` rows of blocks add up what the weight gradient before it left.
KERNEL(TILE_THREADS, BLOCKS_OF_TILE(BM, BN)) TILED(conv_input_gradient)(
    T* RESTRICT dx,                   // (N, H, W, C); where the prologue upsamples, with half of H and W
    float* RESTRICT dweight,          // (R, S, C, K) or null
    float* RESTRICT dbias,            // (K) or null
    const T* RESTRICT dy,             // (N, P, Q, K); where the output is pooled, with half of P and Q
    const T* RESTRICT filters,        // (R, S, C, K); for the host flipped, (R, S, K, C)
    const T* RESTRICT y,              // as dy, or null
    const float* RESTRICT row_scale,  // (N) or null
    const T* RESTRICT x,              // as dx, or null
    const float* RESTRICT parts,      // (parts.count, R, S, C, K and behind that, where there is a dbias, K) or null
    GradientArgument gradient, float slope, uint32_t accumulate, PartsArgument left, Window window, uint32_t C) {
    if (blockIdx.y < left.rows) {
        PartSums{dweight, dbias, parts, left}.add<BLOCK == 1 ? 1 : TILE_THREADS>(blockIdx.y * gridDim.x + blockIdx.x);
        return;
    }
    const Gradient g{{dy, y ? y : dy, row_scale, gradient.activation, gradient.pooled}, window.H, window.W, window.C};
    const WindowFetch<true, Gradient> a{g, window, window.pixels(), window.taps()};
#if defined(ZGAN_HOST)
    const MatrixFetch<false> b{filters, C, window.taps()};
#else
    const TurnedFilters b{filters, C, window.taps(), window.channels};
#endif
    tiled_matmul<BM, BN>(a, b, InputOutput{dx, x, slope, C, accumulate, window.by_windows ? 4u : 1u}, row_of_tiles() - left.rows, 0, window.taps());
}

TILES(64x64, 128x64, 128x128, f32 256x32, f32 256x16)
// A block sums over the images from blockIdx.z * images on, `images` of them at most. Where there is a dbias, the last row of blocks
// computes it.
KERNEL(TILE_THREADS, BLOCKS_OF_TILE(BM, BN)) TILED(conv_weight_gradient)(
    float* RESTRICT dweight,          // (R, S, C, K)
    float* RESTRICT dbias,            // (K) or null
    float* RESTRICT parts,            // (gridDim.z, R, S, C, K and behind that, where there is a dbias, K); null where gridDim.z is 1
    const T* RESTRICT x,              // (N, H, W, C); where the prologue upsamples, with half of H and W
    const float* RESTRICT scale,      // (1 or N, C) or null
    const float* RESTRICT shift,      // (1 or N, C) or null
    const T* RESTRICT dy,             // (N, P, Q, K); where the output is pooled, with half of P and Q
    const T* RESTRICT y,              // as dy, or null
    const float* RESTRICT row_scale,  // (N) or null
    PrologueArgument prologue, GradientArgument gradient, Window window, uint32_t K, uint32_t images) {
    const Gradient g{{dy, y ? y : dy, row_scale, gradient.activation, gradient.pooled}, window.P, window.Q, K};
    const uint32_t per_image = window.P * window.Q, begin = blockIdx.z * images, end = least(begin + images, window.N);
    const bool split = gridDim.z > 1;
    const uint64_t len = uint64_t(window.taps()) * K, part = blockIdx.z * (len + (dbias ? K : 0));
    if (dbias && blockIdx.y == gridDim.y - 1) {
        // Pooling does not matter here: an element of dy goes to four pixels of g by quarters, which sum to the element.
        const OutputGradient whole{dy, y ? y : dy, row_scale, gradient.activation, 0};
        sum_columns<BN>(split ? parts + part + len : dbias, !split, whole, blockIdx.x * BN, K, per_image >> (gradient.pooled ? 2 : 0), begin, end);
        return;
    }
    const WindowFetch<false, Image> a{image(x, scale, shift, prologue, window), window, window.taps(), window.pixels()};
    const GradientColumns b{g, window.of_itself(K), K, window.pixels()};
    float* to = split ? parts + part : dweight;
    tiled_matmul<BM, BN>(a, b, FilterOutput{to, K, !split}, blockIdx.y, begin * per_image, end * per_image);
}

// flipped[r][s][k][c] = w[R - 1 - r][S - 1 - s][c][k]: the filters that the host's input gradient multiplies by. A block transposes a tile
// in shared memory, so that w is read along its rows, and flipped is written along its rows. A row of the tile takes SIDE + 1
// floats, so that the elements of a column lie in different banks.
KERNEL(256, 0) PRECISE(conv_flip_filters)(T* RESTRICT flipped,        // (R, S, K, C)
                                            const T* RESTRICT filters,  // (R, S, C, K)
                                            uint32_t taps, uint32_t C, uint32_t K) {
    constexpr uint32_t SIDE = 32;  // FLIPPED_TILE in src/ops/conv.rs
    SHARED(float, tile, SIDE * (SIDE + 1));
    const uint32_t tap = blockIdx.z, first_c = blockIdx.y * SIDE, first_k = blockIdx.x * SIDE;
    const uint32_t rows = least(SIDE, C - first_c), columns = least(SIDE, K - first_k);
    const uint32_t warp = thread() / WARP, lane = thread() % WARP;
    const T* RESTRICT from = filters + ((uint64_t(taps - 1 - tap) * C + first_c) * K + first_k);
    T* RESTRICT to = flipped + ((uint64_t(tap) * K + first_k) * C + first_c);
    for (uint32_t c = warp; c < rows; c += WARPS) {
        INDEPENDENT
        for (uint32_t k = lane; k < columns; k += WARP) tile[c * (SIDE + 1) + k] = from[uint64_t(c) * K + k];
    }
    barrier();
    for (uint32_t k = warp; k < columns; k += WARPS) {
        INDEPENDENT
        for (uint32_t c = lane; c < rows; c += WARP) to[uint64_t(k) * C + c] = tile[c * (SIDE + 1) + k];
    }
}

// Adds up the parts that a weight gradient left, in a launch of its own.
KERNEL_ONCE(256, 0) conv_sum_parts_f32(float* RESTRICT dweight,      // (left.len)
                                       float* RESTRICT dbias,        // (left.more) or null
                                       const float* RESTRICT parts,  // (left.count, left.len + left.more)
                                       PartsArgument left) {
    PartSums{dweight, dbias, parts, left}.add<BLOCK>(blockIdx.x);
}
