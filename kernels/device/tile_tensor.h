// Tiles on tensor cores, for 16-bit numbers and tf32. Each of 8 warps has a part of the tile, which it sums in f32, in fragments of
// 16 x 8. Panels of both operands lie in shared memory in the order of global memory, in pieces of 16 bytes. There are three stages:
// while one step along the depth is multiplied, the next two are on their way.
//
// An operand that reading does not change is copied (copy_async), with zeros past its end. One that is changed on the way
// (normalised, activated, masked, scaled) passes through registers: it is read before the products of a turn, and changed and put
// into the panel after them. One whose pieces are not whole (see tile.h) is read element by element, which is correct but slow.
//
// Lanes that access shared memory at the same time use different banks: Panel permutes the pieces of each line to that end.
#pragma once
#include "matrix.h"
#include "piece.h"

constexpr int STAGES = 3;
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
};

// The pieces of a panel that this thread brings.
template <class Panel, class Fetch> struct Supply {
    static constexpr int COUNT = (Panel::PIECES + BLOCK - 1) / BLOCK;
    const Fetch& from;
    const uint32_t first_row;
    const bool whole, same;
    typename Fetch::Run run[COUNT];
    typename Fetch::Raw raw[COUNT];
    bool filled[COUNT];

    MEMBER Supply(const Fetch& fetch, uint32_t row) : from(fetch), first_row(row), whole(fetch.whole()), same(fetch.same()) {}

    static MEMBER int piece(int i) { return thread() + i * BLOCK; }
    static MEMBER bool there(int i) { return Panel::PIECES % BLOCK == 0 || piece(i) < Panel::PIECES; }
    static MEMBER int at(int i) { return Panel::at(piece(i) / Panel::ACROSS, piece(i) % Panel::ACROSS); }
    MEMBER uint32_t row(int i) const { return first_row + (Panel::ALONG_K ? piece(i) / Panel::ACROSS : piece(i) % Panel::ACROSS * PIECE); }
    static MEMBER uint32_t depth(int i) { return Panel::ALONG_K ? piece(i) % Panel::ACROSS * PIECE : piece(i) / Panel::ACROSS; }

    // Comes before the products of a turn: starts the copies of pieces that are not changed, reads the others into registers.
    MEMBER void fetch(Piece* panel, uint32_t k, uint32_t k_end) {
        if (!whole) return;
        UNROLL
        for (int i = 0; i < COUNT; i++) {
            if (!there(i)) continue;
            const uint32_t r = row(i), d = k + depth(i);
            const bool inside = r < from.rows && d < k_end;
            run[i] = from.run(inside ? r : 0, inside ? d : k);
            const T* const place = inside ? from.place(run[i]) : nullptr;
            filled[i] = place;
#if ASYNC_COPIES
            if (same) {
                copy_async(panel + at(i), filled[i] ? place : from.start(), filled[i] ? 16 : 0);
                continue;
            }
#endif
            if (filled[i]) raw[i] = from.raw(run[i]);
        }
    }
    // Comes after the products: puts what was read into registers into the panel.
    MEMBER void put(Piece* panel, uint32_t k, uint32_t k_end) const {
        if (!whole) return put_elements(panel, k, k_end);
        if (ASYNC_COPIES && same) return;
        UNROLL
        for (int i = 0; i < COUNT; i++) {
            if (!there(i)) continue;
            float v[PIECE] = {};
            // What lies outside of the operand or the image stays zero: it is not normalised or activated.
            if (filled[i]) from.finish(raw[i], run[i], v);
            store_piece(panel + at(i), pack(v));
        }
    }
    // The same where pieces are not whole.
    MEMBER void put_elements(Piece* panel, uint32_t k, uint32_t k_end) const {
        ROLLED
        for (int i = 0; i < COUNT; i++) {
            if (!there(i)) continue;
            T* const to = reinterpret_cast<T*>(panel + at(i));
            ROLLED
            for (uint32_t j = 0; j < PIECE; j++) {
                const uint32_t r = row(i) + (Panel::ALONG_K ? 0 : j), d = k + depth(i) + (Panel::ALONG_K ? j : 0);
                float element = 0.0f;
                if (r < from.rows && d < k_end) from.load(from.run(r, d), 1, [&](uint32_t, float v) { element = v; });
                to[j] = T(element);
            }
        }
    }
};


// Rounds a fragment to tf32, where that is what the instruction multiplies. Numbers of 16 bits are rounded already.
DEVICE void round_fragment([[maybe_unused]] uint32_t (&r)[4]) {
#if PRECISION_TF32
    UNROLL
    for (int i = 0; i < 4; i++) r[i] = float_to_bits(round_to_tf32(bits_to_float(r[i])));
#endif
}
// Reads four matrices, one register each: those that begin at (row, k), (row + 8, k), (row, k + h) and (row + 8, k + h), where h is
// half the depth of an instruction. They are a fragment of A. BY_DEPTH: the second and the third are exchanged, which makes two
// fragments of B.
template <bool BY_DEPTH, class Panel> DEVICE void load_fragment(uint32_t (&r)[4], const Piece* panel, int row, int k) {
    const int lane = thread() % WARP;
    if constexpr (Panel::ALONG_K) {
        const int down = BY_DEPTH ? lane / 16 * 8 + lane % 8 : lane % 16, right = BY_DEPTH ? lane / 8 % 2 : lane / 16;
        load_matrices(r, panel + Panel::at(row + down, k / PIECE + right));
    } else if constexpr (sizeof(T) == 2) {
        const int down = BY_DEPTH ? lane % 16 : lane / 16 * 8 + lane % 8, right = BY_DEPTH ? lane / 16 : lane / 8 % 2;
        load_matrices_turned(r, panel + Panel::at(k + down, row / PIECE + right));
    } else {
        // No instruction transposes numbers of 32 bits.
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int m = row + lane / 4 + (BY_DEPTH ? i / 2 : i % 2) * 8, d = k + lane % 4 + (BY_DEPTH ? i % 2 : i / 2) * 4;
            r[i] = panel[Panel::at(d, m / PIECE)].word[m % PIECE];
        }
    }
    round_fragment(r);
}
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

