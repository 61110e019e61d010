// Batch norm over features, plain and class-conditional, with the activation after it.
//
//   x (N, P, C): P pixels a sample, 1 in a linear layer; R = N P rows; one mean and variance per channel over all rows
//   xhat = (x - mean) rstd, rstd = 1 / sqrt(var + eps), var = sum (x - mean)^2 / R
//   z = gamma xhat + beta = scale x + shift, scale = gamma rstd, shift = beta - mean scale
//   y = act(z), perhaps with every pixel repeated 2 x 2
//
//   scale, shift (S, C): S = 1, or, where labels (N) pick rows of gamma, beta (classes, C), S = N. These tables are
//   what `apply` and a convolution's fetch take, from batch statistics and from running ones alike.
//
//   g = act'(z) dy (dy summed over the 2 x 2)     dbeta[k] += sum of g over rows of label k     dgamma[k] += sum of g xhat
//   dx = scale g - rstd / R (sum of gamma g + xhat sum of gamma g xhat), sums over all rows
//
// dgamma and dbeta accumulate. dx overwrites, or accumulates where asked: a residual block adds two gradients.
// Saved by forward: mean, rstd (C), scale, shift. A label beyond the classes counts as the last class.
// running_mean, running_var move by `momentum` towards this batch's, the variance being sum / (R - 1), as in PyTorch;
// for a single row, where that does not exist, towards 0.
//
// A block has `chunk` rows of at most COLUMNS channels; sums are taken per block about the block's own mean
// and joined by Chan's formula, so that an offset common to all values costs no digits of the variance.
//   Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, T. Chan et al., 1979.
//
// Traffic: statistics read x once (its second pass over a block's rows comes from cache); backward reads x and dy twice.
#include "device/execution.h"
#include "device/activation.h"
#include "device/columns.h"
#include "device/number.h"

PRECISIONS(f32, bf16, f16)

// Of column j over the tile's rows: moments[j] = mean, moments[COLUMNS + j] = sum (x - mean)^2, moments[2 COLUMNS + j] = what
// rounding took from the mean. The second pass over the rows also sums the deviations themselves, which corrects all three.
CALLED void tile_moments(float* moments, const Tile& tile, const T* RESTRICT x, uint32_t C) {
    SHARED(float, sums, COLUMNS);
    SHARED(float, deviations, 2 * COLUMNS);
    const bool runs = in_runs(C, x);
    column_sum_runs<1>(sums, tile, runs, [=](uint64_t row, auto at, auto* v) { v[0] = at.get(x + row * C); });
    const float share = 1.0f / float(tile.rows);
    const float* RESTRICT mean = sums;
    each_column(tile.columns, [=](Index j) { sums[j] *= share; });
    barrier();
    const uint64_t first = tile.column;
    column_sum_runs<2>(deviations, tile, runs, [=](uint64_t row, auto at, auto* v) {
        v[0] = at.of([](float x, float mean) { return x - mean; }, x + row * C, at.from(first).get(mean));
        v[1] = at.of([](float d) { return d * d; }, v[0]);
    });
    each_column(tile.columns, [=](Index j) {
        const float left = deviations[j] * share;
        moments[j] = sums[j] + left;
        moments[2 * COLUMNS + j] = left - (moments[j] - sums[j]);
        moments[COLUMNS + j] = at_least(0.0f, deviations[COLUMNS + j] - deviations[j] * left);
    });
    barrier();
}

// body gets a function label(s), the class of table row s, which is 0 where there are no labels; it is chosen outside the loops.
template <class Body> DEVICE void with_labels(const uint32_t* RESTRICT labels, uint32_t classes, Body body) {
    if (labels == nullptr) body([](uint64_t) { return uint64_t(0); });
    else body([=](uint64_t s) { return uint64_t(labels[s] < classes ? labels[s] : classes - 1); });
}

// The tables of one tile of channels from mean and rstd, for all S samples (1: plain).
CALLED void tile_tables(float* RESTRICT scale, float* RESTRICT shift, const float* mean, const float* rstd, const Tile& columns,
                        const float* RESTRICT gamma, const float* RESTRICT beta, const uint32_t* RESTRICT labels,
                        uint32_t S, uint32_t C, uint32_t classes) {
    const Tile tile = {0, S, columns.column, columns.columns};
    with_labels(labels, classes, [=](auto label) {
        each(tile, [=](uint64_t s, uint64_t c) {
            const uint64_t k = label(s) * C + c;
            const float slope = gamma[k] * rstd[c - tile.column];
            scale[s * C + c] = slope;
            shift[s * C + c] = beta[k] - mean[c - tile.column] * slope;
        });
    });
}

