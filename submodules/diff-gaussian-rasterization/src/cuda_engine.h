// The functions of the CUDA engine: those of engine.h on device pointers, in float. This header includes no CUDA
// header, so that a build without CUDA can link cuda_absent.cpp.
#pragma once

#include <stdexcept>

#include "engine.h"

struct CUstream_st;  // cudaStream_t is a pointer to it

namespace dgr::cuda {

/// An error of CUDA. The message is one line, with advice if there is any.
struct Error : std::runtime_error { using std::runtime_error::runtime_error; };

/// An allocator of device memory, which is freed with the allocator.
class Memory {
  public:
    virtual ~Memory() = default;
    /// At least `bytes`, aligned to 256. May throw.
    virtual void* allocate(int64_t bytes) = 0;
    template <class T> T* array(int64_t count) {
        return static_cast<T*>(allocate((count > 0 ? count : 1) * static_cast<int64_t>(sizeof(T))));
    }
};

/// Device and stream of an operation. Operations are asynchronous, except that forward reads one number back.
struct Context {
    int device;
    CUstream_st* stream;
    Memory& scratch;  // freed after the call, in stream order
};

/// Whether this build has a CUDA engine.
extern const bool is_built;

/// The state that backward needs of forward. All arrays are on the device, in `kept` of forward. Sizes as in
/// dgr::Frame.
struct Frame {
    View<float> view;
    Options options;
    int64_t num_gaussians = 0, num_instances = 0;
    const Splat<float>* splats = nullptr;  // (N)
    const int32_t* radius_px = nullptr;    // (N)
    const int32_t* num_tiles = nullptr;    // (N) instances of each Gaussian, if options.is_deterministic
    int64_t* tile_begin = nullptr;         // (tiles + 1)
    uint32_t* instances = nullptr;         // (I) index of the Gaussian, sorted by tile, depth, index
    // If options.is_differentiable.
    int64_t max_blocks = 0;            // upper bound of the number of blocks in backward, see first_block
    uint32_t* block_tile = nullptr;    // (blocks)
    uint32_t* pixel_last = nullptr;    // (tiles, 256) 1 + index in the tile of the last instance blended, or 0
    uint32_t* tile_last = nullptr;     // (tiles) maximum of pixel_last
    uint8_t* touched = nullptr;        // (I) bit b: the instance touches block b of its tile's pixels; up to tile_last
    int num_channels = 0;              // blended: 3 = colour, 4 = colour and inverse depth, 0 = none
    float* states = nullptr;  // (I / segment, 1 + channels, 256) transmittance and sums before a segment
};

/// radius_px: (N), an output that the frame refers to.
Frame forward(const Context& context, Memory& kept, const Gaussians<float>& gaussians, const View<float>& view,
              const Options& options, const Images<float>& out, int32_t* radius_px);

void backward(const Context& context, const Frame& frame, const Gaussians<float>& gaussians,
              const Images<const float>& images, const Images<const float>& v_images, const Gradients<float>& out);

void importance(const Context& context, const Gaussians<float>& gaussians, const View<float>& view,
                const Options& options, const float* pixel_weights, const Importance<float>& out);

/// Needs a frame of differentiable options.
void removal_error(const Context& context, const Frame& frame, const RemovalInput<float>& input, float* change);

/// values: (3) on the device: loss, L1, SSIM.
void photometric_loss(const Context& context, const LossInput<float>& input, float* loss, float* parts,
                      float* v_image);

void adam(const Context& context, const AdamStep* tensors, int num_tensors, const int32_t* radius_px);

/// loss and usable are on the device.
void add_gradients(const Context& context, const GradientSum* gradients, int num_gradients, const float* loss,
                   float largest, bool* usable);

}  // namespace dgr::cuda
