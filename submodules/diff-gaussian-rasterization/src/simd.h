// Batch<T>: a SIMD vector with the operations of T, on the vector extensions of GCC and Clang. No intrinsics, so it
// works with every instruction set of the compiler.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "math.h"

namespace dgr {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;  // SSE2, NEON
#endif

template <class T> inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

/// A bool for each lane: all bits of the lane are set, or none.
template <class T> struct Mask {
    using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    typedef Bits Lanes __attribute__((vector_size(kVectorBytes)));
    Lanes bits;

    friend Mask operator&(Mask a, Mask b) { return {a.bits & b.bits}; }
    friend Mask operator~(Mask a) { return {~a.bits}; }
    bool operator[](int lane) const { return bits[lane] != 0; }
};

template <class T> inline bool any(Mask<T> mask) {
    typedef int64_t Words __attribute__((vector_size(kVectorBytes)));
    const Words words = std::bit_cast<Words>(mask.bits);
    int64_t joined = 0;
    for (int i = 0; i < kVectorBytes / 8; ++i) joined |= words[i];
    return joined != 0;
}

template <class T> inline int count(Mask<T> mask) {
    int sum = 0;
    for (int i = 0; i < kLanes<T>; ++i) sum += mask[i];
    return sum;
}

template <class T> struct Batch {
    typedef T Lanes __attribute__((vector_size(kVectorBytes)));
    static constexpr int size = kLanes<T>;
    Lanes lanes;

    Batch() = default;
    Batch(Lanes l) : lanes(l) {}
    template <class S, class = std::enable_if_t<std::is_arithmetic_v<S>>>
    Batch(S s) : lanes(static_cast<T>(s) - Lanes{}) {}  // broadcast; GCC turns a loop over lanes into inserts

    static Batch load(const T* p) {
        Batch b;
        std::memcpy(&b.lanes, p, sizeof(Lanes));
        return b;
    }
    void store(T* p) const { std::memcpy(p, &lanes, sizeof(Lanes)); }
    T operator[](int lane) const { return lanes[lane]; }
    void set(int lane, T value) { lanes[lane] = value; }

    friend Batch operator+(Batch a, Batch b) { return a.lanes + b.lanes; }
    friend Batch operator-(Batch a, Batch b) { return a.lanes - b.lanes; }
    friend Batch operator*(Batch a, Batch b) { return a.lanes * b.lanes; }
    friend Batch operator/(Batch a, Batch b) { return a.lanes / b.lanes; }
    friend Batch operator-(Batch a) { return -a.lanes; }
    Batch& operator+=(Batch b) {
        lanes += b.lanes;
        return *this;
    }
    Batch& operator-=(Batch b) {
        lanes -= b.lanes;
        return *this;
    }

    friend Mask<T> operator<(Batch a, Batch b) { return {a.lanes < b.lanes}; }
    friend Mask<T> operator>(Batch a, Batch b) { return {a.lanes > b.lanes}; }
    friend Mask<T> operator<=(Batch a, Batch b) { return {a.lanes <= b.lanes}; }
    friend Mask<T> operator>=(Batch a, Batch b) { return {a.lanes >= b.lanes}; }
    friend Mask<T> operator==(Batch a, Batch b) { return {a.lanes == b.lanes}; }
};

template <class T> inline Batch<T> select(Mask<T> mask, Batch<T> yes, Batch<T> no) {
    return mask.bits ? yes.lanes : no.lanes;
}
template <class T> inline Batch<T> min(Batch<T> a, Batch<T> b) { return a.lanes < b.lanes ? a.lanes : b.lanes; }
template <class T> inline Batch<T> max(Batch<T> a, Batch<T> b) { return a.lanes > b.lanes ? a.lanes : b.lanes; }

template <class T> inline Batch<T> abs(Batch<T> a) {
    using Lanes = typename Mask<T>::Lanes;
    using Bits = typename Mask<T>::Bits;
    const Lanes sign = Lanes{} + (Bits(1) << (8 * sizeof(T) - 1));
    return std::bit_cast<typename Batch<T>::Lanes>(std::bit_cast<Lanes>(a.lanes) & ~sign);
}

template <class T> inline Batch<T> sqrt(Batch<T> a) {
    Batch<T> r;
    for (int i = 0; i < kLanes<T>; ++i) r.lanes[i] = std::sqrt(a.lanes[i]);
    return r;
}

template <class T> inline Batch<T> log2(Batch<T> a) {
    Batch<T> r;
    for (int i = 0; i < kLanes<T>; ++i) r.lanes[i] = std::log2(a.lanes[i]);
    return r;
}

/// 2^x. In float: rounds x to an integer n and evaluates a polynomial of degree 5 for 2^(x-n) on [-1/2, 1/2]. It is
/// exact at 0 and has the least maximum relative error, 8.7e-8. Undefined for x outside [-126, 127].
template <class T> inline Batch<T> exp2(Batch<T> x) {
    if constexpr (sizeof(T) == 8) {
        Batch<T> r;
        for (int i = 0; i < kLanes<T>; ++i) r.lanes[i] = std::exp2(x.lanes[i]);
        return r;
    } else {
        typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));  // unsigned, because overflow is defined
        using Floats = typename Batch<T>::Lanes;
        const float to_integer = 12582912.0f;  // 1.5 * 2^23: the sum has the rounded integer in its low bits
        const Floats shifted = x.lanes + to_integer;
        const Floats f = x.lanes - (shifted - to_integer);
        const Floats ff = f * f;  // Estrin's scheme: a third less latency than Horner's
        const Floats low = f * 6.931469302e-1f + 1.0f, middle = f * 5.550779325e-2f + 2.402223191e-1f,
                     high = f * 1.325460243e-3f + 9.671999181e-3f;
        const Floats p = (high * ff + middle) * ff + low;
        return std::bit_cast<Floats>(std::bit_cast<Words>(p) + (std::bit_cast<Words>(shifted) << 23));
    }
}

/// The sum of the lanes in a fixed order: adds the upper half to the lower half until one lane is left.
template <class T, class Lanes> inline T sum_of_lanes(Lanes lanes) {
    if constexpr (sizeof(Lanes) == 2 * sizeof(T)) {
        return lanes[0] + lanes[1];
    } else {
        typedef T Half __attribute__((vector_size(sizeof(Lanes) / 2)));
        struct Halves { Half low, high; };
        const Halves halves = std::bit_cast<Halves>(lanes);
        return sum_of_lanes<T, Half>(halves.low + halves.high);
    }
}
template <class T> inline T sum(Batch<T> a) { return sum_of_lanes<T, typename Batch<T>::Lanes>(a.lanes); }

}  // namespace dgr
