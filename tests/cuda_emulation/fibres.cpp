#include "fibres.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

// swapcontext saves the signal mask with a system call, a hundred times slower than what a switch needs: six registers.
#if defined(__x86_64__) && defined(__ELF__) && !defined(CUDA_EMULATION_UCONTEXT)
#define CUDA_EMULATION_ASSEMBLY
#else
#include <ucontext.h>
#endif

uint3 threadIdx{}, blockIdx{};
dim3 blockDim, gridDim;

namespace {
constexpr size_t kGuard = 4096;  // bytes behind the largest shared memory that must stay as they are
}
namespace dgr::cuda {  // where the kernels' host side declares it
alignas(4096) unsigned char block_memory[cuda_emulation::kMaxShared + kGuard];
}

// What the sanitizers have to know about fibres. For ThreadSanitizer a switch is no order: what happened before what
// only follows from barriers and shuffles, as on a GPU. This file itself is never built with ThreadSanitizer.
#ifdef CUDA_EMULATION_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#else
static void* __tsan_get_current_fiber() { return nullptr; }
static void* __tsan_create_fiber(unsigned) { return nullptr; }
static void __tsan_switch_to_fiber(void*, unsigned) {}
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif
#ifdef __SANITIZE_ADDRESS__
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
void __asan_unpoison_memory_region(const volatile void* memory, size_t size);
}
#else
static void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
static void __asan_unpoison_memory_region(const volatile void*, size_t) {}
#endif

#ifdef CUDA_EMULATION_ASSEMBLY
// Keeps what the ABI says a call keeps (but for the floating point modes, which nobody changes), leaves this stack, and
// goes on where the other one was left.
asm(R"(
    .text
    .local cuda_emulation_switch
    .type cuda_emulation_switch, @function
cuda_emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_emulation_switch, .-cuda_emulation_switch
)");
extern "C" void cuda_emulation_switch(void** left, void* entered);
#endif

namespace cuda_emulation {
namespace {

/// A stack and where it was left.
class Context {
  public:
    /// The thread that calls, on its own stack.
    void adopt() {
        fiber_ = __tsan_get_current_fiber();
        pthread_attr_t attributes;
        void* bottom = nullptr;
        if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
        pthread_attr_getstack(&attributes, &bottom, &size_);
        pthread_attr_destroy(&attributes);
        bottom_ = bottom;
    }
    void start(unsigned char* stack, size_t size, void (*entry)()) {
        if (!fiber_) fiber_ = __tsan_create_fiber(0);
        bottom_ = stack, size_ = size, fake_stack_ = nullptr;
        __asan_unpoison_memory_region(stack, size);
#ifdef CUDA_EMULATION_ASSEMBLY
        auto* top = reinterpret_cast<void**>(stack + size);
        *--top = nullptr;  // where entry would return to; above it, as after any call, the stack is aligned to 16
        *--top = reinterpret_cast<void*>(entry);
        for (int i = 0; i < 6; ++i) *--top = nullptr;
        left_at_ = top;
#else
        getcontext(&context_);
        context_.uc_stack.ss_sp = stack;
        context_.uc_stack.ss_size = size;
        context_.uc_link = nullptr;
        makecontext(&context_, entry, 0);
#endif
    }
    /// The first that a fibre does.
    static void entered() { __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr); }
    void switch_to(Context& other) {
        constexpr unsigned kNoSync = 1;
        __tsan_switch_to_fiber(other.fiber_, kNoSync);
        __sanitizer_start_switch_fiber(&fake_stack_, other.bottom_, other.size_);
#ifdef CUDA_EMULATION_ASSEMBLY
        cuda_emulation_switch(&left_at_, other.left_at_);
#else
        swapcontext(&context_, &other.context_);
#endif
        __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
    }

