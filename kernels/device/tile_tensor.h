// Tiles on tensor cores, for 16-bit numbers and tf32. Each of 4 warps has a part of the tile, which it sums in f32, in fragments of
// 16 x 8. Panels of both operands lie in shared memory in the order of global memory, in pieces of 16 bytes. There are several
// stages: while one step along the depth is multiplied, the next ones are on their way.
//
// An operand that reading does not change is copied (copy_async), with zeros past its end. One that is changed on the way
// (normalised, activated, masked, scaled) passes through registers: it is read before the products of a turn, and changed and put
// into the panel after them. One whose pieces are not whole (see tile.h) is read element by element, which is correct but slow.
// Each of the three ways has a loop of its own, so that none pays for another.
//
// Lanes that access shared memory at the same time use different banks: Panel permutes the pieces of each line to that end.
#pragma once
#include "matrix.h"
#include "piece.h"

// Depth of one instruction.
constexpr int DEPTH_OF_STEP = 2 * PIECE;

// A panel of ROWS by DEPTH elements in pieces. A line of pieces runs along the depth (ALONG_K) or along the rows.
template <bool ALONG_DEPTH, int ROWS, int DEPTH> struct Panel {
    static constexpr bool ALONG_K = ALONG_DEPTH;
    static constexpr int LINES = ALONG_K ? ROWS : DEPTH, ACROSS = (ALONG_K ? DEPTH : ROWS) / PIECE, PIECES = LINES * ACROSS;
    // Eight pieces fill all banks. The eight that load_matrices reads together have the same place in eight lines. Where numbers of
    // 32 bits are to be transposed, lanes read together from two neighbouring places in four lines.
    static constexpr int SPAN = ACROSS < 8 ? ACROSS : 8, STEP = ALONG_K || sizeof(T) == 2 ? 1 : 2;
    static MEMBER int at(int line, int across) { return line * ACROSS + (across ^ (line * SPAN / 8 * STEP % SPAN)); }
    // Lines that are so far apart permute their pieces alike.
    static constexpr int PERIOD = 8 / STEP;
};

// The pieces of a panel that this thread brings.
template <class Panel, class Fetch, Way WAY, int ROWS, int DEPTH> struct Supply {
    typedef Share<Panel::ALONG_K, ROWS, DEPTH, PIECE> Own;
    static constexpr int COUNT = Own::COUNT;
    static constexpr bool CHANGED = Fetch::CHANGES && WAY != Way::COPIED, COPIED = ASYNC_COPIES && !CHANGED, PUTS = !COPIED;
    static_assert(Own::LINES_APART % Panel::PERIOD == 0, "a thread's pieces lie alike in their lines");
    const Fetch& from;
    typename Fetch::template Walk<Own, CHANGED> walk;
    const SharedAddress to;  // where the first piece lies in the first stage's panel
    static constexpr int SPACING = Own::LINES_APART * Panel::ACROSS * 16;
    typename Fetch::Raw raw[COUNT];
    uint32_t manner = 0;  // the way in which pieces are changed

    MEMBER Supply(const Fetch& fetch, Piece* panel, uint32_t first_row, uint32_t k_begin, uint32_t k_end)
        : from(fetch), walk(fetch.template walk<Own, CHANGED>(first_row, k_begin, k_end)), to(shared_address(panel + Panel::at(Own::line(), Own::across() / PIECE))) {
        if constexpr (CHANGED) manner = from.manner(walk);
    }

    // Comes before the products of a turn: starts the copies of pieces that are not changed, reads the others into registers. The
    // panel to fill begins `stage` bytes after the first one.
    MEMBER void fetch(uint32_t stage) {
        UNROLL
        for (int i = 0; i < COUNT; i++) {
            if constexpr (COPIED) {
                if (Own::brings()) copy_async(to + stage + i * SPACING, walk.at(i, from.start()), walk.there(i) ? 16 : 0);
            } else if constexpr (CHANGED) {
                from.read(raw[i], walk, i);
            } else {
                load_where(walk.there(i), raw[i].values, walk.at(i, from.start()));
            }
        }
        if constexpr (COPIED) walk.advance();
    }
    // Comes after the products: changes what was read into registers, puts it into the panel, and moves on. What lies outside of the
    // operand or the image stays zero: it is not normalised or activated.
    MEMBER void put(uint32_t stage) {
        if constexpr (CHANGED) from.with_change(manner, walk, [&](auto change) { put_each(stage, change); });
        else if constexpr (!COPIED) put_each(stage, [](const typename Fetch::Raw& raw, int) { return raw.values; });
        if constexpr (!COPIED) walk.advance();
    }
    template <class Change> MEMBER void put_each(uint32_t stage, Change change) const {
        UNROLL
        for (int i = 0; i < COUNT; i++) {
            const Piece made = change(raw[i], i);
            if (Own::brings()) store_or_zero(to + stage + i * SPACING, made.word, walk.there(i));
        }
    }
};
// The same where pieces are not whole.
template <class Panel, class Fetch, int ROWS, int DEPTH> struct Supply<Panel, Fetch, Way::BY_ELEMENTS, ROWS, DEPTH> {
    static constexpr bool PUTS = true;
    ElementWalk<Fetch> walk;
    Piece* const panel;

    MEMBER Supply(const Fetch& fetch, Piece* panel, uint32_t first_row, uint32_t k_begin, uint32_t k_end) : walk{fetch, first_row, k_end, k_begin}, panel(panel) {}
    MEMBER void fetch(uint32_t) {}
    MEMBER void put(uint32_t stage) {
        ROLLED
        for (int piece = thread(); piece < Panel::PIECES; piece += TILE_THREADS) {
            const int line = piece / Panel::ACROSS, across = piece % Panel::ACROSS * PIECE;
            T* const to = reinterpret_cast<T*>(panel + stage / 16 + Panel::at(line, across / PIECE));
            ROLLED
            for (int j = 0; j < PIECE; j++) to[j] = T(Panel::ALONG_K ? walk.at(line, across + j) : walk.at(across + j, line));
        }
        walk.advance(DEPTH);
    }
};

