#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace nb = nanobind;

// Arrays as Python hands them over: those that are read, and those that are written.
template <typename T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

// Add the classes of bulk.cpp and ledger.cpp to the module.
void bind_bulk(nb::module_& m);
void bind_ledger(nb::module_& m);
