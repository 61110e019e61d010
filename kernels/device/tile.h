// tiled_matmul: C (M, N) = A (M, depth) B (depth, N), one tile of C per block. Matrix products and the passes of a
// convolution are all this, given three things:
//
//   Fetch A, Fetch B   how an operand is read, and what is fused into the reading:
//     ALONG_K                  whether neighbours in memory are neighbours along the depth, or along the rows
//                              (of A; the columns of B: both are called rows here)
//     rows, depth              the operand's extent; nothing outside is asked for
//     Run run(row, k)          the elements that follow (row, k) in memory; run.count of them at least one
//     load(run, count, store)  store(i, value) for each i < count <= run.count
//     PLAIN                    whether load(run) is what lies at run.values, run.count of it
//     PATCHED                  whether the host reads rows from a patch of the image instead (see window.h)
//     PANELS                   whether the host shall call panel<WIDTH>(to, row, width, k, depth), which packs them all at once
//     ahead(row, k, count)     where depths k .. k + count will be read from, `row` on; may be nothing
//   and for tensor cores, which read 16 bytes at a time, PIECE elements that begin at a multiple of PIECE:
//     whole()                  whether each such piece lies in one run, at a multiple of 16 bytes
//     same()                   whether reading changes nothing, so that it may be a copy
//     place(run), start()      where a whole piece lies, null where all of it is zero; where any piece lies
//     Raw raw(run)             what is to be read for a whole piece that is changed
//     finish(raw, run, values) values[i], i < PIECE, from that
//   Numbers that are loaded or finished are factors as number.h has them: rounded to what the precision multiplies.
//
//   Epilogue           what happens to a finished tile:
//     Element                      what C is stored as
//     store(m, n, count, values)   C[m][n .. n + count) has these values; called once for each element of
//                                  C; it may use the place of the values. Where C has one column, the run goes on
//                                  with the rows that follow
//     rows                         1, or 4: that many rows of C, neighbours, are summed to one before; m counts those sums
//     READS, ahead(m, n, count)    whether it adds to what is there; where it will, for rows m .. m + count
//     whole(), store_whole(m, n, values)   for tensor cores: whether 16 bytes of C that begin at a multiple of 16 lie in one
//                                  row, and all else that goes with them likewise; the same as store, for such a run
//
// How a tile is multiplied belongs to the execution, as do the register tile, the step along the depth and the stages:
//   tile_vector.h   host: vector registers, panels in the first-level cache
//   tile_fma.h      cuda and simt, f32: register tiles of 256 threads, panels in shared memory, two stages
//   tile_tensor.h   cuda and simt, tf32, bf16, f16: fragments of 8 warps, panels in shared memory, three stages
// sm_75 has tensor cores for f16 only: its bf16 and tf32 are tile_fma.h's, with factors rounded as everywhere.
//
// Each element of C is one chain of additions in the order of the depth, whatever the tile, so results do not depend
// on the tile size (they do on the execution: the host's chain is the same, but not every CPU has a fused multiply-add).
#pragma once
#include "number.h"

#if defined(ZGAN_HOST) || PRECISION_F32 || (defined(__CUDACC_RTC__) && __CUDA_ARCH__ < 800 && !PRECISION_F16)
#define TENSOR_CORES 0
#else
#define TENSOR_CORES 1
#include "piece.h"
#endif

// Blocks that a multiprocessor should have room for: left to itself, the assembler spills fragments to let one more in.
#if PRECISION_F32
#define BLOCKS_OF_TILE(BM, BN) 0
#else
#define BLOCKS_OF_TILE(BM, BN) (BM * BN > 128 * 64 ? 1 : 2)
#endif

// Memory that will be wanted soon, for a processor that is told: `rows` pieces of a row, `stride` floats apart.
struct Ahead { const float* from; uint64_t stride; uint32_t rows; };

// body(i) for i < count, in runs as long as a vector register: a loop of unknown length pays for its ends at each entry.
template <class Body> DEVICE void by_vectors(uint32_t count, Body body) {
    constexpr int LONG = 16;
    uint64_t i = 0;  // an index of 32 bits might wrap, and would not be vectorised
    for (; i + LONG <= count; i += LONG) {
        INDEPENDENT_FEW
        for (int j = 0; j < LONG; j++) body(i + j);
    }
    for (; i < count; i++) body(i);
}
DEVICE uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// The row of tiles of C that this block works on. Columns are the grid's x: blocks that run at the same time share the rows of A.
// A grid has at most 65,535 blocks along y, so z goes on where y ends (`grid` in src/ops/tile.rs); the last may lie outside of C.
DEVICE uint32_t row_of_tiles() { return blockIdx.z * gridDim.y + blockIdx.y; }

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
#if TENSOR_CORES
    MEMBER bool whole() const { return aligned(values) && (ALONG_K ? depth : rows) % PIECE == 0; }
    MEMBER bool same() const { return true; }
    MEMBER const T* start() const { return values; }
    MEMBER const T* place(const Run& run) const { return run.values; }
    typedef RawPiece Raw;
    MEMBER Raw raw(const Run& run) const { return {load_piece(run.values)}; }
    MEMBER void finish(const Raw& raw, const Run&, float (&v)[PIECE]) const { unpack(v, raw.piece); }
#endif
};

#if defined(ZGAN_HOST)
#include "tile_vector.h"
#elif TENSOR_CORES
#include "tile_tensor.h"
#else
#include "tile_fma.h"
#endif
