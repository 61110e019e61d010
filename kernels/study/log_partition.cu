// The log-partition of Softmax GAN in plain CUDA, to be read and compiled alone: one computation in four kernels, from the
// formulas to a single look at each logit. (zgan itself runs kernels/log_partition.cu, which also has other losses, more logits
// than a block takes, and the CPU.)
//
//   N real logits a, M logits b of fakes; together x, K = N + M of them
//   m = max(-x)      S = sum over x of exp(-x - m)      L = m + ln S, which is ln sum of exp(-x)
//   L_D = mean(a) + L          dL_D/da = 1/N - p        dL_D/db = -p        p = exp(-x - m) / S
//   L_G = mean(x) + L          dL_G/db = 1/K - p
//
// All four have the same arguments: losses (2), L_D and L_G; seed_d (K), the gradient of L_D, first by the real logits;
// seed_g (M), that of L_G by the fakes' logits; real (N); fake (M). Each is launched as one block.

// Logit i of all, the real ones first.
__device__ float logit(const float* real, const float* fake, int N, int i) { return i < N ? real[i] : fake[i - N]; }

// 1. As the formulas say: one thread, <<<1, 1>>>.
extern "C" __global__ void log_partition_formula(float* losses, float* seed_d, float* seed_g, const float* real,
                                                 const float* fake, int N, int M) {
    const int K = N + M;
    float m = -logit(real, fake, N, 0);
    for (int i = 1; i < K; i++) m = fmaxf(m, -logit(real, fake, N, i));
    float S = 0.0f;
    for (int i = 0; i < K; i++) S += expf(-logit(real, fake, N, i) - m);
    float sum_real = 0.0f, sum_fake = 0.0f;
    for (int i = 0; i < N; i++) sum_real += real[i];
    for (int j = 0; j < M; j++) sum_fake += fake[j];
    for (int i = 0; i < N; i++) seed_d[i] = 1.0f / N - expf(-real[i] - m) / S;
    for (int j = 0; j < M; j++) seed_d[N + j] = -expf(-fake[j] - m) / S;
    for (int j = 0; j < M; j++) seed_g[j] = 1.0f / K - expf(-fake[j] - m) / S;
    losses[0] = sum_real / N + m + logf(S);
    losses[1] = (sum_real + sum_fake) / K + m + logf(S);
}

// 2. Every step through memory: a block, <<<1, 256>>>, with a loop over memory for each step, as if it were a kernel of its own. Threads share a step's
// numbers out among them; sums and maxima are joined by a tree in shared memory, which needs a power of two of threads.
__device__ float join_by_tree(float value, bool maximum) {
    __shared__ float parts[1024];
    parts[threadIdx.x] = value;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            const float a = parts[threadIdx.x], b = parts[threadIdx.x + half];
            parts[threadIdx.x] = maximum ? fmaxf(a, b) : a + b;
        }
        __syncthreads();
    }
    const float joined = parts[0];
    __syncthreads();  // the parts may be written again at once
    return joined;
}

extern "C" __global__ void log_partition_steps(float* losses, float* seed_d, float* seed_g, const float* real,
                                               const float* fake, int N, int M) {
    const int K = N + M, first = threadIdx.x, step = blockDim.x;
    for (int i = first; i < K; i += step) seed_d[i] = -logit(real, fake, N, i);
    float part = -3.4e38f;
    for (int i = first; i < K; i += step) part = fmaxf(part, seed_d[i]);
    const float m = join_by_tree(part, true);
    for (int i = first; i < K; i += step) seed_d[i] = seed_d[i] - m;
    for (int i = first; i < K; i += step) seed_d[i] = expf(seed_d[i]);
    part = 0.0f;
    for (int i = first; i < K; i += step) part += seed_d[i];
    const float S = join_by_tree(part, false);
    part = 0.0f;
    for (int i = first; i < N; i += step) part += real[i];
    const float sum_real = join_by_tree(part, false);
    part = 0.0f;
    for (int j = first; j < M; j += step) part += fake[j];
    const float sum_fake = join_by_tree(part, false);
    for (int i = first; i < K; i += step) seed_d[i] = seed_d[i] / S;
    for (int i = first; i < K; i += step) if (i >= N) seed_g[i - N] = 1.0f / K - seed_d[i];
    for (int i = first; i < K; i += step) seed_d[i] = (i < N ? 1.0f / N : 0.0f) - seed_d[i];
    if (first == 0) losses[0] = sum_real / N + m + logf(S);
    if (first == 0) losses[1] = (sum_real + sum_fake) / K + m + logf(S);
}

