// Python's view of the engine: arrays come as DLPack, are checked (checks.h), and go on as plain pointers. The functions
// fill arrays that Python has allocated. math_binding.cpp exposes math.h for the tests.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <variant>

#include "checks.h"
#include "engine.h"

void bind_math(nb::module_& module);

namespace {

using namespace dgr;

/// The rows of the set, still unchecked; the same names serve inputs and gradients.
struct Rows { OptionalArray means, quats, scales, covariances, opacities, sh_dc, sh_rest, colors; };

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
    c.centre = T(-1) * transposed_times(c.rotation, c.translation);
    const double left = -Limits::border * a.width, right = (1 + Limits::border) * a.width;
    const double top = -Limits::border * a.height, bottom = (1 + Limits::border) * a.height;
    c.ratio_min = {T((left - a.cx) / a.fx), T((top - a.cy) / a.fy)};
    c.ratio_max = {T((right - a.cx) / a.fx), T((bottom - a.cy) / a.fy)};
    view.background = {background[0], background[1], background[2]};
    return view;
}

Options make_options(bool antialiased, int sh_degree, int num_threads) {
    if (sh_degree < 0 || sh_degree > Limits::sh_degree_max) refuse("sh_degree", "0 to 3", std::to_string(sh_degree));
    return {antialiased, sh_degree, threads_or_all(num_threads)};
}

/// Checked pointers of the rows; T is const for inputs and not for gradients.
template <class T> struct RowPointers {
    T *means, *quats, *scales, *covariances, *opacities, *sh_dc, *sh_rest, *colors;
};
template <class T> RowPointers<T> point_at(const Rows& r, const char* prefix, int64_t n, int64_t num_rest) {
    const auto at = [&](const OptionalArray& array, const char* name, std::initializer_list<int64_t> shape) {
        return checked<T>(array, (std::string(prefix) + name).c_str(), shape);
    };
    return {at(r.means, "means", {n, 3}),
            at(r.quats, "quats", {n, 4}),
            at(r.scales, "scales", {n, 3}),
            at(r.covariances, "covariances", {n, 6}),
            at(r.opacities, "opacities", {n}),
            at(r.sh_dc, "sh_dc", {n, 1, 3}),
            at(r.sh_rest, "sh_rest", {n, num_rest, 3}),
            at(r.colors, "colors", {n, 3})};
}
int64_t num_rest_of(const Rows& r) { return r.sh_rest && r.sh_rest->ndim() == 3 ? r.sh_rest->shape(1) : 0; }

template <class T> Gaussians<T> make_gaussians(const Rows& r, const Options& options, bool needs_color) {
    if (!r.means || r.means->ndim() != 2) refuse("means", "shape (N, 3)", r.means ? shape_text(*r.means) : "none");
    if (r.means->shape(0) >= (size_t(1) << 32)) refuse("means", "fewer than 2^32 rows", shape_text(*r.means));
    const int64_t n = static_cast<int64_t>(r.means->shape(0)), num_rest = num_rest_of(r);
    const RowPointers<const T> p = point_at<const T>(r, "", n, num_rest);
    if (!p.opacities && n > 0) refuse("opacities", "shape (N,)", "none");
    if (static_cast<bool>(r.covariances) == (r.quats && r.scales) ||
        static_cast<bool>(r.quats) != static_cast<bool>(r.scales))
        refuse("shape of the Gaussians", "either covariances, or quats and scales", "another choice");
    if (needs_color && static_cast<bool>(r.colors) == static_cast<bool>(r.sh_dc))
        refuse("colour of the Gaussians", "either colors, or sh_dc with sh_rest", "both or neither");
    const int64_t needed = (options.sh_degree + 1) * (options.sh_degree + 1) - 1;
    if (needs_color && r.sh_dc && num_rest < needed)
        refuse(
            "sh_rest",
            "at least " + std::to_string(needed) + " coefficients for sh_degree " + std::to_string(options.sh_degree),
            std::to_string(num_rest));
    return {n,           p.means, p.quats,   p.scales, p.covariances,
            p.opacities, p.sh_dc, p.sh_rest, p.colors, static_cast<int>(num_rest)};
}

template <class T, class A> Images<T> make_images(const View<std::remove_const_t<T>>& view, const char* prefix,
                                                  const A& image, const A& transmittance, const A& inverse_depth) {
    const int64_t h = view.height, w = view.width;
    const std::string p(prefix);
    return {checked<T>(image, (p + "image").c_str(), {3, h, w}),
            checked<T>(transmittance, (p + "transmittance").c_str(), {h, w}),
            checked<T>(inverse_depth, (p + "inverse_depth").c_str(), {h, w})};
}

