// The host's side of a ring whose frames and predictions lie on a GPU: its books, new frames until they go up, and one step's memory, which
// is packed and unpacked here. rtskel/engine/device_ring.py makes the CUDA calls, device.cu has the kernels that read what is packed.
//
// Used by one thread at a time; every call that works on frames releases the GIL.

#pragma once

#include "ring_state.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

namespace rtskel {

// Everything on the GPU has a tag: the stream's life (one more with each reset) times this, plus slot or window.
constexpr std::int64_t LIFE = std::int64_t{1} << 40;

// Memory of one step of up to `size` windows and as many new frames, shared with the GPU: `_Bucket` in rtskel/engine/device_ring.py lays it
// out, and `Step` in device.cu says what each array is.
class StagedStep {
  public:
    StagedStep(Out<std::int64_t> counts, Out<std::int64_t> frames, Out<float> frame_xyz, Out<float> frame_confidence,
               Out<std::int64_t> windows, Out<std::int64_t> rows, Out<std::int64_t> row_lookahead, In<std::int64_t> averaged,
               In<float> xyz, In<float> sigma, In<float> confidence)
        : counts(counts),
          frames(frames),
          windows(windows),
          rows(rows),
          row_lookahead(row_lookahead),
          frame_xyz(frame_xyz),
          frame_confidence(frame_confidence),
          averaged(averaged),
          xyz(xyz),
          sigma(sigma),
          confidence(confidence),
          size(frames.size() / FRAME),
          most(averaged.size()) {
        const std::size_t joints = size ? frame_confidence.size() / size : 0;
        if (counts.size() != 2 || frames.size() != FRAME * size || windows.size() != WINDOW * size || rows.size() != size + 1 ||
            frame_confidence.size() != size * joints || frame_xyz.size() != 3 * size * joints || row_lookahead.size() != most ||
            xyz.size() != 3 * most * joints || sigma.size() != most * joints || confidence.size() != most * joints)
            throw std::invalid_argument("arrays of different steps");
    }

    static constexpr std::size_t FRAME = 3, WINDOW = 7;  // numbers of a frame and of a window; each is an array of its own

    Out<std::int64_t> counts, frames, windows, rows, row_lookahead;
    Out<float> frame_xyz, frame_confidence;
    In<std::int64_t> averaged;
    In<float> xyz, sigma, confidence;
    const std::size_t size, most;  // windows, and rows that they may complete

    std::vector<Row> completed;  // what the packed windows complete
    bool skipped = false;        // whether they do not run
};

class DeviceRing : public RingState {
  public:
    explicit DeviceRing(Config config) : RingState(std::move(config)), lives(cfg.streams), earlier(cfg.streams, NONE) {}

    // Takes frames from row `begin` on, until `most` wait to go up; returns the row after the last one that was looked at.
    std::size_t put(In<std::int32_t> stream, In<std::int64_t> slot, In<float> xyz, In<float> confidence, Out<std::uint8_t> status,
                    std::size_t begin, std::size_t most) {
        const std::size_t rows = stream.size(), joints = cfg.joints;
        if (slot.size() != rows || status.size() != rows || xyz.size() != 3 * rows * joints || confidence.size() != rows * joints)
            throw std::invalid_argument("arrays of different frames");
        std::size_t m = begin;
        for (; m < rows && waiting.size() < most; ++m) {
            const int s = checked(stream.data()[m]);
            const std::int64_t j = slot.data()[m];
            const Put put = would_be(s, j);
            status.data()[m] = put;
            if (put != TAKEN) continue;
            if (slots[s].empty()) slots[s].assign(capacity, NONE);
            take(s, j);
            waiting.push_back({s, j});
            const float *from = xyz.data() + 3 * m * joints, *sure = confidence.data() + m * joints;
            waiting_xyz.insert(waiting_xyz.end(), from, from + 3 * joints);
            waiting_confidence.insert(waiting_confidence.end(), sure, sure + joints);
        }
        return m;
    }

