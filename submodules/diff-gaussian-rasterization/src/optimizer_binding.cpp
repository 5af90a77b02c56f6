// Python bindings of Adam and of the sums of gradients, which update torch's arrays in place.
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
    const Shape& shape = a.values.shape();
    if (shape.empty()) refuse(a.name, "at least one dimension", "none");
    const int64_t count = shape[0], size = a.values.size();
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
    if (!is_cuda(device)) {
        const int threads = checked_threads(num_threads);
        nb::gil_scoped_release released;
        return adam(steps.data(), num_steps, radius_px, threads);
    }
    TorchMemory scratch = queue.scratch();
    const cuda::Context context = queue.context(device, scratch);
    nb::gil_scoped_release released;
    cuda::adam(context, steps.data(), num_steps, radius_px);
}

/// A GradientSum with unchecked arrays.
struct GradientSumArgs {
    std::string name;  // for errors
    Array gradient;
    OptionalArray sum;
    bool is_checked;
};

/// Whether the view is usable, as far as the CPU knows it.
bool add_gradients_of(const std::vector<const GradientSumArgs*>& args, const Queue& queue, const Array& loss,
                      double largest, const Array& usable, int num_threads) {
    const Device device = engine_device(loss, "loss");
    if (loss.size() != 1) refuse("loss", "one number", "shape " + shape_text(loss.shape()));
    const float* loss_at = checked<const float>(loss, "loss", loss.shape(), device);
    bool* usable_at = checked<bool>(usable, "usable", {}, device);
    std::vector<GradientSum> gradients;
    for (const GradientSumArgs* each : args) {
        const Shape& shape = each->gradient.shape();
        gradients.push_back({checked<float>(each->gradient, (each->name + ": gradient").c_str(), shape, device),
                             checked<float>(each->sum, (each->name + ": sum").c_str(), shape, device),
                             each->gradient.size(), each->is_checked});
    }
    const int num_gradients = static_cast<int>(gradients.size());
    if (!is_cuda(device)) {
        const int threads = checked_threads(num_threads);
        nb::gil_scoped_release released;
        add_gradients(gradients.data(), num_gradients, loss_at, static_cast<float>(largest), usable_at, threads);
        return *usable_at;
    }
    TorchMemory scratch = queue.scratch();
    const cuda::Context context = queue.context(device, scratch);
    nb::gil_scoped_release released;
    cuda::add_gradients(context, gradients.data(), num_gradients, loss_at, static_cast<float>(largest), usable_at);
    return true;
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

    nb::class_<GradientSumArgs>(m, "GradientSum")
        .def(
            "__init__",
            [](GradientSumArgs* self, std::string name, Array gradient, OptionalArray sum, bool is_checked) {
                new (self) GradientSumArgs{name, gradient, sum, is_checked};
            },
            nb::arg("name"), nb::arg("gradient"), nb::arg("sum").none(), nb::arg("is_checked"));
    m.def("add_gradients", &add_gradients_of, nb::arg("gradients"), nb::arg("queue"), nb::kw_only(), nb::arg("loss"),
          nb::arg("largest"), nb::arg("usable"), nb::arg("threads"));
}
