// What the arithmetic instructions compute, as in the PTX ISA, for one lane; and the loops over 32 lanes.
#pragma once

#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "machine.h"

namespace ptx {

// ---- Floating point ----

/// Results that are not a number have these bits [PTX ISA, add].
inline float canonical(float value) { return value == value ? value : std::bit_cast<float>(0x7fffffffu); }
inline double canonical(double value) { return value; }
inline float flushed(float value) { return std::fabs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value; }

/// Integers wrap around: sums and products are those of unsigned numbers, and 16 bits are promoted to 32.
template <class T> using Wide = std::conditional_t<(sizeof(T) < 4), uint32_t, std::make_unsigned_t<std::conditional_t<std::is_integral_v<T>, T, int>>>;

struct Add {
    template <class T> static T of(T a, T b) {
        if constexpr (std::is_integral_v<T>) return static_cast<T>(Wide<T>(a) + Wide<T>(b));
        else return canonical(a + b);
    }
};
struct Sub {
    template <class T> static T of(T a, T b) {
        if constexpr (std::is_integral_v<T>) return static_cast<T>(Wide<T>(a) - Wide<T>(b));
        else return canonical(a - b);
    }
};
struct Mul {  // the lower half
    template <class T> static T of(T a, T b) {
        if constexpr (std::is_integral_v<T>) return static_cast<T>(Wide<T>(a) * Wide<T>(b));
        else return canonical(a * b);
    }
};
struct Fma {
    template <class T> static T of(T a, T b, T c) { return canonical(std::fma(a, b, c)); }
};
/// Rounded towards minus infinity. The product is exact in double, the sum is known by its error [two-sum].
struct FmaDown {
    static float of(float a, float b, float c) {
        const double product = double(a) * b, sum = product + c, part = sum - product;
        const double error = (product - (sum - part)) + (c - part);
        const float nearest = static_cast<float>(sum);
        if (!std::isfinite(sum)) return canonical(nearest);
        const bool is_above = double(nearest) > sum || (double(nearest) == sum && error < 0);
        return is_above ? std::nextafter(nearest, -HUGE_VALF) : nearest;
    }
};
struct Mad {
    template <class T> static T of(T a, T b, T c) { return static_cast<T>(Wide<T>(a) * Wide<T>(b) + Wide<T>(c)); }
};
template <class T> using Doubled = std::conditional_t<
    sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;
struct MulHigh {
    template <class T> static T of(T a, T b) { return static_cast<T>((Doubled<T>(a) * Doubled<T>(b)) >> (8 * sizeof(T))); }
};
struct MadHigh {
    template <class T> static T of(T a, T b, T c) { return Add::of<T>(MulHigh::of<T>(a, b), c); }
};
struct MulWide {
    template <class T> static Doubled<T> of(T a, T b) { return Doubled<T>(a) * Doubled<T>(b); }
};
struct MadWide {
    template <class T> static Doubled<T> of(T a, T b, Doubled<T> c) { return Add::of<Doubled<T>>(MulWide::of<T>(a, b), c); }
};
struct Div {
    template <class T> static T of(T a, T b) {
        if constexpr (!std::is_integral_v<T>) return canonical(a / b);
        else if (b == 0) return static_cast<T>(-1);
        else if (std::is_signed_v<T> && b == static_cast<T>(-1)) return Sub::of<T>(0, a);
        else return static_cast<T>(a / b);
    }
};
struct Rem {
    template <class T> static T of(T a, T b) {
        if (b == 0) return a;
        if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
        return static_cast<T>(a % b);
    }
};
/// One of two that is not a NaN; -0 is less than +0.
struct Min {
    template <class T> static T of(T a, T b) {
        if constexpr (std::is_integral_v<T>) return b < a ? b : a;
        else if (a != a || b != b) return canonical(a != a ? b : a);
        else return a < b || (a == b && std::signbit(a)) ? a : b;
    }
};
struct Max {
    template <class T> static T of(T a, T b) {
        if constexpr (std::is_integral_v<T>) return a < b ? b : a;
        else if (a != a || b != b) return canonical(a != a ? b : a);
        else return a > b || (a == b && !std::signbit(a)) ? a : b;
    }
};
struct Neg {
    template <class T> static T of(T a) {
        if constexpr (std::is_integral_v<T>) return Sub::of<T>(0, a);
        else return -a;
    }
};
struct Abs {
    template <class T> static T of(T a) {
        if constexpr (std::is_integral_v<T>) return a < 0 ? Sub::of<T>(0, a) : a;
        else return std::fabs(a);
    }
};
struct Sqrt {
    template <class T> static T of(T a) { return canonical(std::sqrt(a)); }
};
struct Rcp {
    template <class T> static T of(T a) { return canonical(T(1) / a); }
};
// The approximations of a GPU differ from model to model. Here they are the correctly rounded values.
struct Exp2 {
    static float of(float a) { return canonical(static_cast<float>(std::exp2(static_cast<double>(a)))); }
};
struct Log2 {
    static float of(float a) { return canonical(static_cast<float>(std::log2(static_cast<double>(a)))); }
};
struct Rsqrt {
    static float of(float a) { return canonical(static_cast<float>(1 / std::sqrt(static_cast<double>(a)))); }
};
struct Sine {
    static float of(float a) { return canonical(static_cast<float>(std::sin(static_cast<double>(a)))); }
};
struct Cosine {
    static float of(float a) { return canonical(static_cast<float>(std::cos(static_cast<double>(a)))); }
};

// ---- Bits ----

struct Move {
    template <class T> static T of(T a) { return a; }
};
struct And {
    template <class T> static T of(T a, T b) { return a & b; }
};
struct Or {
    template <class T> static T of(T a, T b) { return a | b; }
};
struct Xor {
    template <class T> static T of(T a, T b) { return a ^ b; }
};
struct Not {
    template <class T> static T of(T a) { return static_cast<T>(~a); }
};
/// Shifts by more than there are bits give what all bits shifted out leave.
struct ShiftLeft {
    template <class T> static T of(T a, uint32_t by) { return by >= 8 * sizeof(T) ? T(0) : static_cast<T>(Wide<T>(a) << by); }
};
struct ShiftRight {
    template <class T> static T of(T a, uint32_t by) {
        constexpr uint32_t last = 8 * sizeof(T) - 1;
        if (by > last) return std::is_signed_v<T> ? static_cast<T>(a >> last) : T(0);
        return static_cast<T>(a >> by);
    }
};
struct PopCount {
    template <class T> static uint32_t of(T a) { return static_cast<uint32_t>(std::popcount(a)); }
};
struct CountZeros {
    template <class T> static uint32_t of(T a) { return static_cast<uint32_t>(std::countl_zero(a)); }
};
struct ReverseBits {
    template <class T> static T of(T a) {
        T out = 0;
        for (uint32_t i = 0; i < 8 * sizeof(T); ++i, a >>= 1) out = static_cast<T>(out << 1 | (a & 1));
        return out;
    }
};
/// The position of the highest bit that differs from the sign; all ones if there is none.
struct FindBit {
    template <class T> static uint32_t of(T a) {
        using U = std::make_unsigned_t<T>;
        const auto bits = static_cast<U>(std::is_signed_v<T> && a < 0 ? ~a : a);
        return bits == 0 ? kAll : static_cast<uint32_t>(std::bit_width(bits)) - 1;
    }
};
/// The same as the shift that brings it to the top.
struct FindShift {
    template <class T> static uint32_t of(T a) {
        const uint32_t found = FindBit::of<T>(a);
        return found == kAll ? kAll : static_cast<uint32_t>(8 * sizeof(T)) - 1 - found;
    }
};
/// b ones from bit a on.
struct BitMask {
    static uint32_t of(uint32_t a, uint32_t b) {
        if (a >= 32) return 0;
        const uint32_t ones = b >= 32 ? kAll : (1u << b) - 1;
        return ones << a;
    }
};
struct ExtractBits {
    template <class T> static T of(T a, uint32_t position, uint32_t length) {
        constexpr uint32_t bits = 8 * sizeof(T), msb = bits - 1;
        position &= 0xff, length &= 0xff;
        using U = std::make_unsigned_t<T>;
        const U sign = !std::is_signed_v<T> || length == 0 ? U(0) : static_cast<U>(U(a) >> std::min(position + length - 1, msb) & 1);
        U out = position > msb ? U(0) : static_cast<U>(U(a) >> position);
        if (length < bits) out &= static_cast<U>((U(1) << length) - 1);
        const uint32_t filled = position > msb ? 0 : std::min(length, bits - position);
        if (sign != 0 && filled < bits) out |= static_cast<U>(~U(0) << filled);
        return static_cast<T>(out);
    }
};
struct InsertBits {
    template <class T> static T of(T a, T b, uint32_t position, uint32_t length) {
        constexpr uint32_t bits = 8 * sizeof(T);
        position &= 0xff, length &= 0xff;
        if (position >= bits) return b;
        const T ones = length >= bits ? static_cast<T>(~T(0)) : static_cast<T>((T(1) << length) - 1);
        const T mask = static_cast<T>(ones << position);
        return static_cast<T>((b & ~mask) | (a << position & mask));
    }
};
struct Permute {  // bytes; the mode without a name
    static uint32_t of(uint32_t a, uint32_t b, uint32_t selector) {
        const uint64_t bytes = uint64_t{b} << 32 | a;
        uint32_t out = 0;
        for (int i = 0; i < 4; ++i) {
            const uint32_t select = selector >> 4 * i & 0xf;
            uint32_t byte = bytes >> 8 * (select & 7) & 0xff;
            if (select & 8) byte = byte & 0x80 ? 0xff : 0;
            out |= byte << 8 * i;
        }
        return out;
    }
};
template <bool to_left, bool clamps> struct FunnelShift {
    static uint32_t of(uint32_t low, uint32_t high, uint32_t by) {
        by = clamps ? std::min(by, 32u) : by & 31;
        const uint64_t both = uint64_t{high} << 32 | low;
        return static_cast<uint32_t>(to_left ? both << by >> 32 : both >> by);
    }
};
struct Logic3 {
    static uint32_t of(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
        uint32_t out = 0;
        for (uint32_t row = 0; row < 8; ++row)
            if (table >> row & 1) out |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
        return out;
    }
};

// ---- Comparisons; those that end in u hold for NaN, too ----

struct Eq { template <class T> static bool of(T a, T b) { return a == b; } };
struct Ne { template <class T> static bool of(T a, T b) { return a < b || a > b; } };
struct Lt { template <class T> static bool of(T a, T b) { return a < b; } };
struct Le { template <class T> static bool of(T a, T b) { return a <= b; } };
struct Gt { template <class T> static bool of(T a, T b) { return a > b; } };
struct Ge { template <class T> static bool of(T a, T b) { return a >= b; } };
struct Equ { template <class T> static bool of(T a, T b) { return !(a < b || a > b); } };
struct Neu { template <class T> static bool of(T a, T b) { return !(a == b); } };
struct Ltu { template <class T> static bool of(T a, T b) { return !(a >= b); } };
struct Leu { template <class T> static bool of(T a, T b) { return !(a > b); } };
struct Gtu { template <class T> static bool of(T a, T b) { return !(a <= b); } };
struct Geu { template <class T> static bool of(T a, T b) { return !(a < b); } };
struct IsNumber { template <class T> static bool of(T a, T b) { return a == a && b == b; } };
struct IsNan { template <class T> static bool of(T a, T b) { return a != a || b != b; } };

// ---- Over the lanes of a warp ----

template <auto f> struct Lanewise;
template <class R, class... A, R (*f)(A...)> struct Lanewise<f> {
    static void run(Warp& warp, const Instruction& i, uint32_t lanes) {
        run_on(warp, i, lanes, std::index_sequence_for<A...>{});
    }
    template <size_t... k> static void run_on(Warp& warp, const Instruction& i, uint32_t lanes, std::index_sequence<k...>) {
        loop(lanes, warp.at<R>(i.out[0]), warp.at<A>(i.in[k])...);
        warp.set_known(i.out[0], lanes, (warp.known[i.in[k].known] & ...));
    }
    static void loop(uint32_t lanes, R* out, const A*... in) {
        if (lanes == kAll) {
#pragma GCC ivdep
            for (int l = 0; l < kLanes; ++l) out[l] = f(in[l]...);
        } else {
#pragma GCC ivdep
            for (int l = 0; l < kLanes; ++l) {
                const R result = f(in[l]...);
                out[l] = lanes >> l & 1 ? result : out[l];
            }
        }
    }
};

/// The float function with subnormal numbers taken and given as zero.
template <auto f> struct Flushing;
template <class... A, float (*f)(A...)> struct Flushing<f> {
    static float of(A... in) { return flushed(f(flushed(in)...)); }
};
template <class... A, bool (*f)(A...)> struct Flushing<f> {
    static bool of(A... in) { return f(flushed(in)...); }
};

template <auto f> struct Compare;
template <class T, bool (*f)(T, T)> struct Compare<f> {
    static void run(Warp& warp, const Instruction& i, uint32_t lanes) {
        const T *a = warp.at<T>(i.in[0]), *b = warp.at<T>(i.in[1]);
        uint32_t bits = 0;
        for (int l = 0; l < kLanes; ++l) bits |= static_cast<uint32_t>(f(a[l], b[l])) << l;
        uint32_t known = warp.known[i.in[0].known] & warp.known[i.in[1].known];
        uint32_t results[2] = {bits, ~bits};
        for (int k = 0; k < i.num_out; ++k) {
            uint32_t result = results[k];
            if (i.choice != 0) {
                const uint32_t other = warp.bits(i.in[2]) ^ (i.negated_inputs & 4 ? kAll : 0);
                result = i.choice == 1 ? result & other : i.choice == 2 ? result | other : result ^ other;
                known &= warp.known[i.in[2].known];
            }
            uint32_t& out = warp.bits(i.out[k]);
            out = (out & ~lanes) | (result & lanes);
            warp.set_known(i.out[k], lanes, known);
        }
    }
};

/// Lanes of a predicate take a, the others b.
template <class T> void select(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint32_t chosen = warp.bits(i.in[2]);
    const T *a = warp.at<T>(i.in[0]), *b = warp.at<T>(i.in[1]);
    T* out = warp.at<T>(i.out[0]);
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) {
        const T result = chosen >> l & 1 ? a[l] : b[l];
        out[l] = lanes >> l & 1 ? result : out[l];
    }
    const uint32_t known = (chosen & warp.known[i.in[0].known]) | (~chosen & warp.known[i.in[1].known]);
    warp.set_known(i.out[0], lanes, known & warp.known[i.in[2].known]);
}

