// The tiles that a splat touches, computed alike by both engines.
#pragma once

#include "types.h"

namespace dgr {

/// Tile columns [begin, end) in one row of tiles.
struct TileSpan { int begin, end; };
/// Tile columns [x_begin, x_end) and rows [y_begin, y_end).
struct TileBox { int x_begin, x_end, y_begin, y_end; };

/// First and last pixel of an interval in px that begins or ends at x, clamped to the image; first > last if empty.
template <class T> DGR_FN int first_pixel(T x) { return static_cast<int>(ceil(max(x, T(0)))); }
template <class T> DGR_FN int last_pixel(T x, int size) { return static_cast<int>(floor(min(x, T(size - 1)))); }

/// The tiles with pixels in the ellipse's bounding box.
template <class T> DGR_FN TileBox tile_box(const View<T>& view, const Splat<T>& s) {
    const int x0 = first_pixel(s.mean.x - s.half_extent.x), x1 = last_pixel(s.mean.x + s.half_extent.x, view.width);
    const int y0 = first_pixel(s.mean.y - s.half_extent.y), y1 = last_pixel(s.mean.y + s.half_extent.y, view.height);
    if (x0 > x1 || y0 > y1) return {0, 0, 0, 0};
    return {x0 / Limits::tile, x1 / Limits::tile + 1, y0 / Limits::tile, y1 / Limits::tile + 1};
}

/// The chord of the ellipse at height dy above the mean, in px: x - mean.x in [middle - half, middle + half].  [eq. 13]
template <class T> struct Chord { T middle, half; };
/// inv_extent: 1 / half_extent.y.
template <class T> DGR_FN Chord<T> chord_at(T slope, T half_chord, T inv_extent, T dy) {
    const T t = dy * inv_extent;
    return {slope * dy, half_chord * sqrt(max(T(1) - t * t, T(0)))};
}

/// Heights in an ellipse. The rightmost point is turn above the mean, the leftmost -turn; inv_extent: 1 /
/// half_extent.y.
template <class T> struct EllipseHeights { T turn, inv_extent; };
template <class T> DGR_FN EllipseHeights<T> ellipse_heights(const Splat<T>& s) {
    return {-s.conic.xy / s.conic.yy * s.half_extent.x, T(1) / s.half_extent.y};
}
/// Leftmost and rightmost x in px of the part of the ellipse between two heights, both within the ellipse's extent or
/// clamped to it.  [eq. 13]
template <class T>
DGR_FN Vec2<T> chord_between(const Splat<T>& s, const EllipseHeights<T>& heights, T y_top, T y_bottom) {
    const T top = y_top - s.mean.y, bottom = y_bottom - s.mean.y;
    // At a turn, or at the nearest height in range.
    const T right_y = min(max(heights.turn, top), bottom), left_y = min(max(-heights.turn, top), bottom);
    const Chord<T> left = chord_at(s.slope, s.half_chord, heights.inv_extent, left_y);
    const Chord<T> right = chord_at(s.slope, s.half_chord, heights.inv_extent, right_y);
    return {s.mean.x + left.middle - left.half, s.mean.x + right.middle + right.half};
}

/// Tile columns that the ellipse touches in one row of tiles of its box: the extent of the part of the ellipse between
/// the row's first and last line of pixels [Speedy-Splat, arXiv:2412.00578].
template <class T> DGR_FN TileSpan tile_span(const View<T>& view, const Splat<T>& s, const TileBox& box, int tile_y) {
    if (box.y_end - box.y_begin == 1 || box.x_end - box.x_begin == 1) return {box.x_begin, box.x_end};
    const int y_end = (tile_y + 1) * Limits::tile;
    const Vec2<T> chord = chord_between(s, ellipse_heights(s), T(tile_y * Limits::tile),
                                        T((y_end < view.height ? y_end : view.height) - 1));
    const T beyond(view.tiles_x() * Limits::tile);
    const int first = static_cast<int>(floor(min(max(chord.x, T(0)), beyond))) / Limits::tile;
    const int last = static_cast<int>(ceil(min(max(chord.y, T(0)), T(view.width - 1)))) / Limits::tile;
    const int end = last + 1 < box.x_end ? last + 1 : box.x_end;
    return {first > box.x_begin ? first : box.x_begin, first > end ? first : end};
}

}  // namespace dgr
