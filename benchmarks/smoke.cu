// The first minute of the CUDA engine on a GPU, without Python: both engines on the same scenes, sort and scan, and the
// time of each stage beside the rate at which the GPU copies. benchmarks/smoke.py builds it by one call of nvcc.
//
//   smoke [--quick] [crowd] [segments] [edges] [primitives] [times]
//
// --quick: small sizes, for the emulation. One more part, "tiny", runs only if it is named.
//
// Exit codes: 0 = all agree, 1 = something differs or CUDA failed, 2 = no GPU.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <thread>

#include "cuda_passes.h"
#include "smoke_engines.h"

namespace smoke {
namespace {

constexpr const char* kParts[] = {"crowd", "segments", "edges", "primitives", "times", "tiny"};
bool quick = false, failed = false;

void report(bool is_right, const std::string& text) {
    std::printf("%-6s %s\n", is_right ? "ok" : "FAILED", text.c_str());
    std::fflush(stdout);
    failed |= !is_right;
}
template <class... Args> std::string text(const char* format, Args... args) {
    char line[300];
    std::snprintf(line, sizeof line, format, args...);
    return line;
}

// ---- Both engines ----

/// |a - b| / |b|, over all numbers of an array; infinite where one of them is not finite.
double difference(const std::vector<float>& a, const std::vector<float>& b) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < b.size(); ++i) {
        if (!(a[i] - a[i] == 0) || !(b[i] - b[i] == 0)) return HUGE_VAL;
        error += (double(a[i]) - b[i]) * (double(a[i]) - b[i]), norm += double(b[i]) * b[i];
    }
    return std::sqrt(error / (norm > 0 ? norm : 1));
}

/// A pixel gains or loses a splat where rounding decides. Worst measured on the emulation: 3e-5 of pictures and
/// gradients; 5e-4 of the counts, where projection uses fused multiply-adds.
double limit_of(const std::string& name) {
    if (name == "seen") return 0;
    return name.starts_with("d ") || name == "abs_grad" || name.starts_with("num_") ? 5e-3 : 1e-3;
}

void compare(const std::string& what, const Results& a, const Results& b) {
    std::string worst;
    double worst_share = -1, worst_error = 0;
    for (const auto& [name, values] : b) {
        const double error = difference(a.at(name), values), limit = limit_of(name);
        const double share = limit > 0 ? error / limit : error > 0 ? HUGE_VAL : 0;
        if (share > worst_share) worst = name, worst_share = share, worst_error = error;
    }
    report(worst_share <= 1, what + text(": worst %s, %.1e of %.0e", worst.c_str(), worst_error, limit_of(worst)));
}

/// The instances that fill_rest of cuda_tiles.cu wrote: counted by one kernel, not found by another.
int64_t num_beyond(CudaEngine& engine) {
    const cuda::Frame& frame = engine.frame();
    return frame.num_instances - engine.get(frame.tile_begin + frame.view.num_tiles(), 1)[0];
}

void compare_scene(const char* name, const Scene& scene, bool antialiased, cudaStream_t stream) {
    Options options{};
    options.antialiased = antialiased, options.sh_degree = Limits::sh_degree_max;
    const unsigned cores = std::thread::hardware_concurrency();
    options.num_threads = quick || cores < 1 ? 1 : static_cast<int>(cores < 64 ? cores : 64);
    CpuEngine cpu;
    cpu.options = options;
    const Results expected = results_of(cpu, scene);
    Results by_atomics, deterministic;
    int64_t beyond = 0, instances = 0;
    for (const bool is_deterministic : {false, true, true}) {
        CudaEngine engine(stream);
        engine.options = options, engine.options.is_deterministic = is_deterministic;
        const Results results = results_of(engine, scene);
        beyond = num_beyond(engine), instances = engine.frame().num_instances;
        if (!is_deterministic) {
            by_atomics = results;
        } else if (deterministic.empty()) {
            deterministic = results;
        } else {
            const auto same = [](const auto& a, const auto& b) {
                return std::memcmp(a.second.data(), b.second.data(), a.second.size() * sizeof(float)) == 0;
            };
            report(std::equal(results.begin(), results.end(), deterministic.begin(), same),
                   std::string(name) + ": two deterministic runs, the same bits");
        }
    }
    compare(std::string(name) + ": by atomics, and the CPU", by_atomics, expected);
    compare(std::string(name) + ": deterministic, and the CPU", deterministic, expected);
    compare(std::string(name) + ": by atomics, and deterministic", by_atomics, deterministic);
    std::printf("       %s: %lld Gaussians, %lld instances, beyond the last tile: %lld\n", name, (long long)scene.count(),
                (long long)instances, (long long)beyond);
}