/// and, or, xor, not and mov of predicates. One known operand may decide the result.
inline void predicate_logic(Warp& warp, const Instruction& i, uint32_t lanes) {
    const auto value = [&](int k) { return warp.bits(i.in[k]) ^ (i.negated_inputs >> k & 1 ? kAll : 0); };
    const uint32_t a = value(0), b = i.choice < 3 ? value(1) : 0;
    const uint32_t known_a = warp.known[i.in[0].known], known_b = warp.known[i.in[1].known];
    uint32_t result = 0, known = known_a & known_b;
    switch (i.choice) {
        case 0: result = a & b, known |= (known_a & ~a) | (known_b & ~b); break;
        case 1: result = a | b, known |= (known_a & a) | (known_b & b); break;
        case 2: result = a ^ b; break;
        case 3: result = ~a, known = known_a; break;
        default: result = a, known = known_a;
    }
    uint32_t& out = warp.bits(i.out[0]);
    out = (out & ~lanes) | (result & lanes);
    warp.set_known(i.out[0], lanes, known);
}

// ---- Conversions ----

enum class Rounding : uint8_t { none, nearest, zero, down, up };

struct Conversion {
    char from_kind, to_kind;  // u, s, f
    uint8_t from_bytes, to_bytes;
    Rounding rounding;
    bool to_integral, saturates, flushes;
};

