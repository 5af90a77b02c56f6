// Blending on the GPU. Forward: one block per tile, one thread per pixel. Backward, importance and removal errors: one warp per
// segment of a tile's splats, as in [Taming 3DGS, arXiv:2406.15643]; lanes are in turn pixels and splats, so that the sums over
// pixels stay in registers. All skip the blocks of 8 x 4 pixels that a splat does not touch.
#include <type_traits>

#include "cuda_passes.h"

namespace dgr::cuda {
namespace {

constexpr int kTile = Limits::tile;
constexpr int kBatch = 256;  // splats in shared memory at a time
// Blocks that a multiprocessor is to hold. Forward: 5 leave 48 registers a thread, and Turing runs 1024 threads at most.
// Over segments: 6 leave 80 registers; Turing's shared memory holds 4, and for Blackwell nvcc spills with fewer than 96.
#if defined(__CUDA_ARCH__)
constexpr int kForwardBlocks = __CUDA_ARCH__ < 800 ? 4 : 5;
constexpr int kSegmentBlocks = __CUDA_ARCH__ < 800 ? 4 : __CUDA_ARCH__ < 1000 ? 6 : 5;
#else
constexpr int kForwardBlocks = 5, kSegmentBlocks = 6;
#endif

/// The pixels of a tile are numbered so that a warp has 8 x 4 of them: warps can then skip small splats.
constexpr int kBlockWidth = 8, kBlockHeight = 4;
constexpr int kWarpsAcross = kTile / kBlockWidth;
__device__ int pixel_x(int pixel) { return pixel / kWarp % kWarpsAcross * kBlockWidth + pixel % kBlockWidth; }
__device__ int pixel_y(int pixel) { return pixel / kWarp / kWarpsAcross * kBlockHeight + pixel % kWarp / kBlockWidth; }

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
    uint8_t touched[kBatch];  // touched_blocks
    unsigned last;
};
static_assert(sizeof(Splat<float>) == 4 * sizeof(float4), "a splat is loaded by four threads");

/// Bit b: the splat's ellipse touches block b of the tile's pixels, the 32 from 32 b on.
__device__ unsigned touched_blocks(const Splat<float>& s, Vec2<int> corner) {
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

/// Loads `count` splats of the tile, finds which blocks of pixels they touch, and replaces their conics by exponent_conic. All
/// threads of the block have to call it.
__device__ void load_batch(BlendShared& shared, const Frame& frame, int64_t begin, int count, Vec2<int> corner) {
    for (int i = threadIdx.x; i < 4 * count; i += kTilePixels) {
        const float4* splat = reinterpret_cast<const float4*>(frame.splats + frame.instances[begin + i / 4]);
        shared.words[i] = splat[i % 4];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kTilePixels) {
        Splat<float>& splat = shared.splats[i];
        const auto touched = static_cast<uint8_t>(touched_blocks(splat, corner));
        shared.touched[i] = touched;
        if (frame.touched) frame.touched[begin + i] = touched;
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
            const bool touches = first + lane < count && (shared.touched[first + lane] >> warp & 1);
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

/// A warp takes the splats of a segment in groups. For each group and each block of the tile's pixels, a lane is first a
/// pixel, which visits the splats that touch the block front to back, and then a row of a splat's pixels, over which
/// it sums. So no sum needs values of other lanes before the end of the group.
constexpr int kGroup = kBlockWidth;
static_assert(kGroup * kBlockHeight == kWarp);
constexpr int kPixelBlocks = kTilePixels / kWarp;
constexpr float kRowMiddle = (kBlockWidth - 1) / 2.0f;  // px, from its first pixel

/// What a pixel needs of a splat. conic: exponent_conic.
struct alignas(16) VisitedSplat {
    Vec2<float> mean;
    Sym2<float> conic;
    float log2_opacity;
    Channels<float> channels;
};

/// A pass visits all pairs of a splat and a pixel to which it contributes, front to back. Pass::Pixels is constant for
/// the tile's pixels, Pass::PixelState changes with each splat, Pass::Pair is what a pixel adds to a splat's sums.
template <class Pass> struct SegmentShared {
    struct Row {
        VisitedSplat splat;
        alignas(16) typename Pass::Pair pairs[kWarp];
    };
    static_assert(sizeof(Row) / 16 % 2 == 1, "the rows of eight splats are in different banks");
    typename Pass::Pixels pixels;
    int64_t begin;  // tile_begin; here it takes no registers
    unsigned last[kTilePixels], block_last[kPixelBlocks];  // pixel_last, and its maximum in each block
    union {
        alignas(16) Row rows[kSegmentWarps][kGroup];
        typename Pass::PixelState first_state[kTilePixels];  // before the first splat of the tile
    };
};

template <class Pass> struct SegmentParams {
    Frame frame;
    typename Pass::Params pass;
};

/// Loads what the warps share.
template <class Pass>
__device__ void load_pixels(SegmentShared<Pass>& shared, const SegmentParams<Pass>& p, int64_t tile, Vec2<int> corner) {
    const View<float>& view = p.frame.view;
    for (int i = threadIdx.x; i < kTilePixels; i += kSegmentWarps * kWarp) {
        const int x = corner.x + pixel_x(i), y = corner.y + pixel_y(i);
        const bool is_inside = x < view.width && y < view.height;
        shared.first_state[i] = Pass::load(p, is_inside ? int64_t(y) * view.width + x : -1, shared.pixels, i);
        unsigned last = is_inside ? p.frame.pixel_last[tile * kTilePixels + i] : 0;
        shared.last[i] = last;
        for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
            const unsigned other = from_lane(last, lanes);
            last = other > last ? other : last;
        }
        if (i % kWarp == 0) shared.block_last[i / kWarp] = last;
    }
}

/// From the first pixel of a tile to that of a block.
__device__ __forceinline__ Vec2<float> to_block(int block) {
    return {static_cast<float>(block % kWarpsAcross * kBlockWidth),
            static_cast<float>(block / kWarpsAcross * kBlockHeight)};
}

/// Visits the splats whose bits in `todo` are set, one at least, in a pixel at `at`, to which those before `last`
/// contribute.
template <class Pass, class Values>
__device__ __forceinline__ void visit_splats(typename SegmentShared<Pass>::Row* rows, unsigned todo, int last,
                                             Vec2<float> at, const Values& values, typename Pass::PixelState& state) {
    typename Pass::Pair* pairs = rows[0].pairs + threadIdx.x % kWarp;  // of the first splat
    constexpr int kStride = sizeof(*rows) / sizeof(*pairs);
    do {
        const int i = __ffs(static_cast<int>(todo)) - 1;
        const VisitedSplat s = rows[i].splat;
        const float log2 = log2_alpha(s.log2_opacity, s.conic, {at.x - s.mean.x, at.y - s.mean.y});
        const bool contributes = i < last && log2 >= float(Limits::log2_alpha_min);
        const float alpha = contributes ? approximate_exp2(log2) : 0.0f;  // which adds nothing
        pairs[i * kStride] = Pass::visit(s.channels, alpha, values, state);
        todo &= todo - 1;
    } while (todo != 0);
}

template <class Pass>
__global__ void __launch_bounds__(kSegmentWarps* kWarp, Pass::kBlocks) segment_kernel(SegmentParams<Pass> p) {
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
    if (threadIdx.x == 0) shared.begin = begin;
    __syncthreads();
    typename Pass::PixelState state[kPixelBlocks];  // of the lane's pixels; in registers, as loops over it are unrolled
#pragma unroll
    for (int block = 0; block < kPixelBlocks; ++block) state[block] = shared.first_state[block * kWarp + lane];
    __syncthreads();  // the rows are in the same place
    const unsigned last = segment_first + kSegment < tile_last ? segment_first + kSegment : tile_last;
    if (segment_first >= last) return;
    typename SegmentShared<Pass>::Row* rows = shared.rows[warp];
    if (segment_first > 0) {
        const float* stored = frame.states + state_index(begin, segment_first / kSegment, frame.num_channels);
#pragma unroll
        for (int block = 0; block < kPixelBlocks; ++block) {
            const int pixel = block * kWarp + lane;
            Pass::advance(shared.pixels.of(pixel), stored + pixel, state[block]);
        }
    }
    const int mine = lane % kGroup, row = lane / kGroup;
    const Vec2<float> at{static_cast<float>(corner.x + pixel_x(lane)), static_cast<float>(corner.y + pixel_y(lane))};
    for (unsigned group = segment_first; group < last; group += kGroup) {
        const bool exists = group + mine < last;
        const int64_t instance = shared.begin + (exists ? group + mine : group);
        const Splat<float> splat = frame.splats[frame.instances[instance]];
        // No splat contributes to blocks that are closed, nor have they stored states.
        const unsigned open_blocks = __ballot_sync(kAllLanes, shared.block_last[lane % kPixelBlocks] > group);
        const unsigned touched = exists ? frame.touched[instance] & open_blocks : 0;
        const Sym2<float> conic = exponent_conic(splat.conic);
        if (lane < kGroup)
            rows[mine].splat = {splat.mean, conic, splat.log2_opacity, {splat.color, splat.inverse_depth}};
        __syncwarp();
        // From the mean to the middle of the lane's row in the first block, which is the row of its pixel.
        const Vec2<float> to_row{static_cast<float>(corner.x) + kRowMiddle - splat.mean.x, at.y - splat.mean.y};
        Pass pass;
#pragma unroll
        for (int block = 0; block < kPixelBlocks; ++block) {
            const bool touches = touched >> block & 1;
            const unsigned todo = __ballot_sync(kAllLanes, touches) & ((1u << kGroup) - 1);
            if (todo == 0) continue;
            const int pixel = block * kWarp + lane;
            const Vec2<float> there = to_block(block);
            visit_splats<Pass>(rows, todo, static_cast<int>(shared.last[pixel] - group),
                               {at.x + there.x, at.y + there.y}, shared.pixels.of(pixel), state[block]);
            __syncwarp();
            if (touches)
                pass.add(rows[mine].pairs + row * kBlockWidth, shared.pixels, block * kWarp + row * kBlockWidth,
                         {to_row.x + there.x, to_row.y + there.y}, conic);
            __syncwarp();  // the rows are written again
        }
        for (int lanes = kGroup; lanes < kWarp; lanes *= 2) pass.sum.add(from_lane(pass.sum, lanes));
        if (lane < kGroup && exists) pass.store(p, shared.begin + group + mine);
    }
}

template <class Pass> void launch_segments(const char* name, const Context& context, const SegmentParams<Pass>& p) {
    const Grid grid{p.frame.max_blocks, kSegmentWarps * kWarp, static_cast<int64_t>(sizeof(SegmentShared<Pass>))};
    launch(name, context, grid, segment_kernel<Pass>, p);
}

/// odds_of, by an approximate reciprocal.
__device__ __forceinline__ float approximate_odds(float alpha) {
    const float capped = min(alpha, float(Limits::alpha_max));
    return capped * approximate_reciprocal(1 - capped);
}

/// Three planes of an image, or of the sums in a stored state.
__device__ __forceinline__ Vec3<float> load_color(const float* from, int64_t pixel, int64_t plane) {
    return {from[pixel], from[plane + pixel], from[2 * plane + pixel]};
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
    static constexpr int kBlocks = kDepth && kAbsolute && kSegmentBlocks > 5 ? 5 : kSegmentBlocks;  // 6: spills
    struct Params {
        Images<const float> images, v_images;
        SplatGradient<float>* gradients;
        bool by_instance;  // gradients (I), one for each instance; else (N), with atomic additions
    };
    /// dL/d of the channels.
    struct Pixels {
        alignas(16) float v[kDepth ? 4 : 3][kTilePixels];
        __device__ __forceinline__ Channels<float> of(int pixel) const {
            return {{v[0][pixel], v[1][pixel], v[2][pixel]}, kDepth ? v[kDepth ? 3 : 0][pixel] : 0.0f};
        }
    };
    struct alignas(8) PixelState { float transmittance, remainder; };
    struct alignas(8) Pair { float u, weight; };

    SplatGradient<float> sum{};

    /// pixel: in the image, or -1; i: in the tile.
    static __device__ PixelState load(const SegmentParams<GradientPass>& p, int64_t pixel, Pixels& pixels, int i) {
        const View<float>& view = p.frame.view;
        const Images<const float>&images = p.pass.images, &v_images = p.pass.v_images;
        const int64_t plane = int64_t(view.width) * view.height;
        Channels<float> whole{{0, 0, 0}, 0}, v{{0, 0, 0}, 0};
        const bool is_inside = pixel >= 0;
        if (is_inside && v_images.image) {
            whole.color = load_color(images.image, pixel, plane);
            v.color = load_color(v_images.image, pixel, plane);
        }
        if (kDepth && is_inside) {
            whole.inverse_depth = images.inverse_depth[pixel];
            v.inverse_depth = v_images.inverse_depth[pixel];
        }
        pixels.v[0][i] = v.color.x, pixels.v[1][i] = v.color.y, pixels.v[2][i] = v.color.z;
        if constexpr (kDepth) pixels.v[3][i] = v.inverse_depth;
        const float transmittance = is_inside ? images.transmittance[pixel] : 0.0f;
        const float v_transmittance = is_inside && v_images.transmittance ? v_images.transmittance[pixel] : 0.0f;
        return {1, whole_remainder(whole, transmittance, v, v_transmittance)};
    }
    /// From the first splat of the tile to a stored state.
    static __device__ void advance(const Channels<float>& v, const float* stored, PixelState& state) {
        state.transmittance = stored[0];
        state.remainder -= dot(load_color(stored, kTilePixels, kTilePixels), v.color);
        if constexpr (kDepth) state.remainder -= stored[4 * kTilePixels] * v.inverse_depth;
    }
    static __device__ __forceinline__ Pair visit(const Channels<float>& channels, float alpha, const Channels<float>& v,
                                                 PixelState& state) {
        const PairGradient<float> pair =
            blend_vjp<kDepth>(channels, alpha, approximate_odds(alpha), state.transmittance, true, v, state.remainder);
        state.transmittance = transmittance_after(state.transmittance, alpha);
        return {pair.u, pair.weight};
    }
    /// Adds the row of pixels that begins with pixel `from` of the tile. middle: of the row, from the mean.
    __device__ __forceinline__ void add(const Pair* pairs, const Pixels& pixels, int from, Vec2<float> middle,
                                        const Sym2<float>& conic) {
        const Sym2<float> q = half_off_diagonal(conic);
        const Vec2<float> q_middle = times(q, middle);
        LineSums<float> row{};  // with distances from the middle
#pragma unroll
        for (int i = 0; i < kBlockWidth; ++i) {
            const float x = static_cast<float>(i) - kRowMiddle;
            const Pair pair = pairs[i];
            add_pixel_at(x, pair.u, row);
            add_channels<kDepth>(pair.weight, pixels.of(from + i), sum);
            if constexpr (kAbsolute)
                add_absolute({q.xx * x + q_middle.x, q.xy * x + q_middle.y}, pair.u, sum.abs_mean);
        }
        add_row(middle.y, shifted(row, middle.x), sum);
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
    static constexpr int kBlocks = kSegmentBlocks;
    struct Params {
        const float* pixel_weights;
        ImportanceSlot<float>* slots;  // (I), or null: atomic additions to `out`
        Importance<float> out;
    };
    struct Pixels {
        alignas(16) float weights[kTilePixels];
        __device__ __forceinline__ float of(int pixel) const { return weights[pixel]; }
    };
    struct PixelState { float transmittance; };
    struct Pair { float weight; };

    ImportanceSlot<float> sum{};

    static __device__ PixelState load(const SegmentParams<ImportancePass>& p, int64_t pixel, Pixels& pixels, int i) {
        pixels.weights[i] = pixel >= 0 ? p.pass.pixel_weights[pixel] : 0.0f;
        return {1};
    }
    static __device__ void advance(float, const float* stored, PixelState& state) { state.transmittance = stored[0]; }
    static __device__ __forceinline__ Pair visit(const Channels<float>&, float alpha, float, PixelState& state) {
        const float weight = blend_weight(state.transmittance, alpha);
        state.transmittance = transmittance_after(state.transmittance, alpha);
        return {weight};
    }
    __device__ __forceinline__ void add(const Pair* pairs, const Pixels& pixels, int from, Vec2<float> middle,
                                        const Sym2<float>&) {
#pragma unroll
        for (int i = 0; i < kBlockWidth; ++i) {
            const float d_x = middle.x + (static_cast<float>(i) - kRowMiddle);
            const float weight = pairs[i].weight, of_pixel = pixels.of(from + i);
            const bool contributes = weight > 0;
            sum.weighted += weight * of_pixel;
            sum.total += weight;
            sum.distance += weight * approximate_sqrt(d_x * d_x + middle.y * middle.y);
            sum.num_pixels += contributes;
            sum.num_weighted += contributes && of_pixel != 0;
        }
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
    const ImportanceSlot<float> sum = sum_slots(slots, order, n, n < count);
    if (n < count) out.store(n, sum);
}

// ---- Removal errors ----

struct RemovalPass {
    static constexpr int kBlocks = kSegmentBlocks;
    struct Sum {
        float change;
        __device__ void add(const Sum& other) { change += other.change; }
    };
    struct Params {
        RemovalInput<float> input;
        Sum* slots;     // (I), or null: atomic additions to `change`
        float* change;  // (N)
    };
    struct Pixel {
        Vec3<float> error;
        float weight;
    };
    struct Pixels {
        alignas(16) float values[4][kTilePixels];
        __device__ __forceinline__ Pixel of(int pixel) const {
            return {load_color(values[0], pixel, kTilePixels), values[3][pixel]};
        }
    };
    struct alignas(16) PixelState {
        float transmittance;
        Vec3<float> behind;
    };
    struct Pair { float change; };

    Sum sum{};

    static __device__ PixelState load(const SegmentParams<RemovalPass>& p, int64_t pixel, Pixels& pixels, int i) {
        const RemovalInput<float>& input = p.pass.input;
        const int64_t plane = int64_t(p.frame.view.width) * p.frame.view.height;
        Vec3<float> image{0, 0, 0}, photo{0, 0, 0};
        if (pixel >= 0) image = load_color(input.image, pixel, plane), photo = load_color(input.photo, pixel, plane);
        const Vec3<float> error = image - photo;
        pixels.values[0][i] = error.x, pixels.values[1][i] = error.y, pixels.values[2][i] = error.z;
        pixels.values[3][i] = pixel >= 0 ? input.pixel_weights[pixel] : 0.0f;
        return {1, image};
    }
    static __device__ void advance(const Pixel&, const float* stored, PixelState& state) {
        state = {stored[0], state.behind - load_color(stored, kTilePixels, kTilePixels)};
    }
    static __device__ __forceinline__ Pair visit(const Channels<float>& channels, float alpha, const Pixel& pixel,
                                                 PixelState& state) {
        const float change = removal_change(channels.color, alpha, approximate_odds(alpha), state.transmittance, true,
                                            pixel.error, state.behind);
        state.transmittance = transmittance_after(state.transmittance, alpha);
        return {pixel.weight * change};
    }
    __device__ __forceinline__ void add(const Pair* pairs, const Pixels&, int, Vec2<float>, const Sym2<float>&) {
#pragma unroll
        for (int i = 0; i < kBlockWidth; ++i) sum.change += pairs[i].change;
    }
    __device__ void store(const SegmentParams<RemovalPass>& p, int64_t instance) {
        if (p.pass.slots) p.pass.slots[instance] = sum;
        else atomicAdd(p.pass.change + p.frame.instances[instance], sum.change);
    }
};

__global__ void sum_removal_kernel(const RemovalPass::Sum* slots, SlotOrder order, int64_t count, float* change) {
    const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const RemovalPass::Sum sum = sum_slots(slots, order, n, n < count);
    if (n < count) change[n] = sum.change;
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
    int32_t* num_tiles_of = (options.is_deterministic ? kept : scratch).array<int32_t>(count);
    frame.num_tiles = options.is_deterministic ? num_tiles_of : nullptr;
    const ProjectionOutput projected{splats, radius_px, scratch.array<uint32_t>(count), scratch.array<uint32_t>(count),
                                     num_tiles_of};
    project(context, gaussians, view, options, projected);
    if (options.is_differentiable) {  // two arrays in one, as an allocation takes as long as a launch
        frame.pixel_last = kept.array<uint32_t>(num_tiles * (kTilePixels + 1));
        frame.tile_last = frame.pixel_last + num_tiles * kTilePixels;
    }
    order_instances(context, kept, projected, frame);
    if (options.is_differentiable) {
        const int64_t size = frame.num_instances / kSegment * (1 + num_channels) * kTilePixels;
        frame.states = kept.array<float>(size + (frame.num_instances + 3) / 4);
        frame.touched = reinterpret_cast<uint8_t*>(frame.states + size);
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
    const bool absolute = out.screen_means || out.abs_grad;
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

void removal_error(const Context& context, const Frame& frame, const RemovalInput<float>& input, float* change) {
    const DeviceGuard guard(context.device);
    if (!frame.options.is_deterministic) {
        fill_zeros(context, change, frame.num_gaussians);
        launch_segments<RemovalPass>("removal_error", context, {frame, {input, nullptr, change}});
        return;
    }
    auto* slots = zeros<RemovalPass::Sum>(context, frame.num_instances);
    launch_segments<RemovalPass>("removal_error", context, {frame, {input, slots, change}});
    launch("sum_removal", context, one_thread_each(frame.num_gaussians, 256), sum_removal_kernel, slots,
           order_slots(context, frame), frame.num_gaussians, change);
}

}  // namespace dgr::cuda
