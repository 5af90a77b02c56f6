// Blending on the GPU. Forward: one block per tile, one thread per pixel. Backward and importance: one warp per segment
// of a tile's splats, two splats per lane. The pixels of the tile are passed from lane to lane [Taming 3DGS,
// arXiv:2406.15643], so that the sums over pixels stay in registers.
#include <type_traits>

#include "cuda_passes.h"

namespace dgr::cuda {
namespace {

constexpr int kTile = Limits::tile;
constexpr int kBatch = 256;  // splats in shared memory at a time
// Blocks of forward that a multiprocessor is to hold: 5 leave 48 registers a thread, and Turing runs 1024 threads at most.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kForwardBlocks = 4;
#else
constexpr int kForwardBlocks = 5;
#endif

/// The pixels of a tile are numbered so that a warp has 8 x 4 of them: warps can then skip small splats.
constexpr int kBlockWidth = 8, kBlockHeight = 4;
constexpr int kWarpsAcross = kTile / kBlockWidth;
__device__ int pixel_x(int pixel) { return pixel / kWarp % kWarpsAcross * kBlockWidth + pixel % kBlockWidth; }
__device__ int pixel_y(int pixel) { return pixel / kWarp / kWarpsAcross * kBlockHeight + pixel % kWarp / kBlockWidth; }
__device__ int thread_of_pixel(int x, int y) {
    return (y / kBlockHeight * kWarpsAcross + x / kBlockWidth) * kWarp + y % kBlockHeight * kBlockWidth +
           x % kBlockWidth;
}

/// The index in frame.states of the state before a segment > 0: 1 + num_channels arrays of kTilePixels. Tiles do not
/// overlap, for the reason of first_block.
__device__ int64_t state_index(int64_t tile_begin, int64_t segment, int num_channels) {
    return (tile_begin / kSegment + segment - 1) * (1 + num_channels) * kTilePixels;
}

// ---- Forward ----

struct BlendParams {
    Frame frame;
    Images<float> out;
    int32_t* num_gaussians;  // (H,W), written if there are no channels
};

struct BlendShared {
    union {
        float4 words[4 * kBatch];
        Splat<float> splats[kBatch];
    };
    unsigned char warps[kBatch];  // bit w: the splat touches the pixels of warp w
    unsigned last;
};
static_assert(sizeof(Splat<float>) == 4 * sizeof(float4), "a splat is loaded by four threads");

/// Bit w: the splat's ellipse touches the pixels of warp w.
__device__ unsigned touched_warps(const Splat<float>& s, Vec2<int> corner) {
    const EllipseHeights<float> heights = ellipse_heights(s);
    unsigned bits = 0;
#pragma unroll
    for (int row = 0; row < kTile / kBlockHeight; ++row) {
        const float top = static_cast<float>(corner.y + row * kBlockHeight), bottom = top + (kBlockHeight - 1);
        if (bottom < s.mean.y - s.half_extent.y || top > s.mean.y + s.half_extent.y) continue;
        const Vec2<float> chord = chord_between(s, heights, top, bottom);
#pragma unroll
        for (int column = 0; column < kWarpsAcross; ++column) {
            const float left = static_cast<float>(corner.x + column * kBlockWidth), right = left + (kBlockWidth - 1);
            if (chord.x <= right && chord.y >= left) bits |= 1u << (row * kWarpsAcross + column);
        }
    }
    return bits;
}

/// The state of a pixel.
template <int kChannels> struct PixelSum {
    float transmittance = 1;
    float sums[kChannels > 0 ? kChannels : 1] = {};
    unsigned last = 0;  // 1 + index in the tile of the last splat of the batches so far
    int newest = -1;  // index in the batch of the last splat of this batch
    int32_t taken = 0;
    bool is_open;

    /// index: of the splat in the batch. s.conic: exponent_conic.
    __device__ void add(const Splat<float>& s, Vec2<float> at, int index) {
        const float exponent = log2_alpha(s.log2_opacity, s.conic, {at.x - s.mean.x, at.y - s.mean.y});
        if (!is_open || !(exponent >= float(Limits::log2_alpha_min))) return;
        const float alpha = approximate_exp2(exponent), after = transmittance_after(transmittance, alpha);
        is_open = !(after < float(Limits::transmittance_min));
        if (!is_open) return;
        const float weight = blend_weight(transmittance, alpha);
        const float values[4] = {s.color.x, s.color.y, s.color.z, s.inverse_depth};
#pragma unroll
        for (int c = 0; c < kChannels; ++c) sums[c] += weight * values[c];
        transmittance = after;
        newest = index;
        ++taken;
    }
    /// seen: splats of the tile before this batch.
    __device__ void end_batch(unsigned seen) {
        if (newest >= 0) last = seen + newest + 1;
        newest = -1;
    }
    __device__ void store_state(float* state) const {
        state[threadIdx.x] = transmittance;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) state[(1 + c) * kTilePixels + threadIdx.x] = sums[c];
    }
};

/// Loads `count` splats of the tile, finds which warps they touch, and replaces their conics by exponent_conic. All
/// threads of the block have to call it.
__device__ void load_batch(BlendShared& shared, const Frame& frame, int64_t begin, int count, Vec2<int> corner) {
    for (int i = threadIdx.x; i < 4 * count; i += kTilePixels) {
        const float4* splat = reinterpret_cast<const float4*>(frame.splats + frame.instances[begin + i / 4]);
        shared.words[i] = splat[i % 4];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kTilePixels) {
        Splat<float>& splat = shared.splats[i];
        shared.warps[i] = static_cast<unsigned char>(touched_warps(splat, corner));
        splat.conic = exponent_conic(splat.conic);
    }
    __syncthreads();
}

template <int kChannels>
__device__ void write_pixel(const BlendParams& p, const PixelSum<kChannels>& sum, int64_t pixel) {
    if constexpr (kChannels > 0) {
        const View<float>& view = p.frame.view;
        const int64_t plane = int64_t(view.width) * view.height;
        p.out.image[pixel] = sum.sums[0] + sum.transmittance * view.background.x;
        p.out.image[plane + pixel] = sum.sums[1] + sum.transmittance * view.background.y;
        p.out.image[2 * plane + pixel] = sum.sums[2] + sum.transmittance * view.background.z;
        p.out.transmittance[pixel] = sum.transmittance;
    }
    if constexpr (kChannels > 3) p.out.inverse_depth[pixel] = sum.sums[3];
    if constexpr (kChannels == 0) p.num_gaussians[pixel] = sum.taken;
}

/// kChannels: 3 = colour, 4 = colour and inverse depth, 0 = only transmittance and number of Gaussians.
template <int kChannels> __global__ void __launch_bounds__(kTilePixels, kForwardBlocks) blend_kernel(BlendParams p) {
    const Frame& frame = p.frame;
    const View<float>& view = frame.view;
    BlendShared& shared = block_shared<BlendShared>();
    const int64_t tile = blockIdx.x;
    const int64_t begin = frame.tile_begin[tile], end = frame.tile_begin[tile + 1];
    const Vec2<int> corner = view.tile_corner(tile);
    const int x = corner.x + pixel_x(threadIdx.x), y = corner.y + pixel_y(threadIdx.x);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const Vec2<float> at{static_cast<float>(x), static_cast<float>(y)};
    const bool is_inside = x < view.width && y < view.height;
    PixelSum<kChannels> sum;
    sum.is_open = is_inside;
    for (int64_t batch = begin; batch < end; batch += kBatch) {
        if (__syncthreads_and(!sum.is_open)) break;  // also waits until all have read the previous batch
        const int count = static_cast<int>(end - batch < kBatch ? end - batch : kBatch);
        load_batch(shared, frame, batch, count, corner);
        for (int first = 0; first < count && __any_sync(kAllLanes, sum.is_open); first += kWarp) {
            const unsigned seen = static_cast<unsigned>(batch - begin) + first;
            if (frame.states && seen > 0 && seen % kSegment == 0)
                sum.store_state(frame.states + state_index(begin, seen / kSegment, kChannels));
            const bool touches = first + lane < count && (shared.warps[first + lane] >> warp & 1);
            for (unsigned todo = __ballot_sync(kAllLanes, touches); todo != 0; todo &= todo - 1) {
                const int i = __ffs(static_cast<int>(todo)) - 1;
                const Splat<float>& s = shared.splats[first + i];
                sum.add(s, at, first + i);
            }
        }
        sum.end_batch(static_cast<unsigned>(batch - begin));
    }
    if (is_inside) write_pixel(p, sum, int64_t(y) * view.width + x);
    if (!frame.pixel_last) return;
    frame.pixel_last[tile * kTilePixels + threadIdx.x] = sum.last;
    if (threadIdx.x == 0) shared.last = 0;
    __syncthreads();
    atomicMax(&shared.last, sum.last);
    __syncthreads();
    if (threadIdx.x == 0) frame.tile_last[tile] = shared.last;
}

// ---- Over segments ----

/// Pixels before and behind those of the tile, which pass through the lanes and belong to no splat.
constexpr int kBefore = kWarp - 1, kStream = kBefore + kTilePixels + kWarp;

/// A pass visits all pairs of a splat and a pixel to which it contributes, front to back. Pass::Fixed is constant for a
/// pixel, Pass::Flow changes with each splat. Pixels are in rows; the first is at kBefore.
template <class Pass> struct SegmentShared {
    typename Pass::Fixed fixed[kStream];
    typename Pass::Flow flow[kSegmentWarps][kStream];
};

template <class Pass> struct SegmentParams {
    Frame frame;
    typename Pass::Params pass;
};

/// Loads what the warps share: Fixed, and Flow before the first splat of the tile.
template <class Pass>
__device__ void load_pixels(SegmentShared<Pass>& shared, const SegmentParams<Pass>& p, int64_t tile, Vec2<int> corner) {
    for (int i = threadIdx.x; i < kStream; i += kSegmentWarps * kWarp) {
        const int x = (i - kBefore) % kTile, y = (i - kBefore) / kTile;
        typename Pass::Fixed fixed{};
        typename Pass::Flow flow{};
        if (i >= kBefore && y < kTile && corner.x + x < p.frame.view.width && corner.y + y < p.frame.view.height) {
            Pass::load(p, int64_t(corner.y + y) * p.frame.view.width + corner.x + x, fixed, flow);
            fixed.last = p.frame.pixel_last[tile * kTilePixels + thread_of_pixel(x, y)];
        }
        shared.fixed[i] = fixed;
        for (int warp = 0; warp < kSegmentWarps; ++warp) shared.flow[warp][i] = flow;
    }
}

constexpr unsigned kNone = 0xffffffffu;  // the index of no splat, more than any pixel's `last`

/// A splat of a lane, and its sums.
template <class Pass> struct LaneSplat {
    Vec2<float> mean;
    Sym2<float> exponent;  // exponent_conic
    float log2_opacity;
    Channels<float> channels;
    unsigned index;  // in the tile, or kNone
    Pass pass;

    __device__ void load(const Splat<float>& s, unsigned index_) {
        mean = s.mean, exponent = exponent_conic(s.conic), log2_opacity = s.log2_opacity;
        channels = {s.color, s.inverse_depth}, index = index_;
    }
    __device__ __forceinline__ void visit(Vec2<float> at, const typename Pass::Fixed& fixed,
                                          typename Pass::Flow& flow) {
        const Vec2<float> d{at.x - mean.x, at.y - mean.y};
        const float log2 = log2_alpha(log2_opacity, exponent, d);
        if (index < fixed.last && log2 >= float(Limits::log2_alpha_min))
            pass.visit(channels, exponent, d, approximate_exp2(log2), fixed, flow);
    }
};

constexpr int kUnrolled = 4;  // steps

/// Passes the pixels of a tile through the lanes: in each step a lane passes its pixel's Flow to the next lane, which
/// has the next splats. Lane l visits pixel i in step l + i. The last lane overwrites flows[i] 31 steps after lane 0
/// read it, without a barrier in between: what it writes came from that read through the shuffles.
template <class Pass>
__device__ void stream_pixels(const typename Pass::Fixed* fixed, typename Pass::Flow* flows, LaneSplat<Pass>& first,
                              LaneSplat<Pass>& second, Vec2<int> corner) {
    const int lane = threadIdx.x % kWarp;
    const float right = static_cast<float>(corner.x + kTile);
    Vec2<float> at{static_cast<float>(corner.x + (-lane & (kTile - 1))),
                   static_cast<float>(corner.y - (lane + kTile - 1) / kTile)};
    fixed += kBefore - lane, flows += kBefore - lane;
    typename Pass::Flow flow{};
    for (const auto* end = fixed + kTilePixels + kWarp; fixed != end; fixed += kUnrolled, flows += kUnrolled) {
#pragma unroll
        for (int i = 0; i < kUnrolled; ++i) {
            flow = Pass::shifted(flow);
            if (lane == 0) flow = flows[i];
            first.visit(at, fixed[i], flow);
            second.visit(at, fixed[i], flow);
            if (lane == kWarp - 1) flows[i] = flow;  // for the next splats
            at.x += 1;
            if (at.x == right) at.x -= kTile, at.y += 1;
        }
    }
    __syncwarp();
}

template <class Pass>
__global__ void __launch_bounds__(kSegmentWarps* kWarp, 24 / kSegmentWarps) segment_kernel(SegmentParams<Pass> p) {
    const Frame& frame = p.frame;
    const int64_t num_tiles = frame.view.num_tiles();
    if (int64_t(blockIdx.x) >= first_block(frame.tile_begin[num_tiles], num_tiles)) return;
    const int64_t tile = frame.block_tile[blockIdx.x], begin = frame.tile_begin[tile];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const unsigned block_first = static_cast<unsigned>(blockIdx.x - first_block(begin, tile)) * kBlockInstances;
    const unsigned segment_first = block_first + warp * kSegment, tile_last = frame.tile_last[tile];
    if (block_first >= tile_last) return;
    SegmentShared<Pass>& shared = block_shared<SegmentShared<Pass>>();
    const Vec2<int> corner = frame.view.tile_corner(tile);
    load_pixels(shared, p, tile, corner);
    __syncthreads();
    const unsigned last = segment_first + kSegment < tile_last ? segment_first + kSegment : tile_last;
    if (segment_first >= last) return;
    typename Pass::Flow* flows = shared.flow[warp];
    if (segment_first > 0) {
        const float* state = frame.states + state_index(begin, segment_first / kSegment, frame.num_channels);
        for (int i = lane; i < kTilePixels; i += kWarp)
            Pass::advance(shared.fixed[kBefore + i], state + thread_of_pixel(i % kTile, i / kTile), flows[kBefore + i]);
        __syncwarp();
    }
    for (unsigned group = segment_first, of_lane; group < last; group += of_lane * kWarp) {
        of_lane = last - group > kWarp ? 2 : 1;
        LaneSplat<Pass> splats[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const unsigned index = group + of_lane * lane + i;
            const bool exists = i < static_cast<int>(of_lane) && index < last;
            splats[i].load(frame.splats[frame.instances[begin + (exists ? index : group)]], exists ? index : kNone);
        }
        stream_pixels(shared.fixed, flows, splats[0], splats[1], corner);
#pragma unroll
        for (int i = 0; i < 2; ++i)
            if (splats[i].index != kNone) splats[i].pass.store(p, begin + splats[i].index);
    }
}

template <class Pass> void launch_segments(const char* name, const Context& context, const SegmentParams<Pass>& p) {
    const Grid grid{p.frame.max_blocks, kSegmentWarps * kWarp, static_cast<int64_t>(sizeof(SegmentShared<Pass>))};
    launch(name, context, grid, segment_kernel<Pass>, p);
}

// ---- Backward ----

/// to[i] += values[i] for i < 4, in one operation where the GPU has it. to is aligned to 16 bytes.
__device__ __forceinline__ void atomic_add4(float* to, float a, float b, float c, float d) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && 100 * __CUDACC_VER_MAJOR__ + __CUDACC_VER_MINOR__ >= 1201
    atomicAdd(reinterpret_cast<float4*>(to), make_float4(a, b, c, d));
#else
    atomicAdd(to, a), atomicAdd(to + 1, b), atomicAdd(to + 2, c), atomicAdd(to + 3, d);
#endif
}

