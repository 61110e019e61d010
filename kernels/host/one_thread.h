// The `host` execution: a block is one thread. A loop that strides by BLOCK is then a plain loop, which the compiler
// vectorises; a barrier does nothing, and what a thread has summed is already the sum of the block.
#pragma once

#include "launch.h"

#if defined(__clang__)
#define CALLED APART
#else
#define CALLED APART __attribute__((noclone))
#endif

constexpr int BLOCK = 1, WARP = 1, WARPS = 1;

DEVICE constexpr int thread() { return 0; }
DEVICE void barrier() {}
DEVICE void warp_barrier() {}

extern "C" {
// Defined in src/device/host.rs. Gives at least `bytes` of memory that belongs to the calling thread, until its next call.
// It is for blocks that need a lot: the arrays of SHARED, from all kernel files and instruction sets, take room in every thread.
void* zgan_host_scratch(uint64_t bytes);
}

// Blocks run on several cores at once, so each thread has its own array. One is enough, as no launch begins within another.
#define SHARED(T, name, N) alignas(64) static thread_local T name[N]

template <class T> DEVICE T shuffle_xor(T value, int) { return value; }
DEVICE uint32_t atomic_add(uint32_t* pointer, uint32_t value) { return __atomic_fetch_add(pointer, value, __ATOMIC_RELAXED); }

// What the generated translation unit runs for each block.
template <class Body> DEVICE void run_block(Body body) { body(); }
