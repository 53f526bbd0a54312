// The many-stream ring on the host, window gather and overlap average. The specification is tests/oracles/ring.py in numpy: same names,
// same rounding but for the last digit of sigma; the same tests run both.
//
// One object is used by one thread at a time; every call that works on frames releases the GIL.

#pragma once

#include "ring_state.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

namespace rtskel {

constexpr float ABSENT = -1.0f;

// A frame's summary: the neck, whether it is there, the distance between the shoulders (or ABSENT), how many steady bones there are,
// and the smallest and largest ratio of their lengths to their typical lengths.
enum Summary { NECK_X, NECK_Y, NECK_Z, NECK_THERE, SHOULDERS, BONES, MIN_RATIO, MAX_RATIO, SUMMARY };

// Frames and predictions of one stream; allocated by its first frame, freed by reset.
struct Storage {
    std::vector<float> xyz;            // [C, J, 3], 0 where missing
    std::vector<float> confidence;     // [C, J], 0 where missing
    std::vector<std::uint8_t> whole;   // [C] whether no joint is missing
    std::vector<float> summary;        // [C, SUMMARY] what canonical frames read, see `summarise`
    std::vector<float> ratios;         // [C, steady bones] their lengths over their typical lengths, or ABSENT
    std::vector<float> predicted;      // [2r+1, P, J, 3] of window e at e % (2r+1)
    std::vector<std::uint8_t> usable;  // [2r+1]
};

// How the numbers of a gathered window were moved.
struct Moved {
    float origin[3] = {0, 0, 0}, scale = 1;
    bool known = false;  // whether there was anything
};

constexpr std::size_t FEW = 64, LANES = 8;

// As `median`, for 1 to FEW values. The k-th smallest value is the largest of those that have at most k below them. Counting is
// faster than sorting, because no branch is mispredicted; the inner loops are such that compilers make vectors of them.
RTSKEL_WIDE static float median_of_few(const float* v, std::size_t n) {
    constexpr float INF = std::numeric_limits<float>::infinity();
    float value[FEW];
    std::int32_t below[FEW] = {};
    std::copy_n(v, n, value);
    std::size_t end = n, j = 0;
    while (end % LANES) value[end++] = INF;
    for (; j + 4 <= n; j += 4) {  // several at a time: `below` is read and written less often
        const float a = value[j], b = value[j + 1], c = value[j + 2], d = value[j + 3];
        for (std::size_t i = 0; i < end; ++i) below[i] += (a < value[i]) + (b < value[i]) + (c < value[i]) + (d < value[i]);
    }
    for (; j < n; ++j)
        for (std::size_t i = 0; i < end; ++i) below[i] += value[j] < value[i];
    const auto lower = static_cast<std::int32_t>((n - 1) / 2), upper = static_cast<std::int32_t>(n / 2);
    float low[LANES], middle[LANES];
    std::fill_n(low, LANES, -INF);
    std::fill_n(middle, LANES, -INF);
    for (std::size_t first = 0; first < end; first += LANES)
        for (std::size_t i = 0; i < LANES; ++i) {
            low[i] = std::max(low[i], below[first + i] <= lower ? value[first + i] : -INF);
            middle[i] = std::max(middle[i], below[first + i] <= upper ? value[first + i] : -INF);
        }
    return 0.5f * *std::max_element(low, low + LANES) + 0.5f * *std::max_element(middle, middle + LANES);
}

// Median of v[0..n), the mean of the two middle values if n is even; 0 if n is 0. Reorders v.
inline float median(float* v, std::size_t n) {
    if (n == 0) return 0.0f;
    if (n <= FEW) return median_of_few(v, n);
    float* middle = v + n / 2;
    std::nth_element(v, middle, v + n);
    const float low = n % 2 ? *middle : *std::max_element(v, middle);
    return 0.5f * low + 0.5f * *middle;
}

// to = (from - origin) * scale; whether every coordinate stays within `far`.
RTSKEL_WIDE static bool move_there(const float* from, const float* origin, float scale, float far, std::size_t n, float* to) {
    int near = 1;
    for (std::size_t k = 0; k < n; ++k) {
        to[k] = (from[k] - origin[k]) * scale;
        near &= std::abs(to[k]) <= far;
    }
    return near;
}

// to = from / scale + origin; whether every coordinate is finite.
RTSKEL_WIDE static bool move_back(const float* from, const float* origin, float scale, std::size_t n, float* to) {
    int finite = 1;
    for (std::size_t k = 0; k < n; ++k) {
        to[k] = from[k] / scale + origin[k];
        finite &= std::abs(to[k]) <= std::numeric_limits<float>::max();
    }
    return finite;
}

RTSKEL_WIDE static void add(const float* from, std::size_t n, double* to) {
    for (std::size_t k = 0; k < n; ++k) to[k] += from[k];
}

RTSKEL_WIDE static void divide(double* values, std::size_t n, double by, float* to) {
    for (std::size_t k = 0; k < n; ++k) to[k] = static_cast<float>(values[k] /= by);
}

RTSKEL_WIDE static void add_squares(const float* from, const double* mean, std::size_t n, double* to) {
    for (std::size_t k = 0; k < n; ++k) {
        const double off = from[k] - mean[k];
        to[k] += off * off;
    }
}

RTSKEL_WIDE static void spread(const double* squares, std::size_t joints, double by, float* sigma) {
    constexpr double MAX = std::numeric_limits<float>::max();  // predictions may lie further apart than any float says
    for (std::size_t k = 0; k < joints; ++k)
        sigma[k] = static_cast<float>(std::min(MAX, std::sqrt((squares[3 * k] + squares[3 * k + 1] + squares[3 * k + 2]) / by)));
}

// Whether every joint counts as there.
RTSKEL_WIDE static bool sure_of_all(const float* confidence, std::size_t joints, float least) {
    int all = 1;
    for (std::size_t k = 0; k < joints; ++k) all &= (confidence[k] > 0.0f) & (confidence[k] >= least);
    return all;
}

inline float distance(const float* a, const float* b) {
    const float x = a[0] - b[0], y = a[1] - b[1], z = a[2] - b[2];
    return std::sqrt(x * x + y * y + z * z);
}

class Ring : public RingState {
  public:
    explicit Ring(Config config)
        : RingState(std::move(config)),
          storage(cfg.streams),
          here(cfg.window),
          scratch(static_cast<std::size_t>(cfg.window) * cfg.joints),
          origin(3 * cfg.joints),
          mean(3 * cfg.joints),
          squares(3 * cfg.joints) {
        for (int j = 0; j < cfg.joints; ++j)
            if (cfg.parents[j] >= 0) bones.push_back(j);
    }

