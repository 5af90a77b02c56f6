// The order of blending on the GPU: sorts the Gaussians by depth, writes their instances in that order, then sorts the
// instances by tile (stable).
#include "cuda_passes.h"

namespace dgr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLarge = 64;  // a warp writes more entries of one Gaussian or gap together

__device__ int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

__global__ void gather_counts_kernel(const int32_t* counts, const uint32_t* order, int32_t* out, int64_t count) {
    const int64_t i = thread_index();
    if (i < count) out[i] = counts[order[i]];
}

struct EmitParams {
    View<float> view;
    const Splat<float>* splats;
    const uint32_t* order;  // (N) Gaussians sorted by depth
    const int64_t* begin;   // (N + 1) first instance of each
    int64_t num_gaussians;
    uint32_t *tiles, *gaussians;  // (I)
};

/// Writes the remaining instances of a Gaussian with a tile index beyond the last tile. The number of tiles may be less
/// than counted if the compiler rounded differently there.
__device__ void fill_rest(const EmitParams& p, uint32_t gaussian, int64_t begin, int64_t end, int step) {
    for (int64_t at = begin; at < end; at += step) {
        p.tiles[at] = static_cast<uint32_t>(p.view.num_tiles());
        p.gaussians[at] = gaussian;
    }
}

/// Writes instances [begin, end) of one Gaussian.
__device__ void emit(const EmitParams& p, uint32_t gaussian, int64_t begin, int64_t end) {
    const Splat<float> splat = p.splats[gaussian];
    const TileBox box = tile_box(p.view, splat);
    int64_t at = begin;
    for (int y = box.y_begin; y < box.y_end; ++y) {
        const TileSpan span = tile_span(p.view, splat, box, y);
        for (int x = span.begin; x < span.end && at < end; ++x, ++at) {
            p.tiles[at] = static_cast<uint32_t>(y * p.view.tiles_x() + x);
            p.gaussians[at] = gaussian;
        }
    }
    fill_rest(p, gaussian, at, end, 1);
}

/// emit by a warp: each lane handles one row of tiles.
__device__ void emit_by_warp(const EmitParams& p, uint32_t gaussian, int64_t begin, int64_t end) {
    const int lane = threadIdx.x % kWarp;
    const Splat<float> splat = p.splats[gaussian];
    const TileBox box = tile_box(p.view, splat);
    int64_t row_begin = begin;
    for (int first = box.y_begin; first < box.y_end; first += kWarp) {
        const int y = first + lane;
        const TileSpan span = y < box.y_end ? tile_span(p.view, splat, box, y) : TileSpan{0, 0};
        int up_to = span.end - span.begin;  // instances of the rows up to this lane's
        for (int step = 1; step < kWarp; step *= 2) {
            const int before = __shfl_up_sync(kAllLanes, up_to, step);
            if (lane >= step) up_to += before;
        }
        int64_t at = row_begin + up_to - (span.end - span.begin);
        for (int x = span.begin; x < span.end && at < end; ++x, ++at) {
            p.tiles[at] = static_cast<uint32_t>(y * p.view.tiles_x() + x);
            p.gaussians[at] = gaussian;
        }
        row_begin += __shfl_sync(kAllLanes, up_to, kWarp - 1);
    }
    fill_rest(p, gaussian, row_begin + lane, end, kWarp);
}

__global__ void __launch_bounds__(kThreads) emit_kernel(EmitParams p) {
    const int64_t k = thread_index();
    int64_t begin = 0, end = 0;
    uint32_t gaussian = 0;
    if (k < p.num_gaussians) {
        begin = p.begin[k];
        end = p.begin[k + 1];
        gaussian = p.order[k];
    }
    const bool is_large = end - begin > kLarge;
    if (end > begin && !is_large) emit(p, gaussian, begin, end);
    for (unsigned large = __ballot_sync(kAllLanes, is_large); large != 0; large &= large - 1) {
        const int64_t of_warp = k - threadIdx.x % kWarp + __ffs(static_cast<int>(large)) - 1;
        emit_by_warp(p, p.order[of_warp], p.begin[of_warp], p.begin[of_warp + 1]);
    }
}

/// Groups [begin, end) between keys i - 1 and i.
struct Gap {
    int64_t begin = 0, end = 0;
    __device__ Gap(const uint32_t* keys, int64_t count, int64_t num_groups, int64_t i) {
        if (i > count) return;
        begin = i == 0 ? 0 : int64_t(keys[i - 1]) + 1;
        const int64_t here = i == count ? num_groups : int64_t(keys[i]);
        end = (here < num_groups ? here : num_groups) + 1;
    }
};

/// begin[g] = number of keys below g, for g = 0 to num_groups. The keys are sorted; thread i handles the groups between
/// keys i - 1 and i, unless they are many: a warp fills large gaps together.
__global__ void __launch_bounds__(kThreads)
    group_begin_kernel(const uint32_t* keys, int64_t count, int64_t num_groups, int64_t* begin) {
    const int64_t i = thread_index();
    const Gap gap(keys, count, num_groups, i);
    const bool is_large = gap.end - gap.begin > kLarge;
    if (!is_large)
        for (int64_t group = gap.begin; group < gap.end; ++group) begin[group] = i;
    for (unsigned large = __ballot_sync(kAllLanes, is_large); large != 0; large &= large - 1) {
        const int lane = threadIdx.x % kWarp;
        const int64_t of_warp = i - lane + __ffs(static_cast<int>(large)) - 1;
        const Gap wide(keys, count, num_groups, of_warp);
        for (int64_t group = wide.begin + lane; group < wide.end; group += kWarp) begin[group] = of_warp;
    }
}

