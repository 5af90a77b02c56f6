// The checks of arrays in the bindings: device, dtype, shape, contiguity. An error names the argument, the expected and
// the actual value.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cuda_engine.h"

// DLPack's device type of the CUDA engine's arrays. The build that emulates CUDA sets it to the CPU, and then all
// arrays go to the CUDA engine.
#ifndef DGR_CUDA_DEVICE_TYPE
#define DGR_CUDA_DEVICE_TYPE nanobind::device::cuda::value
#endif

namespace nb = nanobind;

namespace dgr {

using Array = nb::ndarray<>;
using OptionalArray = std::optional<Array>;

inline constexpr int kCudaDeviceType = DGR_CUDA_DEVICE_TYPE;

/// The device of an array, as in DLPack.
struct Device {
    int type, id;
    bool operator==(const Device&) const = default;
    /// Whether the CUDA engine handles arrays there.
    bool is_cuda() const { return type == kCudaDeviceType; }
};
inline constexpr Device kCpu{nb::device::cpu::value, 0};

inline Device device_of(const Array& array) {
    const int type = array.device_type();
    if (type == nb::device::cuda_host::value) return kCpu;  // pinned
    return {type, array.device_id()};
}

using Shape = std::vector<int64_t>;
inline Shape shape_of(const Array& array) { return {array.shape_ptr(), array.shape_ptr() + array.ndim()}; }
inline std::string shape_text(const Shape& shape) {
    std::string text = "(";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + (shape.size() == 1 ? ",)" : ")");
}
inline std::string shape_text(const Array& array) { return shape_text(shape_of(array)); }
inline std::string dtype_text(nb::dlpack::dtype dtype) {
    const char* kinds[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
    if (dtype.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Bool)) return "bool";
    return (dtype.code < 7 ? kinds[dtype.code] : "dtype") + std::to_string(dtype.bits);
}
/// As in torch, e.g. cuda:0.
inline std::string device_text(Device device) {
    if (device == kCpu) return "cpu";
    const bool is_cuda = device.type == nb::device::cuda::value;
    return (is_cuda ? "cuda" : "device type " + std::to_string(device.type)) + ":" + std::to_string(device.id);
}
[[noreturn]] inline void refuse(const std::string& name, const std::string& expected, const std::string& actual) {
    throw nb::value_error((name + ": expected " + expected + ", got " + actual).c_str());
}

/// The device of an array, which selects the engine. Throws if this build has no engine for it.
inline Device engine_device(const Array& array, const char* name) {
    const Device device = device_of(array);
    if (device.is_cuda()) {
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
    if (device_of(array) != device) refuse(name, "device " + device_text(device), device_text(device_of(array)));
    if (array.dtype() != nb::dtype<std::remove_const_t<T>>())
        refuse(name, "dtype " + dtype_text(nb::dtype<std::remove_const_t<T>>()), dtype_text(array.dtype()));
    if (shape_of(array) != shape) refuse(name, "shape " + shape_text(shape), shape_text(array));
    int64_t stride = 1;
    for (size_t i = array.size() == 0 ? 0 : array.ndim(); i-- > 0; stride *= static_cast<int64_t>(array.shape(i)))
        if (array.shape(i) > 1 && array.stride(i) != stride) refuse(name, "a contiguous array", "strides that are not");
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