// The tile of C in row `tile_row` of tiles and column blockIdx.x, summed over depths k_begin .. k_end.
template <int BM, int BN, class A, class B, class Epilogue>
DEVICE void tiled_matmul(const A& a, const B& b, const Epilogue& epilogue, uint32_t tile_row, uint32_t k_begin, uint32_t k_end) {
    // The step along the depth: 64 bytes of each row, or 32 for large tiles. Three stages fit into 48 KB of shared memory.
    constexpr int DEPTH = (BM + BN > 256 ? 32 : 64) / sizeof(T);
    typedef Panel<A::ALONG_K, BM, DEPTH> PanelA;
    typedef Panel<B::ALONG_K, BN, DEPTH> PanelB;
    constexpr int WARPS_N = BN >= 128 ? 4 : BN >= 64 ? 2 : 1, WARPS_M = WARPS / WARPS_N;
    constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N, MT = WM / 16, NT = WN / 8;
    static_assert(WM % 16 == 0 && WN % 16 == 0, "a warp has whole fragments of A, and pairs of B's");
    constexpr int PIECES = PanelA::PIECES + PanelB::PIECES;
    SHARED(Piece, panels, STAGES * PIECES);
    const uint32_t m = tile_row * BM, n = blockIdx.x * BN;
    const int warp = thread() / WARP, lane = thread() % WARP;
    const int warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
    Supply<PanelA, A> supply_a(a, m);
    Supply<PanelB, B> supply_b(b, n);
    float acc[MT][NT][4];
    UNROLL
    for (int i = 0; i < MT; i++)
        UNROLL
        for (int j = 0; j < NT; j++)
            UNROLL
            for (int x = 0; x < 4; x++) acc[i][j][x] = 0.0f;

    // Turn j starts to bring step j, and multiplies step j - 2. After its barrier, all threads' parts of step j - 2 are in shared
    // memory, and no thread reads step j - 3 any more, whose place step j takes.
    int into = 0;
    for (uint32_t k = k_begin, turn = 0;; k += DEPTH, turn++) {
        const bool full = turn >= STAGES - 1;
        if (full) {
#if ASYNC_COPIES
            wait_copies<STAGES - 2>();
#endif
            barrier();
        }
        Piece* const next = panels + into * PIECES;
        into = into + 1 == STAGES ? 0 : into + 1;
        if (k < k_end) {
            supply_a.fetch(next, k, k_end);
            supply_b.fetch(next + PanelA::PIECES, k, k_end);
        }
#if ASYNC_COPIES
        commit_copies();  // even where nothing was copied: wait_copies counts the groups
#endif
        if (full) {
            const Piece* const here_a = panels + into * PIECES;
            const Piece* const here_b = here_a + PanelA::PIECES;
            UNROLL
            for (int d = 0; d < DEPTH; d += DEPTH_OF_STEP) {
                uint32_t fragment_a[MT][4], fragment_b[NT][2];
                UNROLL
                for (int i = 0; i < MT; i++) load_fragment<false, PanelA>(fragment_a[i], here_a, warp_m * WM + i * 16, d);
                UNROLL
                for (int j = 0; j < NT; j += 2) {
                    uint32_t two[4];
                    load_fragment<true, PanelB>(two, here_b, warp_n * WN + j * 8, d);
                    UNROLL
                    for (int x = 0; x < 4; x++) fragment_b[j + x / 2][x % 2] = two[x];
                }
                UNROLL
                for (int i = 0; i < MT; i++)
                    UNROLL
                    for (int j = 0; j < NT; j++) multiply_fragments(acc[i][j], fragment_a[i], fragment_b[j]);
            }
        }
        if (k < k_end) {
            supply_a.put(next, k, k_end);
            supply_b.put(next + PanelA::PIECES, k, k_end);
        }
        if (k >= k_end + (STAGES - 2) * DEPTH) break;
    }

    // The sums go through shared memory, 16 rows of each warp at a time, so that neighbouring threads write neighbouring runs of a
    // row of C.
    typedef typename Epilogue::Element Element;
    constexpr int RUN = 16 / sizeof(Element), RUNS = BN / RUN, PITCH = BN + 8, ROWS = WARPS_M * 16;
    static_assert(ROWS * PITCH / 4 <= STAGES * PIECES, "the panels' memory is used again");
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
        for (int unit = thread(); unit < ROWS / group * RUNS; unit += BLOCK) {
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
