// Python bindings of Adam, which updates torch's arrays in place.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "checks.h"
#include "engine.h"
#include "torch_memory.h"

void bind_optimizer(nb::module_& module);

namespace {

using namespace dgr;

/// An AdamStep with unchecked arrays.
struct AdamStepArgs {
    std::string name;  // for errors
    Array values, gradient, exp_avg, exp_avg_sq;
    double rate, beta1, beta2, epsilon;
    int64_t step;
};

AdamStep make_step(const AdamStepArgs& a, Device device) {
    const Shape shape = shape_of(a.values);
    if (shape.empty()) refuse(a.name, "at least one dimension", "none");
    const int64_t count = shape[0], size = static_cast<int64_t>(a.values.size());
    return {checked<float>(a.values, a.name.c_str(), shape, device),
            checked<const float>(a.gradient, (a.name + ": gradient").c_str(), shape, device),
            checked<float>(a.exp_avg, (a.name + ": exp_avg").c_str(), shape, device),
            checked<float>(a.exp_avg_sq, (a.name + ": exp_avg_sq").c_str(), shape, device),
            count,
            count > 0 ? static_cast<int>(size / count) : 0,
            a.rate,
            a.beta1,
            a.beta2,
            a.epsilon,
            a.step};
}

void adam_of(const std::vector<const AdamStepArgs*>& args, const Queue& queue, const OptionalArray& radii,
             int num_threads) {
    if (args.empty()) return;
    const Device device = engine_device(args[0]->values, args[0]->name.c_str());
    std::vector<AdamStep> steps;
    for (const AdamStepArgs* each : args) steps.push_back(make_step(*each, device));
    const int32_t* radius_px = nullptr;
    for (const AdamStep& step : steps) radius_px = checked<const int32_t>(radii, "visible", {step.count}, device);
    const int num_steps = static_cast<int>(steps.size());
    if (!device.is_cuda()) {
        const int threads = checked_threads(num_threads);
        nb::gil_scoped_release released;
        return adam(steps.data(), num_steps, radius_px, threads);
    }
    TorchMemory scratch = queue.scratch();
    const cuda::Context context = queue.context(device, scratch);
    nb::gil_scoped_release released;
    cuda::adam(context, steps.data(), num_steps, radius_px);
}

}  // namespace

void bind_optimizer(nb::module_& m) {
    nb::class_<AdamStepArgs>(m, "AdamStep")
        .def(
            "__init__",
            [](AdamStepArgs* self, std::string name, Array values, Array gradient, Array exp_avg, Array exp_avg_sq,
               double rate, double beta1, double beta2, double epsilon, int64_t step) {
                new (self) AdamStepArgs{name, values, gradient, exp_avg, exp_avg_sq, rate, beta1, beta2, epsilon, step};
            },
            nb::arg("name"), nb::arg("values"), nb::arg("gradient"), nb::arg("exp_avg"), nb::arg("exp_avg_sq"),
            nb::kw_only(), nb::arg("rate"), nb::arg("beta1"), nb::arg("beta2"), nb::arg("epsilon"), nb::arg("step"));
    m.def("adam", &adam_of, nb::arg("steps"), nb::arg("queue"), nb::kw_only(), nb::arg("visible").none(),
          nb::arg("threads"));
}
