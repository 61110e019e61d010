// The losses of a discriminator whose logits say "real" when high: values and per-sample seeds, in one launch.
//
//   real logits r_i (N), fake logits f_j (M); s is softplus, sigma its derivative, the sigmoid; means over the batch
//
//   code                       L_D                                        L_G
//   0 hinge                    mean max(0, 1 - r) + mean max(0, 1 + f)    -mean f
//   1 non-saturating           mean s(-r) + mean s(f)                     mean s(-f)
//   2 minimax                  mean s(-r) + mean s(f)                     -mean s(f), which is mean log(1 - sigma(f))
//   3 least squares            mean (r - 1)^2 / 2 + mean f^2 / 2          mean (f - 1)^2 / 2
//   4 Wasserstein              mean f - mean r                            -mean f
//   5 relativistic average     mean s(F - r) + mean s(f - R)              mean s(r - F) + mean s(R - f)
//   6 relativistic hinge       mean h(F - r) + mean h(f - R)              mean h(r - F) + mean h(R - f),  h(x) = max(0, 1 + x)
//
//   with R = mean r, F = mean f. Seeds are derivatives with respect to each logit, so of (0) to (4) they are those of
//   the term over N or M. At a hinge's corner the derivative is 0, as in PyTorch. In (5) and (6) every logit also moves a
//   mean; with A = mean sigma(F - r) and B = mean sigma(f - R), where sigma is h' in (6):
//
//       dL_D/dr_i = -(sigma(F - r_i) + B) / N     dL_D/df_j = (sigma(f_j - R) + A) / M
//       dL_G/df_j = -(sigma(R - f_j) + mean sigma(r - F)) / M
//
//   L_G of (5) and (6) depends on the real logits too, but no gradient of theirs reaches G: there is no seed for them.
//   Hinge: Miyato et al. 2018; (1), (2): Goodfellow et al. 2014; (3): Mao et al. 2017, targets 1 and 0;
//   (4): Arjovsky et al. 2017; (5), (6): Jolicoeur-Martineau 2018, the standard RaGAN and the RaHingeGAN.
//
// Outputs overwrite. statistics = L_D, L_G, mean real logit, mean fake logit. One block whatever N and M: a batch has
// some thousands of logits at most, and more are right, only slower. (0) to (4) read each logit once, (5) and (6) three times.
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"

// Sums are taken over this many logits at a time: a running f32 sum of millions would drop their last bits.
constexpr uint32_t RUN = 8192;

template <int K, class Value> DEVICE void long_sum(float (&result)[K], uint32_t n, Value value) {
    for (int k = 0; k < K; k++) result[k] = 0.0f;
    for (uint32_t begin = 0; begin < n; begin += RUN) {
        float part[K];
        block_sum(part, n - begin < RUN ? n - begin : RUN, [&](auto i, float* v) { value(begin + i, v); });
        for (int k = 0; k < K; k++) result[k] += part[k];
    }
}

struct Term { float value, slope; };
struct Terms { Term d, g; };

// softplus and sigmoid of x and of -x from one exponential; small sigmoids keep their relative precision.
struct Logistic { float plus, minus, sigma, sigma_minus; };
DEVICE Logistic logistic(float x) {
    const float e = exp(-absolute(x)), rest = log(1.0f + e), large = 1.0f / (1.0f + e), small = e * large;
    const bool positive = x > 0.0f;
    return {(positive ? x : 0.0f) + rest, (positive ? 0.0f : -x) + rest, positive ? large : small,
            positive ? small : large};
}

// The two functions that a relativistic loss may be made of, at x and at -x, each with its derivative there.
struct Soft { static MEMBER Logistic at(float x) { return logistic(x); } };
struct Hard {
    static MEMBER Logistic at(float x) {
        return {at_least(0.0f, 1.0f + x), at_least(0.0f, 1.0f - x), x <= -1.0f ? 0.0f : 1.0f, x >= 1.0f ? 0.0f : 1.0f};
    }
};