/// kDepth: the inverse depth has a gradient, too. kAbsolute: abs_mean is wanted.
template <bool kDepth, bool kAbsolute> struct GradientPass {
    struct Params {
        Images<const float> images, v_images;
        SplatGradient<float>* gradients;
        bool by_instance;  // gradients (I), one for each instance; else (N), with atomic additions
    };
    struct NoDepth {};
    struct Depth { float v_inverse_depth; };
    struct alignas(16) Fixed : std::conditional_t<kDepth, Depth, NoDepth> {
        Vec3<float> v_color;
        unsigned last;
    };
    struct Flow { float transmittance, remainder; };

    SplatGradient<float> sum{};

    static __device__ Vec3<float> load_color(const float* from, int64_t pixel, int64_t plane) {
        return {from[pixel], from[plane + pixel], from[2 * plane + pixel]};
    }
    static __device__ Channels<float> channels_of(const Fixed& fixed) {
        if constexpr (kDepth)
            return {fixed.v_color, fixed.v_inverse_depth};
        else
            return {fixed.v_color, 0};
    }
    static __device__ Flow shifted(Flow flow) {
        return {__shfl_up_sync(kAllLanes, flow.transmittance, 1), __shfl_up_sync(kAllLanes, flow.remainder, 1)};
    }
    static __device__ void load(const SegmentParams<GradientPass>& p, int64_t pixel, Fixed& fixed, Flow& flow) {
        const View<float>& view = p.frame.view;
        const Images<const float>&images = p.pass.images, &v_images = p.pass.v_images;
        const int64_t plane = int64_t(view.width) * view.height;
        Channels<float> whole{{0, 0, 0}, 0};
        if (v_images.image) {
            whole.color = load_color(images.image, pixel, plane);
            fixed.v_color = load_color(v_images.image, pixel, plane);
        }
        if constexpr (kDepth) {
            whole.inverse_depth = images.inverse_depth[pixel];
            fixed.v_inverse_depth = v_images.inverse_depth[pixel];
        }
        const float v_transmittance = v_images.transmittance ? v_images.transmittance[pixel] : 0.0f;
        flow = {1, whole_remainder(whole, images.transmittance[pixel], channels_of(fixed), v_transmittance)};
    }
    /// From the first splat of the tile to a stored state.
    static __device__ void advance(const Fixed& fixed, const float* state, Flow& flow) {
        flow.transmittance = state[0];
        flow.remainder -= dot(load_color(state, kTilePixels, kTilePixels), fixed.v_color);
        if constexpr (kDepth) flow.remainder -= state[4 * kTilePixels] * fixed.v_inverse_depth;
    }
    __device__ void visit(const Channels<float>& channels, const Sym2<float>& exponent, Vec2<float> d, float alpha,
                          const Fixed& fixed, Flow& flow) {
        const float capped = min(alpha, float(Limits::alpha_max)), odds = capped * approximate_reciprocal(1 - capped);
        const float u =
            blend_vjp<kDepth>(channels, alpha, odds, flow.transmittance, true, channels_of(fixed), flow.remainder, sum);
        const float u_y = u * d.y;
        add_column(d.x, {u, u_y, u_y * d.y}, sum);
        if constexpr (kAbsolute) add_absolute(half_off_diagonal(exponent), d, u, sum.abs_mean);
        flow.transmittance = transmittance_after(flow.transmittance, alpha);
    }
    __device__ void store(const SegmentParams<GradientPass>& p, int64_t instance) {
        constexpr float of_conic = static_cast<float>(2 / kLog2e);  // abs_mean was summed with exponent_conic
        sum.abs_mean = {of_conic * sum.abs_mean.x, of_conic * sum.abs_mean.y};
        if (p.pass.by_instance) {
            p.pass.gradients[instance] = sum;
            return;
        }
        float* to = &p.pass.gradients[p.frame.instances[instance]].mean.x;
        atomic_add4(to, sum.mean.x, sum.mean.y, sum.abs_mean.x, sum.abs_mean.y);
        atomic_add4(to + 4, sum.conic.xx, sum.conic.xy, sum.conic.yy, sum.u);
        atomic_add4(to + 8, sum.color.x, sum.color.y, sum.color.z, sum.inverse_depth);
    }
};
static_assert(sizeof(SplatGradient<float>) == 12 * sizeof(float), "three additions of four numbers");

