// The CPU engine at one level of the instruction set, in a library of its own. A portable build has one for each level,
// levels_binding.cpp calls the one that Python has opened. Separate libraries, as the linker keeps only one copy of
// an inline function: with all levels in one library it might be that of AVX-512 for all of them.
#pragma once

#include "engine.h"

namespace dgr {

/// The functions of engine.h.
template <class T> struct LevelFunctions {
    decltype(&dgr::forward<T>) forward;
    decltype(&dgr::backward<T>) backward;
    decltype(&dgr::importance<T>) importance;
    decltype(&dgr::removal_error<T>) removal_error;
    decltype(&dgr::photometric_loss<T>) photometric_loss;
};
struct Level {
    LevelFunctions<float> in_float;
    LevelFunctions<double> in_double;
    decltype(&dgr::adam) adam;
    decltype(&dgr::add_gradients) add_gradients;

    template <class T> const LevelFunctions<T>& of() const {
        if constexpr (sizeof(T) == sizeof(float)) return in_float;
        else return in_double;
    }
};

}  // namespace dgr
