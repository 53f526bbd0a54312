// When the slots of many streams are due, judged by when frames arrive: see rtskel/serve/arrival.py, which says why. The numpy oracle is
// tests/oracles/arrays.py, method for method.

#pragma once

#include "module.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rtskel {

class ArrivalClock {
  public:
    ArrivalClock(std::size_t places, double follow_share, double memory, double tolerance)
        : follow_share(follow_share),
          memory(memory),
          tolerance(tolerance),
          slot(places),
          time(places),
          period_(places, 1.0),
          claimed(places, 1.0),
          pace(places, 1.0),
          samples(places),
          newest(places),
          newest_time(places) {}

    // A stream begins that states a slot every `claim` ns: slot `last` arrived at `now`, and slot `s` is due.
    void start(std::size_t p, std::int64_t s, double now, std::int64_t last, double claim) {
        slot[p] = static_cast<double>(s);
        time[p] = newest_time[p] = now;
        newest[p] = last;
        claim_period(p, claim);
    }

    // From slot `s` on the stream states another period.
    void retime(std::size_t p, std::int64_t s, double claim) {
        turn(p, s);
        claim_period(p, claim);
    }

    double period(std::size_t p) const { return period_.at(p); }
    double last_arrival(std::size_t p) const { return newest_time.at(p); }
    double due(std::size_t p, std::int64_t s) const { return time[p] + (static_cast<double>(s) - slot[p]) * period_[p]; }

    // The last slot that is due by that time.
    std::int64_t due_until(std::size_t p, double now) const {
        // A little more, so that rounding does not make a slot too early at its own due time.
        return static_cast<std::int64_t>(std::floor((now - time.at(p)) / period_[p] + 1e-4)) + static_cast<std::int64_t>(slot[p]);
    }

    // Frames up to slot `last` have arrived by `now`: measure the pace. The due time of slot `complete` stays when the period changes.
    void arrived(std::size_t p, std::int64_t last, double now, std::int64_t complete) {
        const double slots = static_cast<double>(last - newest[p]);
        if (slots <= 0) return;
        const double sample = std::min((now - newest_time[p]) / slots, 2 * pace[p]);  // one long pause is not a pace
        pace[p] += std::max(std::min(slots / memory, 1.0), 1 / (2 + samples[p])) * (sample - pace[p]);
        samples[p] += 1;
        newest[p] = last;
        newest_time[p] = now;
        const double measured = pace[p] > tolerance * claimed[p] ? pace[p] : claimed[p];
        if (measured == period_[p]) return;
        turn(p, complete);
        period_[p] = measured;
    }

    // Slot `s` was complete at `now`. `early`: the share by which one that was complete before it was due moves what is due.
    void follow(std::size_t p, std::int64_t s, double now, double early = 1.0) {
        const double expected = due(p, s), error = now - expected;
        time[p] = expected + (error > 0 ? follow_share : early) * error;
        slot[p] = static_cast<double>(s);
    }

    void pause(double ns) {
        for (double& due : time) due += ns;
        for (double& came : newest_time) came += ns;
    }

  private:
    void claim_period(std::size_t p, double claim) {
        claimed[p] = pace[p] = period_[p] = claim;
        samples[p] = 0;
    }

    void turn(std::size_t p, std::int64_t s) {
        time[p] = due(p, s);
        slot[p] = static_cast<double>(s);
    }

    const double follow_share, memory, tolerance;
    // By place: this slot is due at this time; ns from one due time to the next, as claimed, as measured, and how often measured.
    std::vector<double> slot, time, period_, claimed, pace, samples;
    std::vector<std::int64_t> newest;  // the newest slot that was measured, and when it arrived
    std::vector<double> newest_time;
};

}  // namespace rtskel
