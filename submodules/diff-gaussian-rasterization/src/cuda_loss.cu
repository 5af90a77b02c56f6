// L1 and SSIM with their gradient on CUDA, in two passes over tiles: window means and SSIM, then the gradient of the
// image from the gradients of the window means. A tile is loaded to shared memory with a border of kRadius, and blurred
// along x, then along y.
#include <cstdint>

#include "cuda_platform.h"

namespace dgr::cuda {
namespace {

constexpr int kTile = 32;  // px
constexpr int kTaps = Ssim::window, kRadius = kTaps / 2;
constexpr int kRows = kTile + 2 * kRadius;
constexpr int kColumns = 44;  // the same, rounded up to float4
constexpr int kOutputs = 4;  // neighbouring pixels that a thread blurs together, to load their inputs once
constexpr int kInputs = kOutputs + 2 * kRadius;
constexpr int kInputVectors = (kInputs + 3) / 4;
constexpr int kThreads = kTile * kTile / kOutputs;
static_assert(kTile - kOutputs + 4 * kInputVectors <= kColumns);

struct alignas(16) Signal { float at[kRows][kColumns]; };
struct alignas(16) BlurredRows { float at[kRows][kTile]; };

/// The sums of a block. sum_kernel adds them in a fixed order.
struct Sums { double l1, ssim; };

struct LossParams {
    LossInput<float> in;
    WindowWeights<float> window;
    int tiles_x, tiles;  // of a channel
    int64_t pixels;  // of a channel
    float v_l1, v_ssim;  // dL/d|x - y| and dL/dSSIM of one value
    Sums* sums;  // (blocks)
    float* gradients;  // (3,C,H,W): dL/d(window means of x, x^2, xy) of each channel, or null
    float* v_image;  // (C,H,W)

    __device__ int64_t map_size() const { return in.channels * pixels; }
};

/// The block's tile; left and top in px.
struct Tile {
    int channel, left, top;
    __device__ explicit Tile(const LossParams& p)
        : channel(static_cast<int>(blockIdx.x) / p.tiles),
          left(static_cast<int>(blockIdx.x) % p.tiles % p.tiles_x * kTile),
          top(static_cast<int>(blockIdx.x) % p.tiles / p.tiles_x * kTile) {}
};

__device__ __forceinline__ bool is_inside(const LossParams& p, int x, int y, int margin = 0) {
    return x >= margin && x < p.in.width - margin && y >= margin && y < p.in.height - margin;
}

/// Image (x) and photo (y) of a pixel inside the image; zero where the mask is false.
struct Pair {
    float x, y;
    bool is_in_mask;
};
__device__ __forceinline__ Pair read_pair(const LossParams& p, int channel, int64_t pixel) {
    if (p.in.mask && !p.in.mask[pixel]) return {0, 0, false};
    const int64_t at = channel * p.pixels + pixel;
    return {p.in.image[at], p.in.photo ? p.in.photo[at] : from_byte<float>(p.in.photo_bytes[at]), true};
}

/// Blurs kOutputs neighbouring samples.
__device__ __forceinline__ void blur(const WindowWeights<float>& window, const float* in, float* out) {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
        out[i] = 0;
#pragma unroll
        for (int k = 0; k < kTaps; ++k) out[i] += window.at[k] * in[i + k];
    }
}
__device__ __forceinline__ void load_inputs(const Signal& signal, int row, int column, float* in) {
#pragma unroll
    for (int i = 0; i < kInputVectors; ++i) {
        const float4 four = *reinterpret_cast<const float4*>(&signal.at[row][column + 4 * i]);
        in[4 * i] = four.x, in[4 * i + 1] = four.y, in[4 * i + 2] = four.z, in[4 * i + 3] = four.w;
    }
}
__device__ __forceinline__ void blur_row(const WindowWeights<float>& window, const float* in, float* to) {
    float out[kOutputs];
    blur(window, in, out);
    *reinterpret_cast<float4*>(to) = make_float4(out[0], out[1], out[2], out[3]);
}
__device__ __forceinline__ void blur_column(const WindowWeights<float>& window, const BlurredRows& rows, int row,
                                            int column, float* out) {
    float in[kInputs];
#pragma unroll
    for (int i = 0; i < kInputs; ++i) in[i] = rows.at[row + i][column];
    blur(window, in, out);
}

/// The sum over the warp in a fixed order, in lane 0.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += __shfl_down_sync(kAllLanes, value, lanes);
    return value;
}

