// The two primitives that come from CUB. tests/cuda_emulation has its own implementation.
#pragma once

#include "cuda_engine.h"

namespace dgr::cuda {

/// Pairs and room for as many more; after a sort, keys and values are the sorted ones.
struct Pairs { uint32_t *keys, *values, *other_keys, *other_values; };

/// Sorts pairs by the lowest `bits` bits of their keys; equal keys keep their order.
void sort_pairs(const Context& context, Pairs& pairs, int64_t count, int bits);

/// sums[i] = counts[0] + ... + counts[i - 1], for i = 0 to count.
void exclusive_sum(const Context& context, const int32_t* counts, int64_t* sums, int64_t count);

}  // namespace dgr::cuda