    void put(In<std::int32_t> stream, In<std::int64_t> slot, In<float> xyz, In<float> confidence, Out<std::uint8_t> status) {
        const std::size_t rows = stream.size();
        for (std::size_t m = 0; m < rows; ++m)
            status.data()[m] = put_one(checked(stream.data()[m]), slot.data()[m], xyz.data() + m * cfg.joints * 3,
                                       confidence.data() + m * cfg.joints);
    }

    // Prefetch what `put_one` writes.
    void soon(int s, std::int64_t j) const {
        if (slots[s].empty()) return;
        const Storage& st = storage[s];
        const std::int64_t at = j % capacity;
        prefetch(&slots[s][at], sizeof(std::int64_t));
        prefetch(frame(st, at), cfg.joints * 3 * sizeof(float));
        prefetch(confidences(st, at), cfg.joints * sizeof(float));
        prefetch(summary(st, at), SUMMARY * sizeof(float));
        prefetch(st.ratios.data() + at * cfg.steady.size(), cfg.steady.size() * sizeof(float));
        prefetch(&st.whole[at], 1);
    }

    Put put_one(int s, std::int64_t j, const float* xyz, const float* confidence) {
        if (const Put put = would_be(s, j); put != TAKEN) return put;
        if (slots[s].empty()) allocate(s);
        Storage& st = storage[s];
        const std::size_t at = j % capacity;
        float* to = st.xyz.data() + at * cfg.joints * 3;
        float* sure = st.confidence.data() + at * cfg.joints;
        const bool whole = sure_of_all(confidence, cfg.joints, cfg.min_confidence) && within(xyz, 3 * cfg.joints, std::numeric_limits<float>::max());
        if (whole) {  // usually
            std::copy_n(xyz, 3 * cfg.joints, to);
            for (int k = 0; k < cfg.joints; ++k) sure[k] = std::min(confidence[k], 1.0f);
        }
        for (int k = 0; k < cfg.joints && !whole; ++k) {
            const float* p = xyz + 3 * k;
            const float c = confidence[k];
            const bool valid = c > 0.0f && c >= cfg.min_confidence && std::isfinite(p[0]) && std::isfinite(p[1]) && std::isfinite(p[2]);
            for (int a = 0; a < 3; ++a) to[3 * k + a] = valid ? p[a] : 0.0f;
            sure[k] = valid ? std::min(c, 1.0f) : 0.0f;
        }
        summarise(st, at);
        take(s, j);
        return TAKEN;
    }

