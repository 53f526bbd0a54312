#include "device_ring.h"
#include "fast_path.h"
#include "hoards.h"
#include "signals.h"

NB_MODULE(_native, m) {
    m.doc() = "The compiled part of rtskel; typed in rtskel/_native.pyi.";
    rtskel::bind_ring_state(m);
    rtskel::bind_ring(m);
    rtskel::bind_device_ring(m);
    rtskel::bind_bulk(m);
    rtskel::bind_stream_arrays(m);
    rtskel::bind_fast_path(m);
    rtskel::bind_signals(m);
    rtskel::bind_hoards(m);
}
