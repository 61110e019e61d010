// Convolution with 3 x 3 filters, a padding of 1 and a stride of 1, in f32 on a CPU, by Winograd's minimal filtering F(4 x 4, 3 x 3): a
// quarter of the multiplications of kernels/conv.cu, and about twice its rounding error. device/winograd.h has the transforms. The
// products, what is fused into them, and all shapes are those of kernels/conv.cu, of which this is another form:
//
//   y[tile] = A^T (sum over c of (G w[c][k] G^T) * (B^T v[tile][c] B)) A              each tile 4 x 4 pixels of y, 6 x 6 of v
//   dv      = the same with g in the place of v, and filters that are turned around: w[2 - r][2 - s][c][k] from k to c
//   dw += G^T (sum over tiles of (A g[tile][k] A^T) * (B^T v[tile][c] B)) G           by parts of the images, added in order
//   db += sum over pixels of g
//
// C and K are multiples of 16. Transformed filters are (outputs / 16, 36, depth + 1, 16): the last row is empty, so that planes do not
// lie at powers of two. A block transforms a strip of rows of tiles, multiplies it with all filters, one of the 36 points
// after the other, and transforms back, so that what lies between stays in its core's cache. Each sum over channels is one chain in
// their order, so no result depends on how many rows a strip has.
//
// A GPU's tensor cores beat this form, so it has none of it.
#include "device/execution.h"
#include "device/math.h"
#include "device/number.h"
#include "device/winograd.h"

// For src/build/source.rs.
#define EXECUTIONS(...)
EXECUTIONS(host, simt)

#if defined(ZGAN_SIMT)
#define ROOM(name, floats) SHARED(float, name, floats)
#else
#define ROOM(name, floats) float* const name = static_cast<float*>(zgan_host_scratch(uint64_t(floats) * sizeof(float)))
#endif

// `Tiles` in src/ops/winograd.rs has the same fields. The images have `down` rows of `across` tiles.
struct Tiles { uint32_t N, H, W, C, K, across, down; };

// The transformed filters of output channels 16 blockIdx.x to + 16, and of as many input channels from 16 blockIdx.y on. `turned`: for the
// input gradient, whose input channels are the K and whose output channels are the C.
KERNEL(1, 0) winograd_filters_f32(float* RESTRICT transformed,    // (K / 16, 36, C + 1, 16); turned: C and K exchanged
                                  const float* RESTRICT filters,  // (3, 3, C, K)
                                  uint32_t C, uint32_t K, uint32_t turned) {
    SHARED(float, square, 9 * PANEL * PANEL);
    const uint32_t depth = turned ? K : C, first = blockIdx.y * PANEL, output = blockIdx.x * PANEL;
    for (uint32_t tap = 0; turned && tap < 9; tap++) {
        const float* const from = filters + ((uint64_t(8 - tap) * C + output) * K + first);
        float* const to = square + tap * (PANEL * PANEL);
#if defined(ZGAN_HOST)
        for (int i = 0; i < PANEL; i += VECTOR)
            for (int j = 0; j < PANEL; j += VECTOR) transpose_square(to + j * PANEL + i, PANEL, from + i * uint64_t(K) + j, K);
#else
        for (int i = 0; i < PANEL; i++)
            for (int j = 0; j < PANEL; j++) to[j * PANEL + i] = from[i * uint64_t(K) + j];
#endif
    }
    // Where the filters are that are transformed: those of a tap, and those of a channel within.
    const float* const from = turned ? square : filters + (uint64_t(first) * K + output);
    const uint64_t tap = turned ? PANEL * PANEL : uint64_t(C) * K, channel = turned ? PANEL : K;
    const uint64_t plane = uint64_t(depth + 1) * PANEL;
    float* const to = transformed + blockIdx.x * POINTS * plane + first * PANEL;
    for (uint32_t c = 0; c < PANEL; c++) {
        for (int j = 0; j < PARTS; j++) {
            const uint32_t at = c * PANEL + j * VECTOR;
            const float* const own = from + c * channel + j * VECTOR;
            transform_square<OfFilters>([=](int r, int s) { return load_vector(own + (r * 3 + s) * tap); },
                                        [=](int i, int x, Vector u) { store_vector(to + (i * PIXELS + x) * plane + at, u); });
        }
    }
}

