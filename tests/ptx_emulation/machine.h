// The state of a running kernel: device memory, blocks, warps with the values of 32 lanes per register, and instructions.
// Every byte of memory and every lane of a register knows whether it was ever written.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <sstream>

#include "text.h"

namespace ptx {

constexpr int kLanes = 32;
constexpr uint32_t kAll = 0xffffffffu;
constexpr uint8_t kKnown = 0xff;
// Generic addresses: below these windows lie pointers to device memory, which are this process's.
constexpr uint64_t kSharedWindow = 1ull << 56, kLocalWindow = 1ull << 57, kWindow = 1ull << 32;
constexpr uint64_t kMaxShared = 48 * 1024;

/// A kernel did what it must not do; the message says what and where.
struct Fault : std::runtime_error { using std::runtime_error::runtime_error; };

// ---- Device memory ----

struct Region {
    uint64_t begin = 0, end = 0;
    std::vector<uint8_t> known;  // of each byte; empty = all are
};

/// The arrays that kernels may touch.
class DeviceMemory {
  public:
    void add(const void* pointer, uint64_t bytes, bool is_known) {
        const auto begin = reinterpret_cast<uint64_t>(pointer), end = begin + bytes;
        if (bytes == 0) return;
        auto at = regions_.upper_bound(begin);  // what lay here before is gone
        if (at != regions_.begin() && std::prev(at)->second.end > begin) --at;
        while (at != regions_.end() && at->first < end) at = regions_.erase(at);
        regions_[begin] = {begin, end, std::vector<uint8_t>(is_known ? 0 : bytes)};
    }
    void remove(const void* pointer) { regions_.erase(reinterpret_cast<uint64_t>(pointer)); }

    /// The array that has all of these bytes, or null.
    Region* find(uint64_t address, uint64_t bytes) {
        auto at = regions_.upper_bound(address);
        if (at == regions_.begin()) return nullptr;
        Region& region = (--at)->second;
        return address + bytes <= region.end ? &region : nullptr;
    }

  private:
    std::map<uint64_t, Region> regions_;
};

// ---- Instructions ----

struct Warp;
struct Instruction;
using Handler = void (*)(Warp&, const Instruction&, uint32_t lanes);

enum class Space : uint8_t { generic, global, shared, local, param };
enum class Kind : uint8_t { compute, block_start, branch, exit, warp_sync, barrier, yield };

/// Where a register's values lie (bytes from the warp's first), and the number of its mask of written lanes.
/// Constants are registers that are always written.
struct Operand { uint32_t slot = 0, known = 0; };

constexpr int kMaxOperands = 5;
struct Instruction {
    Handler run = nullptr;
    Kind kind = Kind::compute;
    Space space = Space::generic;
    bool has_guard = false, guard_is_negated = false, is_unordered = false;  // unordered: volatile or relaxed
    uint8_t num_out = 1, choice = 0, negated_inputs = 0;                     // choice: see the handler
    uint8_t in_bytes = 0, out_bytes = 0;                                     // sizes of registers
    Operand guard, mask;                                                     // mask: of the lanes that meet
    Operand out[4], in[kMaxOperands];
    uint64_t offset = 0;  // of an address
    uint32_t target = 0;  // of a branch
    Place place;
};

struct Constant { Operand operand; uint64_t bits; uint32_t bytes; };  // 0 bytes: a predicate

/// A kernel, ready to run.
struct Code {
    std::string name, shown_name;
    std::vector<Instruction> instructions;
    uint32_t slot_bytes = 0, num_known = 1;
    std::vector<Constant> constants;
    std::vector<std::pair<Operand, std::string>> specials;  // %tid.x and the like
    uint64_t param_bytes = 0, shared_bytes = 0, local_bytes = 0;
    uint32_t shared_grain = 4;  // bytes that races are told apart by
    std::vector<std::pair<uint64_t, uint64_t>> params;  // offset and size
    uint32_t max_threads = 1024, num_registers = 0;
    const std::map<uint32_t, std::string>* files = nullptr;
    std::string_view text;
};

// ---- Blocks and warps ----

/// Lanes that are at the same instruction.
struct Group { uint32_t pc, lanes; bool waits; };

struct Block;
struct Warp {
    enum State { ready, at_barrier, done };
    Block* block = nullptr;
    uint32_t index = 0, present = 0, alive = 0;
    State state = ready;
    bool takes_last_group = false;
    std::vector<Group> groups;
    std::vector<uint8_t> storage, local, local_known;
    uint8_t* values = nullptr;
    std::vector<uint32_t> known;
    uint32_t barrier_pc = 0, votes = 0;

