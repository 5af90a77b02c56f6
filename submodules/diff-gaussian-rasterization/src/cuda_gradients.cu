// The sums of gradients on CUDA: whether the view is usable is decided and read on the device.
#include <algorithm>

#include "cuda_platform.h"

namespace dgr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 512;  // of a gradient
constexpr int kMaxGradients = 32;    // of a launch: kernel parameters are limited to 4 kB

struct Gradient {
    GradientSum of;
    int64_t first_block, num_blocks;
};
struct GradientParams {
    Gradient gradients[kMaxGradients];
    int num_gradients;
    float* squares;  // (blocks)
    const bool* usable;
};

/// The gradient of the block.
__device__ const Gradient& gradient_of_block(const GradientParams& p) {
    int index = 0;
    while (index + 1 < p.num_gradients && blockIdx.x >= p.gradients[index + 1].first_block) ++index;
    return p.gradients[index];
}

/// The sum over the block in a fixed order, for thread 0. shared: (kThreads).
__device__ float block_sum(float value, float* shared) {
    shared[threadIdx.x] = value;
    for (int half = kThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    return threadIdx.x == 0 ? shared[0] : 0;  // the others have no barrier between the last sum and here
}

__global__ void __launch_bounds__(kThreads) squares_kernel(GradientParams p) {
    const Gradient& g = gradient_of_block(p);
    float squares = 0;
    for (int64_t i = (blockIdx.x - g.first_block) * kThreads + threadIdx.x; i < g.of.size; i += g.num_blocks * kThreads)
        squares += g.of.gradient[i] * g.of.gradient[i];
    squares = block_sum(squares, &block_shared<float>());
    if (threadIdx.x == 0) p.squares[blockIdx.x] = squares;
}

/// Runs as one block.
__global__ void __launch_bounds__(kThreads)
    usable_kernel(const float* squares, int64_t count, const float* loss, float largest, bool* usable) {
    float sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += squares[i];
    sum = block_sum(sum, &block_shared<float>());
    if (threadIdx.x == 0) *usable = sum + abs(*loss) < largest;
}

__global__ void __launch_bounds__(kThreads) add_kernel(GradientParams p) {
    const Gradient& g = gradient_of_block(p);
    const bool usable = *p.usable;
    if (usable != (g.of.sum != nullptr)) return;
    for (int64_t i = (blockIdx.x - g.first_block) * kThreads + threadIdx.x; i < g.of.size; i += g.num_blocks * kThreads) {
        if (usable) g.of.sum[i] += g.of.gradient[i];
        else g.of.gradient[i] = 0;
    }
}

/// Calls run(params, blocks) for groups of those gradients that are wanted.
template <class Wanted, class Run>
void for_each_group(const GradientSum* gradients, int num_gradients, const Wanted& wanted, const Run& run) {
    for (int next = 0; next < num_gradients;) {
        GradientParams params{};
        int64_t blocks = 0;
        for (; next < num_gradients && params.num_gradients < kMaxGradients; ++next) {
            if (gradients[next].size == 0 || !wanted(gradients[next])) continue;
            const int64_t num_blocks = std::min(kMaxBlocks, one_thread_each(gradients[next].size, kThreads).blocks);
            params.gradients[params.num_gradients++] = {gradients[next], blocks, num_blocks};
            blocks += num_blocks;
        }
        run(params, blocks);
    }
}

}  // namespace

void add_gradients(const Context& context, const GradientSum* gradients, int num_gradients, const float* loss,
                   float largest, bool* usable) {
    const DeviceGuard guard(context.device);
    float* squares = context.scratch.array<float>(num_gradients * kMaxBlocks);
    const int64_t shared_bytes = kThreads * sizeof(float);
    int64_t num_squares = 0;
    for_each_group(gradients, num_gradients, [](const GradientSum& g) { return g.is_checked; },
                   [&](GradientParams params, int64_t blocks) {
                       params.squares = squares + num_squares;
                       num_squares += blocks;
                       launch("squares", context, {blocks, kThreads, shared_bytes}, squares_kernel, params);
                   });
    launch("usable", context, {1, kThreads, shared_bytes}, usable_kernel, squares, num_squares, loss, largest, usable);
    for_each_group(gradients, num_gradients, [](const GradientSum&) { return true; },
                   [&](GradientParams params, int64_t blocks) {
                       params.usable = usable;
                       launch("add", context, {blocks, kThreads}, add_kernel, params);
                   });
}

}  // namespace dgr::cuda
