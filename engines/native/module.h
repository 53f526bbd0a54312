#pragma once

#include <nanobind/nanobind.h>

// Add the classes of bulk.cpp and ledger.cpp to the module.
void bind_bulk(nanobind::module_& m);
void bind_ledger(nanobind::module_& m);
