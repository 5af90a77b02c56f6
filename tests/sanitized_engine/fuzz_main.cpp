// A small coverage-guided fuzzer for compilers that bring none (GCC); Clang's libFuzzer takes its place where it is.
// It knows libFuzzer's words that tests/engine_fuzzer.py uses:  engine_fuzz [-runs=N] [-max_total_time=S] [-seed=N]
// [-artifact_prefix=FOLDER/] CORPUS... : files are run once each, folders are read and the first one grows.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;
using Clock = std::chrono::steady_clock;

constexpr unsigned kSecondsPerRun = 60;  // of the processor; ten times as many by the clock, for threads that wait forever
constexpr long kMaxMegabytes = 2048;
constexpr size_t kLongestInput = 4096;

// ---- Coverage: how often each pair of consecutive branches was taken in a run, and which orders of magnitude of that
// any run has seen ----

constexpr size_t kPlaces = 1 << 16;
std::atomic<uint8_t> hits[kPlaces];
uint8_t seen[kPlaces];

/// What of the last run is new; notes it.
int count_new() {
    int found = 0;
    for (size_t i = 0; i < kPlaces; ++i) {
        const uint8_t count = hits[i].exchange(0, std::memory_order_relaxed);
        const uint8_t magnitude = count == 0 ? 0 : count == 1 ? 1 : count < 16 ? 2 : 4;
        found += (seen[i] | magnitude) != seen[i];
        seen[i] |= magnitude;
    }
    return found;
}
int count_seen() { return static_cast<int>(std::count_if(seen, seen + kPlaces, [](uint8_t s) { return s != 0; })); }

// ---- What is left behind when a run fails ----

std::string artifact_prefix;
const Input* current = nullptr;

/// Writes the input of the run that fails, with no more than system calls.
void save_current(const char* kind) {
    if (!current) return;
    uint32_t hash = 2166136261u;
    for (uint8_t byte : *current) hash = (hash ^ byte) * 16777619u;
    char name[4200];
    std::snprintf(name, sizeof(name), "%s%s-%08x", artifact_prefix.c_str(), kind, hash);
    const int file = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    const bool is_written = write(file, current->data(), current->size()) == static_cast<ssize_t>(current->size());
    const char* said[] = {is_written ? "the input is in " : "cannot be written: ", name, "\n"};
    for (const char* part : said)
        if (write(STDERR_FILENO, part, std::strlen(part)) < 0) break;
    close(file);
    current = nullptr;
}
void on_signal(int signal) {
    save_current(signal == SIGABRT ? "crash" : "timeout");
    _exit(70);
}

void set_time_limit(unsigned seconds) {
    const itimerval of_processor{{}, {static_cast<time_t>(seconds), 0}};
    setitimer(ITIMER_PROF, &of_processor, nullptr);
    alarm(10 * seconds);
}

void run(const Input& input) {
    current = &input;
    set_time_limit(kSecondsPerRun);
    LLVMFuzzerTestOneInput(input.data(), input.size());
    set_time_limit(0);
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    if (usage.ru_maxrss / 1024 > kMaxMegabytes) {
        std::fprintf(stderr, "more than %ld MB\n", kMaxMegabytes);
        save_current("memory");
        _exit(70);
    }
    current = nullptr;
}

// ---- Changing inputs ----

void mutate_once(Input& input, const Input& other, fuzz::Random& random) {
    const auto position = [&](const Input& in) { return random.below(in.size() + 1); };
    const auto at = [&](size_t i) { return input.begin() + static_cast<std::ptrdiff_t>(i); };
    const size_t i = position(input), j = position(input);
    switch (random.below(7)) {
        case 0:
            if (i < input.size()) input[i] ^= static_cast<uint8_t>(1 << random.below(8));
            return;
        case 1:
            if (i < input.size()) input[i] = static_cast<uint8_t>(random.bits());
            return;
        case 2:
            if (i < input.size()) input[i] += static_cast<uint8_t>(random.below(9) - 4);
            return;
        case 3:
            for (uint64_t n = 1 + random.below(8); n > 0; --n) input.insert(at(i), static_cast<uint8_t>(random.bits()));
            return;
        case 4:
            input.erase(at(std::min(i, j)), at(std::min(std::max(i, j), std::min(i, j) + 16)));
            return;
        case 5: {  // a piece of another input, over this one's bytes or between them
            const size_t from = position(other), size = std::min(other.size() - from, size_t(1 + random.below(32)));
            const Input piece(other.begin() + from, other.begin() + from + size);
            if (random.below(2)) input.erase(at(i), at(std::min(input.size(), i + size)));
            input.insert(at(i), piece.begin(), piece.end());
            return;
        }
        default:  // the end of another input
            input.resize(i);
            input.insert(input.end(), other.begin() + position(other), other.end());
    }
}

