// The functions of zgan_kernels.h, from the kernel files that the program itself is built from (src/build/host.rs).
#include "zgan_kernels.h"

#define ZGAN_HOST
#define PRECISION f32
#define PRECISION_F32 1
namespace {
#include "../log_partition.cu"
}

int zgan_log_partition_f32(float* statistics, float* seed_d, float* seed_g, const float* real, const float* fake, float sign,
                           uint32_t n, uint32_t m) {
    const bool all = statistics && seed_d && seed_g && real && fake;
    if (!all || n == 0 || m == 0 || uint64_t(n) + m > 0x7fffffff) return 1;
    log_partition_one_f32(statistics, seed_d, seed_g, real, fake, sign, 1.0f, float(n) + float(m), 0, n, m);
    return 0;
}
