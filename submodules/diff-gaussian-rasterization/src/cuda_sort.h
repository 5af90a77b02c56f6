// Sort and prefix sum, implemented with CUB. tests/cuda_emulation has its own implementation.
#pragma once

#include "cuda_engine.h"

namespace dgr::cuda {

/// Keys and values, and buffers of the same size. After a sort, keys and values point to the sorted arrays.
struct Pairs { uint32_t *keys, *values, *other_keys, *other_values; };

/// Stable sort by the lowest `bits` bits of the keys.
void sort_pairs(const Context& context, Pairs& pairs, int64_t count, int bits);

/// sums[i] = counts[0] + ... + counts[i - 1], for i = 0 to count.
void exclusive_sum(const Context& context, const int32_t* counts, int64_t* sums, int64_t count);

}  // namespace dgr::cuda
