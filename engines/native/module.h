#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace nb = nanobind;

// The loops over whole poses, compiled for AVX2 too where the compiler can choose at run time.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define RTSKEL_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define RTSKEL_WIDE
#endif

// Arrays from Python: those that are read, and those that are written.
template <typename T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

namespace rtskel {

// What became of a frame: rtskel.refine.Put.
enum Put : std::uint8_t { TAKEN, DUPLICATE, LATE, AHEAD };

// Prefetch memory that is needed soon: with hundreds of streams, no window is in the cache.
inline void prefetch(const void* from, std::size_t bytes) {
#if defined(__GNUC__)
    constexpr std::size_t LINE = 64;
    const char* p = static_cast<const char*>(from);
    for (std::size_t k = 0; k < bytes; k += LINE) __builtin_prefetch(p + k, 0, 2);
#else
    (void)from, (void)bytes;
#endif
}

// Whether no value is further from 0 than that, nor is no number.
RTSKEL_WIDE static bool within(const float* values, std::size_t count, float limit) {
    int inside = 1;
    for (std::size_t k = 0; k < count; ++k) inside &= std::abs(values[k]) <= limit;
    return inside;
}

}  // namespace rtskel
