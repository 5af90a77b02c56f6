// Projection and its derivative on the CPU, one Gaussian a lane: the formulas of math.h instantiated with Batch.
// Leaves out the order of blending (cpu_tiles.cpp) and the pixels (cpu_blend.cpp).
#include <cstring>

#include "cpu_tiles.h"
#include "simd.h"

namespace dgr {
namespace {

constexpr int64_t kChunk = 256;  // Gaussians a work item; a multiple of every lane count

/// Lane i of the result is p[i * stride]; lanes beyond `lanes` repeat the last one.
template <class T> Batch<T> gather(const T* p, int64_t stride, int lanes) {
    Batch<T> b;
    for (int i = 0; i < kLanes<T>; ++i) b.set(i, p[(i < lanes ? i : lanes - 1) * stride]);
    return b;
}
template <class T> Vec3<Batch<T>> gather3(const T* p, int lanes, int64_t stride = 3) {
    return {gather(p, stride, lanes), gather(p + 1, stride, lanes), gather(p + 2, stride, lanes)};
}
/// Writes lanes of `visible`; the others stay as they are.
template <class T> void scatter(T* p, int64_t stride, Mask<T> visible, Batch<T> b) {
    for (int i = 0; i < kLanes<T>; ++i)
        if (visible[i]) p[i * stride] = b[i];
}
template <class T> void scatter3(T* p, Mask<T> visible, Vec3<Batch<T>> b, int64_t stride = 3) {
    scatter(p, stride, visible, b.x);
    scatter(p + 1, stride, visible, b.y);
    scatter(p + 2, stride, visible, b.z);
}

template <class T> Pinhole<Batch<T>> broadcast(const Pinhole<T>& c) {
    using B = Batch<T>;
    const auto b3 = [](Vec3<T> v) { return Vec3<B>{B(v.x), B(v.y), B(v.z)}; };
    return {B(c.fx), B(c.fy), B(c.cx), B(c.cy), {b3(c.rotation.r0), b3(c.rotation.r1), b3(c.rotation.r2)},
            b3(c.translation), b3(c.centre), {B(c.ratio_min.x), B(c.ratio_min.y)},
            {B(c.ratio_max.x), B(c.ratio_max.y)}};
}

/// What forward and backward both compute of a batch of Gaussians.
template <class T> struct Projection {
    using B = Batch<T>;
    Vec3<B> world, point;   // mean in world and camera space
    Quat<B> quat;
    Vec3<B> scale;
    Mat3<B> rotation;
    Sym3<B> covariance;
    JacobianRows<B> jacobian;
    Sym2<B> sharp, conic;   // 2D covariance before the blur; conic of the blurred one
    B opacity, factor;      // factor: of the anti-aliased mode, else 1
};

template <class T>
Projection<T> project_batch(const Gaussians<T>& g, const Pinhole<Batch<T>>& camera, const Options& options, int64_t begin,
                            int lanes) {
    using B = Batch<T>;
    Projection<T> p;
    p.world = gather3(g.means + 3 * begin, lanes);
    p.point = to_camera(camera, p.world);
    if (g.covariances) {
        const T* c = g.covariances + 6 * begin;
        p.covariance = {gather(c, 6, lanes), gather(c + 1, 6, lanes), gather(c + 2, 6, lanes),
                        gather(c + 3, 6, lanes), gather(c + 4, 6, lanes), gather(c + 5, 6, lanes)};
    } else {
        const T* q = g.quats + 4 * begin;
        p.quat = {gather(q, 4, lanes), gather(q + 1, 4, lanes), gather(q + 2, 4, lanes), gather(q + 3, 4, lanes)};
        p.scale = gather3(g.scales + 3 * begin, lanes);
        p.rotation = rotation_from_quat(p.quat);
        p.covariance = covariance_from_scale_rotation(p.scale, p.rotation);
    }
    p.jacobian = projection_jacobian(camera, p.point);
    p.sharp = project_covariance(p.jacobian, p.covariance);
    p.conic = conic_from_cov(blurred(p.sharp, B(Limits::blur)));
    p.opacity = gather(g.opacities + begin, 1, lanes);
    p.factor = options.antialiased ? antialias_factor(p.sharp, B(Limits::blur)) : B(1);
    return p;
}

/// Spherical harmonics before the clamp, for the active degree; basis is kept for the gradient.
template <class T>
Vec3<Batch<T>> sh_color(const Gaussians<T>& g, int degree, const Batch<T> basis[16], int64_t begin, int lanes) {
    using B = Batch<T>;
    Vec3<B> rgb = basis[0] * gather3(g.sh_dc + 3 * begin, lanes) + Vec3<B>{B(0.5), B(0.5), B(0.5)};
    const int64_t stride = 3 * g.num_rest;
    for (int k = 1; k < (degree + 1) * (degree + 1); ++k)
        rgb = rgb + basis[k] * gather3(g.sh_rest + stride * begin + 3 * (k - 1), lanes, stride);
    return rgb;
}

/// One batch of forward; also decides what is visible. NaN fails every comparison, so it culls.
template <class T>
void project_lanes(const Gaussians<T>& g, const Pinhole<Batch<T>>& camera, int64_t begin, int lanes, Frame<T>& frame,
                   T* depth) {
    using B = Batch<T>;
    const Projection<T> p = project_batch(g, camera, frame.options, begin, lanes);
    const Sym2<B> cov = blurred(p.sharp, B(Limits::blur));
    const Vec2<B> mean = project_mean(camera, p.point);
    const B opacity = p.opacity * p.factor;
    Mask<T> visible = (p.point.z > B(Limits::near)) & (determinant(cov) > B(0)) & is_finite(p.conic.xx) &
                      is_finite(p.conic.xy) & is_finite(p.conic.yy) & (p.conic.xx > B(0)) & (p.conic.yy > B(0)) &
                      is_finite(mean.x) & is_finite(mean.y) & is_finite(p.point.z) & (opacity >= B(Limits::alpha_min)) &
                      is_finite(opacity);
    if (!g.covariances) visible = visible & is_finite(p.scale.x + p.scale.y + p.scale.z);
    const B log2_opacity = log2(select(visible, opacity, B(1)));
    const B level = ellipse_level(log2_opacity);
    const B extent_x = sqrt(level * cov.xx), extent_y = sqrt(level * cov.yy);
    visible = visible & (mean.x + extent_x >= B(0)) & (mean.x - extent_x <= B(frame.view.width - 1)) &
              (mean.y + extent_y >= B(0)) & (mean.y - extent_y <= B(frame.view.height - 1));
    if (!any(visible)) return;

    Vec3<B> rgb;
    if (g.colors) {
        rgb = gather3(g.colors + 3 * begin, lanes);
    } else if (g.sh_dc) {
        B basis[16];
        sh_basis(frame.options.sh_degree, normalized(p.world - camera.centre), basis);
        rgb = sh_color(g, frame.options.sh_degree, basis, begin, lanes);
    } else {
        rgb = {B(0), B(0), B(0)};  // importance asks for no colour
    }
    visible = visible & is_finite(rgb.x) & is_finite(rgb.y) & is_finite(rgb.z);
    if (!g.colors) rgb = {max(rgb.x, B(0)), max(rgb.y, B(0)), max(rgb.z, B(0))};

    const B inverse_depth = B(1) / p.point.z;
    for (int i = 0; i < lanes; ++i) {
        if (!visible[i]) continue;
        const int64_t n = begin + i;
        frame.splats[n] = {{mean.x[i], mean.y[i]}, {p.conic.xx[i], p.conic.xy[i], p.conic.yy[i]}, log2_opacity[i],
                           {rgb.x[i], rgb.y[i], rgb.z[i]}, inverse_depth[i], {extent_x[i], extent_y[i]}};
        const T radius = std::ceil(std::max(extent_x[i], extent_y[i]));
        frame.radius_px[n] = static_cast<int32_t>(std::min(std::max(radius, T(1)), T(1 << 30)));
        depth[n] = p.point.z[i];
    }
}

/// Sum over a Gaussian's slots, in their order, written to lane i of the sums.
template <class T> struct SlotSums {
    using B = Batch<T>;
    Vec2<B> mean, abs_mean;
    Sym2<B> conic;
    B u;
    Vec3<B> color;
    B inverse_depth;
};
template <class T>
SlotSums<T> sum_slots(const Frame<T>& frame, const Buffer<SplatGradient<T>>& slots, int64_t begin, int lanes) {
    constexpr int kFields = sizeof(SplatGradient<T>) / sizeof(T);
    static_assert(sizeof(SlotSums<T>) == kFields * sizeof(Batch<T>), "the same fields in the same order");
    T sums[kFields][kLanes<T>] = {};
    for (int i = 0; i < lanes; ++i) {
        if (frame.radius_px[begin + i] == 0) continue;
        for (int64_t s = frame.slot_begin[begin + i]; s < frame.slot_begin[begin + i + 1]; ++s) {
            T fields[kFields];
            std::memcpy(fields, &slots[s], sizeof(fields));
            for (int f = 0; f < kFields; ++f) sums[f][i] += fields[f];
        }
    }
    SlotSums<T> result;
    std::memcpy(static_cast<void*>(&result), sums, sizeof(sums));
    return result;
}

template <class T>
void project_backward_lanes(const Frame<T>& frame, const Gaussians<T>& g, const Pinhole<Batch<T>>& camera,
                            const Buffer<SplatGradient<T>>& slots, int64_t begin, int lanes, const Gradients<T>& out) {
    using B = Batch<T>;
    Mask<T> visible{};
    for (int i = 0; i < lanes; ++i) visible.bits[i] = frame.radius_px[begin + i] > 0 ? -1 : 0;
    if (!any(visible)) return;
    const Projection<T> p = project_batch(g, camera, frame.options, begin, lanes);
    const SlotSums<T> v = sum_slots(frame, slots, begin, lanes);

    const Vec2<B> to_ndc{B(0.5 * frame.view.width), B(0.5 * frame.view.height)};
    const Vec2<B> abs_ndc{v.abs_mean.x * to_ndc.x, v.abs_mean.y * to_ndc.y};
    if (out.screen_means) {
        T* screen = out.screen_means + 4 * begin;
        scatter(screen, 4, visible, v.mean.x * to_ndc.x);
        scatter(screen + 1, 4, visible, v.mean.y * to_ndc.y);
        scatter(screen + 2, 4, visible, abs_ndc.x);
        scatter(screen + 3, 4, visible, abs_ndc.y);
    }
    if (out.abs_grad_sum) {
        const B norm = sqrt(abs_ndc.x * abs_ndc.x + abs_ndc.y * abs_ndc.y);
        for (int i = 0; i < lanes; ++i) {
            if (!visible[i]) continue;
            out.abs_grad_sum[begin + i] += static_cast<float>(norm[i]);
            out.views[begin + i] += 1;
        }
    }

    // Opacity: u = dL/d ln(alpha) = dL/dopacity_eff * opacity_eff, and opacity_eff = opacity * factor.
    if (out.opacities) scatter(out.opacities + begin, 1, visible, v.u / p.opacity);
    Sym2<B> v_cov = conic_from_cov_vjp(p.conic, v.conic);
    if (frame.options.antialiased) {
        const Sym2<B> more = antialias_factor_vjp(p.sharp, B(Limits::blur), v.u / p.factor);
        v_cov = {v_cov.xx + more.xx, v_cov.xy + more.xy, v_cov.yy + more.yy};
    }
    const JacobianCovariance<B> v_projection = project_covariance_vjp(p.jacobian, p.covariance, v_cov);
    if (out.covariances) {
        T* c = out.covariances + 6 * begin;
        const Sym3<B>& s = v_projection.covariance;
        const B parts[6] = {s.xx, s.xy, s.xz, s.yy, s.yz, s.zz};
        for (int k = 0; k < 6; ++k) scatter(c + k, 6, visible, parts[k]);
    }
    if (out.quats || out.scales) {
        const auto v_shape = covariance_from_scale_rotation_vjp(p.scale, p.rotation, v_projection.covariance);
        if (out.scales) scatter3(out.scales + 3 * begin, visible, v_shape.scale);
        if (out.quats) {
            const Quat<B> q = rotation_from_quat_vjp(p.quat, v_shape.rotation);
            const B parts[4] = {q.w, q.x, q.y, q.z};
            for (int k = 0; k < 4; ++k) scatter(out.quats + 4 * begin + k, 4, visible, parts[k]);
        }
    }

    Vec3<B> v_point = projection_jacobian_vjp(camera, p.point, v_projection.jacobian) +
                      project_mean_vjp(camera, p.point, v.mean);
    v_point.z -= v.inverse_depth / (p.point.z * p.point.z);
    Vec3<B> v_mean = to_camera_vjp(camera, v_point);
    if (g.colors) {
        if (out.colors) scatter3(out.colors + 3 * begin, visible, v.color);
    } else {
        const int degree = frame.options.sh_degree;
        const int64_t stride = 3 * g.num_rest;
        const Vec3<B> toward = p.world - camera.centre;
        B basis[16], v_basis[16];
        sh_basis(degree, normalized(toward), basis);
        const Vec3<B> rgb = sh_color(g, degree, basis, begin, lanes);
        const Vec3<B> v_rgb{select(rgb.x > B(0), v.color.x, B(0)), select(rgb.y > B(0), v.color.y, B(0)),
                            select(rgb.z > B(0), v.color.z, B(0))};
        if (out.sh_dc) scatter3(out.sh_dc + 3 * begin, visible, basis[0] * v_rgb);
        for (int k = 1; k < (degree + 1) * (degree + 1); ++k) {
            const int64_t at = stride * begin + 3 * (k - 1);
            v_basis[k] = dot(gather3(g.sh_rest + at, lanes, stride), v_rgb);
            if (out.sh_rest) scatter3(out.sh_rest + at, visible, basis[k] * v_rgb, stride);
        }
        v_mean = v_mean + normalized_vjp(toward, sh_basis_vjp(degree, normalized(toward), v_basis));
    }
    if (out.means) scatter3(out.means + 3 * begin, visible, v_mean);
}

template <class T> void zero_rows(T* p, int64_t width, int64_t begin, int64_t end) {
    if (p) std::memset(p + width * begin, 0, sizeof(T) * width * (end - begin));
}

/// Calls work(begin, lanes) for the batches of each chunk; before it, open(begin, end) once for the chunk.
template <class T, class Open, class Work>
void for_each_batch(Team& team, int64_t count, const Open& open, const Work& work) {
    team.for_each((count + kChunk - 1) / kChunk, [&](int64_t chunk) {
        const int64_t begin = chunk * kChunk, end = std::min(count, begin + kChunk);
        open(begin, end);
        for (int64_t i = begin; i < end; i += kLanes<T>) work(i, static_cast<int>(std::min<int64_t>(kLanes<T>, end - i)));
    });
}

}  // namespace

template <class T> void project(Team& team, const Gaussians<T>& gaussians, Frame<T>& frame, T* depth) {
    const Pinhole<Batch<T>> camera = broadcast(frame.view.camera);
    for_each_batch<T>(
        team, gaussians.count, [&](int64_t begin, int64_t end) { zero_rows(frame.radius_px.data(), 1, begin, end); },
        [&](int64_t begin, int lanes) { project_lanes(gaussians, camera, begin, lanes, frame, depth); });
}

template <class T>
void project_backward(Team& team, const Frame<T>& frame, const Gaussians<T>& gaussians,
                      const Buffer<SplatGradient<T>>& slots, const Gradients<T>& out) {
    const Pinhole<Batch<T>> camera = broadcast(frame.view.camera);
    const auto zero = [&](int64_t begin, int64_t end) {
        zero_rows(out.means, 3, begin, end);
        zero_rows(out.quats, 4, begin, end);
        zero_rows(out.scales, 3, begin, end);
        zero_rows(out.covariances, 6, begin, end);
        zero_rows(out.opacities, 1, begin, end);
        zero_rows(out.sh_dc, 3, begin, end);
        zero_rows(out.sh_rest, 3 * gaussians.num_rest, begin, end);
        zero_rows(out.colors, 3, begin, end);
        zero_rows(out.screen_means, 4, begin, end);
    };
    for_each_batch<T>(team, gaussians.count, zero, [&](int64_t begin, int lanes) {
        project_backward_lanes(frame, gaussians, camera, slots, begin, lanes, out);
    });
}

template void project<float>(Team&, const Gaussians<float>&, Frame<float>&, float*);
template void project<double>(Team&, const Gaussians<double>&, Frame<double>&, double*);
template void project_backward<float>(Team&, const Frame<float>&, const Gaussians<float>&,
                                      const Buffer<SplatGradient<float>>&, const Gradients<float>&);
template void project_backward<double>(Team&, const Frame<double>&, const Gaussians<double>&,
                                       const Buffer<SplatGradient<double>>&, const Gradients<double>&);

}  // namespace dgr
