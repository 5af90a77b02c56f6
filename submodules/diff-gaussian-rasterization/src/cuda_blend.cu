// Blending on the GPU. Forward: a tile is a block and a pixel a thread. Backward and importance: a warp takes a segment
// of a tile's splats, a lane each, and the tile's pixels stream through its lanes [Taming 3DGS, arXiv:2406.15643], so
// that what the pixels say about a splat adds up in registers. They see exactly the pixels that forward blended.
#include "cuda_passes.h"

namespace dgr::cuda {
namespace {

constexpr int kTile = Limits::tile;
constexpr int kBatch = 256;  // splats that a block holds in shared memory at a time

/// Pixels of a tile are numbered so that each warp of a block has 8 x 4 of them: small splats then miss whole warps.
constexpr int kBlockWidth = 8, kBlockHeight = 4;
constexpr int kWarpsAcross = kTile / kBlockWidth;
__device__ int pixel_x(int pixel) { return pixel / kWarp % kWarpsAcross * kBlockWidth + pixel % kBlockWidth; }
__device__ int pixel_y(int pixel) { return pixel / kWarp / kWarpsAcross * kBlockHeight + pixel % kWarp / kBlockWidth; }

/// Where a tile lies in the image, in px.
struct TileCorner { int x, y; };
__device__ TileCorner tile_corner(const View<float>& view, int64_t tile) {
    return {static_cast<int>(tile % view.tiles_x()) * kTile, static_cast<int>(tile / view.tiles_x()) * kTile};
}

/// State k of a tile's segment s > 0: `1 + channels` rows of kTilePixels numbers.
__device__ int64_t state_index(int64_t segment_begin, int64_t tile, int64_t segment, int num_channels) {
    return (segment_begin - tile + segment - 1) * (1 + num_channels) * kTilePixels;
}

// ---- Forward ----

struct BlendParams {
    Frame frame;
    Images<float> out;
    int32_t* num_gaussians;  // (H,W), where there are no channels
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

/// Which warps' pixels the splat's ellipse touches, a bit each.
__device__ unsigned touched_warps(const Splat<float>& s, TileCorner corner) {
    unsigned bits = 0;
#pragma unroll
    for (int row = 0; row < kTile / kBlockHeight; ++row) {
        const float top = static_cast<float>(corner.y + row * kBlockHeight), bottom = top + (kBlockHeight - 1);
        if (bottom < s.mean.y - s.half_extent.y || top > s.mean.y + s.half_extent.y) continue;
        const Vec2<float> chord = chord_between(s, top, bottom);
#pragma unroll
        for (int column = 0; column < kWarpsAcross; ++column) {
            const float left = static_cast<float>(corner.x + column * kBlockWidth), right = left + (kBlockWidth - 1);
            if (chord.x <= right && chord.y >= left) bits |= 1u << (row * kWarpsAcross + column);
        }
    }
    return bits;
}

/// What a pixel has blended so far.
template <int kChannels> struct PixelSum {
    float transmittance = 1;
    float sums[kChannels > 0 ? kChannels : 1] = {};
    unsigned last = 0;
    int32_t taken = 0;
    bool is_open;

    /// `index` counts the tile's instances from 1.
    __device__ void add(const Splat<float>& s, Vec2<float> d, unsigned index) {
        const float exponent = log2_alpha(s.log2_opacity, s.conic, d);
        if (exponent < float(Limits::log2_alpha_min)) return;
        const float alpha = min(exp2(exponent), float(Limits::alpha_max));
        const float after = transmittance - transmittance * alpha;
        if (after < float(Limits::transmittance_min)) {
            is_open = false;
            return;
        }
        const float weight = alpha * transmittance;
        const float values[4] = {s.color.x, s.color.y, s.color.z, s.inverse_depth};
#pragma unroll
        for (int c = 0; c < kChannels; ++c) sums[c] += weight * values[c];
        transmittance = after;
        last = index;
        ++taken;
    }
    __device__ void store_state(float* state) const {
        state[threadIdx.x] = transmittance;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) state[(1 + c) * kTilePixels + threadIdx.x] = sums[c];
    }
};

/// Loads `count` splats of the tile, and finds which warps they touch. The whole block calls it.
__device__ void load_batch(BlendShared& shared, const Frame& frame, int64_t begin, int count, TileCorner corner) {
    for (int i = threadIdx.x; i < 4 * count; i += kTilePixels) {
        const float4* splat = reinterpret_cast<const float4*>(frame.splats + frame.instances[begin + i / 4]);
        shared.words[i] = splat[i % 4];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kTilePixels)
        shared.warps[i] = static_cast<unsigned char>(touched_warps(shared.splats[i], corner));
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

/// A tile a block. kChannels: 3 = colour, 4 = colour and inverse depth, 0 = transmittance and number of Gaussians only.
template <int kChannels> __global__ void __launch_bounds__(kTilePixels) blend_kernel(BlendParams p) {
    const Frame& frame = p.frame;
    const View<float>& view = frame.view;
    BlendShared& shared = block_shared<BlendShared>();
    const int64_t tile = blockIdx.x;
    const int64_t begin = frame.tile_begin[tile], end = frame.tile_begin[tile + 1];
    const TileCorner corner = tile_corner(view, tile);
    const int x = corner.x + pixel_x(threadIdx.x), y = corner.y + pixel_y(threadIdx.x);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const Vec2<float> at{static_cast<float>(x), static_cast<float>(y)};
    const bool is_inside = x < view.width && y < view.height;
    PixelSum<kChannels> sum;
    sum.is_open = is_inside;
    for (int64_t batch = begin; batch < end; batch += kBatch) {
        if (__syncthreads_and(!sum.is_open)) break;  // also: all are done with the batch before
        const int count = static_cast<int>(end - batch < kBatch ? end - batch : kBatch);
        load_batch(shared, frame, batch, count, corner);
        for (int first = 0; first < count && __any_sync(kAllLanes, sum.is_open); first += kWarp) {
            const unsigned seen = static_cast<unsigned>(batch - begin) + first;
            if (frame.states && seen > 0 && seen % kSegment == 0)
                sum.store_state(frame.states +
                                state_index(frame.segment_begin[tile], tile, seen / kSegment, kChannels));
            const bool touches = first + lane < count && (shared.warps[first + lane] >> warp & 1);
            for (unsigned todo = __ballot_sync(kAllLanes, touches); todo != 0; todo &= todo - 1) {
                const int i = __ffs(static_cast<int>(todo)) - 1;
                const Splat<float>& s = shared.splats[first + i];
                if (sum.is_open) sum.add(s, {at.x - s.mean.x, at.y - s.mean.y}, seen + i + 1);
            }
        }
    }
    if (is_inside) write_pixel(p, sum, int64_t(y) * view.width + x);
    if (!frame.pixel_last) return;
    frame.pixel_last[tile * kTilePixels + threadIdx.x] = sum.last;
    __syncthreads();
    if (threadIdx.x == 0) shared.last = 0;
    __syncthreads();
    atomicMax(&shared.last, sum.last);
    __syncthreads();
    if (threadIdx.x == 0) frame.tile_last[tile] = shared.last;
}

// ---- Over segments ----

/// A pass looks at all pairs of a splat and a pixel that takes it, from the front: Pass::Fixed is what it needs of a
/// pixel, Pass::Flow what changes from splat to splat there.
template <class Pass> struct SegmentShared {
    typename Pass::Fixed fixed[kTilePixels];
    typename Pass::Flow flow[kTilePixels];
    unsigned last[kTilePixels];
};

template <class Pass> struct SegmentParams {
    Frame frame;
    typename Pass::Params pass;
};

template <class Pass>
__device__ void load_pixels(SegmentShared<Pass>& shared, const SegmentParams<Pass>& p, int64_t tile, int64_t segment) {
    const Frame& frame = p.frame;
    const TileCorner corner = tile_corner(frame.view, tile);
    const float* state = segment == 0
                             ? nullptr
                             : frame.states + state_index(frame.segment_begin[tile], tile, segment, frame.num_channels);
    for (int i = threadIdx.x; i < kTilePixels; i += kWarp) {
        const int x = corner.x + pixel_x(i), y = corner.y + pixel_y(i);
        shared.last[i] = frame.pixel_last[tile * kTilePixels + i];
        if (x < frame.view.width && y < frame.view.height)
            Pass::load(p, state ? state + i : nullptr, int64_t(y) * frame.view.width + x, shared.fixed[i],
                       shared.flow[i]);
    }
    __syncwarp();
}

/// The pixels of a tile stream through the lanes: at each step a lane hands its pixel on to the next lane, which has
/// the splat behind. Lane l meets pixel i at step l + i.
template <class Pass>
__device__ void stream_pixels(SegmentShared<Pass>& shared, Pass& pass, const Splat<float>& s, TileCorner corner,
                              unsigned index, bool has_splat) {
    const int lane = threadIdx.x;
    typename Pass::Flow flow{};
    for (int step = 0; step < kTilePixels + kWarp - 1; ++step) {
        flow = Pass::shifted(flow);
        const int pixel = step - lane;
        const bool is_pixel = pixel >= 0 && pixel < kTilePixels;
        if (lane == 0 && is_pixel) flow = shared.flow[pixel];
        if (has_splat && is_pixel && index < shared.last[pixel]) {
            const Vec2<float> d{corner.x + pixel_x(pixel) - s.mean.x, corner.y + pixel_y(pixel) - s.mean.y};
            const float exponent = log2_alpha(s.log2_opacity, s.conic, d);
            if (exponent >= float(Limits::log2_alpha_min)) pass.visit(s, d, exp2(exponent), shared.fixed[pixel], flow);
        }
        if (lane == kWarp - 1 && is_pixel) shared.flow[pixel] = flow;  // for the next 32 splats
    }
    __syncwarp();
}

template <class Pass> __global__ void __launch_bounds__(kWarp) segment_kernel(SegmentParams<Pass> p) {
    const Frame& frame = p.frame;
    if (int64_t(blockIdx.x) >= frame.segment_begin[frame.view.num_tiles()]) return;
    const int64_t tile = frame.segment_tile[blockIdx.x], segment = blockIdx.x - frame.segment_begin[tile];
    const unsigned first = static_cast<unsigned>(segment * kSegment), tile_last = frame.tile_last[tile];
    const unsigned last = first + kSegment < tile_last ? first + kSegment : tile_last;
    if (first >= last) return;
    SegmentShared<Pass>& shared = block_shared<SegmentShared<Pass>>();
    load_pixels(shared, p, tile, segment);
    const TileCorner corner = tile_corner(frame.view, tile);
    for (unsigned group = first; group < last; group += kWarp) {
        const unsigned index = group + threadIdx.x;
        const bool has_splat = index < last;
        const int64_t instance = frame.tile_begin[tile] + (has_splat ? index : first);
        const uint32_t gaussian = frame.instances[instance];
        const Splat<float> s = frame.splats[gaussian];
        Pass pass;
        stream_pixels(shared, pass, s, corner, index, has_splat);
        if (has_splat) pass.store(p.pass, instance, gaussian);
    }
}

template <class Pass> void launch_segments(const char* name, const Context& context, const SegmentParams<Pass>& p) {
    const Grid grid{p.frame.max_segments, kWarp, static_cast<int64_t>(sizeof(SegmentShared<Pass>))};
    launch(name, context, grid, segment_kernel<Pass>, p);
}

// ---- Backward ----

/// kDepth: the inverse depth has a gradient, too.
template <bool kDepth> struct GradientPass {
    struct Params {
        Images<const float> images, v_images;
        SplatGradient<float>* gradients;
        bool by_instance;  // a slot for each instance; else one for each Gaussian, to which all its instances add
    };
    struct Fixed { float r, g, b, inverse_depth; };  // dL/d of the pixel
    struct Flow { float transmittance, behind; };  // behind: as in eq. 14

    SplatGradient<float> sum{};

    static __device__ Flow shifted(Flow flow) {
        return {__shfl_up_sync(kAllLanes, flow.transmittance, 1), __shfl_up_sync(kAllLanes, flow.behind, 1)};
    }
    static __device__ void load(const SegmentParams<GradientPass>& p, const float* state, int64_t pixel, Fixed& v,
                                Flow& flow) {
        const View<float>& view = p.frame.view;
        const Images<const float>&images = p.pass.images, &v_images = p.pass.v_images;
        const int64_t plane = int64_t(view.width) * view.height;
        v = {0, 0, 0, 0};
        flow = {1, 0};
        if (v_images.image) {
            v.r = v_images.image[pixel], v.g = v_images.image[plane + pixel], v.b = v_images.image[2 * plane + pixel];
            flow.behind +=
                images.image[pixel] * v.r + images.image[plane + pixel] * v.g + images.image[2 * plane + pixel] * v.b;
        }
        if (v_images.transmittance) flow.behind += images.transmittance[pixel] * v_images.transmittance[pixel];
        if constexpr (kDepth) {
            v.inverse_depth = v_images.inverse_depth[pixel];
            flow.behind += images.inverse_depth[pixel] * v.inverse_depth;
        }
        if (!state) return;
        flow.transmittance = state[0];
        flow.behind -= state[kTilePixels] * v.r + state[2 * kTilePixels] * v.g + state[3 * kTilePixels] * v.b;
        if constexpr (kDepth) flow.behind -= state[4 * kTilePixels] * v.inverse_depth;
    }
    __device__ void visit(const Splat<float>& s, Vec2<float> d, float alpha, const Fixed& v, Flow& flow) {
        const float capped = min(alpha, float(Limits::alpha_max)), weight = capped * flow.transmittance;
        float value = s.color.x * v.r + s.color.y * v.g + s.color.z * v.b;
        if constexpr (kDepth) {
            value += s.inverse_depth * v.inverse_depth;
            sum.inverse_depth += weight * v.inverse_depth;
        }
        const float contribution = weight * value;
        flow.behind -= contribution;
        flow.transmittance -= flow.transmittance * capped;
        sum.color = sum.color + Vec3<float>{weight * v.r, weight * v.g, weight * v.b};
        if (alpha >= float(Limits::alpha_max)) return;  // the cap stops the gradient
        // log_alpha_vjp of math.h, its constant factors left for after the sums.
        const float u = blend_log_vjp(contribution, capped, flow.behind), u_x = u * d.x, u_y = u * d.y;
        const float v_x = s.conic.xx * u_x + s.conic.xy * u_y, v_y = s.conic.xy * u_x + s.conic.yy * u_y;
        sum.u += u;
        sum.conic = {sum.conic.xx + u_x * d.x, sum.conic.xy + u_x * d.y, sum.conic.yy + u_y * d.y};
        sum.mean = {sum.mean.x + v_x, sum.mean.y + v_y};
        sum.abs_mean = {sum.abs_mean.x + abs(v_x), sum.abs_mean.y + abs(v_y)};
    }
    __device__ void store(const Params& p, int64_t instance, uint32_t gaussian) {
        sum.conic = {-0.5f * sum.conic.xx, -sum.conic.xy, -0.5f * sum.conic.yy};
        if (p.by_instance) {
            p.gradients[instance] = sum;
            return;
        }
        SplatGradient<float>& to = p.gradients[gaussian];
        atomicAdd(&to.mean.x, sum.mean.x);
        atomicAdd(&to.mean.y, sum.mean.y);
        atomicAdd(&to.abs_mean.x, sum.abs_mean.x);
        atomicAdd(&to.abs_mean.y, sum.abs_mean.y);
        atomicAdd(&to.conic.xx, sum.conic.xx);
        atomicAdd(&to.conic.xy, sum.conic.xy);
        atomicAdd(&to.conic.yy, sum.conic.yy);
        atomicAdd(&to.u, sum.u);
        atomicAdd(&to.color.x, sum.color.x);
        atomicAdd(&to.color.y, sum.color.y);
        atomicAdd(&to.color.z, sum.color.z);
        if constexpr (kDepth) atomicAdd(&to.inverse_depth, sum.inverse_depth);
    }
};

// ---- Importance ----

struct ImportanceSlot {
    float weighted, total;
    int32_t num_pixels;
};

struct ImportancePass {
    struct Params {
        const float* pixel_weights;
        ImportanceSlot* slots;  // (I)
    };
    struct Fixed { float weight; };
    struct Flow { float transmittance; };

    ImportanceSlot sum{};

    static __device__ Flow shifted(Flow flow) { return {__shfl_up_sync(kAllLanes, flow.transmittance, 1)}; }
    static __device__ void load(const SegmentParams<ImportancePass>& p, const float* state, int64_t pixel, Fixed& fixed,
                                Flow& flow) {
        fixed.weight = p.pass.pixel_weights[pixel];
        flow.transmittance = state ? state[0] : 1.0f;
    }
    __device__ void visit(const Splat<float>&, Vec2<float>, float alpha, const Fixed& fixed, Flow& flow) {
        const float capped = min(alpha, float(Limits::alpha_max)), weight = capped * flow.transmittance;
        sum.weighted += weight * fixed.weight;
        sum.total += weight;
        ++sum.num_pixels;
        flow.transmittance -= flow.transmittance * capped;
    }
    __device__ void store(const Params& p, int64_t instance, uint32_t) { p.slots[instance] = sum; }
};

__global__ void sum_importance_kernel(const ImportanceSlot* slots, SlotOrder order, int64_t count,
                                      Importance<float> out) {
    const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= count) return;
    ImportanceSlot all{};
    for (int64_t i = order.begin[n]; i < order.begin[n + 1]; ++i) {
        const ImportanceSlot slot = slots[order.slots[i]];
        all.weighted += slot.weighted;
        all.total += slot.total;
        all.num_pixels += slot.num_pixels;
    }
    out.weighted[n] = all.weighted;
    out.total[n] = all.total;
    out.num_pixels[n] = all.num_pixels;
}

/// An array of zeros.
template <class T> T* zeros(const Context& context, int64_t count) {
    T* array = context.scratch.array<T>(count);
    check(cudaMemsetAsync(array, 0, count * sizeof(T), context.stream), "zeroing gradients");
    return array;
}

/// Projects, orders and blends. Channels as in blend_kernel.
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
    order_instances(context, kept, projected, frame);
    if (options.is_differentiable) {
        frame.pixel_last = kept.array<uint32_t>(num_tiles * kTilePixels);
        frame.tile_last = kept.array<uint32_t>(num_tiles);
        frame.states = kept.array<float>(frame.num_instances / kSegment * (1 + num_channels) * kTilePixels);
    }
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

template <bool kDepth>
void backward_as(const Context& context, const Frame& frame, const Gaussians<float>& gaussians,
                 const Images<const float>& images, const Images<const float>& v_images, const Gradients<float>& out) {
    const bool by_instance = frame.options.is_deterministic;
    auto* gradients = zeros<SplatGradient<float>>(context, by_instance ? frame.num_instances : frame.num_gaussians);
    launch_segments<GradientPass<kDepth>>("blend_backward", context,
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
    const auto run = v_images.inverse_depth ? backward_as<true> : backward_as<false>;
    run(context, frame, gaussians, images, v_images, out);
}

void importance(const Context& context, const Gaussians<float>& gaussians, const View<float>& view,
                const Options& options, const float* pixel_weights, const Importance<float>& out) {
    const DeviceGuard guard(context.device);
    int32_t* radius_px = context.scratch.array<int32_t>(gaussians.count);
    const Frame frame = render(context, context.scratch, gaussians, view, options, 0, {}, out.num_gaussians, radius_px);
    auto* slots = zeros<ImportanceSlot>(context, frame.num_instances);
    launch_segments<ImportancePass>("importance", context, {frame, {pixel_weights, slots}});
    launch("sum_importance", context, one_thread_each(gaussians.count, 256), sum_importance_kernel, slots,
           order_slots(context, frame), gaussians.count, out);
}

}  // namespace dgr::cuda
