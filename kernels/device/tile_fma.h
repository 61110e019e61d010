// Tiles by 256 threads, without tensor cores: f32 on GPUs and in `simt`, and bf16 and tf32 on sm_75. Panels of both operands lie in
// shared memory as (depth, rows), two of each, so that the loads of one step from global memory are under way while the step before
// it is multiplied. A thread owns TM x TN elements of the tile, in groups of 4 x 4; it reads the operands from shared memory in
// groups of four, 128 bits at a time.
#pragma once

struct alignas(16) Four { float value[4]; };

// What this thread brings of a panel of R rows by DEPTH. Consecutive threads read consecutive elements of global memory. Where those
// lie along the depth (ALONG_K), eight threads read eight elements of one row, a sector of 32 bytes. STRIDE is the length of a
// depth's rows in shared memory: with it, a warp writes its elements to 32 different banks, be they 8 depths of 4 rows, 32 rows, or
// 2 depths of 16 rows.
template <int R, int DEPTH, class Fetch> struct Stage {
    static constexpr int COUNT = (R * DEPTH + BLOCK - 1) / BLOCK, STRIDE = R == 16 && !Fetch::ALONG_K ? R : R + 4;
    static constexpr bool FULL = R * DEPTH % BLOCK == 0;
    float value[COUNT];

    // Row and depth of element i. ALONG_K: the threads bring 32 rows by 8 depths at a time; where there are only 16 rows, the second
    // half of the threads has the next 8 depths.
    static MEMBER uint32_t row(int i) {
        return Fetch::ALONG_K ? thread() / 8 % (R < 32 ? R : 32) + i / (DEPTH / 8) * 32 : (thread() + i * BLOCK) % R;
    }
    static MEMBER uint32_t depth(int i) {
        return Fetch::ALONG_K ? thread() % 8 + (R < 32 ? thread() / (8 * R) : i % (DEPTH / 8)) * 8 : (thread() + i * BLOCK) / R;
    }

    // A panel may have fewer elements than the block has threads.
    static MEMBER bool inside(int i) { return FULL || thread() + i * BLOCK < R * DEPTH; }

    MEMBER void fetch(const Fetch& from, uint32_t first_row, uint32_t k, uint32_t k_end) {
        UNROLL
        for (int i = 0; i < COUNT; i++) {
            const uint32_t r = first_row + row(i), d = k + depth(i);
            float element = 0.0f;
            if (r < from.rows && d < k_end && inside(i)) from.load(from.run(r, d), 1, [&](uint32_t, float v) { element = v; });
            value[i] = element;
        }
    }
    MEMBER void put(float* panel) const {
        UNROLL
        for (int i = 0; i < COUNT; i++)
            if (inside(i)) panel[depth(i) * STRIDE + row(i)] = value[i];
    }
};

// v[4 i + j] = panel[4 THREADS i + 4 place + j]: THREADS neighbours read 16 bytes each, next to each other.
template <int THREADS, int N> DEVICE void load_fours(float (&v)[N], const float* panel, int place) {
    UNROLL
    for (int i = 0; i < N / 4; i++) {
        const Four four = *reinterpret_cast<const Four*>(panel + 4 * THREADS * i + 4 * place);
        UNROLL
        for (int j = 0; j < 4; j++) v[4 * i + j] = four.value[j];
    }
}

// The tile of C in row `tile_row` of tiles and column blockIdx.x, summed over depths k_begin .. k_end.
template <int BM, int BN, class A, class B, class Epilogue>
DEVICE void tiled_matmul(const A& a, const B& b, const Epilogue& epilogue, uint32_t tile_row, uint32_t k_begin, uint32_t k_end) {
    // The step along the depth: two stages of both panels fit into 48 KB of shared memory.
    constexpr int DEPTH = BM + BN > 256 ? 8 : 16;
    typedef Stage<BM, DEPTH, A> StageA;
    typedef Stage<BN, DEPTH, B> StageB;
    constexpr int ACROSS = BN < 64 ? BN / 4 : 16, DOWN = BLOCK / ACROSS;
    constexpr int TM = BM / DOWN, TN = BN / ACROSS, A_STRIDE = StageA::STRIDE, B_STRIDE = StageB::STRIDE;
    static_assert(TM % 4 == 0 && TN % 4 == 0, "a thread owns groups of four");
    SHARED(float, panel_a, 2 * DEPTH * A_STRIDE);
    SHARED(float, panel_b, 2 * DEPTH * B_STRIDE);
    const uint32_t m = tile_row * BM, n = blockIdx.x * BN;
    const int down = thread() / ACROSS, across = thread() % ACROSS;
    float acc[TM][TN];
    UNROLL
    for (int i = 0; i < TM; i++)
        UNROLL
        for (int j = 0; j < TN; j++) acc[i][j] = 0.0f;

    // Turn j fetches step j into registers, multiplies step j - 1, and puts step j into shared memory. One barrier a turn is enough:
    // the panel that step j overwrites was read in turn j - 1, before that turn's barrier.
    for (uint32_t k = k_begin, stage = 0;; k += DEPTH, stage ^= 1) {
        StageA next_a;
        StageB next_b;
        if (k < k_end) {
            next_a.fetch(a, m, k, k_end);
            next_b.fetch(b, n, k, k_end);
        }
        if (k > k_begin) {
            const float* here_a = panel_a + (stage ^ 1) * DEPTH * A_STRIDE;
            const float* here_b = panel_b + (stage ^ 1) * DEPTH * B_STRIDE;
            UNROLL_FOUR
            for (int d = 0; d < DEPTH; d++) {
                float x[TM], y[TN];
                load_fours<DOWN>(x, here_a + d * A_STRIDE, down);
                load_fours<ACROSS>(y, here_b + d * B_STRIDE, across);
                UNROLL
                for (int i = 0; i < TM; i++)
                    UNROLL
                    for (int j = 0; j < TN; j++) acc[i][j] += x[i] * y[j];
            }
        }
        if (k >= k_end) break;
        next_a.put(panel_a + stage * DEPTH * A_STRIDE);
        next_b.put(panel_b + stage * DEPTH * B_STRIDE);
        barrier();
    }
    // The four rows that an epilogue may want to have summed belong to one thread.
    UNROLL
    for (int i = 0; i < TM; i += 4) {
        const uint32_t row = m + 4 * DOWN * (i / 4) + 4 * down;
        UNROLL
        for (int j = 0; j < TN; j += 4) {
            const uint32_t column = n + 4 * ACROSS * (j / 4) + 4 * across;
            if (column >= b.rows) continue;
            const uint32_t count = least(4, b.rows - column);
            if (epilogue.rows == 4) {
                UNROLL
                for (int x = j; x < j + 4; x++) acc[i][x] = (acc[i][x] + acc[i + 1][x]) + (acc[i + 2][x] + acc[i + 3][x]);
                if (row < a.rows) epilogue.store(row / 4, column, count, acc[i] + j);
            } else {
                UNROLL
                for (int y = 0; y < 4; y++)
                    if (row + y < a.rows) epilogue.store(row + y, column, count, acc[i + y] + j);
            }
        }
    }
}
