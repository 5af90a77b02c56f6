// Projection of a Gaussian to a splat, and its VJP: the steps of both engines after the inputs are loaded. T is float
// or double for one Gaussian, Batch<float|double> for several.
#pragma once

#include "types.h"

namespace dgr {

/// The shape of a Gaussian: covariance if has_covariance, else quat and scale; the scale as the input has it, or after
/// the activation.
template <class T> struct GaussianShape {
    bool has_covariance;
    Quat<T> quat;
    Vec3<T> scale;
    Sym3<T> covariance;
};

/// The intermediate results that both forward and backward need.
template <class T> struct Projection {
    Vec3<T> world, point;    // mean in world and camera space
    GaussianShape<T> shape;  // with covariance
    Mat3<T> rotation;
    JacobianRows<T> jacobian;
    Sym2<T> sharp, conic;  // 2D covariance before the low-pass filter; conic after it
    T opacity, factor;     // factor: antialias_factor, or 1
};

template <class T>
DGR_FN Projection<T> project_gaussian(const Pinhole<T>& camera, bool antialiased, InputForm form, Vec3<T> mean,
                                      const GaussianShape<T>& shape, T opacity) {
    Projection<T> p;
    p.world = mean;
    p.point = to_camera(camera, mean);
    p.shape = shape;
    if (!shape.has_covariance) {
        if (form.log_scales) p.shape.scale = scales_from_logs(shape.scale);
        p.rotation = rotation_from_quat(shape.quat);
        p.shape.covariance = covariance_from_scale_rotation(p.shape.scale, p.rotation);
    }
    p.jacobian = projection_jacobian(camera, p.point);
    p.sharp = project_covariance(p.jacobian, p.shape.covariance);
    p.conic = conic_from_cov(blurred(p.sharp, T(Limits::blur)));
    p.opacity = form.opacity_logits ? opacity_from_logit(opacity) : opacity;
    p.factor = antialiased ? antialias_factor(p.sharp, T(Limits::blur)) : T(1);
    return p;
}

/// A splat without its colour; defined where it is visible.
template <class T> struct MaybeSplat {
    Splat<T> splat;
    T depth;
    MaskOf<T> visible;
};

/// width, height: of the image in px. Comparisons with NaN are false, so Gaussians with NaN are culled.
template <class T>
DGR_FN MaybeSplat<T> make_splat(const Pinhole<T>& camera, int width, int height, const Projection<T>& p) {
    const Sym2<T> cov = blurred(p.sharp, T(Limits::blur));
    const Vec2<T> mean = project_mean(camera, p.point);
    const T opacity = p.opacity * p.factor;
    MaskOf<T> visible = (p.point.z > T(Limits::near)) & (determinant(cov) > T(0)) & is_finite(p.conic.xx) &
                        is_finite(p.conic.xy) & is_finite(p.conic.yy) & (p.conic.xx > T(0)) & (p.conic.yy > T(0)) &
                        is_finite(mean.x) & is_finite(mean.y) & is_finite(p.point.z) &
                        (opacity >= T(Limits::alpha_min)) & is_finite(opacity);
    if (!p.shape.has_covariance) visible = visible & is_finite(p.shape.scale.x + p.shape.scale.y + p.shape.scale.z);
    const T log2_opacity = log2(select(visible, opacity, T(1)));
    const T level = ellipse_level(log2_opacity);
    const Vec2<T> extent{sqrt(level * cov.xx), sqrt(level * cov.yy)};
    visible = visible & (mean.x + extent.x >= T(0)) & (mean.x - extent.x <= T(width - 1)) &
              (mean.y + extent.y >= T(0)) & (mean.y - extent.y <= T(height - 1));
    Splat<T> s;
    s.mean = mean;
    s.conic = p.conic;
    s.log2_opacity = log2_opacity;
    s.color = {T(0), T(0), T(0)};
    s.inverse_depth = T(1) / p.point.z;
    s.half_extent = extent;
    s.half_chord = sqrt(level / p.conic.xx);
    s.slope = -p.conic.xy / p.conic.xx;
    return {s, p.point.z, visible};
}

/// The radius in px that is returned: half the longer side of the bounding box, at least 1.
template <class T> DGR_FN int32_t radius_of(Vec2<T> half_extent) {
    return static_cast<int32_t>(min(max(ceil(max(half_extent.x, half_extent.y)), T(1)), T(1 << 30)));
}

constexpr int kMaxRest = sh_rest_count(Limits::sh_degree_max);

/// The colour from spherical harmonics before the clamp. rest: (sh_rest_count(degree), 3).
template <class T> DGR_FN Vec3<T> sh_color(int degree, Vec3<T> toward, Vec3<T> dc, const T* rest) {
    T basis[kMaxRest + 1];
    sh_basis(degree, normalized(toward), basis);
    Vec3<T> rgb = basis[0] * dc + Vec3<T>{T(0.5), T(0.5), T(0.5)};
    const int num_rest = sh_rest_count(degree);
    DGR_UNROLL
    for (int k = 0; k < kMaxRest; ++k)
        if (k < num_rest) rgb = rgb + basis[k + 1] * Vec3<T>{rest[3 * k], rest[3 * k + 1], rest[3 * k + 2]};
    return rgb;
}
template <class T> struct ShGradient { Vec3<T> toward, dc; };
/// Replaces `rest` by its gradient. v: dL/d of the colour before the clamp.
template <class T> DGR_FN ShGradient<T> sh_color_vjp(int degree, Vec3<T> toward, T* rest, Vec3<T> v) {
    T basis[kMaxRest + 1], v_basis[kMaxRest + 1];
    const Vec3<T> direction = normalized(toward);
    sh_basis(degree, direction, basis);
    const int num_rest = sh_rest_count(degree);
    DGR_UNROLL
    for (int k = 0; k < kMaxRest; ++k) {
        if (k >= num_rest) continue;
        T* c = rest + 3 * k;
        v_basis[k + 1] = dot(Vec3<T>{c[0], c[1], c[2]}, v);
        c[0] = basis[k + 1] * v.x, c[1] = basis[k + 1] * v.y, c[2] = basis[k + 1] * v.z;
    }
    return {normalized_vjp(toward, sh_basis_vjp(degree, direction, v_basis)), basis[0] * v};
}

/// The clamp of colours from spherical harmonics.  [eq. 11]
template <class T> DGR_FN Vec3<T> clamp_color(Vec3<T> rgb) {
    return {max(rgb.x, T(0)), max(rgb.y, T(0)), max(rgb.z, T(0))};
}
template <class T> DGR_FN Vec3<T> clamp_color_vjp(Vec3<T> clamped, Vec3<T> v) {
    return {select(clamped.x > T(0), v.x, T(0)), select(clamped.y > T(0), v.y, T(0)),
            select(clamped.z > T(0), v.z, T(0))};
}

/// dL/d of a Gaussian's inputs; and of its mean in camera space and its Jacobian, for project_gaussian_of_pose_vjp.
template <class T> struct GaussianGradient {
    Vec3<T> mean, scale;
    Quat<T> quat;
    Sym3<T> covariance;
    T opacity;
    Vec3<T> point;
    JacobianRows<T> jacobian;
};
/// VJP of project_gaussian and make_splat. v_toward: dL/dmean through the viewing direction.
template <class T>
DGR_FN GaussianGradient<T> project_gaussian_vjp(const Pinhole<T>& camera, bool antialiased, InputForm form,
                                                const Projection<T>& p, const SplatGradient<T>& v, Vec3<T> v_toward) {
    GaussianGradient<T> out;
    out.opacity = v.u / p.opacity;  // alpha is proportional to opacity * factor
    if (form.opacity_logits) out.opacity = opacity_from_logit_vjp(p.opacity, out.opacity);
    Sym2<T> v_cov = conic_from_cov_vjp(p.conic, v.conic);
    if (antialiased) {
        const Sym2<T> more = antialias_factor_vjp(p.sharp, T(Limits::blur), v.u / p.factor);
        v_cov = {v_cov.xx + more.xx, v_cov.xy + more.xy, v_cov.yy + more.yy};
    }
    const JacobianCovariance<T> v_projection = project_covariance_vjp(p.jacobian, p.shape.covariance, v_cov);
    out.covariance = v_projection.covariance;
    if (!p.shape.has_covariance) {
        const auto v_shape = covariance_from_scale_rotation_vjp(p.shape.scale, p.rotation, out.covariance);
        out.scale = form.log_scales ? scales_from_logs_vjp(p.shape.scale, v_shape.scale) : v_shape.scale;
        out.quat = rotation_from_quat_vjp(p.shape.quat, v_shape.rotation);
    }
    Vec3<T> v_point =
        projection_jacobian_vjp(camera, p.point, v_projection.jacobian) + project_mean_vjp(camera, p.point, v.mean);
    v_point.z -= v.inverse_depth / (p.point.z * p.point.z);
    out.mean = to_camera_vjp(camera, v_point) + v_toward;
    out.point = v_point;
    out.jacobian = v_projection.jacobian;
    return out;
}
/// The VJP with respect to the camera's pose. v: the result of project_gaussian_vjp.
template <class T>
DGR_FN PoseGradient<T> project_gaussian_of_pose_vjp(const Pinhole<T>& camera, const Projection<T>& p,
                                                    const GaussianGradient<T>& v, Vec3<T> v_toward) {
    PoseGradient<T> out = to_camera_of_pose_vjp(p.world, v.point);
    out.rotation = out.rotation + projection_jacobian_of_pose_vjp(camera, p.point, v.jacobian);
    out.add(camera_centre_vjp(camera.rotation, camera.translation, T(-1) * v_toward));  // toward = mean - centre
    return out;
}

/// dL/dmean in NDC units, the sums of the absolute values, and their norm.
template <class T> struct ScreenGradient { T x, y, abs_x, abs_y, norm; };
template <class T> DGR_FN ScreenGradient<T> screen_gradient(int width, int height, const SplatGradient<T>& v) {
    const T to_ndc_x(0.5 * width), to_ndc_y(0.5 * height);
    const T abs_x = v.abs_mean.x * to_ndc_x, abs_y = v.abs_mean.y * to_ndc_y;
    return {v.mean.x * to_ndc_x, v.mean.y * to_ndc_y, abs_x, abs_y, sqrt(abs_x * abs_x + abs_y * abs_y)};
}

}  // namespace dgr
