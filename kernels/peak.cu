// Measures the most that any product can reach: multiply-adds between registers, in enough independent chains to hide latency.
//
//   out[i] = x_n, x_0 = i mod 7        CHAINS * VECTOR values of every thread of every block
//   f32:     x_{j+1} = 0.5 x_j + 1     one multiply-add
//   others:  x_{j+1} = x_j + 1         as PRODUCTS products of 1 and 1 / PRODUCTS: the depth of one instruction of the tensor cores
//
// `out` is stored in the precision of the module; chains are f32. Warps must be whole: a block has the same chains in all lanes.
#include "device/execution.h"
#include "device/number.h"
#include "device/tile.h"

PRECISIONS(f32, tf32, bf16, f16)

constexpr int PRODUCTS = PRECISION_F32 ? 1 : 32 / sizeof(T);

#if defined(ZGAN_HOST)
constexpr int CHAINS = 12;
typedef Vector Chain;
#elif TENSOR_CORES
constexpr int CHAINS = 4, VECTOR = 4;
typedef float Chain[VECTOR];
#else
constexpr int CHAINS = 16, VECTOR = 1;
typedef float Chain[VECTOR];
#endif

DEVICE void start(Chain& chain, uint32_t first) {
    UNROLL
    for (int i = 0; i < VECTOR; i++) chain[i] = float((first + i) % 7);
}
DEVICE void save(T* to, const Chain& chain) {
    UNROLL
    for (int i = 0; i < VECTOR; i++) to[i] = T(chain[i]);
}
DEVICE void step_on(Chain& chain) {
#if TENSOR_CORES
#if PRECISION_TF32
    const uint32_t one = float_to_bits(1.0f), part = float_to_bits(1.0f / PRODUCTS);
#else
    const uint32_t one = pair(1.0f, 1.0f), part = pair(1.0f / PRODUCTS, 1.0f / PRODUCTS);
#endif
    const uint32_t a[4] = {one, one, one, one}, b[2] = {part, part};
    multiply_fragments(chain, a, b);
#elif PRECISION_F32 && defined(ZGAN_HOST)
    chain = chain * 0.5f + 1.0f;
#elif PRECISION_F32
    chain[0] = chain[0] * 0.5f + 1.0f;
#else
    UNROLL
    for (int k = 0; k < PRODUCTS; k++)
        UNROLL
        for (int i = 0; i < VECTOR; i++) chain[i] += 1.0f / PRODUCTS;
#endif
}

KERNEL(256, 0) PRECISE(peak)(T* RESTRICT out,  // (blocks, per_block)
                             uint32_t steps, uint32_t per_block) {
    for (uint32_t first = thread() * CHAINS * VECTOR; first + CHAINS * VECTOR <= per_block; first += BLOCK * CHAINS * VECTOR) {
        Chain chain[CHAINS];
        UNROLL
        for (int i = 0; i < CHAINS; i++) start(chain[i], first + i * VECTOR);
        for (uint32_t step = 0; step < steps; step++) {
            UNROLL
            for (int i = 0; i < CHAINS; i++) step_on(chain[i]);
        }
        UNROLL
        for (int i = 0; i < CHAINS; i++) save(out + blockIdx.x * per_block + first + i * VECTOR, chain[i]);
    }
}
