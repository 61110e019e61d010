/* A C program that calls libzgan_kernels.so and compares with float64: it ends with 0, or says what is wrong. */
#include "zgan_kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST = 10000 };
static float real[MOST], fake[MOST], statistics[4], seed_d[2 * MOST], seed_g[MOST];

/* Within a few units in the last place of `scale`. */
static int check(const char *what, unsigned i, double found, double expected, double scale) {
    if (fabs(found - expected) <= 1e-6 * scale) return 0;
    printf("%s %u: %.9g, expected %.9g\n", what, i, found, expected);
    return 1;
}

static int compare(unsigned n, unsigned m, float sign, float offset) {
    int wrong = 0;
    double most = -INFINITY, sum = 0.0, of_real = 0.0, of_fake = 0.0, mean_real = 0.0, mean_fake = 0.0;
    unsigned i;
    for (i = 0; i < n; i++) real[i] = (float)(rand() % 2001 - 1000) / 300.0f + offset;
    for (i = 0; i < m; i++) fake[i] = (float)(rand() % 2001 - 1000) / 200.0f + offset;
    if (zgan_log_partition_f32(statistics, seed_d, seed_g, real, fake, sign, n, m) != 0) {
        printf("%u + %u logits are refused\n", n, m);
        return 1;
    }
    for (i = 0; i < n + m; i++) most = fmax(most, -(double)sign * (i < n ? real[i] : fake[i - n]));
    for (i = 0; i < n + m; i++) {
        const double x = (double)sign * (i < n ? real[i] : fake[i - n]);
        sum += exp(-x - most);
        *(i < n ? &of_real : &of_fake) += x + most;
        *(i < n ? &mean_real : &mean_fake) += sign * x;
    }
    wrong += check("L_D", 0, statistics[0], of_real / n + log(sum), 10.0);
    wrong += check("L_G", 0, statistics[1], (of_real + of_fake) / (n + m) + log(sum), 10.0);
    wrong += check("mean real logit", 0, statistics[2], mean_real / n, 10.0 + fabs(offset));
    wrong += check("mean fake logit", 0, statistics[3], mean_fake / m, 10.0 + fabs(offset));
    for (i = 0; i < n + m; i++) {
        const double x = (double)sign * (i < n ? real[i] : fake[i - n]), p = exp(-x - most) / sum;
        wrong += check("dL_D", i, seed_d[i], sign * ((i < n ? 1.0 / n : 0.0) - p), 1.0);
        if (i >= n) wrong += check("dL_G", i - n, seed_g[i - n], sign * (1.0 / (n + m) - p), 1.0);
    }
    return wrong;
}

int main(void) {
    int wrong = compare(1, 1, 1.0f, 0.0f) + compare(64, 64, -1.0f, 0.0f) + compare(37, 500, 1.0f, 1e4f) +
                compare(MOST, MOST - 1, -1.0f, -30.0f);
    statistics[0] = 7.0f;
    if (zgan_log_partition_f32(statistics, seed_d, seed_g, real, fake, 1.0f, 0, 1) != 1 ||
        zgan_log_partition_f32(statistics, seed_d, seed_g, real, fake, 1.0f, 1, 0) != 1 ||
        zgan_log_partition_f32(statistics, seed_d, seed_g, real, fake, 1.0f, 2147483647u, 2147483647u) != 1 ||
        zgan_log_partition_f32(statistics, seed_d, 0, real, fake, 1.0f, 1, 1) != 1 || statistics[0] != 7.0f) {
        printf("what cannot be is not refused\n");
        wrong++;
    }
    return wrong != 0;
}
