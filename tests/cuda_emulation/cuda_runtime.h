// Stands in for CUDA's header of the same name where .cu files are compiled as C++: the built-ins and the part of the
// runtime that the engine uses, on the CPU. Device memory is ordinary memory. A launch returns when the kernel is done;
// in a process that has created a stream, work waits in its stream's queue until the stream is synchronized.
#pragma once

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "fibres.h"

// ---- The language ----
#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern uint3 threadIdx, blockIdx;  // of the fibre that runs
extern dim3 blockDim, gridDim;
constexpr int warpSize = cuda_emulation::kLanes;

// ---- Barriers and collectives; the last argument is the caller's line, for messages ----
inline void __syncthreads(cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    cuda_emulation::wait_for_block(cuda_emulation::Barrier::plain, 0, at);
}
inline int __syncthreads_and(int predicate, cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    return cuda_emulation::wait_for_block(cuda_emulation::Barrier::all, predicate, at);
}
inline int __syncthreads_or(int predicate, cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    return cuda_emulation::wait_for_block(cuda_emulation::Barrier::any, predicate, at);
}
inline int __syncthreads_count(int predicate, cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    return cuda_emulation::wait_for_block(cuda_emulation::Barrier::count, predicate, at);
}

namespace cuda_emulation {
template <class T>
concept Word = std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, float>;
template <Word T> T exchange(Collective kind, unsigned mask, T value, int argument, int width, const CallSite& at) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits = meet(kind, mask, bits, argument, width, at);
    std::memcpy(&value, &bits, sizeof bits);
    return value;
}
}  // namespace cuda_emulation

inline void __syncwarp(unsigned mask = 0xffffffffu, cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    cuda_emulation::meet(cuda_emulation::Collective::syncwarp, mask, 0, 0, warpSize, at);
}
template <cuda_emulation::Word T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize,
              cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    return cuda_emulation::exchange(cuda_emulation::Collective::shfl, mask, value, lane, width, at);
}
template <cuda_emulation::Word T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    return cuda_emulation::exchange(cuda_emulation::Collective::shfl_up, mask, value, int(delta), width, at);
}
template <cuda_emulation::Word T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    return cuda_emulation::exchange(cuda_emulation::Collective::shfl_down, mask, value, int(delta), width, at);
}
template <cuda_emulation::Word T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize,
                  cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    return cuda_emulation::exchange(cuda_emulation::Collective::shfl_xor, mask, value, lanes, width, at);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    return cuda_emulation::meet(cuda_emulation::Collective::ballot, mask, predicate != 0, 0, warpSize, at);
}
inline int __any_sync(unsigned mask, int predicate, cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    return int(cuda_emulation::meet(cuda_emulation::Collective::any, mask, predicate != 0, 0, warpSize, at));
}
inline int __all_sync(unsigned mask, int predicate, cuda_emulation::CallSite at = cuda_emulation::CallSite::current()) {
    return int(cuda_emulation::meet(cuda_emulation::Collective::all, mask, predicate != 0, 0, warpSize, at));
}

// ---- Atomics: relaxed, so that ThreadSanitizer takes no order from them ----
namespace cuda_emulation {
template <class T> T fetch_add(T* address, T value) {
    return std::atomic_ref(*address).fetch_add(value, std::memory_order_relaxed);
}
template <class T> T fetch_max(T* address, T value) {
    std::atomic_ref at(*address);
    T before = at.load(std::memory_order_relaxed);
    while (!at.compare_exchange_weak(before, value > before ? value : before, std::memory_order_relaxed)) {}
    return before;
}
}  // namespace cuda_emulation
inline int atomicAdd(int* address, int value) { return cuda_emulation::fetch_add(address, value); }  // wraps around
inline unsigned atomicAdd(unsigned* address, unsigned value) { return cuda_emulation::fetch_add(address, value); }
inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
    return cuda_emulation::fetch_add(address, value);
}
inline float atomicAdd(float* address, float value) { return cuda_emulation::fetch_add(address, value); }
inline double atomicAdd(double* address, double value) { return cuda_emulation::fetch_add(address, value); }
inline int atomicMax(int* address, int value) { return cuda_emulation::fetch_max(address, value); }
inline unsigned atomicMax(unsigned* address, unsigned value) { return cuda_emulation::fetch_max(address, value); }

// ---- Bits and numbers ----
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(unsigned(bits)); }
template <class T> T __ldg(const T* address) { return *address; }
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
namespace cuda_emulation {
/// What an instruction that is wrong by up to `ulps` units in the last place may give instead of a positive number:
/// the most or the least, depending on its bits.
inline float approximate(float exact, int ulps) {
    if (!(exact > 1e-30f && exact < 1e30f)) return exact;
    const unsigned bits = __float_as_uint(exact);
    return __uint_as_float((bits * 2654435769u) >> 31 ? bits + unsigned(ulps) : bits - unsigned(ulps));
}
}  // namespace cuda_emulation

// ---- The runtime ----
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorInvalidPtx = 218,
    cudaErrorUnsupportedPtxVersion = 222,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchOutOfResources = 701,
    cudaErrorLaunchFailure = 719,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
using cudaStream_t = struct CUstream_st*;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
};

struct cudaDeviceProp {
    char name[256];
    int major, minor;
};
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };
using cudaMemPool_t = struct CUmemPoolHandle_st*;
constexpr unsigned cudaStreamNonBlocking = 1;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
/// Throws away what still waits in its queue, and gives back all memory that was freed.
cudaError_t cudaStreamDestroy(cudaStream_t stream);
/// Memory is poison until it is written, and again once its free has had its turn in the stream.
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream = {});
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream = {});
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
/// The error of the last call that had one, which it forgets.
cudaError_t cudaGetLastError();
const char* cudaGetErrorName(cudaError_t error);
/// For cudaErrorLaunchFailure, what the last failed kernel of this thread did wrong.
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);

namespace cuda_emulation {
using Work = std::function<cudaError_t()>;
/// Does the work at once, or puts it into the stream's queue.
cudaError_t enqueue(cudaStream_t stream, Work work);
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread);
}

/// Arguments are converted to the kernel's parameters, as by CUDA's own template, and every thread gets a copy.
template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
    static_assert(((std::is_trivially_copyable_v<Params> && !std::is_reference_v<Params>) && ...),
                  "a kernel's parameters are copied as bytes");
    static_assert((sizeof(Params) + ... + 0) <= 4096, "a kernel takes at most 4 kB of parameters");
    const auto convert = [](Params... values) { return std::tuple<Params...>(values...); };
    const auto parameters = convert(std::forward<Args>(args)...);
    const auto* address = reinterpret_cast<const void*>(kernel);
    return cuda_emulation::launch(*config, address, [=] { std::apply(kernel, parameters); });
}
