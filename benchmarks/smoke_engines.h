// The two engines of smoke.cu behind one interface, and all that they compute of a scene.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_platform.h"
#include "engine.h"
#include "smoke_scene.h"

namespace smoke {

/// Memory in the order of a stream, as torch gives it.
class StreamMemory : public cuda::Memory {
  public:
    explicit StreamMemory(cudaStream_t stream) : stream_(stream) {}
    ~StreamMemory() override {
        for (void* memory : given_) cudaFreeAsync(memory, stream_);
    }
    StreamMemory(const StreamMemory&) = delete;
    StreamMemory& operator=(const StreamMemory&) = delete;
    void* allocate(int64_t bytes) override {
        void* memory = nullptr;
        cuda::check(cudaMallocAsync(&memory, static_cast<size_t>(bytes), stream_), "cudaMallocAsync");
        given_.push_back(memory);
        return memory;
    }

  private:
    cudaStream_t stream_;
    std::vector<void*> given_;
};

class CpuEngine {
  public:
    Options options{};

    template <class T> T* room(int64_t count) {
        rooms_.push_back(std::make_unique<double[]>(count * sizeof(T) / sizeof(double) + 1));
        return reinterpret_cast<T*>(rooms_.back().get());
    }
    template <class T> T* put(const std::vector<T>& values) {
        T* const to = room<T>(static_cast<int64_t>(values.size()));
        std::copy(values.begin(), values.end(), to);
        return to;
    }
    template <class T> std::vector<T> get(const T* from, int64_t count) { return {from, from + count}; }

    void forward(const Gaussians<float>& g, const View<float>& view, const Images<float>& out, int32_t* radii) {
        frame_ = dgr::forward(g, view, options, out);
        std::copy_n(frame_.radius_px.data(), g.count, radii);
    }
    void backward(const Gaussians<float>& g, const Images<const float>& images, const Images<const float>& v_images,
                  const Gradients<float>& out) {
        dgr::backward(frame_, g, images, v_images, out);
    }
    void importance(const Gaussians<float>& g, const View<float>& view, const float* weights,
                    const Importance<float>& out) {
        dgr::importance(g, view, options, weights, out);
    }
    void removal_error(const RemovalInput<float>& input, float* change) { dgr::removal_error(frame_, input, change); }
    void loss(const LossInput<float>& input, float* values, float* v_image) {
        const LossOutput<float> out = dgr::photometric_loss(input, v_image);
        values[0] = out.loss, values[1] = out.l1, values[2] = out.ssim;
    }
    void add(const std::vector<GradientSum>& gradients, const float* loss, bool* usable) {
        dgr::add_gradients(gradients.data(), static_cast<int>(gradients.size()), loss, 1e30f, usable, options.num_threads);
    }
    void adam(const AdamStep& step, const int32_t* radii) { dgr::adam(&step, 1, radii, options.num_threads); }

  private:
    std::vector<std::unique_ptr<double[]>> rooms_;
    Frame<float> frame_;
};

class CudaEngine {
  public:
    Options options{};

    explicit CudaEngine(cudaStream_t stream) : stream_(stream), kept_(std::make_unique<StreamMemory>(stream)),
                                               rooms_(stream) {}

