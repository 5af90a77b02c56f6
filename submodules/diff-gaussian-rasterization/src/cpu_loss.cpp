// L1 and SSIM with their gradient on the CPU, in two passes over bands of rows: window means and SSIM, then the
// gradient of the image from the gradients of the window means.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "engine.h"
#include "simd.h"
#include "team.h"

namespace dgr {
namespace {

constexpr int kTaps = Ssim::window, kRadius = kTaps / 2;
constexpr int kBandRows = 32;
constexpr int kBlurRows = 4;  // rows that are blurred at a time; divides kBandRows
constexpr int kInputRows = kBlurRows + 2 * kRadius;

template <class T> struct Window {
    WindowWeights<T> weights = window_weights<T>();
    /// Each half of the symmetric window has the same weights, which the compiler cannot know.
    Batch<T> at(int k) const { return weights.at[k <= kRadius ? k : kTaps - 1 - k]; }
};

constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

/// `maps` signals of kBlurRows rows, blurred along y and then along x. A row is padded to whole batches, and with zeros
/// on both sides, so that a window fits around each of its samples.
template <class T, int maps> class BlurredRows {
    using B = Batch<T>;

  public:
    explicit BlurredRows(int stride) : row_size_(stride + 2 * kRadius), rows_(maps * kBlurRows * row_size_) {}
    /// Blurs a batch of one signal along y; input(k) is its batch in the k-th of the kInputRows rows from kRadius above
    /// the first one. A row that is loaded once adds to several sums.
    template <class Input> void blur_column(const Window<T>& window, int map, int x, const Input& input) {
        B sums[kBlurRows] = {};
#pragma GCC unroll 16
        for (int k = 0; k < kInputRows; ++k) {
            const B values = input(k);
#pragma GCC unroll 4
            for (int i = 0; i < kBlurRows; ++i)
                if (k - i >= 0 && k - i < kTaps) sums[i] += window.at(k - i) * values;
        }
        for (int i = 0; i < kBlurRows; ++i) sums[i].store(row(map, i) + kRadius + x);
    }
    /// The batch at x of a row, blurred along x, too. Two sums halve the latency.
    B blurred(const Window<T>& window, int map, int i, int x) const {
        const T* p = rows_.data() + (map * kBlurRows + i) * row_size_ + x;
        B even = window.at(0) * B::load(p), odd = window.at(1) * B::load(p + 1);
        for (int k = 2; k < kTaps; k += 2) even += window.at(k) * B::load(p + k);
        for (int k = 3; k < kTaps; k += 2) odd += window.at(k) * B::load(p + k);
        return even + odd;
    }

  private:
    T* row(int map, int i) { return rows_.data() + (map * kBlurRows + i) * row_size_; }

    int row_size_;
    std::vector<T> rows_;
};

/// Rows of image (x) and photo (y), masked, each padded with zeros to whole batches.
template <class T> struct RowPairs {
    int stride;
    std::vector<T> x, y;
    RowPairs(int num_rows, int stride) : stride(stride), x(num_rows * stride), y(num_rows * stride) {}
    void read(const LossInput<T>& in, int channel, int row, int index) {
        const int64_t at = (int64_t(channel) * in.height + row) * in.width;
        T *to_x = x.data() + index * stride, *to_y = y.data() + index * stride;
        std::copy_n(in.image + at, in.width, to_x);
        if (in.photo)
            std::copy_n(in.photo + at, in.width, to_y);
        else
            for (int i = 0; i < in.width; ++i) to_y[i] = from_byte<T>(in.photo_bytes[at + i]);
        if (!in.mask) return;
        const bool* mask = in.mask + int64_t(row) * in.width;
        for (int i = 0; i < in.width; ++i) {
            to_x[i] = mask[i] ? to_x[i] : T(0);
            to_y[i] = mask[i] ? to_y[i] : T(0);
        }
    }
};

/// The sums of one band. The total adds them in the order of the bands.
struct BandSums { double l1 = 0, ssim = 0; };

/// Rows of a channel.
struct Band { int channel, begin, end; };

/// dL/d(window means of x, x^2, xy) of a channel; around its rows are rows of zeros, so that a window fits around each.
template <class T> struct MeansGradient {
    T* data;
    int64_t map_size;
    int stride;

    static int64_t map_size_of(int height, int stride) {
        return int64_t(round_up(height, kBlurRows) + 2 * kRadius) * stride;
    }
    T* row(int map, int row) const { return data + map * map_size + int64_t(row + kRadius) * stride; }
    void zero_around(int height) const {
        for (int map = 0; map < 3; ++map) {
            std::fill(row(map, -kRadius), row(map, 0), T(0));
            std::fill(row(map, height), row(map, 0) - kRadius * stride + map_size, T(0));
        }
    }
};

/// The sums of a band. Writes its rows of `gradient` unless its data is null.
template <class T>
BandSums measure_band(const LossInput<T>& in, const Window<T>& window, const Band& band, T v_ssim,
                      const MeansGradient<T>& gradient) {
    using B = Batch<T>;
    const int stride = gradient.stride;
    RowPairs<T> pairs(kBandRows + 2 * kRadius, stride);  // from kRadius above the band; zero outside the image
    const int input_begin = band.begin - kRadius;
    for (int row = std::max(0, input_begin); row < std::min(in.height, band.end + kRadius); ++row)
        pairs.read(in, band.channel, row, row - input_begin);
    BlurredRows<T, 4> means(stride);
    BandSums sums;
    B lane;
    for (int i = 0; i < kLanes<T>; ++i) lane.set(i, T(i));
    for (int row = band.begin; row < band.end; row += kBlurRows) {
        const int num_rows = std::min(kBlurRows, band.end - row), input = (row - band.begin) * stride;
        B l1[kBlurRows] = {}, similarity[kBlurRows] = {};
        for (int i = 0; i < stride; i += kLanes<T>) {
            const auto x = [&](int k) { return B::load(pairs.x.data() + input + k * stride + i); };
            const auto y = [&](int k) { return B::load(pairs.y.data() + input + k * stride + i); };
            means.blur_column(window, 0, i, x);
            means.blur_column(window, 1, i, y);
            means.blur_column(window, 2, i, [&](int k) { return x(k) * x(k) + y(k) * y(k); });
            means.blur_column(window, 3, i, [&](int k) { return x(k) * y(k); });
            for (int r = 0; r < num_rows; ++r) l1[r] += abs(x(kRadius + r) - y(kRadius + r));
        }
        for (int r = 0; r < num_rows; ++r) {
            const bool counts = row + r >= in.margin && row + r < in.height - in.margin;
            for (int i = 0; i < stride; i += kLanes<T>) {
                const WindowMeans<B> m{means.blurred(window, 0, r, i), means.blurred(window, 1, r, i),
                                       means.blurred(window, 2, r, i), means.blurred(window, 3, r, i)};
                const Mask<T> inside = (lane >= B(in.margin - i)) & (lane < B(in.width - in.margin - i));
                if (counts) similarity[r] += select(inside, ssim(m), B(0));
                if (!gradient.data) continue;
                const WindowGradient<B> g = ssim_vjp(m, select(inside, B(counts ? v_ssim : 0), B(0)));
                g.x.store(gradient.row(0, row + r) + i);
                g.xx.store(gradient.row(1, row + r) + i);
                g.xy.store(gradient.row(2, row + r) + i);
            }
            sums.l1 += sum(l1[r]);
            sums.ssim += sum(similarity[r]);
        }
    }
    return sums;
}

/// Writes dL/dimage of a band.
template <class T>
void pull_back_band(const LossInput<T>& in, const Window<T>& window, const Band& band, T v_l1,
                    const MeansGradient<T>& gradient, T* v_image) {
    using B = Batch<T>;
    const int stride = gradient.stride;
    BlurredRows<T, 3> blurred(stride);
    RowPairs<T> pairs(kBlurRows, stride);
    for (int row = band.begin; row < band.end; row += kBlurRows) {
        const int num_rows = std::min(kBlurRows, band.end - row);
        for (int i = 0; i < stride; i += kLanes<T>)
            for (int map = 0; map < 3; ++map) {
                const T* input = gradient.row(map, row - kRadius) + i;
                blurred.blur_column(window, map, i, [&](int k) { return B::load(input + k * stride); });
            }
        for (int r = 0; r < num_rows; ++r) {
            pairs.read(in, band.channel, row + r, r);
            T* out = v_image + (int64_t(band.channel) * in.height + row + r) * in.width;
            for (int i = 0; i < stride; i += kLanes<T>) {
                const B x = B::load(pairs.x.data() + r * stride + i), y = B::load(pairs.y.data() + r * stride + i);
                const WindowGradient<B> v{blurred.blurred(window, 0, r, i), blurred.blurred(window, 1, r, i),
                                          blurred.blurred(window, 2, r, i)};
                const B v_x = loss_terms_vjp(x, y, B(v_l1), v);
                std::memcpy(out + i, &v_x, sizeof(T) * std::min(kLanes<T>, in.width - i));
            }
            if (!in.mask) continue;
            const bool* mask = in.mask + int64_t(row + r) * in.width;
            for (int i = 0; i < in.width; ++i) out[i] = mask[i] ? out[i] : T(0);
        }
    }
}

}  // namespace

template <class T> LossOutput<T> photometric_loss(const LossInput<T>& in, T* v_image) {
    const Window<T> window;
    const int stride = round_up(in.width, kLanes<T>);
    const int64_t map_size = MeansGradient<T>::map_size_of(in.height, stride);
    const int num_bands = (in.height + kBandRows - 1) / kBandRows;
    const MixedLossGradient v = mixed_loss_vjp(in.ssim_weight);
    const T v_l1 = T(v.l1 / in.num_values()), v_ssim = T(v.ssim / in.num_similarities());
    Buffer<T> gradients(v_image ? 3 * in.channels * map_size : 0);
    const auto gradient_of = [&](int channel) -> MeansGradient<T> {
        return {v_image ? gradients.data() + 3 * map_size * channel : nullptr, map_size, stride};
    };
    const int64_t all_bands = int64_t(in.channels) * num_bands;
    std::vector<BandSums> sums(all_bands);
    Team team(in.num_threads);
    const auto band_of = [&](int64_t i) -> Band {
        const int begin = static_cast<int>(i % num_bands) * kBandRows;
        return {static_cast<int>(i / num_bands), begin, std::min(in.height, begin + kBandRows)};
    };
    team.for_each(all_bands, [&](int64_t i) {
        const Band band = band_of(i);
        sums[i] = measure_band(in, window, band, v_ssim, gradient_of(band.channel));
    });
    if (v_image) {
        for (int channel = 0; channel < in.channels; ++channel) gradient_of(channel).zero_around(in.height);
        team.for_each(all_bands, [&](int64_t i) {
            const Band band = band_of(i);
            pull_back_band(in, window, band, v_l1, gradient_of(band.channel), v_image);
        });
    }
    BandSums total;
    for (const BandSums& band : sums) {
        total.l1 += band.l1;
        total.ssim += band.ssim;
    }
    const double l1 = total.l1 / in.num_values(), similarity = total.ssim / in.num_similarities();
    return {T(mixed_loss(in.ssim_weight, l1, similarity)), T(l1), T(similarity)};
}

template LossOutput<float> photometric_loss(const LossInput<float>&, float*);
template LossOutput<double> photometric_loss(const LossInput<double>&, double*);

}  // namespace dgr