// ---- Importance ----

struct ImportancePass {
    struct Params {
        const float* pixel_weights;
        ImportanceSlot<float>* slots;  // (I), or null: atomic additions to `out`
        Importance<float> out;
    };
    struct Fixed {
        float weight;
        unsigned last;
    };
    struct Flow { float transmittance; };

    ImportanceSlot<float> sum{};

    static __device__ Flow shifted(Flow flow) { return {__shfl_up_sync(kAllLanes, flow.transmittance, 1)}; }
    static __device__ void load(const SegmentParams<ImportancePass>& p, int64_t pixel, Fixed& fixed, Flow& flow) {
        fixed.weight = p.pass.pixel_weights[pixel];
        flow.transmittance = 1;
    }
    static __device__ void advance(const Fixed&, const float* state, Flow& flow) { flow.transmittance = state[0]; }
    __device__ void visit(const Channels<float>&, const Sym2<float>&, Vec2<float> d, float alpha, const Fixed& fixed,
                          Flow& flow) {
        const float weight = blend_weight(flow.transmittance, alpha);
        sum.weighted += weight * fixed.weight;
        sum.total += weight;
        sum.distance += weight * sqrt(d.x * d.x + d.y * d.y);
        ++sum.num_pixels;
        sum.num_weighted += fixed.weight != 0;
        flow.transmittance = transmittance_after(flow.transmittance, alpha);
    }
    __device__ void store(const SegmentParams<ImportancePass>& p, int64_t instance) {
        if (p.pass.slots) {
            p.pass.slots[instance] = sum;
            return;
        }
        const uint32_t gaussian = p.frame.instances[instance];
        atomicAdd(p.pass.out.weighted + gaussian, sum.weighted);
        atomicAdd(p.pass.out.total + gaussian, sum.total);
        atomicAdd(p.pass.out.distance + gaussian, sum.distance);
        atomicAdd(p.pass.out.num_pixels + gaussian, sum.num_pixels);
        atomicAdd(p.pass.out.num_weighted + gaussian, sum.num_weighted);
    }
};

