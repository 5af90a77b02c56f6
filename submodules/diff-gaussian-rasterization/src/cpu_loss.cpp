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
constexpr int kBlurRows = 4;  // output rows of blur_columns; divides kBandRows

template <class T> struct Window {
    WindowWeights<T> weights = window_weights<T>();
    /// Each half of the symmetric window has the same weights, which the compiler cannot know.
    Batch<T> at(int k) const { return weights.at[k <= kRadius ? k : kTaps - 1 - k]; }
};

constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

/// A row of `width` samples with zeros on both sides, so that a window fits around each sample of its whole batches.
template <class T> class PaddedRow {
  public:
    explicit PaddedRow(int width) : samples_(round_up(width, kLanes<T>) + 2 * kRadius) {}
    T* data() { return samples_.data() + kRadius; }
    /// The weighted sum of the window around each sample of the batch at x. Two sums halve the latency.
    Batch<T> blurred(const Window<T>& window, int x) const {
        using B = Batch<T>;
        const T* p = samples_.data() + x;
        B even = window.at(0) * B::load(p), odd = window.at(1) * B::load(p + 1);
        for (int k = 2; k < kTaps; k += 2) even += window.at(k) * B::load(p + k);
        for (int k = 3; k < kTaps; k += 2) odd += window.at(k) * B::load(p + k);
        return even + odd;
    }

  private:
    std::vector<T> samples_;
};

/// `maps` signals of the rows of a band and of kRadius rows above and below, blurred along x. Rows outside the image
/// are zero. A row is padded to whole batches.
template <class T> class BlurredRows {
  public:
    BlurredRows(int maps, int width)
        : stride_(round_up(width, kLanes<T>)),
          map_size_(int64_t(kBandRows + 2 * kRadius) * stride_),
          rows_(maps * map_size_) {}
    void blur_row(const Window<T>& window, const PaddedRow<T>& input, int map, int row) {
        T* out = at(map, row);
        for (int x = 0; x < stride_; x += kLanes<T>) input.blurred(window, x).store(out + x);
    }
    void zero_row(int map, int row) { std::fill_n(at(map, row), stride_, T(0)); }
    /// The batches at column x of kBlurRows rows of the band, blurred along x and y. A row that is loaded once adds to
    /// several sums.
    void blur_columns(const Window<T>& window, int map, int row, int x, Batch<T> (&sums)[kBlurRows]) const {
        using B = Batch<T>;
        const T* p = rows_.data() + map * map_size_ + int64_t(row) * stride_ + x;
        for (B& sum : sums) sum = B(0);
#pragma GCC unroll 16
        for (int k = 0; k < kTaps + kBlurRows - 1; ++k) {
            const B input = B::load(p + k * stride_);
#pragma GCC unroll 4
            for (int i = 0; i < kBlurRows; ++i)
                if (k - i >= 0 && k - i < kTaps) sums[i] += window.at(k - i) * input;
        }
    }

  private:
    T* at(int map, int row) { return rows_.data() + map * map_size_ + int64_t(row) * stride_; }

    int stride_;
    int64_t map_size_;
    Buffer<T> rows_;
};

