// Prints how long each item of the parallel rounds of a training step takes, and what is outside of them, as
// "PART serial US" and "PART round US US ...". Compiled with -include timed_team.h.
#include <algorithm>
#include <limits>

#include "engine_case.h"

namespace {

constexpr double kMicroseconds = 1e6;

struct Least {
    double serial = std::numeric_limits<double>::infinity();
    std::vector<Round> items;
};

double clock_cost() {
    const double start = cpu_seconds();
    for (int i = 0; i < 1000; ++i) cpu_seconds();
    return (cpu_seconds() - start) / 1000;
}

void measure(Arrays& a, void (*part)(Arrays&), double clock, Least& least) {
    Team::rounds.clear();
    const double start = cpu_seconds();
    part(a);
    double serial = cpu_seconds() - start;
    least.items.resize(Team::rounds.size());
    for (size_t r = 0; r < Team::rounds.size(); ++r) {
        const Round& round = Team::rounds[r];
        serial -= round.back() - round.front();
        least.items[r].resize(round.size() - 1, std::numeric_limits<double>::infinity());
        for (size_t i = 0; i + 1 < round.size(); ++i)
            least.items[r][i] = std::min(least.items[r][i], std::max(0.0, round[i + 1] - round[i] - clock));
    }
    least.serial = std::min(least.serial, serial);
}

}  // namespace

int main(int num_arguments, char** arguments) {
    if (num_arguments != 4) return std::fprintf(stderr, "usage: cores SCENE REPEATS CORES\n"), 1;
    const Case scene(arguments[1]);
    Team::num_cores = std::atoi(arguments[3]);
    Arrays a(scene);
    struct Part {
        const char* name;
        void (*run)(Arrays&);
        Least least;
    } parts[] = {{"forward", part_forward, {}}, {"loss", part_loss, {}}, {"backward", part_backward, {}},
                 {"gradients", part_add_gradients, {}}, {"adam", part_adam, {}}};
    const double clock = clock_cost();
    for (int i = 0; i < std::atoi(arguments[2]); ++i)
        for (Part& part : parts) measure(a, part.run, clock, part.least);
    for (const Part& part : parts) {
        std::printf("%s serial %.2f\n", part.name, kMicroseconds * part.least.serial);
        for (const Round& items : part.least.items) {
            std::printf("%s round", part.name);
            for (const double seconds : items) std::printf(" %.2f", kMicroseconds * seconds);
            std::printf("\n");
        }
    }
}
