// Python bindings of the engines. Arrays are torch tensors (array.h), are checked (checks.h) and passed on as pointers.
// Python allocates the outputs. math_binding.cpp exposes math.h for the tests.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <variant>

#include "checks.h"
#include "cuda_engine.h"
#include "engine.h"
#include "torch_memory.h"

void bind_levels(nb::module_& module);
void bind_math(nb::module_& module);
void bind_optimizer(nb::module_& module);

namespace {

using namespace dgr;

/// Unchecked arrays of the Gaussians, or of the gradients with respect to them.
struct Rows {
    OptionalArray means, quats, scales, log_scales, covariances, opacities, opacity_logits, sh_dc, sh_rest, colors;
    Device device() const { return means ? means->device() : kCpu; }
    bool is_on_cuda() const { return means && is_cuda(engine_device(*means, "means")); }
};

struct ViewArgs {
    int width, height;
    double fx, fy, cx, cy;
    Array world_to_camera;  // (4,4)
    Array background;  // (3)
};

template <class T> View<T> make_view(const ViewArgs& a) {
    if (a.width < 1 || a.height < 1 || int64_t(a.width) * a.height > Limits::pixels_max)
        refuse("view", "a size of 1 x 1 to 2^30 pixels", std::to_string(a.width) + " x " + std::to_string(a.height));
    if (!(std::isfinite(a.fx) && std::isfinite(a.fy) && a.fx > 0 && a.fy > 0 && std::isfinite(a.cx) &&
          std::isfinite(a.cy)))
        refuse("view", "positive focal lengths and a finite principal point",
               "fx, fy, cx, cy = " + std::to_string(a.fx) + ", " + std::to_string(a.fy) + ", " + std::to_string(a.cx) +
                   ", " + std::to_string(a.cy));
    const T* m = checked<const T>(a.world_to_camera, "world_to_camera", {4, 4});
    const T* background = checked<const T>(a.background, "background", {3});
    View<T> view;
    view.width = a.width;
    view.height = a.height;
    Pinhole<T>& c = view.camera;
    c.fx = T(a.fx), c.fy = T(a.fy), c.cx = T(a.cx), c.cy = T(a.cy);
    c.rotation = {{m[0], m[1], m[2]}, {m[4], m[5], m[6]}, {m[8], m[9], m[10]}};
    c.translation = {m[3], m[7], m[11]};
    c.centre = camera_centre(c.rotation, c.translation);
    const double left = -Limits::border * a.width, right = (1 + Limits::border) * a.width;
    const double top = -Limits::border * a.height, bottom = (1 + Limits::border) * a.height;
    c.ratio_min = {T((left - a.cx) / a.fx), T((top - a.cy) / a.fy)};
    c.ratio_max = {T((right - a.cx) / a.fx), T((bottom - a.cy) / a.fy)};
    view.background = {background[0], background[1], background[2]};
    return view;
}

Options make_options(bool antialiased, int sh_degree, int num_threads) {
    if (sh_degree < 0 || sh_degree > Limits::sh_degree_max) refuse("sh_degree", "0 to 3", std::to_string(sh_degree));
    return {antialiased, sh_degree, checked_threads(num_threads)};
}

/// Checked pointers; T is const for inputs.
template <class T> struct RowPointers {
    T *means, *quats, *scales, *log_scales, *covariances, *opacities, *opacity_logits, *sh_dc, *sh_rest, *colors;
};
template <class T>
RowPointers<T> point_at(const Rows& r, const char* prefix, int64_t n, int64_t num_rest, Device device) {
    const auto at = [&](const OptionalArray& array, const char* name, const Shape& shape) {
        return checked<T>(array, (std::string(prefix) + name).c_str(), shape, device);
    };
    const auto column_at = [&](const OptionalArray& array, const char* name) {
        return at(array, name, array && array->shape().size() == 2 ? Shape{n, 1} : Shape{n});
    };
    return {at(r.means, "means", {n, 3}),
            at(r.quats, "quats", {n, 4}),
            at(r.scales, "scales", {n, 3}),
            at(r.log_scales, "log_scales", {n, 3}),
            at(r.covariances, "covariances", {n, 6}),
            column_at(r.opacities, "opacities"),
            column_at(r.opacity_logits, "opacity_logits"),
            at(r.sh_dc, "sh_dc", {n, 1, 3}),
            at(r.sh_rest, "sh_rest", {n, num_rest, 3}),
            at(r.colors, "colors", {n, 3})};
}
int64_t num_rest_of(const Rows& r) { return r.sh_rest && r.sh_rest->shape().size() == 3 ? r.sh_rest->shape()[1] : 0; }

template <class T> Gaussians<T> make_gaussians(const Rows& r, const Options& options, bool needs_color) {
    if (!r.means || r.means->shape().size() != 2)
        refuse("means", "shape (N, 3)", r.means ? shape_text(r.means->shape()) : "none");
    const int64_t n = r.means->shape()[0], num_rest = num_rest_of(r);
    if (n >= int64_t(1) << 32) refuse("means", "fewer than 2^32 rows", shape_text(r.means->shape()));
    const RowPointers<const T> p = point_at<const T>(r, "", n, num_rest, r.device());
    const InputForm form{r.log_scales.has_value(), r.opacity_logits.has_value()};
    if (r.opacities.has_value() == form.opacity_logits)
        refuse("opacity of the Gaussians", "either opacities or opacity_logits", "both or neither");
    const int num_scales = r.scales.has_value() + form.log_scales;
    if (num_scales != (r.covariances ? 0 : 1) || r.quats.has_value() == r.covariances.has_value())
        refuse("shape of the Gaussians", "either covariances, or quats with scales or log_scales", "another choice");
    if (needs_color && static_cast<bool>(r.colors) == static_cast<bool>(r.sh_dc))
        refuse("colour of the Gaussians", "either colors, or sh_dc with sh_rest", "both or neither");
    const int64_t needed = sh_rest_count(options.sh_degree);
    if (needs_color && r.sh_dc && num_rest < needed)
        refuse(
            "sh_rest",
            "at least " + std::to_string(needed) + " coefficients for sh_degree " + std::to_string(options.sh_degree),
            std::to_string(num_rest));
    return {n,
            p.means,
            p.quats,
            form.log_scales ? p.log_scales : p.scales,
            p.covariances,
            form.opacity_logits ? p.opacity_logits : p.opacities,
            p.sh_dc,
            p.sh_rest,
            p.colors,
            static_cast<int>(num_rest),
            form};
}

/// Unchecked arrays of the outputs, or of the gradients with respect to them.
struct OutputArrays { OptionalArray image, transmittance, inverse_depth; };

template <class T>
Images<T> make_images(const View<std::remove_const_t<T>>& view, const char* prefix, const OutputArrays& arrays,
                      Device device) {
    const int64_t h = view.height, w = view.width;
    const std::string p(prefix);
    return {checked<T>(arrays.image, (p + "image").c_str(), {3, h, w}, device),
            checked<T>(arrays.transmittance, (p + "transmittance").c_str(), {h, w}, device),
            checked<T>(arrays.inverse_depth, (p + "inverse_depth").c_str(), {h, w}, device)};
}

/// Both engines need these two.
void check_complete(const OutputArrays& arrays) {
    if (!arrays.image) refuse("image", "an array", "none");
    if (!arrays.transmittance) refuse("transmittance", "an array", "none");
}

/// A frame of the CUDA engine and its memory.
struct CudaFrame {
    cuda::Frame frame;
    std::unique_ptr<TorchMemory> memory;
    Array radii;
};
using AnyFrame = std::variant<Frame<float>, Frame<double>, CudaFrame>;

bool is_double(const Rows& r) { return r.means && r.means->is_of<double>(); }

template <class T>
AnyFrame forward_on_cpu(const Rows& rows, const ViewArgs& view_args, const Options& options, const OutputArrays& arrays,
                        const Array& radii) {
    const View<T> view = make_view<T>(view_args);
    const Gaussians<T> gaussians = make_gaussians<T>(rows, options, true);
    check_complete(arrays);
    const Images<T> out = make_images<T>(view, "", arrays, kCpu);
    int32_t* radii_out = checked<int32_t>(radii, "radii", {gaussians.count});
    nb::gil_scoped_release released;
    Frame<T> frame = forward(gaussians, view, options, out);
    std::copy_n(frame.radius_px.data(), gaussians.count, radii_out);
    return frame;
}

AnyFrame forward_on_cuda(const Rows& rows, const ViewArgs& view_args, const Options& options, const Queue& queue,
                         const OutputArrays& arrays, const Array& radii) {
    const Device device = rows.device();
    const Gaussians<float> gaussians = make_gaussians<float>(rows, options, true);
    const View<float> view = make_view<float>(view_args);
    check_complete(arrays);
    const Images<float> out = make_images<float>(view, "", arrays, device);
    int32_t* radii_out = checked<int32_t>(radii, "radii", {gaussians.count}, device);
    CudaFrame made{{}, std::make_unique<TorchMemory>(queue.allocate), radii};
    TorchMemory scratch = queue.scratch();
    {
        nb::gil_scoped_release released;
        made.frame =
            cuda::forward(queue.context(device, scratch), *made.memory, gaussians, view, options, out, radii_out);
    }
    return made;
}

/// Unchecked arguments of backward.
struct BackwardArgs {
    OutputArrays images, v_images;
    OptionalArray v_screen_means, abs_grad, seen, v_world_to_camera;
};

/// Checks which arguments are given together.
void check_together(const BackwardArgs& args) {
    check_complete(args.images);
    if (args.v_images.inverse_depth && !args.images.inverse_depth)
        refuse("v_inverse_depth", "none, as inverse_depth is none", "an array");
    if (args.abs_grad.has_value() != args.seen.has_value())
        refuse("statistics", "both abs_grad and seen, or neither", "one of them");
}

template <class T>
Gradients<T> make_gradients(const Rows& v_rows, const BackwardArgs& args, const Gaussians<T>& g, Device device) {
    check_together(args);
    const int64_t count = g.count;
    const RowPointers<T> p = point_at<T>(v_rows, "v_", count, g.num_rest, device);
    return {p.means,
            p.quats,
            g.form.log_scales ? p.log_scales : p.scales,
            p.covariances,
            g.form.opacity_logits ? p.opacity_logits : p.opacities,
            p.sh_dc,
            p.sh_rest,
            p.colors,
            checked<T>(args.v_screen_means, "v_screen_means", {count, 4}, device),
            checked<float>(args.abs_grad, "abs_grad", {count}, device),
            checked<float>(args.seen, "seen", {count}, device),
            checked<T>(args.v_world_to_camera, "v_world_to_camera", {4, 4}, device)};
}

void check_rows(int64_t expected, int64_t actual) {
    if (actual != expected) refuse("means", std::to_string(expected) + " rows, as in forward", std::to_string(actual));
}

template <class T>
void run_backward(const Frame<T>& frame, const Rows& rows, const Rows& v_rows, const BackwardArgs& args, const Queue&) {
    const Gaussians<T> g = make_gaussians<T>(rows, frame.options, true);
    check_rows(frame.radius_px.size(), g.count);
    const auto images = make_images<const T>(frame.view, "", args.images, kCpu);
    const auto v_images = make_images<const T>(frame.view, "v_", args.v_images, kCpu);
    const Gradients<T> out = make_gradients<T>(v_rows, args, g, kCpu);
    nb::gil_scoped_release released;
    backward(frame, g, images, v_images, out);
}

void run_backward(const CudaFrame& made, const Rows& rows, const Rows& v_rows, const BackwardArgs& args,
                  const Queue& queue) {
    const cuda::Frame& frame = made.frame;
    const Device device = made.radii.device();
    const Gaussians<float> g = make_gaussians<float>(rows, frame.options, true);
    check_rows(frame.num_gaussians, g.count);
    const auto images = make_images<const float>(frame.view, "", args.images, device);
    const auto v_images = make_images<const float>(frame.view, "v_", args.v_images, device);
    const Gradients<float> out = make_gradients<float>(v_rows, args, g, device);
    TorchMemory scratch = queue.scratch();
    nb::gil_scoped_release released;
    cuda::backward(queue.context(device, scratch), frame, g, images, v_images, out);
}

/// Unchecked arguments of importance.
struct ImportanceArgs { Array pixel_weights, weighted, total, distance, num_pixels, num_weighted, num_gaussians; };

/// Checks the arguments of importance and calls run(gaussians, view, weights, out) without the GIL.
template <class T, class Run>
void with_importance(const Rows& rows, const ViewArgs& view_args, const Options& options, const ImportanceArgs& args,
                     const Run& run) {
    const Device device = rows.device();
    const Gaussians<T> g = make_gaussians<T>(rows, options, false);
    const View<T> view = make_view<T>(view_args);
    const T* weights = checked<const T>(args.pixel_weights, "pixel_weights", {view.height, view.width}, device);
    const Importance<T> out{checked<T>(args.weighted, "weighted", {g.count}, device),
                            checked<T>(args.total, "total", {g.count}, device),
                            checked<T>(args.distance, "distance", {g.count}, device),
                            checked<int32_t>(args.num_pixels, "num_pixels", {g.count}, device),
                            checked<int32_t>(args.num_weighted, "num_weighted", {g.count}, device),
                            checked<int32_t>(args.num_gaussians, "num_gaussians", {view.height, view.width}, device)};
    nb::gil_scoped_release released;
    run(g, view, weights, out);
}

/// Unchecked arguments of removal_error; change (N) is an output.
struct RemovalArgs { Array image, photo, pixel_weights, change; };

template <class T>
RemovalInput<T> make_removal_input(const View<T>& view, const RemovalArgs& args, Device device) {
    const int64_t h = view.height, w = view.width;
    return {checked<const T>(args.image, "image", {3, h, w}, device),
            checked<const T>(args.photo, "photo", {3, h, w}, device),
            checked<const T>(args.pixel_weights, "pixel_weights", {h, w}, device)};
}

template <class T> void run_removal(const Frame<T>& frame, const RemovalArgs& args, const Queue&) {
    const RemovalInput<T> input = make_removal_input<T>(frame.view, args, kCpu);
    T* change = checked<T>(args.change, "change", {frame.radius_px.size()}, kCpu);
    nb::gil_scoped_release released;
    removal_error(frame, input, change);
}

void run_removal(const CudaFrame& made, const RemovalArgs& args, const Queue& queue) {
    const cuda::Frame& frame = made.frame;
    const Device device = made.radii.device();
    if (!frame.options.is_differentiable) refuse("frame", "one of a differentiable forward", "another");
    const RemovalInput<float> input = make_removal_input<float>(frame.view, args, device);
    float* change = checked<float>(args.change, "change", {frame.num_gaussians}, device);
    TorchMemory scratch = queue.scratch();
    nb::gil_scoped_release released;
    cuda::removal_error(queue.context(device, scratch), frame, input, change);
}

/// Unchecked arguments of photometric_loss; loss (), parts (2), which are L1 and SSIM, and v_image are outputs.
struct LossArgs {
    Array image, photo;
    OptionalArray mask;
    double ssim_weight;
    int margin, threads;
    Array loss;
    OptionalArray parts, v_image;
};

/// Checks the arguments of the loss and calls run(input, loss, parts, v_image) without the GIL.
template <class T, class Run> void with_loss(const LossArgs& args, const Run& run) {
    const Array& image = args.image;
    const Device device = image.device();
    const Shape& shape = image.shape();
    if (shape.size() != 3 || shape[0] < 1) refuse("image", "shape (C, H, W)", shape_text(shape));
    const int64_t c = shape[0], h = shape[1], w = shape[2];
    const int64_t shortest = 2 * int64_t(args.margin) + 1;
    if (args.margin < 0 || h < shortest || w < shortest)
        refuse("image", "sides of at least " + std::to_string(shortest) + " px", shape_text(shape));
    if (h > Limits::pixels_max / w || c > 3 * Limits::pixels_max / (h * w))
        refuse("image", "at most 2^30 pixels of 3 channels", shape_text(shape));
    const bool bytes = args.photo.is_of<uint8_t>();
    const LossInput<T> input{static_cast<int>(c),
                             static_cast<int>(w),
                             static_cast<int>(h),
                             args.margin,
                             checked<const T>(image, "image", {c, h, w}, device),
                             bytes ? nullptr : checked<const T>(args.photo, "photo", {c, h, w}, device),
                             bytes ? checked<const uint8_t>(args.photo, "photo", {c, h, w}, device) : nullptr,
                             checked<const bool>(args.mask, "mask", {h, w}, device),
                             args.ssim_weight,
                             checked_threads(args.threads)};
    T* loss = checked<T>(args.loss, "loss", {}, device);
    T* parts = checked<T>(args.parts, "parts", {2}, device);
    T* v = checked<T>(args.v_image, "v_image", {c, h, w}, device);
    nb::gil_scoped_release released;
    run(input, loss, parts, v);
}

template <class T> void loss_on_cpu(const LossArgs& args) {
    with_loss<T>(args, [](const LossInput<T>& input, T* loss, T* parts, T* v_image) {
        const LossOutput<T> out = photometric_loss(input, v_image);
        *loss = out.loss;
        if (parts) parts[0] = out.l1, parts[1] = out.ssim;
    });
}

}  // namespace