inline double rounded(double value, Rounding rounding) {
    switch (rounding) {
        case Rounding::nearest: return std::nearbyint(value);
        case Rounding::zero: return std::trunc(value);
        case Rounding::down: return std::floor(value);
        case Rounding::up: return std::ceil(value);
        default: return value;
    }
}

/// A number that is not an integer becomes the nearest that the type can hold; NaN becomes 0.
inline uint64_t float_to_integer(double value, const Conversion& c) {
    if (value != value) return 0;
    value = rounded(value, c.rounding);
    const int bits = 8 * c.to_bytes - (c.to_kind == 's');
    const double high = std::ldexp(1.0, bits), low = c.to_kind == 's' ? -high : 0.0;
    if (value >= high) return bits == 64 ? ~0ull : (1ull << bits) - 1;
    if (value < low) return c.to_kind == 's' ? 0 - (1ull << bits) : 0;
    return c.to_kind == 's' ? static_cast<uint64_t>(static_cast<int64_t>(value)) : static_cast<uint64_t>(value);
}

inline uint64_t converted(uint64_t bits, const Conversion& c) {
    if (c.from_kind == 'f') {
        double value = c.from_bytes == 4 ? std::bit_cast<float>(static_cast<uint32_t>(bits)) : std::bit_cast<double>(bits);
        if (c.flushes && c.from_bytes == 4) value = flushed(static_cast<float>(value));
        if (c.to_kind != 'f') return float_to_integer(value, c);
        if (c.to_integral) value = rounded(value, c.rounding);
        if (c.saturates) value = value > 0 ? std::min(value, 1.0) : 0.0;
        if (c.to_bytes == 8) return std::bit_cast<uint64_t>(value);
        return std::bit_cast<uint32_t>(canonical(static_cast<float>(value)));
    }
    const int unused = 64 - 8 * c.from_bytes;
    const int64_t value = c.from_kind == 's' ? static_cast<int64_t>(bits << unused) >> unused
                                             : static_cast<int64_t>(bits << unused >> unused);
    if (c.to_kind != 'f') {  // a register may be wider than the type
        const int cut = 64 - 8 * c.to_bytes;
        const uint64_t top = static_cast<uint64_t>(value) << cut;
        return c.to_kind == 's' ? static_cast<uint64_t>(static_cast<int64_t>(top) >> cut) : top >> cut;
    }
    const bool is_large = c.from_kind == 'u' && value < 0;
    if (c.to_bytes == 4)
        return std::bit_cast<uint32_t>(is_large ? static_cast<float>(static_cast<uint64_t>(value)) : static_cast<float>(value));
    return std::bit_cast<uint64_t>(is_large ? static_cast<double>(static_cast<uint64_t>(value)) : static_cast<double>(value));
}

