// Branch-free elementary functions, the same text for every execution, so that loops over them vectorise
// on the host and results agree between executions to rounding. Errors are in units in the last place (ulp)
// against the exact result, measured over all floats of the range; tests/operations/elementary.rs samples them.
#pragma once

#define INFINITY bits_to_float(0x7f800000u)

// NaN where either is.
DEVICE float larger(float a, float b) {
    const float most = a > b ? a : b;  // one instruction, which gives b where one of both is NaN
    return a == a ? most : a;
}
// The larger of a number that is not NaN, and x, whose NaN stays: one instruction.
DEVICE float at_least(float least, float x) { return least > x ? least : x; }
DEVICE float absolute(float x) { return bits_to_float(float_to_bits(x) & 0x7fffffffu); }

// e^x = p 2^n: p, and n in the place of a float's exponent.
// x = n ln 2 + r, |r| <= ln 2 / 2; the polynomial is the minimax one of degree 6 with 1 + r fixed.
struct Power { float p; uint32_t exponent; };
DEVICE Power power(float x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which its low bits then hold
    const float shifted = x * 1.44269504f + magic, n = shifted - magic;
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.38145394e-3f;
    p = p * r + 8.36874545e-3f;
    p = p * r + 4.16683890e-2f;
    p = p * r + 1.66665211e-1f;
    p = p * r + 4.99999940e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return {p, float_to_bits(shifted) << 23};
}

// e^x for x <= 0, NaN at NaN; 0 at -infinity and below -87.3365, where it would be subnormal. At most 0.9 ulp with
// fused multiply-adds, 1.2 without.
DEVICE float exp_negative(float x) {
    const Power e = power(x);
    // Times 2^n, which keeps a NaN; adding n to the exponent, as below, would make a number of the NaN that GPUs compute.
    const float result = e.p * bits_to_float(e.exponent + 0x3f800000u);
    return x < -87.33654f ? 0.0f : result;
}

// e^x for all x; infinity above 88.7228, NaN at NaN.
DEVICE float exp(float x) {
    const Power e = power(x);
    // Times 2^n, by adding n to the exponent: 2^128 is no float. Outside the range the bits are meaningless, and are not used.
    float result = bits_to_float(float_to_bits(e.p) + e.exponent);
    result = x < -87.33654f ? 0.0f : result;
    return x <= 88.72283f ? result : x * 3e38f;
}

// Natural logarithm of x > 0; -infinity at 0, infinity at infinity, NaN below 0 and at NaN. At most 0.84 ulp.
// Subnormal arguments count as the smallest normal number (error at most 16 in the result's units of 1).
// The polynomial is Cephes' logf (S. Moshier).
DEVICE float log(float x) {
    const uint32_t bits = float_to_bits(x < 1.17549435e-38f ? 1.17549435e-38f : x);
    const uint32_t shifted = bits - 0x3f3504f3u;  // sqrt(1/2): the mantissa lands in [sqrt(1/2), sqrt(2))
    const float e = float(int32_t(shifted) >> 23);
    const float m = bits_to_float((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    const float square = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float result = m * square * p;
    result = result - e * 2.12194440e-4f;
    result = result - 0.5f * square;
    result = m + result + e * 0.693359375f;
    result = x < INFINITY ? result : x;
    result = x == 0.0f ? -INFINITY : result;
    return x >= 0.0f ? result : bits_to_float(0x7fc00000u);
}

// Hyperbolic tangent; at most 1.37 ulp. An odd polynomial below 0.625 (Cephes), 1 - 2 / (e^2x + 1) above.
DEVICE float tanh(float x) {
    const float a = absolute(x), square = x * x;
    float p = -5.70498872745e-3f;
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    const float small = p * square * x + x;
    const float large = 1.0f - 2.0f / (exp(2.0f * a) + 1.0f);
    return a < 0.625f ? small : (x < 0.0f ? -large : large);
}

// log(1 + e^x), without overflow.
DEVICE float softplus(float x) { return (x > 0.0f ? x : 0.0f) + log(1.0f + exp(-absolute(x))); }
DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }

// sine and cosine of 2 pi u, 0 <= u < 1; absolute error at most 1.1e-7.
struct SineCosine { float sine, cosine; };
DEVICE SineCosine sine_cosine_turns(float u) {
    // quarter turns, rounded: u = q / 4 + r, |r| <= 1/8; then Cephes' polynomials on |angle| <= pi / 4
    const int32_t q = int32_t(u * 4.0f + 0.5f);
    const float r = (u - float(q) * 0.25f) * 6.28318531f, square = r * r;
    const float s = r + r * square * (-1.6666654611e-1f + square * (8.3321608736e-3f - square * 1.9515295891e-4f));
    const float c = 1.0f - 0.5f * square
        + square * square * (4.166664568298827e-2f + square * (-1.388731625493765e-3f + square * 2.443315711809948e-5f));
    const float a = (q & 1) ? c : s, b = (q & 1) ? s : c;
    return {(q & 2) ? -a : a, ((q + 1) & 2) ? -b : b};
}