// Everything that follows from a tile's moments over all rows.
CALLED void finish(float* RESTRICT scale, float* RESTRICT shift, float* RESTRICT mean, float* RESTRICT rstd,
                   float* RESTRICT running_mean, float* RESTRICT running_var, float* moments, const Tile& tile,
                   const float* RESTRICT gamma, const float* RESTRICT beta, const uint32_t* RESTRICT labels,
                   float eps, float momentum, uint32_t R, uint32_t S, uint32_t C, uint32_t classes) {
    const uint64_t first = tile.column;
    const float share = 1.0f / float(R), unbiased = 1.0f / float(R > 1 ? R - 1 : 1);
    each_column(tile.columns, [=](Index j) {
        const float squares = moments[COLUMNS + j];
        if (running_mean != nullptr) {
            running_mean[first + j] += momentum * (moments[j] - running_mean[first + j]);
            running_var[first + j] += momentum * (squares * unbiased - running_var[first + j]);
        }
        moments[COLUMNS + j] = 1.0f / square_root(squares * share + eps);
        mean[first + j] = moments[j];
        rstd[first + j] = moments[COLUMNS + j];
    });
    barrier();
    tile_tables(scale, shift, moments, moments + COLUMNS, tile, gamma, beta, labels, S, C, classes);
}

KERNEL(256, 4) PRECISE(norm_statistics_one)(float* RESTRICT scale,          // (S, C)
                                            float* RESTRICT shift,          // (S, C)
                                            float* RESTRICT mean,           // (C)
                                            float* RESTRICT rstd,           // (C)
                                            float* RESTRICT running_mean,   // (C) or null
                                            float* RESTRICT running_var,    // (C) or null
                                            const T* RESTRICT x,            // (R, C)
                                            const float* RESTRICT gamma,    // (classes, C)
                                            const float* RESTRICT beta,     // (classes, C)
                                            const uint32_t* RESTRICT labels, // (S) or null
                                            float eps, float momentum, uint32_t R, uint32_t S, uint32_t C, uint32_t classes) {
    SHARED(float, moments, 3 * COLUMNS);
    const Tile tile = group_tile(R, R, 1, C).tile;
    tile_moments(moments, tile, x, C);
    finish(scale, shift, mean, rstd, running_mean, running_var, moments, tile, gamma, beta, labels, eps, momentum, R, S, C, classes);
}

// Where there are more rows than one block takes: stage 1 of 2.
KERNEL(256, 0) PRECISE(norm_moments)(float* RESTRICT partials,  // (3, splits, C): the moments of each split
                                     const T* RESTRICT x,       // (R, C)
                                     uint32_t R, uint32_t C, uint32_t chunk, uint32_t splits) {
    SHARED(float, moments, 3 * COLUMNS);
    const GroupTile block = group_tile(R, chunk, splits, C);
    tile_moments(moments, block.tile, x, C);
    float* const to = partials + uint64_t(block.part) * C + block.tile.column;
    const uint64_t second = uint64_t(splits) * C;
    const float* from = moments;
    each_column(block.tile.columns, [=](Index j) {
        to[j] = from[j];
        to[second + j] = from[COLUMNS + j];
        to[2 * second + j] = from[2 * COLUMNS + j];
    });
}

