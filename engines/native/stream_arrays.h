// What the server keeps of its streams by place, for a whole batch of frames in one call; rtskel/serve/arrays.py says what each array is. They
// belong to this object; Python reads and writes them through views. Used by one thread. The numpy oracle is tests/oracles/arrays.py.

#pragma once

#include "arrival.h"
#include "module.h"

#include <algorithm>
#include <cstdlib>
#include <cstdint>
#include <initializer_list>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

namespace rtskel {

class StreamArrays {
  public:
    StreamArrays(std::size_t places, std::size_t ring, std::size_t looks, double follow_share, double memory, double tolerance)
        : looks(looks),
          places(places),
          ring(ring),
          clock(places, follow_share, memory, tolerance),
          live(places),
          timed(places),
          lossless(places),
          until(places, std::numeric_limits<double>::infinity()),
          newest(places, -1),
          first(places),
          heard(places),
          origin(places),
          base(places),
          faulty(places, -1),
          slot(places * ring, -1),
          received(places * ring),
          captured(places * ring),
          axes(3 * places),
          flags(places),
          lines(places * looks),
          seen(places),
          waits(places) {
        for (std::size_t k = 0; k < axes.size(); ++k) axes[k] = static_cast<std::int8_t>(1 + k % 3);
    }

    std::size_t checked(std::int32_t place) const {
        if (place < 0 || static_cast<std::size_t>(place) >= places) throw std::out_of_range("place out of range");
        return place;
    }

    // A frame of slot `s` was accepted.
    void accept(std::size_t p, std::int64_t s, std::int64_t read) {
        heard[p] = read;
        newest[p] = std::max(newest[p], s);
    }

    void came(In<std::int32_t> place, In<std::int64_t> slots, In<std::int64_t> read, In<std::int64_t> taken_at, In<std::int64_t> before,
              In<std::uint8_t> status, In<std::int64_t> watermark) {
        const std::size_t rows = place.size();
        for (std::size_t m = 0; m < rows; ++m) checked(place.data()[m]);
        came_rows(rows, place.data(), slots.data(), read.data(), taken_at.data(), before.data(), status.data(), watermark.data());
    }

    void came_rows(std::size_t rows, const std::int32_t* place, const std::int64_t* slots, const std::int64_t* read,
                   const std::int64_t* taken_at, const std::int64_t* before, const std::uint8_t* status, const std::int64_t* watermark) {
        for (std::size_t m = 0; m < rows; ++m) {
            if (status[m] != TAKEN) continue;
            const std::size_t at = place[m] * ring + slots[m] % static_cast<std::int64_t>(ring);
            slot[at] = slots[m];
            received[at] = read[m];
            captured[at] = taken_at[m];
        }
        // One sample a stream: of several rows, the last.
        ++generation;
        bool any_waits = false;
        for (std::size_t m = rows; m-- > 0;) {
            const std::size_t p = place[m];
            if (seen[p] == generation) continue;
            seen[p] = generation;
            const double time = static_cast<double>(read[m]);
            const std::int64_t reached = watermark[p];
            clock.arrived(p, newest[p], time, reached);
            if (reached > before[m]) {
                clock.follow(p, reached, time);
            } else {
                waits[p] = generation;
                any_waits = true;
            }
        }
        // Where nothing new is complete, what was late says how late the stream's frames can be. Again, the last counts.
        for (std::size_t m = any_waits ? rows : 0; m-- > 0;) {
            const std::size_t p = place[m];
            if (waits[p] != generation || slots[m] > before[m] || status[m] == DUPLICATE) continue;
            waits[p] = 0;
            clock.follow(p, slots[m], static_cast<double>(read[m]));
        }
    }

    // The first slot after `complete` whose frame came, though others before it did not; `complete` if there is none.
    std::int64_t overtaking(std::size_t p, std::int64_t complete) const {
        const std::int64_t end = std::min(newest[p], complete + static_cast<std::int64_t>(ring));
        for (std::int64_t s = complete + 1; s <= end; ++s)
            if (slot[p * ring + s % static_cast<std::int64_t>(ring)] == s) return s;
        return complete;
    }

    // The last slot that is not waited for any more, because a frame behind it came before `time`; `complete` if there is none.
    std::int64_t overtaken(std::size_t p, std::int64_t complete, double time) const {
        const std::int64_t s = overtaking(p, complete);
        return s > complete && static_cast<double>(received[p * ring + s % static_cast<std::int64_t>(ring)]) <= time ? s - 1 : complete;
    }

