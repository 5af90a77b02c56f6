// Blending on the CPU: forward, backward and importance, one tile a work item, one pixel a lane. All three walk a tile
// front to back with the same code, so backward and importance see exactly the pixels that forward blended.
#include <algorithm>

#include "cpu_tiles.h"
#include "simd.h"

namespace dgr {
namespace {

constexpr int kTile = Limits::tile;
constexpr int kTilePixels = kTile * kTile;
constexpr int kCheckLive = 32;  // splats between two looks whether a tile is done
constexpr int kPrefetch = 8;  // instances ahead: splats lie in memory by index, tiles want them by depth

constexpr float kClosed = 1000;  // more than log2 of any alpha

/// Pixels of one tile, row by row; those beyond the image's edge never take part.
template <class T> struct TilePixels {
    int x, y, width, height;  // px: the corner in the image and the size inside it
    bool has_dead = false;    // as of the last look
    alignas(kVectorBytes) T transmittance[kTilePixels];
    alignas(kVectorBytes) T log2_floor[kTilePixels];  // of alpha; kClosed for a pixel that takes no more

    TilePixels(const View<T>& view, int64_t tile) {
        x = static_cast<int>(tile % view.tiles_x()) * kTile;
        y = static_cast<int>(tile / view.tiles_x()) * kTile;
        width = std::min(kTile, view.width - x);
        height = std::min(kTile, view.height - y);
        const T floor(Limits::log2_alpha_min);
        for (int i = 0; i < kTilePixels; ++i) {
            transmittance[i] = T(1);
            log2_floor[i] = i % kTile < width && i / kTile < height ? floor : kClosed;
        }
    }
    /// Looks which pixels still let light through: none (returns false), all, or some.
    bool is_live() {
        Batch<T> lowest(kClosed), highest(-kClosed);
        for (int i = 0; i < kTilePixels; i += kLanes<T>) {
            const Batch<T> floor = Batch<T>::load(log2_floor + i);
            lowest = min(lowest, floor);
            highest = max(highest, floor);
        }
        has_dead = any(highest == Batch<T>(kClosed));
        return any(lowest < Batch<T>(kClosed));
    }
    /// Calls copy(index in the tile, index in the image) for each pixel.
    template <class Copy> void for_each_pixel(const View<T>& view, const Copy& copy) const {
        for (int row = 0; row < height; ++row)
            for (int column = 0; column < width; ++column)
                copy(row * kTile + column, int64_t(y + row) * view.width + x + column);
    }
};

/// Left and right end of the ellipse's chord in each row of the tile that it crosses, in px from the tile's corner.
template <class T> struct Chords {
    int row_begin, row_end;
    T left[kTile + kLanes<T>], right[kTile + kLanes<T>];  // whole batches are written, from row_begin on

    Chords(const Splat<T>& s, const TilePixels<T>& tile, Batch<T> lane) {
        using B = Batch<T>;
        const T mean_x = s.mean.x - T(tile.x), mean_y = s.mean.y - T(tile.y);
        row_begin = static_cast<int>(std::ceil(std::max(mean_y - s.half_extent.y, T(0))));
        row_end = static_cast<int>(std::floor(std::min(mean_y + s.half_extent.y, T(tile.height - 1)))) + 1;
        const B inv_extent(T(1) / s.half_extent.y);
        for (int row = row_begin; row < row_end; row += kLanes<T>) {
            const B dy = lane + B(T(row) - mean_y), t = dy * inv_extent;
            const B half = B(s.half_chord) * sqrt(max(B(1) - t * t, B(0))), middle = B(mean_x) + B(s.slope) * dy;
            (middle - half).store(left + row);
            (middle + half).store(right + row);
        }
    }
};

/// Walks the splats of a tile front to back. For each: on_splat(instance, splat, for_each_group), which calls
/// for_each_group(visit) once; visit(at, d, alpha, transmittance, contributes) sees each group of lanes in which a
/// pixel takes the splat: the group's place in the tile, d = pixel - mean in px, alpha *before* the cap, the
/// transmittance in front; lanes that take nothing may hold no number at all. Instances left over when no pixel is live
/// any more go to on_rest(instance).
template <class T, class OnSplat, class OnRest>
void walk_tile(const Frame<T>& frame, int64_t tile_index, TilePixels<T>& tile, const OnSplat& on_splat,
               const OnRest& on_rest) {
    using B = Batch<T>;
    B lane;
    for (int i = 0; i < kLanes<T>; ++i) lane.set(i, T(i));
    const int64_t end = frame.tile_begin[tile_index + 1];
    int64_t k = frame.tile_begin[tile_index];
    for (; k < end; ++k) {
        if ((k - frame.tile_begin[tile_index]) % kCheckLive == kCheckLive - 1 && !tile.is_live()) break;
        if (k + kPrefetch < end) __builtin_prefetch(&frame.splats[frame.instances[k + kPrefetch].gaussian]);
        const Splat<T> s = frame.splats[frame.instances[k].gaussian];
        const Sym2<B> conic{B(s.conic.xx), B(s.conic.xy), B(s.conic.yy)};
        const B log2_opacity(s.log2_opacity);
        B d_x[kTile / kLanes<T>];
        for (int i = 0; i < kTile / kLanes<T>; ++i) d_x[i] = lane + B(T(tile.x + i * kLanes<T>) - s.mean.x);
        const auto for_each_group = [&](const auto& visit) __attribute__((always_inline)) {
            const Chords<T> chords(s, tile, lane);
            for (int row = chords.row_begin; row < chords.row_end; ++row) {
                const B d_y(T(tile.y + row) - s.mean.y);
                for (int column = 0; column < kTile; column += kLanes<T>) {
                    if (chords.left[row] > T(column + kLanes<T> - 1) || chords.right[row] < T(column)) continue;
                    const int at = row * kTile + column;
                    const Vec2<B> d{d_x[column / kLanes<T>], d_y};
                    // Far from a needle's mean rounding may make it anything; beyond 1 all is capped alike.
                    const B exponent = min(B(1), log2_alpha(log2_opacity, conic, d));  // NaN stays
                    const B floor = B::load(tile.log2_floor + at);
                    const Mask<T> reaches = exponent >= floor;
                    if (tile.has_dead && !any(reaches)) continue;  // inside its chord a splat reaches all live pixels
                    const B alpha = exp2(exponent);
                    const B before = B::load(tile.transmittance + at);
                    const B after = before - before * min(alpha, B(Limits::alpha_max));
                    const Mask<T> contributes = reaches & (after >= B(Limits::transmittance_min));
                    visit(at, d, alpha, before, contributes);
                    select(contributes, after, before).store(tile.transmittance + at);
                    select(reaches & ~contributes, B(kClosed), floor).store(tile.log2_floor + at);
                }
            }
        };
        on_splat(frame.instances[k], s, for_each_group);
    }
    for (; k < end; ++k) on_rest(frame.instances[k]);
}

template <class T, bool kDepth> void blend_tile(const Frame<T>& frame, int64_t tile_index, const Images<T>& out) {
    using B = Batch<T>;
    constexpr int kSums = kDepth ? 4 : 3;
    TilePixels<T> tile(frame.view, tile_index);
    alignas(kVectorBytes) T sums[kSums][kTilePixels] = {};
    walk_tile(
        frame, tile_index, tile,
        [&](const Instance&, const Splat<T>& s, const auto& for_each_group) {
            const B values[4] = {B(s.color.x), B(s.color.y), B(s.color.z), B(s.inverse_depth)};
            for_each_group(
                [&](int at, Vec2<B>, B alpha, B transmittance, Mask<T> contributes) __attribute__((always_inline)) {
                    const B weight = select(contributes, min(alpha, B(Limits::alpha_max)) * transmittance, B(0));
                    for (int c = 0; c < kSums; ++c) (B::load(sums[c] + at) + weight * values[c]).store(sums[c] + at);
                });
        },
        [](const Instance&) {});

    const int64_t plane = int64_t(frame.view.width) * frame.view.height;
    const T background[3] = {frame.view.background.x, frame.view.background.y, frame.view.background.z};
    tile.for_each_pixel(frame.view, [&](int i, int64_t pixel) {
        for (int c = 0; c < 3; ++c) out.image[c * plane + pixel] = sums[c][i] + tile.transmittance[i] * background[c];
        out.transmittance[pixel] = tile.transmittance[i];
        if constexpr (kDepth) out.inverse_depth[pixel] = sums[3][i];
    });
}

/// The gradient arriving at the pixels of a tile.
template <class T> struct PixelGradients {
    alignas(kVectorBytes) T color[3][kTilePixels] = {};
    alignas(kVectorBytes) T inverse_depth[kTilePixels] = {};
    alignas(kVectorBytes) T behind[kTilePixels] = {};  // eq. 14's "behind" of the splat last visited; at first, of none

    PixelGradients(const View<T>& view, const TilePixels<T>& tile, const Images<const T>& images,
                   const Images<const T>& v) {
        const int64_t plane = int64_t(view.width) * view.height;
        tile.for_each_pixel(view, [&](int i, int64_t pixel) {
            for (int c = 0; c < 3 && v.image; ++c) {
                color[c][i] = v.image[c * plane + pixel];
                behind[i] += images.image[c * plane + pixel] * color[c][i];
            }
            if (v.transmittance) behind[i] += images.transmittance[pixel] * v.transmittance[pixel];
            if (v.inverse_depth) {
                inverse_depth[i] = v.inverse_depth[pixel];
                behind[i] += images.inverse_depth[pixel] * inverse_depth[i];
            }
        });
    }
};

template <class T, bool kDepth>
void blend_tile_backward(const Frame<T>& frame, int64_t tile_index, const Images<const T>& images,
                         const Images<const T>& v_images, Buffer<SplatGradient<T>>& slots) {
    using B = Batch<T>;
    TilePixels<T> tile(frame.view, tile_index);
    PixelGradients<T> v(frame.view, tile, images, v_images);
    walk_tile(
        frame, tile_index, tile,
        [&](const Instance& instance, const Splat<T>& s, const auto& for_each_group) {
            B u(0), mean_x(0), mean_y(0), abs_x(0), abs_y(0), xx(0), xy(0), yy(0), r(0), g(0), b(0), depth(0);
            const B qxx(s.conic.xx), qxy(s.conic.xy), qyy(s.conic.yy);
            const B red(s.color.x), green(s.color.y), blue(s.color.z), inverse_depth(s.inverse_depth);
            for_each_group([&](int at, Vec2<B> d, B alpha, B transmittance,
                               Mask<T> contributes) __attribute__((always_inline)) {
                const B capped = min(alpha, B(Limits::alpha_max));
                const B weight = select(contributes, capped * transmittance, B(0));
                const B v_r = B::load(v.color[0] + at), v_g = B::load(v.color[1] + at), v_b = B::load(v.color[2] + at);
                B value = red * v_r + green * v_g + blue * v_b;
                if constexpr (kDepth) {
                    const B v_depth = B::load(v.inverse_depth + at);
                    value += inverse_depth * v_depth;
                    depth += weight * v_depth;
                }
                const B contribution = weight * value, behind = B::load(v.behind + at) - contribution;
                behind.store(v.behind + at);
                r += weight * v_r;
                g += weight * v_g;
                b += weight * v_b;
                const B v_log_alpha =
                    select(contributes & (alpha < B(Limits::alpha_max)),  // the cap stops the gradient
                           blend_log_vjp(contribution, capped, behind), B(0));
                // log_alpha_vjp of math.h, its constant factors left for after the sums.
                const B u_x = v_log_alpha * d.x, u_y = v_log_alpha * d.y;
                const B v_x = qxx * u_x + qxy * u_y, v_y = qxy * u_x + qyy * u_y;
                u += v_log_alpha;
                xx += u_x * d.x;
                xy += u_x * d.y;
                yy += u_y * d.y;
                mean_x += v_x;
                mean_y += v_y;
                abs_x += abs(v_x);
                abs_y += abs(v_y);
            });
            slots[frame.slot_of(instance)] = {{sum(mean_x), sum(mean_y)},
                                              {sum(abs_x), sum(abs_y)},
                                              {T(-0.5) * sum(xx), -sum(xy), T(-0.5) * sum(yy)},
                                              sum(u),
                                              {sum(r), sum(g), sum(b)},
                                              kDepth ? sum(depth) : T(0)};
        },
        [&](const Instance& instance) { slots[frame.slot_of(instance)] = SplatGradient<T>{}; });
}

template <class T> struct ImportanceSlot {
    T weighted, total;
    int32_t num_pixels;
};

template <class T>
void importance_tile(const Frame<T>& frame, int64_t tile_index, const T* pixel_weights,
                     Buffer<ImportanceSlot<T>>& slots, int32_t* num_gaussians) {
    using B = Batch<T>;
    TilePixels<T> tile(frame.view, tile_index);
    alignas(kVectorBytes) T pixel_weight[kTilePixels] = {}, taken[kTilePixels] = {};
    tile.for_each_pixel(frame.view, [&](int i, int64_t pixel) { pixel_weight[i] = pixel_weights[pixel]; });
    walk_tile(
        frame, tile_index, tile,
        [&](const Instance& instance, const Splat<T>&, const auto& for_each_group) {
            B weighted(0), total(0);
            int num_pixels = 0;
            for_each_group([&](int at, Vec2<B>, B alpha, B transmittance, Mask<T> contributes) {
                const B weight = select(contributes, min(alpha, B(Limits::alpha_max)) * transmittance, B(0));
                weighted += weight * B::load(pixel_weight + at);
                total += weight;
                num_pixels += count(contributes);
                (B::load(taken + at) + select(contributes, B(1), B(0))).store(taken + at);
            });
            slots[frame.slot_of(instance)] = {sum(weighted), sum(total), num_pixels};
        },
        [&](const Instance& instance) { slots[frame.slot_of(instance)] = {}; });
    tile.for_each_pixel(frame.view, [&](int i, int64_t pixel) { num_gaussians[pixel] = int32_t(taken[i]); });
}

}  // namespace

template <class T>
Frame<T> forward(const Gaussians<T>& gaussians, const View<T>& view, const Options& options, const Images<T>& out) {
    Team team(options.num_threads);
    Frame<T> frame = plan_frame(team, gaussians, view, options);
    const auto blend = out.inverse_depth ? blend_tile<T, true> : blend_tile<T, false>;
    team.for_each(view.num_tiles(), [&](int64_t tile) { blend(frame, tile, out); });
    return frame;
}

template <class T>
void backward(const Frame<T>& frame, const Gaussians<T>& gaussians, const Images<const T>& images,
              const Images<const T>& v_images, const Gradients<T>& out) {
    Team team(frame.options.num_threads);
    Buffer<SplatGradient<T>> slots(frame.instances.size());
    const auto blend = v_images.inverse_depth ? blend_tile_backward<T, true> : blend_tile_backward<T, false>;
    team.for_each(frame.view.num_tiles(), [&](int64_t tile) { blend(frame, tile, images, v_images, slots); });
    project_backward(team, frame, gaussians, slots, out);
}

template <class T>
void importance(const Gaussians<T>& gaussians, const View<T>& view, const Options& options, const T* pixel_weights,
                const Importance<T>& out) {
    Team team(options.num_threads);
    const Frame<T> frame = plan_frame(team, gaussians, view, options);
    Buffer<ImportanceSlot<T>> slots(frame.instances.size());
    team.for_each(view.num_tiles(), [&](int64_t tile) {
        importance_tile(frame, tile, pixel_weights, slots, out.num_gaussians);
    });
    for (int64_t n = 0; n < gaussians.count; ++n) {
        ImportanceSlot<T> all{};
        for (int64_t s = frame.slot_begin[n]; s < frame.slot_begin[n + 1]; ++s) {
            all.weighted += slots[s].weighted;
            all.total += slots[s].total;
            all.num_pixels += slots[s].num_pixels;
        }
        out.weighted[n] = all.weighted;
        out.total[n] = all.total;
        out.num_pixels[n] = all.num_pixels;
    }
}

#define DGR_INSTANTIATE(T)                                                                                       \
    template Frame<T> forward(const Gaussians<T>&, const View<T>&, const Options&, const Images<T>&);            \
    template void backward(const Frame<T>&, const Gaussians<T>&, const Images<const T>&, const Images<const T>&, \
                           const Gradients<T>&);                                                                 \
    template void importance(const Gaussians<T>&, const View<T>&, const Options&, const T*, const Importance<T>&);
DGR_INSTANTIATE(float)
DGR_INSTANTIATE(double)
#undef DGR_INSTANTIATE

}  // namespace dgr