    void reset(In<std::int32_t> stream) {
        for (std::size_t m = 0; m < stream.size(); ++m) {
            const int s = checked(stream.data()[m]);
            forget(s);
            ++lives[s];
            drop_waiting(s);
        }
    }

    // Plans the next batch, see `share`: how many windows.
    std::size_t plan_next(std::size_t room) {
        share(room);
        return plan.size();
    }

    // Plans up to `room` of these streams' windows before `window`, which will not run: how many.
    std::size_t plan_skipped(In<std::int32_t> stream, In<std::int64_t> window, std::size_t room) {
        if (window.size() != stream.size()) throw std::invalid_argument("arrays of different streams");
        plan.clear();
        for (std::size_t m = 0; m < stream.size(); ++m) {
            const int s = checked(stream.data()[m]);
            for (std::int64_t e = next_[s]; e < window.data()[m] && plan.size() < room; ++e) plan.push_back({s, e});
        }
        return plan.size();
    }

    // The frames that wait into a step's memory, which has no windows then. Nothing has changed before `frames_sent`.
    void pack_frames(StagedStep& step) {
        if (waiting.size() > step.size || step.frame_confidence.size() != step.size * cfg.joints)
            throw std::invalid_argument("more frames than the step takes");
        step.counts.data()[0] = static_cast<std::int64_t>(waiting.size());
        step.counts.data()[1] = 0;
        step.completed.clear();
        std::int64_t* frame[StagedStep::FRAME];
        for (std::size_t k = 0; k < StagedStep::FRAME; ++k) frame[k] = step.frames.data() + k * step.size;
        for (std::size_t f = 0; f < waiting.size(); ++f) {
            frame[0][f] = waiting[f].stream;
            frame[1][f] = waiting[f].slot;
            frame[2][f] = lives[waiting[f].stream] * LIFE;
        }
        std::copy(waiting_xyz.begin(), waiting_xyz.end(), step.frame_xyz.data());
        std::copy(waiting_confidence.begin(), waiting_confidence.end(), step.frame_confidence.data());
    }

    // What was packed by `pack_frames` is on its way.
    void frames_sent() {
        waiting.clear();
        waiting_xyz.clear();
        waiting_confidence.clear();
    }

    // As `pack_frames`, with the planned windows and what they complete. Nothing has changed before `sent`.
    void pack(StagedStep& step, bool skipped) {
        if (plan.size() > step.size || plan.size() * cfg.reach.size() > step.most)
            throw std::invalid_argument("more windows than the step takes");
        pack_frames(step);
        step.counts.data()[1] = static_cast<std::int64_t>(plan.size());
        std::int64_t* window[StagedStep::WINDOW];
        for (std::size_t k = 0; k < StagedStep::WINDOW; ++k) window[k] = step.windows.data() + k * step.size;
        auto& [stream, base, slot, last, following, first, skips] = window;
        step.skipped = skipped;
        for (std::size_t b = 0; b < plan.size(); ++b) {
            const auto [s, e] = plan[b];
            stream[b] = s;
            base[b] = lives[s] * LIFE;
            slot[b] = e;
            last[b] = ended_[s] ? last_[s] : std::numeric_limits<std::int64_t>::max();
            following[b] = NONE;
            first[b] = earlier[s] == NONE;
            skips[b] = skipped;
            if (!first[b]) following[earlier[s]] = static_cast<std::int64_t>(b);
            earlier[s] = static_cast<std::int64_t>(b);
            step.rows.data()[b] = static_cast<std::int64_t>(step.completed.size());
            completed(s, e, [&](const Row& row) {
                step.row_lookahead.data()[step.completed.size()] = static_cast<std::int64_t>(row.look);
                step.completed.push_back(row);
            });
        }
        step.rows.data()[plan.size()] = static_cast<std::int64_t>(step.completed.size());
        for (const Planned& p : plan) earlier[p.stream] = NONE;
    }

    // What was packed by `pack` is on its way.
    void sent() {
        for (const Planned& p : plan) pass(p.stream, p.window);
        plan.clear();
        frames_sent();
    }

