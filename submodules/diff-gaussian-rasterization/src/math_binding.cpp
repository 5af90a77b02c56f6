// The functions of math.h in double precision, for the tests. A function f takes its differentiable inputs as one flat
// list, then its constants, and returns its outputs as a flat list. f_vjp takes the inputs, the gradient of the outputs
// and the constants, and returns the gradient of the inputs.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "projection.h"

namespace nb = nanobind;

namespace {

using namespace dgr;
using Numbers = std::vector<double>;

/// Converts numbers to a struct of doubles, and back.
template <class S> S as(const Numbers& numbers, size_t from = 0) {
    constexpr size_t count = sizeof(S) / sizeof(double);
    if (numbers.size() < from + count) throw nb::value_error("too few numbers");
    S s;
    std::memcpy(static_cast<void*>(&s), numbers.data() + from, sizeof(S));
    return s;
}
template <class... S> Numbers flat(const S&... parts) {
    Numbers numbers;
    const auto append = [&](const auto& part) {
        const double* p = reinterpret_cast<const double*>(&part);
        numbers.insert(numbers.end(), p, p + sizeof(part) / sizeof(double));
    };
    (append(parts), ...);
    return numbers;
}

using V2 = Vec2<double>;
using V3 = Vec3<double>;
using Q4 = Quat<double>;
using S2 = Sym2<double>;
using S3 = Sym3<double>;
using M3 = Mat3<double>;
using J = JacobianRows<double>;
/// fx fy cx cy, rotation (9), translation (3), centre (3), ratio_min (2), ratio_max (2): 23 numbers.
using Camera = Pinhole<double>;

/// A splat; the mean in px, the natural logarithm of the opacity.
struct BlendInput {
    S2 conic;
    V2 mean;
    double log_opacity;
    Channels<double> channels;
    V2 offset(V2 pixel) const { return {pixel.x - mean.x, pixel.y - mean.y}; }
    double alpha(V2 d) const { return dgr::exp2(log2_alpha(log_opacity * kLog2e, exponent_conic(conic), d)); }
};
struct PixelValue {
    Channels<double> channels;
    double transmittance;
};
PixelValue blended_pixel(const BlendInput& in, V2 pixel, double transmittance, const PixelValue& background) {
    const double alpha = in.alpha(in.offset(pixel));
    const double weight = blend_weight(transmittance, alpha), after = transmittance_after(transmittance, alpha);
    const Channels<double>&front = in.channels, &back = background.channels;
    return {{weight * front.color + after * back.color, weight * front.inverse_depth + after * back.inverse_depth},
            after * background.transmittance};
}

}  // namespace