  private:
    void *fiber_ = nullptr, *fake_stack_ = nullptr;
    const void* bottom_ = nullptr;
    size_t size_ = 0;
#ifdef CUDA_EMULATION_ASSEMBLY
    void* left_at_ = nullptr;
#else
    ucontext_t context_;
#endif
};

/// One stack for each thread of the largest block, each above a page that nobody may touch; used again by every block.
class Stacks {
  public:
    static constexpr size_t kSize = 64 * 1024;
    Stacks() : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
        void* memory = mmap(nullptr, kMaxThreads * pitch(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        memory_ = static_cast<unsigned char*>(memory);
        for (unsigned i = 0; i < kMaxThreads; ++i) mprotect(memory_ + i * pitch(), page_, PROT_NONE);
    }
    unsigned char* of(unsigned thread) const { return memory_ + thread * pitch() + page_; }
    /// Less than kSize by some cache lines, or the hot ends of all stacks would compete for the same place in the
    /// cache.
    static size_t size_of(unsigned thread) { return kSize - thread % 64 * 64; }

  private:
    size_t pitch() const { return kSize + page_; }
    size_t page_;
    unsigned char* memory_;
};

enum class State : uint8_t { ready, at_collective, at_barrier, returned };

struct Thread {
    Context* context;
    State state;
    Collective collective;
    Barrier barrier;
    unsigned mask;
    uint32_t value, result;
    int argument, width, source;
    CallSite at;
    char order[2];  // addresses for ThreadSanitizer: what the lane did before its collectives, by turns
    unsigned turn;
    uint32_t turns;  // of all lanes at the last collective, a bit each
};
struct Warp { uint32_t ready, waiting; };  // a bit for each lane

/// In which order threads run between two barriers; a kernel must not depend on it.
enum class Order { forwards, backwards, shuffled };

struct Machine {
    std::mutex mutex;
    Stacks stacks;
    Context scheduler, contexts[kMaxThreads];
    std::unique_ptr<Thread[]> threads{new Thread[kMaxThreads]{}};
    Warp warps[kMaxThreads / kLanes];
    unsigned num_threads = 0, current = 0;
    const std::function<void()>* body = nullptr;
    std::string failure;
    Order order = Order::forwards;
    unsigned round = 0;  // of barriers
    char start, end, barrier[2];  // addresses for ThreadSanitizer: of the block, of the grid, and of barriers, by turns
    uint32_t random_state = seed() | 1;  // goes on from launch to launch: a rerun runs in another order