using AnyFrame = std::variant<Frame<float>, Frame<double>>;

bool is_double(const Rows& r) { return r.means && r.means->dtype() == nb::dtype<double>(); }

template <class T>
AnyFrame forward_as(const Rows& rows, const ViewArgs& view_args, const Options& options, const OptionalArray& image,
                    const OptionalArray& transmittance, const OptionalArray& inverse_depth, const Array& radii) {
    const View<T> view = make_view<T>(view_args);
    const Gaussians<T> gaussians = make_gaussians<T>(rows, options, true);
    const Images<T> out = make_images<T>(view, "", image, transmittance, inverse_depth);
    int32_t* radii_out = checked<int32_t>(radii, "radii", {gaussians.count});
    nb::gil_scoped_release released;
    Frame<T> frame = forward(gaussians, view, options, out);
    std::copy_n(frame.radius_px.data(), gaussians.count, radii_out);
    return frame;
}

template <class T>
void backward_as(const Frame<T>& frame, const Rows& rows, const Rows& v_rows, const OptionalArray& image,
                 const OptionalArray& transmittance, const OptionalArray& inverse_depth, const OptionalArray& v_image,
                 const OptionalArray& v_transmittance, const OptionalArray& v_inverse_depth,
                 const OptionalArray& v_screen_means, const OptionalArray& abs_grad_sum, const OptionalArray& views) {
    const Gaussians<T> g = make_gaussians<T>(rows, frame.options, true);
    if (g.count != frame.radius_px.size())
        refuse("means", std::to_string(frame.radius_px.size()) + " rows, as in forward", std::to_string(g.count));
    const auto images = make_images<const T>(frame.view, "", image, transmittance, inverse_depth);
    const auto v_images = make_images<const T>(frame.view, "v_", v_image, v_transmittance, v_inverse_depth);
    const RowPointers<T> p = point_at<T>(v_rows, "v_", g.count, num_rest_of(v_rows));
    Gradients<T> out{p.means,
                     p.quats,
                     p.scales,
                     p.covariances,
                     p.opacities,
                     p.sh_dc,
                     p.sh_rest,
                     p.colors,
                     checked<T>(v_screen_means, "v_screen_means", {g.count, 4}),
                     checked<float>(abs_grad_sum, "abs_grad_sum", {g.count}),
                     checked<int32_t>(views, "views", {g.count})};
    nb::gil_scoped_release released;
    backward(frame, g, images, v_images, out);
}

template <class T>
void importance_as(const Rows& rows, const ViewArgs& view_args, const Options& options, const Array& pixel_weights,
                   const Array& weighted, const Array& total, const Array& num_pixels) {
    const View<T> view = make_view<T>(view_args);
    const Gaussians<T> g = make_gaussians<T>(rows, options, false);
    const T* weights = checked<const T>(pixel_weights, "pixel_weights", {view.height, view.width});
    const Importance<T> out{checked<T>(weighted, "weighted", {g.count}), checked<T>(total, "total", {g.count}),
                            checked<int32_t>(num_pixels, "num_pixels", {g.count})};
    nb::gil_scoped_release released;
    importance(g, view, options, weights, out);
}

template <class T>
nb::tuple loss_as(const Array& image, const Array& photo, const OptionalArray& mask, double ssim_weight,
                  int num_threads, const OptionalArray& v_image) {
    if (image.ndim() != 3 || image.shape(0) != 3) refuse("image", "shape (3, H, W)", shape_text(image));
    const auto h = static_cast<int64_t>(image.shape(1)), w = static_cast<int64_t>(image.shape(2));
    if (h < 1 || w < 1 || h * w > Limits::pixels_max) refuse("image", "1 to 2^30 pixels", shape_text(image));
    const bool bytes = photo.dtype() == nb::dtype<uint8_t>();
    const LossInput<T> input{static_cast<int>(w),
                             static_cast<int>(h),
                             checked<const T>(image, "image", {3, h, w}),
                             bytes ? nullptr : checked<const T>(photo, "photo", {3, h, w}),
                             bytes ? checked<const uint8_t>(photo, "photo", {3, h, w}) : nullptr,
                             checked<const bool>(mask, "mask", {h, w}),
                             ssim_weight,
                             threads_or_all(num_threads)};
    T* v = checked<T>(v_image, "v_image", {3, h, w});
    LossOutput<T> out;
    {
        nb::gil_scoped_release released;
        out = photometric_loss(input, v);
    }
    return nb::make_tuple(double(out.loss), double(out.l1), double(out.ssim));
}

}  // namespace

