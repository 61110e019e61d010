// The first include of every kernel file: which of the three executions this compilation is for.
//
//   cuda   NVRTC                      a block is BLOCK real threads
//   host   a C++ compiler, ZGAN_HOST  a block is one thread
//   simt   a C++ compiler, ZGAN_SIMT  a block is BLOCK coroutines
//
// Each of the three headers defines the same names:
//   KERNEL                 begins a kernel: KERNEL name(arguments) { ... }; extern "C", returns nothing
//   DEVICE, APART          begin a function of the device library: inlined everywhere, or nowhere
//   BLOCK, WARP, WARPS     threads of a block, lanes of a warp, warps of a block
//   thread()               this thread's number in its block, 0 .. BLOCK - 1
//   blockIdx, gridDim      as in CUDA
//   barrier()              every thread of the block has arrived, and sees what the others wrote
//   SHARED(T, name, N)     declares T name[N], one for the whole block, with no initial value
//   shuffle_xor(v, mask), shuffle_down(v, delta), vote_any(p)     within a full warp
//   atomic_add(pointer, value)                                    on uint32_t; returns the old value
//   INDEPENDENT            before a loop whose iterations do not depend on one another
//   INDEPENDENT_FEW        the same for a count that may become a small constant: not to be unrolled before it is vectorised
#pragma once

#if defined(__CUDACC_RTC__)
#include "cuda.h"
#elif defined(ZGAN_SIMT)
#include "../host/simt.h"
#elif defined(ZGAN_HOST)
#include "../host/one_thread.h"
#else
#error "compile kernels through build.rs: it chooses the execution"
#endif
