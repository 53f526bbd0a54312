// What every ring knows of its streams besides frames and predictions: which frames have come, which windows can run, how streams
// share a batch, and which rows a window completes. `Ring` (ring.h) adds the numbers on the host, `DeviceRing` (device_ring.h) hands
// them to a GPU. The specification is `RingState` in tests/oracles/ring.py.

#pragma once

#include "module.h"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

namespace rtskel {

constexpr std::uint32_t WARM_UP = 1, INTERPOLATED = 2, PARTIAL_AVERAGE = 4, PASSTHROUGH = 8, FLUSHED = 64;  // bits of rtskel.Flag

constexpr std::int64_t NONE = -1;

struct Config {
    int streams, window, joints, radius, ahead, hop;
    float min_confidence, shoulder_width, far, disagree;
    std::vector<int> lookaheads, reach, count;  // a lookahead: its frames, its reach, how many windows it averages
    std::vector<int> positions;                 // [P] ascending: where in a window lie the predictions that some average takes
    std::vector<int> parents;
    std::vector<float> bone_length;
    std::vector<int> steady;                    // joints whose bones check the shoulder width
    int neck, right_shoulder, left_shoulder;
};

struct Planned {
    int stream;
    std::int64_t window;
};

// A row that a window completes.
struct Row {
    int stream;
    std::int64_t slot;
    std::size_t look;     // index of its lookahead
    std::uint32_t flags;  // those that need no numbers
};

// `Refined.columns`.
struct Columns {
    Out<std::int32_t> stream;
    Out<std::int64_t> slot;
    Out<std::int32_t> lookahead;
    Out<float> xyz, sigma, confidence;
    Out<std::int32_t> windows;
    Out<std::uint32_t> flags;

    std::size_t rows() const { return slot.size(); }
};

class RingState {
  public:
    explicit RingState(Config config)
        : cfg(std::move(config)),
          max_windows(2 * cfg.radius + 1),
          capacity(cfg.window + max_windows + cfg.ahead),
          furthest(*std::max_element(cfg.reach.begin(), cfg.reach.end())),
          watermark_(cfg.streams, NONE),
          newest_(cfg.streams, NONE),
          next_(cfg.streams, 0),
          ended_(cfg.streams, false),
          group_(cfg.streams, 0),
          slots(cfg.streams),
          stale_(cfg.streams, 0),
          last_(cfg.streams, NONE),
          group_turns(cfg.streams, 0) {}

    int checked(std::int32_t s) const {
        if (s < 0 || s >= cfg.streams) throw std::out_of_range("stream index out of range");
        return s;
    }

    // What becomes of a frame for slot j of stream s.
    Put would_be(int s, std::int64_t j) const {
        if (there(s, j)) return DUPLICATE;
        if (j + furthest < next_[s] || (ended_[s] && j > last_[s])) return LATE;
        return j < next_[s] + cfg.ahead ? TAKEN : AHEAD;
    }

    void settle(In<std::int32_t> stream, In<std::int64_t> slot) {
        for (std::size_t m = 0; m < stream.size(); ++m) {
            const int s = checked(stream.data()[m]);
            std::int64_t j = slot.data()[m];
            if (ended_[s]) j = std::min(j, last_[s]);
            newest_[s] = std::max(newest_[s], j);
            watermark_[s] = std::max(watermark_[s], j);
            advance(s);
        }
    }

    void end(In<std::int32_t> stream, In<std::int64_t> last) {
        for (std::size_t m = 0; m < stream.size(); ++m) {
            const int s = checked(stream.data()[m]);
            last_[s] = std::max(last.data()[m], newest_[s]);
            ended_[s] = true;
            newest_[s] = watermark_[s] = last_[s];
        }
    }

    std::int64_t pending() const {
        std::int64_t total = 0;
        for (int s = 0; s < cfg.streams; ++s) total += std::max<std::int64_t>(0, limit(s) - first(s) + 1);
        return total;
    }

    // How many rows the planned windows complete.
    std::size_t outputs() const {
        std::size_t total = 0;
        for (const Planned& p : plan)
            for (int reach : cfg.reach) total += completes(p.stream, p.window, reach);
        return total;
    }

    const Config cfg;
    const std::int64_t max_windows, capacity, furthest;
    std::vector<std::int64_t> watermark_, newest_, next_;
    std::vector<std::uint8_t> ended_;
    std::vector<std::int32_t> group_;  // by stream, 0..streams-1: whose shares of the engine are one share

  protected:
    std::vector<std::vector<std::int64_t>> slots;  // [C] of each stream: the slot whose frame lies at slot % C; empty before the first
    std::vector<std::int64_t> stale_, last_;       // windows from stale up to next must run again; last slot of an ended stream
    std::vector<Planned> plan;                     // the batch, in order

