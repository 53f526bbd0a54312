// From the message into the ring in one call: the short way of nearly every frame. What it does is what StreamTable.receive in
// rtskel/serve/table.py does with the parts in bulk.h, stream_arrays.h and ring.h one after another, through Python. To a server that has slept
// since the last frame that is all the difference: whatever it touches, code or data, comes from memory.

#pragma once

#include "bulk.h"
#include "stream_arrays.h"
#include "ring.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace rtskel {

class FastPath {
  public:
    FastPath(RawReader& reader, StreamArrays& books, Ring& ring, std::int64_t jump, std::int64_t most)
        : reader(reader), books(books), ring(ring), jump(jump), most(most), last(books.size()), asked(books.size(), 0) {
        if (books.size() > static_cast<std::size_t>(ring.cfg.streams)) throw std::invalid_argument("fewer streams than places");
    }

    // How many frames these messages, read at these times, were; -1 if there is anything unusual about one of them, and then nothing
    // has changed: a message that is not expected, a number that does not just follow, a coordinate that is not finite, a frame that
    // the ring would not take.
    std::int64_t take(nb::list topics, nb::list bodies, std::vector<std::int64_t> read) {
        bool unusual = read.size() != topics.size();
        const std::size_t rows = reader.match_rows(topics, bodies, [&](std::size_t) { return unusual = true, false; });
        if (unusual) return -1;
        for (auto* numbers : {&slot, &seq, &time, &came, &before}) numbers->resize(rows);
        for (auto* numbers : {&place, &message}) numbers->resize(rows);
        xyz.resize(rows * 3 * reader.joints);
        confidence.resize(rows * reader.joints);
        taken.assign(rows, TAKEN);
        if (!reader.take_rows(place.data(), message.data(), seq.data(), time.data(), xyz.data(), confidence.data())) return -1;
        ++generation;
        for (std::size_t m = 0; m < rows; ++m) {
            const std::size_t p = books.checked(place[m]);
            slot[m] = books.slot_of(p, seq[m]);
            const bool again = asked[p] == generation;
            if (again && slot[m] <= last[p]) return -1;  // it may be the same slot twice
            const std::int64_t newest = again ? std::max(last[p], books.newest_of(p)) : books.newest_of(p);
            if (!StreamArrays::follows(slot[m], newest, seq[m], time[m], jump, most)) return -1;
            asked[p] = generation;
            last[p] = slot[m];
            if (ring.would_be(place[m], slot[m]) != TAKEN) return -1;
        }
        for (std::size_t m = 0; m < rows; ++m) {
            before[m] = ring.watermark_[place[m]];
            came[m] = read[message[m]];
        }
        for (std::size_t m = 0; m < rows; ++m) {
            float* pose = xyz.data() + m * 3 * reader.joints;
            if (books.turned_one(place[m])) books.turn_in_one(place[m], pose, reader.joints);
            books.accept_one(place[m], slot[m], came[m]);
            ring.put_one(place[m], slot[m], pose, confidence.data() + m * reader.joints);
        }
        books.came_rows(rows, place.data(), slot.data(), came.data(), time.data(), before.data(), taken.data(), ring.watermark_.data());
        return static_cast<std::int64_t>(rows);
    }

  private:
    RawReader& reader;
    StreamArrays& books;
    Ring& ring;
    const std::int64_t jump, most;
    std::vector<std::int64_t> last;  // by place: the last slot asked about ...
    std::vector<std::uint64_t> asked;  // ... in this call of `take`
    std::uint64_t generation = 0;
    // By row:
    std::vector<std::int32_t> place, message;
    std::vector<std::int64_t> slot, seq, time, came, before;
    std::vector<float> xyz, confidence;
    std::vector<std::uint8_t> taken;
};

inline void bind_fast_path(nb::module_& m) {
    nb::class_<FastPath>(m, "FastPath")
        .def(nb::init<RawReader&, StreamArrays&, Ring&, std::int64_t, std::int64_t>(), nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(),
             nb::keep_alive<1, 4>(), nb::arg("reader"), nb::arg("books"), nb::arg("ring"), nb::arg("jump"), nb::arg("most"))
        .def("take", &FastPath::take);
}

}  // namespace rtskel
