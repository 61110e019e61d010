// Tiles without tensor cores: f32 on GPUs and in `simt`, and bf16 and tf32 on sm_75. Panels of both operands lie in shared memory as
// (depth, rows), two of each, so that the loads of one step from global memory are under way while the step before it is multiplied.
// A thread owns TM x TN elements of the tile, in groups of 4 x 4; it reads the operands from shared memory in groups of four,
// 128 bits at a time. What comes from global memory passes through registers, in pieces of 16 bytes, or element by element where
// pieces are not whole (see walk.h).
#pragma once
#include "piece.h"

struct alignas(16) Four { float value[4]; };

// A panel of R rows. Where pieces run along the depth (ALONG_K), a thread has several depths of one row, and neighbouring threads the
// same row; so that they write to different banks, the rows of each piece's depths are permuted, in groups of four at least.
template <class Own> struct Panel {
    static constexpr int R = Own::ROWS, GROUP = Own::ALONG_K ? 32 / Own::ACROSS : 0;
    static_assert(GROUP % 4 == 0 && (GROUP == 0 || R % 32 == 0 || R == 16), "groups of four stay together");
    // Where the row `row` of depth d begins is row ^ permuted(d).
    static MEMBER int permuted(int depth) { return depth / Own::WIDTH * GROUP % R; }
    // The line of depth d. Two lines of 16 rows fill all banks, so in every second run of eight depths neighbouring lines change places.
    static MEMBER int line(int depth) { return GROUP > 0 && R == 16 ? depth ^ depth / 8 % 2 : depth; }
};

// What this thread brings of a panel at each step.
template <class Fetch, Way WAY, int ROWS, int STEP> struct Supply {
    typedef Share<Fetch::ALONG_K, ROWS, STEP, PIECE> Own;
    typedef ::Panel<Own> Panel;
    static constexpr bool CHANGED = Fetch::CHANGES && WAY == Way::CHANGED;
    const Fetch& from;
    typename Fetch::template Walk<Own, CHANGED> walk;
    typename Fetch::Raw raw[Own::COUNT];
    bool filled[Own::COUNT];

    MEMBER Supply(const Fetch& fetch, uint32_t first_row, uint32_t k_begin, uint32_t k_end)
        : from(fetch), walk(fetch.template walk<Own, CHANGED>(first_row, k_begin, k_end)) {}
    MEMBER void fetch() {
        UNROLL
        for (int i = 0; i < Own::COUNT; i++) {
            filled[i] = walk.there(i);
            if constexpr (CHANGED) from.read(raw[i], walk, i);
            else load_where(filled[i], raw[i].values, walk.at(i, from.start()));
        }
    }
    MEMBER void put(float* panel) {
        UNROLL
        for (int i = 0; i < Own::COUNT; i++) {
            float v[PIECE] = {};
            if (filled[i]) {
                if constexpr (CHANGED) from.finish(raw[i], walk, i, v);
                else unpack(v, raw[i].values);
            }
            UNROLL
            for (int j = 0; j < PIECE; j++) v[j] = factor(v[j]);
            if (!Own::brings()) continue;
            const int line = Own::line() + i * Own::LINES_APART;
            if constexpr (Own::ALONG_K) {
                const int place = line ^ Panel::permuted(Own::across());
                UNROLL
                for (int j = 0; j < PIECE; j++) panel[Panel::line(Own::across() + j) * ROWS + place] = v[j];
            } else {
                store_whole(panel + line * ROWS + Own::across(), v);
            }
        }
        walk.advance();
    }
};
// The same where pieces are not whole. Neighbouring threads read neighbours in memory.
template <class Fetch, int ROWS, int STEP> struct Supply<Fetch, Way::BY_ELEMENTS, ROWS, STEP> {
    typedef ::Panel<Share<Fetch::ALONG_K, ROWS, STEP, PIECE>> Panel;
    ElementWalk<Fetch> walk;

    MEMBER Supply(const Fetch& fetch, uint32_t first_row, uint32_t k_begin, uint32_t k_end) : walk{fetch, first_row, k_end, k_begin} {}
    MEMBER void fetch() {}
    MEMBER void put(float* panel) {
        ROLLED
        for (int i = thread(); i < ROWS * STEP; i += TILE_THREADS) {
            const int row = Fetch::ALONG_K ? i / STEP : i % ROWS, depth = Fetch::ALONG_K ? i % STEP : i / ROWS;
            panel[Panel::line(depth) * ROWS + (Fetch::ALONG_K ? row ^ Panel::permuted(depth) : row)] = walk.at(row, depth);
        }
        walk.advance(STEP);
    }
};

// v[4 i + j] = panel[4 THREADS i + place + j]: THREADS neighbours read 16 bytes each, next to each other.
template <int THREADS, int N> DEVICE void load_fours(float (&v)[N], const float* panel, int place) {
    UNROLL
    for (int i = 0; i < N / 4; i++) {
        const Four four = *reinterpret_cast<const Four*>(panel + 4 * THREADS * i + place);
        UNROLL
        for (int j = 0; j < 4; j++) v[4 * i + j] = four.value[j];
    }
}