    template <class T> T* at(Operand operand) { return reinterpret_cast<T*>(values + operand.slot); }
    uint32_t& bits(Operand operand) { return *at<uint32_t>(operand); }  // of a predicate
    void set_known(Operand operand, uint32_t lanes, uint32_t is_known) {
        known[operand.known] = (known[operand.known] & ~lanes) | (is_known & lanes);
    }
};

/// Who touched a piece of shared memory since the last barrier.
struct Trace {
    uint32_t write_epoch = 0, read_epoch = 0, readers = 0;
    uint8_t writer = 0;  // a warp, or kSeveral by atomics
    bool is_atomic = false;
    static constexpr uint8_t kSeveral = 255;
};

struct Launch {
    const Code* code = nullptr;
    DeviceMemory* memory = nullptr;
    std::array<uint32_t, 3> grid{1, 1, 1}, threads{1, 1, 1};
    uint64_t dynamic_shared = 0;
    std::vector<uint8_t> params;
    Region* last_region = nullptr;
    std::mt19937 random;
    uint64_t num_threads() const { return uint64_t{threads[0]} * threads[1] * threads[2]; }
    uint64_t shared_size() const { return code->shared_bytes + dynamic_shared; }
};

struct Block {
    Launch* launch = nullptr;
    uint64_t index = 0, steps = 0;
    uint32_t epoch = 1, num_done = 0;  // epoch: barriers so far
    std::vector<Warp> warps;
    std::vector<uint8_t> shared, shared_known;
    std::vector<Trace> traces;
};

// ---- Messages ----

inline std::string file_name(const Code& code, uint32_t number) {
    const auto found = code.files->find(number);
    return found == code.files->end() ? "" : found->second.substr(found->second.rfind('/') + 1);
}

/// "bar.sync 0; (PTX line 12, cuda_loss.cu line 40)"
inline std::string text_of(const Code& code, const Instruction& instruction) {
    const Place& place = instruction.place;
    size_t begin = 0;
    for (uint32_t line = 1; line < place.line; ++line) begin = code.text.find('\n', begin) + 1;
    std::string text(code.text.substr(begin, code.text.find('\n', begin) - begin));
    text.erase(0, text.find_first_not_of(" \t"));
    std::replace(text.begin(), text.end(), '\t', ' ');
    std::ostringstream out;
    out << text << " (PTX line " << place.line;
    if (place.file != 0) out << ", " << file_name(code, place.file) << " line " << place.source_line;
    if (place.caller_file != 0) out << " in " << file_name(code, place.caller_file) << " line " << place.caller_line;
    out << ")";
    return out.str();
}

[[noreturn]] inline void fault(const Warp& warp, const Instruction& instruction, int lane, const std::string& what) {
    const Launch& launch = *warp.block->launch;
    throw Fault(launch.code->shown_name + ", block " + std::to_string(warp.block->index) + ", thread " +
                std::to_string(warp.index * kLanes + static_cast<uint32_t>(lane)) + ": " + what + ": " +
                text_of(*launch.code, instruction));
}
inline int first_lane(uint32_t lanes) { return std::countr_zero(lanes); }

/// Faults unless the lanes' values were all written.
inline void require_known(const Warp& warp, const Instruction& instruction, Operand operand, uint32_t lanes,
                          const char* use) {
    if (const uint32_t unknown = lanes & ~warp.known[operand.known]; unknown != 0)
        fault(warp, instruction, first_lane(unknown), std::string(use) + " depends on a value that was never written");
}

// ---- Access to memory ----

enum class Use { read, write, atomic };

/// Bytes and, unless they are all known, what is known of them.
struct Cell { uint8_t *bytes, *known; };

/// Notes the access and faults where another warp's access since the last barrier makes the result depend on the order.
/// `same` tells whether a write changes nothing.
inline void trace_shared(Warp& warp, const Instruction& instruction, int lane, uint64_t address, uint32_t bytes, Use use,
                         bool same) {
    Block& block = *warp.block;
    const uint32_t grain = block.launch->code->shared_grain, epoch = block.epoch;
    const auto me = static_cast<uint8_t>(warp.index);
    const bool is_checked = !same && !instruction.is_unordered, is_atomic = use == Use::atomic;
    for (uint64_t at = address / grain, end = (address + bytes + grain - 1) / grain; at < end; ++at) {
        Trace& trace = block.traces[at];
        const bool is_written = trace.write_epoch == epoch;
        if (is_checked && is_written && trace.writer != me && !(is_atomic && trace.is_atomic))
            fault(warp, instruction, lane, "another warp wrote this shared memory, with no barrier between");
        if (use == Use::read) {
            if (trace.read_epoch != epoch) trace.read_epoch = epoch, trace.readers = 0;
            trace.readers |= 1u << warp.index;
        } else if (!same) {
            if (is_checked && trace.read_epoch == epoch && (trace.readers & ~(1u << warp.index)) != 0)
                fault(warp, instruction, lane, "another warp reads this shared memory, with no barrier between");
            trace.writer = is_atomic && is_written && trace.is_atomic && trace.writer != me ? Trace::kSeveral : me;
            trace.write_epoch = epoch, trace.is_atomic = is_atomic;
        }
    }
}

inline std::string hex(uint64_t value) {
    std::ostringstream out;
    out << "0x" << std::hex << value;
    return out.str();
}

[[noreturn]] inline void outside(const Warp& warp, const Instruction& instruction, int lane, uint64_t address,
                                 uint32_t bytes, const char* where) {
    fault(warp, instruction, lane,
          std::to_string(bytes) + " bytes at " + hex(address) + " are outside of " + std::string(where));
}

/// The memory at an address, after all checks. `value` is what will be written.
inline Cell cell(Warp& warp, const Instruction& instruction, int lane, uint64_t address, uint32_t bytes, Use use,
                 const void* value = nullptr) {
    Block& block = *warp.block;
    Launch& launch = *block.launch;
    if (address % bytes != 0) fault(warp, instruction, lane, hex(address) + " is not a multiple of " + std::to_string(bytes));
    Space space = instruction.space;
    if (space == Space::generic) {
        if (address - kSharedWindow < kWindow) space = Space::shared, address -= kSharedWindow;
        else if (address - kLocalWindow < kWindow) space = Space::local, address -= kLocalWindow;
        else space = Space::global;
    }
    switch (space) {
        case Space::shared: {
            if (address + bytes > launch.shared_size() || address + bytes < address)
                outside(warp, instruction, lane, address, bytes,
                        ("the block's " + std::to_string(launch.shared_size()) + " bytes of shared memory").c_str());
            uint8_t* place = block.shared.data() + address;
            trace_shared(warp, instruction, lane, address, bytes, use,
                         use == Use::write && std::memcmp(place, value, bytes) == 0);
            return {place, block.shared_known.data() + address};
        }
        case Space::local: {
            const uint64_t size = launch.code->local_bytes;
            if (address + bytes > size) outside(warp, instruction, lane, address, bytes, "the thread's local memory");
            const uint64_t at = size * static_cast<uint64_t>(lane) + address;
            return {warp.local.data() + at, warp.local_known.data() + at};
        }
        case Space::param:
            if (address + bytes > launch.params.size()) outside(warp, instruction, lane, address, bytes, "the parameters");
            return {launch.params.data() + address, nullptr};
        default: {
            Region* region = launch.last_region;
            if (region == nullptr || address < region->begin || address + bytes > region->end) {
                region = launch.memory->find(address, bytes);
                if (region == nullptr) outside(warp, instruction, lane, address, bytes, "all arrays");
                launch.last_region = region;
            }
            return {reinterpret_cast<uint8_t*>(address), region->known.empty() ? nullptr : &region->known[address - region->begin]};
        }
    }
}

}  // namespace ptx
