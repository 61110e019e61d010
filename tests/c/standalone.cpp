// Runs the four kernels of kernels/study/log_partition.cu on the CPU, a system thread for each of a block's, and compares them
// with double precision.
#include <math.h>
#include <pthread.h>
#include <stdio.h>

#include <thread>
#include <vector>

struct Triple { int x, y, z; };
static thread_local Triple threadIdx;
static Triple blockDim;
static pthread_barrier_t whole_block, warps_of_block[32];
static float exchanged[1024];

static void __syncthreads() { pthread_barrier_wait(&whole_block); }
static float __shfl_xor_sync(unsigned, float value, int mask) {
    pthread_barrier_t* warp = &warps_of_block[threadIdx.x / 32];
    exchanged[threadIdx.x] = value;
    pthread_barrier_wait(warp);
    const float other = exchanged[threadIdx.x ^ mask];
    pthread_barrier_wait(warp);
    return other;
}
#define __global__
#define __device__ static
#define __shared__ static
#include "../../kernels/study/log_partition.cu"

typedef void Kernel(float*, float*, float*, const float*, const float*, int, int);

static void launch(Kernel* kernel, int threads, std::vector<float>* out, const std::vector<float>& a, const std::vector<float>& b) {
    blockDim = {threads, 1, 1};
    pthread_barrier_init(&whole_block, nullptr, threads);
    for (int w = 0; w < threads / 32; w++) pthread_barrier_init(&warps_of_block[w], nullptr, 32);
    std::vector<std::thread> block;
    for (int i = 0; i < threads; i++)
        block.emplace_back([=, &a, &b] {
            threadIdx = {i, 0, 0};
            kernel(out[0].data(), out[1].data(), out[2].data(), a.data(), b.data(), int(a.size()), int(b.size()));
        });
    for (auto& thread : block) thread.join();
}

int main() {
    const struct { const char* name; Kernel* kernel; int threads; } kernels[] = {
        {"formula", log_partition_formula, 1}, {"steps", log_partition_steps, 64},
        {"passes", log_partition_passes, 64}, {"once", log_partition_once, 64},
    };
    const int sizes[][2] = {{1, 1}, {1, 40}, {31, 33}, {64, 64}, {200, 100}};
    int wrong = 0;
    for (const auto& [N, M] : sizes) {
        std::vector<float> a(N), b(M);
        for (int i = 0; i < N; i++) a[i] = 60.0f * sinf(1.7f * i);
        for (int j = 0; j < M; j++) b[j] = 5.0f * cosf(2.3f * j) - 2.0f;
        double S = 0, real = 0, all = 0;
        for (float x : a) S += exp(-double(x)), real += x, all += x;
        for (float x : b) S += exp(-double(x)), all += x;
        const int K = N + M;
        std::vector<double> expected = {real / N + log(S), all / K + log(S)};
        for (float x : a) expected.push_back(1.0 / N - exp(-double(x)) / S);
        for (float x : b) expected.push_back(-exp(-double(x)) / S);
        for (float x : b) expected.push_back(1.0 / K - exp(-double(x)) / S);
        for (const auto& [name, kernel, threads] : kernels) {
            std::vector<float> out[3] = {std::vector<float>(2, NAN), std::vector<float>(K, NAN), std::vector<float>(M, NAN)};
            launch(kernel, threads, out, a, b);
            size_t at = 0;
            for (const auto& part : out)
                for (float found : part) {
                    const double off = fabs(found - expected[at]) / (1.0 + fabs(expected[at]));
                    if (!(off < 2e-6)) printf("%s, %d + %d, number %zu: %g, expected %g\n", name, N, M, at, found, expected[at]), wrong++;
                    at++;
                }
        }
    }
    return wrong > 0;
}
