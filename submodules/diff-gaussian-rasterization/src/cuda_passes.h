// The interface between the CUDA engine's passes: projection, the order of blending, and the segments of a tile.
#pragma once

#include "cuda_platform.h"
#include "cuda_sort.h"
#include "projection.h"
#include "tiles.h"

namespace dgr::cuda {

/// Instances of a segment, which is the work of one warp in backward. Forward stores the state of the pixels before
/// each segment but the first; segments of 32 instances would need four times the memory.
constexpr int kSegment = 128;
/// Warps of a block in backward. Their segments are of the same tile, so that they share what is constant for a pixel.
constexpr int kSegmentWarps = 4;
constexpr int kBlockInstances = kSegment * kSegmentWarps;
constexpr int kTilePixels = Limits::tile * Limits::tile;

/// The first of a tile's blocks in backward. The next tile's is at least as many higher as the tile needs, because
/// floor(a + b) >= floor(a) + floor(b).
DGR_FN int64_t first_block(int64_t tile_begin, int64_t tile) { return tile_begin / kBlockInstances + tile; }

/// The depth key of culled Gaussians, which sorts last.
constexpr uint32_t kCulledKey = 0xffffffffu;

/// The outputs of projection, all (N).
struct ProjectionOutput {
    Splat<float>* splats;
    int32_t* radius_px;
    uint32_t *depth_keys, *indices;  // bits of the depth, or kCulledKey; 0 to N - 1
    int32_t* num_tiles;              // that the splat touches
};
void project(const Context& context, const Gaussians<float>& gaussians, const View<float>& view, const Options& options,
             const ProjectionOutput& out);

/// Fills num_instances, tile_begin and instances of a frame, and the segments if it is differentiable. Waits for the
/// device to read the number of instances.
void order_instances(const Context& context, Memory& kept, const ProjectionOutput& projected, Frame& frame);

/// Indices into frame.instances, sorted by Gaussian, so that a Gaussian's instances can be summed in a fixed order.
struct SlotOrder {
    const uint32_t* slots;  // (I)
    const int64_t* begin;   // (N + 1)
};
/// Needs a frame of deterministic options. Throws Error for 2^32 or more instances.
SlotOrder order_slots(const Context& context, const Frame& frame);

/// The value that the lane `lane ^ lanes` has. T consists of 4-byte numbers.
template <class T> __device__ __forceinline__ T from_lane(const T& value, int lanes) {
    unsigned words[sizeof(T) / 4];
    memcpy(words, &value, sizeof(T));
#pragma unroll
    for (unsigned& word : words) word = __shfl_xor_sync(kAllLanes, word, lanes);
    T other;
    memcpy(&other, words, sizeof(T));
    return other;
}

/// The sum of the slots of Gaussian n, in an order that depends only on their number: by a warp if they are many. n is
/// that of the lane; all lanes of a warp have to call it.
template <class Slot> __device__ Slot sum_slots(const Slot* slots, const SlotOrder& order, int64_t n, bool exists) {
    constexpr int kLarge = 64;
    const int lane = threadIdx.x % kWarp;
    const int64_t begin = exists ? order.begin[n] : 0, end = exists ? order.begin[n + 1] : 0;
    const bool is_large = end - begin > kLarge;
    Slot sum{};
    if (!is_large)
        for (int64_t i = begin; i < end; ++i) sum.add(slots[order.slots[i]]);
    for (unsigned large = __ballot_sync(kAllLanes, is_large); large != 0; large &= large - 1) {
        const int owner = __ffs(static_cast<int>(large)) - 1;
        const int64_t* range = order.begin + (n - lane + owner);
        Slot of_warp{};
        for (int64_t i = range[0] + lane; i < range[1]; i += kWarp) of_warp.add(slots[order.slots[i]]);
        for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) of_warp.add(from_lane(of_warp, lanes));
        if (lane == owner) sum = of_warp;
    }
    return sum;
}

/// Gradients of the inputs from the gradients of the splats: (N), or if `order` is given, (I) as frame.instances.
void project_backward(const Context& context, const Frame& frame, const Gaussians<float>& gaussians,
                      const SplatGradient<float>* gradients, const SlotOrder* order, const Gradients<float>& out);

}  // namespace dgr::cuda
