// The instructions of the tensor cores, and those that feed them: one function each, for a full warp.
//
//   cuda   the instruction, as inline PTX
//   simt   what NVIDIA's PTX manual says that it does, for the whole warp: each lane gives its registers and gets those that
//          the fragment layout puts there. A wrong index gives a wrong product, on any machine.
//
// Fragments, for lane = 4 g + t: g the group, t the thread in it. A pair is two neighbours along the depth, in one register.
//
//                    A, 16 rows                      B, 8 columns           C, 16 x 8, f32
//   16 bit, k16      (g, 2t), (g + 8, 2t),           (2t, g), (2t + 8, g)   (g, 2t), (g, 2t + 1),
//   pairs from       (g, 2t + 8), (g + 8, 2t + 8)                           (g + 8, 2t), (g + 8, 2t + 1)
//   16 bit, k8       (g, 2t), (g + 8, 2t)            (2t, g)                likewise
//   tf32, k8         (g, t), (g + 8, t),             (t, g), (t + 4, g)     likewise
//   elements         (g, t + 4), (g + 8, t + 4)
#pragma once
#include "number.h"

#if defined(__CUDACC_RTC__)
#define ASYNC_COPIES (__CUDA_ARCH__ >= 800)

// An address in shared memory, as instructions take it. Computed once, it is a register; a pointer is made anew in each block of code.
typedef uint32_t SharedAddress;
DEVICE SharedAddress shared_address(const void* pointer) { return uint32_t(__cvta_generic_to_shared(pointer)); }
DEVICE uint32_t load_word(SharedAddress from) {
    uint32_t word;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(from));
    return word;
}
// 16 bytes to shared memory, or as many zeros. Two instructions, where it would take four to choose what is stored.
DEVICE void store_or_zero(SharedAddress to, const uint32_t (&word)[4], bool there) {
    asm volatile("{.reg .pred there; setp.ne.u32 there, %5, 0;\n\t"
                 "@there st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n\t@!there st.shared.v4.b32 [%0], {%6, %6, %6, %6};}"
                 :: "r"(to), "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3]), "r"(uint32_t(there)), "r"(0) : "memory");
}

// Matrices of 8 x 8 16-bit numbers from shared memory, one register of each lane per matrix. Lane 8 i + j gives where row j
// of matrix i begins, a multiple of 16 bytes; lane 4 g + t gets elements 2t and 2t + 1 of row g.
DEVICE void load_matrices(uint32_t (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row));
}
DEVICE void load_matrices(uint32_t (&r)[2], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(row));
}
// The same, transposed: elements g of rows 2t and 2t + 1.
DEVICE void load_matrices_turned(uint32_t (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row));
}
DEVICE void load_matrices_turned(uint32_t (&r)[2], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(row));
}

// C += A B, 16 x 8, depth 8. All that sm_75 has.
DEVICE void multiply_f16_k8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b));
}
#if __CUDA_ARCH__ >= 800
// C += A B, 16 x 8, depth 16.
DEVICE void multiply_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// C += A B, 16 x 8, depth 8, of numbers that round_to_tf32 gave, as bits.
DEVICE void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// 16 bytes to shared memory, `used` of them from global memory and zeros after those. Both addresses are multiples of 16.
DEVICE void copy_async(SharedAddress to, const void* from, uint32_t used) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(used) : "memory");
}
// What this thread has asked for since the last commit becomes a group.
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All of this thread's groups but the last MOST have come. Other threads' need a barrier after it.
template <int MOST> DEVICE void wait_copies() { asm volatile("cp.async.wait_group %0;" :: "n"(MOST) : "memory"); }
#else
DEVICE void commit_copies() {}
template <int MOST> DEVICE void wait_copies() {}
#endif

#elif defined(ZGAN_SIMT)
#if !defined(ASYNC_COPIES)
#define ASYNC_COPIES 1  // 0: the code of sm_75, which tests/matrix.rs runs
#endif

typedef char* SharedAddress;
DEVICE SharedAddress shared_address(const void* pointer) { return static_cast<char*>(const_cast<void*>(pointer)); }
DEVICE uint32_t load_word(SharedAddress from) { return *reinterpret_cast<const uint32_t*>(from); }

// What a lane shows of its registers: A in the first four words, B in the next two.
struct alignas(8) Shown { uint32_t word[8]; };
static_assert(sizeof(Shown) == 32, "what zgan_simt_show shows");

