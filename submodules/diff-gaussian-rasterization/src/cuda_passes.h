// What the CUDA engine's passes share: projection, the order of blending, and the segments of a tile.
#pragma once

#include "cuda_platform.h"
#include "cuda_sort.h"
#include "projection.h"
#include "tiles.h"

namespace dgr::cuda {

/// Instances of a tile that one warp takes in backward. Forward keeps the state of the pixels in front of each segment
/// but the first: 32 instances, a lane each, would need the least work to start and four times the memory.
constexpr int kSegment = 128;
constexpr int kTilePixels = Limits::tile * Limits::tile;

/// Depth as a number that sorts like it; culled Gaussians come last.
constexpr uint32_t kCulledKey = 0xffffffffu;

/// Projects every Gaussian: splats, radius_px, and what orders them, all (N).
struct ProjectionOutput {
    Splat<float>* splats;
    int32_t* radius_px;
    uint32_t *depth_keys, *indices;  // kCulledKey where not visible; 0 .. N - 1
    int32_t* num_tiles;              // that the Gaussian touches
};
void project(const Context& context, const Gaussians<float>& gaussians, const View<float>& view, const Options& options,
             const ProjectionOutput& out);

/// Fills num_instances, tile_begin and instances of a frame, and the segments where it is differentiable. The one place
/// where the host waits for the device: it has to know how many instances there are.
void order_instances(const Context& context, Memory& kept, const ProjectionOutput& projected, Frame& frame);

/// Positions in frame.instances, Gaussian by Gaussian, in order: the slots that a sum over a Gaussian's instances
/// reads.
struct SlotOrder {
    const uint32_t* slots;  // (I)
    const int64_t* begin;   // (N + 1)
};
/// Throws Error for 2^32 instances or more.
SlotOrder order_slots(const Context& context, const Frame& frame);

/// Backward of project. `gradients` is (N), or, with an order, (I) in the order of frame.instances.
void project_backward(const Context& context, const Frame& frame, const Gaussians<float>& gaussians,
                      const SplatGradient<float>* gradients, const SlotOrder* order, const Gradients<float>& out);

}  // namespace dgr::cuda
