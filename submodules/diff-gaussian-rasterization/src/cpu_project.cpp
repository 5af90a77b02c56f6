// Projection and its derivative on the CPU, one Gaussian a lane: the formulas of math.h instantiated with Batch.
// Leaves out the order of blending (cpu_tiles.cpp) and the pixels (cpu_blend.cpp).
#include <algorithm>
#include <cstring>

#include "cpu_tiles.h"
#include "simd.h"

namespace dgr {
namespace {

constexpr int64_t kChunk = 256;  // Gaussians a work item; a multiple of every lane count

/// The Gaussians of one batch; lanes beyond `count` repeat the last one.
template <class T> struct BatchRows {
    int count;
    int64_t row[kLanes<T>];

    /// The first rows of a list that has at least one.
    BatchRows(const int64_t* list, int64_t size) : count(static_cast<int>(std::min<int64_t>(kLanes<T>, size))) {
        for (int i = 0; i < kLanes<T>; ++i) row[i] = list[std::min(i, count - 1)];
    }
};

constexpr int kMaxColumns = 45;  // numbers of one Gaussian that are read or written together: the SH of degrees 1 to 3

/// columns[k] lane i = p[rows.row[i] * stride + k]. Copies rows one after the other: gather instructions are slower.
template <class T> void gather(const T* p, int64_t stride, const BatchRows<T>& rows, int width, Batch<T>* columns) {
    T turned[kMaxColumns][kLanes<T>];
    for (int i = 0; i < kLanes<T>; ++i) {
        const T* row = p + rows.row[i] * stride;
        for (int k = 0; k < width; ++k) turned[k][i] = row[k];
    }
    for (int k = 0; k < width; ++k) columns[k] = Batch<T>::load(turned[k]);
}
template <class T> Vec3<Batch<T>> gather3(const T* p, const BatchRows<T>& rows, int64_t stride = 3) {
    Batch<T> c[3];
    gather(p, stride, rows, 3, c);
    return {c[0], c[1], c[2]};
}
template <class T> void scatter(T* p, int64_t stride, const BatchRows<T>& rows, int width, const Batch<T>* columns) {
    T turned[kMaxColumns][kLanes<T>];
    for (int k = 0; k < width; ++k) columns[k].store(turned[k]);
    for (int i = 0; i < rows.count; ++i) {
        T* row = p + rows.row[i] * stride;
        for (int k = 0; k < width; ++k) row[k] = turned[k][i];
    }
}
template <class T> void scatter3(T* p, const BatchRows<T>& rows, Vec3<Batch<T>> b) {
    const Batch<T> c[3] = {b.x, b.y, b.z};
    scatter(p, 3, rows, 3, c);
}

template <class T> Pinhole<Batch<T>> broadcast(const Pinhole<T>& c) {
    using B = Batch<T>;
    const auto b3 = [](Vec3<T> v) { return Vec3<B>{B(v.x), B(v.y), B(v.z)}; };
    return {B(c.fx),
            B(c.fy),
            B(c.cx),
            B(c.cy),
            {b3(c.rotation.r0), b3(c.rotation.r1), b3(c.rotation.r2)},
            b3(c.translation),
            b3(c.centre),
            {B(c.ratio_min.x), B(c.ratio_min.y)},
            {B(c.ratio_max.x), B(c.ratio_max.y)}};
}

/// What forward and backward both compute of a batch of Gaussians.
template <class T> struct Projection {
    using B = Batch<T>;
    Vec3<B> world, point;  // mean in world and camera space
    Quat<B> quat;
    Vec3<B> scale;
    Mat3<B> rotation;
    Sym3<B> covariance;
    JacobianRows<B> jacobian;
    Sym2<B> sharp, conic;  // 2D covariance before the blur; conic of the blurred one
    B opacity, factor;  // factor: of the anti-aliased mode, else 1
};

template <class T>
Projection<T> project_batch(const Gaussians<T>& g, const Pinhole<Batch<T>>& camera, const Options& options,
                            const BatchRows<T>& rows) {
    using B = Batch<T>;
    Projection<T> p;
    p.world = gather3(g.means, rows);
    p.point = to_camera(camera, p.world);
    if (g.covariances) {
        B c[6];
        gather(g.covariances, 6, rows, 6, c);
        p.covariance = {c[0], c[1], c[2], c[3], c[4], c[5]};
    } else {
        B q[4];
        gather(g.quats, 4, rows, 4, q);
        p.quat = {q[0], q[1], q[2], q[3]};
        p.scale = gather3(g.scales, rows);
        p.rotation = rotation_from_quat(p.quat);
        p.covariance = covariance_from_scale_rotation(p.scale, p.rotation);
    }
    p.jacobian = projection_jacobian(camera, p.point);
    p.sharp = project_covariance(p.jacobian, p.covariance);
    p.conic = conic_from_cov(blurred(p.sharp, B(Limits::blur)));
    gather(g.opacities, 1, rows, 1, &p.opacity);
    p.factor = options.antialiased ? antialias_factor(p.sharp, B(Limits::blur)) : B(1);
    return p;
}

/// All of a splat but its colour; decides what is visible. NaN fails every comparison, so it culls.
template <class T>
void project_shape(const Gaussians<T>& g, const Pinhole<Batch<T>>& camera, const BatchRows<T>& rows, Frame<T>& frame,
                   T* depth) {
    using B = Batch<T>;
    const Projection<T> p = project_batch(g, camera, frame.options, rows);
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
    const B inverse_depth = B(1) / p.point.z;
    const B half_chord = sqrt(level / p.conic.xx), slope = -p.conic.xy / p.conic.xx;
    for (int i = 0; i < rows.count; ++i) {
        const int64_t n = rows.row[i];
        frame.radius_px[n] = 0;
        if (!visible[i]) continue;
        frame.splats[n] = {{mean.x[i], mean.y[i]}, {p.conic.xx[i], p.conic.xy[i], p.conic.yy[i]},
                           log2_opacity[i],        {0, 0, 0},
                           inverse_depth[i],       {extent_x[i], extent_y[i]},
                           half_chord[i],          slope[i]};
        const T radius = std::ceil(std::max(extent_x[i], extent_y[i]));
        frame.radius_px[n] = static_cast<int32_t>(std::min(std::max(radius, T(1)), T(1 << 30)));
        depth[n] = p.point.z[i];
    }
}

/// Spherical harmonics before the clamp, for the active degree.
template <class T>
Vec3<Batch<T>> sh_color(const Gaussians<T>& g, int degree, const Batch<T> basis[16], const BatchRows<T>& rows) {
    using B = Batch<T>;
    Vec3<B> rgb = basis[0] * gather3(g.sh_dc, rows) + Vec3<B>{B(0.5), B(0.5), B(0.5)};
    const int num_rest = (degree + 1) * (degree + 1) - 1;
    B rest[kMaxColumns];
    gather(g.sh_rest, 3 * g.num_rest, rows, 3 * num_rest, rest);
    for (int k = 0; k < num_rest; ++k)
        rgb = rgb + basis[k + 1] * Vec3<B>{rest[3 * k], rest[3 * k + 1], rest[3 * k + 2]};
    return rgb;
}

/// Colours of visible splats; culls those whose colour is not finite.
template <class T>
void project_color(const Gaussians<T>& g, const Pinhole<Batch<T>>& camera, const BatchRows<T>& rows, Frame<T>& frame) {
    using B = Batch<T>;
    Vec3<B> rgb;
    if (g.colors) {
        rgb = gather3(g.colors, rows);
    } else {
        B basis[16];
        sh_basis(frame.options.sh_degree, normalized(gather3(g.means, rows) - camera.centre), basis);
        rgb = sh_color(g, frame.options.sh_degree, basis, rows);
    }
    const Mask<T> finite = is_finite(rgb.x) & is_finite(rgb.y) & is_finite(rgb.z);
    if (!g.colors) rgb = {max(rgb.x, B(0)), max(rgb.y, B(0)), max(rgb.z, B(0))};
    for (int i = 0; i < rows.count; ++i) {
        if (!finite[i]) frame.radius_px[rows.row[i]] = 0;
        frame.splats[rows.row[i]].color = {rgb.x[i], rgb.y[i], rgb.z[i]};
    }
}

/// SplatGradient summed over the slots of each Gaussian of a batch, in the order of the slots.
template <class T>
SplatGradient<Batch<T>> sum_slots(const Frame<T>& frame, const Buffer<SplatGradient<T>>& slots,
                                  const BatchRows<T>& rows) {
    constexpr int kFields = sizeof(SplatGradient<T>) / sizeof(T);
    T sums[kFields][kLanes<T>] = {};
    for (int i = 0; i < rows.count; ++i) {
        T of_row[kFields] = {};
        for (int64_t s = frame.slot_begin[rows.row[i]]; s < frame.slot_begin[rows.row[i] + 1]; ++s) {
            T fields[kFields];
            std::memcpy(fields, &slots[s], sizeof(fields));
            for (int f = 0; f < kFields; ++f) of_row[f] += fields[f];
        }
        for (int f = 0; f < kFields; ++f) sums[f][i] = of_row[f];
    }
    SplatGradient<Batch<T>> result;
    static_assert(sizeof(result) == sizeof(sums), "the same fields in the same order");
    std::memcpy(static_cast<void*>(&result), sums, sizeof(sums));
    return result;
}

/// Screen-space gradients and the statistics of densification.
template <class T>
void write_screen_gradients(const View<T>& view, const SplatGradient<Batch<T>>& v, const BatchRows<T>& rows,
                            const Gradients<T>& out) {
    using B = Batch<T>;
    const B to_ndc_x(0.5 * view.width), to_ndc_y(0.5 * view.height);
    const B abs_x = v.abs_mean.x * to_ndc_x, abs_y = v.abs_mean.y * to_ndc_y;
    if (out.screen_means) {
        const B parts[4] = {v.mean.x * to_ndc_x, v.mean.y * to_ndc_y, abs_x, abs_y};
        scatter(out.screen_means, 4, rows, 4, parts);
    }
    if (!out.abs_grad_sum) return;
    const B norm = sqrt(abs_x * abs_x + abs_y * abs_y);
    for (int i = 0; i < rows.count; ++i) {
        out.abs_grad_sum[rows.row[i]] += static_cast<float>(norm[i]);
        out.views[rows.row[i]] += 1;
    }
}

/// Writes the gradients of the colour and returns what reaches the mean through the viewing direction.
template <class T>
Vec3<Batch<T>> color_backward(const Frame<T>& frame, const Gaussians<T>& g, Vec3<Batch<T>> toward,
                              Vec3<Batch<T>> v_color, const BatchRows<T>& rows, const Gradients<T>& out) {
    using B = Batch<T>;
    const int degree = frame.options.sh_degree;
    if (g.colors) {
        if (out.colors) scatter3(out.colors, rows, v_color);
        return {B(0), B(0), B(0)};
    }
    const int num_rest = (degree + 1) * (degree + 1) - 1;
    B basis[16], v_basis[16], rest[kMaxColumns];
    sh_basis(degree, normalized(toward), basis);
    const T* color = &frame.splats[0].color.x;  // after the clamp: zero where it stopped the colour
    const Vec3<B> rgb = gather3(color, rows, sizeof(Splat<T>) / sizeof(T));
    const Vec3<B> v_rgb{select(rgb.x > B(0), v_color.x, B(0)), select(rgb.y > B(0), v_color.y, B(0)),
                        select(rgb.z > B(0), v_color.z, B(0))};
    if (out.sh_dc) scatter3(out.sh_dc, rows, basis[0] * v_rgb);
    gather(g.sh_rest, 3 * g.num_rest, rows, 3 * num_rest, rest);
    for (int k = 0; k < num_rest; ++k) {
        B* c = rest + 3 * k;
        v_basis[k + 1] = dot(Vec3<B>{c[0], c[1], c[2]}, v_rgb);
        c[0] = basis[k + 1] * v_rgb.x, c[1] = basis[k + 1] * v_rgb.y, c[2] = basis[k + 1] * v_rgb.z;
    }
    if (out.sh_rest) scatter(out.sh_rest, 3 * g.num_rest, rows, 3 * num_rest, rest);
    return normalized_vjp(toward, sh_basis_vjp(degree, normalized(toward), v_basis));
}

/// Writes the gradients of scales, quats or covariances.
template <class T>
void write_shape_gradients(const Projection<T>& p, const Sym3<Batch<T>>& v, const BatchRows<T>& rows,
                           const Gradients<T>& out) {
    using B = Batch<T>;
    if (out.covariances) {
        const B parts[6] = {v.xx, v.xy, v.xz, v.yy, v.yz, v.zz};
        scatter(out.covariances, 6, rows, 6, parts);
    }
    if (!out.quats && !out.scales) return;
    const auto v_shape = covariance_from_scale_rotation_vjp(p.scale, p.rotation, v);
    if (out.scales) scatter3(out.scales, rows, v_shape.scale);
    if (!out.quats) return;
    const Quat<B> q = rotation_from_quat_vjp(p.quat, v_shape.rotation);
    const B parts[4] = {q.w, q.x, q.y, q.z};
    scatter(out.quats, 4, rows, 4, parts);
}

/// One batch of visible Gaussians.
template <class T>
void project_backward_batch(const Frame<T>& frame, const Gaussians<T>& g, const Pinhole<Batch<T>>& camera,
                            const Buffer<SplatGradient<T>>& slots, const BatchRows<T>& rows, const Gradients<T>& out) {
    using B = Batch<T>;
    const SplatGradient<B> v = sum_slots(frame, slots, rows);
    write_screen_gradients(frame.view, v, rows, out);
    const Projection<T> p = project_batch(g, camera, frame.options, rows);
    // u = dL/d ln(alpha), and alpha goes with opacity * factor.
    if (out.opacities) {
        const B v_opacity = v.u / p.opacity;
        scatter(out.opacities, 1, rows, 1, &v_opacity);
    }
    Sym2<B> v_cov = conic_from_cov_vjp(p.conic, v.conic);
    if (frame.options.antialiased) {
        const Sym2<B> more = antialias_factor_vjp(p.sharp, B(Limits::blur), v.u / p.factor);
        v_cov = {v_cov.xx + more.xx, v_cov.xy + more.xy, v_cov.yy + more.yy};
    }
    const JacobianCovariance<B> v_projection = project_covariance_vjp(p.jacobian, p.covariance, v_cov);
    write_shape_gradients(p, v_projection.covariance, rows, out);
    const Vec3<B> v_mean = color_backward(frame, g, p.world - camera.centre, v.color, rows, out);
    if (!out.means) return;
    Vec3<B> v_point =
        projection_jacobian_vjp(camera, p.point, v_projection.jacobian) + project_mean_vjp(camera, p.point, v.mean);
    v_point.z -= v.inverse_depth / (p.point.z * p.point.z);
    scatter3(out.means, rows, to_camera_vjp(camera, v_point) + v_mean);
}

template <class T> void zero_rows(T* p, int64_t width, int64_t begin, int64_t end) {
    if (p) std::memset(p + width * begin, 0, sizeof(T) * width * (end - begin));
}

/// Calls work(rows) for the Gaussians of [begin, end) that `wanted` accepts, in batches.
template <class T, class Wanted, class Work>
void for_each_batch(int64_t begin, int64_t end, const Wanted& wanted, const Work& work) {
    int64_t list[kChunk], size = 0;
    for (int64_t i = begin; i < end; ++i)
        if (wanted(i)) list[size++] = i;
    for (int64_t i = 0; i < size; i += kLanes<T>) work(BatchRows<T>(list + i, size - i));
}

/// Calls work(begin, end) for each chunk of [0, count).
template <class Work> void for_each_chunk(Team& team, int64_t count, const Work& work) {
    team.for_each((count + kChunk - 1) / kChunk,
                  [&](int64_t chunk) { work(chunk * kChunk, std::min(count, (chunk + 1) * kChunk)); });
}

}  // namespace

template <class T> void project(Team& team, const Gaussians<T>& gaussians, Frame<T>& frame, T* depth) {
    const Pinhole<Batch<T>> camera = broadcast(frame.view.camera);
    const bool has_color = gaussians.colors || gaussians.sh_dc;  // importance asks for none
    for_each_chunk(team, gaussians.count, [&](int64_t begin, int64_t end) {
        for_each_batch<T>(
            begin, end, [](int64_t) { return true; },
            [&](const BatchRows<T>& rows) { project_shape(gaussians, camera, rows, frame, depth); });
        if (!has_color) return;
        for_each_batch<T>(
            begin, end, [&](int64_t i) { return frame.radius_px[i] > 0; },
            [&](const BatchRows<T>& rows) { project_color(gaussians, camera, rows, frame); });
    });
}

template <class T>
void project_backward(Team& team, const Frame<T>& frame, const Gaussians<T>& gaussians,
                      const Buffer<SplatGradient<T>>& slots, const Gradients<T>& out) {
    const Pinhole<Batch<T>> camera = broadcast(frame.view.camera);
    for_each_chunk(team, gaussians.count, [&](int64_t begin, int64_t end) {
        zero_rows(out.means, 3, begin, end);
        zero_rows(out.quats, 4, begin, end);
        zero_rows(out.scales, 3, begin, end);
        zero_rows(out.covariances, 6, begin, end);
        zero_rows(out.opacities, 1, begin, end);
        zero_rows(out.sh_dc, 3, begin, end);
        zero_rows(out.sh_rest, 3 * gaussians.num_rest, begin, end);
        zero_rows(out.colors, 3, begin, end);
        zero_rows(out.screen_means, 4, begin, end);
        for_each_batch<T>(
            begin, end, [&](int64_t i) { return frame.radius_px[i] > 0; },
            [&](const BatchRows<T>& rows) { project_backward_batch(frame, gaussians, camera, slots, rows, out); });
    });
}

template void project<float>(Team&, const Gaussians<float>&, Frame<float>&, float*);
template void project<double>(Team&, const Gaussians<double>&, Frame<double>&, double*);
template void project_backward<float>(Team&, const Frame<float>&, const Gaussians<float>&,
                                      const Buffer<SplatGradient<float>>&, const Gradients<float>&);
template void project_backward<double>(Team&, const Frame<double>&, const Gaussians<double>&,
                                       const Buffer<SplatGradient<double>>&, const Gradients<double>&);

}  // namespace dgr
