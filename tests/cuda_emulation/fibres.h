// The threads of a CUDA block as fibres on one thread of the CPU: what cuda_runtime.h needs to run a kernel. Blocks run
// one after the other; a fibre runs until it waits for others. Anything that leaves a fibre waiting for ever is an
// error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace cuda_emulation {

constexpr int kLanes = 32;
constexpr unsigned kMaxThreads = 1024;  // of a block
constexpr size_t kMaxShared = 48 * 1024;  // bytes of a block that need no attribute of the kernel

/// Chooses the poison and the order of threads: CUDA_EMULATION_SEED, else another in every process.
uint32_t seed();
/// Every byte of memory that nothing has been written to; 255 for seed 254: four of those are -1, and a NaN.
inline unsigned char poison() { return static_cast<unsigned char>(1 + seed() % 255); }

/// Where a kernel calls something, for messages; std::source_location is younger than some compilers that know C++20.
struct CallSite {
    const char* file;
    int line;
    static constexpr CallSite current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

enum class Collective : uint8_t { syncwarp, shfl, shfl_up, shfl_down, shfl_xor, ballot, any, all };
enum class Barrier : uint8_t { plain, all, any, count };

/// Meets the lanes of `mask`: each gives a value and gets its result.
uint32_t meet(Collective kind, unsigned mask, uint32_t value, int argument, int width, const CallSite& at);

/// Meets all threads of the block; each gets what the predicates of all of them say.
int wait_for_block(Barrier kind, int predicate, const CallSite& at);

/// Calls `thread` once for each thread of each block. Returns what went wrong, empty if nothing did.
std::string run_grid(uint32_t num_blocks, uint32_t threads_per_block, size_t shared_bytes,
                     const std::function<void()>& thread);

}  // namespace cuda_emulation
