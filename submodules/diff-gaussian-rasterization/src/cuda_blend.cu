// Blending on the GPU. Forward: one block per tile, one thread per pixel. Backward and importance: one warp per segment
// of a tile's splats, one lane per splat. The pixels of the tile are passed from lane to lane [Taming 3DGS,
// arXiv:2406.15643], so that the sums over pixels stay in registers.
#include "cuda_passes.h"

namespace dgr::cuda {
namespace {

constexpr int kTile = Limits::tile;
constexpr int kBatch = 256;  // splats in shared memory at a time

/// The pixels of a tile are numbered so that a warp has 8 x 4 of them: warps can then skip small splats.
constexpr int kBlockWidth = 8, kBlockHeight = 4;
constexpr int kWarpsAcross = kTile / kBlockWidth;
__device__ int pixel_x(int pixel) { return pixel / kWarp % kWarpsAcross * kBlockWidth + pixel % kBlockWidth; }
__device__ int pixel_y(int pixel) { return pixel / kWarp / kWarpsAcross * kBlockHeight + pixel % kWarp / kBlockWidth; }

/// The index in frame.states of the state before a segment > 0: 1 + num_channels arrays of kTilePixels.
__device__ int64_t state_index(int64_t segment_begin, int64_t tile, int64_t segment, int num_channels) {
    return (segment_begin - tile + segment - 1) * (1 + num_channels) * kTilePixels;
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

/// The state of a pixel.
template <int kChannels> struct PixelSum {
    float transmittance = 1;
    float sums[kChannels > 0 ? kChannels : 1] = {};
    unsigned last = 0;
    int32_t taken = 0;
    bool is_open;

    /// index: 1 + index of the instance in the tile.
    __device__ void add(const Splat<float>& s, Vec2<float> d, unsigned index) {
        const float exponent = log2_alpha(s.log2_opacity, s.conic, d);
        if (exponent < float(Limits::log2_alpha_min)) return;
        const float alpha = exp2(exponent), after = transmittance_after(transmittance, alpha);
        if (after < float(Limits::transmittance_min)) {
            is_open = false;
            return;
        }
        const float weight = blend_weight(transmittance, alpha);
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

/// Loads `count` splats of the tile and finds which warps they touch. All threads of the block have to call it.
__device__ void load_batch(BlendShared& shared, const Frame& frame, int64_t begin, int count, Vec2<int> corner) {
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

/// kChannels: 3 = colour, 4 = colour and inverse depth, 0 = only transmittance and number of Gaussians.
template <int kChannels> __global__ void __launch_bounds__(kTilePixels) blend_kernel(BlendParams p) {
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
    if (threadIdx.x == 0) shared.last = 0;
    __syncthreads();
    atomicMax(&shared.last, sum.last);
    __syncthreads();
    if (threadIdx.x == 0) frame.tile_last[tile] = shared.last;
}

// ---- Over segments ----

/// A pass visits all pairs of a splat and a pixel to which it contributes, front to back. Pass::Fixed is constant for a
/// pixel, Pass::Flow changes with each splat.
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
    const Vec2<int> corner = frame.view.tile_corner(tile);
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

/// Passes the pixels of a tile through the lanes: in each step a lane passes its pixel's Flow to the next lane, which
/// has the next splat. Lane l visits pixel i in step l + i. The last lane overwrites shared.flow[i] 31 steps after lane 0
/// read it, without a barrier in between: what it writes came from that read through the shuffles.
template <class Pass>
__device__ void stream_pixels(SegmentShared<Pass>& shared, Pass& pass, const Splat<float>& s, Vec2<int> corner,
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
    const Vec2<int> corner = frame.view.tile_corner(tile);
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
        bool by_instance;  // gradients (I), one for each instance; else (N), with atomic additions
    };
    using Fixed = Channels<float>;  // dL/d of the pixel
    struct Flow { float transmittance, remainder; };

    SplatGradient<float> sum{};

    static __device__ Vec3<float> load_color(const float* from, int64_t pixel, int64_t plane) {
        return {from[pixel], from[plane + pixel], from[2 * plane + pixel]};
    }
    static __device__ Flow shifted(Flow flow) {
        return {__shfl_up_sync(kAllLanes, flow.transmittance, 1), __shfl_up_sync(kAllLanes, flow.remainder, 1)};
    }
    static __device__ void load(const SegmentParams<GradientPass>& p, const float* state, int64_t pixel, Fixed& v,
                                Flow& flow) {
        const View<float>& view = p.frame.view;
        const Images<const float>&images = p.pass.images, &v_images = p.pass.v_images;
        const int64_t plane = int64_t(view.width) * view.height;
        Channels<float> whole{{0, 0, 0}, 0};
        v = {{0, 0, 0}, 0};
        if (v_images.image) {
            whole.color = load_color(images.image, pixel, plane);
            v.color = load_color(v_images.image, pixel, plane);
        }
        if constexpr (kDepth) {
            whole.inverse_depth = images.inverse_depth[pixel];
            v.inverse_depth = v_images.inverse_depth[pixel];
        }
        const float v_transmittance = v_images.transmittance ? v_images.transmittance[pixel] : 0.0f;
        flow = {1, whole_remainder(whole, images.transmittance[pixel], v, v_transmittance)};
        if (!state) return;
        flow.transmittance = state[0];
        flow.remainder -= dot(load_color(state, kTilePixels, kTilePixels), v.color);
        if constexpr (kDepth) flow.remainder -= state[4 * kTilePixels] * v.inverse_depth;
    }
    __device__ void visit(const Splat<float>& s, Vec2<float> d, float alpha, const Fixed& v, Flow& flow) {
        const Channels<float> channels{s.color, s.inverse_depth};
        const float u = blend_vjp<kDepth>(channels, alpha, flow.transmittance, true, v, flow.remainder, sum);
        ColumnSums<float> column{};
        add_row(d.y, u, column);
        add_column(d.x, column, sum);
        add_absolute(s.conic, d, u, sum.abs_mean);
        flow.transmittance = transmittance_after(flow.transmittance, alpha);
    }
    __device__ void store(const Params& p, int64_t instance, uint32_t gaussian) {
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

struct ImportancePass {
    struct Params {
        const float* pixel_weights;
        ImportanceSlot<float>* slots;  // (I)
    };
    struct Fixed { float weight; };
    struct Flow { float transmittance; };

    ImportanceSlot<float> sum{};

    static __device__ Flow shifted(Flow flow) { return {__shfl_up_sync(kAllLanes, flow.transmittance, 1)}; }
    static __device__ void load(const SegmentParams<ImportancePass>& p, const float* state, int64_t pixel, Fixed& fixed,
                                Flow& flow) {
        fixed.weight = p.pass.pixel_weights[pixel];
        flow.transmittance = state ? state[0] : 1.0f;
    }
    __device__ void visit(const Splat<float>&, Vec2<float>, float alpha, const Fixed& fixed, Flow& flow) {
        const float weight = blend_weight(flow.transmittance, alpha);
        sum.weighted += weight * fixed.weight;
        sum.total += weight;
        ++sum.num_pixels;
        flow.transmittance = transmittance_after(flow.transmittance, alpha);
    }
    __device__ void store(const Params& p, int64_t instance, uint32_t) { p.slots[instance] = sum; }
};

__global__ void sum_importance_kernel(const ImportanceSlot<float>* slots, SlotOrder order, int64_t count,
                                      Importance<float> out) {
    const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= count) return;
    ImportanceSlot<float> all{};
    for (int64_t i = order.begin[n]; i < order.begin[n + 1]; ++i) all.add(slots[order.slots[i]]);
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
    auto* slots = zeros<ImportanceSlot<float>>(context, frame.num_instances);
    launch_segments<ImportancePass>("importance", context, {frame, {pixel_weights, slots}});
    launch("sum_importance", context, one_thread_each(gaussians.count, 256), sum_importance_kernel, slots,
           order_slots(context, frame), gaussians.count, out);
}

}  // namespace dgr::cuda
