// The `host` execution: a block is one thread, so a loop that strides by BLOCK is a plain loop, which
// the compiler vectorises; a barrier is nothing, and a block's reduction is the value itself.
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
// src/device/host.rs: at least `bytes` of the calling thread's own memory, for a block that needs more than SHARED should
// hold: thread-local arrays of every kernel file and instruction set lie on each thread's stack. The last call counts.
void* zgan_host_scratch(uint64_t bytes);
}

// Thread-local, because blocks run on several cores at once; a launch never nests in another.
#define SHARED(T, name, N) alignas(64) static thread_local T name[N]

template <class T> DEVICE T shuffle_xor(T value, int) { return value; }
template <class T> DEVICE T shuffle_down(T value, int) { return value; }
DEVICE bool vote_any(bool predicate) { return predicate; }
DEVICE uint32_t atomic_add(uint32_t* pointer, uint32_t value) { return __atomic_fetch_add(pointer, value, __ATOMIC_RELAXED); }

// What the generated translation unit runs for each block.
template <class Body> DEVICE void run_block(Body body) { body(); }
