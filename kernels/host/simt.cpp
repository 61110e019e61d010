// What instrumented kernels call: the functions of the thread sanitizer's interface (GCC's and Clang's), one before each
// access to memory, and the operations of a block whose place in the kernel a report may name. Compiled once, without
// instrumentation. src/device/simt/mod.rs has the other side.
//
// Most calls are for local variables, which lie on the coroutine's own stack: the gate below ends these at once.
typedef __UINT64_TYPE__ uint64_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __INT32_TYPE__ int32_t;

namespace {
// Accesses to `low .. low + span` are not passed on. That is all of memory while no checker is at work.
struct Gate {
    uint64_t low, span;
};
thread_local Gate gate = {0, ~uint64_t(0)};

// The mirror of the constants in src/device/simt/shadow.rs.
enum Kind : uint32_t { READ = 0, WRITE = 1, ATOMIC = 2 };
enum Wait : uint32_t { BARRIER = 1, WARP_BARRIER = 2 };
}  // namespace

extern "C" {
void zgan_simt_access(uint64_t address, uint64_t bytes, uint64_t alignment, uint32_t kind, uint64_t place);
void zgan_simt_wait(uint32_t reason, uint64_t place);
uint64_t zgan_simt_exchange_at(uint64_t value, int32_t from, uint64_t place);
const void* zgan_simt_show_at(const void* value, uint64_t bytes, uint64_t place);
void zgan_simt_copy_at(void* to, const void* from, uint64_t used, uint64_t place);
void zgan_simt_out_of_bounds(uint64_t index, uint64_t place);

void* zgan_simt_gate() { return &gate; }

#define PLACE uint64_t(__builtin_return_address(0))
#define ACCESS(pointer, bytes, alignment, kind) \
    if (uint64_t(pointer) - gate.low >= gate.span) zgan_simt_access(uint64_t(pointer), bytes, alignment, kind, PLACE)

void zgan_simt_barrier() { zgan_simt_wait(BARRIER, PLACE); }
void zgan_simt_warp_barrier() { zgan_simt_wait(WARP_BARRIER, PLACE); }
uint64_t zgan_simt_exchange(uint64_t value, int32_t from) { return zgan_simt_exchange_at(value, from, PLACE); }
const void* zgan_simt_show(const void* value, uint64_t bytes) { return zgan_simt_show_at(value, bytes, PLACE); }
void zgan_simt_copy(void* to, const void* from, uint64_t used) { zgan_simt_copy_at(to, from, used, PLACE); }
void zgan_simt_read(const void* p, uint64_t bytes) { ACCESS(p, bytes, 1, READ); }
void zgan_simt_write(void* p, uint64_t bytes) { ACCESS(p, bytes, 1, WRITE); }
void zgan_simt_atomic(void* p, uint64_t bytes) { ACCESS(p, bytes, bytes, ATOMIC); }
void zgan_simt_warp_access(const void* p, uint64_t bytes, bool writes) { ACCESS(p, bytes, bytes, writes ? WRITE : READ); }

#ifndef ZGAN_SANITIZED  // The thread sanitizer has its own.
#define SIZES(EACH) EACH(1) EACH(2) EACH(4) EACH(8) EACH(16)
#define PLAIN(N)                                                                 \
    void __tsan_read##N(void* p) { ACCESS(p, N, N, READ); }                      \
    void __tsan_write##N(void* p) { ACCESS(p, N, N, WRITE); }                    \
    void __tsan_unaligned_read##N(void* p) { ACCESS(p, N, 1, READ); }            \
    void __tsan_unaligned_write##N(void* p) { ACCESS(p, N, 1, WRITE); }          \
    void __tsan_volatile_read##N(void* p) { ACCESS(p, N, N, READ); }             \
    void __tsan_volatile_write##N(void* p) { ACCESS(p, N, N, WRITE); }           \
    void __tsan_unaligned_volatile_read##N(void* p) { ACCESS(p, N, 1, READ); }   \
    void __tsan_unaligned_volatile_write##N(void* p) { ACCESS(p, N, 1, WRITE); } \
    void __tsan_read_write##N(void* p) { ACCESS(p, N, N, READ); ACCESS(p, N, N, WRITE); } \
    void __tsan_unaligned_read_write##N(void* p) { ACCESS(p, N, 1, READ); ACCESS(p, N, 1, WRITE); }
SIZES(PLAIN)

void __tsan_read_range(void* p, uint64_t bytes) { ACCESS(p, bytes, 1, READ); }
void __tsan_write_range(void* p, uint64_t bytes) { ACCESS(p, bytes, 1, WRITE); }
void* __tsan_memcpy(void* to, const void* from, uint64_t bytes) {
    ACCESS(from, bytes, 1, READ);
    ACCESS(to, bytes, 1, WRITE);
    return __builtin_memmove(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, uint64_t bytes) {
    ACCESS(from, bytes, 1, READ);
    ACCESS(to, bytes, 1, WRITE);
    return __builtin_memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, uint64_t bytes) {
    ACCESS(to, bytes, 1, WRITE);
    return __builtin_memset(to, value, bytes);
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// An index that is not one of an array whose length the compiler knows: local arrays are checked by this alone.
void __ubsan_handle_out_of_bounds(void*, uint64_t index) { zgan_simt_out_of_bounds(index, PLACE); }
void __ubsan_handle_out_of_bounds_abort(void*, uint64_t index) { zgan_simt_out_of_bounds(index, PLACE); }
#endif
}