    bool there(int s, std::int64_t j) const { return !slots[s].empty() && slots[s][j % capacity] == j; }

    // The frame of slot j, which `would_be` TAKEN, counts as come; slots[s] is not empty.
    void take(int s, std::int64_t j) {
        slots[s][j % capacity] = j;
        stale_[s] = std::min(stale_[s], j);
        newest_[s] = std::max(newest_[s], j);
        advance(s);
    }

    void forget(int s) {
        slots[s] = {};
        watermark_[s] = newest_[s] = last_[s] = NONE;
        next_[s] = stale_[s] = 0;
        ended_[s] = false;
    }

    // Window e of stream s has run, or never will.
    void pass(int s, std::int64_t e) {
        stale_[s] = e + 1;
        next_[s] = std::max(next_[s], e + 1);
    }

    bool completes(int s, std::int64_t e, int reach) const {
        return e >= next_[s] && e - reach >= 0 && !(ended_[s] && e - reach > last_[s]);
    }

    // Calls `each` with every row that window e of stream s completes.
    template <typename Each>
    void completed(int s, std::int64_t e, Each each) const {
        for (std::size_t l = 0; l < cfg.reach.size(); ++l)
            if (completes(s, e, cfg.reach[l]))
                each(Row{s, e - cfg.reach[l], l,
                         (e - cfg.count[l] + 1 < cfg.window - 1 ? WARM_UP : 0) | (ended_[s] && e > last_[s] ? FLUSHED : 0)});
    }

    // Writes all of a row but its numbers. `windows`: how many were averaged. `skipped`: its last window did not run.
    void write_books(const Row& row, const Columns& out, std::size_t at, std::int32_t windows, bool skipped) const {
        if (at >= out.rows()) throw std::invalid_argument("fewer rows than poses");
        out.stream.data()[at] = row.stream;
        out.slot.data()[at] = row.slot;
        out.lookahead.data()[at] = cfg.lookaheads[row.look];
        out.windows.data()[at] = windows;
        const float* confidence = out.confidence.data() + at * cfg.joints;
        int any = 0;
        for (int k = 0; k < cfg.joints; ++k) any |= confidence[k] > 0.0f;
        out.flags.data()[at] = row.flags | (any ? 0 : INTERPOLATED) | (windows < cfg.count[row.look] ? PARTIAL_AVERAGE : 0) |
                               (!windows && (skipped || any) ? PASSTHROUGH : 0);
    }

    // Plans the next batch: equal shares of what is ready. Where not all of it fits, each group has a share, and its streams share that.
    void share(std::size_t room) {
        plan.clear();
        std::vector<Ready> ready;
        std::size_t total = 0;
        bool several = false;
        for (int s = 0; s < cfg.streams; ++s) {
            const std::int64_t from = first(s), to = limit(s) + 1;
            if (from >= to) continue;
            ready.push_back({s, from, to});
            total += to - from;
            several |= group_[s] != group_[ready[0].who];
        }
        const auto add = [this](int s, std::int64_t window) { plan.push_back({s, window}); };
        if (!several || total <= room) return deal(ready, room, turn, add);

        std::map<int, std::vector<Ready>> streams;
        for (const Ready& r : ready) streams[group_[r.who]].push_back(r);
        std::vector<Ready> groups;
        for (const auto& [g, members] : streams) {
            groups.push_back({g, 0, 0});
            for (const Ready& r : members) groups.back().end += r.end - r.next;
        }
        std::map<int, std::size_t> quota;
        deal(groups, room, group_turn, [&](int g, std::int64_t) { ++quota[g]; });
        for (const auto& [g, windows] : quota) deal(streams[g], windows, group_turns.at(g), add);
    }

  private:
    int turn = 0, group_turn = 0;   // whose turn it is: of all streams, of the groups ...
    std::vector<int> group_turns;  // ... and of each group's streams

    void advance(int s) {
        if (slots[s].empty()) return;
        while (slots[s][(watermark_[s] + 1) % capacity] == watermark_[s] + 1) ++watermark_[s];
    }

    // The windows that can run now are first(s)..limit(s).
    std::int64_t limit(int s) const {
        if (ended_[s] && last_[s] >= 0) return last_[s] + furthest;
        return cfg.hop == 1 ? watermark_[s] : watermark_[s] - (watermark_[s] + 1) % cfg.hop;  // a division for each stream adds up
    }

    std::int64_t first(int s) const {
        if (stale_[s] < next_[s] && next_[s] <= limit(s)) return std::max(stale_[s], next_[s] - max_windows + 1);
        return next_[s];
    }

