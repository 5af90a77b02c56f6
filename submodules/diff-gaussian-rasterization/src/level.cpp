// What the library of a level exports.
#include "levels.h"

#if defined(_WIN32)
#define DGR_EXPORT __declspec(dllexport)
#else
#define DGR_EXPORT __attribute__((visibility("default")))
#endif

namespace dgr {
namespace {
template <class T>
constexpr LevelFunctions<T> functions{&forward<T>, &backward<T>, &importance<T>, &removal_error<T>,
                                      &photometric_loss<T>};
}  // namespace

extern "C" DGR_EXPORT const Level dgr_level{functions<float>, functions<double>, &adam, &add_gradients};

}  // namespace dgr
