// What numbers are stored as: f32, or 16 bits. Kernels compute and sum in f32 whatever the storage type is; they convert where
// they load and where they store. `T` is the storage type of the module that is being compiled: a kernel file becomes a module
// for each precision that it names in PRECISIONS.
//
// Conversions round to the nearest, ties to even; what is too large becomes infinity, and NaN stays NaN. A GPU that has an
// instruction for it uses that; elsewhere it is branch-free arithmetic, so that loops around it vectorise. Both give the same
// bits, except for those within a NaN.
#pragma once

#if defined(__CUDACC_RTC__)
DEVICE float widen_f16(uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
DEVICE uint16_t narrow_f16(float value) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#else
// The exponent of a half is biased by 15, that of a float by 127: multiplying by 2^112 makes up for it. A half's subnormal
// number is read as a float's subnormal number, and the product makes a normal one of it.
DEVICE float widen_f16(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16, shifted = uint32_t(bits & 0x7fffu) << 13;
    const uint32_t infinite = shifted >= 0x0f800000u ? 0x7f800000u : 0u;
    return bits_to_float(sign | infinite | float_to_bits(bits_to_float(shifted) * 5.192296858534828e33f));  // 2^112
}
// All bits where the condition holds, else none. Compilers see no branch in what masks choose, so that loops vectorise.
DEVICE uint32_t mask(bool condition) { return 0u - uint32_t(condition); }
DEVICE uint32_t choose(uint32_t where, uint32_t yes, uint32_t no) { return (yes & where) | (no & ~where); }
DEVICE uint16_t narrow_f16(float value) {
    const uint32_t bits = float_to_bits(value), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
    const uint32_t normal = (rest - (112u << 23) + 0xfffu + ((rest >> 13) & 1u)) >> 13;
    // Added to 0.5, a number below 2^-14 is rounded to units of 2^-24, in the mantissa's low bits.
    const uint32_t subnormal = float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000u;
    uint32_t half = choose(mask(rest < 0x38800000u), subnormal, normal);
    half = choose(mask(rest >= 0x477ff000u), 0x7c00u, half);
    half = choose(mask(rest > 0x7f800000u), 0x7e00u, half);
    return uint16_t(sign | half);
}
// widen_f16(narrow_f16(value)). A float has 13 bits of mantissa more than a half: adding and subtracting a power of two that is
// 2^13 times larger rounds them away.
DEVICE float round_to_f16(float value) {
    const uint32_t bits = float_to_bits(value), rest = bits & 0x7fffffffu, exponent = rest & 0x7f800000u;
    const float large = bits_to_float(choose(mask(exponent > 0x38800000u), exponent, 0x38800000u) + (13u << 23));
    const uint32_t rounded = float_to_bits((bits_to_float(rest) + large) - large);
    const uint32_t finite = choose(mask(rest >= 0x477ff000u), 0x7f800000u, rounded);
    return bits_to_float((bits & 0x80000000u) | choose(mask(rest > 0x7f800000u), 0x7fc00000u, finite));
}
#endif

DEVICE float widen_bf16(uint16_t bits) { return bits_to_float(uint32_t(bits) << 16); }
DEVICE uint16_t narrow_bf16(float value) {
#if defined(__CUDACC_RTC__) && __CUDA_ARCH__ >= 800
    uint16_t narrow;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow) : "f"(value));
    return narrow;
#else
    const uint32_t bits = float_to_bits(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
#endif
}

// Keeps the ten highest bits of the mantissa, ties away from zero: the numbers that tensor cores multiply in tf32. From sm_90 on,
// ties go to the even number, which is one instruction instead of two.
DEVICE float round_to_tf32(float value) {
#if defined(__CUDACC_RTC__) && __CUDA_ARCH__ >= 900
    uint32_t rounded;
    asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
    return bits_to_float(rounded);
#elif defined(__CUDACC_RTC__) && __CUDA_ARCH__ >= 800
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
    return bits_to_float(rounded);
#else
    const uint32_t bits = float_to_bits(value);
    const uint32_t rounded = (bits + 0x1000u) & 0xffffe000u;  // adds half a step, then cuts off
    return bits_to_float((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fffe000u : rounded);
#endif
}

struct bf16 {
    uint16_t bits;
    bf16() = default;
    MEMBER bf16(float value) : bits(narrow_bf16(value)) {}
    MEMBER operator float() const { return widen_bf16(bits); }
};
struct f16 {
    uint16_t bits;
    f16() = default;
    MEMBER f16(float value) : bits(narrow_f16(value)) {}
    MEMBER operator float() const { return widen_f16(bits); }
};

#if PRECISION_BF16
typedef bf16 T;
#elif PRECISION_F16
typedef f16 T;
#else
typedef float T;
#endif

// What a product multiplies instead of a computed number: the number as T would store it; in tf32, rounded to that.
#if PRECISION_TF32
DEVICE float factor(float value) { return round_to_tf32(value); }
#elif PRECISION_F16 && !defined(__CUDACC_RTC__)
DEVICE float factor(float value) { return round_to_f16(value); }
#else
DEVICE float factor(float value) { return T(value); }
#endif
