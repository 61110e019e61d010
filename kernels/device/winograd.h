// Winograd's minimal filtering F(4 x 4, 3 x 3), the one-dimensional transforms of it and the products between them, for vectors of
// neighbouring channels (A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, 2015, after S. Winograd, 1980).
//
// A row of 6 pixels d and a filter g of 3 taps give 4 outputs, y[i] = sum over r of d[i + r] g[r], by 6 products instead of 12:
//   y = A^T ((G g) * (B^T d))          * multiplies element by element
// Transposed, the same matrices give the filter's gradient: dg = G^T ((A dy) * (B^T d)). With both dimensions one after the other, 6 x 6
// pixels give 4 x 4 outputs by 36 products instead of 144, each of which is a matrix product over channels once many tiles of 6 x 6 are
// transformed.
//
// The matrices follow from the points at which polynomials are multiplied: 0, a, -a, b, -b and infinity. With c = a^2 and e = b^2:
//          c e      0  -c - e       0   1  0              1         0           0                   1  1   1  1   1  0
//            0   -a e      -e       a   1  0              n         n a         n c                 0  a  -a  b  -b  0
//   B^T =    0    a e      -e      -a   1  0        G =   n        -n a         n c          A^T =  0  c   c  e   e  0
//            0   -b c      -c       b   1  0              m         m b         m e                 0 ac -ac be -be  1
//            0    b c      -c      -b   1  0              m        -m b         m e
//            0    c e       0  -c - e   0  1              0         0           1
// but for the first row of G, which is (1 / (c e), 0, 0); n = 1 / (2 c (c - e)), m = 1 / (2 e (e - c)).
// With a = 5/8 and b = 3/2 rounding errs half as much as with the textbook's 1 and 2.
#pragma once
#include "activation.h"
#include "tile.h"

#if defined(ZGAN_SIMT)
typedef float Vector __attribute__((vector_size(16)));
typedef float VectorInMemory __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Lanes32 __attribute__((vector_size(16)));
constexpr int VECTOR = 4;
DEVICE Vector load_vector(const float* from) { return *reinterpret_cast<const VectorInMemory*>(from); }
DEVICE void store_vector(float* to, Vector value) { *reinterpret_cast<VectorInMemory*>(to) = value; }
#define ALONE APART
#endif

// Channels go in panels of so many, whatever the width of a vector.
constexpr int PANEL = 16, PARTS = PANEL / VECTOR;
// The outputs and the pixels of a tile in a row, and the points.
constexpr int OUTPUTS = 4, PIXELS = 6, POINTS = PIXELS * PIXELS;
// The rows of a product that registers hold at a time: tiles, or channels.
#if defined(__AVX512F__)
constexpr int MOST_TILES = 12, CHANNELS = 16;
#elif defined(__AVX2__)
constexpr int MOST_TILES = 6, CHANNELS = 6;
#elif defined(__aarch64__)
constexpr int MOST_TILES = 4, CHANNELS = 4;
#else
constexpr int MOST_TILES = 2, CHANNELS = 2;
#endif

constexpr float POINT_A = 0.625f, POINT_B = 1.5f, AA = POINT_A * POINT_A, BB = POINT_B * POINT_B;
constexpr float SCALE_0 = 1 / (AA * BB), SCALE_A = 1 / (2 * AA * (AA - BB)), SCALE_B = 1 / (2 * BB * (BB - AA));