    uint32_t random() {  // xorshift [Marsaglia 2003]
        random_state ^= random_state << 13;
        random_state ^= random_state >> 17;
        return random_state ^= random_state << 5;
    }
};
Machine& machine() {
    static Machine the_machine;
    return the_machine;
}
Machine* active = nullptr;  // while a grid runs

constexpr const char* kCollectives[] = {"__syncwarp",      "__shfl_sync",   "__shfl_up_sync", "__shfl_down_sync",
                                        "__shfl_xor_sync", "__ballot_sync", "__any_sync",     "__all_sync"};
constexpr const char* kBarriers[] = {"__syncthreads", "__syncthreads_and", "__syncthreads_or", "__syncthreads_count"};

bool is_same_place(const CallSite& a, const CallSite& b) {
    return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}
std::string text_of(const CallSite& at) {
    const std::string_view path(at.file);
    return std::string(path.substr(path.rfind('/') + 1)) + ":" + std::to_string(at.line);
}

int pick(uint32_t lanes) {
    switch (active->order) {
        case Order::forwards:
            return __builtin_ctz(lanes);
        case Order::backwards:
            return 31 - __builtin_clz(lanes);
        default:
            break;
    }
    const unsigned turn = active->random() % kLanes;
    const uint32_t turned = lanes >> turn | lanes << ((kLanes - turn) % kLanes);
    return int((unsigned(__builtin_ctz(turned)) + turn) % kLanes);
}

void enter(Context& from, unsigned thread) {
    active->current = thread;
    threadIdx.x = thread;
    from.switch_to(*active->threads[thread].context);
}

/// Leaves the current fibre, for another of its warp as long as there is one.
void suspend() {
    Machine& m = *active;
    Context& from = *m.threads[m.current].context;
    const uint32_t ready = m.warps[m.current / kLanes].ready;
    if (ready != 0 && m.failure.empty())
        enter(from, m.current / kLanes * kLanes + unsigned(pick(ready)));
    else
        from.switch_to(m.scheduler);
}

/// Ends the block: the fibre that calls it is left for ever.
[[noreturn]] void abandon(const std::string& failure) {
    active->failure = failure;
    suspend();
    std::abort();
}

void fibre_main() {
    Machine& m = *active;
    Context::entered();
    __tsan_acquire(&m.start);
    try {
        (*m.body)();
    } catch (const std::exception& error) { m.failure = std::string("the kernel threw ") + error.what(); } catch (...) {
        m.failure = "the kernel threw an exception";
    }
    __tsan_release(&m.end);
    m.threads[m.current].state = State::returned;
    m.warps[m.current / kLanes].ready &= ~(1u << m.current % kLanes);
    suspend();
    std::abort();  // nobody enters a fibre that has returned
}

/// The lane of the warp that a lane of a shuffle reads; its own where there is none.
int source_lane(const Thread& thread, int lane) {
    const int64_t first = lane & ~(thread.width - 1), last = lane | (thread.width - 1), argument = thread.argument;
    int64_t source = lane;
    switch (thread.collective) {
        case Collective::shfl:
            return int(first + (argument & (thread.width - 1)));
        case Collective::shfl_up:
            source = lane - argument;
            break;
        case Collective::shfl_down:
            source = lane + argument;
            break;
        case Collective::shfl_xor:
            return (lane ^ argument) <= last ? int(lane ^ argument) : lane;
        default:
            break;
    }
    return source < first || source > last ? lane : int(source);
}

/// Do all lanes of the mask wait at one and the same collective?
bool is_complete(const Warp& warp, const Thread* lanes, const Thread& last) {
    if ((warp.waiting & last.mask) != last.mask) return false;
    for (uint32_t rest = last.mask; rest != 0; rest &= rest - 1) {
        const Thread& t = lanes[__builtin_ctz(rest)];
        if (t.collective != last.collective || t.mask != last.mask || !is_same_place(t.at, last.at)) return false;
    }
    return true;
}

void give_results(Thread* lanes, Collective kind, unsigned mask) {
    uint32_t votes = 0, turns = 0;
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        votes |= (lanes[lane].value != 0 ? 1u : 0u) << lane;
        turns |= lanes[lane].turn << lane;
    }
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        Thread& t = lanes[lane];
        t.state = State::ready;
        t.turns = turns;
        switch (kind) {
            case Collective::syncwarp:
                t.result = 0;
                break;
            case Collective::ballot:
                t.result = votes;
                break;
            case Collective::any:
                t.result = votes != 0;
                break;
            case Collective::all:
                t.result = votes == mask;
                break;
            default: {
                const int source = source_lane(t, lane);
                const bool is_there = mask >> source & 1u;
                t.source = is_there ? source : lane;
                t.result = is_there ? lanes[source].value : 0x01010101u * poison();
            }
        }
    }
}

/// "255 of 256 threads wait at __syncthreads in blend.cu:88 (thread 0 is the first); 1 has returned (thread 255 ...)".
std::string where_all_are() {
    struct Group {
        std::string what;
        unsigned count, first;
    };
    std::vector<Group> groups;
    const Machine& m = *active;
    for (unsigned i = 0; i < m.num_threads; ++i) {
        const Thread& t = m.threads[i];
        std::ostringstream what;
        if (t.state == State::returned)
            what << "returned";
        else if (t.state == State::at_barrier)
            what << "at " << kBarriers[int(t.barrier)] << " in " << text_of(t.at);
        else
            what << "at " << kCollectives[int(t.collective)] << " of lanes 0x" << std::hex << t.mask << " in "
                 << text_of(t.at);
        const auto same =
            std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.what == what.str(); });
        if (same != groups.end())
            ++same->count;
        else
            groups.push_back({what.str(), 1, i});
    }
    std::ostringstream text;
    for (size_t i = 0; i < groups.size(); ++i)
        text << (i ? "; " : "") << groups[i].count << " of " << m.num_threads << " threads " << groups[i].what
             << " (thread " << groups[i].first << (groups[i].count > 1 ? " and others)" : ")");
    return text.str();
}