    // Where no later frame has come, streams have as many slots given up as they had, but for those of fewer than `young`, which have none, and
    // then only when `gap` slots are over, which makes them stale; those of a recording are waited for. Where one has come, they are given up `hole` after it at the latest.
    void deadlines(std::size_t used, In<std::int64_t> watermark, double slack, double hole, std::int64_t young, std::int64_t gap, Out<double> out) const {
        if (used > places) throw std::out_of_range("more places than there are");
        constexpr double never = std::numeric_limits<double>::infinity();
        for (std::size_t p = 0; p < used; ++p) {
            const std::int64_t complete = watermark.data()[p];
            const bool holes = newest[p] > complete;
            const std::int64_t slots = newest[p] - first[p] + 1, earned = slots < young ? 0 : std::min(slots, gap), given_up = complete - newest[p];
            const std::int64_t patience = !holes && given_up >= earned ? gap - given_up : 0;
            double due = lossless[p] && !holes ? never : clock.due(p, complete + 1 + patience);
            if (holes)
                if (const std::int64_t s = overtaking(p, complete); s > complete)
                    due = std::min(due, static_cast<double>(received[p * ring + s % static_cast<std::int64_t>(ring)]) + hole);
            due += slack;
            out.data()[p] = live[p] ? std::min(due, until[p]) : never;
        }
    }

    // That long nothing could be read: all that was due then is due later.
    void pause(double ns) {
        clock.pause(ns);
        for (std::size_t p = 0; p < places; ++p) {
            until[p] += ns;
            heard[p] += static_cast<std::int64_t>(ns);
        }
    }

    void turn_in(In<std::int32_t> place, Out<float> xyz) const {
        if (!place.size()) return;
        const std::size_t pose = xyz.size() / place.size();
        for (std::size_t m = 0; m < place.size(); ++m)
            if (const std::size_t p = checked(place.data()[m]); turned(p)) turn_in_one(p, xyz.data() + m * pose, pose / 3);
    }

    // Whether the axes of the stream at that place are not canonical.
    bool turned(std::size_t p) const { return axes[3 * p] != 1 || axes[3 * p + 1] != 2 || axes[3 * p + 2] != 3; }

    void turn_in_one(std::size_t p, float* pose, std::size_t joints) const {
        for (float* joint = pose; joint < pose + 3 * joints; joint += 3) {
            const float from[] = {joint[0], joint[1], joint[2]};
            for (std::size_t a = 0; a < 3; ++a) {
                const float value = from[std::abs(axes[3 * p + a]) - 1];
                joint[a] = axes[3 * p + a] < 0 ? -value : value;
            }
        }
    }

    void turn_out_one(std::size_t p, float* pose, std::size_t joints) const {
        for (float* joint = pose; joint < pose + 3 * joints; joint += 3) {
            const float from[] = {joint[0], joint[1], joint[2]};
            for (std::size_t a = 0; a < 3; ++a) joint[std::abs(axes[3 * p + a]) - 1] = axes[3 * p + a] < 0 ? -from[a] : from[a];
        }
    }

    // When the oldest frame came that the windows `first` to `last` wait with; where all of their slots were given up, the stream's last one.
    double waits_since(std::size_t p, std::int64_t first, std::int64_t last) const {
        for (std::int64_t s = first; s <= last; ++s)
            if (const std::size_t at = p * ring + s % static_cast<std::int64_t>(ring); slot[at] == s) return static_cast<double>(received[at]);
        return static_cast<double>(heard[p]);
    }

    std::size_t behind(std::size_t used, In<std::int64_t> following, In<std::int64_t> watermark, double limit, Out<std::int64_t> out) const {
        if (used > places) throw std::out_of_range("more places than there are");
        std::size_t found = 0;
        for (std::size_t p = 0; p < used; ++p) {
            const std::int64_t first = following.data()[p], last = watermark.data()[p];
            if (last <= first || !live[p] || lossless[p]) continue;
            if (waits_since(p, first, last) < limit) out.data()[found++] = p;
        }
        return found;
    }

    // How many windows wait to run at the places below `used`, `following` to `last` [places], but for those after the last frame that came.
    std::int64_t waiting(std::size_t used, In<std::int64_t> following, In<std::int64_t> last) const {
        if (used > places || following.size() < used || last.size() < used) throw std::out_of_range("more places than there are");
        std::int64_t total = 0;
        for (std::size_t p = 0; p < used; ++p) total += std::max<std::int64_t>(0, std::min(last.data()[p], newest[p]) + 1 - following.data()[p]);
        return total;
    }