// Rows of tiles blockIdx.x * each .. + each, all output channels.
APART void multiply_strip(const Finish& finish, const Reading& reading, const float* transformed, const Tiles& tiles, uint32_t each) {
    // So many tiles are finished at a time.
    constexpr uint32_t GROUP = 24;
    const uint32_t across = tiles.across, rows = tiles.N * tiles.down, begin = blockIdx.x * each, end = least(begin + each, rows);
    const uint32_t C = reading.C, count = (end - begin) * across;
    const uint64_t stride = pitch(C), plane = apart(uint64_t(each) * across * stride), sums_plane = GROUP * PANEL + 16;
    ROOM(v, POINTS * plane + POINTS * sums_plane + PIXELS * (across * OUTPUTS + 2) * PANEL);
    float *const sums = v + POINTS * plane, *const stage = sums + POINTS * sums_plane;
    for (uint32_t row = begin; row < end; row++)
        transform_row<OfPixels>(v + uint64_t(row - begin) * across * stride, plane, stride, PANEL, stage, reading, row / tiles.down, row % tiles.down, across, 0, C, nullptr);
    const uint64_t filter_plane = uint64_t(C + 1) * PANEL;
    for (uint32_t k = 0; k < finish.K; k += PANEL) {
        Place place = {0, begin % tiles.down, begin / tiles.down}, ahead = place;
        for (uint32_t t = 0; t < count; t += GROUP) {
            const uint32_t some = least(GROUP, count - t);
            for (uint32_t p = 0, fetched = 0; p < POINTS; p++) {
                for (; fetched < (p + 1) * some / POINTS; fetched++, ahead.advance(across, tiles.down)) fetch_ahead(finish, ahead, k);
                multiply_all_tiles(sums + p * sums_plane, v + p * plane + t * stride, stride, transformed + (k / PANEL * POINTS + p) * filter_plane, some, C);
            }
            finish_tiles(finish, sums, sums_plane, place, some, across, tiles.down, k);
            place = ahead;
        }
    }
}

KERNEL(1, 0) winograd_forward_f32(float* RESTRICT y,                  // (N, H, W, K); where it pools, with half of H and W
                                  const float* RESTRICT x,            // (N, H, W, C); where `up` is 1, with half of H and W
                                  const float* RESTRICT scale,        // (1 or N, C) or null
                                  const float* RESTRICT shift,        // (1 or N, C) or null
                                  const float* RESTRICT transformed,  // (K / 16, 36, C + 1, 16)
                                  const float* RESTRICT bias,         // (K) or null
                                  const float* RESTRICT residual,     // as y, or null
                                  Activation before, uint32_t up, uint32_t table_stride, Activation after, uint32_t accumulate, uint32_t pool, Tiles tiles, uint32_t each) {
    const Reading reading = {x, nullptr, scale, shift, nullptr, before, up, table_stride, 1.0f, tiles.H, tiles.W, tiles.C};
    multiply_strip({y, bias, residual, nullptr, 1.0f, after, accumulate, pool, 0.25f, tiles.H, tiles.W, tiles.K}, reading, transformed, tiles, each);
}

KERNEL(1, 0) winograd_input_gradient_f32(float* RESTRICT dx,                 // (N, H, W, C); where `up` is 1, with half of H and W
                                         const float* RESTRICT dy,           // (N, H, W, K); where the output is pooled, with half of H and W
                                         const float* RESTRICT transformed,  // (C / 16, 36, K + 1, 16), turned
                                         const float* RESTRICT y,            // as dy, or null
                                         const float* RESTRICT row_scale,    // (N) or null
                                         const float* RESTRICT x,            // as dx, or null
                                         Activation after, uint32_t pooled, float slope, uint32_t accumulate, uint32_t up, Tiles tiles, uint32_t each) {
    const Activation none = {0, 1.0f};
    const Reading reading = {dy, y, nullptr, nullptr, row_scale, y ? after : none, pooled, 0, pooled ? 0.25f : 1.0f, tiles.H, tiles.W, tiles.K};
    multiply_strip({dx, nullptr, nullptr, x, slope, none, accumulate, up, 1.0f, tiles.H, tiles.W, tiles.C}, reading, transformed, tiles, each);
}