    // What a step has completed, from row `begin` of the columns on: how many rows.
    std::size_t unpack(const StagedStep& step, std::size_t begin, const Columns& out) const {
        const std::size_t rows = step.completed.size(), joints = cfg.joints;
        if (out.rows() < begin + rows) throw std::invalid_argument("fewer rows than poses");
        std::copy_n(step.xyz.data(), 3 * rows * joints, out.xyz.data() + 3 * begin * joints);
        std::copy_n(step.sigma.data(), rows * joints, out.sigma.data() + begin * joints);
        std::copy_n(step.confidence.data(), rows * joints, out.confidence.data() + begin * joints);
        for (std::size_t r = 0; r < rows; ++r)
            write_books(step.completed[r], out, begin + r, static_cast<std::int32_t>(step.averaged.data()[r]), step.skipped);
        return rows;
    }

    std::size_t frames_waiting() const { return waiting.size(); }

  private:
    struct Frame {
        int stream;
        std::int64_t slot;
    };

    std::vector<std::int64_t> lives;
    std::vector<std::int64_t> earlier;  // while packing: each stream's last window in the batch so far
    std::vector<Frame> waiting;         // those that go up with the next step
    std::vector<float> waiting_xyz, waiting_confidence;

    void drop_waiting(int s) {
        const std::size_t joints = cfg.joints;
        std::size_t kept = 0;
        for (std::size_t f = 0; f < waiting.size(); ++f) {
            if (waiting[f].stream == s) continue;
            if (kept < f) {
                waiting[kept] = waiting[f];
                std::copy_n(waiting_xyz.data() + 3 * f * joints, 3 * joints, waiting_xyz.data() + 3 * kept * joints);
                std::copy_n(waiting_confidence.data() + f * joints, joints, waiting_confidence.data() + kept * joints);
            }
            ++kept;
        }
        waiting.resize(kept);
        waiting_xyz.resize(3 * kept * joints);
        waiting_confidence.resize(kept * joints);
    }
};

inline void bind_device_ring(nb::module_& m) {
    using Ints = Out<std::int64_t>;
    using Floats = Out<float>;
    nb::class_<StagedStep>(m, "StagedStep")
        .def(nb::init<Ints, Ints, Floats, Floats, Ints, Ints, Ints, In<std::int64_t>, In<float>, In<float>, In<float>>())
        .def("__len__", [](const StagedStep& step) { return step.completed.size(); });
    nb::class_<DeviceRing, RingState> ring(m, "DeviceRing");
    bind_constructor<DeviceRing>(ring);
    ring.def("put", &DeviceRing::put, nb::call_guard<nb::gil_scoped_release>())
        .def("reset", &DeviceRing::reset, nb::call_guard<nb::gil_scoped_release>())
        .def("plan_next", &DeviceRing::plan_next, nb::call_guard<nb::gil_scoped_release>())
        .def("plan_skipped", &DeviceRing::plan_skipped, nb::call_guard<nb::gil_scoped_release>())
        .def("pack_frames", &DeviceRing::pack_frames, nb::call_guard<nb::gil_scoped_release>())
        .def("frames_sent", &DeviceRing::frames_sent)
        .def("pack", &DeviceRing::pack, nb::call_guard<nb::gil_scoped_release>())
        .def("sent", &DeviceRing::sent)
        .def("unpack",
             [](const DeviceRing& self, const StagedStep& step, std::size_t begin, Out<std::int32_t> stream, Out<std::int64_t> slot,
                Out<std::int32_t> lookahead, Out<float> xyz, Out<float> sigma, Out<float> confidence, Out<std::int32_t> windows,
                Out<std::uint32_t> flags) {
                 const nb::gil_scoped_release released;
                 return self.unpack(step, begin, {stream, slot, lookahead, xyz, sigma, confidence, windows, flags});
             })
        .def_prop_ro("waiting", &DeviceRing::frames_waiting);
}

}  // namespace rtskel
