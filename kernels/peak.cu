// Measures the most that any product can reach: multiply-adds between registers, in enough independent chains to hide latency.
//
//   out[i] = x_n, x_0 = i mod 7, x_{j+1} = 0.5 x_j + 1        CHAINS values of every thread of every block
#include "device/execution.h"
#include "device/tile.h"

#if defined(ZGAN_HOST)
constexpr int CHAINS = 12;
typedef Vector Chain;
DEVICE void start(Chain& chain, uint32_t first) { for (int i = 0; i < VECTOR; i++) chain[i] = float((first + i) % 7); }
DEVICE void save(float* to, const Chain& chain) { store_vector(to, chain); }
#else
constexpr int CHAINS = 16, VECTOR = 1;
typedef float Chain;
DEVICE void start(Chain& chain, uint32_t first) { chain = float(first % 7); }
DEVICE void save(float* to, const Chain& chain) { *to = chain; }
#endif

KERNEL(256, 0) peak_f32(float* RESTRICT out,  // (blocks, per_block)
                        uint32_t steps, uint32_t per_block) {
    for (uint32_t first = thread() * CHAINS * VECTOR; first + CHAINS * VECTOR <= per_block; first += BLOCK * CHAINS * VECTOR) {
        Chain chain[CHAINS];
        UNROLL
        for (int i = 0; i < CHAINS; i++) start(chain[i], first + i * VECTOR);
        for (uint32_t step = 0; step < steps; step++) {
            UNROLL
            for (int i = 0; i < CHAINS; i++) chain[i] = chain[i] * 0.5f + 1.0f;
        }
        UNROLL
        for (int i = 0; i < CHAINS; i++) save(out + blockIdx.x * per_block + first + i * VECTOR, chain[i]);
    }
}
