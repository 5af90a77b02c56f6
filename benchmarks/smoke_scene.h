// Scenes of smoke.cu, from a seed.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "projection.h"
#include "tiles.h"

namespace smoke {

using namespace dgr;

/// splitmix64 [Steele et al. 2014].
struct Random {
    uint64_t state;
    uint64_t bits() {
        uint64_t z = state += 0x9e3779b97f4a7c15ull;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        return z ^ z >> 31;
    }
    float between(float low, float high) { return low + (high - low) * static_cast<float>(bits() >> 40) / (1 << 24); }
    std::vector<float> array(int64_t count, float low, float high) {
        std::vector<float> values(count);
        for (float& value : values) value = between(low, high);
        return values;
    }
};

/// A camera at the origin that looks along z.
inline View<float> make_view(int width, int height) {
    View<float> view{};
    view.width = width, view.height = height, view.background = {0.1f, 0.2f, 0.3f};
    const auto focal = 0.9f * static_cast<float>(width > height ? width : height);
    const auto w = static_cast<float>(width), h = static_cast<float>(height), border = static_cast<float>(Limits::border);
    Pinhole<float>& c = view.camera;
    c.fx = c.fy = focal, c.cx = w / 2, c.cy = h / 2;
    c.rotation = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
    c.ratio_min = {(-border * w - c.cx) / focal, (-border * h - c.cy) / focal};
    c.ratio_max = {((1 + border) * w - c.cx) / focal, ((1 + border) * h - c.cy) / focal};
    return view;
}

/// Gaussians with SH of degree 3, a view of them, and gradients of the three outputs.
struct Scene {
    static constexpr int kRest = sh_rest_count(Limits::sh_degree_max);
    View<float> view;
    std::vector<float> means, quats, scales, opacities, sh_dc, sh_rest, v_image, v_transmittance, v_inverse_depth, weights;

    int64_t count() const { return static_cast<int64_t>(opacities.size()); }
    int64_t pixels() const { return int64_t(view.width) * view.height; }

