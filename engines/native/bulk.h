// Raw messages of which only the numbers and arrays are new, and refined poses as bytes. The Python oracles are in
// tests/oracles/messages.py, class for class.
//
// These classes handle Python's bytes, so they keep the GIL, and are used by one thread at a time.

#pragma once

#include "module.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace rtskel {

static_assert(sizeof(float) == 4, "float32");

inline bool little_endian() {
    const std::uint16_t one = 1;
    std::uint8_t first;
    std::memcpy(&first, &one, 1);
    return first == 1;
}

// The wire is little-endian; on other machines, every value of `size` bytes is reversed.
inline void copy_values(void* to, const void* from, std::size_t count, std::size_t size) {
    std::memcpy(to, from, count * size);
    if (!little_endian())
        for (std::size_t k = 0; k < count; ++k) std::reverse(static_cast<char*>(to) + k * size, static_cast<char*>(to) + (k + 1) * size);
}

inline bool all_finite(const float* values, std::size_t count) {
    int finite = 1;
    for (std::size_t k = 0; k < count; ++k) finite &= std::abs(values[k]) <= std::numeric_limits<float>::max();
    return finite;
}

inline std::string_view bytes_of(nb::handle object) {
    const nb::bytes bytes = nb::cast<nb::bytes>(object);  // also held by the caller's list
    return {bytes.c_str(), bytes.size()};
}

// --- raw messages in --------------------------------------------------------------------------------------------------

// Reads a msgpack integer of 0 to 2**63 - 1 and moves `at` past it; false if there is none.
inline bool read_unsigned(std::string_view body, std::size_t& at, std::int64_t& value) {
    if (at >= body.size()) return false;
    const auto first = static_cast<std::uint8_t>(body[at]);
    if (first < 0x80) {
        value = first;
        ++at;
        return true;
    }
    if (first < 0xcc || first > 0xd3) return false;
    const std::size_t size = std::size_t{1} << (first & 3);
    if (body.size() - at - 1 < size) return false;
    std::uint64_t number = 0;
    for (std::size_t k = 0; k < size; ++k) number = number << 8 | static_cast<std::uint8_t>(body[at + 1 + k]);
    if (number >> (first < 0xd0 ? 63 : 8 * size - 1)) return false;  // too large, or negative
    value = static_cast<std::int64_t>(number);
    at += 1 + size;
    return true;
}

// What every stream may say, see rtskel/wire/fields.py: MIN_FPS * MAX_SPAN_S and MAX_TIME. Larger numbers are left to `decode`.
constexpr std::int64_t MAX_SEQ = 300'000'000;
constexpr std::int64_t MAX_TIME = (std::int64_t{1} << 62) - 1;
constexpr std::size_t MAX_BODY = 65536;  // rtskel.wire.MAX_BODY: longer ones are refused

class RawReader {
  public:
    explicit RawReader(std::size_t joints) : joints(joints) {}

    void add(nb::handle wire_template, std::vector<std::int32_t> places) {
        Template made = parts(wire_template);
        made.places = std::move(places);
        expected[topic(wire_template)].push_back(std::move(made));
    }

    void remove(nb::handle wire_template) {
        const auto found = expected.find(topic(wire_template));
        if (found == expected.end()) return;
        auto& all = found->second;
        const Template gone = parts(wire_template);
        all.erase(std::remove_if(all.begin(), all.end(), [&](const Template& other) { return other.same(gone); }), all.end());
        if (all.empty()) expected.erase(found);
    }

    // A message of which only the numbers and arrays are new.
    struct Found {
        const std::vector<std::int32_t>* places;  // one for each pose; nullptr: it is not expected. Valid until the next add or remove
        std::int64_t seq, time_ns;
        const char *xyz, *confidence;  // in the body
    };

    Found find(const std::string& name, std::string_view body) const {
        Found found{nullptr, 0, 0, nullptr, nullptr};
        if (body.size() > MAX_BODY) return found;
        if (const auto templates = expected.find(name); templates != expected.end())
            for (const Template& t : templates->second)
                if (split(t, body, found)) {
                    found.places = &t.places;
                    break;
                }
        return found;
    }

