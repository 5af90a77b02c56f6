// Plain structs that cross the engine's borders by value, and the constants of the rasterizer (the only place for
// them).
#pragma once

#include <cstdint>
#include <memory>

#include "math.h"

namespace dgr {

struct Limits {
    static constexpr double near = 0.2;                 // world units; nearer Gaussians are culled
    static constexpr double blur = 0.3;                 // px^2, the low-pass filter of 3DGS
    static constexpr double border = 0.15;              // Jacobian clamp, as a share of the image beyond each edge
    static constexpr double alpha_min = 1.0 / 255.0;
    static constexpr double log2_alpha_min = -7.994353436858858;
    static constexpr double alpha_max = 0.99;
    static constexpr double transmittance_min = 1e-4;
    static constexpr int tile = 16;                     // px
    static constexpr int sh_degree_max = 3;
    static constexpr int64_t pixels_max = int64_t(1) << 30;  // of an image
};

struct Options {
    bool antialiased = false;
    int sh_degree = 0;
    int num_threads = 1;            // of the CPU engine
    bool is_differentiable = true;  // will backward follow? The CUDA engine then keeps what it needs
    bool is_deterministic = false;  // same bits from every run of the CUDA engine; the CPU engine always gives that
};

/// Where the picture is taken from, and what lies behind everything.
template <class T> struct View {
    int width, height;  // px
    Pinhole<T> camera;
    Vec3<T> background;
    DGR_FN int tiles_x() const { return (width + Limits::tile - 1) / Limits::tile; }
    DGR_FN int tiles_y() const { return (height + Limits::tile - 1) / Limits::tile; }
    DGR_FN int64_t num_tiles() const { return int64_t(tiles_x()) * tiles_y(); }
};

/// Rows of the set. Either covariances or quats and scales; either colors or sh_dc (and sh_rest); the rest null.
template <class T> struct Gaussians {
    int64_t count;
    const T* means;        // (N,3) world units
    const T* quats;        // (N,4) wxyz
    const T* scales;       // (N,3) world units
    const T* covariances;  // (N,6) xx xy xz yy yz zz
    const T* opacities;    // (N)
    const T* sh_dc;        // (N,1,3)
    const T* sh_rest;      // (N,num_rest,3)
    const T* colors;       // (N,3)
    int num_rest;
};

/// dL/d of each row above, and the screen-space gradients; null where not asked for. Every row asked for is written.
template <class T> struct Gradients {
    T *means, *quats, *scales, *covariances, *opacities, *sh_dc, *sh_rest, *colors;
    T* screen_means;       // (N,4): sum over pixels of the gradient (x, y) and of its absolute value (|x|, |y|), NDC
    float* abs_grad_sum;   // (N), added to: norm of the absolute pair, visible Gaussians only
    int32_t* views;        // (N), added to: 1 for each visible Gaussian
};

/// The pictures, or, const, the gradients with respect to them. inverse_depth may be null.
template <class T> struct Images {
    T* image;          // (3,H,W)
    T* transmittance;  // (H,W)
    T* inverse_depth;  // (H,W)
};

/// A projected Gaussian: one cache line in float, read once for each tile it touches.
template <class T> struct alignas(16 * sizeof(T)) Splat {
    Vec2<T> mean;         // px
    Sym2<T> conic;        // px^-2
    T log2_opacity;
    Vec3<T> color;
    T inverse_depth;
    Vec2<T> half_extent;  // px, of the ellipse alpha >= alpha_min, a little widened against rounding
    // The ellipse's chord at height d.y: its middle at d.x = slope * d.y, half its width half_chord * sqrt(1 - t^2)
    // with t = d.y / half_extent.y.  [docs/math.md eq. 13]
    T half_chord, slope;
};

/// A splat in a tile. Its gradient goes to a slot of its own, so that no two threads ever add to one place.
struct Instance {
    uint32_t gaussian;
    uint32_t local;  // counts the tiles of this Gaussian
};

/// What the pixels of one tile say about one splat; d = pixel - mean, u = dL/d ln(alpha).
template <class T> struct SplatGradient {
    Vec2<T> mean, abs_mean;  // dL/dmean in px^-1, and the sum over pixels of absolute values
    Sym2<T> conic;
    T u;  // sum of u
    Vec3<T> color;
    T inverse_depth;
};

/// An array without the zeros that std::vector writes first.
template <class T> class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(int64_t size) : data_(new T[size]), size_(size) {}
    T* data() { return data_.get(); }
    const T* data() const { return data_.get(); }
    int64_t size() const { return size_; }
    T& operator[](int64_t i) { return data_[i]; }
    const T& operator[](int64_t i) const { return data_[i]; }

  private:
    std::unique_ptr<T[]> data_;
    int64_t size_ = 0;
};

}  // namespace dgr
