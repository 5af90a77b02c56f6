// The sums of gradients on the CPU.
#include <algorithm>
#include <cmath>
#include <vector>

#include "engine.h"
#include "simd.h"
#include "team.h"

namespace dgr {
namespace {

constexpr int64_t kChunk = 1 << 14;  // elements

/// Elements [begin, end) of a gradient.
struct Chunk {
    GradientSum of;
    int64_t begin, end;
};

template <class Wanted>
std::vector<Chunk> chunks_of(const GradientSum* gradients, int num_gradients, const Wanted& wanted) {
    std::vector<Chunk> chunks;
    for (const GradientSum* g = gradients; g != gradients + num_gradients; ++g)
        for (int64_t begin = 0; wanted(*g) && begin < g->size; begin += kChunk)
            chunks.push_back({*g, begin, std::min(begin + kChunk, g->size)});
    return chunks;
}

float sum_of_squares(const float* begin, const float* end) {
    using B = Batch<float>;
    B squares(0);
    for (; end - begin >= kLanes<float>; begin += kLanes<float>) squares += B::load(begin) * B::load(begin);
    float rest = 0;
    for (; begin != end; ++begin) rest += *begin * *begin;
    return sum(squares) + rest;
}

void add(const Chunk& chunk) {
    const float* __restrict gradient = chunk.of.gradient;
    float* __restrict sum = chunk.of.sum;
    for (int64_t i = chunk.begin; i < chunk.end; ++i) sum[i] += gradient[i];
}

}  // namespace

void add_gradients(const GradientSum* gradients, int num_gradients, const float* loss, float largest, bool* usable,
                   int num_threads) {
    const auto checked = chunks_of(gradients, num_gradients, [](const GradientSum& g) { return g.is_checked; });
    const auto added = chunks_of(gradients, num_gradients, [](const GradientSum& g) { return g.sum != nullptr; });
    Team team(static_cast<int>(std::clamp<int64_t>(std::max(checked.size(), added.size()), 1, num_threads)));
    std::vector<float> squares(checked.size());
    team.for_each(checked.size(), [&](int64_t i) {
        squares[i] = sum_of_squares(checked[i].of.gradient + checked[i].begin, checked[i].of.gradient + checked[i].end);
    });
    float total = std::fabs(*loss);
    for (const float each : squares) total += each;  // in order, so that it does not depend on the threads
    *usable = total < largest;
    if (*usable) return team.for_each(added.size(), [&](int64_t i) { add(added[i]); });
    for (const GradientSum* g = gradients; g != gradients + num_gradients; ++g)
        if (!g->sum) std::fill_n(g->gradient, g->size, 0.0f);
}

}  // namespace dgr