// Rounds a fragment to tf32, where that is what the instruction multiplies. Numbers of 16 bits are rounded already.
DEVICE void round_fragment([[maybe_unused]] uint32_t (&r)[4]) {
#if PRECISION_TF32
    UNROLL
    for (int i = 0; i < 4; i++) r[i] = float_to_bits(round_to_tf32(bits_to_float(r[i])));
#endif
}
// Reads fragments of a panel of 16 rows each, from `row` on. A fragment is four matrices, one register each: those that begin at
// (row, k), (row + 8, k), (row, k + h) and (row + 8, k + h), where h is half the depth of an instruction. They are a fragment of A.
// BY_DEPTH: the second and the third are exchanged, which makes two fragments of B. Addresses of a thread that differ by more than a
// constant are computed once.
template <bool BY_DEPTH, class Panel, int FRAGMENTS, int STEPS> struct Reader {
    static constexpr bool BY_WORDS = !Panel::ALONG_K && sizeof(T) == 4;  // no instruction transposes numbers of 32 bits
    static constexpr int BASES = Panel::ALONG_K ? STEPS : BY_WORDS ? 2 * FRAGMENTS : FRAGMENTS;
    SharedAddress base[BASES];

    MEMBER Reader(SharedAddress panel, int row) {
        const int lane = thread() % WARP;
        UNROLL
        for (int i = 0; i < BASES; i++) {
            if constexpr (Panel::ALONG_K) {
                const int down = BY_DEPTH ? lane / 16 * 8 + lane % 8 : lane % 16, right = BY_DEPTH ? lane / 8 % 2 : lane / 16;
                base[i] = panel + Panel::at(row + down, 2 * i + right) * 16;
            } else if constexpr (!BY_WORDS) {
                const int down = BY_DEPTH ? lane % 16 : lane / 16 * 8 + lane % 8, right = BY_DEPTH ? lane / 16 : lane / 8 % 2;
                base[i] = panel + Panel::at(down, row / PIECE + 2 * i + right) * 16;
            } else {
                const int m = row + lane / 4 + 8 * i;
                base[i] = panel + Panel::at(lane % 4, m / PIECE) * 16 + m % PIECE * 4;
            }
        }
    }
    // Fragment i at step `step` of a panel that begins `stage` bytes after the first one.
    MEMBER void load(uint32_t (&r)[4], uint32_t stage, int i, int step) const {
        if constexpr (Panel::ALONG_K) {
            load_matrices(r, base[step] + stage + i * 16 * Panel::ACROSS * 16);
        } else if constexpr (!BY_WORDS) {
            load_matrices_turned(r, base[i] + stage + step * DEPTH_OF_STEP * Panel::ACROSS * 16);
        } else {
            UNROLL
            for (int x = 0; x < 4; x++) {
                const int down = BY_DEPTH ? x / 2 : x % 2, right = BY_DEPTH ? x % 2 : x / 2;
                r[x] = load_word(base[2 * i + down] + stage + (step * DEPTH_OF_STEP + right * 4) * Panel::ACROSS * 16);
            }
        }
        round_fragment(r);
    }
};
DEVICE void multiply_fragments(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if PRECISION_TF32
    multiply_tf32(c, a, b);
#elif PRECISION_BF16
    multiply_bf16(c, a, b);
#elif ASYNC_COPIES
    multiply_f16(c, a, b);
#else
    multiply_f16_k8(c, a[0], a[1], b[0]);
    multiply_f16_k8(c, a[2], a[3], b[1]);
#endif
}