inline void read_lanes(Warp& warp, Operand operand, uint8_t bytes, uint64_t* out) {
    const auto copy = [&](const auto* in) { for (int l = 0; l < kLanes; ++l) out[l] = in[l]; };
    if (bytes == 2) copy(warp.at<uint16_t>(operand));
    else if (bytes == 4) copy(warp.at<uint32_t>(operand));
    else copy(warp.at<uint64_t>(operand));
}
inline void write_lanes(Warp& warp, Operand operand, uint8_t bytes, uint32_t lanes, const uint64_t* in) {
    const auto copy = [&]<class T>(T* out) { for (int l = 0; l < kLanes; ++l) out[l] = lanes >> l & 1 ? static_cast<T>(in[l]) : out[l]; };
    if (bytes == 2) copy(warp.at<uint16_t>(operand));
    else if (bytes == 4) copy(warp.at<uint32_t>(operand));
    else copy(warp.at<uint64_t>(operand));
}

template <class To> struct Cast {
    template <class From> static To of(From value) { return static_cast<To>(value); }
};

/// The conversion is in the offset's bits.
inline void convert(Warp& warp, const Instruction& i, uint32_t lanes) {
    static_assert(sizeof(Conversion) == sizeof(Instruction::offset));
    const auto c = std::bit_cast<Conversion>(i.offset);
    uint64_t values[kLanes];
    read_lanes(warp, i.in[0], i.in_bytes, values);
    for (uint64_t& value : values) value = converted(value, c);
    write_lanes(warp, i.out[0], i.out_bytes, lanes, values);
    warp.set_known(i.out[0], lanes, warp.known[i.in[0].known]);
}

