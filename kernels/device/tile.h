// tiled_matmul: C (M, N) = A (M, depth) B (depth, N), one tile of C per block. A product of matrices and each pass of a
// convolution is a call of it, with three things:
//
//   Fetch A, Fetch B   how an operand is read, and what is fused into the reading. The rows of A and the columns of B are both called
//                      rows here. An operand has
//     ALONG_K                  true: elements that are neighbours in memory follow each other along the depth; false: along the rows
//     rows, depth              its sizes; nothing outside of them is asked for
//     Run run(row, k)          where element (row, k) is; run.count, at least 1, is how many elements from it on lie in a row
//     load(run, count, store)  calls store(i, value) for each i < count of the run; count is at most run.count
//     PLAIN                    true: the elements of a run are the floats at run.values, unchanged
//     PATCHED                  true: the host may copy what a tile sees of the image into a patch, and read that (see gather.h)
//     PANELS                   true: the host calls panel<WIDTH>(to, row, width, k, depth), which packs a whole panel
//     ahead(row, k, count)     for the host: from where depths k .. k + count of `row` and its neighbours will be read; may be nothing
//   and for GPUs, which read pieces of 16 bytes (PIECE elements, of which the first is at a multiple of PIECE):
//     whole()                  whether every piece lies in one run, at an address that is a multiple of 16
//     CHANGES, same()          whether reading may change what is stored; false where it does not this time, so that a piece can be
//                              copied as it is
//     start()                  the address of the first element
//     Walk, walk(row, k, end)  how a thread gets from piece to piece (walk.h), from row `row` and depth k on
//     Raw, read(raw, walk, i)  what is read from memory for a piece that is changed on the way
//     finish(raw, walk, i, v)  computes v[j], j < PIECE, from that
//     manner(walk)             for tensor cores: a number for the way to change pieces, which parameters alone decide; 0: any piece
//     with_change(manner, walk, body)   calls body(change) once, where change(raw, i) gives the changed piece as it is stored. Some
//                              ways have fewer instructions than `finish`, and give the same bits
//   What load and finish give is rounded to what the precision multiplies (`factor` in number.h), in tf32 when it is read from a panel.
//
//   Epilogue           what happens to a finished tile:
//     Element                      the type in which C is stored
//     store(m, n, count, values)   C[m][n .. n + count) has these values. It is called once for each element of C, and may
//                                  overwrite `values`. Where C has one column, values after the first are of the rows after m
//     rows                         1, or 4: each four neighbouring rows of C are summed to one first, and m counts those sums
//     READS, ahead(m, n, count)    whether store adds to what is in memory; for the host: where that is, for rows m .. m + count
//     whole(), store_whole(m, n, values)   for tensor cores: whether 16 bytes of C that begin at a multiple of 16 always lie in one
//                                  row, as does what is read along with them; the same as store, for such 16 bytes
//
// How a tile is multiplied depends on the execution, and so do the part of it that a thread keeps in registers, the step along the
// depth, and the number of steps that are held at a time (stages):
//   tile_vector.h   host: vector registers, panels in the first-level cache
//   tile_fma.h      cuda and simt, f32: 256 threads with a part of the tile each, panels in shared memory, two stages
//   tile_tensor.h   cuda and simt, tf32, bf16, f16: 4 warps with a part of the tile each, panels in shared memory, three or four stages
// sm_75 has tensor cores for f16 only. Its bf16 and tf32 products are those of tile_fma.h, with operands rounded as elsewhere, read
// element by element: nobody should train so, but everything runs.
//
// Each element of C is one chain of additions in the order of the depth, whatever the tile is, so results do not depend on its size.
// There are two exceptions, which do not depend on its size either. A tensor core adds up the depth of one instruction in an order of
// its own. And on the host, a convolution that has fewer columns than a quarter of a vector has a chain for each lane (multiply_narrow).
// Results differ between executions, also because not every CPU has a fused multiply-add.
#pragma once
#include "number.h"