    void reset(In<std::int32_t> stream) {
        for (std::size_t m = 0; m < stream.size(); ++m) {
            const int s = checked(stream.data()[m]);
            storage[s] = Storage{};
            forget(s);
        }
    }

    std::size_t gather(Out<float> x, Out<bool> missing) {
        share(x.shape(0));
        moved.assign(plan.size(), {});
        const std::size_t cells = static_cast<std::size_t>(cfg.window) * cfg.joints;
        if (!plan.empty()) prefetch_window(plan[0]);
        for (std::size_t b = 0; b < plan.size(); ++b) {
            gather_one(plan[b], moved[b], b + 1 < plan.size() ? &plan[b + 1] : nullptr, x.data() + b * cells * 3, missing.data() + b * cells);
        }
        return plan.size();
    }

    void skip(In<std::int32_t> stream, In<std::int64_t> window, Columns out) {
        std::size_t row = 0;
        for (std::size_t m = 0; m < stream.size(); ++m) {
            const int s = checked(stream.data()[m]);
            if (next_[s] < window.data()[m] && slots[s].empty()) allocate(s);
            for (std::int64_t e = next_[s]; e < window.data()[m]; ++e) {
                storage[s].usable[e % max_windows] = false;
                row = complete(s, e, out, row, true);
            }
        }
    }

    void average(In<float> y, Columns out) {
        std::size_t row = 0;
        for (std::size_t b = 0; b < plan.size(); ++b) {
            if (b + 1 < plan.size()) prefetch_predictions(plan[b + 1]);
            keep(plan[b], moved[b], y.data() + b * cfg.positions.size() * 3 * cfg.joints);
            row = complete(plan[b].stream, plan[b].window, out, row, false);
        }
        plan.clear();
    }

  private:
    std::vector<Storage> storage;
    std::vector<int> bones;      // joints that have a parent
    std::vector<Moved> moved;    // the gathered batch
    std::vector<std::int64_t> here;
    std::vector<float> scratch, origin;
    std::vector<double> mean, squares;
    std::vector<const float*> averaged;

    // What the canonical frame of every window with this frame needs: computed once per frame instead of once per window, and
    // close together in memory.
    void summarise(Storage& st, std::size_t at) const {
        const float* p = frame(st, at);
        const float* sure = confidences(st, at);
        st.whole[at] = std::all_of(sure, sure + cfg.joints, [](float c) { return c > 0.0f; });
        float* sum = st.summary.data() + at * SUMMARY;
        float* ratio = st.ratios.data() + at * cfg.steady.size();
        auto between = [&](int a, int b) { return sure[a] > 0.0f && sure[b] > 0.0f ? distance(p + 3 * a, p + 3 * b) : ABSENT; };
        std::copy_n(p + 3 * cfg.neck, 3, sum + NECK_X);
        sum[NECK_THERE] = sure[cfg.neck] > 0.0f;
        sum[SHOULDERS] = between(cfg.right_shoulder, cfg.left_shoulder);
        sum[BONES] = sum[MAX_RATIO] = 0.0f;
        sum[MIN_RATIO] = std::numeric_limits<float>::infinity();
        for (std::size_t k = 0; k < cfg.steady.size(); ++k) {
            const int joint = cfg.steady[k];
            const float length = between(joint, cfg.parents[joint]);
            ratio[k] = length == ABSENT ? ABSENT : length / cfg.bone_length[joint];
            if (ratio[k] == ABSENT) continue;
            sum[BONES] += 1.0f;
            sum[MIN_RATIO] = std::min(sum[MIN_RATIO], ratio[k]);
            sum[MAX_RATIO] = std::max(sum[MAX_RATIO], ratio[k]);
        }
    }

