// Adam on CUDA: one launch for up to 16 tensors. Memory bandwidth limits the speed, so a thread loads four elements of
// each array at once if the arrays are aligned.
#include <algorithm>

#include "cuda_platform.h"

namespace dgr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kNumbers = 4;      // elements of a thread
constexpr int kMaxTensors = 16;  // of a launch: kernel parameters are limited to 4 kB

struct Tensor {
    float* values;
    const float* gradient;
    float *exp_avg, *exp_avg_sq;
    int64_t count, first_block;
    int width, rows_per_block;  // rows_per_block: a multiple of 4, which keeps blocks aligned to float4
    bool is_aligned;
    AdamFactors<float> factors;
};
struct AdamParams {
    Tensor tensors[kMaxTensors];
    int num_tensors;
    const int32_t* radius_px;  // or null
};

struct Numbers { float at[kNumbers]; };

__device__ __forceinline__ Numbers load(const float* from, int num, bool as_vector) {
    if (as_vector) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        return {{four.x, four.y, four.z, four.w}};
    }
    Numbers numbers{};
#pragma unroll
    for (int i = 0; i < kNumbers; ++i)
        if (i < num) numbers.at[i] = from[i];
    return numbers;
}
__device__ __forceinline__ void store(const Numbers& numbers, float* to, int num, bool as_vector) {
    if (as_vector) {
        *reinterpret_cast<float4*>(to) = make_float4(numbers.at[0], numbers.at[1], numbers.at[2], numbers.at[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < kNumbers; ++i)
        if (i < num) to[i] = numbers.at[i];
}

/// Bit i: element begin + i belongs to a row that is updated.
__device__ __forceinline__ unsigned moving(const int32_t* radius_px, int begin, int num, int width) {
    unsigned bits = 0;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i)
        if (i < num && (!radius_px || radius_px[(begin + i) / width] != 0)) bits |= 1u << i;
    return bits;
}

__global__ void __launch_bounds__(kThreads) adam_kernel(AdamParams p) {
    int index = 0;
    while (index + 1 < p.num_tensors && blockIdx.x >= p.tensors[index + 1].first_block) ++index;
    const Tensor& t = p.tensors[index];
    const int64_t first_row = (blockIdx.x - t.first_block) * t.rows_per_block;
    const int64_t rows_left = t.count - first_row;
    const int size = t.width * (rows_left < t.rows_per_block ? static_cast<int>(rows_left) : t.rows_per_block);
    const int32_t* radius_px = p.radius_px ? p.radius_px + first_row : nullptr;
    for (int begin = kNumbers * threadIdx.x; begin < size; begin += kNumbers * kThreads) {
        const int num = size - begin < kNumbers ? size - begin : kNumbers;
        const bool as_vector = t.is_aligned && num == kNumbers;
        const unsigned moves = moving(radius_px, begin, num, t.width);
        if (moves == 0) continue;
        const int64_t at = first_row * t.width + begin;
        const Numbers gradient = load(t.gradient + at, num, as_vector);
        Numbers values = load(t.values + at, num, as_vector);
        Numbers exp_avg = load(t.exp_avg + at, num, as_vector);
        Numbers exp_avg_sq = load(t.exp_avg_sq + at, num, as_vector);
#pragma unroll
        for (int i = 0; i < kNumbers; ++i) {
            const AdamState<float> old{values.at[i], exp_avg.at[i], exp_avg_sq.at[i]};
            const AdamState<float> now = (moves >> i & 1) ? adam_update(old, gradient.at[i], t.factors) : old;
            values.at[i] = now.value;
            exp_avg.at[i] = now.exp_avg;
            exp_avg_sq.at[i] = now.exp_avg_sq;
        }
        store(values, t.values + at, num, as_vector);
        store(exp_avg, t.exp_avg + at, num, as_vector);
        store(exp_avg_sq, t.exp_avg_sq + at, num, as_vector);
    }
}

bool is_aligned(const float* pointer) { return reinterpret_cast<uintptr_t>(pointer) % sizeof(float4) == 0; }

Tensor tensor_of(const AdamStep& s, int64_t first_block) {
    const int rows_per_block = std::max(kNumbers, kThreads * kNumbers / s.width / kNumbers * kNumbers);
    return {s.values,
            s.gradient,
            s.exp_avg,
            s.exp_avg_sq,
            s.count,
            first_block,
            s.width,
            rows_per_block,
            is_aligned(s.values) && is_aligned(s.gradient) && is_aligned(s.exp_avg) && is_aligned(s.exp_avg_sq),
            adam_factors<float>(s.rate, s.beta1, s.beta2, s.epsilon, static_cast<double>(s.step))};
}

}  // namespace

void adam(const Context& context, const AdamStep* tensors, int num_tensors, const int32_t* radius_px) {
    const DeviceGuard guard(context.device);
    for (int next = 0; next < num_tensors;) {
        AdamParams params{};
        params.radius_px = radius_px;
        int64_t blocks = 0;
        for (; next < num_tensors && params.num_tensors < kMaxTensors; ++next) {
            if (tensors[next].count == 0 || tensors[next].width == 0) continue;
            const Tensor& tensor = params.tensors[params.num_tensors++] = tensor_of(tensors[next], blocks);
            blocks += (tensor.count + tensor.rows_per_block - 1) / tensor.rows_per_block;
        }
        launch("adam_kernel", context, {blocks, kThreads}, adam_kernel, params);
    }
}

}  // namespace dgr::cuda
