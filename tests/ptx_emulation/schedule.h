// Runs the blocks of a grid: which warp runs next, how lanes of a warp part and come together, and who waits at a barrier.
#pragma once

#include <numeric>

#include "decode.h"

namespace ptx {

/// How the next warp is chosen. A kernel must not depend on it.
enum class Order { forwards, backwards, shuffled, mixed };

inline Order order_of(const char* name) {
    const std::string_view asked = name == nullptr ? "" : name;
    return asked == "forwards" ? Order::forwards : asked == "backwards" ? Order::backwards
           : asked == "shuffled" ? Order::shuffled : Order::mixed;
}

class Runner {
  public:
    /// mixed: one of the three others, or warps of up to three blocks that take turns after a few instructions.
    Runner(Launch& launch, Order order) : launch_(launch), code_(*launch.code), order_(order) {
        const uint32_t draw = launch.random();
        if (order_ == Order::mixed) {
            takes_turns_ = draw % 2 == 0;
            order_ = takes_turns_ ? Order::shuffled : static_cast<Order>(draw / 2 % 3);
        }
        const uint64_t num_blocks = uint64_t{launch.grid[0]} * launch.grid[1] * launch.grid[2];
        blocks_.resize(std::min<uint64_t>(num_blocks, takes_turns_ ? 1 + draw / 16 % 3 : 1));
        for (Block& block : blocks_) prepare(block);
        num_blocks_ = num_blocks;
    }

    /// Throws Fault.
    void run() {
        // Blocks start in the order of their indices, which CUB's look-back needs, and which all GPUs do.
        uint64_t next = 0, running = 0;
        for (Block& block : blocks_) start(block, next++), ++running;
        while (running > 0) {
            Block& block = blocks_[blocks_.size() == 1 ? 0 : launch_.random() % blocks_.size()];
            if (block.num_done == block.warps.size()) continue;
            Warp* warp = next_warp(block);
            if (warp == nullptr) {
                release_barrier(block);
                continue;
            }
            run_warp(*warp, takes_turns_ ? 1 + launch_.random() % 24 : kLongTurn);
            if (block.num_done < block.warps.size()) continue;
            if (next < num_blocks_) start(block, next++);
            else --running;
        }
    }

  private:
    static constexpr uint32_t kLongTurn = 20000;        // basic blocks: a warp that waits for another one must not run forever
    static constexpr uint64_t kMaxSteps = 20'000'000;   // basic blocks of a block: it does not end

    // ---- Blocks ----

