// Every function of math.h in double precision over flat lists of numbers, so that tests can hold each VJP against
// central differences. A function f takes its differentiable inputs flattened to one list (and constants apart) and
// returns its outputs as one list; f_vjp takes the same and the gradient of the outputs, and returns that of the
// inputs.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <vector>

#include "math.h"

namespace nb = nanobind;

namespace {

using namespace dgr;
using Numbers = std::vector<double>;

/// A struct of doubles from numbers, and back.
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
using Camera = Pinhole<double>;

/// fx fy cx cy, rotation (9), translation (3), centre (3), ratio_min (2), ratio_max (2): 23 numbers.
Camera camera_of(const Numbers& numbers) { return as<Camera>(numbers); }

}  // namespace

void bind_math(nb::module_& m) {
    m.def("rotation_from_quat", [](const Numbers& x) { return flat(rotation_from_quat(as<Q4>(x))); });
    m.def("rotation_from_quat_vjp",
          [](const Numbers& x, const Numbers& v) { return flat(rotation_from_quat_vjp(as<Q4>(x), as<M3>(v))); });
    m.def("covariance_from_scale_rotation",
          [](const Numbers& x) { return flat(covariance_from_scale_rotation(as<V3>(x), as<M3>(x, 3))); });
    m.def("covariance_from_scale_rotation_vjp", [](const Numbers& x, const Numbers& v) {
        return flat(covariance_from_scale_rotation_vjp(as<V3>(x), as<M3>(x, 3), as<S3>(v)));
    });
    m.def("to_camera",
          [](const Numbers& x, const Numbers& camera) { return flat(to_camera(camera_of(camera), as<V3>(x))); });
    m.def("to_camera_vjp", [](const Numbers&, const Numbers& v, const Numbers& camera) {
        return flat(to_camera_vjp(camera_of(camera), as<V3>(v)));
    });
    m.def("project_mean",
          [](const Numbers& x, const Numbers& camera) { return flat(project_mean(camera_of(camera), as<V3>(x))); });
    m.def("project_mean_vjp", [](const Numbers& x, const Numbers& v, const Numbers& camera) {
        return flat(project_mean_vjp(camera_of(camera), as<V3>(x), as<V2>(v)));
    });
    m.def("projection_jacobian", [](const Numbers& x, const Numbers& camera) {
        return flat(projection_jacobian(camera_of(camera), as<V3>(x)));
    });
    m.def("projection_jacobian_vjp", [](const Numbers& x, const Numbers& v, const Numbers& camera) {
        return flat(projection_jacobian_vjp(camera_of(camera), as<V3>(x), as<J>(v)));
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
    // Inputs: conic (3), d (2); the output is ln(alpha) - ln(opacity).
    m.def("log_alpha", [](const Numbers& x) { return flat(log2_alpha(0.0, as<S2>(x), as<V2>(x, 3)) / kLog2e); });
    m.def("log_alpha_vjp", [](const Numbers& x, const Numbers& v) {
        return flat(log_alpha_vjp(as<S2>(x), as<V2>(x, 3), as<double>(v)));
    });
    // Input: alpha of one splat; constants: transmittance in front, its value, the value of what lies behind it.
    m.def("blend", [](const Numbers& x, double transmittance, double value, double behind) {
        const double alpha = as<double>(x);
        return flat(transmittance * (alpha * value + (1 - alpha) * behind));
    });
    m.def("blend_vjp", [](const Numbers& x, const Numbers& v, double transmittance, double value, double behind) {
        const double alpha = as<double>(x), rest = transmittance * (1 - alpha) * behind;
        return flat(as<double>(v) * blend_log_vjp(transmittance * alpha * value, alpha, rest) / alpha);
    });
    // Inputs: window means of x, x^2, xy; constants: those of y, y^2.
    const auto means_of = [](const Numbers& x, double y, double yy) {
        return WindowMeans<double>{x[0], y, x[1], yy, x[2]};
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