// Stage 2 of 2. The first `larger` splits have `chunk` rows, the others `rest`. With n_b rows and mean_b in split b:
// mean = mean_0 + shift, shift = sum n_b (mean_b - mean_0) / R, sum of squares = sum over b of its own + n_b (mean_b - mean_0 - shift)^2.
KERNEL_ONCE(256, 0) norm_statistics_many_f32(float* RESTRICT scale,          // (S, C)
                                             float* RESTRICT shift,          // (S, C)
                                             float* RESTRICT mean,           // (C)
                                             float* RESTRICT rstd,           // (C)
                                             float* RESTRICT running_mean,   // (C) or null
                                             float* RESTRICT running_var,    // (C) or null
                                             const float* RESTRICT partials, // (3, splits, C)
                                             const float* RESTRICT gamma,    // (classes, C)
                                             const float* RESTRICT beta,     // (classes, C)
                                             const uint32_t* RESTRICT labels, // (S) or null
                                             float eps, float momentum, uint32_t R, uint32_t S, uint32_t C, uint32_t classes,
                                             uint32_t chunk, uint32_t rest, uint32_t larger, uint32_t splits) {
    SHARED(float, moments, 2 * COLUMNS);
    SHARED(float, sums, COLUMNS);
    const Tile tile = group_tile(splits, splits, 1, C).tile;
    const uint64_t first = tile.column;
    const float share = 1.0f / float(R);
    const auto count = [=](uint64_t b) { return float(b < larger ? chunk : rest); };
    const auto above_first = [=](uint64_t b, uint64_t c) {
        return (partials[b * C + c] - partials[c]) + partials[(b + 2 * splits) * C + c];
    };
    column_sum<1, true>(sums, tile, [=](uint64_t b, uint64_t c, float* v) { v[0] = count(b) * above_first(b, c); });
    float* const joined = moments;
    each_column(tile.columns, [=](Index j) {
        joined[COLUMNS + j] = sums[j] * share;
        joined[j] = partials[first + j] + joined[COLUMNS + j];
    });
    barrier();
    column_sum<1, true>(sums, tile, [=](uint64_t b, uint64_t c, float* v) {
        const float d = above_first(b, c) - joined[COLUMNS + c - first];
        v[0] = partials[(b + splits) * C + c] + count(b) * (d * d);
    });
    each_column(tile.columns, [=](Index j) { joined[COLUMNS + j] = sums[j]; });
    barrier();
    finish(scale, shift, mean, rstd, running_mean, running_var, moments, tile, gamma, beta, labels, eps, momentum, R, S, C, classes);
}

// In evaluation: the tables from running statistics.
KERNEL_ONCE(256, 0) norm_tables_f32(float* RESTRICT scale,              // (S, C)
                                    float* RESTRICT shift,              // (S, C)
                                    const float* RESTRICT running_mean, // (C)
                                    const float* RESTRICT running_var,  // (C)
                                    const float* RESTRICT gamma,        // (classes, C)
                                    const float* RESTRICT beta,         // (classes, C)
                                    const uint32_t* RESTRICT labels,    // (S) or null
                                    float eps, uint32_t S, uint32_t C, uint32_t classes) {
    SHARED(float, moments, 2 * COLUMNS);
    const Tile tile = group_tile(S, S, 1, C).tile;
    const uint64_t first = tile.column;
    float* const to = moments;
    each_column(tile.columns, [=](Index j) {
        to[j] = running_mean[first + j];
        to[COLUMNS + j] = 1.0f / square_root(running_var[first + j] + eps);
    });
    barrier();
    tile_tables(scale, shift, moments, moments + COLUMNS, tile, gamma, beta, labels, S, C, classes);
}

// body gets the flag as a type, so that the choice is made outside the loops.
template <class Body> DEVICE void with_flag(bool flag, Body body) {
    if (flag) body(Yes());
    else body(No());
}
// The row of y with the top left pixel of the 2 x 2 for `row` of x; `width` is x's. The next row is the pixel to its right, and
// 2 width rows on are the two below.
DEVICE uint64_t upsampled_row(uint64_t row, uint32_t width) {
    const uint32_t line = uint32_t(row) / width, w = uint32_t(row) % width;
    return 4 * (uint64_t(line) * width) + 2 * w;
}

// body(is_tanh, activation, runs) with tanh told apart outside the loops. It takes so long that runs are not worth their code.
template <class Body> DEVICE void without_tanh(uint32_t code, float slope, bool runs, Body body) {
    with_flag(code == 2, [=](auto is_tanh) {
        body(is_tanh, Activation{is_tanh.value ? 2u : code == 1 ? 1u : 0u, slope}, runs && !is_tanh.value);
    });
}