/// One masked row of the image (x) and of the photo (y).
template <class T> struct RowPair {
    PaddedRow<T> x, y;
    explicit RowPair(int width) : x(width), y(width) {}
    void read(const LossInput<T>& in, int channel, int row) {
        const int64_t at = (int64_t(channel) * in.height + row) * in.width;
        T *to_x = x.data(), *to_y = y.data();
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

/// The rows of a band and what is around them in its channel.
struct Band {
    int channel, begin, end;
    /// The end of the rows that blur_columns reads.
    int input_end() const { return begin + round_up(end - begin, kBlurRows) + kRadius; }
};

/// The sums of a band. Writes dL/d(window means of x, x^2, xy) to `gradients`, 3 maps of (H, stride).
template <class T>
BandSums measure_band(const LossInput<T>& in, const Window<T>& window, const Band& band, T v_ssim, T* gradients,
                      int64_t map_size, int stride) {
    using B = Batch<T>;
    constexpr int kMaps = 4;
    BlurredRows<T> means(kMaps, in.width);
    RowPair<T> pair(in.width);
    PaddedRow<T> squares(in.width), products(in.width);
    BandSums sums;
    for (int row = band.begin - kRadius; row < band.input_end(); ++row) {
        const int local = row - band.begin + kRadius;
        if (row < 0 || row >= in.height) {
            for (int map = 0; map < kMaps; ++map) means.zero_row(map, local);
            continue;
        }
        pair.read(in, band.channel, row);
        B l1(0);
        for (int i = 0; i < stride; i += kLanes<T>) {
            const B x = B::load(pair.x.data() + i), y = B::load(pair.y.data() + i);
            (x * x + y * y).store(squares.data() + i);
            (x * y).store(products.data() + i);
            l1 += abs(x - y);
        }
        const PaddedRow<T>* inputs[kMaps] = {&pair.x, &pair.y, &squares, &products};
        for (int map = 0; map < kMaps; ++map) means.blur_row(window, *inputs[map], map, local);
        if (row >= band.begin && row < band.end) sums.l1 += sum(l1);
    }
    B lane;
    for (int i = 0; i < kLanes<T>; ++i) lane.set(i, T(i));
    for (int row = band.begin; row < band.end; row += kBlurRows) {
        const int num_rows = std::min(kBlurRows, band.end - row);
        const int first_row = in.margin - row, end_row = in.height - in.margin - row;  // of those that count
        B row_sums[kBlurRows] = {};
        for (int i = 0; i < stride; i += kLanes<T>) {
            B blurred[kMaps][kBlurRows];
            for (int map = 0; map < kMaps; ++map)
                means.blur_columns(window, map, row - band.begin, i, blurred[map]);
            const Mask<T> inside = (lane >= B(in.margin - i)) & (lane < B(in.width - in.margin - i));
            for (int r = 0; r < num_rows; ++r) {
                const WindowMeans<B> m{blurred[0][r], blurred[1][r], blurred[2][r], blurred[3][r]};
                const bool counts = r >= first_row && r < end_row;
                if (counts) row_sums[r] += select(inside, ssim(m), B(0));
                if (!gradients) continue;
                const WindowGradient<B> g = ssim_vjp(m, select(inside, B(counts ? v_ssim : 0), B(0)));
                T* out = gradients + int64_t(row + r) * stride + i;
                g.x.store(out);
                g.xx.store(out + map_size);
                g.xy.store(out + 2 * map_size);
            }
        }
        for (int r = 0; r < num_rows; ++r) sums.ssim += sum(row_sums[r]);
    }
    return sums;
}

/// Writes dL/dimage of a band.
template <class T>
void pull_back_band(const LossInput<T>& in, const Window<T>& window, const Band& band, T v_l1, const T* gradients,
                    int64_t map_size, int stride, T* v_image) {
    using B = Batch<T>;
    constexpr int kMaps = 3;
    BlurredRows<T> blurred(kMaps, in.width);
    PaddedRow<T> input(in.width);
    for (int row = band.begin - kRadius; row < band.input_end(); ++row) {
        const int local = row - band.begin + kRadius;
        for (int map = 0; map < kMaps; ++map) {
            if (row < 0 || row >= in.height) {
                blurred.zero_row(map, local);
                continue;
            }
            std::copy_n(gradients + map * map_size + int64_t(row) * stride, in.width, input.data());
            blurred.blur_row(window, input, map, local);
        }
    }
    std::vector<RowPair<T>> pairs(kBlurRows, RowPair<T>(in.width));
    for (int row = band.begin; row < band.end; row += kBlurRows) {
        const int num_rows = std::min(kBlurRows, band.end - row);
        for (int r = 0; r < num_rows; ++r) pairs[r].read(in, band.channel, row + r);
        T* out = v_image + (int64_t(band.channel) * in.height + row) * in.width;
        for (int i = 0; i < stride; i += kLanes<T>) {
            B v[kMaps][kBlurRows];
            for (int map = 0; map < kMaps; ++map) blurred.blur_columns(window, map, row - band.begin, i, v[map]);
            const size_t inside = sizeof(T) * std::min(kLanes<T>, in.width - i);
            for (int r = 0; r < num_rows; ++r) {
                const B x = B::load(pairs[r].x.data() + i), y = B::load(pairs[r].y.data() + i);
                const B v_x = loss_terms_vjp(x, y, B(v_l1), WindowGradient<B>{v[0][r], v[1][r], v[2][r]});
                if (inside == sizeof(B))
                    v_x.store(out + r * in.width + i);
                else
                    std::memcpy(out + r * in.width + i, &v_x, inside);
            }
        }
        if (!in.mask) continue;
        const bool* mask = in.mask + int64_t(row) * in.width;
        for (int i = 0; i < num_rows * in.width; ++i) out[i] = mask[i] ? out[i] : T(0);
    }
}

}  // namespace

template <class T> LossOutput<T> photometric_loss(const LossInput<T>& in, T* v_image) {
    const Window<T> window;
    const int stride = round_up(in.width, kLanes<T>);
    const int64_t map_size = int64_t(in.height) * stride;
    const int num_bands = (in.height + kBandRows - 1) / kBandRows;
    const MixedLossGradient v = mixed_loss_vjp(in.ssim_weight);
    const T v_l1 = T(v.l1 / in.num_values()), v_ssim = T(v.ssim / in.num_similarities());
    Buffer<T> gradients(v_image ? 3 * in.channels * map_size : 0);
    const auto gradients_of = [&](int channel) {
        return v_image ? gradients.data() + 3 * map_size * channel : nullptr;
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
        sums[i] = measure_band(in, window, band, v_ssim, gradients_of(band.channel), map_size, stride);
    });
    if (v_image) {
        team.for_each(all_bands, [&](int64_t i) {
            const Band band = band_of(i);
            pull_back_band(in, window, band, v_l1, gradients_of(band.channel), map_size, stride, v_image);
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