// ---- Sort and scan ----

void check_sort(int64_t count, int bits, cudaStream_t stream) {
    CudaEngine device(stream);
    Random random{static_cast<uint64_t>(count) * 64 + bits};
    std::vector<uint32_t> keys(count), values(count);
    for (int64_t i = 0; i < count; ++i) keys[i] = static_cast<uint32_t>(random.bits()), values[i] = i;
    cuda::Pairs pairs{device.put(keys), device.put(values), device.room<uint32_t>(count), device.room<uint32_t>(count)};
    {
        StreamMemory scratch(stream);
        cuda::sort_pairs({0, stream, scratch}, pairs, count, bits);
    }
    const std::vector<uint32_t> sorted = device.get(pairs.keys, count), order = device.get(pairs.values, count);
    const uint32_t mask = bits < 32 ? (1u << bits) - 1 : ~0u;
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; ++i) {
        bool is_right = order[i] < count && sorted[i] == keys[order[i]];
        if (i > 0) {  // stable: with the same key, the order stays
            const uint32_t before = sorted[i - 1] & mask, key = sorted[i] & mask;
            is_right &= before < key || (before == key && order[i - 1] < order[i]);
        }
        wrong += !is_right;
    }
    if (wrong) report(false, text("sort of %lld keys by %d bits: %lld wrong", (long long)count, bits, (long long)wrong));
}

void check_scan(int64_t count, cudaStream_t stream) {
    CudaEngine device(stream);
    Random random{static_cast<uint64_t>(count)};
    std::vector<int32_t> counts(count);
    for (int32_t& each : counts) each = static_cast<int32_t>(random.bits() >> 33);
    int64_t* const sums = device.room<int64_t>(count + 1);
    {
        StreamMemory scratch(stream);
        cuda::exclusive_sum({0, stream, scratch}, device.put(counts), sums, count);
    }
    const std::vector<int64_t> actual = device.get(sums, count + 1);
    int64_t sum = 0, wrong = actual[0] != 0;
    for (int64_t i = 0; i < count; ++i) wrong += actual[i + 1] != (sum += counts[i]);
    if (wrong) report(false, text("scan of %lld counts: %lld sums wrong", (long long)count, (long long)wrong));
}