// B^T: of pixels.
struct OfPixels {
    static constexpr int TAKES = 6, GIVES = 6;
    static constexpr bool SUMS = false;
    static MEMBER void apply(const Vector (&d)[6], Vector (&v)[6]) {
        const Vector even_a = d[4] - BB * d[2], odd_a = d[3] - BB * d[1], even_b = d[4] - AA * d[2], odd_b = d[3] - AA * d[1];
        v[0] = d[4] - (AA + BB) * d[2] + (AA * BB) * d[0];
        v[1] = even_a + POINT_A * odd_a;
        v[2] = even_a - POINT_A * odd_a;
        v[3] = even_b + POINT_B * odd_b;
        v[4] = even_b - POINT_B * odd_b;
        v[5] = d[5] - (AA + BB) * d[3] + (AA * BB) * d[1];
    }
};
// A: of the gradients of outputs.
struct OfGradients {
    static constexpr int TAKES = 4, GIVES = 6;
    static constexpr bool SUMS = true;
    static MEMBER void apply(const Vector (&y)[4], Vector (&m)[6]) {
        const Vector even_a = y[0] + AA * y[2], odd_a = y[1] + AA * y[3], even_b = y[0] + BB * y[2], odd_b = y[1] + BB * y[3];
        m[0] = y[0];
        m[1] = even_a + POINT_A * odd_a;
        m[2] = even_a - POINT_A * odd_a;
        m[3] = even_b + POINT_B * odd_b;
        m[4] = even_b - POINT_B * odd_b;
        m[5] = y[3];
    }
};
// A^T: of products, to outputs.
struct ToOutputs {
    static constexpr int TAKES = 6, GIVES = 4;
    static MEMBER void apply(const Vector (&m)[6], Vector (&y)[4]) {
        const Vector even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
        y[0] = m[0] + even_a + even_b;
        y[1] = POINT_A * odd_a + POINT_B * odd_b;
        y[2] = AA * even_a + BB * even_b;
        y[3] = (AA * POINT_A) * odd_a + ((BB * POINT_B) * odd_b + m[5]);
    }
};
// G: of filters.
struct OfFilters {
    static constexpr int TAKES = 3, GIVES = 6;
    static MEMBER void apply(const Vector (&g)[3], Vector (&u)[6]) {
        const Vector even_a = SCALE_A * g[0] + (SCALE_A * AA) * g[2], odd_a = (SCALE_A * POINT_A) * g[1];
        const Vector even_b = SCALE_B * g[0] + (SCALE_B * BB) * g[2], odd_b = (SCALE_B * POINT_B) * g[1];
        u[0] = SCALE_0 * g[0];
        u[1] = even_a + odd_a;
        u[2] = even_a - odd_a;
        u[3] = even_b + odd_b;
        u[4] = even_b - odd_b;
        u[5] = g[2];
    }
};
// G^T: of products, to the gradient of a filter.
struct ToFilters {
    static constexpr int TAKES = 6, GIVES = 3;
    static MEMBER void apply(const Vector (&u)[6], Vector (&g)[3]) {
        const Vector even_a = u[1] + u[2], odd_a = u[1] - u[2], even_b = u[3] + u[4], odd_b = u[3] - u[4];
        g[0] = SCALE_0 * u[0] + SCALE_A * even_a + SCALE_B * even_b;
        g[1] = (SCALE_A * POINT_A) * odd_a + (SCALE_B * POINT_B) * odd_b;
        g[2] = (SCALE_A * AA) * even_a + (SCALE_B * BB) * even_b + u[5];
    }
};
// Both dimensions of a square: load(i, j) gives the elements, store(i, j, v) takes the results.
template <class Step, class Load, class Store> DEVICE void transform_square(Load load, Store store) {
    Vector half[Step::GIVES][Step::TAKES];
    UNROLL
    for (int j = 0; j < Step::TAKES; j++) {
        Vector from[Step::TAKES], to[Step::GIVES];
        UNROLL
        for (int i = 0; i < Step::TAKES; i++) from[i] = load(i, j);
        Step::apply(from, to);
        UNROLL
        for (int i = 0; i < Step::GIVES; i++) half[i][j] = to[i];
    }
    UNROLL
    for (int i = 0; i < Step::GIVES; i++) {
        Vector to[Step::GIVES];
        Step::apply(half[i], to);
        UNROLL
        for (int j = 0; j < Step::GIVES; j++) store(i, j, to[j]);
    }
}

