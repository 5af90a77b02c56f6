// The order of blending: which splats touch which tile, by depth. Shared by the CPU engine's passes.
#pragma once

#include <algorithm>

#include "engine.h"
#include "team.h"

namespace dgr {

/// Tile columns [begin, end) of one row of tiles.
struct TileSpan { int begin, end; };
/// Tile rows and columns of a box, ends excluded.
struct TileBox { int x_begin, x_end, y_begin, y_end; };

/// The tiles that hold pixels of the ellipse's bounding box; empty where no pixel lies in it.
template <class T> inline TileBox tile_box(const View<T>& view, const Splat<T>& s) {
    const auto low = [](T x) { return static_cast<int>(std::ceil(std::max(x, T(0)))); };
    const auto high = [](T x, int size) { return static_cast<int>(std::floor(std::min(x, T(size - 1)))); };
    const int x0 = low(s.mean.x - s.half_extent.x), x1 = high(s.mean.x + s.half_extent.x, view.width);
    const int y0 = low(s.mean.y - s.half_extent.y), y1 = high(s.mean.y + s.half_extent.y, view.height);
    if (x0 > x1 || y0 > y1) return {0, 0, 0, 0};
    return {x0 / Limits::tile, x1 / Limits::tile + 1, y0 / Limits::tile, y1 / Limits::tile + 1};
}

/// Tile columns that the ellipse touches in one row of tiles of its box: the exact extent of the part of the ellipse
/// between the row's first and last line of pixels [Speedy-Splat, arXiv:2412.00578].
template <class T> inline TileSpan tile_span(const View<T>& view, const Splat<T>& s, const TileBox& box, int tile_y) {
    if (box.y_end - box.y_begin == 1 || box.x_end - box.x_begin == 1) return {box.x_begin, box.x_end};
    const T top = T(tile_y * Limits::tile) - s.mean.y;
    const T bottom = T(std::min((tile_y + 1) * Limits::tile, view.height) - 1) - s.mean.y;
    // The rightmost point of the ellipse lies at height turn, the leftmost at -turn; the nearest height inside counts.
    const T turn = -s.conic.xy / s.conic.yy * s.half_extent.x;
    const auto half_width = [&](T dy) {
        const T t = dy / s.half_extent.y;
        return s.half_chord * std::sqrt(std::max(T(0), T(1) - t * t));
    };
    const T dy_right = std::clamp(turn, top, bottom), dy_left = std::clamp(-turn, top, bottom);
    const T right = s.mean.x + s.slope * dy_right + half_width(dy_right);
    const T left = s.mean.x + s.slope * dy_left - half_width(dy_left);
    const int first = static_cast<int>(std::floor(std::max(left, T(0)))) / Limits::tile;
    const int last = static_cast<int>(std::ceil(std::clamp(right, T(0), T(view.width - 1)))) / Limits::tile;
    return {std::max(first, box.x_begin), std::max(first, std::min(last + 1, box.x_end))};
}

/// Fills slot_begin, tile_begin and instances of a frame whose splats and radii are known.
/// depth (N) is z in camera space; only rows with radius_px > 0 are read.
template <class T> void order_instances(Team& team, const T* depth, int64_t count, Frame<T>& frame);

/// Projects every Gaussian: splats, radius_px and depth (N).
template <class T>
void project(Team& team, const Gaussians<T>& gaussians, Frame<T>& frame, T* depth);

/// Projection and order in one: all that blending needs.
template <class T>
Frame<T> plan_frame(Team& team, const Gaussians<T>& gaussians, const View<T>& view, const Options& options);

/// Backward of project, from the sums over slots.
template <class T>
void project_backward(Team& team, const Frame<T>& frame, const Gaussians<T>& gaussians,
                      const Buffer<SplatGradient<T>>& slots, const Gradients<T>& out);

}  // namespace dgr