KERNEL(256, 4) PRECISE(norm_apply)(T* RESTRICT y,               // (R, C), or (4 R, C) where width is not 0
                                   const T* RESTRICT x,         // (R, C)
                                   const float* RESTRICT scale, // (groups, C)
                                   const float* RESTRICT shift, // (groups, C)
                                   uint32_t activation, float slope, uint32_t span, uint32_t C, uint32_t chunk, uint32_t splits, uint32_t width) {
    const GroupTile block = group_tile(span, chunk, splits, C);
    const float* RESTRICT a = scale + uint64_t(block.group) * C;
    const float* RESTRICT b = shift + uint64_t(block.group) * C;
    without_tanh(activation, slope, in_runs(C, y, x, a, b), [=](auto, Activation activation, bool runs) {
        with_activation(activation, [=](auto act) {
            const auto value = [=](uint64_t row, auto at) {
                return at.of([=](float x, float a, float b) { return act(a * x + b); }, x + row * C, a, b);
            };
            if (width == 0) {
                each_run(block.tile, runs, value, [=](uint64_t row, auto at, auto pixel) { at.put(y + row * C, pixel); });
                return;
            }
            each_run(block.tile, runs, value, [=](uint64_t row, auto at, auto pixel) {
                T* const to = y + upsampled_row(row, width) * C;
                at.put(to, pixel);
                at.put(to + C, pixel);
                at.put(to + 2 * uint64_t(width) * C, pixel);
                at.put(to + (2 * uint64_t(width) + 1) * C, pixel);
            });
        });
    });
}

// body gets gradient(row, at) = dL/dz as a function, chosen outside the loops, whether columns come in runs, and what its loops are
// to call before each row.
// Where the derivative costs much, as that of tanh does, the latter computes the gradients of a row, and the former looks them up:
// the loops of `body` are then compiled once for it, with upsampling or without.
template <class Body>
DEVICE void with_gradient(const Tile& tile, const T* RESTRICT dy, const T* RESTRICT x, const float* RESTRICT scale,
                          const float* RESTRICT shift, uint32_t code, float leak, bool runs, uint32_t C, uint32_t width, Body body) {
    const auto gradient = [=](auto slope, auto upsampled) {
        return [=](uint64_t row, auto at) {
            if constexpr (decltype(upsampled)::value) {
                const T* const top = dy + upsampled_row(row, width) * C;
                const T* const bottom = top + 2 * uint64_t(width) * C;
                return at.of([=](float x, float scale, float shift, float a, float b, float c, float d) {
                    return slope(scale * x + shift) * ((a + b) + (c + d));
                }, x + row * C, scale, shift, top, top + C, bottom, bottom + C);
            } else {
                return at.of([=](float x, float scale, float shift, float d) { return slope(scale * x + shift) * d; },
                             x + row * C, scale, shift, dy + row * C);
            }
        };
    };
    without_tanh(code, leak, runs, [=](auto, Activation activation, bool runs) {
        with_slope(activation, [=](auto slope, auto costly) {
            if constexpr (costly.value) {
                SHARED(float, values, COLUMNS);
                float* const of_row = values;
                const uint64_t tile_column = tile.column;
                const auto before_row = [=](uint64_t row, uint64_t first, uint32_t count) {
                    float* const to = of_row + (first - tile_column);
                    with_flag(width != 0, [=](auto upsampled) {
                        const auto value = gradient(slope, upsampled);
                        each_column(count, [=](Index j) { to[j] = value(row, One{first + j}); });
                    });
                };
                body([=](uint64_t, auto at) { return of_row[at.column - tile_column]; }, runs, before_row);
            } else {
                with_flag(width != 0, [=](auto upsampled) { body(gradient(slope, upsampled), runs, Nothing()); });
            }
        });
    });
}

KERNEL(256, 2) PRECISE(norm_backward_sums)(float* RESTRICT partials,    // (2, parts, C): sum of g, sum of g xhat
                                           const T* RESTRICT dy,        // (R, C), or (4 R, C) where width is not 0
                                           const T* RESTRICT x,         // (R, C)
                                           const float* RESTRICT mean,  // (C)
                                           const float* RESTRICT rstd,  // (C)
                                           const float* RESTRICT scale, // (groups, C)
                                           const float* RESTRICT shift, // (groups, C)
                                           uint32_t activation, float slope, uint32_t span, uint32_t C, uint32_t chunk, uint32_t splits, uint32_t width) {
    SHARED(float, sums, 2 * COLUMNS);
    const GroupTile block = group_tile(span, chunk, splits, C);
    const uint64_t table = uint64_t(block.group) * C;
    float* const to_sums = sums;
    const bool runs = in_runs(C, dy, x, mean, rstd, scale, shift);
    with_gradient(block.tile, dy, x, scale + table, shift + table, activation, slope, runs, C, width, [=](auto gradient, bool runs, auto before_row) {
        const auto terms = [=](uint64_t row, auto at, auto* v) {
            v[0] = gradient(row, at);
            v[1] = at.of([](float g, float x, float mean, float rstd) { return g * (x - mean) * rstd; }, v[0], x + row * C, mean, rstd);
        };
        column_sum_runs<2>(to_sums, block.tile, runs, terms, before_row);
    });
    float* const to = partials + uint64_t(block.part) * C + block.tile.column;
    const uint64_t second = uint64_t(block.parts) * C;
    each_column(block.tile.columns, [=](Index j) {
        to[j] = to_sums[j];
        to[second + j] = to_sums[COLUMNS + j];
    });
}

