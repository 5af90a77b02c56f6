// The runtime's functions of cuda_runtime.h: one device, whose memory is this machine's.
#include <unistd.h>

#include <string>
#include <utility>

#include "cuda_runtime.h"

namespace {
thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string launch_failure = "unspecified launch failure";

cudaError_t remembered(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}
}  // namespace

cudaError_t cuda_emulation::launch(const cudaLaunchConfig_t& config, const std::function<void()>& thread) {
    const dim3 grid = config.gridDim, block = config.blockDim;
    if (grid.x < 1 || grid.x > 0x7fffffffu || grid.y != 1 || grid.z != 1 || block.x < 1 || block.x > kMaxThreads ||
        block.y != 1 || block.z != 1)
        return remembered(cudaErrorInvalidConfiguration);
    if (config.dynamicSmemBytes > kMaxShared) return remembered(cudaErrorInvalidValue);
    const std::string failure = run_grid(grid.x, block.x, config.dynamicSmemBytes, thread);
    if (failure.empty()) return cudaSuccess;
    launch_failure = failure;
    return remembered(cudaErrorLaunchFailure);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    if (bytes > 0) std::memmove(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
    if (bytes > 0) std::memset(to, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "cudaSuccess";
        case cudaErrorInvalidValue:
            return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation:
            return "cudaErrorMemoryAllocation";
        case cudaErrorInvalidConfiguration:
            return "cudaErrorInvalidConfiguration";
        case cudaErrorInsufficientDriver:
            return "cudaErrorInsufficientDriver";
        case cudaErrorInvalidDeviceFunction:
            return "cudaErrorInvalidDeviceFunction";
        case cudaErrorNoDevice:
            return "cudaErrorNoDevice";
        case cudaErrorInvalidDevice:
            return "cudaErrorInvalidDevice";
        case cudaErrorNoKernelImageForDevice:
            return "cudaErrorNoKernelImageForDevice";
        case cudaErrorUnsupportedPtxVersion:
            return "cudaErrorUnsupportedPtxVersion";
        case cudaErrorIllegalAddress:
            return "cudaErrorIllegalAddress";
        case cudaErrorLaunchOutOfResources:
            return "cudaErrorLaunchOutOfResources";
        case cudaErrorLaunchFailure:
            return "cudaErrorLaunchFailure";
    }
    return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorLaunchFailure ? launch_failure.c_str() : cudaGetErrorName(error);
}

cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return remembered(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    *total = page * static_cast<size_t>(sysconf(_SC_PHYS_PAGES));
#ifdef _SC_AVPHYS_PAGES
    *free = page * static_cast<size_t>(sysconf(_SC_AVPHYS_PAGES));
#else
    *free = *total / 2;
#endif
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = 13000;
    return cudaSuccess;
}
