// The ring's numbers on a GPU: new frames into the rings of many streams, canonical windows out of them for the network, and
// predictions back, averaged. The state (which frames came, which windows run, what they complete) stays on the host, in
// device_ring.h. The specification is tests/oracles/ring.py: same order of operations, same rounding.
//
// Memory is cleared once, at the start. Everything stored has a tag, the stream's base plus its slot or window; a stream that is
// reset gets a new base, which no older tag matches.

#include "block.h"
#include "network.h"

namespace {

struct Ring {  // mirrored by rtskel.engine.device_ring.RingArguments: fields of 8 bytes, in this order
    Index window, joints, capacity, max_windows, positions, answers;  // answers: positions that the network answers for
    Index steady, neck, right_shoulder, left_shoulder;
    double min_confidence, shoulder_width, far, disagree;
    const Index* parents;         // [J] -1: none
    const double* bone_length;    // [J]
    const Index* steady_bones;    // [steady] joints whose bones check the shoulder width
    const Index *reach, *count;   // [lookaheads]
    const Index* asked;           // [answers] the positions that the network is asked for
    const Index* column;          // [P] where among its answers those lie that are kept
    const Index* kept;            // [W] where among those kept a window's position lies
    Index* slot_tag;              // [S, C] the base + slot whose frame lies at slot % C
    float* xyz;                   // [S, C, J, 3], 0 where missing
    float* confidence;            // [S, C, J], 0 where missing
    Index* window_tag;            // [S, 2r+1] the base + window whose predictions lie at window % (2r+1), if they count
    float* predicted;             // [S, 2r+1, P, J, 3]
};

struct Step {  // mirrored by rtskel.engine.device_ring.StepArguments
    const Index* counts;         // frames, windows
    const Index* frame_stream;   // [F]
    const Index* frame_slot;     // [F]
    const Index* frame_base;     // [F]
    const float* frame_xyz;      // [F, J, 3] as they came
    const float* frame_confidence;  // [F, J]
    const Index* stream;         // [B] of each window
    const Index* base;           // [B]
    const Index* window;         // [B] the slot that it ends with
    const Index* last;           // [B] the stream's last slot if it has ended
    const Index* following;      // [B] the stream's next window in the batch, or -1
    const Index* first;          // [B] whether it is the stream's first in the batch
    const Index* skipped;        // [B] whether it does not run
    const Index* rows;           // [B + 1] the outputs that it completes are rows[b] .. rows[b + 1] - 1
    const Index* row_lookahead;  // [M] index of the lookahead
    float* x;                    // [B, W, J, 3]
    bool* missing;               // [B, W, J]
    Index* positions;            // [answers], or null where the network answers for all
    const float* y;              // [B, answers, J, 3]
    float* origin;               // [B, 3]
    float* scale;                // [B]
    Index* known;                // [B]
    Index* windows;              // [M] how many predictions were averaged
    float* out_xyz;              // [M, J, 3]
    float* out_sigma;            // [M, J]
    float* out_confidence;       // [M, J]
};

FUNCTION inline bool there(const Ring& ring, Index s, Index base, Index slot) {
    return ring.slot_tag[s * ring.capacity + slot % ring.capacity] == base + slot;
}

FUNCTION inline Index place(const Ring& ring, Index s, Index slot) { return (s * ring.capacity + slot % ring.capacity) * ring.joints; }

FUNCTION inline float distance(const float* a, const float* b) {
    const float x = a[0] - b[0], y = a[1] - b[1], z = a[2] - b[2];
    return std::sqrt(x * x + y * y + z * z);
}

// Frame f into its ring.
BLOCK_FUNCTION void store_frame(const Block& block, const Ring& ring, const Step& step, Index f) {
    if (f >= step.counts[0]) return;
    const Index s = step.frame_stream[f], slot = step.frame_slot[f];
    float* xyz = ring.xyz + 3 * place(ring, s, slot);
    float* confidence = ring.confidence + place(ring, s, slot);
    block.each(ring.joints, [&](Index k) {
        const float* p = step.frame_xyz + 3 * (f * ring.joints + k);
        const float c = step.frame_confidence[f * ring.joints + k];
        const bool valid = c > 0.0f && c >= static_cast<float>(ring.min_confidence) && finite(p[0]) && finite(p[1]) && finite(p[2]);
        for (int a = 0; a < 3; ++a) xyz[3 * k + a] = valid ? p[a] : 0.0f;
        confidence[k] = valid ? (c < 1.0f ? c : 1.0f) : 0.0f;
        if (k == 0) ring.slot_tag[s * ring.capacity + slot % ring.capacity] = step.frame_base[f] + slot;
    });
}

// What the threads of a block share while they gather a window; `values` has room for W * J numbers, `here` for W.
struct Shared {
    float low[5], high[5];
    Index found[5];
    float origin[3], scale;
    Index known, any;
};

FUNCTION inline void clear(Shared& shared, int which) {
    shared.low[which] = shared.high[which] = 0.0f;
    shared.found[which] = 0;
}

// The median of those of values[0..n) that are not NaN goes to low and high (equal if their number is odd), that number to found:
// the part of value i. It counts how many come before it: exact, without order among the threads.
FUNCTION inline void rank(Shared& shared, int which, const float* values, int n, int i) {
    const float v = values[i];
    if (v != v) return;
    int before = 0, found = 0;
    for (int k = 0; k < n; ++k) {
        const float w = values[k];
        found += w == w;
        before += w < v || (w == v && k < i);
    }
    if (before == (found - 1) / 2) shared.low[which] = v;
    if (before == found / 2) shared.high[which] = v;
    if (before == 0) shared.found[which] = found;
}

FUNCTION inline float middle(const Shared& shared, int which) { return 0.5f * shared.low[which] + 0.5f * shared.high[which]; }

// Window b as the network gets it, in its canonical frame: see canonical_frames in rtskel/refine/canonical.py.
BLOCK_FUNCTION void gather_window(const Block& block, const Ring& ring, const Step& step, Index b, Shared& shared, Index* here,
                                  float* values) {
    if (b >= step.counts[1]) return;
    if (b == 0 && step.positions) block.each(ring.answers, [&](Index k) { step.positions[k] = ring.asked[k]; });
    const float nan = NAN;
    const Index s = step.stream[b], base = step.base[b];
    // Not Index: a GPU divides numbers of 8 bytes three times as slowly.
    const int w = static_cast<int>(ring.window), joints = static_cast<int>(ring.joints), steady = static_cast<int>(ring.steady);
    block.each(w, [&](int t) {
        Index slot = step.window[b] - w + 1 + t;
        if (slot < 0) slot = 0;
        if (slot > step.last[b]) slot = step.last[b];
        here[t] = there(ring, s, base, slot) ? place(ring, s, slot) : -1;
    });
    auto valid = [&](Index t, Index k) { return here[t] >= 0 && ring.confidence[here[t] + k] > 0.0f; };
    auto point = [&](Index t, Index k) { return ring.xyz + 3 * (here[t] + k); };
    auto bone = [&](Index t, Index k) {  // its length over its typical length, NaN where an end is missing
        const Index parent = ring.parents[k];
        if (parent < 0 || !valid(t, k) || !valid(t, parent)) return nan;
        return distance(point(t, k), point(t, parent)) / static_cast<float>(ring.bone_length[k]);
    };

    // Three ways to an origin; the second and third are for windows that never show a neck.
    const Index right = ring.right_shoulder, left = ring.left_shoulder;
    block.each(1, [&](Index) { shared.known = shared.any = 0; });
    for (int way = 0; way < 3; ++way) {
        if (shared.known) break;
        if (way < 2) {
            block.each(3 * w, [&](int i) {
                const int t = i % w, a = i / w;
                if (way == 0) values[i] = valid(t, ring.neck) ? point(t, ring.neck)[a] : nan;
                else values[i] = valid(t, right) && valid(t, left) ? 0.5f * point(t, right)[a] + 0.5f * point(t, left)[a] : nan;
                if (t == 0) clear(shared, a);
            });
            block.each(3 * w, [&](int i) { rank(shared, i / w, values + i / w * w, w, i % w); });
        } else {
            const int n = w * joints;
            for (int a = 0; a < 3; ++a) {
                block.each(n, [&](int i) {
                    values[i] = valid(i / joints, i % joints) ? point(i / joints, i % joints)[a] : nan;
                    if (i == 0) clear(shared, a);
                });
                block.each(n, [&](int i) { rank(shared, a, values, n, i); });
            }
        }
        block.each(1, [&](Index) {
            for (int a = 0; a < 3; ++a) shared.origin[a] = middle(shared, a);
            shared.known = shared.found[0] > 0;
        });
    }

    const int bones = w * steady;
    block.each(w + bones, [&](int i) {
        if (i < w) values[i] = valid(i, right) && valid(i, left) ? distance(point(i, right), point(i, left)) : nan;
        else values[i] = bone((i - w) / steady, ring.steady_bones[(i - w) % steady]);
        if (i == 0) clear(shared, 3), clear(shared, 4);
    });
    block.each(w + bones, [&](int i) {
        if (i < w) rank(shared, 3, values, w, i);
        else rank(shared, 4, values + w, bones, i - w);
    });
    const float width = middle(shared, 3) / static_cast<float>(ring.shoulder_width), some = middle(shared, 4);
    const float disagree = static_cast<float>(ring.disagree);
    const bool agree = width > 0.0f && !(some > 0.0f && (width > disagree * some || some > disagree * width));
    float size = agree ? width : some;
    if (!(size > 0.0f)) {
        const int n = w * joints;
        block.each(n, [&](int i) { values[i] = bone(i / joints, i % joints); });
        block.each(1, [&](Index) { clear(shared, 4); });  // not before: others may still read it
        block.each(n, [&](int i) { rank(shared, 4, values, n, i); });
        size = middle(shared, 4);
    }
    const float scale = size > 0.0f && finite(size) ? 1.0f / size : 1.0f, far = static_cast<float>(ring.far);

    float* x = step.x + 3 * b * w * joints;
    bool* missing = step.missing + b * w * joints;
    block.each(w * joints, [&](int i) {
        const int t = i / joints, k = i % joints;
        float to[3] = {0.0f, 0.0f, 0.0f};
        bool near = valid(t, k);
        for (int a = 0; a < 3 && near; ++a) {
            to[a] = (point(t, k)[a] - shared.origin[a]) * scale;
            near = std::fabs(to[a]) <= far;
        }
        for (int a = 0; a < 3; ++a) x[3 * i + a] = near ? to[a] : 0.0f;
        missing[i] = !near;
        if (near) shared.any = 1;
    });
    block.each(1, [&](Index) {
        for (int a = 0; a < 3; ++a) step.origin[3 * b + a] = shared.origin[a];
        step.scale[b] = scale;
        step.known[b] = shared.known && shared.any;
    });
}

// Output `row`, joint k: the mean of the predictions for its slot, their spread, the confidence that came.
FUNCTION inline void write_joint(const Ring& ring, const Step& step, Index b, Index row, Index k) {
    const Index s = step.stream[b], base = step.base[b], e = step.window[b], joints = ring.joints;
    const Index look = step.row_lookahead[row], slot = e - ring.reach[look];
    double sum[3] = {0.0, 0.0, 0.0};
    Index n = 0;
    auto each = [&](auto use) {
        for (Index end = e - ring.count[look] + 1; end <= e; ++end) {
            const Index at = s * ring.max_windows + end % ring.max_windows;
            if (ring.window_tag[at] != base + end) continue;
            use(ring.predicted + 3 * ((at * ring.positions + ring.kept[ring.window - 1 - (end - slot)]) * joints + k));
        }
    };
    each([&](const float* p) {
        for (int a = 0; a < 3; ++a) sum[a] += p[a];
        ++n;
    });
    const double divisor = n > 0 ? static_cast<double>(n) : 1.0;
    for (int a = 0; a < 3; ++a) sum[a] /= divisor;
    double spread = 0.0;
    each([&](const float* p) {
        const double x = p[0] - sum[0], y = p[1] - sum[1], z = p[2] - sum[2];
        spread += x * x + y * y + z * z;
    });
    float* xyz = step.out_xyz + 3 * (row * joints + k);
    for (int a = 0; a < 3; ++a) xyz[a] = static_cast<float>(sum[a]);
    const double sigma = std::sqrt(spread / divisor);
    step.out_sigma[row * joints + k] = sigma < FLT_MAX ? static_cast<float>(sigma) : FLT_MAX;
    step.out_confidence[row * joints + k] = there(ring, s, base, slot) ? ring.confidence[place(ring, s, slot) + k] : 0.0f;
    if (k == 0) step.windows[row] = n;
    if (n > 0) return;

    // The frame passes through. If every window was skipped and none came, so does the last one in which a joint was seen.
    for (Index j = slot; j >= 0 && j > slot - ring.window; --j) {
        if (!there(ring, s, base, j)) {
            if (!step.skipped[b]) return;
            continue;
        }
        const float* sure = ring.confidence + place(ring, s, j);
        bool any = false;
        for (Index i = 0; i < joints; ++i) any = any || sure[i] > 0.0f;
        if (!any && !step.skipped[b]) return;
        if (!any) continue;
        const float* from = ring.xyz + 3 * (place(ring, s, j) + (sure[k] > 0.0f ? k : ring.neck));
        for (int a = 0; a < 3; ++a) xyz[a] = from[a];
        return;
    }
}

// The windows of one stream in the batch, of which b is the first, in order: each one's predictions, moved back to the stream's
// own place and size, into the ring, then what it completes out of it.
BLOCK_FUNCTION void average_windows(const Block& block, const Ring& ring, const Step& step, Index b, Shared& shared) {
    if (b >= step.counts[1] || !step.first[b]) return;
    const Index s = step.stream[b], joints = ring.joints;
    for (; b >= 0; b = step.following[b]) {
        if (!step.skipped[b]) {
            const Index at = s * ring.max_windows + step.window[b] % ring.max_windows;
            block.each(1, [&](Index) { shared.known = step.known[b]; });
            block.each(ring.positions * joints, [&](int i) {
                const int p = i / static_cast<int>(joints), k = i % static_cast<int>(joints);
                const float* from = step.y + 3 * ((b * ring.answers + ring.column[p]) * joints + k);
                float* to = ring.predicted + 3 * ((at * ring.positions + p) * joints + k);
                for (int a = 0; a < 3; ++a) {
                    to[a] = from[a] / step.scale[b] + step.origin[3 * b + a];
                    if (!finite(to[a])) shared.known = 0;
                }
            });
            block.each(1, [&](Index) { ring.window_tag[at] = shared.known ? step.base[b] + step.window[b] : -1; });
        }
        for (Index row = step.rows[b]; row < step.rows[b + 1]; ++row)
            block.each(joints, [&](Index k) { write_joint(ring, step, b, row, k); });
    }
}

}  // namespace