void bind_math(nb::module_& m) {
    m.def("scales_from_logs", [](const Numbers& x) { return flat(scales_from_logs(as<V3>(x))); });
    m.def("scales_from_logs_vjp", [](const Numbers& x, const Numbers& v) {
        return flat(scales_from_logs_vjp(scales_from_logs(as<V3>(x)), as<V3>(v)));
    });
    m.def("opacity_from_logit", [](const Numbers& x) { return flat(opacity_from_logit(as<double>(x))); });
    m.def("opacity_from_logit_vjp", [](const Numbers& x, const Numbers& v) {
        return flat(opacity_from_logit_vjp(opacity_from_logit(as<double>(x)), as<double>(v)));
    });
    m.def("rotation_from_quat", [](const Numbers& x) { return flat(rotation_from_quat(as<Q4>(x))); });
    m.def("rotation_from_quat_vjp",
          [](const Numbers& x, const Numbers& v) { return flat(rotation_from_quat_vjp(as<Q4>(x), as<M3>(v))); });
    m.def("covariance_from_scale_rotation",
          [](const Numbers& x) { return flat(covariance_from_scale_rotation(as<V3>(x), as<M3>(x, 3))); });
    m.def("covariance_from_scale_rotation_vjp", [](const Numbers& x, const Numbers& v) {
        return flat(covariance_from_scale_rotation_vjp(as<V3>(x), as<M3>(x, 3), as<S3>(v)));
    });
    m.def("to_camera",
          [](const Numbers& x, const Numbers& camera) { return flat(to_camera(as<Camera>(camera), as<V3>(x))); });
    m.def("to_camera_vjp", [](const Numbers&, const Numbers& v, const Numbers& camera) {
        return flat(to_camera_vjp(as<Camera>(camera), as<V3>(v)));
    });
    // Inputs: rotation (9), translation (3); constants: the camera, whose pose they replace.
    const auto posed = [](const Numbers& x, const Numbers& camera) {
        auto c = as<Camera>(camera);
        c.rotation = as<M3>(x), c.translation = as<V3>(x, 9);
        return c;
    };
    m.def("camera_centre", [](const Numbers& x) { return flat(camera_centre(as<M3>(x), as<V3>(x, 9))); });
    m.def("camera_centre_vjp", [](const Numbers& x, const Numbers& v) {
        return flat(camera_centre_vjp(as<M3>(x), as<V3>(x, 9), as<V3>(v)));
    });
    m.def("to_camera_of_pose", [=](const Numbers& x, const Numbers& camera, const Numbers& point) {
        return flat(to_camera(posed(x, camera), as<V3>(point)));
    });
    m.def("to_camera_of_pose_vjp", [](const Numbers&, const Numbers& v, const Numbers&, const Numbers& point) {
        return flat(to_camera_of_pose_vjp(as<V3>(point), as<V3>(v)));
    });
    m.def("projection_jacobian_of_pose", [=](const Numbers& x, const Numbers& camera, const Numbers& point) {
        return flat(projection_jacobian(posed(x, camera), as<V3>(point)));
    });
    m.def("projection_jacobian_of_pose_vjp",
          [=](const Numbers& x, const Numbers& v, const Numbers& camera, const Numbers& point) {
              return flat(projection_jacobian_of_pose_vjp(posed(x, camera), as<V3>(point), as<J>(v)), V3{0, 0, 0});
          });
    m.def("project_mean",
          [](const Numbers& x, const Numbers& camera) { return flat(project_mean(as<Camera>(camera), as<V3>(x))); });
    m.def("project_mean_vjp", [](const Numbers& x, const Numbers& v, const Numbers& camera) {
        return flat(project_mean_vjp(as<Camera>(camera), as<V3>(x), as<V2>(v)));
    });
    m.def("projection_jacobian", [](const Numbers& x, const Numbers& camera) {
        return flat(projection_jacobian(as<Camera>(camera), as<V3>(x)));
    });
    m.def("projection_jacobian_vjp", [](const Numbers& x, const Numbers& v, const Numbers& camera) {
        return flat(projection_jacobian_vjp(as<Camera>(camera), as<V3>(x), as<J>(v)));
    });
    m.def("project_covariance", [](const Numbers& x) { return flat(project_covariance(as<J>(x), as<S3>(x, 6))); });
    m.def("project_covariance_vjp", [](const Numbers& x, const Numbers& v) {
        return flat(project_covariance_vjp(as<J>(x), as<S3>(x, 6), as<S2>(v)));
    });
    m.def("antialias_factor", [](const Numbers& x, double blur) { return flat(antialias_factor(as<S2>(x), blur)); });
    m.def("antialias_factor_vjp", [](const Numbers& x, const Numbers& v, double blur) {
        return flat(antialias_factor_vjp(as<S2>(x), blur, as<double>(v)));
    });
    m.def("conic_from_cov", [](const Numbers& x) { return flat(conic_from_cov(as<S2>(x))); });
    m.def("conic_from_cov_vjp", [](const Numbers& x, const Numbers& v) {
        return flat(conic_from_cov_vjp(conic_from_cov(as<S2>(x)), as<S2>(v)));
    });
    m.def("normalized", [](const Numbers& x) { return flat(normalized(as<V3>(x))); });
    m.def("normalized_vjp",
          [](const Numbers& x, const Numbers& v) { return flat(normalized_vjp(as<V3>(x), as<V3>(v))); });
    m.def("sh_basis", [](const Numbers& x, int degree) {
        Numbers y(16);
        sh_basis(degree, as<V3>(x), y.data());
        y.resize((degree + 1) * (degree + 1));
        return y;
    });
    m.def("sh_basis_vjp", [](const Numbers& x, Numbers v, int degree) {
        v.resize(16);
        return flat(sh_basis_vjp(degree, as<V3>(x), v.data()));
    });
    m.def("ellipse_level", [](double log2_opacity) { return ellipse_level(log2_opacity); });
    // A pixel with one splat and a background. Inputs: BlendInput (10); constants: pixel (2) in px, transmittance
    // before the splat, PixelValue (5) of the background. Output: PixelValue.
    m.def("blend", [](const Numbers& x, const Numbers& pixel, double transmittance, const Numbers& background) {
        return flat(blended_pixel(as<BlendInput>(x), as<V2>(pixel), transmittance, as<PixelValue>(background)));
    });
    m.def("blend_vjp", [](const Numbers& x, const Numbers& v, const Numbers& pixel, double transmittance,
                          const Numbers& background) {
        const auto in = as<BlendInput>(x);
        const auto v_out = as<PixelValue>(v);
        const PixelValue out = blended_pixel(in, as<V2>(pixel), transmittance, as<PixelValue>(background));
        double remainder = whole_remainder(out.channels, out.transmittance, v_out.channels, v_out.transmittance);
        SplatGradient<double> sum{};
        const V2 d = in.offset(as<V2>(pixel));
        const double alpha = in.alpha(d);
        const PairGradient<double> pair =
            blend_vjp<true>(in.channels, alpha, odds_of(alpha), transmittance, true, v_out.channels, remainder);
        add_channels<true>(pair.weight, v_out.channels, sum);
        LineSums<double> row{};  // around a point beside the mean
        add_pixel_at(d.x - 2.5, pair.u, row);
        add_row(d.y, shifted(row, 2.5), sum);
        sum = gradient_from_sums(in.conic, sum);
        return flat(sum.conic, sum.mean, sum.u, sum.color, sum.inverse_depth);
    });
    m.def("clamp_color", [](const Numbers& x) { return flat(clamp_color(as<V3>(x))); });
    m.def("clamp_color_vjp",
          [](const Numbers& x, const Numbers& v) { return flat(clamp_color_vjp(clamp_color(as<V3>(x)), as<V3>(v))); });
    m.def("loss_terms", [](const Numbers& x, double y) {
        const double value = as<double>(x);
        return flat(std::abs(value - y), value, value * value, value * y);
    });
    m.def("loss_terms_vjp", [](const Numbers& x, const Numbers& v, double y) {
        return flat(loss_terms_vjp(as<double>(x), y, as<double>(v), as<WindowGradient<double>>(v, 1)));
    });
    m.def("mixed_loss", [](const Numbers& x, double weight) { return flat(mixed_loss(weight, x.at(0), x.at(1))); });
    m.def("mixed_loss_vjp", [](const Numbers&, const Numbers& v, double weight) {
        const MixedLossGradient gradient = mixed_loss_vjp(weight);
        return flat(as<double>(v) * gradient.l1, as<double>(v) * gradient.ssim);
    });
    // Inputs: window means of x, x^2, xy; constants: those of y, y^2.
    const auto means_of = [](const Numbers& x, double y, double yy) {
        return WindowMeans<double>{x[0], y, x[1] + yy, x[2]};
    };
    m.def("ssim", [=](const Numbers& x, double y, double yy) {
        as<V3>(x);
        return flat(ssim(means_of(x, y, yy)));
    });
    m.def("ssim_vjp", [=](const Numbers& x, const Numbers& v, double y, double yy) {
        as<V3>(x);
        return flat(ssim_vjp(means_of(x, y, yy), as<double>(v)));
    });
}
