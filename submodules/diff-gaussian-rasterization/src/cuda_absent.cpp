// Linked instead of the CUDA engine in a build without CUDA. The bindings call none of these functions then.
#include "cuda_engine.h"

namespace dgr::cuda {

const bool is_built = false;

namespace {
[[noreturn]] void refuse() { throw Error("this build has the CPU engine only"); }
}  // namespace

Frame forward(const Context&, Memory&, const Gaussians<float>&, const View<float>&, const Options&,
              const Images<float>&, int32_t*) {
    refuse();
}
void backward(const Context&, const Frame&, const Gaussians<float>&, const Images<const float>&,
              const Images<const float>&, const Gradients<float>&) {
    refuse();
}
void importance(const Context&, const Gaussians<float>&, const View<float>&, const Options&, const float*,
                const Importance<float>&) {
    refuse();
}
void removal_error(const Context&, const Frame&, const RemovalInput<float>&, float*) { refuse(); }
void photometric_loss(const Context&, const LossInput<float>&, float*, float*, float*) { refuse(); }
void adam(const Context&, const AdamStep*, int, const int32_t*) { refuse(); }
void add_gradients(const Context&, const GradientSum*, int, const float*, float, bool*) { refuse(); }

}  // namespace dgr::cuda
