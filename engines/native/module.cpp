#include "fast_path.h"

NB_MODULE(_native, m) {
    m.doc() = "What is done for every frame, in C++: rings of windows, messages to and from bytes, arrays of streams, and the fast path through all three.";
    rtskel::bind_ring(m);
    rtskel::bind_bulk(m);
    rtskel::bind_stream_arrays(m);
    rtskel::bind_fast_path(m);
}
