// Sixteen bytes of numbers: what a thread reads, copies and writes at a time where that is possible.
#pragma once
#include "math.h"
#include "number.h"

struct alignas(16) Piece { uint32_t word[4]; };
struct RawPiece { Piece values; };

// Elements of T in a piece.
constexpr int PIECE = 16 / sizeof(T);

DEVICE bool aligned(const void* pointer) { return uint64_t(pointer) % 16 == 0; }
#if defined(ZGAN_SIMT)
// Each is one access to memory, as on a GPU: the compiler would copy a structure word by word.
typedef uint32_t FourWords __attribute__((vector_size(16), may_alias));
typedef float TwoFloats __attribute__((vector_size(8), may_alias));
DEVICE Piece load_piece(const void* from) {
    const FourWords words = *static_cast<const FourWords*>(from);
    return {{words[0], words[1], words[2], words[3]}};
}
DEVICE void store_piece(void* to, const Piece& piece) {
    *static_cast<FourWords*>(to) = FourWords{piece.word[0], piece.word[1], piece.word[2], piece.word[3]};
}
DEVICE void store_two(float* to, float first, float second) { *reinterpret_cast<TwoFloats*>(to) = TwoFloats{first, second}; }
#else
struct alignas(8) Two { float first, second; };
DEVICE Piece load_piece(const void* from) { return *static_cast<const Piece*>(from); }
DEVICE void store_piece(void* to, const Piece& piece) { *static_cast<Piece*>(to) = piece; }
DEVICE void store_two(float* to, float first, float second) { *reinterpret_cast<Two*>(to) = {first, second}; }
#endif

// The address is computed in either case: neighbours share what is common to theirs.
DEVICE void load_where(bool there, Piece& piece, const void* from) {
#if defined(__CUDACC_RTC__)
    asm volatile("{.reg .pred there; setp.ne.u32 there, %5, 0; @there ld.global.v4.b32 {%0, %1, %2, %3}, [%4];}"
                 : "+r"(piece.word[0]), "+r"(piece.word[1]), "+r"(piece.word[2]), "+r"(piece.word[3]) : "l"(from), "r"(uint32_t(there)));
#else
    if (there) piece = load_piece(from);
#endif
}
// What is below zero becomes zero; NaN stays.
DEVICE float rectified(float x) {
#if defined(__CUDACC_RTC__) && __CUDA_ARCH__ >= 800
    float most;
    asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(most) : "f"(x));
    return most;
#else
    return at_least(0.0f, x);
