// The `simt` execution: a block is BLOCK stackful coroutines, scheduled by src/device/simt/mod.rs. A barrier or
// a warp operation hands control to the next coroutine until all that must arrive have arrived.
//
// This text is compiled with the thread sanitizer's instrumentation: before every access to memory it calls one of the
// functions in simt.cpp, which pass it to the checkers. What the compiler would expand without such a call has one written here.
#pragma once

#include "launch.h"

#define CALLED APART

constexpr int BLOCK = 256, WARP = 32, WARPS = BLOCK / WARP;

extern "C" {
// src/device/simt/mod.rs and, where the place of the call matters, simt.cpp
uint32_t zgan_simt_thread();
void zgan_simt_barrier();
void zgan_simt_warp_barrier();
// One array per block and declaration. A fresh block finds it filled with signalling NaNs (0xff bytes), as the GPU leaves
// it undefined.
void* zgan_simt_shared(const char* declaration, uint64_t bytes, uint64_t element_bytes);
uint64_t zgan_simt_exchange(uint64_t value, int32_t from);  // the value of lane `from`; its own where there is none
// Shows `bytes` <= 32 bytes of this lane to its warp, and gives what all lanes show: 32 times 32 bytes, for UNCHECKED functions.
const void* zgan_simt_show(const void* value, uint64_t bytes);
// 16 bytes, `used` of them from `from` and zeros, on their way to shared memory: there at the wait, not before.
void zgan_simt_copy(void* to, const void* from, uint64_t used);
void zgan_simt_copies_commit();
void zgan_simt_copies_wait(uint32_t most);
void zgan_simt_run_block(void (*body)(void*), void* closure, const void* block_index, const void* grid_size);
// To be called before an access that the compiler does not instrument.
void zgan_simt_read(const void* pointer, uint64_t bytes);
void zgan_simt_write(void* pointer, uint64_t bytes);
void zgan_simt_atomic(void* pointer, uint64_t bytes);
// A lane's own share of an access that its warp makes together, of 2, 4, 8 or 16 bytes, aligned to as many: for `ldmatrix` the
// row that this lane gives the address of, for `cp.async` either side of a copy. Checked and counted as this lane's access,
// so lanes that give no address do not call it; what the wrapper then reads to play the instruction must go unseen.
void zgan_simt_warp_access(const void* pointer, uint64_t bytes, bool writes);
}

DEVICE int thread() { return int(zgan_simt_thread()); }
DEVICE void barrier() { zgan_simt_barrier(); }
DEVICE void warp_barrier() { zgan_simt_warp_barrier(); }

// Each declaration has an array of characters with its name; the address of that array tells declarations apart.
#define SHARED(T, name, N)                       \
    static const char name##_declared[] = #name; \
    T* const name = static_cast<T*>(zgan_simt_shared(name##_declared, sizeof(T) * (N), sizeof(T)))

template <class T> DEVICE T exchange(T value, int from) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most eight bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = zgan_simt_exchange(bits, from);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}
DEVICE float maximum(float a, float b) { return a > b || b != b ? a : b; }

template <class T> DEVICE T shuffle_xor(T value, int mask) { return exchange(value, (thread() % WARP) ^ mask); }
// One coroutine runs at a time, so a plain addition is atomic.
UNCHECKED static uint32_t add_unseen(uint32_t* pointer, uint32_t value) { uint32_t old = *pointer; *pointer = old + value; return old; }
DEVICE uint32_t atomic_add(uint32_t* pointer, uint32_t value) {
    zgan_simt_atomic(pointer, 4);
    return add_unseen(pointer, value);
}

// For copies in a kernel's own text: the compiler would expand one of a fixed size into moves that no checker sees.
DEVICE void copy_seen(void* to, const void* from, uint64_t bytes) {
    zgan_simt_read(from, bytes);
    zgan_simt_write(to, bytes);
    __builtin_memmove(to, from, bytes);
}
DEVICE void fill_seen(void* to, int value, uint64_t bytes) {
    zgan_simt_write(to, bytes);
    __builtin_memset(to, value, bytes);
}
#define __builtin_memcpy copy_seen
#define __builtin_memmove copy_seen
#define __builtin_memset fill_seen

template <class Body> DEVICE void run_block(Body body) {
    zgan_simt_run_block([](void* closure) UNCHECKED { (*static_cast<Body*>(closure))(); }, &body, &blockIdx, &gridDim);
}
