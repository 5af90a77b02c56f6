// Adam on the CPU: one pass over the memory of all tensors, because memory bandwidth limits the speed.
#include <algorithm>
#include <vector>

#include "engine.h"
#include "team.h"

namespace dgr {
namespace {

constexpr int64_t kChunk = 1 << 14;  // elements: four arrays of this size fit into the L2 cache

/// Rows [begin, end) of a tensor.
struct Chunk {
    int tensor;
    int64_t begin, end;
};

std::vector<Chunk> chunks_of(const AdamStep* tensors, int num_tensors) {
    std::vector<Chunk> chunks;
    for (int i = 0; i < num_tensors; ++i) {
        const int64_t rows = std::max<int64_t>(1, kChunk / std::max(1, tensors[i].width));
        for (int64_t begin = 0; begin < tensors[i].count; begin += rows)
            chunks.push_back({i, begin, std::min(begin + rows, tensors[i].count)});
    }
    return chunks;
}

void update(const AdamStep& t, const AdamFactors<float>& factors, int64_t begin, int64_t end) {
    float* __restrict values = t.values, * __restrict exp_avg = t.exp_avg, * __restrict exp_avg_sq = t.exp_avg_sq;
    const float* __restrict gradient = t.gradient;
    for (int64_t i = begin * t.width; i < end * t.width; ++i) {
        const AdamState<float> now = adam_update({values[i], exp_avg[i], exp_avg_sq[i]}, gradient[i], factors);
        values[i] = now.value;
        exp_avg[i] = now.exp_avg;
        exp_avg_sq[i] = now.exp_avg_sq;
    }
}

}  // namespace

void adam(const AdamStep* tensors, int num_tensors, const int32_t* radius_px, int num_threads) {
    std::vector<AdamFactors<float>> factors;
    for (const AdamStep* t = tensors; t != tensors + num_tensors; ++t)
        factors.push_back(adam_factors<float>(t->rate, t->beta1, t->beta2, t->epsilon, static_cast<double>(t->step)));
    const std::vector<Chunk> chunks = chunks_of(tensors, num_tensors);
    Team team(std::min<int64_t>(num_threads, chunks.size()));
    team.for_each(chunks.size(), [&](int64_t i) {
        const Chunk& chunk = chunks[i];
        const auto apply = [&](int64_t from, int64_t to) {
            update(tensors[chunk.tensor], factors[chunk.tensor], from, to);
        };
        if (!radius_px) return apply(chunk.begin, chunk.end);
        // Updates runs of visible rows together, because a row may be shorter than a SIMD vector.
        for (int64_t from = chunk.begin; from < chunk.end;) {
            while (from < chunk.end && radius_px[from] == 0) ++from;
            int64_t to = from;
            while (to < chunk.end && radius_px[to] != 0) ++to;
            apply(from, to);
            from = to;
        }
    });
}

}  // namespace dgr
