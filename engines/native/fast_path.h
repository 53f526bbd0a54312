// From the message into the ring: the fast way, for frames that simply continue their streams. The plain way, which is its specification, is
// rtskel.wire.decode and rtskel/serve/stream.py. One call instead of many matters most to a server that slept since the last frame, because
// all code and data that it touches then come from memory.

#pragma once

#include "bulk.h"
#include "ring.h"
#include "stream_arrays.h"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace rtskel {

class FastPath {
  public:
    // `ring`: where the frames go; nullptr: `rows` gives them to the caller.
    FastPath(RawReader& reader, StreamArrays& arrays, Ring* ring, std::int64_t jump, std::int64_t ahead, std::int64_t furthest, std::int64_t largest)
        : reader(reader),
          arrays(arrays),
          ring(ring),
          jump(jump),
          ahead(ahead),
          furthest(furthest),
          largest(largest),
          last(arrays.places),
          asked(arrays.places),
          plain(arrays.places) {
        if (ring && arrays.places > static_cast<std::size_t>(ring->cfg.streams)) throw std::invalid_argument("fewer streams than places");
    }

    // Whether frames go into the ring here; else `rows` gives them to the caller.
    bool stores() const { return ring != nullptr; }

    // Takes these messages, read at these times, if all of their frames simply continue: how many frames; else -1, and nothing has changed.
    // `next` is the first window that has not run, by place; not needed with a ring.
    std::int64_t take_all(nb::list names, nb::list bodies, std::vector<std::int64_t> read, std::optional<In<std::int64_t>> next) {
        if (!find(names, bodies, [](std::size_t) { return false; })) return -1;
        begin(read, next);
        const std::int64_t* first = ring ? ring->next_.data() : next->data();
        if (!std::all_of(found.begin(), found.end(), [&](const auto& f) { return follows(f, first); })) return -1;
        nb::list none;
        if (!gather(read, none)) return -1;
        store();
        return static_cast<std::int64_t>(place.size());
    }

    // Which of these messages are not expected. The caller keeps the bodies until `take`.
    nb::list match(nb::list names, nb::list bodies) {
        nb::list others;
        find(names, bodies, [&](std::size_t m) { return others.append(m), true; });
        return others;
    }

    // Takes those of the matched messages whose frames all simply continue; arguments as above. Returns how many frames were taken, and which
    // expected messages were not: those with anything unusual, and, because order matters, all others of the same streams and of the streams
    // at the places `busy`.
    nb::tuple take(std::vector<std::int64_t> read, std::vector<std::int32_t> busy, std::optional<In<std::int64_t>> next) {
        begin(read, next);
        for (std::int32_t p : busy) leave(static_cast<std::int32_t>(arrays.checked(p)));
        while (!choose(ring ? ring->next_.data() : next->data())) ++generation;
        nb::list left;
        gather(read, left);
        store();
        return nb::make_tuple(place.size(), left);
    }

    // The frames that `take` took: place, slot, read, captured, xyz, confidence.
    nb::tuple rows() {
        return nb::make_tuple(copied(place, {place.size()}), copied(slot, {place.size()}), copied(came, {place.size()}),
                              copied(time, {place.size()}), copied(xyz, {place.size(), reader.joints, 3}),
                              copied(confidence, {place.size(), reader.joints}));
    }

  private:
    // Matches all messages; `other` gets each one that is not expected, and returns whether to continue. Whether it reached the end.
    template <typename Other>
    bool find(nb::list names, nb::list bodies, Other other) {
        if (names.size() != bodies.size()) throw std::invalid_argument("as many topics as bodies");
        found.clear();
        for (std::size_t m = 0; m < names.size(); ++m) {
            name = bytes_of(names[m]);
            found.push_back(reader.find(name, bytes_of(bodies[m])));
            if (!found.back().places && !other(m)) return false;
        }
        return true;
    }

    void begin(const std::vector<std::int64_t>& read, const std::optional<In<std::int64_t>>& next) {
        if (read.size() != found.size()) throw std::invalid_argument("as many times as messages");
        if (!ring && (!next || next->size() < arrays.places)) throw std::invalid_argument("fewer streams than places");
        ++call;
        ++generation;
        any_plain = false;
    }

    void leave(std::int32_t p) {
        plain[p] = call;
        any_plain = true;
    }

    bool is_plain(const RawReader::Found& f) const {
        return any_plain && std::any_of(f.places->begin(), f.places->end(), [this](std::int32_t p) { return plain[p] == call; });
    }

    // Marks the streams of messages with anything unusual; whether none was new.
    bool choose(const std::int64_t* next) {
        bool settled = true;
        for (const auto& f : found) {
            if (!f.places) continue;
            const bool usual = !is_plain(f) && is_finite(f) && follows(f, next);
            for (std::int32_t p : *f.places) {
                if (!usual && plain[p] != call) {
                    leave(p);
                    settled = false;
                }
            }
        }
        return settled;
    }

    bool is_finite(const RawReader::Found& f) {
        const std::size_t cells = f.places->size() * reader.joints;
        xyz.resize(std::max(xyz.size(), 4 * cells));
        copy_values(xyz.data(), f.xyz, 3 * cells, sizeof(float));
        copy_values(xyz.data() + 3 * cells, f.confidence, cells, sizeof(float));
        return all_finite(xyz.data(), 4 * cells);
    }

