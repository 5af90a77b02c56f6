// cuda_sort.h without CUB.
#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "cuda_sort.h"

namespace dgr::cuda {

void sort_pairs(const Context& context, Pairs& pairs, int64_t count, int bits) {
    const uint32_t mask = bits >= 32 ? ~0u : (1u << bits) - 1;
    const auto work = [mask, count, pairs = pairs] {
        std::vector<int64_t> order(static_cast<size_t>(count));
        std::iota(order.begin(), order.end(), int64_t{0});
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t a, int64_t b) { return (pairs.keys[a] & mask) < (pairs.keys[b] & mask); });
        for (int64_t i = 0; i < count; ++i) {
            pairs.other_keys[i] = pairs.keys[order[static_cast<size_t>(i)]];
            pairs.other_values[i] = pairs.values[order[static_cast<size_t>(i)]];
        }
        // CUB leaves the result in either place: what reads the wrong one must show.
        std::fill_n(pairs.keys, count, ~0u);
        std::fill_n(pairs.values, count, ~0u);
        return cudaSuccess;
    };
    cuda_emulation::enqueue(context.stream, work);
    std::swap(pairs.keys, pairs.other_keys);
    std::swap(pairs.values, pairs.other_values);
}

void exclusive_sum(const Context& context, const int32_t* counts, int64_t* sums, int64_t count) {
    const auto work = [=] {
        sums[0] = 0;
        for (int64_t i = 0; i < count; ++i) sums[i + 1] = sums[i] + counts[i];
        return cudaSuccess;
    };
    cuda_emulation::enqueue(context.stream, work);
}

}  // namespace dgr::cuda