// m (R, PANEL) = v (R rows, `stride` apart, of C) u (C, PANEL). C is a multiple of PANEL.
template <int R> ALONE void multiply_tiles(float* m, const float* v, uint64_t stride, const float* u, uint64_t C) {
    Vector sum[R][PARTS] = {};
    const float* row[R];
    UNROLL
    for (int i = 0; i < R; i++) row[i] = v + i * stride;
    for (uint64_t c = 0; c < C; c += 4, u += 4 * PANEL) {
        UNROLL
        for (int x = 0; x < 4; x++) {
            Vector b[PARTS];
            UNROLL
            for (int j = 0; j < PARTS; j++) b[j] = load_vector(u + x * PANEL + j * VECTOR);
            UNROLL
            for (int i = 0; i < R; i++) {
                const float a = row[i][c + x];
                UNROLL
                for (int j = 0; j < PARTS; j++) sum[i][j] += a * b[j];
            }
        }
    }
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int j = 0; j < PARTS; j++) store_vector(m + i * PANEL + j * VECTOR, sum[i][j]);
}
// sums (R, PANEL) += v (T rows, `stride` apart, of R)^T g (T, PANEL).
template <int R> ALONE void multiply_channels(float* sums, const float* v, uint64_t stride, const float* g, uint32_t T) {
    Vector sum[R][PARTS];
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int j = 0; j < PARTS; j++) sum[i][j] = load_vector(sums + i * PANEL + j * VECTOR);
    UNROLL_FOUR
    for (uint32_t t = 0; t < T; t++, v += stride, g += PANEL) {
        Vector b[PARTS];
        UNROLL
        for (int j = 0; j < PARTS; j++) b[j] = load_vector(g + j * VECTOR);
        UNROLL
        for (int i = 0; i < R; i++) {
            const float a = v[i];
            UNROLL
            for (int j = 0; j < PARTS; j++) sum[i][j] += a * b[j];
        }
    }
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int j = 0; j < PARTS; j++) store_vector(sums + i * PANEL + j * VECTOR, sum[i][j]);
}
// How many rows to multiply next of `left`: no few are left over at the end, for which the registers would be mostly empty.
DEVICE uint32_t next_rows(uint32_t left, uint32_t most) {
    return left > most && left < 2 * most && left - most < most / 2 ? (left + 1) / 2 : least(left, most);
}
template <int R> DEVICE void multiply_some_tiles(uint32_t rows, float* m, const float* v, uint64_t stride, const float* u, uint64_t C) {
    if constexpr (R > 0) {
        if (rows == R) multiply_tiles<R>(m, v, stride, u, C);
        else multiply_some_tiles<R - 1>(rows, m, v, stride, u, C);
    }
}
// The same for T rows.
DEVICE void multiply_all_tiles(float* m, const float* v, uint64_t stride, const float* u, uint32_t T, uint64_t C) {
    for (uint32_t t = 0; t < T;) {
        const uint32_t rows = next_rows(T - t, MOST_TILES);
        multiply_some_tiles<MOST_TILES>(rows, m + t * PANEL, v + t * stride, stride, u, C);
        t += rows;
    }
}
// The same for `channels` of them, a multiple of PANEL.
DEVICE void multiply_all_channels(float* sums, const float* v, uint64_t stride, const float* g, uint32_t T, uint32_t channels) {
    for (uint32_t c = 0; c < channels;) {
        const uint32_t rows = next_rows(channels - c, CHANNELS);
        if (rows == CHANNELS) multiply_channels<CHANNELS>(sums + c * PANEL, v + c, stride, g, T);
        else multiply_channels<4>(sums + c * PANEL, v + c, stride, g, T);
        c += rows;
    }
}

// How far planes of so many floats lie apart. A multiple of 4,096 bytes would put the same place of all planes into the same few sets
// of the cache.
DEVICE uint64_t apart(uint64_t floats) {
    floats = (floats + 15) / 16 * 16;
    return floats % 1024 < 64 || floats % 1024 > 960 ? floats + 80 : floats;
}
DEVICE uint64_t pitch(uint32_t channels) { return channels >= 128 ? channels + 16 : channels; }

