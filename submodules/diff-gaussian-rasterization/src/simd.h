// Batch<T>: a SIMD vector with the operations of T, on the vector extensions of GCC and Clang, so it works with every
// instruction set of the compiler. lane_bits and sqrt use intrinsics of x86, where the compilers' own code is slow.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

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

/// Bit i is lane i.
template <class T> inline uint32_t lane_bits(Mask<T> mask) {
#if defined(__AVX512F__)
    const auto bits = std::bit_cast<__m512i>(mask.bits);
    if constexpr (sizeof(T) == 4) return _mm512_test_epi32_mask(bits, bits);
    else return _mm512_test_epi64_mask(bits, bits);
#elif defined(__AVX__)
    if constexpr (sizeof(T) == 4) return _mm256_movemask_ps(std::bit_cast<__m256>(mask.bits));
    else return _mm256_movemask_pd(std::bit_cast<__m256d>(mask.bits));
#elif defined(__SSE2__)
    if constexpr (sizeof(T) == 4) return _mm_movemask_ps(std::bit_cast<__m128>(mask.bits));
    else return _mm_movemask_pd(std::bit_cast<__m128d>(mask.bits));
#else
    uint32_t bits = 0;
    for (int i = 0; i < kLanes<T>; ++i) bits |= static_cast<uint32_t>(mask.bits[i] & (1 << i));
    return bits;
#endif
}
template <class T> inline bool any(Mask<T> mask) {
#if defined(__SSE2__)
    return lane_bits(mask) != 0;
#else
    typedef int64_t Words __attribute__((vector_size(16)));
    const Words words = std::bit_cast<Words>(mask.bits);
    return (words[0] | words[1]) != 0;
#endif
}
template <class T> inline int count(Mask<T> mask) { return std::popcount(lane_bits(mask)); }

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
/// a < b ? a : b and a > b ? a : b, thus b where a lane is NaN. That is what the instructions of x86 give, but the
/// compilers use a comparison.
template <class T> inline Batch<T> min(Batch<T> a, Batch<T> b) {
    Batch<T> r;
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) r.lanes = _mm512_maskz_min_ps(0xffff, a.lanes, b.lanes);
    else r.lanes = _mm512_maskz_min_pd(0xff, a.lanes, b.lanes);
#elif defined(__AVX__)
    if constexpr (sizeof(T) == 4) r.lanes = _mm256_min_ps(a.lanes, b.lanes);
    else r.lanes = _mm256_min_pd(a.lanes, b.lanes);
#else
    r.lanes = a.lanes < b.lanes ? a.lanes : b.lanes;
#endif
    return r;
}
template <class T> inline Batch<T> max(Batch<T> a, Batch<T> b) {
    Batch<T> r;
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) r.lanes = _mm512_maskz_max_ps(0xffff, a.lanes, b.lanes);
    else r.lanes = _mm512_maskz_max_pd(0xff, a.lanes, b.lanes);
#elif defined(__AVX__)
    if constexpr (sizeof(T) == 4) r.lanes = _mm256_max_ps(a.lanes, b.lanes);
    else r.lanes = _mm256_max_pd(a.lanes, b.lanes);
#else
    r.lanes = a.lanes > b.lanes ? a.lanes : b.lanes;
#endif
    return r;
}

template <class T> inline Batch<T> abs(Batch<T> a) {
    using Lanes = typename Mask<T>::Lanes;
    using Bits = typename Mask<T>::Bits;
    const Lanes sign = Lanes{} + (Bits(1) << (8 * sizeof(T) - 1));
    return std::bit_cast<typename Batch<T>::Lanes>(std::bit_cast<Lanes>(a.lanes) & ~sign);
}

template <class T> inline Batch<T> sqrt(Batch<T> a) {
    Batch<T> r;
#if defined(__AVX512F__)  // GCC prefers two vectors of 32 bytes, joined through memory
    if constexpr (sizeof(T) == 4) r.lanes = _mm512_maskz_sqrt_ps(0xffff, a.lanes);
    else r.lanes = _mm512_maskz_sqrt_pd(0xff, a.lanes);
    return r;
#endif
    for (int i = 0; i < kLanes<T>; ++i) r.lanes[i] = std::sqrt(a.lanes[i]);
    return r;
}

template <class T> inline Batch<T> log2(Batch<T> a) {
    Batch<T> r;
    for (int i = 0; i < kLanes<T>; ++i) r.lanes[i] = std::log2(a.lanes[i]);
    return r;
}

inline constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: x + it has x, rounded to an integer, in its low bits

/// 2^(n + f), shifted = n + kToInteger, f in [-1/2, 1/2]: a polynomial of degree 5 for 2^f. It is exact at 0 and has the
/// least maximum relative error, 8.7e-8. Undefined for n outside [-126, 127].
inline Batch<float> exp2_parts(Batch<float> shifted, Batch<float> f) {
    typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));  // unsigned, because overflow is defined
    using Floats = Batch<float>::Lanes;
    const Floats x = f.lanes, xx = x * x;  // Estrin's scheme: a third less latency than Horner's
    const Floats low = x * 6.931469302e-1f + 1.0f, middle = x * 5.550779325e-2f + 2.402223191e-1f,
                 high = x * 1.325460243e-3f + 9.671999181e-3f;
    const Floats p = (high * xx + middle) * xx + low;
    return std::bit_cast<Floats>(std::bit_cast<Words>(p) + (std::bit_cast<Words>(shifted.lanes) << 23));
}

