// Activations, and their derivatives as functions of the output or of the input. `Activation` in src/ops/mod.rs is the same
// choice in Rust. An activation of NaN is NaN; a ReLU's derivative there is 1, as PyTorch's, so that no gradient is lost to it.
#pragma once
#include "math.h"

struct Yes { static constexpr bool value = true; };
struct No { static constexpr bool value = false; };

struct Activation {
    uint32_t code;  // 0 identity, 1 leaky ReLU, 2 tanh
    float slope;    // of the leaky ReLU below zero, >= 0
};

#if defined(ZGAN_HOST)
// Each of the three calls `body` with a function of one float, so that the choice is made once, outside the loop in the body.
template <class Body> DEVICE void with_activation(Activation activation, Body body) {
    const float slope = activation.slope;
    if (activation.code == 1) body([=](float x) { return x > 0.0f ? x : slope * x; });
    else if (activation.code == 2) body([](float x) { return tanh(x); });
    else body([](float x) { return x; });
}

// The derivative as a function of the output y.
template <class Body> DEVICE void with_derivative(Activation activation, Body body) {
    const float slope = activation.slope;
    if (activation.code == 1) body([=](float y) { return y <= 0.0f ? slope : 1.0f; });
    else if (activation.code == 2) body([](float y) { return 1.0f - y * y; });
    else body([](float) { return 1.0f; });
}

// The derivative as a function of the input x, and whether it costs more than a few instructions.
template <class Body> DEVICE void with_slope(Activation activation, Body body) {
    const float slope = activation.slope;
    if (activation.code == 2) body([](float x) { const float y = tanh(x); return 1.0f - y * y; }, Yes());
    else if (activation.code == 1) body([=](float x) { return x <= 0.0f ? slope : 1.0f; }, No());
    else body([](float) { return 1.0f; }, No());
}
#else
// For a slope of at most 1, where slope * x is the larger of both below zero; a single instruction chooses. -inf stays where the slope
// is 0.
DEVICE float leaky_relu(float x, float slope) { return maximum(x, slope * x); }

// A thread of a GPU has only a few elements, so it chooses the function for each of them. For the identity, `slope` is 1.
APART float tanh_apart(float x) { return tanh(x); }
template <class Body> DEVICE void with_activation(Activation activation, Body body) {
    body([=](float x) { return activation.code == 2 ? tanh_apart(x) : x > 0.0f ? x : activation.slope * x; });
}
template <class Body> DEVICE void with_derivative(Activation activation, Body body) {
    body([=](float y) { return activation.code == 2 ? 1.0f - y * y : y <= 0.0f ? activation.slope : 1.0f; });
}
template <class Body> DEVICE void with_slope(Activation activation, Body body) {
    body([=](float x) {
        const float y = activation.code == 2 ? tanh_apart(x) : x;
        return activation.code == 2 ? 1.0f - y * y : y <= 0.0f ? activation.slope : 1.0f;
    }, No());
}
#endif
