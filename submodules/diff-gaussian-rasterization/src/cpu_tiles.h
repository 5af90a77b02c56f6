// What the CPU engine's passes share: projection and the order of blending.
#pragma once

#include <algorithm>

#include "engine.h"
#include "team.h"
#include "tiles.h"

namespace dgr {

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