// What is transformed: an image of which each number is changed as it is read. Exactly one of the three:
//   output null: act(scale x + shift)     scale and shift null: 1 and 0
//   otherwise:   x act'(output)
// times row_scale[n] (null: 1) times `part`. Where `half` is 1, the image is stored with half as many rows and columns.
struct Reading {
    const float* x;
    const float* output;
    const float* scale;
    const float* shift;
    const float* row_scale;
    Activation activation;
    uint32_t half, table_stride;
    float part;
    uint32_t H, W, C;
};
struct AsStored {
    MEMBER Vector operator()(const float* from, int) const { return load_vector(from); }
};
struct Scaled {
    Vector scale[PARTS], shift[PARTS];
    float slope;
    MEMBER Vector operator()(const float* from, int j) const {
        const Vector x = load_vector(from) * scale[j] + shift[j], below = slope * x;
        return x > below ? x : below;
    }
};
struct Derived {
    uint64_t output;  // how many bytes behind x the output lies
    Activation activation;
    float share;
    MEMBER Vector operator()(const float* from, int) const {
        const Vector y = load_vector(reinterpret_cast<const float*>(reinterpret_cast<uint64_t>(from) + output)), x = load_vector(from);
        const Vector zero = {}, one = zero + 1.0f, below = zero + activation.slope;
        const Vector derivative = activation.code == 2 ? one - y * y : y <= zero ? below : one;
        return x * derivative * share;
    }
};
// The vertical half, for a panel of channels: stage[i][w] = row i of Step times column w of the rows that `lines` point to. There are
// `columns` of those, each of which counts `twice` where it stands for two pixels. Rows that are not there count as zero.
template <class Step, bool ALL, class Read>
DEVICE void transform_columns(float* stage, uint64_t line, const float* const* lines, const bool* there, uint32_t columns, bool twice, uint64_t channels, Read read, float* sums) {
    const float* from[Step::TAKES];
    Lanes32 kept[Step::TAKES];
    UNROLL
    for (int i = 0; i < Step::TAKES; i++) {
        from[i] = lines[i];
        kept[i] = Lanes32{} - int32_t(there[i]);
    }
    Vector sum[PARTS] = {};
    uint64_t at = 0;
    for (uint32_t w = 0; w < columns; w++, at += channels) {
        UNROLL
        for (int j = 0; j < PARTS; j++) {
            Vector d[Step::TAKES], t[Step::GIVES];
            UNROLL
            for (int i = 0; i < Step::TAKES; i++) {
                d[i] = read(from[i] + at + j * VECTOR, j);
                if (!ALL) d[i] = Vector(Lanes32(d[i]) & kept[i]);
                if (Step::SUMS) sum[j] += d[i];
            }
            Step::apply(d, t);
            UNROLL
            for (int i = 0; i < Step::GIVES; i++) store_vector(stage + i * line + j * VECTOR, t[i]);
            if (!twice) continue;
            UNROLL
            for (int i = 0; i < Step::GIVES; i++) store_vector(stage + i * line + PANEL + j * VECTOR, t[i]);
        }
        stage += twice ? 2 * PANEL : PANEL;
    }
    if (Step::SUMS)
        for (int j = 0; j < PARTS; j++) store_vector(sums + j * VECTOR, load_vector(sums + j * VECTOR) + (twice ? sum[j] + sum[j] : sum[j]));
}
template <class Step, class Read>
DEVICE void transform_columns(float* stage, uint64_t line, const float* const* lines, const bool* there, uint32_t columns, bool twice, uint64_t channels, Read read, float* sums) {
    bool all = true;
    for (int i = 0; i < Step::TAKES; i++) all = all && there[i];
    if (all) transform_columns<Step, true>(stage, line, lines, there, columns, twice, channels, read, sums);
    else transform_columns<Step, false>(stage, line, lines, there, columns, twice, channels, read, sums);
}
// Transforms a row of `across` tiles, row `down` of tiles of image n, and the channels first .. first + count: the tile at t, the point
// p and the channel first + c go to to[p * plane + t * tile + c / PANEL * panel + c % PANEL]. What is read is also added to
// sums[c], where the step says so.
template <class Step>
APART void transform_row(float* to, uint64_t plane, uint64_t tile, uint64_t panel, float* stage, const Reading& reading, uint32_t n, uint32_t down, uint32_t across, uint32_t first, uint32_t count, float* sums) {
    const uint32_t H = reading.H, W = reading.W, half = reading.half, before = Step::TAKES == 6 ? 1 : 0;
    const uint32_t columns = across * OUTPUTS + 2 * before;
    const uint64_t C = reading.C, line = uint64_t(columns) * PANEL;
    bool there[Step::TAKES];
    const float* lines[Step::TAKES];
    for (uint32_t i = 0; i < Step::TAKES; i++) {
        const uint32_t h = down * OUTPUTS + i - before;  // huge above the image
        there[i] = h < H;
        lines[i] = reading.x + (uint64_t(n) * (H >> half) + ((there[i] ? h : 0) >> half)) * (W >> half) * C + first;
    }
    for (uint32_t i = 0; i < Step::GIVES; i++) {
        for (uint32_t x = 0; x < before * PANEL; x++) stage[i * line + x] = 0.0f;
        for (uint64_t x = uint64_t(before + W) * PANEL; x < line; x++) stage[i * line + x] = 0.0f;
    }
    const float share = (reading.row_scale ? reading.row_scale[n] : 1.0f) * reading.part;
    float* const inside = stage + before * PANEL;
    for (uint32_t c = 0; c < count; c += PANEL, to += panel) {
        if (reading.output) {
            const Derived read = {reinterpret_cast<uint64_t>(reading.output) - reinterpret_cast<uint64_t>(reading.x), reading.activation, share};
            transform_columns<Step>(inside, line, lines, there, W >> half, half, C, read, sums + c);
        } else if (reading.scale || reading.activation.code != 0 || share != 1.0f) {
            Scaled read;
            const uint64_t at = uint64_t(n) * reading.table_stride + first + c;
            for (int j = 0; j < PARTS; j++) {
                read.scale[j] = reading.scale ? load_vector(reading.scale + at + j * VECTOR) : Vector{} + share;
                read.shift[j] = reading.scale ? load_vector(reading.shift + at + j * VECTOR) : Vector{};
            }
            read.slope = reading.activation.code == 0 ? 1.0f : reading.activation.slope;
            transform_columns<Step>(inside, line, lines, there, W >> half, half, C, read, sums + c);
        } else {
            transform_columns<Step>(inside, line, lines, there, W >> half, half, C, AsStored(), sums + c);
        }
        for (int i = 0; i < Step::GIVES; i++) {
            for (uint32_t t = 0; t < across; t++) {
                const float* const from = stage + i * line + t * (OUTPUTS * PANEL);
                UNROLL
                for (int j = 0; j < PARTS; j++) {
                    Vector d[Step::TAKES], v[Step::GIVES];
                    UNROLL
                    for (int x = 0; x < Step::TAKES; x++) d[x] = load_vector(from + x * PANEL + j * VECTOR);
                    Step::apply(d, v);
                    UNROLL
                    for (int x = 0; x < Step::GIVES; x++) store_vector(to + (i * PIXELS + x) * plane + t * tile + j * VECTOR, v[x]);
                }
            }
        }
        for (int i = 0; i < Step::TAKES; i++) lines[i] += PANEL;
    }
}

