// Device memory and stream of torch for the CUDA engine. Memory comes from a Python callable, so the build needs no
// torch headers, and torch's caching allocator and its limits apply.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>
#include <vector>

#include "checks.h"
#include "cuda_engine.h"

namespace dgr {

/// Owns the tensors that it allocates. Construct and destroy it with the GIL held.
class TorchMemory : public cuda::Memory {
  public:
    /// allocate(bytes) returns a uint8 tensor of that length on the device, or raises.
    explicit TorchMemory(nanobind::object allocate) : allocate_(std::move(allocate)) {}

    void* allocate(int64_t bytes) override {
        constexpr int64_t alignment = 256;  // torch aligns to 512 on a GPU and to 64 on the CPU
        const nanobind::gil_scoped_acquire held;
        nanobind::object tensor = allocate_(bytes + alignment - 1);
        const auto address = nanobind::cast<uintptr_t>(tensor.attr("data_ptr")());
        tensors_.push_back(std::move(tensor));
        return reinterpret_cast<void*>((address + alignment - 1) / alignment * alignment);
    }

  private:
    nanobind::object allocate_;
    std::vector<nanobind::object> tensors_;
};

/// Stream, allocator and determinism of a call of the CUDA engine; the CPU engine ignores them.
struct Queue {
    uintptr_t stream;
    nanobind::object allocate;  // see TorchMemory
    bool is_deterministic;

    cuda::Context context(Device device, TorchMemory& scratch) const {
        return {device.id, reinterpret_cast<CUstream_st*>(stream), scratch};
    }
};

}  // namespace dgr
