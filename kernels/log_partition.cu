// The log-partition of Softmax GAN: both losses and both gradients from one softmax over the whole batch.
//
//   x = sign * logit (low means real; a projection head, where high means real, passes sign = -1)
//   real x_i = a_i (N), fake x_j = b_j (M); a real one weighs w in the softmax, 1 by default; K = w N + M
//   m = max(-x), S = w sum over real of exp(-a - m) + sum over fake of exp(-b - m)
//   p_i = w exp(-a_i - m) / S, p_j = exp(-b_j - m) / S
//   L_D = mean(a + m) + ln S                               dL_D/da_i = 1/N - p_i    dL_D/db_j = -p_j
//   target uniform:  L_G = (w sum (a + m) + sum (b + m)) / K + ln S                 dL_G/db_j = 1/K - p_j
//   target zero-sum: L_G = -L_D                                                     dL_G/db_j = p_j
//
// Everything is relative to m: an offset common to all logits changes no bit, where the textbook order loses 1e-3
// of the loss at an offset of 1e4. Whoever reads the statistics subtracts what the losses are compared with:
//   L_D - ln(w N)        the KL divergence of p from D's target, 1/N at each real sample: 0 at least
//   uniform L_G - ln K   that of p from G's target, each sample's weight by K: 0 at least, where all logits are equal
//   zero-sum L_G + ln K  a lower bound of KL(data || the mixture of data and fakes in which data weigh w N / K), from
//                        this batch: 0 where all logits are equal, and a batch's value may lie below
//   Softmax GAN, Min Lin, 2017, equations 3 to 6. docs/softmax-gan.md derives all of it.
//
// Outputs overwrite. Gradients are with respect to the logits (sign included). statistics = L_D, L_G, mean real logit, mean fake
// logit. Up to 8,192 logits (or what `zgan tune` found) one launch of one block reads them once; the exponentials wait in seed_d.
// More logits take two launches of many blocks, which read the logits once and seed_d twice.
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"

// Stores exp(-x - m) of n logits in seed_d. Adds to sums[0] the sum of these times their weight, and the sum of x + m to sums[2] for
// fakes, to sums[1] for real logits. Real and fake logits have a call each, so that each loop is over one array.
DEVICE void exponentials(float (&sums)[3], float* RESTRICT seed_d, const float* RESTRICT logits, float sign, float m, uint32_t n, float weight,
                         bool fake) {
    float part[2];
    block_sum(part, n, [&](Index i, float* v) {
        const float x = sign * logits[i];
        const float deviation = x + m, e = exp_negative(-deviation);
        seed_d[i] = e;
        v[0] = e;
        v[1] = deviation;
    });
    sums[0] += weight * part[0];
    sums[fake ? 2 : 1] += part[1];
}

// Turns exponentials into gradients in place, p = exp * scale. For real logits D's is sign (share - p). For fakes D's is sign (0 - p),
// and G's, which goes to seed_g, sign (share - p), or sign p where the game is zero-sum.
DEVICE void seeds(float* RESTRICT seed_d, float scale, float sign, uint32_t n, float share) {
    const float signed_scale = sign * scale, signed_share = sign * share;
    INDEPENDENT
    for (Index i = thread(); i < n; i += BLOCK) seed_d[i] = signed_share - seed_d[i] * signed_scale;
}
DEVICE void seeds_fake(float* RESTRICT seed_d, float* RESTRICT seed_g, float scale, float sign, uint32_t n, float share,
                        bool zero_sum) {
    const float signed_scale = sign * scale, signed_share = zero_sum ? 0.0f : sign * share, of_p = zero_sum ? -1.0f : 1.0f;
    INDEPENDENT
    for (Index i = thread(); i < n; i += BLOCK) {
        const float minus_q = seed_d[i] * -signed_scale;
        seed_d[i] = minus_q;
        seed_g[i] = signed_share + of_p * minus_q;
    }
}

DEVICE void finish(float* statistics, const float (&sums)[3], float m, float sign, float weight, float K, bool zero_sum, uint32_t N,
                   uint32_t M) {
    const float entropy = log(sums[0]);
    const float real = sums[1] / float(N), fake = sums[2] / float(M);
    if (thread() == 0) {
        statistics[0] = real + entropy;
        statistics[1] = zero_sum ? -(real + entropy) : (weight * sums[1] + sums[2]) / K + entropy;
        statistics[2] = sign * (real - m);
        statistics[3] = sign * (fake - m);
    }
}