struct Hinge {
    static MEMBER Term real(float r) { return {at_least(0.0f, 1.0f - r), r >= 1.0f ? 0.0f : -1.0f}; }
    static MEMBER Terms fake(float f) { return {{at_least(0.0f, 1.0f + f), f <= -1.0f ? 0.0f : 1.0f}, {-f, -1.0f}}; }
};
struct LeastSquares {
    static MEMBER Term real(float r) { return {0.5f * (r - 1.0f) * (r - 1.0f), r - 1.0f}; }
    static MEMBER Terms fake(float f) { return {{0.5f * f * f, f}, {0.5f * (f - 1.0f) * (f - 1.0f), f - 1.0f}}; }
};
struct Wasserstein {
    static MEMBER Term real(float r) { return {-r, -1.0f}; }
    static MEMBER Terms fake(float f) { return {{f, 1.0f}, {-f, -1.0f}}; }
};

DEVICE void finish(float* statistics, float loss_d, float loss_g, float real, float fake) {
    if (thread() == 0) {
        statistics[0] = loss_d;
        statistics[1] = loss_g;
        statistics[2] = real;
        statistics[3] = fake;
    }
}

template <class Loss>
DEVICE void separate(float* statistics, float* RESTRICT seed_d, float* RESTRICT seed_g, const float* RESTRICT real,
                     const float* RESTRICT fake, uint32_t N, uint32_t M) {
    const float n = 1.0f / float(N), m = 1.0f / float(M);
    float of_real[2], of_fake[3];
    long_sum(of_real, N, [&](auto i, float* v) {
        const Term term = Loss::real(real[i]);
        seed_d[i] = n * term.slope;
        v[0] = term.value;
        v[1] = real[i];
    });
    float* const seed_d_fake = seed_d + N;
    long_sum(of_fake, M, [&](auto j, float* v) {
        const Terms terms = Loss::fake(fake[j]);
        seed_d_fake[j] = m * terms.d.slope;
        seed_g[j] = m * terms.g.slope;
        v[0] = terms.d.value;
        v[1] = terms.g.value;
        v[2] = fake[j];
    });
    finish(statistics, of_real[0] * n + of_fake[0] * m, of_fake[1] * m, of_real[1] * n, of_fake[2] * m);
}

// Losses (1), (2) and (5) are made of softplus of x = logit - mean, where `mean` is that of the other side in (5) and 0 in the
// others; (6) is (5) with h. Seeds are derivatives times a factor. softplus_real gives the sums over the real logits, softplus_fake
// the means over the fake ones. RELATIVE is (5) and (6); the others also want the sum or mean of the logits themselves.
template <bool RELATIVE, class Function>
DEVICE void softplus_real(float (&sums)[RELATIVE ? 4 : 2], float* RESTRICT seed_d, const float* RESTRICT real, float mean,
                          float factor, uint32_t N) {
    long_sum(sums, N, [&](auto i, float* v) {
        const Logistic l = Function::at(real[i] - mean);
        seed_d[i] = factor * l.sigma_minus;
        v[0] = l.minus;
        if constexpr (RELATIVE) {
            v[1] = l.plus;
            v[2] = l.sigma_minus;
            v[3] = l.sigma;
        } else {
            v[1] = real[i];
        }
    });
}
template <bool RELATIVE, class Function>
CALLED void softplus_fake(float (&means)[3], float* RESTRICT seed_d, float* RESTRICT seed_g, const float* RESTRICT fake,
                          float mean, float factor_d, float factor_g, uint32_t M) {
    long_sum(means, M, [&](auto j, float* v) {
        const Logistic l = Function::at(fake[j] - mean);
        seed_d[j] = factor_d * l.sigma;
        seed_g[j] = factor_g * l.sigma_minus;
        v[0] = l.plus;
        v[1] = l.minus;
        v[2] = RELATIVE ? l.sigma : fake[j];
    });
    for (int k = 0; k < 3; k++) means[k] *= 1.0f / float(M);
}

