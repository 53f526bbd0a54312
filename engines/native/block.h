// One block of threads, for kernels that also run on the host.
//
// A kernel is one function of a block, and a block works in phases: `each` runs one over all threads and waits for them. Compiled by
// a plain C++ compiler, a phase is a loop, and the tests run the same functions on the host.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FUNCTION __host__ __device__
#define BLOCK_FUNCTION __device__
#else
#define FUNCTION
#define BLOCK_FUNCTION
#endif

namespace {

using Index = std::int64_t;

#ifdef __CUDACC__
struct Block {
    template <class Phase>
    __device__ void each(Index n, Phase phase) const {
        for (int i = threadIdx.x; i < static_cast<int>(n); i += blockDim.x) phase(i);
        __syncthreads();
    }
};
#else
struct Block {
    template <class Phase>
    void each(Index n, Phase phase) const {
        for (int i = 0; i < static_cast<int>(n); ++i) phase(i);
    }
};
#endif

// Sets bits of a mask that the threads of a block share.
BLOCK_FUNCTION inline void set(std::uint64_t& mask, std::uint64_t bits) {
#ifdef __CUDACC__
    atomicOr(reinterpret_cast<unsigned long long*>(&mask), static_cast<unsigned long long>(bits));
#else
    mask |= bits;
#endif
}

// a * b + c, rounded once where that is fast.
FUNCTION inline float multiply_add(float a, float b, float c) {
#ifdef __CUDACC__
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

FUNCTION inline bool finite(float v) { return std::fabs(v) <= FLT_MAX; }

}  // namespace
