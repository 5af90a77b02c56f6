// L1 and SSIM with their gradient on the CPU, in two passes over bands of rows: window means and SSIM, then the
// gradient of the image from the gradients of the window means.
#include <algorithm>
#include <cmath>
#include <vector>

#include "engine.h"
#include "simd.h"
#include "team.h"

namespace dgr {
namespace {

constexpr int kTaps = Ssim::window, kRadius = kTaps / 2;
constexpr int kBandRows = 32;

template <class T> struct Window {
    WindowWeights<T> weights = window_weights<T>();
    /// Weighted sum of the batches at p, p + step, ... It uses two accumulators, which halves the latency.
    Batch<T> apply(const T* p, int64_t step) const {
        using B = Batch<T>;
        const T* weight = weights.at;
        B even = B(weight[0]) * B::load(p), odd = B(weight[1]) * B::load(p + step);
        for (int k = 2; k < kTaps; k += 2) even += B(weight[k]) * B::load(p + k * step);
        for (int k = 3; k < kTaps; k += 2) odd += B(weight[k]) * B::load(p + k * step);
        return even + odd;
    }
};

constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

/// `maps` signals of the rows of a band and of kRadius rows above and below, blurred along x. Rows outside the image
/// are zero. A row is padded to whole batches.
template <class T> class BlurredRows {
  public:
    BlurredRows(int maps, int width)
        : stride_(round_up(width, kLanes<T>)),
          map_size_(int64_t(kBandRows + 2 * kRadius) * stride_),
          rows_(maps * map_size_),
          padded_(stride_ + 2 * kRadius + kLanes<T>) {
        std::fill_n(padded_.data(), padded_.size(), T(0));
    }
    /// The input of blur_row: `width` samples.
    T* input() { return padded_.data() + kRadius; }
    void blur_row(const Window<T>& window, int map, int row) {
        T* out = rows_.data() + map * map_size_ + int64_t(row) * stride_;
        for (int x = 0; x < stride_; x += kLanes<T>) { window.apply(padded_.data() + x, 1).store(out + x); }
    }
    void zero_row(int map, int row) {
        std::fill_n(rows_.data() + map * map_size_ + int64_t(row) * stride_, stride_, T(0));
    }
    /// The batch at column x of a row of the band, blurred along x and y.
    Batch<T> blur_column(const Window<T>& window, int map, int row, int x) const {
        const T* p = rows_.data() + map * map_size_ + int64_t(row) * stride_ + x;
        return window.apply(p, stride_);
    }

  private:
    int stride_;
    int64_t map_size_;
    Buffer<T> rows_, padded_;
};

/// One masked row of the image (x) and of the photo (y), padded with zeros to whole batches.
template <class T> struct RowPair {
    std::vector<T> x, y;
    explicit RowPair(int width) : x(round_up(width, kLanes<T>)), y(x.size()) {}
    void read(const LossInput<T>& in, int channel, int row) {
        const int64_t at = (int64_t(channel) * in.height + row) * in.width;
        std::copy_n(in.image + at, in.width, x.begin());
        if (in.photo)
            std::copy_n(in.photo + at, in.width, y.begin());
        else
            for (int i = 0; i < in.width; ++i) y[i] = from_byte<T>(in.photo_bytes[at + i]);
        if (!in.mask) return;
        const bool* mask = in.mask + int64_t(row) * in.width;
        for (int i = 0; i < in.width; ++i) {
            x[i] = mask[i] ? x[i] : T(0);
            y[i] = mask[i] ? y[i] : T(0);
        }
    }
};

/// The sums of one band. The total adds them in the order of the bands.
struct BandSums { double l1 = 0, ssim = 0; };

/// The sums of a band of a channel. Writes dL/d(window means of x, x^2, xy) to `gradients`, 3 maps of (H, stride).
template <class T>
BandSums measure_band(const LossInput<T>& in, const Window<T>& window, int channel, int band, T v_ssim, T* gradients,
                      int64_t map_size, int stride) {
    using B = Batch<T>;
    const int begin = band * kBandRows, end = std::min(in.height, begin + kBandRows);
    BlurredRows<T> means(5, in.width);
    RowPair<T> pair(in.width);
    BandSums sums;
    for (int row = begin - kRadius; row < end + kRadius; ++row) {
        const int local = row - begin + kRadius;
        if (row < 0 || row >= in.height) {
            for (int map = 0; map < 5; ++map) means.zero_row(map, local);
            continue;
        }
        pair.read(in, channel, row);
        const T *x = pair.x.data(), *y = pair.y.data();
        T* to = means.input();
        std::copy_n(x, in.width, to);
        means.blur_row(window, 0, local);
        std::copy_n(y, in.width, to);
        means.blur_row(window, 1, local);
        for (int i = 0; i < in.width; ++i) to[i] = x[i] * x[i];
        means.blur_row(window, 2, local);
        for (int i = 0; i < in.width; ++i) to[i] = y[i] * y[i];
        means.blur_row(window, 3, local);
        for (int i = 0; i < in.width; ++i) to[i] = x[i] * y[i];
        means.blur_row(window, 4, local);
        if (row < begin || row >= end) continue;
        B l1(0);
        for (int i = 0; i < stride; i += kLanes<T>) l1 += abs(B::load(x + i) - B::load(y + i));
        sums.l1 += sum(l1);
    }
    for (int row = begin; row < end; ++row) {
        T row_sum(0);
        for (int i = 0; i < stride; i += kLanes<T>) {
            const int local = row - begin;
            const WindowMeans<B> m{means.blur_column(window, 0, local, i), means.blur_column(window, 1, local, i),
                                   means.blur_column(window, 2, local, i), means.blur_column(window, 3, local, i),
                                   means.blur_column(window, 4, local, i)};
            const B similarity = ssim(m);
            for (int lane = 0; lane < std::min(kLanes<T>, in.width - i); ++lane) row_sum += similarity[lane];
            if (!gradients) continue;
            const WindowGradient<B> g = ssim_vjp(m, B(v_ssim));
            T* out = gradients + int64_t(row) * stride + i;
            g.x.store(out);
            g.xx.store(out + map_size);
            g.xy.store(out + 2 * map_size);
        }
        sums.ssim += row_sum;
    }
    return sums;
}

/// Writes dL/dimage of a band of a channel.
template <class T>
void pull_back_band(const LossInput<T>& in, const Window<T>& window, int channel, int band, T v_l1, const T* gradients,
                    int64_t map_size, int stride, T* v_image) {
    using B = Batch<T>;
    const int begin = band * kBandRows, end = std::min(in.height, begin + kBandRows);
    BlurredRows<T> blurred(3, in.width);
    RowPair<T> pair(in.width);
    std::vector<T> v_row(stride);
    for (int row = begin - kRadius; row < end + kRadius; ++row) {
        const int local = row - begin + kRadius;
        for (int map = 0; map < 3; ++map) {
            if (row < 0 || row >= in.height) {
                blurred.zero_row(map, local);
                continue;
            }
            std::copy_n(gradients + map * map_size + int64_t(row) * stride, in.width, blurred.input());
            blurred.blur_row(window, map, local);
        }
    }
    for (int row = begin; row < end; ++row) {
        pair.read(in, channel, row);
        for (int i = 0; i < stride; i += kLanes<T>) {
            const int local = row - begin;
            const B x = B::load(pair.x.data() + i), y = B::load(pair.y.data() + i);
            const WindowGradient<B> v{blurred.blur_column(window, 0, local, i),
                                      blurred.blur_column(window, 1, local, i),
                                      blurred.blur_column(window, 2, local, i)};
            loss_terms_vjp(x, y, B(v_l1), v).store(v_row.data() + i);
        }
        const bool* mask = in.mask ? in.mask + int64_t(row) * in.width : nullptr;
        T* out = v_image + (int64_t(channel) * in.height + row) * in.width;
        for (int i = 0; i < in.width; ++i) out[i] = mask && !mask[i] ? T(0) : v_row[i];
    }
}

}  // namespace

template <class T> LossOutput<T> photometric_loss(const LossInput<T>& in, T* v_image) {
    const Window<T> window;
    const int stride = round_up(in.width, kLanes<T>);
    const int64_t map_size = int64_t(in.height) * stride;
    const int num_bands = (in.height + kBandRows - 1) / kBandRows;
    const double num_values = 3.0 * in.width * in.height;
    const MixedLossGradient v = mixed_loss_vjp(in.ssim_weight);
    const T v_l1 = T(v.l1 / num_values), v_ssim = T(v.ssim / num_values);
    Buffer<T> gradients(v_image ? 9 * map_size : 0);
    const auto gradients_of = [&](int channel) {
        return v_image ? gradients.data() + 3 * map_size * channel : nullptr;
    };
    std::vector<BandSums> sums(3 * num_bands);
    Team team(in.num_threads);
    team.for_each(3 * num_bands, [&](int64_t i) {
        const int channel = static_cast<int>(i / num_bands), band = static_cast<int>(i % num_bands);
        sums[i] = measure_band(in, window, channel, band, v_ssim, gradients_of(channel), map_size, stride);
    });
    if (v_image) {
        team.for_each(3 * num_bands, [&](int64_t i) {
            const int channel = static_cast<int>(i / num_bands), band = static_cast<int>(i % num_bands);
            pull_back_band(in, window, channel, band, v_l1, gradients_of(channel), map_size, stride, v_image);
        });
    }
    BandSums total;
    for (const BandSums& band : sums) {
        total.l1 += band.l1;
        total.ssim += band.ssim;
    }
    const double l1 = total.l1 / num_values, similarity = total.ssim / num_values;
    return {T(mixed_loss(in.ssim_weight, l1, similarity)), T(l1), T(similarity)};
}

template LossOutput<float> photometric_loss(const LossInput<float>&, float*);
template LossOutput<double> photometric_loss(const LossInput<double>&, double*);

}  // namespace dgr
