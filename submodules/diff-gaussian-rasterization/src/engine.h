// What an engine does, in three calls: forward, backward, importance; and the loss. cpu_*.cpp implement it for the CPU.
#pragma once

#include "types.h"

namespace dgr {

/// What forward leaves for backward. Sizes: N Gaussians, I instances, tiles row by row.
template <class T> struct Frame {
    View<T> view;
    Options options;
    Buffer<Splat<T>> splats;  // (N), undefined where radius_px is 0
    Buffer<int32_t> radius_px;  // (N), 0 = culled
    Buffer<int64_t> slot_begin;  // (N + 1), each Gaussian's slots: one for each tile it touches
    Buffer<int64_t> tile_begin;  // (tiles + 1), each tile's instances ...
    Buffer<Instance> instances;  // (I), ... in order of depth, then index

    /// Where the gradient of an instance goes.
    int64_t slot_of(const Instance& instance) const { return slot_begin[instance.gaussian] + instance.local; }
};

/// Projects, culls, orders and blends. Throws std::bad_alloc.
template <class T>
Frame<T> forward(const Gaussians<T>& gaussians, const View<T>& view, const Options& options, const Images<T>& out);

/// Exact derivatives of forward. `images` is what forward wrote, `v_images` the gradient with respect to it (null parts
/// count as zero). Writes every row of every gradient asked for, zero where a Gaussian is not visible.
template <class T>
void backward(const Frame<T>& frame, const Gaussians<T>& gaussians, const Images<const T>& images,
              const Images<const T>& v_images, const Gradients<T>& out);

/// Per Gaussian, over pixels: sum of pixel_weight * T * alpha, sum of T * alpha, number of pixels it contributed to; and
/// per pixel the number of Gaussians that did.
template <class T> struct Importance {
    T *weighted, *total;  // (N)
    int32_t* num_pixels;  // (N)
    int32_t* num_gaussians;  // (H,W)
};
template <class T>
void importance(const Gaussians<T>& gaussians, const View<T>& view, const Options& options, const T* pixel_weights,
                const Importance<T>& out);

/// (1 - ssim_weight) * L1 + ssim_weight * (1 - SSIM), SSIM with an 11x11 Gaussian window and zero padding.
template <class T> struct LossInput {
    int width, height;
    const T* image;  // (3,H,W)
    const T* photo;  // (3,H,W), or null and then
    const uint8_t* photo_bytes;  // (3,H,W), 255 = 1
    const bool* mask;  // (H,W) or null; image and photo count as zero where it is false
    double ssim_weight;
    int num_threads;
};
template <class T> struct LossOutput { T loss, l1, ssim; };
/// v_image: (3,H,W), the gradient of the loss; null = not wanted.
template <class T> LossOutput<T> photometric_loss(const LossInput<T>& input, T* v_image);

/// One tensor's share of a step of Adam [Kingma and Ba, arXiv:1412.6980]; all arrays (count, width).
struct AdamStep {
    float* values;
    const float* gradient;
    float *exp_avg, *exp_avg_sq;
    int64_t count;
    int width;
    double rate, beta1, beta2, epsilon;
    int64_t step;  // from 1, for the correction of the bias
};
/// Updates values and moments. With radius_px (count of every tensor), rows where it is 0 stay as they are.
void adam(const AdamStep* rows, int num_rows, const int32_t* radius_px, int num_threads);

}  // namespace dgr
