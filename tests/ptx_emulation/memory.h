// The instructions that touch memory, and those in which the lanes of a warp meet.
#pragma once

#include "arithmetic.h"

namespace ptx {

inline uint64_t address_of(Warp& warp, const Instruction& i, int lane) {
    const uint64_t base = i.in_bytes == 4 ? warp.at<uint32_t>(i.in[0])[lane] : warp.at<uint64_t>(i.in[0])[lane];
    return base + i.offset;
}

/// ld of one or more T into registers of type R.
template <class T, class R> struct Load {
    static void run(Warp& warp, const Instruction& i, uint32_t lanes) {
        require_known(warp, i, i.in[0], lanes, "the address");
        const uint32_t bytes = static_cast<uint32_t>(sizeof(T)) * i.num_out;
        uint32_t known[4] = {};
        for (uint32_t left = lanes; left != 0; left &= left - 1) {
            const int lane = first_lane(left);
            // An address may be in a register that the load overwrites: one lane is done before the next.
            const Cell from = cell(warp, i, lane, address_of(warp, i, lane), bytes, Use::read);
            for (int k = 0; k < i.num_out; ++k) {
                T value;
                std::memcpy(&value, from.bytes + k * sizeof(T), sizeof(T));
                warp.at<R>(i.out[k])[lane] = static_cast<R>(value);
                std::make_unsigned_t<T> mark = static_cast<std::make_unsigned_t<T>>(~0ull);
                if (from.known != nullptr) std::memcpy(&mark, from.known + k * sizeof(T), sizeof(T));
                known[k] |= static_cast<uint32_t>(mark == static_cast<std::make_unsigned_t<T>>(~0ull)) << lane;
            }
        }
        for (int k = 0; k < i.num_out; ++k) warp.set_known(i.out[k], lanes, known[k]);
    }
};

/// st of one or more T from registers of type R, in[1] on. What was never written may be moved, but not to an array
/// that others see.
template <class T, class R> struct Store {
    static void run(Warp& warp, const Instruction& i, uint32_t lanes) {
        require_known(warp, i, i.in[0], lanes, "the address");
        const int count = i.choice;
        const uint32_t bytes = static_cast<uint32_t>(sizeof(T)) * static_cast<uint32_t>(count);
        for (uint32_t left = lanes; left != 0; left &= left - 1) {
            const int lane = first_lane(left);
            T values[4];
            for (int k = 0; k < count; ++k) values[k] = static_cast<T>(warp.at<R>(i.in[1 + k])[lane]);
            const Cell to = cell(warp, i, lane, address_of(warp, i, lane), bytes, Use::write, values);
            std::memcpy(to.bytes, values, bytes);
            for (int k = 0; k < count; ++k) {
                const bool is_known = warp.known[i.in[1 + k].known] >> lane & 1;
                if (to.known != nullptr) std::memset(to.known + k * sizeof(T), is_known ? kKnown : 0, sizeof(T));
                else if (!is_known) require_known(warp, i, i.in[1 + k], 1u << lane, "the array's value");
            }
        }
    }
};

struct Exchange { template <class T> static T of(T, T b) { return b; } };
struct Increment { template <class T> static T of(T a, T b) { return a >= b ? T(0) : static_cast<T>(a + 1); } };
struct Decrement { template <class T> static T of(T a, T b) { return a == 0 || a > b ? b : static_cast<T>(a - 1); } };

/// atom and red. compares: the third operand is stored where the second is there.
template <class T, T (*f)(T, T), bool compares = false> struct Atomic {
    static void run(Warp& warp, const Instruction& i, uint32_t lanes) {
        require_known(warp, i, i.in[0], lanes, "the address");
        require_known(warp, i, i.in[1], lanes, "the atomic operation");
        if (compares) require_known(warp, i, i.in[2], lanes, "the atomic operation");
        T before[kLanes];
        for (uint32_t left = lanes; left != 0; left &= left - 1) {
            const int lane = first_lane(left);
            const Cell place = cell(warp, i, lane, address_of(warp, i, lane), sizeof(T), Use::atomic);
            if (place.known != nullptr)
                for (size_t k = 0; k < sizeof(T); ++k)
                    if (place.known[k] != kKnown) fault(warp, i, lane, "the atomic operation depends on a value that was never written");
            std::memcpy(&before[lane], place.bytes, sizeof(T));
            const T operand = warp.at<T>(i.in[1])[lane];
            const T after = compares ? (before[lane] == operand ? warp.at<T>(i.in[2])[lane] : before[lane]) : f(before[lane], operand);
            std::memcpy(place.bytes, &after, sizeof(T));
        }
        if (i.num_out == 0) return;
        for (uint32_t left = lanes; left != 0; left &= left - 1) warp.at<T>(i.out[0])[first_lane(left)] = before[first_lane(left)];
        warp.set_known(i.out[0], lanes, lanes);
    }
};

// ---- Lanes meet: all lanes of the mask that have not exited call these at once ----

enum class Shuffle : uint8_t { up, down, butterfly, index };

/// in: value, lane or distance, bounds. out: value, and whether the source is within the bounds.
inline void shuffle(Warp& warp, const Instruction& i, uint32_t lanes) {
    require_known(warp, i, i.in[1], lanes, "the shuffle's lane");
    require_known(warp, i, i.in[2], lanes, "the shuffle's width");
    const uint32_t *value = warp.at<uint32_t>(i.in[0]), *where = warp.at<uint32_t>(i.in[1]), *bounds = warp.at<uint32_t>(i.in[2]);
    uint32_t results[kLanes] = {}, is_inside = 0, known = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
        const uint32_t me = static_cast<uint32_t>(lane), by = where[lane] & 31;
        const uint32_t clamp = bounds[lane] & 31, segment = bounds[lane] >> 8 & 31;
        const uint32_t low = me & segment, high = low | (clamp & ~segment);
        uint32_t from = me;
        bool inside = false;
        switch (static_cast<Shuffle>(i.choice)) {
            case Shuffle::up: from = me - by, inside = static_cast<int>(from) >= static_cast<int>(high); break;
            case Shuffle::down: from = me + by, inside = from <= high; break;
            case Shuffle::butterfly: from = me ^ by, inside = from <= high; break;
            case Shuffle::index: from = low | (by & ~segment), inside = from <= high; break;
        }
        if (!inside) from = me;
        results[lane] = value[from & 31];
        is_inside |= static_cast<uint32_t>(inside) << lane;
        // A lane that is not here has no value to give.
        known |= (lanes >> from & 1 & warp.known[i.in[0].known] >> from) << lane;
    }
    uint32_t* out = warp.at<uint32_t>(i.out[0]);
    for (int lane = 0; lane < kLanes; ++lane)
        if (lanes >> lane & 1) out[lane] = results[lane];
    warp.set_known(i.out[0], lanes, known);
    if (i.num_out > 1) {
        warp.bits(i.out[1]) = (warp.bits(i.out[1]) & ~lanes) | (is_inside & lanes);
        warp.set_known(i.out[1], lanes, lanes);
    }
}

