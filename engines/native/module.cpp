#include "intake.h"

NB_MODULE(_native, m) {
    m.doc() = "Native twins of rtskel.ring.NumpyRing and of what rtskel.bulk, rtskel.ledger and rtskel.streams do for every frame.";
    rtskel::bind_ring(m);
    rtskel::bind_bulk(m);
    rtskel::bind_ledger(m);
    rtskel::bind_intake(m);
}
