// The fuzzer's input, read from its front: choices and numbers of every kind. Leaves out what they are used for.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace fuzz {

/// Any input is valid; beyond its end there are zeros.
class Bytes {
  public:
    Bytes(const uint8_t* data, size_t size) : next_(data), end_(data + size) {}

    bool empty() const { return next_ == end_; }
    uint8_t byte() { return empty() ? 0 : *next_++; }
    uint32_t word(int num_bytes) {
        uint32_t value = 0;
        for (int i = 0; i < num_bytes; ++i) value |= static_cast<uint32_t>(byte()) << (8 * i);
        return value;
    }
    bool flag() { return byte() & 1; }
    int below(int limit) { return byte() % limit; }

    /// One of the numbers that cause trouble, one between 2^-13 and 2^13, one of any size, or any float at all.
    double number() {
        const int kind = byte();
        if (kind < 32) return kTroublesome[kind % (sizeof(kTroublesome) / sizeof(double))];
        if (kind < 128) return std::ldexp(byte() - 128, (kind - 32) / 4 - 18);
        if (kind < 192) return std::ldexp(byte() - 128, (kind - 160) * 33);
        const uint32_t bits = word(4);
        float value;
        std::memcpy(&value, &bits, sizeof(value));
        return value;
    }

  private:
    static constexpr double kTroublesome[] = {
        0.0, -0.0, 1.0, -1.0, 0.2, 1.0 / 255, 0.99, 255.0,
        std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
        -std::numeric_limits<double>::infinity(), std::numeric_limits<double>::denorm_min(),
        std::numeric_limits<double>::min(), std::numeric_limits<double>::max(), std::numeric_limits<double>::epsilon(),
        std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::min(),
        std::numeric_limits<float>::max(), -std::numeric_limits<float>::max(), std::numeric_limits<float>::epsilon(),
        2147483647.0, 2147483648.0, -2147483649.0, 4294967296.0, 9.3e18, 1e-30, 1e-19, 1e6, 1e19, 1e20, 1e25, 1e30};

    const uint8_t *next_, *end_;
};

/// Numbers that look random and are always the same [splitmix64, public domain].
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t bits() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    double between(double low, double high) { return low + (high - low) * static_cast<double>(bits() >> 11) * 0x1p-53; }
    uint64_t below(uint64_t limit) { return bits() % limit; }

  private:
    uint64_t state_;
};

}  // namespace fuzz
