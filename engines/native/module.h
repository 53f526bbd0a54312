#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace nb = nanobind;

// Arrays from Python: those that are read, and those that are written.
template <typename T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

namespace rtskel {

// What became of a frame: rtskel.refine.Put.
enum Put : std::uint8_t { TAKEN, DUPLICATE, LATE, AHEAD };

}  // namespace rtskel
