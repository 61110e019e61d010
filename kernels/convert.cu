// Converts between f32 and the 16 bits that a step works in: for the copy of the weights that products read, and for features on
// their way to the logits.
//
//   narrow: y = x, to the nearest, ties to even     widen: y = x
//
// 6 bytes an element.
#include "device/execution.h"
#include "device/number.h"
#include "device/reduce.h"

PRECISIONS(bf16, f16)

KERNEL(256, 0) PRECISE(convert_narrow)(T* RESTRICT y,            // (n)
                                       const float* RESTRICT x,  // (n)
                                       uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk, last = n - first < chunk ? n : first + chunk;
    INDEPENDENT
    for (Index i = Index(first) + thread(); i < last; i += BLOCK) y[i] = x[i];
}

KERNEL(256, 0) PRECISE(convert_widen)(float* RESTRICT y,    // (n)
                                      const T* RESTRICT x,  // (n)
                                      uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk, last = n - first < chunk ? n : first + chunk;
    INDEPENDENT
    for (Index i = Index(first) + thread(); i < last; i += BLOCK) y[i] = x[i];
}
