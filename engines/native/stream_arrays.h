// What the server keeps of its streams by place, for a whole batch of frames in one call. The specification is the numpy twin in
// rtskel/serve/arrays.py and rtskel/serve/arrival.py, method for method; the same tests run both. The arrays are those of the Python object, which
// also reads and writes them; they are used by one thread.

#pragma once

#include "module.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

namespace rtskel {

class StreamArrays {
  public:
    StreamArrays(nb::handle books, nb::handle clock, double follow_share, double memory, double tolerance)
        : live(books, "live"),
          timed(books, "timed"),
          lossless(books, "lossless"),
          until(books, "until"),
          newest(books, "newest"),
          heard(books, "heard"),
          origin(books, "origin"),
          base(books, "base"),
          slot(books, "slot"),
          received(books, "received"),
          captured(books, "captured"),
          axes(books, "axes"),
          slot_0_flags(books, "flags"),
          due_slot(clock, "_slot"),
          due_time(clock, "_time"),
          period(clock, "_period"),
          claimed(clock, "_claimed"),
          pace(clock, "_pace"),
          measured(clock, "_measured"),
          clock_newest(clock, "_newest"),
          newest_time(clock, "_newest_time"),
          follow_share(follow_share),
          memory(memory),
          tolerance(tolerance),
          places(live.size),
          ring(slot.size / places) {
        seen.assign(places, 0);
        waits.assign(places, 0);
    }

    bool slots(In<std::int32_t> place, In<std::int64_t> number, In<std::int64_t> time, std::int64_t jump, std::int64_t most,
               Out<std::int64_t> out) const {
        bool usual = true;
        for (std::size_t m = 0; m < place.size(); ++m) {
            const std::size_t p = checked(place.data()[m]);
            const std::int64_t n = number.data()[m], s = slot_of(p, n);
            out.data()[m] = s;
            usual = usual && follows(s, newest[p], n, time.data()[m], jump, most);
        }
        return usual;
    }

    std::size_t size() const { return places; }

    std::size_t checked(std::int32_t place) const {
        if (place < 0 || static_cast<std::size_t>(place) >= places) throw std::out_of_range("place out of range");
        return place;
    }

    std::int64_t slot_of(std::size_t p, std::int64_t number) const { return number - origin[p]; }

    std::int64_t newest_of(std::size_t p) const { return newest[p]; }

    // Whether a frame of slot `s` just follows behind slot `before`, see StreamArrays.slots in rtskel/serve/arrays.py.
    static bool follows(std::int64_t s, std::int64_t before, std::int64_t number, std::int64_t time, std::int64_t jump, std::int64_t most) {
        return s >= 0 && s <= before + jump && std::max(number, time) <= most;
    }

    void accept(In<std::int32_t> place, In<std::int64_t> slots, In<std::int64_t> read) {
        for (std::size_t m = 0; m < place.size(); ++m) accept_one(checked(place.data()[m]), slots.data()[m], read.data()[m]);
    }

    void accept_one(std::size_t p, std::int64_t s, std::int64_t read) {
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
            arrived(p, newest[p], time, reached);
            if (reached > before[m]) {
                follow(p, reached, time);
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
            follow(p, slots[m], static_cast<double>(read[m]));
        }
    }

    void deadlines(std::size_t used, In<std::int64_t> watermark, double slack, Out<double> out) const {
        if (used > places) throw std::out_of_range("more places than there are");
        for (std::size_t p = 0; p < used; ++p)
            out.data()[p] = live[p] ? std::min(due(p, watermark.data()[p] + 1) + slack, until[p]) : std::numeric_limits<double>::infinity();
    }

    bool turned(In<std::int32_t> place) const {
        for (std::size_t m = 0; m < place.size(); ++m)
            if (turned_one(checked(place.data()[m]))) return true;
        return false;
    }

    void turn_in(In<std::int32_t> place, Out<float> xyz) const {
        each_turned(place, xyz, [this](std::size_t p, float* poses, std::size_t joints) { turn_in_one(p, poses, joints); });
    }

    void turn_out(In<std::int32_t> place, Out<float> xyz) const {
        each_turned(place, xyz, [this](std::size_t p, float* pose, std::size_t joints) {
            for (float* joint = pose; joint < pose + 3 * joints; joint += 3) {
                const float from[] = {joint[0], joint[1], joint[2]};
                for (std::size_t a = 0; a < 3; ++a) joint[std::abs(axes[3 * p + a]) - 1] = axes[3 * p + a] < 0 ? -from[a] : from[a];
            }
        });
    }

    // Whether the axes of the stream at that place are not canonical.
    bool turned_one(std::size_t p) const { return axes[3 * p] != 1 || axes[3 * p + 1] != 2 || axes[3 * p + 2] != 3; }

    void turn_in_one(std::size_t p, float* pose, std::size_t joints) const {
        for (float* joint = pose; joint < pose + 3 * joints; joint += 3) {
            const float from[] = {joint[0], joint[1], joint[2]};
            for (std::size_t a = 0; a < 3; ++a) {
                const float value = from[std::abs(axes[3 * p + a]) - 1];
                joint[a] = axes[3 * p + a] < 0 ? -value : value;
            }
        }
    }

