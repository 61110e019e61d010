/* Kernels of zgan for programs in other languages, on a CPU: libzgan_kernels.so, which scripts/dist ships and scripts/c-library
 * makes. It needs nothing but the C library, keeps no state, and may be called from several threads at once. */
#ifndef ZGAN_KERNELS_H
#define ZGAN_KERNELS_H

#include <stdint.h>

#if defined(__GNUC__)
#define ZGAN_API __attribute__((visibility("default")))
#else
#define ZGAN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Softmax GAN's losses and their gradients, from one softmax over the logits of n real and m fake samples (kernels/log_partition.cu
 * has the formulas). `sign` is 1 where a low logit means real, as in the paper, and -1 where a high one does.
 *
 *   statistics (4)      L_D, L_G, mean real logit, mean fake logit
 *   seed_d     (n + m)  the gradient of L_D with respect to each logit, the real ones first
 *   seed_g     (m)      the gradient of L_G with respect to each fake logit
 *
 * Arrays are the caller's, and none may overlap another. Gives 0, or 1 without writing anything: where a pointer is null, where n or
 * m is 0, or where n + m is more than 2^31 - 1. */
ZGAN_API int zgan_log_partition_f32(float *statistics, float *seed_d, float *seed_g, const float *real, const float *fake,
                                    float sign, uint32_t n, uint32_t m);

#ifdef __cplusplus
}
#endif

#endif
