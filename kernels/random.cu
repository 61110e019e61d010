// Random numbers from a counter, so that nothing has to be kept between steps: in every execution, element e of stream s in step t
// gets word e % 4 of Philox(counter (e / 4, s, t, 0), key = the run's seed).
//
//   uniform: low + (high - low) u, u = a multiple of 2^-24 in [0, 1)
//   normal:  Box-Muller: of each two words, radius sqrt(-2 ln u) from the first (u in (0, 1], 31 bits, so up to 6.7
//            deviations) times cosine and sine of a turn from the second
//   ring:    points (x, y): one of eight centres on a circle of radius 2, all equally likely, plus normal noise of deviation
//            0.02. Point n takes its noise from words 0 and 1 of counter (n, s, t, 0), its centre from word 2
//   grid:    the same, with 25 centres, at the whole numbers from -2 to 2 on both axes, and deviation 0.05. Centre c, the high
//            word of word 2 times 25, lies at (c % 5 - 2, c / 5 - 2)
//   labels:  the high word of word * classes; the share of a class is off by at most classes / 2^32 of itself
#include "device/execution.h"
#include "device/math.h"
#include "device/number.h"
#include "device/philox.h"
#include "device/state.h"

PRECISIONS(f32, bf16, f16)

KERNEL(256, 0) PRECISE(random_uniform)(T* RESTRICT out,              // (n)
                                       const State* RESTRICT state,  // (1)
                                       uint32_t stream, float low, float high, uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk, last = n - first < chunk ? n : first + chunk;
    const float span = high - low;
    each_word(open_stream(state, stream), first, last, [=](uint32_t e, uint32_t word) { out[e] = low + span * to_uniform(word); });
}

struct Normals { float value[4]; };
DEVICE Normals to_normals(const Philox& random) {
    Normals normals;
    for (int pair = 0; pair < 4; pair += 2) {
        const float u = float(int32_t(random.word[pair] >> 1)) * 4.65661287e-10f + 2.32830644e-10f;
        const float radius = square_root(-2.0f * log(u));
        const SineCosine turn = sine_cosine_turns(to_uniform(random.word[pair + 1]));
        normals.value[pair] = radius * turn.cosine;
        normals.value[pair + 1] = radius * turn.sine;
    }
    return normals;
}

KERNEL(256, 0) PRECISE(random_normal)(T* RESTRICT out,              // (n)
                                      const State* RESTRICT state,  // (1)
                                      uint32_t stream, uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk, last = n - first < chunk ? n : first + chunk;  // chunk: a multiple of 4
    const Stream random = open_stream(state, stream);
    INDEPENDENT
    for (uint32_t index = first / 4 + thread(); index < last / 4; index += BLOCK) {
        const Normals normals = to_normals(random.at(index));
        out[4 * index + 0] = normals.value[0];
        out[4 * index + 1] = normals.value[1];
        out[4 * index + 2] = normals.value[2];
        out[4 * index + 3] = normals.value[3];
    }
    const uint32_t rest = last % 4;
    if (thread() == 0 && rest != 0) {
        const Normals normals = to_normals(random.at(last / 4));
        for (uint32_t k = 0; k < rest; k++) out[last - rest + k] = normals.value[k];
    }
}

// Noise of this deviation about the centre that word 2 of a point chooses.
struct Centre { float x, y; };
template <class Choose>
DEVICE void each_point(T* RESTRICT out, const Stream& random, float deviation, uint32_t n, uint32_t chunk, Choose choose) {
    const uint32_t first = blockIdx.x * chunk, last = n - first < chunk ? n : first + chunk;
    INDEPENDENT
    for (uint32_t point = first + thread(); point < last; point += BLOCK) {
        const Philox words = random.at(point);
        const Centre centre = choose(words.word[2]);
        const Normals normals = to_normals(words);
        out[2 * point + 0] = centre.x + deviation * normals.value[0];
        out[2 * point + 1] = centre.y + deviation * normals.value[1];
    }
}

KERNEL(256, 0) PRECISE(random_ring)(T* RESTRICT out,              // (n, 2)
                                    const State* RESTRICT state,  // (1)
                                    uint32_t stream, uint32_t n, uint32_t chunk) {
    each_point(out, open_stream(state, stream), 0.02f, n, chunk, [](uint32_t word) -> Centre {
        const SineCosine turn = sine_cosine_turns(float(int32_t(word >> 29)) * 0.125f);
        return {2.0f * turn.cosine, 2.0f * turn.sine};
    });
}

KERNEL(256, 0) PRECISE(random_grid)(T* RESTRICT out,              // (n, 2)
                                    const State* RESTRICT state,  // (1)
                                    uint32_t stream, uint32_t n, uint32_t chunk) {
    each_point(out, open_stream(state, stream), 0.05f, n, chunk, [](uint32_t word) -> Centre {
        const int32_t centre = int32_t(multiply_high(word, 25));
        return {float(centre % 5 - 2), float(centre / 5 - 2)};
    });
}

KERNEL_ONCE(256, 0) random_labels(uint32_t* RESTRICT out,       // (n)
                                  const State* RESTRICT state,  // (1)
                                  uint32_t stream, uint32_t classes, uint32_t n, uint32_t chunk) {
    const uint32_t first = blockIdx.x * chunk, last = n - first < chunk ? n : first + chunk;
    each_word(open_stream(state, stream), first, last, [=](uint32_t e, uint32_t word) { out[e] = multiply_high(word, classes); });
}
