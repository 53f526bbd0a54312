#include "fast_path.h"

NB_MODULE(_native, m) {
    m.doc() = "Native twins of rtskel.refine.ring.NumpyRing and of what rtskel.wire.fast, rtskel.serve.arrays and rtskel.serve.table do for every frame.";
    rtskel::bind_ring(m);
    rtskel::bind_bulk(m);
    rtskel::bind_stream_arrays(m);
    rtskel::bind_fast_path(m);
}
