// Every formula of the rasterizer and the loss, once, each with its vector-Jacobian product (VJP) right below it.
// Pure functions over T = float, double or Batch<float|double>; equation numbers refer to docs/math.md.
//
// v_x always means dL/dx. Symmetric matrices store each off-diagonal once, and v_ of such a number is the derivative
// with respect to the stored number, i.e. it covers both places.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define DGR_FN __host__ __device__ __forceinline__
#define DGR_UNROLL _Pragma("unroll")  // arrays that are indexed in a loop then live in registers
#else
#define DGR_FN inline __attribute__((always_inline))
#define DGR_UNROLL
#endif

namespace dgr {

// ---- What T needs; Batch brings its own overloads ----
template <class T> DGR_FN T select(bool condition, T yes, T no) { return condition ? yes : no; }
DGR_FN float sqrt(float a) { return ::sqrtf(a); }
DGR_FN double sqrt(double a) { return ::sqrt(a); }
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
/// What a comparison of two T gives.
template <class T> using MaskOf = decltype(T(0) < T(0));
/// True where x is neither infinite nor NaN.
template <class T> DGR_FN auto is_finite(T x) { return x - x == T(0); }

template <class T> struct Vec2 { T x, y; };
template <class T> struct Vec3 { T x, y, z; };
template <class T> struct Quat { T w, x, y, z; };                   // real part first
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
/// m^T a, also the VJP of m a with respect to a.
template <class T> DGR_FN Vec3<T> transposed_times(const Mat3<T>& m, Vec3<T> a) {
    return a.x * m.r0 + a.y * m.r1 + a.z * m.r2;
}

/// The camera: OpenCV axes, pinhole. rotation and translation take world to camera; focal lengths and principal point
/// in px, the centre of the top-left pixel at (0.5, 0.5); ratio_min, ratio_max bound x/z and y/z in the Jacobian.
template <class T> struct Pinhole {
    T fx, fy, cx, cy;
    Mat3<T> rotation;
    Vec3<T> translation, centre;
    Vec2<T> ratio_min, ratio_max;
};

// ---- Shape: quaternion and scales to a 3D covariance ----

/// Rotation matrix of a quaternion of any length but zero.  [eq. 1]
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
    const T radial = v_w * w + v_x * x + v_y * y + v_z * z;  // the part that normalisation takes away
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

/// World to camera.  [eq. 3]
template <class T> DGR_FN Vec3<T> to_camera(const Pinhole<T>& cam, Vec3<T> p) {
    const Mat3<T>& r = cam.rotation;
    return Vec3<T>{dot(r.r0, p), dot(r.r1, p), dot(r.r2, p)} + cam.translation;
}
template <class T> DGR_FN Vec3<T> to_camera_vjp(const Pinhole<T>& cam, Vec3<T> v) {
    return transposed_times(cam.rotation, v);
}

/// Camera space to px, where pixel (i, j) is sampled at its integer coordinate.  [eq. 4]
template <class T> DGR_FN Vec2<T> project_mean(const Pinhole<T>& cam, Vec3<T> p) {
    const T inv_z = T(1) / p.z;
    return {cam.fx * p.x * inv_z + cam.cx - T(0.5), cam.fy * p.y * inv_z + cam.cy - T(0.5)};
}
template <class T> DGR_FN Vec3<T> project_mean_vjp(const Pinhole<T>& cam, Vec3<T> p, Vec2<T> v) {
    const T inv_z = T(1) / p.z;
    const T v_x = v.x * cam.fx * inv_z, v_y = v.y * cam.fy * inv_z;
    return {v_x, v_y, -(v_x * p.x + v_y * p.y) * inv_z};
}

/// Rows of (Jacobian of the projection at p) x (world-to-camera rotation); x/z and y/z are clamped.  [eq. 5]
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

/// 2D covariance J Sigma J^T in px^2, J as above.  [eq. 6]
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
    // Gradient of the full matrix is v.xx p p^T + v.xy (p q^T + q p^T) / 2 + v.yy q q^T = (p m^T + q n^T), below.
    const Vec3<T> m = v.xx * p + (T(0.5) * v.xy) * q, n = v.yy * q + (T(0.5) * v.xy) * p;
    return {{T(2) * v.xx * a + v.xy * b, T(2) * v.yy * b + v.xy * a},
            {p.x * m.x + q.x * n.x, T(2) * (p.x * m.y + q.x * n.y), T(2) * (p.x * m.z + q.x * n.z),
             p.y * m.y + q.y * n.y, T(2) * (p.y * m.z + q.y * n.z), p.z * m.z + q.z * n.z}};
}

/// The low-pass filter of 3DGS: a constant on the diagonal.  Its VJP is the identity.  [eq. 7]
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

/// Conic of a projected Gaussian: the Q of alpha = opacity * exp(-d^T Q d / 2).  [eq. 9]
/// cov  px^2, positive definite (culled before).   ->  px^-2
template <class T> DGR_FN Sym2<T> conic_from_cov(Sym2<T> cov) {
    const T inv_det = T(1) / determinant(cov);
    return {cov.yy * inv_det, -cov.xy * inv_det, cov.xx * inv_det};
}
/// -Q G Q, with G the full symmetric gradient.
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

/// The real spherical harmonics with the signs that 3DGS models are stored in, degrees 0..degree; the count is
/// (degree + 1)^2.  They are polynomials here: n is not required to have length one.  [eq. 11]
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

inline constexpr double kLog2e = 1.4426950408889634;