// How a tile of BM by BN is divided: among the warps, and into steps along the depth.
template <int BM, int BN> struct Parts {
    static constexpr int WARPS_N = BN >= 64 ? 2 : 1, WARPS_M = TILE_THREADS / WARP / WARPS_N;
    static constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N, MT = WM / 16, NT = WN / 8;
    static_assert(WM % 16 == 0 && WN % 16 == 0, "a warp has whole fragments of A, and pairs of B's");
    // 64 bytes of each row. As many stages as fit into 48 KB of shared memory.
    static constexpr int DEPTH = 64 / sizeof(T), PIECES = (BM + BN) * 4, STAGES = BM + BN > 192 ? 3 : 4;
};

// acc += the products of one step, whose panels begin `here` bytes after the first ones.
template <int BM, int BN, class ReaderA, class ReaderB>
CALLED void multiply_step(float (&acc)[Parts<BM, BN>::MT][Parts<BM, BN>::NT][4], const ReaderA& read_a, const ReaderB& read_b, uint32_t here) {
    typedef Parts<BM, BN> P;
    UNROLL_ON_GPU
    for (int step = 0; step < P::DEPTH / DEPTH_OF_STEP; step++) {
        uint32_t fragment_a[P::MT][4], fragment_b[P::NT / 2][4];
        UNROLL
        for (int i = 0; i < P::MT; i++) read_a.load(fragment_a[i], here, i, step);
        UNROLL
        for (int j = 0; j < P::NT / 2; j++) read_b.load(fragment_b[j], here, j, step);
        UNROLL_ON_GPU
        for (int i = 0; i < P::MT; i++)
            UNROLL_ON_GPU
            for (int j = 0; j < P::NT; j++) {
                const uint32_t b[2] = {fragment_b[j / 2][j % 2 * 2], fragment_b[j / 2][j % 2 * 2 + 1]};
                multiply_fragments(acc[i][j], fragment_a[i], b);
            }
    }
}

// The sums of a tile over depths k_begin .. k_end.
template <int BM, int BN, Way WAY_A, Way WAY_B, class A, class B>
DEVICE void sum_tile(float (&acc)[Parts<BM, BN>::MT][Parts<BM, BN>::NT][4], Piece* panels, const A& a, const B& b, uint32_t m, uint32_t n, uint32_t k_begin, uint32_t k_end) {
    typedef Parts<BM, BN> P;
    typedef Panel<A::ALONG_K, BM, P::DEPTH> PanelA;
    typedef Panel<B::ALONG_K, BN, P::DEPTH> PanelB;
    constexpr int STEPS = P::DEPTH / DEPTH_OF_STEP;
    const int warp = thread() / WARP;
    const SharedAddress shared = shared_address(panels);
    typedef Supply<PanelA, A, WAY_A, BM, P::DEPTH> SupplyA;
    typedef Supply<PanelB, B, WAY_B, BN, P::DEPTH> SupplyB;
    SupplyA supply_a(a, panels, m, k_begin, k_end);
    SupplyB supply_b(b, panels + PanelA::PIECES, n, k_begin, k_end);
    const Reader<false, PanelA, P::MT, STEPS> read_a(shared, warp / P::WARPS_N * P::WM);
    const Reader<true, PanelB, P::NT / 2, STEPS> read_b(shared + PanelA::PIECES * 16, warp % P::WARPS_N * P::WN);
    UNROLL
    for (int i = 0; i < P::MT; i++)
        UNROLL
        for (int j = 0; j < P::NT; j++)
            UNROLL
            for (int x = 0; x < 4; x++) acc[i][j][x] = 0.0f;

    // The first steps, all but one of the stages.
    uint32_t k = k_begin;
    ROLLED
    for (int stage = 0; stage < P::STAGES - 1; stage++, k += P::DEPTH) {
        if (k < k_end) {
            supply_a.fetch(stage * P::PIECES * 16);
            supply_b.fetch(stage * P::PIECES * 16);
            supply_a.put(stage * P::PIECES * 16);
            supply_b.put(stage * P::PIECES * 16);
        }
        commit_copies();
    }
    // Each turn multiplies one step and starts to bring the one that is STAGES - 1 further on. After the turn's barrier, all threads'
    // parts of the step are in shared memory, and no thread reads the step before it any more, whose place is filled next.
    constexpr uint32_t LAST = (P::STAGES - 1) * P::PIECES * 16;
    uint32_t here = 0, into = LAST;
    ROLLED
    for (uint32_t from = k_begin; from < k_end; from += P::DEPTH, k += P::DEPTH) {
        wait_copies<P::STAGES - 2>();
        barrier();
        const bool more = k < k_end;
        if (more) {
            supply_a.fetch(into);
            supply_b.fetch(into);
        }
        commit_copies();  // even where nothing was copied: wait_copies counts the groups
        multiply_step<BM, BN>(acc, read_a, read_b, here);
        if ((SupplyA::PUTS || SupplyB::PUTS) && more) {
            supply_a.put(into);
            supply_b.put(into);
        }
        into = here;
        here = here == LAST ? 0 : here + P::PIECES * 16;
    }
}

