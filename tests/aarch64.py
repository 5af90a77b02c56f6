"""The CPU engine on aarch64, without such a machine: cross-compiled, and run by qemu beside this machine's own.

    python tests/aarch64.py      # needs Debian's g++-aarch64-linux-gnu and qemu-user

Both render the same Gaussians, forward and backward, and replay the inputs of the engine's fuzzer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SOURCES = HERE.parent / "submodules" / "diff-gaussian-rasterization" / "src"
PROGRAM = HERE / "sanitized_engine"
FLAGS = ["-std=c++20", "-O2", "-w", "-fno-math-errno", "-fno-trapping-math", "-static", "-pthread", f"-I{SOURCES}"]
DRAW = """
#include <cstdio>
#include <random>
#include <vector>

#include "engine.h"
using namespace dgr;
int main() {
    constexpr int n = 400, w = 96, h = 64;
    std::mt19937 bits(1);
    const auto uniform = [&](float low, float high) { return low + (high - low) * float(bits() >> 8) / (1 << 24); };
    std::vector<float> means(3 * n), quats(4 * n), scales(3 * n), opacities(n), dc(3 * n), rest(45 * n);
    for (int i = 0; i < n; ++i) {
        means[3 * i] = uniform(-2, 2), means[3 * i + 1] = uniform(-1.5, 1.5), means[3 * i + 2] = uniform(2, 5);
        for (int k = 0; k < 4; ++k) quats[4 * i + k] = uniform(-1, 1);
        for (int k = 0; k < 3; ++k) scales[3 * i + k] = uniform(0.02, 0.2), dc[3 * i + k] = uniform(-1, 1);
        for (int k = 0; k < 45; ++k) rest[45 * i + k] = uniform(-0.2, 0.2);
        opacities[i] = uniform(0.05, 0.95);
    }
    View<float> view{};
    view.width = w, view.height = h;
    view.camera = {80, 80, w / 2, h / 2, {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, {}, {}, {-0.8f, -0.6f}, {0.8f, 0.6f}};
    const Gaussians<float> gaussians{n, means.data(), quats.data(), scales.data(), nullptr, opacities.data(), dc.data(),
                                     rest.data(), nullptr, 15, {}};
    std::vector<float> image(3 * w * h), left(w * h), v_image(3 * w * h, 1), v_left(w * h, 0);
    std::vector<float> v_means(3 * n), v_quats(4 * n), v_scales(3 * n), v_opacities(n), v_dc(3 * n), v_rest(45 * n);
    const auto frame = forward<float>(gaussians, view, {false, 3, 2}, {image.data(), left.data(), nullptr});
    backward<float>(frame, gaussians, {image.data(), left.data(), nullptr}, {v_image.data(), v_left.data(), nullptr},
                    {v_means.data(), v_quats.data(), v_scales.data(), nullptr, v_opacities.data(), v_dc.data(),
                     v_rest.data(), nullptr, nullptr, nullptr, nullptr});
    for (const auto* values : {&image, &left, &v_means, &v_quats, &v_scales, &v_opacities, &v_dc, &v_rest})
        std::fwrite(values->data(), sizeof(float), values->size(), stdout);
}
"""


def main() -> int:
    """Build and run both; print the largest difference."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draw = Path(folder, "draw.cpp")
        draw.write_text(DRAW)
        engine, outputs = sorted(SOURCES.glob("cpu_*.cpp")), []
        for compiler, runner in (("g++", []), ("aarch64-linux-gnu-g++", ["qemu-aarch64"])):
            objects = []
            for source in engine:
                objects.append(Path(folder, f"{compiler}-{source.stem}.o"))
                subprocess.run([compiler, *FLAGS, "-c", source, "-o", objects[-1]], check=True)
            program = Path(folder, f"draw-{compiler}")
            subprocess.run([compiler, *FLAGS, draw, *objects, "-o", program], check=True)
            done = subprocess.run([*runner, program], check=True, capture_output=True)
            outputs.append(np.frombuffer(done.stdout, np.float32))
        fuzz = Path(folder, "fuzz")
        sources = [PROGRAM / "engine_target.cpp", PROGRAM / "fuzz_main.cpp"]
        subprocess.run([compiler, *FLAGS, *sources, *objects, "-o", fuzz], check=True)
        inputs = sorted((HERE / "fuzz" / "engine").iterdir())
        subprocess.run([*runner, fuzz, *inputs], check=True)
    here, there = outputs
    scale = np.abs(here).max()
    worst = np.abs(here - there).max() / scale
    print(f"{len(here)} values, {np.count_nonzero(here)} not zero: largest difference {worst:.2g} of the largest value")
    print(f"{len(inputs)} inputs of the fuzzer end without an error")
    return int(not (worst < 1e-5 and np.count_nonzero(here) > 1000))


if __name__ == "__main__":
    sys.exit(main())