    // The columns of rtskel.wire.RefinedBatch.numbers for rows (`rtskel.refine.Refined.columns`) that come out at one of these lookaheads;
    // their poses are turned into the axes of their streams. Where nothing is known of a slot, the last known pose takes its place, for at most `gap` slots; then the row is not kept, and has no number; or, with a flag for
    // `unseen` ones, it has no coordinates. Returns how many rows are not kept; `kept` says which.
    std::size_t emit(In<std::int32_t> place, In<std::int64_t> slots, In<std::int32_t> lookahead, Out<float> xyz, Out<float> sigma,
                     In<float> confidence, In<std::int32_t> windows, Out<std::uint32_t> flagged, const std::vector<std::int32_t>& lookaheads,
                     std::int64_t gap, std::uint32_t held, std::uint32_t unseen, Out<std::int64_t> out) {
        const std::size_t rows = place.size(), joints = rows ? sigma.size() / rows : 0;
        const auto line_of = [&](std::size_t m) -> Line& {
            const auto found = std::find(lookaheads.begin(), lookaheads.end(), lookahead.data()[m]);
            return lines.at(checked(place.data()[m]) * looks + (found - lookaheads.begin()));
        };
        constexpr std::size_t ahead = 4;  // rows: by then their memory has come
        keep.assign(rows, 1);
        std::size_t left = 0;
        for (std::size_t m = 0; m < rows; ++m) {
            if (m + ahead < rows) soon(checked(place.data()[m + ahead]), slots.data()[m + ahead], line_of(m + ahead));
            const std::size_t p = checked(place.data()[m]);
            const std::int64_t s = slots.data()[m];
            Line& line = line_of(m);
            float *pose = xyz.data() + 3 * joints * m, *spread = sigma.data() + joints * m;
            const float* sure = confidence.data() + joints * m;
            if (turned(p)) turn_out_one(p, pose, joints);
            const bool known = windows.data()[m] > 0 || std::any_of(sure, sure + joints, [](float c) { return c > 0; });
            if (known) {
                line.remember(s, pose, spread, joints);
            } else if (!line.known.empty() && s - line.slot <= gap) {
                line.hold(s, pose, spread, joints);
                flagged.data()[m] |= held;
            } else if (unseen) {
                std::fill_n(pose, 3 * joints, 0.0f);
                std::fill_n(spread, joints, 0.0f);
                flagged.data()[m] |= unseen;
            } else {
                keep[m] = 0;
                ++left;
                out.data()[6 * m] = base[p] + s - line.dropped++;
                continue;
            }
            const std::size_t at = p * ring + s % static_cast<std::int64_t>(ring);
            std::int64_t* row = out.data() + 6 * m;
            row[0] = base[p] + s - line.dropped;
            row[1] = timed[p] ? -1 : origin[p] + s;
            row[2] = captured[at];
            row[3] = received[at];
            row[4] = windows.data()[m];
            row[5] = flagged.data()[m] | (line.fresh ? flags[p] : 0);
            line.fresh = false;
        }
        return left;
    }

    // Which rows of the last `emit` are kept.
    const std::vector<std::uint8_t>& kept() const { return keep; }

    // A segment begins at that place: nothing is known, and so many rows of each lookahead had no number before.
    void begin(std::size_t p, const std::vector<std::int64_t>& dropped) {
        for (std::size_t k = 0; k < looks; ++k) lines.at(p * looks + k) = Line{0, dropped.at(k), true, {}};
    }

    std::vector<std::int64_t> dropped(std::size_t p) const {
        std::vector<std::int64_t> counts;
        for (std::size_t k = 0; k < looks; ++k) counts.push_back(lines.at(p * looks + k).dropped);
        return counts;
    }

    const std::size_t looks;
    const std::size_t places, ring;
    ArrivalClock clock;
    std::vector<std::uint8_t> live, timed, lossless;  // booleans
    std::vector<double> until;
    std::vector<std::int64_t> newest, first, heard, origin, base, faulty, slot, received, captured;
    std::vector<std::int8_t> axes;
    std::vector<std::uint32_t> flags;

  private:
    std::vector<std::uint8_t> keep;  // by row of the last `emit`

    // The poses of one stream at one lookahead: the last known one, and how many rows had none.
    struct Line {
        std::int64_t slot, dropped;
        bool fresh;  // no pose has come out yet
        std::vector<float> known;  // xyz and sigma

        void remember(std::int64_t s, const float* pose, const float* spread, std::size_t joints) {
            slot = s;
            known.resize(4 * joints);
            std::copy_n(pose, 3 * joints, known.data());
            std::copy_n(spread, joints, known.data() + 3 * joints);
        }

