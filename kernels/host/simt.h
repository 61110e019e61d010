// The `simt` execution: a block is BLOCK stackful coroutines, scheduled by src/device/simt.rs. A barrier or
// a warp operation hands control to the next coroutine until all that must arrive have arrived.
#pragma once

#include "launch.h"

constexpr int BLOCK = 256, WARP = 32, WARPS = BLOCK / WARP;

extern "C" {
// src/device/simt.rs
uint32_t zgan_simt_thread();
void zgan_simt_barrier();
void zgan_simt_warp_barrier();
void* zgan_simt_shared(const void* declaration, uint64_t bytes);
uint64_t* zgan_simt_exchange();  // one slot per lane of the calling thread's warp
void zgan_simt_run_block(void (*body)(void*), void* closure);
}

DEVICE int thread() { return int(zgan_simt_thread()); }
DEVICE void barrier() { zgan_simt_barrier(); }
DEVICE void warp_barrier() { zgan_simt_warp_barrier(); }

// One array per block and declaration, found by the address of a marker that belongs to the declaration.
// A fresh block finds it filled with signalling NaNs (0xff bytes), as the GPU leaves it undefined.
#define SHARED(T, name, N)                    \
    static const char name##_declaration = 0; \
    T* const name = static_cast<T*>(zgan_simt_shared(&name##_declaration, sizeof(T) * (N)))

template <class T> DEVICE T exchange(T value, int from) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most eight bytes");
    uint64_t* slots = zgan_simt_exchange();
    __builtin_memcpy(&slots[thread() % WARP], &value, sizeof(T));
    warp_barrier();
    T result = value;
    if (from < WARP) __builtin_memcpy(&result, &slots[from], sizeof(T));
    warp_barrier();
    return result;
}
template <class T> DEVICE T shuffle_xor(T value, int mask) { return exchange(value, (thread() % WARP) ^ mask); }
template <class T> DEVICE T shuffle_down(T value, int delta) { return exchange(value, thread() % WARP + delta); }
DEVICE bool vote_any(bool predicate) {
    uint32_t any = predicate;
    for (int mask = WARP / 2; mask > 0; mask /= 2) any |= shuffle_xor(any, mask);
    return any != 0;
}
// One coroutine runs at a time, so a plain addition is atomic.
DEVICE uint32_t atomic_add(uint32_t* pointer, uint32_t value) { uint32_t old = *pointer; *pointer = old + value; return old; }

template <class Body> DEVICE void run_block(Body body) {
    zgan_simt_run_block([](void* closure) { (*static_cast<Body*>(closure))(); }, &body);
}
