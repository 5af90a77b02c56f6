// Projection and its gradient on the GPU: projection.h, one thread per Gaussian.
#include "cuda_passes.h"

namespace dgr::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRestWidth = 3 * kMaxRest;  // odd, so that the rows of a warp begin in different banks

/// SH coefficients of the block's Gaussians. The lanes of a warp load and store neighbouring numbers of its rows: a row is
/// 180 bytes, so lanes that access their own rows would touch 32 cache lines for every coefficient.
struct alignas(16) RestRows { float row[kThreads][kRestWidth]; };

/// 32 rows as float4, if all of them exist and all their numbers are in use. Then no load is behind a branch, and
/// kInFlight loads of a lane do not wait for each other.
constexpr int kFours = kWarp * kRestWidth / 4, kInFlight = 6;
constexpr int kFoursOfLane = (kFours + kWarp - 1) / kWarp;
static_assert(kWarp * kRestWidth % 4 == 0 && kFoursOfLane % kInFlight == 0);
__device__ bool are_fours(unsigned existing, const float* first, int64_t stride, int width) {
    return existing == kAllLanes && stride == kRestWidth && width == kRestWidth &&
           reinterpret_cast<uintptr_t>(first) % sizeof(float4) == 0;
}

/// Loads the rows of those lanes whose bit in `wanted` is set. first: row of lane 0.
__device__ void load_rows(unsigned existing, unsigned wanted, const float* first, int64_t stride, int width,
                          float (*to)[kRestWidth]) {
    const int lane = threadIdx.x % kWarp;
    if (wanted != 0 && are_fours(existing, first, stride, width)) {
        const auto* from = reinterpret_cast<const float4*>(first);
        const int any = __ffs(static_cast<int>(wanted)) * kRestWidth / 4 - 1;  // one that is wanted
        for (int begin = lane; begin < kFoursOfLane * kWarp; begin += kInFlight * kWarp) {
            float4 values[kInFlight];
#pragma unroll
            for (int k = 0; k < kInFlight; ++k) {
                const int i = begin + k * kWarp, row = 4 * i / kRestWidth, last_row = (4 * i + 3) / kRestWidth;
                const bool is_wanted = i < kFours && (wanted >> row & 1 || wanted >> last_row & 1);
                values[k] = from[is_wanted ? i : any];
            }
#pragma unroll
            for (int k = 0; k < kInFlight; ++k)
                if (begin + k * kWarp < kFours) reinterpret_cast<float4*>(to)[begin + k * kWarp] = values[k];
        }
    } else {
#pragma unroll 1
        for (int r = 0; r < kWarp; ++r) {
            if ((wanted >> r & 1) == 0) continue;
            for (int c = lane; c < width; c += kWarp) to[r][c] = first[r * stride + c];
        }
    }
    __syncwarp();
}
/// Stores the rows of those lanes whose bit in `existing` is set, with zeros from `width` on. first: row of lane 0.
__device__ void store_rows(unsigned existing, float* first, int64_t stride, int width, const float (*from)[kRestWidth]) {
    __syncwarp();
    const int lane = threadIdx.x % kWarp;
    if (are_fours(existing, first, stride, width)) {
#pragma unroll 4
        for (int i = lane; i < kFours; i += kWarp)
            reinterpret_cast<float4*>(first)[i] = reinterpret_cast<const float4*>(from)[i];
    } else {
#pragma unroll 1
        for (int r = 0; r < kWarp; ++r) {
            if ((existing >> r & 1) == 0) continue;
            for (int64_t c = lane; c < stride; c += kWarp) first[r * stride + c] = c < width ? from[r][c] : 0.0f;
        }
    }
}

__device__ Vec3<float> load3(const float* p, int64_t n) { return {p[3 * n], p[3 * n + 1], p[3 * n + 2]}; }
__device__ void store3(float* p, int64_t n, Vec3<float> v) { p[3 * n] = v.x, p[3 * n + 1] = v.y, p[3 * n + 2] = v.z; }

__device__ Projection<float> project_row(const Gaussians<float>& g, const Pinhole<float>& camera, bool antialiased,
                                         int64_t n) {
    GaussianShape<float> shape{};
    shape.has_covariance = g.covariances != nullptr;
    if (g.covariances) {
        const float* c = g.covariances + 6 * n;
        shape.covariance = {c[0], c[1], c[2], c[3], c[4], c[5]};
    } else {
        const float* q = g.quats + 4 * n;
        shape.quat = {q[0], q[1], q[2], q[3]};
        shape.scale = load3(g.scales, n);
    }
    return project_gaussian(camera, antialiased, g.form, load3(g.means, n), shape, g.opacities[n]);
}

__device__ int32_t count_tiles(const View<float>& view, const Splat<float>& splat) {
    const TileBox box = tile_box(view, splat);
    int32_t count = 0;
    for (int y = box.y_begin; y < box.y_end; ++y) {
        const TileSpan span = tile_span(view, splat, box, y);
        count += span.end - span.begin;
    }
    return count;
}

