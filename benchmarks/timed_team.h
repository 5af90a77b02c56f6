// A Team that works on one thread and notes the CPU time of each item. It takes the place of the engine's Team in all
// files that are compiled with -include timed_team.h.
#pragma once

#include <vector>

#include "cpu_clock.h"

#define Team UntimedTeam
#include "team.h"
#undef Team

namespace dgr {

/// One for_each: when it began, and when each item ended.
using Round = std::vector<double>;

class Team {
  public:
    inline static std::vector<Round> rounds;
    inline static int num_cores = 1;  // the engine divides some work by the number of threads

    explicit Team(int) {}
    void for_each(int64_t num_items, const std::function<void(int64_t)>& work) {
        Round round{cpu_seconds()};
        round.reserve(num_items + 1);
        for (int64_t i = 0; i < num_items; ++i) {
            work(i);
            round.push_back(cpu_seconds());
        }
        rounds.push_back(std::move(round));
    }
    int size() const { return num_cores; }
};

}  // namespace dgr
