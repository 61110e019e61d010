// What both executions on a CPU need to compile a kernel file as C++: the words of CUDA that kernels use.
//
// The build (src/build/host.rs) puts the text of each kernel file, with its includes, into an unnamed namespace, so that the
// linker never takes a function of one instruction set for that of another, and appends entry.h with one Entry per kernel.
#pragma once

typedef __UINT8_TYPE__ uint8_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __INT32_TYPE__ int32_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT64_TYPE__ uint64_t;

#define KERNEL(threads, blocks) static void
#define DEVICE [[maybe_unused]] static inline __attribute__((always_inline))
#define MEMBER inline __attribute__((always_inline))
#define APART [[maybe_unused]] static __attribute__((noinline))
#define RESTRICT __restrict__
#if defined(ZGAN_SIMT)
#define UNCHECKED __attribute__((no_sanitize("thread")))  // for what is no part of a kernel: the checkers of `simt` do not see it
#else
#define UNCHECKED
#endif
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#define INDEPENDENT_FEW INDEPENDENT
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_FOUR _Pragma("clang loop unroll_count(4)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#define INDEPENDENT_FEW _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#define UNROLL _Pragma("GCC unroll 64")
#define UNROLL_FOUR _Pragma("GCC unroll 4")
#define ROLLED _Pragma("GCC unroll 1")
#endif
#define UNROLL_ON_GPU ROLLED
#define UNROLL_BY(times) ROLLED
// Stands in the body of a loop whose iterations must not become lanes of a vector: those of a few iterations would be more
// code for nothing, others slower. A loop inside of it may become vectors all the same.
#define NOT_VECTORISED __asm__ volatile("")

struct Index3 { uint32_t x, y, z; };
static thread_local Index3 blockIdx, gridDim;

DEVICE float bits_to_float(uint32_t bits) { float value; __builtin_memcpy(&value, &bits, 4); return value; }
DEVICE uint32_t float_to_bits(float value) { uint32_t bits; __builtin_memcpy(&bits, &value, 4); return bits; }
DEVICE float square_root(float x) { return __builtin_sqrtf(x); }
DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) { return uint32_t((uint64_t(a) * b) >> 32); }
DEVICE uint64_t multiply_wide(uint32_t a, uint32_t b) { return uint64_t(a) * b; }