void check_primitives(cudaStream_t stream) {
    const bool before = failed;
    for (int64_t count : {0, 1, 2, 31, 32, 33, 257, 4097, 100'003}) {
        if (quick && count > 5000) continue;
        for (int bits = 1; bits <= 32; ++bits) check_sort(count, bits, stream);
        check_scan(count, stream);
    }
    for (int64_t count : {1'000'000, 10'000'000}) {
        if (quick) continue;
        for (int bits : {1, 7, 8, 9, 13, 16, 24, 31, 32}) check_sort(count, bits, stream);
        check_scan(count, stream);
    }
    if (failed == before) report(true, text("sort and scan: 0 to %s keys, 1 to 32 bits", quick ? "4097" : "10,000,000"));
}

// ---- Times ----

/// Median seconds of a call.
double seconds_of(CudaEngine& engine, const std::function<void()>& work) {
    std::vector<double> times;
    for (int i = 0; i < (quick ? 3 : 13); ++i) {
        engine.wait();
        const auto start = std::chrono::steady_clock::now();
        work();
        engine.wait();
        times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

/// bytes: that the stage reads and writes at least; 0: no bound is known.
void print_stage(const char* name, double seconds, double bytes, double copy_rate) {
    std::printf("%-28s%10.3f ms", name, 1e3 * seconds);
    if (bytes > 0)
        std::printf("%10.3f GB%9.0f GB/s%7.0f%%", 1e-9 * bytes, 1e-9 * bytes / seconds, 100 * bytes / seconds / copy_rate);
    std::printf("\n");
}

void print_times(cudaStream_t stream) {
    const Scene scene = quick ? wall(500, 67, 50) : wall(1'000'000, 1600, 1060);
    CudaEngine e(stream);
    e.options.sh_degree = Limits::sh_degree_max;
    const Arrays<CudaEngine> a(e, scene);
    const auto n = static_cast<double>(scene.count()), pixels = static_cast<double>(scene.pixels());
    const int64_t copied = quick ? 1 << 16 : 1 << 28;
    char *const from = e.room<char>(copied), *const to = e.room<char>(copied);
    const auto copy = [&] { cuda::check(cudaMemcpyAsync(to, from, copied, cudaMemcpyDeviceToDevice, stream), "copy"); };
    const double copy_seconds = seconds_of(e, copy), rate = 2.0 * copied / copy_seconds;
    std::printf("\n%lld Gaussians, %d x %d px; a call and a wait for it, median\n", static_cast<long long>(scene.count()),
                scene.view.width, scene.view.height);
    print_stage("copy", copy_seconds, 2.0 * copied, rate);

    const cuda::ProjectionOutput projected{e.room<Splat<float>>(scene.count()), a.radii, e.room<uint32_t>(scene.count()),
                                           e.room<uint32_t>(scene.count()), e.room<int32_t>(scene.count())};
    const auto project = [&] {
        StreamMemory scratch(stream);
        cuda::project({0, stream, scratch}, a.gaussians, scene.view, e.options, projected);
    };
    constexpr double kInputs = 4 * (3 + 4 + 3 + 1 + 3 + 3 * Scene::kRest);
    print_stage("project", seconds_of(e, project), n * (kInputs + sizeof(Splat<float>) + 16), rate);
    const auto order = [&] {
        StreamMemory scratch(stream);
        cuda::Frame frame;
        frame.view = scene.view, frame.options = e.options, frame.num_gaussians = scene.count();
        frame.splats = projected.splats;
        cuda::order_instances({0, stream, scratch}, scratch, projected, frame);
    };
    const double project_seconds = seconds_of(e, [&] { project(), order(); });
    print_stage("project, order", project_seconds, 0, rate);
    const auto forward = [&] { e.forward(a.gaussians, scene.view, a.images, a.radii); };
    print_stage("forward", seconds_of(e, forward), 0, rate);
    std::printf("%28s%10.1f million instances\n", "", 1e-6 * static_cast<double>(e.frame().num_instances));
    const Images<const float> images{a.images.image, a.images.transmittance, a.images.inverse_depth};
    Gradients<float> gradients = a.gradients;
    gradients.world_to_camera = nullptr;
    for (const bool is_deterministic : {false, true}) {
        e.options.is_deterministic = is_deterministic;
        forward();  // the mode is that of the forward pass
        print_stage(is_deterministic ? "backward, deterministic" : "backward, by atomics",
                    seconds_of(e, [&] { e.backward(a.gaussians, images, a.v_images, gradients); }), 0, rate);
    }
    print_stage("importance", seconds_of(e, [&] { e.importance(a.gaussians, scene.view, a.weights, a.importance); }), 0,
                rate);
    forward();
    const RemovalInput<float> removal{a.images.image, a.v_images.image, a.weights};
    print_stage("removal errors", seconds_of(e, [&] { e.removal_error(removal, a.removal); }), 0, rate);
    // The image, the photo, the mask in each channel, the gradient, and three gradients of means in between.
    print_stage("loss", seconds_of(e, [&] { e.loss(a.loss_input, a.loss_values, a.v_loss); }),
                pixels * 3 * (2 * (4 + 1 + 1) + 4 + 3 * 8), rate);
    print_stage("Adam of sh_rest", seconds_of(e, [&] { e.adam(a.adam, nullptr); }), n * 3 * Scene::kRest * 7 * 4, rate);
    const int64_t keys = quick ? 1000 : 10'000'000;
    cuda::Pairs pairs{e.room<uint32_t>(keys), e.room<uint32_t>(keys), e.room<uint32_t>(keys), e.room<uint32_t>(keys)};
    std::printf("sort and scan of %lld keys\n", static_cast<long long>(keys));
    const double count = static_cast<double>(keys);
    const auto fill = [&] { cuda::check(cudaMemsetAsync(pairs.keys, 0x5a, keys * 4, stream), "fill"); };
    fill();
    for (int bits : {16, 32})
        print_stage(bits == 16 ? "sort, 16 bits" : "sort, 32 bits", seconds_of(e, [&] {
                        StreamMemory scratch(stream);
                        cuda::sort_pairs({0, stream, scratch}, pairs, keys, bits);
                    }), count * 16 * (bits / 8), rate);
    auto* const counts = e.room<int32_t>(keys);
    cuda::check(cudaMemsetAsync(counts, 1, keys * 4, stream), "fill");
    int64_t* const sums = e.room<int64_t>(keys + 1);
    print_stage("scan", seconds_of(e, [&] {
                    StreamMemory scratch(stream);
                    cuda::exclusive_sum({0, stream, scratch}, counts, sums, keys);
                }), count * 12, rate);
    e.wait();
}

int run(const std::vector<std::string>& parts) {
    for (const std::string& part : parts) {
        const auto is_part = [&](const char* name) { return part == name; };
        if (std::none_of(std::begin(kParts), std::end(kParts), is_part)) throw std::runtime_error("no part " + part);
    }
    int num_devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&num_devices);
    if (error != cudaSuccess || num_devices == 0) {
        std::fprintf(stderr, "smoke: there is no GPU: %s\n", cudaGetErrorString(error));
        return 2;
    }
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    std::printf("%s, compute capability %d.%d\n", properties.name, properties.major, properties.minor);
    // What is freed stays in the pool, or each wait would give it back to the driver.
    cudaMemPool_t pool;
    uint64_t threshold = UINT64_MAX;
    cuda::check(cudaDeviceGetDefaultMemPool(&pool, 0), "cudaDeviceGetDefaultMemPool");
    cuda::check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold), "cudaMemPoolSetAttribute");
    cudaStream_t stream;
    cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    const auto wanted = [&](const char* part) {
        return parts.empty() || std::find(parts.begin(), parts.end(), part) != parts.end();
    };
    if (wanted("crowd"))
        compare_scene("crowd", quick ? crowd(300, 67, 50, 1) : crowd(100'000, 800, 530, 0.3f), false, stream);
    if (wanted("segments"))
        compare_scene("segments", quick ? crowd(700, 20, 17, 8, 0.03f) : crowd(20'000, 320, 240, 4, 0.03f), true, stream);
    if (wanted("edges")) compare_scene("edges", quick ? edges(80, 400, 330) : edges(400, 1600, 1060), false, stream);
    // Two tiles with two batches of splats each, for ThreadSanitizer on the emulation.
    if (!parts.empty() && wanted("tiny")) compare_scene("tiny", crowd(480, 17, 16, 8, 0.02f), false, stream);
    if (wanted("primitives")) check_primitives(stream);
    if (wanted("times")) print_times(stream);
    cuda::check(cudaStreamSynchronize(stream), "the end");  // the last frees
    cuda::check(cudaStreamDestroy(stream), "cudaStreamDestroy");
    return failed ? 1 : 0;
}

}  // namespace
}  // namespace smoke

int main(int argc, char** argv) {
    std::vector<std::string> parts;
    for (int i = 1; i < argc; ++i)
        if (std::strcmp(argv[i], "--quick") == 0)
            smoke::quick = true;
        else
            parts.emplace_back(argv[i]);
    try {
        return smoke::run(parts);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "smoke: %s\n", error.what());
        return 1;
    }
}