struct ProjectParams {
    Gaussians<float> gaussians;
    View<float> view;
    bool antialiased;
    int sh_degree;
    ProjectionOutput out;
};

__global__ void __launch_bounds__(kThreads) project_kernel(ProjectParams p) {
    const Gaussians<float>& g = p.gaussians;
    const int64_t n = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    MaybeSplat<float> made;
    made.visible = false;
    if (n < g.count) {
        made = make_splat(p.view.camera, p.view.width, p.view.height, project_row(g, p.view.camera, p.antialiased, n));
    }
    Vec3<float>& rgb = made.splat.color;
    if (g.colors) {
        if (made.visible) rgb = load3(g.colors, n);
    } else if (g.sh_dc) {
        RestRows& rest = block_shared<RestRows>();
        const int warp_row = threadIdx.x / kWarp * kWarp, width = 3 * sh_rest_count(p.sh_degree);
        const int64_t stride = 3 * int64_t(g.num_rest);
        load_rows(__ballot_sync(kAllLanes, n < g.count), __ballot_sync(kAllLanes, made.visible),
                  g.sh_rest + (n - threadIdx.x % kWarp) * stride, stride, width, rest.row + warp_row);
        if (made.visible)
            rgb = sh_color(p.sh_degree, load3(g.means, n) - p.view.camera.centre, load3(g.sh_dc, n),
                           rest.row[threadIdx.x]);
    }
    if (n >= g.count) return;
    bool visible = made.visible;
    if (visible && (g.colors || g.sh_dc)) visible = is_finite(rgb.x) && is_finite(rgb.y) && is_finite(rgb.z);
    if (visible && g.sh_dc) rgb = clamp_color(rgb);
    p.out.radius_px[n] = visible ? radius_of(made.splat.half_extent) : 0;
    p.out.depth_keys[n] = visible ? __float_as_uint(made.depth) : kCulledKey;
    p.out.indices[n] = static_cast<uint32_t>(n);
    p.out.num_tiles[n] = visible ? count_tiles(p.view, made.splat) : 0;
    if (visible) p.out.splats[n] = made.splat;
}

struct BackwardParams {
    Gaussians<float> gaussians;
    View<float> view;
    bool antialiased;
    int sh_degree;
    const Splat<float>* splats;
    const int32_t* radius_px;
    const SplatGradient<float>* gradients;
    bool has_order;
    SlotOrder order;
    Gradients<float> out;
    PoseGradient<float>* poses;  // (warps): the sums over their Gaussians
};

/// The sums of a splat, before gradient_from_sums. All lanes of a warp have to call it.
__device__ SplatGradient<float> splat_sums(const BackwardParams& p, int64_t n, bool visible) {
    if (p.has_order) return sum_slots(p.gradients, p.order, n, visible);
    return visible ? p.gradients[n] : SplatGradient<float>{};
}

__device__ void write_screen_gradients(const BackwardParams& p, int64_t n, bool visible,
                                       const SplatGradient<float>& v) {
    const ScreenGradient<float> screen = screen_gradient(p.view.width, p.view.height, v);
    if (p.out.screen_means) {
        float* to = p.out.screen_means + 4 * n;
        to[0] = screen.x, to[1] = screen.y, to[2] = screen.abs_x, to[3] = screen.abs_y;
    }
    if (!p.out.abs_grad) return;
    p.out.abs_grad[n] = visible ? screen.norm : 0;
    p.out.seen[n] = visible;
}

/// Writes the gradients of colors or spherical harmonics. Returns dL/dmean through the viewing direction. All lanes of
/// a warp have to call it.
__device__ Vec3<float> color_backward(const BackwardParams& p, int64_t n, bool visible, Vec3<float> v_color) {
    const Gaussians<float>& g = p.gaussians;
    const bool exists = n < g.count;
    if (g.colors) {
        if (p.out.colors && exists) store3(p.out.colors, n, v_color);
        return {0, 0, 0};
    }
    RestRows& rest = block_shared<RestRows>();
    const int warp_row = threadIdx.x / kWarp * kWarp, width = 3 * sh_rest_count(p.sh_degree);
    const int64_t stride = 3 * int64_t(g.num_rest), warp_first = (n - threadIdx.x % kWarp) * stride;
    const unsigned existing = __ballot_sync(kAllLanes, exists), wanted = __ballot_sync(kAllLanes, visible);
    load_rows(existing, wanted, g.sh_rest + warp_first, stride, width, rest.row + warp_row);
    ShGradient<float> v{};
    if (visible) {
        const Vec3<float> toward = load3(g.means, n) - p.view.camera.centre;
        v = sh_color_vjp(p.sh_degree, toward, rest.row[threadIdx.x], clamp_color_vjp(p.splats[n].color, v_color));
    } else {
        for (int c = 0; c < width; ++c) rest.row[threadIdx.x][c] = 0;
    }
    if (p.out.sh_rest)
        store_rows(existing, p.out.sh_rest + warp_first, stride, width, rest.row + warp_row);
    if (p.out.sh_dc && exists) store3(p.out.sh_dc, n, v.dc);
    return v.toward;
}

