// What the crate tch does not have of libtorch, as plain C: gradients with seeds of one's own, the passes of a
// convolution alone, a leaky ReLU with a slope, the fused Adam, and averages of many tensors in one call.
//
// Tensors are borrowed, results are new ones, for the caller to free. A function that fails returns false and writes why.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>

using at::Tensor;

namespace {

template <class Body> bool guarded(char* why, size_t room, Body body) {
    try {
        body();
        return true;
    } catch (const std::exception& e) {
        std::snprintf(why, room, "%s", e.what());
        return false;
    }
}

std::vector<Tensor> list(const Tensor* const* tensors, size_t n) {
    std::vector<Tensor> copies;
    copies.reserve(n);
    for (size_t i = 0; i < n; i++) copies.push_back(*tensors[i]);
    return copies;
}

}  // namespace

extern "C" {

// results[i] = d output / d inputs[i], with the seed `seed`, or 1 where it is null.
bool zgan_torch_gradients(Tensor** results, const Tensor* output, const Tensor* seed, const Tensor* const* inputs,
                          size_t n, bool keep_graph, char* why, size_t room) {
    return guarded(why, room, [&] {
        std::vector<Tensor> seeds;
        if (seed) seeds.push_back(*seed);
        auto found = torch::autograd::grad({*output}, list(inputs, n), seeds, keep_graph);
        for (size_t i = 0; i < n; i++) results[i] = new Tensor(std::move(found[i]));
    });
}

// Of a convolution with stride 1 and padding 1 without a bias.
bool zgan_torch_convolution_gradient(Tensor** result, const Tensor* dy, const Tensor* x, const Tensor* filters,
                                     bool of_filters, char* why, size_t room) {
    return guarded(why, room, [&] {
        auto [dx, dfilters, dbias] = at::convolution_backward(*dy, *x, *filters, at::OptionalIntArrayRef(), {1, 1},
                                                              {1, 1}, {1, 1}, false, {0, 0}, 1,
                                                              {!of_filters, of_filters, false});
        *result = new Tensor(of_filters ? dfilters : dx);
    });
}

// In place.
bool zgan_torch_leaky_relu(const Tensor* x, double slope, char* why, size_t room) {
    return guarded(why, room, [&] {
        Tensor same = *x;
        at::leaky_relu_(same, slope);
    });
}

// As torch.optim.Adam(fused=True): the steps are counted, then all tensors are updated in one call.
bool zgan_torch_adam(const Tensor* const* parameters, const Tensor* const* gradients, const Tensor* const* first,
                     const Tensor* const* second, const Tensor* const* steps, size_t n, double rate, double beta1,
                     double beta2, double eps, char* why, size_t room) {
    return guarded(why, room, [&] {
        at::NoGradGuard no_grad;
        auto counters = list(steps, n), moved = list(gradients, n);
        // The fused update walks memory. Where a gradient lies otherwise than its parameter, autograd would have copied it
        // on accumulating it.
        for (size_t i = 0; i < n; i++) {
            if (moved[i].strides() != parameters[i]->strides()) moved[i] = at::empty_like(*parameters[i]).copy_(moved[i]);
        }
        at::_foreach_add_(counters, 1);
        at::_fused_adam_(list(parameters, n), moved, list(first, n), list(second, n), {}, counters, rate,
                         beta1, beta2, 0.0, eps, false, false);
    });
}

// into += weight * (from - into), tensor by tensor.
bool zgan_torch_lerp(const Tensor* const* into, const Tensor* const* from, size_t n, double weight, char* why,
                     size_t room) {
    return guarded(why, room, [&] {
        at::NoGradGuard no_grad;
        at::_foreach_lerp_(list(into, n), list(from, n), weight);
    });
}

// Whether matrix products, and convolutions, may round their operands to TF32 on a GPU.
void zgan_torch_tf32(bool* products, bool* convolutions) {
    *products = at::globalContext().allowTF32CuBLAS();
    *convolutions = at::globalContext().allowTF32CuDNN();
}

}  // extern "C"