// 3. Three passes: a block goes through the logits for the maximum; for all sums together, where the exponentials are left in
// the place of the gradients; for the gradients. Within a warp, threads join their numbers by shuffles, without memory or
// barriers; then every thread joins those of the warps. It needs whole warps.
struct Three { float a, b, c; };

__device__ Three join_by_shuffles(Three v, bool maximum) {
    __shared__ Three warps[32];
    for (int mask = 16; mask > 0; mask /= 2) {
        const float a = __shfl_xor_sync(0xffffffffu, v.a, mask);
        v.a = maximum ? fmaxf(v.a, a) : v.a + a;
        v.b += __shfl_xor_sync(0xffffffffu, v.b, mask);
        v.c += __shfl_xor_sync(0xffffffffu, v.c, mask);
    }
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
    __syncthreads();
    v = warps[0];
    for (int w = 1; w < blockDim.x / 32; w++) {
        v.a = maximum ? fmaxf(v.a, warps[w].a) : v.a + warps[w].a;
        v.b += warps[w].b;
        v.c += warps[w].c;
    }
    __syncthreads();
    return v;
}

extern "C" __global__ void log_partition_passes(float* losses, float* seed_d, float* seed_g, const float* real,
                                                const float* fake, int N, int M) {
    const int K = N + M, first = threadIdx.x, step = blockDim.x;
    Three most = {-3.4e38f, 0.0f, 0.0f};
    for (int i = first; i < K; i += step) most.a = fmaxf(most.a, -logit(real, fake, N, i));
    const float m = join_by_shuffles(most, true).a;
    Three sums = {0.0f, 0.0f, 0.0f};
    for (int i = first; i < K; i += step) {
        const float x = logit(real, fake, N, i);
        seed_d[i] = expf(-x - m);
        sums.a += seed_d[i];
        sums.b += i < N ? x : 0.0f;
        sums.c += x;
    }
    sums = join_by_shuffles(sums, false);
    for (int i = first; i < K; i += step) {
        const float p = seed_d[i] / sums.a;
        seed_d[i] = (i < N ? 1.0f / N : 0.0f) - p;
        if (i >= N) seed_g[i - N] = 1.0f / K - p;
    }
    if (first == 0) {
        losses[0] = sums.b / N + m + logf(sums.a);
        losses[1] = sums.c / K + m + logf(sums.a);
    }
}

// 4. One look at each logit: it is read once and stays in a register, up to 8 for a thread: K is at most 8 times the threads. A thread's sum is
// about its own maximum. Where two are joined, the sum about the lower maximum is scaled down, so that maximum and sums take
// one exchange.
struct Softmax { float m, S, sum_real, sum_all; };

__device__ Softmax join(Softmax a, Softmax b) {
    const float m = fmaxf(a.m, b.m);
    return {m, a.S * expf(a.m - m) + b.S * expf(b.m - m), a.sum_real + b.sum_real, a.sum_all + b.sum_all};
}

extern "C" __global__ void log_partition_once(float* losses, float* seed_d, float* seed_g, const float* real,
                                              const float* fake, int N, int M) {
    __shared__ Softmax warps[32];
    const int K = N + M, first = threadIdx.x, step = blockDim.x;
    float x[8];
    Softmax all = {-3.4e38f, 0.0f, 0.0f, 0.0f};
    for (int k = 0; k < 8; k++) {
        const int i = first + k * step;
        if (i < K) {
            x[k] = logit(real, fake, N, i);
            all = join(all, {-x[k], 1.0f, i < N ? x[k] : 0.0f, x[k]});
        }
    }
    for (int mask = 16; mask > 0; mask /= 2) {
        Softmax other;
        other.m = __shfl_xor_sync(0xffffffffu, all.m, mask);
        other.S = __shfl_xor_sync(0xffffffffu, all.S, mask);
        other.sum_real = __shfl_xor_sync(0xffffffffu, all.sum_real, mask);
        other.sum_all = __shfl_xor_sync(0xffffffffu, all.sum_all, mask);
        all = join(all, other);
    }
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = all;
    __syncthreads();
    all = warps[0];
    for (int w = 1; w < blockDim.x / 32; w++) all = join(all, warps[w]);
    for (int k = 0; k < 8; k++) {
        const int i = first + k * step;
        if (i < K) {
            const float p = expf(-x[k] - all.m) / all.S;
            seed_d[i] = (i < N ? 1.0f / N : 0.0f) - p;
            if (i >= N) seed_g[i - N] = 1.0f / K - p;
        }
    }
    if (first == 0) {
        losses[0] = all.sum_real / N + all.m + logf(all.S);
        losses[1] = all.sum_all / K + all.m + logf(all.S);
    }
}