#if defined(ZGAN_HOST) || PRECISION_F32 || (defined(__CUDACC_RTC__) && __CUDA_ARCH__ < 800 && !PRECISION_F16)
#define TENSOR_CORES 0
#else
#define TENSOR_CORES 1
#endif

// How many blocks a multiprocessor should have room for (see KERNEL in execution.h). With 0, the assembler spills registers to let one
// more block in.
#if PRECISION_F32
#define BLOCKS_OF_TILE(BM, BN) (BM * BN > 64 * 64 || BN < 64 ? 1 : 2)
#else
#define BLOCKS_OF_TILE(BM, BN) (BM * BN > 64 * 64 ? 2 : 3)
#endif

DEVICE uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// Memory that will be read soon, which the host prefetches: `rows` pieces, each `stride` floats after the one before. None where
// `rows` is 0.
struct Ahead { const float* from; uint64_t stride; uint32_t rows; };

// Calls body(i) for each i < count, in runs of a constant length that fills vector registers. A vectorised loop of unknown length
// would pay for its incomplete ends each time that it is entered.
template <class Body> DEVICE void by_vectors(uint32_t count, Body body) {
    constexpr int LONG = 16;
    uint64_t i = 0;  // an index of 32 bits might wrap, and would not be vectorised
    for (; i + LONG <= count; i += LONG) {
        INDEPENDENT_FEW
        for (int j = 0; j < LONG; j++) body(i + j);
    }
    for (; i < count; i++) body(i);
}
// The row of tiles of C that this block works on. Columns of tiles lie along the grid's x, so that blocks that run at the same time
// share rows of A. A grid has at most 65,535 blocks along y, so more rows of tiles are spread over z (`grid` in src/ops/tile.rs); the
// last of those may lie outside of C.
DEVICE uint32_t row_of_tiles() { return blockIdx.z * gridDim.y + blockIdx.y; }

#if !defined(ZGAN_HOST)
#include "piece.h"
#include "window.h"
#include "walk.h"
#endif

// A plain row-major matrix (rows, depth), or (depth, rows) where ALONG_DEPTH is false.
template <bool ALONG_DEPTH> struct MatrixFetch {
    static constexpr bool ALONG_K = ALONG_DEPTH, PLAIN = PRECISION_F32, PATCHED = false, PANELS = false;
    const T* RESTRICT values;
    uint32_t rows, depth;

    struct Run { const T* values; uint32_t count; };
    MEMBER Ahead ahead(uint32_t row, uint32_t k, uint32_t count) const {
        if constexpr (PLAIN) return {run(row, k).values, ALONG_K ? 0 : rows, ALONG_K ? 0 : count};
        else return {};
    }
    MEMBER Run run(uint32_t row, uint32_t k) const {
        return ALONG_K ? Run{values + (uint64_t(row) * depth + k), depth - k} : Run{values + (uint64_t(k) * rows + row), rows - row};
    }
    template <class Store> MEMBER void load(const Run& run, uint32_t count, Store store) const {
        const T* RESTRICT from = run.values;
        INDEPENDENT_FEW
        for (uint32_t i = 0; i < count; i++) store(i, factor(from[i]));
    }
#if !defined(ZGAN_HOST)
    static constexpr bool CHANGES = false;
    template <class Share, bool CHANGED> using Walk = MatrixWalk<Share>;
    template <class Share, bool CHANGED> MEMBER MatrixWalk<Share> walk(uint32_t first_row, uint32_t k_begin, uint32_t k_end) const {
        return {rows, depth, first_row, k_begin, k_end};
    }
    typedef RawPiece Raw;
    MEMBER bool whole() const { return aligned(values) && (ALONG_K ? depth : rows) % PIECE == 0; }
    MEMBER bool same() const { return true; }
    MEMBER const T* start() const { return values; }
#endif
};

#if defined(ZGAN_HOST)
#include "tile_vector.h"
#elif TENSOR_CORES
#include "tile_tensor.h"
#else
#include "tile_fma.h"
#endif