struct alignas(16) Row16 { uint32_t word[4]; };
DEVICE void store_or_zero(SharedAddress to, const uint32_t (&word)[4], bool there) {
    typedef uint32_t Words __attribute__((vector_size(16), may_alias));
    *reinterpret_cast<Words*>(to) = there ? Words{word[0], word[1], word[2], word[3]} : Words{};
}
template <int N> UNCHECKED static void take_rows(uint32_t (&r)[N], const Shown* rows, int lane) {
    for (int i = 0; i < N; i++) r[i] = rows[8 * i + lane / 4].word[lane % 4];
}
template <int N> UNCHECKED static void take_columns(uint32_t (&r)[N], const Shown* rows, int lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < N; i++) {
        const uint32_t low = rows[8 * i + 2 * t].word[g / 2], high = rows[8 * i + 2 * t + 1].word[g / 2];
        r[i] = (low >> g % 2 * 16 & 0xffff) | (high >> g % 2 * 16) << 16;
    }
}
// Lanes past the last matrix give no row: nobody reads what they show.
template <int N> DEVICE const Shown* show_row(const void* row) {
    Row16 own = {};
    if (thread() % WARP < 8 * N) own = *static_cast<const Row16*>(row);
    return static_cast<const Shown*>(zgan_simt_show(&own, sizeof own));
}
DEVICE void load_matrices(uint32_t (&r)[4], const void* row) { take_rows<4>(r, show_row<4>(row), thread() % WARP); }
DEVICE void load_matrices(uint32_t (&r)[2], const void* row) { take_rows<2>(r, show_row<2>(row), thread() % WARP); }
DEVICE void load_matrices_turned(uint32_t (&r)[4], const void* row) { take_columns<4>(r, show_row<4>(row), thread() % WARP); }
DEVICE void load_matrices_turned(uint32_t (&r)[2], const void* row) { take_columns<2>(r, show_row<2>(row), thread() % WARP); }

// Number k of a row of A or a column of B, of which quad lanes 4 q .. 4 q + 3 hold registers first, first + step, ...
struct PairsOf16 {  // two in a register
    static MEMBER uint32_t bits(const Shown* quad, int first, int step, int k) {
        return quad[k % 8 / 2].word[first + k / 8 * step] >> k % 2 * 16 & 0xffff;
    }
};
struct Bf16 : PairsOf16 {
    static MEMBER float number(const Shown* quad, int first, int step, int k) { return widen_bf16(uint16_t(bits(quad, first, step, k))); }
};
struct F16 : PairsOf16 {
    static MEMBER float number(const Shown* quad, int first, int step, int k) { return widen_f16(uint16_t(bits(quad, first, step, k))); }
};
struct Tf32 {
    // The manual does not say what the lower 13 bits do. A number that has some of them set is read as NaN here.
    static MEMBER float number(const Shown* quad, int first, int step, int k) {
        const uint32_t bits = quad[k % 4].word[first + k / 4 * step];
        return bits_to_float((bits & 0x1fff) ? 0x7fffffffu : bits);
    }
};
// This lane's part of C += A B. Products of such numbers are exact in f32; each sum is one chain here, while the manual leaves
// its order and rounding to the machine.
template <class Number, int K> UNCHECKED static void multiply_shown(float (&c)[4], const Shown* lanes, int lane) {
    const Shown *rows = lanes + lane / 4 * 4, *columns = lanes + lane % 4 * 8;
    UNROLL
    for (int k = 0; k < K; k++) {
        const float a[2] = {Number::number(rows, 0, 2, k), Number::number(rows, 1, 2, k)};
        const float b[2] = {Number::number(columns, 4, 1, k), Number::number(columns + 4, 4, 1, k)};
        UNROLL
        for (int i = 0; i < 4; i++) c[i] += a[i / 2] * b[i % 2];
    }
}
template <class Number, int K> DEVICE void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    const Shown own = {{a0, a1, a2, a3, b0, b1, 0, 0}};
    multiply_shown<Number, K>(c, static_cast<const Shown*>(zgan_simt_show(&own, sizeof own)), thread() % WARP);
}
DEVICE void multiply_f16_k8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) { multiply<F16, 8>(c, a0, a1, 0, 0, b, 0); }
DEVICE void multiply_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { multiply<F16, 16>(c, a[0], a[1], a[2], a[3], b[0], b[1]); }
DEVICE void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { multiply<Bf16, 16>(c, a[0], a[1], a[2], a[3], b[0], b[1]); }
DEVICE void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { multiply<Tf32, 8>(c, a[0], a[1], a[2], a[3], b[0], b[1]); }

DEVICE void copy_async(void* to, const void* from, uint32_t used) { zgan_simt_copy(to, from, used); }
DEVICE void commit_copies() { zgan_simt_copies_commit(); }
template <int MOST> DEVICE void wait_copies() { zgan_simt_copies_wait(MOST); }
#endif