__global__ void sum_importance_kernel(const ImportanceSlot<float>* slots, SlotOrder order, int64_t count,
                                      Importance<float> out) {
    const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= count) return;
    ImportanceSlot<float> all{};
    for (int64_t i = order.begin[n]; i < order.begin[n + 1]; ++i) all.add(slots[order.slots[i]]);
    out.store(n, all);
}

template <class T> void fill_zeros(const Context& context, T* array, int64_t count) {
    check(cudaMemsetAsync(array, 0, count * sizeof(T), context.stream), "zeroing sums");
}

/// An array of zeros.
template <class T> T* zeros(const Context& context, int64_t count) {
    T* array = context.scratch.array<T>(count);
    fill_zeros(context, array, count);
    return array;
}

/// Projects, sorts and blends. num_channels: as kChannels of blend_kernel.
Frame render(const Context& context, Memory& kept, const Gaussians<float>& gaussians, const View<float>& view,
             const Options& options, int num_channels, const Images<float>& out, int32_t* num_gaussians,
             int32_t* radius_px) {
    Memory& scratch = context.scratch;
    const int64_t count = gaussians.count, num_tiles = view.num_tiles();
    Splat<float>* splats = kept.array<Splat<float>>(count);
    Frame frame;
    frame.view = view;
    frame.options = options;
    frame.num_gaussians = count;
    frame.num_channels = num_channels;
    frame.splats = splats;
    frame.radius_px = radius_px;
    const ProjectionOutput projected{splats, radius_px, scratch.array<uint32_t>(count), scratch.array<uint32_t>(count),
                                     scratch.array<int32_t>(count)};
    project(context, gaussians, view, options, projected);
    if (options.is_differentiable) {
        frame.pixel_last = kept.array<uint32_t>(num_tiles * kTilePixels);
        frame.tile_last = kept.array<uint32_t>(num_tiles);
    }
    order_instances(context, kept, projected, frame);
    if (options.is_differentiable)
        frame.states = kept.array<float>(frame.num_instances / kSegment * (1 + num_channels) * kTilePixels);
    const Grid grid{num_tiles, kTilePixels, static_cast<int64_t>(sizeof(BlendShared))};
    const BlendParams params{frame, out, num_gaussians};
    if (num_channels == 4)
        launch("blend", context, grid, blend_kernel<4>, params);
    else if (num_channels == 3)
        launch("blend", context, grid, blend_kernel<3>, params);
    else
        launch("blend", context, grid, blend_kernel<0>, params);
    return frame;
}