NB_MODULE(_C, m) {
    nb::set_leak_warnings(false);  // a graph may hold a Frame until the interpreter goes
    m.doc() = "The rasterizer's engine. Use the functions of diff_gaussian_rasterization, which call these.";

    nb::class_<Rows>(m, "Rows").def(
        "__init__",
        [](Rows* self, OptionalArray means, OptionalArray quats, OptionalArray scales, OptionalArray covariances,
           OptionalArray opacities, OptionalArray sh_dc, OptionalArray sh_rest, OptionalArray colors) {
            new (self) Rows{means, quats, scales, covariances, opacities, sh_dc, sh_rest, colors};
        },
        nb::kw_only(), nb::arg("means") = nb::none(), nb::arg("quats") = nb::none(), nb::arg("scales") = nb::none(),
        nb::arg("covariances") = nb::none(), nb::arg("opacities") = nb::none(), nb::arg("sh_dc") = nb::none(),
        nb::arg("sh_rest") = nb::none(), nb::arg("colors") = nb::none());
    nb::class_<ViewArgs>(m, "View").def("__init__", [](ViewArgs* self, int width, int height, double fx, double fy,
                                                       double cx, double cy, Array world_to_camera, Array background) {
        new (self) ViewArgs{width, height, fx, fy, cx, cy, world_to_camera, background};
    });
    nb::class_<AnyFrame>(m, "Frame").def_prop_ro("num_instances", [](const AnyFrame& frame) {
        return std::visit([](const auto& f) { return f.instances.size(); }, frame);
    });

    m.def(
        "forward",
        [](const Rows& rows, const ViewArgs& view, bool antialiased, int sh_degree, int threads, OptionalArray image,
           OptionalArray transmittance, OptionalArray inverse_depth, Array radii) {
            const Options options = make_options(antialiased, sh_degree, threads);
            return is_double(rows) ? forward_as<double>(rows, view, options, image, transmittance, inverse_depth, radii)
                                   : forward_as<float>(rows, view, options, image, transmittance, inverse_depth, radii);
        },
        nb::arg("rows"), nb::arg("view"), nb::kw_only(), nb::arg("antialiased"), nb::arg("sh_degree"),
        nb::arg("threads"), nb::arg("image"), nb::arg("transmittance"), nb::arg("inverse_depth").none(),
        nb::arg("radii"));

    m.def(
        "backward",
        [](const AnyFrame& frame, const Rows& rows, const Rows& v_rows, OptionalArray image,
           OptionalArray transmittance, OptionalArray inverse_depth, OptionalArray v_image,
           OptionalArray v_transmittance, OptionalArray v_inverse_depth, OptionalArray v_screen_means,
           OptionalArray abs_grad_sum, OptionalArray views) {
            std::visit(
                [&](const auto& f) {
                    backward_as(f, rows, v_rows, image, transmittance, inverse_depth, v_image, v_transmittance,
                                v_inverse_depth, v_screen_means, abs_grad_sum, views);
                },
                frame);
        },
        nb::arg("frame"), nb::arg("rows"), nb::arg("v_rows"), nb::kw_only(), nb::arg("image"), nb::arg("transmittance"),
        nb::arg("inverse_depth").none(), nb::arg("v_image").none(), nb::arg("v_transmittance").none(),
        nb::arg("v_inverse_depth").none(), nb::arg("v_screen_means").none(), nb::arg("abs_grad_sum").none(),
        nb::arg("views").none());

    m.def(
        "importance",
        [](const Rows& rows, const ViewArgs& view, bool antialiased, int threads, Array pixel_weights, Array weighted,
           Array total, Array num_pixels) {
            const Options options = make_options(antialiased, 0, threads);
            is_double(rows) ? importance_as<double>(rows, view, options, pixel_weights, weighted, total, num_pixels)
                            : importance_as<float>(rows, view, options, pixel_weights, weighted, total, num_pixels);
        },
        nb::arg("rows"), nb::arg("view"), nb::kw_only(), nb::arg("antialiased"), nb::arg("threads"),
        nb::arg("pixel_weights"), nb::arg("weighted"), nb::arg("total"), nb::arg("num_pixels"));

    m.def(
        "photometric_loss",
        [](Array image, Array photo, OptionalArray mask, double ssim_weight, int threads, OptionalArray v_image) {
            return image.dtype() == nb::dtype<double>()
                       ? loss_as<double>(image, photo, mask, ssim_weight, threads, v_image)
                       : loss_as<float>(image, photo, mask, ssim_weight, threads, v_image);
        },
        nb::arg("image"), nb::arg("photo"), nb::kw_only(), nb::arg("mask").none(), nb::arg("ssim_weight"),
        nb::arg("threads"), nb::arg("v_image").none());

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

    nb::module_ math = m.def_submodule("math", "math.h in double precision, for the tests.");
    bind_math(math);
}