/// log2 of opacity * exp(-d^T Q d / 2), written so that what depends on d.y alone stays out of a loop over x.  [eq. 12]
template <class T> DGR_FN T log2_alpha(T log2_opacity, Sym2<T> q, Vec2<T> d) {
    const T k(-0.5 * kLog2e);
    return d.x * (k * q.xx * d.x + T(2) * k * q.xy * d.y) + (k * q.yy * d.y * d.y + log2_opacity);
}
/// The level tau of the ellipse d^T Q d <= tau in which alpha >= 1/255, widened so that rounding loses no pixel; below
/// zero where no alpha reaches 1/255. Its half extents are sqrt(tau cov.xx) and sqrt(tau cov.yy).  [eq. 13]
template <class T> DGR_FN T ellipse_level(T log2_opacity) {
    const T log2_255(7.994353436858858), widening(1e-4);
    return T(2 / kLog2e) * (log2_opacity + log2_255) + widening;
}

/// Gradients of ln(alpha), the exponent in natural units, times v. d = pixel - mean, hence dL/dmean = -dL/dd.
template <class T> struct ExponentGradient {
    Sym2<T> conic;
    Vec2<T> d;
};
template <class T> DGR_FN ExponentGradient<T> log_alpha_vjp(Sym2<T> q, Vec2<T> d, T v) {
    return {{T(-0.5) * v * d.x * d.x, -v * d.x * d.y, T(-0.5) * v * d.y * d.y},
            {-v * (q.xx * d.x + q.xy * d.y), -v * (q.xy * d.x + q.yy * d.y)}};
}

/// alpha * dL/dalpha of one splat in a pixel, i.e. dL/d ln(alpha).  [eq. 14]
/// contribution = transmittance * alpha * (colour . v_pixel), inverse depth likewise: what the splat adds to the pixel;
/// behind = the same of everything behind it, background included, weighted as in the image.
template <class T> DGR_FN T blend_log_vjp(T contribution, T alpha, T behind) {
    return contribution - behind * (alpha / (T(1) - alpha));
}

// ---- Loss ----

inline constexpr int kWindowRadius = 5, kWindowTaps = 2 * kWindowRadius + 1;
/// A Gaussian of sigma 1.5 px that sums to 1. The window is these weights along x times those along y; it is symmetric,
/// hence its own VJP.
template <class T> struct WindowWeights { T at[kWindowTaps]; };
template <class T> inline WindowWeights<T> window_weights() {
    double unscaled[kWindowTaps], sum = 0;
    for (int i = 0; i < kWindowTaps; ++i) {
        unscaled[i] = std::exp(-(i - kWindowRadius) * (i - kWindowRadius) / 4.5);
        sum += unscaled[i];
    }
    WindowWeights<T> weights;
    for (int i = 0; i < kWindowTaps; ++i) weights.at[i] = T(unscaled[i] / sum);
    return weights;
}

/// Structural similarity from window means: mean of x, y, x^2, y^2, xy.  [eq. 15]
template <class T> struct WindowMeans { T x, y, xx, yy, xy; };
template <class T> DGR_FN T ssim(const WindowMeans<T>& m) {
    const T c1(0.01 * 0.01), c2(0.03 * 0.03);
    const T a1 = T(2) * m.x * m.y + c1, a2 = T(2) * (m.xy - m.x * m.y) + c2;
    const T b1 = m.x * m.x + m.y * m.y + c1, b2 = m.xx - m.x * m.x + m.yy - m.y * m.y + c2;
    return a1 * a2 / (b1 * b2);
}
/// Derivatives with respect to the means of x, x^2 and xy; y is the photo and has none.
template <class T> struct WindowGradient { T x, xx, xy; };
template <class T> DGR_FN WindowGradient<T> ssim_vjp(const WindowMeans<T>& m, T v) {
    const T c1(0.01 * 0.01), c2(0.03 * 0.03);
    const T a1 = T(2) * m.x * m.y + c1, a2 = T(2) * (m.xy - m.x * m.y) + c2;
    const T b1 = m.x * m.x + m.y * m.y + c1, b2 = m.xx - m.x * m.x + m.yy - m.y * m.y + c2;
    const T inv = v / (b1 * b2), s = a1 * a2 * inv;  // s = v * ssim
    const T v_a1 = a2 * inv, v_a2 = a1 * inv, v_b1 = -s / b1, v_b2 = -s / b2;
    return {T(2) * (m.y * (v_a1 - v_a2) + m.x * (v_b1 - v_b2)), v_b2, T(2) * v_a2};
}

// ---- Optimizer ----

/// What a step of Adam has in common for all numbers of a tensor. The corrections of the bias are in rate and inv_root.
template <class T> struct AdamFactors { T rate, inv_root, share1, beta2, share2, epsilon; };
/// step counts from 1. The host computes them in double, whatever T: 1 - beta2 has few digits left in float.
template <class T>
inline AdamFactors<T> adam_factors(double rate, double beta1, double beta2, double epsilon, double step) {
    return {T(rate / (1 - std::pow(beta1, step))),
            T(1 / std::sqrt(1 - std::pow(beta2, step))),
            T(1 - beta1),
            T(beta2),
            T(1 - beta2),
            T(epsilon)};
}
/// One number and its two moments.
template <class T> struct AdamState { T value, exp_avg, exp_avg_sq; };
/// What they are after a step.  [eq. 16]
template <class T> DGR_FN AdamState<T> adam_update(const AdamState<T>& old, T gradient, const AdamFactors<T>& f) {
    const T exp_avg = old.exp_avg + f.share1 * (gradient - old.exp_avg);
    const T exp_avg_sq = f.beta2 * old.exp_avg_sq + f.share2 * (gradient * gradient);
    return {old.value - f.rate * exp_avg / (sqrt(exp_avg_sq) * f.inv_root + f.epsilon), exp_avg, exp_avg_sq};
}

}  // namespace dgr