// What happens to finished sums: y = act(share sum over a window (z) + bias + residual) * mask, or added to y. A window is 2 x 2 pixels
// or, where `windows` is 0, one.
struct Finish {
    float* y;
    const float* bias;      // null: 0
    const float* residual;  // null: 0
    const float* masked_by; // x, of which act_x' is the mask, or null
    float mask_slope;       // where x <= 0
    Activation activation;
    uint32_t accumulate, windows;
    float share;
    uint32_t H, W, K;       // the sizes of z
    MEMBER bool simple() const { return !residual && !masked_by && activation.code != 2 && !accumulate && !windows; }
};
// Of one tile, `rows` by `columns` pixels of which exist, the channels k .. k + PANEL: points[p * plane] are its sums.
DEVICE void finish_simple_tile(const Finish& finish, float* to, const float* points, uint64_t plane, const Vector* bias) {
    const float slope = finish.activation.code == 0 ? 1.0f : finish.activation.slope;
    const uint64_t K = finish.K, line = K * finish.W;
    UNROLL
    for (int j = 0; j < PARTS; j++) {
        transform_square<ToOutputs>([=](int i, int x) { return load_vector(points + (i * PIXELS + x) * plane + j * VECTOR); },
                                    [=](int i, int x, Vector z) {
                                        const Vector y = z + bias[j], below = slope * y;
                                        store_vector(to + i * line + x * K + j * VECTOR, y > below ? y : below);
                                    });
    }
}
APART void finish_any_tile(const Finish& finish, uint64_t pixel, const float* points, uint64_t plane, uint32_t k, uint32_t rows, uint32_t columns, const Vector* bias) {
    Vector z[OUTPUTS * OUTPUTS][PARTS];
    for (int j = 0; j < PARTS; j++) {
        transform_square<ToOutputs>([=](int i, int x) { return load_vector(points + (i * PIXELS + x) * plane + j * VECTOR); },
                                    [&](int i, int x, Vector value) { z[i * OUTPUTS + x][j] = value; });
    }
    const uint32_t window = finish.windows ? 2 : 1;
    const Vector zero = {}, one = zero + 1.0f, mask_slope = zero + finish.mask_slope, slope = zero + finish.activation.slope;
    for (uint32_t i = 0; i < rows; i += window) {
        for (uint32_t x = 0; x < columns; x += window) {
            const Vector(*const v)[PARTS] = z + (i * OUTPUTS + x);
            const uint64_t at = (pixel + (i / window) * uint64_t(finish.W / window) + x / window) * finish.K + k;
            UNROLL
            for (int j = 0; j < PARTS; j++) {
                const uint64_t here = at + j * VECTOR;
                Vector y = v[0][j];
                if (finish.windows) y = finish.share * ((y + v[1][j]) + (v[OUTPUTS][j] + v[OUTPUTS + 1][j]));
                y = y + bias[j];
                if (finish.residual) y = y + load_vector(finish.residual + here);
                if (finish.activation.code == 1) y = y > zero ? y : slope * y;
                if (finish.activation.code == 2)
                    for (int c = 0; c < VECTOR; c++) y[c] = tanh(y[c]);
                if (finish.masked_by) y = y * (load_vector(finish.masked_by + here) <= zero ? mask_slope : one);
                if (finish.accumulate) y = y + load_vector(finish.y + here);
                store_vector(finish.y + here, y);
            }
        }
    }
}
// Where a tile lies, in the order (n, row, column).
struct Place {
    uint32_t column, row, n;
    MEMBER void advance(uint32_t across, uint32_t down) {
        if (++column < across) return;
        column = 0;
        if (++row < down) return;
        row = 0;
        n++;
    }
    // The first of its pixels in y, of which the windows of `finish` each make one.
    MEMBER uint64_t pixel(const Finish& finish) const {
        const uint32_t window = finish.windows ? 2 : 1;
        return (uint64_t(n) * (finish.H / window) + row * OUTPUTS / window) * (finish.W / window) + column * OUTPUTS / window;
    }
    MEMBER uint32_t rows(const Finish& finish) const { return least(OUTPUTS, finish.H - row * OUTPUTS); }
    MEMBER uint32_t columns(const Finish& finish) const { return least(OUTPUTS, finish.W - column * OUTPUTS); }
};
// Begins to fetch into the second-level cache what a tile reads and writes in the end: its pixels lie too far apart for the processor
// to see that coming.
DEVICE void fetch_ahead(const Finish& finish, const Place& place, uint32_t k) {
    const uint32_t window = finish.windows ? 2 : 1, rows = place.rows(finish), columns = place.columns(finish);
    for (uint32_t i = 0; i < rows; i += window) {
        for (uint32_t x = 0; x < columns; x += window) {
            const uint64_t at = (place.pixel(finish) + (i / window) * uint64_t(finish.W / window) + x / window) * finish.K + k;
            __builtin_prefetch(finish.y + at, 1, 2);
            if (finish.masked_by) __builtin_prefetch(finish.masked_by + at, 0, 2);
            if (finish.residual) __builtin_prefetch(finish.residual + at, 0, 2);
        }
    }
}
// The channels k .. k + PANEL of `count` tiles from `place` on.
APART void finish_tiles(const Finish& finish, const float* sums, uint64_t plane, Place place, uint32_t count, uint32_t across, uint32_t down, uint32_t k) {
    const bool simple = finish.simple();
    Vector bias[PARTS] = {};
    if (finish.bias)
        for (int j = 0; j < PARTS; j++) bias[j] = load_vector(finish.bias + k + j * VECTOR);
    for (uint32_t t = 0; t < count; t++, sums += PANEL, place.advance(across, down)) {
        const uint32_t rows = place.rows(finish), columns = place.columns(finish);
        const uint64_t pixel = place.pixel(finish);
        if (simple && rows == OUTPUTS && columns == OUTPUTS) finish_simple_tile(finish, finish.y + pixel * finish.K + k, sums, plane, bias);
        else finish_any_tile(finish, pixel, sums, plane, k, rows, columns, bias);
    }
}
