// Small kernels, right and wrong ones, for the tests of the emulation itself, and a C interface to launch them by name.
#include <cuda_runtime.h>

#include <cstring>
#include <map>
#include <new>
#include <string>

#include "cuda_sort.h"

namespace dgr::cuda {
extern __shared__ __align__(64) unsigned char block_memory[];
}

namespace {

constexpr unsigned kAll = 0xffffffffu;

template <class T> __device__ T* shared() { return reinterpret_cast<T*>(dgr::cuda::block_memory); }
__device__ int global_thread() { return int(blockIdx.x * blockDim.x + threadIdx.x); }

// ---- Right ones ----

__global__ void where_am_i(const int*, int* out) {
    __syncthreads();
    int* row = out + 4 * global_thread();
    row[0] = int(threadIdx.x), row[1] = int(blockIdx.x), row[2] = int(blockDim.x), row[3] = int(gridDim.x);
}

/// out[block] = sum of the block's inputs. Without its barriers it reads what others have yet to write.
template <bool kWaits> __global__ void block_sum(const int* in, int* out) {
    int* sums = shared<int>();
    sums[threadIdx.x] = in[global_thread()];
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (kWaits) __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out[blockIdx.x] = sums[0];
}

__global__ void warp_scan(const int* in, int* out) {
    const unsigned lane = threadIdx.x % 32;
    int sum = in[global_thread()];
    for (unsigned delta = 1; delta < 32; delta *= 2) {
        const int below = __shfl_up_sync(kAll, sum, delta);
        if (lane >= delta) sum += below;
    }
    out[global_thread()] = sum;
}

/// Rows of 8 numbers for each thread; in = (argument, width).
__global__ void shuffles(const int* in, int* out) {
    int* row = out + 8 * global_thread();
    const int value = 100 + int(threadIdx.x), argument = in[0], width = in[1];
    row[0] = __shfl_sync(kAll, value, argument, width);
    row[1] = __shfl_up_sync(kAll, value, unsigned(argument), width);
    row[2] = __shfl_down_sync(kAll, value, unsigned(argument), width);
    row[3] = __shfl_xor_sync(kAll, value, argument, width);
    row[4] = int(__shfl_xor_sync(kAll, 0.5f * float(value), 1) * 2);
    row[5] = int(__shfl_sync(kAll, unsigned(value), 31));
    __syncwarp();
    row[6] = row[7] = 0;
}

__global__ void votes(const int* in, int* out) {
    int* row = out + 8 * global_thread();
    const int vote = in[global_thread()];
    const unsigned ballot = __ballot_sync(kAll, vote);
    row[0] = int(ballot), row[1] = __any_sync(kAll, vote), row[2] = __all_sync(kAll, vote);
    row[3] = __popc(ballot), row[4] = __ffs(int(ballot)), row[5] = __clz(int(ballot));
    row[6] = __syncthreads_count(vote);
    row[7] = __syncthreads_and(vote) + 2 * __syncthreads_or(vote);
}

/// Each half of a warp on its own; the source of the second shuffle is in the other half.
__global__ void halves(const int*, int* out) {
    const bool low = threadIdx.x % 32 < 16;
    int sum = int(threadIdx.x), foreign;
    if (low) {
        for (int lanes = 1; lanes < 16; lanes *= 2) sum += __shfl_xor_sync(0x0000ffffu, sum, lanes);
        foreign = __shfl_sync(0x0000ffffu, sum, 20);
    } else {
        for (int lanes = 1; lanes < 16; lanes *= 2) sum += __shfl_xor_sync(0xffff0000u, sum, lanes);
        foreign = __shfl_sync(0xffff0000u, sum, 4);
    }
    out[2 * threadIdx.x] = sum, out[2 * threadIdx.x + 1] = foreign;
}

/// out = a histogram of in (0 to 7), then the largest, then the number of all, then sums as float and as double.
__global__ void atomics(const int* in, int* out) {
    const int value = in[global_thread()];
    atomicAdd(&out[value], 1);
    atomicMax(&out[8], value);
    atomicMax(reinterpret_cast<unsigned*>(&out[9]), unsigned(value));
    atomicAdd(reinterpret_cast<unsigned long long*>(&out[10]), 1ull << 31);
    atomicAdd(reinterpret_cast<float*>(&out[12]), 0.5f * float(value));
    atomicAdd(reinterpret_cast<double*>(&out[14]), 0.25 * value);
    atomicAdd(reinterpret_cast<unsigned*>(&out[16]), unsigned(value));
}

/// out[0] counts; the rest is the order in which threads came.
__global__ void order_of_arrival(const int*, int* out) {
    const int place = atomicAdd(&out[0], 1);
    out[1 + place] = global_thread();
}

__global__ void many_collectives(const int* in, int* out) {
    int value = in[threadIdx.x];
    for (int i = 0; i < 3000; ++i) value = __shfl_sync(kAll, value, int(threadIdx.x + 1) % 32);
    out[threadIdx.x] = value;
}

__global__ void stack_user(const int* in, int* out) {
    volatile int local[4096];  // 16 kB of each thread
    for (int i = 0; i < 4096; ++i) local[i] = in[threadIdx.x] + i;
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < 4096; ++i) sum += local[i] - i;
    out[threadIdx.x] = sum / 4096;
}

