// Device memory and stream of torch for the CUDA engine. Memory comes from a Python callable, so the build needs no
// torch headers, and torch's caching allocator and its limits apply.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "checks.h"
#include "cuda_engine.h"

namespace dgr {

/// Owns the tensors that it allocates. Construct and destroy it with the GIL held.
class TorchMemory : public cuda::Memory {
  public:
    /// allocate(bytes) returns a uint8 tensor of that length on the device, or raises. Small arrays share tensors of
    /// `chunk` bytes, because a call of Python takes as long as the launch of a kernel.
    explicit TorchMemory(nanobind::object allocate, int64_t chunk = 0)
        : allocate_(std::move(allocate)), chunk_(chunk) {}

    void* allocate(int64_t bytes) override {
        if (aligned(next_) + bytes > end_) {
            const int64_t length = std::max(bytes, chunk_);
            const nanobind::gil_scoped_acquire held;
            nanobind::object tensor = allocate_(length + kAlignment - 1);
            next_ = aligned(nanobind::cast<int64_t>(tensor.attr("data_ptr")()));
            end_ = next_ + length;
            tensors_.push_back(std::move(tensor));
        }
        const int64_t begin = aligned(next_);
        next_ = begin + bytes;
        return reinterpret_cast<void*>(begin);
    }

  private:
    static constexpr int64_t kAlignment = 256;  // torch aligns to 512 on a GPU and to 64 on the CPU
    static int64_t aligned(int64_t address) { return (address + kAlignment - 1) / kAlignment * kAlignment; }

    nanobind::object allocate_;
    std::vector<nanobind::object> tensors_;
    int64_t chunk_, next_ = 0, end_ = 0;  // the free part of the last tensor
};

/// Stream, allocator with its chunk, and determinism of a call of the CUDA engine; the CPU engine ignores them.
struct Queue {
    uintptr_t stream;
    nanobind::object allocate;  // see TorchMemory
    bool is_deterministic;
    int64_t chunk;  // bytes, of scratch memory

    TorchMemory scratch() const { return TorchMemory(allocate, chunk); }
    cuda::Context context(Device device, TorchMemory& scratch) const {
        return {device.id, reinterpret_cast<CUstream_st*>(stream), scratch};
    }
};

}  // namespace dgr