    // Something that waits for the engine: windows next..end - 1 of a stream, or as many of a group.
    struct Ready {
        int who;
        std::int64_t next, end;
    };

    // Gives `room` to those that have something ready, each as much as the others or all it has; the turn goes round.
    template <typename Take>
    void deal(std::vector<Ready>& ready, std::size_t room, int& turn, Take take) {
        std::rotate(ready.begin(), std::find_if(ready.begin(), ready.end(), [&](const Ready& r) { return r.who >= turn; }), ready.end());
        while (!ready.empty() && room) {
            const std::int64_t each = std::max<std::int64_t>(1, room / ready.size());
            for (Ready& r : ready) {
                const std::int64_t end = r.next + std::min({each, r.end - r.next, static_cast<std::int64_t>(room)});
                if (r.next < end) turn = (r.who + 1) % cfg.streams;
                room -= end - r.next;
                while (r.next < end) take(r.who, r.next++);
            }
            ready.erase(std::remove_if(ready.begin(), ready.end(), [](const Ready& r) { return r.next >= r.end; }), ready.end());
        }
    }
};

// Whether all of these are streams of a ring, and slots from 0: what `RefinerBank` checks before it gives them to one.
inline bool valid_rows(In<std::int32_t> stream, In<std::int64_t> slot, std::int32_t streams) {
    return std::all_of(stream.data(), stream.data() + stream.size(), [&](std::int32_t s) { return s >= 0 && s < streams; }) &&
           std::all_of(slot.data(), slot.data() + slot.size(), [](std::int64_t j) { return j >= 0; });
}

template <typename T>
using View = nb::ndarray<nb::numpy, const T, nb::ndim<1>>;

template <typename T>
View<T> view(nb::handle self, const std::vector<T>& values) {
    return View<T>(values.data(), {values.size()}, self);
}

// The constructor of a ring, of rtskel.refine.ring.ring_arguments.
template <typename R, typename Class>
void bind_constructor(Class& ring) {
    ring.def(
        "__init__",
        [](R* self, int streams, int window, int joints, int radius, int ahead, int hop, float min_confidence, float shoulder_width,
           float far, float disagree, std::vector<int> lookaheads, std::vector<int> reach, std::vector<int> count,
           std::vector<int> positions, std::vector<int> parents, std::vector<float> bone_length, std::vector<int> steady, int neck,
           int right_shoulder, int left_shoulder) {
            new (self) R(Config{streams, window, joints, radius, ahead, hop, min_confidence, shoulder_width, far, disagree,
                                std::move(lookaheads), std::move(reach), std::move(count), std::move(positions), std::move(parents),
                                std::move(bone_length), std::move(steady), neck, right_shoulder, left_shoulder});
        },
        nb::kw_only(), nb::arg("streams"), nb::arg("window"), nb::arg("joints"), nb::arg("radius"), nb::arg("ahead"), nb::arg("hop"),
        nb::arg("min_confidence"), nb::arg("shoulder_width"), nb::arg("far"), nb::arg("disagree"), nb::arg("lookaheads"),
        nb::arg("reach"), nb::arg("count"), nb::arg("positions"), nb::arg("parents"), nb::arg("bone_length"), nb::arg("steady"),
        nb::arg("neck"), nb::arg("right_shoulder"), nb::arg("left_shoulder"));
}

inline void bind_ring_state(nb::module_& m) {
    m.def("valid_rows", &valid_rows);
    nb::class_<RingState>(m, "RingState")
        .def("settle", &RingState::settle, nb::call_guard<nb::gil_scoped_release>())
        .def("end", &RingState::end, nb::call_guard<nb::gil_scoped_release>())
        .def_prop_ro("pending", &RingState::pending)
        .def_prop_ro("outputs", &RingState::outputs)
        .def_prop_ro("watermark", [](nb::handle self) { return view(self, nb::cast<RingState&>(self).watermark_); })
        .def_prop_ro("newest", [](nb::handle self) { return view(self, nb::cast<RingState&>(self).newest_); })
        .def_prop_ro("next", [](nb::handle self) { return view(self, nb::cast<RingState&>(self).next_); })
        .def_prop_ro("ended", [](nb::handle self) {
            const auto& ended = nb::cast<RingState&>(self).ended_;
            return View<bool>(reinterpret_cast<const bool*>(ended.data()), {ended.size()}, self);
        })
        .def_prop_ro("group", [](nb::handle self) {
            auto& group = nb::cast<RingState&>(self).group_;
            return nb::ndarray<nb::numpy, std::int32_t, nb::ndim<1>>(group.data(), {group.size()}, self);
        });
}

}  // namespace rtskel
