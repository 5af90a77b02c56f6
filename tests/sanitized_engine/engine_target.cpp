// What the fuzzer runs on its bytes: the CPU engine behind the checks of its bindings, and what must hold of whatever
// comes out. The sanitizers watch the rest. Nothing here is random: the same bytes do the same again.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <tuple>

#include "fuzz_scene.h"
#include "team.h"

namespace fuzz {
namespace {

#define REQUIRE(condition) \
    do { \
        if (!(condition)) { \
            std::fprintf(stderr, "engine_target.cpp:%d: violated: %s\n", __LINE__, #condition); \
            std::abort(); \
        } \
    } while (false)

template <class T> bool all_finite(const std::vector<T>& values) {
    return std::all_of(values.begin(), values.end(), [](T value) { return std::isfinite(value); });
}
/// Are these the same bits? NaN equals NaN then.
template <class T> bool is_same(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}
/// Null for an array that is left out; one that is there has an address, though it may have no rows.
template <class T> T* address(std::vector<T>& values, bool there) { return there ? values.data() : nullptr; }

template <class T> struct Pictures {
    std::vector<T> image, transmittance, inverse_depth;
    bool operator==(const Pictures& other) const {
        return is_same(image, other.image) && is_same(transmittance, other.transmittance) &&
               is_same(inverse_depth, other.inverse_depth);
    }
};

/// All gradients by their number of columns, and the statistics.
template <class T> struct AllGradients {
    static constexpr int kKinds = 9;
    int columns[kKinds];
    std::vector<T> values[kKinds], world_to_camera;
    std::vector<float> abs_grad, seen;
    bool operator==(const AllGradients& other) const {
        for (int i = 0; i < kKinds; ++i)
            if (!is_same(values[i], other.values[i])) return false;
        return is_same(abs_grad, other.abs_grad) && is_same(seen, other.seen) &&
               is_same(world_to_camera, other.world_to_camera);
    }
};

template <class T> Frame<T> run_forward(const FuzzScene<T>& scene, const Options& options, Pictures<T>& out) {
    out.image.resize(3 * scene.num_pixels());
    out.transmittance.resize(scene.num_pixels());
    out.inverse_depth.resize(scene.has_inverse_depth ? scene.num_pixels() : 0);
    const Images<T> images{out.image.data(), out.transmittance.data(),
                           address(out.inverse_depth, scene.has_inverse_depth)};
    return forward(scene.gaussians(true), scene.view, options, images);
}

template <class T>
AllGradients<T> run_backward(const FuzzScene<T>& scene, const Frame<T>& frame, const Pictures<T>& pictures) {
    const bool shape = scene.has_covariances, color = scene.has_colors;
    const bool there[] = {true, !shape, !shape, shape, true, !color, !color, color, true};
    AllGradients<T> made{{3, 4, 3, 6, 1, 3, scene.sh_rest.width, 3, 4}, {}, std::vector<T>(16, T(-7)), {}, {}};
    T* to[AllGradients<T>::kKinds];
    for (int i = 0; i < AllGradients<T>::kKinds; ++i) {
        const bool wanted = there[i] && !(scene.gradients >> i & 1);
        made.values[i].assign(wanted ? scene.count * made.columns[i] : 0, T(-7));  // every row asked for is written
        to[i] = address(made.values[i], wanted);
    }
    const bool statistics = !(scene.gradients >> 9 & 1);
    made.abs_grad.assign(statistics ? scene.count : 0, -7.0f);
    made.seen.assign(statistics ? scene.count : 0, -7.0f);
    const Gradients<T> out{to[0], to[1], to[2], to[3], to[4], to[5], to[6], to[7], to[8],
                           address(made.abs_grad, statistics), address(made.seen, statistics),
                           made.world_to_camera.data()};
    const Images<const T> images{pictures.image.data(), pictures.transmittance.data(),
                                 scene.has_inverse_depth ? pictures.inverse_depth.data() : nullptr};
    const auto arriving = [&](const Rows<T>& rows, int bit) {
        return scene.gradients >> bit & 1 ? nullptr : rows.data();
    };
    const Images<const T> v_images{arriving(scene.v_image, 10), arriving(scene.v_transmittance, 11),
                                   scene.has_inverse_depth ? arriving(scene.v_inverse_depth, 12) : nullptr};
    backward(frame, scene.gaussians(true), images, v_images, out);
    return made;
}

template <class T> void check_pictures(const FuzzScene<T>& scene, const Frame<T>& frame, const Pictures<T>& pictures) {
    for (int64_t n = 0; n < scene.count; ++n) {
        REQUIRE(frame.radius_px[n] >= 0);
        REQUIRE(frame.radius_px[n] == 0 || scene.is_sound(n));
    }
    for (T value : pictures.transmittance) REQUIRE(value >= 0 && value <= 1);
    // Nothing nearer than the near plane is drawn, and the weights of a pixel sum to one at most.
    for (T value : pictures.inverse_depth) REQUIRE(value >= 0 && value <= T(1.001 / Limits::near));
    REQUIRE(!scene.is_tame() || all_finite(pictures.image));
}

template <class T>
void check_gradients(const FuzzScene<T>& scene, const Frame<T>& frame, const AllGradients<T>& gradients) {
    const bool is_tame = scene.is_tame();
    for (int i = 0; i < AllGradients<T>::kKinds; ++i) {
        const std::vector<T>& values = gradients.values[i];
        for (size_t at = 0; at < values.size(); ++at) {
            const int64_t n = static_cast<int64_t>(at) / gradients.columns[i];
            REQUIRE(frame.radius_px[n] > 0 || values[at] == 0);
            REQUIRE(!is_tame || std::isfinite(values[at]));
        }
    }
    for (size_t n = 0; n < gradients.seen.size(); ++n) REQUIRE(gradients.seen[n] == (frame.radius_px[n] > 0));
}

template <class T> void check_importance(const FuzzScene<T>& scene, const Options& options) {
    std::vector<T> weighted(scene.count), total(scene.count), distance(scene.count);
    std::vector<int32_t> num_pixels(scene.count), num_weighted(scene.count), num_gaussians(scene.num_pixels());
    importance(scene.gaussians(false), scene.view, options, scene.v_transmittance.data(),
               {weighted.data(), total.data(), distance.data(), num_pixels.data(), num_weighted.data(),
                num_gaussians.data()});
    const bool has_sound_weights = all_finite(scene.v_transmittance.values) && scene.is_tame();
    for (int64_t n = 0; n < scene.count; ++n) {
        REQUIRE(num_pixels[n] >= 0 && num_pixels[n] <= scene.num_pixels());
        REQUIRE(num_weighted[n] >= 0 && num_weighted[n] <= num_pixels[n]);
        REQUIRE(total[n] >= 0 && total[n] <= T(num_pixels[n]) * T(1.001));
        REQUIRE(!has_sound_weights || (std::isfinite(weighted[n]) && std::isfinite(distance[n])));
    }
    const auto sum = [](const auto& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t(0)); };
    REQUIRE(sum(num_pixels) == sum(num_gaussians));
}

template <class T>
void check_removal(const FuzzScene<T>& scene, const Frame<T>& frame, const Pictures<T>& pictures) {
    std::vector<T> change(scene.count, T(-7));
    removal_error(frame, {pictures.image.data(), scene.v_image.data(), scene.v_transmittance.data()}, change.data());
    for (int64_t n = 0; n < scene.count; ++n) {
        REQUIRE(frame.radius_px[n] > 0 || change[n] == 0);
        REQUIRE(!scene.is_tame() || std::isfinite(change[n]));
    }
}

/// Forward, backward, importance and removal errors; the number of threads changes no bit.
template <class T> void run_scene(Bytes& bytes) {
    const FuzzScene<T> scene(bytes);
    Pictures<T> pictures;
    const Frame<T> frame = run_forward(scene, scene.options, pictures);
    check_pictures(scene, frame, pictures);
    const AllGradients<T> gradients = run_backward(scene, frame, pictures);
    check_gradients(scene, frame, gradients);
    check_importance(scene, scene.options);
    check_removal(scene, frame, pictures);
    if (scene.options.num_threads == 1) return;
    Options alone = scene.options;
    alone.num_threads = 1;
    Pictures<T> again;
    const Frame<T> frame_alone = run_forward(scene, alone, again);
    REQUIRE(again == pictures);
    REQUIRE(run_backward(scene, frame_alone, again) == gradients);
}

/// Image and photo between 0 and 1, some numbers set to anything.
template <class T> void run_loss(Bytes& bytes) {
    const int choice = bytes.byte(), threads = 1 + bytes.below(4);
    LossInput<T> in{};
    in.channels = 3;
    in.width = 1 + bytes.below(70);
    in.height = 1 + bytes.below(choice & 1 ? 12 : 70);
    in.margin = std::min({choice >> 5, (in.width - 1) / 2, (in.height - 1) / 2});
    in.num_threads = threads;
    const int64_t num_pixels = int64_t(in.width) * in.height;
    Random random(bytes.word(2));
    Rows<T> image, photo;
    image.fill(num_pixels, 3, 0, 1, random);
    photo.fill(num_pixels, 3, 0, 1, random);
    std::vector<uint8_t> photo_bytes(3 * num_pixels, bytes.byte());
    const std::unique_ptr<bool[]> mask(new bool[num_pixels]);
    for (int64_t i = 0; i < num_pixels; ++i) mask[i] = random.below(4);
    in.ssim_weight = choice & 2 ? 0.2 : bytes.number();
    while (!bytes.empty()) {
        const int to = bytes.byte();
        const uint32_t index = bytes.word(2);
        (to & 1 ? photo : image).set(index, to & 128, bytes.number());
    }
    in.image = image.data();
    in.photo = choice & 4 ? photo.data() : nullptr;
    in.photo_bytes = choice & 4 ? nullptr : photo_bytes.data();
    in.mask = choice & 8 ? mask.get() : nullptr;

    const bool has_gradient = choice & 16;
    std::vector<T> v_image(has_gradient ? 3 * num_pixels : 0, T(-7)), again = v_image;
    const LossOutput<T> out = photometric_loss(in, address(v_image, has_gradient));
    if (image.is_within(-10, 10) && photo.is_within(0, 1) && in.ssim_weight >= 0 && in.ssim_weight <= 1) {
        REQUIRE(std::isfinite(out.loss) && out.l1 >= 0 && std::abs(out.ssim) <= T(1.001));
        REQUIRE(all_finite(v_image));
    }
    in.num_threads = 1;
    const LossOutput<T> alone = photometric_loss(in, address(again, has_gradient));
    REQUIRE(std::memcmp(&out, &alone, sizeof(out)) == 0 && is_same(again, v_image));
}

/// An exception of one item leaves for_each, and the threads work again afterwards.
void check_team(int threads) {
    Team team(threads);
    for (const int64_t bad : {0, 7, 99, -1}) {
        std::atomic<int> done{0};
        bool is_thrown = false;
        try {
            team.for_each(100, [&](int64_t i) { i == bad ? throw std::runtime_error("planned") : void(++done); });
        } catch (const std::runtime_error&) {
            is_thrown = true;
        }
        REQUIRE(is_thrown == (bad >= 0) && done <= (is_thrown ? 99 : 100) && (is_thrown || done == 100));
    }
}

/// A step of Adam on some tensors; rows that are not visible stay as they are.
void run_adam(Bytes& bytes) {
    const int num_tensors = 1 + bytes.below(4), threads = 1 + bytes.below(4);
    const int64_t count = bytes.word(2) % 3000;
    const bool has_visible = bytes.flag();
    Random random(bytes.word(2));
    std::vector<int32_t> radius_px(count);
    for (int32_t& radius : radius_px) radius = static_cast<int32_t>(random.below(3));
    Rows<float> arrays[16];
    AdamStep steps[4];
    for (int i = 0; i < num_tensors; ++i) {
        const int width = 1 + bytes.below(50);
        for (int k = 0; k < 4; ++k) arrays[4 * i + k].fill(count, width, k == 3 ? 0 : -1, 1, random);
        const double rate = bytes.number(), beta1 = random.between(0, 1), beta2 = random.between(0, 1);
        steps[i] = {nullptr, nullptr, nullptr, nullptr, count, width, rate, beta1, beta2, 1e-8, 1 + bytes.byte()};
    }
    while (!bytes.empty()) {
        const int to = bytes.byte();
        const uint32_t index = bytes.word(2);
        arrays[to % (4 * num_tensors)].set(index, to & 128, bytes.number());
    }
    const std::vector<Rows<float>> before(arrays, arrays + 16);
    for (int i = 0; i < num_tensors; ++i)
        std::tie(steps[i].values, steps[i].gradient, steps[i].exp_avg, steps[i].exp_avg_sq) =
            std::tuple(arrays[4 * i].values.data(), arrays[4 * i + 1].values.data(), arrays[4 * i + 2].values.data(),
                       arrays[4 * i + 3].values.data());
    adam(steps, num_tensors, has_visible ? radius_px.data() : nullptr, threads);
    check_team(threads);
    for (int k = 0; has_visible && k < 4 * num_tensors; ++k)
        for (size_t at = 0; at < arrays[k].values.size(); ++at)
            if (radius_px[at / arrays[k].width] == 0)
                REQUIRE(std::memcmp(&arrays[k].values[at], &before[k].values[at], sizeof(float)) == 0);
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size > 4096) return -1;
    fuzz::Bytes bytes(data, size);
    const int what = bytes.below(16);
    if (what == 0) fuzz::run_adam(bytes);
    else if (what == 1) fuzz::run_loss<float>(bytes);
    else if (what == 2) fuzz::run_loss<double>(bytes);
    else if (what < 7) fuzz::run_scene<double>(bytes);
    else fuzz::run_scene<float>(bytes);
    return 0;
}
