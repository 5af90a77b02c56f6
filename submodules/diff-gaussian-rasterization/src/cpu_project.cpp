// Projection and its gradient on the CPU: projection.h with Batch, one lane per Gaussian.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu_tiles.h"
#include "projection.h"
#include "simd.h"

namespace dgr {
namespace {

constexpr int64_t kChunk = 256;  // Gaussians of a work item; a multiple of every number of lanes

/// The indices of the Gaussians of one batch. Lanes from `count` on repeat the last index.
template <class T> struct BatchRows {
    int count;
    int64_t row[kLanes<T>];

    /// The first indices of a list with size > 0.
    BatchRows(const int64_t* list, int64_t size) : count(static_cast<int>(std::min<int64_t>(kLanes<T>, size))) {
        for (int i = 0; i < kLanes<T>; ++i) row[i] = list[std::min(i, count - 1)];
    }
};

constexpr int kMaxNarrow = 16;  // columns of gather and scatter

/// Lane i of columns[k] = p[rows.row[i] * stride + k]. Copies row by row, which is faster than gather instructions.
template <class T> void gather(const T* p, int64_t stride, const BatchRows<T>& rows, int width, Batch<T>* columns) {
    T turned[kMaxNarrow][kLanes<T>];
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
    T turned[kMaxNarrow][kLanes<T>];
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

template <class T>
Projection<Batch<T>> project_batch(const Gaussians<T>& g, const Pinhole<Batch<T>>& camera, const Options& options,
                                   const BatchRows<T>& rows) {
    using B = Batch<T>;
    GaussianShape<B> shape;
    shape.has_covariance = g.covariances != nullptr;
    if (g.covariances) {
        B c[6];
        gather(g.covariances, 6, rows, 6, c);
        shape.covariance = {c[0], c[1], c[2], c[3], c[4], c[5]};
    } else {
        B q[4];
        gather(g.quats, 4, rows, 4, q);
        shape.quat = {q[0], q[1], q[2], q[3]};
        shape.scale = gather3(g.scales, rows);
    }
    B opacity;
    gather(g.opacities, 1, rows, 1, &opacity);
    return project_gaussian(camera, options.antialiased, g.form, gather3(g.means, rows), shape, opacity);
}

/// Writes splats without colour, radii and depths.
template <class T>
void project_shape(const Gaussians<T>& g, const Pinhole<Batch<T>>& camera, const BatchRows<T>& rows, Frame<T>& frame,
                   T* depth) {
    const View<T>& view = frame.view;
    const auto made = make_splat(camera, view.width, view.height, project_batch(g, camera, frame.options, rows));
    const Splat<Batch<T>>& s = made.splat;
    for (int i = 0; i < rows.count; ++i) {
        const int64_t n = rows.row[i];
        frame.radius_px[n] = 0;
        if (!made.visible[i]) continue;
        frame.splats[n] = {
            {s.mean.x[i], s.mean.y[i]}, {s.conic.xx[i], s.conic.xy[i], s.conic.yy[i]}, s.log2_opacity[i], {0, 0, 0},
            s.inverse_depth[i],         {s.half_extent.x[i], s.half_extent.y[i]},      s.half_chord[i],   s.slope[i]};
        frame.radius_px[n] = radius_of(frame.splats[n].half_extent);
        depth[n] = made.depth[i];
    }
}

constexpr int kMaxColumns = 3 * kMaxRest;

/// The columns of sh_rest that are gathered and scattered by transposing blocks of kLanes<T> rows and columns. The last
/// block overlaps the one before, so that it does not leave the row.
template <class T> struct RestBlocks {
    int64_t stride;
    int size;  // columns in a row, at most kMaxColumns
    explicit RestBlocks(const Gaussians<T>& g)
        : stride(3 * g.num_rest), size(static_cast<int>(std::min<int64_t>(kMaxColumns, stride))) {}
    bool is_narrow() const { return size < kLanes<T>; }
    template <class Visit> void for_each(int end, const Visit& visit) const {
        for (int begin = 0; begin < end; begin += kLanes<T>) visit(std::min(begin, size - kLanes<T>));
    }
};

/// The SH coefficients of degrees 1 to `degree`.
template <class T> void gather_rest(const Gaussians<T>& g, int degree, const BatchRows<T>& rows, Batch<T>* rest) {
    const RestBlocks<T> blocks(g);
    const int width = 3 * sh_rest_count(degree);
    if (blocks.is_narrow()) return gather(g.sh_rest, blocks.stride, rows, width, rest);
    blocks.for_each(width, [&](int begin) {
        Batch<T> block[kLanes<T>];
        for (int i = 0; i < kLanes<T>; ++i) block[i] = Batch<T>::load(g.sh_rest + rows.row[i] * blocks.stride + begin);
        transpose(block);
        std::copy_n(block, kLanes<T>, rest + begin);
    });
}
/// Writes the gradient of the SH coefficients, with zeros above `degree`.
template <class T>
void scatter_rest(const Gaussians<T>& g, int degree, const BatchRows<T>& rows, Batch<T>* rest, T* out) {
    const RestBlocks<T> blocks(g);
    const int width = 3 * sh_rest_count(degree);
    std::fill(rest + width, rest + blocks.size, Batch<T>(0));
    if (blocks.is_narrow()) return scatter(out, blocks.stride, rows, blocks.size, rest);
    blocks.for_each(blocks.size, [&](int begin) {
        Batch<T> block[kLanes<T>];
        std::copy_n(rest + begin, kLanes<T>, block);
        if (begin < width) transpose(block);
        for (int i = 0; i < rows.count; ++i) block[i].store(out + rows.row[i] * blocks.stride + begin);
    });
}

/// Writes the colours of visible splats. Culls splats whose colour is not finite.
template <class T>
void project_color(const Gaussians<T>& g, const Pinhole<Batch<T>>& camera, const BatchRows<T>& rows, Frame<T>& frame) {
    using B = Batch<T>;
    const int degree = frame.options.sh_degree;
    Vec3<B> rgb;
    if (g.colors) {
        rgb = gather3(g.colors, rows);
    } else {
        B rest[kMaxColumns];
        gather_rest(g, degree, rows, rest);
        rgb = sh_color(degree, gather3(g.means, rows) - camera.centre, gather3(g.sh_dc, rows), rest);
    }
    const Mask<T> finite = is_finite(rgb.x) & is_finite(rgb.y) & is_finite(rgb.z);
    if (!g.colors) rgb = clamp_color(rgb);
    for (int i = 0; i < rows.count; ++i) {
        if (!finite[i]) frame.radius_px[rows.row[i]] = 0;
        frame.splats[rows.row[i]].color = {rgb.x[i], rgb.y[i], rgb.z[i]};
    }
}

/// The slots of each Gaussian of a batch, summed in order.
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

/// Writes screen-space gradients, and for densification their norm.
template <class T>
void write_screen_gradients(const View<T>& view, const SplatGradient<Batch<T>>& v, const BatchRows<T>& rows,
                            const Gradients<T>& out) {
    const ScreenGradient<Batch<T>> screen = screen_gradient(view.width, view.height, v);
    if (out.screen_means) {
        const Batch<T> parts[4] = {screen.x, screen.y, screen.abs_x, screen.abs_y};
        scatter(out.screen_means, 4, rows, 4, parts);
    }
    if (!out.abs_grad) return;
    for (int i = 0; i < rows.count; ++i) {
        out.abs_grad[rows.row[i]] = static_cast<float>(screen.norm[i]);
        out.seen[rows.row[i]] = 1;
    }
}

/// Writes the gradients of colors or spherical harmonics. Returns dL/dmean through the viewing direction.
template <class T>
Vec3<Batch<T>> color_backward(const Frame<T>& frame, const Gaussians<T>& g, Vec3<Batch<T>> toward,
                              Vec3<Batch<T>> v_color, const BatchRows<T>& rows, const Gradients<T>& out) {
    using B = Batch<T>;
    const int degree = frame.options.sh_degree;
    if (g.colors) {
        if (out.colors) scatter3(out.colors, rows, v_color);
        return {B(0), B(0), B(0)};
    }
    const T* color = &frame.splats[0].color.x;  // after the clamp
    const Vec3<B> v_rgb = clamp_color_vjp(gather3(color, rows, sizeof(Splat<T>) / sizeof(T)), v_color);
    B rest[kMaxColumns];
    gather_rest(g, degree, rows, rest);
    const ShGradient<B> v = sh_color_vjp(degree, toward, rest, v_rgb);
    if (out.sh_dc) scatter3(out.sh_dc, rows, v.dc);
    if (out.sh_rest) scatter_rest(g, degree, rows, rest, out.sh_rest);
    return v.toward;
}

/// Adds what a batch gives to the gradient of the pose.
template <class T> void add_pose(PoseGradient<Batch<T>> v, const BatchRows<T>& rows, PoseGradient<T>& pose) {
    constexpr int kFields = sizeof(pose) / sizeof(T);
    T lanes[kFields][kLanes<T>], sums[kFields];
    std::memcpy(lanes, static_cast<void*>(&v), sizeof(lanes));
    std::memcpy(sums, static_cast<void*>(&pose), sizeof(sums));
    for (int f = 0; f < kFields; ++f)
        for (int i = 0; i < rows.count; ++i) sums[f] += lanes[f][i];  // further lanes repeat the last Gaussian
    std::memcpy(static_cast<void*>(&pose), sums, sizeof(sums));
}

/// One batch of visible Gaussians. pose: null if its gradient is not wanted.
template <class T>
void project_backward_batch(const Frame<T>& frame, const Gaussians<T>& g, const Pinhole<Batch<T>>& camera,
                            const Buffer<SplatGradient<T>>& slots, const BatchRows<T>& rows, const Gradients<T>& out,
                            PoseGradient<T>* pose) {
    using B = Batch<T>;
    const Projection<B> p = project_batch(g, camera, frame.options, rows);
    const SplatGradient<B> v = gradient_from_sums(p.conic, sum_slots(frame, slots, rows));
    write_screen_gradients(frame.view, v, rows, out);
    const Vec3<B> v_toward = color_backward(frame, g, p.world - camera.centre, v.color, rows, out);
    const GaussianGradient<B> to = project_gaussian_vjp(camera, frame.options.antialiased, g.form, p, v, v_toward);
    if (out.opacities) scatter(out.opacities, 1, rows, 1, &to.opacity);
    if (out.means) scatter3(out.means, rows, to.mean);
    if (out.scales) scatter3(out.scales, rows, to.scale);
    if (out.quats) {
        const B parts[4] = {to.quat.w, to.quat.x, to.quat.y, to.quat.z};
        scatter(out.quats, 4, rows, 4, parts);
    }
    if (out.covariances) {
        const Sym3<B>& c = to.covariance;
        const B parts[6] = {c.xx, c.xy, c.xz, c.yy, c.yz, c.zz};
        scatter(out.covariances, 6, rows, 6, parts);
    }
    if (pose) add_pose(project_gaussian_of_pose_vjp(camera, p, to, v_toward), rows, *pose);
}

template <class T> void zero_rows(T* p, int64_t width, int64_t begin, int64_t end) {
    if (p) std::memset(p + width * begin, 0, sizeof(T) * width * (end - begin));
}

/// Calls work(rows) for batches of those Gaussians in [begin, end) for which wanted(index) is true.
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
    const bool has_color = gaussians.colors || gaussians.sh_dc;  // importance needs no colour
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
    std::vector<PoseGradient<T>> poses(out.world_to_camera ? (gaussians.count + kChunk - 1) / kChunk : 0);
    for_each_chunk(team, gaussians.count, [&](int64_t begin, int64_t end) {
        zero_rows(out.means, 3, begin, end);
        zero_rows(out.quats, 4, begin, end);
        zero_rows(out.scales, 3, begin, end);
        zero_rows(out.covariances, 6, begin, end);
        zero_rows(out.opacities, 1, begin, end);
        zero_rows(out.sh_dc, 3, begin, end);
        if (gaussians.num_rest > kMaxRest) zero_rows(out.sh_rest, 3 * gaussians.num_rest, begin, end);
        for (int64_t i = begin; i < end; ++i)
            if (frame.radius_px[i] == 0) zero_rows(out.sh_rest, 3 * gaussians.num_rest, i, i + 1);
        zero_rows(out.colors, 3, begin, end);
        zero_rows(out.screen_means, 4, begin, end);
        zero_rows(out.abs_grad, 1, begin, end);
        zero_rows(out.seen, 1, begin, end);
        for_each_batch<T>(
            begin, end, [&](int64_t i) { return frame.radius_px[i] > 0; },
            [&](const BatchRows<T>& rows) {
                PoseGradient<T>* pose = out.world_to_camera ? &poses[begin / kChunk] : nullptr;
                project_backward_batch(frame, gaussians, camera, slots, rows, out, pose);
            });
    });
    if (!out.world_to_camera) return;
    PoseGradient<T> sum{};
    for (const PoseGradient<T>& each : poses) sum.add(each);  // in order, so that it does not depend on the threads
    const Mat3<T>& r = sum.rotation;
    const Vec3<T>& t = sum.translation;
    const T matrix[16] = {r.r0.x, r.r0.y, r.r0.z, t.x, r.r1.x, r.r1.y, r.r1.z, t.y,
                          r.r2.x, r.r2.y, r.r2.z, t.z, 0,      0,      0,      0};
    std::copy_n(matrix, 16, out.world_to_camera);
}

template void project<float>(Team&, const Gaussians<float>&, Frame<float>&, float*);
template void project<double>(Team&, const Gaussians<double>&, Frame<double>&, double*);
template void project_backward<float>(Team&, const Frame<float>&, const Gaussians<float>&,
                                      const Buffer<SplatGradient<float>>&, const Gradients<float>&);
template void project_backward<double>(Team&, const Frame<double>&, const Gaussians<double>&,
                                       const Buffer<SplatGradient<double>>&, const Gradients<double>&);

}  // namespace dgr
