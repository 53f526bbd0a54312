// Signals that end the process even if Python cannot run: while a runtime hangs and holds the GIL, no Python handler is called.

#pragma once

#include "module.h"

#include <nanobind/stl/vector.h>

#include <array>
#include <csignal>
#include <stdexcept>
#include <vector>

#ifndef _WIN32
#include <unistd.h>
#endif

namespace rtskel {

#ifndef _WIN32
inline std::array<struct sigaction, 64> handled;  // the handlers that were there, by signal
inline volatile std::sig_atomic_t signals_seen = 0;
inline volatile std::sig_atomic_t signal_patience = 0;

extern "C" inline void rtskel_on_signal(int number, siginfo_t* info, void* context) {
    if (signals_seen) {  // the second one
        std::signal(number, SIG_DFL);
        raise(number);
        return;
    }
    signals_seen = 1;
    alarm(static_cast<unsigned>(signal_patience));
    const struct sigaction& before = handled[number];
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
    }
}

extern "C" inline void rtskel_on_alarm(int) {
    constexpr char text[] = "rtskel: error: no progress after a signal to end (does the engine hang?): ended at once\n";
    [[maybe_unused]] const auto written = write(2, text, sizeof text - 1);
    _exit(1);
}

inline void guard_signals(std::vector<int> numbers, int patience) {
    signals_seen = 0;
    signal_patience = patience;
    struct sigaction action = {};
    sigemptyset(&action.sa_mask);
    action.sa_handler = rtskel_on_alarm;
    sigaction(SIGALRM, &action, nullptr);
    action.sa_flags = SA_SIGINFO | SA_NODEFER;  // so that `raise` takes effect at once
    action.sa_sigaction = rtskel_on_signal;
    for (int number : numbers) {
        if (number < 1 || number >= static_cast<int>(handled.size())) throw std::invalid_argument("no such signal");
        sigaction(number, &action, &handled[number]);
    }
}
#else
inline void guard_signals(std::vector<int>, int) {}
#endif

inline void bind_signals(nb::module_& m) { m.def("guard_signals", &guard_signals, nb::arg("numbers"), nb::arg("patience")); }

}  // namespace rtskel
