// Torch tensors in the bindings, without torch's headers. torch 2.10 and newer describe a tensor through a table of C
// functions of DLPack. Of older ones the attributes are read through Python, which takes far longer.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <string>
#include <vector>

namespace nb = nanobind;

namespace dgr {

/// Where a tensor lies.
struct Device {
    enum Type { other, cpu, cuda };
    Type type;
    int id;
    bool operator==(const Device&) const = default;
};
inline constexpr Device kCpu{Device::cpu, 0};

using Shape = std::vector<int64_t>;

/// DLPack's table of functions, as torch.Tensor.__dlpack_c_exchange_api__ has it.
struct DlpackFunctions {
    uint32_t major, minor;
    const DlpackFunctions* older;
    void *allocate, *export_managed, *import_managed;  // not used here
    int (*describe)(void* tensor, nb::dlpack::dltensor* out);  // 0, or -1 with an exception of Python
};

/// Objects of torch, looked up once and never freed.
struct TorchObjects {
    const DlpackFunctions* dlpack;  // or null
    PyTypeObject* tensor;
    PyObject *float32, *float64, *int32, *uint8, *boolean;

    static const TorchObjects& get() {
        static const TorchObjects* objects = new TorchObjects(nb::module_::import_("torch"));
        return *objects;
    }

  private:
    explicit TorchObjects(const nb::module_& torch)
        : dlpack(dlpack_of(torch.attr("Tensor"))),
          tensor(reinterpret_cast<PyTypeObject*>(torch.attr("Tensor").inc_ref().ptr())),
          float32(torch.attr("float32").inc_ref().ptr()),
          float64(torch.attr("float64").inc_ref().ptr()),
          int32(torch.attr("int32").inc_ref().ptr()),
          uint8(torch.attr("uint8").inc_ref().ptr()),
          boolean(torch.attr("bool").inc_ref().ptr()) {}

    static const DlpackFunctions* dlpack_of(const nb::object& tensor) {
        const nb::object capsule = nb::getattr(tensor, "__dlpack_c_exchange_api__", nb::none());
        if (capsule.is_none()) return nullptr;
        const void* found = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
        if (!found) nb::raise_python_error();
        const auto* functions = static_cast<const DlpackFunctions*>(found);
        while (functions && functions->major != nb::dlpack::major_version) functions = functions->older;
        return functions && functions->describe ? functions : nullptr;
    }
};

/// A torch tensor; holds a reference to it.
class Array {
  public:
    Array() = default;
    static bool is_tensor(nb::handle object) { return PyObject_TypeCheck(object.ptr(), TorchObjects::get().tensor); }
    /// Throws nb::python_error if the tensor has no values in memory.
    explicit Array(nb::handle tensor) : tensor_(nb::borrow(tensor)) {
        const DlpackFunctions* dlpack = TorchObjects::get().dlpack;
        if (nb::dlpack::dltensor found; dlpack && dlpack->describe(tensor.ptr(), &found) == 0) {
            take(found);
        } else {
            PyErr_Clear();
            read_attributes();
        }
    }

    void* data() const { return data_; }
    Device device() const { return device_; }
    const Shape& shape() const { return shape_; }
    bool is_contiguous() const { return is_contiguous_; }
    template <class T> bool is_of() const { return dtype_ == dtype_of<T>(); }
    /// As in torch, without "torch.".
    std::string dtype_text() const { return text_of(tensor_.attr("dtype")); }
    template <class T> static std::string dtype_text_of() { return text_of(dtype_of<T>()); }
    int64_t size() const {
        int64_t size = 1;
        for (int64_t side : shape_) size *= side;
        return size;
    }

  private:
    void take(const nb::dlpack::dltensor& t) {
        const TorchObjects& torch = TorchObjects::get();
        data_ = static_cast<char*>(t.data) + t.byte_offset;
        dtype_ = t.dtype == nb::dtype<float>()     ? torch.float32
                 : t.dtype == nb::dtype<double>()  ? torch.float64
                 : t.dtype == nb::dtype<int32_t>() ? torch.int32
                 : t.dtype == nb::dtype<uint8_t>() ? torch.uint8
                 : t.dtype == nb::dtype<bool>()    ? torch.boolean
                                                   : nullptr;
        if (t.device.device_type == nb::device::cpu::value) device_ = kCpu;
        else if (t.device.device_type == nb::device::cuda::value) device_ = {Device::cuda, t.device.device_id};
        shape_.assign(t.shape, t.shape + t.ndim);
        is_contiguous_ = true;
        for (int64_t i = t.ndim - 1, stride = 1; i >= 0; stride *= t.shape[i--])
            is_contiguous_ = is_contiguous_ && (t.shape[i] == 1 || t.strides[i] == stride);
        is_contiguous_ = is_contiguous_ || size() == 0;
    }
    void read_attributes() {
        data_ = reinterpret_cast<void*>(nb::cast<uintptr_t>(tensor_.attr("data_ptr")()));
        dtype_ = nb::object(tensor_.attr("dtype")).ptr();  // torch keeps it
        is_contiguous_ = nb::cast<bool>(tensor_.attr("is_contiguous")());
        if (nb::cast<bool>(tensor_.attr("is_cpu"))) device_ = kCpu;
        else if (nb::cast<bool>(tensor_.attr("is_cuda")))
            device_ = {Device::cuda, nb::cast<int>(tensor_.attr("get_device")())};
        for (nb::handle side : nb::borrow<nb::tuple>(nb::object(tensor_.attr("shape"))))
            shape_.push_back(nb::cast<int64_t>(side));
    }
    template <class T> static PyObject* dtype_of() {
        const TorchObjects& torch = TorchObjects::get();
        if constexpr (std::is_same_v<T, float>) return torch.float32;
        else if constexpr (std::is_same_v<T, double>) return torch.float64;
        else if constexpr (std::is_same_v<T, int32_t>) return torch.int32;
        else if constexpr (std::is_same_v<T, uint8_t>) return torch.uint8;
        else if constexpr (std::is_same_v<T, bool>) return torch.boolean;
    }
    static std::string text_of(nb::handle dtype) { return std::string(nb::str(dtype).c_str()).substr(6); }

    nb::object tensor_;
    PyObject* dtype_ = nullptr;  // null: another one
    void* data_ = nullptr;
    Device device_{Device::other, 0};
    Shape shape_;
    bool is_contiguous_ = false;
};
using OptionalArray = std::optional<Array>;

}  // namespace dgr

template <> struct nanobind::detail::type_caster<dgr::Array> {
    NB_TYPE_CASTER(dgr::Array, const_name("torch.Tensor"))
    bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
        if (!dgr::Array::is_tensor(source)) return false;
        try {
            value = dgr::Array(source);
            return true;
        } catch (python_error&) {  // a sparse one, for example
            return false;
        }
    }
};