// Blurs u = x + y, d = x - y and their squares: x^2 + y^2 = (u^2 + d^2) / 2, xy = (u^2 - d^2) / 4. Equal images give
// equal means.
struct SimilarityMemory {
    Signal u, d;
    BlurredRows mean_u, mean_d, mean_uu, mean_dd;
    float warp_l1[kThreads / kWarp], warp_ssim[kThreads / kWarp];
};

__device__ __forceinline__ void blur_similarity_row(const LossParams& p, SimilarityMemory& memory, int row,
                                                    int column) {
    float in[4 * kInputVectors];
    load_inputs(memory.u, row, column, in);
    blur_row(p.window, in, &memory.mean_u.at[row][column]);
#pragma unroll
    for (int i = 0; i < kInputs; ++i) in[i] *= in[i];
    blur_row(p.window, in, &memory.mean_uu.at[row][column]);
    load_inputs(memory.d, row, column, in);
    blur_row(p.window, in, &memory.mean_d.at[row][column]);
#pragma unroll
    for (int i = 0; i < kInputs; ++i) in[i] *= in[i];
    blur_row(p.window, in, &memory.mean_dd.at[row][column]);
}

__global__ void __launch_bounds__(kThreads) similarity_kernel(LossParams p) {
    SimilarityMemory& memory = block_shared<SimilarityMemory>();
    const Tile tile(p);
    for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
        const int row = i / kColumns, column = i % kColumns;
        const int x = tile.left + column - kRadius, y = tile.top + row - kRadius;
        Pair pair{0, 0, false};
        if (is_inside(p, x, y)) pair = read_pair(p, tile.channel, int64_t(y) * p.in.width + x);
        memory.u.at[row][column] = pair.x + pair.y;
        memory.d.at[row][column] = pair.x - pair.y;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kRows * kTile / kOutputs; i += kThreads)
        blur_similarity_row(p, memory, i / (kTile / kOutputs), i % (kTile / kOutputs) * kOutputs);
    __syncthreads();

    const int column = threadIdx.x % kTile, first_row = threadIdx.x / kTile * kOutputs;
    float u[kOutputs], d[kOutputs], uu[kOutputs], dd[kOutputs], l1 = 0, similarity = 0;
    blur_column(p.window, memory.mean_u, first_row, column, u);
    blur_column(p.window, memory.mean_d, first_row, column, d);
    blur_column(p.window, memory.mean_uu, first_row, column, uu);
    blur_column(p.window, memory.mean_dd, first_row, column, dd);
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
        const int x = tile.left + column, y = tile.top + first_row + i;
        if (!is_inside(p, x, y)) continue;
        const WindowMeans<float> means{(u[i] + d[i]) / 2, (u[i] - d[i]) / 2, (uu[i] + dd[i]) / 2, (uu[i] - dd[i]) / 4};
        l1 += abs(memory.d.at[first_row + i + kRadius][column + kRadius]);
        const bool counts = is_inside(p, x, y, p.in.margin);
        similarity += counts ? ssim(means) : 0.0f;
        if (!p.gradients) continue;
        const WindowGradient<float> gradient = ssim_vjp(means, counts ? p.v_ssim : 0.0f);
        float* out = p.gradients + tile.channel * p.pixels + int64_t(y) * p.in.width + x;
        out[0] = gradient.x;
        out[p.map_size()] = gradient.xx;
        out[2 * p.map_size()] = gradient.xy;
    }

    const float warp_l1 = warp_sum(l1), warp_ssim = warp_sum(similarity);
    if (threadIdx.x % kWarp == 0) {
        memory.warp_l1[threadIdx.x / kWarp] = warp_l1;
        memory.warp_ssim[threadIdx.x / kWarp] = warp_ssim;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    Sums sums{0, 0};
    for (int i = 0; i < kThreads / kWarp; ++i) {
        sums.l1 += memory.warp_l1[i];
        sums.ssim += memory.warp_ssim[i];
    }
    p.sums[blockIdx.x] = sums;
}

struct GradientMemory {
    Signal gradient[3];
    BlurredRows blurred[3];
};