    // The frames of all expected messages, for tests: which message each is of, place, seq, time_ns, and bytes of xyz and confidence.
    nb::list read(nb::list names, nb::list bodies) const {
        nb::list frames;
        for (std::size_t m = 0; m < names.size(); ++m) {
            const Found f = find(std::string(bytes_of(names[m])), bytes_of(bodies[m]));
            if (!f.places) continue;
            for (std::size_t k = 0; k < f.places->size(); ++k)
                frames.append(nb::make_tuple(m, (*f.places)[k], f.seq, f.time_ns, nb::bytes(f.xyz + 12 * k * joints, 12 * joints),
                                             nb::bytes(f.confidence + 4 * k * joints, 4 * joints)));
        }
        return frames;
    }

    const std::size_t joints;

  private:
    enum Varying { NUMBERS, XYZ, CONFIDENCE };

    struct Template {  // rtskel.wire.RawTemplate
        std::vector<std::string> pieces;
        std::vector<Varying> varying;
        std::vector<std::int32_t> places;

        bool same(const Template& other) const { return pieces == other.pieces && varying == other.varying; }
    };

    static std::string topic(nb::handle wire_template) { return std::string(bytes_of(wire_template.attr("topic"))); }

    static Template parts(nb::handle wire_template) {
        Template made;
        for (nb::handle piece : nb::cast<nb::tuple>(wire_template.attr("pieces"))) made.pieces.emplace_back(bytes_of(piece));
        for (nb::handle name : nb::cast<nb::tuple>(wire_template.attr("varying"))) {
            const auto text = nb::cast<std::string>(name);
            made.varying.push_back(text == "numbers" ? NUMBERS : text == "xyz" ? XYZ : CONFIDENCE);
        }
        if (made.pieces.size() != made.varying.size() + 1) throw std::invalid_argument("pieces of a message");
        return made;
    }

    bool split(const Template& t, std::string_view body, Found& m) const {
        const std::size_t cells = sizeof(float) * t.places.size() * joints;
        std::size_t at = 0;
        for (std::size_t k = 0; k < t.pieces.size(); ++k) {
            if (at > body.size() || body.substr(at, t.pieces[k].size()) != t.pieces[k]) return false;
            at += t.pieces[k].size();
            if (k == t.varying.size()) continue;
            if (t.varying[k] == NUMBERS) {
                if (!read_unsigned(body, at, m.seq) || m.seq > MAX_SEQ) return false;
                if (!read_unsigned(body, at, m.time_ns) || m.time_ns > MAX_TIME) return false;
            } else if (t.varying[k] == XYZ) {
                m.xyz = body.data() + at;
                at += 3 * cells;
            } else {
                m.confidence = body.data() + at;
                at += cells;
            }
        }
        return at == body.size();
    }

    std::unordered_map<std::string, std::vector<Template>> expected;  // by topic
};

// --- refined poses out ------------------------------------------------------------------------------------------------

// Bytes of a msgpack integer in its shortest form, and writing it.
inline std::size_t length_of(std::uint64_t value) {
    return value < 0x80 ? 1 : value <= 0xff ? 2 : value <= 0xffff ? 3 : value <= 0xffffffff ? 5 : 9;
}

inline char* put_unsigned(char* to, std::uint64_t value) {
    const std::size_t length = length_of(value);
    if (length == 1) {
        *to = static_cast<char>(value);
        return to + 1;
    }
    *to++ = static_cast<char>(length == 2 ? 0xcc : length == 3 ? 0xcd : length == 5 ? 0xce : 0xcf);
    for (std::size_t k = length - 1; k-- > 0;) *to++ = static_cast<char>(value >> (8 * k));
    return to;
}

inline char* put(char* to, const std::string& bytes) { return static_cast<char*>(std::memcpy(to, bytes.data(), bytes.size())) + bytes.size(); }

inline char* put_floats(char* to, const float* from, std::size_t count) {
    copy_values(to, from, count, sizeof(float));
    return to + count * sizeof(float);
}

class PoseWriter {
  public:
    explicit PoseWriter(std::size_t joints) : joints(joints) {}