    void allocate(int s) {
        const std::size_t pose = static_cast<std::size_t>(cfg.joints) * 3;
        slots[s].assign(capacity, NONE);
        Storage& st = storage[s];
        st.xyz.assign(capacity * pose, 0.0f);
        st.confidence.assign(capacity * cfg.joints, 0.0f);
        st.whole.assign(capacity, false);
        st.summary.assign(capacity * SUMMARY, ABSENT);
        st.ratios.assign(capacity * cfg.steady.size(), ABSENT);
        st.predicted.assign(max_windows * cfg.positions.size() * pose, 0.0f);
        st.usable.assign(max_windows, false);
    }

    const float* frame(const Storage& st, std::int64_t at) const { return st.xyz.data() + at * cfg.joints * 3; }
    const float* confidences(const Storage& st, std::int64_t at) const { return st.confidence.data() + at * cfg.joints; }
    const float* summary(const Storage& st, std::int64_t at) const { return st.summary.data() + at * SUMMARY; }

    void prefetch_window(const Planned& p) const {
        if (slots[p.stream].empty()) return;
        const Storage& st = storage[p.stream];
        prefetch(slots[p.stream].data(), capacity * sizeof(std::int64_t));
        prefetch(st.whole.data(), st.whole.size());
        std::int64_t at = first_place(p);
        for (int t = 0; t < cfg.window; ++t, at = following_place(at)) prefetch_slot(&st, at);
    }

    void prefetch_predictions(const Planned& p) const {
        const Storage& st = storage[p.stream];
        if (!st.predicted.empty()) prefetch(st.predicted.data(), st.predicted.size() * sizeof(float));
    }

    // The place of a window's first slot; every following slot, except padding, lies one place further.
    std::int64_t first_place(const Planned& p) const { return std::max<std::int64_t>(0, p.window - cfg.window + 1) % capacity; }
    std::int64_t following_place(std::int64_t at) const { return at + 1 == capacity ? 0 : at + 1; }

    // A slot of the next window.
    void prefetch_slot(const Storage* st, std::int64_t at) const {
        prefetch(frame(*st, at), cfg.joints * 3 * sizeof(float));
        prefetch(summary(*st, at), SUMMARY * sizeof(float));
    }

    void gather_one(const Planned& p, Moved& to, const Planned* following, float* x, bool* missing) {
        const Storage* later = following && !slots[following->stream].empty() ? &storage[following->stream] : nullptr;
        if (later) {
            prefetch(slots[following->stream].data(), capacity * sizeof(std::int64_t));
            prefetch(later->whole.data(), later->whole.size());
        }
        const Storage& st = storage[p.stream];
        const auto& came = slots[p.stream];
        const std::int64_t newest = ended_[p.stream] ? last_[p.stream] : p.window;
        std::int64_t slot = std::min(std::max<std::int64_t>(0, p.window - cfg.window + 1), newest), at = slot % capacity;
        for (int t = 0; t < cfg.window; ++t) {
            here[t] = !came.empty() && came[at] == slot ? at : NONE;
            if (slot < p.window - cfg.window + 2 + t && slot < newest) {
                ++slot;
                at = following_place(at);
            }
        }
        canonical_frame(st, to);
        const int pose = 3 * cfg.joints;
        repeat(to.origin);
        std::int64_t ahead = later ? first_place(*following) : 0;
        bool any = false;
        for (int t = 0; t < cfg.window; ++t, x += pose, missing += cfg.joints) {
            if (later) {
                prefetch_slot(later, ahead);
                ahead = following_place(ahead);
            }
            if (here[t] == NONE) {
                std::fill_n(x, pose, 0.0f);
                std::fill_n(missing, cfg.joints, true);
                continue;
            }
            const float* from = frame(st, here[t]);
            const bool near = move_there(from, origin.data(), to.scale, cfg.far, pose, x);
            std::fill_n(missing, cfg.joints, false);
            if (near && st.whole[here[t]]) {  // usually
                any = true;
                continue;
            }
            const float* sure = confidences(st, here[t]);
            for (int k = 0; k < cfg.joints; ++k) {
                float* joint = x + 3 * k;
                const bool valid = sure[k] > 0.0f && std::abs(joint[0]) <= cfg.far && std::abs(joint[1]) <= cfg.far &&
                                   std::abs(joint[2]) <= cfg.far;
                if (!valid) joint[0] = joint[1] = joint[2] = 0.0f;
                missing[k] = !valid;
                any = any || valid;
            }
        }
        to.known = to.known && any;
    }

