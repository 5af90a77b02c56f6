// The scene and the parts of a training step that the benchmarks in C++ run on the CPU engine, without Python.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "cpu_clock.h"
#include "cpu_tiles.h"

using namespace dgr;

namespace {

struct Header { int64_t count, num_rest, sh_degree, width, height; };

struct Case {
    Header header;
    View<float> view{};
    Options options;
    std::vector<float> means, quats, log_scales, opacity_logits, sh_dc, sh_rest;
    std::vector<uint8_t> photo;

    explicit Case(const char* path) {
        std::ifstream file(path, std::ios::binary);
        const auto read = [&](void* to, size_t bytes) { file.read(static_cast<char*>(to), bytes); };
        const auto read_array = [&](auto& array, int64_t size) {
            array.resize(size);
            read(array.data(), size * sizeof(array[0]));
        };
        read(&header, sizeof(header));
        float lens[4], m[16];
        read(lens, sizeof(lens));
        read(m, sizeof(m));
        view.width = static_cast<int>(header.width), view.height = static_cast<int>(header.height);
        Pinhole<float>& c = view.camera;
        c.fx = lens[0], c.fy = lens[1], c.cx = lens[2], c.cy = lens[3];
        c.rotation = {{m[0], m[1], m[2]}, {m[4], m[5], m[6]}, {m[8], m[9], m[10]}};
        c.translation = {m[3], m[7], m[11]};
        c.centre = -1.0f * transposed_times(c.rotation, c.translation);
        const float border_x = Limits::border * view.width, border_y = Limits::border * view.height;
        c.ratio_min = {(-border_x - c.cx) / c.fx, (-border_y - c.cy) / c.fy};
        c.ratio_max = {(view.width + border_x - c.cx) / c.fx, (view.height + border_y - c.cy) / c.fy};
        options.sh_degree = static_cast<int>(header.sh_degree);
        const int64_t n = header.count;
        read_array(means, 3 * n), read_array(quats, 4 * n), read_array(log_scales, 3 * n), read_array(opacity_logits, n);
        read_array(sh_dc, 3 * n), read_array(sh_rest, 3 * header.num_rest * n);
        read_array(photo, 3 * header.width * header.height);
        if (!file) {
            std::fprintf(stderr, "%s is not a scene\n", path);
            std::exit(1);
        }
    }
    Gaussians<float> gaussians() const {
        return {header.count, means.data(), quats.data(),   log_scales.data(), nullptr,
                opacity_logits.data(), sh_dc.data(), sh_rest.data(), nullptr, static_cast<int>(header.num_rest),
                {.log_scales = true, .opacity_logits = true}};
    }
    int64_t num_pixels() const { return header.width * header.height; }
};

/// What the parts read and write.
struct Arrays {
    const Case& scene;
    std::vector<float> image, transmittance, v_image, weights, weighted, total, distance, moments, ones;
    std::vector<float> v_means, v_quats, v_log_scales, v_opacity_logits, v_sh_dc, v_sh_rest, abs_grad, seen;
    std::vector<int32_t> num_pixels, num_weighted, num_gaussians;
    Frame<float> frame;
    Buffer<SplatGradient<float>> slots;
    LossOutput<float> loss{};
    int64_t step = 0;

    explicit Arrays(const Case& s) : scene(s), slots(0) {
        const int64_t n = s.header.count, pixels = s.num_pixels();
        image.resize(3 * pixels), v_image.resize(3 * pixels), transmittance.resize(pixels);
        weights.assign(pixels, 1), num_gaussians.resize(pixels);
        weighted.resize(n), total.resize(n), distance.resize(n), num_pixels.resize(n), num_weighted.resize(n);
        abs_grad.resize(n), seen.resize(n);
        v_means.resize(3 * n), v_quats.resize(4 * n), v_log_scales.resize(3 * n), v_opacity_logits.resize(n);
        v_sh_dc.resize(3 * n), v_sh_rest.resize(s.sh_rest.size());
        moments.resize(2 * (s.sh_rest.size() + 14 * n));
    }
    Images<float> images() { return {image.data(), transmittance.data(), nullptr}; }
    Gradients<float> gradients(bool with_stats) {
        return {v_means.data(), v_quats.data(),   v_log_scales.data(),  nullptr, v_opacity_logits.data(),
                v_sh_dc.data(), v_sh_rest.data(), nullptr,          nullptr, with_stats ? abs_grad.data() : nullptr,
                with_stats ? seen.data() : nullptr};
    }
};

}  // namespace

