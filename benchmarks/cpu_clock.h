// The clock of the benchmarks in C++.
#pragma once

#include <ctime>

namespace dgr {

/// CPU time of this thread.
inline double cpu_seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace dgr