    // `origin` for every joint.
    void repeat(const float* point) {
        for (int k = 0; k < cfg.joints; ++k) std::copy_n(point, 3, origin.data() + 3 * k);
    }

    // Origin, scale and whether anything is known, as canonical_frames in rtskel/refine/canonical.py says.
    void canonical_frame(const Storage& st, Moved& to) {
        auto valid = [&](int t, int k) { return here[t] != NONE && confidences(st, here[t])[k] > 0.0f; };
        auto point = [&](int t, int k) { return frame(st, here[t]) + 3 * k; };
        const int right = cfg.right_shoulder, left = cfg.left_shoulder;
        float* v = scratch.data();

        // Three ways to an origin; the second and third are for windows that never show a neck.
        to.known = false;
        for (int way = 0; way < 3 && !to.known; ++way)
            for (int a = 0; a < 3; ++a) {
                std::size_t n = 0;
                for (int t = 0; t < cfg.window; ++t) {
                    if (here[t] == NONE) continue;
                    const float* sum = summary(st, here[t]);
                    if (way == 0 && sum[NECK_THERE] > 0.0f) v[n++] = sum[NECK_X + a];
                    if (way == 1 && sum[SHOULDERS] != ABSENT) v[n++] = 0.5f * point(t, right)[a] + 0.5f * point(t, left)[a];
                    if (way == 2)
                        for (int k = 0; k < cfg.joints; ++k)
                            if (valid(t, k)) v[n++] = point(t, k)[a];
                }
                to.origin[a] = median(v, n);
                to.known = n > 0;
            }

        std::size_t n = 0;
        for (int t = 0; t < cfg.window; ++t)
            if (here[t] != NONE && summary(st, here[t])[SHOULDERS] != ABSENT) v[n++] = summary(st, here[t])[SHOULDERS];
        const float width = median(v, n) / cfg.shoulder_width;
        // If more than half of the bones agree with the shoulders, so does their median, which need not be computed. Usually enough
        // frames have all of their bones agree.
        auto differs = [&](float bones) { return width > cfg.disagree * bones || bones > cfg.disagree * width; };
        float there = 0.0f, agree = 0.0f;
        for (int t = 0; t < cfg.window; ++t) {
            if (here[t] == NONE) continue;
            const float* sum = summary(st, here[t]);
            there += sum[BONES];
            agree += differs(sum[MIN_RATIO]) || differs(sum[MAX_RATIO]) ? 0.0f : sum[BONES];
        }
        float size = width;
        if (!(width > 0.0f) || (there > 0.0f && 2.0f * agree <= there)) {
            n = 0;
            for (int t = 0; t < cfg.window; ++t) {
                if (here[t] == NONE) continue;
                const float* ratio = st.ratios.data() + here[t] * cfg.steady.size();
                for (std::size_t k = 0; k < cfg.steady.size(); ++k)
                    if (ratio[k] != ABSENT) v[n++] = ratio[k];
            }
            const float steady = median(v, n);
            if (!(width > 0.0f) || (steady > 0.0f && differs(steady))) size = steady;
            if (!(size > 0.0f)) {
                n = 0;
                for (int t = 0; t < cfg.window; ++t)
                    for (int k : bones)
                        if (valid(t, k) && valid(t, cfg.parents[k]))
                            v[n++] = distance(point(t, k), point(t, cfg.parents[k])) / cfg.bone_length[k];
                size = median(v, n);
            }
        }
        to.scale = size > 0.0f && std::isfinite(size) ? 1.0f / size : 1.0f;
    }

    // Keep one window's predictions y [P, J, 3], moved back to the stream's own place and size.
    void keep(const Planned& p, const Moved& from, const float* y) {
        if (slots[p.stream].empty()) allocate(p.stream);
        Storage& st = storage[p.stream];
        const std::size_t pose = static_cast<std::size_t>(cfg.joints) * 3;
        const std::size_t at = p.window % max_windows;
        float* to = st.predicted.data() + at * cfg.positions.size() * pose;
        repeat(from.origin);
        bool finite = true;
        for (std::size_t k = 0; k < cfg.positions.size(); ++k)
            finite = move_back(y + k * pose, origin.data(), from.scale, pose, to + k * pose) && finite;
        st.usable[at] = from.known && finite;
    }

