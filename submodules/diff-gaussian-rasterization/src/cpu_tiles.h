// The interface between the CPU engine's passes: projection and the order of blending.
#pragma once

#include <algorithm>

#include "engine.h"
#include "team.h"
#include "tiles.h"

namespace dgr {

/// Writes splats and radius_px of the frame, and depth (N): z in camera space.
template <class T>
void project(Team& team, const Gaussians<T>& gaussians, Frame<T>& frame, T* depth);

/// Projects the Gaussians and sorts their instances by tile and depth.
template <class T>
Frame<T> plan_frame(Team& team, const Gaussians<T>& gaussians, const View<T>& view, const Options& options);

/// Gradients of the inputs from the gradients of the splats, one for each slot.
template <class T>
void project_backward(Team& team, const Frame<T>& frame, const Gaussians<T>& gaussians,
                      const Buffer<SplatGradient<T>>& slots, const Gradients<T>& out);

}  // namespace dgr
