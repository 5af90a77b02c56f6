// The structs that the bindings and the engines share.
#pragma once

#include <cstdint>
#include <memory>

#include "math.h"

namespace dgr {

struct Options {
    bool antialiased = false;
    int sh_degree = 0;
    int num_threads = 1;            // of the CPU engine
    bool is_differentiable = true;  // the CUDA engine keeps what backward needs
    bool is_deterministic = false;  // the CUDA engine gives the same bits in every run; the CPU engine always does
};

/// Camera, image size and background.
template <class T> struct View {
    int width, height;  // px
    Pinhole<T> camera;
    Vec3<T> background;
    DGR_FN int tiles_x() const { return (width + Limits::tile - 1) / Limits::tile; }
    DGR_FN int tiles_y() const { return (height + Limits::tile - 1) / Limits::tile; }
    DGR_FN int64_t num_tiles() const { return int64_t(tiles_x()) * tiles_y(); }
    /// Top-left pixel of a tile. Tiles are numbered row by row.
    DGR_FN Vec2<int> tile_corner(int64_t tile) const {
        return {static_cast<int>(tile % tiles_x()) * Limits::tile, static_cast<int>(tile / tiles_x()) * Limits::tile};
    }
};

/// Which inputs are given before their activations.
struct InputForm { bool log_scales = false, opacity_logits = false; };

/// The input arrays: covariances, or quats and scales; colors, or sh_dc and sh_rest. The others are null.
template <class T> struct Gaussians {
    int64_t count;
    const T* means;        // (N,3) world units
    const T* quats;        // (N,4) wxyz
    const T* scales;       // (N,3) world units, or their natural logarithms
    const T* covariances;  // (N,6) xx xy xz yy yz zz
    const T* opacities;    // (N), or their logits
    const T* sh_dc;        // (N,1,3)
    const T* sh_rest;      // (N,num_rest,3)
    const T* colors;       // (N,3)
    int num_rest;
    InputForm form{};
};

/// dL/d of each input, and screen-space gradients. Null arrays are not computed; the others are written completely.
template <class T> struct Gradients {
    T *means, *quats, *scales, *covariances, *opacities, *sh_dc, *sh_rest, *colors;
    T* screen_means;       // (N,4) NDC: x, y of dL/dmean, then the sums over pixels of their absolute values
    float* abs_grad;       // (N) norm of the two absolute values
    float* seen;           // (N) 1 for visible Gaussians, 0 for others
    T* world_to_camera;    // (4,4), each element for itself; the last row is zero
};

/// The outputs, or the gradients with respect to them. inverse_depth may be null.
template <class T> struct Images {
    T* image;          // (3,H,W)
    T* transmittance;  // (H,W)
    T* inverse_depth;  // (H,W)
};

/// A projected Gaussian. In float it is one cache line.
template <class T> struct alignas(16 * sizeof(T)) Splat {
    Vec2<T> mean;         // px
    Sym2<T> conic;        // px^-2
    T log2_opacity;
    Vec3<T> color;
    T inverse_depth;
    Vec2<T> half_extent;  // px, of the ellipse alpha >= alpha_min, see ellipse_level
    T half_chord, slope;  // see chord_at
};

/// A splat in a tile. Each instance has a slot of its own for its gradient, so that threads need no atomics.
struct Instance {
    uint32_t gaussian;
    uint32_t local;  // index of the tile among those of this Gaussian
};

/// Sums of importance over the pixels of one tile.
template <class T> struct ImportanceSlot {
    T weighted, total, distance;
    int32_t num_pixels, num_weighted;

    DGR_FN void add(const ImportanceSlot& other) {
        weighted += other.weighted;
        total += other.total;
        distance += other.distance;
        num_pixels += other.num_pixels;
        num_weighted += other.num_weighted;
    }
};

/// An array with uninitialized elements.
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
