// The checks of arrays in the bindings: device, dtype, shape, contiguity. An error names the argument, the expected and
// the actual value.
#pragma once

#include <algorithm>
#include <string>

#include "array.h"
#include "cuda_engine.h"

// The device of the CUDA engine's arrays. The build that emulates CUDA sets it to the CPU, and then all arrays go to the
// CUDA engine.
#ifndef DGR_CUDA_DEVICE_TYPE
#define DGR_CUDA_DEVICE_TYPE dgr::Device::cuda
#endif

namespace dgr {

/// Whether the CUDA engine handles arrays on a device.
inline bool is_cuda(Device device) { return device.type == DGR_CUDA_DEVICE_TYPE; }

inline std::string shape_text(const Shape& shape) {
    std::string text = "(";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + (shape.size() == 1 ? ",)" : ")");
}
/// As in torch, e.g. cuda:0.
inline std::string device_text(Device device) {
    if (device == kCpu) return "cpu";
    return device.type == Device::cuda ? "cuda:" + std::to_string(device.id) : "another device";
}
[[noreturn]] inline void refuse(const std::string& name, const std::string& expected, const std::string& actual) {
    throw nb::value_error((name + ": expected " + expected + ", got " + actual).c_str());
}

/// The device of an array, which selects the engine. Throws if this build has no engine for it.
inline Device engine_device(const Array& array, const char* name) {
    const Device device = array.device();
    if (is_cuda(device)) {
        if (!cuda::is_built)
            refuse(name, "device cpu (this build has no CUDA engine: install it again with DGR_CUDA=1)",
                   device_text(device));
    } else if (device != kCpu) {
        refuse(name, "a device with an engine", device_text(device));
    }
    return device;
}

/// The array's pointer. Throws if device, dtype, shape or strides are wrong. Null for an empty optional.
template <class T>
T* checked(const Array& array, const char* name, const Shape& shape, Device device = kCpu) {
    using Number = std::remove_const_t<T>;
    if (array.device() != device) refuse(name, "device " + device_text(device), device_text(array.device()));
    if (!array.is_of<Number>()) refuse(name, "dtype " + Array::dtype_text_of<Number>(), array.dtype_text());
    if (array.shape() != shape) refuse(name, "shape " + shape_text(shape), shape_text(array.shape()));
    if (!array.is_contiguous()) refuse(name, "a contiguous array", "strides that are not");
    return static_cast<T*>(array.data());
}
template <class T>
T* checked(const OptionalArray& array, const char* name, const Shape& shape, Device device = kCpu) {
    return array ? checked<T>(*array, name, shape, device) : nullptr;
}

inline int checked_threads(int num_threads) {
    constexpr int max_threads = 256;  // each one costs memory
    if (num_threads < 0) refuse("threads", "0 or more", std::to_string(num_threads));
    return std::clamp(num_threads, 1, max_threads);
}

}  // namespace dgr
