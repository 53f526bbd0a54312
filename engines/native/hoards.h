// Finds connections that send a message without end: ZeroMQ keeps all of its parts. It runs in a thread of its own, because such a
// connection can fill the memory in a tenth of a second, and the server's loop may take longer than that. Used by rtskel/serve/sockets.py.

#pragma once

#include "module.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#ifdef __linux__
#include <arpa/inet.h>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif
#endif

namespace rtskel {

// Watches the TCP connections that this process has accepted on a port of an address of this machine, or of all addresses. What ZeroMQ
// holds of a connection is what it has taken from the kernel since the server last read a whole message of it. The connection is closed if
// that is more than `most` bytes, or more than `unfinished` bytes after the server has read all whole messages twice and none was from this
// connection. While there is such a connection, a byte is written to `waker`, so that the server reads. It is closed, too, if this process
// has grown by more than `memory` bytes for it.
class HoardWatch {
  public:
    HoardWatch(const std::string& host, int port, std::uint64_t unfinished, std::uint64_t most, std::uint64_t memory, double interval, int waker)
        : host(host), port(port), unfinished(unfinished), most(most), memory(memory), interval(interval), waker(waker) {
#ifdef __linux__
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);  // the thread that waits for signals gets them
        thread = std::thread([this] { run(); });
        pthread_setname_np(thread.native_handle(), "rtskel/hoards");
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
    }

    ~HoardWatch() { stop(); }

    // The server has read whole messages that came by these descriptors; `all`: and now there are no others.
    void read(const std::vector<int>& descriptors, bool all) {
        const std::lock_guard<std::mutex> lock(mutex);
        heard.insert(descriptors.begin(), descriptors.end());
        rounds += all;
    }

    // How many connections were closed since the last call.
    int found() {
        const std::lock_guard<std::mutex> lock(mutex);
        return std::exchange(count, 0);
    }

    void stop() {
        {
            const std::lock_guard<std::mutex> lock(mutex);
            stopping = true;
        }
        wake.notify_all();
        if (thread.joinable()) thread.join();
    }

  private:
    const std::string host;
    const int port;
    const std::uint64_t unfinished, most, memory;
    const std::chrono::duration<double> interval;
    const int waker;
    std::mutex mutex;
    std::condition_variable wake;
    std::thread thread;
    // Guarded by the mutex.
    std::set<int> heard;
    std::uint64_t rounds = 0;  // how often everything was read
    int count = 0;
    bool stopping = false;

#ifdef __linux__
    static constexpr double AMPLIFIED = 34;  // a part without content takes 2 bytes on the way and 64, or a little more, here

    struct Connection {
        std::uint64_t cookie = 0;  // of the kernel; if it changes, the descriptor is another connection
        std::uint64_t whole = 0;   // bytes taken when the last whole message was known to be read
        std::uint64_t decided = 0;  // the round after which it is closed; 0: it is not suspected
        std::uint64_t seen = 0;
        std::uint64_t taken = 0, news = 0;  // bytes, by the last look, and how many of them since the one before
        double memory = 0;  // bytes by which the process has grown, as far as that is for what is held of this one
        bool ours = false, cut = false;
    };
    std::unordered_map<int, Connection> connections;
    std::uint64_t looks = 0;
    std::uint64_t size = 0;  // of the process, by the last look
    int statm = -1;

    void run() {
        DIR* folder = opendir("/proc/self/fd");  // kept open: later, there may be no descriptor left
        if (!folder) return;
        statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
        std::unique_lock<std::mutex> lock(mutex);
        while (!stopping) {
            const auto began = cpu_time();
            const auto whole = std::exchange(heard, {});
            const auto round = rounds;
            lock.unlock();
            const int cut = look(folder, whole, round);
            // With thousands of connections, looking takes at most a 20th of a core. Time spent waiting does not count, such as for the lock of
            // a socket that ZeroMQ reads from without a pause: looking is then most urgent.
            const auto pause = std::max(interval, 20 * (cpu_time() - began));
            lock.lock();
            count += cut;
            wake.wait_for(lock, pause, [this] { return stopping; });
        }
        closedir(folder);
        if (statm >= 0) close(statm);
    }

    // Of this thread.
    static std::chrono::duration<double> cpu_time() {
        timespec now = {};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
    }

