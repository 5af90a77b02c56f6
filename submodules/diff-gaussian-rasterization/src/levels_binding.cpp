// Which levels of the instruction set a portable build has for the CPU engine, and the functions of engine.h, which there
// call the level in use. A build for one processor defines no DGR_LEVELS and has the functions in this module.
#include <nanobind/nanobind.h>

#include "levels.h"

namespace nb = nanobind;

#if defined(DGR_LEVELS)
namespace dgr {
namespace {
const Level* level_in_use = nullptr;  // __init__.py sets it
}  // namespace

template <class T>
Frame<T> forward(const Gaussians<T>& gaussians, const View<T>& view, const Options& options, const Images<T>& out) {
    return level_in_use->of<T>().forward(gaussians, view, options, out);
}
template <class T>
void backward(const Frame<T>& frame, const Gaussians<T>& gaussians, const Images<const T>& images,
              const Images<const T>& v_images, const Gradients<T>& out) {
    level_in_use->of<T>().backward(frame, gaussians, images, v_images, out);
}
template <class T>
void importance(const Gaussians<T>& gaussians, const View<T>& view, const Options& options, const T* pixel_weights,
                const Importance<T>& out) {
    level_in_use->of<T>().importance(gaussians, view, options, pixel_weights, out);
}
template <class T> void removal_error(const Frame<T>& frame, const RemovalInput<T>& input, T* change) {
    level_in_use->of<T>().removal_error(frame, input, change);
}
template <class T> LossOutput<T> photometric_loss(const LossInput<T>& input, T* v_image) {
    return level_in_use->of<T>().photometric_loss(input, v_image);
}
void adam(const AdamStep* tensors, int num_tensors, const int32_t* radius_px, int num_threads) {
    level_in_use->adam(tensors, num_tensors, radius_px, num_threads);
}
void add_gradients(const GradientSum* gradients, int num_gradients, const float* loss, float largest, bool* usable,
                   int num_threads) {
    level_in_use->add_gradients(gradients, num_gradients, loss, largest, usable, num_threads);
}

#define DGR_DEFINE(T)                                                                                        \
    template Frame<T> forward(const Gaussians<T>&, const View<T>&, const Options&, const Images<T>&);        \
    template void backward(const Frame<T>&, const Gaussians<T>&, const Images<const T>&, const Images<const T>&, \
                           const Gradients<T>&);                                                             \
    template void importance(const Gaussians<T>&, const View<T>&, const Options&, const T*, const Importance<T>&); \
    template void removal_error(const Frame<T>&, const RemovalInput<T>&, T*);                                \
    template LossOutput<T> photometric_loss(const LossInput<T>&, T*);
DGR_DEFINE(float)
DGR_DEFINE(double)

}  // namespace dgr
#endif

void bind_levels(nb::module_& module) {
    nb::dict levels;  // by name, the lowest first: whether processor and system support it
#if defined(DGR_LEVELS)
#define DGR_LEVEL(name) levels[#name] = static_cast<bool>(__builtin_cpu_supports("x86-64-" #name));
    DGR_LEVELS
    module.def("use_level", [](uintptr_t level) { dgr::level_in_use = reinterpret_cast<const dgr::Level*>(level); });
#endif
    module.attr("LEVELS") = levels;
}
