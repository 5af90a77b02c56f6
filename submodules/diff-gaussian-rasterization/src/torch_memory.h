// What the CUDA engine takes from torch: device memory by way of a Python callable, so that no torch header is needed
// and torch's own cache and limits stay in charge, and the stream.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>
#include <vector>

#include "checks.h"
#include "cuda_engine.h"

namespace dgr {

/// Keeps the tensors that it got for as long as it lives. Make and destroy it with the GIL held.
class TorchMemory : public cuda::Memory {
  public:
    /// allocate(bytes) returns a uint8 tensor of that length on the device, or raises.
    explicit TorchMemory(nanobind::object allocate) : allocate_(std::move(allocate)) {}

    void* allocate(int64_t bytes) override {
        constexpr int64_t alignment = 256;  // torch gives 512 on a GPU and 64 in main memory
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

/// What a call of the CUDA engine needs beside its arrays; the CPU engine looks at none of it.
struct Queue {
    uintptr_t stream;
    nanobind::object allocate;  // as TorchMemory wants it
    bool is_deterministic;

    cuda::Context context(Place place, TorchMemory& scratch) const {
        return {place.id, reinterpret_cast<CUstream_st*>(stream), scratch};
    }
};

}  // namespace dgr
