// The first include of every kernel file: which of the three executions this compilation is for.
//
//   cuda   NVRTC                      a block is BLOCK real threads
//   host   a C++ compiler, ZGAN_HOST  a block is one thread
//   simt   a C++ compiler, ZGAN_SIMT  a block is BLOCK coroutines
//
// Each of the three headers defines the same names:
//   KERNEL(threads, blocks)  begins a kernel: KERNEL(256, 0) name(arguments) { ... }; extern "C", returns nothing. A block has
//                          `threads` threads: 256, the BLOCK of code that names it, or TILE_THREADS, which build.rs defines: 256
//                          in f32, 128 in other precisions. On a GPU a multiprocessor should have room for `blocks` blocks. 0 leaves that to the assembler, which now and then spills a register to let one more in:
//                          where `zgan kernels` shows a spill, the kernel names its own number.
//   DEVICE, APART          begin a function of the device library: inlined everywhere, or nowhere
//   MEMBER                 the same as DEVICE, for a function of a struct
//   CALLED                 begins a function that GPUs inline, and that CPUs compile once and call: for work that
//                          takes much longer than a call and that a file uses several times. Inlined, it would be compiled as often.
//   BLOCK, WARP, WARPS     threads of a block (but for products of tiles), lanes of a warp, warps of a block
//   thread()               this thread's number in its block, 0 .. BLOCK - 1
//   blockIdx, gridDim      as in CUDA
//   barrier()              every thread of the block has arrived, and sees what the others wrote
//   warp_barrier()         the same for the threads of a warp
//   SHARED(T, name, N)     declares T name[N], one for the whole block, with no initial value
//   shuffle_xor(v, mask)   the value of another lane, within a full warp
//   atomic_add(pointer, value)                                    on uint32_t; returns the old value
//   INDEPENDENT            before a loop whose iterations do not depend on one another
//   INDEPENDENT_FEW        the same for a count that may become a small constant: the loop is vectorised before it is unrolled
//   UNROLL, UNROLL_FOUR, ROLLED     before a loop that is unrolled as a whole, by four, or not at all
//   UNROLL_ON_GPU, UNROLL_BY(n)     before a loop that a GPU's compiler unrolls as a whole, or n times, and others not at all
//   RESTRICT               behind the star of a pointer: nothing else points to what the loop writes through it
//   bits_to_float(bits), float_to_bits(value)   the same 32 bits as the other type
//   square_root(x)         rounded to the nearest
//   maximum(a, b)          of two floats; the other one where one is NaN. Not on the host.
//   multiply_high(a, b)    the upper 32 bits of the product of two uint32_t
//   multiply_wide(a, b)    all 64 bits of it
// The two for a CPU also define
//   UNCHECKED              before a function that is no part of a kernel: the checkers of simt do not see its accesses
//   NOT_VECTORISED         in the body of a loop that must not become vectors (only in parts for ZGAN_HOST)
//
// What a kernel file declares about itself. The macros say nothing to the compiler; src/build/source.rs reads them.
//   PRECISIONS(f32, bf16)  The file is compiled once for each of these storage types (number.h), as a module of its own. A
//                          file without it has f32 alone.
//   PRECISE(name)          The name of a kernel that each of these modules has: name_f32, name_bf16.
//   KERNEL_ONCE            Begins a kernel that only the f32 module has.
//   TILES(64x64, f32 256x32)  Stands above a product's kernel. The kernel's text is repeated for tiles of so many rows (BM)
//                          and columns (BN); a size behind the name of a precision is for that precision alone.
//   TILED(name)            The name of such a kernel: name_64x64_f32.
// build.rs defines PRECISION, and around each copy of a tiled kernel BM and BN.
#pragma once

#define PRECISIONS(...)
#define TILES(...)
#define JOIN_PRECISION(name, precision) name##_##precision
#define NAME_IN(name, precision) JOIN_PRECISION(name, precision)
#define PRECISE(name) NAME_IN(name, PRECISION)
#define JOIN_TILE(name, rows, columns, precision) name##_##rows##x##columns##_##precision
#define NAME_OF_TILE(name, rows, columns, precision) JOIN_TILE(name, rows, columns, precision)
#define TILED(name) NAME_OF_TILE(name, BM, BN, PRECISION)

#if defined(__CUDACC_RTC__)
#include "cuda.h"
#elif defined(ZGAN_SIMT)
#include "../host/simt.h"
#elif defined(ZGAN_HOST)
#include "../host/one_thread.h"
#else
#error "compile kernels through build.rs: it chooses the execution"
#endif

#if PRECISION_F32
#define KERNEL_ONCE(threads, blocks) KERNEL(threads, blocks)
#else
#define KERNEL_ONCE(threads, blocks) DEVICE void
#endif