    std::size_t add(nb::handle encoder) {
        Kind made;
        for (nb::handle piece : nb::cast<nb::tuple>(encoder.attr("pieces"))) made.pieces.emplace_back(bytes_of(piece));
        if (made.pieces.size() != PIECES) throw std::invalid_argument("pieces of a pose");
        for (const std::string& piece : made.pieces) made.length += piece.size();
        if (free.empty()) {
            free.push_back(kinds.size());
            kinds.emplace_back();
        }
        const std::size_t kind = free.back();
        free.pop_back();
        kinds[kind] = std::move(made);
        return kind;
    }

    void discard(std::size_t kind) {
        kinds.at(kind) = Kind{};
        free.push_back(kind);
    }

    nb::list write(nb::list which, In<std::int64_t> numbers, std::int64_t infer_start_ns, std::int64_t infer_end_ns,
                   std::int64_t publish_ns, In<float> xyz, In<float> confidence, In<float> sigma) {
        const std::size_t rows = which.size(), bits = (joints + 7) / 8;
        if (numbers.size() != 6 * rows || xyz.size() != 3 * joints * rows || confidence.size() != joints * rows ||
            sigma.size() != joints * rows)
            throw std::invalid_argument("arrays of different lengths");
        const std::int64_t engine[] = {infer_start_ns, infer_end_ns, publish_ns};
        nb::list bodies;
        for (std::size_t row = 0; row < rows; ++row) {
            const Kind& k = kinds.at(nb::cast<std::size_t>(which[row]));
            if (k.pieces.empty()) throw std::out_of_range("no such kind of poses");
            const std::int64_t* n = numbers.data() + 6 * row;  // seq, source_seq or -1, source_time_ns, receive_ns, windows, flags
            std::size_t length = k.length + 20 * joints + bits;
            for (int c : {0, 2, 3, 4, 5}) length += length_of(n[c]);
            length += n[1] < 0 ? 1 : length_of(n[1]);
            for (std::int64_t time : engine) length += length_of(time);

            PyObject* body = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(length));
            if (!body) throw nb::python_error();
            bodies.append(nb::steal(body));
            char* to = put(PyBytes_AsString(body), k.pieces[0]);
            for (int c : {0, 4, 5}) to = put_unsigned(to, n[c]);
            to = put(to, k.pieces[1]);
            if (n[1] < 0)
                *to++ = static_cast<char>(0xc0);
            else
                to = put_unsigned(to, n[1]);
            to = put(put_unsigned(to, n[2]), k.pieces[2]);
            to = put_unsigned(to, n[3]);
            for (std::int64_t time : engine) to = put_unsigned(to, time);
            to = put_floats(put(to, k.pieces[3]), xyz.data() + row * joints * 3, 3 * joints);
            to = put_floats(put(to, k.pieces[4]), confidence.data() + row * joints, joints);
            to = put_floats(put(to, k.pieces[5]), sigma.data() + row * joints, joints);
            to = put(to, k.pieces[6]);
            std::fill_n(to, bits, 0);
            for (std::size_t j = 0; j < joints; ++j)
                if (confidence.data()[row * joints + j] == 0.0f) to[j / 8] |= static_cast<char>(128 >> j % 8);
        }
        return bodies;
    }

  private:
    static constexpr std::size_t PIECES = 7;

    struct Kind {
        std::vector<std::string> pieces;  // RefinedEncoder.pieces; none: the number is free
        std::size_t length = 0;
    };

    const std::size_t joints;
    std::vector<Kind> kinds;
    std::vector<std::size_t> free;  // numbers of discarded kinds
};

inline void bind_bulk(nb::module_& m) {
    m.def("within", [](In<float> values, float limit) { return within(values.data(), values.size(), limit); });
    nb::class_<RawReader>(m, "RawReader")
        .def(nb::init<std::size_t>(), nb::arg("joints"))
        .def("add", &RawReader::add)
        .def("remove", &RawReader::remove)
        .def("read", &RawReader::read);
    nb::class_<PoseWriter>(m, "PoseWriter")
        .def(nb::init<std::size_t>(), nb::arg("joints"))
        .def("add", &PoseWriter::add)
        .def("discard", &PoseWriter::discard)
        .def("write", &PoseWriter::write);
}

}  // namespace rtskel
