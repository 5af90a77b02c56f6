// A scene from the fuzzer's bytes: an ordinary one, drawn at random from a seed, in which the rest of the bytes set
// single numbers or whole columns to anything. What the bindings check (checks.h, binding.cpp) holds of every scene.
#pragma once

#include <algorithm>
#include <vector>

#include "bytes.h"
#include "engine.h"

namespace fuzz {

using namespace dgr;

/// Numbers of one kind: rows of so many. Exactly as long as it says, so that AddressSanitizer sees one read too many.
template <class T> struct Rows {
    int width = 0;
    std::vector<T> values;
    const T* data() const { return values.empty() ? nullptr : values.data(); }
    void fill(int64_t count, int columns, double low, double high, Random& random) {
        width = columns;
        values = std::vector<T>(count * columns);
        for (T& value : values) value = static_cast<T>(random.between(low, high));
    }
    /// Sets the number at an index, or its column in all rows.
    void set(uint32_t index, bool column, double number) {
        if (values.empty()) return;
        const size_t at = index % values.size();
        if (!column) values[at] = static_cast<T>(number);
        for (size_t i = at % width; column && i < values.size(); i += width) values[i] = static_cast<T>(number);
    }
    bool is_finite(int64_t row, int columns) const {
        const auto begin = values.begin() + row * width;
        return std::all_of(begin, begin + columns, [](T value) { return std::isfinite(value); });
    }
    bool is_within(T low, T high) const {
        return std::all_of(values.begin(), values.end(), [=](T value) { return low <= value && value <= high; });
    }
};

/// The camera as Python gives it: focal lengths and principal point in double precision, the rest as T.
template <class T> struct CameraArgs {
    double pinhole[4];  // fx fy cx cy
    Rows<T> matrix, background;  // 3x4, 3
};

template <class T> struct FuzzScene {
    Options options;
    int64_t count = 0;
    View<T> view{};
    CameraArgs<T> camera;
    Rows<T> means, quats, scales, covariances, opacities, sh_dc, sh_rest, colors;
    Rows<T> v_image, v_transmittance, v_inverse_depth;  // gradients that arrive; pixel weights are the second
    bool has_covariances = false, has_colors = false, has_inverse_depth = false;
    int gradients = 0;  // bits: which pictures have one, and which are asked for

    explicit FuzzScene(Bytes& bytes);
    Gaussians<T> gaussians(bool with_color) const;
    int num_used_rest() const { return (options.sh_degree + 1) * (options.sh_degree + 1) - 1; }
    int64_t num_pixels() const { return int64_t(view.width) * view.height; }
    /// Has every number of a Gaussian that is read a finite value, and its quaternion a length?
    bool is_sound(int64_t row) const;
    /// Are all numbers of a size that a training could come to? Then all that comes out is finite, too.
    bool is_tame() const;

  private:
    void read_size(Bytes& bytes);
    void draw(Random& random);
    void edit(Bytes& bytes);
    void finish_view();
    std::vector<Rows<T>*> all_rows() {
        return {&means,  &quats,   &scales, &covariances,   &opacities, &sh_dc,
                &sh_rest, &colors, &v_image, &v_transmittance, &v_inverse_depth, &camera.matrix, &camera.background};
    }
};

template <class T> FuzzScene<T>::FuzzScene(Bytes& bytes) {
    constexpr int kThreads[] = {1, 1, 2, 3, 8};
    const int choice = bytes.byte();
    options.antialiased = choice & 1;
    has_covariances = choice & 2;
    has_colors = choice & 4;
    has_inverse_depth = choice & 8;
    options.sh_degree = (choice >> 4) & 3;
    options.num_threads = kThreads[bytes.below(5)];
    gradients = static_cast<int>(bytes.word(2));
    read_size(bytes);
    const int more = bytes.byte();
    count = more < 250 ? more % 20 : 200 + 20 * (more - 250);  // the engine's chunks have 256
    Random random(bytes.word(2));
    draw(random);
    edit(bytes);
    finish_view();
}

template <class T> void FuzzScene<T>::read_size(Bytes& bytes) {
    const int kind = bytes.below(8);
    const int a = 1 + static_cast<int>(bytes.word(2)), b = 1 + bytes.byte();
    view.width = kind == 6 ? a : kind == 7 ? 1 + b % 3 : 1 + a % 40;
    view.height = kind == 7 ? a : kind == 6 ? 1 + b % 3 : 1 + b % 40;
}

template <class T> void FuzzScene<T>::draw(Random& random) {
    const double size = std::max(view.width, view.height);
    const double pinhole[] = {0.8 * size, 0.9 * size, 0.45 * view.width, 0.6 * view.height};
    std::copy_n(pinhole, 4, camera.pinhole);
    camera.matrix.fill(3, 4, -0.2, 0.2, random);
    for (int i = 0; i < 3; ++i) camera.matrix.values[5 * i] += 1;
    camera.background.fill(1, 3, 0, 1, random);
    means.fill(count, 3, -1, 1, random);
    for (int64_t n = 0; n < count; ++n) means.values[3 * n + 2] = static_cast<T>(random.between(-0.2, 5));
    if (has_covariances) {
        covariances.fill(count, 6, -0.002, 0.002, random);
        for (int64_t n = 0; n < count; ++n)
            for (int diagonal : {0, 3, 5}) covariances.values[6 * n + diagonal] += T(0.01);
    } else {
        quats.fill(count, 4, -1, 1, random);
        scales.fill(count, 3, 0.001, 0.3, random);
    }
    opacities.fill(count, 1, 0, 1, random);
    if (has_colors) {
        colors.fill(count, 3, 0, 1, random);
    } else {
        sh_dc.fill(count, 3, -2, 2, random);
        sh_rest.fill(count, 3 * (num_used_rest() + (gradients >> 14)), -0.4, 0.4, random);
    }
    const int columns[] = {3, 1, 1};
    Rows<T>* const arriving[] = {&v_image, &v_transmittance, &v_inverse_depth};
    for (int i = 0; i < 3; ++i) arriving[i]->fill(num_pixels(), columns[i], 0, 1, random);
}

template <class T> void FuzzScene<T>::edit(Bytes& bytes) {
    const std::vector<Rows<T>*> rows = all_rows();
    while (!bytes.empty()) {
        const int choice = bytes.byte();
        const size_t which = (choice & 127) % (rows.size() + 1);
        const uint32_t index = bytes.word(2);
        const double number = bytes.number();
        if (which < rows.size()) {
            rows[which]->set(index, choice & 128, number);
        } else if (std::isfinite(number) && (index % 4 > 1 || number > 0)) {
            camera.pinhole[index % 4] = number;
        }
    }
}

/// As make_view of binding.cpp.
template <class T> void FuzzScene<T>::finish_view() {
    const auto [fx, fy, cx, cy] = camera.pinhole;
    const T* m = camera.matrix.data();
    Pinhole<T>& c = view.camera;
    c.fx = T(fx), c.fy = T(fy), c.cx = T(cx), c.cy = T(cy);
    c.rotation = {{m[0], m[1], m[2]}, {m[4], m[5], m[6]}, {m[8], m[9], m[10]}};
    c.translation = {m[3], m[7], m[11]};
    c.centre = T(-1) * transposed_times(c.rotation, c.translation);
    const double left = -Limits::border * view.width, right = (1 + Limits::border) * view.width;
    const double top = -Limits::border * view.height, bottom = (1 + Limits::border) * view.height;
    c.ratio_min = {T((left - cx) / fx), T((top - cy) / fy)};
    c.ratio_max = {T((right - cx) / fx), T((bottom - cy) / fy)};
    const T* b = camera.background.data();
    view.background = {b[0], b[1], b[2]};
}

template <class T> Gaussians<T> FuzzScene<T>::gaussians(bool with_color) const {
    Gaussians<T> g{count, means.data(), quats.data(), scales.data(), covariances.data(), opacities.data(),
                   sh_dc.data(), sh_rest.data(), colors.data(), sh_rest.width / 3};
    // Without rows an array has no address either; which ones there are is then told by any address.
    static const T nothing{};
    const auto or_nothing = [](const T* p, bool there) { return p || !there ? p : &nothing; };
    g.covariances = or_nothing(g.covariances, has_covariances);
    g.colors = with_color ? or_nothing(g.colors, has_colors) : nullptr;
    g.sh_dc = with_color ? or_nothing(g.sh_dc, !has_colors) : nullptr;
    return g;
}

template <class T> bool FuzzScene<T>::is_sound(int64_t row) const {
    const auto is_zero = [](T value) { return value == T(0); };
    if (!means.is_finite(row, 3) || !opacities.is_finite(row, 1)) return false;
    if (has_covariances && !covariances.is_finite(row, 6)) return false;
    if (!has_covariances) {
        const auto quat = quats.values.begin() + 4 * row;
        if (!quats.is_finite(row, 4) || !scales.is_finite(row, 3) || std::all_of(quat, quat + 4, is_zero)) return false;
    }
    if (has_colors) return colors.is_finite(row, 3);
    return sh_dc.is_finite(row, 3) && sh_rest.is_finite(row, 3 * num_used_rest());
}

template <class T> bool FuzzScene<T>::is_tame() const {
    const T big(1e6);
    for (const Rows<T>* rows : {&means, &quats, &scales, &covariances, &sh_dc, &sh_rest, &colors, &v_image,
                                &v_transmittance, &v_inverse_depth, &camera.matrix, &camera.background})
        if (!rows->is_within(-big, big)) return false;
    for (double number : camera.pinhole)
        if (std::abs(number) > 1e6) return false;
    return camera.pinhole[0] > 1e-3 && camera.pinhole[1] > 1e-3 && opacities.is_within(0, 1);
}

}  // namespace fuzz