    void prepare(Block& block) {
        block.launch = &launch_;
        block.warps.resize((launch_.num_threads() + kLanes - 1) / kLanes);
        for (Warp& warp : block.warps) {
            warp.block = &block;
            warp.index = static_cast<uint32_t>(&warp - block.warps.data());
            warp.storage.assign(code_.slot_bytes + 64, 0xff);
            warp.values = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(warp.storage.data()) + 63) / 64 * 64);
            const uint64_t threads = launch_.num_threads() - uint64_t{warp.index} * kLanes;
            warp.present = threads >= kLanes ? kAll : (1u << threads) - 1;
            warp.local.resize(code_.local_bytes * kLanes);
            for (const Constant& constant : code_.constants) broadcast(warp, constant.operand, constant.bits, constant.bytes);
            for (const auto& [operand, name] : code_.specials) set_special(warp, operand, name);
        }
    }
    static void broadcast(Warp& warp, Operand operand, uint64_t bits, uint32_t bytes) {
        if (bytes == 0) warp.bits(operand) = bits != 0 ? kAll : 0;
        else if (bytes == 2) std::fill_n(warp.at<uint16_t>(operand), kLanes, static_cast<uint16_t>(bits));
        else if (bytes == 4) std::fill_n(warp.at<uint32_t>(operand), kLanes, static_cast<uint32_t>(bits));
        else std::fill_n(warp.at<uint64_t>(operand), kLanes, bits);
    }

    void start(Block& block, uint64_t index) {
        block.index = index, block.steps = 0, block.epoch = 1, block.num_done = 0;
        block.shared.assign(launch_.shared_size(), 0xff);
        block.shared_known.assign(launch_.shared_size(), 0);
        block.traces.assign(launch_.shared_size() / code_.shared_grain + 1, {});
        for (Warp& warp : block.warps) {
            warp.state = Warp::ready, warp.alive = warp.present;
            warp.groups.assign(1, {0, warp.present, false});
            warp.takes_last_group = order_ == Order::shuffled && launch_.random() % 4 == 0;
            warp.known.assign(code_.num_known, 0);
            for (const Constant& constant : code_.constants) warp.known[constant.operand.known] = kAll;
            warp.local_known.assign(warp.local.size(), 0);
            for (const auto& [operand, name] : code_.specials) {
                warp.known[operand.known] = kAll;
                if (name.starts_with("%ctaid")) set_special(warp, operand, name);
            }
        }
    }

    void set_special(Warp& warp, Operand operand, const std::string& name) {
        const uint64_t block = warp.block->index, across = launch_.grid[0], down = launch_.grid[1];
        const auto set = [&](auto value) {
            for (uint32_t lane = 0; lane < kLanes; ++lane) warp.at<uint32_t>(operand)[lane] = static_cast<uint32_t>(value(lane));
        };
        if (name == "%ctaid.x") return set([&](uint32_t) { return block % across; });
        if (name == "%ctaid.y") return set([&](uint32_t) { return block / across % down; });
        if (name == "%ctaid.z") return set([&](uint32_t) { return block / (across * down); });
        const auto& [width, height, depth] = launch_.threads;
        const uint32_t first = warp.index * kLanes;
        if (name == "%tid.x") return set([&](uint32_t lane) { return (first + lane) % width; });
        if (name == "%tid.y") return set([&](uint32_t lane) { return (first + lane) / width % height; });
        if (name == "%tid.z") return set([&](uint32_t lane) { return (first + lane) / (width * height); });
        if (name == "%laneid") return set([](uint32_t lane) { return lane; });
        if (name == "%lanemask_eq") return set([](uint32_t lane) { return 1u << lane; });
        if (name == "%lanemask_lt") return set([](uint32_t lane) { return (1u << lane) - 1; });
        if (name == "%lanemask_le") return set([](uint32_t lane) { return (2u << lane) - 1; });
        if (name == "%lanemask_gt") return set([](uint32_t lane) { return ~((2u << lane) - 1); });
        if (name == "%lanemask_ge") return set([](uint32_t lane) { return ~((1u << lane) - 1); });
        const std::pair<const char*, uint64_t> others[] = {
            {"%ntid.x", width}, {"%ntid.y", height}, {"%ntid.z", depth}, {"%nctaid.x", across}, {"%nctaid.y", down},
            {"%nctaid.z", launch_.grid[2]}, {"%warpid", warp.index}, {"%nwarpid", warp.block->warps.size()},
            {"%smid", 0}, {"%nsmid", 1}, {"%dynamic_smem_size", launch_.dynamic_shared}};
        for (const auto& [known, value] : others)
            if (name == known) return broadcast(warp, operand, value, 4);
        throw TextError(code_.shown_name + ": the register " + name + " is not known");
    }

    Warp* next_warp(Block& block) {
        const size_t count = block.warps.size();
        const size_t first = order_ == Order::shuffled ? launch_.random() % count : 0;
        for (size_t k = 0; k < count; ++k) {
            const size_t at = (first + k) % count;
            Warp& warp = block.warps[order_ == Order::backwards ? count - 1 - at : at];
            if (warp.state == Warp::ready) return &warp;
        }
        return nullptr;
    }

    /// All warps have come, or the block is stuck.
    void release_barrier(Block& block) {
        uint32_t waiting = 0, exited = 0;
        const Warp *first = nullptr, *other = nullptr;
        for (const Warp& warp : block.warps) {
            const bool waits = warp.state == Warp::at_barrier;
            waiting += static_cast<uint32_t>(waits ? std::popcount(warp.alive) : 0);
            exited += static_cast<uint32_t>(std::popcount(warp.present & ~warp.alive));
            if (waits && first == nullptr) first = &warp;
            if (waits && warp.barrier_pc != first->barrier_pc) other = &warp;
        }
        const Instruction& barrier = code_.instructions[first->barrier_pc];
        const std::string here = std::to_string(waiting) + " of " + std::to_string(launch_.num_threads()) + " threads";
        if (exited > 0) fault(*first, barrier, first_lane(first->alive), here + " wait, " + std::to_string(exited) + " returned");
        if (other != nullptr)
            fault(*first, barrier, first_lane(first->alive),
                  here + " wait at two barriers; one is " + text_of(code_, code_.instructions[other->barrier_pc]) + ", the other");
        uint32_t count = 0;
        for (const Warp& warp : block.warps) count += static_cast<uint32_t>(std::popcount(warp.votes & warp.present));
        const auto reduction = static_cast<Reduction>(barrier.choice);
        const uint32_t result = reduction == Reduction::all ? count == launch_.num_threads() : count;
        for (Warp& warp : block.warps) {
            give_votes(warp, barrier, result);
            warp.state = Warp::ready;
            warp.groups.assign(1, {warp.barrier_pc + 1, warp.alive, false});
        }
        ++block.epoch;
    }

    // ---- Warps ----

    /// Runs until the warp waits, is done, or has begun `turn` basic blocks.
    void run_warp(Warp& warp, uint32_t turn) {
        left_ = turn;
        bool stirs = turn == kLongTurn && warp.block->steps > 0 && warp.groups.size() > 1;
        while (warp.state == Warp::ready) {
            if (warp.groups.empty()) {
                warp.state = Warp::done;
                ++warp.block->num_done;
                return;
            }
            const size_t at = next_group(warp, stirs);
            stirs = false;
            Group group = warp.groups[at];
            warp.groups.erase(warp.groups.begin() + static_cast<long>(at));
            group.waits = false;
            run_group(warp, group);
            if (left_ == 0) return;
        }
    }

    /// The lowest instruction first, so that lanes come together again; or the highest, or any.
    size_t next_group(Warp& warp, bool any) {
        size_t found = warp.groups.size();
        const size_t first = any ? launch_.random() % warp.groups.size() : 0;
        for (size_t k = 0; k < warp.groups.size(); ++k) {
            const size_t at = (first + k) % warp.groups.size();
            if (warp.groups[at].waits) continue;
            if (found == warp.groups.size()) found = at;
            else if (!any && (warp.groups[at].pc < warp.groups[found].pc) != warp.takes_last_group) found = at;
        }
        if (found < warp.groups.size()) return found;
        // All wait. What they wait for may have come: others exited.
        for (size_t at = 0; at < warp.groups.size(); ++at)
            if (can_go_on(warp, warp.groups[at])) return at;
        stuck(warp);
    }
    bool can_go_on(Warp& warp, const Group& group) const {
        const Instruction& i = code_.instructions[group.pc];
        if (i.kind == Kind::barrier) return group.lanes == warp.alive;
        return complete(warp, i, group.lanes) != 0;
    }
    [[noreturn]] void stuck(const Warp& warp) const {
        const Group &a = warp.groups[0], &b = warp.groups[warp.groups.size() - 1];
        std::string what = "lanes " + hex(a.lanes) + " wait for other lanes of the warp";
        if (warp.groups.size() > 1) what += "; lanes " + hex(b.lanes) + " wait at " + text_of(code_, code_.instructions[b.pc]);
        if (warp.alive != warp.present) what += "; lanes " + hex(warp.present & ~warp.alive) + " returned";
        fault(warp, code_.instructions[a.pc], first_lane(a.lanes), what);
    }

    /// Adds the lanes of other groups that are at the same instruction.
    static void merge(Warp& warp, Group& group, bool only_waiting = false) {
        for (size_t k = 0; k < warp.groups.size();) {
            if (warp.groups[k].pc != group.pc || (only_waiting && !warp.groups[k].waits)) {
                ++k;
                continue;
            }
            group.lanes |= warp.groups[k].lanes;
            warp.groups.erase(warp.groups.begin() + static_cast<long>(k));
        }
    }

    /// Lanes of a group whose mask is here completely, but for lanes that exited; 0 if there are none.
    static uint32_t complete(Warp& warp, const Instruction& i, uint32_t lanes) {
        const uint32_t* masks = warp.at<uint32_t>(i.mask);
        require_known(warp, i, i.mask, lanes, "the mask");
        for (uint32_t left = lanes; left != 0;) {
            const uint32_t mask = masks[first_lane(left)];
            uint32_t same = 0;
            for (uint32_t k = left; k != 0; k &= k - 1) same |= static_cast<uint32_t>(masks[first_lane(k)] == mask) << first_lane(k);
            if ((same & ~mask) != 0) fault(warp, i, first_lane(same & ~mask), "the thread is not in its own mask " + hex(mask));
            if ((mask & warp.alive) == same) return same;
            left &= ~same;
        }
        return 0;
    }

    void run_group(Warp& warp, Group group) {
        const Instruction* const instructions = code_.instructions.data();
        const auto put_back = [&](uint32_t pc, uint32_t lanes, bool waits = false) {
            if (lanes != 0) warp.groups.push_back({pc, lanes, waits});
        };
        for (;;) {
            const Instruction& i = instructions[group.pc];
            uint32_t lanes = group.lanes;
            if (i.has_guard) {
                require_known(warp, i, i.guard, lanes, "what is executed");
                lanes &= warp.bits(i.guard) ^ (i.guard_is_negated ? kAll : 0);
            }
            switch (i.kind) {
                case Kind::compute:
                    if (lanes != 0) i.run(warp, i, lanes);
                    ++group.pc;
                    continue;
                case Kind::block_start: {
                    if (!warp.groups.empty()) {
                        merge(warp, group);
                        if (!warp.takes_last_group)
                            for (const Group& other : warp.groups)
                                if (!other.waits && other.pc < group.pc) return put_back(group.pc, group.lanes);
                    }
                    if (++warp.block->steps > kMaxSteps) fault(warp, instructions[group.pc + 1], first_lane(group.lanes), "the block does not end");
                    ++group.pc;
                    if (--left_ == 0) return put_back(group.pc, group.lanes);
                    continue;
                }
                case Kind::branch:
                    if (lanes == group.lanes) {
                        group.pc = i.target;
                        continue;
                    }
                    put_back(i.target, lanes);
                    group.lanes &= ~lanes;
                    ++group.pc;
                    continue;  // the next is the start of a basic block, which looks at the others
                case Kind::yield:
                    left_ = 0;
                    return put_back(group.pc + 1, group.lanes);
                case Kind::exit:
                    warp.alive &= ~lanes;
                    group.lanes &= ~lanes;
                    return put_back(group.pc + 1, group.lanes);
                case Kind::warp_sync: {
                    if (lanes != group.lanes) {  // guarded
                        put_back(group.pc + 1, group.lanes & ~lanes);
                        if (lanes == 0) return;
                        group.lanes = lanes;
                    }
                    merge(warp, group, i.has_guard);
                    const uint32_t now = complete(warp, i, group.lanes);
                    if (now == 0) return put_back(group.pc, group.lanes, true);
                    i.run(warp, i, now);
                    if (now != group.lanes) {
                        put_back(group.pc, group.lanes & ~now);
                        return put_back(group.pc + 1, now);
                    }
                    ++group.pc;
                    continue;
                }
                case Kind::barrier:
                    if (lanes != group.lanes) {
                        put_back(group.pc + 1, group.lanes & ~lanes);
                        if (lanes == 0) return;
                        group.lanes = lanes;
                    }
                    merge(warp, group, i.has_guard);
                    if (group.lanes != warp.alive) return put_back(group.pc, group.lanes, true);
                    if (static_cast<Reduction>(i.choice) != Reduction::none) {
                        require_known(warp, i, i.in[0], group.lanes, "the vote");
                        warp.votes = (warp.bits(i.in[0]) ^ (i.negated_inputs & 1 ? kAll : 0)) & group.lanes;
                    }
                    warp.barrier_pc = group.pc;
                    warp.state = Warp::at_barrier;
                    return;
            }
        }
    }

    Launch& launch_;
    const Code& code_;
    Order order_;
    bool takes_turns_ = false;
    uint64_t num_blocks_ = 0;
    uint32_t left_ = 0;
    std::vector<Block> blocks_;
};

}  // namespace ptx
