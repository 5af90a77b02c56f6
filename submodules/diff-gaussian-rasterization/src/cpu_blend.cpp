// Blending on the CPU: forward, backward, importance and removal errors. One work item per tile, one lane per pixel.
// All visit the pairs of splat and pixel in walk_tile.
#include <algorithm>
#include <array>
#include <bit>
#include <numeric>

#include "cpu_tiles.h"
#include "simd.h"

namespace dgr {
namespace {

constexpr int kTile = Limits::tile;
constexpr int kTilePixels = kTile * kTile;
constexpr int kCheckLive = 32;  // splats between two calls of update_live
constexpr int kPrefetch = 8;    // instances: splats are stored by index and read by depth

/// The pixels of one tile, row by row. A pixel is closed, and no splat contributes to it any more, if its transmittance
/// is negative; its absolute value remains valid. Pixels outside the image are closed from the start.
template <class T> struct TilePixels {
    int x, y, width, height;  // px: the corner in the image, and the size of the part inside the image
    bool has_closed = false;  // set by update_live
    alignas(kVectorBytes) T transmittance[kTilePixels];

    TilePixels(const View<T>& view, int64_t tile) {
        const Vec2<int> corner = view.tile_corner(tile);
        x = corner.x, y = corner.y;
        width = std::min(kTile, view.width - x);
        height = std::min(kTile, view.height - y);
        for (int i = 0; i < kTilePixels; ++i)
            transmittance[i] = i % kTile < width && i / kTile < height ? T(1) : T(-1);
    }
    /// Returns whether a pixel is open.
    bool update_live() {
        Batch<T> lowest(1), highest(-1);
        for (int i = 0; i < kTilePixels; i += kLanes<T>) {
            const Batch<T> values = Batch<T>::load(transmittance + i);
            lowest = min(lowest, values);
            highest = max(highest, values);
        }
        has_closed = any(lowest < Batch<T>(0));
        return any(highest > Batch<T>(0));
    }
    /// Calls copy(index in the tile, index in the image, number of pixels) for each row inside the image.
    template <class Copy> void for_each_row(const View<T>& view, const Copy& copy) const {
        for (int row = 0; row < height; ++row) copy(row * kTile, int64_t(y + row) * view.width + x, width);
    }
    /// Reads the tile's part of an array (H,W) unless it is null.
    template <class S> void read(const View<T>& view, const S* from, S* to) const {
        if (!from) return;
        for_each_row(view, [&](int i, int64_t pixel, int count) { copy_pixels(from + pixel, count, to + i); });
    }
    template <class S> void write(const View<T>& view, const S* from, S* to) const {
        for_each_row(view, [&](int i, int64_t pixel, int count) { copy_pixels(from + i, count, to + pixel); });
    }

  private:
    template <class S> static void copy_pixels(const S* from, int count, S* to) {
        if (count == kTile) std::copy_n(from, kTile, to);  // a few instructions
        else std::copy_n(from, count, to);
    }
};

/// The rows of a tile in which the ellipse's chord touches the tile, the ends of the chords in px from the tile's
/// corner, and what the pixels of a row share.
template <class T> struct Chords {
    uint32_t rows;  // bit i: row i
    T d_y[kTile], linear[kTile], constant[kTile];  // pixel - mean in px; RowExponent
    T left[kTile + kLanes<T>], right[kTile + kLanes<T>];  // written in batches; unused if a batch is a whole row

    void compute(const Splat<T>& s, const TilePixels<T>& tile, Batch<T> lane) {
        using B = Batch<T>;
        const T mean_x = s.mean.x - T(tile.x), mean_y = s.mean.y - T(tile.y);
        const int begin = first_pixel(mean_y - s.half_extent.y);
        const int end = last_pixel(mean_y + s.half_extent.y, tile.height) + 1;
        const B inv_extent(T(1) / s.half_extent.y);
        const Sym2<T> e = exponent_conic(s.conic);
        for (int row = 0; row < kTile; row += kLanes<T>) {
            const B dy = lane + B(T(tile.y + row)) - B(s.mean.y);
            const RowExponent<B> terms = row_exponent(B(s.log2_opacity), {B(e.xx), B(e.xy), B(e.yy)}, dy);
            dy.store(d_y + row);
            terms.linear.store(linear + row);
            terms.constant.store(constant + row);
        }
        rows = 0;
        for (int row = begin; row < end; row += kLanes<T>) {
            const Chord<B> chord = chord_at(B(s.slope), B(s.half_chord), inv_extent, lane + B(T(row) - mean_y));
            const B middle = B(mean_x) + chord.middle;
            const B first = middle - chord.half, last = middle + chord.half;
            const uint32_t touching = lane_bits(~(first > B(kTile - 1)) & ~(last < B(0)));
            rows |= (touching & ((2u << (end - 1 - row)) - 1)) << row;
            if constexpr (kLanes<T> < kTile) {
                first.store(left + row);
                last.store(right + row);
            }
        }
    }
    /// Whether the chord of one of `rows` touches the batch at a column.
    bool touches(int row, int column) const {
        return kLanes<T> == kTile || !(left[row] > T(column + kLanes<T> - 1) || right[row] < T(column));
    }
};

/// Visits the splats of a tile front to back. For each it calls on_splat(instance, splat, d_x, for_each_group), which
/// has to call for_each_group(visit) once; d_x[i] is d.x of the i-th batch of a row. for_each_group calls
/// visit(at, d, alpha, transmittance, contributes) for groups of pixels, one per lane: index of the first pixel in the
/// tile, d = pixel - mean in px, alpha before the cap, transmittance before the splat, whether the splat contributes.
/// Where it does not, alpha may be NaN. When all pixels are closed, the remaining instances go to on_rest(instance).
template <class T, class OnSplat, class OnRest>
void walk_tile(const Frame<T>& frame, int64_t tile_index, TilePixels<T>& tile, const OnSplat& on_splat,
               const OnRest& on_rest) {
    using B = Batch<T>;
    B lane;
    for (int i = 0; i < kLanes<T>; ++i) lane.set(i, T(i));
    const int64_t begin = frame.tile_begin[tile_index], end = frame.tile_begin[tile_index + 1];
    const auto splat_at = [&](int64_t k) -> const Splat<T>& { return frame.splats[frame.instances[k].gaussian]; };
    // The chords of the next splat are computed before this one is visited, so that the branches on them need not wait.
    Chords<T> chords_of[2];
    if (begin < end) chords_of[begin % 2].compute(splat_at(begin), tile, lane);
    int64_t k = begin;
    for (; k < end; ++k) {
        if ((k - begin) % kCheckLive == kCheckLive - 1 && !tile.update_live()) break;
        if (k + kPrefetch < end) __builtin_prefetch(&splat_at(k + kPrefetch));
        if (k + 1 < end) chords_of[(k + 1) % 2].compute(splat_at(k + 1), tile, lane);
        const Chords<T>& chords = chords_of[k % 2];
        const Splat<T> s = splat_at(k);
        const B e_xx(exponent_conic(s.conic).xx);
        B d_x[kTile / kLanes<T>];
        for (int i = 0; i < kTile / kLanes<T>; ++i) d_x[i] = lane + B(T(tile.x + i * kLanes<T>) - s.mean.x);
        const auto for_each_group = [&](const auto& visit) __attribute__((always_inline)) {
            for (uint32_t rows = chords.rows; rows != 0; rows &= rows - 1) {
                const int row = std::countr_zero(rows);
                const B d_y(chords.d_y[row]);
                const RowExponent<B> terms{B(chords.linear[row]), B(chords.constant[row])};
#pragma GCC unroll 4
                for (int column = 0; column < kTile; column += kLanes<T>) {
                    if (!chords.touches(row, column)) continue;
                    const int at = row * kTile + column;
                    const Vec2<B> d{d_x[column / kLanes<T>], d_y};
                    // Far from the mean of a thin splat, rounding errors can make this any number. The cap at
                    // alpha_max makes all values above 0 equal; NaN stays NaN.
                    const B exponent = min(B(1), log2_alpha(e_xx, terms, d.x));
                    const B before = B::load(tile.transmittance + at);
                    const Mask<T> reaches = exponent >= B(Limits::log2_alpha_min);
                    // Without closed pixels some lane reaches.
                    if (tile.has_closed && !any(reaches & (before > B(0)))) continue;
                    const B alpha = exp2(exponent);
                    const B after = transmittance_after(before, alpha);
                    const Mask<T> contributes = reaches & (after >= B(Limits::transmittance_min));
                    visit(at, d, alpha, before, contributes);
                    select(contributes, after, select(reaches, -abs(before), before)).store(tile.transmittance + at);
                }
            }
        };
        on_splat(frame.instances[k], s, d_x, for_each_group);
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
        [&](const Instance&, const Splat<T>& s, const B*, const auto& for_each_group) {
            const B values[4] = {B(s.color.x), B(s.color.y), B(s.color.z), B(s.inverse_depth)};
            for_each_group(
                [&](int at, Vec2<B>, B alpha, B transmittance, Mask<T> contributes) __attribute__((always_inline)) {
                    const B weight = select(contributes, blend_weight(transmittance, alpha), B(0));
                    for (int c = 0; c < kSums; ++c) (B::load(sums[c] + at) + weight * values[c]).store(sums[c] + at);
                });
        },
        [](const Instance&) {});

    const View<T>& view = frame.view;
    const int64_t plane = int64_t(view.width) * view.height;
    const B background[3] = {B(view.background.x), B(view.background.y), B(view.background.z)};
    for (int i = 0; i < kTilePixels; i += kLanes<T>) {
        const B transmittance = abs(B::load(tile.transmittance + i));
        transmittance.store(tile.transmittance + i);
        for (int c = 0; c < 3; ++c) (B::load(sums[c] + i) + transmittance * background[c]).store(sums[c] + i);
    }
    for (int c = 0; c < 3; ++c) tile.write(view, sums[c], out.image + c * plane);
    tile.write(view, tile.transmittance, out.transmittance);
    if constexpr (kDepth) tile.write(view, sums[3], out.inverse_depth);
}

/// dL/d of the pixels of a tile, and the remainder of blend_vjp.
template <class T> struct PixelGradients {
    alignas(kVectorBytes) T color[3][kTilePixels] = {};
    alignas(kVectorBytes) T inverse_depth[kTilePixels] = {};
    alignas(kVectorBytes) T remainder[kTilePixels] = {};

    PixelGradients(const View<T>& view, const TilePixels<T>& tile, const Images<const T>& images,
                   const Images<const T>& v) {
        using B = Batch<T>;
        const int64_t plane = int64_t(view.width) * view.height;
        alignas(kVectorBytes) T seen[4][kTilePixels] = {}, transmittance[kTilePixels] = {}, v_t[kTilePixels] = {};
        tile.read(view, images.transmittance, transmittance);
        tile.read(view, v.transmittance, v_t);
        // An output without gradient may be infinite, and infinity times zero is NaN.
        for (int c = 0; c < 3 && v.image; ++c) {
            tile.read(view, images.image + c * plane, seen[c]);
            tile.read(view, v.image + c * plane, color[c]);
        }
        if (v.inverse_depth) {
            tile.read(view, images.inverse_depth, seen[3]);
            tile.read(view, v.inverse_depth, inverse_depth);
        }
        for (int i = 0; i < kTilePixels; i += kLanes<T>) {
            const Channels<B> pixel{{B::load(seen[0] + i), B::load(seen[1] + i), B::load(seen[2] + i)},
                                    B::load(seen[3] + i)};
            whole_remainder(pixel, B::load(transmittance + i), load(i), B::load(v_t + i)).store(remainder + i);
        }
    }
    Channels<Batch<T>> load(int at) const {
        using B = Batch<T>;
        return {{B::load(color[0] + at), B::load(color[1] + at), B::load(color[2] + at)}, B::load(inverse_depth + at)};
    }
};

/// The sum over lanes. Inlined, because a reference that leaves the function would keep the caller's sums in memory.
template <class T> DGR_FN SplatGradient<T> sum(const SplatGradient<Batch<T>>& v) {
    const Batch<T> fields[] = {v.mean.x,   v.mean.y, v.abs_mean.x, v.abs_mean.y, v.conic.xx, v.conic.xy,
                               v.conic.yy, v.u,      v.color.x,    v.color.y,    v.color.z,  v.inverse_depth};
    constexpr int kFields = std::size(fields);
    std::array<T, kFields> sums;
    sums_of_lanes<kFields>(fields, sums.data());
    return std::bit_cast<SplatGradient<T>>(sums);
}

/// Writes the sums of each instance to its slot.
template <class T, bool kDepth, bool kAbsolute>
void blend_tile_backward(const Frame<T>& frame, int64_t tile_index, const Images<const T>& images,
                         const Images<const T>& v_images, Buffer<SplatGradient<T>>& slots) {
    using B = Batch<T>;
    TilePixels<T> tile(frame.view, tile_index);
    PixelGradients<T> v(frame.view, tile, images, v_images);
    walk_tile(
        frame, tile_index, tile,
        [&](const Instance& instance, const Splat<T>& s, const B* d_x, const auto& for_each_group) {
            const Sym2<B> conic{B(s.conic.xx), B(s.conic.xy), B(s.conic.yy)};
            const Channels<B> channels{{B(s.color.x), B(s.color.y), B(s.color.z)}, B(s.inverse_depth)};
            SplatGradient<B> sums = {};
            LineSums<B> columns[kTile / kLanes<T>] = {};
            for_each_group([&](int at, Vec2<B> d, B alpha, B transmittance,
                               Mask<T> contributes) __attribute__((always_inline)) {
                B remainder = B::load(v.remainder + at);
                const Channels<B> v_pixel = v.load(at);
                const PairGradient<B> pair = blend_vjp<kDepth>(channels, alpha, odds_of(alpha), transmittance,
                                                               contributes, v_pixel, remainder);
                remainder.store(v.remainder + at);
                add_channels<kDepth>(pair.weight, v_pixel, sums);
                add_pixel(d.y, pair.u, columns[at % kTile / kLanes<T>]);
                if constexpr (kAbsolute) add_absolute(times(conic, d), pair.u, sums.abs_mean);
            });
            for (int i = 0; i < kTile / kLanes<T>; ++i) add_column(d_x[i], columns[i], sums);
            slots[frame.slot_of(instance)] = sum(sums);
        },
        [&](const Instance& instance) { slots[frame.slot_of(instance)] = SplatGradient<T>{}; });
}

template <class T>
void importance_tile(const Frame<T>& frame, int64_t tile_index, const T* pixel_weights,
                     Buffer<ImportanceSlot<T>>& slots, int32_t* num_gaussians) {
    using B = Batch<T>;
    TilePixels<T> tile(frame.view, tile_index);
    alignas(kVectorBytes) T pixel_weight[kTilePixels] = {}, taken[kTilePixels] = {};
    tile.read(frame.view, pixel_weights, pixel_weight);
    walk_tile(
        frame, tile_index, tile,
        [&](const Instance& instance, const Splat<T>&, const B*, const auto& for_each_group) {
            B weighted(0), total(0), distance(0);
            int num_pixels = 0, num_weighted = 0;
            for_each_group([&](int at, Vec2<B> d, B alpha, B transmittance, Mask<T> contributes) {
                const B weight = select(contributes, blend_weight(transmittance, alpha), B(0));
                const B factor = B::load(pixel_weight + at);
                weighted += weight * factor;
                total += weight;
                distance += weight * sqrt(d.x * d.x + d.y * d.y);
                num_pixels += count(contributes);
                num_weighted += count(contributes & (abs(factor) > B(0)));
                (B::load(taken + at) + select(contributes, B(1), B(0))).store(taken + at);
            });
            const B parts[3] = {weighted, total, distance};
            T sums[3];
            sums_of_lanes<3>(parts, sums);
            slots[frame.slot_of(instance)] = {sums[0], sums[1], sums[2], num_pixels, num_weighted};
        },
        [&](const Instance& instance) { slots[frame.slot_of(instance)] = {}; });
    int32_t counts[kTilePixels];
    std::copy_n(taken, kTilePixels, counts);
    tile.write(frame.view, counts, num_gaussians);
}

/// Writes the change of each instance to its slot.
template <class T>
void removal_tile(const Frame<T>& frame, int64_t tile_index, const RemovalInput<T>& input, Buffer<T>& slots) {
    using B = Batch<T>;
    TilePixels<T> tile(frame.view, tile_index);
    const int64_t plane = int64_t(frame.view.width) * frame.view.height;
    alignas(kVectorBytes) T behind[3][kTilePixels] = {}, error[3][kTilePixels] = {}, weights[kTilePixels] = {};
    tile.read(frame.view, input.pixel_weights, weights);
    for (int c = 0; c < 3; ++c) {
        tile.read(frame.view, input.image + c * plane, behind[c]);
        tile.read(frame.view, input.photo + c * plane, error[c]);
        for (int i = 0; i < kTilePixels; ++i) error[c][i] = behind[c][i] - error[c][i];
    }
    const auto load = [](const T (&from)[3][kTilePixels], int at) {
        return Vec3<B>{B::load(from[0] + at), B::load(from[1] + at), B::load(from[2] + at)};
    };
    walk_tile(
        frame, tile_index, tile,
        [&](const Instance& instance, const Splat<T>& s, const B*, const auto& for_each_group) {
            const Vec3<B> color{B(s.color.x), B(s.color.y), B(s.color.z)};
            B change(0);
            for_each_group([&](int at, Vec2<B>, B alpha, B transmittance, Mask<T> contributes) {
                Vec3<B> rest = load(behind, at);
                change += B::load(weights + at) * removal_change(color, alpha, odds_of(alpha), transmittance,
                                                                 contributes, load(error, at), rest);
                rest.x.store(behind[0] + at), rest.y.store(behind[1] + at), rest.z.store(behind[2] + at);
            });
            slots[frame.slot_of(instance)] = sum(change);
        },
        [&](const Instance& instance) { slots[frame.slot_of(instance)] = 0; });
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
    const bool has_absolute = out.screen_means || out.abs_grad;
    const auto with_depth = has_absolute ? blend_tile_backward<T, true, true> : blend_tile_backward<T, true, false>;
    const auto without = has_absolute ? blend_tile_backward<T, false, true> : blend_tile_backward<T, false, false>;
    const auto blend = v_images.inverse_depth ? with_depth : without;
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
        for (int64_t s = frame.slot_begin[n]; s < frame.slot_begin[n + 1]; ++s) all.add(slots[s]);
        out.store(n, all);
    }
}

template <class T> void removal_error(const Frame<T>& frame, const RemovalInput<T>& input, T* change) {
    Team team(frame.options.num_threads);
    Buffer<T> slots(frame.instances.size());
    team.for_each(frame.view.num_tiles(), [&](int64_t tile) { removal_tile(frame, tile, input, slots); });
    for (int64_t n = 0; n < frame.radius_px.size(); ++n)
        change[n] = std::accumulate(slots.data() + frame.slot_begin[n], slots.data() + frame.slot_begin[n + 1], T(0));
}

#define DGR_INSTANTIATE(T)                                                                                       \
    template Frame<T> forward(const Gaussians<T>&, const View<T>&, const Options&, const Images<T>&);            \
    template void backward(const Frame<T>&, const Gaussians<T>&, const Images<const T>&, const Images<const T>&, \
                           const Gradients<T>&);                                                                 \
    template void importance(const Gaussians<T>&, const View<T>&, const Options&, const T*, const Importance<T>&); \
    template void removal_error(const Frame<T>&, const RemovalInput<T>&, T*);
DGR_INSTANTIATE(float)
DGR_INSTANTIATE(double)
#undef DGR_INSTANTIATE

}  // namespace dgr
