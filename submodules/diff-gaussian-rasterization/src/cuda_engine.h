// What the CUDA engine does: the calls of engine.h on device pointers, in float. Includes nothing of CUDA, so that a
// build without it can link cuda_absent.cpp instead.
#pragma once

#include <stdexcept>

#include "engine.h"

struct CUstream_st;  // what a cudaStream_t points to

namespace dgr::cuda {

/// An error that CUDA reports; the message is one line and says what to do where that is known.
struct Error : std::runtime_error { using std::runtime_error::runtime_error; };

/// Device memory that lives as long as its owner; the binding asks torch for it.
class Memory {
  public:
    virtual ~Memory() = default;
    /// At least `bytes`, aligned to 256. Throws what the allocator throws.
    virtual void* allocate(int64_t bytes) = 0;
    template <class T> T* array(int64_t count) {
        return static_cast<T*>(allocate((count > 0 ? count : 1) * static_cast<int64_t>(sizeof(T))));
    }
};

/// Where an operation runs. It waits for nothing but what forward reads back, and leaves its work queued on the stream.
struct Context {
    int device;
    CUstream_st* stream;
    Memory& scratch;  // may go when the call returns: what frees it knows the stream
};

/// Is there a CUDA engine in this build?
extern const bool is_built;

/// What forward leaves for backward; all arrays on the device, in memory that the caller keeps. Sizes as in dgr::Frame.
struct Frame {
    View<float> view;
    Options options;
    int64_t num_gaussians = 0, num_instances = 0;
    const Splat<float>* splats = nullptr;  // (N)
    const int32_t* radius_px = nullptr;    // (N)
    int64_t* tile_begin = nullptr;         // (tiles + 1)
    uint32_t* instances = nullptr;         // (I) Gaussian of each, ordered by tile, depth, index
    // Where options.is_differentiable. A tile's instances fall into segments, and every tile has at least one.
    int64_t max_segments = 0;          // no less than there are
    int64_t* segment_begin = nullptr;  // (tiles + 1)
    uint32_t* segment_tile = nullptr;  // (segments)
    uint32_t* pixel_last = nullptr;    // (tiles, 256) instances of its tile up to the last one that a pixel took
    uint32_t* tile_last = nullptr;     // (tiles) the largest of its pixels
    int num_channels = 0;              // blended: colour, colour and inverse depth, or none
    float* states = nullptr;  // (segments - tiles, 1 + channels, 256) transmittance and channels in front of a segment
};

/// `radius_px` (N) is an output of the caller's, and part of the frame.
Frame forward(const Context& context, Memory& kept, const Gaussians<float>& gaussians, const View<float>& view,
              const Options& options, const Images<float>& out, int32_t* radius_px);

void backward(const Context& context, const Frame& frame, const Gaussians<float>& gaussians,
              const Images<const float>& images, const Images<const float>& v_images, const Gradients<float>& out);

void importance(const Context& context, const Gaussians<float>& gaussians, const View<float>& view,
                const Options& options, const float* pixel_weights, const Importance<float>& out);

/// `values` (3): loss, L1, SSIM, on the device.
void photometric_loss(const Context& context, const LossInput<float>& input, float* values, float* v_image);

void adam(const Context& context, const AdamStep* rows, int num_rows, const int32_t* radius_px);

}  // namespace dgr::cuda