/// Lets all threads of the block pass the barrier they wait at. Is there none that all wait at?
bool open_barrier() {
    Machine& m = *active;
    const Thread& first = m.threads[0];
    unsigned votes = 0;
    for (unsigned i = 0; i < m.num_threads; ++i) {
        const Thread& t = m.threads[i];
        if (t.state != State::at_barrier || t.barrier != first.barrier || !is_same_place(t.at, first.at)) return false;
        votes += t.value != 0;
    }
    ++m.round;
    const bool all = votes == m.num_threads;
    const uint32_t results[] = {0, all, votes != 0, votes};
    for (unsigned i = 0; i < m.num_threads; ++i) {
        m.threads[i].result = results[int(first.barrier)];
        m.threads[i].state = State::ready;
        m.warps[i / kLanes].ready |= 1u << i % kLanes;
    }
    return true;
}

/// CUDA_EMULATION_ORDER = forwards, backwards or shuffled; else each round takes one of the three.
Order order_of_round() {
    const char* name = std::getenv("CUDA_EMULATION_ORDER");
    const std::string_view wanted(name ? name : "");
    if (wanted == "forwards") return Order::forwards;
    if (wanted == "backwards") return Order::backwards;
    return wanted == "shuffled" ? Order::shuffled : Order(active->random() % 3);
}

/// Puts 0, 1, ... count - 1 into the round's order.
void arrange(std::vector<uint32_t>& items, uint32_t count) {
    items.resize(count);
    std::iota(items.begin(), items.end(), 0u);
    if (active->order == Order::backwards) std::reverse(items.begin(), items.end());
    if (active->order == Order::shuffled)
        for (uint32_t i = count; i > 1; --i) std::swap(items[i - 1], items[active->random() % i]);
}

/// Takes the threads' contexts in another order in each block: ThreadSanitizer finds no races within a context, and
/// those between blocks are to be found.
void start_threads(uint32_t block) {
    Machine& m = *active;
    for (unsigned i = 0; i < m.num_threads; ++i) {
        const auto place = static_cast<unsigned>((i + uint64_t{37} * block) % m.num_threads);
        m.threads[i].context = &m.contexts[place];
        m.threads[i].context->start(m.stacks.of(place), Stacks::size_of(place), fibre_main);
        m.threads[i].state = State::ready;
        m.warps[i / kLanes].ready |= 1u << i % kLanes;
    }
}

/// Is this the call that CUDA_EMULATION_UNORDERED=file:line names? To ThreadSanitizer it is then not there.
bool is_ordered(const CallSite& at) {
    static const char* const name = std::getenv("CUDA_EMULATION_UNORDERED");
    static const int line = name ? std::atoi(std::strrchr(name, ':') + 1) : -1;
    return at.line != line || text_of(at) != name;
}

void run_block(uint32_t block, size_t shared_bytes) {
    Machine& m = *active;
    unsigned char* memory = dgr::cuda::block_memory;
#ifdef CUDA_EMULATION_TSAN
    // New memory: no block races with the one before it.
    mmap(memory, kMaxShared + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#endif
    std::memset(memory, poison(), kMaxShared + kGuard);
    __tsan_release(&m.start);
    const unsigned num_warps = (m.num_threads + kLanes - 1) / kLanes;
    for (unsigned w = 0; w < num_warps; ++w) m.warps[w] = {0, 0};
    start_threads(block);
    std::vector<uint32_t> warps;
    const auto has_returned = [](const Thread& t) { return t.state == State::returned; };
    do {
        m.order = order_of_round();
        arrange(warps, num_warps);
        for (const uint32_t w : warps)
            while (m.warps[w].ready != 0 && m.failure.empty())
                enter(m.scheduler, w * kLanes + unsigned(pick(m.warps[w].ready)));
        if (!m.failure.empty()) return;
    } while (open_barrier());
    if (!std::all_of(m.threads.get(), m.threads.get() + m.num_threads, has_returned)) {
        m.failure = "threads wait for ever: " + where_all_are();
        return;
    }
    const auto* end = memory + kMaxShared + kGuard;
    const auto* changed = std::find_if(memory + shared_bytes, const_cast<unsigned char*>(end),
                                       [](unsigned char byte) { return byte != poison(); });
    if (changed != end)
        m.failure = "wrote to byte " + std::to_string(changed - memory) + " of shared memory, of which it asked for " +
                    std::to_string(shared_bytes);
}

}  // namespace