/// kPose: the gradient of the pose, too.
template <bool kPose> __global__ void __launch_bounds__(kThreads) project_backward_kernel(BackwardParams p) {
    const Gaussians<float>& g = p.gaussians;
    const int64_t n = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    const bool exists = n < g.count, visible = exists && p.radius_px[n] > 0;
    SplatGradient<float> v = splat_sums(p, n, visible);
    if (visible) v = gradient_from_sums(p.splats[n].conic, v);
    if (exists) write_screen_gradients(p, n, visible, v);
    const Vec3<float> v_toward = color_backward(p, n, visible, v.color);
    if (!kPose && !exists) return;
    GaussianGradient<float> to{};
    PoseGradient<float> pose{};
    if (visible) {
        const Projection<float> projection = project_row(g, p.view.camera, p.antialiased, n);
        to = project_gaussian_vjp(p.view.camera, p.antialiased, g.form, projection, v, v_toward);
        if constexpr (kPose) pose = project_gaussian_of_pose_vjp(p.view.camera, projection, to, v_toward);
    }
    if constexpr (kPose) {
        for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) pose.add(from_lane(pose, lanes));
        if (threadIdx.x % kWarp == 0) p.poses[(int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp] = pose;
        if (!exists) return;
    }
    if (p.out.opacities) p.out.opacities[n] = to.opacity;
    if (p.out.means) store3(p.out.means, n, to.mean);
    if (p.out.scales) store3(p.out.scales, n, to.scale);
    if (p.out.quats) {
        float* q = p.out.quats + 4 * n;
        q[0] = to.quat.w, q[1] = to.quat.x, q[2] = to.quat.y, q[3] = to.quat.z;
    }
    if (p.out.covariances) {
        float* c = p.out.covariances + 6 * n;
        c[0] = to.covariance.xx, c[1] = to.covariance.xy, c[2] = to.covariance.xz;
        c[3] = to.covariance.yy, c[4] = to.covariance.yz, c[5] = to.covariance.zz;
    }
}

/// The gradient of the matrix from the sums of the warps, in a fixed order. A block for each of its numbers.
__global__ void __launch_bounds__(kThreads)
    pose_sum_kernel(const PoseGradient<float>* poses, int64_t count, float* world_to_camera) {
    const int row = blockIdx.x / 4, column = blockIdx.x % 4;
    const int number = column < 3 ? 3 * row + column : 9 + row;  // of a PoseGradient
    float sum = 0;
    if (row < 3)
        for (int64_t i = threadIdx.x; i < count; i += kThreads)
            sum += reinterpret_cast<const float*>(poses + i)[number];
    float* sums = &block_shared<float>();
    sums[threadIdx.x] = sum;
    for (int half = kThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) world_to_camera[blockIdx.x] = sums[0];
}

/// One thread per Gaussian, with shared memory for SH coefficients if there are any.
Grid grid_of(const Gaussians<float>& g) {
    Grid grid = one_thread_each(g.count, kThreads);
    grid.shared_bytes = g.sh_dc ? static_cast<int64_t>(sizeof(RestRows)) : 0;
    return grid;
}

}  // namespace

void project(const Context& context, const Gaussians<float>& gaussians, const View<float>& view, const Options& options,
             const ProjectionOutput& out) {
    const ProjectParams params{gaussians, view, options.antialiased, options.sh_degree, out};
    launch("project", context, grid_of(gaussians), project_kernel, params);
}

void project_backward(const Context& context, const Frame& frame, const Gaussians<float>& gaussians,
                      const SplatGradient<float>* gradients, const SlotOrder* order, const Gradients<float>& out) {
    const Grid grid = grid_of(gaussians);
    const int64_t num_warps = out.world_to_camera ? grid.blocks * kThreads / kWarp : 0;
    PoseGradient<float>* poses = num_warps ? context.scratch.array<PoseGradient<float>>(num_warps) : nullptr;
    const BackwardParams params{
        gaussians,       frame.view, frame.options.antialiased, frame.options.sh_degree,      frame.splats,
        frame.radius_px, gradients,  order != nullptr,          order ? *order : SlotOrder{}, out,
        poses};
    launch("project_backward", context, grid, poses ? project_backward_kernel<true> : project_backward_kernel<false>,
           params);
    if (out.world_to_camera)
        launch("pose_sum", context, {16, kThreads, kThreads * static_cast<int64_t>(sizeof(float))}, pose_sum_kernel,
               poses, num_warps, out.world_to_camera);
}

}  // namespace dgr::cuda
