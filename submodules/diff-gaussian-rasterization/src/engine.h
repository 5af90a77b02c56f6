// The functions of the CPU engine, implemented in cpu_*.cpp: forward, backward, importance, removal errors, loss, Adam
// and the sums of gradients.
#pragma once

#include "types.h"

namespace dgr {

/// The state that backward needs of forward. Sizes: N Gaussians, I instances.
template <class T> struct Frame {
    View<T> view;
    Options options;
    Buffer<Splat<T>> splats;  // (N), undefined where radius_px is 0
    Buffer<int32_t> radius_px;  // (N), 0 = culled
    Buffer<int64_t> slot_begin;  // (N + 1), the slots of each Gaussian: one for each tile it touches
    Buffer<int64_t> tile_begin;  // (tiles + 1), the instances of each tile
    Buffer<Instance> instances;  // (I), in a tile sorted by depth, then index

    /// The slot for the gradient of an instance.
    int64_t slot_of(const Instance& instance) const { return slot_begin[instance.gaussian] + instance.local; }
};

/// Renders. Throws std::bad_alloc.
template <class T>
Frame<T> forward(const Gaussians<T>& gaussians, const View<T>& view, const Options& options, const Images<T>& out);

/// The gradient of forward. images: the outputs of forward; v_images: dL/d of them, null for zero. Gradients of
/// invisible Gaussians are zero.
template <class T>
void backward(const Frame<T>& frame, const Gaussians<T>& gaussians, const Images<const T>& images,
              const Images<const T>& v_images, const Gradients<T>& out);

/// Sums over pixels of the weight of each Gaussian, and counts.
template <class T> struct Importance {
    T *weighted, *total;     // (N) sum of pixel weight * weight; sum of weight
    T* distance;             // (N) sum of weight * distance of the pixel from the mean, px
    int32_t* num_pixels;     // (N) to which the Gaussian contributes
    int32_t* num_weighted;   // (N) of these, with a pixel weight other than 0
    int32_t* num_gaussians;  // (H,W) that contribute to the pixel

    /// Writes the sums of Gaussian n.
    DGR_FN void store(int64_t n, const ImportanceSlot<T>& sums) const {
        weighted[n] = sums.weighted;
        total[n] = sums.total;
        distance[n] = sums.distance;
        num_pixels[n] = sums.num_pixels;
        num_weighted[n] = sums.num_weighted;
    }
};
template <class T>
void importance(const Gaussians<T>& gaussians, const View<T>& view, const Options& options, const T* pixel_weights,
                const Importance<T>& out);

/// The input of removal_error. image: the output of forward.
template <class T> struct RemovalInput {
    const T *image, *photo;  // (3,H,W)
    const T* pixel_weights;  // (H,W)
};
/// The change of the sum over pixels of pixel weight * squared error if one Gaussian is removed, for each: change (N).
template <class T> void removal_error(const Frame<T>& frame, const RemovalInput<T>& input, T* change);

/// The input of mixed_loss of an image and a photo. SSIM pads with zeros.
template <class T> struct LossInput {
    int channels, width, height;
    int margin;                  // px; the mean of SSIM leaves out what is nearer to an edge
    const T* image;              // (C,H,W)
    const T* photo;              // (C,H,W); if null, photo_bytes is used
    const uint8_t* photo_bytes;  // (C,H,W) 0 to 255
    const bool* mask;            // (H,W) or null; image and photo are zero where it is false
    double ssim_weight;
    int num_threads;

    double num_values() const { return double(channels) * width * height; }
    double num_similarities() const { return double(channels) * (width - 2 * margin) * (height - 2 * margin); }
};
template <class T> struct LossOutput { T loss, l1, ssim; };
/// v_image: (C,H,W) dL/dimage, an output; may be null.
template <class T> LossOutput<T> photometric_loss(const LossInput<T>& input, T* v_image);

/// A step of Adam [Kingma and Ba, arXiv:1412.6980] for one tensor. All arrays are (count, width).
struct AdamStep {
    float* values;
    const float* gradient;
    float *exp_avg, *exp_avg_sq;
    int64_t count;
    int width;
    double rate, beta1, beta2, epsilon;
    int64_t step;  // from 1
};
/// Updates values and moments, but not in rows where radius_px is 0. radius_px: (count) for every tensor, or null.
void adam(const AdamStep* tensors, int num_tensors, const int32_t* radius_px, int num_threads);

/// A gradient of a view, and what it is added to.
struct GradientSum {
    float* gradient;
    float* sum;  // or null: then the gradient stays, and becomes zero if the view is not usable
    int64_t size;
    bool is_checked;
};
/// Adds the gradients of a view to sums, all or none. usable: whether |loss| and the squares of the checked gradients
/// add up to less than `largest`, which NaN does not.
void add_gradients(const GradientSum* gradients, int num_gradients, const float* loss, float largest, bool* usable,
                   int num_threads);

}  // namespace dgr
