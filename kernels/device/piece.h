// Sixteen bytes of numbers: what a thread reads, copies and writes at a time where that is possible.
#pragma once
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

#if PRECISION_BF16 || PRECISION_F16
DEVICE uint32_t pair(float low, float high) {
#if defined(__CUDACC_RTC__) && __CUDA_ARCH__ >= 800
    uint32_t both;
#if PRECISION_BF16
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#endif
    return both;
#else
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
DEVICE Piece pack(const float (&v)[PIECE]) { return {{pair(v[0], v[1]), pair(v[2], v[3]), pair(v[4], v[5]), pair(v[6], v[7])}}; }
#else
DEVICE void unpack(float (&v)[PIECE], const Piece& piece) {
    UNROLL
    for (int i = 0; i < PIECE; i++) v[i] = bits_to_float(piece.word[i]);
}
DEVICE Piece pack(const float (&v)[PIECE]) { return {{float_to_bits(v[0]), float_to_bits(v[1]), float_to_bits(v[2]), float_to_bits(v[3])}}; }
#endif

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