// How a tile of BM by BN is divided among the threads, and into steps along the depth.
template <int BM, int BN> struct Parts {
    static constexpr int ACROSS = BN < 64 ? BN / 4 : 16, DOWN = TILE_THREADS / ACROSS, TM = BM / DOWN, TN = BN / ACROSS;
    static_assert(TM % 4 == 0 && TN % 4 == 0, "a thread owns groups of four");
    // Four loads of 16 bytes a thread, where two stages of both panels then fit into 48 KB of shared memory.
    static constexpr int DEPTH = BM + BN > 192 ? 16 : 32;
};

// acc += the products of one step, whose panels begin at `here`. FAST: whether it is worth its code on a GPU to be unrolled as a whole.
template <int BM, int BN, bool A_ALONG_K, bool B_ALONG_K, class PanelA, class PanelB, bool FAST>
CALLED void multiply_step(float (&acc)[Parts<BM, BN>::TM][Parts<BM, BN>::TN], const float* here, int down, int across) {
    typedef Parts<BM, BN> P;
    [[maybe_unused]] constexpr int TIMES = FAST ? P::DEPTH / 4 : 1;
    UNROLL_BY(TIMES)
    for (int d = 0; d < P::DEPTH; d += 4) {
        const int place_a = A_ALONG_K ? down ^ PanelA::permuted(d) : down, place_b = B_ALONG_K ? across ^ PanelB::permuted(d) : across;
        UNROLL_ON_GPU
        for (int e = d; e < d + 4; e++) {
            float x[P::TM], y[P::TN];
            load_fours<P::DOWN>(x, here + PanelA::line(e) * BM, place_a);
            load_fours<P::ACROSS>(y, here + P::DEPTH * BM + PanelB::line(e) * BN, place_b);
            UNROLL
            for (int i = 0; i < P::TM; i++)
                UNROLL
                for (int j = 0; j < P::TN; j++) acc[i][j] += x[i] * y[j];
        }
    }
}

// The sums of a tile over depths k_begin .. k_end.
template <int BM, int BN, Way WAY_A, Way WAY_B, class A, class B>
DEVICE void sum_tile(float (&acc)[Parts<BM, BN>::TM][Parts<BM, BN>::TN], float* panels, const A& a, const B& b, uint32_t m, uint32_t n, uint32_t k_begin, uint32_t k_end) {
    typedef Parts<BM, BN> P;
    typedef Supply<A, WAY_A, BM, P::DEPTH> SupplyA;
    typedef Supply<B, WAY_B, BN, P::DEPTH> SupplyB;
    constexpr int STAGE = P::DEPTH * (BM + BN);
    constexpr bool FAST = WAY_A != Way::BY_ELEMENTS && WAY_B != Way::BY_ELEMENTS;
    const int down = 4 * (thread() / P::ACROSS), across = 4 * (thread() % P::ACROSS);
    SupplyA supply_a(a, m, k_begin, k_end);
    SupplyB supply_b(b, n, k_begin, k_end);
    UNROLL
    for (int i = 0; i < P::TM; i++)
        UNROLL
        for (int j = 0; j < P::TN; j++) acc[i][j] = 0.0f;

    // Each turn fetches the next step into registers, multiplies the present one, and puts the next one into shared memory. One
    // barrier a turn is enough: the stage that is overwritten was read in the turn before, before that turn's barrier.
    supply_a.fetch();
    supply_b.fetch();
    supply_a.put(panels);
    supply_b.put(panels + P::DEPTH * BM);
    barrier();
    uint32_t stage = 0;
    ROLLED
    for (uint32_t k = k_begin + P::DEPTH; true; k += P::DEPTH) {
        const bool more = k < k_end;
        if (more) {
            supply_a.fetch();
            supply_b.fetch();
        }
        multiply_step<BM, BN, A::ALONG_K, B::ALONG_K, typename SupplyA::Panel, typename SupplyB::Panel, FAST>(acc, panels + stage, down, across);
        if (!more) break;
        stage ^= STAGE;  // 0 or STAGE
        supply_a.put(panels + stage);
        supply_b.put(panels + stage + P::DEPTH * BM);
        barrier();
    }
}

// The tile of C in row `tile_row` of tiles and column blockIdx.x, summed over depths k_begin .. k_end.
template <int BM, int BN, class A, class B, class Epilogue>
DEVICE void tiled_matmul(const A& a, const B& b, const Epilogue& epilogue, uint32_t tile_row, uint32_t k_begin, uint32_t k_end) {
    typedef Parts<BM, BN> P;
    constexpr int ACROSS = P::ACROSS, DOWN = P::DOWN, TM = P::TM, TN = P::TN;
    SHARED(float, panels, 2 * P::DEPTH * (BM + BN));
    const uint32_t m = tile_row * BM, n = blockIdx.x * BN;
    const int down = thread() / ACROSS, across = thread() % ACROSS;
    float acc[TM][TN];
    by_ways(a, b, [&](auto way_a, auto way_b) { sum_tile<BM, BN, way_a.value, way_b.value>(acc, panels, a, b, m, n, k_begin, k_end); });

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
