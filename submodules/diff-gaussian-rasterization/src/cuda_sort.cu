// cuda_sort.h with CUB, for CUDA 12.0 to 13.
#include <thrust/iterator/transform_iterator.h>

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <limits>
#include <string>

#include "cuda_platform.h"
#include "cuda_sort.h"

namespace dgr::cuda {
namespace {

/// CUB adds in the type of its input, and the sums may exceed 32 bits.
struct Widen {
    __host__ __device__ int64_t operator()(int32_t count) const { return count; }
};

/// Calls primitive(storage, bytes) twice: for the size of CUB's temporary storage, and to run.
template <class Primitive>
void run(const Context& context, const char* name, Primitive primitive) {
    size_t bytes = 0;
    check(primitive(nullptr, bytes), name);
    void* storage = context.scratch.allocate(static_cast<int64_t>(bytes > 0 ? bytes : 1));
    check(primitive(storage, bytes), name);
    if (is_synchronous()) check(cudaStreamSynchronize(context.stream), name);
}

}  // namespace

void sort_pairs(const Context& context, Pairs& pairs, int64_t count, int bits) {
    if (count == 0 || bits == 0) return;
    cub::DoubleBuffer<uint32_t> keys(pairs.keys, pairs.other_keys);
    cub::DoubleBuffer<uint32_t> values(pairs.values, pairs.other_values);
    run(context, "sort_pairs", [&](void* storage, size_t& bytes) {
        return cub::DeviceRadixSort::SortPairs(storage, bytes, keys, values, count, 0, bits, context.stream);
    });
    pairs = {keys.Current(), values.Current(), keys.Alternate(), values.Alternate()};
}

void exclusive_sum(const Context& context, const int32_t* counts, int64_t* sums, int64_t count) {
    // CUB's scan takes an int in the first versions of CUDA 12.
    if (count > std::numeric_limits<int>::max())
        throw Error("exclusive_sum: expected fewer than 2^31 counts, got " + std::to_string(count));
    check(cudaMemsetAsync(sums, 0, sizeof(int64_t), context.stream), "exclusive_sum");
    if (count == 0) return;
    run(context, "exclusive_sum", [&](void* storage, size_t& bytes) {
        return cub::DeviceScan::InclusiveSum(storage, bytes, thrust::make_transform_iterator(counts, Widen()), sums + 1,
                                             static_cast<int>(count), context.stream);
    });
}

}  // namespace dgr::cuda