// A block sums over the images from blockIdx.z * images on, `images` of them at most, for at most SIDE channels c and SIDE channels k. Those
// of the first channels c also sum dbias up. A strip has `each` rows of tiles.
KERNEL(1, 0) winograd_weight_gradient_f32(float* RESTRICT dweight,          // (3, 3, C, K)
                                          float* RESTRICT dbias,            // (K) or null
                                          float* RESTRICT parts,            // (gridDim.z, 3, 3, C, K and behind that, where there is a dbias, K); null where gridDim.z is 1
                                          const float* RESTRICT x,          // (N, H, W, C); where `up` is 1, with half of H and W
                                          const float* RESTRICT scale,      // (1 or N, C) or null
                                          const float* RESTRICT shift,      // (1 or N, C) or null
                                          const float* RESTRICT dy,         // (N, H, W, K); where the output is pooled, with half of H and W
                                          const float* RESTRICT y,          // as dy, or null
                                          const float* RESTRICT row_scale,  // (N) or null
                                          Activation before, uint32_t up, uint32_t table_stride, Activation after, uint32_t pooled, Tiles tiles, uint32_t images, uint32_t each) {
    constexpr uint32_t SIDE = 64;  // in src/ops/winograd.rs, too
    const Activation none = {0, 1.0f};
    const Reading pixels = {x, nullptr, scale, shift, nullptr, before, up, table_stride, 1.0f, tiles.H, tiles.W, tiles.C};
    const Reading gradients = {dy, y, nullptr, nullptr, row_scale, y ? after : none, pooled, 0, pooled ? 0.25f : 1.0f, tiles.H, tiles.W, tiles.K};
    const uint32_t C = tiles.C, K = tiles.K, across = tiles.across, down = tiles.down;
    const uint32_t c = blockIdx.y * SIDE, k = blockIdx.x * SIDE, channels = least(SIDE, C - c), outputs = least(SIDE, K - k);
    const uint32_t begin = blockIdx.z * images * down, end = least(blockIdx.z * images + images, tiles.N) * down;
    const uint64_t most = uint64_t(each) * across, v_plane = apart(most * channels), g_plane = apart(most * outputs), plane = apart(uint64_t(channels) * outputs);
    ROOM(v, POINTS * (v_plane + g_plane + plane) + PIXELS * (across * OUTPUTS + 2) * PANEL + SIDE);
    float *const g = v + POINTS * v_plane, *const sums = g + POINTS * g_plane, *const stage = sums + POINTS * plane;
    float* const bias = stage + PIXELS * (across * OUTPUTS + 2) * PANEL;
    for (uint64_t i = 0; i < POINTS * plane; i++) sums[i] = 0.0f;
    for (uint32_t i = 0; i < outputs; i++) bias[i] = 0.0f;
    for (uint32_t first = begin; first < end; first += each) {
        const uint32_t last = least(first + each, end), count = (last - first) * across;
        for (uint32_t row = first; row < last; row++) {
            const uint64_t t = uint64_t(row - first) * across;
            transform_row<OfPixels>(v + t * channels, v_plane, channels, PANEL, stage, pixels, row / down, row % down, across, c, channels, nullptr);
            transform_row<OfGradients>(g + t * PANEL, g_plane, PANEL, most * PANEL, stage, gradients, row / down, row % down, across, k, outputs, bias);
        }
        for (int p = 0; p < POINTS; p++)
            for (uint32_t panel = 0; panel < outputs / PANEL; panel++)
                multiply_all_channels(sums + p * plane + panel * channels * PANEL, v + p * v_plane, channels, g + p * g_plane + panel * most * PANEL, count, channels);
    }
    const bool split = gridDim.z > 1;
    const uint64_t len = uint64_t(9) * C * K, part = blockIdx.z * (len + (dbias ? K : 0));
    float* const to = split ? parts + part : dweight;
    for (uint32_t panel = 0; panel < outputs / PANEL; panel++) {
        for (uint32_t i = 0; i < channels; i++) {
            for (int j = 0; j < PARTS; j++) {
                const float* const from = sums + (panel * channels + i) * PANEL + j * VECTOR;
                float* const at = to + (c + i) * uint64_t(K) + k + panel * PANEL + j * VECTOR;
                const uint64_t tap = uint64_t(C) * K;
                transform_square<ToFilters>([=](int p, int q) { return load_vector(from + (p * PIXELS + q) * plane); },
                                            [=](int r, int s, Vector d) {
                                                float* const here = at + (r * 3 + s) * tap;
                                                store_vector(here, split ? d : load_vector(here) + d);
                                            });
            }
        }
    }
    if (!dbias || c > 0) return;
    float* const to_bias = split ? parts + part + len : dbias;
    for (uint32_t i = 0; i < outputs; i++) to_bias[k + i] = (split ? 0.0f : to_bias[k + i]) + bias[i];
}