// The tile of C in row `tile_row` of tiles and column blockIdx.x, summed over depths k_begin .. k_end.
template <int BM, int BN, class A, class B, class Epilogue>
DEVICE void tiled_matmul(const A& a, const B& b, const Epilogue& epilogue, uint32_t tile_row, uint32_t k_begin, uint32_t k_end) {
    typedef Parts<BM, BN> P;
    constexpr int WARPS_M = P::WARPS_M, WARPS_N = P::WARPS_N, WM = P::WM, WN = P::WN, MT = P::MT, NT = P::NT;
    SHARED(Piece, panels, P::STAGES * P::PIECES);
    const uint32_t m = tile_row * BM, n = blockIdx.x * BN;
    const int warp = thread() / WARP, lane = thread() % WARP;
    const int warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
    float acc[MT][NT][4];
    by_ways(a, b, [&](auto way_a, auto way_b) { sum_tile<BM, BN, way_a.value, way_b.value>(acc, panels, a, b, m, n, k_begin, k_end); });

    // The sums go through shared memory, 16 rows of each warp at a time, so that neighbouring threads write neighbouring runs of a
    // row of C.
    typedef typename Epilogue::Element Element;
    constexpr int RUN = 16 / sizeof(Element), RUNS = BN / RUN, PITCH = BN + 8, ROWS = WARPS_M * 16;
    static_assert(ROWS * PITCH / 4 <= P::STAGES * P::PIECES, "the panels' memory is used again");
    float* const sums = reinterpret_cast<float*>(panels);
    const bool whole = epilogue.whole();
    ROLLED
    for (int i = 0; i < MT; i++) {
        barrier();
        UNROLL
        for (int j = 0; j < NT; j++) {
            float* const to = sums + (warp_m * 16 + lane / 4) * PITCH + warp_n * WN + j * 8 + lane % 4 * 2;
            store_two(to, acc[0][j][0], acc[0][j][1]);
            store_two(to + 8 * PITCH, acc[0][j][2], acc[0][j][3]);
            // The next rows move up to acc[0]: a loop that is not unrolled cannot choose a register by its counter.
            UNROLL
            for (int y = 1; y < MT; y++)
                UNROLL
                for (int x = 0; x < 4; x++) acc[y - 1][j][x] = acc[y][j][x];
        }
        barrier();
        const int group = epilogue.rows;
        ROLLED
        for (int unit = thread(); unit < ROWS / group * RUNS; unit += TILE_THREADS) {
            const int line = unit / RUNS * group;
            const uint32_t row = m + line / 16 * WM + i * 16 + line % 16, column = n + unit % RUNS * RUN;
            if (row >= a.rows || column >= b.rows) continue;
            const uint32_t count = least(RUN, b.rows - column);
            float* const from = sums + line * PITCH + unit % RUNS * RUN;
            if (whole) {
                float v[RUN];
                load_side_by_side(v, from);
                if (group == 4) {
                    float second[RUN], third[RUN], fourth[RUN];
                    load_side_by_side(second, from + PITCH);
                    load_side_by_side(third, from + 2 * PITCH);
                    load_side_by_side(fourth, from + 3 * PITCH);
                    UNROLL
                    for (int x = 0; x < RUN; x++) v[x] = (v[x] + second[x]) + (third[x] + fourth[x]);
                }
                epilogue.store_whole(row / group, column, v);
            } else {
                if (group == 4) {
                    ROLLED
                    for (uint32_t x = 0; x < count; x++) from[x] = (from[x] + from[PITCH + x]) + (from[2 * PITCH + x] + from[3 * PITCH + x]);
                }
                epilogue.store(row / group, column, count, from);
            }
        }
    }
}