enum class Vote : uint8_t { all, any, uniform, ballot };

inline void vote(Warp& warp, const Instruction& i, uint32_t lanes) {
    require_known(warp, i, i.in[0], lanes, "the vote");
    const uint32_t votes = (warp.bits(i.in[0]) ^ (i.negated_inputs & 1 ? kAll : 0)) & lanes;
    const auto kind = static_cast<Vote>(i.choice);
    if (kind == Vote::ballot) {
        for (int lane = 0; lane < kLanes; ++lane)
            if (lanes >> lane & 1) warp.at<uint32_t>(i.out[0])[lane] = votes;
    } else {
        const bool result = kind == Vote::any ? votes != 0 : votes == lanes || (kind == Vote::uniform && votes == 0);
        uint32_t& out = warp.bits(i.out[0]);
        out = result ? out | lanes : out & ~lanes;
    }
    warp.set_known(i.out[0], lanes, lanes);
}

/// match.any: the lanes with the same value.
template <class T> void match_any(Warp& warp, const Instruction& i, uint32_t lanes) {
    require_known(warp, i, i.in[0], lanes, "the match");
    const T* value = warp.at<T>(i.in[0]);
    uint32_t results[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
        results[lane] = 0;
        for (int other = 0; other < kLanes; ++other)
            results[lane] |= static_cast<uint32_t>((lanes >> other & 1) && value[other] == value[lane]) << other;
    }
    for (int lane = 0; lane < kLanes; ++lane)
        if (lanes >> lane & 1) warp.at<uint32_t>(i.out[0])[lane] = results[lane];
    warp.set_known(i.out[0], lanes, lanes);
}

inline void no_operation(Warp&, const Instruction&, uint32_t) {}

// ---- Barriers of a block: run gives the result to each warp ----

enum class Reduction : uint8_t { none, all, any, count };

inline void give_votes(Warp& warp, const Instruction& i, uint32_t result) {
    if (static_cast<Reduction>(i.choice) == Reduction::none) return;
    if (static_cast<Reduction>(i.choice) == Reduction::count) std::fill_n(warp.at<uint32_t>(i.out[0]), kLanes, result);
    else warp.bits(i.out[0]) = result != 0 ? kAll : 0;
    warp.set_known(i.out[0], kAll, kAll);
}

}  // namespace ptx