    int look(DIR* folder, const std::set<int>& whole, std::uint64_t round) {
        int cut = 0;
        bool suspects = false;
        std::uint64_t all_taken = 0;  // since the last look
        ++looks;
        rewinddir(folder);
        while (const dirent* entry = readdir(folder)) {
            const int descriptor = std::atoi(entry->d_name);
            std::uint64_t cookie = 0;
            if (entry->d_name[0] == '.' || !is_socket(descriptor, cookie)) continue;
            Connection& connection = connections[descriptor];
            if (!connection.seen || connection.cookie != cookie) {
                connection = {};
                connection.cookie = cookie;
                connection.ours = accepted(descriptor);
            }
            connection.seen = looks;
            connection.news = 0;
            std::uint64_t taken = 0;
            if (!connection.ours || connection.cut || !bytes_taken(descriptor, taken)) continue;
            if (whole.count(descriptor) || taken < connection.whole) {
                connection.whole = taken;
                connection.memory = 0;
            }
            connection.news = taken - std::min(taken, std::exchange(connection.taken, taken));
            all_taken += connection.news;
        }
        const double growth = grown();
        for (auto& [descriptor, connection] : connections) {
            if (connection.seen != looks || !connection.ours || connection.cut) continue;
            // Whose memory that is, nobody knows: most of it should be for those that send most.
            if (connection.news) connection.memory += growth * (static_cast<double>(connection.news) / static_cast<double>(all_taken));
            const std::uint64_t held = connection.taken - connection.whole;
            if (held <= unfinished) {
                connection.decided = 0;
                continue;
            }
            suspects = true;
            if (!connection.decided) connection.decided = round + 2;
            const double takes = std::min(connection.memory, AMPLIFIED * static_cast<double>(held));
            if (held > most || takes > static_cast<double>(memory) || round >= connection.decided) {
                connection.cut = hang_up(descriptor, connection.cookie);
                cut += connection.cut;
            }
        }
        for (auto each = connections.begin(); each != connections.end();) each = each->second.seen == looks ? std::next(each) : connections.erase(each);
        if (suspects) [[maybe_unused]] const auto written = write(waker, "!", 1);
        return cut;
    }

    // Bytes by which this process takes more memory than at the last look.
    double grown() {
        char text[128] = {};
        unsigned long long pages = 0;
        const auto got = statm < 0 ? -1 : pread(statm, text, sizeof text - 1, 0);
        if (got <= 0 || std::sscanf(text, "%*u %llu", &pages) != 1) return 0;
        const std::uint64_t now = pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)), before = std::exchange(size, now);
        return before && now > before ? static_cast<double>(now - before) : 0;
    }

    static bool is_socket(int descriptor, std::uint64_t& cookie) {
        socklen_t size = sizeof cookie;
        return !getsockopt(descriptor, SOL_SOCKET, SO_COOKIE, &cookie, &size);
    }

    bool accepted(int descriptor) const {
        sockaddr_storage address = {};
        socklen_t size = sizeof address;
        int listens = 0;
        socklen_t listens_size = sizeof listens;
        if (getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size)) return false;
        if (getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_size) || listens) return false;
        if (address.ss_family == AF_INET) {
            const auto& own = reinterpret_cast<const sockaddr_in&>(address);
            return ntohs(own.sin_port) == port && is_host(AF_INET, &own.sin_addr, sizeof own.sin_addr);
        }
        const auto& own = reinterpret_cast<const sockaddr_in6&>(address);
        return address.ss_family == AF_INET6 && ntohs(own.sin6_port) == port && is_host(AF_INET6, &own.sin6_addr, sizeof own.sin6_addr);
    }

    // Whether that is the address; a wildcard, or an address of another family, matches every one.
    bool is_host(int family, const void* address, std::size_t size) const {
        in6_addr wanted = {};
        const in6_addr any = {};
        return inet_pton(family, host.c_str(), &wanted) != 1 || !std::memcmp(&wanted, &any, size) || !std::memcmp(&wanted, address, size);
    }

    // Bytes that came over a connection since it was made and that ZeroMQ has taken from the kernel.
    static bool bytes_taken(int descriptor, std::uint64_t& taken) {
        constexpr std::size_t received_at = 128;  // of tcpi_bytes_received in struct tcp_info, since Linux 4.1; older headers do not have it
        char info[received_at + sizeof taken];
        socklen_t size = sizeof info;
        int left = 0;
        if (getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, info, &size) || size < sizeof info || ioctl(descriptor, FIONREAD, &left)) return false;
        std::memcpy(&taken, info + received_at, sizeof taken);
        taken -= std::min<std::uint64_t>(taken, left);
        return true;
    }

    // To ZeroMQ the peer has closed the connection, and it frees all that it holds of it. A duplicate descriptor makes sure which one it is.
    static bool hang_up(int descriptor, std::uint64_t cookie) {
        const int copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
        const int ours = copy < 0 ? descriptor : copy;  // no descriptor is left: nearly as sure
        std::uint64_t now = 0;
        const bool done = is_socket(ours, now) && now == cookie && !shutdown(ours, SHUT_RDWR);
        if (copy >= 0) close(copy);
        return done;
    }
#endif
};

inline void bind_hoards(nb::module_& m) {
    nb::class_<HoardWatch>(m, "HoardWatch")
        .def(nb::init<const std::string&, int, std::uint64_t, std::uint64_t, std::uint64_t, double, int>(), nb::arg("host"), nb::arg("port"), nb::arg("unfinished"), nb::arg("most"),
             nb::arg("memory"), nb::arg("interval"), nb::arg("waker"))
        .def("read", &HoardWatch::read)
        .def("found", &HoardWatch::found)
        .def("stop", &HoardWatch::stop);
}

}  // namespace rtskel