// ---- Wrong ones ----

__global__ void reads_before_it_writes(const int*, int* out) { out[global_thread()] = shared<int>()[threadIdx.x]; }
__global__ void writes_beyond(const int*, int*) { shared<int>()[threadIdx.x] = 1; }
__global__ void returns_before_the_barrier(const int*, int* out) {
    if (threadIdx.x == 5) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ void waits_elsewhere(const int*, int* out) {
    if (threadIdx.x < 32)
        __ballot_sync(kAll, 1);
    else if (threadIdx.x == 40)
        __shfl_sync(kAll, 1, 0);
    __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ void two_barriers(const int*, int* out) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ void different_collectives(const int*, int* out) {
    out[threadIdx.x] = threadIdx.x % 2 ? int(__ballot_sync(kAll, 1)) : __any_sync(kAll, 1);
}
__global__ void lanes_that_do_not_come(const int*, int* out) {
    if (threadIdx.x % 32 < 8) out[threadIdx.x] = int(__ballot_sync(0xffu | 1u << 20, 1));
}
__global__ void not_in_its_mask(const int*, int* out) { out[threadIdx.x] = int(__ballot_sync(0xfffffffeu, 1)); }
#ifndef __CUDACC__  // nvcc compiles this file, too, for tests/ptx_emulation
__global__ void throws(const int*, int*) {
    __syncthreads();
    if (threadIdx.x == 3) throw std::bad_alloc();
    __syncthreads();
}
#endif

using Kernel = void (*)(const int*, int*);
const std::map<std::string, Kernel> kKernels = {
    {"where_am_i", where_am_i},
    {"block_sum", block_sum<true>},
    {"block_sum_without_barriers", block_sum<false>},
    {"warp_scan", warp_scan},
    {"shuffles", shuffles},
    {"votes", votes},
    {"halves", halves},
    {"atomics", atomics},
    {"order_of_arrival", order_of_arrival},
    {"many_collectives", many_collectives},
    {"stack_user", stack_user},
    {"reads_before_it_writes", reads_before_it_writes},
    {"writes_beyond", writes_beyond},
    {"returns_before_the_barrier", returns_before_the_barrier},
    {"waits_elsewhere", waits_elsewhere},
    {"two_barriers", two_barriers},
    {"different_collectives", different_collectives},
    {"lanes_that_do_not_come", lanes_that_do_not_come},
    {"not_in_its_mask", not_in_its_mask},
#ifndef __CUDACC__
    {"throws", throws},
#endif
};

/// For CUB; the emulation's own sort needs none. It is never freed.
struct Scratch : dgr::cuda::Memory {
    void* allocate([[maybe_unused]] int64_t bytes) override {
#ifdef __CUDACC__
        void* memory = nullptr;
        cudaMalloc(&memory, static_cast<size_t>(bytes));
        return memory;
#else
        throw std::bad_alloc();
#endif
    }
};

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

/// Empty, or the error's name and text; valid until the thread's next call.
EXPORTED const char* launch(const char* name, int blocks, int threads, size_t shared_bytes, const int* in, int* out) {
    static thread_local std::string message;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(blocks));
    config.blockDim = dim3(unsigned(threads));
    config.dynamicSmemBytes = shared_bytes;
    const cudaError_t error = cudaLaunchKernelEx(&config, kKernels.at(name), in, out);
    cudaGetLastError();  // forgets it, or CUB reports it at its next call
    message = error == cudaSuccess ? "" : std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
    return message.c_str();
}

EXPORTED void sort_pairs(uint32_t* keys, uint32_t* values, uint32_t* other_keys, uint32_t* other_values, int64_t count,
                         int bits) {
    Scratch memory;
    dgr::cuda::Pairs pairs{keys, values, other_keys, other_values};
    dgr::cuda::sort_pairs({0, nullptr, memory}, pairs, count, bits);
    std::memmove(keys, pairs.keys, size_t(count) * sizeof *keys);
    std::memmove(values, pairs.values, size_t(count) * sizeof *values);
}

EXPORTED void exclusive_sum(const int32_t* counts, int64_t* sums, int64_t count) {
    Scratch memory;
    dgr::cuda::exclusive_sum({0, nullptr, memory}, counts, sums, count);
}
