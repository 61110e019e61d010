// The end of every kernel file on a CPU (src/build/host.rs appends it): a table entry per kernel, through which Rust runs the
// blocks `first .. last` of a grid. `arguments` has a pointer to each parameter, as cuLaunchKernel takes them.
// `HostEntry` in src/device/kernels.rs is the same structure in Rust.
#pragma once

struct Entry {
    void (*run)(void* const* arguments, const uint32_t* grid, uint32_t first, uint32_t last);
};

template <unsigned... I> struct Indices {};
template <unsigned N, unsigned... I> struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <unsigned... I> struct MakeIndices<0, I...> { typedef Indices<I...> Type; };

template <class T> struct Plain { typedef T Type; };
template <class T> struct Plain<const T> { typedef T Type; };

template <class Kernel, Kernel* kernel> struct Invoke;
template <class... P, void (*kernel)(P...)> struct Invoke<void(P...), kernel> {
    template <unsigned... I> UNCHECKED static void call(void* const* arguments, Indices<I...>) {
        kernel(*static_cast<typename Plain<P>::Type*>(arguments[I])...);
    }
    static void run(void* const* arguments, const uint32_t* grid, uint32_t first, uint32_t last) {
        gridDim = {grid[0], grid[1], grid[2]};
        for (uint32_t block = first; block < last; block++) {
            blockIdx = {block % grid[0], block / grid[0] % grid[1], block / grid[0] / grid[1]};
            run_block([&]() UNCHECKED { call(arguments, typename MakeIndices<sizeof...(P)>::Type()); });
        }
    }
};
#define ENTRY(kernel) Entry { &Invoke<decltype(kernel), &kernel>::run }