template <bool kDepth, bool kAbsolute>
void backward_as(const Context& context, const Frame& frame, const Gaussians<float>& gaussians,
                 const Images<const float>& images, const Images<const float>& v_images, const Gradients<float>& out) {
    const bool by_instance = frame.options.is_deterministic;
    auto* gradients = zeros<SplatGradient<float>>(context, by_instance ? frame.num_instances : frame.num_gaussians);
    launch_segments<GradientPass<kDepth, kAbsolute>>("blend_backward", context,
                                                     {frame, {images, v_images, gradients, by_instance}});
    SlotOrder order{};
    if (by_instance) order = order_slots(context, frame);
    project_backward(context, frame, gaussians, gradients, by_instance ? &order : nullptr, out);
}

}  // namespace

Frame forward(const Context& context, Memory& kept, const Gaussians<float>& gaussians, const View<float>& view,
              const Options& options, const Images<float>& out, int32_t* radius_px) {
    const DeviceGuard guard(context.device);
    return render(context, kept, gaussians, view, options, out.inverse_depth ? 4 : 3, out, nullptr, radius_px);
}

void backward(const Context& context, const Frame& frame, const Gaussians<float>& gaussians,
              const Images<const float>& images, const Images<const float>& v_images, const Gradients<float>& out) {
    const DeviceGuard guard(context.device);
    const bool absolute = out.screen_means || out.abs_grad_sum;
    const auto run = v_images.inverse_depth ? (absolute ? backward_as<true, true> : backward_as<true, false>)
                                            : (absolute ? backward_as<false, true> : backward_as<false, false>);
    run(context, frame, gaussians, images, v_images, out);
}

void importance(const Context& context, const Gaussians<float>& gaussians, const View<float>& view,
                const Options& options, const float* pixel_weights, const Importance<float>& out) {
    const DeviceGuard guard(context.device);
    int32_t* radius_px = context.scratch.array<int32_t>(gaussians.count);
    const Frame frame = render(context, context.scratch, gaussians, view, options, 0, {}, out.num_gaussians, radius_px);
    if (!options.is_deterministic) {
        fill_zeros(context, out.weighted, gaussians.count);
        fill_zeros(context, out.total, gaussians.count);
        fill_zeros(context, out.distance, gaussians.count);
        fill_zeros(context, out.num_pixels, gaussians.count);
        fill_zeros(context, out.num_weighted, gaussians.count);
        launch_segments<ImportancePass>("importance", context, {frame, {pixel_weights, nullptr, out}});
        return;
    }
    auto* slots = zeros<ImportanceSlot<float>>(context, frame.num_instances);
    launch_segments<ImportancePass>("importance", context, {frame, {pixel_weights, slots, out}});
    launch("sum_importance", context, one_thread_each(gaussians.count, 256), sum_importance_kernel, slots,
           order_slots(context, frame), gaussians.count, out);
}

}  // namespace dgr::cuda
