// Softmax cross-entropy of class logits, values and gradients together.
//
//   lse_n = m_n + ln sum over k of exp(x[n,k] - m_n),  m_n = max over k of x[n,k]
//   L     = weight / N * sum over n of (lse_n - x[n,y_n])
//   dx[n,k] = weight / N * (exp(x[n,k] - lse_n) - (k == y_n))
//
// x (N, classes), labels y (N). A sample without a label (any number >= classes) adds nothing to L, has no gradient and counts as
// wrong; N includes it. statistics = L, and the number of samples whose largest logit (of equal ones the first) is their label.
// All outputs overwrite. Two launches: in the first a warp takes a row, in the second one block sums the rows. x is read three
// times, the second and third time from cache.
#include "device/execution.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/rows.h"

// Grid (row ranges).
KERNEL(256, 0) cross_entropy_rows_f32(float* RESTRICT dx,               // (N, classes)
                                      float* RESTRICT losses,           // (N)
                                      float* RESTRICT correct,          // (N): 1 or 0
                                      const float* RESTRICT x,          // (N, classes)
                                      const uint32_t* RESTRICT labels,  // (N)
                                      float scale,                      // weight / N
                                      uint32_t N, uint32_t classes, uint32_t rows) {
    const uint32_t begin = blockIdx.x * rows, count = N - begin < rows ? N - begin : rows;
    for_each_row(count, [&](uint32_t r) {
        const uint32_t n = begin + r, label = labels[n];
        const float* const row = x + uint64_t(n) * classes;
        float* const to = dx + uint64_t(n) * classes;
        const float m = row_maximum(classes, [&](auto k) { return row[k]; });
        const float sum = row_sum(classes, [&](auto k) { return to[k] = exp(row[k] - m); });
        const float first = -row_maximum(classes, [&](auto k) { return row[k] == m ? -float(k) : -INFINITY; });
        const bool present = is_class(label, classes);
        const float share = present ? scale / sum : 0.0f;
        for_each_column(classes, [&](uint32_t k) { to[k] *= share; });
        warp_barrier();
        if (row_leader()) {
            if (present) to[label] -= scale;
            losses[n] = present ? (m - row[label]) + log(sum) : 0.0f;
            correct[n] = present && first == float(label) ? 1.0f : 0.0f;
        }
    });
}

// Grid (1).
KERNEL(256, 0) cross_entropy_sum_f32(float* RESTRICT statistics,     // (2)
                                     const float* RESTRICT losses,   // (N)
                                     const float* RESTRICT correct,  // (N)
                                     float scale, uint32_t N) {
    float sums[2];
    block_sum(sums, N, [&](auto n, float* v) {
        v[0] = losses[n];
        v[1] = correct[n];
    });
    if (thread() == 0) {
        statistics[0] = scale * sums[0];
        statistics[1] = sums[1];
    }
}