__global__ void block_tile_kernel(const int64_t* tile_begin, int64_t num_tiles, uint32_t* block_tile) {
    const int64_t tile = thread_index();
    if (tile >= num_tiles) return;
    const int64_t end = first_block(tile_begin[tile + 1], tile + 1);
    for (int64_t block = first_block(tile_begin[tile], tile); block < end; ++block)
        block_tile[block] = static_cast<uint32_t>(tile);
}

__global__ void count_up_kernel(uint32_t* values, int64_t count) {
    const int64_t i = thread_index();
    if (i < count) values[i] = static_cast<uint32_t>(i);
}

/// The number of bits of `largest`.
int bits_of(int64_t largest) {
    int bits = 0;
    while (largest >> bits != 0) ++bits;
    return bits;
}

/// Sorts the Gaussians by depth and finds the first instance of each. Returns the number of instances.
int64_t order_by_depth(const Context& context, const ProjectionOutput& projected, int64_t count, EmitParams& emit) {
    Memory& scratch = context.scratch;
    Pairs by_depth{projected.depth_keys, projected.indices, scratch.array<uint32_t>(count),
                   scratch.array<uint32_t>(count)};
    sort_pairs(context, by_depth, count, 32);
    int32_t* counts = scratch.array<int32_t>(count);
    launch("gather_counts", context, one_thread_each(count, kThreads), gather_counts_kernel, projected.num_tiles,
           by_depth.values, counts, count);
    int64_t* begin = scratch.array<int64_t>(count + 1);
    exclusive_sum(context, counts, begin, count);
    emit.order = by_depth.values;
    emit.begin = begin;
    int64_t num_instances = 0;
    check(cudaMemcpyAsync(&num_instances, begin + count, sizeof(num_instances), cudaMemcpyDeviceToHost, context.stream),
          "reading the number of instances");
    check(cudaStreamSynchronize(context.stream), "projection and sort by depth");
    return num_instances;
}

void plan_backward(const Context& context, Memory& kept, Frame& frame) {
    const int64_t num_tiles = frame.view.num_tiles();
    frame.max_blocks = first_block(frame.num_instances, num_tiles);
    frame.block_tile = kept.array<uint32_t>(frame.max_blocks);
    launch("block_tile", context, one_thread_each(num_tiles, kThreads), block_tile_kernel, frame.tile_begin, num_tiles,
           frame.block_tile);
}

}  // namespace

void order_instances(const Context& context, Memory& kept, const ProjectionOutput& projected, Frame& frame) {
    Memory& scratch = context.scratch;
    const int64_t num_tiles = frame.view.num_tiles();
    EmitParams params{frame.view, frame.splats, nullptr, nullptr, frame.num_gaussians, nullptr, nullptr};
    frame.tile_begin = kept.array<int64_t>(num_tiles + 1);  // while the GPU is busy, as it is not after the next line
    const int64_t count = order_by_depth(context, projected, frame.num_gaussians, params);
    frame.num_instances = count;
    frame.instances = kept.array<uint32_t>(count);
    Pairs by_tile{scratch.array<uint32_t>(count), frame.instances, scratch.array<uint32_t>(count),
                  scratch.array<uint32_t>(count)};
    params.tiles = by_tile.keys;
    params.gaussians = by_tile.values;
    launch("emit", context, one_thread_each(frame.num_gaussians, kThreads), emit_kernel, params);
    sort_pairs(context, by_tile, count, bits_of(num_tiles));
    if (by_tile.values != frame.instances)  // the sorted values are in the scratch buffer
        check(cudaMemcpyAsync(frame.instances, by_tile.values, count * sizeof(uint32_t), cudaMemcpyDeviceToDevice,
                              context.stream),
              "copying the instances");
    launch("group_begin", context, one_thread_each(count + 1, kThreads), group_begin_kernel, by_tile.keys, count,
           num_tiles, frame.tile_begin);
    if (frame.options.is_differentiable) plan_backward(context, kept, frame);
}

SlotOrder order_slots(const Context& context, const Frame& frame) {
    Memory& scratch = context.scratch;
    const int64_t count = frame.num_instances;
    if (count >> 32 != 0)
        throw Error("deterministic gradients: expected fewer than 2^32 instances, got " + std::to_string(count) +
                    "; use fewer pixels or Gaussians, or turn deterministic algorithms off");
    Pairs by_gaussian{scratch.array<uint32_t>(count), scratch.array<uint32_t>(count), scratch.array<uint32_t>(count),
                      scratch.array<uint32_t>(count)};
    check(cudaMemcpyAsync(by_gaussian.keys, frame.instances, count * sizeof(uint32_t), cudaMemcpyDeviceToDevice,
                          context.stream),
          "copying the instances");
    launch("count_up", context, one_thread_each(count, kThreads), count_up_kernel, by_gaussian.values, count);
    sort_pairs(context, by_gaussian, count, bits_of(frame.num_gaussians));
    int64_t* begin = scratch.array<int64_t>(frame.num_gaussians + 1);
    exclusive_sum(context, frame.num_tiles, begin, frame.num_gaussians);
    return {by_gaussian.values, begin};
}

}  // namespace dgr::cuda