#define PART extern "C" __attribute__((noinline)) void

PART part_project(Arrays& a) {
    Team team(1);
    Frame<float> frame;
    frame.view = a.scene.view, frame.options = a.scene.options;
    frame.splats = Buffer<Splat<float>>(a.scene.header.count);
    frame.radius_px = Buffer<int32_t>(a.scene.header.count);
    Buffer<float> depth(a.scene.header.count);
    project(team, a.scene.gaussians(), frame, depth.data());
}
PART part_plan(Arrays& a) {
    Team team(1);
    plan_frame(team, a.scene.gaussians(), a.scene.view, a.scene.options);
}
PART part_forward(Arrays& a) { a.frame = forward(a.scene.gaussians(), a.scene.view, a.scene.options, a.images()); }
PART part_loss(Arrays& a) {
    const LossInput<float> input{3, a.scene.view.width, a.scene.view.height, 0, a.image.data(), nullptr,
                                 a.scene.photo.data(), nullptr, 0.2, 1};
    a.loss = photometric_loss(input, a.v_image.data());
}
PART part_project_backward(Arrays& a) {
    Team team(1);
    project_backward(team, a.frame, a.scene.gaussians(), a.slots, a.gradients(false));
}
PART part_backward(Arrays& a) {
    const Images<const float> images{a.image.data(), a.transmittance.data(), nullptr};
    backward(a.frame, a.scene.gaussians(), images, {a.v_image.data(), nullptr, nullptr}, a.gradients(false));
}
PART part_backward_with_stats(Arrays& a) {
    const Images<const float> images{a.image.data(), a.transmittance.data(), nullptr};
    backward(a.frame, a.scene.gaussians(), images, {a.v_image.data(), nullptr, nullptr}, a.gradients(true));
}
PART part_importance(Arrays& a) {
    importance(a.scene.gaussians(), a.scene.view, a.scene.options, a.weights.data(),
               {a.weighted.data(), a.total.data(), a.distance.data(), a.num_pixels.data(), a.num_weighted.data(),
                a.num_gaussians.data()});
}
PART part_add_gradients(Arrays& a) {
    std::vector<GradientSum> gradients;
    for (std::vector<float>* each : {&a.v_means, &a.v_quats, &a.v_log_scales, &a.v_opacity_logits, &a.v_sh_dc, &a.v_sh_rest})
        gradients.push_back({each->data(), nullptr, static_cast<int64_t>(each->size()), each != &a.v_sh_rest});
    bool usable;
    add_gradients(gradients.data(), static_cast<int>(gradients.size()), &a.loss.loss, 1e30f, &usable, 1);
}
PART part_adam(Arrays& a) {
    Case& scene = const_cast<Case&>(a.scene);
    std::vector<AdamStep> steps;
    float* moments = a.moments.data();
    ++a.step;
    const auto add = [&](std::vector<float>& values, const std::vector<float>& gradient) {
        const auto size = static_cast<int64_t>(values.size()), n = scene.header.count;
        steps.push_back({values.data(), gradient.data(), moments, moments + size, n, static_cast<int>(size / n), 0.0,
                         0.9, 0.999, 1e-15, a.step});
        moments += 2 * size;
    };
    add(scene.means, a.v_means), add(scene.quats, a.v_quats), add(scene.log_scales, a.v_log_scales);
    add(scene.opacity_logits, a.v_opacity_logits), add(scene.sh_dc, a.v_sh_dc), add(scene.sh_rest, a.v_sh_rest);
    adam(steps.data(), static_cast<int>(steps.size()), nullptr, 1);
}