Input mutated(const std::vector<Input>& corpus, fuzz::Random& random) {
    // Half of the time one of the newest: what it has found first is not explored yet.
    const size_t newest = std::min<size_t>(corpus.size(), 20);
    Input input = random.below(2) ? corpus[corpus.size() - 1 - random.below(newest)] : corpus[random.below(corpus.size())];
    for (uint64_t n = 1 + random.below(6); n > 0; --n) mutate_once(input, corpus[random.below(corpus.size())], random);
    if (input.size() > kLongestInput) input.resize(kLongestInput);
    return input;
}

// ---- The program ----

struct Settings {
    long long runs = -1, seconds = 0;
    uint64_t seed = 1;
    std::vector<std::filesystem::path> files, folders;
};

Settings read_command_line(int argc, char** argv) {
    Settings settings;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const auto value = word.substr(std::min(word.size(), word.find('=') + 1));
        if (word.starts_with("-runs=")) settings.runs = std::stoll(value);
        else if (word.starts_with("-max_total_time=")) settings.seconds = std::stoll(value);
        else if (word.starts_with("-seed=")) settings.seed = std::stoull(value);
        else if (word.starts_with("-artifact_prefix=")) artifact_prefix = value;
        else if (word.starts_with("-")) std::fprintf(stderr, "not known here: %s\n", word.c_str());
        else (std::filesystem::is_directory(word) ? settings.folders : settings.files).push_back(word);
    }
    return settings;
}

Input read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        std::fprintf(stderr, "cannot be read: %s\n", path.c_str());
        std::exit(1);
    }
    return Input(std::istreambuf_iterator<char>(file), {});
}

void fuzz_for(const Settings& settings, std::vector<Input>& corpus) {
    fuzz::Random random(settings.seed);
    const auto start = Clock::now();
    const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    long long runs = 0, next_report = 1;
    const auto report = [&](const char* what) {
        std::fprintf(stderr, "#%lld %s cov: %d corp: %zu exec/s: %.0f\n", runs, what, count_seen(), corpus.size(),
                     static_cast<double>(runs) / std::max(seconds(), 1e-3));
    };
    while ((settings.runs < 0 || runs < settings.runs) && (settings.seconds == 0 || seconds() < static_cast<double>(settings.seconds))) {
        const Input input = mutated(corpus, random);
        run(input);
        ++runs;
        if (count_new() > 0) {
            corpus.push_back(input);
            if (!settings.folders.empty()) {
                const auto name = settings.folders[0] / ("new-" + std::to_string(settings.seed) + "-" + std::to_string(runs));
                std::ofstream(name, std::ios::binary).write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
            }
        }
        if (runs == next_report) {
            report("pulse");
            next_report *= 2;
        }
    }
    report("DONE");
}

}  // namespace

/// GCC puts this call at each branch of the engine. Threads may lose a hit of each other's, which a lock would make dear.
extern "C" __attribute__((no_sanitize("address", "undefined", "thread"))) void __sanitizer_cov_trace_pc() {
    thread_local uintptr_t before = 0;
    const auto here = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
    std::atomic<uint8_t>& count = hits[(here ^ before) % kPlaces];
    const uint8_t hit = count.load(std::memory_order_relaxed);
    if (hit < 255) count.store(hit + 1, std::memory_order_relaxed);
    before = here >> 1;
}

int main(int argc, char** argv) {
    const Settings settings = read_command_line(argc, argv);
    for (int signal : {SIGABRT, SIGALRM, SIGPROF}) std::signal(signal, on_signal);
    for (const auto& file : settings.files) run(read_file(file));
    if (settings.runs < 0 && settings.seconds == 0 && settings.folders.empty()) return 0;
    std::vector<Input> corpus;
    for (const auto& folder : settings.folders)
        for (const auto& entry : std::filesystem::directory_iterator(folder)) corpus.push_back(read_file(entry));
    for (const Input& input : corpus) run(input);
    count_new();
    if (corpus.empty()) corpus.emplace_back(16, uint8_t(7));
    fuzz_for(settings, corpus);
}
