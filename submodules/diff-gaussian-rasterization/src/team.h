// The threads of the CPU engine. They live as long as the process and sleep between rounds of work. Each call of the
// engine has a crew of its own, so that simultaneous calls do not wait for each other. Threads take items in any order;
// results must not depend on it.
#pragma once

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace dgr {

/// Threads that work for one call at a time. Crews are never destroyed: their threads still sleep when the process ends.
class Crew {
  public:
    /// See Team::for_each.
    void for_each(int num_threads, int64_t num_items, const std::function<void(int64_t)>& work) {
        const auto num_helpers = static_cast<uint32_t>(std::min<int64_t>(num_threads, num_items) - 1);
        start_threads(num_helpers);
        work_ = &work;
        num_items_ = num_items;
        next_.store(0);
        state_.store(num_helpers * kSeat);
        round_.fetch_add(1);
        round_.notify_one();
        drain();
        // Threads that are not awake yet find no seat: the round ends when those that have one are done.
        for (uint32_t busy = state_.fetch_and(kBusy) & kBusy; busy != 0; busy = state_.load()) state_.wait(busy);
        if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    }

    static Crew* take() {
        const std::lock_guard lock(idle().mutex);
        if (!idle().first) return new Crew;
        return std::exchange(idle().first, idle().first->next_idle_);
    }
    static void give_back(Crew* crew) {
        const std::lock_guard lock(idle().mutex);
        crew->next_idle_ = std::exchange(idle().first, crew);
    }

  private:
    static constexpr uint32_t kSeat = 1 << 16, kBusy = kSeat - 1;

    /// The crews that no call uses.
    struct Idle {
        std::mutex mutex;
        Crew* first = nullptr;
    };
    static Idle& idle() {
        static Idle* const idle = [] {
#if !defined(_WIN32)
            // A forked process has none of the threads.
            pthread_atfork([] { Crew::idle().mutex.lock(); }, [] { Crew::idle().mutex.unlock(); },
                           [] { Crew::idle().first = nullptr, Crew::idle().mutex.unlock(); });
#endif
            return new Idle;
        }();
        return *idle;
    }

    void start_threads(uint32_t wanted) {
        try {
            for (; num_threads_ < wanted; ++num_threads_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
            // The system limits the number of threads: use those that started.
        }
    }
    void serve() {
        for (uint32_t seen = 0;;) {
            round_.wait(seen);
            seen = round_.load();
            if (!take_seat()) continue;
            drain();
            if (state_.fetch_sub(1) == 1) state_.notify_one();
        }
    }
    /// Joins the round unless it has enough threads or is over. Each thread that joins wakes two more.
    bool take_seat() {
        uint32_t state = state_.load();
        do {
            if (state < kSeat) return false;
        } while (!state_.compare_exchange_weak(state, state - kSeat + 1));
        for (uint32_t i = 0; i < std::min(2u, state / kSeat - 1); ++i) round_.notify_one();
        return true;
    }
    void drain() {
        const std::function<void(int64_t)>& work = *work_;
        const int64_t num_items = num_items_;
        try {
            for (int64_t i = next_.fetch_add(1); i < num_items; i = next_.fetch_add(1)) work(i);
        } catch (...) {
            next_.store(num_items);
            const std::lock_guard lock(failure_mutex_);
            failure_ = std::current_exception();
        }
    }

    const std::function<void(int64_t)>* work_ = nullptr;
    int64_t num_items_ = 0;
    std::atomic<int64_t> next_{0};
    std::atomic<uint32_t> round_{0};
    std::atomic<uint32_t> state_{0};  // free seats * kSeat + threads at work, without the caller
    std::mutex failure_mutex_;
    std::exception_ptr failure_;
    uint32_t num_threads_ = 0;
    Crew* next_idle_ = nullptr;
};

/// The threads of one call.
class Team {
  public:
    /// num_threads: 1 to 256, includes the calling thread.
    explicit Team(int num_threads) : size_(num_threads), crew_(num_threads > 1 ? Crew::take() : nullptr) {}
    ~Team() {
        if (crew_) Crew::give_back(crew_);
    }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    /// Calls work(i) for each i in [0, num_items), in any order, and waits for all. If work throws, for_each throws the
    /// exception, and some items may be skipped.
    void for_each(int64_t num_items, const std::function<void(int64_t)>& work) {
        if (crew_ && num_items > 1) return crew_->for_each(size_, num_items, work);
        for (int64_t i = 0; i < num_items; ++i) work(i);
    }

    int size() const { return size_; }

  private:
    int size_;
    Crew* crew_;
};

}  // namespace dgr
