// The threads of one call of the engine. There is no global pool, so no thread waits or spins between calls. Threads
// take items in any order; results must not depend on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace dgr {

class Team {
  public:
    /// num_threads includes the calling thread.
    explicit Team(int num_threads) {
        try {
            for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this] { serve(); });
        } catch (const std::system_error&) {
            // The system limits the number of threads: use those that started.
        }
    }
    ~Team() {
        stop_.store(true);
        start_round();
        for (std::thread& thread : threads_) thread.join();
    }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    /// Calls work(i) for each i in [0, num_items), in any order, and waits for all. If work throws, for_each throws the
    /// exception, and some items may be skipped.
    void for_each(int64_t num_items, const std::function<void(int64_t)>& work) {
        if (threads_.empty() || num_items <= 1) {
            for (int64_t i = 0; i < num_items; ++i) work(i);
            return;
        }
        work_ = &work;
        num_items_ = num_items;
        next_.store(0);
        busy_.store(static_cast<int>(threads_.size()));
        start_round();
        drain();
        for (int busy = busy_.load(); busy != 0; busy = busy_.load()) busy_.wait(busy);
        if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    }

    int size() const { return static_cast<int>(threads_.size()) + 1; }

  private:
    void start_round() {
        round_.fetch_add(1);
        round_.notify_all();
    }
    void drain() {
        try {
            for (int64_t i = next_.fetch_add(1); i < num_items_; i = next_.fetch_add(1)) (*work_)(i);
        } catch (...) {
            next_.store(num_items_);
            const std::lock_guard lock(failure_mutex_);
            failure_ = std::current_exception();
        }
    }
    void serve() {
        for (uint32_t seen = 0;;) {
            round_.wait(seen);
            ++seen;
            if (stop_.load()) return;
            drain();
            if (busy_.fetch_sub(1) == 1) busy_.notify_all();
        }
    }

    const std::function<void(int64_t)>* work_ = nullptr;
    int64_t num_items_ = 0;
    std::atomic<int64_t> next_{0};
    std::atomic<int> busy_{0};
    std::atomic<uint32_t> round_{0};
    std::atomic<bool> stop_{false};
    std::mutex failure_mutex_;
    std::exception_ptr failure_;
    std::vector<std::thread> threads_;  // last member: the threads use the others
};

}  // namespace dgr
