// Runs each part of the CPU engine on one thread, on a scene that native.py writes, and prints the CPU time of each part
// in ms and a hash of its results. The functions part_* are what a profiler counts.
#include <algorithm>
#include <limits>

#include "engine_case.h"

namespace {

uint64_t hash_state = 14695981039346656037u;
template <class Array> void hash(const Array& array) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(array.data());
    for (size_t i = 0; i < array.size() * sizeof(array[0]); ++i) hash_state = (hash_state ^ bytes[i]) * 1099511628211u;
}

}  // namespace

int main(int num_arguments, char** arguments) {
    if (num_arguments != 3) return std::fprintf(stderr, "usage: instructions SCENE REPEATS\n"), 1;
    const Case scene(arguments[1]);
    const int repeats = std::atoi(arguments[2]);
    Arrays a(scene);
    const auto measure = [&](const char* name, void (*part)(Arrays&)) {
        double least = std::numeric_limits<double>::infinity();
        for (int i = 0; i < repeats; ++i) {
            const double start = cpu_seconds();
            part(a);
            least = std::min(least, cpu_seconds() - start);
        }
        std::printf("%s %.4f", name, 1e3 * least);
    };
    const auto end_line = [](const auto&... results) {
        hash_state = 14695981039346656037u;
        (hash(results), ...);
        std::printf(" %016llx\n", static_cast<unsigned long long>(hash_state));
    };
    measure("part_project", part_project), end_line();
    measure("part_plan", part_plan), end_line();
    measure("part_forward", part_forward), end_line(a.image, a.transmittance);
    measure("part_loss", part_loss), end_line(std::vector<float>{a.loss.loss, a.loss.l1, a.loss.ssim}, a.v_image);
    a.slots = Buffer<SplatGradient<float>>(a.frame.instances.size());
    std::fill_n(a.slots.data(), a.slots.size(), SplatGradient<float>{});
    const auto end_backward = [&] {
        end_line(a.v_means, a.v_quats, a.v_log_scales, a.v_opacity_logits, a.v_sh_dc, a.v_sh_rest);
    };
    measure("part_project_backward", part_project_backward), end_backward();
    measure("part_backward_with_stats", part_backward_with_stats), end_backward();
    measure("part_backward", part_backward), end_backward();
    measure("part_importance", part_importance);
    end_line(a.weighted, a.total, a.num_pixels, a.num_gaussians);
    measure("part_adam", part_adam), end_line(scene.means, scene.sh_rest, a.moments);
    std::printf("instances %lld\n", static_cast<long long>(a.frame.instances.size()));
}