// Losses (1) and (2). In minimax, (2), G's terms are D's on the fakes with the other sign. Here and in (5) a thread changes only
// seeds that it wrote itself, so no barrier is needed between.
DEVICE void softplus(float* statistics, float* RESTRICT seed_d, float* RESTRICT seed_g, const float* RESTRICT real,
                     const float* RESTRICT fake, bool minimax, uint32_t N, uint32_t M) {
    const float n = 1.0f / float(N), m = 1.0f / float(M);
    float of_real[2], of_fake[3];
    softplus_real<false, Soft>(of_real, seed_d, real, 0.0f, -n, N);
    float* const seed_d_fake = seed_d + N;
    softplus_fake<false, Soft>(of_fake, seed_d_fake, seed_g, fake, 0.0f, m, -m, M);
    if (minimax) {
        INDEPENDENT
        for (uint32_t j = thread(); j < M; j += BLOCK) seed_g[j] = -seed_d_fake[j];
    }
    finish(statistics, of_real[0] * n + of_fake[0], minimax ? 0.0f - of_fake[0] : of_fake[1], of_real[1] * n, of_fake[2]);
}

// The seeds hold each sample's own derivative until the mean over the other side is known.
template <class Function>
DEVICE void relativistic(float* statistics, float* RESTRICT seed_d, float* RESTRICT seed_g, const float* RESTRICT real,
                         const float* RESTRICT fake, uint32_t N, uint32_t M) {
    const float n = 1.0f / float(N), m = 1.0f / float(M);
    float sum_real[1], sum_fake[1], of_real[4], of_fake[3];
    long_sum(sum_real, N, [&](auto i, float* v) { v[0] = real[i]; });
    long_sum(sum_fake, M, [&](auto j, float* v) { v[0] = fake[j]; });
    const float mean_real = sum_real[0] * n, mean_fake = sum_fake[0] * m;
    softplus_real<true, Function>(of_real, seed_d, real, mean_fake, 1.0f, N);
    float* const seed_d_fake = seed_d + N;
    softplus_fake<true, Function>(of_fake, seed_d_fake, seed_g, fake, mean_real, 1.0f, 1.0f, M);
    const float a = of_real[2] * n, b = of_fake[2], c = of_real[3] * n;
    INDEPENDENT
    for (uint32_t i = thread(); i < N; i += BLOCK) seed_d[i] = -n * (seed_d[i] + b);
    INDEPENDENT
    for (uint32_t j = thread(); j < M; j += BLOCK) {
        seed_d_fake[j] = m * (seed_d_fake[j] + a);
        seed_g[j] = -m * (seed_g[j] + c);
    }
    finish(statistics, of_real[0] * n + of_fake[0], of_real[1] * n + of_fake[1], mean_real, mean_fake);
}

KERNEL(256, 0) losses_f32(float* RESTRICT statistics,  // (4)
                          float* RESTRICT seed_d,      // (N + M)
                          float* RESTRICT seed_g,      // (M)
                          const float* RESTRICT real,  // (N)
                          const float* RESTRICT fake,  // (M)
                          uint32_t loss,               // the code above
                          uint32_t N, uint32_t M) {
    switch (loss) {
        case 0: separate<Hinge>(statistics, seed_d, seed_g, real, fake, N, M); break;
        case 1:
        case 2: softplus(statistics, seed_d, seed_g, real, fake, loss == 2, N, M); break;
        case 3: separate<LeastSquares>(statistics, seed_d, seed_g, real, fake, N, M); break;
        case 4: separate<Wasserstein>(statistics, seed_d, seed_g, real, fake, N, M); break;
        case 5: relativistic<Soft>(statistics, seed_d, seed_g, real, fake, N, M); break;
        default: relativistic<Hard>(statistics, seed_d, seed_g, real, fake, N, M); break;
    }
}