KERNEL(256, 0) log_partition_one_f32(float* RESTRICT statistics,   // (4)
                                     float* RESTRICT seed_d,       // (N + M)
                                     float* RESTRICT seed_g,       // (M)
                                     const float* RESTRICT real,   // (N)
                                     const float* RESTRICT fake,   // (M)
                                     float sign,
                                     float weight,                 // w
                                     float K,                      // w N + M
                                     uint32_t zero_sum,            // 1, or 0: the target is uniform
                                     uint32_t N, uint32_t M) {
    const float m = larger(block_maximum(N, [&](Index i) { return -sign * real[i]; }),
                           block_maximum(M, [&](Index i) { return -sign * fake[i]; }));
    float sums[3] = {};
    exponentials(sums, seed_d, real, sign, m, N, weight, false);
    exponentials(sums, seed_d + N, fake, sign, m, M, 1.0f, true);
    seeds(seed_d, weight * (1.0f / sums[0]), sign, N, 1.0f / float(N));
    seeds_fake(seed_d + N, seed_g, 1.0f / sums[0], sign, M, 1.0f / K, zero_sum);
    finish(statistics, sums, m, sign, weight, K, zero_sum, N, M);
}

// Stage 1 of 2. Block b has `chunk` of the N + M logits, the real ones first.
// partials[b] = its own maximum m_b, weighted sum of exp(-x - m_b), sum over its real and over its fake of x + m_b.
KERNEL(256, 0) log_partition_partials_f32(float* RESTRICT partials,   // (blocks, 4)
                                          float* RESTRICT seed_d,     // (N + M): exp(-x - m_b)
                                          const float* RESTRICT real, // (N)
                                          const float* RESTRICT fake, // (M)
                                          float sign, float weight, uint32_t N, uint32_t M, uint32_t chunk) {
    const uint32_t begin = blockIdx.x * chunk, end = begin + chunk < N + M ? begin + chunk : N + M;
    const uint32_t real_end = end < N ? end : N, fake_begin = begin > N ? begin : N;
    const uint32_t reals = real_end > begin ? real_end - begin : 0, fakes = end > fake_begin ? end - fake_begin : 0;
    const float* a = real + begin;
    const float* b = fake + (fake_begin - N);
    const float m = larger(block_maximum(reals, [&](Index i) { return -sign * a[i]; }),
                           block_maximum(fakes, [&](Index i) { return -sign * b[i]; }));
    float sums[3] = {};
    exponentials(sums, seed_d + begin, a, sign, m, reals, weight, false);
    exponentials(sums, seed_d + fake_begin, b, sign, m, fakes, 1.0f, true);
    if (thread() == 0) {
        partials[blockIdx.x * 4 + 0] = m;
        partials[blockIdx.x * 4 + 1] = sums[0];
        partials[blockIdx.x * 4 + 2] = sums[1];
        partials[blockIdx.x * 4 + 3] = sums[2];
    }
}

// Stage 2 of 2: every block joins all partials (the same order everywhere), then turns its own chunk into gradients.
// sum (x + m) = sum over blocks of [sum (x + m_b) + count_b (m - m_b)].
KERNEL(256, 0) log_partition_seeds_f32(float* RESTRICT statistics,     // (4)
                                       float* RESTRICT seed_d,         // (N + M)
                                       float* RESTRICT seed_g,         // (M)
                                       const float* RESTRICT partials, // (gridDim.x, 4)
                                       float sign, float weight, float K, uint32_t zero_sum, uint32_t N, uint32_t M,
                                       uint32_t chunk) {
    const float m = block_maximum(gridDim.x, [&](Index b) { return partials[b * 4]; });
    float sums[3];
    block_sum(sums, gridDim.x, [&](Index b, float* v) {
        const uint32_t begin = b * chunk, end = begin + chunk < N + M ? begin + chunk : N + M;
        const uint32_t real_end = end < N ? end : N;
        const uint32_t reals = real_end > begin ? real_end - begin : 0;
        const float above = m - partials[b * 4];
        v[0] = partials[b * 4 + 1] * exp_negative(-above);
        v[1] = partials[b * 4 + 2] + float(reals) * above;
        v[2] = partials[b * 4 + 3] + float(end - begin - reals) * above;
    });
    const uint32_t begin = blockIdx.x * chunk, end = begin + chunk < N + M ? begin + chunk : N + M;
    const uint32_t real_end = end < N ? end : N, fake_begin = begin > N ? begin : N;
    const float scale = exp(partials[blockIdx.x * 4] - m) / sums[0];
    if (real_end > begin) seeds(seed_d + begin, weight * scale, sign, real_end - begin, 1.0f / float(N));
    if (end > fake_begin)
        seeds_fake(seed_d + fake_begin, seed_g + (fake_begin - N), scale, sign, end - fake_begin, 1.0f / K, zero_sum);
    if (blockIdx.x == 0) finish(statistics, sums, m, sign, weight, K, zero_sum, N, M);
}