        // The spread grows by a hundredth of the body's size a slot. Sizes are of differences from the first joint, which are exact
        // however far away the body is.
        void hold(std::int64_t s, float* pose, float* spread, std::size_t joints) const {
            const float *xyz = known.data(), *sigma = xyz + 3 * joints;
            double middle[3] = {}, size = 0;
            const auto from_first = [xyz](std::size_t k) { return static_cast<double>(xyz[k]) - xyz[k % 3]; };
            for (std::size_t k = 0; k < 3 * joints; ++k) middle[k % 3] += from_first(k) / static_cast<double>(joints);
            for (std::size_t k = 0; k < 3 * joints; ++k) size += (from_first(k) - middle[k % 3]) * (from_first(k) - middle[k % 3]);
            const double growth = 0.01 * static_cast<double>(s - slot) * std::sqrt(size / static_cast<double>(joints));
            std::copy_n(xyz, 3 * joints, pose);
            for (std::size_t k = 0; k < joints; ++k) spread[k] = static_cast<float>(std::min(sigma[k] + growth, 3e38));
        }
    };

    std::vector<Line> lines;  // by place and lookahead
    std::vector<std::uint64_t> seen, waits;  // by place: the last call of `came` that dealt with it, that found nothing complete
    std::uint64_t generation = 0;

    // Prefetch what `emit` needs of a row.
    void soon(std::size_t p, std::int64_t s, const Line& line) const {
        const std::size_t at = p * ring + s % static_cast<std::int64_t>(ring);
        prefetch(&captured[at], 1);
        prefetch(&received[at], 1);
        prefetch(line.known.data(), line.known.size() * sizeof(float));
    }
};

// A writable view of an array that `owner` holds.
template <typename T>
nb::ndarray<nb::numpy, T> array_view(nb::handle owner, std::vector<T>& values, std::initializer_list<std::size_t> shape) {
    return nb::ndarray<nb::numpy, T>(values.data(), shape.size(), shape.begin(), owner);
}

inline void bind_stream_arrays(nb::module_& m) {
    nb::class_<ArrivalClock>(m, "ArrivalClock")
        .def("start", &ArrivalClock::start)
        .def("retime", &ArrivalClock::retime)
        .def("period", &ArrivalClock::period)
        .def("last_arrival", &ArrivalClock::last_arrival)
        .def("due_until", &ArrivalClock::due_until)
        .def("follow", &ArrivalClock::follow);
    auto bound = nb::class_<StreamArrays>(m, "StreamArrays")
        .def(nb::init<std::size_t, std::size_t, std::size_t, double, double, double>(), nb::arg("places"), nb::arg("ring"), nb::arg("looks"), nb::arg("follow"),
             nb::arg("memory"), nb::arg("tolerance"))
        .def_prop_ro("clock", [](StreamArrays& self) { return &self.clock; }, nb::rv_policy::reference_internal)
        .def("came", &StreamArrays::came)
        .def("deadlines", &StreamArrays::deadlines)
        .def("overtaken", [](const StreamArrays& self, std::int32_t p, std::int64_t complete, double time) { return self.overtaken(self.checked(p), complete, time); })
        .def("pause", &StreamArrays::pause)
        .def("turn_in", &StreamArrays::turn_in)
        .def("behind", &StreamArrays::behind)
        .def("waiting", &StreamArrays::waiting)
        .def("emit", &StreamArrays::emit)
        .def("kept", &StreamArrays::kept)
        .def("begin", &StreamArrays::begin)
        .def("dropped", &StreamArrays::dropped);
    const auto by_place = [&bound](const char* name, auto member) {
        bound.def_prop_ro(name, [member](nb::handle self) {
            auto& arrays = nb::cast<StreamArrays&>(self);
            return array_view(self, arrays.*member, {arrays.places});
        });
    };
    by_place("live", &StreamArrays::live);
    by_place("timed", &StreamArrays::timed);
    by_place("lossless", &StreamArrays::lossless);
    by_place("until", &StreamArrays::until);
    by_place("newest", &StreamArrays::newest);
    by_place("first", &StreamArrays::first);
    by_place("heard", &StreamArrays::heard);
    by_place("origin", &StreamArrays::origin);
    by_place("base", &StreamArrays::base);
    by_place("faulty", &StreamArrays::faulty);
    by_place("flags", &StreamArrays::flags);
    bound.def_prop_ro("axes", [](nb::handle self) {
        auto& arrays = nb::cast<StreamArrays&>(self);
        return array_view(self, arrays.axes, {arrays.places, 3});
    });
    const auto by_slot = [&bound](const char* name, auto member) {
        bound.def_prop_ro(name, [member](nb::handle self) {
            auto& arrays = nb::cast<StreamArrays&>(self);
            return array_view(self, arrays.*member, {arrays.places, arrays.ring});
        });
    };
    by_slot("slot", &StreamArrays::slot);
    by_slot("received", &StreamArrays::received);
    by_slot("captured", &StreamArrays::captured);
}

}  // namespace rtskel
