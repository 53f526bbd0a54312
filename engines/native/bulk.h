#pragma once

#include <nanobind/nanobind.h>

// Adds RawReader and PoseWriter to the module.
void bind_bulk(nanobind::module_& m);