    // The frame of slot i, or the last one before it in which a joint was seen; missing joints at the neck.
    void pass_through(int s, std::int64_t i, float* xyz) const {
        const Storage& st = storage[s];
        for (std::int64_t j = i; j >= 0 && j > i - cfg.window; --j) {
            const std::int64_t at = j % capacity;
            const float *from = frame(st, at), *sure = confidences(st, at);
            if (!there(s, j) || std::none_of(sure, sure + cfg.joints, [](float c) { return c > 0.0f; })) continue;
            for (int k = 0; k < cfg.joints; ++k) std::copy_n(from + 3 * (sure[k] > 0.0f ? k : cfg.neck), 3, xyz + 3 * k);
            return;
        }
    }

    // Window e of stream s has run, or is skipped: write what it completes from `at` on, return the row after.
    std::size_t complete(int s, std::int64_t e, const Columns& out, std::size_t at, bool skipped) {
        completed(s, e, [&](const Row& row) {
            if (at == out.rows()) throw std::invalid_argument("fewer rows than poses");
            float* xyz = out.xyz.data() + at * 3 * cfg.joints;
            const int windows =
                write(row, e, xyz, out.sigma.data() + at * cfg.joints, out.confidence.data() + at * cfg.joints);
            write_books(row, out, at, windows, skipped);
            if (out.flags.data()[at] & PASSTHROUGH) pass_through(s, row.slot, xyz);
            ++at;
        });
        pass(s, e);
        return at;
    }

    // The numbers of a row that window e completes; how many predictions they are the average of.
    int write(const Row& row, std::int64_t e, float* xyz, float* sigma, float* confidence) {
        const Storage& st = storage[row.stream];
        const std::size_t pose = static_cast<std::size_t>(cfg.joints) * 3;
        averaged.clear();
        for (std::int64_t end = e - cfg.count[row.look] + 1; end <= e; ++end) {
            const std::size_t at = end % max_windows;
            if (!st.usable[at]) continue;
            const int position = cfg.window - 1 - static_cast<int>(end - row.slot);
            const std::size_t column = std::lower_bound(cfg.positions.begin(), cfg.positions.end(), position) - cfg.positions.begin();
            averaged.push_back(st.predicted.data() + (at * cfg.positions.size() + column) * pose);
        }
        const double n = std::max<double>(1.0, static_cast<double>(averaged.size()));
        std::fill(mean.begin(), mean.end(), 0.0);
        std::fill(squares.begin(), squares.end(), 0.0);
        for (const float* p : averaged) add(p, pose, mean.data());
        divide(mean.data(), pose, n, xyz);
        for (const float* p : averaged) add_squares(p, mean.data(), pose, squares.data());
        spread(squares.data(), cfg.joints, n, sigma);
        if (there(row.stream, row.slot))
            std::copy_n(confidences(st, row.slot % capacity), cfg.joints, confidence);
        else
            std::fill_n(confidence, cfg.joints, 0.0f);
        return static_cast<int>(averaged.size());
    }
};

inline void bind_ring(nb::module_& m) {
    nb::class_<Ring, RingState> ring(m, "Ring");
    bind_constructor<Ring>(ring);
    ring.def("put", &Ring::put, nb::call_guard<nb::gil_scoped_release>())
        .def("reset", &Ring::reset, nb::call_guard<nb::gil_scoped_release>())
        .def("gather", &Ring::gather, nb::call_guard<nb::gil_scoped_release>())
        .def("average",
             [](Ring& self, In<float> y, Out<std::int32_t> stream, Out<std::int64_t> slot, Out<std::int32_t> lookahead, Out<float> xyz,
                Out<float> sigma, Out<float> confidence, Out<std::int32_t> windows, Out<std::uint32_t> flags) {
                 const nb::gil_scoped_release released;
                 self.average(y, {stream, slot, lookahead, xyz, sigma, confidence, windows, flags});
             })
        .def("skip", [](Ring& self, In<std::int32_t> rows, In<std::int64_t> window, Out<std::int32_t> stream, Out<std::int64_t> slot,
                        Out<std::int32_t> lookahead, Out<float> xyz, Out<float> sigma, Out<float> confidence, Out<std::int32_t> windows,
                        Out<std::uint32_t> flags) {
            const nb::gil_scoped_release released;
            self.skip(rows, window, {stream, slot, lookahead, xyz, sigma, confidence, windows, flags});
        });
}

}  // namespace rtskel
