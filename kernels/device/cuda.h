// The `cuda` execution: NVRTC, no CUDA headers.
#pragma once

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define DEVICE static __device__ __forceinline__
#define MEMBER __device__ __forceinline__
#define APART static __device__ __noinline__
#define CALLED DEVICE
#define RESTRICT __restrict__
#define INDEPENDENT
#define INDEPENDENT_FEW
#define UNROLL _Pragma("unroll")
#define UNROLL_ON_GPU UNROLL
#define PRAGMA(words) _Pragma(#words)
#define UNROLL_BY(times) PRAGMA(unroll times)
#define UNROLL_FOUR _Pragma("unroll 4")
#define ROLLED _Pragma("unroll 1")

constexpr int BLOCK = 256, WARP = 32, WARPS = BLOCK / WARP;

DEVICE int thread() { return threadIdx.x; }
DEVICE void barrier() { __syncthreads(); }
DEVICE void warp_barrier() { __syncwarp(); }

#define SHARED(T, name, N) __shared__ __align__(16) T name[N]

template <class T> DEVICE T shuffle_xor(T value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE uint32_t atomic_add(uint32_t* pointer, uint32_t value) { return atomicAdd(pointer, value); }

DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
DEVICE uint32_t float_to_bits(float value) { return __float_as_uint(value); }
DEVICE float maximum(float a, float b) {
    float most;
    asm("max.f32 %0, %1, %2;" : "=f"(most) : "f"(a), "f"(b));
    return most;
}
DEVICE float square_root(float x) { return __fsqrt_rn(x); }
DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) { return __umulhi(a, b); }
// The compiler would multiply 64 bits, of which half are zero.
DEVICE uint64_t multiply_wide(uint32_t a, uint32_t b) {
    uint64_t product;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
    return product;
}