namespace {
/// What a lane is ordered after. CUDA promises an order of memory for __syncwarp only. A shuffled value, and what depends
/// on it, comes after what its source did to get it; a vote is no order.
void acquire(Collective kind, Thread* lanes, const Thread& me, unsigned mask) {
    const bool is_shuffle = kind >= Collective::shfl && kind <= Collective::shfl_xor;
    uint32_t sources = is_shuffle ? 1u << me.source : kind == Collective::syncwarp ? mask : 0;
    if (!is_ordered(me.at)) sources = 0;
    for (; sources != 0; sources &= sources - 1) {
        const int lane = __builtin_ctz(sources);
        __tsan_acquire(&lanes[lane].order[me.turns >> lane & 1u]);
    }
}
}  // namespace

uint32_t seed() {
    static const uint32_t the_seed = [] {
        const char* wanted = std::getenv("CUDA_EMULATION_SEED");
        return wanted ? static_cast<uint32_t>(std::strtoul(wanted, nullptr, 10)) : std::random_device{}();
    }();
    return the_seed;
}

uint32_t meet(Collective kind, unsigned mask, uint32_t value, int argument, int width, const CallSite& at) {
    Machine& m = *active;
    const unsigned lane = m.current % kLanes;
    Thread& me = m.threads[m.current];
    Thread* lanes = &m.threads[m.current - lane];
    Warp& warp = m.warps[m.current / kLanes];
    const auto refuse = [&](const std::string& what) {
        abandon("thread " + std::to_string(m.current) + " called " + kCollectives[int(kind)] + " in " + text_of(at) +
                what);
    };
    if ((mask >> lane & 1u) == 0) refuse(" with a mask that leaves it out");
    if (width < 1 || width > kLanes || (width & (width - 1)) != 0) refuse(" with a width that is no power of two");
    me.state = State::at_collective;
    me.collective = kind;
    me.mask = mask;
    me.value = value;
    me.argument = argument;
    me.width = width;
    me.at = at;
    me.turn ^= 1;
    __tsan_release(&me.order[me.turn]);
    warp.waiting |= 1u << lane;
    if (is_complete(warp, lanes, me)) {
        give_results(lanes, kind, mask);
        warp.waiting &= ~mask;
        warp.ready |= mask;
    } else {
        warp.ready &= ~(1u << lane);
        suspend();
    }
    acquire(kind, lanes, me, mask);
    return me.result;
}

int wait_for_block(Barrier kind, int predicate, const CallSite& at) {
    Machine& m = *active;
    Thread& me = m.threads[m.current];
    me.state = State::at_barrier;
    me.barrier = kind;
    me.value = predicate != 0;
    me.at = at;
    m.warps[m.current / kLanes].ready &= ~(1u << m.current % kLanes);
    char* const order = &m.barrier[m.round % 2];
    if (is_ordered(at)) __tsan_release(order);
    suspend();
    if (is_ordered(at)) __tsan_acquire(order);
    return int(me.result);
}

std::string run_grid(uint32_t num_blocks, uint32_t threads_per_block, size_t shared_bytes,
                     const std::function<void()>& thread) {
    Machine& m = machine();
    const std::lock_guard lock(m.mutex);
    active = &m;
    m.scheduler.adopt();
    m.failure.clear();
    m.body = &thread;
    m.num_threads = threads_per_block;
    gridDim = dim3(num_blocks);
    blockDim = dim3(threads_per_block);
    m.order = order_of_round();
    std::vector<uint32_t> blocks;
    arrange(blocks, num_blocks);
    for (const uint32_t b : blocks) {
        blockIdx.x = b;
        run_block(b, shared_bytes);
        if (!m.failure.empty()) {
            m.failure = "block " + std::to_string(b) + " of " + std::to_string(num_blocks) + ": " + m.failure +
                        " (CUDA_EMULATION_SEED=" + std::to_string(seed()) + ")";
            break;
        }
    }
    active = nullptr;
    __tsan_acquire(&m.end);
    return std::exchange(m.failure, {});
}

}  // namespace cuda_emulation