    std::size_t behind(std::size_t used, In<std::int64_t> following, In<std::int64_t> watermark, double limit, Out<std::int64_t> out) const {
        if (used > places) throw std::out_of_range("more places than there are");
        std::size_t found = 0;
        for (std::size_t p = 0; p < used; ++p) {
            const std::int64_t first = following.data()[p];
            if (watermark.data()[p] <= first || !live[p] || lossless[p]) continue;
            const std::size_t at = p * ring + first % static_cast<std::int64_t>(ring);
            if (slot[at] == first && static_cast<double>(received[at]) < limit) out.data()[found++] = p;
        }
        return found;
    }

    void numbers(In<std::int32_t> place, In<std::int64_t> slots, In<std::int32_t> windows, In<std::uint32_t> flags,
                 Out<std::int64_t> out) const {
        for (std::size_t m = 0; m < place.size(); ++m) {
            const std::size_t p = checked(place.data()[m]);
            const std::int64_t s = slots.data()[m];
            const std::size_t at = p * ring + s % static_cast<std::int64_t>(ring);
            std::int64_t* row = out.data() + 6 * m;
            row[0] = base[p] + s;
            row[1] = timed[p] ? -1 : origin[p] + s;
            row[2] = captured[at];
            row[3] = received[at];
            row[4] = windows.data()[m];
            row[5] = flags.data()[m] | (s == 0 ? slot_0_flags[p] : 0);
        }
    }

  private:
    // An array of the Python object, which is kept alive.
    template <typename T>
    struct Column {
        Column(nb::handle owner, const char* name) : array(nb::cast<Out<T>>(owner.attr(name), false)), data(array.data()), size(array.size()) {}
        T& operator[](std::size_t k) { return data[k]; }
        const T& operator[](std::size_t k) const { return data[k]; }
        Out<T> array;
        T* data;
        std::size_t size;
    };

    Column<bool> live, timed, lossless;
    Column<double> until;
    Column<std::int64_t> newest, heard, origin, base, slot, received, captured;
    Column<std::int8_t> axes;
    Column<std::uint32_t> slot_0_flags;
    Column<double> due_slot, due_time, period, claimed, pace, measured;
    Column<std::int64_t> clock_newest;
    Column<double> newest_time;
    const double follow_share, memory, tolerance;
    const std::size_t places, ring;
    std::vector<std::uint64_t> seen, waits;  // by place: the last call of `came` that dealt with it, that found nothing complete
    std::uint64_t generation = 0;

    template <typename Turn>
    void each_turned(const In<std::int32_t>& place, const Out<float>& xyz, Turn turn) const {
        if (!place.size()) return;
        const std::size_t pose = xyz.size() / place.size();
        for (std::size_t m = 0; m < place.size(); ++m)
            if (const std::size_t p = checked(place.data()[m]); turned_one(p)) turn(p, xyz.data() + m * pose, pose / 3);
    }

    double due(std::size_t p, std::int64_t s) const { return due_time[p] + (static_cast<double>(s) - due_slot[p]) * period[p]; }

    // As ArrivalClock.arrived.
    void arrived(std::size_t p, std::int64_t last, double time, std::int64_t complete) {
        const double slots = static_cast<double>(last - clock_newest[p]);
        if (slots <= 0) return;
        const double sample = std::min((time - newest_time[p]) / slots, 2 * pace[p]);
        pace[p] += std::max(std::min(slots / memory, 1.0), 1 / (2 + measured[p])) * (sample - pace[p]);
        measured[p] += 1;
        clock_newest[p] = last;
        newest_time[p] = time;
        const double now = pace[p] > tolerance * claimed[p] ? pace[p] : claimed[p];
        if (now != period[p]) {
            due_time[p] = due(p, complete);
            due_slot[p] = static_cast<double>(complete);
            period[p] = now;
        }
    }

    // As ArrivalClock.follow.
    void follow(std::size_t p, std::int64_t s, double time) {
        const double expected = due(p, s), error = time - expected;
        due_time[p] = expected + (error > 0 ? follow_share : 1.0) * error;
        due_slot[p] = static_cast<double>(s);
    }
};

inline void bind_stream_arrays(nb::module_& m) {
    nb::class_<StreamArrays>(m, "StreamArrays")
        .def(nb::init<nb::handle, nb::handle, double, double, double>(), nb::arg("books"), nb::arg("clock"), nb::arg("follow"),
             nb::arg("memory"), nb::arg("tolerance"))
        .def("slots", &StreamArrays::slots)
        .def("accept", &StreamArrays::accept)
        .def("came", &StreamArrays::came)
        .def("deadlines", &StreamArrays::deadlines)
        .def("turned", &StreamArrays::turned)
        .def("turn_in", &StreamArrays::turn_in)
        .def("turn_out", &StreamArrays::turn_out)
        .def("behind", &StreamArrays::behind)
        .def("numbers", &StreamArrays::numbers);
}

}  // namespace rtskel