// A grid of tiles of channels, for each group where there are labels.
KERNEL_ONCE(256, 4) norm_backward_finish_f32(float* RESTRICT dgamma,          // (classes, C)
                                             float* RESTRICT dbeta,           // (classes, C)
                                             float* RESTRICT coefficients,    // (2, C): rstd / R times the two sums of dx
                                             const float* RESTRICT partials,  // (2, parts, C)
                                             const float* RESTRICT rstd,      // (C)
                                             const float* RESTRICT gamma,     // (classes, C)
                                             const uint32_t* RESTRICT labels, // (groups) or null
                                             uint32_t R, uint32_t C, uint32_t classes, uint32_t parts, uint32_t splits) {
    SHARED(float, sums, 2 * COLUMNS);
    const GroupTile block = group_tile(parts, parts, 1, C);
    const Tile tile = {0, parts, block.tile.column, block.tile.columns};
    const uint64_t first = tile.column, second = uint64_t(parts) * C;
    const uint32_t group = block.part;
    float* const from = sums;
    with_labels(labels, classes, [=](auto label) {
        if (group == 0) {
            column_sum<2>(from, tile, [=](uint64_t part, uint64_t c, float* v) {
                const float weight = gamma[label(uint32_t(part) / splits) * C + c];
                v[0] = weight * partials[part * C + c];
                v[1] = weight * partials[second + part * C + c];
            });
            each_column(tile.columns, [=](Index j) {
                const float share = rstd[first + j] / float(R);
                coefficients[first + j] = share * from[j];
                coefficients[C + first + j] = share * from[COLUMNS + j];
            });
        }
        // The first group of each class sums for all that have the same.
        const uint64_t own = label(group);
        bool is_first = true;
        for (uint32_t earlier = 0; earlier < group; earlier++) is_first &= label(earlier) != own;
        if (is_first) {
            column_sum<2>(from, tile, [=](uint64_t part, uint64_t c, float* v) {
                const bool same = label(uint32_t(part) / splits) == own;
                v[0] = same ? partials[part * C + c] : 0.0f;
                v[1] = same ? partials[second + part * C + c] : 0.0f;
            });
            each_column(tile.columns, [=](Index j) {
                dbeta[own * C + first + j] += from[j];
                dgamma[own * C + first + j] += from[COLUMNS + j];
            });
        }
    });
}

KERNEL(256, 2) PRECISE(norm_input_gradient)(T* RESTRICT dx,                     // (R, C)
                                            const T* RESTRICT dy,               // (R, C), or (4 R, C) where width is not 0
                                            const T* RESTRICT x,                // (R, C)
                                            const float* RESTRICT mean,         // (C)
                                            const float* RESTRICT rstd,         // (C)
                                            const float* RESTRICT scale,        // (groups, C)
                                            const float* RESTRICT shift,        // (groups, C)
                                            const float* RESTRICT coefficients, // (2, C)
                                            uint32_t activation, float slope, uint32_t accumulate,
                                            uint32_t span, uint32_t C, uint32_t chunk, uint32_t splits, uint32_t width) {
    const GroupTile block = group_tile(span, chunk, splits, C);
    const uint64_t table = uint64_t(block.group) * C;
    const bool runs = in_runs(C, dx, dy, x, mean, rstd, scale, shift, coefficients);
    with_gradient(block.tile, dy, x, scale + table, shift + table, activation, slope, runs, C, width, [=](auto gradient, bool runs, auto before_row) {
        with_flag(accumulate != 0, [=](auto add) {
            const auto value = [=](uint64_t row, auto at) {
                const auto d = at.of([](float g, float x, float mean, float rstd, float scale, float a, float b) {
                    return scale * g - (a + (x - mean) * rstd * b);
                }, gradient(row, at), x + row * C, mean, rstd, scale + table, coefficients, coefficients + C);
                if constexpr (decltype(add)::value) return at.of([](float before, float d) { return before + d; }, dx + row * C, d);
                else return d;
            };
            each_run(block.tile, runs, value, [=](uint64_t row, auto at, auto d) { at.put(dx + row * C, d); }, before_row);
        });
    });
}