    template <class T> T* room(int64_t count) { return rooms_.array<T>(count); }
    template <class T> T* put(const std::vector<T>& values) {
        T* const to = room<T>(static_cast<int64_t>(values.size()));
        cuda::check(cudaMemcpyAsync(to, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, stream_), "put");
        return to;
    }
    template <class T> std::vector<T> get(const T* from, int64_t count) {
        std::vector<T> values(static_cast<size_t>(count));
        cuda::check(cudaMemcpyAsync(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost, stream_), "get");
        wait();
        return values;
    }
    void wait() { cuda::check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

    // The memory of each call is freed while its kernels may still be waiting for their turn.
    void forward(const Gaussians<float>& g, const View<float>& view, const Images<float>& out, int32_t* radii) {
        kept_ = std::make_unique<StreamMemory>(stream_);
        StreamMemory scratch(stream_);
        frame_ = cuda::forward({0, stream_, scratch}, *kept_, g, view, options, out, radii);
    }
    void backward(const Gaussians<float>& g, const Images<const float>& images, const Images<const float>& v_images,
                  const Gradients<float>& out) {
        StreamMemory scratch(stream_);
        cuda::backward({0, stream_, scratch}, frame_, g, images, v_images, out);
    }
    void importance(const Gaussians<float>& g, const View<float>& view, const float* weights,
                    const Importance<float>& out) {
        StreamMemory scratch(stream_);
        cuda::importance({0, stream_, scratch}, g, view, options, weights, out);
    }
    void removal_error(const RemovalInput<float>& input, float* change) {
        StreamMemory scratch(stream_);
        cuda::removal_error({0, stream_, scratch}, frame_, input, change);
    }
    void loss(const LossInput<float>& input, float* values, float* v_image) {
        StreamMemory scratch(stream_);
        cuda::photometric_loss({0, stream_, scratch}, input, values, values + 1, v_image);
    }
    void add(const std::vector<GradientSum>& gradients, const float* loss, bool* usable) {
        StreamMemory scratch(stream_);
        cuda::add_gradients({0, stream_, scratch}, gradients.data(), static_cast<int>(gradients.size()), loss, 1e30f, usable);
    }
    void adam(const AdamStep& step, const int32_t* radii) {
        StreamMemory scratch(stream_);
        cuda::adam({0, stream_, scratch}, &step, 1, radii);
    }
    const cuda::Frame& frame() const { return frame_; }

  private:
    cudaStream_t stream_;
    std::unique_ptr<StreamMemory> kept_;
    StreamMemory rooms_;
    cuda::Frame frame_;
};

/// The arrays of a scene on the device of an engine.
template <class Engine> struct Arrays {
    Gaussians<float> gaussians;
    Images<float> images;
    Images<const float> v_images;
    Gradients<float> gradients;
    Importance<float> importance;
    int32_t* radii;
    const float* weights;
    float* removal;
    LossInput<float> loss_input;
    float *loss_values, *v_loss, *sums;  // sums: of the gradients of the SH coefficients
    bool* usable;
    AdamStep adam;  // of the SH coefficients

    Arrays(Engine& e, const Scene& s) {
        const int64_t n = s.count(), pixels = s.pixels(), rest = 3 * Scene::kRest;
        gaussians = {n, e.put(s.means), e.put(s.quats), e.put(s.scales), nullptr, e.put(s.opacities), e.put(s.sh_dc),
                     e.put(s.sh_rest), nullptr, Scene::kRest};
        images = {e.template room<float>(3 * pixels), e.template room<float>(pixels), e.template room<float>(pixels)};
        v_images = {e.put(s.v_image), e.put(s.v_transmittance), e.put(s.v_inverse_depth)};
        const auto rows = [&](int64_t width) { return e.template room<float>(n * width); };
        gradients = {rows(3), rows(4), rows(3), nullptr, rows(1), rows(3), rows(rest), nullptr, rows(4),
                     rows(1), rows(1), e.template room<float>(16)};
        importance = {rows(1), rows(1), rows(1), e.template room<int32_t>(n), e.template room<int32_t>(n),
                      e.template room<int32_t>(pixels)};
        radii = e.template room<int32_t>(n);
        weights = e.put(s.weights), removal = rows(1);
        std::vector<uint8_t> photo(3 * pixels), mask(pixels);
        Random random{4};
        for (uint8_t& value : photo) value = static_cast<uint8_t>(random.bits());
        for (uint8_t& value : mask) value = random.bits() % 8 != 0;
        loss_input = {3, s.view.width, s.view.height, 0, images.image, nullptr, e.put(photo),
                      reinterpret_cast<const bool*>(e.put(mask)), 0.2, e.options.num_threads};
        loss_values = e.template room<float>(3), v_loss = e.template room<float>(3 * pixels);
        sums = e.put(s.sh_rest), usable = e.template room<bool>(1);
        adam = {e.put(s.sh_rest), gradients.sh_rest, e.put(std::vector<float>(n * rest, 0.01f)),
                e.put(std::vector<float>(n * rest, 0.1f)), n, static_cast<int>(rest), 1e-2, 0.9, 0.999, 1e-15, 3};
    }
};

using Results = std::map<std::string, std::vector<float>>;

template <class T> std::vector<float> as_floats(const std::vector<T>& values) { return {values.begin(), values.end()}; }

/// Everything that an engine computes of a scene.
template <class Engine> Results results_of(Engine& e, const Scene& s) {
    Arrays<Engine> a(e, s);
    e.forward(a.gaussians, s.view, a.images, a.radii);
    e.backward(a.gaussians, {a.images.image, a.images.transmittance, a.images.inverse_depth}, a.v_images, a.gradients);
    e.importance(a.gaussians, s.view, a.weights, a.importance);
    e.removal_error({a.images.image, a.v_images.image, a.weights}, a.removal);
    e.loss(a.loss_input, a.loss_values, a.v_loss);
    const int64_t n = s.count(), pixels = s.pixels(), rest = 3 * Scene::kRest;
    e.add({{a.gradients.means, nullptr, 3 * n, true}, {a.gradients.sh_rest, a.sums, rest * n, true}}, a.loss_values,
          a.usable);
    e.adam(a.adam, a.radii);
    const Gradients<float>& v = a.gradients;
    Results r{{"image", e.get(a.images.image, 3 * pixels)}, {"transmittance", e.get(a.images.transmittance, pixels)},
              {"inverse depth", e.get(a.images.inverse_depth, pixels)}, {"d means", e.get(v.means, 3 * n)},
              {"d quats", e.get(v.quats, 4 * n)}, {"d scales", e.get(v.scales, 3 * n)},
              {"d opacities", e.get(v.opacities, n)}, {"d sh_dc", e.get(v.sh_dc, 3 * n)},
              {"d sh_rest", e.get(v.sh_rest, rest * n)}, {"d screen", e.get(v.screen_means, 4 * n)},
              {"d pose", e.get(v.world_to_camera, 16)},
              {"abs_grad", e.get(v.abs_grad, n)}, {"seen", e.get(v.seen, n)}, {"weighted", e.get(a.importance.weighted, n)},
              {"total", e.get(a.importance.total, n)}, {"distance", e.get(a.importance.distance, n)}, {"loss", e.get(a.loss_values, 3)},
              {"d loss", e.get(a.v_loss, 3 * pixels)}, {"Adam", e.get(a.adam.values, rest * n)},
              {"sums", e.get(a.sums, rest * n)}, {"removal error", e.get(a.removal, n)}};
    r["num_weighted"] = as_floats(e.get(a.importance.num_weighted, n));
    r["num_pixels"] = as_floats(e.get(a.importance.num_pixels, n));
    r["num_gaussians"] = as_floats(e.get(a.importance.num_gaussians, pixels));
    // The kernels of trainings that want less: without the pose, and without inverse depth or absolute gradients.
    for (const auto& [depth, absolute] : {std::pair{false, false}, {false, true}, {true, false}}) {
        Images<float> images = a.images;
        Images<const float> v_images = a.v_images;
        Gradients<float> gradients = v;
        if (!depth) images.inverse_depth = nullptr, v_images.inverse_depth = nullptr;
        if (!absolute) gradients.screen_means = nullptr, gradients.abs_grad = nullptr;
        gradients.world_to_camera = nullptr;
        e.forward(a.gaussians, s.view, images, a.radii);
        e.backward(a.gaussians, {images.image, images.transmittance, images.inverse_depth}, v_images, gradients);
        const std::string of = std::string(depth ? " with" : " without") + " depth" + (absolute ? ", absolute" : "");
        r["image" + of] = e.get(images.image, 3 * pixels);
        r["d means" + of] = e.get(gradients.means, 3 * n), r["d sh_rest" + of] = e.get(gradients.sh_rest, rest * n);
    }
    return r;
}

}  // namespace smoke