NB_MODULE(_C, m) {
    nb::set_leak_warnings(false);  // an autograd graph may hold a Frame until the interpreter exits
    m.doc() = "The compiled engines. Use the functions of diff_gaussian_rasterization.";

    nb::class_<Rows>(m, "Rows").def(
        "__init__",
        [](Rows* self, OptionalArray means, OptionalArray quats, OptionalArray scales, OptionalArray log_scales,
           OptionalArray covariances, OptionalArray opacities, OptionalArray opacity_logits, OptionalArray sh_dc,
           OptionalArray sh_rest, OptionalArray colors) {
            new (self) Rows{means,     quats,          scales, log_scales, covariances,
                            opacities, opacity_logits, sh_dc,  sh_rest,    colors};
        },
        nb::kw_only(), nb::arg("means") = nb::none(), nb::arg("quats") = nb::none(), nb::arg("scales") = nb::none(),
        nb::arg("log_scales") = nb::none(), nb::arg("covariances") = nb::none(), nb::arg("opacities") = nb::none(),
        nb::arg("opacity_logits") = nb::none(), nb::arg("sh_dc") = nb::none(), nb::arg("sh_rest") = nb::none(),
        nb::arg("colors") = nb::none());
    nb::class_<ViewArgs>(m, "View").def("__init__", [](ViewArgs* self, int width, int height, double fx, double fy,
                                                       double cx, double cy, Array world_to_camera, Array background) {
        new (self) ViewArgs{width, height, fx, fy, cx, cy, world_to_camera, background};
    });
    nb::class_<Queue>(m, "Queue")
        .def(
            "__init__",
            [](Queue* self, uintptr_t stream, nb::object allocate, bool deterministic, int64_t chunk) {
                new (self) Queue{stream, std::move(allocate), deterministic, chunk};
            },
            nb::kw_only(), nb::arg("stream") = 0, nb::arg("allocate").none() = nb::none(),
            nb::arg("deterministic") = false, nb::arg("chunk") = 0);
    nb::class_<OutputArrays>(m, "Outputs")
        .def(
            "__init__",
            [](OutputArrays* self, OptionalArray image, OptionalArray transmittance, OptionalArray inverse_depth) {
                new (self) OutputArrays{image, transmittance, inverse_depth};
            },
            nb::arg("image").none(), nb::arg("transmittance").none(), nb::arg("inverse_depth").none());
    nb::class_<AnyFrame>(m, "Frame").def_prop_ro("num_instances", [](const AnyFrame& frame) {
        if (const auto* made = std::get_if<CudaFrame>(&frame)) return made->frame.num_instances;
        if (const auto* made = std::get_if<Frame<double>>(&frame)) return made->instances.size();
        return std::get<Frame<float>>(frame).instances.size();
    });

    m.def(
        "forward",
        [](const Rows& rows, const ViewArgs& view, const Queue& queue, bool antialiased, int sh_degree, int threads,
           bool differentiable, const OutputArrays& out, Array radii) {
            Options options = make_options(antialiased, sh_degree, threads);
            options.is_differentiable = differentiable;
            options.is_deterministic = queue.is_deterministic;
            if (rows.is_on_cuda()) return forward_on_cuda(rows, view, options, queue, out, radii);
            return is_double(rows) ? forward_on_cpu<double>(rows, view, options, out, radii)
                                   : forward_on_cpu<float>(rows, view, options, out, radii);
        },
        nb::arg("rows"), nb::arg("view"), nb::arg("queue"), nb::kw_only(), nb::arg("antialiased"), nb::arg("sh_degree"),
        nb::arg("threads"), nb::arg("differentiable"), nb::arg("out"), nb::arg("radii"));

    m.def(
        "backward",
        [](const AnyFrame& frame, const Rows& rows, const Rows& v_rows, const Queue& queue, const OutputArrays& images,
           const OutputArrays& v_images, OptionalArray v_screen_means, OptionalArray abs_grad,
           OptionalArray seen, OptionalArray v_world_to_camera) {
            const BackwardArgs args{images, v_images, v_screen_means, abs_grad, seen, v_world_to_camera};
            std::visit([&](const auto& f) { run_backward(f, rows, v_rows, args, queue); }, frame);
        },
        nb::arg("frame"), nb::arg("rows"), nb::arg("v_rows"), nb::arg("queue"), nb::kw_only(), nb::arg("images"),
        nb::arg("v_images"), nb::arg("v_screen_means").none(), nb::arg("abs_grad").none(), nb::arg("seen").none(),
        nb::arg("v_world_to_camera").none());

    m.def(
        "importance",
        [](const Rows& rows, const ViewArgs& view, const Queue& queue, bool antialiased, int threads,
           Array pixel_weights, Array weighted, Array total, Array distance, Array num_pixels, Array num_weighted,
           Array num_gaussians) {
            Options options = make_options(antialiased, 0, threads);
            options.is_deterministic = queue.is_deterministic;
            const ImportanceArgs args{pixel_weights, weighted,     total,        distance,
                                      num_pixels,    num_weighted, num_gaussians};
            const auto on_cpu = [&](const auto& g, const auto& v, const auto* weights, const auto& out) {
                importance(g, v, options, weights, out);
            };
            if (rows.is_on_cuda()) {
                TorchMemory scratch = queue.scratch();
                const cuda::Context context = queue.context(rows.device(), scratch);
                with_importance<float>(rows, view, options, args,
                                       [&](const auto& g, const auto& v, const auto* weights, const auto& out) {
                                           cuda::importance(context, g, v, options, weights, out);
                                       });
            } else if (is_double(rows)) {
                with_importance<double>(rows, view, options, args, on_cpu);
            } else {
                with_importance<float>(rows, view, options, args, on_cpu);
            }
        },
        nb::arg("rows"), nb::arg("view"), nb::arg("queue"), nb::kw_only(), nb::arg("antialiased"), nb::arg("threads"),
        nb::arg("pixel_weights"), nb::arg("weighted"), nb::arg("total"), nb::arg("distance"),
        nb::arg("num_pixels"), nb::arg("num_weighted"), nb::arg("num_gaussians"));

    m.def(
        "removal_error",
        [](const AnyFrame& frame, const Queue& queue, Array image, Array photo, Array pixel_weights, Array change) {
            const RemovalArgs args{image, photo, pixel_weights, change};
            std::visit([&](const auto& f) { run_removal(f, args, queue); }, frame);
        },
        nb::arg("frame"), nb::arg("queue"), nb::kw_only(), nb::arg("image"), nb::arg("photo"), nb::arg("pixel_weights"),
        nb::arg("change"));

    m.def(
        "photometric_loss",
        [](Array image, Array photo, const Queue& queue, OptionalArray mask, double ssim_weight, int margin,
           int threads, Array loss, OptionalArray parts, OptionalArray v_image) {
            const LossArgs args{image, photo, mask, ssim_weight, margin, threads, loss, parts, v_image};
            if (is_cuda(engine_device(image, "image"))) {
                TorchMemory scratch = queue.scratch();
                const cuda::Context context = queue.context(image.device(), scratch);
                with_loss<float>(args, [&](const LossInput<float>& input, float* value, float* others, float* v) {
                    cuda::photometric_loss(context, input, value, others, v);
                });
            } else if (image.is_of<double>()) {
                loss_on_cpu<double>(args);
            } else {
                loss_on_cpu<float>(args);
            }
        },
        nb::arg("image"), nb::arg("photo"), nb::arg("queue"), nb::kw_only(), nb::arg("mask").none(),
        nb::arg("ssim_weight"), nb::arg("margin"), nb::arg("threads"), nb::arg("loss"), nb::arg("parts").none(),
        nb::arg("v_image").none());

    nb::dict limits;
    limits["near"] = Limits::near;
    limits["blur"] = Limits::blur;
    limits["border"] = Limits::border;
    limits["alpha_min"] = Limits::alpha_min;
    limits["alpha_max"] = Limits::alpha_max;
    limits["transmittance_min"] = Limits::transmittance_min;
    limits["tile"] = Limits::tile;
    limits["sh_degree_max"] = Limits::sh_degree_max;
    m.attr("LIMITS") = limits;

    nb::exception<cuda::Error>(m, "CudaError", PyExc_RuntimeError);
    m.attr("DEVICES") = cuda::is_built ? nb::make_tuple("cpu", "cuda") : nb::make_tuple("cpu");
    bind_levels(m);
    bind_optimizer(m);

    nb::module_ math = m.def_submodule("math", "math.h in double precision, for the tests.");
    bind_math(math);
}