    Scene(int width, int height) : view(make_view(width, height)) {}
    void add(Vec3<float> mean, Quat<float> quat, Vec3<float> scale, float opacity) {
        means.insert(means.end(), {mean.x, mean.y, mean.z});
        quats.insert(quats.end(), {quat.w, quat.x, quat.y, quat.z});
        scales.insert(scales.end(), {scale.x, scale.y, scale.z});
        opacities.push_back(opacity);
    }
    /// Colours, and the gradients.
    void finish(Random& random) {
        sh_dc = random.array(3 * count(), -1.5f, 1.5f), sh_rest = random.array(3 * kRest * count(), -0.2f, 0.2f);
        v_image = random.array(3 * pixels(), -1, 1), v_transmittance = random.array(pixels(), -1, 1);
        v_inverse_depth = random.array(pixels(), -1, 1), weights = random.array(pixels(), 0, 1);
    }
};

inline Quat<float> any_rotation(Random& r) {
    return {r.between(-1, 1), r.between(-1, 1), r.between(-1, 1), r.between(0.1f, 1)};
}

/// Gaussians of all sizes, some of them beside the view or behind the camera. scale: of all sizes; opacity: the largest.
inline Scene crowd(int64_t count, int width, int height, float scale, float opacity = 1) {
    Random random{1};
    Scene scene(width, height);
    const Pinhole<float>& c = scene.view.camera;
    for (int64_t i = 0; i < count; ++i) {
        const float z = random.between(-0.3f, 6), depth = std::abs(z) < 0.3f ? 0.3f : std::abs(z);
        const float x = random.between(-0.7f, 0.7f) * c.cx * 2 / c.fx, y = random.between(-0.7f, 0.7f) * c.cy * 2 / c.fy;
        Vec3<float> size;
        for (float* side : {&size.x, &size.y, &size.z}) *side = scale * depth * std::exp(random.between(-5, -1.5f));
        scene.add({x * depth, y * depth, z}, any_rotation(random), size, random.between(0, opacity));
    }
    scene.finish(random);
    return scene;
}

/// Small Gaussians on a wavy wall that fills the view.
inline Scene wall(int64_t count, int width, int height) {
    Random random{2};
    Scene scene(width, height);
    const Pinhole<float>& c = scene.view.camera;
    for (int64_t i = 0; i < count; ++i) {
        const float u = random.between(-0.5f, 0.5f), v = random.between(-0.5f, 0.5f);
        const float z = 4 + std::sin(6 * u) * std::cos(5 * v) + random.between(0, 0.1f);
        const float size = z * std::sqrt(static_cast<float>(scene.pixels() / count)) / c.fx;
        scene.add({u * 2 * c.cx / c.fx * z, v * 2 * c.cy / c.fy * z, z}, any_rotation(random),
                  {size, size * random.between(0.3f, 1), size * random.between(0.3f, 1)}, random.between(0.1f, 0.9f));
    }
    scene.finish(random);
    return scene;
}

/// The number of tiles of the last Gaussian that was added.
inline int tiles_of_last(const Scene& scene) {
    const auto last = static_cast<size_t>(scene.count() - 1);
    const float *mean = &scene.means[3 * last], *quat = &scene.quats[4 * last], *scale = &scene.scales[3 * last];
    const GaussianShape<float> shape{
        false, {quat[0], quat[1], quat[2], quat[3]}, {scale[0], scale[1], scale[2]}, {}};
    const Projection<float> p = project_gaussian(scene.view.camera, false, {}, {mean[0], mean[1], mean[2]}, shape,
                                                 scene.opacities[last]);
    const Splat<float> splat = make_splat(scene.view.camera, scene.view.width, scene.view.height, p).splat;
    const TileBox box = tile_box(scene.view, splat);
    int count = 0;
    for (int y = box.y_begin; y < box.y_end; ++y) {
        const TileSpan span = tile_span(scene.view, splat, box, y);
        count += span.end - span.begin;
    }
    return count;
}

/// Gaussians at the edges of tiles: where a step of the last bits of their x gives another number of tiles. Kernels that
/// round differently count differently there. kCopies neighbouring numbers of x for each of `shapes`.
inline Scene edges(int shapes, int width, int height) {
    constexpr int kCopies = 20, kStep = 3;  // kStep: in units of the last bit, that move the mean by one in px
    Random random{3};
    Scene scene(width, height);
    const Pinhole<float>& c = scene.view.camera;
    for (int i = 0; i < shapes; ++i) {
        const float z = random.between(3, 5), pixel = z / c.fx;
        const float wide = (i % 8 == 0 ? 40.0f : 7.0f) * pixel;  // with more than 64 tiles, or fewer
        const float y = random.between(-0.4f, 0.4f) * 2 * c.cy * pixel;
        float low = random.between(-0.4f, 0.3f) * 2 * c.cx * pixel, high = low + 20 * pixel;
        const Quat<float> turn{std::cos(random.between(0.2f, 1.3f)), 0, 0, 0.6f};
        const auto add = [&](float x) { scene.add({x, y, z}, turn, {wide, wide / 4, wide / 4}, 0.3f); };
        const auto tiles_at = [&](float x) {
            add(x);
            const int tiles = tiles_of_last(scene);
            for (auto* rows : {&scene.means, &scene.scales}) rows->resize(rows->size() - 3);
            scene.quats.resize(scene.quats.size() - 4), scene.opacities.pop_back();
            return tiles;
        };
        const int tiles = tiles_at(low);
        while (std::nextafter(low, high) < high) {
            const float middle = low + (high - low) / 2;
            if (middle <= low || middle >= high) break;
            (tiles_at(middle) == tiles ? low : high) = middle;
        }
        for (int k = 0; k < kStep * kCopies / 2; ++k) low = std::nextafter(low, low - 1);
        for (int k = 0; k < kStep * kCopies; ++k, low = std::nextafter(low, low + 1))
            if (k % kStep == 0) add(low);
    }
    scene.finish(random);
    return scene;
}

}  // namespace smoke