#ifdef __CUDACC__
extern "C" __global__ void rtskel_store(Ring ring, Step step) { store_frame(Block{}, ring, step, blockIdx.x); }

extern "C" __global__ void rtskel_gather(Ring ring, Step step) {
    __shared__ Shared shared;
    extern __shared__ Index room[];  // W of here, then W * J values
    gather_window(Block{}, ring, step, blockIdx.x, shared, room, reinterpret_cast<float*>(room + ring.window));
}

extern "C" __global__ void rtskel_average(Ring ring, Step step) {
    __shared__ Shared shared;
    average_windows(Block{}, ring, step, blockIdx.x, shared);
}
#else
#include <vector>

extern "C" void rtskel_store(Index blocks, const Ring* ring, const Step* step) {
    for (Index b = 0; b < blocks; ++b) store_frame(Block{}, *ring, *step, b);
}

extern "C" void rtskel_gather(Index blocks, const Ring* ring, const Step* step) {
    std::vector<Index> here(ring->window);
    std::vector<float> values(ring->window * ring->joints);
    Shared shared;
    for (Index b = 0; b < blocks; ++b) gather_window(Block{}, *ring, *step, b, shared, here.data(), values.data());
}

extern "C" void rtskel_average(Index blocks, const Ring* ring, const Step* step) {
    Shared shared;
    for (Index b = 0; b < blocks; ++b) average_windows(Block{}, *ring, *step, b, shared);
}

extern "C" Index rtskel_sizes(Index which) {
    const Index sizes[] = {sizeof(Ring), sizeof(Step), sizeof(Network), sizeof(Pass)};
    return sizes[which];
}
#endif