    bool follows(const RawReader::Found& f, const std::int64_t* next) {
        if (std::max(f.seq, f.time_ns) > largest) return false;
        for (std::int32_t k : *f.places) {
            const std::size_t p = arrays.checked(k);
            const std::int64_t s = f.seq - arrays.origin[p];
            const bool again = asked[p] == generation;
            const std::int64_t newest = again ? std::max(last[p], arrays.newest[p]) : arrays.newest[p];
            if (s < 0 || s > newest + jump || (again && s <= last[p])) return false;
            if (s >= next[p] + ahead || s + furthest < next[p]) return false;  // too early for the ring, or late
            const std::size_t at = p * arrays.ring + s % static_cast<std::int64_t>(arrays.ring);
            if (arrays.slot[at] == s) return false;  // it came before
            prefetch(&arrays.received[at], sizeof(std::int64_t));
            prefetch(&arrays.captured[at], sizeof(std::int64_t));
            asked[p] = generation;
            last[p] = s;
        }
        return true;
    }

    // The rows of the messages that are not plain; the others are `left`. Whether all coordinates are finite.
    bool gather(const std::vector<std::int64_t>& read, nb::list& left) {
        std::size_t rows = 0, row = 0;
        for (const auto& f : found)
            if (f.places && !is_plain(f)) rows += f.places->size();
        for (auto* numbers : {&slot, &time, &came}) numbers->resize(rows);
        place.resize(rows);
        xyz.resize(rows * 3 * reader.joints);
        confidence.resize(rows * reader.joints);
        bool finite = true;
        for (std::size_t m = 0; m < found.size(); ++m) {
            const auto& f = found[m];
            if (!f.places) continue;
            if (is_plain(f)) {
                left.append(m);
                continue;
            }
            const std::size_t cells = f.places->size() * reader.joints;
            float* to = xyz.data() + row * 3 * reader.joints;
            float* sure = confidence.data() + row * reader.joints;
            copy_values(to, f.xyz, 3 * cells, sizeof(float));
            copy_values(sure, f.confidence, cells, sizeof(float));
            finite &= all_finite(to, 3 * cells) & all_finite(sure, cells);
            for (std::int32_t p : *f.places) {
                place[row] = p;
                slot[row] = f.seq - arrays.origin[p];
                time[row] = f.time_ns;
                came[row++] = read[m];
            }
        }
        found.clear();
        return finite;
    }

    // The rows are accepted, and put into the ring if there is one.
    void store() {
        const std::size_t rows = place.size();
        for (std::size_t m = 0; m < rows; ++m) arrays.accept(place[m], slot[m], came[m]);
        if (!ring) return;
        before.resize(rows);
        taken.assign(rows, TAKEN);
        for (std::size_t m = 0; m < rows; ++m) before[m] = ring->watermark_[place[m]];
        constexpr std::size_t ahead = 4;  // rows: by then their memory has come
        for (std::size_t m = 0; m < std::min(ahead, rows); ++m) ring->soon(place[m], slot[m]);
        for (std::size_t m = 0; m < rows; ++m) {
            if (m + ahead < rows) ring->soon(place[m + ahead], slot[m + ahead]);
            float* pose = xyz.data() + m * 3 * reader.joints;
            if (arrays.turned(place[m])) arrays.turn_in_one(place[m], pose, reader.joints);
            if (ring->put_one(place[m], slot[m], pose, confidence.data() + m * reader.joints) != TAKEN)
                throw std::logic_error("a frame that just follows was not taken");
        }
        arrays.came_rows(rows, place.data(), slot.data(), came.data(), time.data(), before.data(), taken.data(), ring->watermark_.data());
    }

    template <typename T>
    static nb::ndarray<nb::numpy, T> copied(const std::vector<T>& values, std::initializer_list<std::size_t> shape) {
        auto* kept = new std::vector<T>(values);
        nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
        return nb::ndarray<nb::numpy, T>(kept->data(), shape.size(), shape.begin(), owner);
    }

    RawReader& reader;
    StreamArrays& arrays;
    Ring* const ring;
    const std::int64_t jump, ahead, furthest, largest;
    std::string name;
    std::vector<RawReader::Found> found;  // by message
    std::vector<std::int64_t> last;       // by place: the last slot asked about ...
    std::vector<std::uint64_t> asked;     // ... in this pass over the messages
    std::vector<std::uint64_t> plain;     // by place: the last call of `take` that left the stream's messages to the plain way
    std::uint64_t generation = 0, call = 0;
    bool any_plain = false;  // whether there are any in this call
    // By row:
    std::vector<std::int32_t> place;
    std::vector<std::int64_t> slot, time, came, before;
    std::vector<float> xyz, confidence;
    std::vector<std::uint8_t> taken;
};

inline void bind_fast_path(nb::module_& m) {
    nb::class_<FastPath>(m, "FastPath")
        .def(nb::init<RawReader&, StreamArrays&, Ring*, std::int64_t, std::int64_t, std::int64_t, std::int64_t>(), nb::keep_alive<1, 2>(),
             nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>(), nb::arg("reader"), nb::arg("arrays"), nb::arg("ring").none(), nb::arg("jump"),
             nb::arg("ahead"), nb::arg("furthest"), nb::arg("largest"))
        .def_prop_ro("stores", &FastPath::stores)
        .def("take_all", &FastPath::take_all, nb::arg("topics"), nb::arg("bodies"), nb::arg("read"), nb::arg("next").none())
        .def("match", &FastPath::match)
        .def("take", &FastPath::take, nb::arg("read"), nb::arg("busy"), nb::arg("next").none())
        .def("rows", &FastPath::rows);
}

}  // namespace rtskel
