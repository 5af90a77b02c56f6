// The runtime's functions of cuda_runtime.h: one device, whose memory is this machine's.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "error_names.h"

using cuda_emulation::enqueue, cuda_emulation::poison, cuda_emulation::Work;

struct CUstream_st { std::deque<Work> work; };

namespace {
thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string launch_failure = "unspecified launch failure";

cudaError_t remembered(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}
cudaError_t failed(cudaError_t error, std::string message) {
    launch_failure = std::move(message);
    return error;
}

/// The streams and the memory of a process that creates streams.
struct Device {
    // Bytes behind each array that must stay poison. AddressSanitizer watches reads, too, and what is freed.
#ifdef __SANITIZE_ADDRESS__
    static constexpr size_t kGuard = 0;
#else
    static constexpr size_t kGuard = 256;
#endif
    std::mutex mutex;
    bool has_queues = false;
    CUstream_st default_stream;
    std::map<void*, size_t> sizes;
    std::vector<void*> freed;

    CUstream_st& of(cudaStream_t stream) { return stream ? *stream : default_stream; }
};
Device& device() {
    static Device the_device;
    return the_device;
}

/// Poisons an array, after a look at the bytes behind it. It is given back with its stream: nobody gets its address again.
cudaError_t poison_freed(void* memory) {
    const auto found = device().sizes.find(memory);
    if (found == device().sizes.end()) return failed(cudaErrorInvalidValue, "freed what is not allocated");
    const size_t bytes = found->second;
    auto* const begin = static_cast<unsigned char*>(memory);
    for (size_t i = bytes; i < bytes + Device::kGuard; ++i)
        if (begin[i] != poison())
            return failed(cudaErrorIllegalAddress, "wrote beside an array of " + std::to_string(bytes) + " bytes");
    std::memset(begin, poison(), bytes);
    device().sizes.erase(found);
    if (Device::kGuard == 0)
        std::free(memory);
    else
        device().freed.push_back(memory);
    return cudaSuccess;
}
}  // namespace

cudaError_t cuda_emulation::enqueue(cudaStream_t stream, Work work) {
    if (!device().has_queues) return remembered(work());
    const std::lock_guard lock(device().mutex);
    device().of(stream).work.push_back(std::move(work));
    return cudaSuccess;
}

cudaError_t cuda_emulation::launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread) {
    static const bool is_traced = std::getenv("CUDA_EMULATION_TRACE") != nullptr;
    if (is_traced) {  // where the kernel lies in its file, for nm
        Dl_info file{};
        if (dladdr(kernel, &file))
            std::fprintf(stderr, "kernel %tx\n", static_cast<const char*>(kernel) - static_cast<char*>(file.dli_fbase));
    }
    const dim3 grid = config.gridDim, block = config.blockDim;
    if (grid.x < 1 || grid.x > 0x7fffffffu || grid.y != 1 || grid.z != 1 || block.x < 1 || block.x > kMaxThreads ||
        block.y != 1 || block.z != 1)
        return remembered(cudaErrorInvalidConfiguration);
    const size_t shared_bytes = config.dynamicSmemBytes;
    if (shared_bytes > kMaxShared) return remembered(cudaErrorInvalidValue);
    return enqueue(config.stream, [=, thread = std::move(thread)] {
        std::string failure = run_grid(grid.x, block.x, shared_bytes, thread);
        return failure.empty() ? cudaSuccess : failed(cudaErrorLaunchFailure, std::move(failure));
    });
}

// To the device, the source may change after the call; from the device, the target is not written before its turn.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (bytes == 0) return cudaSuccess;
    std::vector<unsigned char> taken;
    if (kind == cudaMemcpyHostToDevice)
        taken.assign(static_cast<const unsigned char*>(from), static_cast<const unsigned char*>(from) + bytes);
    return enqueue(stream, [=, taken = std::move(taken)] {
        std::memmove(to, taken.empty() ? from : taken.data(), bytes);
        return cudaSuccess;
    });
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
    return enqueue(stream, [=] {
        if (bytes > 0) std::memset(to, value, bytes);
        return cudaSuccess;
    });
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    std::deque<Work> work;
    {
        const std::lock_guard lock(device().mutex);
        work = std::exchange(device().of(stream).work, {});
    }
    cudaError_t error = cudaSuccess;
    for (const auto& each : work)
        if (error == cudaSuccess) error = each();
    return remembered(error);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    device().has_queues = true;
    *stream = new CUstream_st;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    for (void* memory : std::exchange(device().freed, {})) std::free(memory);
    return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t) {
    constexpr size_t kAlignment = 256;
    if (posix_memalign(memory, kAlignment, bytes + Device::kGuard) != 0) return remembered(cudaErrorMemoryAllocation);
    std::memset(*memory, poison(), bytes + Device::kGuard);
    const std::lock_guard lock(device().mutex);
    device().sizes[*memory] = bytes;
    return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
    return enqueue(stream, [=] { return poison_freed(memory); });
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
    *pool = nullptr;
    return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    *properties = {"emulation on the CPU", 0, 0};
    return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

const char* cudaGetErrorName(cudaError_t error) { return name_of(error); }
const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorLaunchFailure || error == cudaErrorIllegalAddress ? launch_failure.c_str() : cudaGetErrorName(error);
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