/// 2^x. In float it is undefined for x outside [-126, 127].
template <class T> inline Batch<T> exp2(Batch<T> x) {
    if constexpr (sizeof(T) == 8) {
        Batch<T> r;
        for (int i = 0; i < kLanes<T>; ++i) r.lanes[i] = std::exp2(x.lanes[i]);
        return r;
    } else {
        const Batch<T> shifted = x + Batch<T>(kToInteger);
        return exp2_parts(shifted, x - (shifted - Batch<T>(kToInteger)));
    }
}

/// e^x, for all x. In float it is 0 below -87, near the least normal number.
template <class T> inline Batch<T> exp(Batch<T> x) {
    if constexpr (sizeof(T) == 8) {
        Batch<T> r;
        for (int i = 0; i < kLanes<T>; ++i) r.lanes[i] = std::exp(x.lanes[i]);
        return r;
    } else {
        const Batch<T> shifted = x * Batch<T>(kLog2e) + Batch<T>(kToInteger), n = shifted - Batch<T>(kToInteger);
        // x - n ln 2, with ln 2 in two parts: n times the first part is exact.
        const Batch<T> rest = (x - n * Batch<T>(0.693359375f)) + n * Batch<T>(2.12194440e-4f);
        const Batch<T> result = exp2_parts(shifted, rest * Batch<T>(kLog2e));
        const Batch<T> infinite_or_nan = x * Batch<T>(INFINITY);
        return select(x <= Batch<T>(88.72f), select(x >= Batch<T>(-87), result, Batch<T>(0)), infinite_or_nan);
    }
}

/// The lanes of two vectors in the order of `lanes`; those of b are numbered after those of a.
template <class Lanes, size_t... lanes> inline Lanes shuffle(Lanes a, Lanes b, std::index_sequence<lanes...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, lanes...);
#else
    using Bits = decltype(a < b);
    return __builtin_shuffle(a, b, Bits{static_cast<std::remove_reference_t<decltype(Bits{}[0])>>(lanes)...});
#endif
}

/// v[i] becomes the vector of lane i of all; v has kLanes<T> elements.
template <class T, int half = kLanes<T> / 2> inline void transpose(Batch<T>* v) {
    const auto exchange = []<size_t... lanes>(Batch<T>& a, Batch<T>& b, std::index_sequence<lanes...>) {
        constexpr size_t n = kLanes<T>, h = half;
        const auto low = shuffle(a.lanes, b.lanes, std::index_sequence<(lanes & h ? n + lanes - h : lanes)...>{});
        b = shuffle(a.lanes, b.lanes, std::index_sequence<(lanes & h ? n + lanes : lanes + h)...>{});
        a = low;
    };
    for (int i = 0; i < kLanes<T>; ++i)
        if (!(i & half)) exchange(v[i], v[i + half], std::make_index_sequence<kLanes<T>>{});
    if constexpr (half > 1) transpose<T, half / 2>(v);
}

/// The lanes of two vectors whose blocks of 2 * half lanes each are one sum: the first or second half of each block.
template <int half, bool second, class Lanes, size_t... lanes>
inline Lanes halves(Lanes a, Lanes b, std::index_sequence<lanes...>) {
    return shuffle(a, b, std::index_sequence<lanes / half * 2 * half + lanes % half + (second ? half : 0)...>{});
}
/// Lane i of v[0] becomes the sum of the lanes of v[i], for the first `size` vectors. Each sum adds the second half of
/// the lanes to the first half until one lane is left.
template <class T, int size = kLanes<T>, int half = kLanes<T> / 2> inline void transposed_sum(Batch<T>* v) {
    constexpr auto lanes = std::make_index_sequence<kLanes<T>>{};
#pragma GCC unroll 16
    for (int i = 0; i < size / 2; ++i) {
        const auto a = v[2 * i].lanes, b = v[2 * i + 1].lanes;
        v[i] = Batch<T>(halves<half, false>(a, b, lanes)) + Batch<T>(halves<half, true>(a, b, lanes));
    }
    if constexpr (half > 1) transposed_sum<T, size / 2, half / 2>(v);
}
/// Writes the sum over the lanes of each of `size` vectors, in a fixed order.
template <int size, class T> inline void sums_of_lanes(const Batch<T>* v, T* sums) {
    for (int begin = 0; begin < size; begin += kLanes<T>) {
        const int count = size - begin < kLanes<T> ? size - begin : kLanes<T>;
        Batch<T> group[kLanes<T>];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes<T>; ++i) group[i] = i < count ? v[begin + i] : Batch<T>(0);
        transposed_sum(group);
        std::memcpy(sums + begin, &group[0], count * sizeof(T));
    }
}
template <class T> inline T sum(Batch<T> a) {
    T result;
    sums_of_lanes<1>(&a, &result);
    return result;
}

}  // namespace dgr