/// mov.b64 r, {a, b}: all inputs have in_bytes.
inline void pack(Warp& warp, const Instruction& i, uint32_t lanes) {
    uint64_t values[kLanes] = {}, part[kLanes];
    uint32_t known = kAll;
    for (int k = 0; k < i.choice; ++k) {
        read_lanes(warp, i.in[k], i.in_bytes, part);
        for (int l = 0; l < kLanes; ++l) values[l] |= part[l] << (8 * i.in_bytes * k);
        known &= warp.known[i.in[k].known];
    }
    write_lanes(warp, i.out[0], i.out_bytes, lanes, values);
    warp.set_known(i.out[0], lanes, known);
}
/// mov.b64 {a, b}, r
inline void unpack(Warp& warp, const Instruction& i, uint32_t lanes) {
    uint64_t values[kLanes], part[kLanes];
    read_lanes(warp, i.in[0], i.in_bytes, values);
    const uint32_t known = warp.known[i.in[0].known];
    for (int k = 0; k < i.num_out; ++k) {
        for (int l = 0; l < kLanes; ++l) part[l] = values[l] >> (8 * i.out_bytes * k);
        write_lanes(warp, i.out[k], i.out_bytes, lanes, part);
        warp.set_known(i.out[k], lanes, known);
    }
}

}  // namespace ptx