#endif
}
#if PRECISION_BF16 || PRECISION_F16
// Two numbers as they are stored; RECTIFIED in the same instruction.
template <bool RECTIFIED = false> DEVICE uint32_t pair(float low, float high) {
#if defined(__CUDACC_RTC__) && __CUDA_ARCH__ >= 800
#if PRECISION_BF16
#define NARROW(relu) "cvt.rn" relu ".bf16x2.f32 %0, %1, %2;"
#else
#define NARROW(relu) "cvt.rn" relu ".f16x2.f32 %0, %1, %2;"
#endif
    uint32_t both;
    if constexpr (RECTIFIED) asm(NARROW(".relu") : "=r"(both) : "f"(high), "f"(low));
    else asm(NARROW("") : "=r"(both) : "f"(high), "f"(low));
#undef NARROW
    return both;
#else
    if constexpr (RECTIFIED) low = rectified(low), high = rectified(high);
    return T(low).bits | uint32_t(T(high).bits) << 16;
#endif
}
DEVICE float number(uint16_t bits) {
#if PRECISION_BF16
    return widen_bf16(bits);
#elif defined(__CUDACC_RTC__)
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#else
    return widen_f16(bits);
#endif
}
DEVICE void unpack(float (&v)[PIECE], const Piece& piece) {
    UNROLL
    for (int i = 0; i < 4; i++) {
        v[2 * i] = number(uint16_t(piece.word[i]));
        v[2 * i + 1] = number(uint16_t(piece.word[i] >> 16));
    }
}
template <bool RECTIFIED = false> DEVICE Piece pack(const float (&v)[PIECE]) {
    return {{pair<RECTIFIED>(v[0], v[1]), pair<RECTIFIED>(v[2], v[3]), pair<RECTIFIED>(v[4], v[5]), pair<RECTIFIED>(v[6], v[7])}};
}
// v[j] *= slope where number j of `signs` is at most zero.
DEVICE void slope_by_sign(float (&v)[PIECE], const Piece& signs, float slope) {
    UNROLL
    for (int i = 0; i < 4; i++) {
#if defined(__CUDACC_RTC__) && (__CUDA_ARCH__ >= 900 || PRECISION_F16)
#if PRECISION_BF16
#define PAIR "bf16x2"
#else
#define PAIR "f16x2"
#endif
        // Three instructions for two numbers.
        asm("{.reg .pred low, high; setp.le." PAIR " low|high, %2, %3; @low mul.f32 %0, %0, %4; @high mul.f32 %1, %1, %4;}"
            : "+f"(v[2 * i]), "+f"(v[2 * i + 1]) : "r"(signs.word[i]), "r"(0), "f"(slope));
#undef PAIR
#else
        if (number(uint16_t(signs.word[i])) <= 0.0f) v[2 * i] *= slope;
        if (number(uint16_t(signs.word[i] >> 16)) <= 0.0f) v[2 * i + 1] *= slope;
#endif
    }
}
#else
DEVICE void unpack(float (&v)[PIECE], const Piece& piece) {
    UNROLL
    for (int i = 0; i < PIECE; i++) v[i] = bits_to_float(piece.word[i]);
}
template <bool RECTIFIED = false> DEVICE Piece pack(const float (&v)[PIECE]) {
    Piece piece;
    UNROLL
    for (int i = 0; i < PIECE; i++) piece.word[i] = float_to_bits(RECTIFIED ? rectified(v[i]) : v[i]);
    return piece;
}
DEVICE void slope_by_sign(float (&v)[PIECE], const Piece& signs, float slope) {
    UNROLL
    for (int i = 0; i < PIECE; i++)
        if (bits_to_float(signs.word[i]) <= 0.0f) v[i] *= slope;
}
#endif

// What a source computes of what it read, as it is stored.
template <class Source, class Raw, class Walk> DEVICE Piece finished(const Source& source, const Raw& raw, const Walk& walk, int i) {
    float v[PIECE];
    source.finish(raw, walk, i, v);
    return pack(v);
}

// N numbers at a multiple of 16 bytes, f32 or as they are stored.
template <int N> DEVICE void load_whole(float (&v)[N], const float* from) {
    UNROLL
    for (int i = 0; i < N; i += 4) {
        const Piece piece = load_piece(from + i);
        UNROLL
        for (int j = 0; j < 4; j++) v[i + j] = bits_to_float(piece.word[j]);
    }
}
// The same from shared memory, where neighbouring threads read neighbouring runs of N numbers. Where a run is 32 bytes, every other
// four threads read the second half of theirs first, so that eight threads that read together use different banks.
template <int N> DEVICE void load_side_by_side(float (&v)[N], const float* from) {
    if constexpr (N == 4) {
        load_whole(v, from);
    } else {
        static_assert(N == 8, "two pieces");
        const bool turned = thread() / 4 % 2;
        const Piece one = load_piece(from + (turned ? 4 : 0)), other = load_piece(from + (turned ? 0 : 4));
        UNROLL
        for (int j = 0; j < 4; j++) {
            v[j] = bits_to_float(turned ? other.word[j] : one.word[j]);
            v[4 + j] = bits_to_float(turned ? one.word[j] : other.word[j]);
        }
    }
}
template <int N> DEVICE void store_whole(float* to, const float (&v)[N]) {
    UNROLL
    for (int i = 0; i < N; i += 4) store_piece(to + i, {{float_to_bits(v[i]), float_to_bits(v[i + 1]), float_to_bits(v[i + 2]), float_to_bits(v[i + 3])}});
}
#if PRECISION_BF16 || PRECISION_F16
DEVICE void load_whole(float (&v)[PIECE], const T* from) { unpack(v, load_piece(from)); }
DEVICE void store_whole(T* to, const float (&v)[PIECE]) { store_piece(to, pack(v)); }
#endif
