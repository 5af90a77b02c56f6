// Checked launches and shared memory. tests/cuda_emulation has a cuda_runtime.h that runs the same sources on the CPU;
// therefore they use no <<< >>> and no static __shared__.
#pragma once

#include <cuda_runtime.h>

#include "cuda_engine.h"

namespace dgr::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

/// Throws Error with the operation's name and CUDA's message.
[[noreturn]] void fail(cudaError_t error, const char* operation);
inline void check(cudaError_t error, const char* operation) {
    if (error != cudaSuccess) fail(error, operation);
}

/// Whether DGR_SYNC=1 is set. Then every launch waits for its kernel, so that an error names the kernel that failed.
bool is_synchronous();

struct Grid {
    int64_t blocks;
    int threads;  // of a block
    int64_t shared_bytes = 0;  // of block_shared<T>(), at most 48 kB
};
inline Grid one_thread_each(int64_t count, int threads) { return {(count + threads - 1) / threads, threads}; }

/// Launches a kernel, unless the grid has no blocks.
template <class... Params, class... Args>
void launch(const char* name, const Context& context, const Grid& grid, void (*kernel)(Params...), Args... args) {
    if (grid.blocks == 0) return;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
    config.blockDim = dim3(static_cast<unsigned>(grid.threads));
    config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
    config.stream = context.stream;
    check(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), name);
    if (is_synchronous()) check(cudaStreamSynchronize(context.stream), name);
}

extern __shared__ __align__(64) unsigned char block_memory[];
/// The block's shared memory as a T, uninitialized.
template <class T> __device__ __forceinline__ T& block_shared() {
    static_assert(alignof(T) <= 64);
    return *reinterpret_cast<T*>(block_memory);
}

/// 2^x, 1 / x and the root of x as the special function unit computes them, with an error of at most 2, 1 and 2 units in
/// the last place [PTX ISA]; subnormal numbers are zero. exp2f, division and sqrtf are the same instructions, with more
/// around them for subnormal numbers and the last bit.
__device__ __forceinline__ float approximate_exp2(float x) {
#if defined(__CUDACC__)
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return cuda_emulation::approximate(exp2f(x), 2);
#endif
}
__device__ __forceinline__ float approximate_reciprocal(float x) {
#if defined(__CUDACC__)
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return cuda_emulation::approximate(1 / x, 1);
#endif
}

__device__ __forceinline__ float approximate_sqrt(float x) {
#if defined(__CUDACC__)
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return cuda_emulation::approximate(sqrtf(x), 2);
#endif
}

/// Sets the current device and restores the previous one.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
        changed_ = device != before_;
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

  private:
    int before_ = 0;
    bool changed_ = false;
};

}  // namespace dgr::cuda
