// The formulas of the rasterizer, the loss and the optimizer, each followed by its vector-Jacobian product (VJP). Both
// engines call these functions. T is float, double or Batch<float|double>; equation numbers refer to docs/math.md.
//
// v_x is dL/dx. A symmetric matrix stores each off-diagonal element once; v_ of it is the derivative with respect to
// the stored number, so it covers both elements.
#pragma once

#include <cmath>

#include "constants.h"

#if defined(__CUDACC__)
#define DGR_FN __host__ __device__ __forceinline__
#define DGR_UNROLL _Pragma("unroll")  // keeps arrays that the loop indexes in registers
#else
#define DGR_FN inline __attribute__((always_inline))
#define DGR_UNROLL
#endif

namespace dgr {

// ---- Operations on T; simd.h overloads them for Batch ----
template <class T> DGR_FN T select(bool condition, T yes, T no) { return condition ? yes : no; }
DGR_FN float sqrt(float a) { return ::sqrtf(a); }
DGR_FN double sqrt(double a) { return ::sqrt(a); }
DGR_FN float exp(float a) { return ::expf(a); }
DGR_FN double exp(double a) { return ::exp(a); }
DGR_FN float exp2(float a) { return ::exp2f(a); }
DGR_FN double exp2(double a) { return ::exp2(a); }
DGR_FN float log2(float a) { return ::log2f(a); }
DGR_FN double log2(double a) { return ::log2(a); }
DGR_FN float min(float a, float b) { return a < b ? a : b; }
DGR_FN double min(double a, double b) { return a < b ? a : b; }
DGR_FN float max(float a, float b) { return a > b ? a : b; }
DGR_FN double max(double a, double b) { return a > b ? a : b; }
DGR_FN float abs(float a) { return ::fabsf(a); }
DGR_FN double abs(double a) { return ::fabs(a); }
DGR_FN float floor(float a) { return ::floorf(a); }
DGR_FN double floor(double a) { return ::floor(a); }
DGR_FN float ceil(float a) { return ::ceilf(a); }
DGR_FN double ceil(double a) { return ::ceil(a); }
/// The type of a comparison of two T: bool, or a mask of lanes.
template <class T> using MaskOf = decltype(T(0) < T(0));
/// True where x is neither infinite nor NaN.
template <class T> DGR_FN auto is_finite(T x) { return x - x == T(0); }

template <class T> struct Vec2 { T x, y; };
template <class T> struct Vec3 { T x, y, z; };
template <class T> struct Quat { T w, x, y, z; };                   // w: real part
template <class T> struct Sym2 { T xx, xy, yy; };
template <class T> struct Sym3 { T xx, xy, xz, yy, yz, zz; };
template <class T> struct Mat3 { Vec3<T> r0, r1, r2; };             // rows

template <class T> DGR_FN Vec3<T> operator+(Vec3<T> a, Vec3<T> b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
template <class T> DGR_FN Vec3<T> operator-(Vec3<T> a, Vec3<T> b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
template <class T> DGR_FN Vec3<T> operator*(T s, Vec3<T> a) { return {s * a.x, s * a.y, s * a.z}; }
template <class T> DGR_FN T dot(Vec3<T> a, Vec3<T> b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
template <class T> DGR_FN Vec3<T> operator*(const Sym3<T>& m, Vec3<T> a) {
    return {m.xx * a.x + m.xy * a.y + m.xz * a.z, m.xy * a.x + m.yy * a.y + m.yz * a.z,
            m.xz * a.x + m.yz * a.y + m.zz * a.z};
}
template <class T> DGR_FN Mat3<T> operator+(const Mat3<T>& a, const Mat3<T>& b) {
    return {a.r0 + b.r0, a.r1 + b.r1, a.r2 + b.r2};
}
template <class T> DGR_FN Vec3<T> operator*(const Mat3<T>& m, Vec3<T> a) {
    return {dot(m.r0, a), dot(m.r1, a), dot(m.r2, a)};
}
/// a b^T; for dL/d(m b) = a it is dL/dm.
template <class T> DGR_FN Mat3<T> outer(Vec3<T> a, Vec3<T> b) { return {a.x * b, a.y * b, a.z * b}; }
/// m^T a; also the VJP of m a with respect to a.
template <class T> DGR_FN Vec3<T> transposed_times(const Mat3<T>& m, Vec3<T> a) {
    return a.x * m.r0 + a.y * m.r1 + a.z * m.r2;
}

/// A pinhole camera with OpenCV axes. rotation and translation map world to camera; focal lengths and principal point
/// are in px, with the centre of the top-left pixel at (0.5, 0.5); ratio_min and ratio_max clamp x/z and y/z in the
/// Jacobian; centre is the camera's position in world space.
template <class T> struct Pinhole {
    T fx, fy, cx, cy;
    Mat3<T> rotation;
    Vec3<T> translation, centre;
    Vec2<T> ratio_min, ratio_max;
};

/// The position of a camera: -rotation^T translation.  [eq. 18]
template <class T> DGR_FN Vec3<T> camera_centre(const Mat3<T>& rotation, Vec3<T> translation) {
    return T(-1) * transposed_times(rotation, translation);
}
/// dL/d of a camera's rotation, each element for itself, and translation.
template <class T> struct PoseGradient {
    Mat3<T> rotation;
    Vec3<T> translation;
    DGR_FN void add(const PoseGradient& other) {
        rotation = rotation + other.rotation;
        translation = translation + other.translation;
    }
};
template <class T>
DGR_FN PoseGradient<T> camera_centre_vjp(const Mat3<T>& rotation, Vec3<T> translation, Vec3<T> v) {
    return {outer(T(-1) * translation, v), T(-1) * (rotation * v)};
}

// ---- Activations ----

/// The scales of log-scales.  [eq. 17]
template <class T> DGR_FN Vec3<T> scales_from_logs(Vec3<T> logs) { return {exp(logs.x), exp(logs.y), exp(logs.z)}; }
template <class T> DGR_FN Vec3<T> scales_from_logs_vjp(Vec3<T> scales, Vec3<T> v) {
    return {scales.x * v.x, scales.y * v.y, scales.z * v.z};
}
/// The opacity of a logit; exactly 0 and 1 far from 0, without NaN.  [eq. 17]
template <class T> DGR_FN T opacity_from_logit(T logit) { return T(1) / (T(1) + exp(-logit)); }
template <class T> DGR_FN T opacity_from_logit_vjp(T opacity, T v) { return v * opacity * (T(1) - opacity); }

// ---- Shape: quaternion and scales to a 3D covariance ----

/// Rotation matrix of a quaternion, which is normalized first.  [eq. 1]
template <class T> DGR_FN Mat3<T> rotation_from_quat(Quat<T> quat) {
    const T inv_norm = T(1) / sqrt(quat.w * quat.w + quat.x * quat.x + quat.y * quat.y + quat.z * quat.z);
    const T w = quat.w * inv_norm, x = quat.x * inv_norm, y = quat.y * inv_norm, z = quat.z * inv_norm;
    return {{T(1) - T(2) * (y * y + z * z), T(2) * (x * y - w * z), T(2) * (x * z + w * y)},
            {T(2) * (x * y + w * z), T(1) - T(2) * (x * x + z * z), T(2) * (y * z - w * x)},
            {T(2) * (x * z - w * y), T(2) * (y * z + w * x), T(1) - T(2) * (x * x + y * y)}};
}
template <class T> DGR_FN Quat<T> rotation_from_quat_vjp(Quat<T> quat, const Mat3<T>& v) {
    const T inv_norm = T(1) / sqrt(quat.w * quat.w + quat.x * quat.x + quat.y * quat.y + quat.z * quat.z);
    const T w = quat.w * inv_norm, x = quat.x * inv_norm, y = quat.y * inv_norm, z = quat.z * inv_norm;
    const T v_w = T(2) * (x * (v.r2.y - v.r1.z) + y * (v.r0.z - v.r2.x) + z * (v.r1.x - v.r0.y));
    const T v_x =
        T(2) * (w * (v.r2.y - v.r1.z) + y * (v.r0.y + v.r1.x) + z * (v.r0.z + v.r2.x)) - T(4) * x * (v.r1.y + v.r2.z);
    const T v_y =
        T(2) * (w * (v.r0.z - v.r2.x) + x * (v.r0.y + v.r1.x) + z * (v.r1.z + v.r2.y)) - T(4) * y * (v.r0.x + v.r2.z);
    const T v_z =
        T(2) * (w * (v.r1.x - v.r0.y) + x * (v.r0.z + v.r2.x) + y * (v.r1.z + v.r2.y)) - T(4) * z * (v.r0.x + v.r1.y);
    const T radial = v_w * w + v_x * x + v_y * y + v_z * z;  // removed by the normalization
    return {inv_norm * (v_w - radial * w), inv_norm * (v_x - radial * x), inv_norm * (v_y - radial * y),
            inv_norm * (v_z - radial * z)};
}

/// Sigma = R diag(scale)^2 R^T.  [eq. 2]
template <class T> DGR_FN Sym3<T> covariance_from_scale_rotation(Vec3<T> scale, const Mat3<T>& r) {
    const Vec3<T> s2{scale.x * scale.x, scale.y * scale.y, scale.z * scale.z};
    const Vec3<T> a{r.r0.x * s2.x, r.r0.y * s2.y, r.r0.z * s2.z}, b{r.r1.x * s2.x, r.r1.y * s2.y, r.r1.z * s2.z},
        c{r.r2.x * s2.x, r.r2.y * s2.y, r.r2.z * s2.z};
    return {dot(a, r.r0), dot(a, r.r1), dot(a, r.r2), dot(b, r.r1), dot(b, r.r2), dot(c, r.r2)};
}
template <class T> struct ScaleRotation {
    Vec3<T> scale;
    Mat3<T> rotation;
};
template <class T>
DGR_FN ScaleRotation<T> covariance_from_scale_rotation_vjp(Vec3<T> scale, const Mat3<T>& r, const Sym3<T>& v) {
    // With G the full symmetric gradient, dL/dR = 2 G R diag(scale)^2 and dL/dscale_k = 2 scale_k (R^T G R)_kk.
    const T h(0.5);
    const Sym3<T> g{v.xx, h * v.xy, h * v.xz, v.yy, h * v.yz, v.zz};
    const Vec3<T> c0{r.r0.x, r.r1.x, r.r2.x}, c1{r.r0.y, r.r1.y, r.r2.y}, c2{r.r0.z, r.r1.z, r.r2.z};
    const Vec3<T> g0 = g * c0, g1 = g * c1, g2 = g * c2;
    const Vec3<T> m0 = (T(2) * scale.x * scale.x) * g0, m1 = (T(2) * scale.y * scale.y) * g1,
                  m2 = (T(2) * scale.z * scale.z) * g2;
    return {{T(2) * scale.x * dot(c0, g0), T(2) * scale.y * dot(c1, g1), T(2) * scale.z * dot(c2, g2)},
            {{m0.x, m1.x, m2.x}, {m0.y, m1.y, m2.y}, {m0.z, m1.z, m2.z}}};
}

// ---- Projection ----

/// World space to camera space.  [eq. 3]
template <class T> DGR_FN Vec3<T> to_camera(const Pinhole<T>& cam, Vec3<T> p) {
    const Mat3<T>& r = cam.rotation;
    return Vec3<T>{dot(r.r0, p), dot(r.r1, p), dot(r.r2, p)} + cam.translation;
}
template <class T> DGR_FN Vec3<T> to_camera_vjp(const Pinhole<T>& cam, Vec3<T> v) {
    return transposed_times(cam.rotation, v);
}

/// The VJP of to_camera with respect to the pose.  [eq. 18]
template <class T> DGR_FN PoseGradient<T> to_camera_of_pose_vjp(Vec3<T> p, Vec3<T> v) { return {outer(v, p), v}; }

/// Camera space to px; pixel (i, j) is sampled at (i, j).  [eq. 4]
template <class T> DGR_FN Vec2<T> project_mean(const Pinhole<T>& cam, Vec3<T> p) {
    const T inv_z = T(1) / p.z;
    return {cam.fx * p.x * inv_z + cam.cx - T(0.5), cam.fy * p.y * inv_z + cam.cy - T(0.5)};
}
template <class T> DGR_FN Vec3<T> project_mean_vjp(const Pinhole<T>& cam, Vec3<T> p, Vec2<T> v) {
    const T inv_z = T(1) / p.z;
    const T v_x = v.x * cam.fx * inv_z, v_y = v.y * cam.fy * inv_z;
    return {v_x, v_y, -(v_x * p.x + v_y * p.y) * inv_z};
}

/// Rows of J W: the Jacobian of the projection at p, with x/z and y/z clamped, times the rotation.  [eq. 5]
template <class T> struct JacobianRows { Vec3<T> x, y; };
template <class T> DGR_FN JacobianRows<T> projection_jacobian(const Pinhole<T>& cam, Vec3<T> p) {
    const T inv_z = T(1) / p.z;
    const T ratio_x = min(cam.ratio_max.x, max(cam.ratio_min.x, p.x * inv_z));
    const T ratio_y = min(cam.ratio_max.y, max(cam.ratio_min.y, p.y * inv_z));
    const Mat3<T>& r = cam.rotation;
    return {(cam.fx * inv_z) * (r.r0 - ratio_x * r.r2), (cam.fy * inv_z) * (r.r1 - ratio_y * r.r2)};
}
template <class T>
DGR_FN Vec3<T> projection_jacobian_vjp(const Pinhole<T>& cam, Vec3<T> p, const JacobianRows<T>& v) {
    const T inv_z = T(1) / p.z;
    const T raw_x = p.x * inv_z, raw_y = p.y * inv_z;
    const T ratio_x = min(cam.ratio_max.x, max(cam.ratio_min.x, raw_x));
    const T ratio_y = min(cam.ratio_max.y, max(cam.ratio_min.y, raw_y));
    const Mat3<T>& r = cam.rotation;
    const T k_x = cam.fx * inv_z, k_y = cam.fy * inv_z;
    const T v_k_x = dot(v.x, r.r0 - ratio_x * r.r2), v_k_y = dot(v.y, r.r1 - ratio_y * r.r2);
    const T v_ratio_x = select(ratio_x == raw_x, -(k_x * dot(v.x, r.r2)), T(0));
    const T v_ratio_y = select(ratio_y == raw_y, -(k_y * dot(v.y, r.r2)), T(0));
    return {v_ratio_x * inv_z, v_ratio_y * inv_z,
            -inv_z * (v_k_x * k_x + v_k_y * k_y + v_ratio_x * ratio_x + v_ratio_y * ratio_y)};
}

/// The VJP of projection_jacobian with respect to the rotation, for a p that does not depend on it.  [eq. 18]
template <class T>
DGR_FN Mat3<T> projection_jacobian_of_pose_vjp(const Pinhole<T>& cam, Vec3<T> p, const JacobianRows<T>& v) {
    const T inv_z = T(1) / p.z;
    const T ratio_x = min(cam.ratio_max.x, max(cam.ratio_min.x, p.x * inv_z));
    const T ratio_y = min(cam.ratio_max.y, max(cam.ratio_min.y, p.y * inv_z));
    const Vec3<T> v_x = (cam.fx * inv_z) * v.x, v_y = (cam.fy * inv_z) * v.y;
    return {v_x, v_y, -ratio_x * v_x - ratio_y * v_y};
}

/// 2D covariance J W Sigma W^T J^T in px^2.  [eq. 6]
template <class T> DGR_FN Sym2<T> project_covariance(const JacobianRows<T>& j, const Sym3<T>& cov) {
    const Vec3<T> a = cov * j.x, b = cov * j.y;
    return {dot(j.x, a), dot(j.x, b), dot(j.y, b)};
}
template <class T> struct JacobianCovariance {
    JacobianRows<T> jacobian;
    Sym3<T> covariance;
};
template <class T>
DGR_FN JacobianCovariance<T> project_covariance_vjp(const JacobianRows<T>& j, const Sym3<T>& cov, Sym2<T> v) {
    const Vec3<T> a = cov * j.x, b = cov * j.y;
    const Vec3<T> p = j.x, q = j.y;
    // The gradient of the full matrix is v.xx p p^T + v.xy (p q^T + q p^T) / 2 + v.yy q q^T = p m^T + q n^T.
    const Vec3<T> m = v.xx * p + (T(0.5) * v.xy) * q, n = v.yy * q + (T(0.5) * v.xy) * p;
    return {{T(2) * v.xx * a + v.xy * b, T(2) * v.yy * b + v.xy * a},
            {p.x * m.x + q.x * n.x, T(2) * (p.x * m.y + q.x * n.y), T(2) * (p.x * m.z + q.x * n.z),
             p.y * m.y + q.y * n.y, T(2) * (p.y * m.z + q.y * n.z), p.z * m.z + q.z * n.z}};
}

/// The low-pass filter of 3DGS: adds a constant to the diagonal. Its VJP is the identity.  [eq. 7]
template <class T> DGR_FN Sym2<T> blurred(Sym2<T> cov, T blur) { return {cov.xx + blur, cov.xy, cov.yy + blur}; }

template <class T> DGR_FN T determinant(Sym2<T> m) { return m.xx * m.yy - m.xy * m.xy; }

/// Opacity factor of the anti-aliased mode: sqrt(max(0, det(cov) / det(cov + blur I))).  [eq. 8]
template <class T> DGR_FN T antialias_factor(Sym2<T> cov, T blur) {
    return sqrt(max(T(0), determinant(cov) / determinant(blurred(cov, blur))));
}
template <class T> DGR_FN Sym2<T> antialias_factor_vjp(Sym2<T> cov, T blur, T v) {
    const Sym2<T> wide = blurred(cov, blur);
    const T inv_wide = T(1) / determinant(wide);
    const T ratio = determinant(cov) * inv_wide;
    const auto is_positive = ratio > T(0);
    const T v_ratio = select(is_positive, T(0.5) * v / sqrt(select(is_positive, ratio, T(1))), T(0));
    const T v_det = v_ratio * inv_wide, v_wide = -v_ratio * ratio * inv_wide;
    return {v_det * cov.yy + v_wide * wide.yy, T(-2) * (v_det + v_wide) * cov.xy, v_det * cov.xx + v_wide * wide.xx};
}

/// Conic Q = cov^-1 in px^-2, as in alpha = opacity * exp(-d^T Q d / 2). cov is positive definite.  [eq. 9]
template <class T> DGR_FN Sym2<T> conic_from_cov(Sym2<T> cov) {
    const T inv_det = T(1) / determinant(cov);
    return {cov.yy * inv_det, -cov.xy * inv_det, cov.xx * inv_det};
}
/// -Q G Q, with G the gradient of the full matrix. q: the conic.
template <class T> DGR_FN Sym2<T> conic_from_cov_vjp(Sym2<T> q, Sym2<T> v) {
    const T g = T(0.5) * v.xy;
    const T ax = q.xx * v.xx + q.xy * g, ay = q.xx * g + q.xy * v.yy;
    const T bx = q.xy * v.xx + q.yy * g, by = q.xy * g + q.yy * v.yy;
    return {-(ax * q.xx + ay * q.xy), T(-2) * (ax * q.xy + ay * q.yy), -(bx * q.xy + by * q.yy)};
}

// ---- Colour ----

/// Unit vector along d.  [eq. 10]
template <class T> DGR_FN Vec3<T> normalized(Vec3<T> d) { return (T(1) / sqrt(dot(d, d))) * d; }
template <class T> DGR_FN Vec3<T> normalized_vjp(Vec3<T> d, Vec3<T> v) {
    const T inv_norm = T(1) / sqrt(dot(d, d));
    const Vec3<T> n = inv_norm * d;
    return inv_norm * (v - dot(n, v) * n);
}

/// Number of SH coefficients of degrees 1 to `degree`.
DGR_FN constexpr int sh_rest_count(int degree) { return (degree + 1) * (degree + 1) - 1; }
/// Real spherical harmonics of degrees 0 to `degree` with the signs of 3DGS: (degree + 1)^2 values. They are evaluated
/// as polynomials in n, and so is their VJP.  [eq. 11]
template <class T> DGR_FN void sh_basis(int degree, Vec3<T> n, T y[16]) {
    const T xx = n.x * n.x, yy = n.y * n.y, zz = n.z * n.z;
    y[0] = T(0.28209479177387814);
    if (degree < 1) return;
    y[1] = T(-0.4886025119029199) * n.y;
    y[2] = T(0.4886025119029199) * n.z;
    y[3] = T(-0.4886025119029199) * n.x;
    if (degree < 2) return;
    y[4] = T(1.0925484305920792) * n.x * n.y;
    y[5] = T(-1.0925484305920792) * n.y * n.z;
    y[6] = T(0.31539156525252005) * (T(2) * zz - xx - yy);
    y[7] = T(-1.0925484305920792) * n.x * n.z;
    y[8] = T(0.5462742152960396) * (xx - yy);
    if (degree < 3) return;
    y[9] = T(-0.5900435899266435) * n.y * (T(3) * xx - yy);
    y[10] = T(2.890611442640554) * n.x * n.y * n.z;
    y[11] = T(-0.4570457994644658) * n.y * (T(4) * zz - xx - yy);
    y[12] = T(0.3731763325901154) * n.z * (T(2) * zz - T(3) * (xx + yy));
    y[13] = T(-0.4570457994644658) * n.x * (T(4) * zz - xx - yy);
    y[14] = T(1.445305721320277) * n.z * (xx - yy);
    y[15] = T(-0.5900435899266435) * n.x * (xx - T(3) * yy);
}
template <class T> DGR_FN Vec3<T> sh_basis_vjp(int degree, Vec3<T> n, const T v[16]) {
    Vec3<T> v_n{T(0), T(0), T(0)};
    if (degree < 1) return v_n;
    v_n = T(0.4886025119029199) * Vec3<T>{-v[3], -v[1], v[2]};
    if (degree < 2) return v_n;
    const T a(1.0925484305920792), b(0.6307831305050401);  // b = 2 * 0.31539...
    v_n.x += a * (v[4] * n.y - v[7] * n.z + v[8] * n.x) - b * v[6] * n.x;
    v_n.y += a * (v[4] * n.x - v[5] * n.z - v[8] * n.y) - b * v[6] * n.y;
    v_n.z += T(2) * b * v[6] * n.z - a * (v[5] * n.y + v[7] * n.x);
    if (degree < 3) return v_n;
    const T xx = n.x * n.x, yy = n.y * n.y, zz = n.z * n.z;
    const T xy = n.x * n.y, xz = n.x * n.z, yz = n.y * n.z;
    const T c9 = T(-0.5900435899266435) * v[9], c10 = T(2.890611442640554) * v[10],
            c11 = T(-0.4570457994644658) * v[11], c12 = T(0.3731763325901154) * v[12],
            c13 = T(-0.4570457994644658) * v[13], c14 = T(1.445305721320277) * v[14],
            c15 = T(-0.5900435899266435) * v[15];
    v_n.x += c9 * T(6) * xy + c10 * yz - c11 * T(2) * xy - c12 * T(6) * xz + c13 * (T(4) * zz - T(3) * xx - yy) +
             c14 * T(2) * xz + c15 * T(3) * (xx - yy);
    v_n.y += c9 * T(3) * (xx - yy) + c10 * xz + c11 * (T(4) * zz - xx - T(3) * yy) - c12 * T(6) * yz - c13 * T(2) * xy -
             c14 * T(2) * yz - c15 * T(6) * xy;
    v_n.z += c10 * xy + c11 * T(8) * yz + c12 * (T(6) * zz - T(3) * (xx + yy)) + c13 * T(8) * xz + c14 * (xx - yy);
    return v_n;
}

// ---- Blending ----

/// The conic with the factors of the exponent: log2(alpha) is log2(opacity) + xx d.x^2 + xy d.x d.y + yy d.y^2.
template <class T> DGR_FN Sym2<T> exponent_conic(Sym2<T> q) {
    const T k(-0.5 * kLog2e);
    return {k * q.xx, T(2) * k * q.xy, k * q.yy};
}
/// The part of log2_alpha that depends on d.y: the pixels of a row share it. e: exponent_conic.
template <class T> struct RowExponent { T linear, constant; };
template <class T> DGR_FN RowExponent<T> row_exponent(T log2_opacity, Sym2<T> e, T d_y) {
    return {e.xy * d_y, e.yy * d_y * d_y + log2_opacity};
}
/// log2 of opacity * exp(-d^T Q d / 2) with d = pixel - mean in px.  [eq. 12]
template <class T> DGR_FN T log2_alpha(T e_xx, RowExponent<T> row, T d_x) {
    return d_x * (e_xx * d_x + row.linear) + row.constant;
}
template <class T> DGR_FN T log2_alpha(T log2_opacity, Sym2<T> e, Vec2<T> d) {
    return log2_alpha(e.xx, row_exponent(log2_opacity, e, d.y), d.x);
}
/// tau: alpha >= alpha_min inside the ellipse d^T Q d <= tau. It is increased by 1e-4, so that no pixel is lost to
/// rounding, and is negative if alpha < alpha_min everywhere. Half extents: sqrt(tau cov.xx), sqrt(tau cov.yy).
/// [eq. 13]
template <class T> DGR_FN T ellipse_level(T log2_opacity) {
    const T log2_alpha_min(Limits::log2_alpha_min), margin(1e-4);
    return T(2 / kLog2e) * (log2_opacity - log2_alpha_min) + margin;
}

/// The blended channels: of a splat, of a pixel, or dL/d of either.
template <class T> struct Channels {
    Vec3<T> color;
    T inverse_depth;
};

/// The weight of a splat in a pixel. alpha: before the cap; transmittance: before the splat.  [eq. 14]
template <class T> DGR_FN T blend_weight(T transmittance, T alpha) {
    return min(alpha, T(Limits::alpha_max)) * transmittance;
}
/// The transmittance after the splat. The compiler may use a fused multiply-add or not, depending on the caller, so the
/// last bit can differ between forward and backward.
template <class T> DGR_FN T transmittance_after(T transmittance, T alpha) {
    return transmittance - transmittance * min(alpha, T(Limits::alpha_max));
}

/// dL/d of a splat. While it is summed over pixels, with u = dL/d ln(alpha) and d = pixel - mean, mean is the sum of
/// u d and conic that of u d d^T; gradient_from_sums converts them.
template <class T> struct SplatGradient {
    Vec2<T> mean, abs_mean;  // px^-1; abs_mean: sum of the absolute values over pixels
    Sym2<T> conic;           // px^2
    T u;
    Vec3<T> color;
    T inverse_depth;

    DGR_FN void add(const SplatGradient& other) {
        mean.x += other.mean.x, mean.y += other.mean.y;
        abs_mean.x += other.abs_mean.x, abs_mean.y += other.abs_mean.y;
        conic.xx += other.conic.xx, conic.xy += other.conic.xy, conic.yy += other.conic.yy;
        u += other.u;
        color = color + other.color;
        inverse_depth += other.inverse_depth;
    }
};
/// v . pixel over all channels and the transmittance: what `remainder` is before the first splat.
template <class T>
DGR_FN T whole_remainder(const Channels<T>& pixel, T transmittance, const Channels<T>& v, T v_transmittance) {
    T sum(0);
    sum += pixel.color.x * v.color.x;
    sum += pixel.color.y * v.color.y;
    sum += pixel.color.z * v.color.z;
    sum += transmittance * v_transmittance;
    sum += pixel.inverse_depth * v.inverse_depth;
    return sum;
}
/// Capped alpha / (1 - capped alpha). The CUDA engine computes it by an approximate reciprocal.
template <class T> DGR_FN T odds_of(T alpha) {
    const T capped = min(alpha, T(Limits::alpha_max));
    return capped / (T(1) - capped);
}
/// What a pixel adds to the gradient of a splat: u = dL/d ln(alpha), and the weight, for add_channels.
template <class T> struct PairGradient { T u, weight; };
/// VJP of blend_weight and transmittance_after, for one splat in one pixel. Splats are visited front to back.  [eq. 14]
/// kDepth: the inverse depth has a gradient, too.
/// channels        of the splat
/// alpha           before the cap, where the gradient of alpha becomes zero
/// odds            odds_of(alpha)
/// transmittance   before the splat
/// contributes     if false, only the remainder is read and alpha may be NaN
/// v               dL/d of the pixel
/// remainder       v . (the pixel's value minus that of all splats visited so far); updated
template <bool kDepth, class T>
DGR_FN PairGradient<T> blend_vjp(const Channels<T>& channels, T alpha, T odds, T transmittance, MaskOf<T> contributes,
                                 const Channels<T>& v, T& remainder) {
    const T weight = select(contributes, blend_weight(transmittance, alpha), T(0));
    T value = channels.color.x * v.color.x + channels.color.y * v.color.y + channels.color.z * v.color.z;
    if constexpr (kDepth) value += channels.inverse_depth * v.inverse_depth;
    const T contribution = weight * value;
    remainder = remainder - contribution;
    return {select(contributes & (alpha < T(Limits::alpha_max)), contribution - remainder * odds, T(0)), weight};
}
/// The VJP of the blended channels with respect to those of the splat, for one pixel.
template <bool kDepth, class T> DGR_FN void add_channels(T weight, const Channels<T>& v, SplatGradient<T>& sum) {
    if constexpr (kDepth) sum.inverse_depth += weight * v.inverse_depth;
    sum.color.x += weight * v.color.x;
    sum.color.y += weight * v.color.y;
    sum.color.z += weight * v.color.z;
}

/// The change of a pixel's squared error if one splat is removed. Splats are visited front to back.  [eq. 20]
/// color           of the splat
/// alpha           before the cap
/// odds            odds_of(alpha)
/// transmittance   before the splat
/// contributes     if false, the change is 0, nothing is updated, and alpha may be NaN
/// error           of the pixel: image - photo
/// behind          the pixel's colour minus that of all splats visited so far; updated
template <class T>
DGR_FN T removal_change(const Vec3<T>& color, T alpha, T odds, T transmittance, MaskOf<T> contributes,
                        const Vec3<T>& error, Vec3<T>& behind) {
    const Vec3<T> own = select(contributes, blend_weight(transmittance, alpha), T(0)) * color;
    behind = behind - own;
    const Vec3<T> change = odds * behind - own;
    return select(contributes, dot(change, T(2) * error + change), T(0));
}

/// The sums over the pixels of a column, or of a row, of u, u d and u d^2: d along it, as the other is the same for all.
template <class T> struct LineSums { T u, d, dd; };
template <class T> DGR_FN void add_pixel(T d, T u, LineSums<T>& sums) {
    const T u_d = u * d;
    sums.u += u;
    sums.d += u_d;
    sums.dd += u_d * d;
}
/// The same where the compiler knows d: three operations in place of four.
template <class T> DGR_FN void add_pixel_at(T d, T u, LineSums<T>& sums) {
    sums.u += u;
    sums.d += u * d;
    sums.dd += u * (d * d);
}
/// The sums if `by` is added to all d.
template <class T> DGR_FN LineSums<T> shifted(const LineSums<T>& sums, T by) {
    const T u_by = sums.u * by;
    return {sums.u, sums.d + u_by, sums.dd + (T(2) * sums.d + u_by) * by};
}
/// VJP of log2_alpha, for one column.
template <class T> DGR_FN void add_column(T d_x, const LineSums<T>& column, SplatGradient<T>& sum) {
    const T u_x = column.u * d_x;
    sum.u += column.u;
    sum.mean.x += u_x;
    sum.mean.y += column.d;
    sum.conic.xx += u_x * d_x;
    sum.conic.xy += column.d * d_x;
    sum.conic.yy += column.dd;
}
/// The same for one row.
template <class T> DGR_FN void add_row(T d_y, const LineSums<T>& row, SplatGradient<T>& sum) {
    const T u_y = row.u * d_y;
    sum.u += row.u;
    sum.mean.x += row.d;
    sum.mean.y += u_y;
    sum.conic.xx += row.dd;
    sum.conic.xy += row.d * d_y;
    sum.conic.yy += u_y * d_y;
}
template <class T> DGR_FN Vec2<T> times(const Sym2<T>& q, Vec2<T> d) {
    return {q.xx * d.x + q.xy * d.y, q.xy * d.x + q.yy * d.y};
}
/// Adds one pixel to abs_mean. q_d: Q d, with the conic.
template <class T> DGR_FN void add_absolute(Vec2<T> q_d, T u, Vec2<T>& abs_mean) {
    abs_mean.x += abs(u * q_d.x);
    abs_mean.y += abs(u * q_d.y);
}
/// The matrix of a quadratic form that is stored as the factors of x^2, x y and y^2.
template <class T> DGR_FN Sym2<T> half_off_diagonal(Sym2<T> form) { return {form.xx, T(0.5) * form.xy, form.yy}; }
/// dL/dmean = Q (sum of u d) and dL/dconic from the sum of u d d^T.
template <class T> DGR_FN SplatGradient<T> gradient_from_sums(const Sym2<T>& q, SplatGradient<T> sum) {
    sum.mean = times(q, sum.mean);
    sum.conic = {T(-0.5) * sum.conic.xx, -sum.conic.xy, T(-0.5) * sum.conic.yy};
    return sum;
}

// ---- Loss ----

/// A Gaussian in px, normalized to the sum 1. The window is the product of these weights along x and along y; it is
/// symmetric and therefore its own VJP.
template <class T> struct WindowWeights { T at[Ssim::window]; };
template <class T> inline WindowWeights<T> window_weights() {
    double unscaled[Ssim::window], sum = 0;
    for (int i = 0; i < Ssim::window; ++i) {
        const int x = i - Ssim::window / 2;
        unscaled[i] = std::exp(-x * x / (2 * Ssim::sigma * Ssim::sigma));
        sum += unscaled[i];
    }
    WindowWeights<T> weights;
    for (int i = 0; i < Ssim::window; ++i) weights.at[i] = T(unscaled[i] / sum);
    return weights;
}

/// Window means of x, y, x^2 + y^2, xy.
template <class T> struct WindowMeans { T x, y, squares, xy; };
/// The factors of SSIM = a1 a2 / (b1 b2).  [eq. 15]
template <class T> struct SsimFactors { T a1, a2, b1, b2; };
template <class T> DGR_FN SsimFactors<T> ssim_factors(const WindowMeans<T>& m) {
    const T c1(Ssim::c1), c2(Ssim::c2);
    return {T(2) * m.x * m.y + c1, T(2) * (m.xy - m.x * m.y) + c2, m.x * m.x + m.y * m.y + c1,
            m.squares - (m.x * m.x + m.y * m.y) + c2};
}
template <class T> DGR_FN T ssim(const WindowMeans<T>& m) {
    const SsimFactors<T> f = ssim_factors(m);
    return f.a1 * f.a2 * (T(1) / (f.b1 * f.b2));
}
/// dL/d of the window means of x, x^2 and xy. The photo y has no gradient.
template <class T> struct WindowGradient { T x, xx, xy; };
template <class T> DGR_FN WindowGradient<T> ssim_vjp(const WindowMeans<T>& m, T v) {
    const SsimFactors<T> f = ssim_factors(m);
    const T inv = T(1) / (f.b1 * f.b2), s = v * (f.a1 * f.a2 * inv);  // one division, shared with ssim
    const T v_a1 = v * f.a2 * inv, v_a2 = v * f.a1 * inv, v_b1 = -s * (f.b2 * inv), v_b2 = -s * (f.b1 * inv);
    return {T(2) * (m.y * (v_a1 - v_a2) + m.x * (v_b1 - v_b2)), v_b2, T(2) * v_a2};
}

/// The VJP of |x - y|, x, x^2 and xy with respect to x. v: dL/d of the last three, i.e. blurred WindowGradients.
template <class T> DGR_FN T loss_terms_vjp(T x, T y, T v_abs, const WindowGradient<T>& v) {
    const T v_difference = select(x > y, v_abs, select(x < y, -v_abs, T(0)));
    return v_difference + v.x + T(2) * x * v.xx + y * v.xy;
}

/// The photometric loss from the means of L1 and SSIM, w = ssim_weight.  [eq. 15]
DGR_FN double mixed_loss(double w, double l1, double ssim) { return (1 - w) * l1 + w * (1 - ssim); }
struct MixedLossGradient { double l1, ssim; };
DGR_FN MixedLossGradient mixed_loss_vjp(double w) { return {1 - w, -w}; }

/// A photo's byte as a number in [0, 1].
template <class T> DGR_FN T from_byte(uint8_t byte) { return T(byte) * T(1.0 / 255.0); }

// ---- Optimizer ----

/// The numbers that all elements of a tensor share in a step of Adam. rate and inv_root include the bias correction;
/// weight1 = 1 - beta1, weight2 = 1 - beta2.
template <class T> struct AdamFactors { T rate, inv_root, weight1, beta2, weight2, epsilon; };
/// step counts from 1. Computed in double, because 1 - beta2 has few correct digits in float.
template <class T>
inline AdamFactors<T> adam_factors(double rate, double beta1, double beta2, double epsilon, double step) {
    return {T(rate / (1 - std::pow(beta1, step))),
            T(1 / std::sqrt(1 - std::pow(beta2, step))),
            T(1 - beta1),
            T(beta2),
            T(1 - beta2),
            T(epsilon)};
}
/// An element and its two moments.
template <class T> struct AdamState { T value, exp_avg, exp_avg_sq; };
/// One step of Adam.  [eq. 16]
template <class T> DGR_FN AdamState<T> adam_update(const AdamState<T>& old, T gradient, const AdamFactors<T>& f) {
    const T exp_avg = old.exp_avg + f.weight1 * (gradient - old.exp_avg);
    const T exp_avg_sq = f.beta2 * old.exp_avg_sq + f.weight2 * (gradient * gradient);
    return {old.value - f.rate * exp_avg / (sqrt(exp_avg_sq) * f.inv_root + f.epsilon), exp_avg, exp_avg_sq};
}

}  // namespace dgr
