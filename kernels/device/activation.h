// Activations, and their derivatives from the output alone, or from the input. The mirror of `Activation` in src/ops/mod.rs.
#pragma once
#include "math.h"

struct Yes { static constexpr bool value = true; };
struct No { static constexpr bool value = false; };

struct Activation {
    uint32_t code;  // 0 identity, 1 leaky ReLU, 2 tanh
    float slope;    // of the leaky ReLU below zero, >= 0
};

#if defined(ZGAN_HOST)
// Call `body` with a function of one float: the choice is made once, outside the loop.
template <class Body> DEVICE void with_activation(Activation activation, Body body) {
    const float slope = activation.slope;
    if (activation.code == 1) body([=](float x) { return x > 0.0f ? x : slope * x; });
    else if (activation.code == 2) body([](float x) { return tanh(x); });
    else body([](float x) { return x; });
}

// The same with the derivative as a function of the output y.
template <class Body> DEVICE void with_derivative(Activation activation, Body body) {
    const float slope = activation.slope;
    if (activation.code == 1) body([=](float y) { return y > 0.0f ? 1.0f : slope; });
    else if (activation.code == 2) body([](float y) { return 1.0f - y * y; });
    else body([](float) { return 1.0f; });
}

// Calls `body` with the derivative as a function of the input x, and whether that costs more than a few instructions.
template <class Body> DEVICE void with_slope(Activation activation, Body body) {
    const float slope = activation.slope;
    if (activation.code == 2) body([](float x) { const float y = tanh(x); return 1.0f - y * y; }, Yes());
    else body([=](float x) { return x > 0.0f ? 1.0f : slope; }, No());  // the identity has slope 1
}
#else
// A thread has a few elements, not a loop: one body, which selects. The identity is a leaky ReLU of slope 1.
APART float tanh_apart(float x) { return tanh(x); }
template <class Body> DEVICE void with_activation(Activation activation, Body body) {
    body([=](float x) { return activation.code == 2 ? tanh_apart(x) : x > 0.0f ? x : activation.slope * x; });
}
template <class Body> DEVICE void with_derivative(Activation activation, Body body) {
    body([=](float y) { return activation.code == 2 ? 1.0f - y * y : y > 0.0f ? 1.0f : activation.slope; });
}
template <class Body> DEVICE void with_slope(Activation activation, Body body) {
    body([=](float x) {
        const float y = activation.code == 2 ? tanh_apart(x) : x;
        return activation.code == 2 ? 1.0f - y * y : y > 0.0f ? 1.0f : activation.slope;
    }, No());
}
#endif