__global__ void __launch_bounds__(kThreads) gradient_kernel(LossParams p) {
    GradientMemory& memory = block_shared<GradientMemory>();
    const Tile tile(p);
    const float* gradients = p.gradients + tile.channel * p.pixels;
    for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
        const int row = i / kColumns, column = i % kColumns;
        const int x = tile.left + column - kRadius, y = tile.top + row - kRadius;
        const bool inside = is_inside(p, x, y);
        const int64_t pixel = int64_t(y) * p.in.width + x;
#pragma unroll
        for (int map = 0; map < 3; ++map)
            memory.gradient[map].at[row][column] = inside ? gradients[map * p.map_size() + pixel] : 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kRows * kTile / kOutputs; i += kThreads) {
        const int row = i / (kTile / kOutputs), column = i % (kTile / kOutputs) * kOutputs;
#pragma unroll
        for (int map = 0; map < 3; ++map) {
            float in[4 * kInputVectors];
            load_inputs(memory.gradient[map], row, column, in);
            blur_row(p.window, in, &memory.blurred[map].at[row][column]);
        }
    }
    __syncthreads();

    const int column = threadIdx.x % kTile, first_row = threadIdx.x / kTile * kOutputs;
    float v_x[kOutputs], v_xx[kOutputs], v_xy[kOutputs];
    blur_column(p.window, memory.blurred[0], first_row, column, v_x);
    blur_column(p.window, memory.blurred[1], first_row, column, v_xx);
    blur_column(p.window, memory.blurred[2], first_row, column, v_xy);
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
        const int x = tile.left + column, y = tile.top + first_row + i;
        if (!is_inside(p, x, y)) continue;
        const int64_t pixel = int64_t(y) * p.in.width + x;
        const Pair pair = read_pair(p, tile.channel, pixel);
        const float v = loss_terms_vjp(pair.x, pair.y, p.v_l1, {v_x[i], v_xx[i], v_xy[i]});
        p.v_image[tile.channel * p.pixels + pixel] = pair.is_in_mask ? v : 0.0f;
    }
}

constexpr int kSumThreads = 512;

struct SumParams {
    const Sums* sums;
    int64_t count;
    double num_values, num_similarities, ssim_weight;
    float* loss;
    float* parts;  // L1, SSIM; or null
};

/// Adds the sums of the blocks, in an order that depends only on their number. Runs as one block.
__global__ void __launch_bounds__(kSumThreads) sum_kernel(SumParams p) {
    Sums* partial = &block_shared<Sums>();
    Sums mine{0, 0};
    for (int64_t i = threadIdx.x; i < p.count; i += kSumThreads) {
        mine.l1 += p.sums[i].l1;
        mine.ssim += p.sums[i].ssim;
    }
    partial[threadIdx.x] = mine;
    for (int half = kSumThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (static_cast<int>(threadIdx.x) >= half) continue;
        partial[threadIdx.x].l1 += partial[threadIdx.x + half].l1;
        partial[threadIdx.x].ssim += partial[threadIdx.x + half].ssim;
    }
    if (threadIdx.x != 0) return;
    const double l1 = partial[0].l1 / p.num_values, similarity = partial[0].ssim / p.num_similarities;
    *p.loss = static_cast<float>(mixed_loss(p.ssim_weight, l1, similarity));
    if (!p.parts) return;
    p.parts[0] = static_cast<float>(l1);
    p.parts[1] = static_cast<float>(similarity);
}

}  // namespace

void photometric_loss(const Context& context, const LossInput<float>& input, float* loss, float* parts,
                      float* v_image) {
    const DeviceGuard guard(context.device);
    const int64_t pixels = int64_t(input.width) * input.height;
    const int tiles_x = (input.width + kTile - 1) / kTile, tiles_y = (input.height + kTile - 1) / kTile;
    const int64_t blocks = int64_t(input.channels) * tiles_x * tiles_y;
    const MixedLossGradient v = mixed_loss_vjp(input.ssim_weight);
    const LossParams params{input,
                            window_weights<float>(),
                            tiles_x,
                            tiles_x * tiles_y,
                            pixels,
                            static_cast<float>(v.l1 / input.num_values()),
                            static_cast<float>(v.ssim / input.num_similarities()),
                            context.scratch.array<Sums>(blocks),
                            v_image ? context.scratch.array<float>(3 * input.channels * pixels) : nullptr,
                            v_image};
    launch("similarity_kernel", context, {blocks, kThreads, sizeof(SimilarityMemory)}, similarity_kernel, params);
    if (v_image)
        launch("gradient_kernel", context, {blocks, kThreads, sizeof(GradientMemory)}, gradient_kernel, params);
    const SumParams sum_params{params.sums,           blocks, input.num_values(), input.num_similarities(),
                               input.ssim_weight, loss,   parts};
    launch("sum_kernel", context, {1, kSumThreads, kSumThreads * sizeof(Sums)}, sum_kernel, sum_params);
}

}  // namespace dgr::cuda
